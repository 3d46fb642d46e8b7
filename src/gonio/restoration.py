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
grid just fine enough for the resolution limit. Knows nothing of poses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from gonio.fourier import centred_fft, centred_ifft, index_grid
from gonio.volume import MASK_EDGE, TiltStack, Volume, soft_sphere
from gonio.wedge import Wedge

__all__ = ["Restored", "Restorer", "circle_crowding", "extent_angstrom", "sphere_diameter_angstrom", "sphere_of"]

# Conjugate gradients: 12 steps leave noise-free pairs 0.10 degrees apart, 30 steps 0.10, 6 steps 0.20.
ITERATIONS = 12
# No noise is taken to be weaker than this share of the signal: interpolation and the box allow no better.
MIN_NOISE = 1e-3
# The extent is read from the lowest shells: the radius of this share of their energy, times a margin. With it the
# spheres of `sharp`, `pseudo_symmetric` and `four_gaussians` are 210, 210 and 256 angstrom, where errors are smallest.
EXTENT_SHELLS, EXTENT_SHARE, EXTENT_MARGIN = 5.0, 0.8, 1.2
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

    Arrays are in the order of the FFT; h stands for the half spectrum (m, m, m // 2 + 1).

    Parameters
    ----------
    sphere
        D: where the particle is, 0 to 1, shape (m, m, m).
    inscribed
        How far a tail of the particle may reach: the largest sphere of the box, 0 to 1, shape (m, m, m).
    measured
        1 where the wedge was measured, on the half spectrum of twice the box: shape (2m, 2m, m + 1).
    weight
        How well each sample of the box below the limit was measured, shape h.
    radius
        Distance of each sample from zero frequency, in units of one over the box, shape h.
    limit
        Resolution limit in the same units.
    """

    sphere: NDArray[np.float32]
    inscribed: NDArray[np.float32]
    measured: NDArray[np.float32]
    weight: NDArray[np.float32]
    radius: NDArray[np.float32]
    limit: float

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
        m = working_box(box, limit)
        edge = box * voxel_size_angstrom
        if mask is None:
            sphere = sphere_of(m, edge / m, diameter_angstrom)
            inscribed = soft_sphere(m, radius_px=0.5 * m, edge_px=1.0)
        else:
            sphere = np.clip(_resampled(mask.data, m), 0.0, 1.0)
            inscribed = sphere  # a mask that was given is meant: no tail beyond it
        k = _half_grid(m)  # (m, m, m // 2 + 1, 3), xyz
        radius = np.linalg.norm(k, axis=-1)
        weight = wedge.weight_at(k / edge) * ((radius <= limit * (1 + 1e-6)) & (radius > 0))
        measured = wedge.weight_at(_half_grid(2 * m) / (2.0 * edge)) > 0
        return Restorer(
            sphere=scipy.fft.ifftshift(sphere).astype(np.float32),
            inscribed=scipy.fft.ifftshift(inscribed).astype(np.float32),
            measured=measured.astype(np.float32),
            weight=weight.astype(np.float32),
            radius=radius.astype(np.float32),
            limit=limit,
        )

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
        data = scipy.fft.ifftshift(_resampled(volume.data, len(self.sphere)))
        scale = float(data.std()) or 1.0
        data = (data / scale).astype(np.float32)
        tail = self._tail(data)
        beyond = 1.0 - (self.inscribed if tail > 0 else self.sphere)
        noise = self._shell_power(data * beyond) / max(float((beyond**2).mean()), 1e-12)
        signal, noise = (self._signal(data, noise), noise) if powers is None else powers
        noise = np.maximum(noise, MIN_NOISE * signal)
        model = _Model(
            envelope=np.sqrt(np.maximum(self.sphere, tail * self.inscribed)),
            root=np.sqrt(self._at_shells(signal)) * (self.radius <= self.limit + BEYOND),
            precision=self.weight / np.maximum(self._at_shells(noise), 1e-12),
            measured=self.measured,
        )
        density = _resampled(scipy.fft.fftshift(model.most_probable(data) * scale), volume.box)
        share = signal / np.maximum(signal + noise / self.crowding, 1e-12)
        shells = np.arange(int(np.rint(self.limit)) + 1)
        return Restored(
            Volume(density, volume.voxel_size_angstrom), np.interp(shells, np.arange(1, len(share) + 1), share)
        )

    def _tail(self, data: NDArray) -> float:
        """The mean square around the sphere over that within it, both beyond the noise of the corners."""
        seen = _filtered(data, (self.weight > 0).astype(np.float32)) ** 2
        corners, around = 1.0 - self.inscribed, self.inscribed * (1.0 - self.sphere)
        if not around.any():
            return 0.0
        noise, outside, inside = (np.average(seen, weights=w) for w in (corners, around, self.sphere))
        return float(np.clip((outside - (1.0 + TAIL_NOISE) * noise) / max(inside - noise, 1e-12), 0.0, 1.0))

    def _signal(self, data: NDArray, noise: NDArray[np.float64]) -> NDArray[np.float64]:
        """Signal power in shells 1, 2, ...: what the sphere holds beyond the noise; it falls with frequency."""
        mean = np.average(data, weights=self.sphere)
        inside = self._shell_power((data - mean) * self.sphere) / (self.sphere**2).mean()
        return np.asarray(isotonic_regression(np.maximum(inside - noise, 0.0), increasing=False).x)

    def _shell_power(self, data: NDArray) -> NDArray[np.float64]:
        """Mean power of the measured samples in shells 1, 2, ... up to the limit; that of white unit noise is 1."""
        power = np.abs(scipy.fft.rfftn(data)) ** 2 / data.size
        shell = np.rint(self.radius).astype(int).ravel()
        count = np.bincount(shell, weights=self.weight.ravel())
        total = np.bincount(shell, weights=(self.weight * power).ravel())
        seen = np.flatnonzero(count > 0)
        return np.interp(np.arange(1, int(self.limit) + 1), seen, total[seen] / count[seen])

    def _at_shells(self, power: NDArray) -> NDArray[np.float64]:
        return np.interp(self.radius, np.arange(1, len(power) + 1), power)


class _Model:
    """f = A D^(1/2) L v + n for one particle, and its solution; filters are real and symmetric, their own adjoints."""

    def __init__(self, *, envelope: NDArray, root: NDArray, precision: NDArray, measured: NDArray) -> None:
        self._envelope = envelope.astype(np.float32)
        self._root = root.astype(np.float32)
        self._precision = precision.astype(np.float32)
        self._measured = measured

    def most_probable(self, data: NDArray) -> NDArray[np.float32]:
        """The density whose v is most probable, shape (m, m, m)."""
        right = self._back(self._shown(_filtered(data, self._precision)))
        return self._density(_conjugate_gradients(self._normal, right))

    def _density(self, v: NDArray) -> NDArray:
        return self._envelope * _filtered(v, self._root)

    def _back(self, density: NDArray) -> NDArray:
        return _filtered(self._envelope * density, self._root)

    def _normal(self, v: NDArray) -> NDArray:
        return v + self._back(self._shown(_filtered(self._shown(self._density(v)), self._precision)))

    def _shown(self, density: NDArray) -> NDArray:
        """Filter by the wedge as if nothing lay around the box, and cut to the box again."""
        m = len(density)
        padded = np.zeros((2 * m,) * 3, dtype=np.float32)
        padded[:m, :m, :m] = scipy.fft.fftshift(density)
        return scipy.fft.ifftshift(_filtered(padded, self._measured)[:m, :m, :m])


def circle_crowding(stack: TiltStack, diameter_angstrom: float) -> float:
    """Samples of an image for each one that the circle of ``volume.masked`` leaves independent."""
    circle = sphere_of(stack.box, stack.voxel_size_angstrom, diameter_angstrom)[stack.box // 2]
    return float(circle.size / (circle**2).sum(dtype=np.float64))


def working_box(box: int, limit: float) -> int:
    """The smallest even box of the same size in angstrom that holds the limit with two shells to spare."""
    least = 2 * int(np.ceil(limit + BEYOND + 1.0))
    return min(2 * scipy.fft.next_fast_len(least // 2, real=True), box)


def _half_grid(m: int) -> NDArray[np.float64]:
    whole = scipy.fft.fftfreq(m, 1.0 / m)
    half = scipy.fft.rfftfreq(m, 1.0 / m)
    z, y, x = np.meshgrid(whole, whole, half, indexing="ij")
    return np.stack([x, y, z], axis=-1)


def _filtered(array: NDArray, gain: NDArray) -> NDArray:
    spectrum = scipy.fft.rfftn(array)
    spectrum *= gain
    return scipy.fft.irfftn(spectrum, s=array.shape, overwrite_x=True)


def _resampled(data: NDArray, box: int) -> NDArray:
    """The same density on a grid of another number of voxels over the same box, by its Fourier samples."""
    if len(data) == box:
        return np.asarray(data)
    spectrum = centred_fft(data.astype(np.float64))
    n, kept = len(data), min(len(data), box)
    half = (kept - 1) // 2  # without the plane at Nyquist, which has no partner
    result = np.zeros((box,) * 3, dtype=np.complex128)
    source = slice(n // 2 - half, n // 2 + half + 1)
    target = slice(box // 2 - half, box // 2 + half + 1)
    result[target, target, target] = spectrum[source, source, source]
    return centred_ifft(result).real * (box / n) ** 3


def _conjugate_gradients(normal: Callable[[NDArray], NDArray], right: NDArray) -> NDArray:
    """Solve normal(v) = right for a symmetric positive operator: a few steps, each of which lowers the error."""
    v = np.zeros_like(right)
    residual, direction = right.copy(), right.copy()
    square = first = float((residual * residual).sum(dtype=np.float64))
    for _ in range(ITERATIONS):
        if square <= 1e-8 * first:
            break
        image = normal(direction)
        step = np.float32(square / float((direction * image).sum(dtype=np.float64)))
        v += step * direction
        residual -= step * image
        before, square = square, float((residual * residual).sum(dtype=np.float64))
        direction = residual + np.float32(square / before) * direction
    return v


def extent_angstrom(volume: Volume) -> float:
    """The radius about the box centre that holds the density, estimated from the volume itself.

    The mean square of the low shells falls with the distance from the centre to the level of the noise, which is that
    of the corners of the box. The radius that holds most of what is above it is nearly that of the particle, whatever
    its noise and its wedge.
    """
    index = index_grid(volume.box)
    radius = np.linalg.norm(index, axis=-1)
    low = centred_fft(volume.data.astype(np.float64)) * ((radius > 0) & (radius <= EXTENT_SHELLS))
    shell = np.rint(radius).astype(int).ravel()
    energy = np.bincount(shell, weights=(centred_ifft(low).real ** 2).ravel())
    count = np.bincount(shell)
    face = volume.box // 2
    noise = energy[face + 2 :].sum() / count[face + 2 :].sum()
    held = np.maximum.accumulate(np.cumsum((energy - noise * count)[: face + 1]))
    if not held[-1] > 0:
        return float(face * volume.voxel_size_angstrom)
    inner = np.interp(EXTENT_SHARE * held[-1], held, np.arange(face + 1))
    return float(EXTENT_MARGIN * inner * volume.voxel_size_angstrom)


def sphere_diameter_angstrom(volumes: list[Volume]) -> float:
    """Diameter of the soft sphere that holds all of ``volumes``: twice the largest of their extents, at most the box.

    The sphere's edge (an eighth of its diameter) falls outside that extent, and must end at the box's faces.
    """
    edge = min(v.box_angstrom for v in volumes)
    widest = edge / (1.0 + 2.0 * MASK_EDGE)
    return float(np.clip(2.0 * max(extent_angstrom(v) for v in volumes), MIN_SPHERE * edge, widest))
