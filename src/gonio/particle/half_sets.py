"""Half sets whose particles share nothing, and particles that are listed twice.

Two particles are *overlapping particles* when they stem from one particle, or when their boxes overlap in one tomogram: then they
show the same voxels, noise included, and in different halves that noise would count as signal. Families are the
connected components of overlapping particles; each goes into one half.

Must not know how a particle is aligned, nor what a half set is used for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

__all__ = ["Duplicate", "duplicates", "overlapping_groups", "origin_of", "split_groups", "split"]


@dataclass(frozen=True)
class Duplicate:
    """A particle (``row``) that lies within the distance of a better one (``of_row``), which stays."""

    row: int
    of_row: int
    distance_angstrom: float


def origin_of(name: str, tomogram: str) -> str:
    """The particle that a sub-particle was cut from: of ``TS_01/17/3`` in tomogram ``TS_01`` it is ``TS_01/17``.

    Names that have no second slash after that of their tomogram are their own origin.
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
    """The number of the family that each of m particles belongs to, shape (m,), numbered as they first occur.

    Parameters
    ----------
    names, tomograms
        Of the particles; names tell sub-particles of one origin (``origin_of``).
    coordinates_angstrom
        Centres of the boxes in their tomograms, (m, 3); None, or all alike, where they are not known.
    within_angstrom
        Boxes whose centres are nearer than this along every axis overlap: their edge.
    """
    count = len(names)
    origins = [origin_of(name, tomogram) for name, tomogram in zip(names, tomograms, strict=True)]
    _, origin = np.unique(np.array(origins, dtype=object), return_inverse=True)
    first = np.full(origin.max(initial=-1) + 1, -1)
    first[origin[::-1]] = np.arange(count)[::-1]
    pairs = [np.stack([np.arange(count), first[origin]], axis=-1)]  # (m, 2)
    if coordinates_angstrom is not None and np.ptp(coordinates_angstrom, axis=0).max(initial=0.0) > 0:
        pairs += [pair for pair, _ in _near(tomograms, coordinates_angstrom, within_angstrom, np.inf)]
    edges = np.concatenate(pairs)
    graph = coo_array((np.ones(len(edges), dtype=np.int8), edges.T), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def split(
    family: NDArray[np.int64], *, rng: np.random.Generator, given: NDArray[np.int8] | None = None
) -> NDArray[np.int8]:
    """Half sets 1 and 2, shape (m,), as even as families allow; the largest are given out first.

    Parameters
    ----------
    family
        As ``overlapping_groups`` numbers them, (m,).
    rng
        Draws the order of families of one size.
    given
        Half sets that stay, (m,); where it is 0 a particle joins most of its family, or the smaller half.
    """
    given = np.zeros(len(family), dtype=np.int8) if given is None else given
    result = given.copy()
    size = np.bincount(family)
    told = np.stack(
        [np.bincount(family, weights=given == half, minlength=len(size)) for half in (1, 2)]
    )  # (2, families)
    held = np.array([(given == 1).sum(), (given == 2).sum()])
    open_ = np.bincount(family, weights=given == 0, minlength=len(size)).astype(int)
    order = rng.permutation(len(size))
    for one in order[np.argsort(-open_[order], kind="stable")]:
        if not open_[one]:
            break
        half = int(np.argmax(told[:, one])) if told[:, one].any() else int(np.argmin(held))
        result[(family == one) & (given == 0)] = half + 1
        held[half] += open_[one]
    return result


def split_groups(family: NDArray[np.int64], half_sets: NDArray[np.int8]) -> NDArray[np.int64]:
    """The families with particles in both half sets, as their numbers."""
    both = [np.bincount(family[half_sets == half], minlength=family.max(initial=0) + 1) > 0 for half in (1, 2)]
    return np.flatnonzero(both[0] & both[1])


def duplicates(
    tomograms: Sequence[str],
    positions_angstrom: NDArray[np.float64],
    *,
    distance_angstrom: float,
    dissimilarity: ArrayLike | None = None,
) -> list[Duplicate]:
    """Particles nearer to a better one of their tomogram than a distance, in the order of the list.

    From the best on, each particle stays unless one that stays is too near.

    Parameters
    ----------
    tomograms
        Of each particle.
    positions_angstrom
        Where the particles themselves are, (m, 3).
    dissimilarity
        The smaller the better, (m,); None where the first of the list is the best.

    Raises
    ------
    ValueError
        A distance that is not positive.
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
        staying = [pair for pair in near[row] if pair[1] not in dropped]
        if staying:
            length, better = min(staying)
            dropped[row] = Duplicate(row, better, length)
    return [dropped[row] for row in sorted(dropped)]


def _near(
    tomograms: Sequence[str], places: NDArray[np.float64], distance: float, norm: float
) -> list[tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """For each tomogram the pairs of rows (p, 2) nearer than a distance in a norm, and how far apart they are (p,)."""
    found = []
    names = np.array(tomograms, dtype=object)
    for name in Counter(tomograms):
        rows = np.flatnonzero(names == name)
        pairs = cKDTree(places[rows]).query_pairs(distance, p=norm, output_type="ndarray")
        pairs = rows[pairs[np.lexsort(pairs.T[::-1])]].reshape(-1, 2)
        apart = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], ord=norm, axis=1)
        near = apart < distance
        found.append((pairs[near], apart[near]))
    return found
