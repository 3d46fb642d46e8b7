"""Masks of a map's density.

Flow: the map at low resolution -> voxels above a threshold -> holes filled, one piece or all -> wider by a distance
-> a soft edge, half a cosine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gonio.fourier.transform import low_passed
from gonio.particle.arguments import ArgumentError
from gonio.particle.volume import Volume

# Density is above the background by MASK_SD robust standard deviations, in the map at a resolution of
# MASK_RESOLUTION_VOXELS; the mask is wider by MASK_WIDER_VOXELS and falls to zero over another MASK_EDGE_VOXELS.
MASK_RESOLUTION_VOXELS, MASK_SD, MASK_WIDER_VOXELS, MASK_EDGE_VOXELS = 6.0, 3.0, 2.0, 4.0
SD_OF_MAD = 1.4826
# Volume of protein: a partial specific volume of 0.73 cm^3/g (Matthews 1968).
ANGSTROM3_PER_KDA = 0.73e24 / 6.02214076e23 * 1000.0


def soft_mask(
    volume: Volume,
    *,
    threshold: float | None = None,
    enclosed_angstrom3: float | None = None,
    mass_kda: float | None = None,
    resolution_angstrom: float | None = None,
    wider_angstrom: float | None = None,
    edge_angstrom: float | None = None,
    largest: bool | None = None,
) -> Volume:
    """Return a mask of a map's density: 1 there and a little beyond, 0 in the solvent, with a soft edge.

    Density is what lies above a threshold, with its holes filled; unless one is given in one of three ways, it is the
    largest connected region above the background at low resolution. Where nothing is above the background, the mask
    is then 1 everywhere.

    Parameters
    ----------
    threshold
        In the unit of the map.
    enclosed_angstrom3, mass_kda
        The volume that the threshold is to enclose, cubic angstrom, or the mass of protein that it stands for, kDa.
    resolution_angstrom
        Low-pass the map first; None for six voxels, but for not at all with ``threshold``.
    wider_angstrom, edge_angstrom
        How far the mask reaches beyond the density, and the width of the edge beyond that; None for 2 and 4 voxels.
    largest
        Keep the largest connected region alone; None for as the threshold is found.

    Raises
    ------
    ValueError
        More than one threshold, one above or below all values, lengths that are negative, more volume than the box
        holds.
    """
    given = {
        name: value
        for name, value in (
            ("threshold", threshold),
            ("enclosed_angstrom3", enclosed_angstrom3),
            ("mass_kda", mass_kda),
        )
        if value is not None
    }
    if len(given) > 1:
        raise ArgumentError("{} and {} exclude each other: give one", *list(given)[:2])
    size = volume.voxel_size_angstrom
    wider = _length("wider_angstrom", wider_angstrom, MASK_WIDER_VOXELS * size)
    edge = _length("edge_angstrom", edge_angstrom, MASK_EDGE_VOXELS * size)
    if resolution_angstrom is None and threshold is None:
        resolution_angstrom = MASK_RESOLUTION_VOXELS * size
    smooth = volume if resolution_angstrom is None else low_passed(volume, resolution_angstrom=resolution_angstrom)
    density = smooth.data > _level(smooth, given)
    if not density.any():
        return Volume(np.ones_like(smooth.data), size)
    if largest or (largest is None and not given):
        density = _largest_piece(density)
    distance = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(density)) * size - wider
    # A voxel within an edge of no width is 1, one beyond it 0.
    falling = np.clip(distance / edge, 0.0, 1.0) if edge > 0 else distance > 0
    return Volume(0.5 + 0.5 * np.cos(np.pi * falling), size)


def _length(argument: str, given: float | None, default: float) -> float:
    length = default if given is None else given
    if not (np.isfinite(length) and length >= 0):
        raise ArgumentError("{} must be 0 or more, got {got:g}", argument, got=length)
    return length


def _level(smooth: Volume, given: dict[str, float]) -> float:
    """Return the threshold that is given, or that encloses the given volume, or that is above the background."""
    if not given:
        middle = float(np.median(smooth.data))
        return middle + MASK_SD * SD_OF_MAD * float(np.median(np.abs(smooth.data - middle)))
    ((argument, value),) = given.items()
    lowest, highest = float(smooth.data.min()), float(smooth.data.max())
    if argument == "threshold":
        if not lowest <= value < highest:
            what = "{} {got:g} leaves all or nothing of the map, whose values are {lowest:g} to {highest:g}"
            raise ArgumentError(f"{what}: give one between", argument, got=value, lowest=lowest, highest=highest)
        return value
    enclosed = value * ANGSTROM3_PER_KDA if argument == "mass_kda" else value
    count = round(enclosed / smooth.voxel_size_angstrom**3) if np.isfinite(enclosed) else 0
    if not 1 <= count < smooth.data.size:
        what = "{} {got:g} is {enclosed:.4g} cubic angstrom, the box has {whole:.4g} and a voxel {voxel:.4g}"
        whole, voxel = smooth.box_angstrom**3, smooth.voxel_size_angstrom**3
        raise ArgumentError(what, argument, got=value, enclosed=enclosed, whole=whole, voxel=voxel)
    return float(np.partition(smooth.data, -count - 1, axis=None)[-count - 1])


def _largest_piece(density: NDArray[np.bool_]) -> NDArray[np.bool_]:
    pieces, _ = ndimage.label(density)
    return np.asarray(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))
