"""Verdicts of jobs: what is measured of a run for ``gonio.report.verdict``, which judges it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gonio.alignment.aligner import Aligner
    from gonio.alignment.result import Result
    from gonio.averaging.averages import Average
    from gonio.averaging.resolution import HalfMapFsc
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report.verdict import Competing, Verdict
    from gonio.run.executor import Executor
    from gonio.settings import Settings
    from gonio.workflows.classification import Classes
    from gonio.workflows.clustering import Clustering
    from gonio.workflows.evidence import Sampled
    from gonio.workflows.inspection import InputWarning
    from gonio.workflows.refinement import Iteration, Plan

# What is doubtful of an average without half sets of its list's own.
UNKNOWN_HALVES = (
    "no half sets",
    "without half sets of the list's own nothing independent vouches for the map",
    "gonio refine refines the poses of two halves apart",
)


def verdict_of_refinement(
    iterations: Sequence[Iteration],
    plan: Plan,
    *,
    start: Volume | None,
    shared_angstrom: float | None,
    warned: Iterable[InputWarning],
    executor: Executor,
) -> Verdict:
    """Judge a refinement; ``start`` is its reference, and up to ``shared_angstrom`` both halves began with one map."""
    from gonio.averaging.resolution import evenness
    from gonio.report.verdict import Evidence, verdict_of
    from gonio.workflows.evidence import sample_against_other_half
    from gonio.workflows.refinement import best_of, other_half_aligners

    best = best_of(iterations)
    stage, aligners = f"iteration {best.number}, check", other_half_aligners(best, plan)
    sampled = sample_against_other_half(best.table, aligners, executor=executor, seed=plan.seed, stage=stage)
    return verdict_of(
        Evidence(
            units_in_half=_units(best.table, plan.settings.symmetry),
            contrast_t=None if start is None else _contrast(best.table, start),
            map_contrast=_map_contrast(best.volume),
            shared_angstrom=shared_angstrom,
            resolution_angstrom=best.resolution_angstrom,
            box_angstrom=best.fsc.box_angstrom,
            apart=plan.halves_apart,
            fsc=best.fsc.best.tolist(),
            competing=_competing(sampled),
            covered=evenness(best.coverage).worst,
            unfinished=_unfinished(iterations),
            warnings=_warnings(warned),
        )
    )


def _unfinished(iterations: Sequence[Iteration]) -> str:
    last = iterations[-1]
    if not last.may_go_on or last.moved_sds < 1.0:
        return ""
    return f"poses were still moving at the last iteration (the median by {last.moved_sds:.1f} standard deviations)"


def verdict_of_alignment(
    table: ParticleTable,
    aligner: Aligner,
    results: Sequence[Result],
    settings: Settings,
    *,
    warned: Iterable[InputWarning],
    executor: Executor,
    seed: int,
    competing: Competing | None = None,
) -> Verdict:
    """Judge an alignment to one map.

    ``settings`` have every default spelt out, and ``competing`` is known where all particles were aligned to decoys.
    """
    from gonio.report.verdict import Evidence, verdict_of
    from gonio.workflows.evidence import sample_against_map

    if competing is None:
        competing = _competing(sample_against_map(table, aligner, executor=executor, seed=seed))
    evidence = Evidence(
        contrast_t=_contrast(table, aligner.reference.volume),
        apart=False,
        competing=competing,
        at_limit=_at_limit(results, settings),
        warnings=_warnings(warned),
    )
    return verdict_of(evidence)


def _at_limit(results: Sequence[Result], settings: Settings) -> float | None:
    """Return the fraction of shifts at the largest that a search everywhere allows; None of other searches."""
    from gonio.report.verdict import NEAR_LIMIT
    from gonio.settings import GlobalSearch

    most = settings.max_shift_angstrom
    if most is None or not isinstance(settings.search, GlobalSearch):
        return None
    lengths = np.linalg.norm([np.asarray(result.pose.shift_angstrom) for result in results], axis=1)
    return float((lengths >= NEAR_LIMIT * most).mean())


def verdict_of_average(
    table: ParticleTable,
    made: Average,
    fsc: HalfMapFsc | None,
    warned: Iterable[InputWarning],
    *,
    listed_halves: bool,
    symmetry: str,
) -> Verdict:
    """Judge an average: its halves were refined apart only if the list's own sets were, which no list states."""
    from gonio.report.verdict import Evidence, verdict_of

    evidence = Evidence(
        units_in_half=None if fsc is None else _units(table, symmetry),
        map_contrast=_map_contrast(made.volume),
        resolution_angstrom=None if fsc is None else fsc.resolution_angstrom(),
        box_angstrom=made.volume.box_angstrom,
        apart=None if listed_halves else False,
        fsc=None if fsc is None else fsc.best.tolist(),
        covered=made.evenness.worst,
        warnings=[*_warnings(warned), *([] if fsc is not None and listed_halves else [UNKNOWN_HALVES])],
    )
    return verdict_of(evidence, needs_decoys=False)


