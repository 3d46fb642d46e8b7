"""Loops of a GPU's (CUDA) threads over samples, with the functions that the CPU's loops call.

The mathematics at a sample (``sample``) is compiled here from the same source. Thread i of n takes samples i, i + n,
... of a part and adds up in float32; the sums of all threads of a block are added in float64, as a tree of fixed order.
No two threads ever add to one number: same input, same bits.

Blocks read flat arrays that many pairs share, and tables of integers hold the places (``REFERENCE``, ``PART``).
Needs numba-cuda (the extra ``cuda``). Under Numba's simulator threads are those of Python, and the code between two
synchronisations is compiled for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import cuda as _cuda
from numpy.typing import NDArray

from gonio.kernels.compiled import compiled, inlined
from gonio.kernels.pose_refinement import Landscape
from gonio.kernels.sample import (
    interpolated,
    interpolated_with_slopes,
    phase_factor,
    region_holds,
    shown,
    turned_back,
    volume_weight,
)
from gonio.kernels.sample_sums import FF, FG, GG, JTF, JTG, N_SUMS, WEIGHT

cuda: Any = _cuda  # the simulator's module has other names

# Threads of a block, a power of two: a pose has some hundred samples, and each thread should have a few.
THREADS = 64
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
# Columns of the tables of integers. A reference: where its grid begins and the points along its edge, where its
# regions begin and how many there are, where its volume of weights begins and the points along its edge.
REFERENCE = ("grid", "side", "region", "regions", "volume", "volume_side")
# A part, samples of one comparison that are added up together: where its frequencies and its other columns begin and
# how many there are. Samples are sorted by their distance from zero frequency: shells and limits are parts.
PART = ("reference", "frequency", "column", "count")
# Where the numbers of a ``Landscape`` begin in a row of them, float64; directions are 6 x k, by rows.
LANDSCAPE = {
    "unit": 0, "phase": 1, "least": 2, "centre": 3, "max_shift": 6, "cone_centre": 7, "cone_cosine": 16,
    "samples_per_independent": 17, "power": 18, "radius": 19, "tolerance": 20, "prior_numbers": 21, "directions": 39,
}  # fmt: skip
PRIOR_NUMBERS, LANDSCAPE_NUMBERS = 18, 75
(
    UNIT, PHASE, LEAST, CENTRE, MAX_SHIFT, CONE_CENTRE, CONE_COSINE, SAMPLES_PER_INDEPENDENT, TARGET_POWER, RADIUS,
    TOLERANCE, PRIOR, DIRECTIONS,
) = LANDSCAPE.values()  # fmt: skip
# Frequencies are rows (n, 3). Columns of samples, (6, n): re and im of the value, transfer, weight, |f|^2 and the
# factor of |g|^2.
RE, IM, TRANSFER, OWN_WEIGHT, POWER, OWN = range(6)
# Sums that a value needs.
N_TOTALS = 4
# Orientations whose best shifts a block searches together: a phase factor is read once for all of them.
LANES = 8


# Decorator of a thread's work between two synchronisations: for the simulator it is compiled once and kept.
by_thread = compiled if SIMULATED else inlined


class _Spot(NamedTuple):
    """Places of a part and its reference in the flat arrays."""

    grid: int
    side: int
    region: int
    regions: int
    volume: int
    volume_side: int
    frequency: int
    column: int
    samples: int
    scale: float
    volume_scale: float


@by_thread
def spot_of(references, scales, parts, part):
    """Return the places of a part and its reference, from the rows of tables."""
    r = parts[part, 0]
    return _Spot(
        references[r, 0], references[r, 1], references[r, 2], references[r, 3], references[r, 4], references[r, 5],
        parts[part, 1], parts[part, 2], parts[part, 3], scales[r, 0], scales[r, 1],
    )  # fmt: skip


@inlined
def _measured(spot, regions, volumes, qx, qy, qz):
    """Return the weight of the reference's measurement at q, 0 to 1."""
    if spot.volume_side > 0:
        s = spot.volume_scale
        return volume_weight(volumes, spot.volume, spot.volume_side, s * qx, s * qy, s * qz)
    for i in range(spot.region, spot.region + spot.regions):
        if region_holds(regions[i], qx, qy, qz):
            return np.float32(1.0)
    return np.float32(0.0)


