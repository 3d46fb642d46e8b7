"""A list of particles against a reference, row after row, by any engine.

Each row is read by whoever aligns it, and its random generator follows from the seed and its number: results depend on
nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import LEARN_FROM, Aligner
from gonio.alignment.result import Result
from gonio.comparison.expected_fsc import Expectation
from gonio.particle.table import ParticleTable
from gonio.run.engine import Local, Mapper
from gonio.search.gpu.device import Device
from gonio.search.gpu.multi_gpu import OneCard
from gonio.search.requests import Asking, answered
from gonio.settings import Search, Settings

__all__ = ["AlignedRow", "Aligners", "ParticleError", "align_rows", "align_table", "learn"]


class ParticleError(ValueError):
    """What does not fit with one particle of a list, told with its name."""


@dataclass(frozen=True)
class AlignedRow:
    """What a row came to.

    ``before`` is the dissimilarity at the listed pose, where a local search of plain inputs began with it: restored
    inputs are weighted as the pose found tells, and have none to compare with. Else it is nan.
    """

    result: Result
    box: int
    before: float


@dataclass(frozen=True)
class Aligners:
    """Several aligners of the same settings, and which of them each row of a list is aligned by, (m,)."""

    aligners: Sequence[Aligner]
    which: NDArray[np.int64]

    @property
    def settings(self) -> Settings:
        """Of all of them."""
        return self.aligners[0].settings

    @property
    def card(self) -> Device | None:
        """Where they run, or None for the CPU."""
        return self.aligners[0].card


def align_table(
    table: ParticleTable,
    aligner: Aligner | Aligners,
    *,
    mapper: Mapper | None = None,
    seed: int = 0,
    expectation: Expectation | None = None,
    local: bool | None = None,
    stage: str = "align",
) -> list[Result]:
    """The results of ``align_rows``."""
    rows = align_rows(table, aligner, mapper=mapper, seed=seed, expectation=expectation, local=local, stage=stage)
    return [row.result for row in rows]


def align_rows(
    table: ParticleTable,
    aligner: Aligner | Aligners,
    *,
    mapper: Mapper | None = None,
    seed: int = 0,
    expectation: Expectation | None = None,
    local: bool | None = None,
    stage: str = "align",
) -> list[AlignedRow]:
    """Align the particle of every row.

    Parameters
    ----------
    table
        m particles with a source to read them from.
    aligner
        Of the reference, or several of several.
    mapper
        Who does it; this process, one after another or on the aligner's card, unless given.
    seed
        Row i has the generator that is the i-th child of this seed, as in ``Aligner.align_many``.
    expectation
        As in ``Aligner.align``.
    local
        Whether to begin at the poses in the table; told by the aligner's search unless given.
    stage
        Its name, once in a run.

    Raises
    ------
    ParticleError, FormatError
        Naming the first particle that cannot be read or does not fit.
    """
    starts = aligner.settings.search is Search.LOCAL if local is None else local
    task = _AlignRow(table, aligner, seed, expectation, starts)
    if mapper is None:
        mapper = Local() if aligner.card is None else OneCard(aligner.card)
    return list(mapper(stage, task, len(table)))


def learn(table: ParticleTable, aligner: Aligner, *, mapper: Mapper | None = None, seed: int = 0) -> Expectation | None:
    """As ``Aligner.learn``, from the first rows of a list."""
    found = align_table(table[:LEARN_FROM], aligner, mapper=mapper, seed=seed, stage="learn")
    return Expectation.mean([one.expectation for one in found if one.expectation is not None])


@dataclass(frozen=True)
class _AlignRow:
    table: ParticleTable
    aligner: Aligner | Aligners
    seed: int
    expectation: Expectation | None
    starts: bool

    def aligner_of(self, row: int) -> Aligner:
        """The one of a row."""
        many = self.aligner
        return many.aligners[int(many.which[row])] if isinstance(many, Aligners) else many

    def __call__(self, row: int) -> AlignedRow:
        return answered(self.ask(row))

    def ask(self, row: int) -> Asking[AlignedRow]:
        """The same as a search, of which an engine may do many at a time."""
        particle = self.table.load(row)
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(row,)))
        start, aligner = self.table.poses[row] if self.starts else None, self.aligner_of(row)
        try:
            result = yield from aligner.ask(particle, rng=rng, start=start, expectation=self.expectation)
            before = np.nan
            if self.compares:
                before = float(aligner.dissimilarity(particle, self.table.poses[row : row + 1])[0])
        except ValueError as error:
            raise ParticleError(f"particle {self.table.names[row]!r}: {error}") from error
        return AlignedRow(result, particle.box, before)

    @cached_property
    def compares(self) -> bool:
        """Whether the listed pose has a dissimilarity to compare with."""
        return self.starts and not self.aligner.settings.restores

    def source(self, row: int) -> Path | None:
        """The file of a row's particle."""
        return self.table.image(row)
