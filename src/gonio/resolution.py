"""How far two half maps agree: with a soft mask, and with what the mask itself adds taken off.

A mask correlates what it is put on. How much is seen from half maps whose phases are random beyond a shell s0 where
they still agree (Chen et al. 2013, docs/theory.md eq. 35):

    FSC = (FSC_masked - FSC_random) / (1 - FSC_random)      beyond s0 + 2,      FSC_masked up to there
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gonio.fourier import (
    centred_fft,
    centred_ifft,
    fourier_shell_correlation,
    index_grid,
    low_passed,
    resolution_at,
)
from gonio.volume import Volume

__all__ = ["FSC_HALVES", "FSC_KNOWN", "HalfMapFsc", "half_map_fsc", "phases_randomised", "soft_mask"]

FSC_HALVES = 0.143  # of two half maps (Rosenthal & Henderson 2003)
FSC_KNOWN = 0.5  # of a map against a known one, and the older, more careful threshold for halves
# Phases are random beyond where the half maps agree less than this, unmasked.
RANDOM_BELOW = 0.8
# Shells beyond that in which what the mask adds is not yet known: its transform is so wide.
RANDOM_MARGIN = 2
# The mask: density is what stands out of the background of the map at this many voxels' resolution by so many robust
# standard deviations; it is widened by so many voxels, and falls off over so many more.
MASK_RESOLUTION_VOXELS, MASK_SD, MASK_WIDER_VOXELS, MASK_EDGE_VOXELS = 6.0, 3.0, 2.0, 4.0
SD_OF_MAD = 1.4826


@dataclass(frozen=True)
class HalfMapFsc:
    """Fourier shell correlations of two half maps, each of shape (n // 2 + 1,); those of a mask None without one."""

    unmasked: NDArray[np.float64]
    masked: NDArray[np.float64] | None
    randomised: NDArray[np.float64] | None
    corrected: NDArray[np.float64] | None
    box_angstrom: float

    @property
    def best(self) -> NDArray[np.float64]:
        """The corrected curve, or without a mask the only one."""
        return self.unmasked if self.corrected is None else self.corrected

    def resolution_angstrom(self, threshold: float = FSC_HALVES) -> float:
        """Where the best curve first falls below a threshold; later rises do not count."""
        return resolution_at(self.best, threshold, box_angstrom=self.box_angstrom)

    @property
    def curves(self) -> dict[str, NDArray[np.float64]]:
        """Those that there are, by name."""
        named = {
            "unmasked": self.unmasked,
            "masked": self.masked,
            "randomised": self.randomised,
            "corrected": self.corrected,
        }
        return {name: curve for name, curve in named.items() if curve is not None}


def half_map_fsc(halves: tuple[Volume, Volume], *, mask: Volume | None, rng: np.random.Generator) -> HalfMapFsc:
    """All curves of two half maps.

    Parameters
    ----------
    halves
        Of one box.
    mask
        0 to 1, of their box; None for the unmasked curve alone.
    rng
        For the random phases.

    Raises
    ------
    ValueError
        Boxes that differ.
    """
    one, two = halves
    unmasked = fourier_shell_correlation(one, two)
    if mask is None:
        return HalfMapFsc(unmasked, None, None, None, one.box_angstrom)
    if mask.box != one.box:
        raise ValueError(f"the mask has a box of {mask.box} voxels, the half maps one of {one.box}")
    below = np.flatnonzero(unmasked[1:] < RANDOM_BELOW) + 1
    first = int(below[0]) if len(below) else len(unmasked)
    random = [phases_randomised(half, first, rng=rng) for half in halves]
    masked, randomised = _masked_fsc(one, two, mask), _masked_fsc(random[0], random[1], mask)
    corrected = masked.copy()
    beyond = slice(min(first + RANDOM_MARGIN, len(masked)), None)
    corrected[beyond] = (masked[beyond] - randomised[beyond]) / np.maximum(1.0 - randomised[beyond], 1e-6)
    return HalfMapFsc(unmasked, masked, randomised, corrected, one.box_angstrom)


def phases_randomised(volume: Volume, first_shell: int, *, rng: np.random.Generator) -> Volume:
    """The volume with its own amplitudes, and the phases of white noise from a shell on."""
    spectrum = centred_fft(volume.data.astype(np.float64))
    noise = centred_fft(rng.normal(size=volume.data.shape))
    beyond = np.rint(np.linalg.norm(index_grid(volume.box), axis=-1)) >= first_shell
    phase = noise / np.maximum(np.abs(noise), 1e-300)
    return Volume(centred_ifft(np.where(beyond, np.abs(spectrum) * phase, spectrum)).real, volume.voxel_size_angstrom)


def soft_mask(volume: Volume) -> Volume:
    """Where a map has density: 1 there and a little beyond, 0 in the solvent, with a soft edge.

    The largest connected piece of what stands out of the background at low resolution, without holes. Where nothing
    stands out it is 1 everywhere.
    """
    smooth = low_passed(volume, resolution_angstrom=MASK_RESOLUTION_VOXELS * volume.voxel_size_angstrom).data
    middle = np.median(smooth)
    density = smooth > middle + MASK_SD * SD_OF_MAD * np.median(np.abs(smooth - middle))
    pieces, count = ndimage.label(density)
    if not count:
        return Volume(np.ones_like(smooth), volume.voxel_size_angstrom)
    largest = ndimage.binary_fill_holes(pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:]))
    distance = ndimage.distance_transform_edt(~largest) - MASK_WIDER_VOXELS
    edge = 0.5 + 0.5 * np.cos(np.pi * np.clip(distance / MASK_EDGE_VOXELS, 0.0, 1.0))
    return Volume(edge, volume.voxel_size_angstrom)


def _masked_fsc(one: Volume, two: Volume, mask: Volume) -> NDArray[np.float64]:
    masked = (Volume(v.data * mask.data, v.voxel_size_angstrom) for v in (one, two))
    return fourier_shell_correlation(*masked)
