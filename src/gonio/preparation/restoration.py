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

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from gonio.fourier.grid import shell_means
from gonio.kernels.dft import Filter, adjoint, dft_matrices, filter_of, filtered, forward, resampled
from gonio.kernels.restore import ImagingOperator, Model, conjugate_gradients, density_of, explained
from gonio.particle.volume import Volume, mean_within, soft_sphere
from gonio.particle.wedge import Wedge
from gonio.preparation.extent import BEYOND, TAIL_NOISE, sphere_of

__all__ = ["Restored", "Restorer"]

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


@dataclass(frozen=True)
class Restored:
    """A restored volume, and the share of each shell 0, 1, ... that is expected to be signal, shape (s,).

    The noise of the density is that of the mask over the samples per independent sample once more, as measured: so the search leaves fewer
    particles at a wrong pose (`pseudo_symmetric`, +-60, SNR 0.1: 2 of 40; with the mask's own noise 6).
    """

    volume: Volume
    signal_fraction: NDArray[np.float64]


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
    imaging: ImagingOperator
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
        imaging, order = _imaging_of(wedge, m=m, count=count, box_angstrom=edge)
        if mask is None:
            sphere = sphere_of(m, edge / m, diameter_angstrom)
            inscribed = soft_sphere(m, radius_px=0.5 * m, edge_px=1.0)
        else:
            sphere = _in_order(np.clip(resampled(mask.data, m), 0.0, 1.0), order)
            inscribed = sphere  # a mask that was given is meant: no tail beyond it
        weight = filter_of(wedge.weight_at, count=count, step=1.0 / edge).turned(order)
        return Restorer(sphere, inscribed, imaging, _Shells.of(weight, limit=limit), order, edge)

    def within(self, diameter_angstrom: float) -> Restorer:
        """The same with another soft sphere, not a mask: what follows from the wedge, which costs most, is kept."""
        m = len(self.sphere)
        return replace(self, sphere=sphere_of(m, self.box_angstrom / m, diameter_angstrom))

    @property
    def limit(self) -> float:
        """Resolution limit in units of one over the box."""
        return self.shells.limit

    @property
    def samples_per_independent(self) -> float:
        """Samples of the box for each one that the mask leaves independent: its power is D^2."""
        return float(self.sphere.size / (self.sphere**2).sum(dtype=np.float64))

    @property
    def restored_samples_per_independent(self) -> float:
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
            imaging=self.imaging,
        )
        density = _most_probable(model, data)
        if not density.any():
            density = np.asarray(data, dtype=np.float32)  # which holds nothing below the limit, not even rounding
        density = _in_order(scale * density, [self.order.index(axis) for axis in range(3)])
        fraction = signal / np.maximum(signal + noise / self.samples_per_independent, 1e-12)
        shells = np.arange(int(np.rint(self.limit)) + 1)
        return Restored(
            Volume(resampled(density, volume.box), volume.voxel_size_angstrom),
            np.interp(shells, np.arange(1, len(fraction) + 1), fraction),
        )

    def _tail(self, data: NDArray) -> float:
        """The mean square around the sphere over that within it, both beyond the noise of the corners."""
        corners, around = 1.0 - self.inscribed, self.inscribed * (1.0 - self.sphere)
        if not around.any():
            return 0.0
        spectrum = forward(data, self.imaging.dft_matrices)
        seen = adjoint(filtered(self.shells.weight, spectrum), self.imaging.dft_matrices) ** 2
        noise, outside, inside = (float(np.vdot(w, seen) / w.sum()) for w in (corners, around, self.sphere))
        return float(np.clip((outside - (1.0 + TAIL_NOISE) * noise) / max(inside - noise, 1e-12), 0.0, 1.0))

    def _power(self, data: NDArray, window: NDArray) -> NDArray[np.float64]:
        """Mean power within a window in shells 1, 2, ... up to the limit; that of white unit noise is 1.

        The mean in the window is taken off: with it the window itself would have power.
        """
        spectrum = forward((data - mean_within(data, window)) * window, self.imaging.dft_matrices)
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
        explained(model, forward(data, model.imaging.dft_matrices)),
        1.0 / (1.0 + np.minimum(excess, MOST_EXCESS)),
        ITERATIONS,
        np.float32(LEFT_OVER),
        np.float32(LEFT_OF_SCATTER * (excess / (1.0 + excess)).sum()),
    )
    return density_of(model, v)


def _imaging_of(wedge: Wedge, *, m: int, count: int, box_angstrom: float) -> tuple[ImagingOperator, tuple[int, ...]]:
    """For a box of m voxels and its samples -count to count along each axis; and the order of its axes (z, y, x).

    An axis along which the wedge does not change, such as that of the tilts, needs no padding, and comes first.
    """
    measured = filter_of(lambda k: wedge.weight_at(k) > 0, count=m, step=0.5 / box_angstrom)
    order = tuple(sorted(range(3), key=lambda axis: not measured.is_constant(axis)))
    padded = [not measured.is_constant(axis) for axis in order]
    own, double, none = (
        dft_matrices(m, period=m, count=count),
        dft_matrices(m, period=2 * m, count=m),
        np.zeros((0, 0), np.float32),
    )
    fine, overlap = zip(*[(double, double @ own.T) if pad else (own, none) for pad in padded], strict=True)
    shape = [len(matrix) for matrix in fine]
    return ImagingOperator((own,) * 3, fine, overlap, measured.turned(order).cut(shape)), order


def _in_order(density: NDArray, order: Sequence[int]) -> NDArray:
    """A density with its axes in another order."""
    return np.ascontiguousarray(density.transpose(order))


def working_box(box: int, limit: float) -> int:
    """The smallest even box of the same size in angstrom that holds the limit with two shells to spare."""
    return min(2 * int(np.ceil(limit + BEYOND + 1.0)), box)
