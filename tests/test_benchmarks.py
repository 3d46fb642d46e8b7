"""The benchmarks run and say what was timed; no test here depends on how fast anything is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import gonio

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import kernels
import many
import memory
import table
from plan import QUICK

pytestmark = pytest.mark.slow

RUN_ALL = Path(kernels.__file__).with_name("run_all.py")
# Starting fresh processes without compiled kernels takes longer than all of these together.
PARTS = ("kernels", "one_pair", "many", "all_pairs", "memory")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[str, dict]:
    """What a glance prints, and what it writes."""
    out = tmp_path_factory.mktemp("benchmarks") / "found.json"
    command = [sys.executable, RUN_ALL, "--quick", "--pairs", "1", "--out", out, "--only", *PARTS]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(out.read_text())


def test_every_part_tells_times_and_prints_them(run):
    printed, found = run
    assert tuple(found["parts"]) == PARTS
    for part, rows in found["parts"].items():
        assert f"## {part}\n" in printed
        timed = [row for row in rows if row["seconds"] is not None]
        assert timed and all(np.isfinite([row["seconds"], row["busy"]]).all() and row["per"] for row in timed)
        assert all(row["ratio"] > 0 for row in timed if row["beside"])
        assert all(row["what"] in printed for row in rows)
    assert f"numba {found['machine']['numba']}" in printed


def test_every_search_is_timed_beside_the_scan(run):
    names = [row["what"] for row in run[1]["parts"]["one_pair"]]
    for name in ("all orientations", "local", "paper's search, rcs", "paper's search, fcs", "scan with SciPy, order 3"):
        assert any(word.startswith(name) and "box 32" in word for word in names), name


def test_two_threads_found_the_same(run):
    notes = [row["note"] for row in run[1]["parts"]["many"] if row["note"]]
    assert len(notes) == 4
    assert all("same bits" in note for note in notes)


def test_all_pairs_of_the_set_are_aligned(run):
    count = QUICK.set_size * (QUICK.set_size - 1) // 2
    assert any(row["note"].startswith(f"{count} pairs") for row in run[1]["parts"]["all_pairs"])


def test_c_and_gonio_compute_the_same(tmp_path):
    loops = kernels.compiled_loops(tmp_path)
    if loops is None:
        pytest.skip("there is no C compiler on this machine")
    pair = kernels.Pair(32, 3)
    assert pair.difference(loops) < kernels.TOLERANCE
    pair.phase *= 1.1  # C is given other shifts: would that be seen?
    assert pair.difference(loops) > kernels.TOLERANCE


def test_without_a_compiler_the_c_loop_is_left_out(monkeypatch):
    monkeypatch.setattr(kernels.shutil, "which", lambda name: None)
    rows = kernels.run(replace(QUICK, poses=2))
    assert any(row.what == "plain C" and "no compiler" in row.note for row in rows)
    assert [row.what for row in rows if row.seconds] == ["value, 8 shells, gonio", "normal equations, 8 shells, gonio"]


def test_things_are_timed_in_turns():
    calls = []
    ways = {name: lambda index, name=name: calls.append((name, index)) for name in "ab"}
    seconds = table.in_turns(ways, 2)
    assert calls == [("a", 0), ("b", 0), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: times.shape for name, times in seconds.items()} == {"a": (2, 2), "b": (2, 2)}


def test_ratios_are_medians_of_ratios_within_a_round():
    times = np.array([[1.0, 0.8], [10.0, 0.8], [1.0, 0.8]])  # the machine was busy in the second round
    first, second = table.rows_of({"a": times, "b": 2 * times}, "call", beside="a", divisors={"b": 4.0})
    assert (first.seconds, first.busy, first.ratio, first.beside) == (1.0, 0.8, None, "")
    assert (second.seconds, second.busy, second.ratio, second.beside) == (0.5, 0.4, 0.5, "a")
    third = table.rows_of({"a": times, "b": times * [1.0, 3.0]}, "call", beside="a", clock=table.BUSY)[1]
    assert third.ratio == pytest.approx(3.0)


def test_peak_memory_is_that_of_the_process_itself():
    held = np.ones(2**25)  # 256 MB here, which a process that is started from here must not count
    command = [sys.executable, "-c", "import memory; print(memory.most_memory_bytes())"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(RUN_ALL.parent), *filter(None, sys.path)])}
    started = int(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
    assert 2**24 < started < held.nbytes < memory.most_memory_bytes()


@pytest.mark.parametrize(
    ("seconds", "text"), [(75.0, "75 s"), (0.0123, "12.3 ms"), (4.5e-6, "4.5 us"), (3e-10, "0.3 ns")]
)
def test_times_have_the_unit_that_suits_them(seconds, text):
    assert table.span(seconds) == text


def test_one_bit_makes_results_differ():
    volume = gonio.Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), 10.0)
    aligner = gonio.Aligner(volume, gonio.Settings(search="local", inputs="plain"))
    result = aligner.align(gonio.Subtomogram(volume), start=gonio.Pose.identity())
    other = replace(result, dissimilarity=np.nextafter(result.dissimilarity, 1.0))
    assert many.same_bits([result], [result])
    assert not many.same_bits([result], [other])
    assert not many.same_bits([result], [])
