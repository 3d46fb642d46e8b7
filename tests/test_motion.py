"""How far particles moved, alone and in units of what is known of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gonio.particle.pose import Pose
from gonio.workflows.pose_change import PoseChange


def test_a_turn_moves_the_edge_and_a_shift_all():
    start = Pose.identity()
    turned, shifted = (Pose.from_euler_zyz_deg([0.0, 0.0, a], [t, 0.0, 0.0]) for a, t in ((10.0, 0.0), (0.0, 7.0)))
    assert turned.displacement_angstrom(start, radius_angstrom=100.0) == pytest.approx(100.0 * np.radians(10.0))
    assert shifted.displacement_angstrom(start, radius_angstrom=100.0) == pytest.approx(7.0)


def test_pose_change_is_told_in_standard_deviations_over_all_axes():
    before, after = Pose.identity(2), Pose.from_euler_zyz_deg([[0, 0, 3.0], [0, 0, 0]], [[0, 0, 0], [0, 2.0, 0]])
    known = [SimpleNamespace(rotation_sd_deg=1.0, shift_sd_angstrom=1.0)] * 2
    pose_change = PoseChange.of(before, after, known, symmetry="C1", radius=50.0)
    sd = np.sqrt(3.0) * np.hypot(50.0 * np.radians(1.0), 1.0)
    assert pose_change.sds == pytest.approx([50.0 * np.radians(3.0) / sd, 2.0 / sd])
    assert pose_change.rotation_sd_deg == pytest.approx(np.sqrt(3.0))
    assert pose_change.take(np.array([1])).shifted_angstrom == pytest.approx([2.0])


def test_equivalent_poses_are_no_pose_change():
    before, after = Pose.identity(1), Pose.from_euler_zyz_deg([[0.0, 0.0, 91.0]], [[0.0, 0.0, 0.0]])
    known = [SimpleNamespace(rotation_sd_deg=1.0, shift_sd_angstrom=1.0)]
    assert PoseChange.of(before, after, known, symmetry="C4", radius=50.0).turned_deg == pytest.approx([1.0])
    assert PoseChange.of(before, after, known, symmetry="C1", radius=50.0).turned_deg == pytest.approx([91.0])
