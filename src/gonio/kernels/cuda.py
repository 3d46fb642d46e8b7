"""Loops over poses and samples on a graphics card (CUDA), with the functions that ``cpu`` and ``refine`` loop over.

What happens at a sample (``sample``), what its sums mean (``model``), how a step is made and judged (``refine``,
``lm``) is compiled here once more from the same source. One block of threads does one pose, or the whole refinement of
one candidate: a thread takes every so many-th sample and adds its 37 sums up in float32; those of all threads are added
in float64, as a tree of fixed order. No two threads ever add to one number: same input, same bits. What follows from
the sums, 6 x 6 numbers, the first thread does in float64 as the CPU does; other blocks have the processor meanwhile.

What blocks look at lies in flat arrays that many pairs share, and whole numbers say where (``REFERENCE``, ``PART``).
Needs numba-cuda (the extra ``cuda``). Under Numba's simulator threads are those of Python, and everything between two
of their meetings is compiled for the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import cuda as _cuda
from numba import float32, float64, int32
from numpy.typing import NDArray

from gonio.kernels.compiled import compiled, inlined
from gonio.kernels.cpu import FF, FG, GG, JTF, JTG, N_SUMS, WEIGHT
from gonio.kernels.lm import FIRST_DAMPING, FIRST_GROWTH, MAX_ITERATIONS, NO_OVERLAP, RUNNING
from gonio.kernels.model import dissimilarity
from gonio.kernels.refine import Landscape, placed, proposed, settled, valued
from gonio.kernels.sample import (
    interpolated,
    interpolated_with_slopes,
    phase_factor,
    region_holds,
    shown,
    turned_back,
    volume_weight,
)

__all__ = [
    "LANDSCAPE",
    "LANDSCAPE_NUMBERS",
    "PART",
    "REFERENCE",
    "SIMULATED",
    "THREADS",
    "Kernels",
    "kernels",
    "landscape_rows",
]

cuda: Any = _cuda  # its names depend on whether it is the simulator's

# Threads of a block, a power of two: a pose has some hundred samples, and each thread should have a few.
THREADS = 64
SIMULATED = bool(cuda.config.ENABLE_CUDASIM)
# What the rows of tables of whole numbers say. Of a reference: where its grid begins and the points along its edge,
# where its regions begin and how many there are, where its volume of weights begins and the points along its edge.
REFERENCE = ("grid", "side", "region", "regions", "volume", "volume_side")
# Of a part, samples of one comparison that are added up together: where its frequencies and its other columns begin and
# how many there are. Samples are in the order of their distance from zero frequency: shells and limits are parts.
PART = ("reference", "frequency", "column", "count")
# Where the numbers of a ``Landscape`` begin in a row of them, float64; directions are 6 x k, by rows.
LANDSCAPE = {
    "unit": 0, "phase": 1, "least": 2, "centre": 3, "max_shift": 6, "cone_centre": 7, "cone_cosine": 16, "crowding": 17,
    "power": 18, "radius": 19, "tolerance": 20, "prior_numbers": 21, "directions": 39,
}  # fmt: skip
PRIOR_NUMBERS, LANDSCAPE_NUMBERS = 18, 75
UNIT, PHASE, LEAST = (LANDSCAPE[name] for name in ("unit", "phase", "least"))
# Frequencies are rows (n, 3). Columns of samples, (6, n): re and im of the value, transfer, weight, |f|^2 and the share
# of |g|^2 that counts.
RE, IM, TRANSFER, OWN_WEIGHT, POWER, OWN = range(6)
# Registers of a thread that refines: of more, too few blocks would fit beside each other. Never tuned on a device.
REGISTERS = 168
# Sums that a value needs.
N_TOTALS = 4


# What a thread does between two meetings: for the simulator compiled once and kept.
by_thread = compiled if SIMULATED else inlined


class _Spot(NamedTuple):
    """Where a part and its reference lie."""

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
def _spot(references, scales, parts, part):
    r = parts[part, 0]
    return _Spot(
        references[r, 0], references[r, 1], references[r, 2], references[r, 3], references[r, 4], references[r, 5],
        parts[part, 1], parts[part, 2], parts[part, 3], scales[r, 0], scales[r, 1],
    )  # fmt: skip


@inlined
def _measured(spot, regions, volumes, qx, qy, qz):
    """How well the reference was measured at q."""
    if spot.volume_side > 0:
        s = spot.volume_scale
        return volume_weight(volumes, spot.volume, spot.volume_side, s * qx, s * qy, s * qz)
    for i in range(spot.region, spot.region + spot.regions):
        if region_holds(regions[i], qx, qy, qz):
            return np.float32(1.0)
    return np.float32(0.0)


@by_thread
def _thread_sums(spot, grids, regions, volumes, frequency, columns, rotation, phase, thread, threads, sums):
    """One thread's share of the 37 sums of docs/theory.md eq. 8 at a pose, into ``sums`` (37,) float32."""
    for i in range(N_SUMS):
        sums[i] = np.float32(0.0)
    for i in range(thread, spot.samples, threads):
        at, c = spot.frequency + i, spot.column + i
        kx, ky, kz = frequency[at, 0], frequency[at, 1], frequency[at, 2]
        qx, qy, qz = turned_back(rotation, kx, ky, kz)
        w = columns[OWN_WEIGHT, c] * _measured(spot, regions, volumes, qx, qy, qz)
        if w > np.float32(0.0):
            s = spot.scale
            gr, gi, slopes = interpolated_with_slopes(grids, spot.grid, spot.side, s * qx, s * qy, s * qz)
            cos, sin = phase_factor(phase, kx, ky, kz)
            found = shown(rotation, gr, gi, slopes, columns[TRANSFER, c], s, cos, sin, kx, ky, kz)
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
def _thread_totals(spot, grids, regions, volumes, frequency, columns, rotation, phase, thread, threads, totals):
    """One thread's share of |f|^2, |g|^2, f.g and the total weight at a pose, into ``totals`` (4,) float32."""
    for i in range(N_TOTALS):
        totals[i] = np.float32(0.0)
    for i in range(thread, spot.samples, threads):
        at, c = spot.frequency + i, spot.column + i
        kx, ky, kz = frequency[at, 0], frequency[at, 1], frequency[at, 2]
        qx, qy, qz = turned_back(rotation, kx, ky, kz)
        w = columns[OWN_WEIGHT, c] * _measured(spot, regions, volumes, qx, qy, qz)
        if w > np.float32(0.0):
            s = spot.scale
            re, im = interpolated(grids, spot.grid, spot.side, s * qx, s * qy, s * qz)
            cos, sin = phase_factor(phase, kx, ky, kz)
            transfer = columns[TRANSFER, c]
            gr, gi = transfer * (cos * re - sin * im), transfer * (cos * im + sin * re)
            totals[0] += w * columns[POWER, c]
            totals[1] += w * columns[OWN, c] * (gr * gr + gi * gi)
            totals[2] += w * (columns[RE, c] * gr + columns[IM, c] * gi)
            totals[3] += w


