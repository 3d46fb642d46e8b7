"""MRC files: density maps and stacks of images.

Owns what of an MRC header counts: shape, data type and voxel size. Everything read is complete (the file is as long
as its header says) and finite; everything written replaces its target in one step.
"""

from __future__ import annotations

import bz2
import gzip
import warnings
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import mrcfile
import mrcfile.utils
import numpy as np
from numpy.typing import NDArray

from gonio.io.errors import FormatError, reading, replacing
from gonio.volume import Volume

__all__ = ["MrcImage", "read_mrc", "read_stack", "read_volume", "write_volume"]

HEADER_BYTES = 1024
# Headers hold float32 cell lengths and integers: 0.1 % is far above their rounding and below any real squeeze.
ISOTROPY = 1e-3
BROKEN = "write the file again, or pass --permissive (permissive=True) if other programs accept it"


@dataclass(frozen=True)
class MrcImage:
    """What an MRC file holds: values (z, y, x), float32, finite, and the header's voxel size (xyz, angstrom)."""

    path: Path
    data: NDArray[np.float32]
    voxel_size_xyz_angstrom: NDArray[np.float64]

    def voxel_size_angstrom(self, *, axes: int = 3) -> float:
        """The one voxel size of an isotropic map (``axes=2``: of the images of a stack); 0 where the header has none.

        Raises
        ------
        FormatError
            If the axes differ by more than 0.1 %.
        """
        sizes = self.voxel_size_xyz_angstrom[:axes]
        if not np.isfinite(sizes).all() or sizes.min() <= 0:
            return 0.0
        if sizes.max() > sizes.min() * (1 + ISOTROPY):
            problem = f"voxels are not cubes: {' x '.join(f'{size:g}' for size in sizes)} angstrom"
            raise FormatError(self.path, problem, "pass --voxel-size if the header is wrong")
        return float(sizes[0])


def read_mrc(path: str | Path, *, permissive: bool = False) -> MrcImage:
    """Read an MRC file, plain or compressed (gzip, bzip2).

    Parameters
    ----------
    path
        The file.
    permissive
        Accept a wrong map ID or machine stamp, and bytes after the data.

    Raises
    ------
    FormatError
        Missing, empty, truncated, longer than its header says, of a mode without real numbers, with permuted axes, or
        with values that are not finite.
    """
    path = Path(path)
    with reading(path, BROKEN):
        header = _header(path, permissive)
        dtype = mrcfile.utils.data_dtype_from_header(header)
        shape = mrcfile.utils.data_shape_from_header(header)
        _check_header(path, header, dtype, shape)
        data = _payload(path, HEADER_BYTES + int(header.nsymbt), dtype, shape, permissive=permissive)
        sampling = np.array([header.mx, header.my, header.mz], dtype=np.float64)
        cell = np.array([header.cella.x, header.cella.y, header.cella.z], dtype=np.float64)
    return MrcImage(path, data, np.divide(cell, sampling, out=np.zeros(3), where=sampling > 0))


def read_volume(
    path: str | Path,
    *,
    voxel_size_angstrom: float | None = None,
    invert_contrast: bool = False,
    permissive: bool = False,
) -> Volume:
    """Read a cubic density map.

    Parameters
    ----------
    path
        MRC or MAP file, plain or compressed.
    voxel_size_angstrom
        Replaces the header's voxel size.
    invert_contrast
        Flip the sign: for files whose density is dark (negative).
    permissive
        See ``read_mrc``.

    Raises
    ------
    FormatError
        As ``read_mrc``; not a cube; no voxel size known.
    """
    image = read_mrc(path, permissive=permissive)
    size = voxel_size_angstrom if voxel_size_angstrom is not None else image.voxel_size_angstrom()
    if size == 0:
        raise FormatError(path, "the header has no voxel size", "pass --voxel-size ANGSTROM")
    with reading(path, "a particle or reference must be a cubic map"):
        return Volume(-image.data if invert_contrast else image.data, size)


def read_stack(path: str | Path) -> NDArray[np.float32]:
    """Read a stack of images, shape (t, y, x), float32.

    Raises
    ------
    FormatError
        As ``read_mrc``; not a stack of images.
    """
    return image_stack(read_mrc(path))


def image_stack(image: MrcImage) -> NDArray[np.float32]:
    """The values as (t, y, x), also where the stack holds a single image."""
    data = image.data[None] if image.data.ndim == 2 else image.data
    if data.ndim != 3:
        raise FormatError(image.path, f"holds an array of shape {data.shape}", "give a stack of 2-D images")
    return data


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a map as float32 MRC, with its voxel size, origin and start at 0; compressed where the name ends in .gz.

    Raises
    ------
    FormatError
        If the file cannot be written; an older file of that name is then untouched.
    """
    compression = "gzip" if Path(path).suffix == ".gz" else None
    with replacing(path) as temporary, mrcfile.new(temporary, compression=compression) as mrc:
        mrc.set_data(volume.data)
        mrc.set_volume()
        mrc.voxel_size = volume.voxel_size_angstrom


def _header(path: Path, permissive: bool) -> np.recarray:
    if path.is_dir():
        raise FormatError(path, "is a folder", "give a file")
    if path.stat().st_size == 0:
        raise FormatError(path, "is empty", "write the file again")
    if not permissive:  # mrcfile raises and never warns here
        with mrcfile.open(path, header_only=True) as mrc:
            return mrc.header.copy().view(np.recarray)
    with warnings.catch_warnings():  # the complaints that the caller chose to pass over
        warnings.simplefilter("ignore", RuntimeWarning)
        with mrcfile.open(path, header_only=True, permissive=True) as mrc:
            return mrc.header.copy().view(np.recarray)


def _check_header(path: Path, header: np.recarray, dtype: np.dtype, shape: tuple[int, ...]) -> None:
    if dtype.kind == "c":
        raise FormatError(path, "holds complex numbers", "give a map in real space")
    if min(shape) < 1:
        raise FormatError(path, f"the header gives a shape of {shape}", "write the file again")
    axes = (int(header.mapc), int(header.mapr), int(header.maps))
    if axes not in ((1, 2, 3), (0, 0, 0)):  # some programs leave the three fields empty
        raise FormatError(path, f"its axes are stored in the order {axes}", "write it with axes in the order (1, 2, 3)")


def _payload(
    path: Path, start: int, dtype: np.dtype, shape: tuple[int, ...], *, permissive: bool
) -> NDArray[np.float32]:
    expected = int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
    with _open(path) as stream:
        stream.seek(start)
        raw = stream.read(expected)
        longer = bool(stream.read(1))
    if len(raw) < expected:
        raise FormatError(path, f"is truncated: {len(raw)} of {expected} bytes of data", "copy or write the file again")
    if longer and not permissive:
        raise FormatError(path, f"is longer than the shape {shape} in its header", BROKEN)
    data = np.frombuffer(raw, dtype=dtype).reshape(shape).astype(np.float32)  # (z, y, x)
    bad = data.size - np.count_nonzero(np.isfinite(data))
    if bad:
        raise FormatError(path, f"holds {bad} values that are NaN or infinite", "mask or replace them first")
    return data


def _open(path: Path) -> BufferedIOBase:
    with path.open("rb") as stream:
        start = stream.read(212)
    if start[208:211] != b"MAP" and start[:2] == b"\x1f\x8b":
        return gzip.open(path, "rb")
    if start[208:211] != b"MAP" and start[:2] == b"BZ":
        return bz2.open(path, "rb")
    return path.open("rb")
