"""Lists and files that were once read wrong, each with the right value, worked out by hand.

Each stands for a kind. The files are small and made here as the programs named wrote them.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.spatial.transform import Rotation

from gonio.cli.app import run
from gonio.io import FormatError, read_volume, write_volume
from gonio.io.blocks import read_star
from gonio.io.em import write_em
from gonio.io.formats import format_of
from gonio.io.lists import read_with
from gonio.io.maps import read_map
from gonio.io.source import ReadOptions
from gonio.io.tilt_files import is_tilt_file, read_tilts
from gonio.io.tomogram import open_tomogram
from gonio.particle import half_sets
from gonio.particle.volume import Volume, correlation

CASES = Path(__file__).parents[3] / "shared" / "cases"
RIBOSOMES = Path(__file__).parents[3] / "shared" / "data" / "empiar10499"


def star(path: Path, *blocks: str | tuple[str, dict[str, list[str]]]) -> Path:
    """Write a STAR file: blocks that are text already, or loops of columns by label."""
    text = []
    for block in blocks:
        if isinstance(block, str):
            text.append(block)
            continue
        name, columns = block
        labels = "".join(f"_{label} #{i}\n" for i, label in enumerate(columns, 1))
        rows = "".join(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))
        text.append(f"data_{name}\n\nloop_\n{labels}{rows}")
    path.write_text("\n".join(text))
    return path


def read(path: Path, **said):
    return read_with(path, ReadOptions(may_count_pixels=True, **said))


def table(path: Path) -> list[list[float]]:
    """The rows of a Dynamo table."""
    return [[float(word) for word in line.split()] for line in path.read_text().splitlines()]


# WarpTools: lists of 2-D stacks count pixels of the images

WARP_OPTICS = {
    "rlnOpticsGroup": ["1"],
    "rlnTomoTiltSeriesPixelSize": ["0.78940"],
    "rlnTomoSubtomogramBinning": ["5.06714"],
    "rlnImagePixelSize": ["4.00000"],
    "rlnImageSize": ["64"],
}
WARP_PARTICLES = {
    "rlnTomoName": ["TS_A.tomostar"],
    "rlnCoordinateX": ["354.242"],
    "rlnCoordinateY": ["397.132"],
    "rlnCoordinateZ": ["75.828"],
    "rlnAngleRot": ["67.5"],
    "rlnAngleTilt": ["11.716"],
    "rlnAnglePsi": ["187.5"],
    "rlnTomoParticleName": ["TS_A/1"],
    "rlnOpticsGroup": ["1"],
    "rlnImageName": ["TS_A/000001.mrcs"],
    "rlnOriginXAngst": ["0.0"],
    "rlnOriginYAngst": ["0.0"],
    "rlnOriginZAngst": ["0.0"],
}
WARP_TOMOGRAMS = {
    "rlnTomoName": ["TS_A.tomostar"],
    "rlnTomoSizeX": ["4400"],
    "rlnTomoSizeY": ["6000"],
    "rlnTomoSizeZ": ["1000"],
    "rlnTomoTiltSeriesPixelSize": ["0.78940"],
}
PLACE = np.array([354.242, 397.132, 75.828]) * 4.0  # angstrom
CENTRE = np.array([4400, 6000, 1000]) / 2 * 0.7894


@pytest.fixture
def warp(tmp_path) -> Path:
    general = "data_general\n\n_rlnTomoSubTomosAre2DStacks 1\n"
    star(tmp_path / "matching_tomograms.star", ("global", WARP_TOMOGRAMS))
    return star(tmp_path / "matching.star", general, ("optics", WARP_OPTICS), ("particles", WARP_PARTICLES))


@pytest.mark.parametrize("series_pixel", ["0.78940", "4.00000"])
def test_stacks_of_warptools_count_pixels_of_the_images_before_and_after_july_2026(warp, series_pixel):
    warp.write_text(warp.read_text().replace("0.78940", series_pixel))
    assert np.allclose(read(warp).coordinates_angstrom, [PLACE], atol=1e-9)


def test_positions_of_warptools_stacks_are_the_same_place_in_every_format(warp, tmp_path):
    tomograms = ["--tomograms", str(tmp_path / "matching_tomograms.star")]
    assert run(["convert", str(warp), str(tmp_path / "a.tbl")]) == 0
    row = table(tmp_path / "a.tbl")[0]
    assert row[23:26] == [355.242, 398.132, 76.828] and row[35] == 4.0
    for name in ("relion4", "relion3.1", "relion3.0", "warp", "csv"):
        path = tmp_path / f"{name}.{'csv' if name == 'csv' else 'star'}"
        assert run(["convert", str(warp), str(path), "--to", name]) == 0
        assert np.allclose(read(path).coordinates_angstrom, [PLACE], atol=1e-4), name
    pytest.importorskip("mrcfile")
    assert run(["convert", str(warp), str(tmp_path / "a.lst"), *tomograms]) == 0
    again = read(tmp_path / "a.lst")
    assert np.allclose(again.coordinates_angstrom, [PLACE - CENTRE], atol=1e-4)
    assert again.pixel_sizes_angstrom.tolist() == [4.0]


def test_a_list_that_counts_pixels_of_the_tilt_series_still_does(tmp_path):
    """RELION 4, 3-D: the same columns, and no stacks."""
    path = star(tmp_path / "relion4.star", ("optics", WARP_OPTICS), ("particles", WARP_PARTICLES))
    assert np.allclose(read(path).coordinates_angstrom, [PLACE / 4 * 0.7894], atol=1e-9)


# RELION 5: centred coordinates are angstrom, whatever the pixel

PICKS = {
    "rlnCenteredCoordinateXAngst": ["100.5", "-1500.0"],
    "rlnCenteredCoordinateYAngst": ["-200.25", "2500.0"],
    "rlnCenteredCoordinateZAngst": ["50.125", "-300.0"],
    "rlnAngleRot": ["10.0", "-170.0"],
    "rlnAngleTilt": ["20.0", "120.0"],
    "rlnAnglePsi": ["30.0", "95.0"],
    "rlnLCCmax": ["0.41", "0.35"],
    "rlnDetectorPixelSize": ["13.79", "13.79"],
    "rlnTomoName": ["tomo200528_107", "tomo200528_107"],
}
SIZE = ["--tomogram-size", "4000", "4000", "2000"]


@pytest.mark.parametrize("block", ["", "particles"])
def test_picks_of_relion_5_are_angstrom_whatever_the_pixel(tmp_path, capsys, block):
    picks, out = star(tmp_path / "picks.star", (block, PICKS)), tmp_path / "a"
    known = ["--pixel-size", "1.724"]
    assert run(["convert", str(picks), f"{out}.tbl", *SIZE, *known]) == 0
    assert table(tmp_path / "a.tbl")[0][23] == pytest.approx(4000 / 2 + 100.5 / 1.724 + 1, abs=1e-5)
    assert run(["convert", str(picks), f"{out}.lst", *known]) == 0
    lst = read(tmp_path / "a.lst")
    assert lst.pixel_sizes_angstrom[0] == 1.724 and lst.coordinates_angstrom[0, 0] == pytest.approx(100.5, abs=1e-5)
    for target, words in (("b.tbl", SIZE), ("b.lst", []), ("b.star", ["--to", "relion4", *SIZE])):
        capsys.readouterr()
        assert run(["convert", str(picks), str(tmp_path / target), *words]) == 2
        assert "does not state the size of its pixels" in (said := capsys.readouterr().err) and "--pixel-size" in said
    assert run(["convert", str(picks), f"{out}.csv"]) == 0
    again = read(tmp_path / "a.csv")
    assert again.lengths == "angstrom" and again.coordinates_from == "centre"
    assert again.coordinates_angstrom.tolist() == [[100.5, -200.25, 50.125], [-1500.0, 2500.0, -300.0]]
    assert run(["inspect", str(picks)]) == 0
    assert "x -1500 to 100, y -200 to 2500, z -300 to 50 A from the" in capsys.readouterr().out


def test_the_pixel_of_picks_is_that_of_their_tomograms_where_the_list_has_none(tmp_path):
    picks = star(tmp_path / "picks.star", ("particles", PICKS))
    columns = {label: ["4000"] for label in ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ")}
    stated = {"rlnTomoName": ["tomo200528_107"], "rlnTomoTiltSeriesPixelSize": ["1.724"], **columns}
    star(tmp_path / "tomo.star", ("global", stated))
    assert run(["convert", str(picks), str(tmp_path / "a.tbl"), "--tomograms", str(tmp_path / "tomo.star")]) == 0
    assert table(tmp_path / "a.tbl")[0][23] == pytest.approx(4000 / 2 + 100.5 / 1.724 + 1, abs=1e-5)
    star(tmp_path / "tomograms.star", ("global", stated))
    found = read(picks)
    assert found.pixel_sizes_angstrom.tolist() == [1.724, 1.724] and tmp_path / "tomograms.star" in found.files


def test_a_plain_table_in_angstrom_needs_no_pixel_size(tmp_path):
    (tmp_path / "a.csv").write_text("name,x_angstrom,y_angstrom,z_angstrom\na,10,20,30\n")
    assert read(tmp_path / "a.csv").coordinates_angstrom.tolist() == [[10, 20, 30]]
    said = read(tmp_path / "a.csv", pixel_size_angstrom=2.0)
    assert said.coordinates_angstrom.tolist() == [[10, 20, 30]] and said.pixel_sizes_angstrom.tolist() == [2.0]
    head = "name,x_px,y_px,z_px,shift_x_angstrom,shift_y_angstrom,shift_z_angstrom"
    (tmp_path / "a.csv").write_text(f"{head}\na,10,20,30,1,2,3\n")
    with pytest.raises(FormatError, match=r"angstrom beside pixels \(x_px\) and no column pixel_size_angstrom"):
        read(tmp_path / "a.csv")


# Sizes of tomograms that are not set are no sizes

CENTRED = {
    "rlnTomoName": ["TS_1"],
    "rlnCenteredCoordinateXAngst": ["668.754827"],
    "rlnCenteredCoordinateYAngst": ["681.115298"],
    "rlnCenteredCoordinateZAngst": ["-184.05065"],
    "rlnOpticsGroup": ["1"],
    "rlnTomoParticleName": ["TS_1/1"],
}


@pytest.mark.parametrize("size", ["-999", "0", '""', "None", "0.5", "nan", None])
def test_sizes_that_are_not_set_are_no_sizes(tmp_path, capsys, size):
    optics = {"rlnOpticsGroup": ["1"], "rlnTomoTiltSeriesPixelSize": ["10.0"]}
    path = star(tmp_path / "particles.star", ("optics", optics), ("particles", CENTRED))
    sizes = {} if size is None else {f"rlnTomoSize{axis}": [size] for axis in "XYZ"}
    tomograms = {"rlnTomoName": ["TS_1"], "rlnTomoTiltSeriesPixelSize": ["10.0"], **sizes}
    star(tmp_path / "tomo.star", ("global", tomograms))
    words = ["convert", str(path), str(tmp_path / "a.tbl")]
    assert run([*words, "--tomograms", str(tmp_path / "tomo.star")]) == 2
    said = capsys.readouterr().err
    assert "tomo.star: does not state the size of tomogram 'TS_1'" in said and "--tomogram-size" in said
    assert run([*words, "--tomogram-size", "630", "630", "200"]) == 0
    assert table(tmp_path / "a.tbl")[0][23] == pytest.approx(315 + 66.8754827 + 1, abs=1e-5)


@pytest.mark.skipif(not CASES.is_dir(), reason="shared/cases is not here")
@pytest.mark.parametrize("tomograms", ["-999", "0", "absent"])
def test_the_three_ways_not_to_set_a_size(tmp_path, capsys, tomograms):
    folder = CASES / "tomogram_size_not_set"
    words = ["--tomograms", str(folder / f"tomograms_{tomograms}.star")]
    assert run(["convert", str(folder / "particles.star"), str(tmp_path / "a.tbl"), *words]) == 2
    assert "--tomogram-size" in capsys.readouterr().err


@pytest.mark.skipif(not RIBOSOMES.is_dir(), reason="shared/data/empiar10499 is not here")
def test_no_two_real_ribosomes_are_nearer_than_their_diameter_and_each_is_a_group_of_its_own():
    listed = read(RIBOSOMES / "particles.star")
    names = np.array(listed.tomograms)
    nearest = min(pdist(listed.places_angstrom[names == name]).min() for name in set(listed.tomograms))
    assert nearest == pytest.approx(656, abs=0.5)
    box = 32 * 12.0
    groups = half_sets.overlapping_groups(
        listed.names, listed.tomograms, listed.coordinates_angstrom, within_angstrom=box
    )
    assert len(set(groups.tolist())) == 20


# Numbers that are not unique

DYNAMO = (
    "{} 1 1 0.21 -0.26 -0.5 -2.6459 90 2.6459 0.1 0 0 1 -60 60 -60 60 0 0 1 1 0 0 {} 254.5 219.5 0 0 0 0 0 1 0 0 0\n"
)


@pytest.mark.filterwarnings("ignore:.*numbered by row")
@pytest.mark.parametrize("kind", ["dynamo", "av3", "relion"])
def test_particles_of_one_number_are_numbered_by_row_with_a_warning(tmp_path, kind):
    if kind == "dynamo":
        path = tmp_path / "a.tbl"
        path.write_text(DYNAMO.format(1, 781.5) + DYNAMO.format(1, 700.5))
    elif kind == "av3":
        path = tmp_path / "a.em"
        rows = np.ones((1, 2, 20), dtype=np.float32)
        rows[0, :, 3] = 0.0  # subtomo_id
        rows[0, :, 7] = (782.5, 701.5)
        write_em(path, rows)
    else:
        columns = {**WARP_PARTICLES, "rlnCoordinateX": ["781.5"]}
        both = {k: v * 2 for k, v in columns.items()} | {"rlnCoordinateX": ["781.5", "700.5"]}
        path = star(tmp_path / "a.star", ("optics", WARP_OPTICS), ("particles", both))
    with pytest.warns(RuntimeWarning, match="more than once, as in row 2.*: particles are numbered by row"):
        table = read(path)
    assert table.names == ("1", "2")
    assert np.ptp(table.coordinates_angstrom[:, 0]) > 10
    assert run(["convert", str(path), str(tmp_path / "b.csv")]) == 0


def test_where_volumes_are_found_by_number_each_particle_needs_its_own(tmp_path):
    path = tmp_path / "a.tbl"
    path.write_text(DYNAMO.format(1, 781.5) + DYNAMO.format(1, 700.5))
    with pytest.raises(
        FormatError, match=r"has two particles of number 1, by which volumes are found.*leave out --data"
    ):
        read(path, data_path=tmp_path)


# Names of tomograms beside a Dynamo table, and as WarpTools needs them


def test_names_of_tomograms_come_from_crop_doc_and_go_to_warp_as_tomostar(tmp_path, capsys):
    (tmp_path / "crop.tbl").write_text(DYNAMO.format(1, 781.5))
    (tmp_path / "crop.doc").write_text("   1   /data/frames/reconstruction/TS_01.mrc_15.00Apx.mrc\n")
    assert read(tmp_path / "crop.tbl").tomograms == ("/data/frames/reconstruction/TS_01.mrc_15.00Apx.mrc",)
    words = ["convert", str(tmp_path / "crop.tbl"), str(tmp_path / "w.star"), "--to", "warp", "--overwrite"]
    assert run(words) == 0
    assert "WarpTools looks for TS_01.tomostar" in (said := capsys.readouterr().out) and "--tomostar" in said
    assert run([*words, "--tomostar"]) == 0
    assert "WarpTools looks for" not in capsys.readouterr().out
    assert read(tmp_path / "w.star").tomograms == ("TS_01.tomostar",)
    (tmp_path / "crop.doc").write_bytes(b"\xd0\xcf\x11\xe0 a document of another program")
    assert read(tmp_path / "crop.tbl").tomograms == ("1",)


# Priors turn with the angles

PRIORS = {
    "rlnTomoName": ["TS_01"],
    "rlnTomoParticleName": ["TS_01/1"],
    "rlnOpticsGroup": ["1"],
    "rlnTomoSubtomogramRot": ["15"],
    "rlnTomoSubtomogramTilt": ["40"],
    "rlnTomoSubtomogramPsi": ["70"],
    "rlnAngleRot": ["5"],
    "rlnAngleTilt": ["90"],
    "rlnAnglePsi": ["-20"],
    "rlnAngleTiltPrior": ["90"],
    "rlnAnglePsiPrior": ["-20"],
}


def test_priors_of_a_turned_box_turn_with_the_angles(tmp_path, capsys):
    """Prior and angles agree in tilt and psi before, and must afterwards: they are one axis."""
    path = star(tmp_path / "a.star", ("optics", WARP_OPTICS), ("particles", PRIORS))
    assert run(["convert", str(path), str(tmp_path / "b.star"), "--to", "relion3.1"]) == 0
    block = read_star(tmp_path / "b.star").find("particles")
    assert block.numbers("rlnAngleTiltPrior")[0] == pytest.approx(block.numbers("rlnAngleTilt")[0], abs=1e-5)
    assert block.numbers("rlnAnglePsi")[0] != pytest.approx(-20, abs=1)
    # the axis of a box turned by A(15, 40, 70): z of A_s^T A_p^T, worked out with SciPy's intrinsic angles
    box, part = (Rotation.from_euler("ZYZ", a, degrees=True) for a in ([15, 40, 70], [0, 90, -20]))
    axis = (box.inv() * part.inv()).apply([0, 0, 1])
    tilt, psi = (np.radians(block.numbers(f"rlnAngle{name}Prior")[0]) for name in ("Tilt", "Psi"))
    stated = Rotation.from_euler("ZYZ", [0, tilt, psi]).inv().apply([0, 0, 1])
    assert np.allclose(stated, axis, atol=1e-5)
    alone = {label: values for label, values in PRIORS.items() if label != "rlnAnglePsiPrior"}
    path = star(tmp_path / "c.star", ("optics", WARP_OPTICS), ("particles", alone))
    capsys.readouterr()
    assert run(["convert", str(path), str(tmp_path / "d.star"), "--to", "relion3.1"]) == 0
    assert "cannot hold: rlnAngleTiltPrior of rotated boxes" in capsys.readouterr().out
    assert "rlnAngleTiltPrior" not in read_star(tmp_path / "d.star").find("particles")


# A byte order mark is no part of a text


@pytest.mark.parametrize("name", ["a.star", "a.tbl", "a.csv", "a.xml", "a.json", "a.tlt", "a.mdoc"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, name):
    texts = {
        "a.tbl": DYNAMO.format(1, 781.5),
        "a.csv": "name,x_px,y_px,z_px\na,1,2,3\n",
        "a.xml": '<ParticleList><Particle Filename="a.em"><Rotation Z1="1" Z2="2" X="3" Paradigm="ZXZ"/>'
        '<Shift X="0" Y="0" Z="0"/><PickPosition X="1" Y="2" Z="3"/><Score Value="0"/></Particle></ParticleList>',
        "a.json": '{"apix_unbin": 2.5, "boxes_3d": [[10, -20, 3.5, "manual", 0.75, 2]]}',
        "a.tlt": "-60\n0\n60\n",
        "a.mdoc": MDOC.format("1.0"),
    }
    path = tmp_path / name
    if name == "a.star":
        star(path, ("optics", WARP_OPTICS), ("particles", WARP_PARTICLES))
    else:
        path.write_text(texts[name])
    said = []
    for bom in (b"", b"\xef\xbb\xbf"):
        path.write_bytes(bom + path.read_bytes())
        if name in ("a.tlt", "a.mdoc"):
            said.append(next(iter(read_tilts(path).values())).tilts_deg.tolist())
        else:
            table = read(path)
            size = table.pixel_sizes_angstrom
            said.append((table.names, table.coordinates_angstrom.tolist(), None if size is None else size.tolist()))
    assert said[0] == said[1]


def test_text_of_two_bytes_a_letter_is_named(tmp_path):
    (tmp_path / "a.tbl").write_text(DYNAMO.format(1, 781.5), encoding="utf-16")
    with pytest.raises(FormatError, match="is text in UTF-16; save it as plain text"):
        read(tmp_path / "a.tbl")


# SerialEM

MDOC = """PixelSpacing = 2.09

