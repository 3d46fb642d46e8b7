"""Subtomograms that are cut at listed places show their particle in the middle, in the listed orientation."""

import sys
import tomllib
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import gonio
from gonio.cli.app import run
from gonio.fourier.transform import centred_fft, centred_ifft, low_passed
from gonio.io import read_particles, read_volume, write_volume
from gonio.io.blocks import read_star
from gonio.io.wedges import with_tilts
from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, mirrored_volume
from gonio.simulate import Phantom

VOXEL, BOX = 10.0, 20
SHAPES = {"TS_01": (44, 70, 92), "TS_02": (40, 61, 71)}  # z, y, x; one with odd edges
UNBINNED = 2.5


@pytest.fixture(autouse=True)
def plainly(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])


def phantom():
    return Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)


def places(shape, rng):
    """Well inside, apart from each other, between voxels; zyx in voxels from the first."""
    z, y, x = (np.arange(16, n - 15, 24) for n in shape)
    grid = np.stack(np.meshgrid(z, y, x, indexing="ij"), axis=-1).reshape(-1, 3)
    return grid + rng.uniform(-1, 1, grid.shape)


def paint(shape, spots, poses):
    tomogram = np.zeros(np.array(shape) + 40, np.float32)  # a border to paint over
    for spot, pose in zip(spots, poses, strict=True):
        near = np.round(spot).astype(int)
        shift = ((spot - near) * VOXEL)[::-1]
        particle = phantom().density(Pose(pose.rotation, shift), box=32, voxel_size_angstrom=VOXEL)
        low = near - 16 + 20
        tomogram[tuple(slice(a, a + 32) for a in low)] += particle
    return tomogram[20:-20, 20:-20, 20:-20]


