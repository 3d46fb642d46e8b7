"""Averages of aligned particles, weighted by what each has measured (docs/theory.md eq. 20).

Flow: rows of a list, in blocks of one size -> the sums of each block (``insertion``), by an executor (``run.executor``)
-> added in the order of the blocks -> maps of all particles, of half sets, of classes. The sums of a block are the same
to the bit in every process, and so is the map.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gonio.averaging.insertion import Insertion, Sums, insertion_of
from gonio.averaging.resolution import FSC_HALVES, Evenness, evenness
from gonio.fourier.fsc import fourier_shell_correlation, power_ratio, resolution_at, scaled_shells
from gonio.particle.arguments import described
from gonio.particle.pose import Pose, PoseSample
from gonio.particle.symmetry import Symmetry
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Particle, Volume
from gonio.run.executor import Executor, Local

# Rows of a block, which a worker sums at a time. Another number changes the sums by rounding.
BLOCK = 32
# Particles are aligned to maps without the fifth of their half set that they are in: with its own noise in the map a
# particle stays where it was, and the estimated errors of its pose are too small.
FOLDS = 5

# A particle's name in error messages, the particle, its pose, and the group that it is averaged with.
Row = tuple[str, Particle, Pose | PoseSample, int]


@dataclass(frozen=True)
class Average:
    """Average of particles and, where half sets were given, its halves.

    Attributes
    ----------
    volume
        The average of all particles.
    halves
        The averages of half sets 1 and 2, or None.
    fsc
        Fourier shell correlation of the halves without a mask, shape (n // 2 + 1,), or None.
    count
        Number of particles.
    coverage
        Sums of weights at each frequency of the map, shape (n, n, n), zero frequency at n // 2; zero beyond the
        largest sphere.
    without
        For each half set and fold, the average of that half without the particles of that fold; None without folds.
    """

    volume: Volume
    halves: tuple[Volume, Volume] | None
    fsc: NDArray[np.float64] | None
    count: int
    coverage: NDArray[np.float32]
    without: Mapping[tuple[int, int], Volume] | None = None

    @cached_property
    def evenness(self) -> Evenness:
        """Evenness of the coverage."""
        return evenness(self.coverage)

    def with_power_of(self, other: Average) -> Average:
        """Scale the shells of each map so that they have the power of another average's shells.

        Factors of a half are its own, also for its maps without a fold. No FSC changes, but a mask mixes shells: what
        strong shells leave in weak ones is no signal of theirs.
        """
        factor = [power_ratio(wanted, one) ** 0.5 for one, wanted in zip(self._maps, other._maps, strict=True)]
        volume, *halves = (scaled_shells(one, own) for one, own in zip(self._maps, factor, strict=True))
        return replace(
            self,
            volume=volume,
            halves=(halves[0], halves[1]) if halves else None,
            without=self.without and {key: scaled_shells(one, factor[key[0]]) for key, one in self.without.items()},
        )

    @property
    def _maps(self) -> tuple[Volume, ...]:
        return (self.volume, *(self.halves or ()))

    def __repr__(self) -> str:
        halves = ""
        if self.fsc is not None:
            found = resolution_at(self.fsc, FSC_HALVES, box_angstrom=self.volume.box_angstrom)
            halves = f", halves agree to {found:.1f} angstrom" if np.isfinite(found) else ", halves do not agree"
        return f"Average({self.count} particles, {self.volume!r}{halves})"

    def _repr_html_(self) -> str:
        return f"{self.volume._repr_html_()}<p>{self!r}</p>"


def average(
    particles: Iterable[Particle],
    poses: Pose,
    *,
    half_sets: NDArray[np.int8] | None = None,
    symmetry: str = "C1",
) -> Average:
    """Average particles in the reference's frame, each weighted by what it has measured.

    Parameters
    ----------
    particles
        m subtomograms, or m tilt stacks, of one box and voxel size; they are read one by one.
    poses
        Batch of m, ``x_particle = R x_reference + t``.
    half_sets
        1 or 2 for each particle (0: in neither half), or None for no halves.
    symmetry
        Symmetry of the reference, "C1", "D2" and so on, with axes as in ``gonio.particle.symmetry``.

    Raises
    ------
    ValueError
        No particles, another number of poses or half sets, or particles that differ in kind, box or voxel size.
    """
    groups = _groups_of(half_sets, len(poses))
    reading = iter(particles)
    first = next(reading, None)
    if first is None or not len(poses):
        raise ValueError(f"{len(poses)} poses need as many particles, got {'some' if first else 0}")
    insertion = insertion_of(first, Symmetry.named(symmetry))
    rows = _counted(chain([first], reading), poses, groups)
    made = _Totals(insertion)
    for begun in range(0, len(poses), BLOCK):
        made.add(_sums_of(insertion, islice(rows, min(BLOCK, len(poses) - begun))))
    if next(rows, None) is not None:
        raise ValueError(f"there are more particles than poses ({len(poses)})")
    return made.average(range(3), halves=half_sets is not None)


def average_table(
    table: ParticleTable,
    *,
    executor: Executor | None = None,
    poses: Pose | Sequence[Pose | PoseSample] | None = None,
    half_sets: NDArray[np.int8] | None = None,
    folds: NDArray[np.int64] | None = None,
    symmetry: str = "C1",
    stage: str = "average",
) -> Average:
    """Average a list's particles with any executor; the result equals that of ``average`` to the bit.

    Parameters
    ----------
    table
        m particles with a source to read them from.
    executor
        Executor of the work; this process unless given.
    poses
        Poses in place of the table's; a particle with a ``PoseSample`` counts at all its poses, by their weights.
    half_sets, symmetry
        As in ``average``.
    folds
        A number from 0 for each particle, (m,), to get the halves without the particles of each fold as well; needs
        half sets.
    stage
        Name of the task, unique in a run.
    """
    made = average_classes(
        table,
        np.zeros(len(table), dtype=np.int64),
        executor=executor,
        poses=poses,
        half_sets=half_sets,
        folds=folds if half_sets is not None else None,
        symmetry=symmetry,
        stage=stage,
    )
    return made[0]


def average_classes(
    table: ParticleTable,
    classes: NDArray[np.int64],
    *,
    executor: Executor | None = None,
    poses: Pose | Sequence[Pose | PoseSample] | None = None,
    half_sets: NDArray[np.int8] | None = None,
    folds: NDArray[np.int64] | None = None,
    folded: Sequence[int] = (1, 2),
    symmetry: str = "C1",
    stage: str = "average",
) -> dict[int, Average]:
    """Average the particles of each class, in one pass over the particles.

    Parameters
    ----------
    classes
        A number for each particle, shape (m,); those below 0 are in no class.
    table, executor, poses, half_sets, folds, symmetry, stage
        As in ``average_table``.
    folded
        Half sets that get maps without each fold; 0 stands for all particles of a class.

    Returns
    -------
    The average of each class that has particles.
    """
    if np.shape(classes) != (len(table),):
        raise ValueError(f"classes must be one number for each of {len(table)} particles, got {np.shape(classes)}")
    fold_of = np.zeros(len(table), dtype=np.int64) if folds is None else np.asarray(folds)
    size = 3 * (1 + int(fold_of.max(initial=0)))  # groups of a class
    groups = np.where(classes < 0, -1, size * np.asarray(classes) + 3 * fold_of + _groups_of(half_sets, len(table)))
    made = _summed(table, table.poses if poses is None else poses, groups, symmetry, executor, stage)
    return {
        one: made.average(
            range(size * one, size * (one + 1)),
            halves=half_sets is not None,
            folded=() if folds is None else folded,
        )
        for one in np.unique(classes[classes >= 0]).tolist()
    }


def folds_of(count: int) -> NDArray[np.int64]:
    """Return the fold of each particle of a list, (m,): rows of a block share one, where there are enough blocks."""
    rows = np.arange(count)
    return rows // BLOCK % FOLDS if count >= FOLDS * BLOCK else rows * FOLDS // max(count, 1)


def _groups_of(half_sets: NDArray[np.int8] | None, count: int) -> NDArray[np.int64]:
    if half_sets is None:
        return np.zeros(count, dtype=np.int64)
    if np.shape(half_sets) != (count,) or not np.isin(half_sets, [0, 1, 2]).all():
        raise ValueError(f"half_sets must be 0, 1 or 2 for each of {count} particles, got {described(half_sets)}")
    return np.asarray(half_sets, dtype=np.int64)


def _counted(particles: Iterator[Particle], poses: Pose, groups: NDArray[np.int64]) -> Iterator[Row]:
    """Yield numbered particles with their poses; the first one beyond the last pose, too, so that it is noticed."""
    count = 0
    for count, particle in enumerate(particles, start=1):
        place = min(count, len(poses)) - 1
        yield str(count), particle, poses[place], int(groups[place])
    if count < len(poses):
        raise ValueError(f"{len(poses)} poses need as many particles, got {count}")


def _summed(
    table: ParticleTable,
    poses: Pose | Sequence[Pose | PoseSample],
    groups: NDArray[np.int64],
    symmetry: str,
    executor: Executor | None,
    stage: str,
) -> _Totals:
    """Return the sums of all rows whose group is not negative."""
    if len(poses) != len(table) or not len(table):
        raise ValueError(f"{len(poses)} poses need as many particles, got {len(table)}")
    chosen = np.flatnonzero(groups >= 0)
    if not len(chosen):
        raise ValueError("there is no particle to average: none is in any class")
    insertion = insertion_of(table.load(int(chosen[0])), Symmetry.named(symmetry))
    made = _Totals(insertion)
    task = _SumBlock(insertion, table, poses, groups)
    for part in (executor or Local())(stage, task, -(-len(table) // BLOCK), keep=False):
        made.add(part)
    return made


@dataclass(frozen=True)
class _SumBlock:
    """Task that sums a block of rows, given the block's number."""

    insertion: Insertion
    table: ParticleTable
    poses: Pose | Sequence[Pose | PoseSample]
    groups: NDArray[np.int64]

    unit: ClassVar[str] = f"blocks of {BLOCK} particles"

    def __call__(self, block: int) -> dict[int, Sums]:
        return _sums_of(self.insertion, self._rows(block))

    def _rows(self, block: int) -> Iterator[Row]:
        for row in range(block * BLOCK, min((block + 1) * BLOCK, len(self.table))):
            if self.groups[row] >= 0:
                name = repr(self.table.names[row])
                yield name, self.table.load(row), self.poses[row], int(self.groups[row])


def _sums_of(insertion: Insertion, rows: Iterable[Row]) -> dict[int, Sums]:
    """Return the sums of some rows, by group."""
    running: dict[int, Sums] = {}
    for name, particle, pose, group in rows:
        if group not in running:
            running[group] = insertion.start()
        try:
            insertion.add(particle, pose, into=running[group])
        except ValueError as error:
            raise ValueError(f"particle {name}: {error}") from error
    return {group: insertion.packed(running[group]) for group in sorted(running)}


@dataclass
class _Totals:
    """Sums of all blocks, by group."""

    insertion: Insertion
    sums: dict[int, Sums] = field(default_factory=dict)

    def add(self, block: dict[int, Sums]) -> None:
        for group, sums in block.items():
            if group not in self.sums:
                self.sums[group] = Sums.zeros(self.insertion.size)
            self.sums[group] += sums

    def average(self, groups: range, *, halves: bool, folded: Sequence[int] = ()) -> Average:
        """Average the particles of some groups: three for each fold, those in no half set, in 1 and in 2."""
        present = [group for half in range(3) for group in groups[half::3] if group in self.sums]
        members = [present, *([group for group in present if group % 3 == half] for half in (1, 2))]
        maps = [self._map(members[half]) for half in (1, 2)] if halves and members[1] and members[2] else []
        total = self._total(present)
        return Average(
            self.insertion.map_of(total),
            (maps[0], maps[1]) if maps else None,
            fourier_shell_correlation(*maps) if maps else None,
            total.count,
            self.insertion.coverage(total),
            {(half, fold): one for half in folded for fold, one in self._without(members[half], groups[0])} or None,
        )

    def _without(self, members: Sequence[int], first: int) -> Iterator[tuple[int, Volume]]:
        """Yield each fold and the map of the groups outside it, or of all groups where there is no other fold."""
        fold_of = {group: (group - first) // 3 for group in members}
        for fold in sorted(set(fold_of.values())):
            others = [group for group in members if fold_of[group] != fold]
            yield fold, self._map(others or members)

    def _map(self, groups: Sequence[int]) -> Volume:
        return self.insertion.map_of(self._total(groups))

    def _total(self, groups: Sequence[int]) -> Sums:
        total = Sums.zeros(self.insertion.size)
        for group in groups:
            total += self.sums[group]
        return total
