"""A run that was cut off goes on, whoever does the work, and comes to the same files; kills: run/test_killed.py."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gonio.cli.app import run
from listed import simulated

pytestmark = pytest.mark.slow

TABLES = ("particles.star", "runners_up.star")
COUNT = 6


def words(folder: Path, name: str, *more: str) -> list[str]:
    files = [f"{folder}/sim/particles.star", "--reference", f"{folder}/sim/reference.mrc"]
    return ["align", *files, "-o", f"{folder}/{name}", *more]


def align(folder: Path, name: str, *more: str, status: int = 0) -> None:
    assert run(words(folder, name, "--threads", "1", *more)) == status


def align_elsewhere(folder: Path, name: str, *more: str) -> None:
    """In a process that has no threads of other tests, with which none is forked."""
    command = [sys.executable, "-m", "gonio", *words(folder, name, *more)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def same(folder: Path, one: str, other: str) -> bool:
    return all(filecmp.cmp(folder / one / table, folder / other / table, shallow=False) for table in TABLES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Simulated particles, and an undisturbed alignment of them by one process."""
    path = tmp_path_factory.mktemp("runs")
    simulated(path / "sim", COUNT)
    align(path, "undisturbed")
    return path


def test_processes_come_to_the_same_files(folder):
    align_elsewhere(folder, "two", "--threads", "2")
    assert same(folder, "undisturbed", "two")


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs gonio[cluster]")
def test_dask_comes_to_the_same_files(folder):
    align_elsewhere(folder, "dask", "--dask", "local", "--threads", "2")
    assert same(folder, "undisturbed", "dask")


def test_a_particle_that_was_repaired_is_done_and_the_others_are_not_again(folder, capsys):
    image = folder / "sim" / "particles" / "4.mrc"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    align(folder, "repaired", status=2)
    assert "particle 'simulated/4'" in capsys.readouterr().err
    assert sorted(path.name for path in (folder / "repaired").iterdir()) == [".gonio"]
    align(folder, "repaired", status=2)
    assert "holds a run that was cut off" in capsys.readouterr().err
    image.write_bytes(content)
    align(folder, "repaired", "--resume")
    assert f"of {COUNT}" in capsys.readouterr().err
    assert same(folder, "undisturbed", "repaired")


def test_what_has_changed_since_is_refused_by_name(folder, capsys):
    image = folder / "sim" / "particles" / "4.mrc"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    align(folder, "changed", status=2)
    image.write_bytes(content)
    align(folder, "changed", "--resume", "--resolution", "50", status=2)
    assert "settings.alignment.resolution_angstrom was None, is 50.0" in capsys.readouterr().err
    earlier = folder / "sim" / "particles" / "2.mrc"
    earlier.touch()
    align(folder, "changed", "--resume", status=2)
    assert "2.mrc has changed since it was read" in capsys.readouterr().err
    align(folder, "changed", "--overwrite")
    assert same(folder, "undisturbed", "changed")
