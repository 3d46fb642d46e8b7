"""Levenberg-Marquardt refinement of many poses of one pair, without leaving compiled code.

Flow for each pose: sums over samples (``sample_sums``) -> dissimilarity, prior, directions (``valued``) -> step
(``proposed``) -> accepted or not (``settled``) -> the next pose, until it has converged or used its steps. Poses are
refined one after the other: the part of the reference around one pose stays in the cache. ``cuda`` refines with the
same three functions, which allocate no memory.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gonio.kernels.compiled import strict
from gonio.kernels.marquardt import RUNNING, judge, solve
from gonio.kernels.model import NO_PRIOR, dissimilarity, log_likelihood, model, noise_of, prior
from gonio.kernels.sample_sums import FF, FG, GG, N_SUMS, WEIGHT, sums_at


class Landscape(NamedTuple):
    """Parameters of the objective besides the samples, as in ``gonio.search.objective.PoseProblem``.

    ``score`` and the next three as in ``model.model``; ``directions`` (6, k); shifts within ``max_shift`` of ``centre``
    (3,); rotations whose angle to ``cone_centre`` (3, 3) has a cosine of at least ``cone_cosine``; a prior and its
    numbers; ``samples_per_independent``; the ``power`` of the target's samples. A step that moves a surface at
    ``radius`` by less than ``tolerance`` (angstrom) is the last.
    """

    score: int
    unit: float
    phase: float
    least: float
    directions: NDArray[np.float64]
    centre: NDArray[np.float64]
    max_shift: float
    cone_centre: NDArray[np.float64]
    cone_cosine: float
    prior: int
    prior_numbers: NDArray[np.float64]
    samples_per_independent: float
    power: float
    radius: float
    tolerance: float


@strict
def _is_outside(landscape, point):
    square = trace = 0.0
    for i in range(3):
        square += (point[9 + i] - landscape.centre[i]) ** 2
        for j in range(3):
            trace += point[3 * i + j] * landscape.cone_centre[i, j]
    return math.sqrt(square) > landscape.max_shift or 0.5 * (trace - 1.0) < landscape.cone_cosine


@strict
def placed(phase, point, matrix, phases):
    """Write a point (12,) into ``matrix`` (3, 3) and ``phases`` (3,), float32, as the loops over samples take it.

    ``phase`` is that of a shift of one angstrom at frequency one.
    """
    for i in range(3):
        phases[i] = phase * point[9 + i]
        for j in range(3):
            matrix[i, j] = point[3 * i + j]


@strict
def valued(landscape, sums, point, hessian, descent, memory):
    """Return the objective at a point, from its 37 sums; fill ``hessian`` (k, k) and ``descent`` (k,)."""
    full, slope, curvature, pull = memory
    overlap = sums[WEIGHT]
    value = model(landscape.score, sums, landscape.unit, landscape.phase, landscape.least, full, slope)
    forbidden = not math.isfinite(value) or _is_outside(landscape, point)
    if landscape.prior != NO_PRIOR:
        count = max(overlap / landscape.samples_per_independent, 1.0)
        finite = value if math.isfinite(value) else landscape.power
        value, gain = log_likelihood(landscape.score, finite, overlap, landscape.power)
        value += prior(landscape.prior, landscape.prior_numbers, point, curvature, pull) / count
        # d(x + dx) ~ d - 2 b.dx + dx^T H dx: half a gradient and half a second derivative.
        for a in range(6):
            slope[a] = gain * slope[a] + 0.5 * pull[a] / count
            for b in range(6):
                full[a, b] = gain * full[a, b] + 0.5 * curvature[a, b] / count
    if not _project(landscape.directions, full, slope, hessian, descent):
        for a in range(len(descent)):
            descent[a] = 0.0
            for b in range(len(descent)):
                hessian[a, b] = 0.0
    return np.inf if forbidden else value


@strict
def noise(landscape, sums):
    """Return the rounding error of the value that ``valued`` returns, from the 37 sums."""
    ff, gg, fg, overlap = sums[FF], sums[GG], sums[FG], sums[WEIGHT]
    found = noise_of(landscape.score, ff, gg, fg, overlap, landscape.unit)
    if landscape.prior != NO_PRIOR:
        value = dissimilarity(landscape.score, ff, gg, fg, overlap, landscape.unit, landscape.least)
        finite = value if math.isfinite(value) else landscape.power
        found *= log_likelihood(landscape.score, finite, overlap, landscape.power)[1]
    return found


@strict
def _value_at(reference, samples, landscape, point, hessian, descent, memory):
    weights, seen, sums, matrix, phases, work = memory
    placed(landscape.phase, point, matrix, phases)
    sums_at(reference, samples, matrix, phases, weights, seen, sums)
    return valued(landscape, sums, point, hessian, descent, work)


@strict
def proposed(landscape, point, hessian, descent, damping, matrix, step, tangent, trial):
    """Fill in the next ``trial`` (12,), its ``step`` (k,) and ``tangent`` (6,); return whether it is determined."""
    determined = solve(hessian, descent, damping, matrix, step)
    for a in range(6):
        tangent[a] = 0.0
        for c in range(len(step)):
            tangent[a] += landscape.directions[a, c] * step[c]
    turned(point, tangent, trial)
    for j in range(3):
        trial[9 + j] = point[9 + j] + tangent[3 + j]
    return determined


@strict
def settled(
    landscape, point, value, hessian, descent, damping, growth, determined, step, tangent, trial, after, rounding,
    next_hessian, next_descent,
):  # fmt: skip
    """Move ``point`` to ``trial`` where that is better; return value, damping, growth and status after the step.

    ``after`` is the value at ``trial`` and ``rounding`` its error; ``hessian`` and ``descent`` move with ``point``.
    """
    length = _length(tangent, 0) * landscape.radius + _length(tangent, 3)
    better, damping, growth, status = judge(
        value, after, hessian, descent, step, determined, length, landscape.tolerance, rounding, damping, growth
    )
    if better:
        value = after
        for j in range(12):
            point[j] = trial[j]
        for a in range(len(descent)):
            descent[a] = next_descent[a]
            for b in range(len(descent)):
                hessian[a, b] = next_hessian[a, b]
    return value, damping, growth, status


@strict
def _project(directions, full, slope, hessian, descent):
    """Fill ``hessian`` and ``descent`` with the model along the directions; return whether all of it is finite."""
    k = directions.shape[1]
    finite = True
    for c in range(k):
        descent[c] = 0.0
        for a in range(6):
            descent[c] += slope[a] * directions[a, c]
        finite = finite and math.isfinite(descent[c])
        for d in range(k):
            total = 0.0
            for a in range(6):
                for b in range(6):
                    total += directions[a, c] * full[a, b] * directions[b, d]
            hessian[c, d] = total
            finite = finite and math.isfinite(total)
    return finite


@strict
def turned(point, vector, out):
    """Write exp(vector) R into ``out`` by Rodrigues' formula; both are by rows, (9,) or the first nine of a point."""
    x, y, z = vector[0], vector[1], vector[2]
    square = x * x + y * y + z * z
    angle = math.sqrt(square)
    if angle > 1e-4:
        a, b = math.sin(angle) / angle, (1.0 - math.cos(angle)) / square
    else:
        a, b = 1.0 - square / 6.0, 0.5 - square / 24.0
    xx, xy, xz = 1.0 - b * (y * y + z * z), b * x * y - a * z, b * x * z + a * y
    yx, yy, yz = b * x * y + a * z, 1.0 - b * (x * x + z * z), b * y * z - a * x
    zx, zy, zz = b * x * z - a * y, b * y * z + a * x, 1.0 - b * (x * x + y * y)
    for j in range(3):
        out[j] = xx * point[j] + xy * point[3 + j] + xz * point[6 + j]
        out[3 + j] = yx * point[j] + yy * point[3 + j] + yz * point[6 + j]
        out[6 + j] = zx * point[j] + zy * point[3 + j] + zz * point[6 + j]