@by_thread
def _thread_products(spot, grids, regions, volumes, frequency, columns, rotation, thread, threads, re, im, totals):
    """One thread's share of w f conj(G') before any shift, re and im (n,), and of what no shift changes (4,)."""
    for i in range(N_TOTALS):
        totals[i] = np.float32(0.0)
    for i in range(thread, spot.samples, threads):
        at, c = spot.frequency + i, spot.column + i
        qx, qy, qz = turned_back(rotation, frequency[at, 0], frequency[at, 1], frequency[at, 2])
        w = columns[OWN_WEIGHT, c] * _measured(spot, regions, volumes, qx, qy, qz)
        re[i] = im[i] = np.float32(0.0)
        if w > np.float32(0.0):
            s = spot.scale
            gr, gi = interpolated(grids, spot.grid, spot.side, s * qx, s * qy, s * qz)
            transfer, fr, fi = columns[TRANSFER, c], columns[RE, c], columns[IM, c]
            gr, gi = transfer * gr, transfer * gi
            totals[0] += w * columns[POWER, c]
            totals[1] += w * columns[OWN, c] * (gr * gr + gi * gi)
            totals[3] += w
            re[i], im[i] = w * (fr * gr + fi * gi), w * (fi * gr - fr * gi)


@by_thread
def _best_of_thread(spot, frequency, phase, shifts, turns, first, count, table, re, im, thread, threads):
    """The best of every so many-th shift, the first of equals: its number and f.g there.

    ``shifts`` (s, 3) in angstrom, of which ``count`` from ``first`` on are tried. ``turns`` (t, 2) are cosines and
    sines of every sample and shift, from ``table`` on; where that is negative they are not there.
    """
    best, where = np.float32(-3e38), np.int64(-1)
    for shift in range(thread, count, threads):
        total = np.float32(0.0)
        if table >= 0:
            at = table + shift
            for i in range(spot.samples):
                total += turns[at, 0] * re[i] - turns[at, 1] * im[i]
                at += count
        else:
            x, y, z = shifts[first + shift, 0], shifts[first + shift, 1], shifts[first + shift, 2]
            back = np.float32(phase * x), np.float32(phase * y), np.float32(phase * z)
            for i in range(spot.samples):
                at = spot.frequency + i
                c, s = phase_factor(back, frequency[at, 0], frequency[at, 1], frequency[at, 2])
                total += c * re[i] + s * im[i]
        if total > best:
            best, where = total, np.int64(shift)
    return best, where


