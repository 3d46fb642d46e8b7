"""Lists that are one table of columns: how such a table becomes a ``ParticleTable`` and back.

Owns what Dynamo, STOPGAP, AV3, PEET and plain tables share. A ``Layout`` states which columns a format has and what
its angles mean; the rest of its columns is kept as ``FAMILY_COLUMN``. With the format's Euler angles (a, b, c),

    R = R_3(c) R_2(b) R_1(a)      about fixed axes, for axes written in lower case as SciPy does, or its inverse
    position = coordinate + shift,      coordinate of the first voxel = ``first``
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import LARGEST_WHOLE, Block
from gonio.io.errors import FormatError, printable, reading, replacing
from gonio.io.source import IMAGE_COLUMNS, TILT_COLUMNS, ReadOptions
from gonio.io.subtomograms import ListSource
from gonio.io.text import check_writable, number_text, numbers_or_text, own_label, own_name, plain_floats, token
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.texts import Texts, are_distinct, packed

# Angles and lengths closer than this are those of the file, which then keeps its text: above the rounding of float64
# through two conversions, below six decimals.
SAME = 1e-7
CLASSES = (-(2**31), 2**31 - 1)
# A line of a table map ends its name; at its ends no blank is part of it.
UNWRITABLE_NAME = re.compile(r"[\n\r\0\ud800-\udfff]|^\s|\s$|^$")


@dataclass(frozen=True)
class Layout:
    """The columns of a format. Those it does not have are None or empty.

    Parameters
    ----------
    family
        Prefix of its columns in other formats.
    names, tomograms, half_sets, classes, scores
        Labels of these columns.
    coordinates, shifts, angles
        Labels of three columns each; angles in the order in which they are applied.
    axes
        Axes of the angles, as in SciPy: lower case for fixed axes, upper case for axes that rotate along.
    inverted
        Whether the angles rotate the particle onto the reference.
    first
        The coordinate of the first voxel.
    halves
        Words for half sets 0, 1 and 2.
    numbered
        Whether particles and tomograms have numbers in place of names.
    strict_halves
        Whether other words are errors; else they stand for half set 0.
    """

    family: str
    names: str
    coordinates: tuple[str, ...]
    shifts: tuple[str, ...]
    angles: tuple[str, ...]
    axes: str
    inverted: bool = False
    first: float = 1.0
    tomograms: str | None = None
    half_sets: str | None = None
    classes: str | None = None
    scores: str | None = None
    halves: tuple[str, str, str] = ("0", "1", "2")
    numbered: bool = True
    strict_halves: bool = False

    @property
    def fields(self) -> frozenset[str]:
        """Labels of columns that have a place in the table."""
        single = (self.names, self.tomograms, self.half_sets, self.classes, self.scores)
        labels = (*single, *self.coordinates, *self.shifts, *self.angles)
        return frozenset(label for label in labels if label is not None)

    def label(self, column: str) -> str:
        """Return the label of one of its columns in other formats."""
        return f"{self.family}_{column}" if self.family else column

    def rotations(self, angles_deg: NDArray[np.float64]) -> Rotation:
        """Return R of angles, shape (m, 3)."""
        turned = Rotation.from_euler(self.axes, angles_deg, degrees=True)
        return turned.inv() if self.inverted else turned

    def angles_deg(self, rotations: Rotation) -> NDArray[np.float64]:
        """Return the inverse of ``rotations``, shape (m, 3)."""
        turned = rotations.inv() if self.inverted else rotations
        return turned.as_euler(self.axes, degrees=True, suppress_warnings=True)


# Reading


def table_of(
    block: Block,
    layout: Layout,
    options: ReadOptions,
    *,
    source: ListSource,
    pixel_sizes: NDArray[np.float64] | None = None,
) -> ParticleTable:
    """Return the particles of a table of text.

    Parameters
    ----------
    pixel_sizes
        Sizes that the file states, shape (m,), or None.
    """
    if len(block) == 0:
        raise FormatError(block.path, "lists no particles", "give a list with particles")
    sizes = source.pixel_sizes(pixel_sizes)
    scale = 1.0 if sizes is None else sizes[:, None]
    shifts = _vectors(block, layout.shifts)
    known = _has(block, layout.coordinates)
    return ParticleTable(
        poses=Pose(layout.rotations(_vectors(block, layout.angles)), shifts * scale),
        names=_names(block, layout),
        tomograms=_tomograms(block, layout),
        coordinates_angstrom=(block.vectors(layout.coordinates) - layout.first) * scale if known else None,
        half_sets=_half_sets(block, layout),
        columns=own_columns(block, besides=IMAGE_COLUMNS),
        source=source,
        pixel_sizes_angstrom=sizes,
        classes=None
        if layout.classes is None or layout.classes not in block
        else block.whole(layout.classes, *CLASSES),
        scores=_scores(block, layout.scores),
        images=source.images,
        extras=_extras(block, layout, source),
    )


def _is_own(label: str) -> bool:
    return label.startswith("gonio") and label not in IMAGE_COLUMNS


def _has(block: Block, labels: Sequence[str]) -> bool:
    return bool(labels) and any(label in block for label in labels)


def _vectors(block: Block, labels: Sequence[str]) -> NDArray[np.float64]:
    return block.vectors(labels) if _has(block, labels) else np.zeros((len(block), 3))


def _scores(block: Block, label: str | None) -> NDArray[np.float64] | None:
    """Return scores as numbers, NaN where there is none."""
    if label is None or label not in block:
        return None
    try:
        return plain_floats(block.text(label))
    except ValueError:
        return block.numbers(label)  # raises, and names the row


def _words(block: Block, label: str, *, numbered: bool) -> Sequence[str]:
    if not numbered:
        return block.text(label)
    return Texts(block.whole(label), str)


def _names(block: Block, layout: Layout) -> Sequence[str]:
    names = _words(block, layout.names, numbered=layout.numbered)
    if len(set(names)) < len(names) and layout.numbered and layout.tomograms is not None and layout.tomograms in block:
        # some programs number the particles of each tomogram from 1
        within = tuple(f"{t}/{n}" for t, n in zip(_words(block, layout.tomograms, numbered=True), names, strict=True))
        names = within if len(set(within)) == len(within) else names
    return checked_names(block, layout.names, names)


def checked_names(block: Block, label: str, names: Sequence[str]) -> Sequence[str]:
    """Return names that occur once each: the names, or with a warning the numbers of the rows where one is repeated.

    Rows are distinct whatever their names are; only volumes that are found by such a name need it to be unique
    (``gonio.io.subtomograms.numbered_images``).
    """
    if are_distinct(names):
        return names
    twice = Counter(names).most_common(1)[0][0]
    row = names.index(twice, names.index(twice) + 1)
    where = f"as in row {row + 1}{block.at(row)}"
    warnings.warn(
        f"{block.path}: column {label} holds {printable(twice, 60)!r} more than once, {where}: particles are numbered"
        " by row",
        RuntimeWarning,
        stacklevel=2,
    )
    return tuple(str(row) for row in range(1, len(names) + 1))


def _tomograms(block: Block, layout: Layout) -> Sequence[str]:
    if layout.tomograms is None or layout.tomograms not in block:
        return ("",) * len(block)
    words = _words(block, layout.tomograms, numbered=layout.numbered)
    names = read_documents(block.path) if layout.numbered else {}
    return packed(names.get(word, word) for word in words) if names else words


def _half_sets(block: Block, layout: Layout) -> NDArray[np.int8] | None:
    if layout.half_sets is None or layout.half_sets not in block:
        return None
    values = block.text(layout.half_sets)
    known = {word: half for half, word in enumerate(layout.halves)}
    halves = np.fromiter((known.get(value, -1) for value in values), np.int8, len(values))
    if not layout.strict_halves:
        halves = np.maximum(halves, 0)
    if (halves < 0).any():
        wrong = int(np.argmax(halves < 0))
        problem = f"column {layout.half_sets} holds {values[wrong]!r} in row {wrong + 1}{block.at(wrong)}"
        raise FormatError(block.path, problem, f"use one of {', '.join(map(repr, layout.halves))}")
    return halves


def _extras(block: Block, layout: Layout, shelf: ListSource) -> dict[str, Sequence[str]]:
    free = (label for label in block.columns if label not in layout.fields and not _is_own(label))
    extras: dict[str, Sequence[str]] = {layout.label(label): block.text(label) for label in free}
    if shelf.tilt_ranges_deg is not None:
        tilts = np.nan_to_num(shelf.tilt_ranges_deg, nan=0.0).T
        if np.isfinite(shelf.tilt_ranges_deg).all():
            extras |= {label: Texts(values, number_text) for label, values in zip(TILT_COLUMNS, tilts, strict=True)}
    return extras


# Writing


def block_of(
    table: ParticleTable,
    layout: Layout,
    path: Path,
    *,
    columns: Iterable[str],
    defaults: Mapping[str, str],
) -> Block:
    """Return the table's rows in a format's own columns, all as text.

    Parameters
    ----------
    table
        Table in the pixels and with the coordinates that the format wants.
    columns
        The columns to write, in order.
    defaults
        Values of columns that the table lacks; others get 0.

    Raises
    ------
    FormatError
        If a tomogram has a name that no table map can hold.
    """
    made = _field_columns(table, layout)
    if layout.numbered and layout.tomograms is not None and _have_names(tomogram_numbers(table)):
        check_writable(document_path(path), {"tomogram": table.tomograms}, UNWRITABLE_NAME)
    made |= _kept(table, layout, made)
    count = len(table)
    texts: dict[str, Sequence[str]] = {}
    for label in columns:
        value = made.get(label)
        if value is None:
            value = table.extras.get(layout.label(label), (defaults.get(label, "0"),) * count)
        texts[label] = value
    return Block(path, "", texts)


def _field_columns(table: ParticleTable, layout: Layout) -> dict[str, Sequence[str]]:
    sizes = table.pixel_sizes_angstrom
    scale = 1.0 if sizes is None else sizes[:, None]
    poses = table.tomogram_poses
    made: dict[str, Sequence[str]] = {layout.names: table.names}
    if layout.tomograms is not None:
        made[layout.tomograms] = table.tomograms
    if layout.numbered:
        made[layout.names] = packed(map(str, numbers_of(table.names)))
    if layout.numbered and layout.tomograms is not None:
        numbers = tomogram_numbers(table)
        made[layout.tomograms] = packed(str(numbers[name]) for name in table.tomograms)
    made |= _triples(layout.angles, layout.angles_deg(poses.rotation))
    made |= _triples(layout.shifts, poses.shift_angstrom / scale)
    if table.coordinates_angstrom is not None:
        made |= _triples(layout.coordinates, table.coordinates_angstrom / scale + layout.first)
    for label, values in ((layout.classes, table.classes), (layout.scores, table.scores)):
        if label is not None and values is not None:
            made[label] = Texts(values, number_text)
    if layout.half_sets is not None:
        made[layout.half_sets] = Texts(np.asarray(table.half_sets), layout.halves.__getitem__)
    return made


def _triples(labels: Sequence[str], values: NDArray[np.float64]) -> dict[str, Sequence[str]]:
    return {label: Texts(values[:, i], number_text) for i, label in enumerate(labels)}


def _kept(table: ParticleTable, layout: Layout, made: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the text of the file for angles and lengths that still mean the same: one rotation has many angles."""
    source = table.source
    if not isinstance(source, ListSource) or source.block is None or source.family != layout.family:
        return {}
    old = source.block.take(np.asarray(table.rows))
    kept: dict[str, Sequence[str]] = {}
    if _has(old, layout.angles):
        turns = (layout.rotations(old.vectors(layout.angles)) * table.tomogram_poses.rotation.inv()).magnitude()
        kept |= {label: _where(turns < SAME, old.text(label), made[label]) for label in layout.angles}
    for label in (*layout.shifts, *layout.coordinates, layout.classes, layout.scores):
        if label is not None and label in old and label in made:
            before = np.array(old.text(label), dtype=np.float64)
            same = ~(np.abs(before - np.array(made[label], dtype=np.float64)) >= 10 * SAME)
            kept[label] = _where(same, old.text(label), made[label])
    if layout.numbered:
        words = _words(old, layout.names, numbered=True)
        if all(name.rpartition("/")[2] == word for name, word in zip(table.names, words, strict=True)):
            kept[layout.names] = old.text(layout.names)
    if layout.half_sets is not None and layout.half_sets in old:
        words, new = old.text(layout.half_sets), made[layout.half_sets]
        meant = (word if word in layout.halves else layout.halves[0] for word in words)
        kept[layout.half_sets] = _where(map(str.__eq__, meant, new), words, new)
    return kept


