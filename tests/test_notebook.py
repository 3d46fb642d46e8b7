"""What is shown when a value is the last thing in a cell, and tables of pandas."""

from __future__ import annotations

import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pandas
import pytest
from matplotlib.image import imread

import gonio
from gonio.search.levenberg_marquardt import Status


@pytest.fixture
def result() -> gonio.Result:
    pose = gonio.Pose.from_euler_zyz_deg([40.0, 70.0, -25.0], [12.0, -8.0, 5.0])
    rival = gonio.Optimum(gonio.Pose.identity(), 0.9, 12.5)
    return gonio.Result(pose, 0.5, Status.CONVERGED, 17, 0.8, np.diag([0.01] * 3 + [4.0] * 3), (rival,))


def test_volume_shows_its_central_slices(rng):
    data = np.zeros((16, 16, 16), np.float32)
    data[8, 4, 12] = 1.0  # z, y, x: in the first slice alone, up at 4 and across at 12
    page = gonio.Volume(data + 0.001 * rng.random(data.shape), 10.0)._repr_html_()
    picture = imread(BytesIO(b64decode(re.search('base64,([^"]+)', page)[1])))[::-1]  # drawn from below
    assert picture.shape[:2] == (16, 48)
    assert np.unravel_index(np.argmax(picture[..., 0]), (16, 48)) == (4, 12)
    assert "16^3 voxels of 10 angstrom" in page


def test_result_is_told_in_a_line(result):
    assert repr(result) == (
        "Result(Pose(euler_zyz_deg=(40.00, 70.00, -25.00), shift_angstrom=(12.00, -8.00, 5.00)),"
        " dissimilarity 0.5000, sd 5.73 degrees, 2.00 angstrom, converged)"
    )


def test_results_are_rows_of_pandas(result):
    frame = pandas.DataFrame(one.as_dict() for one in [result, result])
    row = frame.iloc[1]
    assert len(frame) == 2
    np.testing.assert_allclose(row[["rot_deg", "tilt_deg", "psi_deg"]].astype(float), [40.0, 70.0, -25.0])
    assert (row["shift_y_angstrom"], row["runner_up_margin"], row["status"]) == (-8.0, 12.5, "converged")


def test_a_list_is_a_table_of_pandas(rng):
    poses = gonio.Pose.random(12, rng=rng, max_shift_angstrom=5.0)
    names = tuple(f"particle <{i}>" for i in range(12))
    half_sets = np.tile(np.array([1, 2], np.int8), 6)
    table = gonio.ParticleTable(
        poses, names, ("a",) * 12, np.arange(36.0).reshape(12, 3), half_sets, {"score": np.arange(12)}
    )
    frame = table.to_pandas()
    again = gonio.Pose.from_euler_zyz_deg(frame[["rot_deg", "tilt_deg", "psi_deg"]].to_numpy(), np.zeros((12, 3)))
    np.testing.assert_allclose(
        again.rotation_distance_deg(gonio.Pose(poses.rotation, np.zeros((12, 3)))), 0.0, atol=1e-5
    )
    assert frame["y_angstrom"].tolist() == [3.0 * i + 1.0 for i in range(12)]
    assert frame["score"].tolist() == list(range(12))
    assert repr(table) == "ParticleTable(12 particles of 1 tomogram, half sets of 6 and 6, columns score)"
    shown = table._repr_html_()
    assert "particle &lt;9&gt;" in shown
    assert "particle &lt;10&gt;" not in shown


def test_an_average_shows_its_slices_and_how_far_its_halves_agree(rng):
    volume = gonio.Volume(rng.normal(size=(16, 16, 16)), 10.0)
    fsc = np.array([1.0, 1.0, 1.0, 0.9, 0.0, 0.0, 0.0, 0.0, 0.0])
    made = gonio.Average(volume, (volume, volume), fsc, 40, np.ones((16, 16, 16), np.float32))
    assert repr(made).startswith("Average(40 particles, Volume(16^3 voxels of 10 angstrom), halves agree to 4")
    assert repr(made) in made._repr_html_() and "base64," in made._repr_html_()
    nowhere = gonio.Average(volume, (volume, volume), 0 * fsc, 40, made.coverage)
    assert "halves do not agree" in repr(nowhere)


def test_particles_and_aligners_are_told_in_a_line(rng):
    volume = gonio.Volume(rng.normal(size=(16, 16, 16)), 10.0)
    wedge = gonio.SingleAxisWedge(-60, 60)
    assert "tilt_min_deg=-60" in gonio.Subtomogram(volume, wedge)._repr_html_()
    stack = gonio.TiltStack(rng.normal(size=(3, 8, 8)), np.tile(np.eye(3)[:2], (3, 1, 1)), 5.0, dose=np.arange(3))
    assert repr(stack) == "TiltStack(3 images of 8^2 pixels of 5 angstrom, with dose)"
    assert "coarse_to_fine by rcs, symmetry C1" in repr(gonio.Aligner(gonio.Subtomogram(volume, wedge)))
