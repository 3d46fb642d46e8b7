"""Where alignments are computed: on the CPU, or many at a time on graphics cards.

``results`` runs many searches (``evaluation``) side by side: whatever they ask for in a round goes to the card as one
launch for each kind of request. Two groups take turns, so that one is advanced here while the card works for the other.
What stays on the CPU is what the searches do between their requests, and the preparation of particles. An answer does
not depend on what else is asked for. Must not know any search.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from gonio import lm
from gonio.evaluation import Asking, BestShifts, Equations, Refinement, Request, ShellMatrices, ShellSums
from gonio.fourier import Spectrum
from gonio.kernels import cpu
from gonio.score import CODES, Comparison
from gonio.shifts import ShiftSearch

if TYPE_CHECKING:
    from gonio.kernels.card import Card

__all__ = ["AUTO", "CPU", "Device", "opened", "results"]

T = TypeVar("T")

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
INSTALL = "install the extra with: pip install 'gonio[cuda]'"
# Searches of a group: some ten thousand refinements in a launch fill a large card, and what they hold here is small.
TOGETHER = 1024
# What a job of a kind takes on the card besides its samples, bytes: points, models and sums.
JOB_BYTES = 2048


def opened(name: str) -> Device | None:
    """The device of a name: ``"cpu"`` (None), ``"cuda"``, ``"cuda:1"``, or ``"auto"``, a card where one works.

    Raises
    ------
    ValueError
        For another name, and for a card that is not there: says what to install.
    """
    if name == CPU:
        return None
    kind, _, index = name.partition(":")
    if name != AUTO and (kind != CUDA or (":" in name and not index.isdecimal())):
        raise ValueError(f'device must be "cpu", "cuda", "cuda:1" (the second card, and so on) or "auto", got {name!r}')
    try:
        return Device(_card(int(index or 0)))
    except ValueError:
        if name == AUTO:
            return None
        raise


def _card(index: int) -> Card:
    try:
        from gonio.kernels.card import Card, NoCard
    except ImportError as error:
        raise ValueError(f'device="cuda" needs numba-cuda: {INSTALL}') from error
    try:
        return Card(index)
    except NoCard as error:
        raise ValueError(f'device="{CUDA}" cannot be used, {error}: use "cpu", or "auto" for what there is') from error


@dataclass
class Device:
    """A card that answers requests."""

    card: Card

    @property
    def name(self) -> str:
        """What it is called."""
        return f"cuda:{self.card.index} ({self.card.name})"

    def answers(self, requests: Sequence[Request]) -> list[Any]:
        """The answers to requests of any kinds, in their order."""
        return self.submit(requests)()

    def submit(self, requests: Sequence[Request]) -> Callable[[], list[Any]]:
        """Start the work of requests; what is returned waits for it and gives their answers, in their order."""
        kinds: dict[Any, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(_kind(request), []).append(place)
        portions = [some for places in kinds.values() for some in self._portions(requests, places)]
        with self.card.used():
            stream = self.card.stream()
        under_way = [(some, self._started([requests[i] for i in some], stream)) for some in portions]

        def finish() -> list[Any]:
            answers: list[Any] = [None] * len(requests)
            for some, started in under_way:
                for place, answer in zip(some, started(), strict=True):
                    answers[place] = answer
            return answers

        return finish

    def _portions(self, requests: Sequence[Request], places: list[int]) -> Iterator[list[int]]:
        """Requests of one kind that the free memory holds together."""
        portion: list[int] = []
        taken, most = 0.0, self.card.launch_bytes
        for place in places:
            size = _bytes(requests[place])
            if portion and taken + size > most:
                yield portion
                portion, taken = [], 0.0
            portion.append(place)
            taken += size
        yield portion

    def _started(self, requests: list[Any], stream: Any) -> Callable[[], list[Any]]:
        """The work of requests of one kind; where memory runs out, of one half after the other."""
        from gonio.kernels.card import OutOfMemory

        work = _WORK[type(requests[0])]
        try:
            with self.card.used():
                finish = work(self.card, requests, stream)
        except OutOfMemory:
            return self._in_halves(requests, stream)

        def finished() -> list[Any]:
            try:
                with self.card.used():
                    answers: list[Any] = finish()
                    return answers
            except OutOfMemory:
                return self._in_halves(requests, stream)()

        return finished

    def _in_halves(self, requests: list[Any], stream: Any) -> Callable[[], list[Any]]:
        self.card.forget()
        if len(requests) == 1:
            raise MemoryError(
                f"{self.name} has not enough memory for a single pair: use device='cpu', or a coarser resolution"
            ) from None
        half = len(requests) // 2
        # The second begins when the first is done: both did not fit.
        first = self._started(requests[:half], stream)()
        second = self._started(requests[half:], stream)()
        return lambda: first + second


def results(askings: Iterator[Asking[T]], device: Device, *, together: int = TOGETHER) -> Iterator[T]:
    """What searches return, in their order; two groups of so many are under way at a time.

    Raises
    ------
    Exception
        The first, in the order of the searches, that one ends with, or that ``askings`` ends with in place of one.
    """
    source = _Source(askings)
    groups = [_Group(device, source), _Group(device, source)]
    following = 0
    while True:
        for group in groups:
            group.advance(together)
            while following in source.done:
                result = source.done.pop(following)
                if isinstance(result, _Failed):
                    raise result.error
                yield result
                following += 1
        if not any(group.waiting for group in groups):
            return


@dataclass
class _Failed:
    """What stands for the result of a search that failed."""

    error: Exception


@dataclass
class _Source:
    """Searches that are not begun, how many were, and the results of those that have ended."""

    askings: Iterator[Asking[Any]]
    taken: int = 0
    ended: bool = False
    done: dict[int, Any] = field(default_factory=dict)

    def next(self) -> tuple[int, Asking[Any]] | None:
        """The next search and its number; None when there is none, or one has failed: what follows is in vain."""
        if self.ended:
            return None
        try:
            asking = next(self.askings)
        except StopIteration:
            self.ended = True
            return None
        except Exception as error:
            self.failed(self.taken, error)
            return None
        self.taken += 1
        return self.taken - 1, asking

    def failed(self, number: int, error: Exception) -> None:
        """A search has failed: those before it go on, so that the first failure is told."""
        self.done[number] = _Failed(error)
        self.ended = True


@dataclass
class _Group:
    """Searches whose requests go to the card together."""

    device: Device
    source: _Source
    waiting: list[tuple[int, Asking[Any]]] = field(default_factory=list)
    _finish: Callable[[], list[Any]] | None = None

    def advance(self, together: int) -> None:
        """Give every search its answer, take up new ones for those that end, and start what they ask for."""
        answers = [] if self._finish is None else self._finish()
        still: list[tuple[int, Asking[Any]]] = []
        requests: list[Request] = []
        for (number, asking), answer in zip(self.waiting, answers, strict=True):
            self._step(number, asking, answer, still, requests)
        while len(still) < together and (new := self.source.next()) is not None:
            self._step(*new, None, still, requests)
        self.waiting = still
        self._finish = self.device.submit(requests) if requests else None

    def _step(self, number: int, asking: Asking[Any], answer: Any, still: list, requests: list) -> None:
        try:
            requests.append(asking.send(answer))
            still.append((number, asking))
        except StopIteration as end:
            self.source.done[number] = end.value
        except Exception as error:
            self.source.failed(number, error)


def _kind(request: Request) -> Any:
    """Requests of one kind go into one launch."""
    if isinstance(request, Refinement):
        return Refinement, request.problem.landscape.directions.shape[1]
    if isinstance(request, BestShifts):
        target = request.comparison.target
        where = id(target.frequency_xyz) if target.on_grid else 0
        return BestShifts, target.box, target.limit, request.max_shift_angstrom, request.points, where
    return type(request)


def _bytes(request: Any) -> float:
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


_WORK: dict[type, Callable[[Any, list[Any], Any], Callable[[], list[Any]]]] = {
    BestShifts: _best_shifts,
    Equations: _equations,
    ShellSums: _shell_sums,
    ShellMatrices: _shell_matrices,
    Refinement: _refinements,
}
