"""From poses of pairs to one pose for each particle, when some of the pairs are wrong.

With X_i the pose that aligns a common frame to particle i, and P_ij the one that aligns particle i to particle j,

    P_ij = X_j X_i^-1          so that around three particles          P_ik = P_jk P_ij

The belief in a pair is the fraction of its triangles that close (cycle-edge message passing: Lerman & Shi 2022). The
most believed pairs that join all particles, a maximum spanning tree, give a first frame; then each pose becomes the
mean of its estimates from the others, without outliers.

Must not know how pairs were aligned.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from scipy.spatial.transform import Rotation

from gonio.particle.pose import Pose

# Rounds of updating the belief in pairs, and then the poses, from one another.
MESSAGES, ROUNDS = 10, 30
# Least belief in a pair, so that there is a tree of all particles.
LEAST = 1e-9


@dataclass(frozen=True)
class Pairs:
    """Candidate poses of all pairs of m particles.

    Parameters
    ----------
    count
        m.
    candidates
        For each pair (i, j) with i < j the poses that may align i to j, a batch, the likeliest first.
    """

    count: int
    candidates: dict[tuple[int, int], Pose]

    def __post_init__(self) -> None:
        wanted = {(i, j) for i in range(self.count) for j in range(i + 1, self.count)}
        if self.count < 3 or self.candidates.keys() != wanted:
            raise ValueError(f"all pairs (i, j), i < j, of at least 3 particles are needed, got {self.count} particles")


@dataclass(frozen=True)
class Synchronised:
    """Poses of all particles in one frame.

    Attributes
    ----------
    poses
        Batch of m, ``x_particle = R x_frame + t``.
    agreement
        Fraction of its pairs that agree with each particle's pose, shape (m,), 0 to 1.
    belief
        Belief in the pairs, the fraction of their triangles that close, shape (m, m), symmetric.
    """

    poses: Pose
    agreement: NDArray[np.float64]
    belief: NDArray[np.float64]


def synchronised(pairs: Pairs, *, radius_angstrom: float, tolerance_angstrom: float) -> Synchronised:
    """Find the poses in one frame, that of the most believed particle, on which most pairs agree.

    Parameters
    ----------
    pairs
        Best poses and their runners-up, which are taken where they agree better.
    radius_angstrom
        Radius of the particles: a rotation by one radian moves their edge by this much.
    tolerance_angstrom
        Standard deviation of the error of right pairs and triangles; those with a much larger error are wrong.
    """
    rotation, shift = _best(pairs)
    belief = _belief(rotation, shift, radius_angstrom, tolerance_angstrom)
    poses = _along_tree(rotation, shift, belief)
    every, owner = _all_candidates(pairs)
    for _ in range(ROUNDS):
        before = poses
        poses, weight = _from_others(poses, every, owner, belief, radius_angstrom, tolerance_angstrom)
        if max(np.max(poses.rotation_distance_deg(before)), np.max(poses.shift_distance_angstrom(before))) < 1e-3:
            break
    return Synchronised(poses, weight.sum(axis=1) / (pairs.count - 1), belief)


def _best(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the likeliest P_ij in both directions: R (m, m, 3, 3) and t (m, m, 3)."""
    m = pairs.count
    rotation, shift = np.tile(np.eye(3), (m, m, 1, 1)), np.zeros((m, m, 3))
    for (i, j), poses in pairs.candidates.items():
        for one, other, pose in ((i, j, poses[0]), (j, i, poses[0].inverse())):
            rotation[one, other], shift[one, other] = pose.matrix, pose.shift_angstrom
    return rotation, shift


def _error(trace: NDArray, shift: NDArray, radius: float) -> NDArray[np.float64]:
    """Return how far a point at a radius moves, from the trace of a rotation and a shift (..., 3)."""
    angle = np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))
    return np.hypot(radius * angle, np.linalg.norm(shift, axis=-1))


