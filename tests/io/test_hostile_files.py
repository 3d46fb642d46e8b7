"""Files that are made to harm: each is refused in one short line that names it, soon and in little memory."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import resource
import struct
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gonio.io import FormatError, read_particles
from gonio.io.blocks import read_star
from gonio.io.errors import LONGEST
from gonio.io.lists import read_with, write_particles
from gonio.io.maps import read_map
from gonio.io.mrc import read_sections
from gonio.io.names import stem
from gonio.io.peet import write_model
from gonio.io.source import ReadOptions
from gonio.io.tilt_files import is_tilt_file, read_tilts
from gonio.io.tomogram import open_tomogram
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.simulate.structure import read_atoms

ROWS = ReadOptions(may_count_pixels=True, pixel_size_angstrom=1.0)
RELION = "data_\nloop_\n_rlnImageName\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n"
OPTICS = "data_optics\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n1 {}\n\ndata_particles\nloop_\n_rlnOpticsGroup\n"
DYNAMO = "1 1 1 0 0 0 10 20 30 0.5 0 0 1 -50 40 0 0 0 0 1 0 0 0 11 12 13\n"
TURN = '{"xform.align3d":{"matrix":"[1,0,0,0,0,1,0,0,0,0,1,0]"}}'
LST = f"#LSX\n# note\n# 80\n0\ta.hdf\t{TURN}\n"
PLAIN = "name,x_angstrom,y_angstrom,z_angstrom,pixel_size_angstrom,class\n"
PYTOM = '<Particle Filename="a.em"><Rotation Z1="1" Z2="2" X="3"/><Shift X="0" Y="0" Z="0"/>{}</Particle>'
DEEP = 100_000

REFUSED = {
    "a half set of -1": ("a.star", RELION + "_rlnRandomSubset\na 1 2 3 -1\n", "from 0 to 2"),
    "a half set of 258": ("a.star", RELION + "_rlnRandomSubset\na 1 2 3 258\n", r"holds '258' in row 1 \(line 8\)"),
    "a half set of 1.9": ("a.star", RELION + "_rlnRandomSubset\na 1 2 3 1.9\n", "not a whole number from 0 to 2"),
    "a class of 1e30": ("a.star", RELION + "_rlnClassNumber\na 1 2 3 1e30\n", "holds '1e30' in row 1"),
    "a class of 1e30 in Dynamo": (
        "a.tbl",
        DYNAMO.replace(" 1 0 0 0 11", " 1 0 1e30 0 11"),
        "column class holds '1e30'",
    ),
    "a tag of 1.5": ("a.tbl", "1.5" + DYNAMO[1:], "column tag holds '1.5' in row 1"),
    "a pixel size of 0": ("a.star", OPTICS.format(0) + "_rlnImageName\n1 a\n", "not a number above 0"),
    "a negative pixel size": ("a.star", OPTICS.format(-2) + "_rlnImageName\n1 a\n", "holds '-2' in row 1"),
    "a plain pixel size of 0": ("a.csv", PLAIN + "a,1,2,3,0,1\n", "pixel_size_angstrom holds '0' in row 1"),
    "coordinates without end": ("a.csv", PLAIN + "a,1,inf,3,1,1\n", "y_angstrom holds 'inf' in row 1"),
    "numbers that only Python knows": ("a.star", RELION + "a 1_0 2 3\n", "holds '1_0' in row 1"),
    "digits that are no digits": ("a.star", RELION + "a \u0661 2 3\n", "rlnCoordinateX of block data_ holds"),
    "a second loop_": ("a.star", "data_\nloop_\n_rlnImageName\na\nloop_\nb\n", "line 5 begins a loop_ behind"),
    "a row before the first block": ("a.star", "_rlnImageName a\n" + RELION + "a 1 2 3\n", "line 1 stands before"),
    "a row cut before its JSON": ("a.lst", LST + "1\ta.hdf\n", "line 5 has no values in JSON, as others have"),
    "a row without a transform": ("a.lst", LST + '1\ta.hdf\t{"score":1}\n', "line 5 has no xform.align3d"),
    "a JSON key twice": ("a.lst", LST + f'1\ta.hdf\t{TURN[:-1]},"score":1,"score":2}}\n', "line 5 is not NUMBER"),
    "a particle twice": ("a.json", "{\"('a', 1)\": 1, \"('a', 1)\": 2}", "twice"),
    "deep JSON": ("a.json", "{\"('a', 1)\": " + "[" * DEEP, "recursion|JSON"),
    "deep JSON in a row": ("a.lst", LST + '1\ta.hdf\t{"a":' + "[" * DEEP + "\n", "line 5 is not NUMBER"),
    "a deep key": ("a.json", '{"(' + "(" * DEEP + '": {}}', r"is not \(FILE, NUMBER\)"),
    "values that are none": ("a.json", "{\"('a', 1)\": 7}", "with a dictionary of values"),
    "a score that is a list": (
        "a.lst",
        LST.replace('{"x', '{"score":[1],"x'),
        r"score in line 4 is \[1\], not a number",
    ),
    "a class of half": ("a.lst", LST.replace('{"x', '{"class":0.5,"x'), "class in line 4 is 0.5, not a whole number"),
    "a tomogram that is a list": (
        *("a.lst", LST.replace('{"x', '{"ptcl_source_image":{},"x')),
        "ptcl_source_image in line 4 is {}, not a text",
    ),
    "a place that is a text": (
        *("a.lst", LST.replace('{"x', '{"ptcl_source_coord":[1,2,null],"x')),
        r"ptcl_source_coord in line 4 is \[1, 2, None\], not three numbers",
    ),
    "a size of 0": (
        "a.lst",
        LST.replace('{"x', '{"ptcl_source_apix":0,"x'),
        "ptcl_source_apix in line 4 is 0, not above",
    ),
    "boxes that are no list": ("a.json", '{"boxes_3d": {"a": 1}}', "has no boxes_3d"),
    "a box that is a number": ("a.json", '{"boxes_3d": [7]}', "box 1 is 7, without three numbers"),
    "deep XML": ("a.xml", f"<ParticleList>{PYTOM.format('<a>' * 5000 + '</a>' * 5000)}</ParticleList>", "recursion"),
    "a long CSV field": ("a.csv", PLAIN + "a" * 200_000 + ",1,2,3,1,1\n", "field larger than field limit"),
    "a name beyond all lengths": ("a.star", RELION + "a" * 100_000 + " 1 2\n", "row 1 .* ends early"),
    "bytes that are no text": ("a.star", RELION.encode() + b"\xff 1 2 3\n", "utf-8"),
}


@pytest.mark.parametrize(("name", "content", "says"), REFUSED.values(), ids=REFUSED)
def test_a_list_is_refused_in_one_short_line(tmp_path, name, content, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    options = ReadOptions(may_count_pixels=True) if "pixel" in says or "row 1, not" in says else ROWS
    if "size" in says or "above 0" in says or "'-2'" in says:
        options = ReadOptions(may_count_pixels=True)
    with pytest.raises(FormatError, match=says) as caught:
        read_with(path, options)
    text = str(caught.value)
    assert len(text) <= LONGEST and text.isprintable() and text.startswith(str(path)[:100])


def test_messages_are_short_and_printable_whatever_is_in_them():
    error = FormatError("/" + "p" * 5000 + "\x1b[31m", "\n".join("abc" * 500), "r" * 1000)
    assert len(str(error)) <= LONGEST and str(error).isprintable()
    assert error.problem.startswith("a\nb\nc")  # all of it is there for those who ask
    assert str(FormatError("a", "b", "c")) == "a: b; c"


def test_text_behind_a_closing_quote_stays(tmp_path):
    (tmp_path / "a.star").write_text("data_\nloop_\n_a\n_b\n\"x\"y z\" 'q'r'\n'tis \"it\n'loop_' \"_x\"\n")
    block = read_star(tmp_path / "a.star").blocks[0]
    assert block.columns == {"a": ('x"y z', "'tis", "loop_"), "b": ("q'r", '"it', "_x")}


def test_quoted_words_are_never_syntax(tmp_path):
    (tmp_path / "a.star").write_text("data_\nloop_\n_a\n'data_x'\n\"_b\"\n'loop_'\n")
    (block,) = read_star(tmp_path / "a.star").blocks
    assert block.columns == {"a": ("data_x", "_b", "loop_")}


@pytest.mark.parametrize("kept", [-4, 300, 260, 100, 4])
def test_a_model_without_its_end_is_refused(tmp_path, kept):
    pytest.importorskip("imodmodel")
    table = ParticleTable(Pose.identity(2), ("1", "2"), ("t", "t"), np.ones((2, 3)), pixel_sizes_angstrom=np.ones(2))
    path = tmp_path / "a.mod"
    write_model(path, table)
    whole = path.read_bytes()
    assert len(read_with(path, ROWS, format="imod")) == 2
    path.write_bytes(whole[:kept])
    with pytest.raises(FormatError, match=r"truncated or broken|no IMOD|unpack_from"):
        read_with(path, ROWS, format="imod")
    path.write_bytes(whole[:-4] + b"CONT" + struct.pack(">iIii", 2**31 - 1, 0, 0, 0) + b"IEOF")
    with pytest.raises(FormatError, match="truncated or broken: its piece b'CONT'"):
        read_with(path, ROWS, format="imod")


def seconds(action) -> float:
    """Of the processor, whether it succeeds or not."""
    start = time.process_time()
    with suppress(FormatError):
        action()
    return time.process_time() - start


@pytest.mark.parametrize(
    ("name", "content"),
    {
        "empty lines": ("a.tlt", "\n" * 100_000 + "x"),
        "blanks in an mdoc": ("a.mdoc", "[ZValue = 0]\nTiltAngle = 1\na =" + " " * 200_000 + "\n"),
        "quotes that do not close": ("a.star", "data_\nloop_\n_a\n" + " \"a 'b" * 30_000),
    }.values(),
)
def test_no_reader_looks_for_the_same_again_and_again(tmp_path, name, content):
    """Some took the square of the length: minutes for these."""
    path = tmp_path / name
    path.write_text(content)
    assert seconds(lambda: is_tilt_file(path)) + seconds(lambda: read_tilts(path)) < 2
    if name.endswith(".star"):
        assert seconds(lambda: read_star(path)) < 2


def test_a_name_of_endings_is_short_work():
    assert seconds(lambda: stem("a" + ".gz" * 20_000)) < 2
    assert stem("a" + ".gz" * 20) == "a"


def bomb(shape: tuple[int, int, int], *, extended: int = 0) -> bytes:
    """An MRC file of zeros, headers and all."""
    raw = bytearray(1024)
    struct.pack_into("<4i", raw, 0, *shape, 2)
    struct.pack_into("<3i3f", raw, 28, *shape, *map(float, shape))
    struct.pack_into("<3i", raw, 64, 1, 2, 3)
    struct.pack_into("<i", raw, 92, extended)
    raw[208:216] = b"MAP DD\0\0"
    return bytes(raw)


def zeros(pack, count: int) -> bytes:
    """Very many packed zeros, not held unpacked."""
    packer = pack()
    pieces = [packer.compress(bytes(2**24)) for _ in range(count >> 24)]
    return b"".join([*pieces, packer.flush()])


@pytest.mark.parametrize("kind", ["bzip2", "gzip"])
def test_a_packed_file_is_not_unpacked_without_end(tmp_path, kind, monkeypatch):
    """Two files behind each other are one to gzip and bzip2: a header, and half a gigabyte of zeros."""
    path = tmp_path / "a.mrc"
    if kind == "bzip2":
        path.write_bytes(bz2.compress(bomb((512, 512, 512))) + zeros(bz2.BZ2Compressor, 2**29))
    else:
        path.write_bytes(gzip.compress(bomb((512, 512, 512))) + zeros(lambda: zlib.compressobj(9, wbits=31), 2**29))
    for read in (read_map, open_tomogram, lambda path: read_sections(path, [0, 511])):
        with pytest.raises(FormatError, match=r"would unpack to 537 MB, more than 25\d; unpack it before"):
            read(path)
    monkeypatch.setenv("GONIO_UNPACK_GB", "1")
    assert open_tomogram(path).shape_zyx == (512, 512, 512)
    monkeypatch.setenv("GONIO_UNPACK_GB", "much")
    with pytest.raises(FormatError, match="GONIO_UNPACK_GB is 'much'; set it to a number"):
        read_map(path)


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress])
@pytest.mark.parametrize("extended", [2**31 - 1, -5])
def test_an_extended_header_is_believed_as_far_as_the_file_goes(tmp_path, pack, extended):
    path = tmp_path / "a.mrc"
    path.write_bytes(pack(bomb((4, 4, 4), extended=extended) + bytes(256)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for permissive in (False, True):
        with pytest.raises(FormatError, match=r"extended header|would unpack"):
            read_map(path, permissive=permissive)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000 * (
        1024 if sys.platform == "darwin" else 1
    )


def test_a_whole_extended_header_is_passed_over(tmp_path):
    data = np.arange(64, dtype=np.float32).reshape(4, 4, 4)
    path = tmp_path / "a.mrc"
    path.write_bytes(bomb((4, 4, 4), extended=160) + bytes(range(160)) + data.tobytes())
    assert np.array_equal(read_map(path).data, data)
    with mrcfile.open(path) as mrc:
        assert np.array_equal(mrc.data, data)


def test_a_small_parquet_table_has_no_billion_rows(tmp_path):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    path = tmp_path / "a.parquet"
    same = pyarrow.array(["a"] * 4_000_000)
    parquet.write_table(pyarrow.table({"name": same}), path)
    with pytest.raises(FormatError, match="states 4000000 rows of 1 columns, more than so small a file can hold"):
        read_with(path, ROWS)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["a.star", "a.csv", "a.mrc", "a.tlt", "a.em"])
def test_pipes_and_devices_are_refused(tmp_path, name):
    """Opening a pipe waits for ever, so it is tried in a process of its own."""
    os.mkfifo(tmp_path / name)
    for path in (tmp_path / name, Path("/dev/zero")):
        program = (
            "import sys\nfrom gonio.io import FormatError, read_particles\nfrom gonio.io.maps import read_map\n"
            "from gonio.io.tilt_files import read_tilts\nfrom gonio.io.tomogram import open_tomogram\n"
            "for read in (read_particles, read_map, read_tilts, open_tomogram):\n"
            "    try:\n        read(sys.argv[1])\n    except FormatError as error:\n        print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program, str(path)], capture_output=True, text=True, timeout=120, check=True
        )
        assert done.stdout == f"{path}: is a device, a socket or a pipe; give a file\n" * 4


def test_a_list_beside_a_pipe_is_read(tmp_path):
    """What lies beside a list and may belong to it is looked at, and no more."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("no pipes here")
    (tmp_path / "a.tbl").write_text(DYNAMO)
    for name in ("a.tbl.doc", "a.doc"):
        os.mkfifo(tmp_path / name)
    assert len(read_with(tmp_path / "a.tbl", ROWS)) == 1


