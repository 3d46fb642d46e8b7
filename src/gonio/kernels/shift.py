"""The best shift of many orientations (formula in ``gonio.comparison.best_shift``), LANES of them at a time.

Orientations share the samples and the shifts, so a vector holds one number of each orientation, and every sum over
samples is a sum of scaled vectors. On a grid of samples the sum is taken along one axis after the other, and only
within the balls of samples and shifts: a pruned Fourier transform.
"""

from __future__ import annotations

import math

import numpy as np
from numba import carray

from gonio.kernels.compiled import compiled, inlined
from gonio.kernels.sample_sums import common_weights, reference_values, seen_samples
from gonio.kernels.vector import (
    BLOCK,
    LANES,
    add_scaled,
    lanes_of_zero,
    load_lanes,
    scratch_float,
    scratch_int,
    store_lanes,
)

LOWEST = np.float32(-3e38)


@compiled
def reference_at(reference, frequency, rotations, values, weights):
    """Fill in the reference's values and weights at frequencies (3, n) rotated by p rotations, before any shift.

    ``values`` (p, 2, n) receives re and im, ``weights`` (p, n) the weight of its measurement there; float32.
    """
    n = frequency.shape[1]
    place, s = carray(scratch_int(), (BLOCK,)), carray(scratch_float(), (3, BLOCK))
    window_memory, g_memory = scratch_float(), scratch_float()
    w, g, k = carray(window_memory, (3, 4, BLOCK)), carray(g_memory, (BLOCK, 2)), carray(scratch_float(), (3, BLOCK))
    ones, seen = np.ones(n, np.float32), np.empty(n + 1, np.int32)
    for i in range(rotations.shape[0]):
        common_weights(reference, frequency, ones, rotations[i], weights[i])
        count = seen_samples(weights[i], seen)
        values[i] = 0.0
        for first in range(0, count, BLOCK):
            for j in range(BLOCK):
                here = seen[min(first + j, count - 1)]
                k[0, j], k[1, j], k[2, j] = frequency[0, here], frequency[1, here], frequency[2, here]
            reference_values(reference, rotations[i], k, place, s, window_memory, w, g_memory)
            for j in range(min(BLOCK, count - first)):
                values[i, 0, seen[first + j]], values[i, 1, seen[first + j]] = g[j, 0], g[j, 1]


@compiled
def _products(samples, values, weights, places, lane, re, im, sums):
    """Write w f conj(G') of one orientation into column ``lane`` and rows ``places`` (n,) of re and im (m, LANES).

    ``values`` (2, n), ``weights`` (n,) as from ``reference_at``. ``sums`` (3,) float64 receives |f|^2, |g|^2 and the
    total weight, which no shift changes.
    """
    n = weights.shape[0]
    sums[:] = 0.0
    for first in range(0, n, BLOCK):
        ff = gg = weight = np.float32(0.0)
        for j in range(first, min(first + BLOCK, n)):
            w = samples.weight[j] * weights[j]
            gr, gi = samples.transfer[j] * values[0, j], samples.transfer[j] * values[1, j]
            fr, fi = samples.value[0, j], samples.value[1, j]
            ff += w * samples.power[j]
            gg += w * samples.own[j] * (gr * gr + gi * gi)
            weight += w
            re[places[j], lane], im[places[j], lane] = w * (fr * gr + fi * gi), w * (fi * gr - fr * gi)
        sums[0] += ff
        sums[1] += gg
        sums[2] += weight


@inlined
def _keep_largest(score, shift, best, place):
    for lane in range(LANES):
        larger = score[lane] > best[lane]
        best[lane] = score[lane] if larger else best[lane]
        place[lane] = shift if larger else place[lane]


@inlined
def _half_chord(square, radius):
    """Return half the length of a ball's chord at a squared distance from its middle; -1 outside."""
    rest = radius * radius - square
    return int(math.sqrt(rest + 1e-6)) if rest > -1e-6 else -1


