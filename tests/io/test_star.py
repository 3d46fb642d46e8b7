"""Lists keep what gonio does not own, poses survive the round trip, and the geometry is the one stated in star.py."""

import subprocess
import sys
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gonio.io import FormatError, read_particles, write_particles, write_simulated, write_volume
from gonio.io.blocks import read_star
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, TiltStack, Volume
from gonio.particle.wedge import SingleAxisWedge, WeightVolumeWedge, tilt_plane_normal

SHARED = Path(__file__).parents[3] / "shared" / "data"
RIBOSOMES = SHARED / "empiar10499"
TABLES = SHARED / "tables"
needs_ribosomes = pytest.mark.skipif(not RIBOSOMES.is_dir(), reason="shared/data/empiar10499 is not here")
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="shared/data/tables is not here")

TILTS = (-50.0, -20.0, 0.0, 30.0)
VOXEL = 5.0
# Six decimals of a degree and of an angstrom: half a unit in each of three numbers, with room for rounding.
ANGLE_TOLERANCE_DEG = 3e-6
SHIFT_TOLERANCE_ANGSTROM = 3e-6


def matrix_text(row):
    return "[" + ",".join(f"{v:.9g}" for v in (*row, 0)) + "]"


def write_tomograms(folder, *, hand=-1, geometry="matrices", names=("T1", "2"), scale=(1.0, 1.0, 1.0, 1.0)):
    """tomograms.star of four tilts about y, as WarpTools (matrices) or RELION 5 (angles) states them."""
    lines = ["data_global", "", "loop_", "_rlnTomoName #1", "_rlnTomoHand #2", "_rlnTomoTiltSeriesPixelSize"]
    lines += ["_rlnTomoSizeX", "_rlnTomoSizeY", "_rlnTomoSizeZ"]
    lines += [f"{name} {hand:.1f} 2.5 400 300 200" for name in names]
    for name in names:
        lines += ["", f"data_{name}", "", "loop_"]
        geometric = {"matrices": ["ProjX", "ProjY", "ProjZ", "ProjW"], "angles": ["XTilt", "YTilt", "ZRot"]}[geometry]
        lines += [f"_rlnTomo{label}" for label in geometric]
        lines += ["_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle", "_rlnCtfScalefactor", "_rlnMicrographPreExposure"]
        for i, tilt in enumerate(TILTS):
            matrix = Rotation.from_euler("y", tilt, degrees=True).as_matrix()
            place = [*map(matrix_text, matrix), "[0,0,0,1]"] if geometry == "matrices" else ["0", str(tilt), "0"]
            lines.append(" ".join([*place, "30000", "29000", "12.5", str(scale[i]), str(3.0 * i)]))
    (folder / "tomograms.star").write_text("\n".join(lines) + "\n")


def write_stacks(folder, angles, origins, *, sub=None, visible="[1,1,1,1]", images=4, tokens=()):
    """particles.star of 2-D stacks and the stacks themselves; particle i is in tomogram T1 or 2."""
    labels = ["rlnTomoName", "rlnTomoParticleName", "rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ"]
    labels += ["rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst"]
    labels += ["rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi"] if sub is not None else []
    labels += ["rlnOpticsGroup", "rlnImageName", "rlnTomoVisibleFrames", "rlnRandomSubset", "rlnNote"]
    rows = []
    for i, (angle, origin) in enumerate(zip(angles, origins, strict=True)):
        numbers = [f"{v:.6f}" for v in (*angle, *origin, *(sub[i] if sub is not None else ()))]
        row = [("T1", "2")[i % 2], f"p/{i}", "010.50", "20", "3e1", *numbers, "1", f"images/{i}.mrcs", visible]
        rows.append("  ".join([*row, str(1 + i % 2), "1.2300e-05"]))
    text = ["# version 50001", "", "data_general", "", "_rlnTomoSubTomosAre2DStacks   1", ""]
    text += ["# version 50001", "", "data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnImagePixelSize #2"]
    text += ["_rlnVoltage #3", "_rlnSphericalAberration #4", "_rlnAmplitudeContrast #5"]
    text += ["_rlnCtfDataAreCtfPremultiplied #6", "_rlnTomoTiltSeriesPixelSize #7"]
    text += [f"1 {VOXEL:.5f} 300.000 2.70 0.1 1 2.5", "", "# version 50001", "", "data_particles", "", "loop_"]
    text += [f"_{label} #{i}" for i, label in enumerate(labels, 1)] + rows + [""]
    content = "\n".join(text)
    for old, new in tokens:
        assert old in content
        content = content.replace(old, new, 1)
    (folder / "particles.star").write_text(content)
    (folder / "images").mkdir(exist_ok=True)
    rng = np.random.default_rng(2)
    for i in range(len(rows)):
        with mrcfile.new(folder / f"images/{i}.mrcs", overwrite=True) as mrc:
            mrc.set_data(rng.normal(size=(images, 8, 8)).astype(np.float16))
            mrc.voxel_size = VOXEL
    return folder / "particles.star"


