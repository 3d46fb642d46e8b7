"""MRC files come back as they were written, and every broken one says what is wrong with it."""

import gzip
import os
import pickle

import mrcfile
import numpy as np
import pytest

from gonio.io import FormatError, read_stack, read_volume, write_volume
from gonio.particle.volume import Volume


@pytest.fixture
def volume():
    return Volume(np.random.default_rng(1).normal(size=(12, 12, 12)), 3.25)


def write_raw(path, data, voxel_size=(4.0, 4.0, 4.0)):
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data)
        mrc.set_volume()
        mrc.voxel_size = voxel_size
    return path


@pytest.mark.parametrize("name", ["map.mrc", "map.mrc.gz", "odd.map"])
def test_a_volume_comes_back(tmp_path, volume, name):
    write_volume(tmp_path / name, volume)
    again = read_volume(tmp_path / name)
    assert np.array_equal(again.data, volume.data)
    assert again.voxel_size_angstrom == pytest.approx(3.25, rel=1e-6)  # a float32 cell length in the header
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8", "int16", "uint16"])
def test_every_real_mode_is_read(tmp_path, dtype):
    data = np.arange(512).reshape(8, 8, 8) % 100
    path = write_raw(tmp_path / "map.mrc", data.astype(dtype))
    assert np.array_equal(read_volume(path).data, data)


def test_contrast_and_voxel_size_are_the_callers(tmp_path, volume):
    write_volume(tmp_path / "map.mrc", volume)
    again = read_volume(tmp_path / "map.mrc", invert_contrast=True, voxel_size_angstrom=2.0)
    assert np.array_equal(again.data, -volume.data)
    assert again.voxel_size_angstrom == 2.0


def test_a_stack_of_one_image_is_a_stack(tmp_path):
    with mrcfile.new(tmp_path / "one.mrcs") as mrc:
        mrc.set_data(np.ones((8, 8), np.float32))
    assert read_stack(tmp_path / "one.mrcs").shape == (1, 8, 8)


def cut(path, keep):
    path.write_bytes(path.read_bytes()[:keep])
    return path


def broken(kind, folder):
    path, cube = folder / "broken.mrc", np.ones((8, 8, 8), np.float32)
    hole = cube.copy()
    hole[0, 0, 0] = np.nan
    if kind == "missing":
        return path
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("no map at all " * 200)
    elif kind == "folder":
        path.mkdir()
    elif kind == "nan":
        with pytest.warns(RuntimeWarning, match="NaN"):
            write_raw(path, hole)
    elif kind == "gzip cut":
        path.write_bytes(gzip.compress(write_raw(folder / "whole.mrc", cube).read_bytes())[:60])
    elif kind == "axes":
        write_raw(path, cube)
        with mrcfile.open(path, "r+") as mrc:
            mrc.header.mapc, mrc.header.maps = 3, 1
    else:
        data = {"flat": cube[:4], "complex": cube.astype(np.complex64)}.get(kind, cube)
        size = {"squeezed": (4.0, 4.0, 4.1), "no size": (0.0, 0.0, 0.0)}.get(kind, (4.0, 4.0, 4.0))
        write_raw(path, data, size)
        cut(path, {"header cut": 500, "truncated": 1024 + 99}.get(kind))
        if kind == "longer":
            path.write_bytes(path.read_bytes() + b"0")
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "no such file"),
        ("empty", "is empty"),
        ("text", "Map ID"),
        ("folder", "is a folder"),
        ("header cut", "header"),
        ("truncated", "truncated: 99 of 2048"),
        ("gzip cut", "broken.mrc"),
        ("longer", "longer than the shape.*--permissive"),
        ("flat", r"cube of shape \(n, n, n\), got \(4, 8, 8\)"),
        ("nan", "1 values that are NaN"),
        ("complex", "complex"),
        ("squeezed", "4 x 4 x 4.1"),
        ("no size", "--voxel-size"),
        ("axes", "axes"),
    ],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, kind, says):
    path = broken(kind, tmp_path)
    with pytest.raises(FormatError, match=says) as caught:
        read_volume(path)
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_permissive_reading_takes_a_file_without_map_id(tmp_path):
    path = write_raw(tmp_path / "old.mrc", np.ones((8, 8, 8), np.float32) * 7)
    raw = bytearray(path.read_bytes())
    raw[208:216] = bytes(8)
    path.write_bytes(raw + b"tail")
    with pytest.warns(RuntimeWarning) as told:
        assert read_volume(path, permissive=True).data.mean() == 7
    assert any("Map ID" in str(one.message) and str(path) in str(one.message) for one in told)
    assert any("longer than the shape" in str(one.message) for one in told)
    with pytest.raises(FormatError, match="Map ID"):
        read_volume(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, volume, monkeypatch):
    path = tmp_path / "map.mrc"
    write_volume(path, volume)
    before = path.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FormatError, match="No space left"):
        write_volume(path, Volume(-volume.data, 1.0))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_writing_into_no_folder_is_an_error(tmp_path, volume):
    with pytest.raises(FormatError, match="does not exist"):
        write_volume(tmp_path / "nowhere" / "map.mrc", volume)
    (tmp_path / "file").touch()
    with pytest.raises(FormatError):
        write_volume(tmp_path / "file" / "map.mrc", volume)
