"""EM files: volumes, images and motive lists of TOM, AV3, PyTom and their kin.

Owns the EM header, 512 bytes: machine code, two bytes without meaning, data type; columns x, y, z (int32); 80
characters of comment; 40 parameters (int32); 256 bytes of user data. x runs fastest, so arrays are (z, y, x).

The header has a field for the size of a pixel (parameter 7), which programs fill with angstrom, nanometre, either times
1000, or nothing. It is therefore never read. gonio writes the voxel size into the comment, and reads it from there.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.io.compressed import Layout, opened, payload
from gonio.io.errors import FormatError, reading, replacing
from gonio.io.text import float_or

HEADER_BYTES = 512
PARAMETERS, COMMENT_BYTES, USER_BYTES = 40, 80, 256
DATA_TYPES = {1: "u1", 2: "i2", 4: "i4", 5: "f4", 8: "c8", 9: "f8"}
# OS-9, Convex, SGI, Sun and Macintosh; VAX and PC.
BYTE_ORDERS = {0: ">", 2: ">", 3: ">", 4: ">", 5: ">", 1: "<", 6: "<"}
PC = 6
LARGEST_EDGE = 2**24
VOXEL_SIZE = re.compile(r"voxel size ([0-9.eE+-]+) angstrom")
BROKEN = "write the file again"


@dataclass(frozen=True)
class EmFile:
    """Content of an EM file.

    Parameters
    ----------
    data
        Shape (z, y, x), in the file's own type (uint8, int16, int32, float32, float64, complex64) and this machine's
        byte order; values are as they are, also where they are not finite.
    comment
        Up to 80 characters.
    parameters
        The 40 numbers of the header, int32; what they mean is up to the program that wrote them.
    user_data
        The 256 bytes at the header's end.
    """

    path: Path
    data: NDArray
    comment: str
    parameters: NDArray[np.int32]
    user_data: bytes

    @property
    def voxel_size_angstrom(self) -> float:
        """Voxel size in the comment where gonio wrote the file, else 0."""
        return _voxel_size(self.comment)


def is_em(start: bytes) -> bool:
    """Return whether a file's first bytes, at least 212 of them, are an EM header, and not an MRC header."""
    if len(start) < 16 or start[208:211] == b"MAP" or start[0] not in BYTE_ORDERS or start[3] not in DATA_TYPES:
        return False
    return all(0 < edge <= LARGEST_EDGE for edge in _edges(start))


def read_em(path: str | Path) -> EmFile:
    """Read an EM file, plain or compressed."""
    path = Path(path)
    with reading(path, BROKEN), opened(path) as stream:
        header = _header(path, stream)
        dtype, shape = _dtype(header), _edges(header)[::-1]
        data, longer = payload(path, stream, dtype, shape)  # (z, y, x)
        if longer:
            raise FormatError(path, f"is longer than the shape {shape} in its header", BROKEN)
    parameters = np.frombuffer(header, dtype=BYTE_ORDERS[header[0]] + "i4", count=PARAMETERS, offset=16 + COMMENT_BYTES)
    return EmFile(path, _native(data), _comment(header), _native(parameters), header[-USER_BYTES:])


def em_layout(path: Path) -> Layout:
    """Return where in an EM file its values lie; raises as ``read_em``, for what can be known without them."""
    with reading(path, BROKEN), opened(path) as stream:
        header = _header(path, stream)
    dtype = _dtype(header)
    if dtype.kind == "c":
        raise FormatError(path, "holds complex numbers", "give a map in real space")
    return Layout(path, HEADER_BYTES, dtype, _edges(header)[::-1], np.full(3, _voxel_size(_comment(header))))


def write_em(
    path: str | Path,
    data: ArrayLike,
    *,
    voxel_size_angstrom: float | None = None,
    comment: str = "",
    parameters: Sequence[int] | NDArray[np.int32] = (),
    user_data: bytes = b"",
) -> None:
    """Write an EM file of a PC; compressed where the name ends in .gz.

    Parameters
    ----------
    data
        Shape (z, y, x), or fewer axes, of a type that EM files know; others are written as float32.
    voxel_size_angstrom
        Written into the comment.
    comment
        Without a voxel size, up to 80 characters, latin-1.
    parameters, user_data
        Up to 40 numbers and 256 bytes of the header; what is missing is 0.

    Raises
    ------
    ValueError
        If an array has more than three axes or none, or the header has no room for the rest.
    FormatError
        If the file cannot be written; an older file of that name is then untouched.
    """
    array = np.asarray(data)
    if not 1 <= array.ndim <= 3 or array.size == 0:
        raise ValueError(f"data must have one to three axes and hold something, got shape {array.shape}")
    codes = {text: code for code, text in DATA_TYPES.items()}
    code = codes.get(array.dtype.str[1:], codes["f4"])
    edges = (*array.shape[::-1], 1, 1)[:3]
    if voxel_size_angstrom is not None:
        comment = f"voxel size {voxel_size_angstrom:.9g} angstrom"
    text, numbers = comment.encode("latin-1", "replace"), np.zeros(PARAMETERS, dtype="<i4")
    if len(text) > COMMENT_BYTES or len(parameters) > PARAMETERS or len(user_data) > USER_BYTES:
        raise ValueError(
            f"an EM header holds {COMMENT_BYTES} characters of comment, {PARAMETERS} parameters and {USER_BYTES} bytes,"
            f" got {len(text)}, {len(parameters)} and {len(user_data)}"
        )
    numbers[: len(parameters)] = parameters
    head = bytes([PC, 0, 0, code]) + np.array(edges, dtype="<i4").tobytes() + text.ljust(COMMENT_BYTES, b"\0")
    body = array.astype("<" + DATA_TYPES[code], order="C")
    opened_new = gzip.open if Path(path).suffix == ".gz" else open
    with replacing(path) as temporary, opened_new(temporary, "wb") as stream:
        stream.write(head + numbers.tobytes() + user_data.ljust(USER_BYTES, b"\0"))
        stream.write(body.tobytes())


def _header(path: Path, stream: BufferedIOBase) -> bytes:
    header = stream.read(HEADER_BYTES)
    if not is_em(header):
        raise FormatError(path, "is no EM file: its header names no known machine, type and size", "give another")
    if len(header) < HEADER_BYTES:
        raise FormatError(path, f"is truncated: {len(header)} of {HEADER_BYTES} bytes of header", BROKEN)
    return header


def _dtype(header: bytes) -> np.dtype:
    return np.dtype(BYTE_ORDERS[header[0]] + DATA_TYPES[header[3]])


def _comment(header: bytes) -> str:
    return header[16 : 16 + COMMENT_BYTES].split(b"\0")[0].decode("latin-1").strip()


def _voxel_size(comment: str) -> float:
    found = VOXEL_SIZE.search(comment)
    return float_or(found[1], 0.0) if found else 0.0


def _edges(header: bytes) -> tuple[int, int, int]:
    x, y, z = np.frombuffer(header, dtype=BYTE_ORDERS[header[0]] + "i4", count=3, offset=4)
    return int(x), int(y), int(z)


def _native(array: NDArray) -> NDArray:
    return array.astype(array.dtype.newbyteorder("="))