def stacks(folder, count=3, *, hand=-1, geometry="matrices", **options):
    rng = np.random.default_rng(3)
    write_tomograms(folder, hand=hand, geometry=geometry)
    return write_stacks(folder, rng.uniform(0, 170, (count, 3)), rng.uniform(-20, 20, (count, 3)), **options)


def subtomograms(folder, count=3, **options):
    """A list as the simulator writes it, with its maps."""
    rng = np.random.default_rng(4)
    paths = [folder / f"map{i}.mrc" for i in range(count)]
    for path in paths:
        write_volume(path, Volume(rng.normal(size=(8, 8, 8)), VOXEL))
    poses = Pose.random(count, rng=rng, max_shift_angstrom=20.0)
    said = {"voxel_size_angstrom": VOXEL, "box": 8, "tilt_range_deg": (-50.0, 60.0), "axis_deg": 85.0}
    write_simulated(folder / "list.star", poses, paths, **(said | options))
    return folder / "list.star", poses


def assert_same_poses(one, two):
    assert np.max(one.rotation_distance_deg(two)) < ANGLE_TOLERANCE_DEG
    assert np.max(one.shift_distance_angstrom(two)) < SHIFT_TOLERANCE_ANGSTROM


def tokens_of(path, *, without=("rlnAngle", "rlnOrigin", "gonio", "rlnImageName")):
    star = read_star(path)
    return [(b.name, b.is_loop, {k: v for k, v in b.columns.items() if not k.startswith(without)}) for b in star.blocks]


# Poses


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), hand=st.sampled_from([-1, 1]), turned=st.booleans())
def test_new_poses_of_stacks_survive_the_file(tmp_path_factory, seed, hand, turned):
    folder, rng = tmp_path_factory.mktemp("list"), np.random.default_rng(seed)
    sub = rng.uniform(-180, 180, (4, 3)) if turned else None
    table = read_particles(stacks(folder, 4, hand=hand, sub=sub))
    poses = Pose.random(4, rng=rng, max_shift_angstrom=40.0)
    write_particles(folder / "new.star", table.with_poses(poses))
    assert_same_poses(read_particles(folder / "new.star").poses, poses)
    assert tokens_of(folder / "new.star") == tokens_of(folder / "particles.star")


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_poses_at_the_pole_of_the_euler_angles_survive(tmp_path, tilt):
    table = read_particles(stacks(tmp_path, 2))
    poses = Pose.from_euler_zyz_deg([[20.0, tilt, 70.0]] * 2, np.zeros((2, 3)))
    write_particles(tmp_path / "new.star", table.with_poses(poses))
    assert_same_poses(read_particles(tmp_path / "new.star").poses, poses)


