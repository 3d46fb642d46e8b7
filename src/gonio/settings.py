"""Settings of an alignment: the search, the score and their lengths, with every default.

Owns the names and the defaults. Must not know how the settings are used.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.score import Score
from gonio.particle import orientations
from gonio.particle.arguments import ArgumentError, check_one_of
from gonio.particle.symmetry import Symmetry


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


def _check_lengths(options: object, *names: str) -> None:
    """Raise ArgumentError for a length or an angle that is given and not a positive number."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ArgumentError("{} must be a positive number, got {value!r}", name, value=value)


def _read_names(options: object, **kinds: type[StrEnum]) -> None:
    """Replace the names among options by members of their kinds; raise ArgumentError for other names."""
    for name, kind in kinds.items():
        check_one_of(name, getattr(options, name), kind)
        object.__setattr__(options, name, kind(getattr(options, name)))


@dataclass(frozen=True)
class GlobalSearch:
    """Start from uniform orientations at a low resolution, refine the best from limit to limit (theory.md, 10)."""

    name: str = field(default="coarse_to_fine", init=False)


@dataclass(frozen=True)
class LocalSearch:
    """Start from a given pose, or from the cone of rotations around it.

    Parameters
    ----------
    prior_rotation_sd_deg, prior_shift_sd_angstrom
        Standard deviations, per axis, of a Gaussian prior about the start; None for no prior. With a prior, noisy
        particles move only as far as their data determine the pose.
    max_rotation_deg
        Half angle of the cone of rotations that are tried; None to refine the start alone.
    """

    prior_rotation_sd_deg: float | None = None
    prior_shift_sd_angstrom: float | None = None
    max_rotation_deg: float | None = None
    name: str = field(default="local", init=False)

    def __post_init__(self) -> None:
        _check_lengths(self, "prior_rotation_sd_deg", "prior_shift_sd_angstrom", "max_rotation_deg")


@dataclass(frozen=True)
class AxisSearch:
    """Start from rotations about the particles' known normals.

    ``sd_deg`` is the standard deviation, per axis, of a Gaussian prior on the angle between the two normals; None
    keeps them aligned.
    """

    sd_deg: float | None = None
    name: str = field(default="axis", init=False)

    def __post_init__(self) -> None:
        _check_lengths(self, "sd_deg")


@dataclass(frozen=True)
class PaperSearch:
    """A search of Xu & Alber 2012, which compares unprocessed particles.

    Parameters
    ----------
    name
        ``"stochastic"``, the parallel refinement of an Euler grid; ``"axis_stochastic"``, that of rotations about the
        particles' normals; or ``"independent"``, which refines every seed of the Euler grid.
    seed_interval_deg
        Interval of the starting angles; 60 gives 108 seeds (6 about an axis), 45 gives 256 (8).
    schedule
        Constants of the stochastic refinement.
    overlap
        ``Overlap`` or its name, for rotation derivatives: ``"held"`` for analytic ones, ``"moving"`` for numerical
        ones, which include the samples that enter and leave.
    """

    name: str = "stochastic"
    seed_interval_deg: float = 60.0
    schedule: Schedule = Schedule()
    overlap: Overlap = Overlap.HELD

    def __post_init__(self) -> None:
        _read_names(self, overlap=Overlap)
        check_one_of("name", self.name, _PAPERS)
        try:
            orientations.euler_grid(self.seed_interval_deg)
        except ArgumentError as error:
            raise error.named(lambda _: "seed_interval_deg") from error


AnySearch = GlobalSearch | LocalSearch | AxisSearch | PaperSearch
_PAPERS = ("stochastic", "axis_stochastic", "independent")
_SEARCHES: dict[str, AnySearch] = {name: PaperSearch(name) for name in _PAPERS}
_SEARCHES |= {"coarse_to_fine": GlobalSearch(), "axis": AxisSearch(), "local": LocalSearch()}


