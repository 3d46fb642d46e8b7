"""Bundle adjustment of one tomogram: tilts, poses and contrasts refined together by Levenberg-Marquardt.

With x the parameters of all tilts and y_j those of particle j, every image is a function of its tilt and its particle
alone, so that the second derivatives of -ln(posterior) are (docs/theory.md section 17)

    | U    W_j |        U block diagonal, 13 x 13 for each tilt; W_j 13 x 7 for each image; V_j 7 x 7
    | W_j' V_j |

and particles are eliminated one by one:

    S dx = g - sum_j W_j V_j^-1 g_j,     S = U - sum_j W_j V_j^-1 W_j',     dy_j = V_j^-1 (g_j - W_j' dx)

S is dense and small, some 6 rows for each tilt, and its inverse is the covariance of the tilts, marginal over poses and
contrasts. Blocks of a particle are made when it is read, and only W_j, V_j and g_j are kept. A rotation or shift of all
tilts that the particles follow changes nothing in any image, nor does a deformation of the whole specimen, linear in x
and y, but for the defocus: this gauge is fixed by the priors, whose weighted mean along each of these six or twelve
directions is zero (``Gauge``). Must not know files, nor where references come from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.comparison.tilt_images import ASTIGMATISM, DEFORMATION, POSE, TILT, TiltImages
from gonio.fourier.fourier_volume import FourierVolume
from gonio.kernels.marquardt import FIRST_DAMPING, FIRST_GROWTH, MAX_DAMPING, MAX_GROWTH, MIN_DAMPING
from gonio.particle.pose import Pose
from gonio.settings import TiltPriors

Floats = NDArray[np.float64]

# A step that is predicted to raise the log of the posterior by less is the last: it moves the parameters by less than a
# fifth of their standard deviation, all of them together.
LAST_GAIN = 0.02
MAX_STEPS = 40
# Fewer values of a parameter than this, of all tilts, do not count as determined by the data.
LEAST_DETERMINED = 1e-6
# Standard deviations of the priors of tilts are estimated from the tilts, so many times unless they change by less than
# a tenth; at least this fraction of those given, and at most these.
SD_ROUNDS, SD_SETTLED, LEAST_SD = 4, 0.1, 0.02


@dataclass(frozen=True)
class BundleState:
    """Parameters of t tilts (t, 13), in the order of ``comparison.tilt_images``, and of m particles."""

    tilts: Floats
    poses: Pose
    contrasts: Floats


@dataclass(frozen=True)
class Bundle:
    """The images of the m particles of one tomogram, and what they are compared with.

    Parameters
    ----------
    images
        Returns the images of a particle; called once for each at every evaluation.
    references
        The reference of each particle: the map of its own half.
    tilts
        Number of tilts of the series.
    start
        Poses that the priors are about, a batch of m.
    shown
        Particles whose reference shows in them, (m,), with a contrast about one; others are left out.
    active
        Which of a tilt's parameters are refined, (13,).
    priors
        Standard deviations of the priors of poses and contrasts.
    tilt_sd
        Those of the priors of a tilt's parameters, (13,).
    """

    images: Callable[[int], TiltImages]
    references: Sequence[FourierVolume]
    tilts: int
    start: Pose
    shown: NDArray[np.bool_]
    active: NDArray[np.bool_]
    priors: TiltPriors
    tilt_sd: Floats

    @property
    def precision(self) -> Floats:
        """One over the variance of the prior of each parameter of a tilt, (13,)."""
        return 1.0 / self.tilt_sd**2


@dataclass(frozen=True)
class Adjusted:
    """State in which an adjustment ended.

    ``value`` is -ln of the posterior, without a constant, before the first step and after the last; ``hessian`` the
    Schur complement S of the active parameters of all tilts, prior included, (t a, t a).
    """

    state: BundleState
    before: float
    value: float
    hessian: Floats
    steps: int
    converged: bool


@dataclass(frozen=True)
class _Equations:
    """Normal equations at a state, with priors: U (t, a, a) and g (t, a); of m particles W, V and g.

    ``mixed`` is (m, t, a, 7), zeros where a stack lacks a tilt, ``pose`` (m, 7, 7) and ``pose_descent`` (m, 7).
    """

    value: float
    tilt: Floats
    descent: Floats
    mixed: Floats
    pose: Floats
    pose_descent: Floats

    def step(self, damping: float) -> tuple[Floats, Floats, Floats, float]:
        """Return steps of tilts (t, a) and particles (m, 7), the Schur complement, and the predicted gain."""
        count, a = self.descent.shape
        mixed = self.mixed.reshape(-1, count * a, POSE)  # (m, t a, 7)
        inverse = np.linalg.inv(_damped(self.pose, damping))  # (m, 7, 7)
        follow = mixed @ inverse
        diagonal = scipy.linalg.block_diag(*_damped(self.tilt, damping))
        schur = diagonal - np.tensordot(follow, mixed, axes=((0, 2), (0, 2)))
        right = self.descent.ravel() - np.tensordot(follow, self.pose_descent, axes=((0, 2), (0, 1)))
        moved = scipy.linalg.cho_solve(scipy.linalg.cho_factor(schur), right) if a else right
        crossed = moved @ mixed  # (m, 7)
        steps = ((self.pose_descent - crossed)[:, None] @ inverse)[:, 0]
        gain = float((self.pose_descent * steps).sum() - 0.5 * np.einsum("mp,mpq,mq->", steps, self.pose, steps))
        gain -= float((crossed * steps).sum())
        moved = moved.reshape(count, a)
        gain += float((self.descent * moved).sum() - 0.5 * np.einsum("ta,tab,tb->", moved, self.tilt, moved))
        return moved, steps, schur, gain


def adjusted(bundle: Bundle, state: BundleState, *, max_steps: int = MAX_STEPS) -> Adjusted:
    """Refine tilts, poses and contrasts until no step raises the posterior by a noticeable amount.

    Damping is Nielsen's (``search.levenberg_marquardt``), one factor for all blocks.
    """
    here, damping, growth = _equations(bundle, state), FIRST_DAMPING, FIRST_GROWTH
    before, converged, taken = here.value, False, 0
    while taken < max_steps and not converged and damping < MAX_DAMPING:
        moved, steps, _, predicted = here.step(damping)
        if predicted < LAST_GAIN and damping <= FIRST_DAMPING:
            converged = True
            break
        trial = _moved(bundle, state, moved, steps)
        there, taken = _equations(bundle, trial), taken + 1
        gain = (here.value - there.value) / max(predicted, 1e-300)
        if gain > 0.0:
            damping = max(damping * max(1.0 / 3.0, 1.0 - (2.0 * gain - 1.0) ** 3), MIN_DAMPING)
            state, here, growth = trial, there, FIRST_GROWTH
            continue
        converged = predicted < LAST_GAIN  # below what sums of float32 resolve
        damping, growth = damping * growth, min(2.0 * growth, MAX_GROWTH)
    return Adjusted(state, before, here.value, here.step(0.0)[2], taken, converged)


def _damped(matrix: Floats, damping: float) -> Floats:
    """Return H + damping diag H of matrices (..., k, k)."""
    return np.asarray(matrix * (1.0 + damping * np.eye(matrix.shape[-1])))


def _moved(bundle: Bundle, state: BundleState, moved: Floats, steps: Floats) -> BundleState:
    tilts = state.tilts.copy()
    tilts[:, bundle.active] += moved
    return BundleState(tilts, state.poses.retract(steps[:, :6]), state.contrasts + steps[:, 6])


def _equations(bundle: Bundle, state: BundleState) -> _Equations:
    """Read every particle once, and sum up its blocks."""
    active = bundle.active
    a = int(active.sum())
    precision = bundle.precision[active]
    tilt = np.tile(np.diag(precision), (bundle.tilts, 1, 1))
    descent = -precision * state.tilts[:, active]
    value = 0.5 * float((precision * state.tilts[:, active] ** 2).sum())
    count = len(bundle.references)
    mixed = np.zeros((count, bundle.tilts, a, POSE))
    pose, pose_descent = np.tile(np.eye(POSE), (count, 1, 1)), np.zeros((count, POSE))
    for j in np.flatnonzero(bundle.shown).tolist():
        images, here = bundle.images(j), state.poses[j]
        blocks = images.blocks(
            bundle.references[j], state.tilts[images.tilts], here.matrix, here.shift_angstrom,
            float(state.contrasts[j]), astigmatism=bool(active[ASTIGMATISM].any()),
        )  # fmt: skip
        tilt[images.tilts] += blocks.tilt[:, active][:, :, active]
        descent[images.tilts] += blocks.tilt_descent[:, active]
        prior = _prior_of(bundle, state, j)
        value += blocks.value + prior[0]
        mixed[j, images.tilts] = blocks.mixed[:, active]
        pose[j], pose_descent[j] = blocks.pose + prior[1], blocks.pose_descent + prior[2]
    return _Equations(value, tilt, descent, mixed, pose, pose_descent)


def _prior_of(bundle: Bundle, state: BundleState, j: int) -> tuple[float, Floats, Floats]:
    """Return -ln of the prior of a particle's pose and contrast, its curvature (7, 7) and minus its slope (7,)."""
    pose, start = state.poses[j], bundle.start[j]
    turn = (pose.rotation * start.rotation.inv()).as_rotvec()
    away = np.concatenate([turn, pose.shift_angstrom - start.shift_angstrom, [state.contrasts[j] - 1.0]])
    precision = 1.0 / np.append(bundle.priors.pose_sd, bundle.priors.particle_contrast_sd) ** 2
    return 0.5 * float(precision @ away**2), np.diag(precision), -precision * away


