"""A mask of a map's density: ``gonio mask``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gonio.jobs.files import beside, check_map, write_settings
from gonio.jobs.options import File
from gonio.jobs.placed import read_placed

if TYPE_CHECKING:
    from gonio.particle.volume import Volume


@dataclass(frozen=True)
class Masked:
    """A mask that was made, and the volume where it is above one half, cubic angstrom."""

    volume: Volume
    enclosed_angstrom3: float
    note: str = ""


def mask(
    source: File,
    *,
    threshold: float | None = None,
    enclosed_angstrom3: float | None = None,
    mass_kda: float | None = None,
    resolution_angstrom: float | None = None,
    wider_angstrom: float | None = None,
    edge_angstrom: float | None = None,
    largest: bool = False,
    input_voxel_size_angstrom: float | None = None,
    permissive: bool = False,
    output: File = Path("mask.mrc"),
    overwrite: bool = False,
) -> Masked:
    """Make a mask of a map's density, as ``gonio.soft_mask``, and write it; the settings lie beside.

    Parameters
    ----------
    source
        A map; one that is no cube is padded to one.
    threshold, enclosed_angstrom3, mass_kda
        The density's threshold, at most one of these; None for what is above the background.
    resolution_angstrom, wider_angstrom, edge_angstrom
        As in ``gonio.soft_mask``.
    largest
        Keep the largest connected region alone, also with a threshold.
    input_voxel_size_angstrom, permissive
        For the map's header: its voxel size in place of what it states, and whether to read it with errors.

    Raises
    ------
    ValueError, OSError
        A file that cannot be read, values that do not fit, or files that are there.
    """
    from gonio.fourier.masks import soft_mask
    from gonio.io import write_volume
    from gonio.particle.volume import background

    path, target = Path(source), check_map(output, ".settings.toml", overwrite=overwrite)
    placed = read_placed(path, input_voxel_size_angstrom, permissive=permissive)
    options = {
        "threshold": threshold,
        "enclosed_angstrom3": enclosed_angstrom3,
        "mass_kda": mass_kda,
        "resolution_angstrom": resolution_angstrom,
        "wider_angstrom": wider_angstrom,
        "edge_angstrom": edge_angstrom,
    }
    made = soft_mask(placed.volume, **options, largest=largest or None)
    if made.data.min() == 1.0:
        found = threshold is None and enclosed_angstrom3 is None and mass_kda is None
        why = "nothing is above the background" if found else "the density reaches all of the box"
        warnings.warn(f"{path}: {why}; the mask is 1 everywhere", stacklevel=2)
    elif background(made.data) > 0:
        warnings.warn(f"the mask of {path} reaches the faces of the box: pad the map, or mask less", stacklevel=2)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(target, made, origin_xyz_angstrom=placed.origin_of(made))
    settings = {"source": source, **options, "largest": largest, "input_voxel_size_angstrom": input_voxel_size_angstrom}
    write_settings(beside(target, ".settings.toml"), settings, inputs=[path])
    return Masked(made, float((made.data > 0.5).sum()) * made.voxel_size_angstrom**3, placed.note)
