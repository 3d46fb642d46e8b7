"""The gain of a target over a map's power: the most probable smooth curve (docs/theory.md eq. 34), for one target."""

from __future__ import annotations

import math

import numpy as np

from gonio.kernels.compiled import strict
from gonio.kernels.marquardt import solve

# Prior on the logarithm of the gain's square over the shells: the standard deviation of its slope and curvature.
BEND = 2.0
# Prior precision of its mean; most Gauss-Newton steps, each at most one long, and the length of the last.
LEVEL_PRECISION = 1e-6
STEPS, TOLERANCE = 12, 0.05


@strict
def _solved(weights, pulls, curve, flat, matrix, pull, memory, step):
    """Solve for the ``step`` of a parabola over the shells, from their ``weights`` and ``pulls`` (s,)."""
    s = len(weights)
    for a in range(3):
        precision = LEVEL_PRECISION if a == 0 else BEND**-2
        pull[a] = -precision * (curve[a] - (flat if a == 0 else 0.0))
        for b in range(3):
            matrix[a, b] = precision if a == b else 0.0
    for i in range(s):
        x = 2.0 * i / (s - 1) - 1.0
        basis = (1.0, x, x * x)
        for a in range(3):
            pull[a] += basis[a] * pulls[i]
            for b in range(3):
                matrix[a, b] += weights[i] * basis[a] * basis[b]
    solve(matrix, pull, 0.0, memory, step)


@strict
def _curve_at(curve, i, s):
    x = 2.0 * i / (s - 1) - 1.0
    return curve[0] + curve[1] * x + curve[2] * x * x


@strict
def gain_square(signal, noise, power, count, sphere_power, out):
    """Fill ``out`` (s,) with the smooth ratio of ``signal`` to a reference's ``power``, by Gauss-Newton steps.

    ``noise`` (s,) is that of the whole box, of which the sphere holds ``sphere_power``; ``count`` (s,) are samples.
    """
    s = len(signal)
    curve, step, pull = np.zeros(3), np.zeros(3), np.zeros(3)
    matrix, memory = np.empty((3, 3)), np.empty((3, 3))
    weights, pulls = np.empty(s), np.empty(s)
    of_target = of_reference = 0.0
    for i in range(s):
        positive = max(signal[i], 0.0)
        of_target += positive / (sphere_power * noise[i] + positive)
        of_reference += power[i] / (sphere_power * noise[i] + positive)
    flat = math.log(max(of_target, 1e-6) / of_reference)
    # A line through the logarithms starts the steps near their end.
    for i in range(s):
        in_sphere = sphere_power * noise[i]
        floored = max(signal[i], 0.1 * in_sphere)
        weights[i] = sphere_power * count[i] * (floored / (in_sphere + max(signal[i], 0.0))) ** 2
        pulls[i] = weights[i] * (math.log(floored / power[i]) - flat)
    _solved(weights, pulls, curve, 0.0, matrix, pull, memory, step)
    curve[:] = step
    curve[0] += flat
    for _ in range(STEPS):
        for i in range(s):
            model = power[i] * math.exp(_curve_at(curve, i, s))
            precision = sphere_power * count[i] / (sphere_power * noise[i] + model) ** 2
            weights[i], pulls[i] = precision * model * model, precision * model * (signal[i] - model)
        _solved(weights, pulls, curve, flat, matrix, pull, memory, step)
        longest = 0.0
        for a in range(3):
            step[a] = min(max(step[a], -1.0), 1.0)
            curve[a] += step[a]
            longest = max(longest, abs(step[a]))
        if longest < TOLERANCE:
            break
    for i in range(s):
        out[i] = math.exp(_curve_at(curve, i, s))
