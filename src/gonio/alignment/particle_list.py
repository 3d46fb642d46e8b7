"""Alignment of a list of particles to a reference, row by row, by any executor.

Each row is read by the worker that aligns it, and its random generator follows from the seed and its number: results
depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import LEARN_FROM, Aligner
from gonio.alignment.prepared import Prepared, finished
from gonio.alignment.result import Result
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.particle.table import ParticleTable
from gonio.run.executor import Executor
from gonio.search.backend import Backend
from gonio.search.batch_task import RowTask
from gonio.search.gpu.device import CPU, Device
from gonio.search.gpu.multi_gpu import executor_for
from gonio.settings import LocalSearch, Settings


class ParticleError(ValueError):
    """Error of one particle of a list, whose name the message begins with."""

    @staticmethod
    @contextmanager
    def naming(particle: str) -> Iterator[None]:
        """Turn a ValueError raised within into a ParticleError whose message begins with ``particle``."""
        try:
            yield
        except ValueError as error:
            raise ParticleError(f"{particle}: {error}") from error


@dataclass(frozen=True)
class AlignedRow:
    """Result of a row.

    ``before`` is the dissimilarity at the input pose where a local search of unprocessed inputs started from it, else
    nan: the weights of restored inputs depend on the pose found, so that theirs could not be compared.
    """

    result: Result
    box: int
    before: float


@dataclass(frozen=True)
class Aligners:
    """Several aligners of the same settings, and the number of the one for each row of a list, (m,)."""

    aligners: Sequence[Aligner]
    which: NDArray[np.int64]

    @property
    def settings(self) -> Settings:
        """Settings of all of them."""
        return self.aligners[0].settings

    @property
    def gpu(self) -> Device | None:
        """GPU on which they run, or None for the CPU."""
        return self.aligners[0].gpu


def align_table(
    table: ParticleTable,
    aligner: Aligner | Aligners,
    *,
    executor: Executor | None = None,
    seed: int = 0,
    expected_fsc: ExpectedFsc | None = None,
    local: bool | None = None,
    stage: str = "align",
) -> list[Result]:
    """Align the particle of every row.

    Parameters
    ----------
    table
        m particles with a source to read them from.
    aligner
        Aligner of the reference, or one for each of several.
    executor
        Runs the task; this process, one after another or on the aligner's GPU, unless given.
    seed
        Row i has the generator that is the i-th child of this seed, as in ``Aligner.align_many``.
    expected_fsc
        Expected FSC, as in ``Aligner.align``.
    local
        Whether to start from the poses in the table; unless given, whether the aligner's search is local.
    stage
        Name of the task, once in a run.

    Raises
    ------
    ParticleError, FormatError
        Naming the first particle that cannot be read or does not fit.
    """
    task = AlignRow(table, aligner, seed, expected_fsc, local)
    rows = (executor or executor_for(aligner.gpu or CPU))(stage, task, len(table))
    return [row.result for row in rows]


def learn(
    table: ParticleTable, aligner: Aligner, *, executor: Executor | None = None, seed: int = 0
) -> ExpectedFsc | None:
    """Estimate the expected FSC from the first rows of a list, as ``Aligner.learn``."""
    found = align_table(table[:LEARN_FROM], aligner, executor=executor, seed=seed, stage="learn")
    return ExpectedFsc.mean([one.expected_fsc for one in found if one.expected_fsc is not None])


@dataclass(frozen=True)
class _Row:
    """A row ready to be searched, and the other values of its result."""

    prepared: Prepared
    box: int
    before: float


@dataclass(frozen=True)
class AlignRow(RowTask[_Row, AlignedRow]):
    """The task of ``align_table``, of which an item is a row."""

    returns = AlignedRow
    table: ParticleTable
    aligner: Aligner | Aligners
    seed: int = 0
    expected_fsc: ExpectedFsc | None = None
    local: bool | None = None

    def aligner_of(self, row: int) -> Aligner:
        """Return the aligner of a row."""
        many = self.aligner
        return many.aligners[int(many.which[row])] if isinstance(many, Aligners) else many

    def prepare(self, item: int) -> _Row:
        """Read the particle of a row and prepare its search."""
        particle, before = self.table.load(item), np.nan
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(item,)))
        start, aligner = self.table.poses[item] if self.starts else None, self.aligner_of(item)
        with ParticleError.naming(f"particle {self.table.names[item]!r}"):
            prepared = aligner.prepare(particle, rng=rng, start=start, expected_fsc=self.expected_fsc)
            if self.compares:
                before = float(aligner.dissimilarity(particle, self.table.poses[item : item + 1])[0])
        return _Row(prepared, particle.box, before)

    def finish(self, prepared: Sequence[_Row], backend: Backend) -> list[AlignedRow]:
        """Return the results of prepared rows."""
        results = finished([row.prepared for row in prepared], backend)
        return [AlignedRow(found, row.box, row.before) for row, found in zip(prepared, results, strict=True)]

    @cached_property
    def starts(self) -> bool:
        """True where searches start from the poses in the table."""
        return isinstance(self.aligner.settings.search, LocalSearch) if self.local is None else self.local

    @cached_property
    def compares(self) -> bool:
        """True where the dissimilarity at the input pose can be compared with that of the result."""
        return self.starts and not self.aligner.settings.restores
