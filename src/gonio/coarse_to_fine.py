"""The search from coarse to fine: many poses at a low resolution, few at the full one (docs/theory.md section 10).

Flow: plan (eq. 29: which limits, how many orientations) -> every seed scored at the coarse limit -> a few steps for
those that can still win, fewer of them after each stage (`Cut`), from limit to limit, at the full one with samples
weighted by what they are expected to tell (eq. 28) -> that expectation taken again from the best pose, twice -> the
optimum that is most likely (eq. 30) refined until it rests.

Must not know where the particles or the seeds come from, how a dissimilarity is made, nor where (``evaluation``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gonio import lm
from gonio.evaluation import Asking, Equations, ShellSums, answered
from gonio.expectation import Expectation, null_correlation
from gonio.fourier import FourierVolume, Spectrum
from gonio.kernels import pool
from gonio.kernels.model import LIKELIHOOD_ROOT
from gonio.score import Comparison, Score, weighted

__all__ = ["Cut", "Found", "Pair", "Plan", "Tactics", "ask", "distinct", "expected", "search"]

# Optima that are left once before the last refinement: another may lie near by, of a narrower basin.
LEFT = 3
# Seeds at which the correlation of a wrong pose is measured, and how few say nothing of it.
NULL_POSES, MIN_NULL_POSES = 20, 6
# The choice among optima: rho to this power is expected, and the ratio divided by |Omega| to that (`_unlikeliness`).
CHOICE_POWER, CHOICE_ROOT = 0.5, 0.75
# Optima are one when the particle's anchors (eq. 18) lie nearer than this, in voxels.
DISTINCT = 0.3
# The coarse detail is the particle's diameter over this, and each limit at most this many times the one before.
COARSE_DETAILS, LEVEL = 3.5, 1.6
# Orientations lie within this many times the coarse detail over the diameter of one another (measured: section 10).
REACH = 1.75


@dataclass(frozen=True)
class Cut:
    """Which poses of a pool go on, and how many steps each then makes.

    Those go on whose score is within ``margin`` standard deviations of the best; at least ``least``, at most ``most``.
    The standard deviation is that of the seeds' scores: what chance does among wrong poses. A clear pair is soon down
    to the least, a doubtful one keeps all that may win.
    """

    margin: float
    least: int
    most: int
    steps: int

    def count(self, scores: NDArray[np.float64], deviation: float) -> int:
        """How many go on, of poses whose scores (p,) rise."""
        near = int(np.searchsorted(scores, scores[0] + self.margin * deviation, side="right"))
        return min(max(near, self.least), self.most, len(scores))


# The seeds, the coarse limit, those between, and the full one (measured on pools of optima: section 10).
SEEDS, COARSE = Cut(1.6, 24, 160, steps=2), Cut(1.2, 12, 48, steps=6)
BETWEEN, FULL = Cut(0.9, 6, 24, steps=6), Cut(0.9, 4, 16, steps=3)
# No refinement takes more steps, save the last, in which the best pose comes to rest.
STEPS = max(cut.steps for cut in (SEEDS, COARSE, BETWEEN, FULL))
# Optima that are compared once more with what the best of them lets expect, and listed.
LAST_CANDIDATES = 4


@dataclass(frozen=True)
class Plan:
    """The limits of the search in shells, from coarse to fine, and the reach of an orientation at the coarse one."""

    limits: tuple[float, ...]
    reach_deg: float

    @staticmethod
    def of(*, limit: float, diameter_share: float) -> Plan:
        """For a full limit in shells and a particle's diameter as a share of the box (eq. 29).

        A turn by a moves the particle's surface by a D / 2, and a score of detail d has a basin of about d there: a is
        in proportion to d / D. The coarse detail is D / 3.5, or the full limit's when that is coarser.
        """
        coarse = min(limit, max(3.0, COARSE_DETAILS / diameter_share))
        levels = max(1, int(np.ceil(np.log(limit / coarse) / np.log(LEVEL) - 1e-9)))
        limits = coarse * (limit / coarse) ** (np.arange(levels + 1) / levels)
        reach = float(np.degrees(min(REACH / (coarse * diameter_share), np.pi)))
        return Plan((float(coarse), *(float(x) for x in limits[1:])), reach)


@dataclass(frozen=True)
class Pair:
    """Two particles as samples, ready to be compared.

    ``crowding`` is how many samples there are for each one that the particle's support leaves independent;
    ``ceiling`` the correlation of the reference with the truth, shell by shell (s,), where that is known; ``before``
    what is expected of the two before any pose is known, or None. ``exact`` says that the target's weights are one over
    the power of its noise, and that the reference is clean and whole: RCS is then the likelihood itself at the contrast
    that fits best (docs/theory.md eq. 32), and nothing needs to be expected of the pair. ``diameter_angstrom`` is that
    of the sphere that holds the target, where it was looked for.
    """

    target: Spectrum
    reference: FourierVolume
    crowding: float = 1.0
    ceiling: NDArray[np.float64] | None = None
    before: Expectation | None = None
    exact: bool = False
    diameter_angstrom: float | None = None
    _plain: dict[tuple[Score, float | None], Comparison] = field(default_factory=dict, compare=False, repr=False)

    def plain(self, score: Score, limit: float | None = None) -> Comparison:
        """Every sample as the target weights it: alike, or by its noise where the pair is exact."""
        limit = None if limit is not None and limit >= self.target.limit else limit
        if (score, limit) not in self._plain:
            target = self.target if limit is None else self.target.below(limit)
            self._plain[score, limit] = Comparison(target, self.reference, score=score)
        return self._plain[score, limit]

    def filtered(self, score: Score, expectation: Expectation | None, limit: float | None = None) -> Comparison:
        """Every sample weighted by what it is expected to tell; the likelihood ratio has its own weights.

        Where nothing is expected, every sample counts alike.
        """
        if self.exact:
            return self.plain(Score.RCS if score is Score.LIKELIHOOD else score, limit)
        if expectation is None or not expectation.correlation.any():
            return self.plain(Score.RCS, limit)
        target = self.target if limit is None else self.target.below(limit)
        if score is Score.LIKELIHOOD:
            return Comparison(target, self.reference, score=score, expectation=expectation)
        return Comparison(weighted(target, expectation), self.reference, score=score)


@dataclass(frozen=True)
class Found:
    """The distinct optima, best first, by ``choice`` (eq. 30), how the refinement of each ended, and what is expected.

    ``expectation`` is that of the pair, with which the last refinement weighted its samples.
    """

    state: lm.State
    choice: NDArray[np.float64]
    expectation: Expectation
    iterations: int


@dataclass(frozen=True)
class Tactics:
    """How candidates are refined and told apart.

    ``minimise`` asks for points (p, m) of a comparison to be refined by at most so many steps each; ``signature`` gives
    points (p, m) as vectors (p, s, v) for each of s poses that symmetry makes equal; ``last_steps`` lets the last
    refinement come to rest; ``neighbours`` gives points (p, m) near those given, from which other optima near by are
    looked for, or None; ``prior`` the negative logarithm of how probable points are before any data, (p,), or None.
    """

    minimise: Callable[[Comparison, NDArray, int], Asking[lm.State]]
    signature: Callable[[NDArray], NDArray]
    last_steps: int
    neighbours: Callable[[NDArray], NDArray] | None = None
    prior: Callable[[NDArray], NDArray] | None = None


Seeds = Callable[[Comparison], Asking[tuple[NDArray, NDArray | None]]]


def search(
    pair: Pair,
    seeds: Seeds,
    *,
    plan: Plan,
    score: Score,
    tactics: Tactics,
    expectation: Expectation | None = None,
) -> Found:
    """Find the optima of a pair, here and now: ``ask``, answered."""
    return answered(ask(pair, seeds, plan=plan, score=score, tactics=tactics, expectation=expectation))


def ask(
    pair: Pair,
    seeds: Seeds,
    *,
    plan: Plan,
    score: Score,
    tactics: Tactics,
    expectation: Expectation | None = None,
) -> Asking[Found]:
    """Find the optima of a pair.

    Parameters
    ----------
    pair
        What is compared.
    seeds
        Asks for starting points (p, m) for the comparison at the coarse limit, and the dissimilarity there, (p,), if
        known.
    plan
        The limits of its stages.
    score
        What is minimised at the full limit; below it, it is the likelihood ratio of what is expected before any pose
        is known, or else RCS.
    tactics
        How candidates are refined.
    expectation
        What is known of the pair; None to take it from the pair itself as its pose improves.
    """
    before = pair.before if expectation is None else expectation
    coarse = pair.filtered(Score.LIKELIHOOD, before, plan.limits[0])
    points, scores = yield from seeds(coarse)
    null = yield from _null(pair, points)
    if len(plan.limits) == 1:
        return (yield from _at_full_limit(pair, points, 0, score, tactics, expectation, null))
    scores = (yield Equations(coarse, points)).dissimilarity if scores is None else scores
    deviation, order = _deviation(scores), np.argsort(scores, kind="stable")
    points, steps = points[order[: SEEDS.count(scores[order], deviation)]], SEEDS.steps
    before = before if before is None or expectation is not None else before.above(null)
    iterations = 0
    for limit, cut in _stages(plan):
        state = yield from tactics.minimise(pair.filtered(Score.LIKELIHOOD, before, limit), points, steps)
        iterations += int(state.iterations.sum())
        points, steps = _cut(state, cut, deviation, tactics.signature), cut.steps
    return (yield from _at_full_limit(pair, points, iterations, score, tactics, expectation, null))


def _stages(plan: Plan) -> list[tuple[float, Cut]]:
    """The limits at which steps are made below the full one, and how the pool is cut after each."""
    coarse, *between = plan.limits[:-1]
    limits = [coarse, coarse, *between]
    return list(zip(limits, [COARSE, *[BETWEEN] * len(between), FULL], strict=True))


def expected(pair: Pair, point: NDArray, null: NDArray[np.float64]) -> Expectation:
    """What the pair has in common when ``point`` (m,) is its pose, on average over its shells."""
    return answered(_expected(pair, point, null))


def _expected(pair: Pair, point: NDArray, null: NDArray[np.float64]) -> Asking[Expectation]:
    sums = yield ShellSums(pair.plain(Score.FCS), point[None])
    found = Expectation.of_sums(sums[0], null)
    return found if pair.ceiling is None else found.below(pair.ceiling)


def _null(pair: Pair, points: NDArray) -> Asking[NDArray[np.float64]]:
    """The correlation of wrong poses: that of the seeds, nearly all of which are wrong."""
    some = points[:: max(1, len(points) // NULL_POSES)]
    comparison = pair.plain(Score.FCS)
    if len(some) < MIN_NULL_POSES:
        return np.zeros(comparison.target.n_shells)
    return null_correlation((yield ShellSums(comparison, some)))


def _deviation(scores: NDArray[np.float64]) -> float:
    """The standard deviation of the seeds' scores that are finite; infinite where they are too few to tell it."""
    finite = scores[np.isfinite(scores)]
    return float(finite.std()) if len(finite) >= SEEDS.least else np.inf


