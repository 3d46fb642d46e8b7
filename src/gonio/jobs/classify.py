"""Find classes of the particles of a list, and average each: ``gonio classify``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.average import agreement_of, write_average
from gonio.jobs.checking import warn_of
from gonio.jobs.files import write_particle_scene, write_summary, write_text
from gonio.jobs.fitting import Fitting
from gonio.jobs.options import File, ListOptions, LocalOptions, SearchOptions, files_of
from gonio.jobs.pages import facts_of, for_display, with_notes
from gonio.jobs.running import RunOptions, running
from gonio.jobs.verdicts import verdict_of_classification
from gonio.particle.arguments import ArgumentError
from gonio.run.executor import Executor

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Classes as Shown
    from gonio.report import Matrix, Report, Verdict
    from gonio.settings import Settings
    from gonio.workflows.classification import Classes
    from gonio.workflows.clustering import AllPairs, Clustering
    from gonio.workflows.inspection import InputWarning

# Rule for the one resolution of the page.
RULE = (
    "of the class whose halves agree least far: where their Fourier shell correlation, without a mask, first falls"
    " below 0.143; unless the list's half sets were kept apart, both were aligned to one map, so noise may agree"
)
# Columns of an earlier classification, which are dropped.
FOUND = ("class_margin",)
# All pairs of up to this many particles are aligned: 20,000 pairs, four minutes of one processor in boxes of 32.
PAIRS_UP_TO = 200
# Of longer lists this many particles, sampled at random, make the first maps: 5,000 pairs.
FIRST = 100


@dataclass(frozen=True)
class Procedure:
    """Procedure that classifies a list: the rows whose pairs are all aligned, None with references; and why."""

    rows: np.ndarray | None
    reason: str


@dataclass(frozen=True)
class Paired:
    """All pairs of some rows of a list, and their classes."""

    table: ParticleTable
    pairs: AllPairs
    clustering: Clustering


@dataclass(frozen=True)
class Classified:
    """The classes of a list, the list with them, how they were found, the pairs if any, and the page's verdict."""

    found: Classes
    table: ParticleTable
    procedure: Procedure
    paired: Paired | None
    verdict: Verdict

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Numbers of the summary: name, value with unit, how to read it."""
        found, rows = self.found, []
        if found.rounds:
            last = found.rounds[-1]
            moved = f"not converged: {last.moved} changed class, moved by {last.pose_change_voxels:.2f} voxels"
            rows.append(("turns", str(len(found.rounds)), "converged" if found.converged else moved))
        for one, made in enumerate(found.averages, start=1):
            if made is None:
                rows.append((f"class {one}", "empty", "no particle shows it"))
                continue
            reached = _resolution(found, one - 1)
            reading = "" if reached is None else f"halves agree (FSC 0.143, no mask) to {reached:.1f} angstrom"
            rows.append((f"class {one}", f"{made.count} particles", reading))
        return rows

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs."""
        found, paired = self.found, self.paired
        counts = [int((found.labels == one).sum()) for one in range(1, len(found.averages) + 1)]
        summary: dict[str, object] = {
            "way": self.procedure.reason,
            "particles": len(found.labels),
            "classes": counts,
            "verdict": self.verdict.grade,
            "verdict_why": self.verdict.sentence,
            "converged": found.converged,
            "turns": [asdict(one) for one in found.rounds],
            "resolution_angstrom": [_resolution(found, one) for one in range(len(counts))],
        }
        if paired is not None:
            summary["number_of_classes"] = paired.clustering.reason
            summary["silhouettes"] = {str(k): value for k, value in paired.clustering.silhouettes.items()}
        return summary


