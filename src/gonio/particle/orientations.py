"""Starting orientations: uniform sets, Euler grids, turns about an axis, and what lies near one orientation.

Owns which orientations a search starts from, and which of them the symmetry of the reference makes needless. Must not
know what they are scored with.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.arguments import ArgumentError
from gonio.particle.symmetry import Symmetry

__all__ = ["about_axis", "euler_grid", "reduced", "rotation_to_z", "uniform", "uniform_count", "within"]

# Of the super-Fibonacci spirals, Alexa 2022: the positive root of psi^4 = psi + 4.
SPIRAL_PSI = 1.533751168755204288118041
# Count times covering radius cubed, radians: at most 62 for 100 to 4000 orientations (`tests/test_orientations.py`).
COVERING = 62.0
# Cosines of half angles that differ by less are equal: far above rounding, and 0.005 degrees at an angle of zero.
TIE = 1e-9


def _steps(span_deg: float, interval_deg: float) -> int:
    count = round(span_deg / interval_deg) if interval_deg > 0 else 0
    if count < 1 or abs(count * interval_deg - span_deg) > 1e-6 * span_deg:
        raise ArgumentError(
            "{} must divide {span:g} degrees, got {got!r}; try 60, 45 or 30",
            "interval_deg",
            span=span_deg,
            got=interval_deg,
        )
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


def uniform_count(spacing_deg: float) -> int:
    """How many orientations of ``uniform`` leave none further than ``spacing_deg`` from the nearest.

    The volume of a ball of rotations goes with its radius cubed, so count = COVERING / radius^3.
    """
    if not 0.0 < spacing_deg <= 180.0:
        raise ValueError(f"spacing_deg must lie between 0 and 180 degrees, got {spacing_deg!r}")
    return int(np.ceil(COVERING / np.radians(spacing_deg) ** 3))


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


def _lattice(spacing: float, radius: float) -> NDArray[np.float64]:
    """The points of a body-centred cubic lattice no further than ``radius`` from one of them, which is the origin."""
    count = int(np.ceil(radius / spacing))
    along = spacing * np.arange(-count, count + 1)
    corners = np.stack(np.meshgrid(along, along, along, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.concatenate([corners, corners + 0.5 * spacing])
    return points[np.linalg.norm(points, axis=1) <= radius]


def within(centre: Rotation, *, cone_deg: float, spacing_deg: float) -> Rotation:
    """Orientations within an angle ``cone_deg`` of ``centre`` that leave none there further than about ``spacing_deg``.

    For a search near an orientation that is roughly known. ``centre`` comes first, and is alone when its own reach is
    enough; the others follow from near to far. Measured, none was further than 1.05 times the reach from the nearest.

    Raises
    ------
    ValueError
        A cone outside 0 to 180 degrees, a reach that is not positive.

    Notes
    -----
    Rotation vectors on the body-centred cubic lattice, the thinnest lattice that covers space: with cubes of side a no
    point is further than sqrt(5) a / 4 from the lattice, and two rotations never differ by more than their vectors do.
    Lattice points outside the cone whose cells reach into it by more than a corner are pulled onto its surface, which
    takes them no further from anything inside. There are about 1.5 (cone / reach + 0.8)^3.
    """
    if not 0.0 <= cone_deg <= 180.0:
        raise ValueError(f"cone_deg must lie between 0 and 180 degrees, got {cone_deg!r}")
    if not spacing_deg > 0.0:
        raise ValueError(f"spacing_deg must be positive, got {spacing_deg!r}")
    if cone_deg <= spacing_deg:
        return Rotation.concatenate([centre])
    spacing = 4.0 / np.sqrt(5.0) * spacing_deg
    points = _lattice(spacing, cone_deg + 0.25 * np.sqrt(3.0) * spacing)  # the cell's nearest faces are this far away
    lengths = np.linalg.norm(points, axis=1)
    points *= np.minimum(1.0, cone_deg / np.maximum(lengths, cone_deg))[:, None]
    nearest_first = np.argsort(lengths, kind="stable")
    return Rotation.from_rotvec(points[nearest_first], degrees=True) * centre


def reduced(rotations: Rotation, symmetry: Symmetry) -> Rotation:
    """One orientation of each class that the symmetry of the reference makes equal: about one in ``symmetry.order``.

    Kept are those at least as near to the identity as all their equivalents R g, in their order. Of orientations on
    the border, where two equivalents are as near, the first of each class is kept. Nothing is moved, so a set that the
    group does not map onto itself fits less well at the borders: after ``uniform`` the covering radius, symmetry
    counted, grows by 10 % as a rule and was never seen to grow by more than 28 %. At least one is always kept.
    """
    cosines = symmetry.half_angle_cosines(rotations)  # (p, order), the identity first
    lost = cosines.max(axis=1) - cosines[:, 0]
    kept = lost <= max(TIE, lost.min())
    border = np.flatnonzero(kept & ((cosines >= cosines[:, :1] - TIE).sum(axis=1) > 1))
    for place, index in enumerate(border[1:], start=1):
        between = rotations[border[:place]].inv() * rotations[index]
        kept[index] = symmetry.half_angle_cosines(between).max() < 1.0 - TIE
    return rotations[np.flatnonzero(kept)]


def covering_radius_deg(rotations: Rotation, *, rng: np.random.Generator, n_probes: int = 2000) -> float:
    """The largest angle from any orientation to the nearest of ``rotations``, found with random probes, degrees."""
    probes = Rotation.random(n_probes, rng=rng).as_quat()
    cosines: NDArray = np.abs(probes @ rotations.as_quat().T).max(axis=1)
    return float(np.degrees(2.0 * np.arccos(np.clip(cosines, 0.0, 1.0)).max()))
