"""Who does the work of searches: the CPU or a GPU, each given many pieces of one kind of work at a time.

    alignment.prepared.Prepared  ->  Backend: search.cpu.Cpu, search.gpu.device.Device  ->  alignment.result.Result

A piece of work is a value that holds all its answer depends on. Answers come in the order of the pieces and do not
depend on what else is in the batch. Poses are points as in ``objective``. Must not know what the answers are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, NormalEquations, Score
from gonio.particle.pose import Pose
from gonio.search import levenberg_marquardt as lm
from gonio.search.coarse_to_fine import PRUNING, Course, Plan, PruningRules
from gonio.search.objective import PoseProblem, pack
from gonio.search.search_space import Frame
from gonio.search.uncertainty import Curvature

__all__ = ["Backend", "BestShifts", "Evaluation", "Found", "PairSearch", "Refinement"]


class Backend(Protocol):
    """Does work: ``cpu.Cpu`` one piece after another, ``gpu.device.Device`` as many at a time as its memory holds."""

    def search(self, searches: Sequence[PairSearch]) -> list[Found]:
        """Find the optima of pairs from coarse to fine."""
        ...

    def refine(self, refinements: Sequence[Refinement]) -> list[lm.State]:
        """Refine points each by itself by Levenberg-Marquardt steps, ``levenberg_marquardt.minimise``."""
        ...

    def best_shifts(self, seeds: Sequence[BestShifts]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Find the best shift of each of p rotations: shifts (p, 3) in angstrom and dissimilarities (p,)."""
        ...

    def normal_equations(self, evaluations: Sequence[Evaluation]) -> list[NormalEquations]:
        """Evaluate dissimilarity and normal equations at p points."""
        ...

    def shell_sums(self, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
        """Sum |f|^2, |g|^2, f.g and |Omega| over each of s shells at p points, (p, s, 4)."""
        ...

    def shell_equations(self, evaluations: Sequence[Evaluation]) -> list[NDArray[np.float64]]:
        """Sum the 37 terms of the normal equations (``kernels.sample_sums``) over each of s shells at p points, (p, s, 37)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """A comparison, and the points (p, 12) at which it is evaluated."""

    comparison: Comparison
    points: NDArray[np.float64]

    @staticmethod
    def at(comparison: Comparison, poses: Pose) -> Evaluation:
        """Evaluate at a batch of poses."""
        return Evaluation(comparison, pack(poses.matrix, poses.shift_angstrom))


@dataclass(frozen=True)
class BestShifts:
    """Rotations (p, 3, 3) whose best shifts are looked for within a distance, at every voxel of the box."""

    comparison: Comparison
    rotations: NDArray[np.float64]
    max_shift_angstrom: float


@dataclass(frozen=True)
class Refinement:
    """Points (p, 12) that are refined by at most so many iterations each."""

    problem: PoseProblem
    points: NDArray[np.float64]
    max_iterations: int

    @property
    def comparison(self) -> Comparison:
        """What is minimised."""
        return self.problem.comparison


@dataclass(frozen=True)
class Found:
    """The distinct optima of a pair, best first.

    ``points`` (m, 12); their ``dissimilarity`` (m,), infinite where nothing is shared; ``choice`` (m,), what they were
    chosen by (eq. 30); the ``status`` of the first; Levenberg-Marquardt ``iterations`` over all candidates;
    what is expected of the pair, with which the last refinement weighted its samples; the weight of the samples in
    common at the first, its ``overlap``; and the ``curvature`` there.
    """

    points: NDArray[np.float64]
    dissimilarity: NDArray[np.float64]
    choice: NDArray[np.float64]
    status: lm.Status
    iterations: int
    expected_fsc: ExpectedFsc
    overlap: float
    curvature: Curvature


@dataclass(frozen=True)
class PairSearch:
    """A search for the optima of a pair.

    Parameters
    ----------
    pair
        What is compared.
    frame
        Seeds, limits, and what is likelier.
    plan
        The limits of the stages.
    score
        What is minimised at the full limit; below it, it is the likelihood ratio of what is expected before any pose
        is known, or else RCS.
    group
        The rotations of the reference that make poses equal, (g, 3, 3).
    last_steps
        Of the last refinement, at most.
    looks
        Whether other optima near by are looked for.
    expectation
        What is known of the pair, in the shells of the target; None to take it from the pair itself as its pose
        improves.
    cuts
        What is pruned on the way.
    minimise
        Another way to refine points (p, 12) of a comparison by at most so many steps each, for the CPU; None refines
        each by itself.
    """

    pair: Pair
    frame: Frame
    plan: Plan
    score: Score
    group: NDArray[np.float64]
    last_steps: int
    neighbour_search: bool = False
    expected_fsc: ExpectedFsc | None = None
    cuts: PruningRules = PRUNING
    minimise: Callable[[Comparison, NDArray, int], lm.State] | None = None

    def __post_init__(self) -> None:
        shells = self.pair.target.n_shells
        if self.expected_fsc is not None and len(self.expected_fsc.correlation) != shells:
            raise ValueError(f"an expectation of {len(self.expected_fsc.correlation)} shells, the target has {shells}")
        if len(self.plan.limits) == 1 and len(self.frame.rotations) > 1:
            raise ValueError("several starts need a coarser limit at which they are told apart")

    @property
    def course(self) -> Course:
        """The stages that it has."""
        alone = self.pair.exact and len(self.frame.rotations) == 1
        return Course(len(self.plan.limits), alone, self.neighbour_search, self.last_steps, self.cuts)

    @property
    def grid(self) -> int:
        """Shifts of the seeds that are tried along the edge of the box."""
        return int(np.ceil(4 * self.plan.limits[0]))
