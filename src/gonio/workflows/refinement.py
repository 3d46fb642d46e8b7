"""Gold-standard refinement: iterations of aligning and averaging, with separate halves from the first step.

Flow of one iteration: each half aligned to its own reference, below the limit -> averages -> half 2 aligned to half 1
-> FSC -> the next limit. Halves share the initial model (or, de novo, not even that), the frame, and the FSC with the
limit that it sets: numbers, never a map (docs/refinement.md).

Must not know where particles come from, which executor runs tasks, nor how results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner
from gonio.alignment.particle_list import Aligners, align_table
from gonio.alignment.result import Result
from gonio.averaging.averages import FOLDS, Average, average_table, folds_of
from gonio.averaging.resolution import HalfMapFsc, agreed_shell, fsc_of_a_half, half_map_fsc
from gonio.fourier.transform import MIN_SHELLS, low_passed
from gonio.particle.half_sets import Duplicate, duplicates
from gonio.particle.particle_source import ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.preparation.extent import sphere_mask
from gonio.run.executor import Executor, Local
from gonio.settings import AnySearch, LocalSearch, Settings
from gonio.workflows.half_frames import Apart, drift_of, half_2_moved, half_2_seen
from gonio.workflows.pose_change import PoseChange
from gonio.workflows.refinement_plan import (
    LIMIT_REACHED,
    Assignment,
    Continued,
    Iteration,
    Plan,
    check_halves,
    check_limits,
    check_start,
)
from gonio.workflows.tilt_refinement import (
    AdjustTomogram,
    TomogramTilts,
    adjust_tilts,
    changes_of,
    check_tilts,
    followed,
    poses_of,
)

# A local search reaches this many predicted standard deviations, and at least this fraction of the resolution.
CONE_SDS, CONE_FRACTION = 3.0, 0.5
# Searches are local once the median particle moves by less than this many of its predicted standard deviations.
LOCAL_BELOW = 1.0
# A refinement has converged when the median particle moves by less than this many standard deviations, and the
# resolution gains less than this many shells.
CONVERGED_SDS, CONVERGED_SHELLS = 0.25, 0.25
# It also ends when the resolution has been worse than the best, by more than these shells, for this many iterations.
PATIENCE = 3

# Poses drawn for each particle, and the fraction of the limit that resolves them (``Settings``). Few poses add noise of
# their own: 12 weighted ones are some six of equal weight, 64 are 26 (docs/theory.md section 16).
POSTERIOR_POSES, POSTERIOR_RESOLVED = 64, 0.1


def start_map(volume: Volume, *, resolution_angstrom: float) -> Volume:
    """Low-pass a map from which both halves start, so that nothing of it is left at the resolution and beyond.

    The edge of ``low_passed`` is two shells wide; here it ends at the resolution, and so does what particles of noise
    can take from the map.
    """
    shells = volume.box_angstrom / resolution_angstrom - 1.0
    if shells < 1.0:
        raise ValueError(
            f"a box of {volume.box_angstrom:g} angstrom holds nothing at {resolution_angstrom:g} angstrom: "
            "start from a finer resolution, or use larger boxes"
        )
    return low_passed(volume, resolution_angstrom=volume.box_angstrom / shells)


def refined(
    table: ParticleTable,
    starts: tuple[Volume, Volume] | None,
    plan: Plan | None = None,
    *,
    executor: Executor | None = None,
    places_angstrom: Callable[[ParticleTable], NDArray[np.float64]] | None = None,
) -> Iterator[Iteration]:
    """Refine the poses of a list, and yield each iteration when it is done; the last one states why it ends.

    Parameters
    ----------
    table
        Particles that are all in half set 1 or 2.
    starts
        Map that each half starts from, in one frame: usually one map twice (``start_map``). None for the averages of
        the halves at the input poses, to the resolution at which they agree; this needs ``plan.listed``. With
        ``plan.continued`` they are the half maps of an earlier refinement, which are not low-passed.
    plan
        Settings of the refinement.
    executor
        Runs the tasks; this process unless given. Each task has a name of its own.
    places_angstrom
        Returns the positions of a table's particles in their tomograms, (m, 3): needed to find duplicates.

    Raises
    ------
    ValueError
        Particles without a half, an empty half, no positions to find duplicates by; maps and particles that do not fit.
    """
    plan = Plan() if plan is None else plan
    executor = executor or Local()
    check_start(table, starts, plan, places_angstrom)
    if plan.tilts is not None:
        check_tilts(table)
    if starts is None:
        run, state = _from_list(table, plan, executor, places_angstrom)
    elif plan.continued is not None:
        run, state = _from_halves(table, starts, plan, plan.continued, executor, places_angstrom)
    else:
        check_limits(starts[0], plan, plan.start_resolution_angstrom)
        run = _Run(plan, executor, fsc_mask(starts[0], plan), places_angstrom, table.source)
        state = _State(table, table.poses, starts, limit_angstrom=plan.start_resolution_angstrom)
    for number in range(1, plan.max_iterations + 1):
        state, iteration = run.iteration(number, state)
        yield iteration
        if iteration.ended:
            return


def other_half_aligners(iteration: Iteration, plan: Plan) -> dict[int, Aligner]:
    """Return an aligner of the map of each half, 1 and 2, after an iteration, as the next would align to it.

    It searches all orientations, or near the input poses where the refinement did. Particles of the other half are none
    of the map's: their noise is not in it.
    """
    limit = min(iteration.limit_angstrom, iteration.volume.box_angstrom / MIN_SHELLS)
    search = plan.settings.search if plan.listed is None else plan.listed
    settings = replace(plan.settings, search=search, resolution_angstrom=limit)
    fsc = fsc_of_a_half(np.clip(iteration.fsc.best, 0.0, 1.0))
    return {
        half: Aligner(volume, settings, mask=plan.mask, reference_fsc=fsc)
        for half, volume in enumerate(iteration.halves, start=1)
    }


def best_of(iterations: Sequence[Iteration]) -> Iteration:
    """Return the last iteration whose resolution is the best, or less than a quarter of a shell worse."""
    shells = [one.fsc.box_angstrom / one.resolution_angstrom for one in iterations]
    return [one for one, shell in zip(iterations, shells, strict=True) if shell >= max(shells) - CONVERGED_SHELLS][-1]


def _from_list(
    table: ParticleTable,
    plan: Plan,
    executor: Executor,
    places: Callable[[ParticleTable], NDArray[np.float64]] | None,
) -> tuple[_Run, _State]:
    """Start from the averages at the input poses, in one frame, to the resolution at which they agree."""
    assert plan.listed is not None  # refined has checked it
    averaged = partial(
        average_table,
        executor=executor,
        half_sets=np.asarray(table.half_sets),
        folds=folds_of(len(table)),
        symmetry=plan.settings.symmetry,
    )
    made = averaged(table, stage="averaging input poses")
    assert made.halves is not None
    check_limits(made.volume, plan, None)
    run = _Run(plan, executor, fsc_mask(made.volume, plan), places, table.source)
    fsc, limit = run.start(made)
    # The halves of a list may come from refinements that never met.
    listed, size = plan.listed, made.volume.voxel_size_angstrom
    expected = Apart.listed(listed, voxel_size_angstrom=size)
    drift = drift_of(made.halves, expected, mask=run.mask, radius=run.radius_angstrom, limit=limit)
    if drift is not None:
        table = table.with_poses(half_2_moved(table.half_sets, table.poses, drift))
        made = averaged(table, stage="averaging input poses in one frame")
        fsc, limit = run.start(made)
    assert made.halves is not None
    return run, _State(table, table.poses, made.halves, limit, made.without, fsc=fsc)


def _from_halves(
    table: ParticleTable,
    starts: tuple[Volume, Volume],
    plan: Plan,
    continued: Continued,
    executor: Executor,
    places: Callable[[ParticleTable], NDArray[np.float64]] | None,
) -> tuple[_Run, _State]:
    """Start near the poses of the list, from the half maps of an earlier refinement and to where these agree."""
    check_limits(starts[0], plan, None)
    run = _Run(plan, executor, fsc_mask(starts[0], plan), places, table.source)
    limit = run.next_limit(starts[0], starts[0].box_angstrom / continued.limit_angstrom)
    cone = run.reach(continued.rotation_sd_deg, continued.shift_sd_angstrom, limit)
    fsc = np.clip(run.fsc(starts).best, 0.0, 1.0)
    return run, _State(table, table.poses, starts, limit, fsc=fsc, cone=cone)


@dataclass(frozen=True)
class _State:
    """State of a refinement between two iterations.

    ``listed`` are the input poses, ``cone`` is the reach of a local search, degrees and angstrom, ``best_shell`` the
    best resolution, in shells, and ``behind`` the number of iterations for which it has not been reached. ``tilts`` are
    those that the table loads with, empty for those of the list.
    """

    table: ParticleTable
    listed: Pose
    references: tuple[Volume, Volume]
    limit_angstrom: float
    without: Mapping[tuple[int, int], Volume] | None = None
    tilts: Mapping[str, TomogramTilts] = field(default_factory=dict)
    fsc: NDArray[np.float64] | None = None
    cone: tuple[float, float] | None = None
    best_shell: float = 0.0
    behind: int = 0


@dataclass(frozen=True)
class _Aligned:
    """The m particles of an iteration after their alignment: at the poses found, and ``listed`` at the input poses."""

    table: ParticleTable
    listed: Pose
    results: list[Result]
    pose_change: PoseChange

    def without(self, rows: Sequence[int]) -> _Aligned:
        """Return the particles but those in ``rows``, some in each half."""
        kept = np.setdiff1d(np.arange(len(self.table)), rows)
        check_halves(self.table[kept])
        results = [self.results[row] for row in kept]
        return _Aligned(self.table[kept], self.listed[kept], results, self.pose_change.take(kept))

    def in_frame_of_half_1(self, drift: Pose) -> _Aligned:
        """Return all particles in the frame of half 1, from the ``drift`` that aligns half 1 to half 2."""
        half_sets = self.table.half_sets
        results = half_2_seen(half_sets, self.results, drift)
        table = self.table.with_poses(Pose.stack([result.pose for result in results]))
        # The input poses move too, or their prior would pull the next alignment back.
        return _Aligned(table, half_2_moved(half_sets, self.listed, drift), results, self.pose_change)


@dataclass(frozen=True)
class _Run:
    """A refinement in progress: its plan, executor, mask of the FSC, positions of particles, and the list's source."""

    plan: Plan
    executor: Executor
    mask: Volume
    places: Callable[[ParticleTable], NDArray[np.float64]] | None = None
    source: ParticleSource | None = None

    def start(self, made: Average) -> tuple[NDArray[np.float64], float]:
        """Return the FSC of the averages to start from, and the limit that it sets."""
        assert made.halves is not None
        fsc = self.fsc(made.halves)
        return np.clip(fsc.best, 0.0, 1.0), self.next_limit(made.volume, self.agreement(fsc))

    def iteration(self, number: int, state: _State) -> tuple[_State, Iteration]:
        """Align and average once; return the state of the next iteration and the result of this one."""
        aligned, tilts = self.adjusted(number, state, self.aligned(number, state))
        dropped = self.duplicates(aligned)
        if dropped:
            aligned = aligned.without([one.row for one in dropped])
        made, drift = self.averaged(number, aligned, state.limit_angstrom)
        if drift is not None:
            aligned = aligned.in_frame_of_half_1(drift)
            made = self.average(f"iteration {number}, averaging in one frame", aligned)
        assert made.halves is not None  # both halves have particles
        fsc, pose_change = self.fsc(made.halves), aligned.pose_change
        shell = self.agreement(fsc)
        gained = shell - state.best_shell
        behind = state.behind + 1 if gained < -CONVERGED_SHELLS else 0
        iteration = Iteration(
            number=number,
            search=self.search(state).name,
            limit_angstrom=state.limit_angstrom,
            table=aligned.table,
            results=aligned.results,
            halves=made.halves,
            volume=made.volume,
            coverage=made.coverage,
            fsc=fsc,
            resolution_angstrom=fsc.box_angstrom / shell if shell else float("inf"),
            moved_deg=float(np.median(pose_change.turned_deg)),
            moved_angstrom=float(np.median(pose_change.shifted_angstrom)),
            moved_sds=float(np.median(pose_change.sds)),
            drift=drift,
            dropped=tuple(
                (state.table.names[d.row], state.table.names[d.of_row], d.distance_angstrom) for d in dropped
            ),
            ended=self.end(number, state, float(np.median(pose_change.sds)), gained, behind),
            tilts=tilts,
        )
        following = _State(
            table=aligned.table,
            listed=aligned.listed,
            references=made.halves,
            limit_angstrom=self.next_limit(made.volume, shell),
            without=made.without,
            tilts=tilts or state.tilts,
            fsc=np.clip(fsc.best, 0.0, 1.0),
            cone=self.cone(state, pose_change, self.next_limit(made.volume, shell)),
            best_shell=max(shell, state.best_shell),
            behind=behind,
        )
        return following, iteration

    def agreement(self, fsc: HalfMapFsc) -> float:
        """Return the shell, a fractional number, to which halves agree.

        Halves that started from one map agree up to its resolution whatever the particles show: the interpolated FSC
        must not count a part of the next shell as agreement.
        """
        shell = agreed_shell(fsc, self.mask)
        begun = 0.0 if self.plan.begins_near else fsc.box_angstrom / self.plan.start_resolution_angstrom
        return min(shell, begun) if begun < shell < np.floor(begun) + 1.0 else shell

    def fsc(self, halves: tuple[Volume, Volume]) -> HalfMapFsc:
        return half_map_fsc(halves, mask=self.mask, rng=np.random.default_rng(self.plan.seed))

    def aligned(self, number: int, state: _State) -> _Aligned:
        """Align each half to its own reference; the table and the results keep their order."""
        found: dict[int, Result] = {}
        starts = state.table if self.plan.listed is None else state.table.with_poses(state.listed)
        folds = folds_of(len(state.table))
        for half in (1, 2):
            rows = np.flatnonzero(np.asarray(state.table.half_sets) == half)
            aligner = self.aligners(state, half, folds[rows])
            stage = f"iteration {number}, half {half}"
            # The random numbers of an iteration are its own, or every average would repeat what one of them drew.
            seed = self.plan.seed if not self.draws else self.plan.seed + number
            # Every search is given the poses found before, and keeps them where it finds nothing better.
            known = number > 1 or self.plan.begins_near
            results = align_table(starts[rows], aligner, executor=self.executor, seed=seed, local=known, stage=stage)
            found.update(zip(rows.tolist(), results, strict=True))
        ordered = [found[row] for row in range(len(state.table))]
        poses = Pose.stack([result.pose for result in ordered])
        return _Aligned(state.table.with_poses(poses), state.listed, ordered, self.pose_change(state, ordered))

    def pose_change(self, state: _State, results: Sequence[Result]) -> PoseChange:
        """Return how far all particles have moved since the last iteration."""
        poses = Pose.stack([result.pose for result in results])
        symmetry, radius = self.plan.settings.symmetry, self.radius_angstrom
        return PoseChange.of(state.table.poses, poses, results, symmetry=symmetry, radius=radius)

    def aligners(self, state: _State, half: int, folds: NDArray[np.int64]) -> Aligners:
        """Make the aligners of a half's particles (m,): for those of each fold the map without them."""
        if state.without is None:
            references, which = [state.references[half - 1]], np.zeros(len(folds), np.int64)
        else:
            kept, which = np.unique(folds, return_inverse=True)
            references = [state.without[half, fold] for fold in kept.tolist()]
        left = 1.0 if state.without is None else 1.0 - 1.0 / FOLDS
        fsc = None if state.fsc is None else fsc_of_a_half(state.fsc, left=left)
        settings, mask = self.settings(state), self.plan.mask
        return Aligners([Aligner(r, settings, mask=mask, reference_fsc=fsc) for r in references], which)

    def adjusted(self, number: int, state: _State, aligned: _Aligned) -> tuple[_Aligned, Mapping[str, TomogramTilts]]:
        """Refine tilts and poses together, where asked for and searches are local; particles load with the tilts found.

        Averages are then at the poses found, and input poses move with what the images show of their places.
        """
        if self.plan.tilts is None or not isinstance(self.search(state), LocalSearch):
            return aligned, {}
        table, folds = aligned.table, folds_of(len(aligned.table))
        one, two = (self.aligners(state, half, folds) for half in (1, 2))
        which = np.where(np.asarray(table.half_sets) == 1, one.which, len(one.aligners) + two.which)
        both = Aligners([*one.aligners, *two.aligners], which)
        task = AdjustTomogram(replace(table, source=self.source), both, self.plan.tilts, changes_of(state.tilts))
        found = adjust_tilts(task, executor=self.executor, stage=f"iteration {number}, tilts")
        tilts = dict(zip(task.names, found, strict=True))
        poses, _ = poses_of(task, found)
        results = [replace(result, pose=poses[row], sampled=None) for row, result in enumerate(aligned.results)]
        moved = task.table.with_changes(changes_of(tilts)).with_poses(poses)
        listed = followed(aligned.listed, table, moved)
        return _Aligned(moved, listed, results, self.pose_change(state, results)), tilts

    @property
    def draws(self) -> bool:
        """True where averages use poses drawn from posteriors."""
        return self.plan.assignment is not Assignment.HARD

    def search(self, state: _State) -> AnySearch:
        if self.plan.listed is not None:
            return self.plan.listed
        return self.plan.settings.search if state.cone is None else LocalSearch(max_rotation_deg=state.cone[0])

    def settings(self, state: _State) -> Settings:
        """Return the settings of an iteration's alignments."""
        own = self.plan.settings
        return replace(
            own,
            search=self.search(state),
            resolution_angstrom=state.limit_angstrom,
            max_shift_angstrom=own.max_shift_angstrom if state.cone is None else state.cone[1],
            posterior_poses=POSTERIOR_POSES if self.draws else 0,
            posterior_resolved=0.0 if self.plan.assignment is Assignment.SOFT else POSTERIOR_RESOLVED,
        )

    def averaged(self, number: int, aligned: _Aligned, limit: float) -> tuple[Average, Pose | None]:
        """Average both halves; return also the pose that aligns half 1 to half 2 where there is a drift."""
        made = self.average(f"iteration {number}, averaging", aligned)
        assert made.halves is not None
        expected = Apart.after(aligned.pose_change, with_pose_change=self.plan.listed is not None)
        return made, drift_of(made.halves, expected, mask=self.mask, radius=self.radius_angstrom, limit=limit)

    def average(self, stage: str, aligned: _Aligned) -> Average:
        """Average particles at the poses found, or at those drawn from their posteriors.

        Drawn poses blur: shells are given the power that they have at the poses found (docs/theory.md section 16).
        """
        table = aligned.table
        averaged = partial(
            average_table,
            table,
            executor=self.executor,
            half_sets=np.asarray(table.half_sets),
            symmetry=self.plan.settings.symmetry,
        )
        found = [result.pose for result in aligned.results]
        drawn = [result.pose if result.sampled is None else result.sampled for result in aligned.results]
        made = averaged(poses=drawn, folds=folds_of(len(table)), stage=stage)
        if all(result.sampled is None for result in aligned.results):
            return made
        return made.with_power_of(averaged(poses=found, stage=f"{stage} at the poses found"))

    @property
    def radius_angstrom(self) -> float:
        """Radius of a sphere with the volume where the mask is above half of its largest value."""
        volume = float((self.mask.data > 0.5 * self.mask.data.max()).sum()) * self.mask.voxel_size_angstrom**3
        return float((0.75 / np.pi * volume) ** (1.0 / 3.0))

    def next_limit(self, volume: Volume, shell: float) -> float:
        """Return the limit: the agreement of the halves plus the margin, within the requested and the possible."""
        finest = float((volume.box - 1) // 2)
        if self.plan.settings.resolution_angstrom is not None:
            finest = min(finest, volume.box_angstrom / self.plan.settings.resolution_angstrom)
        return float(volume.box_angstrom / np.clip(shell + self.plan.margin_shells, MIN_SHELLS, finest))

    def cone(self, state: _State, pose_change: PoseChange, limit: float) -> tuple[float, float] | None:
        """Return the reach of the next local search, degrees and angstrom; None for a global search."""
        if self.plan.listed is not None:
            return None  # every search is around the input poses
        if state.cone is None and (state.fsc is None or np.median(pose_change.sds) > LOCAL_BELOW):
            return None
        return self.reach(pose_change.rotation_sd_deg, pose_change.shift_sd_angstrom, limit)

    def reach(self, rotation_sd_deg: float, shift_sd_angstrom: float, limit: float) -> tuple[float, float]:
        """Return how far a search near poses of these errors reaches, degrees and angstrom."""
        rotation_deg = max(CONE_SDS * rotation_sd_deg, np.degrees(CONE_FRACTION * limit / self.radius_angstrom))
        shift = max(CONE_SDS * shift_sd_angstrom, CONE_FRACTION * limit)
        return float(min(rotation_deg, 180.0)), float(shift)

    def end(self, number: int, state: _State, moved_sds: float, gained: float, behind: int) -> str:
        """Return the reason to end after this iteration; empty where there is none."""
        if isinstance(self.search(state), LocalSearch) and moved_sds < CONVERGED_SDS and gained < CONVERGED_SHELLS:
            return f"converged: the median particle moved by {moved_sds:.2f} of its sd, the FSC by {gained:+.2f} shells"
        if behind >= PATIENCE:
            return f"the halves have agreed less than before for {PATIENCE} iterations"
        if number == self.plan.max_iterations:
            return f"{LIMIT_REACHED} {number} iterations is reached"
        return ""

    def duplicates(self, aligned: _Aligned) -> list[Duplicate]:
        """Find particles that alignment has moved to the position of a better one."""
        if self.plan.duplicates_angstrom is None or self.places is None:
            return []
        return duplicates(
            aligned.table.tomograms,
            self.places(aligned.table),
            distance_angstrom=self.plan.duplicates_angstrom,
            dissimilarity=[result.dissimilarity for result in aligned.results],
        )


def fsc_mask(start: Volume, plan: Plan) -> Volume:
    """Return the mask of the FSC: as given, or a soft sphere of the particle's diameter, given or of the map."""
    if plan.mask is not None:
        return plan.mask
    return sphere_mask(start, plan.settings.mask_diameter_angstrom or plan.settings.particle_diameter_angstrom)
