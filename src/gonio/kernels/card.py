"""A graphics card: what lies in its memory, and how kernels (``cuda``) are launched on it.

Arrays that many pairs look at are *kept*: each lies in a long array of its kind and is known by where it begins there.
What is not kept goes up with the work. When a long array is full, a new one is begun, with what the work at hand needs;
work that is under way keeps the old one until it is done. Running out of memory is one error, ``OutOfMemory``, whatever
the library calls it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numba import cuda as _cuda
from numpy.typing import NDArray

from gonio.kernels.cuda import SIMULATED, THREADS, kernels

__all__ = ["Card", "NoCard", "OutOfMemory", "card_count"]

cuda: Any = _cuda
# Elements that a long array begins with.
FIRST_LENGTH = 1 << 16
# Of free memory what one launch may take: two are under way at a time, and long arrays grow.
SHARE = 0.3
NEEDED = "which takes NVIDIA's driver and what pip install 'numba-cuda[cu13]' or 'numba-cuda[cu12]' brings"
# What a simulated card is said to have, bytes.
SIMULATED_MEMORY = 1 << 30


class OutOfMemory(Exception):
    """The card has not enough memory for the work."""


class NoCard(Exception):
    """There is no card that works, and why."""


def card_count() -> int:
    """How many cards there are.

    Raises
    ------
    NoCard
        When there is none, or no driver.
    """
    try:
        count = len(cuda.gpus.lst) if not SIMULATED else 1
    except Exception as error:  # whatever a driver that is not there leads to
        raise NoCard("no graphics card or driver of NVIDIA's was found") from error
    if count == 0:
        raise NoCard("no graphics card of NVIDIA's was found")
    return count


@cuda.jit
def _count(number):
    number[0] += 1.0


class _Kept:
    """One long array on the card, with the arrays that lie in it."""

    def __init__(self, row: tuple[int, ...], dtype: type) -> None:
        self._row, self._dtype = row, dtype
        self._places: dict[Any, tuple[int, Any]] = {}
        self._used = 0
        self.array: Any = None

    def places(self, arrays: Sequence[tuple[Any, NDArray, Any]], upload: Any) -> list[int]:
        """Where arrays begin; those that are not there yet are put there.

        Each comes with what it is known by, and an object that is held so that nothing else is known by the same.
        """
        missing = {key: (array, owner) for key, array, owner in arrays if key not in self._places}
        needed = sum(len(array) for array, _ in missing.values())
        if self.array is None or self._used + needed > len(self.array):
            # Only what is asked for now: the rest comes back when it is needed.
            missing = {key: (array, owner) for key, array, owner in arrays}
            needed = sum(len(array) for array, _ in missing.values())
            length = max(FIRST_LENGTH // int(np.prod(self._row, initial=1)), 2 * needed)
            self._places, self._used = {}, 0
            self.array = None
            self.array = cuda.device_array((length, *self._row), self._dtype)
        for key, (array, owner) in missing.items():
            if len(array):
                part = self.array[self._used : self._used + len(array)]
                upload(np.ascontiguousarray(array, dtype=self._dtype), part)
            self._places[key] = self._used, owner
            self._used += len(array)
        return [self._places[key][0] for key, _, _ in arrays]


class Card:
    """One card, used by one thread.

    Parameters
    ----------
    index
        Which of the cards there are.
    threads
        Of a block.

    ``moved_bytes`` counts what goes up and comes down.
    """

    def __init__(self, index: int = 0, *, threads: int = THREADS) -> None:
        count = card_count()
        if index >= count:
            raise NoCard(f"there is no card {index}: those found are 0 to {count - 1}")
        self.index = index
        self._try()
        self.kernels = kernels(threads)
        self.moved_bytes = 0
        self.times: dict[str, float] | None = None
        with self.used():
            self._uploads = cuda.stream()
        self.forget()

    def _try(self) -> None:
        """Compile and launch something small."""
        try:
            with cuda.gpus[self.index]:
                one = cuda.to_device(np.zeros(1, np.float32))
                _count[1, 1](one)
                works = one.copy_to_host()[0] == 1.0
        except Exception as error:  # a driver, compiler or card too old, or in another's use
            said = str(error).strip().splitlines() or [type(error).__name__]
            raise NoCard(f"card {self.index} does not work ({said[0]}), {NEEDED}") from error
        if not works:
            raise NoCard(f"card {self.index} computes wrong numbers")

    @contextmanager
    def used(self) -> Iterator[None]:
        """This card is that of the thread; running out of its memory is ``OutOfMemory``."""
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
            return "simulated card"
        name = cuda.gpus[self.index].name
        return name.decode() if isinstance(name, bytes) else str(name)

    @property
    def launch_bytes(self) -> float:
        """What one launch may take of the memory that is free now."""
        if SIMULATED:
            return SHARE * SIMULATED_MEMORY
        with self.used():
            return float(SHARE * cuda.current_context().get_memory_info().free)

    def forget(self) -> None:
        """Free all that is kept."""
        self._kept = {
            "grids": _Kept((), np.float32),
            "volumes": _Kept((), np.float32),
            "regions": _Kept((7,), np.float32),
            "frequency": _Kept((3,), np.float32),
            "order": _Kept((), np.int32),
        }
        self._tables: dict[Any, Any] = {}

    def places(self, kind: str, arrays: Sequence[tuple[Any, NDArray, Any]]) -> list[int]:
        """Where arrays of a kind begin, each with what it is known by and what owns it."""
        return self._kept[kind].places(arrays, self._upload)

    def kept(self, kind: str) -> Any:
        """The long array of a kind."""
        return self._kept[kind].array

    def table(self, key: Any, make: Any, most: int = 4) -> Any:
        """A pair of arrays (n, s) that is kept by itself, one of the last few."""
        if key not in self._tables:
            while len(self._tables) >= most:
                self._tables.pop(next(iter(self._tables)))
            self._tables[key] = tuple(self.up(array, self._uploads) for array in make())
            self._uploads.synchronize()
        return self._tables[key]

    def stream(self) -> Any:
        """Work that is done one after the other."""
        return cuda.stream()

    def up(self, array: NDArray, stream: Any) -> Any:
        """A copy on the card."""
        self.moved_bytes += array.nbytes
        return cuda.to_device(np.ascontiguousarray(array), stream=stream)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        """Memory on the card."""
        return cuda.device_array(shape, dtype)

    def down(self, array: Any, stream: Any) -> NDArray:
        """A copy here; waits for the work."""
        self.moved_bytes += array.nbytes
        copy: NDArray = array.copy_to_host(stream=stream)
        stream.synchronize()
        return copy

    def launch(self, kernel: Any, blocks: int, stream: Any, *arguments: Any) -> None:
        """Start a kernel. Where ``times`` are kept it is waited for, and its seconds are added to those of its name."""
        if self.times is not None:
            stream.synchronize()
        start = time.perf_counter()
        kernel[blocks, self.kernels.threads, stream](*arguments)
        if self.times is not None:
            stream.synchronize()
            name = getattr(kernel, "__name__", str(kernel))
            self.times[name] = self.times.get(name, 0.0) + time.perf_counter() - start

    def _upload(self, array: NDArray, part: Any) -> None:
        self.moved_bytes += array.nbytes
        part.copy_to_device(array, stream=self._uploads)
        self._uploads.synchronize()
