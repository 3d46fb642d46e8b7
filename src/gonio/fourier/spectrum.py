"""Particles as lists of Fourier samples: values, weights and transfer at the frequencies that were measured.

Owns the choice of samples: a Friedel half of the ball below the resolution limit, without k = 0, which is the mean.
Must not know scores or poses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.grid import (
    NOTHING_MEASURED,
    Places,
    by_radius,
    in_friedel_half,
    index_grid,
    inside,
    low_spectrum,
    shell_means,
)
from gonio.fourier.transform import shell_limit
from gonio.particle.ctf import MIN_TRANSFER
from gonio.particle.volume import Particle, Subtomogram, TiltStack

# Where images have almost no noise, their power is that of the signal, and low power is no reason for a high weight: a
# shell has at least this fraction of the noise of the noisiest. Real noise falls to a fifth.
MIN_NOISE = 0.1


@dataclass(frozen=True)
class Spectrum:
    """A particle as a list of n Fourier samples at the frequencies that were measured.

    Parameters
    ----------
    frequency_xyz
        Shape (3, n), float32, in units of one over the box; rows x, y, z.
    value
        Shape (n,), complex64.
    transfer
        Factor of the particle's transform in each sample, shape (n,), float32.
    weight
        Weight of each sample, shape (n,), float32, 1 when fully measured.
    box, voxel_size_angstrom
        Those of the particle.
    limit
        Radius of the ball that holds the samples, in units of one over the box.
    on_grid
        True where the frequencies are integers.
    """

    frequency_xyz: NDArray[np.float32]
    value: NDArray[np.complex64]
    transfer: NDArray[np.float32]
    weight: NDArray[np.float32]
    box: int
    voxel_size_angstrom: float
    limit: float
    on_grid: bool

    @staticmethod
    def of(particle: Particle, *, resolution_angstrom: float | None = None, limit: float | None = None) -> Spectrum:
        """Return the samples of a subtomogram or tilt stack below a resolution limit, or below ``limit`` in shells.

        Raises
        ------
        ValueError
            If the limit does not suit the box (``shell_limit``) or nothing was measured below it.
        """
        if limit is None:
            limit = shell_limit(particle.box, particle.voxel_size_angstrom, resolution_angstrom)
        if isinstance(particle, Subtomogram):
            places, data = Places.of(particle, limit), particle.volume.data
            held = places.values(low_spectrum(data - np.float32(data.mean(dtype=np.float64)), limit))
            return Spectrum.at(places, held)
        frequency, value, transfer, weight = _stack_samples(particle, limit)
        keep = weight > 0
        if not keep.any():
            raise ValueError(NOTHING_MEASURED)
        return Spectrum(
            frequency_xyz=np.ascontiguousarray(frequency[keep].T, dtype=np.float32),  # (3, n)
            value=value[keep].astype(np.complex64),
            transfer=transfer[keep].astype(np.float32),
            weight=weight[keep].astype(np.float32),
            box=particle.box,
            voxel_size_angstrom=particle.voxel_size_angstrom,
            limit=limit,
            on_grid=False,
        )

    @staticmethod
    def at(places: Places, held: NDArray[np.complex64]) -> Spectrum:
        """Return the samples of a subtomogram from the values of its ``low_spectrum`` at their places, (n,)."""
        return Spectrum(
            frequency_xyz=places.frequency_xyz,
            value=held / places.reach,
            transfer=places.transfer,
            weight=places.weight,
            box=places.box,
            voxel_size_angstrom=places.voxel_size_angstrom,
            limit=places.limit,
            on_grid=True,
        )

    @cached_property
    def radius(self) -> NDArray[np.float64]:
        """Distance of each sample from zero frequency, in units of one over the box, shape (n,)."""
        return np.asarray(np.linalg.norm(self.frequency_xyz.astype(np.float64), axis=0))

    @cached_property
    def by_radius(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Order of the samples by their distance from zero frequency, (n,), and the sorted distances, (n,)."""
        return by_radius(self.frequency_xyz)

    @property
    def n_shells(self) -> int:
        """Number of shells 0, 1, ... up to the limit."""
        return int(np.rint(self.limit)) + 1

    @cached_property
    def shell(self) -> NDArray[np.int32]:
        """Shell of each sample, round(abs(k)), shape (n,)."""
        return np.minimum(np.rint(self.radius).astype(np.int32), self.n_shells - 1)

    def below(self, limit: float) -> Spectrum:
        """Return the samples within a smaller ball."""
        keep, frequency = inside(self.frequency_xyz, limit)
        return replace(
            self,
            frequency_xyz=frequency,
            value=self.value[keep],
            transfer=self.transfer[keep],
            weight=self.weight[keep],
            limit=limit,
        )

    def whitened(self) -> Spectrum:
        """Return the samples weighted by one over the noise power of their shell; weights have a mean of one."""
        weight = self.weight / noise_power(self.value, self.transfer, self.weight, self.radius)
        return replace(self, weight=(weight / weight.mean(dtype=np.float64)).astype(np.float32))

    def shell_power(self) -> NDArray[np.float64]:
        """Return the mean square of the samples of shells 0, 1, ... up to the limit, (s,), empty ones interpolated."""
        count = np.bincount(self.shell, weights=self.weight)
        total = np.bincount(self.shell, weights=self.weight * np.abs(self.value) ** 2)
        return shell_means(total, count, np.arange(self.n_shells))

    def shell_weights(self) -> NDArray[np.float64]:
        """Return the sums of the samples' weights and of their squares in each shell, (s, 2)."""
        weight = self.weight.astype(np.float64)
        return np.stack([np.bincount(self.shell, weight**power, self.n_shells) for power in (1, 2)], axis=1)

    def take(self, keep: NDArray[np.bool_]) -> Spectrum:
        """Return the samples where a mask (n,) is true."""
        return replace(
            self,
            frequency_xyz=np.ascontiguousarray(self.frequency_xyz[:, keep]),  # (3, n)
            value=self.value[keep],
            transfer=self.transfer[keep],
            weight=self.weight[keep],
        )

    def __len__(self) -> int:
        return len(self.value)

    def __repr__(self) -> str:
        resolution = self.box * self.voxel_size_angstrom / self.limit
        return f"Spectrum({len(self)} samples to {resolution:.1f} angstrom)"


