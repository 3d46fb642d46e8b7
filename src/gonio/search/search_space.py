"""Which poses can be the answer: where a search starts, in which directions and how far it may go, what is likelier.

Three frames: every pose; the turns about the known normals of both particles (paper eq. 22), kept together or with a
Gaussian prior on the angle between them; the neighbourhood of a given pose, with or without a Gaussian prior. Must not
know which of its seeds a search refines, nor when.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.comparison.score import Comparison
from gonio.fourier.spectrum import Spectrum
from gonio.particle import orientations
from gonio.particle.pose import Pose, moved_along
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Particle
from gonio.search import levenberg_marquardt as lm
from gonio.search.objective import AxisPrior, Cone, PoseProblem, Prior, StartPrior, pack, prior_model, unpack
from gonio.settings import Settings

__all__ = ["Frame", "about_normals", "everywhere", "near", "neighbour_turns", "neighbours"]

# Symmetry cuts the seeds to a part of SO(3), whose edges they cover by 10 to 15 % less (`tests/test_orientations.py`).
EDGE_OF_SYMMETRY = 0.9
NEIGHBOUR_DEG = 15.0
# Of the edge of a box.
LARGEST_SHIFT = 1.0 / 3.0
# How many of its standard deviations a prior on the normals' angle is seeded to.
SEEDED_SDS = 2.0


@dataclass(frozen=True)
class Frame:
    """Seeds and limits of a search.

    Parameters
    ----------
    rotations
        Of the seeds, shape (p, 3, 3).
    shift_angstrom
        Of all seeds, shape (3,), or None to find the best of each.
    max_shift_angstrom
        Furthest shift from ``shift_angstrom``, or from zero.
    radius_angstrom, tolerance_angstrom
        A refinement ends when the particle's surface moves by less than the tolerance.
    directions
        Tangents that may be used, shape (6, k).
    cone
        Rotations that are allowed, or None for all.
    prior
        What is likelier, or None.
    """

    rotations: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64] | None
    max_shift_angstrom: float
    radius_angstrom: float
    tolerance_angstrom: float
    directions: NDArray[np.float64]
    cone: Cone | None = None
    prior: Prior | None = None

    def cut_to(self, box_angstrom: float) -> Frame:
        """The same for a box that was cut to what its particle needs, of that edge: no shift leads out of it."""
        return replace(
            self,
            max_shift_angstrom=min(self.max_shift_angstrom, LARGEST_SHIFT * box_angstrom),
            radius_angstrom=min(self.radius_angstrom, 0.25 * box_angstrom),
        )

    def seeds(
        self, comparison: Comparison, *, points: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Starting points (p, 12), and the dissimilarity there (p,) where shifts were looked for.

        They are tried at every voxel, or at ``points`` along the box.
        """
        if self.shift_angstrom is not None:
            return self.points(self.shift_angstrom), None
        shifts, d = comparison.best_shifts(self.rotations, max_shift_angstrom=self.max_shift_angstrom, points=points)
        return self.points(shifts), d

    def points(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seeds as points (p, 12), at shifts (p, 3) in angstrom or at one (3,)."""
        return pack(self.rotations, np.broadcast_to(shifts, (len(self.rotations), 3)))

    def problem(self, comparison: Comparison, *, samples_per_independent: float = 1.0) -> lm.Problem:
        """The comparison as the optimiser sees it in this frame."""
        return self.pose_problem(comparison, samples_per_independent=samples_per_independent).problem

    def pose_problem(self, comparison: Comparison, *, samples_per_independent: float = 1.0) -> PoseProblem:
        """The same, with all that describes it."""
        return PoseProblem(
            comparison,
            directions=self.directions,
            shift_centre_angstrom=np.zeros(3) if self.shift_angstrom is None else self.shift_angstrom,
            max_shift_angstrom=self.max_shift_angstrom,
            radius_angstrom=self.radius_angstrom,
            tolerance_angstrom=self.tolerance_angstrom,
            cone=self.cone,
            prior=self.prior,
            samples_per_independent=samples_per_independent,
        )

    @property
    def unlikeliness(self) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
        """The negative logarithm of the prior at points (p, 12), (p,); None without a prior."""
        prior = self.prior
        return None if prior is None else lambda points: prior_model(prior, points)[0]

    def precision(self, pose: Pose) -> NDArray[np.float64] | None:
        """The prior's second derivative at a pose, (6, 6)."""
        if self.prior is None:
            return None
        return prior_model(self.prior, pack(pose.matrix[None], pose.shift_angstrom[None]))[1][0]


def neighbours(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points (p, 12) turned by 15 degrees about the twelve axes of an icosahedron's corners, (12 p, 12).

    Ribosomes have a second optimum that far from the right one, with the wider basin (docs/ribosomes.md).
    """
    turns = neighbour_turns()
    tangents = np.zeros((len(turns), 6))
    tangents[:, :3] = turns
    rotations, shifts = unpack(np.repeat(points, len(turns), axis=0))
    return pack(*moved_along(rotations, shifts, np.tile(tangents, (len(points), 1))))


def neighbour_turns() -> NDArray[np.float64]:
    """These turns as rotation vectors (12, 3)."""
    golden = 0.5 * (1.0 + np.sqrt(5.0))
    corners = [np.roll((0.0, a, b * golden), turn) for turn in range(3) for a in (-1, 1) for b in (-1, 1)]
    return np.radians(NEIGHBOUR_DEG) * np.array(corners) / np.hypot(1.0, golden)


def everywhere(target: Particle, settings: Settings, *, spacing_deg: float | None) -> Frame:
    """Every pose: uniform orientations within ``spacing_deg`` of one another, or the Euler grid of the settings."""
    return _frame(target, settings, _seed_orientations(settings.symmetry, settings.seed_interval_deg, spacing_deg))


@lru_cache(maxsize=8)
def _seed_orientations(symmetry: str, interval_deg: float, spacing_deg: float | None) -> NDArray[np.float64]:
    """Matrices (p, 3, 3), the same for all particles of a kind."""
    group = Symmetry.named(symmetry)
    if spacing_deg is None:
        rotations = orientations.euler_grid(interval_deg)
    else:
        edge = EDGE_OF_SYMMETRY if group.order > 1 else 1.0
        rotations = orientations.uniform(orientations.uniform_count(edge * spacing_deg))
    matrices = orientations.reduced(rotations, group).as_matrix()
    matrices.flags.writeable = False
    return matrices


def about_normals(target: Particle, reference: Particle, settings: Settings, *, spacing_deg: float | None) -> Frame:
    """Turns about the particles' normals, ``spacing_deg`` from one another or at the settings' interval.

    Raises
    ------
    ValueError
        When either has no normal.
    """
    if target.normal_xyz is None or reference.normal_xyz is None:
        raise ValueError("an axis search needs normal_xyz on both the target and the reference")
    interval = settings.seed_interval_deg
    if spacing_deg is not None:
        interval = 360.0 / np.ceil(360.0 / min(2.0 * spacing_deg, 60.0))
    turns = orientations.about_axis(target.normal_xyz, reference.normal_xyz, interval_deg=interval)
    if settings.axis_sd_deg is None:
        directions = np.zeros((6, 4))
        directions[:3, 0] = target.normal_xyz
        directions[3:, 1:] = np.eye(3)
        return _frame(target, settings, turns.as_matrix(), directions=directions)
    if spacing_deg is not None:
        turns = _tilted(turns, target.normal_xyz, settings.axis_sd_deg, spacing_deg)
    prior = AxisPrior(target.normal_xyz, reference.normal_xyz, float(np.radians(settings.axis_sd_deg)))
    return _frame(target, settings, turns.as_matrix(), prior=prior)


def near(target: Particle | Spectrum, start: Pose, settings: Settings, *, spacing_deg: float | None) -> Frame:
    """A pose, or the cone of rotations around it, with the settings' prior about it."""
    turns, cone = Rotation.concatenate([start.rotation]), None
    if settings.max_rotation_deg is not None:
        cone = Cone(start.matrix, float(np.radians(settings.max_rotation_deg)))
        if spacing_deg is not None:
            turns = orientations.within(start.rotation, cone_deg=settings.max_rotation_deg, spacing_deg=spacing_deg)
    turn, shift = settings.prior_rotation_sd_deg, settings.prior_shift_sd_angstrom
    precision = np.repeat([np.radians(turn) ** -2 if turn else 0.0, shift**-2 if shift else 0.0], 3)
    prior = StartPrior(start, precision) if precision.any() else None
    return _frame(target, settings, turns.as_matrix(), shift_angstrom=start.shift_angstrom, cone=cone, prior=prior)


def _frame(
    target: Particle | Spectrum,
    settings: Settings,
    rotations: NDArray[np.float64],
    *,
    directions: NDArray[np.float64] | None = None,
    shift_angstrom: NDArray[np.float64] | None = None,
    cone: Cone | None = None,
    prior: Prior | None = None,
) -> Frame:
    size = target.voxel_size_angstrom
    return Frame(
        rotations=rotations,
        shift_angstrom=shift_angstrom,
        max_shift_angstrom=settings.lengths(box=target.box, voxel_size_angstrom=size).max_shift_angstrom,
        # Half of the box is what most particles fill.
        radius_angstrom=0.5 * (settings.particle_diameter_angstrom or 0.5 * target.box * size),
        tolerance_angstrom=settings.tolerance_angstrom,
        directions=np.eye(6) if directions is None else directions,
        cone=cone,
        prior=prior,
    )


def _tilted(turns: Rotation, normal_xyz: NDArray[np.float64], sd_deg: float, spacing_deg: float) -> Rotation:
    """Turns about a normal, and the same tilted off it as far as a prior of ``sd_deg`` lets them be."""
    radius = SEEDED_SDS * sd_deg
    rings = np.arange(1, int(np.ceil(radius / (2.0 * spacing_deg) - 0.5)) + 1) * 2.0 * spacing_deg
    tilts = [Rotation.identity()]
    across = orientations.rotation_to_z(normal_xyz).inv().as_matrix()[:, :2]  # two directions at right angles to it
    for ring in rings:
        count = int(np.ceil(2.0 * np.pi * np.sin(np.radians(ring)) / (2.0 * np.radians(spacing_deg))))
        angle = 2.0 * np.pi * np.arange(count) / count
        axes = np.stack([np.cos(angle), np.sin(angle)], axis=-1) @ across.T
        tilts.append(Rotation.from_rotvec(np.radians(ring) * axes))
    return Rotation.concatenate([tilt * turns for group in tilts for tilt in (group if not group.single else [group])])
