"""Resident data: spectra, wedges, frequencies and shifts that stay on a GPU, and where those of each pair begin.

Samples of a target are ordered by their distance from zero frequency: those below a limit, or in a shell, are
contiguous. Must not know what is computed.
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

# Bytes of a phase factor, and the most that those of one target may take: beyond it the GPU computes them itself.
PHASE_BYTES, MOST_PHASE_BYTES = 8.0, 16e6


def begins(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Return where consecutive runs of ``counts`` (b,) items begin, (b,)."""
    return np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)


def within(target: Spectrum, limits: Sequence[float]) -> NDArray[np.intp]:
    """Return how many of a target's samples lie within each of l limits in shells, (l,)."""
    _, radius = target.by_radius
    counts = np.searchsorted(radius, np.asarray(limits) * WITHIN, side="right")
    return np.where(np.asarray(limits) >= target.limit, len(radius), counts)


def _shells(target: Spectrum) -> NDArray[np.intp]:
    """Return where each shell of a target begins in the order of radius, and where the last ends, (s + 1,)."""
    order, _ = target.by_radius
    return np.searchsorted(target.shell[order], np.arange(target.n_shells + 1))


class Resident:
    """References and frequencies of pairs of a target and a reference on the GPU.

    ``arrays`` are the first arguments of every kernel; ``columns`` (6, n) follow them. ``column`` (b,) is where the
    columns of each pair begin.
    """

    def __init__(self, gpu: Gpu, pairs: Sequence[tuple[Spectrum, FourierVolume]], queue: Queue) -> None:
        self._gpu, self._queue = gpu, queue
        targets, references = zip(*pairs, strict=True)
        distinct = list({id(r): r for r in references}.values())
        number = {id(reference): i for i, reference in enumerate(distinct)}
        table = np.zeros((len(distinct), 6), np.int64)
        table[:, 0] = gpu.places("grids", [(id(r.grid), _same(r.grid), r.grid) for r in distinct])
        table[:, 1] = [r.side for r in distinct]
        table[:, 2] = gpu.places("regions", [(id(r.regions), _same(r.regions), r.regions) for r in distinct])
        table[:, 3] = [len(r.regions) for r in distinct]
        volumes = [(id(r.weights), _same(r.weights.reshape(-1)), r.weights) for r in distinct]
        table[:, 4] = gpu.places("volumes", volumes)
        table[:, 5] = [len(r.weights) for r in distinct]
        scales = np.array([(r.scale, r.weight_scale) for r in distinct], np.float32)
        frequencies = [(id(t.frequency_xyz), _frequencies(t), t.frequency_xyz) for t in targets]
        self._frequency = np.array(gpu.places("frequency", frequencies))
        self._reference = np.array([number[id(r)] for r in references])
        self._targets = targets
        self.sizes = np.array([len(t) for t in targets])
        self.column = begins(self.sizes)
        kept = gpu.kept("grids", queue), gpu.kept("regions", queue), gpu.kept("volumes", queue)
        self.arrays = (*kept, gpu.up(table, queue), gpu.up(scales, queue), gpu.kept("frequency", queue))

    def parts(self, counts: NDArray[np.integer] | None = None) -> Any:
        """Upload the first ``counts`` samples of each pair, or all, as a part, (b, 4)."""
        counts = self.sizes if counts is None else counts
        rows = np.stack([self._reference, self._frequency, self.column, counts], axis=1)
        return self._gpu.up(rows.astype(np.int64), self._queue)

    def shell_parts(self) -> tuple[Any, Any, NDArray[np.int64]]:
        """Upload each shell of each pair as a part, (r, 4), and return it with where each pair's begin, (b + 1,).

        The latter is returned both on the GPU and on the host.
        """
        bounds = [_shells(target) for target in self._targets]
        counts = np.array([len(one) - 1 for one in bounds])
        begin, lengths = np.concatenate([one[:-1] for one in bounds]), np.concatenate([np.diff(one) for one in bounds])
        pair = np.repeat(np.arange(len(counts)), counts)
        rows = np.stack(
            [self._reference[pair], self._frequency[pair] + begin, self.column[pair] + begin, lengths], axis=1
        )
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return self._gpu.up(rows.astype(np.int64), self._queue), self._gpu.up(first, self._queue), first


def _same(array: NDArray[np.generic]) -> Callable[[], NDArray[np.generic]]:
    return lambda: array


def _frequencies(target: Spectrum) -> Callable[[], NDArray[np.float32]]:
    return lambda: target.frequency_xyz.T[target.by_radius[0]]