@pytest.mark.parametrize("hand", [-1, 1])
def test_points_project_where_relion_has_them_whatever_the_hand(tmp_path, hand):
    """Image position of a reference point x: P (A^T x - o)."""
    angles, origins = np.array([[30.0, 60.0, 100.0]]), np.array([[7.0, -3.0, 11.0]])
    write_tomograms(tmp_path, hand=hand)
    table = read_particles(write_stacks(tmp_path, angles, origins))
    points = np.random.default_rng(5).normal(size=(9, 3)) * 30 + [5.0, 0.0, -9.0]
    seen = np.einsum("tij,pj->tpi", table.load(0).projections_xyz, table.poses[0].apply(points))  # (t, p, 2)
    a = Rotation.from_euler("ZYZ", angles[0], degrees=True).as_matrix()
    p = Rotation.from_euler("y", np.array(TILTS)[:, None], degrees=True).as_matrix()[:, :2]  # (t, 2, 3)
    expected = np.einsum("tij,jp->tpi", p, a.T @ points.T - origins.T)
    assert np.abs(seen - expected).max() < 1e-5  # matrices in the file have 9 digits, points are below 100


def test_subtomogram_angles_turn_first_and_carry_the_origin(tmp_path):
    angles, origins, sub = np.array([[30.0, 60.0, 100.0]]), np.array([[7.0, -3.0, 11.0]]), np.array([[80.0, 40.0, 9.0]])
    write_tomograms(tmp_path, hand=1)
    pose = read_particles(write_stacks(tmp_path, angles, origins, sub=sub)).poses[0]
    a_sub, a_part = (Rotation.from_euler("ZYZ", x[0], degrees=True).inv().as_matrix() for x in (sub, angles))
    assert np.abs(pose.matrix - a_sub @ a_part).max() < 1e-12
    assert np.abs(pose.shift_angstrom + a_sub @ origins[0]).max() < 1e-12


def test_a_list_without_angles_starts_from_zero(tmp_path):
    star = (
        "data_\nloop_\n_rlnImageName\n_rlnMicrographName\n_rlnOriginX\n_rlnOriginY\n_rlnOriginZ\n"
        "_rlnPixelSize\na.mrc t 1 2 -3 4.0\n"
    )
    (tmp_path / "old.star").write_text(star)
    table = read_particles(tmp_path / "old.star", tilt_range_deg=(-60, 60))
    assert table.poses.matrix[0].tolist() == np.eye(3).tolist()
    assert table.poses.shift_angstrom.tolist() == [[-4.0, -8.0, 12.0]]  # pixels of 4 angstrom, subtracted
    moved = table.with_poses(Pose(table.poses.rotation, np.array([[10.0, 0.0, 2.0]])))
    write_particles(tmp_path / "new.star", moved)
    assert read_star(tmp_path / "new.star").blocks[0].text("rlnOriginX") == ("-2.500000",)
    assert_same_poses(read_particles(tmp_path / "new.star").poses, moved.poses)


# Stacks


def test_a_stack_carries_geometry_ctf_and_dose(tmp_path):
    particle = read_particles(stacks(tmp_path), invert_contrast=True).load(1)
    assert isinstance(particle, TiltStack)
    assert particle.voxel_size_angstrom == VOXEL
    assert particle.ctf_premultiplied
    assert particle.dose.tolist() == [0, 3, 6, 9]
    assert (particle.ctf.voltage_kv, particle.ctf.amplitude_contrast) == (300.0, 0.1)
    away = np.array([10.5, 20.0, 30.0]) * VOXEL - np.array([200.0, 150.0, 100.0]) * 2.5  # from the centre
    turned = np.radians(TILTS)
    depth = np.cos(turned) * away[2] - np.sin(turned) * away[0]
    assert np.abs(particle.ctf.defocus_u_angstrom - (30000 - depth)).max() < 1e-4  # hand -1
    assert np.abs(particle.ctf.defocus_v_angstrom - (29000 - depth)).max() < 1e-4
    with mrcfile.open(tmp_path / "images/1.mrcs") as mrc:
        assert np.array_equal(particle.images, -mrc.data.astype(np.float32))


def test_relion_5_angles_mean_the_same_planes_as_matrices(tmp_path):
    planes = []
    for geometry in ("matrices", "angles"):
        stack = read_particles(stacks(tmp_path, hand=1, geometry=geometry)).load(0)
        planes.append(np.cross(stack.projections_xyz[:, 0], stack.projections_xyz[:, 1]))
    assert np.abs(planes[0] - planes[1]).max() < 1e-8
    # RELION turns the specimen by YTilt about y, which is gonio's definition of the tilt
    assert np.abs(planes[0] - tilt_plane_normal(TILTS, 90.0)).max() < 1e-8


