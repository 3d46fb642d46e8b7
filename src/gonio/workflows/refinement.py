"""Gold-standard refinement: aligning and averaging in turns, the two halves of the particles apart from the first step.

Flow of one iteration: each half aligned to its own reference, below the limit -> averages -> half 2 laid on half 1 ->
FSC -> the next limit. Halves share the initial model (or, de novo, not even that), the frame, and the FSC with the limit
that it sets: numbers, never a map (docs/refinement.md).

Must not know where particles come from, who does the work, nor how results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Aligner, Search, Settings
from gonio.alignment.particle_list import Aligners, align_table
from gonio.alignment.result import Result
from gonio.averaging.averages import FOLDS, Average, average_table, folds_of
from gonio.averaging.resolution import FSC_HALVES, HalfMapFsc, fsc_of_a_half, half_map_fsc
from gonio.fourier.fsc import resolution_at
from gonio.fourier.spectrum import index_grid
from gonio.fourier.transform import MIN_SHELLS, low_passed, shell_limit
from gonio.particle.half_sets import Duplicate, duplicates
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.preparation.extent import sphere_mask
from gonio.run.executor import Executor, Local
from gonio.workflows.half_frames import Apart, drift_of, half_2_moved, half_2_seen
from gonio.workflows.pose_change import PoseChange
from gonio.workflows.refinement_plan import Assignment, Iteration, Listed, Plan

__all__ = [
    "Assignment",
    "Iteration",
    "Listed",
    "Plan",
    "best_of",
    "fsc_mask",
    "independent_samples",
    "refined",
    "start_map",
]

# Halves agree where their FSC is above 0.143 and above so many standard deviations of chance, which in shells of few
# samples is more; one half is always enough. 40 particles of noise (`experiments/refine`) came to 0.15 to 0.3 in the
# lowest six.
CHANCE_SDS, ALWAYS_ENOUGH = 2.0, 0.5
# A local search looks this many of the predicted standard deviations around, and at least this share of the resolution.
CONE_SDS, CONE_FRACTION = 3.0, 0.5
# Searches are local once the median particle moved by less than this many of its own standard deviations,
LOCAL_BELOW = 1.0
# and all is converged when it moved by less than this many while the resolution gained less than so many shells.
REST_BELOW, REST_SHELLS = 0.25, 0.25
# or when the resolution has been less than the best, by as much, for so many iterations.
PATIENCE = 3

# Poses that are drawn for each particle, and the share of the limit that tells them apart (``Settings``).
POSTERIOR_POSES, POSTERIOR_RESOLVED = 12, 0.1


def start_map(volume: Volume, *, resolution_angstrom: float) -> Volume:
    """A map from which both halves start: nothing of it is left at the resolution and beyond.

    The edge of ``low_passed`` is two shells wide; here it ends at the resolution, so that what particles of noise
    would borrow from the map ends there too.
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
    """Refine the poses of a list; gives each iteration when it is done, the last of which tells why it is.

    Parameters
    ----------
    table
        Particles that are all in half set 1 or 2.
    starts
        The map that each half starts from, in one frame: as a rule one map twice (``start_map``). None for the averages
        of the halves at the poses of the list, which must then be ``plan.listed``, as far as these agree.
    plan
        What to do.
    executor
        Who does the work; this process unless given. Each stage has a name of its own.
    places_angstrom
        Tells where the particles of a table are in their tomograms, (m, 3): needed to find duplicates.

    Raises
    ------
    ValueError
        Particles without a half, an empty half, no places to find duplicates by; maps and particles that do not fit.
    """
    plan = Plan() if plan is None else plan
    executor = executor or Local()
    _check(table, starts, plan, places_angstrom)
    if starts is None:
        run, state = _from_list(table, plan, executor, places_angstrom)
    else:
        _check_limits(starts[0], plan, plan.start_resolution_angstrom)
        run = _Run(plan, executor, fsc_mask(starts[0], plan), places_angstrom)
        state = _State(table, table.poses, starts, limit_angstrom=plan.start_resolution_angstrom)
    for number in range(1, plan.max_iterations + 1):
        state, iteration = run.iteration(number, state)
        yield iteration
        if iteration.ended:
            return


