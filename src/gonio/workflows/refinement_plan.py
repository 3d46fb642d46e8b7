"""Settings of a refinement, what it needs of particles and maps, and the results of its iterations.

These are values alone; ``refinement`` refines the poses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import Result
from gonio.averaging.resolution import HalfMapFsc
from gonio.fourier.transform import shell_limit
from gonio.particle.arguments import ArgumentError, check_one_of
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.settings import AxisSearch, GlobalSearch, LocalSearch, Settings
from gonio.workflows.tilt_refinement import TiltPlan, TomogramTilts

# Begins the reason of an end that is none of the refinement's own.
LIMIT_REACHED = "the limit of"


class Assignment(StrEnum):
    """Poses at which a particle enters the averages.

    HARD is the pose found. SOFT are poses drawn from its posterior (``alignment.posterior``): at low SNR the average at
    poses that fit best repeats the noise of their reference. AUTO is SOFT, but HARD for a posterior that is narrower
    than the comparison resolves.
    """

    HARD = "hard"
    SOFT = "soft"
    AUTO = "auto"


@dataclass(frozen=True)
class Continued:
    """End of an earlier refinement, from whose poses and half maps another starts.

    Attributes
    ----------
    limit_angstrom
        Resolution to which its half maps agree: the limit of the first iteration.
    rotation_sd_deg, shift_sd_angstrom
        Predicted errors of its poses over all axes, median over particles.
    halves_apart
        True where its halves never saw one another; None where that is not known.
    shared_angstrom
        Detail to which its halves had been given one map; None where they had none in common.
    """

    limit_angstrom: float
    rotation_sd_deg: float = 0.0
    shift_sd_angstrom: float = 0.0
    halves_apart: bool | None = None
    shared_angstrom: float | None = None


@dataclass(frozen=True)
class Plan:
    """Settings of a refinement.

    Parameters
    ----------
    settings
        Settings of every alignment. The search becomes local in later iterations; ``resolution_angstrom`` is the finest
        detail that is ever compared, None for the last whole shell.
    start_resolution_angstrom
        Resolution of the initial model, and limit of the first iteration.
    margin_shells
        Shells, one over the box wide, that the next iteration compares beyond the agreement of the halves.
    max_iterations
        Largest number of iterations.
    listed
        Search around input poses that are nearly right, with their errors as the prior, which stays at the input poses:
        noise cannot move poses away from them iteration by iteration. None for a global search first.
    continued
        Start locally at the poses of the list and from independent half maps, where an earlier refinement ended.
    mask
        Where the particle has density, a volume of its box, 0 to 1; None for a soft sphere.
    assignment
        ``Assignment`` or its name: the poses at which a particle enters the averages; HARD where tilts are refined.
    duplicates_angstrom
        Particles nearer than this to a better one are dropped after each alignment; None keeps all.
    tilts
        Refine the tilts of stacks too, in every iteration that searches near the poses found; None for poses alone.
    seed
        Seed of searches that draw.
    """

    settings: Settings = field(default_factory=Settings)
    start_resolution_angstrom: float = 60.0
    margin_shells: float = 0.0
    max_iterations: int = 12
    listed: LocalSearch | None = None
    continued: Continued | None = None
    mask: Volume | None = None
    assignment: Assignment = Assignment.AUTO
    duplicates_angstrom: float | None = None
    tilts: TiltPlan | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        check_one_of("assignment", self.assignment, Assignment)
        object.__setattr__(self, "assignment", Assignment(self.assignment))
        if self.tilts is not None:
            if self.assignment is Assignment.SOFT:
                raise ArgumentError(
                    "{} soft and {} exclude each other: once tilts have moved, averages are at the poses found; give"
                    " hard or auto",
                    "assignment",
                    "tilts",
                )
            object.__setattr__(self, "assignment", Assignment.HARD)
        if not (np.isfinite(self.start_resolution_angstrom) and self.start_resolution_angstrom > 0):
            raise ArgumentError(
                "{} must be a positive number, got {got!r}",
                "start_resolution_angstrom",
                got=self.start_resolution_angstrom,
            )
        if self.continued is not None and self.listed is not None:
            raise ValueError("listed and continued exclude each other: both state how poses are searched at the start")
        if not 0.0 <= self.margin_shells <= 2.0:
            raise ValueError(
                f"margin_shells must lie between 0 and 2, got {self.margin_shells!r}: further ahead there is only noise"
            )
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations!r}")
        if not isinstance(self.settings.search, GlobalSearch | AxisSearch):
            raise ValueError(f"a refinement chooses its searches itself: leave out {self.settings.search.name}")

    @property
    def begins_near(self) -> bool:
        """True where the first iteration searches near the poses of the list, and halves begin with maps apart."""
        return self.listed is not None or self.continued is not None

    @property
    def halves_apart(self) -> bool | None:
        """True where the halves never saw one another; None where that is not known: those of input poses may have."""
        if self.continued is not None:
            return self.continued.halves_apart
        return None if self.listed is not None else True


@dataclass(frozen=True)
class Iteration:
    """Result of one iteration.

    Attributes
    ----------
    number
        1, 2, ...
    search
        Name of the search of the alignments.
    limit_angstrom
        Finest detail that was compared.
    table
        Particles with their poses and half sets.
    results
        Results of the alignment, one for each particle of the table.
    halves, volume
        Averages of each half, and of all, in one frame.
    coverage
        Number of times that each frequency was measured, as ``Average.coverage``.
    fsc
        FSC of the halves: under the mask, and corrected for the mask.
    resolution_angstrom
        Where the FSC falls below 0.143, or below what chance may reach.
    moved_deg, moved_angstrom, moved_sds
        Rotation and shift of the median particle since the last iteration (the first: from the input poses), and its
        displacement in units of its predicted standard deviation.
    drift
        Pose that aligns half 1 to half 2, by which half 2 was moved to half 1's frame; None where it was not.
    dropped
        Duplicates by name: the one dropped, the one that stays, and angstrom between them.
    ended
        Reason why the refinement ends here; empty where it continues.
    tilts
        The refined tilts, by tomogram; empty where they were not refined.
    """

    number: int
    search: str
    limit_angstrom: float
    table: ParticleTable
    results: Sequence[Result]
    halves: tuple[Volume, Volume]
    volume: Volume
    coverage: NDArray[np.float32]
    fsc: HalfMapFsc
    resolution_angstrom: float
    moved_deg: float
    moved_angstrom: float
    moved_sds: float
    drift: Pose | None
    dropped: tuple[tuple[str, str, float], ...]
    ended: str
    tilts: Mapping[str, TomogramTilts] = field(default_factory=dict)

    @property
    def may_go_on(self) -> bool:
        """True where the refinement ends for its number of iterations alone."""
        return self.ended.startswith(LIMIT_REACHED)


def check_start(table: ParticleTable, starts: tuple[Volume, Volume] | None, plan: Plan, places: object) -> None:
    """Raise ValueError where particles, maps and plan do not fit; ``places`` states where particles are, or is None."""
    if starts is None and plan.listed is None:
        raise ValueError(
            "without start maps the refinement starts from the poses of the list: give their errors (plan.listed)"
        )
    for map_ in () if starts is None else (starts[1], plan.mask):
        if starts is not None and map_ is not None and map_.box != starts[0].box:
            raise ValueError(f"start maps and mask differ in box: {starts[0].box} and {map_.box} voxels")
    if not np.isin(np.asarray(table.half_sets), [1, 2]).all():
        raise ValueError("every particle must be in half set 1 or 2: make half sets first (gonio.particle.half_sets)")
    check_halves(table)
    if plan.duplicates_angstrom is not None and places is None:
        raise ValueError("the list does not say where particles are in their tomograms: duplicates cannot be found")


def check_limits(volume: Volume, plan: Plan, start_resolution_angstrom: float | None) -> None:
    """Raise ValueError where a resolution does not suit the box."""
    for resolution in (start_resolution_angstrom, plan.settings.resolution_angstrom):
        shell_limit(volume.box, volume.voxel_size_angstrom, resolution)


def check_halves(table: ParticleTable) -> None:
    """Raise ValueError where a half has no particles."""
    counts = [int((np.asarray(table.half_sets) == half).sum()) for half in (1, 2)]
    if min(counts) < 1:
        raise ValueError(f"both halves need particles, they have {counts[0]} and {counts[1]}")
