"""One function of many items, several at a time, with results in order.

Short calls spend half of their time in the interpreter, whose lock admits one thread at a time. Where the process can
be forked safely (Linux, and no other Python thread that a fork could cut off), each worker is a copy of it with all
that was prepared; items and results are pickled. Elsewhere workers are threads. Results are the same, to the bit.
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

T = TypeVar("T")

# Sent to each worker before the first is done: AHEAD items to a thread, CHUNKS chunks to a process. A chunk grows, up
# to MOST_TOGETHER items, while one takes less than WORTH_SENDING seconds, or sending it would cost too much of that.
AHEAD = 4
CHUNKS, MOST_TOGETHER, WORTH_SENDING = 2, 8, 0.02
# Seconds that a worker may take to end.
END = 5.0


def in_order(
    function: Callable[..., T], items: Iterator[tuple], workers: int, *, processes: bool = True, ahead: int = AHEAD
) -> Generator[T]:
    """Yield ``function(*item)`` for each of ``items``, in order, of which only a few more than workers are read ahead.

    Parameters
    ----------
    function
        Function to call; what a forked worker changes in it is lost.
    items
        Its arguments, read one by one in this process and thread.
    workers
        Number of workers; with 1, or for a single item, all is done in this thread.
    processes
        Whether workers may be processes; items and results must then be picklable.
    ahead
        Number of items sent to each thread before the first of them is done.

    Raises
    ------
    Exception
        The first error of an item, in their order; ChildProcessError when a worker was killed.
    """
    first = [] if workers == 1 else list(islice(items, 2))
    items = chain(first, items)
    if workers == 1 or len(first) < 2:
        return (function(*item) for item in items)
    forks = processes and sys.platform == "linux" and _is_alone()
    return _in_processes(function, items, workers) if forks else _in_threads(function, items, workers, ahead)


def portable(error: Exception) -> Exception:
    """Return an error itself if it can be pickled, else a RuntimeError with its type and message."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _is_alone() -> bool:
    """Return whether there is no other Python thread that a fork could cut off."""
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
            for future in waiting:  # an interruption or an error: cancel what has not begun
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
        if waiting:  # an error, an interruption, or an abandoned generator: no result is needed any more
            for child in children:
                child.terminate()
        pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, some: list[tuple]) -> Future[bytes]:
    with warnings.catch_warnings():
        # The warning is about threads of libraries, which have handlers for forks.
        warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
        return pool.submit(_done, _packed(some))


def _exit_of(children: set[BaseProcess]) -> str:
    """Describe how a worker was ended from outside, from the exit codes of all."""
    for child in children:
        child.join(END)
    # The pool ends the others with SIGTERM as soon as it sees the first.
    status = sorted((child.exitcode or 0 for child in children), key=lambda code: (code == -signal.SIGTERM, code == 0))
    return f"a worker process was ended from outside (exit status {status[0] if status else None})"


def _packed(value: object) -> bytes:
    """Pickle a value; read-only arrays stay read-only."""
    return pickle.dumps(value, protocol=5)


_function: Callable[..., Any]


def _begin(function: Callable[..., Any]) -> None:
    """Initialise a worker without touching the memory that it shares with its parent."""
    global _function
    _function = function
    gc.freeze()  # garbage collection would write to shared pages, which copies them
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
    """Return the pickled results of some items up to the first error, the error, and the seconds taken."""
    results: list[Any] = []
    begun = time.monotonic()
    try:
        results.extend(_function(*item) for item in pickle.loads(items))
        return _packed((results, None, time.monotonic() - begun))
    except Exception as error:
        return _packed((results, portable(error), 0.0))