def independent_samples(mask: Volume) -> NDArray[np.float64]:
    """Samples of each shell 0..n//2 that tell something of their own of a volume under a mask, (n // 2 + 1,).

    Half of a shell, as the others are Friedel mates, times the share of the box that the mask leaves. Where two volumes
    have nothing in common their FSC has a standard deviation of one over the root of that.
    """
    shell = np.rint(np.linalg.norm(index_grid(mask.box), axis=-1)).astype(int).ravel()
    count = np.bincount(shell)[: mask.box // 2 + 1] / 2.0
    return np.maximum(count * float((mask.data.astype(np.float64) ** 2).mean()), 1.0)


def best_of(iterations: Sequence[Iteration]) -> Iteration:
    """The last iteration whose halves agree as far as any's, but for a quarter of a shell."""
    shells = [one.fsc.box_angstrom / one.resolution_angstrom for one in iterations]
    return [one for one, shell in zip(iterations, shells, strict=True) if shell >= max(shells) - REST_SHELLS][-1]


def _from_list(
    table: ParticleTable,
    plan: Plan,
    executor: Executor,
    places: Callable[[ParticleTable], NDArray[np.float64]] | None,
) -> tuple[_Run, _State]:
    """Start from the averages of the input poses, in one frame, as far as these agree."""
    assert plan.listed is not None  # refined has asked for it
    averaged = partial(
        average_table,
        executor=executor,
        half_sets=np.asarray(table.half_sets),
        folds=folds_of(len(table)),
        symmetry=plan.settings.symmetry,
    )
    made = averaged(table, stage="averaging input poses")
    assert made.halves is not None
    _check_limits(made.volume, plan, None)
    run = _Run(plan, executor, fsc_mask(made.volume, plan), places)
    fsc, limit = run.start(made)
    # The halves of a list may come from refinements that never met.
    turn, shift = plan.listed.rotation_sd_deg, plan.listed.shift_sd_angstrom
    expected = Apart.listed(turn, shift, voxel_size_angstrom=made.volume.voxel_size_angstrom)
    drift = drift_of(made.halves, expected, mask=run.mask, radius=run.radius_angstrom, limit=limit)
    if drift is not None:
        table = table.with_poses(half_2_moved(table.half_sets, table.poses, drift))
        made = averaged(table, stage="averaging input poses in one frame")
        fsc, limit = run.start(made)
    assert made.halves is not None
    return run, _State(table, table.poses, made.halves, limit, made.without, fsc)


@dataclass(frozen=True)
class _State:
    """What one iteration hands to the next.

    ``listed`` are the poses that the list had, ``cone`` is how far a local search looks, degrees and angstrom, and
    ``behind`` for how many iterations the best resolution, in shells, has not been reached.
    """

    table: ParticleTable
    listed: Pose
    references: tuple[Volume, Volume]
    limit_angstrom: float
    without: Mapping[tuple[int, int], Volume] | None = None
    fsc: NDArray[np.float64] | None = None
    cone: tuple[float, float] | None = None
    best_shell: float = 0.0
    behind: int = 0


@dataclass(frozen=True)
class _Run:
    plan: Plan
    executor: Executor
    mask: Volume
    places: Callable[[ParticleTable], NDArray[np.float64]] | None = None

    def start(self, made: Average) -> tuple[NDArray[np.float64], float]:
        """The FSC of the averages to start from, and the limit that it sets."""
        assert made.halves is not None
        fsc = self.fsc(made.halves)
        return np.clip(fsc.best, 0.0, 1.0), self.next_limit(made.volume, self.agreement(fsc))

    def iteration(self, number: int, state: _State) -> tuple[_State, Iteration]:
        """One turn of aligning and averaging."""
        results = self.aligned(number, state)
        poses = Pose.stack([result.pose for result in results])
        pose_change = PoseChange.of(
            state.table.poses, poses, results, symmetry=self.plan.settings.symmetry, radius=self.radius_angstrom
        )
        table, listed = state.table.with_poses(poses), state.listed
        dropped = self.duplicates(table, results)
        if dropped:
            kept = np.setdiff1d(np.arange(len(table)), [one.row for one in dropped])
            table, results, pose_change, listed = (
                table[kept],
                [results[i] for i in kept],
                pose_change.take(kept),
                listed[kept],
            )
            _check_halves(table)
        made, drift = self.averaged(number, table, results, state.limit_angstrom, pose_change)
        if drift is not None:
            results = half_2_seen(table.half_sets, results, drift)
            table = table.with_poses(Pose.stack([result.pose for result in results]))
            listed = half_2_moved(table.half_sets, listed, drift)  # or the next alignment would be pulled back
            made = self.average(f"iteration {number}, averaging in one frame", table, results)
        assert made.halves is not None  # both halves have particles
        fsc = self.fsc(made.halves)
        shell = self.agreement(fsc)
        gained = shell - state.best_shell
        behind = state.behind + 1 if gained < -REST_SHELLS else 0
        iteration = Iteration(
            number=number,
            search=self.search(state),
            limit_angstrom=state.limit_angstrom,
            table=table,
            results=results,
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
        )
        following = _State(
            table=table,
            listed=listed,
            references=made.halves,
            limit_angstrom=self.next_limit(made.volume, shell),
            without=made.without,
            fsc=np.clip(fsc.best, 0.0, 1.0),
            cone=self.cone(state, pose_change, self.next_limit(made.volume, shell)),
            best_shell=max(shell, state.best_shell),
            behind=behind,
        )
        return following, iteration

    def agreement(self, fsc: HalfMapFsc) -> float:
        """The shell to which halves agree.

        Halves that started from one map agree up to its resolution whatever the particles show: that is no reason to
        believe in half of the next shell, as the line from one to the other would.
        """
        chance = CHANCE_SDS / np.sqrt(independent_samples(self.mask))
        enough = np.clip(chance, FSC_HALVES, ALWAYS_ENOUGH)
        shell = fsc.box_angstrom / resolution_at(fsc.best - enough, 0.0, box_angstrom=fsc.box_angstrom)
        begun = 0.0 if self.plan.listed is not None else fsc.box_angstrom / self.plan.start_resolution_angstrom
        return min(shell, begun) if begun < shell < np.floor(begun) + 1.0 else shell

    def fsc(self, halves: tuple[Volume, Volume]) -> HalfMapFsc:
        return half_map_fsc(halves, mask=self.mask, rng=np.random.default_rng(self.plan.seed))

    def aligned(self, number: int, state: _State) -> list[Result]:
        """Each half to its own reference; in the order of the table."""
        found: dict[int, Result] = {}
        starts = state.table if self.plan.listed is None else state.table.with_poses(state.listed)
        folds = folds_of(len(state.table))
        for half in (1, 2):
            rows = np.flatnonzero(np.asarray(state.table.half_sets) == half)
            aligner = self.aligners(state, half, folds[rows])
            stage = f"iteration {number}, half {half}"
            # The random numbers of an iteration are its own, or every average would repeat what one of them drew.
            seed = self.plan.seed if not self.draws else self.plan.seed + number
            # Poses that were found before are known to every search, which then loses none of them.
            known = number > 1 or self.plan.listed is not None
            results = align_table(starts[rows], aligner, executor=self.executor, seed=seed, local=known, stage=stage)
            found.update(zip(rows.tolist(), results, strict=True))
        return [found[row] for row in range(len(state.table))]

    def aligners(self, state: _State, half: int, folds: NDArray[np.int64]) -> Aligners:
        """The references of a half's particles (m,): for those of each fold the map without them."""
        if state.without is None:
            references, which = [state.references[half - 1]], np.zeros(len(folds), np.int64)
        else:
            kept, which = np.unique(folds, return_inverse=True)
            references = [state.without[half, fold] for fold in kept.tolist()]
        left = 1.0 if state.without is None else 1.0 - 1.0 / FOLDS
        fsc = None if state.fsc is None else fsc_of_a_half(state.fsc, left=left)
        settings, mask = self.settings(state), self.plan.mask
        return Aligners([Aligner(r, settings, mask=mask, reference_fsc=fsc) for r in references], which)

    @property
    def draws(self) -> bool:
        """Whether poses are drawn."""
        return self.plan.assignment is not Assignment.HARD

    def search(self, state: _State) -> Search:
        everywhere = state.cone is None and self.plan.listed is None
        return self.plan.settings.search if everywhere else Search.LOCAL

    def settings(self, state: _State) -> Settings:
        """Of the alignments of an iteration."""
        own = replace(
            self.plan.settings,
            search=self.search(state),
            resolution_angstrom=state.limit_angstrom,
            posterior_poses=POSTERIOR_POSES if self.draws else 0,
            posterior_resolved=0.0 if self.plan.assignment is Assignment.SOFT else POSTERIOR_RESOLVED,
        )
        if self.plan.listed is not None:
            return replace(
                own,
                prior_rotation_sd_deg=self.plan.listed.rotation_sd_deg,
                prior_shift_sd_angstrom=self.plan.listed.shift_sd_angstrom,
                max_rotation_deg=self.plan.listed.cone_deg,
            )
        if state.cone is None:
            return own
        return replace(own, max_rotation_deg=state.cone[0], max_shift_angstrom=state.cone[1])

    def averaged(
        self, number: int, table: ParticleTable, results: Sequence[Result], limit: float, pose_change: PoseChange
    ) -> tuple[Average, Pose | None]:
        """The averages of both halves, and the pose that lays half 1 on half 2 where their frames are apart."""
        made = self.average(f"iteration {number}, averaging", table, results)
        assert made.halves is not None
        expected = Apart.after(pose_change, with_pose_change=self.plan.listed is not None)
        return made, drift_of(made.halves, expected, mask=self.mask, radius=self.radius_angstrom, limit=limit)

    def average(self, stage: str, table: ParticleTable, results: Sequence[Result]) -> Average:
        """Every particle at the poses that it may have."""
        return average_table(
            table,
            executor=self.executor,
            poses=[result.pose if result.sampled is None else result.sampled for result in results],
            half_sets=np.asarray(table.half_sets),
            folds=folds_of(len(table)),
            symmetry=self.plan.settings.symmetry,
            stage=stage,
        )

    @property
    def radius_angstrom(self) -> float:
        """Of the particle: where its mask is half of its largest."""
        volume = float((self.mask.data > 0.5 * self.mask.data.max()).sum()) * self.mask.voxel_size_angstrom**3
        return float((0.75 / np.pi * volume) ** (1.0 / 3.0))

    def next_limit(self, volume: Volume, shell: float) -> float:
        """How far the halves agree, and the margin; not beyond what was asked for, nor too coarse to align."""
        finest = float((volume.box - 1) // 2)
        if self.plan.settings.resolution_angstrom is not None:
            finest = min(finest, volume.box_angstrom / self.plan.settings.resolution_angstrom)
        return float(volume.box_angstrom / np.clip(shell + self.plan.margin_shells, MIN_SHELLS, finest))

    def cone(self, state: _State, pose_change: PoseChange, limit: float) -> tuple[float, float] | None:
        """How far the next iteration looks around poses; None for everywhere."""
        if state.cone is None and (state.fsc is None or np.median(pose_change.sds) > LOCAL_BELOW):
            return None
        turn = max(CONE_SDS * pose_change.rotation_sd_deg, np.degrees(CONE_FRACTION * limit / self.radius_angstrom))
        return float(min(turn, 180.0)), float(max(CONE_SDS * pose_change.shift_sd_angstrom, CONE_FRACTION * limit))

    def end(self, number: int, state: _State, moved_sds: float, gained: float, behind: int) -> str:
        """Why it ends after this iteration; empty where it does not."""
        if self.search(state) is Search.LOCAL and moved_sds < REST_BELOW and gained < REST_SHELLS:
            return f"converged: the median particle moved by {moved_sds:.2f} of its sd, the FSC by {gained:+.2f} shells"
        if behind >= PATIENCE:
            return f"the halves have agreed less than before for {PATIENCE} iterations"
        if number == self.plan.max_iterations:
            return f"{number} iterations were asked for"
        return ""

    def duplicates(self, table: ParticleTable, results: list[Result]) -> list[Duplicate]:
        """Particles that have come to lie on a better one."""
        if self.plan.duplicates_angstrom is None or self.places is None:
            return []
        return duplicates(
            table.tomograms,
            self.places(table),
            distance_angstrom=self.plan.duplicates_angstrom,
            dissimilarity=[result.dissimilarity for result in results],
        )


def fsc_mask(start: Volume, plan: Plan) -> Volume:
    """The mask of the FSC: as given, or the soft sphere of the particle's diameter, as given or as the map shows."""
    if plan.mask is not None:
        return plan.mask
    return sphere_mask(start, plan.settings.mask_diameter_angstrom or plan.settings.particle_diameter_angstrom)


def _check(table: ParticleTable, starts: tuple[Volume, Volume] | None, plan: Plan, places: object) -> None:
    if starts is None and plan.listed is None:
        raise ValueError("without start maps the poses of the list are where to start from: say how good they are")
    for map_ in () if starts is None else (starts[1], plan.mask):
        if starts is not None and map_ is not None and map_.box != starts[0].box:
            raise ValueError(f"start maps and mask differ in box: {starts[0].box} and {map_.box} voxels")
    if not np.isin(np.asarray(table.half_sets), [1, 2]).all():
        raise ValueError("every particle must be in half set 1 or 2: make half sets first (gonio.particle.half_sets)")
    _check_halves(table)
    if plan.duplicates_angstrom is not None and places is None:
        raise ValueError("the list does not say where particles are in their tomograms: duplicates cannot be found")


def _check_limits(volume: Volume, plan: Plan, start_resolution_angstrom: float | None) -> None:
    """Raise ValueError where a resolution does not suit the box."""
    for resolution in (start_resolution_angstrom, plan.settings.resolution_angstrom):
        shell_limit(volume.box, volume.voxel_size_angstrom, resolution)


def _check_halves(table: ParticleTable) -> None:
    counts = [int((np.asarray(table.half_sets) == half).sum()) for half in (1, 2)]
    if min(counts) < 1:
        raise ValueError(f"both halves need particles, they have {counts[0]} and {counts[1]}")
