"""Which particles are real: every particle is also aligned to maps that it cannot show.

Flow: reference -> decoys (its mirror image; maps of its spectrum with other phases) -> each particle aligned to each of
them -> scores of one kind (``Aligner.log_likelihood``) -> target-decoy competition -> a q-value for each particle
(docs/theory.md section 14).

What is no particle fits the reference as well as a decoy by chance, so that it beats its K decoys one time in K + 1. Of
the particles whose best score is t or more, T beat their decoys and D do not; the false among the T are about D / K:

    FDR(t) = (D + 1) / (K T),     q of a particle = the least FDR(t) of all t that it passes

Must not know how a pose is looked for, nor where particles come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.alignment.aligner import Aligner, Likelihood, log_likelihoods
from gonio.alignment.particle_list import ParticleError, executor_of
from gonio.alignment.prepared import Prepared, finished
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import half_shells
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Subtomogram, Volume, mirrored_volume
from gonio.particle.wedge import NoWedge
from gonio.preparation.extent import sphere_of
from gonio.run.executor import Executor
from gonio.search.backend import Backend
from gonio.search.batch_task import BatchTask
from gonio.settings import Search, Settings

__all__ = ["Competition", "Decoys", "compete", "q_values", "scrambled_volume", "self_likeness"]

# A mirror image that shares this much of the reference's detail is no decoy: what is real would fit it as well.
MOST_ALIKE = 0.7
# Decoys keep the reference's shape: phases of detail coarser than its diameter over this.
SHAPE = 2.0
# How often the spectrum's power and the sphere are imposed in turns on a map of random phases.
ROUNDS = 30


@dataclass(frozen=True)
class Decoys:
    """The maps that a reference is compared with.

    Parameters
    ----------
    aligners
        One for each map, all with the same settings but for their searches, which know no start.
    kinds
        ``"mirror"`` or ``"phases"``, one for each.
    likeness
        What the mirror image shares with the reference (``self_likeness``).
    """

    aligners: tuple[Aligner, ...]
    kinds: tuple[str, ...]
    likeness: float

    @staticmethod
    def of(aligner: Aligner, count: int, *, rng: np.random.Generator) -> Decoys:
        """Make decoys of an aligner's reference: its mirror image first, where that differs enough, then new phases.

        Parameters
        ----------
        aligner
            Of the reference.
        count
            How many, one or more.
        rng
            Draws the phases.

        Raises
        ------
        ValueError
            For no decoys; for a reference with a missing wedge, whose mirror image another wedge would have.
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
        return Decoys(tuple(made), tuple(kinds[:count]), likeness)


def _mirrored(reference: Subtomogram) -> Subtomogram:
    """The other hand of a map and of its normal."""
    normal = reference.normal_xyz
    normal = None if normal is None else np.asarray(normal) * [-1.0, 1.0, 1.0]
    return replace(reference, volume=mirrored_volume(reference.volume), normal_xyz=normal)


def _like(aligner: Aligner, support: NDArray[np.float32], rng: np.random.Generator) -> Subtomogram:
    """Another map of the aligner's reference: its power in its sphere or mask, its symmetry and its normal."""
    volume = aligner.reference.volume
    kept = SHAPE * volume.box_angstrom / aligner.diameter_angstrom
    made = scrambled_volume(volume, support, kept_shells=kept, rng=rng)
    group = Symmetry.named(aligner.settings.symmetry).matrices
    if len(group) > 1:
        whole = np.mean([moved(made, g, np.zeros(3)).data for g in group], axis=0)
        made = _with_power_of(volume, whole, support, kept_shells=kept)
    return replace(aligner.reference, volume=made)


def scrambled_volume(
    reference: Volume, support: NDArray[np.floating], *, kept_shells: float, rng: np.random.Generator
) -> Volume:
    """Make a map of the reference's shape and power in each shell, within a soft support (n, n, n), of other detail.

    Phases are the reference's up to ``kept_shells`` (shells one over the box wide) and random beyond.
    """
    noise = rng.standard_normal(reference.data.shape)
    return _with_power_of(reference, noise, support, kept_shells=kept_shells)


