"""Engines whose items are done by GPUs: one in this process, or several with a process each.

Of a ``BatchTask`` a GPU takes as many items at a time as fill it, and results come in the order of the items, each when
it and those before it are done. Other functions run on the CPU here. Must not know any search.

    on one GPU       items -> groups -> groups.in_groups
    on several       items -> tiles, each given to a worker that is free -> the same there -> in order
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from multiprocessing.managers import BaseManager
from queue import SimpleQueue
from typing import Any, TypeVar

from gonio.particle.arguments import ArgumentError
from gonio.run.executor import Chosen
from gonio.run.parallel import in_order, obey_parent, portable
from gonio.search.batch_task import BatchTask
from gonio.search.gpu.device import DRAWS, Device, device_for, opened
from gonio.search.gpu.groups import TOGETHER, Outcome, in_groups

__all__ = ["ManyGpus", "OneGpu", "gpus_for"]

T = TypeVar("T")

# Searches of a tile, at most: what is lost of a worker's work when a run is cut off is a few of them.
TILE = 256
# Tiles that a worker does at a time: while one is searched others are prepared and made into results.
UNDER_WAY = 4
# Seconds that an end may take.
END = 5.0


def gpus_for(device: str | Device, *, draws: bool = False, n_threads: int = 1) -> OneGpu | ManyGpus | None:
    """The executor of a device: what ``executor`` may be wherever there is one. None for the CPU.

    Parameters
    ----------
    device
        ``"cpu"``; ``"cuda"``, ``"cuda:1"``, ``"auto"`` or a ``Device`` as for an ``Aligner``; or several GPUs,
        ``"cuda:0,cuda:1"``, each of which has a worker process: in a script, below ``if __name__ == "__main__":``.
        A GPU named twice has two, which prepare twice as much.
    draws
        Whether candidates are drawn one by one (``Settings.draws``), for which there is only the CPU.
    n_threads
        How many particles are read and prepared at a time, by all processes together.

    Returns
    -------
    A context manager that is its own value. Results do not depend on how many GPUs there are.

    Raises
    ------
    ValueError
        A name that is none; a GPU that is not there or searches that draw. Of several GPUs when they are entered.
    """
    names = tuple(device.split(",")) if isinstance(device, str) else ()
    if len(names) > 1:
        if draws:
            raise ArgumentError(DRAWS, "device", "device")
        return ManyGpus(names, n_threads)
    found = device_for(device, draws=draws)
    return None if found is None else OneGpu(found, n_threads)


def _whole(function: Callable[[int], T]) -> Callable[[int], T]:
    """Return the function of all items where it is one of some."""
    return function.function if isinstance(function, Chosen) else function


@dataclass(frozen=True)
class OneGpu:
    """A GPU of this process. Nothing is forked from it: what is no search is done in threads."""

    device: Device
    n_threads: int = 1

    def __enter__(self) -> OneGpu:
        return self

    def __exit__(self, *error: object) -> None:
        """The GPU stays open: another stage may come."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.device.name

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Executor``."""
        return self.done(function, range(count))

    def done(self, function: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
        """The function of items, in their order."""
        task, each = _whole(function), ((item,) for item in items)
        if not isinstance(task, BatchTask):
            return in_order(function, each, self.n_threads, processes=False)
        if isinstance(function, Chosen):
            each = ((function.items[place],) for (place,) in each)
        size = max(1, TOGETHER // task.searches)
        return in_groups(task.prepare, task.finish, each, self.device, n_threads=self.n_threads, size=size)


@dataclass
class ManyGpus:
    """A worker process for each of some GPUs, which ``open`` opens there. This process uses none of them."""

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
        """What they are called."""
        return ", ".join(worker.name for worker in self._workers) or ", ".join(self.names)

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Executor``."""
        task = _whole(function)
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
            self._end()  # another task begins anew
            raise


class _Served:
    """A GPU in a process of its own, of which each thread of another process does a tile of a function's items."""

    def __init__(self, name: str, open_gpu: Callable[[str], Device | None], n_threads: int) -> None:
        self._name, self._open, self._n_threads = name, open_gpu, n_threads

    def open(self) -> str:
        """Open the GPU and return what it is called."""
        try:
            device = self._open(self._name)
        except Exception as error:
            raise portable(error) from None
        if device is None:
            raise ValueError(f'of several devices each must be a GPU, "cuda:0", got {self._name!r}')
        self._gpu = OneGpu(device, self._n_threads)
        return self._gpu.name

    def begin(self, function: Callable[[int], Any]) -> None:
        """Do the items of this function from now on."""
        self._function = function

    def done(self, tile: range) -> Outcome[Any]:
        """Return the results of a tile up to the first error, and that."""
        results: list[Any] = []
        try:
            results.extend(self._gpu.done(self._function, tile))
        except Exception as error:
            return results, portable(error)
        return results, None


class _Manager(BaseManager):
    """Begins the process."""


_Manager.register("served", _Served)


class _Worker:
    """A process that has opened a GPU, seen from outside."""

    def __init__(self, name: str, open_gpu: Callable[[str], Device | None], n_threads: int) -> None:
        # Not forked: a GPU cannot be used by a copy of a process that has looked for one.
        self._manager = _Manager(ctx=multiprocessing.get_context("spawn"))
        self.name = name
        try:
            self._call(self._manager.start, obey_parent)
            self._served = self._manager.served(name, open_gpu, n_threads)  # type: ignore[attr-defined]
            self.name = self._call(self._served.open)
        except BaseException as error:
            self.end()
            if isinstance(error, ChildProcessError):
                error.add_note('a script that begins workers does so below if __name__ == "__main__":')
            raise

    def begin(self, function: Callable[[int], Any]) -> None:
        """Do the items of this function from now on."""
        self._call(self._served.begin, function)

    def done(self, tile: range) -> Outcome[Any]:
        """Return the results of a tile up to the first error, and that."""
        outcome: Outcome[Any] = self._call(self._served.done, tile)
        return outcome

    def end(self) -> None:
        """End the process."""
        if hasattr(self._manager, "shutdown"):  # it has begun
            self._manager.shutdown()

    def _call(self, method: Callable[..., Any], *arguments: object) -> Any:
        try:
            return method(*arguments)
        except (EOFError, ConnectionError) as error:
            process = self._manager._process  # type: ignore[attr-defined]
            process.join(END)
            raise ChildProcessError(f"the worker of {self.name} was ended (exit status {process.exitcode})") from error
