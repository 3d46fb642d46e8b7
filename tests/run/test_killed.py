"""``gonio align``, killed whenever it may be and resumed, gives the tables of a run that was left alone.

The command runs in forks of this process, which has imported and compiled all that it needs; ``experiments/killed.py``
does it with whole processes, longer and more often.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import sys
import time

import pytest

import listed
from gonio.cli.app import run

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a process is forked as it stands")

COUNT = 6
TABLES = ("particles.star", "runners_up.star")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return listed.simulated(tmp_path_factory.mktemp("killed") / "sim", COUNT).parent


def words(folder, name, *more):
    files = [f"{folder}/sim/particles.star", "--reference", f"{folder}/sim/reference.mrc"]
    return ["align", *files, "-o", f"{folder}/{name}", *more]


def tables(folder, name):
    return [(folder / name / table).read_bytes() for table in TABLES]


@pytest.fixture(scope="module")
def undisturbed(folder):
    """The tables of a run that was left alone."""
    assert run(words(folder, "undisturbed", "--threads", "1")) == 0
    return tables(folder, "undisturbed")


def begun(folder, name):
    """A process that aligns on two workers, resuming what it finds."""
    sys.stdout.flush()

    def quietly():
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        os._exit(run(words(folder, name, "--resume", "--threads", "2")))

    process = multiprocessing.get_context("fork").Process(target=quietly)
    process.start()
    return process


def killed(process, sign):
    """Kill it as soon as there is a sign; whether it was there to be killed."""
    while not sign() and process.is_alive():
        time.sleep(0.0005)
    process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def killed_at(folder, name, sign):
    """Kill a run as soon as a file is there; one that was quicker than this process is begun again."""
    for _ in range(20):
        if killed(begun(folder, name), (folder / sign).exists):
            return
        shutil.rmtree(folder / name)
    raise AssertionError(f"no run was killed while there was a {sign}")


def ends_as(folder, name, expected):
    process = begun(folder, name)
    process.join()
    assert process.exitcode == 0 or not (folder / name / ".gonio").exists()
    assert tables(folder, name) == expected
    assert not [path for path in folder.iterdir() if path.name.startswith(f".{name}")]
    assert sorted(path.name for path in (folder / name).iterdir()) == sorted(
        path.name for path in (folder / "undisturbed").iterdir()
    )


def test_killed_at_random_as_it_aligns(folder, undisturbed):
    """Before anything was done, and when so many bytes more are in the checkpoint: 2 kB for a particle."""
    rng, there, checkpoint = random.Random(0), 0, folder / "any" / ".gonio" / "journal"
    for _ in range(4):
        size = (checkpoint.stat().st_size if checkpoint.exists() else 0) + rng.randint(0, 4000)
        there += killed(
            begun(folder, "any"), lambda size=size: checkpoint.exists() and checkpoint.stat().st_size >= size
        )
    assert there
    ends_as(folder, "any", undisturbed)


@pytest.mark.parametrize(
    ("name", "sign"),
    [("journals", "journals/.gonio/journal"), ("writes", ".writes.tmp"), ("last", ".last.tmp/settings.toml")],
)
def test_killed_as_it_journals_and_writes(folder, undisturbed, name, sign):
    killed_at(folder, name, sign)
    ends_as(folder, name, undisturbed)


def test_a_run_that_was_killed_is_told_of(folder, undisturbed, capsys):
    killed_at(folder, "told", "told/.gonio/journal")
    assert run(words(folder, "told")) == 2
    assert "holds a run that was cut off (gonio" in (error := capsys.readouterr().err)
    assert "pass --resume to go on with it, or --overwrite to begin again" in error
    assert run([*words(folder, "told", "--resume"), "--score", "fcs"]) == 2
    assert "this is not the run that was cut off: settings.alignment.score was rcs, is fcs" in capsys.readouterr().err
    assert run(words(folder, "told", "--overwrite", "--threads", "1")) == 0
    assert tables(folder, "told") == undisturbed


def test_an_error_says_that_what_was_done_is_kept(folder, undisturbed, tmp_path, capsys):
    shutil.copytree(folder / "sim", tmp_path / "sim")
    last = tmp_path / "sim" / "particles" / f"{COUNT}.mrc"
    content = last.read_bytes()
    last.write_bytes(content[:2000])
    assert run(words(tmp_path, "spoilt", "--threads", "1")) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert f"{last}: is truncated" in line
    assert line.endswith(f"what was done is kept in {tmp_path}/spoilt: go on with --resume")
    last.write_bytes(content)
    assert run(words(tmp_path, "spoilt", "--resume")) == 0
    assert tables(tmp_path, "spoilt") == undisturbed


def test_options_that_exclude_each_other(folder, capsys):
    for more, told in (
        (["--resume", "--overwrite"], "--resume and --overwrite exclude each other"),
        (["--dask", "local", "--scheduler", "tcp://a:1"], "--dask and --scheduler exclude each other"),
        (["--dask", "cluster"], "--dask must be local, got 'cluster'"),
    ):
        assert run(words(folder, "not", *more)) == 2
        assert told in capsys.readouterr().err
    assert not (folder / "not").exists()


def test_without_dask_one_line_says_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert run(words(folder, "not", "--dask", "local")) == 2
    assert capsys.readouterr().err == "gonio: error: Dask is not installed: pip install 'gonio[cluster]'\n"
    assert not (folder / "not").exists()
