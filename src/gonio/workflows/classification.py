"""Classes of particles and their averages: from all pairs, as in the paper, or by references and iterations.

All pairs (n^2): dissimilarities (all_pairs, clustering) -> classes -> the average of each at poses relative to its
medoid -> aligned to the averages, some times. References (n K): each particle to the most likely of K references ->
averages as the next references -> until classes and poses have converged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.alignment.aligner import Aligner, Likelihood, log_likelihoods
from gonio.alignment.particle_list import ParticleError
from gonio.alignment.prepared import Prepared, finished
from gonio.alignment.result import Result
from gonio.averaging.averages import FOLDS, Average, average_classes, folds_of
from gonio.averaging.resolution import fsc_of_a_half, half_map_fsc
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.preparation.extent import sphere_mask
from gonio.preparation.prepare import Kept
from gonio.run.executor import Executor, Local
from gonio.search.backend import Backend
from gonio.search.batch_task import RowTask
from gonio.settings import Inputs, LocalSearch, Settings
from gonio.workflows.all_pairs import align_all_pairs
from gonio.workflows.clustering import AllPairs, Clustering

# Iterations of aligning a class to its average; poses about a medoid are those of single pairs.
REFINEMENTS = 3
# Iterations that search all orientations; later ones start from the poses of the one before.
GLOBAL_ROUNDS, MOST_ROUNDS = 2, 12
# Classes have converged when no particle changes its class and the median particle moves by less than this, in voxels;
# or by no less than this fraction of the iteration before, as noise alone then moves it (SNR 0.1: 0.12 voxels).
CONVERGED, SETTLED = 0.1, 0.9


@dataclass(frozen=True)
class Round:
    """One iteration of aligning and averaging.

    ``moved`` particles changed their class; ``pose_change_voxels`` is the displacement of the median particle's edge;
    ``counts`` are the sizes of the classes afterwards.
    """

    moved: int
    pose_change_voxels: float
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Classes:
    """Classes 1, 2, ... of a list, with poses and averages.

    Attributes
    ----------
    labels
        Class of each particle, shape (n,).
    poses
        Pose of each particle in the frame of its class, a batch of n.
    covariance
        Covariances of the poses (``Result.covariance``), (n, 6, 6).
    averages
        Average of each class; None for a class without particles.
    margin
        Log-likelihood difference (natural) between each particle's class and its next best, (n,)
        (``Aligner.log_likelihood``); infinite where there is no other.
    rounds
        The iterations.
    converged
        Whether classes and poses have converged.
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
    """Align all pairs of a list, which are also compared at its input poses.

    ``settings`` are those of every alignment, ``executor`` runs them, ``seed`` is that of a stochastic search.
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
    """Average each class at the poses of pairs with its medoid, then align it to its average ``refinements`` times.

    The frame of a class is that of its medoid, the particle with the least dissimilarity to all others, moved so that
    the mean of the particles' box centres is its origin.
    """
    matrix, poses = pairs.dissimilarity((settings or Settings()).score), [Pose.identity()] * len(table)
    for one in range(1, clustering.count + 1):
        members = np.flatnonzero(clustering.labels == one)
        medoid = members[matrix[np.ix_(members, members)].sum(axis=1).argmin()]
        relative = Pose.stack([pairs.pose(int(medoid), int(member)) for member in members])
        centred = relative.centred()
        for number, member in enumerate(members):
            poses[member] = centred[number]
    classifier = _Classifier(
        table, clustering.count, settings or Settings(), executor or Local(), "class averages", apart=False
    )
    labels, stacked = clustering.labels, Pose.stack(poses)
    averages = classifier.averages(labels, stacked, 0)
    covariance = np.full((len(table), 6, 6), np.inf)
    for number in range(1, refinements + 1):
        fits = classifier.fits(classifier.maps_of(averages), number, only=labels)
        stacked, covariance = fits.poses_of(labels), fits.covariance_of(labels)
        averages = classifier.averages(labels, stacked, number)
    alone = np.full(len(table), np.inf)
    shown = tuple(averages.get(k) for k in range(1, clustering.count + 1))
    return Classes(labels, stacked, covariance, shown, alone)


def random_references(
    table: ParticleTable, classes: int, *, executor: Executor | None = None, seed: int = 0
) -> list[Volume]:
    """Average random parts of a list at its input poses: references to start from when none are known."""
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
    """Assign each particle to the reference that it most likely shows, by iterations of aligning and averaging.

    Parameters
    ----------
    table
        n particles. If it has half sets, particles of a half are compared with averages of that half alone.
    references
        K maps of the particles' voxel size, from which the first iteration determines classes and poses.
    settings
        Settings of the search. All orientations are searched in the first iterations, and later ones start from the
        poses found; a local search starts from the input poses.
    executor
        Runs alignments and averages.
    seed
        Seed of a stochastic search.
    most_rounds
        Largest number of iterations.

    Returns
    -------
    Classes, class k from reference k. One that loses its particles (with half sets: all of a half) stays empty.
    """
    if not references:
        raise ValueError("there is no reference: give at least one map")
    if most_rounds < 1:
        raise ValueError(f"most_rounds must be at least 1, got {most_rounds!r}")
    classifier = _Classifier(table, len(references), settings or Settings(), executor or Local(), "classifying", seed)
    maps = {key: one for k, one in enumerate(references, start=1) for key in classifier.keys(k)}
    labels, poses = np.zeros(len(table), dtype=np.int64), table.poses
    fits: _Fits | None = None
    rounds: list[Round] = []
    known = dict[_Key, NDArray[np.float64]]()
    global_rounds = 0 if isinstance(classifier.settings.search, LocalSearch) else GLOBAL_ROUNDS
    for number in range(1, most_rounds + 1):
        starts = classifier.starts(fits) if number > global_rounds else None
        fits = classifier.fits(maps, number, known=known, starts=starts)
        before, labels, poses_before, poses = labels, fits.labels, poses, fits.poses_of(fits.labels)
        averages = classifier.averages(labels, poses, number)
        counts = tuple(int((labels == k).sum()) for k in range(1, len(references) + 1))
        moved, pose_change = int((labels != before).sum()), classifier.pose_change_voxels(poses_before, poses)
        rounds.append(Round(moved, pose_change, counts))
        converged = _have_converged(rounds[global_rounds:])
        if converged:
            break
        maps, known = classifier.maps_of(averages) or maps, classifier.fsc_of(averages)
    assert fits is not None  # there is at least one iteration
    shown = tuple(averages.get(k) for k in range(1, len(references) + 1))
    return Classes(labels, poses, fits.covariance_of(labels), shown, fits.margin, tuple(rounds), converged)


def _have_converged(local: Sequence[Round]) -> bool:
    """Return whether the last of the iterations that started from poses found no change but by noise.

    Only these are compared: the change of pose of a global search is no measure for a local one.
    """
    if not local or local[-1].moved:
        return False
    last, before = local[-1].pose_change_voxels, local[-2].pose_change_voxels if len(local) > 1 else 0.0
    return last < CONVERGED or 0.0 < SETTLED * before <= last


@dataclass(frozen=True)
class _Fits:
    """Fits of n particles to K references: quaternions (n, k, 4), shifts (n, k, 3), log likelihoods (n, k).

    Where a particle was not compared with a reference its log likelihood is minus infinity. ``covariances`` are those
    of the poses, (n, k, 6, 6).
    """

    quaternions: NDArray[np.float64]
    shifts: NDArray[np.float64]
    likelihood: NDArray[np.float64]
    covariances: NDArray[np.float64]

    def of(self, count: int) -> _Fits:
        """Return it where it is of so many references; ValueError for other shapes, from a checkpoint."""
        expected = [(count, 4), (count, 3), (count,), (count, 6, 6)]
        shapes = [part.shape[1:] for part in (self.quaternions, self.shifts, self.likelihood, self.covariances)]
        if shapes != expected or not (np.isfinite(self.quaternions).all() and np.isfinite(self.shifts).all()):
            raise ValueError(f"fits to {count} references have shapes {shapes}: pass --overwrite to begin again")
        return self

    @property
    def labels(self) -> NDArray[np.int64]:
        """Most likely class of each particle, 1 to K; of equally likely ones the first."""
        return 1 + self.likelihood.argmax(axis=1)

    @property
    def margin(self) -> NDArray[np.float64]:
        """Log-likelihood difference between the most likely class of each and the next."""
        if self.likelihood.shape[1] == 1:
            return np.full(len(self.likelihood), np.inf)
        next_best, best = np.sort(self.likelihood, axis=1)[:, -2:].T
        return np.asarray(best - next_best)

    def poses_of(self, labels: NDArray[np.int64]) -> Pose:
        """Return the pose of each particle in its class."""
        rows = np.arange(len(labels))
        return Pose(Rotation.from_quat(self.quaternions[rows, labels - 1]), self.shifts[rows, labels - 1])

    def covariance_of(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the covariance of each of these poses, (n, 6, 6)."""
        return self.covariances[np.arange(len(labels)), labels - 1]


