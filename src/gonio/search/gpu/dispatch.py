"""How requests (``evaluation``) become launches of kernels (``kernels.cuda``) on a graphics card.

For each kind of request: what goes up, the launch, and what comes down, for many requests together. Each returns what
waits for the card and gives the answers, in order. Whole searches of pairs are in ``batches``. Must not know what asks,
nor what else is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.score import CODES, Comparison
from gonio.kernels import cpu
from gonio.search import levenberg_marquardt as lm
from gonio.search.cpu import PairSearch
from gonio.search.gpu.resident_data import Resident, Seeds, SeedsOnCard, begins
from gonio.search.gpu.stages import bytes_of_search, conducted, kind_of_search
from gonio.search.requests import BestShifts, Equations, Refinement, Request, ShellEquations, ShellSums

if TYPE_CHECKING:
    from gonio.kernels.gpu_memory import Card, Queue

__all__ = ["WORK", "bytes_of", "kind_of"]

# What a job of a kind takes on the card besides its samples, bytes: points, models and sums.
JOB_BYTES = 2048

# Waits for the card and gives the answers.
Finish = Callable[[], list[Any]]


def kind_of(request: Request) -> Hashable:
    """Requests of one kind go into one launch."""
    if isinstance(request, PairSearch):
        return kind_of_search(request)
    if isinstance(request, Refinement):
        return Refinement, request.problem.landscape.directions.shape[1]
    return type(request)


def bytes_of(request: Any) -> float:
    """What a request takes on the card, nearly."""
    if isinstance(request, PairSearch):
        return bytes_of_search(request)
    samples = len(request.comparison.target)
    own = 64.0 * samples
    if isinstance(request, BestShifts):
        return own + _seeds(request).bytes
    if isinstance(request, ShellSums):
        return own + JOB_BYTES + 64.0 * request.comparison.target.n_shells * len(request.points)
    if isinstance(request, ShellEquations):
        return own + JOB_BYTES * request.comparison.target.n_shells
    return own + JOB_BYTES * len(request.points)


@dataclass(frozen=True)
class _Compared:
    """Comparisons on the card: what is resident and their samples as they are weighted."""

    resident: Resident
    columns: Any

    @staticmethod
    def of(card: Card, comparisons: Sequence[Comparison], queue: Queue) -> _Compared:
        """What each minimises, in the order of its samples' radius."""
        # Values and weights go up; where samples lie, and what a reference shows there, is kept.
        resident = Resident(card, [(c.target, c.reference) for c in comparisons], queue)
        columns = [
            np.array([*c.samples.value, c.samples.transfer, c.samples.weight, c.samples.power, c.samples.own])[
                :, c.target.by_radius[0]
            ]
            for c in comparisons
        ]
        return _Compared(resident, card.up(np.concatenate(columns, axis=1, dtype=np.float32), queue))

    @property
    def arrays(self) -> tuple[Any, ...]:
        """What begins every kernel's arguments."""
        return *self.resident.arrays, self.columns


def _sums(
    card: Card, asked: Sequence[tuple[Comparison, NDArray]], queue: Queue, *, values: bool, by_shell: bool
) -> Callable[[], list[NDArray[np.float64]]]:
    """Sums at points (p, 12) of comparisons: (p, s, width), of each shell or of all together."""
    kernel, width = (card.kernels.totals, 4) if values else (card.kernels.normal_equations, cpu.N_SUMS)
    compared = _Compared.of(card, [comparison for comparison, _ in asked], queue)
    if by_shell:
        parts, part_first, first = compared.resident.shell_parts()
    else:
        first = np.arange(len(asked) + 1)
        parts, part_first = compared.resident.parts(), card.up(first, queue)
    shells, counts = np.diff(first), np.array([len(points) for _, points in asked])
    most, most_shells = int(counts.max()), int(shells.max())
    if not most:
        return lambda: [np.zeros((0, count, width)) for count in shells]
    out = card.empty((len(asked) * most * most_shells, width), np.float64, queue)
    phases = card.up(np.array([comparison.phase for comparison, _ in asked]), queue)
    poses = [card.up(array, queue) for array in (begins(counts), np.ones(len(asked), np.int64), counts)]
    points = card.up(np.concatenate([points for _, points in asked]).astype(np.float64), queue)
    card.launch(
        kernel, len(out), queue, *compared.arrays, parts, part_first, phases, *poses, most, most_shells, points, out
    )

    def finish() -> list[NDArray[np.float64]]:
        sums = card.down(out, queue).reshape(len(asked), most, most_shells, width)
        return [sums[i, : counts[i], : shells[i]].copy() for i in range(len(asked))]

    return finish


