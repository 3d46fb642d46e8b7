"""Tilt files of every program say the same of one series, and give the particles of a list their wedges."""

from pathlib import Path

import numpy as np
import pytest

from gonio.io import FormatError, read_particles, write_simulated, write_volume
from gonio.io.ctf_images import centred_weights
from gonio.io.names import match, stem
from gonio.io.tilt_files import is_tilt_file, read_tilts
from gonio.io.wedges import read_tilts_of, with_tilts
from gonio.particle.pose import Pose
from gonio.particle.tilt_series import TiltSeries, Weighting
from gonio.particle.volume import Volume
from gonio.particle.wedge import WeightVolumeWedge

TABLES = Path(__file__).parents[3] / "shared" / "data" / "tables"
RIBOSOMES = TABLES.parent / "empiar10499"
needs_tables = pytest.mark.skipif(not TABLES.is_dir(), reason="shared/data/tables is not here")
needs_ribosomes = pytest.mark.skipif(not RIBOSOMES.is_dir(), reason="shared/data/empiar10499 is not here")
TILTS = np.array([-40.0, -20.0, 0.0, 20.5, 40.25])
DOSES = np.array([12.0, 6.0, 0.0, 3.0, 9.0])


def write_tlt(path, tilts=TILTS):
    path.write_text("".join(f"{tilt:8.2f}\n" for tilt in tilts) + "\n")
    return path


def write_mdoc(path, *, doses="PriorRecordDose", drop=""):
    lines = ["PixelSpacing = 1.9", "Voltage = 300", "ImageFile = a.mrc", "", "[T = SerialEM: made up]", ""]
    for i, (tilt, dose) in enumerate(zip(TILTS, DOSES, strict=True)):
        lines += [f"[ZValue = {i}]", f"TiltAngle = {tilt}", "Defocus = -1.5"]
        lines += [f"DateTime = 06-Jun-23  23:{int(dose):02d}:46"]
        lines += [f"PriorRecordDose = {dose}"] if doses == "PriorRecordDose" else []
        lines += ["ExposureDose = 3"] if doses == "ExposureDose" else []
        lines += ["ExposureDose = 0"] if doses == "nothing" else []
        lines += [""]
    path.write_text("\n".join(line for line in lines if line != drop))
    return path


