"""Detection of false particles: every particle is also aligned to maps that it cannot show.

Flow: reference -> decoys (its mirror image; maps of its spectrum with other phases) -> each particle aligned to each of
them -> scores of one kind (``Aligner.log_likelihood``) -> target-decoy competition -> a q-value for each particle
(docs/theory.md section 14).

A false particle fits the reference and a decoy equally well by chance, so that it beats its K decoys one time in K + 1.
Of the particles whose best score is t or more, T beat their decoys and D do not; about D / K of the T are false:

    FDR(t) = (D + 1) / (K T),     q of a particle = the least FDR(t) of all t that it passes

Must not know how poses are searched, nor where particles come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.alignment.aligner import Aligner, Likelihood, log_likelihoods
from gonio.alignment.particle_list import ParticleError
from gonio.alignment.posterior import squared_correlation
from gonio.alignment.prepared import Prepared, finished
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import half_shells
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Subtomogram, Volume, mirrored_volume, sphere_of
from gonio.particle.wedge import NoWedge
from gonio.run.executor import Executor
from gonio.search.backend import Backend
from gonio.search.batch_task import RowTask
from gonio.search.gpu.device import CPU
from gonio.search.gpu.multi_gpu import executor_for
from gonio.settings import GlobalSearch, LocalSearch, Settings

# A mirror image that shares this much of the reference's detail is no decoy: real particles would fit it as well.
MOST_ALIKE = 0.7
# Decoys keep the reference's shape: its phases at lengths above its diameter over this number, but in no more than this
# fraction of the shells that are compared: a map within its sphere whose other phases are few is the reference again.
SHAPE, MOST_KEPT = 2.0, 0.5
# Rounds of imposing the spectrum's power and then the sphere on a map of random phases.
ROUNDS = 30


@dataclass(frozen=True)
class Decoys:
    """Maps that compete with a reference.

    Parameters
    ----------
    aligners
        One for each map, with the settings of the reference's aligner.
    kinds
        ``"mirror"`` or ``"phases"``, one for each.
    likeness
        Fraction of the reference's detail that its mirror image shows (``self_likeness``).
    shared
        The largest fraction of it that one of the decoys shows.
    """

    aligners: tuple[Aligner, ...]
    kinds: tuple[str, ...]
    likeness: float
    shared: float

    @property
    def alike(self) -> bool:
        """Whether a decoy is so like the reference that real particles fit it as well, and false ones the reference."""
        return self.shared >= MOST_ALIKE

    @staticmethod
    def of(aligner: Aligner, count: int, *, rng: np.random.Generator) -> Decoys:
        """Make decoys of an aligner's reference: its mirror image if that differs enough, then maps of random phases.

        Parameters
        ----------
        aligner
            Aligner of the reference.
        count
            Number of decoys, one or more.
        rng
            Draws the phases.

        Raises
        ------
        ValueError
            For a count below one; for a reference with a missing wedge, since its mirror image has another wedge.
        """
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count!r}")
        if not isinstance(aligner.reference.wedge, NoWedge):
            raise ValueError("decoys need a reference without a missing wedge: give a map")
        volume, mask = aligner.reference.volume, aligner.mask
        mirror = aligner.of_another(_mirrored(aligner.reference), mask=None if mask is None else mirrored_volume(mask))
        likeness = self_likeness(volume, mirror)
        kinds = ["mirror"] if likeness < MOST_ALIKE else []
        kinds += ["phases"] * (count - len(kinds))
        support = sphere_of(volume.box, volume.voxel_size_angstrom, aligner.diameter_angstrom)
        support = support if mask is None else mask.data
        made = [
            mirror if kind == "mirror" else aligner.of_another(_like(aligner, support, rng), mask=mask)
            for kind in kinds[:count]
        ]
        shown = (likeness if one is mirror else self_likeness(volume, one) for one in made)
        return Decoys(tuple(made), tuple(kinds[:count]), likeness, max(shown))


def _mirrored(reference: Subtomogram) -> Subtomogram:
    """Mirror a map and its normal."""
    normal = reference.normal_xyz
    normal = None if normal is None else np.asarray(normal) * [-1.0, 1.0, 1.0]
    return replace(reference, volume=mirrored_volume(reference.volume), normal_xyz=normal)


def _like(aligner: Aligner, support: NDArray[np.float32], rng: np.random.Generator) -> Subtomogram:
    """Make a map with the power of the aligner's reference in its sphere or mask, its symmetry and its normal."""
    volume = aligner.reference.volume
    finest = aligner.settings.resolution(volume.voxel_size_angstrom)
    kept = volume.box_angstrom * min(SHAPE / aligner.diameter_angstrom, MOST_KEPT / finest)
    made = scrambled_volume(volume, support, kept_shells=kept, rng=rng)
    group = Symmetry.named(aligner.settings.symmetry).matrices
    if len(group) > 1:
        whole = np.mean([moved(made, g, np.zeros(3)).data for g in group], axis=0)
        made = _with_power_of(volume, whole, support, kept_shells=kept)
    return replace(aligner.reference, volume=made)


