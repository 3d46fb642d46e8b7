"""The one exception of foreign files, where a file is looked for, and the safe way to replace one.

Owns ``FormatError``, the search order of relative paths and atomic writing. Knows no format. What a file holds is text
of strangers: in messages it is short and printable.
"""

from __future__ import annotations

import csv
import glob
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Characters of a message, and of the path and the remedy in it: what is wrong gets the rest.
LONGEST, LONGEST_PATH, LONGEST_REMEDY = 400, 140, 130
# What the name of a temporary file has after that of its file.
TEMPORARY = re.compile(r"\.\d+-[0-9a-f]{8}\.tmp")


class FormatError(ValueError):
    """Error for a file that is missing, broken, or lacks what gonio needs to know.

    Parameters
    ----------
    problem
        What is wrong with it.
    remedy
        What to do about it.
    """

    # The three parts are the exception's args, so that it survives pickling between processes.
    def __init__(self, path: str | Path, problem: str, remedy: str) -> None:
        super().__init__(str(path), problem, remedy)
        self.path, self.problem, self.remedy = str(path), problem, remedy

    def __str__(self) -> str:
        path, remedy = printable(self.path, LONGEST_PATH), printable(self.remedy, LONGEST_REMEDY)
        left = LONGEST - len(path) - len(remedy) - len(": ; ")
        return f"{path}: {printable(self.problem, left)}; {remedy}"


def printable(text: str, longest: int) -> str:
    """Return text on one line: what does not print is escaped, and the middle of what is too long is left out."""
    short = _shortened(text, longest)
    if not short.isprintable():
        short = _shortened("".join(c if c.isprintable() else repr(c)[1:-1] for c in short), longest)
    return short


def _shortened(text: str, longest: int) -> str:
    head = 2 * longest // 3
    return text if len(text) <= longest else f"{text[:head]}...{text[head + 3 - longest :]}"


# What broken files make Python and its libraries raise.
WRONG = (
    *(OSError, EOFError, ValueError, LookupError, MemoryError, ArithmeticError, RecursionError),
    *(csv.Error, struct.error, zlib.error),
)


@contextmanager
def reading(path: str | Path, remedy: str) -> Iterator[None]:
    """Turn whatever goes wrong inside into a ``FormatError`` of this file, chained from its cause.

    What is no file but a device, a socket or a pipe is refused before it is opened: some of them never end.
    """
    try:
        if _is_special(path):
            raise FormatError(path, "is a device, a socket or a pipe", "give a file")
        yield
    except FormatError:
        raise
    except FileNotFoundError as error:
        raise FormatError(path, "no such file", "check the path") from error
    except WRONG as error:
        raise FormatError(path, str(error).strip() or type(error).__name__, remedy) from error


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long for a name, or with what no name has
        return False


def _is_special(path: str | Path) -> bool:
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116, as a path may hold what Path refuses
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def locate(token: str, folder: Path) -> Path | None:
    """Return the file that a path in a list stands for, or None where there is none.

    RELION's paths start at the project's folder, in which its lists lie some levels down: a path is looked for from
    the list's folder, then from each folder above it, then from the current one.
    """
    here = folder.absolute()
    return next((place for start in (here, *here.parents, Path()) if _is_file(place := start / token)), None)


def files_found(tokens: Iterable[str], folder: Path) -> tuple[Path, ...]:
    """Return those files that paths in a list stand for which are there."""
    return tuple(path for token in tokens if (path := locate(token, folder)) is not None)


def located(token: str, path: Path, where: str) -> Path:
    """Return the file that a path in the list ``path`` stands for, as ``locate``.

    Raises
    ------
    FormatError
        If there is none; ``where`` begins the sentence, as in "rlnImageName of row 1, a.mrc, is".
    """
    found = locate(token, path.parent)
    if found is None:
        problem = f"{where} neither in {path.parent}, nor above, nor in {Path.cwd()}"
        raise FormatError(path, problem, "run from the folder its paths start at, or restore the file")
    return found


@contextmanager
def of_particle(path: Path, name: str) -> Iterator[None]:
    """Add to errors the particle of the list ``path`` that they are about."""
    try:
        yield
    except ValueError as error:
        at, problem, remedy = str(path), str(error), "correct the list, or leave this particle out"
        if isinstance(error, FormatError):
            at, problem, remedy = error.path, error.problem, error.remedy
        of = "" if at == str(path) else f" of {path}"
        raise FormatError(at, f"{problem} (particle {name}{of})", remedy) from error


def remove_leftovers(path: Path) -> None:
    """Remove the temporary files that killed processes have left beside a file: nobody holds their locks."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        if TEMPORARY.fullmatch(left.name.removeprefix(f".{path.name}")) and not left.is_symlink():
            with suppress(OSError), left.open("rb") as stream:
                if _hold(stream.fileno()):
                    left.unlink()


def _hold(descriptor: int) -> bool:
    """Lock a file until it is closed; False where another process holds it, or there are no locks."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield an empty temporary file beside ``path`` to write over, then replace ``path`` by it in one step.

    Readers see the old file or the new one, never half of one; on failure the temporary file is removed.

    Raises
    ------
    FormatError
        If the folder does not exist or cannot be written to.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        if not path.parent.is_dir():
            raise FormatError(path, f"the folder {path.parent} does not exist", "create it first")
        held = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        try:
            _hold(held)
            yield temporary
            os.fsync(held)
        finally:
            os.close(held)
        temporary.replace(path)
    except OSError as error:
        raise FormatError(
            path, f"cannot be written ({error})", "choose a folder with space that you may write"
        ) from error
    finally:
        if path.parent.is_dir():
            temporary.unlink(missing_ok=True)
