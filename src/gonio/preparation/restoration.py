"""Restored particles: the most probable density behind a subtomogram, which the search compares.

A subtomogram is the particle filtered by its wedge, cropped by its box, with noise that fills the whole box. Masking
removes noise but smears unmeasured samples over the wedge's edge. Instead, the particle is taken as unknown, a random
density of power P(k) within the soft sphere D, and its most probable value is found (docs/theory.md eqs. 25-27):

    f = A s + n,   A = crop to the box after the wedge's filter
    s = D^(1/2) L v,   L = P^(1/2) in Fourier space,   v white
    v = argmin |A D^(1/2) L v - f|^2 / N + |v|^2     by conjugate gradients

N is the power outside the sphere, P the power inside it above N. A particle with little noise that extends beyond its
sphere has a tail there in D, and N is then that of the corners of the box. Everything uses a grid just fine enough for
the resolution limit, and v is in Fourier space: a few thousand samples for any number of voxels. Must not know poses.
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
from gonio.particle.volume import Volume, mean_within, soft_sphere, sphere_of
from gonio.particle.wedge import Wedge
from gonio.preparation.extent import BEYOND, TAIL_NOISE

# Conjugate gradients: noise-free pairs are 0.10 degrees apart after 12 steps, 0.10 after 30, 0.20 after 6. They end
# earlier when the power of the residual is below these fractions of its first value and of the scatter of v: after 3 to
# 9 steps where there is noise. At 0.1 of the scatter alone (2 to 7 steps) more particles ended in a wrong pose.
ITERATIONS, LEFT_OVER, LEFT_OF_SCATTER = 12, 2e-3, 0.06
# Bound of the preconditioner's excess over one. Without it the density outside the sphere is amplified, and noise-free
# particles are further from the solution after 12 steps than without a preconditioner.
MOST_EXCESS = 5.0
# Least noise, as a fraction of the signal: interpolation and the box allow no better.
MIN_NOISE = 1e-3
# Signal of volumes that seem to be noise alone, as a fraction of its power, so that their density is not zero.
MIN_SIGNAL = 1e-3


@dataclass(frozen=True)
class Restored:
    """A restored volume, and the expected fraction of signal in each shell 0, 1, ..., shape (s,).

    The noise of the density is that within the mask, divided once more by the samples per independent sample. This was
    found by trial: fewer particles end in a wrong pose (`pseudo_symmetric`, +-60, SNR 0.1: 2 of 40, otherwise 6).
    """

    volume: Volume
    signal_fraction: NDArray[np.float64]


@dataclass(frozen=True)
class Restorer:
    """Restoration of volumes of one box that share a wedge, a support and a resolution limit.

    It uses a working grid of m voxels along an edge, just fine enough for the limit, and the k samples along each axis
    that the limit needs.

    Parameters
    ----------
    sphere
        Support D of the particle, 0 to 1, shape (m, m, m).
    inscribed
        Support of a tail of the particle: the largest sphere of the box, 0 to 1, shape (m, m, m).
    imaging
        Operator from a density to the samples of the box.
    shells
        Samples of the box and their weights.
    order
        Axis of (z, y, x) that is first, second and third in all of these.
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
        """Return the restorer of subtomograms of ``box`` voxels in a soft sphere or a mask, up to ``limit`` shells."""
        m, edge = working_box(box, limit), box * voxel_size_angstrom
        count = min(int(limit + BEYOND), (m - 1) // 2)
        imaging, order = _imaging_of(wedge, m=m, count=count, box_angstrom=edge)
        if mask is None:
            sphere = sphere_of(m, edge / m, diameter_angstrom)
            inscribed = soft_sphere(m, radius_px=0.5 * m, edge_px=1.0)
        else:
            sphere = _in_order(np.clip(resampled(mask.data, m), 0.0, 1.0), order)
            inscribed = sphere  # a given mask is a strict limit: no tail beyond it
        weight = filter_of(wedge.weight_at, count=count, step=1.0 / edge).turned(order)
        return Restorer(sphere, inscribed, imaging, _Shells.of(weight, limit=limit), order, edge)

    def within(self, diameter_angstrom: float) -> Restorer:
        """Return this restorer with another soft sphere, not a mask; the costly part, from the wedge, is kept."""
        m = len(self.sphere)
        return replace(self, sphere=sphere_of(m, self.box_angstrom / m, diameter_angstrom))

    @property
    def limit(self) -> float:
        """Resolution limit in units of one over the box."""
        return self.shells.limit

    @property
    def samples_per_independent(self) -> float:
        """Samples of the box per sample that the mask, of power D^2, leaves independent."""
        return float(self.sphere.size / (self.sphere**2).sum(dtype=np.float64))

    @property
    def restored_samples_per_independent(self) -> float:
        """Samples of the box per independent sample of restored densities, whose scatter has power D (eq. 26)."""
        return float(self.sphere.size / self.sphere.sum(dtype=np.float64))

    def restore(self, volume: Volume, *, powers: tuple[NDArray, NDArray] | None = None) -> Restored:
        """Return the most probable density behind ``volume``, on its own grid, without frequencies beyond the limit.

        ``powers`` of signal and noise in shells 1, 2, ..., (s,) each, are estimated from the volume when None. Their
        unit is the variance of the volume on the working grid; the signal's is that of a density that fills the box.
        """
        data, scale, tail = self._read(volume)
        signal, noise = self._powers(data, tail) if powers is None else powers
        noise = np.maximum(noise, MIN_NOISE * signal)
        model = Model(
            envelope=np.sqrt(np.maximum(self.sphere, tail * self.inscribed)),
            root=np.sqrt(self.shells.at_samples(signal)) * self.shells.within(self.limit + BEYOND),
            precision=self.shells.weight.times(1.0 / np.maximum(self.shells.at_samples(noise), 1e-12)),
            imaging=self.imaging,
        )
        density = _most_probable(model, data)
        if not density.any():
            density = np.asarray(data, dtype=np.float32)  # the volume is empty below the limit
        density = _in_order(scale * density, [self.order.index(axis) for axis in range(3)])
        restored = Volume(resampled(density, volume.box), volume.voxel_size_angstrom)
        return Restored(restored, self._fraction(signal, noise))

    def signal_fraction(self, volume: Volume) -> NDArray[np.float64]:
        """Return the expected fraction of signal in shells 0, 1, ... of a restored volume, (s,), without restoring."""
        data, _, tail = self._read(volume)
        signal, noise = self._powers(data, tail)
        return self._fraction(signal, np.maximum(noise, MIN_NOISE * signal))

    def _read(self, volume: Volume) -> tuple[NDArray, np.float32, float]:
        """Return a volume on the working grid in units of its standard deviation, that unit, and its tail."""
        data = _in_order(resampled(volume.data, len(self.sphere)), self.order)
        scale = np.float32(data.std()) or np.float32(1.0)
        data = data / scale
        return data, scale, self._tail(data)

    def _powers(self, data: NDArray, tail: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimate the powers of signal and noise in shells 1, 2, ..., (s,) each."""
        noise = self._power(data, 1.0 - (self.inscribed if tail > 0 else self.sphere))
        inside = np.maximum(self._power(data, self.sphere) - noise, 0.0)
        signal = np.asarray(isotonic_regression(inside, increasing=False).x)  # power falls with frequency
        return signal if signal.any() else MIN_SIGNAL * noise, noise

    def _fraction(self, signal: NDArray, noise: NDArray) -> NDArray[np.float64]:
        fraction = signal / np.maximum(signal + noise / self.samples_per_independent, 1e-12)
        return np.interp(np.arange(int(np.rint(self.limit)) + 1), np.arange(1, len(fraction) + 1), fraction)

    def _tail(self, data: NDArray) -> float:
        """Return the mean square around the sphere over that within it, both above the noise of the corners."""
        corners, around = 1.0 - self.inscribed, self.inscribed * (1.0 - self.sphere)
        if not around.any():
            return 0.0
        spectrum = forward(data, self.imaging.dft_matrices)
        power = adjoint(filtered(self.shells.weight, spectrum), self.imaging.dft_matrices) ** 2
        noise, outside, inside = (float(np.vdot(w, power) / w.sum()) for w in (corners, around, self.sphere))
        return float(np.clip((outside - (1.0 + TAIL_NOISE) * noise) / max(inside - noise, 1e-12), 0.0, 1.0))

    def _power(self, data: NDArray, window: NDArray) -> NDArray[np.float64]:
        """Return the mean power within a window in shells 1, 2, ... up to the limit; that of white unit noise is 1.

        The mean in the window is subtracted: otherwise the window itself would have power.
        """
        spectrum = forward((data - mean_within(data, window)) * window, self.imaging.dft_matrices)
        return self.shells.power(spectrum) / max(float(np.vdot(window, window)) / window.size, 1e-12)


@dataclass(frozen=True)
class _Shells:
    """Samples (k, k, k) of a box below a limit, with weights and shells.

    ``weight`` is zero beyond the limit; ``square`` is the squared distance from zero frequency in units of one over the
    box, ``shell`` this distance rounded (k^3,), and ``count`` the weight of each shell.
    """

    weight: Filter
    limit: float
    square: NDArray[np.int64]
    shell: NDArray[np.int64]
    count: NDArray[np.float64]

    @staticmethod
    def of(weight: Filter, *, limit: float) -> _Shells:
        """Return the shells for the weights of all samples."""
        line = (np.arange(len(weight.own)) - len(weight.own) // 2) ** 2
        square = line[:, None, None] + line[:, None] + line
        weight = weight.times((square <= limit**2 * (1 + 1e-6)) & (square > 0))
        shell = np.rint(np.sqrt(square)).astype(np.int64).ravel()
        return _Shells(weight, limit, square, shell, np.bincount(shell, weights=weight.own.ravel()).astype(np.float64))

    def power(self, spectrum: NDArray) -> NDArray[np.float64]:
        """Return the mean square of the measured samples in shells 1, 2, ... up to the limit, (s,)."""
        total = np.bincount(self.shell, weights=(spectrum * filtered(self.weight, spectrum)).ravel())
        return shell_means(total, self.count, np.arange(1, int(self.limit) + 1))

    def at_samples(self, power: NDArray) -> NDArray[np.float32]:
        """Interpolate a power of shells 1, 2, ... linearly at every sample, (k, k, k)."""
        radius = np.sqrt(np.arange(self.square[-1, -1, -1] + 1))
        return np.interp(radius, np.arange(1, len(power) + 1), power).astype(np.float32)[self.square]

    def within(self, radius: float) -> NDArray[np.bool_]:
        """Return which samples lie within a distance of zero frequency, (k, k, k)."""
        return self.square <= radius**2


def _most_probable(model: Model, data: NDArray) -> NDArray[np.float32]:
    """Return the density whose v is most probable, shape (m, m, m)."""
    # If D were constant, the operator would be 1 + excess, and the fraction excess / (1 + excess) of each sample known.
    # The sum of these fractions is the squared norm, in the operator's metric, of an error like the scatter of v.
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
    """Return the operator for m voxels and samples -count to count along each axis, and the order of axes (z, y, x).

    An axis along which the wedge is constant, such as the tilt axis, needs no padding, and comes first.
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
    """Return a density with its axes in another order."""
    return np.ascontiguousarray(density.transpose(order))


def working_box(box: int, limit: float) -> int:
    """Return the smallest even box, of the same size in angstrom, that contains the limit and two more shells."""
    return min(2 * int(np.ceil(limit + BEYOND + 1.0)), box)
