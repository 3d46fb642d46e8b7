"""Poses: the rigid transformation that aligns a reference to a target.

Owns the pose convention of the whole package and its tangent space.

    x_target = R x_reference + t                     (the paper's beta = tau_t Lambda_R)
    R <- exp([omega]x) R,   t <- t + dt               (left tangent; omega in radians)

Vectors are xyz, t is in angstrom. Euler angles are used only here and in files.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation


def anchors(rotations: NDArray[np.float64], shifts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the unit vectors mapped by the inverse poses, as columns: ``R^-1 (I - (a, a, a))``, shape (..., 3, 3).

    The paper's eq. 12 is the Frobenius norm of a difference of two of these.
    """
    return np.swapaxes(rotations, -2, -1) @ (np.eye(3) - shifts[..., :, None])


def moved_along(
    rotations: NDArray[np.float64], shifts: NDArray[np.float64], tangent: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return matrices (p, 3, 3) and shifts (p, 3) moved along tangents (p, 6): ``Pose.retract`` on plain arrays."""
    step = Rotation.from_rotvec(np.array(tangent[:, :3])).as_matrix()  # (p, 3, 3); SciPy refuses read-only arrays
    return step @ rotations, shifts + tangent[:, 3:]


def _rotated(rotation: Rotation, vectors_xyz: ArrayLike) -> NDArray[np.float64]:
    # A copy, because SciPy refuses to rotate read-only arrays.
    return np.asarray(rotation.apply(np.array(vectors_xyz, dtype=np.float64)))


@dataclass(frozen=True)
class Pose:
    """A rotation and a shift, or a batch of p of them: ``x_target = R x_reference + t``.

    Parameters
    ----------
    rotation
        SciPy ``Rotation``, single or of length p. Maps reference directions to target directions.
    shift_angstrom
        t, shape (3,) or (p, 3), xyz order.

    Raises
    ------
    ValueError
        If the two parts do not have the same batch shape or the shift is not finite.

    Examples
    --------
    >>> pose = Pose.from_euler_zyz_deg([0.0, 0.0, 90.0], [10.0, 0.0, 0.0])
    >>> pose.apply([1.0, 0.0, 0.0]).round(6).tolist()
    [10.0, 1.0, 0.0]
    """

    rotation: Rotation
    shift_angstrom: NDArray[np.float64]

    def __post_init__(self) -> None:
        shift = np.array(self.shift_angstrom, dtype=np.float64)
        expected = (3,) if self.rotation.single else (len(self.rotation), 3)
        if shift.shape != expected:
            raise ValueError(f"shift_angstrom must have shape {expected} to match the rotation, got {shift.shape}")
        if not np.isfinite(shift).all():
            raise ValueError("shift_angstrom holds values that are not finite")
        shift.setflags(write=False)
        object.__setattr__(self, "shift_angstrom", shift)

    @staticmethod
    def identity(count: int | None = None) -> Pose:
        """Return the pose without rotation and shift, or a batch of ``count`` of it."""
        return Pose(Rotation.identity(count), np.zeros(3 if count is None else (count, 3)))

    @staticmethod
    def from_euler_zyz_deg(angles_deg: ArrayLike, shift_angstrom: ArrayLike = (0.0, 0.0, 0.0)) -> Pose:
        """Return the pose with ``R = Rz(a) Ry(b) Rz(c)`` of angles (a, b, c), shape (3,) or (p, 3), degrees."""
        rotation = Rotation.from_euler("ZYZ", np.asarray(angles_deg, dtype=np.float64), degrees=True)
        return Pose(rotation, np.asarray(shift_angstrom, dtype=np.float64))

    @staticmethod
    def stack(poses: list[Pose]) -> Pose:
        """Return one batch of single poses, in order."""
        if not poses:
            return Pose(Rotation.from_quat(np.empty((0, 4))), np.empty((0, 3)))
        return Pose(Rotation.concatenate([p.rotation for p in poses]), np.stack([p.shift_angstrom for p in poses]))

    @staticmethod
    def random(count: int, *, rng: np.random.Generator, max_shift_angstrom: float = 0.0) -> Pose:
        """Draw rotations uniformly from SO(3), and shifts uniformly from a cube of half side ``max_shift_angstrom``."""
        shift = rng.uniform(-max_shift_angstrom, max_shift_angstrom, (count, 3))
        return Pose(Rotation.random(count, rng=rng), shift)

    @property
    def is_batch(self) -> bool:
        """True for a batch of poses, False for a single one."""
        return not self.rotation.single

    def __len__(self) -> int:
        if not self.is_batch:
            raise TypeError("a single Pose has no length")
        return len(self.rotation)

    def __getitem__(self, index: int | slice | NDArray[np.integer | np.bool_]) -> Pose:
        if not self.is_batch:
            raise TypeError("a single Pose cannot be indexed")
        return Pose(self.rotation[index], self.shift_angstrom[index])

    @property
    def matrix(self) -> NDArray[np.float64]:
        """R as matrices, shape (3, 3) or (p, 3, 3), acting on xyz columns."""
        return np.asarray(self.rotation.as_matrix())

    def euler_zyz_deg(self) -> NDArray[np.float64]:
        """Return the angles (a, b, c) with ``R = Rz(a) Ry(b) Rz(c)``, degrees, shape (3,) or (p, 3)."""
        return np.asarray(self.rotation.as_euler("ZYZ", degrees=True, suppress_warnings=True))

    def apply(self, points_xyz: ArrayLike) -> NDArray[np.float64]:
        """Return ``R x + t`` for points in angstrom, shape (..., 3) for a single pose, (p, 3) for a batch."""
        return _rotated(self.rotation, points_xyz) + self.shift_angstrom

    def inverse(self) -> Pose:
        """Return the pose that aligns the target to the reference."""
        back = self.rotation.inv()
        return Pose(back, -_rotated(back, self.shift_angstrom))

    def __matmul__(self, first: Pose) -> Pose:
        """Return ``self @ first``, the pose that applies ``first``, then ``self``."""
        shift = _rotated(self.rotation, first.shift_angstrom) + self.shift_angstrom
        return Pose(self.rotation * first.rotation, shift)

    def retract(self, tangent: ArrayLike) -> Pose:
        """Move along ``(omega_x, omega_y, omega_z, t_x, t_y, t_z)`` in radians and angstrom, shape (6,) or (p, 6)."""
        tangent = np.array(tangent, dtype=np.float64)  # a copy: SciPy refuses read-only arrays
        step = Rotation.from_rotvec(tangent[..., :3])
        return Pose(step * self.rotation, self.shift_angstrom + tangent[..., 3:])

    def centred(self) -> Pose:
        """Return a batch about the point c whose positions R c + t are nearest to box centres, -mean(R^-1 t)."""
        return self @ Pose(Rotation.identity(), self.inverse().shift_angstrom.mean(axis=0))

    def tangent_after(self, first: Pose) -> NDArray[np.float64]:
        """Return the matrix J (6, 6) that takes a tangent of this single pose to one of ``self @ first``.

        To first order ``self.retract(d) @ first`` is ``(self @ first).retract(J d)``. The rotation moves the point to
        which ``first`` shifts the centre, s, so that the shift changes with it: dt' = dt + omega x (R s).
        """
        x, y, z = _rotated(self.rotation, first.shift_angstrom)
        tangent = np.eye(6)
        tangent[3:, :3] = [[0.0, z, -y], [-z, 0.0, x], [y, -x, 0.0]]
        return tangent

    def rotation_distance_deg(self, other: Pose) -> NDArray[np.float64] | float:
        """Return the angle of the rotation between two poses, degrees in [0, 180]."""
        angle: NDArray[np.float64] | float = np.degrees((self.rotation * other.rotation.inv()).magnitude())
        return angle

    def shift_distance_angstrom(self, other: Pose) -> NDArray[np.float64] | float:
        """Return the length of the difference of the two shifts, angstrom (the paper's translation error)."""
        distance: NDArray[np.float64] | float = np.linalg.norm(self.shift_angstrom - other.shift_angstrom, axis=-1)
        return distance

    def displacement_angstrom(self, other: Pose, *, radius_angstrom: float) -> NDArray[np.float64]:
        """Return how far a point at a radius moves between two poses: rotation and shift added in squares."""
        rotated = radius_angstrom * np.radians(self.rotation_distance_deg(other))
        return np.hypot(rotated, self.shift_distance_angstrom(other))

    def frobenius_distance(self, other: Pose, *, voxel_size_angstrom: float) -> NDArray[np.float64] | float:
        """Return ``|| R_j^-1 (I - (a_j, a_j, a_j)) - R_k^-1 (I - (a_k, a_k, a_k)) ||_F``, a in voxels (eq. 12)."""
        mine, others = (anchors(pose.matrix, pose.shift_angstrom / voxel_size_angstrom) for pose in (self, other))
        distance: NDArray[np.float64] | float = np.sqrt(((mine - others) ** 2).sum(axis=(-2, -1)))
        return distance

    def __repr__(self) -> str:
        if self.is_batch:
            return f"Pose(batch of {len(self)})"
        angles = ", ".join(f"{a:.2f}" for a in self.euler_zyz_deg())
        shift = ", ".join(f"{t:.2f}" for t in self.shift_angstrom)
        return f"Pose(euler_zyz_deg=({angles}), shift_angstrom=({shift}))"


@dataclass(frozen=True)
class PoseSample:
    """Possible poses of a particle, a batch of q, and their probabilities, (q,), with the sum one."""

    poses: Pose
    weights: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not self.poses.is_batch or np.shape(self.weights) != (len(self.poses),):
            raise ValueError(f"weights must be one for each of a batch of poses, got shape {np.shape(self.weights)}")

    def __matmul__(self, first: Pose) -> PoseSample:
        """Return the sample for a reference that ``first`` aligns to the one it was drawn for."""
        return PoseSample(self.poses @ first, self.weights)
