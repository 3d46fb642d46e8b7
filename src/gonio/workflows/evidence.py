"""Evidence for a result from a sample of its particles: whether they show the map, at these poses.

Flow: a few particles, spread over the list -> each scored against the map at its pose and against decoys of the map
(``alignment.decoys``) -> how many fit a decoy as well. Where there is a map of other particles (the other half's),
they are aligned to that, so that no noise of theirs is in it, and their poses are compared with those found before.

Must not judge: what follows from these numbers is ``gonio.report.verdict``'s.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner
from gonio.alignment.decoys import Decoys, compete
from gonio.alignment.particle_list import align_table
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.table import ParticleTable
from gonio.particle.wedge import NoWedge
from gonio.run.executor import Executor
from gonio.settings import GlobalSearch, LocalSearch

T = TypeVar("T")

# Decoys for each particle of a sample, which is spread over the list: a tenth of it, at least and at most so many. Each
# of the sample is searched for in every decoy; of 30 a false fraction is known to some 15 %.
DECOYS, FEWEST, MOST = 2, 16, 30
# Orientations that differ by less are one: more than the error of any pose that is worth keeping.
SAME_DEG = 20.0


@dataclass(frozen=True)
class Sampled:
    """Particles of a sample that fit a decoy as well as the map, (k,), and those that find their orientation again.

    ``same`` is None where there is no map of other particles, or only searches near the poses found before; ``alike``
    where decoys were too like the map (``Decoys.alike``).
    """

    lost: NDArray[np.bool_]
    same: NDArray[np.bool_] | None = None
    alike: bool = False


def sample_against_map(table: ParticleTable, aligner: Aligner, *, executor: Executor, seed: int) -> Sampled | None:
    """Score a sample of an aligned list against its reference and decoys of this; None where there can be no decoys."""
    if not isinstance(aligner.settings.search, GlobalSearch | LocalSearch) or not len(table):
        return None
    if not isinstance(aligner.reference.wedge, NoWedge):
        return None
    some = table[_spread(len(table), _sample(len(table)))]
    lost, alike = _lost(some, aligner, some.poses, executor=_named("check", executor), seed=seed)
    return Sampled(lost, alike=alike)


def sample_against_other_half(
    table: ParticleTable, aligners: Mapping[int, Aligner], *, executor: Executor, seed: int, stage: str
) -> Sampled:
    """Align a sample of each half set, 1 and 2, to the other half's map and to decoys of this.

    Parameters
    ----------
    table
        Particles at the poses found in their own half.
    aligners
        Aligner of the map of each half, with a search over all orientations or near the poses of the list.
    stage
        Begins the names of its tasks, and says whose maps these are: others of a longer run must not pass for them.
    """
    lost, same, alike = [], [], False
    for half in (1, 2):
        rows = np.flatnonzero(np.asarray(table.half_sets) == half)
        some, aligner = table[rows[_spread(len(rows), _sample(len(table)) // 2)]], aligners[3 - half]
        named = _named(f"{stage} of half {half}", executor)
        results = align_table(some, aligner, executor=named, seed=seed, stage="other map")
        poses = Pose.stack([result.pose for result in results])
        if isinstance(aligner.settings.search, GlobalSearch):  # others find no other orientation
            apart = Symmetry.named(aligner.settings.symmetry).rotation_distance_deg(poses, some.poses)
            same.append(np.asarray(apart) < SAME_DEG)
        of_half, hardly = _lost(some, aligner, poses, executor=named, seed=seed)
        lost.append(of_half)
        alike = alike or hardly
    return Sampled(np.concatenate(lost), np.concatenate(same) if same else None, alike)


def _lost(
    table: ParticleTable, aligner: Aligner, poses: Pose, *, executor: Executor, seed: int
) -> tuple[NDArray[np.bool_], bool]:
    """Return which particles fit a decoy as well as the map, and whether the decoys are too like the map."""
    decoys = Decoys.of(aligner, DECOYS, rng=np.random.default_rng(seed))
    found = compete(table, aligner, decoys, poses, executor=executor, seed=seed)
    return np.asarray(found.best_decoy >= found.target), decoys.alike


def _sample(count: int) -> int:
    """Return how many of ``count`` particles are sampled."""
    return min(max(FEWEST, count // 10), MOST)


def _spread(count: int, most: int) -> NDArray[np.int64]:
    """Return at most ``most`` of ``count`` rows, spread evenly, in order."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, most)).round().astype(np.int64))


def _named(name: str, executor: Executor) -> Executor:
    """Return the executor with tasks named after what they are for: the run may have others of these names."""

    def named(stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        return executor(f"{name}, {stage}", function, count, keep=keep)

    return named
