"""Every format to every other: poses, positions and columns survive wherever there is a place for them."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gonio.io import FormatError, read_particles, write_particles
from gonio.io.conversion import TomogramSizes, WriteOptions, losses, prepared
from gonio.io.formats import CLASSES, FORMATS, HALVES, format_named, format_of, format_of_ending
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.io.text import number_text
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

# The long run sets it to 1000.
EXAMPLES = int(os.environ.get("GONIO_ROUND_TRIPS", "6"))
ENDINGS = {
    "relion5": "star",
    "relion4": "star",
    "relion3.1": "star",
    "relion3.0": "star",
    "warp": "star",
    "dynamo": "tbl",
    "stopgap": "star",
    "av3": "em",
    "pytom": "xml",
    "eman": "lst",
    "eman-json": "json",
    "peet": "csv",
    "csv": "csv",
    "parquet": "parquet",
}
# AV3 stores float32; positions are below 2048 pixels, angles below 360 degrees: half a unit in the last of 24 bits.
ANGLE_DEG, VOXELS = 1e-3, 1e-3
SIZE = (1000.0, 1001.0, 300.0)
PIXEL = 3.25


def sample(seed: int, count: int = 4) -> ParticleTable:
    """A list with everything that all formats can hold: numbers for names, one tomogram, scores and classes."""
    rng = np.random.default_rng(seed)
    angles = rng.choice([0.0, 180.0, 90.0, -90.0, 30.0], (2, 3))
    poses = Pose.random(count - 2, rng=rng, max_shift_angstrom=8 * PIXEL)
    special = Rotation.from_euler("ZYZ", angles, degrees=True)  # poles of every kind of Euler angle
    poses = Pose(Rotation.concatenate([poses.rotation, special]), rng.uniform(-20, 20, (count, 3)))
    return ParticleTable(
        poses=poses,
        names=tuple(str(number) for number in rng.permutation(np.arange(1, 60))[:count]),
        tomograms=("17",) * count,
        coordinates_angstrom=rng.uniform(0, 2000, (count, 3)) * PIXEL,
        half_sets=rng.integers(1, 3, count).astype(np.int8),
        pixel_sizes_angstrom=np.full(count, PIXEL),
        classes=rng.integers(1, 9, count),
        scores=rng.uniform(-1, 1, count).round(4),
    )


def written(table: ParticleTable, name: str, folder: Path, options: WriteOptions | None = None) -> Path:
    path = folder / f"{name}.{ENDINGS[name]}"
    return write_particles(path, table, format=name, options=options or WriteOptions(sizes=TomogramSizes(every=SIZE)))[
        0
    ]


def read(path: Path, *, pixel: float | None = PIXEL) -> ParticleTable:
    return read_with(path, ReadOptions(pixel_size_angstrom=pixel, may_count_pixels=True))


def places(table: ParticleTable) -> np.ndarray:
    """Where particles are, in angstrom from the first voxel."""
    assert table.coordinates_angstrom is not None
    from_corner = np.array(SIZE) / 2 * PIXEL if table.coordinates_from == "centre" else 0.0
    return table.coordinates_angstrom + table.tomogram_poses.shift_angstrom + from_corner


def assert_same(one: ParticleTable, two: ParticleTable) -> None:
    assert np.max(one.tomogram_poses.rotation_distance_deg(two.tomogram_poses)) < ANGLE_DEG
    assert np.abs(places(one) - places(two)).max() < VOXELS * PIXEL


@settings(max_examples=EXAMPLES)
@given(seed=st.integers(0, 2**32 - 1), second=st.sampled_from(list(ENDINGS)))
@pytest.mark.parametrize("first", ENDINGS)
def test_every_format_to_every_other_keeps_poses(tmp_path_factory, seed, second, first):
    folder, table = tmp_path_factory.mktemp("lists"), sample(seed)
    middle = read(written(table, first, folder))
    assert_same(middle, table)
    target = folder / "second"
    target.mkdir()
    last = read(written(middle, second, target))
    assert_same(last, table)
    if "warp" not in (first, second):
        shift = last.tomogram_poses.shift_distance_angstrom(table.tomogram_poses)
        assert np.max(shift) < VOXELS * PIXEL
    assert np.abs(last.scores - table.scores).max() < 1e-6
    assert last.classes.tolist() == table.classes.tolist()


@pytest.mark.parametrize("name", ENDINGS)
def test_a_format_is_told_by_what_it_holds(tmp_path, name):
    path = written(sample(1), name, tmp_path)
    plain = path.rename(tmp_path / "list")
    assert format_of(plain).name == name


def test_every_format_is_documented():
    text = (Path(__file__).parents[2] / "docs" / "formats.md").read_text()
    assert [name for name in FORMATS if f"`{name}`" not in text] == []


def test_endings_stand_for_formats(tmp_path):
    for name, file in {
        "relion5": "a.star",
        "dynamo": "a.tbl",
        "av3": "a.em",
        "peet": "a_MOTL.csv",
        "csv": "a.csv",
    }.items():
        assert format_of_ending(tmp_path / file).name == name
    with pytest.raises(ValueError, match="no ending that stands for a format: pass --to"):
        format_of_ending(tmp_path / "a.txt")
    with pytest.raises(ValueError, match="no format is called 'x': choose one of relion5"):
        format_named("x")


@pytest.mark.parametrize("name", ["relion5", "relion4", "relion3.1", "csv", "parquet", "eman", "eman-json"])
def test_columns_of_any_format_ride_along_and_come_back(tmp_path, name):
    """From Dynamo and STOPGAP through formats that hold any column, and back."""
    rng = np.random.default_rng(5)
    for family, labels in {
        "dynamo": ("cc2", "cpu", "ftype", "ymintilt", "ymaxtilt", "reg", "annotation", "dshift", "otag", "eig2"),
        "stopgap": ("object", "subtomo_num"),
        "av3": ("geom1", "geom5", "object_id", "subtomo_mean"),
        "peet": ("wedgeWT", "adjCCC", "oldClass"),
        "pytom": ("Wedge@Type", "Wedge/SingleTiltWedge@Angle1", "InfoGUI@ProjectDir"),
    }.items():
        texts = {f"{family}_{label}": tuple(map(number_text, rng.integers(1, 50, 4).tolist())) for label in labels}
        table = sample(2)
        start = ParticleTable(**{**table.__dict__, "extras": texts})
        first = read(written(start, family, tmp_path))
        for label, values in texts.items():
            assert tuple(first.extras[label]) == values, label
        target = tmp_path / family
        target.mkdir()
        back = target / "back"
        back.mkdir()
        again = read(written(read(written(first, name, target)), family, back))
        for label, values in first.extras.items():
            assert tuple(again.extras[label]) == tuple(values), (family, label)


def test_half_sets_names_and_tomograms_survive_where_they_can(tmp_path):
    table = sample(3)
    named = ParticleTable(
        **{**table.__dict__, "names": ("a/1", "a/2", "b/1", "b/2"), "tomograms": ("TS_1", "TS_1", "x y", "x y")}
    )
    for name in ENDINGS:
        if name == "peet":
            continue  # a list for each tomogram
        again = read(written(named, name, tmp_path))
        assert again.tomograms == named.tomograms, name  # LIST.doc names those that are numbered
        held = FORMATS[name].holds
        if "half sets" in held:
            assert np.array_equal(again.half_sets, named.half_sets), name
        if "particle names" in held and name != "warp":
            assert tuple(n.removesuffix(".em") for n in again.names) == named.names, name
        lost = losses(named, FORMATS[name])
        assert any("half sets" in words for words in lost) == ("half sets" not in held), name


@pytest.mark.parametrize("name", ENDINGS)
def test_classes_and_half_sets_survive_where_there_is_a_place_for_them(tmp_path, name):
    """As classify and refine leave them in a table: neither sorted nor every class as often as the others."""
    classes, halves = np.array([3, 1, 2, 1]), np.array([1, 2, 2, 1], dtype=np.int8)
    table, path = replace(sample(1), classes=classes, half_sets=halves), tmp_path / f"list.{ENDINGS[name]}"
    write_particles(path, table, format=name, options=WriteOptions(sizes=TomogramSizes(every=SIZE)))
    read = read_with(path, ReadOptions(pixel_size_angstrom=PIXEL, may_count_pixels=True))
    assert CLASSES in FORMATS[name].holds
    np.testing.assert_array_equal(read.classes, classes)
    np.testing.assert_array_equal(read.half_sets, halves if HALVES in FORMATS[name].holds else 0)


def test_peet_writes_a_list_and_a_model_for_each_tomogram(tmp_path):
    pytest.importorskip("imodmodel")
    table = sample(4)
    two = ParticleTable(**{**table.__dict__, "tomograms": ("TS_1", "TS_2", "TS_1", "TS_2")})
    paths = write_particles(tmp_path / "all.csv", two, format="peet")
    assert [p.name for p in paths] == ["all_TS_1.csv", "all_TS_1.mod", "all_TS_2.csv", "all_TS_2.mod"]
    assert_same(read(paths[2]), two[[1, 3]])
    write_particles(tmp_path / "points.mod", two[[0, 2]], format="imod")
    assert np.abs(read(tmp_path / "points.mod").coordinates_angstrom - places(two[[0, 2]])).max() < VOXELS * PIXEL


# The sums that must hold


def relion(angles, tmp_path):
    """A table with RELION's angles (rot, tilt, psi)."""
    head = (
        "data_\nloop_\n_rlnImageName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n_rlnAngleRot\n_rlnAngleTilt\n"
    )
    head += "_rlnAnglePsi\n_rlnOriginX\n_rlnOriginY\n_rlnOriginZ\n"
    rows = [f"{i}.mrc 10 20 30 {a[0]} {a[1]} {a[2]} 1 -2 3\n" for i, a in enumerate(angles)]
    (tmp_path / "relion.star").write_text(head + "".join(rows))
    return read(tmp_path / "relion.star", pixel=None)


