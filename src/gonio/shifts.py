"""The best shift of many orientations at once (the paper, below eq. 4 and below eq. 14).

From cross products C(k) = w f conj(G') of the target's samples it finds the shift t, on a grid of shifts within a ball,
that maximises

    f.g(t) = Re sum_k C(k) exp(2 pi i k.t / n)

For a fixed rotation Omega and both norms do not depend on the shift, so one maximum serves every score.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.fourier import FourierVolume, Spectrum
from gonio.kernels import shift as kernels
from gonio.kernels.cpu import Samples
from gonio.lattice import index_grid

__all__ = ["ShiftSearch"]

# Phases of samples that are not on a grid are held in memory for so many pairs of a sample and a shift at a time.
PHASES = 4e6


class ShiftSearch:
    """The best shift for each of many orientations.

    Parameters
    ----------
    spectrum
        The target.
    samples
        The same as the kernels take it, with the weights of a score.
    max_shift_angstrom
        Radius of the ball; zero shift is always allowed.
    points
        Shifts tried along the edge of the box; None for every voxel. Fewer do for a low limit.
    """

    def __init__(
        self, spectrum: Spectrum, samples: Samples, *, max_shift_angstrom: float, points: int | None = None
    ) -> None:
        n = spectrum.box if points is None else max(points, 2 * int(spectrum.limit) + 2)
        self._samples = samples
        self._spectrum = spectrum
        self.step_angstrom = spectrum.voxel_size_angstrom * spectrum.box / n
        self._radius = max(min(max_shift_angstrom / self.step_angstrom * (1 + 1e-9), n // 2), 0.0)
        self._cube = index_grid(2 * int(self._radius) + 1).reshape(-1, 3)  # shifts (s, 3) xyz in order (z, y, x)
        self.turn = 2.0 * np.pi / n

    @property
    def allowed(self) -> NDArray[np.int64]:
        """Shifts that are tried, (s, 3), in steps of ``step_angstrom``; a step is ``turn`` in phase at frequency 1."""
        return self._cube[(self._cube**2).sum(axis=1) <= self._radius**2 + 1e-6]

    def best(
        self, reference: FourierVolume, rotations: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """The best shifts (p, 3) in angstrom, xyz, for rotation matrices (p, 3, 3); their f.g (p,); norms (p, 3).

        The norms are |f|^2, |g|^2 and the total weight of Omega, before any unit of the weights.
        """
        count = len(rotations)
        place, value = np.zeros(count, np.int64), np.full(count, -np.inf, np.float32)
        norms = np.empty((count, 3))
        on_grid = self._spectrum.on_grid
        # Samples off the grid lie elsewhere for every target.
        turned = reference.turned(self._samples.frequency, rotations, keep=on_grid)
        shifts = (self._on_grid if on_grid else self._anywhere)(*turned, place, value, norms)
        # Where the wedges share nothing there is nothing to tell one shift from another.
        shifts[norms[:, 2] == 0.0] = 0
        return np.asarray(shifts * self.step_angstrom), value.astype(np.float64), norms

    def _on_grid(
        self, values: NDArray, weights: NDArray, place: NDArray, value: NDArray, norms: NDArray
    ) -> NDArray[np.int64]:
        x, y, z = np.rint(self._spectrum.frequency_xyz).astype(np.int64)
        limit, reach = self._spectrum.limit * (1 + 1e-6), int(self._spectrum.limit * (1 + 1e-6))
        side = 2 * reach + 1
        places = (z * side + y + reach) * side + x + reach  # z is never negative in the Friedel half
        shifts = np.arange(-int(self._radius), int(self._radius) + 1)
        angle = self.turn * np.outer(shifts, np.arange(-reach, reach + 1))
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        kernels.best_on_grid(
            self._samples,
            values,
            weights,
            places,
            limit,
            reach,
            cos,
            sin,
            self._radius,
            place,
            value,
            norms,
        )
        return self._cube[place]

    def _anywhere(
        self, values: NDArray, weights: NDArray, place: NDArray, value: NDArray, norms: NDArray
    ) -> NDArray[np.int64]:
        allowed = self.allowed
        portion = max(1, int(PHASES / len(self._spectrum)))
        shifts = np.zeros((len(weights), 3), np.int64)
        for first in range(0, len(allowed), portion):
            some = allowed[first : first + portion]
            angle = (self.turn * some @ self._spectrum.frequency_xyz.astype(np.float64)).astype(np.float32)
            before = value.copy()
            kernels.best_anywhere(self._samples, values, weights, np.cos(angle), np.sin(angle), place, value, norms)
            better = value > before
            shifts[better] = some[place[better]]
        return shifts
