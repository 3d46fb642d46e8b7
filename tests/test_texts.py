"""Columns of long lists: packed they are what they were, row by row, and take little memory."""

from __future__ import annotations

import pickle
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from gonio.io import FormatError, read_particles, write_particles
from gonio.io.blocks import read_star
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.particle.texts import ROWS_AT_A_TIME, Packer, Texts, are_distinct, packed, rows_of, texts_at

LONG = 3 * ROWS_AT_A_TIME + 5
COLUMNS = {
    "numbers": [f"{row / 7:.6f}" for row in range(LONG)],
    "growing": ["x" * (1 + row // 1000) + str(row) for row in range(LONG)],
    "letters": [f"Zürich/{row}" for row in range(LONG)],
    "letters late": [f"TS/{row}" if row < LONG - 3 else f"日本/{row}" for row in range(LONG)],
    "repeated": [f"a long name of tomogram {row // 5000}" for row in range(LONG)],
    "repeated, then not": [f"tomogram {max(row - 5000, 0)}" for row in range(LONG)],
    "short": [str(row % 3) for row in range(LONG)],
    "empty": [""] * LONG,
    "one of all is wide": ["a"] * LONG + ["b" * 2**20],
    "ends in NUL": ["a\0", "a", "\0"],
    "half a character": ["\ud800", "b"],
    "none": [],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_packed_texts_are_those_that_were_packed(name: str) -> None:
    column = packed(iter(COLUMNS[name]))
    assert list(column) == COLUMNS[name]
    assert column == tuple(COLUMNS[name]) and pickle.loads(pickle.dumps(column)) == column
    rows = np.arange(len(COLUMNS[name]))[::-3]
    assert list(texts_at(column, rows)) == [COLUMNS[name][row] for row in rows]
    assert [column[int(row)] for row in rows[:50]] == [COLUMNS[name][row] for row in rows[:50]]
    assert column[1:5] == tuple(COLUMNS[name][1:5])


@pytest.mark.parametrize("name", ["numbers", "growing", "letters", "letters late", "short"])
def test_columns_of_rows_that_differ_are_bytes(name: str) -> None:
    assert isinstance(packed(COLUMNS[name]), Texts)


def test_many_pieces_are_one_column() -> None:
    packer, texts = Packer(), []
    for piece in range(100):
        texts += [f"{piece}/{row}" for row in range(10)]
        packer.add(texts[-10:])
    assert packer.column() == tuple(texts)


def test_texts_of_numbers_are_written_when_asked_for() -> None:
    column = Texts(np.array([0.5, 1.25]), "{:.3f}".format)
    assert column == ("0.500", "1.250") and column != ("0.5", "1.25")
    np.testing.assert_array_equal(np.array(column, dtype=np.float64), [0.5, 1.25])
    assert np.array(column).tolist() == ["0.500", "1.250"]


def test_a_repeated_name_and_the_rows_of_each() -> None:
    assert are_distinct(packed(["a", "b"])) and not are_distinct(packed(["a", "b", "a"]))
    rows = rows_of(packed(["b", "a", "b"]))
    assert list(rows) == ["b", "a"] and rows["b"].tolist() == [0, 2] and rows["a"].tolist() == [1]
    assert rows_of(()) == {}


def listed(path: Path, rows: int) -> Path:
    """Write a list of RELION 5 with names that repeat, names of their own, and numbers of many widths."""
    labels = "TomoName TomoParticleName ImageName AngleRot AngleTilt AnglePsi"
    labels += " CenteredCoordinateXAngst CenteredCoordinateYAngst CenteredCoordinateZAngst ClassNumber Note OpticsGroup"
    lines = [
        "data_optics",
        "",
        "loop_",
        "_rlnOpticsGroup",
        "_rlnImagePixelSize",
        "1 2.5",
        "",
        "data_particles",
        "",
        "loop_",
    ]
    lines += [f"_rln{label}" for label in labels.split()]
    for n in range(rows):
        note = f"'ä {n}'" if n % 5000 == 4999 else f"n{n}"
        lines.append(
            f"TS_{n // 700} TS_{n // 700}/{n} m/{n}.mrc {n % 180}.{n % 7} 0 1.5 {n}.50 {-n} 1e{n % 5} {n % 3} {note} 1"
        )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("ending", ["star", "csv", "parquet"])
def test_long_lists_come_back_text_for_text(tmp_path: Path, ending: str) -> None:
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    first = listed(tmp_path / "first.star", LONG)
    table = read_particles(first)
    (there,) = write_particles(tmp_path / f"there.{ending}", table)
    again = read_with(there, ReadOptions(may_count_pixels=True))
    assert again.names == tuple(f"TS_{n // 700}/{n}" for n in range(LONG))
    assert again.tomograms == table.tomograms and again.images == table.images
    assert again.extras["rlnNote"] == table.extras["rlnNote"] and again.extras["rlnNote"][4999] == "ä 4999"
    np.testing.assert_allclose(again.coordinates_angstrom, table.coordinates_angstrom, atol=1e-6)
    np.testing.assert_array_equal(again.classes, np.arange(LONG) % 3)


def test_a_long_list_of_relion_keeps_the_text_of_what_did_not_change(tmp_path: Path) -> None:
    first = listed(tmp_path / "first.star", LONG)
    (there,) = write_particles(tmp_path / "there.star", read_particles(first)[np.arange(LONG)[::-1]])
    old, new = (read_star(path).blocks[-1] for path in (first, there))
    for label in old.columns:
        if "Angle" not in label:  # which poses are written into
            assert list(new.columns[label]) == list(old.columns[label])[::-1], label


def test_errors_name_rows_beyond_the_first_pieces(tmp_path: Path) -> None:
    first = listed(tmp_path / "first.star", LONG)
    text = first.read_text(encoding="utf-8")
    first.write_text(text.replace(" 9000.50 ", " 9_000.50 "), encoding="utf-8")
    with pytest.raises(FormatError, match=r"holds '9_000.50' in row 9001 \(line 9023\), not a number"):
        read_particles(first)


def test_a_list_takes_a_few_times_its_file(tmp_path: Path) -> None:
    first = listed(tmp_path / "first.star", LONG)
    read_particles(first)
    tracemalloc.start()
    table = read_particles(first)
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(table) == LONG and held < 4.5 * first.stat().st_size
