"""Loops over poses and samples on the CPU. The mathematics is in ``sample``; nothing here knows what a score is.

Flow for each pose: samples that both particles have measured -> blocks of them -> the place of each in the reference's
grid and the window's weights there -> value and gradient of the reference (``vector``) -> its derivatives by the pose
-> sums. Every step but the interpolation (``vector``) is a loop over a block of samples that the compiler vectorises.

Sums are kept in float32 over BLOCK samples and in float64 beyond, always in the same order: same input, same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import carray
from numpy.typing import NDArray

from gonio.kernels.compiled import compiled, inlined
from gonio.kernels.sample import (
    cell,
    phase_factor,
    region_holds,
    shown,
    turned_back,
    volume_weight,
    window_slopes,
    window_values,
)
from gonio.kernels.vector import BLOCK, interpolate_row_values, interpolate_rows, scratch_float, scratch_int

N_SUMS = 37
# Places of the sums in a row: J^T J (upper triangle by rows), J^T f, J^T g, |f|^2, |g|^2, f.g, total weight.
JTJ, JTF, JTG, FF, GG, FG, WEIGHT = 0, 21, 27, 33, 34, 35, 36


class Reference(NamedTuple):
    """The reference's spectrum and its wedge, as in ``gonio.fourier.fourier_volume.FourierVolume``."""

    grid: NDArray[np.float32]
    side: int
    scale: np.float32
    regions: NDArray[np.float32]
    weights: NDArray[np.float32]
    weight_scale: np.float32


class Samples(NamedTuple):
    """The n samples of the target.

    ``frequency`` (3, n), rows x, y, z; ``value`` (2, n), real and imaginary part; ``transfer``, ``weight`` (n,).
    ``power`` (n,) stands for |f|^2 and ``own`` (n,) multiplies |g|^2; for RCS and FCS they are |f|^2 and 1. All are
    float32.
    """

    frequency: NDArray[np.float32]
    value: NDArray[np.float32]
    transfer: NDArray[np.float32]
    weight: NDArray[np.float32]
    power: NDArray[np.float32]
    own: NDArray[np.float32]


@inlined
def common_weights(reference, frequency, weight, rotation, out):
    """Fill ``out`` (n,) with each sample's weight: the target's where the reference was measured too, else 0."""
    n = frequency.shape[1]
    if reference.weights.shape[0] > 0:
        volume, s = reference.weights.ravel(), reference.weight_scale
        for j in range(n):
            kx, ky, kz = frequency[0, j], frequency[1, j], frequency[2, j]
            qx, qy, qz = turned_back(rotation, kx, ky, kz)
            out[j] = weight[j] * volume_weight(volume, 0, reference.weights.shape[0], s * qx, s * qy, s * qz)
        return
    out[:] = 0.0
    for i in range(reference.regions.shape[0]):
        region = reference.regions[i]
        for j in range(n):
            kx, ky, kz = frequency[0, j], frequency[1, j], frequency[2, j]
            qx, qy, qz = turned_back(rotation, kx, ky, kz)
            if region_holds(region, qx, qy, qz):
                out[j] = weight[j]


@inlined
def seen_samples(weights, places):
    """Write the places of positive weights, in order, into ``places``; return how many there are."""
    count = 0
    for j in range(weights.shape[0]):
        places[count] = j
        count += weights[j] > 0.0
    return count