def test_relion_5_angles_compose_as_rz_ry_rx(tmp_path):
    lines = (
        "data_global\nloop_\n_rlnTomoName\n_rlnTomoHand\n_rlnTomoTiltSeriesStarFile\nT1 1 t/T1.star\n2 1 t/T1.star\n"
    )
    (tmp_path / "t").mkdir()
    (tmp_path / "tomograms.star").write_text(lines)
    tilts = "data_any\nloop_\n_rlnTomoXTilt\n_rlnTomoYTilt\n_rlnTomoZRot\n" + "10 20 30\n" * 4
    (tmp_path / "t" / "T1.star").write_text(tilts)
    with pytest.warns(RuntimeWarning, match="no defocus is stated of T1"):
        stack = read_particles(write_stacks(tmp_path, np.zeros((1, 3)), np.zeros((1, 3)))).load(0)
    x, y, z = (Rotation.from_euler(a, v, degrees=True) for a, v in (("x", 10), ("y", 20), ("z", 30)))
    assert np.abs(stack.projections_xyz[2] - (z * y * x).as_matrix()[:2]).max() < 1e-12
    assert stack.ctf is None


@pytest.mark.parametrize(("images", "used"), [(4, [True, False, True, True]), (3, [True, True, True])])
def test_excluded_tilts_may_be_in_the_stack_or_not(tmp_path, images, used):
    stack = read_particles(stacks(tmp_path, visible="[1,0,1,1]", images=images)).load(0)
    assert stack.used.tolist() == used
    assert stack.dose.tolist() == ([0, 3, 6, 9] if images == 4 else [0, 6, 9])


def test_an_image_of_zeros_is_an_excluded_tilt(tmp_path):
    path = stacks(tmp_path)
    with mrcfile.open(tmp_path / "images/0.mrcs", "r+") as mrc:
        mrc.data[2] = 0
    assert read_particles(path).load(0).used.tolist() == [True, True, False, True]


# Subtomograms


def test_a_simulated_list_reads_back(tmp_path):
    path, poses = subtomograms(tmp_path)
    table = read_particles(path)
    assert_same_poses(table.poses, poses)
    assert table.half_sets.tolist() == [1, 2, 1]
    assert set(table.tomograms) == {"simulated"}
    particle = table.load(1)
    assert isinstance(particle, Subtomogram)
    assert particle.wedge == SingleAxisWedge(-50.0, 60.0, 85.0)
    assert particle.voxel_size_angstrom == VOXEL
    assert read_particles(path, tilt_range_deg=(-40, 40)).load(0).wedge == SingleAxisWedge(-40, 40, 90.0)
    assert read_particles(path, voxel_size_angstrom=7.0).load(0).voxel_size_angstrom == 7.0


@pytest.mark.parametrize("half", [False, True])
def test_weights_of_either_layout_are_the_wedge(tmp_path, half):
    path, _ = subtomograms(tmp_path)
    star = read_star(path)
    k = np.arange(8) - 4
    kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
    whole = ((np.abs(kz) <= np.abs(kx)) * (10 + ky**2) + 0.5 * (kx * kz > 0)).astype(np.float32)  # w(-k) = w(k)
    stored = np.fft.ifftshift(whole)[:, :, :5] if half else whole
    with mrcfile.new(tmp_path / "ctf.mrc") as mrc:
        mrc.set_data(np.ascontiguousarray(stored))
    text = path.read_text().replace("_gonioTiltMin", "_other")
    lines = [
        line.replace("map", "ctf.mrc\tmap", 1) if line.startswith("simulated") else line for line in text.splitlines()
    ]
    label = star.find("particles").columns
    position = list(label).index("rlnImageName")
    at = next(i for i, line in enumerate(lines) if line.startswith("_rlnImageName"))
    lines.insert(at, f"_rlnCtfImage #{position}")
    path.write_text("\n".join(lines) + "\n")
    wedge = read_particles(path, ctf_image="confidence").load(0).wedge
    assert isinstance(wedge, WeightVolumeWedge)
    inside = (slice(1, None),) * 3  # the Nyquist planes are their own mirror images and may differ
    assert np.array_equal(wedge.weights[inside], (whole / whole.max())[inside])  # any scale means the same


