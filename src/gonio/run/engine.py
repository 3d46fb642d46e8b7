"""Engines: who does a stage of long work, item after item.

A *stage* is one function and a number of items; an item is known by its number, so that whoever does it needs no more
than the function, and what was done can be found again. Results do not depend on the engine.

    Local, Dask (cluster), GPUs (search.gpu.multi_gpu)  ->  Journaled: keeps results, tells progress  ->  in order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from gonio.run.journal import Journal
from gonio.run.parallel import in_order

__all__ = ["Journaled", "Local", "Mapper", "Progress", "silent"]

T = TypeVar("T")

# Of a stage with a number of items, of which some are done already: gives what is to be called with those done so far.
Progress = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]


class Mapper(Protocol):
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
        """As ``Mapper``."""
        return in_order(function, ((index,) for index in range(count)), self.workers)


def silent(stage: str, count: int, done: int) -> AbstractContextManager[Callable[[int], None]]:
    """Tell no progress."""
    return nullcontext(lambda done: None)


@dataclass(frozen=True)
class Journaled:
    """Another engine, whose results are put down in a journal, and taken from there when they are found in it.

    Progress counts what the journal has on the disk.
    """

    engine: Mapper
    journal: Journal | None = None
    progress: Progress = silent
    _begun: set[str] = field(default_factory=set, init=False, repr=False)

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Mapper``.

        Raises
        ------
        RuntimeError
            This run has had a stage of the same name, whose results would be taken for those of this one.
        """
        journal = self.journal if keep else None
        if journal is not None and stage in self._begun:
            raise RuntimeError(f"there are two stages {stage!r} in one run: give each a name of its own")
        self._begun.add(stage)
        known = [journal is not None and (stage, item) in journal for item in range(count)]
        missing = [item for item in range(count) if not known[item]]
        made = iter(self.engine(stage, _Chosen(function, missing), len(missing), keep=keep) if missing else ())
        source: Callable[[int], Path | None] = getattr(function, "source", lambda item: None)
        done = count - len(missing)
        with self.progress(stage, count, done) as report:
            for item in range(count):
                if journal is not None and known[item]:
                    yield journal.value(stage, item)
                    continue
                result = next(made)
                if journal is not None:
                    journal.add(stage, item, result, source=source(item))
                done += 1
                if journal is None or journal.is_synced:
                    report(done)
                yield result
            if journal is not None and not journal.is_synced:
                journal.sync()
                report(done)


@dataclass(frozen=True)
class _Chosen(Generic[T]):
    """A function of some items alone."""

    function: Callable[[int], T]
    items: list[int]

    def __call__(self, index: int) -> T:
        return self.function(self.items[index])

    @property
    def ask(self) -> Callable[[int], Any] | None:
        """What the function offers to engines that do many items at once (``gonio.search.gpu.multi_gpu``), or None."""
        own = getattr(self.function, "ask", None)
        return None if own is None else lambda index: own(self.items[index])

    @property
    def searches(self) -> int:
        """How many searches an item is."""
        return getattr(self.function, "searches", 1)
