"""Half sets whose particles share nothing, and particles that are listed twice.

Two particles *overlap* when they were cut from one particle, or when their boxes overlap in one tomogram: they contain
the same voxels, noise included, and in different half sets that noise would count as signal. Groups are the connected
components of overlapping particles; each group goes into one half set.

Must not know how a particle is aligned, nor what a half set is used for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from gonio.particle.texts import rows_of


@dataclass(frozen=True)
class Duplicate:
    """A particle (``row``) that lies within the distance of a better one (``of_row``), which is kept."""

    row: int
    of_row: int
    distance_angstrom: float


def origin_of(name: str, tomogram: str) -> str:
    """Return the particle that a sub-particle was cut from: ``TS_01/17`` for ``TS_01/17/3`` in tomogram ``TS_01``.

    A name without a second slash after its tomogram's is its own origin.
    """
    within = f"{tomogram}/"
    if not (tomogram and name.startswith(within)):
        return name
    return within + name[len(within) :].partition("/")[0]


def overlapping_groups(
    names: Sequence[str],
    tomograms: Sequence[str],
    coordinates_angstrom: NDArray[np.float64] | None,
    *,
    within_angstrom: float,
) -> NDArray[np.int64]:
    """Return the number of each particle's group of overlapping particles, shape (m,), in order of first occurrence.

    Parameters
    ----------
    names, tomograms
        Names of the particles, which state their origins (``origin_of``), and of their tomograms, m each.
    coordinates_angstrom
        Centres of the boxes in their tomograms, (m, 3); None, or all equal, where they are not known.
    within_angstrom
        Edge of a box: boxes overlap whose centres are nearer than this along every axis.
    """
    count = len(names)
    seen: dict[str, int] = {}
    origins = map(origin_of, names, tomograms)
    first = np.fromiter((seen.setdefault(origin, row) for row, origin in enumerate(origins)), np.int64, count)
    pairs = [np.stack([np.arange(count), first], axis=-1)]  # (m, 2)
    if coordinates_angstrom is not None and np.ptp(coordinates_angstrom, axis=0).max(initial=0.0) > 0:
        pairs += [pair for pair, _ in _near(tomograms, coordinates_angstrom, within_angstrom, np.inf)]
    edges = np.concatenate(pairs)
    graph = coo_array((np.ones(len(edges), dtype=np.int8), edges.T), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def split(
    group: NDArray[np.int64], *, rng: np.random.Generator, given: NDArray[np.int8] | None = None
) -> NDArray[np.int8]:
    """Return half sets 1 and 2, shape (m,), as equal in size as groups allow: the largest groups are assigned first.

    Parameters
    ----------
    group
        Group of each particle as ``overlapping_groups`` numbers them, (m,).
    rng
        Draws the order of groups of one size.
    given
        Half sets that are kept, (m,); a particle with 0 joins the half with most of its group, or the smaller half.
    """
    given = np.zeros(len(group), dtype=np.int8) if given is None else given
    result = given.copy()
    n_groups = group.max(initial=-1) + 1
    # Particles of each group in either half, (2, groups).
    in_half = np.stack([np.bincount(group, weights=given == half, minlength=n_groups) for half in (1, 2)])
    size = np.array([(given == 1).sum(), (given == 2).sum()])
    unassigned = np.bincount(group, weights=given == 0, minlength=n_groups).astype(int)
    order = rng.permutation(n_groups)
    for one in order[np.argsort(-unassigned[order], kind="stable")]:
        if not unassigned[one]:
            break
        half = int(np.argmax(in_half[:, one])) if in_half[:, one].any() else int(np.argmin(size))
        result[(group == one) & (given == 0)] = half + 1
        size[half] += unassigned[one]
    return result


def split_groups(group: NDArray[np.int64], half_sets: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return the numbers of the groups with particles in both half sets."""
    both = [np.bincount(group[half_sets == half], minlength=group.max(initial=0) + 1) > 0 for half in (1, 2)]
    return np.flatnonzero(both[0] & both[1])


def duplicates(
    tomograms: Sequence[str],
    positions_angstrom: NDArray[np.float64],
    *,
    distance_angstrom: float,
    dissimilarity: ArrayLike | None = None,
) -> list[Duplicate]:
    """Return the particles nearer than a distance to a better one of their tomogram, in the order of the list.

    From the best to the worst, each particle is kept unless one that is kept is too near.

    Parameters
    ----------
    tomograms
        Tomogram of each particle.
    positions_angstrom
        Positions of the particles themselves, (m, 3).
    dissimilarity
        The smaller the better, (m,); None to keep the earlier in the list.

    Raises
    ------
    ValueError
        If the distance is not positive.
    """
    if not distance_angstrom > 0:
        raise ValueError(f"distance_angstrom must be positive, got {distance_angstrom!r}")
    count = len(tomograms)
    worth = np.arange(count) if dissimilarity is None else np.nan_to_num(np.asarray(dissimilarity), nan=np.inf)
    rank = np.empty(count, dtype=np.int64)
    rank[np.argsort(worth, kind="stable")] = np.arange(count)
    near: dict[int, list[tuple[float, int]]] = {}
    for pairs, lengths in _near(tomograms, positions_angstrom, distance_angstrom, 2.0):
        for (one, two), length in zip(pairs.tolist(), lengths.tolist(), strict=True):
            better, worse = (one, two) if rank[one] < rank[two] else (two, one)
            near.setdefault(worse, []).append((length, better))
    dropped: dict[int, Duplicate] = {}
    for row in sorted(near, key=rank.__getitem__):
        kept = [pair for pair in near[row] if pair[1] not in dropped]
        if kept:
            length, better = min(kept)
            dropped[row] = Duplicate(row, better, length)
    return [dropped[row] for row in sorted(dropped)]


def _near(
    tomograms: Sequence[str], places: NDArray[np.float64], distance: float, norm: float
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return for each tomogram the pairs of rows (p, 2) nearer than a distance in a norm, and their distances (p,)."""
    found = []
    for rows in rows_of(tomograms).values():
        pairs = cKDTree(places[rows]).query_pairs(distance, p=norm, output_type="ndarray")
        pairs = rows[pairs[np.lexsort(pairs.T[::-1])]].reshape(-1, 2)
        apart = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], ord=norm, axis=1)
        near = apart < distance
        found.append((pairs[near], apart[near]))
    return found