def test_a_box_that_was_cut_out_turned_has_its_own_frame(tmp_path):
    path, poses = subtomograms(tmp_path, 1)
    turned = path.read_text().replace("_rlnCenteredCoordinateXAngst", "_rlnTomoSubtomogramRot")
    path.write_text(turned.replace("\t0.000000", "\t33.0", 1))
    table = read_particles(path)
    assert_same_poses(table.poses, poses)
    with pytest.raises(FormatError, match="cut out rotated"):
        table.load(0)


# Lists


def test_selections_and_columns_are_written_and_read(tmp_path):
    table = read_particles(stacks(tmp_path, 5))
    chosen = table[[3, 0]].with_poses(table.poses[[3, 0]], dissimilarity=[0.25, np.nan], run_status=["ok", "not good"])
    write_particles(tmp_path / "new.star", chosen)
    again = read_particles(tmp_path / "new.star")
    assert again.names == ("p/3", "p/0")
    assert "gonioDissimilarity" in read_star(tmp_path / "new.star").find("particles")
    assert np.array_equal(again.columns["dissimilarity"], [0.25, np.nan], equal_nan=True)
    assert again.columns["run_status"].tolist() == ["ok", "not good"]
    assert_same_poses(again.poses, chosen.poses)
    assert again.half_sets.tolist() == [2, 1]
    assert np.array_equal(again.load(0).images, table.load(3).images)
    write_particles(tmp_path / "none.star", table[[]])
    assert len(read_star(tmp_path / "none.star").find("particles")) == 0


def test_lists_say_where_their_particles_are(tmp_path):
    table = read_particles(stacks(tmp_path))
    assert table.tomograms == ("T1", "2", "T1")
    assert table.coordinates_angstrom[0].tolist() == [52.5, 100.0, 150.0]  # pixels of the images
    assert table.half_sets.tolist() == [1, 2, 1]


