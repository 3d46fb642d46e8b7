"""Particles behind a STAR list, loaded one at a time.

Owns how an image file becomes a ``TiltStack`` or a ``Subtomogram``: which images belong to which tilts, voxel sizes,
contrast, the transfer of each image, and where the wedge comes from. Knows nothing of poses.

Of a set whose tilt sense was reversed on import (``ReadOptions.reverse_tilts``) every projection P is read as P D,
D = diag(1, 1, -1), which mirrors what it shows; defocus stays as the files have it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block, Star, read_star
from gonio.io.ctf_images import CTF_IMAGE_COLUMN, CtfImage, CtfImageKind, kind_of, seen_through
from gonio.io.errors import FormatError, files_found, locate, located, of_particle, reading
from gonio.io.joining import joined_stars
from gonio.io.maps import image_count, image_stack, moved_images, premultiplied_anew, read_listed
from gonio.io.mrc import MapFile
from gonio.io.text import own_label
from gonio.io.tilts import OPTICS, DefocusHand, visible_tilts
from gonio.io.wedges import StatedWedges
from gonio.particle.ctf import Ctf
from gonio.particle.particle_source import ParticleSource
from gonio.particle.table import ParticleTable
from gonio.particle.tilt_change import StackGeometry, TiltChange
from gonio.particle.tilt_series import Optics, TiltSeries
from gonio.particle.volume import Particle, Subtomogram, TiltStack, Volume
from gonio.particle.wedge import SingleAxisWedge, Wedge

VOXEL_SIZE_TOLERANCE = 0.01
CENTRED = ("rlnCenteredCoordinateXAngst", "rlnCenteredCoordinateYAngst", "rlnCenteredCoordinateZAngst")
COORDINATES_PX = ("rlnCoordinateX", "rlnCoordinateY", "rlnCoordinateZ")
SUBTOMOGRAM_ANGLES = ("rlnTomoSubtomogramRot", "rlnTomoSubtomogramTilt", "rlnTomoSubtomogramPsi")
TILT_COLUMNS = ("gonioTiltMin", "gonioTiltMax", "gonioTiltAxis")
# The column that states that poses were found with tilts read in the other sense.
TILT_SENSE, REVERSED = "tilt_sense", "reversed"
NAME = "rlnTomoParticleName"
STACKS = "rlnTomoSubTomosAre2DStacks"
IMAGE_OF_CTF, PREMULTIPLIED = "rlnCtfImage", "rlnCtfDataAreCtfPremultiplied"
# What gonio states of a particle's image in columns of its own, which stay with it.
IMAGE_COLUMNS = (*TILT_COLUMNS, CTF_IMAGE_COLUMN)


def name_label(particles: Block) -> str | None:
    """Return the column that names particles; lists of positions alone have none."""
    return next((label for label in (NAME, "rlnImageName") if label in particles), None)


def tilts_about_y(table: ParticleTable) -> tuple[Sequence[str], Sequence[str]] | None:
    """Return the first and last tilts that a list states, if it does and all axes are y."""
    if not all(label in table.extras for label in TILT_COLUMNS):
        return None
    low, high, axis = (table.extras[label] for label in TILT_COLUMNS)
    return (low, high) if all(float(value) == 90.0 for value in axis) else None


def star_format(labels: set[str]) -> str:
    """Return the format of a STAR list, by the labels of its columns and blocks (``data_optics``)."""
    if labels & {CENTRED[0], STACKS, "rlnTomoParticlesFile"}:
        return "relion5"
    if "rlnTomoName" in labels:
        return "relion4"
    if "data_optics" in labels:
        return "relion3.1"
    return "relion3.0" if "rlnImageName" in labels or COORDINATES_PX[0] not in labels else "warp"


@dataclass(frozen=True)
class ReadOptions:
    """Options of the caller for a list, each in place of what the files state: those of ``gonio.io.read_particles``.

    Parameters
    ----------
    pixel_size_angstrom
        Size of the pixels that coordinates count in.
    may_count_pixels
        Read a list whose particles are not to be loaded: tomograms of 2-D stacks are not read, poses are those in the
        tomogram, and lengths in pixels of unknown size stay pixels. It is enough to convert a list.
    wedges
        Wedges from tilt files.
    """

    tilt_range_deg: tuple[float, float] | None = None
    axis_deg: float = 90.0
    voxel_size_angstrom: float | None = None
    invert_contrast: bool = False
    permissive: bool = False
    pixel_size_angstrom: float | None = None
    may_count_pixels: bool = False
    tomograms_path: Path | None = None
    data_path: Path | None = None
    wedges: StatedWedges | None = None
    reverse_tilts: bool = False
    ctf_image: CtfImage | None = None
    defocus_hand: DefocusHand | None = None


@dataclass(frozen=True)
class StarSource:
    """A STAR list that has been read: all its blocks as text, and the particles behind them.

    Parameters
    ----------
    particles
        Its block of particles.
    series
        Tilt series by tomogram name; empty for 3-D subtomograms.
    tomograms_path
        Where the tilt series came from, or None.
    sets
        Optimisation sets through which list or tomograms were found.
    stacks
        Whether images are 2-D stacks. Without their tilt series they cannot be loaded.
    places_angstrom
        Where the boxes of stacks are, from the centres of their tomograms, (m, 3), NaN where it is not known; or None.
    """

    star: Star
    particles: Block
    series: Mapping[str, TiltSeries]
    tomograms_path: Path | None
    options: ReadOptions
    sets: tuple[Path, ...] = ()
    stacks: bool = False
    places_angstrom: NDArray[np.float64] | None = field(default=None, compare=False)

    @property
    def path(self) -> Path:
        """The list's file."""
        return self.star.path

    @property
    def files(self) -> tuple[Path, ...]:
        """Every list that was read: sets, the list, tomograms and the files of single tilt series."""
        tomograms = () if self.tomograms_path is None or not self.series else (self.tomograms_path,)
        series = [one.path for one in self.series.values()]
        series += [] if self.options.wedges is None else [one.series.path for one in self.options.wedges.wedges]
        return tuple(dict.fromkeys((*self.sets, self.path, *tomograms, *series)))

    @property
    def sizes_path(self) -> Path | None:
        """The tomograms file that was read, or is found beside the list."""
        return self.tomograms_path or tomograms_beside(self.path, needed=False)[0]

    @cached_property
    def format(self) -> str:
        """The version of RELION (or Warp) that writes lists with these columns."""
        return star_format({label for block in self.star.blocks for label in (f"data_{block.name}", *block.columns)})

    @cached_property
    def optics_rows(self) -> NDArray[np.int64]:
        """For each particle its row in block data_optics; empty where the file has no such block."""
        optics = self.star.find("optics")
        if optics is None:
            return np.zeros(0, dtype=np.int64)
        groups = {group: row for row, group in enumerate(optics.text("rlnOpticsGroup"))}
        wanted = self.particles.text("rlnOpticsGroup")
        try:
            return np.fromiter(map(groups.__getitem__, wanted), np.int64, len(wanted))
        except KeyError as lost:
            raise FormatError(self.path, f"optics group {lost} is not in block data_optics", "add it there") from lost

    def values(self, label: str) -> NDArray[np.float64] | None:
        """Return a number for each particle, from its optics group or its row; None where neither has the column."""
        optics = self.star.find("optics")
        if optics is not None and label in optics:
            return optics.numbers(label)[self.optics_rows]
        return self.particles.numbers(label) if label in self.particles else None

    def sizes(self, label: str) -> NDArray[np.float64] | None:
        """Return a size above 0 for each particle, as ``values``."""
        optics = self.star.find("optics")
        if optics is not None and label in optics:
            return optics.positive(label)[self.optics_rows]
        return self.particles.positive(label) if label in self.particles else None

    def value(self, label: str, index: int) -> float | None:
        """Return ``values(label)[index]``, at a cost that does not grow with the list."""
        optics = self.star.find("optics")
        if optics is not None and label in optics:
            return optics.number(label, int(self.optics_rows[index]))
        return self.particles.number(label, index) if label in self.particles else None

    @cached_property
    def voxel_sizes_angstrom(self) -> NDArray[np.float64] | None:
        """Voxel size of each particle's images as the list states it, or None."""
        for label in ("rlnImagePixelSize", "rlnPixelSize"):
            sizes = self.sizes(label)
            if sizes is not None:
                return sizes
        detector_um, magnification = self.sizes("rlnDetectorPixelSize"), self.sizes("rlnMagnification")
        return None if detector_um is None or magnification is None else 1e4 * detector_um / magnification

    @cached_property
    def tilts_reversed(self) -> NDArray[np.bool_]:
        """Mask of the particles whose tilts are read in the other sense, (m,), by the caller's option or the list."""
        label, count = own_label(TILT_SENSE), len(self.particles)
        if not self.series:
            return np.zeros(count, dtype=bool)
        if self.options.reverse_tilts or label not in self.particles:
            return np.full(count, self.options.reverse_tilts)
        return np.array([value == REVERSED for value in self.particles.text(label)])

    def files_of(self, index: int) -> tuple[Path, ...]:
        """Return the image of the particle at this row, and its volume in rlnCtfImage, where they are found."""
        labels = ("rlnImageName", IMAGE_OF_CTF) if self.has_ctf_images else ("rlnImageName",)
        return files_found((self.particles.text(label)[index] for label in labels), self.path.parent)

    def load(self, index: int) -> Particle:
        """Return the particle at this row of the file."""
        label = name_label(self.particles)
        name = f"in row {index + 1}" if label is None else repr(self.particles.text(label)[index])
        with of_particle(self.path, name):
            return self._load(index)

    def _load(self, index: int) -> Particle:
        if self.stacks and not self.series:
            raise FormatError(self.path, "lists 2-D stacks and was read without their tomograms", "pass --tomograms")
        image = self._read("rlnImageName", index)
        size = self._voxel_size(index, image)
        return self._tilt_stack(index, image, size) if self.series else self._subtomogram(index, image, size)

    def _read(self, label: str, index: int) -> MapFile:
        return read_listed(self.path, self._located(label, index), permissive=self.options.permissive)

    def _located(self, label: str, index: int) -> Path:
        token = self.particles.text(label)[index]
        return located(token, self.path, f"{label} of row {index + 1}, {token}, is")

    def _voxel_size(self, index: int, image: MapFile) -> float:
        if self.options.voxel_size_angstrom is not None:
            return self.options.voxel_size_angstrom
        header = image.voxel_size_angstrom(axes=2 if self.series else 3)
        listed = header if self.voxel_sizes_angstrom is None else float(self.voxel_sizes_angstrom[index])
        if listed <= 0:
            raise FormatError(image.path, "no voxel size in the list nor in the header", "pass --voxel-size ANGSTROM")
        if header > 0 and abs(header / listed - 1) > VOXEL_SIZE_TOLERANCE:
            problem = f"its header states {header:g} angstrom per voxel, {self.path} states {listed:g}"
            raise FormatError(image.path, problem, "pass --voxel-size with the right one")
        return listed

    def _contrast(self, data: NDArray[np.float32]) -> NDArray[np.float32]:
        return -data if self.options.invert_contrast else data

    def _tilt_stack(self, index: int, image: MapFile, size: float) -> TiltStack:
        images = image_stack(image)
        geometry, visible = self._geometry(index, image.path, len(images))
        series = geometry.series
        if series.cut_projections_xyz is not None:
            if not np.isfinite(geometry.place_angstrom).all():
                problem = "does not state positions, which stacks that were cut with another geometry of the tilts need"
                raise FormatError(self.path, problem, "extract the stacks again")
            visible = visible & geometry.shows(size * images.shape[-1])
            images = moved_images(images, -geometry.offsets_angstrom / size)
        with reading(image.path, "extract this particle again"):
            stack = TiltStack(
                self._contrast(images),
                series.projections_xyz * geometry.sense,
                size,
                ctf=geometry.ctf,
                ctf_premultiplied=bool(self.value(PREMULTIPLIED, index)),
                dose=series.dose,
                scale=visible.astype(np.float64) if series.scale is None else visible * series.scale,
                bfactor_per_dose=series.bfactor_per_dose,
            )
            if series.cut_projections_xyz is None or not stack.ctf_premultiplied:
                return stack
            # The lens is that of the place where the stack was cut, and so nearly that of the place now.
            cut_defocus = series.defocus if series.cut_defocus is None else series.cut_defocus
            before = self._ctf(index, replace(series, defocus=cut_defocus))
            cut_scale = stack.scale if series.cut_scale is None else visible * series.cut_scale
            return premultiplied_anew(stack, before, cut_scale)

    def _place(self, index: int) -> NDArray[np.float64] | None:
        """Return where a particle's box is, from its tomogram's centre; None where it is not known."""
        place = None if self.places_angstrom is None else self.places_angstrom[index]
        return place if place is not None and bool(np.isfinite(place).all()) else None

    def stack_geometry(self, index: int) -> StackGeometry:
        """Return the geometry of the images of the particle at this row.

        Raises
        ------
        FormatError
            If the list has no tilt series, its image is missing, or its position is not known.
        """
        if not self.series:
            raise FormatError(self.path, "has no tilt series of 2-D stacks", "give a list of stacks with --tomograms")
        series = self.series[self.particles.text("rlnTomoName")[index]]
        count, path = len(series), self.path
        if not self._visible(index, series).all():
            path = self._located("rlnImageName", index)
            count = image_count(self.path, path, permissive=self.options.permissive)
        geometry, _ = self._geometry(index, path, count)
        if not np.isfinite(geometry.place_angstrom).all():
            problem = f"does not state where the particle in row {index + 1} is from the centre of its tomogram"
            raise FormatError(self.path, problem, "add rlnCenteredCoordinate*Angst, or rlnTomoSize* to tomograms.star")
        return geometry

    def with_changes(self, changes: Mapping[str, TiltChange]) -> StarSource:
        """Return the source of the same stacks whose tilt series are changed, by tomogram."""
        unknown = [name for name in changes if name not in self.series]
        if unknown:
            raise FormatError(self.path, f"has no tilt series {unknown[0]!r}", "give changes of its own tomograms")
        changed = {name: change.applied(self.series[name]) for name, change in changes.items()}
        return replace(self, series={**self.series, **changed})

    def _geometry(self, index: int, path: Path, count: int) -> tuple[StackGeometry, NDArray[np.bool_]]:
        """Return the geometry of the ``count`` images of a stack, and which of them show the particle."""
        name = self.particles.text("rlnTomoName")[index]
        series, visible, tilts = self._match(index, path, count, self.series[name])
        place = self._place(index)
        place = np.full(3, np.nan) if place is None else place
        mirrored = bool(self.tilts_reversed[index])
        return StackGeometry(series, tilts, place, self._ctf(index, series), mirrored), visible

    def _ctf(self, index: int, series: TiltSeries) -> Ctf | None:
        if series.defocus is None:
            return None
        plate = self.value("rlnPhaseShift", index)
        if series.phase_shift_deg is None and plate is not None:
            series = replace(series, phase_shift_deg=np.full(len(series), plate))
        optics = Optics(*(self._optics(index, label) for label in OPTICS))
        return series.ctf(place_angstrom=self._place(index), optics=optics)

    def _visible(self, index: int, series: TiltSeries) -> NDArray[np.bool_]:
        """Return which images of a series show the particle at this row."""
        if "rlnTomoVisibleFrames" not in self.particles:
            return np.ones(len(series), dtype=bool)
        token = self.particles.text("rlnTomoVisibleFrames")[index]
        return visible_tilts(token, path=self.path, row=index, count=len(series))

    def _match(
        self, index: int, path: Path, count: int, series: TiltSeries
    ) -> tuple[TiltSeries, NDArray[np.bool_], NDArray[np.int64]]:
        # RELION 5 stores the visible tilts only, WarpTools all of them with the others left zero.
        visible = self._visible(index, series)
        if count == len(series):
            return series, visible, np.arange(count)
        if count == visible.sum():
            return series.take(visible), visible[visible], np.flatnonzero(visible)
        problem = f"holds {count} images; its tomogram has {len(series)} tilts, {visible.sum()} of them visible"
        raise FormatError(path, problem, f"give the tomograms file that belongs to {self.path}")

    def _optics(self, index: int, label: str) -> float:
        value = self.value(label, index)
        if value is None:
            raise FormatError(self.path, f"has no column {label}, which the CTF needs", "add it to block data_optics")
        return value

    def _subtomogram(self, index: int, image: MapFile, size: float) -> Subtomogram:
        with reading(image.path, "a 3-D subtomogram must be a cubic map"):
            volume = Volume(self._contrast(image.data), size)
            if self.options.wedges is None and self._tilts(index) is None:
                return self._seen_through(index, volume)
            return Subtomogram(volume, self._wedge(index, volume))

    def _wedge(self, index: int, volume: Volume) -> Wedge:
        if self.value(PREMULTIPLIED, index) and self.options.ctf_image is not CtfImage.CONFIDENCE:
            problem = (
                f"row {index + 1} is a sum of images times their CTF ({PREMULTIPLIED}): no tilts state what it holds"
            )
            raise FormatError(self.path, problem, "leave out --tilt-range and --tilts, and give rlnCtfImage")
        if self.options.wedges is not None:
            return self.options.wedges.of(index, volume.box, volume.voxel_size_angstrom)
        tilts = self._tilts(index)
        assert tilts is not None
        if any(abs(self.value(label, index) or 0.0) > 1e-6 for label in SUBTOMOGRAM_ANGLES):
            problem = f"row {index + 1} was cut out rotated (rlnTomoSubtomogramRot, Tilt, Psi): no tilt range fits it"
            raise FormatError(self.path, problem, "leave out --tilt-range and give volumes in rlnCtfImage")
        with reading(self.path, "pass --tilt-range MIN MAX in degrees"):
            return SingleAxisWedge(*tilts)

    def _tilts(self, index: int) -> tuple[float, float, float] | None:
        if self.options.tilt_range_deg is not None:
            return (*self.options.tilt_range_deg, self.options.axis_deg)
        low, high, axis = (self.value(label, index) for label in TILT_COLUMNS)
        return None if low is None or high is None or axis is None else (low, high, axis)

    def _seen_through(self, index: int, volume: Volume) -> Subtomogram:
        if IMAGE_OF_CTF not in self.particles:
            raise FormatError(self.path, "does not state which tilts were measured", "pass --tilt-range MIN MAX")
        image = self._read(IMAGE_OF_CTF, index)
        with reading(image.path, f"pass --ctf-image {', '.join(CtfImage)}, or --tilt-range MIN MAX instead"):
            kind = self._kind_of(index, len(image.data), volume.box).kind
            flipped = bool(self.value("rlnCtfDataArePhaseFlipped", index))
            return seen_through(volume, image.data, kind, phase_flipped=flipped)

    def _kind_of(self, index: int, sections: int, box: int) -> CtfImageKind:
        optics = self.star.find("optics")
        stated = self.particles.text(CTF_IMAGE_COLUMN)[index] if CTF_IMAGE_COLUMN in self.particles else None
        if optics is not None and CTF_IMAGE_COLUMN in optics:
            stated = optics.text(CTF_IMAGE_COLUMN)[self.optics_rows[index]]
        return kind_of(
            given=self.options.ctf_image,
            stated=stated,
            is_premultiplied=bool(self.value(PREMULTIPLIED, index)),
            sections=sections,
            box=box,
            is_extracted="gonioOutside" in self.particles,
        )

    def joined(self, other: ParticleSource) -> tuple[StarSource, int]:
        """Return the source of the rows of both lists, and the row at which those of the other begin.

        Raises
        ------
        TypeError, ValueError
            For lists of two formats, or read with different options; FormatError as ``gonio.io.joining``.
        """
        if not isinstance(other, StarSource) or (self.format, self.stacks) != (other.format, other.stacks):
            raise TypeError(f"{self.path} is a list of {self.format}, the other of {other.format}: convert one of them")
        mine, its = (replace(one.options, tomograms_path=None) for one in (self, other))
        if mine != its:
            raise ValueError(f"{self.path} and {other.path} were read with different options")
        star, particles = joined_stars(self.star, other.star, (self.particles, other.particles))
        places, others = self.places_angstrom, other.places_angstrom
        return StarSource(
            star,
            particles,
            {**other.series, **self.series},
            self.tomograms_path if self.tomograms_path == other.tomograms_path else None,
            self.options,
            tuple(dict.fromkeys((*self.sets, *other.sets, other.path))),
            self.stacks,
            None if places is None or others is None else np.concatenate([places, others]),
        ), len(self.particles)

    def renamed(self, names: Sequence[str]) -> StarSource:
        """Return the source with other names of its particles, in the column that names them, if there is one."""
        if NAME not in self.particles:
            return self
        particles = self.particles.with_columns({NAME: names})
        blocks = tuple(particles if block is self.particles else block for block in self.star.blocks)
        return replace(self, star=replace(self.star, blocks=blocks), particles=particles)

    @property
    def has_ctf_images(self) -> bool:
        """True where its subtomograms come with volumes in rlnCtfImage."""
        return not self.stacks and IMAGE_OF_CTF in self.particles

    def ctf_image_kind(self, index: int) -> CtfImageKind | None:
        """Return what the particle's volume in rlnCtfImage is taken for, and why; None where none is used."""
        if not self.has_ctf_images or self.options.wedges is not None or self._tilts(index) is not None:
            return None
        sections, box = (len(self._read(label, index).data) for label in (IMAGE_OF_CTF, "rlnImageName"))
        return self._kind_of(index, sections, box)


def named_file(entry: Block, label: str) -> Path:
    """Return the file that the first row of a column names; FormatError where there is none."""
    return located(entry.first(label), entry.path, f"{label} names {entry.first(label)}, which is")


def tomograms_beside(path: Path, *, needed: bool) -> tuple[Path | None, tuple[Path, ...]]:
    """Return tomograms.star beside a list, or the one that an optimisation set there names for it, and that set."""
    for other in sorted(path.parent.glob("*optimisation_set.star")):
        entry = next((block for block in read_star(other).blocks if "rlnTomoTomogramsFile" in block), None)
        if entry is None or "rlnTomoParticlesFile" not in entry:
            continue
        named = locate(entry.first("rlnTomoParticlesFile"), other.parent)
        if named is not None and named.resolve() == path.resolve():
            return named_file(entry, "rlnTomoTomogramsFile"), (other,)
    if (path.parent / "tomograms.star").is_file():
        return path.parent / "tomograms.star", ()
    if not needed:
        return None, ()
    raise FormatError(path, "lists 2-D stacks, and no tomograms.star is beside it", "pass --tomograms FILE")
