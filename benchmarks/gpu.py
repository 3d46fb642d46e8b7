"""How fast alignments are on a GPU, beside this machine's processors in the same run.

    python benchmarks/gpu.py [--quick] [--device cuda:1] [--only PART ...] [--out FILE.md]

Kernels: samples a second of full normal equations (within refinements too) and of values, with the share of what the
GPU reaches in a loop of fused multiply-adds and in a copy, both measured here. Alignments: pairs, many particles
against one map, all pairs of a set in memory and from files; on the GPU alone, of particles that are prepared, and
with all that this machine does for them; and the share of the time that transfers take by the bandwidth measured here.
Memory: free bytes, and the time of a particle, after a tenth of many particles against five maps and after all.
Without a GPU it says so in one sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from kernels import BYTES, FLOPS
from particles import PHANTOM, clean_map, simulated, starts
from table import Row, markdown

import gonio
from gonio.alignment.prepared import FromCoarseToFine, Prepared, finished
from gonio.cli.app import run as run_command
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.run.parallel import in_order
from gonio.search.backend import Evaluation, Refinement
from gonio.search.cpu import Cpu
from gonio.search.gpu.device import Device, opened
from gonio.search.gpu.groups import TOGETHER, in_groups
from gonio.search.objective import pack
from gonio.search.search_space import everywhere
from gonio.workflows.clustering import AllPairs

if TYPE_CHECKING:
    from ceilings import Ceilings

RESOLUTION_ANGSTROM = 40.0
PARTS = ("kernels", "alignments", "sets", "memory")


@dataclass(frozen=True)
class Extent:
    """Sizes: boxes, poses of each of ``targets`` comparisons, pairs, particles, those of a set, many, of the CPU."""

    boxes: tuple[int, ...] = (32, 64, 96)
    targets: int = 64
    poses: int = 256
    pairs: int = 2048
    particles: int = 20_000
    set_size: int = 80
    many: int = 100_000
    on_cpu: int = 100
    rounds: int = 5


QUICK = Extent(boxes=(32,), targets=2, poses=2, pairs=2, particles=2, set_size=3, many=4, on_cpu=4, rounds=1)


def kernel_rows(device: Device, box: int, extent: Extent, most: Ceilings) -> list[Row]:
    """Samples a second of each kernel, its own time alone."""
    made, map_ = simulated(min(extent.targets, 16), box=box), clean_map(box=box)
    spectra = [Spectrum.of(particle, resolution_angstrom=RESOLUTION_ANGSTROM) for particle in made.particles]
    reference = FourierVolume.of(map_, limit=spectra[0].limit)
    chosen = gonio.Pose.random(
        extent.poses, rng=np.random.default_rng(0), max_shift_angstrom=PHANTOM.radius_angstrom / 4
    )
    points = pack(chosen.matrix, chosen.shift_angstrom)
    compared = [Comparison(s, reference, score=Score.RCS) for s in spectra]
    compared = [compared[i % len(compared)] for i in range(extent.targets)]
    frame = everywhere(made.particles[0], gonio.Settings(), spacing_deg=60.0)
    at_points = [Evaluation(c, points) for c in compared]
    refinements = [Refinement(frame.pose_problem(c), points, 6) for c in compared]
    ways: dict[str, tuple[str, Callable[[], list[Any]]]] = {
        "value": ("totals", lambda: device.shell_sums(at_points)),
        "normal equations": ("normal_equations", lambda: device.normal_equations(at_points)),
        "refinement": ("refine", lambda: device.refine(refinements)),
    }
    rows = []
    for kind, (kernel, work) in ways.items():
        work()  # compiles
        best = np.inf
        for _ in range(extent.rounds):
            device.gpu.times = {}
            answers = work()
            best = min(best, sum(device.gpu.times.values()))
        device.gpu.times = None
        neighbour_search = [a.iterations.sum() + len(points) if kind == "refinement" else len(points) for a in answers]
        samples = sum(len(c.target) * float(count) for c, count in zip(compared, neighbour_search, strict=True))
        cost, rate = FLOPS["value" if kind == "value" else "normal equations"], samples / best
        asked_of_caches = sum(BYTES.values()) * rate / 1e9
        note = (
            f"{rate:.3g} samples/s: {cost * rate / 1e12:.2f} Tflop/s, {100 * cost * rate / most.flops:.0f} % of what"
            f" there is; {asked_of_caches:.0f} GB/s asked of caches, a copy moves {most.within / 1e9:.0f}"
        )
        rows.append(Row(f"{kind}, box {box}", seconds=best / samples, per="sample"))
        rows.append(Row(f"{kind}, box {box} ({kernel})", note=note))
    return rows


# What prepares each search, when its turn comes.
Searches = Iterator[Callable[[], Prepared]]


def pair(target: gonio.Subtomogram, reference: gonio.Subtomogram) -> Prepared:
    """A search of a pair that shares nothing with others."""
    return gonio.Aligner(reference).prepare(target)


def pairs(count: int, box: int) -> Searches:
    """Searches of pairs that share nothing."""
    made = simulated(min(2 * count, 32), box=box).particles
    return (partial(pair, made[2 * i % len(made)], made[(2 * i + 1) % len(made)]) for i in range(count))


def against_map(count: int, box: int, *, local: bool) -> Searches:
    """Searches of particles against one map, from everywhere or from near by."""
    made = simulated(32, box=box)
    aligner = gonio.Aligner(clean_map(box=box), gonio.Settings(search="local") if local else None)
    near = starts(made.poses, gonio.Pose.identity(), count=count) if local else None
    for i, particle in enumerate(made.repeated(count)):
        yield partial(aligner.prepare, particle, start=None if near is None else near[i])


def results(searches: Searches, device: Device) -> Iterator[gonio.Result]:
    """The results of searches."""
    return in_groups(lambda prepare: prepare(), finished, ((prepare,) for prepare in searches), device)


def on_cpu(prepare: Callable[[], Prepared]) -> gonio.Result:
    """The result of a search."""
    return finished([prepare()], Cpu())[0]


def alignment_rows(device: Device, box: int, extent: Extent, most: Ceilings) -> list[Row]:
    """Seconds for each alignment on the GPU, and beside it on all processors of this machine."""
    ways: dict[str, tuple[Callable[[int], Searches], int]] = {
        "pairs": (lambda count: pairs(count, box), extent.pairs),
        "particles, all orientations": (lambda count: against_map(count, box, local=False), extent.particles),
        "particles, local": (lambda count: against_map(count, box, local=True), extent.particles),
    }
    rows = []
    for what, (searches, count) in ways.items():
        name = f"{what}, box {box}"
        beside = on_processors(searches, extent.on_cpu)
        rows += timed(device, name, count, lambda s=searches, n=count: list(results(s(n), device)), beside, most)  # type: ignore[misc]
        prepared = [prepare() for prepare in searches(min(count, TOGETHER))]
        alone = [one.search for one in prepared if isinstance(one, FromCoarseToFine)]
        device.search(alone)
        seconds = best_of(extent.rounds, lambda a=alone: device.search(a)) / len(alone)  # type: ignore[misc]
        rows.append(Row(f"{name}, prepared", note=f"{1.0 / seconds:.0f} /s on the GPU alone"))
    return rows


def set_rows(device: Device, extent: Extent, most: Ceilings) -> list[Row]:
    """All pairs of a set: in memory, and from files to the matrix of their dissimilarities."""
    size, threads = extent.set_size, os.cpu_count() or 1
    count, small = size * (size - 1) // 2, simulated(min(size, 16)).particles
    start = time.perf_counter()
    list(gonio.align_all_pairs(small, executor=gonio.Local(threads)))
    beside = (time.perf_counter() - start) / (len(small) * (len(small) - 1) / 2)
    with TemporaryDirectory() as folder:
        command = ["simulate", f"{folder}/set", "--count", str(size), "--box", "32", "--seed", "0"]
        if run_command(command) != 0:
            raise RuntimeError("gonio simulate failed")
        listed = f"{folder}/set/particles.star"

        def from_files() -> object:
            table = gonio.read_particles(listed)
            return AllPairs.gathered(list_all_pairs(table, device, threads), len(table))

        made = simulated(size).particles
        in_memory = partial(list_all_pairs, made, device, threads)
        return [
            *timed(device, f"all pairs of {size}, in memory", count, in_memory, beside, most),
            *timed(device, f"all pairs of {size}, from files to matrix", count, from_files, beside, most),
        ]


def list_all_pairs(
    particles: list[gonio.Subtomogram] | gonio.ParticleTable, device: Device, threads: int
) -> list[gonio.PairResult]:
    """All of them."""
    return list(gonio.align_all_pairs(particles, executor=gonio.executor_for(device, n_threads=threads)))


def memory_rows(device: Device, extent: Extent) -> list[Row]:
    """Free memory and the time of a particle, after a tenth of many particles against five maps and after all."""
    made, aligners = simulated(32), [gonio.Aligner(clean_map(), gonio.Settings(search="local")) for _ in range(5)]
    near = starts(made.poses, gonio.Pose.identity(), count=32)
    told = []
    for count in (max(1, extent.many // 10), extent.many):
        start = time.perf_counter()
        every = (
            partial(aligner.prepare, particle, start=near[i % 32])
            for i, particle in enumerate(made.repeated(count))
            for aligner in aligners
        )
        for _ in results(every, device):
            pass
        seconds = (time.perf_counter() - start) / count
        told.append(f"{count} particles: {1e3 * seconds:.3f} ms each, {device.gpu.free_bytes / 1e6:.0f} MB free after")
    return [Row("local, five maps", note="; ".join(told))]


def on_processors(searches: Callable[[int], Searches], count: int) -> float:
    """Seconds of a search on all processors."""
    list(in_order(on_cpu, ((search,) for search in searches(1)), 1))  # compiles
    start = time.perf_counter()
    threads = os.cpu_count() or 1
    list(in_order(on_cpu, ((search,) for search in searches(count)), threads, processes=False))
    return (time.perf_counter() - start) / count


def timed(
    device: Device, name: str, count: int, work: Callable[[], object], beside: float, most: Ceilings
) -> list[Row]:
    """Of work that is done a second time, when everything is compiled."""
    work()
    device.gpu.moved_bytes, start = 0, time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    moved = device.gpu.moved_bytes
    note = (
        f"{count / seconds:.0f} /s, {seconds:.2f} s in all; {1.0 / beside:.0f} /s on {os.cpu_count()} processors;"
        f" {moved / count / 1e3:.0f} KB moved for each, {100 * moved / most.up / seconds:.1f} % of the time"
    )
    ratio = seconds / count / beside
    return [Row(name, seconds / count, None, "alignment", ratio, "processors"), Row(name, note=note)]


def best_of(rounds: int, work: Callable[[], object]) -> float:
    """The least seconds."""
    best = np.inf
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return float(best)


def main() -> None:
    """Print a table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance, to see that everything runs")
    parser.add_argument("--device", default="cuda", help="which GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="parts to time")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="a file to write")
    chosen = parser.parse_args()
    try:
        device = opened(chosen.device)
    except ValueError as error:
        print(error)
        return
    if device is None:
        print(f"{chosen.device} is no GPU: nothing was timed")
        return
    from ceilings import measured

    extent = QUICK if chosen.quick else Extent()
    small = {"blocks": 2, "threads": 2, "size": 1 << 10} if chosen.quick else {}
    most = measured(device.gpu, rounds=extent.rounds, **small)
    text = [f"{device.name}: at most {most}", ""]
    print(text[0], flush=True)
    parts: dict[str, Callable[[], list[Row]]] = {
        "kernels": lambda: [row for box in extent.boxes for row in kernel_rows(device, box, extent, most)],
        "alignments": lambda: [row for box in extent.boxes for row in alignment_rows(device, box, extent, most)],
        "sets": lambda: set_rows(device, extent, most),
        "memory": lambda: memory_rows(device, extent),
    }
    for part in chosen.only:
        text.append(markdown(part, parts[part]()))
        print(text[-1], flush=True)
    if chosen.out is not None:
        chosen.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
