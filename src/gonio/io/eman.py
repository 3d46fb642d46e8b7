"""EMAN2's lists: LST files (#LSX, #LST), the older particle_parms JSON, and the boxes of info files.

``xform.align3d`` moves the particle onto the reference, T x = Q x + s (rotated, then shifted, pixels), so that

    R = Q^T          t = -Q^T s
    Q's angles of type eman, (az, alt, phi), from RELION's: (-90 - psi, tilt, 90 - rot); R's (rot + 90, tilt, psi - 90)

EMAN2 libEM/transform.h (order M.T.S.R), e2spt_average.py (what it is applied to). ``ptcl_source_coord`` and the boxes
of info files are pixels of the unbinned tomogram, from its centre. EMAN2's lower scores are better; they are
negated here, where higher scores are better. A LST file holds any column: its third field is JSON. A mirror in a
transform is refused.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, printable, reading, replacing
from gonio.io.paths import folder_of, moved
from gonio.io.source import TILT_COLUMNS, ReadOptions
from gonio.io.star_columns import CLASSES, checked_names, own_texts
from gonio.io.subtomograms import ListSource
from gonio.io.text import check_writable, number_text, numbers_or_text, own_name, plain_float
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

HEADS = ("#LSX", "#LST")
NOTE = (
    "# This file is in fast LST format. All lines after the next line have exactly the number of characters shown on"
    " the next line. This MUST be preserved if editing."
)
TRANSFORM, SCORE, CLASS = "xform.align3d", "score", "class"
COORDINATE, TOMOGRAM, SIZE = "ptcl_source_coord", "ptcl_source_image", "ptcl_source_apix"
NAME, HALF_SET = "gonioName", "gonioHalfSet"
FIELDS = (TRANSFORM, SCORE, CLASS, COORDINATE, TOMOGRAM, SIZE, NAME, HALF_SET)
FAMILY = "eman_"
# A rotation is one to six decimals, which is what EMAN2 writes.
ORTHOGONAL = 1e-3
ENTRIES = re.compile(r'\s*\{\s*"\(')  # the keys of particles are tuples
LARGEST = 1e300  # numbers beyond it become infinite soon
NOT_IN_LST = re.compile(r"[\t\n\r\0\ud800-\udfff]|^\s|\s$|^$")


@dataclass(frozen=True)
class Row:
    """A particle: image number, file, its values, and its place in the list."""

    number: int
    file: str
    values: Mapping[str, Any]
    where: str


def is_lst(start: str) -> bool:
    """Return whether a file begins as LST files do."""
    return start.startswith(HEADS)


def is_parms(start: str) -> bool:
    """Return whether a file begins as a JSON file of aligned particles."""
    return ENTRIES.match(start) is not None


def is_boxes(start: str) -> bool:
    """Return whether a file is JSON that may hold boxes: info files name them anywhere."""
    return start.lstrip().startswith("{") and not is_parms(start)


def read_lst(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a LST file; its particles are images of HDF files (which needs h5py), or MRC and EM volumes."""
    rows = []
    with reading(path, "give a LST file"), path.open(encoding="utf-8-sig") as stream:
        for at, line in enumerate(stream, start=1):
            if line.strip() and not line.startswith("#"):
                rows.append(_lst_row(path, at, line))
    cut = next((row for row in rows if not row.values), None)
    if cut is not None and any(row.values for row in rows):
        raise FormatError(path, f"{cut.where} has no values in JSON, as others have", "write the file again")
    return _table(path, rows, options, "eman")


def read_parms(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a particle_parms JSON file, whose keys are ``('FILE', NUMBER)``."""
    rows = []
    for key, values in _json(path).items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of escapes that Python does not know
                file, number = ast.literal_eval(key)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            file = number = None
        if not isinstance(file, str) or type(number) is not int or not isinstance(values, dict):
            problem = f"entry {printable(key, 80)} is not (FILE, NUMBER) with a dictionary of values"
            raise FormatError(path, problem, "give a particle_parms file")
        rows.append(Row(number, file, values, f"entry {printable(key, 80)}"))
    return _table(path, rows, options, "eman-json")


def read_boxes(path: Path, options: ReadOptions) -> ParticleTable:
    """Read the boxes of a tomogram from an info file: positions, and angles where they are known."""
    info = _json(path)
    boxes = info.get("boxes_3d")
    if not boxes or not isinstance(boxes, list):
        raise FormatError(path, "has no boxes_3d", "give an info file of a tomogram with particles")
    size = info.get("apix_unbin")
    tomogram = path.stem.removesuffix("_info")
    rows = [_box_row(path, at, box, tomogram, size) for at, box in enumerate(boxes, start=1)]
    return replace(_table(path, rows, options, "eman-boxes"), images=None)


def write_lst(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a LST file in its fast form, all lines of one length."""
    rows = list(_rows(path, table))
    check_writable(path, {"image": [row.file for row in rows]}, NOT_IN_LST)
    lines = [f"{row.number}\t{row.file}\t{_dumped(row.values)}" for row in rows]
    length = max((len(line.encode()) for line in lines), default=0) + 1
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"{HEADS[0]}\n{NOTE}\n# {length}\n")
        stream.writelines(line + " " * (length - 1 - len(line.encode())) + "\n" for line in lines)
    return (path,)


