"""Half sets that are independent, and particles that are there twice.

Two particles whose boxes overlap hold the same voxels, noise included: were they in different halves, these would agree
in noise. They are *siblings*, and whoever is a sibling of a sibling is one; siblings share a half. Particles cut out of
one place (symmetry expansion) are siblings too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from gonio.particles import ParticleTable

__all__ = ["HalfSets", "duplicates", "independent_halves", "leaking_siblings", "siblings"]

# Where siblings are so many that one half would hold more than this share of all, nearer ones alone are kept together.
MAX_SHARE = 0.55
NEARER = 0.8


@dataclass(frozen=True)
class HalfSets:
    """1 or 2 for each particle, (m,), and the distance within which particles share a half, angstrom.

    ``distance_angstrom`` is that which was asked for, or a shorter one where that would not have left two halves.
    """

    numbers: NDArray[np.int8]
    distance_angstrom: float


def positions_angstrom(table: ParticleTable) -> NDArray[np.float64] | None:
    """Where the particles themselves are in their tomograms, (m, 3) xyz: boxes' centres and shifts; None if unknown."""
    if table.coordinates_angstrom is None:
        return None
    return table.coordinates_angstrom + table.poses.shift_angstrom


def siblings(table: ParticleTable, *, box_angstrom: float) -> NDArray[np.int64]:
    """The number of the family of each particle, (m,): those whose boxes of this edge overlap, and theirs.

    Where no coordinates are known each is alone.
    """
    if table.coordinates_angstrom is None:
        return np.arange(len(table))
    # Cubes overlap where their centres are nearer than an edge along every axis.
    return _families(table, table.coordinates_angstrom, box_angstrom, norm=np.inf)


def independent_halves(table: ParticleTable, *, box_angstrom: float, rng: np.random.Generator) -> HalfSets:
    """Two halves of nearly one size, siblings in one of them; which is drawn.

    Parameters
    ----------
    table
        m particles, at least two.
    box_angstrom
        Edge of the boxes.

    Raises
    ------
    ValueError
        Fewer than two particles, or all in one place.
    """
    if len(table) < 2:
        raise ValueError(f"half sets need at least two particles, got {len(table)}")
    distance = box_angstrom
    families = siblings(table, box_angstrom=distance)
    while np.bincount(families).max() > max(MAX_SHARE * len(table), 1):
        distance *= NEARER
        if distance < box_angstrom * 1e-3:
            raise ValueError("the particles overlap so that no two halves are independent: give more than one place")
        families = siblings(table, box_angstrom=distance)
    return HalfSets(_balanced(families, rng), distance)


def leaking_siblings(table: ParticleTable, *, box_angstrom: float) -> NDArray[np.bool_]:
    """Which particles (m,) have a sibling in the other half of the table's half sets."""
    families, halves = siblings(table, box_angstrom=box_angstrom), np.asarray(table.half_sets)
    one, two = (np.bincount(families[halves == half], minlength=families.max() + 1) for half in (1, 2))
    return ((one > 0) & (two > 0))[families] & (halves > 0)


def duplicates(table: ParticleTable, *, distance_angstrom: float) -> NDArray[np.bool_]:
    """Which particles (m,) are nearer than a distance to a better one, and are therefore too many.

    Better is of lower dissimilarity where the table has it, else earlier in the list. Positions are those of the
    particles, shifts included.

    Raises
    ------
    ValueError
        No coordinates are known.
    """
    positions = positions_angstrom(table)
    if positions is None:
        raise ValueError("the list has no coordinates: duplicates cannot be found")
    order = np.argsort(table.columns.get("dissimilarity", np.zeros(len(table))), kind="stable")
    rank = np.empty(len(table), dtype=np.int64)
    rank[order] = np.arange(len(table))
    near: dict[int, list[int]] = {}
    for first, second in _pairs(table, positions, distance_angstrom, norm=2):
        near.setdefault(first, []).append(second)
        near.setdefault(second, []).append(first)
    dropped = np.zeros(len(table), dtype=bool)
    for row in order:
        if any(rank[other] < rank[row] and not dropped[other] for other in near.get(int(row), ())):
            dropped[row] = True
    return dropped


def _families(table: ParticleTable, positions: NDArray[np.float64], distance: float, norm: float) -> NDArray[np.int64]:
    pairs = np.array(list(_pairs(table, positions, distance, norm)), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(table),) * 2)
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _pairs(table: ParticleTable, positions: NDArray[np.float64], distance: float, norm: float) -> list[tuple[int, int]]:
    """Rows of one tomogram that are nearer than a distance."""
    tomograms, found = np.unique(np.array(table.tomograms), return_inverse=True)
    pairs: list[tuple[int, int]] = []
    for tomogram in range(len(tomograms)):
        rows = np.flatnonzero(found == tomogram)
        near = cKDTree(positions[rows]).query_pairs(np.nextafter(distance, 0.0), p=norm, output_type="ndarray")
        pairs += [(int(rows[i]), int(rows[j])) for i, j in near]
    return pairs


def _balanced(families: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int8]:
    """The largest family first, each into the half that has fewer; equal ones in an order that is drawn."""
    sizes = np.bincount(families)
    shuffled = rng.permutation(len(sizes))
    half_of, filled = np.zeros(len(sizes), dtype=np.int8), [0, 0]
    for family in shuffled[np.argsort(-sizes[shuffled], kind="stable")]:
        half = int(filled[1] < filled[0])
        half_of[family] = half + 1
        filled[half] += sizes[family]
    return half_of[families]
