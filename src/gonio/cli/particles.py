"""``gonio align`` and ``gonio average``: a list of particles against a map, and the map that their poses make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import ArrayLike

from gonio.cli.options import (
    Invert,
    ListOptions,
    MaskDiameter,
    MaxShift,
    Overwrite,
    ParticlesPath,
    Permissive,
    Resolution,
    ScoreName,
    SearchName,
    Seed,
    SeedInterval,
    Threads,
    TiltAxis,
    TiltRange,
    TomogramsPath,
    VoxelSize,
    local,
    settings_of,
    thread_count,
)
from gonio.cli.output import (
    beside,
    check_map,
    check_target,
    command_line,
    json_text,
    progress,
    result_folder,
    write_settings,
    write_text,
)

if TYPE_CHECKING:
    from gonio.alignment import Aligner, Result, Settings
    from gonio.averaging import Average
    from gonio.particles import ParticleTable
    from gonio.pose import Pose
    from gonio.report import Errors, Report
    from gonio.volume import Particle

HALF_ENDINGS = ("_half1.mrc", "_half2.mrc", "_fsc.csv")
FSC_HALVES = 0.143  # of two half maps (Rosenthal & Henderson 2003)
FSC_KNOWN = 0.5  # of a map against a known one, and the older, more careful threshold for halves

# What align_table finds out: of an earlier alignment none of these may stay beside new poses.
FOUND = (
    "dissimilarity",
    "status",
    "overlap",
    "iterations",
    "dissimilarity_before",
    "change_of_orientation_deg",
    "change_of_shift_angstrom",
)


@dataclass(frozen=True)
class Aligned:
    """A list with its new poses and what was found out, and how.

    ``settings`` are those of the aligner with every default spelt out, as far as all particles have one box;
    ``errors`` are there where the truth is known.
    """

    table: ParticleTable
    seconds: float
    settings: Settings
    errors: Errors | None = None


class ParticleError(ValueError):
    """What does not fit with one particle of a list, told with its name."""


def align(
    particles: ParticlesPath,
    reference: Annotated[Path, typer.Option("--reference", metavar="MAP", help="MRC map that the particles show.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")],
    start_local: Annotated[
        bool, typer.Option("--local", help="Refine the poses in the list, in place of a search over all orientations.")
    ] = False,
    prior_deg: Annotated[
        float | None,
        typer.Option(
            metavar="DEG",
            help="With --local: how far listed orientations may be off, per axis, degrees; 0: any. Default: 2.",
        ),
    ] = None,
    prior_shift: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="With --local: how far listed positions may be off, per axis, angstrom; 0: any. Default: half voxel.",
        ),
    ] = None,
    score: ScoreName = "rcs",
    search: SearchName = "stochastic",
    resolution: Resolution = None,
    max_shift: MaxShift = None,
    diameter: Annotated[
        float | None, typer.Option(metavar="A", help="Of the particle, angstrom. Default: half of the box.")
    ] = None,
    mask_diameter: MaskDiameter = None,
    tilt_range: TiltRange = None,
    tilt_axis: TiltAxis = 90.0,
    tomograms: TomogramsPath = None,
    invert: Invert = False,
    voxel_size: VoxelSize = None,
    permissive: Permissive = False,
    threads: Threads = None,
    seed: Seed = 0,
    seed_interval: SeedInterval = 60.0,
    truth: Annotated[
        Path | None, typer.Option(metavar="STAR", help="List of the same particles with true poses: tell the errors.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Align a list of particles to a reference map.

    Finds for each particle the rotation and the shift that lay the reference on it: over all orientations, or with
    --local from the poses in the list, which it then expects to be roughly right (--prior-deg, --prior-shift; after a
    coarse search give more, or 0). Particles are 3-D subtomograms (give the tilt range where the list does not
    hold it) or stacks of 2-D tilt images (RELION 5, WarpTools), which are compared as they are, CTF included.

    DIR/particles.star is the list with the new poses, in its own format and with columns gonioDissimilarity,
    gonioStatus and others; DIR/report.html shows how well it went; DIR/summary.json and DIR/settings.toml say it to
    programs.

    All of them are written at the end: a particle that cannot be read, or does not fit the reference, stops the run
    with its name and its file, and nothing is written or replaced.

    Example: `gonio align particles.star --reference map.mrc --tilt-range -60 60 -o aligned`
    """
    from gonio.alignment import Aligner
    from gonio.io import write_particles

    check_target(output, overwrite=overwrite)
    settings = settings_of(
        score,
        search,
        seed_interval_deg=seed_interval,
        resolution_angstrom=resolution,
        max_shift_angstrom=max_shift,
        diameter_angstrom=diameter,
        mask_diameter_angstrom=mask_diameter,
    )
    options = ListOptions(particles, tilt_range, tilt_axis, tomograms, invert, voxel_size, permissive)
    reference_map = options.read_map(reference)
    if start_local:
        size = reference_map.voxel_size_angstrom
        settings = local(settings, prior_deg=prior_deg, prior_shift_angstrom=prior_shift, voxel_size_angstrom=size)
    elif prior_deg is not None or prior_shift is not None:
        raise ValueError("--prior-deg and --prior-shift need --local: a search over all poses expects none")
    table, true_table = options.read(), None if truth is None else replace(options, path=truth).read()
    aligner = Aligner(reference_map, settings)
    aligned = align_table(table, aligner, seed=seed, threads=thread_count(threads))
    if true_table is not None:
        aligned = replace(aligned, errors=errors_of(aligned.table, true_table))
    with result_folder(output, overwrite=overwrite) as folder:
        write_particles(folder / "particles.star", aligned.table)
        write_text(folder / "summary.json", json_text(summary_of(aligned), indent=2) + "\n")
        write_text(folder / "report.html", report_of(aligned, title=f"Alignment of {particles.name}", seed=seed).html())
        write_settings(
            folder / "settings.toml",
            {
                "reference": reference,
                "voxel_size_angstrom": reference_map.voxel_size_angstrom,
                "truth": truth,
                "threads": thread_count(threads),
                "alignment": asdict(aligned.settings),
                "list": asdict(options),
            },
            seed=seed,
            inputs=[*table.files, reference, *(() if true_table is None else true_table.files)],
        )
    _print_numbers(numbers_of(aligned))
    print(f"wrote {output / 'particles.star'}; look at {output / 'report.html'}")


