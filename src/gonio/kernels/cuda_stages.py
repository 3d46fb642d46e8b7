"""The stages of searches from coarse to fine on a GPU: what lies between refinements.

What follows from the sums of one search (``shells``, ``model``, ``pool``) is the source that the CPU compiles; here are
the loops around it. Most have a block for each search, the smallest a thread. Blocks do not see one another, and what
the host knows before the first launch is enough for all of them: it never waits between stages.

Tables of the b searches say where their things lie (``SEARCH``, ``PAIR``); those of shells, one row for each shell of
each search, are as in ``shells``. A pool is ``room`` rows of each search.
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
from gonio.kernels.model import FCS, LIKELIHOOD, NO_PRIOR, RCS, dissimilarity, prior, unlikeliness
from gonio.kernels.pool import apart, how_many, signature
from gonio.kernels.pose_refinement import turned
from gonio.kernels.shells import (
    MAX_CORRELATION,
    RHO,
    at,
    curvature,
    expected,
    likelihood_gain,
    likelihood_terms,
    median_correlation,
    shell_weight,
    with_chance,
)

__all__ = ["MOST_CHANCE_POSES", "PAIR", "SEARCH", "WEIGHTS", "StageKernels", "stage_kernels"]

# Whole numbers of a search: where its seeds, its shells and its samples as they are begin; how many seeds and shells;
# how many seeds tell what wrong poses have in common; which score it has, whether its pair is exact, and whether what
# is expected of it is known.
SEARCH = {"seed": 0, "shell": 1, "sample": 2, "seeds": 3, "shells": 4, "chance": 5, "score": 6, "exact": 7, "known": 8}
# Other numbers: samples for each one that is independent, and the size of a voxel in angstrom.
PAIR = {"samples_per_independent": 0, "voxel": 1}
# How samples are weighted: all alike; by the likelihood ratio of what is expected beforehand; by the score, and what is
# expected now; as for a choice among optima; and as the curvature is taken.
WEIGHTS = {"plain": 0, "before": 1, "score": 2, "choice": 3, "curvature": 4}
PLAIN, BEFORE, BY_SCORE, FOR_CHOICE, _ = WEIGHTS.values()
# Of a rule: every sample alike, eq. 28 or eq. 30.
ALIKE, FILTERED, AS_LIKELIHOOD = range(3)
# Seeds that tell what wrong poses have in common: fewer than twice `coarse_to_fine.CHANCE_POSES`.
MOST_CHANCE_POSES = 40
SEED, SHELL, SAMPLE, SEEDS, SHELLS, NULLS, SCORE, EXACT, KNOWN = SEARCH.values()
SAMPLES_PER_INDEPENDENT, VOXEL = PAIR.values()


@strict
def _rule(mode, score, exact, informed):
    """Which weights and which score: ``Pair.filtered``."""
    wanted = score if mode == BY_SCORE else LIKELIHOOD if mode in (BEFORE, FOR_CHOICE) else FCS
    if mode == PLAIN:
        return ALIKE, FCS
    if exact:
        return ALIKE, RCS if wanted == LIKELIHOOD else wanted
    if not informed:
        return ALIKE, RCS
    return (AS_LIKELIHOOD if wanted == LIKELIHOOD else FILTERED), wanted


@strict
def _radius(frequency, place):
    x, y, z = float64(frequency[place, 0]), float64(frequency[place, 1]), float64(frequency[place, 2])
    return math.sqrt(x * x + y * y + z * z)


@strict
def _sample_weight(rule, table, radius):
    """What a rule multiplies a sample's weight by."""
    if rule == AS_LIKELIHOOD:
        return likelihood_gain(table, radius)
    if rule == FILTERED:
        return shell_weight(at(table, RHO, radius))
    return 1.0


@strict
def _thread_weights(rule, table, frequency, at_frequency, samples, at_sample, count, thread, threads, sums):
    """One thread's share of the sums of weights, of what they are multiplied by, of both, and of these times |f|^2."""
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
    """One thread's share of the columns of weighted samples; weights are divided by ``unit``."""
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
    """The place of a value among ``count``, the smallest first, equal ones in their order."""
    here, rank = values[first + i], 0
    for j in range(count):
        other = values[first + j]
        rank += other < here or (other == here and j < i)
    return rank


@strict
def _thread_ranks(values, first, count, most, order, room, thread, threads):
    """One thread's share of the places of the ``most`` smallest values, in order, into ``order`` from ``room`` on."""
    for i in range(thread, count, threads):
        rank = _rank(values, first, count, i)
        if rank < most:
            order[room + rank] = i


