"""Fourier transforms: the order and centre of every FFT, spectra as lists of samples, spectra sampled anywhere.

Owns the Fourier convention,

    V(k) = sum_x v(x) exp(-2 pi i k.(x - c) / n),   k integer, c = n // 2,               (docs/theory.md eq. 1)

the choice of samples (a Friedel half of the ball below the resolution limit, never k = 0: that is the mean removal),
and the interpolation of a spectrum between its samples. Must not know what a score or a pose is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from gonio.kernels import cpu, shift
from gonio.kernels.waves import plane_waves, through, waves
from gonio.kernels.window import OVERSAMPLING, window_transform
from gonio.lattice import (
    NOTHING_MEASURED,
    REMEMBERED,
    Places,
    by_radius,
    in_friedel_half,
    index_grid,
    inside,
    low_spectrum,
    shell_means,
)
from gonio.volume import Particle, Subtomogram, TiltStack, Volume, boxed
from gonio.wedge import NoWedge, Wedge, WeightVolumeWedge

__all__ = [
    "FourierVolume",
    "Spectrum",
    "background",
    "centred_fft",
    "centred_ifft",
    "fourier_shell_correlation",
    "half_shells",
    "in_friedel_half",
    "index_grid",
    "low_passed",
    "moved",
    "moved_into",
    "resolution_at",
    "shell_correlation",
    "shell_limit",
]

MIN_SHELLS = 3
# Sets of samples at seed orientations that a reference remembers: one for each wedge and size of its targets.
KEPT_TURNS = 2
# Where images hold next to no noise, their power is that of the signal and no reason to trust a shell: none is taken to
# have less noise than this share of the noisiest. Real noise falls to a fifth.
MIN_NOISE = 0.1
# Power of a shell, of that of the strongest, below which it holds nothing: 6e-8 of rounding, squared, and a margin.
EMPTY_SHELL = 1e-12


def centred_fft(array: NDArray) -> NDArray[np.complexfloating]:
    """V(k) of an image or volume of any even or odd box; zero frequency lands on ``n // 2`` of every axis."""
    return scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(array)))


def centred_ifft(spectrum: NDArray) -> NDArray[np.complexfloating]:
    """The inverse of ``centred_fft``."""
    return scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(spectrum)))


def shell_limit(box: int, voxel_size_angstrom: float, resolution_angstrom: float | None) -> float:
    """The resolution limit in shells, n voxel / resolution; without a resolution the last whole shell.

    Raises
    ------
    ValueError
        When the resolution is finer than two voxels, or leaves fewer than 3 shells of the box.
    """
    nyquist = (box - 1) // 2
    limit = nyquist if resolution_angstrom is None else box * voxel_size_angstrom / resolution_angstrom
    if limit > box / 2 * (1 + 1e-6):
        raise ValueError(
            f"resolution_angstrom {resolution_angstrom:g} is finer than two voxels ({2 * voxel_size_angstrom:g}); "
            "ask for less or use smaller voxels"
        )
    limit = min(limit, nyquist)
    if limit < MIN_SHELLS:
        raise ValueError(
            f"a box of {box} voxels of {voxel_size_angstrom:g} angstrom has {limit:.1f} Fourier shells to "
            f"{resolution_angstrom:g} angstrom, at least {MIN_SHELLS} are needed: use a larger box or a finer limit"
        )
    return float(limit)


