"""Output of commands: numbers, prose in the width of a terminal, and progress."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from gonio.jobs.files import json_text

PLAIN_PROGRESS_SECONDS = 5.0
# Columns of a terminal, and what names and values of a summary take of them.
WIDTH, NAME_WIDTH, VALUE_WIDTH = 80, 30, 14
# Seconds between two updates of a bar, and between two lines.
BAR_SECONDS = 0.1


def visible(text: object) -> str:
    r"""Return text in which whatever is no sign, and may move a cursor or change a terminal, is escaped: ``\x1b``."""
    return "".join(
        sign if sign.isprintable() or sign in "\n\t" else sign.encode("unicode_escape").decode() for sign in str(text)
    )


def say(*texts: object, sep: str = " ", file: IO[str] | None = None, flush: bool = False) -> None:
    """Print texts, which may hold names from files, as ``visible``."""
    print(*map(visible, texts), sep=sep, file=file, flush=flush)


class Lenient:
    """A stream whose other end may be gone: then what is written is lost, which is no reason to end a run."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream or Path(os.devnull).open("w")  # noqa: SIM115

    def write(self, text: str) -> int:
        """Write text, or nothing."""
        with suppress(OSError, ValueError):  # a pipe without a reader, a terminal that was closed; a closed stream
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, or not."""
        with suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        """Return whether it is a terminal that is there."""
        with suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def numbers_text(rows: Iterable[tuple[str, str, str]]) -> str:
    """Return name, value and how to read it, line by line, in the width of a terminal."""
    lines, before = [], " " * (2 + NAME_WIDTH + 1 + VALUE_WIDTH + 2)
    for name, value, reading in rows:
        first = f"  {name:<{NAME_WIDTH}} {value:>{VALUE_WIDTH}}  "
        if len(first) > len(before):  # how to read it begins below
            lines.append(first.rstrip())
            first = before
        lines.append(textwrap.fill(reading, WIDTH, initial_indent=first, subsequent_indent=before).rstrip())
    return "\n".join(line for line in lines if line)


def print_result(summary: Mapping[str, object], *texts: str, as_json: bool) -> None:
    """Print the result of a command: as one JSON object, or as those of the texts that are not empty."""
    say(json_text(summary) if as_json else "\n".join(text for text in texts if text))


def print_note(note: str) -> None:
    """Print to standard error what the user should know, where there is something."""
    if note:
        say(f"gonio: note: {note}", file=sys.stderr)


def wrapped(text: str) -> str:
    """Return prose in the width of a terminal; paths and numbers are not broken."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def hanging(first: str, text: str) -> str:
    """Return prose after a heading, its further lines indented to its first word."""
    filled = textwrap.TextWrapper(WIDTH, first, " " * len(first), break_long_words=False, break_on_hyphens=False)
    return filled.fill(text)


@contextmanager
def progress(verb: str, total: int, before: int = 0) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the number of items done; it shows a bar on a terminal, else a line now and then.

    ``before`` items were done by an earlier run, and do not count for the rate. It prints to standard error, so that
    standard output holds results only.
    """
    if sys.stderr.isatty():
        with _bar(verb, total, before) as report:
            yield report
    else:
        begun = time.monotonic()
        yield _reporting(total, before, PLAIN_PROGRESS_SECONDS, begun, partial(_print_line, verb, total))


@contextmanager
def _bar(verb: str, total: int, before: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    # No thread of its own, which would keep workers from being processes (gonio.run.parallel).
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task(verb, total=total, completed=before, rate="")

        yield _reporting(
            total,
            before,
            BAR_SECONDS,
            -BAR_SECONDS,
            lambda done, rate: bar.update(task, completed=done, rate=rate, refresh=True),
        )


def _print_line(verb: str, total: int, done: int, rate: str) -> None:
    say(f"{verb}: {done} of {total}{', ' if rate else ''}{rate}", file=sys.stderr, flush=True)


def _reporting(
    total: int, before: int, seconds: float, last: float, show: Callable[[int, str], None]
) -> Callable[[int], None]:
    """Return a function that shows the number of items done and their rate, at most once in so many seconds."""
    rate = _Rate(total, before)

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        pace = rate.after(done, now)
        if done >= total or now - last >= seconds:
            last = now
            show(done, pace)

    return report


class _Rate:
    """Rate at which items are done, and time that the rest takes.

    The clock starts with the first item that is done: what comes before it, kernels that are compiled and a reference
    that is prepared, does not come again. Until a second one is done the rate is unknown, and not shown.
    """

    def __init__(self, total: int, before: int) -> None:
        self._total, self._since, self._done_then = total, time.monotonic(), before
        self._waits = True  # for the first

    def after(self, done: int, now: float) -> str:
        """Return rate and time left as text, when ``done`` items are done; empty while they are unknown."""
        if self._waits and done < self._total:
            self._since, self._done_then, self._waits = now, done, False
            return ""
        rate, missing = (done - self._done_then) / max(now - self._since, 1e-9), self._total - done
        if rate <= 0:
            return ""
        return f"{rate:.1f} per second" + (f", {_time(missing / rate)} left" if missing else "")


def _time(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
