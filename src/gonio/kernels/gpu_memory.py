"""A GPU: what lies in its memory, and how kernels (``cuda``) are launched on it.

Arrays that many pairs look at are *kept*: each lies in a long array of its kind and is known by where it begins there.
What is not kept goes up with the work. When a long array is full, a new one is begun, with what the work at hand needs;
work that is under way keeps the old one until it is done. Running out of memory is one error, ``OutOfMemory``, whatever
the library calls it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numpy.typing import NDArray

from gonio.kernels.cuda import kernels
from gonio.kernels.cuda_samples import SIMULATED, THREADS
from gonio.kernels.cuda_stages import stage_kernels

__all__ = ["Gpu", "Entry", "NoGpu", "OutOfMemory", "Queue", "gpu_count"]

cuda: Any = _cuda
# Elements that a long array begins with.
FIRST_LENGTH = 1 << 16
# Of free memory what one launch may take: several are under way at a time, and long arrays grow.
FRACTION = 0.3
# Bytes of the smallest block of memory; blocks have quarters of powers of two, so that they are used again.
LEAST_BLOCK, STEPS = 1024, 4
NEEDED = "which takes NVIDIA's driver and what pip install 'numba-cuda[cu13]' or 'numba-cuda[cu12]' brings"
# What a simulated GPU is said to have, bytes.
SIMULATED_MEMORY = 1 << 30


class OutOfMemory(Exception):
    """The GPU has not enough memory for the work."""


class NoGpu(Exception):
    """There is no GPU that works, and why."""


def gpu_count() -> int:
    """How many GPUs there are.

    Raises
    ------
    NoGpu
        When there is none, or no driver.
    """
    try:
        count = len(cuda.gpus.lst) if not SIMULATED else 1
    except Exception as error:  # whatever a driver that is not there leads to
        raise NoGpu("no GPU or driver of NVIDIA's was found") from error
    if count == 0:
        raise NoGpu("no GPU of NVIDIA's was found")
    return count


@cuda.jit
def _count(number):
    number[0] += 1.0


# Of an array that is kept: what it is known by, what makes it, and an object that is held so that nothing else is known
# by the same.
Entry = tuple[Any, Callable[[], NDArray], Any]


@dataclass(frozen=True)
class Queue:
    """Work that is done one after the other, and what it holds until then; several may share a stream.

    ``blocks`` are memory of its own, ``kept`` long arrays that it looks at.
    """

    stream: Any
    blocks: list[Any] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def beside(self) -> Queue:
        """Other work of the same stream, which holds memory of its own."""
        return Queue(self.stream)


class _LongArray:
    """One long array on the GPU, with the arrays that lie in it."""

    def __init__(self, row: tuple[int, ...], dtype: type) -> None:
        self._row, self._dtype = row, dtype
        self._places: dict[Any, tuple[int, Any]] = {}
        self._used = 0
        self.array: Any = None

    def places(self, arrays: Sequence[Entry], upload: Any, allocated: Any) -> list[int]:
        """Where arrays begin; those that are not there yet are made and put there."""
        known = {key: (make, owner) for key, make, owner in arrays}  # many may be the same
        missing = {key: (make(), owner) for key, (make, owner) in known.items() if key not in self._places}
        needed = sum(len(array) for array, _ in missing.values())
        if self.array is None or self._used + needed > len(self.array):
            # Only what is asked for now: the rest comes back when it is needed.
            missing = {key: missing[key] if key in missing else (make(), owner) for key, (make, owner) in known.items()}
            needed = sum(len(array) for array, _ in missing.values())
            length = max(FIRST_LENGTH // int(np.prod(self._row, initial=1)), 2 * needed)
            self._places, self._used = {}, 0
            self.array = None
            self.array = allocated((length, *self._row), self._dtype)
        for key, (array, owner) in missing.items():
            if len(array):
                part = self.array[self._used : self._used + len(array)]
                upload(np.ascontiguousarray(array, dtype=self._dtype), part)
            self._places[key] = self._used, owner
            self._used += len(array)
        return [self._places[key][0] for key, _, _ in arrays]


def _block_length(size: int) -> int:
    """Bytes of a block that holds so many."""
    step = (1 << max(size - 1, LEAST_BLOCK).bit_length()) // (2 * STEPS)
    return -(-max(size, LEAST_BLOCK) // step) * step


class Gpu:
    """One GPU, used by one thread at a time.

    Parameters
    ----------
    index
        Which of the GPUs there are.
    threads
        Of a block.

    ``moved_bytes`` counts what goes up and comes down.
    """

    def __init__(self, index: int = 0, *, threads: int = THREADS) -> None:
        count = gpu_count()
        if index >= count:
            raise NoGpu(f"there is no GPU {index}: those found are 0 to {count - 1}")
        self.index = index
        self._try()
        self.kernels, self.stages = kernels(threads), stage_kernels(threads)
        self.moved_bytes = 0
        self.times: dict[str, float] | None = None
        with self.used():
            self._uploads = cuda.stream()
        self._uploading: list[NDArray] = []
        self.forget()

    def _try(self) -> None:
        """Compile and launch something small."""
        try:
            with cuda.gpus[self.index]:
                one = cuda.to_device(np.zeros(1, np.float32))
                _count[1, 1](one)
                works = one.copy_to_host()[0] == 1.0
        except Exception as error:  # a driver, compiler or GPU too old, or in another's use
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise NoGpu(f"GPU {self.index} does not work ({said[0]}), {NEEDED}") from error
        if not works:
            raise NoGpu(f"GPU {self.index} computes wrong numbers")

    @contextmanager
    def used(self) -> Iterator[None]:
        """This GPU is that of the thread; running out of its memory is ``OutOfMemory``."""
        try:
            with cuda.gpus[self.index]:
                yield
        except MemoryError as error:
            raise OutOfMemory from error
        except Exception as error:
            if "OUT_OF_MEMORY" in str(error):
                raise OutOfMemory from error
            raise

    @property
    def name(self) -> str:
        """What it is called."""
        if SIMULATED:
            return "simulated GPU"
        name = cuda.gpus[self.index].name
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def free_bytes(self) -> float:
        """The memory that is free now."""
        if SIMULATED:
            return SIMULATED_MEMORY
        with self.used():
            return float(cuda.current_context().get_memory_info().free)

    @property
    def launch_bytes(self) -> float:
        """What one launch may take of it, and of what is there to be used again."""
        waiting = sum(length * len(blocks) for length, blocks in self._free.items())
        return FRACTION * (self.free_bytes + waiting)

    def forget(self) -> None:
        """Free all that is kept."""
        self._kept = {
            "grids": _LongArray((), np.float32),
            "volumes": _LongArray((), np.float32),
            "regions": _LongArray((7,), np.float32),
            "frequency": _LongArray((3,), np.float32),
            "samples": _LongArray((4,), np.float32),
            "turns": _LongArray((2,), np.float32),
        }
        self._free: dict[int, list[Any]] = {}

    def places(self, kind: str, arrays: Sequence[Entry]) -> list[int]:
        """Where arrays of a kind begin."""
        return self._kept[kind].places(arrays, self._upload, self._allocated)

    def kept(self, kind: str, queue: Queue) -> Any:
        """The long array of a kind, which the queue holds until it is released."""
        queue.kept.append(self._kept[kind].array)
        return queue.kept[-1]

    def queue(self) -> Queue:
        """Where work may be put."""
        return Queue(cuda.stream())

    def up(self, array: NDArray, queue: Queue) -> Any:
        """A copy on the GPU, for what is launched from now on."""
        array = np.ascontiguousarray(array)
        copy = self.empty(array.shape, array.dtype, queue)
        self._upload(array, copy)
        return copy

    def empty(self, shape: tuple[int, ...], dtype: Any, queue: Queue) -> Any:
        """Memory on the GPU, until the queue is released: from what is free, or new."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        length = _block_length(size)
        fits = [free for free, blocks in self._free.items() if blocks and length <= free <= 2 * length]
        block = self._free[min(fits)].pop() if fits else self._allocated((length,), np.uint8)
        queue.blocks.append(block)
        return block[:size].view(dtype).reshape(shape)

    def _allocated(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """New memory; where there is none, what waits to be used again is let go."""
        array = None
        with suppress(Exception):  # whatever the library calls it
            array = cuda.device_array(shape, dtype)
        if array is None:
            self._free.clear()
            array = cuda.device_array(shape, dtype)
        return array

    def wait(self, queue: Queue) -> None:
        """Until all work of the queue's stream is done."""
        queue.stream.synchronize()

    def release(self, queue: Queue) -> None:
        """The queue's work is done: its memory is free for other work."""
        queue.kept.clear()
        while queue.blocks:
            block = queue.blocks.pop()
            self._free.setdefault(len(block), []).append(block)

    def down(self, array: Any, queue: Queue) -> NDArray:
        """A copy here; waits for the work."""
        self.moved_bytes += array.nbytes
        copy: NDArray = array.copy_to_host(stream=queue.stream)
        queue.stream.synchronize()
        return copy

    def launch(self, kernel: Any, blocks: int, queue: Queue, *arguments: Any) -> None:
        """Start a kernel. Where ``times`` are kept it is waited for, and its seconds are added to those of its name."""
        if self._uploading:
            self._uploads.synchronize()
            self._uploading.clear()
        if self.times is not None:
            queue.stream.synchronize()
        start = time.perf_counter()
        kernel[blocks, self.kernels.threads, queue.stream](*arguments)
        if self.times is not None:
            queue.stream.synchronize()
            name = getattr(kernel, "__name__", str(kernel))
            self.times[name] = self.times.get(name, 0.0) + time.perf_counter() - start

    def _upload(self, array: NDArray, part: Any) -> None:
        # By a stream of their own: a copy out of memory that is not pinned waits for all that its stream has to do.
        self.moved_bytes += array.nbytes
        part.copy_to_device(array, stream=self._uploads)
        self._uploading.append(array)  # it has to stay until the copy is done