@inlined
def _cells(rotation, scale, side, kx, ky, kz, place, s):
    """Find each sample's first neighbour in the flat grid, and its positions s (3, BLOCK) between grid points."""
    for j in range(BLOCK):
        qx, qy, qz = turned_back(rotation, kx[j], ky[j], kz[j])
        ix, s[0, j] = cell(scale * qx, side // 2)
        iy, s[1, j] = cell(scale * qy, side // 2)
        iz, s[2, j] = cell(scale * qz, side // 2)
        place[j] = np.int32(2) * ((iz * side + iy) * side + ix)


@inlined
def _window(s, weights):
    """Compute the window's weights (3, 4, BLOCK) along each axis."""
    for axis in range(3):
        for j in range(BLOCK):
            w = weights[axis]
            w[0, j], w[1, j], w[2, j], w[3, j] = window_values(s[axis, j])


@inlined
def _window_slopes(s, slopes):
    for axis in range(3):
        for j in range(BLOCK):
            w = slopes[axis]
            w[0, j], w[1, j], w[2, j], w[3, j] = window_slopes(s[axis, j])


@inlined
def taken(samples, weights, seen, first, count, block):
    """Fill rows kx, ky, kz, fr, fi, transfer, weight, power, own of a block; pad with the last sample, weight 0."""
    for j in range(BLOCK):
        i = seen[min(first + j, count - 1)]
        block[0, j], block[1, j], block[2, j] = (
            samples.frequency[0, i],
            samples.frequency[1, i],
            samples.frequency[2, i],
        )
        block[3, j], block[4, j], block[5, j] = samples.value[0, i], samples.value[1, i], samples.transfer[i]
        block[6, j], block[7, j], block[8, j] = weights[i], samples.power[i], samples.own[i]
    for j in range(count - first, BLOCK):
        block[6, j] = 0.0


@inlined
def derivatives(rotation, phase, scale, block, g, jacobian):
    """Fill ``jacobian`` (14, BLOCK), in the order of ``sample.shown``, from the ``g`` of ``interpolate_rows``."""
    for j in range(BLOCK):
        kx, ky, kz = block[0, j], block[1, j], block[2, j]
        cos, sin = phase_factor(phase, kx, ky, kz)
        slopes = g[j, 2], g[j, 3], g[j, 4], g[j, 5], g[j, 6], g[j, 7]
        found = shown(rotation, g[j, 0], g[j, 1], slopes, block[5, j], scale, cos, sin, kx, ky, kz)
        (
            jacobian[0, j], jacobian[1, j], jacobian[2, j], jacobian[3, j], jacobian[4, j], jacobian[5, j],
            jacobian[6, j], jacobian[7, j], jacobian[8, j], jacobian[9, j], jacobian[10, j], jacobian[11, j],
            jacobian[12, j], jacobian[13, j],
        ) = found  # fmt: skip


@inlined
def _add_sums(block, jacobian, out):
    """Add the 37 sums of a block to ``out``."""
    for a in range(6):
        re, im = jacobian[a], jacobian[7 + a]
        place = JTJ + a * 6 - (a * (a - 1)) // 2
        for b in range(a, 6):
            total = np.float32(0.0)
            for j in range(BLOCK):
                total += block[6, j] * block[8, j] * (re[j] * jacobian[b, j] + im[j] * jacobian[7 + b, j])
            out[place + b - a] += total
        with_f = with_g = np.float32(0.0)
        for j in range(BLOCK):
            with_f += block[6, j] * (re[j] * block[3, j] + im[j] * block[4, j])
            with_g += block[6, j] * block[8, j] * (re[j] * jacobian[6, j] + im[j] * jacobian[13, j])
        out[JTF + a] += with_f
        out[JTG + a] += with_g
    ff = gg = fg = weight = np.float32(0.0)
    for j in range(BLOCK):
        w, gr, gi = block[6, j], jacobian[6, j], jacobian[13, j]
        ff += w * block[7, j]
        gg += w * block[8, j] * (gr * gr + gi * gi)
        fg += w * (block[3, j] * gr + block[4, j] * gi)
        weight += w
    out[FF] += ff
    out[GG] += gg
    out[FG] += fg
    out[WEIGHT] += weight


@inlined
def reference_slopes(reference, rotation, block, place, s, weight_memory, w, slope_memory, d, g_memory):
    """Write the reference's values and gradients at a block's samples into the memory of g (BLOCK, 8)."""
    row, plane = np.int64(2 * reference.side), np.int64(2 * reference.side * reference.side)
    _cells(rotation, reference.scale, np.int32(reference.side), block[0], block[1], block[2], place, s)
    _window(s, w)
    _window_slopes(s, d)
    for j in range(BLOCK):
        interpolate_rows(
            reference.grid.ctypes.data, np.int64(place[j]), row, plane, weight_memory, slope_memory, np.int64(j),
            g_memory,
        )  # fmt: skip


@inlined
def _add_sums_over(reference, samples, rotation, phase, weights, seen, count, out):
    """Add the 37 sums of docs/theory.md eq. 8 over the first ``count`` samples that are ``seen`` to ``out`` (37,)."""
    place_memory, memory = scratch_int(), scratch_float()
    place, s = carray(place_memory, (BLOCK,)), carray(scratch_float(), (3, BLOCK))
    weight_memory, slope_memory, g_memory = scratch_float(), scratch_float(), scratch_float()
    w, d = carray(weight_memory, (3, 4, BLOCK)), carray(slope_memory, (3, 4, BLOCK))
    g, block, jacobian = carray(g_memory, (BLOCK, 8)), carray(memory, (9, BLOCK)), carray(scratch_float(), (14, BLOCK))
    for first in range(0, count, BLOCK):
        taken(samples, weights, seen, first, count, block)
        reference_slopes(reference, rotation, block, place, s, weight_memory, w, slope_memory, d, g_memory)
        derivatives(rotation, phase, reference.scale, block, g, jacobian)
        _add_sums(block, jacobian, out)


@compiled
def sums_at(reference, samples, rotation, phase, weights, seen, out):
    """Fill ``out`` (37,) with the sums of docs/theory.md eq. 8 at a pose.

    ``weights`` (n,) and ``seen`` (n + 1,) are overwritten.
    """
    common_weights(reference, samples.frequency, samples.weight, rotation, weights)
    out[:] = 0.0
    _add_sums_over(reference, samples, rotation, phase, weights, seen, seen_samples(weights, seen), out)


@compiled
def shell_equations(reference, samples, rotation, phase, shell, out):
    """Fill ``out`` (s, 37) with the sums of each of s shells at one pose; ``shell`` (n,) as in ``shell_sums``."""
    n = samples.frequency.shape[1]
    weights, seen = np.empty(n, np.float32), np.empty(n + 1, np.int32)
    common_weights(reference, samples.frequency, samples.weight, rotation, weights)
    out[:] = 0.0
    for s in range(out.shape[0]):
        count = 0
        for j in range(n):
            seen[count] = j
            count += weights[j] > 0.0 and shell[j] == s
        _add_sums_over(reference, samples, rotation, phase, weights, seen, count, out[s])


@compiled
def normal_equations(reference, samples, rotations, phases, out):
    """Fill ``out`` (p, 37) float64 with the sums of docs/theory.md eq. 8 for each of p poses.

    ``rotations`` (p, 3, 3) and ``phases`` (p, 3) are float32; phase = 2 pi shift / box.
    """
    n = samples.frequency.shape[1]
    weights, seen = np.empty(n, np.float32), np.empty(n + 1, np.int32)
    for i in range(rotations.shape[0]):
        sums_at(reference, samples, rotations[i], phases[i], weights, seen, out[i])


@inlined
def reference_values(reference, rotation, block, place, s, window_memory, w, g_memory):
    """Write the reference's values at a block's samples, before shift and transfer, into the memory of g (BLOCK, 2)."""
    row, plane = np.int64(2 * reference.side), np.int64(2 * reference.side * reference.side)
    _cells(rotation, reference.scale, np.int32(reference.side), block[0], block[1], block[2], place, s)
    _window(s, w)
    for j in range(BLOCK):
        interpolate_row_values(
            reference.grid.ctypes.data, np.int64(place[j]), row, plane, window_memory, np.int64(j), g_memory
        )


@compiled
def shell_sums(reference, samples, rotations, phases, shell, out):
    """Fill ``out`` (p, s, 4) float64 with |f|^2, |g|^2, f.g and total weight of each of s shells at p poses.

    ``shell`` (n,) int32 is the shell of each sample.
    """
    n = samples.frequency.shape[1]
    place, s = carray(scratch_int(), (BLOCK,)), carray(scratch_float(), (3, BLOCK))
    window_memory, g_memory = scratch_float(), scratch_float()
    w, g, block = (
        carray(window_memory, (3, 4, BLOCK)),
        carray(g_memory, (BLOCK, 2)),
        carray(scratch_float(), (9, BLOCK)),
    )
    weights, seen = np.empty(n, np.float32), np.empty(n + 1, np.int32)
    for i in range(rotations.shape[0]):
        common_weights(reference, samples.frequency, samples.weight, rotations[i], weights)
        count = seen_samples(weights, seen)
        out[i] = 0.0
        for first in range(0, count, BLOCK):
            taken(samples, weights, seen, first, count, block)
            reference_values(reference, rotations[i], block, place, s, window_memory, w, g_memory)
            for j in range(BLOCK):
                cos, sin = phase_factor(phases[i], block[0, j], block[1, j], block[2, j])
                gr, gi = cos * g[j, 0] - sin * g[j, 1], cos * g[j, 1] + sin * g[j, 0]
                g[j, 0], g[j, 1] = block[5, j] * gr, block[5, j] * gi
            for j in range(min(BLOCK, count - first)):
                total = out[i, shell[seen[first + j]]]
                fr, fi, gr, gi = block[3, j], block[4, j], g[j, 0], g[j, 1]
                total[0] += block[6, j] * block[7, j]
                total[1] += block[6, j] * block[8, j] * (gr * gr + gi * gi)
                total[2] += block[6, j] * (fr * gr + fi * gi)
                total[3] += block[6, j]
