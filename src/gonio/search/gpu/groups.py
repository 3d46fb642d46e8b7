"""Items of a task on a GPU, in groups: one is prepared while others are searched and made into results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gonio.run.parallel import in_order
from gonio.search.backend import Backend
from gonio.search.gpu.device import Device

__all__ = ["TOGETHER", "in_groups"]

P = TypeVar("P")
T = TypeVar("T")

# Searches of a group: the best poses of a thousand pairs are as many blocks as a large GPU runs at a time, and most
# launches have more.
TOGETHER = 1024
# Groups that are under way: one is searched while the other is made into results.
UNDER_WAY = 2


def in_groups(
    prepare: Callable[..., P],
    finish: Callable[[Sequence[P], Backend], list[T]],
    items: Iterator[tuple],
    device: Device,
    *,
    n_threads: int = 1,
    size: int = TOGETHER,
) -> Iterator[T]:
    """Yield the result of each item, in order, of groups of ``size`` items that are finished together.

    ``n_threads`` threads do ``prepare(*item)``: that is where particles are read. Processes could not hand over what
    lies on the GPU. Results do not depend on the groups.

    Raises
    ------
    Exception
        The first, in the order of the items, that preparing or finishing one ends with, after the results before it.
    """
    under_way: deque[tuple[Future[_Outcome[T]], Exception | None]] = deque()
    with ThreadPoolExecutor(UNDER_WAY) as pool:
        try:
            for group, error in _grouped(in_order(prepare, items, n_threads, processes=False), size):
                under_way.append((pool.submit(_finished, finish, group, device), error))
                if len(under_way) == UNDER_WAY:
                    yield from _results(*under_way.popleft())
            while under_way:
                yield from _results(*under_way.popleft())
        finally:
            for future, _ in under_way:  # left before the end, or an error: what is not begun is in vain
                future.cancel()


# Results of a group up to the first item that fails, and how that one fails.
_Outcome = tuple[list[T], Exception | None]


def _grouped(prepared: Iterator[P], size: int) -> Iterator[tuple[list[P], Exception | None]]:
    """Yield groups of prepared items; with the last, the error that preparing the next one ends with."""
    group: list[P] = []
    try:
        for one in prepared:
            group.append(one)
            if len(group) == size:
                yield group, None
                group = []
    except Exception as error:
        yield group, error
        return
    if group:
        yield group, None


def _finished(finish: Callable[[Sequence[P], Backend], list[T]], group: Sequence[P], device: Device) -> _Outcome[T]:
    """Finish a group; where that fails, halves of it, until the first item that fails is by itself."""
    try:
        return (finish(group, device) if group else []), None
    except Exception as error:
        if len(group) == 1:
            return [], error
    half = len(group) // 2
    results, failure = _finished(finish, group[:half], device)
    if failure is None:
        rest, failure = _finished(finish, group[half:], device)
        results += rest
    return results, failure


def _results(future: Future[_Outcome[T]], following: Exception | None) -> Iterator[T]:
    """Yield the results of a group, then raise how it, or else preparing what follows, failed."""
    results, error = future.result()
    yield from results
    if error is not None or following is not None:
        raise error or following  # type: ignore[misc]  # one of them is there
