"""The syntax of STAR files: blocks of labelled columns of text.

Owns reading and writing of blocks. Every value stays the text that it was in the file, so that whatever gonio does
not change is written back as it came; numbers are made where they are needed. Knows no label.
"""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.io.errors import FormatError, reading, replacing

__all__ = ["Block", "Star", "read_star", "write_star"]


@dataclass(frozen=True)
class Block:
    """A block of a STAR file: columns of text by label (without the leading underscore), in order.

    A block without ``loop_`` has one row.
    """

    path: Path
    name: str
    columns: Mapping[str, tuple[str, ...]]
    is_loop: bool = True

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, label: str) -> bool:
        return label in self.columns

    def text(self, label: str) -> tuple[str, ...]:
        """A column as it stands in the file.

        Raises
        ------
        FormatError
            If the block has no such column.
        """
        if label not in self.columns:
            raise FormatError(
                self.path, f"block data_{self.name} has no column {label}", "add the column or give another file"
            )
        return self.columns[label]

    def numbers(self, label: str) -> NDArray[np.float64]:
        """A column as finite numbers, shape (rows,).

        Raises
        ------
        FormatError
            If the column is missing or a value is not a finite number.
        """
        return self.vectors([label])[:, 0]

    def vectors(self, labels: Iterable[str]) -> NDArray[np.float64]:
        """Several columns as finite numbers, shape (rows, labels)."""
        return np.stack([self._numbers(label) for label in labels], axis=-1)

    def _numbers(self, label: str) -> NDArray[np.float64]:
        values = self.text(label)
        try:
            numbers = np.array(values, dtype=np.float64)
        except ValueError:
            numbers = np.array([_float(value) for value in values])
        if not np.isfinite(numbers).all():
            row = int(np.flatnonzero(~np.isfinite(numbers))[0])
            raise FormatError(
                self.path,
                f"column {label} of block data_{self.name} holds {values[row]!r} in row {row + 1}, not a number",
                "correct the value",
            )
        return numbers

    def number(self, label: str, row: int) -> float:
        """One value of a column as a finite number, without making numbers of the whole column."""
        value = _float(self.text(label)[row])
        return value if np.isfinite(value) else float(self.numbers(label)[row])  # which raises

    def first(self, label: str) -> str:
        """The first value of a column.

        Raises
        ------
        FormatError
            If the column is missing or the block has no rows.
        """
        values = self.text(label)
        if not values:
            raise FormatError(self.path, f"block data_{self.name} has no rows", "write the file again")
        return values[0]

    def take(self, rows: ArrayLike) -> Block:
        """The chosen rows, in the given order."""
        chosen = np.asarray(rows)
        return replace(self, columns={k: tuple(v[i] for i in chosen) for k, v in self.columns.items()})

    def without(self, labels: Iterable[str]) -> Block:
        """The block without these columns."""
        dropped = set(labels)
        return replace(self, columns={k: v for k, v in self.columns.items() if k not in dropped})

    def with_columns(self, columns: Mapping[str, Iterable[str]]) -> Block:
        """Columns replaced in their place, or added at the end."""
        return replace(self, columns={**self.columns, **{k: tuple(v) for k, v in columns.items()}})


@dataclass(frozen=True)
class Star:
    """A STAR file: its blocks in order, and RELION's version comment where there is one."""

    path: Path
    blocks: tuple[Block, ...]
    version: str | None = None

    def find(self, name: str) -> Block | None:
        """The block of this name, or None."""
        return next((block for block in self.blocks if block.name == name), None)


def read_star(path: str | Path) -> Star:
    """Read all blocks of a STAR file, every value as text.

    Raises
    ------
    FormatError
        Missing, empty, or not a STAR file; a row that is too short or too long; two blocks of one name.
    """
    path = Path(path)
    with reading(path, "give a STAR file as RELION or WarpTools writes it"):
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise FormatError(path, "is empty", "write the file again")
        parsed = _parse(path, labels=sorted(set(re.findall(r"^\s*_(\S+)", text, re.MULTILINE))))
        names = re.findall(r"^\s*data_(\S*)\s*$", text, re.MULTILINE)
    if not parsed:
        raise FormatError(path, "has no STAR data block", "give a STAR file as RELION or WarpTools writes it")
    if len(names) != len(set(names)):
        raise FormatError(path, f"has two blocks of one name among {names}", "rename one of them")
    has_gaps = re.search(r"""(?<!\S)(nan|NaN|<NA>|""|'')(?!\S)""", text) is not None
    blocks = tuple(_block(path, name, content, has_gaps) for name, content in parsed.items())
    version = re.search(r"^# version (\d+)", text, re.MULTILINE)
    return Star(path, blocks, version.group(1) if version else None)


def write_star(path: str | Path, star: Star) -> None:
    """Write a STAR file in one step; an older file of that name stays whole if that fails."""
    head = f"\n# version {star.version}\n" if star.version else ""
    text = "".join(head + "\n" + "\n".join(_lines(block)) + "\n\n" for block in star.blocks)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _parse(path: Path, labels: list[str]) -> dict:
    import starfile  # loads pandas, which `import gonio` must not

    try:
        return starfile.read(path, always_dict=True, parse_as_string=labels)
    finally:
        linecache.clearcache()  # starfile reads through it and, where it fails, would find the old text next time


def _block(path: Path, name: str, content: Any, has_gaps: bool) -> Block:
    if content is None:
        return Block(path, name, {})
    if isinstance(content, dict):
        return Block(path, name, {label: (str(value),) for label, value in content.items()}, is_loop=False)
    # starfile fills up a row that ends early as if "" stood there, and reads the word "nan" as a missing value
    missing = content.isna()
    gaps = (missing | (content == "")).to_numpy()
    if not has_gaps and gaps.any():
        row = int(np.flatnonzero(gaps.any(axis=1))[0])
        raise FormatError(path, f"row {row + 1} of block data_{name} ends early", "write the file again")
    filled = content.astype(object).where(~missing, "nan")
    return Block(path, name, {label: tuple(str(v) for v in filled[label]) for label in filled.columns})


def _lines(block: Block) -> list[str]:
    if not block.is_loop:
        return [f"data_{block.name}", "", *(f"_{label}\t{_quoted(v)}" for label, (v,) in block.columns.items())]
    head = [f"data_{block.name}", ""]
    if block.columns:
        head += ["loop_", *(f"_{label} #{i}" for i, label in enumerate(block.columns, 1))]
    return head + ["\t".join(map(_quoted, row)) for row in zip(*block.columns.values(), strict=True)]


def _quoted(value: str) -> str:
    return value if value and not re.search(r"[\s#]", value) else f'"{value}"'


def _float(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")
