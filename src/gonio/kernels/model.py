"""Dissimilarities and priors at one pose: from sums over samples to a value, a second derivative and a descent.

The formulas are those of ``gonio.comparison.score`` (RCS, FCS, likelihood ratio) and ``gonio.search.objective``
(priors, posterior), written for one pose so that a refinement never leaves compiled code. Everywhere

    d(x + dx) ~ d - 2 b.dx + dx^T H dx

with x the tangent (omega, t) in radians and angstrom, ``hessian`` H (6, 6) and ``descent`` b (6,).
"""

from __future__ import annotations

import math

import numpy as np

from gonio.kernels.compiled import strict
from gonio.kernels.sample_sums import FF, FG, GG, JTF, JTG, JTJ, WEIGHT

RCS, FCS, LIKELIHOOD = 0, 1, 2
NO_PRIOR, START_PRIOR, AXIS_PRIOR = 0, 1, 2
# Floor of the correlation that scales the Gauss-Newton matrix of RCS.
MIN_CORRELATION = 0.05
# Sums over more samples scatter more: eq. 30 is divided by |Omega| to this power, measured on pools of optima.
LIKELIHOOD_ROOT = 0.25
# Optima are chosen by the likelihood ratio over |Omega| to this power: see `ranking_value`.
CHOICE_ROOT = 0.75
# Relative error of sums of float32 samples: smaller differences mean nothing.
ROUNDING = 1e-7


@strict
def _norm(score, count):
    """Return what the squares of ``count`` samples are divided by; not a number for RCS and a score that is unknown."""
    if score == FCS:
        return count
    return count**LIKELIHOOD_ROOT if score == LIKELIHOOD else np.nan


@strict
def dissimilarity(score, ff, gg, fg, total, unit, least):
    """Return the dissimilarity from |f|^2, |g|^2, f.g and the total weight; infinite below the ``least`` weight."""
    ff, gg, fg = unit * ff, unit * gg, unit * fg
    if not (total >= least and total > 0.0):
        return np.inf
    if score == RCS:
        value = 2.0 - 2.0 * fg / math.sqrt(ff * gg) if ff > 0.0 and gg > 0.0 else np.inf
    else:
        value = (ff + gg - 2.0 * fg) / _norm(score, total)
    return value if value < np.inf else np.inf  # not a number counts as infinitely dissimilar


@strict
def noise_of(score, ff, gg, fg, total, unit):
    """Return the rounding error of a dissimilarity whose sums are over float32 samples."""
    if score == RCS:
        return 2.0 * ROUNDING
    terms = unit * (abs(ff) + abs(gg) + 2.0 * abs(fg))
    return ROUNDING * terms / _norm(score, total if total > 0.0 else 1.0)


@strict
def dissimilarities(score, sums, unit, least, out):
    """Fill ``out`` (p,) with the dissimilarities at p poses, from their ``sums`` (p, 4)."""
    for i in range(sums.shape[0]):
        out[i] = dissimilarity(score, sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], unit, least)


@strict
def model(score, sums, unit, phase, least, hessian, descent):
    """Return the dissimilarity of a score from the 37 sums; fill ``hessian`` and ``descent``.

    ``unit`` is that of the weights, ``phase`` the phase of a shift of one angstrom at frequency one, ``least`` the
    smallest total weight that suffices: below it the dissimilarity is infinite.
    """
    ff, gg, fg, total = unit * sums[FF], unit * sums[GG], unit * sums[FG], sums[WEIGHT]
    place = JTJ
    for a in range(6):
        to_a = unit if a < 3 else unit * phase
        for b in range(a, 6):
            hessian[a, b] = hessian[b, a] = to_a * (1.0 if b < 3 else phase) * sums[place]
            place += 1
    if score == RCS:
        has_power = ff > 0.0 and gg > 0.0
        ff, gg = (ff, gg) if has_power else (1.0, 1.0)
        c = fg / math.sqrt(ff * gg)
        scale = min(max(c, MIN_CORRELATION), 1.0) / gg
        for a in range(6):
            to_a = unit if a < 3 else unit * phase
            jtg = to_a * sums[JTG + a]
            descent[a] = to_a * sums[JTF + a] / math.sqrt(ff * gg) - c / gg * jtg
            for b in range(6):
                hessian[a, b] = scale * (hessian[a, b] - jtg * (unit if b < 3 else unit * phase) * sums[JTG + b] / gg)
    else:
        norm = _norm(score, total if total > 0.0 else 1.0)
        for a in range(6):
            descent[a] = (unit if a < 3 else unit * phase) * (sums[JTF + a] - sums[JTG + a]) / norm
            for b in range(6):
                hessian[a, b] /= norm
    return dissimilarity(score, sums[FF], sums[GG], sums[FG], total, unit, least)


@strict
def ranking_value(ratio, overlap, before, samples_per_independent):
    """Return the value that optima are ranked by, the smallest first: minus eq. 30 over |Omega|^(3/4).

    ``ratio`` is the dissimilarity of the likelihood, over |Omega|^(1/4); ``before`` the negative logarithm of the
    prior, which counts as much as one of the |Omega| / ``samples_per_independent`` independent samples.
    """
    count = max(overlap, 1.0)
    return (ratio * count**LIKELIHOOD_ROOT + samples_per_independent * before) / count**CHOICE_ROOT


