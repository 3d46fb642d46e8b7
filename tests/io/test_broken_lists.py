"""Lists that are broken: one complaint that names the file, where, and what to do; never another exception."""

from __future__ import annotations

import numpy as np
import pytest

from gonio.cli.app import run
from gonio.io import FormatError
from gonio.io.blocks import read_star
from gonio.io.em import write_em
from gonio.io.formats import FORMATS
from gonio.io.lists import read_with
from gonio.io.source import ReadOptions

DYNAMO = "{} 1 1 0 0 0 10 20 30 0.5 0 0 1 -50 40 0 0 0 0 1 0 0 0 11 12 13\n"
RELION = "data_\nloop_\n_rlnImageName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
STOPGAP = "data_stopgap_motivelist\nloop_\n_motl_idx\n_tomo_num\n_subtomo_num\n_phi\n_psi\n_the\n"
PYTOM = (
    '<ParticleList>\n  <Particle Filename="{}"><Rotation Z1="1" Z2="{}" X="3"/><Shift X="0" Y="0" Z="0"/></Particle>\n'
)
PEET = "CCC,reserved,reserved,pIndex,wedgeWT,NA,NA,NA,NA,NA,xOffset,yOffset,zOffset,NA,NA,reserved,EulerZ(1),EulerZ(3)"
PEET += ",EulerX(2),reserved\n"
LST = "#LSX\n# note\n# 30\n"

BROKEN = {
    "dynamo, a row cut short": ("a.tbl", DYNAMO.format(1) + "2 1 1 0", r"line 2 has 4 values.*correct that line"),
    "dynamo, text in a number": (
        *("a.tbl", DYNAMO.format(1) + DYNAMO.format(2).replace(" 20 ", " 2o ")),
        r"holds '2o' in row 2 \(line 2\)",
    ),
    "relion, a row cut short": ("a.star", RELION + "a 1 2 3\nb 1 2", r"row 2 of block data_ ends early.*\(line 8\)"),
    "relion, a row too long": ("a.star", RELION + "a 1 2 3 4\n", r"row 1 .* has 5 values for 4 columns \(line 7\)"),
    "relion, text in a number": ("a.star", RELION + "a 1 2 x\n", r"rlnCoordinateZ .* holds 'x' in row 1 \(line 7\)"),
    "relion, an infinite number": ("a.star", RELION + "a 1 2 inf\n", r"holds 'inf' in row 1 \(line 7\)"),
    "relion, one label twice": ("a.star", RELION + "_rlnImageName\na 1 2 3 a\n", r"line 7 names column rlnImageName"),
    "relion, a column missing": ("a.star", RELION + "_rlnAngleRot\na 1 2 3 4\n", "has no column rlnAngleTilt"),
    "relion, no text": ("a.star", b"data_\nloop_\n_rlnImageName\n\xff\xfe\n", "utf-8"),
    "stopgap, a column missing": ("a.star", STOPGAP.replace("_psi\n", "") + "1 1 1 1 1\n", "has no column psi"),
    "stopgap, no rows": ("a.star", STOPGAP, "lists no particles"),
    "pytom, cut short": ("a.xml", PYTOM.format("a.em", 1)[:80], r"broken XML in line 2"),
    "pytom, text in a number": ("a.xml", PYTOM.format("a.em", "x") + "</ParticleList>", "holds 'x' in row 1"),
    "pytom, no particles": ("a.xml", "<ParticleList>\n</ParticleList>\n", "lists no particles"),
    "peet, a row cut short": ("a.csv", PEET + "1,0,0,1,0\n", r"line 2 ends early: 5 of 20"),
    "peet, text in a number": (
        "a.csv",
        PEET + "1,0,0,1,0,0,0,0,0,0,0,0,0,0,0,0,a,0,0,1\n",
        r"holds 'a' in row 1 \(line 2\)",
    ),
    "lst, no json": ("a.lst", LST + "0\ta.hdf\t{broken\n", r"line 4 is not NUMBER, FILE and values in JSON"),
    "lst, a mirror": (
        *("a.lst", LST + '0\ta.hdf\t{"xform.align3d":{"matrix":"[-1,0,0,0,0,1,0,0,0,0,1,0]"}}\n'),
        "in line 4 is not a rotation and a shift: it scales or mirrors",
    ),
    "lst, eleven numbers": ("a.lst", LST + '0\ta\t{"xform.align3d":{"matrix":"[1,0]"}}\n', "is not twelve numbers"),
    "json, cut short": ("a.json", '{"(\'a\', 1)": {"xform.align3d": {"matr', "broken JSON in line 1"),
    "csv, a row cut short": ("a.csv", "name,tomogram\na,b\nc\n", "line 3 has 1 values, the head names 2 columns"),
    "csv, a half set of 3": ("a.csv", "name,half_set\na,3\n", r"half_set holds '3' in row 1 \(line 2\)"),
    "csv, a column twice": ("a.csv", "name,class,class\na,3,3\n", "names a column twice"),
    "nothing": ("a.tbl", "", "is empty"),
    "nothing but space": ("a.tbl", "\n \n", "is no particle list that gonio knows"),
    "an image": ("a.star", bytes(range(256)) * 8, "is no particle list that gonio knows"),
}