def _with_power_of(
    reference: Volume, data: NDArray[np.floating], support: NDArray[np.floating], *, kept_shells: float
) -> Volume:
    """A map near ``data`` that lies in the support and has the reference's power in each shell, about."""
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
    """Return which share of a map's detail another map shows too, at its best pose: 0 nothing, 1 all.

    It is the squared correlation of the samples, each shell by itself and every sample alike, as in noise that is
    white: a particle's expected score against the other map over that against its own.
    """
    target = Subtomogram(reference)
    aligner = other.of_another(other.reference, settings=_everywhere(other.settings), mask=other.mask)
    pose = aligner.align(target, rng=np.random.default_rng(0)).pose
    _, sums = aligner.shell_sums(target, Pose.stack([pose]))  # (1, s, 4)
    ff, gg, fg, count = np.moveaxis(sums[0, 1:], -1, 0)
    square = np.maximum(fg, 0.0) ** 2 / np.maximum(ff * gg, 1e-300)
    return float(count @ square / max(count.sum(), 1e-300))


def _everywhere(settings: Settings) -> Settings:
    """The same without a start, which the reference alone was looked for with: decoys have the same choice."""
    return replace(
        settings,
        search=Search.COARSE_TO_FINE,
        max_rotation_deg=None,
        prior_rotation_sd_deg=None,
        prior_shift_sd_angstrom=None,
        axis_sd_deg=None,
    )


@dataclass(frozen=True)
class Competition:
    """Scores of m particles: against the reference (m,) and against K decoys (m, K); more is better."""

    target: NDArray[np.float64]
    decoys: NDArray[np.float64]

    @property
    def best_decoy(self) -> NDArray[np.float64]:
        """The best of each particle's decoys, (m,)."""
        return np.asarray(self.decoys.max(axis=1))

    @cached_property
    def q(self) -> NDArray[np.float64]:
        """The q-value of each particle, (m,)."""
        return q_values(self.target, self.decoys)


def q_values(target: ArrayLike, decoys: ArrayLike) -> NDArray[np.float64]:
    """Return the q-value of each particle by target-decoy competition.

    Parameters
    ----------
    target
        Score of each particle against the reference, shape (m,); more is better.
    decoys
        The same against K decoys, shape (m, K) or (m,).

    Returns
    -------
    Shape (m,), 0 to 1: the least share of false ones that is expected in a set that holds the particle and all with
    better scores. A particle that a decoy fits as well has 1.

    Raises
    ------
    ValueError
        For shapes that do not fit, or scores that are not numbers.

    Notes
    -----
    FDR(t) = (D + 1) / (K T) of the particles whose best score is at least t, of which T beat all their decoys and D do
    not. It holds at every share of false particles, without a model of their scores, where what is false fits
    reference and decoys alike; the + 1 makes it hold for few of them, and lets no q-value fall below 1 / (K T).

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
    # Particles of one score pass a threshold together: all take what holds at the last of them.
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
    """Score the particles of a list, at the poses found for them, and their best poses against decoys.

    Parameters
    ----------
    table
        m particles with a source to read them from.
    aligner
        Of the reference.
    decoys
        Made of it.
    poses
        What ``aligner`` found, a batch of m.
    executor
        Who does it; this process, one after another or on the aligner's GPU, unless given.
    seed
        Of searches that draw: as in ``align_rows``.

    Raises
    ------
    ParticleError, FormatError
        Naming the first particle that cannot be read or does not fit.
    """
    executor = executor or executor_of(aligner.gpu)
    first = list(executor("score", _Scored(table, aligner, aligner, poses, seed), len(table)))
    others = [
        list(executor(f"decoy {number}", _Scored(table, _searching(decoy), aligner, None, seed), len(table)))
        for number, decoy in enumerate(decoys.aligners, start=1)
    ]
    return Competition(np.array(first), np.array(others).T)  # (m,), (m, K)


def _searching(decoy: Aligner) -> Aligner:
    """The decoy's aligner where it has no start to go by."""
    if decoy.settings.search is not Search.LOCAL:
        return decoy
    return decoy.of_another(decoy.reference, settings=_everywhere(decoy.settings), mask=decoy.mask)


# What the score of a row is made of, and its pose, or else the search for it.
_Unscored = tuple[Likelihood, Pose | Prepared]


@dataclass(frozen=True)
class _Scored(BatchTask[_Unscored, float]):
    """The score of a row against a map: at its pose, or at that which the map's aligner finds.

    ``same`` is the reference's own aligner, whose sphere is everyone's: scores then are of the same samples.
    """

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
        """The map in the sphere of the reference."""
        settings = self.aligner.settings
        if settings.particle_diameter_angstrom is None and settings.mask_diameter_angstrom is None:
            settings = replace(settings, particle_diameter_angstrom=self.same.diameter_angstrom)
        return self.aligner.of_another(self.aligner.reference, settings=settings, mask=self.aligner.mask)

    def source(self, row: int) -> Path | None:
        """The file of a row's particle."""
        return self.table.image(row)