def classify(
    particles: ListOptions,
    *,
    output: File,
    classes: int | str = "auto",
    references: Sequence[File] | None = None,
    pairs_up_to: int = PAIRS_UP_TO,
    local: bool = False,
    search: SearchOptions = SearchOptions(),
    run: RunOptions = RunOptions(),
    seed: int = 0,
    watch: Callable[[Procedure], None] = lambda procedure: None,
) -> Classified:
    """Find classes of particles, average each, and write what ``gonio classify`` writes.

    Parameters
    ----------
    output
        The folder to make; its files appear together when all is done.
    classes
        Number of classes, or ``"auto"``.
    references
        Maps that particles may show; no pairs are aligned then.
    pairs_up_to
        Align all pairs of lists of up to this many particles; of longer ones, of this many sampled at random.
    local
        Begin at the poses in the list.
    watch
        Called with the ``Procedure`` before it begins.
    """
    from gonio.report import html

    own = LocalOptions() if local else None
    search.check(own)
    count = _count(classes)
    table = particles.read()
    if not len(table):
        raise ValueError(f"{particles.path} lists no particle: there is nothing to classify")
    if count is not None and count > len(table):
        raise ArgumentError(
            "{} {count} is more than the {most} particles of {path}",
            "classes",
            count=count,
            most=len(table),
            path=particles.path,
        )
    fitting = Fitting.to_particles(table)
    maps = [fitting.fit(particles.read_map(path), Path(path).name, box=False) for path in references or ()]
    procedure = _procedure_of(table, maps, count, pairs_up_to=pairs_up_to, local=local, seed=seed)
    watch(procedure)
    settings = search.settings(voxel_size_angstrom=table.load(0).voxel_size_angstrom, local=own)
    named = {f"reference {Path(path).name}": map_ for path, map_ in zip(references or (), maps, strict=True)}
    warned = warn_of([*fitting.warnings, *_doubts(table, named, search.resolution_angstrom, local=local)])
    resources = run.resources(settings)
    record = {
        "classes": str(classes),
        "references": list(references or ()),
        "pairs_up_to": pairs_up_to,
        "device": resources.kind,
        "alignment": asdict(settings),
        "list": particles.record(table),
    }
    files = files_of(table, *(references or ()))
    with running(output, resources, settings=record, seed=seed, inputs=files) as work:
        found, paired = _classified(table, procedure, maps, count, settings, executor=work.executor, seed=seed)
        clustering = None if paired is None else paired.clustering
        verdict = verdict_of_classification(
            table, found, clustering, maps, settings, warned=warned, executor=work.executor
        )
        classified = Classified(found, _classed_table(table, found), procedure, paired, verdict)
        with work.results() as folder:
            matrix = _write_results(folder, classified, search.score)
            report = _report(classified, matrix, title=f"Classes of {particles.name}", seed=seed)
            write_text(folder / "report.html", html(with_notes(report, table, warned)))
    return classified


def _doubts(
    table: ParticleTable, named: Mapping[str, Volume], resolution_angstrom: float | None, *, local: bool
) -> list[InputWarning]:
    """Return what is suspicious of a list and of references by name."""
    from gonio.workflows.checks import warnings_of_list

    resolutions, poses_for = {"resolution_angstrom": resolution_angstrom}, "a local search" if local else None
    return warnings_of_list(table, named, resolutions=resolutions, poses_for=poses_for)


def _count(classes: int | str) -> int | None:
    """Return the number of classes, None for auto."""
    if classes == "auto":
        return None
    word = str(classes)
    if not (word.isascii() and word.isdigit() and int(word) > 0):
        raise ArgumentError("{} must be a number from 1, or auto, got {got!r}", "classes", got=classes)
    return int(word)


