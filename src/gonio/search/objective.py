"""The pose problem as the optimiser sees it: points, model, retraction and length.

Owns how a pose is written as a point (12 numbers: R by rows, then t in angstrom), in which directions and how far it
may move, and what is added to a dissimilarity when some poses are less likely than others (docs/theory.md eq. 16). Must
not know which points a search tries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.comparison.score import CODES, Comparison, Score
from gonio.kernels import model, pool, pose_refinement
from gonio.particle.pose import Pose, anchors, moved_along
from gonio.search import levenberg_marquardt as lm
from gonio.settings import Schedule

__all__ = [
    "AxisPrior",
    "Cone",
    "PoseProblem",
    "Prior",
    "StartPrior",
    "pack",
    "poses_of",
    "prior_model",
    "signature",
    "unpack",
    "with_moving_overlap",
]

# Half of the difference that a derivative with a moving overlap is taken over: a sample's width at the rim of the
# sphere of four voxels' detail in a box of 32. Shorter ones see single samples enter and leave, as jumps.
MOVING_STEP_RAD = np.radians(2.0)


def pack(rotations: NDArray, shifts: NDArray) -> NDArray[np.float64]:
    """Points (p, 12) of rotation matrices (p, 3, 3) and shifts (p, 3) in angstrom."""
    return np.concatenate([rotations.reshape(-1, 9), shifts], axis=1)  # (p, 12)


def unpack(points: NDArray) -> tuple[NDArray, NDArray]:
    """The inverse of ``pack``."""
    return points[:, :9].reshape(-1, 3, 3), points[:, 9:]  # (p, 3, 3), (p, 3)


def poses_of(points: NDArray) -> Pose:
    """Points (p, 12) as a batch of p poses."""
    quaternions = np.empty((len(points), 4))
    pose_refinement.quaternions(np.ascontiguousarray(points), quaternions)
    return Pose(Rotation.from_quat(quaternions), points[:, 9:])


def signature(points: NDArray, voxel_size_angstrom: float) -> NDArray[np.float64]:
    """What the paper's eq. 12 measures distances between, shape (p, 9), with shifts in voxels."""
    rotations, shifts = unpack(points)
    return anchors(rotations, shifts / voxel_size_angstrom).reshape(len(points), 9)


@dataclass(frozen=True)
class Cone:
    """Rotations within ``half_angle`` (radians) of ``centre`` (3, 3)."""

    centre: NDArray[np.float64]
    half_angle: float


class Prior(Protocol):
    """The negative logarithm of how probable poses are before any data."""

    @property
    def kind(self) -> int:
        """Which of the kernels' priors (``kernels.model``)."""
        ...

    @property
    def numbers(self) -> NDArray[np.float64]:
        """What describes it to the kernel."""
        ...


@dataclass(frozen=True)
class StartPrior:
    """Poses near a start: a Gaussian of ``precision`` (6,), in the tangent's units, about ``start``."""

    start: Pose
    precision: NDArray[np.float64]
    kind: ClassVar[int] = model.START_PRIOR

    @property
    def numbers(self) -> NDArray[np.float64]:
        """Rotation by rows, shift, precision."""
        return np.concatenate([self.start.matrix.ravel(), self.start.shift_angstrom, self.precision])


