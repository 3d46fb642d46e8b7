"""Compiled code that was kept is used again, only where it is right, and never stands in the way."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numba
import numpy as np
import pytest

from gonio.kernels import compiled as kept
from gonio.kernels.compiled import SUFFIX, compiled

pytestmark = pytest.mark.slow

LOOPS = """
from mathematics import weighted
from gonio.kernels.compiled import compiled

@compiled
def total(values):
    result = 0.0
    for value in values:
        result += weighted(value)
    return result
"""
MATHEMATICS = """
from numba import njit

@njit(inline="always")
def weighted(value):
    return {weight} * value
"""
VALUES = np.arange(4.0)
SUM = 6.0
USE_ONCE = """
import numpy as np
from loops import total
print(total(np.arange(4.0)), total.stats.cache_hits.total(), total.stats.cache_misses.total())
"""


def write_kernel(folder: Path, *, weight: float = 1.0) -> Path:
    """A loop, and in a file beside it the mathematics that is compiled into it."""
    folder.mkdir(exist_ok=True)
    (folder / "mathematics.py").write_text(MATHEMATICS.format(weight=weight))
    (folder / "loops.py").write_text(LOOPS)
    return folder


@pytest.fixture
def fresh(monkeypatch):
    """Gives a function that loads the loop of a folder as a new process would."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # sources change within one tick of the clock

    def module(name: str, folder: Path):
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)
        spec.loader.exec_module(made)
        return made

    def load(folder: Path):
        kept._state.cache_clear()
        module("mathematics", folder)
        return module("loops", folder).total

    yield load
    kept._state.cache_clear()


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The folder that code is kept in."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "gonio"


def hits(total, values=VALUES) -> int:
    """How often code was had from the cache, after a call that must give the right sum."""
    assert total(values) == pytest.approx(SUM)
    return total.stats.cache_hits.total()