@by_thread
def _landscape(whole, numbers, directions, centre, cone_centre, prior_numbers, k):
    """A ``Landscape`` from its row of tables; its arrays are put into those given."""
    for i in range(3):
        centre[i] = numbers[3 + i]
        for j in range(3):
            cone_centre[i, j] = numbers[7 + 3 * i + j]
    for i in range(PRIOR_NUMBERS):
        prior_numbers[i] = numbers[21 + i]
    for i in range(6):
        for j in range(k):
            directions[i, j] = numbers[39 + i * k + j]
    return Landscape(
        whole[0], numbers[0], numbers[1], numbers[2], directions, centre, numbers[6], cone_centre, numbers[16],
        whole[1], prior_numbers, numbers[17], numbers[18], numbers[19], numbers[20],
    )  # fmt: skip


# Until here nothing knows of blocks; from here on threads wait for one another.
if SIMULATED:

    def as_array(array: Any) -> Any:
        """An argument of a kernel as compiled functions take it."""
        return array._item._ary

else:

    @cuda.jit(device=True)
    def as_array(array):
        """An argument of a kernel as compiled functions take it."""
        return array


@cuda.jit(device=True)
def add_up(buffer, thread, threads, width):
    """Sums over the rows of a block's ``buffer`` (threads, width), into the first: pairs, then pairs of pairs."""
    half = threads // 2
    while half > 0:
        cuda.syncthreads()
        for i in range(thread, half * width, threads):
            row, column = i // width, i % width
            buffer[row, column] += buffer[row + half, column]
        half //= 2
    cuda.syncthreads()


