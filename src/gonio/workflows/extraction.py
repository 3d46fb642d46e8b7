"""Subtomograms cut from a tomogram, and images from tilt images, at positions between voxels.

Flow: position -> the voxels about the nearest one, with padding -> shift by a fraction of a voxel -> binning by
cropping the spectrum -> the box without its padding -> contrast and scale. With r the shift in voxels, |r| <= 1/2
along each axis, and M the padded box, the piece's spectrum F becomes

    F(k) exp(2 pi i k.r / M),    kept where -m / 2 < k < m / 2 along each axis,   m = M / binning

which is exact for band-limited tomograms, but for the density beyond the piece: the padding is tapered to the mean, so
that the piece has no jump at its border. Positions count voxels from the centre of the first one, and are at voxel
``n // 2`` of the box. Images are cut in the same way along two axes; one that is to be multiplied by its contrast
transfer is so while it has its padding, which must hold what the lens has spread. Knows no file and no pose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import ArrayLike, NDArray

from gonio.fourier.grid import index_grid
from gonio.particle.arguments import ArgumentError, check_one_of

# Padding on each side of a box, in voxels of the result: an eighth of the box, and no less than this.
LEAST_MARGIN = 8
# Shifts below this, in voxels, are rounding: the piece is not shifted.
ON_VOXEL = 1e-4

NORMALISATIONS = ("outside", "box", "none")

Reader = Callable[[Sequence[int], Sequence[int]], NDArray[np.float32]]


@dataclass(frozen=True)
class Cutting:
    """Box and binning of subtomograms.

    Parameters
    ----------
    box
        Voxels along an edge of the result, n >= 8.
    binning
        Voxels of the tomogram along an edge of a voxel of the result.
    padding
        Padding on each side, in voxels of the result; None for an eighth of the box, and no less than ``LEAST_MARGIN``.
    """

    box: int
    binning: int = 1
    padding: int | None = None

    def __post_init__(self) -> None:
        if self.box < 8:
            raise ArgumentError("{} must be at least 8 voxels, got {got!r}", "box", got=self.box)
        if self.binning < 1:
            raise ArgumentError("{} must be at least 1, got {got!r}", "binning", got=self.binning)

    @property
    def margin(self) -> int:
        """Padding on each side, in voxels of the result."""
        return max(LEAST_MARGIN, self.box // 8) if self.padding is None else self.padding

    @property
    def padded(self) -> int:
        """Edge of the padded box, in voxels of the result."""
        return self.box + 2 * self.margin


@dataclass(frozen=True)
class Scaling:
    """Contrast and scale of what is cut.

    Parameters
    ----------
    normalise
        One of ``NORMALISATIONS``: mean 0 and standard deviation 1 outside of the particle, or of the whole box.
    diameter_angstrom
        Diameter of the sphere, or circle, that holds the particle; None for the largest that fits.
    invert
        Flip the contrast.
    """

    normalise: str = "outside"
    diameter_angstrom: float | None = None
    invert: bool = False

    def __post_init__(self) -> None:
        check_one_of("normalise", self.normalise, NORMALISATIONS)

    def check(self, box: int, voxel_size_angstrom: float, *, dimensions: int) -> None:
        """Raise ArgumentError where a box has nothing outside of the particle."""
        radius = self._radius_px(box, voxel_size_angstrom)
        if radius is not None and radius >= 0.5 * np.sqrt(dimensions) * (box - 1):
            what, edge = "{} {got:g} leaves nothing of a box of {edge:g} angstrom", box * voxel_size_angstrom
            raise ArgumentError(what, "diameter_angstrom", got=self.diameter_angstrom, edge=edge)

    def level(self, data: NDArray[np.float32], voxel_size_angstrom: float) -> tuple[float, float]:
        """Return what to take off a box or image, and then to divide it by."""
        sign = -1.0 if self.invert else 1.0
        if self.normalise == "none":
            return 0.0, sign
        mean, sd = level(data, radius_px=self._radius_px(len(data), voxel_size_angstrom))
        return mean, sign * sd

    def _radius_px(self, box: int, voxel_size_angstrom: float) -> float | None:
        """Return the radius beyond which boxes are scaled; None for the whole box."""
        if self.normalise != "outside":
            return None
        if self.diameter_angstrom is None:
            return 0.5 * box - 0.5
        return 0.5 * self.diameter_angstrom / voxel_size_angstrom


@dataclass(frozen=True)
class Extracted:
    """A subtomogram (z, y, x) or image (y, x), and the fraction of its box outside, which is filled with the mean.

    ``before`` is what it was before it was multiplied by a transfer, where it was.
    """

    data: NDArray[np.float32]
    outside: float
    before: NDArray[np.float32] | None = None


def cut_out(
    read: Reader,
    shape_zyx: Sequence[int],
    position_zyx: ArrayLike,
    cutting: Cutting,
    *,
    transfer: NDArray[np.floating] | None = None,
) -> Extracted:
    """Cut one box, or a square from an image.

    Parameters
    ----------
    read
        Returns the voxels from one corner up to another, which lie inside of the tomogram, as float32.
    shape_zyx
        Shape of the tomogram.
    position_zyx
        Position of the box's centre voxel in the tomogram, voxels from the centre of the first.
    cutting
        Box and binning.
    transfer
        What the padded box is multiplied by, without its mean, on the half grid of ``rfftn``; None for nothing.

    Returns
    -------
    The subtomogram in the tomogram's own contrast and scale.

    Raises
    ------
    ValueError
        If the position is not finite, or no voxel of the box lies inside.
    """
    position = np.asarray(position_zyx, dtype=np.float64)
    axes = len(shape_zyx)
    if position.shape != (axes,) or not np.isfinite(position).all():
        count = {2: "two", 3: "three"}[axes]
        raise ValueError(f"a position must be {count} finite numbers, got {position_zyx!r}")
    nearest = np.floor(position + 0.5).astype(np.int64)
    outside = fraction_outside(position, cutting, shape_zyx)
    if outside == 1.0:
        place, size = ", ".join(f"{p:.1f}" for p in position[::-1]), " x ".join(map(str, shape_zyx[::-1]))
        raise ValueError(f"the box at voxel ({place}) lies outside of the tomogram of {size} voxels (x, y, z)")
    shift = position - nearest
    if cutting.binning == 1 and np.abs(shift).max() < ON_VOXEL and transfer is None:
        return Extracted(_filled(read, shape_zyx, nearest - cutting.box // 2, cutting.box), outside)
    low = nearest - _half(cutting, cutting.padded)
    piece = _filled(read, shape_zyx, low, cutting.padded * cutting.binning)
    spectrum, mean = _spectrum(piece, shift, cutting)
    data = _box(spectrum, mean, cutting)
    if transfer is None:
        return Extracted(data, outside)
    return Extracted(_box(spectrum * transfer.astype(np.float32), 0.0, cutting), outside, data)


def fraction_outside(position_zyx: ArrayLike, cutting: Cutting, shape_zyx: Sequence[int]) -> float:
    """Return the fraction of a box at a position that lies outside of a tomogram, 0 to 1."""
    nearest = np.floor(np.asarray(position_zyx, dtype=np.float64) + 0.5).astype(np.int64)
    edge = cutting.box * cutting.binning
    first, last = _overlap(nearest - _half(cutting, cutting.box), edge, shape_zyx)
    return 1.0 - float(np.prod((last - first) / edge))


def level(data: NDArray[np.float32], *, radius_px: float | None) -> tuple[float, float]:
    """Return mean and standard deviation of a box or image, over all of it or what is beyond a radius from its centre.

    Raises
    ------
    ValueError
        If these voxels are all alike, or none is that far away.
    """
    over = data
    if radius_px is not None:
        index = index_grid(len(data), dimensions=data.ndim).astype(np.float64)
        over = data[(index**2).sum(axis=-1) > radius_px**2]
        if over.size == 0:
            raise ValueError(f"no voxel of a box of {len(data)} is farther than {radius_px:g} voxels from its centre")
    mean, sd = float(over.mean(dtype=np.float64)), float(over.std(dtype=np.float64))
    if sd <= 1e-6 * abs(mean) or sd == 0.0:
        raise ValueError("its voxels are all alike: there is nothing to scale to")
    return mean, sd


def _half(cutting: Cutting, edge: int) -> int:
    """Return the voxels of the tomogram from a piece's first to its centre; ``edge`` is in voxels of the result."""
    return cutting.binning * edge // 2


