"""Insertion of particles into the sums of an average: gathered at the map's frequencies, or spread from tilt images.

Signal and weight are added up together (docs/theory.md eq. 20). Real volumes need only one half of their spectrum,
k_x >= 0: samples in the other half are reflected, q -> -q with the conjugate value. A half has two more columns below
k_x = 0, which the window reaches.
"""

from __future__ import annotations

import numpy as np
from numba import carray

from gonio.kernels.compiled import compiled
from gonio.kernels.sample import cell, phase_factor, region_holds, turned_back, volume_weight, window_values
from gonio.kernels.vector import BLOCK, interpolate_row_values, scratch_float, scratch_int

# Columns of a half below k_x = 0: the window's first neighbour of 0 is -1, and one more is for rounding.
MARGIN = 2


@compiled
def arrange(spectrum, phases, out):
    """Write the spectrum of a padded volume, in the order of ``rfftn``, into ``out`` about its centre.

    ``spectrum`` (p, p, p // 2 + 1) times ``phases`` (p,) along each axis;
    ``out`` (2 h + 1, 2 h + 1, MARGIN + h + 1), zero frequency at (h, h, MARGIN), all complex64.
    """
    padded, half = spectrum.shape[0], out.shape[0] // 2
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            iz, iy = (z - half) % padded, (y - half) % padded
            factor = phases[iz] * phases[iy]
            for x in range(min(spectrum.shape[2], half + 1)):
                out[z, y, MARGIN + x] = factor * phases[x] * spectrum[iz, iy, x]
            # Beyond Nyquist the spectrum repeats, with conjugates of the half that ``rfftn`` keeps.
            for x in range(spectrum.shape[2], half + 1):
                out[z, y, MARGIN + x] = factor * phases[x] * np.conj(spectrum[-iz % padded, -iy % padded, padded - x])
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(MARGIN):
                out[z, y, x] = np.conj(out[2 * half - z, 2 * half - y, 2 * MARGIN - x])


@compiled
def add_gathered(grid, scale, wedge, frequency, rotation, phase, signal, weight):
    """Add a subtomogram to the sums at n integer frequencies k of the map.

    Parameters
    ----------
    grid
        Spectrum as from ``arrange``, real and imaginary parts apart, (2 h + 1, 2 h + 1, MARGIN + h + 1, 2) float32.
    scale
        Grid points per unit of frequency.
    wedge
        Its wedge: regions (w, 7), weights (b, b, b) and their scale, as in ``sample_sums.Reference``.
    frequency
        k, (3, n) float32.
    rotation, phase
        R (3, 3) of the pose; 2 pi t / box, t the shift in voxels: float32.
    signal, weight
        Sums, (n, 2) and (n,) float64.
    """
    regions, volume, volume_scale = wedge
    half = grid.shape[0] // 2
    inverse, minus = rotation.T, -phase
    side, columns = grid.shape[1], grid.shape[2]
    measures, edge = volume.ravel(), volume.shape[0]
    row, plane = np.int64(2 * columns), np.int64(2 * columns * side)
    place, seen = carray(scratch_int(), (BLOCK,)), carray(scratch_int(), (BLOCK,))
    window_memory, g_memory = scratch_float(), scratch_float()
    s, w, g = carray(scratch_float(), (3, BLOCK)), carray(window_memory, (3, 4, BLOCK)), carray(g_memory, (BLOCK, 2))
    q, m = carray(scratch_float(), (3, BLOCK)), carray(scratch_float(), (BLOCK,))
    count, last = 0, frequency.shape[1] - 1
    for i in range(frequency.shape[1]):
        qx, qy, qz = turned_back(inverse, frequency[0, i], frequency[1, i], frequency[2, i])
        measured = np.float32(0.0)
        if edge > 0:
            measured = volume_weight(measures, 0, edge, volume_scale * qx, volume_scale * qy, volume_scale * qz)
        else:
            for r in range(regions.shape[0]):
                if region_holds(regions[r], qx, qy, qz):
                    measured = np.float32(1.0)
                    break
        if measured > 0.0:
            q[0, count], q[1, count], q[2, count], m[count], seen[count] = qx, qy, qz, measured, i
            count += 1
        if count < BLOCK and i < last:
            continue
        for j in range(count, BLOCK):
            q[0, j] = q[1, j] = q[2, j] = np.float32(0.0)
        for j in range(BLOCK):
            sign = np.float32(-1.0) if q[0, j] < 0.0 else np.float32(1.0)
            ix, s[0, j] = cell(scale * sign * q[0, j], MARGIN)
            iy, s[1, j] = cell(scale * sign * q[1, j], half)
            iz, s[2, j] = cell(scale * sign * q[2, j], half)
            place[j] = np.int32(2) * ((iz * side + iy) * columns + ix)
        for axis in range(3):
            for j in range(BLOCK):
                w[axis, 0, j], w[axis, 1, j], w[axis, 2, j], w[axis, 3, j] = window_values(s[axis, j])
        for j in range(count):
            interpolate_row_values(
                grid.ctypes.data, np.int64(place[j]), row, plane, window_memory, np.int64(j), g_memory
            )
        for j in range(count):
            cos, sin = phase_factor(minus, q[0, j], q[1, j], q[2, j])
            re, im = g[j, 0], g[j, 1] if q[0, j] >= 0.0 else -g[j, 1]
            signal[seen[j], 0] += m[j] * (cos * re - sin * im)
            signal[seen[j], 1] += m[j] * (cos * im + sin * re)
            weight[seen[j]] += m[j]
        count = 0


