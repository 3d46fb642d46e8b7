"""Dask gives what this process gives, whatever happens to its workers.

Each case runs in a process of its own: Dask leaves threads behind, with which ``gonio.run.parallel`` does not fork.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pytest

import listed
from gonio.alignment.particle_list import align_table
from gonio.run import cluster, provenance
from gonio.run.checkpoint import Checkpoint
from gonio.run.executor import Checkpointed, Executor, Local

pytestmark = pytest.mark.slow


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


def works_on_this_machine(folder: Path) -> None:
    cluster.ALLOWED_FAILURES = 1
    with warnings.catch_warnings(), cluster.dask(None, 3) as executor:
        warnings.simplefilter("error")
        for check in (
            listens_to_nobody_else,
            gives_the_same,
            tells_the_first_error_after_what_came_before,
            tells_errors_that_cannot_be_sent,
            carries_large_functions_without_complaint,
            gives_the_table_of_one_process,
            survives_a_worker_that_is_killed,
            gives_up_what_kills_worker_after_worker,
        ):
            check(executor, folder)


def listens_to_nobody_else(executor: Executor, folder: Path) -> None:
    """Another user of this machine finds loopback ports that want the certificate of the run, and serve no pages."""
    import psutil
    from distributed import Client
    from distributed.security import Security

    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    open_ports = [one for process in processes for one in process.net_connections("tcp") if one.status == "LISTEN"]
    assert len(open_ports) >= 3 * 2
    assert {one.laddr.ip for one in open_ports} == {"127.0.0.1"}
    for port in (one.laddr.port for one in open_ports):
        for page in ("/", "/info/main/workers.html", "/api/v1/get_workers", "/metrics"):
            with pytest.raises(OSError), urlopen(f"http://127.0.0.1:{port}{page}", timeout=5):
                pass
    address = executor._client.scheduler.addr
    for where, key in ((address, Security.temporary()), (address.replace("tls", "tcp"), None)):
        with pytest.raises(OSError), Client(where, security=key, timeout=3):
            pass


def gives_the_same(executor: Executor, folder: Path) -> None:
    assert list(executor("squares", squared, 50)) == list(Local(1)("squares", squared, 50))
    assert list(executor("none", squared, 0)) == []


def tells_the_first_error_after_what_came_before(executor: Executor, folder: Path) -> None:
    checkpoint = Checkpoint.create(folder / "journal", {})
    with pytest.raises(ValueError, match="particle 'seven' is no good"):
        list(Checkpointed(executor, checkpoint)("x", fails_at_seven, 20))
    assert [("x", item) in checkpoint for item in range(9)] == [True] * 7 + [False] * 2
    checkpoint.close()


def survives_a_worker_that_is_killed(executor: Executor, folder: Path) -> None:
    assert list(executor("killed", KilledOnce(folder), 80)) == [item * 1.1 for item in range(80)]
    assert (folder / "killed").exists()


def gives_the_table_of_one_process(executor: Executor, folder: Path) -> None:
    table, aligner = listed.listed(folder / "sim", 6), listed.aligner(folder / "sim")
    assert listed.bits(align_table(table, aligner, executor=executor)) == listed.bits(align_table(table, aligner))


def tells_of_a_scheduler_that_is_not_there(folder: Path) -> None:
    cluster.CONNECT_SECONDS = 0.5
    for address in ("tcp://127.0.0.1:9", str(folder / "nothing.json")):
        with pytest.raises(ValueError, match="no Dask scheduler answers at"), cluster.dask(address, 1):
            pass


class Unsendable(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def fails_with_what_cannot_be_sent(item: int) -> int:
    raise Unsendable("this", "that")


def tells_errors_that_cannot_be_sent(executor: Executor, folder: Path) -> None:
    with pytest.raises(RuntimeError, match="Unsendable: this and that"):
        list(executor("x", fails_with_what_cannot_be_sent, 2))


def always_killed(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def gives_up_what_kills_worker_after_worker(executor: Executor, folder: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"given up items \d to \d, with which worker after worker ended"):
        list(executor("x", always_killed, 5))


@contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen]:
    """A part of a cluster, in a process of its own."""
    command = [sys.executable, "-m", *words, "--no-dashboard"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()


def read_here(item: int) -> str:
    return Path("here.txt").read_text()


def works_with_a_scheduler_elsewhere(folder: Path) -> None:
    """In the folder of this process, on workers of any number of threads; until the scheduler goes."""
    tells_of_a_scheduler_that_is_not_there(folder)
    os.chdir(folder)
    (folder / "here.txt").write_text("here")
    file = folder / "scheduler.json"
    scheduler = ["distributed.cli.dask_scheduler", "--port", "0", "--host", "127.0.0.1", "--scheduler-file", str(file)]
    worker = ["distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "3"]
    with started(*scheduler) as process:
        while not file.exists():
            time.sleep(0.05)
        with pytest.warns(UserWarning, match="not encrypted: whoever") as told, cluster.dask(str(file), 1) as executor:
            assert len(told) == 1
            with started(*worker, env={**os.environ, "PYTHONPATH": str(folder_without_gonio(folder))}):
                refuses_workers_that_lack_gonio(executor)
            with started(*worker, cwd="/"):
                assert list(executor("read", read_here, 20)) == ["here"] * 20
                assert executor._threads() == 3
                refuses_other_versions(executor)
                results = executor("slow", slowly, 1000)
                assert next(results) == 0
                process.kill()
                with pytest.raises(OSError, match="scheduler is gone"):
                    list(results)


def folder_without_gonio(folder: Path) -> Path:
    (folder / "none" / "gonio").mkdir(parents=True)
    (folder / "none" / "gonio" / "__init__.py").write_text("raise ImportError('there is no gonio')")
    return folder / "none"


def refuses_workers_that_lack_gonio(executor: Executor) -> None:
    with pytest.raises(ValueError, match=r"lack what this process has \(ImportError: there is no gonio\)"):
        list(executor("x", math.sqrt, 3))


def refuses_other_versions(executor: Executor) -> None:
    cluster.versions = lambda: {**provenance.versions(), "numpy": "0.1"}
    with pytest.raises(ValueError, match=r"worker on .* has numpy .*, this process 0.1"):
        list(executor("x", squared, 3))
    cluster.versions = provenance.versions


def slowly(item: int) -> int:
    time.sleep(0.05)
    return item


class Large:
    """Holds as much as the spectrum of a large reference."""

    def __init__(self) -> None:
        self.array = np.arange(3_000_000, dtype=np.float64)

    def __call__(self, item: int) -> float:
        return self.array[item]


def carries_large_functions_without_complaint(executor: Executor, folder: Path) -> None:
    assert list(executor("large", Large(), 6)) == [0, 1, 2, 3, 4, 5]


CASES = [
    works_on_this_machine,
    works_with_a_scheduler_elsewhere,
]


@pytest.mark.skipif(find_spec("distributed") is None, reason="needs gonio[cluster]")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_dask(case, tmp_path):
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    source = f"import pathlib, test_cluster; test_cluster.{case.__name__}(pathlib.Path({str(tmp_path)!r}))"
    command = [sys.executable, "-c", source]
    options = {"stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONPATH": path}, "start_new_session": True}
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            error = process.communicate(timeout=600)[1]
        finally:  # whatever it has begun
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, error
