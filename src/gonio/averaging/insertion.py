"""From particles to a map: sums of signal and weight at the map's frequencies, and the map that they give.

    S(k) = sum w c F(R k) exp(2 pi i R k.t / n),     W(k) = sum w c^2,     V = S / W         (docs/theory.md eq. 20)

A subtomogram is *gathered*: its spectrum is interpolated at R k for every integer k of the map, so there is no gridding
error. Tilt images have no spectrum between their slices: their samples are *spread* over a grid twice as fine, and
the map is the density in the box that fits them best (eq. 36).

With a symmetry each particle counts once for every rotation g of the group, at the pose R g: those g that map integer
frequencies to integer ones are applied once, to the finished sums, the others to every particle.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.fourier_volume import wedge_in_box
from gonio.fourier.grid import in_friedel_half, index_grid
from gonio.fourier.spectrum import image_samples
from gonio.fourier.transform import centred_fft, centred_ifft
from gonio.kernels import insert
from gonio.kernels.window import OVERSAMPLING, window_transform
from gonio.particle.pose import Pose, PoseSample
from gonio.particle.symmetry import Symmetry, split, symmetric
from gonio.particle.volume import (
    VOXEL_SIZE_TOLERANCE,
    Particle,
    Subtomogram,
    TiltStack,
    Volume,
    background,
    same_size,
)
from gonio.particle.wedge import NoWedge, SquaredTransferWedge

# Least weight that the map is divided by, as a fraction of the shell's mean: frequencies measured less are damped.
MIN_RELATIVE_WEIGHT = 0.1
# Least squares end at this fraction of the first residual, or after this number of steps.
SOLVED, MAX_STEPS = 1e-4, 12
CACHE_SIZE = 8


@dataclass
class Sums:
    """Sums of signal and weight at the n frequencies of an insertion, (n,) each, and the number of particles.

    While particles are added, both may have another shape, and ``memory`` is reused: to allocate it for each particle
    takes longer than the work.
    """

    signal: NDArray
    weight: NDArray
    count: int = 0
    memory: NDArray | None = None

    def __iadd__(self, other: Sums) -> Sums:
        self.signal += other.signal
        self.weight += other.weight
        self.count += other.count
        return self

    @staticmethod
    def zeros(size: int) -> Sums:
        """Return sums of no particles at ``size`` frequencies, in double precision."""
        return Sums(np.zeros(size, np.complex128), np.zeros(size))


def insertion_of(particle: Particle, symmetry: Symmetry) -> Insertion:
    """Return the insertion for particles like this one."""
    if isinstance(particle, TiltStack):
        return TiltStackInsertion(particle.box, particle.voxel_size_angstrom, symmetry)
    premultiplied = particle.premultiplied is not None
    return SubtomogramInsertion(particle.box, particle.voxel_size_angstrom, symmetry, premultiplied=premultiplied)


@dataclass(frozen=True)
class SubtomogramInsertion:
    """Insertion of subtomograms by gathering, at the integer frequencies of the map: a Friedel half of its ball.

    Either all are ``premultiplied``, pseudo-subtomograms that are summed with their squared transfers, or none is.
    """

    box: int
    voxel_size_angstrom: float
    symmetry: Symmetry
    premultiplied: bool = False

    @property
    def size(self) -> int:
        """Number of frequencies that sums are kept at."""
        return len(_half_ball(_last_shell(self.box))[0])

    def start(self) -> Sums:
        """Return empty sums, with memory for the spectrum of one particle."""
        half = _grid_reach(_last_shell(self.box))
        spectrum = np.empty((2 * half + 1, 2 * half + 1, insert.MARGIN + half + 1), np.complex64)
        return Sums(np.zeros(self.size, np.complex128), np.zeros(self.size), memory=spectrum)

    def add(self, particle: Particle, pose: Pose | PoseSample, *, into: Sums) -> None:
        """Add a subtomogram, gathered at its pose, or at all poses of a sample, each for its weight.

        Raises
        ------
        ValueError
            The particle has another kind, box or voxel size; so it is with tilt stacks.
        """
        _check_alike(particle, Subtomogram, self.box, self.voxel_size_angstrom)
        assert isinstance(particle, Subtomogram)
        if (particle.premultiplied is not None) != self.premultiplied:
            raise ValueError("particles must all be of one kind: some are pseudo-subtomograms and some are not")
        assert into.memory is not None
        grid = None
        if particle.premultiplied is None:
            grid = _half_spectrum(particle.volume, background(particle.volume.data), into.memory)
        for one, fraction in _each(pose):
            part = into if fraction == 1.0 else Sums.zeros(self.size)
            signal = part.signal.view(np.float64).reshape(-1, 2)  # (n, 2)
            if grid is not None:
                self._gather(
                    grid,
                    wedge_in_box(particle.wedge, particle.volume.box_angstrom),
                    [one],
                    particle,
                    signal,
                    part.weight,
                )
            elif particle.premultiplied is not None:
                self._add_sums(particle, particle.premultiplied, [one], into.memory, part)
            if part is not into:
                into.signal += fraction * part.signal
                into.weight += fraction * part.weight
        into.count += 1

    def _add_sums(
        self, particle: Subtomogram, sums: SquaredTransferWedge, poses: list[Pose], memory: NDArray, into: Sums
    ) -> None:
        """Add D to the signal and W to the weight, both interpolated in the same way and without their part at k = 0.

        Their ratio is the particle's transform at any frequency, as long as both leave out the same part.
        """
        everywhere = wedge_in_box(NoWedge(), particle.volume.box_angstrom)
        unused, weight = np.zeros(self.size), np.zeros((self.size, 2))
        grid = _half_spectrum(particle.volume, float(particle.volume.data.mean(dtype=np.float64)), memory)
        self._gather(grid, everywhere, poses, particle, into.signal.view(np.float64).reshape(-1, 2), unused)
        grid = _half_spectrum(Volume(sums.point_spread, self.voxel_size_angstrom), 0.0, memory)
        unshifted = [Pose(one.rotation, np.zeros(3)) for one in poses]
        self._gather(grid, everywhere, unshifted, particle, weight, unused)
        into.weight += weight[:, 0]

    def _gather(
        self, grid: NDArray, wedge: tuple, poses: list[Pose], particle: Particle, signal: NDArray, weight: NDArray
    ) -> None:
        """Add a spectrum, multiplied by its wedge, to sums (n, 2) and (n,) at every pose."""
        frequency, scale = _half_ball(_last_shell(self.box))[1], np.float32(OVERSAMPLING)
        for one in poses:
            phase = _phase(one, particle)
            for symmetric_rotation in split(self.symmetry)[0]:
                rotation = (one.matrix @ symmetric_rotation).astype(np.float32)
                insert.add_gathered(grid, scale, wedge, frequency, rotation, phase, signal, weight)

    def packed(self, running: Sums) -> Sums:
        """Return running sums in single precision, for sending."""
        return Sums(running.signal.astype(np.complex64), running.weight.astype(np.float32), running.count)

    def map_of(self, sums: Sums) -> Volume:
        """Return the map S / W of packed sums."""
        spectrum = self._cube(sums.signal) * _inverse(_floored(self._cube(sums.weight)))
        return Volume(centred_ifft(_centred(spectrum, self.box)).real, self.voxel_size_angstrom)

    def coverage(self, sums: Sums) -> NDArray[np.float32]:
        """Return the sum of wedge weights (1 where measured), or of squared transfers, at each frequency."""
        return _centred(self._cube(sums.weight), self.box).astype(np.float32)

    def _cube(self, half: NDArray) -> NDArray:
        """Return sums over all symmetric views on a cube (2 l + 1, 2 l + 1, 2 l + 1)."""
        side = 2 * _last_shell(self.box) + 1
        place = _half_ball(side // 2)[0]
        cube = np.zeros(side**3, half.dtype)
        cube[side**3 - 1 - place] = half.conj()
        cube[place] = half
        return symmetric(cube.reshape(side, side, side), self.symmetry)


@dataclass(frozen=True)
class TiltStackInsertion:
    """Insertion of tilt stacks by spreading, on a grid of two points per frequency: the half of it with k_x >= 0."""

    box: int
    voxel_size_angstrom: float
    symmetry: Symmetry

    @property
    def size(self) -> int:
        """Number of points that sums are kept at."""
        return len(_reached(self._half))

    @property
    def _half(self) -> int:
        return _grid_reach(_last_shell(self.box))

    def start(self) -> Sums:
        """Return empty sums on the half grid."""
        shape = (2 * self._half + 1, 2 * self._half + 1, insert.MARGIN + self._half + 1)
        return Sums(np.zeros(shape, np.complex64), np.zeros(shape, np.float32))

    def add(self, particle: Particle, pose: Pose | PoseSample, *, into: Sums) -> None:
        """Add a tilt stack, its images spread at each of its poses."""
        _check_alike(particle, TiltStack, self.box, self.voxel_size_angstrom)
        assert isinstance(particle, TiltStack)
        limit = _last_shell(self.box) + 0.5
        frequency, axes, signal, weight = _images(particle, limit)
        for one, fraction in _each(pose):
            images = frequency, axes, (fraction * signal).astype(np.complex64), (fraction * weight).astype(np.float32)
            phase, scale = _phase(one, particle), np.float32(OVERSAMPLING)
            for symmetric_rotation in split(self.symmetry)[0]:
                rotation = (one.matrix @ symmetric_rotation).astype(np.float32)
                insert.add_spread(images, np.float32(limit), scale, rotation, phase, into.signal, into.weight)
        into.count += 1

    def packed(self, running: Sums) -> Sums:
        """Return running sums at the points that samples can reach."""
        place = _reached(self._half)
        return Sums(running.signal.ravel()[place], running.weight.ravel()[place], running.count)

    def map_of(self, sums: Sums) -> Volume:
        """Return the map v of packed sums that solves T v = b by least squares in the box (eq. 36)."""
        limit, (taper, phases) = _last_shell(self.box), _axis(self.box)
        weight, signal = _floored(self._cube(sums.weight)), _in_order(self._cube(sums.signal), OVERSAMPLING * self.box)
        signal *= _outer(phases.conj())[..., : signal.shape[2]]
        b = _from_padded(signal, self.box) * _outer(taper)
        gain = _centred(_inverse(self._at_frequencies(weight)) * (_shells(2 * limit + 1) <= limit), self.box)
        data = _solved(b, _convolution(_in_order(weight, OVERSAMPLING * self.box)), scipy.fft.ifftshift(gain))
        return Volume(centred_ifft(centred_fft(data) * (gain > 0)).real, self.voxel_size_angstrom)

    def coverage(self, sums: Sums) -> NDArray[np.float32]:
        """Return the sum of squared transfers of the samples within the volume of each frequency."""
        limit = _last_shell(self.box)
        density = self._at_frequencies(self._cube(sums.weight)) * (OVERSAMPLING / window_transform(0.0)) ** 3
        return _centred(density * (_shells(2 * limit + 1) <= limit), self.box).astype(np.float32)

    def _at_frequencies(self, cube: NDArray) -> NDArray:
        """Return a cube's points at integer frequencies, (2 l + 1, 2 l + 1, 2 l + 1)."""
        first = self._half - OVERSAMPLING * _last_shell(self.box)
        return cube[(slice(first, len(cube) - first, OVERSAMPLING),) * 3]

    def _cube(self, packed: NDArray) -> NDArray:
        """Return sums over all symmetric views on a cube (2 h + 1, 2 h + 1, 2 h + 1) of points."""
        half = self._half
        side = 2 * half + 1
        flat = np.zeros(side * side * (insert.MARGIN + half + 1), packed.dtype)
        flat[_reached(half)] = packed
        cube = np.zeros((side, side, side), packed.dtype)
        cube[..., half - insert.MARGIN :] = flat.reshape(side, side, -1)
        return symmetric(cube + cube[::-1, ::-1, ::-1].conj(), self.symmetry)


