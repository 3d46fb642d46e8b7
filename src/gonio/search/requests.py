"""What a search asks of comparisons: requests, which whoever runs the search answers.

A search is a generator. It yields what it wants evaluated and receives the result, so that it does not say where: on
the CPU at once (``answered``), or on a graphics card together with what a thousand other searches have asked for
(``gpu.device``). What is asked for may be as much as the optima of a pair (``cpu.PairSearch``). There is one
description of every search, whoever answers it. Must not know any search.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.score import Comparison, NormalEquations
from gonio.search import levenberg_marquardt as lm
from gonio.search.objective import PoseProblem, unpack

__all__ = [
    "Asking",
    "BestShifts",
    "Equations",
    "Refinement",
    "Request",
    "ShellEquations",
    "ShellSums",
    "Together",
    "answered",
    "begun",
    "side_by_side",
]

T = TypeVar("T")


class Request(Protocol):
    """Something to be evaluated."""

    def answer(self) -> Any:
        """The result, made here and now on the CPU."""
        ...


# Yields requests, receives their answers, and returns a result.
Asking = Generator[Request, Any, T]


def answered(asking: Asking[T]) -> T:
    """The result of what asks, every request answered at once."""
    try:
        request = next(asking)
        while True:
            request = asking.send(request.answer())
    except StopIteration as end:
        result: T = end.value
        return result


def begun(asking: Asking[T]) -> Asking[T]:
    """What asks, done here and now as far as its first request."""
    try:
        request = next(asking)
    except StopIteration as end:
        return _ended(end.value)
    return _gone_on(asking, request)


def _ended(result: T) -> Asking[T]:
    return result
    yield  # a generator, which asks for nothing


def _gone_on(asking: Asking[T], request: Request) -> Asking[T]:
    """The rest of what has asked for ``request``."""
    try:
        while True:
            request = asking.send((yield request))
    except StopIteration as end:
        result: T = end.value
        return result


@dataclass(frozen=True)
class Together:
    """Several requests of searches that do not wait for one another."""

    requests: Sequence[Request]

    def answer(self) -> list[Any]:
        """One for each."""
        return [request.answer() for request in self.requests]


def side_by_side(askings: Iterable[Asking[T]]) -> Asking[list[T]]:
    """The results of several searches, all of which ask at the same time."""
    results: dict[int, T] = {}
    waiting: list[tuple[int, Asking[T]]] = list(enumerate(askings))
    count, answers = len(waiting), [None] * len(waiting)
    while waiting:
        still, requests = [], []
        for (number, asking), answer in zip(waiting, answers, strict=True):
            try:
                requests.append(asking.send(answer))
                still.append((number, asking))
            except StopIteration as end:
                results[number] = end.value
        waiting = still
        if requests:
            answers = yield Together(requests)
    return [results[number] for number in range(count)]


@dataclass(frozen=True)
class BestShifts:
    """``Comparison.best_shifts`` of rotations (p, 3, 3)."""

    comparison: Comparison
    rotations: NDArray[np.float64]
    max_shift_angstrom: float
    points: int | None = None

    def answer(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Shifts (p, 3) in angstrom and dissimilarities (p,)."""
        return self.comparison.best_shifts(
            self.rotations, max_shift_angstrom=self.max_shift_angstrom, points=self.points
        )


@dataclass(frozen=True)
class Equations:
    """The normal equations at points (p, 12)."""

    comparison: Comparison
    points: NDArray[np.float64]

    def answer(self) -> NormalEquations:
        """With p rows."""
        return self.comparison.normal_equations(*unpack(self.points))


@dataclass(frozen=True)
class ShellSums:
    """|f|^2, |g|^2, f.g and |Omega| of each shell at points (p, 12)."""

    comparison: Comparison
    points: NDArray[np.float64]

    def answer(self) -> NDArray[np.float64]:
        """Shape (p, s, 4)."""
        return self.comparison.shell_sums(*unpack(self.points))


@dataclass(frozen=True)
class ShellEquations:
    """The 37 sums of each shell (``kernels.cpu``) at one point (12,)."""

    comparison: Comparison
    point: NDArray[np.float64]

    def answer(self) -> NDArray[np.float64]:
        """Shape (s, 37)."""
        rotations, shifts = unpack(self.point[None])
        return self.comparison.shell_equations(rotations[0], shifts[0])


@dataclass(frozen=True)
class Refinement:
    """Every one of points (p, 12) refined by itself, ``lm.minimise``."""

    problem: PoseProblem
    points: NDArray[np.float64]
    max_iterations: int

    @property
    def comparison(self) -> Comparison:
        """What is minimised."""
        return self.problem.comparison

    def answer(self) -> lm.State:
        """With p rows."""
        return lm.minimise(self.problem.problem, self.points, max_iterations=self.max_iterations)
