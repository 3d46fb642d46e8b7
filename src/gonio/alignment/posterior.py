"""Poses drawn from a particle's posterior: soft assignment (docs/theory.md section 16).

    ln L(x) = n / kappa  c(x)^2 / (1 - c_best^2)       of a noise-weighted target, at the scale that fits best
    q(x)    a mixture over the optima: Student's t about each, with the best one's covariance, inflated
    x       drawn from q, weighted by L(x) prior(x) / q(x)

c = 1 - d / 2 is the correlation at a pose, n the samples, kappa the samples per independent sample. Averages at such
poses are those of expectation-maximisation; at the poses that fit best noise adds up to what it was aligned to.
Must not know how optima were found, nor what is averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import Result
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Score
from gonio.particle.pose import Pose, PoseSample
from gonio.search.backend import Backend, Evaluation
from gonio.search.objective import pack
from gonio.search.search_space import Frame
from gonio.settings import Settings

# Poses that are evaluated, degrees of freedom of Student's t, and the inflation of its width. With fewer than 64 poses
# the weights of sharp posteriors rest on a few.
PROPOSED, FREEDOM, INFLATED = 64, 5.0, 1.25
# Fraction of the proposals that is spread evenly over the optima, whatever their likelihoods.
EVEN_FRACTION = 0.2
# Draws with a smaller fraction of the largest weight are not averaged: their insertion takes as long as that of others.
NEGLIGIBLE = 0.03
# A runner-up this much less likely (natural logarithm) does not count.
CERTAIN = 6.0
# Where the best pose is this much likelier than noise (natural logarithm), its covariance is that of the parabola at
# the optimum (docs/theory.md section 16). At 250 to 1000 it underestimates errors of rotations by a tenth
# (docs/refinement.md).
LINEAR = 1000.0
# Squared distance, in variances, up to which a draw belongs to an optimum: in six dimensions one Gaussian draw in a
# thousand is beyond 22.5. A covariance needs at least this many effective draws.
FURTHEST, ENOUGH = 30.0, 12.0
# Largest squared correlation of a pair or a shell: float32 sums are no more precise.
MOST_ALIKE = 1.0 - 1e-4
# Largest standard deviations (degrees, fraction of the finest detail) for which a parabola describes an optimum.
MOST_ROTATION_DEG, MOST_SHIFT_FRACTION = 25.0, 0.5


@dataclass(frozen=True)
class Optima:
    """Result of a search of a noise-weighted pair, and what its posterior depends on besides.

    The likelihood of a pose follows from its RCS.
    """

    result: Result
    pair: Pair
    frame: Frame
    settings: Settings
    rng: np.random.Generator | None

    @property
    def poses(self) -> Pose:
        """Best pose and its runners-up."""
        return Pose.stack([self.result.pose, *(one.pose for one in self.result.runners_up)])

    @property
    def is_open(self) -> bool:
        """True where the posterior may differ from what the result gives."""
        if not np.isfinite(self.result.dissimilarity):
            return False
        wanted = self.settings.posterior_poses or self.settings.score is Score.FCS
        return bool(wanted) or Worth.of(self.pair, self.result.dissimilarity).of_best <= LINEAR

    def proposal(self, sums: NDArray[np.float64]) -> Proposal | None:
        """Draw poses about the optima, from the sums of shells there (j, s, 4); None if only the best can be right."""
        pair, frame, result = self.pair, self.frame, self.result
        worth = Worth.of(pair, float(2.0 - 2.0 * np.sqrt(squared_correlation(sums.sum(axis=1))[0])))
        log_likelihood = worth.log_likelihood(sums)
        detail = pair.target.box * pair.target.voxel_size_angstrom / pair.target.limit
        certain = bool((log_likelihood[1:] < log_likelihood[0] - CERTAIN).all())
        rotation, shift = np.trace(result.covariance[:3, :3]), np.trace(result.covariance[3:, 3:])
        narrow = rotation * frame.radius_angstrom**2 + shift < (self.settings.posterior_resolved * detail) ** 2
        if certain and narrow and worth.of_best > LINEAR:
            return None
        draws = drawn(
            self.poses,
            log_likelihood,
            result.covariance,
            directions=frame.directions,
            most_shift_angstrom=MOST_SHIFT_FRACTION * detail,
            rng=np.random.default_rng(0) if self.rng is None else self.rng,
        )
        return Proposal(draws, worth, bool(certain and narrow))

    def sampled(self, proposal: Proposal, sums: NDArray[np.float64]) -> Result:
        """Return the result with the posterior's covariance and poses, from the sums of shells at draws (p, s, 4)."""
        draws, worth, result = proposal.draws, proposal.worth, self.result
        log_posterior = worth.log_likelihood(sums)
        if self.frame.negative_log_prior is not None:
            log_posterior = log_posterior - self.frame.negative_log_prior(draws.points)
        weight, wanted = draws.weights(log_posterior), self.settings.posterior_poses
        covariance = result.covariance if worth.of_best > LINEAR else covariance_of(draws, weight, result)
        kept = draws.first(weight, wanted) if wanted and not proposal.is_resolved else None
        return replace(result, covariance=covariance, sampled=kept)


