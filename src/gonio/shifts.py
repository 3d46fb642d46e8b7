"""The best shift of many orientations at once (the paper, below eq. 4 and below eq. 14).

From cross products C(k) = w f conj(G') of a spectrum's samples it finds the shift t, on a grid of shifts within a ball,
that maximises

    f.g(t) = Re sum_k C(k) exp(2 pi i k.t / n)

For a fixed rotation Omega and both norms do not depend on the shift, so one maximum serves every score. The sum is a
matrix product. Few samples and shifts are taken at once; where there are many and the samples lie on a grid, one axis
is summed after the other, which is a Fourier transform of no more than the samples that exist to no more than the
shifts that are asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.fourier import Spectrum, index_grid
from gonio.kernels import cpu

__all__ = ["ShiftSearch"]

# Up to so many terms the sum is taken at once: a matrix of 4 MB, which stays in the cache of most processors.
AT_ONCE = 5e5
# Numbers that are worked on at a time: they stay in the cache (ten times as many take up to twice as long).
CHUNK = 2e5


class ShiftSearch:
    """The best shift for each of many orientations.

    Parameters
    ----------
    spectrum
        Whose samples the products belong to.
    max_shift_angstrom
        Radius of the ball; zero shift is always allowed.
    points
        Shifts tried along the edge of the box; None for every voxel. Fewer do for a low limit.
    """

    def __init__(self, spectrum: Spectrum, *, max_shift_angstrom: float, points: int | None = None) -> None:
        n = spectrum.box if points is None else max(points, 2 * int(spectrum.limit) + 2)
        self._step_angstrom = spectrum.voxel_size_angstrom * spectrum.box / n
        furthest = min(max_shift_angstrom / self._step_angstrom * (1 + 1e-9), n // 2)
        self._reach = int(max(furthest, 0.0))
        cube = index_grid(2 * self._reach + 1).reshape(-1, 3)  # (s, 3) xyz, order (z, y, x)
        self._shifts = cube[(cube**2).sum(axis=1) <= max(furthest, 0.0) ** 2]
        self._frequency = spectrum.frequency_xyz
        self._turn = np.float64(2.0 * np.pi / n)
        self._separable = spectrum.on_grid and len(spectrum) * len(self._shifts) > AT_ONCE

    def best(self, products: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The best shifts (p, 3) in angstrom, xyz, and their f.g (p,), for cross products (p, 2, n), re and im."""
        if self._separable:
            shift, value = self._axis_by_axis(products)
        else:
            shift, value = self._at_once(products)
        # Where the wedges share nothing there is nothing to tell one shift from another.
        shift[value == 0.0] = int(np.flatnonzero((self._shifts == 0).all(axis=1))[0])
        return np.asarray(self._shifts[shift] * self._step_angstrom), value.astype(np.float64)

    def _at_once(self, products: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Place of the best shift and f.g there, (p,) each; shifts are taken in portions that fit in memory."""
        rows = products.reshape(len(products), -1)  # (p, 2 n)
        best = np.zeros(len(rows), np.int64)
        value = np.full(len(rows), -np.inf, np.float32)
        portion = max(1, int(CHUNK / (2 * self._frequency.shape[1])))
        for first in range(0, len(self._shifts), portion):
            shifts = self._shifts[first : first + portion]
            angle = (self._turn * shifts @ self._frequency.astype(np.float64)).astype(np.float32)  # (s, n)
            phases = np.concatenate([np.cos(angle), -np.sin(angle)], axis=1)  # (s, 2 n)
            scores = rows @ phases.T  # (p, s)
            place = scores.argmax(axis=1)
            here = scores[np.arange(len(rows)), place]
            better = here > value
            best[better], value[better] = first + place[better], here[better]
        return best, value

    def _axis_by_axis(self, products: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        x, y, z = np.rint(self._frequency).astype(np.int64)
        reach = int(max(abs(x).max(), abs(y).max(), z.max()))
        side = 2 * reach + 1
        places = (z * side + y + reach) * side + x + reach  # z is never negative in the Friedel half
        shifts = np.arange(-self._reach, self._reach + 1)
        whole = np.exp(1j * self._turn * np.outer(shifts, np.arange(-reach, reach + 1))).astype(np.complex64)
        half = np.ascontiguousarray(whole[:, reach:])
        best, value = np.empty(len(products), np.int64), np.empty(len(products), np.float32)
        inside = np.ravel_multi_index(tuple(self._shifts.T + self._reach), (len(shifts),) * 3)  # in order (x, y, z)
        portion = max(1, int(CHUNK / max((reach + 1) * side**2, len(shifts) ** 3)))
        for first in range(0, len(products), portion):
            rows = products[first : first + portion]
            p = len(rows)
            cube = np.zeros(((reach + 1) * side**2, p), np.complex64)
            cube[places] = (rows[:, 0] + 1j * rows[:, 1]).T
            by_z = (half @ cube.reshape(reach + 1, -1)).reshape(-1, side, side * p)  # (tz, y, x p)
            by_y = whole @ by_z.transpose(1, 0, 2).reshape(side, -1)  # (ty, tz x p)
            columns = by_y.reshape(-1, side, p).transpose(1, 0, 2).reshape(side, -1)  # (x, ty tz p)
            scores = whole.real @ columns.real - whole.imag @ columns.imag  # (tx, ty tz p)
            here = slice(first, first + p)
            cpu.largest(scores.reshape(-1, p), inside, best[here], value[here])
        return best, value
