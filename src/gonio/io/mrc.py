"""MRC files: density maps, tomograms and stacks of images.

Owns which fields of an MRC header are used: shape, data type and voxel size. Modes 0 (int8, or uint8 where IMOD's
header states so), 1 (int16), 2 (float32), 6 (uint16) and 12 (float16) are read, of either byte order. What is read is
complete (the file is as long as its header states) and finite; everything written replaces its target in one step.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

import mrcfile
import mrcfile.mrcinterpreter
import mrcfile.utils
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.io.compressed import Layout, check_unpacked, is_uncompressed, opened, payload
from gonio.io.errors import FormatError, reading, replacing

HEADER_BYTES = 1024
PIECE = 2**22  # values looked at together
MODES = (0, 1, 2, 6, 12)
EXTENDED = 92  # byte of the extended header's length
IMOD_STAMP = 1146047817
# Headers hold float32 cell lengths and integers: 0.1 % is far above their rounding and below any real squeeze.
ISOTROPY = 1e-3
BROKEN = "write the file again, or pass --permissive (permissive=True) if other programs accept it"


@dataclass(frozen=True)
class MapFile:
    """Content of a file of a map or of images: values (z, y, x), float32, finite; voxel size and origin (angstrom)."""

    path: Path
    data: NDArray[np.float32]
    voxel_size_xyz_angstrom: NDArray[np.float64]
    origin_xyz_angstrom: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))

    def voxel_size_angstrom(self, *, axes: int = 3) -> float:
        """Return the voxel size of an isotropic map (``axes=2``: of the images of a stack); 0 where there is none."""
        sizes = self.voxel_size_xyz_angstrom[:axes]
        if not np.isfinite(sizes).all() or sizes.min() <= 0:
            return 0.0
        if sizes.max() > sizes.min() * (1 + ISOTROPY):
            problem = f"voxels are not cubes: {' x '.join(f'{size:g}' for size in sizes)} angstrom"
            raise FormatError(self.path, problem, "pass --voxel-size if the header is wrong")
        return float(sizes[0])


def read_mrc(path: str | Path, *, permissive: bool = False) -> MapFile:
    """Read an MRC file, plain or compressed (gzip, bzip2).

    Parameters
    ----------
    permissive
        Accept a wrong map ID or machine stamp, and bytes after the data, with a warning.
    """
    path = Path(path)
    layout = mrc_layout(path, permissive=permissive)
    with reading(path, BROKEN), opened(path) as stream:
        stream.seek(layout.start)
        data, longer = payload(path, stream, layout.dtype, layout.shape)
    if longer:
        _complain(path, f"is longer than the shape {layout.shape} in its header", permissive)
    return MapFile(path, finite_float32(path, data), layout.voxel_size_xyz_angstrom, layout.origin_xyz_angstrom)


def read_sections(path: Path, sections: Sequence[int], *, permissive: bool = False) -> NDArray[np.float32]:
    """Read some sections (from 0) of an MRC stack, shape (sections, y, x); the others are not checked.

    A stack that was shortened keeps the header of the whole stack: its sections are read all the same.
    """
    layout = mrc_layout(path, permissive=permissive)
    shape = layout.shape[-2:]
    count = int(np.prod(shape, dtype=object)) * layout.dtype.itemsize
    read = []
    with reading(path, BROKEN), opened(path) as stream:
        held = path.stat().st_size if is_uncompressed(stream) else None
        if held is None:
            check_unpacked(path, layout.start + (max(sections, default=0) + 1) * count)
        for section in sections:
            start = layout.start + section * count
            raw = b""
            if section >= 0 and (held is None or start + count <= held):
                stream.seek(start)
                raw = stream.read(count)
            if len(raw) < count:
                raise FormatError(path, f"holds no image {section + 1}", "restore the file that the list was made for")
            read.append(np.frombuffer(raw, dtype=layout.dtype).reshape(shape))
    return finite_float32(path, np.stack(read))


def mrc_layout(path: Path, *, permissive: bool = False) -> Layout:
    """Return the layout that an MRC header states."""
    with reading(path, BROKEN):
        with opened(path) as stream:
            raw, plain = stream.read(HEADER_BYTES), is_uncompressed(stream)
        header = _header(path, raw, permissive)
        _check_extended(path, int(header.nsymbt), plain=plain)
        dtype = mrcfile.utils.data_dtype_from_header(header)
        if dtype.kind == "i" and dtype.itemsize == 1 and _has_unsigned_bytes(raw):
            dtype = np.dtype(np.uint8)
        shape = tuple(int(n) for n in mrcfile.utils.data_shape_from_header(header))
        _check_header(path, header, dtype, shape)
        sampling = np.array([header.mx, header.my, header.mz], dtype=np.float64)
        cell = np.array([header.cella.x, header.cella.y, header.cella.z], dtype=np.float64)
        size = np.divide(cell, sampling, out=np.zeros(3), where=sampling > 0)
        images = len(shape) == 3 and shape[0] > 1 and header.mz == 1 and header.ispg == 0
        start, origin = HEADER_BYTES + int(header.nsymbt), _origin(header, size)
        return Layout(path, start, dtype, shape, size, origin, bool(images))


def lacks_map_word(start: bytes) -> bool:
    """Return whether a file begins with the header of an MRC file that lacks only the word MAP."""
    if len(start) < HEADER_BYTES or start[208:211] == b"MAP":
        return False
    for order in "<>":
        nx, ny, nz, mode = struct.unpack_from(f"{order}4i", start, 0)
        axes = struct.unpack_from(f"{order}3i", start, 64)
        if all(0 < n < 2**20 for n in (nx, ny, nz)) and mode in MODES and sorted(axes) in ([1, 2, 3], [0, 0, 0]):
            return True
    return False


def _has_unsigned_bytes(start: bytes) -> bool:
    """Return whether IMOD wrote the file with unsigned bytes: stamp 1146047817, bit 0 of the flags clear.

    Other programs write mode 0 signed, as in the standard (IMOD, MRC format: imodStamp, imodFlags).
    """
    for order in "<>":
        stamp, flags = struct.unpack_from(f"{order}2i", start, 152)
        if stamp == IMOD_STAMP:
            return not flags & 1
    return False


def finite_float32(path: Path, data: NDArray) -> NDArray[np.float32]:
    """Return the values as float32."""
    if data.dtype.kind == "c":
        raise FormatError(path, "holds complex numbers", "give a map in real space")
    with np.errstate(over="ignore"):  # doubles that no float32 holds become infinite, and raise below
        values = data.astype(np.float32, copy=False)
    flat = values.reshape(-1)
    pieces = (flat[start : start + PIECE] for start in range(0, flat.size, PIECE))
    bad = sum(piece.size - np.count_nonzero(np.isfinite(piece)) for piece in pieces)
    if bad:
        raise FormatError(path, f"holds {bad} values that are NaN or infinite", "mask or replace them first")
    return values


def write_mrc(
    path: str | Path, data: NDArray, voxel_size_angstrom: float, *, origin_xyz_angstrom: ArrayLike = (0.0, 0.0, 0.0)
) -> None:
    """Write a volume (z, y, x), float32 or float16, with voxel size and origin, start at 0; gzip for names in .gz."""

    def as_volume(mrc: mrcfile.mrcfile.MrcFile) -> None:
        mrc.set_volume()
        mrc.header.origin = tuple(np.asarray(origin_xyz_angstrom, dtype=np.float32))

    _write(path, data, voxel_size_angstrom, as_volume)


def write_stack(path: str | Path, images: NDArray, pixel_size_angstrom: float) -> None:
    """Write a stack of images (t, y, x), float32 or float16, as ``write_mrc`` does a volume."""
    _write(path, images, pixel_size_angstrom, mrcfile.mrcfile.MrcFile.set_image_stack)


def _write(path: str | Path, data: NDArray, size: float, kind: Callable[[mrcfile.mrcfile.MrcFile], None]) -> None:
    compression = "gzip" if Path(path).suffix == ".gz" else None
    with replacing(path) as temporary, mrcfile.new(temporary, compression=compression, overwrite=True) as mrc:
        mrc.set_data(data)
        kind(mrc)
        mrc.voxel_size = size


def _origin(header: np.recarray, voxel_size_xyz_angstrom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where the first voxel is, as ChimeraX has it: by the origin, or where that is 0 by the start."""
    origin = np.array([header.origin.x, header.origin.y, header.origin.z], dtype=np.float64)
    start = np.array([header.nxstart, header.nystart, header.nzstart], dtype=np.float64)
    return np.nan_to_num(origin if origin.any() else start * voxel_size_xyz_angstrom)


