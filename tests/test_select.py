"""Parts of lists, lists joined and lists compared: every format stays what it is, token for token."""

from __future__ import annotations

import csv
import json
import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio import jobs
from gonio.cli.app import run
from gonio.io.blocks import read_star
from gonio.io.em import read_em
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions
from gonio.io.text import numbers_or_text, plain_floats
from gonio.io.tilts import visible_tilts
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import NoWedge

HEAD = """
# version 50001

data_general

_rlnTomoSubTomosAre2DStacks\t0

# version 50001

data_optics

loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnTomoTiltSeriesPixelSize #3
_rlnImagePixelSize #4
_rlnVoltage #5
1 og1 2.50 10.00 300.000
2 og2 2.50 10.00 200

# version 50001

data_particles

loop_
"""
LABELS = (
    *("rlnTomoName", "rlnTomoParticleName", "rlnImageName", "rlnOpticsGroup"),
    *("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ", "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
    *("rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst", "rlnRandomSubset", "rlnClassNumber"),
    *("rlnAutopickFigureOfMerit", "gonioQValue", "gonioDissimilarity", "rlnMine"),
)
ROWS = (
    "TS_01 TS_01/1 a.mrc 1 100.10 200.5 50 10 20.50 +30 1.0 0 0 1 1 12.50 0.010 0.9 'a b'",
    "TS_01 TS_01/2 b.mrc 2 104.10 200.5 50 10 20.50 30.00 1.0 0 0 2 1 13 0.20 0.3 x",
    "TS_01 TS_01/3 c.mrc 1 300.10 200.5 50 10 20.50 30 1.0 -0.50 0 1 2 9 1e-3 0.5 y",
    "TS_02 TS_02/1 d.mrc 1 100.10 200.5 50 170 120.50 -30 1.0 0 0 2 3 1.5e1 0.5 0.7 z",
    "TS_02 TS_02/2 e.mrc 2 150.10 220.5 55 70 20.50 -30 1.0 0 2.250 2 3 7 0.05 1.1 z",
)


def write(path: Path, rows=ROWS, head: str = HEAD) -> Path:
    path.write_text(head + "".join(f"_{label}\n" for label in LABELS) + "\n".join(rows) + "\n")
    return path


@pytest.fixture
def particles(tmp_path):
    return write(tmp_path / "p.star")


def read(path: Path, **options) -> ParticleTable:
    return read_with(path, ReadOptions(may_count_pixels=True, **options))


def tokens(path: Path) -> list[list[str]]:
    block = read_star(path).find("particles")
    return [list(row) for row in zip(*block.columns.values(), strict=True)]


def names(path: Path) -> list[str]:
    return [row[1] for row in tokens(path)]


def select(*words) -> int:
    return run(["select", *map(str, words)])


def test_a_selection_has_all_columns_blocks_and_values_as_they_stand(particles, tmp_path):
    assert select(particles, tmp_path / "out.star", "--max-q", "0.1") == 0
    assert tokens(tmp_path / "out.star") == [tokens(particles)[row] for row in (0, 2, 4)]
    before, after = read_star(particles), read_star(tmp_path / "out.star")
    assert [block.name for block in after.blocks] == ["general", "optics", "particles"]
    for name in ("general", "optics"):
        assert dict(after.find(name).columns) == dict(before.find(name).columns)
    assert list(after.find("particles").columns) == list(LABELS)
    assert after.version == before.version
    stated = tomllib.loads((tmp_path / "out.star.settings.toml").read_text())
    assert stated["settings"]["max_q"] == 0.1 and list(stated["inputs"]) == [str(particles)]


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--class", "1"], [0, 1]),
        (["--class", "1", "--class", "3"], [0, 1, 3, 4]),
        (["--tomogram", "TS_02"], [3, 4]),
        (["--where", "q_value<=0.05"], [0, 2, 4]),
        (["--where", "gonioQValue<0.05"], [0, 2]),
        (["--where", "class!=3"], [0, 1, 2]),
        (["--where", "rlnMine=x,y"], [1, 2]),
        (["--where", "rlnMine=a b"], [0]),
        (["--where", "rlnVoltage = 200"], [1, 4]),
        (["--where", "rlnAnglePsi>=30", "--where", "half_set=1"], [0, 2]),
        (["--where", "score > 9"], [0, 1, 3]),
        (["--where", "name!=TS_01/2"], [0, 2, 3, 4]),
        (["--where", "x>300"], [2, 4]),  # 2.5 A a pixel, minus the origin
        (["--where", "z<=125"], [0, 1, 2, 3]),
        (["--apart", "20"], [1, 2, 3, 4]),
        (["--apart", "20", "--highest", "dissimilarity"], [0, 2, 3, 4]),
        (["--apart", "20", "--highest", "rlnAutopickFigureOfMerit"], [1, 2, 3, 4]),
        (["--apart", "20", "--lowest", "score"], [0, 2, 3, 4]),
    ],
)
def test_conditions_keep_what_they_say(particles, tmp_path, words, rows):
    assert select(particles, tmp_path / "out.star", *words) == 0
    assert tokens(tmp_path / "out.star") == [tokens(particles)[row] for row in rows]


