"""A reference made of a single particle: what it shows of its density, and how well it has measured each frequency.

Subtomograms are references as they are. A tilt stack is an average of one; a pseudo-subtomogram is divided by its
squared transfers, and these say how well each frequency was measured. Must not know what it is compared with.
"""

from __future__ import annotations

import numpy as np

from gonio.averaging.insertion import insertion_of
from gonio.fourier.spectrum import index_grid
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Particle, Subtomogram
from gonio.particle.wedge import WeightVolumeWedge

__all__ = ["by_itself"]

# A frequency counts as measured in full when it is seen as often as half the mean of its shell.
FULLY_SEEN = 0.5


def by_itself(particle: Particle) -> Subtomogram:
    """Return a particle as a subtomogram without transfer, which may be a reference."""
    if isinstance(particle, Subtomogram) and particle.premultiplied is None:
        return particle
    insertion = insertion_of(particle, Symmetry.named("C1"))
    running = insertion.start()
    insertion.add(particle, Pose.identity(), into=running)
    sums = insertion.packed(running)
    volume, coverage = insertion.map_of(sums), np.maximum(insertion.coverage(sums), 0.0)
    shell = np.rint(np.linalg.norm(index_grid(particle.box), axis=-1)).astype(int)
    mean = np.bincount(shell.ravel(), weights=coverage.ravel()) / np.bincount(shell.ravel())
    weights = np.minimum(coverage / np.maximum(FULLY_SEEN * mean[shell], 1e-30), 1.0).astype(np.float32)
    return Subtomogram(volume, WeightVolumeWedge(weights, particle.voxel_size_angstrom), particle.normal_xyz)
