"""The pose problem as the optimiser sees it: points, model, retraction and length.

Owns how a pose is written as a point (12 numbers: R by rows, then t in angstrom), in which directions it may move, and
what is added to a dissimilarity when poses far from the start are unlikely (docs/theory.md eq. 16). Must not know which
points a search tries.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio import lm
from gonio.pose import Pose, anchors, moved_along
from gonio.score import MIN_CONTRAST, Comparison, NormalEquations, Score

__all__ = ["PoseProblem", "PriorProblem", "pack", "poses_of", "signature", "unpack"]

# Sums of float32 samples are known to this share of their size; nothing is read into less.
_ROUNDING = 1e-7


def pack(rotations: NDArray, shifts: NDArray) -> NDArray[np.float64]:
    """Points (p, 12) of rotation matrices (p, 3, 3) and shifts (p, 3) in angstrom."""
    return np.concatenate([rotations.reshape(-1, 9), shifts], axis=1)  # (p, 12)


def unpack(points: NDArray) -> tuple[NDArray, NDArray]:
    """The inverse of ``pack``."""
    return points[:, :9].reshape(-1, 3, 3), points[:, 9:]  # (p, 3, 3), (p, 3)


def poses_of(points: NDArray) -> Pose:
    """Points (p, 12) as a batch of p poses."""
    rotations, shifts = unpack(points)
    return Pose(Rotation.from_matrix(rotations), shifts)


def signature(points: NDArray, voxel_size_angstrom: float) -> NDArray[np.float64]:
    """What the paper's eq. 12 measures distances between, shape (p, 9), with shifts in voxels."""
    rotations, shifts = unpack(points)
    return anchors(rotations, shifts / voxel_size_angstrom).reshape(len(points), 9)


class PoseProblem:
    """A comparison as the optimiser sees it: model, retraction and length, in a box of allowed shifts.

    ``directions`` (6, k) are the tangents that may be used: all six, or one turn and three shifts about an axis.
    """

    def __init__(
        self,
        comparison: Comparison,
        *,
        directions: NDArray[np.float64],
        shift_centre_angstrom: NDArray[np.float64],
        max_shift_angstrom: float,
        radius_angstrom: float,
    ) -> None:
        self._comparison = comparison
        self._directions = directions
        self._centre = shift_centre_angstrom
        # Seeds lie on whole voxels inside the ball; the refinement may leave it by one.
        self._max_shift = max_shift_angstrom + comparison.target.voxel_size_angstrom
        self._radius = radius_angstrom

    @property
    def target_power(self) -> float:
        """Mean square of the target's samples, the unit of FCS."""
        target = self._comparison.target
        return float(np.average(np.abs(target.value) ** 2, weights=target.weight))

    def equations(self, points: NDArray) -> tuple[NormalEquations, NDArray[np.bool_]]:
        """Normal equations at points (p, 12), and which of them have left the box of allowed shifts."""
        rotations, shifts = unpack(points)
        far = np.linalg.norm(shifts - self._centre, axis=1) > self._max_shift
        return self._comparison.normal_equations(rotations, shifts), far

    def model(self, points: NDArray) -> lm.Model:
        """The dissimilarity and its quadratic model along the directions; infinite outside the box."""
        equations, far = self.equations(points)
        b = self._directions
        hessian = np.einsum("ia,pij,jb->pab", b, equations.hessian, b)
        return np.where(far, np.inf, equations.dissimilarity), hessian, equations.descent @ b

    def retract(self, points: NDArray, steps: NDArray) -> NDArray:
        """Points moved along steps (p, k)."""
        return pack(*moved_along(*unpack(points), steps @ self._directions.T))

    def length(self, steps: NDArray) -> NDArray:
        """How far a step moves the particle's surface at most, angstrom, shape (p,)."""
        tangent = steps @ self._directions.T
        return np.linalg.norm(tangent[:, :3], axis=1) * self._radius + np.linalg.norm(tangent[:, 3:], axis=1)


class PriorProblem:
    """A pose problem with a Gaussian prior around the pose where it starts: the most probable pose.

    Minimises, over N, the negative log of the posterior (docs/theory.md eq. 16): the noise variance and, for RCS, the
    contrast that fit best are put in, which leaves N ln(1 - c^2) for RCS and N ln d for FCS, N = |Omega|.
    """

    def __init__(self, problem: PoseProblem, start: Pose, score: Score, precision: NDArray[np.float64]) -> None:
        self._problem = problem
        self._start = start
        self._score = score
        self._precision = precision  # of the tangent, (6,)
        # RCS has no unit.
        self._unit = problem.target_power if score is Score.FCS else 1.0

    def model(self, points: NDArray) -> lm.Model:
        """The negative log of the posterior for each sample, and its quadratic model."""
        equations, far = self._problem.equations(points)
        d, overlap = equations.dissimilarity, np.maximum(equations.overlap, 1.0)
        value, slope = _log_likelihood(self._score, np.where(np.isfinite(d), d, self._unit), _ROUNDING * self._unit)
        rotations, shifts = unpack(points)
        turn = Rotation.from_matrix(rotations @ self._start.matrix.T).as_rotvec()
        moved = np.concatenate([turn, shifts - self._start.shift_angstrom], axis=1)  # (p, 6)
        value = value + 0.5 * (self._precision * moved**2).sum(axis=1) / overlap
        # d(x + dx) ~ d - 2 b.dx + dx^T H dx: half a gradient and half a second derivative.
        hessian = slope[:, None, None] * equations.hessian + 0.5 * np.diag(self._precision) / overlap[:, None, None]
        descent = slope[:, None] * equations.descent - 0.5 * self._precision * moved / overlap[:, None]
        return np.where(far | ~np.isfinite(d), np.inf, value), hessian, descent


def _log_likelihood(
    score: Score, d: NDArray[np.float64], floor: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The negative log likelihood for each sample, and its derivative by the dissimilarity; flat below ``floor``."""
    if score is Score.FCS:
        return np.log(np.maximum(d, floor)), 1.0 / np.maximum(d, floor)
    # Below MIN_CONTRAST the curve goes on as a straight line, so that a negative correlation still points uphill.
    c = 1.0 - d / 2.0
    bent = np.clip(c, MIN_CONTRAST, 1.0)
    rest = np.maximum(1.0 - bent**2, floor)
    return np.log(rest) - 2.0 * bent / rest * (c - bent), bent / rest
