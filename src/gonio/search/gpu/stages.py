"""Batched coarse-to-fine searches (``coarse_to_fine``): the stages of many pairs at once on a GPU.

The kernels are in ``kernels.cuda`` (sums of samples) and ``kernels.cuda_stages`` (what is computed from these sums).
All launches of a batch are queued and executed in order: nothing is downloaded and no stage is waited for until the
answers are requested. Searches of a batch have one course; everything else may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.score import CODES, MIN_OVERLAP, MIN_SAMPLES, Score
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import sample_sums
from gonio.search import levenberg_marquardt as lm
from gonio.search.backend import Found, PairSearch
from gonio.search.coarse_to_fine import (
    CHANCE_POSES,
    CHOICE_POWER,
    DISTINCT,
    LAST_CANDIDATES,
    MIN_SEEDS,
    NEIGHBOURED,
    PruningRule,
    conduct,
)
from gonio.search.cpu import Cpu, chance_poses
from gonio.search.gpu.resident_data import Resident, Seeds, SeedsOnGpu, begins, within
from gonio.search.search_space import neighbour_rotations
from gonio.search.uncertainty import Curvature

if TYPE_CHECKING:
    from gonio.kernels.gpu_memory import Gpu, Queue

# Bytes of a search of any size, and of a pose in its two pools: a point, its models, its order.
SEARCH_BYTES, POSE_BYTES = 4096.0, 1024.0
# Blocks of memory are up to a quarter larger than their contents.
ROUNDED = 1.125


def kind_of_search(search: PairSearch) -> Hashable:
    """Return the kind of a search; searches of one kind share a batch."""
    free = search.frame.shift_angstrom is None
    draws = search.minimise is not None
    return PairSearch, search.course, search.frame.directions.shape[1], search.group.tobytes(), free, draws


def bytes_of_search(search: PairSearch) -> float:
    """Estimate the memory of a search on the GPU, in bytes."""
    target, frame = search.pair.target, search.frame
    seeds = _seeds(search).bytes if frame.shift_angstrom is None else 128.0 * len(frame.rotations)
    sums = (32.0 * 2 * CHANCE_POSES + 8.0 * sample_sums.N_SUMS) * target.n_shells
    poses = _room([search]) * POSE_BYTES
    return ROUNDED * (64.0 * len(target) + seeds + sums + poses + SEARCH_BYTES)


def _seeds(search: PairSearch) -> Seeds:
    frame = search.frame
    limit = search.plan.limits[0]
    return Seeds(search.pair.target, frame.rotations, limit, frame.max_shift_angstrom, search.grid)


def conducted(gpu: Gpu, searches: list[PairSearch], queue: Queue) -> Callable[[], list[Found]]:
    """Start searches of one kind, and return a function that waits for them and returns their optima.

    Searches that draw their candidates run on the CPU.
    """
    if searches[0].minimise is not None:
        return lambda: Cpu().search(searches)
    stages = _OnGpu(gpu, searches, queue)
    conduct(stages, searches[0].course)
    return stages.finish()


def _room(searches: list[PairSearch]) -> int:
    """Return the number of rows of each search's pool."""
    course = searches[0].course
    most = course.pruning.seeds.most if course.levels > 1 else max(len(s.frame.rotations) for s in searches)
    return max(most, LAST_CANDIDATES + (len(neighbour_rotations()) * NEIGHBOURED if course.neighbour_search else 0))


class _Results(NamedTuple):
    """Arrays of the optima of a batch, on the GPU or downloaded; ``minimised`` values contain the prior."""

    counts: Any
    points: Any
    minimised: Any
    values: Any
    codes: Any
    choices: Any
    iterations: Any
    overlap: Any
    tables: Any
    contrasts: Any
    follow: Any
    scatter: Any


