"""What an alignment is asked to do: the search, the score and their lengths, with every default.

Owns the names and the defaults. Must not know how anything is done.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum

import numpy as np

from gonio.comparison.score import Score
from gonio.particle import orientations
from gonio.particle.arguments import ArgumentError
from gonio.particle.symmetry import Symmetry

__all__ = ["Inputs", "Lengths", "Overlap", "Pool", "Schedule", "Search", "Settings"]


@dataclass(frozen=True)
class Schedule:
    """The constants of the stochastic refinement.

    Parameters
    ----------
    draw_contrast
        t of eq. 11: the best candidate is drawn at least 10^t times as often as the worst.
    duplicate_distance
        gamma of eq. 12, a Frobenius norm with shifts in voxels.
    regression_tolerance
        t_regress: the search ends when the line through the last smallest dissimilarities, relative to the first,
        falls by no more than this per iteration.
    regression_window
        Over how many iterations that line is drawn.
    max_iterations
        n_max_iter.
    """

    draw_contrast: float = 2.0
    duplicate_distance: float = 0.3
    regression_tolerance: float = 1e-3
    regression_window: int = 250
    max_iterations: int = 1000


_LENGTHS = (
    "resolution_angstrom",
    "max_shift_angstrom",
    "max_rotation_deg",
    "mask_diameter_angstrom",
    "particle_diameter_angstrom",
    "tolerance_angstrom",
    "prior_rotation_sd_deg",
    "prior_shift_sd_angstrom",
    "axis_sd_deg",
)


class Search(StrEnum):
    """How the pose is looked for.

    ``COARSE_TO_FINE`` starts from a uniform set of orientations at a low resolution and refines the best of them from
    limit to limit (docs/theory.md section 10). ``AXIS`` does the same with the turns about the particles' known
    normals, ``LOCAL`` with a given pose or the cone around it. ``STOCHASTIC`` is the paper's parallel refinement of an
    Euler grid, ``AXIS_STOCHASTIC`` the same for turns about the normals, ``INDEPENDENT`` refines every seed of that
    grid.
    """

    COARSE_TO_FINE = "coarse_to_fine"
    AXIS = "axis"
    LOCAL = "local"
    STOCHASTIC = "stochastic"
    AXIS_STOCHASTIC = "axis_stochastic"
    INDEPENDENT = "independent"

    @property
    def is_papers(self) -> bool:
        """Whether this is a schedule of Xu & Alber 2012, which compares the particles as they are."""
        return self in (Search.STOCHASTIC, Search.AXIS_STOCHASTIC, Search.INDEPENDENT)


class Inputs(StrEnum):
    """What the scores are fed.

    ``RESTORED`` compares the most probable densities behind the particles, every shell weighted by what the pair is
    expected to have in common (docs/theory.md section 9); tilt images are masked and whitened. ``PLAIN`` compares the
    particles as they are: every sample alike in the paper's searches and the local one, and up to the full limit in
    the others, where shells are weighted.
    """

    RESTORED = "restored"
    PLAIN = "plain"


class Pool(StrEnum):
    """Which candidates are refined within a limit: ``ALL``, or those ``DRAWN`` with the paper's eq. 11."""

    ALL = "all"
    DRAWN = "drawn"


class Overlap(StrEnum):
    """Whether what both wedges have measured is ``HELD`` while a derivative is taken, or ``MOVING`` with the pose."""

    HELD = "held"
    MOVING = "moving"


@dataclass(frozen=True)
class Lengths:
    """Settings whose default follows from the box, in angstrom: see ``Settings``."""

    resolution_angstrom: float
    max_shift_angstrom: float


