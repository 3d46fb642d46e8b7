"""How requests (``evaluation``) become launches of kernels (``kernels.cuda``) on a graphics card.

For each kind of request: what goes up, the launch, and what comes down, for many requests together. Each returns what
waits for the card and gives the answers, in order. Must not know what asks, nor what else is under way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio import lm
from gonio.evaluation import BestShifts, Equations, Refinement, Request, ShellMatrices, ShellSums
from gonio.fourier import Spectrum
from gonio.kernels import cpu
from gonio.score import CODES, Comparison
from gonio.shifts import ShiftSearch

if TYPE_CHECKING:
    from gonio.kernels.card import Card

__all__ = ["WORK", "bytes_of", "kind_of"]

# What a job of a kind takes on the card besides its samples, bytes: points, models and sums.
JOB_BYTES = 2048


def kind_of(request: Request) -> Any:
    """Requests of one kind go into one launch."""
    if isinstance(request, Refinement):
        return Refinement, request.problem.landscape.directions.shape[1]
    if isinstance(request, BestShifts):
        target = request.comparison.target
        where = id(target.frequency_xyz) if target.on_grid else 0
        return BestShifts, target.box, target.limit, request.max_shift_angstrom, request.points, where
    return type(request)


def bytes_of(request: Any) -> float:
    """What a request takes on the card, nearly."""
    samples = len(request.comparison.target)
    own = 64.0 * samples
    if isinstance(request, BestShifts):
        return own + len(request.rotations) * (8.0 * samples + JOB_BYTES)
    if isinstance(request, ShellSums | ShellMatrices):
        return own + JOB_BYTES * request.comparison.target.n_shells
    return own + JOB_BYTES * len(request.points)


@dataclass(frozen=True)
class _Parts:
    """The comparisons of a launch on the card, and where in its arrays they lie."""

    arrays: tuple[Any, ...]
    first: NDArray[np.int64]


def _parts(card: Card, comparisons: Sequence[Comparison], stream: Any, *, by_shell: bool) -> _Parts:
    """One part for each comparison, or for each shell of each; ``first`` are those that a comparison's begin with."""
    references = list({id(c.reference): c.reference for c in comparisons}.values())
    number = {id(reference): i for i, reference in enumerate(references)}
    table = np.zeros((len(references), 6), np.int64)
    table[:, 0] = card.places("grids", [(id(r.grid), r.grid, r.grid) for r in references])
    table[:, 1] = [r.side for r in references]
    table[:, 2] = card.places("regions", [(id(r.regions), r.regions, r.regions) for r in references])
    table[:, 3] = [len(r.regions) for r in references]
    table[:, 4] = card.places("volumes", [(id(r.weights), r.weights.reshape(-1), r.weights) for r in references])
    table[:, 5] = [len(r.weights) for r in references]
    scales = np.array([(r.scale, r.weight_scale) for r in references], np.float32)
    targets = [c.target for c in comparisons]
    held = [t.frequency_xyz for t in targets]
    frequency = card.places("frequency", [(id(array), array.T, array) for array in held])
    counts = np.array([len(t) for t in targets])
    column = np.concatenate([[0], np.cumsum(counts)[:-1]])
    orders = [_order(target, by_shell) for target in targets]
    order = card.places("order", [(key, places, array) for (key, places, _), array in zip(orders, held, strict=True)])
    rows: list[tuple[int, ...]] = []
    first: list[int] = []
    for i, comparison in enumerate(comparisons):
        first.append(len(rows))
        bounds = orders[i][2]
        for a, b in pairwise(bounds):
            rows.append((number[id(comparison.reference)], frequency[i], column[i], order[i] + a, b - a))
    columns = np.concatenate(
        [[*c.samples.value, c.samples.transfer, c.samples.weight, c.samples.power, c.samples.own] for c in comparisons],
        axis=1,
        dtype=np.float32,
    )
    kept = (card.kept("grids"), card.kept("regions"), card.kept("volumes"))
    own = [card.up(array, stream) for array in (table, scales)]
    rest = [card.up(array, stream) for array in (columns, np.array(rows, np.int64))]
    return _Parts((*kept, *own, card.kept("frequency"), rest[0], card.kept("order"), rest[1]), np.array(first))


