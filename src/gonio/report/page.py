"""The page: sections in the order of what a reader asks, tables, and the HTML around them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import quote

import numpy as np

from gonio.particle.table import ParticleTable
from gonio.report.content import Chapter, Errors, Outlier, Report
from gonio.report.figures import identifier
from gonio.report.map_plots import quality_figures
from gonio.report.matrices import matrix_figure
from gonio.report.pictures import class_gallery, iteration_gallery, outlier_gallery, projections, slices, surfaces
from gonio.report.plots import (
    CHANGES,
    QUALITY,
    against,
    class_plots,
    correlations,
    coverage_map,
    decoys,
    directions,
    error_plots,
    expected_agreement,
    finest_of,
    fsc_by_iteration,
    histograms,
    progress,
    shifts,
)
from gonio.report.surface import library, surface
from gonio.report.tilt_plots import tilt_figures
from gonio.report.tomograms import by_tomogram, tomogram_rows
from gonio.report.verdict import Grade, Verdict

WORST_COUNT = 10


def html(report: Report) -> str:
    """Return the report as one HTML page, which needs no other file and no network."""
    sections = {
        "Is it good?": _answer(report),
        "What was decided": _decided(report),
        "In numbers": _good(report),
        "How did it go?": _course(report),
        "Which tilts changed?": _grid(tilt_figures(report.tilts, report.residuals)),
        "What does it look like?": _look(report),
        "Is it biased?": _bias(report),
        "Which tomograms differ?": _by_tomogram(report),
        "Which particles are odd?": _outliers(report),
        **{chapter.title: _chapter(chapter) for chapter in report.chapters},
        "What next?": _next(report.next_steps),
        "Files": _files(report.files),
        "What was done": _facts(report.facts),
    }
    shown = {name: content for name, content in sections.items() if content}
    links = "".join(f"<a href=#{identifier(name)}>{escape(name)}</a>" for name in shown)
    body = "".join(
        f"<section id={identifier(name)}><h2>{escape(name)}</h2>{content}</section>" for name, content in shown.items()
    )
    script = library() if report.maps else ""
    page = PAGE.replace("@TITLE@", escape(report.title)).replace("@LINKS@", links)
    return page.replace("@BODY@", body + script)


def _answer(report: Report) -> str:
    """Return the first screen: the verdict, one resolution, the FSC and the map; and the checks below."""
    figures = []
    if report.curves:
        limit = np.inf if report.resolution is None else report.resolution[0]
        figures.append(correlations(report.curves, report.box_angstrom, resolution_angstrom=limit))
    if report.maps:
        name, volume = next(iter(report.maps.items()))
        figures.append(f"<div class=stack>{projections(name, volume)}{surfaces(name, volume)}</div>")
    shown = f"<div class='plots first'>{''.join(figures)}</div>" if figures else ""
    return _verdict(report.verdict) + _resolution(report) + shown + _checks(report.verdict)


def _verdict(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    remedies = dict.fromkeys(one.remedy for one in verdict.deciding if one.remedy)
    todo = f" <span class=todo>What to do: {escape('; '.join(remedies))}.</span>" if remedies else ""
    word, _, reasons = verdict.sentence.partition(":")
    return (
        f"<p class=verdict data-grade={verdict.grade}><strong>{SIGNS[verdict.grade]} {escape(word)}:</strong>"
        f"{escape(reasons)}{todo}</p>"
    )


def _resolution(report: Report) -> str:
    if report.resolution is None:
        return ""
    angstrom, rule = report.resolution
    value = f"{angstrom:.1f} Å" if np.isfinite(angstrom) else "none"
    if report.curves and angstrom <= finest_of(report.curves, report.box_angstrom):
        value += " or better"
        rule += "; here it is the finest that these voxels hold: smaller ones may show more"
    doubt = ""
    if report.verdict is not None and report.verdict.grade is not Grade.GOOD:
        doubt = f" <em>not to be relied on, as the verdict is: {report.verdict.grade}</em>"
    return f"<p class=resolution><strong>Resolution: {value}</strong>{doubt} <span>({escape(rule)})</span></p>"


def _checks(verdict: Verdict | None) -> str:
    """Return the table of the checks, the deciding ones first."""
    if verdict is None or not verdict.checks:
        return ""
    order = sorted(verdict.checks, key=lambda one: one.grade is not verdict.grade)
    rows = "".join(
        f"<tr><td class=value data-grade={one.grade}>{SIGNS[one.grade]} {one.grade}</td>"
        f"<th scope=row>{escape(one.name)}</th><td>{escape(one.found)}</td><td>{escape(one.rule)}</td>"
        f"<td>{escape(one.remedy)}</td></tr>"
        for one in order
    )
    table = _headed(("result", "check", "found", "rule", "what to do"), rows)
    return f"<h3>Checks</h3><p>The verdict is that of the worst of them.</p>{table}"


# So that grades differ without colour, too.
SIGNS = {Grade.GOOD: "✓", Grade.DOUBTFUL: "?", Grade.WRONG: "✗"}


def _good(report: Report) -> str:
    figures = [] if report.quality is None else quality_figures(report.quality)
    if report.particles is not None:
        figures += histograms(report.particles, QUALITY)
        if report.most_q is not None:
            figures.append(decoys(report.particles, report.most_q))
    if report.errors is not None:
        figures += error_plots(report.particles, report.errors)
    if report.expected is not None and len(report.expected):
        figures.append(expected_agreement(report.expected, report.box_angstrom))
    if report.particles is not None:
        figures += [shifts(report.particles, report.max_shift_angstrom), *histograms(report.particles, CHANGES)]
    return _numbers(report.numbers) + _grid(figures)


def _decided(report: Report) -> str:
    if not report.decisions:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td class=value>{escape(value)}</td><td>{escape(why)}</td></tr>"
        for name, value, why in report.decisions
    )
    return _headed(("what", "chosen", "why"), rows)


def _course(report: Report) -> str:
    if not report.iterations:
        return ""
    curves = fsc_by_iteration(report.iterations, report.box_angstrom)
    return _grid([*progress(report.iterations), *curves, *iteration_gallery(report.iterations)])


def _by_tomogram(report: Report) -> str:
    if report.particles is None:
        return ""
    head, rows = tomogram_rows(report.particles, report.against)
    return _grid(by_tomogram(report.particles)) + (_cells([head, *rows]) if rows else "")


def _next(steps: Sequence[tuple[str, str]]) -> str:
    """Return commands with what they are for, each with a button that copies it."""
    return "".join(
        f"<div class=step><p>{escape(why)}</p><button class=copy type=button>Copy</button>"
        f"<div class=scroll><pre>{escape(command)}</pre></div></div>"
        for command, why in steps
    )


def _files(files: Sequence[str]) -> str:
    items = "".join(f'<li><a href="{quote(name)}">{escape(name)}</a></li>' for name in files)
    return f"<ul class=files>{items}</ul>" if items else ""


def _look(report: Report) -> str:
    figures = [slices(name, volume) for name, volume in report.maps.items()]
    if report.maps:
        name, volume = next(iter(report.maps.items()))
        figures.insert(0, surface(name, volume))
    if report.classes is not None:
        others = list(report.maps.items())[1:]  # the first is on the first screen
        each = [figure for name, volume in others for figure in (projections(name, volume), surfaces(name, volume))]
        figures = [class_gallery(report.classes), *class_plots(report.classes), *each, *figures]
    return _grid(figures) + ("" if report.matrix is None else matrix_figure(report.matrix))


def _bias(report: Report) -> str:
    figures = []
    if report.particles is not None:
        figures += [directions(report.particles), *against(report.particles, report.against)]
    if report.coverage is not None:
        figures.append(coverage_map(report.coverage))
    return _grid(figures)


def _outliers(report: Report) -> str:
    worst = "" if report.particles is None else _worst(report.particles, report.errors)
    return _reasons(report.outliers) + _grid([outlier_gallery(list(report.outliers))]) + worst


def _chapter(chapter: Chapter) -> str:
    reading = f"<p>{escape(chapter.reading)}</p>" if chapter.reading else ""
    tables = "".join(f"<h3>{escape(caption)}</h3>{_cells(rows)}" for caption, rows in chapter.tables.items())
    pictures = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{b64encode(png).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for caption, png in chapter.pictures.items()
    )
    text = f"<div class=scroll><pre>{escape(chapter.text)}</pre></div>" if chapter.text else ""
    return reading + tables + (f"<div class=pictures>{pictures}</div>" if pictures else "") + text


def _cells(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row holds the headings."""
    head, *body = rows
    return _headed(head, "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in body))


def _grid(figures: Sequence[str]) -> str:
    content = "".join(figures)
    return f"<div class=plots>{content}</div>" if content else ""


# Tables


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{rows}</dl>"


def _numbers(numbers: Sequence[tuple[str, str, str]]) -> str:
    if not numbers:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td class=value>{escape(value)}</td><td>{escape(reading)}</td></tr>"
        for name, value, reading in numbers
    )
    return _table(f"<table class=numbers>{rows}</table>")


