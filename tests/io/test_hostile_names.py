"""Names are any text: every format keeps them, or refuses them and names the row."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gonio.io import FormatError
from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.formats import FORMATS
from gonio.io.lists import read_with, write_particles
from gonio.io.source import ReadOptions
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

HOSTILE = (
    *(
        "",
        " ",
        "  a",
        "a  ",
        "a b",
        "\t",
        "a\tb",
        "a\nb",
        "\n",
        "a\r\nb",
        "a\rb",
        "a\x0bb",
        "a\x0cb",
        "a\x85b",
        "a\u2028b",
    ),
    *(
        "a\u00a0b",
        "\u2003",
        "\u200b",
        "a\x1cb",
        "loop_",
        "data_",
        "data_x",
        "DATA_x",
        "_rlnTomoName",
        "_",
        "#",
        "# a",
        "a #b",
    ),
    *(
        "a#b",
        '"',
        "'",
        "\"a'",
        "'a\"",
        '"a"b',
        "a'b c\"d",
        "a\" b' c",
        "'a' \"b\"",
        '""',
        "\\",
        "\\n",
        "a/b",
        "../a",
        "/etc/x",
    ),
    *(
        ";",
        "; a",
        ",",
        "a,b",
        "=1+1",
        "<a>&b;",
        "]]>",
        "0",
        "007",
        "1e5",
        "nan",
        "9" * 30,
        "-1",
        "\x1b[31m",
        "\x01",
        "\0",
        "a\0",
    ),
    *(
        "\ud800",
        "é",
        "e\u0301",
        "\u202ea",
        "名",
        "🙂",
        "save_a",
        "global_",
        "stop_",
        "None",
        "x" * 300,
        "(a, 1)",
        "%s",
        "{}",
    ),
)
NUMBERED = ("dynamo", "stopgap", "av3", "peet", "imod")  # particles have numbers there
WRITTEN = [name for name, known in FORMATS.items() if known.write is not None]
OPTIONS = WriteOptions(sizes=TomogramSizes(every=(400.0, 401.0, 200.0)))


def table(names: tuple[str, ...], tomograms: tuple[str, ...]) -> ParticleTable:
    count = len(names)
    rng = np.random.default_rng(0)
    return ParticleTable(
        poses=Pose.random(count, rng=rng, max_shift_angstrom=3.0),
        names=names,
        tomograms=tomograms,
        coordinates_angstrom=rng.uniform(0, 900, (count, 3)).round(3),
        pixel_sizes_angstrom=np.full(count, 2.5),
    )


def there_and_back(made: ParticleTable, format: str, folder: Path) -> list[ParticleTable]:
    """All tables that a list of a format comes back as: one for each file where there are several."""
    written = write_particles(folder / "list", made, format=format, options=OPTIONS)
    lists = [path for path in written if path.suffix != ".doc" and (format == "imod" or path.suffix != ".mod")]
    options = ReadOptions(may_count_pixels=True, pixel_size_angstrom=2.5)
    return [read_with(path, options, format=None if format == "imod" else format) for path in lists]


@pytest.mark.parametrize("format", WRITTEN)
def test_names_of_particles_are_kept_or_refused_with_the_row(tmp_path, format):
    for name in HOSTILE:
        made = table(("first", name, "last"), ("17",) * 3)
        try:
            (back,) = there_and_back(made, format, tmp_path)
        except FormatError as error:
            assert "row 2" in str(error), (name, str(error))
            assert format not in NUMBERED, f"{name!r} is not written at all there"
            continue
        expected = [f"{one}.em" if format == "pytom" else one for one in made.names]
        assert list(back.names) == (expected if format not in NUMBERED else ["1", "2", "3"]), repr(name)


@pytest.mark.parametrize("format", WRITTEN)
def test_names_of_tomograms_are_kept_or_refused_with_the_row(tmp_path, format):
    for name in HOSTILE:
        made = table(("1", "2", "3"), ("TS_01", name, "TS_01"))
        try:
            tables = there_and_back(made, format, tmp_path)
        except FormatError as error:
            assert "row 2" in str(error), (name, str(error))
            assert sorted(tmp_path.iterdir()) == [], f"half of it was written for {name!r}"
            continue
        assert sum(map(len, tables)) == 3, repr(name)
        if format not in ("imod", "peet"):  # whose files are the tomograms
            assert list(tables[0].tomograms) == list(made.tomograms), repr(name)
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.parametrize("format", ["imod", "peet"])
@pytest.mark.parametrize("tomograms", [("TS 01", "TS_01", "a"), ("a", "TS/01", "TS_01"), ("ts_01", "a", "TS_01")])
def test_tomograms_that_would_share_a_file_are_refused(tmp_path, format, tomograms):
    with pytest.raises(FormatError, match=r"would both become list_\w+; rename one of them"):
        there_and_back(table(("1", "2", "3"), tomograms), format, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", ["my column", "a\nb", "a\tb"])
def test_a_star_file_refuses_labels_that_it_cannot_hold(tmp_path, label):
    made = replace(table(("a", "b"), ("t", "t")), extras={label: ("1", "2")})
    with pytest.raises(FormatError, match="no block or column of a STAR file can be called"):
        there_and_back(made, "relion5", tmp_path)
    (back,) = there_and_back(made, "csv", tmp_path)
    assert list(back.extras[label]) == ["1", "2"]
