"""The pool of candidate poses: which one to refine next, which ones coincide, when to stop.

Owns the paper's stochastic parallel refinement (section 2.3) and the refinement of every seed on its own.
Flow: seeds -> one Levenberg-Marquardt step on a candidate drawn with eq. 11 -> drop near-duplicates (eq. 12) ->
stop by the regression of the smallest dissimilarities. Must not know what a dissimilarity is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import pool
from gonio.search import levenberg_marquardt as lm
from gonio.settings import Schedule


@dataclass(frozen=True)
class Outcome:
    """Candidates that remain in the pool, best first, and how the search reached them.

    ``state`` holds the surviving candidates ordered by dissimilarity; ``iterations`` counts Levenberg-Marquardt steps
    over all candidates; ``history`` has the smallest dissimilarity after each of them, and ``best_points`` (i, m) the
    points that had it, or None when they were not recorded.
    """

    state: lm.State
    iterations: int
    history: NDArray[np.float64]
    best_points: NDArray[np.float64] | None


def refine_stochastically(
    problem: lm.Problem,
    seeds: NDArray[np.float64],
    *,
    schedule: Schedule,
    signature: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    rng: np.random.Generator,
    record: bool = False,
) -> Outcome:
    """Refine seeds (p, m) by the paper's stochastic parallel refinement, then the best candidate to its minimum.

    Parameters
    ----------
    problem
        Function to minimise.
    seeds
        Starting points (p, m).
    schedule
        Constants of the search.
    signature
        Maps points (p, m) to vectors (p, s) whose Euclidean distance is that of eq. 12.
    rng
        Draws the candidates.
    record
        Whether to keep the best point of every iteration.

    Notes
    -----
    A candidate that has converged is not drawn again, since it cannot be refined further. The regression uses the
    smallest dissimilarity divided by its first value.
    """
    state = lm.start(problem, seeds)
    active, signatures = np.isfinite(state.dissimilarity), signature(state.points)
    for row in np.argsort(state.dissimilarity):
        pool.drop_duplicates_of(row, signatures, state.dissimilarity, active, schedule.duplicate_distance)
    uniforms = rng.random(schedule.max_iterations)
    history = np.empty(len(uniforms))
    points = np.empty((len(uniforms) if record else 0, seeds.shape[1]))
    explore = partial(_explore, problem, signature) if problem.explore is None else problem.explore
    count = explore(state, schedule, uniforms, signatures, active, history, points)
    return _outcome(state, active, history[:count], points[:count] if record else None)


def _explore(
    problem: lm.Problem,
    signature: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    state: lm.State,
    schedule: Schedule,
    uniforms: NDArray[np.float64],
    signatures: NDArray[np.float64],
    active: NDArray[np.bool_],
    history: NDArray[np.float64],
    points: NDArray[np.float64],
) -> int:
    """Do for any problem what ``kernels.pool.explore`` does for a compiled one, and return the iterations made."""
    d, settled = state.dissimilarity, False
    for count, uniform in enumerate(uniforms):
        row = -1 if settled else int(pool.draw(d, state.code, active, schedule.draw_contrast, uniform))
        settled = row < 0
        if settled:
            row = int(pool.best_active(d, active))
            if state.code[row] != lm.Status.RUNNING.code:
                return count
        lm.step(problem, state, np.array([row]))
        if not settled:
            signatures[row] = signature(state.points[row : row + 1])[0]
            pool.drop_duplicates_of(row, signatures, d, active, schedule.duplicate_distance)
        best = pool.best_active(d, active)
        history[count] = d[best]
        if len(points):
            points[count] = state.points[best]
        window, tolerance = schedule.regression_window, schedule.regression_tolerance
        settled = settled or pool.has_settled(history[: count + 1], window, tolerance)
    return len(uniforms)


def refine_all(problem: lm.Problem, seeds: NDArray[np.float64], *, max_iterations: int) -> Outcome:
    """Refine every seed (p, m) on its own to its minimum, as the baseline of the stochastic refinement."""
    return all_refined(lm.minimise(problem, seeds, max_iterations=max_iterations))


def all_refined(state: lm.State) -> Outcome:
    """Return the outcome of seeds that were each refined on its own."""
    history = np.minimum.accumulate(np.sort(state.dissimilarity)[::-1])
    return _outcome(state, np.isfinite(state.dissimilarity), history, None)


def _outcome(
    state: lm.State, active: NDArray[np.bool_], history: NDArray[np.float64], points: NDArray[np.float64] | None
) -> Outcome:
    rows = np.flatnonzero(active) if active.any() else np.arange(len(state))
    state.code[state.running] = lm.Status.MAX_ITERATIONS.code
    order = rows[np.argsort(state.dissimilarity[rows], kind="stable")]
    return Outcome(state.take(order), int(state.iterations.sum()), history, points)