# Column of the table, heading, format.
WORST_COLUMNS = (
    ("dissimilarity", "dissimilarity", ".3f"),
    ("correlation", "correlation", ".3f"),
    ("overlap", "overlap", ".2f"),
    ("rotation_sd_deg", "sd (°)", ".1f"),
    ("shift_sd_angstrom", "sd (Å)", ".1f"),
    ("runner_up_margin", "margin", ".3g"),
    ("change_of_orientation_deg", "rotated (°)", ".1f"),
    ("change_of_shift_angstrom", "shifted (Å)", ".1f"),
)


def _worst(particles: ParticleTable, errors: Errors | None) -> str:
    if "dissimilarity" not in particles.columns:
        return ""
    order = np.argsort(-particles.columns["dissimilarity"], kind="stable")[:WORST_COUNT]
    shown = [
        (heading, particles.columns[name], form) for name, heading, form in WORST_COLUMNS if name in particles.columns
    ]
    if errors is not None:
        shown += [("error (°)", errors.rotation_deg, ".1f"), ("error (Å)", errors.shift_angstrom, ".1f")]
    status = particles.columns.get("status", np.full(len(particles), ""))
    rows = "".join(
        f"<tr><th scope=row>{escape(particles.names[i])}</th>"
        + "".join(f"<td class=value>{values[i]:{form}}</td>" for _, values, form in shown)
        + f"<td>{escape(str(status[i]))}</td></tr>"
        for i in order
    )
    table = _headed(("particle", *(column[0] for column in shown), "ended"), rows)
    reading = "The particles that fit least well: inspect these first when something seems wrong."
    return f"<h3>Lowest agreement: {len(order)} particles</h3><p>{reading}</p>{table}"