def _procedure_of(
    table: ParticleTable, maps: Sequence[Volume], count: int | None, *, pairs_up_to: int, local: bool, seed: int
) -> Procedure:
    """Choose between all pairs and references."""
    from gonio.particle.volume import TiltStack

    size = len(table)
    if maps and count not in (None, len(maps)):
        raise ArgumentError(
            "{} {count} and {given} times {}: leave out {}, or give as many",
            "classes",
            "references",
            "classes",
            count=count,
            given=len(maps),
        )
    if maps:
        return Procedure(None, f"in iterations: {len(maps)} references are given")
    if local and count is None:
        raise ArgumentError("{} begins with averages of random subsets: state how many, {} K", "local", "classes")
    if local:
        return Procedure(None, f"in iterations: {count} random subsets at the input poses, which are about right")
    if isinstance(table.load(0), TiltStack):
        raise ArgumentError(
            "tilt stacks cannot be compared with one another: give maps ({}, once for each), or {} with {} K where the"
            " input poses are about right",
            "references",
            "local",
            "classes",
        )
    pairs = f"{size * (size - 1) // 2} pairs of {size} particles"
    if size <= pairs_up_to:
        return Procedure(np.arange(size), f"all pairs: {pairs} are few enough (--pairs-up-to {pairs_up_to})")
    some = min(FIRST, pairs_up_to)
    if some < 2:
        raise ArgumentError(
            "{} must be at least 2 without a {}: maps have to come from somewhere", "pairs_up_to", "references"
        )
    rows = np.sort(np.random.default_rng(seed).permutation(size)[:some])
    return Procedure(rows, f"pairs of {some} sampled at random, then iterations: {pairs} are too many (--pairs-up-to)")


def _classified(
    table: ParticleTable,
    procedure: Procedure,
    maps: Sequence[Volume],
    count: int | None,
    settings: Settings,
    *,
    executor: Executor,
    seed: int,
) -> tuple[Classes, Paired | None]:
    """Find the classes, and return them with the pairs that they come from."""
    from gonio.workflows import classification
    from gonio.workflows.clustering import cluster

    if procedure.rows is None:
        if not maps:
            assert count is not None  # _procedure_of requires it
            maps = classification.random_references(table, count, executor=executor, seed=seed)
        return classification.classes_of_references(table, maps, settings, executor=executor, seed=seed), None
    chosen = table[procedure.rows]
    if count is not None and count > len(chosen):
        raise ArgumentError(
            "{} {count} is more than the {most} particles that are paired: {}",
            "classes",
            "pairs_up_to",
            count=count,
            most=len(chosen),
        )
    pairs = classification.classify_pairs(chosen, settings, executor=executor, seed=seed)
    clustering = cluster(pairs.dissimilarity(settings.score), count)
    paired = Paired(chosen, pairs, clustering)
    found = classification.classes_of_clusters(chosen, pairs, clustering, settings, executor=executor)
    if len(chosen) == len(table):
        return found, paired
    shown = [made.volume for made in found.averages if made is not None]
    return classification.classes_of_references(table, shown, settings, executor=executor, seed=seed), paired


def _write_results(folder: Path, classified: Classified, score: str) -> Matrix | None:
    """Write all but the report, and return the matrix for it."""
    paired = classified.paired
    _write_classes(folder, classified.table, classified.found)
    matrix = None if paired is None else _matrix_of(paired, score)
    if paired is not None and matrix is not None:
        _write_pairs(folder, paired, matrix)
    write_summary(folder, classified.summary)
    return matrix


def _report(classified: Classified, matrix: Matrix | None, *, title: str, seed: int) -> Report:
    """Return the page about a classification: class averages side by side, and the matrix that they come from."""
    from gonio.report import Report

    found = classified.found
    made = {one: average for one, average in enumerate(found.averages, start=1) if average is not None}
    counts = [int((found.labels == one).sum()) for one in made]
    curves = {f"class {one}": average.fsc for one, average in made.items() if average.fsc is not None}
    seen: dict[str, Volume] = {}
    for one, average in made.items():
        seen |= for_display({f"class {one}": average.volume}, _resolution(found, one - 1) or 0.0)
    return Report(
        title,
        facts_of(seed),
        classified.rows,
        classified.table,
        curves=curves,
        box_angstrom=next(iter(made.values())).volume.box_angstrom if made else 0.0,
        maps=seen,
        classes=None if not seen else _shown(classified, seen, counts),
        decisions=[("classes", str(len(found.averages)), classified.procedure.reason)],
        verdict=classified.verdict,
        resolution=_worst_resolution(classified),
        matrix=matrix if matrix is not None and len(matrix.linkage) else None,
    )


