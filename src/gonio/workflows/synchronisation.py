"""From poses of pairs to one pose for each particle, when some of the pairs are wrong.

With X_i the pose that lays a common frame on particle i, and P_ij the one that lays particle i on particle j,

    P_ij = X_j X_i^-1          so that around three particles          P_ik = P_jk P_ij

Pairs are believed as far as the triangles that they are in close (cycle-edge message passing: Lerman & Shi 2022). The
most believed pairs that join all particles, a maximum spanning tree, give a first frame; then each pose is the mean of
what the others tell of it, those far off left out.

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

__all__ = ["Pairs", "Synchronised", "synchronised"]

# Rounds in which the belief in pairs, and then poses, are told anew from one another.
MESSAGES, ROUNDS = 10, 30
# No pair is believed less than this, so that a tree of all particles can be told.
LEAST = 1e-9


@dataclass(frozen=True)
class Pairs:
    """What is known of all pairs of m particles.

    Parameters
    ----------
    count
        m.
    candidates
        For each pair (i, j) with i < j the poses that may lay i on j, a batch, the likeliest first.
    """

    count: int
    candidates: dict[tuple[int, int], Pose]

    def __post_init__(self) -> None:
        wanted = {(i, j) for i in range(self.count) for j in range(i + 1, self.count)}
        if self.count < 3 or self.candidates.keys() != wanted:
            raise ValueError(f"all pairs (i, j), i < j, of at least 3 particles are needed, got {self.count} particles")


@dataclass(frozen=True)
class Synchronised:
    """One frame for all.

    Attributes
    ----------
    poses
        Batch of m, ``x_particle = R x_frame + t``.
    agreement
        Which share of its pairs agrees with each particle's pose, shape (m,), 0 to 1.
    belief
        In the pairs before any frame was told, shape (m, m), symmetric: the share of triangles that close.
    """

    poses: Pose
    agreement: NDArray[np.float64]
    belief: NDArray[np.float64]


def synchronised(pairs: Pairs, *, radius_angstrom: float, tolerance_angstrom: float) -> Synchronised:
    """The frame that most pairs agree on, that of the most believed particle.

    Parameters
    ----------
    pairs
        Best poses and their runners-up, which are taken where they agree better.
    radius_angstrom
        Of the particles: a turn by a radian moves what is seen by this much.
    tolerance_angstrom
        Pairs and triangles off by much more than this are wrong, by less right (standard deviation of a Gaussian).
    """
    rotation, shift = _best(pairs)
    belief = _belief(rotation, shift, radius_angstrom, tolerance_angstrom)
    poses = _along_tree(rotation, shift, belief)
    every, owner = _all_candidates(pairs)
    for _ in range(ROUNDS):
        before = poses
        poses, weight = _told_by_others(poses, every, owner, belief, radius_angstrom, tolerance_angstrom)
        if max(np.max(poses.rotation_distance_deg(before)), np.max(poses.shift_distance_angstrom(before))) < 1e-3:
            break
    return Synchronised(poses, weight.sum(axis=1) / (pairs.count - 1), belief)


def _best(pairs: Pairs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The likeliest P_ij in both directions: R (m, m, 3, 3) and t (m, m, 3)."""
    m = pairs.count
    rotation, shift = np.tile(np.eye(3), (m, m, 1, 1)), np.zeros((m, m, 3))
    for (i, j), poses in pairs.candidates.items():
        for one, other, pose in ((i, j, poses[0]), (j, i, poses[0].inverse())):
            rotation[one, other], shift[one, other] = pose.matrix, pose.shift_angstrom
    return rotation, shift


def _off(trace: NDArray, shift: NDArray, radius: float) -> NDArray[np.float64]:
    """How far a point at a radius moves, from the trace of a rotation and a shift (..., 3)."""
    angle = np.arccos(np.clip((trace - 1.0) / 2.0, -1.0, 1.0))
    return np.hypot(radius * angle, np.linalg.norm(shift, axis=-1))