def _reasons(outliers: Sequence[Outlier]) -> str:
    if not outliers:
        return ""
    rows = "".join(f"<tr><th scope=row>{escape(one.name)}</th><td>It {escape(one.why)}.</td></tr>" for one in outliers)
    reading = "Particles that differ from the others by more than four robust standard deviations, or did not finish."
    return f"<p>{reading}</p>{_headed(('particle', 'why'), rows)}"


def _headed(head: Sequence[str], rows: str) -> str:
    """Return a table of rows under headings."""
    headings = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in head)
    return _table(f"<table><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>")


def _table(table: str) -> str:
    """Return a table with scroll bars, and a button that copies it as text with tabs."""
    return f"<div class=table><button class=copy type=button>Copy</button><div class=scroll>{table}</div></div>"


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>@TITLE@</title>
<style>
:root { --ink: #1b1f24; --soft: #5c6670; --paper: #ffffff; --panel: #f5f6f8; --line: #dde1e6;
        --good: #12733f; --doubtful: #9a5b00; --wrong: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --paper: #14171a; --panel: #1d2125; --line: #343a41;
          --good: #5fd08f; --doubtful: #f0b45a; --wrong: #ff8a80; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 84rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; }
h1, th, figcaption, h3 { overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4rem 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .6rem; }
h3 { font-size: .95rem; margin: 0 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; }
dt { color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--soft); white-space: nowrap; }
.value { font-variant-numeric: tabular-nums; white-space: nowrap; }
.numbers td:last-child { color: var(--soft); }
.verdict { margin: 0 0 .8rem; padding: .8rem 1rem; border-radius: .5rem; border-left: .5rem solid var(--grade);
           background: var(--panel); font-size: 1.15rem; overflow-wrap: anywhere; }