@dataclass(frozen=True)
class Spectrum:
    """A particle as a list of n Fourier samples: what was observed, wherever it was observed.

    Parameters
    ----------
    frequency_xyz
        Shape (3, n), float32, in units of one over the box; rows x, y, z.
    value
        Shape (n,), complex64.
    transfer
        What the particle's transform was multiplied by at each sample, shape (n,), float32.
    weight
        How much each sample counts, shape (n,), float32, 1 when fully measured.
    box, voxel_size_angstrom
        Of the particle.
    limit
        Radius of the ball that holds the samples, in units of one over the box.
    on_grid
        Whether the frequencies are integers.
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
        """The samples of a subtomogram or tilt stack below a resolution limit, or a ``limit`` in shells.

        Raises
        ------
        ValueError
            When the limit does not suit the box (``shell_limit``) or nothing was measured below it.
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
        """The samples of a subtomogram, from what its ``low_spectrum`` holds at their places (n,)."""
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
        return np.linalg.norm(self.frequency_xyz.astype(np.float64), axis=0)

    @cached_property
    def by_radius(self) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """The order of the samples by their distance from zero frequency, (n,), and these distances in it, (n,)."""
        return by_radius(self.frequency_xyz)

    @property
    def n_shells(self) -> int:
        """Shells 0, 1, ... up to the limit."""
        return int(np.rint(self.limit)) + 1

    @cached_property
    def shell(self) -> NDArray[np.int32]:
        """The shell of each sample, round(abs(k)), shape (n,)."""
        return np.minimum(np.rint(self.radius).astype(np.int32), self.n_shells - 1)

    def below(self, limit: float) -> Spectrum:
        """The samples within a smaller ball."""
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
        """The same samples, each weighted by one over the power of noise in its shell; weights have a mean of one.

        Nearly all power of a tilt image is noise, so that its own mean power serves (docs/theory.md eq. 32). Samples of
        little transfer count little in it: what leaks into them was divided by nearly nothing.
        """
        trust = self.weight * self.transfer.astype(np.float64) ** 2
        total = np.bincount(self.shell, weights=trust)
        power = np.bincount(self.shell, weights=trust * np.abs(self.value) ** 2)
        noise = shell_means(power, np.where(power > 0, total, 0.0), self.radius)
        weight = self.weight / (noise + MIN_NOISE * noise.max(initial=0.0))
        return replace(self, weight=(weight / weight.mean(dtype=np.float64)).astype(np.float32))

    def shell_power(self) -> NDArray[np.float64]:
        """Mean square of the samples of shells 0, 1, ... up to the limit, (s,); an empty shell is interpolated."""
        count = np.bincount(self.shell, weights=self.weight)
        total = np.bincount(self.shell, weights=self.weight * np.abs(self.value) ** 2)
        return shell_means(total, count, np.arange(self.n_shells))

    def shell_weights(self) -> NDArray[np.float64]:
        """The sums of the samples' weights and of their squares in each shell, (s, 2)."""
        weight = self.weight.astype(np.float64)
        return np.stack([np.bincount(self.shell, weight**power, self.n_shells) for power in (1, 2)], axis=1)

    def take(self, keep: NDArray[np.bool_]) -> Spectrum:
        """Some of the samples."""
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


def image_samples(stack: TiltStack, limit: float) -> tuple[NDArray, NDArray, NDArray]:
    """The samples of every image in a Friedel half of the disc, as they are in the images.

    Returns
    -------
    Frequency (s, 2) in units of one over the box, xy; value (t, s); and transfer (t, s), ``TiltStack.transfer``.
    Images that are ``ctf_premultiplied`` were multiplied by that transfer once more.
    """
    index = index_grid(stack.box, dimensions=2)
    keep = in_friedel_half(index) & ((index**2).sum(axis=-1) <= limit**2 * (1 + 1e-9))
    frequency = index[keep]  # (s, 2)
    axes = (-2, -1)
    images = scipy.fft.ifftshift(stack.images.astype(np.float64), axes)
    value = scipy.fft.fftshift(scipy.fft.fft2(images, axes=axes), axes)[:, keep]  # (t, s)
    per_angstrom = frequency / (stack.box * stack.voxel_size_angstrom)
    return frequency, value, stack.transfer(per_angstrom)


# Where a premultiplied image was multiplied by nearly nothing it holds only rounding and leakage; left out.
MIN_TRANSFER = 0.02


def _stack_samples(stack: TiltStack, limit: float) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    frequency, value, transfer = image_samples(stack, limit)
    weight = np.broadcast_to(stack.used[:, None], transfer.shape).astype(np.float64)
    if stack.ctf_premultiplied:
        # Undo the multiplication, so that the noise is white again: value = m (m G + noise) / m.
        kept = np.abs(transfer) > MIN_TRANSFER
        value = value / np.where(kept, transfer, 1.0)
        weight = weight * kept
    frequency_xyz = np.einsum("sa,tax->tsx", frequency, stack.projections_xyz)  # (t, s, 3)
    # Projections that are not quite orthonormal carry samples over the limit, where the reference's spectrum ends.
    weight = weight * ((frequency_xyz**2).sum(axis=-1) <= limit**2 * (1 + 1e-6))
    return frequency_xyz.reshape(-1, 3), value.ravel(), transfer.ravel(), weight.ravel()


