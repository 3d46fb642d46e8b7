"""Engines whose items are done by graphics cards: one in this process, or several with a process each.

A stage of searches has a function with a method ``ask(item)``, the search of an item (``gonio.search.requests``): of
these a card takes as many at a time as fill it, and results come in the order of the items, each when it and those
before it are done. Other stages are done on the CPU here. Must not know any search.

    on one card      items -> searches, prepared in threads -> device.results
    on several       items -> tiles, dealt as they are done -> a worker for each card -> the same there -> in order
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar

from gonio.particle.arguments import ArgumentError
from gonio.run.engine import Mapper
from gonio.run.parallel import in_order, portable
from gonio.search.gpu.device import DRAWS, TOGETHER, Device, device_for, opened, searched

__all__ = ["Cards", "ManyCards", "OneCard", "cards_for"]

T = TypeVar("T")

# Searches of a tile, at most: what is lost of a worker's work when a run is cut off is a few of them.
TILE = 256
# Tiles that a worker is given before the first of them is back: two groups of searches, and what comes next.
AHEAD = 2 * TOGETHER // TILE + 2
# Seconds that an end may take.
END = 5.0


class Cards(Mapper, AbstractContextManager["Cards"], Protocol):
    """Cards that do stages."""

    @property
    def name(self) -> str:
        """What they are called."""
        ...


def cards_for(device: str | Device, *, draws: bool = False, n_threads: int = 1) -> OneCard | ManyCards | None:
    """The engine of a device: what ``mapper`` may be wherever there is one. None for the CPU.

    Parameters
    ----------
    device
        ``"cpu"``; ``"cuda"``, ``"cuda:1"``, ``"auto"`` or a ``Device`` as for an ``Aligner``; or several cards,
        ``"cuda:0,cuda:1"``, each of which has a worker process: in a script, below ``if __name__ == "__main__":``.
        A card named twice has two, which prepare twice as much.
    draws
        Whether candidates are drawn one by one (``Settings.draws``), for which there is only the CPU.
    n_threads
        How many particles are read and prepared at a time, by all processes together.

    Returns
    -------
    A context manager that is its own value. Results do not depend on how many cards there are.

    Raises
    ------
    ValueError
        A name that is none; a card that is not there or searches that draw. Of several cards when they are entered.
    """
    names = tuple(device.split(",")) if isinstance(device, str) else ()
    if len(names) > 1:
        if draws:
            raise ArgumentError(DRAWS, "device", "device")
        return ManyCards(names, n_threads)
    found = device_for(device, draws=draws)
    return None if found is None else OneCard(found, n_threads)


@dataclass(frozen=True)
class OneCard:
    """A card of this process. Nothing is forked from it: what is no search is done in threads."""

    device: Device
    n_threads: int = 1

    def __enter__(self) -> OneCard:
        return self

    def __exit__(self, *error: object) -> None:
        """The card stays open: another stage may come."""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.device.name

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Mapper``."""
        return self.done(function, range(count))

    def done(self, function: Callable[[int], T], items: Iterable[int]) -> Iterator[T]:
        """The function of items, in their order."""
        ask, each = getattr(function, "ask", None), ((item,) for item in items)
        if ask is None:
            return in_order(function, each, self.n_threads, processes=False)
        return searched(ask, each, self.device, n_threads=self.n_threads)


