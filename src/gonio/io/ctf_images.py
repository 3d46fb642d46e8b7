"""Meaning of the 3-D volumes in rlnCtfImage, which differs between programs, and the particle that follows from it.

With F the listed subtomogram, G the particle's transform and V the volume in rlnCtfImage:

    squares      F = V G + noise of variance V      V sums squared transfers over tilts; RELION 4 and 5
    transfer     F = V G + white noise              V the transfer, of any sign; RELION 1.4 to 3, Warp, WarpTools --3d
    confidence   F = G + noise                      V how much a frequency counts; what ``gonio extract`` writes

RELION 4 and 5 multiply each image by its CTF and sum both the products and the squares (src/jaz/tomography/programs/
subtomo.cpp); their lists say so in rlnCtfDataAreCtfPremultiplied, and behind the squares the file mostly holds as many
sections of multiplicities. Before, RELION compared a subtomogram with V G as if its noise were white (src/ml_optimiser
.cpp). Warp's volumes are the reconstruction of CTF times weighted CTF over absolute CTF, and its subtomograms that of
image times weighted CTF over absolute CTF (WarpLib/TiltSeries/TiltSeries.ReconstructSubtomos.cs): a transfer, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.particle.volume import Subtomogram, Volume, premultiplied
from gonio.particle.wedge import SquaredTransferWedge, WeightVolumeWedge

# The column in which gonio states it, in lists of its own.
CTF_IMAGE_COLUMN = "gonioCtfImage"
# No CTF is larger than one, but volumes are scaled and interpolated: beyond this, sums of squares are as likely.
LARGEST_TRANSFER = 2.0
# Negative values up to this fraction of the largest are rounding: files of half precision, and what cropping leaves.
ROUNDING = 0.02


class CtfImage(StrEnum):
    """Relation of a volume in rlnCtfImage to its subtomogram."""

    SQUARES = "squares"
    TRANSFER = "transfer"
    CONFIDENCE = "confidence"


MEANINGS: Mapping[CtfImage, str] = {
    CtfImage.SQUARES: "sums of squared transfers of pseudo-subtomograms: both transfer and variance of the noise",
    CtfImage.TRANSFER: "the transfer of each subtomogram, whose noise is white",
    CtfImage.CONFIDENCE: "how much each frequency counts",
}


@dataclass(frozen=True)
class CtfImageKind:
    """Content of a list's volumes in rlnCtfImage, and the reason for taking it so."""

    kind: CtfImage
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} ({MEANINGS[self.kind]}), {self.reason}"


def kind_of(
    *, given: CtfImage | None, stated: str | None, is_premultiplied: bool, sections: int, box: int, is_extracted: bool
) -> CtfImageKind:
    """Return what a volume holds, by all that is stated of it, the most reliable statement first.

    Parameters
    ----------
    given
        Option of the caller, or None.
    stated
        Value of column gonioCtfImage, or None.
    is_premultiplied
        rlnCtfDataAreCtfPremultiplied.
    sections, box
        Sections of the volume; voxels along an edge of the subtomogram.
    is_extracted
        Whether the list is one of ``gonio extract`` that has no such column yet.

    Raises
    ------
    ValueError
        If the column states nothing that is known.
    """
    if given is not None:
        return CtfImageKind(given, "as asked for")
    if stated is not None:
        if stated not in tuple(CtfImage):
            raise ValueError(f"{CTF_IMAGE_COLUMN} must be one of {', '.join(CtfImage)}, is {stated!r}")
        return CtfImageKind(CtfImage(stated), f"by {CTF_IMAGE_COLUMN}")
    if is_premultiplied:
        return CtfImageKind(CtfImage.SQUARES, "by rlnCtfDataAreCtfPremultiplied")
    if sections == 2 * box:
        return CtfImageKind(CtfImage.SQUARES, "by the multiplicities behind them")
    if is_extracted:
        return CtfImageKind(CtfImage.CONFIDENCE, "as gonio extract wrote them")
    return CtfImageKind(CtfImage.TRANSFER, "as the list does not call its images premultiplied")


def seen_through(volume: Volume, stored: NDArray[np.float32], kind: CtfImage, *, phase_flipped: bool) -> Subtomogram:
    """Return the subtomogram with the transfer or weights from its volume in rlnCtfImage.

    A transfer is multiplied in: what was F = V G + white noise is then V^2 G + noise of variance V^2.

    Parameters
    ----------
    stored
        Values in the file.
    kind
        What it holds.
    phase_flipped
        rlnCtfDataArePhaseFlipped: the transfer's sign is gone from the subtomogram.

    Raises
    ------
    ValueError
        If values contradict the kind, or the kind cannot be decided; states what to pass.
    """
    values = centred_weights(stored, volume.box)
    lowest, highest = float(values.min()), float(values.max())
    if kind is CtfImage.TRANSFER:
        if _is_binary(values):
            return Subtomogram(volume, WeightVolumeWedge(values, volume.voxel_size_angstrom))
        if lowest >= 0 and highest > LARGEST_TRANSFER:
            raise ValueError(
                f"its values reach {highest:.3g}, more than a transfer, and the list does not state what they are:"
                " sums of squared transfers (RELION 4 and 5) or a scaled transfer"
            )
        return premultiplied(volume, np.abs(values) if phase_flipped else values)
    if lowest < -ROUNDING * highest:
        raise ValueError(f"its values reach {lowest:.3g}: those of {kind} ({MEANINGS[kind]}) are not negative")
    values = np.maximum(values, 0.0)
    if kind is CtfImage.SQUARES:
        return Subtomogram(volume, SquaredTransferWedge(values, volume.voxel_size_angstrom))
    return Subtomogram(volume, WeightVolumeWedge(values, volume.voxel_size_angstrom))


def _is_binary(values: NDArray[np.float32]) -> bool:
    """Return whether the values only state which frequencies were measured: 0 and one other value."""
    return bool(np.isin(values, (0.0, values.max())).all()) and values.max() > 0


def centred_weights(weights: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """Return a 3-D CTF in one of RELION's layouts as a cube (z, y, x) with zero frequency at n // 2.

    A whole cube is centred already; half a transform (kx >= 0 only) has its zero frequency in the corner
    (RELION src/ml_optimiser.cpp, where rlnCtfImage is read). Twice as many sections hold the multiplicity of each
    frequency behind the weights (RELION 4, src/jaz/tomography/programs/subtomo.cpp): it is left out.

    Raises
    ------
    ValueError
        For any other shape.
    """
    if weights.ndim == 3 and len(weights) == 2 * box:
        weights = weights[:box]
    if weights.shape == (box, box, box):
        return weights
    if weights.shape != (box, box, box // 2 + 1):
        raise ValueError(f"weights of shape {weights.shape} do not fit a particle of {box} voxels")
    k = np.arange(box) - box // 2  # (b,)
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    sign = np.where(kx < 0, -1, 1)  # the weight of -k is that of k
    return weights[(sign * kz) % box, (sign * ky) % box, np.abs(kx)]  # (b, b, b)
