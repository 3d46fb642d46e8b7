"""The mathematics at one Fourier sample, scalars in, tuples out: the only copy, for CPUs and GPUs.

Loops over samples are in ``sample_sums`` and ``cuda_samples``, which compile the same functions. The sum over a
sample's neighbours is written here for one thread of a GPU, and in ``vector`` for the registers of a CPU.

Legend (docs/theory.md eqs. 3-8)
    k       frequency of a sample of the target, in its own grid index units, xyz
    q       R^T k, the same frequency in the reference's frame
    G(q)    spectrum of the reference, interpolated; G' = c exp(-i p.k) G(q) its value as the target would show it,
            c the target's transfer (1, or its CTF)
    p       2 pi t / n, the shift as a phase per index
    s       position of a sample between two grid points, -1 to 1
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numba import njit
from numpy import polynomial
from numpy.typing import NDArray

from gonio.kernels.window import SLOPE_COEFFICIENTS, VALUE_COEFFICIENTS

EDGE_TOLERANCE = np.float32(1e-6)
CYCLES_PER_RADIAN = np.float32(0.5 / np.pi)


def _even_fit(function: Callable[[NDArray], NDArray]) -> tuple[np.float32, ...]:
    """Return coefficients of six even powers of x that fit a function from -1/2 to 1/2 with errors below 1e-8."""
    squares = 0.125 - 0.125 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)  # Chebyshev points of 0 to 1/4
    fitted = polynomial.Polynomial.fit(squares, function(np.sqrt(squares)), 5).convert().coef
    return tuple(np.float32(c) for c in fitted)


# sin(pi x) / x and cos(pi x)
HALF_SIN = _even_fit(lambda x: np.pi * np.sinc(x))
HALF_COS = _even_fit(lambda x: np.cos(np.pi * x))


@njit(inline="always")
def four_polynomials(c, s):
    """Return four polynomials of s with coefficients c (power, 4), lowest power first."""
    w0, w1, w2, w3 = c[-1, 0], c[-1, 1], c[-1, 2], c[-1, 3]
    for power in range(c.shape[0] - 2, -1, -1):
        w0 = w0 * s + c[power, 0]
        w1 = w1 * s + c[power, 1]
        w2 = w2 * s + c[power, 2]
        w3 = w3 * s + c[power, 3]
    return w0, w1, w2, w3


@njit(inline="always")
def window_values(s):
    """Return the window's four values for position s in [-1, 1) between two grid points."""
    return four_polynomials(VALUE_COEFFICIENTS, s)


@njit(inline="always")
def window_slopes(s):
    """Return the derivatives of the window's four values by grid position."""
    return four_polynomials(SLOPE_COEFFICIENTS, s)


@njit(inline="always")
def whole_below(x):
    """Return the largest integer not above x, as float32: by truncation, which every vector unit has."""
    whole = np.float32(np.int32(x))
    return whole - np.float32(whole > x)


@njit(inline="always")
def cell(q, centre):
    """Return the first of the four grid points around q, and q's position s in [-1, 1) between the middle two."""
    below = np.float32(math.floor(q))
    return np.int32(below) + np.int32(centre - 1), np.float32(2.0) * (q - below) - np.float32(1.0)