# How particles of one kind, box and voxel size become a map of one symmetry.
Insertion = SubtomogramInsertion | TiltStackInsertion


def _check_alike(particle: Particle, kind: type, box: int, voxel_size_angstrom: float) -> None:
    if not isinstance(particle, kind):
        raise ValueError(
            "particles must all be of one kind, subtomograms or tilt stacks; got a"
            f" {type(particle).__name__} after a {kind.__name__}"
        )
    alike = same_size(particle.voxel_size_angstrom, voxel_size_angstrom, tolerance=VOXEL_SIZE_TOLERANCE)
    if particle.box != box or not alike:
        raise ValueError(
            f"has a box of {particle.box} voxels of {particle.voxel_size_angstrom:g} angstrom, the first one of"
            f" {box} of {voxel_size_angstrom:g}"
        )


# Particles


def _each(pose: Pose | PoseSample) -> list[tuple[Pose, float]]:
    """Return each pose, and the fraction of a particle that is added at it."""
    if isinstance(pose, Pose):
        return [(pose, 1.0)]
    return [(pose.poses[i], float(fraction)) for i, fraction in enumerate(pose.weights) if fraction > 0.0]


def _phase(pose: Pose, particle: Particle) -> NDArray[np.float32]:
    """Return 2 pi t / n, (3,), t in voxels."""
    return (2.0 * np.pi / (particle.box * particle.voxel_size_angstrom) * pose.shift_angstrom).astype(np.float32)


