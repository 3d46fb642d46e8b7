"""The coarse-to-fine search: many poses at a low resolution, few at the full one (docs/theory.md section 10).

Flow: plan (eq. 29: which limits, how many orientations) -> every seed scored at the coarse limit -> a few steps for
those that can still win, fewer after each stage (`PruningRule`), from limit to limit, at the full one with samples
weighted by the expected FSC (eq. 28) -> the expected FSC estimated again from the best pose, twice -> the most likely
optimum (eq. 30) refined until it converges.

This module owns the order of the stages (`conduct`) and its numbers. The stages themselves are in ``cpu``, for one
pair on the CPU, and in ``gpu.stages``, for many at once on a GPU. Must not know either, nor where particles come from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import pool

# Optima whose neighbours are searched before the last refinement: another with a narrower basin may lie near by.
NEIGHBOURED = 2
# Seeds at which the chance correlation is measured, and the fewest that give an estimate.
CHANCE_POSES, MIN_CHANCE_POSES = 20, 6
# The choice among optima (eq. 30, `kernels.model.ranking_value`) raises the expected FSC, rho, to this power. This and
# the exponent there were measured on pools of optima of `pseudo_symmetric` (docs/reproduce.md): 12 wrong choices in
# 320, and 23 with rho and the exponent of the score itself.
CHOICE_POWER = 0.5
# Two optima count as one when the particle's anchors (eq. 18) are nearer than this, in voxels.
DISTINCT = 0.3
# The coarse detail is the particle's diameter over the first; each limit is at most the second times the one before.
COARSE_DETAILS, LEVEL = 3.5, 1.6
# Angular spacing of the orientations in units of the coarse detail over the diameter (measured: section 10).
REACH = 1.75


@dataclass(frozen=True)
class PruningRule:
    """Rule for which poses of a pool go on, and how many steps each then takes.

    Poses go on whose score is within ``margin`` standard deviations of the best; at least ``least``, at most ``most``.
    The standard deviation is that of the seeds' scores, the scatter of wrong poses. A pair with a clear optimum is soon
    reduced to the least, an ambiguous one keeps every pose that may win.
    """

    margin: float
    least: int
    most: int
    steps: int

    def count(self, scores: NDArray[np.float64], deviation: float) -> int:
        """Return how many poses go on, given their scores (p,) in ascending order."""
        near = int(np.searchsorted(scores, scores[0] + self.margin * deviation, side="right"))
        return int(pool.how_many(near, self.least, self.most, len(scores)))


@dataclass(frozen=True)
class PruningRules:
    """Pruning rules of a search: of the seeds, at each limit between in their order, at the full one, of neighbours.

    The steps of a rule are taken after it: those of ``seeds`` at the coarse limit, the others at their own limit.
    ``neighbours`` are evaluated before their rule, and take the steps of ``full``.
    """

    seeds: PruningRule
    between: tuple[PruningRule, ...]
    full: PruningRule
    neighbours: PruningRule

    @property
    def steps(self) -> int:
        """Most steps of one refinement, except the last, in which the best pose converges."""
        return max(rule.steps for rule in (self.seeds, *self.between, self.full))


# Measured on signals in images of other particles and on pools of optima (section 10).
PRUNING = PruningRules(
    seeds=PruningRule(2.6, 24, 180, steps=2),
    between=(PruningRule(2.5, 16, 112, steps=2), PruningRule(1.2, 6, 28, steps=4)),
    full=PruningRule(1.2, 4, 20, steps=3),
    neighbours=PruningRule(1.5, 4, 12, steps=0),
)
# Of tilt images among all poses, measured on signals in images of other particles: what lies around a particle rules
# the coarse limit.
STACK_PRUNING = PruningRules(
    seeds=PruningRule(4.0, 24, 300, steps=2),
    between=(PruningRule(4.0, 16, 220, steps=2), PruningRule(1.5, 6, 36, steps=4)),
    full=PruningRule(1.5, 4, 24, steps=3),
    neighbours=PruningRule(1.5, 4, 12, steps=0),
)
# Fewer seeds give no standard deviation.
MIN_SEEDS = 24
# Optima that are compared once more with the expected FSC of the best of them, and listed.
LAST_CANDIDATES = 4


@dataclass(frozen=True)
class Plan:
    """Limits of the search in shells, from coarse to fine, and the angular spacing at the coarse one."""

    limits: tuple[float, ...]
    spacing_deg: float

    @staticmethod
    def of(*, limit: float, diameter_fraction: float) -> Plan:
        """Return the plan for a full limit in shells and a particle's diameter as a fraction of the box (eq. 29).

        A rotation by an angle a moves the particle's surface by a D / 2, and a score of detail d has a basin of about d
        there: a is proportional to d / D. The coarse detail is D / 3.5, or the full limit's when that is coarser.
        """
        coarse = min(limit, max(3.0, COARSE_DETAILS / diameter_fraction))
        levels = max(1, int(np.ceil(np.log(limit / coarse) / np.log(LEVEL) - 1e-9)))
        limits = coarse * (limit / coarse) ** (np.arange(levels + 1) / levels)
        spacing_deg = float(np.degrees(min(REACH / (coarse * diameter_fraction), np.pi)))
        return Plan((float(coarse), *(float(x) for x in limits[1:])), spacing_deg)


def deviation_of(scores: NDArray[np.float64]) -> float:
    """Return the standard deviation of the seeds' finite scores; infinite where these are too few to estimate it."""
    finite = scores[np.isfinite(scores)]
    return float(finite.std()) if len(finite) >= MIN_SEEDS else np.inf


