"""Targets ready to be searched, and the steps from them to results, each for a whole batch at once.

    from seeds            best shifts -> every seed refined -> Result
    from coarse to fine   optima -> Result -> a known pose tried -> posterior -> refined unprocessed

Each step is given those of the batch to which it applies, and calls the backend once. ``Aligner.prepare`` chooses the
search of a target.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.outcome import Refined, better_of, result_of, results_of
from gonio.alignment.posterior import Optima, with_posteriors
from gonio.alignment.result import Result
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.score import Comparison, Score
from gonio.particle.pose import Pose
from gonio.particle.volume import Particle
from gonio.preparation.prepare import Preparation
from gonio.search import stochastic
from gonio.search.backend import Backend, BestShifts, Found, PairSearch, Refinement
from gonio.search.objective import pack, signature, with_moving_overlap
from gonio.search.search_space import Frame
from gonio.settings import GlobalSearch, Overlap, PaperSearch, Settings

# A pair that shares this fraction of its power may be compared unprocessed.
NOISE_FREE = 0.97
# Variances are estimated to a factor of a few only: a pose is surer when its variance is below this fraction.
SURER = 0.5


@dataclass(frozen=True)
class FromSeeds:
    """A comparison whose seeds are refined at the full limit: a local search, or one of the paper's.

    Any backend can do a search that ``refines_each`` seed by itself. Else ``rng`` draws the candidates of a stochastic
    search, whose history is kept if ``record`` is true.
    """

    comparison: Comparison
    frame: Frame
    settings: Settings
    refines_each: bool = True
    rng: np.random.Generator | None = None
    record: bool = False

    @property
    def by_fcs(self) -> Comparison:
        """Comparison by FCS, whose sums over shells do not depend on the score of the search."""
        return self.comparison.by_fcs()

    def explored(self, seeds: NDArray[np.float64]) -> stochastic.Outcome:
        """Refine seeds (p, 12) as only the CPU can: drawn one by one, or with a moving overlap."""
        problem, search = self.frame.problem(self.comparison), self.settings.search
        assert isinstance(search, PaperSearch)
        problem = with_moving_overlap(problem) if search.overlap is Overlap.MOVING else problem
        if not self.settings.draws:
            return stochastic.refine_all(problem, seeds, max_iterations=self.settings.max_refinement_iterations)
        assert self.rng is not None  # Aligner.prepare has checked it
        return stochastic.refine_stochastically(
            problem,
            seeds,
            schedule=search.schedule,
            signature=partial(signature, voxel_size_angstrom=self.comparison.target.voxel_size_angstrom),
            rng=self.rng,
            record=self.record,
        )


@dataclass(frozen=True)
class FromCoarseToFine:
    """A target, its search from coarse to fine, and what its result depends on besides.

    ``start`` is a pose that may be right; ``expected_fsc`` is the caller's, which the search has in shells of the box
    that is compared.
    """

    target: Particle
    search: PairSearch
    preparation: Preparation
    settings: Settings
    rng: np.random.Generator | None
    start: Pose | None
    expected_fsc: ExpectedFsc | None

    @property
    def by_fcs(self) -> Comparison:
        """Comparison by FCS, whose sums over shells do not depend on the score of the search."""
        return self.search.pair.plain(Score.FCS)

    @property
    def tries_start(self) -> bool:
        """True where a pose that may be right is tried besides the optima found."""
        wanted = self.start is not None and isinstance(self.settings.search, GlobalSearch)
        return wanted and self.search.pair.exact

    def may_be_unprocessed(self, found: Found) -> bool:
        """Return whether the particles may be compared unprocessed: nothing is masked, and there is almost no noise."""
        return not self.preparation.keeps_out and found.expected_fsc.shared_power >= NOISE_FREE

    def result(self, found: Found) -> Result:
        """Return what was found as a result, with its expected FSC in shells of the target."""
        pair, known = self.search.pair, self.expected_fsc
        if known is None:
            compared, whole = (one.box * one.voxel_size_angstrom for one in (pair.target, self.target))
            shells = int(np.rint(pair.target.limit * whole / compared)) + 1
            known = found.expected_fsc.in_shells(whole, shells, own=compared)
        return replace(result_of(pair, found, self.search.frame), expected_fsc=known)


Prepared = FromSeeds | FromCoarseToFine


def finished(prepared: Sequence[Prepared], backend: Backend) -> list[Result]:
    """Search a batch of targets, and return their results in order; a result does not depend on its batch."""
    seeds = [one for one in prepared if isinstance(one, FromSeeds)]
    searches = [one for one in prepared if isinstance(one, FromCoarseToFine)]
    from_seeds, from_searches = iter(_from_seeds(seeds, backend)), iter(_from_coarse_to_fine(searches, backend))
    return [next(from_seeds if isinstance(one, FromSeeds) else from_searches) for one in prepared]


def _from_seeds(batch: Sequence[FromSeeds], backend: Backend) -> list[Result]:
    seeds = _seeds(batch, backend)
    refinements = [
        Refinement(one.frame.pose_problem(one.comparison), points, one.settings.max_refinement_iterations)
        for one, points in zip(batch, seeds, strict=True)
        if one.refines_each
    ]
    states = iter(backend.refine(refinements))
    outcomes = [
        stochastic.all_refined(next(states)) if one.refines_each else one.explored(points)
        for one, points in zip(batch, seeds, strict=True)
    ]
    return results_of([Refined(b.comparison, b.frame, o) for b, o in zip(batch, outcomes, strict=True)], backend)


def _seeds(batch: Sequence[FromSeeds], backend: Backend) -> list[NDArray[np.float64]]:
    """Return the seeds of each as points (p, 12), with their best shifts where the frame has none."""
    unknown = [(one.comparison, one.frame) for one in batch if one.frame.shift_angstrom is None]
    found = iter(backend.best_shifts([BestShifts(c, f.rotations, f.max_shift_angstrom) for c, f in unknown]))
    frames = [one.frame for one in batch]
    return [f.points(next(found)[0] if f.shift_angstrom is None else f.shift_angstrom) for f in frames]


def _from_coarse_to_fine(batch: Sequence[FromCoarseToFine], backend: Backend) -> list[Result]:
    found = backend.search([one.search for one in batch])
    results = [one.result(optima) for one, optima in zip(batch, found, strict=True)]
    steps: tuple[tuple[_Step, list[bool]], ...] = (
        (_unless_better_near, [one.tries_start for one in batch]),
        (_with_posteriors, [one.search.pair.exact for one in batch]),
        (_refined_unprocessed, [one.may_be_unprocessed(optima) for one, optima in zip(batch, found, strict=True)]),
    )
    for step, applies in steps:
        places = [place for place, does in enumerate(applies) if does]
        changed = step([(batch[place], results[place]) for place in places], backend)
        for place, result in zip(places, changed, strict=True):
            results[place] = result
    return results


# Part of a batch with the results so far, and a step that changes these.
_Searched = Sequence[tuple[FromCoarseToFine, Result]]
_Step = Callable[[_Searched, Backend], list[Result]]


def _unless_better_near(searched: _Searched, backend: Backend) -> list[Result]:
    """Return the results, or the optima near poses that may be right where the search has missed these."""
    starts = []
    for one, _ in searched:
        score = Score.RCS if one.settings.score is Score.LIKELIHOOD else one.settings.score
        assert one.start is not None  # it is tried
        starts.append((one, one.search.pair.plain(score), one.start))
    return [
        better_of(result, near, samples_per_independent=one.search.pair.samples_per_independent)
        for (one, result), near in zip(searched, _refined(starts, backend), strict=True)
    ]


def _with_posteriors(searched: _Searched, backend: Backend) -> list[Result]:
    optima = [Optima(found, one.search.pair, one.search.frame, one.settings, one.rng) for one, found in searched]
    return with_posteriors(optima, backend)


def _refined_unprocessed(searched: _Searched, backend: Backend) -> list[Result]:
    """Return results with poses refined on the unprocessed particles, where these are surer.

    Without noise and with almost no missing wedge there is nothing to restore, and a sphere only removes signal.
    The wedge correlates samples as much as a sphere does, hence the same samples per independent sample.
    """
    starts = [(one, one.preparation.plain_pair(one.target).plain(Score.RCS), found.pose) for one, found in searched]
    return [
        _surer(found, again, one.search.pair.samples_per_independent)
        for (one, found), again in zip(searched, _refined(starts, backend), strict=True)
    ]


def _surer(result: Result, again: Result, samples_per_independent: float) -> Result:
    """Return a result with the pose of another refinement, whose covariance lacks the factor, where that is surer."""
    covariance, steps = samples_per_independent * again.covariance, result.n_iterations + again.n_iterations
    surer = again.status.ok and np.trace(covariance[:3, :3]) < SURER * np.trace(result.covariance[:3, :3])
    if not surer:
        return replace(result, n_iterations=steps)
    return replace(result, pose=again.pose, covariance=covariance, n_iterations=steps)


def _refined(starts: Sequence[tuple[FromCoarseToFine, Comparison, Pose]], backend: Backend) -> list[Result]:
    """Return the optimum of each comparison that refining a pose in its search's frame leads to."""
    refinements = [
        Refinement(
            one.search.frame.pose_problem(compared),
            pack(pose.matrix[None], pose.shift_angstrom[None]),
            one.settings.max_refinement_iterations,
        )
        for one, compared, pose in starts
    ]
    refined = [
        Refined(compared, one.search.frame, stochastic.all_refined(state))
        for (one, compared, _), state in zip(starts, backend.refine(refinements), strict=True)
    ]
    return results_of(refined, backend)
