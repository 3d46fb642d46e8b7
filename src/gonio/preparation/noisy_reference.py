"""A reference as signal with a known error: the most probable density behind a noisy map without a missing wedge.

    r = g + e       a map r, the truth g of power S, its error e of power E, shell by shell
    R = C_ref^2     S / (S + E), the reliability: the square of the correlation of the map with the truth
    s               power of the truth at a distance from the particle's centre, over its mean where R was measured
    g_hat           R s / (R s + 1 - R) r, the most probable density, within the window
    S (1 - R_g)     power of the truth that g_hat does not contain, R_g the mean of s R s / (R s + 1 - R): a target's
                    weight must count it as noise

(docs/theory.md section 12). For R = 1 this is a noise-free map, for R = 0 a shell has no information, and the
transition is continuous. The error is everywhere alike and the truth is not: where there is little of it, the map's
error would be taken for detail that shows rotations. Must not know targets nor poses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from gonio.fourier.fsc import half_radius
from gonio.particle.volume import Volume, background

# How fast the window closes around the particle in noisier maps: outside the sphere it is 0.98 where the least reliable
# shell has 0.998 (noise-free phantoms), 0.66 at 0.95 and 0.17 at 0.8.
OPENING_POWER = 8.0
# Bands that shells are put into, at most, where their densities are multiplied in space, and where the profile of the
# truth is measured, which needs wider ones; standard deviation, in voxels, over which the profile is smoothed.
BANDS, PROFILE_BANDS, PROFILE_SMOOTH = 16, 4, 1.0
# Least power of the truth anywhere, of its mean: what a map without error shows is kept, however little it is.
LEAST_TRUTH = 0.01


@dataclass(frozen=True)
class Support:
    """Where a map's reliability was measured: a sphere about the box centre, or a mask that was given, (n, n, n).

    The truth within a mask is looked for in the mask alone, at distances from its centroid: other density may lie
    around it. A sphere that was estimated may cut the particle, and is looked beyond.
    """

    data: NDArray[np.float32]
    is_mask: bool = False

    @cached_property
    def weight(self) -> NDArray[np.float32]:
        """What each voxel counts in the profile."""
        return np.square(self.data) if self.is_mask else np.ones_like(self.data)

    @cached_property
    def distance(self) -> NDArray[np.intp]:
        """Rounded distance of each voxel from the centre, (n, n, n)."""
        axis = np.arange(len(self.data), dtype=np.float64)
        centre = [float(len(self.data) // 2)] * 3
        if self.is_mask:
            mass = np.square(self.data, dtype=np.float64)
            sums = [mass.sum(axis=tuple(other for other in range(3) if other != one)) for one in range(3)]
            centre = [float(axis @ along / along.sum()) for along in sums]
        z, y, x = (np.square(axis - middle) for middle in centre)
        return np.rint(np.sqrt(z[:, None, None] + y[:, None] + x)).astype(np.intp)


def filtered_reference(
    volume: Volume, window: NDArray[np.float32], reliability: NDArray[np.float64], support: Support
) -> tuple[Volume, NDArray[np.float64]]:
    """Return the most probable density behind a map, within a window (n, n, n), and R_g in shells, (s,).

    ``reliability`` is R in shells one over the box wide, (s,), within the support. Shells are put into bands, so that
    it is as good as linear between them: a step would spread the map beyond its box. Shells beyond the last have its
    reliability.
    """
    # The mean is no part of a comparison, and agrees in all half maps.
    known = np.concatenate([reliability[1:2], reliability[1:]])
    within = windowed(volume, window).data
    profile, at = truth_profile(windowed(volume, np.ones_like(window)), known, support), support.distance
    density = np.zeros_like(within)
    of_samples = np.interp(half_radius(volume.box), np.arange(len(known)), known)
    for hat, band in _bands(within, len(known) - 1, BANDS):
        mean = float((hat * of_samples).sum() / max(hat.sum(), 1e-12))
        density += band * (mean * profile / np.maximum(mean * profile + 1.0 - mean, 1e-12)).astype(np.float32)[at]
    share = np.bincount(at.ravel(), weights=np.square(support.data).ravel()) * profile
    held = known[:, None] * profile / np.maximum(known[:, None] * profile + 1.0 - known[:, None], 1e-12)
    return Volume(density, volume.voxel_size_angstrom), held @ share / share.sum()


def truth_profile(volume: Volume, reliability: NDArray[np.float64], support: Support) -> NDArray[np.float64]:
    """Return s, the power of the truth at distances of 0, 1, ... voxels from the centre, over its mean in the support.

    Bands of the map give one estimate each, its power there less that of the error; they are averaged, weighted by
    their variance where the power is the mean, and with 1 +- 1, which is left where a map is noise.
    """
    at, counted, box = support.distance.ravel(), support.weight, volume.box
    power = np.square(np.abs(scipy.fft.rfftn(volume.data * support.data)), dtype=np.float64)
    power[..., 1 : (box + 1) // 2] *= 2.0  # samples whose Friedel mates the half of the transform leaves out
    power /= volume.data.size * np.square(support.data, dtype=np.float64).sum()
    radius = half_radius(box)
    known = np.interp(radius, np.arange(len(reliability)), reliability)
    count = _smooth(np.bincount(at, weights=counted.ravel()))
    above, below = np.ones(len(count)), np.ones(len(count))
    bands = list(_bands(volume.data, len(reliability) - 1, PROFILE_BANDS))
    for hat, band in bands[:-1]:  # the last has what lies beyond the limit
        seen = hat**2 * power
        signal, error = float((seen * known).sum()), float((seen * (1.0 - known)).sum())
        if signal + error <= 0.0:
            continue
        local = _smooth(np.bincount(at, weights=(band**2 * counted).ravel())) / np.maximum(count, 1e-12)
        samples = float(hat.sum()) * count / volume.data.size  # that are independent at each distance, in pairs
        above += samples * (signal / (signal + error)) * ((local - error) / (signal + error))
        below += samples * (signal / (signal + error)) ** 2
    return np.maximum(above / below, LEAST_TRUTH)


def _smooth(along: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(gaussian_filter1d(along.astype(np.float64), PROFILE_SMOOTH, mode="nearest"))


def _bands(
    data: NDArray[np.float32], limit: int, most: int
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float32]]]:
    """Yield bands of shells that overlap by half and add up to a map: weights of the samples, density (n, n, n)."""
    spectrum, radius = scipy.fft.rfftn(data), half_radius(len(data))
    step = max(1.0, limit / most)
    centres = np.arange(0.0, limit + step, step)
    for centre in centres:
        hat = np.clip(1.0 - np.abs(radius - centre) / step, 0.0, 1.0)
        if centre == centres[-1]:
            hat[radius > centre] = 1.0
        yield hat, scipy.fft.irfftn(spectrum * hat.astype(np.float32), data.shape)


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
