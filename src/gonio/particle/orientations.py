"""Starting orientations: uniform sets, Euler grids, rotations about an axis, and the neighbourhood of one orientation.

Owns which orientations a search starts from, and which of them the symmetry of the reference makes redundant. Must not
know how they are scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.arguments import ArgumentError
from gonio.particle.symmetry import Symmetry

# Constant of the super-Fibonacci spirals (Alexa 2022): the positive root of psi^4 = psi + 4.
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
    """Return the paper's grid of ZYZ Euler angles: 108 orientations at 60 degrees, 256 at 45.

    The first and third angle start at 0; the second takes the middles of its intervals (30, 90, 150 at 60 degrees):
    at 0 and 180 degrees the two others rotate about the same axis and most of the grid would coincide.

    Raises
    ------
    ValueError
        If the interval does not divide 180 degrees.
    """
    azimuths, tilts = _steps(360.0, interval_deg), _steps(180.0, interval_deg)
    phi = np.arange(azimuths) * interval_deg
    theta = (np.arange(tilts) + 0.5) * interval_deg
    angles = np.stack(np.meshgrid(phi, theta, phi, indexing="ij"), axis=-1).reshape(-1, 3)
    return Rotation.from_euler("ZYZ", angles, degrees=True)


def uniform(count: int) -> Rotation:
    """Return orientations spread evenly over all rotations: super-Fibonacci spirals (Alexa 2022, CVPR, algorithm 1).

    Raises
    ------
    ValueError
        If the count is below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count!r}")
    place = np.arange(count) + 0.5
    inner, outer = np.sqrt(place / count), np.sqrt(1.0 - place / count)
    first, second = 2.0 * np.pi * place / np.sqrt(2.0), 2.0 * np.pi * place / SPIRAL_PSI
    parts = (inner * np.sin(first), inner * np.cos(first), outer * np.sin(second), outer * np.cos(second))
    return Rotation.from_quat(np.stack(parts, axis=-1))


def uniform_count(spacing_deg: float) -> int:
    """Return the count with which ``uniform`` leaves no orientation further than ``spacing_deg`` from the nearest.

    The volume of a ball of rotations grows with its radius cubed, so count = COVERING / radius^3.
    """
    if not 0.0 < spacing_deg <= 180.0:
        raise ValueError(f"spacing_deg must lie between 0 and 180 degrees, got {spacing_deg!r}")
    return int(np.ceil(COVERING / np.radians(spacing_deg) ** 3))


def rotation_to_z(normal_xyz: ArrayLike) -> Rotation:
    """Return a rotation that takes the direction ``normal_xyz`` (3,) to +z: the paper's R_f and R_g."""
    normal = np.asarray(normal_xyz, dtype=np.float64)
    rotation, _ = Rotation.align_vectors(np.array([[0.0, 0.0, 1.0]]), (normal / np.linalg.norm(normal))[None])
    return rotation


def about_axis(target_normal_xyz: ArrayLike, reference_normal_xyz: ArrayLike, *, interval_deg: float) -> Rotation:
    """Return the rotations that take the reference's normal to the target's: 6 at 60 degrees, 8 at 45.

    They are the paper's eq. 22, ``R = R_f^-1 R_n(phi) R_g`` with phi = 0, interval, ...
    """
    phi_deg = np.arange(_steps(360.0, interval_deg)) * interval_deg
    about_z = Rotation.from_euler("z", phi_deg[:, None], degrees=True)
    return rotation_to_z(target_normal_xyz).inv() * about_z * rotation_to_z(reference_normal_xyz)


def _lattice(spacing: float, radius: float) -> NDArray[np.float64]:
    """Return the points (n, 3) of a body-centred cubic lattice within ``radius`` of the origin, one of them."""
    count = int(np.ceil(radius / spacing))
    along = spacing * np.arange(-count, count + 1)
    corners = np.stack(np.meshgrid(along, along, along, indexing="ij"), axis=-1).reshape(-1, 3)
    points = np.concatenate([corners, corners + 0.5 * spacing])
    return np.asarray(points[np.linalg.norm(points, axis=1) <= radius])


def within(centre: Rotation, *, cone_deg: float, spacing_deg: float) -> Rotation:
    """Return orientations that cover the cone of half angle ``cone_deg`` about ``centre``, ``spacing_deg`` apart.

    For a search near an orientation that is roughly known. ``centre`` comes first, and is the only one where the
    spacing is at least the cone; the others follow from near to far. In tests no orientation of the cone was further
    than 1.05 times the spacing from the nearest.

    Raises
    ------
    ValueError
        If the cone is outside 0 to 180 degrees, or the spacing is not positive.

    Notes
    -----
    Rotation vectors on the body-centred cubic lattice, the thinnest lattice that covers space: with cubes of side a no
    point is further than sqrt(5) a / 4 from the lattice, and two rotations never differ by more than their vectors do.
    Lattice points outside the cone whose cells extend into it by more than a corner are pulled onto its surface, which
    brings them no further from any point inside. There are about 1.5 (cone / spacing + 0.8)^3.
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
    """Return one orientation of each class that symmetry makes equivalent: about one in ``symmetry.order``.

    An orientation is kept, in its order, if it is at least as near to the identity as all its equivalents R g. On the
    border, where two equivalents are equally near, the first of each class is kept. Orientations are not moved, so a
    set that the group does not map onto itself covers the borders less well: after ``uniform`` the covering radius,
    up to symmetry, typically grows by 10 %, at most by 28 % in tests. At least one is always kept.
    """
    cosines = symmetry.half_angle_cosines(rotations)  # (p, order), the identity first
    lost = cosines.max(axis=1) - cosines[:, 0]
    kept = lost <= max(TIE, lost.min())
    border = np.flatnonzero(kept & ((cosines >= cosines[:, :1] - TIE).sum(axis=1) > 1))
    for place, index in enumerate(border[1:], start=1):
        between = rotations[border[:place]].inv() * rotations[index]
        kept[index] = symmetry.half_angle_cosines(between).max() < 1.0 - TIE
    return rotations[np.flatnonzero(kept)]
