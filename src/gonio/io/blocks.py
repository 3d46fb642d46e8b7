"""The syntax of STAR files: blocks of labelled columns of text.

Owns reading and writing of blocks. Every value stays the text that it was in the file, so that whatever gonio does
not change is written back as it came; numbers are made where they are needed. Knows no label.

It is read here and not by a library because errors name lines, values must stay text, and lists of millions of rows
must not be held several times: a file is read once, line by line.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.io.errors import FormatError, reading, replacing
from gonio.io.text import plain_float, plain_floats
from gonio.particle.texts import ROWS_AT_A_TIME, Packer, Texts, packed, texts_at

LIST_WANTED = "give a STAR file as RELION or WarpTools writes it"
VERSION = re.compile(r"\s*# version (\d+)")
WORD = re.compile(r"\S+")
# A quote ends a value where a blank follows it: elsewhere it is a character as any other.
CLOSING = {quote: re.compile(rf"{quote}(?!\S)") for quote in "\"'"}
RESERVED = ("data_", "loop_", "save_", "stop_", "global_")
# The first is quick, and asks for the second where a word may be reserved.
MAYBE_QUOTE = re.compile(r"[\s#\0\ud800-\udfff]|^[\"'_;dDlLsSgG]|^$")
TO_QUOTE = re.compile(rf"[\s#\0\ud800-\udfff]|^[\"'_;]|^$|^(?:{'|'.join(RESERVED)})", re.IGNORECASE)
# No text of a line: breaks, the character that tells text from bytes, and what is no character at all.
UNWRITABLE = re.compile(r"[\n\r\0\ud800-\udfff]")
UNWRITABLE_LABEL = re.compile(r"[\s\0\ud800-\udfff]")
# Whole numbers are texts and doubles alike up to here.
LARGEST_WHOLE = 10**15 - 1
# Whole numbers that programs keep as single or complex numbers.
ROUNDING = 1e-3


@dataclass(frozen=True)
class Block:
    """A block of a STAR file, or the one table of another: columns of text by label (without underscore), in order.

    A block without ``loop_`` has one row. ``lines`` are the lines of its rows in the file, where it came from one.
    """

    path: Path
    name: str
    columns: Mapping[str, Sequence[str]]
    is_loop: bool = True
    lines: Sequence[int] = field(default=(), compare=False, repr=False)
    is_star: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, label: str) -> bool:
        return label in self.columns

    def text(self, label: str) -> Sequence[str]:
        """Return a column as it stands in the file."""
        if label not in self.columns:
            raise FormatError(self.path, f"{self.called}has no column {label}", "add the column or give another file")
        return self.columns[label]

    def numbers(self, label: str) -> NDArray[np.float64]:
        """Return a column as finite numbers, shape (rows,)."""
        return self.vectors([label])[:, 0]

    def vectors(self, labels: Iterable[str]) -> NDArray[np.float64]:
        """Return several columns as finite numbers, shape (rows, labels)."""
        chosen = list(labels)
        vectors = np.empty((len(self), len(chosen)))
        for i, label in enumerate(chosen):
            vectors[:, i] = self._numbers(label)
        return vectors

    def _numbers(self, label: str) -> NDArray[np.float64]:
        values = self.text(label)
        try:
            numbers = plain_floats(values)
        except ValueError:
            numbers = np.array([_float(value) for value in values])
        return self._checked(label, numbers, np.isfinite(numbers), "not a number")

    def positive(self, label: str) -> NDArray[np.float64]:
        """Return a column of sizes, shape (rows,)."""
        numbers = self.numbers(label)
        return self._checked(label, numbers, numbers > 0, "not a number above 0")

    def whole(self, label: str, lowest: int = -LARGEST_WHOLE, highest: int = LARGEST_WHOLE) -> NDArray[np.int64]:
        """Return a column of whole numbers, shape (rows,)."""
        numbers = self.numbers(label)
        nearest = np.rint(numbers)
        right = (np.abs(numbers - nearest) <= ROUNDING) & (nearest >= lowest) & (nearest <= highest)
        wanted = "not a whole number" + ("" if highest == LARGEST_WHOLE else f" from {lowest} to {highest}")
        return self._checked(label, nearest, right, wanted).astype(np.int64)

    def _checked(
        self, label: str, numbers: NDArray[np.float64], right: NDArray[np.bool_], wanted: str
    ) -> NDArray[np.float64]:
        if not right.all():
            row = int(np.flatnonzero(~right)[0])
            where = f"in row {row + 1}{self.at(row)}"
            problem = f"column {label}{self.of_it} holds {self.columns[label][row]!r} {where}, {wanted}"
            raise FormatError(self.path, problem, "correct the value")
        return numbers

    def number(self, label: str, row: int) -> float:
        """Return one value of a column as a finite number, without making numbers of the whole column."""
        value = _float(self.text(label)[row])
        return value if np.isfinite(value) else float(self.numbers(label)[row])  # which raises

    @property
    def called(self) -> str:
        """Name of the block in errors; empty where it is the whole file."""
        return f"block data_{self.name} " if self.is_star else ""

    @property
    def of_it(self) -> str:
        """Name of the block in errors, after one of its columns; empty where it is the whole file."""
        return f" of block data_{self.name}" if self.is_star else ""

    def at(self, row: int) -> str:
        """Return where a row stands in the file, for errors."""
        return f" (line {self.lines[row]})" if len(self.lines) else ""

    def first(self, label: str) -> str:
        """Return the first value of a column."""
        values = self.text(label)
        if not values:
            raise FormatError(self.path, f"{self.called}has no rows", "write the file again")
        return values[0]

    def take(self, rows: ArrayLike) -> Block:
        """Return the chosen rows, in the given order."""
        chosen = np.asarray(rows)
        chosen = np.arange(len(self))[chosen]
        lines = np.asarray(self.lines)[chosen] if len(self.lines) else ()
        return replace(self, columns={k: texts_at(v, chosen) for k, v in self.columns.items()}, lines=lines)

    def without(self, labels: Iterable[str]) -> Block:
        """Return the block without these columns."""
        dropped = set(labels)
        return replace(self, columns={k: v for k, v in self.columns.items() if k not in dropped})

    def with_columns(self, columns: Mapping[str, Iterable[str]]) -> Block:
        """Return the block with these columns replaced in their place, or added at the end."""
        return replace(
            self,
            columns={
                **self.columns,
                **{k: v if isinstance(v, Texts | tuple) else packed(v) for k, v in columns.items()},
            },
        )


@dataclass(frozen=True)
class Star:
    """A STAR file: its blocks in order, and RELION's version comment where there is one."""

    path: Path
    blocks: tuple[Block, ...]
    version: str | None = None

    def find(self, name: str) -> Block | None:
        """Return the block of this name, or None."""
        return next((block for block in self.blocks if block.name == name), None)


