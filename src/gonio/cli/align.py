"""``gonio align``: a list of particles against a map."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from gonio.cli.average import resolutions
from gonio.cli.checking import look_at_list, look_at_symmetry
from gonio.cli.columns import columns_of, without_found, writable, write_runners_up
from gonio.cli.decoys import DecoyOptions, numbers_of_decoys, with_decoys, write_kept
from gonio.cli.options import (
    AsJson,
    Diameter,
    HalfMaps,
    InputsName,
    ListOptions,
    LocalOptions,
    MaskDiameter,
    MaskPath,
    MaxShift,
    PoolName,
    Resolution,
    ScoreName,
    SearchName,
    SearchOptions,
    Seed,
    SeedInterval,
    SymmetryName,
)
from gonio.cli.output import (
    json_text,
    numbers_text,
    write_particle_scene,
    write_settings,
    write_text,
)
from gonio.cli.page import as_seen, defocus_of, facts_of, looked_at, odd_of, with_notes
from gonio.cli.reference import ReferenceOptions
from gonio.cli.running import HowToRun, running

if TYPE_CHECKING:
    from gonio.alignment.aligner import Aligner, Result, Settings
    from gonio.particle.pose import Pose
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Errors, Report
    from gonio.run.engine import Mapper

WRONG_DEG = 15.0  # errors beyond this are another optimum


@dataclass(frozen=True)
class Aligned:
    """A list with its new poses and what was found out, and how.

    ``results`` are those of its particles, one for each; ``settings`` those of the aligner with every default spelt
    out, as far as all particles have one box, whose edge is ``box_angstrom``; ``errors`` are there where the truth is
    known.
    """

    table: ParticleTable
    results: Sequence[Result]
    seconds: float
    settings: Settings
    box_angstrom: float | None
    errors: Errors | None = None
    decoys: DecoyOptions = field(default_factory=DecoyOptions)


def align(
    *,
    reference: Annotated[Path, typer.Option("--reference", metavar="MAP", help="MRC map that the particles show.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")],
    start_local: Annotated[
        bool, typer.Option("--local", help="Refine the poses in the list, in place of a search over all orientations.")
    ] = False,
    local: LocalOptions,
    score: ScoreName = "rcs",
    search: SearchName = None,
    inputs: InputsName = None,
    pool: PoolName = "all",
    symmetry: SymmetryName = "C1",
    resolution: Resolution = None,
    max_shift: MaxShift = None,
    diameter: Diameter = None,
    mask_diameter: MaskDiameter = None,
    mask: MaskPath = None,
    half_maps: HalfMaps = None,
    learn: Annotated[
        bool,
        typer.Option(
            "--learn",
            help="Align the first 50 particles twice: to learn what all have in common, in place of letting each speak"
            " for itself. Costs up to twice the time; for subtomograms that are very noisy. Tilt stacks against a map"
            " need no expectation.",
        ),
    ] = False,
    decoys: DecoyOptions,
    options: ListOptions,
    how: HowToRun,
    seed: Seed = 0,
    seed_interval: SeedInterval = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="STAR", help="List of the same particles with true poses: tell the errors.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Align a list of particles to a reference map.

    Finds for each particle the rotation and the shift that lay the reference on it: over all orientations, from coarse
    to fine, which needs no tuning; or with --local from the poses in the list, which it then expects to be roughly
    right (--prior-deg, --prior-shift; after a coarse search give more, or 0, or --cone). Particles are 3-D subtomograms
    (give the tilt range where the list does not hold it) or stacks of 2-D tilt images (RELION 5, WarpTools), which are
    compared CTF included.

    --decoys tells which particles are real: of template matching's peaks, or of any list that holds false ones. Each
    particle then has a q-value, the share of false ones among all that fit as clearly, and DIR/kept.star lists those
    up to --max-q. particles.star still lists all.

    DIR/particles.star is the list with the new poses, in its own format and with gonio's columns: how well and how
    surely each particle fits, and its next best pose. DIR/runners_up.star lists all other optima; DIR/report.html shows
    how well it went; DIR/particles.cxc shows the particles in ChimeraX where the list has positions; DIR/summary.json
    and DIR/settings.toml say it to programs.

    All of them are written at the end: a particle that cannot be read, or does not fit the reference, stops the run
    with its name and its file, and nothing is replaced. What was done is kept in DIR whatever stops the run: --resume
    goes on from there.

    Example: `gonio align particles.star --reference map.mrc --tilt-range -60 60 -o aligned`
    """
    from gonio.io import write_particles
    from gonio.report import html

    asked = SearchOptions(
        score,
        search,
        inputs=inputs,
        pool=pool,
        symmetry=symmetry,
        seed_interval_deg=seed_interval,
        resolution_angstrom=resolution,
        max_shift_angstrom=max_shift,
        diameter_angstrom=diameter,
        mask_diameter_angstrom=mask_diameter,
        local=local.of(start_local),
    )
    asked.check()
    decoys.check()
    reference_map, known = options.read_map(reference), ReferenceOptions(mask, half_maps)
    settings = asked.settings(voxel_size_angstrom=reference_map.voxel_size_angstrom)
    if learn and not settings.restores:
        raise ValueError("--learn is for restored inputs: from plain ones nothing is expected")
    how = replace(how, draws=settings.draws)
    how.check()
    facts = known.read(options.read_map, reference_map, settings)
    table, true_table = options.read(), None if truth is None else replace(options, path=truth).read()
    warned = look_at_list(
        table,
        {"the reference": reference_map},
        mask=facts.mask,
        resolutions={"--resolution": resolution},
        poses_for="--local" if start_local else None,
    )
    warned += look_at_symmetry(reference_map, symmetry, resolution_angstrom=resolution, diameter_angstrom=diameter)
    aligner = facts.aligner(reference_map, settings)
    asked_for = {
        "reference": reference,
        "mask": mask,
        "half_maps": half_maps,
        "voxel_size_angstrom": reference_map.voxel_size_angstrom,
        "truth": truth,
        "device": how.kind,
        "learn": learn,
        "decoys": decoys.settings,
        "list": options.told(table),
    }
    files = [*table.files, reference, *known.files, *(() if true_table is None else true_table.files)]
    with running(output, how, settings={**asked_for, "alignment": asdict(settings)}, seed=seed, inputs=files) as run:
        aligned = align_list(table, aligner, mapper=run.mapper, seed=seed, learn=learn)
        if decoys.decoy_count:
            judged = with_decoys(aligned.table, aligner, decoys, mapper=run.mapper, seed=seed)
            aligned = replace(aligned, table=judged, decoys=decoys)
        if true_table is not None:
            aligned = replace(aligned, errors=errors_of(aligned, true_table))
        with run.results() as folder:
            write_particles(folder / "particles.star", writable(aligned.table))
            write_runners_up(folder / "runners_up.star", aligned.table, aligned.results)
            if decoys.decoy_count:
                write_kept(folder / "kept.star", aligned.table, decoys.most_q)
            box = aligned.box_angstrom or reference_map.box_angstrom
            write_particle_scene(folder, aligned.table, box_angstrom=box)
            write_text(folder / "summary.json", json_text(summary_of(aligned), indent=2) + "\n")
            report = report_of(aligned, title=f"Alignment of {options.path.name}", seed=seed)
            report = with_notes(report, table, warned)
            write_text(folder / "report.html", html(_with_looks(report, aligned, reference_map, run.mapper)))
            shown = {**asked_for, "threads": how.workers, "alignment": asdict(aligned.settings)}
            write_settings(folder / "settings.toml", shown, seed=seed, inputs=files)
    if as_json:
        print(json_text(summary_of(aligned)))
        return
    print(numbers_text(rows_of(aligned)))
    print(f"wrote {output / 'particles.star'}\nlook at {output / 'report.html'}")


