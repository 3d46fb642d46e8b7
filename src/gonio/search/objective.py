"""The pose problem as the optimiser sees it: points, model, retraction and length.

Owns how a pose is written as a point (12 numbers: R by rows, then t in angstrom), in which directions and how far it
may move, and what a prior adds to a dissimilarity (docs/theory.md eq. 16). Must not know which points a search tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.comparison.score import CODES, Comparison, Score
from gonio.kernels import model, pool, pose_refinement
from gonio.particle.pose import Pose, anchors, moved_along
from gonio.search import levenberg_marquardt as lm
from gonio.settings import Schedule

# Half of the interval of the central difference with a moving overlap: the width of a sample at the limit of four
# voxels' detail in a box of 32. Over shorter ones single samples enter and leave the overlap, which shows as jumps.
MOVING_STEP_RAD = np.radians(2.0)


def pack(rotations: NDArray[np.floating], shifts: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return points (p, 12) of rotation matrices (p, 3, 3) and shifts (p, 3) in angstrom."""
    return np.concatenate([rotations.reshape(-1, 9), shifts], axis=1)  # (p, 12)


def unpack(points: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the rotations (p, 3, 3) and shifts (p, 3) of points, the inverse of ``pack``."""
    return points[:, :9].reshape(-1, 3, 3), points[:, 9:]  # (p, 3, 3), (p, 3)


def poses_of(points: NDArray[np.float64]) -> Pose:
    """Return points (p, 12) as a batch of p poses."""
    quaternions = np.empty((len(points), 4))
    pose_refinement.quaternions(np.ascontiguousarray(points), quaternions)
    return Pose(Rotation.from_quat(quaternions), points[:, 9:])


def signature(points: NDArray[np.float64], voxel_size_angstrom: float) -> NDArray[np.float64]:
    """Return the vectors (p, 9) between which the paper's eq. 12 measures distances, with shifts in voxels."""
    rotations, shifts = unpack(points)
    return anchors(rotations, shifts / voxel_size_angstrom).reshape(len(points), 9)


@dataclass(frozen=True)
class Cone:
    """Rotations within ``half_angle`` (radians) of ``centre`` (3, 3)."""

    centre: NDArray[np.float64]
    half_angle: float


@dataclass(frozen=True)
class StartPrior:
    """Gaussian prior about ``start``, of ``precision`` (6,) in the tangent's units."""

    start: Pose
    precision: NDArray[np.float64]
    kind: ClassVar[int] = model.START_PRIOR

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Rotation by rows, shift, precision."""
        return np.concatenate([self.start.matrix.ravel(), self.start.shift_angstrom, self.precision])


@dataclass(frozen=True)
class AxisPrior:
    """Gaussian prior on the angle between the target's normal and the rotated normal of the reference.

    ``sd`` is in radians; the normals are unit vectors.
    """

    target_normal_xyz: NDArray[np.float64]
    reference_normal_xyz: NDArray[np.float64]
    sd: float
    kind: ClassVar[int] = model.AXIS_PRIOR

    @property
    def numbers(self) -> NDArray[np.float64]:
        """The normals and the standard deviation."""
        return np.array([*self.target_normal_xyz, *self.reference_normal_xyz, self.sd])


# The negative logarithm of how probable poses are before any data: its ``kind`` in ``kernels.model``, and its numbers.
Prior = StartPrior | AxisPrior


def prior_model(prior: Prior, points: NDArray[np.float64]) -> lm.Model:
    """Return a prior's value (p,), second derivative (p, 6, 6) and negative gradient (p, 6) at points (p, 12)."""
    count = len(points)
    value, hessian, descent = np.empty(count), np.empty((count, 6, 6)), np.empty((count, 6))
    model.priors(prior.kind, prior.numbers, np.ascontiguousarray(points), value, hessian, descent)
    return value, hessian, descent


class PoseProblem:
    """A comparison as the optimiser sees it: model, retraction and length, in a ball of allowed shifts.

    With a prior the search is for the most probable pose: it minimises the negative log-posterior divided by N
    (docs/theory.md eq. 16). The best noise variance and, for RCS, the best contrast are inserted, which leaves
    N ln(1 - c^2) for RCS and N ln d for FCS; the likelihood ratio already has this form. N is the number of independent
    samples, |Omega| over ``samples_per_independent``.

    Parameters
    ----------
    comparison
        Dissimilarity to minimise.
    directions
        Allowed tangents, (6, k): all six, or one rotation about an axis and three shifts.
    shift_centre_angstrom, max_shift_angstrom
        Ball of allowed shifts. Seeds lie on whole voxels inside it; the refinement may leave it by one voxel.
    radius_angstrom, tolerance_angstrom
        A refinement ends when the particle's surface, at the radius, moves by less than the tolerance.
    cone
        Allowed rotations, or None for all.
    prior
        Prior on poses, or None.
    samples_per_independent
        Samples per independent sample.
    """

    def __init__(
        self,
        comparison: Comparison,
        *,
        directions: NDArray[np.float64],
        shift_centre_angstrom: NDArray[np.float64],
        max_shift_angstrom: float,
        radius_angstrom: float,
        tolerance_angstrom: float,
        cone: Cone | None = None,
        prior: Prior | None = None,
        samples_per_independent: float = 1.0,
    ) -> None:
        self.comparison = comparison
        score = comparison.score
        self.landscape = pose_refinement.Landscape(
            score=CODES[score],
            unit=float(comparison.unit),
            phase=float(comparison.phase),
            least=float(comparison.least),
            directions=np.ascontiguousarray(directions, dtype=np.float64),
            centre=np.array(shift_centre_angstrom, dtype=np.float64),
            max_shift=float(max_shift_angstrom + comparison.target.voxel_size_angstrom),
            cone_centre=np.eye(3) if cone is None else np.array(cone.centre, dtype=np.float64),
            cone_cosine=-2.0 if cone is None else float(np.cos(min(cone.half_angle, np.pi)) - 1e-9),
            prior=model.NO_PRIOR if prior is None else prior.kind,
            prior_numbers=np.zeros(0) if prior is None else np.ascontiguousarray(prior.numbers),
            samples_per_independent=float(samples_per_independent),
            # Only FCS depends on the unit of the samples.
            power=self.target_power if prior is not None and score is Score.FCS else 1.0,
            radius=float(radius_angstrom),
            tolerance=float(tolerance_angstrom),
        )

    @property
    def target_power(self) -> float:
        """Mean square of the target's samples, the unit of FCS."""
        target = self.comparison.target
        return float(np.average(np.abs(target.value) ** 2, weights=target.weight))

    @property
    def problem(self) -> lm.Problem:
        """Problem for the optimiser."""
        return lm.Problem(
            self.model, self.retract, self.length, self.landscape.tolerance, self.advance, self.explore, self.noise
        )

    def model(self, points: NDArray[np.float64]) -> lm.Model:
        """Return the value to minimise at points (p, 12), infinite outside the limits, and its quadratic model."""
        count, k = len(points), self.landscape.directions.shape[1]
        value, hessian, descent = np.empty(count), np.empty((count, k, k)), np.empty((count, k))
        points = np.ascontiguousarray(points, dtype=np.float64)
        pose_refinement.evaluate(*self._pair, self.landscape, points, value, hessian, descent)
        return value, hessian, descent

    def noise(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the rounding error of the values at points (p, 12), (p,)."""
        noise = np.empty(len(points))
        pose_refinement.noises(*self._pair, self.landscape, np.ascontiguousarray(points, dtype=np.float64), noise)
        return noise

    def advance(self, state: lm.State, rows: NDArray[np.int64], n_steps: int) -> None:
        """Take up to ``n_steps`` steps in each of ``rows`` of a state, in place."""
        pose_refinement.refine(*self._pair, self.landscape, rows, n_steps, *state.arrays)

    def explore(
        self,
        state: lm.State,
        schedule: Schedule,
        uniforms: NDArray[np.float64],
        signatures: NDArray[np.float64],
        active: NDArray[np.bool_],
        history: NDArray[np.float64],
        points: NDArray[np.float64],
    ) -> int:
        """Refine drawn candidates (``kernels.pool.explore``) by ``signature``, and return the iterations."""
        return int(
            pool.explore(
                *self._pair,
                self.landscape,
                float(self.comparison.target.voxel_size_angstrom),
                schedule.draw_contrast,
                schedule.duplicate_distance,
                schedule.regression_window,
                schedule.regression_tolerance,
                uniforms,
                *state.arrays,
                signatures,
                active,
                history,
                points,
            )
        )

    def retract(self, points: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return points moved along steps (p, k)."""
        return pack(*moved_along(*unpack(points), steps @ self.landscape.directions.T))

    def length(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return how far at most each step moves the particle's surface, (p,), in angstrom."""
        tangent = steps @ self.landscape.directions.T
        return np.asarray(
            np.linalg.norm(tangent[:, :3], axis=1) * self.landscape.radius + np.linalg.norm(tangent[:, 3:], axis=1)
        )

    @property
    def _pair(self) -> tuple[Any, ...]:
        return self.comparison.reference.kernel, self.comparison.samples


def with_moving_overlap(problem: lm.Problem, *, step_rad: float = MOVING_STEP_RAD) -> lm.Problem:
    """Return the problem with rotation gradients in which Omega moves with the pose (docs/theory.md section 15).

    Analytic derivatives keep Omega fixed, and neglect the samples that enter and leave it. Here rotations have a
    central difference over ``step_rad`` to either side; derivatives by shifts, which do not move Omega, and second
    derivatives are unchanged. It has no compiled loop.
    """

    def model(points: NDArray[np.float64]) -> lm.Model:
        value, hessian, descent = problem.model(points)
        for axis in range(descent.shape[1] - 3):  # rotations come first in a tangent
            step = np.zeros((len(points), descent.shape[1]))
            step[:, axis] = step_rad
            ahead, behind = (problem.model(problem.retract(points, sign * step))[0] for sign in (1.0, -1.0))
            with np.errstate(invalid="ignore"):  # outside the ball of shifts all values are infinite
                moving = -(ahead - behind) / (4.0 * step_rad)  # b is minus half of the gradient
            descent[:, axis] = np.where(np.isfinite(moving), moving, descent[:, axis])
        return value, hessian, descent

    return lm.Problem(model, problem.retract, problem.length, problem.tolerance, noise=problem.noise)
