"""A map from a structure, or from another map: ``gonio map``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.files import beside, check_map, write_settings
from gonio.jobs.options import File
from gonio.jobs.placed import placed_structure, read_placed
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.pose import Pose
    from gonio.particle.volume import Volume


@dataclass(frozen=True)
class Mapped:
    """A map that was made; ``did`` is how, a few words a step, and ``note`` what its user should know, or empty."""

    volume: Volume
    did: tuple[str, ...]
    note: str = ""


def map_(
    source: File,
    *,
    voxel_size_angstrom: float | None = None,
    box: int | None = None,
    resolution_angstrom: float | None = None,
    mirror: bool = False,
    rotation_zyz_deg: tuple[float, float, float] | None = None,
    shift_angstrom: tuple[float, float, float] | None = None,
    invert: bool = False,
    assembly: str | None = None,
    input_voxel_size_angstrom: float | None = None,
    permissive: bool = False,
    output: File = Path("map.mrc"),
    overwrite: bool = False,
) -> Mapped:
    """Make a map of a structure or of another map, and write it; the settings lie beside.

    In this order: mirrored, moved, low-passed, resampled, cropped or padded, inverted. What the centre voxel shows
    stays in the centre voxel, and in the coordinates of the file's header where it is.

    Parameters
    ----------
    source
        A PDB or mmCIF file, plain or gzipped, of which every atom becomes a Gaussian weighted by its electron
        scattering; or a map. A map that is no cube is padded to one.
    voxel_size_angstrom, box
        Edge of a voxel and of the box, as they are to be; None for those of the map. A structure needs both.
    resolution_angstrom
        Resolution of a structure's density as in Situs' pdb2vol, None for twice the voxel size; or what a map is
        low-passed to.
    mirror, invert
        Make the other hand, mirrored in x; the other contrast.
    rotation_zyz_deg, shift_angstrom
        ``x_new = Rz(a) Ry(b) Rz(c) x_old + t``, as ``gonio pair`` prints it.
    assembly
        Biological assembly of a structure, None for the first; ``none`` takes the file as it is.
    input_voxel_size_angstrom, permissive
        For a map's header: its voxel size in place of what it states, and whether to read it with errors.

    Raises
    ------
    ValueError, OSError
        A file that cannot be read, values that do not fit, or files that are there.
    """
    from gonio.io import write_volume
    from gonio.io.maps import is_map

    path, target = Path(source), check_map(output, ".settings.toml", overwrite=overwrite)
    pose = _pose(rotation_zyz_deg, shift_angstrom)
    if is_map(path):
        if assembly is not None:
            raise ArgumentError("{} is for structures, and {path} is a map: leave it out", "assembly", path=path)
        placed = read_placed(path, input_voxel_size_angstrom, permissive=permissive)
        filtered = resolution_angstrom
    else:
        if voxel_size_angstrom is None or box is None:
            what = "{path} is a structure: give {} and {} of the map"
            raise ArgumentError(what, "voxel_size_angstrom", "box", path=path)
        resolution_angstrom = resolution_angstrom or 2.0 * voxel_size_angstrom
        own = None if assembly == "none" else assembly or "1"
        placed = placed_structure(path, voxel_size_angstrom, box, resolution_angstrom, own)
        filtered = None
    volume, did = _changed(placed.volume, voxel_size_angstrom, box, filtered, mirror=mirror, pose=pose, invert=invert)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(target, volume, origin_xyz_angstrom=placed.origin_of(volume))
    settings = {
        "source": source,
        "voxel_size_angstrom": volume.voxel_size_angstrom,
        "box": volume.box,
        "resolution_angstrom": resolution_angstrom,
        "mirror": mirror,
        "rotation_zyz_deg": rotation_zyz_deg,
        "shift_angstrom": shift_angstrom,
        "invert": invert,
        "assembly": assembly,
        "input_voxel_size_angstrom": input_voxel_size_angstrom,
    }
    write_settings(beside(target, ".settings.toml"), settings, inputs=[path])
    return Mapped(volume, did, placed.note)


def _pose(
    rotation_zyz_deg: tuple[float, float, float] | None, shift_angstrom: tuple[float, float, float] | None
) -> Pose | None:
    from gonio.particle.pose import Pose

    if rotation_zyz_deg is None and shift_angstrom is None:
        return None
    for argument, values in (("rotation_zyz_deg", rotation_zyz_deg), ("shift_angstrom", shift_angstrom)):
        if values is not None and not np.isfinite(values).all():
            raise ArgumentError("{} must be three numbers, got {got!r}", argument, got=values)
    return Pose.from_euler_zyz_deg(rotation_zyz_deg or (0.0, 0.0, 0.0), shift_angstrom or (0.0, 0.0, 0.0))


def _changed(
    volume: Volume,
    voxel_size: float | None,
    box: int | None,
    resolution: float | None,
    *,
    mirror: bool,
    pose: Pose | None,
    invert: bool,
) -> tuple[Volume, tuple[str, ...]]:
    """Return a map after all that was asked for, and each step in words."""
    from gonio.fourier.resampling import box_of_extent
    from gonio.fourier.transform import shell_limit
    from gonio.particle.volume import same_size

    size = voxel_size or volume.voxel_size_angstrom
    if same_size(size, volume.voxel_size_angstrom):
        size = volume.voxel_size_angstrom
    box = box_of_extent(volume, size) if box is None else box
    did: list[str] = []
    if mirror:
        volume, did = volume.mirrored(), [*did, "mirrored in x"]
    if pose is not None:
        # In the box that is asked for, if that is larger: nothing is to leave the smaller one.
        room = int(np.ceil(box * size / volume.voxel_size_angstrom))
        volume, did = volume.padded(max(room, volume.box)).moved(pose), [*did, "moved"]
    if resolution is not None:
        shell_limit(volume.box, volume.voxel_size_angstrom, resolution)  # which checks it
        volume, did = volume.low_passed(resolution), [*did, f"low-passed to {resolution:g} A"]
    if size != volume.voxel_size_angstrom:
        did.append(f"resampled from {volume.voxel_size_angstrom:g} A")
    if (size, box) != (volume.voxel_size_angstrom, volume.box):
        if size == volume.voxel_size_angstrom:
            did.append(f"{'cropped' if box < volume.box else 'padded'} from {volume.box} voxels")
        volume = volume.resampled(size, box=box)
    if invert:
        volume, did = volume.inverted(), [*did, "inverted"]
    return volume, tuple(did)
