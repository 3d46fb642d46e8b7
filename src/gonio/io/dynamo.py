"""Dynamo's tables: 26 to 42 columns without a head.

With (tdrot, tilt, narot) in columns 7 to 9, which rotate the particle onto the template, (dx, dy, dz) in 4 to 6 and
(x, y, z) in 24 to 26, both pixels, the first voxel being 1:

    R = Rz(-tdrot) Rx(-tilt) Rz(-narot)          position = (x, y, z) + (dx, dy, dz)
    from RELION's angles: (tdrot, tilt, narot) = (psi - 90, tilt, rot + 90)

Dynamo wiki, Table_convention (the meaning of columns and of ``drot``); RELION src/jaz/math/Euler_angles_dynamo.h. Tilt
ranges: fsampling type 1 is a tilt about y, in columns 14 and 15. Values may be complex, as MATLAB writes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, reading, replacing
from gonio.io.source import ReadOptions, tilts_about_y
from gonio.io.star_columns import Layout, block_of, table_of, write_documents
from gonio.io.subtomograms import ListSource, numbered_images
from gonio.io.text import float_or
from gonio.particle.table import ParticleTable
from gonio.particle.texts import packed

COLUMNS = (
    *("tag", "aligned", "averaged", "dx", "dy", "dz", "tdrot", "tilt", "narot", "cc", "cc2", "cpu", "ftype"),
    *("ymintilt", "ymaxtilt", "xmintilt", "xmaxtilt", "fs1", "fs2", "tomo", "reg", "class", "annotation", "x", "y"),
    *("z", "dshift", "daxis", "dnarot", "dcc", "otag", "npar", "column33", "ref", "sref", "apix", "def", "column38"),
    *("column39", "column40", "eig1", "eig2"),
)
FEWEST = 26
LAYOUT = Layout(
    family="dynamo",
    names="tag",
    coordinates=("x", "y", "z"),
    shifts=("dx", "dy", "dz"),
    angles=("tdrot", "tilt", "narot"),
    axes="zxz",
    inverted=True,
    tomograms="tomo",
    classes="class",
    scores="cc",
)
TILTS = ("ymintilt", "ymaxtilt")
TILT_ABOUT_Y = 1
NUMBERS = (*LAYOUT.fields, *TILTS, "ftype", "apix")
# Complex numbers come of square roots of what should be 0, as 0+1.2e-06i: their imaginary part is rounding.
NUMBER = r"[0-9.]+(?:[eE][-+]?\d+)?"
COMPLEX = re.compile(rf"(?P<real>[-+]?{NUMBER})(?P<imaginary>[-+]{NUMBER})[ij]")
ROUNDING = 1e-3
IMAGE = r"particle_(\d+)"


def is_dynamo(start: str) -> bool:
    """Return whether the first line of a file is a row of a Dynamo table: numbers, 26 to 42 of them."""
    words = next((line.split() for line in start.splitlines() if line.strip()), [])
    return FEWEST <= len(words) <= len(COLUMNS) and all(_is_number(word) for word in words)


def read_dynamo(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a Dynamo table; its particles are ``particle_NUMBER.em`` (or .mrc) in the data folder or beside it."""
    block = _read_table(path)
    tags = block.whole("tag").tolist()
    images = numbered_images(path, options.data_path, tags, IMAGE, beside=(".",))  # crop.tbl lies in its data folder
    source = ListSource(path, "dynamo", options, block.text("tag"), images, _tilt_ranges(block), block)
    sizes = block.positive("apix") if "apix" in block and block.numbers("apix").any() else None
    return table_of(block, LAYOUT, options, source=source, pixel_sizes=sizes)


def write_dynamo(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a table: as wide as the columns it has, with the pixel size in column 36 where it is known.

    Names of tomograms that are not numbers go into the table map LIST.doc beside it.
    """
    known = [i for i, label in enumerate(COLUMNS) if LAYOUT.label(label) in table.extras]
    sizes = table.pixel_sizes_angstrom
    apix = COLUMNS.index("apix")
    width = max([FEWEST, *(i + 1 for i in known)])
    if sizes is not None and not _came_without_size(table):
        width = max(width, apix + 1)
    width = next(usual for usual in (26, 35, 36, 41, 42) if usual >= width)
    block = block_of(table, LAYOUT, path, columns=COLUMNS[:width], defaults={"aligned": "1", "averaged": "1"})
    columns = {**block.columns, **_tilt_columns(table)}
    if sizes is not None and width > apix:
        stated = table.extras.get(LAYOUT.label("apix"), ("0",) * len(table))
        columns["apix"] = packed(
            text if text != "0" and float_or(text, 0.0) == size else f"{size:.9g}"
            for text, size in zip(stated, sizes.tolist(), strict=True)
        )
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.writelines(" ".join(row) + "\n" for row in zip(*columns.values(), strict=True))
    return (path, *write_documents(path, table))


def _read_table(path: Path) -> Block:
    rows: list[list[str]] = []
    lines: list[int] = []
    with reading(path, "give a Dynamo table"), path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, start=1):
            words = line.split()
            if not words:
                continue
            if rows and len(words) != len(rows[0]):
                problem = f"line {number} has {len(words)} values, those above have {len(rows[0])}"
                raise FormatError(path, problem, "correct that line, or write the file again")
            rows.append(words)
            lines.append(number)
    if not rows:
        raise FormatError(path, "is empty", "write the file again")
    if not FEWEST <= len(rows[0]) <= len(COLUMNS):
        problem = f"line {lines[0]} has {len(rows[0])} values; a Dynamo table has {FEWEST} to {len(COLUMNS)}"
        raise FormatError(path, problem, "give a Dynamo table")
    columns = dict(zip(COLUMNS, zip(*rows, strict=True), strict=False))
    for label in NUMBERS:
        if label in columns and any(word[-1:] in "ij" for word in columns[label]):
            columns[label] = tuple(map(_real, columns[label]))
    return Block(path, "", columns, lines=lines, is_star=False)


def _real(word: str) -> str:
    """Return a complex number without its imaginary part where that is nothing but rounding; else the word itself."""
    found = COMPLEX.fullmatch(word)
    return found["real"] if found and abs(float(found["imaginary"])) < ROUNDING else word


def _came_without_size(table: ParticleTable) -> bool:
    """Return whether the list was a table without a pixel size: then it is written as wide as it was."""
    source = table.source
    return isinstance(source, ListSource) and source.family == "dynamo" and source.block is not None


def _tilt_ranges(block: Block) -> NDArray[np.float64]:
    low, high = (block.numbers(label) for label in TILTS)
    single = (block.numbers("ftype") == TILT_ABOUT_Y) & (low < high)
    return np.where(single[:, None], np.stack([low, high, np.full(len(low), 90.0)], axis=-1), np.nan)  # (m, 3)


def _tilt_columns(table: ParticleTable) -> dict[str, Sequence[str]]:
    """Return tilt ranges of other formats, where the axis is y and the table's own columns do not state more."""
    ranges = None if LAYOUT.label("ftype") in table.extras else tilts_about_y(table)
    about_y = (str(TILT_ABOUT_Y),) * len(table)
    return {} if ranges is None else dict(zip(("ftype", *TILTS), (about_y, *ranges), strict=True))


def _is_number(word: str) -> bool:
    if "_" in word:  # which Python alone reads as a number
        return False
    try:
        complex(word.replace("i", "j"))
    except ValueError:
        return False
    return True
