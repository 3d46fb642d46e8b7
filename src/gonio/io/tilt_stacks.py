"""New sets of tilt stacks for RELION 5: tomograms.star with a file for each tilt series, and the list of particles.

Owns which columns state a tilt series and the particles cut out of it (RELION src/jaz/tomography/tomogram_set.cpp,
particle_set.cpp); ``gonio.io.tilts`` reads the former back, ``gonio.io.star`` the latter:

    tomograms.star              one row a tomogram: optics, hand, pixel size, size, and the file of its tilt series
    tilt_series/NAME.star       one row an image: angles and shifts, defocus, dose, scale
    particles.star              one row a particle: its place from the tomogram's centre, its pose, which images show it
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, write_star
from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.errors import FormatError
from gonio.io.lists import write_particles
from gonio.io.names import file_stems
from gonio.io.relion import BINNING, IMAGE_PIXEL, SERIES_PIXEL
from gonio.io.source import PREMULTIPLIED, STACKS
from gonio.io.star import OPTIMISATION_SET
from gonio.io.text import decimals, token
from gonio.io.tilts import (
    ANGLES,
    CUT,
    CUT_DEFOCUS,
    CUT_SCALE,
    DEFOCUS,
    DEFORMATION,
    DEFORMED_SINCE_CUT,
    DOSE,
    HAND,
    OPTICS,
    PLATE,
    SCALE,
    SHIFTS,
    SIZES,
    SLOPE,
    STAGE_TILT,
)
from gonio.particle.table import ParticleTable
from gonio.particle.tilt_change import full_projections
from gonio.particle.tilt_series import Optics, TiltSeries

FOLDER = "tilt_series"
_VERSION = "50001"
# RELION's size of a tomogram that is not set.
_NOT_SET = (-999, -999, -999)


@dataclass(frozen=True)
class ListedSeries:
    """A tilt series and what tomograms.star states of it besides.

    Parameters
    ----------
    name
        Name of the tomogram.
    series
        Its geometry, dose, defocus and optics.
    images
        Each image as the file has it, ``NUMBER@STACK``; none where images are in no file.
    pixel_size_angstrom
        Size of their pixels.
    size_px
        Size of the tomogram in such pixels, xyz; None where it is not known.
    """

    name: str
    series: TiltSeries
    images: Sequence[str]
    pixel_size_angstrom: float
    size_px: tuple[int, int, int] | None


def write_tomograms(path: Path, listed: Sequence[ListedSeries]) -> tuple[Path, ...]:
    """Write tomograms.star and, in the folder ``tilt_series`` beside it, the file of each series.

    Raises
    ------
    FormatError
        If a series states no optics or shifts, or a file cannot be written.
    """
    stems = file_stems(one.name for one in listed)
    files = [path.parent / FOLDER / f"{stems[one.name]}.star" for one in listed]
    for file, one in zip(files, listed, strict=True):
        file.parent.mkdir(exist_ok=True)
        write_star(file, Star(file, (Block(file, one.name, _tilts(file, one)),), version=_VERSION))
    rows = [_overview(path, one) for one in listed]
    columns = {label: tuple(row[label] for row in rows) for label in rows[0]}
    columns["rlnTomoTiltSeriesStarFile"] = tuple(f"{FOLDER}/{file.name}" for file in files)
    write_star(path, Star(path, (Block(path, "global", columns),), version=_VERSION))
    return (path, *files)


def _overview(path: Path, one: ListedSeries) -> dict[str, str]:
    optics = one.series.optics
    if optics is None:
        raise FormatError(path, f"needs the optics of {one.name!r}", "give voltage, aberration and amplitude contrast")
    sign = 1.0 if one.series.defocus_per_depth >= 0 else -1.0
    slope = abs(one.series.defocus_per_depth)
    return {
        "rlnTomoName": one.name,
        **_optics_texts(optics),
        "rlnMicrographOriginalPixelSize": token(one.pixel_size_angstrom),
        HAND: f"{sign:.0f}",
        "rlnOpticsGroupName": "opticsGroup1",
        SERIES_PIXEL: token(one.pixel_size_angstrom),
        **dict(zip(SIZES, map(str, one.size_px or _NOT_SET), strict=True)),
        **({} if slope == 1.0 else {SLOPE: token(slope)}),
    }


def _optics_texts(optics: Optics) -> dict[str, str]:
    values = (optics.voltage_kv, optics.spherical_aberration_mm, optics.amplitude_contrast)
    return dict(zip(OPTICS, map(token, values), strict=True))


def _tilts(path: Path, one: ListedSeries) -> dict[str, Sequence[str]]:
    series = one.series
    if series.shifts_angstrom is None:
        raise FormatError(path, f"needs the shifts of the images of {one.name!r}", "align the tilt series")
    columns: dict[str, Sequence[str]] = {"rlnMicrographName": tuple(one.images)} if one.images else {}
    columns |= _geometry_columns(series)
    columns |= {} if series.defocus is None else decimals(DEFOCUS, series.defocus)
    for label, values in ((DOSE, series.dose), (SCALE, series.scale), (PLATE, series.phase_shift_deg)):
        columns |= {} if values is None else decimals([label], values[:, None])
    return {**columns, **decimals([STAGE_TILT], series.tilts_deg[:, None])}


def _geometry_columns(series: TiltSeries) -> dict[str, Sequence[str]]:
    """Return the angles and shifts of a series, and with which geometry its stacks were cut out, as columns."""
    matrices = Rotation.from_matrix(full_projections(series))
    angles = matrices.as_euler("xyz", degrees=True, suppress_warnings=True)  # P = Rz Ry Rx, x first
    columns: dict[str, Sequence[str]] = dict(decimals(ANGLES, angles))
    if series.shifts_angstrom is not None:
        columns |= decimals(SHIFTS, series.shifts_angstrom)
    return columns | cut_columns(series)


def cut_columns(series: TiltSeries) -> dict[str, Sequence[str]]:
    """Return gonio's own columns: deformation, and with which geometry stacks were cut out where it is another."""
    cut, since = series.cut_projections_xyz, series.shift_since_cut_angstrom
    stated = {} if series.deformation is None else {DEFORMATION: series.deformation.reshape(-1, 4)}
    if cut is not None and since is not None:
        stated |= zip(CUT, (cut[:, 0], cut[:, 1], since), strict=True)
        if series.cut_defocus is not None:
            stated[CUT_DEFOCUS] = series.cut_defocus
        if series.deformation_since_cut is not None:
            stated[DEFORMED_SINCE_CUT] = series.deformation_since_cut.reshape(-1, 4)
    columns: dict[str, Sequence[str]] = {label: tuple(map(row_text, rows)) for label, rows in stated.items()}
    return columns if series.cut_scale is None else columns | decimals([CUT_SCALE], series.cut_scale[:, None])


