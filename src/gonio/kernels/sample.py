"""What happens at one Fourier sample: scalars in, tuples out. The only copy of this mathematics.

Legend (docs/theory.md eqs. 3-8)
    k       frequency of a sample of the target, in its own grid index units, xyz
    q       R^T k, the same frequency in the reference's frame
    G(q)    spectrum of the reference, interpolated; G' = c exp(-i p.k) G(q) its value as the target would show it
    p       2 pi t / n, the shift as a phase per index
    c       transfer of the target at k (1, or its CTF)
    f, w    the target's value and weight
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from gonio.kernels.window import SLOPE_COEFFICIENTS, VALUE_COEFFICIENTS

EDGE_TOLERANCE = np.float32(1e-6)
ZERO_8 = tuple(np.float32(0.0) for _ in range(8))


@njit(inline="always")
def four_polynomials(c, s):
    """Four polynomials of s with coefficients c (power, 4), lowest power first."""
    w0, w1, w2, w3 = c[-1, 0], c[-1, 1], c[-1, 2], c[-1, 3]
    for power in range(c.shape[0] - 2, -1, -1):
        w0 = w0 * s + c[power, 0]
        w1 = w1 * s + c[power, 1]
        w2 = w2 * s + c[power, 2]
        w3 = w3 * s + c[power, 3]
    return w0, w1, w2, w3


@njit(inline="always")
def window_values(s):
    """The window's four values for position s in [-1, 1) between two grid points."""
    return four_polynomials(VALUE_COEFFICIENTS, s)


@njit(inline="always")
def window_slopes(s):
    """The derivatives of the window's four values by grid position."""
    return four_polynomials(SLOPE_COEFFICIENTS, s)


@njit(inline="always")
def cell(q, centre):
    """First of the four grid points around q, and q's place s in [-1, 1) between the middle two."""
    below = np.float32(math.floor(q))
    return np.int32(below) + np.int32(centre - 1), np.float32(2.0) * (q - below) - np.float32(1.0)


@njit(inline="always")
def four(grid, place):
    """Four complex neighbours along x: eight floats that are next to each other, one vector register."""
    return (
        grid[place],
        grid[place + 1],
        grid[place + 2],
        grid[place + 3],
        grid[place + 4],
        grid[place + 5],
        grid[place + 6],
        grid[place + 7],
    )


@njit(inline="always")
def scaled(w, a):
    """w a for eight floats."""
    return w * a[0], w * a[1], w * a[2], w * a[3], w * a[4], w * a[5], w * a[6], w * a[7]


@njit(inline="always")
def added(w, a, b):
    """w a + b for eight floats."""
    return (
        w * a[0] + b[0],
        w * a[1] + b[1],
        w * a[2] + b[2],
        w * a[3] + b[3],
        w * a[4] + b[4],
        w * a[5] + b[5],
        w * a[6] + b[6],
        w * a[7] + b[7],
    )


@njit(inline="always")
def combined(w, a, b, c, d):
    """w0 a + w1 b + w2 c + w3 d for eight floats each."""
    return added(w[3], d, added(w[2], c, added(w[1], b, scaled(w[0], a))))


@njit(inline="always")
def along_x(w, a):
    """The weighted sum of four complex neighbours: (re, im)."""
    re = w[0] * a[0] + w[1] * a[2] + w[2] * a[4] + w[3] * a[6]
    im = w[0] * a[1] + w[1] * a[3] + w[2] * a[5] + w[3] * a[7]
    return re, im


