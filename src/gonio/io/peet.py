"""PEET's motive lists (CSV) and IMOD's models (.mod), which hold the points that such lists belong to.

With EulerZ(1), EulerX(2), EulerZ(3), which rotate the reference onto the particle in that order about fixed axes, and
offsets in pixels from the model's point:

    R = Rz(EulerZ(3)) Rx(EulerX(2)) Rz(EulerZ(1))          position = point + (xOffset, yOffset, zOffset)
    from RELION's angles: (Z1, X2, Z3) = (-90 - rot, -tilt, 90 - psi)

PEET's motive lists descend from AV3's. In an IMOD model the centre of the first voxel is at (0.5, 0.5, 0) (IMOD,
imodmat's notes on coordinates). A list names no tomogram: with its model it is one tomogram's, named as the file is.
Models are read and written by imodmodel.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, reading, replacing
from gonio.io.source import ReadOptions
from gonio.io.star_columns import Layout, block_of, table_of
from gonio.io.subtomograms import ListSource
from gonio.io.text import number_text
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

__all__ = [
    "is_peet",
    "list_files",
    "model_files",
    "read_model",
    "read_peet",
    "shown_points",
    "write_model",
    "write_peet",
]

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


def is_peet(start: str) -> bool:
    """Return whether the first line of a file is the head of a PEET motive list, of any version, or its first row."""
    words = [word.strip() for word in start.lstrip("\ufeff").lstrip().partition("\n")[0].split(",")]
    if words[0] == "CCC":
        return len(words) >= len(COLUMNS) and "pIndex" in words  # its angles were called phi, psi, theta once
    return len(words) == len(COLUMNS) and all(map(_is_number, words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_peet(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a motive list, and the points of NAME.mod beside it (without _MOTL in the name, too) where there is one.

    Raises
    ------
    FormatError
        Missing or broken, a value is no number, or the model has another number of points.
    """
    block = _read_rows(path)
    model = _model_beside(path)
    if model is not None:
        points = _points(model)
        if len(points) != len(block):
            problem = f"has {len(block)} particles, its model {model} has {len(points)} points"
            raise FormatError(path, problem, "put the model that belongs to the list beside it")
        block = block.with_columns({label: map(repr, points[:, i].tolist()) for i, label in enumerate(POINTS)})

    def source(_: object) -> ListSource:
        others = () if model is None else (model,)
        return ListSource(path, "peet", options, block.text("pIndex"), None, None, block, others)

    table = table_of(block, LAYOUT, options, source=source)
    return replace(table, tomograms=(_stem(path),) * len(table))


def write_peet(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a motive list, and where positions are known its model NAME.mod; one of each for every tomogram.

    With several tomograms files are called NAME_TOMOGRAM.csv.
    """
    names = list(dict.fromkeys(table.tomograms))
    written: list[Path] = []
    for name in names:
        part = table[[i for i, tomogram in enumerate(table.tomograms) if tomogram == name]]
        written += _write_one(_part_path(path, name, alone=len(names) == 1), part)
    return tuple(written)


def read_model(path: Path, options: ReadOptions) -> ParticleTable:
    """Read the points of an IMOD model: positions without angles.

    Raises
    ------
    FormatError
        If it cannot be read, has no points, or imodmodel is not installed.
    """
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
    names = list(dict.fromkeys(table.tomograms))
    written = []
    for name in names:
        target = _part_path(path, name, alone=len(names) == 1)
        _write_points(target, points[[tomogram == name for tomogram in table.tomograms]])
        written.append(target)
    return tuple(written)


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
    names = list(dict.fromkeys(table.tomograms))
    return [_part_path(path, name, alone=len(names) == 1) for name in names]


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


def _part_path(path: Path, tomogram: str, *, alone: bool) -> Path:
    clean = "".join(c if c.isalnum() or c in "-_." else "_" for c in tomogram)
    return path if alone else path.with_name(f"{path.stem}_{clean}{path.suffix}")


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


def _model_beside(path: Path) -> Path | None:
    places = (path.with_suffix(".mod"), path.with_name(_stem(path) + ".mod"))
    return next((place for place in places if place.is_file()), None)


def _points(path: Path) -> NDArray[np.float64]:
    """Return the points in pixels, the first voxel being 0, shape (m, 3)."""
    imodmodel = _imodmodel(path)
    with reading(path, "give an IMOD model"):
        if path.stat().st_size == 0:
            raise FormatError(path, "is empty", "write the file again")
        try:
            with _quietly():
                table = imodmodel.read(path)
        except Exception as error:
            # it complains about broken files in many ways, struct's and pydantic's own among them
            raise FormatError(path, f"is no IMOD model ({type(error).__name__})", "give an IMOD model") from error
        return table[["x", "y", "z"]].to_numpy(dtype=np.float64) - FIRST_VOXEL


def _write_points(path: Path, points: NDArray[np.float64]) -> None:
    imodmodel = _imodmodel(path)
    import pandas

    table = pandas.DataFrame(points + FIRST_VOXEL, columns=["x", "y", "z"]).assign(object_id=0, contour_id=0)
    with replacing(path) as temporary, _quietly():
        imodmodel.write(table, temporary)


@contextmanager
def _quietly() -> Iterator[None]:
    """Ignore the warnings of imodmodel, which uses what pydantic has renamed, for every point list."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def _imodmodel(path: Path):  # type: ignore[no-untyped-def]
    try:
        import imodmodel
    except ImportError as error:
        raise FormatError(path, "is an IMOD model, which needs imodmodel", EXTRA) from error
    return imodmodel
