"""Where in its box a particle lies: soft spheres, the diameter that a volume shows, samples per independent one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gonio.fourier.spectrum import index_grid
from gonio.kernels.dft import adjoint, dft_matrices, forward
from gonio.particle.volume import MASK_EDGE, Subtomogram, TiltStack, Volume, soft_sphere

__all__ = [
    "circle_samples_per_independent",
    "extent_angstrom",
    "sphere_samples_per_independent",
    "sphere_diameter_angstrom",
    "sphere_of",
    "widest_sphere_angstrom",
]

# The extent is read from the lowest shells: the radius of this share of their energy, times a margin. With it the
# spheres of `sharp`, `pseudo_symmetric` and `four_gaussians` are 210, 210 and 256 angstrom, where errors are smallest.
EXTENT_SHELLS, EXTENT_FRACTION, EXTENT_MARGIN = 5.0, 0.8, 1.2
# Voxels along an edge on which it is read, whatever those of the box.
EXTENT_POINTS = 32
# Particles do not lie in boxes much larger than this share of the edge.
MIN_SPHERE = 0.3
# What is found around the sphere is density only beyond this share of the noise, which its scatter may feign.
TAIL_NOISE = 0.2
# Shells beyond the limit that the density may extend to, so that the limit is no edge of its own.
BEYOND = 1.0


def sphere_of(box: int, voxel_size_angstrom: float, diameter_angstrom: float) -> NDArray[np.float32]:
    """The soft sphere of ``volume.masked_volume``."""
    diameter = diameter_angstrom / voxel_size_angstrom
    return soft_sphere(box, radius_px=0.5 * diameter, edge_px=MASK_EDGE * diameter)


def sphere_mask(volume: Volume, diameter_angstrom: float | None = None) -> Volume:
    """Return a soft sphere of the box of a map, 0 to 1: of a diameter, or of what the map shows."""
    diameter = diameter_angstrom or sphere_diameter_angstrom(volume)
    return Volume(sphere_of(volume.box, volume.voxel_size_angstrom, diameter), volume.voxel_size_angstrom)


def widest_sphere_angstrom(box_angstrom: float) -> float:
    """Diameter of the soft sphere whose edge, an eighth of it, ends at the faces of a box."""
    return box_angstrom / (1.0 + 2.0 * MASK_EDGE)


def circle_samples_per_independent(stack: TiltStack, diameter_angstrom: float) -> float:
    """Samples of an image for each one that the circle of ``volume.masked`` leaves independent."""
    circle = sphere_of(stack.box, stack.voxel_size_angstrom, diameter_angstrom)[stack.box // 2]
    return float(circle.size / (circle**2).sum(dtype=np.float64))


def sphere_samples_per_independent(subtomogram: Subtomogram, diameter_angstrom: float) -> float:
    """Samples of a subtomogram for each one that the sphere of ``volume.masked`` leaves independent."""
    sphere = sphere_of(subtomogram.box, subtomogram.voxel_size_angstrom, diameter_angstrom)
    return float(1.0 / np.square(sphere).mean(dtype=np.float64))


def extent_angstrom(volume: Volume, *, shells: float = EXTENT_SHELLS) -> float:
    """The radius about the box centre that holds the density, estimated from the lowest ``shells`` of the volume.

    The mean square of the low shells falls with the distance from the centre to the level of the noise, which is that
    of the corners of the box. The radius that holds most of what is above it is nearly that of the particle, whatever
    its noise and its wedge.
    """
    low = _low_shells(volume.data, min(max(shells, EXTENT_SHELLS), EXTENT_POINTS // 2 - 1))
    shell, count = _extent_shells()
    energy = np.bincount(shell, weights=(low**2).ravel())
    face = EXTENT_POINTS // 2
    noise = energy[face + 2 :].sum() / count[face + 2 :].sum()
    held = np.maximum.accumulate(np.cumsum((energy - noise * count)[: face + 1]))
    inner = np.interp(EXTENT_FRACTION * held[-1], held, np.arange(face + 1))
    fraction = EXTENT_MARGIN * inner if held[-1] > 0 else face
    return float(fraction * volume.box_angstrom / EXTENT_POINTS)


def _low_shells(data: NDArray, shells: float) -> NDArray[np.float32]:
    """The lowest shells alone, on a grid just fine enough for the extent."""
    count = min(int(shells), (len(data) - 1) // 2)
    square = np.arange(-count, count + 1) ** 2
    radius = square[:, None, None] + square[:, None] + square
    spectrum = forward(data, (dft_matrices(len(data), period=len(data), count=count),) * 3)
    spectrum *= (radius > 0) & (radius <= shells**2)
    return adjoint(spectrum, (dft_matrices(EXTENT_POINTS, period=EXTENT_POINTS, count=count),) * 3)


@lru_cache(maxsize=1)
def _extent_shells() -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The whole distance of each voxel from the centre, and how many have it."""
    shell = np.rint(np.linalg.norm(index_grid(EXTENT_POINTS), axis=-1)).astype(np.intp).ravel()
    return shell, np.bincount(shell)


def sphere_diameter_angstrom(volume: Volume, *, shells: float = EXTENT_SHELLS) -> float:
    """Diameter of the soft sphere that holds a volume: twice its extent, at most the box.

    The sphere's edge falls outside that extent.
    """
    edge = volume.box_angstrom
    least = MIN_SPHERE * edge * EXTENT_SHELLS / max(shells, EXTENT_SHELLS)
    return float(np.clip(2.0 * extent_angstrom(volume, shells=shells), least, widest_sphere_angstrom(edge)))
