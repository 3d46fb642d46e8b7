"""Jobs called from Python: what their commands do, with values returned, files written and nothing printed."""

from __future__ import annotations

import json
import pickle
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import gonio
from gonio import jobs
from gonio.cli.app import run
from gonio.jobs import ListOptions, LocalOptions, RunOptions, SearchOptions
from gonio.particle.arguments import ArgumentError

pytestmark = pytest.mark.slow

BOX, VOXEL, COUNT = 16, 20.0, 12
ONE = RunOptions(threads=1)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("jobs") / "sim"
    words = f"simulate {folder} --phantom sharp --count {COUNT} --box {BOX} --voxel-size {VOXEL} --snr 2 --seed 3"
    assert run(words.split()) == 0
    return folder


@pytest.fixture
def silent(capsys):
    """Check that nothing is printed."""
    capsys.readouterr()
    yield
    assert tuple(capsys.readouterr()) == ("", "")


def test_align_returns_what_its_command_writes(simulated, tmp_path, silent):
    begun = []

    @contextmanager
    def progress(stage, count, before):
        begun.append((stage, count))
        yield lambda done: None

    aligned = jobs.align(
        ListOptions(str(simulated / "particles.star")),
        reference=str(simulated / "reference.mrc"),
        output=tmp_path / "python",
        search=SearchOptions("fcs", resolution_angstrom=80),
        run=RunOptions(threads=1, progress=progress),
        truth=simulated / "truth.star",
        seed=5,
    )
    assert begun[0] == ("align, particles", COUNT)
    assert len(aligned.results) == len(aligned.table) == COUNT
    assert np.median(aligned.errors.rotation_deg) < 15.0
    assert json.loads((tmp_path / "python" / "summary.json").read_text())["particles"] == COUNT
    assert json.loads(json.dumps(aligned.summary)) == json.loads((tmp_path / "python" / "summary.json").read_text())
    typed = (
        f"align {simulated}/particles.star --reference {simulated}/reference.mrc --score fcs --resolution 80 --seed 5"
    )
    assert run(["--quiet", *typed.split(), "--threads", "1", "-o", str(tmp_path / "typed")]) == 0
    for name in ("particles.star", "runners_up.star"):
        assert (tmp_path / "python" / name).read_bytes() == (tmp_path / "typed" / name).read_bytes()


def test_results_are_the_table_that_is_written_and_a_data_frame(simulated, tmp_path, silent):
    listed = ListOptions(simulated / "truth.star")
    aligned = jobs.align(
        listed, reference=simulated / "reference.mrc", output=tmp_path / "out", local=LocalOptions(), run=ONE
    )
    table = gonio.with_results(listed.read(), aligned.results, aligned.settings)
    written = gonio.read_particles(tmp_path / "out" / "particles.star")
    assert "change_of_orientation_deg" in table.columns
    assert set(table.columns) == set(aligned.table.columns) <= set(written.columns)
    for name, column in table.columns.items():
        np.testing.assert_array_equal(column, aligned.table.columns[name])
    frame = table.to_pandas()
    np.testing.assert_allclose(frame["dissimilarity"], written.columns["dissimilarity"], rtol=1e-5)


def test_average_returns_the_map_that_it_writes(simulated, tmp_path, silent):
    averaged = jobs.average(ListOptions(simulated / "truth.star"), output=tmp_path / "a.mrc", split=True, threads=1)
    assert averaged.average.count == COUNT
    np.testing.assert_array_equal(gonio.read_volume(tmp_path / "a.mrc").data, averaged.average.volume.data)
    assert (tmp_path / "a_half1.mrc").exists() and (tmp_path / "a.settings.toml").exists()
    assert averaged.summary["fsc_falls_at_angstrom"]["0.143"] == averaged.agreement.fsc.resolution_angstrom()


def test_pair_tells_the_hand(simulated, tmp_path, silent):
    reference = simulated / "reference.mrc"
    paired = jobs.pair(reference, reference, mirror=True, output=tmp_path / "moved.mrc")
    assert paired.hand == "as given" and 0 < paired.margin < 1
    assert paired.fits["as given"].result.pose.rotation_distance_deg(gonio.Pose.identity()) < 0.1
    np.testing.assert_array_equal(
        gonio.read_volume(tmp_path / "moved.mrc").data, paired.fits["as given"].moved.data.astype(np.float32)
    )


def test_refine_gives_every_iteration_as_it_is_done(simulated, tmp_path, silent):
    seen = []
    refined = jobs.refine(
        ListOptions(simulated / "truth.star"),
        output=tmp_path / "out",
        local=LocalOptions(max_rotation_deg=10.0),
        iterations=1,
        overlap_distance_angstrom=10.0,
        run=ONE,
        watch=seen.append,
    )
    assert seen == list(refined.iterations)
    assert refined.best is seen[0]
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["particles"] == len(refined.table) == COUNT
    assert (tmp_path / "out" / "iteration_001" / "half1.mrc").exists()


def test_classify_returns_the_list_that_it_writes(simulated, tmp_path, silent):
    seen = []
    classified = jobs.classify(
        ListOptions(simulated / "truth.star"),
        output=tmp_path / "out",
        classes=2,
        local=True,
        run=ONE,
        watch=seen.append,
    )
    assert seen == [classified.procedure] and "2 random subsets" in classified.procedure.reason
    written = gonio.read_particles(tmp_path / "out" / "particles.star")
    np.testing.assert_array_equal(written.classes, classified.found.labels)
    np.testing.assert_array_equal(written.classes, classified.table.classes)


@pytest.mark.parametrize(
    ("asked", "arguments"),
    [
        ({"search": SearchOptions(max_shift_angstrom=-1)}, ("max_shift_angstrom",)),
        ({"search": SearchOptions(score="best")}, ("score",)),
        ({"search": SearchOptions(search="stochastic", seed_interval_deg=7)}, ("seed_interval_deg",)),
        ({"local": LocalOptions(max_rotation_deg=-1)}, ("max_rotation_deg",)),
        ({"search": SearchOptions(search="stochastic"), "local": LocalOptions()}, ("search", "local")),
        ({"search": SearchOptions(resolution_angstrom=1)}, ("resolution_angstrom",)),
        ({"run": RunOptions(resume=True, overwrite=True)}, ("resume", "overwrite")),
        ({"run": RunOptions(device="gpu")}, ("device",)),
    ],
)
def test_an_error_knows_the_arguments_that_it_is_about(simulated, tmp_path, silent, asked, arguments):
    with pytest.raises(ArgumentError) as caught:
        jobs.align(
            ListOptions(simulated / "particles.star"),
            reference=simulated / "reference.mrc",
            output=tmp_path / "out",
            **{"run": ONE, **asked},
        )
    assert caught.value.arguments == arguments and caught.value.argument == arguments[0]
    assert all(name in str(caught.value) for name in arguments)
    assert not any(tmp_path.iterdir())


def test_an_error_about_arguments_goes_to_another_process_whole():
    error = ArgumentError("{} must be {least:g} or more, got {got!r}", "size", least=2, got="{}")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "size must be 2 or more, got '{}'"
    assert str(again.named(lambda name: f"--{name}")) == "--size must be 2 or more, got '{}'"