@njit(inline="always")
def corner(side, qx, qy, qz):
    """Place of the first neighbour of q in the flat grid, steps to the next row and plane, and q's three places."""
    ix, sx = cell(qx, side // 2)
    iy, sy = cell(qy, side // 2)
    iz, sz = cell(qz, side // 2)
    # Unsigned, or every access would first be checked for counting from the end.
    place = np.uint64(2 * ((iz * side + iy) * side + ix))
    return place, np.uint64(2 * side), np.uint64(2 * side * side), sx, sy, sz


@njit(inline="always")
def interpolate(grid, side, qx, qy, qz):
    """Value and gradient of the spectrum at q: 8 floats, re and im of G, dG/dqx, dG/dqy, dG/dqz.

    ``grid`` is flat float32, a cube of ``side`` points in order (z, y, x) with real and imaginary parts interleaved.
    """
    place, row, plane, sx, sy, sz = corner(side, qx, qy, qz)
    wy, dy = window_values(sy), window_slopes(sy)
    wz, dz = window_values(sz), window_slopes(sz)
    value = y_slope = z_slope = ZERO_8
    for i in range(4):
        a, b = four(grid, place), four(grid, place + row)
        c, d = four(grid, place + row + row), four(grid, place + row + row + row)
        level = combined(wy, a, b, c, d)
        slope = combined(dy, a, b, c, d)
        value = added(wz[i], level, value)
        y_slope = added(wz[i], slope, y_slope)
        z_slope = added(dz[i], level, z_slope)
        place += plane
    wx, dx = window_values(sx), window_slopes(sx)
    return along_x(wx, value) + along_x(dx, value) + along_x(wx, y_slope) + along_x(wx, z_slope)


@njit(inline="always")
def interpolate_value(grid, side, qx, qy, qz):
    """Value of the spectrum at q: 2 floats, re and im of G; ``grid`` as for ``interpolate``."""
    place, row, plane, sx, sy, sz = corner(side, qx, qy, qz)
    wy, wz = window_values(sy), window_values(sz)
    value = ZERO_8
    for i in range(4):
        a, b = four(grid, place), four(grid, place + row)
        c, d = four(grid, place + row + row), four(grid, place + row + row + row)
        value = added(wz[i], combined(wy, a, b, c, d), value)
        place += plane
    return along_x(window_values(sx), value)


@njit(inline="always")
def region_weight(regions, qx, qy, qz):
    """1 where q lies in any region between two planes (docs/theory.md eq. 9), else 0; rows (u, v, h)."""
    tolerance = EDGE_TOLERANCE * (qx * qx + qy * qy + qz * qz)
    for i in range(regions.shape[0]):
        u = regions[i, 0] * qx + regions[i, 1] * qy + regions[i, 2] * qz - regions[i, 6]
        v = regions[i, 3] * qx + regions[i, 4] * qy + regions[i, 5] * qz + regions[i, 6]
        if u * v <= tolerance:
            return np.float32(1.0)
    return np.float32(0.0)


@njit(inline="always")
def volume_weight(weights, x, y, z):
    """Weight interpolated linearly in a centred volume (z, y, x) at grid position x, y, z from its centre."""
    n = weights.shape[0]
    x, y, z = x + n // 2, y + n // 2, z + n // 2
    ix, iy, iz = math.floor(x), math.floor(y), math.floor(z)
    if min(ix, iy, iz) < 0 or max(ix, iy, iz) > n - 2:
        return np.float32(0.0)
    fx, fy, fz = np.float32(x - ix), np.float32(y - iy), np.float32(z - iz)
    one = np.float32(1.0)
    lower = weights[iz, iy, ix] * (one - fx) + weights[iz, iy, ix + 1] * fx
    upper = weights[iz, iy + 1, ix] * (one - fx) + weights[iz, iy + 1, ix + 1] * fx
    near = lower * (one - fy) + upper * fy
    lower = weights[iz + 1, iy, ix] * (one - fx) + weights[iz + 1, iy, ix + 1] * fx
    upper = weights[iz + 1, iy + 1, ix] * (one - fx) + weights[iz + 1, iy + 1, ix + 1] * fx
    return near * (one - fz) + (lower * (one - fy) + upper * fy) * fz


@njit(inline="always")
def turned_back(rotation, kx, ky, kz):
    """q = R^T k."""
    return (
        rotation[0, 0] * kx + rotation[1, 0] * ky + rotation[2, 0] * kz,
        rotation[0, 1] * kx + rotation[1, 1] * ky + rotation[2, 1] * kz,
        rotation[0, 2] * kx + rotation[1, 2] * ky + rotation[2, 2] * kz,
    )


@njit(inline="always")
def phase_factor(phase, kx, ky, kz):
    """exp(-i p.k) as (re, im)."""
    angle = np.float32(phase[0] * kx + phase[1] * ky + phase[2] * kz)
    return math.cos(angle), -math.sin(angle)


@njit(inline="always")
def rotation_derivative(rotation, gx, gy, gz, kx, ky, kz):
    """One part (real or imaginary) of dG/d omega = (R grad G) x k (docs/theory.md eq. 6)."""
    rx = rotation[0, 0] * gx + rotation[0, 1] * gy + rotation[0, 2] * gz
    ry = rotation[1, 0] * gx + rotation[1, 1] * gy + rotation[1, 2] * gz
    rz = rotation[2, 0] * gx + rotation[2, 1] * gy + rotation[2, 2] * gz
    return ry * kz - rz * ky, rz * kx - rx * kz, rx * ky - ry * kx


@njit(inline="always")
def spread(grid, side, qx, qy, qz, re, im):
    """Add a complex sample to the 4 x 4 x 4 neighbours of q: the transpose of ``interpolate_value``."""
    place, row, plane, sx, sy, sz = corner(side, qx, qy, qz)
    wx, wy, wz = window_values(sx), window_values(sy), window_values(sz)
    for i in range(4):
        start = place
        for j in range(4):
            w = wz[i] * wy[j]
            for m in range(4):
                grid[start + np.uint64(2 * m)] += w * wx[m] * re
                grid[start + np.uint64(2 * m + 1)] += w * wx[m] * im
            start += row
        place += plane
