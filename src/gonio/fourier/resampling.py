"""Maps in voxels of another size, by interpolation of their Fourier series.

With n voxels of edge v, and m of edge v' whose centre voxel shows what the old one did, the value at voxel i is

    v'(i) = 1/n sum_k V(k) exp(2 pi i k x_i / n),   x_i = (i - m // 2) v' / v,   along each axis,

over all k of the map for smaller voxels (for even n half of -n/2 and half of n/2), and over |k| < n v / (2 v') for
larger ones: what they cannot show is left out, not aliased. It is exact for a map that is periodic and band-limited.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.particle.volume import MIN_BOX, Volume, background, boxed, same_size

# Frequencies nearer than this to half a turn a voxel have no partner of the other sign.
UNPARTNERED = 1e-6


def resampled(volume: Volume, voxel_size_angstrom: float, *, box: int | None = None) -> Volume:
    """Return the map in voxels of another size: what its centre voxel shows, that of the result shows.

    Parameters
    ----------
    voxel_size_angstrom
        Edge of the new voxels; where it is the map's own but for rounding, the map's own stays.
    box
        Edge of the result in voxels; None for the even number that is nearest to the same length. What lies beyond the
        map is its background, the mean of its faces.

    Raises
    ------
    ValueError
        A voxel size that is not positive, or a box of fewer than 8 voxels.
    """
    ratio = voxel_size_angstrom / volume.voxel_size_angstrom
    if not (np.isfinite(ratio) and ratio > 0):
        raise ValueError(f"voxel_size_angstrom must be a positive number, got {voxel_size_angstrom!r}")
    outside = background(volume.data)
    if same_size(voxel_size_angstrom, volume.voxel_size_angstrom):
        return volume if box is None else boxed(volume, box, outside=outside)
    box = box_of_extent(volume, voxel_size_angstrom) if box is None else box
    if box < MIN_BOX:
        raise ValueError(
            f"{volume.box} voxels of {volume.voxel_size_angstrom:g} angstrom are {box} of {voxel_size_angstrom:g}, at"
            f" least {MIN_BOX} are needed: pad the map first, or use smaller voxels"
        )
    matrix = _interpolation(volume.box, box, ratio)
    data = volume.data.astype(np.float64) - outside
    for _ in range(3):  # the last axis becomes the first: z y x -> x z y -> y x z -> z y x
        data = np.tensordot(matrix, data, axes=(1, 2))
    return Volume((data + outside).astype(np.float32), voxel_size_angstrom)


def box_of_extent(volume: Volume, voxel_size_angstrom: float) -> int:
    """Return the even number of voxels of another size whose length is nearest to the map's; its own for its own."""
    if same_size(voxel_size_angstrom, volume.voxel_size_angstrom):
        return volume.box
    return 2 * round(volume.box_angstrom / (2.0 * voxel_size_angstrom))


def _interpolation(old: int, new: int, ratio: float) -> NDArray[np.float64]:
    """Return the matrix (new, old) from values along an axis to those at points ``ratio`` voxels apart."""
    place = (np.arange(new) - new // 2) * ratio
    half = old / (2.0 * max(ratio, 1.0))
    k = np.arange(np.ceil(half - UNPARTNERED))  # 0 <= k < half
    weight = np.where(k == 0, 1.0, 2.0)
    if ratio <= 1.0 and old % 2 == 0:
        k, weight = np.append(k, old / 2), np.append(weight, 1.0)
    angle = 2.0 * np.pi / old
    there, here = angle * place[:, None] * k, angle * (np.arange(old) - old // 2)[:, None] * k
    matrix = (np.cos(there) * weight) @ np.cos(here).T + (np.sin(there) * weight) @ np.sin(here).T
    inside = (place >= -(old // 2) - 0.5) & (place < old - old // 2 - 0.5)
    return np.asarray(matrix / old * inside[:, None])
