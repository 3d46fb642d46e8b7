"""PEET's motive lists (CSV) and IMOD's models (.mod), which hold the points that such lists belong to.

With EulerZ(1), EulerX(2), EulerZ(3), which rotate the reference onto the particle in that order about fixed axes, and
offsets in pixels from the model's point:

    R = Rz(EulerZ(3)) Rx(EulerX(2)) Rz(EulerZ(1))          position = point + (xOffset, yOffset, zOffset)
    from RELION's angles: (Z1, X2, Z3) = (-90 - rot, -tilt, 90 - psi)

PEET's motive lists descend from AV3's. In an IMOD model the centre of the first voxel is at (0.5, 0.5, 0) (IMOD,
imodmat's notes on coordinates). A list names no tomogram: with its model it is one tomogram's, named as the file is.
Models are written by imodmodel, and read here: it believes every size that a file states.
"""

from __future__ import annotations

import csv
import struct
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, reading, replacing
from gonio.io.source import ReadOptions
from gonio.io.star_columns import Layout, block_of, table_of
from gonio.io.subtomograms import ListSource
from gonio.io.text import is_number, number_text
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

COLUMNS = (
    *("CCC", "reserved", "reserved2", "pIndex", "wedgeWT", "adjCCC", "NA", "NA2", "NA3", "NA4", "xOffset", "yOffset"),
    *("zOffset", "NA5", "NA6", "oldClass", "EulerZ(1)", "EulerZ(3)", "EulerX(2)", "class"),
)
HEAD = "CCC,reserved,reserved,pIndex,wedgeWT,adjCCC,NA,NA,NA,NA,xOffset,yOffset,zOffset,NA,NA,oldClass"
HEAD += ",EulerZ(1),EulerZ(3),EulerX(2),class,CREATED WITH gonio"
POINTS = ("point_x", "point_y", "point_z")
LAYOUT = Layout(
    family="peet",
    names="pIndex",
    coordinates=POINTS,
    shifts=("xOffset", "yOffset", "zOffset"),
    angles=("EulerZ(1)", "EulerX(2)", "EulerZ(3)"),
    axes="zxz",
    first=0.0,
    classes="class",
    scores="CCC",
)
FIRST_VOXEL = np.array([0.5, 0.5, 0.0])
EXTRA = "pip install 'gonio[imod]'"
LONGEST_NAME = 240  # bytes; file systems take 255, and a file has another name while it is written
# IMOD's binary specification (bio3d.colorado.edu/imod/doc/binspec.html): after the header pieces of four letters each;
# these have a size of their own, all others state it in the next four bytes.
MODEL_HEADER, OBJECT, CONTOUR, MESH = 240, 176, ">iIii", ">iiIhh"
END = b"IEOF"


def is_peet(start: str) -> bool:
    """Return whether the first line of a file is the head of a PEET motive list, of any version, or its first row."""
    words = [word.strip() for word in start.lstrip("\ufeff").lstrip().partition("\n")[0].split(",")]
    if words[0] == "CCC":
        return len(words) >= len(COLUMNS) and "pIndex" in words  # its angles were called phi, psi, theta once
    return len(words) == len(COLUMNS) and all(map(is_number, words))