@dataclass(frozen=True)
class Gauge:
    """The directions in which tilts may move without any image changing, the particles moving along.

    ``directions`` (t, 13, 6 or 12): a shift T of the specimen, xyz in the tomogram's frame, moves image i by A_i T and
    its defocus by h (A_i T)_z, particles by -T; a rotation Omega turns tilt i by -det(A_i) A_i Omega, particles by
    Omega. Where the field's deformation is refined, a deformation T (3 x 2) of the specimen adds (A_i T)_xy to that of
    image i, and moves particles by -T (x, y); the defocus it changes, by some angstrom times h, is left as it is.
    """

    directions: Floats
    precision: Floats

    @staticmethod
    def of(
        projections: Floats, axes: Floats, defocus_per_depth: float, precision: Floats, *, deformation: bool = False
    ) -> Gauge:
        """Return the gauge of tilts of full projections and axes, both (t, 3, 3), and the priors' precision (13,)."""
        count = len(projections)
        directions = np.zeros((count, TILT, 12 if deformation else 6))
        directions[:, 0:2, :3] = projections[:, :2]
        directions[:, 5, :3] = defocus_per_depth * projections[:, 2]
        handed = np.linalg.det(projections)[:, None, None]  # -1 where an image shows a mirrored specimen
        directions[:, 2:5, 3:6] = -handed * np.swapaxes(axes, 1, 2) @ projections
        if deformation:
            directions[:, DEFORMATION, 6:] = np.kron(projections[:, :2], np.eye(2))
        return Gauge(directions, precision)

    def components(self, tilts: Floats, active: NDArray[np.bool_]) -> Floats:
        """Return how far tilts (t, 13) have moved along each direction, in the metric of the priors, (6 or 12,)."""
        flat, weight = self._flat(active)
        return np.asarray(
            np.linalg.solve(flat.T @ (weight[:, None] * flat), flat.T @ (weight * tilts[:, active].ravel()))
        )

    def fixed(self, tilts: Floats, active: NDArray[np.bool_]) -> Floats:
        """Return tilts (t, 13) without their part along the gauge."""
        flat, _ = self._flat(active)
        result = tilts.copy()
        result[:, active] -= (flat @ self.components(tilts, active)).reshape(len(tilts), -1)
        return result

    def covariance(self, hessian: Floats, active: NDArray[np.bool_]) -> Floats:
        """Return the covariance of the active parameters in this gauge, from their Schur complement, (t a, t a)."""
        flat, weight = self._flat(active)
        along = np.linalg.solve(flat.T @ (weight[:, None] * flat), flat.T * weight)  # (6 or 12, t a)
        projector = np.eye(len(flat)) - flat @ along
        inverse = scipy.linalg.cho_solve(scipy.linalg.cho_factor(hessian), np.eye(len(flat)))
        return np.asarray(projector @ inverse @ projector.T)

    def sd(self, active: NDArray[np.bool_], hessian: Floats) -> Floats:
        """Return the standard deviations of tilts in this gauge, (t, 13); of those not active that of the prior."""
        covariance = self.covariance(hessian, active)
        result = np.tile(1.0 / np.sqrt(self.precision), (len(self.directions), 1))
        result[:, active] = np.sqrt(np.maximum(np.diag(covariance), 0.0)).reshape(len(result), -1)
        return result

    def estimated_sd(self, found: Adjusted, active: NDArray[np.bool_]) -> Floats:
        """Return the standard deviations of the priors that make the data of an adjustment most probable, (13,).

        They are MacKay's fixed point (Neural Computation 4, 415, 1992; docs/theory.md section 17): of each parameter
        the sum of squares over all tilts, for each of the values that the data determine. Near zero of these it is no
        estimate, and stays near what it was.
        """
        prior = self.sd(active, np.diag(self._flat(active)[1]))
        left = self.sd(active, found.hessian) ** 2 / prior**2
        determined = np.maximum((1.0 - left[:, active]).sum(axis=0), LEAST_DETERMINED)
        result = 1.0 / np.sqrt(self.precision)
        result[active] = np.sqrt((self.fixed(found.state.tilts, active)[:, active] ** 2).sum(axis=0) / determined)
        return result

    def _flat(self, active: NDArray[np.bool_]) -> tuple[Floats, Floats]:
        count = len(self.directions)
        return self.directions[:, active].reshape(-1, self.directions.shape[2]), np.tile(self.precision[active], count)


