"""The pool of candidate poses: which one to refine next, which are the same, when to stop.

Owns the paper's stochastic parallel refinement (section 2.3) and, beside it, the refinement of every seed by itself.
Flow: seeds -> one Levenberg-Marquardt step on a candidate drawn with eq. 11 -> drop near-duplicates (eq. 12) ->
stop by the regression of the smallest dissimilarities. Must not know what a dissimilarity is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio import lm

__all__ = ["Outcome", "Schedule", "draw_probabilities", "refine_all", "refine_stochastically", "regression_slope"]


@dataclass(frozen=True)
class Schedule:
    """The constants of the stochastic refinement.

    Parameters
    ----------
    draw_contrast
        t of eq. 11: the best candidate is drawn at least 10^t times as often as the worst.
    duplicate_distance
        gamma of eq. 12, a Frobenius norm with shifts in voxels.
    regression_tolerance
        t_regress: the search ends when the line through the last smallest dissimilarities, relative to the first,
        falls by no more than this per iteration.
    regression_window
        Over how many iterations that line is drawn.
    max_iterations
        n_max_iter.
    """

    draw_contrast: float = 2.0
    duplicate_distance: float = 0.3
    regression_tolerance: float = 1e-3
    regression_window: int = 250
    max_iterations: int = 1000


@dataclass(frozen=True)
class Outcome:
    """What is left of the pool, best first, and how it came to be.

    ``state`` holds the surviving candidates ordered by dissimilarity; ``iterations`` counts Levenberg-Marquardt steps
    over all candidates; ``history`` has the smallest dissimilarity after each of them, and ``best_points`` (i, m) the
    point that had it, or is None when it was not asked for.
    """

    state: lm.State
    iterations: int
    history: NDArray[np.float64]
    best_points: NDArray[np.float64] | None


def draw_probabilities(dissimilarity: NDArray[np.float64], draw_contrast: float) -> NDArray[np.float64]:
    """The paper's eq. 11, in the order of the input: p_j = p_{j-1} max(10^(t / (m - 1)), d_{j-1} / d_j), worst first.

    Raises nothing: a dissimilarity of zero is drawn for certain, one that is not finite never.
    """
    d = np.where(np.isfinite(dissimilarity), dissimilarity, np.inf)
    order = np.argsort(-d, kind="stable")
    logarithm = np.log(np.maximum(d[order], 1e-12 * max(d.min(), 1e-300)))
    step = np.full(len(d), draw_contrast * np.log(10.0) / max(len(d) - 1, 1))
    with np.errstate(invalid="ignore"):
        step[1:] = np.fmax(step[1:], logarithm[:-1] - logarithm[1:])
    step[0] = 0.0
    rank = np.cumsum(np.where(np.isfinite(step), step, 1e3))
    weights = np.where(np.isfinite(d[order]), np.exp(rank - rank[-1]), 0.0)
    probabilities = np.empty(len(d))
    probabilities[order] = weights / weights.sum() if weights.sum() > 0 else 1.0 / len(d)
    return probabilities


def regression_slope(values: NDArray[np.float64]) -> float:
    """Slope per step of the least-squares line through ``values`` (w,)."""
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    return float(steps @ values / max((steps**2).sum(), 0.5))


class _Pool:
    """Candidates that are still alive; keeps the invariant that no two of them are nearer than gamma."""

    def __init__(self, state: lm.State, signature: Callable[[NDArray], NDArray], gamma: float) -> None:
        self.state = state
        self.alive = np.isfinite(state.dissimilarity)
        self._signature = signature
        self._signatures = signature(state.points)  # (p, s)
        self._gamma = gamma
        for row in np.argsort(state.dissimilarity):
            self.drop_duplicates_of(row)

    @property
    def drawable(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.alive & (self.state.code == lm.Status.RUNNING.code))

    @property
    def best(self) -> int:
        return int(np.where(self.alive, self.state.dissimilarity, np.inf).argmin())

    def moved(self, row: int) -> None:
        self._signatures[row] = self._signature(self.state.points[row : row + 1])[0]
        self.drop_duplicates_of(row)

    def drop_duplicates_of(self, row: int) -> None:
        """Of ``row`` and every candidate within gamma of it, only the better of each pair stays alive."""
        if not self.alive[row]:
            return
        square = ((self._signatures - self._signatures[row]) ** 2).sum(axis=1)
        near = self.alive & (square <= self._gamma**2)
        near[row] = False
        d = self.state.dissimilarity
        self.alive[near & (d >= d[row])] = False
        self.alive[row] = not (near & (d < d[row])).any()


def refine_stochastically(
    problem: lm.Problem,
    seeds: NDArray[np.float64],
    *,
    schedule: Schedule,
    signature: Callable[[NDArray], NDArray],
    rng: np.random.Generator,
    record: bool = False,
) -> Outcome:
    """The paper's stochastic parallel refinement of seeds (p, m), then the best candidate to its minimum.

    Parameters
    ----------
    problem
        What is minimised.
    seeds
        Starting points (p, m).
    schedule
        Constants of the search.
    signature
        Points (p, m) to vectors (p, s) whose Euclidean distance is that of eq. 12.
    rng
        Draws the candidates.
    record
        Whether to keep the best point of every iteration.

    Notes
    -----
    A candidate that has come to rest is not drawn again, since it cannot be refined further. The regression is that
    of the smallest dissimilarity over its first value.
    """
    pool = _Pool(lm.start(problem, seeds), signature, schedule.duplicate_distance)
    state = pool.state
    history: list[float] = []
    points: list[NDArray[np.float64]] = []
    while len(history) < schedule.max_iterations and len(pool.drawable):
        drawable = pool.drawable
        chance = draw_probabilities(state.dissimilarity[drawable], schedule.draw_contrast)
        row = int(drawable[np.searchsorted(np.cumsum(chance), rng.random() * chance.sum(), side="right")])
        lm.step(problem, state, np.array([row]))
        pool.moved(row)
        history.append(state.dissimilarity[pool.best])
        if record:
            points.append(state.points[pool.best].copy())
        if _has_settled(history, schedule):
            break
    while state.code[pool.best] == lm.Status.RUNNING.code and len(history) < schedule.max_iterations:
        lm.step(problem, state, np.array([pool.best]))
        history.append(state.dissimilarity[pool.best])
        if record:
            points.append(state.points[pool.best].copy())
    return _outcome(state, pool.alive, np.array(history), np.array(points) if record else None)


def _has_settled(history: list[float], schedule: Schedule) -> bool:
    if len(history) < schedule.regression_window or history[0] <= 0:
        return False
    recent = np.array(history[-schedule.regression_window :]) / history[0]
    return abs(regression_slope(recent)) <= schedule.regression_tolerance


def refine_all(problem: lm.Problem, seeds: NDArray[np.float64], *, max_iterations: int) -> Outcome:
    """Refine every seed (p, m) by itself to its minimum: what the stochastic refinement is measured against."""
    state = lm.minimise(problem, seeds, max_iterations=max_iterations)
    history = np.minimum.accumulate(np.sort(state.dissimilarity)[::-1])
    return _outcome(state, np.isfinite(state.dissimilarity), history, None)


def _outcome(state: lm.State, alive: NDArray, history: NDArray, points: NDArray | None) -> Outcome:
    rows = np.flatnonzero(alive) if alive.any() else np.arange(len(state))
    state.code[state.running] = lm.Status.MAX_ITERATIONS.code
    order = rows[np.argsort(state.dissimilarity[rows], kind="stable")]
    return Outcome(state.take(order), int(state.iterations.sum()), history, points)
