"""What of pairs is resident on a GPU, and where in it theirs lies: spectra, wedges, frequencies, shifts.

Samples of a target lie in the order of their distance from zero frequency: whatever is below a limit, or in a shell, is
one stretch of them. Must not know what is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.best_shift import ShiftGrid, shift_grid
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.grid import WITHIN
from gonio.fourier.spectrum import Spectrum

if TYPE_CHECKING:
    from gonio.kernels.gpu_memory import Entry, Gpu, Queue

__all__ = ["Resident", "Seeds", "SeedsOnGpu", "begins", "within"]

# Bytes of a turn, and the most that those of one target may take: of more the GPU makes the phases itself.
TURN_BYTES, MOST_TURNS = 8.0, 16e6


def begins(counts: NDArray) -> NDArray[np.int64]:
    """Where stretches of so many (b,) begin that follow one another, (b,)."""
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def within(target: Spectrum, limits: Sequence[float]) -> NDArray[np.intp]:
    """How many of a target's samples, in the order of their radius, lie within each of l limits in shells, (l,)."""
    _, radius = target.by_radius
    counts = np.searchsorted(radius, np.asarray(limits) * WITHIN, side="right")
    return np.where(np.asarray(limits) >= target.limit, len(radius), counts)


def _shells(target: Spectrum) -> NDArray[np.intp]:
    """Where each shell of a target begins in that order, and the last ends, (s + 1,)."""
    order, _ = target.by_radius
    return np.searchsorted(target.shell[order], np.arange(target.n_shells + 1))


class Resident:
    """References and frequencies of pairs of a target and a reference, resident on the GPU, and where theirs lie.

    ``arrays`` are those that begin every kernel's arguments; ``columns`` (6, n) come after them. ``column`` (b,) are
    where the columns of each pair begin.
    """

    def __init__(self, gpu: Gpu, pairs: Sequence[tuple[Spectrum, FourierVolume]], queue: Queue) -> None:
        self._gpu, self._queue = gpu, queue
        targets, references = zip(*pairs, strict=True)
        different = list({id(r): r for r in references}.values())
        number = {id(reference): i for i, reference in enumerate(different)}
        table = np.zeros((len(different), 6), np.int64)
        table[:, 0] = gpu.places("grids", [(id(r.grid), _same(r.grid), r.grid) for r in different])
        table[:, 1] = [r.side for r in different]
        table[:, 2] = gpu.places("regions", [(id(r.regions), _same(r.regions), r.regions) for r in different])
        table[:, 3] = [len(r.regions) for r in different]
        volumes = [(id(r.weights), _same(r.weights.reshape(-1)), r.weights) for r in different]
        table[:, 4] = gpu.places("volumes", volumes)
        table[:, 5] = [len(r.weights) for r in different]
        scales = np.array([(r.scale, r.weight_scale) for r in different], np.float32)
        frequencies = [(id(t.frequency_xyz), _frequencies(t), t.frequency_xyz) for t in targets]
        self._frequency = np.array(gpu.places("frequency", frequencies))
        self._reference = np.array([number[id(r)] for r in references])
        self._targets = targets
        self.sizes = np.array([len(t) for t in targets])
        self.column = begins(self.sizes)
        kept = gpu.kept("grids", queue), gpu.kept("regions", queue), gpu.kept("volumes", queue)
        self.arrays = (*kept, gpu.up(table, queue), gpu.up(scales, queue), gpu.kept("frequency", queue))

    def parts(self, counts: NDArray | None = None) -> Any:
        """The first samples of each pair as a part, on the GPU, (b, 4): so many, or all."""
        counts = self.sizes if counts is None else counts
        rows = np.stack([self._reference, self._frequency, self.column, counts], axis=1)
        return self._gpu.up(rows.astype(np.int64), self._queue)

    def shell_parts(self) -> tuple[Any, Any, NDArray[np.int64]]:
        """Every shell of each pair as a part, (r, 4), and where those of each begin, (b + 1,), on the GPU and here."""
        bounds = [_shells(target) for target in self._targets]
        counts = np.array([len(one) - 1 for one in bounds])
        begin, lengths = np.concatenate([one[:-1] for one in bounds]), np.concatenate([np.diff(one) for one in bounds])
        pair = np.repeat(np.arange(len(counts)), counts)
        rows = np.stack(
            [self._reference[pair], self._frequency[pair] + begin, self.column[pair] + begin, lengths], axis=1
        )
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return self._gpu.up(rows.astype(np.int64), self._queue), self._gpu.up(first, self._queue), first