def test_other_lists_and_chance(particles, tmp_path):
    write(tmp_path / "some.star", ROWS[1:3])
    assert select(particles, tmp_path / "in.star", "--in", tmp_path / "some.star") == 0
    assert names(tmp_path / "in.star") == ["TS_01/2", "TS_01/3"]
    assert select(particles, tmp_path / "not.star", "--not-in", tmp_path / "some.star") == 0
    assert names(tmp_path / "not.star") == ["TS_01/1", "TS_02/1", "TS_02/2"]
    chosen = []
    for seed in (0, 0, 1, 2, 3):
        assert select(particles, tmp_path / "r.star", "--random", 3, "--seed", seed, "--overwrite") == 0
        chosen.append(names(tmp_path / "r.star"))
    assert chosen[0] == chosen[1] and len({tuple(one) for one in chosen}) > 1
    assert all(one == sorted(one, key=names(particles).index) and len(one) == 3 for one in chosen)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--where", "class>9"], "class>9 leaves no particle of 5: nothing is written"),
        (["--where", "nothing<1"], "has no column nothing: it has name, tomogram"),
        (["--where", "rlnMine<1"], "column rlnMine holds no numbers: compare it with ="),
        (["--where", "q_value<much"], "compares with what is no number"),
        (["--where", "q_value"], "--where must be COLUMN OP VALUE"),
        (["--where", "q_value<1_0"], "compares with what is no number"),
        (["--where", "q_value<nan"], "compares with what is no number"),
        (["--min-margin", "3"], "--min-margin needs a column runner_up_margin"),
        (["--random", "6"], "--random must lie between 1 and 5, got 6"),
        (["--lowest", "score"], "--lowest needs --apart"),
        (["--apart", "9", "--lowest", "score", "--highest", "score"], "--lowest and --highest exclude each other"),
        (["--apart", "0"], "must be a positive number"),
        (["--in", "nowhere.star"], "nowhere.star"),
    ],
)
def test_what_cannot_be_selected_is_told_in_one_line(particles, tmp_path, capsys, words, expected):
    assert select(particles, tmp_path / "out.star", *words) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.star"]


def test_values_that_are_no_numbers_and_classes_that_nobody_has_are_told(particles, tmp_path, capsys):
    write(tmp_path / "q.star", [ROWS[0].replace("0.010", "nan"), *ROWS[1:]])
    assert select(tmp_path / "q.star", tmp_path / "out.star", "--max-q", "0.1") in (0, 2)
    assert select(particles, tmp_path / "o.star", "--class", "1", "--class", "8") == 0
    assert "no particle has class 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "rows"),
    [
        (["--tomogram", "20230101_1"], [0, 1, 2]),
        (["--where", "tomogram!=20230101_1"], [3, 4]),
        (["--where", "rlnTomoName=20230101_1"], [0, 1, 2]),
        (["--where", "rlnMine=1"], [1]),
        (["--where", "rlnMine!=01"], [1, 2, 3, 4]),
    ],
)
def test_names_are_compared_letter_by_letter(tmp_path, words, rows):
    names_of_tomograms = [row.replace("TS_01", "20230101_1").replace("TS_02", "2023010_11") for row in ROWS]
    mine = ("01", "1", "inf", "1_0", "z")
    listed = write(
        tmp_path / "q.star",
        [re.sub(r" (\S+|'.*')$", f" {one}", row) for row, one in zip(names_of_tomograms, mine, strict=True)],
    )
    assert select(listed, tmp_path / "out.star", *words) == 0
    assert tokens(tmp_path / "out.star") == [tokens(listed)[row] for row in rows]


