"""A list of particles: poses, where they come from, and what was found out about each.

Owns the columns that every file format is read into and written from. Signs, orders and units of foreign programs
live in ``gonio.io``; here poses are gonio's and lengths are angstrom.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.pose import Pose
from gonio.volume import Particle

if TYPE_CHECKING:
    import pandas

__all__ = ["ParticleSource", "ParticleTable"]

# Rows that a notebook shows.
SHOWN = 10


class ParticleSource(Protocol):
    """Whoever read the list: can load a particle's data, and writes the list back in its own format."""

    def load(self, index: int) -> Particle:
        """The particle at this row of the file."""
        ...

    def image(self, index: int) -> Path | None:
        """The file that holds the particle at this row, or None where it is not found."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that were read to know the list, images not among them."""
        ...


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
        Position of each box's centre in its tomogram, shape (m, 3), xyz, or None where unknown.
    half_sets
        0 (none), 1 or 2 for each particle, shape (m,).
    columns
        Further values by name, each of shape (m,): scores, status and whatever the program found out.
    source
        Loads the particles and knows the file's own columns, or None.
    rows
        For each particle its row in the source, shape (m,).
    """

    poses: Pose
    names: tuple[str, ...]
    tomograms: tuple[str, ...]
    coordinates_angstrom: NDArray[np.float64] | None = None
    half_sets: NDArray[np.int8] | None = None
    columns: Mapping[str, NDArray] = field(default_factory=dict)
    source: ParticleSource | None = None
    rows: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.names)
        if not self.poses.is_batch or len(self.poses) != count or len(self.tomograms) != count:
            raise ValueError(f"{count} names need a batch of {count} poses and {count} tomogram names")
        if self.half_sets is None:
            object.__setattr__(self, "half_sets", np.zeros(count, dtype=np.int8))
        if self.rows is None:
            object.__setattr__(self, "rows", np.arange(count))
        shapes = {"coordinates_angstrom": (count, 3), "half_sets": (count,), "rows": (count,)}
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value is not None and np.shape(value) != shape:
                raise ValueError(f"{name} must have shape {shape} for {count} particles, got {np.shape(value)}")
        for name, column in self.columns.items():
            if len(column) != count:
                raise ValueError(f"column {name!r} has {len(column)} values for {count} particles")

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: slice | list[int] | NDArray) -> ParticleTable:
        """The chosen particles, by slice, positions or mask: always a table, so one of them is ``table[[i]]``.

        Raises
        ------
        TypeError
            For a single number: ``table.load(i)`` reads that particle, ``table.poses[i]`` is its pose.
        """
        if not isinstance(index, slice) and np.ndim(index) != 1:
            raise TypeError(
                f"choose particles by a slice, a list of positions or a mask, got {index!r}; one of them is table[[i]]"
            )
        chosen = np.arange(len(self))[index]
        return replace(
            self,
            poses=self.poses[chosen],
            names=tuple(self.names[i] for i in chosen),
            tomograms=tuple(self.tomograms[i] for i in chosen),
            coordinates_angstrom=None if self.coordinates_angstrom is None else self.coordinates_angstrom[chosen],
            half_sets=np.asarray(self.half_sets)[chosen],
            columns={name: np.asarray(column)[chosen] for name, column in self.columns.items()},
            rows=np.asarray(self.rows)[chosen],
        )

    def load(self, index: int) -> Particle:
        """Read particle ``index`` of this table."""
        if self.source is None:
            raise ValueError("this table was not read from a file: it has no particles to load")
        return self.source.load(int(np.asarray(self.rows)[index]))

    def image(self, index: int) -> Path | None:
        """The file that holds particle ``index`` of this table, or None where there is none."""
        return None if self.source is None else self.source.image(int(np.asarray(self.rows)[index]))

    def particles(self) -> Iterator[Particle]:
        """Read the particles one after the other."""
        return (self.load(index) for index in range(len(self)))

    @property
    def files(self) -> tuple[Path, ...]:
        """The files behind the list (not the particles' images); none where it was not read from a file."""
        return () if self.source is None else self.source.files

    def __repr__(self) -> str:
        halves = np.bincount(np.asarray(self.half_sets), minlength=3)[1:3]
        split = f", half sets of {halves[0]} and {halves[1]}" if halves.any() else ""
        columns = f", columns {', '.join(self.columns)}" if self.columns else ""
        tomograms = len(set(self.tomograms))
        return f"ParticleTable({len(self)} particles of {tomograms} tomogram{'s'[: tomograms != 1]}{split}{columns})"

    def to_pandas(self) -> pandas.DataFrame:
        """The list as a table of pandas, one row for each particle: names, poses, positions, half sets, columns.

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
        return f"<p>{self!r}</p>" + self[:SHOWN].to_pandas().to_html(max_cols=12)

    def without(self, *names: str) -> ParticleTable:
        """The same particles without these columns, of which none need be there."""
        return replace(self, columns={name: column for name, column in self.columns.items() if name not in names})

    def with_poses(self, poses: Pose, **columns: ArrayLike) -> ParticleTable:
        """The same particles with new poses, and further columns beside the old."""
        added = {name: np.asarray(column) for name, column in columns.items()}
        return replace(self, poses=poses, columns={**self.columns, **added})
