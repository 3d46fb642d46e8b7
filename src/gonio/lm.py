"""Levenberg-Marquardt for many small problems at once. Knows a callable and a retraction, nothing else.

For each of p problems, around a point x with d(x + dx) ~ d - 2 b.dx + dx^T H dx (the paper's eqs. 7 and 17-19):

    step        (H + lambda diag H) dx = b
    predicted   d(x) - d(x + dx)  ~  2 b.dx - dx^T H dx
    gain        rho = (d(x) - d(x + dx)) / predicted
    accept      only if d decreases
    damping     accepted: lambda *= max(1/3, 1 - (2 rho - 1)^3), nu = 2;   rejected: lambda *= nu, nu *= 2
                (Nielsen 1999, "Damping parameter in Marquardt's method", eq. 2.4)

A problem ends when its step is shorter than the tolerance, in the caller's measure of length. Never raises for
numerical reasons: what happened is told by a ``Status``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Model", "Problem", "State", "Status", "minimise", "start", "step"]

FIRST_DAMPING = 1e-2
MIN_DAMPING = 1e-9
MAX_DAMPING = 1e12
# Below this share of the largest, a diagonal element of H counts as zero: the direction moves nothing.
MIN_DIAGONAL = 1e-12


class Status(Enum):
    """How a refinement ended, or that it has not; ``sentence`` says it to a person."""

    RUNNING = (0, "not finished yet")
    CONVERGED = (1, "the pose moves by less than the tolerance")
    STALLED = (2, "no step lowers the dissimilarity any further")
    MAX_ITERATIONS = (3, "stopped after the largest allowed number of iterations; allow more of them")
    SINGULAR = (4, "the data do not determine a step: nothing changes with the pose")
    NO_OVERLAP = (5, "the two wedges share too few measured frequencies; try another start or a wider wedge")

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        self.sentence = sentence

    @property
    def ok(self) -> bool:
        """Whether the refinement came to rest at a minimum."""
        return self in (Status.CONVERGED, Status.STALLED)


# At points (p, m): dissimilarity (p,), hessian (p, k, k), descent (p, k).
Model = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Problem:
    """What is minimised: a model at points (p, m), a retraction along steps (p, k), and the length of a step (p,)."""

    model: Callable[[NDArray[np.float64]], Model]
    retract: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
    length: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    tolerance: float


@dataclass
class State:
    """Where p refinements stand: arrays with p rows, changed in place by ``step``."""

    points: NDArray[np.float64]
    dissimilarity: NDArray[np.float64]
    hessian: NDArray[np.float64]
    descent: NDArray[np.float64]
    damping: NDArray[np.float64]
    growth: NDArray[np.float64]
    status: NDArray[np.object_]
    iterations: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def running(self) -> NDArray[np.int64]:
        """Rows that are not finished."""
        return np.flatnonzero(self.status == Status.RUNNING)

    def take(self, rows: NDArray) -> State:
        """A copy of some rows."""
        return State(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def _model(problem: Problem, points: NDArray[np.float64]) -> Model:
    """The problem's model; where it is not a number, as bad as can be and saying nothing about where to go."""
    dissimilarity, hessian, descent = problem.model(points)
    told = np.asarray(np.isfinite(hessian).all(axis=(1, 2)) & np.isfinite(descent).all(axis=1))
    dissimilarity = np.where(np.isfinite(dissimilarity), dissimilarity, np.inf)
    return dissimilarity, np.where(told[:, None, None], hessian, 0.0), np.where(told[:, None], descent, 0.0)


def start(problem: Problem, points: NDArray[np.float64]) -> State:
    """The state before the first step; counts no iteration."""
    count = len(points)
    dissimilarity, hessian, descent = _model(problem, points)
    status = np.full(count, Status.RUNNING, dtype=object)
    status[~np.isfinite(dissimilarity)] = Status.NO_OVERLAP
    damping, growth = np.full(count, FIRST_DAMPING), np.full(count, 2.0)
    iterations = np.zeros(count, dtype=np.int64)
    return State(points.copy(), dissimilarity, hessian, descent, damping, growth, status, iterations)


