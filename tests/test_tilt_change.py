"""The value that a refinement of tilts returns: its signs, on points that are projected one by one."""

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.particle.ctf import Ctf
from gonio.particle.tilt_change import TiltChange, full_projections
from gonio.particle.tilt_series import Optics, TiltSeries

TILTS = [-40.0, -10.0, 25.0]


def series(axis_deg: float = 83.0) -> TiltSeries:
    made = TiltSeries.of_angles(Path("made.star"), TILTS, axis_deg=axis_deg)
    return TiltSeries(
        made.path,
        made.projections_xyz,
        defocus=np.array([[31000.0, 29000.0, 20.0], [25000.0, 25000.0, 0.0], [18000.0, 17500.0, -70.0]]),
        scale=np.array([0.7, 1.0, 0.9]),
        optics=Optics(300.0, 2.7, 0.07),
        defocus_per_depth=-1.0,
    )


CHANGE = TiltChange(
    np.array([[3.0, -5.0], [0.0, 1.0], [7.0, 2.0]]),
    np.array([[0.3, -2.0, 1.0], [0.0, 1.5, 0.0], [0.0, 0.0, -4.0]]),
    np.array([100.0, -250.0, 30.0]),
    np.array([[50.0, 80.0], [0.0, -300.0], [10.0, 0.0]]),
    np.array([1.1, 0.9, 1.0]),
    0.01 * np.array([[[1.0, -0.5], [0.3, 0.0]], [[0.0, 0.0], [0.0, 0.2]], [[-0.1, 0.0], [0.7, 0.4]]]),
)


def test_a_point_is_shown_where_the_formula_has_it():
    place = np.array([800.0, -1200.0, 350.0])
    moved = CHANGE.applied(series()).offsets_angstrom(place)
    for tilt, projection in enumerate(full_projections(series())):
        w = np.radians(CHANGE.rotation_deg[tilt])
        turned = Rotation.from_rotvec(w).apply(projection @ place)  # right-handed, in the image's frame
        deformed = CHANGE.deformation[tilt] @ place[:2]
        expected = turned[:2] + CHANGE.shift_angstrom[tilt] + deformed - (projection @ place)[:2]
        assert np.allclose(moved[tilt], expected)


def test_a_rotation_about_the_beam_moves_x_towards_y():
    quarter = TiltChange(np.zeros((1, 2)), np.array([[0.0, 0.0, 90.0]]), np.zeros(1))
    flat = TiltSeries.of_angles(Path("flat.star"), [0.0])
    x_axis, y_axis = flat.projections_xyz[0]
    assert np.allclose(quarter.applied(flat).offsets_angstrom(10.0 * x_axis), [[-10.0, 10.0]])
    assert np.allclose(quarter.applied(flat).offsets_angstrom(10.0 * y_axis), [[-10.0, -10.0]])


def test_more_tilt_about_y_lifts_x_of_the_specimen():
    # A rotation about the image's y, where the tilt axis lies, is a larger tilt angle in the sense of the series.
    for more in (1.0, -3.0):
        change = TiltChange(np.zeros((3, 2)), np.tile([0.0, more, 0.0], (3, 1)), np.zeros(3))
        assert np.allclose(change.applied(series(90.0)).tilts_deg, np.array(TILTS) + more)


def test_transfer_is_that_of_the_changed_defocus():
    place, h = np.array([800.0, -1200.0, 350.0]), -1.0
    after = CHANGE.applied(series()).ctf(place_angstrom=place)
    frequency = np.random.default_rng(0).normal(0.0, 0.03, (50, 2))
    phi = np.arctan2(frequency[:, 1], frequency[:, 0])
    before = series()
    for tilt in range(3):
        depth = (CHANGE.rotation.as_matrix()[tilt] @ full_projections(before)[tilt] @ place)[2]
        u, v, angle = before.defocus[tilt]
        z = 0.5 * (u + v) + 0.5 * (u - v) * np.cos(2 * (phi - np.radians(angle)))
        a = CHANGE.astigmatism_angstrom[tilt]
        z = z + CHANGE.defocus_angstrom[tilt] + h * depth + a[0] * np.cos(2 * phi) + a[1] * np.sin(2 * phi)
        one_by_one = [float(Ctf(one, one).transfer(k[None])[0]) for one, k in zip(z, frequency, strict=True)]
        assert np.allclose(after.transfer(frequency)[tilt], one_by_one, atol=1e-9)
    assert np.allclose(CHANGE.applied(before).scale, [0.77, 0.9, 0.9])


def test_no_change_changes_nothing():
    before = series()
    after = TiltChange.none(3).applied(before)
    assert np.array_equal(after.projections_xyz, before.projections_xyz)
    assert np.array_equal(after.defocus, before.defocus)
    assert not after.offsets_angstrom([100.0, 200.0, 300.0]).any()


def test_changes_follow_each_other():
    first, place = CHANGE.applied(series()), np.array([800.0, -1200.0, 350.0])
    twice = CHANGE.applied(first)
    assert np.allclose(twice.cut_projections_xyz, series().projections_xyz)
    assert np.allclose(twice.cut_defocus, series().defocus) and np.allclose(twice.cut_scale, series().scale)
    assert np.allclose(twice.scale, series().scale * CHANGE.scale**2)
    moved = (twice.projections_xyz - first.projections_xyz) @ place + CHANGE.shift_angstrom
    moved += CHANGE.deformation @ place[:2]
    assert np.allclose(twice.deformation, 2.0 * CHANGE.deformation)
    assert np.allclose(twice.offsets_angstrom(place) - first.offsets_angstrom(place), moved)


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ValueError, match="shift_angstrom of 2 tilts"):
        TiltChange(np.zeros((3, 2)), np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(ValueError, match="finite"):
        TiltChange(np.zeros((1, 2)), np.zeros((1, 3)), np.array([np.nan]))
    with pytest.raises(ValueError, match="has 3 tilts, the change of its geometry 2"):
        TiltChange.none(2).applied(series())