def test_tomograms_called_by_numbers_are_no_numbers(tmp_path, capsys):
    listed = write(tmp_path / "q.star", [row.replace("TS_01", "01").replace("TS_02", "1") for row in ROWS])
    assert select(listed, tmp_path / "out.star", "--where", "rlnTomoName=1") == 0
    assert names(tmp_path / "out.star") == ["1/1", "1/2"]
    assert select(listed, tmp_path / "same.star", "--where", "tomogram!=1.0") == 0
    assert "no particle has tomogram 1.0" in capsys.readouterr().err
    assert len(names(tmp_path / "same.star")) == 5


def test_nothing_is_overwritten_and_no_format_is_changed_unasked(particles, tmp_path, capsys):
    (tmp_path / "out.star").write_text("mine")
    assert select(particles, tmp_path / "out.star", "--class", "1") == 2
    assert "--overwrite" in capsys.readouterr().err and (tmp_path / "out.star").read_text() == "mine"
    assert select(particles, tmp_path / "out.tbl", "--class", "1") == 2
    assert "gonio convert changes formats" in capsys.readouterr().err
    assert select(particles, particles, "--class", "1", "--overwrite") == 0
    assert names(particles) == ["TS_01/1", "TS_01/2"]


def test_paths_are_right_from_the_new_folder(particles, tmp_path):
    for name in "abcde":
        (tmp_path / f"{name}.mrc").write_text("image")
    assert select(particles, tmp_path / "new" / "out.star", "--class", "2") == 0
    assert tokens(tmp_path / "new" / "out.star")[0][2] == "../c.mrc"


# Every format


def text_of(path: Path) -> list[list[str]]:
    """The words of each particle in a text file, as they stand there."""
    if path.suffix == ".csv":
        with path.open(newline="") as stream:
            rows = list(csv.reader(stream))
        return [row for row in rows if row and any(any(c.isdigit() for c in word) for word in row)]
    if path.suffix == ".xml":
        return [sorted(re.findall(r'\w+="[^"]*"', one)) for one in path.read_text().split("<Particle ")[1:]]
    if path.suffix == ".star":
        return [
            list(row)
            for block in read_star(path).blocks
            if len(block) > 1
            for row in zip(*block.columns.values(), strict=True)
        ]
    return [line.split() for line in path.read_text().splitlines() if line.strip() and line.lstrip()[0] != "#"]


FORMATS = {
    "relion5": "star",
    "relion4": "star",
    "relion3.1": "star",
    "relion3.0": "star",
    "warp": "star",
    "dynamo": "tbl",
    "stopgap": "star",
    "pytom": "xml",
    "csv": "csv",
    "eman": "lst",
}


@pytest.fixture
def of_format(particles, tmp_path):
    """The list in a format, some of its numbers written as nobody of gonio writes them."""

    def made(name: str) -> Path:
        path = tmp_path / f"list.{FORMATS.get(name, {'av3': 'em', 'parquet': 'parquet'}.get(name, ''))}"
        words = ["convert", particles, path, "--to", name, "--tomogram-size", 400, 400, 200]
        assert run(list(map(str, words))) == 0
        if name in FORMATS and name != "eman":
            text = path.read_text()
            path.write_text(re.sub(r"(?<![\w.])(\d+\.\d+)(?![\w.])", r"\g<1>0", text))
        return path

    return made


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_keeps_the_text_of_the_rows(of_format, tmp_path, name):
    path = of_format(name)
    out = tmp_path / "new" / path.name
    table = read(path)
    wanted = [0, 2, 3]
    others = tmp_path / "others" / path.name
    for chosen, target in ((wanted, out), ([1, 4], others)):
        condition = "name=" + ",".join(table.names[row] for row in chosen)
        assert select(path, target, "--where", condition) == 0
    before, after = text_of(path), text_of(out)
    rows = len(before) - 5  # optics groups stand before the particles
    assert after[rows:] == [before[rows + row] for row in wanted]
    # And joined again they are the list, in another order.
    joined = tmp_path / "joined" / path.name
    assert run(["join", str(out), str(others), "-o", str(joined)]) == 0
    assert text_of(joined)[rows:] == [before[rows + row] for row in [*wanted, 1, 4]]
    back = read(joined)
    order = [table.names.index(one) for one in back.names]
    assert np.max(back.poses.rotation_distance_deg(table.poses[np.array(order)])) < 1e-6


