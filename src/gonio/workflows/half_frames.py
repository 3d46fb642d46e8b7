"""Two half maps in one frame: the drift between them, and results moved by it.

The drift D aligns half 1 to half 2, x_half2 = D x_half1. A pose found with half 2 as its reference becomes ``pose @ D``
in half 1's frame, with its runners-up, covariance and input pose (``Result.after``). The halves share these six numbers
alone. Must not know how either was aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner
from gonio.alignment.result import Result
from gonio.comparison.score import Score
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, half_shells
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume
from gonio.settings import Inputs, LocalSearch, Settings
from gonio.workflows.pose_change import PoseChange

# A drift counts where it moves the particle's edge by more than this fraction of the resolution (less costs almost no
# correlation) and by more than its standard deviation; beyond CREDIBLE_SDS of what is expected the alignment is wrong.
DRIFT_FRACTION, DRIFT_SDS, CREDIBLE_SDS = 0.005, 1.0, 3.0
ROUNDS = 6  # a mask that cuts a particle hides half of its drift each time
# Largest correlation of a shell: masks and interpolation have errors of this size.
SUREST_FSC = 0.99
# Standard deviations of input poses where none are given.
LISTED_DEG, LISTED_VOXELS = 2.0, 2.0


@dataclass(frozen=True)
class Apart:
    """Expected drift between the frames of two half maps: standard deviations per axis."""

    rotation_sd_deg: float
    shift_sd_angstrom: float

    @staticmethod
    def after(pose_change: PoseChange, *, with_pose_change: bool) -> Apart:
        """Estimate the drift after an alignment of each half to its own reference: twice the mean error of its poses.

        Errors of poses are as predicted; ``with_pose_change`` they include how far particles moved from input poses,
        whose errors may be larger than those predicted for the poses found.
        """
        fraction = 2.0 * np.sqrt(2.0 / (0.5 * len(pose_change.sds)) / 3.0)  # of two halves; of one axis
        rotation, shift = pose_change.rotation_sd_deg, pose_change.shift_sd_angstrom
        if with_pose_change:
            rotation = float(np.hypot(rotation, np.sqrt(np.mean(pose_change.turned_deg**2))))
            shift = float(np.hypot(shift, np.sqrt(np.mean(pose_change.shifted_angstrom**2))))
        return Apart(max(fraction * rotation, 1e-3), max(fraction * shift, 1e-3))

    @staticmethod
    def listed(near: LocalSearch, *, voxel_size_angstrom: float) -> Apart:
        """Estimate the drift at input poses from the prior of the search near them."""
        shift = near.prior_shift_sd_angstrom or LISTED_VOXELS * voxel_size_angstrom
        return Apart(near.prior_rotation_sd_deg or LISTED_DEG, shift)


def drift_of(
    halves: tuple[Volume, Volume], expected: Apart, *, mask: Volume, radius: float, limit: float
) -> Pose | None:
    """Return the pose D that aligns half 1 to half 2, or None where there is no drift.

    Both are compared under the mask, so that exchanging the halves gives the inverse pose: a sphere about one of them
    alone moves a particle that it cuts by more than the drift. A mask that stays in place hides part of the drift, so
    that half 2 is moved by the pose found and compared again. ``_weighted`` weights the shells.

    Parameters
    ----------
    halves
        Averages of the halves.
    expected
        Expected drift.
    mask
        Mask of the particle, 0 to 1.
    radius, limit
        Radius of the particle and resolution limit, angstrom.
    """
    settings = Settings(
        score=Score.FCS,
        search=LocalSearch(expected.rotation_sd_deg, expected.shift_sd_angstrom),
        inputs=Inputs.PLAIN,
        resolution_angstrom=limit,
    )
    total, second = Pose.identity(), halves[1]
    for _ in range(ROUNDS):
        one, two = _weighted(halves[0], second, mask)
        found = Aligner(one, settings).align(Subtomogram(two), start=Pose.identity())
        total = total @ found.pose
        if found.pose.displacement_angstrom(Pose.identity(), radius_angstrom=radius) < DRIFT_FRACTION * limit:
            break
        back = total.inverse()
        second = moved(halves[1], back.matrix, back.shift_angstrom)
    distance = float(total.displacement_angstrom(Pose.identity(), radius_angstrom=radius))
    sd, most = (
        np.sqrt(3.0) * np.hypot(radius * np.radians(known.rotation_sd_deg), known.shift_sd_angstrom)
        for known in (found, expected)
    )
    return total if max(DRIFT_FRACTION * limit, DRIFT_SDS * sd) < distance < CREDIBLE_SDS * most else None


def _weighted(one: Volume, two: Volume, mask: Volume) -> tuple[Volume, Volume]:
    """Return two maps under the mask whose product has the shell weights of least variance for their pose.

    Where they correlate by F a sample of the product has the mean F and the variance 1 - F^2, in units of its power:
    F / (1 - F^2) is the weight of least variance. Without it shells that hardly agree count as much as the others.
    """
    halves = (one, two)
    inside = [Volume(half.data * mask.data, half.voxel_size_angstrom) for half in halves]
    fsc = np.clip(fourier_shell_correlation(*inside), 0.0, SUREST_FSC)
    shell, times = half_shells(one.box)
    count = np.bincount(shell, weights=times)
    gain = np.zeros(len(count))  # nothing in the corners of the box
    gain[1 : len(fsc)] = np.sqrt(fsc / (1.0 - fsc**2))[1:]
    spectra = [scipy.fft.rfftn(half.data.astype(np.float64)) for half in inside]  # (n, n, n // 2 + 1)
    power = np.bincount(shell, weights=times * np.abs(spectra[0] * spectra[1]).ravel()) / count
    gain /= np.sqrt(np.maximum(power, 1e-12 * power.max()))
    weighted = []
    for half in halves:
        spectrum = scipy.fft.rfftn(half.data.astype(np.float64))
        data = scipy.fft.irfftn(spectrum * gain[shell].reshape(spectrum.shape), s=half.data.shape)
        weighted.append(Volume(data * mask.data, half.voxel_size_angstrom))
    return weighted[0], weighted[1]


def half_2_moved(half_sets: NDArray[np.int8] | None, poses: Pose, drift: Pose) -> Pose:
    """Return the poses (m,) in the frame of half 1, ``pose @ drift`` for those of half 2."""
    second = np.asarray(half_sets) == 2
    return poses @ Pose.stack([drift if moved else Pose.identity() for moved in second])


def half_2_seen(half_sets: NDArray[np.int8] | None, results: Sequence[Result], drift: Pose) -> list[Result]:
    """Return the m results in the frame of half 1."""
    second = np.asarray(half_sets) == 2
    return [result.after(drift) if moved else result for result, moved in zip(results, second, strict=True)]
