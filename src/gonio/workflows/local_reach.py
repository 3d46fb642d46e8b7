"""Local searches of a refinement: how far they reach, and which particles may be right beyond.

From a wrong pose a local search cannot come back. Must not know maps, nor how particles are aligned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.alignment.result import Result
from gonio.particle.symmetry import Symmetry
from gonio.workflows.pose_change import PoseChange

# Searches are local once the median particle moves by less than this many of its predicted standard deviations.
LOCAL_BELOW = 1.0
# A local search reaches this many predicted standard deviations, and at least this fraction of the resolution.
CONE_SDS, CONE_FRACTION = 3.0, 0.5
# A particle is settled that moves by no more than so many of its standard deviations, and has no rival beyond a local
# search that is less likely by fewer than this (natural logarithm).
SETTLED_SDS, RIVAL = 3.0, 3.0


def reach_of(pose_change: PoseChange, *, limit: float, radius: float) -> tuple[float, float]:
    """Return the reach of a local search, degrees and angstrom.

    Parameters
    ----------
    pose_change
        Predicted errors of poses.
    limit, radius
        Resolution limit of the search and radius of the particle, angstrom.
    """
    rotation_deg = max(CONE_SDS * pose_change.rotation_sd_deg, np.degrees(CONE_FRACTION * limit / radius))
    shift = max(CONE_SDS * pose_change.shift_sd_angstrom, CONE_FRACTION * limit)
    return float(min(rotation_deg, 180.0)), float(shift)


def unsettled(
    pose_change: PoseChange, results: list[Result], reach: tuple[float, float], *, symmetry: str
) -> NDArray[np.bool_]:
    """Return which particles (m,) may be right beyond the reach of a local search, degrees and angstrom."""
    group = Symmetry.named(symmetry)
    rivals = [_has_rival(result, reach, group) for result in results]
    return np.asarray((pose_change.sds > SETTLED_SDS) | np.array(rivals))


def _has_rival(result: Result, reach: tuple[float, float], group: Symmetry) -> bool:
    return any(
        group.rotation_distance_deg(other.pose, result.pose) > reach[0]
        or other.pose.shift_distance_angstrom(result.pose) > reach[1]
        for other in result.runners_up
        if other.margin < RIVAL
    )
