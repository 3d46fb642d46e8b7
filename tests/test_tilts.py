"""Tilt series know their axis and tilts, and what single images measure of a box is what their projections show."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gonio.particle.ctf import Ctf, dose_decay
from gonio.particle.tilt_series import Optics, TiltSeries, TiltWedge, Weighting
from gonio.particle.wedge import SingleAxisWedge, TiltListWedge, TiltSeriesWedge

HERE = Path("here.tlt")
TILTS = np.arange(-57.0, 61.0, 3.0)


@settings(max_examples=50, deadline=None)
@given(axis=st.floats(0, 179.9), low=st.floats(-80, 0), step=st.floats(1, 5), spin=st.floats(-180, 180))
def test_the_axis_and_the_tilts_are_found_again(axis, low, step, spin):
    tilts = low + step * np.arange(15)
    series = TiltSeries.of_angles(HERE, tilts, axis_deg=axis)
    # An image turned in its own plane measures the same.
    turn = Rotation.from_euler("z", spin, degrees=True).as_matrix()[:2, :2]
    series = TiltSeries(HERE, np.einsum("ij,tjk->tik", turn, series.projections_xyz))
    assert series.axis_deg == pytest.approx(axis, abs=1e-6)
    assert np.allclose(series.tilts_deg, tilts, atol=1e-6)


def test_an_image_spans_the_plane_of_the_wedge():
    series = TiltSeries.of_angles(HERE, TILTS, axis_deg=70.0)
    dense = TiltListWedge(tuple(TILTS), 1e6, axis_deg=70.0)
    spanned = np.einsum("s,tk->tsk", [0.01, 0.02], series.projections_xyz[:, 0])
    assert (dense.weight_at(spanned) == 1).all()
    assert (series.wedge(300.0).weight_at(spanned) == 1).all()


def test_neighbouring_tilts_are_a_range():
    series = TiltSeries.of_angles(HERE, TILTS[::-1], axis_deg=70.0)
    assert np.allclose(series.wedge(200.0).regions, SingleAxisWedge(TILTS[0], TILTS[-1], 70.0).regions)


def test_a_hole_between_tilts_stays_a_hole():
    series = TiltSeries.of_angles(HERE, [-50, -45, -40, 0, 20, 25])
    wedge = series.wedge(200.0)
    tilt = np.radians([-45, -20, 0, 10, 22])
    k = 0.05 * np.stack([np.cos(tilt), np.zeros(5), np.sin(tilt)], axis=-1)
    assert list(wedge.weight_at(k)) == [1, 0, 1, 0, 1]
    assert [len(run) for run in series.runs()] == [3, 1, 2]


def test_a_turned_box_sees_the_planes_turned():
    turn = Rotation.from_rotvec([0.3, -1.0, 0.7])
    series = TiltSeries.of_angles(HERE, TILTS)
    k = np.random.default_rng(2).normal(size=(500, 3)) * 0.02
    seen = series.wedge(160.0).weight_at(turn.apply(k))
    assert np.array_equal(TiltWedge(series).of(16, 10.0, turn).weight_at(k), seen)
    dosed = TiltSeries(HERE, series.projections_xyz, dose=np.arange(len(TILTS)) * 3.0)
    weights = TiltWedge(dosed, Weighting.DOSE).of(16, 10.0, turn).weights
    straight = dosed.weights(64, 10.0, Weighting.DOSE)  # four times as fine, to look up between samples
    for index in np.array([[2, -3, 4], [5, 0, -2], [-1, 6, 1]]):
        at = straight.weight_at((turn.apply(index) / 160.0)[None])[0]
        assert weights[tuple(index[::-1] + 8)] == pytest.approx(at, abs=0.06)


def single(tilt=20.0, **known):
    return TiltSeries(HERE, TiltSeries.of_angles(HERE, [tilt]).projections_xyz, **known)


def on_plane(series, box, voxel):
    """Frequencies of the grid that lie on the plane of the only tilt, and their places (zyx)."""
    index = np.indices((box,) * 3).reshape(3, -1).T  # zyx
    k = (index[:, ::-1] - box // 2) / (box * voxel)
    near = np.abs(k @ series.normals_xyz[0]) < 0.5 / (box * voxel)
    return k[near], index[near]


def test_weights_of_the_dose_are_the_decay():
    series = single(dose=np.array([30.0]))
    made = series.weights(16, 5.0, Weighting.DOSE)
    k, place = on_plane(series, 16, 5.0)
    expected = dose_decay(np.linalg.norm(k @ series.projections_xyz[0].T, axis=1), 30.0)  # at the image's sample
    assert np.allclose(made.weights[tuple(place.T)], expected / expected.max(), atol=1e-6)
    assert np.count_nonzero(made.weights) == len(k)


def test_weights_of_the_ctf_are_its_size():
    optics, defocus = Optics(300.0, 2.7, 0.1), np.array([[30000.0, 25000.0, 20.0]])
    series = single(tilt=0.0, defocus=defocus, optics=optics)
    made = series.weights(16, 4.0, Weighting.CTF)
    k, place = on_plane(series, 16, 4.0)
    expected = np.abs(Ctf(30000.0, 25000.0, 20.0, 300.0, 2.7, 0.1).transfer(k[:, :2]))
    assert np.allclose(made.weights[tuple(place.T)], expected / expected.max(), atol=1e-6)


def test_where_planes_meet_weights_are_their_mean():
    series = TiltSeries(HERE, TiltSeries.of_angles(HERE, [-30.0, 30.0]).projections_xyz, dose=np.array([0.0, 60.0]))
    made = series.weights(16, 10.0, Weighting.DOSE)
    k = 4 / 160.0  # on the axis, y, which both planes hold
    mean = 0.5 * (1 + dose_decay(np.array([k]), 60.0)[0])
    assert made.weights[8, 8 + 4, 8] * 1.0 == pytest.approx(mean / 1.0, abs=1e-6)


def test_weights_that_nothing_is_known_for_are_refused():
    with pytest.raises(ValueError, match=r"here\.tlt does not state the dose"):
        single().weights(8, 10.0, Weighting.DOSE)
    with pytest.raises(ValueError, match=r"here\.tlt does not state the defocus"):
        single().weights(8, 10.0, Weighting.CTF)
    with pytest.raises(ValueError, match="not voltage"):
        single(defocus=np.ones((1, 3))).weights(8, 10.0, Weighting.CTF)


def test_weights_are_made_once_for_a_box():
    wedge = TiltWedge(single(dose=np.array([10.0])), Weighting.DOSE)
    assert wedge.of(8, 10.0) is wedge.of(8, 10.0)
    assert wedge.of(10, 10.0) is not wedge.of(8, 10.0)


def test_the_order_is_that_of_the_dose():
    series = TiltSeries(HERE, TiltSeries.of_angles(HERE, [0, 3, -3]).projections_xyz, dose=np.array([0.0, 6.0, 3.0]))
    assert list(series.order) == [0, 2, 1]
    assert TiltSeries.of_angles(HERE, [0, 3]).order is None


def test_between_planes_the_nearest_says_the_weight():
    series = TiltSeries(HERE, TiltSeries.of_angles(HERE, [0.0, 10.0]).projections_xyz, dose=np.array([0.0, 60.0]))
    made = series.weights(32, 10.0, Weighting.DOSE)
    radius = 14
    for tilt, dose in ((3.0, 0.0), (7.0, 60.0)):
        x, z = (np.rint(radius * f(np.radians(tilt))).astype(int) for f in (np.cos, np.sin))
        k = np.hypot(x, z) / 320.0 * np.cos(np.arctan2(z, x) - np.radians(10.0 if dose else 0.0))  # in the plane
        expected = 1.0 if dose == 0 else dose_decay(np.array([k]), dose)[0]
        assert made.weights[16 + z, 16, 16 + x] == pytest.approx(expected, abs=1e-5)


def test_runs_need_unit_vectors():
    with pytest.raises(ValueError, match="unit vectors"):
        TiltSeriesWedge((((0.0, 0.0, 2.0), (0.0, 0.0, 1.0)),), 100.0)
    with pytest.raises(ValueError, match="positive"):
        TiltSeriesWedge((((0.0, 0.0, 1.0), (0.0, 0.0, 1.0)),), 0.0)
