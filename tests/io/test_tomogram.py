"""Pieces of a tomogram are the same whatever holds it, and no more is read than is cut."""

import bz2
import gzip
import json
import struct

import mrcfile
import numpy as np
import pytest

from gonio.io import FormatError, tomogram
from gonio.io.em import write_em
from gonio.io.tomogram import open_tomogram, tomogram_files

SHAPE = (20, 33, 17)
LOW, HIGH = (3, 10, 2), (11, 30, 17)


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)


def write_mrc(path, data, voxel=7.5):
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.set_volume()
        mrc.voxel_size = voxel
    return path


def write_zarr(path, data, *, version=2, unit="nanometer", scale=0.75, leading=0, axes="zyx", levels=2):
    """An OME-Zarr pyramid: metadata of version 0.4 (zarr 2) or 0.5 (zarr 3)."""
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(path, mode="w", zarr_format=version)
    names = ["t", "c"][2 - leading :] + list(axes)
    for level in range(levels):
        values = data[:: 2**level, :: 2**level, :: 2**level]
        array = group.create_array(
            str(level), shape=(1,) * leading + values.shape, chunks=(1,) * leading + (8, 8, 8), dtype=data.dtype
        )
        array[...] = values.reshape(array.shape)
    meta = {
        "version": "0.4" if version == 2 else "0.5",
        "axes": [{"name": n, "type": "space", **({"unit": unit} if n in axes and unit else {})} for n in names],
        "datasets": [
            {
                "path": str(level),
                "coordinateTransformations": [
                    {"type": "scale", "scale": [1.0] * leading + [scale * 2**level] * 3},
                ],
            }
            for level in range(levels)
        ],
    }
    group.attrs.update({"multiscales": [meta]} if version == 2 else {"ome": {"multiscales": [meta]}})
    return path


WRITERS = {
    "a.mrc": write_mrc,
    "a.rec.gz": lambda path, data: path.write_bytes(gzip.compress(write_mrc(path.parent / "w.mrc", data).read_bytes())),
    "a.mrc.bz2": lambda path, data: path.write_bytes(bz2.compress(write_mrc(path.parent / "w.mrc", data).read_bytes())),
    "a.em": lambda path, data: write_em(path, data, voxel_size_angstrom=7.5),
    "a.em.gz": lambda path, data: write_em(path, data, voxel_size_angstrom=7.5),
    "a.zarr": write_zarr,
    "v3.zarr": lambda path, data: write_zarr(path, data, version=3),
    "channels.zarr": lambda path, data: write_zarr(path, data, leading=2),
    "angstrom.zarr": lambda path, data: write_zarr(path, data, unit="angstrom", scale=7.5),
}


@pytest.mark.parametrize("name", WRITERS)
def test_pieces_are_the_same_whatever_holds_them(tmp_path, data, name):
    WRITERS[name](tmp_path / name, data)
    tomogram = open_tomogram(tmp_path / name)
    assert tomogram.shape_zyx == SHAPE
    assert tomogram.voxel_size_angstrom == pytest.approx(7.5)
    piece = tomogram.cut(LOW, HIGH)
    assert piece.dtype == np.float32
    assert np.array_equal(piece, data[3:11, 10:30, 2:17])


@pytest.mark.parametrize(("dtype", "order"), [("int8", "<"), ("int16", ">"), ("float32", ">"), ("float16", "<")])
def test_types_and_byte_orders_are_those_of_the_header(tmp_path, dtype, order):
    values = (np.arange(np.prod(SHAPE)).reshape(SHAPE) % 100).astype(np.dtype(dtype).newbyteorder(order))
    write_mrc(tmp_path / "a.mrc", values)
    assert np.array_equal(open_tomogram(tmp_path / "a.mrc").cut(LOW, HIGH), values[3:11, 10:30, 2:17])


def test_only_the_chunks_that_are_needed_are_read(tmp_path, data):
    path = write_zarr(tmp_path / "a.zarr", data, levels=1)
    chunks = [file for file in (path / "0").rglob("*") if file.is_file() and not file.name.startswith(".z")]
    for chunk in chunks:
        if chunk.relative_to(path / "0").as_posix().replace("/", ".") != "0.1.0":
            chunk.write_bytes(b"broken")
    assert len(chunks) == 3 * 5 * 3
    tomogram = open_tomogram(path)
    assert np.array_equal(tomogram.cut((0, 8, 0), (8, 16, 8)), data[0:8, 8:16, 0:8])
    with pytest.raises(FormatError, match=r"a\.zarr"):
        tomogram.cut((0, 0, 0), (8, 16, 8))


