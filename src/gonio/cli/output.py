"""Where results go: folders that appear whole or not at all, files beside files, progress, and names in complaints.

Owns the rules of every command: nothing that exists is replaced unless asked, folders that are missing are made, and a
run that fails leaves nothing behind. JSON holds only what every parser reads.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "ParticleError",
    "beside",
    "check_map",
    "check_target",
    "command_line",
    "json_text",
    "naming",
    "progress",
    "result_folder",
    "write_settings",
    "write_text",
]

PLAIN_PROGRESS_SECONDS = 5.0
# How often a bar is drawn.
BAR_SECONDS = 0.1


class ParticleError(ValueError):
    """What does not fit with one particle of a list, told with its name."""


@contextmanager
def naming(name: Callable[[], str]) -> Iterator[None]:
    """Say of which particle a complaint is, where it does not say so itself as those about files do."""
    from gonio.io import FormatError

    try:
        yield
    except (FormatError, ParticleError):
        raise
    except ValueError as error:
        raise ParticleError(f"particle {name()!r}: {error}") from error


def check_target(path: Path, *, overwrite: bool) -> Path:
    """The absolute path of a result that may be written.

    Raises
    ------
    ValueError
        Something is there and may not be replaced.
    OSError
        The folder cannot be written to: better said now than after an hour of work.
    """
    path = path.resolve()
    if path.is_dir() and any(path.iterdir()) and not overwrite:
        raise ValueError(f"{path} is not empty: choose another folder, or pass --overwrite to replace its results")
    if path.is_file() and not overwrite:
        raise ValueError(f"{path} exists: choose another name, or pass --overwrite to replace it")
    nearest = next(folder for folder in path.parents if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: you may not write in {nearest}")
    return path


@contextmanager
def result_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside ``path`` to write in; when all went well it becomes ``path``, whole.

    Relative paths written inside stay right, as both folders have one parent. Files of ``path`` that are not written
    again stay. A kill leaves the old folder or the new one: between the two renames that exchange them, both, the old
    as ``.NAME.PID.old``.
    """
    path = check_target(path, overwrite=overwrite)
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file: give a folder")
    made = [folder for folder in path.parents if not folder.exists()]
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        staging.mkdir(parents=True)
        yield staging
        _put(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        for folder in made:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


def _put(staging: Path, path: Path) -> None:
    if not path.exists():
        staging.rename(path)
    elif path.is_mount() or path in (here := Path.cwd(), *here.parents):
        _move_files(staging, path)  # such a folder cannot be exchanged, or not under the feet of who stands in it
    else:
        _exchange(staging, path)


def _exchange(staging: Path, path: Path) -> None:
    """Put a folder in the place of another, with the files that only the other has."""

    def written(folder: str, names: list[str]) -> list[str]:
        pairs = ((name, Path(folder, name), staging / Path(folder, name).relative_to(path)) for name in names)
        return [name for name, old, new in pairs if new.exists() and not (old.is_dir() and new.is_dir())]

    shutil.copytree(path, staging, symlinks=True, ignore=written, copy_function=_link, dirs_exist_ok=True)
    aside = staging.with_suffix(".old")
    try:
        path.rename(aside)
        staging.rename(path)
    finally:
        if not path.exists():
            aside.rename(path)
    shutil.rmtree(aside, ignore_errors=True)


def _link(old: str, new: str) -> None:
    """A second name for a file, which costs nothing; a copy where the disk knows no such thing."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _move_files(staging: Path, path: Path) -> None:
    for file in [file for file in staging.rglob("*") if file.is_file()]:
        target = path / file.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)


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


def json_text(values: Mapping[str, object], *, indent: int | None = None) -> str:
    """JSON as every parser reads it: numbers that are infinite or none become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
def progress(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    """Gives a function to call with the number of items done; a bar on a terminal, else a line now and then.

    All of it goes to standard error, so that standard output holds results only.
    """
    if sys.stderr.isatty():
        with _bar(verb, total) as report:
            yield report
    else:
        yield _lines(verb, total)


@contextmanager
def _bar(verb: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
    start = last = time.monotonic()
    # No thread of its own, which would keep workers from being processes (gonio.run.parallel).
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False) as bar:
        task = bar.add_task(verb, total=total, rate="")

        def report(done: int) -> None:
            nonlocal last
            now = time.monotonic()
            shown = done == total or now - last >= BAR_SECONDS
            last = now if shown else last
            bar.update(task, completed=done, rate=f"{done / (now - start):.1f}/s", refresh=shown)

        yield report


def _lines(verb: str, total: int) -> Callable[[int], None]:
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done < total and now - last < PLAIN_PROGRESS_SECONDS:
            return
        last = now
        rate = done / max(now - start, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if done < total else ""
        print(f"{verb}: {done} of {total}, {rate:.1f} per second{left}", file=sys.stderr, flush=True)

    return report