def align_list(table: ParticleTable, aligner: Aligner, *, mapper: Mapper, seed: int, learn: bool = False) -> Aligned:
    """Align every particle; poses in the table are where a local search starts."""
    from gonio.alignment import particle_list
    from gonio.particle.pose import Pose

    start = time.monotonic()
    expectation = particle_list.learn(table, aligner, mapper=mapper, seed=seed) if learn else None
    rows = particle_list.align_rows(table, aligner, mapper=mapper, seed=seed, expectation=expectation)
    results, boxes = [row.result for row in rows], {row.box for row in rows}
    poses = Pose.stack([result.pose for result in results])
    before = np.array([row.before for row in rows])
    columns = {**columns_of(table, results, aligner.settings.score), **_changes(table, poses, before, aligner.settings)}
    aligned = without_found(table).with_poses(poses, **columns)
    size, box = aligner.reference.voxel_size_angstrom, next(iter(boxes)) if len(boxes) == 1 else None
    settings = aligner.settings if box is None else _spelt_out(aligner.settings, box, size)
    return Aligned(aligned, results, time.monotonic() - start, settings, None if box is None else box * size)


def _changes(
    table: ParticleTable, poses: Pose, before: NDArray[np.float64], settings: Settings
) -> dict[str, NDArray[np.float64]]:
    """What is new against the list; of little meaning where all its poses are alike."""
    from gonio.alignment.aligner import Search

    listed, columns = table.poses, {}
    if np.isfinite(before).any():
        columns["dissimilarity_before"] = before
    if settings.search is Search.LOCAL or np.any(listed.rotation_distance_deg(listed[0]) > 1e-6):
        columns["change_of_orientation_deg"] = _turned_deg(settings, poses, listed)
        columns["change_of_shift_angstrom"] = np.asarray(poses.shift_distance_angstrom(listed))
    return columns


