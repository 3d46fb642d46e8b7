"""``gonio align``: a list of particles against a map."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from gonio.cli.columns import columns_of, without_found, writable, write_runners_up
from gonio.cli.options import (
    DeviceName,
    Diameter,
    HalfMaps,
    InputsName,
    Invert,
    ListOptions,
    LocalOptions,
    MaskDiameter,
    MaskPath,
    MaxShift,
    Overwrite,
    ParticlesPath,
    Permissive,
    PoolName,
    ReferenceOptions,
    Resolution,
    ScoreName,
    SearchName,
    SearchOptions,
    Seed,
    SeedInterval,
    SymmetryName,
    Threads,
    TiltAxis,
    TiltRange,
    TomogramsPath,
    VoxelSize,
    thread_count,
)
from gonio.cli.output import (
    check_target,
    command_line,
    json_text,
    naming,
    progress,
    result_folder,
    write_settings,
    write_text,
)

if TYPE_CHECKING:
    from gonio.alignment import Aligner, Result, Settings
    from gonio.expectation import Expectation
    from gonio.particles import ParticleTable
    from gonio.pose import Pose
    from gonio.report import Errors, Report
    from gonio.volume import Particle

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


def align(
    particles: ParticlesPath,
    reference: Annotated[Path, typer.Option("--reference", metavar="MAP", help="MRC map that the particles show.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")],
    start_local: Annotated[
        bool, typer.Option("--local", help="Refine the poses in the list, in place of a search over all orientations.")
    ] = False,
    cone: Annotated[
        float | None,
        typer.Option(metavar="DEG", help="With --local: search within this angle of each listed orientation, degrees."),
    ] = None,
    prior_deg: Annotated[
        float | None,
        typer.Option(
            metavar="DEG",
            help="With --local: how far listed orientations may be off, per axis, degrees; 0: any. Default: 2, any with"
            " --cone.",
        ),
    ] = None,
    prior_shift: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            help="With --local: how far listed positions may be off, per axis, angstrom; 0: any. Default: half a voxel,"
            " any with --cone.",
        ),
    ] = None,
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
    tilt_range: TiltRange = None,
    tilt_axis: TiltAxis = 90.0,
    tomograms: TomogramsPath = None,
    invert: Invert = False,
    voxel_size: VoxelSize = None,
    permissive: Permissive = False,
    threads: Threads = None,
    device: DeviceName = "cpu",
    seed: Seed = 0,
    seed_interval: SeedInterval = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="STAR", help="List of the same particles with true poses: tell the errors.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Align a list of particles to a reference map.

    Finds for each particle the rotation and the shift that lay the reference on it: over all orientations, from coarse
    to fine, which needs no tuning; or with --local from the poses in the list, which it then expects to be roughly
    right (--prior-deg, --prior-shift; after a coarse search give more, or 0, or --cone). Particles are 3-D subtomograms
    (give the tilt range where the list does not hold it) or stacks of 2-D tilt images (RELION 5, WarpTools), which are
    compared CTF included.

    DIR/particles.star is the list with the new poses, in its own format and with gonio's columns: how well and how
    surely each particle fits, and its next best pose. DIR/runners_up.star lists all other optima; DIR/report.html shows
    how well it went; DIR/summary.json and DIR/settings.toml say it to programs.

    All of them are written at the end: a particle that cannot be read, or does not fit the reference, stops the run
    with its name and its file, and nothing is written or replaced.

    Example: `gonio align particles.star --reference map.mrc --tilt-range -60 60 -o aligned`
    """
    from gonio.io import write_particles

    check_target(output, overwrite=overwrite)
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
        local=LocalOptions(prior_deg, prior_shift, cone) if start_local else None,
    )
    if not start_local and (prior_deg, prior_shift, cone) != (None, None, None):
        raise ValueError("--prior-deg, --prior-shift and --cone need --local: a search over all poses expects none")
    asked.check()
    options = ListOptions(particles, tilt_range, tilt_axis, tomograms, invert, voxel_size, permissive)
    reference_map, known = options.read_map(reference), ReferenceOptions(mask, half_maps)
    settings = asked.settings(voxel_size_angstrom=reference_map.voxel_size_angstrom)
    if learn and not settings.restores:
        raise ValueError("--learn is for restored inputs: from plain ones nothing is expected")
    aligner = known.read(options.read_map, reference_map, settings).aligner(reference_map, settings, device=device)
    if device != "cpu":
        print(f"aligns on {aligner.device}")
    table, true_table = options.read(), None if truth is None else replace(options, path=truth).read()
    aligned = align_table(table, aligner, seed=seed, threads=thread_count(threads), learn=learn)
    if true_table is not None:
        aligned = replace(aligned, errors=errors_of(aligned, true_table))
    with result_folder(output, overwrite=overwrite) as folder:
        write_particles(folder / "particles.star", writable(aligned.table))
        write_runners_up(folder / "runners_up.star", aligned.table, aligned.results)
        write_text(folder / "summary.json", json_text(summary_of(aligned), indent=2) + "\n")
        write_text(folder / "report.html", report_of(aligned, title=f"Alignment of {particles.name}", seed=seed).html())
        write_settings(
            folder / "settings.toml",
            {
                "reference": reference,
                "mask": mask,
                "half_maps": half_maps,
                "voxel_size_angstrom": reference_map.voxel_size_angstrom,
                "truth": truth,
                "threads": thread_count(threads),
                "device": aligner.device,
                "learn": learn,
                "alignment": asdict(aligned.settings),
                "list": asdict(options),
            },
            seed=seed,
            inputs=[*table.files, reference, *known.files, *(() if true_table is None else true_table.files)],
        )
    _print_numbers(numbers_of(aligned))
    print(f"wrote {output / 'particles.star'}; look at {output / 'report.html'}")


