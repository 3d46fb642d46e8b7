"""Particles in memory as a table's source, for experiments that make their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gonio.particle.volume import Particle


@dataclass(frozen=True)
class Held:
    """Particles in memory, as a table's source."""

    particles: Sequence[Particle]
    files: tuple[Path, ...] = ()

    def load(self, index: int) -> Particle:
        """The particle."""
        return self.particles[index]

    def image(self, index: int) -> None:
        """None lies in a file."""
