"""``gonio tilts``: what it writes, that others read it back, runs that are cut off, and inputs that do not fit."""

from __future__ import annotations

import csv
import filecmp
import json
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from gonio import jobs
from gonio.averaging.averages import average_table
from gonio.cli.app import run
from gonio.io import read_volume
from gonio.io.blocks import read_star
from gonio.io.lists import write_particles
from gonio.io.tilt_geometry import rewrite_tomograms, write_changed_tomograms
from gonio.io.tilts import read_tilt_series
from gonio.jobs import ListOptions, LocalOptions, RunOptions, SearchOptions
from gonio.jobs.continuing import Earlier, _same_tilts
from gonio.jobs.refine_tilts import warn_of_tilts
from gonio.jobs.simulate_stacks import StackOptions
from gonio.particle.arguments import ArgumentError
from gonio.particle.pose import Pose
from gonio.particle.tilt_change import TiltChange
from gonio.run import checkpoint
from gonio.workflows import tilt_turns
from gonio.workflows.half_frames import half_2_moved

pytestmark = pytest.mark.slow

ONE = RunOptions(threads=1)
SEARCH = SearchOptions(particle_diameter_angstrom=200.0, resolution_angstrom=24.0)
ERRORS = {"shift_error_angstrom": 8.0, "tilt_error_deg": 0.5, "axis_error_deg": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen particles in two tomograms whose tilts are off, at their true poses."""
    path = tmp_path_factory.mktemp("tilts")
    jobs.simulate(
        path / "sim", phantom="sharp", count=16, box=32, voxel_size_angstrom=8.0, snr=0.3, ctf="whole", seed=2,
        run=ONE,
        stacks=StackOptions(
            tomograms=2, tilt_step_deg=12.0, field_angstrom=1500.0, thickness_angstrom=800.0, **ERRORS
        ),
    )  # fmt: skip
    return path


def tilts(folder, name, particles=None, **more):
    reference = folder / "sim" / "reference.mrc"
    given = {"reference": (reference, reference), "search": SEARCH, "run": ONE, **more}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*overlap with others")
        return jobs.tilts(particles or ListOptions(folder / "sim" / "truth.star"), output=folder / name, **given)


@pytest.fixture(scope="module")
def refined(folder):
    return tilts(folder, "refined")


def true_shifts(folder):
    with (folder / "sim" / "truth" / "tilts.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[float(row["shift_x"]), float(row["shift_y"])] for row in rows])


def written_series(folder, name, tomogram="TS_01"):
    return read_tilt_series(read_star(folder / name / "tomograms" / "tomograms.star"), tomogram)


def test_it_finds_the_tilts_and_writes_how_sure_it_is(folder, refined):
    found = np.concatenate(
        [written_series(folder, "refined", name).shift_since_cut_angstrom for name in ("TS_01", "TS_02")]
    )
    true = true_shifts(folder)
    # A shift common to all images is the particles': compare about the means of each tomogram.
    for half in np.split(np.arange(len(true)), 2):
        left, before = (values[half] - values[half].mean(axis=0) for values in (found - true, true))
        assert np.sqrt((left**2).mean()) < 0.5 * np.sqrt((before**2).mean())
    with (folder / "refined" / "tilts.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 11 * 6
    assert all(float(row["sd"]) <= 1.001 * float(row["prior_sd"]) for row in rows)
    summary = json.loads((folder / "refined" / "summary.json").read_text())
    assert summary["tomograms"] == 2 and summary["resolution_angstrom"] < summary["resolution_before_angstrom"]
    page = (folder / "refined" / "report.html").read_text()
    assert "Which tilts changed?" in page and "TS_01: shift_x" in page


def test_other_commands_read_the_new_tilts(folder, refined):
    words = ["average", f"{folder}/refined/optimisation_set.star", "-o", f"{folder}/after.mrc"]
    assert run([*words, "--threads", "1"]) == 0
    expected = refined.last.average.volume.data
    # Angles and shifts are texts of some digits in the list.
    assert np.abs(read_volume(folder / "after.mrc").data - expected).max() < 5e-3 * np.abs(expected).max()


def test_it_goes_on_from_the_tilts_that_it_wrote(folder, refined):
    again = tilts(folder, "again", ListOptions(folder / "refined" / "particles.star"))
    for one in again.last.tilts.values():
        assert (np.abs(one.tilts) < one.sd)[:, :5].all()  # they were found
    cut, since = (written_series(folder, name).shift_since_cut_angstrom for name in ("refined", "again"))
    found = again.last.tilts["TS_01"].tilts[:, :2]
    assert np.allclose(since - cut, found, atol=1e-4)


def test_results_of_an_earlier_alignment_do_not_stay_beside_new_poses(folder):
    table = ListOptions(folder / "sim" / "truth.star").read()
    write_particles(folder / "sim" / "aligned.star", table.with_poses(table.poses, dissimilarity=np.full(16, 0.5)))
    tilts(folder, "stale", ListOptions(folder / "sim" / "aligned.star"))
    columns = ListOptions(folder / "stale" / "particles.star").read().columns
    assert "tilt_contrast" in columns and "dissimilarity" not in columns


def moved_far(folder, angstrom):
    """The tilt series with one image of the first tomogram moved."""
    target = folder / f"moved_{angstrom:g}" / "tomograms.star"
    target.parent.mkdir()
    change = TiltChange.none(11)
    shift = np.zeros((11, 2))
    shift[3, 0] = angstrom
    write_changed_tomograms(target, folder / "sim" / "tomograms.star", {"TS_01": replace(change, shift_angstrom=shift)})
    return ListOptions(folder / "sim" / "truth.star", tomograms_path=target)


@pytest.mark.filterwarnings("ignore:.*particles are left out:RuntimeWarning")
def test_images_too_far_from_where_they_were_cut_are_left_out_and_the_run_ends(folder):
    with pytest.warns(
        RuntimeWarning, match=r"truth.star: 8 images of 8 particles are left out.* extract the stacks ag"
    ):
        table = moved_far(folder, 70.0).read()
    stack = table.load(0)
    assert table.tomograms[0] == "TS_01" and stack.used.tolist() == [tilt != 3 for tilt in range(11)]
    with pytest.warns(UserWarning, match="of TS_01 lie up to .* in boxes of 256"):
        done = tilts(folder, "far", moved_far(folder, 71.0))
    assert not done.last.tilts["TS_01"].determined[3].any()
    assert (folder / "far" / "map.mrc").exists()
    assert filecmp.cmp(folder / "far" / "tilts.csv", folder / "far" / "iteration_001" / "tilts.csv", shallow=False)


def test_tilts_are_kept_where_averages_fail(folder, monkeypatch):
    def broken(table, **more):
        if "iteration 1" in more["stage"]:
            raise OSError("no more of the disk")
        return average_table(table, **more)

    monkeypatch.setattr(tilt_turns, "average_table", broken)
    with pytest.raises(OSError, match="no more of the disk"):
        tilts(folder, "broken")
    assert (folder / "broken" / "iteration_001" / "tomograms" / "tomograms.star").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"converged": False}, "adjustment of TS_01 ended before it converged"),
        ({"contrasts": np.repeat([0.0, 1.0], [3, 5])}, "was found in 3 of 8 particles of TS_01: they were left out"),
        ({"farthest_angstrom": 65.0}, "particles of TS_01 lie up to 65 angstrom"),
    ],
)
def test_what_went_wrong_with_a_tomogram_is_said(refined, change, said):
    tomograms = {**refined.last.tilts, "TS_01": replace(refined.last.tilts["TS_01"], **change)}
    with pytest.warns(UserWarning, match=said):
        warn_of_tilts(tomograms, 256.0)


def check_resumed(folder, tomograms, **more):
    """Cut a run off after so many tomograms, resume it, and compare what it writes with the run ``refined``."""

    class Stop(Exception):
        pass

    @contextmanager
    def killed(stage, count, before):
        def done(number):
            if stage.startswith("tilts, iteration 1") and number == tomograms:
                raise Stop

        yield done

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stop):
        patch.setattr(checkpoint, "SYNC_SECONDS", 0.0)  # quick tomograms would be recorded, and told, together
        tilts(folder, "resumed", run=RunOptions(threads=1, progress=killed), **more)
    tilts(folder, "resumed", run=RunOptions(threads=1, resume=True), **more)
    for name in ("tilts.csv", "tomograms/tilt_series/TS_01.star", "particles.star", "fsc.csv"):
        assert filecmp.cmp(folder / "refined" / name, folder / "resumed" / name, shallow=False), name
    one, other = (read_volume(folder / name / "map.mrc").data for name in ("refined", "resumed"))
    assert np.array_equal(one, other)  # the header has the time


def test_a_run_that_was_cut_off_comes_to_the_same_bits(folder, refined):
    check_resumed(folder, 1)


def test_a_refinement_adjusts_tilts_too(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = jobs.refine(
            ListOptions(folder / "sim" / "truth.star"), output=folder / "refinement", local=LocalOptions(),
            tilts=jobs.TiltOptions(), iterations=2, search=SEARCH, run=ONE,
        )  # fmt: skip
    assert done.plan.assignment == "hard"
    before, last = done.iterations
    # Movement is that of the poses that are averaged, after the adjustment, without the drift of half 2.
    back = Pose.identity() if last.drift is None else last.drift.inverse()
    poses = half_2_moved(last.table.half_sets, last.table.poses, back)
    assert last.moved_angstrom == pytest.approx(np.median(poses.shift_distance_angstrom(before.table.poses)))
    assert set(last.tilts) == {"TS_01", "TS_02"}
    moved = written_series(folder, "refinement/iteration_002").shift_since_cut_angstrom
    assert np.abs(moved).max() > 1.0
    assert np.allclose(last.table.source.series["TS_01"].shift_since_cut_angstrom, moved, atol=1e-4)
    # The list leads to the tilts that its poses belong to, and who goes on needs these.
    refined = folder / "refinement"
    assert (refined / "tomograms" / "tomograms.star") in ListOptions(refined / "particles.star").read().files
    earlier = Earlier.read(refined)
    with pytest.raises(ArgumentError, match=r"the list has other tilts of 'TS_01', 'TS_02': cut the particles with"):
        earlier.placed(ListOptions(folder / "sim" / "truth.star").read())
    earlier.placed(ListOptions(refined / "particles.star").read())


def test_a_deformation_is_written_and_read_back(folder, tmp_path):
    jobs.simulate(
        tmp_path / "sim", phantom="sharp", count=16, box=32, voxel_size_angstrom=8.0, snr=0.5, ctf="whole", seed=4,
        run=ONE,
        stacks=StackOptions(
            tilt_step_deg=20.0, field_angstrom=1800.0, thickness_angstrom=800.0, deformation_angstrom=8.0
        ),
    )  # fmt: skip
    deformed = jobs.TiltOptions(deformation=True, tilt_deformation_sd_angstrom=10.0)
    done = tilts(tmp_path, "refined", refined=deformed)
    found, read = done.last.tilts["TS_01"], written_series(tmp_path, "refined")
    assert read.deformation_since_cut == pytest.approx(found.change.deformation, rel=1e-6, abs=1e-12)
    assert np.array_equal(read.deformation, read.deformation_since_cut)
    with (tmp_path / "refined" / "tilts.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["parameter"] == "deformation_xy"]
    assert [float(row["after"]) for row in rows] == pytest.approx(found.tilts[:, 10].tolist(), rel=1e-4)
    # Particles are loaded where they are found, by whoever reads the list with the new tilts.
    again = ListOptions(
        tmp_path / "refined" / "particles.star",
        tomograms_path=tmp_path / "refined" / "tomograms" / "tomograms.star",
    ).read()
    one, other = (table.stack_geometry(3).offsets_angstrom for table in (again, done.table))
    assert one == pytest.approx(other, abs=1e-4)
    rigid = read.deformation_since_cut @ again.stack_geometry(3).place_angstrom[:2]
    assert np.abs(rigid).max() > 2.0
    assert _same_tilts(read, read) and not _same_tilts(read, replace(read, deformation=None))
    # Series for stacks that are cut anew keep the deformation, and state no other geometry of the cut.
    rewrite_tomograms(tmp_path / "anew.star", tmp_path / "refined" / "tomograms" / "tomograms.star")
    anew = read_tilt_series(read_star(tmp_path / "anew.star"), "TS_01")
    assert anew.deformation_since_cut is None and anew.offsets_angstrom([100.0, 0.0, 0.0]) is None
    assert np.array_equal(anew.deformation, read.deformation)
    place = np.array([300.0, -200.0, 50.0])
    moved = anew.positions_angstrom(place) - replace(anew, deformation=None).positions_angstrom(place)
    assert moved == pytest.approx(read.deformation @ place[:2])
    check_resumed(tmp_path, 1, refined=deformed)


def test_inputs_that_do_not_fit_are_refused(folder):
    with pytest.raises(ArgumentError, match="must be a positive number"):
        tilts(folder, "none", refined=jobs.TiltOptions(tilt_shift_sd_angstrom=-1.0))
    with pytest.raises(ArgumentError, match="iterations must be 1 or more, got 0"):
        tilts(folder, "none", iterations=0)
    assert not (folder / "none").exists()