def _same(array: NDArray) -> Callable[[], NDArray]:
    return lambda: array


def _frequencies(target: Spectrum) -> Callable[[], NDArray]:
    return lambda: target.frequency_xyz.T[target.by_radius[0]]


@dataclass(frozen=True)
class Seeds:
    """What is asked for seeds: the shifts of a target that are tried for rotations (p, 3, 3), up to a limit in shells.

    They lie within a distance, on a grid of ``points`` along the edge of the box, or of each voxel.
    """

    target: Spectrum
    rotations: NDArray[np.float64]
    limit: float
    max_shift_angstrom: float
    points: int | None

    @cached_property
    def samples(self) -> int:
        """How many of the target's there are to the limit."""
        return int(within(self.target, [self.limit])[0])

    @cached_property
    def grid(self) -> ShiftGrid:
        """The shifts."""
        box, voxel = self.target.box, self.target.voxel_size_angstrom
        return shift_grid(box, voxel, self.limit, self.max_shift_angstrom, self.points)

    @property
    def turn_bytes(self) -> float:
        """What their turns take on the GPU: nothing off the grid or of too many, which it then makes itself."""
        size = TURN_BYTES * self.samples * len(self.grid.allowed)
        return size if self.target.on_grid and size <= MOST_TURNS else 0.0

    @property
    def bytes(self) -> float:
        """What they take on the GPU, nearly."""
        return self.turn_bytes + len(self.rotations) * (8.0 * self.samples + 128.0)

    @property
    def turn_entry(self) -> Entry:
        """Their turns as an array that is kept."""
        frequency = self.target.frequency_xyz
        return (id(frequency), self.grid.turn, len(self.grid.allowed), self.limit), self._turns, frequency

    def _turns(self) -> NDArray[np.float32]:
        """Cosine and sine of every sample within the limit and every shift, (n s, 2)."""
        order, _ = self.target.by_radius
        frequency = self.target.frequency_xyz.T[order[: self.samples]].astype(np.float64)
        angle = self.grid.turn * (frequency @ self.grid.allowed.T)
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32).reshape(-1, 2)


class SeedsOnGpu:
    """Seeds of targets on the GPU: ``arguments`` of the kernel, its ``blocks``, and where results begin, (b,)."""

    def __init__(self, gpu: Gpu, asked: Sequence[Seeds], queue: Queue) -> None:
        from gonio.kernels.cuda_samples import LANES

        self.counts = np.array([len(one.rotations) for one in asked])
        self.first, groups = begins(self.counts), -(-self.counts // LANES)
        different = {id(one.rotations): one.rotations for one in asked}
        where = begins(np.array([len(rotations) for rotations in different.values()]))
        begin = dict(zip(different, where, strict=True))
        rows, shifts, turns = _shifts(gpu, asked, queue)
        seeds = np.column_stack(
            [[begin[id(one.rotations)] for one in asked], self.counts, rows, self.first, begins(groups)]
        ).astype(np.int64)
        rotations = np.concatenate([rotations.reshape(-1, 9) for rotations in different.values()], dtype=np.float64)
        most, samples = int(groups.max()), max(one.samples for one in asked)
        memory = [gpu.empty((int(groups.sum()), samples, LANES), np.float32, queue) for _ in range(2)]
        self.blocks = len(asked) * most
        self.arguments = gpu.up(seeds, queue), most, gpu.up(rotations, queue), shifts, turns, *memory


def _shifts(gpu: Gpu, asked: Sequence[Seeds], queue: Queue) -> tuple[NDArray[np.int64], Any, Any]:
    """Of each target where its shifts begin, how many there are, and where its turns begin, or -1, (b, 3).

    And all shifts (s, 3) in angstrom and turns (t, 2), on the GPU.
    """
    different = {id(one.grid): one.grid for one in asked}
    first = dict(zip(different, begins(np.array([len(grid.allowed) for grid in different.values()])), strict=True))
    rows = np.array([(first[id(one.grid)], len(one.grid.allowed), -1) for one in asked])
    with_turns = [place for place, one in enumerate(asked) if one.turn_bytes]
    if with_turns:
        rows[with_turns, 2] = gpu.places("turns", [asked[place].turn_entry for place in with_turns])
    turns = gpu.kept("turns", queue) if with_turns else gpu.empty((1, 2), np.float32, queue)
    every = np.concatenate([grid.allowed * grid.step_angstrom for grid in different.values()])
    return rows, gpu.up(every, queue), turns
