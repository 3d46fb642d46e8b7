"""Wedges: which frequencies a tilted specimen shows, with the sign of the tilt derived from projecting it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gonio.particle.wedge import (
    DualAxisWedge,
    NoWedge,
    SingleAxisWedge,
    TiltListWedge,
    Wedge,
    WeightVolumeWedge,
    tilt_plane_normal,
)
from oracle import frequencies_xyz, paper_wedge

tilts = st.floats(-89.0, 89.0)
axes = st.floats(-180.0, 180.0)


def axis_xyz(axis_deg: float) -> np.ndarray:
    return np.array([np.cos(np.radians(axis_deg)), np.sin(np.radians(axis_deg)), 0.0])


def specimen_tilt(tilt_deg: float, axis_deg: float) -> Rotation:
    """The right-handed rotation of the specimen about the tilt axis."""
    return Rotation.from_rotvec(np.radians(tilt_deg) * axis_xyz(axis_deg))


def measured_plane(tilt_deg: float, axis_deg: float, count: int = 50) -> np.ndarray:
    """Frequencies, in the specimen, that the projection along z of the tilted specimen shows: its own (k_x, k_y, 0)."""
    image = np.random.default_rng(1).uniform(-0.4, 0.4, (count, 3)) * [1, 1, 0]
    return specimen_tilt(tilt_deg, axis_deg).inv().apply(image)


def test_projecting_a_tilted_specimen_shows_that_plane():
    # The projection theorem for points: the image's transform is the specimen's on the plane of ``measured_plane``.
    rng = np.random.default_rng(2)
    points, tilt = rng.normal(size=(20, 3)), specimen_tilt(33.0, 70.0)
    image_points = tilt.apply(points)[:, :2]
    k_image = rng.uniform(-0.4, 0.4, (30, 2))
    k_specimen = tilt.inv().apply(np.column_stack([k_image, np.zeros(30)]))
    of_image = np.exp(-2j * np.pi * k_image @ image_points.T).sum(axis=1)
    of_specimen = np.exp(-2j * np.pi * k_specimen @ points.T).sum(axis=1)
    np.testing.assert_allclose(of_image, of_specimen, atol=1e-12)


@given(tilts, axes)
def test_the_plane_is_normal_to_the_beam_as_the_specimen_sees_it(tilt, axis):
    beam = specimen_tilt(tilt, axis).inv().apply([0.0, 0.0, 1.0])
    np.testing.assert_allclose(tilt_plane_normal(tilt, axis), beam, atol=1e-14)


def test_positive_tilt_about_y_shows_the_quadrant_where_x_and_z_agree():
    wedge = SingleAxisWedge(0.0, 60.0)
    np.testing.assert_array_equal(wedge.weight_at([[1, 0, 1], [-1, 0, -1], [1, 0, -1], [-1, 0, 1]]), [1, 1, 0, 0])


def test_positive_tilt_about_x_hides_the_quadrant_where_y_and_z_agree():
    # a = x, b = a x z = -y: tilting by +theta shows b cos + z sin.
    wedge = SingleAxisWedge(0.0, 60.0, axis_deg=0.0)
    np.testing.assert_array_equal(wedge.weight_at([[0, -1, 1], [0, 1, -1], [0, 1, 1], [0, -1, -1]]), [1, 1, 0, 0])


@given(st.floats(-80.0, 20.0), st.floats(5.0, 60.0), axes, tilts)
def test_a_range_holds_exactly_the_planes_of_its_tilts(low, width, axis, tilt):
    wedge = SingleAxisWedge(low, low + width, axis)
    inside = low <= tilt <= low + width
    if min(abs(tilt - low), abs(tilt - low - width)) < 0.1:
        return  # on the edge rounding may decide
    k = measured_plane(tilt, axis)
    k = k[abs(k @ axis_xyz(axis)) < 0.9 * np.linalg.norm(k, axis=1)]  # the tilt axis itself lies in every plane
    np.testing.assert_array_equal(wedge.weight_at(k), inside)


@given(axes, st.floats(-80.0, 0.0), st.floats(5.0, 80.0))
def test_the_tilt_axis_is_always_measured_and_the_edges_count(axis, low, width):
    wedge = SingleAxisWedge(low, low + width, axis)
    assert wedge.weight_at(0.1 * axis_xyz(axis)) == 1
    for edge in (low, low + width):
        assert wedge.weight_at(measured_plane(edge, axis)).all()


@given(st.floats(-80.0, 0.0), st.floats(5.0, 80.0), axes)
def test_friedel_mates_are_measured_together(low, width, axis):
    k = np.random.default_rng(3).normal(size=(100, 3))
    wedge = SingleAxisWedge(low, low + width, axis)
    np.testing.assert_array_equal(wedge.weight_at(k), wedge.weight_at(-k))


@pytest.mark.parametrize("theta", [30, 40, 45, 60, 70, 89])
@pytest.mark.parametrize("n", [16, 17])
def test_the_symmetric_range_is_the_papers_mask(theta, n):
    k = frequencies_xyz(n)
    np.testing.assert_array_equal(SingleAxisWedge(-theta, theta).weight_at(k / n) == 1, paper_wedge(theta)(k))


def test_the_measured_fraction_of_directions_is_that_of_the_angles():
    # A range of 100 of 180 degrees measures 5/9 of all directions; 20000 draws, four standard errors.
    k = np.random.default_rng(4).normal(size=(20000, 3))
    fraction = SingleAxisWedge(-40.0, 60.0, 25.0).weight_at(k).mean()
    assert fraction == pytest.approx(5 / 9, abs=4 * np.sqrt(5 / 9 * 4 / 9 / 20000))


def test_a_full_range_misses_nothing(rng):
    k = rng.normal(size=(200, 3))
    assert SingleAxisWedge(-90.0, 90.0).weight_at(k).all()
    assert NoWedge().weight_at(k).all()


def test_turning_the_axis_turns_the_wedge(rng):
    k = rng.normal(size=(200, 3))
    about_z = Rotation.from_euler("z", 35.0, degrees=True)
    at_y, turned = SingleAxisWedge(-40.0, 60.0, 90.0), SingleAxisWedge(-40.0, 60.0, 125.0)
    np.testing.assert_array_equal(turned.weight_at(about_z.apply(k)), at_y.weight_at(k))


def test_reversing_the_axis_reverses_the_tilt(rng):
    k = rng.normal(size=(200, 3))
    np.testing.assert_array_equal(
        SingleAxisWedge(-40.0, 60.0, 90.0).weight_at(k), SingleAxisWedge(-60.0, 40.0, -90.0).weight_at(k)
    )


def test_two_axes_measure_what_either_does(rng):
    k = rng.normal(size=(300, 3))
    first, second = SingleAxisWedge(-60.0, 60.0, 90.0), SingleAxisWedge(-50.0, 40.0, 0.0)
    either = np.maximum(first.weight_at(k), second.weight_at(k))
    np.testing.assert_array_equal(DualAxisWedge(first, second).weight_at(k), either)
    assert first.weight_at(k).mean() < either.mean() < 1


@given(tilts, axes, st.floats(50.0, 400.0), st.floats(-2.0, 2.0))
def test_a_tilt_is_a_slab_of_thickness_one_over_the_diameter(tilt, axis, diameter, halves):
    if abs(abs(halves) - 1) < 0.05:
        return  # on the face, where the tolerance decides
    wedge = TiltListWedge((tilt,), diameter, axis)
    beam = specimen_tilt(tilt, axis).inv().apply([0.0, 0.0, 1.0])
    # A frequency this far from the plane, in units of the half thickness 1 / (2 D); close to the origin of the plane,
    # so that the edge tolerance (relative to |k|^2) stays far below the slab.
    k = 0.02 * axis_xyz(axis) + halves * beam / (2 * diameter)
    assert wedge.weight_at(k) == (abs(halves) < 1)


def test_a_list_of_tilts_is_the_union_of_its_slabs(rng):
    k = rng.uniform(-0.05, 0.05, (500, 3))
    angles = (-40.0, -3.0, 20.0, 60.0)
    single = [TiltListWedge((a,), 100.0).weight_at(k) for a in angles]
    np.testing.assert_array_equal(TiltListWedge(angles, 100.0).weight_at(k), np.max(single, axis=0))


def test_dense_tilts_fill_the_range(rng):
    # At 0.05 per angstrom planes one degree apart lie within 0.0009 of each other, and a slab is 1/200 = 0.005 thick.
    k = rng.normal(size=(500, 3))
    k *= 0.05 / np.linalg.norm(k, axis=1, keepdims=True)
    dense = TiltListWedge(tuple(np.arange(-60.0, 61.0)), 200.0).weight_at(k)
    whole = SingleAxisWedge(-60.0, 60.0).weight_at(k)
    assert (dense >= whole).all()
    assert dense.mean() - whole.mean() < 0.1


def weight_volume(n: int, voxel: float, wedge: Wedge) -> WeightVolumeWedge:
    grid_zyx = np.indices((n, n, n)) - n // 2
    return WeightVolumeWedge(wedge.weight_at(np.moveaxis(grid_zyx[::-1], 0, -1) / (n * voxel)), voxel)


@pytest.mark.parametrize("n", [24, 25])
def test_a_weight_volume_agrees_with_the_wedge_it_was_sampled_from(n, rng):
    voxel = 4.0
    analytic = SingleAxisWedge(-40.0, 60.0, 70.0)
    sampled = weight_volume(n, voxel, analytic)
    k = rng.uniform(-(n // 2 - 1), n // 2 - 1, (2000, 3))
    edges = tilt_plane_normal([-40.0, 60.0], 70.0)
    clear = (abs(k @ edges.T) > np.sqrt(3)).all(axis=1)  # farther from both edges than a cell's diagonal
    assert clear.sum() > 1000
    np.testing.assert_allclose(
        sampled.weight_at(k[clear] / (n * voxel)), analytic.weight_at(k[clear] / (n * voxel)), atol=1e-6
    )


def test_a_weight_volume_is_linear_between_its_samples_and_zero_outside():
    weights = np.zeros((8, 8, 8))
    weights[4, 5, 6] = 2.0  # k = (2, 1, 0) in xyz
    wedge = WeightVolumeWedge(weights, 10.0)
    k = np.array([[2, 1, 0], [1.5, 1, 0], [2, 0.25, 0], [2, 1, 0.5], [5, 1, 0]]) / 80.0
    np.testing.assert_allclose(wedge.weight_at(k), [1.0, 0.5, 0.25, 0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    "wedge",
    [
        NoWedge(),
        SingleAxisWedge(-60, 60),
        DualAxisWedge(SingleAxisWedge(-60, 60), SingleAxisWedge(-60, 60, 0.0)),
        TiltListWedge((0.0, 30.0), 100.0),
        WeightVolumeWedge(np.ones((8, 8, 8)), 4.0),
    ],
    ids=lambda w: type(w).__name__,
)
def test_every_wedge_keeps_the_protocol(wedge):
    assert isinstance(wedge, Wedge)
    assert wedge.regions.shape[1:] == (7,)
    assert (wedge.weights is None) == (len(wedge.regions) > 0)
    weight = wedge.weight_at(np.full((2, 5, 3), 0.01))
    assert weight.shape == (2, 5) and weight.dtype == np.float32


@pytest.mark.parametrize("low, high", [(60, -60), (10, 10), (-91, 60), (-60, 91), (np.nan, 60)])
def test_impossible_ranges_are_refused(low, high):
    with pytest.raises(ValueError, match="tilt range"):
        SingleAxisWedge(low, high)


@pytest.mark.parametrize("angles", [(), (91.0,), (0.0, np.nan)])
def test_impossible_tilts_are_refused(angles):
    with pytest.raises(ValueError, match="tilts_deg"):
        TiltListWedge(angles, 100.0)


@pytest.mark.parametrize("diameter", [0.0, -1.0, np.nan])
def test_impossible_diameters_are_refused(diameter):
    with pytest.raises(ValueError, match="particle_diameter_angstrom"):
        TiltListWedge((0.0,), diameter)


@pytest.mark.parametrize(
    "weights",
    [np.ones((8, 8, 9)), np.ones((8, 8)), np.zeros((8, 8, 8)), -np.ones((8, 8, 8)), np.full((8,) * 3, np.nan)],
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be"):
        WeightVolumeWedge(weights, 4.0)


def test_weights_need_a_voxel_size():
    with pytest.raises(ValueError, match="voxel_size_angstrom"):
        WeightVolumeWedge(np.ones((8, 8, 8)), 0.0)