def test_a_list_moves_with_its_images_and_tomograms(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new" / "deep"
    old.mkdir()
    new.mkdir(parents=True)
    table = read_particles(stacks(old))
    written = write_particles(new / "moved.star", table)
    assert [p.name for p in written] == ["moved.star", "optimisation_set.star"]
    monkeypatch.chdir(tmp_path / "new")
    again = read_particles(new / "optimisation_set.star")
    assert np.array_equal(again.load(2).images, table.load(2).images)
    assert read_star(new / "moved.star").find("particles").text("rlnImageName")[0] == "../../old/images/0.mrcs"
    assert tokens_of(new / "moved.star") == tokens_of(old / "particles.star")
    assert_same_poses(read_particles(new / "moved.star").poses, table.poses)


def test_image_paths_that_start_at_the_current_folder_stay(tmp_path, monkeypatch):
    path = stacks(tmp_path)
    (tmp_path / "job").mkdir()
    path.rename(tmp_path / "job" / "particles.star")
    monkeypatch.chdir(tmp_path)
    table = read_particles("job/particles.star", tomograms_path="tomograms.star")
    table.load(0)
    (tmp_path / "job2").mkdir()
    write_particles("job2/particles.star", table)
    assert tokens_of("job2/particles.star", without=("rlnAngle", "rlnOrigin")) == tokens_of(
        "job/particles.star", without=("rlnAngle", "rlnOrigin")
    )


def test_an_optimisation_set_of_another_list_is_not_overwritten(tmp_path):
    table = read_particles(stacks(tmp_path))
    first = write_particles(tmp_path / "a.star", table)[1]
    second = write_particles(tmp_path / "b.star", table)[1]
    again = write_particles(tmp_path / "a.star", table)[1]
    assert (first.name, second.name, again) == ("optimisation_set.star", "b_optimisation_set.star", first)


def test_columns_that_the_table_lost_are_not_written(tmp_path):
    path, poses = subtomograms(tmp_path)
    table = read_particles(path)
    write_particles(path, table.with_poses(poses, dissimilarity=[0.1, 0.2, 0.3], status=["converged"] * 3))
    again = read_particles(path)
    assert set(again.columns) == {"dissimilarity", "status"}
    write_particles(path, again.without("dissimilarity"))
    assert set(read_particles(path).columns) == {"status"}
    assert read_particles(path).load(0).wedge == SingleAxisWedge(-50, 60, 85)


def test_columns_of_the_wedge_stay_whatever_the_table_has(tmp_path):
    path = tmp_path / "old.star"
    write_volume(tmp_path / "a.mrc", Volume(np.random.default_rng(5).normal(size=(8, 8, 8)), VOXEL))
    labels = ["rlnImageName", "gonioTiltMin", "gonioTiltMax", "gonioTiltAxis", "gonioScore"]
    path.write_text("data_particles\n\nloop_\n" + "".join(f"_{label}\n" for label in labels) + "a.mrc -40 60 90 1\n")
    table = read_particles(path, voxel_size_angstrom=VOXEL)
    write_particles(path, table.without("tilt_min", "tilt_max", "tilt_axis", "score"))
    assert "gonioScore" not in path.read_text()
    assert read_particles(path, voxel_size_angstrom=VOXEL).load(0).wedge == SingleAxisWedge(-40, 60)


def test_a_list_tells_which_files_were_read(tmp_path):
    path, tomograms, chosen = stacks(tmp_path), tmp_path / "tomograms.star", tmp_path / "optimisation_set.star"
    assert read_particles(path).files == (path, tomograms)
    chosen.write_text("data_\n_rlnTomoParticlesFile particles.star\n_rlnTomoTomogramsFile tomograms.star\n")
    assert read_particles(chosen).files == read_particles(path).files == (chosen, path, tomograms)
    assert read_particles(path, tomograms_path=tomograms).files == (path, tomograms)
    (tmp_path / "maps").mkdir()
    maps, _ = subtomograms(tmp_path / "maps")
    assert read_particles(maps).files == (maps,)


def test_permissive_reading_reaches_the_images(tmp_path):
    path, _ = subtomograms(tmp_path)
    with (tmp_path / "map0.mrc").open("ab") as stream:
        stream.write(b"tail")
    with pytest.raises(FormatError, match=r"map0\.mrc: is longer .*\(particle 'simulated/1' of .*--permissive"):
        read_particles(path).load(0)
    with pytest.warns(RuntimeWarning, match=r"list\.star: images have broken headers"):
        assert read_particles(path, permissive=True).load(0).box == 8


def test_a_list_may_be_written_over_itself(tmp_path):
    path = stacks(tmp_path)
    before, table = tokens_of(path), read_particles(path)
    write_particles(path, table.with_poses(Pose.identity(3)))
    assert tokens_of(path) == before
    assert_same_poses(read_particles(path).poses, Pose.identity(3))


def test_changed_half_sets_are_written(tmp_path):
    from dataclasses import replace

    table = read_particles(stacks(tmp_path))
    write_particles(tmp_path / "new.star", replace(table, half_sets=np.array([2, 2, 1])))
    assert read_particles(tmp_path / "new.star").half_sets.tolist() == [2, 2, 1]


def test_importing_the_package_loads_no_pandas():
    subprocess.run([sys.executable, "-c", "import sys, gonio.io; assert 'pandas' not in sys.modules"], check=True)


# Errors


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("_rlnAngleTilt ", "_rlnOther ", "block data_particles has no column rlnAngleTilt"),
        ("_rlnTomoName ", "_rlnOther ", "has no column rlnTomoName"),
        (
            "p/1  010.50  20  3e1",
            "p/1  010.50  20  high",
            r"rlnCoordinateZ of block data_particles holds 'high' in row 2",
        ),
        ("\nT1 ", "\nT9 ", "no tomogram 'T9'; give the list it belongs to"),
        ("  2  1.2300e-05", "  2", "row 2 of block data_particles ends early"),
        ("_rlnNote #16\n", "", "particles.star"),
        ("data_optics", "data_particles", "two blocks"),
        ("  1  images", "  7  images", "optics group '7'"),
        ("Stacks   1", "Stacks   yes", "rlnTomoSubTomosAre2DStacks of block data_general holds 'yes'"),
    ],
)
def test_a_wrong_list_says_what_is_wrong(tmp_path, old, new, says):
    path = stacks(tmp_path, tokens=[(old, new)])
    with pytest.raises(FormatError, match=says) as caught:
        read_particles(path)
    assert str(tmp_path) in str(caught.value)
    path.write_text(
        "data_particles\n\nloop_\n_rlnImageName\n_rlnOriginXAngst\n_rlnOriginYAngst\n_rlnOriginZAngst\na 1 2 3\n"
    )
    assert len(read_particles(path)) == 1  # nothing of the wrong list lingers