def _worst_resolution(classified: Classified) -> tuple[float, str] | None:
    """Return the resolution of the class whose halves agree least far, and its rule; None where none has halves."""
    found = classified.found
    known = [one for number in range(len(found.averages)) if (one := _resolution(found, number)) is not None]
    return (max(known), RULE) if known else None


def _shown(classified: Classified, seen: Mapping[str, Volume], counts: Sequence[int]) -> Shown:
    """Return the classes for the page, with the silhouettes that chose their number."""
    from gonio.report import Classes as Shown

    paired = classified.paired
    if paired is None:
        return Shown(seen, counts)
    return Shown(seen, counts, dict(paired.clustering.silhouettes), paired.clustering.count)


def _matrix_of(paired: Paired, score: str) -> Matrix:
    """Return the dissimilarities of all pairs, and their clustering."""
    from gonio.report import Matrix

    before, after = (paired.pairs.dissimilarity(score, aligned=aligned) for aligned in (False, True))
    return Matrix(before, after, paired.clustering.linkage, paired.clustering.labels)


def _classed_table(table: ParticleTable, found: Classes) -> ParticleTable:
    """Return the list with classes, poses in the frame of each with their errors, and the margin of the class."""
    from gonio.alignment.columns import uncertainty_columns, without_found, writable

    columns = {"class_margin": found.margin} if np.isfinite(found.margin).any() else {}
    classed = without_found(replace(table, classes=found.labels)).without(*FOUND)
    return writable(classed.with_poses(found.poses, **columns, **uncertainty_columns(found.covariance)))


def _write_classes(folder: Path, classed: ParticleTable, found: Classes) -> None:
    """Write the list, and each class: its own list and its average."""
    from gonio.io.lists import write_back
    from gonio.report import MapFile, maps_script

    write_back(folder, "particles", classed)
    shown = [
        MapFile(f"class_{one}.mrc", made.volume, True, _resolution(found, one - 1) or np.inf)
        for one, made in enumerate(found.averages, start=1)
        if made is not None
    ]
    if shown:
        write_text(folder / "maps.cxc", maps_script(shown, side_by_side=True))
        first = shown[0].volume
        box, size = first.box_angstrom, first.voxel_size_angstrom
        write_particle_scene(folder, classed, box_angstrom=box, voxel_size_angstrom=size)
    for one, made in enumerate(found.averages, start=1):
        if made is None:
            continue
        write_back(folder, f"class_{one}", classed[found.labels == one])
        write_average(folder / f"class_{one}.mrc", made, agreement_of(made))


def _write_pairs(folder: Path, paired: Paired, matrix: Matrix) -> None:
    """Write the matrices, as numbers and as a picture, and the particles of their rows."""
    from gonio.alignment.columns import without_found
    from gonio.io import write_particles
    from gonio.report.matrices import matrix_drawing

    listed = without_found(replace(paired.table, classes=paired.clustering.labels))
    write_particles(folder / "pairs.star", listed, with_optimisation_set=False)
    for name, values in (("before", matrix.before), ("after", matrix.after)):
        assert values is not None  # of pairs both are known
        with (folder / f"dissimilarity_{name}.npy").open("wb") as file:
            np.save(file, values)
    if len(matrix.linkage):  # one particle has no tree
        matrix_drawing(matrix).savefig(folder / "dissimilarity.png", dpi=130)


def _resolution(found: Classes, one: int) -> float | None:
    """Return the resolution at which the FSC of a class's halves falls to 0.143, without a mask."""
    from gonio.averaging.resolution import FSC_HALVES
    from gonio.fourier.fsc import resolution_at

    made = found.averages[one]
    if made is None or made.fsc is None:
        return None
    return resolution_at(made.fsc, FSC_HALVES, box_angstrom=made.volume.box_angstrom)