@dataclass(frozen=True)
class AxisPrior:
    """Normals near one another: a Gaussian of the angle between the target's and the reference's turned to it.

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


def prior_model(prior: Prior, points: NDArray[np.float64]) -> lm.Model:
    """At points (p, 12): value (p,), second derivative (p, 6, 6), minus the gradient (p, 6)."""
    count = len(points)
    value, hessian, descent = np.empty(count), np.empty((count, 6, 6)), np.empty((count, 6))
    model.priors(prior.kind, prior.numbers, np.ascontiguousarray(points), value, hessian, descent)
    return value, hessian, descent


class PoseProblem:
    """A comparison as the optimiser sees it: model, retraction and length, in a ball of allowed shifts.

    With a prior it is the most probable pose that is sought: minimised is, over N, the negative log of the posterior
    (docs/theory.md eq. 16). The noise variance and, for RCS, the contrast that fit best are put in, which leaves
    N ln(1 - c^2) for RCS and N ln d for FCS; the likelihood ratio is itself of that kind. N is the number of samples
    that tell something of their own, |Omega| over ``samples_per_independent``.

    Parameters
    ----------
    comparison
        What is minimised.
    directions
        (6, k), the tangents that may be used: all six, or one turn and three shifts about an axis.
    shift_centre_angstrom, max_shift_angstrom
        The ball of shifts. Seeds lie on whole voxels inside it; the refinement may leave it by one.
    radius_angstrom, tolerance_angstrom
        A refinement ends when the particle's surface, at the radius, moves by less than the tolerance.
    cone
        Rotations that are allowed, or None for all.
    prior
        What is likelier, or None.
    samples per independent sample
        How many samples there are for each one that says something of its own.
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
        self._directions = np.ascontiguousarray(directions, dtype=np.float64)
        self._radius = radius_angstrom
        self._tolerance = tolerance_angstrom
        score = comparison.score
        self.landscape = pose_refinement.Landscape(
            score=CODES[score],
            unit=float(comparison.unit),
            phase=float(comparison.phase),
            least=float(comparison.least),
            directions=self._directions,
            centre=np.array(shift_centre_angstrom, dtype=np.float64),
            max_shift=float(max_shift_angstrom + comparison.target.voxel_size_angstrom),
            cone_centre=np.eye(3) if cone is None else np.array(cone.centre, dtype=np.float64),
            cone_cosine=-2.0 if cone is None else float(np.cos(min(cone.half_angle, np.pi)) - 1e-9),
            prior=model.NO_PRIOR if prior is None else prior.kind,
            prior_numbers=np.zeros(0) if prior is None else np.ascontiguousarray(prior.numbers),
            samples_per_independent=float(samples_per_independent),
            # RCS has no unit.
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
        """As the optimiser takes it."""
        return lm.Problem(
            self.model, self.retract, self.length, self._tolerance, self.advance, self.explore, self.noise
        )

    def model(self, points: NDArray) -> lm.Model:
        """What is minimised at points (p, 12) and its quadratic model along the directions; infinite outside."""
        count, k = len(points), self._directions.shape[1]
        value, hessian, descent = np.empty(count), np.empty((count, k, k)), np.empty((count, k))
        points = np.ascontiguousarray(points, dtype=np.float64)
        pose_refinement.evaluate(*self._pair, self.landscape, points, value, hessian, descent)
        return value, hessian, descent

    def noise(self, points: NDArray) -> NDArray[np.float64]:
        """What the values at points (p, 12) are known to, (p,)."""
        known = np.empty(len(points))
        pose_refinement.noises(*self._pair, self.landscape, np.ascontiguousarray(points, dtype=np.float64), known)
        return known

    def advance(self, state: lm.State, rows: NDArray[np.int64], n_steps: int) -> None:
        """Up to ``n_steps`` steps of some rows of a state, in place."""
        pose_refinement.refine(
            *self._pair,
            self.landscape,
            rows,
            n_steps,
            *state.arrays,
        )

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
        """``kernels.pool.explore`` on this pair, for signatures as in ``signature``."""
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

    def retract(self, points: NDArray, steps: NDArray) -> NDArray:
        """Points moved along steps (p, k)."""
        return pack(*moved_along(*unpack(points), steps @ self._directions.T))

    def length(self, steps: NDArray) -> NDArray:
        """How far a step moves the particle's surface at most, angstrom, shape (p,)."""
        tangent = steps @ self._directions.T
        return np.linalg.norm(tangent[:, :3], axis=1) * self._radius + np.linalg.norm(tangent[:, 3:], axis=1)

    @property
    def _pair(self) -> tuple:
        return self.comparison.reference.kernel, self.comparison.samples


def with_moving_overlap(problem: lm.Problem, *, step_rad: float = MOVING_STEP_RAD) -> lm.Problem:
    """The problem with rotation gradients of what its values do: Omega moves with the pose (docs/theory.md section 15).

    Analytic derivatives hold Omega, and leave out what the samples bring that enter and leave it. Here rotations have a
    central difference over ``step_rad`` to either side; shifts, which do not move Omega, and second derivatives stay.
    It has no compiled loop.
    """

    def model(points: NDArray[np.float64]) -> lm.Model:
        value, hessian, descent = problem.model(points)
        for turn in range(descent.shape[1] - 3):  # tangents begin with their rotations
            step = np.zeros((len(points), descent.shape[1]))
            step[:, turn] = step_rad
            ahead, behind = (problem.model(problem.retract(points, sign * step))[0] for sign in (1.0, -1.0))
            with np.errstate(invalid="ignore"):  # outside the ball of shifts all are infinite
                moving = -(ahead - behind) / (4.0 * step_rad)  # b is minus half of the gradient
            descent[:, turn] = np.where(np.isfinite(moving), moving, descent[:, turn])
        return value, hessian, descent

    return lm.Problem(model, problem.retract, problem.length, problem.tolerance, noise=problem.noise)