def align_table(table: ParticleTable, aligner: Aligner, *, seed: int, threads: int) -> Aligned:
    """Align every particle; poses in the table are where a local search starts."""
    from gonio.alignment import Search
    from gonio.pose import Pose

    is_local = aligner.settings.search is Search.LOCAL
    before = np.full(len(table), np.nan)
    boxes: set[int] = set()
    finished = 0

    def read() -> Iterator[Particle]:
        # Each particle is read once, for the score of its listed pose and for its alignment.
        for index, particle in enumerate(table.particles()):
            boxes.add(particle.box)
            if is_local:
                with _naming(partial(table.names.__getitem__, index)):
                    before[index] = aligner.dissimilarity(particle, table.poses[index : index + 1])[0]
            yield particle

    def report(count: int) -> None:
        nonlocal finished
        finished = count
        done(count)

    start = time.monotonic()
    # Results come in the order of the list: the first that fails is the next to be finished.
    with progress("aligning", len(table)) as done, _naming(lambda: table.names[finished]):
        results = aligner.align_many(
            read(),
            rng=np.random.default_rng(seed),
            starts=table.poses if is_local else None,
            n_threads=threads,
            progress=report,
        )
    columns = _found(results, table.poses, before if is_local else None, has_poses=is_local or _has_poses(table))
    aligned = table.without(*FOUND).with_poses(Pose.stack([result.pose for result in results]), **columns)
    return Aligned(aligned, time.monotonic() - start, _resolved(aligner, boxes))


def _found(results: list[Result], listed: Pose, before: np.ndarray | None, *, has_poses: bool) -> dict[str, ArrayLike]:
    """The columns ``FOUND``, of which some mean nothing without listed poses."""
    from gonio.pose import Pose

    poses = Pose.stack([result.pose for result in results])
    columns: dict[str, ArrayLike] = {
        "dissimilarity": [result.dissimilarity for result in results],
        "status": [result.status.name.lower() for result in results],
        "overlap": [result.overlap for result in results],
        "iterations": [result.n_iterations for result in results],
    }
    if before is not None:
        columns["dissimilarity_before"] = before
    if has_poses:
        columns["change_of_orientation_deg"] = poses.rotation_distance_deg(listed)
        columns["change_of_shift_angstrom"] = poses.shift_distance_angstrom(listed)
    return columns


