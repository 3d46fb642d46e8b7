"""The report of a run: one HTML page with everything in it, to be read in a browser, on a telephone, or in ten years.

Flow: Report (values) -> plots (inline SVG) and tables -> html. Plots take their ink from the page, so that they follow
its light or dark colours. Matplotlib is imported when a page is made, by its object interface: no state is left behind.
It must not know of files, commands or alignment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.particles import ParticleTable
from gonio.volume import Volume

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Errors", "Report"]

INK = "#010203"  # stands for the page's text colour
BLUE, ORANGE = "#3b7dd8", "#d9822b"  # both readable on white and on near-black
FSC_THRESHOLDS = (0.5, 0.143)
WORST_COUNT = 10
# Scale bars in nm: the largest that is at most a third of the box.
SCALE_BARS_NM = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Errors:
    """How far each of m poses is from the truth: of the rotation in degrees, of the shift in angstrom, shape (m,)."""

    rotation_deg: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]


@dataclass(frozen=True)
class Report:
    """What a page shows; parts that are None or empty are left out.

    Parameters
    ----------
    title
        Of the page.
    facts
        What was done: command, versions, seed, time.
    numbers
        Rows of (name, value, how to read it).
    particles
        With the columns that ``gonio align`` writes: dissimilarity, status, overlap, change_of_orientation_deg,
        change_of_shift_angstrom, rotation_sd_deg, shift_sd_angstrom, runner_up_margin; those that are there are shown.
    errors
        Where the truth is known.
    expected
        What each particle has in common with the reference, as FSC, shell by shell, shape (m, s).
    curves
        Fourier shell correlations by name, each of shape (n // 2 + 1,).
    box_angstrom
        Edge of the box that curves and expectations belong to.
    maps
        Volumes by name, shown as slices.
    """

    title: str
    facts: Mapping[str, str]
    numbers: Sequence[tuple[str, str, str]] = ()
    particles: ParticleTable | None = None
    errors: Errors | None = None
    expected: NDArray[np.float64] | None = None
    curves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    box_angstrom: float = 0.0
    maps: Mapping[str, Volume] = field(default_factory=dict)

    def html(self) -> str:
        """The page, in one piece: no other file and no network is needed to read it."""
        parts = [_facts(self.facts), _numbers(self.numbers), _plots(self)]
        if self.particles is not None:
            parts.append(_worst(self.particles, self.errors))
        body = "\n".join(part for part in parts if part)
        return PAGE.replace("@TITLE@", escape(self.title)).replace("@BODY@", body)


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
    return f"<h2>Numbers</h2><div class=scroll><table class=numbers>{rows}</table></div>"


# Column of the table, heading, format.
WORST_COLUMNS = (
    ("dissimilarity", "dissimilarity", ".3f"),
    ("overlap", "overlap", ".2f"),
    ("rotation_sd_deg", "sd (°)", ".1f"),
    ("shift_sd_angstrom", "sd (Å)", ".1f"),
    ("runner_up_margin", "margin", ".3g"),
    ("change_of_orientation_deg", "turned (°)", ".1f"),
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
    head = "".join(
        f"<th scope=col>{escape(text)}</th>" for text in ("particle", *(column[0] for column in shown), "ended")
    )
    status = particles.columns.get("status", np.full(len(particles), ""))
    rows = "".join(
        f"<tr><th scope=row>{escape(particles.names[i])}</th>"
        + "".join(f"<td class=value>{values[i]:{form}}</td>" for _, values, form in shown)
        + f"<td>{escape(str(status[i]))}</td></tr>"
        for i in order
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    reading = "The particles that fit least well: look at these first when something seems wrong."
    return f"<h2>Lowest agreement: {len(order)} particles</h2><p>{reading}</p><div class=scroll>{table}</div>"


# Plots


def _plots(report: Report) -> str:
    plots = [*_particle_plots(report.particles), *_error_plots(report.errors)]
    if report.particles is not None and report.errors is not None:
        plots += _predictions(report.particles, report.errors)
    if report.expected is not None and len(report.expected):
        plots.append(_expected(report.expected, report.box_angstrom))
    if report.curves:
        plots.append(_fsc(report.curves, report.box_angstrom))
    plots += [_slices(name, volume) for name, volume in report.maps.items()]
    return f"<h2>Plots</h2><div class=plots>{''.join(plots)}</div>" if plots else ""


# Column of the table, label of the axis, how to read it.
HISTOGRAMS = (
    ("dissimilarity", "dissimilarity", "Lower is better; a second hump at high values is what did not align."),
    (
        "rotation_sd_deg",
        "predicted rotation error (degrees)",
        "How far each orientation may be off about any one axis: a standard deviation, from the noise and the detail of"
        " each particle, if its optimum is the right one. As there are three axes, 8 of 10 true angles are 0.8 to 2.5"
        " times as large.",
    ),
    (
        "shift_sd_angstrom",
        "predicted shift error (angstrom)",
        "How far each position may be off along any one axis, likewise.",
    ),
    (
        "runner_up_margin",
        "margin over the next best pose",
        "How much less likely the best pose at another optimum is: only to be compared within one run. Those nearest to"
        " 0 could as well be at the other pose, which runners_up.star holds. Particles with no other are not shown.",
    ),
    (
        "change_of_orientation_deg",
        "change of orientation (degrees)",
        "How far each particle turned from the pose in the input list. After a local search a hump near 0 is good.",
    ),
    (
        "change_of_shift_angstrom",
        "change of shift (angstrom)",
        "How far each particle moved. Values piled up at the right end mean that the largest shift was too small.",
    ),
)


def _particle_plots(particles: ParticleTable | None) -> list[str]:
    if particles is None:
        return []
    plots = [
        _histogram(particles.columns[name], label, caption)
        for name, label, caption in HISTOGRAMS
        if name in particles.columns
    ]
    return [*plots, _directions(particles)]


def _error_plots(errors: Errors | None) -> list[str]:
    if errors is None:
        return []
    text = "Distance from the true {}: most lie near 0; single values far to the right are wrong optima."
    return [
        _histogram(errors.rotation_deg, "rotation error (degrees)", text.format("orientation"), colour=ORANGE),
        _histogram(errors.shift_angstrom, "shift error (angstrom)", text.format("position"), colour=ORANGE),
    ]


# Of each kind: column of what was predicted, name, unit.
PREDICTIONS = (("rotation_sd_deg", "rotation", "degrees"), ("shift_sd_angstrom", "shift", "angstrom"))


def _predictions(particles: ParticleTable, errors: Errors) -> list[str]:
    made = ((name, unit, particles.columns.get(column)) for column, name, unit in PREDICTIONS)
    found = (errors.rotation_deg, errors.shift_angstrom)
    return [
        _prediction(np.asarray(sd), error, name, unit)
        for (name, unit, sd), error in zip(made, found, strict=True)
        if sd is not None
    ]


def _prediction(sd: NDArray, error: NDArray[np.float64], name: str, unit: str) -> str:
    """True errors against predicted ones, of all three axes together."""
    predicted = np.sqrt(3.0) * np.asarray(sd, dtype=np.float64)
    shown = np.isfinite(predicted) & np.isfinite(error) & (predicted > 0) & (error > 0)
    figure, axes = _axes()
    axes.set_xlabel(f"predicted {name} error ({unit})")
    axes.set_ylabel(f"true {name} error ({unit})")
    if shown.any():
        x, y = predicted[shown], error[shown]
        low, high = 0.7 * min(x.min(), y.min()), 1.4 * max(x.max(), y.max())
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--")
        size = float(np.clip(600 / len(x), 1.0, 16.0))
        axes.scatter(x, y, s=size, color=ORANGE, alpha=0.7, linewidths=0)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    caption = (
        f"Each particle's {name} error against the one predicted for it (root mean square, three axes together). About"
        " the dashed line, a little more below, the predictions are right; all above, they are too small. Single points"
        " far above are wrong optima, which no prediction knows of: look at their margins."
    )
    return _figure(figure, f"{name} errors against predictions", caption)


def _expected(correlation: NDArray[np.float64], box_angstrom: float) -> str:
    figure, axes = _axes()
    frequency = np.arange(1, correlation.shape[1]) / box_angstrom
    low, middle, high = np.percentile(correlation[:, 1:], [10, 50, 90], axis=0)
    axes.fill_between(frequency, low, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(frequency, middle, color=BLUE, linewidth=1.8)
    axes.set_xlabel("spatial frequency (1/angstrom)")
    axes.set_ylabel("Fourier shell correlation")
    axes.set_ylim(0.0, 1.05)
    caption = (
        "What a particle has in common with the reference at its pose, at each level of detail up to the resolution"
        " that was compared: median, and the middle 80 % of particles as a band. Detail near 0 helps no alignment; a"
        f" curve still high at its right end, {1.0 / frequency[-1]:.3g} angstrom, invites a finer resolution."
    )
    return _figure(figure, "expected agreement of a particle", caption)


def _histogram(values: NDArray, label: str, caption: str, *, colour: str = BLUE) -> str:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    figure, axes = _axes()
    axes.set_xlabel(label)
    axes.set_ylabel("particles")
    axes.locator_params(axis="y", integer=True)
    if len(finite):
        bins = int(np.clip(2 * np.sqrt(len(finite)), 5, 60))
        low, high = finite.min(), finite.max()
        # Nothing measurable lies below a relative 1e-6: such values share a bin.
        width = max(high - low, 1e-6 * max(abs(low), abs(high), 1.0))
        axes.hist(finite, bins=bins, range=(low, low + width), color=colour)
        axes.axvline(float(np.median(finite)), color=INK, linewidth=1, linestyle="--")
        caption = f"{caption} Dashed: median, {np.median(finite):.3g}."
    return _figure(figure, label, caption)


def _directions(particles: ParticleTable) -> str:
    """Where the beam came from, in the reference's frame: R^T z, in an equal-area projection."""
    from matplotlib.figure import Figure

    matrices = particles.poses.matrix
    beam = matrices[:, 2, :]  # rows z of R: (m, 3)
    longitude, latitude = np.arctan2(beam[:, 1], beam[:, 0]), np.arcsin(np.clip(beam[:, 2], -1.0, 1.0))
    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    size = float(np.clip(600 / len(beam), 1.0, 16.0))
    axes.scatter(longitude, latitude, s=size, color=BLUE, alpha=0.7, linewidths=0)
    axes.set_xticks(np.radians([-120, -60, 0, 60, 120]))
    axes.set_yticks(np.radians([-60, -30, 0, 30, 60]))
    axes.grid(color=INK, alpha=0.2, linewidth=0.5)
    axes.set_xlabel("longitude (degrees), latitude upwards")
    caption = (
        "From where the beam at zero tilt saw each particle, in the reference's frame, on an equal-area map: an even"
        " cover is good, an empty region is a view that the average lacks."
    )
    return _figure(figure, "angular distribution", caption)


def _fsc(curves: Mapping[str, NDArray[np.float64]], box_angstrom: float) -> str:
    figure, axes = _axes()
    for (name, curve), colour in zip(curves.items(), (BLUE, ORANGE, INK), strict=False):
        axes.plot(np.arange(len(curve)) / box_angstrom, curve, color=colour, label=name, linewidth=1.8)
    for threshold in FSC_THRESHOLDS:
        axes.axhline(threshold, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(f"{threshold:g}", (1.0, threshold), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_xlabel("spatial frequency (1/angstrom)")
    axes.set_ylabel("Fourier shell correlation")
    axes.set_ylim(min(-0.1, *(float(curve.min()) for curve in curves.values())), 1.05)
    axes.legend(frameon=False, loc="lower left")
    caption = (
        "How well two maps agree at each level of detail, finer to the right. Where the half maps fall through 0.143"
        " (and a map against a known one through 0.5) is the resolution; the reciprocal of the axis is in angstrom."
    )
    return _figure(figure, "Fourier shell correlation", caption)


def _slices(name: str, volume: Volume) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 1.62), layout="constrained")
    middle = volume.box // 2
    planes = {"x, y": volume.data[middle], "x, z": volume.data[:, middle], "y, z": volume.data[:, :, middle]}
    # One grey scale for all three; the outermost thousandth is clipped.
    low, high = np.percentile(volume.data, [0.1, 99.9])
    nm = volume.box_angstrom / 10.0
    bar = max((length for length in SCALE_BARS_NM if length <= nm / 3), default=SCALE_BARS_NM[0])
    for position, (axis_names, plane) in enumerate(planes.items(), start=1):
        axes = figure.add_subplot(1, 3, position)
        extent = (-nm / 2, nm / 2, -nm / 2, nm / 2)
        axes.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="nearest")
        axes.plot([-0.45 * nm, -0.45 * nm + bar], [-0.44 * nm] * 2, color="white", linewidth=2.5)
        axes.set_xticks([])
        axes.set_yticks([])
        across, up = axis_names.split(", ")
        axes.set_xlabel(f"{across} →")
        axes.set_ylabel(f"{up} →", labelpad=0)
    caption = f"The three central slices, density bright; the bar is {bar:g} nm, the box {nm:.3g} nm."
    return _figure(figure, name, caption)