@pytest.mark.parametrize("name", ["av3", "parquet"])
def test_binary_formats_keep_their_numbers(of_format, tmp_path, name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    path = of_format(name)
    table, out, others = read(path), tmp_path / "new" / path.name, tmp_path / "others" / path.name
    assert select(path, out, "--where", "name=" + ",".join(table.names[row] for row in (0, 2, 3))) == 0
    assert select(path, others, "--where", "name=" + ",".join(table.names[row] for row in (1, 4))) == 0
    assert run(["join", str(out), str(others), "-o", str(tmp_path / path.name)]) == 2  # it is there
    joined = tmp_path / "joined" / path.name
    assert run(["join", str(out), str(others), "-o", str(joined)]) == 0
    if name == "av3":
        assert np.array_equal(read_em(joined).data[0], read_em(path).data[0][[0, 2, 3, 1, 4]])
    else:
        import pyarrow.parquet as parquet

        assert parquet.read_table(joined).equals(parquet.read_table(path).take([0, 2, 3, 1, 4]))


def test_lists_that_are_read_only_say_so(tmp_path, capsys):
    labels = "wrpCoordinateX1 wrpCoordinateY1 wrpCoordinateZ1 wrpAngleRot1 wrpAngleTilt1 wrpAnglePsi1 wrpSourceName"
    head = "data_\nloop_\n" + "".join(f"_{label}\n" for label in labels.split())
    (tmp_path / "species.star").write_text(head + "1 2 3 4 5 6 TS_01\n4 5 6 7 8 9 TS_01\n")
    assert select(tmp_path / "species.star", tmp_path / "out.star", "--random", "1") == 2
    assert "M species list is read and not written" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["species.star"]


# Lists joined


OTHER = HEAD.replace("2 og2 2.50 10.00 200", "2 og2 2.50 10.00 120\n3 og3 2.50 10.00 80").replace(
    "1 og1 2.50 10.00 300.000\n", "1 og1 2.50 10.00 300.000\n"
)


def test_joined_lists_keep_every_value_and_every_optics_group(particles, tmp_path, capsys):
    more = [row.replace("TS_0", "TS_1") for row in ROWS]
    more[3] = more[3].replace(" d.mrc 1 ", " d.mrc 3 ")
    write(tmp_path / "more.star", more, OTHER)
    assert run(["join", str(particles), f"{tmp_path}/more.star", "-o", f"{tmp_path}/all.star"]) == 0
    assert "wrote 10 particles (of 5 + 5)" in capsys.readouterr().out
    made = tokens(tmp_path / "all.star")
    at = LABELS.index("rlnOpticsGroup")
    assert [row[at] for row in made] == ["1", "2", "1", "1", "2", "1", "3", "1", "4", "3"]
    given = tokens(particles) + tokens(tmp_path / "more.star")
    assert [row[:at] + row[at + 1 :] for row in made] == [row[:at] + row[at + 1 :] for row in given]
    optics = read_star(tmp_path / "all.star").find("optics").columns
    assert list(optics["rlnOpticsGroupName"]) == ["og1", "og2", "og2_3", "og3"]
    assert list(optics["rlnVoltage"]) == ["300.000", "200", "120", "80"]
    voltage = np.array(read(tmp_path / "all.star").extras["rlnVoltage"], dtype=float)
    assert voltage.tolist() == [300, 200, 300, 300, 200, 300, 120, 300, 80, 120]


def test_columns_of_one_list_alone_are_dropped_and_named(particles, tmp_path, capsys):
    text = write(tmp_path / "more.star", [row.replace("TS_0", "TS_1") for row in ROWS]).read_text()
    (tmp_path / "more.star").write_text(text.replace("_rlnMine", "_rlnTheirs"))
    assert run(["join", str(particles), f"{tmp_path}/more.star", "-o", f"{tmp_path}/all.star"]) == 0
    assert "not all lists have rlnMine, rlnTheirs: dropped" in capsys.readouterr().err
    assert list(read_star(tmp_path / "all.star").find("particles").columns) == list(LABELS[:-1])


def test_a_particle_in_two_lists_is_an_error_unless_the_first_is_to_stay(particles, tmp_path, capsys):
    write(tmp_path / "more.star", [ROWS[1].replace(" x", " new"), ROWS[2].replace("TS_01/3", "TS_01/9")])
    words = ["join", str(particles), f"{tmp_path}/more.star", "-o", f"{tmp_path}/all.star"]
    assert run(words) == 2
    assert "more.star has particles that an earlier list has: 'TS_01/2'" in capsys.readouterr().err
    assert not (tmp_path / "all.star").exists()
    assert run([*words, "--first"]) == 0
    assert names(tmp_path / "all.star") == [*names(particles), "TS_01/9"]
    assert tokens(tmp_path / "all.star")[1][-1] == "x"


def test_numbered_lists_are_numbered_anew_where_asked_for(of_format, tmp_path, capsys):
    path = of_format("dynamo")
    other = tmp_path / "other.tbl"
    other.write_text(path.read_text())
    (tmp_path / "other.tbl.doc").write_text((tmp_path / "list.tbl.doc").read_text().replace("TS_0", "TS_1"))
    words = ["join", str(path), str(other), "-o", f"{tmp_path}/all.tbl"]
    assert run(words) == 2
    assert "--renumber where numbers begin anew" in capsys.readouterr().err
    assert run([*words, "--renumber"]) == 0
    made = text_of(tmp_path / "all.tbl")
    assert [row[0] for row in made] == [str(n) for n in range(1, 11)]
    assert read(tmp_path / "all.tbl").tomograms == (*["TS_01"] * 3, *["TS_02"] * 2, *["TS_11"] * 3, *["TS_12"] * 2)
    assert [row[1:19] for row in made] == [row[1:19] for row in [*text_of(path), *text_of(path)]]


def test_relions_particles_are_numbered_anew_in_each_tomogram(particles, tmp_path):
    write(tmp_path / "more.star", [ROWS[0].replace("a.mrc", "f.mrc"), ROWS[3].replace("d.mrc", "g.mrc")])
    assert run(["join", str(particles), f"{tmp_path}/more.star", "--renumber", "-o", f"{tmp_path}/all.star"]) == 0
    wanted = ["TS_01/1", "TS_01/2", "TS_01/3", "TS_02/1", "TS_02/2", "TS_01/4", "TS_02/3"]
    assert names(tmp_path / "all.star") == wanted == list(read(tmp_path / "all.star").names)
    given = tokens(particles) + tokens(tmp_path / "more.star")
    assert [row[2:] for row in tokens(tmp_path / "all.star")] == [row[2:] for row in given]


def test_every_column_that_join_drops_is_named(particles, tmp_path, capsys):
    text = write(tmp_path / "more.star", [row.replace("TS_0", "TS_1") for row in ROWS]).read_text()
    dropped = ("rlnClassNumber", "rlnRandomSubset", "rlnAutopickFigureOfMerit", "gonioQValue")
    for label in dropped:
        text = text.replace(f"_{label}\n", f"_my{label}\n")
    (tmp_path / "more.star").write_text(text)
    found = jobs.join([particles, tmp_path / "more.star"], output=tmp_path / "all.star")
    assert set(found.lost) == {*dropped, *(f"my{label}" for label in dropped)}


def test_places_are_compared_in_angstrom_or_not_at_all(tmp_path, capsys):
    labels = "".join(f"_rln{label}\n" for label in ("TomoName", "CoordinateX", "CoordinateY", "CoordinateZ"))
    (tmp_path / "p.star").write_text(f"data_\n\nloop_\n{labels}TS_01 100 50 20\nTS_01 300 60 30\n")
    words = (tmp_path / "p.star", tmp_path / "out.star", "--where", "x>400")
    assert select(*words) == 2
    said = capsys.readouterr().err
    assert "x is in angstrom" in said and "give --pixel-size" in said and "(rlnCoordinateX)" in said
    assert select(*words, "--pixel-size", "2") == 0
    assert read(tmp_path / "out.star").names == ("TS_01/1",)
    assert select(tmp_path / "p.star", tmp_path / "own.star", "--where", "rlnCoordinateX>200") == 0


def test_lists_that_do_not_fit_are_refused(particles, of_format, tmp_path, capsys):
    def refused(*words: object) -> str:
        assert run(["join", *map(str, words), "-o", f"{tmp_path}/all.star"]) == 2
        assert not (tmp_path / "all.star").exists()
        return capsys.readouterr().err

    assert "two lists or more" in refused(particles)
    assert "is a list of Dynamo table, " in refused(particles, of_format("dynamo"))
    stacks = write(tmp_path / "stacks.star", ["9".join(row.split("/")) for row in ROWS])
    stacks.write_text(stacks.read_text().replace("_rlnVoltage #5", "_rlnSphericalAberration #5"))
    assert "other columns in data_optics" in refused(particles, stacks)
    assert "nowhere.star" in refused(particles, tmp_path / "nowhere.star")


def test_a_joined_list_counts_nothing_of_a_list_that_adds_nothing(particles, tmp_path, capsys):
    write(tmp_path / "same.star", ROWS[:3])
    write(tmp_path / "more.star", [ROWS[0].replace("TS_01/1", "TS_01/9")])
    sources = [particles, tmp_path / "same.star", tmp_path / "more.star"]
    assert run(["join", *map(str, sources), "--first", "-o", f"{tmp_path}/all.star"]) == 0
    assert "wrote 6 particles (of 5 + 0 + 1)" in capsys.readouterr().out
    stated = tomllib.loads((tmp_path / "all.star.settings.toml").read_text())
    assert list(stated["inputs"]) == list(map(str, sources))


def test_lists_that_do_not_fit_together_are_both_named(particles, tmp_path):
    text = write(tmp_path / "centred.star", [row.replace("TS_0", "TS_1") for row in ROWS]).read_text()
    text = re.sub(r"_rlnCoordinate([XYZ])", r"_rlnCenteredCoordinate\1Angst", text)
    (tmp_path / "centred.star").write_text(text.replace("rlnTomoSubTomosAre2DStacks", "rlnOther"))
    with pytest.raises(ValueError, match=r"p\.star and .*centred\.star: two lists that differ in where"):
        jobs.join([particles, tmp_path / "centred.star"], output=tmp_path / "all.star")


# Sizes of pixels that lists state


def test_a_given_pixel_size_is_that_of_the_lists_that_state_none(tmp_path):
    """One list states 2.5 A; the same particles in a table of 10 A does not."""
    rows = [" ".join([row.split()[0], str(number), *row.split()[2:]]) for number, row in enumerate(ROWS, 1)]
    listed, table = write(tmp_path / "numbered.star", rows), tmp_path / "numbered.tbl"
    assert run(["convert", str(listed), str(table), "--to-pixel-size", "10"]) == 0
    table.write_text("\n".join(" ".join(line.split()[:35]) for line in table.read_text().splitlines()) + "\n")
    assert read(table).lengths == "pixels"
    for paths in ((listed, table), (table, listed)):
        assert jobs.compare(*paths, pixel_size_angstrom=10.0).shift_angstrom.max() < 1e-3


def test_a_pixel_size_that_contradicts_the_lists_is_refused(particles, tmp_path, capsys):
    def refused(*words: object) -> None:
        assert run([*map(str, words), "--pixel-size", "10"]) == 2
        assert "--pixel-size 10 contradicts" in (said := capsys.readouterr().err) and "2.5 angstrom" in said

    other = write(tmp_path / "more.star", [row.replace("TS_0", "TS_1") for row in ROWS])
    refused("compare", particles, particles)
    refused("select", particles, tmp_path / "out.star", "--apart", 20)
    refused("join", particles, other, "-o", tmp_path / "out.star")
    assert not (tmp_path / "out.star").exists()
    assert select(particles, tmp_path / "out.star", "--apart", 20, "--pixel-size", 2.5) == 0
    (tmp_path / "a.csv").write_text("name,tomogram,x_angstrom,y_angstrom,z_angstrom\nA,T,1,2,3\nB,T,4,5,6\n")
    assert select(tmp_path / "a.csv", tmp_path / "b.csv", "--random", 1, "--pixel-size", 10) == 2
    assert "counts in angstrom: leave out --pixel-size" in capsys.readouterr().err


def test_a_pixel_size_that_takes_the_place_of_a_stated_one_is_said(particles, tmp_path, capsys):
    words = ["convert", str(particles), f"{tmp_path}/a.csv", "--overwrite", "--pixel-size"]
    assert run([*words, "10"]) == 0
    assert "p.star has pixels of 2.5 angstrom by its files: the given 10 take their place" in capsys.readouterr().err
    assert run([*words, "2.5"]) == 0
    assert "take their place" not in capsys.readouterr().err


def test_what_python_alone_takes_for_a_number_is_none_in_a_file(tmp_path):
    for token in ("[1_0,1]", "[1,\u0661]"):
        with pytest.raises(gonio.io.FormatError, match="not a list of 0 and 1"):
            visible_tilts(token, path=tmp_path / "p.star", row=0, count=2)
    assert visible_tilts("[1,0]", path=tmp_path / "p.star", row=0, count=2).tolist() == [True, False]
    assert numbers_or_text(["20230101_1", "2"]).tolist() == ["20230101_1", "2"]
    assert numbers_or_text(["1e3", "nan"]).dtype == np.float64
    with pytest.raises(ValueError, match="not a number"):
        plain_floats(["1", "1_0"])


# In Python


def volumes(count: int, start: int = 0) -> list[Subtomogram]:
    return [Subtomogram(Volume(np.eye(8)[None] * np.arange(1 + i, 9 + i)[:, None, None], 10.0), NoWedge())
            for i in range(start, start + count)]  # fmt: skip


def test_a_table_of_arrays_is_a_table():
    poses = Pose.random(3, rng=np.random.default_rng(0), max_shift_angstrom=20.0)
    table = ParticleTable.from_arrays(
        poses,
        tomograms="TS_01",
        coordinates_angstrom=[[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        half_sets=[1, 2, 1],
        particles=volumes(3),
        score=[0.1, 0.2, 0.3],
    )
    assert table.names == ("1", "2", "3") and table.tomograms == ("TS_01",) * 3
    part = table[np.asarray(table.columns["score"]) > 0.15]
    assert part.names == ("2", "3") and part.columns["score"].tolist() == [0.2, 0.3]
    np.testing.assert_array_equal(part.load(0).volume.data, volumes(3)[1].volume.data)
    np.testing.assert_allclose(part.places_angstrom, np.array([[4, 5, 6], [7, 8, 9]]) + poses.shift_angstrom[1:])
    assert gonio.average_table(table).count == 3
    with pytest.raises(ValueError, match="half_sets must have shape"):
        ParticleTable.from_arrays(poses, half_sets=[1, 2])


def test_tables_of_arrays_are_written_and_read(tmp_path):
    poses = Pose.random(3, rng=np.random.default_rng(0), max_shift_angstrom=20.0)
    table = ParticleTable.from_arrays(poses, coordinates_angstrom=np.ones((3, 3)), pixel_size_angstrom=2.5)
    gonio.write_particles(tmp_path / "a.csv", table)
    back = read(tmp_path / "a.csv")
    assert np.max(back.poses.rotation_distance_deg(poses)) < 1e-4
    np.testing.assert_allclose(back.coordinates_angstrom, 1.0, atol=1e-5)


def test_tables_add_up(particles, tmp_path):
    a, b = read(particles)[[0, 3]], read(write(tmp_path / "b.star", [r.replace("TS_0", "TS_1") for r in ROWS]))[[4, 2]]
    both = a + b
    assert both.names == ("TS_01/1", "TS_02/1", "TS_12/2", "TS_11/3")
    assert np.max(both.poses[np.array([2, 3])].rotation_distance_deg(b.poses)) < 1e-9
    np.testing.assert_array_equal(both.coordinates_angstrom, np.r_[a.coordinates_angstrom, b.coordinates_angstrom])
    assert both.columns["q_value"].tolist() == [0.01, 0.5, 0.05, 0.001]
    assert both.extras["rlnMine"] == ("a b", "z", "z", "y") and both.classes.tolist() == [1, 3, 3, 2]
    gonio.write_particles(tmp_path / "both.star", both)
    assert names(tmp_path / "both.star") == list(both.names)
    with pytest.raises(ValueError, match="particle 'TS_01/1' is in both lists"):
        _ = a + a
    with pytest.raises(TypeError, match="comes from a file and the other does not"):
        _ = a + ParticleTable.from_arrays(Pose.identity(2))
    with pytest.raises(TypeError):
        _ = a + 3
    one, two = (ParticleTable.from_arrays(Pose.identity(2), names=n, particles=volumes(2, s))
                for n, s in (("ab", 0), ("cd", 2)))  # fmt: skip
    np.testing.assert_array_equal((one + two).load(3).volume.data, volumes(4)[3].volume.data)


# Compared


def test_compare_finds_the_angles_and_shifts_that_were_put_in(particles, tmp_path, capsys):
    """Turned about an axis of its own and moved, each particle by its own amount; matched by name, not by row."""
    table = read(particles)
    turned = [2.0, 5.0, 11.0, 33.0, 0.0]
    axes = np.random.default_rng(4).normal(size=(5, 3))
    axes /= np.linalg.norm(axes, axis=1)[:, None]
    moved = np.array([[3.0, 0, 0], [0, 4, 0], [0, 0, 5], [2, 2, 1], [0, 0, 0]])
    rotation = Rotation.from_rotvec(np.radians(turned)[:, None] * axes) * table.poses.rotation
    other = table.with_poses(Pose(rotation, table.poses.shift_angstrom + moved))[[4, 2, 0, 3, 1]]
    gonio.write_particles(tmp_path / "b.star", other)
    found = jobs.compare(particles, tmp_path / "b.star", output=tmp_path / "out")
    np.testing.assert_allclose(found.angle_deg, turned, atol=1e-4)
    np.testing.assert_allclose(found.shift_angstrom, [3, 4, 5, 3, 0], atol=1e-4)
    assert found.by_position and not found.has_common_rotation
    rows = list(csv.DictReader((tmp_path / "out" / "differences.csv").read_text().splitlines()))
    assert [row["name"] for row in rows] == names(particles) and rows[2]["angle_deg"] == "11.0000"
    assert (tmp_path / "out" / "differences.png").stat().st_size > 5000
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["tomograms"]["TS_01"]["angle_deg"]["50"] == pytest.approx(5.0, abs=1e-4)
    assert run(["compare", str(particles), f"{tmp_path}/b.star"]) == 0
    out = capsys.readouterr().out
    assert "5 degrees" in out and out.index("TS_02: 2 particles, median 16.5 degrees") < out.index("TS_01: 3")


def test_compare_knows_symmetry_and_a_rotation_of_the_reference(particles, tmp_path):
    table = read(particles)
    quarter = Rotation.from_rotvec([0.0, 0.0, np.pi / 2])
    gonio.write_particles(
        tmp_path / "c4.star", table.with_poses(Pose(table.poses.rotation * quarter, table.poses.shift_angstrom))
    )
    as_listed = jobs.compare(particles, tmp_path / "c4.star")
    np.testing.assert_allclose(as_listed.angle_deg, 90.0, atol=1e-4)
    assert as_listed.has_common_rotation and as_listed.apart_from_it_deg < 1e-3
    assert as_listed.common_deg == pytest.approx(90.0, abs=1e-3)
    np.testing.assert_allclose(jobs.compare(particles, tmp_path / "c4.star", symmetry="C4").angle_deg, 0.0, atol=1e-4)
    np.testing.assert_allclose(jobs.compare(particles, tmp_path / "c4.star", symmetry="C2").angle_deg, 90.0, atol=1e-4)


def test_compare_reads_two_formats_and_counts_those_of_one_alone(particles, tmp_path, capsys):
    assert run(["convert", str(particles), f"{tmp_path}/b.csv"]) == 0
    write(tmp_path / "part.star", ROWS[1:4])
    found = jobs.compare(tmp_path / "part.star", tmp_path / "b.csv")
    assert (found.only_first, found.only_second) == (0, 2)
    assert found.angle_deg.max() < 1e-4 and found.shift_angstrom.max() < 1e-4
    write(tmp_path / "none.star", [row.replace("TS_0", "TS_7") for row in ROWS])
    assert run(["compare", str(particles), f"{tmp_path}/none.star"]) == 2
    assert "have no particle in common: the first calls one 'TS_01/1'" in capsys.readouterr().err


def test_the_same_particle_cut_again_is_where_it_was(particles, tmp_path):
    """A shift that was made part of the position is no difference."""
    table = read(particles)
    assert table.coordinates_angstrom is not None
    gonio.write_particles(tmp_path / "a.csv", table)
    again = ParticleTable.from_arrays(
        Pose(table.poses.rotation, np.zeros((5, 3))),
        names=table.names,
        tomograms=table.tomograms,
        coordinates_angstrom=table.places_angstrom,
        pixel_size_angstrom=10.0,
    )
    gonio.write_particles(tmp_path / "b.csv", again)
    assert jobs.compare(tmp_path / "a.csv", tmp_path / "b.csv").shift_angstrom.max() < 1e-4


def test_positions_from_the_centre_and_from_the_first_voxel_are_compared_in_one(particles, tmp_path):
    """A particle of one list is 7 angstrom from where the other has it."""
    other = tmp_path / "new" / "centred.star"
    other.parent.mkdir()
    rows = [row.split(" ", 7) for row in ROWS]
    for row in rows:
        places = np.array(row[4:7], dtype=float) * 2.5 - np.array([400.0, 420.0, 200.0]) * 2.5 / 2 + [7.0, 0, 0]
        row[4:7] = [f"{place:.4f}" for place in places]
    text = write(other, [" ".join(row) for row in rows]).read_text()
    other.write_text(re.sub(r"_rlnCoordinate([XYZ])", r"_rlnCenteredCoordinate\1Angst", text))
    assert gonio.io.read_particles(other).coordinates_from == "centre"
    with pytest.raises(ValueError, match=r"centred.star start at the centre of tomograms, those of .*p.star at their"):
        jobs.compare(particles, other)
    labels = "".join(f"_rlnTomo{label}\n" for label in ("Name", "TiltSeriesPixelSize", "SizeX", "SizeY", "SizeZ"))
    sizes = "TS_01 2.5 400 420 200\nTS_02 2.5 400 420 200\n"
    (tmp_path / "tomograms.star").write_text(f"data_global\n\nloop_\n{labels}{sizes}")
    found = jobs.compare(particles, other)
    np.testing.assert_allclose(found.shift_angstrom, 7.0, atol=1e-3)
    assert found.by_position
