"""Laws of symmetry: groups, with their axes where they are said to lie, that act on the right of a pose."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from oracle import Blobs

# A few dozen double-precision operations on numbers up to 1.
ROUNDING = 1e-12
GOLDEN = (1 + np.sqrt(5)) / 2

ORDERS = {"C1": 1, "C2": 2, "C3": 3, "C4": 4, "C7": 7, "C17": 17, "D1": 2, "D2": 4, "D3": 6, "D4": 8, "D7": 14}
ORDERS |= {"T": 12, "O": 24, "I": 60, "I1": 60, "I2": 60}
GROUPS = [Symmetry(name) for name in ORDERS]
every_group = pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)

groups = st.sampled_from(GROUPS)
angles = st.floats(-180.0, 180.0)
lengths = st.floats(-200.0, 200.0)
poses = st.builds(
    Pose.from_euler_zyz_deg,
    st.tuples(angles, st.floats(0.0, 180.0), angles).map(np.array),
    st.tuples(lengths, lengths, lengths).map(np.array),
)


def furthest(matrices: np.ndarray, others: np.ndarray) -> float:
    """The largest distance (Frobenius) of one of the matrices (p, 3, 3) to the nearest of the others (q, 3, 3)."""
    return float(np.linalg.norm(matrices[:, None] - others, axis=(2, 3)).min(axis=1).max())


def about(axis, fold: int) -> np.ndarray:
    """The turn of 360 degrees / fold about an axis, as a matrix."""
    return Rotation.from_rotvec(2 * np.pi / fold * np.asarray(axis) / np.linalg.norm(axis)).as_matrix()


def smallest_angle_deg(R: np.ndarray, S: np.ndarray, group: Symmetry) -> float:
    """The smallest angle of R g S^-1 by trying every g: from the Frobenius norm, 2 sqrt(2) sin(angle / 2)."""
    norms = [np.linalg.norm(R @ g - S) for g in group.matrices]
    return float(np.degrees(2 * np.arcsin(min(1.0, min(norms) / np.sqrt(8)))))


@every_group
def test_a_group_is_closed_and_holds_its_inverses(group):
    g = group.matrices
    products = (g[:, None] @ g[None]).reshape(-1, 3, 3)
    assert furthest(products, g) < ROUNDING
    assert furthest(np.swapaxes(g, 1, 2), g) < ROUNDING
    np.testing.assert_allclose(np.linalg.det(g), 1.0, atol=ROUNDING)


@every_group
def test_the_identity_comes_first_and_no_rotation_comes_twice(group):
    assert group.order == len(group.matrices) == ORDERS[group.name]
    np.testing.assert_allclose(group.matrices[0], np.eye(3), atol=ROUNDING)
    apart = np.linalg.norm(group.matrices[:, None] - group.matrices, axis=(2, 3)) + 9 * np.eye(group.order)
    assert apart.min() > 0.3  # 17-fold: 2 sqrt(2) sin(180 / 17 degrees) = 0.52


AXES = {
    "C7": [((0, 0, 1), 7)],
    "D3": [((0, 0, 1), 3), ((1, 0, 0), 2), ((0.5, np.sqrt(0.75), 0), 2)],
    "D4": [((0, 0, 1), 4), ((1, 0, 0), 2), ((0, 1, 0), 2), ((1, 1, 0), 2)],
    "T": [((1, 0, 0), 2), ((0, 1, 0), 2), ((0, 0, 1), 2), ((1, 1, 1), 3), ((-1, 1, 1), 3)],
    "O": [((1, 0, 0), 4), ((0, 1, 0), 4), ((0, 0, 1), 4), ((1, 1, 1), 3), ((1, 1, 0), 2)],
    "I": [((1, 0, 0), 2), ((0, 1, 0), 2), ((0, 0, 1), 2), ((0, 1, GOLDEN), 5), ((1, 1, 1), 3)],
    "I2": [((1, 0, 0), 2), ((0, 1, 0), 2), ((0, 0, 1), 2), ((1, 0, GOLDEN), 5), ((1, 1, 1), 3)],
}


@pytest.mark.parametrize("name", AXES)
def test_the_axes_lie_where_they_are_said_to(name):
    group = Symmetry(name)
    for axis, fold in AXES[name]:
        assert furthest(about(axis, fold)[None], group.matrices) < ROUNDING, f"no {fold}-fold axis along {axis}"


# What is not there: D3 has no two-fold axis along y, T no four-fold, I no five-fold where I2 has one, and so on.
@pytest.mark.parametrize(
    "name, axis, fold",
    [
        ("C7", (1, 0, 0), 2),
        ("D3", (0, 1, 0), 2),
        ("T", (0, 0, 1), 4),
        ("T", (0, 0, 1), 3),
        ("I", (0, 0, 1), 5),
        ("I", (1, 0, GOLDEN), 5),
        ("I2", (0, 1, GOLDEN), 5),
    ],
)
def test_there_are_no_other_axes(name, axis, fold):
    assert furthest(about(axis, fold)[None], Symmetry(name).matrices) > 0.1


# The generators in RELION's src/symmetries.cpp, in multiples of the golden ratio.
@pytest.mark.parametrize(
    "name, generators",
    [
        ("I1", [((1, 0, 0), 2), ((GOLDEN, 0, -1), 5), ((GOLDEN**2, 1, 0), 3)]),
        ("I2", [((0, 0, 1), 2), ((1, 0, GOLDEN), 5), ((0, 1, GOLDEN**2), 3)]),
    ],
)
def test_i1_and_i2_are_relions(name, generators):
    turns = np.stack([about(axis, fold) for axis, fold in generators])
    assert furthest(turns, Symmetry(name).matrices) < ROUNDING
    other = "I2" if name == "I1" else "I1"
    assert furthest(turns, Symmetry(other).matrices) > 0.1
    assert furthest(Symmetry("I").matrices, Symmetry("I1").matrices) < ROUNDING


def symmetric_blobs(group: Symmetry) -> Blobs:
    """One elongated Gaussian off every axis, and its copies under the group; it fades inside a box of 20."""
    axes = Rotation.from_euler("ZYZ", [20, 50, 80], degrees=True).as_matrix()
    one = Blobs(np.ones(1), np.array([[1.5, 2.5, 4.0]]), (axes * np.array([1.5, 0.7, 0.9]))[None] @ axes.T)
    copies = [one.moved(g, np.zeros(3)) for g in group.matrices]
    centres, covariances = (np.concatenate([getattr(c, part) for c in copies]) for part in ("centres", "covariances"))
    return Blobs(np.ones(group.order), centres, covariances)


@pytest.mark.parametrize("name", ["C2", "C3", "C7", "D2", "D3", "T", "O", "I", "I2"])
def test_a_rotation_of_the_group_stands_on_the_right(name):
    group = Symmetry(name)
    pose = Pose.from_euler_zyz_deg([30.0, 70.0, 110.0], [0.7, -1.2, 0.4])  # not its own inverse
    particle = symmetric_blobs(group)
    target = particle.moved(pose.matrix, pose.shift_angstrom).volume(20)
    (equivalents,) = group.equivalents(pose.matrix[None])
    for R in equivalents[[1, group.order // 2, -1]]:
        same = particle.moved(R, pose.shift_angstrom).volume(20)
        np.testing.assert_allclose(same, target, atol=1e-10 * target.max())  # 60 Gaussians of 1e-12 each
    g = group.matrices[-1]
    for R in (g @ pose.matrix, pose.matrix @ g @ pose.matrix):
        assert np.abs(particle.moved(R, pose.shift_angstrom).volume(20) - target).max() > 0.03 * target.max()


def test_a_four_fold_particle_turns_x_into_y_on_voxels():
    volume = symmetric_blobs(Symmetry("C4")).volume(21)  # (z, y, x), odd: a quarter turn takes voxels to voxels
    np.testing.assert_allclose(np.rot90(volume, axes=(1, 2)), volume, atol=ROUNDING)
    assert np.abs(np.rot90(volume, axes=(0, 2)) - volume).max() > 0.1 * volume.max()


@given(groups, poses)
def test_equivalents_are_products_with_the_identity_first(group, pose):
    matrices = np.stack([pose.matrix, pose.inverse().matrix])
    equivalents = group.equivalents(matrices)
    assert equivalents.shape == (2, group.order, 3, 3)
    np.testing.assert_allclose(equivalents[:, 0], matrices, atol=ROUNDING)
    expected = (pose.inverse().rotation * group.rotations).as_matrix()
    np.testing.assert_allclose(equivalents[1], expected, atol=ROUNDING)


# The norm of a difference of matrices is wrong by 1e-15 and its arcsine near 180 degrees by the root of that.
@given(groups, poses, poses)
def test_the_distance_is_the_smallest_over_the_group(group, first, second):
    expected = smallest_angle_deg(first.matrix, second.matrix, group)
    assert group.rotation_distance_deg(first, second) == pytest.approx(expected, abs=np.degrees(1e-7))
    assert group.rotation_distance_deg(second, first) == pytest.approx(expected, abs=np.degrees(1e-7))


@given(groups, poses, st.integers(0, 59), st.floats(0.0, 5.0))
def test_equivalent_poses_are_no_distance_apart(group, pose, which, angle_deg):
    turn = Rotation.from_rotvec([0.0, angle_deg, 0.0], degrees=True)  # half the smallest turn of the groups is above 5
    equivalent = Pose(turn * pose.rotation * group.rotations[which % group.order], pose.shift_angstrom)
    assert group.rotation_distance_deg(pose, equivalent) == pytest.approx(angle_deg, abs=1e-9)


@given(groups, poses, poses)
def test_the_nearest_is_an_equivalent_with_the_same_shift(group, pose, to):
    nearest = group.nearest(pose, to=to)
    assert furthest(nearest.matrix[None], group.equivalents(pose.matrix[None])[0]) < ROUNDING
    np.testing.assert_array_equal(nearest.shift_angstrom, pose.shift_angstrom)
    expected = smallest_angle_deg(pose.matrix, to.matrix, group)
    assert nearest.rotation_distance_deg(to) == pytest.approx(expected, abs=np.degrees(1e-7))


@given(groups, poses, poses)
def test_without_symmetry_nothing_changes(group, first, second):
    plain = first.rotation_distance_deg(second)
    assert Symmetry("C1").rotation_distance_deg(first, second) == pytest.approx(plain, abs=1e-9)
    assert group.rotation_distance_deg(first, second) <= plain + 1e-9


# The largest disorientation of cubic and icosahedral objects: 62.80 (Mackenzie 1958) and 44.48 degrees; for Cn 180.
@pytest.mark.parametrize("name, largest_deg", [("C7", 180.0), ("O", 62.80), ("I", 44.48)])
def test_no_two_poses_are_further_apart_than_the_group_allows(name, largest_deg, rng):
    one, other = Pose.random(4000, rng=rng), Pose.random(4000, rng=rng)
    largest = Symmetry(name).rotation_distance_deg(one, other).max()
    assert 0.9 * largest_deg < largest < largest_deg + 0.01


def test_batches_and_single_poses_mix(rng):
    group, batch, one = Symmetry("D3"), Pose.random(5, rng=rng, max_shift_angstrom=9.0), Pose.random(1, rng=rng)[0]
    each = [group.rotation_distance_deg(batch[i], one) for i in range(5)]
    np.testing.assert_allclose(group.rotation_distance_deg(batch, one), each, atol=1e-9)
    np.testing.assert_allclose(group.rotation_distance_deg(one, batch), each, atol=1e-9)
    np.testing.assert_allclose(group.rotation_distance_deg(batch, Pose.stack([one] * 5)), each, atol=1e-9)
    assert len(group.nearest(one, to=batch)) == 5
    np.testing.assert_array_equal(group.nearest(batch, to=one).shift_angstrom, batch.shift_angstrom)
    assert not group.nearest(batch[0], to=one).is_batch


@pytest.mark.parametrize("name", ["", "C", "C0", "C-2", "c2.5", "C04", "D", "X3", "I3", "T2", "Oh", "4", "C4 D2"])
def test_an_unknown_name_is_told_the_known_ones(name):
    with pytest.raises(ValueError, match=r"Cn or Dn .* T, O, I, I1 or I2, got"):
        Symmetry.named(name)


def test_a_name_is_read_in_any_case_and_is_the_identity_of_the_value():
    assert Symmetry.named(" c12 ") == Symmetry("C12")
    assert Symmetry.named("d2").name == "D2"
    assert Symmetry("C3") != Symmetry("C4")
    assert len({Symmetry("I"), Symmetry.named("i"), Symmetry("O")}) == 2
    for same in (copy.deepcopy(Symmetry("T")), pickle.loads(pickle.dumps(Symmetry("T")))):
        assert same == Symmetry("T")
        np.testing.assert_array_equal(same.matrices, Symmetry("T").matrices)
