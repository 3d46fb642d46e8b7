"""Kernels of a GPU (CUDA): sums at poses, best shifts, refinements.

One block of threads computes one pose, or the best shifts of some orientations, or the whole refinement of one
candidate. Loops over samples are in ``cuda_samples``. The rest, dissimilarities (``model``) and steps
(``pose_refinement``, ``marquardt``) of 6 x 6 numbers, is done by the first thread in float64 with the functions of the
CPU; meanwhile the processor is free for other blocks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import float32, float64, int32

from gonio.kernels.cuda_samples import (
    LANES,
    LEAST,
    N_TOTALS,
    PHASE,
    PRIOR_NUMBERS,
    SIMULATED,
    THREADS,
    UNIT,
    add_up,
    as_array,
    best_of_thread,
    cuda,
    landscape_of,
    spot_of,
    thread_products,
    thread_sums,
    thread_totals,
)
from gonio.kernels.marquardt import FIRST_DAMPING, FIRST_GROWTH, MAX_ITERATIONS, NO_OVERLAP, RUNNING
from gonio.kernels.model import dissimilarity
from gonio.kernels.pose_refinement import noise, placed, proposed, settled, valued
from gonio.kernels.sample_sums import N_SUMS

# Registers of a thread that refines: with more, too few blocks would run at a time. Never tuned on a device.
REGISTERS = 168


class Kernels(NamedTuple):
    """Kernels for blocks of ``threads`` threads; refinements along 6 directions, and along 4 (about an axis)."""

    threads: int
    normal_equations: Any
    totals: Any
    best_shifts: Any
    refine: dict[int, Any]


@lru_cache(maxsize=4)
def kernels(threads: int = THREADS) -> Kernels:
    """Return the kernels, which are compiled when they are first launched."""
    if threads < 1 or threads & (threads - 1):
        raise ValueError(f"the threads of a block must be a power of two, got {threads!r}")
    return Kernels(
        threads,
        _sums_kernel(threads, thread_sums, N_SUMS),
        _sums_kernel(threads, thread_totals, N_TOTALS),
        _best_shifts_kernel(threads),
        {k: _refine_kernel(threads, k) for k in (4, 6)},
    )


def _sums_kernel(threads: int, sums_of_thread: Any, width: int) -> Any:
    @cuda.jit(fastmath=True)
    def sums_of_poses(
        grids, regions, volumes, references, scales, frequency, columns, parts, part_first, phases, first, step, counts,
        most, shells, points, out,
    ):  # fmt: skip
        """Write the sums at poses of b comparisons, for each part of a comparison, into ``out`` (b most shells, width).

        Comparison c has the parts from ``part_first[c]`` on, ``shells`` or fewer; its poses are every ``step[c]``-th of
        ``points`` (p, 12) from ``first[c]`` on, ``counts[c]`` of them but no more than ``most``. Rows of ``out`` are in
        the order (comparison, pose, part); rows of missing poses and parts are not written. ``phases`` (c,) are those
        of a shift of one angstrom at frequency one.
        """
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        shell, pose = block % shells, block // shells % most
        which = block // (shells * most)
        part = part_first[which] + shell
        if part >= part_first[which + 1] or pose >= counts[which]:
            return
        sums = cuda.local.array(width, float32)
        buffer = cuda.shared.array((threads, width), float64)
        rotation = cuda.shared.array((3, 3), float32)  # the simulator identifies shared arrays by their lines
        phase = cuda.shared.array(3, float32)
        if thread == 0:
            placed(phases[which], as_array(points)[first[which] + pose * step[which]], rotation, phase)
        cuda.syncthreads()
        spot = spot_of(as_array(references), as_array(scales), as_array(parts), part)
        sums_of_thread(
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
        shifts, factors, re, im, points, value,
    ):  # fmt: skip
        """Find the best shift of each orientation of a comparison, as a point (12,), and the dissimilarity there.

        Seeds (7,) of comparison c hold where its orientations (r, 9) begin and how many there are; where its shifts
        (s, 3) in angstrom begin and how many there are; where its ``factors`` begin (`best_of_thread`); where its
        results begin, and where its groups of LANES orientations, ``most`` or fewer, of which a block does one.
        ``whole`` and ``numbers`` are those of the landscape; ``re`` and ``im`` (g, n, LANES) are overwritten.
        """
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        which, begin = block // most, block % most * LANES
        lanes = min(seeds[which, 1] - begin, LANES)
        if lanes <= 0:
            return
        some = cuda.local.array(N_TOTALS, float32)
        one = cuda.local.array(LANES, float32)
        two = cuda.local.array(LANES, float32)
        buffer = cuda.shared.array((threads, N_TOTALS), float64)
        norms = cuda.shared.array((LANES, N_TOTALS), float64)
        best = cuda.shared.array((threads, LANES), float32)
        where = cuda.shared.array((threads, LANES), int32)
        rotation = cuda.shared.array((3, 3), float32)
        orientation, first, group = seeds[which, 0] + begin, seeds[which, 2], seeds[which, 6] + block % most
        spot = spot_of(as_array(references), as_array(scales), as_array(parts), which)
        own_re, own_im = as_array(re)[group], as_array(im)[group]
        for lane in range(LANES):
            for i in range(thread, 9, threads):  # lanes without an orientation repeat the last one
                rotation[i // 3, i % 3] = rotations[orientation + min(lane, lanes - 1), i]
            cuda.syncthreads()
            thread_products(
                spot, as_array(grids), as_array(regions), as_array(volumes), as_array(frequency), as_array(columns),
                rotation, thread, threads, lane, own_re, own_im, some,
            )  # fmt: skip
            for i in range(N_TOTALS):
                buffer[thread, i] = some[i]
            add_up(buffer, thread, threads, N_TOTALS)
            for i in range(thread, N_TOTALS, threads):
                norms[lane, i] = buffer[0, i]
            cuda.syncthreads()  # the products of every thread are complete
        best_of_thread(
            spot, as_array(frequency), numbers[which, PHASE], as_array(shifts), as_array(factors), first,
            seeds[which, 3], seeds[which, 4], own_re, own_im, thread, threads, one, two, best, where,
        )  # fmt: skip
        half = threads // 2
        while half > 0:
            cuda.syncthreads()
            for i in range(thread, half * LANES, threads):
                row, lane = i // LANES, i % LANES
                found, other = best[row, lane], best[row + half, lane]
                here, there = where[row, lane], where[row + half, lane]
                if there >= 0 and (here < 0 or other > found or (other == found and there < here)):
                    best[row, lane], where[row, lane] = other, there
            half //= 2
        cuda.syncthreads()
        for i in range(thread, lanes * 12, threads):
            lane, j = i // 12, i % 12
            if j < 9:
                points[seeds[which, 5] + begin + lane, j] = rotations[orientation + lane, j]
            else:
                # Where the wedges do not overlap, no shift is better than another.
                shift = shifts[first + where[0, lane], j - 9] if norms[lane, 3] > 0.0 else 0.0
                points[seeds[which, 5] + begin + lane, j] = shift
        for lane in range(thread, lanes, threads):
            value[seeds[which, 5] + begin + lane] = dissimilarity(
                whole[which, 0], norms[lane, 0], norms[lane, 1], float64(best[0, lane]), norms[lane, 3],
                numbers[which, UNIT], numbers[which, LEAST],
            )  # fmt: skip

    return best_shifts


def _refine_kernel(threads: int, k: int) -> Any:
    @cuda.jit(**({} if SIMULATED else {"max_registers": REGISTERS}))
    def refine(
        grids, regions, volumes, references, scales, frequency, columns, parts, whole, numbers, first, counts, most,
        n_steps, points, value, hessian, descent, damping, growth, status, iterations,
    ):  # fmt: skip
        """Refine the first points of each comparison by at most ``n_steps`` (c,) Levenberg-Marquardt steps.

        The points of comparison c are the rows from ``first[c]`` on, ``counts[c]`` of them but no more than ``most``.
        The arrays are those of a ``gonio.search.levenberg_marquardt.State``; only ``points`` need to be filled.
        """
        block, thread = cuda.blockIdx.x, cuda.threadIdx.x
        part = block // most
        if block % most >= counts[part]:
            return
        row = first[part] + block % most
        sums = cuda.local.array(N_SUMS, float32)
        buffer = cuda.shared.array((threads, N_SUMS), float64)
        rotation = cuda.shared.array((3, 3), float32)  # the simulator identifies shared arrays by their lines
        phases = cuda.shared.array(3, float32)
        is_running = cuda.shared.array(1, int32)
        # Memory of the first thread.
        directions, cone_centre = cuda.local.array((6, k), float64), cuda.local.array((3, 3), float64)
        centre, prior_numbers = cuda.local.array(3, float64), cuda.local.array(PRIOR_NUMBERS, float64)
        here, trial = cuda.local.array(12, float64), cuda.local.array(12, float64)
        own_hessian, next_hessian = cuda.local.array((k, k), float64), cuda.local.array((k, k), float64)
        own_descent, next_descent = cuda.local.array(k, float64), cuda.local.array(k, float64)
        matrix, step = cuda.local.array((k, k), float64), cuda.local.array(k, float64)
        tangent, total = cuda.local.array(6, float64), cuda.local.array(N_SUMS, float64)
        full, curvature = cuda.local.array((6, 6), float64), cuda.local.array((6, 6), float64)
        slope, pull = cuda.local.array(6, float64), cuda.local.array(6, float64)
        spot = spot_of(as_array(references), as_array(scales), as_array(parts), part)
        landscape = landscape_of(
            as_array(whole)[part], as_array(numbers)[part], directions, centre, cone_centre, prior_numbers, k
        )
        own_value, own_damping, own_growth, code, done = np.inf, FIRST_DAMPING, FIRST_GROWTH, RUNNING, 0
        determined = False
        for i in range(12):
            here[i] = trial[i] = points[row, i]
        while True:
            if thread == 0:
                # The first evaluation is at the start itself.
                if done > 0:
                    determined = proposed(
                        landscape, here, own_hessian, own_descent, own_damping, matrix, step, tangent, trial
                    )
                placed(landscape.phase, trial, rotation, phases)
            cuda.syncthreads()
            thread_sums(
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
                        step, tangent, trial, after, noise(landscape, total), next_hessian, next_descent,
                    )  # fmt: skip
                is_running[0] = code == RUNNING and done < n_steps[part]
                done += 1
            cuda.syncthreads()
            if is_running[0] == 0:
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
