"""A GPU: the arrays in its memory, and how kernels (``cuda``) are launched on it.

Arrays that many pairs read are *kept*: each lies in a long array of its kind and is identified by where it begins
there. Other arrays are uploaded with the work. When a long array is full, a new one is begun, with the arrays that the
current work needs; work in progress holds the old one until it is done. Running out of memory is one error,
``OutOfMemory``, whatever the library raises.
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

cuda: Any = _cuda
# Elements of a new long array.
FIRST_LENGTH = 1 << 16
# Fraction of free memory that one launch may take: several run at a time, and long arrays grow.
FRACTION = 0.3
# Bytes of the smallest block of memory; sizes are multiples of a quarter of a power of two, so that blocks are reused.
LEAST_BLOCK, STEPS = 1024, 4
NEEDED = "which needs NVIDIA's driver and the packages of pip install 'numba-cuda[cu13]' or 'numba-cuda[cu12]'"
# Bytes of free memory that a simulated GPU reports.
SIMULATED_MEMORY = 1 << 30


class OutOfMemory(Exception):
    """Error of a GPU that has too little memory for the work."""


class NoGpu(Exception):
    """Error where no GPU works; its text states why."""


def gpu_count() -> int:
    """Return the number of GPUs.

    Raises
    ------
    NoGpu
        There is no GPU, or no driver.
    """
    try:
        count = len(cuda.gpus.lst) if not SIMULATED else 1
    except Exception as error:  # a missing driver raises errors of many types
        raise NoGpu("no NVIDIA GPU or driver was found") from error
    if count == 0:
        raise NoGpu("no NVIDIA GPU was found")
    return count


@cuda.jit
def _count(number):
    number[0] += 1.0


# An array that is kept: its key, a function that makes it, and the object whose id is in the key, held so that no other
# object gets the same id.
Entry = tuple[Any, Callable[[], NDArray], Any]


@dataclass(frozen=True)
class Queue:
    """Work that is done in order, and the memory it holds until then; several queues may share a stream.

    ``blocks`` are its own memory, ``kept`` the long arrays that it reads.
    """

    stream: Any
    blocks: list[Any] = field(default_factory=list)
    kept: list[Any] = field(default_factory=list)

    def beside(self) -> Queue:
        """Return another queue of the same stream, which holds its own memory."""
        return Queue(self.stream)


class _LongArray:
    """One long array on the GPU, with the arrays that lie in it."""

    def __init__(self, row: tuple[int, ...], dtype: type) -> None:
        self._row, self._dtype = row, dtype
        self._places: dict[Any, tuple[int, Any]] = {}
        self._used = 0
        self.array: Any = None

    def places(self, arrays: Sequence[Entry], upload: Any, allocated: Any) -> list[int]:
        """Return where arrays begin; make and upload those that are missing."""
        known = {key: (make, owner) for key, make, owner in arrays}  # the same array may be asked for many times
        missing = {key: (make(), owner) for key, (make, owner) in known.items() if key not in self._places}
        needed = sum(len(array) for array, _ in missing.values())
        if self.array is None or self._used + needed > len(self.array):
            # Only the arrays that are asked for now: others are uploaded again when they are needed.
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
    """Return the bytes of the block that holds ``size`` bytes."""
    step = (1 << max(size - 1, LEAST_BLOCK).bit_length()) // (2 * STEPS)
    return -(-max(size, LEAST_BLOCK) // step) * step


class Gpu:
    """One GPU, used by one thread at a time.

    Parameters
    ----------
    index
        Number of the GPU.
    threads
        Threads of a block.

    ``moved_bytes`` counts uploads and downloads.
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
        """Compile and launch a small kernel, to find out whether the GPU works."""
        try:
            with cuda.gpus[self.index]:
                one = cuda.to_device(np.zeros(1, np.float32))
                _count[1, 1](one)
                works = one.copy_to_host()[0] == 1.0
        except Exception as error:  # the driver, compiler or GPU is too old, or in exclusive use
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise NoGpu(f"GPU {self.index} does not work ({lines[0]}), {NEEDED}") from error
        if not works:
            raise NoGpu(f"GPU {self.index} computes wrong numbers")

    @contextmanager
    def used(self) -> Iterator[None]:
        """Make this GPU the thread's, and raise ``OutOfMemory`` where its memory runs out."""
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
        """Name of the GPU."""
        if SIMULATED:
            return "simulated GPU"
        name = cuda.gpus[self.index].name
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def free_bytes(self) -> float:
        """Free memory at present."""
        if SIMULATED:
            return SIMULATED_MEMORY
        with self.used():
            return float(cuda.current_context().get_memory_info().free)

    @property
    def launch_bytes(self) -> float:
        """Memory that one launch may take, of what is free or held for reuse."""
        reusable = sum(length * len(blocks) for length, blocks in self._free.items())
        return FRACTION * (self.free_bytes + reusable)

    def forget(self) -> None:
        """Free all arrays that are kept."""
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
        """Return where arrays of a kind begin."""
        return self._kept[kind].places(arrays, self._upload, self._allocated)

    def kept(self, kind: str, queue: Queue) -> Any:
        """Return the long array of a kind; the queue holds it until it is released."""
        queue.kept.append(self._kept[kind].array)
        return queue.kept[-1]

    def queue(self) -> Queue:
        """Return a new queue with a stream of its own."""
        return Queue(cuda.stream())

    def up(self, array: NDArray, queue: Queue) -> Any:
        """Return a copy on the GPU, for kernels launched from now on."""
        array = np.ascontiguousarray(array)
        copy = self.empty(array.shape, array.dtype, queue)
        self._upload(array, copy)
        return copy

    def empty(self, shape: tuple[int, ...], dtype: Any, queue: Queue) -> Any:
        """Return memory on the GPU, reused or new, that the queue holds until it is released."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        length = _block_length(size)
        fits = [free for free, blocks in self._free.items() if blocks and length <= free <= 2 * length]
        block = self._free[min(fits)].pop() if fits else self._allocated((length,), np.uint8)
        queue.blocks.append(block)
        return block[:size].view(dtype).reshape(shape)

    def _allocated(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Allocate new memory; where there is none, free the blocks held for reuse and try again."""
        array = None
        with suppress(Exception):  # out of memory is several types of error
            array = cuda.device_array(shape, dtype)
        if array is None:
            self._free.clear()
            array = cuda.device_array(shape, dtype)
        return array

    def wait(self, queue: Queue) -> None:
        """Wait until all work of the queue's stream is done."""
        queue.stream.synchronize()

    def release(self, queue: Queue) -> None:
        """Free the memory of a queue whose work is done, for other work."""
        queue.kept.clear()
        while queue.blocks:
            block = queue.blocks.pop()
            self._free.setdefault(len(block), []).append(block)

    def down(self, array: Any, queue: Queue) -> NDArray:
        """Wait for the work, and return a copy in the host's memory."""
        self.moved_bytes += array.nbytes
        copy: NDArray = array.copy_to_host(stream=queue.stream)
        queue.stream.synchronize()
        return copy

    def launch(self, kernel: Any, blocks: int, queue: Queue, *arguments: Any) -> None:
        """Start a kernel; where ``times`` are kept, wait for it and add its seconds to those of its name."""
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
        # Uploads have their own stream: a copy from memory that is not pinned waits for all work of its stream.
        self.moved_bytes += array.nbytes
        part.copy_to_device(array, stream=self._uploads)
        self._uploading.append(array)  # held until the copy is done
