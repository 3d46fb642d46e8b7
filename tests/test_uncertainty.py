"""A covariance says how far poses scatter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples import NORMAL, POSES, SHARP, SIXTY, VOXEL, noisy, sharp
from gonio.alignment.aligner import Aligner, align
from gonio.alignment.result import Result
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, TiltStack, Volume
from gonio.particle.wedge import SingleAxisWedge
from gonio.search.uncertainty import Curvature
from gonio.settings import Settings
from gonio.simulate import Imaging, simulate_tilt_stack

MAP = sharp(Pose.identity()).volume
COUNT = 40


def errors(results: list[Result], truth: Pose) -> np.ndarray:
    """The tangent from the truth to each pose found: R = exp([omega]x) R_true, t = t_true + dt; (p, 6)."""
    return np.array(
        [
            [*(r.pose.rotation * truth.rotation.inv()).as_rotvec(), *(r.pose.shift_angstrom - truth.shift_angstrom)]
            for r in results
        ]
    )


def scatter(results: list[Result], truth: Pose) -> float:
    """Mean of e^T C^-1 e over 6: 1 when the covariances are right."""
    tangents = errors(results, truth)
    return float(np.mean([e @ np.linalg.solve(r.covariance, e) for e, r in zip(tangents, results, strict=True)]) / 6)


def with_noise(count: int, *, sd: float, wedge=SIXTY) -> list[Subtomogram]:
    """One pose under fresh white noise, ``sd`` in units of the density's standard deviation."""
    clean = sharp(POSES[0]).volume.data
    rng = np.random.default_rng(1)
    noises = rng.normal(size=(count, *clean.shape)) * sd * clean.std()
    return [Subtomogram(Volume(clean + noise, VOXEL), wedge) for noise in noises]


@pytest.mark.parametrize("score", ["rcs", "fcs"])
def test_poses_scatter_as_their_covariance_says(score):
    """White noise and plain samples: the model itself.

    The sum of COUNT x 6 = 240 squared normals has a mean of 240 and a standard deviation of sqrt(480) = 22; the test
    takes four of those, 0.63 to 1.37 of the mean. A covariance wrong by a factor of two would be told 99.9 % of times.
    """
    aligner = Aligner(MAP, Settings(score=score, search="local", inputs="plain", tolerance_angstrom=1e-3))
    results = aligner.align_many(with_noise(COUNT, sd=2.0), starts=POSES[np.zeros(COUNT, int)])
    assert abs(scatter(results, POSES[0]) - 1) < 4 * np.sqrt(2 / (6 * COUNT))


# How many times too large the variance of restored pairs may be said to be. Their samples are mixtures of neighbours,
# counted by the sphere's volume: measured 1.4 to 2.3. The covariance is always that of a comparison weighted for RCS,
# which the likelihood ratio beats: measured 3 to 4.4.
TOO_CAREFUL = {"rcs": 3.0, "fcs": 3.0, "likelihood": 5.0}


@pytest.mark.parametrize("score", list(TOO_CAREFUL))
def test_restored_poses_scatter_no_more_than_their_covariance_says(score):
    """With four standard deviations of the mean of 240 squares on either side."""
    aligner = Aligner(MAP, Settings(score=score, search="local"))
    results = aligner.align_many(with_noise(COUNT, sd=2.0), starts=POSES[np.zeros(COUNT, int)])
    margin = 4 * np.sqrt(2 / (6 * COUNT))
    assert (1 - margin) / TOO_CAREFUL[score] < scatter(results, POSES[0]) < 1 + margin


def test_it_is_symmetric_and_positive():
    for settings in (Settings(), Settings(search="stochastic"), Settings(search="local", inputs="plain")):
        result = align(noisy(0), MAP, settings=settings, start=POSES[0], rng=np.random.default_rng(0))
        np.testing.assert_array_equal(result.covariance, result.covariance.T)
        assert np.linalg.eigvalsh(result.covariance).min() > 0
        mean = np.trace(result.covariance[:3, :3]) / 3
        assert result.rotation_sd_deg == pytest.approx(np.degrees(np.sqrt(mean)))
        assert result.shift_sd_angstrom == pytest.approx(np.sqrt(np.trace(result.covariance[3:, 3:]) / 3))


def test_more_noise_is_less_sure():
    for inputs in ("plain", "restored"):
        aligner = Aligner(MAP, Settings(search="local", inputs=inputs))
        results = [aligner.align(with_noise(1, sd=sd)[0], start=POSES[0]) for sd in (0.5, 2.0, 8.0)]
        for name in ("rotation_sd_deg", "shift_sd_angstrom"):
            sds = [getattr(r, name) for r in results]
            assert sds == sorted(sds)
            if inputs == "plain":
                assert sds[1] == pytest.approx(
                    4 * sds[0], rel=0.2
                )  # in proportion, while little of the target is noise


