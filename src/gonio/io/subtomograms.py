"""Subtomograms behind lists that are not RELION's: one volume per particle, loaded on demand.

Owns where such volumes are looked for, their voxel size, contrast and wedge. Knows nothing of poses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, files_found, locate, located, of_particle, reading
from gonio.io.joining import joined_blocks
from gonio.io.maps import read_listed
from gonio.io.paths import moved, relative
from gonio.io.source import VOXEL_SIZE_TOLERANCE, ReadOptions
from gonio.particle.particle_source import ParticleSource
from gonio.particle.volume import Particle, Subtomogram, Volume
from gonio.particle.wedge import SingleAxisWedge, Wedge

VOLUME = re.compile(r"(?P<stem>.+?)\.(em|mrc|map|rec)(\.gz)?$", re.IGNORECASE)
HDF_ENDINGS = (".hdf", ".hdf5", ".h5")


@dataclass(frozen=True)
class ListSource(ParticleSource):
    """A list that has been read, and its volumes.

    Parameters
    ----------
    family
        Its format, a key of ``gonio.io.formats.FORMATS``.
    images
        File of each particle, relative to the list's folder or the current one, ``NUMBER@FILE`` in a stack; or None.
    tilt_ranges_deg
        First tilt, last tilt and direction of the axis for each particle, shape (m, 3), NaN where unknown; or None.
    block
        The list's own columns, where it is a table.
    others
        Further files that were read.
    text
        The list's columns as they stand in the file, where ``block`` has them in other units.
    """

    path: Path
    family: str
    options: ReadOptions
    names: Sequence[str]
    images: Sequence[str] | None = None
    tilt_ranges_deg: NDArray[np.float64] | None = None
    block: Block | None = None
    others: tuple[Path, ...] = ()
    text: Block | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """The list and the files that were read beside it."""
        return (self.path, *self.others)

    @property
    def format(self) -> str:
        """Name of the list's format."""
        return self.family

    def pixel_sizes(self, stated: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """Return sizes of the list's pixels, as the caller, the list or the header of the first volume states them.

        Raises
        ------
        FormatError
            If none of these is known and the particles are to be loaded.
        """
        given = self.options.pixel_size_angstrom or self.options.voxel_size_angstrom
        if given is not None:
            return np.full(len(self.names), given)
        if stated is not None:
            return stated
        header = self.first_header_angstrom
        if header > 0:
            return np.full(len(self.names), header)
        if self.options.may_count_pixels:
            return None
        raise FormatError(self.path, "counts in pixels and does not state their size", "pass --voxel-size ANGSTROM")

    def joined(self, other: ParticleSource) -> tuple[ListSource, int]:
        """Return the source of the rows of both lists, and the row at which those of the other begin.

        Raises
        ------
        TypeError, ValueError
            For lists of two formats, or read with different options.
        """
        if not isinstance(other, ListSource) or self.family != other.family:
            raise TypeError(f"{self.path} is a list of {self.format}, the other of {other.format}: convert one of them")
        if self.options != other.options:
            raise ValueError(f"{self.path} and {other.path} were read with different options")
        folders = other.path.parent, self.path.parent
        images = None if self.images is None or other.images is None else [*self.images, *moved(other.images, *folders)]
        tilts, others = self.tilt_ranges_deg, other.tilt_ranges_deg
        blocks = [(self.block, other.block), (self.text, other.text)]
        block, text = (None if a is None or b is None else joined_blocks(a, b) for a, b in blocks)
        return ListSource(
            self.path,
            self.family,
            self.options,
            (*self.names, *other.names),
            images,
            None if tilts is None or others is None else np.concatenate([tilts, others]),
            block,
            (*self.others, *other.files),
            text,
        ), len(self.names)

    def files_of(self, index: int) -> tuple[Path, ...]:
        """Return the file of the particle at this row, where it is found."""
        return () if self.images is None else files_found([self.images[index].rpartition("@")[2]], self.path.parent)

    def load(self, index: int) -> Particle:
        """Return the particle at this row of the list."""
        with of_particle(self.path, repr(self.names[index])):
            return self._load(index)

    def _load(self, index: int) -> Particle:
        path, number = self._image(index)
        data, header = _read(self.path, path, number, permissive=self.options.permissive)
        size = self._voxel_size(path, header)
        with reading(path, "a particle must be a cubic map"):
            volume = Volume(-data if self.options.invert_contrast else data, size)
            return Subtomogram(volume, self._wedge(index, volume))

    def _image(self, index: int) -> tuple[Path, int | None]:
        if self.images is None:
            problem = "does not state where its subtomograms are"
            raise FormatError(self.path, problem, "pass --data FOLDER, or put them beside the list")
        number, at, token = self.images[index].rpartition("@")
        return located(token, self.path, f"{token} of row {index + 1} is"), int(number) if at else None

    def _voxel_size(self, path: Path, header: float) -> float:
        given = self.options.voxel_size_angstrom or self.options.pixel_size_angstrom
        if given is not None:
            return given
        if header <= 0:
            raise FormatError(path, "no voxel size in the list nor in the header", "pass --voxel-size ANGSTROM")
        first = self.first_header_angstrom
        if first > 0 and abs(header / first - 1) > VOXEL_SIZE_TOLERANCE:
            problem = f"its header states {header:g} angstrom per voxel, that of the first particle {first:g}"
            raise FormatError(path, problem, "pass --voxel-size with the right one")
        return header

    @cached_property
    def first_header_angstrom(self) -> float:
        """Voxel size that the first volume states; 0 where it does not, or is not found."""
        if not self.images or locate(self.images[0].rpartition("@")[2], self.path.parent) is None:
            return 0.0
        path, number = self._image(0)
        return _read(self.path, path, number, permissive=self.options.permissive)[1]

    def _wedge(self, index: int, volume: Volume) -> Wedge:
        if self.options.wedges is not None:
            return self.options.wedges.of(index, volume.box, volume.voxel_size_angstrom)
        tilts = None if self.tilt_ranges_deg is None else self.tilt_ranges_deg[index]
        if self.options.tilt_range_deg is not None:
            tilts = np.array([*self.options.tilt_range_deg, self.options.axis_deg])
        if tilts is None or not np.isfinite(tilts).all():
            raise FormatError(self.path, "does not state which tilts were measured", "pass --tilt-range MIN MAX")
        with reading(self.path, "pass --tilt-range MIN MAX in degrees"):
            return SingleAxisWedge(*tilts.tolist())


def numbered_images(
    list_path: Path,
    folder: Path | None,
    numbers: Sequence[int],
    stem: str,
    *,
    beside: Sequence[str],
    one_each: bool = True,
) -> tuple[str, ...] | None:
    """Return the volume of each number in a folder: files whose name without its ending is ``stem`` with that number.

    Parameters
    ----------
    folder
        Folder of the volumes, or None.
    stem
        A regular expression with one group, the number; leading zeros do not count.
    beside
        Folders, as seen from the list, that are looked into when none is given.
    one_each
        Whether every particle has a number, and so a volume, of its own.

    Returns
    -------
    Absolute paths, or as seen from the list where they lie beside it; None where no folder was given and none has all.

    Raises
    ------
    FormatError
        If the folder is missing, a number has no file, or two, or two particles have one number.
    """
    twice = next((n for n, count in Counter(numbers).items() if count > 1), None) if one_each else None
    if twice is not None and folder is not None:
        problem = f"has two particles of number {twice}, by which volumes are found"
        raise FormatError(list_path, problem, "give each particle a number of its own, or leave out --data")
    if folder is None and twice is not None:
        return None
    if folder is None:
        places = [list_path.parent / place for place in beside]
        shelves = (_volumes(place, stem) for place in places if place.is_dir())
        whole = next((shelf for shelf in shelves if shelf and _lacks(shelf, numbers) is None), None)
        return None if whole is None else tuple(relative(whole[number], list_path.parent) for number in numbers)
    if not folder.is_dir():
        raise FormatError(folder, "is no folder", "give the folder of the subtomograms with --data")
    found = _volumes(folder, stem)
    lost = _lacks(found, numbers)
    if lost is not None:
        raise FormatError(folder, f"has no volume of particle {lost} of {list_path}", "give the folder that has it")
    return tuple(found[number].resolve().as_posix() for number in numbers)


def _volumes(folder: Path, stem: str) -> dict[int, Path]:
    """Return the volumes in a folder by number."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        volume = VOLUME.match(path.name)
        matched = re.fullmatch(stem, volume["stem"]) if volume else None
        if matched is None:
            continue
        number = int(matched[1])
        if number in found:
            problem = f"holds two volumes of number {number}: {found[number].name} and {path.name}"
            raise FormatError(folder, problem, "move one of them away")
        found[number] = path
    return found


def _lacks(found: Mapping[int, Path], numbers: Sequence[int]) -> int | None:
    return next((number for number in numbers if number not in found), None)


def _read(list_path: Path, path: Path, number: int | None, *, permissive: bool) -> tuple[NDArray[np.float32], float]:
    """Return the volume (z, y, x) and the voxel size that its header states, or 0."""
    if path.suffix.lower() in HDF_ENDINGS:
        return _hdf_volume(path, number)
    image = read_listed(list_path, path, permissive=permissive)
    return image.data, image.voxel_size_angstrom()


def _hdf_volume(path: Path, number: int | None) -> tuple[NDArray[np.float32], float]:
    """Return one image of EMAN2's HDF files, where image N is the group /MDF/images/N, and its voxel size."""
    try:
        import h5py
    except ImportError as error:
        raise FormatError(path, "is an HDF file, which needs h5py", "pip install 'gonio[eman]'") from error
    with reading(path, "give an HDF file as EMAN2 writes it"), h5py.File(path, "r") as file:
        image = file["MDF/images"][str(number or 0)]
        data = np.asarray(image["image"], dtype=np.float32)  # (z, y, x)
        if not np.isfinite(data).all():
            raise FormatError(path, "holds values that are NaN or infinite", "mask or replace them first")
        return data, float(np.ravel(image.attrs.get("EMAN.apix_x", 0.0))[0])
