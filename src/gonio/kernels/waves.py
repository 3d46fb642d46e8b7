"""Fourier transforms of small boxes as real products: sines and cosines along one axis after the other.

At the sizes of a restoration (20 voxels, padded to 40) products of small matrices are faster than FFTs, for only what
is not zero and is looked at takes part. Voxels count from the centre, ``n // 2``. A transform has indices -count to
count along each axis: sines of frequency -index below zero, cosines of frequency index from zero on. Knows nothing of
particles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@lru_cache(maxsize=32)
def waves(points: int, *, period: int, count: int) -> NDArray[np.float32]:
    """The matrix from voxels to their transform, (2 count + 1, points), orthonormal over a whole ``period``."""
    index = np.arange(-count, count + 1)[:, None]
    turns = np.abs(index) * (np.arange(points) - points // 2) / period
    wave = np.where(index < 0, np.sin(2.0 * np.pi * turns), np.cos(2.0 * np.pi * turns))
    alone = 2 * index % period == 0  # the mean and Nyquist have cosines only
    scale = np.where(alone, (index >= 0) * np.sqrt(1.0 / period), np.sqrt(2.0 / period))
    matrix: NDArray[np.float32] = (scale * wave).astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def through(array: NDArray, matrices: Sequence[NDArray | None]) -> NDArray:
    """The array with each axis multiplied by its matrix (new, old), or left as it is for None."""
    for matrix in matrices:
        # The first axis goes, and comes back as the last.
        if matrix is None:
            array = array.transpose(1, 2, 0)
        else:
            rest = array.shape[1:]
            array = np.dot(array.reshape(len(array), -1).T, matrix.T).reshape(*rest, len(matrix))
    return array


def back(array: NDArray, matrices: Sequence[NDArray | None]) -> NDArray:
    """The adjoint of ``through``: each axis multiplied by the transpose of its matrix."""
    for matrix in reversed(matrices):
        if matrix is None:
            array = array.transpose(2, 0, 1)
        else:
            rest = array.shape[:-1]
            array = np.dot(matrix.T, array.reshape(-1, len(matrix)).T).reshape(-1, *rest)
    return array


def resampled(data: NDArray, box: int) -> NDArray[np.float32]:
    """The same density on a grid of another number of voxels over the same box, by its Fourier samples."""
    return data if len(data) == box else through(data, [_interpolation(len(data), box)] * 3)


@lru_cache(maxsize=32)
def _interpolation(n: int, box: int) -> NDArray[np.float32]:
    """From n voxels along an axis to those of another grid over the same length, (box, n)."""
    count = (min(n, box) - 1) // 2  # without Nyquist, which has no partner
    here, there = (waves(points, period=points, count=count) for points in (n, box))
    return np.sqrt(np.float32(box / n)) * there.T @ here


@dataclass(frozen=True)
class Gain:
    """A filter of real densities, as it acts on products of sines and cosines along the three axes.

    The filter multiplies plane waves. The part of it that stays the same when any one component of k is reversed still
    multiplies the products. The part that changes its sign with either of two components makes cosines of the sines
    along these two axes, and sines of the cosines: it moves to the opposite indices (``waves``), and is multiplied by
    minus the product of their signs.

    Parameters
    ----------
    own
        What multiplies, for indices -count to count along each axis: shape (s, s, s), or 1 for s along an axis on
        which it is constant.
    swaps
        Two axes to reverse and what to multiply by then; none for a wedge that is symmetric about the grid's planes.
    """

    own: NDArray[np.float32]
    swaps: list[tuple[tuple[int, int], NDArray[np.float32]]]

    @staticmethod
    def of(gain_at: Callable[[NDArray], NDArray], *, count: int, step: float) -> Gain:
        """Of frequencies (..., 3), xyz, ``step`` times the indices -count to count; axes (z, y, x)."""
        line = np.arange(count + 1)
        octant = step * np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)  # (z, y, x, 3), zyx
        # The gain is the same for k and -k, so that z and y reversed stand for x.
        signs = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]])
        whole, *turned = (gain_at((octant * reverse)[..., ::-1]).astype(np.float32) for reverse in signs)
        index = np.arange(-count, count + 1)
        everywhere = np.ix_(*[np.abs(index)] * 3)
        swaps = []
        for axis, (a, b) in enumerate([(1, 2), (0, 2), (0, 1)]):
            part = (whole + turned[axis] - turned[a] - turned[b]) / 4.0
            if part.any():
                signs = np.expand_dims(np.multiply.outer(np.sign(index), np.sign(index)), axis)
                swaps.append(((a, b), -signs.astype(np.float32) * part[everywhere]))
        return Gain(((whole + sum(turned)) / 4.0)[everywhere], swaps)

    def on(self, spectrum: NDArray) -> NDArray:
        """The filtered spectrum."""
        filtered = self.own * spectrum
        for axes, part in self.swaps:
            filtered += part * np.flip(spectrum, axes)
        return filtered

    def times(self, gain: NDArray) -> Gain:
        """Multiplied by what depends on the distance from zero frequency alone, (s, s, s)."""
        return Gain(gain * self.own, [(axes, gain * part) for axes, part in self.swaps])

    def turned(self, order: Sequence[int]) -> Gain:
        """With the axes in another order."""
        swaps = [((order.index(a), order.index(b)), part.transpose(order)) for (a, b), part in self.swaps]
        return Gain(np.ascontiguousarray(self.own.transpose(order)), swaps)

    def is_constant(self, axis: int) -> bool:
        """Whether it is the same all along an axis."""
        parts = [self.own, *(part for _, part in self.swaps)]
        return all((part == part.take([0], axis=axis)).all() for part in parts)

    def narrowed(self) -> Gain:
        """With one index only along each axis on which it is constant."""
        one = tuple(slice(1) if self.is_constant(axis) else slice(None) for axis in range(3))
        return Gain(
            np.ascontiguousarray(self.own[one]), [(axes, np.ascontiguousarray(part[one])) for axes, part in self.swaps]
        )
