"""A reference as signal with a known error: the most probable density behind a noisy map without a missing wedge.

    r = g + e       a map r, the truth g of power S, its error e of power E, shell by shell
    C_ref^2         S / (S + E), the reliability: the square of the correlation of the map with the truth
    g_hat           C_ref^2 W r, the most probable density, W the window that contains the particle
    S (1 - C_ref^2) power of the truth that g_hat does not contain, which a target's weight must count as noise

(docs/theory.md section 12). For C_ref^2 = 1 this is a noise-free map, for C_ref^2 = 0 a shell has no information, and
the transition is continuous. Must not know targets nor poses.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.fsc import half_radius
from gonio.particle.volume import Volume, background

# How fast the window closes around the particle in noisier maps: outside the sphere it is 0.98 where the least reliable
# shell has 0.998 (noise-free phantoms), 0.66 at 0.95 and 0.17 at 0.8.
OPENING_POWER = 8.0
# Least reliability that a power is divided by.
MIN_RELIABILITY = 1e-3


def filtered_reference(volume: Volume, window: NDArray[np.float32], reliability: NDArray[np.float64]) -> Volume:
    """Return a map within a window (n, n, n), multiplied by its reliability in shells (s,), 0 to 1.

    Shells are one over the box wide, and the reliability is linear between them: a step would spread the map beyond
    its box. Shells beyond the last have its reliability.
    """
    spectrum = scipy.fft.rfftn(windowed(volume, window).data.astype(np.float64))
    spectrum *= np.interp(half_radius(volume.box), np.arange(len(reliability)), reliability)
    return Volume(scipy.fft.irfftn(spectrum, volume.data.shape), volume.voxel_size_angstrom)


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


def true_power(power: NDArray[np.float64], reliability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the truth's power S in each shell (s,), from that of the filtered reference, C_ref^2 S."""
    return power / np.maximum(reliability, MIN_RELIABILITY)
