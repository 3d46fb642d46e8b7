"""Laws of poses: a group that acts on points, with a left tangent, and eq. 12 as the paper states it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import expm
from scipy.spatial.transform import Rotation

from gonio.particle.pose import Pose, moved_along
from oracle import candidate_distance

# Coordinates up to 200 angstrom and a few dozen double-precision operations: 200 * 50 * 2.2e-16 = 2e-12.
ROUNDING = 1e-11

angles = st.floats(-180.0, 180.0)
lengths = st.floats(-200.0, 200.0)
vectors = st.tuples(lengths, lengths, lengths).map(np.array)
poses = st.builds(Pose.from_euler_zyz_deg, st.tuples(angles, st.floats(0.0, 180.0), angles).map(np.array), vectors)
tangents = st.tuples(*[st.floats(-2.0, 2.0)] * 6).map(np.array)


def assert_same(one: Pose, other: Pose) -> None:
    np.testing.assert_allclose(one.matrix, other.matrix, atol=ROUNDING)
    np.testing.assert_allclose(one.shift_angstrom, other.shift_angstrom, atol=ROUNDING)


def cross_matrix(omega: np.ndarray) -> np.ndarray:
    x, y, z = omega
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


@given(poses, vectors)
def test_a_pose_turns_then_shifts(pose, x):
    np.testing.assert_allclose(pose.apply(x), pose.matrix @ x + pose.shift_angstrom, atol=ROUNDING)


@given(poses, poses, vectors)
def test_product_applies_the_right_factor_first(second, first, x):
    np.testing.assert_allclose((second @ first).apply(x), second.apply(first.apply(x)), atol=ROUNDING)


@given(poses, poses, poses)
def test_product_is_associative(a, b, c):
    assert_same((a @ b) @ c, a @ (b @ c))


@given(poses)
def test_inverse_undoes_from_both_sides(pose):
    assert_same(pose @ pose.inverse(), Pose.identity())
    assert_same(pose.inverse() @ pose, Pose.identity())


@given(poses)
def test_identity_is_neutral(pose):
    assert_same(pose @ Pose.identity(), pose)
    assert_same(Pose.identity() @ pose, pose)


@given(poses, tangents)
def test_retract_is_a_left_rotation_and_a_plain_shift(pose, tangent):
    moved = pose.retract(tangent)
    np.testing.assert_allclose(moved.matrix, expm(cross_matrix(tangent[:3])) @ pose.matrix, atol=ROUNDING)
    np.testing.assert_allclose(moved.shift_angstrom, pose.shift_angstrom + tangent[3:], atol=ROUNDING)


def test_retract_about_z_turns_x_towards_y():
    moved = Pose.identity().retract([0.0, 0.0, 0.1, 1.0, 2.0, 3.0])
    np.testing.assert_allclose(moved.apply([1.0, 0.0, 0.0]), [np.cos(0.1) + 1, np.sin(0.1) + 2, 3.0], atol=ROUNDING)


@given(poses)
def test_euler_angles_return_the_same_rotation(pose):
    # as_euler reads the middle angle from a cosine: near its poles it keeps half the digits.
    back = Pose.from_euler_zyz_deg(pose.euler_zyz_deg(), pose.shift_angstrom)
    np.testing.assert_allclose(back.matrix, pose.matrix, atol=1e-7)


def test_euler_angles_are_rz_ry_rz():
    def about(axis: str, angle: float) -> np.ndarray:
        return Rotation.from_euler(axis, angle, degrees=True).as_matrix()

    matrix = Pose.from_euler_zyz_deg([20.0, 30.0, 40.0]).matrix
    np.testing.assert_allclose(matrix, about("z", 20) @ about("y", 30) @ about("z", 40), atol=ROUNDING)


@given(poses, poses, st.floats(0.5, 20.0))
def test_frobenius_distance_is_eq_12(one, other, voxel):
    literal = candidate_distance(one.matrix, one.shift_angstrom / voxel, other.matrix, other.shift_angstrom / voxel)
    assert one.frobenius_distance(other, voxel_size_angstrom=voxel) == pytest.approx(literal, abs=ROUNDING / voxel)


@given(poses, poses)
def test_distances_are_symmetric_and_vanish_on_the_diagonal(one, other):
    for distance in (
        Pose.rotation_distance_deg,
        Pose.shift_distance_angstrom,
        lambda a, b: a.frobenius_distance(b, voxel_size_angstrom=10.0),
    ):
        assert distance(one, other) == pytest.approx(distance(other, one), abs=1e-6)
        assert distance(one, one) == pytest.approx(0.0, abs=1e-6)


@given(poses, st.floats(0.0, 179.0))
def test_rotation_distance_is_the_angle_turned(pose, angle):
    turned = pose.retract([0.0, 0.0, np.radians(angle), 3.0, 4.0, 0.0])
    assert turned.rotation_distance_deg(pose) == pytest.approx(angle, abs=1e-6)
    assert turned.shift_distance_angstrom(pose) == pytest.approx(5.0, abs=ROUNDING)


def test_a_batch_is_its_singles(rng):
    one, other = (Pose.random(5, rng=rng, max_shift_angstrom=30.0) for _ in range(2))
    x, tangent = rng.normal(size=(5, 3)), rng.normal(size=(5, 6))
    singles = [(one[i], other[i], x[i], tangent[i]) for i in range(5)]
    assert_same(one @ other, Pose.stack([a @ b for a, b, _, _ in singles]))
    assert_same(one.inverse(), Pose.stack([a.inverse() for a, *_ in singles]))
    assert_same(one.retract(tangent), Pose.stack([a.retract(d) for a, _, _, d in singles]))
    np.testing.assert_allclose(one.apply(x), [a.apply(p) for a, _, p, _ in singles], atol=ROUNDING)
    np.testing.assert_allclose(one.euler_zyz_deg(), [a.euler_zyz_deg() for a, *_ in singles], atol=1e-6)
    for distance in (
        Pose.rotation_distance_deg,
        Pose.shift_distance_angstrom,
        lambda a, b: a.frobenius_distance(b, voxel_size_angstrom=10.0),
    ):
        np.testing.assert_allclose(distance(one, other), [distance(a, b) for a, b, *_ in singles], atol=1e-6)


def test_a_single_pose_meets_a_batch(rng):
    batch = Pose.random(4, rng=rng, max_shift_angstrom=30.0)
    single = Pose.random(1, rng=rng, max_shift_angstrom=30.0)[0]
    assert_same(single @ batch, Pose.stack([single @ p for p in batch]))
    assert_same(batch @ single, Pose.stack([p @ single for p in batch]))
    np.testing.assert_allclose(
        single.frobenius_distance(batch, voxel_size_angstrom=4.0),
        [single.frobenius_distance(p, voxel_size_angstrom=4.0) for p in batch],
    )


def test_batches_are_sliced_masked_and_counted(rng):
    batch = Pose.random(4, rng=rng, max_shift_angstrom=1.0)
    assert len(batch) == 4 and len(batch[1:3]) == 2 and len(batch[np.array([True, False, False, True])]) == 2
    assert batch.is_batch and not batch[0].is_batch
    assert len(Pose.stack([])) == 0 and len(Pose.identity(3)) == 3


def test_random_rotations_are_uniform(rng):
    # The trace of a uniform rotation has mean 0 and variance 1; 4000 draws, four standard errors.
    traces = np.trace(Pose.random(4000, rng=rng).matrix, axis1=1, axis2=2)
    assert abs(traces.mean()) < 4 / np.sqrt(4000)


def test_a_pose_cannot_be_changed(rng):
    shift = np.zeros(3)
    pose = Pose(Rotation.identity(), shift)
    shift[0] = 5.0
    assert pose.shift_angstrom[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        pose.shift_angstrom[0] = 1.0


def test_shapes_that_disagree_are_refused():
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        Pose(Rotation.identity(), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        Pose(Rotation.identity(2), np.zeros(3))
    with pytest.raises(ValueError, match="not finite"):
        Pose(Rotation.identity(), np.array([0.0, np.nan, 0.0]))


def test_a_single_pose_has_neither_length_nor_items():
    with pytest.raises(TypeError, match="no length"):
        len(Pose.identity())
    with pytest.raises(TypeError, match="cannot be indexed"):
        Pose.identity()[0]


def test_a_pose_prints_its_angles_and_shift():
    assert repr(Pose.from_euler_zyz_deg([10, 20, 30], [1, 2, 3])) == (
        "Pose(euler_zyz_deg=(10.00, 20.00, 30.00), shift_angstrom=(1.00, 2.00, 3.00))"
    )
    assert repr(Pose.identity(3)) == "Pose(batch of 3)"


def test_the_tangent_of_a_product_follows_the_left_factor(rng):
    pose, first = (
        Pose.random(1, rng=rng, max_shift_angstrom=30.0)[0],
        Pose.random(1, rng=rng, max_shift_angstrom=9.0)[0],
    )
    small = 1e-5  # central differences: an error of its square
    for axis, expected in enumerate(pose.tangent_after(first).T):
        steps = small * np.eye(6)[axis]
        plus, minus = (pose.retract(sign * steps) @ first for sign in (1, -1))
        turn = (plus.rotation * minus.rotation.inv()).as_rotvec() / (2 * small)
        shift = (plus.shift_angstrom - minus.shift_angstrom) / (2 * small)
        np.testing.assert_allclose(np.append(turn, shift), expected, atol=1e-6)


def test_moved_along_is_retract_on_plain_arrays(rng):
    batch, tangent = Pose.random(5, rng=rng, max_shift_angstrom=30.0), rng.normal(size=(5, 6))
    rotations, shifts = moved_along(batch.matrix, batch.shift_angstrom, tangent)
    np.testing.assert_allclose(rotations, batch.retract(tangent).matrix, atol=ROUNDING)
    np.testing.assert_allclose(shifts, batch.retract(tangent).shift_angstrom, atol=ROUNDING)


def test_read_only_input_is_welcome(rng):
    pose, points, tangent = Pose.identity(), rng.normal(size=3), rng.normal(size=6)
    for array in (points, tangent):
        array.setflags(write=False)
    np.testing.assert_allclose(pose.apply(points), points)
    np.testing.assert_allclose(pose.retract(tangent).shift_angstrom, tangent[3:])
