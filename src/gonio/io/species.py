"""Particle lists of a species of M (and of Warp's population): positions and angles in the tilt series of a project.

    wrpCoordinateX1, Y1, Z1         angstrom from the centre of the tomogram's first voxel, unbinned series or not
    wrpAngleRot1, Tilt1, Psi1       as RELION's: R = A(rot, tilt, psi)^T
    wrpRandomSubset                 half set 1 or 2
    wrpSourceName, wrpSourceHash    the tilt series

Further numbers (X2, X3, ...) are later points of a trajectory over the exposure: the particle is taken where it is at
the first, least exposed, and the others are kept. Warp WarpLib/Sociology/Species.cs, Particle.cs. Such lists name no
images and state no pixel size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gonio.io.blocks import read_star
from gonio.io.errors import FormatError
from gonio.io.source import ReadOptions
from gonio.io.subtomograms import ListSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

COORDINATES = ("wrpCoordinateX1", "wrpCoordinateY1", "wrpCoordinateZ1")
ANGLES = ("wrpAngleRot1", "wrpAngleTilt1", "wrpAnglePsi1")
HALF_SET, SERIES = "wrpRandomSubset", "wrpSourceName"


def is_species(labels: set[str]) -> bool:
    """Return whether the labels of a STAR file are those of a species list."""
    return {*COORDINATES, SERIES} <= labels


def read_species(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a species list. Particles are numbered within their tilt series, as ``TS_01.tomostar/1``."""
    block = next((one for one in read_star(path).blocks if COORDINATES[0] in one), None)
    if block is None or len(block) == 0:
        raise FormatError(path, "lists no particles", "give the list of a species with particles")
    angles = block.vectors(ANGLES)
    series = block.text(SERIES)
    given = options.pixel_size_angstrom or options.voxel_size_angstrom
    names = tuple(f"{name}/{row}" for row, name in enumerate(series, start=1))
    fields = {*COORDINATES, *ANGLES, HALF_SET, SERIES}
    return ParticleTable(
        poses=Pose(Pose.from_euler_zyz_deg(angles, np.zeros_like(angles)).rotation.inv(), np.zeros_like(angles)),
        names=names,
        tomograms=series,
        coordinates_angstrom=block.vectors(COORDINATES),
        half_sets=block.whole(HALF_SET, 0, 2).astype(np.int8) if HALF_SET in block else None,
        source=ListSource(path, "m-species", options, names),
        pixel_sizes_angstrom=None if given is None else np.full(len(block), given),
        extras={label: values for label, values in block.columns.items() if label not in fields},
        lengths="angstrom",
    )
