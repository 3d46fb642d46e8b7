"""Executors whose items are done by GPUs: one in this process, or several with a process each.

A GPU takes as many items of a ``BatchTask`` at a time as fill it. Results come in the order of the items, each when it
and those before it are done. Other functions run on the CPU in this process. Must not know any search.

    one GPU          items -> groups -> groups.in_groups
    several GPUs     items -> tiles -> a free worker, which does a tile as one GPU does -> results in order
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.managers import BaseManager
from queue import SimpleQueue
from typing import Any, TypeVar

from gonio.particle.arguments import ArgumentError
from gonio.run.executor import Chosen, Local
from gonio.run.parallel import in_order, obey_parent, portable
from gonio.search.batch_task import BatchTask
from gonio.search.gpu.device import DRAWS, Device, device_for, opened
from gonio.search.gpu.groups import TOGETHER, Outcome, in_groups

T = TypeVar("T")

# Most searches of a tile. When a run is interrupted, each worker loses a few tiles.
TILE = 256
# Tiles that a worker does at a time: while one is searched, others are prepared and finished.
UNDER_WAY = 4
# Seconds to wait for a process to end.
END = 5.0


def executor_for(device: str | Device, *, draws: bool = False, n_threads: int = 1) -> Local | OneGpu | ManyGpus:
    """Return the executor of a device, for any argument ``executor``.

    Parameters
    ----------
    device
        ``"cpu"``; ``"cuda"``, ``"cuda:1"``, ``"auto"`` or a ``Device`` as for an ``Aligner``; or several GPUs,
        ``"cuda:0,cuda:1"``, each with a worker process: in a script, below ``if __name__ == "__main__":``. A GPU
        that is named twice has two workers, which prepare twice as much.
    draws
        Whether candidates are drawn one by one (``Settings.draws``), which only the CPU does.
    n_threads
        Number of particles that the CPU aligns at a time, or that are read and prepared for all GPUs together.

    Returns
    -------
    A context manager that returns itself. Results do not depend on the number of GPUs.

    Raises
    ------
    ValueError
        For a name that is not a device, a GPU that is not available, and searches that draw their candidates. For
        several GPUs the first two are raised when the executor is entered.
    """
    names = tuple(device.split(",")) if isinstance(device, str) else ()
    if len(names) > 1:
        if draws:
            raise ArgumentError(DRAWS, "device", "device")
        return ManyGpus(names, n_threads)
    found = device_for(device, draws=draws)
    return Local(n_threads) if found is None else OneGpu(found, n_threads)


def _of_all(function: Callable[[int], T]) -> Callable[[int], T]:
    """Return the function of all items, also where ``function`` is of chosen items."""
    return function.function if isinstance(function, Chosen) else function


@dataclass(frozen=True)
class OneGpu:
    """A GPU of this process, which is never forked: other functions than searches run in threads."""

    device: Device
    n_threads: int = 1

    def __enter__(self) -> OneGpu:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the GPU open, as another task may follow."""

    @property
    def name(self) -> str:
        """Name of the GPU."""
        return self.device.name

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """Yield the results of a function of items, in their order."""
        return self.done(function, range(count))

    def done(self, function: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
        """Yield the results of a function of some items, in their order."""
        task, each = _of_all(function), ((item,) for item in items)
        if not isinstance(task, BatchTask):
            return in_order(function, each, self.n_threads, processes=False)
        if isinstance(function, Chosen):
            each = ((function.items[place],) for (place,) in each)
        size = max(1, TOGETHER // task.searches)
        return in_groups(task.prepare, task.finish, each, self.device, n_threads=self.n_threads, size=size)


@dataclass
class ManyGpus:
    """Several GPUs, each opened by ``open`` in a worker process. This process uses none of them."""

    names: tuple[str, ...]
    n_threads: int = 1
    open: Callable[[str], Device | None] = opened
    _workers: list[_Worker] = field(default_factory=list, init=False, repr=False)

    def __enter__(self) -> ManyGpus:
        self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    @property
    def name(self) -> str:
        """Names of the GPUs."""
        return ", ".join(worker.name for worker in self._workers) or ", ".join(self.names)

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """Yield the results of a function of items, in their order."""
        task = _of_all(function)
        if not isinstance(task, BatchTask):
            return in_order(function, ((item,) for item in range(count)), self.n_threads)
        return self._in_tiles(function, count, task.searches)

    def _begin(self) -> None:
        threads = max(1, self.n_threads // (UNDER_WAY * len(self.names)))
        with ThreadPoolExecutor(len(self.names)) as pool:
            begun = [pool.submit(_Worker, name, self.open, threads) for name in self.names]
        failures = [error for one in begun if (error := one.exception()) is not None]
        self._workers = [one.result() for one in begun if one.exception() is None]
        if failures:
            self._end()
            raise failures[0]

    def _end(self) -> None:
        while self._workers:
            self._workers.pop().end()

    def _in_tiles(self, function: Callable[[int], T], count: int, searches: int) -> Iterator[T]:
        if not self._workers:
            self._begin()
        size = max(1, min(TILE // searches, -(-count // len(self._workers))))
        tiles = ((range(first, min(first + size, count)),) for first in range(0, count, size))
        free: SimpleQueue[_Worker] = SimpleQueue()
        for worker in UNDER_WAY * self._workers:
            free.put(worker)

        def done(tile: range) -> Outcome[T]:
            worker = free.get()
            try:
                return worker.done(tile)
            finally:
                free.put(worker)

        try:
            for worker in self._workers:
                worker.begin(function)
            with closing(in_order(done, tiles, UNDER_WAY * len(self._workers), processes=False)) as outcomes:
                for results, error in outcomes:
                    yield from results
                    if error is not None:
                        raise error
        except ChildProcessError:
            self._end()  # the next task starts new workers
            raise


class _Served:
    """A GPU in a process of its own, which does tiles of a function's items for threads of another process."""

    def __init__(self, name: str, open_gpu: Callable[[str], Device | None], n_threads: int) -> None:
        self._name, self._open, self._n_threads = name, open_gpu, n_threads

    def open(self) -> str:
        """Open the GPU and return its name."""
        try:
            device = self._open(self._name)
        except Exception as error:
            raise portable(error) from None
        if device is None:
            raise ValueError(f'of several devices each must be a GPU, "cuda:0", got {self._name!r}')
        self._gpu = OneGpu(device, self._n_threads)
        return self._gpu.name

    def begin(self, function: Callable[[int], Any]) -> None:
        """Set the function whose items are done from now on."""
        self._function = function

    def done(self, tile: range) -> Outcome[Any]:
        """Return the results of a tile up to the first error, and this error."""
        results: list[Any] = []
        try:
            results.extend(self._gpu.done(self._function, tile))
        except Exception as error:
            return results, portable(error)
        return results, None


class _Manager(BaseManager):
    """Starts the process of a worker."""


_Manager.register("served", _Served)


class _Worker:
    """Handle to a process that has opened a GPU."""

    def __init__(self, name: str, open_gpu: Callable[[str], Device | None], n_threads: int) -> None:
        # Spawned: a process forked from one that has searched for GPUs cannot use them.
        # It listens to a socket in a private folder, and to who has the key of this run.
        self._manager = _Manager(authkey=os.urandom(32), ctx=multiprocessing.get_context("spawn"))
        self.name = name
        try:
            self._call(self._manager.start, obey_parent)
            self._served = self._manager.served(name, open_gpu, n_threads)  # type: ignore[attr-defined]
            self.name = self._call(self._served.open)
        except BaseException as error:
            self.end()
            if isinstance(error, ChildProcessError):
                error.add_note('a script must start workers below if __name__ == "__main__":')
            raise

    def begin(self, function: Callable[[int], Any]) -> None:
        """Set the function whose items are done from now on."""
        self._call(self._served.begin, function)

    def done(self, tile: range) -> Outcome[Any]:
        """Return the results of a tile up to the first error, and this error."""
        outcome: Outcome[Any] = self._call(self._served.done, tile)
        return outcome

    def end(self) -> None:
        """End the process."""
        if hasattr(self._manager, "shutdown"):  # it has started
            self._manager.shutdown()

    def _call(self, method: Callable[..., Any], *arguments: object) -> Any:
        try:
            return method(*arguments)
        except (EOFError, ConnectionError) as error:
            process = self._manager._process  # type: ignore[attr-defined]
            process.join(END)
            raise ChildProcessError(f"the worker of {self.name} was ended (exit status {process.exitcode})") from error
