"""A reference made of a single particle: its density, and the weight with which it has measured each frequency.

Subtomograms are references as they are. A tilt stack becomes an average of one particle; a pseudo-subtomogram is
divided by its squared transfers, which are the weights. Must not know what the reference is compared with.
"""

from __future__ import annotations

import numpy as np

from gonio.averaging.insertion import insertion_of, shell_mean
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Particle, Subtomogram
from gonio.particle.wedge import WeightVolumeWedge

# A frequency counts as fully measured when its weight is at least half the mean of its shell.
FULLY_MEASURED = 0.5


def by_itself(particle: Particle) -> Subtomogram:
    """Return a particle as a subtomogram without transfer, which can be a reference."""
    if isinstance(particle, Subtomogram) and particle.premultiplied is None:
        return particle
    insertion = insertion_of(particle, Symmetry.named("C1"))
    running = insertion.start()
    insertion.add(particle, Pose.identity(), into=running)
    sums = insertion.packed(running)
    volume, coverage = insertion.map_of(sums), np.maximum(insertion.coverage(sums), 0.0)
    mean = np.maximum(FULLY_MEASURED * shell_mean(coverage), 1e-30)
    weights = np.minimum(coverage / mean, 1.0).astype(np.float32)
    return Subtomogram(volume, WeightVolumeWedge(weights, particle.voxel_size_angstrom), particle.normal_xyz)