def write_parms(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a particle_parms JSON file."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        entries = (f"{json.dumps(str((row.file, row.number)))}:{_dumped(row.values)}" for row in _rows(path, table))
        stream.write("{\n" + ",\n".join(entries) + "\n}\n")
    return (path,)


# Reading


def _lst_row(path: Path, at: int, line: str) -> Row:
    words = line.rstrip().split("\t")
    try:
        values = _loaded(words[2]) if len(words) > 2 and words[2].strip().startswith("{") else {}
        return Row(int(words[0]), words[1].strip(), values, f"line {at}")
    except (ValueError, IndexError, RecursionError) as error:
        problem = f"line {at} is not NUMBER, FILE and values in JSON, with tabs between"
        raise FormatError(path, problem, "correct that line, or write the file again") from error


def _loaded(text: str) -> Any:
    """Return what JSON holds; of two values of one key none is the right one."""
    return json.loads(text, object_pairs_hook=_once_each)


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"JSON names {printable(twice, 60)!r} twice")
    return values


def _box_row(path: Path, at: int, box: Any, tomogram: str, size: float | None) -> Row:
    if not isinstance(box, list) or len(box) < 3 or not all(isinstance(value, int | float) for value in box[:3]):
        raise FormatError(path, f"box {at} is {box!r}, without three numbers", "correct it or leave it out")
    values: dict[str, Any] = {COORDINATE: list(box[:3]), TOMOGRAM: tomogram, NAME: f"{tomogram}/{at}"}
    if size is not None:
        values[SIZE] = size
    if len(box) > 4 and isinstance(box[4], int | float):
        values[SCORE] = -box[4]  # higher is better for boxes, lower for all other scores of EMAN2
    if len(box) > 5 and isinstance(box[5], int):
        values[CLASS] = box[5]
    if len(box) > 6 and isinstance(box[6], dict):
        values |= box[6]
    return Row(at - 1, str(path.name), values, f"box {at}")