@inlined
def _sample(spot, regions, volumes, frequency, columns, rotation, i):
    """Return a part's sample i: its column, its frequency k, its place s q in the reference's grid, and its weight."""
    at, c = spot.frequency + i, spot.column + i
    kx, ky, kz = frequency[at, 0], frequency[at, 1], frequency[at, 2]
    qx, qy, qz = turned_back(rotation, kx, ky, kz)
    w = columns[OWN_WEIGHT, c] * _measured(spot, regions, volumes, qx, qy, qz)
    s = spot.scale
    return c, (kx, ky, kz), (s * qx, s * qy, s * qz), w


@by_thread
def thread_sums(spot, grids, regions, volumes, frequency, columns, rotation, phase, thread, threads, sums):
    """Fill ``sums`` (37,) float32 with one thread's part of the sums of docs/theory.md eq. 8 at a pose."""
    for i in range(N_SUMS):
        sums[i] = np.float32(0.0)
    for i in range(thread, spot.samples, threads):
        c, (kx, ky, kz), (x, y, z), w = _sample(spot, regions, volumes, frequency, columns, rotation, i)
        if w > np.float32(0.0):
            gr, gi, slopes = interpolated_with_slopes(grids, spot.grid, spot.side, x, y, z)
            cos, sin = phase_factor(phase, kx, ky, kz)
            found = shown(rotation, gr, gi, slopes, columns[TRANSFER, c], spot.scale, cos, sin, kx, ky, kz)
            fr, fi, gr, gi = columns[RE, c], columns[IM, c], found[6], found[13]
            own = w * columns[OWN, c]
            place = 0
            for a in range(6):
                re, im = found[a], found[7 + a]
                for b in range(a, 6):
                    sums[place] += own * (re * found[b] + im * found[7 + b])
                    place += 1
                sums[JTF + a] += w * (re * fr + im * fi)
                sums[JTG + a] += own * (re * gr + im * gi)
            sums[FF] += w * columns[POWER, c]
            sums[GG] += own * (gr * gr + gi * gi)
            sums[FG] += w * (fr * gr + fi * gi)
            sums[WEIGHT] += w


@by_thread
def thread_totals(spot, grids, regions, volumes, frequency, columns, rotation, phase, thread, threads, totals):
    """Fill ``totals`` (4,) float32 with one thread's part of |f|^2, |g|^2, f.g and the total weight at a pose."""
    for i in range(N_TOTALS):
        totals[i] = np.float32(0.0)
    for i in range(thread, spot.samples, threads):
        c, (kx, ky, kz), (x, y, z), w = _sample(spot, regions, volumes, frequency, columns, rotation, i)
        if w > np.float32(0.0):
            re, im = interpolated(grids, spot.grid, spot.side, x, y, z)
            cos, sin = phase_factor(phase, kx, ky, kz)
            transfer = columns[TRANSFER, c]
            gr, gi = transfer * (cos * re - sin * im), transfer * (cos * im + sin * re)
            totals[0] += w * columns[POWER, c]
            totals[1] += w * columns[OWN, c] * (gr * gr + gi * gi)
            totals[2] += w * (columns[RE, c] * gr + columns[IM, c] * gi)
            totals[3] += w


@by_thread
def thread_products(spot, grids, regions, volumes, frequency, columns, rotation, thread, threads, lane, re, im, totals):
    """Write one thread's part of w f conj(G') before any shift into column ``lane`` of ``re`` and ``im`` (n, LANES).

    ``totals`` (4,) receives its part of |f|^2, |g|^2 and the total weight, which no shift changes.
    """
    for i in range(N_TOTALS):
        totals[i] = np.float32(0.0)
    for i in range(thread, spot.samples, threads):
        c, _, (x, y, z), w = _sample(spot, regions, volumes, frequency, columns, rotation, i)
        re[i, lane] = im[i, lane] = np.float32(0.0)
        if w > np.float32(0.0):
            gr, gi = interpolated(grids, spot.grid, spot.side, x, y, z)
            transfer, fr, fi = columns[TRANSFER, c], columns[RE, c], columns[IM, c]
            gr, gi = transfer * gr, transfer * gi
            totals[0] += w * columns[POWER, c]
            totals[1] += w * columns[OWN, c] * (gr * gr + gi * gi)
            totals[3] += w
            re[i, lane], im[i, lane] = w * (fr * gr + fi * gi), w * (fi * gr - fr * gi)


