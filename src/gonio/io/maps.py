"""Density maps and stacks of images of any format, recognised by what the files hold.

Owns which reader a file goes to: EM where the header is one, else MRC, either plain or compressed. Contrast is flipped
here, and only when asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from gonio.io.compressed import first_bytes
from gonio.io.em import is_em, read_em, write_em
from gonio.io.errors import FormatError, reading
from gonio.io.mrc import MapFile, finite_float32, mrc_layout, read_mrc, read_sections, write_mrc
from gonio.particle.ctf import MIN_TRANSFER, Ctf
from gonio.particle.volume import TiltStack, Volume

BROKEN = "write the file again"


def read_map(path: str | Path, *, permissive: bool = False) -> MapFile:
    """Read an MRC or EM file, plain or compressed (gzip, bzip2), whatever its name.

    Parameters
    ----------
    permissive
        Of MRC files, accept a wrong map ID or machine stamp, and bytes after the data, with a warning.

    Raises
    ------
    FormatError
        Missing, empty, truncated, longer than its header states, without real numbers, or with values that are not
        finite.
    """
    path = Path(path)
    with reading(path, BROKEN):
        start = first_bytes(path)
    if not is_em(start):
        return read_mrc(path, permissive=permissive)
    em = read_em(path)
    return MapFile(path, finite_float32(path, em.data), np.full(3, em.voxel_size_angstrom))


def read_listed(list_path: Path, path: Path, *, permissive: bool) -> MapFile:
    """Read one of the many images of a list, as ``read_map``; warn once of broken headers for all of them."""
    with _warned_once(list_path, wanted=permissive):
        return read_map(path, permissive=permissive)


def read_listed_sections(
    list_path: Path, path: Path, sections: Sequence[int], *, permissive: bool
) -> NDArray[np.float32]:
    """Read images of a stack in a list, as ``read_sections``; warn once of broken headers for all of them."""
    with _warned_once(list_path, wanted=permissive):
        return read_sections(path, sections, permissive=permissive)


@contextmanager
def _warned_once(list_path: Path, *, wanted: bool) -> Iterator[None]:
    """Replace the warnings of many files of a list by one warning for all of them."""
    if not wanted:
        yield
        return
    with warnings.catch_warnings(record=True) as complaints:
        warnings.simplefilter("always")
        yield
    if complaints:  # the same text for every image, so that Python shows it once
        warnings.warn(f"{list_path}: images have broken headers; read all the same", RuntimeWarning, stacklevel=4)


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
        MRC, MAP or EM file, plain or compressed.
    voxel_size_angstrom
        Replaces the header's voxel size. EM files state none, unless gonio wrote them.
    invert_contrast
        Flip the sign: for files whose density is dark (negative).
    permissive
        See ``read_map``.

    Raises
    ------
    FormatError
        As ``read_map``; not a cube; no voxel size known.
    """
    image = read_map(path, permissive=permissive)
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
        As ``read_map``; not a stack of images.
    """
    return image_stack(read_map(path))


def image_stack(image: MapFile) -> NDArray[np.float32]:
    """Return the values as (t, y, x), also where the stack holds a single image."""
    data = image.data[None] if image.data.ndim == 2 else image.data
    if data.ndim != 3:
        raise FormatError(image.path, f"holds an array of shape {data.shape}", "give a stack of 2-D images")
    return data


def image_count(list_path: Path, path: Path, *, permissive: bool) -> int:
    """Return the number of images of a stack in a list, from its header alone."""
    with reading(path, BROKEN):
        start = first_bytes(path)
    if is_em(start):
        return len(image_stack(read_listed(list_path, path, permissive=permissive)))
    with _warned_once(list_path, wanted=permissive):
        shape = mrc_layout(path, permissive=permissive).shape
    return 1 if len(shape) == 2 else shape[0]


def moved_images(images: NDArray[np.float32], by_px: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return images (t, n, n) moved by (x, y) pixels, shape (t, 2), by phase factors."""
    n = images.shape[-1]
    kx, ky = np.fft.rfftfreq(n), np.fft.fftfreq(n)
    phase = by_px[:, 0, None, None] * kx[None, None, :] + by_px[:, 1, None, None] * ky[None, :, None]  # (t, n, n//2+1)
    return np.fft.irfft2(np.fft.rfft2(images) * np.exp(-2j * np.pi * phase), s=(n, n)).astype(np.float32)


def premultiplied_anew(
    stack: TiltStack, before: Ctf | None, scale_before: NDArray[np.float64] | None = None
) -> TiltStack:
    """Return a stack whose images were multiplied by a transfer ``before``, as one multiplied by the stack's own.

    Samples that had hardly any transfer are left as they are: there is nothing in them.
    ``scale_before`` is the images' scale then; None for that of the stack.
    """
    ky, kx = np.fft.fftfreq(stack.box, stack.voxel_size_angstrom), np.fft.rfftfreq(stack.box, stack.voxel_size_angstrom)
    frequency = np.stack(np.broadcast_arrays(kx, ky[:, None]), axis=-1)  # (y, x // 2 + 1, 2)
    old, new = (
        one.transfer(frequency.reshape(-1, 2)).reshape(-1, *frequency.shape[:2])
        for one in (replace(stack, ctf=before, scale=stack.scale if scale_before is None else scale_before), stack)
    )
    known = np.abs(old) > MIN_TRANSFER
    spectra = scipy.fft.rfft2(stack.images) * np.where(known, new / np.where(known, old, 1.0), 1.0)
    return replace(stack, images=scipy.fft.irfft2(spectra, s=stack.images.shape[1:]))


def is_map(path: str | Path) -> bool:
    """Return whether a file, plain or compressed, is binary as maps are, and not the text of a structure.

    Raises
    ------
    FormatError
        If it cannot be read.
    """
    with reading(Path(path), BROKEN):
        start = first_bytes(Path(path))
    return b"\0" in start


def write_volume(
    path: str | Path,
    volume: Volume,
    *,
    half_precision: bool = False,
    origin_xyz_angstrom: ArrayLike = (0.0, 0.0, 0.0),
) -> None:
    """Write a map with its voxel size, float32: EM where the name ends in .em, else MRC; gzip where it ends in .gz.

    Parameters
    ----------
    half_precision
        MRC of mode 12 (float16), half as large, good to three digits.
    origin_xyz_angstrom
        Where viewers are to put the centre of the first voxel; EM files cannot state it.

    Raises
    ------
    FormatError
        If the file cannot be written, or float16 cannot hold the values; an older file of that name is then untouched.
    """
    name = Path(path).name.removesuffix(".gz")
    if name.endswith(".em"):
        write_em(path, volume.data, voxel_size_angstrom=volume.voxel_size_angstrom)
        return
    data = volume.data
    if half_precision:
        with np.errstate(over="ignore"):
            data = data.astype(np.float16)
        if not np.isfinite(data).all():
            raise FormatError(path, "has values beyond 65504, which float16 cannot hold", "write float32")
    write_mrc(path, data, volume.voxel_size_angstrom, origin_xyz_angstrom=origin_xyz_angstrom)
