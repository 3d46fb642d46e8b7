"""Dissimilarities and priors at one pose: from sums and numbers to a value, a second derivative and a descent.

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

__all__ = [
    "FCS",
    "LIKELIHOOD",
    "RCS",
    "dissimilarities",
    "dissimilarity",
    "model",
    "models",
    "noise_of",
    "prior",
    "priors",
    "unlikeliness",
    "unlikelinesses",
]

RCS, FCS, LIKELIHOOD = 0, 1, 2
NO_PRIOR, START_PRIOR, AXIS_PRIOR = 0, 1, 2
# Floor of the contrast that scales the Gauss-Newton matrix of RCS.
MIN_CONTRAST = 0.05
# A sum over more samples wanders further: eq. 30 is divided by |Omega| to this power, measured on pools of optima.
LIKELIHOOD_ROOT = 0.25
# What optima are chosen by is the ratio over |Omega| to this power: see `unlikeliness`.
CHOICE_ROOT = 0.75
# Sums of float32 samples are known to this share of their size; nothing is read into less.
ROUNDING = 1e-7


@strict
def dissimilarity(score, ff, gg, fg, total, unit, least):
    """The value alone, from |f|^2, |g|^2, f.g and the total weight, as sums of samples have them."""
    ff, gg, fg = unit * ff, unit * gg, unit * fg
    if not (total >= least and total > 0.0):
        return np.inf
    if score == RCS:
        value = 2.0 - 2.0 * fg / math.sqrt(ff * gg) if ff > 0.0 and gg > 0.0 else np.inf
    else:
        value = (ff + gg - 2.0 * fg) / (total if score == FCS else total**LIKELIHOOD_ROOT)
    return value if value < np.inf else np.inf  # no number is as bad as can be


@strict
def noise_of(score, ff, gg, fg, total, unit):
    """What a dissimilarity is known to, with float32 samples in its sums."""
    if score == RCS:
        return 2.0 * ROUNDING
    terms = unit * (abs(ff) + abs(gg) + 2.0 * abs(fg))
    counted = total if total > 0.0 else 1.0
    return ROUNDING * terms / (counted if score == FCS else counted**LIKELIHOOD_ROOT)


@strict
def dissimilarities(score, sums, unit, least, out):
    """The same at p poses: ``sums`` (p, 4) into ``out`` (p,)."""
    for i in range(sums.shape[0]):
        out[i] = dissimilarity(score, sums[i, 0], sums[i, 1], sums[i, 2], sums[i, 3], unit, least)


@strict
def model(score, sums, unit, phase, least, hessian, descent):
    """The dissimilarity of a score from the 37 sums; fills ``hessian`` and ``descent``.

    ``unit`` is that of the weights, ``phase`` the phase that a shift of one angstrom has at frequency one, ``least``
    the smallest total weight that means anything: below it the dissimilarity is infinite.
    """
    ff, gg, fg, total = unit * sums[FF], unit * sums[GG], unit * sums[FG], sums[WEIGHT]
    place = JTJ
    for a in range(6):
        to_a = unit if a < 3 else unit * phase
        for b in range(a, 6):
            hessian[a, b] = hessian[b, a] = to_a * (1.0 if b < 3 else phase) * sums[place]
            place += 1
    if score == RCS:
        seen = ff > 0.0 and gg > 0.0
        ff, gg = (ff, gg) if seen else (1.0, 1.0)
        c = fg / math.sqrt(ff * gg)
        scale = min(max(c, MIN_CONTRAST), 1.0) / gg
        for a in range(6):
            to_a = unit if a < 3 else unit * phase
            jtg = to_a * sums[JTG + a]
            descent[a] = to_a * sums[JTF + a] / math.sqrt(ff * gg) - c / gg * jtg
            for b in range(6):
                hessian[a, b] = scale * (hessian[a, b] - jtg * (unit if b < 3 else unit * phase) * sums[JTG + b] / gg)
    else:
        counted = total if total > 0.0 else 1.0
        norm = counted if score == FCS else counted**LIKELIHOOD_ROOT
        for a in range(6):
            descent[a] = (unit if a < 3 else unit * phase) * (sums[JTF + a] - sums[JTG + a]) / norm
            for b in range(6):
                hessian[a, b] /= norm
    return dissimilarity(score, sums[FF], sums[GG], sums[FG], total, unit, least)


@strict
def unlikeliness(ratio, overlap, before, samples_per_independent):
    """What optima are chosen by, the smallest first (eq. 30): minus the likelihood ratio over |Omega|^(3/4).

    ``ratio`` is the dissimilarity of the likelihood, over |Omega|^(1/4); ``before`` the negative logarithm of the
    prior. Of so many samples only one in ``samples_per_independent`` speaks for itself, and a prior speaks once.
    """
    count = max(overlap, 1.0)
    return (ratio * count**LIKELIHOOD_ROOT + samples_per_independent * before) / count**CHOICE_ROOT


@strict
def unlikelinesses(ratio, overlap, before, samples_per_independent):
    """The same of p optima, (p,) each, in place of ``ratio``."""
    for i in range(len(ratio)):
        ratio[i] = unlikeliness(ratio[i], overlap[i], before[i], samples_per_independent)


@strict
def models(score, sums, unit, phase, least, dissimilarity, hessian, descent):
    """The same at p poses: ``sums`` (p, 37) into (p,), (p, 6, 6) and (p, 6)."""
    for i in range(sums.shape[0]):
        dissimilarity[i] = model(score, sums[i], unit, phase, least, hessian[i], descent[i])


@strict
def _start_prior(numbers, point, hessian, descent):
    """``numbers``: rotation by rows (9), shift (3), precision (6). Half the squared distance in standard deviations."""
    # The rotation vector of R S^T, from its antisymmetric part and its trace; both wait where the results will be.
    turn, moved = hessian, descent
    for i in range(3):
        for j in range(3):
            turn[i, j] = 0.0
            for m in range(3):
                turn[i, j] += point[3 * i + m] * numbers[3 * j + m]
    x, y, z = turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]
    sine, cosine = 0.5 * math.sqrt(x * x + y * y + z * z), 0.5 * (turn[0, 0] + turn[1, 1] + turn[2, 2] - 1.0)
    angle = math.atan2(sine, cosine)
    if sine > 1e-9:
        ratio = 0.5 * angle / sine
        moved[0], moved[1], moved[2] = ratio * x, ratio * y, ratio * z
    elif cosine > 0.0:
        moved[0], moved[1], moved[2] = 0.5 * x, 0.5 * y, 0.5 * z
    else:
        # Half a turn: (R S^T + 1) / 2 is the projection on the axis.
        longest = 0
        for i in range(1, 3):
            if turn[i, i] > turn[longest, longest]:
                longest = i
        length = math.sqrt(max(0.5 * (turn[longest, longest] + 1.0), 1e-300))
        for i in range(3):
            moved[i] = angle * 0.5 * (turn[i, longest] + (1.0 if i == longest else 0.0)) / length
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
    """``numbers``: the normals of target and reference (3 each), sd (radians). Half the squared angle in sds."""
    carried, across = descent[:3], descent[3:]  # until the results are put there
    for i in range(3):
        carried[i] = 0.0
        for m in range(3):
            carried[i] += point[3 * i + m] * numbers[3 + m]
    # Turning about it brings the normals together.
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
    """The negative logarithm of how probable a point is before any data, with its second derivative and descent."""
    if kind == START_PRIOR:
        return _start_prior(numbers, point, hessian, descent)
    return _axis_prior(numbers, point, hessian, descent)


@strict
def priors(kind, numbers, points, value, hessian, descent):
    """The same at p points (p, 12)."""
    for i in range(points.shape[0]):
        value[i] = prior(kind, numbers, points[i], hessian[i], descent[i])


@strict
def log_likelihood(score, d, overlap, unit):
    """The negative log likelihood for each sample as a function of the dissimilarity, and its derivative.

    ``unit`` is that of FCS, the target's power; RCS has none.
    """
    if score == LIKELIHOOD:
        # A log likelihood already, of |Omega| samples and divided by |Omega|^(1/4).
        slope = max(overlap, 1.0) ** (LIKELIHOOD_ROOT - 1.0)
        return slope * d, slope
    if score == FCS:
        d = max(d, ROUNDING * unit)
        return math.log(d), 1.0 / d
    # Below MIN_CONTRAST the curve goes on as a straight line, so that a negative correlation still points uphill.
    c = 1.0 - d / 2.0
    bent = min(max(c, MIN_CONTRAST), 1.0)
    rest = max(1.0 - bent**2, ROUNDING)
    return math.log(rest) - 2.0 * bent / rest * (c - bent), bent / rest