@pytest.mark.parametrize("content", [b"\xff\xfe 1 a\n", b"1 a\n1 b\n", b"\xd9\xa1 a\n", b"9" * 400 + b" a\n"])
def test_a_table_map_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "a.tbl").write_text(DYNAMO)
    (tmp_path / "a.tbl.doc").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.tbl\.doc: .*; correct or remove it"):
        read_with(tmp_path / "a.tbl", ROWS)


ATOM = "ATOM  {:5d}  CA  ALA A{:4d}    {:>8s}{:>8s}{:>8s}  1.00 20.00           C\n"
REMARKS = (
    "REMARK 350 BIOMOLECULE: 1\nREMARK 350 APPLY THE FOLLOWING TO CHAINS: A, Z\n"
    "REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000\n"
    "REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000\n"
    "REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000\n"
)


def test_an_assembly_of_a_chain_that_is_not_there_is_refused(tmp_path):
    path = tmp_path / "a.pdb"
    path.write_text(REMARKS + ATOM.format(1, 1, "1.0", "2.0", "3.0"))
    with pytest.raises(ValueError, match=r"a\.pdb cannot be assembled as it states.*no chain Z.*assembly=None"):
        read_atoms(path)
    assert len(read_atoms(path, assembly=None).weights) == 1


