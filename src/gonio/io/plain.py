"""Plain tables, CSV and Parquet, in gonio's own words: for people, spreadsheets and data frames.

Columns, of which ``name`` alone must be there; lengths are angstrom, or pixels (``x_px``, ``shift_x_px``) where the
pixel size is not known:

    name, tomogram                                        text
    x_angstrom, y_angstrom, z_angstrom, from              position of the box's centre, from the tomogram's first voxel
                                                          (corner) or from its centre (centre)
    shift_x_angstrom, shift_y_angstrom, shift_z_angstrom  t; the particle is at position + t
    rot_a_deg, rot_b_deg, rot_c_deg                       R = Rz(a) Ry(b) Rz(c), x_tomogram = R x_reference + t
    pixel_size_angstrom, half_set, class, score, image

and every other column that a list had, by its label.
"""

from __future__ import annotations

import csv
import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, reading, replacing
from gonio.io.paths import folder_of, moved, moved_columns
from gonio.io.source import TILT_COLUMNS, ReadOptions
from gonio.io.star_columns import Layout, block_of, own_texts, table_of
from gonio.io.subtomograms import ListSource
from gonio.io.text import check_writable, is_number
from gonio.particle.table import ParticleTable
from gonio.particle.texts import ROWS_AT_A_TIME, Packer, Texts

AXES = ("x", "y", "z")
LAYOUT = Layout(
    family="",
    names="name",
    coordinates=tuple(f"{axis}_px" for axis in AXES),
    shifts=tuple(f"shift_{axis}_px" for axis in AXES),
    angles=("rot_a_deg", "rot_b_deg", "rot_c_deg"),
    axes="ZYZ",
    first=0.0,
    tomograms="tomogram",
    half_sets="half_set",
    classes="class",
    scores="score",
    numbered=False,
    strict_halves=True,
)
LENGTHS = (*LAYOUT.coordinates, *LAYOUT.shifts)
SIZE, FROM, IMAGE = "pixel_size_angstrom", "from", "image"
EXTRA = "pip install 'gonio[parquet]'"
# Carriage returns come back as other line breaks; the rest is no text, and Parquet holds all of it but half characters.
NOT_IN_CSV = re.compile(r"[\r\0\ud800-\udfff]")
NOT_IN_PARQUET = re.compile(r"[\ud800-\udfff]")
# Cells of a Parquet table beyond those that its bytes may hold: a few bytes can stand for any number of rows.
ROWS_OF_A_GROUP = 2**16
FREE_CELLS, CELLS_PER_BYTE = 2_000_000, 2
# How a cell begins that a spreadsheet takes for a formula, or that such an apostrophe was put before.
FORMULA = re.compile(r"'*[=+\-@\t]")


def as_cell(text: str) -> str:
    """Return text for a CSV that a spreadsheet opens: after an apostrophe, where it would be taken for a formula."""
    return f"'{text}" if FORMULA.match(text) and not is_number(text) else text


def _of_cell(text: str) -> str:
    return text[1:] if text.startswith("'") and FORMULA.match(text) else text


def is_plain(start: str) -> bool:
    """Return whether the first line of a file is the head of a plain table."""
    words = start.lstrip("\ufeff").splitlines()[:1]
    return bool(words) and "name" in [word.strip().strip('"') for word in words[0].split(",")] and "," in words[0]


