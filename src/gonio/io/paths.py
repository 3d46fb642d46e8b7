"""Paths of images in lists: relative to the list's folder, else to the current one.

Owns how they are kept right when a list is written into another folder. Knows no format.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from gonio.io.errors import locate

__all__ = ["moved", "relative"]


def relative(path: Path, folder: Path) -> str:
    """A file as seen from a folder."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def moved(tokens: Iterable[str], old: Path, new: Path) -> list[str]:
    """Paths of a list in folder ``old`` as a list in folder ``new`` must name them.

    What cannot be found from ``old``, or is as good from ``new``, stays as it is; so does what stands before an ``@``
    (the number of an image in its stack).
    """
    if old.resolve() == new.resolve():
        return list(tokens)
    # Whether a folder's files still resolve is asked of one of its files only: lists are long and disks are slow.
    prefixes: dict[str, str | None] = {}
    result = []
    for token in tokens:
        number, at, name = token.rpartition("@")
        folder, _, name = name.rpartition("/")
        if folder not in prefixes:
            prefixes[folder] = _new_folder(token.rpartition("@")[2], old, new)
        prefix = prefixes[folder]
        result.append(token if prefix is None else f"{number}{at}{prefix}/{name}")
    return result


def _new_folder(token: str, old: Path, new: Path) -> str | None:
    """The folder of a file relative to ``new``, or None where its path from ``old`` is as good from there."""
    before, after = locate(token, old), locate(token, new)
    if before is None or (after is not None and after.resolve() == before.resolve()):
        return None
    return relative(before.parent, new)