def _cut(state: lm.State, cut: Cut, deviation: float, signature: Callable[[NDArray], NDArray]) -> NDArray[np.float64]:
    """The points that go on, best first. A prior makes scores those of one sample: then more do, up to the most."""
    state = distinct(_ordered(state, state.dissimilarity)[0], signature, cut.most)
    return state.points[: cut.count(state.dissimilarity, deviation)]


def _at_full_limit(
    pair: Pair,
    points: NDArray[np.float64],
    iterations: int,
    score: Score,
    tactics: Tactics,
    known: Expectation | None,
    null: NDArray[np.float64],
) -> Asking[Found]:
    """Points (p, m), best first, compared twice, each time with what the best lets expect; then the best to its rest.

    The others stay where they are: their choice does not change any more (section 10).
    """
    if pair.exact and len(points) == 1:
        # Nothing is to be chosen, and nothing of the pair needs to be expected.
        state = yield from tactics.minimise(pair.filtered(score, None), points, tactics.last_steps)
        expectation = (yield from _expected(pair, state.points[0], null)) if known is None else known
        return Found(state, state.dissimilarity, expectation, iterations + int(state.iterations.sum()))
    for leave in (False, False) if tactics.neighbours is None else (False, True, False):
        expectation = (yield from _expected(pair, points[0], null)) if known is None else known
        if leave and tactics.neighbours is not None:
            points = np.concatenate([points, tactics.neighbours(points[:LEFT])])
        state = yield from tactics.minimise(pair.filtered(score, expectation), points, FULL.steps)
        iterations += int(state.iterations.sum())
        choice = yield from _unlikeliness(pair, expectation, state.points, tactics.prior)
        state, choice = _ordered(state, choice)
        rows = _distinct_rows(state, tactics.signature, LAST_CANDIDATES)
        state, choice = state.take(rows), choice[rows]
        points = state.points
    expectation = (yield from _expected(pair, points[0], null)) if known is None else known
    best = yield from tactics.minimise(pair.filtered(score, expectation), points[:1], tactics.last_steps)
    iterations += int(best.iterations.sum())
    state = _with_first(state, best)
    rows = _distinct_rows(state, tactics.signature, LAST_CANDIDATES)
    return Found(state.take(rows), choice[rows], expectation, iterations)