def read_peet(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a motive list, and the points of NAME.mod beside it (without _MOTL in the name, too) where there is one."""
    block = _read_rows(path)
    places = (path.with_suffix(".mod"), path.with_name(_stem(path) + ".mod"))
    model = next((place for place in places if place.is_file()), None)
    if model is not None:
        points = _points(model)
        if len(points) != len(block):
            problem = f"has {len(block)} particles, its model {model} has {len(points)} points"
            raise FormatError(path, problem, "put the model that belongs to the list beside it")
        block = block.with_columns({label: map(repr, points[:, i].tolist()) for i, label in enumerate(POINTS)})
    others = () if model is None else (model,)
    source = ListSource(path, "peet", options, block.text("pIndex"), None, None, block, others)
    table = table_of(block, LAYOUT, options, source=source)
    return replace(table, tomograms=(_stem(path),) * len(table))


def write_peet(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a motive list, and where positions are known its model NAME.mod; one of each for every tomogram.

    With several tomograms files are called NAME_TOMOGRAM.csv.
    """
    written: list[Path] = []
    for name, part_path in _parts(path, table).items():
        part = table[[i for i, tomogram in enumerate(table.tomograms) if tomogram == name]]
        written += _write_one(part_path, part)
    return tuple(written)


def read_model(path: Path, options: ReadOptions) -> ParticleTable:
    """Read the points of an IMOD model: positions without angles."""
    points = _points(path)
    if len(points) == 0:
        raise FormatError(path, "has no points", "give a model with points")
    names = tuple(map(str, range(1, len(points) + 1)))
    source = ListSource(path, "imod", options, names)
    sizes = source.pixel_sizes(None)
    return ParticleTable(
        poses=Pose.identity(len(points)),
        names=names,
        tomograms=(_stem(path),) * len(points),
        coordinates_angstrom=points * (1.0 if sizes is None else sizes[:, None]),
        source=source,
        pixel_sizes_angstrom=sizes,
    )


def write_model(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write positions, shifts included, as the points of an IMOD model; one for every tomogram."""
    if table.coordinates_angstrom is None:
        raise FormatError(path, "cannot be written: the list has no coordinates", "give a list that has them")
    points = _model_points(table)
    parts = _parts(path, table)
    for name, target in parts.items():
        _write_points(target, points[[tomogram == name for tomogram in table.tomograms]])
    return tuple(parts.values())


def _write_one(path: Path, table: ParticleTable) -> Iterator[Path]:
    block = block_of(table, LAYOUT, path, columns=COLUMNS, defaults={"wedgeWT": "0"})
    if LAYOUT.label("adjCCC") not in table.extras:  # PEET ranks particles by it
        block = block.with_columns({"adjCCC": block.text("CCC")})
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(HEAD + "\n")
        stream.writelines(",".join(row) + "\n" for row in zip(*block.columns.values(), strict=True))
    yield path
    if table.coordinates_angstrom is not None:
        sizes = table.pixel_sizes_angstrom
        model = path.with_suffix(".mod")
        _write_points(model, table.coordinates_angstrom / (1.0 if sizes is None else sizes[:, None]))
        yield model


def model_files(path: Path, table: ParticleTable) -> list[Path]:
    """Return the files that models are written into."""
    return list(_parts(path, table).values())


def list_files(path: Path, table: ParticleTable) -> list[Path]:
    """Return the files that motive lists and their models are written into."""
    lists = model_files(path, table)
    return [*lists, *(part.with_suffix(".mod") for part in lists if table.coordinates_angstrom is not None)]


def shown_points(table: ParticleTable) -> dict[str, Sequence[str]]:
    """Return positions as a model has them."""
    points = _model_points(table) + FIRST_VOXEL
    return {axis: list(map(number_text, points[:, i].tolist())) for i, axis in enumerate("xyz")}


def _model_points(table: ParticleTable) -> NDArray[np.float64]:
    assert table.coordinates_angstrom is not None
    sizes = table.pixel_sizes_angstrom
    points = table.coordinates_angstrom + table.tomogram_poses.shift_angstrom
    return points / (1.0 if sizes is None else sizes[:, None])


def _parts(path: Path, table: ParticleTable) -> dict[str, Path]:
    """Return the file of each tomogram: the list, or NAME_TOMOGRAM with what no file should be called as ``_``."""
    names = list(dict.fromkeys(table.tomograms))
    if len(names) == 1:
        return {names[0]: path}
    parts: dict[str, Path] = {}
    seen: dict[str, str] = {}
    for name in names:
        clean = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
        part = path.with_name(f"{path.stem}_{clean}{path.suffix}")
        other = seen.setdefault(unicodedata.normalize("NFC", part.name).casefold(), name)
        if other != name:
            row = table.tomograms.index(name) + 1
            problem = f"tomograms {other!r} and {name!r} (row {row}) would both become {part.name}"
            raise FormatError(path, problem, "rename one of them")
        if len(part.name.encode()) > LONGEST_NAME:
            row = table.tomograms.index(name) + 1
            raise FormatError(path, f"tomogram {name!r} (row {row}) is too long for the name of a file", "rename it")
        parts[name] = part
    return parts


def _read_rows(path: Path) -> Block:
    rows: list[list[str]] = []
    lines: list[int] = []
    with reading(path, "give a PEET motive list"), path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream)
        for words in reader:
            if not words or words[0].strip() == "CCC":
                continue
            if len(words) < len(COLUMNS):
                problem = f"line {reader.line_num} ends early: {len(words)} of {len(COLUMNS)} values"
                raise FormatError(path, problem, "correct that line, or write the file again")
            rows.append([word.strip() for word in words[: len(COLUMNS)]])
            lines.append(reader.line_num)
    if not rows:
        raise FormatError(path, "lists no particles", "give a list with particles")
    return Block(path, "", dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)), lines=lines, is_star=False)


def _stem(path: Path) -> str:
    return path.stem.removesuffix("_MOTL").removesuffix(".MOTL").removesuffix("_initMOTL")


def _points(path: Path) -> NDArray[np.float64]:
    """Return the points in pixels, the first voxel being 0, shape (m, 3)."""
    with reading(path, "give an IMOD model"):
        content = path.read_bytes()
        if not content:
            raise FormatError(path, "is empty", "write the file again")
        if content[:4] != b"IMOD":
            raise FormatError(path, "is no IMOD model", "give an IMOD model")
        contours = list(_contours(path, content))
    points = np.concatenate([np.zeros((0, 3)), *contours])
    wrong = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if len(wrong):
        raise FormatError(path, f"point {wrong[0] + 1} is at {points[wrong[0]].tolist()}", "correct or remove it")
    return points - FIRST_VOXEL


def _contours(path: Path, content: bytes) -> Iterator[NDArray[np.float64]]:
    """Yield the points of each contour, in the order of the file, shape (m, 3)."""
    at = MODEL_HEADER
    while (kind := content[at : at + 4]) != END:
        at += 4
        if kind == b"OBJT":
            size = OBJECT
        elif kind == b"CONT":
            (count, *_), start = struct.unpack_from(CONTOUR, content, at), at + struct.calcsize(CONTOUR)
            size = struct.calcsize(CONTOUR) + 12 * count
            if count >= 0 and at + size <= len(content):
                yield np.frombuffer(content, ">f4", 3 * count, start).reshape(-1, 3).astype(np.float64)
        elif kind == b"MESH":
            vertices, indices, *_ = struct.unpack_from(MESH, content, at)
            size = struct.calcsize(MESH) + 12 * vertices + 4 * indices
        else:
            size = 4 + int.from_bytes(content[at : at + 4], "big")
        if size < 0 or at + size > len(content) or len(kind) < 4:
            problem = f"is truncated or broken: its piece {kind!r} at byte {at - 4} goes on after its end"
            raise FormatError(path, problem, "write the file again")
        at += size


def _write_points(path: Path, points: NDArray[np.float64]) -> None:
    try:
        import imodmodel
    except ImportError as error:
        raise FormatError(path, "is an IMOD model, which needs imodmodel", EXTRA) from error
    import pandas

    table = pandas.DataFrame(points + FIRST_VOXEL, columns=["x", "y", "z"]).assign(object_id=0, contour_id=0)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # for every list: imodmodel uses what pydantic has renamed
        imodmodel.write(table, temporary)
