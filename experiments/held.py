"""Particles in memory as a table's source, for experiments that make their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gonio.particle.table import ParticleSource
from gonio.particle.volume import Particle


@dataclass(frozen=True)
class Held(ParticleSource):
    """Particles in memory, as a table's source."""

    particles: Sequence[Particle]

    def load(self, index: int) -> Particle:
        """The particle."""
        return self.particles[index]