[ZValue = 0]
TiltAngle = -3.0
ExposureDose = 4.00
PriorRecordDose = {0}
DateTime = 07-Jan-2026  18:20:00

[ZValue = 1]
TiltAngle = 0.0
ExposureDose = 3.00
PriorRecordDose = 0.0
DateTime = 07-Jan-2026  18:19:00
"""


def test_where_every_prior_dose_is_0_exposures_are_added_up(tmp_path):
    (tmp_path / "a.mdoc").write_text(MDOC.format("0.0"))
    assert read_tilts(tmp_path / "a.mdoc")["a"].dose.tolist() == [3.0, 0.0]
    (tmp_path / "a.mdoc").write_text(MDOC.format("2.5"))
    assert read_tilts(tmp_path / "a.mdoc")["a"].dose.tolist() == [2.5, 0.0]
    (tmp_path / "a.mdoc").write_text(MDOC.format("0.0").replace("ExposureDose", "Exposure"))
    assert read_tilts(tmp_path / "a.mdoc")["a"].dose is None


def test_a_frame_set_is_named_as_what_it_is(tmp_path, capsys):
    (tmp_path / "a.mdoc").write_text(MDOC.format("0.0").replace("ZValue", "FrameSet"))
    assert run(["inspect", str(tmp_path / "a.mdoc")]) == 2
    assert "is the mdoc of a frame set" in (said := capsys.readouterr().err) and "[ZValue" in said


@pytest.mark.parametrize("text", ["1 -60\n2 0\n3 60.5\n", "-60.0 3.1\n0.0 0.0\n60.5 6.2\n", "0,-60\n1,0\n2,60.5\n"])
def test_the_angles_of_two_columns_are_those_that_no_count_nor_dose_can_be(tmp_path, text):
    path = tmp_path / "a.rawtlt"
    path.write_text(text)
    assert is_tilt_file(path)
    with pytest.warns(RuntimeWarning, match=r"two columns: .* are read as angles"):
        assert np.allclose(read_tilts(path)["a"].tilts_deg, [-60, 0, 60.5])
    path.write_text("10.5 20\n0.5 30\n3 40\n")
    with pytest.raises(FormatError, match="two columns, either of which may be angles"):
        read_tilts(path)


# PEET before 1.6


@pytest.mark.parametrize(
    "head",
    [
        "CCC,reserved,reserved,pIndex,wedgeWT,NA,NA,NA,NA,NA,xOffset,yOffset,zOffset,NA,NA,reserved,phi,psi,theta,reserved",
        "CCC,reserved,reserved,pIndex,wedgeWT,NA,NA,NA,NA,NA,xOffset,yOffset,zOffset,NA,NA,NA,EulerZ(1),EulerZ(3),"
        "EulerX(2),NA,CREATED WITH PEET Version 1.5.4",
        None,
    ],
)
def test_older_heads_of_peet_are_the_same_columns(tmp_path, head):
    row = "0.5,0,0,7,0,0,0,0,0,0,1.5,-2,3,0,0,0,10,20,30,1\n"
    path = tmp_path / "a_MOTL.csv"
    path.write_text(row if head is None else f"{head}\n{row}")
    table = read(path)
    assert format_of(path).name == "peet" and table.names == ("7",)
    expected = Rotation.from_euler("zxz", [10, 30, 20], degrees=True)  # Z1, X2, Z3
    assert (table.poses.rotation[0].inv() * expected).magnitude() < 1e-9
    assert table.poses.shift_angstrom[0].tolist() == [1.5, -2, 3]


# Headers of MRC files


def mrc_of_bytes(path: Path, values: np.ndarray, *, stamp: int, flags: int) -> Path:
    """A map of mode 0 with IMOD's stamp and flags."""
    write_volume(path, Volume(values.astype(np.float32), 10.0))
    header = bytearray(path.read_bytes()[:1024])
    struct.pack_into("<i", header, 12, 0)
    struct.pack_into("<2i", header, 152, stamp, flags)
    path.write_bytes(bytes(header) + values.astype(np.uint8).tobytes())
    return path


