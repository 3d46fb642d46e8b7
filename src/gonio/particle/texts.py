"""Long columns of text in little memory: bytes of one width, or numbers that become text when they are asked for.

A list has millions of rows, and a text takes 50 bytes more as an object than it is long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

ROWS_AT_A_TIME = 4096
# Bytes of one width may be so many times those of the texts, and these in any case.
LOOSE, FREE_BYTES = 2, 2**20
# Pieces that become one: many small ones leave holes in the memory of the process.
TOGETHER = 32
# Texts as short as a reference are packed also where they repeat.
SHORT = 8


class Texts(Sequence[str]):
    """A column of m texts that does not change; it equals a tuple of them.

    Parameters
    ----------
    values
        Bytes in UTF-8, or numbers, shape (m,).
    text
        Makes the text of one.
    """

    __slots__ = ("text", "values")
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, values: NDArray[Any], text: Callable[[Any], str] = bytes.decode) -> None:
        self.values, self.text = values, text

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice | NDArray[Any]) -> Texts: ...

    def __getitem__(self, index: int | slice | NDArray[Any]) -> str | Texts:
        chosen = self.values[index]
        return Texts(chosen, self.text) if isinstance(chosen, np.ndarray) else self.text(chosen.item())

    def __iter__(self) -> Iterator[str]:
        pieces = (self.values[at : at + ROWS_AT_A_TIME].tolist() for at in range(0, len(self), ROWS_AT_A_TIME))
        return map(self.text, chain.from_iterable(pieces))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts | tuple):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if dtype is None or np.dtype(dtype).kind != "f":
            return np.array(tuple(self), dtype=dtype)
        return self.values.astype(dtype) if self.is_packed else np.fromiter(map(float, self), dtype, len(self))

    @property
    def is_packed(self) -> bool:
        """True where its values are bytes, and not numbers."""
        return self.values.dtype.kind == "S"


class Packer:
    """A column that comes piece by piece: packed, or where that would lose or cost something as its texts.

    Equal texts that are long and many are one object.
    """

    def __init__(self) -> None:
        self.pieces: list[NDArray[np.bytes_] | Sequence[str]] = []
        self.seen: dict[str, str] = {}
        self.small = 0

    def add(self, values: Sequence[str]) -> None:
        """Add a piece at the end."""
        words = _bytes(values)
        if (words is None or words.itemsize > SHORT) and len(set(values)) <= len(values) // 4:
            words, values = None, [self.seen.setdefault(value, value) for value in values]
        self.pieces.append(values if words is None else words)
        self.small += 1
        if self.small == TOGETHER:
            self.pieces[-TOGETHER:] = _joined(self.pieces[-TOGETHER:])
            self.small = 0

    def column(self) -> Sequence[str]:
        """Return the whole, once."""
        pieces, self.pieces = _joined(self.pieces), []
        if len(pieces) == 1 and isinstance(pieces[0], np.ndarray):
            return Texts(pieces[0])
        return tuple(chain.from_iterable(Texts(one) if isinstance(one, np.ndarray) else one for one in pieces))


def _joined(pieces: list[NDArray[np.bytes_] | Sequence[str]]) -> list[NDArray[np.bytes_] | Sequence[str]]:
    """Return pieces as one where all are bytes and that takes little more memory."""
    words = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    if len(words) < max(len(pieces), 1):
        return pieces
    cells = max(piece.itemsize for piece in words) * sum(map(len, words))
    return [np.concatenate(words)] if cells <= LOOSE * sum(piece.nbytes for piece in words) + FREE_BYTES else pieces


def packed(values: Iterable[str]) -> Sequence[str]:
    """Return texts as a column in little memory, taking a few at a time."""
    packer, rest = Packer(), iter(values)
    while piece := list(islice(rest, ROWS_AT_A_TIME)):
        packer.add(piece)
    return packer.column()


def _bytes(values: Sequence[str]) -> NDArray[np.bytes_] | None:
    """Return texts as bytes of one width; None where these lose a character, or take far more memory than the texts."""
    together = "".join(values)
    if "\0" in together:
        return None
    try:
        words = np.array(values if together.isascii() else [value.encode() for value in values], dtype=np.bytes_)
    except UnicodeEncodeError:
        return None
    return words if words.nbytes <= LOOSE * (len(together) + SHORT * len(values)) else None


def texts_at(column: Sequence[str], rows: NDArray[np.integer]) -> Sequence[str]:
    """Return the texts of these rows, as the same kind of column."""
    return column[rows] if isinstance(column, Texts) else tuple(column[row] for row in rows.tolist())


def are_distinct(values: Sequence[str]) -> bool:
    """Return whether no text is there twice."""
    hashes = np.fromiter(map(hash, values), np.int64, len(values))
    hashes.sort()
    return bool((hashes[1:] != hashes[:-1]).all()) or len(set(values)) == len(values)


def rows_of(names: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each name, in the order in which names first occur."""
    numbers: dict[str, int] = {}
    each = np.fromiter((numbers.setdefault(name, len(numbers)) for name in names), np.int64, len(names))
    ends = np.cumsum(np.bincount(each, minlength=len(numbers)))
    return dict(zip(numbers, np.split(np.argsort(each, kind="stable"), ends[:-1]), strict=True)) if numbers else {}
