"""Symmetry: the rotations that leave the reference unchanged.

Owns the point groups and where their axes lie. A rotation g of the group takes the reference to itself, so with the
pose of `gonio.particle.pose`

    x_target = R x_reference + t      and      x_target = R g x_reference + t

describe the same target: R and R g are equivalent. g stands on the right, and the shift does not change, because all
axes pass through the centre voxel.

    Cn          n-fold axis along z
    Dn          n-fold axis along z, a two-fold axis along x
    T           two-fold axes along x, y, z; three-fold axes along (1, 1, 1) and its like
    O           four-fold axes along x, y, z
    I, I1       two-fold axes along x, y, z; the five-fold axes nearest to z lie in the yz plane
    I2          I1 rotated by 90 degrees about z: the five-fold axes nearest to z lie in the xz plane

These are RELION's groups with two exceptions: its T has a three-fold axis along z, and its I without a number is I2.
SciPy's I is I1, the standard of Heymann, Chagoyen & Belnap (2005). Must not know what is aligned, nor how.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.pose import Pose

NAMES = re.compile(r"[CD][1-9]\d*|T|O|I[12]?")


def _group(name: str) -> Rotation:
    """Return the rotations of a group, in no particular order."""
    if name[0] != "I":
        return Rotation.create_group(name)
    icosahedral = Rotation.create_group("I")
    quarter = Rotation.from_euler("z", 90.0, degrees=True)
    return quarter * icosahedral * quarter.inv() if name == "I2" else icosahedral


@dataclass(frozen=True)
class Symmetry:
    """A point group of rotations about the centre of the reference: Cn, Dn, T, O or I.

    Parameters
    ----------
    name
        "C1", "C4", "D2", "T", "O", "I", "I1" or "I2"; ``Symmetry.named`` also takes small letters. The docstring of
        this module states where the axes lie.

    Raises
    ------
    ValueError
        If the name is another.

    Examples
    --------
    >>> square = Symmetry.named("c4")
    >>> square
    Symmetry(name='C4')
    >>> once, turned = (Pose.from_euler_zyz_deg([0.0, 0.0, angle]) for angle in (10.0, 95.0))
    >>> round(float(square.rotation_distance_deg(once, turned)), 6)
    5.0
    """

    name: str
    rotations: Rotation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not NAMES.fullmatch(self.name):
            allowed = "Cn or Dn with n from 1 (as C4 or D2), T, O, I, I1 or I2"
            raise ValueError(f"the name of a symmetry must be {allowed}, got {self.name!r}")
        group = _group(self.name)
        identity_first = np.argsort(group.magnitude() > 1e-6, kind="stable")
        object.__setattr__(self, "rotations", group[identity_first])

    @staticmethod
    def named(name: str) -> Symmetry:
        """Return the group of a name in capital or small letters."""
        return Symmetry(name.strip().upper())

    @property
    def order(self) -> int:
        """Number of rotations, the identity included: n for Cn, 2n for Dn, 12 for T, 24 for O, 60 for I."""
        return len(self.rotations)

    @property
    def matrices(self) -> NDArray[np.float64]:
        """The rotations as matrices, shape (order, 3, 3), the identity first."""
        return np.asarray(self.rotations.as_matrix())

    def equivalents(self, matrices: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return ``R g`` for every g, shape (p, order, 3, 3) from (p, 3, 3), R itself first."""
        return matrices[..., None, :, :] @ self.matrices

    def half_angle_cosines(self, rotation: Rotation) -> NDArray[np.float64]:
        """Return the cosine of half the angle of ``R g`` for every g, shape (order,) or (p, order).

        It is the product of two unit quaternions, of R and of the inverse of g; the largest is nearest to the identity.
        """
        cosines: NDArray[np.float64] = np.abs(rotation.as_quat() @ self.rotations.inv().as_quat().T)
        return cosines

    def nearest(self, pose: Pose, *, to: Pose) -> Pose:
        """Return the equivalent of a pose, or of each of a batch, whose rotation is nearest to that of ``to``.

        The shift does not change.
        """
        # R g R_to^-1 and R_to^-1 R g rotate by the same angle.
        best = self.half_angle_cosines(to.rotation.inv() * pose.rotation).argmax(axis=-1)  # () or (p,)
        rotation = pose.rotation * self.rotations[best]
        shape = (3,) if rotation.single else (len(rotation), 3)
        return Pose(rotation, np.broadcast_to(pose.shift_angstrom, shape))

    def rotation_distance_deg(self, first: Pose, second: Pose) -> NDArray[np.float64] | float:
        """Return the smallest angle between a pose and an equivalent of the other, degrees, shape () or (p,)."""
        return self.nearest(first, to=second).rotation_distance_deg(second)


@lru_cache(maxsize=8)
def split(symmetry: Symmetry) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return one c of each coset, (c, 3, 3), and all h that permute the axes, (h, 3, 3), of the rotations g = c h.

    C2, C4, D2, T and O have one coset, C3 has three, an icosahedron five.
    """
    group = symmetry.matrices
    lattice = np.rint(group)[np.abs(group - np.rint(group)).max(axis=(1, 2)) < 1e-6]
    cosets, left = [], list(group)
    while left:
        coset = left[0] @ lattice  # (h, 3, 3)
        cosets.append(left[0])
        left = [g for g in left if np.abs(coset - g).max(axis=(1, 2)).min() > 1e-6]
    return np.array(cosets), lattice.astype(np.int64)


def symmetric(cube: NDArray[np.floating], symmetry: Symmetry) -> NDArray[np.floating]:
    """Return the sum of a cube (z, y, x) of odd side over the rotations about its centre that permute its axes."""
    first, *others = split(symmetry)[1]
    total = _permuted(cube, first)
    for permutation in others:
        total = total + _permuted(cube, permutation)
    return total


def _permuted(cube: NDArray[np.floating], matrix: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return the values of a cube (z, y, x) at h k for every k; h (3, 3) on xyz has one +-1 in each row and column."""
    axes, signs = np.abs(matrix).argmax(axis=1), matrix.sum(axis=1)  # (h k)_a = sign_a k_axes[a]
    flipped = cube.transpose(2, 1, 0)[tuple(slice(None, None, sign) for sign in signs)]  # (x, y, z)
    return flipped.transpose(np.argsort(axes)).transpose(2, 1, 0)
