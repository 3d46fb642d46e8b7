"""The tilt series behind a particle: projections, defocus and dose from RELION's tomograms.star.

Owns the two ways in which RELION and WarpTools state a projection:

    rlnTomoProjX, Y, Z, W               rows of a 4 x 4 matrix from tomogram to image (RELION 4, WarpTools)
    rlnTomoXTilt, YTilt, ZRot           degrees, P = Rz(ZRot) Ry(YTilt) Rx(XTilt) about fixed axes (RELION 5,
                                        src/jaz/tomography/tomogram.cpp: getProjectionMatrix)

The first two rows are the image's x and y axes in the tomogram. With rlnTomoHand -1 gonio's frame is the tomogram's
mirrored in z, D = diag(1, 1, -1): the projections are P D here, and ``star.py`` turns the poses.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.ctf import Ctf
from gonio.io.blocks import Block, Star, read_star
from gonio.io.errors import FormatError, locate

__all__ = ["TiltSeries", "read_tilt_series", "visible_tilts"]

ANGLES = ("rlnTomoXTilt", "rlnTomoYTilt", "rlnTomoZRot")
DEFOCUS = ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle")


@dataclass(frozen=True)
class TiltSeries:
    """One tilt series: t projections and what is known of each.

    Parameters
    ----------
    path
        The file it was read from.
    hand
        +1 or -1, rlnTomoHand.
    projections_xyz
        Shape (t, 2, 3), in gonio's frame (mirrored in z for hand -1).
    defocus
        Shape (t, 3): U and V in angstrom, astigmatism in degrees; or None.
    dose, scale
        Shape (t,), as in ``TiltStack``; or None.
    """

    path: Path
    hand: int
    projections_xyz: NDArray[np.float64]
    defocus: NDArray[np.float64] | None = None
    dose: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.projections_xyz)

    def take(self, chosen: NDArray[np.bool_]) -> TiltSeries:
        """The chosen tilts."""
        return replace(
            self,
            projections_xyz=self.projections_xyz[chosen],
            defocus=None if self.defocus is None else self.defocus[chosen],
            dose=None if self.dose is None else self.dose[chosen],
            scale=None if self.scale is None else self.scale[chosen],
        )

    def ctf(self, *, voltage_kv: float, spherical_aberration_mm: float, amplitude_contrast: float) -> Ctf | None:
        """The contrast transfer of the t images, None where no defocus is known."""
        if self.defocus is None:
            return None
        u, v, angle = self.defocus.T
        return Ctf(u, v, angle, voltage_kv, spherical_aberration_mm, amplitude_contrast)


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
    flip = np.array([1.0, 1.0, hand])
    return TiltSeries(
        path=tilts.path,
        hand=int(hand),
        projections_xyz=_projections(tilts) * flip,
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
