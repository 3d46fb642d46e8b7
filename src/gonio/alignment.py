"""Alignment of a particle to a reference: where the score meets the search.

Flow: particle -> samples (fourier, inputs) -> seeds (orientations, best shift by FFT) -> refinement (coarse_to_fine or
candidates, lm) of the dissimilarity (score, problem) -> Result.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio import candidates, coarse_to_fine, lm, orientations
from gonio.fourier import FourierVolume, Spectrum, shell_limit
from gonio.lm import Status
from gonio.pose import Pose
from gonio.problem import PoseProblem, PriorProblem, pack, poses_of, signature
from gonio.restoration import Restorer, sphere_diameter_angstrom
from gonio.score import Comparison, Score
from gonio.volume import Particle, Subtomogram, TiltStack, Volume, masked, masked_volume
from gonio.wedge import Wedge

__all__ = ["Aligner", "History", "Optimum", "Result", "Search", "Settings", "align"]

VOXEL_SIZE_TOLERANCE = 1e-3
_LENGTHS = (
    "resolution_angstrom",
    "max_shift_angstrom",
    "mask_diameter_angstrom",
    "particle_diameter_angstrom",
    "tolerance_angstrom",
    "prior_rotation_sd_deg",
    "prior_shift_sd_angstrom",
)


class Search(StrEnum):
    """How the pose is looked for.

    ``COARSE_TO_FINE`` starts from a uniform set of orientations at a low resolution, and weighs samples by what the two
    particles themselves show that they tell (docs/theory.md sections 9 and 10). ``STOCHASTIC`` is the paper's parallel
    refinement of an Euler grid, ``INDEPENDENT`` refines every seed of that grid, ``AXIS`` is the stochastic refinement
    of turns about the particles' known normals, ``LOCAL`` refines a given pose.
    """

    COARSE_TO_FINE = "coarse_to_fine"
    STOCHASTIC = "stochastic"
    INDEPENDENT = "independent"
    AXIS = "axis"
    LOCAL = "local"


@dataclass(frozen=True)
class Lengths:
    """Settings whose default follows from the box, in angstrom: see ``Settings``."""

    resolution_angstrom: float
    max_shift_angstrom: float
    particle_diameter_angstrom: float


@dataclass(frozen=True)
class Settings:
    """What an alignment is asked to do.

    Parameters
    ----------
    score
        ``Score`` or its name: ``"rcs"`` (blind to contrast), ``"fcs"`` (for particles on one scale) or, for the search
        from coarse to fine alone, ``"likelihood"``.
    search
        ``Search`` or its name.
    seed_interval_deg
        Interval of the starting angles; 60 gives 108 seeds (6 about an axis), 45 gives 256 (8).
    resolution_angstrom
        Finest detail that is compared; None for four voxels, the paper's 4 nm at 1 nm voxels.
    max_shift_angstrom
        Largest length of the shift (for a local search, of its change); None for a quarter of the box.
    mask_diameter_angstrom
        Diameter of a soft sphere (for tilt stacks: circle) around the box centre that both sides are masked with: the
        particle's diameter plus twice the largest shift. None, as in the paper, for no mask.
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

    score: Score = Score.FCS
    search: Search = Search.COARSE_TO_FINE
    seed_interval_deg: float = 60.0
    resolution_angstrom: float | None = None
    max_shift_angstrom: float | None = None
    mask_diameter_angstrom: float | None = None
    particle_diameter_angstrom: float | None = None
    tolerance_angstrom: float = 0.01
    max_refinement_iterations: int = 100
    prior_rotation_sd_deg: float | None = None
    prior_shift_sd_angstrom: float | None = None
    schedule: candidates.Schedule = field(default_factory=candidates.Schedule)

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
        if (self.prior_rotation_sd_deg or self.prior_shift_sd_angstrom) and self.search is not Search.LOCAL:
            raise ValueError(f"a prior holds poses near a start, which only a local search has, not {self.search}")
        if self.max_refinement_iterations < 1:
            raise ValueError(f"max_refinement_iterations must be at least 1, got {self.max_refinement_iterations!r}")
        if self.score is Score.LIKELIHOOD and self.search is not Search.COARSE_TO_FINE:
            raise ValueError(f"the likelihood score needs the search from coarse to fine, not {self.search}")
        orientations.euler_grid(self.seed_interval_deg)

    def lengths(self, *, box: int, voxel_size_angstrom: float) -> Lengths:
        """The lengths that were given, and the defaults of the others, for a particle's box and voxel size."""
        edge = box * voxel_size_angstrom
        return Lengths(
            resolution_angstrom=self.resolution_angstrom or 4.0 * voxel_size_angstrom,
            max_shift_angstrom=self.max_shift_angstrom or 0.25 * edge,
            particle_diameter_angstrom=self.particle_diameter_angstrom or 0.5 * edge,
        )

    def resolved(self, *, box: int, voxel_size_angstrom: float) -> Settings:
        """The same settings with every default length spelt out: they align alike."""
        return replace(self, **asdict(self.lengths(box=box, voxel_size_angstrom=voxel_size_angstrom)))