def _order(target: Spectrum, by_shell: bool) -> tuple[Any, NDArray[np.int32], NDArray[np.int64]]:
    """Places of a target's samples, what they are known by, and where each part begins and the last ends."""
    if by_shell:
        # Samples that share their frequencies share their shells.
        key = id(target.frequency_xyz), target.n_shells
        bounds = np.concatenate([[0], np.cumsum(np.bincount(target.shell, minlength=target.n_shells))])
        return key, np.argsort(target.shell, kind="stable").astype(np.int32), bounds
    length = 1 << int(len(target) - 1).bit_length()
    return length, np.arange(length, dtype=np.int32), np.array([0, len(target)])


def _poses(comparison: Comparison, points: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points (p, 12) as rotations (p, 3, 3) and phases (p, 3) that the loops over samples take."""
    rotations = points[:, :9].reshape(-1, 3, 3).astype(np.float32)
    return rotations, (comparison.phase * points[:, 9:]).astype(np.float32)


def _sums(
    card: Card, asked: Sequence[tuple[Comparison, NDArray]], stream: Any, *, values: bool, by_shell: bool
) -> Callable[[], list[NDArray[np.float64]]]:
    """Sums at points (p, 12) of comparisons: (p, width), or (p, s, width) of each shell."""
    parts = _parts(card, [comparison for comparison, _ in asked], stream, by_shell=by_shell)
    poses = [_poses(comparison, points) for comparison, points in asked]
    rotations, phases = (np.concatenate(kind) for kind in zip(*poses, strict=True))
    jobs, shapes, pose = [], [], 0
    for i, (comparison, points) in enumerate(asked):
        count = comparison.target.n_shells if by_shell else 1
        shapes.append((len(points), count))
        rows = np.indices((len(points), count)).reshape(2, -1).T  # (p s, 2)
        jobs.append(np.stack([parts.first[i] + rows[:, 1], pose + rows[:, 0]], axis=1))
        pose += len(points)
    kernel, width = (card.kernels.totals, 4) if values else (card.kernels.normal_equations, cpu.N_SUMS)
    work = np.concatenate(jobs)
    if not len(work):
        return lambda: [np.zeros((*shape, width)) for shape in shapes]
    out = card.empty((len(work), width), np.float64)
    given = [card.up(array, stream) for array in (work, rotations, phases)]
    card.launch(kernel, len(work), stream, *parts.arrays, *given, out)

    def finish() -> list[NDArray[np.float64]]:
        ends = np.cumsum([p * s for p, s in shapes])[:-1]
        split = np.split(card.down(out, stream), ends)
        return [sums.reshape(*shape, width) for sums, shape in zip(split, shapes, strict=True)]

    return finish


def _equations(card: Card, requests: list[Equations], stream: Any) -> Callable[[], list[Any]]:
    asked = [(r.comparison, r.points) for r in requests]
    finish = _sums(card, asked, stream, values=False, by_shell=False)
    return lambda: [
        r.comparison.equations(np.ascontiguousarray(sums[:, 0])) for r, sums in zip(requests, finish(), strict=True)
    ]


def _shell_sums(card: Card, requests: list[ShellSums], stream: Any) -> Callable[[], list[Any]]:
    return _sums(card, [(r.comparison, r.points) for r in requests], stream, values=True, by_shell=True)


def _shell_matrices(card: Card, requests: list[ShellMatrices], stream: Any) -> Callable[[], list[Any]]:
    asked = [(r.comparison, r.point[None]) for r in requests]
    finish = _sums(card, asked, stream, values=False, by_shell=True)
    return lambda: [r.comparison.matrices(sums[0]) for r, sums in zip(requests, finish(), strict=True)]


def _best_shifts(card: Card, requests: list[BestShifts], stream: Any) -> Callable[[], list[Any]]:
    """All of one set of shifts and, on a grid, of one set of samples."""
    comparisons = [r.comparison for r in requests]
    parts = _parts(card, comparisons, stream, by_shell=False)
    target = comparisons[0].target
    search = ShiftSearch(
        target,
        comparisons[0].samples,
        max_shift_angstrom=requests[0].max_shift_angstrom,
        points=requests[0].points,
    )
    allowed = search.allowed
    phases = (search.turn * allowed).astype(np.float32)
    if target.on_grid:
        key = id(target.frequency_xyz), search.turn, len(allowed)

        def make() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
            angle = search.turn * (target.frequency_xyz.T.astype(np.float64) @ allowed.T)  # (n, s)
            # The frequencies are kept too, so that nothing else is known by their address.
            return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32), target.frequency_xyz

        cos, sin, _ = card.table(key, make)
    else:
        cos = sin = card.empty((1, 1), np.float32)
    different: dict[bytes, tuple[int, NDArray]] = {}
    jobs, pose = [], 0
    for i, request in enumerate(requests):
        rotations = np.asarray(request.rotations, dtype=np.float32)
        begins, _ = different.setdefault(rotations.tobytes(), (pose, rotations))
        pose += len(rotations) if begins == pose else 0
        here = np.arange(len(rotations))
        jobs.append(np.stack([np.full(len(here), parts.first[i]), begins + here], axis=1))
    work, longest = np.concatenate(jobs), max(len(c.target) for c in comparisons)
    whole = np.array([(CODES[c.score], 0) for c in comparisons], np.int64)
    numbers = np.array([(c.unit, c.phase, c.least) for c in comparisons], np.float64)
    tables = [card.up(array, stream) for array in (whole, numbers, work)]
    turned = card.up(np.concatenate([rotations for _, rotations in different.values()]), stream)
    shifts = card.up(phases, stream)
    re, im = (card.empty((len(work), longest), np.float32) for _ in range(2))
    place, value = card.empty((len(work),), np.int64), card.empty((len(work),), np.float64)
    totals = card.empty((len(work), 4), np.float64)
    card.launch(
        card.kernels.best_shifts,
        len(work),
        stream,
        *parts.arrays,
        *tables,
        turned,
        shifts,
        0,
        len(allowed),
        cos,
        sin,
        target.on_grid,
        re,
        im,
        place,
        value,
        totals,
    )

    def finish() -> list[Any]:
        best, d, sums = (card.down(array, stream) for array in (place, value, totals))
        chosen = allowed[best] * search.step_angstrom
        # Where the wedges share nothing there is nothing to tell one shift from another.
        chosen[sums[:, 3] == 0.0] = 0.0
        ends = np.cumsum([len(r.rotations) for r in requests])[:-1]
        return list(zip(np.split(chosen, ends), np.split(d, ends), strict=True))

    return finish


def _refinements(card: Card, requests: list[Refinement], stream: Any) -> Callable[[], list[Any]]:
    """All along as many directions."""
    from gonio.kernels.cuda import LANDSCAPE, LANDSCAPE_NUMBERS

    k = requests[0].problem.landscape.directions.shape[1]
    parts = _parts(card, [r.comparison for r in requests], stream, by_shell=False)
    whole, numbers = np.zeros((len(requests), 2), np.int64), np.zeros((len(requests), LANDSCAPE_NUMBERS))
    for i, request in enumerate(requests):
        landscape = request.problem.landscape
        whole[i] = landscape.score, landscape.prior
        for name, begin in LANDSCAPE.items():
            entry = np.ravel(getattr(landscape, name))
            numbers[i, begin : begin + len(entry)] = entry
    points = np.concatenate([r.points for r in requests]).astype(np.float64)
    count = len(points)
    owner = np.repeat(parts.first, [len(r.points) for r in requests])
    steps = np.repeat([r.max_iterations for r in requests], [len(r.points) for r in requests]).astype(np.int64)
    state = lm.State(
        points,
        np.empty(count),
        np.empty((count, k, k)),
        np.empty((count, k)),
        np.full(count, lm.FIRST_DAMPING),
        np.full(count, lm.FIRST_GROWTH),
        np.empty(count, np.int64),
        np.empty(count, np.int64),
    )
    given = [card.up(array, stream) for array in (whole, numbers, owner, steps)]
    arrays = [
        card.up(array, stream) if name in ("points", "damping", "growth") else card.empty(array.shape, array.dtype)
        for name, array in zip(lm.State.__dataclass_fields__, state.arrays, strict=True)
    ]
    card.launch(card.kernels.refine[k], count, stream, *parts.arrays, *given, *arrays)

    def finish() -> list[Any]:
        found = lm.State(*(card.down(array, stream) for array in arrays))
        ends = np.cumsum([len(r.points) for r in requests])
        return [found.take(np.arange(end - len(r.points), end)) for r, end in zip(requests, ends, strict=True)]

    return finish


WORK: dict[type, Callable[[Any, list[Any], Any], Callable[[], list[Any]]]] = {
    BestShifts: _best_shifts,
    Equations: _equations,
    ShellSums: _shell_sums,
    ShellMatrices: _shell_matrices,
    Refinement: _refinements,
}
