"""Writing of results: files beside files, lists that may be empty, JSON that every parser reads.

Nothing that exists is replaced unless asked; folders of results are ``gonio.run.folder``'s.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gonio.run.folder import check_target

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable


def check_map(path: str | Path, *endings: str, overwrite: bool) -> Path:
    """Return the absolute path of a map that may be written, and with it the files of these endings beside it.

    Raises
    ------
    ValueError, OSError
        If ``check_target`` refuses one of them, or it is a folder.
    """
    from gonio.io.errors import remove_leftovers

    path = Path(path).resolve()
    for file in (path, *(beside(path, ending) for ending in endings)):
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: give the name of a file")
        check_target(file, overwrite=overwrite)
        remove_leftovers(file)
    return path


def beside(path: Path, ending: str) -> Path:
    """Return ``map.mrc`` or ``map.mrc.gz`` with another ending: ``beside(path, "_fsc.csv")`` is map_fsc.csv."""
    stem = path.name.removesuffix(".gz")
    for suffix in (".mrc", ".map"):
        stem = stem.removesuffix(suffix)
    return path.with_name(stem + ending)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    from gonio.io.errors import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_list(path: Path, table: ParticleTable | None, *, otherwise: str) -> None:
    """Write a list by itself, or where there is none an empty one that states why."""
    from gonio.alignment.columns import writable
    from gonio.io import write_particles

    if table is None or not len(table):
        # Written all the same: one of an earlier run must not stay beside new poses.
        write_text(path, f"# {otherwise}\n\ndata_particles\n\n")
    else:
        write_particles(path, writable(table), with_optimisation_set=False)


def write_particle_scene(
    folder: Path, table: ParticleTable, *, box_angstrom: float, voxel_size_angstrom: float
) -> None:
    """Write ``particles.cxc`` and its markers, and ``viewers/``, where the list has positions.

    Positions count from the first voxel of a tomogram, where its size is known.
    """
    from gonio.io.viewers import from_first_voxel, write_viewers
    from gonio.report import particle_scene

    write_viewers(folder, table, voxel_size_angstrom=voxel_size_angstrom, box_angstrom=box_angstrom)
    table = from_first_voxel(table) or table
    for name, text in particle_scene(table, box_angstrom=box_angstrom).items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, text)


def write_settings(
    path: Path,
    settings: Mapping[str, object],
    *,
    seed: int | None = None,
    inputs: Iterable[Path] = (),
    run: Mapping[str, object] = {},
) -> None:
    """Write beside a result how it was made; ``run`` are further values of the table of that name."""
    from gonio.run.provenance import command_line, settings_toml

    write_text(path, settings_toml(command_line(), settings, seed=seed, inputs=inputs, run=run))


def write_summary(folder: Path, values: Mapping[str, object]) -> None:
    """Write the summary of a run as ``summary.json``."""
    write_text(folder / "summary.json", json_text(values, indent=2) + "\n")


def json_text(values: Mapping[str, object], *, indent: int | None = None) -> str:
    """Return JSON as every parser reads it: numbers that are infinite or none become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
