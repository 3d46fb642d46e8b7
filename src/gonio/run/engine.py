"""Engines: who does a stage of long work, item after item.

A *stage* is one function and a number of items; an item is known by its number, so that whoever does it needs no more
than the function, and what was done can be found again. Results do not depend on the engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gonio.run.parallel import in_order

__all__ = ["Local", "Mapper"]

T = TypeVar("T")


class Mapper(Protocol):
    """Does a stage."""

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """``function(0)``, ``function(1)``, ... ``function(count - 1)``, in this order.

        Parameters
        ----------
        stage
            Its name, once in a run: what progress is told under, and what is kept is found under.
        function
            Picklable, as are its results; of the number alone, so that it does not matter who calls it and when.
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
