"""Stages on a Dask cluster: on the machines that a scheduler knows, or on workers of this one.

Items go out in chunks that take about half a second each, so that what a task costs (a millisecond) does not matter;
few more chunks are out than there are workers. The function travels once, as a task of its own: where a worker is lost
with it, Dask makes it again elsewhere, as it does the chunks that the worker had.

Workers do what this process would: in the same folder, by the same versions, or not at all.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gonio.run.parallel import portable
from gonio.run.provenance import versions

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Dask", "dask"]

T = TypeVar("T")

CHUNK_SECONDS = 0.5
MAX_CHUNK = 256
# Chunks that are out for each thread of the workers.
AHEAD = 3
CONNECT_SECONDS = 20.0
# How often a task may lose its worker before the run is given up: more than workers are likely to be lost in a night.
ALLOWED_FAILURES = 10
GONE = "the Dask scheduler is gone: start it again"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Workers of this machine; an interruption is for the process that has begun them.
LOCAL: dict[str, Any] = {
    "threads_per_worker": 1,
    "dashboard_address": ":0",
    "env": ONE_THREAD,
    "preload": ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"],
    "silence_logs": 50,
}


class Dask:
    """An executor (``gonio.run.executor.Executor``) on a client's cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Executor``.

        Raises
        ------
        OSError
            The scheduler is gone, or items were lost with so many workers that they are to blame.
        ValueError
            A worker has other versions of what results depend on, or does not see the folder of this process.
        """
        if count:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sending large graph")
                # By a function of Python's own: whoever lacks gonio says so, where it would end on one of gonio's.
                carried = self._client.submit(pickle.loads, pickle.dumps((function, _Home())), pure=False)
            yield from self._in_chunks(carried, count)

    def _in_chunks(self, carried: Future, count: int) -> Iterator[Any]:
        out: deque[tuple[Future, int, int]] = deque()
        size, first = 1, 0
        while first < count or out:
            most = AHEAD * self._threads()
            while first < count and len(out) < most:
                last = min(first + size, count)
                out.append((self._client.submit(_chunk, carried, first, last, pure=False), first, last))
                first = last
            future, *items = out.popleft()
            results, error, seconds = _answer(future, *items)
            yield from results
            if error is not None:
                raise error
            size = int(min(max(CHUNK_SECONDS * len(results) / max(seconds, 1e-6), 1), 2 * size, MAX_CHUNK))

    def _threads(self) -> int:
        """How many items are done at a time, or will be: workers come and go."""
        try:
            threads = sum(self._client.nthreads().values())
        except OSError as error:
            raise ConnectionError(GONE) from error
        if not threads:
            logging.getLogger(__name__).warning("the Dask scheduler has no workers: waiting for them")
        return max(threads, 1)


@contextmanager
def dask(address: str | None, workers: int) -> Iterator[Dask]:
    """The cluster of a scheduler at an address (``tcp://host:8786``, or a file that it wrote), or None for one here.

    Raises
    ------
    ValueError
        Dask is not installed, or the scheduler cannot be reached.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ValueError("Dask is not installed: pip install 'gonio[cluster]'") from error
    import dask.config

    quiet = {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.comm.timeouts.connect": "20s"}
    with dask.config.set(quiet):
        if address is None:
            with LocalCluster(n_workers=workers, **LOCAL) as cluster, Client(cluster) as client:
                yield Dask(client)
            return
        try:
            where: dict[str, Any] = {"address": address}
            if ":" not in address:  # a file; Dask would wait for one that is not there
                where = {"scheduler_file": str(Path(address).resolve(strict=True))}
            client = Client(**where, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {address}: check --scheduler, and that it runs") from error
        with client:
            yield Dask(client)


@dataclass(frozen=True)
class _Home:
    """What workers must share with the process that has the work."""

    folder: str = field(default_factory=lambda: str(Path.cwd()))
    versions: tuple[tuple[str, str], ...] = field(default_factory=lambda: tuple(versions().items()))


@cache
def _settle(home: _Home) -> None:
    """Make a worker's process such as ``home``, where relative paths mean the same and results are the same."""
    for name, version in home.versions:
        if (here := versions()[name]) != version:
            raise ValueError(
                f"the Dask worker on {socket.gethostname()} has {name} {here}, this process {version}: results would"
                " differ; give workers the same environment"
            )
    try:
        os.chdir(home.folder)
    except OSError as error:
        raise ValueError(
            f"the Dask worker on {socket.gethostname()} does not see {home.folder}: use a file system that all share"
        ) from error


def _chunk(
    carried: tuple[Callable[[int], Any], _Home], first: int, last: int
) -> tuple[list[Any], Exception | None, float]:
    """What items first, ..., last - 1 come to, as far as none fails, the failure, and how long it took."""
    function, home = carried
    _settle(home)
    start, results = time.perf_counter(), []
    for item in range(first, last):
        try:
            results.append(function(item))
        except Exception as error:
            return results, portable(error), time.perf_counter() - start
    return results, None, time.perf_counter() - start


def _answer(future: Future, first: int, last: int) -> tuple[list[Any], Exception | None, float]:
    """What ``_chunk`` found; whatever is raised here is not of an item."""
    from distributed import KilledWorker

    try:
        return future.result()
    except KilledWorker as error:
        raise ChildProcessError(
            f"Dask has given up items {first} to {last - 1}, with which worker after worker ended: see their logs;"
            " where memory is short, give each more or run fewer"
        ) from error
    except (CancelledError, OSError) as error:
        raise ConnectionError(GONE) from error
    except ValueError:  # of ``_settle``
        raise
    except Exception as error:
        raise ValueError(
            f"Dask's scheduler or its workers lack what this process has ({type(error).__name__}: {error}): give them"
            " the same environment"
        ) from error