def shown(layout: Layout, table: ParticleTable) -> dict[str, Sequence[str]]:
    """Return positions, shifts and angles as the format has them."""
    made = _field_columns(table, layout)
    made |= _kept(table, layout, made)
    return {label: made[label] for label in (*layout.coordinates, *layout.shifts, *layout.angles) if label in made}


def _where(same: Iterable[bool], old: Sequence[str], new: Sequence[str]) -> Sequence[str]:
    return packed(a if keep else b for keep, a, b in zip(same, old, new, strict=True))


def own_columns(block: Block, *, besides: Sequence[str] = ()) -> dict[str, NDArray]:
    """Return the columns that gonio wrote, besides some, as numbers where all are, else as text."""
    own = [label for label in block.columns if label.startswith("gonio") and label not in besides]
    return {own_name(label): numbers_or_text(block.text(label)) for label in own}


def own_texts(table: ParticleTable) -> dict[str, Sequence[str]]:
    """Return gonio's own columns as text, for formats that hold any column."""
    return {own_label(name): packed(map(token, column)) for name, column in table.columns.items()}


# Numbers for names


# Of a whole number that a double may not hold.
DIGITS = len(str(LARGEST_WHOLE)) + 1


def numbers_of(names: Sequence[str]) -> list[int]:
    """Return the names as numbers where all are, each once; else 1, 2, ..."""
    if all(name.isascii() and name.isdigit() for name in names):
        numbers = [int(name[:DIGITS]) for name in names]
        if (
            len(set(numbers)) == len(numbers)
            and min(numbers, default=1) > 0
            and max(map(len, names), default=0) < DIGITS
        ):
            return numbers
    return list(range(1, len(names) + 1))