@strict
def quaternions(points, out):
    """Write the rotations of p points (p, 12) as quaternions (p, 4), scalar last, from the largest part (Shepperd)."""
    for i in range(points.shape[0]):
        r = points[i]
        trace = r[0] + r[4] + r[8]
        largest = 3
        parts = (r[0], r[4], r[8], trace)
        for part in range(3):
            if parts[part] > parts[largest]:
                largest = part
        if largest == 3:
            q = (r[7] - r[5], r[2] - r[6], r[3] - r[1], 1.0 + trace)
        elif largest == 0:
            q = (1.0 + 2.0 * r[0] - trace, r[3] + r[1], r[2] + r[6], r[7] - r[5])
        elif largest == 1:
            q = (r[3] + r[1], 1.0 + 2.0 * r[4] - trace, r[7] + r[5], r[2] - r[6])
        else:
            q = (r[2] + r[6], r[7] + r[5], 1.0 + 2.0 * r[8] - trace, r[3] - r[1])
        length = math.sqrt(q[0] ** 2 + q[1] ** 2 + q[2] ** 2 + q[3] ** 2)
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = q[0] / length, q[1] / length, q[2] / length, q[3] / length


@strict
def _memory(samples):
    n = samples.frequency.shape[1]
    weights, seen = np.empty(n, np.float32), np.empty(n + 1, np.int32)
    work = np.empty((6, 6)), np.empty(6), np.empty((6, 6)), np.empty(6)
    return weights, seen, np.empty(N_SUMS), np.empty((3, 3), np.float32), np.empty(3, np.float32), work


