"""Where the data of a list's particles come from. Must not know lists, formats or files' contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gonio.particle.tilt_change import StackGeometry, TiltChange
from gonio.particle.tilt_series import TiltSeries
from gonio.particle.volume import Particle


class ParticleSource(Protocol):
    """The origin of a list: loads the data of its particles and states what the list contains besides their poses.

    A class that inherits from it is, by default, a source of particles that are in no file.
    """

    def load(self, index: int) -> Particle:
        """Load the particle at this row of the file."""
        ...

    def files_of(self, index: int) -> tuple[Path, ...]:
        """Return the files that the particle at this row is loaded from, its image first, those that are found."""
        return ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that were read for the list, without images."""
        return ()

    @property
    def format(self) -> str:
        """Format of the list, in which it is written back: a key of ``gonio.io.formats.FORMATS``, or empty."""
        return ""

    @property
    def stacks(self) -> bool:
        """True where particles are stacks of 2-D tilt images."""
        return False

    @property
    def series(self) -> Mapping[str, TiltSeries]:
        """Tilt series of 2-D stacks by tomogram, where they were read."""
        return {}

    @property
    def tilts_reversed(self) -> NDArray[np.bool_]:
        """Rows whose tilts are read in the reversed sense, as a mask; empty where that is impossible."""
        return np.zeros(0, dtype=bool)

    @property
    def sizes_path(self) -> Path | None:
        """File that states the sizes of the tomograms, where the list has one."""
        return None

    @property
    def has_ctf_images(self) -> bool:
        """True where subtomograms come with volumes in rlnCtfImage."""
        return False

    def ctf_image_kind(self, index: int) -> object | None:
        """Return how the volume in rlnCtfImage of this row is interpreted, and why; None where none is used."""
        return None

    def stack_geometry(self, index: int) -> StackGeometry:
        """Return the geometry of the images of the particle at this row; ValueError where it is not known."""
        raise ValueError("these particles have no tilt series: give a list of 2-D stacks that states them")

    def with_changes(self, changes: Mapping[str, TiltChange]) -> ParticleSource:
        """Return a source of the same stacks whose tilt series are changed, by tomogram."""
        raise ValueError("these particles have no tilt series whose geometry could be changed")

    def joined(self, other: ParticleSource) -> tuple[ParticleSource, int]:
        """Return the source of the rows of both, and the row at which those of the other begin there.

        Raises
        ------
        TypeError
            If they are of two kinds, which no list can hold together.
        """
        raise TypeError(f"lists of {self.format or 'particles in memory'} cannot be joined: convert them first")


@dataclass(frozen=True)
class InMemory(ParticleSource):
    """Particles that are in memory."""

    particles: Sequence[Particle]

    def load(self, index: int) -> Particle:
        """Return the particle at this row."""
        return self.particles[index]

    def joined(self, other: ParticleSource) -> tuple[ParticleSource, int]:
        """Return the particles of both."""
        if not isinstance(other, InMemory):
            raise TypeError("particles in memory cannot be joined with those of a list: write and read them first")
        return InMemory([*self.particles, *other.particles]), len(self.particles)
