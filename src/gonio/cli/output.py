"""What commands write: files beside files, progress, and names in complaints.

Nothing that exists is replaced unless asked; how folders come to be is told in ``gonio.run.folder``. JSON holds only
what every parser reads.
"""

from __future__ import annotations

import json
import math
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gonio.run.folder import check_target

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable

__all__ = [
    "beside",
    "check_map",
    "command_line",
    "hanging",
    "json_text",
    "naming",
    "numbers_text",
    "progress",
    "wrapped",
    "write_particle_scene",
    "write_settings",
    "write_text",
]

PLAIN_PROGRESS_SECONDS = 5.0
# Columns of a terminal, and what names and values of a summary take of them.
WIDTH, NAME_WIDTH, VALUE_WIDTH = 80, 30, 14
# How often a bar is drawn.
BAR_SECONDS = 0.1


@contextmanager
def naming(name: Callable[[], str]) -> Iterator[None]:
    """Say of which particle a complaint is, where it does not say so itself as those about files do."""
    from gonio.alignment.particle_list import ParticleError
    from gonio.io import FormatError

    try:
        yield
    except (FormatError, ParticleError):
        raise
    except ValueError as error:
        raise ParticleError(f"particle {name()!r}: {error}") from error


def check_map(path: Path, *endings: str, overwrite: bool) -> Path:
    """The absolute path of a map that may be written, and with it the files of these endings beside it.

    Raises
    ------
    ValueError, OSError
        As ``check_target``; or one of them is a folder.
    """
    path = path.resolve()
    for file in (path, *(beside(path, ending) for ending in endings)):
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: give the name of a file")
        check_target(file, overwrite=overwrite)
    return path


def beside(path: Path, ending: str) -> Path:
    """``map.mrc`` or ``map.mrc.gz`` with another ending: ``beside(path, "_fsc.csv")`` is map_fsc.csv."""
    stem = path.name.removesuffix(".gz")
    for suffix in (".mrc", ".map"):
        stem = stem.removesuffix(suffix)
    return path.with_name(stem + ending)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    from gonio.io.errors import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_particle_scene(folder: Path, table: ParticleTable, *, box_angstrom: float) -> None:
    """``particles.cxc`` and its markers, where the list has positions."""
    from gonio.report import particle_scene

    for name, text in particle_scene(table, box_angstrom=box_angstrom).items():
        (folder / name).parent.mkdir(exist_ok=True)
        write_text(folder / name, text)


def json_text(values: Mapping[str, object], *, indent: int | None = None) -> str:
    """JSON as every parser reads it: numbers that are infinite or none become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def numbers_text(rows: Iterable[tuple[str, str, str]]) -> str:
    """Name, value and how to read it, line by line, in the width of a terminal."""
    lines, before = [], " " * (2 + NAME_WIDTH + 1 + VALUE_WIDTH + 2)
    for name, value, reading in rows:
        first = f"  {name:<{NAME_WIDTH}} {value:>{VALUE_WIDTH}}  "
        if len(first) > len(before):  # how to read it begins below
            lines.append(first.rstrip())
            first = before
        lines.append(textwrap.fill(reading, WIDTH, initial_indent=first, subsequent_indent=before).rstrip())
    return "\n".join(line for line in lines if line)


def wrapped(text: str) -> str:
    """Prose in the width of a terminal; paths and numbers stay whole."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def hanging(first: str, text: str) -> str:
    """Prose after a heading, its further lines below its first word."""
    filled = textwrap.TextWrapper(WIDTH, first, " " * len(first), break_long_words=False, break_on_hyphens=False)
    return filled.fill(text)


def command_line() -> list[str]:
    """What was typed, word by word."""
    return ["gonio", *sys.argv[1:]]


def write_settings(
    path: Path, settings: Mapping[str, object], *, seed: int | None = None, inputs: Iterable[Path] = ()
) -> None:
    """Say beside a result how it was made."""
    from gonio.run import settings_toml

    write_text(path, settings_toml(command_line(), settings, seed=seed, inputs=inputs))


@contextmanager
def progress(verb: str, total: int, before: int = 0) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of items done; a bar on a terminal, else a line now and then.

    ``before`` items were done by an earlier run, and say nothing of the rate. All of it goes to standard error, so that
    standard output holds results only.
    """
    if sys.stderr.isatty():
        with _bar(verb, total, before) as report:
            yield report
    else:
        yield _lines(verb, total, before)


@contextmanager
def _bar(verb: str, total: int, before: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    last, rate = -BAR_SECONDS, _Rate(total, before)
    # No thread of its own, which would keep workers from being processes (gonio.run.parallel).
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task(verb, total=total, completed=before, rate="")

        def report(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            told = rate.after(done, now)
            if done == total or now - last >= BAR_SECONDS:
                last = now
                bar.update(task, completed=done, rate=told, refresh=True)

        yield report


def _lines(verb: str, total: int, before: int) -> Callable[[int], None]:
    last, rate = time.monotonic(), _Rate(total, before)

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        told = rate.after(done, now)
        if done < total and now - last < PLAIN_PROGRESS_SECONDS:
            return
        last = now
        print(f"{verb}: {done} of {total}{', ' if told else ''}{told}", file=sys.stderr, flush=True)

    return report


class _Rate:
    """How fast items are done, and how long the rest takes.

    The clock starts with the first item that is done: what comes before it, kernels that are compiled and a reference
    that is prepared, does not come again. Until a second one is done nothing is known, and nothing said.
    """

    def __init__(self, total: int, before: int) -> None:
        self._total, self._since, self._done_then = total, time.monotonic(), before
        self._waits = True  # for the first

    def after(self, done: int, now: float) -> str:
        """In words, when ``done`` items are done; empty while there is nothing to say."""
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