@strict
def _length(vector, first):
    return math.sqrt(vector[first] ** 2 + vector[first + 1] ** 2 + vector[first + 2] ** 2)


@strict
def evaluate(reference, samples, landscape, points, value, hessian, descent):
    """Fill ``value`` (p,), ``hessian`` (p, k, k) and ``descent`` (p, k) with the objective at points (p, 12)."""
    memory = _memory(samples)
    for i in range(points.shape[0]):
        value[i] = _value_at(reference, samples, landscape, points[i], hessian[i], descent[i], memory)


@strict
def noises(reference, samples, landscape, points, out):
    """Fill ``out`` (p,) with the rounding errors of the values at p points (p, 12)."""
    k = landscape.directions.shape[1]
    memory, hessian, descent = _memory(samples), np.empty((k, k)), np.empty(k)
    for i in range(points.shape[0]):
        _value_at(reference, samples, landscape, points[i], hessian, descent, memory)
        out[i] = noise(landscape, memory[2])


@strict
def refine(
    reference,
    samples,
    landscape,
    rows,
    n_steps,
    points,
    value,
    hessian,
    descent,
    damping,
    growth,
    status,
    iterations,
):
    """Take up to ``n_steps`` steps from each of ``rows`` of a Levenberg-Marquardt ``State``, changed in place."""
    k = landscape.directions.shape[1]
    memory, matrix = _memory(samples), np.empty((k, k))
    step, tangent, trial = np.empty(k), np.empty(6), np.empty(12)
    next_hessian, next_descent = np.empty((k, k)), np.empty(k)
    for i in rows:
        for _ in range(n_steps):
            if status[i] != RUNNING:
                break
            determined = proposed(
                landscape, points[i], hessian[i], descent[i], damping[i], matrix, step, tangent, trial
            )
            after = _value_at(reference, samples, landscape, trial, next_hessian, next_descent, memory)
            value[i], damping[i], growth[i], status[i] = settled(
                landscape, points[i], value[i], hessian[i], descent[i], damping[i], growth[i], determined, step,
                tangent, trial, after, noise(landscape, memory[2]), next_hessian, next_descent,
            )  # fmt: skip
            iterations[i] += 1
