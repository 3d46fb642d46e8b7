"""The stages of searches from coarse to fine on a GPU: the steps between refinements.

The mathematics of one search (``shells``, ``model``, ``pool``) is the source that the CPU compiles; here are the loops
around it. Most have a block for each search, the smallest a thread. Blocks are independent, and the host prepares all
of them before the first launch: it never waits between stages.

Tables of the b searches hold the places of their arrays (``SEARCH``, ``PAIR``); those of shells, one row for each shell
of each search, are as in ``shells``. A pool is ``room`` rows of each search.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import float64, int32

from gonio.kernels.compiled import strict
from gonio.kernels.cuda_samples import (
    IM,
    LEAST,
    OWN,
    OWN_WEIGHT,
    PHASE,
    POWER,
    PRIOR,
    PRIOR_NUMBERS,
    RE,
    TARGET_POWER,
    TRANSFER,
    UNIT,
    add_up,
    as_array,
    cuda,
)
from gonio.kernels.model import FCS, LIKELIHOOD, NO_PRIOR, dissimilarity, prior, ranking_value
from gonio.kernels.pool import apart, how_many, signature
from gonio.kernels.pose_refinement import turned
from gonio.kernels.shells import (
    ALIKE,
    AS_LIKELIHOOD,
    FILTERED,
    MAX_CORRELATION,
    RHO,
    at,
    curvature,
    expected,
    likelihood_gain,
    likelihood_terms,
    median_correlation,
    shell_weight,
    weighting,
    with_chance,
)

# Integers of a search: where its seeds, its shells and its unweighted samples begin; how many seeds and shells;
# how many seeds estimate the chance correlation; its score, whether its reference is noise-free, and whether its
# expected FSC is known beforehand.
SEARCH = {"seed": 0, "shell": 1, "sample": 2, "seeds": 3, "shells": 4, "chance": 5, "score": 6, "exact": 7, "known": 8}
# Other numbers: samples per independent sample, and the size of a voxel in angstrom.
PAIR = {"samples_per_independent": 0, "voxel": 1}
# How samples are weighted: all alike; by the likelihood ratio of the FSC expected beforehand; by the score and the FSC
# expected now; for a choice among optima; for the curvature.
WEIGHTS = {"plain": 0, "before": 1, "score": 2, "choice": 3, "curvature": 4}
PLAIN, BEFORE, BY_SCORE, FOR_CHOICE, _ = WEIGHTS.values()
# Most seeds that estimate the chance correlation: fewer than twice `coarse_to_fine.CHANCE_POSES`.
MOST_CHANCE_POSES = 40
SEED, SHELL, SAMPLE, SEEDS, SHELLS, CHANCE_SEEDS, SCORE, EXACT, KNOWN = SEARCH.values()
SAMPLES_PER_INDEPENDENT, VOXEL = PAIR.values()


@strict
def _rule(mode, score, exact, informed):
    """Return the weighting rule and the score of a search in a mode."""
    wanted = score if mode == BY_SCORE else LIKELIHOOD if mode in (BEFORE, FOR_CHOICE) else FCS
    return (ALIKE, FCS) if mode == PLAIN else weighting(wanted, exact, informed)


@strict
def _radius(frequency, place):
    x, y, z = float64(frequency[place, 0]), float64(frequency[place, 1]), float64(frequency[place, 2])
    return math.sqrt(x * x + y * y + z * z)


@strict
def _sample_weight(rule, table, radius):
    """Return the factor of a sample's weight by a rule."""
    if rule == AS_LIKELIHOOD:
        return likelihood_gain(table, radius)
    if rule == FILTERED:
        return shell_weight(at(table, RHO, radius))
    return 1.0


