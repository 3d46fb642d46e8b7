"""Particle lists of RELION and WarpTools: poses in and out.

Owns every sign between RELION's angles and origins and gonio's poses. With A(rot, tilt, psi) = Rz(rot) Ry(tilt)
Rz(psi), A_p of rlnAngle*, A_s of rlnTomoSubtomogram* (identity where absent), o the origin in angstrom (RELION
subtracts it: position = coordinate - A_s^T o):

    tilt stacks          R = A_s^T A_p^T      t = -A_s^T o      (in the tomogram's frame)
    3-D subtomograms     R = A_p^T            t = -o            (in the box, which RELION cuts out rotated by A_s)

Where the tilts of stacks are read in the other sense (``StarSource.tilts_reversed``) their frame is the mirror image of
the tomogram's, D = diag(1, 1, -1): R = D A_s^T A_p^T D, t = -D A_s^T o. rlnTomoHand mirrors nothing.

Lengths of 2-D and 3-D particles alike are angstrom, angles in the files degrees. Everything that gonio does not
change goes back into a file as the text it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, read_star, write_star
from gonio.io.errors import FormatError, locate
from gonio.io.paths import moved_columns, relative
from gonio.io.positions import SERIES_PIXEL, are_centred, coordinate_pixels, coordinates_angstrom, pixels_by_tomogram
from gonio.io.source import (
    CENTRED,
    COORDINATES_PX,
    IMAGE_COLUMNS,
    REVERSED,
    STACKS,
    SUBTOMOGRAM_ANGLES,
    TILT_SENSE,
    ReadOptions,
    StarSource,
    name_label,
    named_file,
    tomograms_beside,
)
from gonio.io.star_columns import checked_names, own_columns
from gonio.io.text import decimals, own_label, own_name, token
from gonio.io.tilts import read_tilt_series
from gonio.io.unused import warn_of_unused
from gonio.particle.pose import Pose
from gonio.particle.table import BoxFrames, ParticleTable, mirrored
from gonio.particle.texts import Texts, packed
from gonio.particle.tilt_series import TiltSeries

ANGLES = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi")
ORIGINS_ANGSTROM = ("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst")
ORIGINS_PX = ("rlnOriginX", "rlnOriginY", "rlnOriginZ")
IMAGES = ("rlnImageName", "rlnCtfImage")
TOMOGRAMS = ("rlnTomoName", "rlnMicrographName")
HALF_SET, CLASS, SCORE = "rlnRandomSubset", "rlnClassNumber", "rlnAutopickFigureOfMerit"
CLASSES, HALVES = (-(2**31), 2**31 - 1), (0, 2)
FIELDS = (*ANGLES, *ORIGINS_ANGSTROM, *ORIGINS_PX, *CENTRED, *COORDINATES_PX, IMAGES[0], HALF_SET, CLASS, SCORE)
TILTS = {"rlnTomoYTilt", "rlnTomoProjX"}
BINNING = "rlnTomoSubtomogramBinning"
OPTIMISATION_SET = "optimisation_set.star"


def read_particles(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a RELION or WarpTools particle list, or an optimisation set; its particles load one at a time.

    Lists of 2-D stacks (rlnTomoSubTomosAre2DStacks 1) load as ``TiltStack``, others as ``Subtomogram``.
    ``coordinates_angstrom`` are rlnCenteredCoordinate*Angst (from the tomogram's centre) or else rlnCoordinate* times
    the size of the pixels that they count (from its first voxel): ``gonio.io.positions`` has the rule.
    """
    star, tomograms_path, sets = _open(path, options.tomograms_path)
    particles = _particle_block(star)
    series: dict[str, TiltSeries] = {}
    stacks, images_needed = _are_stacks(star), not options.may_count_pixels
    if stacks and tomograms_path is None:
        tomograms_path, found_by = tomograms_beside(star.path, needed=images_needed)
        sets += found_by
    if stacks and images_needed:
        assert tomograms_path is not None
        tomograms = read_star(tomograms_path)
        names, hand = dict.fromkeys(particles.text("rlnTomoName")), options.defocus_hand
        series = {name: read_tilt_series(tomograms, name, defocus_hand=hand) for name in names}
    source = StarSource(star, particles, series, tomograms_path, options, sets, stacks=stacks)
    pixels = coordinate_pixels(source)
    if pixels is None and are_centred(particles):
        pixels, source = _tomograms_pixels(source)
    in_angstrom = pixels is not None or _origin_labels(source) == ORIGINS_ANGSTROM
    shifts_in_angstrom = any(label in particles for label in ORIGINS_ANGSTROM)
    coordinates = coordinates_angstrom(particles, pixels, shifts_in_angstrom=shifts_in_angstrom)
    if series:
        source = replace(source, places_angstrom=_places(source, coordinates if in_angstrom else None))
        warn_of_unused(source)
    return ParticleTable(
        poses=_read_poses(source, pixels),
        names=_names(particles),
        tomograms=_tomogram_names(particles),
        coordinates_angstrom=coordinates,
        lengths="angstrom" if in_angstrom else "pixels",
        half_sets=_half_sets(particles),
        columns=_own_columns(source),
        source=source,
        coordinates_from="centre" if are_centred(particles) else "corner",
        pixel_sizes_angstrom=pixels,
        classes=particles.whole(CLASS, *CLASSES) if CLASS in particles else None,
        scores=particles.numbers(SCORE) if SCORE in particles else None,
        images=particles.text(IMAGES[0]) if IMAGES[0] in particles else None,
        extras=_extras(source),
        frames=_box_frames(source),
    )