def align_table(table: ParticleTable, aligner: Aligner, *, seed: int, threads: int, learn: bool = False) -> Aligned:
    """Align every particle; poses in the table are where a local search starts."""
    from gonio.pose import Pose

    run = _Run(table, aligner, seed, threads)
    start = time.monotonic()
    expectation = run.learnt() if learn else None
    results = run.results("aligning", table, expectation)
    columns = {**columns_of(table, results), **run.changes(Pose.stack([result.pose for result in results]))}
    aligned = without_found(table).with_poses(Pose.stack([result.pose for result in results]), **columns)
    size, box = aligner.reference.voxel_size_angstrom, next(iter(run.boxes)) if len(run.boxes) == 1 else None
    settings = aligner.settings if box is None else _spelt_out(aligner.settings, box, size)
    return Aligned(aligned, results, time.monotonic() - start, settings, None if box is None else box * size)


class _Run:
    """One alignment of a list: reads each particle once, and remembers what is not in its result."""

    def __init__(self, table: ParticleTable, aligner: Aligner, seed: int, threads: int) -> None:
        from gonio.alignment import Search

        self._table, self._aligner, self._seed, self._threads = table, aligner, seed, threads
        self._is_local = aligner.settings.search is Search.LOCAL
        # Restored inputs are weighted as the pose found tells: the listed one has no dissimilarity to compare with.
        self._compares = self._is_local and not aligner.settings.restores
        self._before = np.full(len(table), np.nan)
        self.boxes: set[int] = set()

    def learnt(self) -> Expectation | None:
        """As ``Aligner.learn``, but with progress and the name of a particle that fails."""
        from gonio.alignment import LEARN_FROM
        from gonio.expectation import Expectation

        found = [result.expectation for result in self.results("learning", self._table[:LEARN_FROM], None)]
        return Expectation.mean([expectation for expectation in found if expectation is not None])

    def results(self, verb: str, table: ParticleTable, expectation: Expectation | None) -> list[Result]:
        """Of the first particles of the list."""
        finished = 0

        def report(count: int) -> None:
            nonlocal finished
            finished = count
            done(count)

        # Results come in the order of the list: the first that fails is the next to be finished.
        with progress(verb, len(table)) as done, naming(lambda: table.names[finished]):
            return self._aligner.align_many(
                self._read(table),
                rng=np.random.default_rng(self._seed),
                starts=table.poses if self._is_local else None,
                expectation=expectation,
                n_threads=self._threads,
                progress=report,
            )

    def _read(self, table: ParticleTable) -> Iterator[Particle]:
        for index, particle in enumerate(table.particles()):
            self.boxes.add(particle.box)
            if self._compares:
                with naming(partial(table.names.__getitem__, index)):
                    listed = table.poses[index : index + 1]
                    self._before[index] = self._aligner.dissimilarity(particle, listed)[0]
            yield particle

    def changes(self, poses: Pose) -> dict[str, NDArray[np.float64]]:
        """What is new against the list; of little meaning where all its poses are alike."""
        listed, columns = self._table.poses, {}
        if self._compares:
            columns["dissimilarity_before"] = self._before
        if self._is_local or np.any(listed.rotation_distance_deg(listed[0]) > 1e-6):
            columns["change_of_orientation_deg"] = _turned_deg(self._aligner.settings, poses, listed)
            columns["change_of_shift_angstrom"] = np.asarray(poses.shift_distance_angstrom(listed))
        return columns


def _turned_deg(settings: Settings, first: Pose, second: Pose) -> NDArray[np.float64]:
    from gonio.symmetry import Symmetry

    return np.asarray(Symmetry.named(settings.symmetry).rotation_distance_deg(first, second))


def _spelt_out(settings: Settings, box: int, voxel_size_angstrom: float) -> Settings:
    from gonio.alignment import Inputs

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
        *_numbers_of_errors(aligned),
        ("dissimilarity, median", np.median(columns["dissimilarity"]), "{:.4f}", "lower is better"),
        *_numbers_of_certainty(aligned),
        *_numbers_of_changes(columns),
        ("came to rest", 100 * ended, "{:.0f} %", "refinements that no step improves any further"),
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
        ("rotation sd, median", rotation, "{:.2f} degrees", "predicted error about any one axis, from the data"),
        ("shift sd, median", shift, "{:.2f} angstrom", "predicted error along any one axis, from the data"),
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
    expected, box = _expected(aligned), aligned.box_angstrom or 0.0
    return Report(title, facts, numbers, aligned.table, aligned.errors, expected=expected, box_angstrom=box)


def _expected(aligned: Aligned) -> NDArray[np.float64] | None:
    """What each particle has in common with the reference, shell by shell, shape (m, s)."""
    known = [result.expectation for result in aligned.results]
    if aligned.box_angstrom is None:
        return None
    return np.array([e.correlation for e in known if e is not None]) if all(e is not None for e in known) else None


def _print_numbers(numbers: list[Number]) -> None:
    width = max(len(name) for name, *_ in numbers)
    for name, value, form, reading in numbers:
        print(f"  {name:<{width}}  {form.format(value):>14}  {reading}")


def _identifier(name: str, form: str) -> str:
    unit: Mapping[str, str] = {"degrees": "_deg", "angstrom": "_angstrom", "s": "_s", "%": "_percent"}
    words = name.replace(",", "").replace(" ", "_")
    return words + unit.get(form.rpartition(" ")[2], "")