@strict
def _thread_weights(rule, table, frequency, at_frequency, samples, at_sample, count, thread, threads, sums):
    """Fill ``sums`` (4,) with a thread's sums of weights, factors, products of both, and products times |f|^2."""
    sums[0] = sums[1] = sums[2] = sums[3] = 0.0
    for i in range(thread, count, threads):
        row = samples[at_sample + i]
        factor = _sample_weight(rule, table, _radius(frequency, at_frequency + i))
        sums[0] += row[3]
        sums[1] += factor
        sums[2] += row[3] * factor
        sums[3] += row[3] * factor * (float64(row[0]) * row[0] + float64(row[1]) * row[1])


@strict
def _thread_columns(
    rule, table, contrast, unit, frequency, at_frequency, samples, at_sample, columns, column, count, thread, threads
):
    """Write one thread's part of the columns of weighted samples; weights are divided by ``unit``."""
    for i in range(thread, count, threads):
        row, c = samples[at_sample + i], column + i
        radius = _radius(frequency, at_frequency + i)
        scale = contrast if rule == FILTERED else 1.0
        re, im = row[0] / scale, row[1] / scale
        power, own = re * re + im * im, 1.0
        if rule == AS_LIKELIHOOD:
            power, own = likelihood_terms(table, radius, float64(row[0]) * row[0] + float64(row[1]) * row[1])
        columns[RE, c], columns[IM, c], columns[TRANSFER, c] = re, im, row[2]
        columns[OWN_WEIGHT, c] = row[3] * _sample_weight(rule, table, radius) / unit
        columns[POWER, c], columns[OWN, c] = power, own


@strict
def _rank(values, first, count, i):
    """Return the rank of a value among ``count``, the smallest first, equal ones in their order."""
    here, rank = values[first + i], 0
    for j in range(count):
        other = values[first + j]
        rank += other < here or (other == here and j < i)
    return rank


@strict
def _thread_ranks(values, first, count, most, order, begin, thread, threads):
    """Write one thread's part of the places of the ``most`` smallest values into ``order``, from ``begin`` on."""
    for i in range(thread, count, threads):
        rank = _rank(values, first, count, i)
        if rank < most:
            order[begin + rank] = i