def write_star(path, *, name="TS_01"):
    lines = [f"data_{name}", "", "loop_", "_rlnTomoXTilt #1", "_rlnTomoYTilt #2", "_rlnTomoZRot #3"]
    lines += ["_rlnMicrographPreExposure #4", "_rlnDefocusU #5", "_rlnDefocusV #6", "_rlnDefocusAngle #7"]
    lines += [f"0 {tilt} 85 {dose} 30000 29000 12" for tilt, dose in zip(TILTS, DOSES, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_wedge_list(path, *, numbers=(17, 18)):
    labels = ["tomo_num", "tilt_angle", "defocus", "exposure", "voltage", "amp_contrast", "cs"]
    lines = ["", "data_stopgap_wedgelist", "", "loop_", *(f"_{label}" for label in labels)]
    lines += [f"{n} {tilt} 3.0 {dose} 300 0.07 2.7" for n in numbers for tilt, dose in zip(TILTS, DOSES, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


WRITERS = {"TS_01.tlt": write_tlt, "TS_01.rawtlt": write_tlt, "TS_01.mrc.mdoc": write_mdoc, "TS_01.star": write_star}


@pytest.mark.parametrize("name", WRITERS)
def test_every_program_says_the_same_tilts(tmp_path, name):
    series = read_tilts(WRITERS[name](tmp_path / name))
    assert list(series) == ["TS_01"]
    one = series["TS_01"]
    assert np.allclose(one.tilts_deg, TILTS)
    assert one.axis_deg == pytest.approx(90.0)
    assert np.allclose(one.wedge(100.0).regions, TiltSeries.of_angles(tmp_path, TILTS).wedge(100.0).regions)
    assert is_tilt_file(tmp_path / name)


def test_a_wedge_list_holds_many_tomograms(tmp_path):
    series = read_tilts(write_wedge_list(tmp_path / "wedges.star"))
    assert list(series) == ["17", "18"]
    assert np.allclose(series["18"].tilts_deg, TILTS)
    assert np.allclose(series["18"].dose, DOSES)
    assert np.allclose(series["18"].defocus, [30000.0, 30000.0, 0.0])
    assert series["18"].optics.voltage_kv == 300.0


@pytest.mark.parametrize("doses", ["PriorRecordDose", "ExposureDose", "nothing"])
def test_the_dose_of_an_mdoc_is_what_came_before(tmp_path, doses):
    one = read_tilts(write_mdoc(tmp_path / "TS_01.mdoc", doses=doses))["TS_01"]
    if doses == "nothing":
        assert one.dose is None
    else:
        assert np.allclose(one.dose, DOSES)
        assert list(one.order) == [2, 3, 1, 4, 0]


def test_a_star_file_says_dose_and_defocus(tmp_path):
    one = read_tilts(write_star(tmp_path / "a.star"))["TS_01"]
    assert np.allclose(one.dose, DOSES)
    assert np.allclose(one.defocus[0], [30000.0, 29000.0, 12.0])


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.tlt", "", "is empty"),
        ("a.tlt", "1.0\n2.0 3.0\n", "line 2 is '2.0 3.0', not one angle"),
        ("a.tlt", "1.0\n\nten\n", "line 3 is 'ten'"),
        ("a.tlt", "1.0\n95\n", "tilt 2 is 95 degrees"),
        ("a.tlt", "1.0\nnan\n", "tilt 2 is nan"),
        ("a.mdoc", "[ZValue = 0]\nVoltage = 3\n", "section at line 1 has TiltAngle = None"),
        ("a.mdoc", "[ZValue = 0]\nTiltAngle = 3\n[ZValue = 1]\nTiltAngle = x\n", "line 3 has TiltAngle = 'x'"),
        ("a.star", "data_x\n\nloop_\n_rlnA #1\n1\n", "neither rlnTomoProjX"),
        ("a.star", "data_x\n\nloop_\n_rlnTomoYTilt #1\n_rlnTomoZRot #2\n1 y\n", "holds 'y' in row 1"),
        ("a.star", "data_global\n\nloop_\n_rlnTomoName #1\n_rlnTomoHand #2\nT 1\n", "neither a block data_T"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=says) as caught:
        read_tilts(tmp_path / name)
    assert name in str(caught.value)


def test_bytes_are_no_tilts(tmp_path):
    (tmp_path / "a.tlt").write_bytes(bytes(range(128, 256)))
    with pytest.raises(FormatError, match=r"a\.tlt"):
        read_tilts(tmp_path / "a.tlt")
    assert not is_tilt_file(tmp_path / "a.tlt")
    assert not is_tilt_file(tmp_path / "none.tlt")


# Names


@pytest.mark.parametrize(
    ("tomogram", "files", "expected"),
    [
        ("TS_01", ["TS_01.tlt", "TS_011.tlt"], 0),
        ("TS_1.tomostar", ["rec_TS_11_10.00Apx.mrc", "rec_TS_1_10.00Apx.mrc"], 1),
        ("tomo/a.mrc", ["x/a_2.tlt", "y/a.rawtlt"], 1),
        ("TS_01_bin4.rec", ["TS_01.mdoc", "TS_02.mdoc"], 0),
        ("17", ["tomo_018.rec", "tomo_017.rec.gz"], 1),
        ("whatever", ["other.tlt"], 0),
    ],
)
def test_names_find_their_files(tomogram, files, expected):
    assert match([tomogram], files) == {tomogram: files[expected]}


@pytest.mark.parametrize(
    ("files", "says"), [(["a.tlt", "b.tlt"], "no file is that of"), (["T.tlt", "T.rawtlt"], "may be T.tlt or T.rawtlt")]
)
def test_names_that_fit_none_or_two_say_so(files, says):
    with pytest.raises(ValueError, match=says):
        match(["T"], files)


def test_stems_lose_all_endings():
    assert [stem(name) for name in ("a/TS_1.mrc.mdoc", "TS_1.ome.zarr/", "TS_1.rec.gz", ".mrc")] == [
        "TS_1",
        "TS_1",
        "TS_1",
        ".mrc",
    ]


# Wedges of lists


def subtomograms(folder, *, names=("TS_01", "TS_02"), turned=None):
    rng = np.random.default_rng(4)
    paths = []
    for i in range(4):
        paths.append(folder / f"map{i}.mrc")
        write_volume(paths[-1], Volume(rng.normal(size=(8, 8, 8)), 10.0))
    poses = Pose.random(4, rng=rng)
    write_simulated(folder / "list.star", poses, paths, voxel_size_angstrom=10.0, box=8, tilt_range_deg=(-60, 60))
    lines = (folder / "list.star").read_text().splitlines()
    for i, line in enumerate(lines):
        if line.startswith("simulated\t"):
            place = int(line.split("simulated/")[1].split()[0])
            lines[i] = line.replace("simulated\t", f"{names[place % len(names)]}\t", 1)
            if turned is not None:
                lines[i] += "\t" + "\t".join(map(str, turned))
        if turned is not None and line.startswith("_rlnRandomSubset"):
            lines[i] += "".join(f"\n_rlnTomoSubtomogram{a} #{20 + j}" for j, a in enumerate(("Rot", "Tilt", "Psi")))
    (folder / "list.star").write_text("\n".join(lines) + "\n")
    return folder / "list.star"


def test_every_particle_has_the_wedge_of_its_tomogram(tmp_path):
    other = TILTS + 10
    write_tlt(tmp_path / "TS_01.tlt")
    write_tlt(tmp_path / "TS_02.tlt", other)
    table = with_tilts(read_particles(subtomograms(tmp_path)), [tmp_path / "TS_02.tlt", tmp_path / "TS_01.tlt"])
    for index, tomogram in enumerate(table.tomograms):
        tilts = TILTS if tomogram == "TS_01" else other
        assert table.load(index).wedge == TiltSeries.of_angles(tmp_path, tilts).wedge(80.0)
    chosen = table[[3, 1]]
    assert chosen.load(0).wedge == table.load(3).wedge


def test_a_folder_of_tilt_files_is_enough(tmp_path):
    (tmp_path / "tilts").mkdir()
    write_tlt(tmp_path / "tilts" / "TS_01.tlt")
    write_star(tmp_path / "tilts" / "b.star", name="TS_02")
    (tmp_path / "tilts" / "README").write_text("of the tilts")
    assert sorted(read_tilts_of([tmp_path / "tilts"])) == ["TS_01", "TS_02"]
    table = with_tilts(read_particles(subtomograms(tmp_path)), [tmp_path / "tilts"])
    assert len(table.load(0).wedge.regions) == len(TILTS)
    (tmp_path / "none").mkdir()
    with pytest.raises(FormatError, match="has no tilt file"):
        read_tilts_of([tmp_path / "none"])


def test_a_wedge_may_be_weighted_by_the_dose(tmp_path):
    path = subtomograms(tmp_path, names=("17", "18"))
    wedges = write_wedge_list(tmp_path / "w.star")
    table = with_tilts(read_particles(path), [wedges], weighting="dose")
    wedge = table.load(0).wedge
    assert isinstance(wedge, WeightVolumeWedge)
    assert np.array_equal(wedge.weights, read_tilts(wedges)["17"].weights(8, 10.0, Weighting.DOSE).weights)
    assert table.load(2).wedge is table.load(0).wedge  # of one tomogram
    assert not np.array_equal(
        with_tilts(read_particles(path), [wedges], weighting="ctf").load(0).wedge.weights, wedge.weights
    )


def test_a_box_that_was_cut_out_turned_has_its_planes_turned(tmp_path):
    write_tlt(tmp_path / "T.tlt")
    angles = (30.0, 50.0, -20.0)
    table = with_tilts(read_particles(subtomograms(tmp_path, names=("T",), turned=angles)), [tmp_path / "T.tlt"])
    turn = Pose.from_euler_zyz_deg(np.array(angles), np.zeros(3)).rotation.inv()  # A_s^T, from box to tomogram
    k = np.random.default_rng(1).normal(size=(500, 3)) * 0.03
    expected = TiltSeries.of_angles(tmp_path, TILTS).wedge(80.0).weight_at(turn.apply(k))
    assert np.array_equal(table.load(0).wedge.weight_at(k), expected)


@pytest.mark.parametrize(
    ("files", "weighting", "says"),
    [
        ({"TS_01.tlt": write_tlt, "b.tlt": write_tlt}, "plain", "no file is that of tomogram 'TS_02'"),
        ({"TS_01.tlt": write_tlt, "TS_02.tlt": write_tlt}, "dose", r"TS_0.\.tlt: does not state the dose"),
        ({"TS_01.mdoc": write_mdoc, "TS_02.mdoc": write_mdoc}, "ctf", "does not state the defocus"),
        ({"TS_01.tlt": write_tlt, "TS_01.mdoc": write_mdoc}, "plain", "has the tilt series 'TS_01', as has"),
    ],
)
def test_tilt_files_that_do_not_fit_the_list_say_so(tmp_path, files, weighting, says):
    paths = [write(tmp_path / name) for name, write in files.items()]
    with pytest.raises(FormatError, match=says):
        with_tilts(read_particles(subtomograms(tmp_path)), paths, weighting=weighting)


@needs_ribosomes
def test_stacks_have_their_tilts_already():
    table = read_particles(RIBOSOMES / "particles.star")
    with pytest.raises(ValueError, match="2-D stacks"):
        with_tilts(table, [RIBOSOMES / "tomograms.star"])


# What other programs wrote; the numbers were read off the files by hand.


@needs_tables
@pytest.mark.parametrize(
    ("name", "series", "count", "first", "last", "dose"),
    [
        ("cryocat_018.mdoc", "cryocat_018", 60, -52.0064, 65.9732, (134.379, 127.663)),
        ("cryocat_relion5_TS_01_tilt.star", "TS_01", 40, None, None, (114.0, None)),
        ("cryocat_wedge_list.star", "17", 60, -52.0099983215332, None, None),
        ("susan_mixedCTEM_tomo1.tlt", "susan_mixedCTEM_tomo1", None, -60.08, None, None),
        ("cryocat_warp2_matching_tomograms.star", "TS_17.tomostar", 41, -40.0, None, (119.6, None)),
    ],
)
def test_files_of_other_programs_are_read(name, series, count, first, last, dose):
    one = read_tilts(TABLES / name)[series]
    assert count is None or len(one) == count
    assert first is None or abs(one.tilts_deg[0] - first) < 0.05
    assert last is None or abs(one.tilts_deg[-1] - last) < 0.05
    if dose is not None:
        assert one.dose[0] == dose[0]
        assert dose[1] is None or one.dose[-1] == dose[1]
    assert one.axis_deg == pytest.approx(90.0, abs=1.5)


# Weights of RELION


@pytest.mark.parametrize("box", [8, 9])
@pytest.mark.parametrize("layout", ["half", "half with multiplicity", "whole", "whole with multiplicity"])
def test_relions_weights_are_centred(box, layout):
    """The weight of the wave (kx, ky, kz) stands at its place, and at that of its Friedel mate."""
    density = np.random.default_rng(1).normal(size=(box,) * 3)
    power = (np.abs(np.fft.rfftn(density)) ** 2).astype(np.float32)  # (kz, ky, kx >= 0), zero in the corner
    true = np.fft.fftshift(np.abs(np.fft.fftn(density)) ** 2).astype(np.float32)
    given = power if layout.startswith("half") else true
    given = np.concatenate([given, np.full_like(given, 7)]) if layout.endswith("multiplicity") else given
    assert np.allclose(centred_weights(given, box), true, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", [(8, 8, 4), (8, 8), (16, 8, 8, 1), (9, 8, 5)])
def test_weights_of_other_shapes_are_refused(shape):
    with pytest.raises(ValueError, match="do not fit a particle of 8 voxels"):
        centred_weights(np.ones(shape, np.float32), 8)