@dataclass(frozen=True)
class History:
    """The smallest dissimilarity after each iteration (i,), and the pose that had it (a batch of i)."""

    dissimilarity: NDArray[np.float64]
    poses: Pose


@dataclass(frozen=True)
class Optimum:
    """A pose at which the dissimilarity has a minimum."""

    pose: Pose
    dissimilarity: float


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
    runners_up
        The other optima of a search from coarse to fine, the next best first.
    """

    pose: Pose
    dissimilarity: float
    status: Status
    n_iterations: int
    overlap: float
    history: History | None = None
    runners_up: tuple[Optimum, ...] = ()


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
        if not isinstance(reference, Volume | Subtomogram):
            raise TypeError(f"reference must be a gonio.Volume or a gonio.Subtomogram, got {reference!r}")
        self.settings = Settings() if settings is None else settings
        self.reference = Subtomogram(reference) if isinstance(reference, Volume) else reference
        self._spectra: dict[int, FourierVolume] = {}
        self._restored: dict[tuple[int, float], FourierVolume] = {}
        self._restorers: dict[tuple, Restorer] = {}
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
        search = self.settings.search
        if search is Search.COARSE_TO_FINE:
            return self._from_coarse_to_fine(target)
        comparison = self._compare(target)
        if search is Search.LOCAL:
            if start is None:
                raise ValueError("a local search needs the pose to start from: align(..., start=pose)")
            return self.refine(comparison, start)
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
            signature=lambda points: signature(points, comparison.target.voxel_size_angstrom),
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
        results: list[Result] = []
        for result in _in_order(self._jobs(targets, rng, starts), n_threads):
            results.append(result)
            if progress:
                progress(len(results))
        return results

    def dissimilarity(self, target: Particle, poses: Pose) -> NDArray[np.float64]:
        """The score of ``target`` at poses (a batch of p), without any search, shape (p,)."""
        return self._compare(target).normal_equations(poses.matrix, poses.shift_angstrom).dissimilarity

    def _jobs(
        self, targets: Iterable[Particle], rng: np.random.Generator | None, starts: Pose | None
    ) -> Iterator[Callable[[], Result]]:
        index = -1
        for index, target in enumerate(targets):
            if starts is not None and index >= len(starts):
                raise ValueError(f"there are more targets than starts ({len(starts)})")
            own = None if rng is None else rng.spawn(1)[0]
            pose = None if starts is None else starts[index]
            yield partial(self.align, target, rng=own, start=pose)
        if starts is not None and index + 1 < len(starts):
            raise ValueError(f"there are fewer targets ({index + 1}) than starts ({len(starts)})")

    def _spectrum_for(self, box: int) -> FourierVolume:
        # Boxes may differ between targets; each has its own unit of frequency.
        if box not in self._spectra:
            volume = self.reference.volume
            if self.settings.mask_diameter_angstrom is not None:
                volume = masked_volume(volume, self.settings.mask_diameter_angstrom)
            resolution = self._lengths(volume.box).resolution_angstrom
            shell_limit(volume.box, volume.voxel_size_angstrom, resolution)
            limit = shell_limit(box, volume.voxel_size_angstrom, resolution)
            self._spectra[box] = FourierVolume.of(volume, wedge=self.reference.wedge, limit=limit, box=box)
        return self._spectra[box]

    def _from_coarse_to_fine(self, target: Particle) -> Result:
        self._check(target)
        volumes = [self.reference.volume] + ([target.volume] if isinstance(target, Subtomogram) else [])
        diameter = self.settings.mask_diameter_angstrom or sphere_diameter_angstrom(volumes)
        inputs = self._inputs(target, diameter)
        lengths = self._lengths(target.box)
        share = (self.settings.particle_diameter_angstrom or diameter) / target.box / target.voxel_size_angstrom
        plan = coarse_to_fine.Plan.of(limit=inputs.target.limit, diameter_share=share)
        found = coarse_to_fine.search(
            inputs,
            orientations.uniform(orientations.uniform_count(plan.reach_deg)).as_matrix(),
            plan=plan,
            score=self.settings.score,
            problem_of=self._problem,
            signature=lambda points: signature(points, target.voxel_size_angstrom)[:, None],
            max_shift_angstrom=lengths.max_shift_angstrom,
        )
        return _found(inputs, found)

    def _inputs(self, target: Particle, diameter_angstrom: float) -> coarse_to_fine.Inputs:
        """Both particles restored within one sphere; images of a tilt stack are masked with its circle instead."""
        reference = self._restored_reference(target.box, diameter_angstrom)
        if isinstance(target, Subtomogram):
            restorer = self._restorer(target.wedge, target.box, diameter_angstrom, reference.limit)
            target = replace(target, volume=restorer.restore(target.volume))
        else:
            target = masked(target, diameter_angstrom)
        return coarse_to_fine.Inputs(Spectrum.of(target, limit=reference.limit), reference)

    def _restored_reference(self, box: int, diameter_angstrom: float) -> FourierVolume:
        if (box, diameter_angstrom) not in self._restored:
            volume, wedge = self.reference.volume, self.reference.wedge
            resolution = self._lengths(volume.box).resolution_angstrom
            limits = [shell_limit(n, volume.voxel_size_angstrom, resolution) for n in (volume.box, box)]
            restorer = self._restorer(wedge, volume.box, diameter_angstrom, limits[0])
            spectrum = FourierVolume.of(restorer.restore(volume), wedge=wedge, limit=limits[1], box=box)
            self._restored[box, diameter_angstrom] = spectrum
        return self._restored[box, diameter_angstrom]

    def _restorer(self, wedge: Wedge, box: int, diameter_angstrom: float, limit: float) -> Restorer:
        key = (id(wedge) if wedge.weights is not None else wedge, box, diameter_angstrom)
        if key not in self._restorers:
            self._restorers[key] = Restorer.of(
                wedge,
                box=box,
                voxel_size_angstrom=self.reference.voxel_size_angstrom,
                diameter_angstrom=diameter_angstrom,
                limit=limit,
            )
        return self._restorers[key]

    def _lengths(self, box: int) -> Lengths:
        return self.settings.lengths(box=box, voxel_size_angstrom=self.reference.voxel_size_angstrom)

    def _check(self, target: Particle) -> None:
        if not isinstance(target, Subtomogram | TiltStack):
            raise TypeError(
                "target must be a gonio.Subtomogram or a gonio.TiltStack; "
                f"wrap a volume in gonio.Subtomogram(volume, wedge), got {target!r}"
            )
        size, own = target.voxel_size_angstrom, self.reference.voxel_size_angstrom
        if abs(size / own - 1.0) > VOXEL_SIZE_TOLERANCE:
            raise ValueError(f"voxel sizes differ: target {size:g}, reference {own:g} angstrom; resample one of them")

    def _compare(self, target: Particle) -> Comparison:
        self._check(target)
        if self.settings.mask_diameter_angstrom is not None:
            target = masked(target, self.settings.mask_diameter_angstrom)
        reference = self._spectrum_for(target.box)
        return Comparison(Spectrum.of(target, limit=reference.limit), reference, score=self.settings.score)

    def _problem(
        self, comparison: Comparison, *, directions: NDArray[np.float64] | None = None, start: Pose | None = None
    ) -> lm.Problem:
        settings, lengths = self.settings, self._lengths(comparison.target.box)
        problem = PoseProblem(
            comparison,
            directions=np.eye(6) if directions is None else directions,
            shift_centre_angstrom=np.zeros(3) if start is None else start.shift_angstrom,
            max_shift_angstrom=lengths.max_shift_angstrom,
            radius_angstrom=0.5 * lengths.particle_diameter_angstrom,
        )
        model, precision = problem.model, self._prior_precision()
        if start is not None and precision.any():
            model = PriorProblem(problem, start, settings.score, precision).model
        return lm.Problem(model, problem.retract, problem.length, settings.tolerance_angstrom)

    def _prior_precision(self) -> NDArray[np.float64]:
        turn, shift = self.settings.prior_rotation_sd_deg, self.settings.prior_shift_sd_angstrom
        return np.repeat([np.radians(turn) ** -2 if turn else 0.0, shift**-2 if shift else 0.0], 3)

    def _seeds(self, comparison: Comparison, rotations: Rotation) -> NDArray[np.float64]:
        matrices = rotations.as_matrix()
        furthest = self._lengths(comparison.target.box).max_shift_angstrom
        return pack(matrices, comparison.best_shifts(matrices, max_shift_angstrom=furthest))

    def _turns_about_normals(self, target: Particle) -> tuple[Rotation, NDArray[np.float64]]:
        """Seeds of eq. 22, and the tangents that keep the normals together: a turn about the target's, and shifts."""
        if target.normal_xyz is None or self.reference.normal_xyz is None:
            raise ValueError("an axis search needs normal_xyz on both the target and the reference")
        directions = np.zeros((6, 4))
        directions[:3, 0] = target.normal_xyz
        directions[3:, 1:] = np.eye(3)
        interval = self.settings.seed_interval_deg
        return orientations.about_axis(target.normal_xyz, self.reference.normal_xyz, interval_deg=interval), directions

    def refine(self, comparison: Comparison, start: Pose) -> Result:
        """The local search by itself, on a comparison whose samples and weights are the caller's own."""
        point = pack(start.matrix[None], start.shift_angstrom[None])
        maximum = self.settings.max_refinement_iterations
        outcome = candidates.refine_all(self._problem(comparison, start=start), point, max_iterations=maximum)
        return _result(comparison, outcome)


