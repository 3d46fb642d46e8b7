"""How sure a pose is: the covariance of its tangent from the curvature and the residuals at the optimum.

With J_s^T J_s the normal matrix of a shell's weighted samples, w_s their weight, V_s = (|f|^2 - (f.g)^2 / |g|^2) / n_s
the power that the reference leaves unexplained, and c_s = f.g / |g|^2 the share of the target that follows it,

    A = sum_s c_s J_s^T J_s        how the gradient follows the pose
    B = kappa / 2 sum_s w_s V_s J_s^T J_s     how it scatters with the noise
    C = A^-1 B A^-1                                                                          (docs/theory.md eq. 31)

A complex sample of power V is two real ones of V / 2. kappa counts the samples of the box for each one that the
particle's support leaves independent. Knows nothing of searches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import shells as kernels
from gonio.kernels.shells import ROUNDING

__all__ = ["Curvature"]


@dataclass(frozen=True)
class Curvature:
    """Of a weighted comparison at its optimum: how the gradient follows the pose and how it scatters.

    A and B of eq. 31, (6, 6) each, for the tangent (omega in radians, t in angstrom).
    """

    follow: NDArray[np.float64]
    scatter: NDArray[np.float64]

    @staticmethod
    def of_sums(
        sums: NDArray[np.float64], weights: NDArray[np.float64], *, phase: float, samples_per_independent: float
    ) -> Curvature:
        """From the 37 sums of each shell (s, 37), and the sums of weights and of their squares (s, 2).

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
            Tangents that were free, (6, k); the covariance has no part outside them.
        precision
            Of a prior, (6, 6): added to the information of the data.
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
    """A B^-1 A, the information of the data; a direction that moves nothing carries none."""
    unit = _units(scatter)
    values, vectors = np.linalg.eigh(scatter / unit)
    told = values > ROUNDING * values[-1]
    middle = (vectors[:, told] / values[told]) @ vectors[:, told].T / unit
    return np.asarray(follow @ middle @ follow)


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Of a symmetric matrix, or None where it is singular."""
    unit = _units(matrix)
    values, vectors = np.linalg.eigh(matrix / unit)
    if not values[0] > ROUNDING * values[-1]:
        return None
    return np.asarray((vectors / values) @ vectors.T / unit)


def _units(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of the roots of the diagonal, so that radians and angstrom compare."""
    root = np.sqrt(np.maximum(np.diag(matrix), 0.0))
    root = np.where(root > 0, root, 1.0)
    return np.outer(root, root)