@dataclass(frozen=True)
class FourierVolume:
    """The spectrum of a reference, to be sampled at any frequency below a limit, and where it was measured.

    The map is divided by the window's transform, padded to twice its box, transformed and cut to the limit; a sample
    is then a weighted sum of 4 x 4 x 4 neighbours (docs/theory.md eq. 3). Frequencies are in units of one over
    ``box``, the box of the particles it is compared with, which may differ from the map's own.

    Parameters
    ----------
    grid
        Flat, float32: the spectrum cut to the limit, a cube of ``side`` points in order (z, y, x) with real and
        imaginary parts interleaved.
    side
        Grid points along an edge.
    scale
        Grid points for each unit of frequency.
    regions, weights, weight_scale
        The wedge (``gonio.wedge``) in units of frequency: rows (w, 7), or a volume of weights and its points per
        unit of frequency; a volume of shape (0, 0, 0) when there is none.
    box, voxel_size_angstrom, limit
        As in ``Spectrum``.
    """

    grid: NDArray[np.float32]
    side: int
    scale: np.float32
    regions: NDArray[np.float32]
    weights: NDArray[np.float32]
    weight_scale: np.float32
    box: int
    voxel_size_angstrom: float
    limit: float
    _turned: dict[bytes, tuple[NDArray, NDArray]] = field(default_factory=dict, compare=False, repr=False)

    @staticmethod
    def of(volume: Volume, *, wedge: Wedge | None = None, limit: float, box: int | None = None) -> FourierVolume:
        """The spectrum of ``volume`` up to ``limit`` (in units of one over ``box``, by default the volume's own)."""
        box = volume.box if box is None else box
        wedge = NoWedge() if wedge is None else wedge
        padded = OVERSAMPLING * volume.box
        scale = padded / box
        half = int(np.floor(scale * limit)) + 3  # the window reaches two points beyond the cell
        spectrum = _padded_spectrum(volume.data - np.float32(background(volume.data)), padded, half)
        box_angstrom = box * volume.voxel_size_angstrom
        regions = wedge.regions.copy()
        regions[:, 6] *= box_angstrom
        weights, weight_scale = np.zeros((0, 0, 0), np.float32), 1.0
        if isinstance(wedge, WeightVolumeWedge):
            weights, weight_scale = wedge.weights, len(wedge.weights) * wedge.voxel_size_angstrom / box_angstrom
        return FourierVolume(
            grid=spectrum.view(np.float32).ravel(),  # real and imaginary parts take turns
            side=2 * half + 1,
            scale=np.float32(scale),
            regions=regions.astype(np.float32),
            # A copy: a read-only array would be another type to numba, and compiled for again.
            weights=np.array(weights, dtype=np.float32),
            weight_scale=np.float32(weight_scale),
            box=box,
            voxel_size_angstrom=volume.voxel_size_angstrom,
            limit=limit,
        )

    @property
    def kernel(self) -> cpu.Reference:
        """As the kernels take it."""
        return cpu.Reference(self.grid, self.side, self.scale, self.regions, self.weights, self.weight_scale)

    def turned(
        self, frequency_xyz: NDArray[np.float32], rotations: NDArray[np.float32], *, keep: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The spectrum at R^T k, k (3, n), for rotations R (p, 3, 3): re and im (p, 2, n), and weights (p, n).

        With ``keep`` it is remembered for the next target with these samples; only the last few are.
        """
        key = frequency_xyz.tobytes() + rotations.tobytes() if keep else b""
        found = self._turned.get(key)
        if found is None:
            p, n = len(rotations), frequency_xyz.shape[1]
            found = np.empty((p, 2, n), np.float32), np.empty((p, n), np.float32)
            shift.reference_at(self.kernel, frequency_xyz, rotations, *found)
            if keep:
                for old in list(self._turned)[: 1 - KEPT_TURNS]:
                    self._turned.pop(old, None)
                self._turned[key] = found
        return found

    @property
    def memory_bytes(self) -> int:
        """What its arrays take, with all that may be remembered of seeds so far."""
        kept = sum(part.nbytes for both in list(self._turned.values()) for part in both)
        return self.grid.nbytes + self.weights.nbytes + kept

    def sample(self, frequency_xyz: ArrayLike) -> NDArray[np.complex64]:
        """The spectrum at frequencies (n, 3) in units of one over the box; beyond the limit it is an error."""
        frequency = np.ascontiguousarray(np.asarray(frequency_xyz, dtype=np.float32).T)  # (3, n)
        radius = np.sqrt((frequency.astype(np.float64) ** 2).sum(axis=0).max(initial=0.0))
        if radius > self.limit * (1 + 1e-5):
            raise ValueError(f"the spectrum was kept to {self.limit:g}, sampled at {radius:g}")
        out = np.empty(frequency.shape[1], dtype=np.complex64)
        cpu.gather(self.grid, self.side, self.scale, frequency, out)
        return out


def background(data: NDArray) -> float:
    """Mean over the faces of the box. Left in, the box itself would be an object with edges, and turn with the map."""
    inner = data[1:-1, 1:-1, 1:-1]
    return float((data.sum(dtype=np.float64) - inner.sum(dtype=np.float64)) / (data.size - inner.size))


def _padded_spectrum(data: NDArray[np.float32], padded: int, half: int) -> NDArray[np.complex64]:
    """Transform of the tapered, padded map on the cube of grid indices -half..half, shape (c, c, c).

    Padding costs nothing: rows of zeros have no waves.
    """
    spectrum = np.empty((2 * half + 1,) * 3, np.complex64)
    products = through(np.ascontiguousarray(data, dtype=np.float32), (_tapered_waves(len(data), padded, half),) * 3)
    plane_waves(products, padded, 0, spectrum)
    return spectrum


@lru_cache(maxsize=REMEMBERED)
def _tapered_waves(box: int, padded: int, half: int) -> NDArray[np.float32]:
    taper = 1.0 / window_transform((np.arange(box) - box // 2) / padded)
    return (waves(box, period=padded, count=half) * taper).astype(np.float32)


def fourier_shell_correlation(first: Volume, second: Volume) -> NDArray[np.float64]:
    """FSC of two volumes of one box, one value for each shell 0..n//2 (shells one over the box wide).

    Returns
    -------
    Shape (n // 2 + 1,); shell s holds the frequencies with round(abs(k)) = s; shell 0 is set to 1.
    """
    if first.box != second.box:
        raise ValueError(f"the two volumes differ in box: {first.box} and {second.box} voxels")
    return shell_correlation(*(scipy.fft.rfftn(v.data.astype(np.float64)) for v in (first, second)))


def shell_correlation(first: NDArray[np.complex128], second: NDArray[np.complex128]) -> NDArray[np.float64]:
    """The same of two spectra as ``rfftn`` orders them, (n, n, n // 2 + 1)."""
    shell, times = half_shells(len(first))
    cross, one, two = (
        np.bincount(shell, weights=times * x.ravel(), minlength=len(first))[: len(first) // 2 + 1]
        for x in ((first * second.conj()).real, np.abs(first) ** 2, np.abs(second) ** 2)
    )
    # A shell that holds nothing but the rounding of single precision agrees in nothing. The mean, shell 0, is no shell.
    least = EMPTY_SHELL**2 * one[1:].max() * two[1:].max()
    result = cross / np.sqrt(np.maximum(one * two, max(least, 1e-300)))
    result[0] = 1.0
    return result


@lru_cache(maxsize=REMEMBERED)
def half_shells(box: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each sample that ``rfftn`` keeps, flat: its shell, and for how many it stands, 1 or 2."""
    whole, half = scipy.fft.fftfreq(box, 1.0 / box), scipy.fft.rfftfreq(box, 1.0 / box)
    radius = np.sqrt((whole**2)[:, None, None] + (whole**2)[:, None] + half**2)
    alone = (half == 0) | (2 * half == box)
    times = np.broadcast_to(np.where(alone, 1.0, 2.0), radius.shape)
    return np.rint(radius).astype(np.int64).ravel(), times.ravel()


def resolution_at(fsc: NDArray[np.float64], threshold: float, *, box_angstrom: float) -> float:
    """Where an FSC curve first falls below ``threshold``, angstrom, linear between shells.

    Returns the finest shell's resolution when it never falls, and infinity when it is below from shell 1 on.
    """
    below = np.flatnonzero(fsc[1:] < threshold) + 1
    if not len(below):
        return box_angstrom / (len(fsc) - 1)
    last = below[0]
    if last == 1:
        return float("inf")
    high, low = fsc[last - 1], fsc[last]
    return float(box_angstrom / (last - 1 + (high - threshold) / (high - low)))


def low_passed(volume: Volume, *, resolution_angstrom: float) -> Volume:
    """The volume without frequencies beyond a resolution: a cosine edge two shells wide, half way down at the limit."""
    shell = np.linalg.norm(index_grid(volume.box), axis=-1)
    limit = volume.box_angstrom / resolution_angstrom
    gain = 0.5 + 0.5 * np.cos(np.pi * np.clip((shell - limit + 1.0) / 2.0, 0.0, 1.0))
    data = centred_ifft(centred_fft(volume.data.astype(np.float64)) * gain).real
    return Volume(data, volume.voxel_size_angstrom)


def moved(volume: Volume, rotation_matrix: NDArray[np.float64], shift_angstrom: NDArray[np.float64]) -> Volume:
    """tau_t Lambda_R of a volume by eq. 14 (R (3, 3) on xyz, t in angstrom): interpolated in Fourier space."""
    limit = (volume.box - 1) // 2
    index = index_grid(volume.box)
    keep = (index**2).sum(axis=-1) <= limit**2
    frequency = index[keep].astype(np.float64)  # (n, 3)
    phase = np.exp(-2j * np.pi * frequency @ shift_angstrom / volume.box_angstrom)
    spectrum = np.zeros(index.shape[:-1], dtype=np.complex128)
    spectrum[keep] = phase * FourierVolume.of(volume, limit=limit).sample(frequency @ rotation_matrix)
    return Volume(centred_ifft(spectrum).real, volume.voxel_size_angstrom)


def moved_into(
    volume: Volume, rotation_matrix: NDArray[np.float64], shift_angstrom: NDArray[np.float64], box: int
) -> Volume:
    """``moved`` into another box: it moves in the larger one, so that nothing is cut off before."""
    large = boxed(volume, max(volume.box, box))
    return boxed(moved(large, rotation_matrix, shift_angstrom), box)
