"""Ten particles of two kinds, for tests of classes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from gonio.particle.particle_source import ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Subtomogram, Volume
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

KINDS, EACH, BOX, SIZE = ("sharp", "pseudo_symmetric"), 5, 16, 20.0
TRUE = np.repeat([1, 2], EACH)
IMAGING = Imaging(box=BOX, voxel_size_angstrom=SIZE, snr=1.0, tilt_step_deg=3.0, ctf=None)


def density(kind: str) -> Phantom:
    return Phantom.named(kind, box=BOX, voxel_size_angstrom=SIZE)


@cache
def particle(index: int) -> tuple[Subtomogram, Pose]:
    """Particle ``index`` of ten, and where it is."""
    rng = np.random.default_rng([7, index])
    pose = Pose.random(1, rng=rng, max_shift_angstrom=SIZE)[0]
    return simulate_subtomogram(density(KINDS[index // EACH]), pose, imaging=IMAGING, rng=rng), pose


@dataclass(frozen=True)
class Many(ParticleSource):
    """A source of particles of the kinds of a list, half of them in either half set, at their true poses."""

    kinds: tuple[str, ...]

    def load(self, index: int) -> Subtomogram:
        return self.made(index)[0]

    def made(self, index: int) -> tuple[Subtomogram, Pose]:
        rng = np.random.default_rng([8, index])
        pose = Pose.random(1, rng=rng, max_shift_angstrom=SIZE)[0]
        return simulate_subtomogram(density(self.kinds[index]), pose, imaging=IMAGING, rng=rng), pose

    def listed(self) -> ParticleTable:
        count = len(self.kinds)
        poses = Pose.stack([self.made(index)[1] for index in range(count)])
        halves = np.resize([1, 2], count).astype(np.int8)
        return ParticleTable(poses, tuple(map(str, range(count))), ("",) * count, half_sets=halves, source=self)


@dataclass(frozen=True)
class Made(ParticleSource):
    """A source of simulated particles; those of ``broken`` have another voxel size."""

    broken: tuple[int, ...] = ()

    def load(self, index: int) -> Subtomogram:
        one = particle(index)[0]
        if index in self.broken:
            return replace(one, volume=Volume(one.volume.data, 2 * SIZE))
        return one


def listed(*, half_sets: np.ndarray | None = None, known: bool = False, broken: tuple[int, ...] = ()) -> ParticleTable:
    """The list of all ten: without poses, or with the true ones."""
    count = len(TRUE)
    poses = Pose.stack([particle(i)[1] for i in range(count)]) if known else Pose.identity(count)
    names = tuple(f"p{i}" for i in range(count))
    return ParticleTable(poses, names, ("",) * count, half_sets=half_sets, source=Made(broken))


def true_map(kind: str) -> Volume:
    return Volume(density(kind).density(Pose.identity(), box=BOX, voxel_size_angstrom=SIZE), SIZE)
