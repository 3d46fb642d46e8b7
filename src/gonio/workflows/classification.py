"""Classes of particles and their averages: from all pairs, as the paper has it, or by references and turns.

All pairs (n^2): dissimilarities (pairwise, clustering) -> classes -> each about its medoid, then aligned to its average
in turns. References (n K): each particle to the one of K references that it most likely shows -> averages as the next
references -> until neither classes nor poses move.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.alignment.aligner import Aligner, Inputs, Kept, Likelihood, Search, Settings, log_likelihoods
from gonio.alignment.particle_list import ParticleError
from gonio.alignment.prepared import Prepared, finished
from gonio.alignment.result import Result
from gonio.averaging.averages import FOLDS, Average, average_classes, folds_of
from gonio.averaging.resolution import fsc_of_a_half, half_map_fsc
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.preparation.extent import sphere_mask
from gonio.run.executor import Executor, Local
from gonio.search.backend import Backend
from gonio.search.batch_task import BatchTask
from gonio.workflows.all_pairs import align_all_pairs
from gonio.workflows.clustering import AllPairs, Clustering

__all__ = [
    "Classes",
    "Round",
    "classes_of_clusters",
    "classes_of_references",
    "classify_pairs",
    "random_references",
]

# Turns of aligning a class to its average; poses about a medoid are those of single pairs.
REFINEMENTS = 3
# Turns that search all orientations; later ones begin where the one before ended.
GLOBAL_ROUNDS, MOST_ROUNDS = 2, 12
# Classes are converged when none changes and the points of the median particle move less than this, in voxels; or no
# less than this share of what they moved in the turn before, when all that moves them is noise (SNR 0.1: 0.12 voxels).
CONVERGED, SETTLED = 0.1, 0.9


@dataclass(frozen=True)
class Round:
    """One turn of aligning and averaging.

    ``moved`` particles changed their class; ``pose_change_voxels`` is how far the points of the median particle moved;
    ``counts`` are the sizes of the classes after it.
    """

    moved: int
    pose_change_voxels: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Classes:
    """Classes 1, 2, ... of a list, and what they show.

    Attributes
    ----------
    labels
        Class of each particle, shape (n,).
    poses
        Each in the frame of its class, a batch of n.
    covariance
        How sure each of them is (``Result.covariance``), (n, 6, 6).
    averages
        Of each class; None of one that has no particles.
    margin
        How much likelier each particle's class is than its next best, natural log, (n,) (``Aligner.log_likelihood``);
        infinite where there is no other.
    rounds
        What the turns did.
    converged
        Whether the last of them changed nothing any more.
    """

    labels: NDArray[np.int64]
    poses: Pose
    covariance: NDArray[np.float64]
    averages: tuple[Average | None, ...]
    margin: NDArray[np.float64]
    rounds: tuple[Round, ...] = field(default=())
    converged: bool = True


def classify_pairs(
    table: ParticleTable,
    settings: Settings | None = None,
    *,
    executor: Executor | None = None,
    seed: int = 0,
) -> AllPairs:
    """All pairs of a list, aligned; input poses are those before alignment.

    ``settings`` are those of every alignment, ``executor`` does them, ``seed`` is that of a stochastic search.
    """
    rng, count = np.random.default_rng(seed), len(table)
    return AllPairs.gathered(
        align_all_pairs(table, settings, rng=rng, poses=table.poses, executor=executor or Local()), count
    )


def classes_of_clusters(
    table: ParticleTable,
    pairs: AllPairs,
    clustering: Clustering,
    settings: Settings | None = None,
    *,
    executor: Executor | None = None,
    refinements: int = REFINEMENTS,
) -> Classes:
    """Average each class: about its medoid, as the pairs tell, then aligned to its average some times.

    The frame of a class is that of its medoid, the particle that is the most like all others, moved so that the centres
    of the particles' boxes lie about its own.
    """
    matrix, poses = pairs.dissimilarity((settings or Settings()).score), [Pose.identity()] * len(table)
    for one in range(1, clustering.count + 1):
        members = np.flatnonzero(clustering.labels == one)
        medoid = members[matrix[np.ix_(members, members)].sum(axis=1).argmin()]
        laid = Pose.stack([pairs.pose(int(medoid), int(member)) for member in members])
        centred = _centred(laid)
        for number, member in enumerate(members):
            poses[member] = centred[number]
    turns = _Turns(table, clustering.count, settings or Settings(), executor or Local(), "class averages", apart=False)
    labels, stacked = clustering.labels, Pose.stack(poses)
    averages = turns.averages(labels, stacked, 0)
    covariance = np.full((len(table), 6, 6), np.inf)
    for turn in range(1, refinements + 1):
        fits = turns.fits(turns.maps_of(averages), turn, only=labels)
        stacked, covariance = fits.poses_of(labels), fits.covariance_of(labels)
        averages = turns.averages(labels, stacked, turn)
    alone = np.full(len(table), np.inf)
    shown = tuple(averages.get(k) for k in range(1, clustering.count + 1))
    return Classes(labels, stacked, covariance, shown, alone)


def _centred(poses: Pose) -> Pose:
    """The same in a frame about the point c whose places R c + t lie nearest to the box centres: c = -mean(R^-1 t)."""
    centre = poses.inverse().shift_angstrom.mean(axis=0)
    return poses @ Pose(Rotation.identity(), centre)


def random_references(
    table: ParticleTable, classes: int, *, executor: Executor | None = None, seed: int = 0
) -> list[Volume]:
    """Averages of random shares of a list at its input poses: where references begin when nothing is known of them."""
    if not 1 <= classes <= len(table):
        raise ValueError(f"classes must be 1 to {len(table)}, the number of particles, got {classes!r}")
    labels = np.random.default_rng(seed).permutation(len(table)) % classes
    made = average_classes(table, labels, executor=executor, stage="random references")
    return [made[one].volume for one in range(classes)]


def classes_of_references(
    table: ParticleTable,
    references: Sequence[Volume],
    settings: Settings | None = None,
    *,
    executor: Executor | None = None,
    seed: int = 0,
    most_rounds: int = MOST_ROUNDS,
) -> Classes:
    """Each particle to the reference that it most likely shows, by turns of aligning and averaging.

    Parameters
    ----------
    table
        n particles. Where it knows half sets, particles of a half are compared with averages of that half alone.
    references
        K maps of the particles' voxel size, from which the first turn takes classes and poses.
    settings
        Of the search. All orientations are searched in the first turns, and later ones begin at the poses found; a
        local search begins at the input poses.
    executor
        Who aligns and averages.
    seed
        Of a stochastic search.
    most_rounds
        Turns, at most.

    Returns
    -------
    Class k is what became of reference k. One that loses its particles (with half sets: all of a half) stays empty.
    """
    if not references:
        raise ValueError("there is no reference: give at least one map")
    if most_rounds < 1:
        raise ValueError(f"most_rounds must be at least 1, got {most_rounds!r}")
    turns = _Turns(table, len(references), settings or Settings(), executor or Local(), "classifying", seed)
    maps = {key: one for k, one in enumerate(references, start=1) for key in turns.keys(k)}
    labels, poses = np.zeros(len(table), dtype=np.int64), table.poses
    fits: _Fits | None = None
    rounds: list[Round] = []
    began_local, known = False, dict[_Key, NDArray[np.float64]]()
    for turn in range(1, most_rounds + 1):
        local = turns.settings.search is Search.LOCAL or turn > GLOBAL_ROUNDS
        fits = turns.fits(maps, turn, known=known, starts=turns.starts(fits) if local else None)
        before, labels, poses, from_poses = labels, fits.labels, fits.poses_of(fits.labels), poses
        averages = turns.averages(labels, poses, turn)
        counts = tuple(int((labels == k).sum()) for k in range(1, len(references) + 1))
        moved, pose_change = int((labels != before).sum()), turns.pose_change_voxels(from_poses, poses)
        # The turn before must have begun at poses too, for its motion to say anything.
        steady = SETTLED * rounds[-1].pose_change_voxels if began_local else 0.0
        rounds.append(Round(moved, pose_change, counts))
        converged, began_local = local and not moved and (pose_change < CONVERGED or 0.0 < steady <= pose_change), local
        if converged:
            break
        maps, known = turns.maps_of(averages) or maps, turns.fsc_of(averages)
    assert fits is not None  # there is a turn at least
    shown = tuple(averages.get(k) for k in range(1, len(references) + 1))
    return Classes(labels, poses, fits.covariance_of(labels), shown, fits.margin, tuple(rounds), converged)


@dataclass(frozen=True)
class _Fits:
    """Of n particles with each of K references: quaternions (n, k, 4), shifts (n, k, 3), log likelihoods (n, k).

    Where a particle was not compared with a reference its likelihood is minus infinity. ``covariances`` are those of
    the poses, (n, k, 6, 6).
    """

    quaternions: NDArray[np.float64]
    shifts: NDArray[np.float64]
    likelihood: NDArray[np.float64]
    covariances: NDArray[np.float64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most likely class of each, 1 to K; of equal ones the first."""
        return 1 + self.likelihood.argmax(axis=1)

    @property
    def margin(self) -> NDArray[np.float64]:
        """How much likelier that is than the next."""
        if self.likelihood.shape[1] == 1:
            return np.full(len(self.likelihood), np.inf)
        next_best, best = np.sort(self.likelihood, axis=1)[:, -2:].T
        return np.asarray(best - next_best)

    def poses_of(self, labels: NDArray[np.int64]) -> Pose:
        """Each particle's in its class."""
        rows = np.arange(len(labels))
        return Pose(Rotation.from_quat(self.quaternions[rows, labels - 1]), self.shifts[rows, labels - 1])

    def covariance_of(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """How sure each of these is, (n, 6, 6)."""
        return self.covariances[np.arange(len(labels)), labels - 1]


# A map by its class, 1 to K, the half set that it is of, 0 for all particles, and the fold that it is without.
_Key = tuple[int, int, int]


class _Turns:
    """Turns of aligning and averaging the particles of a list.

    A particle is compared with averages without itself, as its noise in them would hold it where it was, in pose and
    in class: without its fold, of its half set alone where halves are listed and kept ``apart``.
    """

    def __init__(
        self,
        table: ParticleTable,
        count: int,
        settings: Settings,
        executor: Executor,
        name: str,
        seed: int = 0,
        *,
        apart: bool = True,
    ) -> None:
        self.table, self.settings = table, settings
        self._count, self._executor, self._name, self._seed = count, executor, name, seed
        listed = np.asarray(table.half_sets)
        self._has_halves = bool((listed == 1).any() and (listed == 2).any())
        self._half_of = listed if self._has_halves and apart else np.zeros(len(table), dtype=np.int8)
        self._halves = tuple(int(half) for half in np.unique(self._half_of))
        self._fold_of = np.zeros(len(table), dtype=np.int64)
        self._radius_voxels = 0.0

    def keys(self, one: int) -> list[_Key]:
        """All maps of a class."""
        return [(one, half, fold) for half in self._halves for fold in range(FOLDS)]

    def fits(
        self,
        maps: Mapping[_Key, Volume],
        turn: int,
        *,
        known: Mapping[_Key, NDArray[np.float64]] | None = None,
        starts: _Fits | None = None,
        only: NDArray[np.int64] | None = None,
    ) -> _Fits:
        """Align every particle to a map of each class, or with ``only`` of its own.

        ``known`` is the FSC of half maps of a map, where that is known.
        """
        settings = self._local if starts is not None else self.settings
        aligners = self._aligners(maps, settings, known or {})
        parts = list(zip(self._half_of.tolist(), self._fold_of.tolist(), strict=True))
        task = _FitRow(self.table, aligners, self._count, parts, starts, only, self._seed)
        rows = list(self._executor(f"{self._name}, turn {turn}", task, len(self.table)))
        return _Fits(*(np.stack([row[part] for row in rows]) for part in range(4)))

    def _aligners(
        self,
        maps: Mapping[_Key, Volume],
        settings: Settings,
        known: Mapping[_Key, NDArray[np.float64]],
    ) -> dict[_Key, Aligner]:
        """All of one diameter, so that all see the same of a particle."""
        aligners = _aligners(maps, settings, known)
        widest = max(aligners.values(), key=lambda one: one.diameter_angstrom)
        given = settings.particle_diameter_angstrom or settings.mask_diameter_angstrom
        diameter = given or widest.diameter_angstrom
        self._radius_voxels = 0.5 * diameter / widest.reference.voxel_size_angstrom
        self._voxel_size_angstrom = widest.reference.voxel_size_angstrom
        if given:
            return aligners
        return _aligners(maps, replace(settings, particle_diameter_angstrom=diameter), known)

    @property
    def _local(self) -> Settings:
        """The search that begins at a pose, with what else was asked for."""
        if self.settings.search is Search.LOCAL:
            return self.settings
        inputs = Inputs.RESTORED if self.settings.restores else Inputs.PLAIN
        return replace(self.settings, search=Search.LOCAL, inputs=inputs, axis_sd_deg=None)

    def starts(self, fits: _Fits | None) -> _Fits:
        """Where the poses with every reference begin: where they ended, or as listed."""
        if fits is not None:
            return fits
        shape = len(self.table), self._count
        quaternions = np.repeat(self.table.poses.rotation.as_quat()[:, None], self._count, axis=1)
        shifts = np.repeat(self.table.poses.shift_angstrom[:, None], self._count, axis=1)
        return _Fits(quaternions, shifts, np.zeros(shape), np.full((*shape, 6, 6), np.inf))

    def averages(self, labels: NDArray[np.int64], poses: Pose, turn: int) -> dict[int, Average]:
        """Of each class that has particles, and of its halves: those listed, else every other particle."""
        halves = np.asarray(self.table.half_sets)
        if not self._has_halves:
            halves = np.zeros(len(labels), dtype=np.int8)
            for one in np.unique(labels):
                members = np.flatnonzero(labels == one)
                halves[members] = 1 + np.arange(len(members)) % 2
        for one in np.unique(labels):
            members = np.flatnonzero(labels == one)
            self._fold_of[members] = folds_of(len(members))
        stage = f"{self._name}, turn {turn}: averages"
        return average_classes(
            self.table,
            labels,
            executor=self._executor,
            poses=poses,
            half_sets=halves,
            folds=self._fold_of,
            folded=self._halves,
            symmetry=self.settings.symmetry,
            stage=stage,
        )

    def maps_of(self, averages: Mapping[int, Average]) -> dict[_Key, Volume]:
        """What the next turn compares with; a class without particles, or without those of a half, has none."""
        maps: dict[_Key, Volume] = {}
        for one, made in averages.items():
            if self._halves == (0,) or made.halves is not None:
                whole, without = (made.volume, *(made.halves or ())), made.without or {}
                maps |= {key: without.get(key[1:], whole[key[1]]) for key in self.keys(one)}
        return maps

    def fsc_of(self, averages: Mapping[int, Average]) -> dict[_Key, NDArray[np.float64]]:
        """The FSC of half maps of each map of a half; none where halves are not those of the list.

        Halves that were aligned to one map agree in what they were aligned to, which says nothing of the truth.
        """
        if self._halves == (0,):
            return {}
        found: dict[_Key, NDArray[np.float64]] = {}
        for one, made in averages.items():
            if made.halves is not None:
                fsc = half_map_fsc(made.halves, mask=sphere_mask(made.volume), rng=np.random.default_rng(0)).best
                of_half, whole = fsc_of_a_half(fsc, left=1.0 - 1.0 / FOLDS), np.clip(fsc, 0.0, 1.0)
                found |= {key: of_half if key[1] else whole for key in self.keys(one)}
        return found

    def pose_change_voxels(self, before: Pose, after: Pose) -> float:
        """How far the points on the particle's sphere of the median particle moved, about."""
        turned = np.radians(after.rotation_distance_deg(before)) * self._radius_voxels
        return float(np.median(turned + after.shift_distance_angstrom(before) / self._voxel_size_angstrom))


def _aligners(
    maps: Mapping[_Key, Volume], settings: Settings, known: Mapping[_Key, NDArray[np.float64]]
) -> dict[_Key, Aligner]:
    """One for each map, which several keys may share."""
    made: dict[int, Aligner] = {}
    for key, one in maps.items():
        if id(one) not in made:
            made[id(one)] = Aligner(one, settings, reference_fsc=known.get(key))
    return {key: made[id(one)] for key, one in maps.items()}


@dataclass(frozen=True)
class _Fit:
    """A particle's search against reference k, counted from zero, and what its likelihood is made of."""

    k: int
    search: Prepared
    likelihood: Likelihood


# Quaternions (k, 4), shifts (k, 3), log likelihoods (k,) and covariances (k, 6, 6) of a row.
_RowFits = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class _FitRow(BatchTask[list[_Fit], _RowFits]):
    """Aligns the particle of a row to the references of its part, its half set and fold: called with its number."""

    table: ParticleTable
    aligners: Mapping[_Key, Aligner]
    count: int
    parts: Sequence[tuple[int, int]]
    starts: _Fits | None
    only: NDArray[np.int64] | None
    seed: int

    @property
    def searches(self) -> int:
        return self.count if self.only is None else 1

    def prepare(self, item: int) -> list[_Fit]:
        particle, kept, fits = self.table.load(item), Kept(), []
        with ParticleError.naming(f"particle {self.table.names[item]!r}"):
            for k in range(self.count) if self.only is None else [int(self.only[item]) - 1]:
                aligner = self.aligners.get((k + 1, *self.parts[item]))
                if aligner is not None:
                    rng = np.random.default_rng([self.seed, item, k])
                    search = aligner.prepare(particle, rng=rng, start=self._start(item, k), kept=kept)
                    fits.append(_Fit(k, search, aligner.likelihood(particle)))
        return fits

    def finish(self, prepared: Sequence[list[_Fit]], backend: Backend) -> list[_RowFits]:
        fits = [fit for row in prepared for fit in row]
        results = finished([fit.search for fit in fits], backend)
        poses = [Pose.stack([result.pose]) for result in results]
        likelihoods = log_likelihoods([fit.likelihood for fit in fits], poses, backend)
        found = iter(zip(results, likelihoods, strict=True))
        return [self._row([fit.k for fit in row], [next(found) for _ in row]) for row in prepared]

    def _row(self, classes: Sequence[int], found: Sequence[tuple[Result, NDArray[np.float64]]]) -> _RowFits:
        quaternions, shifts = np.tile([0.0, 0.0, 0.0, 1.0], (self.count, 1)), np.zeros((self.count, 3))
        likelihood, covariances = np.full(self.count, -np.inf), np.full((self.count, 6, 6), np.inf)
        for k, (result, value) in zip(classes, found, strict=True):
            quaternions[k], shifts[k] = result.pose.rotation.as_quat(), result.pose.shift_angstrom
            likelihood[k], covariances[k] = value[0], result.covariance
        return quaternions, shifts, likelihood, covariances

    def _start(self, row: int, k: int) -> Pose | None:
        if self.starts is None:
            return None
        return Pose(Rotation.from_quat(self.starts.quaternions[row, k]), self.starts.shifts[row, k])

    def source(self, row: int) -> Path | None:
        """The file of a row's particle."""
        return self.table.image(row)
