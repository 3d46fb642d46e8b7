"""Particle series of M and Warp 1: one row for each tilt image, the images of a particle grouped by rlnGroupName.

Every row states its own absolute angles, the particle's pose composed with the tilt, so the geometry of a series
follows from its rows alone. With A_i of row i (``gonio.io.star``) and row 0 the one that was exposed least,

    R = A_0^T                       the particle's pose, in the frame of its least exposed image
    P_i = A_i^T A_0                 image i's axes x and y, its first two rows, in that frame
    -o_i = P_i t + d_i              shifts of rows, where there are any (RELION subtracts o): t of the particle, and
                                    what is left, d_i, by which image i is moved back when it is read

There is no position in a tomogram: the defocus of each row is the particle's own. rlnCtfBfactor is M's: negative where
it damps, -4 times the dose before the image; rlnCtfScalefactor weighs an image. Images are not multiplied by their
transfer unless the list says so. Headers of such stacks claim more images than were copied with the list, and no voxel
size: only the images listed are read. Warp WarpLib/TiltSeries/ReconstructParticleSeries.cs; single images are in
RELION's conventions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import gonio.io.star as star
from gonio.io.blocks import Block, read_star, write_star
from gonio.io.errors import FormatError, files_found, located, of_particle, reading
from gonio.io.maps import moved_images, read_listed_sections
from gonio.io.source import ReadOptions, StarSource
from gonio.io.star_columns import own_columns
from gonio.io.text import decimals
from gonio.io.tilts import BFACTOR, DEFOCUS, OPTICS, PLATE, SCALE, bfactors
from gonio.particle.ctf import Ctf
from gonio.particle.particle_source import ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import TiltStack

GROUP, IMAGE = "rlnGroupName", "rlnImageName"
# What only lists of single tilt images have together; positions in tomograms and volumes are what they lack.
NEEDED = frozenset({GROUP, IMAGE, BFACTOR, SCALE, "rlnDefocusU", "rlnDefocusV"})
FOREIGN = frozenset({"rlnCoordinateZ", "rlnTomoName", "rlnCtfImage"})
ORIGINS = (star.ORIGINS_ANGSTROM[:2], star.ORIGINS_PX[:2])
NUMBERED = re.compile(r"(?P<tomogram>.+?)_\d+")
# Images are moved where shifts of their rows do not go together by more than this, in pixels.
STILL_PX = 1e-3


def is_series(labels: set[str]) -> bool:
    """Return whether the labels of a STAR file are those of a particle series."""
    return labels >= NEEDED and not FOREIGN & labels


@dataclass(frozen=True)
class SeriesSource(ParticleSource):
    """A particle series that has been read: rows of images, and which of them are whose.

    Parameters
    ----------
    images
        The list itself, whose rows are images.
    groups
        For each particle the rows of its images, least exposed first, the others as listed.
    """

    images: StarSource
    groups: tuple[NDArray[np.int64], ...]
    names: tuple[str, ...]

    format = "m-series"
    stacks = True

    @property
    def path(self) -> Path:
        """The list's file."""
        return self.images.path

    @property
    def files(self) -> tuple[Path, ...]:
        """The list alone."""
        return self.images.files

    @property
    def options(self) -> ReadOptions:
        """Options that the list was read with."""
        return self.images.options

    def files_of(self, index: int) -> tuple[Path, ...]:
        """Return the files of the particle's images, where they are found."""
        names = dict.fromkeys(self._token(row)[1] for row in self.groups[index].tolist())
        return files_found(names, self.path.parent)

    def load(self, index: int) -> TiltStack:
        """Read the images of a particle."""
        with of_particle(self.path, repr(self.names[index])):
            return self._load(self.groups[index])

    def _load(self, rows: NDArray[np.int64]) -> TiltStack:
        size = float(self.pixel_sizes_angstrom[rows[0]])
        images = self._read(rows)
        left = self.shifts(rows)[1] / size
        if np.abs(left).max() > STILL_PX:
            images = moved_images(images, -left)
        with reading(self.path, "give the list as M wrote it"):
            return TiltStack(
                -images if self.options.invert_contrast else images,
                self.projections(rows)[:, :2],
                size,
                ctf=self._ctf(rows),
                ctf_premultiplied=bool(self.images.value("rlnCtfDataAreCtfPremultiplied", int(rows[0]))),
                scale=self.images.particles.numbers(SCALE)[rows],
            )

    @cached_property
    def pixel_sizes_angstrom(self) -> NDArray[np.float64]:
        """Pixel size of each image. M leaves the headers at 1 angstrom: they state nothing."""
        given = self.options.voxel_size_angstrom
        stated = self.images.voxel_sizes_angstrom if given is None else np.full(len(self.images.particles), given)
        if stated is None:
            raise FormatError(self.path, "does not state the pixel size of its images", "pass --voxel-size ANGSTROM")
        return stated

    @cached_property
    def rotations(self) -> Rotation:
        """Rotation A^T of each image."""
        angles = self.images.particles.vectors(star.ANGLES)
        return Pose.from_euler_zyz_deg(angles, np.zeros_like(angles)).rotation.inv()

    def projections(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the axes x, y, z of images in the frame of the first of them, shape (t, 3, 3)."""
        return (self.rotations[rows] * self.rotations[rows[0]].inv()).as_matrix()

    def shifts(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return t of a particle, (3,), and what it leaves of each image's own shift, (t, 2), angstrom."""
        moved = -self.origins_angstrom[rows]  # (t, 2)
        axes = self.projections(rows)[:, :2]  # (t, 2, 3)
        t = np.asarray(np.linalg.lstsq(axes.reshape(-1, 3), moved.reshape(-1), rcond=1e-6)[0], dtype=np.float64)
        return t, moved - axes @ t

    @cached_property
    def origins_angstrom(self) -> NDArray[np.float64]:
        """Origin of each image, angstrom, shape (images, 2); 0 where the list has none, as M writes it."""
        particles = self.images.particles
        labels = self.origin_labels
        if not all(label in particles for label in labels):
            return np.zeros((len(particles), 2))
        scale = self.pixel_sizes_angstrom[:, None] if labels == ORIGINS[1] else 1.0
        return particles.vectors(labels) * scale

    @property
    def origin_labels(self) -> tuple[str, ...]:
        """Labels of the images' origins: in pixels in lists without optics groups, which know no others."""
        new = self.images.star.find("optics") is not None or ORIGINS[0][0] in self.images.particles
        return ORIGINS[0] if new else ORIGINS[1]

    def _ctf(self, rows: NDArray[np.int64]) -> Ctf:
        particles = self.images.particles
        u, v, angle = particles.vectors(DEFOCUS)[rows].T
        microscope = [self.images.values(label) for label in OPTICS]
        lost = next((label for label, values in zip(OPTICS, microscope, strict=True) if values is None), None)
        if lost is not None:
            raise FormatError(self.path, f"has no column {lost}, which the CTF needs", "add the column")
        voltage, aberration, contrast = (values[rows] for values in microscope if values is not None)
        plate = self.images.values(PLATE)
        return Ctf(
            u,
            v,
            angle,
            float(voltage[0]),
            aberration,
            float(contrast[0]),
            phase_shift_deg=0.0 if plate is None else plate[rows],
            bfactor_angstrom2=bfactors(particles)[rows],
        )

    def _token(self, row: int) -> tuple[int, str]:
        """Return the number of an image in its stack, from 1, and the stack."""
        number, at, name = self.images.particles.text(IMAGE)[row].rpartition("@")
        if not at or not number.isdigit() or int(number) < 1:
            problem = f"{IMAGE} of row {row + 1} is {name!r}, without the number of an image"
            raise FormatError(self.path, problem, "write NUMBER@FILE")
        return int(number), name

    def _read(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the images of rows, shape (t, y, x); each file is opened once."""
        tokens = [self._token(row) for row in rows.tolist()]
        images: dict[int, NDArray[np.float32]] = {}
        for name in dict.fromkeys(name for _, name in tokens):
            own = [place for place, token in enumerate(tokens) if token[1] == name]
            found = located(name, self.path, f"{IMAGE} of row {rows[own[0]] + 1}, {name}, is")
            numbers = [tokens[place][0] - 1 for place in own]
            read = read_listed_sections(self.path, found, numbers, permissive=self.options.permissive)
            images.update(zip(own, read, strict=True))
        return np.stack([images[place] for place in range(len(rows))])


def read_series(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a particle series: one particle for each group of images.

    Raises
    ------
    FormatError
        Missing or broken, a column is missing, a value is no number, an image is listed twice, or a particle has images
        in both half sets.
    """
    read = read_star(path)
    block = next((one for one in read.blocks if set(one.columns) >= NEEDED), None)
    if block is None or len(block) == 0:
        raise FormatError(path, "lists no tilt images of particles", "give a particle series as M writes it")
    images = StarSource(read, block, {}, None, options, stacks=True)
    _check_images(block)
    names, groups = _groups(block)
    source = SeriesSource(images, groups, names)
    first = np.array([rows[0] for rows in groups])
    shifts = np.array([source.shifts(rows)[0] for rows in groups])
    return ParticleTable(
        poses=Pose(source.rotations[first], shifts),
        names=names,
        tomograms=tuple(_tomogram(name) for name in names),
        half_sets=_half_sets(block, groups, names),
        columns=own_columns(block.take(first)),
        source=source,
        pixel_sizes_angstrom=_sizes(source, first),
        classes=block.whole(star.CLASS, *star.CLASSES)[first] if star.CLASS in block else None,
        extras=_common(images, groups),
    )


def write_series(path: Path, table: ParticleTable, _: bool = False) -> tuple[Path, ...]:
    """Write a series back, one row for each image, with the poses of the table composed with the tilts.

    Raises
    ------
    ValueError
        If the table was not read from a particle series.
    FormatError
        If the file cannot be written.
    """
    source = table.source
    if not isinstance(source, SeriesSource):
        raise ValueError(f"table must come from read_series, its source is {source!r}")
    groups = [source.groups[row] for row in np.asarray(table.rows).tolist()]
    counts = [len(rows) for rows in groups]
    each = np.repeat(np.arange(len(table)), counts)  # the particle of each image
    listed = replace(table[each], source=source.images, rows=np.concatenate([*groups, np.zeros(0, int)]).astype(int))
    block = star.updated(source.images, listed, path, _pose_columns(source, table, groups))
    blocks = tuple(block if old is source.images.particles else old for old in source.images.star.blocks)
    write_star(path, replace(source.images.star, blocks=blocks))
    return (path,)


def _pose_columns(
    source: SeriesSource, table: ParticleTable, groups: list[NDArray[np.int64]]
) -> Mapping[str, Sequence[str]]:
    """Return angles and origins of the images, particle by particle."""
    if not groups:
        return {}
    turned, origins = [], []
    for particle, rows in enumerate(groups):
        axes = source.projections(rows)
        turned.append(axes @ table.poses.rotation[particle].as_matrix())
        origins.append(-(axes[:, :2] @ table.poses.shift_angstrom[particle]) - source.shifts(rows)[1])
    angles = Pose(Rotation.from_matrix(np.concatenate(turned)).inv(), np.zeros((sum(map(len, groups)), 3)))
    columns = decimals(star.ANGLES, angles.euler_zyz_deg())
    shifts, labels = np.concatenate(origins), source.origin_labels
    if labels[0] not in source.images.particles and np.abs(shifts).max() < 1e-9:
        return columns
    scale = source.pixel_sizes_angstrom[np.concatenate(groups)][:, None] if labels == ORIGINS[1] else 1.0
    return {**columns, **decimals(labels, shifts / scale)}


def _groups(block: Block) -> tuple[tuple[str, ...], tuple[NDArray[np.int64], ...]]:
    """Return the names of the particles and the rows of each, the least exposed first."""
    found: dict[str, list[int]] = {}
    for row, name in enumerate(block.text(GROUP)):
        found.setdefault(name, []).append(row)
    exposure = np.abs(block.numbers(BFACTOR))
    rows = (np.array(one) for one in found.values())
    return tuple(found), tuple(np.roll(one, -int(np.argmin(exposure[one]))) for one in rows)


def _check_images(block: Block) -> None:
    images = block.text(IMAGE)
    seen: dict[str, int] = {}
    for row, image in enumerate(images):
        if seen.setdefault(image, row) != row and block.text(GROUP)[row] == block.text(GROUP)[seen[image]]:
            problem = f"lists image {image} of one particle twice, in rows {seen[image] + 1} and {row + 1}"
            raise FormatError(block.path, problem, "remove one of the rows")


def _tomogram(name: str) -> str:
    """Return the tilt series of a particle: its name without the number."""
    found = NUMBERED.fullmatch(name)
    return found["tomogram"] if found else name


def _half_sets(block: Block, groups: tuple[NDArray[np.int64], ...], names: tuple[str, ...]) -> NDArray[np.int8] | None:
    if star.HALF_SET not in block:
        return None
    halves = block.whole(star.HALF_SET, *star.HALVES).astype(np.int8)
    for rows, name in zip(groups, names, strict=True):
        if np.ptp(halves[rows]):
            problem = f"has images of particle {name!r} in both half sets"
            raise FormatError(block.path, problem, f"give all of them one {star.HALF_SET}")
    return halves[[rows[0] for rows in groups]]


def _sizes(source: SeriesSource, first: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """Return each particle's pixel size; None for a list that is not to be loaded and does not state it."""
    try:
        return source.pixel_sizes_angstrom[first]
    except FormatError:
        if source.options.may_count_pixels:
            return None
        raise


def _common(images: StarSource, groups: tuple[NDArray[np.int64], ...]) -> dict[str, tuple[str, ...]]:
    """Return the columns in which all images of each particle agree."""
    fields = {GROUP, IMAGE, star.HALF_SET, star.CLASS, *star.ANGLES, *star.ORIGINS_PX, *star.ORIGINS_ANGSTROM}
    common = {}
    for label, values in images.particles.columns.items():
        if label in fields or label.startswith("gonio"):
            continue
        if all(len({values[row] for row in rows.tolist()}) == 1 for rows in groups):
            common[label] = tuple(values[int(rows[0])] for rows in groups)
    return common
