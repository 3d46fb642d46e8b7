"""One Levenberg-Marquardt iteration of one problem: the step, and whether it is accepted.

Formulas are those of ``gonio.search.levenberg_marquardt``.
"""

from __future__ import annotations

import math

import numpy as np

from gonio.kernels.compiled import strict

FIRST_DAMPING, FIRST_GROWTH = 1e-2, 2.0
MIN_DAMPING = 1e-9
MAX_DAMPING = 1e12
MAX_GROWTH = 1e6
# Least diagonal element of H that damping assumes, as a fraction of the largest: below it a direction changes nothing.
MIN_DIAGONAL = 1e-12
# Longest step, in tolerances, that is accepted although the change of value is below rounding.
UNSEEN = 10.0
# Codes of ``gonio.search.levenberg_marquardt.Status``.
RUNNING, CONVERGED, STALLED, MAX_ITERATIONS, SINGULAR, NO_OVERLAP = 0, 1, 2, 3, 4, 5


@strict
def solve(hessian, descent, damping, matrix, step):
    """Solve (H + damping diag H) step = b by elimination with pivots; return whether there is a solution.

    ``matrix`` (k, k) is overwritten.
    """
    k = len(descent)
    largest = 0.0
    for a in range(k):
        largest = max(largest, hessian[a, a])
        step[a] = descent[a]
    if not largest > 0.0:
        for a in range(k):
            step[a] = 0.0
        return False
    for a in range(k):
        for b in range(k):
            matrix[a, b] = hessian[a, b]
        matrix[a, a] += damping * max(hessian[a, a], MIN_DIAGONAL * largest)
    for a in range(k):
        pivot = a
        for row in range(a + 1, k):
            if abs(matrix[row, a]) > abs(matrix[pivot, a]):
                pivot = row
        if pivot != a:
            for b in range(k):
                matrix[a, b], matrix[pivot, b] = matrix[pivot, b], matrix[a, b]
            step[a], step[pivot] = step[pivot], step[a]
        if matrix[a, a] == 0.0:
            # An undetermined direction: no step along it.
            matrix[a, a], step[a] = np.inf, 0.0
        for row in range(a + 1, k):
            fraction = matrix[row, a] / matrix[a, a]
            for b in range(a + 1, k):
                matrix[row, b] -= fraction * matrix[a, b]
            step[row] -= fraction * step[a]
    for a in range(k - 1, -1, -1):
        for b in range(a + 1, k):
            step[a] -= matrix[a, b] * step[b]
        step[a] /= matrix[a, a]
    for a in range(k):
        if not math.isfinite(step[a]):
            for b in range(k):
                step[b] = 0.0
            return False
    return True


@strict
def judge(before, after, hessian, descent, step, determined, length, tolerance, noise, damping, growth):
    """Return whether a step is accepted, the damping and its growth after it, and the new status.

    ``noise`` is the rounding error of values: a step with a smaller predicted gain cannot be judged by them. It is
    accepted for its gradient, which is more precise, up to ``UNSEEN`` tolerances; damping grows, so such steps end.
    """
    predicted = 0.0
    for a in range(len(step)):
        predicted += 2.0 * descent[a] * step[a]
        for b in range(len(step)):
            predicted -= step[a] * hessian[a, b] * step[b]
    unseen = determined and 0.0 < predicted < noise and length < UNSEEN * tolerance and after - before < noise
    better = determined and (after < before or unseen)
    if better and not unseen:
        # A drop where none was predicted counts as the largest gain.
        gain = min(max((before - after) / predicted, 0.0), 2.0) if predicted > 0.0 else 2.0
        factor, growth_after = max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3), 2.0
    else:
        factor, growth_after = growth, min(2.0 * growth, MAX_GROWTH)
    damping = min(max(damping * factor, MIN_DAMPING), MAX_DAMPING)
    status = RUNNING
    if better and length < tolerance:
        status = CONVERGED
    if not better and (length < tolerance or damping >= MAX_DAMPING):
        status = STALLED
    if not determined:
        status = SINGULAR
    return better, damping, growth_after, status
