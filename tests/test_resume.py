"""A run that was cut off goes on, whoever does the work, and comes to the same files; kills: run/test_killed.py."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TABLES = ("particles.star", "runners_up.star")


def gonio(folder: Path, *words: str, status: int = 0) -> str:
    """Run the command line and return what it says of what went wrong."""
    done = subprocess.run(
        [sys.executable, "-m", "gonio", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    return done.stderr


def align(folder: Path, name: str, *more: str, status: int = 0) -> str:
    words = ("align", "sim/particles.star", "--reference", "sim/reference.mrc", "-o", name, *more)
    return gonio(folder, *words, status=status)


def same(folder: Path, one: str, other: str) -> bool:
    return all(filecmp.cmp(folder / one / table, folder / other / table, shallow=False) for table in TABLES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Simulated particles, and an undisturbed alignment of them by one process."""
    path = tmp_path_factory.mktemp("runs")
    gonio(path, "simulate", "sim", "--phantom", "sharp", "--count", "12", "--snr", "0.5")
    align(path, "undisturbed", "--threads", "1")
    return path


def test_processes_come_to_the_same_files(folder):
    align(folder, "two", "--threads", "2")
    assert same(folder, "undisturbed", "two")


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs gonio[cluster]")
def test_dask_comes_to_the_same_files(folder):
    align(folder, "dask", "--dask", "local", "--threads", "2")
    assert same(folder, "undisturbed", "dask")


def test_a_particle_that_was_repaired_is_done_and_the_others_are_not_again(folder):
    image = folder / "sim" / "particles" / "07.mrc"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    assert "particle 'simulated/7'" in align(folder, "repaired", "--threads", "1", status=2)
    assert sorted(path.name for path in (folder / "repaired").iterdir()) == [".gonio"]
    assert "holds a run that was cut off" in align(folder, "repaired", status=2)
    image.write_bytes(content)
    assert "of 12" in align(folder, "repaired", "--resume", "--threads", "1")
    assert same(folder, "undisturbed", "repaired")


def test_what_has_changed_since_is_refused_by_name(folder):
    image = folder / "sim" / "particles" / "07.mrc"
    content = image.read_bytes()
    image.write_bytes(content[: len(content) // 2])
    align(folder, "changed", "--threads", "1", status=2)
    image.write_bytes(content)
    told = align(folder, "changed", "--resume", "--resolution", "50", status=2)
    assert "settings.alignment.resolution_angstrom was None, is 50.0" in told
    earlier = folder / "sim" / "particles" / "02.mrc"
    earlier.touch()
    assert "02.mrc has changed since it was read" in align(folder, "changed", "--resume", status=2)
    align(folder, "changed", "--overwrite", "--threads", "1")
    assert same(folder, "undisturbed", "changed")