@pytest.mark.parametrize(("name", "content", "says"), BROKEN.values(), ids=BROKEN)
def test_one_complaint_names_file_place_and_remedy(tmp_path, capsys, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(FormatError, match=says) as caught:
        read_with(path, ReadOptions(may_count_pixels=True, pixel_size_angstrom=1.0))
    assert str(path) in str(caught.value) and caught.value.remedy
    before = sorted(tmp_path.rglob("*"))
    assert run(["convert", str(path), str(tmp_path / "out.csv"), "--pixel-size", "1"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("gonio: error: ") and complaint.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("said", FORMATS)
def test_a_list_that_is_said_to_be_another_is_refused_or_read(tmp_path, said):
    """With --from anything may come to any reader."""
    contents = {name: content for name, content, _ in BROKEN.values()} | {"b.tbl": DYNAMO.format(1)}
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        try:
            read_with(path, ReadOptions(may_count_pixels=True), format=said)
        except FormatError as error:
            assert str(path) in str(error)


def test_a_motive_list_of_another_shape_or_with_no_numbers_is_refused(tmp_path):
    good = np.ones((1, 3, 20), dtype=np.float32)
    good[0, :, 3] = [1, 2, 3]
    for change, says in [
        (lambda a: a[:, :, :19], "is no particle list"),
        (
            lambda a: np.where(np.arange(20) == 16, np.nan, a).astype(np.float32),
            "column phi holds 'nan' in row 1, not a number",
        ),
    ]:
        write_em(tmp_path / "a.em", change(good))
        with pytest.raises(FormatError, match=says):
            read_with(tmp_path / "a.em", ReadOptions(may_count_pixels=True))
    write_em(tmp_path / "a.em", good)
    (tmp_path / "a.em").write_bytes((tmp_path / "a.em").read_bytes()[:-8])
    with pytest.raises(FormatError, match="is truncated"):
        read_with(tmp_path / "a.em", ReadOptions(may_count_pixels=True))


@pytest.mark.parametrize("ends", ["\r\n", "\r", "mixed"])
def test_lines_may_end_in_any_way(tmp_path, ends):
    text = RELION + "a 1 2 3\nb 4 5 6\n"
    if ends == "mixed":
        lines = text.splitlines()
        text = "".join(line + ("\r\n", "\n")[i % 2] for i, line in enumerate(lines))
    else:
        text = text.replace("\n", ends)
    (tmp_path / "a.star").write_bytes(text.encode())
    assert read_star(tmp_path / "a.star").blocks[0].text("rlnCoordinateZ") == ("3", "6")
    (tmp_path / "a.tbl").write_bytes((DYNAMO.format(1) + DYNAMO.format(2)).replace("\n", ends[:1] or "\r").encode())
    options = ReadOptions(may_count_pixels=True)
    if ends != "mixed":
        assert len(read_with(tmp_path / "a.tbl", options)) == 2


def test_values_in_quotes_and_comments_are_read(tmp_path):
    (tmp_path / "a.star").write_text(
        "# version 30001\n\ndata_one  # here\n_label 'two words' # and\n\ndata_ \nloop_\n_a #1\n_b #2\n"
        '"x y" 5\'end # no\n'
    )
    star = read_star(tmp_path / "a.star")
    assert star.version == "30001"
    assert star.find("one").text("label") == ("two words",)
    assert star.blocks[1].columns == {"a": ("x y",), "b": ("5'end",)}