def noise_power(
    value: NDArray[np.complexfloating],
    transfer: NDArray[np.floating],
    weight: NDArray[np.floating],
    radius: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return the noise power at samples of tilt images, from that of their shells, all arrays (n,).

    Nearly all power of a tilt image is noise, so its own mean power is used (docs/theory.md eq. 32). Samples with
    little transfer have little weight in that mean: division by it amplified what leaks into them.
    """
    mean_weight = weight * np.asarray(transfer, dtype=np.float64) ** 2
    shell = np.rint(radius).astype(np.int64)
    total = np.bincount(shell, weights=mean_weight)
    power = np.bincount(shell, weights=mean_weight * np.abs(value) ** 2)
    noise = shell_means(power, np.where(power > 0, total, 0.0), radius)
    return np.asarray(noise + MIN_NOISE * noise.max(initial=0.0))


def image_samples(
    stack: TiltStack, limit: float
) -> tuple[NDArray[np.int64], NDArray[np.complex128], NDArray[np.float64]]:
    """Return the unprocessed samples of each image in a Friedel half of the disc.

    Returns
    -------
    Frequency (s, 2) in units of one over the box, xy; value (t, s); and transfer (t, s), ``TiltStack.transfer``.
    Images that are ``ctf_premultiplied`` contain that transfer twice.
    """
    index = index_grid(stack.box, dimensions=2)
    keep = in_friedel_half(index) & ((index**2).sum(axis=-1) <= limit**2 * (1 + 1e-9))
    frequency = index[keep]  # (s, 2)
    axes = (-2, -1)
    images = scipy.fft.ifftshift(stack.images.astype(np.float64), axes)
    value = scipy.fft.fftshift(scipy.fft.fft2(images, axes=axes), axes)[:, keep]  # (t, s)
    per_angstrom = frequency / (stack.box * stack.voxel_size_angstrom)
    return frequency, value, stack.transfer(per_angstrom)


def _stack_samples(
    stack: TiltStack, limit: float
) -> tuple[NDArray[np.float64], NDArray[np.complex128], NDArray[np.float64], NDArray[np.float64]]:
    frequency, value, transfer = image_samples(stack, limit)
    weight = np.broadcast_to(stack.used[:, None], transfer.shape).astype(np.float64)
    if stack.ctf_premultiplied:
        # Undo the multiplication, so that the noise is white again: value = m (m G + noise) / m.
        kept = np.abs(transfer) > MIN_TRANSFER
        value = value / np.where(kept, transfer, 1.0)
        weight = weight * kept
    frequency_xyz = np.einsum("sa,tax->tsx", frequency, stack.projections_xyz)  # (t, s, 3)
    # Projections that are not quite orthonormal move samples beyond the limit, where the reference's spectrum ends.
    weight = weight * ((frequency_xyz**2).sum(axis=-1) <= limit**2 * (1 + 1e-6))
    return frequency_xyz.reshape(-1, 3), value.ravel(), transfer.ravel(), weight.ravel()