@dataclass(frozen=True)
class Settings:
    """What an alignment is asked to do.

    Parameters
    ----------
    score
        ``Score`` or its name, what is minimised: ``"rcs"`` (blind to contrast), ``"fcs"`` (values on one scale, which
        restored inputs are brought to) or, for restored inputs, ``"likelihood"``.
    search
        ``Search`` or its name.
    inputs
        ``Inputs`` or its name; None for plain inputs in the paper's searches and restored ones in all others.
    pool
        ``Pool`` or its name; for the search from coarse to fine and that about an axis.
    symmetry
        Point group of the reference about its box centre, such as ``"C4"`` (``gonio.Symmetry``): seeds are reduced by
        it, and equivalent poses are one.
    seed_interval_deg
        Interval of the starting angles of the paper's searches; 60 gives 108 seeds (6 about an axis), 45 gives 256 (8).
    resolution_angstrom
        Finest detail that is compared; None for four voxels, the paper's 4 nm at 1 nm voxels.
    max_shift_angstrom
        Largest length of the shift (for a local search, of its change); None for a quarter of the box.
    max_rotation_deg
        Half angle of the cone of rotations that a local search tries; None to refine its start alone.
    mask_diameter_angstrom
        Diameter of the soft sphere (for tilt stacks: circle) around the box centre that holds the particle wherever it
        lies. None: plain inputs have no mask, as in the paper; restored ones take it from the particle's diameter, or
        estimate it from the data.
    particle_diameter_angstrom
        Of the particle itself; None for what the data show.
    tolerance_angstrom
        A refinement ends when no part of the particle moves by more than this in a step.
    max_refinement_iterations
        For each seed of the independent search, and for the last refinement of the others.
    prior_rotation_sd_deg, prior_shift_sd_angstrom
        How far, per axis, a local search expects the pose to be from where it starts (standard deviations of a
        Gaussian prior); None for no expectation. Noisy particles then move only as far as their data tell.
    axis_sd_deg
        How far, per axis, a search about an axis expects the normals to be from one another (standard deviation of a
        Gaussian prior on their angle); None to keep them together.
    schedule
        Constants of the paper's stochastic refinement.
    overlap
        ``Overlap`` or its name, of the rotation derivatives in the paper's searches: ``"held"`` for analytic ones,
        ``"moving"`` for numerical ones, which know of the samples that enter and leave.
    posterior_poses
        How many poses are drawn from the posterior of each particle (``Result.sampled``), for averages in which every
        particle counts at all poses that it may have; 0 for none. For inputs that are weighted by their noise.
    posterior_resolved
        A posterior narrower than this share of the finest detail compared is one pose.
    """

    score: Score = Score.RCS
    search: Search = Search.COARSE_TO_FINE
    inputs: Inputs | None = None
    pool: Pool = Pool.ALL
    symmetry: str = "C1"
    seed_interval_deg: float = 60.0
    resolution_angstrom: float | None = None
    max_shift_angstrom: float | None = None
    max_rotation_deg: float | None = None
    mask_diameter_angstrom: float | None = None
    particle_diameter_angstrom: float | None = None
    tolerance_angstrom: float = 0.01
    max_refinement_iterations: int = 100
    prior_rotation_sd_deg: float | None = None
    prior_shift_sd_angstrom: float | None = None
    axis_sd_deg: float | None = None
    schedule: Schedule = field(default_factory=Schedule)
    overlap: Overlap = Overlap.HELD
    posterior_poses: int = 0
    posterior_resolved: float = 0.1

    def __post_init__(self) -> None:
        self._read_names()
        for name in _LENGTHS:
            value = getattr(self, name)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise ArgumentError("{} must be a positive number, got {value!r}", name, value=value)
        if self.max_refinement_iterations < 1:
            raise ArgumentError(
                "{} must be at least 1, got {got!r}", "max_refinement_iterations", got=self.max_refinement_iterations
            )
        if self.posterior_poses < 0:
            raise ArgumentError("{} must not be negative, got {got!r}", "posterior_poses", got=self.posterior_poses)
        Symmetry.named(self.symmetry)
        try:
            orientations.euler_grid(self.seed_interval_deg)
        except ArgumentError as error:
            raise error.named(lambda _: "seed_interval_deg") from error
        self._check_that_options_fit()

    def _read_names(self) -> None:
        kinds: dict[str, type[StrEnum]] = {"score": Score, "search": Search, "pool": Pool, "overlap": Overlap}
        if self.inputs is not None:
            kinds["inputs"] = Inputs
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value not in list(kind):
                raise ArgumentError(
                    "{} must be one of {known}, got {value!r}", name, known=", ".join(kind), value=value
                )
            object.__setattr__(self, name, kind(value))

    def _check_that_options_fit(self) -> None:
        search, local = self.search, self.search is Search.LOCAL
        if (self.prior_rotation_sd_deg or self.prior_shift_sd_angstrom) and not local:
            raise ValueError(f"a prior holds poses near a start, which only a local search has, not {search}")
        if self.max_rotation_deg and not local:
            raise ArgumentError(
                "{} is about a start, which only a local search has, not {search}", "max_rotation_deg", search=search
            )
        if self.axis_sd_deg and search is not Search.AXIS:
            raise ArgumentError(
                "{} is about the normals of an axis search, got a search {search}", "axis_sd_deg", search=search
            )
        if self.overlap is Overlap.MOVING and not search.is_papers:
            raise ValueError(
                f"overlap moves in the paper's searches alone, stochastic and independent, not in {search}"
            )
        if search.is_papers and self.inputs is Inputs.RESTORED:
            raise ValueError(f"the paper's search {search} compares plain inputs; use coarse_to_fine or axis")
        if self.score is Score.LIKELIHOOD and not self.restores:
            raise ValueError("the likelihood score needs restored inputs, from which it takes what it expects")

    @property
    def restores(self) -> bool:
        """Whether the inputs are restored."""
        return not self.search.is_papers if self.inputs is None else self.inputs is Inputs.RESTORED

    @property
    def draws(self) -> bool:
        """Whether candidates are drawn at random."""
        drawn = self.pool is Pool.DRAWN and not self.search.is_papers
        return drawn or self.search in (Search.STOCHASTIC, Search.AXIS_STOCHASTIC)

    def lengths(self, *, box: int, voxel_size_angstrom: float) -> Lengths:
        """The lengths that were given, and the defaults of the others, for a particle's box and voxel size."""
        return Lengths(
            resolution_angstrom=self.resolution_angstrom or 4.0 * voxel_size_angstrom,
            max_shift_angstrom=self.max_shift_angstrom or 0.25 * box * voxel_size_angstrom,
        )

    def resolved(self, *, box: int, voxel_size_angstrom: float) -> Settings:
        """The same settings with every default length spelt out: they align alike."""
        return replace(self, **asdict(self.lengths(box=box, voxel_size_angstrom=voxel_size_angstrom)))
