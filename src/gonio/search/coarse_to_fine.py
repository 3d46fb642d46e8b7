"""The search from coarse to fine: many poses at a low resolution, few at the full one (docs/theory.md section 10).

Flow: plan (eq. 29: which limits, how many orientations) -> every seed scored at the coarse limit -> a few steps for
those that can still win, fewer of them after each stage (`PruningRule`), from limit to limit, at the full one with samples
weighted by what they are expected to tell (eq. 28) -> that expectation taken again from the best pose, twice -> the
optimum that is most likely (eq. 30) refined until it converges.

This is the order of the stages (`conduct`) and the numbers in it. What a stage does is in ``stages``, for one pair on
the CPU, and in ``batches``, for many at once on a GPU. Must not know either, nor where particles come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import pool

__all__ = ["Course", "PruningRule", "PruningRules", "Plan", "Stages", "conduct", "deviation_of"]

# Optima that are left once before the last refinement: another may lie near by, of a narrower basin.
LEFT = 2
# Seeds at which the correlation of a wrong pose is measured, and how few say nothing of it.
CHANCE_POSES, MIN_CHANCE_POSES = 20, 6
# The choice among optima (eq. 30, `kernels.model.unlikeliness`) expects rho to this power. It and the exponent there
# were measured on pools of optima of `pseudo_symmetric` (docs/reproduce.md): 12 wrong choices in 320, with rho and the
# exponent of the score itself 23.
CHOICE_POWER = 0.5
# Optima are one when the particle's anchors (eq. 18) lie nearer than this, in voxels.
DISTINCT = 0.3
# The coarse detail is the particle's diameter over this, and each limit at most this many times the one before.
COARSE_DETAILS, LEVEL = 3.5, 1.6
# Orientations lie within this many times the coarse detail over the diameter of one another (measured: section 10).
REACH = 1.75


@dataclass(frozen=True)
class PruningRule:
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
        return int(pool.how_many(near, self.least, self.most, len(scores)))


@dataclass(frozen=True)
class PruningRules:
    """The pruning rules of a search: after the seeds, at the coarse limit, at each limit between, and at the full one.

    Steps are those taken next: of the seeds at the coarse limit, of the others at the limit that follows.
    """

    seeds: PruningRule
    coarse: PruningRule
    between: PruningRule
    full: PruningRule

    @property
    def steps(self) -> int:
        """The most that one refinement takes, save the last, in which the best pose converges."""
        return max(cut.steps for cut in (self.seeds, self.coarse, self.between, self.full))

    @staticmethod
    def none() -> PruningRules:
        """Nothing is pruned before the limits between, and little there: what a search is measured against."""
        every = PruningRule(np.inf, 24, 4096, steps=2)
        return PruningRules(every, every, PruningRule(np.inf, 6, 64, steps=4), PruningRule(np.inf, 4, 32, steps=3))


# Measured on signals in the images of other particles and on pools of optima (section 10).
SEEDS, COARSE = PruningRule(2.6, 24, 180, steps=2), PruningRule(2.5, 16, 112, steps=2)
BETWEEN, FULL = PruningRule(1.2, 6, 28, steps=4), PruningRule(1.2, 4, 20, steps=3)
PRUNING = PruningRules(SEEDS, COARSE, BETWEEN, FULL)
# Fewer seeds tell no standard deviation.
MIN_SEEDS = 24
# Optima that are compared once more with what the best of them lets expect, and listed.
LAST_CANDIDATES = 4


@dataclass(frozen=True)
class Plan:
    """The limits of the search in shells, from coarse to fine, and the reach of an orientation at the coarse one."""

    limits: tuple[float, ...]
    spacing_deg: float

    @staticmethod
    def of(*, limit: float, diameter_fraction: float) -> Plan:
        """For a full limit in shells and a particle's diameter as a share of the box (eq. 29).

        A turn by a moves the particle's surface by a D / 2, and a score of detail d has a basin of about d there: a is
        in proportion to d / D. The coarse detail is D / 3.5, or the full limit's when that is coarser.
        """
        coarse = min(limit, max(3.0, COARSE_DETAILS / diameter_fraction))
        levels = max(1, int(np.ceil(np.log(limit / coarse) / np.log(LEVEL) - 1e-9)))
        limits = coarse * (limit / coarse) ** (np.arange(levels + 1) / levels)
        reach = float(np.degrees(min(REACH / (coarse * diameter_fraction), np.pi)))
        return Plan((float(coarse), *(float(x) for x in limits[1:])), reach)


def deviation_of(scores: NDArray[np.float64]) -> float:
    """The standard deviation of the seeds' scores that are finite; infinite where they are too few to tell it."""
    finite = scores[np.isfinite(scores)]
    return float(finite.std()) if len(finite) >= MIN_SEEDS else np.inf


@dataclass(frozen=True)
class Course:
    """Which stages a search has: its ``levels`` (limits); whether it ``neighbour_search`` around for optima near by.

    ``alone`` is a single start of an exact pair: nothing is to be chosen, and nothing needs to be expected of the pair.
    ``last_steps`` let the last refinement converge; ``cuts`` say what is pruned.
    """

    levels: int
    alone: bool
    neighbour_search: bool
    last_steps: int
    cuts: PruningRules = PRUNING

    @property
    def between(self) -> range:
        """The levels above the coarse limit at which poses are told apart; the full one where there is no other."""
        return range(1, max(2, self.levels - 1))


class Stages(Protocol):
    """What is done to the poses of a pair, or of many pairs with one course: a pool, of which each stage leaves some.

    Must not decide what comes next. Best poses are first in the pool.
    """

    def seed(self) -> None:
        """Begin with every seed at its best shift, scored at the coarse limit; see what wrong poses have in common."""

    def keep_seeds(self, cut: PruningRule) -> None:
        """Leave the best of the seeds. Later cuts measure scores by the deviation of these."""

    def refine(self, level: int | None, steps: int) -> None:
        """Take so many steps from every pose at a level; None is the full limit, with what is expected of the pair."""

    def keep(self, cut: PruningRule) -> None:
        """Leave the best of the distinct poses, by what was minimised."""

    def expect(self) -> None:
        """Take from the best pose what is expected of the pair, unless that is known."""

    def search_neighbours(self) -> None:
        """Add poses around the best ``LEFT``."""

    def choose(self) -> None:
        """Leave the ``LAST_CANDIDATES`` distinct poses that are most likely (eq. 30)."""

    def rest(self, steps: int) -> None:
        """Refine the best pose until it converges, or with so many steps; leave the poses that are distinct."""


def conduct(stages: Stages, course: Course) -> None:
    """Find the optima.

    At the full limit poses are compared twice, each time with what the best lets expect; then the best is refined to
    its rest. The others stay where they are: their choice does not change any more (section 10).
    """
    cuts = course.cuts
    stages.seed()
    if course.levels > 1:
        stages.keep_seeds(cuts.seeds)
        stages.refine(0, cuts.seeds.steps)
        for level in course.between:
            stages.keep(cuts.coarse)
            stages.refine(level, cuts.coarse.steps)
            stages.keep(cuts.between)
            stages.refine(level, cuts.between.steps)
        stages.keep(cuts.full)
    if course.alone:
        stages.rest(course.last_steps)
        stages.expect()
        return
    for look in (False, True, False) if course.neighbour_search else (False, False):
        stages.expect()
        if look:
            stages.search_neighbours()
        stages.refine(None, cuts.full.steps)
        stages.choose()
    stages.expect()
    stages.rest(course.last_steps)