def write_particles(path: Path, table: ParticleTable, with_optimisation_set: bool = True) -> tuple[Path, ...]:
    """Write a table back in the format it was read from.

    Poses, half sets where they changed, and ``table.columns`` (as ``gonioName``) are written; columns of gonio that the
    table no longer has are left out, and every other value is the text of the source. Paths that would no longer be
    found from the new folder are made relative to it, in every column and block.

    Parameters, files and errors as ``gonio.io.write_particles``; the table must be read by ``read_particles`` here.
    """
    source = _source(table)
    return _written(path, source, updated(source, table, path, pose_columns(table)), with_optimisation_set)


def write_rows(path: Path, table: ParticleTable, with_optimisation_set: bool = True) -> tuple[Path, ...]:
    """Write the rows of a table as they stand in the list that it was read from, poses included.

    Half sets that changed are written; paths, files and errors as ``write_particles``.
    """
    source = _source(table)
    rows = source.particles.take(np.asarray(table.rows))
    block = _moved(rows.with_columns(_changed(rows, table)), source, path)
    return _written(path, source, block, with_optimisation_set)


def _written(path: Path, source: StarSource, block: Block, with_optimisation_set: bool) -> tuple[Path, ...]:
    """Write the list of a source with another block of particles, and its optimisation set where it has tomograms."""
    blocks = tuple(block if old is source.particles else _moved(old, source, path) for old in source.star.blocks)
    write_star(path, replace(source.star, blocks=blocks))
    if not (with_optimisation_set and source.tomograms_path):
        return (path,)
    return (path, _write_optimisation_set(path, source))


def updated(source: StarSource, table: ParticleTable, path: Path, poses: Mapping[str, Iterable[str]]) -> Block:
    """Return the block of particles for the rows of a table, with new columns of poses, as the file ``path`` has it."""
    block = source.particles.without(_dropped(source.particles, table)).take(np.asarray(table.rows))
    block = block.with_columns(poses)
    block = _moved(block.with_columns(_changed(block, table)), source, path)
    return block.with_columns({own_label(name): map(token, column) for name, column in table.columns.items()})


