"""Local searches of a refinement: how far they reach, and who may be right beyond."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gonio.alignment.result import Optimum
from gonio.particle.pose import Pose
from gonio.workflows.local_reach import reach_of, unsettled
from gonio.workflows.pose_change import PoseChange

HERE = Pose.from_euler_zyz_deg([40.0, 70.0, -25.0], [12.0, -8.0, 5.0])
REACH = 15.0, 10.0


def change(*sds: float, sd_deg: float = 1.0, sd_angstrom: float = 2.0) -> PoseChange:
    """Of particles that moved by so many of their standard deviations."""
    known = np.full(len(sds), sd_deg), np.full(len(sds), sd_angstrom)
    return PoseChange(np.zeros(len(sds)), np.zeros(len(sds)), np.array(sds), *known)


def found(*rivals: tuple[Pose, float]) -> SimpleNamespace:
    """At a pose, with runners-up of such margins."""
    return SimpleNamespace(pose=HERE, runners_up=tuple(Optimum(pose, 0.5, margin) for pose, margin in rivals))


def beside(angle_deg: float, shift_angstrom: float) -> Pose:
    """A pose so far from the one that was found."""
    return HERE.retract(np.array([np.radians(angle_deg), 0.0, 0.0, 0.0, shift_angstrom, 0.0]))


@pytest.mark.parametrize(
    ("rival", "margin", "expected"),
    [
        ((90.0, 0.0), 1.0, True),
        ((0.0, 20.0), 1.0, True),
        ((10.0, 5.0), 1.0, False),  # a local search looks there
        ((90.0, 0.0), 8.0, False),  # too unlikely
    ],
)
def test_a_likely_rival_out_of_reach_keeps_a_particle_unsettled(rival, margin, expected):
    results = [found(), found((beside(5.0, 1.0), 0.1), (beside(*rival), margin))]
    assert unsettled(change(0.0, 0.0), results, REACH, symmetry="C1").tolist() == [False, expected]


def test_what_moves_further_than_its_errors_is_unsettled():
    results = [found()] * 3
    assert unsettled(change(0.5, 2.9, 40.0), results, REACH, symmetry="C1").tolist() == [False, False, True]


def test_an_equivalent_pose_is_no_rival():
    turned = HERE @ Pose.from_euler_zyz_deg([0.0, 0.0, 90.0])
    for symmetry, expected in (("C1", True), ("c4", False)):
        assert unsettled(change(0.0), [found((turned, 0.1))], REACH, symmetry=symmetry).tolist() == [expected]


def test_reach_follows_predicted_errors_and_the_limit():
    assert reach_of(change(0.0, sd_deg=20.0, sd_angstrom=30.0), limit=10.0, radius=100.0) == (60.0, 90.0)
    fine = reach_of(change(0.0, sd_deg=0.1, sd_angstrom=0.1), limit=10.0, radius=100.0)
    assert fine == pytest.approx((np.degrees(5.0 / 100.0), 5.0))
    assert reach_of(change(0.0, sd_deg=np.inf), limit=10.0, radius=100.0)[0] == 180.0