@strict
def _is_new(signatures, order, begin, kept, row, group, distance, thread, threads):
    """Return whether a row is far from all kept rows that this thread compares."""
    count = group.shape[0]
    for i in range(thread, kept * count, threads):
        other = signatures[begin + order[begin + i // count]]
        if apart(other, group[i % count], signatures[row]) <= distance * distance:
            return False
    return True


@strict
def _count_near(values, order, first, count, bound):
    """Return how many of the first ``count`` poses of a pool's ``order`` have a value of at most ``bound``."""
    near = 0
    for i in range(count):
        near += values[first + order[first + i]] <= bound
    return near


class StageKernels(NamedTuple):
    """Kernels of stages, for blocks of ``threads`` threads."""

    threads: int
    weigh: Any
    nulls: Any
    keep_seeds: Any
    leave: Any
    expect: Any
    search_neighbours: Any
    values: Any
    choices: Any
    curvatures: Any


@lru_cache(maxsize=4)
def stage_kernels(threads: int) -> StageKernels:
    """Return the kernels, which are compiled when they are first launched."""
    return StageKernels(
        threads, _weigh_kernel(threads), nulls, _keep_seeds_kernel(threads), _leave_kernel(threads), expect,
        search_neighbours, values_of, choices_of, curvatures,
    )  # fmt: skip


def _weigh_kernel(threads: int) -> Any:
    @cuda.jit
    def weigh(
        mode, power, least_samples, least_fraction, searches, tables, contrasts, raised, frequency, samples, parts,
        columns, whole, numbers,
    ):  # fmt: skip
        """Write the columns of every search's samples, weighted by ``mode``, and the numbers of its landscape.

        ``tables`` (r, 4), with rho raised to ``power``, and ``contrasts`` (b,) are the expected FSCs; ``raised``
        (r, 4) is overwritten. ``samples`` (n, 4) are re, im, transfer and weight.
        """
        which, thread = cuda.blockIdx.x, cuda.threadIdx.x
        own = cuda.local.array(4, float64)
        buffer = cuda.shared.array((threads, 4), float64)
        first, shells = searches[which, SHELL], searches[which, SHELLS]
        for i in range(thread, shells * 4, threads):
            value = tables[first + i // 4, i % 4]
            if i % 4 == RHO and power != 1.0:
                value = min(value**power, MAX_CORRELATION)
            raised[first + i // 4, i % 4] = value
        cuda.syncthreads()
        table = as_array(raised)[first : first + shells]
        informed = False
        for s in range(shells):
            informed = informed or table[s, RHO] > 0.0
        rule, score = _rule(mode, searches[which, SCORE], searches[which, EXACT] != 0, informed)
        at_frequency, column, count = parts[which, 1], parts[which, 2], parts[which, 3]
        at_sample = searches[which, SAMPLE]
        _thread_weights(
            rule, table, as_array(frequency), at_frequency, as_array(samples), at_sample, count, thread, threads, own
        )
        for i in range(4):
            buffer[thread, i] = own[i]
        add_up(buffer, thread, threads, 4)
        # The factors of a likelihood are divided by their mean, which is the unit; so are the weights of a filter.
        total = buffer[0, 1] if rule == AS_LIKELIHOOD else buffer[0, 2]
        mean = total / count if total > 0.0 and rule != ALIKE else 1.0
        contrast = contrasts[which]
        _thread_columns(
            rule, table, contrast, mean, as_array(frequency), at_frequency, as_array(samples), at_sample,
            as_array(columns), column, count, thread, threads,
        )  # fmt: skip
        if thread == 0:
            weight = buffer[0, 2] / mean if rule == FILTERED else buffer[0, 0]
            scale = contrast * contrast if rule == FILTERED else 1.0
            whole[which, 0] = score
            numbers[which, UNIT] = mean if rule == AS_LIKELIHOOD else 1.0
            numbers[which, LEAST] = max(least_samples, least_fraction * weight)
            square = buffer[0, 3] / (scale * buffer[0, 2]) if buffer[0, 2] > 0.0 else 1.0
            numbers[which, TARGET_POWER] = square if score == FCS else 1.0

    return weigh


@cuda.jit
def nulls(searches, sums, most_poses, most_shells, chance, tables):
    """Write the chance correlation of each shell into ``chance`` (r,) and, unless they are known, ``tables``."""
    which, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    memory = cuda.local.array(MOST_CHANCE_POSES, float64)
    first, shells, poses = searches[which, SHELL], searches[which, SHELLS], searches[which, CHANCE_SEEDS]
    for shell in range(thread, shells, threads):
        begin = which * most_poses * most_shells + shell
        found = median_correlation(as_array(sums), begin, most_shells, poses, memory) if poses > 0 else 0.0
        chance[first + shell] = found
    cuda.syncthreads()
    if thread == 0 and searches[which, KNOWN] == 0:
        with_chance(as_array(tables)[first : first + shells], as_array(chance)[first : first + shells])


def _keep_seeds_kernel(threads: int) -> Any:
    @cuda.jit
    def keep_seeds(
        searches, seed_points, seed_values, margin, least, most, enough, room, order, deviation, points, counts
    ):
        """Copy the best seeds of each search into its pool; estimate the standard deviation of the finite ones.

        The deviation is infinite with fewer than ``enough`` seeds. ``order`` (b room,) is overwritten.
        """
        which, thread = cuda.blockIdx.x, cuda.threadIdx.x
        buffer = cuda.shared.array((threads, 2), float64)
        first, count, begin = searches[which, SEED], searches[which, SEEDS], which * room
        total = finite = square = near = 0.0
        for i in range(thread, count, threads):
            if math.isfinite(seed_values[first + i]):
                total += seed_values[first + i]
                finite += 1.0
        buffer[thread, 0], buffer[thread, 1] = total, finite
        add_up(buffer, thread, threads, 2)
        finite = buffer[0, 1]
        mean = buffer[0, 0] / finite if finite > 0.0 else 0.0
        cuda.syncthreads()
        for i in range(thread, count, threads):
            if math.isfinite(seed_values[first + i]):
                square += (seed_values[first + i] - mean) ** 2
        buffer[thread, 0] = square
        _thread_ranks(as_array(seed_values), first, count, most, as_array(order), begin, thread, threads)
        add_up(buffer, thread, threads, 2)
        spread = math.sqrt(buffer[0, 0] / finite) if finite >= enough else np.inf
        best = seed_values[first + order[begin]]
        cuda.syncthreads()
        for i in range(thread, count, threads):
            near += seed_values[first + i] <= best + margin * spread
        buffer[thread, 0] = near
        add_up(buffer, thread, threads, 2)
        kept = how_many(int(buffer[0, 0]), least, most, count)
        for i in range(thread, kept * 12, threads):
            points[begin + i // 12, i % 12] = seed_points[first + order[begin + i // 12], i % 12]
        if thread == 0:
            deviation[which], counts[which] = spread, kept

    return keep_seeds


def _leave_kernel(threads: int) -> Any:
    @cuda.jit
    def leave(
        pairs, group, distance, by_choice, within, margin, least, most, stepped, room, deviation, counts, points,
        values, codes, choices, iterations, order, signatures, total, next_room, next_points, next_values, next_codes,
        next_choices,
    ):  # fmt: skip
        """Copy the first ``most`` distinct poses of each pool into the next pool of ``next_room`` rows.

        Poses are in the order of ``choices`` if ``by_choice``, else in their own. If ``within``, only those up to a
        ``margin`` (deviations) from the best value are kept. The ``iterations`` of the first ``stepped`` rows, which
        were refined last, are added to ``total`` (b,). ``order`` and ``signatures`` (b room, 9) are overwritten.
        """
        which, thread = cuda.blockIdx.x, cuda.threadIdx.x
        new = cuda.shared.array(threads, int32)
        begin, count = which * room, counts[which]
        for i in range(thread, count, threads):
            row = begin + i
            signature(as_array(points)[row], pairs[which, VOXEL], as_array(signatures)[row])
            if by_choice and not math.isfinite(values[row]):
                choices[row] = np.inf
            order[row] = i
        cuda.syncthreads()
        if by_choice:
            _thread_ranks(as_array(choices), begin, count, count, as_array(order), begin, thread, threads)
        # Poses are kept one after the other; every thread compares the next one with its part of those kept so far.
        kept = 0
        for i in range(count):
            cuda.syncthreads()
            place = order[begin + i]
            new[thread] = _is_new(
                as_array(signatures), as_array(order), begin, kept, begin + place, as_array(group), distance, thread,
                threads,
            )  # fmt: skip
            cuda.syncthreads()
            is_distinct = True
            for j in range(threads):
                is_distinct = is_distinct and new[j] != 0
            cuda.syncthreads()
            if is_distinct:
                if thread == 0:
                    order[begin + kept] = place  # kept <= i, so this entry has been read already
                kept += 1
            if kept == most:
                break
        cuda.syncthreads()
        if within:
            bound = values[begin + order[begin]] + margin * deviation[which]
            near = _count_near(as_array(values), as_array(order), begin, kept, bound)
            kept = how_many(near, least, most, kept)
        for i in range(thread, kept, threads):
            old, new_row = begin + order[begin + i], which * next_room + i
            next_values[new_row], next_codes[new_row], next_choices[new_row] = values[old], codes[old], choices[old]
            for j in range(12):
                next_points[new_row, j] = points[old, j]
        if thread == 0:
            for i in range(min(stepped, count)):
                total[which] += iterations[begin + i]
        cuda.syncthreads()  # every thread has read the count
        if thread == 0:
            counts[which] = kept

    return leave


@cuda.jit
def expect(searches, sums, most_shells, chance, c_ref, tables, contrasts):
    """Estimate the expected FSC of each pair from the ``sums`` of shells at one pose; one thread for a search."""
    which = cuda.grid(1)
    if which >= searches.shape[0] or searches[which, KNOWN] != 0:
        return
    first, shells, begin = searches[which, SHELL], searches[which, SHELLS], which * most_shells
    contrasts[which] = expected(
        as_array(sums)[begin : begin + shells],
        as_array(chance)[first : first + shells],
        as_array(c_ref)[first : first + shells],
        as_array(tables)[first : first + shells],
    )


@cuda.jit
def search_neighbours(vectors, most, room, counts, points):
    """Append to each pool its first ``most`` poses, rotated by each of the rotation ``vectors`` (t, 3)."""
    which, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    count, t = counts[which], vectors.shape[0]
    more = min(count, most) * t
    for i in range(thread, more, threads):
        old, new = which * room + i // t, which * room + count + i
        turned(as_array(points)[old], as_array(vectors)[i % t], as_array(points)[new])
        for j in range(9, 12):
            points[new, j] = points[old, j]
    cuda.syncthreads()  # every thread has read the count
    if thread == 0:
        counts[which] = count + more


@cuda.jit
def values_of(sums, first, counts, most, whole, numbers, values):
    """Compute dissimilarities from the sums of poses (c most, 4), one thread for each.

    Poses of comparison c are the rows from ``first[c]`` on, ``counts[c]`` of them but no more than ``most``.
    """
    i = cuda.grid(1)
    which, pose = i // most, i % most
    if which >= len(first) or pose >= counts[which]:
        return
    values[first[which] + pose] = dissimilarity(
        whole[which, 0], sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], numbers[which, UNIT],
        numbers[which, LEAST],
    )  # fmt: skip


@cuda.jit
def choices_of(searches, pairs, sums, most, room, counts, whole, numbers, points, choices):
    """Compute the values that poses of pools are ranked by, from their sums (b most, 4), one thread for each."""
    i = cuda.grid(1)
    which, pose = i // most, i % most
    if which >= searches.shape[0] or pose >= counts[which]:
        return
    hessian, descent = cuda.local.array((6, 6), float64), cuda.local.array(6, float64)
    row = which * room + pose
    value = dissimilarity(
        whole[which, 0], sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], numbers[which, UNIT],
        numbers[which, LEAST],
    )  # fmt: skip
    if searches[which, EXACT] == 0:
        before, kind = 0.0, whole[which, 1]
        if kind != NO_PRIOR:
            begin = PRIOR
            prior_numbers = as_array(numbers)[which, begin : begin + PRIOR_NUMBERS]
            before = prior(kind, prior_numbers, as_array(points)[row], hessian, descent)
        value = ranking_value(value, sums[i, 3], before, pairs[which, SAMPLES_PER_INDEPENDENT])
    choices[row] = value


@cuda.jit
def curvatures(searches, pairs, parts, part_first, numbers, columns, sums, most_shells, weights, follow, scatter):
    """Fill ``follow`` and ``scatter`` (b, 6, 6), A and B of eq. 31, from the 37 sums of each shell.

    ``weights`` (r, 2) is overwritten.
    """
    which, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    first, shells, begin = searches[which, SHELL], searches[which, SHELLS], which * most_shells
    for s in range(thread, shells, threads):
        part = part_first[which] + s
        one = two = 0.0
        for i in range(parts[part, 2], parts[part, 2] + parts[part, 3]):
            w = float64(columns[OWN_WEIGHT, i])
            one, two = one + w, two + w * w
        weights[first + s, 0], weights[first + s, 1] = one, two
    cuda.syncthreads()
    if thread == 0:
        curvature(
            as_array(sums)[begin : begin + shells],
            as_array(weights)[first : first + shells],
            numbers[which, PHASE],
            pairs[which, SAMPLES_PER_INDEPENDENT],
            as_array(follow)[which],
            as_array(scatter)[which],
        )