@dataclass(frozen=True)
class Proposal:
    """Poses drawn about the optima, and whether the posterior is narrower than what need be resolved."""

    draws: Draws
    worth: Worth
    is_resolved: bool


def with_posteriors(optima: Sequence[Optima], backend: Backend) -> list[Result]:
    """Return results of noise-weighted pairs with covariances and poses from their posteriors.

    The covariance is that of the draws where a pose is so uncertain that the parabola at its optimum underestimates it.
    The poses are kept if ``settings.posterior_poses`` asks for some, unless there is no runner-up that counts and the
    posterior is narrower than ``settings.posterior_resolved`` of the finest detail. Without a generator seed 0 is used.
    """
    results = {place: one.result for place, one in enumerate(optima)}
    evaluated = {place: one for place, one in enumerate(optima) if one.is_open}
    sums = backend.shell_sums([Evaluation.at(one.pair.plain(Score.RCS), one.poses) for one in evaluated.values()])
    proposals = {
        place: proposal
        for (place, one), at_optima in zip(evaluated.items(), sums, strict=True)
        if (proposal := one.proposal(at_optima)) is not None
    }
    drawn_at = [Evaluation(optima[place].pair.plain(Score.RCS), one.draws.points) for place, one in proposals.items()]
    for (place, proposal), at_draws in zip(proposals.items(), backend.shell_sums(drawn_at), strict=True):
        results[place] = optima[place].sampled(proposal, at_draws)
    return list(results.values())


def covariance_of(draws: Draws, weight: NDArray[np.float64], result: Result) -> NDArray[np.float64]:
    """Return the weighted covariance (6, 6) of the draws about the best optimum; the result's own for too few draws.

    Draws belong to the optimum up to a distance that few draws of a Gaussian with its own covariance exceed.
    """
    if not np.isfinite(result.covariance).all():
        return result.covariance
    tangent = _tangent(draws.poses, result.pose)
    away = np.einsum("pi,ij,pj->p", tangent, np.linalg.pinv(result.covariance, hermitian=True), tangent)
    own = weight * (away < FURTHEST)
    if not own.any() or own.sum() ** 2 < ENOUGH * (own**2).sum():
        return result.covariance
    return np.asarray((tangent * own[:, None]).T @ tangent / own.sum())