def tomogram_numbers(table: ParticleTable) -> dict[str, int]:
    """Return a number for each tomogram: its name where all names are numbers, else by order of appearance."""
    names = list(dict.fromkeys(table.tomograms))
    short = all(name.isascii() and name.isdigit() and len(name) < DIGITS for name in names)
    if short and len({int(name) for name in names}) == len(names):
        return {name: int(name) for name in names}
    return {name: number for number, name in enumerate(names, start=1)}


def document_path(path: Path) -> Path:
    """Return the path of the table map beside a numbered list, as Dynamo writes it: ``NUMBER NAME`` in each line."""
    return path.with_name(path.name + ".doc")


def read_documents(path: Path) -> dict[str, str]:
    """Read names of tomograms by number from the table map beside a list: LIST.tbl.doc, or Dynamo's own crop.doc.

    The result is empty where there is no such file.
    """
    document = document_path(path)
    if document.is_file():
        pairs = _pairs(document)
        wrong = next((row for row, pair in enumerate(pairs, 1) if len(pair) != 2 or not _is_number(pair[0])), None)
        if wrong is not None:
            problem = f"line {wrong} is not a number and the name of a tomogram"
            raise FormatError(document, problem, "correct or remove it")
        return _by_number(document, pairs)
    document = path.with_suffix(".doc")
    if not document.is_file():
        return {}
    try:
        pairs = _pairs(document)
    except FormatError:  # a document of another kind with the same name
        return {}
    known = all(len(pair) == 2 and _is_number(pair[0]) for pair in pairs)
    return _by_number(document, pairs) if known else {}


