"""How far particles moved between two sets of poses, and how far two maps of them came apart.

In degrees, angstrom, and units of how well poses are known. Must not know why they moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gonio.alignment import Aligner, Search, Settings
from gonio.pose import Pose
from gonio.result import Result
from gonio.symmetry import Symmetry
from gonio.volume import Subtomogram, Volume

__all__ = ["Motion", "displacement", "drift_of"]

# A map has drifted where its edge moved by this share of the resolution, about a tenth of a voxel, and by so many
# standard deviations; one that seems to have gone further than so many times what is expected was laid wrongly.
DRIFT_SHARE, DRIFT_SDS, CREDIBLE_SDS = 0.05, 3.0, 3.0


@dataclass(frozen=True)
class Motion:
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
    def of(before: Pose, after: Pose, results: Sequence[Result], *, symmetry: str, radius: float) -> Motion:
        """From poses before and after, batches of m; the radius is that of the particle, angstrom."""
        nearest = Symmetry.named(symmetry).nearest(after, to=before)
        # A standard deviation is of one axis, a motion of three.
        turn = np.sqrt(3.0) * np.array([result.rotation_sd_deg for result in results])
        shift = np.sqrt(3.0) * np.array([result.shift_sd_angstrom for result in results])
        way = displacement(nearest, before, radius)
        sds = way / np.maximum(np.hypot(radius * np.radians(turn), shift), 1e-9)
        return Motion(
            np.asarray(nearest.rotation_distance_deg(before)),
            np.asarray(nearest.shift_distance_angstrom(before)),
            sds,
            turn,
            shift,
        )

    def take(self, rows: NDArray[np.int64]) -> Motion:
        """Of some of the particles."""
        return Motion(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

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


def drift_of(halves: tuple[Volume, Volume], motion: Motion, *, radius: float, limit: float) -> Pose | None:
    """The pose that lays half 1 on half 2, where they have drifted apart; None where they have not.

    A map is where its particles are on average: in one iteration it goes no further than the mean of so many errors,
    twice that is what is expected of it here.

    Parameters
    ----------
    halves
        Averages that were in one frame before the last alignment.
    motion
        Of the particles in it.
    radius, limit
        Of the particle and the resolution, angstrom.
    """
    share = 2.0 * np.sqrt(2.0 / (0.5 * len(motion.sds)) / 3.0)  # of two halves; of one axis
    turn, shift = max(share * motion.rotation_sd_deg, 1e-3), max(share * motion.shift_sd_angstrom, 1e-3)
    settings = Settings(
        search=Search.LOCAL,
        resolution_angstrom=limit,
        particle_diameter_angstrom=2.0 * radius,
        prior_rotation_sd_deg=turn,
        prior_shift_sd_angstrom=shift,
    )
    found = Aligner(halves[0], settings).align(Subtomogram(halves[1]), start=Pose.identity())
    moved = float(displacement(found.pose, Pose.identity(), radius))
    sd, expected = (
        np.sqrt(3.0) * np.hypot(radius * np.radians(of_turn), of_shift)
        for of_turn, of_shift in ((found.rotation_sd_deg, found.shift_sd_angstrom), (turn, shift))
    )
    return found.pose if max(DRIFT_SHARE * limit, DRIFT_SDS * sd) < moved < CREDIBLE_SDS * expected else None
