"""Warnings about the positions of particles, and about their half sets.

As in ``inspection`` every warning has one function, and none proves an error. They compare positions with the size of
the tomogram, distances of neighbours with the size of a particle, and groups of overlapping boxes with the number of
particles.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from gonio.particle import half_sets as halves
from gonio.particle.texts import rows_of
from gonio.workflows.inspection import InputWarning

# Fraction of the width and height within which all positions lie, and the probability of this by chance, for a warning.
FILLED, UNLIKELY = 0.5, 1e-4
# Fraction of particles with too near neighbours above which all positions are suspect.
COMMON = 0.25
# Half sets are unequal beyond this many standard deviations of a fair draw and this difference as a fraction of all.
SURE, UNEQUAL = 4.0, 0.2
# Groups of overlapping boxes are chains where there are fewer than this many for each particle.
CHAINED = 0.1


def unequal_halves(half_sets: NDArray[np.int8]) -> InputWarning | None:
    """Check for half sets of very unequal size, or an empty one."""
    one, two = int((half_sets == 1).sum()), int((half_sets == 2).sum())
    count = one + two
    if count < 2 or abs(one - two) <= UNEQUAL * count:
        return None
    if min(one, two) > 0 and abs(one - two) <= SURE * np.sqrt(count):
        return None
    what = f"the half sets hold {one} and {two} particles"
    return InputWarning("unequal half sets", what, "the FSC of their maps says little: make new ones (refine --split)")


def outside_of_tomograms(
    positions: NDArray[np.float64], sizes: NDArray[np.float64], *, from_centre: bool
) -> InputWarning | None:
    """Check for positions before the first voxel, or beyond the last.

    Parameters
    ----------
    positions, sizes
        Position of each particle and size of its tomogram in one unit, shape (m, 3); infinite sizes are not known.
    from_centre
        Whether positions count from the centre of the tomogram, else from its first voxel.
    """
    known = np.isfinite(sizes)
    low = np.where(known, -sizes / 2, -np.inf) if from_centre else np.zeros_like(sizes)
    high = np.where(known, sizes / 2 if from_centre else sizes, np.inf)
    rows = np.flatnonzero(((positions < low) | (positions > high)).any(axis=1))
    if not len(rows):
        return None
    what = f"{len(rows)} of {len(positions)} positions lie outside of the tomogram, first in row {rows[0] + 1}"
    reach = np.max(np.abs(positions) / np.where(known, high, np.inf))
    if reach > 1.5:
        what += f", the farthest at {reach:.1f} times its size"
    remedy = "check the pixel size of positions, and whether they start at the centre"
    return InputWarning("outside of the tomogram", what, remedy)


def only_a_corner(
    positions: NDArray[np.float64], sizes: NDArray[np.float64], *, from_centre: bool, pixel_angstrom: float | None
) -> InputWarning | None:
    """Check for positions that fill only one small part of their tomograms, as with too small a pixel size.

    Parameters
    ----------
    positions, sizes, from_centre
        As in ``outside_of_tomograms``.
    pixel_angstrom
        Pixel size of positions in the list, as it was read; None where that is not known.
    """
    known = np.isfinite(sizes).all(axis=1)
    if not known.any():
        return None
    half = 2.0 if from_centre else 1.0
    part = float((half * np.abs(positions[known]) / sizes[known])[:, :2].max())
    if part > FILLED or part ** (2 * int(known.sum())) > UNLIKELY:
        return None
    where = "around the centre" if from_centre else "in one corner"
    what = f"all positions lie {where} of their tomograms, within {100 * part:.0f} % of their width and height"
    remedy = "they may count pixels of a binned tomogram: pass --pixel-size to gonio convert"
    if pixel_angstrom is not None:
        larger = f"up to {pixel_angstrom / part:.3g} A, and not of {pixel_angstrom:g} A"
        remedy = f"they may count pixels of {larger}, as of a binned tomogram: pass --pixel-size to gonio convert"
    return InputWarning("only a corner of the tomogram", what, remedy)


def nearest_neighbours(tomograms: Sequence[str], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each particle to the nearest other of its tomogram, shape (m,); infinite where alone."""
    distances = np.full(len(positions), np.inf)
    for rows in rows_of(tomograms).values():
        if len(rows) > 1:
            distances[rows] = cKDTree(positions[rows]).query(positions[rows], k=2)[0][:, 1]
    return distances


def crowded(
    tomograms: Sequence[str],
    positions_angstrom: NDArray[np.float64],
    *,
    particle_angstrom: float,
    pixel_angstrom: float | None,
) -> InputWarning | None:
    """Check for many neighbours that are nearer than half a particle, where no two particles can be.

    Parameters
    ----------
    tomograms, positions_angstrom
        Tomogram of each particle, and positions, shape (m, 3).
    particle_angstrom
        Diameter of the particle.
    pixel_angstrom
        As in ``only_a_corner``.
    """
    nearest = nearest_neighbours(tomograms, positions_angstrom)
    near = nearest < 0.5 * particle_angstrom
    if near.mean() <= COMMON or near.sum() < 2:
        return None
    what = (
        f"{near.sum()} of {len(near)} particles are nearer to another than half a particle of"
        f" {particle_angstrom:.0f} A (median {np.median(nearest[near]):.0f} A)"
    )
    pixels = "" if pixel_angstrom is None else f" ({pixel_angstrom:g} A)"
    remedy = f"the pixel size of positions{pixels} may be too small, or each particle was picked several times"
    return InputWarning("crowded", what, remedy)


def boxes_in_chains(
    names: Sequence[str], tomograms: Sequence[str], coordinates_angstrom: NDArray[np.float64], *, box_angstrom: float
) -> InputWarning | None:
    """Check for lattices, whose overlapping boxes join all particles: half sets cannot be made of such groups.

    Parameters
    ----------
    names, tomograms, coordinates_angstrom
        Name, tomogram and coordinates of each particle; shape (m, 3).
    box_angstrom
        Edge of the boxes, within which ``gonio refine`` keeps particles together by default.
    """

    def groups(within: float) -> int:
        group = halves.overlapping_groups(names, tomograms, coordinates_angstrom, within_angstrom=within)
        return len(np.unique(group))

    count = groups(box_angstrom)
    if len(names) < 20 or count > CHAINED * len(names):
        return None
    nearest = nearest_neighbours(tomograms, coordinates_angstrom)
    less = float(np.median(nearest[np.isfinite(nearest)])) / 2
    less = float(np.floor(less / 10) * 10) if less >= 10 else less
    if not less > 0 or groups(less) <= CHAINED * len(names):
        return None
    what = f"{len(names)} particles are {count} groups of overlapping boxes ({box_angstrom:.0f} A)"
    remedy = (
        f"a lattice is divided by its particles: pass --overlap {less:g} to refine and average"
        f" ({groups(less)} groups), less than they are apart"
    )
    return InputWarning("boxes in chains", what, remedy)
