"""A list of any program comes back as one of that program, with new poses, and nothing that was found out is lost."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import starfile

import gonio
from gonio.cli.app import run
from gonio.io import write_particles
from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.formats import FORMATS, format_of
from gonio.io.lists import file_name, read_with, write_back
from gonio.io.source import ReadOptions
from gonio.particle.table import ParticleTable

pytestmark = pytest.mark.slow

COUNT, VOXEL = 3, 16.0
# Format, the list that comes back, and what else belongs to it.
LISTS = {
    "dynamo": ("particles.tbl", {"particles.tbl.doc", "particles.csv"}),
    "stopgap": ("particles.star", {"particles.star.doc", "particles.csv"}),
    "av3": ("particles.em", {"particles.em.doc", "particles.csv"}),
    "pytom": ("particles.xml", {"particles.csv"}),
    "eman": ("particles.lst", set()),
    "eman-json": ("particles.json", set()),
    "csv": ("particles.csv", set()),
    "parquet": ("particles.parquet", set()),
    "relion3.1": ("particles.star", set()),
}
# What every alignment leaves.
ALWAYS = {"runners_up.star", "summary.json", "settings.toml", "report.html", "particles.cxc"}
OFF = np.array([0.05, -0.03, 0.02, 4.0, -4.0, 4.0])  # radians, angstrom: some degrees, a quarter of a voxel
# AV3 stores float32, of angles up to 180 degrees and shifts of a voxel; others six decimals.
ANGLE_DEG, SHIFT_ANGSTROM = 180 * 2.0**-22, VOXEL * 1e-5


@pytest.fixture(scope="module")
def particles(tmp_path_factory) -> Path:
    """Simulated particles without noise, and beside them the same under the names by which lists number them."""
    folder = tmp_path_factory.mktemp("lists")
    words = f"simulate {folder}/sim --phantom sharp --count {COUNT} --box 20 --voxel-size {VOXEL} --snr inf --seed 3"
    assert run(words.split()) == 0
    truth = gonio.read_particles(folder / "sim" / "truth.star")
    for kind, name in (("dynamo", "particle"), ("stopgap", "subtomo"), ("av3", "any")):
        (folder / "numbered" / kind).mkdir(parents=True)
        for row in range(COUNT):
            shutil.copy(truth.files_of(row)[0], folder / "numbered" / kind / f"{name}_{row + 1}.mrc")
    return folder


def listed(folder: Path) -> ParticleTable:
    """The particles with poses that are nearly right, at places in a tomogram that has a name."""
    table = gonio.read_particles(folder / "sim" / "truth.star")
    return replace(
        table.with_poses(table.poses.retract(np.tile(OFF, (COUNT, 1)))),
        names=tuple(map(str, range(1, COUNT + 1))),
        tomograms=("TS_01",) * COUNT,
        coordinates_angstrom=np.arange(3.0 * COUNT).reshape(COUNT, 3) * 5 * VOXEL,
        pixel_sizes_angstrom=np.full(COUNT, VOXEL),
        classes=np.array([4, 5, 6]),
    )


def written(table: ParticleTable, name: str, folder: Path) -> Path:
    """The list of a format, in a folder of its own."""
    ending = next(iter(FORMATS[name].endings), ".star")
    (folder / "listed").mkdir()
    options = WriteOptions(sizes=TomogramSizes(every=(200.0, 200.0, 100.0)))
    return write_particles(folder / "listed" / f"x{ending}", table, format=name, options=options)[0]


def options(name: str, folder: Path) -> list[str]:
    """What a list of this format does not say."""
    numbered = ["--data", str(folder / "numbered" / name)] if name in ("dynamo", "stopgap", "av3") else []
    return [*numbered, "--tilt-range", "-60", "60"]


@pytest.mark.parametrize("name", LISTS)
def test_an_alignment_gives_the_list_back_in_its_own_format(particles, tmp_path, name):
    source = written(listed(particles), name, tmp_path)
    out = tmp_path / "out"
    words = ["--reference", f"{particles}/sim/reference.mrc", "--local", "--resolution", "80", "--threads", "1"]
    assert run(["align", str(source), *options(name, particles), *words, "-o", str(out)]) == 0
    file, beside = LISTS[name]
    assert {path.name for path in out.iterdir() if path.is_file()} == {file, *beside, *ALWAYS}
    assert format_of(out / file).name == name

    back = read(out / file)
    truth = gonio.read_particles(particles / "sim" / "truth.star")
    assert np.max(back.poses.rotation_distance_deg(truth.poses)) < 0.5  # listed were some degrees off
    before = read(source)
    assert back.names == before.names
    assert back.tomograms == before.tomograms
    assert np.abs(back.coordinates_angstrom - before.coordinates_angstrom).max() < SHIFT_ANGSTROM
    assert back.classes.tolist() == [4, 5, 6]

    everything = read(out / "particles.csv") if "particles.csv" in beside else back
    assert np.max(everything.poses.rotation_distance_deg(back.poses)) < ANGLE_DEG
    assert np.max(everything.poses.shift_distance_angstrom(back.poses)) < SHIFT_ANGSTROM
    assert {"dissimilarity", "score", "status", "rotation_sd_deg", "covariance"} <= set(everything.columns)
    if name != "relion3.1":  # whose figure of merit is that of picking
        assert np.abs(back.scores - everything.columns["score"]).max() < 1e-6
        assert (back.scores > 0.99).all()


def read(path: Path) -> ParticleTable:
    return read_with(path, ReadOptions(pixel_size_angstrom=VOXEL, may_count_pixels=True))


def test_what_lies_beside_the_list_finds_its_particles(particles, tmp_path):
    source = written(listed(particles), "dynamo", tmp_path)
    numbered = options("dynamo", particles)
    table = gonio.read_particles(source, data_path=particles / "numbered" / "dynamo", tilt_range_deg=(-60, 60))
    (tmp_path / "out").mkdir()
    path = write_back(tmp_path / "out", "particles", table)
    assert path == tmp_path / "out" / "particles.tbl"
    for one, words in ((path, numbered), (path.with_suffix(".csv"), numbered[2:])):
        assert run(["average", str(one), *words, "-o", f"{one}.mrc", "--threads", "1"]) == 0
    one, two = (gonio.read_volume(tmp_path / "out" / f"particles.{kind}.mrc").data for kind in ("tbl", "csv"))
    assert np.abs(one - two).max() < 1e-5 * np.abs(one).max()


def test_classes_come_back_as_lists_of_the_same_program(particles, tmp_path):
    source = written(listed(particles), "dynamo", tmp_path)
    words = [*options("dynamo", particles), "--local", "--classes", "2", "--resolution", "80", "--threads", "1"]
    out = tmp_path / "out"
    assert run(["classify", str(source), *words, "-o", str(out)]) == 0
    every = read(out / "particles.tbl")
    classes = sorted(set(every.classes.tolist()))
    assert [path.name for path in sorted(out.glob("class_*.tbl"))] == [f"class_{one}.tbl" for one in classes]
    parts = [read(out / f"class_{one}.tbl") for one in classes]
    assert sorted(name for part in parts for name in part.names) == sorted(every.names)
    assert [set(part.classes.tolist()) for part in parts] == [{one} for one in classes]


def test_other_programs_read_what_comes_back(particles, tmp_path):
    """Each by a reader that is not gonio's: what starfile, XML, JSON and numpy make of the files."""
    table = listed(particles)
    angles = {}
    for name in ("stopgap", "pytom", "eman-json", "dynamo"):
        (tmp_path / name).mkdir()
        path = write_back(tmp_path / name, "p", read(written(table, name, tmp_path / name)))
        angles[name] = path
    stopgap = starfile.read(angles["stopgap"], always_dict=True)["stopgap_motivelist"]
    assert stopgap["class"].tolist() == [4, 5, 6]
    rows = ElementTree.parse(angles["pytom"]).getroot().findall("Particle")
    for axis in ("Z1", "Z2", "X"):
        pytom = [float(row.find("Rotation").get(axis)) for row in rows]
        column = {"Z1": "phi", "Z2": "psi", "X": "the"}[axis]  # the same convention under other names
        np.testing.assert_allclose(pytom, stopgap[column], atol=1e-5)
    dynamo = np.loadtxt(angles["dynamo"])
    np.testing.assert_allclose(dynamo[:, 23:26], stopgap[["orig_x", "orig_y", "orig_z"]], atol=1e-5)
    entries = json.loads(angles["eman-json"].read_text())
    matrices = np.array([json.loads(one["xform.align3d"]["matrix"]) for one in entries.values()]).reshape(-1, 3, 4)
    np.testing.assert_allclose(matrices[:, :, :3], table.poses.rotation.inv().as_matrix(), atol=1e-6)


def test_lists_that_are_not_aligned_are_written_back_too(particles, tmp_path):
    """PEET's with their model, points as points; particles that are in no file as a list of RELION."""
    table = listed(particles)
    peet = read(written(table, "peet", tmp_path))
    path = write_back(tmp_path, "p", peet.with_poses(table.poses, status=["converged"] * COUNT))
    assert path.name == "p_MOTL.csv"
    back = read(path)
    assert np.max(back.poses.rotation_distance_deg(table.poses)) < ANGLE_DEG
    assert np.abs(back.coordinates_angstrom - peet.coordinates_angstrom).max() < SHIFT_ANGSTROM
    assert read(tmp_path / "p.csv").columns["status"].tolist() == ["converged"] * COUNT
    assert file_name(replace(table, source=None), "p") == "p.star"
    assert write_back(tmp_path, "memory", replace(table, source=None)).name == "memory.star"
    model = read(write_particles(tmp_path / "points.mod", peet)[0])
    assert write_back(tmp_path, "points", model).name == "points.mod"
