"""Particle lists of RELION 3.0 to 5, Warp and M, made new from the particles of any list.

``star`` owns the angles and the geometry; this module owns which columns each version has, and in which block:

    warp    one block; positions with shifts, in pixels                    rlnCoordinate*, rlnMicrographName
    3.0     one block; coordinates and origins in pixels                   rlnOriginX, rlnPixelSize
    3.1     data_optics, data_particles; origins in angstrom               rlnOriginXAngst, rlnImagePixelSize
    4       tomograms and particles by name; unbinned pixels               rlnTomoName, rlnTomoParticleName
    5       coordinates in angstrom from the tomogram's centre             rlnCenteredCoordinateXAngst

RELION src/metadata_label.h, src/jaz/tomography/particle_set.cpp. Coordinates count from 0, the first voxel's centre.
Where a list states how its boxes were rotated when they were cut out (rlnTomoSubtomogramRot, ...) that stays, and the
angles of the particle are those in the box (versions 4 and 5); older versions get the angles in the tomogram, and
priors of angles rotated likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, write_star
from gonio.io.errors import FormatError
from gonio.io.paths import folder_of, moved
from gonio.io.source import CENTRED, COORDINATES_PX, NAME, STACKS, SUBTOMOGRAM_ANGLES, TILT_COLUMNS
from gonio.io.star import ANGLES, CLASS, HALF_SET, IMAGES, ORIGINS_ANGSTROM, ORIGINS_PX, SCORE, TOMOGRAMS
from gonio.io.star_columns import own_texts
from gonio.io.text import decimals, number_text, plain_floats
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.texts import Texts, packed

VERSIONS = ("warp", "3.0", "3.1", "4", "5")
STAR_VERSION = {"3.1": "30001", "4": "30001", "5": "50001"}
PRIORS = ("rlnAngleRotPrior", "rlnAngleTiltPrior", "rlnAnglePsiPrior")
GROUP, GROUP_NAME = "rlnOpticsGroup", "rlnOpticsGroupName"
SERIES_PIXEL, BINNING, IMAGE_PIXEL = "rlnTomoTiltSeriesPixelSize", "rlnTomoSubtomogramBinning", "rlnImagePixelSize"
OLD_PIXEL = "rlnPixelSize"
OPTICS = (
    *(GROUP_NAME, "rlnSphericalAberration", "rlnVoltage", SERIES_PIXEL, "rlnCtfDataAreCtfPremultiplied"),
    *("rlnImageDimensionality", BINNING, IMAGE_PIXEL, "rlnImageSize", "rlnAmplitudeContrast", *TILT_COLUMNS),
    *("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize", "rlnBeamTiltX", "rlnBeamTiltY"),
)


def write_relion(path: Path, table: ParticleTable, version: str) -> tuple[Path, ...]:
    """Write a list of a RELION version, or of Warp (``version="warp"``).

    Parameters
    ----------
    table
        Its coordinates from the corner, for version 5 from the centre.

    Raises
    ------
    FormatError
        If the version needs a pixel size that is not known, or the file cannot be written.
    """
    rows = _rows(path, table, version)
    blocks = [Block(path, "", rows)] if version in ("warp", "3.0") else blocks_of(path, rows, version)
    write_star(path, Star(path, tuple(blocks), STAR_VERSION.get(version)))
    return (path,)


def _rows(path: Path, table: ParticleTable, version: str) -> dict[str, Sequence[str]]:
    """Return all columns of the list, those of optics among them."""
    extras = dict(table.extras)
    boxed = version in ("4", "5") and all(label in extras for label in SUBTOMOGRAM_ANGLES)
    if not boxed:
        extras = _in_tomogram(extras)
    made: dict[str, Sequence[str]] = {}
    if any(table.tomograms):
        if version in ("4", "5"):
            made[TOMOGRAMS[0]] = table.tomograms
        else:  # whose tomograms are files
            made[TOMOGRAMS[1]] = moved(table.tomograms, folder_of(table), path.parent)
    if version in ("4", "5"):
        made[NAME] = table.names
    made |= _places(table, version)
    made |= _poses(path, table, version, _turned(extras) if boxed else None)
    made |= _facts(path, table, version)
    made |= _sizes(table, version, extras)
    if version not in ("4", "5") and table.pixel_sizes_angstrom is not None:
        extras.pop(SERIES_PIXEL, None)  # it may differ from the pixels that coordinates count
    free = {label: values for label, values in extras.items() if label not in made}
    return {**made, **free, **own_texts(table)}


def _in_tomogram(extras: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return columns without the angles at which boxes were cut out; priors are rotated, or left out (``lost_priors``).

    Tilt and psi alone state the direction of a particle's axis, whatever its rot.
    """
    dropped = {*SUBTOMOGRAM_ANGLES, *lost_priors(extras)}
    kept = {label: values for label, values in extras.items() if label not in dropped}
    if not all(label in extras for label in SUBTOMOGRAM_ANGLES) or PRIORS[1] not in kept:
        return kept
    zero = ("0",) * len(extras[SUBTOMOGRAM_ANGLES[0]])
    stated = np.array([plain_floats(kept.get(label, zero)) for label in PRIORS]).T  # (m, 3)
    nowhere = np.zeros(stated.shape)
    rotation = _turned(extras) * Pose.from_euler_zyz_deg(stated, nowhere).rotation.inv()
    angles = decimals(PRIORS, Pose(rotation.inv(), nowhere).euler_zyz_deg())
    return {**kept, **{label: angles[label] for label in PRIORS if label in kept}}