def read_csv(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a plain CSV table."""
    lines = array("q")
    with reading(path, "give a plain table"), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        head = [_of_cell(word.strip()) for word in next(reader, [])]
        packers = [Packer() for _ in head]
        while rows := list(islice(_rows(path, reader, len(head), lines), ROWS_AT_A_TIME)):
            for packer, values in zip(packers, zip(*rows, strict=True), strict=True):
                packer.add(values)
    if not head:
        raise FormatError(path, "is empty", "write the file again")
    if len(set(head)) != len(head):
        raise FormatError(path, "names a column twice in line 1", "rename one of them")
    columns = {label: packer.column() for label, packer in zip(head, packers, strict=True)}
    return _table(Block(path, "", columns, lines=lines, is_star=False), options, "csv")


def _rows(path: Path, reader: Any, width: int, lines: array[int]) -> Iterator[list[str]]:
    for words in reader:
        if not words:
            continue
        if len(words) != width:
            problem = f"line {reader.line_num} has {len(words)} values, the head names {width} columns"
            raise FormatError(path, problem, "correct that line, or write the file again")
        lines.append(reader.line_num)
        yield list(map(_of_cell, words))


def read_parquet(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a plain Parquet table; numbers may be numbers or text."""
    parquet = _pyarrow(path)
    with reading(path, "give a Parquet table as gonio writes it"):
        try:
            _check_size(path, parquet.read_metadata(path))
        except NotImplementedError as error:  # pyarrow's, of schemas that are none
            raise ValueError(str(error)) from error
        with parquet.ParquetFile(path) as file:
            packers = {label: Packer() for label in file.schema_arrow.names}
            for batch in file.iter_batches(ROWS_AT_A_TIME):
                for label, packer in packers.items():
                    packer.add(["" if v is None else str(v) for v in batch.column(label).to_pylist()])
        columns = {label: packer.column() for label, packer in packers.items()}
    return _table(Block(path, "", columns, is_star=False), options, "parquet")


def write_csv(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a plain CSV table."""
    columns = _columns(path, table)
    check_writable(path, _words(table, columns), NOT_IN_CSV)
    return _written(path, columns)


def write_rows(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write the rows of a table that was read from a plain CSV table as they stand there, poses included."""
    source = table.source
    assert isinstance(source, ListSource) and source.text is not None  # it was read from one
    rows = source.text.take(np.asarray(table.rows))
    names = {LAYOUT.names: table.names}
    return _written(path, rows.with_columns(moved_columns(rows.columns, folder_of(table), path.parent) | names).columns)


def _written(path: Path, columns: Mapping[str, Sequence[str]]) -> tuple[Path, ...]:
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(as_cell, columns))
        writer.writerows(map(as_cell, row) for row in zip(*columns.values(), strict=True))
    return (path,)


def write_parquet(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a plain Parquet table: numbers as numbers in gonio's own columns, all others as the text that they were."""
    parquet = _pyarrow(path)
    import pyarrow

    columns = _columns(path, table)
    words = _words(table, columns)
    check_writable(path, words, NOT_IN_PARQUET)
    kinds = dict.fromkeys((LAYOUT.half_sets, LAYOUT.classes), np.int64)
    numbers = {label: kinds.get(label, np.float64) for label in columns if label not in words}
    texts = dict.fromkeys(words.keys() & columns, pyarrow.string())
    schema = pyarrow.schema([(k, texts.get(k) or pyarrow.from_numpy_dtype(numbers[k])) for k in columns])
    with replacing(path) as temporary, parquet.ParquetWriter(temporary, schema) as writer:
        for at in range(0, len(table), ROWS_OF_A_GROUP):
            pieces = {label: list(values[at : at + ROWS_OF_A_GROUP]) for label, values in columns.items()}
            arrays = {k: np.array(v, dtype=numbers[k]) if k in numbers else v for k, v in pieces.items()}
            writer.write_table(pyarrow.table(arrays, schema))
    return (path,)


def _words(table: ParticleTable, columns: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    """Return the columns of a table that may hold any text, and their labels."""
    labels = {LAYOUT.names, LAYOUT.tomograms, FROM, IMAGE, *table.extras, *own_texts(table)}
    return {"column": tuple(columns), **{label: values for label, values in columns.items() if label in labels}}


def _check_size(path: Path, facts: object) -> None:
    rows, columns = facts.num_rows, facts.num_columns  # type: ignore[attr-defined]
    if rows * columns > FREE_CELLS + CELLS_PER_BYTE * path.stat().st_size:
        problem = f"states {rows} rows of {columns} columns, more than so small a file can hold"
        raise FormatError(path, problem, "write it again, or as CSV")


def _table(block: Block, options: ReadOptions, format: str) -> ParticleTable:
    sizes = block.positive(SIZE) if SIZE in block and len(block) else None
    in_angstrom = sizes is None and any(_stated(label) in block for label in LENGTHS)
    if in_angstrom:  # which needs no pixel size: any does until the lengths are angstrom again
        given = options.pixel_size_angstrom or options.voxel_size_angstrom
        mixed = next((label for label in LENGTHS if label in block), None)
        if mixed is not None and given is None:
            problem = f"has angstrom beside pixels ({mixed}) and no column {SIZE}"
            raise FormatError(block.path, problem, "add the column, or pass --pixel-size ANGSTROM")
        sizes = np.full(len(block), given or 1.0)
    text, block = block, _in_pixels(block, sizes)
    images = block.text(IMAGE) if IMAGE in block and any(block.text(IMAGE)) else None
    tilts = None
    if all(label in block for label in TILT_COLUMNS):
        tilts = block.vectors(TILT_COLUMNS)
    start = set(block.text(FROM)) if FROM in block else {"corner"}
    if not start <= {"corner", "centre"} or len(start) != 1:
        raise FormatError(block.path, f"column {FROM} holds {sorted(start)}", "use corner or centre, for all rows")
    path = block.path
    own = block.without([SIZE, FROM, IMAGE])
    source = ListSource(path, format, options, block.text("name"), images, tilts, own, text=text)
    table = table_of(own, LAYOUT, options, source=source, pixel_sizes=sizes)
    if in_angstrom and not given:
        table = replace(table, pixel_sizes_angstrom=None, lengths="angstrom")
    return replace(table, coordinates_from="centre" if start == {"centre"} else "corner")


def _stated(label: str) -> str:
    """Return the label of a column of pixels when it holds angstrom."""
    return label.replace("_px", "_angstrom")


def _in_pixels(block: Block, sizes: NDArray[np.float64] | None) -> Block:
    """Return the block with lengths in angstrom as lengths in pixels, which is what the layout has."""
    for label in LENGTHS:
        stated = _stated(label)
        if stated not in block or sizes is None:
            continue
        numbers = block.numbers(stated) / sizes
        block = block.with_columns({label: Texts(numbers, repr)}).without([stated])
    return block


def _columns(path: Path, table: ParticleTable) -> dict[str, Sequence[str]]:
    labels = [
        *(LAYOUT.names, "tomogram"),
        *(() if table.coordinates_angstrom is None else LAYOUT.coordinates),
        *(*LAYOUT.shifts, *LAYOUT.angles),
        *(["half_set"] if np.any(table.half_sets) else []),
        *(["class"] if table.classes is not None else []),
        *(["score"] if table.scores is not None else []),
    ]
    lengths = [label for label in labels if label.endswith("_px") and table.lengths == "angstrom"]
    others = [label for label in labels if label not in lengths]
    texts = block_of(table, LAYOUT, path, columns=others, defaults={}).columns
    columns = {_stated(k) if k in lengths else k: _angstrom(table, k) if k in lengths else texts[k] for k in labels}
    if table.coordinates_angstrom is not None:
        columns[FROM] = (table.coordinates_from,) * len(table)
    if table.pixel_sizes_angstrom is not None:
        columns[SIZE] = Texts(table.pixel_sizes_angstrom, "{:.9g}".format)
    if table.images is not None:
        columns[IMAGE] = moved(table.images, folder_of(table), path.parent)
    return {**columns, **table.extras, **own_texts(table)}


def shown(table: ParticleTable) -> dict[str, Sequence[str]]:
    """Return positions, shifts and angles as the table has them."""
    columns = _columns(Path(), table)
    return {label: values for label, values in columns.items() if label.endswith(("_px", "_angstrom", "_deg"))}


def _angstrom(table: ParticleTable, label: str) -> Texts:
    axis = AXES.index(label.removeprefix("shift_")[0])
    values = table.tomogram_poses.shift_angstrom if label.startswith("shift_") else table.coordinates_angstrom
    assert values is not None
    return Texts(np.round(values[:, axis], 6) + 0.0, "{:.6f}".format)


def _pyarrow(path: Path):  # type: ignore[no-untyped-def]
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise FormatError(path, "is a Parquet table, which needs pyarrow", EXTRA) from error
    return pyarrow.parquet