def _resolved(aligner: Aligner, boxes: set[int]) -> Settings:
    if len(boxes) != 1:
        return aligner.settings
    size = aligner.reference.voxel_size_angstrom
    return aligner.settings.resolved(box=next(iter(boxes)), voxel_size_angstrom=size)


@contextmanager
def _naming(name: Callable[[], str]) -> Iterator[None]:
    """Say of which particle a complaint is, where it does not say so itself as those about files do."""
    from gonio.io import FormatError

    try:
        yield
    except (FormatError, ParticleError):
        raise
    except ValueError as error:
        raise ParticleError(f"particle {name()!r}: {error}") from error


def _has_poses(table: ParticleTable) -> bool:
    """Whether the list says anything about orientations: in a new one all are alike, and a change means nothing."""
    return bool(np.any(table.poses.rotation_distance_deg(table.poses[0]) > 1e-6))


def errors_of(table: ParticleTable, truth: ParticleTable) -> Errors:
    """How far the poses are from those of the particles of the same names in another list."""
    from gonio.report import Errors

    rows = {name: row for row, name in enumerate(truth.names)}
    lost = next((name for name in table.names if name not in rows), None)
    if lost is not None:
        raise ValueError(f"--truth does not list particle {lost!r}: give the list of the same particles")
    true = truth.poses[np.array([rows[name] for name in table.names])]
    return Errors(
        np.asarray(table.poses.rotation_distance_deg(true)), np.asarray(table.poses.shift_distance_angstrom(true))
    )


# Numbers to be told: name, value, format with unit, and how to read it.
Number = tuple[str, float, str, str]


def numbers_of(aligned: Aligned) -> list[Number]:
    """What there is to say about an alignment, in order of interest."""
    columns, count = aligned.table.columns, len(aligned.table)
    ended = float(np.isin(columns["status"], ["converged", "stalled"]).mean())
    numbers: list[Number] = [("particles", count, "{:.0f}", "aligned")]
    if aligned.errors is not None:
        rotation, shift = aligned.errors.rotation_deg, aligned.errors.shift_angstrom
        numbers += [
            ("rotation error, median", np.median(rotation), "{:.2f} degrees", "against the true orientation"),
            ("shift error, median", np.median(shift), "{:.2f} angstrom", "against the true position"),
            ("wrong by over 15 degrees", float((rotation > 15).sum()), "{:.0f}", "particles at another optimum"),
        ]
    numbers.append(("dissimilarity, median", np.median(columns["dissimilarity"]), "{:.4f}", "lower is better"))
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
    return [
        *numbers,
        ("came to rest", 100 * ended, "{:.0f} %", "refinements that no step improves any further"),
        ("time", aligned.seconds, "{:.1f} s", f"{count / max(aligned.seconds, 1e-9):.1f} particles per second"),
    ]


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
    from datetime import datetime

    from gonio.report import Report
    from gonio.run.provenance import versions

    facts = {
        "command": " ".join(command_line()),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "seed": str(seed),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }
    numbers = [(name, form.format(value), reading) for name, value, form, reading in numbers_of(aligned)]
    return Report(title, facts, numbers, aligned.table, aligned.errors)


