"""How right poses and maps are: errors over the predicted ones, the frame that poses share, FSC with the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import gonio
from gonio.alignment.result import axis_sds
from gonio.averaging.resolution import FSC_KNOWN
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.particle.symmetry import Symmetry

RIGHT_DEG = 15.0


def agreement(volume: gonio.Volume, truth: gonio.Volume, mask: gonio.Volume) -> float:
    """Return where the FSC of a map with the truth falls below 0.5 within a mask, angstrom."""
    one, two = (gonio.Volume(v.data * mask.data, v.voxel_size_angstrom) for v in (volume, truth))
    return resolution_at(fourier_shell_correlation(one, two), FSC_KNOWN, box_angstrom=truth.box_angstrom)


def frame_of(truth: gonio.Pose, poses: gonio.Pose) -> gonio.Pose:
    """Return the mean of truth^-1 poses over those of a batch that are right; the identity where none is."""
    apart = (truth.inverse() @ poses)[np.asarray(poses.rotation_distance_deg(truth)) < RIGHT_DEG]
    return gonio.Pose(apart.rotation.mean(), apart.shift_angstrom.mean(axis=0)) if len(apart) else gonio.Pose.identity()


def in_frame_of(truth: gonio.Pose, poses: gonio.Pose) -> gonio.Pose:
    """Return true poses, a batch of m, in the frame in which poses are: that of the map that they were aligned to.

    A map and all poses may turn together, which no particle can tell; the frame is the mean over poses that are right.
    """
    return truth @ frame_of(truth, poses)


@dataclass(frozen=True)
class OverPredicted:
    """The fraction of poses that are right, and of those the rms errors of an axis and the same over the predicted."""

    right: float
    rotation_deg: float
    shift_angstrom: float
    rotation: float
    shift: float

    @staticmethod
    def of(
        poses: gonio.Pose, covariances: NDArray[np.float64], truth: gonio.Pose, *, symmetry: str = "C1"
    ) -> OverPredicted:
        """Of poses, a batch of m, their covariances (m, 6, 6) and the true poses, a batch of m."""
        found = Symmetry.named(symmetry).nearest(poses, to=truth)
        error = np.stack([found.rotation_distance_deg(truth), found.shift_distance_angstrom(truth)], axis=1)
        predicted = np.stack(axis_sds(covariances), axis=1)
        right = error[:, 0] < RIGHT_DEG
        if not right.any():
            return OverPredicted(0.0, *[float("nan")] * 4)
        rms = np.sqrt((error[right] ** 2).mean(axis=0) / 3.0)  # of one axis of three
        over = rms / np.sqrt((predicted[right] ** 2).mean(axis=0))
        return OverPredicted(float(right.mean()), *rms.tolist(), *over.tolist())

    def __str__(self) -> str:
        return (
            f"{self.right:6.1%} right, {self.rotation_deg:5.2f} degrees {self.shift_angstrom:5.2f} A an axis,"
            f" {self.rotation:4.2f} and {self.shift:4.2f} of the predicted"
        )