def scrambled_volume(
    reference: Volume, support: NDArray[np.floating], *, kept_shells: float, rng: np.random.Generator
) -> Volume:
    """Make a map with the shape and shell powers of a reference but other detail, in a soft support (n, n, n).

    Phases are the reference's up to ``kept_shells`` (shells one over the box wide) and random beyond.
    """
    noise = rng.standard_normal(reference.data.shape)
    return _with_power_of(reference, noise, support, kept_shells=kept_shells)


def _with_power_of(
    reference: Volume, data: NDArray[np.floating], support: NDArray[np.floating], *, kept_shells: float
) -> Volume:
    """Find a map near ``data`` that lies in the support and has approximately the reference's power in each shell."""
    shells, times = half_shells(reference.box)
    low = (shells <= kept_shells).reshape(reference.box, reference.box, -1)
    spectrum = np.fft.rfftn(np.asarray(reference.data, dtype=np.float64), axes=(0, 1, 2))
    power = np.bincount(shells, weights=times * np.abs(spectrum.ravel()) ** 2)
    made = np.asarray(data, dtype=np.float64)
    for _ in range(ROUNDS):
        found = np.fft.rfftn(made * support, axes=(0, 1, 2))
        own = np.bincount(shells, weights=times * np.abs(found.ravel()) ** 2)
        gain = np.sqrt(power / np.maximum(own, 1e-300 + 1e-12 * own.max()))[shells].reshape(found.shape)
        found = np.where(low, spectrum, found * gain)
        made = np.fft.irfftn(found, s=made.shape, axes=(0, 1, 2))
    return Volume((made * support).astype(np.float32), reference.voxel_size_angstrom)


def self_likeness(reference: Volume, other: Aligner) -> float:
    """Return the fraction of a map's detail that another map shows too, at its best pose, 0 to 1.

    It is the squared correlation by shell, averaged over samples, as in white noise: a particle's expected score
    against the other map over that against its own.
    """
    target = Subtomogram(reference)
    aligner = other.of_another(other.reference, settings=_everywhere(other.settings), mask=other.mask)
    pose = aligner.align(target, rng=np.random.default_rng(0)).pose
    _, sums = aligner.shell_sums(target, Pose.stack([pose]))  # (1, s, 4)
    count = sums[0, 1:, 3]
    return float(count @ squared_correlation(sums[0, 1:]) / max(count.sum(), 1e-300))


def _everywhere(settings: Settings) -> Settings:
    """Return the settings of a global search: decoys have no input poses to start from."""
    return replace(settings, search=GlobalSearch())


@dataclass(frozen=True)
class Competition:
    """Scores of m particles: against the reference (m,) and against K decoys (m, K); more is better."""

    target: NDArray[np.float64]
    decoys: NDArray[np.float64]

    @property
    def best_decoy(self) -> NDArray[np.float64]:
        """Best score of each particle's decoys, (m,)."""
        return np.asarray(self.decoys.max(axis=1))

    @cached_property
    def q(self) -> NDArray[np.float64]:
        """q-value of each particle, (m,)."""
        return q_values(self.target, self.decoys)