@pytest.mark.parametrize("place", ["nan", "inf", "?", "."])
def test_an_atom_without_a_place_is_refused(tmp_path, place):
    path = tmp_path / "a.cif"
    labels = ("group_PDB", "id", "type_symbol", "label_atom_id", "label_alt_id", "label_comp_id", "label_asym_id")
    labels += ("label_entity_id", "label_seq_id", "Cartn_x", "Cartn_y", "Cartn_z", "occupancy", "B_iso_or_equiv")
    labels += ("auth_seq_id", "auth_asym_id", "pdbx_PDB_model_num")
    head = "data_a\nloop_\n" + "".join(f"_atom_site.{label}\n" for label in labels)
    rows = [f"ATOM {i} C CA . ALA A 1 {i} {x} 2 3 1 20 {i} A 1\n" for i, x in ((1, "1.5"), (2, place))]
    path.write_text(head + "".join(rows))
    with pytest.raises(ValueError, match=r"a\.cif gives atom .*A.ALA 2.CA no place"):
        read_atoms(path)


def test_a_packed_structure_is_not_unpacked_without_end(tmp_path):
    path = tmp_path / "a.pdb.gz"
    path.write_bytes(zeros(lambda: zlib.compressobj(9, wbits=31), 2**26))
    with pytest.raises(ValueError, match="it unpacks to far more than it should"):
        read_atoms(path)


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": 7},
        {"multiscales": [7]},
        {"multiscales": [{"datasets": {}}]},
        {"multiscales": [{"datasets": [{"path": 7}]}]},
        {"multiscales": [{"datasets": [{"path": "0"}], "axes": 7}]},
        {
            "multiscales": [
                {"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": "a"}]}]}
            ]
        },
        {"ome": [1]},
    ],
)
def test_metadata_of_another_type_are_refused_or_not_used(tmp_path, attributes):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    group.create_array("0", data=np.ones((4, 4, 4), np.float32))
    stated = json.loads((tmp_path / "a.zarr" / "zarr.json").read_text()) | {"attributes": attributes}
    (tmp_path / "a.zarr" / "zarr.json").write_text(json.dumps(stated))
    try:
        assert open_tomogram(tmp_path / "a.zarr").voxel_size_angstrom == 0
    except FormatError as error:
        assert len(str(error)) <= LONGEST


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"coordinates_angstrom": np.array([[0, 0, 0], [0, np.inf, 0]])}, "'b' in row 2 has coordinates that are not"),
        ({"pixel_sizes_angstrom": np.array([1.0, 0.0])}, "'b' in row 2 has a pixel size that is not a number above 0"),
        ({"pixel_sizes_angstrom": np.array([np.nan, 1.0])}, "'a' in row 1 has a pixel size"),
        ({"half_sets": np.array([3, 1], np.int8)}, "'a' in row 1 has a half set other than 0, 1 and 2"),
    ],
)
def test_a_table_holds_no_nonsense(changes, says):
    with pytest.raises(ValueError, match=says):
        ParticleTable(Pose.identity(2), ("a", "b"), ("t", "t"), **changes)


