"""The tilt series behind a particle: projections, defocus and dose from RELION's tomograms.star.

Owns the two ways in which RELION and WarpTools state a projection:

    rlnTomoProjX, Y, Z, W               rows of a 4 x 4 matrix from tomogram to image (RELION 4, WarpTools)
    rlnTomoXTilt, YTilt, ZRot           degrees, P = Rz(ZRot) Ry(YTilt) Rx(XTilt) about fixed axes (RELION 5,
                                        src/jaz/tomography/tomogram.cpp: getProjectionMatrix)

The first two rows are the image's x and y axes in the tomogram. With rlnTomoHand -1 gonio's frame is the tomogram's
mirrored in z, D = diag(1, 1, -1): the projections are P D here, and ``star.py`` turns the poses.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, read_star
from gonio.io.errors import FormatError, locate
from gonio.tilts import Optics, TiltSeries

__all__ = ["read_tilt_series", "series_of_block", "visible_tilts"]

ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
STAGE_TILT = "rlnTomoNominalStageTiltAngle"
OPTICS = ("rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


def read_tilt_series(tomograms: Star, name: str) -> TiltSeries:
    """The tilt series of one tomogram, from the block of its name or the file that the global block names for it.

    Raises
    ------
    FormatError
        If the tomogram is not listed, or its tilts lack a projection.
    """
    overview = tomograms.find("global")
    if overview is None or name not in overview.text("rlnTomoName"):
        raise FormatError(tomograms.path, f"has no tomogram {name!r}", "pass --tomograms with the list it belongs to")
    row = overview.take([overview.text("rlnTomoName").index(name)])
    tilts = _tilts(tomograms, row, name)
    if len(tilts) == 0:
        raise FormatError(tilts.path, f"block data_{tilts.name} lists no tilts", "write the file again")
    hand = float(row.numbers("rlnTomoHand")[0])
    if hand not in (1.0, -1.0):
        raise FormatError(tomograms.path, f"rlnTomoHand of {name!r} is {hand:g}", "set it to 1 or -1")
    known = Optics(*row.vectors(OPTICS)[0].tolist()) if all(label in row for label in OPTICS) else None
    series = series_of_block(tilts)
    flip = np.array([1.0, 1.0, hand])
    return replace(series, hand=int(hand), projections_xyz=series.projections_xyz * flip, optics=known)


def series_of_block(tilts: Block) -> TiltSeries:
    """One tilt series from a block of its tilts alone, which knows neither hand nor microscope.

    Tilts that were not aligned are taken from the stage: then the tilt axis is y, as in the tomogram it will be.

    Raises
    ------
    FormatError
        If the tilts lack angles, or a value is not a number.
    """
    if "rlnTomoProjX" in tilts or "rlnTomoYTilt" in tilts or STAGE_TILT not in tilts:
        projections = _projections(tilts)
    else:
        projections = TiltSeries.of_angles(tilts.path, tilts.numbers(STAGE_TILT)).projections_xyz
    return TiltSeries(
        path=tilts.path,
        hand=1,
        projections_xyz=projections,
        defocus=tilts.vectors(DEFOCUS) if all(label in tilts for label in DEFOCUS) else None,
        dose=tilts.numbers("rlnMicrographPreExposure") if "rlnMicrographPreExposure" in tilts else None,
        scale=tilts.numbers("rlnCtfScalefactor") if "rlnCtfScalefactor" in tilts else None,
    )


def visible_tilts(token: str, *, path: Path, row: int, count: int) -> NDArray[np.bool_]:
    """Which of ``count`` tilts show a particle, from a list such as ``[0,1,1]``.

    Raises
    ------
    FormatError
        If the text is no such list, or not of that length.
    """
    try:
        visible = np.array([float(value) != 0 for value in token.strip("[]").split(",")])
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
    path = locate(token, tomograms.path.parent) or tomograms.path.parent / token
    star = read_star(path)
    block = star.find(name) or (star.blocks[0] if len(star.blocks) == 1 else None)
    if block is None:
        raise FormatError(path, f"has no block data_{name}", "check rlnTomoTiltSeriesStarFile in the tomograms file")
    return block


def _projections(tilts: Block) -> NDArray[np.float64]:
    if "rlnTomoProjX" in tilts:
        return np.stack([_matrix_rows(tilts, "rlnTomoProjX"), _matrix_rows(tilts, "rlnTomoProjY")], axis=1)  # (t, 2, 3)
    if "rlnTomoYTilt" not in tilts:
        problem = f"block data_{tilts.name} has neither rlnTomoProjX/Y/Z/W nor rlnTomoXTilt/YTilt/ZRot"
        raise FormatError(tilts.path, problem, "align the tilt series first")
    labels = [label for label in ANGLES if label in tilts or label != "rlnTomoXTilt"]  # RELION takes no x tilt as 0
    angles = tilts.vectors(labels)
    axes = "xyz"[-len(labels) :]  # lower case: about fixed axes, so the first acts first
    return Rotation.from_euler(axes, angles, degrees=True).as_matrix()[:, :2]  # (t, 2, 3)


def _matrix_rows(tilts: Block, label: str) -> NDArray[np.float64]:
    rows = []
    for index, token in enumerate(tilts.text(label)):
        try:
            values = np.array(token.strip("[]").split(","), dtype=np.float64)
        except ValueError:
            values = np.empty(0)
        if len(values) != 4 or not np.isfinite(values).all():
            problem = f"column {label} of block data_{tilts.name} holds {token!r} in row {index + 1}, not four numbers"
            raise FormatError(tilts.path, problem, "correct the value")
        rows.append(values[:3])
    return np.array(rows)  # (t, 3)
