"""How far particles moved between two sets of poses.

In degrees, angstrom, and units of how well poses are known. Must not know why they moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import Result
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry

__all__ = ["PoseChange", "displacement"]


@dataclass(frozen=True)
class PoseChange:
    """How far each of m particles moved.

    ``turned_deg`` and ``shifted_angstrom``, and ``sds``: the way of the particle's edge in units of its predicted
    standard deviation, which ``rotation_sds_deg`` and ``shift_sds_angstrom`` tell over all axes; each of shape (m,).
    """

    turned_deg: NDArray[np.float64]
    shifted_angstrom: NDArray[np.float64]
    sds: NDArray[np.float64]
    rotation_sds_deg: NDArray[np.float64]
    shift_sds_angstrom: NDArray[np.float64]

    @staticmethod
    def of(before: Pose, after: Pose, results: Sequence[Result], *, symmetry: str, radius: float) -> PoseChange:
        """From poses before and after, batches of m; the radius is that of the particle, angstrom."""
        nearest = Symmetry.named(symmetry).nearest(after, to=before)
        # A standard deviation is of one axis, a motion of three.
        turn = np.sqrt(3.0) * np.array([result.rotation_sd_deg for result in results])
        shift = np.sqrt(3.0) * np.array([result.shift_sd_angstrom for result in results])
        way = displacement(nearest, before, radius)
        sds = way / np.maximum(np.hypot(radius * np.radians(turn), shift), 1e-9)
        return PoseChange(
            np.asarray(nearest.rotation_distance_deg(before)),
            np.asarray(nearest.shift_distance_angstrom(before)),
            sds,
            turn,
            shift,
        )

    def take(self, rows: NDArray[np.int64]) -> PoseChange:
        """Of some of the particles."""
        return PoseChange(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def rotation_sd_deg(self) -> float:
        """Of the median particle, over all axes."""
        return float(np.nan_to_num(np.median(self.rotation_sds_deg), posinf=180.0))

    @property
    def shift_sd_angstrom(self) -> float:
        """Of the median particle, over all axes."""
        return float(np.nan_to_num(np.median(self.shift_sds_angstrom), posinf=0.0))


def displacement(one: Pose, other: Pose, radius: float) -> NDArray[np.float64]:
    """How far a point at a radius moves between poses, root of the sum of the squares of turn and shift, angstrom."""
    turn = radius * np.radians(one.rotation_distance_deg(other))
    return np.hypot(turn, one.shift_distance_angstrom(other))
