"""A list of particles: their poses, origins and results.

Owns the columns that every file format is read into and written from. Signs, orders and units of other programs are
converted in ``gonio.io``; here poses are gonio's and lengths are angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.arguments import described
from gonio.particle.particle_source import InMemory, ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.texts import packed, texts_at
from gonio.particle.tilt_change import StackGeometry, TiltChange
from gonio.particle.volume import Particle

if TYPE_CHECKING:
    import pandas

# Sense of tilts that are not reversed.
AS_LISTED = "as listed"
# Rows in the representation for notebooks.
SHOWN = 10
# A place or a size beyond a tenth of a metre is none: files in single precision or other units could not hold it.
FARTHEST_ANGSTROM = 1e9


@dataclass(frozen=True)
class BoxFrames:
    """Frames of particles' boxes in their tomograms: ``x_tomogram = T F x_box``, T a rotation and F a mirror.

    Boxes that were extracted rotated, or mirrored along the beam, have a frame of their own; a pose (R, t) in it is
    ``(T F R F, T F t)`` in the tomogram.

    Parameters
    ----------
    turns
        T of each of m particles.
    flips
        Diagonal of F, 1 or -1, shape (m, 3).
    """

    turns: Rotation
    flips: NDArray[np.float64]

    def __getitem__(self, chosen: NDArray[np.integer | np.bool_]) -> BoxFrames:
        return BoxFrames(self.turns[chosen], self.flips[chosen])

    def __add__(self, other: BoxFrames) -> BoxFrames:
        return BoxFrames(Rotation.concatenate([self.turns, other.turns]), np.concatenate([self.flips, other.flips]))

    def to_tomogram(self, poses: Pose) -> Pose:
        """Return poses in the frame of the tomogram from poses in the frames of the boxes."""
        rotations = self.turns * mirrored(poses.rotation, self.flips)
        return Pose(rotations, self.turns.apply(self.flips * poses.shift_angstrom))

    def to_box(self, poses: Pose) -> Pose:
        """Return poses in the frames of the boxes from poses in the frame of the tomogram."""
        back, shifts = self.turns.inv(), np.array(poses.shift_angstrom)
        return Pose(mirrored(back * poses.rotation, self.flips), self.flips * back.apply(shifts))


def mirrored(rotations: Rotation, flips: NDArray[np.float64]) -> Rotation:
    """Return F R F of m rotations, F the mirrors with the diagonals ``flips`` (m, 3)."""
    if (flips == 1).all():
        return rotations
    return Rotation.from_matrix(flips[:, :, None] * rotations.as_matrix() * flips[:, None, :])


@dataclass(frozen=True)
class ParticleTable:
    """m particles, in the order of their file.

    Parameters
    ----------
    poses
        Batch of m: ``x_particle = R x_reference + t``, t relative to the centre of the particle's box.
    names
        One unique name per particle.
    tomograms
        Name of the tomogram of each particle.
    coordinates_angstrom
        Position of each box's centre in its tomogram, shape (m, 3), xyz, or None where unknown. The particle itself is
        at this position plus the shift of its pose in the tomogram.
    half_sets
        0 (none), 1 or 2 for each particle, shape (m,).
    columns
        Further values by name, each of shape (m,): scores, status and other results.
    source
        Loads the particles and holds the file's own columns, or None.
    rows
        Row of each particle in the source, shape (m,).
    coordinates_from
        Where coordinates start: the centre of the tomogram's first voxel (``corner``), or its centre.
    pixel_sizes_angstrom
        Size of the pixels in which the file gives coordinates, shape (m,). None where the file does not state it.
    lengths
        Unit of all lengths here: ``angstrom``, or ``pixels`` for a list in pixels that does not state their size; then
        nothing that needs angstrom is possible. Lists in angstrom need no pixel size.
    classes, scores
        Class and score of each particle as in the file, shape (m,), or None.
    images
        Image file of each particle as in the list, or None.
    extras
        Further columns of the file by a label that no other format has, each m texts: they are written to every format
        that can hold them.
    frames
        Frames of the boxes, where they are not the tomogram's.

    Raises
    ------
    ValueError
        Columns of different lengths; or, naming the row, a place that is not finite, a pixel size that is not positive,
        a half set other than 0, 1 and 2.
    """

    poses: Pose
    names: Sequence[str]
    tomograms: Sequence[str]
    coordinates_angstrom: NDArray[np.float64] | None = None
    half_sets: NDArray[np.int8] | None = None
    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    source: ParticleSource | None = None
    rows: NDArray[np.int64] | None = None
    coordinates_from: Literal["corner", "centre"] = "corner"
    pixel_sizes_angstrom: NDArray[np.float64] | None = None
    classes: NDArray[np.int64] | None = None
    scores: NDArray[np.float64] | None = None
    images: Sequence[str] | None = None
    extras: Mapping[str, Sequence[str]] = field(default_factory=dict)
    frames: BoxFrames | None = None
    lengths: Literal["angstrom", "pixels"] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if not self.poses.is_batch or len(self.poses) != count or len(self.tomograms) != count:
            raise ValueError(f"{count} names need a batch of {count} poses and {count} tomogram names")
        if self.lengths is None or self.pixel_sizes_angstrom is not None:
            object.__setattr__(self, "lengths", "pixels" if self.pixel_sizes_angstrom is None else "angstrom")
        if self.half_sets is None:
            object.__setattr__(self, "half_sets", np.zeros(count, dtype=np.int8))
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(count))
        shapes = {"coordinates_angstrom": (count, 3)} | dict.fromkeys(
            ("half_sets", "rows", "pixel_sizes_angstrom", "classes", "scores"), (count,)
        )
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"{name} must have shape {shape} for {count} particles, got {np.shape(value)}")
        every = (self.columns, self.extras, {} if self.images is None else {"images": self.images})
        lengths = {name: len(column) for columns in every for name, column in columns.items()}
        for name, length in lengths.items():
            if length != count:
                raise ValueError(f"column {name!r} has {length} values for {count} particles")
        self._check_values()

    def _check_values(self) -> None:
        """Refuse what no particle has: places that are not finite, sizes that are not positive, a third half set."""
        sizes, halves = self.pixel_sizes_angstrom, np.asarray(self.half_sets)
        coordinates = self.coordinates_angstrom
        self._refuse((halves < 0) | (halves > 2), "a half set other than 0, 1 and 2")
        if coordinates is not None:
            near = np.asarray((np.abs(coordinates) < FARTHEST_ANGSTROM).all(axis=-1))
            self._refuse(~near, f"coordinates that are not finite or beyond {FARTHEST_ANGSTROM:g} angstrom")
        near = np.asarray((np.abs(np.atleast_2d(self.poses.shift_angstrom)) < FARTHEST_ANGSTROM).all(axis=-1))
        self._refuse(~near, f"a shift that is not finite or beyond {FARTHEST_ANGSTROM:g} angstrom")
        if sizes is not None:
            self._refuse(~((sizes > 0) & (sizes < FARTHEST_ANGSTROM)), "a pixel size that is not a number above 0")

    def _refuse(self, wrong: NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(f"particle {self.names[row]!r} in row {row + 1} has {what}")

    @staticmethod
    def from_arrays(
        poses: Pose,
        *,
        names: Sequence[str] | None = None,
        tomograms: Sequence[str] | str = "",
        coordinates_angstrom: ArrayLike | None = None,
        half_sets: ArrayLike | None = None,
        pixel_size_angstrom: float | None = None,
        particles: Sequence[Particle] | None = None,
        **columns: ArrayLike,
    ) -> ParticleTable:
        """Return a table of particles that are in no file.

        Parameters
        ----------
        poses
            Batch of m.
        names, tomograms
            Names, by default 1 to m; the tomogram of each, or the one of all.
        coordinates_angstrom
            Positions from the centre of the tomogram's first voxel, (m, 3), xyz; None where they are unknown.
        half_sets
            0, 1 or 2 for each.
        pixel_size_angstrom
            Pixel in which a list of these is to count; None for lists in angstrom alone.
        particles
            The particles themselves, to be aligned or averaged; None for a list alone.
        columns
            Further values by name, each of shape (m,).

        Raises
        ------
        ValueError
            As ``ParticleTable``.
        """
        count = len(poses)
        return ParticleTable(
            poses=poses,
            names=tuple(map(str, range(1, count + 1))) if names is None else tuple(map(str, names)),
            tomograms=(tomograms,) * count if isinstance(tomograms, str) else tuple(map(str, tomograms)),
            coordinates_angstrom=None if coordinates_angstrom is None else np.array(coordinates_angstrom, np.float64),
            half_sets=None if half_sets is None else np.array(half_sets, dtype=np.int8),
            columns={name: np.array(column) for name, column in columns.items()},
            source=None if particles is None else InMemory(particles),
            pixel_sizes_angstrom=None if pixel_size_angstrom is None else np.full(count, pixel_size_angstrom),
            lengths="angstrom",
        )

    def __len__(self) -> int:
        return len(self.names)

    def __add__(self, other: ParticleTable) -> ParticleTable:
        """Return the particles of both tables, with the columns that both have.

        Raises
        ------
        ValueError
            If a particle is in both, or lengths, places or pixel sizes of only one are known, or start elsewhere.
        TypeError
            If they come from lists of two kinds, or one from none.
        """
        if not isinstance(other, ParticleTable):
            return NotImplemented
        self._check_joins(other)
        source, begin = (None, 0)
        if self.source is not None and other.source is not None:
            source, begin = self.source.joined(other.source)
        rows = None if source is None else np.concatenate([np.asarray(self.rows), begin + np.asarray(other.rows)])
        both = (self, other)
        return replace(
            self,
            poses=Pose(
                Rotation.concatenate([one.poses.rotation for one in both]),
                np.concatenate([one.poses.shift_angstrom for one in both]),
            ),
            names=_chained(self.names, other.names),
            tomograms=_chained(self.tomograms, other.tomograms),
            coordinates_angstrom=_both(self.coordinates_angstrom, other.coordinates_angstrom),
            half_sets=_both(self.half_sets, other.half_sets),
            columns={k: np.concatenate([v, other.columns[k]]) for k, v in self.columns.items() if k in other.columns},
            source=source,
            rows=rows,
            pixel_sizes_angstrom=_both(self.pixel_sizes_angstrom, other.pixel_sizes_angstrom),
            classes=_both(self.classes, other.classes),
            scores=_both(self.scores, other.scores),
            images=None if self.images is None or other.images is None else _chained(self.images, other.images),
            extras={k: _chained(v, other.extras[k]) for k, v in self.extras.items() if k in other.extras},
            frames=None if self.frames is other.frames is None else self._frames + other._frames,
        )

    @property
    def _frames(self) -> BoxFrames:
        """Frames of the boxes, those of the tomogram where there are none of their own."""
        count = len(self)
        return self.frames or BoxFrames(Rotation.identity(count), np.ones((count, 3)))

    def _check_joins(self, other: ParticleTable) -> None:
        theirs = set(other.names)
        twice = next((name for name in self.names if name in theirs), None)
        if twice is not None:
            raise ValueError(f"particle {twice!r} is in both lists: leave it out of one, or rename it")
        if (self.source is None) != (other.source is None):
            raise TypeError("one of the two lists comes from a file and the other does not: write and read that one")
        for what, states in (
            ("the unit of lengths", (self.lengths, other.lengths)),
            ("where positions start", (self.coordinates_from, other.coordinates_from)),
            ("whether positions are known", (self.coordinates_angstrom is None, other.coordinates_angstrom is None)),
            ("whether pixel sizes are known", (self.pixel_sizes_angstrom is None, other.pixel_sizes_angstrom is None)),
        ):
            if states[0] != states[1]:
                raise ValueError(f"two lists that differ in {what} cannot be joined: convert one of them")

    def __getitem__(self, index: slice | list[int] | NDArray[np.integer | np.bool_]) -> ParticleTable:
        """Return the subset of particles in a slice, positions or mask: always a table, so one is ``table[[i]]``.

        Raises
        ------
        TypeError
            If given a single number: ``table.load(i)`` reads that particle, ``table.poses[i]`` is its pose.
        """
        if not isinstance(index, slice) and np.ndim(index) != 1:
            raise TypeError(
                f"choose particles by a slice, a list of positions or a mask, got {described(index)}; one of them is"
                " table[[i]]"
            )
        chosen = np.arange(len(self))[index]
        return replace(
            self,
            poses=self.poses[chosen],
            names=texts_at(self.names, chosen),
            tomograms=texts_at(self.tomograms, chosen),
            half_sets=np.asarray(self.half_sets)[chosen],
            columns={name: np.asarray(column)[chosen] for name, column in self.columns.items()},
            rows=np.asarray(self.rows)[chosen],
            coordinates_angstrom=_chosen(self.coordinates_angstrom, chosen),
            pixel_sizes_angstrom=_chosen(self.pixel_sizes_angstrom, chosen),
            classes=_chosen(self.classes, chosen),
            scores=_chosen(self.scores, chosen),
            frames=None if self.frames is None else self.frames[chosen],
            images=None if self.images is None else texts_at(self.images, chosen),
            extras={label: texts_at(column, chosen) for label, column in self.extras.items()},
        )

    def load(self, index: int) -> Particle:
        """Read particle ``index`` of this table."""
        if self.source is None:
            raise ValueError("this table was not read from a file: it has no particles to load")
        return self.source.load(int(np.asarray(self.rows)[index]))

    def files_of(self, index: int) -> tuple[Path, ...]:
        """Return the files that particle ``index`` of this table is loaded from, its image first."""
        return () if self.source is None else self.source.files_of(int(np.asarray(self.rows)[index]))

    def stack_geometry(self, index: int) -> StackGeometry:
        """Return the geometry of the images of particle ``index``; ValueError where it is not known."""
        if self.source is None:
            raise ValueError("this table was not read from a file: it has no stacks")
        return self.source.stack_geometry(int(np.asarray(self.rows)[index]))

    def with_changes(self, changes: Mapping[str, TiltChange]) -> ParticleTable:
        """Return the table of the same stacks whose tilt series are changed, by tomogram."""
        if self.source is None:
            raise ValueError("this table was not read from a file: it has no stacks")
        return replace(self, source=self.source.with_changes(changes))

    def particles(self) -> Iterator[Particle]:
        """Iterate over the particles, each read when it is reached."""
        return (self.load(index) for index in range(len(self)))

    @property
    def tomogram_poses(self) -> Pose:
        """Poses in the frame of the tomogram, as lists of other programs state them."""
        return self.poses if self.frames is None else self.frames.to_tomogram(self.poses)

    @property
    def places_angstrom(self) -> NDArray[np.float64] | None:
        """Positions of the particles in their tomograms, shifts included, (m, 3), xyz; None where unknown."""
        if self.coordinates_angstrom is None:
            return None
        return self.coordinates_angstrom + self.tomogram_poses.shift_angstrom

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that the list was read from, without the particles' images."""
        return () if self.source is None else self.source.files

    @property
    def tilt_sense(self) -> str:
        """Sense in which tilts are read: ``as listed``, ``reversed`` or ``reversed of some particles``."""
        reversed_rows = np.zeros(0, dtype=bool) if self.source is None else self.source.tilts_reversed
        if not reversed_rows.any():
            return AS_LISTED
        return "reversed" if reversed_rows.all() else "reversed of some particles"

    def __repr__(self) -> str:
        halves = np.bincount(np.asarray(self.half_sets), minlength=3)[1:3]
        split = f", half sets of {halves[0]} and {halves[1]}" if halves.any() else ""
        columns = f", columns {', '.join(self.columns)}" if self.columns else ""
        tomograms = len(set(self.tomograms))
        return f"ParticleTable({len(self)} particles of {tomograms} tomogram{'s'[: tomograms != 1]}{split}{columns})"

    def to_pandas(self) -> pandas.DataFrame:
        """Return a pandas table with one row for each particle: names, poses, positions, half sets, columns.

        Poses are Euler angles (ZYZ, degrees) and shifts (angstrom) of ``x_particle = R x_reference + t``.
        """
        import pandas  # slow to import, and nothing else here needs it

        angles, shifts = self.poses.euler_zyz_deg(), self.poses.shift_angstrom
        columns: dict[str, object] = {"name": self.names, "tomogram": self.tomograms}
        columns |= {f"{name}_deg": angles[:, i] for i, name in enumerate(("rot", "tilt", "psi"))}
        columns |= {f"shift_{axis}_angstrom": shifts[:, i] for i, axis in enumerate("xyz")}
        if self.coordinates_angstrom is not None:
            columns |= {f"{axis}_angstrom": self.coordinates_angstrom[:, i] for i, axis in enumerate("xyz")}
        return pandas.DataFrame({**columns, "half_set": self.half_sets, **self.columns})

    def _repr_html_(self) -> str:
        return f"<p>{self!r}</p>{self[:SHOWN].to_pandas().to_html(max_cols=12)}"

    def without(self, *names: str) -> ParticleTable:
        """Return the table without these columns, where it has them."""
        return replace(self, columns={name: column for name, column in self.columns.items() if name not in names})

    def with_poses(self, poses: Pose, **columns: ArrayLike) -> ParticleTable:
        """Return the table with new poses and with further columns, which replace those of the same name."""
        added = {name: np.asarray(column) for name, column in columns.items()}
        return replace(self, poses=poses, columns={**self.columns, **added})


def _chained(first: Sequence[str], second: Sequence[str]) -> Sequence[str]:
    return packed(chain(first, second))


def _both(first: NDArray[Any] | None, second: NDArray[Any] | None) -> NDArray[Any] | None:
    return None if first is None or second is None else np.concatenate([first, second])


def _chosen(values: NDArray[Any] | None, chosen: NDArray[np.integer | np.bool_]) -> NDArray[Any] | None:
    return None if values is None else np.asarray(values)[chosen]