@dataclass(frozen=True)
class Settings:
    """Settings of an alignment.

    Parameters
    ----------
    score
        ``Score`` or its name, which is minimised: ``"rcs"`` (independent of contrast), ``"fcs"`` (needs values on one
        scale, to which restored inputs are brought) or, for restored inputs, ``"likelihood"``.
    search
        A ``GlobalSearch``, ``LocalSearch``, ``AxisSearch`` or ``PaperSearch``; or one by its name, such as ``"local"``.
    inputs
        ``Inputs`` or its name; None for plain inputs in the paper's searches and restored ones in all others.
    pool
        ``Pool`` or its name; not for the paper's searches, which have a schedule of their own.
    symmetry
        Point group of the reference about its box centre, such as ``"C4"`` (``gonio.Symmetry``): seeds are reduced by
        it, and equivalent poses count as one.
    resolution_angstrom
        Finest detail that is compared; None for four voxels, the paper's 4 nm at 1 nm voxels.
    max_shift_angstrom
        Largest length of the shift (for a local search, of its change); None for a quarter of the box.
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
    posterior_poses
        Number of poses drawn from the posterior of each particle (``Result.sampled``), for averages in which every
        particle contributes at all its probable poses; 0 for none. For noise-weighted inputs.
    posterior_resolved
        A posterior narrower than this fraction of the finest detail compared is one pose.
    """

    score: Score = Score.RCS
    search: AnySearch = GlobalSearch()
    inputs: Inputs | None = None
    pool: Pool = Pool.ALL
    symmetry: str = "C1"
    resolution_angstrom: float | None = None
    max_shift_angstrom: float | None = None
    mask_diameter_angstrom: float | None = None
    particle_diameter_angstrom: float | None = None
    tolerance_angstrom: float = 0.01
    max_refinement_iterations: int = 100
    posterior_poses: int = 0
    posterior_resolved: float = 0.1

    def __post_init__(self) -> None:
        if not isinstance(self.search, AnySearch):
            check_one_of("search", self.search, _SEARCHES)
            object.__setattr__(self, "search", _SEARCHES[self.search])
        _read_names(self, score=Score, pool=Pool, **({} if self.inputs is None else {"inputs": Inputs}))
        _check_lengths(self, "resolution_angstrom", "max_shift_angstrom", "tolerance_angstrom")
        _check_lengths(self, "mask_diameter_angstrom", "particle_diameter_angstrom")
        if self.max_refinement_iterations < 1:
            raise ArgumentError(
                "{} must be at least 1, got {got!r}", "max_refinement_iterations", got=self.max_refinement_iterations
            )
        if self.posterior_poses < 0:
            raise ArgumentError("{} must not be negative, got {got!r}", "posterior_poses", got=self.posterior_poses)
        Symmetry.named(self.symmetry)
        self._check_that_options_fit()

    def _check_that_options_fit(self) -> None:
        if isinstance(self.search, PaperSearch) and self.inputs is Inputs.RESTORED:
            raise ArgumentError(
                "{} {name} compares plain inputs: leave out {} or {}",
                "search",
                "inputs",
                "search",
                name=self.search.name,
            )
        if isinstance(self.search, PaperSearch) and self.pool is Pool.DRAWN:
            raise ArgumentError(
                "{} is for other searches: {name} has a schedule of its own", "pool", name=self.search.name
            )
        if self.score is Score.LIKELIHOOD and not self.restores:
            raise ArgumentError(
                "{} likelihood needs restored inputs, from which it takes the expected FSC: not {} plain, nor a search"
                " of 2012",
                "score",
                "inputs",
            )

    @property
    def restores(self) -> bool:
        """True where the inputs are restored."""
        return self.inputs is Inputs.RESTORED or (self.inputs is None and not isinstance(self.search, PaperSearch))

    @property
    def draws(self) -> bool:
        """True where candidates are drawn at random."""
        stochastic = isinstance(self.search, PaperSearch) and self.search.name != "independent"
        return stochastic or self.pool is Pool.DRAWN

    @property
    def about_normals(self) -> bool:
        """True where the search is about the particles' known normals."""
        return isinstance(self.search, AxisSearch) or self.search.name == "axis_stochastic"

    def resolution(self, voxel_size_angstrom: float) -> float:
        """Return the finest detail that is compared of particles of a voxel size, angstrom."""
        return self.resolution_angstrom or 4.0 * voxel_size_angstrom

    def max_shift(self, box: int, voxel_size_angstrom: float) -> float:
        """Return the largest shift of a particle in its box, angstrom."""
        return self.max_shift_angstrom or 0.25 * box * voxel_size_angstrom

    def resolved(self, *, box: int, voxel_size_angstrom: float) -> Settings:
        """Return equivalent settings with every default length explicit."""
        resolution, shift = self.resolution(voxel_size_angstrom), self.max_shift(box, voxel_size_angstrom)
        return replace(self, resolution_angstrom=resolution, max_shift_angstrom=shift)