.verdict strong { color: var(--grade); font-size: 1.35rem; }
.todo { display: block; font-size: .95rem; color: var(--soft); }
[data-grade=good] { --grade: var(--good); } [data-grade=doubtful] { --grade: var(--doubtful); }
[data-grade=wrong] { --grade: var(--wrong); }
td[data-grade] + th { overflow-wrap: normal; }
td[data-grade] { color: var(--grade); font-weight: 600; }
.resolution { margin: 0 0 .8rem; } .resolution strong { font-size: 1.25rem; }
.resolution span { color: var(--soft); font-size: .85rem; }
.plots.first { grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); margin-bottom: 1.2rem; }
.stack { display: grid; gap: 1rem; align-content: start; }
.files { columns: 16rem; padding-left: 1.2rem; overflow-wrap: anywhere; }
.step p { margin: .6rem 0 0; color: var(--soft); } .step pre { margin: .2rem 0; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .9rem; background: var(--panel); border-radius: .5rem; }
figure svg { display: block; width: 100%; height: auto; }
figure:has(> .scene) { grid-row: span 2; }
.scene { min-height: 20rem; color: var(--soft); }
.level { display: flex; gap: .5rem; align-items: center; font-size: .85rem; color: var(--soft); }
.level input { flex: 1; min-width: 0; }
.pictures { display: grid; gap: 1rem; margin-top: 1rem; max-width: 60rem; }
.pictures img { display: block; max-width: 100%; height: auto; }
pre { font-size: .85rem; line-height: 1.35; }
.wide { margin-top: 1rem; max-width: 60rem; }
.wide svg { min-width: 30rem; }
.wide figure { overflow-x: auto; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; }
a { color: inherit; }
a.data, button.copy { font: inherit; font-size: .8rem; color: var(--soft); }
button.copy { float: right; background: none; border: 1px solid var(--line); border-radius: .3rem; cursor: pointer; }
section { clear: both; }
@media print {
  :root { --ink: #000; --soft: #444; --paper: #fff; --panel: #fff; --line: #ccc;
          --good: #12733f; --doubtful: #9a5b00; --wrong: #b3261e; }
  figure.surface { display: none; }
  nav, button.copy, a.data, .level { display: none; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
figcaption { margin-top: .5rem; font-size: .85rem; color: var(--soft); }
</style>
</head>
<body>
<header><h1>@TITLE@</h1><nav aria-label="sections">@LINKS@</nav></header>
<main>
@BODY@
</main>
<script>
for (const button of document.querySelectorAll('button.copy')) button.addEventListener('click', async () => {
  const rows = [...button.parentElement.querySelectorAll('tr')], command = button.parentElement.querySelector('pre');
  const text = command ? command.textContent
    : rows.map(row => [...row.cells].map(cell => cell.textContent).join('\\t')).join('\\n');
  try { await navigator.clipboard.writeText(text); }
  catch {  // pages from disk may not be allowed to
    const area = Object.assign(document.createElement('textarea'), {value: text});
    document.body.append(area); area.select(); document.execCommand('copy'); area.remove();
  }
  button.textContent = 'Copied'; setTimeout(() => { button.textContent = 'Copy'; }, 1500);
});
</script>
</body>
</html>
"""
