"""The device of alignments: the CPU, or a GPU, a backend that does many pieces of work at a time.

A batch is split into portions that fit in memory; where memory runs out nevertheless, a portion is halved. A GPU is
used by the process that opened it, by one thread at a time: while one thread waits for it, another may queue work. Must
not know what the work is for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.score import NormalEquations
from gonio.particle.arguments import ArgumentError
from gonio.search import levenberg_marquardt as lm
from gonio.search.backend import BestShifts, Evaluation, Found, PairSearch, Refinement
from gonio.search.gpu.dispatch import (
    BEST_SHIFTS,
    NORMAL_EQUATIONS,
    REFINE,
    SEARCH,
    SHELL_EQUATIONS,
    SHELL_SUMS,
    Work,
)

if TYPE_CHECKING:
    from gonio.kernels.gpu_memory import Gpu, Queue

W = TypeVar("W")
A = TypeVar("A")

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
INSTALL = "pip install 'gonio[cuda]' 'numba-cuda[cu13]', or [cu12] where the driver is of CUDA 12 (docs/gpu.md)"
DRAWS = (
    "{} cuda is for searches that refine all of their candidates: one that draws them one by one, stochastic or with a"
    " drawn pool, runs with {} cpu"
)
ONE_PROCESS = (
    "a GPU is used by the process that opened it: for workers, give an aligner without device= and"
    " executor=gonio.executor_for(device)"
)


def opened(name: str) -> Device | None:
    """Open a device by name: ``"cpu"`` (None), ``"cuda"``, ``"cuda:1"``, or ``"auto"``, a GPU where one works.

    Raises
    ------
    ValueError
        For another name, and for a GPU that is not available; the error states what to install.
    """
    if name == CPU:
        return None
    kind, _, index = name.partition(":")
    if name != AUTO and (kind != CUDA or (":" in name and not index.isdecimal())):
        raise ArgumentError(
            '{} must be "cpu", "cuda", "cuda:1" (the second GPU, and so on) or "auto", got {name!r}',
            "device",
            name=name,
        )
    try:
        return Device(_gpu(int(index or 0)))
    except ValueError:
        if name == AUTO:
            return None
        raise


def device_for(device: str | Device, *, draws: bool) -> Device | None:
    """Return an open device for a name or a device; the CPU (None) for searches that draw their candidates.

    Raises
    ------
    ValueError
        For the errors of ``opened``, and where a GPU is given for a search that draws.
    """
    if not draws or device == CPU:
        return device if isinstance(device, Device) else opened(device)
    if device == AUTO:
        return None
    raise ArgumentError(DRAWS, "device", "device")


def _gpu(index: int) -> Gpu:
    if find_spec("numba_cuda") is None:
        raise ArgumentError("{} {kind} needs numba-cuda: {install}", "device", kind=CUDA, install=INSTALL)
    from gonio.kernels.gpu_memory import Gpu, NoGpu

    try:
        return Gpu(index)
    except NoGpu as error:
        raise ArgumentError(
            '{} {kind} cannot be used, {why}: use "cpu", or "auto" for what there is', "device", kind=CUDA, why=error
        ) from error


@dataclass
class Device:
    """A GPU as a ``Backend``."""

    gpu: Gpu
    _process: int = field(default_factory=os.getpid, init=False, repr=False)
    _lock: Lock = field(default_factory=Lock, init=False, repr=False)

    def __reduce__(self) -> str:
        raise TypeError(ONE_PROCESS)

    @property
    def name(self) -> str:
        """Name for messages and reports."""
        return f"cuda:{self.gpu.index} ({self.gpu.name})"

    def search(self, searches: Sequence[PairSearch]) -> list[Found]:
        """Find the optima of pairs from coarse to fine."""
        return self.done(SEARCH, searches)

    def refine(self, refinements: Sequence[Refinement]) -> list[lm.State]:
        """Refine every point on its own by Levenberg-Marquardt steps."""
        return self.done(REFINE, refinements)

    def best_shifts(self, seeds: Sequence[BestShifts]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Find the best shifts (p, 3) in angstrom of rotations, and dissimilarities (p,)."""
        return self.done(BEST_SHIFTS, seeds)

    def normal_equations(self, evaluations: Sequence[Evaluation]) -> list[NormalEquations]:
        """Evaluate dissimilarity and normal equations at points."""
        return self.done(NORMAL_EQUATIONS, evaluations)

    def shell_sums(self, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
        """Sum |f|^2, |g|^2, f.g and |Omega| over shells at points, (p, s, 4)."""
        return self.done(SHELL_SUMS, evaluations)

    def shell_equations(self, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
        """Sum the terms of the normal equations over shells at points, (p, s, 37)."""
        return self.done(SHELL_EQUATIONS, evaluations)

    def done(self, work: Work[W, A], pieces: Sequence[W]) -> list[A]:
        """Do pieces of work, as many at a time as fit in memory, and return their answers in order.

        Raises
        ------
        RuntimeError
            In a process other than the one that opened the GPU, such as one forked from it.
        MemoryError
            The GPU has not enough memory for a single piece.
        """
        if os.getpid() != self._process:
            raise RuntimeError(ONE_PROCESS)
        with self._lock, self.gpu.used():
            room, queue = self.gpu.launch_bytes, self.gpu.queue()
        answers: dict[int, A] = {}
        waiting = deque(_portions(work, pieces, room))
        running: deque[tuple[_Portion, _Started[W, A]]] = deque()
        while waiting or running:
            # Start portions while they fit in memory with the running ones, or a single one.
            while waiting and (not running or sum(p.size for p, _ in running) + waiting[0].size <= room):
                portion = waiting.popleft()
                running.append((portion, self._started(work, [pieces[i] for i in portion.places], queue.beside())))
            portion, started = running[0]
            answers.update(zip(portion.places, self._answers(started), strict=True))
            running.popleft()
        return [answers[place] for place in range(len(pieces))]

    def _started(self, work: Work[W, A], pieces: list[W], queue: Queue) -> _Started[W, A]:
        """Start pieces of one kind."""
        from gonio.kernels.gpu_memory import OutOfMemory

        started = _Started(work, pieces, queue)
        with self._lock, suppress(OutOfMemory), self.gpu.used():
            started.finish = work.start(self.gpu, pieces, queue)
        return started

    def _answers(self, started: _Started[W, A]) -> list[A]:
        """Wait for work that was started and return its answers; where memory ran out, do its halves in turn."""
        from gonio.kernels.gpu_memory import OutOfMemory

        answers: list[A] | None = None
        # Without the lock: another thread may queue work meanwhile.
        with suppress(OutOfMemory), self.gpu.used():
            self.gpu.wait(started.queue)
        with self._lock, suppress(OutOfMemory), self.gpu.used():
            if started.finish is not None:
                answers = started.finish()
                self.gpu.release(started.queue)
        # Halves start when nothing keeps the memory of the whole: neither this function nor the error.
        started.finish = None
        return self._in_halves(started) if answers is None else answers

    def _in_halves(self, started: _Started[W, A]) -> list[A]:
        with self._lock, self.gpu.used():
            self.gpu.wait(started.queue)
            self.gpu.release(started.queue)
            self.gpu.forget()
        half = len(started.pieces) // 2
        if not half:
            raise MemoryError(
                f"{self.name} has not enough memory for a single pair: use device='cpu', or a coarser resolution"
            )
        # The second half starts when the first is done: both did not fit in memory.
        halves = started.pieces[:half], started.pieces[half:]
        first = self._answers(self._started(started.work, halves[0], started.queue.beside()))
        return first + self._answers(self._started(started.work, halves[1], started.queue.beside()))


@dataclass
class _Started(Generic[W, A]):
    """Running pieces of work; ``finish`` returns their answers, and is None where memory ran out at their start."""

    work: Work[W, A]
    pieces: list[W]
    queue: Queue
    finish: Callable[[], list[A]] | None = None


@dataclass(frozen=True)
class _Portion:
    """Pieces of one kind that fit in memory together, by their places, and their size in bytes."""

    places: list[int]
    size: float


def _portions(work: Work[W, A], pieces: Sequence[W], room: float) -> Iterator[_Portion]:
    """Yield portions of one kind each, of as many pieces as fit in memory, or of one."""
    kinds: dict[Hashable, list[int]] = {}
    for place, piece in enumerate(pieces):
        kinds.setdefault(work.kind(piece), []).append(place)
    for places in kinds.values():
        some: list[int] = []
        taken = 0.0
        for place in places:
            size = work.size(pieces[place])
            if some and taken + size > room:
                yield _Portion(some, taken)
                some, taken = [], 0.0
            some.append(place)
            taken += size
        yield _Portion(some, taken)
