"""Result of an alignment: the pose, how it was found, its covariance, and the runners-up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.particle.pose import Pose, PoseSample
from gonio.search.levenberg_marquardt import Status


@dataclass(frozen=True)
class History:
    """Smallest dissimilarity after each iteration (i,), and its pose (a batch of i)."""

    dissimilarity: NDArray[np.float64]
    poses: Pose


@dataclass(frozen=True)
class Optimum:
    """A pose at which the dissimilarity has a minimum.

    ``margin`` is the log-likelihood difference to the pose that was chosen (docs/theory.md eq. 30), or, in the paper's
    searches, the difference of their dissimilarities.
    """

    pose: Pose
    dissimilarity: float
    margin: float

    def __post_init__(self) -> None:
        if self.pose.is_batch:
            raise ValueError(f"an optimum has one pose, got a batch of {len(self.pose)}")


def axis_sds(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the standard deviations about any one axis, degrees, and along it, angstrom, of covariances (..., 6, 6).

    They are averages over three axes, as roots of mean squares.
    """
    variance = np.diagonal(covariance, axis1=-2, axis2=-1)  # (..., 6)
    rotation, shift = np.sqrt(variance[..., :3].mean(axis=-1)), np.sqrt(variance[..., 3:].mean(axis=-1))
    return np.degrees(rotation), shift


@dataclass(frozen=True)
class Result:
    """Result of an alignment.

    Attributes
    ----------
    pose
        ``x_target = R x_reference + t``.
    dissimilarity
        Dissimilarity at the pose; infinite when the wedges share nothing there.
    status
        How the refinement ended; ``status.sentence`` states it in words.
    n_iterations
        Levenberg-Marquardt steps over all candidates.
    overlap
        Fraction of the target's measured samples that the reference has measured too, 0 to 1.
    covariance
        Covariance of the pose's tangent (omega in radians, t in angstrom), shape (6, 6); infinite where not known.
    runners_up
        The other optima, the next best first; empty for a local search of a single pose.
    expected_fsc
        Expected FSC of the pair, shell by shell; None for unprocessed inputs.
    history
        One entry for each iteration of a stochastic search, when recorded.
    sampled
        Poses drawn from the posterior and their weights, if requested (``Settings.posterior_poses``) and where they
        differ by more than the comparison resolves; else None.
    """

    pose: Pose
    dissimilarity: float
    status: Status
    n_iterations: int
    overlap: float
    covariance: NDArray[np.float64]
    runners_up: tuple[Optimum, ...] = ()
    expected_fsc: ExpectedFsc | None = None
    history: History | None = None
    sampled: PoseSample | None = None

    def __post_init__(self) -> None:
        if self.pose.is_batch or np.shape(self.covariance) != (6, 6):
            raise ValueError(f"a result has one pose and a covariance (6, 6), got shape {np.shape(self.covariance)}")

    @property
    def rotation_sd_deg(self) -> float:
        """Standard deviation of the rotation about any one axis, on average, degrees."""
        return float(axis_sds(self.covariance)[0])

    @property
    def shift_sd_angstrom(self) -> float:
        """Standard deviation of the shift along any one axis, on average, angstrom."""
        return float(axis_sds(self.covariance)[1])

    def after(self, first: Pose) -> Result:
        """Return the result for a reference that ``first`` aligns to the one it was found with.

        The pose, the runners-up and the history become ``pose @ first``; the covariance follows the tangent, and stays
        infinite where nothing is known.
        """
        tangent = self.pose.tangent_after(first)
        known = bool(np.isfinite(self.covariance).all())
        history = self.history
        return replace(
            self,
            pose=self.pose @ first,
            covariance=tangent @ self.covariance @ tangent.T if known else self.covariance,
            runners_up=tuple(replace(optimum, pose=optimum.pose @ first) for optimum in self.runners_up),
            history=None if history is None else replace(history, poses=history.poses @ first),
            sampled=None if self.sampled is None else self.sampled @ first,
        )

    def __repr__(self) -> str:
        sd = f"sd {self.rotation_sd_deg:.2f} degrees, {self.shift_sd_angstrom:.2f} angstrom"
        return f"Result({self.pose}, dissimilarity {self.dissimilarity:.4f}, {sd}, {self.status.name.lower()})"

    def as_dict(self) -> dict[str, float | int | str]:
        """Return a row of a table: ``pandas.DataFrame(result.as_dict() for result in results)``.

        It holds Euler angles (ZYZ, degrees) and shift (angstrom) of the pose, dissimilarity, standard deviations,
        overlap, margin of the best runner-up (infinite where there is none), iterations and status.
        """
        angles, shift = self.pose.euler_zyz_deg(), self.pose.shift_angstrom
        return {
            **{f"{name}_deg": float(angle) for name, angle in zip(("rot", "tilt", "psi"), angles, strict=True)},
            **{f"shift_{axis}_angstrom": float(t) for axis, t in zip("xyz", shift, strict=True)},
            "dissimilarity": float(self.dissimilarity),
            "rotation_sd_deg": self.rotation_sd_deg,
            "shift_sd_angstrom": self.shift_sd_angstrom,
            "overlap": float(self.overlap),
            "runner_up_margin": float(self.runners_up[0].margin) if self.runners_up else float("inf"),
            "iterations": int(self.n_iterations),
            "status": self.status.name.lower(),
        }