def landscape_rows(landscapes: Sequence[Landscape]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Landscapes as rows of whole numbers (b, 2), score and prior, and of others (b, 75)."""
    whole, numbers = np.zeros((len(landscapes), 2), np.int64), np.zeros((len(landscapes), LANDSCAPE_NUMBERS))
    for i, landscape in enumerate(landscapes):
        whole[i] = landscape.score, landscape.prior
        for name, begin in LANDSCAPE.items():
            entry = np.ravel(getattr(landscape, name))
            numbers[i, begin : begin + len(entry)] = entry
    return whole, numbers


class Kernels(NamedTuple):
    """Kernels for blocks of so many ``threads``; refinements along 6 directions, and along 4 (about an axis)."""

    threads: int
    normal_equations: Any
    totals: Any
    best_shifts: Any
    refine: dict[int, Any]


@lru_cache(maxsize=4)
def kernels(threads: int = THREADS) -> Kernels:
    """The kernels, compiled when they are first launched."""
    if threads < 1 or threads & (threads - 1):
        raise ValueError(f"the threads of a block must be a power of two, got {threads!r}")
    return Kernels(
        threads,
        _sums_kernel(threads, _thread_sums, N_SUMS),
        _sums_kernel(threads, _thread_totals, N_TOTALS),
        _best_shifts_kernel(threads),
        {k: _refine_kernel(threads, k) for k in (4, 6)},
    )


def _sums_kernel(threads: int, thread_sums: Any, width: int) -> Any:
    @cuda.jit(fastmath=True)
    def sums_of_poses(
        grids, regions, volumes, references, scales, frequency, columns, parts, part_first, phases, first, step, counts,
        most, shells, points, out,
    ):  # fmt: skip
        """The sums at poses of comparisons, for each of a comparison's parts, into ``out`` (b most shells, width).

        Comparison c has the parts from ``part_first[c]`` on, ``shells`` or fewer; its poses are every ``step[c]``-th of
        ``points`` (p, 12) from ``first[c]`` on, ``counts[c]`` of them but no more than ``most``. Rows of ``out`` are in
        the order (comparison, pose, part); what there is none of is left as it is. ``phases`` (c,) are those of a shift
        of one angstrom at frequency one.
        """
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        shell, pose = block % shells, block // shells % most
        which = block // (shells * most)
        part = part_first[which] + shell
        if part >= part_first[which + 1] or pose >= counts[which]:
            return
        sums = cuda.local.array(width, float32)
        buffer = cuda.shared.array((threads, width), float64)
        rotation = cuda.shared.array((3, 3), float32)  # the simulator knows shared arrays by their lines
        phase = cuda.shared.array(3, float32)
        if thread == 0:
            placed(phases[which], as_array(points)[first[which] + pose * step[which]], rotation, phase)
        cuda.syncthreads()
        spot = _spot(as_array(references), as_array(scales), as_array(parts), part)
        thread_sums(
            spot, as_array(grids), as_array(regions), as_array(volumes), as_array(frequency), as_array(columns),
            rotation, phase, thread, threads, sums,
        )  # fmt: skip
        for i in range(width):
            buffer[thread, i] = sums[i]
        add_up(buffer, thread, threads, width)
        for i in range(thread, width, threads):
            out[block, i] = buffer[0, i]

    return sums_of_poses


def _best_shifts_kernel(threads: int) -> Any:
    @cuda.jit(fastmath=True)
    def best_shifts(
        grids, regions, volumes, references, scales, frequency, columns, parts, whole, numbers, seeds, most, rotations,
        shifts, turns, re, im, points, value,
    ):  # fmt: skip
        """The best shift of each orientation of a comparison, as a point (12,), and the dissimilarity there.

        Seeds (6,) of comparison c say: where its orientations (r, 9) begin and how many there are, ``most`` or fewer;
        where its shifts (s, 3) in angstrom begin and how many there are; where its ``turns`` begin (`_best_of_thread`);
        where its results begin. ``whole`` and ``numbers`` are those of the landscape; ``re`` and ``im``
        (r, n), as many rows as results, are memory to work in.
        """
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        which, seed = block // most, block % most
        if seed >= seeds[which, 1]:
            return
        some = cuda.local.array(N_TOTALS, float32)
        buffer = cuda.shared.array((threads, N_TOTALS), float64)
        best = cuda.shared.array(threads, float32)
        where = cuda.shared.array(threads, int32)
        rotation = cuda.shared.array((3, 3), float32)
        given, first, row = seeds[which, 0] + seed, seeds[which, 2], seeds[which, 5] + seed
        for i in range(thread, 9, threads):
            rotation[i // 3, i % 3] = rotations[given, i]
        cuda.syncthreads()
        spot = _spot(as_array(references), as_array(scales), as_array(parts), which)
        own_re, own_im = as_array(re)[row], as_array(im)[row]
        _thread_products(
            spot, as_array(grids), as_array(regions), as_array(volumes), as_array(frequency), as_array(columns),
            rotation, thread, threads, own_re, own_im, some,
        )  # fmt: skip
        for i in range(N_TOTALS):
            buffer[thread, i] = some[i]
        add_up(buffer, thread, threads, N_TOTALS)  # after it, products of every thread are there too
        phase = numbers[which, PHASE]
        best[thread], where[thread] = _best_of_thread(
            spot, as_array(frequency), phase, as_array(shifts), as_array(turns), first, seeds[which, 3],
            seeds[which, 4], own_re, own_im, thread, threads,
        )  # fmt: skip
        half = threads // 2
        while half > 0:
            cuda.syncthreads()
            if thread < half:
                larger = best[thread + half] > best[thread]
                equal = best[thread + half] == best[thread] and where[thread + half] >= 0
                if larger or (equal and (where[thread] < 0 or where[thread + half] < where[thread])):
                    best[thread], where[thread] = best[thread + half], where[thread + half]
            half //= 2
        cuda.syncthreads()
        for i in range(thread, 12, threads):
            if i < 9:
                points[row, i] = rotations[given, i]
            else:
                # Where the wedges share nothing there is nothing to tell one shift from another.
                points[row, i] = shifts[first + where[0], i - 9] if buffer[0, 3] > 0.0 else 0.0
        if thread == 0:
            value[row] = dissimilarity(
                whole[which, 0], buffer[0, 0], buffer[0, 1], float64(best[0]), buffer[0, 3],
                numbers[which, UNIT], numbers[which, LEAST],
            )  # fmt: skip

    return best_shifts


def _refine_kernel(threads: int, k: int) -> Any:
    @cuda.jit(**({} if SIMULATED else {"max_registers": REGISTERS}))
    def refine(
        grids, regions, volumes, references, scales, frequency, columns, parts, whole, numbers, first, counts, most,
        n_steps, points, value, hessian, descent, damping, growth, status, iterations,
    ):  # fmt: skip
        """Refine the first points of each comparison by at most ``n_steps`` (c,): ``lm.minimise``.

        Those of comparison c are the rows from ``first[c]`` on, ``counts[c]`` of them but no more than ``most``. The
        arrays are those of a ``gonio.lm.State``; only ``points`` need to be filled.
        """
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        part = block // most
        if block % most >= counts[part]:
            return
        row = first[part] + block % most
        sums = cuda.local.array(N_SUMS, float32)
        buffer = cuda.shared.array((threads, N_SUMS), float64)
        rotation = cuda.shared.array((3, 3), float32)  # the simulator knows shared arrays by their lines
        phases = cuda.shared.array(3, float32)
        going = cuda.shared.array(1, int32)
        # The first thread's own.
        directions, cone_centre = cuda.local.array((6, k), float64), cuda.local.array((3, 3), float64)
        centre, prior_numbers = cuda.local.array(3, float64), cuda.local.array(PRIOR_NUMBERS, float64)
        here, trial = cuda.local.array(12, float64), cuda.local.array(12, float64)
        own_hessian, next_hessian = cuda.local.array((k, k), float64), cuda.local.array((k, k), float64)
        own_descent, next_descent = cuda.local.array(k, float64), cuda.local.array(k, float64)
        matrix, step = cuda.local.array((k, k), float64), cuda.local.array(k, float64)
        tangent, total = cuda.local.array(6, float64), cuda.local.array(N_SUMS, float64)
        full, curvature = cuda.local.array((6, 6), float64), cuda.local.array((6, 6), float64)
        slope, pull = cuda.local.array(6, float64), cuda.local.array(6, float64)
        spot = _spot(as_array(references), as_array(scales), as_array(parts), part)
        landscape = _landscape(
            as_array(whole)[part], as_array(numbers)[part], directions, centre, cone_centre, prior_numbers, k
        )
        own_value, own_damping, own_growth, code, done = np.inf, FIRST_DAMPING, FIRST_GROWTH, RUNNING, 0
        determined = False
        for i in range(12):
            here[i] = trial[i] = points[row, i]
        while True:
            if thread == 0:
                # The first look is at the start itself.
                if done > 0:
                    determined = proposed(
                        landscape, here, own_hessian, own_descent, own_damping, matrix, step, tangent, trial
                    )
                placed(landscape.phase, trial, rotation, phases)
            cuda.syncthreads()
            _thread_sums(
                spot, as_array(grids), as_array(regions), as_array(volumes), as_array(frequency), as_array(columns),
                rotation, phases, thread, threads, sums,
            )  # fmt: skip
            for i in range(N_SUMS):
                buffer[thread, i] = sums[i]
            add_up(buffer, thread, threads, N_SUMS)
            if thread == 0:
                for i in range(N_SUMS):
                    total[i] = buffer[0, i]
                work = (full, slope, curvature, pull)
                if done == 0:
                    own_value = valued(landscape, total, here, own_hessian, own_descent, work)
                    if not own_value < np.inf:
                        code = NO_OVERLAP
                else:
                    after = valued(landscape, total, trial, next_hessian, next_descent, work)
                    own_value, own_damping, own_growth, code = settled(
                        landscape, here, own_value, own_hessian, own_descent, own_damping, own_growth, determined,
                        step, tangent, trial, after, next_hessian, next_descent,
                    )  # fmt: skip
                going[0] = code == RUNNING and done < n_steps[part]
                done += 1
            cuda.syncthreads()
            if going[0] == 0:
                break
        if thread == 0:
            value[row], damping[row], growth[row] = own_value, own_damping, own_growth
            status[row] = MAX_ITERATIONS if code == RUNNING else code
            iterations[row] = done - 1
            for i in range(12):
                points[row, i] = here[i]
            for a in range(k):
                descent[row, a] = own_descent[a]
                for b in range(k):
                    hessian[row, a, b] = own_hessian[a, b]

    return refine
