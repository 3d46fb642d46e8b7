"""New lists of simulated subtomograms in the format of RELION 5; ``star`` reads them back and owns the angles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gonio.io.blocks import Star, write_star
from gonio.io.paths import relative
from gonio.io.relion import blocks_of
from gonio.io.source import CENTRED, TILT_COLUMNS
from gonio.io.star import ANGLES, HALF_SET, ORIGINS_ANGSTROM
from gonio.io.text import decimals, token
from gonio.particle.pose import Pose


def write_simulated(
    path: str | Path,
    poses: Pose,
    image_paths: Sequence[str | Path],
    *,
    voxel_size_angstrom: float,
    box: int,
    tilt_range_deg: tuple[float, float],
    axis_deg: float = 90.0,
    tomogram_name: str = "simulated",
) -> None:
    """Write a new RELION 5 list of 3-D subtomograms, which ``read_particles`` reads without further options.

    Parameters
    ----------
    path
        The list; its folder exists.
    poses
        Poses of m particles.
    image_paths
        m MRC files, as seen from the current folder; stored relative to the list.
    voxel_size_angstrom, box
        Voxel size and edge in voxels of every subtomogram.
    tilt_range_deg, axis_deg
        The wedge, as in ``SingleAxisWedge``.
    tomogram_name
        rlnTomoName of all particles.

    Raises
    ------
    ValueError
        If poses and images differ in number.
    FormatError
        If the list cannot be written.
    """
    path, count = Path(path), len(poses)
    if len(image_paths) != count:
        raise ValueError(f"{count} poses need as many image_paths, got {len(image_paths)}")
    optics = {
        "rlnTomoTiltSeriesPixelSize": token(voxel_size_angstrom),
        "rlnImageDimensionality": "3",
        "rlnTomoSubtomogramBinning": "1",
        "rlnImagePixelSize": token(voxel_size_angstrom),
        "rlnImageSize": str(box),
        **dict(zip(TILT_COLUMNS, map(token, (*tilt_range_deg, axis_deg)), strict=True)),
    }
    rows = {
        "rlnTomoName": [tomogram_name] * count,
        "rlnTomoParticleName": [f"{tomogram_name}/{i}" for i in range(1, count + 1)],
        **{label: ["0.000000"] * count for label in CENTRED},
        **decimals(ANGLES, Pose(poses.rotation.inv(), np.zeros((count, 3))).euler_zyz_deg()),
        **decimals(ORIGINS_ANGSTROM, -poses.shift_angstrom),
        "rlnImageName": [relative(Path(image), path.parent) for image in image_paths],
        "rlnOpticsGroup": ["1"] * count,
        HALF_SET: [str(1 + i % 2) for i in range(count)],
        **{label: [value] * count for label, value in optics.items()},
    }
    blocks = blocks_of(path, {label: tuple(values) for label, values in rows.items()}, "5")
    write_star(path, Star(path, tuple(blocks), version="50001"))
