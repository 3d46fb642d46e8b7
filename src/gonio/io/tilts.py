"""The tilt series behind a particle: projections, defocus, envelope and dose from RELION's tomograms.star.

Owns the two ways in which RELION and WarpTools state a projection:

    rlnTomoProjX, Y, Z, W               rows of a 4 x 4 matrix from tomogram to image (RELION 4, WarpTools)
    rlnTomoXTilt, YTilt, ZRot           degrees, P = Rz(ZRot) Ry(YTilt) Rx(XTilt) about fixed axes (RELION 5,
                                        src/jaz/tomography/tomogram.cpp: getProjectionMatrix)

The rows of P are the image's x and y axes and the beam in the tomogram. A place p from the tomogram's centre lies in an
image at P p + s from its centre pixel, s = (rlnTomoXShiftAngst, rlnTomoYShiftAngst), or, where p is counted in pixels
from the corner, at P p + W from the first pixel, W the fourth numbers of rlnTomoProjX, Y. Where a geometry was changed
since stacks were cut out, gonioCutProjX, Y and gonioCutDefocus hold what they were cut out with, as rows of numbers,
gonioCutScale the strength, and gonioShiftSinceCutAngst by how much s has changed. gonioDeformation holds the rows of D
(2 x 2), by which a place lies at D (p_x, p_y) from there, and gonioDeformationSinceCut by how much it has changed since
stacks were cut out. And the sign of the change of defocus
with a particle's depth d along the beam, counted from the tomogram's centre:

    RELION      rlnTomoHand rlnTomoDefocusSlope d       (src/jaz/tomography/tomogram.cpp: Tomogram::getCtf)
    WarpTools   -rlnTomoHand d                          (WarpLib/TiltSeries/TiltSeries.cs: GetPositionInAllTilts)

Which of the two holds is decided by a tomogram's name, or by the caller (``DefocusHand``).

The hand has no other meaning: it mirrors nothing. WarpTools adds the depth to the defocus unless a series'
angles are inverted, and writes hand -1 for series whose angles are not: the images that it has multiplied by their CTF
have the sign given here (docs/conventions.md has the measurement). Its tomograms are called NAME.tomostar.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, read_star
from gonio.io.errors import FormatError, locate
from gonio.io.text import plain_floats
from gonio.particle.tilt_series import Optics, TiltSeries

ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
SHIFTS = ("rlnTomoXShiftAngst", "rlnTomoYShiftAngst")
# Axes of the images with which stacks were cut out, by how much shifts have changed since; defocus and strength before.
CUT = ("gonioCutProjX", "gonioCutProjY", "gonioShiftSinceCutAngst")
CUT_DEFOCUS, CUT_SCALE = "gonioCutDefocus", "gonioCutScale"
# Shift of images for each angstrom of a place, and how much of that stacks were cut out without.
DEFORMATION, DEFORMED_SINCE_CUT = "gonioDeformation", "gonioDeformationSinceCut"
STAGE_TILT = "rlnTomoNominalStageTiltAngle"
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")
DOSE, SCALE, BFACTOR, PLATE = "rlnMicrographPreExposure", "rlnCtfScalefactor", "rlnCtfBfactor", "rlnPhaseShift"
HAND, SLOPE, BFACTOR_PER_DOSE = "rlnTomoHand", "rlnTomoDefocusSlope", "rlnCtfBfactorPerElectronDose"
SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")
PIXEL = "rlnTomoTiltSeriesPixelSize"
WARPS_ENDING = ".tomostar"


class DefocusHand(StrEnum):
    """Meaning of rlnTomoHand: RELION adds hand times depth to the defocus, WarpTools subtracts it."""

    RELION = "relion"
    WARP = "warp"


def read_tilt_series(tomograms: Star, name: str, *, defocus_hand: DefocusHand | None = None) -> TiltSeries:
    """Read the tilt series of one tomogram, from the block of its name or the file that the global block names.

    ``defocus_hand`` None is WarpTools' meaning for tomograms with its names and RELION's for others.
    """
    tilts, row = tilt_block(tomograms, name)
    known = Optics(*row.vectors(OPTICS)[0].tolist()) if all(label in row for label in OPTICS) else None
    series = series_of_block(tilts)
    plate = series.phase_shift_deg
    if plate is None and PLATE in row:
        plate = np.full(len(series), row.numbers(PLATE)[0])
    return replace(
        series,
        optics=known,
        phase_shift_deg=plate,
        bfactor_per_dose=float(row.numbers(BFACTOR_PER_DOSE)[0]) if BFACTOR_PER_DOSE in row else 0.0,
        defocus_per_depth=_defocus_per_depth(row, name, defocus_hand),
        centre_angstrom=_centre(row),
    )


def tilt_block(tomograms: Star, name: str) -> tuple[Block, Block]:
    """Return the tilts of a tomogram, and its row in the list of tomograms.

    Raises
    ------
    FormatError
        If it is not listed, or its tilts are not found.
    """
    overview = tomograms.find("global")
    if overview is None or name not in overview.text("rlnTomoName"):
        raise FormatError(tomograms.path, f"has no tomogram {name!r}", "give the list it belongs to")
    row = overview.take([list(overview.text("rlnTomoName")).index(name)])
    tilts = _tilts(tomograms, row, name)
    if len(tilts) == 0:
        raise FormatError(tilts.path, f"block data_{tilts.name} lists no tilts", "write the file again")
    return tilts, row


def matrix_offsets(tilts: Block) -> NDArray[np.float64] | None:
    """Return W of projections that count pixels from corner to corner, (t, 2); None where they are stated as angles."""
    if "rlnTomoProjX" not in tilts:
        return None
    return np.stack([matrix_rows(tilts, label, 4)[:, 3] for label in ("rlnTomoProjX", "rlnTomoProjY")], axis=1)


def _defocus_per_depth(row: Block, name: str, defocus_hand: DefocusHand | None) -> float:
    if HAND not in row:
        return 0.0
    hand = float(row.numbers(HAND)[0])
    if hand not in (1.0, -1.0):
        raise FormatError(row.path, f"{HAND} of {name!r} is {hand:g}", "set it to 1 or -1")
    if name.endswith(WARPS_ENDING) if defocus_hand is None else defocus_hand == DefocusHand.WARP:
        return -hand
    return hand * (float(row.numbers(SLOPE)[0]) if SLOPE in row else 1.0)


def _centre(row: Block) -> NDArray[np.float64] | None:
    """Return the centre of a tomogram from that of its first voxel, angstrom; None where its size is not set."""
    if PIXEL not in row or not all(label in row for label in SIZES):
        return None
    try:
        size = plain_floats([row.text(label)[0] for label in SIZES])
    except ValueError:
        return None  # blank, or "None": not set
    return None if not (size >= 1).all() else 0.5 * size * float(row.numbers(PIXEL)[0])


def series_of_block(tilts: Block) -> TiltSeries:
    """Return one tilt series from a block of its tilts alone, which states neither hand, size nor microscope.

    Tilts that were not aligned are taken from the stage: then the tilt axis is y, as in the tomogram it will be.
    """
    if "rlnTomoProjX" in tilts or "rlnTomoYTilt" in tilts or STAGE_TILT not in tilts:
        projections, beams = _projections(tilts)
    else:
        projections, beams = TiltSeries.of_angles(tilts.path, tilts.numbers(STAGE_TILT)).projections_xyz, None
    cut, since = _cut(tilts)
    return TiltSeries(
        path=tilts.path,
        projections_xyz=projections,
        defocus=tilts.vectors(DEFOCUS) if all(label in tilts for label in DEFOCUS) else None,
        dose=_column(tilts, DOSE),
        scale=_column(tilts, SCALE),
        phase_shift_deg=_column(tilts, PLATE),
        bfactor_angstrom2=bfactors(tilts) if BFACTOR in tilts else None,
        beams_xyz=beams,
        shifts_angstrom=tilts.vectors(SHIFTS) if all(label in tilts for label in SHIFTS) else None,
        cut_projections_xyz=cut,
        cut_defocus=matrix_rows(tilts, CUT_DEFOCUS, 3) if CUT_DEFOCUS in tilts else None,
        cut_scale=_column(tilts, CUT_SCALE),
        shift_since_cut_angstrom=since,
        deformation=_deformation(tilts, DEFORMATION),
        deformation_since_cut=_deformation(tilts, DEFORMED_SINCE_CUT),
    )


def _deformation(tilts: Block, label: str) -> NDArray[np.float64] | None:
    return matrix_rows(tilts, label, 4).reshape(-1, 2, 2) if label in tilts else None


def _cut(tilts: Block) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
    """Return with which axes stacks were cut out, (t, 2, 3), and the change of shifts since, (t, 2), where stated."""
    if not all(label in tilts for label in CUT):
        return None, None
    x, y, shift = (matrix_rows(tilts, label, count) for label, count in zip(CUT, (3, 3, 2), strict=True))
    return np.stack([x, y], axis=1), shift


def _column(tilts: Block, label: str) -> NDArray[np.float64] | None:
    return tilts.numbers(label) if label in tilts else None


def bfactors(rows: Block) -> NDArray[np.float64]:
    """Return B factors of images, positive where they damp.

    RELION damps by exp(-B k^2 / 4), Warp and M by exp(B k^2 / 4): a list whose numbers are negative is M's.
    """
    values = rows.numbers(BFACTOR)
    if (values < 0).any() and (values > 0).any():
        problem = f"column {BFACTOR}{rows.of_it} holds {values.min():g} and {values.max():g}: one of them would amplify"
        raise FormatError(rows.path, problem, "give all of them the sign that RELION's have, positive")
    return np.abs(values)


def visible_tilts(token: str, *, path: Path, row: int, count: int) -> NDArray[np.bool_]:
    """Return which of ``count`` tilts show a particle, from a list such as ``[0,1,1]``."""
    try:
        visible = plain_floats(token.strip("[]").split(",")) != 0
    except ValueError as error:
        problem = f"column rlnTomoVisibleFrames holds {token!r} in row {row + 1}, not a list of 0 and 1"
        raise FormatError(path, problem, "correct the value") from error
    if len(visible) != count:
        problem = f"rlnTomoVisibleFrames in row {row + 1} lists {len(visible)} tilts, its tomogram has {count}"
        raise FormatError(path, problem, "give the tomograms file that belongs to this list")
    return visible


def _tilts(tomograms: Star, row: Block, name: str) -> Block:
    block = tomograms.find(name)
    if block is not None:
        return block
    if "rlnTomoTiltSeriesStarFile" not in row:
        problem = f"has neither a block data_{name} nor a column rlnTomoTiltSeriesStarFile"
        raise FormatError(tomograms.path, problem, "pass --tomograms with a complete list")
    token = row.text("rlnTomoTiltSeriesStarFile")[0]
    path = locate(token, tomograms.path.parent)
    if path is None:
        problem = f"names {token} as the tilt series of {name!r}, which is not there"
        raise FormatError(tomograms.path, problem, "put it there, or leave this tomogram out of the file")
    star = read_star(path)
    block = star.find(name) or (star.blocks[0] if len(star.blocks) == 1 else None)
    if block is None:
        raise FormatError(path, f"has no block data_{name}", "check rlnTomoTiltSeriesStarFile in the tomograms file")
    return block


def _projections(tilts: Block) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return axes of the images (t, 2, 3) and beams (t, 3), None where they are the product of the axes."""
    if "rlnTomoProjX" in tilts:
        axes = np.stack([_first_three(tilts, label) for label in ("rlnTomoProjX", "rlnTomoProjY")], axis=1)  # (t, 2, 3)
        return axes, _first_three(tilts, "rlnTomoProjZ") if "rlnTomoProjZ" in tilts else None
    if "rlnTomoYTilt" not in tilts:
        problem = f"block data_{tilts.name} has neither rlnTomoProjX/Y/Z/W nor rlnTomoXTilt/YTilt/ZRot"
        raise FormatError(tilts.path, problem, "align the tilt series first")
    labels = [label for label in ANGLES if label in tilts or label != "rlnTomoXTilt"]  # RELION takes no x tilt as 0
    angles = tilts.vectors(labels)
    letters = "xyz"[-len(labels) :]  # lower case: about fixed axes, so the first acts first
    return Rotation.from_euler(letters, angles, degrees=True).as_matrix()[:, :2], None  # (t, 2, 3)


def _first_three(tilts: Block, label: str) -> NDArray[np.float64]:
    return matrix_rows(tilts, label, 4)[:, :3]


def matrix_rows(tilts: Block, label: str, count: int) -> NDArray[np.float64]:
    """Return a column of ``[1,2,...]``, so many numbers in each row, as an array (t, count)."""
    rows = []
    for index, token in enumerate(tilts.text(label)):
        try:
            values = plain_floats(token.strip("[]").split(","))
        except ValueError:
            values = np.empty(0)
        if len(values) != count or not np.isfinite(values).all():
            wanted = {2: "two", 3: "three", 4: "four"}[count]
            problem = (
                f"column {label} of block data_{tilts.name} holds {token!r} in row {index + 1}, not {wanted} numbers"
            )
            raise FormatError(tilts.path, problem, "correct the value")
        rows.append(values)
    return np.array(rows)  # (t, count)
