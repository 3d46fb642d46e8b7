"""What a particle must look like, given what was measured of it: the density that the other stages compare.

A subtomogram is the particle filtered by its wedge, cut by its box, and covered by noise that fills the box although
the particle does not. Masking it removes noise but carries what was never measured over the wedge's edge. Instead, the
particle is taken as unknown, a random density of power P(k) within the soft sphere D, and its most probable value is
found (docs/theory.md eqs. 25-27):

    f = A s + n,   A = cut to the box after the wedge's filter
    s = D^(1/2) L v,   L = P^(1/2) in Fourier space,   v white
    v = argmin |A D^(1/2) L v - f|^2 / N + |v|^2     by conjugate gradients

N is the power that is found outside the sphere, P what is found inside it beyond N. A particle that reaches beyond its
sphere without much noise has a tail there in D, and N is then that of the corners of the box. Everything works on a
grid just fine enough for the resolution limit, and v is kept in Fourier space: a few thousand samples, whatever the
voxels of the particle. Knows nothing of poses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from gonio.fourier import index_grid
from gonio.kernels.restore import Model, Optics, conjugate_gradients, density_of, explained
from gonio.kernels.waves import Filter, back, filter_of, filtered, resampled, through, waves
from gonio.lattice import shell_means
from gonio.volume import MASK_EDGE, Subtomogram, TiltStack, Volume, mean_within, soft_sphere
from gonio.wedge import Wedge

__all__ = [
    "Restored",
    "Restorer",
    "circle_crowding",
    "sphere_crowding",
    "extent_angstrom",
    "sphere_diameter_angstrom",
    "sphere_of",
    "widest_sphere_angstrom",
]

# Conjugate gradients: 12 steps leave noise-free pairs 0.10 degrees apart, 30 steps 0.10, 6 steps 0.20. They end before
# when what is left of the residual is this share of its first power, and of what the scatter of v amounts to: after 3
# to 9 steps where there is noise. At 0.1 of the scatter alone (2 to 7 steps) more particles found a wrong pose.
ITERATIONS, LEFT_OVER, LEFT_OF_SCATTER = 12, 2e-3, 0.06
# How far the inverse that CG starts from may be from one. Without a bound it blows up what lies outside the sphere, and
# noise-free particles are further from the solution after 12 steps than without it.
MOST_EXCESS = 5.0
# No noise is taken to be weaker than this share of the signal: interpolation and the box allow no better.
MIN_NOISE = 1e-3
# What seems to be noise alone is taken to hold this share of its power as signal: it still looks like something.
MIN_SIGNAL = 1e-3
# The extent is read from the lowest shells: the radius of this share of their energy, times a margin. With it the
# spheres of `sharp`, `pseudo_symmetric` and `four_gaussians` are 210, 210 and 256 angstrom, where errors are smallest.
EXTENT_SHELLS, EXTENT_SHARE, EXTENT_MARGIN = 5.0, 0.8, 1.2
# Voxels along an edge on which it is read, whatever those of the box.
EXTENT_POINTS = 32
# Particles do not lie in boxes much larger than this share of the edge.
MIN_SPHERE = 0.3
# What is found around the sphere is density only beyond this share of the noise, which its scatter may feign.
TAIL_NOISE = 0.2
# Shells beyond the limit that the density may extend to, so that the limit is no edge of its own.
BEYOND = 1.0


def sphere_of(box: int, voxel_size_angstrom: float, diameter_angstrom: float) -> NDArray[np.float32]:
    """The soft sphere of ``volume.masked_volume``."""
    diameter = diameter_angstrom / voxel_size_angstrom
    return soft_sphere(box, radius_px=0.5 * diameter, edge_px=MASK_EDGE * diameter)


def sphere_mask(volume: Volume, diameter_angstrom: float | None = None) -> Volume:
    """Return a soft sphere of the box of a map, 0 to 1: of a diameter, or of what the map shows."""
    diameter = diameter_angstrom or sphere_diameter_angstrom(volume)
    return Volume(sphere_of(volume.box, volume.voxel_size_angstrom, diameter), volume.voxel_size_angstrom)


def widest_sphere_angstrom(box_angstrom: float) -> float:
    """Diameter of the soft sphere whose edge, an eighth of it, ends at the faces of a box."""
    return box_angstrom / (1.0 + 2.0 * MASK_EDGE)


@dataclass(frozen=True)
class Restored:
    """A restored volume, and the share of each shell 0, 1, ... that is expected to be signal, shape (s,).

    The noise of the density is that of the mask over the crowding once more, as measured: so the search leaves fewer
    particles at a wrong pose (`pseudo_symmetric`, +-60, SNR 0.1: 2 of 40; with the mask's own noise 6).
    """

    volume: Volume
    signal_share: NDArray[np.float64]


@dataclass(frozen=True)
class Restorer:
    """Restores volumes of one box that share a wedge, a support and a resolution limit.

    Everything happens on a working grid of m voxels along an edge, just fine enough for the limit, and with its k
    samples along each axis that the limit needs.

    Parameters
    ----------
    sphere
        D: where the particle is, 0 to 1, shape (m, m, m).
    inscribed
        How far a tail of the particle may reach: the largest sphere of the box, 0 to 1, shape (m, m, m).
    optics
        What the samples of the box show of a density.
    shells
        The samples of the box, and how well each was measured.
    order
        Which axis of (z, y, x) is first, second and third in all of these.
    box_angstrom
        Length of an edge.
    """

    sphere: NDArray[np.float32]
    inscribed: NDArray[np.float32]
    optics: Optics
    shells: _Shells
    order: tuple[int, ...]
    box_angstrom: float

    @staticmethod
    def of(
        wedge: Wedge,
        *,
        box: int,
        voxel_size_angstrom: float,
        diameter_angstrom: float,
        limit: float,
        mask: Volume | None = None,
    ) -> Restorer:
        """For subtomograms of ``box`` voxels within a soft sphere or a mask, compared up to ``limit`` shells."""
        m, edge = working_box(box, limit), box * voxel_size_angstrom
        count = min(int(limit + BEYOND), (m - 1) // 2)
        optics, order = _optics_of(wedge, m=m, count=count, box_angstrom=edge)
        if mask is None:
            sphere = sphere_of(m, edge / m, diameter_angstrom)
            inscribed = soft_sphere(m, radius_px=0.5 * m, edge_px=1.0)
        else:
            sphere = _in_order(np.clip(resampled(mask.data, m), 0.0, 1.0), order)
            inscribed = sphere  # a mask that was given is meant: no tail beyond it
        weight = filter_of(wedge.weight_at, count=count, step=1.0 / edge).turned(order)
        return Restorer(sphere, inscribed, optics, _Shells.of(weight, limit=limit), order, edge)

    def within(self, diameter_angstrom: float) -> Restorer:
        """The same with another soft sphere, not a mask: what follows from the wedge, which costs most, is kept."""
        m = len(self.sphere)
        return replace(self, sphere=sphere_of(m, self.box_angstrom / m, diameter_angstrom))

    @property
    def limit(self) -> float:
        """Resolution limit in units of one over the box."""
        return self.shells.limit

    @property
    def crowding(self) -> float:
        """Samples of the box for each one that the mask leaves independent: its power is D^2."""
        return float(self.sphere.size / (self.sphere**2).sum(dtype=np.float64))

    @property
    def restored_crowding(self) -> float:
        """The same for restored densities, whose scatter has the power D (eq. 26)."""
        return float(self.sphere.size / self.sphere.sum(dtype=np.float64))

    def restore(self, volume: Volume, *, powers: tuple[NDArray, NDArray] | None = None) -> Restored:
        """The most probable density behind ``volume``, on its own grid, without frequencies beyond the limit.

        ``powers`` of signal and noise in shells 1, 2, ..., (s,) each, are taken from the volume when None. Their unit
        is the variance of the volume on the working grid; the signal's is that of a density that fills the box.
        """
        data = _in_order(resampled(volume.data, len(self.sphere)), self.order)
        scale = np.float32(data.std()) or np.float32(1.0)
        data = data / scale
        tail = self._tail(data)
        beyond = 1.0 - (self.inscribed if tail > 0 else self.sphere)
        noise = self._power(data, beyond)
        if powers is None:
            inside = np.maximum(self._power(data, self.sphere) - noise, 0.0)
            signal = np.asarray(isotonic_regression(inside, increasing=False).x)  # it falls with frequency
            signal = signal if signal.any() else MIN_SIGNAL * noise
        else:
            signal, noise = powers
        noise = np.maximum(noise, MIN_NOISE * signal)
        model = Model(
            envelope=np.sqrt(np.maximum(self.sphere, tail * self.inscribed)),
            root=np.sqrt(self.shells.at_samples(signal)) * self.shells.within(self.limit + BEYOND),
            precision=self.shells.weight.times(1.0 / np.maximum(self.shells.at_samples(noise), 1e-12)),
            optics=self.optics,
        )
        density = _most_probable(model, data)
        if not density.any():
            density = np.asarray(data, dtype=np.float32)  # which holds nothing below the limit, not even rounding
        density = _in_order(scale * density, [self.order.index(axis) for axis in range(3)])
        share = signal / np.maximum(signal + noise / self.crowding, 1e-12)
        shells = np.arange(int(np.rint(self.limit)) + 1)
        return Restored(
            Volume(resampled(density, volume.box), volume.voxel_size_angstrom),
            np.interp(shells, np.arange(1, len(share) + 1), share),
        )

    def _tail(self, data: NDArray) -> float:
        """The mean square around the sphere over that within it, both beyond the noise of the corners."""
        corners, around = 1.0 - self.inscribed, self.inscribed * (1.0 - self.sphere)
        if not around.any():
            return 0.0
        spectrum = through(data, self.optics.waves)
        seen = back(filtered(self.shells.weight, spectrum), self.optics.waves) ** 2
        noise, outside, inside = (float(np.vdot(w, seen) / w.sum()) for w in (corners, around, self.sphere))
        return float(np.clip((outside - (1.0 + TAIL_NOISE) * noise) / max(inside - noise, 1e-12), 0.0, 1.0))

    def _power(self, data: NDArray, window: NDArray) -> NDArray[np.float64]:
        """Mean power within a window in shells 1, 2, ... up to the limit; that of white unit noise is 1.

        The mean in the window is taken off: with it the window itself would have power.
        """
        spectrum = through((data - mean_within(data, window)) * window, self.optics.waves)
        return self.shells.power(spectrum) / max(float(np.vdot(window, window)) / window.size, 1e-12)


@dataclass(frozen=True)
class _Shells:
    """The samples (k, k, k) of a box below a limit: how well each was measured, and its shell.

    ``weight`` is zero beyond the limit; ``square`` is that of the distance from zero frequency in units of one over the
    box, ``shell`` that distance rounded (k^3,), and ``count`` the weight of each shell.
    """

    weight: Filter
    limit: float
    square: NDArray[np.int64]
    shell: NDArray[np.int64]
    count: NDArray[np.float64]

    @staticmethod
    def of(weight: Filter, *, limit: float) -> _Shells:
        """From the weight of all samples."""
        line = (np.arange(len(weight.own)) - len(weight.own) // 2) ** 2
        square = line[:, None, None] + line[:, None] + line
        weight = weight.times((square <= limit**2 * (1 + 1e-6)) & (square > 0))
        shell = np.rint(np.sqrt(square)).astype(np.int64).ravel()
        return _Shells(weight, limit, square, shell, np.bincount(shell, weights=weight.own.ravel()).astype(np.float64))

    def power(self, spectrum: NDArray) -> NDArray[np.float64]:
        """Mean square of the measured samples in shells 1, 2, ... up to the limit, (s,)."""
        total = np.bincount(self.shell, weights=(spectrum * filtered(self.weight, spectrum)).ravel())
        return shell_means(total, self.count, np.arange(1, int(self.limit) + 1))

    def at_samples(self, power: NDArray) -> NDArray[np.float32]:
        """What is known in shells 1, 2, ... at every sample, linear between them, (k, k, k)."""
        radius = np.sqrt(np.arange(self.square[-1, -1, -1] + 1))
        return np.interp(radius, np.arange(1, len(power) + 1), power).astype(np.float32)[self.square]

    def within(self, radius: float) -> NDArray[np.bool_]:
        """Which samples lie within a distance of zero frequency, (k, k, k)."""
        return self.square <= radius**2


def _most_probable(model: Model, data: NDArray) -> NDArray[np.float32]:
    """The density whose v is most probable, shape (m, m, m)."""
    # Were D the same everywhere, the operator would be 1 + excess, and excess / (1 + excess) of each sample known.
    # The sum of that is the square of an error as large as the scatter of v, in the operator's own measure.
    excess = (model.envelope**2).mean() * model.root**2 * model.precision.own
    v = conjugate_gradients(
        model,
        explained(model, through(data, model.optics.waves)),
        1.0 / (1.0 + np.minimum(excess, MOST_EXCESS)),
        ITERATIONS,
        np.float32(LEFT_OVER),
        np.float32(LEFT_OF_SCATTER * (excess / (1.0 + excess)).sum()),
    )
    return density_of(model, v)


def _optics_of(wedge: Wedge, *, m: int, count: int, box_angstrom: float) -> tuple[Optics, tuple[int, ...]]:
    """For a box of m voxels and its samples -count to count along each axis; and the order of its axes (z, y, x).

    An axis along which the wedge does not change, such as that of the tilts, needs no padding, and comes first.
    """
    measured = filter_of(lambda k: wedge.weight_at(k) > 0, count=m, step=0.5 / box_angstrom)
    order = tuple(sorted(range(3), key=lambda axis: not measured.is_constant(axis)))
    padded = [not measured.is_constant(axis) for axis in order]
    own, double, none = waves(m, period=m, count=count), waves(m, period=2 * m, count=m), np.zeros((0, 0), np.float32)
    fine, overlap = zip(*[(double, double @ own.T) if pad else (own, none) for pad in padded], strict=True)
    shape = [len(matrix) for matrix in fine]
    return Optics((own,) * 3, fine, overlap, measured.turned(order).cut(shape)), order


def _in_order(density: NDArray, order: Sequence[int]) -> NDArray:
    """A density with its axes in another order."""
    return np.ascontiguousarray(density.transpose(order))


def circle_crowding(stack: TiltStack, diameter_angstrom: float) -> float:
    """Samples of an image for each one that the circle of ``volume.masked`` leaves independent."""
    circle = sphere_of(stack.box, stack.voxel_size_angstrom, diameter_angstrom)[stack.box // 2]
    return float(circle.size / (circle**2).sum(dtype=np.float64))


def sphere_crowding(subtomogram: Subtomogram, diameter_angstrom: float) -> float:
    """Samples of a subtomogram for each one that the sphere of ``volume.masked`` leaves independent."""
    sphere = sphere_of(subtomogram.box, subtomogram.voxel_size_angstrom, diameter_angstrom)
    return float(1.0 / np.square(sphere).mean(dtype=np.float64))


def working_box(box: int, limit: float) -> int:
    """The smallest even box of the same size in angstrom that holds the limit with two shells to spare."""
    return min(2 * int(np.ceil(limit + BEYOND + 1.0)), box)


def extent_angstrom(volume: Volume, *, shells: float = EXTENT_SHELLS) -> float:
    """The radius about the box centre that holds the density, estimated from the lowest ``shells`` of the volume.

    The mean square of the low shells falls with the distance from the centre to the level of the noise, which is that
    of the corners of the box. The radius that holds most of what is above it is nearly that of the particle, whatever
    its noise and its wedge.
    """
    low = _low_shells(volume.data, min(max(shells, EXTENT_SHELLS), EXTENT_POINTS // 2 - 1))
    shell, count = _extent_shells()
    energy = np.bincount(shell, weights=(low**2).ravel())
    face = EXTENT_POINTS // 2
    noise = energy[face + 2 :].sum() / count[face + 2 :].sum()
    held = np.maximum.accumulate(np.cumsum((energy - noise * count)[: face + 1]))
    inner = np.interp(EXTENT_SHARE * held[-1], held, np.arange(face + 1))
    share = EXTENT_MARGIN * inner if held[-1] > 0 else face
    return float(share * volume.box_angstrom / EXTENT_POINTS)


def _low_shells(data: NDArray, shells: float) -> NDArray[np.float32]:
    """The lowest shells alone, on a grid just fine enough for the extent."""
    count = min(int(shells), (len(data) - 1) // 2)
    square = np.arange(-count, count + 1) ** 2
    radius = square[:, None, None] + square[:, None] + square
    spectrum = through(data, (waves(len(data), period=len(data), count=count),) * 3)
    spectrum *= (radius > 0) & (radius <= shells**2)
    return back(spectrum, (waves(EXTENT_POINTS, period=EXTENT_POINTS, count=count),) * 3)


@lru_cache(maxsize=1)
def _extent_shells() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The whole distance of each voxel from the centre, and how many have it."""
    shell = np.rint(np.linalg.norm(index_grid(EXTENT_POINTS), axis=-1)).astype(np.intp).ravel()
    return shell, np.bincount(shell)


def sphere_diameter_angstrom(volume: Volume, *, shells: float = EXTENT_SHELLS) -> float:
    """Diameter of the soft sphere that holds a volume: twice its extent, at most the box.

    The sphere's edge falls outside that extent.
    """
    edge = volume.box_angstrom
    least = MIN_SPHERE * edge * EXTENT_SHELLS / max(shells, EXTENT_SHELLS)
    return float(np.clip(2.0 * extent_angstrom(volume, shells=shells), least, widest_sphere_angstrom(edge)))
