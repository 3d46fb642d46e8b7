"""An initial model from the particles alone, without a template.

Flow: some particles -> all pairs aligned -> one frame for all (synchronisation) -> averages of two parts, each particle
aligned to that of the other part -> map, centred where particles were picked.

Two subtomograms can only be aligned in their own hand, so that the map has the particles' hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner
from gonio.alignment.particle_list import ParticleError, align_table
from gonio.alignment.prepared import Prepared, finished
from gonio.alignment.result import Result
from gonio.averaging.averages import average_table
from gonio.averaging.resolution import FSC_KNOWN
from gonio.averaging.single import by_itself
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Subtomogram, Volume, masked_volume
from gonio.preparation.extent import sphere_diameter_angstrom
from gonio.run.executor import Executor, Local
from gonio.search.backend import Backend
from gonio.search.batch_task import BatchTask
from gonio.settings import GlobalSearch, Settings
from gonio.workflows.synchronisation import Pairs, synchronised

# Particles of which all pairs are aligned: 780 pairs.
SUBSET = 40
# Triangles of three right pairs close to within this fraction of the resolution.
TOLERANCE_FRACTION = 0.5
# Iterations of aligning and averaging after the pairs, at most; poses have converged when the median particle moves by
# less than this fraction of the resolution.
MOST_ITERATIONS = 6
CONVERGED_FRACTION = 0.05


@dataclass(frozen=True)
class DeNovo:
    """A map that was made from particles alone.

    Attributes
    ----------
    volume
        The average of the subset.
    table
        The subset with its poses.
    agreement
        Fraction of its pairs that agree with each particle of the subset, (m,).
    iterations
        Number of times that the subset was aligned to its averages.
    """

    volume: Volume
    table: ParticleTable
    agreement: NDArray[np.float64]
    iterations: int


def initial_model(
    table: ParticleTable,
    settings: Settings | None = None,
    *,
    count: int = SUBSET,
    rng: np.random.Generator,
    executor: Executor | None = None,
    stage: str = "de novo",
) -> DeNovo:
    """Make a map from some particles of a list; its input poses are not used.

    Parameters
    ----------
    table
        Particles to choose from.
    settings
        Settings of every alignment; the search is global, and the resolution four voxels unless given.
    count
        Number of particles chosen at random; all where there are fewer.
    rng
        Generator of the choice.
    executor
        Runs the tasks.
    stage
        Prefix of the names of the tasks.

    Raises
    ------
    ValueError
        Fewer than six particles, a symmetry (the directions of its axes are not known), a search that is not global.
    """
    settings, executor = Settings() if settings is None else settings, executor or Local()
    if settings.symmetry.upper() != "C1":
        raise ValueError(
            "a map made from the particles alone has its axes anywhere: refine with C1, rotate the map so that its axes"
            f" lie as {settings.symmetry}'s should, and give it as the reference"
        )
    if not isinstance(settings.search, GlobalSearch):
        raise ValueError(f"pairs have no pose to start from: leave out {settings.search.name}")
    if min(len(table), count) < 6:
        raise ValueError(f"at least 6 particles are needed to make a map from, got {min(len(table), count)}")
    subset = table[np.sort(rng.permutation(len(table))[:count])]
    pairs = _pairs(subset, settings, executor, stage)
    first = by_itself(subset.load(0))
    size = first.voxel_size_angstrom
    resolution = settings.resolution(size)
    radius = 0.5 * (settings.particle_diameter_angstrom or sphere_diameter_angstrom(first.volume))
    frame = synchronised(pairs, radius_angstrom=radius, tolerance_angstrom=TOLERANCE_FRACTION * resolution)
    parts = _parts(frame.agreement)
    subset = subset.with_poses(frame.poses)
    return _refined(subset, parts, frame.agreement, settings, radius, resolution, executor, stage)


@dataclass(frozen=True)
class DeNovoHalves:
    """A map from each half of a list, the second aligned to the first.

    Attributes
    ----------
    volumes
        The two maps in the frame of the first.
    made
        The initial model of each half, in its own frame.
    fsc
        FSC of the two within their sphere, (n // 2 + 1,); they share no particle.
    """

    volumes: tuple[Volume, Volume]
    made: tuple[DeNovo, DeNovo]
    fsc: NDArray[np.float64]

    @property
    def resolution_angstrom(self) -> float:
        """Resolution to which they agree, FSC 0.5."""
        return resolution_at(self.fsc, FSC_KNOWN, box_angstrom=self.volumes[0].box_angstrom)


def initial_model_halves(
    table: ParticleTable,
    settings: Settings | None = None,
    *,
    count: int = SUBSET,
    seed: int = 0,
    executor: Executor | None = None,
) -> DeNovoHalves:
    """Make a map from ``count`` particles of each half set, as ``initial_model``, and align the second to the first.

    They share no particle: only six numbers, the pose between the two, pass between the halves. As no rotation makes an
    object its mirror image, maps of different hand would disagree.
    """
    settings = Settings() if settings is None else settings
    half_sets, made = np.asarray(table.half_sets), []
    for half in (1, 2):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(half,)))
        stage = f"de novo, half {half}"
        own = table[np.flatnonzero(half_sets == half)]
        made.append(initial_model(own, settings, count=count, rng=rng, executor=executor, stage=stage))
    first, second = (one.volume for one in made)
    pose = Aligner(first, settings).align(Subtomogram(second)).pose.inverse()
    second = moved(second, pose.matrix, pose.shift_angstrom)
    diameter = settings.particle_diameter_angstrom or sphere_diameter_angstrom(first)
    fsc = fourier_shell_correlation(*(masked_volume(v, diameter) for v in (first, second)))
    return DeNovoHalves((first, second), (made[0], made[1]), fsc)


def _refined(
    subset: ParticleTable,
    parts: NDArray[np.int8],
    agreement: NDArray[np.float64],
    settings: Settings,
    radius: float,
    resolution: float,
    executor: Executor,
    stage: str,
) -> DeNovo:
    """Align each part to the average of the other, so that no particle is in its reference, until poses converge."""
    subset = subset.with_poses(subset.poses.centred())
    made, number = average_table(subset, executor=executor, half_sets=parts, stage=f"{stage}, averaging"), 0
    for number in range(1, MOST_ITERATIONS + 1):
        assert made.halves is not None
        found: dict[int, Pose] = {}
        for part, reference in ((1, made.halves[1]), (2, made.halves[0])):
            rows = np.flatnonzero(parts == part)
            name = f"{stage}, iteration {number}, part {part}"
            results = align_table(subset[rows], Aligner(reference, settings), executor=executor, stage=name)
            found.update(zip(rows.tolist(), (result.pose for result in results), strict=True))
        before = subset.poses
        subset = subset.with_poses(Pose.stack([found[row] for row in range(len(subset))]).centred())
        name = f"{stage}, iteration {number}, averaging"
        made = average_table(subset, executor=executor, half_sets=parts, stage=name)
        moved_by = subset.poses.displacement_angstrom(before, radius_angstrom=radius)
        if np.median(moved_by) < CONVERGED_FRACTION * resolution:
            break
    return DeNovo(made.volume, subset, agreement, number)


def _parts(agreement: NDArray[np.float64]) -> NDArray[np.int8]:
    """Divide particles into parts 1 and 2 whose agreements are alike."""
    rank = np.empty(len(agreement), dtype=np.int64)
    rank[np.argsort(-agreement, kind="stable")] = np.arange(len(agreement))
    return np.where(np.isin(rank % 4, (0, 3)), 1, 2).astype(np.int8)


def _pairs(table: ParticleTable, settings: Settings, executor: Executor, stage: str) -> Pairs:
    count = len(table)
    rows = list(executor(f"{stage}, pairs", _AlignToLater(table, settings), count - 1))
    if [len(row) for row in rows] != list(range(count - 1, 0, -1)) or not all(
        len(poses) for row in rows for poses in row
    ):
        raise ValueError(f"pairs of {count} particles are not all there: pass --overwrite to begin again")
    return Pairs(count, {(i, i + 1 + k): poses for i, row in enumerate(rows) for k, poses in enumerate(row)})


@dataclass(frozen=True)
class _AlignToLater(BatchTask[list[Prepared], list[Pose]]):
    """Called with a particle's number, aligns it to each of those after it; tilt stacks are reconstructed."""

    returns = list[Pose]
    table: ParticleTable
    settings: Settings

    @property
    def searches(self) -> int:
        return len(self.table)

    def prepare(self, item: int) -> list[Prepared]:
        aligner, names = Aligner(by_itself(self.table.load(item)), self.settings), self.table.names
        searches = []
        for target in range(item + 1, len(names)):
            with ParticleError.naming(f"particle {names[target]!r} on {names[item]!r}"):
                searches.append(aligner.prepare(by_itself(self.table.load(target))))
        return searches

    def finish(self, prepared: Sequence[list[Prepared]], backend: Backend) -> list[list[Pose]]:
        results = iter(finished([search for searches in prepared for search in searches], backend))
        return [[_poses(next(results)) for _ in searches] for searches in prepared]


def _poses(result: Result) -> Pose:
    return Pose.stack([result.pose, *(optimum.pose for optimum in result.runners_up)])
