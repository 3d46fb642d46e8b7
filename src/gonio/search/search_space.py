"""The poses that a search considers: its seeds, the directions and limits of their refinement, and the prior.

Three frames: every pose; rotations about the known normals of both particles (paper eq. 22), kept together or with a
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
from gonio.settings import AxisSearch, LocalSearch, PaperSearch, Settings

# With symmetry seeds cover a part of SO(3), and its edges by 10 to 15 % less (`tests/test_orientations.py`).
EDGE_OF_SYMMETRY = 0.9
NEIGHBOUR_DEG = 15.0
# Fraction of the edge of a box.
LARGEST_SHIFT = 1.0 / 3.0
# Seeds cover a prior on the normals' angle to this many of its standard deviations.
SEEDED_SDS = 2.0


@dataclass(frozen=True)
class Frame:
    """Seeds and limits of a search.

    Parameters
    ----------
    rotations
        Rotations of the seeds, shape (p, 3, 3).
    shift_angstrom
        Shift of all seeds, shape (3,), or None to find the best shift of each.
    max_shift_angstrom
        Largest distance from ``shift_angstrom``, or from zero.
    radius_angstrom, tolerance_angstrom
        A refinement ends when the particle's surface moves by less than the tolerance.
    directions
        Allowed tangents, shape (6, k).
    cone
        Allowed rotations, or None for all.
    prior
        Prior on poses, or None.
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
        """Return the frame for a box that was cropped to an edge of ``box_angstrom``, which no shift may leave."""
        return replace(
            self,
            max_shift_angstrom=min(self.max_shift_angstrom, LARGEST_SHIFT * box_angstrom),
            radius_angstrom=min(self.radius_angstrom, 0.25 * box_angstrom),
        )

    def seeds(
        self, comparison: Comparison, *, points: int | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Return starting points (p, 12), and the dissimilarity there (p,) where shifts were searched.

        Shifts are tried at every voxel, or at ``points`` positions along the box.
        """
        if self.shift_angstrom is not None:
            return self.points(self.shift_angstrom), None
        shifts, d = comparison.best_shifts(self.rotations, max_shift_angstrom=self.max_shift_angstrom, points=points)
        return self.points(shifts), d

    def points(self, shifts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seeds as points (p, 12), at shifts (p, 3) in angstrom or at one (3,)."""
        return pack(self.rotations, np.broadcast_to(shifts, (len(self.rotations), 3)))

    def problem(self, comparison: Comparison, *, samples_per_independent: float = 1.0) -> lm.Problem:
        """Return the optimiser's problem for a comparison in this frame."""
        return self.pose_problem(comparison, samples_per_independent=samples_per_independent).problem

    def pose_problem(self, comparison: Comparison, *, samples_per_independent: float = 1.0) -> PoseProblem:
        """Return a comparison in this frame as a ``PoseProblem``."""
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
    def negative_log_prior(self) -> Callable[[NDArray[np.float64]], NDArray[np.float64]] | None:
        """Negative logarithm of the prior as a function of points (p, 12); None without a prior."""
        prior = self.prior
        return None if prior is None else lambda points: prior_model(prior, points)[0]

    def precision(self, pose: Pose) -> NDArray[np.float64] | None:
        """Return the prior's second derivative at a pose, (6, 6), or None without a prior."""
        if self.prior is None:
            return None
        return np.asarray(prior_model(self.prior, pack(pose.matrix[None], pose.shift_angstrom[None]))[1][0])


def neighbours(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points (p, 12) rotated by 15 degrees about the twelve axes of an icosahedron's corners, (12 p, 12).

    Ribosomes have a second optimum at that distance from the correct one, with the wider basin (docs/ribosomes.md).
    """
    vectors = neighbour_rotations()
    tangents = np.zeros((len(vectors), 6))
    tangents[:, :3] = vectors
    rotations, shifts = unpack(np.repeat(points, len(vectors), axis=0))
    return pack(*moved_along(rotations, shifts, np.tile(tangents, (len(points), 1))))


def neighbour_rotations() -> NDArray[np.float64]:
    """Return the rotations of ``neighbours`` as rotation vectors (12, 3)."""
    golden = 0.5 * (1.0 + np.sqrt(5.0))
    corners = [np.roll((0.0, a, b * golden), axis) for axis in range(3) for a in (-1, 1) for b in (-1, 1)]
    return np.asarray(np.radians(NEIGHBOUR_DEG) * np.array(corners) / np.hypot(1.0, golden))


def everywhere(target: Particle, settings: Settings, *, spacing_deg: float | None) -> Frame:
    """Return the frame of every pose: uniform orientations ``spacing_deg`` apart, or the Euler grid of the settings."""
    return _frame(target, settings, _seed_orientations(settings.symmetry, _interval_deg(settings), spacing_deg))


@lru_cache(maxsize=8)
def _seed_orientations(symmetry: str, interval_deg: float, spacing_deg: float | None) -> NDArray[np.float64]:
    """Return the seeds' rotation matrices (p, 3, 3), cached as all particles of a run share them."""
    group = Symmetry.named(symmetry)
    if spacing_deg is None:
        rotations = orientations.euler_grid(interval_deg)
    else:
        edge = EDGE_OF_SYMMETRY if group.order > 1 else 1.0
        rotations = orientations.uniform(orientations.uniform_count(edge * spacing_deg))
    matrices: NDArray[np.float64] = orientations.reduced(rotations, group).as_matrix()
    matrices.flags.writeable = False
    return matrices


def _interval_deg(settings: Settings) -> float:
    search = settings.search if isinstance(settings.search, PaperSearch) else PaperSearch()
    return search.seed_interval_deg


def about_normals(target: Particle, reference: Particle, settings: Settings, *, spacing_deg: float | None) -> Frame:
    """Return the frame of rotations about the particles' normals, ``spacing_deg`` apart or at the settings' interval.

    Raises
    ------
    ValueError
        When either particle has no normal.
    """
    if target.normal_xyz is None or reference.normal_xyz is None:
        raise ValueError("an axis search needs normal_xyz on both the target and the reference")
    interval = _interval_deg(settings)
    if spacing_deg is not None:
        interval = 360.0 / np.ceil(360.0 / min(2.0 * spacing_deg, 60.0))
    rotations = orientations.about_axis(target.normal_xyz, reference.normal_xyz, interval_deg=interval)
    sd_deg = settings.search.sd_deg if isinstance(settings.search, AxisSearch) else None
    if sd_deg is None:
        directions = np.zeros((6, 4))
        directions[:3, 0] = target.normal_xyz
        directions[3:, 1:] = np.eye(3)
        return _frame(target, settings, rotations.as_matrix(), directions=directions)
    if spacing_deg is not None:
        rotations = _tilted(rotations, target.normal_xyz, sd_deg, spacing_deg)
    prior = AxisPrior(target.normal_xyz, reference.normal_xyz, float(np.radians(sd_deg)))
    return _frame(target, settings, rotations.as_matrix(), prior=prior)


def near(target: Particle | Spectrum, start: Pose, settings: Settings, *, spacing_deg: float | None) -> Frame:
    """Return the frame of a pose, or of a cone of rotations around it, with the settings' prior about it."""
    search = settings.search if isinstance(settings.search, LocalSearch) else LocalSearch()
    rotations, cone = Rotation.concatenate([start.rotation]), None
    if search.max_rotation_deg is not None:
        cone = Cone(start.matrix, float(np.radians(search.max_rotation_deg)))
        if spacing_deg is not None:
            rotations = orientations.within(start.rotation, cone_deg=search.max_rotation_deg, spacing_deg=spacing_deg)
    angle, shift = search.prior_rotation_sd_deg, search.prior_shift_sd_angstrom
    precision = np.repeat([np.radians(angle) ** -2 if angle else 0.0, shift**-2 if shift else 0.0], 3)
    prior = StartPrior(start, precision) if precision.any() else None
    return _frame(target, settings, rotations.as_matrix(), shift_angstrom=start.shift_angstrom, cone=cone, prior=prior)


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
        max_shift_angstrom=settings.max_shift(target.box, size),
        # Most particles fill half of the box.
        radius_angstrom=0.5 * (settings.particle_diameter_angstrom or 0.5 * target.box * size),
        tolerance_angstrom=settings.tolerance_angstrom,
        directions=np.eye(6) if directions is None else directions,
        cone=cone,
        prior=prior,
    )


def _tilted(rotations: Rotation, normal_xyz: NDArray[np.float64], sd_deg: float, spacing_deg: float) -> Rotation:
    """Return rotations about a normal, and these tilted off it as far as a prior of ``sd_deg`` allows."""
    radius = SEEDED_SDS * sd_deg
    rings = np.arange(1, int(np.ceil(radius / (2.0 * spacing_deg) - 0.5)) + 1) * 2.0 * spacing_deg
    tilts = [Rotation.identity()]
    across = orientations.rotation_to_z(normal_xyz).inv().as_matrix()[:, :2]  # two directions at right angles to it
    for ring in rings:
        count = int(np.ceil(2.0 * np.pi * np.sin(np.radians(ring)) / (2.0 * np.radians(spacing_deg))))
        angle = 2.0 * np.pi * np.arange(count) / count
        axes = np.stack([np.cos(angle), np.sin(angle)], axis=-1) @ across.T
        tilts.append(Rotation.from_rotvec(np.radians(ring) * axes))
    return Rotation.concatenate(
        [tilt * rotations for group in tilts for tilt in (group if not group.single else [group])]
    )