# Key of a map: its class, 1 to K; its half set, 0 for all particles; and the fold that is left out of it.
_Key = tuple[int, int, int]


class _Classifier:
    """Alignment and averaging of the particles of a list, by class.

    A particle is compared with averages without itself, as its own noise in them would keep its pose and its class:
    without its fold, and of its half set alone if the list has half sets that are kept ``apart``.
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
        """Return the keys of all maps of a class."""
        return [(one, half, fold) for half in self._halves for fold in range(FOLDS)]

    def fits(
        self,
        maps: Mapping[_Key, Volume],
        number: int,
        *,
        known: Mapping[_Key, NDArray[np.float64]] | None = None,
        starts: _Fits | None = None,
        only: NDArray[np.int64] | None = None,
    ) -> _Fits:
        """Align every particle to a map of each class, or to that of its class in ``only`` alone.

        ``known`` is the FSC of half maps of each map, where that is known.
        """
        settings = self._local if starts is not None else self.settings
        aligners = self._aligners(maps, settings, known or {})
        parts = list(zip(self._half_of.tolist(), self._fold_of.tolist(), strict=True))
        task = _FitRow(self.table, aligners, self._count, parts, starts, only, self._seed)
        rows = list(self._executor(f"{self._name}, iteration {number}", task, len(self.table)))
        return _Fits(*(np.stack([row[part] for row in rows]) for part in range(4))).of(self._count)

    def _aligners(
        self,
        maps: Mapping[_Key, Volume],
        settings: Settings,
        known: Mapping[_Key, NDArray[np.float64]],
    ) -> dict[_Key, Aligner]:
        """Make the aligners with one diameter, so that all compare the same samples of a particle."""
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
        """Settings of the local search, otherwise as given."""
        if isinstance(self.settings.search, LocalSearch):
            return self.settings
        inputs = Inputs.RESTORED if self.settings.restores else Inputs.PLAIN
        return replace(self.settings, search=LocalSearch(), inputs=inputs)

    def starts(self, fits: _Fits | None) -> _Fits:
        """Return the poses to start from with each reference: those of the last fits, or the input poses."""
        if fits is not None:
            return fits
        shape = len(self.table), self._count
        quaternions = np.repeat(self.table.poses.rotation.as_quat()[:, None], self._count, axis=1)
        shifts = np.repeat(self.table.poses.shift_angstrom[:, None], self._count, axis=1)
        return _Fits(quaternions, shifts, np.zeros(shape), np.full((*shape, 6, 6), np.inf))

    def averages(self, labels: NDArray[np.int64], poses: Pose, number: int) -> dict[int, Average]:
        """Average each class that has particles, and its halves: the list's half sets, else every other particle."""
        halves = np.array(self.table.half_sets)
        for one in np.unique(labels):
            members = np.flatnonzero(labels == one)
            self._fold_of[members] = folds_of(len(members))
            if not self._has_halves:
                halves[members] = 1 + np.arange(len(members)) % 2
        stage = f"{self._name}, iteration {number}: averages"
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
        """Return the maps of the next iteration; a class without particles, or without those of a half, has none."""
        maps: dict[_Key, Volume] = {}
        for one, made in averages.items():
            if self._halves == (0,) or made.halves is not None:
                whole, without = (made.volume, *(made.halves or ())), made.without or {}
                maps |= {key: without.get(key[1:], whole[key[1]]) for key in self.keys(one)}
        return maps

    def fsc_of(self, averages: Mapping[int, Average]) -> dict[_Key, NDArray[np.float64]]:
        """Return the FSC of half maps for each map of a half; none where the list has no half sets.

        Halves that were aligned to one map agree by what they were aligned to, which is no measure of their quality.
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
        """Return the approximate displacement of a point on the particle's sphere, voxels, median over particles."""
        rotated = np.radians(after.rotation_distance_deg(before)) * self._radius_voxels
        return float(np.median(rotated + after.shift_distance_angstrom(before) / self._voxel_size_angstrom))


def _aligners(
    maps: Mapping[_Key, Volume], settings: Settings, known: Mapping[_Key, NDArray[np.float64]]
) -> dict[_Key, Aligner]:
    """Make an aligner for each map, which several keys may share."""
    made: dict[int, Aligner] = {}
    for key, one in maps.items():
        if id(one) not in made:
            made[id(one)] = Aligner(one, settings, reference_fsc=known.get(key))
    return {key: made[id(one)] for key, one in maps.items()}


@dataclass(frozen=True)
class _Fit:
    """Search of a particle against reference k, counted from zero, and its likelihood at poses."""

    k: int
    search: Prepared
    likelihood: Likelihood


# Quaternions (k, 4), shifts (k, 3), log likelihoods (k,) and covariances (k, 6, 6) of a row.
_RowFits = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class _FitRow(RowTask[list[_Fit], _RowFits]):
    """Called with a row's number, aligns its particle to the references of its half set and fold."""

    returns = _RowFits
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
