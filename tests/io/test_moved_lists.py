"""Lists in other folders: every path stays valid, and what a format can hold of an alignment is in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gonio
from gonio.io.blocks import read_star
from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.errors import locate
from gonio.io.lists import read_with, write_particles
from gonio.io.maps import write_volume
from gonio.io.source import ReadOptions
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume

BOX, VOXEL = 8, 10.0
RAMP = np.linspace(-0.5, 0.5, BOX)
LIST = """
data_optics

loop_
_rlnOpticsGroup
_rlnOpticsGroupName
_rlnImagePixelSize
_rlnTomoTiltSeriesPixelSize
_rlnMtfFileName
1 opticsGroup1 10 10 Extract/job007/mtf.star

data_particles

loop_
_rlnTomoName
_rlnTomoParticleName
_rlnCoordinateX
_rlnCoordinateY
_rlnCoordinateZ
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnImageName
_rlnCtfImage
_rlnReferenceImage
_rlnAutopickFigureOfMerit
_rlnOpticsGroup
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of RELION's, whose paths start at its folder; the list is two folders below."""
    job = tmp_path / "project" / "Extract" / "job007"
    (job / "sub").mkdir(parents=True)
    rows = []
    for i in range(2):
        image, weights = (f"Extract/job007/sub/{i}_{kind}.mrc" for kind in ("data", "weights"))
        write_volume(tmp_path / "project" / image, Volume(np.full((BOX,) * 3, i + 1.0) + RAMP, VOXEL))
        write_volume(tmp_path / "project" / weights, Volume(np.ones((BOX,) * 3), VOXEL))
        rows.append(f"TS_01 TS_01/{i} 10 20 {30 + i} 0 0 0 {image} {weights} Extract/job007/sub/0_data.mrc 0.{i + 1} 1")
    (job / "mtf.star").write_text("data_\n\nloop_\n_rlnMtfValue\n1.0\n")
    (job / "particles.star").write_text(LIST + "\n".join(rows) + "\n")
    return tmp_path / "project"


@pytest.fixture
def listed(project: Path, monkeypatch) -> gonio.ParticleTable:
    """Its list, read from a folder that is no part of it."""
    elsewhere = project.parent / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return gonio.read_particles(project / "Extract" / "job007" / "particles.star")


def test_paths_start_at_the_project_above_the_list(listed, project):
    assert listed.files_of(1)[0] == project / "Extract/job007/sub/1_data.mrc"
    assert listed.load(1).volume.data.mean() == pytest.approx(2.0)


def test_the_nearest_folder_wins(project):
    near = project / "Extract" / "job007" / "Extract" / "job007"
    near.mkdir(parents=True)
    (near / "mtf.star").write_text("")
    assert locate("Extract/job007/mtf.star", project / "Extract" / "job007") == near / "mtf.star"


PATHS = ("rlnImageName", "rlnCtfImage", "rlnReferenceImage", "rlnMtfFileName")


def paths_in(path: Path) -> dict[str, tuple[str, ...]]:
    """All columns of paths in a list."""
    return {label: block.text(label) for block in read_star(path).blocks for label in PATHS if label in block}


@pytest.mark.parametrize("form", [None, "relion3.1", "relion3.0"])
def test_every_path_of_a_list_is_valid_from_where_it_is_written(listed, project, form):
    target = project.parent / "out" / "deep" / "list.star"
    target.parent.mkdir(parents=True)
    write_particles(target, listed, format=form)
    found = paths_in(target)
    assert set(found) == set(PATHS)
    for label, tokens in found.items():
        for token in tokens:
            assert (target.parent / token).is_file(), (label, token)
    assert gonio.read_particles(target).load(1).volume.data.mean() == pytest.approx(2.0)


def test_paths_of_the_project_stay_within_it(listed, project):
    (project / "Align").mkdir()
    write_particles(project / "Align" / "list.star", listed)
    assert paths_in(project / "Align" / "list.star") == paths_in(project / "Extract" / "job007" / "particles.star")


def test_names_are_no_paths(listed, project, tmp_path):
    (project / "Extract" / "job007" / "TS_01").mkdir()
    (project / "Extract" / "job007" / "TS_01" / "0").write_text("")
    write_particles(tmp_path / "list.star", listed)
    assert gonio.read_particles(tmp_path / "list.star").names == listed.names


def test_a_missing_first_file_does_not_hold_back_the_others(listed, project, tmp_path):
    (project / "Extract/job007/sub/0_data.mrc").unlink()
    write_particles(tmp_path / "list.star", listed)
    assert gonio.read_particles(tmp_path / "list.star").files_of(1)


def test_the_optimisation_set_names_what_the_old_one_named(project, tmp_path):
    (project / "Tomograms").mkdir()
    tomograms = "data_global\n\n_rlnTomoName TS_01\n_rlnTomoTiltSeriesPixelSize 10\n"
    (project / "Tomograms" / "tomograms.star").write_text(tomograms)
    (project / "Tomograms" / "motion.star").write_text("data_\n")
    names = {"Particles": "Extract/job007/particles", "Tomograms": "Tomograms/tomograms"}
    lines = [f"_rlnTomo{label}File {name}.star" for label, name in names.items()]
    lines += ["_rlnTomoTrajectoriesFile Tomograms/motion.star"]
    (project / "Extract" / "set.star").write_text("data_\n\n" + "\n".join(lines) + "\n")
    table = read_with(project / "Extract" / "set.star", ReadOptions())
    table = replace(table, source=replace(table.source, tomograms_path=project / "Tomograms" / "tomograms.star"))
    _, written = write_particles(tmp_path / "list.star", table)
    block = read_star(written).blocks[0]
    assert block.first("rlnTomoParticlesFile") == "list.star"
    for label in ("rlnTomoTomogramsFile", "rlnTomoTrajectoriesFile"):
        assert (tmp_path / block.first(label)).is_file()


SCORES = np.array([0.75, 0.5])
SIZES = WriteOptions(sizes=TomogramSizes(every=(100.0, 100.0, 60.0)))  # EMAN2 counts from the centre


def aligned(table: gonio.ParticleTable) -> gonio.ParticleTable:
    """As ``gonio align`` writes it: the picker's figure of merit is still there."""
    return table.with_poses(Pose.identity(2), dissimilarity=2.0 - 2.0 * SCORES, score=SCORES)


@pytest.mark.parametrize("name", ["list.tbl", "list.xml", "list.em", "list.csv", "list.lst", "stopgap.star"])
def test_formats_hold_the_score_of_the_alignment_and_the_best_is_the_best(listed, tmp_path, name):
    form = "stopgap" if name.startswith("stopgap") else None
    write_particles(tmp_path / name, aligned(listed), format=form, options=SIZES)
    back = read_with(tmp_path / name, ReadOptions(may_count_pixels=True))
    np.testing.assert_allclose(back.scores, SCORES, rtol=1e-6)


def test_eman_counts_the_other_way(listed, tmp_path):
    write_particles(tmp_path / "list.lst", aligned(listed), options=SIZES)
    assert '"score":-0.75' in (tmp_path / "list.lst").read_text()


def test_a_picking_score_stays_in_relions_column(listed, tmp_path):
    for form in (None, "relion3.1"):
        write_particles(tmp_path / "list.star", aligned(listed), format=form)
        block = read_star(tmp_path / "list.star").find("particles")
        np.testing.assert_allclose(block.numbers("rlnAutopickFigureOfMerit"), [0.1, 0.2])
        np.testing.assert_allclose(block.numbers("gonioScore"), SCORES)
