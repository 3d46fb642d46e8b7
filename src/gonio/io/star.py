"""Particle lists of RELION and WarpTools: poses in and out.

Owns every sign between RELION's angles and origins and gonio's poses. With A(rot, tilt, psi) = Rz(rot) Ry(tilt)
Rz(psi), A_p of rlnAngle*, A_s of rlnTomoSubtomogram* (identity where absent), o the origin in angstrom (RELION
subtracts it: position = coordinate - A_s^T o) and D = diag(1, 1, rlnTomoHand):

    tilt stacks          R = D A_s^T A_p^T D        t = -D A_s^T o    (in the tomogram's frame)
    3-D subtomograms     R = A_p^T                  t = -o            (in the box, which RELION cuts out turned by A_s)

Lengths of 2-D and 3-D particles alike are angstrom, angles in the files degrees. Everything that gonio does not
change goes back into a file as the text it was.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, read_star, write_star
from gonio.io.errors import FormatError, locate
from gonio.io.source import SUBTOMOGRAM_ANGLES, TILT_COLUMNS, ReadOptions, StarSource, name_label
from gonio.io.tilts import TiltSeries, read_tilt_series
from gonio.particles import ParticleTable
from gonio.pose import Pose

__all__ = ["places_angstrom", "read_particles", "write_particles", "write_simulated"]

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
ORIGINS_PX = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
COORDINATES_PX = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
IMAGES = ("rlnImageName", "rlnCtfImage")
OPTIMISATION_SET = "optimisation_set.star"
CLASS_NUMBER = ("class_number", "rlnClassNumber")  # the column of a table that is no column of gonio's own


def read_particles(
    path: str | Path,
    *,
    tilt_range_deg: tuple[float, float] | None = None,
    axis_deg: float = 90.0,
    voxel_size_angstrom: float | None = None,
    tomograms_path: str | Path | None = None,
    invert_contrast: bool = False,
    permissive: bool = False,
) -> ParticleTable:
    """Read a RELION or WarpTools particle list; its particles load one at a time, when asked for.

    Lists of 2-D stacks (rlnTomoSubTomosAre2DStacks 1) load as ``TiltStack``, others as ``Subtomogram``.
    ``coordinates_angstrom`` are rlnCenteredCoordinate*Angst (from the tomogram's centre) or else rlnCoordinate* times
    rlnTomoTiltSeriesPixelSize (from its first voxel).

    Parameters
    ----------
    path
        A particle list or an optimisation set. Paths inside are relative to its folder, or to the current one.
    tilt_range_deg, axis_deg
        The wedge of 3-D subtomograms, as in ``SingleAxisWedge``. Without a range it comes from the list's columns
        gonioTiltMin, gonioTiltMax and gonioTiltAxis, or from the weights in rlnCtfImage.
    voxel_size_angstrom
        Replaces the voxel size of the list and of the image headers.
    tomograms_path
        tomograms.star for 2-D stacks; found beside the list or through an optimisation set beside it when not given.
    invert_contrast
        Flip the sign of the images: for files whose density is dark (negative).
    permissive
        Of image files, accept a wrong map ID or machine stamp, and bytes after the data.

    Raises
    ------
    FormatError
        A file is missing or broken, a column or tomogram is missing, a value is not a number, or two particles have
        one name.
    """
    star, tomograms_path, sets = _open(Path(path), None if tomograms_path is None else Path(tomograms_path))
    particles = _particle_block(star)
    series: dict[str, TiltSeries] = {}
    if _are_stacks(star):
        if tomograms_path is None:
            tomograms_path, found_by = _tomograms_beside(star.path)
            sets += found_by
        tomograms = read_star(tomograms_path)
        series = {name: read_tilt_series(tomograms, name) for name in dict.fromkeys(particles.text("rlnTomoName"))}
    said = ReadOptions(tilt_range_deg, axis_deg, voxel_size_angstrom, invert_contrast, permissive)
    source = StarSource(star, particles, series, tomograms_path, said, sets)
    return ParticleTable(
        poses=_read_poses(source),
        names=_names(particles),
        tomograms=_tomogram_names(particles),
        coordinates_angstrom=_coordinates(source),
        half_sets=_half_sets(particles),
        columns=_own_columns(particles),
        source=source,
    )


def write_particles(path: str | Path, table: ParticleTable, *, with_optimisation_set: bool = True) -> tuple[Path, ...]:
    """Write a table back in the format it was read from.

    Poses, half sets where they changed, and ``table.columns`` (as ``gonioName``) are written; columns of gonio that the
    table no longer has are left out, and every other value is the text of the source. Image paths that would no longer
    be found from the new folder are made relative to it.

    Parameters
    ----------
    path
        The new list; may be the source itself.
    table
        Read by ``read_particles``; possibly a selection, reordered, with new poses and columns.
    with_optimisation_set
        For 2-D stacks, also write optimisation_set.star beside it, naming list and tomograms. Where that name is taken
        by the set of another list, it becomes NAME_optimisation_set.star.

    Returns
    -------
    The files written.

    Raises
    ------
    FormatError
        If a file cannot be written; nothing half-written stays behind.
    """
    path = Path(path)
    source = table.source
    if not isinstance(source, StarSource):
        raise ValueError(f"table must come from read_particles, its source is {source!r}")
    block = source.particles.without(_dropped(source.particles, table)).take(np.asarray(table.rows))
    block = block.with_columns(pose_columns(source, table))
    block = block.with_columns(_half_set_column(block, table)).with_columns(_moved_images(block, source.path, path))
    block = block.with_columns({_own_label(name): map(_token, column) for name, column in table.columns.items()})
    blocks = tuple(block if old is source.particles else old for old in source.star.blocks)
    write_star(path, replace(source.star, blocks=blocks))
    if not (with_optimisation_set and source.tomograms_path):
        return (path,)
    return (path, _write_optimisation_set(path, source.tomograms_path))


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
        Batch of m.
    image_paths
        m MRC files, as seen from the current folder; stored relative to the list.
    voxel_size_angstrom, box
        Of every subtomogram.
    tilt_range_deg, axis_deg
        The wedge, as in ``SingleAxisWedge``.
    tomogram_name
        rlnTomoName of all.

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
        "rlnOpticsGroup": "1",
        "rlnOpticsGroupName": "opticsGroup1",
        "rlnTomoTiltSeriesPixelSize": _token(voxel_size_angstrom),
        "rlnImageDimensionality": "3",
        "rlnTomoSubtomogramBinning": "1",
        "rlnImagePixelSize": _token(voxel_size_angstrom),
        "rlnImageSize": str(box),
        **dict(zip(TILT_COLUMNS, map(_token, (*tilt_range_deg, axis_deg)), strict=True)),
    }
    particles = {
        "rlnTomoName": [tomogram_name] * count,
        "rlnTomoParticleName": [f"{tomogram_name}/{i}" for i in range(1, count + 1)],
        **{label: ["0.000000"] * count for label in CENTRED},
        **_decimals(ANGLES, Pose(poses.rotation.inv(), np.zeros((count, 3))).euler_zyz_deg()),
        **_decimals(ORIGINS_ANGSTROM, -poses.shift_angstrom),
        "rlnImageName": [_relative(Path(image), path.parent) for image in image_paths],
        "rlnOpticsGroup": ["1"] * count,
        "rlnRandomSubset": [str(1 + i % 2) for i in range(count)],
    }
    blocks = (
        Block(path, "general", {"rlnTomoSubTomosAre2DStacks": ("0",)}, is_loop=False),
        Block(path, "optics", {label: (value,) for label, value in optics.items()}),
        Block(path, "particles", {label: tuple(values) for label, values in particles.items()}),
    )
    write_star(path, Star(path, blocks, version="50001"))


# Which file is which


def _open(path: Path, tomograms_path: Path | None) -> tuple[Star, Path | None, tuple[Path, ...]]:
    """The particle list behind ``path``, where known its tomograms file, and the set that led there, if any."""
    star = read_star(path)
    entry = next((block for block in star.blocks if "rlnTomoParticlesFile" in block), None)
    if entry is None:
        return star, tomograms_path, ()
    if tomograms_path is None and "rlnTomoTomogramsFile" in entry:
        tomograms_path = _named_file(entry, "rlnTomoTomogramsFile")
    return read_star(_named_file(entry, "rlnTomoParticlesFile")), tomograms_path, (path,)


def _named_file(entry: Block, label: str) -> Path:
    token = entry.first(label)
    found = locate(token, entry.path.parent)
    if found is None:
        problem = f"{label} names {token}, which is neither in {entry.path.parent} nor in {Path.cwd()}"
        raise FormatError(entry.path, problem, "restore the file or run from the folder its paths start at")
    return found


def _tomograms_beside(path: Path) -> tuple[Path, tuple[Path, ...]]:
    """tomograms.star beside a particle list, or the one that an optimisation set there names for it; and that set."""
    for other in sorted(path.parent.glob("*optimisation_set.star")):
        entry = next((block for block in read_star(other).blocks if "rlnTomoTomogramsFile" in block), None)
        if entry is None or "rlnTomoParticlesFile" not in entry:
            continue
        named = locate(entry.first("rlnTomoParticlesFile"), other.parent)
        if named is not None and named.resolve() == path.resolve():
            return _named_file(entry, "rlnTomoTomogramsFile"), (other,)
    if (path.parent / "tomograms.star").is_file():
        return path.parent / "tomograms.star", ()
    raise FormatError(path, "lists 2-D stacks, and no tomograms.star is beside it", "pass --tomograms FILE")


def _particle_block(star: Star) -> Block:
    """The block of particles: data_particles, or the one with image names in lists of RELION 3.0 and older."""
    block = star.find("particles") or next((block for block in star.blocks if "rlnImageName" in block), None)
    if block is None:
        raise FormatError(star.path, "has no block data_particles and no column rlnImageName", "give a particle list")
    if len(block) == 0:
        raise FormatError(star.path, f"block data_{block.name} lists no particles", "give a list with particles")
    return block


def _are_stacks(star: Star) -> bool:
    general = star.find("general")
    label = "rlnTomoSubTomosAre2DStacks"
    return general is not None and label in general and len(general) > 0 and bool(general.numbers(label)[0])


# Poses


def _read_poses(source: StarSource) -> Pose:
    turned, flips = _frames(source)
    part = _rotations(source.particles, ANGLES)
    shift = -flips * turned.apply(_origins(source))
    return Pose(_mirrored(turned * part, flips), shift)


def pose_columns(source: StarSource, table: ParticleTable) -> dict[str, list[str]]:
    """The exact inverse of ``_read_poses``, for the rows of the table."""
    turned, flips = _frames(source)
    rows = np.asarray(table.rows)
    turned, flips = turned[rows], flips[rows]
    part = turned.inv() * _mirrored(table.poses.rotation, flips)
    origins = -turned.inv().apply(flips * table.poses.shift_angstrom)
    labels = _origin_labels(source)
    if labels == ORIGINS_PX:
        origins = origins / _pixel_sizes(source)[rows, None]
    angles = Pose(part.inv(), np.zeros_like(origins)).euler_zyz_deg()
    return {**_decimals(ANGLES, angles), **_decimals(labels, origins)}


def places_angstrom(table: ParticleTable) -> NDArray[np.float64] | None:
    """Where particles are in their tomograms, shifts included, (m, 3), xyz; None where the list does not say.

    The origins of the head: coordinate - A_s^T o.
    """
    source, coordinates = table.source, table.coordinates_angstrom
    if not isinstance(source, StarSource) or coordinates is None:
        return None
    turned, flips = _frames(source)
    if not source.series:
        turned = _rotations(source.particles, SUBTOMOGRAM_ANGLES)
        # A copy, because SciPy refuses to rotate read-only arrays.
        return coordinates + turned[np.asarray(table.rows)].apply(np.array(table.poses.shift_angstrom))
    return coordinates + flips[np.asarray(table.rows)] * table.poses.shift_angstrom


def _frames(source: StarSource) -> tuple[Rotation, NDArray[np.float64]]:
    """A_s^T of each particle and the diagonal of its D, shape (m, 3); neither turns a 3-D subtomogram."""
    count = len(source.particles)
    if not source.series:
        return Rotation.identity(count), np.ones((count, 3))
    hands = [source.series[name].hand for name in source.particles.text("rlnTomoName")]
    flips = np.stack([np.ones(count), np.ones(count), hands], axis=-1)  # (m, 3)
    return _rotations(source.particles, SUBTOMOGRAM_ANGLES), flips


def _rotations(particles: Block, labels: Sequence[str]) -> Rotation:
    """A^T of each particle; the identity where none of the three columns exists."""
    if not any(label in particles for label in labels):
        return Rotation.identity(len(particles))
    return Pose.from_euler_zyz_deg(particles.vectors(labels), np.zeros((len(particles), 3))).rotation.inv()


def _mirrored(rotations: Rotation, flips: NDArray[np.float64]) -> Rotation:
    return Rotation.from_matrix(flips[:, :, None] * rotations.as_matrix() * flips[:, None, :])


def _origin_labels(source: StarSource) -> tuple[str, str, str]:
    old = ORIGINS_PX[0] in source.particles or source.star.find("optics") is None
    return ORIGINS_PX if old and ORIGINS_ANGSTROM[0] not in source.particles else ORIGINS_ANGSTROM


def _origins(source: StarSource) -> NDArray[np.float64]:
    """RELION's origins in angstrom, shape (m, 3)."""
    labels = _origin_labels(source)
    if not any(label in source.particles for label in labels):
        return np.zeros((len(source.particles), 3))
    origins = source.particles.vectors(labels)
    return origins * _pixel_sizes(source)[:, None] if labels == ORIGINS_PX else origins


def _pixel_sizes(source: StarSource) -> NDArray[np.float64]:
    sizes = source.voxel_sizes_angstrom
    if source.options.voxel_size_angstrom is not None:
        return np.full(len(source.particles), source.options.voxel_size_angstrom)
    if sizes is None:
        raise FormatError(source.path, "has origins in pixels and no pixel size", "pass --voxel-size ANGSTROM")
    return sizes


# The other columns


def _names(particles: Block) -> tuple[str, ...]:
    label = name_label(particles)
    names = particles.text(label)
    if len(set(names)) != len(names):
        twice = Counter(names).most_common(1)[0][0]
        problem = f"column {label} holds {twice!r} more than once: results could not be told apart"
        raise FormatError(particles.path, problem, "remove the double rows or rename them")
    return names


def _tomogram_names(particles: Block) -> tuple[str, ...]:
    label = next((label for label in ("rlnTomoName", "rlnMicrographName") if label in particles), None)
    return particles.text(label) if label else ("",) * len(particles)


def _coordinates(source: StarSource) -> NDArray[np.float64] | None:
    particles = source.particles
    if all(label in particles for label in CENTRED):
        return particles.vectors(CENTRED)
    pixel = source.values("rlnTomoTiltSeriesPixelSize")
    if pixel is None or not all(label in particles for label in COORDINATES_PX):
        return None
    return particles.vectors(COORDINATES_PX) * pixel[:, None]


def _half_sets(particles: Block) -> NDArray[np.int8]:
    if "rlnRandomSubset" not in particles:
        return np.zeros(len(particles), dtype=np.int8)
    return particles.numbers("rlnRandomSubset").astype(np.int8)


def _half_set_column(block: Block, table: ParticleTable) -> dict[str, list[str]]:
    halves = np.asarray(table.half_sets)
    return {} if np.array_equal(_half_sets(block), halves) else {"rlnRandomSubset": [str(int(h)) for h in halves]}


def _own_columns(particles: Block) -> dict[str, NDArray]:
    """Columns that gonio wrote: numbers where all are, else text."""
    own = {label: particles.text(label) for label in particles.columns if label.startswith("gonio")}
    return {_own_name(label): _numbers_or_text(values) for label, values in own.items()}


def _dropped(particles: Block, table: ParticleTable) -> list[str]:
    """Labels of gonio's columns that the table has no more; those that state the wedge belong to the images."""
    own = [label for label in particles.columns if label.startswith("gonio") and label not in TILT_COLUMNS]
    return [label for label in own if _own_name(label) not in table.columns]


def _numbers_or_text(values: tuple[str, ...]) -> NDArray:
    try:
        return np.array(values, dtype=np.float64)
    except ValueError:
        return np.array(values)


def _own_label(name: str) -> str:
    """``log_likelihood`` is written as ``gonioLogLikelihood``; ``class_number`` is a word of RELION's."""
    if name == CLASS_NUMBER[0]:
        return CLASS_NUMBER[1]
    return "gonio" + "".join(part[:1].upper() + part[1:] for part in re.split(r"[^0-9A-Za-z]+", name))


def _own_name(label: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", label.removeprefix("gonio")).lower()


def _token(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    return f"{value:.9g}" if isinstance(value, float | np.floating) else str(value)


def _decimals(labels: Sequence[str], values: ArrayLike) -> dict[str, list[str]]:
    # Adding 0 turns -0 into 0, which reads better.
    rounded = np.round(np.asarray(values, dtype=np.float64), 6) + 0.0
    return {label: [f"{value:.6f}" for value in rounded[:, i]] for i, label in enumerate(labels)}


# Paths


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _moved_images(block: Block, old: Path, new: Path) -> dict[str, list[str]]:
    if old.parent.resolve() == new.parent.resolve():
        return {}
    return {label: _moved(block.text(label), old.parent, new.parent) for label in IMAGES if label in block}


def _moved(tokens: Iterable[str], old: Path, new: Path) -> list[str]:
    # Whether a folder's files still resolve is asked of one of its files only: lists are long and disks are slow.
    prefixes: dict[str, str | None] = {}
    moved = []
    for token in tokens:
        folder, _, name = token.rpartition("/")
        if folder not in prefixes:
            prefixes[folder] = _new_folder(token, old, new)
        prefix = prefixes[folder]
        moved.append(token if prefix is None else f"{prefix}/{name}")
    return moved


def _new_folder(token: str, old: Path, new: Path) -> str | None:
    """The folder of a file relative to ``new``, or None where its path from ``old`` is as good from there."""
    before, after = locate(token, old), locate(token, new)
    if before is None or (after is not None and after.resolve() == before.resolve()):
        return None
    return _relative(before.parent, new)


def _write_optimisation_set(path: Path, tomograms_path: Path) -> Path:
    target = path.parent / OPTIMISATION_SET
    if target.is_file() and not _is_set_of(target, path):
        target = path.parent / f"{path.stem}_{OPTIMISATION_SET}"
    names = {"rlnTomoParticlesFile": path.name, "rlnTomoTomogramsFile": _relative(tomograms_path, path.parent)}
    block = Block(target, "", {label: (name,) for label, name in names.items()}, is_loop=False)
    write_star(target, Star(target, (block,)))
    return target


def _is_set_of(target: Path, particles: Path) -> bool:
    entry = next((block for block in read_star(target).blocks if "rlnTomoParticlesFile" in block), None)
    if entry is None:
        return False
    named = locate(entry.first("rlnTomoParticlesFile"), target.parent)
    return named is not None and named.resolve() == particles.resolve()
