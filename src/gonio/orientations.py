"""Starting orientations: uniform sets, Euler grids, and turns about an axis.

Owns which orientations a search starts from. Must not know what they are scored with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

__all__ = ["about_axis", "euler_grid", "rotation_to_z", "uniform", "uniform_count"]

# Of the super-Fibonacci spirals, Alexa 2022: the positive root of psi^4 = psi + 4.
SPIRAL_PSI = 1.533751168755204288118041
# Count times covering radius cubed, radians: at most 62 for 100 to 4000 orientations (`tests/test_orientations.py`).
COVERING = 62.0


def _steps(span_deg: float, interval_deg: float) -> int:
    count = round(span_deg / interval_deg) if interval_deg > 0 else 0
    if count < 1 or abs(count * interval_deg - span_deg) > 1e-6 * span_deg:
        raise ValueError(f"interval_deg must divide {span_deg:g} degrees, got {interval_deg!r}; try 60, 45 or 30")
    return count


def euler_grid(interval_deg: float) -> Rotation:
    """The paper's grid of ZYZ Euler angles: 108 orientations at 60 degrees, 256 at 45.

    The first and third angle start at 0; the second takes the middles of its intervals (30, 90, 150 at 60 degrees),
    since at 0 and 180 degrees the two others turn about the same axis and most of the grid would coincide.

    Raises
    ------
    ValueError
        When the interval does not divide 180 degrees.
    """
    turns, tilts = _steps(360.0, interval_deg), _steps(180.0, interval_deg)
    phi = np.arange(turns) * interval_deg
    theta = (np.arange(tilts) + 0.5) * interval_deg
    angles = np.stack(np.meshgrid(phi, theta, phi, indexing="ij"), axis=-1).reshape(-1, 3)
    return Rotation.from_euler("ZYZ", angles, degrees=True)


def uniform(count: int) -> Rotation:
    """Orientations spread evenly over all rotations: super-Fibonacci spirals (Alexa 2022, CVPR, algorithm 1).

    Raises
    ------
    ValueError
        A count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}")
    place = np.arange(count) + 0.5
    inner, outer = np.sqrt(place / count), np.sqrt(1.0 - place / count)
    first, second = 2.0 * np.pi * place / np.sqrt(2.0), 2.0 * np.pi * place / SPIRAL_PSI
    parts = (inner * np.sin(first), inner * np.cos(first), outer * np.sin(second), outer * np.cos(second))
    return Rotation.from_quat(np.stack(parts, axis=-1))


def uniform_count(reach_deg: float) -> int:
    """How many orientations of ``uniform`` leave none further than ``reach_deg`` from the nearest.

    The volume of a ball of rotations goes with its radius cubed, so count = COVERING / radius^3.
    """
    if not 0.0 < reach_deg <= 180.0:
        raise ValueError(f"reach_deg must lie between 0 and 180 degrees, got {reach_deg!r}")
    return int(np.ceil(COVERING / np.radians(reach_deg) ** 3))


def rotation_to_z(normal_xyz: ArrayLike) -> Rotation:
    """A rotation that takes the direction ``normal_xyz`` (3,) to +z: the paper's R_f and R_g."""
    normal = np.asarray(normal_xyz, dtype=np.float64)
    rotation, _ = Rotation.align_vectors(np.array([[0.0, 0.0, 1.0]]), (normal / np.linalg.norm(normal))[None])
    return rotation


def about_axis(target_normal_xyz: ArrayLike, reference_normal_xyz: ArrayLike, *, interval_deg: float) -> Rotation:
    """The paper's eq. 22, ``R = R_f^-1 R_n(phi) R_g``, phi = 0, interval, ...: 6 orientations at 60 degrees, 8 at 45.

    All take the reference's normal to the target's.
    """
    phi_deg = np.arange(_steps(360.0, interval_deg)) * interval_deg
    turns = Rotation.from_euler("z", phi_deg[:, None], degrees=True)
    return rotation_to_z(target_normal_xyz).inv() * turns * rotation_to_z(reference_normal_xyz)


def covering_radius_deg(rotations: Rotation, *, rng: np.random.Generator, n_probes: int = 2000) -> float:
    """The largest angle from any orientation to the nearest of ``rotations``, found with random probes, degrees."""
    probes = Rotation.random(n_probes, rng=rng).as_quat()
    cosines: NDArray = np.abs(probes @ rotations.as_quat().T).max(axis=1)
    return float(np.degrees(2.0 * np.arccos(np.clip(cosines, 0.0, 1.0)).max()))