def average(
    particles: ParticlesPath,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MAP", help="MRC file to write.")],
    tilt_range: TiltRange = None,
    tilt_axis: TiltAxis = 90.0,
    tomograms: TomogramsPath = None,
    invert: Invert = False,
    voxel_size: VoxelSize = None,
    permissive: Permissive = False,
    halves: Annotated[
        bool, typer.Option("--halves/--no-halves", help="Average the half sets of the list (rlnRandomSubset) too.")
    ] = True,
    split: Annotated[
        bool, typer.Option("--split", help="Make half sets of every other particle, whatever the list says.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Average particles at the poses in their list.

    Every particle counts at each spatial frequency by what it has measured there: its wedge, or the CTF and the dose
    of its tilt images. With half sets two more maps are made from one half of the particles each; how well they agree
    is the resolution.

    MAP is written, and beside it MAP.settings.toml and with half sets MAP_half1.mrc, MAP_half2.mrc and MAP_fsc.csv: all
    at the end. A particle that cannot be read stops the run with its name and its file.

    Example: `gonio average aligned/particles.star -o average.mrc`
    """
    target = check_map(output, ".settings.toml", *(HALF_ENDINGS if halves else ()), overwrite=overwrite)
    if split and not halves:
        raise ValueError("--split and --no-halves exclude each other: give one")
    options = ListOptions(particles, tilt_range, tilt_axis, tomograms, invert, voxel_size, permissive)
    table = options.read()
    if split:
        table = replace(table, half_sets=(1 + np.arange(len(table)) % 2).astype(np.int8))
    made = average_table(table, halves=halves)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_average(target, made)
    size = made.volume.voxel_size_angstrom
    settings = {"halves": halves, "split": split, "voxel_size_angstrom": size, "list": asdict(options)}
    write_settings(beside(target, ".settings.toml"), settings, inputs=table.files)
    print(f"wrote {output}: {made.count} particles, {made.volume.box} voxels of {made.volume.voxel_size_angstrom:g} A")
    if made.fsc is not None:
        for threshold in (FSC_HALVES, FSC_KNOWN):
            found = resolution_text(made.fsc, threshold, made.volume.box_angstrom)
            print(f"resolution of the halves at FSC {threshold:g}, no mask: {found}")
    elif halves:
        print("no half sets in the list: pass --split for a resolution")


def average_table(table: ParticleTable, *, halves: bool) -> Average:
    """Average all particles of a list, with progress."""
    from gonio.averaging import average as average_particles

    half_sets = table.half_sets if halves else None
    if half_sets is not None and not np.isin(half_sets, [0, 1, 2]).all():
        raise ValueError("half sets (rlnRandomSubset) must be 0, 1 or 2: pass --split or --no-halves")
    finished = 0
    with progress("averaging", len(table)) as done, _naming(lambda: table.names[finished]):

        def counted() -> Iterator[Particle]:
            nonlocal finished
            for index, particle in enumerate(table.particles()):
                yield particle
                finished = index + 1
                done(finished)

        return average_particles(counted(), table.poses, half_sets=half_sets)


def write_average(path: Path, made: Average) -> None:
    """The map, its halves and their Fourier shell correlation."""
    from gonio.io import write_volume

    write_volume(path, made.volume)
    if made.halves is None or made.fsc is None:
        return
    *half_endings, fsc_ending = HALF_ENDINGS
    for ending, half in zip(half_endings, made.halves, strict=True):
        write_volume(beside(path, ending), half)
    box = made.volume.box_angstrom
    rows = [f"{s},{box / s if s else float('inf'):.4f},{value:.6f}" for s, value in enumerate(made.fsc)]
    write_text(beside(path, fsc_ending), "\n".join(["shell,resolution_angstrom,fsc", *rows, ""]))


def resolution_text(fsc: np.ndarray, threshold: float, box_angstrom: float) -> str:
    """Where a curve falls through a threshold, for people."""
    from gonio.fourier import resolution_at

    resolution = resolution_at(fsc, threshold, box_angstrom=box_angstrom)
    finest = box_angstrom / (len(fsc) - 1)
    if not np.isfinite(resolution):
        return f"worse than {box_angstrom:.0f} angstrom"
    return f"{resolution:.1f} angstrom" + (" or better: it never falls below" if resolution <= finest else "")


def _print_numbers(numbers: list[Number]) -> None:
    width = max(len(name) for name, *_ in numbers)
    for name, value, form, reading in numbers:
        print(f"  {name:<{width}}  {form.format(value):>14}  {reading}")


def _identifier(name: str, form: str) -> str:
    unit: Mapping[str, str] = {"degrees": "_deg", "angstrom": "_angstrom", "s": "_s", "%": "_percent"}
    words = name.replace(",", "").replace(" ", "_")
    return words + unit.get(form.rpartition(" ")[2], "")
