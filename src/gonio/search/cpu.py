"""The CPU as a backend, and the stages of a coarse-to-fine search (``coarse_to_fine``) of one pair on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.expected_fsc import ExpectedFsc, chance_correlation
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, NormalEquations, Score
from gonio.kernels import model, pool
from gonio.search import levenberg_marquardt as lm
from gonio.search.backend import BestShifts, Evaluation, Found, PairSearch, Refinement
from gonio.search.coarse_to_fine import (
    CHANCE_POSES,
    CHOICE_POWER,
    DISTINCT,
    LAST_CANDIDATES,
    MIN_CHANCE_POSES,
    NEIGHBOURED,
    PruningRule,
    conduct,
    deviation_of,
)
from gonio.search.objective import unpack
from gonio.search.search_space import neighbours
from gonio.search.uncertainty import Curvature


@dataclass(frozen=True)
class Cpu:
    """A ``Backend`` that does one piece of work after another in this process."""

    def search(self, searches: Sequence[PairSearch]) -> list[Found]:
        """Find the optima of pairs from coarse to fine."""
        return [_found(search) for search in searches]

    def refine(self, refinements: Sequence[Refinement]) -> list[lm.State]:
        """Refine every point on its own by Levenberg-Marquardt steps."""
        return [lm.minimise(r.problem.problem, r.points, max_iterations=r.max_iterations) for r in refinements]

    def best_shifts(self, seeds: Sequence[BestShifts]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Find the best shifts (p, 3) in angstrom of rotations, and dissimilarities (p,)."""
        return [s.comparison.best_shifts(s.rotations, max_shift_angstrom=s.max_shift_angstrom) for s in seeds]

    def normal_equations(self, evaluations: Sequence[Evaluation]) -> list[NormalEquations]:
        """Evaluate dissimilarity and normal equations at points."""
        return [e.comparison.normal_equations(*unpack(e.points)) for e in evaluations]

    def shell_sums(self, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
        """Sum |f|^2, |g|^2, f.g and |Omega| over shells at points, (p, s, 4)."""
        return [e.comparison.shell_sums(*unpack(e.points)) for e in evaluations]

    def shell_equations(self, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
        """Sum the terms of the normal equations over shells at points, (p, s, 37)."""
        return [
            np.stack([e.comparison.shell_equations(*pose) for pose in zip(*unpack(e.points), strict=True)])
            for e in evaluations
        ]


def _found(search: PairSearch) -> Found:
    stages = _OnCpu(search)
    conduct(stages, search.course)
    return stages.found()


def chance_poses(count: int) -> slice:
    """Return which of ``count`` seeds give the chance correlation, nearly all being wrong; none where they are few."""
    chosen = slice(0, count, max(1, count // CHANCE_POSES))
    return chosen if len(range(count)[chosen]) >= MIN_CHANCE_POSES else slice(0)


def expected(pair: Pair, points: NDArray[np.float64], chance: NDArray[np.float64]) -> ExpectedFsc:
    """Return the expected FSC of a pair whose pose is the first of points (p, 12).

    ``chance`` (s,) is the chance correlation.
    """
    return ExpectedFsc.of_sums(pair.plain(Score.FCS).shell_sums(*unpack(points[:1]))[0], chance, pair.c_ref)


class _OnCpu:
    """The ``Stages`` of one search on the CPU."""

    def __init__(self, search: PairSearch) -> None:
        self._search, self._pair = search, search.pair
        self._known = search.expected_fsc
        self._before = self._pair.before if self._known is None else self._known
        self._points = self._values = self._choice = np.empty(0)
        self._codes = np.empty(0, np.int64)
        self._deviation, self._iterations = np.inf, 0

    def seed(self) -> None:
        search, plain = self._search, self._pair.plain(Score.FCS)
        coarse = self._pair.filtered(Score.LIKELIHOOD, self._before, search.plan.limits[0])
        self._points, scores = search.frame.seeds(coarse, points=search.grid)
        if scores is None and search.course.levels > 1:
            scores, _ = coarse.values(*unpack(self._points))
        some = self._points[chance_poses(len(self._points))]
        self._chance = (
            chance_correlation(plain.shell_sums(*unpack(some))) if len(some) else np.zeros(plain.target.n_shells)
        )
        if self._before is not None and self._known is None:
            self._before = self._before.above(self._chance)
        if scores is not None:
            self._values = scores

    def keep_seeds(self, rule: PruningRule) -> None:
        self._deviation = deviation_of(self._values)
        order = np.argsort(self._values, kind="stable")
        self._points = self._points[order[: rule.count(self._values[order], self._deviation)]]

    def refine(self, level: int | None, steps: int) -> None:
        if level is None:
            comparison = self._pair.filtered(self._search.score, self._expected_fsc)
        else:
            comparison = self._pair.filtered(Score.LIKELIHOOD, self._before, self._search.plan.limits[level])
        if steps == 0 and self._search.frame.prior is None:
            # Without derivatives, which take half as long again.
            self._values, _ = comparison.values(*unpack(self._points))
            end = lm.Status.MAX_ITERATIONS.code, lm.Status.NO_OVERLAP.code
            self._codes = np.where(np.isfinite(self._values), *end)
            return
        state = self._minimised(comparison, self._points, steps)
        self._points, self._values, self._codes = state.points, state.dissimilarity, state.code

    def keep(self, rule: PruningRule) -> None:
        """Keep the best distinct poses by the pruning rule.

        A prior makes scores those of one sample: then more poses go on, up to the rule's most.
        """
        self._keep_distinct(self._values, rule.most)
        self._take(np.arange(rule.count(self._values, self._deviation)))

    def expect(self) -> None:
        known = self._known
        self._expected_fsc = expected(self._pair, self._points, self._chance) if known is None else known

    def search_neighbours(self) -> None:
        self._points = np.concatenate([self._points, neighbours(self._points[:NEIGHBOURED])])

    def choose(self) -> None:
        if self._pair.exact:
            choice, _ = self._pair.plain(Score.RCS).values(*unpack(self._points))
        else:
            comparison = self._pair.filtered(Score.LIKELIHOOD, self._expected_fsc.raised(CHOICE_POWER))
            choice, overlap = comparison.values(*unpack(self._points))
            prior = self._search.frame.negative_log_prior
            prior_values = np.zeros(len(choice)) if prior is None else prior(self._points)
            each, kappa = zip(choice, overlap, prior_values, strict=True), self._pair.samples_per_independent
            choice = np.array([model.ranking_value(*one, kappa) for one in each])
        self._keep_distinct(choice, LAST_CANDIDATES)

    def converge(self, steps: int) -> None:
        alone = self._search.course.alone
        expected_fsc = None if alone else self._expected_fsc
        best = self._minimised(self._pair.filtered(self._search.score, expected_fsc), self._points[:1], steps)
        self._points = np.concatenate([best.points, self._points[1:]])
        self._values = np.concatenate([best.dissimilarity, self._values[1:]])
        self._codes = np.concatenate([best.code, self._codes[1:]])
        self._choice = self._values if alone else self._choice
        self._take(self._distinct(LAST_CANDIDATES))

    def found(self) -> Found:
        """Return the optima that remain."""
        full, plain = self._pair.filtered(self._search.score, self._expected_fsc), self._pair.plain(Score.FCS)
        weighted = self._pair.filtered(Score.FCS, self._expected_fsc)
        values, _ = full.values(*unpack(self._points))
        _, overlap = plain.values(*unpack(self._points[:1]))
        rotations, shifts = unpack(self._points[:1])
        curvature = Curvature.of_sums(
            weighted.shell_equations(rotations[0], shifts[0]),
            weighted.target.shell_weights(),
            phase=weighted.phase,
            samples_per_independent=self._pair.samples_per_independent,
        )
        return Found(
            points=self._points,
            # The minimised values contain the frame's prior too.
            dissimilarity=np.where(np.isfinite(self._values), values, np.inf),
            choice=self._choice,
            status=lm.Status.of(int(self._codes[0])),
            iterations=self._iterations,
            expected_fsc=self._expected_fsc,
            overlap=float(overlap[0]),
            curvature=curvature,
        )

    def _minimised(self, comparison: Comparison, points: NDArray[np.float64], steps: int) -> lm.State:
        if self._search.minimise is not None and steps > 0:
            state = self._search.minimise(comparison, points, steps)
        else:
            problem = self._search.frame.problem(comparison, samples_per_independent=self._pair.samples_per_independent)
            state = lm.minimise(problem, points, max_iterations=steps)
        self._iterations += int(state.iterations.sum())
        return state

    def _keep_distinct(self, choice: NDArray[np.float64], count: int) -> None:
        """Keep the first ``count`` distinct points, smallest choice first; those without a dissimilarity come last."""
        self._choice = np.where(np.isfinite(self._values), choice, np.inf)
        self._take(np.argsort(self._choice, kind="stable"))
        self._take(self._distinct(count))

    def _take(self, rows: NDArray[np.int64]) -> None:
        self._points, self._values = self._points[rows], self._values[rows]
        self._choice, self._codes = self._choice[rows], self._codes[rows]

    def _distinct(self, count: int) -> NDArray[np.int64]:
        rows = np.empty(len(self._points), np.int64)
        voxel = self._pair.target.voxel_size_angstrom
        return rows[: pool.distinct(self._points, voxel, self._search.group, DISTINCT, count, rows)]
