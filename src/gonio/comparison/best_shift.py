"""The best shift of many orientations at once (the paper, below eq. 4 and below eq. 14).

It takes cross products C(k) = w f conj(G') of the target's samples and finds the shift t, on a grid of shifts within a
ball, that maximises

    f.g(t) = Re sum_k C(k) exp(2 pi i k.t / n)

For a fixed rotation, Omega and both norms do not depend on the shift, so the maximum is the same for every score.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.grid import REMEMBERED, index_grid
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import shift as kernels
from gonio.kernels.sample_sums import Samples

# Pairs of a sample off the grid and a shift whose phases are in memory at a time.
PHASES = 4e6


@dataclass(frozen=True)
class ShiftGrid:
    """Shifts that are tried, in steps of ``step_angstrom``; a step is a phase of ``turn`` radians at frequency one.

    They lie within ``radius`` steps of the middle of a ``cube`` (s, 3), xyz, with x running fastest.
    """

    step_angstrom: float
    turn: float
    radius: float
    cube: NDArray[np.int64]

    @cached_property
    def allowed(self) -> NDArray[np.int64]:
        """Shifts in the ball, (s, 3), in steps."""
        return np.asarray(self.cube[(self.cube**2).sum(axis=1) <= self.radius**2 + 1e-6])


@lru_cache(maxsize=REMEMBERED)
def shift_grid(
    box: int, voxel_size_angstrom: float, limit: float, max_shift_angstrom: float, points: int | None
) -> ShiftGrid:
    """Return the shifts within a distance, ``points`` along the edge of the box, or one for each voxel.

    There are at least as many as the limit, in shells, needs; zero shift is always allowed.
    """
    n = box if points is None else max(points, 2 * int(limit) + 2)
    step = voxel_size_angstrom * box / n
    radius = max(min(max_shift_angstrom / step * (1 + 1e-9), n // 2), 0.0)
    return ShiftGrid(step, 2.0 * np.pi / n, radius, index_grid(2 * int(radius) + 1).reshape(-1, 3))


# The reference at the samples of each orientation, and the arrays of results, as ``kernels.shift`` takes them.
_Sampled = tuple[NDArray[np.float32], NDArray[np.float32]]
_Found = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]


class ShiftSearch:
    """The best shift for each of many orientations.

    Parameters
    ----------
    spectrum
        The target.
    samples
        The target's samples for the kernels, with the weights of a score.
    max_shift_angstrom
        Radius of the ball; zero shift is always allowed.
    points
        Shifts tried along the edge of the box; None for every voxel. Fewer are enough for a low limit.
    """

    def __init__(
        self, spectrum: Spectrum, samples: Samples, *, max_shift_angstrom: float, points: int | None = None
    ) -> None:
        size = spectrum.box, spectrum.voxel_size_angstrom, spectrum.limit
        self._samples, self._spectrum = samples, spectrum
        self._grid = shift_grid(*size, max_shift_angstrom, points)

    def best(
        self, reference: FourierVolume, rotations: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Return the best shifts (p, 3) in angstrom, xyz, for rotations (p, 3, 3), their f.g (p,), and norms (p, 3).

        The norms are |f|^2, |g|^2 and the total weight of Omega, before any unit of the weights.
        """
        count = len(rotations)
        place, value = np.zeros(count, np.int64), np.full(count, -np.inf, np.float32)
        norms = np.empty((count, 3))
        on_grid = self._spectrum.on_grid
        # Samples off the grid are at other frequencies for each target.
        sampled = reference.turned(self._samples.frequency, rotations, keep=on_grid)
        shifts = (self._on_grid if on_grid else self._anywhere)(sampled, (place, value, norms))
        # Where the wedges have no frequency in common all shifts are equally good.
        shifts[norms[:, 2] == 0.0] = 0
        return np.asarray(shifts * self._grid.step_angstrom), value.astype(np.float64), norms

    def _on_grid(self, reference: _Sampled, found: _Found) -> NDArray[np.int64]:
        x, y, z = np.rint(self._spectrum.frequency_xyz).astype(np.int64)
        limit, reach = self._spectrum.limit * (1 + 1e-6), int(self._spectrum.limit * (1 + 1e-6))
        side = 2 * reach + 1
        places = (z * side + y + reach) * side + x + reach  # z is never negative in the Friedel half
        shifts = np.arange(-int(self._grid.radius), int(self._grid.radius) + 1)
        angle = self._grid.turn * np.outer(shifts, np.arange(-reach, reach + 1))
        cos, sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
        in_cube = places, limit, reach, cos, sin, self._grid.radius
        kernels.best_on_grid(self._samples, *reference, *in_cube, *found)
        return np.asarray(self._grid.cube[found[0]])

    def _anywhere(self, reference: _Sampled, found: _Found) -> NDArray[np.int64]:
        allowed = self._grid.allowed
        portion = max(1, int(PHASES / len(self._spectrum)))
        place, value, _ = found
        shifts = np.zeros((len(value), 3), np.int64)
        for first in range(0, len(allowed), portion):
            some = allowed[first : first + portion]
            angle = (self._grid.turn * some @ self._spectrum.frequency_xyz.astype(np.float64)).astype(np.float32)
            before = value.copy()
            kernels.best_anywhere(self._samples, *reference, np.cos(angle), np.sin(angle), *found)
            better = value > before
            shifts[better] = some[place[better]]
        return shifts
