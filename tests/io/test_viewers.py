"""Lists for viewers: places and orientations as each program reads them, which is written here apart from gonio."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import ParticleTable, Pose
from gonio.io.viewers import from_first_voxel, write_viewers

VOXEL, BOX = 8.0, 256.0
# Asymmetric, and no rotation is its own inverse.
ANGLES = np.array([[30.0, 40.0, 50.0], [-100.0, 70.0, 10.0], [5.0, 160.0, -20.0]])  # rot, tilt, psi of RELION
PLACES = np.array([[100.3, 200.7, 300.1], [400.0, 500.0, 600.0], [70.0, 80.0, 90.0]])
SHIFTS = np.array([[1.25, -2.5, 3.75], [10.0, 20.0, -30.0], [0.0, 0.0, 0.0]])
TRUE = PLACES + SHIFTS


@pytest.fixture
def listed() -> ParticleTable:
    # RELION: the particle is rotated by the inverse of the intrinsic ZYZ of its angles.
    rotation = Rotation.from_euler("ZYZ", ANGLES, degrees=True).inv()
    return ParticleTable(
        Pose(rotation, SHIFTS),
        ("a", "b", "c"),
        ("TS 01/x", "TS 01/x", "TS_02"),
        coordinates_angstrom=PLACES,
        lengths="angstrom",
        columns={"dissimilarity": np.array([0.5, 0.7, np.inf]), "correlation": np.array([0.75, 0.65, np.nan])},
    )


@pytest.fixture
def folder(listed, tmp_path):
    write_viewers(tmp_path, listed, voxel_size_angstrom=VOXEL, box_angstrom=BOX)
    return tmp_path / "viewers"


def star_rows(path) -> list[dict[str, float]]:
    """A reader of its own: labels, then rows."""
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    labels = [words[0].removeprefix("_") for words in lines if words[0].startswith("_")]
    rows = [words for words in lines if len(words) == len(labels) and not words[0].startswith(("_", "data_", "loop_"))]
    return [dict(zip(labels, map(float, words), strict=True)) for words in rows]


def test_artiax_finds_particles_at_one_angstrom_a_pixel_without_names_or_origins(folder):
    assert (folder / "artiax.cxc").read_text().splitlines() == [
        "artiax start",
        "open 001_TS-01-x_artiax.star format relion",
        "open 002_TS_02_artiax.star format relion",
    ]
    rows = star_rows(folder / "001_TS-01-x_artiax.star")
    assert not {"rlnTomoName", "rlnOriginXAngst", "rlnOriginX"} & set(rows[0])
    places = [[row[f"rlnCoordinate{axis}"] for axis in "XYZ"] for row in rows]
    np.testing.assert_allclose(places, TRUE[:2], atol=1e-3 * VOXEL)
    angles = [[row[f"rlnAngle{name}"] for name in ("Rot", "Tilt", "Psi")] for row in rows]
    np.testing.assert_allclose(angles, ANGLES[:2], atol=1e-4)
    assert [row["rlnImagePixelSize"] for row in rows] == [1.0, 1.0]
    assert [row["gonioDissimilarity"] for row in rows] == [0.5, 0.7]


def csv_of(path):
    with path.open(newline="") as stream:
        head, *rows = csv.reader(stream)
    return head, [dict(zip(head, row, strict=True)) for row in rows]


def test_napari_finds_points_in_voxels_zyx_and_arrows_along_z_of_the_reference(folder):
    head, points = csv_of(folder / "001_TS-01-x_points.csv")
    assert head[:4] == ["index", "axis-0", "axis-1", "axis-2"]
    at = np.array([[float(row[f"axis-{i}"]) for i in range(3)] for row in points])
    np.testing.assert_allclose(at, TRUE[:2, ::-1] / VOXEL, atol=1e-3)
    assert [float(row["correlation"]) for row in points] == [0.75, 0.65]
    head, arrows = csv_of(folder / "001_TS-01-x_arrows.csv")
    assert {"index", "shape-type", "vertex-index", "axis-0", "axis-1", "axis-2"} == set(head)
    ends = np.array([[float(row[f"axis-{i}"]) for i in range(3)] for row in arrows]).reshape(-1, 2, 3)
    np.testing.assert_allclose(ends[:, 0], at, atol=1e-3)
    # z of the reference in the tomogram: the third row of RELION's matrix of the angles.
    axes = Rotation.from_euler("ZYZ", ANGLES[:2], degrees=True).as_matrix()[:, 2, :]
    np.testing.assert_allclose((ends[:, 1] - ends[:, 0]) * VOXEL, 0.5 * BOX * axes[:, ::-1], atol=1e-2)


def test_copick_finds_angstrom_and_the_matrix_from_reference_to_tomogram(folder):
    path = folder / "copick/ExperimentRuns/TS_02/Picks/gonio_1_particle.json"
    picks = json.loads(path.read_text())
    assert {"pickable_object_name", "user_id", "session_id", "run_name", "voxel_spacing", "unit", "points"} <= set(
        picks
    )
    assert (picks["unit"], picks["voxel_spacing"], picks["run_name"]) == ("angstrom", VOXEL, "TS_02")
    (point,) = picks["points"]
    np.testing.assert_allclose([point["location"][axis] for axis in "xyz"], TRUE[2], atol=1e-3 * VOXEL)
    matrix = np.array(point["transformation_"])
    rotation = Rotation.from_euler("ZYZ", ANGLES[2], degrees=True).as_matrix().T
    np.testing.assert_allclose(matrix[:3, :3], rotation, atol=1e-6)
    np.testing.assert_array_equal(matrix[3], [0, 0, 0, 1])
    assert point["score"] == 0.0  # not finite


def test_positions_from_the_centre_need_sizes(listed):
    assert from_first_voxel(replace(listed, coordinates_from="centre")) is None
    assert from_first_voxel(listed) is listed
    assert from_first_voxel(replace(listed, coordinates_angstrom=None)) is None
    assert from_first_voxel(replace(listed, lengths="pixels")) is None


def test_a_list_without_places_writes_nothing(listed, tmp_path):
    none = replace(listed, coordinates_angstrom=None)
    assert write_viewers(tmp_path, none, voxel_size_angstrom=VOXEL, box_angstrom=BOX) == []
    assert not list(tmp_path.iterdir())


def test_positions_from_the_centre_move_by_half_of_a_known_size(listed, monkeypatch):
    sizes = np.array([[960.0, 928.0, 400.0]] * 3)
    monkeypatch.setattr("gonio.io.viewers.known_sizes", lambda *_: sizes)
    moved = from_first_voxel(replace(listed, coordinates_from="centre"))
    np.testing.assert_allclose(moved.coordinates_angstrom, PLACES + np.array([480.0, 464.0, 200.0]))
    assert moved.coordinates_from == "corner"


# The readers themselves, where they are installed.


def test_cryohub_reads_the_list_for_artiax(folder):
    cryohub = pytest.importorskip("cryohub.reading.star")
    (poses,) = cryohub.read_star(folder / "001_TS-01-x_artiax.star")
    np.testing.assert_allclose(np.asarray(poses.position) * poses.pixel_spacing, TRUE[:2], atol=1e-3 * VOXEL)
    rotation = Rotation.from_euler("ZYZ", ANGLES[:2], degrees=True).inv()
    np.testing.assert_allclose(poses.orientation.as_matrix(), rotation.as_matrix(), atol=1e-5)


def test_napari_reads_its_own_files(folder):
    read = pytest.importorskip("napari_builtins.io").csv_to_layer_data
    at, meta, kind = read(str(folder / "001_TS-01-x_points.csv"), require_type="points")
    assert kind == "points"
    np.testing.assert_allclose(at, TRUE[:2, ::-1] / VOXEL, atol=1e-3)
    np.testing.assert_allclose(meta["properties"]["dissimilarity"], [0.5, 0.7])
    lines, meta, kind = read(str(folder / "001_TS-01-x_arrows.csv"), require_type="shapes")
    assert (kind, meta["shape_type"]) == ("shapes", ["line", "line"])
    np.testing.assert_allclose([line[0] for line in lines], at, atol=1e-3)


def test_napari_shows_both_coloured_by_score(folder):
    components = pytest.importorskip("napari.components")
    import runpy

    add = runpy.run_path(str(folder / "napari_show.py"), run_name="shown")["add_particles"]
    viewer = components.ViewerModel()
    add(viewer, folder / "001_TS-01-x")
    points, vectors = viewer.layers
    np.testing.assert_allclose(points.data, TRUE[:2, ::-1] / VOXEL, atol=1e-3)
    assert not np.allclose(points.face_color[0], points.face_color[1])
    np.testing.assert_allclose(vectors.data[:, 0], points.data, atol=1e-3)


def test_copick_reads_its_own_files(folder):
    models = pytest.importorskip("copick.models")
    text = (folder / "copick/ExperimentRuns/TS_02/Picks/gonio_1_particle.json").read_text()
    (point,) = models.CopickPicksFile(**json.loads(text)).points
    np.testing.assert_allclose([point.location.x, point.location.y, point.location.z], TRUE[2], atol=1e-3 * VOXEL)