@pytest.mark.parametrize(
    ("options", "tokens", "says"),
    [
        ({"images": 5}, [], "5 images; its tomogram has 4 tilts, 4 of them visible"),
        ({"visible": "[1,0,0,1]", "images": 3}, [], "3 images; its tomogram has 4 tilts, 2 of them visible"),
        ({"visible": "[1,1]"}, [], "lists 2 tilts, its tomogram has 4"),
        ({"visible": "[1,x,1,1]"}, [], "not a list of 0 and 1"),
        ({}, [("5.00000", "5.20000")], "header states 5 angstrom per voxel.*states 5.2"),
        ({}, [("images/0.mrcs", "images/9.mrcs")], "images/9.mrcs, is neither in"),
        ({}, [("_rlnVoltage", "_rlnOther")], "rlnVoltage"),
    ],
)
def test_a_wrong_particle_says_what_is_wrong(tmp_path, options, tokens, says):
    with pytest.raises(FormatError, match=rf"{says}.*\(particle 'p/0'"):
        read_particles(stacks(tmp_path, tokens=tokens, **options)).load(0)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("T1 -1.0", "T1 0.5", "rlnTomoHand of 'T1' is 0.5"),
        ("_rlnTomoProjX", "_rlnOther", "neither rlnTomoProjX"),
        ("[0.642787", "[x0.642787", "not four numbers"),
        ("data_T1", "data_T7", "neither a block data_T1 nor a column rlnTomoTiltSeriesStarFile"),
        ("30000", "deep", "rlnDefocusU of block data_T1 holds 'deep' in row 1"),
    ],
)
def test_wrong_tomograms_say_what_is_wrong(tmp_path, old, new, says):
    path, tomograms = stacks(tmp_path), tmp_path / "tomograms.star"
    text = tomograms.read_text()
    assert old in text
    tomograms.write_text(text.replace(old, new, 1))
    with pytest.raises(FormatError, match=says) as caught:
        read_particles(path)
    assert "tomograms.star" in str(caught.value)


def test_a_tomogram_without_tilts_is_refused(tmp_path):
    path = stacks(tmp_path)
    text = (tmp_path / "tomograms.star").read_text()
    rows = [line for line in text.splitlines() if not line.startswith("[")]
    (tmp_path / "tomograms.star").write_text("\n".join(rows) + "\n")
    with pytest.raises(FormatError, match="data_T1 lists no tilts"):
        read_particles(path)


def test_stacks_need_their_tomograms(tmp_path):
    path = stacks(tmp_path)
    (tmp_path / "tomograms.star").unlink()
    with pytest.raises(FormatError, match="--tomograms FILE"):
        read_particles(path)
    (tmp_path / "optimisation_set.star").write_text(
        "data_\n_rlnTomoParticlesFile particles.star\n_rlnTomoTomogramsFile t.star\n"
    )
    with pytest.raises(FormatError, match=r"names t\.star"):
        read_particles(path)


