"""Which particles of an alignment are real: the options, columns, numbers and list of ``--decoys``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from gonio.cli.columns import writable
from gonio.cli.output import write_text

if TYPE_CHECKING:
    from pathlib import Path

    from gonio.alignment.aligner import Aligner
    from gonio.particle.table import ParticleTable
    from gonio.run.engine import Mapper

__all__ = ["DecoyOptions", "numbers_of_decoys", "with_decoys", "write_kept"]

MOST_Q = 0.05
# What reference and best decoy score, and what comes of it.
TARGET, DECOY, Q = "log_likelihood", "decoy_log_likelihood", "q_value"
NONE_KEPT = "# No particle has a q-value up to {:g}.\n\ndata_particles\n\n"

DecoyCount = Annotated[
    int,
    typer.Option(
        "--decoys",
        metavar="N",
        min=0,
        help="Align every particle to N decoys of the reference too (2 is enough): how well they fit tells which"
        " particles are real. Each costs as much as a search over all orientations.",
    ),
]
MostQ = Annotated[
    float | None,
    typer.Option(
        "--max-q",
        metavar="Q",
        help="With --decoys: the share of false particles that DIR/kept.star may hold. Default: 0.05.",
    ),
]


@dataclass(frozen=True)
class DecoyOptions:
    """What the user said about decoys: a group of options (``gonio.cli.grouped``)."""

    decoy_count: DecoyCount = 0
    max_q: MostQ = None

    def check(self) -> None:
        """Raise ValueError for what does not fit."""
        if self.max_q is not None and not self.decoy_count:
            raise ValueError("--max-q needs --decoys: without them nothing tells which particles are real")
        if self.max_q is not None and not 0 < self.max_q < 1:
            raise ValueError(f"--max-q must lie between 0 and 1, got {self.max_q:g}")

    @property
    def most_q(self) -> float:
        """The largest q-value of a particle that is kept."""
        return MOST_Q if self.max_q is None else self.max_q

    @property
    def settings(self) -> dict[str, float]:
        """For the record; nothing where there are no decoys."""
        return {"count": self.decoy_count, "max_q": self.most_q} if self.decoy_count else {}


def with_decoys(
    table: ParticleTable, aligner: Aligner, options: DecoyOptions, *, mapper: Mapper, seed: int
) -> ParticleTable:
    """An aligned list with what decoys say of each particle."""
    from gonio.alignment.decoys import Decoys, compete

    decoys = Decoys.of(aligner, options.decoy_count, rng=np.random.default_rng(seed))
    if "mirror" not in decoys.kinds:
        print(
            f"gonio: the reference is like its mirror image ({100 * decoys.likeness:.0f} % of its detail), which is no"
            " decoy then: all decoys have its shape and other detail",
            file=sys.stderr,
        )
    least = 1.0 / (len(table) * options.decoy_count)
    if least > options.most_q:
        print(
            f"gonio: no q-value of {len(table)} particles and {options.decoy_count} decoys can be below {least:.2g}:"
            " give more decoys, or a larger --max-q",
            file=sys.stderr,
        )
    found = compete(table, aligner, decoys, table.poses, mapper=mapper, seed=seed)
    return table.with_poses(table.poses, **{TARGET: found.target, DECOY: found.best_decoy, Q: found.q})


def kept(table: ParticleTable, most_q: float) -> NDArray[np.int64]:
    """The rows of particles that are real, but for a share of ``most_q``."""
    return np.flatnonzero(np.asarray(table.columns[Q], dtype=np.float64) <= most_q)


def write_kept(folder: Path, table: ParticleTable, most_q: float) -> None:
    """Write the list of those alone."""
    from gonio.io.lists import write_back

    rows = kept(table, most_q)
    if not len(rows):
        # Written all the same: one of an earlier run must not stay beside new poses.
        write_text(folder / "kept.star", NONE_KEPT.format(most_q))
        return
    write_back(folder, "kept", writable(table[rows]), with_optimisation_set=False)


def numbers_of_decoys(table: ParticleTable, options: DecoyOptions) -> list[tuple[str, float, str, str]]:
    """What there is to say: name, value, format with unit, and how to read it."""
    if Q not in table.columns or not options.decoy_count:
        return []
    from gonio.io.lists import file_name

    lost = float(np.mean(table.columns[TARGET] <= table.columns[DECOY]))
    false = min(1.0, lost * (1.0 + 1.0 / options.decoy_count))
    share = f"of which at most {100 * options.most_q:g} % should be false: {file_name(table, 'kept')} lists them"
    return [
        ("kept", float(len(kept(table, options.most_q))), "{:.0f}", f"particles, {share}"),
        ("false, at most about", 100 * false, "{:.0f} %", "of all, by those that fit a decoy better"),
    ]
