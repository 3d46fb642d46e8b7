"""The expected FSC of a pair, and the weights that samples get from it.

The formulas are those of ``gonio.comparison.expected_fsc`` (FSC, chance correlation, eq. 28),
``gonio.comparison.score`` (eq. 30) and ``gonio.search.uncertainty`` (eq. 31), written for CPUs and GPUs: functions that
a GPU calls allocate no memory.

An expected FSC is a table (s, 4) of shells 0, 1, ..., each as wide as one over the box: rho, the powers of f and g, and
the chance correlation. Sums of shells (s, 4) are |f|^2, |g|^2, f.g and |Omega|.
"""

from __future__ import annotations

import math

import numpy as np

from gonio.kernels.compiled import strict
from gonio.kernels.model import LIKELIHOOD, RCS
from gonio.kernels.sample_sums import FF, FG, GG, JTJ, WEIGHT

RHO, F_POWER, G_POWER, CHANCE = range(4)
# Weighting rules: every sample alike, eq. 28, eq. 30.
ALIKE, FILTERED, AS_LIKELIHOOD = range(3)
# rho is limited to 0.99 in rho / (1 - rho^2): errors of interpolation and box limit every correlation.
MAX_CORRELATION = 0.99
# The chance correlation is at most this fraction of the expected FSC.
MAX_CHANCE = 0.95
# The least expected FSC in a likelihood ratio.
MIN_CORRELATION = 1e-3
# The least regression of a target's shell on the reference's: below it the shell does not determine the pose.
MIN_FRACTION = 1e-3
# Sums of float32 samples do not resolve directions whose information is below this fraction of the largest.
ROUNDING = 1e-6


@strict
def weighting(score, exact, informed):
    """Return the weighting rule of a pair for a score, and the score that it is compared by.

    ``exact`` and ``informed``: the target's own weights are those of its noise; some expected FSC is above zero.
    """
    if exact or not informed:
        return ALIKE, score if exact and score != LIKELIHOOD else RCS
    return AS_LIKELIHOOD if score == LIKELIHOOD else FILTERED, score


@strict
def at(table, column, radius):
    """Return a column of a table at a distance from zero frequency in shells, interpolated linearly."""
    last = table.shape[0] - 1
    below = int(radius)
    if below >= last:
        return table[last, column]
    return table[below, column] + (radius - below) * (table[below + 1, column] - table[below, column])


@strict
def shell_weight(correlation):
    """Return rho / (1 - rho^2), eq. 28."""
    rho = min(max(correlation, 0.0), MAX_CORRELATION)
    return rho / (1.0 - rho * rho)


@strict
def _correlation(ff, gg, fg):
    square = ff * gg
    return fg / math.sqrt(square) if square > 0.0 else 0.0


@strict
def median_correlation(sums, first, step, count, memory):
    """Return the median correlation, at least zero, of ``count`` rows of ``sums`` (r, 4).

    The rows are every ``step``-th from ``first`` on; ``memory`` (count,) is overwritten.
    """
    for i in range(count):
        row = sums[first + i * step]
        value, place = _correlation(row[0], row[1], row[2]), i
        while place > 0 and memory[place - 1] > value:
            memory[place] = memory[place - 1]
            place -= 1
        memory[place] = value
    middle = count // 2
    median = memory[middle] if count % 2 else 0.5 * (memory[middle - 1] + memory[middle])
    return max(median, 0.0)


@strict
def chance_correlations(sums, out):
    """Fill ``out`` (s,) with the median correlation over p poses in each shell, from ``sums`` (p, s, 4)."""
    p, s, _ = sums.shape
    rows, memory = sums.reshape(p * s, 4), np.empty(p)
    for shell in range(s):
        out[shell] = median_correlation(rows, shell, s, p, memory)


@strict
def with_chance(table, chance):
    """Write chance correlations (s,) into a table, each at most ``MAX_CHANCE`` of the expected FSC."""
    for s in range(table.shape[0]):
        table[s, CHANCE] = min(max(chance[s], 0.0), MAX_CHANCE * table[s, RHO])


@strict
def _falling(sums, table):
    """Fit correlations that fall with frequency to those of the shells, weighted by samples (pool adjacent violators).

    The fit is written into ``table``, whose other columns hold weights and lengths of the levels meanwhile.
    """
    levels = 0
    for s in range(sums.shape[0]):
        measured = sums[s, 3] > 0.0 and sums[s, 0] > 0.0 and sums[s, 1] > 0.0
        value = _correlation(sums[s, 0], sums[s, 1], sums[s, 2]) if measured else 0.0
        weight, length = max(sums[s, 3], 1e-3), 1.0
        while levels > 0 and table[levels - 1, RHO] < value:
            levels -= 1
            both = table[levels, F_POWER] + weight
            value = (table[levels, F_POWER] * table[levels, RHO] + weight * value) / both
            weight, length = both, length + table[levels, G_POWER]
        table[levels, RHO], table[levels, F_POWER], table[levels, G_POWER] = value, weight, length
        levels += 1
    place = sums.shape[0]
    for level in range(levels - 1, -1, -1):
        value, length = table[level, RHO], int(table[level, G_POWER])
        for _ in range(length):
            place -= 1
            table[place, RHO] = value


