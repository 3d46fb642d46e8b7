"""The search from coarse to fine: many orientations at a low resolution, few at the full one (theory.md section 10).

Flow: plan (eq. 25: how many orientations, at which limit) -> every orientation with its best shift at the coarse limit
-> the best of them refined there -> the distinct ones refined at the full limit with samples weighted by what they are
expected to tell (inputs) -> that expectation taken again from the best pose, twice -> one of the optima chosen.

Must not know where the particles come from, nor how a dissimilarity is made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio import lm
from gonio.expectation import Expectation, null_correlation, weighted
from gonio.fourier import FourierVolume, Spectrum
from gonio.problem import pack, unpack
from gonio.score import Comparison, Score

__all__ = ["Found", "Inputs", "Plan", "distinct", "search"]

# Steps of a refinement: enough to tell optima apart, and to come to rest in the last.
STEPS, LAST_STEPS = 8, 60
# The share of orientations refined at the coarse limit, and how many optima are kept at the full one.
COARSE_SHARE, FINE_CANDIDATES, LAST_CANDIDATES = 0.25, 32, 6
# Orientations at which the correlation of a wrong pose is measured.
NULL_POSES = 50
# Optima are one when the particle's anchors (eq. 18) lie nearer than this, in voxels.
DISTINCT = 0.3
# The coarse detail is the particle's diameter over this, and each limit at most this many times the one before.
COARSE_DETAILS, LEVEL = 3.5, 1.6
# Orientations lie within this many times the coarse detail over the diameter of one another (measured: section 10).
REACH = 1.75


@dataclass(frozen=True)
class Plan:
    """The limits of the search in shells, from coarse to fine, and the reach of an orientation at the coarse one."""

    limits: tuple[float, ...]
    reach_deg: float

    @staticmethod
    def of(*, limit: float, diameter_share: float) -> Plan:
        """For a full limit in shells and a particle's diameter as a share of the box (eq. 25).

        A turn by a moves the particle's surface by a D / 2, and a score of detail d has a basin of about d there: a is
        in proportion to d / D. The coarse detail is D / 3.5, or the full limit's when that is coarser.
        """
        coarse = min(limit, max(3.0, COARSE_DETAILS / diameter_share))
        levels = max(1, int(np.ceil(np.log(limit / coarse) / np.log(LEVEL) - 1e-9)))
        limits = coarse * (limit / coarse) ** (np.arange(levels + 1) / levels)
        reach = float(np.degrees(min(REACH / (coarse * diameter_share), np.pi)))
        return Plan((float(coarse), *(float(x) for x in limits[1:])), reach)


@dataclass(frozen=True)
class Inputs:
    """The two particles as samples, restored."""

    target: Spectrum
    reference: FourierVolume

    def plain(self, score: Score, limit: float | None = None) -> Comparison:
        """Every sample alike."""
        return Comparison(self.target if limit is None else self.target.below(limit), self.reference, score=score)

    def filtered(self, score: Score, expectation: Expectation) -> Comparison:
        """Every sample weighted by what it is expected to tell; the likelihood ratio has its own weights."""
        if not expectation.correlation.any():
            return self.plain(Score.RCS if score is Score.LIKELIHOOD else score)
        if score is Score.LIKELIHOOD:
            return Comparison(self.target, self.reference, score=score, expectation=expectation)
        return Comparison(weighted(self.target, expectation), self.reference, score=score)


@dataclass(frozen=True)
class Found:
    """The distinct optima, best first, how the refinement of each ended, and what the pair was found to be."""

    state: lm.State
    expectation: Expectation
    iterations: int


ProblemOf = Callable[[Comparison], lm.Problem]
Signature = Callable[[NDArray], NDArray]


def search(
    inputs: Inputs,
    rotations: NDArray[np.float64],
    *,
    plan: Plan,
    score: Score,
    problem_of: ProblemOf,
    signature: Signature,
    max_shift_angstrom: float,
    expectation: Expectation | None = None,
) -> Found:
    """Find the optima of a pair from orientations (p, 3, 3).

    Parameters
    ----------
    inputs
        The pair.
    rotations
        Starting orientations.
    plan
        The limits of its stages.
    score
        What is minimised.
    problem_of
        The optimiser's problem of a comparison.
    signature
        Points to vectors whose distance tells optima apart.
    max_shift_angstrom
        Radius of the ball of shifts.
    expectation
        What is known of the pair; None to take it from the pair itself as its pose improves.
    """
    plain = Score.FCS if score is Score.LIKELIHOOD else score
    coarse = inputs.plain(plain, plan.limits[0])
    shifts = coarse.best_shifts(
        rotations, max_shift_angstrom=max_shift_angstrom, points=int(np.ceil(4 * plan.limits[0]))
    )
    points, iterations = pack(rotations, shifts), 0
    some = slice(None, None, max(1, len(points) // NULL_POSES))
    null = null_correlation(inputs.plain(Score.FCS).shell_sums(rotations[some], shifts[some]))
    order = np.argsort(coarse.normal_equations(rotations, shifts).dissimilarity, kind="stable")
    kept = order[: max(FINE_CANDIDATES, round(COARSE_SHARE * len(points)))]
    state = lm.minimise(problem_of(coarse), points[kept], max_iterations=STEPS)
    for limit in plan.limits[1:-1]:
        iterations += int(state.iterations.sum())
        state = distinct(_ordered(state, state.dissimilarity), signature, 2 * FINE_CANDIDATES)
        state = lm.minimise(problem_of(inputs.plain(plain, limit)), state.points, max_iterations=STEPS)
    state, iterations = _ordered(state, state.dissimilarity), iterations + int(state.iterations.sum())
    return _at_full_limit(inputs, state, iterations, score, problem_of, signature, expectation, null)


def _at_full_limit(
    inputs: Inputs,
    state: lm.State,
    iterations: int,
    score: Score,
    problem_of: ProblemOf,
    signature: Signature,
    expectation: Expectation | None,
    null: NDArray[np.float64],
) -> Found:
    plain = inputs.plain(Score.FCS)
    known = expectation
    for count, steps in ((FINE_CANDIDATES, STEPS), (LAST_CANDIDATES, STEPS), (LAST_CANDIDATES, LAST_STEPS)):
        state = distinct(state, signature, count)
        if expectation is None:
            known = Expectation.of_sums(plain.shell_sums(*unpack(state.points[:1]))[0], null)
        assert known is not None
        state = lm.minimise(problem_of(inputs.filtered(score, known)), state.points, max_iterations=steps)
        iterations += int(state.iterations.sum())
        state = _ordered(state, _choice(inputs, known, state))
    assert known is not None
    return Found(distinct(state, signature, LAST_CANDIDATES), known, iterations)


def _choice(inputs: Inputs, expectation: Expectation, state: lm.State) -> NDArray[np.float64]:
    """The likelihood ratio of optima, which shrinking the overlap of the wedges does not flatter."""
    return inputs.filtered(Score.LIKELIHOOD, expectation).normal_equations(*unpack(state.points)).dissimilarity


def _ordered(state: lm.State, choice: NDArray[np.float64]) -> lm.State:
    finite = np.where(np.isfinite(state.dissimilarity), choice, np.inf)
    return state.take(np.argsort(finite, kind="stable"))


def distinct(state: lm.State, signature: Signature, count: int) -> lm.State:
    """The first ``count`` distinct points in the order given; of equal ones the first.

    ``signature`` gives points (p, m) as vectors (p, s, v) for each of s symmetry-related poses.
    """
    signatures = signature(state.points)
    kept: list[int] = []
    for row in range(len(state)):
        if len(kept) == count:
            break
        # One representative against all equivalents of the others.
        square = ((signatures[kept] - signatures[row, 0]) ** 2).sum(axis=-1)
        if not (square <= DISTINCT**2).any():
            kept.append(row)
    return state.take(np.array(kept))
