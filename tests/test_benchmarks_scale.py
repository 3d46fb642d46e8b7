"""The costs of an item are told for every stage, and what saturates first follows from them."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import scale
from scale import BY_DASK, DASK_MEGABYTE, PUT_DOWN, TAKEN, TAKEN_MEGABYTE, TASK, Cost, Found, Weighing

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def printed() -> str:
    """What a glance prints."""
    command = [sys.executable, scale.__file__, "--quick", "--rows", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_glance_prints_every_table(printed: str) -> None:
    costs, sent, collected, lists, saturation = printed.strip().split("\n\n")
    for stage in ("reading by row", "aligning, all orientations", "aligning, local", "reading and averaging"):
        assert f"{stage} |" in costs
    assert costs.count("| 132.1 KB |") == 4, "32^3 float32 and a header of 1024 bytes"
    assert sent.count("MB") == 2
    assert (BY_DASK in collected) == (importlib.util.find_spec("distributed") is not None)
    assert PUT_DOWN in collected and TAKEN in collected
    assert [line.split(" | ")[0] for line in lists.splitlines()[2:]] == ["| 20", "| 200"]
    assert saturation.count("(") >= 3 * 3, "three stages at three numbers of cores"


def test_what_is_sent_and_comes_back_is_weighed() -> None:
    weighing = Weighing()
    assert list(weighing("stage", bytes, 4)) == [bytes(item) for item in range(4)]
    assert weighing.sent_bytes == len(pickle.dumps(bytes, protocol=5))
    # The first is left out: bytes(1), bytes(2), bytes(3) are left.
    assert weighing.cost().back_bytes == len(pickle.dumps(bytes(2), protocol=5))


def found(cost: Cost, *, put_down: float = 1e-5, task: float = 5e-3) -> Found:
    """One stage, and a process that collects."""
    collected = {
        TAKEN: Cost(1e-4, 0, 2000),
        PUT_DOWN: Cost(put_down, 0, 2000),
        TASK: Cost(task),
        BY_DASK: Cost(1e-5, 0, 2000),
        TAKEN_MEGABYTE: Cost(1e-3),
        DASK_MEGABYTE: Cost(4e-3),
    }
    return Found({32: {"reading and aligning": cost}}, {}, collected, [])


@pytest.mark.parametrize(
    ("cost", "put_down", "first"),
    [
        (Cost(10.0, 130_000, 2000), 1e-5, "cores"),  # ten seconds each: nothing else has much to do
        (Cost(0.1, 10**9, 2000), 1e-5, "network"),  # a gigabyte for every item
        (Cost(1e-2, 1000, 2000), 1e-2, "collecting"),  # each takes as long to put down as to make
    ],
)
def test_the_slowest_part_is_what_is_waited_for(cost: Cost, put_down: float, first: str) -> None:
    ((box, _, *times, full),) = scale.saturation_lines(found(cost, put_down=put_down), 1000)
    assert box == "32"
    assert times[-1].endswith(f"({first})")
    if first != "cores":
        assert full.startswith(first)


def test_times_of_all_follow_from_the_slowest_part() -> None:
    cost = Cost(0.1, 1000, 2000)
    waits = scale.limits(found(cost), cost, cores=512, kept=True)
    assert waits["cores"] == pytest.approx(0.1 / 512)
    assert waits["disk"] == pytest.approx(1000 / scale.DISK_BYTES)
    assert waits["network"] == pytest.approx(3000 / scale.NETWORK_BYTES)
    # Five items of a tenth of a second to a task of half a second, a result for each, and a record.
    pytest.importorskip("distributed")
    assert waits["collecting"] == pytest.approx(5e-3 / 5 + 1e-5 + 1e-5)


def test_sums_of_many_rows_come_back_at_once() -> None:
    pytest.importorskip("distributed")
    cost = Cost(0.05, 1000, 100_000, rows=32)  # 1.6 s and 3.2 MB a result, each a task of its own
    waits = scale.limits(found(cost), cost, cores=512, kept=False)
    assert waits["collecting"] == pytest.approx(5e-3 / 32 + 0.1 * 4e-3)


def test_few_cores_are_of_one_machine() -> None:
    cost = Cost(0.1, 1000, 2000)
    waits = scale.limits(found(cost), cost, cores=2, kept=True)
    assert "network" not in waits
    assert waits["collecting"] == pytest.approx(1e-4 + 1e-5)