CLOSED = {
    "dynamo": (("tdrot", "tilt", "narot"), lambda rot, tilt, psi: (psi - 90, tilt, rot + 90)),
    "stopgap": (("phi", "the", "psi"), lambda rot, tilt, psi: (90 - rot, tilt, -90 - psi)),
    "av3": (("phi", "theta", "psi"), lambda rot, tilt, psi: (90 - rot, tilt, -90 - psi)),
    "pytom": (("Rotation@Z1", "Rotation@X", "Rotation@Z2"), lambda rot, tilt, psi: (90 - rot, tilt, -90 - psi)),
    "peet": (("EulerZ(1)", "EulerX(2)", "EulerZ(3)"), lambda rot, tilt, psi: (90 - rot, tilt, -90 - psi)),
    "eman": (
        ("az", "alt", "phi"),
        lambda rot, tilt, psi: (-90 - psi, tilt, 90 - rot),
    ),  # (rot + 90, tilt, psi - 90), inverted
}


@pytest.mark.parametrize("name", CLOSED)
def test_relions_angles_become_those_of_the_closed_forms(tmp_path, name):
    angles = np.random.default_rng(8).uniform([-180, 1, -180], [180, 179, 180], (20, 3)).round(4)
    table = relion(angles, tmp_path)
    target = FORMATS[name]
    shown = target.shown(prepared(table, target, WriteOptions(sizes=TomogramSizes(every=SIZE)), path=tmp_path))
    labels, form = CLOSED[name]
    got = np.array([shown[label] for label in labels], dtype=float).T
    difference = got - np.array([form(*a) for a in angles])
    assert np.abs((difference + 180) % 360 - 180).max() < 1e-5