def _equations(card: Card, requests: list[Equations], queue: Queue) -> Finish:
    asked = [(r.comparison, r.points) for r in requests]
    finish = _sums(card, asked, queue, values=False, by_shell=False)
    return lambda: [
        r.comparison.equations(np.ascontiguousarray(sums[:, 0])) for r, sums in zip(requests, finish(), strict=True)
    ]


def _shell_sums(card: Card, requests: list[ShellSums], queue: Queue) -> Finish:
    return _sums(card, [(r.comparison, r.points) for r in requests], queue, values=True, by_shell=True)


def _shell_equations(card: Card, requests: list[ShellEquations], queue: Queue) -> Finish:
    asked = [(r.comparison, r.point[None]) for r in requests]
    finish = _sums(card, asked, queue, values=False, by_shell=True)
    return lambda: [sums[0] for sums in finish()]


def _seeds(request: BestShifts) -> Seeds:
    target = request.comparison.target
    return Seeds(target, request.rotations, target.limit, request.max_shift_angstrom, request.points)


def _best_shifts(card: Card, requests: list[BestShifts], queue: Queue) -> Finish:
    comparisons = [r.comparison for r in requests]
    compared, seeds = _Compared.of(card, comparisons, queue), SeedsOnCard(card, [_seeds(r) for r in requests], queue)
    # Of a landscape only what a value needs.
    tables = [card.up(array, queue) for array in _value_rows(comparisons)]
    count = int(seeds.counts.sum())
    points, value = card.empty((count, 12), np.float64, queue), card.empty((count,), np.float64, queue)
    card.launch(
        card.kernels.best_shifts, seeds.blocks, queue, *compared.arrays, compared.resident.parts(), *tables,
        *seeds.arguments, points, value,
    )  # fmt: skip

    def finish() -> list[Any]:
        shifts, d = card.down(points, queue)[:, 9:], card.down(value, queue)
        return list(zip(np.split(shifts, seeds.first[1:]), np.split(d, seeds.first[1:]), strict=True))

    return finish


def _value_rows(comparisons: Sequence[Comparison]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    from gonio.kernels.cuda_samples import LANDSCAPE, LANDSCAPE_NUMBERS

    whole, numbers = np.zeros((len(comparisons), 2), np.int64), np.zeros((len(comparisons), LANDSCAPE_NUMBERS))
    whole[:, 0] = [CODES[c.score] for c in comparisons]
    for name in ("unit", "phase", "least"):
        numbers[:, LANDSCAPE[name]] = [getattr(c, name) for c in comparisons]
    return whole, numbers


def _refinements(card: Card, requests: list[Refinement], queue: Queue) -> Finish:
    """All along as many directions."""
    from gonio.kernels.cuda_samples import landscape_rows

    k = requests[0].problem.landscape.directions.shape[1]
    compared = _Compared.of(card, [r.comparison for r in requests], queue)
    counts = np.array([len(r.points) for r in requests])
    first, count = begins(counts), int(counts.sum())
    steps = np.array([r.max_iterations for r in requests])
    given = (*landscape_rows([r.problem.landscape for r in requests]), first, counts)
    tables = [card.up(array, queue) for array in given]
    state = [card.up(np.concatenate([r.points for r in requests]).astype(np.float64), queue)]
    for shape, dtype in (((), float), ((k, k), float), ((k,), float), *[((), float)] * 2, *[((), np.int64)] * 2):
        state.append(card.empty((count, *shape), dtype, queue))
    most = int(counts.max())
    card.launch(
        card.kernels.refine[k], len(requests) * most, queue, *compared.arrays, compared.resident.parts(), *tables, most,
        card.up(steps, queue), *state,
    )  # fmt: skip

    def finish() -> list[Any]:
        found = lm.State(*(card.down(array, queue) for array in state))
        return [found.take(np.arange(begin, begin + n)) for begin, n in zip(first, counts, strict=True)]

    return finish


WORK: dict[type, Callable[[Any, list[Any], Any], Finish]] = {
    BestShifts: _best_shifts,
    Equations: _equations,
    ShellSums: _shell_sums,
    ShellEquations: _shell_equations,
    Refinement: _refinements,
    PairSearch: conducted,
}
