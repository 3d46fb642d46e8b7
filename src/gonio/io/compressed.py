"""Files that may be compressed, recognised by their content and not by their name, and the arrays in them.

Sizes that a header states are believed as far as the file goes: one that is not compressed holds what it is long, and a
compressed one is unpacked up to ``FREE_BYTES`` and ``TIMES`` its own size. ``GONIO_UNPACK_GB`` sets another limit.
"""

from __future__ import annotations

import bz2
import gzip
import os
from dataclasses import dataclass, field
from io import BufferedIOBase, BufferedReader
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.errors import FormatError

PIECE_BYTES = 2**24
SNIFFED_BYTES = 212  # which show what a map is
FREE_BYTES, TIMES = 250_000_000, 10
UNPACK = "GONIO_UNPACK_GB"


@dataclass(frozen=True)
class Layout:
    """Place of the values of a map in its file, without compression.

    Parameters
    ----------
    start
        Byte of the first value.
    dtype
        Type of the values, in the file's byte order.
    shape
        (z, y, x), or (y, x) of a single image.
    voxel_size_xyz_angstrom
        As the header states it, 0 where it does not.
    origin_xyz_angstrom
        Where the header puts the centre of the first voxel, angstrom.
    is_stack
        Whether the header states that sections are images (space group 0, and one section a volume).
    """

    path: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    voxel_size_xyz_angstrom: NDArray[np.float64]
    origin_xyz_angstrom: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    is_stack: bool = False


def compression_of(path: Path) -> str | None:
    """Return how a file is compressed: ``gzip``, ``bzip2`` or None.

    Raises
    ------
    FormatError
        A folder, or an empty file.
    OSError
        It cannot be read.
    """
    if path.is_dir():
        raise FormatError(path, "is a folder", "give a file")
    with path.open("rb") as stream:
        start = stream.read(SNIFFED_BYTES)
    if not start:
        raise FormatError(path, "is empty", "write the file again")
    if start[208:211] == b"MAP":  # the first number of an MRC header may look like the magic of gzip
        return None
    return "gzip" if start[:2] == b"\x1f\x8b" else "bzip2" if start[:3] == b"BZh" else None


def opened(path: Path) -> BufferedIOBase:
    """Open a file as a stream of decompressed bytes; raises as ``compression_of``."""
    compression = compression_of(path)
    if compression == "gzip":
        return gzip.open(path, "rb")
    return bz2.open(path, "rb") if compression == "bzip2" else path.open("rb")


def is_uncompressed(stream: BufferedIOBase) -> bool:
    """Return whether a stream from ``opened`` is that of a file without compression."""
    return isinstance(stream, BufferedReader)


def first_bytes(path: Path, count: int = SNIFFED_BYTES) -> bytes:
    """Return the first bytes, fewer in a shorter file; raises as ``opened``, and EOFError for a gzip cut off."""
    with opened(path) as stream:
        return stream.read(count)


def check_unpacked(path: Path, wanted: int) -> None:
    """Refuse to unpack more of a compressed file than so small a file is likely to hold.

    Raises
    ------
    FormatError
        If ``wanted`` bytes, with what is made of them, are more than the limit.
    """
    size, limit = path.stat().st_size, os.environ.get(UNPACK)
    try:
        allowed = FREE_BYTES + TIMES * size if limit is None else 1e9 * float(limit)
    except ValueError as error:
        raise FormatError(path, f"is compressed, and {UNPACK} is {limit!r}", "set it to a number") from error
    if wanted > allowed:
        problem = f"of {size / 1e6:.3g} MB would unpack to {wanted / 1e6:.0f} MB, more than {allowed / 1e6:.0f}"
        raise FormatError(path, problem, f"unpack it before if that is right, or set {UNPACK}")


def check_length(path: Path, held: int, expected: int) -> None:
    """Raise FormatError for a file that holds fewer bytes of data than it should."""
    if held < expected:
        problem = f"is truncated: {max(held, 0)} of {expected} bytes of data"
        raise FormatError(path, problem, "copy or write the file again")


def payload(path: Path, stream: BufferedIOBase, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[NDArray, bool]:
    """Return the array that starts where a file's stream stands, and whether the file goes on after it.

    Raises
    ------
    FormatError
        If the file ends before the array does, or unpacks to more than the limit. No more memory is taken than the file
        fills, whatever the header states.
    """
    count, start = int(np.prod(shape, dtype=object)), stream.tell()
    expected = count * dtype.itemsize
    done, held = 0, path.stat().st_size - start
    if not is_uncompressed(stream):
        check_unpacked(path, start + expected + (0 if dtype == np.float32 else 4 * count))  # from which float32 is made
    if is_uncompressed(stream) and held < expected:
        done = max(held, 0)
    else:
        raw = np.empty(expected, dtype=np.uint8)
        while done < expected and (read := stream.readinto(raw[done : done + PIECE_BYTES].data)):
            done += read
    check_length(path, done, expected)
    return raw.view(dtype).reshape(shape), bool(stream.read(1))
