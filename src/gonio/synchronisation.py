"""Poses of all particles from those of pairs: the start of a refinement that has no reference.

Pair (i, j) says T_ij, which lays particle i on particle j: x_j = T_ij x_i. Poses P_i with x_i = P_i x_map are wanted,
so T_ij = P_j P_i^-1. Rotations: the matrix of blocks w_ij R_ij^T has, without error, rank three, with the rotations of
P as its eigenvectors (Singer 2011; docs/theory.md eq. 36); pairs that contradict the others are weighted down and the
eigenvectors found again. Shifts: t_j - R_ij t_i = t_ij, by weighted least squares.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.pairwise import PairResult
from gonio.pose import Pose

__all__ = ["agreement_deg", "synchronised"]

# A pair that is this far from the others' opinion counts half.
HALF_WEIGHT_DEG = 10.0
ROUNDS = 20


def synchronised(pairs: Sequence[PairResult], count: int) -> Pose:
    """The poses of ``count`` particles, ``x_particle = P x_map``, that agree best with those of pairs; the first
    particle's rotation is the identity's, the mean of all shifts is none.

    Parameters
    ----------
    pairs
        Of particles 0 to count - 1, such that every particle is connected with every other.
    count
        How many particles, at least two.

    Raises
    ------
    ValueError
        A particle that is in no pair.
    """
    first = np.array([pair.reference for pair in pairs])
    second = np.array([pair.target for pair in pairs])
    lost = set(range(count)) - set(first.tolist()) - set(second.tolist())
    if lost:
        raise ValueError(f"particle {min(lost)} is in no pair: its pose cannot be told")
    poses = Pose.stack([pair.result.pose for pair in pairs])
    relative = poses.matrix  # (e, 3, 3)
    weight = np.ones(len(pairs))
    for _ in range(ROUNDS):
        rotations = _rotations(first, second, relative, weight, count)
        angle = _angle_deg(relative, rotations, first, second)
        weight = 1.0 / (1.0 + (angle / HALF_WEIGHT_DEG) ** 2)
    shifts = _shifts(first, second, relative, poses.shift_angstrom, weight, count)
    turned = rotations @ rotations[0].T  # the map is particle 0 as it lies
    # A shift s of the map's own origin moves every t_i by R_i s: the one that leaves least is taken.
    origin = np.linalg.lstsq(turned.reshape(-1, 3), shifts.reshape(-1), rcond=None)[0]
    return Pose(Rotation.from_matrix(turned), shifts - turned @ origin)


def agreement_deg(pairs: Sequence[PairResult], poses: Pose) -> NDArray[np.float64]:
    """How far each pair's rotation is from what the poses say, degrees, (e,)."""
    first = np.array([pair.reference for pair in pairs])
    second = np.array([pair.target for pair in pairs])
    return _angle_deg(Pose.stack([pair.result.pose for pair in pairs]).matrix, poses.matrix, first, second)


def _rotations(
    first: NDArray, second: NDArray, relative: NDArray[np.float64], weight: NDArray[np.float64], count: int
) -> NDArray[np.float64]:
    """(count, 3, 3) with R_second ~ relative R_first."""
    matrix = np.zeros((count, 3, count, 3))
    for i, j, turn, w in zip(first, second, relative, weight, strict=True):
        matrix[j, :, i, :] = w * turn
        matrix[i, :, j, :] = w * turn.T
    # Rows over the sum of their weights: particles with many good pairs do not drown the others.
    total = np.bincount(first, weights=weight, minlength=count) + np.bincount(second, weights=weight, minlength=count)
    scale = 1.0 / np.sqrt(np.repeat(total, 3))
    flat = matrix.reshape(3 * count, 3 * count) * scale[:, None] * scale
    vectors = np.linalg.eigh(flat)[1][:, -3:] * scale[:, None]
    blocks = vectors.reshape(count, 3, 3)
    left, _, right = np.linalg.svd(blocks)
    found = left @ right
    if np.median(np.linalg.det(found)) < 0:  # the eigenvectors may come mirrored, all of them
        blocks = blocks * np.array([1.0, 1.0, -1.0])
        left, _, right = np.linalg.svd(blocks)
        found = left @ right
    left[:, :, 2] *= np.linalg.det(found)[:, None]
    return left @ right


def _angle_deg(
    relative: NDArray[np.float64], rotations: NDArray[np.float64], first: NDArray, second: NDArray
) -> NDArray[np.float64]:
    left = rotations[second].transpose(0, 2, 1) @ relative @ rotations[first]
    return np.asarray(np.degrees(Rotation.from_matrix(left).magnitude()), dtype=np.float64)


def _shifts(
    first: NDArray,
    second: NDArray,
    relative: NDArray[np.float64],
    shift: NDArray[np.float64],
    weight: NDArray[np.float64],
    count: int,
) -> NDArray[np.float64]:
    """(count, 3) with t_second ~ relative t_first + shift: the normal equations, of least norm."""
    normal, right = np.zeros((count, 3, count, 3)), np.zeros((count, 3))
    for i, j, turn, t, w in zip(first, second, relative, shift, weight, strict=True):
        normal[j, :, j, :] += w * np.eye(3)
        normal[i, :, i, :] += w * np.eye(3)
        normal[j, :, i, :] -= w * turn
        normal[i, :, j, :] -= w * turn.T
        right[j] += w * t
        right[i] -= w * (turn.T @ t)
    flat = normal.reshape(3 * count, 3 * count)
    return np.asarray(np.linalg.lstsq(flat, right.ravel(), rcond=1e-9)[0], dtype=np.float64).reshape(count, 3)