def _belief(rotation: NDArray, shift: NDArray, radius: float, tolerance: float) -> NDArray[np.float64]:
    m = len(rotation)
    closed = np.empty((m, m, m))  # [i, k, j]: how well i -> j -> k agrees with i -> k
    for i in range(m):
        around = rotation[:, :, :, :] @ rotation[i][:, None]  # [j, k]: R_jk R_ij
        moved = np.einsum("jkab,jb->jka", rotation, shift[i]) + shift  # (j, k, 3)
        trace = np.einsum("jkab,kab->jk", around, rotation[i])
        closed[i] = np.exp(-0.5 * (_error(trace, moved - shift[i][None], radius) / tolerance) ** 2).T
    others = ~np.eye(m, dtype=bool)
    valid = others[:, :, None] & others[:, None, :] & others[None, :, :]
    belief = np.where(others, 1.0, 0.0)
    for _ in range(MESSAGES):
        weight = np.where(valid, belief[:, None, :] * belief[None, :, :], 0.0)  # both other sides of the triangle
        belief = np.maximum((weight * closed).sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1e-300), LEAST) * others
    return 0.5 * (belief + belief.T)


def _along_tree(rotation: NDArray, shift: NDArray, belief: NDArray[np.float64]) -> Pose:
    """Return the poses along the most believed pairs that join all, from the most believed particle."""
    m, root = len(belief), int(belief.sum(axis=1).argmax())
    cost = np.where(belief > 0, 1e-6 - np.log(np.maximum(belief, LEAST)), 0.0)
    order, before = breadth_first_order(minimum_spanning_tree(csr_array(cost)), root, directed=False)
    matrices, shifts = np.tile(np.eye(3), (m, 1, 1)), np.zeros((m, 3))
    for one in order[1:]:
        last = before[one]
        matrices[one] = rotation[last, one] @ matrices[last]
        shifts[one] = rotation[last, one] @ shifts[last] + shift[last, one]
    return Pose(Rotation.from_matrix(matrices), shifts)


def _all_candidates(pairs: Pairs) -> tuple[Pose, NDArray[np.int64]]:
    """Return every candidate in both directions, a batch, and of each i, j, and its directed pair's number, (c, 3)."""
    poses, owner = [], []
    for number, ((i, j), batch) in enumerate(sorted(pairs.candidates.items())):
        back = batch.inverse()
        poses += [batch, back]
        owner += [[i, j, 2 * number]] * len(batch) + [[j, i, 2 * number + 1]] * len(batch)
    rotation = Rotation.concatenate([batch.rotation for batch in poses])
    return Pose(rotation, np.concatenate([batch.shift_angstrom for batch in poses])), np.array(owner)


def _from_others(
    poses: Pose,
    every: Pose,
    owner: NDArray[np.int64],
    belief: NDArray[np.float64],
    radius: float,
    tolerance: float,
) -> tuple[Pose, NDArray[np.float64]]:
    """Return each pose as the mean of P_ij X_i over the nearest candidates, and how near each of these was, (m, m)."""
    m = len(poses)
    estimate = every @ poses[owner[:, 0]]  # of j, from i
    error = estimate.displacement_angstrom(poses[owner[:, 1]], radius_angstrom=radius)
    order = np.lexsort((error, owner[:, 2]))
    first = order[np.flatnonzero(np.diff(owner[order, 2], prepend=-1))]  # the nearest of each directed pair
    i, j = owner[first, 0], owner[first, 1]
    near = np.exp(-0.5 * (error[first] / tolerance) ** 2)
    weight = near * belief[i, j]
    # Each keeps half of its own pose, or two that estimate each other would alternate for ever.
    matrices, shifts, total = poses.matrix.copy(), np.array(poses.shift_angstrom), np.full(m, 1e-12)
    np.add.at(total, j, weight)
    matrices *= total[:, None, None]
    shifts *= total[:, None]
    np.add.at(matrices, j, weight[:, None, None] * estimate.matrix[first])
    np.add.at(shifts, j, weight[:, None] * estimate.shift_angstrom[first])
    u, _, vt = np.linalg.svd(matrices)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    agreement = np.zeros((m, m))
    agreement[j, i] = near
    return Pose(Rotation.from_matrix(u @ vt), shifts / (2.0 * total - 1e-12)[:, None]), agreement
