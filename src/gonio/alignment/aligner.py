"""Alignment of a particle to a reference: where the score meets the search.

Flow: particle -> samples (preparation) -> what is searched (prepared) -> backend (CPU or GPU) -> Result (prepared,
outcome, posterior).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.posterior import MOST_ALIKE, squared_correlation
from gonio.alignment.prepared import FromCoarseToFine, FromSeeds, Prepared, finished
from gonio.alignment.result import Result
from gonio.averaging.single import by_itself
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.particle.arguments import described
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Particle, Subtomogram, TiltStack, Volume
from gonio.preparation.prepare import Kept, Preparation
from gonio.run.parallel import in_order
from gonio.search import coarse_to_fine, stochastic
from gonio.search import levenberg_marquardt as lm
from gonio.search.backend import Backend, Evaluation, PairSearch
from gonio.search.coarse_to_fine import Plan
from gonio.search.cpu import Cpu
from gonio.search.gpu.device import CPU, Device, device_for
from gonio.search.gpu.groups import in_groups
from gonio.search.objective import signature
from gonio.search.search_space import Frame, about_normals, everywhere, near
from gonio.settings import GlobalSearch, LocalSearch, Overlap, PaperSearch, Pool, Schedule, Settings

# Particles from which the expected FSC of a whole set is estimated.
LEARN_FROM = 50
# A drawn pool has this fraction of the steps that refining all of it would take.
DRAWN_FRACTION = 0.5


class Aligner:
    """Aligns particles to one reference; what depends on the reference alone is computed once.

    Parameters
    ----------
    reference
        A ``Volume`` (nothing missing) or a ``Subtomogram``.
    settings
        What to do; the default searches from coarse to fine and needs no tuning.
    mask
        Where the reference has density, a ``Volume`` of its box with values 0 to 1; None for a sphere.
    reference_fsc
        FSC of the reference's half maps, one value for each shell (``fourier_shell_correlation``): no shell is expected
        to agree better than the reference with the truth. None when it is not known.
    device
        Where alignments are computed: ``"cpu"``, ``"cuda"`` (the first GPU), ``"cuda:1"`` and so on, or
        ``"auto"``, a GPU where one works and the search can use it; or a ``Device`` that is open. Searches that draw
        their candidates one by one run on the CPU alone.

    Raises
    ------
    ValueError, TypeError
        When the reference is constant, is a tilt stack, or does not suit the requested resolution; when the requested
        GPU is not there, or the search draws its candidates.

    Examples
    --------
    >>> import numpy as np, gonio
    >>> map_ = gonio.Volume(np.random.default_rng(0).normal(size=(16, 16, 16)), voxel_size_angstrom=10.0)
    >>> aligner = gonio.Aligner(map_, gonio.Settings(search="local"))
    >>> result = aligner.align(gonio.Subtomogram(map_), start=gonio.Pose.identity())
    >>> result.status.ok
    True
    """

    def __init__(
        self,
        reference: Volume | Subtomogram,
        settings: Settings | None = None,
        *,
        mask: Volume | None = None,
        reference_fsc: NDArray[np.float64] | None = None,
        device: str | Device = CPU,
    ) -> None:
        if isinstance(reference, TiltStack):
            raise TypeError("a tilt stack cannot be the reference: give a Volume or a Subtomogram")
        if not isinstance(reference, Volume | Subtomogram):
            raise TypeError(f"reference must be a gonio.Volume or a gonio.Subtomogram, got {described(reference)}")
        self.settings = Settings() if settings is None else settings
        self.reference = Subtomogram(reference) if isinstance(reference, Volume) else by_itself(reference)
        self._symmetry = Symmetry.named(self.settings.symmetry)
        self.gpu = device_for(device, draws=self.settings.draws)
        self.mask, self._reference_fsc = mask, reference_fsc
        self._preparation = Preparation(self.reference, self.settings, mask=mask, reference_fsc=reference_fsc)

    def of_another(
        self, reference: Volume | Subtomogram, *, settings: Settings | None = None, mask: Volume | None = None
    ) -> Aligner:
        """Make an aligner of another map with this one's FSC and device, and its settings unless given."""
        settings, device = settings or self.settings, CPU if self.gpu is None else self.gpu
        return Aligner(reference, settings, mask=mask, reference_fsc=self._reference_fsc, device=device)

    def __repr__(self) -> str:
        settings = self.settings
        return f"Aligner({self.reference!r}, {settings.search.name} by {settings.score}, symmetry {settings.symmetry})"

    def align(
        self,
        target: Particle,
        *,
        rng: np.random.Generator | None = None,
        start: Pose | None = None,
        expected_fsc: ExpectedFsc | None = None,
        record: bool = False,
        kept: Kept | None = None,
    ) -> Result:
        """Find the pose that aligns the reference to ``target``.

        Parameters
        ----------
        target
            A subtomogram or tilt stack of the reference's voxel size; its box may differ from the reference's.
        rng
            Draws the candidates of a stochastic search or a drawn pool, which need it.
        start
            Where a local search starts, which needs it. To the search from coarse to fine it is a pose that may be
            right: against a map its optimum is kept where it is better than what was found.
        expected_fsc
            Expected FSC of such a pair, as ``learn`` estimates it from many; None to estimate it from this pair. Its
            shells are one over its box wide, the target's unless it states another, also where a smaller one is
            compared; those of the result are the target's.
        record
            Whether the result holds the history of a stochastic search.
        kept
            What was prepared of this target for other references of the same settings: used here, and added to.

        Raises
        ------
        ValueError
            Voxel sizes that differ, a box too small for the resolution, a missing ``rng``, ``start`` or normal.
        """
        prepared = self.prepare(target, rng=rng, start=start, expected_fsc=expected_fsc, record=record, kept=kept)
        return finished([prepared], self.backend)[0]

    def _check(self, rng: np.random.Generator | None, start: Pose | None) -> None:
        if isinstance(self.settings.search, LocalSearch) and start is None:
            raise ValueError("a local search needs the pose to start from: align(..., start=pose)")
        if rng is None and self.settings.draws:
            raise ValueError("a stochastic search needs a random generator: align(..., rng=np.random.default_rng(0))")

    def prepare(
        self,
        target: Particle,
        *,
        rng: np.random.Generator | None = None,
        start: Pose | None = None,
        expected_fsc: ExpectedFsc | None = None,
        record: bool = False,
        kept: Kept | None = None,
    ) -> Prepared:
        """Prepare a target to be searched as ``align`` does; ``finished`` returns the results of a batch of these."""
        self._check(rng, start)
        pair, score, search = self._preparation.pair(target, kept=kept), self.settings.score, self.settings.search
        if isinstance(search, PaperSearch):
            each = not self.settings.draws and search.overlap is not Overlap.MOVING
            return FromSeeds(pair.plain(score), self._frame(target, None, None), self.settings, each, rng, record)
        if isinstance(search, LocalSearch) and start is not None and not self.settings.restores:
            return self._near(pair.plain(score), start)
        return self._from_coarse_to_fine(target, pair, rng, start, expected_fsc)

    def align_many(
        self,
        targets: Iterable[Particle],
        *,
        rng: np.random.Generator | None = None,
        starts: Pose | None = None,
        expected_fsc: ExpectedFsc | None = None,
        n_threads: int = 1,
        progress: Callable[[int], None] | None = None,
    ) -> list[Result]:
        """Align each of ``targets``, read one by one, ``n_threads`` at a time; results do not depend on this number.

        They are processes where these can be forked, else threads (``gonio.run.parallel``); for a GPU they are threads
        that prepare targets, and the GPU takes some thousand at a time. ``starts`` is a batch of
        poses for a local search; ``expected_fsc`` as in ``align``; ``progress`` is called with the number of targets
        done.
        """
        found: list[Result] = []
        items = self._items(targets, rng, starts)
        prepare = partial(self._prepared, expected_fsc)
        if self.gpu is None:
            every: Iterator[Result] = in_order(partial(_alone, prepare), items, n_threads)
        else:
            every = in_groups(prepare, finished, items, self.gpu, n_threads=n_threads)
        for result in every:
            found.append(result)
            if progress:
                progress(len(found))
        return found

    def learn(
        self,
        targets: Iterable[Particle],
        *,
        rng: np.random.Generator | None = None,
        starts: Pose | None = None,
        n_threads: int = 1,
    ) -> ExpectedFsc | None:
        """Estimate the FSC to expect between such particles and the reference: the average over the first of them.

        Each is aligned with the expected FSC of its own pair; ``align`` can then be given the average, which helps
        where single particles are too noisy for an estimate. None for unprocessed inputs.
        """
        if not self.settings.restores:
            return None
        first = list(islice(targets, LEARN_FROM))
        chosen = None if starts is None else starts[np.arange(len(first))]
        found = [r.expected_fsc for r in self.align_many(first, rng=rng, starts=chosen, n_threads=n_threads)]
        return ExpectedFsc.mean([e for e in found if e is not None])

    def dissimilarity(self, target: Particle, poses: Pose) -> NDArray[np.float64]:
        """Return the dissimilarity of ``target`` at poses (a batch of p), without any search, shape (p,).

        Shells are not weighted by the expected FSC, as in a search; with ``score="likelihood"`` this is RCS.
        """
        score = Score.RCS if self.settings.score is Score.LIKELIHOOD else self.settings.score
        comparison = self._preparation.pair(target).plain(score)
        return comparison.normal_equations(poses.matrix, poses.shift_angstrom).dissimilarity

    def shell_sums(
        self, target: Particle, poses: Pose, *, kept: Kept | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the sums of each shell over target and reference, as they are compared, at poses (a batch of p).

        Returns
        -------
        Frequencies of the shells, 1/angstrom, shape (s,); and |f|^2, |g|^2, f.g and |Omega| of each, shape (p, s, 4):
        zero at poses where the wedges overlap too little for a comparison. ``kept`` is as in ``align``.
        """
        compared = self._preparation.pair(target, kept=kept).plain(Score.FCS)
        return shell_sums([Evaluation.at(compared, poses)], self.backend)[0]

    def log_likelihood(self, target: Particle, poses: Pose) -> NDArray[np.float64]:
        """Return the log-likelihood difference (natural) between ``target`` at poses (a batch of p) and noise, (p,).

        Use it to choose among references: each shell has the noise and the scale that fit best, so that neither a
        reference's noise nor its sharpness counts, and the target is the same for all references whose settings give
        one diameter. The target is noise-weighted, in the sphere that holds it.

        Notes
        -----
        With c_s the correlation of shell s (0 where it is negative), n_s its samples and kappa the samples per
        independent sample, it is ``-sum_s n_s ln(1 - c_s^2) / kappa``: the likelihood of Gaussian noise at its most
        likely variance. Of 80 particles of four structures 80, 80 and 79 found the right one of averages of 20, 4, 10
        and 3 of them at SNR 0.5, 0.1 and 0.05; by dissimilarity, which has another expected FSC for each reference,
        77, 70 and 66 (docs/reproduce.md).
        """
        return log_likelihoods([self.likelihood(target)], [poses], self.backend)[0]

    def likelihood(self, target: Particle) -> Likelihood:
        """Prepare the log likelihoods of poses of a target, which ``log_likelihoods`` evaluates for a batch."""
        return Likelihood(*self._preparation.measured_pair(target))

    def refine(self, comparison: Comparison, start: Pose) -> Result:
        """Refine a pose locally on a comparison whose samples and weights are the caller's own.

        Of the comparison's target only the box and the voxel size are used.
        """
        return finished([self._near(comparison, start)], self.backend)[0]

    def _near(self, comparison: Comparison, start: Pose) -> FromSeeds:
        return FromSeeds(comparison, near(comparison.target, start, self.settings, spacing_deg=None), self.settings)

    @property
    def backend(self) -> Backend:
        """Backend of the searches, GPU or CPU."""
        return Cpu() if self.gpu is None else self.gpu

    @property
    def device(self) -> str:
        """Name of the device on which alignments are computed."""
        return CPU if self.gpu is None else self.gpu.name

    def stack_reference(self, target: TiltStack) -> tuple[FourierVolume, float]:
        """Return the spectrum that a tilt stack is compared with, and the diameter of its circle, angstrom."""
        self._preparation.check(target)
        return self._preparation.unrestored_reference(target)

    @property
    def diameter_angstrom(self) -> float:
        """Diameter of the sphere that the reference fills, angstrom."""
        return self._preparation.extent_angstrom

    @property
    def memory_bytes(self) -> int:
        """Memory of the prepared reference, bytes."""
        return self._preparation.memory_bytes

    def _prepared(
        self, expected_fsc: ExpectedFsc | None, target: Particle, rng: np.random.Generator | None, start: Pose | None
    ) -> Prepared:
        return self.prepare(target, rng=rng, start=start, expected_fsc=expected_fsc)

    @staticmethod
    def _items(
        targets: Iterable[Particle], rng: np.random.Generator | None, starts: Pose | None
    ) -> Iterator[tuple[Particle, np.random.Generator | None, Pose | None]]:
        index = -1
        for index, target in enumerate(targets):
            if starts is not None and index >= len(starts):
                raise ValueError(f"there are more targets than starts ({len(starts)})")
            own = None if rng is None else rng.spawn(1)[0]
            yield target, own, None if starts is None else starts[index]
        if starts is not None and index + 1 < len(starts):
            raise ValueError(f"there are fewer targets ({index + 1}) than starts ({len(starts)})")

    def _frame(self, target: Particle, start: Pose | None, spacing_deg: float | None) -> Frame:
        if self.settings.about_normals:
            return about_normals(target, self.reference, self.settings, spacing_deg=spacing_deg)
        if isinstance(self.settings.search, LocalSearch):
            assert start is not None  # prepare has checked it
            return near(target, start, self.settings, spacing_deg=spacing_deg)
        return everywhere(target, self.settings, spacing_deg=spacing_deg)

    def _from_coarse_to_fine(
        self,
        target: Particle,
        pair: Pair,
        rng: np.random.Generator | None,
        start: Pose | None,
        expected_fsc: ExpectedFsc | None,
    ) -> FromCoarseToFine:
        diameter = self.settings.particle_diameter_angstrom or pair.diameter_angstrom
        diameter = diameter or self._preparation.diameter_angstrom(target)
        edge, crop = pair.target.box * target.voxel_size_angstrom, pair.target.box / target.box
        # Nothing of a particle lies outside its box, whatever diameter is given.
        plan = Plan.of(limit=pair.target.limit, diameter_fraction=min(diameter / edge, 1.0))
        frame = self._frame(target, start, plan.spacing_deg)
        if crop < 1.0:
            frame = frame.cut_to(edge)
        if len(frame.rotations) == 1:
            # A single start is already near its optimum: a coarser level would only lead away from it.
            plan = replace(plan, limits=plan.limits[-1:])
        # Subtomograms gain nothing from it (320 of the three phantoms, SNR 0.5 and 0.1), nor from wider pruning rules.
        searches_neighbours = pair.exact and not pair.target.on_grid and isinstance(self.settings.search, GlobalSearch)
        whole = target.box * target.voxel_size_angstrom
        known = expected_fsc and expected_fsc.in_shells(edge, pair.target.n_shells, own=whole)
        drawn = partial(_drawn, frame=frame, samples_per_independent=pair.samples_per_independent, rng=rng)
        search = PairSearch(
            pair,
            frame,
            plan,
            self.settings.score,
            group=self._symmetry.matrices,
            last_steps=self.settings.max_refinement_iterations,
            neighbour_search=searches_neighbours,
            pruning=coarse_to_fine.STACK_PRUNING if searches_neighbours else coarse_to_fine.PRUNING,
            expected_fsc=known,
            minimise=drawn if self.settings.pool is Pool.DRAWN else None,
        )
        return FromCoarseToFine(target, search, self._preparation, self.settings, rng, start, expected_fsc)


def _alone(prepare: Callable[..., Prepared], *item: object) -> Result:
    """Prepare and finish one target on the CPU."""
    return finished([prepare(*item)], Cpu())[0]


def _drawn(
    comparison: Comparison,
    points: NDArray[np.float64],
    steps: int,
    *,
    frame: Frame,
    samples_per_independent: float,
    rng: np.random.Generator | None,
) -> lm.State:
    """Refine a pool that shares its iterations, each drawing one candidate; the last candidate converges by itself."""
    problem = frame.problem(comparison, samples_per_independent=samples_per_independent)
    if steps > coarse_to_fine.PRUNING.steps:
        return lm.minimise(problem, points, max_iterations=steps)
    assert rng is not None  # Aligner.prepare has checked it
    most = max(1, round(DRAWN_FRACTION * steps * len(points)))
    return stochastic.refine_stochastically(
        problem,
        points,
        schedule=Schedule(max_iterations=most, regression_window=most),
        signature=partial(signature, voxel_size_angstrom=comparison.target.voxel_size_angstrom),
        rng=rng,
    ).state


@dataclass(frozen=True)
class Likelihood:
    """Comparison from which log likelihoods of poses are computed, and its samples per independent sample."""

    comparison: Comparison
    samples_per_independent: float

    def of_sums(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log likelihood at p poses, (p,), from the sums of their shells (p, s, 4)."""
        square = np.minimum(squared_correlation(sums[:, 1:]), MOST_ALIKE)
        return np.asarray(-(sums[:, 1:, 3] * np.log1p(-square)).sum(axis=1) / self.samples_per_independent)


def log_likelihoods(
    compared: Sequence[Likelihood], poses: Sequence[Pose], backend: Backend
) -> list[NDArray[np.float64]]:
    """Evaluate ``Aligner.log_likelihood`` of many targets, each at a batch of poses."""
    at_poses = [Evaluation.at(one.comparison, each) for one, each in zip(compared, poses, strict=True)]
    return [one.of_sums(sums) for one, sums in zip(compared, backend.shell_sums(at_poses), strict=True)]


def shell_sums(
    evaluations: Sequence[Evaluation], backend: Backend
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Evaluate ``Aligner.shell_sums`` of many pairs, each at a batch of poses."""
    found = []
    for one, sums in zip(evaluations, backend.shell_sums(evaluations), strict=True):
        samples = one.comparison.target
        sums[sums[:, :, 3].sum(axis=1) < one.comparison.least] = 0.0
        found.append((np.arange(samples.n_shells) / (samples.box * samples.voxel_size_angstrom), sums))
    return found


def align(
    target: Particle,
    reference: Volume | Subtomogram,
    *,
    settings: Settings | None = None,
    rng: np.random.Generator | None = None,
    start: Pose | None = None,
    record: bool = False,
    device: str | Device = CPU,
) -> Result:
    """Find the pose that aligns ``reference`` to ``target``: ``Aligner(reference, settings).align(target, ...)``."""
    return Aligner(reference, settings, device=device).align(target, rng=rng, start=start, record=record)
