"""Align a list of particles to a map: ``gonio align``."""

from __future__ import annotations

import shlex
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.jobs.average import agreement_of
from gonio.jobs.checking import doubts_of, warn_of
from gonio.jobs.curves import resolutions
from gonio.jobs.files import write_list, write_particle_scene, write_summary, write_text
from gonio.jobs.fitting import Fitting
from gonio.jobs.options import (
    DecoyOptions,
    File,
    ListOptions,
    LocalOptions,
    ReferenceOptions,
    SearchOptions,
    files_of,
)
from gonio.jobs.pages import (
    average_for_display,
    defocus_of,
    facts_of,
    files_in,
    for_display,
    outliers_of,
    shared_decisions,
    with_notes,
)
from gonio.jobs.running import RunOptions, running
from gonio.jobs.verdicts import competing_of_columns, verdict_of_alignment
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.alignment.aligner import Aligner
    from gonio.alignment.result import Result
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Errors, Report, Verdict
    from gonio.run.executor import Executor
    from gonio.settings import Settings
    from gonio.workflows.inspection import InputWarning


# Rule for the one resolution of the page.
RULE = (
    "where the Fourier shell correlation of two halves first falls below 0.143; both were aligned to one map, so noise"
    " may agree: gonio refine states one that can be relied on"
)
WRONG_DEG = 15.0  # errors beyond this are another optimum
# Columns of the scores of reference and best decoy, and of the q-value.
TARGET, DECOY, Q = "log_likelihood", "decoy_log_likelihood", "q_value"
NO_RUNNERS_UP = "No particle has an optimum beside that in particles.star."

# Name, value, format with unit, and how to read it.
Number = tuple[str, float, str, str]