def _turned_deg(settings: Settings, first: Pose, second: Pose) -> NDArray[np.float64]:
    from gonio.particle.symmetry import Symmetry

    return np.asarray(Symmetry.named(settings.symmetry).rotation_distance_deg(first, second))


def _spelt_out(settings: Settings, box: int, voxel_size_angstrom: float) -> Settings:
    from gonio.alignment.aligner import Inputs

    resolved = settings.resolved(box=box, voxel_size_angstrom=voxel_size_angstrom)
    return replace(resolved, inputs=Inputs.RESTORED if settings.restores else Inputs.PLAIN)


def errors_of(aligned: Aligned, truth: ParticleTable) -> Errors:
    """How far the poses are from those of the particles of the same names in another list."""
    from gonio.report import Errors

    table, rows = aligned.table, {name: row for row, name in enumerate(truth.names)}
    lost = next((name for name in table.names if name not in rows), None)
    if lost is not None:
        raise ValueError(f"--truth does not list particle {lost!r}: give the list of the same particles")
    true = truth.poses[np.array([rows[name] for name in table.names])]
    return Errors(
        _turned_deg(aligned.settings, table.poses, true), np.asarray(table.poses.shift_distance_angstrom(true))
    )


# Numbers to be told: name, value, format with unit, and how to read it.
Number = tuple[str, float, str, str]