def _solve(hessian: NDArray, descent: NDArray, damping: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
    """Steps (p, k), and whether each problem determined one."""
    diagonal = np.einsum("pii->pi", hessian)
    largest = diagonal.max(axis=1, initial=0.0)
    fine = largest > 0
    floor = MIN_DIAGONAL * np.where(fine, largest, 1.0)[:, None]
    identity = np.eye(hessian.shape[1])
    matrix = hessian + damping[:, None, None] * np.maximum(diagonal, floor)[:, :, None] * identity
    matrix = np.where(fine[:, None, None], matrix, identity)
    try:
        steps = np.linalg.solve(matrix, descent[:, :, None])[:, :, 0]
    except np.linalg.LinAlgError:
        # One by one, so that a singular problem does not change the bits of its neighbours.
        steps = np.stack([_shortest_solution(*row) for row in zip(matrix, descent, strict=True)])
    fine &= np.isfinite(steps).all(axis=1)
    return np.where(fine[:, None], steps, 0.0), fine


def _shortest_solution(matrix: NDArray, right: NDArray) -> NDArray:
    try:
        return np.linalg.solve(matrix, right)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(matrix, hermitian=True) @ right


def step(problem: Problem, state: State, rows: NDArray[np.int64]) -> None:
    """One iteration of each of ``rows``: try a step, accept or reject it, adapt the damping, notice the end."""
    hessian, descent, before = state.hessian[rows], state.descent[rows], state.dissimilarity[rows]
    steps, determined = _solve(hessian, descent, state.damping[rows])
    trial = problem.retract(state.points[rows], steps)
    after, next_hessian, next_descent = _model(problem, trial)
    predicted = 2.0 * (descent * steps).sum(axis=1) - np.einsum("pi,pij,pj->p", steps, hessian, steps)
    better = determined & (after < before)
    drop = np.where(better, before - np.where(better, after, 0.0), 0.0)
    # A drop where none was predicted is a gain without bound.
    gain = np.where(predicted > 0, drop / np.where(predicted > 0, predicted, 1.0), np.inf)
    won = rows[better]
    state.points[won], state.dissimilarity[won] = trial[better], after[better]
    state.hessian[won], state.descent[won] = next_hessian[better], next_descent[better]
    _adapt(state, rows, better, gain)
    state.iterations[rows] += 1
    short = problem.length(steps) < problem.tolerance
    exhausted = state.damping[rows] >= MAX_DAMPING
    state.status[rows[short & better]] = Status.CONVERGED
    state.status[rows[~better & (short | exhausted)]] = Status.STALLED
    state.status[rows[~determined]] = Status.SINGULAR


def _adapt(state: State, rows: NDArray[np.int64], better: NDArray[np.bool_], gain: NDArray[np.float64]) -> None:
    shrink = np.maximum(1.0 / 3.0, 1.0 - (2.0 * np.clip(gain, 0.0, 2.0) - 1.0) ** 3)
    growth = state.growth[rows]
    factor = np.where(better, shrink, growth)
    state.damping[rows] = np.clip(state.damping[rows] * factor, MIN_DAMPING, MAX_DAMPING)
    state.growth[rows] = np.where(better, 2.0, np.minimum(2.0 * growth, 1e6))


def minimise(problem: Problem, points: NDArray[np.float64], *, max_iterations: int) -> State:
    """Refine every point (p, m) by itself until each has ended or used ``max_iterations``."""
    state = start(problem, points)
    for _ in range(max_iterations):
        rows = state.running
        if not len(rows):
            break
        step(problem, state, rows)
    state.status[state.running] = Status.MAX_ITERATIONS
    return state