def _half_spectrum(volume: Volume, level: float, out: NDArray[np.complex64]) -> NDArray[np.float32]:
    """Return the spectrum of the tapered volume (eq. 4) less a constant, twice as fine, for ``insert.add_gathered``."""
    taper, phases = _axis(volume.box)
    tapered = (volume.data - np.float32(level)) * _outer(taper)
    insert.arrange(_to_padded(tapered, OVERSAMPLING * volume.box), phases, out)
    return out.view(np.float32).reshape(*out.shape, 2)  # (z, y, x, 2)


@lru_cache(maxsize=CACHE_SIZE)
def _axis(box: int) -> tuple[NDArray[np.float32], NDArray[np.complex64]]:
    """Return one over the window's transform along an axis (n,), and phase factors (p,) that put the centre first."""
    padded = OVERSAMPLING * box
    taper = 1.0 / window_transform((np.arange(box) - box // 2) / padded)
    phases = np.exp(2j * np.pi * np.arange(padded) * (box // 2) / padded)
    return taper.astype(np.float32), phases.astype(np.complex64)


def _images(stack: TiltStack, limit: float) -> tuple[NDArray, ...]:
    """Return the samples of a stack as ``insert.add_spread`` takes them.

    Images that are already multiplied by their transfer are summed as they are.
    """
    frequency, value, transfer = image_samples(stack, limit)
    signal = value if stack.ctf_premultiplied else transfer * value
    weight = transfer**2 * stack.used[:, None]
    axes = stack.projections_xyz.astype(np.float32)
    return frequency.astype(np.float32), axes, signal.astype(np.complex64), weight.astype(np.float32)


# Frequencies


def _last_shell(box: int) -> int:
    """Return the last complete shell of a map, which has frequencies up to half a shell beyond its radius."""
    return (box - 1) // 2


def _grid_reach(limit: int) -> int:
    """Return the number of points from zero frequency to the edge of a grid that holds the last shell."""
    return OVERSAMPLING * limit + 4  # half a frequency, and two points of the window beyond their cell


@lru_cache(maxsize=CACHE_SIZE)
def _half_ball(limit: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return k = 0 and a Friedel half of the ball: places in a flat cube of side 2 l + 1, and frequencies (3, n)."""
    index = index_grid(2 * limit + 1)
    kept = (in_friedel_half(index) | ~index.any(axis=-1)) & (_shells(2 * limit + 1) <= limit)
    return np.flatnonzero(kept), np.ascontiguousarray(index[kept].T, dtype=np.float32)  # (3, n)


@lru_cache(maxsize=CACHE_SIZE)
def _reached(half: int) -> NDArray[np.int64]:
    """Return the places in a flat half grid that samples can reach: a ball."""
    axis, columns = np.arange(-half, half + 1), np.arange(-insert.MARGIN, half + 1)
    square = (axis**2)[:, None, None] + (axis**2)[:, None] + columns**2
    return np.flatnonzero(square <= half**2)


@lru_cache(maxsize=CACHE_SIZE)
def _shells(side: int) -> NDArray[np.int32]:
    return np.rint(np.linalg.norm(index_grid(side), axis=-1)).astype(np.int32)


def _centred(cube: NDArray, side: int) -> NDArray:
    """Cut a centred spectrum of odd side, or pad it with zeros, to a centred one of another side."""
    reach = min(len(cube) // 2, (side - 1) // 2)
    cut = slice(len(cube) // 2 - reach, len(cube) // 2 + reach + 1)
    put = slice(side // 2 - reach, side // 2 + reach + 1)
    result = np.zeros((side, side, side), cube.dtype)
    result[put, put, put] = cube[cut, cut, cut]
    return result


def _in_order(cube: NDArray, padded: int) -> NDArray[np.complex64]:
    """Return a centred spectrum of odd side in the order of ``rfftn`` of another side, (p, p, p // 2 + 1).

    Frequencies beyond Nyquist are added to those that they alias to.
    """
    wrapped = cube.astype(np.complex64)
    for axis in (2, 1, 0):
        wrapped = np.moveaxis(wrapped, axis, 0)
        half = len(wrapped) // 2
        result = np.zeros((padded, *wrapped.shape[1:]), np.complex64)
        result[: half + 1] = wrapped[half:]
        result[padded - half :] += wrapped[:half]
        wrapped = np.moveaxis(result[: padded // 2 + 1] if axis == 2 else result, 0, axis)
    return np.ascontiguousarray(wrapped)


def _to_padded(data: NDArray[np.float32], padded: int) -> NDArray[np.complex64]:
    """Return ``rfftn`` of a volume padded with zeros; rows of zeros are not transformed."""
    spectrum = scipy.fft.rfft(data, padded, axis=2)
    spectrum = scipy.fft.fft(spectrum, padded, axis=1)
    return scipy.fft.fft(spectrum, padded, axis=0)


def _from_padded(spectrum: NDArray[np.complex64], box: int) -> NDArray[np.float32]:
    """Return the first voxels (n, n, n) of ``irfftn``."""
    padded = len(spectrum)
    rows = scipy.fft.ifft(spectrum, axis=0)[:box]
    rows = scipy.fft.ifft(rows, axis=1)[:, :box]
    return scipy.fft.irfft(rows, padded, axis=2)[:, :, :box]


# From sums to maps


def _floored(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights of a centred cube, raised to at least a fraction of their shell's mean."""
    return np.maximum(weight, MIN_RELATIVE_WEIGHT * shell_mean(weight))


def shell_mean(cube: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a centred cube with each value replaced by the mean of its shell."""
    shell = _shells(len(cube))
    return (np.bincount(shell.ravel(), weights=cube.ravel()) / np.bincount(shell.ravel()))[shell]


def _inverse(weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return one over each weight; zero where the weight is."""
    return np.divide(1.0, weight, out=np.zeros_like(weight), where=weight > 0)


def _outer(axis: NDArray) -> NDArray:
    return axis[:, None, None] * axis[:, None] * axis


def _convolution(weight: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Return the transform of the kernel by which weights act on density, both in the order of ``rfftn``.

    The window tapers the kernel, and the grid makes it periodic: it is divided by the taper where the next period is
    far away, and by more towards the edge, which only connects density at opposite ends of the box.
    """
    padded = len(weight)
    position = scipy.fft.fftfreq(padded)
    taper, repeated = window_transform(position), window_transform(1.0 - np.abs(position))
    kernel = scipy.fft.irfftn(weight, (padded,) * 3)
    kernel *= _outer((taper / (taper**2 + repeated**2)).astype(np.float32))
    return scipy.fft.rfftn(kernel)


def _solved(b: NDArray[np.float32], kernel: NDArray[np.complex64], gain: NDArray[np.float64]) -> NDArray[np.float64]:
    """Solve T v = b by conjugate gradients, preconditioned by a gain (n, n, n) on the transform; return v."""

    def convolved(v: NDArray) -> NDArray[np.float32]:
        spectrum = _to_padded(v.astype(np.float32), len(kernel))
        spectrum *= kernel
        return _from_padded(spectrum, len(b))

    half = gain[..., : len(b) // 2 + 1]

    def preconditioned(residual: NDArray) -> NDArray[np.float64]:
        return scipy.fft.irfftn(half * scipy.fft.rfftn(residual), b.shape)

    v = preconditioned(b)
    residual, enough = b - convolved(v), SOLVED * float((b * v).sum())
    step = direction = preconditioned(residual)
    left = float((residual * direction).sum())
    for _ in range(MAX_STEPS):
        image = convolved(step)
        curvature = float((step * image).sum())
        if left <= enough or curvature <= 0:  # the kernel's edges are not exact
            break
        length = left / curvature
        v, residual = v + length * step, residual - length * image
        direction = preconditioned(residual)
        before, left = left, float((residual * direction).sum())
        step = direction + left / before * step
    return v