@dataclass(frozen=True)
class Worth:
    """Log likelihood of poses of a noise-weighted pair.

    ``samples`` is the number of independent samples of the target, ``best`` the square of the largest correlation.
    """

    samples: float
    best: float

    @staticmethod
    def of(pair: Pair, dissimilarity: float) -> Worth:
        """Make one from the RCS of the best pose."""
        return Worth(
            len(pair.target) / pair.samples_per_independent, min(max(1.0 - 0.5 * dissimilarity, 0.0) ** 2, MOST_ALIKE)
        )

    @property
    def of_best(self) -> float:
        """Log likelihood of the best pose."""
        return self.samples * self.best / (1.0 - self.best)

    def log_likelihood(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log likelihood of p poses, (p,), from |f|^2, |g|^2 and f.g of their shells, (p, s, 4)."""
        return self.samples * squared_correlation(sums.sum(axis=1)) / (1.0 - self.best)


@dataclass(frozen=True)
class Draws:
    """Poses drawn (a batch of p), and the logarithm of the density they were drawn from, (p,)."""

    poses: Pose
    log_density: NDArray[np.float64]

    @property
    def points(self) -> NDArray[np.float64]:
        """Poses as points of comparisons, (p, 12)."""
        return pack(self.poses.matrix, self.poses.shift_angstrom)

    def weights(self, log_posterior: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the importance weights of the poses, (p,) with the sum one, from their log posteriors (p,)."""
        ratio = log_posterior - self.log_density
        weight = np.exp(ratio - ratio.max())
        return np.asarray(weight / weight.sum())

    def first(self, weight: NDArray[np.float64], count: int) -> PoseSample:
        """Return the first ``count`` poses with their weights, from the weights of all, (p,).

        They depend continuously on the particle: drawing some again by their weights would choose others after the
        smallest change of a weight, and would change every average.
        """
        few = weight[:count]
        few = np.where(few < NEGLIGIBLE * few.max(), 0.0, few)
        total = few.sum()
        return PoseSample(self.poses[:count], few / total if total > 0 else np.full(count, 1.0 / count))


def drawn(
    optima: Pose,
    log_likelihood: NDArray[np.float64],
    covariance: NDArray[np.float64],
    *,
    directions: NDArray[np.float64],
    most_shift_angstrom: float,
    rng: np.random.Generator,
) -> Draws:
    """Draw poses about optima, each with its density.

    Parameters
    ----------
    optima, log_likelihood
        Poses of the optima, a batch of j, the best first, and their log likelihoods, (j,).
    covariance
        Covariance of the best one's tangent, (6, 6).
    directions
        Tangents that are free, (6, k).
    most_shift_angstrom
        Largest standard deviation of a shift.
    rng
        Generator of the draws.
    """
    k = directions.shape[1]
    root = np.linalg.cholesky(_bounded(directions.T @ covariance @ directions, directions, most_shift_angstrom))
    likelihood = np.exp(log_likelihood - log_likelihood.max())
    fraction = EVEN_FRACTION / len(optima) + (1.0 - EVEN_FRACTION) * likelihood / likelihood.sum()
    which = rng.choice(len(optima), size=PROPOSED, p=fraction)
    scale = np.sqrt(rng.chisquare(FREEDOM, PROPOSED) / FREEDOM)
    tangent = (INFLATED * rng.standard_normal((PROPOSED, k)) / scale[:, None]) @ (directions @ root).T  # (p, 6)
    poses = optima[which].retract(tangent)
    # Rotation vectors are unique up to 180 degrees, beyond which the tails hold next to nothing.
    density = np.stack(
        [_log_t(_tangent(poses, optima[j]), directions, root) for j in range(len(optima))], axis=1
    )  # (p, j)
    top = density.max(axis=1, keepdims=True)
    return Draws(poses, top[:, 0] + np.log((fraction * np.exp(density - top)).sum(axis=1)))


def squared_correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return squared correlations (...), 0 where they are negative, from |f|^2, |g|^2, f.g and |Omega|, (..., 4)."""
    ff, gg, fg, _ = np.moveaxis(sums, -1, 0)
    return np.asarray(np.maximum(fg, 0.0) ** 2 / np.maximum(ff * gg, 1e-300))


def _tangent(poses: Pose, centre: Pose) -> NDArray[np.float64]:
    """Return the tangents from a pose to each of a batch, (p, 6)."""
    rotation = (poses.rotation * centre.rotation.inv()).as_rotvec()
    return np.concatenate([rotation, poses.shift_angstrom - centre.shift_angstrom], axis=1)


def _log_t(
    tangent: NDArray[np.floating], directions: NDArray[np.floating], root: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Return the log density of Student's t, up to a constant that all optima share, (p,)."""
    k = directions.shape[1]
    white = np.linalg.solve(root, (tangent @ directions).T) / INFLATED  # (k, p)
    square = (white**2).sum(axis=0)
    # A pose off the free directions was not drawn about this optimum.
    off = tangent - tangent @ directions @ directions.T
    apart = (off[:, :3] ** 2).sum(axis=1) > 1e-6
    return np.where(apart, -np.inf, -0.5 * (FREEDOM + k) * np.log1p(square / FREEDOM))


def _bounded(
    covariance: NDArray[np.floating], directions: NDArray[np.floating], most_shift_angstrom: float
) -> NDArray[np.float64]:
    """Reduce standard deviations of the free directions that are too large for a parabola to describe an optimum."""
    whole = np.nan_to_num(np.sqrt(np.diag(covariance)), posinf=1e9)
    rotation = np.abs(directions[:3]).sum(axis=0) > 0.5
    most = np.where(rotation, np.radians(MOST_ROTATION_DEG), most_shift_angstrom)
    shrunk = np.minimum(1.0, most / np.maximum(whole, 1e-12))
    if not np.isfinite(covariance).all():
        return np.diag(most**2)
    bounded = covariance * np.outer(shrunk, shrunk)
    return bounded + 1e-12 * np.diag(np.maximum(np.diag(bounded), 1e-12))