@compiled
def _search_cube(re, im, cos, sin, by_z, by_y, limit, reach, radius, best, place):
    """Find the best of all shifts within ``radius`` in all lanes, for products on a grid, (z, y, x) with z from 0.

    ``cos``, ``sin`` (shifts, samples) along an axis, both from -reach; ``place`` counts shifts in order (z, y, x).
    """
    side, shifts = cos.shape[1], cos.shape[0]
    middle = shifts // 2
    z_re, z_im, y_re, y_im = by_z[0], by_z[1], by_y[0], by_y[1]
    score = carray(scratch_float(), (1, LANES))
    best[:] = LOWEST
    for tz in range(shifts):
        wide = _half_chord((tz - middle) ** 2, radius)
        if wide < 0:
            continue
        for y in range(side):
            half = _half_chord((y - reach) ** 2, limit)
            for x in range(reach - half, reach + half + 1):
                high = _half_chord((y - reach) ** 2 + (x - reach) ** 2, limit)
                total_re = total_im = lanes_of_zero()
                for z in range(high + 1):
                    here = (z * side + y) * side + x
                    c, s, a, b = cos[tz, reach + z], sin[tz, reach + z], load_lanes(re, here), load_lanes(im, here)
                    total_re = add_scaled(add_scaled(total_re, c, a), -s, b)
                    total_im = add_scaled(add_scaled(total_im, c, b), s, a)
                store_lanes(z_re, y * side + x, total_re)
                store_lanes(z_im, y * side + x, total_im)
        for ty in range(middle - wide, middle + wide + 1):
            for x in range(side):
                half = _half_chord((x - reach) ** 2, limit)
                total_re = total_im = lanes_of_zero()
                for y in range(reach - half, reach + half + 1):
                    here = y * side + x
                    c, s, a, b = cos[ty, y], sin[ty, y], load_lanes(z_re, here), load_lanes(z_im, here)
                    total_re = add_scaled(add_scaled(total_re, c, a), -s, b)
                    total_im = add_scaled(add_scaled(total_im, c, b), s, a)
                store_lanes(y_re, x, total_re)
                store_lanes(y_im, x, total_im)
            deep = _half_chord((tz - middle) ** 2 + (ty - middle) ** 2, radius)
            for tx in range(middle - deep, middle + deep + 1):
                total = lanes_of_zero()
                for x in range(side):
                    total = add_scaled(total, cos[tx, x], load_lanes(y_re, x))
                    total = add_scaled(total, -sin[tx, x], load_lanes(y_im, x))
                store_lanes(score, 0, total)
                _keep_largest(score[0], (tz * shifts + ty) * shifts + tx, best, place)


@compiled
def best_on_grid(samples, values, weights, places, limit, reach, cos, sin, radius, place, value, sums):
    """Find the best shift of p orientations: its ``place`` (p,) in a cube of shifts, and f.g there, ``value`` (p,).

    ``values`` and ``weights`` are as from ``reference_at``, ``sums`` (p, 3) as in ``_products``. Samples lie at
    ``places`` (n,) of a cube (reach + 1, 2 reach + 1, 2 reach + 1), within ``limit`` of its origin; shifts within
    ``radius`` of the middle of their cube.
    """
    side, p = 2 * reach + 1, weights.shape[0]
    re, im = (
        np.empty(((reach + 1) * side * side, LANES), np.float32),
        np.empty(((reach + 1) * side * side, LANES), np.float32),
    )
    by_z, by_y = np.zeros((2, side * side, LANES), np.float32), np.zeros((2, side, LANES), np.float32)
    best, where = np.empty(LANES, np.float32), np.zeros(LANES, np.int32)
    for first in range(0, p, LANES):
        re[:] = 0.0
        im[:] = 0.0
        count = min(LANES, p - first)
        for lane in range(count):
            _products(samples, values[first + lane], weights[first + lane], places, lane, re, im, sums[first + lane])
        _search_cube(re, im, cos, sin, by_z, by_y, limit, reach, radius, best, where)
        for lane in range(count):
            place[first + lane], value[first + lane] = where[lane], best[lane]


@compiled
def best_anywhere(samples, values, weights, cos, sin, place, value, sums):
    """Find the best shift of p orientations for samples at any place: ``place`` and ``value`` (p,).

    ``cos`` and ``sin`` (s, n) are those of the phases of every shift and sample; ``sums`` (p, 3) as in ``_products``.
    Results are changed only where f.g exceeds ``value``.
    """
    p, n = weights.shape
    re, im = np.empty((n, LANES), np.float32), np.empty((n, LANES), np.float32)
    best, where = np.empty(LANES, np.float32), np.zeros(LANES, np.int32)
    score = carray(scratch_float(), (1, LANES))
    places, last = np.arange(n), cos.shape[0] - 1
    for first in range(0, p, LANES):
        re[:] = 0.0
        im[:] = 0.0
        count = min(LANES, p - first)
        for lane in range(count):
            _products(samples, values[first + lane], weights[first + lane], places, lane, re, im, sums[first + lane])
        best[:] = LOWEST
        # Each sum waits for its last term: four at a time keep the processor busy.
        for shift in range(0, cos.shape[0], 4):
            s, t, u = min(shift + 1, last), min(shift + 2, last), min(shift + 3, last)
            one = two = three = four = lanes_of_zero()
            for j in range(n):
                a, b = load_lanes(re, j), load_lanes(im, j)
                one = add_scaled(add_scaled(one, cos[shift, j], a), -sin[shift, j], b)
                two = add_scaled(add_scaled(two, cos[s, j], a), -sin[s, j], b)
                three = add_scaled(add_scaled(three, cos[t, j], a), -sin[t, j], b)
                four = add_scaled(add_scaled(four, cos[u, j], a), -sin[u, j], b)
            for place_of, total in ((shift, one), (s, two), (t, three), (u, four)):
                store_lanes(score, 0, total)
                _keep_largest(score[0], place_of, best, where)
        for lane in range(count):
            if best[lane] > value[first + lane]:
                place[first + lane], value[first + lane] = where[lane], best[lane]
