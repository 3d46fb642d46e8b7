"""An executor on a Dask cluster: on the machines of a scheduler, or on workers of this machine.

Items are sent in chunks that take about half a second each, so that the cost of a Dask task (a millisecond) does not
matter; only a few more chunks are out than there are workers. The function is sent once, as a Dask task of its own:
where its worker is lost, Dask makes it again on another, as it does the chunks that the worker had.

Workers must have the folder and the versions of this process, or they refuse to work.

Whoever reaches a scheduler or a worker can run code as its user. Those of this machine talk through its loopback alone,
by TLS with a certificate that is made for the run and never written, and serve no pages.
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

T = TypeVar("T")

CHUNK_SECONDS = 0.5
MAX_CHUNK = 256
# Chunks that are sent ahead for each thread of the workers.
AHEAD = 3
CONNECT_SECONDS = 20.0
# How often a Dask task may lose its worker before the run is given up: more than are likely to be lost in a night.
ALLOWED_FAILURES = 10
GONE = "the Dask scheduler is gone: start it again"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
# Workers of this machine; an interruption is for the process that has started them.
LOCAL: dict[str, Any] = {
    "threads_per_worker": 1,
    "host": "127.0.0.1",
    "protocol": "tls://",
    "dashboard_address": None,
    "scheduler_kwargs": {"dashboard_address": "127.0.0.1:0"},
    "env": ONE_THREAD,
    "preload": ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)"],
    "silence_logs": 50,
}


class Dask:
    """An executor (``gonio.run.executor.Executor``) on a client's cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """Call the function with every item on the cluster, as ``Executor``.

        Raises
        ------
        OSError
            The scheduler is gone, or the same items were lost with worker after worker.
        ValueError
            A worker has other versions of what results depend on, or does not see the folder of this process.
        """
        if count:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Sending large graph")
                # pickle.loads is Python's own: a worker without gonio raises an error; gonio's own would end it.
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
        """Return the number of items done at a time, at least one: workers come and go."""
        try:
            threads = sum(self._client.nthreads().values())
        except OSError as error:
            raise ConnectionError(GONE) from error
        if not threads:
            logging.getLogger(__name__).warning("the Dask scheduler has no workers: waiting for them")
        return max(threads, 1)


@contextmanager
def dask(address: str | None, workers: int) -> Iterator[Dask]:
    """Connect to the scheduler at an address (``tls://host:8786``, or a file that it wrote); None for workers here.

    Warns of one without TLS.

    Raises
    ------
    ValueError
        Dask is not installed, or the scheduler cannot be reached.
    """
    try:
        from distributed import Client, LocalCluster
        from distributed.security import Security

        secret = Security.temporary() if address is None else None
    except ImportError as error:
        raise ValueError("Dask is not installed: pip install 'gonio[cluster]'") from error
    import dask.config

    quiet = {"distributed.scheduler.allowed-failures": ALLOWED_FAILURES, "distributed.comm.timeouts.connect": "20s"}
    if address is None:
        with (
            dask.config.set({**quiet, "distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []}),
            LocalCluster(n_workers=workers, security=secret, **LOCAL) as cluster,
            Client(cluster) as client,
        ):
            yield Dask(client)
        return
    with dask.config.set(quiet):
        try:
            where: dict[str, Any] = {"address": address}
            if ":" not in address:  # a file; Dask would wait for one that is not there
                where = {"scheduler_file": str(Path(address).resolve(strict=True))}
            client = Client(**where, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise ValueError(f"no Dask scheduler answers at {address}: check --scheduler, and that it runs") from error
        with client:
            _warn_of_plain(str(client.scheduler_info()["address"]))
            yield Dask(client)


def _warn_of_plain(address: str) -> None:
    if not address.startswith("tls://"):
        warnings.warn(
            f"{address} is not encrypted: whoever reaches it can run code as you; docs/cluster.md shows TLS",
            stacklevel=4,
        )


@dataclass(frozen=True)
class _Home:
    """Folder and versions that workers must share with the process that sends the work."""

    folder: str = field(default_factory=lambda: str(Path.cwd()))
    versions: tuple[tuple[str, str], ...] = field(default_factory=lambda: tuple(versions().items()))


@cache
def _settle(home: _Home) -> None:
    """Check a worker's versions and change to the folder of ``home``: relative paths and results are then the same."""
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
    """Return the results of items first, ..., last - 1 up to the first error, the error, and the seconds taken."""
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
    """Return what ``_chunk`` returned; an error raised here is the cluster's, not an item's."""
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
    except ValueError:  # raised by ``_settle``
        raise
    except Exception as error:
        raise ValueError(
            f"Dask's scheduler or its workers lack what this process has ({type(error).__name__}: {error}): give them"
            " the same environment"
        ) from error