def _in_order(jobs: Iterator[Callable[[], Result]], n_threads: int) -> Iterator[Result]:
    """Results in the order of the jobs, of which only a few more than there are threads are ever taken up."""
    if n_threads == 1:
        yield from (job() for job in jobs)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) >= 4 * n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # an interruption or an error: do not finish what is not begun
                future.cancel()


def _result(comparison: Comparison, outcome: candidates.Outcome) -> Result:
    best = poses_of(outcome.state.points[:1])[0]
    equations = comparison.normal_equations(best.matrix[None], best.shift_angstrom[None])
    points = outcome.best_points
    return Result(
        pose=best,
        dissimilarity=float(equations.dissimilarity[0]),
        status=outcome.state.status[0],
        n_iterations=outcome.iterations,
        overlap=float(equations.overlap[0] / comparison.target.weight.sum(dtype=np.float64)),
        history=History(outcome.history, poses_of(points)) if points is not None and len(points) else None,
    )


def _found(inputs: coarse_to_fine.Inputs, found: coarse_to_fine.Found) -> Result:
    poses, values = poses_of(found.state.points), found.state.dissimilarity
    sums = inputs.plain(Score.FCS).shell_sums(poses.matrix[:1], poses.shift_angstrom[:1])
    return Result(
        pose=poses[0],
        dissimilarity=float(values[0]),
        status=found.state.status[0],
        n_iterations=found.iterations,
        overlap=float(sums[0, :, 3].sum() / inputs.target.weight.sum(dtype=np.float64)),
        runners_up=tuple(Optimum(poses[i], float(values[i])) for i in range(1, len(values))),
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