@dataclass
class ManyCards:
    """A worker process for each of some cards, which ``open`` opens there. This process uses none of them."""

    names: tuple[str, ...]
    n_threads: int = 1
    open: Callable[[str], Device | None] = opened
    _workers: list[_Worker] = field(default_factory=list, init=False, repr=False)

    def __enter__(self) -> ManyCards:
        self._begin()
        return self

    def __exit__(self, *error: object) -> None:
        self._end()

    @property
    def name(self) -> str:
        """What they are called."""
        return ", ".join(worker.name for worker in self._workers) or ", ".join(self.names)

    def __call__(self, stage: str, function: Callable[[int], T], count: int, *, keep: bool = True) -> Iterator[T]:
        """As ``Mapper``."""
        if getattr(function, "ask", None) is None:
            return in_order(function, ((item,) for item in range(count)), self.n_threads)
        return self._dealt(function, count)

    def _begin(self) -> None:
        try:
            for name in self.names:
                self._workers.append(_Worker(name, self.open, max(1, self.n_threads // len(self.names))))
            for worker in self._workers:
                worker.wait()
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        while self._workers:
            self._workers.pop().end()

    def _dealt(self, function: Callable[[int], T], count: int) -> Iterator[T]:
        if not self._workers:
            self._begin()
        size = max(1, min(TILE // getattr(function, "searches", 1), -(-count // len(self._workers))))
        tiles = deque(range(first, min(first + size, count)) for first in range(0, count, size))
        given: deque[range] = deque()
        done: dict[range, tuple[list[T], Exception | None]] = {}
        try:
            for worker in self._workers:
                worker.tell(function)
            while tiles or given:
                self._deal(tiles, given)
                while given[0] not in done:
                    done |= self._received()
                    self._deal(tiles, given)
                results, error = done.pop(given.popleft())
                yield from results
                if error is not None:
                    raise error
        finally:
            if given:  # left before its end: what is under way is in vain
                self._end()

    def _deal(self, tiles: deque[range], given: deque[range]) -> None:
        """Give tiles to those who have least to do; few enough that what is done early need not be held for long."""
        while tiles and len(given) < 2 * AHEAD * len(self._workers):
            worker = min(self._workers, key=lambda one: one.busy)
            if worker.busy >= AHEAD:
                return
            given.append(tiles.popleft())
            worker.give(given[-1])

    def _received(self) -> dict[range, tuple[list[Any], Exception | None]]:
        """What workers have done, at least one tile."""
        ready = wait([worker.connection for worker in self._workers])
        return dict(worker.answer() for worker in self._workers if worker.connection in ready)


class _Worker:
    """A process that has opened a card, seen from outside."""

    def __init__(self, card: str, open_card: Callable[[str], Device | None], n_threads: int) -> None:
        # Not forked: a card cannot be used by a copy of a process that has looked for one.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.name, self.busy = card, 0
        self._process = context.Process(target=_serve, args=(theirs, card, open_card, n_threads), daemon=True)
        self._process.start()
        theirs.close()

    def wait(self) -> None:
        """Until it has opened its card."""
        try:
            said = self._heard()
        except ChildProcessError as error:
            error.add_note('a script that begins workers does so below if __name__ == "__main__":')
            raise
        if isinstance(said, Exception):
            raise said
        self.name = said

    def tell(self, function: Callable[[int], Any]) -> None:
        """What is done from now on."""
        self._say(function)

    def give(self, tile: range) -> None:
        """Items to be done."""
        self._say(tile)
        self.busy += 1

    def answer(self) -> tuple[range, tuple[list[Any], Exception | None]]:
        """A tile that is done: its results, up to the first error."""
        tile, results, error = self._heard()
        self.busy -= 1
        return tile, (results, error)

    def end(self) -> None:
        """It ends when it has nothing to do, and is ended when it has."""
        self.connection.close()
        self._process.join(0.0 if self.busy else END)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _say(self, what: Any) -> None:
        try:
            self.connection.send(what)
        except OSError as error:
            raise self._death() from error

    def _heard(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._death() from error

    def _death(self) -> ChildProcessError:
        self._process.join(END)
        return ChildProcessError(f"the worker of {self.name} was ended (exit status {self._process.exitcode})")


class _Told:
    """What a worker is told: a function, then tiles of its items, then another function."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._kept: Any = None

    def next(self) -> Any:
        """A function or a tile."""
        kept, self._kept = self._kept, None
        return self._connection.recv() if kept is None else kept

    def tiles(self, first: range) -> Iterator[range]:
        """A tile and those that have come meanwhile, so that the card need not wait between them."""
        yield first
        while self._kept is None and self._connection.poll():
            told = self._connection.recv()
            if isinstance(told, range):
                yield told
            else:
                self._kept = told


def _serve(connection: Connection, name: str, open_card: Callable[[str], Device | None], n_threads: int) -> None:
    """Open a card and do what is told, until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that gives the work ends this one
    with suppress(EOFError, OSError):
        try:
            device = open_card(name)
            if device is None:
                raise ValueError(f'of several devices each must be a card, "cuda:0", got {name!r}')
            card = OneCard(device, n_threads)
        except Exception as error:
            connection.send(portable(error))
            return
        connection.send(card.name)
        told, function = _Told(connection), None
        while True:
            what = told.next()
            if isinstance(what, range):
                assert function is not None  # it is told before its items
                _do(card, function, told, what, connection)
            else:
                function = what


def _do(card: OneCard, function: Callable[[int], Any], told: _Told, first: range, connection: Connection) -> None:
    """Tiles of one function, each sent back when it is done."""
    begun: deque[range] = deque()

    def items() -> Iterator[int]:
        for tile in told.tiles(first):
            begun.append(tile)
            yield from tile

    results: list[Any] = []
    try:
        for result in card.done(function, items()):
            results.append(result)
            if len(results) == len(begun[0]):
                connection.send((begun.popleft(), results, None))
                results = []
    except Exception as error:
        connection.send((begun[0], results, portable(error)))
