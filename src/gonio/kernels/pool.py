"""Pools of candidates in compiled code: which are duplicates, which are kept, which to refine next, when to stop.

The rules of the paper's pool are those of ``gonio.search.stochastic``; ``explore`` follows them without leaving
compiled code. Those of the default search are in ``gonio.search.coarse_to_fine``.
"""

from __future__ import annotations

import math

import numpy as np

from gonio.kernels.compiled import strict
from gonio.kernels.marquardt import RUNNING
from gonio.kernels.pose_refinement import refine


@strict
def draw_probabilities(dissimilarity, contrast, probabilities):
    """Fill ``probabilities`` (m,) with the chances that m candidates are drawn, eq. 11 of the paper."""
    m = len(dissimilarity)
    d = np.where(np.isfinite(dissimilarity), dissimilarity, np.inf)
    order = np.argsort(-d, kind="mergesort")  # stable
    floor = max(1e-12 * d.min(), 1e-300)
    # Logarithms of the weights, from the worst up; they are taken relative to the best, which is the largest.
    rank = np.zeros(m)
    for j in range(1, m):
        step = contrast * math.log(10.0) / (m - 1)
        here, before = max(d[order[j]], floor), max(d[order[j - 1]], floor)
        if math.isfinite(before):
            step = max(step, math.log(before) - math.log(here))
        elif math.isfinite(here):
            step = 1e3
        rank[j] = rank[j - 1] + step
    total = 0.0
    for j in range(m):
        weight = math.exp(rank[j] - rank[m - 1]) if math.isfinite(d[order[j]]) else 0.0
        probabilities[order[j]] = weight
        total += weight
    for j in range(m):
        probabilities[j] = probabilities[j] / total if total > 0.0 else 1.0 / m


@strict
def draw(dissimilarity, code, active, contrast, uniform):
    """Draw a candidate that can be refined, by a number ``uniform`` from 0 to 1; return -1 when there is none."""
    drawable = np.flatnonzero(active & (code == RUNNING))
    if len(drawable) == 0:
        return -1
    chance = np.empty(len(drawable))
    draw_probabilities(dissimilarity[drawable], contrast, chance)
    cumulative = np.cumsum(chance)
    place = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
    return drawable[min(place, len(drawable) - 1)]


@strict
def best_active(dissimilarity, active):
    """Return the row of the active candidate with the smallest dissimilarity."""
    best = 0
    for row in range(len(active)):
        if active[row] and (not active[best] or dissimilarity[row] < dissimilarity[best]):
            best = row
    return best


@strict
def drop_duplicates_of(row, signatures, dissimilarity, active, gamma):
    """Deactivate the worse of ``row`` and each candidate within a distance ``gamma`` of it."""
    if not active[row]:
        return
    beaten = False
    for other in range(len(active)):
        if other == row or not active[other]:
            continue
        square = 0.0
        for s in range(signatures.shape[1]):
            square += (signatures[other, s] - signatures[row, s]) ** 2
        if square <= gamma * gamma:
            if dissimilarity[other] >= dissimilarity[row]:
                active[other] = False
            else:
                beaten = True
    if beaten:
        active[row] = False


@strict
def signature(point, voxel, out):
    """Write the signature of a point, R^T (I - (a, a, a)) by rows, into ``out`` (9,); a is the shift in voxels."""
    for i in range(3):
        along = 0.0
        for m in range(3):
            along += point[3 * m + i] * point[9 + m] / voxel
        for j in range(3):
            out[3 * i + j] = point[3 * j + i] - along


@strict
def apart(signature, matrix, other):
    """Return the squared distance (eq. 12) of two points, one of them rotated by a ``matrix`` of the symmetry group.

    Signatures (9,) are R^T (I - (a, a, a)) by rows: that of R g is g^T times that of R.
    """
    square = 0.0
    for i in range(3):
        for j in range(3):
            rotated = 0.0
            for m in range(3):
                rotated += matrix[m, i] * signature[3 * m + j]
            square += (rotated - other[3 * i + j]) ** 2
    return square


@strict
def distinct(points, voxel, group, distance, count, rows):
    """Write the rows of the first ``count`` distinct points of (p, 12) into ``rows``; return how many there are.

    ``group`` (g, 3, 3) are the rotations of the symmetry; ``voxel`` is in the unit of the shifts.
    """
    signatures = np.empty((points.shape[0], 9))
    kept = 0
    for row in range(points.shape[0]):
        signature(points[row], voxel, signatures[row])
        new = True
        for place in range(kept):
            for g in range(group.shape[0]):
                new = new and apart(signatures[rows[place]], group[g], signatures[row]) > distance * distance
        if new:
            rows[kept] = row
            kept += 1
        if kept == count:
            break
    return kept


@strict
def how_many(near, least, most, count):
    """Return how many of ``count`` poses a pruning rule keeps: the ``near`` ones, within the rule's bounds."""
    return min(max(near, least), most, count)


@strict
def regression_slope(values):
    """Return the slope per step of the least-squares line through ``values`` (w,)."""
    w = len(values)
    product = square = 0.0
    for i in range(w):
        step = i - (w - 1) / 2
        product += step * values[i]
        square += step * step
    return product / max(square, 0.5)


@strict
def has_settled(history, window, tolerance):
    """Return whether the last ``window`` smallest dissimilarities, relative to the first, have stopped falling."""
    if len(history) < window or history[0] <= 0.0:
        return False
    return abs(regression_slope(history[len(history) - window :]) / history[0]) <= tolerance


@strict
def explore(
    reference,
    samples,
    landscape,
    voxel,
    contrast,
    gamma,
    window,
    tolerance,
    uniforms,
    points,
    value,
    hessian,
    descent,
    damping,
    growth,
    code,
    iterations,
    signatures,
    active,
    history,
    best_points,
):
    """Refine drawn candidates, then the best one, for at most as many steps as there are ``uniforms`` (i,).

    ``history`` (i,) receives the smallest dissimilarity after each step and ``best_points`` (i, 12), unless it has no
    rows, the point that had it. Return the number of steps.
    """
    count, settled = 0, False
    while count < len(uniforms):
        if not settled:
            row = draw(value, code, active, contrast, uniforms[count])
            settled = row < 0
        if settled:
            row = best_active(value, active)
            if code[row] != RUNNING:
                break
        one = np.array([row])
        refine(
            reference, samples, landscape, one, 1, points, value, hessian, descent, damping, growth, code, iterations
        )
        if not settled:
            signature(points[row], voxel, signatures[row])
            drop_duplicates_of(row, signatures, value, active, gamma)
        best = best_active(value, active)
        history[count] = value[best]
        if len(best_points):
            for j in range(12):
                best_points[count, j] = points[best, j]
        count += 1
        settled = settled or has_settled(history[:count], window, tolerance)
    return count
