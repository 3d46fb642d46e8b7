"""How fast alignments are on a graphics card, beside this machine's processors in the same run.

    python benchmarks/gpu.py [--quick] [--device cuda:1] [--out FILE.md]

Kernels: samples a second of full normal equations (within refinements too) and of values, with the share of what the
card reaches in a loop of fused multiply-adds and in a copy, both measured here. Alignments: pairs, many particles
against one map, all pairs of a set; and the share of the time that transfers take by the bandwidth measured here.
Without a card it says so in one sentence.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
from kernels import BYTES, FLOPS
from particles import PHANTOM, clean_map, simulated, starts
from table import Row, markdown

import gonio
from gonio.device import Device, opened, results
from gonio.evaluation import Asking, Equations, Refinement, ShellSums
from gonio.fourier import FourierVolume, Spectrum
from gonio.frame import everywhere
from gonio.problem import pack
from gonio.score import Comparison, Score

RESOLUTION_ANGSTROM = 40.0
LOOP = 4096  # fused multiply-adds of a thread, eight at a time


@dataclass(frozen=True)
class Extent:
    """Sizes: boxes, poses of each of ``targets`` comparisons, pairs, particles, particles of a set, of the CPU."""

    boxes: tuple[int, ...] = (32, 64, 96)
    targets: int = 64
    poses: int = 256
    pairs: int = 2048
    particles: int = 20_000
    set_size: int = 80
    on_cpu: int = 100
    rounds: int = 5


QUICK = Extent(boxes=(32,), targets=4, poses=16, pairs=8, particles=16, set_size=4, on_cpu=4, rounds=1)


def ceilings(device: Device, rounds: int) -> tuple[float, float, float]:
    """Of the card: float32 operations a second, bytes a second of a copy within it, and of one from here to it."""
    from numba import cuda, float32

    @cuda.jit(fastmath=True)
    def multiply_add(out: Any, factor: Any) -> None:
        i = cuda.grid(1)
        a = b = c = d = e = f = g = h = float32(i)
        for _ in range(LOOP // 8):
            a, b, c, d = a * factor + b, b * factor + c, c * factor + d, d * factor + a
            e, f, g, h = e * factor + f, f * factor + g, g * factor + h, h * factor + e
        out[i] = a + b + c + d + e + f + g + h

    @cuda.jit
    def copy(source: Any, target: Any) -> None:
        for i in range(cuda.grid(1), source.shape[0], cuda.gridsize(1)):
            target[i] = source[i]

    with device.card.used():
        blocks, threads = 4096, 256
        out, size = cuda.device_array(blocks * threads, np.float32), 1 << 26
        here = np.zeros(size, np.float32)
        one, other = cuda.to_device(here), cuda.device_array(size, np.float32)

        def seconds(work: Callable[[], object]) -> float:
            best = np.inf
            for _ in range(rounds + 1):
                cuda.synchronize()
                start = time.perf_counter()
                work()
                cuda.synchronize()
                best = min(best, time.perf_counter() - start)
            return float(best)

        flops = 2.0 * LOOP * blocks * threads / seconds(lambda: multiply_add[blocks, threads](out, np.float32(0.5)))
        within = 2.0 * here.nbytes / seconds(lambda: copy[blocks, threads](one, other))
        return flops, within, here.nbytes / seconds(lambda: one.copy_to_device(here))


def kernel_rows(device: Device, box: int, extent: Extent, flops: float, bandwidth: float) -> list[Row]:
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
    frame = everywhere(made.particles[0], gonio.Settings(), reach_deg=60.0)
    asked: dict[str, tuple[str, list[Any]]] = {
        "value": ("totals", [ShellSums(c, points) for c in compared]),
        "normal equations": ("normal_equations", [Equations(c, points) for c in compared]),
        "refinement": ("refine", [Refinement(frame.pose_problem(c), points, 6) for c in compared]),
    }
    rows = []
    for kind, (kernel, requests) in asked.items():
        device.answers(requests)  # compiles
        best = np.inf
        for _ in range(extent.rounds):
            device.card.times = {}
            answers = device.answers(requests)
            best = min(best, sum(device.card.times.values()))
        device.card.times = None
        looks = [a.iterations.sum() + len(points) if kind == "refinement" else len(points) for a in answers]
        samples = sum(len(c.target) * float(count) for c, count in zip(compared, looks, strict=True))
        cost = FLOPS["value" if kind == "value" else "normal equations"]
        rate = samples / best
        note = (
            f"{rate:.3g} samples/s: {cost * rate / 1e12:.2f} Tflop/s, {100 * cost * rate / flops:.0f} % of the most;"
            f" {sum(BYTES.values()) * rate / 1e9:.0f} GB/s asked of caches, a copy moves {bandwidth / 1e9:.0f}"
        )
        rows.append(Row(f"{kind}, box {box}", seconds=best / samples, per="sample"))
        rows.append(Row(f"{kind}, box {box} ({kernel})", note=note))
    return rows


def pairs(count: int, box: int) -> Iterator[Asking[gonio.Result]]:
    """Searches of pairs that share nothing."""
    made = simulated(min(2 * count, 32), box=box).particles
    for i in range(count):
        target, reference = made[2 * i % len(made)], made[(2 * i + 1) % len(made)]
        aligner = gonio.Aligner(reference)
        yield aligner.ask(target)


def alignment_rows(device: Device, box: int, extent: Extent, up: float) -> list[Row]:
    """Seconds for each alignment on the card, and beside it on all processors."""
    made, map_ = simulated(32, box=box), clean_map(box=box)
    many, few, threads = extent.particles, extent.on_cpu, os.cpu_count() or 1
    near, settings = gonio.Pose.identity(), gonio.Settings(search="local")

    def against_map(where: Any, count: int, *, local: bool) -> None:
        given = {"starts": starts(made.poses, near, count=count)} if local else {}
        aligner = gonio.Aligner(map_, settings if local else None, device=where)
        aligner.align_many(made.repeated(count), n_threads=threads, **given)

    def all_pairs(where: Any, count: int) -> None:
        for _ in gonio.align_all_pairs(simulated(count, box=box).particles, device=where, n_threads=threads):
            pass

    def pairs_on_cpu(count: int) -> None:
        made = simulated(min(2 * count, 32), box=box).particles
        for i in range(count):
            gonio.Aligner(made[(2 * i + 1) % len(made)]).align(made[2 * i % len(made)])

    size, small = extent.set_size, min(extent.set_size, 16)
    ways: dict[str, tuple[Callable[[], object], float, Callable[[], object], float]] = {
        "pairs": (
            lambda: list(results(pairs(extent.pairs, box), device)), extent.pairs, lambda: pairs_on_cpu(few), few,
        ),
        "particles, all orientations": (
            lambda: against_map(device, many, local=False), many, lambda: against_map("cpu", few, local=False), few,
        ),
        "particles, local": (
            lambda: against_map(device, many, local=True), many, lambda: against_map("cpu", few, local=True), few,
        ),
        f"all pairs of {size}": (
            lambda: all_pairs(device, size), size * (size - 1) / 2, lambda: all_pairs("cpu", small),
            small * (small - 1) / 2,
        ),
    }  # fmt: skip
    rows = []
    for what, (on_card, count, on_cpu, cpu_count) in ways.items():
        on_card()
        device.card.moved_bytes, start = 0, time.perf_counter()
        on_card()
        seconds = time.perf_counter() - start
        moved = device.card.moved_bytes
        start = time.perf_counter()
        on_cpu()
        beside = (time.perf_counter() - start) / cpu_count
        note = (
            f"{count / seconds:.0f} /s on the card, {1.0 / beside:.0f} /s on {threads} processors;"
            f" {moved / count / 1e3:.0f} KB moved for each, {100 * moved / up / seconds:.1f} % of the time"
        )
        name = f"{what}, box {box}"
        rows.append(Row(name, seconds / count, None, "alignment", seconds / count / beside, "processors"))
        rows.append(Row(name, note=note))
    return rows


def main() -> None:
    """Print a table, and write it where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance, to see that everything runs")
    parser.add_argument("--device", default="cuda", help="which card")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="a file to write")
    chosen = parser.parse_args()
    try:
        device = opened(chosen.device)
    except ValueError as error:
        print(error)
        return
    if device is None:
        print(f"{chosen.device} is no graphics card: nothing was timed")
        return
    extent = QUICK if chosen.quick else Extent()
    flops, within, up = ceilings(device, extent.rounds)
    most = f"{flops / 1e12:.1f} Tflop/s of float32, {within / 1e9:.0f} GB/s in a copy, {up / 1e9:.1f} GB/s from here"
    text = [f"{device.name}: at most {most}", ""]
    print(text[0], flush=True)
    for part, rows in (
        ("kernels", [row for box in extent.boxes for row in kernel_rows(device, box, extent, flops, within)]),
        ("alignments", [row for box in extent.boxes for row in alignment_rows(device, box, extent, up)]),
    ):
        text.append(markdown(part, rows))
        print(text[-1], flush=True)
    if chosen.out is not None:
        chosen.out.write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