@strict
def _powers(sums, table):
    """Fill in the mean squares of f and g in each shell; shells without samples are interpolated."""
    n, before = sums.shape[0], -1
    for s in range(n):
        if not (sums[s, 3] > 0.0 and sums[s, 0] > 0.0 and sums[s, 1] > 0.0):
            continue
        for column in range(2):
            here = sums[s, column] / max(sums[s, 3], 1e-12)
            table[s, F_POWER + column] = here
            for empty in range(before + 1, s):
                there = here if before < 0 else table[before, F_POWER + column]
                fraction = (empty - before) / (s - before)
                table[empty, F_POWER + column] = there + fraction * (here - there)
        before = s
    for empty in range(before + 1, n):
        for column in range(2):
            table[empty, F_POWER + column] = 1.0 if before < 0 else table[before, F_POWER + column]


@strict
def expected(sums, chance, c_ref, table):
    """Fill ``table`` (s, 4) from ``sums`` (s, 4) of a pair; return the scale of the reference that fits the target.

    ``chance`` (s,) is the correlation of wrong poses; ``c_ref`` (s,) limits the expected FSC of each shell.
    """
    _falling(sums, table)
    # Shells beyond the last one whose correlation exceeds its standard deviation count as zero.
    significant = 0
    for s in range(sums.shape[0]):
        if table[s, RHO] >= 1.0 / math.sqrt(2.0 * max(sums[s, 3], 1.0)):
            significant = s + 1
    with_f = with_g = 0.0
    for s in range(sums.shape[0]):
        rho = min(max(table[s, RHO], 0.0), MAX_CORRELATION) if s < significant else 0.0
        weight = shell_weight(rho)
        with_f, with_g = with_f + weight * sums[s, 2], with_g + weight * sums[s, 1]
        table[s, RHO] = min(rho, max(c_ref[s], 0.0))
    _powers(sums, table)
    with_chance(table, chance)
    scale = with_f / max(with_g, 1e-300)
    return scale if scale > 0.0 else 1.0


@strict
def _pair_at(table, radius):
    """Return the expected FSC and chance correlation at a sample, and the powers of f and g."""
    rho = max(at(table, RHO, radius), MIN_CORRELATION)
    chance = min(at(table, CHANCE, radius), MAX_CHANCE * rho)
    return rho, chance, at(table, F_POWER, radius), at(table, G_POWER, radius)


@strict
def likelihood_gain(table, radius):
    """Return the weight of a sample in f.g of eq. 30; zero where the expected FSC is."""
    if not at(table, RHO, radius) > 0.0:
        return 0.0
    rho, chance, f_power, g_power = _pair_at(table, radius)
    return (rho / (1.0 - rho * rho) - chance / (1.0 - chance * chance)) / math.sqrt(f_power * g_power)


@strict
def likelihood_terms(table, radius, square):
    """Return the terms of |f|^2 and |g|^2 in eq. 30 of a sample of power ``square``, over its weight in f.g."""
    rho, chance, f_power, g_power = _pair_at(table, radius)
    right, wrong = 1.0 - rho * rho, 1.0 - chance * chance
    gain = (rho / right - chance / wrong) / math.sqrt(f_power * g_power)
    norm = rho * rho / right - chance * chance / wrong
    return (norm * square / f_power + math.log(right / wrong)) / gain, norm / g_power / gain


@strict
def likelihood_counts(table, radius, value, weight, counts):
    """Write weight, |f|^2 and factor of |g|^2 of each sample for eq. 30 into ``counts`` (3, n); return their unit.

    ``radius``, ``value`` (complex) and ``weight`` are (n,). Gains over their unit have a mean of one.
    """
    n, total = len(radius), 0.0
    for j in range(n):
        total += likelihood_gain(table, radius[j])
    unit = total / n if total > 0.0 else 1.0
    for j in range(n):
        power, own = likelihood_terms(table, radius[j], value[j].real ** 2 + value[j].imag ** 2)
        counts[0, j] = weight[j] * likelihood_gain(table, radius[j]) / unit
        counts[1, j], counts[2, j] = power, own
    return unit


@strict
def sample_weights(table, radius, weight, out):
    """Write weights (n,) times those of the samples' shells (eq. 28) into ``out``, divided by their mean."""
    n, total = len(radius), 0.0
    for j in range(n):
        total += weight[j] * shell_weight(at(table, RHO, radius[j]))
    mean = total / n if total > 0.0 else 1.0
    for j in range(n):
        out[j] = weight[j] * shell_weight(at(table, RHO, radius[j])) / mean


@strict
def curvature(sums, weights, phase, samples_per_independent, follow, scatter):
    """Fill ``follow`` (6, 6) and ``scatter`` (6, 6): the gradient's change with the pose and its covariance (eq. 31).

    ``sums`` (s, 37) are those of eq. 8 of each shell, ``weights`` (s, 2) the sums of its samples' weights and of their
    squares; ``phase`` is that of a shift of one angstrom at frequency one.
    """
    for a in range(6):
        for b in range(6):
            follow[a, b] = scatter[a, b] = 0.0
    for s in range(sums.shape[0]):
        row = sums[s]
        if not (row[WEIGHT] > 0.0 and row[GG] > 0.0):
            continue
        fraction = max(row[FG] / row[GG], MIN_FRACTION)
        unexplained = max(row[FF] - row[FG] ** 2 / row[GG], ROUNDING * row[FF]) / row[WEIGHT]
        noise = 0.5 * samples_per_independent * weights[s, 1] / max(weights[s, 0], 1e-300) * unexplained
        place = JTJ
        for a in range(6):
            for b in range(a, 6):
                here = row[place] * (1.0 if a < 3 else phase) * (1.0 if b < 3 else phase)
                place += 1
                follow[a, b] += fraction * here
                scatter[a, b] += noise * here
    for a in range(6):
        for b in range(a):
            follow[a, b], scatter[a, b] = follow[b, a], scatter[b, a]