@njit(inline="always")
def corner(side, qx, qy, qz):
    """Return the place of q's first neighbour in the flat grid, steps to the next row and plane, and q's three s."""
    ix, sx = cell(qx, side // 2)
    iy, sy = cell(qy, side // 2)
    iz, sz = cell(qz, side // 2)
    # Unsigned: otherwise every access is first checked for a negative index.
    place = np.uint64(2 * ((iz * side + iy) * side + ix))
    return place, np.uint64(2 * side), np.uint64(2 * side * side), sx, sy, sz


@njit(inline="always")
def region_holds(region, qx, qy, qz):
    """Return whether q lies in a region between two planes (docs/theory.md eq. 9), a row (u, v, h)."""
    u = region[0] * qx + region[1] * qy + region[2] * qz - region[6]
    v = region[3] * qx + region[4] * qy + region[5] * qz + region[6]
    return u * v <= EDGE_TOLERANCE * (qx * qx + qy * qy + qz * qz)


@njit(inline="always")
def volume_weight(weights, first, n, x, y, z):
    """Return the weight at grid position x, y, z from the centre of a volume, interpolated linearly.

    The volume's n^3 elements in order (z, y, x) are those of the flat ``weights`` from ``first`` on.
    """
    ix, iy, iz = np.int32(whole_below(x)), np.int32(whole_below(y)), np.int32(whole_below(z))
    fx, fy, fz = x - np.float32(ix), y - np.float32(iy), z - np.float32(iz)
    middle = n // 2
    ix, iy, iz = ix + middle, iy + middle, iz + middle
    if min(ix, iy, iz) < 0 or max(ix, iy, iz) > n - 2:
        return np.float32(0.0)
    one, here = np.float32(1.0), first + (iz * n + iy) * n + ix
    lower = weights[here] * (one - fx) + weights[here + 1] * fx
    upper = weights[here + n] * (one - fx) + weights[here + n + 1] * fx
    near = lower * (one - fy) + upper * fy
    here += n * n
    lower = weights[here] * (one - fx) + weights[here + 1] * fx
    upper = weights[here + n] * (one - fx) + weights[here + n + 1] * fx
    return near * (one - fz) + (lower * (one - fy) + upper * fy) * fz


@njit(inline="always")
def turned_back(rotation, kx, ky, kz):
    """Return q = R^T k."""
    return (
        rotation[0, 0] * kx + rotation[1, 0] * ky + rotation[2, 0] * kz,
        rotation[0, 1] * kx + rotation[1, 1] * ky + rotation[2, 1] * kz,
        rotation[0, 2] * kx + rotation[1, 2] * ky + rotation[2, 2] * kz,
    )


@njit(inline="always")
def half_angle(cycles):
    """Return sin and cos of pi cycles, up to a common sign, by polynomials: a library's call stops vectorisation."""
    half = cycles - whole_below(cycles + np.float32(0.5))  # -1/2 to 1/2: half angles of -pi/2 to pi/2
    square = half * half
    sin, cos = HALF_SIN[-1], HALF_COS[-1]
    for power in range(len(HALF_SIN) - 2, -1, -1):
        sin, cos = sin * square + HALF_SIN[power], cos * square + HALF_COS[power]
    return sin * half, cos


@njit(inline="always")
def circle(cycles):
    """Return cos and sin of 2 pi cycles."""
    sin, cos = half_angle(cycles)
    two = np.float32(2.0)
    return np.float32(1.0) - two * sin * sin, two * sin * cos


@njit(inline="always")
def phase_factor(phase, kx, ky, kz):
    """Return exp(-i p.k) as (re, im); the negative of ``circle``'s sin would be rounded otherwise."""
    sin, cos = half_angle((phase[0] * kx + phase[1] * ky + phase[2] * kz) * CYCLES_PER_RADIAN)
    two = np.float32(2.0)
    return np.float32(1.0) - two * sin * sin, -two * sin * cos


@njit(inline="always")
def rotation_derivative(rotation, gx, gy, gz, kx, ky, kz):
    """Return one part (real or imaginary) of dG/d omega = (R grad G) x k (docs/theory.md eq. 6)."""
    rx = rotation[0, 0] * gx + rotation[0, 1] * gy + rotation[0, 2] * gz
    ry = rotation[1, 0] * gx + rotation[1, 1] * gy + rotation[1, 2] * gz
    rz = rotation[2, 0] * gx + rotation[2, 1] * gy + rotation[2, 2] * gz
    return ry * kz - rz * ky, rz * kx - rx * kz, rx * ky - ry * kx


@njit(inline="always")
def shown(rotation, gr, gi, slopes, transfer, scale, cos, sin, kx, ky, kz):
    """Return G' and its derivatives by the pose (docs/theory.md eqs. 5 and 6), from G and its gradient at q.

    ``slopes`` are re and im of dG/dqx, dG/dqy, dG/dqz in grid points; ``cos`` and ``sin`` the phase factor. The result
    is the real parts of dG'/d omega and dG'/dp, three each, and of G'; then the imaginary parts.
    """
    xr, xi, yr, yi, zr, zi = slopes
    cos, sin = transfer * cos, transfer * sin
    gr, gi = cos * gr - sin * gi, cos * gi + sin * gr
    ax, ay, az = rotation_derivative(rotation, xr, yr, zr, kx, ky, kz)
    bx, by, bz = rotation_derivative(rotation, xi, yi, zi, kx, ky, kz)
    cos, sin = scale * cos, scale * sin
    # dG'/dp = -i k G': real part k Im G', imaginary part -k Re G'.
    return (
        cos * ax - sin * bx, cos * ay - sin * by, cos * az - sin * bz, kx * gi, ky * gi, kz * gi, gr,
        cos * bx + sin * ax, cos * by + sin * ay, cos * bz + sin * az, -kx * gr, -ky * gr, -kz * gr, gi,
    )  # fmt: skip


@njit(inline="always")
def interpolated(grid, first, side, qx, qy, qz):
    """Return G at q, interpolated in the flat ``grid`` that begins with element ``first``."""
    place, row, plane, sx, sy, sz = corner(side, qx, qy, qz)
    wx, wy, wz = window_values(sx), window_values(sy), window_values(sz)
    re = im = np.float32(0.0)
    place += np.uint64(first)
    for i in range(4):
        start = place
        for j in range(4):
            w = wz[i] * wy[j]
            xr = xi = np.float32(0.0)
            for m in range(4):
                xr += wx[m] * grid[start + np.uint64(2 * m)]
                xi += wx[m] * grid[start + np.uint64(2 * m + 1)]
            re, im = re + w * xr, im + w * xi
            start += row
        place += plane
    return re, im


@njit(inline="always")
def interpolated_with_slopes(grid, first, side, qx, qy, qz):
    """Return G at q, and re and im of its derivatives by grid position along x, y, z, from a flat ``grid``."""
    place, row, plane, sx, sy, sz = corner(side, qx, qy, qz)
    wx, wy, wz = window_values(sx), window_values(sy), window_values(sz)
    dx, dy, dz = window_slopes(sx), window_slopes(sy), window_slopes(sz)
    zero = np.float32(0.0)
    gr = gi = ar = ai = br = bi = cr = ci = zero
    place += np.uint64(first)
    for i in range(4):
        start = place
        # Sums over this plane's rows: the value p, and its slopes x and y.
        pr = pi = xr = xi = yr = yi = zero
        for j in range(4):
            vr = vi = ur = ui = zero
            for m in range(4):
                re, im = grid[start + np.uint64(2 * m)], grid[start + np.uint64(2 * m + 1)]
                vr, vi = vr + wx[m] * re, vi + wx[m] * im
                ur, ui = ur + dx[m] * re, ui + dx[m] * im
            pr, pi = pr + wy[j] * vr, pi + wy[j] * vi
            xr, xi = xr + wy[j] * ur, xi + wy[j] * ui
            yr, yi = yr + dy[j] * vr, yi + dy[j] * vi
            start += row
        gr, gi = gr + wz[i] * pr, gi + wz[i] * pi
        ar, ai = ar + wz[i] * xr, ai + wz[i] * xi
        br, bi = br + wz[i] * yr, bi + wz[i] * yi
        cr, ci = cr + dz[i] * pr, ci + dz[i] * pi
        place += plane
    return gr, gi, (ar, ai, br, bi, cr, ci)