def verdict_of_classification(
    table: ParticleTable,
    found: Classes,
    clustering: Clustering | None,
    references: Sequence[Volume],
    settings: Settings,
    *,
    warned: Iterable[InputWarning],
    executor: Executor,
) -> Verdict:
    """Judge classes; ``clustering`` is that of pairs, None without, and ``references`` the maps that were given."""
    from gonio.particle.symmetry import Symmetry
    from gonio.report.verdict import CLEAR, Divided, Evidence, verdict_of

    order, finite = Symmetry.named(settings.symmetry).order, np.isfinite(found.margin)
    divided = Divided(
        [order * int((found.labels == one).sum()) for one in range(1, len(found.averages) + 1)],
        silhouette=None if clustering is None else _silhouette(clustering),
        likeness=_likeness(table, found, settings, executor),
        clear=float((found.margin[finite] >= CLEAR).mean()) if finite.any() else None,
        unfinished=None if not found.rounds else _unsettled(found),
    )
    evidence = Evidence(
        contrast_t=min((_contrast(table, map_) for map_ in references), default=None),
        warnings=_warnings(warned),
        classes=divided,
    )
    return verdict_of(evidence, needs_decoys=False)


def _silhouette(clustering: Clustering) -> float | None:
    """Return the silhouette of the classes, of one class the best of several; None where it is not known."""
    if clustering.count == 1:
        return max(clustering.silhouettes.values(), default=None)
    return clustering.silhouettes.get(clustering.count)


def _likeness(table: ParticleTable, found: Classes, settings: Settings, executor: Executor) -> float | None:
    """Return how alike the two classes most alike are; None where no halves were kept apart, or these do not agree."""
    from gonio.workflows.class_differences import likeness_of_classes

    if not found.rounds or not {1, 2} <= set(np.asarray(table.half_sets).tolist()):
        return None
    averages = {one: made for one, made in enumerate(found.averages, start=1) if made is not None}
    known = likeness_of_classes(averages, settings, executor=executor).values()
    return None if None in known else max((one for one in known if one is not None), default=None)


def _unsettled(found: Classes) -> str:
    last = found.rounds[-1]
    if found.converged:
        return ""
    moved = f"{last.moved} particles changed their class, the median moved by {last.pose_change_voxels:.2f} voxels"
    return f"the last iteration was not the end ({moved})"


def competing_of_columns(table: ParticleTable, decoys: int, *, alike: bool) -> Competing:
    """Return what all particles of a list came to that were aligned to decoys, which may be too like the map."""
    from gonio.report.verdict import Competing

    target, decoy = (np.asarray(table.columns[name]) for name in ("log_likelihood", "decoy_log_likelihood"))
    return Competing(len(table), int((target <= decoy).sum()), decoys, alike=alike)


def _competing(sampled: Sampled | None) -> Competing | None:
    from gonio.report.verdict import Competing
    from gonio.workflows.evidence import DECOYS

    if sampled is None:
        return None
    same = None if sampled.same is None else int(sampled.same.sum())
    return Competing(len(sampled.lost), int(sampled.lost.sum()), DECOYS, same, sampled.alike)


def _units(table: ParticleTable, symmetry: str) -> int:
    """Return the number of asymmetric units in the smaller half."""
    from gonio.particle.symmetry import Symmetry

    sets = np.asarray(table.half_sets)
    return Symmetry.named(symmetry).order * min(int((sets == half).sum()) for half in (1, 2))


def _contrast(table: ParticleTable, reference: Volume) -> float:
    from gonio.workflows.checks import contrast_of, sample_of

    return contrast_of(sample_of(table), reference)


def _map_contrast(volume: Volume) -> float:
    from gonio.workflows.inspection import contrast_t

    return contrast_t([volume])


def _warnings(warned: Iterable[InputWarning]) -> list[tuple[str, str, str]]:
    return [(one.name, one.what, one.remedy) for one in warned]
