"""A reference as signal with a known error: the most probable density behind a noisy map without a missing wedge.

    r = g + e       a map r, the truth g of power S, its error e of power E, shell by shell
    C_ref^2         S / (S + E), the reliability: the square of the correlation of the map with the truth
    s               power of the truth at a distance from the centre, over its mean where C_ref^2 was measured
    g_hat           C_ref^2 s / (C_ref^2 s + 1 - C_ref^2) r, the most probable density, within the window
    S (1 - C_ref^2) power of the truth that g_hat does not contain, which a target's weight must count as noise

(docs/theory.md section 12). For C_ref^2 = 1 this is a noise-free map, for C_ref^2 = 0 a shell has no information, and
the transition is continuous. The error is everywhere alike and the truth is not: where there is little of it, the
map's error would be taken for detail that shows rotations. Must not know targets nor poses.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from gonio.fourier.fsc import half_radius
from gonio.fourier.grid import index_grid
from gonio.particle.volume import Volume, background

# How fast the window closes around the particle in noisier maps: outside the sphere it is 0.98 where the least reliable
# shell has 0.998 (noise-free phantoms), 0.66 at 0.95 and 0.17 at 0.8.
OPENING_POWER = 8.0
# Bands that shells are put into, at most, where their densities are multiplied in space, and where the profile of the
# truth is measured, which needs wider ones; standard deviation, in voxels, over which the profile is smoothed.
BANDS, PROFILE_BANDS, PROFILE_SMOOTH = 16, 4, 1.0
# Least power of the truth anywhere, of its mean: what a map without error shows is kept, however little it is.
LEAST_TRUTH = 0.01


def filtered_reference(
    volume: Volume, window: NDArray[np.float32], reliability: NDArray[np.float64], sphere: NDArray[np.float32]
) -> Volume:
    """Return the most probable density behind a map, within a window (n, n, n).

    ``reliability`` is C_ref^2 in shells one over the box wide, (s,), within a ``sphere`` or mask (n, n, n). It is
    linear between shells: a step would spread the map beyond its box. Shells beyond the last have its reliability.
    """
    within = windowed(volume, window).data.astype(np.float64)
    profile = truth_profile(windowed(volume, np.ones_like(window)), reliability, sphere)
    at, shells = _distance(volume.box), np.arange(len(reliability))
    density = np.zeros_like(within)
    for centre, band in _bands(within, len(reliability) - 1, BANDS):
        signal = np.interp(centre, shells, reliability) * profile
        error = 1.0 - np.interp(centre, shells, reliability)
        density += band * (signal / np.maximum(signal + error, 1e-12))[at]
    return Volume(density.astype(np.float32), volume.voxel_size_angstrom)


def truth_profile(volume: Volume, reliability: NDArray[np.float64], sphere: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return s, the power of the truth at each distance from the centre, voxels 0, 1, ..., over its mean in a sphere.

    Bands of the map give one estimate each, its power there less that of the error; they are averaged with the weights
    of least variance, and with 1 +- 1, which is left where a map is noise.
    """
    data = volume.data.astype(np.float64)
    radius, at = half_radius(volume.box), _distance(volume.box)
    known = np.interp(radius, np.arange(len(reliability)), reliability)
    twice = np.full(radius.shape, 2.0)  # samples whose Friedel mates the half of the transform leaves out
    twice[..., 0] = 1.0
    if volume.box % 2 == 0:
        twice[..., -1] = 1.0
    power = np.abs(scipy.fft.rfftn(data * sphere)) ** 2 * twice
    power /= data.size * float((sphere.astype(np.float64) ** 2).sum())
    count = gaussian_filter1d(np.bincount(at.ravel()).astype(np.float64), PROFILE_SMOOTH, mode="nearest")
    above, below = np.ones(len(count)), np.ones(len(count))
    limit = len(reliability) - 1
    hats = list(_hats(radius, limit, PROFILE_BANDS))[:-1]  # the last has what lies beyond the limit
    for (_, hat), (_, band) in zip(hats, _bands(data, limit, PROFILE_BANDS), strict=False):
        signal, error = float((hat**2 * known * power).sum()), float((hat**2 * (1.0 - known) * power).sum())
        local = np.bincount(at.ravel(), weights=(band**2).ravel())
        local = gaussian_filter1d(local, PROFILE_SMOOTH, mode="nearest") / count
        samples = 2.0 * float(hat.sum()) * count / data.size  # that are independent at each distance
        weight = samples * signal / max(signal + error, 1e-300) ** 2
        above += weight * (local - error)
        below += weight * signal
    return np.maximum(above / below, LEAST_TRUTH)


def _hats(radius: NDArray[np.float64], limit: int, most: int) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """Yield the centre in shells and the weights at each radius of bands that overlap by half and add up to 1."""
    step = max(1.0, limit / most)
    centres = np.arange(0.0, limit + step, step)
    for centre in centres:
        hat = 1.0 - np.abs(radius - centre) / step
        yield float(centre), np.clip(np.where(radius > centre, 1.0, hat) if centre == centres[-1] else hat, 0.0, 1.0)


def _bands(data: NDArray[np.float64], limit: int, most: int) -> Iterator[tuple[float, NDArray[np.float64]]]:
    """Yield the centre in shells and the density (n, n, n) of bands of shells that add up to a map."""
    spectrum = scipy.fft.rfftn(data)
    for centre, hat in _hats(half_radius(len(data)), limit, most):
        yield centre, scipy.fft.irfftn(spectrum * hat, data.shape)


def _distance(box: int) -> NDArray[np.intp]:
    """Return the rounded distance of each voxel from the centre, (n, n, n)."""
    return np.rint(np.linalg.norm(index_grid(box), axis=-1)).astype(np.intp)


def windowed(volume: Volume, window: NDArray[np.float32]) -> Volume:
    """Return a map above its background, within a window (n, n, n)."""
    data = (volume.data - np.float32(background(volume.data))) * window
    return Volume(data.astype(np.float32), volume.voxel_size_angstrom)


def open_window(sphere: NDArray[np.float32], reliability: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return a sphere (n, n, n) whose outside is opened according to the map's least reliable shell of (s,).

    A noise-free map is kept beyond the sphere, which would cut off its tail; a noisy one only within it.
    """
    opened = float(np.clip(reliability[1:], 0.0, 1.0).min(initial=1.0)) ** OPENING_POWER
    return np.asarray(sphere + (1.0 - sphere) * opened, dtype=np.float32)
