"""Executors: they do a task of long work, item by item.

A *task* is one function and a number of items (``stage`` is its name); an item is known by its number, so that a worker
needs the function alone, and results can be found again. Results do not depend on the executor.

    Local, Dask (cluster), GPUs (search.gpu.multi_gpu)  ->  Checkpointed: keeps results, reports progress  ->  in order
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from gonio.run.checkpoint import Checkpoint
from gonio.run.packing import result_type
from gonio.run.parallel import in_order

T = TypeVar("T")

# Given a task's name and what it counts, its items and those done already: a context whose function is called with
# the items done.
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


class Executor(Protocol):
    """Does the items of a task."""

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """Yield ``function(0)``, ``function(1)``, ... ``function(count - 1)``, in this order.

        Parameters
        ----------
        stage
            Name of the task, once in a run: progress is reported and results are kept under it.
        function
            Picklable, as are its results; they depend on the number alone, so that any worker may call it at any time.
            If it has a method ``sources(item)``, this returns the files on which the item's result depends. Where
            results are kept it states their type (``gonio.run.packing.result_type``). A class variable ``unit`` says
            what is counted where items are not particles.
        keep
            Whether results are kept in case the run is interrupted; not worth it where making them is quicker.
        """
        ...


@dataclass(frozen=True)
class Local:
    """Executor on this machine, with ``workers`` at a time (``gonio.run.parallel``); nothing is kept."""

    workers: int = 1

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *error: object) -> None:
        """Leave nothing: workers end with their task."""

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """Call the function with every item on this machine, as ``Executor``."""
        return in_order(function, ((index,) for index in range(count)), self.workers)


def silent(stage: str, count: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
    """Report no progress."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True)
class Checkpointed:
    """An executor whose results are recorded in a checkpoint, and taken from there where they are already in it.

    Progress counts the items that the checkpoint has on the disk.
    """

    executor: Executor
    checkpoint: Checkpoint | None = None
    progress: Progress = silent
    _begun: set[str] = field(default_factory=set, init=False, repr=False)

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """Return the recorded results, and those of the other executor for items that have none, as ``Executor``.

        Raises
        ------
        RuntimeError
            This run has had a task of the same name, whose results would be mistaken for those of this one.
        Changed
            A file that a recorded result depends on is not what it was.
        """
        checkpoint = self.checkpoint if keep else None
        if checkpoint is not None and stage in self._begun:
            raise RuntimeError(f"there are two tasks {stage!r} in one run: give each a name of its own")
        self._begun.add(stage)
        kind = None if checkpoint is None else result_type(function)
        sources: Callable[[int], Iterable[Path]] = getattr(function, "sources", lambda item: ())
        known = [checkpoint is not None and (stage, item) in checkpoint for item in range(count)]
        if checkpoint is not None:
            for item in (item for item in range(count) if known[item]):
                checkpoint.check(stage, item, sources(item))
        missing = [item for item in range(count) if not known[item]]
        made = iter(self.executor(stage, Chosen(function, missing), len(missing), keep=keep) if missing else ())
        done = count - len(missing)
        with self.progress(f"{stage}, {getattr(function, 'unit', 'particles')}", count, done) as report:
            for item in range(count):
                if checkpoint is not None and known[item]:
                    yield checkpoint.value(stage, item, kind)
                    continue
                result = next(made)
                if checkpoint is not None:
                    checkpoint.add(stage, item, result, kind, files=sources(item))
                done += 1
                if checkpoint is None or checkpoint.is_synced:
                    report(done)
                yield result
            if checkpoint is not None and not checkpoint.is_synced:
                checkpoint.sync()
                report(done)


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A function of chosen items, called with a place among these."""

    function: Callable[[int], T]
    items: list[int]

    def __call__(self, index: int) -> T:
        """Call the function with the item at a place."""
        return self.function(self.items[index])
