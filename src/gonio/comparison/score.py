"""The dissimilarities RCS, FCS and likelihood ratio, as values and as normal equations.

Flow: poses -> 37 sums over the samples that both particles have measured (kernels) -> d, H, b of docs/theory.md
eqs. 8-13, for the tangent (omega, t) of ``gonio.particle.pose`` in radians and angstrom:

    FCS   d = (|f|^2 + |g|^2 - 2 f.g) / |Omega|  H = J^T J / |Omega|                       b = (J^T f - J^T g) / |Omega|
    RCS   d = 2 - 2 c,  c = f.g / (|f| |g|)      H = c (J^T J - J^T g g^T J / |g|^2) / |g|^2 b = grad c
    likelihood   d = (sum of eq. 30 over Omega) / |Omega|^(1/4), with the same sums of whitened samples

so that d(x + dx) ~ d - 2 b.dx + dx^T H dx, and the gradient of d is -2 b. Must not know how d is minimised.

Legend: f the target, g the reference imaged as the target, J = dg/dx, Omega the samples in both wedges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.best_shift import ShiftSearch
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import model, sample_sums, shells

# With fewer samples in common (four for each unknown), or a smaller fraction of the target's, any pose fits.
MIN_SAMPLES, MIN_OVERLAP = 24, 0.05


class Score(StrEnum):
    """The dissimilarity: real space constrained, Fourier space constrained, or the likelihood ratio (eq. 30)."""

    RCS = "rcs"
    FCS = "fcs"
    LIKELIHOOD = "likelihood"


@dataclass(frozen=True)
class NormalEquations:
    """Dissimilarity and its quadratic model at p poses: ``d(x + dx) ~ d - 2 b.dx + dx^T H dx``.

    ``dissimilarity`` (p,), ``hessian`` (p, k, k), ``descent`` b (p, k), ``overlap`` (p,) the total weight of Omega.
    Where Omega is empty or too small, d is infinite.
    """

    dissimilarity: NDArray[np.float64]
    hessian: NDArray[np.float64]
    descent: NDArray[np.float64]
    overlap: NDArray[np.float64]


CODES = {Score.RCS: model.RCS, Score.FCS: model.FCS, Score.LIKELIHOOD: model.LIKELIHOOD}
SCORES = {code: score for score, code in CODES.items()}


class Comparison:
    """A target's samples and a reference: their dissimilarity, its derivatives and sums, at many poses at once.

    Parameters
    ----------
    target, reference
        Two particles with one box size and voxel size; the reference's limit must not be below the target's.
    score
        The dissimilarity.
    expected_fsc
        Expected FSC and powers of the pair; the likelihood ratio needs them, the other scores ignore them.
    """

    def __init__(
        self, target: Spectrum, reference: FourierVolume, *, score: Score, expected_fsc: ExpectedFsc | None = None
    ) -> None:
        if target.box != reference.box or target.limit > reference.limit * (1 + 1e-6):
            raise ValueError(
                f"the reference's spectrum was made for a box of {reference.box} to shell {reference.limit:g}, "
                f"the target has a box of {target.box} and goes to shell {target.limit:g}"
            )
        self.target = target
        self.reference = reference
        self.score = Score(score)
        self._counts, self.unit = _plain_counts(target), 1.0
        if self.score is Score.LIKELIHOOD:
            if expected_fsc is None:
                raise ValueError("the likelihood ratio needs the expected FSC of the pair: give expected_fsc")
            self._counts, self.unit = _likelihood_counts(target, expected_fsc)
        self.least = max(float(MIN_SAMPLES), MIN_OVERLAP * float(target.weight.sum(dtype=np.float64)))
        weight, power, own = self._counts
        value = np.stack([target.value.real, target.value.imag])  # (2, n)
        self.samples = sample_sums.Samples(target.frequency_xyz, value, target.transfer, weight, power, own)
        # Kernels take shifts as phases per unit of frequency.
        self.phase = 2.0 * np.pi / (target.box * target.voxel_size_angstrom)

    def by_fcs(self) -> Comparison:
        """Return a comparison of these samples by FCS, with the target's weights."""
        return Comparison(self.target, self.reference, score=Score.FCS)

    def normal_equations(
        self, rotations: NDArray[np.floating], shifts_angstrom: NDArray[np.floating]
    ) -> NormalEquations:
        """Return d, H and b at p poses: rotation matrices (p, 3, 3), shifts (p, 3) in angstrom."""
        sums = np.empty((len(rotations), sample_sums.N_SUMS))
        matrices, phases = self._for_kernels(rotations, shifts_angstrom)
        sample_sums.normal_equations(self.reference.kernel, self.samples, matrices, phases, sums)
        return self.equations(sums)

    def equations(self, sums: NDArray[np.float64]) -> NormalEquations:
        """Return d, H and b from the 37 sums (p, 37)."""
        d, hessian, descent = np.empty(len(sums)), np.empty((len(sums), 6, 6)), np.empty((len(sums), 6))
        model.models(CODES[self.score], sums, self.unit, self.phase, self.least, d, hessian, descent)
        return NormalEquations(d, hessian, descent, sums[:, sample_sums.WEIGHT].copy())

    def best_shifts(
        self, rotations: NDArray[np.floating], *, max_shift_angstrom: float, points: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the best shift (p, 3) in angstrom for each rotation (p, 3, 3), and the dissimilarity there (p,).

        Shifts lie within a ball, on the grid of the voxels, or of ``points`` along the edge of the box.
        """
        search = ShiftSearch(self.target, self.samples, max_shift_angstrom=max_shift_angstrom, points=points)
        matrices = np.ascontiguousarray(rotations, dtype=np.float32)
        shifts, product, norms = search.best(self.reference, matrices)
        sums, d = np.insert(norms, 2, product, axis=1), np.empty(len(rotations))
        model.dissimilarities(CODES[self.score], sums, self.unit, self.least, d)
        return shifts, d

    def values(
        self, rotations: NDArray[np.floating], shifts_angstrom: NDArray[np.floating]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the dissimilarity and the total weight of Omega at p poses, (p,) each."""
        sums = self.shell_sums(rotations, shifts_angstrom).sum(axis=1)
        d = np.empty(len(sums))
        model.dissimilarities(CODES[self.score], sums, self.unit, self.least, d)
        return d, sums[:, 3]

    def shell_sums(self, rotations: NDArray[np.floating], shifts_angstrom: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return |f|^2, |g|^2, f.g and |Omega| of each shell, round(abs(k)), at p poses, shape (p, s, 4)."""
        sums = np.empty((len(rotations), self.target.n_shells, 4))
        matrices, phases = self._for_kernels(rotations, shifts_angstrom)
        sample_sums.shell_sums(self.reference.kernel, self.samples, matrices, phases, self.target.shell, sums)
        return sums

    def shell_equations(
        self, rotation: NDArray[np.floating], shift_angstrom: NDArray[np.floating]
    ) -> NDArray[np.float64]:
        """Return the 37 sums (docs/theory.md eq. 8) of each shell at one pose, (s, 37), as ``kernels.sample_sums``."""
        sums = np.empty((self.target.n_shells, sample_sums.N_SUMS))
        matrices, phases = self._for_kernels(rotation[None], shift_angstrom[None])
        sample_sums.shell_equations(
            self.reference.kernel, self.samples, matrices[0], phases[0], self.target.shell, sums
        )
        return sums

    def _for_kernels(
        self, rotations: NDArray[np.floating], shifts_angstrom: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        phases = np.ascontiguousarray(self.phase * shifts_angstrom, dtype=np.float32)
        return np.ascontiguousarray(rotations, dtype=np.float32), phases


def _plain_counts(target: Spectrum) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """Return weights, |f|^2 and factors of |g|^2 for RCS and FCS: float32, shape (n,) each."""
    power = np.asarray(np.abs(target.value) ** 2, dtype=np.float32)
    return target.weight, power, np.ones_like(target.weight)


def _likelihood_counts(
    target: Spectrum, expected_fsc: ExpectedFsc
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]], float]:
    """Return weights, |f|^2 and factors of |g|^2 for eq. 30, (n,) each, and the unit of the weights.

    The terms of each sample are divided by its weight in f.g. Weights have a mean of one, so that their sum still
    counts samples.
    """
    counts = np.empty((3, len(target)), np.float32)
    unit = shells.likelihood_counts(expected_fsc.table, target.radius, target.value, target.weight, counts)
    weight, power, own = counts
    return (weight, power, own), unit


def weighted(target: Spectrum, expected_fsc: ExpectedFsc) -> Spectrum:
    """Return the target on the reference's scale, each sample weighted by the expected FSC of its shell (eq. 28).

    Weights have a mean of one.
    """
    weight = np.empty(len(target), np.float32)
    shells.sample_weights(expected_fsc.table, target.radius, target.weight, weight)
    return replace(target, value=target.value / np.complex64(expected_fsc.contrast), weight=weight)