def use_at_once(folder: Path, count: int, **environment: str) -> list[list[float]]:
    """Processes that start together: sum, hits and misses of each."""
    source = str(Path(kept.__file__).parents[2])
    path = os.pathsep.join(filter(None, [str(folder), source, os.environ.get("PYTHONPATH")]))
    command, full = [sys.executable, "-c", USE_ONCE], {**os.environ, "PYTHONPATH": path, **environment}
    running = [
        subprocess.Popen(command, env=full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    ends = [process.communicate() for process in running]
    codes = [process.returncode for process in running]
    assert (codes, {errors for _, errors in ends}) == ([0] * count, {""})
    return [[float(word) for word in printed.split()] for printed, _ in ends]


def test_processes_that_start_together_leave_whole_files_which_the_next_one_uses(tmp_path):
    folder, place = write_kernel(tmp_path / "kernels"), tmp_path / "cache"
    first = use_at_once(folder, 8, NUMBA_CACHE_DIR=str(place))
    assert {total for total, _, _ in first} == {SUM}
    (file,) = (place / "gonio").iterdir()
    assert file.suffix == SUFFIX
    assert use_at_once(folder, 1, NUMBA_CACHE_DIR=str(place)) == [[SUM, 1, 0]]


def test_code_is_used_again(tmp_path, cache, fresh):
    folder = write_kernel(tmp_path / "kernels")
    assert hits(fresh(folder)) == 0
    assert hits(fresh(folder)) == 1


def test_a_change_of_the_mathematics_beside_a_loop_is_seen(tmp_path, cache, fresh):
    assert fresh(write_kernel(tmp_path / "kernels", weight=1.0))(VALUES) == SUM
    doubled = fresh(write_kernel(tmp_path / "kernels", weight=2.0))
    assert doubled(VALUES) == 2 * SUM
    assert doubled.stats.cache_hits.total() == 0
    assert hits(fresh(write_kernel(tmp_path / "kernels", weight=1.0))) == 1


def test_every_signature_has_its_own_code(tmp_path, cache, fresh):
    folder, single = write_kernel(tmp_path / "kernels"), VALUES.astype(np.float32)
    assert hits(fresh(folder)) == 0
    assert hits(fresh(folder), single) == 0
    assert hits(fresh(folder), single) == hits(fresh(folder)) == 1


@pytest.mark.parametrize("what", ["numba", "processor"])
def test_code_of_another_numba_or_processor_is_left_alone(what, tmp_path, cache, fresh, monkeypatch):
    folder = write_kernel(tmp_path / "kernels")
    hits(fresh(folder))
    if what == "numba":
        monkeypatch.setattr(numba, "__version__", "0.0")
    else:
        codegen = type(fresh(folder).targetctx.codegen())
        monkeypatch.setattr(codegen, "_get_host_cpu_name", lambda self: "another")
    assert hits(fresh(folder)) == 0
    assert len(list(cache.iterdir())) == 2


DAMAGE = {
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "one byte": lambda whole: whole[:-1] + bytes([whole[-1] ^ 1]),
    "zeros": lambda whole: bytes(len(whole)),
    "another program's": lambda whole: kept.hashlib.sha256(b"words").digest() + b"words",
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_broken_file_is_replaced(damage, tmp_path, cache, fresh):
    folder = write_kernel(tmp_path / "kernels")
    hits(fresh(folder))
    (file,) = cache.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert hits(fresh(folder)) == 0
    assert hits(fresh(folder)) == 1


def test_where_the_sources_may_not_be_written_the_users_cache_is_used(tmp_path, fresh, monkeypatch):
    folder, home = write_kernel(tmp_path / "kernels"), tmp_path / "home"
    (folder / "__pycache__").write_text("a file in the folder's place: not even root can write in it")
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(name, str(home))
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    assert [hits(fresh(folder)) for _ in range(2)] == [0, 1]
    assert len(list(home.rglob(f"*{SUFFIX}"))) == 1


def test_where_nothing_may_be_written_kernels_still_work(tmp_path, fresh, monkeypatch):
    folder, blocked = write_kernel(tmp_path / "kernels"), tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(blocked / "cache"))
    assert [hits(fresh(folder)) for _ in range(2)] == [0, 0]
    assert [path.name for path in tmp_path.rglob(f"*{SUFFIX}")] == []


def test_old_code_makes_room(tmp_path, cache, fresh, monkeypatch):
    monkeypatch.setattr(kept, "KEPT", 2)
    for weight in (1.0, 2.0, 3.0):
        fresh(write_kernel(tmp_path / "kernels", weight=weight))(VALUES)
        for age, file in enumerate(sorted(cache.iterdir(), key=lambda file: -file.stat().st_mtime)):
            os.utime(file, (1e9 - age, 1e9 - age))
    assert len(list(cache.iterdir())) == 2
    assert hits(fresh(write_kernel(tmp_path / "kernels", weight=1.0))) == 0


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="folders have no owner")
@pytest.mark.parametrize("planted", ["folder", "file", "link", "other's folder", "other's file"])
def test_code_that_others_may_have_written_is_not_loaded(planted, tmp_path, cache, fresh, monkeypatch):
    """It would run: here it is right code, so that only the count of loads shows that it was."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    folder = write_kernel(tmp_path / "kernels")
    assert [hits(fresh(folder)) for _ in range(2)] == [0, 1]
    (file,) = cache.iterdir()
    if planted == "folder":
        cache.chmod(0o777)
    elif planted == "file":
        file.chmod(0o666)
    elif planted == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        mine = os.geteuid()
        (cache if "folder" in planted else file).chmod(0o755)
        if mine == 0:
            os.chown(cache if "folder" in planted else file, 1234, 1234)
        else:
            pytest.skip("only root can give a file to another user")
    kept._folders.cache_clear()
    if "folder" in planted:
        with pytest.warns(UserWarning, match=r"others may write to .*gonio, from where compiled code would be loaded"):
            assert hits(fresh(folder)) == 0
        assert hits(fresh(folder)) == 1  # from the private one
        (private,) = (tmp_path / "temporary").iterdir()
        assert private.stat().st_mode & 0o777 == 0o700
    else:
        assert hits(fresh(folder)) == 0
        assert hits(fresh(folder)) == 1  # it was replaced by one's own


def test_a_function_without_a_file_is_compiled_and_not_kept(cache):
    names: dict = {}
    exec(compile("def twice(x):\n    return 2 * x", "<typed in>", "exec"), names)
    assert compiled(names["twice"])(3) == 6
    assert not cache.exists()
