"""What a search came to, as a ``Result``: poses, how sure the best is (uncertainty), and what else it could be.

Everything that has to be evaluated for it is asked for (``evaluation``). Must not know how optima were looked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.candidates import Outcome
from gonio.coarse_to_fine import Found, Pair
from gonio.evaluation import Asking, Equations, ShellSums
from gonio.fourier import FourierVolume, Spectrum
from gonio.frame import Frame
from gonio.pose import Pose
from gonio.problem import pack, poses_of
from gonio.result import History, Optimum, Result
from gonio.score import Comparison, Score
from gonio.uncertainty import ask_pose_covariance

__all__ = ["ask_found", "ask_result"]

# The paper's searches keep their whole pool: its optima are those further apart than this, and no more of them.
RUNNER_UP_DEG, RUNNERS_UP = 10.0, 5


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
        covariance=(yield from _covariance(target, comparison.reference, poses[0], frame, crowding=1.0)),
        runners_up=tuple(Optimum(poses[i], float(values[i]), float(values[i] - values[0])) for i in rows),
        history=History(outcome.history, poses_of(points)) if points is not None and len(points) else None,
    )


def ask_found(pair: Pair, found: Found, frame: Frame, score: Score) -> Asking[Result]:
    """Of a search from coarse to fine."""
    poses, choice = poses_of(found.state.points), found.choice
    # What was minimised holds the frame's prior too.
    points = pack(poses.matrix, poses.shift_angstrom)
    equations = yield Equations(pair.filtered(score, found.expectation), points)
    values = np.where(np.isfinite(found.state.dissimilarity), equations.dissimilarity, np.inf)
    weighted = pair.filtered(Score.FCS, found.expectation).target
    # Weighted as the target weights its samples, which exact pairs do all along.
    overlap = equations.overlap[0]
    if not pair.exact:
        overlap = (yield ShellSums(pair.plain(Score.FCS), points[:1]))[0, :, 3].sum()
    rows = [i for i in range(1, len(values)) if np.isfinite(values[i])]
    return Result(
        pose=poses[0],
        dissimilarity=float(values[0]),
        status=found.state.status[0],
        n_iterations=found.iterations,
        overlap=float(overlap / pair.target.weight.sum(dtype=np.float64)),
        covariance=(yield from _covariance(weighted, pair.reference, poses[0], frame, crowding=pair.crowding)),
        runners_up=tuple(Optimum(poses[i], float(values[i]), float(choice[i] - choice[0])) for i in rows),
        expectation=found.expectation,
    )


def _covariance(
    target: Spectrum, reference: FourierVolume, pose: Pose, frame: Frame, *, crowding: float
) -> Asking[NDArray[np.float64]]:
    return ask_pose_covariance(
        target,
        reference,
        pose,
        directions=frame.directions,
        crowding=crowding,
        precision=frame.precision(pose),
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
