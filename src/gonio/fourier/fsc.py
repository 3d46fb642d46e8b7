"""Fourier shell correlation of two volumes, and the resolution at which it falls below a threshold."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.fourier_volume import EMPTY_SHELL
from gonio.fourier.grid import REMEMBERED
from gonio.particle.volume import Volume

# Relative error of sums in single precision.
ROUNDING = 1e-5


def fourier_shell_correlation(first: Volume, second: Volume) -> NDArray[np.float64]:
    """Return the FSC of two volumes of one box for each shell 0..n//2 (shells one over the box wide).

    Returns
    -------
    Shape (n // 2 + 1,); shell s holds the frequencies with round(abs(k)) = s; shell 0 is set to 1.
    """
    if first.box != second.box:
        raise ValueError(f"the two volumes differ in box: {first.box} and {second.box} voxels")
    return shell_correlation(*(scipy.fft.rfftn(v.data.astype(np.float64)) for v in (first, second)))


def shell_correlation(first: NDArray[np.complexfloating], second: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """Return the FSC, shape (n // 2 + 1,), of two spectra in the order of ``rfftn``, shape (n, n, n // 2 + 1)."""
    shell, times = half_shells(len(first))
    cross, one, two = (
        np.bincount(shell, weights=times * x.ravel(), minlength=len(first))[: len(first) // 2 + 1]
        for x in (_products(first, second), _products(first, first), _products(second, second))
    )
    # A shell with nothing but rounding errors of single precision has a correlation of 0. Shell 0 is only the mean.
    least = EMPTY_SHELL**2 * one[1:].max() * two[1:].max()
    result: NDArray[np.float64] = cross / np.sqrt(np.maximum(one * two, max(least, 1e-300)))
    result[0] = 1.0
    return result


def _products(first: NDArray[np.complexfloating], second: NDArray[np.complexfloating]) -> NDArray[np.floating]:
    """Return the real part of ``first`` times the conjugate of ``second``."""
    return np.asarray(first.real * second.real + first.imag * second.imag)


def shell_power(volume: Volume) -> NDArray[np.float64]:
    """Return the summed power of each shell 0, 1, ... of a volume, (s,), those in the corners of the box too."""
    shell, times = half_shells(volume.box)
    power = np.abs(scipy.fft.rfftn(volume.data.astype(np.float64)).ravel()) ** 2
    return np.asarray(np.bincount(shell, weights=times * power), dtype=np.float64)


def power_ratio(first: Volume, second: Volume) -> NDArray[np.float64]:
    """Return the power of one volume over that of another for each shell, (s,); 1 where the other has none."""
    above, below = shell_power(first), shell_power(second)
    return np.divide(above, below, out=np.ones_like(above), where=below > ROUNDING**2 * below.max())


def scaled_shells(volume: Volume, factor: NDArray[np.float64]) -> Volume:
    """Return a volume with each shell multiplied by its factor, (s,) as from ``shell_power``.

    The volume itself is returned where no factor differs from 1 by more than single precision rounds sums.
    """
    if (np.abs(factor - 1.0) < ROUNDING).all():
        return volume
    spectrum = scipy.fft.rfftn(volume.data.astype(np.float64))
    spectrum *= factor[half_shells(volume.box)[0]].reshape(spectrum.shape)
    data = scipy.fft.irfftn(spectrum, volume.data.shape)
    return Volume(data.astype(np.float32), volume.voxel_size_angstrom)


def half_radius(box: int) -> NDArray[np.float64]:
    """Return the distance of each sample of ``rfftn`` from zero frequency in units of one over the box, (n, n, h)."""
    whole, half = scipy.fft.fftfreq(box, 1.0 / box), scipy.fft.rfftfreq(box, 1.0 / box)
    return np.asarray(np.sqrt((whole**2)[:, None, None] + (whole**2)[:, None] + half**2), dtype=np.float64)


@lru_cache(maxsize=REMEMBERED)
def half_shells(box: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the shell of each sample of ``rfftn``, flat, and how many samples of ``fftn`` it represents, 1 or 2."""
    radius, half = half_radius(box), scipy.fft.rfftfreq(box, 1.0 / box)
    alone = (half == 0) | (2 * half == box)
    times = np.broadcast_to(np.where(alone, 1.0, 2.0), radius.shape)
    return np.rint(radius).astype(np.int64).ravel(), times.ravel()


def resolution_at(fsc: NDArray[np.float64], threshold: float, *, box_angstrom: float) -> float:
    """Return the resolution at which an FSC curve first falls below ``threshold``, angstrom, linear between shells.

    It is that of the finest shell where the curve never falls below, and infinity where shell 1 is below already.
    """
    below = np.flatnonzero(fsc[1:] < threshold) + 1
    if not len(below):
        return box_angstrom / (len(fsc) - 1)
    last = below[0]
    if last == 1:
        return float("inf")
    high, low = fsc[last - 1], fsc[last]
    return float(box_angstrom / (last - 1 + (high - threshold) / (high - low)))
