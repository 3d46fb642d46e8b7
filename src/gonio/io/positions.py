"""Positions of particles in RELION's and WarpTools' lists: the unit and the origin of their coordinates.

Owns that rule, once for all that reads or writes such lists:

    rlnCenteredCoordinate*Angst     angstrom from the tomogram's centre, whatever pixel size stands beside it (RELION 5)
    rlnCoordinate*, 2-D stacks      pixels of the images (rlnImagePixelSize), whatever rlnTomoTiltSeriesPixelSize is:
                                    only WarpTools writes them so; RELION takes them out of its own lists of stacks
    rlnCoordinate*, all others      pixels of the tilt series (rlnTomoTiltSeriesPixelSize), in lists that do not know it
                                    (3.0, 3.1, Warp) of the images

Pixels count from the centre of the first voxel. WarpTools before July 2026 writes the pixel size of the unbinned series
beside coordinates of the images, since then that of the images twice. Sources: RELION
src/jaz/tomography/particle_set.cpp; Warp WarpTools/Commands/Tiltseries/ExportParticlesTiltseries.cs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block, read_star
from gonio.io.source import CENTRED, COORDINATES_PX, StarSource

SERIES_PIXEL = "rlnTomoTiltSeriesPixelSize"


def are_centred(particles: Block) -> bool:
    """Return whether positions are angstrom from the centre of the tomogram."""
    return all(label in particles for label in CENTRED)


def coordinate_pixels(source: StarSource) -> NDArray[np.float64] | None:
    """Return the size of the pixels that coordinates count, angstrom, shape (m,); None where nothing states it.

    For centred coordinates, which count angstrom, these are the pixels of the tilt series.
    """
    options = source.options
    if options.pixel_size_angstrom is not None:
        return np.full(len(source.particles), options.pixel_size_angstrom)
    images = source.voxel_sizes_angstrom
    if options.voxel_size_angstrom is not None:
        images = np.full(len(source.particles), options.voxel_size_angstrom)
    series = source.sizes(SERIES_PIXEL)
    if source.stacks and not are_centred(source.particles):
        return series if images is None else images
    return images if series is None else series


def coordinates_angstrom(
    particles: Block, pixels: NDArray[np.float64] | None, *, shifts_in_angstrom: bool
) -> NDArray[np.float64] | None:
    """Return positions in angstrom, shape (m, 3), or in pixels where their size is unknown; None where there are none.

    Parameters
    ----------
    pixels
        As ``coordinate_pixels`` returns them.
    shifts_in_angstrom
        Whether shifts of the list are angstrom: pixels of unknown size cannot be added to them, and are left out.
    """
    if are_centred(particles):
        return particles.vectors(CENTRED)
    if not all(label in particles for label in COORDINATES_PX) or (pixels is None and shifts_in_angstrom):
        return None
    return particles.vectors(COORDINATES_PX) * (1.0 if pixels is None else pixels[:, None])


def pixels_by_tomogram(tomograms_path: Path, names: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the pixel size that tomograms.star states for the tomogram of each particle, angstrom, shape (m,).

    None where it does not state one for each.
    """
    overview = read_star(tomograms_path).find("global")
    if overview is None or SERIES_PIXEL not in overview or "rlnTomoName" not in overview:
        return None
    stated = dict(zip(overview.text("rlnTomoName"), overview.numbers(SERIES_PIXEL).tolist(), strict=True))
    sizes = np.array([stated.get(name, 0.0) for name in names])
    return sizes if len(sizes) and (sizes > 0).all() else None
