"""From the outcome of a search to a ``Result``: the best pose, its covariance, and the runners-up.

Must not know how optima were searched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import History, Optimum, Result
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, NormalEquations
from gonio.particle.pose import Pose
from gonio.search.backend import Backend, Evaluation, Found
from gonio.search.objective import poses_of
from gonio.search.search_space import Frame
from gonio.search.stochastic import Outcome
from gonio.search.uncertainty import Curvature

# The paper's searches keep their whole pool: poses further apart than this are its optima, at most this many.
RUNNER_UP_DEG, RUNNERS_UP = 10.0, 5
# An optimum is another one, and better, where its dissimilarity is lower by more than this fraction.
SAME_OPTIMUM = 1e-5


@dataclass(frozen=True)
class Refined:
    """Outcome of refining the seeds of a comparison in a frame."""

    comparison: Comparison
    frame: Frame
    outcome: Outcome

    @cached_property
    def poses(self) -> Pose:
        """Candidates that are left, best first."""
        return poses_of(self.outcome.state.points)

    def result(self, equations: NormalEquations, sums: NDArray[np.float64]) -> Result:
        """Return the result, from the normal equations at the best pose and the sums (1, s, 37) of their shells."""
        poses, values, target = self.poses, self.outcome.state.dissimilarity, self.comparison.target
        points, frame = self.outcome.best_points, self.frame
        curvature = Curvature.of_sums(
            sums[0], target.shell_weights(), phase=self.comparison.phase, samples_per_independent=1.0
        )
        rows = [] if frame.shift_angstrom is not None else _runners_up(poses, values)
        return Result(
            pose=poses[0],
            dissimilarity=float(equations.dissimilarity[0]),
            status=self.outcome.state.status[0],
            n_iterations=self.outcome.iterations,
            overlap=float(equations.overlap[0] / target.weight.sum(dtype=np.float64)),
            covariance=curvature.covariance(directions=frame.directions, precision=frame.precision(poses[0])),
            runners_up=tuple(Optimum(poses[i], float(values[i]), float(values[i] - values[0])) for i in rows),
            history=History(self.outcome.history, poses_of(points)) if points is not None and len(points) else None,
        )


def results_of(refined: Sequence[Refined], backend: Backend) -> list[Result]:
    """Return the results of comparisons whose seeds were refined."""
    best = [Evaluation.at(one.comparison, one.poses[:1]) for one in refined]
    equations = backend.normal_equations(best)
    sums = backend.shell_equations([replace(one, comparison=one.comparison.by_fcs()) for one in best])
    return [one.result(e, s) for one, e, s in zip(refined, equations, sums, strict=True)]


def result_of(pair: Pair, found: Found, frame: Frame) -> Result:
    """Return the result of a search from coarse to fine."""
    poses, values, choice = poses_of(found.points), found.dissimilarity, found.choice
    rows = [i for i in range(1, len(values)) if np.isfinite(values[i])]
    return Result(
        pose=poses[0],
        dissimilarity=float(values[0]),
        status=found.status,
        n_iterations=found.iterations,
        overlap=found.overlap / float(pair.target.weight.sum(dtype=np.float64)),
        covariance=found.curvature.covariance(directions=frame.directions, precision=frame.precision(poses[0])),
        runners_up=tuple(Optimum(poses[i], float(values[i]), float(choice[i] - choice[0])) for i in rows),
        expected_fsc=found.expected_fsc,
    )


def better_of(found: Result, known: Result, *, samples_per_independent: float) -> Result:
    """Return the result of a search, or the optimum near a known pose where its dissimilarity is lower.

    Then the former is a runner-up. The covariance of ``known`` is multiplied by ``samples_per_independent`` of the
    comparison, which it lacks.
    """
    steps, gained = found.n_iterations + known.n_iterations, found.dissimilarity - known.dissimilarity
    if not (known.status.ok and gained > SAME_OPTIMUM * found.dissimilarity):
        return replace(found, n_iterations=steps)
    others = [replace(one, margin=one.dissimilarity - known.dissimilarity) for one in found.runners_up]
    return replace(
        known,
        n_iterations=steps,
        covariance=samples_per_independent * known.covariance,
        runners_up=(Optimum(found.pose, found.dissimilarity, gained), *others),
        expected_fsc=found.expected_fsc,
    )


def _runners_up(poses: Pose, values: NDArray[np.float64]) -> list[int]:
    """Return the rows of the best poses of a pool that are near neither the first nor one another."""
    kept = [0]
    for i in range(1, len(values)):
        apart = (poses[i].rotation * poses[np.array(kept)].rotation.inv()).magnitude()
        if np.isfinite(values[i]) and np.degrees(apart.min()) > RUNNER_UP_DEG:
            kept.append(i)
        if len(kept) > RUNNERS_UP:
            break
    return kept[1:]
