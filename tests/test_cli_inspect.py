"""What inspection prints is what a file holds; every broken file is one line."""

import gzip
import json
import sys

import mrcfile
import numpy as np
import pytest

from gonio.cli.app import run
from gonio.cli.inspect import drawing
from gonio.io import write_volume
from gonio.io.em import write_em
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, mirrored_volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge
from gonio.simulate import Phantom

COUNT, BOX = 6, 20


@pytest.fixture(autouse=True)
def plainly(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "sim"
    words = f"simulate {folder} --phantom sharp --count {COUNT} --box {BOX} --voxel-size 16 --snr 1 --seed 3"
    assert run(words.split()) == 0
    return folder


def density():
    phantom = Phantom.named("sharp", box=BOX, voxel_size_angstrom=16.0)
    return Volume(phantom.density(Pose.identity(), box=BOX, voxel_size_angstrom=16.0), 16.0)


def told(capsys, *words):
    capsys.readouterr()
    assert run(["inspect", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def names(found):
    return {one["name"] for one in found["input_warnings"]}


def test_a_list_is_told(simulated, capsys):
    found = told(capsys, simulated / "truth.star")
    assert found["kind"] == "a particle list"
    assert found["facts"]["format"] == "RELION 5 STAR"
    assert found["facts"]["particles"] == COUNT
    assert f"box {BOX}, 16 A" in found["facts"]["images"]
    assert found["facts"]["wedge"] == "tilts from -60 to 60 degrees, axis 90"
    assert found["facts"]["half sets"] == "3 and 3"
    assert found["input_warnings"] == []


def test_a_list_that_was_not_aligned_is_doubted(simulated, capsys):
    assert names(told(capsys, simulated / "particles.star")) == {"no orientations"}


def test_what_is_odd_with_a_list_is_told(simulated, tmp_path, capsys):
    text = (simulated / "truth.star").read_text()
    (tmp_path / "list.star").write_text(text.replace("particles/", f"{simulated}/particles/"))
    assert names(told(capsys, tmp_path / "list.star", "--invert")) == {"inverted contrast"}
    found = told(capsys, tmp_path / "list.star", "--tilt-range", "-60", "60", "--tilt-axis", "0")
    assert "wedge not seen" in names(found)


def test_a_list_whose_images_are_gone_is_told_all_the_same(simulated, tmp_path, capsys):
    (tmp_path / "list.star").write_text((simulated / "truth.star").read_text())
    found = told(capsys, tmp_path / "list.star")
    assert found["facts"]["particles"] == COUNT
    assert found["facts"]["images"].startswith("not read: ")


def test_a_map_is_told(simulated, tmp_path, capsys):
    found = told(capsys, simulated / "reference.mrc")
    assert found["kind"] == "a map"
    assert found["facts"]["voxels (x, y, z)"] == [BOX] * 3
    assert found["facts"]["voxel size"] == "16 A"
    assert found["input_warnings"] == []
    odd = Volume(-np.pad(density().data, ((5, 6),) * 3), 16.0)
    write_volume(tmp_path / "odd.em", odd)
    assert names(told(capsys, tmp_path / "odd.em")) == {"odd box", "inverted contrast"}
    write_em(tmp_path / "tiny.em", np.arange(64.0).reshape(4, 4, 4))
    assert names(told(capsys, tmp_path / "tiny.em")) == set()
    write_em(tmp_path / "flat.em", np.zeros((12, 12, 12), np.float32))
    assert names(told(capsys, tmp_path / "flat.em")) == {"constant"}


def test_a_tomogram_is_told(tmp_path, capsys):
    data = np.random.default_rng(1).normal(size=(30, 61, 50)).astype(np.float32)
    with mrcfile.new(tmp_path / "t.mrc") as mrc:
        mrc.set_data(data)
        mrc.voxel_size = 7.0
    (tmp_path / "t.rec.gz").write_bytes(gzip.compress((tmp_path / "t.mrc").read_bytes()))
    for name in ("t.mrc", "t.rec.gz"):
        found = told(capsys, tmp_path / name)
        assert found["kind"] == "a tomogram"
        assert found["facts"]["voxels (x, y, z)"] == [50, 61, 30]
        assert names(found) == {"odd tomogram"}


def test_tilts_are_told(tmp_path, capsys):
    (tmp_path / "TS.tlt").write_text("\n".join(str(tilt) for tilt in range(-48, 61, 3)))
    found = told(capsys, tmp_path / "TS.tlt")
    assert found["kind"] == "tilts"
    assert found["facts"]["tilts"] == "37, from -48.0 to 60.0 degrees"
    assert found["facts"]["tilt series"] == "1: TS"
    assert found["input_warnings"] == []
    (tmp_path / "TS.tlt").write_text("0\n3\n6\n6.02\n")
    assert names(told(capsys, tmp_path / "TS.tlt")) == {"small tilt range", "tilts listed twice"}


def test_the_hand_is_told(simulated, tmp_path, capsys):
    map_ = Volume(
        Phantom.named("sharp", box=BOX, voxel_size_angstrom=16.0).density(
            Pose.identity(), box=BOX, voxel_size_angstrom=16.0
        ),
        16.0,
    )
    write_volume(tmp_path / "mirror.mrc", mirrored_volume(map_))
    found = told(capsys, simulated / "truth.star", "--hand", tmp_path / "mirror.mrc", "--resolution", "48")
    assert found["hand"]["fits"] == "mirrored"
    assert found["hand"]["margin"] < 0
    assert found["hand"]["particles"] == COUNT
    assert (
        run(["inspect", f"{simulated}/truth.star", "--hand", f"{simulated}/reference.mrc", "--resolution", "48"]) == 0
    )
    assert "hand: the map fits as it is; margin 0." in capsys.readouterr().out


def test_the_picture_and_the_drawing_show_the_wedge(simulated, tmp_path, capsys):
    picture = tmp_path / "deep" / "wedge.png"
    assert run(["inspect", f"{simulated}/truth.star", "-o", str(picture)]) == 0
    out = capsys.readouterr().out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert all(line in out.splitlines() for line in drawing(SingleAxisWedge(-60, 60), 0.5 / 16))
    assert run(["inspect", f"{simulated}/truth.star", "-o", str(picture)]) == 2
    assert "pass --overwrite" in capsys.readouterr().err


def test_a_drawing_is_empty_where_nothing_was_measured():
    lines = drawing(SingleAxisWedge(-30, 30), 0.05)
    middle = len(lines) // 2  # of the head and 17 rows: kz = 1 / 8
    assert lines[1].strip().startswith(".")  # along z
    assert "#" in lines[9][2:10] and "." not in lines[9][2:35]  # along x
    assert lines[9][39:].strip("#") == ""
    assert "#" not in lines[2]
    assert middle == 9
    assert "." not in "".join(drawing(NoWedge(), 0.05)[1:])


def spoilt(kind, folder):
    path = folder / "file.mrc"
    with mrcfile.new(path) as mrc:
        mrc.set_data(np.ones((12, 12, 12), np.float32))
        mrc.voxel_size = 4.0
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "truncated": whole[:-9],
        "gzip cut": gzip.compress(whole)[:-30],
        "noise": np.random.default_rng(1).bytes(5000),
        "words": b"these are words and no list\n" * 5,
    }
    if kind == "missing":
        path.unlink()
    elif kind == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("truncated", "truncated"),
        ("gzip cut", "file.mrc"),
        ("noise", "no particle list that gonio knows"),
        ("words", "no other list that gonio knows"),
    ],
)
def test_a_broken_file_is_one_line(tmp_path, capsys, kind, says):
    pytest.importorskip("zarr")
    assert run(["inspect", str(spoilt(kind, tmp_path))]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("gonio: error: ")
    assert says in lines[0]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("reference.mrc", "--hand", "reference.mrc"), "--hand needs a list of particles"),
        (("truth.star", "--hand", "reference.mrc", "--voxel-size", "0"), "positive"),
        (("truth.star", "--tilt-range", "60", "-60"), "tilt range"),
    ],
)
def test_what_does_not_fit_is_one_line(simulated, monkeypatch, capsys, words, says):
    monkeypatch.chdir(simulated)
    assert run(["inspect", *words]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert says in lines[0]
