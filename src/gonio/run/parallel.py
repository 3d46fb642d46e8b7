"""Many jobs of one kind, several at a time, their results in order.

Short jobs spend half of their time in the interpreter, whose lock lets one thread in at a time. Where a process can be
forked safely (Linux, and no other Python thread to be cut off in the middle of something), each worker is a copy of
this one, which has all that was prepared; what it gets and gives goes through sockets. Elsewhere workers are threads.
Results are the same, to the bit.
"""

from __future__ import annotations

import gc
import multiprocessing
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import chain, islice
from typing import Any, TypeVar

__all__ = ["in_order", "portable"]

T = TypeVar("T")

# Jobs that are taken up for each worker before the first of them is done.
AHEAD = 4
# Seconds that an end may take.
END = 5.0
# Bytes that are received at once; how lengths are sent.
PIECE, LENGTH = 1 << 18, struct.Struct("<Q")


def in_order(
    function: Callable[..., T], items: Iterator[tuple], workers: int, *, processes: bool = True
) -> Iterator[T]:
    """``function(*item)`` for each of ``items``, in their order; only a few more than there are workers are taken up.

    Parameters
    ----------
    function
        What is done; a forked worker's changes of what it holds are lost.
    items
        Its arguments, taken one by one in this process and thread.
    workers
        How many at a time; with 1, or for a single item, nothing but this thread takes part.
    processes
        Whether workers may be processes; items and results must then be such as can be pickled.

    Raises
    ------
    Exception
        The first, in the order of the items, that a job ends with; ChildProcessError when a worker was killed.
    """
    first = [] if workers == 1 else list(islice(items, 2))
    items = chain(first, items)
    if workers == 1 or len(first) < 2:
        return (function(*item) for item in items)
    forks = processes and sys.platform == "linux" and _is_alone()
    return _in_processes(function, items, workers) if forks else _in_threads(function, items, workers)


def portable(error: Exception) -> Exception:
    """The same error where it survives pickling, which not every one does; else one that tells as much."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _is_alone() -> bool:
    """Whether no other thread of Python could be cut off in the middle of something by a fork."""
    return threading.active_count() == 1


def _in_threads(function: Callable[..., T], items: Iterator[tuple], workers: int) -> Iterator[T]:
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, *item))
                if len(waiting) >= AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # an interruption or an error: do not finish what is not begun
                future.cancel()


def _in_processes(function: Callable[..., T], items: Iterator[tuple], workers: int) -> Iterator[T]:
    pool: list[_Worker] = []
    waiting: deque[_Worker] = deque()
    try:
        for _ in range(workers):
            pool.append(_Worker(function, pool))
        for item in items:
            worker = min(pool, key=lambda one: one.busy)
            worker.ask(item)
            waiting.append(worker)
            if len(waiting) >= AHEAD * workers:
                yield _answer(pool, waiting.popleft())
        while waiting:
            yield _answer(pool, waiting.popleft())
    finally:
        for worker in pool:
            worker.end()


def _answer(pool: list[_Worker], worker: _Worker) -> Any:
    """The next of a worker. Until it is there, whatever any worker gets or gives moves on: none waits for another."""
    while not worker.answers:
        ready = select.poll()
        for one in pool:
            ready.register(one, select.POLLIN | (select.POLLOUT if one.unsent else 0))
        descriptors = {descriptor for descriptor, _ in ready.poll()}
        for one in pool:
            if one.fileno() in descriptors:
                one.move()
    worker.busy -= 1
    fine, value = worker.answers.popleft()
    if not fine:
        raise value
    return value


class _Worker:
    """A forked copy of this process, which answers in the order in which it is asked."""

    def __init__(self, function: Callable[..., Any], others: list[_Worker]) -> None:
        self._socket, theirs = socket.socketpair()
        ours = [one._socket for one in (*others, self)]
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_serve, args=(function, theirs, ours), daemon=True)
        self.busy = 0
        self.unsent: deque[memoryview] = deque()
        self.answers: deque[tuple[bool, Any]] = deque()
        self._received = bytearray()
        with warnings.catch_warnings():
            # Of threads of libraries, which know how to be forked: they have handlers for it.
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            self._process.start()
        theirs.close()
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def ask(self, item: tuple) -> None:
        self.busy += 1
        self.unsent.extend(_question(item))
        self.move()

    def move(self) -> None:
        """Send and receive what can be without waiting."""
        try:
            while self.unsent:
                sent = self._socket.send(self.unsent[0])
                self.unsent[0] = self.unsent[0][sent:]
                if not self.unsent[0]:
                    self.unsent.popleft()
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._death() from error
        try:
            while piece := self._socket.recv(PIECE):
                self._received += piece
            raise self._death()
        except BlockingIOError:
            pass
        except OSError as error:
            raise self._death() from error
        while len(self._received) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._received)[0]
            if len(self._received) < end:
                break
            self.answers.append(pickle.loads(self._received[LENGTH.size : end]))
            del self._received[:end]

    def end(self) -> None:
        """It ends when it has nothing to do, and is ended when it has."""
        self._socket.close()
        self._process.join(0.0 if self.busy else END)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _death(self) -> ChildProcessError:
        self._process.join(END)
        return ChildProcessError(
            f"a worker process was ended from outside (exit status {self._process.exitcode}): where memory is short,"
            " ask for fewer workers"
        )


def _serve(function: Callable[..., Any], connection: socket.socket, ours: list[socket.socket]) -> None:
    """What a worker does until nobody is at the other end: interruptions are its parent's to handle."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for one in ours:  # copies, which would keep others' connections open when the parent has closed them or is gone
        one.close()
    gc.freeze()  # what is shared with the parent is not touched, which would copy it
    with suppress(ConnectionError):
        while True:
            item = _asked(connection)
            try:
                content = pickle.dumps((True, function(*item)))
            except Exception as error:
                content = pickle.dumps((False, portable(error)))
            connection.sendall(LENGTH.pack(len(content)) + content)


def _question(item: tuple) -> list[memoryview]:
    """Parts of a message: arrays are sent from where they are, and received where they stay."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(item, protocol=5, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    shapes = pickle.dumps((len(content), [(len(array), array.readonly) for array in arrays]))
    start = memoryview(LENGTH.pack(len(shapes)) + shapes + content)
    return [start, *(array for array in arrays if len(array))]


def _asked(connection: socket.socket) -> tuple:
    size, shapes = pickle.loads(_received(connection, LENGTH.unpack(_received(connection, LENGTH.size))[0]))
    content = _received(connection, size)
    arrays = [memoryview(_received(connection, length)) for length, _ in shapes]
    buffers = [array.toreadonly() if readonly else array for array, (_, readonly) in zip(arrays, shapes, strict=True)]
    return pickle.loads(content, buffers=buffers)


def _received(connection: socket.socket, count: int) -> bytearray:
    content = bytearray(count)
    rest = memoryview(content)
    while rest:
        got = connection.recv_into(rest)
        if not got:
            raise ConnectionError("the process that gives the work has closed the connection")
        rest = rest[got:]
    return content