def _axes() -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(figure: Figure, name: str, caption: str) -> str:
    label = escape(name[:1].upper() + name[1:])
    return f"<figure><h3>{label}</h3>{_svg(figure, name)}<figcaption>{escape(caption)}</figcaption></figure>"


def _svg(figure: Figure, name: str) -> str:
    """The figure as SVG for a page: its ink the page's, its ids its own among several figures."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.tick_params(colors=INK, labelsize=8)
        axes.spines[:].set_color(INK)
    for text in figure.findobj(Text):
        text.set(color=INK, fontsize=min(text.get_fontsize(), 9))
    prefix = re.sub(r"\W+", "-", name)
    file = StringIO()
    with rc_context({"svg.hashsalt": "gonio"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>@TITLE@</title>
<style>
:root { --ink: #1b1f24; --soft: #5c6670; --paper: #ffffff; --card: #f5f6f8; --line: #dde1e6; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #9aa5b1; --paper: #14171a; --card: #1d2125; --line: #343a41; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 84rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; }
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
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
figure { margin: 0; padding: .9rem; background: var(--card); border-radius: .5rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { margin-top: .5rem; font-size: .85rem; color: var(--soft); }
</style>
</head>
<body>
<h1>@TITLE@</h1>
@BODY@
</body>
</html>
"""
