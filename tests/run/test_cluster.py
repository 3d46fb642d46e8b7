"""Dask gives what this process gives, whatever happens to its workers.

Each case runs in a process of its own: Dask leaves threads behind, with which ``gonio.run.parallel`` does not fork.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from gonio.run import cluster
from gonio.run.engine import Journaled, Local
from gonio.run.journal import Journal


def squared(item: int) -> int:
    return item**2


def fails_at_seven(item: int) -> int:
    if item == 7:
        raise ValueError("particle 'seven' is no good")
    return item


class KilledOnce:
    """Ends its process at one item, the first time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, item: int) -> float:
        time.sleep(0.01)
        if item == 30 and not (self.folder / "killed").exists():
            (self.folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * 1.1


def gives_the_same(folder: Path) -> None:
    with cluster.dask(None, 3) as engine:
        assert list(engine("squares", squared, 50)) == list(Local(1)("squares", squared, 50))
        assert list(engine("none", squared, 0)) == []


def tells_the_first_error_after_what_came_before(folder: Path) -> None:
    journal = Journal.create(folder / "journal", {})
    with cluster.dask(None, 3) as engine, pytest.raises(ValueError, match="particle 'seven' is no good"):
        list(Journaled(engine, journal)("x", fails_at_seven, 20))
    assert [("x", item) in journal for item in range(9)] == [True] * 7 + [False] * 2
    journal.close()


def survives_a_worker_that_is_killed(folder: Path) -> None:
    with cluster.dask(None, 4) as engine:
        assert list(engine("killed", KilledOnce(folder), 80)) == [item * 1.1 for item in range(80)]
    assert (folder / "killed").exists()


def tells_of_a_scheduler_that_is_not_there(folder: Path) -> None:
    cluster.CONNECT_SECONDS = 0.5
    for address in ("tcp://127.0.0.1:9", str(folder / "nothing.json")):
        with pytest.raises(ValueError, match="no Dask scheduler answers at"), cluster.dask(address, 1):
            pass


CASES = [
    gives_the_same,
    tells_the_first_error_after_what_came_before,
    survives_a_worker_that_is_killed,
    tells_of_a_scheduler_that_is_not_there,
]


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs gonio[cluster]")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_dask(case, tmp_path):
    source = f"import pathlib, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_cluster; "
    command = f"test_cluster.{case.__name__}(pathlib.Path({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", source + command], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
