"""The list of subtomograms that were cut at the positions of another list.

Owns which columns no longer hold once a particle has a volume of its own, and which take their place. Every other
column of the list is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.ctf_images import CTF_IMAGE_COLUMN, CtfImage
from gonio.io.lists import write_particles
from gonio.io.relion import BINNING, IMAGE_PIXEL, OLD_PIXEL
from gonio.io.source import STACKS, SUBTOMOGRAM_ANGLES, TILT_COLUMNS
from gonio.io.star import IMAGES
from gonio.io.text import token
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

# Of what an image was before: its stack, its pixels, its transfer, the way it was cut.
OUTDATED = (
    *(*SUBTOMOGRAM_ANGLES, "rlnTomoVisibleFrames", IMAGES[1], CTF_IMAGE_COLUMN, BINNING, OLD_PIXEL),
    *("rlnDetectorPixelSize", "rlnMagnification", "rlnCtfDataAreCtfPremultiplied"),
    *("rlnImageDimensionality", "rlnImageSize", STACKS),
)


def write_extracted(
    path: Path,
    table: ParticleTable,
    *,
    images: Sequence[str],
    positions_angstrom: NDArray[np.float64],
    voxel_size_angstrom: float,
    box: int,
    sizes: Mapping[str, NDArray[np.float64]],
    centre: str,
    wedges: Sequence[str] | None,
    tilt_range_deg: tuple[float, float, float] | None,
    mirrored: bool,
) -> None:
    """Write the list for RELION 5; its shifts are 0, as boxes were cut where particles are, and not rotated.

    Parameters
    ----------
    images
        File of each of m subtomograms, as seen from the list's folder.
    positions_angstrom
        Position of each box's centre voxel, from the centre of the tomogram's first voxel, shape (m, 3), xyz.
    voxel_size_angstrom, box
        Voxel size and edge in voxels of every subtomogram.
    sizes
        Size of each tomogram by name: voxels x, y, z and their size in angstrom.
    centre
        Which point of a tomogram is its centre, a key of ``gonio.io.conversion.CENTRES``.
    wedges
        File of the weights of each, as seen from the list's folder; or None.
    tilt_range_deg
        First tilt, last tilt and direction of the axis of all; or None.
    mirrored
        Whether boxes, positions and wedges are those of the tomogram's mirror image in z; angles are then mirrored too.
    """
    count, turned = len(table), table.tomogram_poses.rotation
    extras = {label: values for label, values in table.extras.items() if label not in OUTDATED}
    extras[IMAGE_PIXEL] = (token(voxel_size_angstrom),) * count
    extras |= {"rlnImageSize": (str(box),) * count, "rlnImageDimensionality": ("3",) * count}
    if wedges is not None or tilt_range_deg is not None:
        extras = {label: values for label, values in extras.items() if label not in TILT_COLUMNS}
    if wedges is not None:
        extras |= {IMAGES[1]: tuple(wedges), CTF_IMAGE_COLUMN: (CtfImage.CONFIDENCE.value,) * count}
    if tilt_range_deg is not None:
        extras |= {k: (token(v),) * count for k, v in zip(TILT_COLUMNS, tilt_range_deg, strict=True)}
    made = replace(
        table,
        poses=Pose(_mirrored(turned) if mirrored else turned, np.zeros((count, 3))),
        coordinates_angstrom=positions_angstrom,
        coordinates_from="corner",
        images=tuple(images),
        extras=extras,
        frames=None,
        source=None,
    )
    options = WriteOptions(sizes=TomogramSizes(by_name=sizes), centre=centre)
    write_particles(path, made, format="relion5", options=options)


def _mirrored(rotations: Rotation) -> Rotation:
    """Return D R D, D = diag(1, 1, -1): the mirror image of a rotation, whose axis changes the sign of x and y."""
    return Rotation.from_quat(rotations.as_quat() * [-1.0, -1.0, 1.0, 1.0])
