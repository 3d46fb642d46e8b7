"""What is expected of two particles shell by shell, and how a sample counts by it: for one pair, and for one sample.

The formulas are those of ``gonio.comparison.expected_fsc`` (FSC, null, eq. 28), ``gonio.comparison.score`` (eq. 30)
and ``gonio.search.uncertainty`` (eq. 31), written for CPUs and GPUs: what a GPU calls has no memory of its own.

An expectation is a table (s, 4) of shells 0, 1, ..., one over the box wide: rho, the powers of f and g, and the null.
Sums of shells (s, 4) are |f|^2, |g|^2, f.g and |Omega|.
"""

from __future__ import annotations

import math

import numpy as np

from gonio.kernels.compiled import strict
from gonio.kernels.sample_sums import FF, FG, GG, JTJ, WEIGHT

__all__ = [
    "MAX_CORRELATION",
    "MAX_CHANCE",
    "at",
    "curvature",
    "expected",
    "likelihood_counts",
    "likelihood_gain",
    "likelihood_terms",
    "median_correlation",
    "chance_correlations",
    "sample_weights",
    "shell_weight",
    "weights_of_shells",
    "with_chance",
]

RHO, F_POWER, G_POWER, NULL = range(4)
# rho / (1 - rho^2) is not taken beyond rho = 0.99: no two inputs agree better than interpolation and box allow.
MAX_CORRELATION = 0.99
# A wrong pose is expected to agree less than the right one, by at least this share.
MAX_CHANCE = 0.95
# Shells that are expected to agree less than this say nothing in a likelihood ratio.
MIN_CORRELATION = 1e-3
# Shells that follow the reference less than this say nothing of the pose.
MIN_FRACTION = 1e-3
# Sums of float32 samples tell no direction from another whose information is this share of the largest, or less.
ROUNDING = 1e-6


@strict
def at(table, column, radius):
    """A column of a table at a distance from zero frequency, in shells: linear between them."""
    last = table.shape[0] - 1
    below = int(radius)
    if below >= last:
        return table[last, column]
    return table[below, column] + (radius - below) * (table[below + 1, column] - table[below, column])


@strict
def shell_weight(correlation):
    """rho / (1 - rho^2), eq. 28."""
    rho = min(max(correlation, 0.0), MAX_CORRELATION)
    return rho / (1.0 - rho * rho)


@strict
def weights_of_shells(correlation, out):
    """The same of each shell (s,), into ``out`` (s,)."""
    for s in range(len(correlation)):
        out[s] = shell_weight(correlation[s])


@strict
def _correlation(ff, gg, fg):
    square = ff * gg
    return fg / math.sqrt(square) if square > 0.0 else 0.0


@strict
def median_correlation(sums, first, step, count, memory):
    """The median correlation of ``count`` rows of ``sums`` (r, 4), every ``step``-th from ``first`` on; at least zero.

    ``memory`` (count,) is there to work in.
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
    """The same of each shell of p poses, ``sums`` (p, s, 4), into ``out`` (s,)."""
    p, s, _ = sums.shape
    rows, memory = sums.reshape(p * s, 4), np.empty(p)
    for shell in range(s):
        out[shell] = median_correlation(rows, shell, s, p, memory)


@strict
def with_chance(table, chance):
    """Puts the correlation of a wrong pose (s,) into a table, nowhere above what the right one may have."""
    for s in range(table.shape[0]):
        table[s, NULL] = min(max(chance[s], 0.0), MAX_CHANCE * table[s, RHO])


@strict
def _falling(sums, table):
    """A fit to the correlation of each shell that falls with frequency, weighted by samples (pool adjacent violators).

    Into ``table``, whose other columns hold weights and lengths of the levels meanwhile.
    """
    levels = 0
    for s in range(sums.shape[0]):
        seen = sums[s, 3] > 0.0 and sums[s, 0] > 0.0 and sums[s, 1] > 0.0
        value = _correlation(sums[s, 0], sums[s, 1], sums[s, 2]) if seen else 0.0
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
    """Mean squares of f and g in each shell; one that nothing was seen of lies between its neighbours."""
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
    """``ExpectedFsc.of_sums``: fills ``table`` (s, 4) from ``sums`` (s, 4); returns the contrast.

    ``chance`` (s,) is the correlation of wrong poses; no shell is expected to agree better than ``c_ref`` (s,).
    """
    _falling(sums, table)
    told = 0
    for s in range(sums.shape[0]):
        if table[s, RHO] >= 1.0 / math.sqrt(2.0 * max(sums[s, 3], 1.0)):
            told = s + 1
    with_f = with_g = 0.0
    for s in range(sums.shape[0]):
        rho = min(max(table[s, RHO], 0.0), MAX_CORRELATION) if s < told else 0.0
        weight = shell_weight(rho)
        with_f, with_g = with_f + weight * sums[s, 2], with_g + weight * sums[s, 1]
        table[s, RHO] = min(rho, max(c_ref[s], 0.0))
    _powers(sums, table)
    with_chance(table, chance)
    contrast = with_f / max(with_g, 1e-300)
    return contrast if contrast > 0.0 else 1.0


@strict
def _pair_at(table, radius):
    """What is expected at a sample: rho, null, and the powers of f and g."""
    rho = max(at(table, RHO, radius), MIN_CORRELATION)
    chance = min(at(table, NULL, radius), MAX_CHANCE * rho)
    return rho, chance, at(table, F_POWER, radius), at(table, G_POWER, radius)


@strict
def likelihood_gain(table, radius):
    """The weight of a sample in f.g of eq. 30; nothing where no shell is expected to agree."""
    if not at(table, RHO, radius) > 0.0:
        return 0.0
    rho, chance, f_power, g_power = _pair_at(table, radius)
    return (rho / (1.0 - rho * rho) - chance / (1.0 - chance * chance)) / math.sqrt(f_power * g_power)


@strict
def likelihood_terms(table, radius, square):
    """Of a sample of power ``square``: its terms of |f|^2 and |g|^2 in eq. 30, over its weight in f.g."""
    rho, chance, f_power, g_power = _pair_at(table, radius)
    right, wrong = 1.0 - rho * rho, 1.0 - chance * chance
    gain = (rho / right - chance / wrong) / math.sqrt(f_power * g_power)
    norm = rho * rho / right - chance * chance / wrong
    return (norm * square / f_power + math.log(right / wrong)) / gain, norm / g_power / gain


@strict
def likelihood_counts(table, radius, value, weight, counts):
    """Weight, |f|^2 and the share of |g|^2 of each sample for eq. 30, into ``counts`` (3, n); returns their unit.

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
    """Weights (n,) times what the samples' shells are expected to tell (eq. 28), into ``out``; their mean is one."""
    n, total = len(radius), 0.0
    for j in range(n):
        total += weight[j] * shell_weight(at(table, RHO, radius[j]))
    mean = total / n if total > 0.0 else 1.0
    for j in range(n):
        out[j] = weight[j] * shell_weight(at(table, RHO, radius[j])) / mean


@strict
def curvature(sums, weights, phase, samples_per_independent, follow, scatter):
    """How the gradient follows the pose and how it scatters with the noise, A and B of eq. 31, (6, 6) each.

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
