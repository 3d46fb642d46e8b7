"""Half sets for jobs that make or need them: overlapping particles are kept in one.

``gonio.particle.half_sets`` decides what overlaps; this module warns of what a user must know of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from gonio.particle.arguments import ArgumentError
from gonio.particle.texts import texts_at

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable

NAMED = 5  # names that are given in full


def check_half_sets(table: ParticleTable, way_out: str, *arguments: str) -> None:
    """Raise ArgumentError where half sets are neither 0, 1 nor 2; ``way_out`` states the remedy, with the arguments."""
    if not np.isin(np.asarray(table.half_sets), [0, 1, 2]).all():
        raise ArgumentError(f"half sets (rlnRandomSubset) must be 0, 1 or 2: {way_out}", *arguments)


def with_half_sets(
    table: ParticleTable, *, split: bool, overlap_distance_angstrom: float | None, seed: int
) -> ParticleTable:
    """Return the list with every particle in half set 1 or 2; those that it has stay unless ``split``.

    Raises
    ------
    ValueError
        Half sets that are neither 0, 1 nor 2; particles that all overlap, and cannot be split.
    """
    from gonio.particle import half_sets

    check_half_sets(table, "pass {} to make new ones", "split")
    if overlap_distance_angstrom is None:
        first = table.load(0)
        overlap_distance_angstrom = first.box * first.voxel_size_angstrom
    family = half_sets.overlapping_groups(
        table.names, table.tomograms, table.coordinates_angstrom, within_angstrom=overlap_distance_angstrom
    )
    given = None if split else np.asarray(table.half_sets)
    sets = half_sets.split(family, rng=np.random.default_rng(seed), given=given)
    if len(set(sets.tolist())) < 2:
        raise ArgumentError(
            "all {count} particles overlap, within {within:g} angstrom of one another: they cannot be split into"
            " halves that share nothing; pass {} with the diameter of the particle",
            "overlap_distance_angstrom",
            count=len(table),
            within=overlap_distance_angstrom,
        )
    mixed = half_sets.split_groups(family, sets)
    if len(mixed):
        names = texts_at(table.names, np.flatnonzero(np.isin(family, mixed)))
        warnings.warn(
            f"{len(names)} particles overlap with others, or stem from one with others, that the list has in the other"
            f" half: {some(names)}; their noise is in both halves, and the resolution may come out too good (--split)",
            stacklevel=3,
        )
    return replace(table, half_sets=sets)


def some(names: Iterable[str], shown: int = NAMED) -> str:
    """Return the first names, and how many more there are."""
    every = list(names)
    return ", ".join(every[:shown]) + (f" and {len(every) - shown} more" if len(every) > shown else "")
