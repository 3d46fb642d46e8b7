"""Matching of files to the tomograms of a list, by their names.

Owns that rule: the names without folder and endings are equal; else one stands in the other between characters that are
neither letters nor digits (``TS_01`` in ``rec_TS_01_10.00Apx.mrc``); else the tomogram is a number that is the only one
in the file's name (``17`` in ``tomo_017.rec``). One tomogram and one file belong together whatever they are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePosixPath

ENDINGS = frozenset(
    [
        *("gz", "bz2", "mrc", "mrcs", "map", "rec", "em", "st", "ali", "zarr", "ome"),
        *("tomostar", "tlt", "rawtlt", "mdoc", "star", "tif", "tiff", "eer"),
    ]
)

# What the names of files are made of here, and how long they may be.
_ODD, _LONGEST = re.compile(r"[^0-9A-Za-z._+-]+"), 100

# Warp states the pixel size in the names of its reconstructions.
PIXEL = re.compile(r"_\d+(\.\d+)?Apx$", re.IGNORECASE)


def stem(name: str) -> str:
    """Return a file's or tomogram's name without folder and without the endings that programs give it."""
    short = PurePosixPath(name.rstrip("/")).name
    while True:
        shorter, _, ending = short.rpartition(".")
        if not shorter or ending.lower() not in ENDINGS:
            return short
        short = shorter


def file_stems(tomograms: Iterable[str]) -> dict[str, str]:
    """Return for each tomogram what its files may be called: without folder and endings, and each another."""
    stems: dict[str, str] = {}
    taken: set[str] = set()
    for name in dict.fromkeys(tomograms):
        plain = _ODD.sub("_", stem(name)).lstrip(".")[:_LONGEST] or "tomogram"
        found, number = plain, 1
        while found in taken:
            number += 1
            found = f"{plain}_{number}"
        stems[name] = found
        taken.add(found)
    return stems


def tomostar(name: str) -> str:
    """Return WarpTools' name of a tomogram's tilt series: ``TS_01.tomostar`` of ``rec/TS_01.mrc_15.00Apx.mrc``."""
    return f"{stem(PIXEL.sub('', stem(name)))}.tomostar" if name else name


def match(tomograms: Sequence[str], files: Sequence[str]) -> dict[str, str]:
    """Return the file of each tomogram.

    Raises
    ------
    ValueError
        If a tomogram has no file, or several.
    """
    if len(tomograms) == len(files) == 1:
        return {tomograms[0]: files[0]}
    return {tomogram: _one(tomogram, files) for tomogram in tomograms}


def _one(tomogram: str, files: Sequence[str]) -> str:
    short = stem(tomogram)
    rules: tuple[Callable[[str, str], bool], ...] = (str.__eq__, _within, lambda a, b: _within(b, a), _is_number)
    for rule in rules if short else ():
        found = [file for file in files if rule(short, stem(file))]
        if len(found) > 1:
            raise ValueError(f"tomogram {tomogram!r} may be {found[0]} or {found[1]}: give one of them, or rename one")
        if found:
            return found[0]
    raise ValueError(f"no file is that of tomogram {tomogram!r}, of {', '.join(files[:5])}{'...' if files[5:] else ''}")


def _within(one: str, other: str) -> bool:
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(one)}(?![0-9A-Za-z])", other) is not None if one else False


def _is_number(tomogram: str, file: str) -> bool:
    numbers = re.findall(r"\d+", file)
    return tomogram.isdigit() and len(numbers) == 1 and int(numbers[0]) == int(tomogram)
