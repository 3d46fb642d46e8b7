"""GPU dispatch: how each kind of work of a backend becomes launches of kernels (``kernels.cuda``).

Upload, launch and download for many pieces of work together. Each function returns a function that waits for the GPU
and returns the answers in order. The stages of whole searches are in ``stages``. Must not know what other work is in
progress.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.score import CODES, Comparison, NormalEquations
from gonio.kernels import sample_sums
from gonio.search import levenberg_marquardt as lm
from gonio.search.backend import BestShifts, Evaluation, Found, PairSearch, Refinement
from gonio.search.gpu.resident_data import Resident, Seeds, SeedsOnGpu, begins
from gonio.search.gpu.stages import bytes_of_search, conducted, kind_of_search

if TYPE_CHECKING:
    from gonio.kernels.gpu_memory import Gpu, Queue

W = TypeVar("W")
A = TypeVar("A")

# Bytes of a point on the GPU besides samples: the point, its models and sums.
POINT_BYTES = 2048


@dataclass(frozen=True)
class Work(Generic[W, A]):
    """Kind of work, named as the method of ``Backend`` that does it.

    ``start`` launches pieces of one ``kind`` and returns a function that waits for the GPU and returns their answers;
    ``size`` is the approximate memory of a piece on the GPU, in bytes.
    """

    name: str
    start: Callable[[Gpu, list[W], Queue], Callable[[], list[A]]]
    size: Callable[[W], float]
    kind: Callable[[W], Hashable] = type


def _sample_bytes(comparison: Comparison) -> float:
    return 64.0 * len(comparison.target)


@dataclass(frozen=True)
class _Compared:
    """Comparisons on the GPU: resident data and weighted samples."""

    resident: Resident
    columns: Any

    @staticmethod
    def of(gpu: Gpu, comparisons: Sequence[Comparison], queue: Queue) -> _Compared:
        """Upload comparisons, with samples in the order of their radius."""
        # Values and weights are uploaded; frequencies and references are resident.
        resident = Resident(gpu, [(c.target, c.reference) for c in comparisons], queue)
        columns = [
            np.array([*c.samples.value, c.samples.transfer, c.samples.weight, c.samples.power, c.samples.own])[
                :, c.target.by_radius[0]
            ]
            for c in comparisons
        ]
        return _Compared(resident, gpu.up(np.concatenate(columns, axis=1, dtype=np.float32), queue))

    @property
    def arrays(self) -> tuple[Any, ...]:
        """First arguments of every kernel."""
        return *self.resident.arrays, self.columns


def _sums(
    gpu: Gpu, evaluations: Sequence[Evaluation], queue: Queue, *, values: bool, by_shell: bool
) -> Callable[[], list[NDArray[np.float64]]]:
    """Sum over samples at the points of comparisons, (p, s, width), in each shell or in all together."""
    kernel, width = (gpu.kernels.totals, 4) if values else (gpu.kernels.normal_equations, sample_sums.N_SUMS)
    compared = _Compared.of(gpu, [one.comparison for one in evaluations], queue)
    if by_shell:
        parts, part_first, first = compared.resident.shell_parts()
    else:
        first = np.arange(len(evaluations) + 1)
        parts, part_first = compared.resident.parts(), gpu.up(first, queue)
    shells, counts = np.diff(first), np.array([len(one.points) for one in evaluations])
    most, most_shells = int(counts.max()), int(shells.max())
    if not most:
        return lambda: [np.zeros((0, count, width)) for count in shells]
    out = gpu.empty((len(evaluations) * most * most_shells, width), np.float64, queue)
    phases = gpu.up(np.array([one.comparison.phase for one in evaluations]), queue)
    poses = [gpu.up(array, queue) for array in (begins(counts), np.ones(len(evaluations), np.int64), counts)]
    points = gpu.up(np.concatenate([one.points for one in evaluations]).astype(np.float64), queue)
    gpu.launch(
        kernel, len(out), queue, *compared.arrays, parts, part_first, phases, *poses, most, most_shells, points, out
    )

    def finish() -> list[NDArray[np.float64]]:
        sums = gpu.down(out, queue).reshape(len(evaluations), most, most_shells, width)
        return [sums[i, : counts[i], : shells[i]].copy() for i in range(len(evaluations))]

    return finish


def _normal_equations(gpu: Gpu, evaluations: list[Evaluation], queue: Queue) -> Callable[[], list[NormalEquations]]:
    finish = _sums(gpu, evaluations, queue, values=False, by_shell=False)
    return lambda: [
        e.comparison.equations(np.ascontiguousarray(sums[:, 0])) for e, sums in zip(evaluations, finish(), strict=True)
    ]


def _seeds(wanted: BestShifts) -> Seeds:
    target = wanted.comparison.target
    return Seeds(target, wanted.rotations, target.limit, wanted.max_shift_angstrom, None)


def _best_shifts(
    gpu: Gpu, wanted: list[BestShifts], queue: Queue
) -> Callable[[], list[tuple[NDArray[np.float64], NDArray[np.float64]]]]:
    comparisons = [one.comparison for one in wanted]
    compared, seeds = _Compared.of(gpu, comparisons, queue), SeedsOnGpu(gpu, [_seeds(one) for one in wanted], queue)
    # A value needs only some numbers of a landscape.
    tables = [gpu.up(array, queue) for array in _value_rows(comparisons)]
    count = int(seeds.counts.sum())
    points, value = gpu.empty((count, 12), np.float64, queue), gpu.empty((count,), np.float64, queue)
    gpu.launch(
        gpu.kernels.best_shifts, seeds.blocks, queue, *compared.arrays, compared.resident.parts(), *tables,
        *seeds.arguments, points, value,
    )  # fmt: skip

    def finish() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        shifts, d = gpu.down(points, queue)[:, 9:], gpu.down(value, queue)
        return list(zip(np.split(shifts, seeds.first[1:]), np.split(d, seeds.first[1:]), strict=True))

    return finish


def _value_rows(comparisons: Sequence[Comparison]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    from gonio.kernels.cuda_samples import LANDSCAPE, LANDSCAPE_NUMBERS

    whole, numbers = np.zeros((len(comparisons), 2), np.int64), np.zeros((len(comparisons), LANDSCAPE_NUMBERS))
    whole[:, 0] = [CODES[c.score] for c in comparisons]
    for name in ("unit", "phase", "least"):
        numbers[:, LANDSCAPE[name]] = [getattr(c, name) for c in comparisons]
    return whole, numbers


def _refinements(gpu: Gpu, refinements: list[Refinement], queue: Queue) -> Callable[[], list[lm.State]]:
    """Refine points that all have the same number of directions."""
    from gonio.kernels.cuda_samples import landscape_rows

    k = refinements[0].problem.landscape.directions.shape[1]
    compared = _Compared.of(gpu, [r.comparison for r in refinements], queue)
    counts = np.array([len(r.points) for r in refinements])
    first, count = begins(counts), int(counts.sum())
    steps = np.array([r.max_iterations for r in refinements])
    host_tables = (*landscape_rows([r.problem.landscape for r in refinements]), first, counts)
    tables = [gpu.up(array, queue) for array in host_tables]
    state = [gpu.up(np.concatenate([r.points for r in refinements]).astype(np.float64), queue)]
    for shape, dtype in (((), float), ((k, k), float), ((k,), float), *[((), float)] * 2, *[((), np.int64)] * 2):
        state.append(gpu.empty((count, *shape), dtype, queue))
    most = int(counts.max())
    gpu.launch(
        gpu.kernels.refine[k], len(refinements) * most, queue, *compared.arrays, compared.resident.parts(), *tables,
        most, gpu.up(steps, queue), *state,
    )  # fmt: skip

    def finish() -> list[lm.State]:
        found = lm.State(*(gpu.down(array, queue) for array in state))
        return [found.take(np.arange(begin, begin + n)) for begin, n in zip(first, counts, strict=True)]

    return finish


def _bytes(wanted: Evaluation | Refinement, *, each: float = POINT_BYTES, shells: int = 1) -> float:
    """Return the memory of the samples, and of ``each`` point in each of ``shells``."""
    return _sample_bytes(wanted.comparison) + each * shells * len(wanted.points)


def _shells(wanted: Evaluation) -> int:
    return wanted.comparison.target.n_shells


SEARCH = Work[PairSearch, Found]("search", conducted, bytes_of_search, kind_of_search)
REFINE = Work("refine", _refinements, _bytes, lambda wanted: wanted.problem.landscape.directions.shape[1])
BEST_SHIFTS = Work("best_shifts", _best_shifts, lambda wanted: _sample_bytes(wanted.comparison) + _seeds(wanted).bytes)
NORMAL_EQUATIONS = Work("normal_equations", _normal_equations, _bytes)
SHELL_SUMS = Work[Evaluation, NDArray[np.float64]](
    "shell_sums",
    partial(_sums, values=True, by_shell=True),
    lambda wanted: POINT_BYTES + _bytes(wanted, each=64.0, shells=_shells(wanted)),
)
SHELL_EQUATIONS = Work[Evaluation, NDArray[np.float64]](
    "shell_equations",
    partial(_sums, values=False, by_shell=True),
    lambda wanted: _bytes(wanted, shells=_shells(wanted)),
)