def test_about_an_axis_only_the_turn_about_it_is_unsure():
    normal = POSES[0].matrix @ NORMAL
    normal /= np.linalg.norm(normal)
    target = replace(noisy(0), normal_xyz=normal)
    reference = Subtomogram(MAP, normal_xyz=NORMAL)
    for search in ("axis", "axis_stochastic"):
        result = align(target, reference, settings=Settings(search=search), rng=np.random.default_rng(0))
        turn = result.covariance[:3, :3]
        np.testing.assert_allclose(turn, (normal @ turn @ normal) * np.outer(normal, normal), atol=1e-12)
        assert normal @ turn @ normal > 0
        assert np.linalg.eigvalsh(result.covariance[3:, 3:]).min() > 0
        free = align(noisy(0), MAP, settings=Settings(search="local"), start=result.pose)
        assert search == "axis_stochastic" or normal @ turn @ normal < 1.05 * normal @ free.covariance[:3, :3] @ normal


def covariance(
    target: Spectrum, reference: FourierVolume, pose: Pose, *, directions, samples_per_independent=1.0, precision=None
):
    """The covariance at a pose of samples that the target weights."""
    compared = Comparison(target, reference, score=Score.FCS)
    sums = compared.shell_equations(pose.matrix, pose.shift_angstrom)
    curvature = Curvature.of_sums(
        sums, target.shell_weights(), phase=compared.phase, samples_per_independent=samples_per_independent
    )
    return curvature.covariance(directions=directions, precision=precision)


def given(precision=None, directions=None, target=None, pose=POSES[0]) -> np.ndarray:
    """The covariance of a plain noisy pair."""
    spectrum = Spectrum.of(noisy(0) if target is None else target, resolution_angstrom=40.0)
    return covariance(
        spectrum,
        FourierVolume.of(MAP, limit=spectrum.limit),
        pose,
        directions=np.eye(6) if directions is None else directions,
        samples_per_independent=1.0,
        precision=precision,
    )


def test_a_prior_adds_its_information():
    free = given()
    precision = np.diag(np.repeat([np.radians(2.0) ** -2, 3.0**-2], 3))
    held = given(precision)
    np.testing.assert_allclose(np.linalg.inv(held), np.linalg.inv(free) + precision, rtol=1e-6, atol=1e-6)
    assert np.linalg.eigvalsh(free - held).min() > 0
    np.testing.assert_allclose(given(1e12 * np.eye(6)), 1e-12 * np.eye(6), atol=1e-15)
    np.testing.assert_allclose(given(np.zeros((6, 6))), free)


def test_samples_that_are_not_independent_are_less_sure():
    spectrum = Spectrum.of(noisy(0), resolution_angstrom=40.0)
    reference = FourierVolume.of(MAP, limit=spectrum.limit)
    one, four = (
        covariance(spectrum, reference, POSES[0], directions=np.eye(6), samples_per_independent=c) for c in (1.0, 4.0)
    )
    np.testing.assert_allclose(four, 4 * one)


def test_weights_that_mean_nothing_change_nothing():
    """A common factor of all weights, or of the map."""
    spectrum = Spectrum.of(noisy(0), resolution_angstrom=40.0)
    reference = FourierVolume.of(MAP, limit=spectrum.limit)
    free = given()
    half = replace(spectrum, weight=0.5 * spectrum.weight)
    scaled = FourierVolume.of(Volume(7.0 * MAP.data, VOXEL), limit=spectrum.limit)
    units = np.sqrt(np.outer(np.diag(free), np.diag(free)))  # elements are known to float32 of these
    for target, map_ in ((half, reference), (spectrum, scaled)):
        found = covariance(target, map_, POSES[0], directions=np.eye(6), samples_per_independent=1.0)
        np.testing.assert_allclose(found / units, free / units, atol=1e-5)


def test_what_one_image_does_not_tell_is_infinite():
    """Nothing tells the height; a prior on it does."""
    stack = simulate_tilt_stack(
        SHARP, POSES[0], imaging=Imaging(tilt_step_deg=5.0, snr=0.5, ctf=None), rng=np.random.default_rng(0)
    )
    for image in (3, 12):  # tilted, and along z itself
        one = TiltStack(stack.images[image : image + 1], stack.projections_xyz[image : image + 1], VOXEL)
        assert np.isinf(np.diag(given(target=one))).all()
        held = given(np.diag([0, 0, 0, 0.01, 0.01, 0.01]), target=one)
        beam = np.cross(*one.projections_xyz[0])
        assert np.isfinite(held).all()
        assert beam @ held[3:, 3:] @ beam == pytest.approx(100.0, rel=0.01)


def test_where_nothing_is_shared_all_is_infinite():
    narrow = SingleAxisWedge(-1.0, 1.0)
    target = Subtomogram(noisy(0).volume, narrow)
    spectrum = Spectrum.of(target, resolution_angstrom=40.0)
    reference = FourierVolume.of(MAP, wedge=SingleAxisWedge(-1.0, 1.0, 0.0), limit=spectrum.limit)
    axis = np.zeros((6, 4))
    axis[2, 0], axis[3:, 1:] = 1.0, np.eye(3)
    turned = Pose.from_euler_zyz_deg([0.0, 90.0, 0.0])
    for directions in (np.eye(6), axis):
        found = covariance(spectrum, reference, turned, directions=directions, samples_per_independent=1.0)
        free = np.abs(directions).sum(axis=1) > 0
        assert not np.isnan(found).any()
        assert np.isinf(found[np.ix_(free, free)].diagonal()).all() or np.linalg.eigvalsh(found).min() >= 0
        assert not found[~free].any()
