"""EM files come back as they were written, whatever machine wrote them, and broken ones say what is wrong."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gonio.io import FormatError
from gonio.io.em import read_em, write_em

SHARED = Path(__file__).parents[3] / "shared" / "data"
MOTIVES = SHARED / "tables" / "cryocat_motl_ribosome.em"
REFERENCE = SHARED / "pytom_simulated" / "reference.em.gz"


def em_bytes(data, *, machine=6, code=5, order="<", comment=b"", parameters=()):
    """An EM file written by hand, byte by byte."""
    numbers = np.zeros(40, order + "i4")
    numbers[: len(parameters)] = parameters
    edges = np.array(data.shape[::-1], order + "i4").tobytes()
    header = bytes([machine, 0, 0, code]) + edges + comment.ljust(80, b"\0") + numbers.tobytes() + bytes(256)
    return header + data.astype(data.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize(("machine", "order"), [(0, ">"), (1, "<"), (2, ">"), (3, ">"), (5, ">"), (6, "<")])
@pytest.mark.parametrize(
    ("code", "dtype"), [(1, "uint8"), (2, "int16"), (4, "int32"), (5, "float32"), (8, "complex64"), (9, "float64")]
)
def test_every_type_of_every_machine_is_read(tmp_path, machine, order, code, dtype):
    data = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
    raw = em_bytes(data, machine=machine, code=code, order=order, comment=b"a comment", parameters=[300, -7])
    (tmp_path / "a.em").write_bytes(raw)
    em = read_em(tmp_path / "a.em")
    assert em.data.dtype == dtype and em.data.dtype.isnative
    assert np.array_equal(em.data, data)
    assert em.comment == "a comment"
    assert list(em.parameters[:3]) == [300, -7, 0]
    assert em.voxel_size_angstrom == 0


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 6)),
    dtype=st.sampled_from(["uint8", "int16", "int32", "float32", "complex64", "float64"]),
    parameters=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=40),
    user_data=st.binary(max_size=256),
    compressed=st.booleans(),
)
def test_what_is_written_comes_back(tmp_path_factory, shape, dtype, parameters, user_data, compressed):
    path = tmp_path_factory.mktemp("em") / ("a.em.gz" if compressed else "a.em")
    data = np.random.default_rng(len(parameters)).integers(0, 100, shape).astype(dtype)
    write_em(path, data, comment="as it was", parameters=parameters, user_data=user_data)
    em = read_em(path)
    assert em.data.dtype == dtype
    assert np.array_equal(em.data, data)
    assert list(em.parameters[: len(parameters)]) == parameters
    assert em.user_data == user_data.ljust(256, b"\0")
    assert em.comment == "as it was"
    assert (path.read_bytes()[:2] == b"\x1f\x8b") == compressed


def test_types_that_em_does_not_know_become_float32(tmp_path):
    write_em(tmp_path / "a.em", np.arange(5, dtype=np.int64))
    assert read_em(tmp_path / "a.em").data.dtype == np.float32
    assert read_em(tmp_path / "a.em").data.shape == (1, 1, 5)


def test_the_voxel_size_comes_back(tmp_path):
    write_em(tmp_path / "a.em", np.ones((2, 2, 2)), voxel_size_angstrom=13.245)
    assert read_em(tmp_path / "a.em").voxel_size_angstrom == 13.245


def test_values_that_are_not_finite_stay(tmp_path):
    write_em(tmp_path / "a.em", np.array([np.nan, np.inf, 1.0]))
    assert np.array_equal(read_em(tmp_path / "a.em").data.ravel(), [np.nan, np.inf, 1.0], equal_nan=True)


def broken(kind, folder):
    path, whole = folder / "broken.em", em_bytes(np.ones((4, 4, 4), np.float32))
    content = {
        "empty": b"",
        "text": b"no map at all " * 99,
        "type": whole[:3] + b"\7" + whole[4:],
        "machine": b"\x63" + whole[1:],
        "size": whole[:4] + bytes([255] * 4) + whole[8:],
        "lies": whole[:4] + bytes([5, 0, 0, 0]) + whole[8:],
        "header cut": whole[:300],
        "truncated": whole[:-1],
        "longer": whole + b"0",
        "gzip cut": gzip.compress(whole)[:-9],
        "gzip broken": gzip.compress(whole)[:40] + b"?????" + gzip.compress(whole)[45:],
    }
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder"),
        ("empty", "is empty"),
        ("text", "no EM file"),
        ("type", "no EM file"),
        ("machine", "no EM file"),
        ("size", "no EM file"),
        ("lies", "truncated: 256 of 320 bytes"),
        ("header cut", "truncated: 300 of 512"),
        ("truncated", "truncated: 255 of 256"),
        ("longer", "longer than the shape"),
        ("gzip cut", "end-of-stream"),
        ("gzip broken", "broken.em"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, kind, says):
    path = broken(kind, tmp_path)
    with pytest.raises(FormatError, match=says) as caught:
        read_em(path)
    assert str(path) in str(caught.value)


def test_what_the_header_cannot_hold_is_refused(tmp_path):
    for wrong in ({"comment": "x" * 81}, {"parameters": range(41)}, {"user_data": bytes(257)}):
        with pytest.raises(ValueError, match="EM header holds"):
            write_em(tmp_path / "a.em", np.ones(3), **wrong)
    with pytest.raises(ValueError, match="one to three axes"):
        write_em(tmp_path / "a.em", np.ones((1, 1, 1, 1)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not MOTIVES.is_file(), reason="shared/data/tables is not here")
def test_files_of_other_programs_are_read():
    motives = read_em(MOTIVES)
    assert motives.data.shape == (1, 1023, 20)
    assert motives.data.dtype == np.float32
    assert motives.comment == "A" * 80
    reference = read_em(REFERENCE)
    assert reference.data.shape == (100, 100, 100)
    assert np.isfinite(reference.data).all()