@inlined
def _shift_factor(spot, frequency, phase, shifts, factors, first, count, table, shift, i):
    """Return cosine and sine of a shift's phase at a sample, from ``factors`` or, where ``table`` < 0, computed."""
    if table >= 0:
        at = table + i * count + shift
        return factors[at, 0], factors[at, 1]
    x, y, z = shifts[first + shift, 0], shifts[first + shift, 1], shifts[first + shift, 2]
    phases = np.float32(phase * x), np.float32(phase * y), np.float32(phase * z)
    at = spot.frequency + i
    cos, sin = phase_factor(phases, frequency[at, 0], frequency[at, 1], frequency[at, 2])
    return cos, -sin


@by_thread
def best_of_thread(
    spot, frequency, phase, shifts, factors, first, count, table, re, im, thread, threads, one, two, best, where
):
    """Find the best of one thread's shifts for each lane, the first of equals: its number, and f.g there.

    ``shifts`` (s, 3) in angstrom, of which ``count`` from ``first`` on are tried, two at a time: a sample is read once
    for both and all lanes, ``re`` and ``im`` (n, LANES). ``factors`` (t, 2) are cosines and sines of every sample and
    shift, from ``table`` on; where ``table`` is negative they are computed. ``one`` and ``two`` (LANES,) are
    overwritten; ``best`` and ``where`` (threads, LANES) receive the thread's rows.
    """
    for lane in range(LANES):
        best[thread, lane], where[thread, lane] = np.float32(-3e38), -1
    for shift in range(thread, count, 2 * threads):
        next_shift = shift + threads if shift + threads < count else shift
        for lane in range(LANES):
            one[lane] = two[lane] = np.float32(0.0)
        for i in range(spot.samples):
            c, s = _shift_factor(spot, frequency, phase, shifts, factors, first, count, table, shift, i)
            d, t = _shift_factor(spot, frequency, phase, shifts, factors, first, count, table, next_shift, i)
            for lane in range(LANES):
                a, b = re[i, lane], im[i, lane]
                one[lane] += c * a - s * b
                two[lane] += d * a - t * b
        for lane in range(LANES):
            if one[lane] > best[thread, lane]:
                best[thread, lane], where[thread, lane] = one[lane], shift
            if two[lane] > best[thread, lane]:
                best[thread, lane], where[thread, lane] = two[lane], next_shift


@by_thread
def landscape_of(whole, numbers, directions, centre, cone_centre, prior_numbers, k):
    """Return a ``Landscape`` from its row of tables, with its arrays written into those given."""
    for i in range(3):
        centre[i] = numbers[CENTRE + i]
        for j in range(3):
            cone_centre[i, j] = numbers[CONE_CENTRE + 3 * i + j]
    for i in range(PRIOR_NUMBERS):
        prior_numbers[i] = numbers[PRIOR + i]
    for i in range(6):
        for j in range(k):
            directions[i, j] = numbers[DIRECTIONS + i * k + j]
    return Landscape(
        whole[0], numbers[UNIT], numbers[PHASE], numbers[LEAST], directions, centre, numbers[MAX_SHIFT], cone_centre,
        numbers[CONE_COSINE], whole[1], prior_numbers, numbers[SAMPLES_PER_INDEPENDENT], numbers[TARGET_POWER],
        numbers[RADIUS], numbers[TOLERANCE],
    )  # fmt: skip


# The functions above run in one thread; in those below the threads of a block wait for one another.
if SIMULATED:

    def as_array(array: Any) -> Any:
        """Return an argument of a kernel as compiled functions take it."""
        return array._item._ary

else:

    @cuda.jit(device=True)
    def as_array(array):
        """Return an argument of a kernel as compiled functions take it."""
        return array


@cuda.jit(device=True)
def add_up(buffer, thread, threads, width):
    """Sum the rows of a block's ``buffer`` (threads, width) into the first: pairs, then pairs of pairs."""
    half = threads // 2
    while half > 0:
        cuda.syncthreads()
        for i in range(thread, half * width, threads):
            row, column = i // width, i % width
            buffer[row, column] += buffer[row + half, column]
        half //= 2
    cuda.syncthreads()


def landscape_rows(landscapes: Sequence[Landscape]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return landscapes as rows of integers (b, 2), score and prior, and of other numbers (b, 75)."""
    whole, numbers = np.zeros((len(landscapes), 2), np.int64), np.zeros((len(landscapes), LANDSCAPE_NUMBERS))
    for i, landscape in enumerate(landscapes):
        whole[i] = landscape.score, landscape.prior
        for name, begin in LANDSCAPE.items():
            entry = np.ravel(getattr(landscape, name))
            numbers[i, begin : begin + len(entry)] = entry
    return whole, numbers
