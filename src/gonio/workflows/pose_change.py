"""Changes of particles' poses, in degrees, angstrom, and predicted standard deviations.

Must not know why they moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import Result
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry


@dataclass(frozen=True)
class PoseChange:
    """Change of pose of each of m particles.

    ``turned_deg`` is its rotation, ``shifted_angstrom`` its shift, and ``sds`` the displacement of the particle's edge
    in units of its predicted standard deviation; ``rotation_sds_deg`` and ``shift_sds_angstrom`` are the predictions
    over all axes. Each has shape (m,).
    """

    turned_deg: NDArray[np.float64]
    shifted_angstrom: NDArray[np.float64]
    sds: NDArray[np.float64]
    rotation_sds_deg: NDArray[np.float64]
    shift_sds_angstrom: NDArray[np.float64]

    @staticmethod
    def of(before: Pose, after: Pose, results: Sequence[Result], *, symmetry: str, radius: float) -> PoseChange:
        """Compare poses before and after, batches of m; the radius is that of the particle, angstrom."""
        nearest = Symmetry.named(symmetry).nearest(after, to=before)
        # Results have standard deviations per axis; a displacement has three axes.
        rotation = np.sqrt(3.0) * np.array([result.rotation_sd_deg for result in results])
        shift = np.sqrt(3.0) * np.array([result.shift_sd_angstrom for result in results])
        distance = nearest.displacement_angstrom(before, radius_angstrom=radius)
        sds = distance / np.maximum(np.hypot(radius * np.radians(rotation), shift), 1e-9)
        return PoseChange(
            np.asarray(nearest.rotation_distance_deg(before)),
            np.asarray(nearest.shift_distance_angstrom(before)),
            sds,
            rotation,
            shift,
        )

    def take(self, rows: NDArray[np.int64]) -> PoseChange:
        """Return the changes of the particles in ``rows``."""
        return PoseChange(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    @property
    def rotation_sd_deg(self) -> float:
        """Predicted standard deviation of the rotation, degrees, over all axes, median over particles."""
        return float(np.nan_to_num(np.median(self.rotation_sds_deg), posinf=180.0))

    @property
    def shift_sd_angstrom(self) -> float:
        """Predicted standard deviation of the shift, angstrom, over all axes, median over particles."""
        return float(np.nan_to_num(np.median(self.shift_sds_angstrom), posinf=0.0))
