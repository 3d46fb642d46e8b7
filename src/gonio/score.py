"""The paper's two dissimilarities, RCS and FCS, as values and as normal equations.

Flow: poses -> 37 sums over the samples that both particles have measured (kernels) -> d, H, b of docs/theory.md
eqs. 8-13, for the tangent (omega, t) of ``gonio.pose`` in radians and angstrom:

    FCS   d = (|f|^2 + |g|^2 - 2 f.g) / |Omega|  H = J^T J / |Omega|                       b = (J^T f - J^T g) / |Omega|
    RCS   d = 2 - 2 c,  c = f.g / (|f| |g|)      H = c (J^T J - J^T g g^T J / |g|^2) / |g|^2 b = grad c

so that d(x + dx) ~ d - 2 b.dx + dx^T H dx, and the gradient of d is -2 b. Knows nothing of how d is minimised.

Legend: f the target, g the reference as the target would show it, J = dg/dx, Omega the samples in both wedges.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.fourier import FourierVolume, ShiftSearch, Spectrum
from gonio.kernels import cpu

__all__ = ["Comparison", "NormalEquations", "Score"]

# Orientations whose cross products are held in memory together.
CHUNK = 16
# Floor of the contrast that scales the Gauss-Newton matrix of RCS.
MIN_CONTRAST = 0.05
# Fewer samples in common than this, or than this share of the target's, fit anything: four for each unknown, 5 %.
MIN_SAMPLES, MIN_OVERLAP = 24, 0.05
_UPPER = np.triu_indices(6)


class Score(StrEnum):
    """Which dissimilarity: real space constrained (eqs. 1-6) or Fourier space constrained (eqs. 13-16)."""

    RCS = "rcs"
    FCS = "fcs"


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


_MODELS = {Score.RCS: _rcs, Score.FCS: _fcs}


class Comparison:
    """A target's samples against a reference: everything that can be asked of the pair, at many poses at once.

    Parameters
    ----------
    target, reference
        Of one box size and voxel size; the reference's limit must reach the target's.
    score
        Which dissimilarity.
    """

    def __init__(self, target: Spectrum, reference: FourierVolume, *, score: Score) -> None:
        if target.box != reference.box or target.limit > reference.limit * (1 + 1e-6):
            raise ValueError(
                f"the reference's spectrum was made for a box of {reference.box} to shell {reference.limit:g}, "
                f"the target has a box of {target.box} and goes to shell {target.limit:g}"
            )
        self.target = target
        self.reference = reference
        self.score = Score(score)
        self._least = max(MIN_SAMPLES, MIN_OVERLAP * float(target.weight.sum(dtype=np.float64)))
        # Kernels take shifts as phases per unit of frequency.
        self._phase = 2.0 * np.pi / (target.box * target.voxel_size_angstrom)

    def _arguments(self, rotations: NDArray, shifts_angstrom: NDArray, *outputs: NDArray) -> tuple:
        r, f = self.reference, self.target
        reference = (r.grid, r.side, r.scale, r.regions, r.weights, r.weight_scale)
        samples = (f.frequency_xyz, f.value, f.transfer, f.weight)
        matrices = np.ascontiguousarray(rotations, dtype=np.float32)
        return (*reference, *samples, matrices, np.float32(self._phase * shifts_angstrom), *outputs)

    def normal_equations(self, rotations: NDArray, shifts_angstrom: NDArray) -> NormalEquations:
        """d, H and b at p poses: rotation matrices (p, 3, 3), shifts (p, 3) in angstrom."""
        sums = np.empty((len(rotations), cpu.N_SUMS))
        cpu.normal_equations(*self._arguments(rotations, shifts_angstrom, sums))
        units = np.repeat([1.0, self._phase], 3)
        jtj = np.zeros((len(sums), 6, 6))
        jtj[:, _UPPER[0], _UPPER[1]] = sums[:, cpu.JTJ : cpu.JTF]
        jtj[:, _UPPER[1], _UPPER[0]] = sums[:, cpu.JTJ : cpu.JTF]
        jtj *= units[:, None] * units
        jtf, jtg = sums[:, cpu.JTF : cpu.JTG] * units, sums[:, cpu.JTG : cpu.FF] * units
        dissimilarity, hessian, descent = _MODELS[self.score](sums, jtj, jtf, jtg)
        overlap = sums[:, cpu.WEIGHT].copy()
        return NormalEquations(np.where(overlap < self._least, np.inf, dissimilarity), hessian, descent, overlap)

    def best_shifts(self, rotations: NDArray, *, max_shift_angstrom: float) -> NDArray[np.float64]:
        """The best whole-voxel shift (p, 3) in angstrom for each rotation (p, 3, 3), within a ball.

        For a fixed rotation Omega and both norms do not depend on the shift, so one maximum serves both scores.
        """
        search = ShiftSearch(self.target, max_shift_angstrom=max_shift_angstrom)
        result = np.empty((len(rotations), 3))
        for first in range(0, len(rotations), CHUNK):
            chunk = rotations[first : first + CHUNK]
            products = np.empty((len(chunk), len(self.target)), dtype=np.complex64)
            sums = np.empty((len(chunk), 4))
            cpu.products(*self._arguments(chunk, np.zeros((len(chunk), 3)), products, sums))
            result[first : first + CHUNK] = search.best(products)
        return result
