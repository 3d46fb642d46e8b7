"""Structures: particles made of the atoms of a PDB or mmCIF file.

Owns the density of atoms at a stated resolution. Every atom is a Gaussian of integral w (its electron
scattering factor at zero angle times its occupancy) and of one width for all, so on a grid

    density[z, y, x] = sum_a w_a gz[a, z] gy[a, y] gx[a, x]

is a matrix product, exact but for Gaussians cut at 7 standard deviations (2e-11 of their peak). Resolution is that of
Situs' pdb2vol (Wriggers 2010): kernel exp(-1.5 r^2 / sigma^2), resolution = 2 sigma, sigma the r.m.s. width in 3-D,
thus a standard deviation of resolution / (2 sqrt 3) along each axis. Knows nothing of microscopes.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.particle.arguments import ArgumentError
from gonio.particle.pose import Pose
from gonio.simulate.phantom import EXTENT_IN_SDS, RADIUS_IN_SDS, Density, grid_angstrom

if TYPE_CHECKING:
    import gemmi

REACH_IN_SDS = 7.0
# Narrower Gaussians than this many voxels hold more than exp(-pi^2 / 2) = 0.7 % of their peak beyond Nyquist.
MIN_SD_VOXELS = 1.0
LONGEST_TOLD = 150  # characters
# A compressed structure unpacks to at most so much: coordinates shrink to a quarter, and never to a fiftieth.
FREE_BYTES, TIMES = 20_000_000, 50
CHUNK_ATOMS = 512  # the (atoms, y x) factor of a product stays in cache


@dataclass(frozen=True)
class Atoms:
    """Scattering atoms: weights (a,), positions (a, 3) xyz in angstrom, and the number of their chains."""

    weights: NDArray[np.float64]
    positions_xyz_angstrom: NDArray[np.float64]
    chain_count: int

    @property
    def centre_of_mass_xyz_angstrom(self) -> NDArray[np.float64]:
        """Centre weighted by scattering, shape (3,)."""
        return self.weights @ self.positions_xyz_angstrom / self.weights.sum()


@dataclass(frozen=True)
class Structure(Density):
    """A sum of equally wide Gaussians, in angstrom from the centre of the box.

    Parameters
    ----------
    weights
        Integral of each Gaussian, shape (a,).
    centres_xyz_angstrom
        Centres, shape (a, 3).
    resolution_angstrom
        Resolution of the whole, as Situs defines it: 2 sqrt 3 standard deviations along an axis.
    sd_angstrom
        Standard deviation of each Gaussian; 0, the default, for ``resolution / (2 sqrt 3)``. A ``coarsened``
        structure's Gaussians are narrower than the detail that they add up to.

    Raises
    ------
    ValueError
        Shapes that do not fit, nothing that scatters, or a resolution that is not positive.
    """

    weights: NDArray[np.float64]
    centres_xyz_angstrom: NDArray[np.float64]
    resolution_angstrom: float
    sd_angstrom: float = 0.0
    _chunks: tuple[slice, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not (np.isfinite(self.resolution_angstrom) and self.resolution_angstrom > 0):
            raise ArgumentError(
                "{} must be a positive number, got {got!r}", "resolution_angstrom", got=self.resolution_angstrom
            )
        if not self.sd_angstrom >= 0:
            raise ValueError(f"sd_angstrom must not be negative, got {self.sd_angstrom!r}")
        weights = np.array(self.weights, dtype=np.float64)
        centres = np.array(self.centres_xyz_angstrom, dtype=np.float64)
        if weights.ndim != 1 or centres.shape != (len(weights), 3) or not weights.any():
            raise ValueError(
                f"weights (a,) that are not all zero and centres_xyz_angstrom (a, 3) are needed,"
                f" got shapes {weights.shape} and {centres.shape}"
            )
        sd = self.sd_angstrom or sd_of_resolution(self.resolution_angstrom)
        order, chunks = _neighbourhoods(centres, REACH_IN_SDS * sd)
        object.__setattr__(self, "weights", weights[order])
        object.__setattr__(self, "centres_xyz_angstrom", centres[order])
        object.__setattr__(self, "sd_angstrom", sd)
        object.__setattr__(self, "_chunks", chunks)

    @staticmethod
    def from_file(path: str | Path, *, resolution_angstrom: float, assembly: str | None = "1") -> Structure:
        """Read the density of a PDB or mmCIF file, its centre of mass at the box centre; see ``read_atoms``."""
        return Structure.from_atoms(read_atoms(path, assembly=assembly), resolution_angstrom=resolution_angstrom)

    @staticmethod
    def from_atoms(atoms: Atoms, *, resolution_angstrom: float, centred: bool = True) -> Structure:
        """Make the density of atoms; ``centred`` moves the centre of mass to the box centre."""
        origin = atoms.centre_of_mass_xyz_angstrom if centred else np.zeros(3)
        return Structure(atoms.weights, atoms.positions_xyz_angstrom - origin, resolution_angstrom)

    @property
    def mass(self) -> float:
        """Integral of the density."""
        return float(self.weights.sum())

    @property
    def radius_angstrom(self) -> float:
        """Radius about the box centre that holds every Gaussian out to two standard deviations of the resolution."""
        return self._reach(RADIUS_IN_SDS)

    @property
    def extent_angstrom(self) -> float:
        """Radius about the box centre that holds every Gaussian out to four standard deviations of the resolution."""
        return self._reach(EXTENT_IN_SDS)

    def _reach(self, in_sds: float) -> float:
        farthest = float(np.linalg.norm(self.centres_xyz_angstrom, axis=1).max())
        return farthest + in_sds * sd_of_resolution(self.resolution_angstrom)

    def density(self, pose: Pose, *, box: int, voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return the density of the particle at ``pose`` at the voxel centres, shape (n, n, n), order (z, y, x).

        A Gaussian narrower than a voxel is evaluated on a grid finer by an integer factor and low-passed at the Nyquist
        frequency of the requested voxels, as by a detector of sinc response; otherwise it would alias.
        """
        factor = self._refinement(voxel_size_angstrom)
        grid = _refined_grid(box, voxel_size_angstrom, factor)
        fine = self._evaluate(pose.apply(self.centres_xyz_angstrom), grids_xyz=(grid, grid, grid))
        decimate = decimation_matrix(box, factor)
        return np.einsum("zi,yj,xk,ijk->zyx", decimate, decimate, decimate, fine, optimize=True) if factor > 1 else fine

    def projections(self, poses: Pose, *, shape_yx: tuple[int, int], voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return projections along z at a batch of t poses, shape (t, y, x); narrow Gaussians as in ``density``."""
        factor = self._refinement(voxel_size_angstrom)
        grids_xy = tuple(_refined_grid(count, voxel_size_angstrom, factor) for count in reversed(shape_yx))
        down_y, down_x = (decimation_matrix(count, factor) for count in shape_yx)
        images = np.empty((len(poses), *shape_yx))
        for index in range(len(poses)):
            fine = self._evaluate(poses[index].apply(self.centres_xyz_angstrom), grids_xyz=grids_xy)
            images[index] = down_y @ fine @ down_x.T if factor > 1 else fine
        return images / voxel_size_angstrom

    def coarsened(self, *, tolerance: float = 1e-4) -> Structure:
        """Return the density as fewer Gaussians on a grid, for speed; the structure itself if these are not fewer.

        Parameters
        ----------
        tolerance
            Approximate largest relative error of the density against the sum over atoms; above 0, below 1.

        Notes
        -----
        A Gaussian of variance s^2 is a grid sum of Gaussians of variance s^2/2 weighted by samples of another of
        variance s^2/2, up to a factor 1 +- 2 exp(-pi^2 s^2 / (2 h^2)) an axis for spacing h (Poisson's sum formula;
        Greengard & Lee 2004 spread with it). The result is one rigid object at every pose: true poses stay exact.
        """
        if not 0 < tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, got {tolerance!r}")
        spacing = np.pi * self.sd_angstrom / np.sqrt(2.0 * np.log(6.0 / tolerance))
        narrow = self.sd_angstrom / np.sqrt(2.0)
        reach = np.abs(self.centres_xyz_angstrom).max() + REACH_IN_SDS * narrow
        grid = grid_angstrom(2 * int(np.ceil(reach / spacing)) + 1, spacing)
        if len(grid) ** 3 > 1000 * len(self.weights):
            return self  # the cube alone would be far larger than the sum over atoms
        spread = Structure(self.weights, self.centres_xyz_angstrom, self.resolution_angstrom, narrow)
        weights = spacing**3 * spread._evaluate(spread.centres_xyz_angstrom, grids_xyz=(grid, grid, grid))
        z, y, x = np.nonzero(np.abs(weights) > 0.1 * tolerance * np.abs(weights).max())
        if len(z) >= len(self.weights):
            return self
        centres = np.stack([grid[x], grid[y], grid[z]], axis=1)  # (a, 3)
        return Structure(weights[z, y, x], centres, self.resolution_angstrom, narrow)

    def _refinement(self, voxel_size_angstrom: float) -> int:
        sd_voxels = sd_of_resolution(self.resolution_angstrom) / voxel_size_angstrom
        return max(1, int(np.ceil(MIN_SD_VOXELS / sd_voxels - 1e-9)))

    def _evaluate(self, centres_xyz: NDArray, *, grids_xyz: tuple[NDArray, ...]) -> NDArray[np.float64]:
        # The sum over atoms on a grid of 2 or 3 axes, slowest axis first: (y, x) or (z, y, x).
        total = np.zeros([len(grid) for grid in reversed(grids_xyz)])
        for chunk in self._chunks:
            windows, factors = self._factors(centres_xyz[chunk], grids_xyz)
            *slow, fast = (factors[axis] for axis in reversed(range(len(grids_xyz))))  # z, y; x or y; x
            first = slow[0] * self.weights[chunk, None]
            rest = fast if len(slow) == 1 else (slow[1][:, :, None] * fast[:, None, :]).reshape(len(fast), -1)
            window = tuple(reversed(windows))
            total[window] += (first.T @ rest).reshape(total[window].shape)
        return total

    def _factors(self, centres_xyz: NDArray, grids_xyz: tuple[NDArray, ...]) -> tuple[list[slice], list[NDArray]]:
        # The part of each axis that a chunk reaches, and its normalised 1-D Gaussians there, (a, length).
        windows, factors = [], []
        for axis, grid in enumerate(grids_xyz):
            position = centres_xyz[:, axis]
            reach = REACH_IN_SDS * self.sd_angstrom
            low, high = np.searchsorted(grid, [position.min() - reach, position.max() + reach])
            windows.append(slice(low, high))
            offset = (grid[low:high] - position[:, None]) / self.sd_angstrom
            factors.append(np.exp(-0.5 * offset**2) / (np.sqrt(2.0 * np.pi) * self.sd_angstrom))
        return windows, factors


def sd_of_resolution(resolution_angstrom: float) -> float:
    """Return the standard deviation along an axis of Situs' kernel, angstrom: resolution / (2 sqrt 3)."""
    return resolution_angstrom / (2.0 * np.sqrt(3.0))


def decimation_matrix(count: int, factor: int) -> NDArray[np.float64]:
    """Return the matrix that low-passes to the coarse Nyquist frequency and decimates by ``factor``, (n, n factor)."""
    fine = count * factor
    distance = factor * np.arange(count)[:, None] - np.arange(fine)  # (n, n factor)
    orders = np.arange(1, (count - 1) // 2 + 1)
    matrix = 1.0 + 2.0 * np.cos(2.0 * np.pi / fine * orders * distance[..., None]).sum(axis=-1)
    if count % 2 == 0:
        matrix += np.cos(np.pi / factor * distance)  # the Nyquist pair, half of each
    return matrix / fine


def read_atoms(path: str | Path, *, assembly: str | None = "1") -> Atoms:
    """Read the scattering atoms of a PDB or mmCIF file, plain or gzipped.

    Hydrogens, deuterium and waters are left out; of several models the first is taken; alternative conformations
    count with their occupancies.

    Parameters
    ----------
    path
        The file; gemmi derives the format from its name.
    assembly
        Name of the biological assembly to build, as in the file; ``"1"``, the default, leaves the atoms as they are
        when the file lists no assembly. None always does.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file cannot be read, holds no atoms, or has no such assembly.

    References
    ----------
    Scattering factors: International Tables for Crystallography C (2004), table 4.3.2.2, at zero angle.
    """
    path = Path(path)
    try:
        structure = _read_structure(path)
        return _atoms_of(structure[0] if assembly is None else _assembled(structure, assembly, path), path)
    except UnicodeDecodeError as error:  # names of atoms, chains or assemblies that are no text
        raise ValueError(f"{path} cannot be read as PDB or mmCIF: {_told(error)}") from error


def _atoms_of(model: gemmi.Model, path: Path) -> Atoms:
    factors: dict[str, float] = {}
    weights, positions = [], []
    for site in model.all():
        element, place = site.atom.element, site.atom.pos.tolist()
        if element.name not in factors:
            factors[element.name] = _scattering_factor(element, path)
        weight = factors[element.name] * site.atom.occ
        if not np.isfinite([weight, *place]).all():
            raise ValueError(f"{path} gives atom {site!s} no place or no occupancy: correct it, or leave the atom out")
        if weight > 0:
            weights.append(weight)
            positions.append(place)
    if not weights:
        raise ValueError(f"{path} holds no atoms that scatter; is it a coordinate file?")
    return Atoms(np.array(weights), np.array(positions), len(model))


def _scattering_factor(element: gemmi.Element, path: Path) -> float:
    if element.c4322 is None:
        raise ValueError(f"{path} has atoms of {element.name}, which has no scattering factor: leave them out")
    return element.c4322.calculate_sf(0.0)


def _read_structure(path: Path) -> gemmi.Structure:
    import gemmi

    if not path.is_file():
        raise FileNotFoundError(f"there is no structure file {path}")
    try:
        _check_unpacked(path)
        structure = gemmi.read_structure(str(path))
    except (
        OSError,
        EOFError,
        zlib.error,
        RuntimeError,
        ValueError,
        IndexError,
    ) as error:  # an mmCIF file without blocks is an IndexError
        raise ValueError(f"{path} cannot be read as PDB or mmCIF: {_told(error)}") from error
    structure.setup_entities()
    structure.remove_waters()
    structure.remove_hydrogens()
    structure.remove_empty_chains()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise ValueError(f"{path} holds no atoms that scatter; is it a coordinate file?")
    return structure


def _check_unpacked(path: Path) -> None:
    with path.open("rb") as plain:
        if plain.read(2) != b"\x1f\x8b":
            return
    left = FREE_BYTES + TIMES * path.stat().st_size
    with gzip.open(path) as stream:
        while left > 0 and (piece := stream.read(min(left, 2**20))):
            left -= len(piece)
    if left <= 0:
        raise ValueError("it unpacks to far more than it should; unpack it before if that is right")


def _assembled(structure: gemmi.Structure, name: str, path: Path) -> gemmi.Model:
    import gemmi

    known = {assembly.name: assembly for assembly in structure.assemblies}
    if name in known:
        try:
            return gemmi.make_assembly(known[name], structure[0], gemmi.HowToNameCopiedChain.AddNumber)
        except (RuntimeError, ValueError, IndexError) as error:  # a chain that the file does not have
            told = f"{path} cannot be assembled as it states: {_told(error)}"
            raise ValueError(f"{told}; assembly=None takes the file as it is") from error
    if not known and name == "1":
        return structure[0]
    listed = repr(", ".join(known) or "none")[1:-1][:LONGEST_TOLD]
    raise ValueError(f"{path} has no assembly {name!r}; it has {listed}; assembly=None takes the file as it is")


def _told(error: Exception) -> str:
    """Return what a library says, which may quote any part of a file, as a short text that prints."""
    return repr(str(error))[1:-1][:LONGEST_TOLD]


def _refined_grid(count: int, voxel_size_angstrom: float, factor: int) -> NDArray[np.float64]:
    # Every factor-th point is a voxel centre.
    return (np.arange(count * factor) - factor * (count // 2)) * voxel_size_angstrom / factor


def _neighbourhoods(centres: NDArray, edge: float) -> tuple[NDArray[np.intp], tuple[slice, ...]]:
    # An order that keeps the atoms of a cell together, and slices of it: near atoms stay near at any pose.
    cells = np.floor(centres / edge)
    order = np.lexsort(cells.T)
    starts = np.flatnonzero(np.any(np.diff(cells[order], axis=0) != 0, axis=1)) + 1
    return order, tuple(_split([0, *starts.tolist(), len(centres)]))


def _split(bounds: list[int]) -> Iterator[slice]:
    for low, high in pairwise(bounds):
        for start in range(low, high, CHUNK_ATOMS):
            yield slice(start, min(start + CHUNK_ATOMS, high))
