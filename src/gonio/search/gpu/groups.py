"""Items of a task on a GPU, in groups: one group is prepared while others are searched and finished."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from gonio.run.parallel import in_order
from gonio.search.backend import Backend
from gonio.search.gpu.device import Device

P = TypeVar("P")
T = TypeVar("T")

# Searches of a group: the best poses of a thousand pairs fill the blocks that a large GPU runs at a time, and most
# launches have more.
TOGETHER = 1024
# Groups in progress: one is prepared, one searched, and one finished.
UNDER_WAY = 3
# Results of a group up to the first item that fails, and its error.
Outcome = tuple[list[T], Exception | None]


def in_groups(
    prepare: Callable[..., P],
    finish: Callable[[Sequence[P], Backend], list[T]],
    items: Iterator[tuple[Any, ...]],
    device: Device,
    *,
    n_threads: int = 1,
    size: int = TOGETHER,
) -> Iterator[T]:
    """Yield the result of each item in order, finishing items in groups of ``size``.

    ``n_threads`` threads run ``prepare(*item)``, which reads particles, and does so again where an item of its group
    fails. Processes could not pass on data that is on the GPU. Results do not depend on the groups.

    Raises
    ------
    Exception
        The first error, in the order of the items, of preparing or finishing one, after the results before it.
    """
    groups = ((group,) for group in iter(lambda: list(islice(items, size)), []))
    with ThreadPoolExecutor(n_threads) as threads:
        done = partial(_done, threads, prepare, finish, device)
        with closing(in_order(done, groups, UNDER_WAY, processes=False, ahead=1)) as outcomes:
            for results, error in outcomes:
                yield from results
                if error is not None:
                    raise error


def _done(
    threads: ThreadPoolExecutor,
    prepare: Callable[..., P],
    finish: Callable[[Sequence[P], Backend], list[T]],
    device: Device,
    group: Sequence[tuple[Any, ...]],
) -> Outcome[T]:
    """Prepare and finish a group; where that fails do its halves, until the first item that fails is alone.

    Halves are prepared again: what was prepared may have been used in part, such as its random numbers.
    """
    try:
        return finish(list(threads.map(prepare, *zip(*group, strict=True))), device), None
    except Exception as error:
        if len(group) == 1:
            return [], error
    half = len(group) // 2
    results, failure = _done(threads, prepare, finish, device, group[:half])
    if failure is None:
        rest, failure = _done(threads, prepare, finish, device, group[half:])
        results += rest
    return results, failure
