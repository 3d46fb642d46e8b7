"""Poses drawn from what a particle says of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from examples import BOX, POSES, SHARP, VOXEL, random, sharp, table_of
from gonio.alignment.aligner import Aligner
from gonio.alignment.posterior import PROPOSED, Draws, Worth, drawn
from gonio.averaging.averages import average, average_table, folds_of
from gonio.comparison.score import Score
from gonio.fourier.fsc import fourier_shell_correlation, shell_power
from gonio.particle.pose import Pose, PoseSample
from gonio.particle.volume import Subtomogram
from gonio.preparation.prepare import Preparation
from gonio.settings import Settings
from gonio.simulate import Imaging, simulate_subtomogram

pytestmark = pytest.mark.slow

MAP = sharp(Pose.identity()).volume
COVARIANCE = np.diag([1e-3, 2e-3, 5e-4, 4.0, 1.0, 9.0])


def tangents(poses: Pose, centre: Pose) -> np.ndarray:
    turn = (poses.rotation * centre.rotation.inv()).as_rotvec()
    return np.concatenate([turn, poses.shift_angstrom - centre.shift_angstrom], axis=1)


def under_noise(snr: float, seed: int) -> Subtomogram:
    imaging = Imaging(box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=3.0, snr=snr)
    return simulate_subtomogram(SHARP, POSES[0], imaging=imaging, rng=random(seed))


def draws_of(log_posterior, *, count: int) -> tuple[Draws, np.ndarray]:
    """So many sets of draws about one optimum, of equal weight each, and their weights by a log posterior."""
    one = Pose.stack([POSES[0]])
    sets = [
        drawn(one, np.zeros(1), COVARIANCE, directions=np.eye(6), most_shift_angstrom=50.0, rng=random(i))
        for i in range(count)
    ]
    poses = Pose.stack([s.poses[i] for s in sets for i in range(PROPOSED)])
    every = Draws(poses, np.concatenate([s.log_density for s in sets]))
    return every, every.weights(log_posterior(tangents(poses, POSES[0])))


@pytest.mark.parametrize("wider", [0.7, 1.0, 1.5])
def test_weights_turn_what_was_proposed_into_the_posterior(wider):
    """A Gaussian that is narrower or wider than the one that was expected has its own variances again.

    Of 12,800 draws some thousand equal ones are left, whose variances scatter by sqrt(2 / n), five in a hundred.
    """
    precision = np.linalg.inv(wider**2 * COVARIANCE)
    draws, weight = draws_of(lambda t: -0.5 * np.einsum("pi,ij,pj->p", t, precision, t), count=200)
    t = tangents(draws.poses, POSES[0])
    found = (t * weight[:, None]).T @ t
    assert 1.0 / (weight**2).sum() > 1000.0
    np.testing.assert_allclose(np.diag(found), wider**2 * np.diag(COVARIANCE), rtol=0.2)


def test_a_rival_is_drawn_as_often_as_it_is_likely():
    optima = Pose.stack([POSES[0], Pose(Rotation.from_euler("x", 120, degrees=True), np.zeros(3))])
    worth = np.log([0.7, 0.3])

    def log_posterior(poses: Pose) -> np.ndarray:
        precision = np.linalg.inv(COVARIANCE)
        terms = [
            w - 0.5 * np.einsum("pi,ij,pj->p", tangents(poses, optima[j]), precision, tangents(poses, optima[j]))
            for j, w in enumerate(worth)
        ]
        return np.logaddexp(*terms)

    fraction = []
    for seed in range(60):
        draws = drawn(optima, worth, COVARIANCE, directions=np.eye(6), most_shift_angstrom=50.0, rng=random(seed))
        kept = draws.first(draws.weights(log_posterior(draws.poses)), 12)
        fraction.append(kept.weights[kept.poses.rotation_distance_deg(optima[1]) < 40.0].sum())
    # Each scatters by a third at most: 0.3 to within 0.12 is three standard deviations of the mean of sixty.
    assert np.mean(fraction) == pytest.approx(0.3, abs=0.12)


def test_poses_are_drawn_along_free_directions_alone():
    directions = np.zeros((6, 4))
    directions[2, 0] = 1.0
    directions[3:, 1:] = np.eye(3)
    draws = drawn(
        Pose.stack([POSES[0]]), np.zeros(1), COVARIANCE, directions=directions, most_shift_angstrom=9.0, rng=random(0)
    )
    t = tangents(draws.poses, POSES[0])
    np.testing.assert_allclose(t[:, :2], 0.0, atol=1e-12)
    assert (np.ptp(t[:, 2:], axis=0) > 0).all() and np.isfinite(draws.log_density).all()


def test_what_a_pose_is_worth_is_the_likelihood_of_the_noise():
    """Against what defines it: weighted squares that the reference leaves, over their variance at the best."""
    pair = Preparation(Subtomogram(MAP), Settings()).pair(under_noise(0.05, 0))
    aligner = Aligner(MAP, Settings(search="local", posterior_poses=4, posterior_resolved=0.0))
    result = aligner.align(under_noise(0.05, 0), start=POSES[0], rng=random(0))
    poses = result.sampled.poses
    comparison = pair.plain(Score.RCS)
    d, _ = comparison.values(poses.matrix, poses.shift_angstrom)
    best = 1.0 - 0.5 * result.dissimilarity
    expected = len(pair.target) / pair.samples_per_independent * (1.0 - 0.5 * d) ** 2 / (1.0 - best**2)
    sums = comparison.shell_sums(poses.matrix, poses.shift_angstrom)
    np.testing.assert_allclose(Worth.of(pair, result.dissimilarity).log_likelihood(sums), expected, rtol=1e-4)


def test_sampled_poses_lie_where_the_covariance_says():
    """Forty particles at SNR 0.2 to one map: their drawn poses scatter about the best as predicted."""
    aligner = Aligner(MAP, Settings(search="local", posterior_poses=8, posterior_resolved=0.0))
    ratio = []
    for seed in range(40):
        result = aligner.align(under_noise(0.2, seed), start=POSES[0], rng=random(seed))
        t = tangents(result.sampled.poses, result.pose)
        away = np.einsum("pi,ij,pj->p", t, np.linalg.inv(result.covariance), t)
        ratio.append(result.sampled.weights @ away / 6.0)
    # Forty times some four independent ones: 1 to within three times sqrt(2 / (6 * 160)), and what a parabola is not,
    # whose variances are up to 1.4 times as large.
    assert 0.85 < np.mean(ratio) < 1.4


def test_sharp_posteriors_are_one_pose_and_plain_results_have_none():
    particle = under_noise(0.5, 0)
    soft = Aligner(MAP, Settings(search="local", posterior_poses=8)).align(particle, start=POSES[0], rng=random(0))
    hard = Aligner(MAP, Settings(search="local")).align(particle, start=POSES[0])
    assert soft.sampled is None and hard.sampled is None
    assert soft.pose.rotation_distance_deg(hard.pose) == 0.0


def test_drawn_poses_follow_the_frame():
    aligner = Aligner(MAP, Settings(search="local", posterior_poses=4, posterior_resolved=0.0))
    result = aligner.align(under_noise(0.1, 0), start=POSES[0], rng=random(0))
    moved = result.after(POSES[1])
    expected = result.sampled.poses @ POSES[1]
    np.testing.assert_allclose(moved.sampled.poses.matrix, expected.matrix)
    np.testing.assert_allclose(moved.sampled.poses.shift_angstrom, expected.shift_angstrom)
    np.testing.assert_array_equal(moved.sampled.weights, result.sampled.weights)


def test_an_average_over_poses_is_the_mean_of_averages():
    """A particle at two poses, each for a half of it, is two particles of half the weight."""
    particle, other = under_noise(0.5, 0), under_noise(0.5, 1)
    both = PoseSample(Pose.stack([POSES[0], POSES[1]]), np.array([0.5, 0.5]))
    table = table_of([particle, other], Pose.stack([POSES[0], POSES[0]]))
    soft = average_table(table, poses=[both, POSES[0]])
    hard = average([particle, particle, other, other], Pose.stack([POSES[0], POSES[1], POSES[0], POSES[0]]))
    np.testing.assert_allclose(soft.volume.data, hard.volume.data, atol=2e-4 * np.abs(hard.volume.data).max())
    np.testing.assert_allclose(2.0 * soft.coverage, hard.coverage, atol=1e-3 * hard.coverage.max())


def test_a_map_with_the_power_of_another_keeps_its_fsc():
    """A blurred average with the shells of a sharp one: a factor for each shell, so halves agree as before."""
    particles = [under_noise(0.5, i) for i in range(10)]
    table, poses = table_of(particles, Pose.stack([POSES[0]] * 10)), Pose.stack([POSES[0]] * 10)
    halves, folds = (1 + np.arange(10) % 2).astype(np.int8), np.arange(10) // 2 % 5
    sharp_one = average(particles, poses, half_sets=halves)
    near = Pose.stack([POSES[0].retract(0.2 * step) for step in np.eye(6)[:3]])
    blurred = average_table(table, poses=[PoseSample(near, np.full(3, 1 / 3))] * 10, half_sets=halves, folds=folds)
    made = blurred.with_power_of(sharp_one)
    known = slice(1, (BOX - 1) // 2 + 1)
    for one, wanted in [(made.volume, sharp_one.volume), *zip(made.halves, sharp_one.halves, strict=True)]:
        np.testing.assert_allclose(shell_power(one)[known], shell_power(wanted)[known], rtol=1e-4)
    assert shell_power(blurred.volume)[known][-1] < 0.8 * shell_power(sharp_one.volume)[known][-1]
    np.testing.assert_allclose(fourier_shell_correlation(*made.halves)[known], blurred.fsc[known], atol=1e-4)
    factors = [shell_power(a)[known] / shell_power(b)[known] for a, b in zip(made.halves, blurred.halves, strict=True)]
    of_fold = shell_power(made.without[2, 0])[known] / shell_power(blurred.without[2, 0])[known]
    np.testing.assert_allclose(of_fold, factors[1], rtol=1e-3)


def test_maps_without_a_fold_are_the_averages_of_the_others():
    particles = [under_noise(0.5, i) for i in range(10)]
    poses = Pose.stack([POSES[0]] * 10)
    table = table_of(particles, poses)
    halves, folds = (1 + np.arange(10) % 2).astype(np.int8), np.arange(10) // 2 % 5
    made = average_table(table, half_sets=halves, folds=folds)
    plain = average_table(table, half_sets=halves)
    np.testing.assert_allclose(made.halves[0].data, plain.halves[0].data, atol=1e-5 * np.abs(made.volume.data).max())
    rows = np.flatnonzero((halves == 2) & (folds != 3))
    others = average([particles[i] for i in rows], poses[rows]).volume
    np.testing.assert_allclose(made.without[2, 3].data, others.data, atol=1e-5 * np.abs(others.data).max())
    assert sorted(made.without) == [(half, fold) for half in (1, 2) for fold in range(5)]


@pytest.mark.parametrize("count", [4, 33, 160, 1000])
def test_folds_are_five_nearly_equal_parts(count):
    sizes = np.bincount(folds_of(count), minlength=5)
    assert len(sizes) == 5 and sizes.sum() == count
    assert np.ptp(sizes) <= max(1, 32)


def test_negative_numbers_of_poses_are_refused():
    with pytest.raises(ValueError, match="posterior_poses"):
        replace(Settings(), posterior_poses=-1)
