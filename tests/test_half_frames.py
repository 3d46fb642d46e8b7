"""Two half maps in one frame: the drift between them, and what was found with half 2 as half 1 shows it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gonio.alignment.result import Optimum, Result
from gonio.fourier.fourier_volume import moved
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, soft_sphere
from gonio.search.levenberg_marquardt import Status
from gonio.workflows.half_frames import Apart, drift_of, half_2_moved, half_2_seen
from gonio.workflows.pose_change import PoseChange

MASK = Volume(soft_sphere(24, radius_px=10.0, edge_px=3.0), 10.0)
DRIFT = Pose.from_euler_zyz_deg([30.0, 5.0, -27.0], [4.0, -6.0, 2.0])


def split_groups(blobs, angle_deg: float) -> tuple[Volume, Volume]:
    """A map, and the same turned about z."""
    first = Volume(blobs.volume(24), 10.0)
    turn = Pose.from_euler_zyz_deg([0.0, 0.0, angle_deg], [3.0 if angle_deg else 0.0, 0.0, 0.0])
    return first, moved(first, turn.matrix, turn.shift_angstrom)


def errors(sd: float, moved_deg: float = 0.0) -> PoseChange:
    """Of 16 particles that are known so well, in degrees and angstrom, and moved so far."""
    known = [SimpleNamespace(rotation_sd_deg=sd, shift_sd_angstrom=sd)] * 16
    after = Pose.from_euler_zyz_deg(np.tile([0.0, 0.0, moved_deg], (16, 1)), np.zeros((16, 3)))
    return PoseChange.of(Pose.identity(16), after, known, symmetry="C1", radius=80.0)


def test_a_map_that_drifted_is_found_and_one_that_did_not_is_left(blobs):
    expected = Apart.after(errors(5.0), with_pose_change=False)
    drift = drift_of(split_groups(blobs, 5.0), expected, mask=MASK, radius=80.0, limit=40.0)
    assert drift is not None
    assert drift.rotation_distance_deg(Pose.from_euler_zyz_deg([0.0, 0.0, 5.0])) < 0.5
    assert drift_of(split_groups(blobs, 0.0), expected, mask=MASK, radius=80.0, limit=40.0) is None


def test_a_drift_further_than_particles_err_is_not_believed(blobs):
    expected = Apart.after(errors(0.1), with_pose_change=False)
    assert drift_of(split_groups(blobs, 5.0), expected, mask=MASK, radius=80.0, limit=40.0) is None


def test_listed_poses_may_be_off_by_as_much_as_they_moved():
    known, listed = (Apart.after(errors(0.1, moved_deg=5.0), with_pose_change=which) for which in (False, True))
    assert listed.rotation_sd_deg == pytest.approx(known.rotation_sd_deg * np.hypot(0.1 * 3**0.5, 5.0) / (0.1 * 3**0.5))
    assert listed.shift_sd_angstrom == pytest.approx(known.shift_sd_angstrom)


def result_of(covariance: np.ndarray) -> Result:
    """At a pose with a shift, and a runner-up."""
    pose = Pose.from_euler_zyz_deg([40.0, 70.0, -25.0], [12.0, -8.0, 5.0])
    rival = Optimum(Pose.from_euler_zyz_deg([-80.0, 20.0, 10.0], [1.0, 2.0, 3.0]), 0.6, 2.5)
    return Result(pose, 0.5, Status.CONVERGED, 17, 0.8, covariance, (rival,))


def tangent_between(one: Pose, other: Pose) -> np.ndarray:
    """The tangents (p, 6) that take a pose to each of a batch."""
    turns = (other.rotation * one.rotation.inv()).as_rotvec()
    return np.hstack([turns, other.shift_angstrom - one.shift_angstrom])


def test_a_covariance_follows_its_pose_into_the_other_frame(rng):
    # Poses that scatter as the covariance says, each moved by itself: no derivative is asked.
    root = rng.normal(size=(6, 6)) * np.array([*[2e-3] * 3, *[0.5] * 3])[:, None]
    before = result_of(root @ root.T)
    count = 40_000
    scattered = Pose.stack([before.pose] * count).retract(rng.normal(size=(count, 6)) @ root.T)
    after = before.after(DRIFT)
    sample = np.cov(tangent_between(after.pose, scattered @ DRIFT).T)
    unit = np.sqrt(np.diag(sample))
    # Each entry of a covariance of n draws is known to about 1 / sqrt(n); five of these.
    np.testing.assert_allclose(
        after.covariance / np.outer(unit, unit), sample / np.outer(unit, unit), atol=5 / count**0.5
    )
    assert not np.allclose(after.covariance, before.covariance, rtol=0.05)


def test_what_is_not_known_stays_unknown():
    assert np.isinf(result_of(np.full((6, 6), np.inf)).after(DRIFT).covariance).all()


def test_half_2_follows_the_drift_whole_and_half_1_stays():
    results, halves = [result_of(np.eye(6))] * 2, np.array([1, 2], dtype=np.int8)
    first, second = half_2_seen(halves, results, DRIFT)
    assert first is results[0]
    # Half 1's reference shows what half 2's shows moved by the inverse: a point of the particle stays where it is.
    point = np.array([30.0, -20.0, 10.0])
    for before, after in ((results[1], second), (results[1].runners_up[0], second.runners_up[0])):
        np.testing.assert_allclose(after.pose.apply(DRIFT.inverse().apply(point)), before.pose.apply(point))
    listed = half_2_moved(halves, Pose.stack([result.pose for result in results]), DRIFT)
    np.testing.assert_allclose(listed.matrix, Pose.stack([first.pose, second.pose]).matrix)
    assert (second.dissimilarity, second.runners_up[0].margin) == (0.5, 2.5)
