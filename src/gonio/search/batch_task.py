"""A task of many items in two steps, between which a backend does the work of many items at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from gonio.particle.table import ParticleTable
from gonio.search.backend import Backend
from gonio.search.cpu import Cpu

P = TypeVar("P")
T = TypeVar("T")


class BatchTask(ABC, Generic[P, T]):
    """Task whose items are integers. Calling it does one item on the CPU; executors of GPUs do many at a time."""

    # Type of an item's result, by which a checkpoint reads it back.
    returns: ClassVar[Any]

    @property
    def searches(self) -> int:
        """Approximate number of searches of an item."""
        return 1

    def __call__(self, item: int) -> T:
        """Return the result of an item, computed on the CPU."""
        return self.finish([self.prepare(item)], Cpu())[0]

    @abstractmethod
    def prepare(self, item: int) -> P:
        """Read and prepare the data of an item, in any thread."""

    @abstractmethod
    def finish(self, prepared: Sequence[P], backend: Backend) -> list[T]:
        """Return the results of prepared items, in their order."""


class RowTask(BatchTask[P, T]):
    """Task whose items are the rows of a list."""

    table: ParticleTable

    def sources(self, row: int) -> tuple[Path, ...]:
        """Return the files of a row's particle."""
        return self.table.files_of(row)