def adjusted_with_priors(bundle: Bundle, state: BundleState, gauge: Gauge) -> tuple[Adjusted, Floats]:
    """Adjust with priors of tilts as wide as the tilts found suggest, until these settle.

    ``gauge`` has the widest. Returned are the last adjustment, and the standard deviations it was made with, (13,).
    """
    found, most = adjusted(bundle, state), 1.0 / np.sqrt(gauge.precision)
    for _ in range(SD_ROUNDS if bundle.shown.any() else 0):
        tilt_sd = replace(gauge, precision=bundle.precision).estimated_sd(found, bundle.active)
        tilt_sd = np.clip(tilt_sd, LEAST_SD * most, most)
        if np.abs(np.log(tilt_sd / bundle.tilt_sd)).max() < SD_SETTLED:
            break
        bundle = replace(bundle, tilt_sd=tilt_sd)
        again = adjusted(bundle, found.state)
        found = replace(again, before=found.before, steps=found.steps + again.steps)
    return found, bundle.tilt_sd


def in_gauge(
    state: BundleState,
    gauge: Gauge,
    active: NDArray[np.bool_],
    *,
    places_angstrom: Floats,
    sense: Floats,
    half_field_angstrom: float = 1.0,
) -> BundleState:
    """Return the state of the same images whose tilts are in the gauge: the particles move along.

    ``places_angstrom`` (m, 3) are the particles' boxes from the tomogram's centre, and ``sense`` (m, 3) the diagonals
    of the mirrors between their frames and the tomogram's; ``half_field_angstrom`` is the unit of the field's places.
    """
    components = gauge.components(state.tilts, active)
    shift, turn = components[:3], components[3:6]
    if len(components) > 6:
        shift = shift + places_angstrom[:, :2] / half_field_angstrom @ components[6:].reshape(3, 2).T  # (m, 3)
    rotation = Rotation.from_rotvec(-sense.prod(axis=1, keepdims=True) * sense * turn)
    places = places_angstrom * sense
    moved = rotation.apply(places + state.poses.shift_angstrom) + sense * shift - places
    return replace(state, tilts=gauge.fixed(state.tilts, active), poses=Pose(rotation * state.poses.rotation, moved))
