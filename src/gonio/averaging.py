"""Averages of aligned particles, weighted by what each has measured.

Flow: particle and pose -> weighted samples in the reference's frame -> running sums of signal and weight -> map.
With F a particle's transform, w its weight and c its transfer, the average is

    V(k) = sum w c F(R k) exp(2 pi i R k.t / n)  /  sum w c^2                             (docs/theory.md eq. 20)

A subtomogram is *gathered*: its spectrum is interpolated at R k for every k of the map, so no gridding error enters.
Tilt images have no spectrum between their slices: their samples are *scattered* onto an oversampled grid. With a
symmetry each particle counts once for every rotation g of the group, at the pose R g.

Sums are made in blocks of rows of one size, and these are added in order: results are the same bits whoever makes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from gonio.fourier import (
    FourierVolume,
    Spectrum,
    centred_fft,
    centred_ifft,
    fourier_shell_correlation,
    in_friedel_half,
    index_grid,
)
from gonio.kernels import cpu
from gonio.kernels.window import OVERSAMPLING, window_transform
from gonio.particles import ParticleTable
from gonio.pose import Pose
from gonio.run.engine import Local, Mapper
from gonio.symmetry import Symmetry
from gonio.volume import Particle, Subtomogram, TiltStack, Volume

__all__ = ["Average", "average", "average_classes", "average_table"]

# A sample whose weight is below this share of its shell's mean is damped: too few particles have seen it.
MIN_RELATIVE_WEIGHT = 0.1
# Rows that are summed before their sums are added to the others': what a worker does at a time.
BLOCK = 32


@dataclass(frozen=True)
class Average:
    """An average and, where half sets were given, its halves.

    Attributes
    ----------
    volume
        The average of all particles.
    halves
        The averages of half sets 1 and 2, or None.
    fsc
        Fourier shell correlation of the halves without a mask, shape (n // 2 + 1,), or None.
    count
        Number of particles.
    coverage
        How often each frequency of the map was measured: the sums of weights, of the box's shape (n, n, n), zero
        frequency at n // 2, beyond the largest sphere zero.
    """

    volume: Volume
    halves: tuple[Volume, Volume] | None
    fsc: NDArray[np.float64] | None
    count: int
    coverage: NDArray[np.float32]


@dataclass
class _Sums:
    """Running sums of signal and weight at the frequencies of a method, and how many particles are in them."""

    signal: NDArray[np.complex128]
    weight: NDArray[np.float64]
    count: int = 0

    def __iadd__(self, other: _Sums) -> _Sums:
        self.signal += other.signal
        self.weight += other.weight
        self.count += other.count
        return self


def _estimate(
    signal: NDArray[np.complex128], weight: NDArray[np.float64], shell: NDArray[np.int64]
) -> NDArray[np.complex128]:
    """Signal over weight, damped where few particles have seen a frequency; shells of the same shape."""
    mean = np.bincount(shell.ravel(), weights=weight.ravel()) / np.maximum(np.bincount(shell.ravel()), 1)
    weight = np.maximum(weight, MIN_RELATIVE_WEIGHT * mean[shell])
    return np.where(weight > 0, signal / np.where(weight > 0, weight, 1.0), 0.0)


class _Gathering:
    """Sums for subtomograms, at the map's own frequencies: a Friedel half of them."""

    def __init__(self, box: int) -> None:
        self.box = box
        self._limit = (box - 1) // 2
        index = index_grid(box)
        self._keep = ((index**2).sum(axis=-1) <= self._limit**2) & (in_friedel_half(index) | (index == 0).all(axis=-1))
        self._frequency = index[self._keep].astype(np.float64)  # (n, 3)

    def empty(self) -> _Sums:
        return _Sums(np.zeros(len(self._frequency), np.complex128), np.zeros(len(self._frequency)))

    def add(self, sums: _Sums, particle: Subtomogram, poses: Pose) -> None:
        volume = particle.volume
        spectrum = FourierVolume.of(volume, limit=self._limit)
        for rotation, shift in zip(poses.matrix, poses.shift_angstrom, strict=True):
            turned = self._frequency @ rotation.T  # R k
            phase = np.exp(2j * np.pi / volume.box_angstrom * (turned @ shift))
            weight = particle.wedge.weight_at(turned / volume.box_angstrom)
            sums.signal += weight * phase * spectrum.sample(turned)
            sums.weight += weight
        sums.count += 1

    def map_of(self, sums: _Sums, voxel_size_angstrom: float) -> Volume:
        shell = np.rint(np.linalg.norm(self._frequency, axis=-1)).astype(int)
        spectrum = self._whole(_estimate(sums.signal, sums.weight, shell))
        return Volume(centred_ifft(spectrum).real, voxel_size_angstrom)

    def coverage(self, sums: _Sums) -> NDArray[np.float32]:
        return self._whole(sums.weight.astype(np.complex128)).real.astype(np.float32)

    def _whole(self, half: NDArray[np.complex128]) -> NDArray[np.complex128]:
        """Values (n,) with their Friedel mates, on the grid of the box."""
        grid = np.zeros((self.box,) * 3, np.complex128)
        grid[self._keep] = half
        first = 1 - self.box % 2  # the lowest index of an even box has no mate
        inner = grid[first:, first:, first:]
        mates = inner[::-1, ::-1, ::-1].conj()
        inner[...] = np.where(self._keep[first:, first:, first:], inner, mates)
        return grid


class _Scattering:
    """Sums for tilt stacks, on a grid oversampled by two."""

    def __init__(self, box: int) -> None:
        self.box = box
        self._size = OVERSAMPLING * box
        self._half = OVERSAMPLING * ((box - 1) // 2) + 3

    @property
    def _side(self) -> int:
        return 2 * self._half + 1

    def empty(self) -> _Sums:
        return _Sums(np.zeros(self._side**3, np.complex128), np.zeros(self._side**3))

    def add(self, sums: _Sums, particle: TiltStack, poses: Pose) -> None:
        samples = Spectrum.of(particle, resolution_angstrom=None)
        box_angstrom = particle.box * particle.voxel_size_angstrom
        frequency = samples.frequency_xyz.astype(np.float64)  # (3, n)
        weight = (samples.weight * samples.transfer**2).astype(np.complex64)
        for rotation, shift in zip(poses.matrix, poses.shift_angstrom, strict=True):
            phase = np.exp(2j * np.pi * (shift / box_angstrom) @ frequency)
            signal = samples.weight * samples.transfer * samples.value * phase
            turned = (rotation.T @ frequency).astype(np.float32)  # R^T k
            self._scatter(turned, signal.astype(np.complex64), sums.signal)
            found = np.zeros(self._side**3, np.complex128)
            self._scatter(turned, weight, found)
            sums.weight += found.real
        sums.count += 1

    def _scatter(self, frequency: NDArray[np.float32], values: NDArray[np.complex64], grid: NDArray) -> None:
        cpu.scatter(self._side, np.float32(OVERSAMPLING), frequency, values, grid.view(np.float64))

    def map_of(self, sums: _Sums, voxel_size_angstrom: float) -> Volume:
        size, (signal, weight) = self._size, self._grids(sums)
        shell = np.rint(np.linalg.norm(index_grid(size), axis=-1)).astype(int)
        padded = centred_ifft(_estimate(signal, weight, shell)).real
        first = size // 2 - self.box // 2
        inside = slice(first, first + self.box)
        # The window smooths the spectrum: its transform tapers the map.
        taper = window_transform(0.0) / window_transform((np.arange(self.box) - self.box // 2) / size)
        data = padded[inside, inside, inside] * taper[:, None, None] * taper[:, None] * taper
        spectrum = centred_fft(data)
        spectrum[np.linalg.norm(index_grid(self.box), axis=-1) > (self.box - 1) // 2] = 0.0
        return Volume(centred_ifft(spectrum).real, voxel_size_angstrom)

    def coverage(self, sums: _Sums) -> NDArray[np.float32]:
        _, weight = self._grids(sums)
        centre, half = self._size // 2, (self.box - 1) // 2
        chosen = centre + OVERSAMPLING * np.arange(-half, half + 1)
        grid = np.zeros((self.box,) * 3, np.float32)
        put = slice(self.box // 2 - half, self.box // 2 + half + 1)
        grid[put, put, put] = weight[np.ix_(chosen, chosen, chosen)]
        grid[np.linalg.norm(index_grid(self.box), axis=-1) > half] = 0.0
        return grid

    def _grids(self, sums: _Sums) -> tuple[NDArray[np.complex128], NDArray[np.float64]]:
        """Signal and weight with their Friedel mates on the oversampled grid, zero frequency in its centre."""
        grids: list[NDArray] = []
        inside = min(self._half, self._size // 2 - 1)
        cut = slice(self._half - inside, self._half + inside + 1)
        put = slice(self._size // 2 - inside, self._size // 2 + inside + 1)
        for flat in (sums.signal, sums.weight):
            cube = flat.reshape((self._side,) * 3)
            grid = np.zeros((self._size,) * 3, flat.dtype)
            grid[put, put, put] = (cube + cube[::-1, ::-1, ::-1].conj())[cut, cut, cut]
            grids.append(grid)
        return grids[0], grids[1]


_Method = _Gathering | _Scattering


@dataclass
class _Adding:
    """Adds particles, of which each goes into the sums of one group; knows the first by which others are judged."""

    symmetry: Symmetry
    method: _Method | None = None
    kind: type = object
    voxel_size_angstrom: float = 0.0
    sums: dict[int, _Sums] = field(default_factory=dict)

    def add(self, particle: Particle, pose: Pose, group: int) -> None:
        """Raises ValueError where a particle is not of the kind, box and voxel size of the first."""
        if self.method is None:
            self.kind, self.voxel_size_angstrom = type(particle), particle.voxel_size_angstrom
            self.method = _Gathering(particle.box) if isinstance(particle, Subtomogram) else _Scattering(particle.box)
        if not isinstance(particle, self.kind):
            raise ValueError(
                "particles must all be of one kind, subtomograms or tilt stacks; got a"
                f" {type(particle).__name__} after a {self.kind.__name__}"
            )
        if (particle.box, particle.voxel_size_angstrom) != (self.method.box, self.voxel_size_angstrom):
            raise ValueError(
                f"has a box of {particle.box} voxels of {particle.voxel_size_angstrom:g} angstrom, the first one of"
                f" {self.method.box} of {self.voxel_size_angstrom:g}"
            )
        if group not in self.sums:
            self.sums[group] = self.method.empty()
        copies = Pose(pose.rotation * self.symmetry.rotations, np.tile(pose.shift_angstrom, (self.symmetry.order, 1)))
        self.method.add(self.sums[group], particle, copies)  # type: ignore[arg-type]

    def merge(self, other: _Adding) -> None:
        """Add what another one has summed."""
        if other.method is None:
            return
        if self.method is None:
            self.method, self.kind, self.voxel_size_angstrom = other.method, other.kind, other.voxel_size_angstrom
        if (other.kind, other.method.box, other.voxel_size_angstrom) != (
            self.kind,
            self.method.box,
            self.voxel_size_angstrom,
        ):
            raise ValueError("particles differ in kind, box or voxel size: average those that are alike")
        for group, sums in other.sums.items():
            if group in self.sums:
                self.sums[group] += sums
            else:
                self.sums[group] = sums

    def average(self, groups: Sequence[int], halves: tuple[int, int] | None) -> Average:
        """Of the particles of some groups, of which two may be half sets."""
        assert self.method is not None
        total, half_maps = self.method.empty(), None
        for group in groups:
            if group in self.sums:
                total += self.sums[group]
        if halves is not None and all(half in self.sums and self.sums[half].weight.any() for half in halves):
            one, two = (self.method.map_of(self.sums[half], self.voxel_size_angstrom) for half in halves)
            half_maps = (one, two)
        fsc = None if half_maps is None else fourier_shell_correlation(*half_maps)
        volume, coverage = self.method.map_of(total, self.voxel_size_angstrom), self.method.coverage(total)
        return Average(volume, half_maps, fsc, total.count, coverage)


def average(
    particles: Iterable[Particle],
    poses: Pose,
    *,
    half_sets: NDArray[np.int8] | None = None,
    symmetry: str = "C1",
) -> Average:
    """Average particles in the reference's frame, each weighted by what it has measured.

    Parameters
    ----------
    particles
        m subtomograms, or m tilt stacks, of one box and voxel size; read one by one.
    poses
        Batch of m, ``x_particle = R x_reference + t``.
    half_sets
        1 or 2 for each particle (0: in neither half), or None for no halves.
    symmetry
        Of the reference, "C1", "D2" and so on, its axes as ``gonio.symmetry`` says.

    Raises
    ------
    ValueError
        No particles, a number of poses or half sets that differs, or particles that differ in kind, box or voxel size.
    """
    groups = _groups_of(half_sets, len(poses))
    made, count = _Adding(Symmetry.named(symmetry)), 0
    for block in _blocks(particles):
        part = _Adding(made.symmetry)
        for particle in block:
            if count >= len(poses):
                raise ValueError(f"there are more particles than poses ({len(poses)})")
            try:
                part.add(particle, poses[count], int(groups[count]))
            except ValueError as error:
                raise ValueError(f"particle {count + 1}: {error}") from error
            count += 1
        made.merge(part)
    if made.method is None or count != len(poses):
        raise ValueError(f"{len(poses)} poses need as many particles, got {count}")
    return made.average([0, 1, 2], None if half_sets is None else (1, 2))


def average_table(
    table: ParticleTable,
    *,
    mapper: Mapper | None = None,
    poses: Pose | None = None,
    half_sets: NDArray[np.int8] | None = None,
    symmetry: str = "C1",
    stage: str = "average",
) -> Average:
    """The average of a list's particles, by any engine; as ``average``, to the bit.

    Parameters
    ----------
    table
        m particles with a source to read them from.
    mapper
        Who does it; this process unless given.
    poses
        In place of those of the table.
    half_sets, symmetry
        As in ``average``.
    stage
        Its name, once in a run.
    """
    groups = _groups_of(half_sets, len(table))
    made = _summed(table, table.poses if poses is None else poses, groups, symmetry, mapper, stage)
    return made.average([0, 1, 2], None if half_sets is None else (1, 2))


def average_classes(
    table: ParticleTable,
    classes: NDArray[np.int64],
    *,
    mapper: Mapper | None = None,
    poses: Pose | None = None,
    half_sets: NDArray[np.int8] | None = None,
    symmetry: str = "C1",
    stage: str = "average",
) -> dict[int, Average]:
    """The average of each class, in one pass over the particles.

    Parameters
    ----------
    classes
        A number for each particle, shape (m,); those below 0 are in no class.
    table, mapper, poses, half_sets, symmetry, stage
        As in ``average_table``.

    Returns
    -------
    By class, those that have particles.
    """
    if np.shape(classes) != (len(table),):
        raise ValueError(f"classes must be one number for each of {len(table)} particles, got {np.shape(classes)}")
    groups = np.where(classes < 0, -1, 3 * np.asarray(classes) + _groups_of(half_sets, len(table)))
    made = _summed(table, table.poses if poses is None else poses, groups, symmetry, mapper, stage)
    return {
        int(one): made.average(
            [3 * one, 3 * one + 1, 3 * one + 2], None if half_sets is None else (3 * one + 1, 3 * one + 2)
        )
        for one in np.unique(classes[classes >= 0])
    }


def _groups_of(half_sets: NDArray[np.int8] | None, count: int) -> NDArray[np.int64]:
    if half_sets is None:
        return np.zeros(count, dtype=np.int64)
    if np.shape(half_sets) != (count,) or not np.isin(half_sets, [0, 1, 2]).all():
        raise ValueError(f"half_sets must be 0, 1 or 2 for each of {count} particles, got {half_sets!r}")
    return np.asarray(half_sets, dtype=np.int64)


def _summed(
    table: ParticleTable, poses: Pose, groups: NDArray[np.int64], symmetry: str, mapper: Mapper | None, stage: str
) -> _Adding:
    """The sums of all rows whose group is not negative."""
    if len(poses) != len(table) or not len(table):
        raise ValueError(f"{len(poses)} poses need as many particles, got {len(table)}")
    task = _SumBlock(table, poses, groups, Symmetry.named(symmetry))
    made = _Adding(task.symmetry)
    for part in (mapper or Local())(stage, task, -(-len(table) // BLOCK), keep=False):
        made.merge(part)
    if made.method is None:
        raise ValueError("there is no particle to average: none is in any class")
    return made


@dataclass(frozen=True)
class _SumBlock:
    table: ParticleTable
    poses: Pose
    groups: NDArray[np.int64]
    symmetry: Symmetry

    def __call__(self, block: int) -> _Adding:
        part = _Adding(self.symmetry)
        for row in range(block * BLOCK, min((block + 1) * BLOCK, len(self.table))):
            if self.groups[row] < 0:
                continue
            particle = self.table.load(row)
            try:
                part.add(particle, self.poses[row], int(self.groups[row]))
            except ValueError as error:
                raise ValueError(f"particle {self.table.names[row]!r}: {error}") from error
        return part


def _blocks(particles: Iterable[Particle]) -> Iterator[Iterator[Particle]]:
    """Runs of BLOCK particles, read one by one; each run must be gone through before the next is asked for."""
    reading = iter(particles)
    for first in reading:
        yield chain([first], islice(reading, BLOCK - 1))
