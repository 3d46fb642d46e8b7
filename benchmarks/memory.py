"""Peak memory of a process that aligns few and very many targets, made one by one: what it may not depend on.

python benchmarks/memory.py COUNT FOLDER      aligns so many and prints the peak in bytes
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from particles import clean_map, drawn_poses, simulated, starts, with_new_noise
from plan import Plan
from table import Row

import gonio
from gonio.io import read_volume, write_volume

RSS_UNIT = 1 if sys.platform == "darwin" else 1024
PARTICLE, MAP = "particle.mrc", "map.mrc"


def peak_bytes(count: int, folder: Path) -> int:
    """Align ``count`` noisy copies of one particle near where it is, and say how much memory this process ever had."""
    base = gonio.Subtomogram(read_volume(folder / PARTICLE), gonio.SingleAxisWedge(-60.0, 60.0))
    aligner = gonio.Aligner(read_volume(folder / MAP), gonio.Settings(search=gonio.Search.LOCAL))
    near = starts(drawn_poses(1), gonio.Pose.identity(), count=count)
    results = aligner.align_many(with_new_noise(base, count, seed=1), starts=near)
    assert len(results) == count and np.isfinite([result.dissimilarity for result in results]).all()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT


def run(plan: Plan) -> list[Row]:
    """Peaks, and what a target more costs."""
    with tempfile.TemporaryDirectory() as name:
        # Simulated here: the simulator needs more memory than anything else.
        write_volume(Path(name) / PARTICLE, simulated(1).particles[0].volume)
        write_volume(Path(name) / MAP, clean_map())
        ends = [_in_a_process(count, name) for count in plan.memory_targets]
    rows = [
        Row(
            f"local, {count} targets made one by one, and the start",
            seconds,
            "run",
            note=f"peak of {peak / 1e6:.0f} MB",
        )
        for count, (peak, seconds) in zip(plan.memory_targets, ends, strict=True)
    ]
    more, (few, many) = plan.memory_targets[1] - plan.memory_targets[0], ends
    note = f"{(many[0] - few[0]) / more / 1e3:.1f} KB more at the peak"
    return [*rows, Row("a target more", (many[1] - few[1]) / more, "target", note=note)]


def _in_a_process(count: int, folder: str) -> tuple[int, float]:
    command = [sys.executable, str(Path(__file__).resolve()), str(count), folder]
    start = time.perf_counter()
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(printed), time.perf_counter() - start


if __name__ == "__main__":
    print(peak_bytes(int(sys.argv[1]), Path(sys.argv[2])))
