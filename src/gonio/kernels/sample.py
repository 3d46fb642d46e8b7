"""What happens at one Fourier sample, scalars in, tuples out; the sum over its neighbours stands in ``vector``.

Legend (docs/theory.md eqs. 3-8)
    k       frequency of a sample of the target, in its own grid index units, xyz
    q       R^T k, the same frequency in the reference's frame
    G(q)    spectrum of the reference, interpolated; G' = c exp(-i p.k) G(q) its value as the target would show it,
            c the target's transfer (1, or its CTF)
    p       2 pi t / n, the shift as a phase per index
    s       place of a sample between two grid points, -1 to 1
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
PER_TURN = np.float32(0.5 / np.pi)


def _even_fit(function: Callable[[NDArray], NDArray]) -> tuple[np.float32, ...]:
    """Coefficients of six even powers of x for a function of x from -1/2 to 1/2, right to 1e-8."""
    squares = 0.125 - 0.125 * np.cos(np.pi * (np.arange(200) + 0.5) / 200)  # Chebyshev points of 0 to 1/4
    fitted = polynomial.Polynomial.fit(squares, function(np.sqrt(squares)), 5).convert().coef
    return tuple(np.float32(c) for c in fitted)


# sin(pi x) / x and cos(pi x)
HALF_SIN = _even_fit(lambda x: np.pi * np.sinc(x))
HALF_COS = _even_fit(lambda x: np.cos(np.pi * x))


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
def corner(side, qx, qy, qz):
    """Place of the first neighbour of q in the flat grid, steps to the next row and plane, and q's three places."""
    ix, sx = cell(qx, side // 2)
    iy, sy = cell(qy, side // 2)
    iz, sz = cell(qz, side // 2)
    # Unsigned, or every access would first be checked for counting from the end.
    place = np.uint64(2 * ((iz * side + iy) * side + ix))
    return place, np.uint64(2 * side), np.uint64(2 * side * side), sx, sy, sz


@njit(inline="always")
def region_holds(region, qx, qy, qz):
    """Whether q lies in a region between two planes (docs/theory.md eq. 9), a row (u, v, h)."""
    u = region[0] * qx + region[1] * qy + region[2] * qz - region[6]
    v = region[3] * qx + region[4] * qy + region[5] * qz + region[6]
    return u * v <= EDGE_TOLERANCE * (qx * qx + qy * qy + qz * qz)


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
    """exp(-i p.k) as (re, im), by polynomials of half the angle: calls of a library would end the vector loop."""
    turns = (phase[0] * kx + phase[1] * ky + phase[2] * kz) * PER_TURN
    half = turns - np.floor(turns + np.float32(0.5))  # -1/2 to 1/2: half angles of -pi/2 to pi/2
    square = half * half
    sin, cos = HALF_SIN[-1], HALF_COS[-1]
    for power in range(len(HALF_SIN) - 2, -1, -1):
        sin, cos = sin * square + HALF_SIN[power], cos * square + HALF_COS[power]
    sin *= half
    two = np.float32(2.0)
    return np.float32(1.0) - two * sin * sin, -two * sin * cos


@njit(inline="always")
def rotation_derivative(rotation, gx, gy, gz, kx, ky, kz):
    """One part (real or imaginary) of dG/d omega = (R grad G) x k (docs/theory.md eq. 6)."""
    rx = rotation[0, 0] * gx + rotation[0, 1] * gy + rotation[0, 2] * gz
    ry = rotation[1, 0] * gx + rotation[1, 1] * gy + rotation[1, 2] * gz
    rz = rotation[2, 0] * gx + rotation[2, 1] * gy + rotation[2, 2] * gz
    return ry * kz - rz * ky, rz * kx - rx * kz, rx * ky - ry * kx
