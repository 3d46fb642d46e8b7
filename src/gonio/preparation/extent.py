"""Extent of a particle in its box: soft spheres, their diameter from a volume, samples per independent sample."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gonio.fourier.grid import index_grid
from gonio.kernels.dft import adjoint, dft_matrices, forward
from gonio.particle.volume import MASK_EDGE, Particle, TiltStack, Volume, circle_of, sphere_of

# The extent is estimated from the lowest shells: the radius of this fraction of their energy, times a margin. The
# spheres of `sharp`, `pseudo_symmetric` and `four_gaussians` are then 210, 210 and 256 angstrom, where errors are
# smallest.
EXTENT_SHELLS, EXTENT_FRACTION, EXTENT_MARGIN = 5.0, 0.8, 1.2
# Voxels along an edge of the grid for this estimate, for any box.
EXTENT_POINTS = 32
# Least diameter as a fraction of the edge of the box.
MIN_SPHERE = 0.3
# Power around the sphere counts as density only above this fraction of the noise: less may be the noise's scatter.
TAIL_NOISE = 0.2
# Shells beyond the limit that the density may have, so that it has no edge at the limit.
BEYOND = 1.0


def sphere_mask(volume: Volume, diameter_angstrom: float | None = None) -> Volume:
    """Return a soft sphere in the box of a map, 0 to 1, of a given diameter or of that estimated from the map."""
    diameter = diameter_angstrom or sphere_diameter_angstrom(volume)
    return Volume(sphere_of(volume.box, volume.voxel_size_angstrom, diameter), volume.voxel_size_angstrom)


def widest_sphere_angstrom(box_angstrom: float) -> float:
    """Return the diameter of the soft sphere whose edge, an eighth of it, ends at the faces of a box."""
    return box_angstrom / (1.0 + 2.0 * MASK_EDGE)


def samples_per_independent(particle: Particle, diameter_angstrom: float) -> float:
    """Return the samples of a particle per sample that the sphere or circle of ``volume.masked`` leaves independent."""
    extent = (particle.box, particle.voxel_size_angstrom, diameter_angstrom)
    if isinstance(particle, TiltStack):
        circle = circle_of(*extent)
        return float(circle.size / (circle**2).sum(dtype=np.float64))
    sphere = sphere_of(*extent)
    return float(1.0 / np.square(sphere).mean(dtype=np.float64))


def extent_angstrom(volume: Volume, *, shells: float = EXTENT_SHELLS) -> float:
    """Estimate the radius of the density about the box centre, in angstrom, from the lowest ``shells`` of the volume.

    The mean square of the low shells falls with the distance from the centre to the level of the noise, which is that
    of the corners of the box. The radius that contains most of the energy above this level is close to the particle's,
    for any noise and wedge.
    """
    low = _low_shells(volume.data, min(max(shells, EXTENT_SHELLS), EXTENT_POINTS // 2 - 1))
    shell, count = _extent_shells()
    energy = np.bincount(shell, weights=(low**2).ravel())
    face = EXTENT_POINTS // 2
    noise = energy[face + 2 :].sum() / count[face + 2 :].sum()
    enclosed = np.maximum.accumulate(np.cumsum((energy - noise * count)[: face + 1]))
    inner = np.interp(EXTENT_FRACTION * enclosed[-1], enclosed, np.arange(face + 1))
    radius = EXTENT_MARGIN * inner if enclosed[-1] > 0 else face
    return float(radius * volume.box_angstrom / EXTENT_POINTS)


def _low_shells(data: NDArray, shells: float) -> NDArray[np.float32]:
    """Return the lowest shells alone, on the grid for the extent."""
    count = min(int(shells), (len(data) - 1) // 2)
    square = np.arange(-count, count + 1) ** 2
    radius = square[:, None, None] + square[:, None] + square
    spectrum = forward(data, (dft_matrices(len(data), period=len(data), count=count),) * 3)
    spectrum *= (radius > 0) & (radius <= shells**2)
    return adjoint(spectrum, (dft_matrices(EXTENT_POINTS, period=EXTENT_POINTS, count=count),) * 3)


@lru_cache(maxsize=1)
def _extent_shells() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rounded distance of each voxel from the centre, and how many voxels have each distance."""
    shell = np.rint(np.linalg.norm(index_grid(EXTENT_POINTS), axis=-1)).astype(np.intp).ravel()
    return shell, np.bincount(shell)


def sphere_diameter_angstrom(volume: Volume, *, shells: float = EXTENT_SHELLS) -> float:
    """Return the diameter of the soft sphere that contains a volume's density: twice its extent, at most the box.

    The sphere's soft edge lies outside that extent.
    """
    edge = volume.box_angstrom
    least = MIN_SPHERE * edge * EXTENT_SHELLS / max(shells, EXTENT_SHELLS)
    return float(np.clip(2.0 * extent_angstrom(volume, shells=shells), least, widest_sphere_angstrom(edge)))
