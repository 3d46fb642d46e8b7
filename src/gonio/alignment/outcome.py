"""What a search came to, as a ``Result``: poses, how sure the best is (uncertainty), and what else it could be.

What still has to be evaluated for it is asked for (``evaluation``). Must not know how optima were looked for.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import History, Optimum, Result
from gonio.comparison.pair import Pair
from gonio.comparison.score import Comparison
from gonio.particle.pose import Pose
from gonio.search.cpu import Found
from gonio.search.objective import pack, poses_of
from gonio.search.requests import Asking, Equations
from gonio.search.search_space import Frame
from gonio.search.stochastic import Outcome
from gonio.search.uncertainty import ask_pose_covariance

__all__ = ["ask_result", "better_of", "result_of"]

# The paper's searches keep their whole pool: its optima are those further apart than this, and no more of them.
RUNNER_UP_DEG, RUNNERS_UP = 10.0, 5
# An optimum is another one, and better, where its dissimilarity is less by this share.
SAME_OPTIMUM = 1e-5


def ask_result(comparison: Comparison, outcome: Outcome, frame: Frame) -> Asking[Result]:
    """Of a plain comparison whose pool was refined."""
    poses, values = poses_of(outcome.state.points), outcome.state.dissimilarity
    equations = yield Equations(comparison, pack(poses.matrix[:1], poses.shift_angstrom[:1]))
    target, points, found = comparison.target, outcome.best_points, float(equations.dissimilarity[0])
    alone = frame.shift_angstrom is not None
    rows = [] if alone else _runners_up(poses, values)
    return Result(
        pose=poses[0],
        dissimilarity=found,
        status=outcome.state.status[0],
        n_iterations=outcome.iterations,
        overlap=float(equations.overlap[0] / target.weight.sum(dtype=np.float64)),
        covariance=(
            yield from ask_pose_covariance(
                target,
                comparison.reference,
                poses[0],
                directions=frame.directions,
                crowding=1.0,
                precision=frame.precision(poses[0]),
            )
        ),
        runners_up=tuple(Optimum(poses[i], float(values[i]), float(values[i] - values[0])) for i in rows),
        history=History(outcome.history, poses_of(points)) if points is not None and len(points) else None,
    )


def result_of(pair: Pair, found: Found, frame: Frame) -> Result:
    """Of a search from coarse to fine."""
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
        expectation=found.expectation,
    )


def better_of(found: Result, known: Result, *, crowding: float) -> Result:
    """Return what a search found, or the optimum near a known pose where that has less of the same dissimilarity.

    Then the other is a runner-up. ``crowding`` is that of the comparison, which the covariance of ``known`` lacks.
    """
    steps, gained = found.n_iterations + known.n_iterations, found.dissimilarity - known.dissimilarity
    if not (known.status.ok and gained > SAME_OPTIMUM * found.dissimilarity):
        return replace(found, n_iterations=steps)
    others = [replace(one, margin=one.dissimilarity - known.dissimilarity) for one in found.runners_up]
    return replace(
        known,
        n_iterations=steps,
        covariance=crowding * known.covariance,
        runners_up=(Optimum(found.pose, found.dissimilarity, gained), *others),
        expectation=found.expectation,
    )


def _runners_up(poses: Pose, values: NDArray[np.float64]) -> list[int]:
    """The best poses of a pool that are not near the first nor one another."""
    kept = [0]
    for i in range(1, len(values)):
        apart = (poses[i].rotation * poses[np.array(kept)].rotation.inv()).magnitude()
        if np.isfinite(values[i]) and np.degrees(apart.min()) > RUNNER_UP_DEG:
            kept.append(i)
        if len(kept) > RUNNERS_UP:
            break
    return kept[1:]
