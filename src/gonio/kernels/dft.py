"""Fourier transforms of small boxes as real products: sines and cosines along one axis after the other.

At the sizes of a restoration (20 voxels, padded to 40) products with small matrices are faster than FFTs, because they
leave out zeros and unused frequencies. Voxels count from the centre, ``n // 2``. A transform has indices -count to
count along each axis: sines of frequency -index below zero, cosines of frequency index from zero on. Arrays are float32
and contiguous. The products are written as loops: the threads of a BLAS would compete with those over particles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gonio.kernels.compiled import compiled

Matrices = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@lru_cache(maxsize=32)
def dft_matrices(points: int, *, period: int, count: int) -> NDArray[np.float32]:
    """Return the matrix from voxels to their transform, (2 count + 1, points), orthonormal over a whole ``period``."""
    index = np.arange(-count, count + 1)[:, None]
    cycles = np.abs(index) * (np.arange(points) - points // 2) / period
    wave = np.where(index < 0, np.sin(2.0 * np.pi * cycles), np.cos(2.0 * np.pi * cycles))
    unpaired = 2 * index % period == 0  # the mean and Nyquist have cosines only
    scale = np.where(unpaired, (index >= 0) * np.sqrt(1.0 / period), np.sqrt(2.0 / period))
    matrix: NDArray[np.float32] = (scale * wave).astype(np.float32)
    return matrix


def resampled(data: NDArray[np.float32], box: int) -> NDArray[np.float32]:
    """Return a density on a grid of ``box`` voxels along each axis over the same length, by Fourier interpolation."""
    return data if len(data) == box else forward(data, (_interpolation(len(data), box),) * 3)


@lru_cache(maxsize=32)
def _interpolation(n: int, box: int) -> NDArray[np.float32]:
    """Return the matrix from n voxels along an axis to ``box`` voxels over the same length, (box, n)."""
    count = (min(n, box) - 1) // 2  # without Nyquist, which has no partner
    here, there = (dft_matrices(points, period=points, count=count) for points in (n, box))
    return np.sqrt(np.float32(box / n)) * there.T @ here


@compiled
def _product(matrix, rows, out):
    """Compute ``out`` (b, r) = matrix (b, a) @ rows (a, r), two rows of ``out`` and four of ``rows`` at a time."""
    b, a = matrix.shape
    whole = a - a % 4
    out[:] = 0.0
    for i in range(0, b - 1, 2):
        for k in range(0, whole, 4):
            a0, a1, a2, a3 = matrix[i, k], matrix[i, k + 1], matrix[i, k + 2], matrix[i, k + 3]
            b0, b1, b2, b3 = matrix[i + 1, k], matrix[i + 1, k + 1], matrix[i + 1, k + 2], matrix[i + 1, k + 3]
            for j in range(rows.shape[1]):
                x0, x1, x2, x3 = rows[k, j], rows[k + 1, j], rows[k + 2, j], rows[k + 3, j]
                out[i, j] += a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
                out[i + 1, j] += b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
        for k in range(whole, a):
            a0, b0 = matrix[i, k], matrix[i + 1, k]
            for j in range(rows.shape[1]):
                out[i, j] += a0 * rows[k, j]
                out[i + 1, j] += b0 * rows[k, j]
    if b % 2:
        for k in range(a):
            a0 = matrix[b - 1, k]
            for j in range(rows.shape[1]):
                out[b - 1, j] += a0 * rows[k, j]


@compiled
def _transposed(rows):
    """Return the transpose (r, b) of (b, r), copied eight rows at a time so that both stay in the cache."""
    b, r = rows.shape
    out = np.empty((r, b), dtype=np.float32)
    whole = b - b % 8
    for i in range(0, whole, 8):
        for j in range(r):
            for k in range(8):
                out[j, i + k] = rows[i + k, j]
    for j in range(r):
        for i in range(whole, b):
            out[j, i] = rows[i, j]
    return out


@compiled
def _first_to_last(array, matrix):
    """Multiply the first axis by a matrix (new, old), unless that is empty; return the array with this axis last."""
    a, b, c = array.shape
    rows = array.reshape(a, b * c)
    if len(matrix):
        product = np.empty((len(matrix), b * c), dtype=np.float32)
        _product(matrix, rows, product)
        return _transposed(product).reshape(b, c, len(matrix))
    return _transposed(rows).reshape(b, c, a)


@compiled
def _last_to_first(array, matrix):
    """Apply the adjoint of ``_first_to_last``."""
    a, b, c = array.shape
    rows = _transposed(array.reshape(a * b, c))
    if len(matrix):
        product = np.empty((matrix.shape[1], a * b), dtype=np.float32)
        _product(matrix.T, rows, product)
        return product.reshape(matrix.shape[1], a, b)
    return rows.reshape(c, a, b)


@compiled
def forward(array, matrices):
    """Multiply each axis of an array by its matrix (new, old); an empty matrix leaves the axis as it is."""
    return _first_to_last(_first_to_last(_first_to_last(array, matrices[0]), matrices[1]), matrices[2])


@compiled
def adjoint(array, matrices):
    """Multiply each axis of an array by the transpose of its matrix: the adjoint of ``forward``."""
    return _last_to_first(_last_to_first(_last_to_first(array, matrices[2]), matrices[1]), matrices[0])


@compiled
def plane_waves(products, period, first, out):
    """Convert the products of sines and cosines that ``forward`` gives of a volume to V(k) of docs/theory.md eq. 1.

    ``out`` (s - first, s, s) complex64, axes (z, y, x), receives it from the index ``first`` on along z.
    """
    s = products.shape[0]
    count = s // 2
    for a in range(first, s):
        z, sz = abs(a - count), np.float32(np.sign(a - count))
        for b in range(s):
            y, sy = abs(b - count), np.float32(np.sign(b - count))
            for c in range(s):
                x, sx = abs(c - count), np.float32(np.sign(c - count))
                # (C_z - i S_z) (C_y - i S_y) (C_x - i S_x); sines lie below the middle, cosines above.
                zc, zs, yc, ys, xc, xs = count + z, count - z, count + y, count - y, count + x, count - x
                re = products[zc, yc, xc] - sz * sy * products[zs, ys, xc]
                re -= sx * (sz * products[zs, yc, xs] + sy * products[zc, ys, xs])
                im = sx * (sz * sy * products[zs, ys, xs] - products[zc, yc, xs])
                im -= sz * products[zs, yc, xc] + sy * products[zc, ys, xc]
                scale = _height(z, period) * _height(y, period) * _height(x, period)
                out[a - first, b, c] = complex(scale * re, scale * im)


@compiled
def _height(index, period):
    """Return one over the amplitude of a row of ``dft_matrices``."""
    return np.float32(np.sqrt(period if 2 * index % period == 0 else 0.5 * period))


class Filter(NamedTuple):
    """Filter of real densities, as it acts on products of sines and cosines along the three axes.

    The filter multiplies plane waves. Its part that is even in each component of k multiplies the products, too. Its
    part that is odd in two components makes cosines of the sines along these two axes, and sines of the cosines:
    products move to the opposite indices, and are multiplied by minus the product of their signs.

    Parameters
    ----------
    own
        Factors of the even part, for indices -count to count along each axis: shape (s, s, s).
    swapped
        For each swap the step along each axis, -1 for the two that are reversed and 1 for the other, shape (w, 3).
    swaps
        Factors of each odd part, shape (w, s, s, s); none for a wedge that is symmetric about the grid's planes.
    """

    own: NDArray[np.float32]
    swapped: NDArray[np.int64]
    swaps: NDArray[np.float32]

    def times(self, gain: NDArray) -> Filter:
        """Return the filter times a gain (s, s, s) that depends only on the distance from zero frequency."""
        return Filter(gain * self.own, self.swapped, gain * self.swaps)

    def turned(self, order: Sequence[int]) -> Filter:
        """Return the filter with its axes in another order."""
        swaps = np.ascontiguousarray(self.swaps.transpose(0, *(1 + axis for axis in order)))
        return Filter(np.ascontiguousarray(self.own.transpose(order)), self.swapped[:, list(order)].copy(), swaps)

    def is_constant(self, axis: int) -> bool:
        """Return whether the filter is constant along an axis."""
        parts = [self.own, *self.swaps]
        return all((part == part.take([0], axis=axis)).all() for part in parts)

    def cut(self, shape: Sequence[int]) -> Filter:
        """Return the filter with fewer indices along axes on which it is constant."""
        part = tuple(slice(size) for size in shape)
        return Filter(self.own[part].copy(), self.swapped, self.swaps[:, *part].copy())


def filter_of(gain_at: Callable[[NDArray], NDArray], *, count: int, step: float) -> Filter:
    """Return the filter, axes (z, y, x), of a gain at frequencies (..., 3), xyz, which are ``step`` times indices."""
    line = np.arange(count + 1)
    octant = step * np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1)  # (z, y, x, 3), zyx
    # The gain is the same for k and -k, so reversing z and y is reversing x.
    reversals = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [-1, -1, 1]])
    whole, *reversed_gains = (gain_at((octant * reverse)[..., ::-1]).astype(np.float32) for reverse in reversals)
    index = np.arange(-count, count + 1)
    everywhere = np.ix_(*[np.abs(index)] * 3)
    swapped, swaps = np.zeros((0, 3), dtype=np.int64), np.zeros((0, *[len(index)] * 3), dtype=np.float32)
    for axis, (a, b) in enumerate([(1, 2), (0, 2), (0, 1)]):
        part = (whole + reversed_gains[axis] - reversed_gains[a] - reversed_gains[b]) / 4.0
        if part.any():
            signs = np.expand_dims(np.multiply.outer(np.sign(index), np.sign(index)), axis).astype(np.float32)
            swaps = np.concatenate([swaps, (-signs * part[everywhere])[None]])
            swapped = np.concatenate([swapped, np.where(np.arange(3) == axis, 1, -1)[None]])
    return Filter(((whole + sum(reversed_gains)) / 4.0)[everywhere], swapped, swaps)


@compiled
def times(gain, array):
    """Return the product of two contiguous arrays of one shape, element by element."""
    out = np.empty_like(array)
    g, a, flat = gain.ravel(), array.ravel(), out.ravel()
    for i in range(len(flat)):
        flat[i] = g[i] * a[i]
    return out


@compiled
def _add_swapped(gain, steps, spectrum, out):
    depth, height, width = spectrum.shape
    for i in range(depth):
        a = i if steps[0] > 0 else depth - 1 - i
        for j in range(height):
            row = spectrum[a, j if steps[1] > 0 else height - 1 - j]
            if steps[2] > 0:
                for k in range(width):
                    out[i, j, k] += gain[i, j, k] * row[k]
            else:
                for k in range(width):
                    out[i, j, k] += gain[i, j, k] * row[width - 1 - k]


@compiled
def filtered(gain, spectrum):
    """Apply a ``Filter`` to a spectrum (s, s, s)."""
    out = times(gain.own, spectrum)
    for i in range(len(gain.swaps)):
        _add_swapped(gain.swaps[i], gain.swapped[i], spectrum, out)
    return out
