"""``gonio tilts``: what it writes, that others read it back, runs that are cut off, and inputs that do not fit."""

from __future__ import annotations

import csv
import filecmp
import json
import warnings
from contextlib import contextmanager

import numpy as np
import pytest

from gonio import jobs
from gonio.cli.app import run
from gonio.io import read_volume
from gonio.io.errors import FormatError
from gonio.io.tilt_tables import read_tilt_changes, tilt_changes_text
from gonio.jobs import ListOptions, LocalOptions, RunOptions, SearchOptions
from gonio.jobs.simulate_stacks import StackOptions
from gonio.particle.arguments import ArgumentError
from gonio.particle.tilt_change import TiltChange

pytestmark = pytest.mark.slow

ONE = RunOptions(threads=1)
SEARCH = SearchOptions(particle_diameter_angstrom=200.0, resolution_angstrom=24.0)
ERRORS = {"shift_error_angstrom": 8.0, "tilt_error_deg": 0.5, "axis_error_deg": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen particles in two tomograms whose tilts are off, at their true poses."""
    path = tmp_path_factory.mktemp("tilts")
    jobs.simulate(
        path / "sim", phantom="sharp", count=16, box=32, voxel_size_angstrom=8.0, snr=0.3, ctf="truncated", seed=2,
        run=ONE,
        stacks=StackOptions(
            tomograms=2, tilt_step_deg=12.0, field_angstrom=1500.0, thickness_angstrom=800.0, **ERRORS
        ),
    )  # fmt: skip
    return path


def tilts(folder, name, **more):
    reference = folder / "sim" / "reference.mrc"
    given = {"reference": (reference, reference), "search": SEARCH, "run": ONE, **more}
    return jobs.tilts(ListOptions(folder / "sim" / "truth.star"), output=folder / name, **given)


@pytest.fixture(scope="module")
def refined(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tilts(folder, "refined")


def true_shifts(folder):
    with (folder / "sim" / "truth" / "tilts.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    return np.array([[float(row["shift_x"]), float(row["shift_y"])] for row in rows])


def test_it_finds_the_tilts_and_writes_how_sure_it_is(folder, refined):
    changes = read_tilt_changes(folder / "refined" / "tilt_changes.csv")
    found = np.concatenate([one.shift_angstrom for one in changes.values()])
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
    words = ["average", f"{folder}/refined/particles.star", "--tilt-changes", f"{folder}/refined/tilt_changes.csv"]
    assert run([*words, "-o", f"{folder}/after.mrc", "--threads", "1"]) == 0
    again = jobs.average(
        ListOptions(folder / "refined" / "particles.star", tilt_changes=folder / "refined" / "tilt_changes.csv"),
        output=folder / "again.mrc",
        threads=1,
    )
    expected = refined.last.average.volume.data
    # Angles and shifts are texts of some digits in the list.
    assert np.abs(again.average.volume.data - expected).max() < 5e-3 * np.abs(expected).max()


def test_the_tilt_series_that_are_written_show_the_same_as_the_changes(folder, refined):
    series = folder / "refined" / "tomograms" / "tomograms.star"
    again = jobs.average(
        ListOptions(folder / "refined" / "particles.star", tomograms_path=series),
        output=folder / "of_series.mrc",
        threads=1,
    )
    expected = refined.last.average.volume.data
    assert np.abs(again.average.volume.data - expected).max() < 5e-3 * np.abs(expected).max()
    changes = folder / "refined" / "tilt_changes.csv"
    twice = ListOptions(folder / "refined" / "particles.star", tomograms_path=series, tilt_changes=changes)
    with pytest.raises(ArgumentError, match="exclude each other"):
        twice.read()
    with pytest.raises(ArgumentError, match="extract again"):
        jobs.tilts(ListOptions(folder / "refined" / "particles.star", tomograms_path=series), output=folder / "no")


def test_a_run_that_was_cut_off_comes_to_the_same_bits(folder, refined):
    class Stop(Exception):
        pass

    @contextmanager
    def killed(stage, count, before):
        def done(number):
            if stage.startswith("tilts, iteration 1") and number == 1:
                raise Stop

        yield done

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(Stop):
            tilts(folder, "resumed", run=RunOptions(threads=1, progress=killed))
        tilts(folder, "resumed", run=RunOptions(threads=1, resume=True))
    for name in ("tilts.csv", "tilt_changes.csv", "particles.star", "fsc.csv"):
        assert filecmp.cmp(folder / "refined" / name, folder / "resumed" / name, shallow=False), name
    one, other = (read_volume(folder / name / "map.mrc").data for name in ("refined", "resumed"))
    assert np.array_equal(one, other)  # the header has the time


def test_a_refinement_adjusts_tilts_too(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        done = jobs.refine(
            ListOptions(folder / "sim" / "truth.star"), output=folder / "refinement", local=LocalOptions(),
            tilts=jobs.TiltOptions(), iterations=2, search=SEARCH, run=ONE,
        )  # fmt: skip
    last = done.iterations[-1]
    assert set(last.tilts) == {"TS_01", "TS_02"}
    changes = read_tilt_changes(folder / "refinement" / "iteration_002" / "tilt_changes.csv")
    assert np.abs(changes["TS_01"].shift_angstrom).max() > 1.0
    assert set(last.table.source.changes) == {"TS_01", "TS_02"}


def test_changes_round_trip(tmp_path):
    rng = np.random.default_rng(0)
    shapes = ((3, 2), (3, 3), (3,), (3, 2))
    changes = {"a": TiltChange(*(rng.normal(size=shape) for shape in shapes), rng.uniform(0.5, 2.0, 3))}
    changes['b,"'] = TiltChange.none(1)
    path = tmp_path / "changes.csv"
    path.write_text(tilt_changes_text(changes))
    again = read_tilt_changes(path)
    assert list(again) == list(changes)
    for name, one in changes.items():
        for field in ("shift_angstrom", "rotation_deg", "defocus_angstrom", "astigmatism_angstrom", "scale"):
            assert np.array_equal(getattr(again[name], field), getattr(one, field))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "has no column tomogram"),
        ("tomogram,tilt\n", "has no column shift_x_angstrom"),
        ("HEAD\na,1,0,0,0,0,0,0,0,0\n", "line 2 is not a row of its 11 columns"),
        ("HEAD\na,1,0,0,0,0,0,x,0,0,1\n", "line 2 is not a row"),
        ("HEAD\na,2,0,0,0,0,0,0,0,0,1\n", "line 2 is image 2 of 'a' after 0"),
        ("HEAD\na,1,0,0,0,0,0,nan,0,0,1\n", "finite"),
    ],
)
def test_broken_tables_are_named(tmp_path, text, problem):
    head = tilt_changes_text({}).strip()
    path = tmp_path / "changes.csv"
    path.write_text(text.replace("HEAD", head))
    with pytest.raises(FormatError, match=problem):
        read_tilt_changes(path)


def test_inputs_that_do_not_fit_are_refused(folder):
    with pytest.raises(ArgumentError, match="must be a positive number"):
        tilts(folder, "none", refined=jobs.TiltOptions(tilt_shift_sd_angstrom=-1.0))
    changes = folder / "wrong.csv"
    changes.write_text(tilt_changes_text({name: TiltChange.none(3) for name in ("TS_01", "TS_02")}))
    with pytest.raises(ValueError, match="11 tilts, the change of its geometry 3"):
        jobs.average(ListOptions(folder / "sim" / "truth.star", tilt_changes=changes), output=folder / "x.mrc")
    changes.write_text(tilt_changes_text({"TS_01": TiltChange.none(11)}))
    with pytest.raises(FormatError, match="has no tomogram 'TS_02'"):
        jobs.average(ListOptions(folder / "sim" / "truth.star", tilt_changes=changes), output=folder / "x.mrc")
    assert not (folder / "none").exists() and not (folder / "x.mrc").exists()
