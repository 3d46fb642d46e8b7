"""Provenance: the text of the settings.toml that lies beside every result.

Owns what must be recorded to repeat a run: the command line, the settings, the seed, the versions, the date, and the
inputs with their checksums. Knows nothing of what was run.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from shlex import join

PACKAGES = ("gonio", "numpy", "scipy", "numba")


# The words of a command line in progress; a context variable, as threads may run others.
_TYPED: ContextVar[tuple[str, ...] | None] = ContextVar("typed", default=None)


@contextmanager
def typed(words: Sequence[str]) -> Iterator[None]:
    """Make ``command_line`` return these words within the context."""
    before = _TYPED.set(tuple(words))
    try:
        yield
    finally:
        _TYPED.reset(before)


def command_line() -> list[str]:
    """Return the command line, word by word: ``gonio`` and its options, else the arguments of this process."""
    return list(_TYPED.get() or (Path(sys.argv[0]).name, *sys.argv[1:]))


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def checksums(paths: Iterable[str | Path]) -> dict[str, str]:
    """Return the SHA-256 of files, by their full names."""
    sums = {}
    for path in (Path(p).resolve() for p in paths):
        with path.open("rb") as file:
            sums[str(path)] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def settings_toml(
    command: Sequence[str],
    settings: Mapping[str, object],
    *,
    seed: int | None = None,
    inputs: Iterable[str | Path] = (),
    run: Mapping[str, object] = {},
) -> str:
    """Return the text of a TOML file with tables ``run``, ``settings``, ``versions`` and ``inputs``.

    Parameters
    ----------
    command
        The command line, word by word.
    settings
        Numbers, text, booleans, None (written as a comment), sequences of these, and mappings, which become tables.
    seed
        Seed of the random generator; None where nothing is random.
    inputs
        Files that were read; each is listed with its full name and SHA-256.
    run
        What a run that is resumed is compared with (``gonio.run.folder``).
    """
    head: dict[str, object] = {
        "command": join(command),
        "date": datetime.now().astimezone().isoformat(timespec="seconds"),
        "seed": seed,
    }
    head |= {name: value for name, value in run.items() if value is not None}
    tables = {"run": head, "settings": settings, "versions": versions(), "inputs": checksums(inputs)}
    return "\n".join(line for name, table in tables.items() for line in _table(name, table))


def _table(name: str, values: Mapping[str, object]) -> Iterator[str]:
    yield f"[{name}]"
    inner = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    for key, value in values.items():
        if key not in inner:
            yield f"# {key}: not given" if value is None else f"{_key(key)} = {_value(value)}"
    yield ""
    for key, value in inner.items():
        yield from _table(f"{name}.{_key(key)}", value)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else json.dumps(key)


def _value(value: object) -> str:
    if isinstance(value, Enum):
        return _value(value.value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else str(float(value))  # TOML knows inf and nan
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(str(value))