def _by_number(document: Path, pairs: Sequence[Sequence[str]]) -> dict[str, str]:
    names = {str(int(number)): name.strip() for number, name in pairs if len(number) <= DIGITS}
    if len(names) < len(pairs):
        raise FormatError(document, "names a number twice, or one that is too large", "correct or remove it")
    return names


def _is_number(word: str) -> bool:
    return word.isascii() and word.isdigit()


def _pairs(document: Path) -> list[list[str]]:
    with reading(document, "correct or remove it"):
        text = document.read_text(encoding="utf-8-sig")
    return [line.split(maxsplit=1) for line in text.split("\n") if line.strip()]


def _have_names(numbers: Mapping[str, int]) -> bool:
    return not all(name in ("", str(number)) for name, number in numbers.items())


def numbered_files(path: Path, table: ParticleTable) -> list[Path]:
    """Return the files that a numbered list is written into."""
    return [path, *([document_path(path)] if _have_names(tomogram_numbers(table)) else [])]


def write_documents(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write the table map of a list where names are not numbers, and return its path, if any."""
    numbers = tomogram_numbers(table)
    if not _have_names(numbers):
        return ()
    document = document_path(path)
    with replacing(document) as temporary:
        temporary.write_text("".join(f"{number} {name}\n" for name, number in numbers.items()), encoding="utf-8")
    return (document,)
