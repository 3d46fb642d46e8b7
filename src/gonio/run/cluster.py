"""Stages on a Dask cluster: on the machines that a scheduler knows, or on workers of this one.

Items go out in chunks that take about half a second each, so that what a task costs (a millisecond) does not matter;
few more chunks are out than there are workers. The function travels once, as a task of its own: where a worker is lost
with it, Dask makes it again elsewhere, as it does the chunks that the worker had.
"""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from distributed import Client, Future

__all__ = ["Dask", "dask"]

T = TypeVar("T")

CHUNK_SECONDS = 0.5
MAX_CHUNK = 256
# Chunks that are out for each worker.
AHEAD = 3
CONNECT_SECONDS = 20.0
# How often a task may lose its worker before the run is given up: more than workers are likely to be lost in a night.
ALLOWED_FAILURES = 10
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Dask:
    """An engine (``gonio.run.engine.Mapper``) on a client's cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Mapper``."""
        carried = self._client.submit(pickle.loads, pickle.dumps(function), pure=False)
        out: deque[tuple[Future, int]] = deque()
        size, first = 1, 0
        while first < count or out:
            while first < count and len(out) < AHEAD * max(len(self._client.nthreads()), 1):
                last = min(first + size, count)
                out.append((self._client.submit(_chunk, carried, first, last, pure=False), last - first))
                first = last
            future, items = out.popleft()
            results, error, seconds = future.result()
            yield from results
            if error is not None:
                raise error
            size = int(min(max(CHUNK_SECONDS * items / max(seconds, 1e-6), 1), 2 * size, MAX_CHUNK))


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
            with (
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, dashboard_address=None, env=ONE_THREAD, silence_logs=50
                ) as cluster,
                Client(cluster) as client,
            ):
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


def _chunk(function: Callable[[int], Any], first: int, last: int) -> tuple[list[Any], Exception | None, float]:
    """What items first, ..., last - 1 come to, as far as none fails, the failure, and how long it took."""
    start, results = time.perf_counter(), []
    for item in range(first, last):
        try:
            results.append(function(item))
        except Exception as error:
            return results, error, time.perf_counter() - start
    return results, None, time.perf_counter() - start