def _overlap(low: NDArray[np.int64], edge: int, shape: Sequence[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    first = np.clip(low, 0, shape)
    return first, np.maximum(np.clip(low + edge, 0, shape), first)


def _filled(read: Reader, shape: Sequence[int], low: NDArray[np.int64], edge: int) -> NDArray[np.float32]:
    """Read a cube; voxels outside of the tomogram are the mean of those inside."""
    first, last = _overlap(low, edge, shape)
    inside = read(first.tolist(), last.tolist())
    if inside.shape == (edge,) * len(shape):
        return np.array(inside, dtype=np.float32)
    cube = np.full((edge,) * len(shape), inside.mean(dtype=np.float64), dtype=np.float32)
    cube[tuple(slice(a, b) for a, b in zip(first - low, last - low, strict=True))] = inside
    return cube


def _spectrum(
    piece: NDArray[np.float32], shift_zyx: NDArray[np.float64], cutting: Cutting
) -> tuple[NDArray[np.complex64], float]:
    """Return the half spectrum of the padded box about the shifted centre, without its mean, and the mean."""
    large, small, axes = len(piece), cutting.padded, piece.ndim
    mean = float(piece.mean(dtype=np.float64))
    tapered = piece - np.float32(mean)
    for axis in range(axes):
        tapered *= _along(_taper(large, cutting.margin * cutting.binning), axis, axes)
    # Frequencies -small / 2 < k < small / 2 alone: the one at -small / 2 has no partner at +small / 2.
    top = (small - 1) // 2
    k = np.arange(-top, top + 1)
    ranges = [k] * (axes - 1) + [k[top:]]
    spectrum = scipy.fft.fftn(tapered)[np.ix_(*(used % large for used in ranges))]
    centre = small // 2
    for axis, used in enumerate(ranges):
        # From the piece's centre voxel, moved by the shift, to the result's.
        phase = np.exp(2j * np.pi * used * ((large // 2 + shift_zyx[axis]) / large - centre / small))
        spectrum *= _along(phase.astype(np.complex64), axis, axes)
    whole = np.zeros((small,) * (axes - 1) + (small // 2 + 1,), dtype=np.complex64)
    whole[np.ix_(*(used % small for used in ranges))] = spectrum
    whole *= np.float32((small / large) ** axes)
    return whole, mean


def _box(spectrum: NDArray[np.complex64], mean: float, cutting: Cutting) -> NDArray[np.float32]:
    """Return the box without its padding."""
    axes, centre = spectrum.ndim, cutting.padded // 2
    result = scipy.fft.irfftn(spectrum, s=(cutting.padded,) * axes) + np.float32(mean)
    inner = slice(centre - cutting.box // 2, centre - cutting.box // 2 + cutting.box)
    return np.ascontiguousarray(result[(inner,) * axes], dtype=np.float32)


def _taper(edge: int, margin: int) -> NDArray[np.float32]:
    """Return a taper, 1 inside, that falls as a raised cosine to 0 over the outer half of the padding on each side."""
    width = max(margin // 2, 1)
    rise = 0.5 - 0.5 * np.cos(np.pi * (np.arange(width) + 0.5) / width)
    return np.concatenate([rise, np.ones(edge - 2 * width), rise[::-1]]).astype(np.float32)


def _along(values: NDArray, axis: int, axes: int) -> NDArray:
    return values.reshape([-1 if i == axis else 1 for i in range(axes)])