@compiled
def add_spread(images, limit, scale, rotation, phase, signal, weight):
    """Add tilt images to the sums at the grid points around their samples.

    Parameters
    ----------
    images
        Frequencies xy of s samples (s, 2) in units of one over the box; the axes of t images (t, 2, 3); for each sample
        weight times transfer times value, (t, s) complex64, and weight times the transfer's square, (t, s). All but
        the complex values are float32.
    limit
        Largest frequency: samples beyond it, of projections that are not quite orthonormal, are left out.
    scale
        Grid points per unit of frequency.
    rotation, phase
        R (3, 3) of the pose; 2 pi t / box, t the shift in voxels: float32.
    signal, weight
        Sums, (2 h + 1, 2 h + 1, MARGIN + h + 1), complex64 and float32.
    """
    frequency, axes, values, weights = images
    half, minus = signal.shape[0] // 2, -phase
    for i in range(axes.shape[0]):
        x, y = axes[i, 0], axes[i, 1]
        for j in range(frequency.shape[0]):
            u, v = frequency[j, 0], frequency[j, 1]
            kx, ky, kz = u * x[0] + v * y[0], u * x[1] + v * y[1], u * x[2] + v * y[2]
            if weights[i, j] == 0.0 or kx * kx + ky * ky + kz * kz > limit * limit:
                continue
            cos, sin = phase_factor(minus, kx, ky, kz)
            re = cos * values[i, j].real - sin * values[i, j].imag
            im = cos * values[i, j].imag + sin * values[i, j].real
            qx, qy, qz = turned_back(rotation, kx, ky, kz)
            if qx < 0.0:
                qx, qy, qz, im = -qx, -qy, -qz, -im
            ix, sx = cell(scale * qx, MARGIN)
            iy, sy = cell(scale * qy, half)
            iz, sz = cell(scale * qz, half)
            wx, wy, wz = window_values(sx), window_values(sy), window_values(sz)
            for a in range(4):
                for b in range(4):
                    w = wz[a] * wy[b]
                    one, two = w * complex(re, im), w * weights[i, j]
                    for c in range(4):
                        signal[iz + a, iy + b, ix + c] += wx[c] * one
                        weight[iz + a, iy + b, ix + c] += wx[c] * two
