"""Settings of an alignment: the search, the score and their lengths, with every default.

Owns the names and the defaults. Must not know how the settings are used.
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
        Number of iterations that the line is fitted to.
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
    """The kind of search for the pose.

    ``COARSE_TO_FINE`` starts from a uniform set of orientations at a low resolution and refines the best of them from
    limit to limit (docs/theory.md section 10). ``AXIS`` starts from rotations about the particles' known normals
    instead, ``LOCAL`` from a given pose or the cone around it. ``STOCHASTIC`` is the paper's parallel refinement of an
    Euler grid, ``AXIS_STOCHASTIC`` that of rotations about the normals, ``INDEPENDENT`` refines every seed of the Euler
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
        """True for a schedule of Xu & Alber 2012, which compares unprocessed particles."""
        return self in (Search.STOCHASTIC, Search.AXIS_STOCHASTIC, Search.INDEPENDENT)


class Inputs(StrEnum):
    """The processing of particles before they are compared.

    ``RESTORED`` compares the most probable densities of the particles, every shell weighted by the expected FSC of the
    pair (docs/theory.md section 9); tilt images are masked and whitened. ``PLAIN`` compares unprocessed particles:
    with equal weights in the paper's searches and the local one, with weighted shells up to the full limit in the
    others.
    """

    RESTORED = "restored"
    PLAIN = "plain"


class Pool(StrEnum):
    """The candidates that are refined within a limit: ``ALL``, or those ``DRAWN`` with the paper's eq. 11."""

    ALL = "all"
    DRAWN = "drawn"


class Overlap(StrEnum):
    """The samples in both wedges while a derivative is taken: ``HELD`` fixed, or ``MOVING`` with the pose."""

    HELD = "held"
    MOVING = "moving"


@dataclass(frozen=True)
class Lengths:
    """Settings whose default follows from the box, in angstrom: see ``Settings``."""

    resolution_angstrom: float
    max_shift_angstrom: float


@dataclass(frozen=True)
class Settings:
    """Settings of an alignment.

    Parameters
    ----------
    score
        ``Score`` or its name, which is minimised: ``"rcs"`` (independent of contrast), ``"fcs"`` (needs values on one
        scale, to which restored inputs are brought) or, for restored inputs, ``"likelihood"``.
    search
        ``Search`` or its name.
    inputs
        ``Inputs`` or its name; None for plain inputs in the paper's searches and restored ones in all others.
    pool
        ``Pool`` or its name; for the search from coarse to fine and that about an axis.
    symmetry
        Point group of the reference about its box centre, such as ``"C4"`` (``gonio.Symmetry``): seeds are reduced by
        it, and equivalent poses count as one.
    seed_interval_deg
        Interval of the starting angles of the paper's searches; 60 gives 108 seeds (6 about an axis), 45 gives 256 (8).
    resolution_angstrom
        Finest detail that is compared; None for four voxels, the paper's 4 nm at 1 nm voxels.
    max_shift_angstrom
        Largest length of the shift (for a local search, of its change); None for a quarter of the box.
    max_rotation_deg
        Half angle of the cone of rotations that a local search tries; None to refine its start alone.
    mask_diameter_angstrom
        Diameter of the soft sphere (for tilt stacks: circle) around the box centre that holds the particle at any
        shift. None: plain inputs have no mask, as in the paper; for restored ones it follows from the particle's
        diameter, or is estimated from the data.
    particle_diameter_angstrom
        Diameter of the particle itself; None to estimate it from the data.
    tolerance_angstrom
        A refinement has converged when no part of the particle moves by more than this in a step.
    max_refinement_iterations
        Limit for each seed of the independent search, and for the last refinement of the others.
    prior_rotation_sd_deg, prior_shift_sd_angstrom
        Standard deviations, per axis, of a Gaussian prior of a local search about its start; None for no prior. With a
        prior, noisy particles move only as far as their data determine the pose.
    axis_sd_deg
        Standard deviation, per axis, of a Gaussian prior on the angle between the two normals in a search about an
        axis; None to keep the normals aligned.
    schedule
        Constants of the paper's stochastic refinement.
    overlap
        ``Overlap`` or its name, for the rotation derivatives in the paper's searches: ``"held"`` for analytic ones,
        ``"moving"`` for numerical ones, which include the samples that enter and leave.
    posterior_poses
        Number of poses drawn from the posterior of each particle (``Result.sampled``), for averages in which every
        particle contributes at all its probable poses; 0 for none. For noise-weighted inputs.
    posterior_resolved
        A posterior narrower than this fraction of the finest detail compared is one pose.
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
            raise ValueError("the likelihood score needs restored inputs, from which it takes the expected FSC")

    @property
    def restores(self) -> bool:
        """True where the inputs are restored."""
        return not self.search.is_papers if self.inputs is None else self.inputs is Inputs.RESTORED

    @property
    def draws(self) -> bool:
        """True where candidates are drawn at random."""
        drawn = self.pool is Pool.DRAWN and not self.search.is_papers
        return drawn or self.search in (Search.STOCHASTIC, Search.AXIS_STOCHASTIC)

    def lengths(self, *, box: int, voxel_size_angstrom: float) -> Lengths:
        """Return the lengths that were given, and the defaults of the others, for a particle's box and voxel size."""
        return Lengths(
            resolution_angstrom=self.resolution_angstrom or 4.0 * voxel_size_angstrom,
            max_shift_angstrom=self.max_shift_angstrom or 0.25 * box * voxel_size_angstrom,
        )

    def resolved(self, *, box: int, voxel_size_angstrom: float) -> Settings:
        """Return equivalent settings with every default length explicit."""
        return replace(self, **asdict(self.lengths(box=box, voxel_size_angstrom=voxel_size_angstrom)))
