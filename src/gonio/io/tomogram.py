"""Tomograms: volumes too large to read at once, from which boxes are cut.

Owns how files of each kind are opened, so that only what is cut is read:

    MRC, MAP, REC and EM    mapped into memory
    these in gzip, bzip2    decompressed once into a temporary file without a name, and mapped
    OME-Zarr                chunks are read when a piece needs them (an extra: gonio[zarr])

An OME-Zarr names the codecs of its chunks, and some codecs run what they read: only those of a list are used.

Of an OME-Zarr pyramid the finest level is taken, or the one whose array is named (``tomogram.zarr/1``): coarser levels
are averages of voxels, which damp detail and may be shifted by half a voxel.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gonio.io.compressed import PIECE_BYTES, check_length, check_unpacked, compression_of, first_bytes, opened
from gonio.io.em import em_layout, is_em
from gonio.io.errors import FormatError, reading
from gonio.io.mrc import MapFile, mrc_layout

STACKS = (".mrcs", ".st", ".ali", ".preali")
UNITS_ANGSTROM = {"angstrom": 1.0, "nanometer": 10.0, "nanometre": 10.0, "micrometer": 1e4, "picometer": 1e-2}
BROKEN = "write the file again"
ENDINGS = re.compile(r"\.(mrc|rec|map|em)(\.gz|\.bz2)?$", re.IGNORECASE)
NEEDS_ZARR = "pip install 'gonio[zarr]'"
# Codecs that give numbers and nothing else, by their names in Zarr 2 and 3 (there those of numcodecs have a prefix).
CODECS = (
    *("blosc", "zstd", "gzip", "zlib", "bz2", "lz4", "lzma", "shuffle", "delta", "fixedscaleoffset", "quantize"),
    *("bitround", "bytes", "transpose", "crc32c", "sharding_indexed"),
)
# The most that a chunk may state to hold, and characters of what zarr states.
CHUNK_BYTES, SHOWN = 2**30, 200


@dataclass(frozen=True)
class Tomogram:
    """A volume to cut from.

    Parameters
    ----------
    path
        The file or folder.
    shape_zyx
        Voxels along each axis.
    voxel_size_angstrom
        Voxel size; 0 where the file does not state it.
    kind
        Description of the file, for people.
    array
        Anything that returns a piece for three slices (z, y, x).
    """

    path: Path
    shape_zyx: tuple[int, int, int]
    voxel_size_angstrom: float
    kind: str
    array: Any

    def cut(self, low_zyx: Sequence[int], high_zyx: Sequence[int]) -> NDArray[np.float32]:
        """Return the voxels from low up to high, which lie inside."""
        where = tuple(slice(int(low), int(high)) for low, high in zip(low_zyx, high_zyx, strict=True))
        try:
            piece = np.asarray(self.array[where], dtype=np.float32)
        except Exception as error:  # the codecs of zarr raise many kinds
            told = str(error)[:SHOWN] or type(error).__name__
            raise FormatError(self.path, f"cannot be read ({told})", "copy or write it again") from error
        if not np.isfinite(piece).all():
            bad = piece.size - np.count_nonzero(np.isfinite(piece))
            place = ", ".join(f"{one.start}:{one.stop}" for one in where)
            problem = f"holds {bad} values that are NaN or infinite in [{place}] (z, y, x)"
            raise FormatError(self.path, problem, "mask or replace them first")
        return piece


def open_tomogram(path: str | Path, *, voxel_size_angstrom: float | None = None, permissive: bool = False) -> Tomogram:
    """Open a tomogram to cut from.

    Parameters
    ----------
    path
        MRC or EM file, plain or compressed, or OME-Zarr folder.
    voxel_size_angstrom
        Replaces what the file states.
    permissive
        Accept broken MRC headers with a warning, as ``read_mrc``.
    """
    path = Path(path)
    if path.is_dir():
        return _of_zarr(path, voxel_size_angstrom)
    with reading(path, BROKEN):
        compression = compression_of(path)
        start = first_bytes(path)
    layout = em_layout(path) if is_em(start) else mrc_layout(path, permissive=permissive)
    if len(layout.shape) != 3 or min(layout.shape) < 2:
        raise FormatError(path, f"holds an array of shape {layout.shape}", "give a tomogram, a volume")
    kind = "EM" if is_em(start) else "MRC"
    array = _mapped(path, layout.start, layout.dtype, layout.shape, compressed=compression is not None)
    size = voxel_size_angstrom
    if size is None:
        size = MapFile(path, np.zeros(0, np.float32), layout.voxel_size_xyz_angstrom).voxel_size_angstrom()
    named = f"{kind}, {layout.dtype.name}" + (f", {compression}" if compression else ", mapped")
    z, y, x = layout.shape
    return Tomogram(path, (z, y, x), size, named, array)


def holds_images(path: Path, *, permissive: bool = False) -> bool:
    """Return whether an MRC file is a stack of images: by its name, its header, or the list of tilts beside it.

    Headers alone do not tell: those of IMOD's stacks and of many tomograms are alike.
    """
    if path.is_dir() or is_em(first_bytes(path)):
        return False
    layout = mrc_layout(path, permissive=permissive)
    if path.suffix.lower() in STACKS or layout.is_stack or path.with_name(f"{path.name}.mdoc").is_file():
        return True
    angles = (path.with_suffix(ending) for ending in (".rawtlt", ".tlt"))
    return any(file.is_file() and len(file.read_bytes().split()) == layout.shape[0] for file in angles)


def open_images(path: Path, *, pixel_size_angstrom: float | None = None, permissive: bool = False) -> Tomogram:
    """Open an MRC stack of images, or a single image, as a volume (image, y, x) whose voxel size is that of a pixel.

    Raises
    ------
    FormatError
        As ``open_tomogram``.
    """
    with reading(path, BROKEN):
        compression = compression_of(path)
    layout = mrc_layout(path, permissive=permissive)
    if len(layout.shape) not in (2, 3):
        raise FormatError(path, f"holds an array of shape {layout.shape}", "give a stack of images")
    z, y, x = (1,) * (3 - len(layout.shape)) + layout.shape
    array = _mapped(path, layout.start, layout.dtype, (z, y, x), compressed=compression is not None)
    size = pixel_size_angstrom
    if size is None:
        size = MapFile(path, np.zeros(0, np.float32), layout.voxel_size_xyz_angstrom).voxel_size_angstrom(axes=2)
    return Tomogram(path, (z, y, x), size, f"MRC, {layout.dtype.name}", array)


def tomogram_files(paths: Sequence[Path]) -> list[Path]:
    """Return the tomograms among paths, and for folders the tomograms in them, by their endings."""
    files = []
    for path in paths:
        if not path.is_dir() or _is_zarr(path):
            files.append(path)
            continue
        inside = [file for file in sorted(path.iterdir()) if ENDINGS.search(file.name) or _is_zarr(file)]
        if not inside:
            problem = "has no tomogram (.mrc, .rec, .map, .em, or these with .gz) and no zarr in it"
            raise FormatError(path, problem, "give the tomograms themselves")
        files += inside
    return files


def _is_zarr(path: Path) -> bool:
    return path.is_dir() and any((path / name).is_file() for name in (".zgroup", ".zarray", "zarr.json"))


def _mapped(path: Path, start: int, dtype: np.dtype, shape: tuple[int, ...], *, compressed: bool) -> NDArray:
    expected = int(np.prod(shape, dtype=object)) * dtype.itemsize
    with reading(path, "copy or write the file again; if the disk is full, set TMPDIR to one with space"):
        if compressed:
            check_unpacked(path, start + expected)
            return _unpacked(path, start, dtype, shape, expected)
        check_length(path, path.stat().st_size - start, expected)
        return np.memmap(path, dtype=dtype, mode="r", offset=start, shape=shape)


def _unpacked(path: Path, start: int, dtype: np.dtype, shape: tuple[int, ...], expected: int) -> NDArray:
    with tempfile.TemporaryFile() as unpacked, opened(path) as stream:
        stream.seek(start)
        done = 0
        while done < expected and (piece := stream.read(min(PIECE_BYTES, expected - done))):
            unpacked.write(piece)
            done += len(piece)
        check_length(path, done, expected)
        unpacked.flush()
        return np.memmap(unpacked, dtype=dtype, mode="r", shape=shape)  # the mapping outlives the file's name


# OME-Zarr


def _of_zarr(path: Path, voxel_size_angstrom: float | None) -> Tomogram:
    try:
        import zarr

        if zarr.__version__.startswith(("2.", "3.0")):
            raise ImportError("zarr is older than 3.1")
    except ImportError as error:
        raise FormatError(path, "is a folder; an OME-Zarr tomogram needs zarr 3.1", NEEDS_ZARR) from error
    with _reading_zarr(path):
        try:
            found = zarr.open(path, mode="r")
        except Exception as error:  # zarr raises many kinds, some of its own
            raise FormatError(path, "is a folder, and no zarr", "give a tomogram file or an OME-Zarr folder") from error
        if isinstance(found, zarr.Array):
            level, above = path.name, path.parent
            is_group = any((above / name).is_file() for name in (".zgroup", "zarr.json"))
            group = zarr.open_group(above, mode="r") if is_group else None
            stated = _stated_size(path, None if group is None else dict(group.attrs), level)
            return _tomogram_of(path, found, stated, voxel_size_angstrom)
        multiscales = _multiscales(dict(found.attrs))
        if not multiscales:
            raise FormatError(path, "has no multiscales: it is no OME-Zarr image", "give the folder of its array")
        level = multiscales[0]["datasets"][0]["path"]
        return _tomogram_of(path, found[level], _stated_size(path, dict(found.attrs), level), voxel_size_angstrom)


@contextmanager
def _reading_zarr(path: Path) -> Iterator[None]:
    """Turn what metadata of any shape leads to into a ``FormatError``."""
    try:
        yield
    except FormatError:
        raise
    except Exception as error:  # values of other types than expected lead to errors of all kinds
        told = f"{type(error).__name__}: {error}"[:SHOWN]
        raise FormatError(path, told, "give an OME-Zarr folder, or the folder of one of its arrays") from error


def _codecs(metadata: Any) -> Iterator[str]:
    """Yield the names of all codecs of an array, also of those within a shard."""
    if hasattr(metadata, "compressor"):  # Zarr 2
        metadata = (metadata.compressor, *(metadata.filters or ()))
    elif hasattr(metadata, "codecs"):  # Zarr 3, and its shards
        metadata = (*metadata.codecs, *getattr(metadata, "index_codecs", ()))
    for codec in (one for one in metadata if one is not None):
        if hasattr(codec, "codec_id"):
            yield str(codec.codec_id)
            continue
        yield str(codec.to_dict()["name"]).removeprefix("numcodecs.")
        if hasattr(codec, "codecs"):
            yield from _codecs(codec)


def _multiscales(attributes: dict[str, Any]) -> list[dict[str, Any]]:
    return attributes.get("ome", attributes).get("multiscales", [])  # inside "ome" since version 0.5


def _stated_size(path: Path, attributes: dict[str, Any] | None, level: str) -> float:
    """Return the voxel size of a level in angstrom; 0 where nothing states it."""
    multiscales = _multiscales(attributes or {})
    if not multiscales:
        return 0.0
    axes = multiscales[0].get("axes", [])
    names = [axis["name"] if isinstance(axis, dict) else axis for axis in axes]
    if names and names[-3:] != ["z", "y", "x"]:
        raise FormatError(path, f"has axes in the order {names}", "give a tomogram with axes z, y, x")
    units = [UNITS_ANGSTROM.get(axis.get("unit", ""), 0.0) for axis in axes[-3:] if isinstance(axis, dict)]
    dataset = next((one for one in multiscales[0]["datasets"] if one["path"] == level), None)
    if dataset is None or len(units) != 3:
        return 0.0
    transforms = [*dataset.get("coordinateTransformations", []), *multiscales[0].get("coordinateTransformations", [])]
    scale = np.prod([one["scale"][-3:] for one in transforms if one.get("type") == "scale"] or [[0.0] * 3], axis=0)
    sizes_xyz = np.asarray(scale * np.array(units), dtype=np.float64)[::-1]
    return MapFile(path, np.zeros(0, np.float32), sizes_xyz).voxel_size_angstrom()


def _tomogram_of(path: Path, array: Any, stated: float, voxel_size_angstrom: float | None) -> Tomogram:
    leading, shape = array.shape[:-3], array.shape[-3:]
    if len(shape) != 3 or any(n != 1 for n in leading) or min(shape) < 2:
        raise FormatError(path, f"holds an array of shape {array.shape}", "give a tomogram of one channel and time")
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "iuf":
        raise FormatError(path, f"holds values of type {array.dtype}", "give a tomogram of real numbers")
    refused = next((name for name in _codecs(array.metadata) if name not in CODECS), None)
    if refused is not None:
        problem = f"is written with the codec {refused[:SHOWN]!r}, which gonio does not use"
        raise FormatError(path, problem, f"write it again with one of {', '.join(CODECS[:7])}")
    stated_bytes = math.prod(array.chunks) * dtype.itemsize
    if stated_bytes > CHUNK_BYTES:
        raise FormatError(path, f"has chunks of {stated_bytes} bytes", f"write it again with less than {CHUNK_BYTES}")
    size = stated if voxel_size_angstrom is None else voxel_size_angstrom
    lazy = _Last3(array, len(leading)) if leading else array
    return Tomogram(path, (int(shape[0]), int(shape[1]), int(shape[2])), size, f"OME-Zarr, {array.dtype}", lazy)


@dataclass(frozen=True)
class _Last3:
    """An array without its leading axes of length one."""

    array: Any
    leading: int

    def __getitem__(self, where: tuple[slice, slice, slice]) -> NDArray:
        return self.array[(0,) * self.leading + where]