@dataclass(frozen=True)
class Course:
    """Stages of a search: its ``levels`` (limits), and whether it has a ``neighbour_search`` for optima near by.

    ``alone`` is a single start of an exact pair, which needs no choice and no expected FSC before it is refined.
    ``last_steps`` let the last refinement converge; ``pruning`` are the pruning rules.
    """

    levels: int
    alone: bool
    neighbour_search: bool
    last_steps: int
    pruning: PruningRules = PRUNING

    @property
    def between(self) -> range:
        """Levels above the coarse limit at which poses are compared; the full one where there is no other."""
        return range(1, max(2, self.levels - 1))


class Stages(Protocol):
    """Stages on the pool of poses of a pair, or of many pairs with one course; each keeps some of the pool.

    Must not decide what comes next. The best poses come first in the pool.
    """

    def seed(self) -> None:
        """Score every seed at its best shift and the coarse limit; measure the chance correlation."""

    def keep_seeds(self, rule: PruningRule) -> None:
        """Keep the best seeds. Later rules use the standard deviation of the seeds' scores."""

    def refine(self, level: int | None, steps: int) -> None:
        """Take ``steps`` steps from every pose at a level; None is the full limit, weighted by the expected FSC.

        Without steps poses are evaluated there.
        """

    def keep(self, rule: PruningRule) -> None:
        """Keep the best distinct poses by the minimised score."""

    def expect(self) -> None:
        """Estimate the expected FSC from the best pose, unless it is known."""

    def search_neighbours(self) -> None:
        """Add the neighbours of the best ``NEIGHBOURED`` poses."""

    def choose(self) -> None:
        """Keep the ``LAST_CANDIDATES`` most likely distinct poses (eq. 30)."""

    def converge(self, steps: int) -> None:
        """Refine the best pose until it converges or has taken ``steps`` steps; keep the distinct poses."""


def conduct(stages: Stages, course: Course) -> None:
    """Run the stages of a course in their order.

    At the full limit poses are compared twice, each time with the expected FSC of the best; then the best is refined
    until it converges. The others stay where they are, as the choice no longer changes (section 10).
    """
    pruning = course.pruning
    stages.seed()
    if course.levels > 1:
        stages.keep_seeds(pruning.seeds)
        stages.refine(0, pruning.seeds.steps)
        for level in course.between:
            for rule in pruning.between:
                stages.keep(rule)
                stages.refine(level, rule.steps)
        stages.keep(pruning.full)
    if course.alone:
        stages.converge(course.last_steps)
        stages.expect()
        return
    for with_neighbours in (False, True, False) if course.neighbour_search else (False, False):
        stages.expect()
        if with_neighbours:
            stages.search_neighbours()
            stages.refine(None, 0)
            stages.keep(pruning.neighbours)
        stages.refine(None, pruning.full.steps)
        stages.choose()
    stages.expect()
    stages.converge(course.last_steps)
