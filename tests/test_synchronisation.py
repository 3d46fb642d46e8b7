"""Poses of pairs, some of them wrong, make poses of all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import PairResult, Pose, Result
from gonio.lm import Status
from gonio.synchronisation import agreement_deg, synchronised

COUNT = 15


def pairs_of(truth: Pose, rng: np.random.Generator, *, sd_deg=0.0, sd_angstrom=0.0, wrong=0.0) -> list[PairResult]:
    """What aligning pairs would say, with errors, and a share of them anything at all."""
    pairs = []
    for i, j in combinations(range(len(truth)), 2):
        pose = truth[j] @ truth[i].inverse()
        if rng.random() < wrong:
            pose = Pose.random(1, rng=rng, max_shift_angstrom=20.0)[0]
        pose = pose.retract(np.r_[np.radians(sd_deg) * rng.normal(size=3), sd_angstrom * rng.normal(size=3)])
        pairs.append(
            PairResult(i, j, Result(pose, 0.5, Status.CONVERGED, 1, 1.0, np.eye(6)), np.empty(0), np.empty((2, 0, 4)))
        )
    return pairs


def errors(found: Pose, truth: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Against the truth in the frame of the found map, which is anybody's: laid on it by the particles themselves."""
    frames = [truth[i].inverse() @ found[i] for i in range(len(truth))]
    turn = Rotation.concatenate([frame.rotation for frame in frames]).mean()
    shift = np.median([frame.shift_angstrom for frame in frames], axis=0)
    laid = Pose.stack([truth[i] @ Pose(turn, shift) for i in range(len(truth))])
    return np.asarray(found.rotation_distance_deg(laid)), np.asarray(found.shift_distance_angstrom(laid))


def test_without_errors_it_is_exact(rng):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    found = synchronised(pairs_of(truth, rng), COUNT)
    rotation, shift = errors(found, truth)
    assert rotation.max() < 1e-4
    assert shift.max() < 1e-6
    assert found.rotation[0].magnitude() < 1e-9
    assert agreement_deg(pairs_of(truth, rng), found).max() < 1e-4


def test_errors_are_averaged(rng):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    rotation, shift = errors(synchronised(pairs_of(truth, rng, sd_deg=4.0, sd_angstrom=3.0), COUNT), truth)
    # A pair is off by 4 sqrt(3) = 7 degrees, a particle of 14 pairs by sqrt(14) times less.
    assert np.median(rotation) < 3.0
    assert np.median(shift) < 3.0


@pytest.mark.parametrize("wrong", [0.2, 0.5])
def test_wrong_pairs_are_outvoted(rng, wrong):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    pairs = pairs_of(truth, rng, sd_deg=2.0, sd_angstrom=1.0, wrong=wrong)
    found = synchronised(pairs, COUNT)
    rotation, shift = errors(found, truth)
    assert rotation.max() < 8.0
    assert np.median(shift) < 6.0
    assert (agreement_deg(pairs, found) > 20.0).mean() == pytest.approx(wrong, abs=0.15)


def test_the_hand_is_that_of_the_pairs(rng):
    truth = Pose.random(COUNT, rng=rng)
    found = synchronised(pairs_of(truth, rng, sd_deg=1.0), COUNT)
    np.testing.assert_allclose(np.linalg.det(found.matrix), 1.0, atol=1e-9)


def test_the_origin_is_in_the_middle(rng):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    found = synchronised(pairs_of(truth, rng), COUNT)
    origin = np.linalg.lstsq(found.matrix.reshape(-1, 3), found.shift_angstrom.ravel(), rcond=None)[0]
    np.testing.assert_allclose(origin, 0.0, atol=1e-6)


def test_a_particle_in_no_pair_is_told(rng):
    with pytest.raises(ValueError, match="particle 3 is in no pair"):
        synchronised(pairs_of(Pose.random(3, rng=rng), rng), 4)
