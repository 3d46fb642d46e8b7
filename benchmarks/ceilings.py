"""What a GPU can do at most: float32 operations and bytes a second, measured with the smallest of kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numba import float32

from gonio.kernels.gpu_memory import Gpu

cuda: Any = _cuda
LOOP = 4096  # fused multiply-adds of a thread, eight at a time


@dataclass(frozen=True)
class Ceilings:
    """Float32 operations a second, bytes a second of a copy within the GPU, and of one from here to it."""

    flops: float
    within: float
    up: float

    def __str__(self) -> str:
        return (
            f"{self.flops / 1e12:.1f} Tflop/s of float32, {self.within / 1e9:.0f} GB/s in a copy,"
            f" {self.up / 1e9:.1f} GB/s from here"
        )


@cuda.jit(fastmath=True)
def _multiply_add(out, factor):
    i = cuda.grid(1)
    one = float32(1.0)
    a, b, c, d = float32(i), float32(i + 1), float32(i + 2), float32(i + 3)
    e, f, g, h = float32(i + 4), float32(i + 5), float32(i + 6), float32(i + 7)
    for _ in range(LOOP // 8):
        a, b, c, d = a * factor + one, b * factor + one, c * factor + one, d * factor + one
        e, f, g, h = e * factor + one, f * factor + one, g * factor + one, h * factor + one
    out[i] = a + b + c + d + e + f + g + h


@cuda.jit
def _copy(source, target):
    for i in range(cuda.grid(1), source.shape[0], cuda.gridsize(1)):
        target[i] = source[i]


def measured(gpu: Gpu, *, rounds: int, blocks: int = 4096, threads: int = 256, size: int = 1 << 26) -> Ceilings:
    """The best of some rounds, after one that compiles; ``size`` floats are copied."""
    with gpu.used():
        out, here = cuda.device_array(blocks * threads, np.float32), np.zeros(size, np.float32)
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

        return Ceilings(
            flops=2.0 * LOOP * blocks * threads / seconds(lambda: _multiply_add[blocks, threads](out, np.float32(0.5))),
            within=2.0 * here.nbytes / seconds(lambda: _copy[blocks, threads](one, other)),
            up=here.nbytes / seconds(lambda: one.copy_to_device(here)),
        )
