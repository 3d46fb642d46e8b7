"""The dissimilarities RCS, FCS and likelihood ratio, as values and as normal equations.

Flow: poses -> 37 sums over the samples that both particles have measured (kernels) -> d, H, b of docs/theory.md
eqs. 8-13, for the tangent (omega, t) of ``gonio.pose`` in radians and angstrom:

    FCS   d = (|f|^2 + |g|^2 - 2 f.g) / |Omega|  H = J^T J / |Omega|                       b = (J^T f - J^T g) / |Omega|
    RCS   d = 2 - 2 c,  c = f.g / (|f| |g|)      H = c (J^T J - J^T g g^T J / |g|^2) / |g|^2 b = grad c
    likelihood   d = (sum of eq. 30 over Omega) / |Omega|^(1/4), with the same sums of whitened samples

so that d(x + dx) ~ d - 2 b.dx + dx^T H dx, and the gradient of d is -2 b. Knows nothing of how d is minimised.

Legend: f the target, g the reference as the target would show it, J = dg/dx, Omega the samples in both wedges.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.expectation import MAX_NULL, Expectation, shell_weight
from gonio.fourier import FourierVolume, ShiftSearch, Spectrum
from gonio.kernels import cpu

__all__ = ["Comparison", "NormalEquations", "Score", "weighted"]

# Orientations whose cross products are held in memory together.
CHUNK = 16
# Floor of the contrast that scales the Gauss-Newton matrix of RCS.
MIN_CONTRAST = 0.05
# Fewer samples in common than this, or than this share of the target's, fit anything: four for each unknown, 5 %.
MIN_SAMPLES, MIN_OVERLAP = 24, 0.05
# A sum over more samples wanders further: eq. 30 is divided by |Omega| to this power, measured on pools of optima.
LIKELIHOOD_ROOT = 0.25
# Shells that are expected to agree less than this say nothing in a likelihood ratio.
MIN_CORRELATION = 1e-3
_UPPER = np.triu_indices(6)


class Score(StrEnum):
    """Which dissimilarity: real space constrained, Fourier space constrained, or the likelihood ratio (eq. 30)."""

    RCS = "rcs"
    FCS = "fcs"
    LIKELIHOOD = "likelihood"


@dataclass(frozen=True)
class NormalEquations:
    """Dissimilarity and its quadratic model at p poses: ``d(x + dx) ~ d - 2 b.dx + dx^T H dx``.

    ``dissimilarity`` (p,), ``hessian`` (p, k, k), ``descent`` b (p, k), ``overlap`` (p,) the total weight of Omega.
    Where Omega is empty or too small to mean anything, d is infinite.
    """

    dissimilarity: NDArray[np.float64]
    hessian: NDArray[np.float64]
    descent: NDArray[np.float64]
    overlap: NDArray[np.float64]


def _rcs(sums: NDArray[np.float64], jtj: NDArray, jtf: NDArray, jtg: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    ff, gg, fg = (sums[:, i] for i in (cpu.FF, cpu.GG, cpu.FG))
    seen = (ff > 0) & (gg > 0)
    ff, gg = np.where(seen, ff, 1.0), np.where(seen, gg, 1.0)
    correlation = fg / np.sqrt(ff * gg)
    outer = jtg[:, :, None] * jtg[:, None, :]
    hessian = (jtj - outer / gg[:, None, None]) / gg[:, None, None]
    hessian *= np.clip(correlation, MIN_CONTRAST, 1.0)[:, None, None]
    descent = jtf / np.sqrt(ff * gg)[:, None] - (correlation / gg)[:, None] * jtg
    return np.where(seen, 2.0 - 2.0 * correlation, np.inf), hessian, descent


def _fcs(sums: NDArray[np.float64], jtj: NDArray, jtf: NDArray, jtg: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    ff, gg, fg, overlap = (sums[:, i] for i in (cpu.FF, cpu.GG, cpu.FG, cpu.WEIGHT))
    total = np.where(overlap > 0, overlap, 1.0)
    dissimilarity = np.where(overlap > 0, (ff + gg - 2.0 * fg) / total, np.inf)
    return dissimilarity, jtj / total[:, None, None], (jtf - jtg) / total[:, None]


def _likelihood(
    sums: NDArray[np.float64], jtj: NDArray, jtf: NDArray, jtg: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    ff, gg, fg, overlap = (sums[:, i] for i in (cpu.FF, cpu.GG, cpu.FG, cpu.WEIGHT))
    total = np.where(overlap > 0, overlap, 1.0) ** LIKELIHOOD_ROOT
    return (ff + gg - 2.0 * fg) / total, jtj / total[:, None, None], (jtf - jtg) / total[:, None]


_MODELS = {Score.RCS: _rcs, Score.FCS: _fcs, Score.LIKELIHOOD: _likelihood}


class Comparison:
    """A target's samples against a reference: everything that can be asked of the pair, at many poses at once.

    Parameters
    ----------
    target, reference
        Of one box size and voxel size; the reference's limit must reach the target's.
    score
        Which dissimilarity.
    expectation
        What is known of both inputs shell by shell; the likelihood ratio needs it, the other scores ignore it.
    """

    def __init__(
        self, target: Spectrum, reference: FourierVolume, *, score: Score, expectation: Expectation | None = None
    ) -> None:
        if target.box != reference.box or target.limit > reference.limit * (1 + 1e-6):
            raise ValueError(
                f"the reference's spectrum was made for a box of {reference.box} to shell {reference.limit:g}, "
                f"the target has a box of {target.box} and goes to shell {target.limit:g}"
            )
        self.target = target
        self.reference = reference
        self.score = Score(score)
        radius = target.radius
        self._n_shells = int(np.rint(target.limit)) + 1
        self._shell = np.minimum(np.rint(radius).astype(np.int64), self._n_shells - 1)
        self._counts, self._unit = _plain_counts(target), 1.0
        if self.score is Score.LIKELIHOOD:
            if expectation is None:
                raise ValueError("the likelihood ratio needs the expected correlation of the shells: use a filter")
            self._counts, self._unit = _likelihood_counts(target, expectation, radius)
        self._least = max(MIN_SAMPLES, MIN_OVERLAP * float(target.weight.sum(dtype=np.float64)))
        # Kernels take shifts as phases per unit of frequency.
        self._phase = 2.0 * np.pi / (target.box * target.voxel_size_angstrom)

    def _arguments(self, rotations: NDArray, shifts_angstrom: NDArray, *outputs: NDArray) -> tuple:
        r, f = self.reference, self.target
        reference = (r.grid, r.side, r.scale, r.regions, r.weights, r.weight_scale)
        weight, power, own = self._counts
        samples = (f.frequency_xyz, f.value, f.transfer, weight, power, own)
        matrices = np.ascontiguousarray(rotations, dtype=np.float32)
        return (*reference, *samples, matrices, np.float32(self._phase * shifts_angstrom), *outputs)

    def normal_equations(self, rotations: NDArray, shifts_angstrom: NDArray) -> NormalEquations:
        """d, H and b at p poses: rotation matrices (p, 3, 3), shifts (p, 3) in angstrom."""
        sums = np.empty((len(rotations), cpu.N_SUMS))
        cpu.normal_equations(*self._arguments(rotations, shifts_angstrom, sums))
        sums[:, : cpu.WEIGHT] *= self._unit
        units = np.repeat([1.0, self._phase], 3)
        jtj = np.zeros((len(sums), 6, 6))
        jtj[:, _UPPER[0], _UPPER[1]] = sums[:, cpu.JTJ : cpu.JTF]
        jtj[:, _UPPER[1], _UPPER[0]] = sums[:, cpu.JTJ : cpu.JTF]
        jtj *= units[:, None] * units
        jtf, jtg = sums[:, cpu.JTF : cpu.JTG] * units, sums[:, cpu.JTG : cpu.FF] * units
        dissimilarity, hessian, descent = _MODELS[self.score](sums, jtj, jtf, jtg)
        overlap = sums[:, cpu.WEIGHT].copy()
        return NormalEquations(np.where(overlap < self._least, np.inf, dissimilarity), hessian, descent, overlap)

    def best_shifts(
        self, rotations: NDArray, *, max_shift_angstrom: float, points: int | None = None
    ) -> NDArray[np.float64]:
        """The best shift (p, 3) in angstrom for each rotation (p, 3, 3), within a ball, on a grid of shifts.

        The grid is that of the voxels, or of ``points`` along the edge of the box.
        For a fixed rotation Omega and both norms do not depend on the shift, so one maximum serves both scores.
        """
        search = ShiftSearch(self.target, max_shift_angstrom=max_shift_angstrom, points=points)
        result = np.empty((len(rotations), 3))
        for first in range(0, len(rotations), CHUNK):
            chunk = rotations[first : first + CHUNK]
            products, _ = self._products(chunk, np.zeros((len(chunk), 3)))
            result[first : first + CHUNK] = search.best(products)
        return result

    def shell_sums(self, rotations: NDArray, shifts_angstrom: NDArray) -> NDArray[np.float64]:
        """|f|^2, |g|^2, f.g and |Omega| of each shell at p poses, shape (p, s, 4): shell s holds round(abs(k)) = s."""
        return self._products(rotations, shifts_angstrom)[1]

    def totals(self, rotation: NDArray, shift_angstrom: NDArray) -> NDArray[np.float64]:
        """|f|^2, |g|^2, f.g and |Omega| at one pose, shape (4,)."""
        return self.shell_sums(rotation[None], shift_angstrom[None])[0].sum(axis=0)

    def _products(self, rotations: NDArray, shifts_angstrom: NDArray) -> tuple[NDArray, NDArray]:
        products = np.empty((len(rotations), len(self.target)), dtype=np.complex64)
        sums = np.empty((len(rotations), self._n_shells, 4))
        cpu.products(*self._arguments(rotations, shifts_angstrom, self._shell, products, sums))
        return products, sums


def _plain_counts(target: Spectrum) -> tuple[NDArray, NDArray, NDArray]:
    """Weights, |f|^2 and the share of |g|^2 that counts, for RCS and FCS: float32, shape (n,) each."""
    power = np.asarray(np.abs(target.value) ** 2, dtype=np.float32)
    return target.weight, power, np.ones_like(target.weight)


def _likelihood_counts(
    target: Spectrum, expectation: Expectation, radius: NDArray
) -> tuple[tuple[NDArray, NDArray, NDArray], float]:
    """The same for eq. 30, each sample's terms divided by its weight in f.g, and the unit of these weights.

    Weights have a mean of one, so that their sum still counts samples.
    """
    shells = np.arange(len(expectation.correlation))
    rho = np.maximum(expectation.at(radius), MIN_CORRELATION)
    null = np.minimum(expectation.null_at(radius), MAX_NULL * rho)
    f_rms = np.sqrt(np.interp(radius, shells, expectation.target_power))
    g_rms = np.sqrt(np.interp(radius, shells, expectation.reference_power))
    cross = rho / (1.0 - rho**2) - null / (1.0 - null**2)
    norm = rho**2 / (1.0 - rho**2) - null**2 / (1.0 - null**2)
    constant = np.log((1.0 - rho**2) / (1.0 - null**2))
    gain = cross / (f_rms * g_rms)
    power = (norm * np.abs(target.value) ** 2 / f_rms**2 + constant) / gain
    own = norm / g_rms**2 / gain
    kept = np.asarray(expectation.at(radius) > 0)
    unit = float((gain * kept).mean()) or 1.0
    weight = target.weight * gain * kept / unit
    return (weight.astype(np.float32), power.astype(np.float32), own.astype(np.float32)), unit


def weighted(target: Spectrum, expectation: Expectation) -> Spectrum:
    """The target on the reference's scale, every sample weighted by what its shell is expected to tell (eq. 28).

    Weights have a mean of one.
    """
    radius = target.radius
    weight = target.weight * shell_weight(expectation.at(radius))
    mean = float(weight.mean(dtype=np.float64)) or 1.0
    value = target.value / np.complex64(expectation.contrast)
    return replace(target, value=value, weight=(weight / mean).astype(np.float32))
