"""Where a search may go: about known normals, near a pose, and one of what symmetry makes equal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from examples import BOX, NORMAL, POSES, SHARP, VOXEL, assert_found, noisy, sharp
from gonio.alignment.aligner import Aligner, align
from gonio.alignment.result import Result
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Subtomogram, Volume
from gonio.search.objective import AxisPrior, StartPrior, pack, poses_of, prior_model
from gonio.search.search_space import about_normals, everywhere, near
from gonio.settings import AxisSearch, LocalSearch, Settings
from gonio.simulate import Phantom

UNIT = NORMAL / np.linalg.norm(NORMAL)
MAP = sharp(Pose.identity()).volume
WITH_NORMAL = Subtomogram(MAP, normal_xyz=NORMAL)
ROUNDING = 1e-9  # of a few hundred retractions in double precision, each wrong by 1e-16


def tilted(index: int, off_deg: float) -> Subtomogram:
    """A noisy particle whose normal is said to lie ``off_deg`` from where it is."""
    normal = POSES[index].matrix @ UNIT
    across = np.cross(normal, [0.3, 0.9, -0.2])
    wrong = Rotation.from_rotvec(np.radians(off_deg) * across / np.linalg.norm(across)).as_matrix() @ normal
    return replace(noisy(index), normal_xyz=wrong)


def tilt_deg(result: Result, target: Subtomogram) -> float:
    """Angle between the target's normal and the reference's, carried over."""
    return float(np.degrees(np.arccos(np.clip(result.pose.matrix @ UNIT @ target.normal_xyz, -1, 1))))


@pytest.mark.parametrize("index", [0, 3])
@pytest.mark.parametrize("off_deg", [0.0, 8.0])
def test_normals_stay_together(index, off_deg):
    target = tilted(index, off_deg)
    result = align(target, WITH_NORMAL, settings=Settings(search="axis"))
    carried = result.pose.matrix @ UNIT
    np.testing.assert_allclose(carried, target.normal_xyz, atol=ROUNDING)
    for other in result.runners_up:
        np.testing.assert_allclose(other.pose.matrix @ UNIT, target.normal_xyz, atol=ROUNDING)
    if off_deg == 0.0:
        assert result.pose.rotation_distance_deg(POSES[index]) < 3.0  # SNR 0.5, with a free search 1.4 in the median


def test_a_tilt_goes_as_far_as_the_data_tell_and_the_prior_lets_it():
    """From a normal that is 6 degrees wrong: nowhere, part of the way, or as far as without a prior."""
    target = tilted(1, 6.0)
    tilts = [
        tilt_deg(align(target, WITH_NORMAL, settings=Settings(search=AxisSearch(sd))), target)
        for sd in (1e-3, 0.3, 1.0, 10.0)
    ]
    assert tilts[0] < 0.01
    assert tilts == sorted(tilts)
    free = align(noisy(1), MAP)
    assert tilts[-1] == pytest.approx(tilt_deg(free, target), abs=0.5)
    assert free.pose.rotation_distance_deg(POSES[1]) < 3.0


angles = st.floats(-3.0, 3.0)
vectors = st.tuples(angles, angles, angles).map(np.array)


def slopes(prior, point: np.ndarray, *, h: float = 1e-5) -> np.ndarray:
    """The gradient of a prior along the tangent, by central differences."""
    pose = poses_of(point[None])[0]
    moved = [[pose.retract(sign * h * axis) for sign in (1, -1)] for axis in np.eye(6)]
    value = [[prior_model(prior, pack(p.matrix[None], p.shift_angstrom[None]))[0][0] for p in pair] for pair in moved]
    return np.array([(up - down) / (2 * h) for up, down in value])


@given(vectors)
def test_an_axis_priors_gradient_is_that_of_its_value(vector):
    prior = AxisPrior(UNIT, np.array([0.0, 0.6, 0.8]), 0.2)
    point = pack(Rotation.from_rotvec(vector).as_matrix()[None], np.array([[3.0, -2.0, 1.0]]))
    angle = np.arccos(np.clip(Rotation.from_rotvec(vector).as_matrix() @ prior.reference_normal_xyz @ UNIT, -1, 1))
    if angle > np.pi - 0.02:
        return  # the opposite of the normal is as far in all directions: no slope is right there
    value, hessian, descent = prior_model(prior, point)
    # Central differences: rounding of the value over the step, 1e-16 pi^2 / (2 sd^2) / h, and h^2 of third derivatives.
    np.testing.assert_allclose(-descent[0], slopes(prior, point[0]), atol=1e-6 * (1 + np.pi / prior.sd**2))
    assert value[0] == pytest.approx(0.5 * (angle / prior.sd) ** 2, abs=1e-6)
    np.testing.assert_allclose(hessian[0], hessian[0].T)
    assert np.linalg.eigvalsh(hessian[0]).min() > -1e-9
    assert not descent[0, 3:].any() and not hessian[0, 3:].any()
    # Turning about the carried normal changes nothing.
    carried = Rotation.from_rotvec(vector).as_matrix() @ prior.reference_normal_xyz
    np.testing.assert_allclose(hessian[0, :3, :3] @ carried, 0.0, atol=1e-9)
    np.testing.assert_allclose(descent[0, :3] @ carried, 0.0, atol=1e-9)


def test_an_axis_priors_curvature_is_exact_where_the_normals_meet():
    prior = AxisPrior(UNIT, UNIT, 0.1)
    point = pack(np.eye(3)[None], np.zeros((1, 3)))
    _, hessian, _ = prior_model(prior, point)
    h = 1e-4
    for direction in np.random.default_rng(0).normal(size=(4, 6)):
        pose = Pose.identity().retract(h * direction)
        value = prior_model(prior, pack(pose.matrix[None], pose.shift_angstrom[None]))[0][0]
        assert 2 * value / h**2 == pytest.approx(direction @ hessian[0] @ direction, rel=1e-4)


@given(vectors, vectors)
def test_a_start_priors_gradient_is_that_of_its_value(start, vector):
    # The rotation vector jumps at half a turn: stay clear of it.
    prior = StartPrior(Pose(Rotation.from_rotvec(start), np.ones(3)), np.array([4.0, 4.0, 4.0, 0.5, 0.5, 0.5]))
    matrix = (Rotation.from_rotvec(0.3 * vector) * Rotation.from_rotvec(start)).as_matrix()
    point = pack(matrix[None], np.array([[3.0, -2.0, 1.0]]))
    if np.linalg.norm(0.3 * vector) > 3.0:
        return
    np.testing.assert_allclose(-prior_model(prior, point)[2][0], slopes(prior, point[0]), atol=1e-5)


def test_a_cone_holds_what_is_near_its_axis(rng):
    centre = Rotation.random(rng=rng)
    axes = rng.normal(size=(20, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    comparison = Comparison(Spectrum.of(noisy(0), limit=8.0), FourierVolume.of(MAP, limit=8.0), score=Score.FCS)

    def outside(rotations: Rotation, cone_deg: float) -> np.ndarray:
        settings = Settings(search=LocalSearch(max_rotation_deg=cone_deg))
        frame = near(noisy(0), Pose(centre, np.zeros(3)), settings, spacing_deg=None)
        points = pack(rotations.as_matrix(), np.zeros((len(rotations), 3)))
        return np.isinf(frame.problem(comparison).model(points)[0])

    for deg, expected in ((0.0, False), (19.99, False), (20.01, True), (179.0, True)):
        assert (outside(Rotation.from_rotvec(np.radians(deg) * axes) * centre, 20.0) == expected).all()
    assert not outside(Rotation.random(50, rng=rng), 180.0).any()


@pytest.mark.parametrize("pool", ["all", "drawn"])
def test_a_local_search_stays_in_its_cone(pool, rng):
    """The right pose is 40 degrees away: a narrow cone does not reach it, a wide one does."""
    start = Pose(Rotation.from_rotvec(np.radians(40.0) * UNIT) * POSES[0].rotation, POSES[0].shift_angstrom)
    found = {}
    for cone in (15.0, 60.0):
        settings = Settings(search=LocalSearch(max_rotation_deg=cone), pool=pool)
        found[cone] = align(noisy(0), MAP, settings=settings, start=start, rng=rng)
        for pose in (found[cone].pose, *(o.pose for o in found[cone].runners_up)):
            assert pose.rotation_distance_deg(start) <= cone + 1e-3
    assert found[60.0].pose.rotation_distance_deg(POSES[0]) < 3.0
    assert found[15.0].pose.rotation_distance_deg(POSES[0]) > 20.0


@pytest.mark.parametrize("score", ["rcs", "fcs", "likelihood"])
def test_a_prior_holds_restored_particles_too(score):
    """Whatever the score, a prior much stricter than the data leaves the pose where it was."""
    start = POSES[1].retract([0.1, -0.12, 0.08, 8.0, -6.0, 9.0])
    for cone in (None, 30.0):
        settings = Settings(score=score, search=LocalSearch(1e-3, 1e-3, cone))
        result = align(noisy(1), MAP, settings=settings, start=start)
        assert result.pose.rotation_distance_deg(start) < 0.05
        assert result.pose.shift_distance_angstrom(start) < 0.05


@pytest.mark.parametrize("score", ["rcs", "fcs"])
def test_the_dissimilarity_is_that_of_the_pair_without_the_prior(score):
    start = POSES[1].retract([0.02, 0.0, -0.01, 1.0, -1.0, 2.0])
    results = [
        align(noisy(1), MAP, settings=Settings(score=score, search=LocalSearch(sd)), start=start)
        for sd in (None, 100.0)
    ]
    # Poses differ by what a prior of 100 degrees can do.
    assert results[1].dissimilarity == pytest.approx(results[0].dissimilarity, rel=1e-3)


def rotations(frame) -> Rotation:
    return Rotation.from_matrix(frame.rotations)


@pytest.mark.parametrize("symmetry", ["C1", "C2", "C4", "D2", "O"])
def test_symmetry_leaves_one_seed_of_each_class(symmetry):
    group = Symmetry.named(symmetry)
    free = everywhere(noisy(0), Settings(), spacing_deg=20.0)
    few = everywhere(noisy(0), Settings(symmetry=symmetry), spacing_deg=20.0)
    # The edges of the part that is left are covered less well, so seeds lie closer by 0.9: 0.9^-3 as many.
    more = 0.9**-3 if group.order > 1 else 1.0
    assert len(few.rotations) == pytest.approx(more * len(free.rotations) / group.order, rel=0.15)


def test_seeds_about_normals_carry_one_to_the_other():
    target = tilted(0, 0.0)
    for reach in (None, 10.0, 25.0):
        frame = about_normals(target, WITH_NORMAL, Settings(search="axis"), spacing_deg=reach)
        np.testing.assert_allclose(
            frame.rotations @ UNIT, np.tile(target.normal_xyz, (len(frame.rotations), 1)), atol=1e-9
        )
        assert frame.directions.shape == (6, 4) and frame.prior is None
    soft = about_normals(target, WITH_NORMAL, Settings(search=AxisSearch(15.0)), spacing_deg=10.0)
    tilts = np.degrees(np.arccos(np.clip(soft.rotations @ UNIT @ target.normal_xyz, -1, 1)))
    assert tilts.max() <= 2 * 15.0 + 10.0 and np.isclose(tilts, 0, atol=1e-5).sum() == 18
    assert soft.directions.shape == (6, 6)


def test_a_frame_near_a_pose_starts_there():
    alone = near(noisy(0), POSES[0], Settings(search="local"), spacing_deg=20.0)
    np.testing.assert_allclose(alone.rotations, POSES[0].matrix[None])
    assert alone.precision(POSES[0]) is None
    cone = near(noisy(0), POSES[0], Settings(search=LocalSearch(max_rotation_deg=45.0)), spacing_deg=20.0)
    assert 8 < len(cone.rotations) < 100
    held = near(noisy(0), POSES[0], Settings(search=LocalSearch(prior_shift_sd_angstrom=2.0)), spacing_deg=20.0)
    np.testing.assert_allclose(np.diag(held.precision(POSES[0])), [0, 0, 0, 0.25, 0.25, 0.25])


def four_fold() -> Phantom:
    """``sharp``, off the axis of z, four times about it."""
    out = SHARP.moved(Pose(Rotation.identity(), np.array([55.0, 10.0, 0.0])))
    parts = [out.moved(Pose(Rotation.from_euler("z", 90.0 * i, degrees=True), np.zeros(3))) for i in range(4)]
    return Phantom(
        *(
            np.concatenate([getattr(p, name) for p in parts])
            for name in ("amplitudes", "centres_xyz_angstrom", "covariances_angstrom2")
        )
    )


def test_a_symmetric_particle_is_found_once_modulo_its_symmetry():
    phantom, group = four_fold(), Symmetry.named("C4")

    def seen(pose: Pose) -> Volume:
        return Volume(phantom.density(pose, box=BOX, voxel_size_angstrom=VOXEL), VOXEL)

    aligners = {s: Aligner(seen(Pose.identity()), Settings(symmetry=s)) for s in ("C1", "C4")}
    for index in range(2):
        target = Subtomogram(seen(POSES[index]))
        found = {s: a.align(target) for s, a in aligners.items()}
        for result in found.values():
            turned = group.nearest(result.pose, to=POSES[index])
            assert_found(replace(result, pose=turned), POSES[index])
        # Without the symmetry the other three of each four are runners-up; with it none is.
        equal = {s: [group.rotation_distance_deg(o.pose, r.pose) for o in r.runners_up] for s, r in found.items()}
        assert min(equal["C1"]) < 1.0
        assert all(distance > 2.0 for distance in equal["C4"])
