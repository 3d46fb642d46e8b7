"""The pose problem as the optimiser sees it: points, model, retraction and length.

Owns how a pose is written as a point (12 numbers: R by rows, then t in angstrom), in which directions and how far it
may move, and what is added to a dissimilarity when some poses are less likely than others (docs/theory.md eq. 16). Must
not know which points a search tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio import lm
from gonio.pose import Pose, anchors, moved_along
from gonio.score import LIKELIHOOD_ROOT, MIN_CONTRAST, Comparison, NormalEquations, Score
from gonio.symmetry import Symmetry

__all__ = [
    "AxisPrior",
    "Cone",
    "PoseProblem",
    "Prior",
    "PriorProblem",
    "StartPrior",
    "pack",
    "poses_of",
    "signature",
    "signatures",
    "unpack",
]

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


def signatures(points: NDArray, voxel_size_angstrom: float, symmetry: Symmetry) -> NDArray[np.float64]:
    """The same for every pose that the reference's symmetry makes equal, shape (p, order, 9)."""
    rotations, shifts = unpack(points)
    every = symmetry.equivalents(rotations)  # (p, order, 3, 3)
    return anchors(every, (shifts / voxel_size_angstrom)[:, None]).reshape(*every.shape[:2], 9)


@dataclass(frozen=True)
class Cone:
    """Rotations within ``half_angle`` (radians) of ``centre`` (3, 3)."""

    centre: NDArray[np.float64]
    half_angle: float

    def outside(self, rotations: NDArray) -> NDArray[np.bool_]:
        """Which of the rotations (p, 3, 3) are further away; their angle has the cosine (trace - 1) / 2."""
        trace = np.einsum("pij,ij->p", rotations, self.centre)
        return np.asarray((trace - 1.0) / 2.0 < np.cos(min(self.half_angle, np.pi)) - 1e-9)


class PoseProblem:
    """A comparison as the optimiser sees it: model, retraction and length, in a ball of allowed shifts.

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
        cone: Cone | None = None,
    ) -> None:
        self._comparison = comparison
        self.directions = directions
        self._centre = shift_centre_angstrom
        self._cone = cone
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
        if self._cone is not None:
            far |= self._cone.outside(rotations)
        return self._comparison.normal_equations(rotations, shifts), far

    def model(self, points: NDArray) -> lm.Model:
        """The dissimilarity and its quadratic model along the directions; infinite outside the box."""
        equations, far = self.equations(points)
        b = self.directions
        hessian = np.einsum("ia,pij,jb->pab", b, equations.hessian, b)
        return np.where(far, np.inf, equations.dissimilarity), hessian, equations.descent @ b

    def retract(self, points: NDArray, steps: NDArray) -> NDArray:
        """Points moved along steps (p, k)."""
        return pack(*moved_along(*unpack(points), steps @ self.directions.T))

    def length(self, steps: NDArray) -> NDArray:
        """How far a step moves the particle's surface at most, angstrom, shape (p,)."""
        tangent = steps @ self.directions.T
        return np.linalg.norm(tangent[:, :3], axis=1) * self._radius + np.linalg.norm(tangent[:, 3:], axis=1)


class Prior(Protocol):
    """The negative logarithm of how probable poses are before any data, and its quadratic model along tangents."""

    def model(self, points: NDArray) -> lm.Model:
        """At points (p, 12): value (p,), second derivative (p, 6, 6), minus the gradient (p, 6)."""
        ...


@dataclass(frozen=True)
class StartPrior:
    """Poses near a start: a Gaussian of ``precision`` (6,), in the tangent's units, about ``start``."""

    start: Pose
    precision: NDArray[np.float64]

    def model(self, points: NDArray) -> lm.Model:
        """Half the squared distance from the start in standard deviations."""
        rotations, shifts = unpack(points)
        turn = Rotation.from_matrix(rotations @ self.start.matrix.T).as_rotvec()
        moved = np.concatenate([turn, shifts - self.start.shift_angstrom], axis=1)  # (p, 6)
        value = 0.5 * (self.precision * moved**2).sum(axis=1)
        return value, np.broadcast_to(np.diag(self.precision), (len(points), 6, 6)), -self.precision * moved


@dataclass(frozen=True)
class AxisPrior:
    """Normals near one another: a Gaussian of the angle between the target's and the reference's turned to it.

    ``sd`` is in radians; the normals are unit vectors.
    """

    target_normal_xyz: NDArray[np.float64]
    reference_normal_xyz: NDArray[np.float64]
    sd: float

    def model(self, points: NDArray) -> lm.Model:
        """Half the squared angle in standard deviations; only turns that change it have a slope."""
        rotations, _ = unpack(points)
        carried = rotations @ self.reference_normal_xyz  # (p, 3)
        across = np.cross(carried, self.target_normal_xyz)  # turning about it brings the normals together
        sine = np.linalg.norm(across, axis=1)
        angle = np.arctan2(sine, carried @ self.target_normal_xyz)
        ratio = np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 1.0)
        descent, hessian = np.zeros((len(points), 6)), np.zeros((len(points), 6, 6))
        descent[:, :3] = ratio[:, None] * across / self.sd**2
        hessian[:, :3, :3] = (np.eye(3) - carried[:, :, None] * carried[:, None, :]) / self.sd**2
        return 0.5 * (angle / self.sd) ** 2, hessian, descent


class PriorProblem:
    """A pose problem with a prior: the most probable pose.

    Minimises, over N, the negative log of the posterior (docs/theory.md eq. 16): the noise variance and, for RCS, the
    contrast that fit best are put in, which leaves N ln(1 - c^2) for RCS and N ln d for FCS; the likelihood ratio is
    itself of that kind. N is the number of samples that tell something of their own, |Omega| over ``crowding``.
    """

    def __init__(self, problem: PoseProblem, prior: Prior, score: Score, *, crowding: float = 1.0) -> None:
        self._problem = problem
        self._prior = prior
        self._score = score
        self._crowding = crowding
        # RCS has no unit.
        self._unit = problem.target_power if score is Score.FCS else 1.0

    def model(self, points: NDArray) -> lm.Model:
        """The negative log of the posterior for each sample, and its quadratic model."""
        equations, far = self._problem.equations(points)
        d, count = equations.dissimilarity, np.maximum(equations.overlap / self._crowding, 1.0)
        finite = np.where(np.isfinite(d), d, self._unit)
        if self._score is Score.LIKELIHOOD:
            # A log likelihood already, of |Omega| samples and divided by |Omega|^(1/4).
            slope = np.maximum(equations.overlap, 1.0) ** (LIKELIHOOD_ROOT - 1.0)
            value = slope * finite
        else:
            value, slope = _log_likelihood(self._score, finite, _ROUNDING * self._unit)
        before, curvature, pull = self._prior.model(points)
        value = value + before / count
        # d(x + dx) ~ d - 2 b.dx + dx^T H dx: half a gradient and half a second derivative.
        hessian = slope[:, None, None] * equations.hessian + 0.5 * curvature / count[:, None, None]
        descent = slope[:, None] * equations.descent + 0.5 * pull / count[:, None]
        b = self._problem.directions
        value = np.where(far | ~np.isfinite(d), np.inf, value)
        return value, np.einsum("ia,pij,jb->pab", b, hessian, b), descent @ b


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