@strict
def models(score, sums, unit, phase, least, dissimilarity, hessian, descent):
    """Fill ``dissimilarity`` (p,), ``hessian`` (p, 6, 6), ``descent`` (p, 6) from the ``sums`` (p, 37) at p poses."""
    for i in range(sums.shape[0]):
        dissimilarity[i] = model(score, sums[i], unit, phase, least, hessian[i], descent[i])


@strict
def _start_prior(numbers, point, hessian, descent):
    """Return half the squared distance from the start, in standard deviations.

    ``numbers`` are the start's rotation by rows (9), its shift (3) and the precision of each direction (6).
    """
    # The rotation vector of R S^T, from its antisymmetric part and its trace, in the arrays of the results.
    relative, moved = hessian, descent
    for i in range(3):
        for j in range(3):
            relative[i, j] = 0.0
            for m in range(3):
                relative[i, j] += point[3 * i + m] * numbers[3 * j + m]
    x, y, z = relative[2, 1] - relative[1, 2], relative[0, 2] - relative[2, 0], relative[1, 0] - relative[0, 1]
    sine, cosine = (
        0.5 * math.sqrt(x * x + y * y + z * z),
        0.5 * (relative[0, 0] + relative[1, 1] + relative[2, 2] - 1.0),
    )
    angle = math.atan2(sine, cosine)
    if sine > 1e-9:
        ratio = 0.5 * angle / sine
        moved[0], moved[1], moved[2] = ratio * x, ratio * y, ratio * z
    elif cosine > 0.0:
        moved[0], moved[1], moved[2] = 0.5 * x, 0.5 * y, 0.5 * z
    else:
        # A rotation by 180 degrees: (R S^T + 1) / 2 is the projection on the axis.
        longest = 0
        for i in range(1, 3):
            if relative[i, i] > relative[longest, longest]:
                longest = i
        length = math.sqrt(max(0.5 * (relative[longest, longest] + 1.0), 1e-300))
        for i in range(3):
            moved[i] = angle * 0.5 * (relative[i, longest] + (1.0 if i == longest else 0.0)) / length
    value = 0.0
    for i in range(6):
        if i >= 3:
            moved[i] = point[9 + i - 3] - numbers[9 + i - 3]
        value += 0.5 * numbers[12 + i] * moved[i] ** 2
        for j in range(6):
            hessian[i, j] = numbers[12 + i] if i == j else 0.0
        descent[i] = -numbers[12 + i] * moved[i]
    return value


@strict
def _axis_prior(numbers, point, hessian, descent):
    """Return half the squared angle between target normal and rotated reference normal, in standard deviations.

    ``numbers`` are the normals of target and reference (3 each) and the standard deviation (radians).
    """
    carried, across = descent[:3], descent[3:]  # overwritten by the results at the end
    for i in range(3):
        carried[i] = 0.0
        for m in range(3):
            carried[i] += point[3 * i + m] * numbers[3 + m]
    # A rotation about it aligns the normals.
    across[0] = carried[1] * numbers[2] - carried[2] * numbers[1]
    across[1] = carried[2] * numbers[0] - carried[0] * numbers[2]
    across[2] = carried[0] * numbers[1] - carried[1] * numbers[0]
    sine = math.sqrt(across[0] ** 2 + across[1] ** 2 + across[2] ** 2)
    angle = math.atan2(sine, carried[0] * numbers[0] + carried[1] * numbers[1] + carried[2] * numbers[2])
    ratio, precision = angle / sine if sine > 1e-9 else 1.0, 1.0 / numbers[6] ** 2
    for i in range(6):
        for j in range(6):
            free = (1.0 if i == j else 0.0) - carried[i] * carried[j] if i < 3 and j < 3 else 0.0
            hessian[i, j] = free * precision
    for i in range(3):
        descent[i] = ratio * across[i] * precision
        descent[3 + i] = 0.0
    return 0.5 * angle * angle * precision


@strict
def prior(kind, numbers, point, hessian, descent):
    """Return the negative logarithm of the prior at a point; fill its second derivative and descent."""
    if kind == START_PRIOR:
        return _start_prior(numbers, point, hessian, descent)
    return _axis_prior(numbers, point, hessian, descent)


@strict
def priors(kind, numbers, points, value, hessian, descent):
    """Fill ``value`` (p,), ``hessian`` (p, 6, 6) and ``descent`` (p, 6) with the prior at p points (p, 12)."""
    for i in range(points.shape[0]):
        value[i] = prior(kind, numbers, points[i], hessian[i], descent[i])


@strict
def log_likelihood(score, d, overlap, unit):
    """Return the negative log likelihood per sample at a dissimilarity, and its derivative.

    ``unit`` is that of FCS, the target's power; RCS has none.
    """
    if score == LIKELIHOOD:
        # A log likelihood already, of |Omega| samples and divided by |Omega|^(1/4).
        slope = max(overlap, 1.0) ** (LIKELIHOOD_ROOT - 1.0)
        return slope * d, slope
    if score == FCS:
        d = max(d, ROUNDING * unit)
        return math.log(d), 1.0 / d
    if score != RCS:
        return np.nan, np.nan
    # Below MIN_CORRELATION the curve continues as a straight line, so that even negative correlations have a slope.
    c = 1.0 - d / 2.0
    bent = min(max(c, MIN_CORRELATION), 1.0)
    rest = max(1.0 - bent**2, ROUNDING)
    return math.log(rest) - 2.0 * bent / rest * (c - bent), bent / rest