def _header(path: Path, raw: bytes, permissive: bool) -> np.recarray:
    """Return the header in its byte order. mrcfile would read the extended header, however long it is said to be."""
    lone = raw[:EXTENDED] + bytes(4) + raw[EXTENDED + 4 :]
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")  # strict, it raises and never warns
        with mrcfile.mrcinterpreter.MrcInterpreter(BytesIO(lone), permissive=permissive, header_only=True) as mrc:
            header = mrc.header.copy().view(np.recarray)
    header.nsymbt = np.frombuffer(raw, dtype=header.dtype["nsymbt"], count=1, offset=EXTENDED)[0]
    warned = [str(complaint.message) for complaint in complaints if issubclass(complaint.category, RuntimeWarning)]
    if warned:
        _complain(path, "; ".join(warned), permissive)
    return header


def _check_extended(path: Path, count: int, *, plain: bool) -> None:
    if count < 0 or (plain and HEADER_BYTES + count > path.stat().st_size):
        raise FormatError(path, f"states an extended header of {count} bytes, which it does not have", BROKEN)
    if not plain:
        check_unpacked(path, HEADER_BYTES + count)


def _complain(path: Path, problem: str, permissive: bool) -> None:
    if not permissive:
        raise FormatError(path, problem, BROKEN)
    warnings.warn(f"{path}: {problem}; read all the same", RuntimeWarning, stacklevel=3)


def _check_header(path: Path, header: np.recarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype.kind == "c":
        raise FormatError(path, "holds complex numbers", "give a map in real space")
    if min(shape) < 1:
        raise FormatError(path, f"the header gives a shape of {shape}", "write the file again")
    axes = (int(header.mapc), int(header.mapr), int(header.maps))
    if axes not in ((1, 2, 3), (0, 0, 0)):  # some programs leave the three fields empty
        raise FormatError(path, f"its axes are stored in the order {axes}", "write it with axes in the order (1, 2, 3)")
