"""Averages of aligned particles, weighted by what each has measured.

Flow: particle and pose -> weighted samples in the reference's frame -> running sums of signal and weight -> map.
With F a particle's transform, w its weight and c its transfer, the average is

    V(k) = sum w c F(R k) exp(2 pi i R k.t / n)  /  sum w c^2                             (docs/theory.md eq. 20)

A subtomogram is *gathered*: its spectrum is interpolated at R k for every k of the map, so no gridding error enters.
Tilt images have no spectrum between their slices: their samples are *scattered* onto an oversampled grid.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.fourier import (
    FourierVolume,
    Spectrum,
    centred_fft,
    centred_ifft,
    fourier_shell_correlation,
    index_grid,
)
from gonio.kernels import cpu
from gonio.kernels.window import OVERSAMPLING, window_transform
from gonio.pose import Pose
from gonio.volume import Particle, Subtomogram, TiltStack, Volume

__all__ = ["Average", "average"]

# A sample whose weight is below this share of its shell's mean is damped: too few particles have seen it.
MIN_RELATIVE_WEIGHT = 0.1


@dataclass(frozen=True)
class Average:
    """An average and, where half sets were given, its halves.

    Attributes
    ----------
    volume
        The average of all particles.
    halves
        The averages of half sets 1 and 2, or None.
    fsc
        Fourier shell correlation of the halves without a mask, shape (n // 2 + 1,), or None.
    count
        Number of particles.
    """

    volume: Volume
    halves: tuple[Volume, Volume] | None
    fsc: NDArray[np.float64] | None
    count: int


class _Sums:
    """Running sums of signal and weight on a centred Fourier grid of side ``size`` (z, y, x)."""

    def __init__(self, size: int) -> None:
        self.signal = np.zeros((size, size, size), dtype=np.complex128)
        self.weight = np.zeros((size, size, size))

    def __iadd__(self, other: _Sums) -> _Sums:
        self.signal += other.signal
        self.weight += other.weight
        return self

    def spectrum(self) -> NDArray[np.complex128]:
        shell = np.rint(np.linalg.norm(index_grid(len(self.weight)), axis=-1)).astype(int).ravel()
        mean = np.bincount(shell, weights=self.weight.ravel()) / np.maximum(np.bincount(shell), 1)
        floor = MIN_RELATIVE_WEIGHT * mean[shell].reshape(self.weight.shape)
        weight = np.maximum(self.weight, floor)
        return np.where(weight > 0, self.signal / np.where(weight > 0, weight, 1.0), 0.0)


class _Gathering:
    """Sums for subtomograms, on the map's own grid."""

    def __init__(self, box: int) -> None:
        self._limit = (box - 1) // 2
        index = index_grid(box)
        self._keep = (index**2).sum(axis=-1) <= self._limit**2
        self._frequency = index[self._keep].astype(np.float64)  # (n, 3)
        self.box = box

    def sums_of(self, particle: Subtomogram, pose: Pose) -> _Sums:
        volume = particle.volume
        turned = self._frequency @ pose.matrix.T  # R k
        phase = np.exp(2j * np.pi * turned @ pose.shift_angstrom / volume.box_angstrom)
        weight = particle.wedge.weight_at(turned / volume.box_angstrom)
        result = _Sums(self.box)
        result.signal[self._keep] = weight * phase * FourierVolume.of(volume, limit=self._limit).sample(turned)
        result.weight[self._keep] = weight
        return result

    def map_of(self, sums: _Sums, voxel_size_angstrom: float) -> Volume:
        return Volume(centred_ifft(sums.spectrum()).real, voxel_size_angstrom)


class _Scattering:
    """Sums for tilt stacks, on a grid oversampled by two."""

    def __init__(self, box: int) -> None:
        self.box = box
        self._size = OVERSAMPLING * box
        self._half = OVERSAMPLING * ((box - 1) // 2) + 3

    def sums_of(self, particle: TiltStack, pose: Pose) -> _Sums:
        samples = Spectrum.of(particle, resolution_angstrom=None)
        box_angstrom = particle.box * particle.voxel_size_angstrom
        frequency = samples.frequency_xyz.astype(np.float64)  # (3, n)
        phase = np.exp(2j * np.pi * (pose.shift_angstrom / box_angstrom) @ frequency)
        signal = samples.weight * samples.transfer * samples.value * phase
        turned = (pose.matrix.T @ frequency).astype(np.float32)  # R^T k
        result = _Sums(self._size)
        result.signal = self._scattered(turned, signal)
        result.weight = self._scattered(turned, samples.weight * samples.transfer**2).real
        return result

    def _scattered(self, frequency: NDArray[np.float32], values: NDArray) -> NDArray[np.complex128]:
        side = 2 * self._half + 1
        flat = np.zeros(2 * side**3)
        cpu.scatter(side, np.float32(OVERSAMPLING), frequency, values.astype(np.complex64), flat)
        cube = flat.view(np.complex128).reshape(side, side, side)
        cube = cube + cube[::-1, ::-1, ::-1].conj()  # the other Friedel half
        inside = min(self._half, self._size // 2 - 1)
        cut = slice(self._half - inside, self._half + inside + 1)
        put = slice(self._size // 2 - inside, self._size // 2 + inside + 1)
        result = np.zeros((self._size,) * 3, dtype=np.complex128)
        result[put, put, put] = cube[cut, cut, cut]
        return result

    def map_of(self, sums: _Sums, voxel_size_angstrom: float) -> Volume:
        padded = centred_ifft(sums.spectrum()).real
        first = self._size // 2 - self.box // 2
        inside = slice(first, first + self.box)
        # The window smooths the spectrum: its transform tapers the map.
        taper = window_transform(0.0) / window_transform((np.arange(self.box) - self.box // 2) / self._size)
        data = padded[inside, inside, inside] * taper[:, None, None] * taper[:, None] * taper
        spectrum = centred_fft(data)
        spectrum[np.linalg.norm(index_grid(self.box), axis=-1) > (self.box - 1) // 2] = 0.0
        return Volume(centred_ifft(spectrum).real, voxel_size_angstrom)


def average(particles: Iterable[Particle], poses: Pose, *, half_sets: NDArray[np.int8] | None = None) -> Average:
    """Average particles in the reference's frame, each weighted by what it has measured.

    Parameters
    ----------
    particles
        m subtomograms, or m tilt stacks, of one box and voxel size; read one by one.
    poses
        Batch of m, ``x_particle = R x_reference + t``.
    half_sets
        1 or 2 for each particle (0: in neither half), or None for no halves.

    Raises
    ------
    ValueError
        No particles, a number of poses or half sets that differs, or particles that differ in kind, box or voxel size.
    """
    if half_sets is not None and (np.shape(half_sets) != (len(poses),) or not np.isin(half_sets, [0, 1, 2]).all()):
        raise ValueError(f"half_sets must be 0, 1 or 2 for each of {len(poses)} particles, got {half_sets!r}")
    method: _Gathering | _Scattering | None = None
    sums: list[_Sums] = []
    voxel_size, count = 0.0, 0
    for particle in particles:
        if count >= len(poses):
            raise ValueError(f"there are more particles than poses ({len(poses)})")
        if method is None:
            method = _Gathering(particle.box) if isinstance(particle, Subtomogram) else _Scattering(particle.box)
            voxel_size = particle.voxel_size_angstrom
            sums = [_Sums(_size_of(method)) for _ in range(3)]
        if particle.box != method.box or particle.voxel_size_angstrom != voxel_size:
            raise ValueError(f"particle {count + 1} differs from the first in box or voxel size")
        sums[0 if half_sets is None else int(half_sets[count])] += _sums_of(particle, poses[count], method)
        count += 1
    if method is None or count != len(poses):
        raise ValueError(f"{len(poses)} poses need as many particles, got {count}")
    return _finished(method, sums, voxel_size, count)


def _sums_of(particle: Particle, pose: Pose, method: _Gathering | _Scattering) -> _Sums:
    if isinstance(method, _Gathering) and isinstance(particle, Subtomogram):
        return method.sums_of(particle, pose)
    if isinstance(method, _Scattering) and isinstance(particle, TiltStack):
        return method.sums_of(particle, pose)
    raise ValueError(f"particles must all be of one kind, subtomograms or tilt stacks; got a {type(particle).__name__}")


def _size_of(method: _Gathering | _Scattering) -> int:
    return method.box if isinstance(method, _Gathering) else OVERSAMPLING * method.box


def _finished(method: _Gathering | _Scattering, sums: list[_Sums], voxel_size: float, count: int) -> Average:
    neither, one, two = sums
    halves = None
    if one.weight.any() and two.weight.any():
        halves = (method.map_of(one, voxel_size), method.map_of(two, voxel_size))
    neither += one
    neither += two
    fsc = None if halves is None else fourier_shell_correlation(*halves)
    return Average(method.map_of(neither, voxel_size), halves, fsc, count)
