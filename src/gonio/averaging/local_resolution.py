"""Resolution from place to place in a map, and the map filtered to it: half maps compared band by band.

The spectrum is divided into overlapping bands, each a cosine over ln k that is 1 at its centre and 0 at those of its
neighbours, so that all of them add up to 1. In each band the halves are two real maps a and b, and their correlation
about a place x is that within a window w = (1 - r^2 / R^2)^3 around it (docs/theory.md eq. 46),

    C(x) = (w * a b)(x) / sqrt((w * a^2)(x) (w * b^2)(x)),

which is the FSC of the halves within the window, at the frequency of the band. The window is as wide as a band needs,
WINDOW wavelengths: a place of coarse detail is a large one, and every value is from as many samples. The resolution at
x is where C first falls below a threshold: 0.143, or where that is more, CHANCE standard deviations of two maps with
nothing in common (eq. 47). Bands and windows are computed in boxes just large enough for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.special import gamma, jv

from gonio.averaging.resolution import FSC_HALVES
from gonio.fourier.fsc import half_radius, half_shells
from gonio.particle.volume import Volume

# Ratio of the frequencies of neighbouring bands; full width at half maximum of the window in wavelengths.
RATIO, WINDOW = 1.1, 5.0
# Where correlations are within so many standard deviations of chance, nothing agrees.
CHANCE = 3.0
# The window of the coarsest band is at most this fraction of the box.
WIDEST = 0.5
# The window's transform is a Bessel function of 2 pi k R; beyond this argument it is less than 0.001.
WINDOW_ENDS = 16.0
# Power of the window, and its radius over half of its full width at half maximum.
POWER = 3
RADIUS = (1.0 - 0.5 ** (1.0 / POWER)) ** -0.5


@dataclass(frozen=True)
class LocalResolution:
    """Resolution from place to place.

    Attributes
    ----------
    angstrom
        Resolution at each voxel, (n, n, n), order (z, y, x); infinite where halves agree in no band.
    coarsest_angstrom, finest_angstrom
        The ends of what can be told: the centres of the first and of the last band.
    voxel_size_angstrom
        Length of a voxel's edge.
    """

    angstrom: NDArray[np.float32]
    coarsest_angstrom: float
    finest_angstrom: float
    voxel_size_angstrom: float

    def quartiles(self, mask: NDArray[np.floating]) -> tuple[float, float, float]:
        """Return the quartiles within a mask, (n, n, n), where it is above half of its largest value."""
        inside = self.angstrom[mask > 0.5 * mask.max()]
        return tuple(np.quantile(inside, [0.25, 0.5, 0.75], method="nearest").tolist())

    def as_volume(self) -> Volume:
        """Return it as a map to colour surfaces by, with the edge of the box where halves agree in no band."""
        box_angstrom = len(self.angstrom) * self.voxel_size_angstrom
        return Volume(np.minimum(self.angstrom, box_angstrom), self.voxel_size_angstrom)


def local_resolution(halves: tuple[Volume, Volume], *, threshold: float = FSC_HALVES) -> LocalResolution:
    """Estimate the resolution from place to place in the map of two half maps.

    Parameters
    ----------
    halves
        Half maps of one box, neither filtered nor masked.
    threshold
        Correlation that ends what halves agree in.

    Raises
    ------
    ValueError
        Boxes that differ, or are too small for two bands.
    """
    one, two = halves
    if one.box != two.box:
        raise ValueError(f"the two volumes differ in box: {one.box} and {two.box} voxels")
    centres = _band_centres(one.box)
    spectra = [_levelled(half) for half in halves]
    before: tuple[float, NDArray[np.float32]] | None = None
    frequency = np.zeros(one.data.shape, np.float32)  # in shells
    open_ = np.ones(one.data.shape, bool)
    for number, centre in enumerate(centres):
        correlation, sd = _band_correlation(spectra, number, centres)
        excess = _enlarged(correlation - np.float32(max(threshold, CHANCE * sd)), one.box)
        falls = open_ & (excess < 0)
        if before is not None:
            last, higher = before
            part = higher[falls] / (higher[falls] - excess[falls])
            frequency[falls] = last + (centre - last) * part
        open_ &= ~falls
        before = centre, excess
    frequency[open_] = centres[-1]
    with np.errstate(divide="ignore"):
        angstrom = np.float32(one.box_angstrom) / frequency
    ends = one.box_angstrom / np.array([centres[0], centres[-1]])
    return LocalResolution(angstrom, float(ends[0]), float(ends[1]), one.voxel_size_angstrom)


def locally_filtered(volume: Volume, local: LocalResolution) -> Volume:
    """Return a map filtered at each place to the resolution there: bands beyond it are left out, with a soft edge.

    Where halves agree in no band nothing is left but what is coarser than the first band.
    """
    box, spectrum = volume.box, scipy.fft.rfftn(volume.data)
    centres = _band_centres(box)
    limit = np.float32(volume.box_angstrom) / local.angstrom  # in shells
    total = spectrum * _below_first(box, centres)
    for number, centre in enumerate(centres):
        size = _even(2.0 * min(_upper(number, centres), box / 2) + 2.0 * _window_reach(centre), box)
        weight = _band(half_radius(size), number, centres)
        data = scipy.fft.irfftn(_cropped(spectrum, size) * weight, (size,) * 3)
        # 1 in bands whose centre is within the limit, 0 from the next band on.
        kept = np.clip(
            (np.log(np.maximum(_reduced(limit, size), 1e-6)) - np.log(centre)) / np.log(RATIO) + 1.0, 0.0, 1.0
        )
        _add(total, scipy.fft.rfftn(data * kept.astype(np.float32)))
    return Volume(scipy.fft.irfftn(total, volume.data.shape), volume.voxel_size_angstrom)


def has_bands(box: int) -> bool:
    """Return whether a box is large enough for two bands and their windows: 28 voxels are."""
    return len(_centres(box)) >= 2


def _band_centres(box: int) -> NDArray[np.float64]:
    """Return the frequencies of the bands of a box, in shells: up to the last shell, each RATIO times the one before.

    Raises
    ------
    ValueError
        Where there is room for less than two.
    """
    if not has_bands(box):
        raise ValueError(f"a box of {box} voxels is too small for windows of {WINDOW:g} wavelengths: use a larger one")
    return _centres(box)


def _centres(box: int) -> NDArray[np.float64]:
    last, first = (box - 1) // 2 / RATIO, WINDOW / WIDEST
    count = int(np.floor(np.log(last / first) / np.log(RATIO))) + 1 if last >= first else 0
    return np.asarray(last / RATIO ** np.arange(count)[::-1])


def _upper(number: int, centres: NDArray[np.float64]) -> float:
    return float(centres[number] * RATIO)


def _band(radius: NDArray[np.floating], number: int, centres: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the weight of a band at distances from zero frequency, in shells."""
    apart = np.log(np.maximum(radius, 1e-6) / centres[number]) / np.log(RATIO)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip(apart, -1.0, 1.0)), dtype=np.float32)


