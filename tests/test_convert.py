"""``gonio convert`` as it is typed: what it says, writes and refuses."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from gonio.cli.app import run
from gonio.io import write_volume
from gonio.io.blocks import read_star
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.particle.volume import Volume

HEAD = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnTomoTiltSeriesPixelSize\n_rlnImagePixelSize\n1 2 4\n\n"
HEAD += "data_particles\nloop_\n"
LABELS = (
    *("rlnTomoName", "rlnTomoParticleName", "rlnOpticsGroup", "rlnImageName", "rlnCoordinateX", "rlnCoordinateY"),
    *("rlnCoordinateZ", "rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst", "rlnAngleRot", "rlnAngleTilt"),
    *("rlnAnglePsi", "rlnRandomSubset", "rlnNote"),
)


@pytest.fixture
def particles(tmp_path):
    rows = [
        f"TS_{i % 2} TS_{i % 2}/{i} 1 m{i}.mrc {100 + i}.25 200 50 2 -4 6 10 20 30 {1 + i % 2} n{i}" for i in range(5)
    ]
    path = tmp_path / "relion4.star"
    path.write_text(HEAD + "".join(f"_{label}\n" for label in LABELS) + "\n".join(rows) + "\n")
    return path


def convert(*words) -> int:
    return run(["convert", *map(str, words)])


def read(path, **options):
    return read_with(path, ReadOptions(may_count_pixels=True, **options))


def test_relion_to_dynamo_and_what_lies_beside(particles, tmp_path, capsys):
    assert convert(particles, tmp_path / "new" / "a.tbl") == 0
    out = capsys.readouterr().out
    assert "RELION 4 STAR, 5 particles, pixels of 2 A, positions from the corner" in out
    assert "Dynamo table cannot hold: half sets" in out and "columns rlnNote" in out
    first = (tmp_path / "new" / "a.tbl").read_text().split()
    # one-based position, minus the origin in pixels, (psi - 90, tilt, rot + 90)
    assert first[:10] == ["1", "1", "1", "-1", "2", "-3", "-60", "20", "100", "0"]
    assert first[23:26] == ["101.25", "201", "51"] and first[35] == "2" and first[19] == "1"
    assert (tmp_path / "new" / "a.tbl.doc").read_text() == "1 TS_0\n2 TS_1\n"
    said = tomllib.loads((tmp_path / "new" / "a.tbl.settings.toml").read_text())
    assert (said["settings"]["from"], said["settings"]["to"]) == ("relion4", "dynamo")
    assert list(said["inputs"]) == [str(particles)]
    assert convert(tmp_path / "new" / "a.tbl", tmp_path / "b.star", "--to", "relion4") == 0
    back = read(tmp_path / "b.star")
    assert back.tomograms == read(particles).tomograms
    assert np.max(back.poses.rotation_distance_deg(read(particles).poses)) < 1e-3


def test_a_dry_run_shows_both_sides_and_writes_nothing(particles, tmp_path, capsys):
    before = sorted(tmp_path.iterdir())
    assert convert(particles, tmp_path / "a.em", "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.count("rlnAngleRot") == 3 and out.count("phi ") == 3
    line = next(line for line in out.splitlines() if "rlnAngleRot" in line)
    assert line.split() == ["rlnAngleRot", "10.0000", "phi", "80.0000"]  # 90 - rot
    assert "cannot hold: pixel size" in out
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_is_overwritten_unless_asked(particles, tmp_path, capsys):
    assert convert(particles, tmp_path / "a.csv") == 0
    before = (tmp_path / "a.csv").read_bytes()
    assert convert(particles, tmp_path / "a.csv", "--to-pixel-size", 8) == 2
    assert "exists: choose another name, or pass --overwrite" in capsys.readouterr().err
    assert (tmp_path / "a.csv").read_bytes() == before
    assert convert(particles, tmp_path / "a.csv", "--to-pixel-size", 8, "--overwrite") == 0
    assert read(tmp_path / "a.csv").pixel_sizes_angstrom.tolist() == [8.0] * 5
    (tmp_path / "x.tbl.doc").write_text("mine\n")
    assert convert(particles, tmp_path / "x.tbl") == 2  # whose names would go into x.tbl.doc
    assert (tmp_path / "x.tbl.doc").read_text() == "mine\n" and not (tmp_path / "x.tbl").exists()


def test_the_same_format_keeps_every_value_as_it_stands(particles, tmp_path):
    assert convert(particles, tmp_path / "same.star", "--to", "relion4") == 0
    old, new = (read_star(path).find("particles") for path in (particles, tmp_path / "same.star"))
    kept = [label for label in LABELS if "Angle" not in label and "Origin" not in label]
    assert all(old.text(label) == new.text(label) for label in kept)


def test_what_a_target_needs_is_asked_for_by_its_option(particles, tmp_path, capsys):
    assert convert(particles, tmp_path / "a.star") == 2
    assert "--tomogram-size X Y Z or --tomograms FILE, or choose --to relion4" in capsys.readouterr().err
    assert convert(particles, tmp_path / "a.star", "--tomogram-size", 400, 500, 101, "--centre", "size/2-1") == 0
    block = read_star(tmp_path / "a.star").find("particles")
    assert block.text("rlnCenteredCoordinateXAngst")[0] == f"{(100.25 - 199) * 2:.6f}"
    assert block.text("rlnCenteredCoordinateZAngst")[0] == f"{(50 - 49.5) * 2:.6f}"
    assert block.text("rlnNote") == tuple(f"n{i}" for i in range(5))
    assert convert(particles, tmp_path / "b.star", "--tomogram-size", 0, 5, 5) == 2
    assert convert(particles, tmp_path / "b.star", "--centre", "left", "--tomogram-size", 4, 5, 5) == 2
    assert "--centre must be size/2, size/2-1, floor" in capsys.readouterr().err


def test_formats_may_be_said(particles, tmp_path, capsys):
    assert convert(particles, tmp_path / "list", "--to", "stopgap") == 0
    assert convert(tmp_path / "list", tmp_path / "b.csv", "--from", "dynamo") == 2
    assert convert(tmp_path / "list", tmp_path / "b.csv", "--from", "stopgap", "--pixel-size", 2) == 0
    assert read(tmp_path / "b.csv").half_sets.tolist() == [1, 2, 1, 2, 1]
    assert convert(particles, tmp_path / "a.json", "--to", "eman-boxes") == 2
    assert "is read and not written" in capsys.readouterr().err
    assert convert(particles, tmp_path / "a.what") == 2
    assert "pass --to, one of relion5" in capsys.readouterr().err


def test_paths_of_images_are_right_from_the_new_folder(particles, tmp_path):
    for i in range(5):
        write_volume(tmp_path / f"m{i}.mrc", Volume(np.random.default_rng(i).normal(size=(8, 8, 8)), 4.0))
    (tmp_path / "deep").mkdir()
    assert convert(particles, tmp_path / "deep" / "a.xml") == 0
    assert read(tmp_path / "deep" / "a.xml").images[3] == "../m3.mrc"


def test_a_folder_that_may_not_be_written_is_told(particles, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert convert(particles, tmp_path / "file" / "a.tbl") == 2
    assert "is a file, not a folder" in capsys.readouterr().err