@dataclass(frozen=True)
class Seeds:
    """Seeds of a target: rotations (p, 3, 3), and the shifts to try for each, up to a limit in shells.

    Shifts are those within ``max_shift_angstrom`` on a grid of ``points`` along the edge of the box, or every voxel.
    """

    target: Spectrum
    rotations: NDArray[np.float64]
    limit: float
    max_shift_angstrom: float
    points: int | None

    @cached_property
    def samples(self) -> int:
        """Number of the target's samples within the limit."""
        return int(within(self.target, [self.limit])[0])

    @cached_property
    def grid(self) -> ShiftGrid:
        """Grid of the shifts."""
        box, voxel = self.target.box, self.target.voxel_size_angstrom
        return shift_grid(box, voxel, self.limit, self.max_shift_angstrom, self.points)

    @property
    def phase_bytes(self) -> float:
        """Memory of the phase factors on the GPU; zero where it computes them itself, off the grid or too many."""
        size = PHASE_BYTES * self.samples * len(self.grid.allowed)
        return size if self.target.on_grid and size <= MOST_PHASE_BYTES else 0.0

    @property
    def bytes(self) -> float:
        """Approximate memory on the GPU."""
        return self.phase_bytes + len(self.rotations) * (8.0 * self.samples + 128.0)

    @property
    def phase_entry(self) -> Entry:
        """Phase factors as a resident array."""
        frequency = self.target.frequency_xyz
        return (id(frequency), self.grid.turn, len(self.grid.allowed), self.limit), self._phase_factors, frequency

    def _phase_factors(self) -> NDArray[np.float32]:
        """Return cosine and sine of the phase of every sample within the limit and every shift, (n s, 2)."""
        order, _ = self.target.by_radius
        frequency = self.target.frequency_xyz.T[order[: self.samples]].astype(np.float64)
        angle = self.grid.turn * (frequency @ self.grid.allowed.T)
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1).astype(np.float32).reshape(-1, 2)


class SeedsOnGpu:
    """Seeds of targets on the GPU: ``arguments`` of the kernel, its ``blocks``, and ``first`` results, (b,)."""

    def __init__(self, gpu: Gpu, seeds: Sequence[Seeds], queue: Queue) -> None:
        from gonio.kernels.cuda_samples import LANES

        self.counts = np.array([len(one.rotations) for one in seeds])
        self.first, groups = begins(self.counts), -(-self.counts // LANES)
        distinct = {id(one.rotations): one.rotations for one in seeds}
        where = begins(np.array([len(rotations) for rotations in distinct.values()]))
        begin = dict(zip(distinct, where, strict=True))
        rows, shifts, phase_factors = _shifts(gpu, seeds, queue)
        table = np.column_stack(
            [[begin[id(one.rotations)] for one in seeds], self.counts, rows, self.first, begins(groups)]
        ).astype(np.int64)
        rotations = np.concatenate([rotations.reshape(-1, 9) for rotations in distinct.values()], dtype=np.float64)
        most, samples = int(groups.max()), max(one.samples for one in seeds)
        memory = [gpu.empty((int(groups.sum()), samples, LANES), np.float32, queue) for _ in range(2)]
        self.blocks = len(seeds) * most
        self.arguments = gpu.up(table, queue), most, gpu.up(rotations, queue), shifts, phase_factors, *memory


def _shifts(gpu: Gpu, seeds: Sequence[Seeds], queue: Queue) -> tuple[NDArray[np.int64], Any, Any]:
    """Upload shifts and phase factors; return the table (b, 3) of each target's, shifts (s, 3) and factors (t, 2).

    A row of the table is where shifts begin, how many there are, and where phase factors begin, or -1. Shifts are in
    angstrom.
    """
    distinct = {id(one.grid): one.grid for one in seeds}
    first = dict(zip(distinct, begins(np.array([len(grid.allowed) for grid in distinct.values()])), strict=True))
    rows = np.array([(first[id(one.grid)], len(one.grid.allowed), -1) for one in seeds])
    with_factors = [place for place, one in enumerate(seeds) if one.phase_bytes]
    if with_factors:
        rows[with_factors, 2] = gpu.places("turns", [seeds[place].phase_entry for place in with_factors])
    factors = gpu.kept("turns", queue) if with_factors else gpu.empty((1, 2), np.float32, queue)
    every = np.concatenate([grid.allowed * grid.step_angstrom for grid in distinct.values()])
    return rows, gpu.up(every, queue), factors
