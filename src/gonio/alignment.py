"""Alignment of a particle to a reference: where the score meets the search.

Flow: particle -> samples (fourier) -> seeds (orientations, best shift by FFT) -> refinement (candidates, lm) of the
dissimilarity (score) -> Result. Points of the optimiser are rows of 12 numbers: R by rows, then t in angstrom.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio import candidates, lm, orientations
from gonio.fourier import FourierVolume, Spectrum, shell_limit
from gonio.lm import Status
from gonio.pose import Pose, anchors, moved_along
from gonio.score import MIN_CONTRAST, Comparison, NormalEquations, Score
from gonio.volume import Particle, Subtomogram, TiltStack, Volume

__all__ = ["Aligner", "History", "Result", "Search", "Settings", "align"]

VOXEL_SIZE_TOLERANCE = 1e-3
_TINY = 1e-12
_LENGTHS = (
    "resolution_angstrom",
    "max_shift_angstrom",
    "particle_diameter_angstrom",
    "tolerance_angstrom",
    "prior_rotation_sd_deg",
    "prior_shift_sd_angstrom",
)


class Search(StrEnum):
    """How the pose is looked for.

    ``STOCHASTIC`` is the paper's parallel refinement of an Euler grid, ``INDEPENDENT`` refines every seed of that grid,
    ``AXIS`` is the stochastic refinement of turns about the particles' known normals, ``LOCAL`` refines a given pose.
    """

    STOCHASTIC = "stochastic"
    INDEPENDENT = "independent"
    AXIS = "axis"
    LOCAL = "local"


@dataclass(frozen=True)
class Settings:
    """What an alignment is asked to do.

    Parameters
    ----------
    score
        ``"rcs"`` (blind to contrast) or ``"fcs"`` (for particles on one scale).
    search
        See ``Search``.
    seed_interval_deg
        Interval of the starting angles; 60 gives 108 seeds (6 about an axis), 45 gives 256 (8).
    resolution_angstrom
        Finest detail that is compared; None for four voxels, the paper's 4 nm at 1 nm voxels.
    max_shift_angstrom
        Largest length of the shift (for a local search, of its change); None for a quarter of the box.
    particle_diameter_angstrom
        Turns rotations into lengths for the tolerance; None for half of the box.
    tolerance_angstrom
        A refinement ends when no part of the particle moves by more than this in a step.
    max_refinement_iterations
        For each seed of the independent search and for the local one.
    prior_rotation_sd_deg, prior_shift_sd_angstrom
        How far, per axis, a local search expects the pose to be from where it starts (standard deviations of a
        Gaussian prior); None for no expectation. Noisy particles then move only as far as their data tell.
    schedule
        Constants of the stochastic refinement.
    """

    score: Score | str = Score.RCS
    search: Search | str = Search.STOCHASTIC
    seed_interval_deg: float = 60.0
    resolution_angstrom: float | None = None
    max_shift_angstrom: float | None = None
    particle_diameter_angstrom: float | None = None
    tolerance_angstrom: float = 0.01
    max_refinement_iterations: int = 100
    prior_rotation_sd_deg: float | None = None
    prior_shift_sd_angstrom: float | None = None
    schedule: candidates.Schedule = candidates.Schedule()

    def __post_init__(self) -> None:
        for name, kind in (("score", Score), ("search", Search)):
            value = getattr(self, name)
            if value not in list(kind):
                raise ValueError(f"{name} must be one of {', '.join(kind)}, got {value!r}")
            object.__setattr__(self, name, kind(value))
        for name in _LENGTHS:
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if self.max_refinement_iterations < 1:
            raise ValueError(f"max_refinement_iterations must be at least 1, got {self.max_refinement_iterations!r}")
        orientations.euler_grid(self.seed_interval_deg)


@dataclass(frozen=True)
class History:
    """The smallest dissimilarity after each iteration (i,), and the pose that had it (a batch of i)."""

    dissimilarity: NDArray[np.float64]
    poses: Pose


@dataclass(frozen=True)
class Result:
    """The pose found, and how.

    Attributes
    ----------
    pose
        ``x_target = R x_reference + t``.
    dissimilarity
        At the pose; infinite when the wedges share nothing there.
    status
        How the refinement ended; ``status.sentence`` says it.
    n_iterations
        Levenberg-Marquardt steps over all candidates.
    overlap
        Share of the target's measured samples that the reference has measured too, 0 to 1.
    history
        One entry for each iteration of a stochastic search, when recorded.
    """

    pose: Pose
    dissimilarity: float
    status: Status
    n_iterations: int
    overlap: float
    history: History | None = None


def _pack(rotations: NDArray, shifts: NDArray) -> NDArray[np.float64]:
    return np.concatenate([rotations.reshape(-1, 9), shifts], axis=1)  # (p, 12)


def _unpack(points: NDArray) -> tuple[NDArray, NDArray]:
    return points[:, :9].reshape(-1, 3, 3), points[:, 9:]


def _poses(points: NDArray) -> Pose:
    rotations, shifts = _unpack(points)
    return Pose(Rotation.from_matrix(rotations), shifts)


class _PoseProblem:
    """A comparison as the optimiser sees it: model, retraction and length, in a box of allowed shifts.

    ``directions`` (6, k) are the tangents that may be used: all six, or one turn and three shifts about an axis.
    """

    def __init__(
        self,
        comparison: Comparison,
        *,
        directions: NDArray[np.float64],
        shift_centre_angstrom: NDArray[np.float64],
        max_shift_angstrom: float,
        radius_angstrom: float,
    ) -> None:
        self._comparison = comparison
        self._directions = directions
        self._centre = shift_centre_angstrom
        # Seeds lie on whole voxels inside the ball; the refinement may leave it by one.
        self._max_shift = max_shift_angstrom + comparison.target.voxel_size_angstrom
        self._radius = radius_angstrom

    def equations(self, points: NDArray) -> tuple[NormalEquations, NDArray[np.bool_]]:
        rotations, shifts = _unpack(points)
        far = np.linalg.norm(shifts - self._centre, axis=1) > self._max_shift
        return self._comparison.normal_equations(rotations, shifts), far

    def model(self, points: NDArray) -> lm.Model:
        equations, far = self.equations(points)
        b = self._directions
        hessian = np.einsum("ia,pij,jb->pab", b, equations.hessian, b)
        return np.where(far, np.inf, equations.dissimilarity), hessian, equations.descent @ b

    def retract(self, points: NDArray, steps: NDArray) -> NDArray:
        return _pack(*moved_along(*_unpack(points), steps @ self._directions.T))

    def length(self, steps: NDArray) -> NDArray:
        tangent = steps @ self._directions.T
        return np.linalg.norm(tangent[:, :3], axis=1) * self._radius + np.linalg.norm(tangent[:, 3:], axis=1)


class _PriorProblem:
    """A pose problem with a Gaussian prior around the pose where it starts: the most probable pose.

    Minimises, over N, the negative log of the posterior (docs/theory.md eq. 16): the noise variance and, for RCS, the
    contrast that fit best are put in, which leaves N ln(1 - c^2) for RCS and N ln d for FCS, N = |Omega|.
    """

    def __init__(self, problem: _PoseProblem, start: Pose, score: Score, precision: NDArray[np.float64]) -> None:
        self._problem = problem
        self._start = start
        self._score = score
        self._precision = precision  # of the tangent, (6,)

    def model(self, points: NDArray) -> lm.Model:
        equations, far = self._problem.equations(points)
        d, overlap = equations.dissimilarity, np.maximum(equations.overlap, 1.0)
        value, slope = _log_likelihood(self._score, np.where(np.isfinite(d), d, 1.0))
        rotations, shifts = _unpack(points)
        turn = Rotation.from_matrix(rotations @ self._start.matrix.T).as_rotvec()
        moved = np.concatenate([turn, shifts - self._start.shift_angstrom], axis=1)  # (p, 6)
        value = value + 0.5 * (self._precision * moved**2).sum(axis=1) / overlap
        # d(x + dx) ~ d - 2 b.dx + dx^T H dx: half a gradient and half a second derivative.
        hessian = slope[:, None, None] * equations.hessian + 0.5 * np.diag(self._precision) / overlap[:, None, None]
        descent = slope[:, None] * equations.descent - 0.5 * self._precision * moved / overlap[:, None]
        return np.where(far | ~np.isfinite(d), np.inf, value), hessian, descent


def _log_likelihood(score: Score, d: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The negative log likelihood for each sample, and its derivative by the dissimilarity."""
    if score is Score.FCS:
        return np.log(np.maximum(d, _TINY)), 1.0 / np.maximum(d, _TINY)
    # Below MIN_CONTRAST the curve goes on as a straight line, so that a negative correlation still points uphill.
    c = 1.0 - d / 2.0
    bent = np.clip(c, MIN_CONTRAST, None)
    rest = np.maximum(1.0 - bent**2, _TINY)
    return np.log(rest) - 2.0 * bent / rest * (c - bent), bent / rest


