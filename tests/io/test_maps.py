"""Maps are told by what their files hold, of any format, byte order and compression, whatever they are called."""

import bz2
import gzip
import struct
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from gonio.io import FormatError, read_stack, read_volume, write_volume
from gonio.io.em import read_em, write_em
from gonio.io.maps import read_map
from gonio.particle.volume import Volume

SIMULATED = Path(__file__).parents[3] / "shared" / "data" / "pytom_simulated"


@pytest.fixture
def volume():
    return Volume(np.random.default_rng(1).normal(size=(12, 12, 12)), 3.25)


def mrc_bytes(data, mode, order, *, stamp=None, map_id=b"MAP ", voxel=2.5):
    """An MRC file written by hand from the standard: words 1-4, 8-13, 17-19, 53 and 54."""
    nz, ny, nx = data.shape
    header = bytearray(1024)
    struct.pack_into(order + "4i", header, 0, nx, ny, nz, mode)
    struct.pack_into(order + "3i", header, 28, nx, ny, nz)
    struct.pack_into(order + "6f", header, 40, *(voxel * n for n in (nx, ny, nz)), 90, 90, 90)
    struct.pack_into(order + "3i", header, 64, 1, 2, 3)
    header[208:212] = map_id
    header[212:216] = stamp if stamp is not None else (b"DD\0\0" if order == "<" else b"\x11\x11\0\0")
    return bytes(header) + data.astype(data.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "dtype"), [(0, "int8"), (1, "int16"), (2, "float32"), (6, "uint16"), (12, "float16")])
def test_every_mode_of_either_byte_order_is_read(tmp_path, order, mode, dtype):
    data = (np.arange(512).reshape(8, 8, 8) % 100).astype(dtype)
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(data, mode, order))
    read = read_volume(tmp_path / "a.mrc")
    assert np.array_equal(read.data, data)
    assert read.voxel_size_angstrom == pytest.approx(2.5)


@pytest.mark.parametrize(("mode", "dtype"), [(1, "int16"), (2, "float32"), (12, "float16")])
def test_a_broken_machine_stamp_is_read_when_permitted(tmp_path, mode, dtype):
    data = np.arange(512).reshape(8, 8, 8).astype(dtype)
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(data, mode, "<", stamp=bytes(4)))
    with pytest.raises(FormatError, match=r"machine stamp.*--permissive"):
        read_volume(tmp_path / "a.mrc")
    with pytest.warns(RuntimeWarning, match=r"a\.mrc.*machine stamp"):
        read = read_volume(tmp_path / "a.mrc", permissive=True)
    assert np.array_equal(read.data, data)


@pytest.mark.parametrize("mode", [3, 4, 5, 101, 77])
def test_modes_without_numbers_are_refused(tmp_path, mode):
    (tmp_path / "a.mrc").write_bytes(mrc_bytes(np.ones((8, 8, 8), np.float32), mode, "<"))
    with pytest.raises(FormatError, match=r"a\.mrc"):
        read_volume(tmp_path / "a.mrc")


def test_a_header_that_claims_more_than_there_is_costs_no_memory(tmp_path):
    raw = bytearray(mrc_bytes(np.ones((8, 8, 8), np.float32), 2, "<"))
    struct.pack_into("<3i", raw, 0, 2**20, 2**20, 2**20)
    says = {"a.mrc": "truncated: 2048 of 4611686018427387904 bytes", "a.mrc.gz": "would unpack to 4611686018427 MB"}
    for name, content in {"a.mrc": bytes(raw), "a.mrc.gz": gzip.compress(bytes(raw))}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=says[name]):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("name", ["a.mrc", "a.map.gz", "a.em", "a.em.gz"])
def test_a_volume_comes_back_from_any_format(tmp_path, volume, name):
    write_volume(tmp_path / name, volume)
    again = read_volume(tmp_path / name)
    assert np.array_equal(again.data, volume.data)
    assert again.voxel_size_angstrom == pytest.approx(3.25, rel=1e-6)
    (tmp_path / "anything").write_bytes((tmp_path / name).read_bytes())
    assert np.array_equal(read_volume(tmp_path / "anything").data, volume.data)


def test_names_say_what_is_written(tmp_path, volume):
    for name in ("a.mrc", "a.mrc.gz", "a.em"):
        write_volume(tmp_path / name, volume)
    assert (tmp_path / "a.mrc").read_bytes()[208:211] == b"MAP"
    assert (tmp_path / "a.mrc.gz").read_bytes()[:2] == b"\x1f\x8b"
    assert read_em(tmp_path / "a.em").comment == "voxel size 3.25 angstrom"


def test_bzip2_is_read(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume)
    (tmp_path / "a.mrc.bz2").write_bytes(bz2.compress((tmp_path / "a.mrc").read_bytes()))
    assert np.array_equal(read_volume(tmp_path / "a.mrc.bz2").data, volume.data)


def test_half_precision_is_mode_12(tmp_path, volume):
    write_volume(tmp_path / "a.mrc", volume, half_precision=True)
    with mrcfile.open(tmp_path / "a.mrc", header_only=True) as mrc:
        assert int(mrc.header.mode) == 12
    # Eleven bits of mantissa; what is below the smallest normal number loses up to half of 2^-24.
    assert np.allclose(read_volume(tmp_path / "a.mrc").data, volume.data, rtol=2**-11, atol=2**-25)
    with pytest.raises(FormatError, match="float16 cannot hold"):
        write_volume(tmp_path / "b.mrc", Volume(volume.data * 1e6, 1.0), half_precision=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a.mrc"]


def test_em_files_of_other_programs_need_a_voxel_size(tmp_path, volume):
    write_em(tmp_path / "a.em", volume.data)
    with pytest.raises(FormatError, match=r"no voxel size.*--voxel-size"):
        read_volume(tmp_path / "a.em")
    read = read_volume(tmp_path / "a.em", voxel_size_angstrom=4.0, invert_contrast=True)
    assert np.array_equal(read.data, -volume.data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (np.full((8, 8, 8), np.nan), "512 values that are NaN"),
        (np.full((8, 8, 8), 1e300), "512 values that are NaN or infinite"),
        (np.ones((8, 8, 8), np.complex64), "complex"),
        (np.ones((4, 8, 8)), r"cube of shape \(n, n, n\), got \(4, 8, 8\)"),
    ],
)
def test_em_files_that_are_no_map_say_so(tmp_path, data, says):
    write_em(tmp_path / "a.em", data)
    with pytest.raises(FormatError, match=says):
        read_volume(tmp_path / "a.em", voxel_size_angstrom=1.0)


def test_a_stack_is_read_from_em_too(tmp_path):
    write_em(tmp_path / "a.em", np.arange(4 * 6 * 6).reshape(4, 6, 6).astype(np.int16))
    assert read_stack(tmp_path / "a.em").shape == (4, 6, 6)


@pytest.mark.parametrize("content", [b"", b"x", b"\x1f\x8b", b"BZh", b"\6\0\0\5", bytes(2000), b"text " * 500])
def test_scraps_are_one_error(tmp_path, content):
    (tmp_path / "a.mrc").write_bytes(content)
    with pytest.raises(FormatError, match=r"a\.mrc") as caught:
        read_map(tmp_path / "a.mrc")
    assert caught.value.remedy


@pytest.mark.skipif(not SIMULATED.is_dir(), reason="shared/data/pytom_simulated is not here")
def test_pytoms_volumes_are_read():
    reference = read_volume(SIMULATED / "reference.em.gz", voxel_size_angstrom=10.0)
    assert reference.box == 100
    assert reference.data.std() > 0