def q_values(target: ArrayLike, decoys: ArrayLike) -> NDArray[np.float64]:
    """Return the q-value of each particle by target-decoy competition.

    Parameters
    ----------
    target
        Score of each particle against the reference, shape (m,); more is better.
    decoys
        Scores against K decoys, shape (m, K) or (m,).

    Returns
    -------
    Shape (m,), 0 to 1: the smallest fraction of false particles that is expected in a set with the particle and all
    that score better. A particle that a decoy fits equally well has 1.

    Raises
    ------
    ValueError
        For shapes that do not fit, or scores that are not numbers.

    Notes
    -----
    FDR(t) = (D + 1) / (K T) over the particles whose best score is at least t, of which T beat all their decoys and D
    do not. It holds for every fraction of false particles, without a model of their scores, provided that these fit
    reference and decoys equally well. With the + 1 it holds for few particles, and no q-value is below 1 / (K T).

    References
    ----------
    Elias & Gygi, Nature Methods 4, 207 (2007): competition. Barber & Candes, Annals of Statistics 43, 2055 (2015),
    and He et al., arXiv 1501.00537 (2015): + 1. Emery et al., RECOMB 2020: several decoys.
    """
    first, others = np.asarray(target, dtype=np.float64), np.asarray(decoys, dtype=np.float64)
    others = others[:, None] if others.ndim == 1 else others
    if first.ndim != 1 or others.shape[:1] != first.shape or others.ndim != 2 or not others.shape[1]:
        raise ValueError(f"target (m,) and decoys (m, K) are needed, got shapes {first.shape} and {others.shape}")
    if not (np.isfinite(first).all() and np.isfinite(others).all()):
        raise ValueError("scores must be finite numbers")
    best, count = others.max(axis=1), others.shape[1]
    won, score = first > best, np.maximum(first, best)
    order = np.argsort(-score, kind="stable")
    beat, lost = np.cumsum(won[order]), np.cumsum(~won[order])
    # Particles of one score pass a threshold together: all have the rate at the last of them.
    last = np.searchsorted(-score[order], -score[order], side="right") - 1
    rate = (lost[last] + 1.0) / (count * np.maximum(beat[last], 1))
    q = np.empty(len(first))
    q[order] = np.minimum(np.minimum.accumulate(rate[::-1])[::-1], 1.0)
    return np.where(won, q, 1.0)


def compete(
    table: ParticleTable,
    aligner: Aligner,
    decoys: Decoys,
    poses: Pose,
    *,
    executor: Executor | None = None,
    seed: int = 0,
) -> Competition:
    """Score the particles of a list at the poses found for them, and at their best poses against each decoy.

    Parameters
    ----------
    table
        m particles with a source to read them from.
    aligner
        Aligner of the reference.
    decoys
        Decoys of this reference.
    poses
        Poses that ``aligner`` found, a batch of m.
    executor
        Runs the tasks; this process, one after another or on the aligner's GPU, unless given.
    seed
        Seed of searches that draw, as in ``align_table``.

    Raises
    ------
    ParticleError, FormatError
        Naming the first particle that cannot be read or does not fit.
    """
    executor = executor or executor_for(aligner.gpu or CPU)
    first = list(executor("score", _Scored(table, aligner, aligner, poses, seed), len(table)))
    others = [
        list(executor(f"decoy {number}", _Scored(table, _searching(decoy), aligner, None, seed), len(table)))
        for number, decoy in enumerate(decoys.aligners, start=1)
    ]
    return Competition(np.array(first), np.array(others).T)  # (m,), (m, K)


def _searching(decoy: Aligner) -> Aligner:
    """Return the decoy's aligner with a search that needs no start."""
    if not isinstance(decoy.settings.search, LocalSearch):
        return decoy
    return decoy.of_another(decoy.reference, settings=_everywhere(decoy.settings), mask=decoy.mask)


# The likelihood of a row, and its pose or the search for it.
_Unscored = tuple[Likelihood, Pose | Prepared]


@dataclass(frozen=True)
class _Scored(RowTask[_Unscored, float]):
    """Score of a row against a map, at its pose or at the pose that the map's aligner finds.

    ``same`` is the reference's own aligner: all scores use its sphere, and so the same samples.
    """

    returns = float
    table: ParticleTable
    aligner: Aligner
    same: Aligner
    poses: Pose | None
    seed: int

    def prepare(self, item: int) -> _Unscored:
        particle = self.table.load(item)
        with ParticleError.naming(f"particle {self.table.names[item]!r}"):
            if self.poses is not None:
                return self.scorer.likelihood(particle), self.poses[item]
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(item,)))
            search = self.aligner.prepare(particle, rng=rng)
            return self.scorer.likelihood(particle), search

    def finish(self, prepared: Sequence[_Unscored], backend: Backend) -> list[float]:
        found = iter(finished([search for _, search in prepared if not isinstance(search, Pose)], backend))
        poses = [pose if isinstance(pose, Pose) else next(found).pose for _, pose in prepared]
        stacked = [Pose.stack([pose]) for pose in poses]
        return [float(one[0]) for one in log_likelihoods([one for one, _ in prepared], stacked, backend)]

    @cached_property
    def scorer(self) -> Aligner:
        """Aligner of the map in the sphere of the reference."""
        settings = self.aligner.settings
        if settings.particle_diameter_angstrom is None and settings.mask_diameter_angstrom is None:
            settings = replace(settings, particle_diameter_angstrom=self.same.diameter_angstrom)
        return self.aligner.of_another(self.aligner.reference, settings=settings, mask=self.aligner.mask)
