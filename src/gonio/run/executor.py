"""Engines: who does a stage of long work, item after item.

A *stage* is one function and a number of items; an item is known by its number, so that whoever does it needs no more
than the function, and what was done can be found again. Results do not depend on the executor.

    Local, Dask (cluster), GPUs (search.gpu.multi_gpu)  ->  Journaled: keeps results, tells progress  ->  in order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from gonio.run.checkpoint import Checkpoint
from gonio.run.parallel import in_order

__all__ = ["Chosen", "Checkpointed", "Local", "Executor", "Progress", "silent"]

T = TypeVar("T")

# Of a stage with a number of items, of which some are done already: gives what is to be called with those done so far.
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


class Executor(Protocol):
    """Does a stage."""

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """``function(0)``, ``function(1)``, ... ``function(count - 1)``, in this order.

        Parameters
        ----------
        stage
            Its name, once in a run: what progress is told under, and what is kept is found under.
        function
            Picklable, as are its results; of the number alone, so that it does not matter who calls it and when. Where
            it has a method ``source(item)``, that is the file which the item's result depends on, or None.
        count
            How many items.
        keep
            Whether results are worth keeping, should the run be cut off: not those that are quicker made than read.
        """
        ...


@dataclass(frozen=True)
class Local:
    """This machine, with so many workers at a time (``gonio.run.parallel``); nothing is kept."""

    workers: int = 1

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Executor``."""
        return in_order(function, ((index,) for index in range(count)), self.workers)


def silent(stage: str, count: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
    """Tell no progress."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True)
class Checkpointed:
    """Another executor, whose results are put down in a checkpoint, and taken from there when they are found in it.

    Progress counts what the checkpoint has on the disk.
    """

    executor: Executor
    checkpoint: Checkpoint | None = None
    progress: Progress = silent
    _begun: set[str] = field(default_factory=set, init=False, repr=False)

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Executor``.

        Raises
        ------
        RuntimeError
            This run has had a stage of the same name, whose results would be taken for those of this one.
        """
        checkpoint = self.checkpoint if keep else None
        if checkpoint is not None and stage in self._begun:
            raise RuntimeError(f"there are two stages {stage!r} in one run: give each a name of its own")
        self._begun.add(stage)
        known = [checkpoint is not None and (stage, item) in checkpoint for item in range(count)]
        missing = [item for item in range(count) if not known[item]]
        made = iter(self.executor(stage, Chosen(function, missing), len(missing), keep=keep) if missing else ())
        source: Callable[[int], Path | None] = getattr(function, "source", lambda item: None)
        done = count - len(missing)
        with self.progress(stage, count, done) as report:
            for item in range(count):
                if checkpoint is not None and known[item]:
                    yield checkpoint.value(stage, item)
                    continue
                result = next(made)
                if checkpoint is not None:
                    checkpoint.add(stage, item, result, source=source(item))
                done += 1
                if checkpoint is None or checkpoint.is_synced:
                    report(done)
                yield result
            if checkpoint is not None and not checkpoint.is_synced:
                checkpoint.sync()
                report(done)


@dataclass(frozen=True)
class Chosen(Generic[T]):
    """A function of the items of some numbers alone, known by their places among these."""

    function: Callable[[int], T]
    items: list[int]

    def __call__(self, index: int) -> T:
        """Call the function with the item in a place."""
        return self.function(self.items[index])
