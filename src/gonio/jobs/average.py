"""Average a list of particles at their poses, and its half sets: ``gonio average``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.checking import warn_of
from gonio.jobs.curves import coverage_rows, coverage_summary, falls_at, fsc_csv, resolutions
from gonio.jobs.files import beside, check_map, write_settings, write_text
from gonio.jobs.fitting import Fitting
from gonio.jobs.map_quality import WRITTEN, Postprocessed, postprocessed, write_postprocessed
from gonio.jobs.options import File, ListOptions, files_of
from gonio.jobs.running import thread_count
from gonio.jobs.splitting import check_half_sets, with_half_sets
from gonio.jobs.verdicts import verdict_of_average
from gonio.particle.arguments import ArgumentError
from gonio.run.executor import Checkpointed, Executor, Local, Progress, silent

if TYPE_CHECKING:
    from gonio.averaging.averages import Average
    from gonio.averaging.resolution import HalfMapFsc
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Verdict
    from gonio.workflows.inspection import InputWarning

HALF_ENDINGS = ("_half1.mrc", "_half2.mrc", "_fsc.csv")
MASK_ENDING, COVERAGE_ENDING, SCRIPT_ENDING, SETTINGS_ENDING = "_mask.mrc", "_coverage.mrc", ".cxc", ".settings.toml"
PAGE_ENDING = "_report.html"
FILE_ENDINGS = (COVERAGE_ENDING, SCRIPT_ENDING, SETTINGS_ENDING)
# Rule for the one resolution of the page.
RULE = (
    "where the Fourier shell correlation of the two half sets, corrected for the mask, first falls below 0.143; it can"
    " be relied on if their poses were refined apart, which no list states"
)


@dataclass(frozen=True)
class Averaged:
    """An average, the agreement of its halves (None without half sets), the sense of its tilts, and its verdict.

    ``quality`` is what the halves say of the map, sharpened; None without half sets.
    """

    average: Average
    agreement: Agreement | None
    tilt_sense: str
    verdict: Verdict
    quality: Postprocessed | None = None

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Agreement of the halves and coverage: name, value, how to read it."""
        agreement = [] if self.agreement is None else resolutions(self.agreement.fsc)
        quality = [] if self.quality is None else self.quality.rows
        return [*agreement, *quality, *coverage_rows(self.average.evenness)]

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs."""
        made = self.average
        summary: dict[str, object] = {
            "particles": made.count,
            "box": made.volume.box,
            "voxel_size_angstrom": made.volume.voxel_size_angstrom,
            "verdict": self.verdict.grade,
            "verdict_why": self.verdict.sentence,
            "coverage": coverage_summary(made.evenness),
        }
        if self.agreement is not None:
            summary["fsc_falls_at_angstrom"] = falls_at(self.agreement.fsc)
        return summary if self.quality is None else {**summary, **self.quality.summary}


def average(
    particles: ListOptions,
    *,
    output: File,
    halves: bool = True,
    split: bool = False,
    overlap_distance_angstrom: float | None = None,
    symmetry: str = "C1",
    mask: File | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Averaged:
    """Average particles at the poses in their list, and write what ``gonio average`` writes.

    Parameters
    ----------
    output
        The map to make; beside it lie its coverage, half maps, mask, FSC, settings and a script for ChimeraX.
    halves
        Average the half sets of the list too.
    split, overlap_distance_angstrom
        Make new half sets; particles nearer than this along every axis are kept in one, the box's edge unless given.
    symmetry
        Point group that is imposed on the average.
    mask
        Mask for the FSC; None for one made from the average.
    """
    from gonio.workflows.checks import warnings_of_list

    made_of_halves = (*HALF_ENDINGS, *(f"_{name}" for name in WRITTEN), *(() if mask else (MASK_ENDING,)))
    beside_it = (SETTINGS_ENDING, COVERAGE_ENDING, SCRIPT_ENDING, PAGE_ENDING)
    endings = made_of_halves if halves else ()
    target = check_map(output, *beside_it, *endings, overwrite=overwrite)
    _check(halves=halves, split=split, overlap_distance_angstrom=overlap_distance_angstrom, mask=mask)
    table = particles.read()
    if split:
        table = with_half_sets(table, split=True, overlap_distance_angstrom=overlap_distance_angstrom, seed=0)
    fitting = Fitting.to_particles(table)
    given = None if mask is None else fitting.fit(particles.read_map(mask), "the mask")
    warned = warn_of([*fitting.warnings, *warnings_of_list(table, mask=given, poses_for="an average")])
    executor = Checkpointed(Local(thread_count(threads)), progress=progress)
    made = average_list(table, halves=halves, symmetry=symmetry, executor=executor)
    agreement = agreement_of(made, given)
    verdict = verdict_of_average(
        table, made, None if agreement is None else agreement.fsc, warned, listed_halves=not split, symmetry=symmetry
    )
    averaged = Averaged(made, agreement, table.tilt_sense, verdict, _quality_of(made, agreement, given))
    target.parent.mkdir(parents=True, exist_ok=True)
    write_average(target, made, agreement)
    if averaged.quality is not None:
        write_postprocessed(averaged.quality, lambda name: beside(target, f"_{name}"))
    settings = {
        "halves": halves,
        "split": split,
        "overlap_distance_angstrom": overlap_distance_angstrom,
        "symmetry": symmetry,
        "mask": mask,
        "voxel_size_angstrom": made.volume.voxel_size_angstrom,
        "list": particles.record(table),
    }
    write_settings(beside(target, SETTINGS_ENDING), settings, inputs=files_of(table, mask))
    _write_page(target, averaged, replace(table, source=None), with_notes_of=(table, warned), endings=endings)
    return averaged


def _write_page(
    target: Path,
    averaged: Averaged,
    table: ParticleTable,
    *,
    with_notes_of: tuple[ParticleTable, Sequence[InputWarning]],
    endings: Sequence[str],
) -> None:
    """Write the page about an average, with links to the files beside it."""
    from gonio.jobs.pages import facts_of, for_display, with_notes
    from gonio.report import Report, html

    made, agreement = averaged.average, averaged.agreement
    limit = float("inf") if agreement is None else agreement.fsc.resolution_angstrom()
    halves = {f"half {number}": half for number, half in enumerate(made.halves or (), start=1)}
    facts = facts_of(0)
    del facts["seed"]  # nothing is drawn
    written = [beside(target, one) for one in (*FILE_ENDINGS, *endings)]
    report = Report(
        f"Average {target.name}",
        facts,
        averaged.rows,
        table,
        curves={} if agreement is None else {f"halves, {name}": curve for name, curve in agreement.fsc.curves.items()},
        box_angstrom=made.volume.box_angstrom,
        maps=for_display({"map": made.volume, **halves}, limit if agreement is not None else 0.0),
        coverage=made.coverage,
        verdict=averaged.verdict,
        resolution=None if agreement is None else (limit, RULE),
        files=[target.name, *(one.name for one in written if one.exists())],  # small boxes have no local resolution
        quality=None if averaged.quality is None else averaged.quality.quality,
    )
    write_text(beside(target, PAGE_ENDING), html(with_notes(report, *with_notes_of)))


def _check(*, halves: bool, split: bool, overlap_distance_angstrom: float | None, mask: File | None) -> None:
    if overlap_distance_angstrom is not None and not split:
        raise ArgumentError("{} is for the half sets that {} makes: give both", "overlap_distance_angstrom", "split")
    if split and not halves:
        raise ArgumentError("{} and {} exclude each other: give one", "split", "halves=False")
    if mask and not halves:
        raise ArgumentError(
            "{} is for the FSC of half maps, and {} makes none: give one of them", "mask", "halves=False"
        )


@dataclass(frozen=True)
class Agreement:
    """Agreement of half maps, and the mask that was made for it, or None where one was given."""

    fsc: HalfMapFsc
    mask: Volume | None


def average_list(table: ParticleTable, *, halves: bool, symmetry: str, executor: Executor) -> Average:
    """Average all particles of a list, and its half sets where there are any."""
    from gonio.averaging.averages import average_table

    if halves:
        check_half_sets(table, "pass {} or {}", "split", "halves=False")
    return average_table(table, executor=executor, half_sets=table.half_sets if halves else None, symmetry=symmetry)


def agreement_of(made: Average, mask: Volume | None = None) -> Agreement | None:
    """Compare the halves of an average within a mask that is given or made from it; None where it has none."""
    from gonio.averaging.resolution import half_map_fsc
    from gonio.fourier.masks import soft_mask

    if made.halves is None:
        return None
    own = soft_mask(made.volume) if mask is None else None
    fsc = half_map_fsc(made.halves, mask=own if mask is None else mask, rng=np.random.default_rng(0))
    return Agreement(fsc, own)


def _quality_of(made: Average, agreement: Agreement | None, mask: Volume | None) -> Postprocessed | None:
    """Return what the halves of an average say of it; None where it has none."""
    if made.halves is None or agreement is None:
        return None
    return postprocessed(made.volume, made.halves, mask=mask or agreement.mask, fsc=agreement.fsc)


def write_average(path: Path, made: Average, agreement: Agreement | None) -> None:
    """Write the map, its coverage, its halves, their mask and FSC, and a script for ChimeraX."""
    from gonio.io import write_volume
    from gonio.particle.volume import Volume
    from gonio.report import MapFile, maps_script

    write_volume(path, made.volume)
    write_volume(beside(path, COVERAGE_ENDING), Volume(made.coverage, made.volume.voxel_size_angstrom))
    halves = [] if made.halves is None else list(zip(HALF_ENDINGS, made.halves, strict=False))
    limit = float("inf") if agreement is None else agreement.fsc.resolution_angstrom()
    files = [(path.name, made.volume, True), *((beside(path, end).name, one, False) for end, one in halves)]
    shown = [MapFile(name, volume, first, limit) for name, volume, first in files]
    write_text(beside(path, SCRIPT_ENDING), maps_script(shown))
    if made.halves is None or agreement is None:
        return
    *half_endings, fsc_ending = HALF_ENDINGS
    for ending, half in zip(half_endings, made.halves, strict=True):
        write_volume(beside(path, ending), half)
    if agreement.mask is not None:
        write_volume(beside(path, MASK_ENDING), agreement.mask)
    write_text(beside(path, fsc_ending), fsc_csv(agreement.fsc))
