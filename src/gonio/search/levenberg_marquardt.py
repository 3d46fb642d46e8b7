"""Levenberg-Marquardt for many small problems at once. Knows only a callable and a retraction.

For each of p problems, around a point x with d(x + dx) ~ d - 2 b.dx + dx^T H dx (the paper's eqs. 7 and 17-19):

    step        (H + lambda diag H) dx = b
    predicted   d(x) - d(x + dx)  ~  2 b.dx - dx^T H dx
    gain        rho = (d(x) - d(x + dx)) / predicted
    accept      only if d decreases, or if the step is short and predicts less than the rounding error of d: then the
                gradient, which is more accurate, is followed, with more damping
    damping     accepted: lambda *= max(1/3, 1 - (2 rho - 1)^3), nu = 2;   rejected: lambda *= nu, nu *= 2
                (Nielsen 1999, "Damping parameter in Marquardt's method", eq. 2.4)

A problem ends when its step is shorter than the tolerance, in the caller's measure of length. Never raises for
numerical reasons: a ``Status`` states what happened. The step and its acceptance are compiled (``kernels.marquardt``);
a problem that is compiled as a whole takes all its steps at once (``Problem.advance``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import marquardt as kernels
from gonio.kernels.marquardt import FIRST_DAMPING, FIRST_GROWTH


class Status(Enum):
    """End of a refinement, or that it is still running; ``sentence`` explains it to the user."""

    RUNNING = (kernels.RUNNING, "not finished yet")
    CONVERGED = (kernels.CONVERGED, "the pose moves by less than the tolerance")
    STALLED = (kernels.STALLED, "no step lowers the dissimilarity any further")
    MAX_ITERATIONS = (
        kernels.MAX_ITERATIONS,
        "stopped after the largest allowed number of iterations; allow more of them",
    )
    SINGULAR = (kernels.SINGULAR, "the data do not determine a step: nothing changes with the pose")
    NO_OVERLAP = (
        kernels.NO_OVERLAP,
        "the two wedges share too few measured frequencies; try another start or a wider wedge",
    )

    def __init__(self, code: int, sentence: str) -> None:
        self.code = code
        self.sentence = sentence

    @staticmethod
    def of(code: int) -> Status:
        """Return the status of the kernels' code."""
        return _BY_CODE[code]

    @property
    def ok(self) -> bool:
        """Whether the refinement converged at a minimum."""
        return self in (Status.CONVERGED, Status.STALLED)


_BY_CODE = {status.code: status for status in Status}


# At points (p, m): dissimilarity (p,), hessian (p, k, k), descent (p, k).
Model = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Problem:
    """Function to minimise: a model at points (p, m), a retraction along steps (p, k), the length of a step (p,).

    ``advance`` takes up to a number of steps of some rows of a state, as ``step`` would one by one; ``explore`` refines
    drawn candidates (``stochastic``); None where there is no faster way than the general one. ``noise`` returns the
    rounding error of the values at points, (p,); None where they are exact.
    """

    model: Callable[[NDArray[np.float64]], Model]
    retract: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
    length: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    tolerance: float
    advance: Callable[[State, NDArray[np.int64], int], None] | None = None
    explore: Callable[..., int] | None = None
    noise: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None


@dataclass
class State:
    """Current state of p refinements: arrays with p rows, changed in place by ``step``; ``code`` is of a ``Status``."""

    points: NDArray[np.float64]
    dissimilarity: NDArray[np.float64]
    hessian: NDArray[np.float64]
    descent: NDArray[np.float64]
    damping: NDArray[np.float64]
    growth: NDArray[np.float64]
    code: NDArray[np.int64]
    iterations: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.points)

    @property
    def running(self) -> NDArray[np.int64]:
        """Rows that are not finished."""
        return np.flatnonzero(self.code == Status.RUNNING.code)

    @property
    def status(self) -> list[Status]:
        """Status of each refinement."""
        return [_BY_CODE[code] for code in self.code]

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """All arrays, in the order above."""
        return tuple(getattr(self, name) for name in self.__dataclass_fields__)

    def take(self, rows: NDArray[np.integer | np.bool_]) -> State:
        """Return a copy of some rows."""
        return State(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


def _model(problem: Problem, points: NDArray[np.float64]) -> Model:
    """Return the problem's model, with infinite values and zero derivatives where these are not finite."""
    dissimilarity, hessian, descent = problem.model(points)
    valid = np.asarray(np.isfinite(hessian).all(axis=(1, 2)) & np.isfinite(descent).all(axis=1))
    dissimilarity = np.where(np.isfinite(dissimilarity), dissimilarity, np.inf)
    return dissimilarity, np.where(valid[:, None, None], hessian, 0.0), np.where(valid[:, None], descent, 0.0)


def start(problem: Problem, points: NDArray[np.float64]) -> State:
    """Return the state before the first step; counts no iteration."""
    count = len(points)
    dissimilarity, hessian, descent = _model(problem, points)
    code = np.where(np.isfinite(dissimilarity), Status.RUNNING.code, Status.NO_OVERLAP.code)
    damping, growth = np.full(count, FIRST_DAMPING), np.full(count, FIRST_GROWTH)
    iterations = np.zeros(count, dtype=np.int64)
    return State(points.copy(), dissimilarity, hessian, descent, damping, growth, code, iterations)


def step(problem: Problem, state: State, rows: NDArray[np.int64]) -> None:
    """Do one iteration of each of ``rows``: try a step, accept or reject it, adapt the damping, detect the end."""
    if problem.advance is not None:
        problem.advance(state, rows, 1)
        return
    hessian, descent, before = state.hessian[rows], state.descent[rows], state.dissimilarity[rows]
    steps, matrix = np.empty_like(descent), np.empty(hessian.shape[1:])
    determined = np.array(list(map(kernels.solve, hessian, descent, state.damping[rows], repeat(matrix), steps)))
    trial = problem.retract(state.points[rows], steps)
    after, next_hessian, next_descent = _model(problem, trial)
    noise = np.zeros(len(rows)) if problem.noise is None else problem.noise(trial)
    lengths, tolerance = problem.length(steps), repeat(problem.tolerance)
    arrays = before, after, hessian, descent, steps, determined, lengths, tolerance, noise
    judged = np.array(list(map(kernels.judge, *arrays, state.damping[rows], state.growth[rows])))
    better, state.damping[rows], state.growth[rows], state.code[rows] = judged.T
    won = better == 1.0
    state.points[rows[won]], state.dissimilarity[rows[won]] = trial[won], after[won]
    state.hessian[rows[won]], state.descent[rows[won]] = next_hessian[won], next_descent[won]
    state.iterations[rows] += 1


def minimise(problem: Problem, points: NDArray[np.float64], *, max_iterations: int) -> State:
    """Refine every point (p, m) on its own until it has ended or used ``max_iterations``."""
    state = start(problem, points)
    if problem.advance is not None:
        problem.advance(state, state.running, max_iterations)
    else:
        for _ in range(max_iterations):
            if not len(state.running):
                break
            step(problem, state, state.running)
    state.code[state.running] = Status.MAX_ITERATIONS.code
    return state