def read_star(path: str | Path) -> Star:
    """Read all blocks of a STAR file, every value as text."""
    path = Path(path)
    parser = _Parser(path)
    with reading(path, LIST_WANTED):
        if path.stat().st_size == 0:
            raise FormatError(path, "is empty", "write the file again")
        with path.open(encoding="utf-8-sig") as stream:  # whatever ends a line, \n, \r\n or \r, ends it here
            for number, line in enumerate(stream, start=1):
                parser.feed(number, line)
        blocks = parser.finish()
    if not blocks:
        raise FormatError(path, "has no STAR data block", LIST_WANTED)
    names = [block.name for block in blocks]
    if len(names) != len(set(names)):
        raise FormatError(path, f"has two blocks of one name among {names}", "rename one of them")
    return Star(path, blocks, parser.version)


def write_star(path: str | Path, star: Star) -> None:
    """Write a STAR file in one step; an older file of that name stays whole if that fails."""
    head = f"\n# version {star.version}\n" if star.version else ""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        for block in star.blocks:
            stream.write(head + "\n")
            stream.writelines(line + "\n" for line in _lines(block))
            stream.write("\n")


class _Parser:
    """A parser of a STAR file, line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.version: str | None = None
        self.blocks: list[Block] = []
        self.open: _Rows | None = None
        self.before: int | None = None

    def feed(self, number: int, line: str) -> None:
        words = _words(line)
        if not words:
            found = VERSION.match(line)
            self.version = self.version or (found[1] if found else None)
        elif len(words) == 1 and words[0].startswith("data_") and not _begins_quoted(line):
            self._close()
            self.open = _Rows(self.path, words[0].removeprefix("data_"))
        elif self.open is not None:
            self.open.feed(number, words, line)
        elif self.before is None:
            self.before = number

    def finish(self) -> tuple[Block, ...]:
        self._close()
        if self.blocks and self.before is not None:
            problem = f"line {self.before} stands before the first block (data_...)"
            raise FormatError(self.path, problem, "correct or remove that line")
        return tuple(self.blocks)

    def _close(self) -> None:
        if self.open is not None:
            self.blocks.append(self.open.block())


class _Rows:
    """The block that is being read."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name, self.is_loop = path, name, False
        self.columns: dict[str, Packer] = {}
        self.lines = array("q")
        self.waiting: list[list[str]] = []

    def feed(self, number: int, words: list[str], line: str) -> None:
        if self.lines and words[0] != "loop_":  # as nearly all lines are
            self._row(number, words)
        elif words[0] == "loop_" and (len(words) == 1 or not self.lines) and not _begins_quoted(line):
            if self.is_loop or self.columns:
                problem = f"line {number} begins a loop_ behind other values in block data_{self.name}"
                raise FormatError(self.path, problem, "give it a block of its own")
            self.is_loop = True
        elif self._is_label(words, line):
            self._label(number, words)
        elif self.is_loop:
            self._row(number, words)
        else:
            problem = f"line {number} of block data_{self.name} is not a label with one value"
            raise FormatError(self.path, problem, "correct that line")

    def block(self) -> Block:
        self._flush()
        columns = {label: packer.column() for label, packer in self.columns.items()}
        return Block(self.path, self.name, columns, is_loop=self.is_loop or not columns, lines=self.lines)

    def _is_label(self, words: list[str], line: str) -> bool:
        if not words[0].startswith("_") or _begins_quoted(line):
            return False
        return self.is_loop or len(words) == 2

    def _label(self, number: int, words: list[str]) -> None:
        label = words[0][1:]
        if label in self.columns:
            problem = f"line {number} names column {label} of block data_{self.name} a second time"
            raise FormatError(self.path, problem, "rename one of them")
        self.columns[label] = Packer()
        if not self.is_loop:
            self.columns[label].add(words[1:])

    def _row(self, number: int, words: list[str]) -> None:
        if len(words) != len(self.columns):
            row = len(self.lines) + 1
            problem = f"row {row} of block data_{self.name} ends early: {len(words)} of {len(self.columns)} values"
            if len(words) > len(self.columns):
                problem = f"row {row} of block data_{self.name} has {len(words)} values for {len(self.columns)} columns"
            raise FormatError(self.path, f"{problem} (line {number})", "correct that line, or write the file again")
        self.lines.append(number)
        self.waiting.append(words)
        if len(self.waiting) == ROWS_AT_A_TIME:
            self._flush()

    def _flush(self) -> None:
        for packer, values in zip(self.columns.values(), zip(*self.waiting, strict=True), strict=False):
            packer.add(values)
        self.waiting = []