class Aligner:
    """Aligns particles to one reference; what depends on the reference alone is computed once.

    Parameters
    ----------
    reference
        A ``Volume`` (nothing missing) or a ``Subtomogram``.
    settings
        What to do; the default is the paper's RCS and stochastic search.

    Raises
    ------
    ValueError, TypeError
        When the reference is constant, is a tilt stack, or does not suit the resolution asked for.

    Examples
    --------
    >>> import numpy as np, gonio
    >>> map_ = gonio.Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), voxel_size_angstrom=10.0)
    >>> aligner = gonio.Aligner(map_, gonio.Settings(search="local"))
    >>> result = aligner.align(gonio.Subtomogram(map_), start=gonio.Pose.identity())
    >>> result.status.ok
    True
    """

    def __init__(self, reference: Volume | Subtomogram, settings: Settings | None = None) -> None:
        if isinstance(reference, TiltStack):
            raise TypeError("a tilt stack cannot be the reference: give a Volume or a Subtomogram")
        self.settings = Settings() if settings is None else settings
        self.reference = Subtomogram(reference) if isinstance(reference, Volume) else reference
        self._spectra: dict[int, FourierVolume] = {}
        self._spectrum_for(self.reference.box)

    def align(
        self,
        target: Particle,
        *,
        rng: np.random.Generator | None = None,
        start: Pose | None = None,
        record: bool = False,
    ) -> Result:
        """Find the pose that lays the reference on ``target``.

        Parameters
        ----------
        target
            A subtomogram or tilt stack of the reference's voxel size; its box may differ from the reference's.
        rng
            Draws the candidates of a stochastic search, which needs it.
        start
            Where a local search starts, which needs it.
        record
            Whether the result holds the history of a stochastic search.

        Raises
        ------
        ValueError
            Voxel sizes that differ, a box too small for the resolution, a missing ``rng``, ``start`` or normal.
        """
        comparison = self._compare(target)
        search = self.settings.search
        if search is Search.LOCAL:
            if start is None:
                raise ValueError("a local search needs the pose to start from: align(..., start=pose)")
            return self._align_locally(comparison, start)
        if search is Search.INDEPENDENT:
            problem = self._problem(comparison)
            seeds = self._seeds(comparison, orientations.euler_grid(self.settings.seed_interval_deg))
            maximum = self.settings.max_refinement_iterations
            return _result(comparison, candidates.refine_all(problem, seeds, max_iterations=maximum))
        if rng is None:
            raise ValueError("a stochastic search needs a random generator: align(..., rng=np.random.default_rng(0))")
        if search is Search.AXIS:
            rotations, directions = self._turns_about_normals(target)
        else:
            rotations, directions = orientations.euler_grid(self.settings.seed_interval_deg), np.eye(6)
        outcome = candidates.refine_stochastically(
            self._problem(comparison, directions=directions),
            self._seeds(comparison, rotations),
            schedule=self.settings.schedule,
            signature=lambda points: _signature(points, comparison.target.voxel_size_angstrom),
            rng=rng,
            record=record,
        )
        return _result(comparison, outcome)

    def align_many(
        self,
        targets: Iterable[Particle],
        *,
        rng: np.random.Generator | None = None,
        starts: Pose | None = None,
        n_threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """Align each of ``targets``, read one by one; results do not depend on ``n_threads``.

        ``starts`` is a batch of poses for a local search; ``progress`` is called with the number of targets done.
        """
        jobs = self._jobs(targets, rng, starts)
        results: list[Result] = []
        if n_threads == 1:
            for job in jobs:
                results.append(job())
                if progress:
                    progress(len(results))
            return results
        waiting: deque[Future[Result]] = deque()
        with ThreadPoolExecutor(n_threads) as pool:
            # A few targets ahead of the threads are read, never all of them.
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) >= 4 * n_threads:
                    results.append(waiting.popleft().result())
                    if progress:
                        progress(len(results))
            while waiting:
                results.append(waiting.popleft().result())
                if progress:
                    progress(len(results))
        return results

    def dissimilarity(self, target: Particle, poses: Pose) -> NDArray[np.float64]:
        """The score of ``target`` at poses (a batch of p), without any search, shape (p,)."""
        return self._compare(target).normal_equations(poses.matrix, poses.shift_angstrom).dissimilarity

    def _jobs(
        self, targets: Iterable[Particle], rng: np.random.Generator | None, starts: Pose | None
    ) -> Iterator[Callable[[], Result]]:
        for index, target in enumerate(targets):
            own = None if rng is None else rng.spawn(1)[0]
            pose = None if starts is None else starts[index]
            yield lambda target=target, own=own, pose=pose: self.align(target, rng=own, start=pose)

    def _spectrum_for(self, box: int) -> FourierVolume:
        # Boxes may differ between targets; each has its own unit of frequency.
        if box not in self._spectra:
            volume = self.reference.volume
            resolution = self._resolution(volume.voxel_size_angstrom)
            shell_limit(volume.box, volume.voxel_size_angstrom, resolution)
            limit = shell_limit(box, volume.voxel_size_angstrom, resolution)
            self._spectra[box] = FourierVolume.of(volume, wedge=self.reference.wedge, limit=limit, box=box)
        return self._spectra[box]

    def _resolution(self, voxel_size_angstrom: float) -> float:
        return self.settings.resolution_angstrom or 4.0 * voxel_size_angstrom

    def _compare(self, target: Particle) -> Comparison:
        size, own = target.voxel_size_angstrom, self.reference.voxel_size_angstrom
        if abs(size / own - 1.0) > VOXEL_SIZE_TOLERANCE:
            raise ValueError(f"voxel sizes differ: target {size:g}, reference {own:g} angstrom; resample one of them")
        spectrum = Spectrum.of(target, resolution_angstrom=self._resolution(own))
        return Comparison(spectrum, self._spectrum_for(target.box), score=self.settings.score)

    def _max_shift(self, comparison: Comparison) -> float:
        target = comparison.target
        return self.settings.max_shift_angstrom or 0.25 * target.box * target.voxel_size_angstrom

    def _problem(
        self, comparison: Comparison, *, directions: NDArray[np.float64] | None = None, start: Pose | None = None
    ) -> lm.Problem:
        target, settings = comparison.target, self.settings
        diameter = settings.particle_diameter_angstrom or 0.5 * target.box * target.voxel_size_angstrom
        problem = _PoseProblem(
            comparison,
            directions=np.eye(6) if directions is None else directions,
            shift_centre_angstrom=np.zeros(3) if start is None else start.shift_angstrom,
            max_shift_angstrom=self._max_shift(comparison),
            radius_angstrom=0.5 * diameter,
        )
        model, precision = problem.model, self._prior_precision()
        if start is not None and precision.any():
            model = _PriorProblem(problem, start, settings.score, precision).model
        return lm.Problem(model, problem.retract, problem.length, settings.tolerance_angstrom)

    def _prior_precision(self) -> NDArray[np.float64]:
        turn, shift = self.settings.prior_rotation_sd_deg, self.settings.prior_shift_sd_angstrom
        return np.repeat([np.radians(turn) ** -2 if turn else 0.0, shift**-2 if shift else 0.0], 3)

    def _seeds(self, comparison: Comparison, rotations: Rotation) -> NDArray[np.float64]:
        matrices = rotations.as_matrix()
        return _pack(matrices, comparison.best_shifts(matrices, max_shift_angstrom=self._max_shift(comparison)))

    def _turns_about_normals(self, target: Particle) -> tuple[Rotation, NDArray[np.float64]]:
        """Seeds of eq. 22, and the tangents that keep the normals together: a turn about the target's, and shifts."""
        if target.normal_xyz is None or self.reference.normal_xyz is None:
            raise ValueError("an axis search needs normal_xyz on both the target and the reference")
        directions = np.zeros((6, 4))
        directions[:3, 0] = target.normal_xyz
        directions[3:, 1:] = np.eye(3)
        interval = self.settings.seed_interval_deg
        return orientations.about_axis(target.normal_xyz, self.reference.normal_xyz, interval_deg=interval), directions

    def _align_locally(self, comparison: Comparison, start: Pose) -> Result:
        point = _pack(start.matrix[None], start.shift_angstrom[None])
        maximum = self.settings.max_refinement_iterations
        outcome = candidates.refine_all(self._problem(comparison, start=start), point, max_iterations=maximum)
        return _result(comparison, outcome)


