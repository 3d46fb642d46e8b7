"""Half maps in one frame, that of a reference where there is one: how maps have drifted, and results moved by it.

The drift D aligns half 1 to half 2, x_half2 = D x_half1. A pose found with half 2 as its reference becomes ``pose @ D``
in half 1's frame, with its runners-up, covariance and input pose (``Result.after``); so do poses of both halves in the
frame of a reference that D aligns to their map. The halves share these numbers alone. Must not know how either was
aligned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner
from gonio.alignment.prepared import FromSeeds, finished
from gonio.alignment.result import Result
from gonio.comparison.score import Score
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, half_shells, power_ratio, scaled_shells, shell_power
from gonio.fourier.transform import MIN_SHELLS
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Subtomogram, Volume, mean_within
from gonio.settings import Inputs, LocalSearch, Settings
from gonio.workflows.pose_change import PoseChange

# A drift counts where it moves the particle's edge by more than this fraction of the resolution (less costs almost no
# correlation) and by more than its standard deviation; beyond CREDIBLE_SDS of what is expected the alignment is wrong.
DRIFT_FRACTION, DRIFT_SDS, CREDIBLE_SDS = 0.005, 1.0, 3.0
ROUNDS = 6  # a mask that cuts a particle hides half of its drift each time
# Largest correlation of a shell: masks and interpolation have errors of this size.
SUREST_FSC = 0.99
# A shell with more than so many times its own power under a mask is filled from others.
FILLED = 2.0
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

    def or_further(self, other: Apart | None) -> Apart:
        """Return the larger of each of the standard deviations of two drifts."""
        if other is None:
            return self
        return Apart(
            max(self.rotation_sd_deg, other.rotation_sd_deg), max(self.shift_sd_angstrom, other.shift_sd_angstrom)
        )

    @staticmethod
    def listed(near: LocalSearch, *, voxel_size_angstrom: float) -> Apart:
        """Estimate the drift at input poses from the prior of the search near them."""
        shift = near.prior_shift_sd_angstrom or LISTED_VOXELS * voxel_size_angstrom
        return Apart(near.prior_rotation_sd_deg or LISTED_DEG, shift)


@dataclass(frozen=True)
class Frames:
    """Frames of the halves: of each the pose that aligns the common frame to it.

    ``drift`` aligns half 1 to half 2, ``reference`` the reference to half 1; None where there is nothing to move.
    """

    drift: Pose | None = None
    reference: Pose | None = None

    @property
    def apart(self) -> bool:
        """True where something is to be moved."""
        return self.drift is not None or self.reference is not None

    @property
    def _of_halves(self) -> tuple[Pose | None, Pose | None]:
        if self.reference is None:
            return None, self.drift
        return self.reference, self.reference if self.drift is None else self.drift @ self.reference

    def poses(self, half_sets: NDArray[np.int8] | None, poses: Pose) -> Pose:
        """Return poses (m,) of particles in half set 1 or 2 in the common frame."""
        first, second = (Pose.identity() if frame is None else frame for frame in self._of_halves)
        return poses @ Pose.stack([second if half == 2 else first for half in np.asarray(half_sets).tolist()])

    def results(self, half_sets: NDArray[np.int8] | None, results: Sequence[Result]) -> list[Result]:
        """Return the results of m particles in half set 1 or 2 in the common frame."""
        first, second = self._of_halves
        chosen = [second if half == 2 else first for half in np.asarray(half_sets).tolist()]
        return [one if frame is None else one.after(frame) for one, frame in zip(results, chosen, strict=True)]


def free_directions(symmetry: str, *, about_axis: bool = False) -> NDArray[np.float64]:
    """Return the tangents (6, k) along which a map may move while its axes stay where they are.

    They are all without symmetry, rotation about z and shift along it for Cn, and none for the other groups. A search
    ``about_axis`` of known normals leaves no rotation but that about z.
    """
    name = Symmetry.named(symmetry).name
    free = np.ones(6, dtype=bool)
    if about_axis:
        free[:2] = False
    if name != "C1":
        free[[0, 1, 3, 4]] = False
    if name[0] not in "C":
        free[:] = False
    return np.eye(6)[:, free]


def frames_of(
    halves: tuple[Volume, Volume],
    reference: Volume | None,
    expected: tuple[Apart, Apart],
    *,
    mask: Volume,
    radius: float,
    limit: float,
    directions: NDArray[np.float64],
) -> Frames:
    """Find the frames of two halves, of one another and of both in that of a reference.

    Parameters
    ----------
    halves
        Averages of the halves.
    reference
        Map whose frame is wanted, or None. Its shells may have any power: the halves are given the same. It may end at
        some resolution; with less than three shells it says nothing of the frame.
    expected
        Expected drift between the halves, and between them and the reference.
    mask, radius, limit, directions
        As in ``drift_of``.
    """
    find = partial(drift_of, mask=mask, radius=radius, directions=directions)
    drift = find(halves, expected[0], limit=limit)
    if reference is None:
        return Frames(drift)
    finest = max(limit, _finest(reference, mask))
    if reference.box_angstrom / finest < MIN_SHELLS:
        return Frames(drift)
    second = halves[1] if drift is None else _back(halves[1], drift)
    both = Volume(0.5 * (halves[0].data + second.data), reference.voxel_size_angstrom)
    # What the mask makes of one map it makes of the other only where both have the same power.
    alike = scaled_shells(both, power_ratio(reference, both) ** 0.5)
    return Frames(drift, find((_above_solvent(reference, mask), alike), expected[1], limit=finest))


def _above_solvent(volume: Volume, mask: Volume) -> Volume:
    """Return a map less its mean outside a mask, whose own transform an offset would show."""
    outside = np.clip(1.0 - mask.data.astype(np.float64), 0.0, 1.0)
    return Volume(volume.data - mean_within(volume.data, outside), volume.voxel_size_angstrom)


def _finest(reference: Volume, mask: Volume) -> float:
    """Return the resolution, angstrom, up to which shells of a map under a mask have power of their own.

    Where a map ends, the mask fills the shells beyond from those before: they show where the mask is, not the particle.
    """
    above = _above_solvent(reference, mask)
    own = shell_power(above)
    within = shell_power(Volume(above.data * mask.data, above.voxel_size_angstrom))
    shells = reference.box // 2
    filled = np.flatnonzero(within[1 : shells + 1] > FILLED * own[1 : shells + 1])
    return float(reference.box_angstrom / max(filled[0] if len(filled) else shells, 1))


def drift_of(
    halves: tuple[Volume, Volume],
    expected: Apart,
    *,
    mask: Volume,
    radius: float,
    limit: float,
    directions: NDArray[np.float64] | None = None,
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
    directions
        Tangents along which the halves may have drifted, (6, k); None for all.
    """
    directions = np.eye(6) if directions is None else directions
    if not directions.size:
        return None
    settings = Settings(
        score=Score.FCS,
        search=LocalSearch(expected.rotation_sd_deg, expected.shift_sd_angstrom),
        inputs=Inputs.PLAIN,
        resolution_angstrom=limit,
    )
    total, second = Pose.identity(), halves[1]
    for _ in range(ROUNDS):
        one, two = _weighted(halves[0], second, mask)
        if not (one.data.any() and two.data.any()):
            return None  # no shell agrees
        found = _aligned(one, two, settings, directions)
        total = total @ found.pose
        if found.pose.displacement_angstrom(Pose.identity(), radius_angstrom=radius) < DRIFT_FRACTION * limit:
            break
        second = _back(halves[1], total)
    distance = float(total.displacement_angstrom(Pose.identity(), radius_angstrom=radius))
    sd, most = (
        np.sqrt(3.0) * np.hypot(radius * np.radians(known.rotation_sd_deg), known.shift_sd_angstrom)
        for known in (found, expected)
    )
    return total if max(DRIFT_FRACTION * limit, DRIFT_SDS * sd) < distance < CREDIBLE_SDS * most else None


def _back(volume: Volume, drift: Pose) -> Volume:
    """Return a map that has drifted where it was before."""
    back = drift.inverse()
    return moved(volume, back.matrix, back.shift_angstrom)


def _aligned(reference: Volume, target: Volume, settings: Settings, directions: NDArray[np.float64]) -> Result:
    """Align a map to another, from where it is along ``directions`` (6, k)."""
    aligner = Aligner(reference, settings)
    prepared = aligner.prepare(Subtomogram(target), start=Pose.identity())
    assert isinstance(prepared, FromSeeds)  # as unprocessed inputs near a pose are
    return finished([replace(prepared, frame=replace(prepared.frame, directions=directions))], aligner.backend)[0]


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
