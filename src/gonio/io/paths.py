"""Paths in lists: where they start, and how they stay valid when a list is written into another folder.

A path starts where ``gonio.io.errors.locate`` finds it. Every column that holds paths follows the list, whatever its
name is: a path that is a file from the old folder must be one from the new. Knows no format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from gonio.io.errors import locate
from gonio.io.text import is_number
from gonio.particle.table import ParticleTable
from gonio.particle.texts import packed

# Names, not places, whatever files there may be.
NAMES = ("rlnTomoName", "rlnTomoParticleName", "rlnGroupName", "rlnOpticsGroupName")
# Files of a folder that are looked for before it is taken to have none.
TRIES = 3


def folder_of(table: ParticleTable) -> Path | None:
    """Return the folder of the list that a table was read from, where its paths start; None where it was not read."""
    path = getattr(table.source, "path", None)
    return None if path is None else path.parent


def relative(path: Path, folder: Path) -> str:
    """Return a file as seen from a folder."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def moved(tokens: Sequence[str], old: Path | None, new: Path) -> Sequence[str]:
    """Return the paths of a list in folder ``old`` as a list in folder ``new`` must name them.

    A path that is not found from ``old``, or also holds from ``new``, stays as it is; so does what precedes an ``@``
    (the number of an image in its stack).
    """
    if old is None or old.resolve() == new.resolve():
        return tokens
    # Only a few files of a folder are checked for whether they still resolve: lists are long and disks are slow.
    prefixes: dict[str, str | None] = {}
    tries: dict[str, int] = {}

    def moved_one(token: str) -> str:
        number, at, path = token.rpartition("@")
        folder, _, name = path.rpartition("/")
        if folder not in prefixes and tries.setdefault(folder, TRIES):
            found = locate(path, old)
            tries[folder] -= 1
            if found is not None:
                prefixes[folder] = _new_folder(path, found, old, new)
        prefix = prefixes.get(folder)
        return token if prefix is None else f"{number}{at}{prefix}/{name}"

    return packed(map(moved_one, tokens))


def moved_columns(columns: Mapping[str, Sequence[str]], old: Path | None, new: Path) -> dict[str, Sequence[str]]:
    """Return the text columns with paths that must be named in another way from the new folder."""
    if old is None or old.resolve() == new.resolve():
        return {}
    paths = {label: values for label, values in columns.items() if label not in NAMES and _may_be_paths(values)}
    ways = {label: moved(values, old, new) for label, values in paths.items()}
    return {label: way for label, way in ways.items() if not all(map(str.__eq__, way, paths[label]))}


def _may_be_paths(values: Sequence[str]) -> bool:
    """Return whether the first value may be a path: not a number, nor a word without a folder or an ending."""
    first = next(iter(values), "")
    return not is_number(first) and ("/" in first or "." in first)


def _new_folder(token: str, found: Path, old: Path, new: Path) -> str | None:
    """Return the folder of a file relative to ``new``, or None where its path also holds from there.

    A path from the list's own folder must be one from the new folder itself: other programs look nowhere else. One that
    starts further up, at a project's folder, stays where the new list lies below that too.
    """
    beside = (old / token).is_file()
    after = (new / token if (new / token).is_file() else None) if beside else locate(token, new)
    if after is not None and after.resolve() == found.resolve():
        return None
    return relative(found.parent, new)