@pytest.mark.parametrize(
    ("name", "place", "shift"),
    [
        ("dynamo", ("x", "y", "z"), ("dx", "dy", "dz")),
        ("stopgap", ("orig_x", "orig_y", "orig_z"), ("x_shift", "y_shift", "z_shift")),
        ("av3", ("x", "y", "z"), ("shift_x", "shift_y", "shift_z")),
        ("pytom", ("PickPosition@X", "PickPosition@Y", "PickPosition@Z"), ("Shift@X", "Shift@Y", "Shift@Z")),
        ("peet", ("point_x", "point_y", "point_z"), ("xOffset", "yOffset", "zOffset")),
    ],
)
def test_relion_subtracts_origins_and_others_add_shifts(tmp_path, name, place, shift):
    table = relion([(10.0, 20.0, 30.0)], tmp_path)
    shown = FORMATS[name].shown(table)
    first = 0 if name in ("pytom", "peet") else 1  # MATLAB's first voxel is 1
    assert [float(shown[label][0]) for label in place] == [10 + first, 20 + first, 30 + first]
    assert [float(shown[label][0]) for label in shift] == [-1, 2, -3]


def test_eman_moves_the_particle_onto_the_reference(tmp_path):
    """Q x + s takes a point of the particle to that of the reference, which is what align3d states."""
    table = sample(9)
    import json

    path = written(table, "eman-json", tmp_path)
    stated = [json.loads(v["xform.align3d"]["matrix"]) for v in json.loads(path.read_text()).values()]
    point = np.array([3.0, -1.0, 2.0])  # pixels, of the reference
    for matrix, pose in zip(np.array(stated).reshape(-1, 3, 4), table.poses, strict=True):
        seen = pose.apply(point * PIXEL) / PIXEL
        assert np.abs(matrix[:, :3] @ seen + matrix[:, 3] - point).max() < 1e-6


