"""A piece of a cell: molecules that touch, a membrane that stands in the ice, and small proteins between them.

A slab of ice, periodic in x and y, so that nothing ends at its sides however far it is tilted. Molecules are points
with weights (the atoms of a PDB file, gathered in cells of a few angstrom about their centre of mass). They are put
down one by one, turned at random, most of them where they touch what is already there and overlap with none of it; the
membrane is two leaflets with a poorer middle; small proteins are blobs in what is left, as dense as in a cytosol.
Nothing here knows of microscopes, and nothing of gonio but how it reads atoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import fft
from scipy.ndimage import binary_dilation
from scipy.spatial.transform import Rotation

from gonio.simulate.structure import read_atoms

# Atoms are gathered in cells of this edge: finer than any detail that is imaged.
CELL_ANGSTROM = 6.0
# The grid on which molecules are kept apart.
PACKING_ANGSTROM = 20.0
TOUCHING_FRACTION = 0.8
# Of the scattering of protein for each cubic angstrom: leaflets and the middle of the membrane, from the midplane.
LEAFLETS = ((-19.0, 10.0, 0.8), (19.0, 10.0, 0.8), (0.0, 20.0, -0.2))  # place, thickness, strength
MEMBRANE_REACH_ANGSTROM = 40.0
# Proteins of 30 kDa at 100 g/l: 2e-6 for each cubic angstrom, 36,000 cubic angstrom each.
BLOBS_PER_CUBIC_ANGSTROM, BLOB_VOLUME = 2e-6, 36e3


@dataclass(frozen=True)
class Molecule:
    """Points (a, 3) in angstrom about the centre of mass, and their weights (a,)."""

    name: str
    points: np.ndarray
    weights: np.ndarray

    @staticmethod
    def read(path: Path) -> Molecule:
        """The first assembly of a structure file."""
        atoms = read_atoms(path)
        centred = atoms.positions_xyz_angstrom - atoms.centre_of_mass_xyz_angstrom
        cell, number = np.unique(np.floor(centred / CELL_ANGSTROM).astype(int), axis=0, return_inverse=True)
        weights = np.bincount(number.ravel(), atoms.weights, len(cell))
        points = [np.bincount(number.ravel(), atoms.weights * axis, len(cell)) / weights for axis in centred.T]
        return Molecule(path.name.split(".")[0], np.stack(points, axis=1), weights)

    @property
    def per_cubic_angstrom(self) -> float:
        """Weight of a cubic angstrom of it, its volume being that of the cells it fills."""
        filled = np.unique(np.floor(self.points / 8.0), axis=0)
        return float(self.weights.sum() / (len(filled) * 8.0**3))


@dataclass(frozen=True)
class Placed:
    """A molecule turned by ``rotation`` with its centre of mass at ``centre`` (3,), angstrom."""

    molecule: Molecule
    rotation: Rotation
    centre: np.ndarray

    @property
    def points(self) -> np.ndarray:
        """Where its points are, (a, 3)."""
        return self.rotation.apply(self.molecule.points) + self.centre


@dataclass(frozen=True)
class Scene:
    """All that lies in a slab of ``size`` (3,) angstrom, x and y from 0 to the size, z about 0."""

    size: np.ndarray
    placed: list[Placed]
    membrane: tuple[np.ndarray, np.ndarray]
    blobs: tuple[np.ndarray, np.ndarray]
    touching: int

    def of(self, name: str) -> list[Placed]:
        """All molecules of a name."""
        return [one for one in self.placed if one.molecule.name == name]

    @property
    def sharp(self) -> tuple[np.ndarray, np.ndarray]:
        """Points (a, 3) and weights (a,) of all but the blobs."""
        points, weights = zip(*((one.points, one.molecule.weights) for one in self.placed), strict=True)
        return np.concatenate([*points, self.membrane[0]]), np.concatenate([*weights, self.membrane[1]])


class _Room:
    """What is occupied, on a grid that is periodic in x and y."""

    def __init__(self, size: np.ndarray) -> None:
        self.shape = tuple(np.ceil(size / PACKING_ANGSTROM).astype(int))
        self.edge = size / self.shape
        self.taken = np.zeros(self.shape, np.float32)

    def cells(self, points: np.ndarray) -> np.ndarray:
        """Which hold points (a, 3), as a mask; z counts from the middle."""
        index = np.floor(points / self.edge + [0, 0, 0.5 * self.shape[2]]).astype(int)
        inside = (index[:, 2] >= 0) & (index[:, 2] < self.shape[2])
        mask = np.zeros(self.shape, bool)
        mask[index[inside, 0] % self.shape[0], index[inside, 1] % self.shape[1], index[inside, 2]] = True
        return mask

    def places(self, points: np.ndarray, *, touching: bool) -> np.ndarray:
        """Cells (n, 3) at which a molecule of points about zero overlaps with nothing, or touches besides."""
        mask = self.cells(points)
        reach = int(np.ceil(np.abs(points[:, 2]).max() / self.edge[2]))
        taken = fft.rfftn(self.taken)
        free = self._overlap(taken, mask) < 0.5
        middle = np.arange(self.shape[2]) - self.shape[2] // 2
        free[:, :, np.abs(middle) > self.shape[2] // 2 - reach] = False
        if touching:
            free &= self._overlap(taken, binary_dilation(mask)) > 0.5
        found = np.argwhere(free)
        return found - [0, 0, self.shape[2] // 2]

    def _overlap(self, taken: np.ndarray, mask: np.ndarray) -> np.ndarray:
        moved = np.roll(mask, -(self.shape[2] // 2), axis=2).astype(np.float32)
        overlap: np.ndarray = fft.irfftn(taken * np.conj(fft.rfftn(moved)), self.shape)
        return overlap


def make_scene(
    target: Molecule, others: list[Molecule], *, targets: int, neighbours: int, size: np.ndarray, seed: int
) -> Scene:
    """So many of the target and of the others, in turns, in a slab with a membrane through it.

    Raises
    ------
    ValueError
        When they do not all fit.
    """
    rng = np.random.default_rng(seed)
    room, placed, touching = _Room(size), [], 0
    membrane = _membrane(size, target.per_cubic_angstrom, rng)
    room.taken[room.cells(membrane[2])] = 1.0
    queue = [target] * targets + [others[i % len(others)] for i in range(neighbours)]
    # The large ones first: small ones find room between them.
    for molecule in sorted(queue, key=lambda m: -len(m.points)):
        rotation = Rotation.random(random_state=rng)
        points = rotation.apply(molecule.points)
        touches = bool(rng.random() < TOUCHING_FRACTION)
        where = room.places(points, touching=touches)
        if not len(where):
            where = room.places(points, touching=False)
        if not len(where):
            raise ValueError(f"no room for one more {molecule.name}: {len(placed)} molecules lie in {size} angstrom")
        centre = where[rng.integers(len(where))] * room.edge
        placed.append(Placed(molecule, rotation, centre))
        touching += touches
        room.taken[room.cells(points + centre)] = 1.0
    return Scene(size, placed, membrane[:2], _blobs(size, room, target.per_cubic_angstrom, rng), touching)


def _membrane(size: np.ndarray, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Points and weights of a sheet that stands across x and waves along y; and the points that it occupies."""
    step = 8.0
    y, z = (np.arange(0.0, size[1], step), np.arange(-0.5 * size[2], 0.5 * size[2], step))
    y, z = (grid.ravel() for grid in np.meshgrid(y, z))
    turn = 2.0 * np.pi / size[1]
    x = (rng.random() + 0.04 * np.sin(turn * y + 2.0 * np.pi * rng.random())) * size[0] + 0.1 * z
    points, weights, occupied = [], [], []
    for place, thickness, fraction in LEAFLETS:
        for offset in (-0.25 * thickness, 0.25 * thickness):
            points.append(np.stack([x + place + offset, y, z], axis=1))
            weights.append(np.full(len(x), strength * fraction * step**2 * thickness / 2.0))
    for offset in np.arange(-MEMBRANE_REACH_ANGSTROM, MEMBRANE_REACH_ANGSTROM + 1.0, 10.0):
        occupied.append(np.stack([x + offset, y, z], axis=1))
    return np.concatenate(points), np.concatenate(weights), np.concatenate(occupied)


def _blobs(size: np.ndarray, room: _Room, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres and weights of small proteins, where no molecule is."""
    points = rng.random((int(BLOBS_PER_CUBIC_ANGSTROM * np.prod(size)), 3)) * size - [0.0, 0.0, 0.5 * size[2]]
    index = np.floor(points / room.edge + [0, 0, 0.5 * room.shape[2]]).astype(int)
    free = room.taken[tuple(np.minimum(index, np.array(room.shape) - 1).T)] < 0.5
    weights = strength * BLOB_VOLUME * rng.gamma(4.0, 0.25, int(free.sum()))
    return points[free], weights