def _places(source: StarSource, coordinates: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return where boxes are, from the centres of their tomograms, (m, 3); NaN where it is not known."""
    if coordinates is None:
        return np.full((len(source.particles), 3), np.nan)
    if are_centred(source.particles):
        return coordinates
    series = (source.series[name].centre_angstrom for name in source.particles.text("rlnTomoName"))
    return coordinates - np.array([np.full(3, np.nan) if centre is None else centre for centre in series])


def _source(table: ParticleTable) -> StarSource:
    if not isinstance(table.source, StarSource):
        raise ValueError(f"table must come from read_particles, its source is {table.source!r}")
    return table.source


# Which file is which


def _open(path: Path, tomograms_path: Path | None) -> tuple[Star, Path | None, tuple[Path, ...]]:
    """Return the particle list behind ``path``, where known its tomograms file, and the set that led there, if any."""
    star = read_star(path)
    entry = next((block for block in star.blocks if "rlnTomoParticlesFile" in block), None)
    if entry is None:
        return star, tomograms_path, ()
    if tomograms_path is None and "rlnTomoTomogramsFile" in entry:
        tomograms_path = named_file(entry, "rlnTomoTomogramsFile")
    return read_star(named_file(entry, "rlnTomoParticlesFile")), tomograms_path, (path,)


def _particle_block(star: Star) -> Block:
    """Return data_particles, or in lists of RELION 3.0 and Warp the block with images or positions."""
    wanted = ("rlnImageName", COORDINATES_PX[0], CENTRED[0])
    block = star.find("particles")
    block = block or next((block for block in star.blocks if any(label in block for label in wanted)), None)
    if block is None and (star.find("global") is not None or TILTS & {c for b in star.blocks for c in b.columns}):
        raise FormatError(star.path, "lists tomograms or tilts, no particles", "give the list of their particles")
    if block is None:
        raise FormatError(star.path, "has no block data_particles and no column rlnImageName", "give a particle list")
    if len(block) == 0:
        raise FormatError(star.path, f"block data_{block.name} lists no particles", "give a list with particles")
    return block


def _are_stacks(star: Star) -> bool:
    general = star.find("general")
    return general is not None and STACKS in general and len(general) > 0 and bool(general.numbers(STACKS)[0])


# Poses


def _read_poses(source: StarSource, pixels: NDArray[np.float64] | None) -> Pose:
    part = _rotations(source.particles, ANGLES)
    origins = _origins(source, pixels)
    if not source.stacks:
        return Pose(part, -origins)
    turned, flips = _rotations(source.particles, SUBTOMOGRAM_ANGLES), _flips(source)
    return Pose(mirrored(turned * part, flips), -flips * turned.apply(origins))


def pose_columns(table: ParticleTable) -> dict[str, Texts]:
    """Return angles and origins of a table in the labels and the frames of its list, the inverse of ``_read_poses``."""
    source, rows = _source(table), np.asarray(table.rows)
    part, origins = table.poses.rotation, -table.poses.shift_angstrom
    if source.stacks:
        turned, flips = _rotations(source.particles, SUBTOMOGRAM_ANGLES)[rows], _flips(source)[rows]
        part = turned.inv() * mirrored(part, flips)
        origins = turned.inv().apply(flips * origins)
    labels = _origin_labels(source)
    if labels == ORIGINS_PX:
        origins = origins / _pixel_sizes(source, table.pixel_sizes_angstrom)[rows, None]
    angles = Pose(part.inv(), np.zeros_like(origins)).euler_zyz_deg()
    return {**decimals(ANGLES, angles), **decimals(labels, origins)}


def _box_frames(source: StarSource) -> BoxFrames | None:
    """Return the frames of poses in the tomogram: D for stacks of reversed tilts, A_s^T for boxes cut out rotated."""
    if source.tilts_reversed.any():
        return BoxFrames(Rotation.identity(len(source.particles)), _flips(source))
    if source.stacks or not any(label in source.particles for label in SUBTOMOGRAM_ANGLES):
        return None
    lost = {label: ("0",) * len(source.particles) for label in SUBTOMOGRAM_ANGLES if label not in source.particles}
    turned = _rotations(source.particles.with_columns(lost), SUBTOMOGRAM_ANGLES)
    return BoxFrames(turned, np.ones((len(source.particles), 3)))


def _flips(source: StarSource) -> NDArray[np.float64]:
    """Return the diagonal of each particle's D, shape (m, 3)."""
    flips = np.ones((len(source.particles), 3))
    flips[source.tilts_reversed, 2] = -1.0
    return flips


def _rotations(particles: Block, labels: Sequence[str]) -> Rotation:
    """Return A^T of each particle; the identity where none of the three columns exists."""
    if not any(label in particles for label in labels):
        return Rotation.identity(len(particles))
    return Pose.from_euler_zyz_deg(particles.vectors(labels), np.zeros((len(particles), 3))).rotation.inv()


def _origin_labels(source: StarSource) -> tuple[str, str, str]:
    new = source.star.find("optics") is not None or are_centred(source.particles)
    old = ORIGINS_PX[0] in source.particles or not new
    return ORIGINS_PX if old and ORIGINS_ANGSTROM[0] not in source.particles else ORIGINS_ANGSTROM


def _origins(source: StarSource, pixels: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return RELION's origins in angstrom, shape (m, 3)."""
    labels = _origin_labels(source)
    if not any(label in source.particles for label in labels):
        return np.zeros((len(source.particles), 3))
    origins = source.particles.vectors(labels)
    return origins * _pixel_sizes(source, pixels)[:, None] if labels == ORIGINS_PX else origins


def _pixel_sizes(source: StarSource, pixels: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """Return the pixel sizes of the images, in which old origins count."""
    sizes = source.voxel_sizes_angstrom
    if source.options.voxel_size_angstrom is not None:
        return np.full(len(source.particles), source.options.voxel_size_angstrom)
    if sizes is not None:
        return sizes
    if pixels is None and not source.options.may_count_pixels:
        raise FormatError(source.path, "has origins in pixels and no pixel size", "pass --voxel-size ANGSTROM")
    return np.ones(len(source.particles)) if pixels is None else pixels


def _tomograms_pixels(source: StarSource) -> tuple[NDArray[np.float64] | None, StarSource]:
    """Return the pixels of the tilt series where only tomograms.star states them, and the source with that file."""
    path, sets = source.tomograms_path, source.sets
    if path is None:
        path, found_by = tomograms_beside(source.path, needed=False)
        sets += found_by
    if path is None:
        return None, source
    pixels = pixels_by_tomogram(path, _tomogram_names(source.particles))
    return pixels, source if pixels is None else replace(source, sets=(*sets, path))


# The other columns


def _names(particles: Block) -> Sequence[str]:
    label = name_label(particles)
    if label is None:
        return packed(f"{tomogram}/{row}" for row, tomogram in enumerate(_tomogram_names(particles), start=1))
    return checked_names(particles, label, particles.text(label))


def tomogram_label(particles: Block) -> str | None:
    """Return the column that names tomograms."""
    return next((label for label in TOMOGRAMS if label in particles), None)


def _tomogram_names(particles: Block) -> Sequence[str]:
    label = tomogram_label(particles)
    return particles.text(label) if label else ("",) * len(particles)


def _extras(source: StarSource) -> dict[str, Sequence[str]]:
    """Return the columns that are no field of the table: of rows and optics groups, and whether images are stacks."""
    star, particles = source.star, source.particles
    fields = {*FIELDS, name_label(particles), tomogram_label(particles)}
    extras: dict[str, Sequence[str]] = {}
    general, optics = star.find("general"), star.find("optics")
    if general is not None and general.columns and len(general) == 1:
        extras |= {label: (value,) * len(particles) for label, (value,) in general.columns.items()}
    if optics is not None:
        extras |= optics.take(source.optics_rows).columns
    if source.options.pixel_size_angstrom is not None:  # which stands in the place of these
        fields |= {SERIES_PIXEL, BINNING}
    own = (label for label in particles.columns if not label.startswith("gonio") or label in IMAGE_COLUMNS)
    extras |= {label: particles.text(label) for label in own}
    return {label: values for label, values in extras.items() if label not in fields}


def _half_sets(particles: Block) -> NDArray[np.int8]:
    if HALF_SET not in particles:
        return np.zeros(len(particles), dtype=np.int8)
    return particles.whole(HALF_SET, *HALVES).astype(np.int8)


def _changed(block: Block, table: ParticleTable) -> dict[str, Texts]:
    """Return half sets, classes and scores that are no longer those of the list."""
    changed: dict[str, Texts] = {}
    if not np.array_equal(_half_sets(block), np.asarray(table.half_sets)):
        changed[HALF_SET] = Texts(np.asarray(table.half_sets), str)
    for label, values in ((CLASS, table.classes), (SCORE, table.scores)):
        if values is not None and not (label in block and np.array_equal(block.numbers(label), values)):
            changed[label] = Texts(values, token)
    return changed


def _own_columns(source: StarSource) -> dict[str, NDArray]:
    """Return columns that gonio wrote, as numbers where all are, and the sense of the tilts where it is reversed."""
    columns = own_columns(source.particles)
    if source.options.reverse_tilts and source.tilts_reversed.any():
        columns[TILT_SENSE] = np.full(len(source.particles), REVERSED)
    return columns


def _dropped(particles: Block, table: ParticleTable) -> list[str]:
    """Return labels of gonio's columns that the table lost; those that state the wedge belong to the images."""
    own = [label for label in particles.columns if label.startswith("gonio") and label not in IMAGE_COLUMNS]
    return [label for label in own if own_name(label) not in table.columns]


# Paths


def _moved(block: Block, source: StarSource, new: Path) -> Block:
    return block.with_columns(moved_columns(block.columns, source.path.parent, new.parent))


def _write_optimisation_set(path: Path, source: StarSource) -> Path:
    """Write an optimisation set of the list, its tomograms and other files named by the set that it was read from."""
    assert source.tomograms_path is not None  # write_particles has asked for it
    target = path.parent / OPTIMISATION_SET
    if target.is_file() and not _is_set_of(target, path):
        target = path.parent / f"{path.stem}_{OPTIMISATION_SET}"
    columns: dict[str, Sequence[str]] = {}
    for read in source.sets:
        entry = next((block for block in read_star(read).blocks if "rlnTomoParticlesFile" in block), None)
        if entry is not None:
            columns |= {**entry.columns, **moved_columns(entry.columns, read.parent, path.parent)}
    columns["rlnTomoParticlesFile"] = (path.name,)
    columns["rlnTomoTomogramsFile"] = (relative(source.tomograms_path, path.parent),)
    block = Block(target, "", {label: tuple(values[:1]) for label, values in columns.items()}, is_loop=False)
    write_star(target, Star(target, (block,)))
    return target


def _is_set_of(target: Path, particles: Path) -> bool:
    entry = next((block for block in read_star(target).blocks if "rlnTomoParticlesFile" in block), None)
    named = None if entry is None else locate(entry.first("rlnTomoParticlesFile"), target.parent)
    return named is not None and named.resolve() == particles.resolve()