@dataclass(frozen=True)
class Aligned:
    """An aligned list, its results, and how they were found.

    ``results`` are those of its particles, one for each; ``settings`` those of the aligner with every default spelt
    out, as far as all particles have one box, whose edge is ``box_angstrom``; ``errors`` are there where the truth is
    known; ``alike`` states whether the decoys were too like the reference; ``verdict`` is that of the page, None where
    nothing was checked.
    """

    table: ParticleTable
    results: Sequence[Result]
    seconds: float
    settings: Settings
    box_angstrom: float | None
    errors: Errors | None = None
    decoys: DecoyOptions = field(default_factory=DecoyOptions)
    alike: bool = False
    verdict: Verdict | None = None

    @property
    def kept(self) -> ParticleTable | None:
        """Particles with a q-value up to the largest that was asked for; None where there are no decoys."""
        if not self.decoys.decoys:
            return None
        return self.table[np.asarray(self.table.columns[Q], dtype=np.float64) <= self.decoys.most_q]

    @property
    def searches_everywhere(self) -> bool:
        """Whether the search was over all orientations, and shifts up to a limit."""
        from gonio.settings import GlobalSearch

        return isinstance(self.settings.search, GlobalSearch)

    @property
    def numbers(self) -> list[Number]:
        """Numbers of the summary, in order of interest: name, value, format with unit, how to read it."""
        columns, count = self.table.columns, len(self.table)
        ended = float(np.isin(columns["status"], ["converged", "stalled"]).mean())
        return [
            ("particles", count, "{:.0f}", "aligned"),
            *_numbers_of_decoys(self),
            *_numbers_of_errors(self),
            *numbers_of_fit(columns),
            *_numbers_of_certainty(columns),
            *_numbers_of_changes(columns),
            ("converged", 100 * ended, "{:.0f} %", "no step improves them further"),
            ("time", self.seconds, "{:.1f} s", f"{count / max(self.seconds, 1e-9):.1f} particles per second"),
        ]

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Numbers as text: name, value with unit, how to read it."""
        return [(name, form.format(value), reading) for name, value, form, reading in self.numbers]

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs: without units in their values, units in their names."""
        numbers = {
            _identifier(name, form): round(value) if form == "{:.0f}" else float(f"{value:.6g}")
            for name, value, form, _ in self.numbers
        }
        names, counts = np.unique(self.table.columns["status"], return_counts=True)
        judged = {} if (found := self.verdict) is None else {"verdict": found.grade, "verdict_why": found.sentence}
        return {**numbers, **judged, "status": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def align(
    particles: ListOptions,
    *,
    reference: File,
    output: File,
    local: LocalOptions | None = None,
    search: SearchOptions = SearchOptions(),
    known: ReferenceOptions = ReferenceOptions(),
    learn: bool = False,
    decoys: DecoyOptions = DecoyOptions(),
    run: RunOptions = RunOptions(),
    seed: int = 0,
    truth: File | None = None,
) -> Aligned:
    """Align a list of particles to a reference map, and write what ``gonio align`` writes.

    Parameters
    ----------
    reference
        The map that they show.
    output
        The folder to make: particles.star, runners_up.star, report.html, particles.cxc, summary.json, settings.toml,
        and with decoys kept.star. They appear together when all is done.
    local
        Refine the poses in the list; None to search over all orientations.
    learn
        Align the first 50 particles twice, to learn what all have in common with the reference.
    decoys
        Decoys, to estimate which particles are real.
    truth
        A list of the same particles with true poses, from which errors are computed.
    """
    from gonio.report import html

    search.check(local)
    decoys.check()
    table, true_table = particles.read(), None if truth is None else replace(particles, path=truth).read()
    to_particles = Fitting.to_particles(table)
    reference_map = to_particles.fit(particles.read_map(reference), "the reference", box=False)
    settings = search.settings(voxel_size_angstrom=reference_map.voxel_size_angstrom, local=local)
    if learn and not settings.restores:
        raise ArgumentError("{} is for restored inputs: plain ones have no expected FSC", "learn")
    resources = run.resources(settings)
    to_reference = Fitting(reference_map.voxel_size_angstrom, reference_map.box)
    facts = known.read(lambda path: to_reference.fit(particles.read_map(path), str(path)), reference_map, settings)
    doubts = doubts_of(table, reference_map, settings, mask=facts.mask, local=local is not None)
    warned = warn_of([*to_particles.warnings, *to_reference.warnings, *doubts])
    aligner = facts.aligner(reference_map, settings)
    asked = {
        "reference": reference,
        "mask": known.mask,
        "half_maps": known.half_maps,
        "voxel_size_angstrom": reference_map.voxel_size_angstrom,
        "truth": truth,
        "device": resources.kind,
        "learn": learn,
        "decoys": decoys.record,
        "list": particles.record(table),
        "alignment": asdict(settings),
    }
    files = [*files_of(table, reference, *known.files), *files_of(true_table)]
    with running(output, resources, settings=asked, seed=seed, inputs=files) as work:
        aligned = align_list(table, aligner, executor=work.executor, seed=seed, learn=learn)
        if decoys.decoys:
            scored, alike = _with_decoys(aligned.table, aligner, decoys, executor=work.executor, seed=seed)
            aligned = replace(aligned, table=scored, decoys=decoys, alike=alike)
        if true_table is not None:
            aligned = replace(aligned, errors=errors_of(aligned, true_table))
        aligned = judged(aligned, aligner, warned, executor=work.executor, seed=seed)
        with work.results(alignment=asdict(aligned.settings)) as folder:
            _write_lists(folder, aligned, reference_map)
            write_summary(folder, aligned.summary)
            report = report_of(aligned, title=f"Alignment of {particles.name}", seed=seed)
            report = _with_looks(with_notes(report, table, warned), aligned, reference_map, work.executor)
            report = replace(report, files=files_in(folder), next_steps=_next_steps(aligned, output))
            write_text(folder / "report.html", html(report))
    return aligned


def judged(
    aligned: Aligned, aligner: Aligner, warned: Sequence[InputWarning], *, executor: Executor, seed: int
) -> Aligned:
    """Return an alignment with its verdict, by its decoys or else by those of a sample."""
    decoys = aligned.decoys.decoys
    competing = competing_of_columns(aligned.table, decoys, alike=aligned.alike) if decoys else None
    verdict = verdict_of_alignment(
        aligned.table,
        aligner,
        aligned.results,
        aligned.settings,
        warned=warned,
        executor=executor,
        seed=seed,
        competing=competing,
    )
    return replace(aligned, verdict=verdict)


def _write_lists(folder: Path, aligned: Aligned, reference: Volume) -> None:
    """Write the list, its runners-up, the particles that are kept, and the scene of all."""
    from gonio.alignment.columns import runners_up, writable
    from gonio.io.lists import write_back

    write_back(folder, "particles", writable(aligned.table))
    write_list(folder / "runners_up.star", runners_up(aligned.table, aligned.results), otherwise=NO_RUNNERS_UP)
    if aligned.kept is not None and len(aligned.kept):
        write_back(folder, "kept", writable(aligned.kept))
    elif aligned.decoys.decoys:
        none_kept = f"No particle has a q-value up to {aligned.decoys.most_q:g}."
        write_list(folder / "kept.star", None, otherwise=none_kept)
    box, size = aligned.box_angstrom or reference.box_angstrom, reference.voxel_size_angstrom
    write_particle_scene(folder, aligned.table, box_angstrom=box, voxel_size_angstrom=size)


def align_list(
    table: ParticleTable, aligner: Aligner, *, executor: Executor, seed: int, learn: bool = False
) -> Aligned:
    """Align every particle; poses in the table are where a local search starts."""
    from gonio.alignment import particle_list
    from gonio.alignment.columns import with_results

    start = time.monotonic()
    expected_fsc = particle_list.learn(table, aligner, executor=executor, seed=seed) if learn else None
    rows = list(executor("align", particle_list.AlignRow(table, aligner, seed, expected_fsc), len(table)))
    results, boxes = [row.result for row in rows], {row.box for row in rows}
    before = np.array([row.before for row in rows])
    aligned = with_results(table, results, aligner.settings, before=before)
    size, box = aligner.reference.voxel_size_angstrom, next(iter(boxes)) if len(boxes) == 1 else None
    settings = aligner.settings if box is None else _spelt_out(aligner.settings, box, size)
    return Aligned(aligned, results, time.monotonic() - start, settings, None if box is None else box * size)


def _spelt_out(settings: Settings, box: int, voxel_size_angstrom: float) -> Settings:
    from gonio.settings import Inputs

    resolved = settings.resolved(box=box, voxel_size_angstrom=voxel_size_angstrom)
    return replace(resolved, inputs=Inputs.RESTORED if settings.restores else Inputs.PLAIN)


def errors_of(aligned: Aligned, truth: ParticleTable) -> Errors:
    """Return how far the poses are from those of the particles of the same names in another list."""
    from gonio.alignment.columns import rotation_change_deg
    from gonio.report import Errors

    table, rows = aligned.table, {name: row for row, name in enumerate(truth.names)}
    lost = next((name for name in table.names if name not in rows), None)
    if lost is not None:
        raise ArgumentError(
            "{} does not list particle {lost!r}: give the list of the same particles", "truth", lost=lost
        )
    true = truth.poses[np.array([rows[name] for name in table.names])]
    return Errors(
        rotation_change_deg(aligned.settings, table.poses, true),
        np.asarray(table.poses.shift_distance_angstrom(true)),
    )


def _with_decoys(
    table: ParticleTable, aligner: Aligner, options: DecoyOptions, *, executor: Executor, seed: int
) -> tuple[ParticleTable, bool]:
    """Return an aligned list with the scores and q-values from decoys, and whether these are too like the reference."""
    from gonio.alignment.decoys import Decoys, compete

    decoys = Decoys.of(aligner, options.decoys, rng=np.random.default_rng(seed))
    if "mirror" not in decoys.kinds:
        warnings.warn(
            f"the reference is like its mirror image ({100 * decoys.likeness:.0f} % of its detail), which is no decoy"
            " then: all decoys have its shape and other detail",
            stacklevel=3,
        )
    if decoys.alike:
        warnings.warn(
            f"the decoys show {100 * decoys.shared:.0f} % of the reference's detail, so that false particles may fit it"
            " better than them and q-values are too low: compare finer detail (--resolution), as far as the map has it",
            stacklevel=3,
        )
    least = 1.0 / (len(table) * options.decoys)
    if least > options.most_q:
        warnings.warn(
            f"no q-value of {len(table)} particles and {options.decoys} decoys can be below {least:.2g}: give more"
            " decoys, or a larger --max-q",
            stacklevel=3,
        )
    found = compete(table, aligner, decoys, table.poses, executor=executor, seed=seed)
    return table.with_poses(table.poses, **{TARGET: found.target, DECOY: found.best_decoy, Q: found.q}), decoys.alike


def numbers_of_fit(columns: Mapping[str, NDArray]) -> list[Number]:
    """Return the medians of dissimilarity and correlation, each with its scale, where it has one."""
    dissimilarity = float(np.median(columns["dissimilarity"]))
    if "correlation" not in columns:
        return [("dissimilarity, median", dissimilarity, "{:.4f}", "lower is better; its scale is that of the score")]
    reading = "1 - dissimilarity / 2: 1 the same, 0 unrelated"
    return [
        ("dissimilarity, median", dissimilarity, "{:.4f}", "lower is better: 0 the same, 2 unrelated"),
        ("correlation, median", float(np.median(columns["correlation"])), "{:.4f}", reading),
    ]


def _numbers_of_decoys(aligned: Aligned) -> list[Number]:
    table, options, kept = aligned.table, aligned.decoys, aligned.kept
    if kept is None:
        return []
    from gonio.io.lists import file_name

    lost = float(np.mean(table.columns[TARGET] <= table.columns[DECOY]))
    false = min(1.0, lost * (1.0 + 1.0 / options.decoys))
    fraction = f"of which at most {100 * options.most_q:g} % should be false: {file_name(table, 'kept')} lists them"
    return [
        ("kept", float(len(kept)), "{:.0f}", f"particles, {fraction}"),
        ("false, at most about", 100 * false, "{:.0f} %", "of all, by those that fit a decoy better"),
    ]


def _numbers_of_errors(aligned: Aligned) -> list[Number]:
    if aligned.errors is None:
        return []
    rotation, shift = aligned.errors.rotation_deg, aligned.errors.shift_angstrom
    right = rotation <= WRONG_DEG
    numbers: list[Number] = [
        ("rotation error, median", np.median(rotation), "{:.2f} degrees", "against the true orientation"),
        ("shift error, median", np.median(shift), "{:.2f} angstrom", "against the true position"),
        ("wrong by over 15 degrees", float((~right).sum()), "{:.0f}", "particles at another optimum"),
    ]
    if not right.any():
        return numbers
    reading = "root mean square without the wrong; 1 is as predicted, more is worse"
    for name, error, sd in (("rotation", rotation, "rotation_sd_deg"), ("shift", shift, "shift_sd_angstrom")):
        # A standard deviation is of one axis, an error of three.
        ratio = error[right] / (np.sqrt(3.0) * np.asarray(aligned.table.columns[sd])[right])
        numbers.append((f"{name} error over predicted", float(np.sqrt(np.mean(ratio**2))), "{:.2f}", reading))
    return numbers


def _numbers_of_certainty(columns: Mapping[str, NDArray]) -> list[Number]:
    rotation, shift = np.median(columns["rotation_sd_deg"]), np.median(columns["shift_sd_angstrom"])
    numbers: list[Number] = [
        ("rotation sd, median", rotation, "{:.2f} degrees", "predicted, about any one axis"),
        ("shift sd, median", shift, "{:.2f} angstrom", "predicted, along any one axis"),
    ]
    if "runner_up_margin" in columns:
        reading = "over the next best pose; a particle near 0 could as well be there"
        margins = columns["runner_up_margin"]
        numbers.append(("margin, median", float(np.median(margins[np.isfinite(margins)])), "{:.3g}", reading))
    return numbers


def _numbers_of_changes(columns: Mapping[str, NDArray]) -> list[Number]:
    numbers: list[Number] = []
    if "dissimilarity_before" in columns:
        better = columns["dissimilarity"] < columns["dissimilarity_before"]
        numbers += [
            ("before, median", np.median(columns["dissimilarity_before"]), "{:.4f}", "at the input poses"),
            ("improved", float(better.sum()), "{:.0f}", "particles that fit better than at the input poses"),
        ]
    if "change_of_orientation_deg" in columns:
        turned, shifted = columns["change_of_orientation_deg"], columns["change_of_shift_angstrom"]
        numbers += [
            ("change of orientation, median", np.median(turned), "{:.2f} degrees", "from the poses in the list"),
            ("change of shift, median", np.median(shifted), "{:.2f} angstrom", "from the poses in the list"),
        ]
    return numbers


def _identifier(name: str, form: str) -> str:
    unit: Mapping[str, str] = {"degrees": "_deg", "angstrom": "_angstrom", "s": "_s", "%": "_percent"}
    words = name.replace(",", "").replace(" ", "_")
    return words + unit.get(form.rpartition(" ")[2], "")


def report_of(aligned: Aligned, *, title: str, seed: int) -> Report:
    """Return the page about an alignment, to which the caller may add."""
    from gonio.report import Report

    return Report(
        title,
        facts_of(seed),
        aligned.rows,
        aligned.table,
        aligned.errors,
        expected=_expected(aligned),
        box_angstrom=aligned.box_angstrom or 0.0,
        most_q=aligned.decoys.most_q if aligned.decoys.decoys else None,
        verdict=aligned.verdict,
        decisions=_decisions(aligned),
        max_shift_angstrom=aligned.settings.max_shift_angstrom if aligned.searches_everywhere else None,
    )


def _next_steps(aligned: Aligned, output: File) -> list[tuple[str, str]]:
    """Return commands to go on with: as they are typed, and what for."""
    from gonio.io.lists import file_name

    listed = shlex.quote(str(Path(output) / file_name(aligned.table, "particles")))
    return [
        (f"gonio average {listed} --split -o average.mrc", "the map of all particles, with half maps"),
        (
            f"gonio refine {listed} --local --split -o refined",
            "poses and map together, halves apart: a resolution to quote",
        ),
        (f"gonio classify {listed} --local --classes 2 -o classes", "are there particles of another kind among them?"),
    ]


def _decisions(aligned: Aligned) -> list[tuple[str, str, str]]:
    """Return what was compared and searched, and why: name, value, reason."""
    settings = aligned.settings
    finest, shift = settings.resolution_angstrom, settings.max_shift_angstrom
    rows = []
    if finest is not None:
        rows.append(("finest detail compared", f"{finest:.3g} angstrom", "--resolution, or else four voxels"))
    if shift is not None and aligned.searches_everywhere:
        rows.append(("largest shift", f"{shift:.3g} angstrom", "--max-shift, or else a quarter of the box"))
    return [*rows, *shared_decisions(settings)]


def _with_looks(report: Report, aligned: Aligned, reference: Volume, executor: Executor) -> Report:
    """Return the page with what is read from the particles again: their average, outliers, defocus."""
    table = aligned.table
    report = replace(report, outliers=outliers_of(table), against=defocus_of(table), maps={"reference": reference})
    if aligned.box_angstrom is None:
        return report  # particles of several boxes have no average
    made = average_for_display(table, symmetry=aligned.settings.symmetry, executor=executor)
    agreement = agreement_of(made)
    fsc = None if agreement is None else agreement.fsc
    name = "average" if made.count == len(table) else f"average of {made.count} of the particles"
    maps = {name: made.volume}
    for number, half in enumerate(made.halves or (), start=1):
        maps[f"half {number} of it"] = half
    found = [] if fsc is None else resolutions(fsc)
    reading = "both halves were aligned to one reference, so this is no gold standard: noise may agree"
    return replace(
        report,
        numbers=[*report.numbers, *((which, value, reading) for which, value, _ in found)],
        curves={} if fsc is None else {f"halves, {k}": v for k, v in fsc.curves.items()},
        maps={**for_display(maps, np.inf if fsc is None else fsc.resolution_angstrom()), **report.maps},
        coverage=made.coverage,
        resolution=None if fsc is None else (fsc.resolution_angstrom(), RULE),
    )


def _expected(aligned: Aligned) -> NDArray[np.float64] | None:
    """Return the expected FSC of each particle with the reference, shell by shell, shape (m, s)."""
    known = [result.expected_fsc for result in aligned.results]
    if aligned.box_angstrom is None:
        return None
    return np.array([e.correlation for e in known if e is not None]) if all(e is not None for e in known) else None