def lost_priors(extras: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the labels of priors that cannot be rotated into the tomogram, as tilt or psi is missing beside them."""
    stated = [label for label in PRIORS if label in extras]
    turned = all(label in extras for label in SUBTOMOGRAM_ANGLES)
    return stated if turned and not all(label in extras for label in PRIORS[1:]) else []


def shown(table: ParticleTable, version: str) -> dict[str, Sequence[str]]:
    """Return positions, shifts and angles as the version has them."""
    rows = _rows(Path(), table, version)
    labels = (*CENTRED, *COORDINATES_PX, *ORIGINS_ANGSTROM, *ORIGINS_PX, *SUBTOMOGRAM_ANGLES, *ANGLES)
    return {label: rows[label] for label in labels if label in rows}


def _turned(extras: Mapping[str, Sequence[str]]) -> Rotation:
    """Return A_s^T of each particle."""
    angles = np.array([extras[label] for label in SUBTOMOGRAM_ANGLES], dtype=np.float64).T  # (m, 3)
    return Pose.from_euler_zyz_deg(angles, np.zeros(angles.shape)).rotation.inv()


def _places(table: ParticleTable, version: str) -> Mapping[str, Sequence[str]]:
    if table.coordinates_angstrom is None:
        return {}
    if version == "5":
        return decimals(CENTRED, table.coordinates_angstrom)
    places = table.coordinates_angstrom
    if version == "warp":
        places = places + table.tomogram_poses.shift_angstrom
    pixels = _counted_pixels(table, version)
    return decimals(COORDINATES_PX, places if pixels is None else places / pixels[:, None])


def _poses(path: Path, table: ParticleTable, version: str, turned: Rotation | None) -> Mapping[str, Sequence[str]]:
    poses = table.tomogram_poses
    rotation, origins = poses.rotation, -poses.shift_angstrom
    if turned is not None:
        rotation, origins = turned.inv() * rotation, turned.inv().apply(origins)
    angles = decimals(ANGLES, Pose(rotation.inv(), np.zeros_like(origins)).euler_zyz_deg())
    if version == "warp":
        return angles
    if version == "3.0":
        image = _image_pixels(table)
        return {**angles, **decimals(ORIGINS_PX, origins / (1.0 if image is None else image[:, None]))}
    if table.lengths == "pixels":
        raise FormatError(
            path,
            f"RELION {version} lists count in angstrom, and the pixel size is not known",
            "pass --pixel-size ANGSTROM",
        )
    return {**angles, **decimals(ORIGINS_ANGSTROM, origins)}


def _facts(path: Path, table: ParticleTable, version: str) -> dict[str, Sequence[str]]:
    made: dict[str, Sequence[str]] = {}
    if table.images is not None:
        made[IMAGES[0]] = moved(table.images, folder_of(table), path.parent)
    elif version in ("3.0", "3.1"):  # which have no other name for particles
        made[IMAGES[0]] = table.names
    if version in ("3.0", "3.1", "warp") and tuple(made.get(IMAGES[0], ())) != tuple(table.names):
        made[NAME] = table.names
    if np.any(table.half_sets):
        made[HALF_SET] = Texts(np.asarray(table.half_sets), str)
    if table.classes is not None:
        made[CLASS] = Texts(table.classes, str)
    if table.scores is not None:
        made[SCORE] = Texts(table.scores, number_text)
    return made


def _sizes(table: ParticleTable, version: str, extras: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the pixel sizes of coordinates and of images, where they are known."""
    pixels, image = _counted_pixels(table, version), _image_pixels(table)
    if pixels is None or image is None:
        return {}
    if version in ("warp", "3.0"):
        return {OLD_PIXEL: _sizes_text(image), **_only_if_other(SERIES_PIXEL, pixels, image)}
    made: dict[str, Sequence[str]] = {IMAGE_PIXEL: _sizes_text(image)}
    if version == "3.1":
        return {**made, **_only_if_other(SERIES_PIXEL, pixels, image)}
    made[SERIES_PIXEL] = _sizes_text(pixels)
    made[BINNING] = extras.get(BINNING) or _sizes_text(image / pixels)
    made["rlnImageDimensionality"] = extras.get("rlnImageDimensionality") or ("3",) * len(table)
    return made


def _only_if_other(label: str, pixels: NDArray[np.float64], image: NDArray[np.float64]) -> dict[str, Sequence[str]]:
    return {} if np.allclose(pixels, image) else {label: _sizes_text(pixels)}


def _sizes_text(sizes: NDArray[np.float64]) -> Texts:
    return Texts(sizes, "{:.9g}".format)


def _image_pixels(table: ParticleTable) -> NDArray[np.float64] | None:
    """Return the pixel sizes of the images as the list states them, else those of the coordinates."""
    for label in (IMAGE_PIXEL, OLD_PIXEL):
        if label in table.extras:
            return plain_floats(table.extras[label])
    return table.pixel_sizes_angstrom


def _counted_pixels(table: ParticleTable, version: str) -> NDArray[np.float64] | None:
    """Return the pixel sizes of coordinates: from version 4 on those of the tilt series, except WarpTools' stacks."""
    if version in ("4", "5") and SERIES_PIXEL in table.extras and table.pixel_sizes_angstrom is not None:
        return np.array(table.extras[SERIES_PIXEL], dtype=np.float64)
    return table.pixel_sizes_angstrom


def blocks_of(path: Path, rows: Mapping[str, Sequence[str]], version: str) -> Sequence[Block]:
    """Return data_general, data_optics and data_particles, from one table."""
    count = len(next(iter(rows.values())))
    labels = [label for label in OPTICS if label in rows and label != GROUP_NAME]
    groups = _groups(
        rows.get(GROUP), lambda: zip(*(rows[label] for label in labels), strict=True) if labels else repeat((), count)
    )
    names = rows.get(GROUP_NAME)
    first: dict[str, int] = {}
    for row, group in enumerate(groups):
        first.setdefault(group, row)
    order = sorted(first, key=lambda group: (len(group), group))
    optics = {
        GROUP: tuple(order),
        GROUP_NAME: tuple(names[first[group]] if names else f"opticsGroup{group}" for group in order),
        **{label: tuple(rows[label][first[group]] for group in order) for label in labels},
    }
    inner = (*OPTICS, STACKS)
    particles = {label: values for label, values in rows.items() if label not in inner} | {GROUP: groups}
    blocks = [Block(path, "optics", optics), Block(path, "particles", particles)]
    if version == "5":
        stacks = rows.get(STACKS, ("0",))[0]
        blocks.insert(0, Block(path, "general", {STACKS: (stacks,)}, is_loop=False))
    return blocks


def _groups(stated: Sequence[str] | None, kinds: Callable[[], Iterable[tuple[str, ...]]]) -> Sequence[str]:
    """Return the optics group of each particle: as stated where each group is of one kind, else one for each kind."""
    if stated is not None and len(set(zip(stated, kinds(), strict=True))) == len(set(stated)):
        return stated
    numbers = {kind: str(number) for number, kind in enumerate(dict.fromkeys(kinds()), start=1)}
    return packed(map(numbers.__getitem__, kinds()))
