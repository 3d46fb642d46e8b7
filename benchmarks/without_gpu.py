"""What can be said of GPUs where there is none, under Numba's simulator of one.

    python benchmarks/without_gpu.py feeding [--count 1024]
    python benchmarks/without_gpu.py agreement [--count 60] [--threads 16] [--only local map pairs]

Feeding: what this machine does for each search on a GPU, whatever the GPU: launches do nothing, and every search is
given what the first of its kind found on the CPU. Agreement: how far poses of the simulated GPU are from those of the
CPU. Blocks have so many ``threads``; on a device they have 64, but each of the simulator's is one of Python.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from gpu import Searches, on_cpu, pair, results
from particles import VOXEL_ANGSTROM, Set, clean_map, simulated, starts
from table import Row, markdown

import gonio
from gonio.kernels.gpu_memory import Gpu
from gonio.search.cpu import Cpu
from gonio.search.gpu.device import Device
from gonio.search.gpu.multi_gpu import OneGpu

# Poses of one optimum are alike when they differ by less.
ALIKE_DEG, ALIKE_VOXELS, SAME_DEG = 0.01, 0.001, 1.0
WAYS = ("local", "map", "pairs")
SET_SIZE = 80


class SilentGpu(Gpu):
    """Takes everything at once, and does nothing."""

    @property
    def launch_bytes(self) -> float:
        """As much as there is to do."""
        return float("inf")

    def launch(self, kernel: Any, blocks: int, queue: Any, *arguments: Any) -> None:
        """Nothing."""


class Silent(Device):
    """A device that starts all work and answers with what the first piece of a kind found on the CPU."""

    def _answers(self, started: Any) -> list[Any]:
        stock, work = self.__dict__.setdefault("stock", {}), started.work
        if work.name not in stock:
            (stock[work.name],) = getattr(Cpu(), work.name)(started.pieces[:1])
        with self.gpu.used():
            self.gpu.release(started.queue)
        return [stock[work.name]] * len(started.pieces)


@cache
def particles(way: str, count: int) -> tuple[Set, gonio.Aligner | None, gonio.Pose | None]:
    """Of searches: the particles, a map to align them to unless they are pairs, and where local ones start."""
    if way == "pairs":
        return simulated(2 * count), None, None
    made, local = simulated(min(count, 64)), way == "local"
    aligner = gonio.Aligner(clean_map(), gonio.Settings(search="local") if local else None)
    return made, aligner, starts(made.poses, gonio.Pose.identity(), count=count) if local else None


def searches(way: str, count: int) -> Searches:
    """Of particles against one map, from near by or from everywhere, or of pairs that share nothing."""
    made, aligner, near = particles(way, count)
    if aligner is None:
        yield from (partial(pair, made.particles[2 * i], made.particles[2 * i + 1]) for i in range(count))
        return
    for i, particle in enumerate(made.repeated(count)):
        yield partial(aligner.prepare, particle, start=None if near is None else near[i])


def feeding(count: int, set_size: int = SET_SIZE) -> list[Row]:
    """Processor time of this machine for each search: the second of two rounds."""
    silent, of_a_set = Silent(SilentGpu()), simulated(set_size).particles
    of_set = set_size * (set_size - 1) // 2
    ways: dict[str, tuple[Callable[[], object], int]] = {
        "targets of a map, all orientations": (lambda: list(results(searches("map", count), silent)), count),
        "targets of a map, local": (lambda: list(results(searches("local", count), silent)), count),
        f"all pairs of {set_size}": (lambda: list(gonio.align_all_pairs(of_a_set, executor=OneGpu(silent))), of_set),
    }
    rows = []
    for what, (work, amount) in ways.items():
        for _ in range(2):
            start = time.process_time()
            work()
            seconds = time.process_time() - start
        rows.append(Row(what, busy=seconds / amount, seconds=seconds / amount, per="search"))
        rows.append(Row(what, note=f"{amount / seconds:.0f} /s, {seconds:.2f} s in all"))
    return rows


def agreement(count: int, threads: int, ways: Sequence[str] = WAYS) -> list[Row]:
    """How far apart poses are."""
    device, rows = Device(Gpu(threads=threads)), []
    for way in ways:
        wanted = [on_cpu(search) for search in searches(way, count)]
        found = list(results(searches(way, count), device))
        pairs = list(zip(found, wanted, strict=True))
        turned = np.array([one.pose.rotation_distance_deg(two.pose) for one, two in pairs])
        moved = np.array([np.abs(one.pose.shift_angstrom - two.pose.shift_angstrom).max() for one, two in pairs])
        alike = (turned < ALIKE_DEG) & (moved < ALIKE_VOXELS * VOXEL_ANGSTROM)
        note = (
            f"{100 * alike.mean():.0f} % of {count} within {ALIKE_DEG} degree and {ALIKE_VOXELS} voxel,"
            f" {100 * (turned < SAME_DEG).mean():.0f} % the same optimum; degrees: median {np.median(turned):.1e},"
            f" 9 in 10 within {np.quantile(turned, 0.9):.1e}, all within {turned.max():.1e}"
        )
        rows.append(Row(f"{way}, {threads} threads a block", note=note))
    return rows


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("feeding", "agreement"))
    parser.add_argument("--count", type=int, help="searches of each kind")
    parser.add_argument("--threads", type=int, default=16, help="of a simulated block, a power of two")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS, help="kinds of searches that are compared")
    chosen = parser.parse_args()
    # The simulator looks at its threads in a loop that they wait for.
    sys.setswitchinterval(2e-5)
    if chosen.what == "feeding":
        print(markdown("feeding", feeding(chosen.count or 1024)))
    else:
        print(markdown("agreement", agreement(chosen.count or 60, chosen.threads, chosen.only)))


if __name__ == "__main__":
    main()
