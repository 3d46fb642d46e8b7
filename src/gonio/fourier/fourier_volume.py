"""Volumes as oversampled spectra that can be sampled at any frequency, and moved by a pose in Fourier space.

Owns the interpolation of a spectrum between its samples. Must not know scores or poses.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.fourier.grid import REMEMBERED, index_grid
from gonio.fourier.transform import centred_ifft
from gonio.kernels import sample_sums, shift
from gonio.kernels.dft import dft_matrices, forward, plane_waves
from gonio.kernels.window import OVERSAMPLING, window_transform
from gonio.particle.volume import Volume, background, boxed
from gonio.particle.wedge import NoWedge, Wedge, WeightVolumeWedge

# Sets of samples at seed orientations that a reference caches: one for each wedge and size of its targets.
KEPT_ROTATIONS = 2
# Power of a shell relative to the strongest, below which it is empty: the square of rounding errors of 6e-8, with a
# margin.
EMPTY_SHELL = 1e-12


@dataclass(frozen=True)
class FourierVolume:
    """The spectrum of a reference, which can be sampled at any frequency below a limit, and its wedge.

    The map is divided by the window's transform, padded to twice its box, transformed and cropped to the limit; a
    sample is then a weighted sum of 4 x 4 x 4 neighbours (docs/theory.md eq. 3). Frequencies are in units of one over
    ``box``, the box of the particles it is compared with, which may differ from the map's own.

    Parameters
    ----------
    grid
        Flat, float32: the spectrum cropped to the limit, a cube of ``side`` points in order (z, y, x) with real and
        imaginary parts interleaved.
    side
        Grid points along an edge.
    scale
        Grid points for each unit of frequency.
    regions, weights, weight_scale
        The wedge (``gonio.particle.wedge``) in units of frequency: rows (w, 7), or a volume of weights and its points
        per unit of frequency; a volume of shape (0, 0, 0) when there is none.
    box, voxel_size_angstrom, limit
        See ``Spectrum``.
    """

    grid: NDArray[np.float32]
    side: int
    scale: np.float32
    regions: NDArray[np.float32]
    weights: NDArray[np.float32]
    weight_scale: np.float32
    box: int
    voxel_size_angstrom: float
    limit: float
    _rotated: dict[bytes, tuple[NDArray[np.float32], NDArray[np.float32]]] = field(
        default_factory=dict, compare=False, repr=False
    )

    @staticmethod
    def of(volume: Volume, *, wedge: Wedge | None = None, limit: float, box: int | None = None) -> FourierVolume:
        """Return the spectrum of ``volume`` up to ``limit``, in units of one over ``box``, by default the volume's."""
        box = volume.box if box is None else box
        wedge = NoWedge() if wedge is None else wedge
        padded = OVERSAMPLING * volume.box
        scale = padded / box
        half = int(np.floor(scale * limit)) + 3  # the window extends two points beyond the cell
        spectrum = _padded_spectrum(volume.data - np.float32(background(volume.data)), padded, half)
        regions, weights, weight_scale = wedge_in_box(wedge, box * volume.voxel_size_angstrom)
        return FourierVolume(
            grid=spectrum.view(np.float32).ravel(),  # real and imaginary parts alternate
            side=2 * half + 1,
            scale=np.float32(scale),
            regions=regions,
            weights=weights,
            weight_scale=weight_scale,
            box=box,
            voxel_size_angstrom=volume.voxel_size_angstrom,
            limit=limit,
        )

    @property
    def kernel(self) -> sample_sums.Reference:
        """The tuple of arrays that kernels take."""
        return sample_sums.Reference(self.grid, self.side, self.scale, self.regions, self.weights, self.weight_scale)

    def turned(
        self, frequency_xyz: NDArray[np.float32], rotations: NDArray[np.float32], *, keep: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Sample the spectrum at R^T k, k (3, n), for rotations R (p, 3, 3): re and im (p, 2, n), weights (p, n).

        With ``keep`` the result is cached for the next target with these samples, with the few before it.
        """
        key = frequency_xyz.tobytes() + rotations.tobytes() if keep else b""
        found = self._rotated.get(key)
        if found is None:
            p, n = len(rotations), frequency_xyz.shape[1]
            found = np.empty((p, 2, n), np.float32), np.empty((p, n), np.float32)
            shift.reference_at(self.kernel, frequency_xyz, rotations, *found)
            if keep:
                for old in list(self._rotated)[: 1 - KEPT_ROTATIONS]:
                    self._rotated.pop(old, None)
                self._rotated[key] = found
        return found

    @property
    def memory_bytes(self) -> int:
        """Memory of the arrays in bytes, cached samples included."""
        kept = sum(part.nbytes for both in list(self._rotated.values()) for part in both)
        return self.grid.nbytes + self.weights.nbytes + kept

    def sample(self, frequency_xyz: ArrayLike) -> NDArray[np.complex64]:
        """Return the spectrum at frequencies (n, 3) in units of one over the box.

        Raises
        ------
        ValueError
            If a frequency is beyond the limit.
        """
        frequency = np.ascontiguousarray(np.asarray(frequency_xyz, dtype=np.float32).T)  # (3, n)
        radius = np.sqrt((frequency.astype(np.float64) ** 2).sum(axis=0).max(initial=0.0))
        if radius > self.limit * (1 + 1e-5):
            raise ValueError(f"the spectrum was kept to {self.limit:g}, sampled at {radius:g}")
        whole = replace(self, regions=np.zeros((1, 7), np.float32), weights=np.zeros((0, 0, 0), np.float32))
        (parts,), _ = whole.turned(frequency, np.eye(3, dtype=np.float32)[None], keep=False)
        out = np.empty(len(parts[0]), dtype=np.complex64)
        out.real, out.imag = parts
        return out


def wedge_in_box(wedge: Wedge, box_angstrom: float) -> tuple[NDArray[np.float32], NDArray[np.float32], np.float32]:
    """Return a wedge's regions, weights and their scale as kernels take them, in units of one over a box."""
    regions = wedge.regions.copy()
    regions[:, 6] *= box_angstrom
    weights, scale = np.zeros((0, 0, 0), np.float32), 1.0
    if isinstance(wedge, WeightVolumeWedge):
        # A copy: numba would compile again for the type of a read-only array.
        weights, scale = np.array(wedge.weights), len(wedge.weights) * wedge.voxel_size_angstrom / box_angstrom
    return regions.astype(np.float32), weights, np.float32(scale)


def _padded_spectrum(data: NDArray[np.float32], padded: int, half: int) -> NDArray[np.complex64]:
    """Return the transform of the tapered, padded map on the cube of grid indices -half..half, shape (c, c, c).

    Padding costs nothing: DFT matrices have no columns for zeros.
    """
    spectrum = np.empty((2 * half + 1,) * 3, np.complex64)
    products = forward(np.ascontiguousarray(data, dtype=np.float32), (_tapered_dft(len(data), padded, half),) * 3)
    plane_waves(products, padded, 0, spectrum)
    return spectrum


@lru_cache(maxsize=REMEMBERED)
def _tapered_dft(box: int, padded: int, half: int) -> NDArray[np.float32]:
    taper = 1.0 / window_transform((np.arange(box) - box // 2) / padded)
    return (dft_matrices(box, period=padded, count=half) * taper).astype(np.float32)


def moved(volume: Volume, rotation_matrix: NDArray[np.float64], shift_angstrom: NDArray[np.float64]) -> Volume:
    """Rotate and shift a volume in Fourier space: tau_t Lambda_R of eq. 14, R (3, 3) on xyz, t (3,) in angstrom."""
    limit = (volume.box - 1) // 2
    index = index_grid(volume.box)
    keep = (index**2).sum(axis=-1) <= limit**2
    frequency = index[keep].astype(np.float64)  # (n, 3)
    phase = np.exp(-2j * np.pi * frequency @ shift_angstrom / volume.box_angstrom)
    spectrum = np.zeros(index.shape[:-1], dtype=np.complex128)
    spectrum[keep] = phase * FourierVolume.of(volume, limit=limit).sample(frequency @ rotation_matrix)
    return Volume(centred_ifft(spectrum).real, volume.voxel_size_angstrom)


def moved_into(
    volume: Volume, rotation_matrix: NDArray[np.float64], shift_angstrom: NDArray[np.float64], box: int
) -> Volume:
    """Rotate and shift a volume into another box, working in the larger box so that nothing is lost."""
    large = boxed(volume, max(volume.box, box))
    return boxed(moved(large, rotation_matrix, shift_angstrom), box)
