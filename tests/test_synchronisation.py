"""One frame from poses of pairs: exact without errors, and right although most pairs are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from gonio.particle.pose import Pose
from gonio.workflows.synchronisation import Pairs, synchronised


def pairs_of(truth: Pose, rng: np.random.Generator, *, wrong: float, error_deg: float, runners_up: bool) -> Pairs:
    """Poses of all pairs with errors, a share of them anything at all, with the right one next in some."""
    candidates = {}
    for i in range(len(truth)):
        for j in range(i + 1, len(truth)):
            error = np.concatenate([np.radians(error_deg) * rng.normal(size=3), error_deg * rng.normal(size=3)])
            right, other = (truth[j] @ truth[i].inverse()).retract(error), Pose.random(1, rng=rng)[0]
            chosen = [other, right] if rng.random() < wrong else [right, other]
            candidates[i, j] = Pose.stack(chosen if runners_up else chosen[:1])
    return Pairs(len(truth), candidates)


def errors_deg(found: Pose, truth: Pose) -> np.ndarray:
    """Angles between poses in the frame that most agree on."""
    frame = (truth.inverse() @ found).rotation
    angles = np.array([np.degrees((frame * one.inv()).magnitude()) for one in frame])
    return angles[np.median(angles, axis=1).argmin()]


def test_without_errors_the_frame_is_exact(rng):
    truth = Pose.random(8, rng=rng, max_shift_angstrom=20.0)
    pairs = pairs_of(truth, rng, wrong=0.0, error_deg=0.0, runners_up=False)
    found = synchronised(pairs, radius_angstrom=100.0, tolerance_angstrom=20.0)
    one = found.poses @ Pose.stack([found.poses[0].inverse() @ truth[0]] * 8)
    assert np.max(one.rotation_distance_deg(truth)) < 1e-4
    assert np.max(one.shift_distance_angstrom(truth)) < 1e-4
    assert found.agreement.min() > 1.0 - 1e-9


@pytest.mark.parametrize(("wrong", "runners_up"), [(0.5, False), (0.7, True)])
def test_wrong_pairs_are_outvoted(rng, wrong, runners_up):
    truth = Pose.random(24, rng=rng, max_shift_angstrom=20.0)
    pairs = pairs_of(truth, rng, wrong=wrong, error_deg=3.0, runners_up=runners_up)
    found = synchronised(pairs, radius_angstrom=100.0, tolerance_angstrom=20.0)
    errors = errors_deg(found.poses, truth)
    # A mean of several poses is better than any one of them.
    assert np.median(errors) < 3.0 * np.sqrt(3.0)
    assert (errors > 15.0).sum() <= 1
    right = np.array([[i != j and pairs_right(pairs, truth, i, j) for j in range(24)] for i in range(24)])
    assert found.belief[right].mean() > 3.0 * found.belief[~right & ~np.eye(24, dtype=bool)].mean()


def pairs_right(pairs: Pairs, truth: Pose, i: int, j: int) -> bool:
    """Whether the first candidate is the right one."""
    i, j = min(i, j), max(i, j)
    return bool(pairs.candidates[i, j][0].rotation_distance_deg(truth[j] @ truth[i].inverse()) < 20.0)


def test_a_particle_that_fits_none_is_told(rng):
    truth = Pose.random(10, rng=rng)
    pairs = pairs_of(truth, rng, wrong=0.0, error_deg=1.0, runners_up=False)
    junk = {(i, 9): Pose.random(1, rng=rng) for i in range(9)}
    found = synchronised(Pairs(10, {**pairs.candidates, **junk}), radius_angstrom=100.0, tolerance_angstrom=10.0)
    assert found.agreement[9] < 0.3 < 0.7 < found.agreement[:9].min()


def test_a_missing_pair_is_refused(rng):
    pairs = pairs_of(Pose.random(4, rng=rng), rng, wrong=0.0, error_deg=0.0, runners_up=False)
    with pytest.raises(ValueError, match="all pairs"):
        Pairs(4, {pair: poses for pair, poses in pairs.candidates.items() if pair != (0, 3)})
