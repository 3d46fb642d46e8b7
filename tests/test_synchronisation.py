"""Poses of pairs, some of them wrong, make poses of all."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import Pose
from gonio.synchronisation import Pairs, Synchronised, synchronised

COUNT = 15


def pairs_of(truth: Pose, rng: np.random.Generator, *, sd_deg=0.0, sd_angstrom=0.0, wrong=0.0, second=False) -> Pairs:
    """What aligning pairs would say, with errors, and a share of them anything at all; the right one ``second``."""
    pairs = {}
    for i, j in combinations(range(len(truth)), 2):
        pose = truth[j] @ truth[i].inverse()
        pose = pose.retract(np.r_[np.radians(sd_deg) * rng.normal(size=3), sd_angstrom * rng.normal(size=3)])
        other = Pose.random(1, rng=rng, max_shift_angstrom=20.0)[0]
        if rng.random() < wrong:
            pairs[i, j] = Pose.stack([other, pose] if second else [other])
        else:
            pairs[i, j] = Pose.stack([pose])
    return Pairs(len(truth), pairs)


def found_of(pairs: Pairs) -> Synchronised:
    return synchronised(pairs, radius_angstrom=100.0, tolerance_angstrom=20.0)


def errors(found: Pose, truth: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Against the truth in the frame of the found map, which is anybody's: laid on it by the particles themselves."""
    frames = [truth[i].inverse() @ found[i] for i in range(len(truth))]
    turn = Rotation.concatenate([frame.rotation for frame in frames]).mean()
    shift = np.median([frame.shift_angstrom for frame in frames], axis=0)
    laid = Pose.stack([truth[i] @ Pose(turn, shift) for i in range(len(truth))])
    return np.asarray(found.rotation_distance_deg(laid)), np.asarray(found.shift_distance_angstrom(laid))


def test_without_errors_it_is_exact(rng):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    found = found_of(pairs_of(truth, rng))
    rotation, shift = errors(found.poses, truth)
    assert rotation.max() < 1e-4
    assert shift.max() < 1e-6
    np.testing.assert_allclose(found.agreement, 1.0)


def test_errors_are_averaged(rng):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    rotation, shift = errors(found_of(pairs_of(truth, rng, sd_deg=4.0, sd_angstrom=3.0)).poses, truth)
    # A pair is off by 4 sqrt(3) = 7 degrees, a particle of 14 pairs by sqrt(14) times less.
    assert np.median(rotation) < 3.5
    assert np.median(shift) < 4.0


@pytest.mark.parametrize("wrong", [0.2, 0.5])
def test_wrong_pairs_are_outvoted(rng, wrong):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    found = found_of(pairs_of(truth, rng, sd_deg=2.0, sd_angstrom=1.0, wrong=wrong))
    rotation, shift = errors(found.poses, truth)
    assert np.quantile(rotation, 0.9) < 8.0
    assert np.median(shift) < 6.0
    assert np.median(found.agreement) == pytest.approx(1.0 - wrong, abs=0.2)


def test_runners_up_are_taken_where_they_agree(rng):
    truth = Pose.random(COUNT, rng=rng, max_shift_angstrom=15.0)
    found = found_of(pairs_of(truth, rng, sd_deg=2.0, sd_angstrom=1.0, wrong=0.5, second=True))
    assert np.median(found.agreement) > 0.8


def test_the_hand_is_that_of_the_pairs(rng):
    found = found_of(pairs_of(Pose.random(COUNT, rng=rng), rng, sd_deg=1.0))
    np.testing.assert_allclose(np.linalg.det(found.poses.matrix), 1.0, atol=1e-9)


def test_all_pairs_are_needed(rng):
    pairs = pairs_of(Pose.random(4, rng=rng), rng).candidates
    del pairs[1, 2]
    with pytest.raises(ValueError, match="all pairs"):
        Pairs(4, pairs)
