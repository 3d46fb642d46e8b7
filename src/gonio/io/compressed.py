"""Files that may be compressed, recognised by their content and not by their name, and the arrays in them."""

from __future__ import annotations

import bz2
import gzip
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from gonio.io.errors import FormatError

__all__ = ["Layout", "compression_of", "first_bytes", "opened", "opened_for_writing", "payload"]

PIECE_BYTES = 2**24


@dataclass(frozen=True)
class Layout:
    """Place of the values of a map in its file, without compression.

    Parameters
    ----------
    path
        The file.
    start
        Byte of the first value.
    dtype
        Type of the values, in the file's byte order.
    shape
        (z, y, x), or (y, x) of a single image.
    voxel_size_xyz_angstrom
        As the header states it, 0 where it does not.
    """

    path: Path
    start: int
    dtype: np.dtype
    shape: tuple[int, ...]
    voxel_size_xyz_angstrom: NDArray[np.float64]


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
        start = stream.read(212)
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


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first bytes, fewer in a shorter file; raises as ``opened``, and EOFError for a gzip cut off."""
    with opened(path) as stream:
        return stream.read(count)


def opened_for_writing(path: Path, *, compressed: bool) -> BinaryIO:
    """Open a new file for bytes, compressed by gzip where ``compressed``."""
    return cast(BinaryIO, gzip.open(path, "wb") if compressed else path.open("wb"))


def payload(path: Path, stream: BufferedIOBase, dtype: np.dtype, shape: tuple[int, ...]) -> tuple[NDArray, bool]:
    """Return the array that starts where a file's stream stands, and whether the file goes on after it.

    Raises
    ------
    FormatError
        If the file ends before the array does. No more memory is taken than the file fills, whatever the header
        states.
    """
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    raw = bytearray()
    while len(raw) < expected and (piece := stream.read(min(expected - len(raw), PIECE_BYTES))):
        raw += piece
    if len(raw) < expected:
        raise FormatError(path, f"is truncated: {len(raw)} of {expected} bytes of data", "copy or write the file again")
    return np.frombuffer(raw, dtype=dtype).reshape(shape), bool(stream.read(1))
