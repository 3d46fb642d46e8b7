"""Loops over poses and samples on the CPU. The mathematics is in ``sample``; nothing here knows what a score is.

Arrays: p poses, n samples. ``rotations`` (p, 3, 3) and ``phases`` (p, 3) are float32 (phase = 2 pi shift / box);
``frequency`` is (3, n), rows x, y, z; ``value`` is complex64 (n,); ``transfer`` and ``weight`` are float32 (n,).
``power`` and ``own`` (n,) float32 stand for |f|^2 and for the share of |g|^2 that a score counts; both are plain for
RCS and FCS.
``grid``, ``side``, ``scale``, ``regions``, ``weights``, ``weight_scale``: the reference (fourier.FourierVolume).
Sums are kept in float32 over BLOCK samples and in float64 beyond, always in the same order: same input, same bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from gonio.kernels.sample import (
    interpolate,
    interpolate_value,
    phase_factor,
    region_weight,
    rotation_derivative,
    spread,
    turned_back,
    volume_weight,
)

N_SUMS = 37
BLOCK = 64
# Places of the sums in a row: J^T J (upper triangle by rows), J^T f, J^T g, |f|^2, |g|^2, f.g, total weight.
JTJ, JTF, JTG, FF, GG, FG, WEIGHT = 0, 21, 27, 33, 34, 35, 36

compiled = njit(nogil=True, cache=True, fastmath=True, error_model="numpy")


@njit(inline="always")
def _reference_weight(regions, weights, weight_scale, qx, qy, qz):
    if weights.shape[0] > 0:
        return volume_weight(weights, weight_scale * qx, weight_scale * qy, weight_scale * qz)
    return region_weight(regions, qx, qy, qz)


@compiled
def normal_equations(
    grid,
    side,
    scale,
    regions,
    weights,
    weight_scale,
    frequency,
    value,
    transfer,
    weight,
    power,
    own,
    rotations,
    phases,
    out,
):
    """The 37 sums of docs/theory.md eq. 8 for each pose, written into ``out`` (p, 37) float64."""
    block = np.empty(N_SUMS, dtype=np.float32)
    re = np.empty(6, dtype=np.float32)
    im = np.empty(6, dtype=np.float32)
    n = frequency.shape[1]
    for i in range(rotations.shape[0]):
        rotation, phase = rotations[i], phases[i]
        out[i, :] = 0.0
        for first in range(0, n, BLOCK):
            block[:] = 0.0
            for j in range(first, min(first + BLOCK, n)):
                kx, ky, kz = frequency[0, j], frequency[1, j], frequency[2, j]
                qx, qy, qz = turned_back(rotation, kx, ky, kz)
                w = weight[j] * _reference_weight(regions, weights, weight_scale, qx, qy, qz)
                if w <= 0.0:
                    continue
                g = interpolate(grid, side, scale * qx, scale * qy, scale * qz)
                cos, sin = phase_factor(phase, kx, ky, kz)
                cos, sin = transfer[j] * cos, transfer[j] * sin
                gr, gi = cos * g[0] - sin * g[1], cos * g[1] + sin * g[0]
                ax, ay, az = rotation_derivative(rotation, g[2], g[4], g[6], kx, ky, kz)
                bx, by, bz = rotation_derivative(rotation, g[3], g[5], g[7], kx, ky, kz)
                cos, sin = scale * cos, scale * sin
                re[0], im[0] = cos * ax - sin * bx, cos * bx + sin * ax
                re[1], im[1] = cos * ay - sin * by, cos * by + sin * ay
                re[2], im[2] = cos * az - sin * bz, cos * bz + sin * az
                # dG'/dp = -i k G': real part k Im G', imaginary part -k Re G'.
                re[3], im[3] = kx * gi, -kx * gr
                re[4], im[4] = ky * gi, -ky * gr
                re[5], im[5] = kz * gi, -kz * gr
                fr, fi = value[j].real, value[j].imag
                counted = w * own[j]
                place = JTJ
                for a in range(6):
                    ra, ia = counted * re[a], counted * im[a]
                    for b in range(a, 6):
                        block[place] += ra * re[b] + ia * im[b]
                        place += 1
                    block[JTF + a] += w * (re[a] * fr + im[a] * fi)
                    block[JTG + a] += ra * gr + ia * gi
                block[FF] += w * power[j]
                block[GG] += counted * (gr * gr + gi * gi)
                block[FG] += w * (fr * gr + fi * gi)
                block[WEIGHT] += w
            for s in range(N_SUMS):
                out[i, s] += block[s]


@compiled
def products(
    grid,
    side,
    scale,
    regions,
    weights,
    weight_scale,
    frequency,
    value,
    transfer,
    weight,
    power,
    own,
    rotations,
    phases,
    shell,
    out,
    sums,
):
    """Cross products for the shift search, and sums for the score.

    ``out`` (p, n) complex64 receives w f conj(G'); ``sums`` (p, s, 4) float64 receives |f|^2, |g|^2, f.g and the total
    weight of each of s shells; ``shell`` (n,) int64 says which a sample belongs to.
    """
    n = frequency.shape[1]
    for i in range(rotations.shape[0]):
        rotation, phase = rotations[i], phases[i]
        sums[i, :, :] = 0.0
        for j in range(n):
            kx, ky, kz = frequency[0, j], frequency[1, j], frequency[2, j]
            qx, qy, qz = turned_back(rotation, kx, ky, kz)
            w = weight[j] * _reference_weight(regions, weights, weight_scale, qx, qy, qz)
            if w <= 0.0:
                out[i, j] = 0.0
                continue
            hr, hi = interpolate_value(grid, side, scale * qx, scale * qy, scale * qz)
            cos, sin = phase_factor(phase, kx, ky, kz)
            gr = transfer[j] * (cos * hr - sin * hi)
            gi = transfer[j] * (cos * hi + sin * hr)
            fr, fi = value[j].real, value[j].imag
            out[i, j] = complex(w * (fr * gr + fi * gi), w * (fi * gr - fr * gi))
            place = shell[j]
            sums[i, place, 0] += w * power[j]
            sums[i, place, 1] += w * own[j] * (gr * gr + gi * gi)
            sums[i, place, 2] += w * (fr * gr + fi * gi)
            sums[i, place, 3] += w


@compiled
def gather(grid, side, scale, frequency, out):
    """The spectrum at each frequency (3, n), into ``out`` (n,) complex64."""
    for j in range(frequency.shape[1]):
        re, im = interpolate_value(
            grid, side, scale * frequency[0, j], scale * frequency[1, j], scale * frequency[2, j]
        )
        out[j] = complex(re, im)


@compiled
def scatter(side, scale, frequency, values, grid):
    """Add samples (n,) complex64 at each frequency (3, n) to the flat ``grid`` (float64): the transpose of gather."""
    for j in range(frequency.shape[1]):
        qx, qy, qz = scale * frequency[0, j], scale * frequency[1, j], scale * frequency[2, j]
        spread(grid, side, qx, qy, qz, values[j].real, values[j].imag)