def _belief(rotation: NDArray, shift: NDArray, radius: float, tolerance: float) -> NDArray[np.float64]:
    m = len(rotation)
    closed = np.empty((m, m, m))  # [i, k, j]: how well i -> j -> k agrees with i -> k
    for i in range(m):
        through = rotation[:, :, :, :] @ rotation[i][:, None]  # [j, k]: R_jk R_ij
        moved = np.einsum("jkab,jb->jka", rotation, shift[i]) + shift  # (j, k, 3)
        trace = np.einsum("jkab,kab->jk", through, rotation[i])
        closed[i] = np.exp(-0.5 * (_off(trace, moved - shift[i][None], radius) / tolerance) ** 2).T
    others = ~np.eye(m, dtype=bool)
    valid = others[:, :, None] & others[:, None, :] & others[None, :, :]
    belief = np.where(others, 1.0, 0.0)
    for _ in range(MESSAGES):
        weight = np.where(valid, belief[:, None, :] * belief[None, :, :], 0.0)  # both other sides of the triangle
        belief = np.maximum((weight * closed).sum(axis=-1) / np.maximum(weight.sum(axis=-1), 1e-300), LEAST) * others
    return 0.5 * (belief + belief.T)


def _along_tree(rotation: NDArray, shift: NDArray, belief: NDArray[np.float64]) -> Pose:
    """Poses along the most believed pairs that join all, from the particle that is believed most."""
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
    """Every candidate in both directions, a batch, and for each i, j, and the number of its directed pair (c, 3)."""
    poses, owner = [], []
    for number, ((i, j), batch) in enumerate(sorted(pairs.candidates.items())):
        back = batch.inverse()
        poses += [batch, back]
        owner += [[i, j, 2 * number]] * len(batch) + [[j, i, 2 * number + 1]] * len(batch)
    rotation = Rotation.concatenate([batch.rotation for batch in poses])
    return Pose(rotation, np.concatenate([batch.shift_angstrom for batch in poses])), np.array(owner)


def _told_by_others(
    poses: Pose,
    every: Pose,
    owner: NDArray[np.int64],
    belief: NDArray[np.float64],
    radius: float,
    tolerance: float,
) -> tuple[Pose, NDArray[np.float64]]:
    """Each pose as the mean of P_ij X_i, of the nearest candidate of each pair; and how near each was, (m, m)."""
    m = len(poses)
    told = every @ poses[owner[:, 0]]  # what i says of j
    off = np.hypot(
        radius * np.radians(told.rotation_distance_deg(poses[owner[:, 1]])),
        told.shift_distance_angstrom(poses[owner[:, 1]]),
    )
    order = np.lexsort((off, owner[:, 2]))
    first = order[np.flatnonzero(np.diff(owner[order, 2], prepend=-1))]  # the nearest of each directed pair
    i, j = owner[first, 0], owner[first, 1]
    near = np.exp(-0.5 * (off[first] / tolerance) ** 2)
    weight = near * belief[i, j]
    # Each keeps half of its own pose, or two that tell each other would change places for ever.
    matrices, shifts, total = poses.matrix.copy(), np.array(poses.shift_angstrom), np.full(m, 1e-12)
    np.add.at(total, j, weight)
    matrices *= total[:, None, None]
    shifts *= total[:, None]
    np.add.at(matrices, j, weight[:, None, None] * told.matrix[first])
    np.add.at(shifts, j, weight[:, None] * told.shift_angstrom[first])
    u, _, vt = np.linalg.svd(matrices)
    u[:, :, 2] *= np.linalg.det(u @ vt)[:, None]
    agreement = np.zeros((m, m))
    agreement[j, i] = near
    return Pose(Rotation.from_matrix(u @ vt), shifts / (2.0 * total - 1e-12)[:, None]), agreement
