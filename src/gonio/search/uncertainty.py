"""Uncertainty of a pose: the covariance of its tangent from the curvature and the residuals at the optimum.

With J_s^T J_s the normal matrix of a shell's weighted samples, w_s their weight, V_s = (|f|^2 - (f.g)^2 / |g|^2) / n_s
the power that the reference does not explain, and c_s = f.g / |g|^2 the fraction of the target that follows it,

    A = sum_s c_s J_s^T J_s        how the gradient follows the pose
    B = kappa / 2 sum_s w_s V_s J_s^T J_s     how it scatters with the noise
    C = A^-1 B A^-1                                                                          (docs/theory.md eq. 31)

A complex sample of power V is two real ones of V / 2. kappa counts the samples of the box for each one that the
particle's support leaves independent. Must not know how a pose was found.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import shells as kernels
from gonio.kernels.shells import ROUNDING


@dataclass(frozen=True)
class Curvature:
    """Response ``follow`` of a weighted comparison's gradient to the pose at its optimum, and its ``scatter``.

    A and B of eq. 31, (6, 6) each, for the tangent (omega in radians, t in angstrom).
    """

    follow: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @staticmethod
    def of_sums(
        sums: NDArray[np.float64], weights: NDArray[np.float64], *, phase: float, samples_per_independent: float
    ) -> Curvature:
        """Return the curvature from sums of each shell (s, 37), and sums of weights and of their squares (s, 2).

        ``phase`` is that of a shift of one angstrom at frequency one, in radians; ``samples_per_independent`` is kappa.
        """
        follow, scatter = np.empty((6, 6)), np.empty((6, 6))
        kernels.curvature(sums, weights, phase, samples_per_independent, follow, scatter)
        return Curvature(follow, scatter)

    def covariance(
        self, *, directions: NDArray[np.float64], precision: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the covariance (6, 6) of (omega, t); infinite where data and prior do not determine the pose.

        Parameters
        ----------
        directions
            Tangents that were free, (6, k); the covariance is zero outside them.
        precision
            Precision of a prior, (6, 6), which is added to the information of the data.
        """
        b = directions
        information = _sandwich(b.T @ self.follow @ b, b.T @ self.scatter @ b)
        if precision is not None:
            information = information + b.T @ precision @ b
        covariance = _inverse(information)
        if covariance is None:
            return np.where(np.abs(b) @ np.abs(b).T > 0, np.inf, 0.0)
        covariance = b @ covariance @ b.T
        return 0.5 * (covariance + covariance.T)


def _sandwich(follow: NDArray[np.float64], scatter: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the information of the data, A B^-1 A; a direction without scatter carries none."""
    unit = _units(scatter)
    values, vectors = np.linalg.eigh(scatter / unit)
    valid = values > ROUNDING * values[-1]
    middle = (vectors[:, valid] / values[valid]) @ vectors[:, valid].T / unit
    return np.asarray(follow @ middle @ follow)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Return the inverse of a symmetric matrix, or None where it is singular."""
    unit = _units(matrix)
    values, vectors = np.linalg.eigh(matrix / unit)
    if not values[0] > ROUNDING * values[-1]:
        return None
    return np.asarray((vectors / values) @ vectors.T / unit)


def _units(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the products of the roots of the diagonal, which scale radians and angstrom to be comparable."""
    root = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    root = np.where(root > 0, root, 1.0)
    return np.outer(root, root)