def _below_first(box: int, centres: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return what is left to 1 below the first band."""
    radius = half_radius(box)
    return np.where(radius < centres[0], 1.0 - _band(radius, 0, centres), 0.0).astype(np.float32)


def _window_radius(centre: float) -> float:
    """Return the radius of a band's window as a fraction of the box."""
    return 0.5 * WINDOW * RADIUS / centre


def _window_reach(centre: float) -> float:
    """Return the shell beyond which the transform of a band's window has nothing."""
    return float(WINDOW_ENDS / (2.0 * np.pi * _window_radius(centre)))


def _window_transform(size: int, centre: float) -> NDArray[np.float32]:
    """Return the transform of a band's window, 1 at zero frequency, in the order of ``rfftn``."""
    argument = np.maximum(2.0 * np.pi * _window_radius(centre) * half_radius(size), 1e-3)
    order = POWER + 1.5
    return np.asarray(gamma(order + 1.0) * (2.0 / argument) ** order * jv(order, argument), dtype=np.float32)


def _levelled(half: Volume) -> NDArray[np.complex64]:
    """Return the spectrum of a half map, each shell divided by its root mean square, in the order of ``rfftn``.

    Otherwise the little of a strong band that leaks into a weak one would be much.
    """
    spectrum = scipy.fft.rfftn(half.data - np.float32(half.data.mean(dtype=np.float64)))
    shell, times = half_shells(half.box)
    power = spectrum.real**2 + spectrum.imag**2
    mean = np.bincount(shell, weights=times * power.ravel()) / np.bincount(shell, weights=times)
    level = np.sqrt(np.maximum(mean, 1e-12 * mean.max() + 1e-300)).astype(np.float32)
    return np.asarray(spectrum / level[shell].reshape(spectrum.shape), dtype=np.complex64)


def _band_correlation(
    spectra: list[NDArray[np.complex64]], number: int, centres: NDArray[np.float64]
) -> tuple[NDArray[np.float32], float]:
    """Return the correlation of two spectra in a band, in a box of its own, and its standard deviation by chance."""
    box, centre = len(spectra[0]), centres[number]
    reach = _window_reach(centre)
    size = _even(2.0 * min(_upper(number, centres), box / 2) + reach, box)  # no alias reaches what the window keeps
    radius = half_radius(size)
    weight = _band(radius, number, centres)
    one, two = (scipy.fft.irfftn(_cropped(one, size) * weight, (size,) * 3) for one in spectra)
    small = min(_even(2.0 * reach, box), size)
    window = _window_transform(small, centre)

    def within(product: NDArray[np.float32]) -> NDArray[np.float32]:
        mean = _cropped(scipy.fft.rfftn(product), small) * window
        return np.asarray(scipy.fft.irfftn(mean, (small,) * 3))

    cross, first, second = within(one * two), within(one**2), within(two**2)
    least = np.float32(1e-6) * np.sqrt(first.mean() * second.mean())  # the window's ends make squares below zero
    correlation = cross / np.sqrt(np.maximum(first, least) * np.maximum(second, least))
    return correlation, _chance(weight, window)


def _chance(weight: NDArray[np.float32], window: NDArray[np.float32]) -> float:
    """Return the standard deviation of the correlation of two noises in a band, within its window (eq. 47).

    Its square is the sum of w(x) w(y) r(x - y)^2 over all x and y, r the autocorrelation of the band.
    """
    size, small = len(weight), len(window)
    autocorrelation = scipy.fft.irfftn(weight.astype(np.float64) ** 2, (size,) * 3)
    squared = scipy.fft.rfftn((autocorrelation / autocorrelation[0, 0, 0]) ** 2).real
    times = half_shells(small)[1].reshape(window.shape)
    total = (times * window**2 * _cropped(squared, small)).sum() * (size / small) ** 3
    return float(np.sqrt(total / size**3))


# Spectra of boxes that are smaller: integer frequencies are the same


def _even(shells: float, most: int) -> int:
    """Return a size for so many shells that FFTs are fast in, at most that of the whole box."""
    return min(scipy.fft.next_fast_len(max(int(np.ceil(shells)) + 1, 8), real=True), most)


def _blocks(small: int, large: int) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Yield the corners of a spectrum of a small box, in the order of ``rfftn``, and their places in a larger one."""
    low, high = (small + 1) // 2, small // 2  # samples at 0 and above, below 0 (with the even box's last)
    ends = [(slice(0, low), slice(0, low)), (slice(small - high, small), slice(large - high, large))]
    depth = slice(0, small // 2 + 1)
    for (to_z, of_z), (to_y, of_y) in ((z, y) for z in ends for y in ends):
        yield (to_z, to_y, depth), (of_z, of_y, depth)


def _cropped(spectrum: NDArray, size: int) -> NDArray:
    """Return a spectrum (n, n, n // 2 + 1) in a smaller box, with values of as large a map."""
    box = len(spectrum)
    small = np.empty((size, size, size // 2 + 1), spectrum.dtype)
    for to, of in _blocks(size, box):
        small[to] = spectrum[of]
    return small * spectrum.real.dtype.type((size / box) ** 3)


def _add(total: NDArray[np.complex64], small: NDArray[np.complex64]) -> None:
    """Add the spectrum of a smaller box."""
    size, box = len(small), len(total)
    scale = np.float32((box / size) ** 3)
    for of, to in _blocks(size, box):
        total[to] += scale * small[of]


def _enlarged(data: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """Return a map in a larger box of the same length, interpolated linearly, as beyond its end it begins again."""
    at = np.arange(box) * (len(data) / box)
    low = np.floor(at).astype(np.intp)
    part = (at - low).astype(np.float32)
    high = (low + 1) % len(data)
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = box
        between = part.reshape(shape)
        data = np.take(data, low, axis) * (1 - between) + np.take(data, high, axis) * between
    return data


def _reduced(data: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the nearest values of a map in a smaller box of the same length."""
    at = np.rint(np.arange(size) * (len(data) / size)).astype(np.intp) % len(data)
    return data[np.ix_(at, at, at)]
