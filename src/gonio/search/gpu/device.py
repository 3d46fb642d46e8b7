"""Where alignments are computed: on the CPU, or many at a time on graphics cards.

``results`` runs many searches (``evaluation``) side by side: whatever they ask for in a round, above all whole searches
of pairs (``batches``), goes to the card together, all that is of one kind. Two groups take turns, so that one is made
into results and the next particles are prepared here while the card works for the other. An answer does not depend on
what else is asked for. A card is used by the process that opened it, by one thread of it. Must not know any search.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeVar

from gonio.particle.arguments import ArgumentError
from gonio.run.parallel import in_order
from gonio.search.gpu.dispatch import WORK, bytes_of, kind_of
from gonio.search.requests import Asking, Request, Together, begun

if TYPE_CHECKING:
    from gonio.kernels.gpu_memory import Card, Queue

__all__ = ["AUTO", "CPU", "Device", "device_for", "opened", "results", "searched"]

T = TypeVar("T")

CPU, CUDA, AUTO = "cpu", "cuda", "auto"
INSTALL = "pip install 'gonio[cuda]' 'numba-cuda[cu13]', or [cu12] where the driver is of CUDA 12 (docs/gpu.md)"
DRAWS = (
    "{} cuda is for searches that refine all of their candidates: one that draws them one by one, stochastic or with a"
    " drawn pool, runs with {} cpu"
)
ONE_PROCESS = (
    "a graphics card is used by the process that opened it: for workers, give an aligner without device= and"
    " mapper=gonio.search.gpu.multi_gpu.cards_for(device)"
)
# What a group asks for at a time: the best poses of a thousand pairs are as many blocks as a large card runs at a time,
# and most launches have more.
TOGETHER = 1024


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
        raise ArgumentError(
            '{} must be "cpu", "cuda", "cuda:1" (the second card, and so on) or "auto", got {name!r}',
            "device",
            name=name,
        )
    try:
        return Device(_card(int(index or 0)))
    except ValueError:
        if name == AUTO:
            return None
        raise


def device_for(device: str | Device, *, draws: bool) -> Device | None:
    """The device of a name, open, or the same; for searches that draw their candidates one by one it is the CPU.

    Raises
    ------
    ValueError
        As ``opened``; and where a card is asked to draw.
    """
    if not draws or device == CPU:
        return device if isinstance(device, Device) else opened(device)
    if device == AUTO:
        return None
    raise ArgumentError(DRAWS, "device", "device")


def _card(index: int) -> Card:
    if find_spec("numba_cuda") is None:
        raise ArgumentError("{} {kind} needs numba-cuda: {install}", "device", kind=CUDA, install=INSTALL)
    from gonio.kernels.gpu_memory import Card, NoCard

    try:
        return Card(index)
    except NoCard as error:
        raise ArgumentError(
            '{} {kind} cannot be used, {why}: use "cpu", or "auto" for what there is', "device", kind=CUDA, why=error
        ) from error


@dataclass
class Device:
    """A card that answers requests."""

    card: Card
    _process: int = field(default_factory=os.getpid, init=False, repr=False)

    def __reduce__(self) -> str:
        raise TypeError(ONE_PROCESS)

    @property
    def name(self) -> str:
        """What it is called."""
        return f"cuda:{self.card.index} ({self.card.name})"

    def answers(self, requests: Sequence[Request]) -> list[Any]:
        """The answers to requests of any kinds, in their order."""
        return self.submit(requests)()

    def submit(self, requests: Sequence[Request]) -> Callable[[], list[Any]]:
        """Start the work of requests; what is returned waits for it and gives their answers, in their order.

        Raises
        ------
        RuntimeError
            In another process than the one that opened the card, such as one forked from it.
        """
        if os.getpid() != self._process:
            raise RuntimeError(ONE_PROCESS)
        finish = self._submitted([part for request in requests for part in _parts(request)])

        def finished() -> list[Any]:
            answers = iter(finish())
            return [
                [next(answers) for _ in request.requests] if isinstance(request, Together) else next(answers)
                for request in requests
            ]

        return finished

    def _submitted(self, requests: Sequence[Request]) -> Callable[[], list[Any]]:
        """The same, of requests each of which is one thing to be done."""
        kinds: dict[Any, list[int]] = {}
        for place, request in enumerate(requests):
            kinds.setdefault(kind_of(request), []).append(place)
        room = self.card.launch_bytes
        waiting = deque(portion for places in kinds.values() for portion in _portions(requests, places, room))
        with self.card.used():
            queue = self.card.queue()
        under_way: deque[tuple[_Portion, _Work]] = deque()

        def start() -> None:
            """Portions that there is room for beside those under way, or one."""
            while waiting and (
                not under_way or sum(portion.size for portion, _ in under_way) + waiting[0].size <= room
            ):
                portion = waiting.popleft()
                under_way.append((portion, self._started([requests[i] for i in portion.places], queue.beside())))

        def finish() -> list[Any]:
            answers: list[Any] = [None] * len(requests)
            while under_way:
                portion, work = under_way[0]
                for place, answer in zip(portion.places, self._answers(work), strict=True):
                    answers[place] = answer
                under_way.popleft()
                start()
            return answers

        start()
        return finish

    def _started(self, requests: list[Any], queue: Queue) -> _Work:
        """The work of requests of one kind."""
        from gonio.kernels.gpu_memory import OutOfMemory

        work = _Work(requests, queue)
        with suppress(OutOfMemory), self.card.used():
            work.finish = WORK[type(requests[0])](self.card, requests, queue)
        return work

    def _answers(self, work: _Work) -> list[Any]:
        """Of work that was started; where memory runs out or has run out, of one half after the other."""
        from gonio.kernels.gpu_memory import OutOfMemory

        answers: list[Any] | None = None
        with suppress(OutOfMemory), self.card.used():
            if work.finish is not None:
                answers = work.finish()
                self.card.release(work.queue)
        # Halves begin when nothing is left that holds what the whole held: neither this nor the error.
        work.finish = None
        return self._in_halves(work) if answers is None else answers

    def _in_halves(self, work: _Work) -> list[Any]:
        with self.card.used():
            self.card.wait(work.queue)
        self.card.release(work.queue)
        self.card.forget()
        half = len(work.requests) // 2
        if not half:
            raise MemoryError(
                f"{self.name} has not enough memory for a single pair: use device='cpu', or a coarser resolution"
            )
        # The second begins when the first is done: both did not fit.
        first = self._answers(self._started(work.requests[:half], work.queue.beside()))
        return first + self._answers(self._started(work.requests[half:], work.queue.beside()))


@dataclass
class _Work:
    """Requests of one kind under way, and what waits for them; None where memory ran out as they were started."""

    requests: list[Any]
    queue: Queue
    finish: Callable[[], list[Any]] | None = None


@dataclass(frozen=True)
class _Portion:
    """Requests of one kind that memory holds together, by their places, and the bytes that they take."""

    places: list[int]
    size: float


def _portions(requests: Sequence[Request], places: list[int], room: float) -> Iterator[_Portion]:
    """Requests of one kind, as many at a time as there is room for, or one."""
    some: list[int] = []
    taken = 0.0
    for place in places:
        size = bytes_of(requests[place])
        if some and taken + size > room:
            yield _Portion(some, taken)
            some, taken = [], 0.0
        some.append(place)
        taken += size
    yield _Portion(some, taken)


def _parts(request: Request) -> Sequence[Request]:
    return request.requests if isinstance(request, Together) else (request,)


def searched(
    ask: Callable[..., Asking[T]], items: Iterator[tuple], device: Device, *, n_threads: int = 1
) -> Iterator[T]:
    """What the searches ``ask(*item)`` return, in their order.

    One of so many threads does each as far as its first request, while the card works for others: that is where
    particles are read and prepared. Processes could not hand over what lies here.
    """
    return results(in_order(lambda *item: begun(ask(*item)), items, n_threads, processes=False), device)


def results(askings: Iterator[Asking[T]], device: Device, *, together: int = TOGETHER) -> Iterator[T]:
    """What searches return, in their order; two groups take turns, each of which asks for about so much at a time.

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
        asked = 0
        for (number, asking), answer in zip(self.waiting, answers, strict=True):
            asked += self._step(number, asking, answer, still, requests)
        while asked < together and (new := self.source.next()) is not None:
            asked += self._step(*new, None, still, requests)
        self.waiting = still
        self._finish = self.device.submit(requests) if requests else None

    def _step(self, number: int, asking: Asking[Any], answer: Any, still: list, requests: list) -> int:
        """For how much a search asks that was given its answer."""
        try:
            requests.append(asking.send(answer))
            still.append((number, asking))
            return len(_parts(requests[-1]))
        except StopIteration as end:
            self.source.done[number] = end.value
        except Exception as error:
            self.source.failed(number, error)
        return 0