def test_an_unknown_wedge_names_its_option(tmp_path):
    path, _ = subtomograms(tmp_path)
    path.write_text(path.read_text().replace("_gonioTiltMin", "_other"))
    with pytest.raises(FormatError, match="--tilt-range MIN MAX"):
        read_particles(path).load(0)
    assert read_particles(path, tilt_range_deg=(-60, 60)).load(0).wedge == SingleAxisWedge(-60, 60)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no such file"),
        ("", "is empty"),
        ("hello\n", "no STAR data block"),
        ("data_optics\n\nloop_\n_a #1\n1\n", "no block data_particles"),
        ("data_particles\n\nloop_\n_rlnImageName #1\n", "lists no particles"),
        ("data_\n\nloop_\n_rlnTomoParticlesFile #1\n", "data_ has no rows"),
    ],
)
def test_what_is_no_list_is_refused(tmp_path, content, says):
    path = tmp_path / "x.star"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FormatError, match=says) as caught:
        read_particles(path)
    assert str(path) in str(caught.value)


def test_writing_into_no_folder_leaves_nothing(tmp_path):
    table = read_particles(stacks(tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(FormatError, match="does not exist"):
        write_particles(tmp_path / "nowhere" / "new.star", table)
    assert sorted(tmp_path.rglob("*")) == before


# Real data


@needs_ribosomes
def test_real_ribosomes_read_and_come_back(tmp_path):
    table = read_particles(RIBOSOMES / "optimisation_set.star")
    assert len(table) == 20
    ranges, counts = {}, {}
    for name, particle in zip(table.tomograms, table.particles(), strict=True):
        assert particle.box == 32
        assert particle.voxel_size_angstrom == 12.0
        counts.setdefault(name, set()).add(int(particle.used.sum()))
        beam = np.cross(particle.projections_xyz[:, 0], particle.projections_xyz[:, 1])[particle.used]  # (t, 3)
        beam *= np.sign(beam[:, 2:])
        tilt = -np.sign(beam[:, 0]) * np.degrees(np.arccos(beam[:, 2] / np.linalg.norm(beam, axis=1)))
        ranges[name] = [round(tilt.min(), 1), round(tilt.max(), 1)]
    assert counts == {"Unt_083.tomostar": {34}, "Unt_050.tomostar": {37}}
    assert ranges == {"Unt_083.tomostar": [-76.1, 46.6], "Unt_050.tomostar": [-60.6, 54.2]}
    written = write_particles(tmp_path / "particles.star", table)
    again = read_particles(written[1])
    assert_same_poses(again.poses, table.poses)
    assert tokens_of(written[0]) == tokens_of(RIBOSOMES / "particles.star")
    assert np.array_equal(again.load(13).images, table.load(13).images)


@needs_tables
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("cryocat_relion_3.0.star", {}),
        ("cryocat_relion_3.1_optics2.star", {}),
        ("cryocat_relion_4.0.star", {}),
        ("pytom_subtomo_format.star", {}),
        ("cryocat_warp2_particles_matching.star", {"tomograms_path": TABLES / "cryocat_warp2_matching_tomograms.star"}),
        ("cryocat_warp2_matching_optimisation_set.star", None),
        ("pyseg_relion_subtomo_particles.star", {"voxel_size_angstrom": 5.24}),
    ],
)
def test_lists_of_other_programs_keep_their_tokens(tmp_path, name, options):
    if options is None:
        with pytest.raises(FormatError, match=r"rlnTomoTomogramsFile names matching_tomograms\.star"):
            read_particles(TABLES / name)
        return
    table = read_particles(TABLES / name, **options)
    poses = Pose.random(len(table), rng=np.random.default_rng(6), max_shift_angstrom=9.0)
    write_particles(tmp_path / "new.star", table.with_poses(poses))
    # origins may be pixels: six decimals of up to 10 angstrom each
    again = read_particles(tmp_path / "new.star", **options).poses
    assert np.max(again.rotation_distance_deg(poses)) < ANGLE_TOLERANCE_DEG
    assert np.max(again.shift_distance_angstrom(poses)) < 10 * SHIFT_TOLERANCE_ANGSTROM
    assert tokens_of(tmp_path / "new.star") == tokens_of(TABLES / name)