@strict
def _is_new(signatures, order, room, kept, row, group, distance, thread, threads):
    """Whether none of one thread's share of the kept rows is near a row."""
    count = group.shape[0]
    for i in range(thread, kept * count, threads):
        if apart(signatures[room + order[room + i // count]], group[i % count], signatures[row]) <= distance * distance:
            return False
    return True


class StageKernels(NamedTuple):
    """Kernels of stages, for blocks of so many ``threads``."""

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
    """The kernels, compiled when they are first launched."""
    return StageKernels(
        threads,
        _weigh_kernel(threads),
        _nulls_kernel(),
        _keep_seeds_kernel(threads),
        _leave_kernel(threads),
        _expect_kernel(),
        _search_neighbours_kernel(),
        _values_kernel(),
        _choices_kernel(),
        _curvatures_kernel(),
    )


def _weigh_kernel(threads: int) -> Any:
    @cuda.jit
    def weigh(
        mode, power, least_samples, least_fraction, searches, tables, contrasts, raised, frequency, samples, parts,
        columns, whole, numbers,
    ):  # fmt: skip
        """Columns of every search's samples, weighted as ``mode`` says, and the numbers of its landscape that follow.

        ``tables`` (r, 4) and ``contrasts`` (b,) say what is expected, with rho to a ``power``; ``raised`` (r, 4) is
        memory. ``samples`` (n, 4) are re, im, transfer and weight.
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
        # Gains of a likelihood have a mean of one, which is the unit; weights of a filter have one.
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


def _nulls_kernel() -> Any:
    @cuda.jit
    def nulls(searches, sums, most_poses, most_shells, chance, tables):
        """The correlation of wrong poses in each shell, into ``chance`` (r,) and, unless they are known, ``tables``."""
        which, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        memory = cuda.local.array(MOST_CHANCE_POSES, float64)
        first, shells, poses = searches[which, SHELL], searches[which, SHELLS], searches[which, NULLS]
        for shell in range(thread, shells, threads):
            begin = which * most_poses * most_shells + shell
            found = median_correlation(as_array(sums), begin, most_shells, poses, memory) if poses > 0 else 0.0
            chance[first + shell] = found
        cuda.syncthreads()
        if thread == 0 and searches[which, KNOWN] == 0:
            with_chance(as_array(tables)[first : first + shells], as_array(chance)[first : first + shells])

    return nulls


def _keep_seeds_kernel(threads: int) -> Any:
    @cuda.jit
    def keep_seeds(
        searches, seed_points, seed_values, margin, least, most, enough, room, order, deviation, points, counts
    ):
        """The best seeds of each search into its pool, and the standard deviation of all that are finite.

        ``enough`` tell it, fewer do not. ``order`` (b room,) is memory.
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
        """The first distinct poses of each pool, ``most`` of them, into the next one of ``next_room`` rows.

        In the order of ``choices`` if ``by_choice``, else in their own; ``within`` a margin of the best value, in
        deviations, or all. ``stepped`` rows were refined last: their ``iterations`` are added to ``total`` (b,).
        ``order`` and ``signatures`` (b room, 9) are memory.
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
        kept = 0
        for i in range(count):
            cuda.syncthreads()
            place = order[begin + i]
            new[thread] = _is_new(
                as_array(signatures), as_array(order), begin, kept, begin + place, as_array(group), distance, thread,
                threads,
            )  # fmt: skip
            cuda.syncthreads()
            far = True
            for j in range(threads):
                far = far and new[j] != 0
            cuda.syncthreads()
            if far:
                if thread == 0:
                    order[begin + kept] = place  # nobody looks at it any more: as many were looked at, or more
                kept += 1
            if kept == most:
                break
        cuda.syncthreads()
        if within:
            near, best = 0, values[begin + order[begin]]
            for i in range(kept):
                near += values[begin + order[begin + i]] <= best + margin * deviation[which]
            kept = how_many(near, least, most, kept)
        for i in range(thread, kept, threads):
            old, new_row = begin + order[begin + i], which * next_room + i
            next_values[new_row], next_codes[new_row], next_choices[new_row] = values[old], codes[old], choices[old]
            for j in range(12):
                next_points[new_row, j] = points[old, j]
        if thread == 0:
            for i in range(min(stepped, count)):
                total[which] += iterations[begin + i]
        cuda.syncthreads()  # every thread knows the count
        if thread == 0:
            counts[which] = kept

    return leave


def _expect_kernel() -> Any:
    @cuda.jit
    def expect(searches, sums, most_shells, chance, c_ref, tables, contrasts):
        """What each pair has in common at the pose whose ``sums`` of shells are given; one thread for a search."""
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

    return expect


def _search_neighbours_kernel() -> Any:
    @cuda.jit
    def search_neighbours(turns, most, room, counts, points):
        """Behind each pool, its first poses turned by each of ``turns`` (t, 3), rotation vectors."""
        which, thread, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
        count, t = counts[which], turns.shape[0]
        more = min(count, most) * t
        for i in range(thread, more, threads):
            old, new = which * room + i // t, which * room + count + i
            turned(as_array(points)[old], as_array(turns)[i % t], as_array(points)[new])
            for j in range(9, 12):
                points[new, j] = points[old, j]
        cuda.syncthreads()  # every thread knows the count
        if thread == 0:
            counts[which] = count + more

    return search_neighbours


def _values_kernel() -> Any:
    @cuda.jit
    def values_of(sums, first, counts, most, whole, numbers, values):
        """Dissimilarities from sums of poses (c most, 4), one thread for each, into the rows of these poses.

        Those of comparison c begin with ``first[c]`` and are ``counts[c]``, ``most`` or fewer.
        """
        i = cuda.grid(1)
        which, pose = i // most, i % most
        if which >= len(first) or pose >= counts[which]:
            return
        values[first[which] + pose] = dissimilarity(
            whole[which, 0], sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], numbers[which, UNIT],
            numbers[which, LEAST],
        )  # fmt: skip

    return values_of


def _choices_kernel() -> Any:
    @cuda.jit
    def choices_of(searches, pairs, sums, most, room, counts, whole, numbers, points, choices):
        """What the poses of pools are chosen by, from their sums (b most, 4), one thread for each."""
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
                told = as_array(numbers)[which, begin : begin + PRIOR_NUMBERS]
                before = prior(kind, told, as_array(points)[row], hessian, descent)
            value = unlikeliness(value, sums[i, 3], before, pairs[which, SAMPLES_PER_INDEPENDENT])
        choices[row] = value

    return choices_of


def _curvatures_kernel() -> Any:
    @cuda.jit
    def curvatures(searches, pairs, parts, part_first, numbers, columns, sums, most_shells, weights, follow, scatter):
        """How gradients follow and scatter (b, 6, 6) each, from the 37 sums of each shell; ``weights`` is memory."""
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

    return curvatures
