"""Lists and files that were once read wrong, each with the right value, worked out by hand.

Each stands for a kind. The files are small and made here as the programs named wrote them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from gonio import halves
from gonio.cli.app import run
from gonio.io import FormatError
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions

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
        assert "does not say the size of its pixels" in (said := capsys.readouterr().err) and "--pixel-size" in said
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
    groups = halves.families(listed.names, listed.tomograms, listed.coordinates_angstrom, within_angstrom=box)
    assert len(set(groups.tolist())) == 20
