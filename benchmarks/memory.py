"""Peak memory of a process that aligns few and very many targets, made one by one: what it may not depend on.

python benchmarks/memory.py COUNT FOLDER      aligns so many and prints the peak in bytes
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from particles import clean_map, drawn_poses, simulated, starts, with_new_noise
from plan import Plan
from table import Row, in_turns, rows_of

import gonio
from gonio.io import read_volume, write_volume

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
PARTICLE, MAP = "particle.mrc", "map.mrc"


def peak_bytes(count: int, folder: Path) -> int:
    """Align ``count`` noisy copies of one particle near where it is, and say how much memory this process ever had."""
    base = gonio.Subtomogram(read_volume(folder / PARTICLE), gonio.SingleAxisWedge(-60.0, 60.0))
    aligner = gonio.Aligner(read_volume(folder / MAP), gonio.Settings(search=gonio.LocalSearch()))
    near = starts(drawn_poses(1), gonio.Pose.identity(), count=count)
    results = aligner.align_many(with_new_noise(base, count, seed=1), starts=near)
    assert len(results) == count and np.isfinite([result.dissimilarity for result in results]).all()
    return most_memory_bytes()


def most_memory_bytes() -> int:
    """Of this process at any time. Linux counts what the parent had in ``ru_maxrss``, but not in its own file."""
    facts = Path("/proc/self/status")
    lines = facts.read_text().splitlines() if facts.exists() else []
    for line in (line for line in lines if line.startswith("VmHWM:")):
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def run(plan: Plan) -> list[Row]:
    """Peaks, and what a target more costs."""
    with tempfile.TemporaryDirectory() as name:
        # Simulated here: the simulator needs more memory than anything else.
        write_volume(Path(name) / PARTICLE, simulated(1).particles[0].volume)
        write_volume(Path(name) / MAP, clean_map())
        peaks: dict[int, int] = {}
        turns = {
            f"local, {count} targets made one by one": _process(count, name, peaks) for count in plan.memory_targets
        }
        seconds = in_turns(turns, 1, warm=False)
    few, many = plan.memory_targets
    notes = [Row(what, note=f"peak of {peak / 1e6:.0f} MB") for what, peak in zip(turns, peaks.values(), strict=True)]
    growth = (peaks[many] - peaks[few]) / (many - few)
    of_few, of_many = seconds.values()
    more = {"a target more": (of_many - of_few) / (many - few)}
    rows = [*rows_of(seconds, "run", beside=""), *rows_of(more, "target", beside="")]
    return [*rows, *notes, Row("a target more", note=f"{growth / 1e3:.1f} KB more at the peak")]


def _process(count: int, folder: str, peaks: dict[int, int]) -> Callable[[int], None]:
    command = [sys.executable, str(Path(__file__).resolve()), str(count), folder]

    def run_it(_: int) -> None:
        peaks[count] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)

    return run_it


if __name__ == "__main__":
    print(peak_bytes(int(sys.argv[1]), Path(sys.argv[2])))