def _words(line: str) -> list[str]:
    """Return the values on a line, quotes taken off; a comment starts at a word that starts with #."""
    if "#" not in line and '"' not in line and "'" not in line:
        return line.split()
    words: list[str] = []
    at, open_ended = 0, ""
    while found := WORD.search(line, at):
        first, at = found[0][0], found.end()
        if first == "#":
            break
        closing = None
        if first in CLOSING and first not in open_ended:
            closing = CLOSING[first].search(line, found.start() + 1)
            open_ended += first if closing is None else ""  # no further word need look to the end of the line
        if closing is None:
            words.append(found[0])
        else:
            words.append(line[found.start() + 1 : closing.start()])
            at = closing.end()
    return words


def _begins_quoted(line: str) -> bool:
    return line.lstrip()[:1] in CLOSING


def _lines(block: Block) -> Iterator[str]:
    for name in (block.name, *block.columns):
        if UNWRITABLE_LABEL.search(name):
            raise FormatError(block.path, f"no block or column of a STAR file can be called {name!r}", "rename it")
    yield f"data_{block.name}"
    yield ""
    if not block.is_loop:
        yield from (f"_{label}\t{_quoted(block, 0, value)}" for label, (value,) in block.columns.items())
        return
    if block.columns:
        yield "loop_"
        yield from (f"_{label} #{i}" for i, label in enumerate(block.columns, 1))
    for number, row in enumerate(zip(*block.columns.values(), strict=True)):
        yield "\t".join([_quoted(block, number, value) if MAYBE_QUOTE.search(value) else value for value in row])


def _quoted(block: Block, row: int, value: str) -> str:
    """Return a value as one word, in the quotes that it does not end early."""
    if not TO_QUOTE.search(value):
        return value
    quote = next((quote for quote, closing in CLOSING.items() if not closing.search(value)), None)
    if quote is None or UNWRITABLE.search(value):
        label = next(label for label, values in block.columns.items() if values[row] == value)
        problem = f"column {label}{block.of_it} holds {value!r} in row {row + 1}, which no STAR file can hold"
        raise FormatError(block.path, problem, "rename it, or write another format")
    return f"{quote}{value}{quote}"


def _float(value: str) -> float:
    try:
        return plain_float(value)
    except ValueError:
        return float("nan")