def _json(path: Path) -> dict[str, Any]:
    with reading(path, "give a JSON file as EMAN2 writes it"):
        if path.stat().st_size == 0:
            raise FormatError(path, "is empty", "write the file again")
        try:
            content = _loaded(path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError as error:
            raise FormatError(path, f"is broken JSON in line {error.lineno}", "write the file again") from error
    if not isinstance(content, dict):
        raise FormatError(path, "is not a JSON dictionary", "give a JSON file as EMAN2 writes it")
    return content


def _table(path: Path, rows: list[Row], options: ReadOptions, format: str) -> ParticleTable:
    if not rows:
        raise FormatError(path, "lists no particles", "give a list with particles")
    images = tuple(f"{row.number}@{row.file}" for row in rows)
    placed = [row for row in rows if row.values.get(TRANSFORM) is not None]
    if placed and len(placed) < len(rows) and format != "eman-boxes":  # which may be picked by hand in part
        lost = next(row for row in rows if row.values.get(TRANSFORM) is None)
        raise FormatError(path, f"{lost.where} has no {TRANSFORM}, as others have", "write the file again")
    columns = {"name": tuple(_text(path, row, NAME, image) for row, image in zip(rows, images, strict=True))}
    names = checked_names(Block(path, "", columns, is_star=False), "name", columns["name"])
    tilts = _tilts(path, rows)
    stated = Block(path, "", {TRANSFORM: tuple(_matrix_text(row) for row in rows)}, is_star=False)
    source = ListSource(path, format, options, names, images, tilts, stated)
    sizes = source.pixel_sizes(_sizes(path, rows))
    scale = 1.0 if sizes is None else sizes[:, None]
    moved_onto = np.array([_transform(path, row) for row in rows])  # (m, 3, 4)
    rotation = Rotation.from_matrix(moved_onto[:, :, :3]).inv()
    known = [COORDINATE in row.values for row in rows]
    return ParticleTable(
        poses=Pose(rotation, -rotation.apply(moved_onto[:, :, 3].copy()) * scale),
        names=names,
        tomograms=tuple(_text(path, row, TOMOGRAM, "") for row in rows),
        coordinates_angstrom=_vectors(path, rows, COORDINATE) * scale if all(known) else None,
        half_sets=np.array([_whole(path, row, HALF_SET, 0, 2) for row in rows], dtype=np.int8),
        columns=_own_columns(rows),
        source=source,
        coordinates_from="centre",
        pixel_sizes_angstrom=sizes,
        classes=_classes(path, rows),
        scores=_scores(path, rows),
        images=images,
        extras=_extras(rows),
    )


def _scores(path: Path, rows: list[Row]) -> NDArray[np.float64] | None:
    """Return scores of which higher is better, as in other formats; in EMAN2's lower is better (e2spt_average)."""
    known = _known_numbers(path, rows, SCORE)
    return None if known is None else 0.0 - known


def _transform(path: Path, row: Row) -> NDArray[np.float64]:
    """Return Q and s side by side, shape (3, 4); the identity where none is stated."""
    stated = row.values.get(TRANSFORM)
    if stated is None:
        return np.eye(3, 4)
    text = stated.get("matrix", "") if isinstance(stated, dict) else stated
    try:
        numbers = np.array(json.loads(text) if isinstance(text, str) else text, dtype=np.float64).reshape(3, 4)
    except (ValueError, TypeError, RecursionError) as error:
        problem = f"{TRANSFORM} in {row.where} is not twelve numbers"
        raise FormatError(path, problem, "correct it, or write the file again") from error
    turn = numbers[:, :3]
    scales = not np.isfinite(numbers).all() or np.abs(turn @ turn.T - np.eye(3)).max() > ORTHOGONAL
    if scales or np.linalg.det(turn) < 0:
        problem = f"{TRANSFORM} in {row.where} is not a rotation and a shift: it scales or mirrors"
        raise FormatError(path, problem, "leave this particle out")
    return numbers


def _matrix_text(row: Row) -> str:
    stated = row.values.get(TRANSFORM)
    text = stated.get("matrix", "") if isinstance(stated, dict) else stated
    return text if isinstance(text, str) else json.dumps(text)


def _vectors(path: Path, rows: Sequence[Row], key: str) -> NDArray[np.float64]:
    for row in rows:
        value = row.values[key]
        if not isinstance(value, list | tuple) or len(value) != 3 or not all(map(_is_finite, value)):
            raise FormatError(path, f"{key} in {row.where} is {value!r}, not three numbers", "correct it")
    return np.array([row.values[key] for row in rows], dtype=np.float64)


def _is_finite(value: Any) -> bool:
    """Return whether a value is a number, not a text of one, that a double can hold."""
    return isinstance(value, int | float) and abs(value) < LARGEST


def _text(path: Path, row: Row, key: str, default: str) -> str:
    value = row.values.get(key, default)
    if not isinstance(value, str | int):
        raise FormatError(path, f"{key} in {row.where} is {value!r}, not a text", "correct it")
    return str(value)


def _number(path: Path, row: Row, key: str, default: float) -> float:
    """Return a number, which may be written as a text."""
    value = row.values.get(key, default)
    try:
        number = plain_float(value) if isinstance(value, str) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not _is_finite(number):
        raise FormatError(path, f"{key} in {row.where} is {value!r}, not a number", "correct it")
    return number


def _whole(path: Path, row: Row, key: str, lowest: int, highest: int) -> int:
    number = _number(path, row, key, 0)
    if number != round(number) or not lowest <= number <= highest:
        problem = f"{key} in {row.where} is {number:g}, not a whole number from {lowest} to {highest}"
        raise FormatError(path, problem, "correct it")
    return round(number)


def _known_numbers(path: Path, rows: Sequence[Row], key: str) -> NDArray[np.float64] | None:
    if not all(key in row.values for row in rows):
        return None
    return np.array([_number(path, row, key, 0) for row in rows])


def _classes(path: Path, rows: Sequence[Row]) -> NDArray[np.int64] | None:
    if not all(CLASS in row.values for row in rows):
        return None
    return np.array([_whole(path, row, CLASS, *CLASSES) for row in rows], dtype=np.int64)


def _sizes(path: Path, rows: Sequence[Row]) -> NDArray[np.float64] | None:
    sizes = _known_numbers(path, rows, SIZE)
    wrong = None if sizes is None else next((row for row, size in zip(rows, sizes, strict=True) if size <= 0), None)
    if wrong is not None:
        raise FormatError(path, f"{SIZE} in {wrong.where} is {wrong.values[SIZE]!r}, not above 0", "correct it")
    return sizes


def _tilts(path: Path, rows: Sequence[Row]) -> NDArray[np.float64] | None:
    if not all(label in row.values for row in rows for label in TILT_COLUMNS):
        return None
    return np.array([[_number(path, row, label, 0) for label in TILT_COLUMNS] for row in rows])


def _is_own(key: str) -> bool:
    return key.startswith("gonio") and key not in (*TILT_COLUMNS, NAME, HALF_SET)


def _own_columns(rows: Sequence[Row]) -> dict[str, NDArray]:
    keys = dict.fromkeys(key for row in rows for key in row.values if _is_own(key))
    return {own_name(key): numbers_or_text([str(row.values.get(key, "nan")) for row in rows]) for key in keys}


def _extras(rows: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    keys = dict.fromkeys(key for row in rows for key in row.values if key not in FIELDS and not _is_own(key))
    return {_label(key): tuple(_word(key, row.values.get(key)) for row in rows) for key in keys}


def _label(key: str) -> str:
    foreign = re.match(r"rln|gonio|dynamo_|stopgap_|av3_|pytom_|peet_", key)
    return key if foreign else FAMILY + key


def _word(key: str, value: Any) -> str:
    """Return a value as text: columns of other formats are text already, EMAN2's own are JSON."""
    return str(value) if isinstance(value, str) and not _label(key).startswith(FAMILY) else json.dumps(value)


# Writing


def _rows(path: Path, table: ParticleTable) -> Iterator[Row]:
    sizes = table.pixel_sizes_angstrom
    scale = np.ones(len(table)) if sizes is None else sizes
    poses = table.tomogram_poses
    inverse = poses.rotation.inv()
    shifts = -inverse.apply(poses.shift_angstrom / scale[:, None])
    matrices = np.concatenate([inverse.as_matrix(), shifts[:, :, None]], axis=2).reshape(-1, 12)  # (m, 12)
    files = _files(path, table)
    source = table.source
    own = isinstance(source, ListSource) and source.family.startswith("eman") and source.block is not None
    old = source.block.take(np.asarray(table.rows)).text(TRANSFORM) if own else ()  # type: ignore[union-attr]
    columns = {**table.extras, **own_texts(table)}
    for i, matrix in enumerate(matrices.tolist()):
        number, file = files[i]
        text = _kept(old[i], matrix) if old else _matrix_words(matrix)
        values: dict[str, Any] = {TRANSFORM: {"__class__": "Transform", "matrix": text}}
        if table.scores is not None:
            values[SCORE] = 0.0 - float(table.scores[i])
        if table.classes is not None:
            values[CLASS] = int(table.classes[i])
        if table.coordinates_angstrom is not None:
            values[COORDINATE] = [round(v, 6) for v in (table.coordinates_angstrom[i] / scale[i]).tolist()]
        if table.tomograms[i]:
            values[TOMOGRAM] = table.tomograms[i]
        if sizes is not None:
            values[SIZE] = float(sizes[i])
        if table.names[i] != f"{number}@{file}":
            values[NAME] = table.names[i]
        if np.asarray(table.half_sets)[i]:
            values[HALF_SET] = int(np.asarray(table.half_sets)[i])
        for label, column in columns.items():
            values[label.removeprefix(FAMILY)] = json.loads(column[i]) if label.startswith(FAMILY) else column[i]
        yield Row(number, file, {k: v for k, v in values.items() if v is not None}, "")


def shown(table: ParticleTable) -> dict[str, Sequence[str]]:
    """Return positions, shifts and angles (of type eman) as the format has them."""
    rows = [row.values for row in _rows(Path(), table)]
    matrices = np.array([json.loads(row[TRANSFORM]["matrix"]) for row in rows]).reshape(-1, 3, 4)
    angles = Rotation.from_matrix(matrices[:, :, :3]).inv().as_euler("ZXZ", degrees=True, suppress_warnings=True)
    made = dict(zip(("az", "alt", "phi"), angles.T, strict=True))
    made |= dict(zip(("tx", "ty", "tz"), matrices[:, :, 3].T, strict=True))
    if table.coordinates_angstrom is not None:
        places = np.array([row[COORDINATE] for row in rows])
        made |= {f"{COORDINATE}.{axis}": places[:, i] for i, axis in enumerate("xyz")}
    return {label: list(map(number_text, values.tolist())) for label, values in made.items()}


def _matrix_words(matrix: Sequence[float]) -> str:
    return "[" + ",".join(f"{value:.9g}" for value in matrix) + "]"


def _kept(old: str, matrix: Sequence[float]) -> str:
    """Return the text of the file while it means the same, to the six digits that EMAN2 writes."""
    same = old not in ("", "null") and np.allclose(json.loads(old), matrix, rtol=1e-6, atol=2e-6)
    return old if same else _matrix_words(matrix)


def _files(path: Path, table: ParticleTable) -> list[tuple[int, str]]:
    """Return number and file of each particle; without images, numbers in a stack with the name of the list."""
    if table.images is None:
        return [(i, f"{path.stem}.hdf") for i in range(len(table))]
    pairs = (token.rpartition("@") for token in moved(table.images, folder_of(table), path.parent))
    return [(int(number) if number.isdigit() else 0, file) for number, _, file in pairs]


def _dumped(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