def numbers_of(aligned: Aligned) -> list[Number]:
    """What there is to say about an alignment, in order of interest."""
    columns, count = aligned.table.columns, len(aligned.table)
    ended = float(np.isin(columns["status"], ["converged", "stalled"]).mean())
    return [
        ("particles", count, "{:.0f}", "aligned"),
        *numbers_of_decoys(aligned.table, aligned.decoys),
        *_numbers_of_errors(aligned),
        ("dissimilarity, median", np.median(columns["dissimilarity"]), "{:.4f}", "lower is better"),
        *_numbers_of_certainty(aligned),
        *_numbers_of_changes(columns),
        ("came to rest", 100 * ended, "{:.0f} %", "no step improves them further"),
        ("time", aligned.seconds, "{:.1f} s", f"{count / max(aligned.seconds, 1e-9):.1f} particles per second"),
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


def _numbers_of_certainty(aligned: Aligned) -> list[Number]:
    columns = aligned.table.columns
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
            ("before, median", np.median(columns["dissimilarity_before"]), "{:.4f}", "at the listed poses"),
            ("improved", float(better.sum()), "{:.0f}", "particles that fit better than at the listed poses"),
        ]
    if "change_of_orientation_deg" in columns:
        turned, shifted = columns["change_of_orientation_deg"], columns["change_of_shift_angstrom"]
        numbers += [
            ("change of orientation, median", np.median(turned), "{:.2f} degrees", "from the poses in the list"),
            ("change of shift, median", np.median(shifted), "{:.2f} angstrom", "from the poses in the list"),
        ]
    return numbers


def summary_of(aligned: Aligned) -> dict[str, object]:
    """The same for programs: numbers without units in their values, units in their names."""
    numbers = {
        _identifier(name, form): round(value) if form == "{:.0f}" else float(f"{value:.6g}")
        for name, value, form, _ in numbers_of(aligned)
    }
    names, counts = np.unique(aligned.table.columns["status"], return_counts=True)
    return {**numbers, "status": dict(zip(names.tolist(), counts.tolist(), strict=True))}


def report_of(aligned: Aligned, *, title: str, seed: int) -> Report:
    """The page about an alignment, to which others may add."""
    from gonio.report import Report

    facts = facts_of(seed)
    numbers = rows_of(aligned)
    expected, box = _expected(aligned), aligned.box_angstrom or 0.0
    most_q = aligned.decoys.most_q if aligned.decoys.decoy_count else None
    return Report(
        title, facts, numbers, aligned.table, aligned.errors, expected=expected, box_angstrom=box, most_q=most_q
    )


def _with_looks(report: Report, aligned: Aligned, reference: Volume, mapper: Mapper) -> Report:
    """The page with what has to be read from the particles again: their average, the odd ones, defocus."""
    table = aligned.table
    report = replace(report, odd=odd_of(table), against=defocus_of(table), maps={"reference": reference})
    if aligned.box_angstrom is None:
        return report  # particles of several boxes have no average
    looked = looked_at(table, symmetry=aligned.settings.symmetry, mapper=mapper)
    name = "average" if looked.count == len(table) else f"average of {looked.count} of the particles"
    maps = {name: looked.average.volume}
    for number, half in enumerate(looked.average.halves or (), start=1):
        maps[f"half {number} of it"] = half
    found = [] if looked.fsc is None else resolutions(looked.fsc)
    reading = "both halves were laid on one reference, so this is no gold standard: noise may agree"
    return replace(
        report,
        numbers=[*report.numbers, *((which, value, reading) for which, value, _ in found)],
        curves={} if looked.fsc is None else {f"halves, {k}": v for k, v in looked.fsc.curves.items()},
        maps={**as_seen(maps, np.inf if looked.fsc is None else looked.fsc.resolution_angstrom()), **report.maps},
        coverage=looked.average.coverage,
    )


def _expected(aligned: Aligned) -> NDArray[np.float64] | None:
    """What each particle has in common with the reference, shell by shell, shape (m, s)."""
    known = [result.expectation for result in aligned.results]
    if aligned.box_angstrom is None:
        return None
    return np.array([e.correlation for e in known if e is not None]) if all(e is not None for e in known) else None


def rows_of(aligned: Aligned) -> list[tuple[str, str, str]]:
    """The same as text: name, value with unit, how to read it."""
    return [(name, form.format(value), reading) for name, value, form, reading in numbers_of(aligned)]


def _identifier(name: str, form: str) -> str:
    unit: Mapping[str, str] = {"degrees": "_deg", "angstrom": "_angstrom", "s": "_s", "%": "_percent"}
    words = name.replace(",", "").replace(" ", "_")
    return words + unit.get(form.rpartition(" ")[2], "")
