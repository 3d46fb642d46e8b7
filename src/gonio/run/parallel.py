"""Many jobs of one kind, several at a time, their results in order.

Short jobs spend half of their time in the interpreter, whose lock lets one thread in at a time. Where a process can be
forked safely (Linux, and no other Python thread to be cut off in the middle of something), each worker is a copy of
this one, which has all that was prepared; what it gets and gives is pickled. Elsewhere workers are threads. Results
are the same, to the bit.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

__all__ = ["in_order", "obey_parent", "portable"]

T = TypeVar("T")

# Jobs that are taken up for each worker before the first of them is done: one by one for threads; for processes in
# chunks, so many jobs together that sending them costs little of the seconds that a chunk should take.
AHEAD = 4
CHUNKS, MOST_TOGETHER, WORTH_SENDING = 2, 8, 0.02
# Seconds that an end may take.
END = 5.0


def in_order(
    function: Callable[..., T], items: Iterator[tuple], workers: int, *, processes: bool = True, ahead: int = AHEAD
) -> Generator[T]:
    """``function(*item)`` for each of ``items``, in their order; only a few more than there are workers are taken up.

    Parameters
    ----------
    function
        What is done; a forked worker's changes of what it holds are lost.
    items
        Its arguments, taken one by one in this process and thread.
    workers
        How many at a time; with 1, or for a single item, nothing but this thread takes part.
    processes
        Whether workers may be processes; items and results must then be such as can be pickled.
    ahead
        How many items are taken up for each thread before the first of them is done.

    Raises
    ------
    Exception
        The first, in the order of the items, that a job ends with; ChildProcessError when a worker was killed.
    """
    first = [] if workers == 1 else list(islice(items, 2))
    items = chain(first, items)
    if workers == 1 or len(first) < 2:
        return (function(*item) for item in items)
    forks = processes and sys.platform == "linux" and _is_alone()
    return _in_processes(function, items, workers) if forks else _in_threads(function, items, workers, ahead)


def portable(error: Exception) -> Exception:
    """The same error where it survives pickling, which not every one does; else one that tells as much."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _is_alone() -> bool:
    """Whether no other thread of Python could be cut off in the middle of something by a fork."""
    return threading.active_count() == 1


def _in_threads(function: Callable[..., T], items: Iterator[tuple], workers: int, ahead: int) -> Generator[T]:
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, *item))
                if len(waiting) >= ahead * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # an interruption or an error: do not finish what is not begun
                future.cancel()


def _in_processes(function: Callable[..., T], items: Iterator[tuple], workers: int) -> Generator[T]:
    others = set(multiprocessing.active_children())
    waiting: deque[Future[bytes]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _begin, (function,))
    children: set[BaseProcess] = set()
    size = 1
    try:
        while (some := list(islice(items, size))) or waiting:
            if some:
                waiting.append(_submitted(pool, some))
                children = children or set(multiprocessing.active_children()) - others
            if not some or len(waiting) >= CHUNKS * workers:
                results, error, seconds = pickle.loads(waiting.popleft().result())
                size = min(2 * size, MOST_TOGETHER) if seconds < WORTH_SENDING else max(1, size // 2)
                yield from results
                if error is not None:
                    raise error
    except BrokenProcessPool as error:
        raise ChildProcessError(f"{_exit_of(children)}: where memory is short, ask for fewer workers") from error
    finally:
        if waiting:  # an error, an interruption, or results that nobody takes: what is under way is in vain
            for child in children:
                child.terminate()
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, some: list[tuple]) -> Future[bytes]:
    with warnings.catch_warnings():
        # Of threads of libraries, which know how to be forked: they have handlers for it.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        return pool.submit(_done, _packed(some))


def _exit_of(children: set[BaseProcess]) -> str:
    """What became of a worker that did not end by itself; those that were not ended are by now."""
    for child in children:
        child.join(END)
    # The pool ends the others with SIGTERM as soon as it sees the first.
    status = sorted((child.exitcode or 0 for child in children), key=lambda code: (code == -signal.SIGTERM, code == 0))
    return f"a worker process was ended from outside (exit status {status[0] if status else None})"


def _packed(value: object) -> bytes:
    """A pickle in which read-only arrays stay so."""
    return pickle.dumps(value, protocol=5)


_function: Callable[..., Any]


def _begin(function: Callable[..., Any]) -> None:
    """Begin a worker, which leaves what it shares with its parent as it is."""
    global _function
    _function = function
    gc.freeze()  # what is shared with the parent is not touched, which would copy it
    obey_parent()


def obey_parent() -> None:
    """Leave interruptions to the parent process, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)


def _done(items: bytes) -> bytes:
    """The results of some items, up to the first error; the error; and the seconds that they took."""
    results: list[Any] = []
    begun = time.monotonic()
    try:
        results.extend(_function(*item) for item in pickle.loads(items))
        return _packed((results, None, time.monotonic() - begun))
    except Exception as error:
        return _packed((results, portable(error), 0.0))