class _OnGpu:
    """The ``Stages`` of a batch, with the arrays on the GPU and the largest number of poses in a pool."""

    def __init__(self, gpu: Gpu, searches: list[PairSearch], queue: Queue) -> None:
        from gonio.kernels.cuda_samples import landscape_rows
        from gonio.kernels.cuda_stages import WEIGHTS

        self._gpu, self._searches, self._queue, self._weights = gpu, searches, queue, WEIGHTS
        self._count, self._course = len(searches), searches[0].course
        self._room, self._most = _room(searches), 0
        targets = [search.pair.target for search in searches]
        raw = gpu.places("samples", [(id(t), _samples(t), t) for t in targets])
        self._resident = Resident(gpu, [(s.pair.target, s.pair.reference) for s in searches], queue)
        self._samples = gpu.kept("samples", queue)
        limits = np.array([within(s.pair.target, s.plan.limits) for s in searches])  # (b, levels)
        self._parts = [self._resident.parts(column) for column in limits.T]
        self._whole_parts, self._part_first = self._resident.parts(), self._up(np.arange(self._count + 1))
        self._shell_parts, self._shell_first, shell_first = self._resident.shell_parts()
        self._shells, n_shells = int(np.diff(shell_first).max()), np.diff(shell_first)
        self._columns, self._plain = (self._empty((6, int(self._resident.sizes.sum())), np.float32) for _ in range(2))
        self._seed_counts = np.array([len(s.frame.rotations) for s in searches])
        self._seed_first = begins(self._seed_counts)
        self._describe(raw, shell_first, n_shells)
        self._expect_before(n_shells)
        landscapes = [
            s.frame.pose_problem(
                s.pair.plain(Score.RCS), samples_per_independent=s.pair.samples_per_independent
            ).landscape
            for s in searches
        ]
        whole, numbers = landscape_rows(landscapes)
        self._whole, self._numbers = self._up(whole), self._up(numbers)
        self._phases = self._up(np.array([landscape.phase for landscape in landscapes]))
        self._group = self._up(searches[0].group)
        self._pool_first = self._up(np.arange(self._count) * self._room)
        self._one = self._up(np.ones(self._count, np.int64))
        self._pools()

    def _describe(self, raw: list[int], shell_first: NDArray[np.int64], n_shells: NDArray[np.int64]) -> None:
        """Upload tables of what is known of each search before the first launch."""
        from gonio.kernels.cuda_stages import MOST_CHANCE_POSES, PAIR, SEARCH

        searches = self._searches
        chosen = [chance_poses(count) for count in self._seed_counts]
        self._chance_counts = np.array([len(range(n)[c]) for n, c in zip(self._seed_counts, chosen, strict=True)])
        assert self._chance_counts.max() <= MOST_CHANCE_POSES
        self._chance_steps = np.array([c.step or 1 for c in chosen])
        whole = np.zeros((self._count, len(SEARCH)), np.int64)
        known: dict[str, Any] = {
            "seed": self._seed_first,
            "shell": shell_first[:-1],
            "sample": raw,
            "seeds": self._seed_counts,
            "shells": n_shells,
            "chance": self._chance_counts,
            "score": [CODES[s.score] for s in searches],
            "exact": [s.pair.exact for s in searches],
            "known": [s.expected_fsc is not None for s in searches],
        }
        for name, column in known.items():
            whole[:, SEARCH[name]] = column
        numbers = np.zeros((self._count, len(PAIR)))
        numbers[:, PAIR["samples_per_independent"]] = [s.pair.samples_per_independent for s in searches]
        numbers[:, PAIR["voxel"]] = [s.pair.target.voxel_size_angstrom for s in searches]
        self._table, self._pairs = self._up(whole), self._up(numbers)

    def _expect_before(self, n_shells: NDArray[np.int64]) -> None:
        """Upload the expected FSC before any pose is known, or the given one, and C_ref."""
        before, c_ref, contrast = [], [], []
        for search, count in zip(self._searches, n_shells, strict=True):
            known = search.pair.before if search.expected_fsc is None else search.expected_fsc
            before.append(np.zeros((count, 4)) if known is None else known.table)
            contrast.append(1.0 if known is None else known.contrast)
            limit = search.pair.c_ref
            c_ref.append(np.full(count, np.inf) if limit is None else limit)
        table, contrasts = np.concatenate(before), np.array(contrast)
        self._before, self._now = (self._up(table), self._up(contrasts)), (self._up(table), self._up(contrasts))
        self._raised, self._c_ref = self._empty(table.shape, np.float64), self._up(np.concatenate(c_ref))
        self._chance = self._empty((len(table),), np.float64)

    def _pools(self) -> None:
        """Allocate the memory of the stages and the two pools, each of which receives the poses kept from the other."""
        rows, k = self._count * self._room, self._searches[0].frame.directions.shape[1]
        self._refinement = self._gpu.kernels.refine[k]
        self._pool, self._next = self._pool_of(self._room), self._pool_of(self._room)
        self._models = [self._empty((rows, *shape), np.float64) for shape in ((k, k), (k,), (), ())]
        self._iterations, self._order = self._empty((rows,), np.int64), self._empty((rows,), np.int64)
        self._signatures = self._empty((rows, 9), np.float64)
        self._counts, self._deviation = self._up(np.zeros(self._count, np.int64)), self._up(np.zeros(self._count))
        self._total = self._up(np.zeros(self._count, np.int64))

    def _pool_of(self, room: int) -> list[Any]:
        """Allocate the points, values, codes and choices of a pool."""
        rows = self._count * room
        shapes = ((rows, 12), np.float64), ((rows,), np.float64), ((rows,), np.int64), ((rows,), np.float64)
        return [self._empty(shape, dtype) for shape, dtype in shapes]

    def seed(self) -> None:
        self._weigh("plain", self._whole_parts, self._now, self._plain)
        self._weigh("before", self._parts[0], self._before, self._columns)
        count = int(self._seed_counts.sum())
        if self._searches[0].frame.shift_angstrom is None:
            self._seeds = self._empty((count, 12), np.float64), self._empty((count,), np.float64)
            seeds = SeedsOnGpu(self._gpu, [_seeds(search) for search in self._searches], self._queue)
            self._launch(
                self._gpu.kernels.best_shifts, seeds.blocks, *self._resident.arrays, self._columns, self._parts[0],
                self._whole, self._numbers, *seeds.arguments, *self._seeds,
            )  # fmt: skip
        else:
            points = [search.frame.seeds(search.pair.plain(Score.RCS))[0] for search in self._searches]
            self._seeds = self._up(np.concatenate(points)), self._up(np.zeros(count))
            if self._course.levels > 1:
                most, first = int(self._seed_counts.max()), self._up(self._seed_first)
                counts = self._up(self._seed_counts)
                sums = self._totals(self._columns, self._parts[0], first, self._one, counts, most, self._seeds[0])
                self._values(sums, first, counts, most, self._seeds[1])
        most = max(int(self._chance_counts.max()), 1)
        poses = self._up(self._seed_first), self._up(self._chance_steps), self._up(self._chance_counts)
        sums = self._shell_sums("totals", self._plain, *poses, most, self._seeds[0])
        self._stage("nulls", self._count, self._table, sums, most, self._shells, self._chance, self._before[0])
        if self._course.levels == 1:
            self.keep_seeds(PruningRule(0.0, self._room, self._room, 0))

    def keep_seeds(self, rule: PruningRule) -> None:
        numbers = float(rule.margin), rule.least, rule.most, MIN_SEEDS
        self._stage(
            "keep_seeds", self._count, self._table, *self._seeds, *numbers, self._room, self._order, self._deviation,
            self._pool[0], self._counts,
        )  # fmt: skip
        self._most = min(rule.most, int(self._seed_counts.max()))

    def refine(self, level: int | None, steps: int) -> None:
        full = self._whole_parts, "score", self._now
        parts, mode, expected = full if level is None else (self._parts[level], "before", self._before)
        self._weigh(mode, parts, expected, self._columns)
        self._refine(parts, self._most, steps)

    def keep(self, rule: PruningRule) -> None:
        self._keep_distinct(self._pool[1], rule, by_choice=True, within=True, stepped=self._most)

    def expect(self) -> None:
        sums = self._shell_sums("totals", self._plain, self._pool_first, self._one, self._one, 1, self._pool[0])
        self._threads(
            "expect", self._count, self._table, sums, self._shells, self._chance, self._c_ref, *self._now,
        )  # fmt: skip

    def search_neighbours(self) -> None:
        rotations = neighbour_rotations()
        self._stage(
            "search_neighbours", self._count, self._up(rotations), NEIGHBOURED, self._room, self._counts, self._pool[0],
        )  # fmt: skip
        self._most += len(rotations) * min(NEIGHBOURED, self._most)

    def choose(self) -> None:
        self._weigh("choice", self._whole_parts, self._now, self._columns, power=CHOICE_POWER)
        poses = self._pool_first, self._one, self._counts
        sums = self._totals(self._columns, self._whole_parts, *poses, self._most, self._pool[0])
        self._threads(
            "choices", self._count * self._most, self._table, self._pairs, sums, self._most, self._room, self._counts,
            self._whole, self._numbers, self._pool[0], self._pool[3],
        )  # fmt: skip
        rule = PruningRule(0.0, LAST_CANDIDATES, LAST_CANDIDATES, 0)
        self._keep_distinct(self._pool[3], rule, by_choice=True, within=False, stepped=self._most)

    def converge(self, steps: int) -> None:
        self._weigh("score", self._whole_parts, self._now, self._columns)
        self._refine(self._whole_parts, 1, steps)
        choices = self._pool[1] if self._course.alone else self._pool[3]
        self._next, room = self._pool_of(LAST_CANDIDATES), LAST_CANDIDATES
        rule = PruningRule(0.0, LAST_CANDIDATES, LAST_CANDIDATES, 0)
        self._keep_distinct(choices, rule, by_choice=False, within=False, stepped=1, next_room=room)
        self._pool_first, self._room = self._up(np.arange(self._count) * room), room

    def finish(self) -> Callable[[], list[Found]]:
        """Start the last launches, and return a function that waits for the optima and returns them."""
        points, minimised, codes, choices = self._pool
        first = self._pool_first, self._one
        values = self._empty((self._count * self._room,), np.float64)
        sums = self._totals(self._columns, self._whole_parts, *first, self._counts, self._room, points)
        self._values(sums, self._pool_first, self._counts, self._room, values)
        overlap = self._totals(self._plain, self._whole_parts, *first, self._one, 1, points)
        self._weigh("curvature", self._whole_parts, self._now, self._columns)
        equations = self._shell_sums("normal_equations", self._columns, *first, self._one, 1, points)
        weights = self._empty((self._chance.shape[0], 2), np.float64)
        curvature = [self._empty((self._count, 6, 6), np.float64) for _ in range(2)]
        self._stage(
            "curvatures", self._count, self._table, self._pairs, self._shell_parts, self._shell_first, self._numbers,
            self._columns, equations, self._shells, weights, *curvature,
        )  # fmt: skip
        results = _Results(
            self._counts, points, minimised, values, codes, choices, self._total, overlap, *self._now, *curvature
        )

        def finished() -> list[Found]:
            return self._found(_Results(*(self._gpu.down(array, self._queue) for array in results)))

        return finished

    def _found(self, results: _Results) -> list[Found]:
        found, shell = [], 0
        for i, search in enumerate(self._searches):
            rows = slice(i * self._room, i * self._room + results.counts[i])
            shells = slice(shell, shell + search.pair.target.n_shells)
            shell = shells.stop
            expected_fsc = search.expected_fsc
            if expected_fsc is None:
                expected_fsc = ExpectedFsc.of_table(results.tables[shells].copy(), float(results.contrasts[i]))
            found.append(
                Found(
                    points=results.points[rows].copy(),
                    dissimilarity=np.where(np.isfinite(results.minimised[rows]), results.values[rows], np.inf),
                    choice=results.choices[rows].copy(),
                    status=lm.Status.of(int(results.codes[rows.start])),
                    iterations=int(results.iterations[i]),
                    expected_fsc=expected_fsc,
                    overlap=float(results.overlap[i, 3]),
                    curvature=Curvature(results.follow[i].copy(), results.scatter[i].copy()),
                )
            )
        return found

    def _weigh(self, mode: str, parts: Any, expected: tuple[Any, Any], columns: Any, power: float = 1.0) -> None:
        """Write the samples of parts into columns, weighted by the expected FSC as ``mode`` states."""
        self._stage(
            "weigh", self._count, self._weights[mode], power, float(MIN_SAMPLES), MIN_OVERLAP, self._table, *expected,
            self._raised, self._resident.arrays[-1], self._samples, parts, columns, self._whole, self._numbers,
        )  # fmt: skip

    def _refine(self, parts: Any, most: int, steps: int) -> None:
        points, values, codes, _ = self._pool
        steps_of = self._up(np.full(self._count, steps))
        self._launch(
            self._refinement, self._count * most, *self._resident.arrays,
            self._columns, parts, self._whole, self._numbers, self._pool_first, self._counts, most, steps_of, points,
            values, *self._models, codes, self._iterations,
        )  # fmt: skip

    def _keep_distinct(
        self,
        choices: Any,
        rule: PruningRule,
        *,
        by_choice: bool,
        within: bool,
        stepped: int,
        next_room: int | None = None,
    ) -> None:
        """Copy the best distinct poses to the other pool, which becomes the current one."""
        numbers = DISTINCT, by_choice, within, float(rule.margin), rule.least, rule.most, stepped
        points, values, codes, _ = self._pool
        self._stage(
            "leave", self._count, self._pairs, self._group, *numbers, self._room, self._deviation, self._counts, points,
            values, codes, choices, self._iterations, self._order, self._signatures, self._total,
            self._room if next_room is None else next_room, *self._next,
        )  # fmt: skip
        self._pool, self._next = self._next, self._pool
        self._most = min(self._most, rule.most)

    def _totals(self, columns: Any, parts: Any, first: Any, step: Any, counts: Any, most: int, points: Any) -> Any:
        """Sum over all samples of each pair at poses, (b most, 4)."""
        out = self._empty((self._count * most, 4), np.float64)
        self._launch(
            self._gpu.kernels.totals, len(out), *self._resident.arrays, columns, parts, self._part_first, self._phases,
            first, step, counts, most, 1, points, out,
        )  # fmt: skip
        return out

    def _shell_sums(self, kernel: str, columns: Any, first: Any, step: Any, counts: Any, most: int, points: Any) -> Any:
        """Sum over each shell at poses, (b most shells, width)."""
        width = 4 if kernel == "totals" else sample_sums.N_SUMS
        out = self._empty((self._count * most * self._shells, width), np.float64)
        self._launch(
            getattr(self._gpu.kernels, kernel), len(out), *self._resident.arrays, columns, self._shell_parts,
            self._shell_first, self._phases, first, step, counts, most, self._shells, points, out,
        )  # fmt: skip
        return out

    def _values(self, sums: Any, first: Any, counts: Any, most: int, values: Any) -> None:
        """Compute dissimilarities from sums."""
        self._threads("values", self._count * most, sums, first, counts, most, self._whole, self._numbers, values)

    def _stage(self, kernel: str, blocks: int, *arguments: Any) -> None:
        self._launch(getattr(self._gpu.stages, kernel), blocks, *arguments)

    def _threads(self, kernel: str, count: int, *arguments: Any) -> None:
        """Launch a kernel whose threads are independent."""
        self._stage(kernel, -(-count // self._gpu.stages.threads), *arguments)

    def _launch(self, kernel: Any, blocks: int, *arguments: Any) -> None:
        self._gpu.launch(kernel, blocks, self._queue, *arguments)

    def _up(self, array: NDArray[np.generic]) -> Any:
        return self._gpu.up(array, self._queue)

    def _empty(self, shape: tuple[int, ...], dtype: Any) -> Any:
        return self._gpu.empty(shape, dtype, self._queue)


def _samples(target: Spectrum) -> Callable[[], NDArray[np.float32]]:
    """Return a function that makes Re, Im, transfer and weight of a target's samples, (n, 4), by radius."""

    def make() -> NDArray[np.float32]:
        order, _ = target.by_radius
        value = target.value[order]
        return np.stack([value.real, value.imag, target.transfer[order], target.weight[order]], axis=1)

    return make