def write_list(path, rows, *, centred):
    kind = "CenteredCoordinate{}Angst" if centred else "Coordinate{}"
    labels = ["TomoName", "TomoParticleName", *(kind.format(a) for a in "XYZ"), "AngleRot", "AngleTilt", "AnglePsi"]
    labels += ["OriginXAngst", "OriginYAngst", "OriginZAngst", "OpticsGroup", "RandomSubset", "ClassNumber", "Note"]
    lines = ["data_optics", "", "loop_", "_rlnOpticsGroup #1", "_rlnVoltage #2", "_rlnTomoTiltSeriesPixelSize #3"]
    lines += [f"1 300 {UNBINNED}", "", "data_particles", "", "loop_"]
    lines += [f"_rln{label} #{i}" for i, label in enumerate(labels, 1)]
    for i, (name, spot, pose, origin) in enumerate(rows):
        size = np.array(SHAPES[name])
        at = (spot - size / 2)[::-1] * VOXEL + origin if centred else (spot[::-1] * VOXEL + origin) / UNBINNED
        angles = Pose(pose.rotation.inv(), np.zeros(3)).euler_zyz_deg()
        numbers = " ".join(f"{value:.6f}" for value in (*at, *angles, *origin))
        lines.append(f"{name} {name}/{i} {numbers} 1 {1 + i % 2} 3 kept{i}")
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Two dark tomograms, lists of their particles in both kinds of coordinates, and the reference."""
    folder, rng, rows = tmp_path_factory.mktemp("scene"), np.random.default_rng(6), []
    for name, shape in SHAPES.items():
        spots = places(shape, rng)
        poses = Pose.random(len(spots), rng=rng)
        volume = paint(shape, spots, [poses[i] for i in range(len(spots))])
        with mrcfile.new(folder / f"rec_{name}_10.00Apx.mrc") as mrc:
            mrc.set_data(-volume)
            mrc.set_volume()
            mrc.voxel_size = VOXEL
        rows += [(name, spot, poses[i], rng.uniform(-15, 15, 3)) for i, spot in enumerate(spots)]
    write_list(folder / "centred.star", rows, centred=True)
    write_list(folder / "corner.star", rows, centred=False)
    write_volume(folder / "reference.mrc", reference())
    return folder, rows


def reference(box=BOX, voxel=VOXEL):
    return Volume(phantom().density(Pose.identity(), box=box, voxel_size_angstrom=voxel), voxel)


def words(folder, out, *more, particles="centred.star", tomograms=("rec_TS_01_10.00Apx.mrc", "rec_TS_02_10.00Apx.mrc")):
    inputs = [str(folder / name) for name in (*tomograms, particles)]
    return ["extract", *inputs, "-o", str(out), "--box", str(BOX), "--invert", "--threads", "1", *more]


@pytest.mark.parametrize("particles", ["centred.star", "corner.star"])
def test_particles_are_in_the_middle_in_their_orientation(scene, tmp_path, particles):
    folder, rows = scene
    more = ("--normalise", "none", "--tilt-range", "-90", "90")
    assert run(words(folder, tmp_path / "out", *more, particles=particles)) == 0
    table = read_particles(tmp_path / "out" / "particles.star")
    true = Pose.stack([row[2] for row in rows])
    assert not table.poses.shift_angstrom.any()
    assert np.max(table.poses.rotation_distance_deg(true)) < 1e-4
    aligner = gonio.Aligner(reference(), gonio.Settings(resolution_angstrom=30.0, search="local"))
    for index in range(len(table)):
        found = aligner.align(table.load(index), rng=np.random.default_rng(0), start=true[index]).pose
        assert float(found.rotation_distance_deg(true[index])) < 0.05
        assert np.abs(found.shift_angstrom).max() / VOXEL < 0.02


def test_the_list_keeps_what_it_had(scene, tmp_path):
    folder, rows = scene
    assert run(words(folder, tmp_path / "out")) == 0
    block = read_star(tmp_path / "out" / "particles.star").find("particles")
    assert block.text("rlnNote") == tuple(f"kept{i}" for i in range(len(rows)))
    assert block.text("rlnClassNumber") == ("3",) * len(rows)
    assert block.text("rlnRandomSubset") == tuple(str(1 + i % 2) for i in range(len(rows)))
    at = block.vectors([f"rlnCenteredCoordinate{a}Angst" for a in "XYZ"])
    expected = [(spot - np.array(SHAPES[name]) / 2)[::-1] * VOXEL for name, spot, _, _ in rows]
    assert np.allclose(at, expected, atol=1e-4)
    optics = read_star(tmp_path / "out" / "particles.star").find("optics")
    assert optics.numbers("rlnVoltage") == [300]
    assert optics.numbers("rlnImagePixelSize") == [VOXEL]
    assert optics.numbers("rlnTomoSubtomogramBinning") == [VOXEL / UNBINNED]
    settings = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())
    assert settings["settings"]["contrast"] == "flipped"


def test_binned_boxes_show_the_same_particle(scene, tmp_path):
    folder, rows = scene
    assert run(words(folder, tmp_path / "out", "--bin", "2", "--box", "12", "--normalise", "none")) == 0
    table = read_particles(tmp_path / "out" / "particles.star", tilt_range_deg=(-90, 90))
    for index in (0, len(rows) - 1):
        cut = table.load(index).volume
        assert (cut.box, cut.voxel_size_angstrom) == (12, 2 * VOXEL)
        turned = Pose(rows[index][2].rotation, np.zeros(3))
        fine = phantom().density(turned, box=24, voxel_size_angstrom=VOXEL)
        true = np.zeros((12, 12, 12), complex)
        true[1:, 1:, 1:] = centred_fft(fine)[7:18, 7:18, 7:18]
        true = Volume(centred_ifft(true).real / 8, 2 * VOXEL)
        one, other = (low_passed(volume, resolution_angstrom=60.0).data for volume in (cut, true))
        assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.999


def test_contrast_and_scale_are_as_asked(scene, tmp_path):
    folder, _ = scene
    assert run(words(folder, tmp_path / "box", "--normalise", "box")) == 0
    assert run(words(folder, tmp_path / "half", "--normalise", "box", "--float16")) == 0
    dark = [word for word in words(folder, tmp_path / "dark", "--normalise", "none") if word != "--invert"]
    assert run(dark) == 0
    scaled, half, plain = (
        read_volume(tmp_path / kind / "subtomograms" / "TS_01" / "000001.mrc").data for kind in ("box", "half", "dark")
    )
    assert scaled.mean() == pytest.approx(0, abs=1e-5)
    assert scaled.std() == pytest.approx(1, abs=1e-5)
    assert np.allclose(half, scaled, atol=1e-2)
    assert np.corrcoef(scaled.ravel(), plain.ravel())[0, 1] == pytest.approx(-1, abs=1e-5)


def test_workers_make_the_same_files(scene, tmp_path):
    folder, _ = scene
    assert run(words(folder, tmp_path / "one")) == 0
    assert run(words(folder, tmp_path / "two", "--threads", "2")) == 0
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.mrc"))
    assert len(files) == len(scene[1])
    for file in files:
        one, two = (mrcfile.read(tmp_path / kind / file) for kind in ("one", "two"))
        assert np.array_equal(one, two)


def test_wedges_of_tilt_files_come_with_the_particles(scene, tmp_path):
    folder, _ = scene
    for name, tilts in (("TS_01", range(-60, 61, 3)), ("TS_02", range(-40, 51, 3))):
        (tmp_path / f"{name}.tlt").write_text("\n".join(map(str, tilts)))
    assert (
        run(words(folder, tmp_path / "out", "--tilts", f"{tmp_path}/TS_01.tlt", "--tilts", f"{tmp_path}/TS_02.tlt"))
        == 0
    )
    table = read_particles(tmp_path / "out" / "particles.star")
    one, two = table.load(0).wedge, table.load(len(table) - 1).wedge
    at = 5 * np.array([[np.cos(np.radians(-54)), 0, np.sin(np.radians(-54))]]) / (BOX * VOXEL)
    assert one.weight_at(at)[0] > 0.5
    assert two.weight_at(at)[0] == 0


@pytest.mark.parametrize("particles", ["centred.star", "corner.star"])
def test_reversed_tilts_give_the_tomogram_s_mirror_image(scene, tmp_path, capsys, particles):
    folder, rows = scene
    more = ("--normalise", "none", "--tilt-range", "-40", "60", "--reverse-tilts")
    assert run(words(folder, tmp_path / "out", *more, particles=particles)) == 0
    assert "mirror image in z" in capsys.readouterr().out
    settings = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())
    assert settings["settings"]["tilt_sense"] == "reversed"
    table = read_particles(tmp_path / "out" / "particles.star")
    flip = np.diag([1.0, 1.0, -1.0])
    expected = [flip @ (spot - np.array(SHAPES[name]) / 2)[::-1] * VOXEL for name, spot, _, _ in rows]
    assert np.allclose(table.coordinates_angstrom, expected, atol=1e-4)
    other_hand = mirrored_volume(reference(), axis=0)
    aligner = gonio.Aligner(other_hand, gonio.Settings(resolution_angstrom=30.0, search="local"))
    for index, (_, _, pose, _) in enumerate(rows):
        np.testing.assert_allclose(table.poses.matrix[index], flip @ pose.matrix @ flip, atol=1e-5)
        particle = table.load(index)
        assert (particle.wedge.tilt_min_deg, particle.wedge.tilt_max_deg) == (-60.0, 40.0)
        found = aligner.align(particle, rng=np.random.default_rng(0), start=table.poses[index])
        assert float(found.pose.rotation_distance_deg(table.poses[index])) < 0.05
        assert np.abs(found.pose.shift_angstrom).max() / VOXEL < 0.02


def test_weights_of_reversed_tilts_are_mirrored(scene, tmp_path):
    folder, _ = scene
    tilts = [tmp_path / f"{name}.tlt" for name in SHAPES]
    for path in tilts:
        path.write_text("\n".join(map(str, range(-40, 51, 3))))
    for out, more in (("plain", ()), ("reversed", ("--reverse-tilts",))):
        given = (word for path in tilts for word in ("--tilts", str(path)))
        assert run(words(folder, tmp_path / out, *given, *more)) == 0
    plain, mirrored = (read_particles(tmp_path / out / "particles.star").load(0).wedge for out in ("plain", "reversed"))
    rng = np.random.default_rng(0)
    frequency = rng.integers(-BOX // 2 + 1, BOX // 2, (200, 3)) / (BOX * VOXEL)
    assert 0.2 < plain.weight_at(frequency).mean() < 0.9
    np.testing.assert_array_equal(mirrored.weight_at(frequency * [1, 1, -1]), plain.weight_at(frequency))


def write_tomograms(path, hand):
    """Tilts every 10 degrees about y, a defocus for each, as RELION lists them."""
    lines = ["data_global", "", "loop_", "_rlnTomoName", "_rlnTomoHand", "_rlnVoltage", "_rlnSphericalAberration"]
    lines += ["_rlnAmplitudeContrast", *(f"{name} {hand} 300 2.7 0.07" for name in SHAPES), ""]
    for name in SHAPES:
        lines += [f"data_{name}", "", "loop_", "_rlnTomoXTilt", "_rlnTomoYTilt", "_rlnTomoZRot"]
        lines += ["_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle"]
        lines += [f"0 {tilt} 0 {DEFOCUS} {DEFOCUS} 0" for tilt in range(-60, 61, 10)] + [""]
    path.write_text("\n".join(lines))


DEFOCUS = 30_000.0


@pytest.mark.parametrize("hand", [1, -1])
def test_weights_have_the_defocus_of_their_particle_s_depth(scene, tmp_path, hand):
    """Of the untilted image, at k along x: the CTF of the height, for particles high and low in their tomogram."""
    folder, rows = scene
    write_tomograms(tmp_path / "tomograms.star", hand)
    heights = (-200.0, 200.0, 0.0)
    at = [np.array(SHAPES["TS_01"]) / 2 + [height / VOXEL, 0, 0] for height in heights]
    write_list(tmp_path / "list.star", [("TS_01", spot, rows[0][2], np.zeros(3)) for spot in at], centred=True)
    given = ["extract", f"{folder}/rec_TS_01_10.00Apx.mrc", f"{tmp_path}/list.star", "--box", str(BOX)]
    given += ["--edge", "pad", "--tilts", f"{tmp_path}/tomograms.star", "--tilt-weights", "ctf"]
    assert run([*given, "-o", f"{tmp_path}/out"]) == 0
    written = read_particles(tmp_path / "out" / "particles.star")
    read = with_tilts(written, [tmp_path / "tomograms.star"], weighting="ctf")
    k = np.array([[7.0, 0, 0]]) / (BOX * VOXEL)  # 1.2 samples from the next tilts' planes
    for i, height in enumerate(heights):
        defocus = DEFOCUS + hand * height
        expected = np.abs(Ctf(defocus, defocus, 0.0, 300.0, 2.7, 0.07).transfer(k[:, :2]))
        for table in (written, read):
            np.testing.assert_allclose(table.load(i).wedge.weight_at(k), expected, atol=1e-5)


def scene_at_the_edge(scene, tmp_path):
    """The list with its first particle at the edge of the tomogram."""
    folder, rows = scene
    name, _, pose, origin = rows[0]
    write_list(tmp_path / "edge.star", [(name, np.array([3.0, 30, 30]), pose, origin), *rows[1:]], centred=True)
    return ["extract", *(str(folder / f"rec_{n}_10.00Apx.mrc") for n in SHAPES), str(tmp_path / "edge.star")]


def test_boxes_at_the_edge_are_told(scene, tmp_path, capsys):
    start = scene_at_the_edge(scene, tmp_path)
    assert run([*start, "--box", "20", "-o", str(tmp_path / "pad")]) == 0
    assert "filled with their mean where they stick out: 'TS_01/0' (" in capsys.readouterr().out
    table = read_particles(tmp_path / "pad" / "particles.star")
    assert table.columns["outside"][0] == pytest.approx(7 / 20)
    assert not table.columns["outside"][1:].any()
    assert run([*start, "--box", "20", "--edge", "skip", "-o", str(tmp_path / "skip")]) == 0
    assert "left out, as their boxes stick out: 'TS_01/0'\n" in capsys.readouterr().out
    assert read_particles(tmp_path / "skip" / "particles.star").names == table.names[1:]
    assert run([*start, "--box", "20", "--edge", "refuse", "-o", str(tmp_path / "refuse")]) == 2
    assert "'TS_01/0' stick out" in capsys.readouterr().err
    assert not (tmp_path / "refuse").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("--edge", "cut"), "--edge must be one of pad, skip, refuse"),
        (("--centre", "here"), "--centre must be one of size/2"),
        (("--normalise", "some"), "--normalise must be one of"),
        (("--diameter", "9000"), "leaves nothing of a box"),
        (("--voxel-size", "1"), "lie outside of the tomogram"),
        (("--tilts", "none.tlt"), "no such file"),
        (("--tilts", "none.tlt", "--tilt-range", "-60", "60"), "exclude each other"),
        (("--tilt-range", "60", "-60"), "tilt range"),
        (("--tilt-axis", "0"), "--tilt-axis has no meaning without --tilt-range"),
        (("--tilts", "none.tlt", "--tilt-axis", "85"), "--tilt-axis has no meaning without --tilt-range"),
    ],
)
def test_what_does_not_fit_is_one_line_and_leaves_nothing(scene, tmp_path, capsys, change, says):
    folder, _ = scene
    assert run(words(folder, tmp_path / "out", *change)) == 2
    told = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in told if line.startswith("gonio: error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert list(tmp_path.iterdir()) == []


def spoilt(folder, tmp_path, kind):
    tomograms = [str(folder / f"rec_{name}_10.00Apx.mrc") for name in SHAPES]
    particles = folder / "centred.star"
    if kind == "one tomogram":
        tomograms = tomograms[:1]
    elif kind == "other voxels":
        with mrcfile.new(tmp_path / "rec_TS_02.mrc") as mrc:
            mrc.set_data(np.zeros(SHAPES["TS_02"], np.float32))
            mrc.voxel_size = 5.0
        tomograms[1] = str(tmp_path / "rec_TS_02.mrc")
    elif kind in ("constant", "nan"):
        data = np.zeros(SHAPES["TS_02"], np.float32)
        data[::2] = np.nan if kind == "nan" else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # mrcfile's, of what is spoilt on purpose
            with mrcfile.new(tmp_path / "rec_TS_02.mrc") as mrc:
                mrc.set_data(data)
                mrc.voxel_size = VOXEL
        tomograms[1] = str(tmp_path / "rec_TS_02.mrc")
    elif kind == "no places":
        text = (folder / "centred.star").read_text().replace("rlnCenteredCoordinate", "rlnElsewhere")
        (tmp_path / "list.star").write_text(text)
        particles = tmp_path / "list.star"
    return [
        "extract",
        *tomograms,
        str(particles),
        "--box",
        "20",
        "--threads",
        "1",
        "-o",
        str(tmp_path / "out" / "deep"),
    ]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("one tomogram", "no file is that of tomogram 'TS_02'"),
        ("other voxels", "has voxels of 5 angstrom"),
        ("constant", "particle 'TS_02/"),
        ("nan", "NaN or infinite in ["),
        ("no places", "states no positions"),
    ],
)
def test_broken_inputs_are_one_line_and_leave_nothing(scene, tmp_path, capsys, kind, says):
    command = spoilt(scene[0], tmp_path, kind)
    assert run(command) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gonio: error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert not (tmp_path / "out").exists()


def test_a_folder_that_may_not_be_written_to_is_told(scene, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert run(words(scene[0], tmp_path / "file" / "out")) == 2
    assert "is a file, not a folder" in capsys.readouterr().err
    assert Path(tmp_path / "file").is_file()