def _with_first(state: lm.State, first: lm.State) -> lm.State:
    """The same with another first row."""
    columns = {name: (getattr(first, name), getattr(state, name)[1:]) for name in lm.State.__dataclass_fields__}
    return lm.State(**{name: np.concatenate(rows) for name, rows in columns.items()})


def _unlikeliness(
    pair: Pair, expectation: Expectation, points: NDArray, prior: Callable[[NDArray], NDArray] | None
) -> Asking[NDArray[np.float64]]:
    """What optima are chosen by, smallest first (eq. 30): minus the likelihood ratio over |Omega|^(3/4).

    A sum over more samples wanders further. The exponent, and expecting sqrt(rho), were measured on pools of optima of
    `pseudo_symmetric` (docs/reproduce.md): 12 wrong choices in 320, with rho and the exponent of the score itself 23.
    """
    if pair.exact:
        return (yield Equations(pair.plain(Score.RCS), points)).dissimilarity
    equations = yield Equations(pair.filtered(Score.LIKELIHOOD, expectation.raised(CHOICE_POWER)), points)
    count = np.maximum(equations.overlap, 1.0)
    ratio = equations.dissimilarity * count**LIKELIHOOD_ROOT
    # Of so many samples only one in ``crowding`` speaks for itself, and a prior speaks once.
    before = 0.0 if prior is None else pair.crowding * prior(points)
    return (ratio + before) / count**CHOICE_ROOT


def _ordered(state: lm.State, choice: NDArray[np.float64]) -> tuple[lm.State, NDArray[np.float64]]:
    """Best first; a point without a dissimilarity is the last choice."""
    finite = np.where(np.isfinite(state.dissimilarity), choice, np.inf)
    order = np.argsort(finite, kind="stable")
    return state.take(order), finite[order]


def distinct(state: lm.State, signature: Callable[[NDArray], NDArray], count: int) -> lm.State:
    """The first ``count`` distinct points in the order given; of equal ones the first."""
    return state.take(_distinct_rows(state, signature, count))


def _distinct_rows(state: lm.State, signature: Callable[[NDArray], NDArray], count: int) -> NDArray[np.int64]:
    rows = np.empty(len(state), np.int64)
    return rows[: pool.distinct(signature(state.points), DISTINCT, count, rows)]