@dataclass(frozen=True)
class TiltPriors:
    """How far the geometry of a tilt series, and the poses of its particles, may be off: standard deviations.

    Those of tilts are the largest: within them they are estimated from the tilts found.

    Parameters
    ----------
    tilt_shift_sd_angstrom
        Shift of an image along each of its axes.
    tilt_angle_sd_deg, tilt_across_sd_deg, tilt_in_plane_sd_deg
        Rotation of an image about the tilt axis, about the direction across it, and about the beam.
    tilt_defocus_sd_angstrom, tilt_astigmatism_sd_angstrom
        Defocus of an image, and each of the two parts of its astigmatism.
    tilt_scale_sd
        Natural logarithm of an image's strength.
    tilt_deformation_sd_angstrom
        Each of the four coefficients of an image's deformation, at the edge of the field.
    particle_rotation_sd_deg, particle_shift_sd_angstrom
        Pose of a particle, about and along each axis, from the list's: wide, as tilts that were off have moved it.
    particle_contrast_sd
        Contrast of a particle, as a fraction of its half set's in this tomogram.
    """

    tilt_shift_sd_angstrom: float = 10.0
    tilt_angle_sd_deg: float = 1.0
    tilt_across_sd_deg: float = 1.0
    tilt_in_plane_sd_deg: float = 1.0
    tilt_defocus_sd_angstrom: float = 500.0
    tilt_astigmatism_sd_angstrom: float = 300.0
    tilt_scale_sd: float = 0.2
    tilt_deformation_sd_angstrom: float = 5.0
    particle_rotation_sd_deg: float = 5.0
    particle_shift_sd_angstrom: float = 20.0
    particle_contrast_sd: float = 0.5

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not (np.isfinite(value) and value > 0):
                raise ArgumentError("{} must be a positive number, got {got!r}", one.name, got=value)

    @property
    def tilt_sd(self) -> NDArray[np.float64]:
        """Standard deviations of the parameters of a tilt, (13,), in the order of ``comparison.tilt_images``."""
        shift, astigmatism = self.tilt_shift_sd_angstrom, self.tilt_astigmatism_sd_angstrom
        turns = np.radians([self.tilt_angle_sd_deg, self.tilt_across_sd_deg, self.tilt_in_plane_sd_deg])
        lens = (self.tilt_defocus_sd_angstrom, astigmatism, astigmatism)
        deformation = 4 * [self.tilt_deformation_sd_angstrom]
        return np.array([shift, shift, *turns, *lens, self.tilt_scale_sd, *deformation])

    @property
    def pose_sd(self) -> NDArray[np.float64]:
        """Standard deviations of rotation (radians) and shift of a particle, (6,)."""
        return np.repeat([np.radians(self.particle_rotation_sd_deg), self.particle_shift_sd_angstrom], 3)
