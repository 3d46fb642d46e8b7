"""Commands about files from Python: the same work, values in place of words, and nothing printed."""

from __future__ import annotations

import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

import gonio
from gonio.io import read_volume, write_volume
from gonio.io.mrc import write_mrc, write_stack
from gonio.jobs.convert import convert
from gonio.jobs.extract import extract
from gonio.jobs.inspect import inspect
from gonio.jobs.map import map_
from gonio.jobs.options import ListOptions
from gonio.jobs.running import RunOptions
from gonio.jobs.simulate import simulate
from gonio.particle.volume import Volume

ATOM = "ATOM      1  CA  ALA A   1      10.000  20.000  30.000  1.00  0.00           C\nEND\n"


@pytest.fixture(autouse=True)
def silent(capsys):
    """Nothing is printed by any of them."""
    yield
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "")


def listed(folder: Path) -> Path:
    """A list of two positions in a tomogram, and the tomogram, whose values are its voxels' x."""
    (folder / "picked.csv").write_text("name,tomogram,x_px,y_px,z_px\na,t,10,12,14\nb,t,3,12,14\n")
    x = np.broadcast_to(np.arange(24, dtype=np.float32), (24, 24, 24)).copy()
    write_volume(folder / "t.mrc", Volume(x, 5.0))
    return folder / "picked.csv"


def test_a_simulation_returns_its_true_poses(tmp_path):
    done = simulate(tmp_path / "sim", phantom="sharp", count=2, box=16, voxel_size_angstrom=16.0, snr=np.inf, seed=3)
    truth = gonio.read_particles(tmp_path / "sim" / "truth.star").poses
    assert np.max(truth.rotation_distance_deg(done.truth)) < 1e-4
    assert done.note == ""


def test_a_map_says_what_its_box_cuts_off(tmp_path):
    (tmp_path / "one.pdb").write_text(ATOM)
    done = map_(tmp_path / "one.pdb", voxel_size_angstrom=4.0, box=16, output=tmp_path / "one.mrc")
    assert done.did == ()
    assert "resolution_angstrom = 8.0" in (tmp_path / "one.settings.toml").read_text()
    assert np.array_equal(gonio.read_volume(tmp_path / "one.mrc").data, done.volume.data)
    with pytest.raises(ValueError, match="overwrite"):
        map_(tmp_path / "one.pdb", voxel_size_angstrom=4.0, box=16, output=tmp_path / "one.mrc")


def test_a_dry_run_returns_what_would_be_lost(tmp_path):
    source = listed(tmp_path)
    done = convert(source, tmp_path / "out.tbl", pixel_size_angstrom=5.0, dry_run=True)
    assert done.lost == (
        "names of tomograms (numbers stand for them; the names are kept beside the list, in OUT.doc)",
        "names of particles (numbers stand for them)",
    )
    assert done.written == ()
    assert not (tmp_path / "out.tbl").exists()
    done = convert(source, tmp_path / "out.tbl", pixel_size_angstrom=5.0)
    assert done.written == (tmp_path / "out.tbl", tmp_path / "out.tbl.doc")
    assert (done.given.name, done.wanted.name) == ("csv", "dynamo")


def test_an_extraction_returns_how_much_of_a_box_lay_outside(tmp_path):
    source = listed(tmp_path)
    done = extract(
        [tmp_path / "t.mrc"],
        source,
        output=tmp_path / "cut",
        box=8,
        pixel_size_angstrom=5.0,
        normalise="none",
        edge="pad",
    )
    assert done.rows == [0, 1]
    assert done.outside.tolist() == [0.0, 1 / 8]  # x from -1 to 6, of 8 voxels one is outside
    table = gonio.read_particles(tmp_path / "cut" / "particles.star", tilt_range_deg=(-90, 90))
    assert np.allclose(table.load(0).volume.data[0, 0], np.arange(6, 14), atol=1e-3)


