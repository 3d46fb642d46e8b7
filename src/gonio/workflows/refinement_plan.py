"""What a refinement is asked to do, and what each of its iterations comes to.

Values alone: how poses are refined is in ``refinement``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.aligner import Search, Settings
from gonio.alignment.result import Result
from gonio.averaging.resolution import HalfMapFsc
from gonio.particle.arguments import ArgumentError
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume

__all__ = ["Assignment", "Iteration", "Listed", "Plan"]


@dataclass(frozen=True)
class Listed:
    """How far the poses of a list may be off: standard deviations of a Gaussian prior, per axis, and a cone.

    None stands for no expectation, and without a cone for the nearest optimum. As the prior stays on the input poses,
    noise cannot carry poses away step by step.
    """

    rotation_sd_deg: float | None = None
    shift_sd_angstrom: float | None = None
    cone_deg: float | None = None


class Assignment(StrEnum):
    """Where a particle enters the averages.

    HARD at the pose found. SOFT at poses drawn from its posterior (``alignment.posterior``): at low SNR the average of
    poses that fit best repeats the noise of what they were aligned to. AUTO as SOFT; where the posterior is narrower
    than what is compared resolves the pose found is all there is.
    """

    HARD = "hard"
    SOFT = "soft"
    AUTO = "auto"


@dataclass(frozen=True)
class Plan:
    """What a refinement is asked to do.

    Parameters
    ----------
    settings
        Of every alignment. The search is global first and local later, whatever it says;
        ``resolution_angstrom`` is the finest that is ever compared, None for the last whole shell.
    start_resolution_angstrom
        To which the initial model is taken, and beyond which nothing is compared in the first iteration.
    margin_shells
        How far beyond where the halves agree the next iteration compares, in shells of one over the box.
    max_iterations
        After which it ends, converged or not.
    listed
        For poses of the list that are nearly right: every search is local, around them. None to search everywhere
        first.
    mask
        Where the particle has density, a volume of its box, 0 to 1; None for a soft sphere.
    assignment
        ``Assignment`` or its name: where a particle enters the averages.
    duplicates_angstrom
        Particles nearer than this to a better one are dropped after each alignment; None keeps all.
    seed
        Of the random numbers of searches that draw any.
    """

    settings: Settings = field(default_factory=Settings)
    start_resolution_angstrom: float = 60.0
    margin_shells: float = 0.0
    max_iterations: int = 12
    listed: Listed | None = None
    mask: Volume | None = None
    assignment: Assignment = Assignment.AUTO
    duplicates_angstrom: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.assignment not in list(Assignment):
            known = ", ".join(Assignment)
            raise ArgumentError(
                "{} must be one of {known}, got {got!r}", "assignment", known=known, got=self.assignment
            )
        object.__setattr__(self, "assignment", Assignment(self.assignment))
        if not (np.isfinite(self.start_resolution_angstrom) and self.start_resolution_angstrom > 0):
            raise ValueError(
                f"start_resolution_angstrom must be a positive number, got {self.start_resolution_angstrom!r}"
            )
        if not 0.0 <= self.margin_shells <= 2.0:
            raise ValueError(
                f"margin_shells must lie between 0 and 2, got {self.margin_shells!r}: further ahead there is only noise"
            )
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations!r}")
        if self.settings.search not in (Search.COARSE_TO_FINE, Search.AXIS):
            raise ValueError(f"a refinement chooses its searches itself: leave out {self.settings.search}")


@dataclass(frozen=True)
class Iteration:
    """What one iteration came to.

    Attributes
    ----------
    number
        1, 2, ...
    search
        How poses were looked for.
    limit_angstrom
        The finest detail that was compared.
    table
        The particles with their poses and half sets.
    results
        Of the alignment, one for each particle of the table.
    halves, volume
        The averages of each half, and of all, in one frame.
    coverage
        How often each frequency was measured, as ``Average.coverage``.
    fsc
        Of the halves: under the mask, and corrected for what the mask adds.
    resolution_angstrom
        How far they agree: to where that falls below 0.143, or below what chance alone may come to.
    moved_deg, moved_angstrom, moved_sds
        How far the median particle moved since the last iteration: turned, shifted, and both in units of its predicted
        standard deviation. Against the input poses in the first.
    drift
        By which half 2 was moved to lie on half 1; None where it was not.
    dropped
        Duplicates by name: the one dropped, the one that stays, and angstrom between them.
    ended
        Why the refinement ends here; empty where it goes on.
    """

    number: int
    search: Search
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