def test_a_mapped_file_is_not_read(tmp_path):
    """A terabyte of zeros that takes no disk."""
    header = bytearray(1024)
    edge = 6000
    struct.pack_into("<4i", header, 0, edge, edge, edge, 2)
    struct.pack_into("<3i", header, 28, edge, edge, edge)
    struct.pack_into("<6f", header, 40, *[edge * 2.0] * 3, 90, 90, 90)
    struct.pack_into("<3i", header, 64, 1, 2, 3)
    header[208:216] = b"MAP DD\0\0"
    with (tmp_path / "large.mrc").open("wb") as stream:
        stream.write(header)
        try:
            stream.truncate(1024 + 4 * edge**3)
        except OSError:
            pytest.skip("this disk has no files with holes")
    tomogram = open_tomogram(tmp_path / "large.mrc")
    assert tomogram.cut((5990, 5990, 5990), (6000, 6000, 6000)).sum() == 0


def test_a_level_may_be_named(tmp_path, data):
    path = write_zarr(tmp_path / "a.zarr", data)
    coarse = open_tomogram(path / "1")
    assert coarse.voxel_size_angstrom == pytest.approx(15.0)
    assert np.array_equal(coarse.cut((0, 0, 0), (4, 4, 4)), data[0:8:2, 0:8:2, 0:8:2])


def test_a_voxel_size_is_the_callers(tmp_path, data):
    write_mrc(tmp_path / "a.mrc", data, voxel=0.0)
    assert open_tomogram(tmp_path / "a.mrc").voxel_size_angstrom == 0
    assert open_tomogram(tmp_path / "a.mrc", voxel_size_angstrom=3.0).voxel_size_angstrom == 3.0
    write_zarr(tmp_path / "a.zarr", data, unit="")
    assert open_tomogram(tmp_path / "a.zarr").voxel_size_angstrom == 0


def test_values_that_are_not_finite_are_told_where_they_are(tmp_path, data):
    spoilt = data.copy()
    spoilt[5, 12, 3] = np.nan
    with pytest.warns(RuntimeWarning):
        write_mrc(tmp_path / "a.mrc", spoilt)
    tomogram = open_tomogram(tmp_path / "a.mrc")
    tomogram.cut((6, 10, 2), HIGH)
    with pytest.raises(FormatError, match=r"1 values that are NaN or infinite in \[3:11, 10:30, 2:17\]"):
        tomogram.cut(LOW, HIGH)


def broken(kind, folder, data):
    path = folder / "broken.mrc"
    if kind == "missing":
        return path
    if kind == "folder":
        path.mkdir()
        return path
    write_mrc(path, data)
    whole = path.read_bytes()
    content = {
        "empty": b"",
        "truncated": whole[:-4],
        "gzip truncated": gzip.compress(whole[:-4]),
        "gzip cut": gzip.compress(whole)[:-40],
    }
    if kind in content:
        path.write_bytes(content[kind])
    elif kind == "image":
        with mrcfile.new(path, overwrite=True) as mrc:
            mrc.set_data(data[0])
    elif kind == "squeezed":
        write_mrc(path, data, voxel=(7.5, 7.5, 8.0))
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("folder", "is a folder, and no zarr"),
        ("empty", "is empty"),
        ("truncated", "truncated: 44876 of 44880"),
        ("gzip truncated", "truncated: 44876 of 44880"),
        ("gzip cut", r"broken\.mrc"),
        ("image", r"array of shape \(33, 17\)"),
        ("squeezed", "voxels are not cubes"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, data, kind, says):
    pytest.importorskip("zarr")
    with pytest.raises(FormatError, match=says) as caught:
        open_tomogram(broken(kind, tmp_path, data))
    assert "broken.mrc" in str(caught.value)
    assert caught.value.remedy


def test_zarrs_that_are_no_tomogram_say_so(tmp_path, data):
    zarr = pytest.importorskip("zarr")
    write_zarr(tmp_path / "turned.zarr", data, axes="xyz")
    with pytest.raises(FormatError, match="axes in the order"):
        open_tomogram(tmp_path / "turned.zarr")
    zarr.open_group(tmp_path / "plain.zarr", mode="w")
    with pytest.raises(FormatError, match="no multiscales"):
        open_tomogram(tmp_path / "plain.zarr")
    path = write_zarr(tmp_path / "lost.zarr", data)
    meta = json.loads((path / ".zattrs").read_text())
    meta["multiscales"][0]["datasets"][0]["path"] = "nowhere"
    (path / ".zattrs").write_text(json.dumps(meta))
    with pytest.raises(FormatError, match=r"lost\.zarr"):
        open_tomogram(path)