def test_an_inspection_returns_facts_and_warnings(tmp_path):
    listed(tmp_path)
    found = inspect(ListOptions(tmp_path / "t.mrc"), output=tmp_path / "t.png")
    assert found.kind == "a map"
    assert found.facts["voxels (x, y, z)"] == [24, 24, 24]
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    write_volume(tmp_path / "flat.mrc", Volume(np.ones((16, 16, 16), np.float32), 5.0))
    assert [warning.name for warning in inspect(ListOptions(tmp_path / "flat.mrc")).warnings] == ["constant"]
    assert inspect(ListOptions(tmp_path / "picked.csv")).table.names == ("a", "b")


def test_a_simulation_that_was_cut_off_goes_on_and_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("gonio.run.checkpoint.SYNC_SECONDS", 0.0)
    options = {"phantom": "sharp", "count": 5, "box": 12, "voxel_size_angstrom": 25.0, "tilt_range_deg": (-40.0, 40.0)}

    def interrupted(stage, count, done):
        def report(number):
            if number == 3:
                raise KeyboardInterrupt

        return nullcontext(report)

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "cut", **options, run=RunOptions(threads=1, progress=interrupted))
    assert not (tmp_path / "cut" / "particles.star").exists()
    begun = []

    def watched(stage, count, done):
        begun.append(done)
        return nullcontext(lambda number: None)

    simulate(tmp_path / "cut", **options, run=RunOptions(threads=1, progress=watched, resume=True))
    simulate(tmp_path / "whole", **options, run=RunOptions(threads=2))
    assert begun == [3]
    names = sorted(path.relative_to(tmp_path / "cut") for path in (tmp_path / "cut").rglob("*.mrc"))
    assert len(names) == 6
    for name in names:
        first, second = (read_volume(tmp_path / folder / name).data for folder in ("cut", "whole"))
        assert (first == second).all()
    with pytest.raises(ValueError, match="another run"):
        simulate(tmp_path / "cut", **options | {"count": 6}, run=RunOptions(resume=True))


def test_a_stack_of_images_is_no_tomogram(tmp_path):
    images = np.random.default_rng(0).normal(size=(5, 16, 24)).astype(np.float32)
    for name in ("tilts.mrcs", "tilts.mrc"):
        write_stack(tmp_path / name, images, 4.0)
        found = inspect(ListOptions(tmp_path / name))
        assert found.kind == "a stack of 2-D images"
        assert (found.facts["images"], found.facts["pixels (x, y)"], found.facts["pixel size"]) == (5, [24, 16], "4 A")
        assert not found.warnings


def test_a_volume_with_its_tilts_beside_it_is_a_stack_of_them(tmp_path):
    data = np.random.default_rng(0).normal(size=(10, 16, 24)).astype(np.float32)
    write_mrc(tmp_path / "TS_01.mrc", data, 4.0)  # as the headers of IMOD's stacks are
    (tmp_path / "TS_01.tlt").write_text("1\n2\n")
    assert inspect(ListOptions(tmp_path / "TS_01.mrc")).kind == "a tomogram"
    (tmp_path / "TS_01.tlt").write_text("\n".join(map(str, range(10))))
    assert inspect(ListOptions(tmp_path / "TS_01.mrc")).kind == "a stack of 2-D images"
    labels = "_rlnTomoName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
    (tmp_path / "picks.star").write_text(f"data_\n\nloop_\n{labels}TS_01 12 8 5\n")
    with pytest.raises(ValueError, match="is a stack of images, no tomogram; pass --stacks"):
        extract(
            [tmp_path / "TS_01.mrc"], tmp_path / "picks.star", output=tmp_path / "o", box=8, pixel_size_angstrom=4.0
        )


def test_jobs_know_no_terminal():
    code = (
        "import sys, gonio.jobs.convert, gonio.jobs.extract, gonio.jobs.inspect, gonio.jobs.simulate;"
        "print({'typer', 'rich', 'gonio.cli'} & set(sys.modules))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "set()"