def test_boxes_of_an_info_file_are_read_from_the_tomograms_centre(tmp_path):
    boxes = '{"apix_unbin": 2.5, "boxes_3d": [[10, -20, 3.5, "manual", 0.75, 2], [1, 2, 3, "tm", 0.5, 1]]}'
    (tmp_path / "TS_1_info.json").write_text(boxes)
    table = read(tmp_path / "TS_1_info.json", pixel=None)
    assert format_of(tmp_path / "TS_1_info.json").name == "eman-boxes"
    assert table.coordinates_from == "centre" and table.tomograms == ("TS_1", "TS_1")
    assert table.coordinates_angstrom[0].tolist() == [25.0, -50.0, 8.75]
    assert (table.scores.tolist(), table.classes.tolist()) == ([0.75, 0.5], [2, 1])
    for broken, says in (('{"a": 1}', "has no boxes_3d"), ('{"boxes_3d": [[1, 2]]}', r"box 1 is \[1, 2\], without")):
        (tmp_path / "TS_1_info.json").write_text(broken)
        with pytest.raises(FormatError, match=says):
            read(tmp_path / "TS_1_info.json", pixel=None)


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("imod", "imodmodel", "imod"), ("parquet", "pyarrow", "parquet")]
)
def test_packages_that_are_not_there_are_named(tmp_path, monkeypatch, name, package, extra):
    for module in (package, f"{package}.parquet"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(FormatError, match=rf"needs {package}; pip install 'gonio\[{name}\]'"):
        write_particles(tmp_path / "a", sample(1), format=name)
    assert list(tmp_path.iterdir()) == []


def test_changed_classes_and_scores_are_written_into_a_relion_list(tmp_path):
    table = read(written(sample(19), "relion5", tmp_path))
    new = replace(table, classes=np.array([4, 3, 2, 1]), scores=np.array([0.5, 0.25, 0.125, 0.0]))
    again = read(write_particles(tmp_path / "b.star", new)[0])
    assert (again.classes.tolist(), again.scores.tolist()) == ([4, 3, 2, 1], [0.5, 0.25, 0.125, 0.0])
    assert table.source.star.find("particles").text("rlnCenteredCoordinateXAngst") == (
        again.source.star.find("particles").text("rlnCenteredCoordinateXAngst")
    )


def test_subtomogram_angles_are_composed_and_come_back(tmp_path):
    rng = np.random.default_rng(11)
    sub, part, origin = (rng.uniform(-170, 170, (3, 3)).round(5) for _ in range(3))
    labels = ["rlnTomoName", "rlnTomoParticleName", "rlnOpticsGroup", "rlnImageName"]
    labels += [f"rlnCoordinate{axis}" for axis in "XYZ"] + [f"rlnOrigin{axis}Angst" for axis in "XYZ"]
    labels += [f"rln{kind}{angle}" for kind in ("Angle", "TomoSubtomogram") for angle in ("Rot", "Tilt", "Psi")]
    lines = [
        "data_optics",
        "loop_",
        "_rlnOpticsGroup",
        "_rlnTomoTiltSeriesPixelSize",
        "_rlnImagePixelSize",
        "1 2 4",
        "",
    ]
    lines += ["data_particles", "loop_", *(f"_{label}" for label in labels)]
    for i in range(3):
        numbers = (100, 200, 50, *origin[i], *part[i], *sub[i])
        lines.append(" ".join(["7", f"7/{i}", "1", f"{i}.mrc", *map(str, numbers)]))
    path = tmp_path / "relion4.star"
    path.write_text("\n".join(lines) + "\n")
    table = read(path, pixel=None)
    a_sub, a_part = (Rotation.from_euler("ZYZ", angles, degrees=True).inv() for angles in (sub, part))
    assert np.max((table.tomogram_poses.rotation * (a_sub * a_part).inv()).magnitude()) < 1e-9
    assert np.abs(table.tomogram_poses.shift_angstrom + a_sub.apply(origin)).max() < 1e-9
    dynamo = read(write_particles(tmp_path / "a.tbl", table)[0], pixel=None)
    assert np.max(dynamo.poses.rotation_distance_deg(table.tomogram_poses)) < ANGLE_DEG
    assert np.abs(dynamo.poses.shift_angstrom - table.tomogram_poses.shift_angstrom).max() < VOXELS * 2
    assert dynamo.pixel_sizes_angstrom.tolist() == [2.0] * 3
    # through a plain table the angles of the boxes ride along, and those of the particles in them come back
    csv = read(write_particles(tmp_path / "a.csv", table)[0], pixel=None)
    again = read(write_particles(tmp_path / "b.star", csv, format="relion4")[0], pixel=None)
    assert np.max(again.poses.rotation_distance_deg(table.poses)) < ANGLE_DEG
    assert np.max(again.poses.shift_distance_angstrom(table.poses)) < VOXELS * 2
    assert again.images == table.images and again.extras["rlnImagePixelSize"] == ("4",) * 3


# Pixels and centres


@pytest.mark.parametrize(
    ("centre", "index"), [("size/2", (500, 500.5, 150)), ("size/2-1", (499, 499.5, 149)), ("floor", (500, 500, 150))]
)
def test_the_centre_is_the_one_that_was_asked_for(tmp_path, centre, index):
    table = sample(12)
    options = WriteOptions(sizes=TomogramSizes(every=SIZE), centre=centre)
    made = read(written(table, "relion5", tmp_path, options))
    assert np.abs(table.coordinates_angstrom - made.coordinates_angstrom - np.array(index) * PIXEL).max() < 1e-5
    back = read(write_particles(tmp_path / "b.tbl", made, options=options)[0])
    assert np.abs(back.coordinates_angstrom - table.coordinates_angstrom).max() < 1e-5


def test_sizes_of_tomograms_are_read(tmp_path):
    (tmp_path / "tomograms.star").write_text(
        "data_global\nloop_\n_rlnTomoName\n_rlnTomoSizeX\n_rlnTomoSizeY\n_rlnTomoSizeZ\n_rlnTomoTiltSeriesPixelSize\n"
        "17 400 300 200 6.5\n"
    )
    (tmp_path / "wedge_list.star").write_text(
        "data_stopgap_wedgelist\nloop_\n_tomo_num\n_pixelsize\n_tomo_x\n_tomo_y\n_tomo_z\n_tilt_angle\n"
        "17 6.5 400 300 200 1\n"
    )
    table = sample(13)
    for name in ("tomograms.star", "wedge_list.star"):
        options = WriteOptions(sizes=TomogramSizes.read(tmp_path / name))
        made = prepared(table, FORMATS["relion5"], options, path=tmp_path)
        moved = table.coordinates_angstrom - made.coordinates_angstrom
        assert np.abs(moved - np.array([200, 150, 100]) * 6.5).max() < 1e-9


def test_counting_in_other_pixels_moves_nothing(tmp_path):
    table = sample(14)
    made = read(written(table, "stopgap", tmp_path, WriteOptions(pixel_size_angstrom=13.0)), pixel=13.0)
    assert_same(made, table)
    whole = read(written(table, "dynamo", tmp_path, WriteOptions(whole=True)))
    assert_same(whole, table)
    voxels = whole.coordinates_angstrom / PIXEL
    assert np.abs(voxels - np.round(voxels)).max() < 1e-5
    assert np.abs(whole.coordinates_angstrom - table.coordinates_angstrom).max() <= PIXEL / 2 + 1e-6


def test_pixels_of_several_sizes_are_told_where_they_are_lost():
    table = sample(20)
    mixed = replace(table, pixel_sizes_angstrom=np.array([2.0, 2.0, 3.0, 3.0]))
    assert any("--to-pixel-size" in words for words in losses(mixed, FORMATS["av3"]))
    assert not any("--to-pixel-size" in words for words in losses(mixed, FORMATS["dynamo"]))
    assert not any("--to-pixel-size" in words for words in losses(table, FORMATS["av3"]))


def test_pixels_of_unknown_size_go_where_pixels_are_counted(tmp_path):
    table = sample(15)
    path = written(table, "stopgap", tmp_path)
    with pytest.raises(FormatError, match="does not state their size; pass --voxel-size"):
        read_particles(path)
    pixels = read(path, pixel=None)
    assert pixels.pixel_sizes_angstrom is None
    for name in ("av3", "dynamo", "pytom", "relion3.0", "warp", "csv", "eman", "peet"):
        sizes = WriteOptions(sizes=TomogramSizes(every=SIZE))
        again = read(written(pixels, name, tmp_path, sizes), pixel=None)
        assert again.pixel_sizes_angstrom is None, name
        assert np.max(again.poses.rotation_distance_deg(table.poses)) < ANGLE_DEG
    with pytest.raises(FormatError, match="which RELION 5 STAR needs; pass --pixel-size ANGSTROM"):
        written(pixels, "relion5", tmp_path)


def test_a_centre_that_is_not_known_names_its_options(tmp_path):
    with pytest.raises(
        FormatError, match=r"size of tomogram '17'.*--tomogram-size X Y Z or --tomograms FILE, or choose"
    ):
        written(sample(16), "relion5", tmp_path, WriteOptions())


@pytest.mark.parametrize("name", [name for name in ENDINGS if not name.startswith(("relion", "warp"))])
def test_a_list_written_in_its_own_format_keeps_its_text(tmp_path, name):
    """One rotation has many angles: those of the file stay while the pose does, and a selection takes its own."""
    path = written(sample(17), name, tmp_path)
    table = read(path)
    target = tmp_path / "again"
    target.mkdir()
    again = write_particles(target / path.name, table, format=name)[0]
    if name != "parquet":
        assert again.read_bytes() == path.read_bytes()
    part = read(write_particles(target / f"part.{ENDINGS[name]}", table[[2, 0]], format=name)[0])
    assert part.names == (table.names[2], table.names[0])
    moved = table.with_poses(Pose.identity(4))
    assert np.max(read(write_particles(target / path.name, moved, format=name)[0]).poses.rotation.magnitude()) < 1e-5


def test_what_gonio_found_out_survives_where_any_column_does(tmp_path):
    table = sample(18)
    table = table.with_poses(table.poses, dissimilarity=[0.1, 0.2, 0.3, 0.4], status=["ok"] * 4)
    for name in ("relion5", "csv", "parquet", "eman"):
        again = read(written(table, name, tmp_path))
        assert again.columns["dissimilarity"].tolist() == [0.1, 0.2, 0.3, 0.4], name
        assert again.columns["status"].tolist() == ["ok"] * 4, name
    assert any("gonioDissimilarity, gonioStatus" in words for words in losses(table, FORMATS["dynamo"]))