def test_bytes_of_imod_are_unsigned_unless_it_says_otherwise(tmp_path):
    values = np.random.default_rng(3).integers(0, 256, (8, 8, 8))
    imod = 1146047817
    assert np.array_equal(read_map(mrc_of_bytes(tmp_path / "a.mrc", values, stamp=imod, flags=0)).data, values)
    signed = np.where(values > 127, values - 256, values)
    assert np.array_equal(read_map(mrc_of_bytes(tmp_path / "b.mrc", values, stamp=imod, flags=1)).data, signed)
    assert np.array_equal(read_map(mrc_of_bytes(tmp_path / "c.mrc", values, stamp=0, flags=0)).data, signed)
    tomogram = open_tomogram(tmp_path / "a.mrc")
    assert np.array_equal(tomogram.cut([0, 0, 0], [8, 8, 8]), values)


@pytest.mark.filterwarnings("ignore:.*Map ID string not found")
def test_a_map_without_the_word_map_names_permissive(tmp_path, capsys):
    path = tmp_path / "a.mrc"
    write_volume(path, Volume(np.random.default_rng(3).normal(size=(8, 8, 8)), 10.0))
    data = bytearray(path.read_bytes())
    data[208:212] = b"\0\0\0\0"
    path.write_bytes(data)
    assert run(["inspect", str(path)]) == 2
    assert "but for the word MAP; pass --permissive" in capsys.readouterr().err
    assert run(["inspect", str(path), "--permissive"]) == 0


@pytest.mark.skipif(not CASES.is_dir(), reason="shared/cases is not here")
def test_the_unsigned_bytes_of_imod_correlate_with_the_map_they_were_made_of(tmp_path):
    make = str(CASES / "mrc_headers" / "make.py")
    subprocess.run([sys.executable, make], cwd=tmp_path, check=True)
    floats = read_volume(tmp_path / "ref_float.mrc")
    for name in ("imod_unsigned", "imod_signed", "bigendian_float", "bigendian_int16", "mode6", "mode12"):
        assert correlation(floats, read_volume(tmp_path / f"{name}.mrc")) > 0.9999, name