def test_folders_stand_for_their_tomograms(tmp_path, data):
    (tmp_path / "all").mkdir()
    for name in ("b.rec", "a.mrc", "notes.txt"):
        write_mrc(tmp_path / "all" / name, data)
    write_zarr(tmp_path / "all" / "c.zarr", data)
    assert [path.name for path in tomogram_files([tmp_path / "all"])] == ["a.mrc", "b.rec", "c.zarr"]
    assert tomogram_files([tmp_path / "all" / "c.zarr"]) == [tmp_path / "all" / "c.zarr"]
    (tmp_path / "none").mkdir()
    with pytest.raises(FormatError, match="has no tomogram"):
        tomogram_files([tmp_path / "none"])


def planted_zarr(path, codecs, dtype="<f4"):
    """An array of one chunk, whose metadata names codecs."""
    layout = {"zarr_format": 2, "shape": [4, 4, 4], "chunks": [4, 4, 4], "dtype": dtype, "fill_value": 0, "order": "C"}
    path.mkdir()
    (path / ".zarray").write_text(json.dumps({**layout, "compressor": None, "filters": None, **codecs}))
    (path / "0.0.0").write_bytes(bytes(256))
    return path


@pytest.mark.parametrize("codecs", [{"compressor": {"id": "planted"}}, {"filters": [{"id": "planted"}]}])
def test_a_zarr_whose_codec_is_not_known_is_refused_before_it_runs(tmp_path, codecs):
    zarr = pytest.importorskip("zarr")
    from numcodecs.abc import Codec
    from numcodecs.registry import register_codec

    ran = []

    class Planted(Codec):
        """A codec that is installed, and does more than decode."""

        codec_id = "planted"

        def encode(self, buf):
            return buf

        def decode(self, buf, out=None):
            ran.append(buf)
            return buf

    register_codec(Planted)
    path = planted_zarr(tmp_path / "a.zarr", codecs)
    with pytest.raises(FormatError, match=r"a\.zarr: is written with the codec 'planted', which gonio does not use"):
        open_tomogram(path).cut((0, 0, 0), (4, 4, 4))
    assert not ran
    zarr.open(path, mode="r")[:]
    assert ran  # it would have


@pytest.mark.parametrize("dtype", ["<f4", "|O"])
@pytest.mark.parametrize("codecs", [{"compressor": {"id": "pickle"}}, {"filters": [{"id": "pickle"}]}])
def test_a_zarr_of_pickles_is_refused(tmp_path, dtype, codecs):
    pytest.importorskip("zarr")
    with pytest.raises(FormatError, match=r"a\.zarr"):
        open_tomogram(planted_zarr(tmp_path / "a.zarr", codecs, dtype))


def test_a_zarr_of_shards_is_read_and_its_inner_codecs_are_looked_at(tmp_path, monkeypatch):
    zarr = pytest.importorskip("zarr")
    kept = {"shape": (32, 32, 32), "chunks": (8, 8, 8), "shards": (16, 16, 16), "dtype": "float32"}
    zarr.create_array(tmp_path / "a.zarr", compressors=[zarr.codecs.GzipCodec()], **kept)[:] = 2.0
    assert (open_tomogram(tmp_path / "a.zarr").cut((0, 0, 0), (9, 9, 9)) == 2.0).all()
    monkeypatch.setattr(tomogram, "CODECS", tuple(name for name in tomogram.CODECS if name != "gzip"))
    with pytest.raises(FormatError, match=r"a\.zarr: is written with the codec 'gzip'"):
        open_tomogram(tmp_path / "a.zarr")


def test_a_zarr_of_chunks_without_bound_is_refused(tmp_path, data):
    path = write_zarr(tmp_path / "a.zarr", data)
    file = path / "0" / ".zarray"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chunks": [2**20, 2**20, 2**20]}))
    with pytest.raises(FormatError, match=r"a\.zarr: has chunks of \d+ bytes"):
        open_tomogram(path)


@pytest.mark.parametrize("multiscales", [7, [3], [{"datasets": 1}], [{"datasets": [{"path": 1}]}], [{"datasets": []}]])
def test_a_zarr_with_values_of_other_types_is_refused_in_one_line(tmp_path, data, multiscales):
    path = write_zarr(tmp_path / "a.zarr", data)
    (path / ".zattrs").write_text(json.dumps({"multiscales": multiscales}))
    with pytest.raises(FormatError, match=r"a\.zarr") as told:
        open_tomogram(path)
    assert len(str(told.value)) < 400
