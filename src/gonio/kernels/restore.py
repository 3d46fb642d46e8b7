"""The most probable density behind a measurement, by conjugate gradients (docs/theory.md eqs. 25-27).

    f = A D^(1/2) L v + n,   (1 + B^T N^-1 B) v = B^T N^-1 f,   B = A D^(1/2) L

A density has m voxels along each axis, its transform k samples (``dft_matrices``); v is a list of samples, (k, k, k).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gonio.kernels.compiled import compiled
from gonio.kernels.dft import Filter, Matrices, adjoint, filtered, forward, times


class ImagingOperator(NamedTuple):
    """Imaging operator A: from a density in the box to its samples, filtered by the wedge with zeros around the box.

    Parameters
    ----------
    dft_matrices
        From the m voxels of the box to its k samples, for each axis (k, m).
    fine
        From the m voxels to the 2m + 1 samples of twice the box, (2m + 1, m); or ``dft_matrices`` along an axis that
        is not padded.
    overlap
        From the k samples of the box to the 2m + 1 of twice the box, (2m + 1, k); or empty along an axis not padded.
    measured
        1 where the wedge was measured, on the samples of twice the box.
    """

    dft_matrices: Matrices
    fine: Matrices
    overlap: Matrices
    measured: Filter


class Model(NamedTuple):
    """Model of a measurement.

    Parameters
    ----------
    imaging
        A.
    envelope
        D^(1/2), shape (m, m, m).
    root
        L, the root of the power of the density, shape (k, k, k).
    precision
        1 / N where it was measured, else 0.
    """

    imaging: ImagingOperator
    envelope: NDArray[np.float32]
    root: NDArray[np.float32]
    precision: Filter


@compiled
def shown(imaging, density):
    """Return A times a density: from (m, m, m) to (k, k, k)."""
    return adjoint(filtered(imaging.measured, forward(density, imaging.fine)), imaging.overlap)


@compiled
def shown_back(imaging, samples):
    """Return A^T times samples: from (k, k, k) to (m, m, m)."""
    return adjoint(filtered(imaging.measured, forward(samples, imaging.overlap)), imaging.fine)


@compiled
def density_of(model, v):
    """Return the density D^(1/2) L v, shape (m, m, m)."""
    return times(model.envelope, adjoint(times(model.root, v), model.imaging.dft_matrices))


@compiled
def explained(model, samples):
    """Return B^T N^-1 times samples (k, k, k)."""
    weighted = shown_back(model.imaging, filtered(model.precision, samples))
    return times(model.root, forward(times(model.envelope, weighted), model.imaging.dft_matrices))


@compiled
def normal(model, v):
    """Return (1 + B^T N^-1 B) v."""
    return v + explained(model, shown(model.imaging, density_of(model, v)))


@compiled
def _dot(a, b):
    total = np.float32(0.0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total


@compiled
def conjugate_gradients(model, right, inverse, steps, left_over, enough):
    """Solve normal(v) = right, preconditioned by the diagonal ``inverse`` (k, k, k); return v.

    Iterations end when the residual's square, weighted by ``inverse``, is at most ``left_over`` times its first value
    and at most ``enough``.
    """
    shape, inverse = right.shape, inverse.ravel()
    residual, v = right.ravel().copy(), np.zeros(right.size, dtype=np.float32)
    direction = inverse * residual
    square = _dot(residual, direction)
    enough = min(enough, left_over * square)
    for _ in range(steps):
        if square <= enough:
            break
        image = normal(model, direction.reshape(shape)).ravel()
        step = square / _dot(direction, image)
        v += step * direction
        residual -= step * image
        towards = inverse * residual
        before, square = square, _dot(residual, towards)
        direction = towards + (square / before) * direction
    return v.reshape(shape)
