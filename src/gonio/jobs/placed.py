"""Maps with their place in the coordinates of viewers: of files, and of structures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gonio.particle.volume import Volume
    from gonio.simulate import Structure


@dataclass(frozen=True)
class PlacedMap:
    """A map, and where its centre voxel is in the coordinates of viewers, angstrom, xyz."""

    volume: Volume
    centre_xyz_angstrom: NDArray[np.float64]
    note: str = ""

    def origin_of(self, volume: Volume) -> NDArray[np.float64]:
        """Return where the first voxel of a map with the same centre is: what it shows stays where it was."""
        from gonio.particle.volume import ROUNDING

        half = volume.box // 2 * volume.voxel_size_angstrom
        origin = self.centre_xyz_angstrom - half
        return np.where(np.abs(origin) < ROUNDING * half, 0.0, origin)


def read_placed(path: Path, voxel_size_angstrom: float | None, *, permissive: bool) -> PlacedMap:
    """Read a map with its place; what is no cube is padded to one with the mean of its faces.

    Raises
    ------
    FormatError
        As ``gonio.io.maps.read_map``; an image, or a map without a voxel size.
    """
    from gonio.io import FormatError
    from gonio.io.errors import reading
    from gonio.io.maps import read_map
    from gonio.particle.volume import Volume, background, in_cube

    image = read_map(path, permissive=permissive)
    shape = image.data.shape
    if len(shape) != 3:
        raise FormatError(path, "holds an image", "give a map")
    size = voxel_size_angstrom or image.voxel_size_angstrom()
    if size == 0:
        raise FormatError(path, "the header has no voxel size", "state it: --input-voxel-size ANGSTROM")
    data, note = image.data, ""
    if len(set(shape)) > 1:
        data = in_cube(data, max(shape), background(data))
        edges = " x ".join(map(str, shape[::-1]))
        note = f"{path} is no cube ({edges} voxels): padded to {len(data)} with the mean of its faces"
    centre = image.origin_xyz_angstrom + np.array(shape[::-1]) // 2 * size
    with reading(path, "give a larger map"):
        return PlacedMap(Volume(data, size), centre, note)


def read_structure(
    path: Path, *, resolution_angstrom: float, box_angstrom: float, assembly: str | None = "1"
) -> tuple[Structure, str]:
    """Return a structure, and in words what a box cuts off it, or nothing."""
    from gonio.simulate import Structure

    particle = Structure.from_file(path, resolution_angstrom=resolution_angstrom, assembly=assembly)
    diameter = 2.0 * particle.radius_angstrom
    if diameter <= box_angstrom:
        return particle, ""
    wide = f"the particle is up to {diameter:.0f} angstrom wide and the box {box_angstrom:.0f}"
    return particle, f"{wide}: what sticks out is cut off"


def placed_structure(path: Path, voxel_size: float, box: int, resolution: float, assembly: str | None) -> PlacedMap:
    """Return the density of a structure in a box that begins at 0."""
    from gonio.particle.pose import Pose
    from gonio.particle.volume import Volume

    edge = box * voxel_size
    particle, note = read_structure(path, resolution_angstrom=resolution, box_angstrom=edge, assembly=assembly)
    data = particle.density(Pose.identity(), box=box, voxel_size_angstrom=voxel_size)
    return PlacedMap(Volume(data.astype(np.float32), voxel_size), np.full(3, box // 2 * voxel_size), note)
