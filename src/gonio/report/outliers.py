"""The particles of an alignment that should be inspected, and why.

A value is an outlier where it is further from the median, on its bad side, than ``FAR`` robust standard deviations:
1.4826 times the median absolute deviation, which equals the standard deviation of a normal distribution.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.particle.table import ParticleTable
from gonio.report.content import Outlier

# In a normal distribution, one value in 30,000 is this far from the median.
FAR = 4.0
SD_OF_MAD = 1.4826
# Column, whether low values are the bad ones, reason.
SIGNS = (
    ("dissimilarity", False, "fits worse than the others (dissimilarity {:.3f}, median {:.3f})"),
    ("overlap", True, "shares little with the reference (overlap {:.2f}, median {:.2f})"),
    ("rotation_sd_deg", False, "is badly known in orientation (sd {:.1f} degrees, median {:.1f})"),
    ("shift_sd_angstrom", False, "is badly known in position (sd {:.1f} angstrom, median {:.1f})"),
    ("change_of_shift_angstrom", False, "moved further than the others ({:.1f} angstrom, median {:.1f})"),
)
ENDED_WELL = ("converged", "stalled")


def outlying_particles(particles: ParticleTable, *, most: int) -> list[tuple[int, Outlier]]:
    """Return rows and reasons of at most ``most`` particles, those with most reasons first."""
    reasons: dict[int, list[str]] = {}
    for column, low_is_bad, text in SIGNS:
        values = np.asarray(particles.columns.get(column, ()), dtype=np.float64)
        if len(values):
            middle = float(np.median(values[np.isfinite(values)])) if np.isfinite(values).any() else np.nan
            for row in np.flatnonzero(_far(-values if low_is_bad else values)).tolist():
                reasons.setdefault(row, []).append(text.format(values[row], middle))
    for row, status in enumerate(particles.columns.get("status", ())):
        if status not in ENDED_WELL:
            reasons.setdefault(row, []).append(f"ended its refinement as '{status}'")
    order = sorted(reasons, key=lambda row: (-len(reasons[row]), row))[:most]
    return [(row, Outlier(particles.names[row], "; ".join(reasons[row]))) for row in order]


def _far(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask of the values (m,) that are finite and far above their median."""
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(len(values), dtype=bool)
    middle = np.median(values[finite])
    spread = SD_OF_MAD * np.median(np.abs(values[finite] - middle))
    with np.errstate(invalid="ignore"):
        return finite & (values > middle + FAR * max(spread, 1e-6 * abs(middle), 1e-12))