def _signature(points: NDArray, voxel_size_angstrom: float) -> NDArray[np.float64]:
    rotations, shifts = _unpack(points)
    return anchors(rotations, shifts / voxel_size_angstrom).reshape(len(points), 9)


def _result(comparison: Comparison, outcome: candidates.Outcome) -> Result:
    best = _poses(outcome.state.points[:1])[0]
    equations = comparison.normal_equations(best.matrix[None], best.shift_angstrom[None])
    recorded = outcome.best_points is not None and len(outcome.best_points)
    return Result(
        pose=best,
        dissimilarity=float(equations.dissimilarity[0]),
        status=outcome.state.status[0],
        n_iterations=outcome.iterations,
        overlap=float(equations.overlap[0] / comparison.target.weight.sum(dtype=np.float64)),
        history=History(outcome.history, _poses(outcome.best_points)) if recorded else None,
    )


def align(
    target: Particle,
    reference: Volume | Subtomogram,
    *,
    settings: Settings | None = None,
    rng: np.random.Generator | None = None,
    start: Pose | None = None,
    record: bool = False,
) -> Result:
    """Find the pose that lays ``reference`` on ``target``: ``Aligner(reference, settings).align(target, ...)``."""
    return Aligner(reference, settings).align(target, rng=rng, start=start, record=record)
