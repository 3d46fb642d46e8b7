"""Half sets for commands that make or need them: overlapping particles share one.

What overlaps is ``gonio.particle.half_sets``'s; this module says what a user must know of it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable

__all__ = ["note", "some", "with_half_sets"]

SHOWN = 5  # names that are told in full


def with_half_sets(table: ParticleTable, *, split: bool, siblings_angstrom: float | None, seed: int) -> ParticleTable:
    """The list with every particle in half set 1 or 2; those that it has stay unless they are to be made anew.

    Raises
    ------
    ValueError
        Half sets that are neither 0, 1 nor 2; a list of a single family, which cannot be split.
    """
    from gonio.particle import half_sets

    given = np.asarray(table.half_sets)
    if not np.isin(given, [0, 1, 2]).all():
        raise ValueError("half sets (rlnRandomSubset) must be 0, 1 or 2: pass --split to make new ones")
    if siblings_angstrom is None:
        first = table.load(0)
        siblings_angstrom = first.box * first.voxel_size_angstrom
    family = half_sets.families(
        table.names, table.tomograms, table.coordinates_angstrom, within_angstrom=siblings_angstrom
    )
    rng = np.random.default_rng(seed)
    sets = half_sets.split(family, rng=rng, given=None if split else given)
    if len(set(sets.tolist())) < 2:
        raise ValueError(
            f"all {len(table)} particles are siblings, within {siblings_angstrom:g} angstrom of one another: they"
            " cannot be split into halves that share nothing; pass --siblings with the diameter of the particle"
        )
    mixed = half_sets.parted(family, sets)
    if len(mixed):
        names = [table.names[row] for row in np.flatnonzero(np.isin(family, mixed))]
        note(
            f"{len(names)} particles overlap with others, or stem from one with others, that the list has in the other"
            f" half: {some(names)}; their noise is in both halves, and the resolution may come out too good (--split)"
        )
    return replace(table, half_sets=sets)


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def note(text: str) -> None:
    """Tell what a user should know, on standard error."""
    print(f"gonio: note: {text}", file=sys.stderr)