def row_text(values: ArrayLike) -> str:
    """Return numbers as RELION writes a row of them: ``[1,2,3]``."""
    return f"[{','.join(f'{value:.9g}' for value in np.asarray(values).tolist())}]"


def write_optimisation_set(folder: Path) -> Path:
    """Write the optimisation set of particles.star and tomograms.star in a folder."""
    path = folder / OPTIMISATION_SET
    named = {"rlnTomoParticlesFile": ("particles.star",), "rlnTomoTomogramsFile": ("tomograms.star",)}
    write_star(path, Star(path, (Block(path, "", named, is_loop=False),)))
    return path


def write_stack_list(
    path: Path,
    table: ParticleTable,
    *,
    images: Sequence[str],
    visible: Sequence[NDArray[np.bool_]],
    series_pixel_angstrom: float,
    image_pixel_angstrom: float,
    box: int,
    premultiplied: bool,
    optics: Sequence[Optics],
    sizes: TomogramSizes,
    centre: str = "size/2",
) -> None:
    """Write the list of stacks for RELION 5.

    Parameters
    ----------
    table
        The particles, their poses in the frame of the tomogram.
    images
        Stack of each of m particles, as seen from the list's folder.
    visible
        Of each particle which images of its series show it; the stack holds these.
    series_pixel_angstrom, image_pixel_angstrom
        Size of the pixels of the tilt series and of the stacks.
    box
        Edge of the stacks' images.
    premultiplied
        Whether they are multiplied by their contrast transfer.
    optics
        The microscope of each particle.
    sizes, centre
        Sizes of the tomograms, and which point is their centre, for positions that count from the corner.

    Raises
    ------
    FormatError
        If it cannot be written.
    """
    count = len(table)
    texts = [_optics_texts(one) for one in optics]
    stated = {
        STACKS: "1",
        "rlnImageDimensionality": "2",
        IMAGE_PIXEL: token(image_pixel_angstrom),
        SERIES_PIXEL: token(series_pixel_angstrom),
        BINNING: token(image_pixel_angstrom / series_pixel_angstrom),
        "rlnImageSize": str(box),
        PREMULTIPLIED: str(int(premultiplied)),
    }
    extras = {
        **table.extras,
        **{label: (value,) * count for label, value in stated.items()},
        **{label: tuple(text[label] for text in texts) for label in OPTICS},
        "rlnTomoVisibleFrames": tuple(row_text(one.astype(int)) for one in visible),
    }
    made = replace(
        table,
        images=tuple(images),
        extras=extras,
        pixel_sizes_angstrom=np.full(count, series_pixel_angstrom),
        source=None,
        rows=None,
    )
    write_particles(path, made, format="relion5", options=WriteOptions(sizes=sizes, centre=centre))
