"""The interface to what does the work of searches, the CPU or a GPU, given many pieces of one kind at a time.

    alignment.prepared.Prepared  ->  Backend: search.cpu.Cpu, search.gpu.device.Device  ->  alignment.result.Result

A piece of work is a value that holds everything its answer depends on. Answers come in the order of the pieces and do
not depend on the rest of the batch. Poses are points as in ``objective``. Must not know what the answers are for.
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


class Backend(Protocol):
    """Executes work: ``cpu.Cpu`` one piece after another, ``gpu.device.Device`` as many at a time as memory holds."""

    def search(self, searches: Sequence[PairSearch]) -> list[Found]:
        """Find the optima of pairs from coarse to fine."""
        ...

    def refine(self, refinements: Sequence[Refinement]) -> list[lm.State]:
        """Refine every point on its own by Levenberg-Marquardt steps (``levenberg_marquardt.minimise``)."""
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
        """Sum the terms of the normal equations (``kernels.sample_sums``) over s shells at p points, (p, s, 37)."""
        ...


@dataclass(frozen=True)
class Evaluation:
    """A comparison, and the points (p, 12) at which it is evaluated."""

    comparison: Comparison
    points: NDArray[np.float64]

    @staticmethod
    def at(comparison: Comparison, poses: Pose) -> Evaluation:
        """Return the evaluation of a comparison at a batch of poses."""
        return Evaluation(comparison, pack(poses.matrix, poses.shift_angstrom))


@dataclass(frozen=True)
class BestShifts:
    """Rotations (p, 3, 3) whose best shifts within a distance are searched, at every voxel of the box."""

    comparison: Comparison
    rotations: NDArray[np.float64]
    max_shift_angstrom: float


@dataclass(frozen=True)
class Refinement:
    """Points (p, 12) that are refined by at most ``max_iterations`` iterations each."""

    problem: PoseProblem
    points: NDArray[np.float64]
    max_iterations: int

    @property
    def comparison(self) -> Comparison:
        """Comparison that is minimised."""
        return self.problem.comparison


@dataclass(frozen=True)
class Found:
    """The distinct optima of a pair, best first.

    ``points`` (m, 12); their ``dissimilarity`` (m,), infinite where nothing is shared; ``choice`` (m,), the values they
    were chosen by (eq. 30); the ``status`` of the first; Levenberg-Marquardt ``iterations`` over all candidates; the
    ``expected_fsc`` by which the last refinement weighted samples; the weight of the samples in common at the first,
    its ``overlap``; and the ``curvature`` there.
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
        Samples that are compared.
    frame
        Seeds, limits and prior.
    plan
        Resolution limits of the stages.
    score
        Minimised at the full limit. Below it the likelihood ratio is minimised, with the FSC that is expected before
        any pose is known, or RCS where none is.
    group
        Rotations of the reference that make poses equal, (g, 3, 3).
    last_steps
        Most steps of the last refinement.
    neighbour_search
        Whether other optima near by are searched.
    expected_fsc
        In the shells of the target; None to estimate it from the pair itself as its pose improves.
    pruning
        Pruning rules between the stages.
    minimise
        Another way to refine points (p, 12) of a comparison by at most a number of steps each, for the CPU; None
        refines every point on its own.
    """

    pair: Pair
    frame: Frame
    plan: Plan
    score: Score
    group: NDArray[np.float64]
    last_steps: int
    neighbour_search: bool = False
    expected_fsc: ExpectedFsc | None = None
    pruning: PruningRules = PRUNING
    minimise: Callable[[Comparison, NDArray[np.float64], int], lm.State] | None = None

    def __post_init__(self) -> None:
        shells = self.pair.target.n_shells
        if self.expected_fsc is not None and len(self.expected_fsc.correlation) != shells:
            raise ValueError(
                f"the expected FSC has {len(self.expected_fsc.correlation)} shells, the target has {shells}"
            )
        if len(self.plan.limits) == 1 and len(self.frame.rotations) > 1:
            raise ValueError("several starts need a coarser limit at which they are compared")

    @property
    def course(self) -> Course:
        """Stages of this search."""
        alone = self.pair.exact and len(self.frame.rotations) == 1
        return Course(len(self.plan.limits), alone, self.neighbour_search, self.last_steps, self.pruning)

    @property
    def grid(self) -> int:
        """Number of shifts that are tried along the edge of the box for the seeds."""
        return int(np.ceil(4 * self.plan.limits[0]))