def test_numbers_that_overflow_are_refused(tmp_path):
    """Each is finite, their product is not."""
    (tmp_path / "a.star").write_text(RELION + "_rlnPixelSize\na 1e200 2 3 1e200\n")
    with (
        pytest.warns(RuntimeWarning, match="overflow"),
        pytest.raises(FormatError, match="particle 'a' in row 1 has coord"),
    ):
        read_particles(tmp_path / "a.star")


def test_what_float32_cannot_hold_is_not_written(tmp_path):
    table = ParticleTable(
        Pose.identity(1), ("1",), ("1",), np.array([[1e8, 0, 0]]), pixel_sizes_angstrom=np.full(1, 1e-32)
    )
    with pytest.raises(FormatError, match="x of row 1 is more than float32 can hold"):
        write_particles(tmp_path / "a.em", table, format="av3")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shift", "coordinate", "size", "what"),
    [(1e300, 0.0, 1.0, "a shift"), (0.0, 1e300, 1.0, "coordinates"), (0.0, 0.0, 1e300, "a pixel size")],
)
def test_nothing_is_as_far_as_files_cannot_hold(shift, coordinate, size, what):
    with pytest.raises(ValueError, match=rf"particle 'a' in row 1 has {what}"):
        ParticleTable(
            Pose.from_euler_zyz_deg([[0.0, 0.0, 0.0]], [[shift, 0.0, 0.0]]),
            ("a",),
            ("",),
            coordinates_angstrom=np.array([[coordinate, 0.0, 0.0]]),
            pixel_sizes_angstrom=np.array([size]),
        )


def test_a_parquet_schema_that_is_none_is_one_error(tmp_path, monkeypatch):
    parquet, pyarrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")

    def refuse(path):
        raise pyarrow.ArrowNotImplementedError("Integers not in cstdint are not implemented")

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"name": ["a"]}), path)
    monkeypatch.setattr(parquet, "read_metadata", refuse)
    with pytest.raises(FormatError, match=r"Integers not in cstdint.*; give a Parquet table as gonio writes it"):
        read_particles(path)
