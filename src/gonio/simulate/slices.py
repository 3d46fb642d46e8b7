"""Projections of a density at many poses, quickly: central slices of one oversampled transform.

Owns the way from a density to the spectra of its projections. By the projection theorem the spectrum of an image of
pixels of size a, along the third row of the rotation M from the particle's frame to the microscope's, is

    F(k) = (h / a)^3 V(M^T (k_x, k_y, 0))             V the transform of the density sampled with voxels of size h

V is sampled at half a pixel, so that it holds the corners of the images' spectra, and interpolated as a reference's is
(``gonio.fourier.fourier_volume``); the error against exact projections is 4e-4 of their rms
(``tests/test_simulated_series.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.fourier_volume import FourierVolume
from gonio.particle.pose import Pose
from gonio.particle.volume import MIN_BOX, Volume
from gonio.simulate.phantom import Density

# Voxels of the transformed density along the edge of a pixel.
VOXELS_A_PIXEL = 2


@dataclass(frozen=True)
class Slices:
    """The spectra of a density's projections on square images.

    Parameters
    ----------
    volume
        The oversampled transform, in units of one over the edge of an image.
    edge
        Pixels along an edge of an image, even.
    pixel_size_angstrom
        Size of a pixel.
    """

    volume: FourierVolume
    edge: int
    pixel_size_angstrom: float

    @staticmethod
    def of(density: Density, *, edge: int, pixel_size_angstrom: float) -> Slices:
        """Return the slices of a density for images of ``edge`` pixels."""
        if edge % 2:
            raise ValueError(f"edge must be even, got {edge!r}")
        voxel = pixel_size_angstrom / VOXELS_A_PIXEL
        box = max(MIN_BOX, 2 * int(np.ceil(density.radius_angstrom / voxel)) + 4)
        data = density.density(Pose.identity(), box=box, voxel_size_angstrom=voxel)
        volume = Volume(data.astype(np.float32), voxel)
        limit = edge / np.sqrt(2.0)  # the corner of an image's spectrum
        return Slices(FourierVolume.of(volume, limit=limit, box=VOXELS_A_PIXEL * edge), edge, pixel_size_angstrom)

    @property
    def frequencies_per_angstrom(self) -> NDArray[np.float64]:
        """Frequencies of the spectra, (edge (edge // 2 + 1), 2), xy."""
        return image_frequencies(self.edge) / (self.edge * self.pixel_size_angstrom)

    def spectra(self, matrices: NDArray[np.float64]) -> NDArray[np.complex64]:
        """Return spectra about the particle's centre, (p, edge, edge // 2 + 1) in the order of ``rfft2``.

        Parameters
        ----------
        matrices
            M, from the particle's frame to the microscope's, shape (p, 3, 3).
        """
        index = image_frequencies(self.edge)
        frequency = np.zeros((3, len(index)), np.float32)
        frequency[:2] = index.T
        rotations = np.ascontiguousarray(matrices, dtype=np.float32)
        (values, _) = self.volume.turned(frequency, rotations, keep=False)  # (p, 2, n)
        gain = np.float32((self.volume.voxel_size_angstrom / self.pixel_size_angstrom) ** 3)
        inside = (np.abs(index) < self.edge / 2).all(axis=1)  # -n / 2 has no partner
        spectra = (values[:, 0] + 1j * values[:, 1]) * (gain * inside)
        return spectra.astype(np.complex64).reshape(len(rotations), self.edge, -1)  # (p, edge, edge // 2 + 1)

    def images(self, spectra: NDArray[np.complexfloating], positions_px: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return images whose centre of the particle lies at positions (p, 2), xy, from the first pixel, (p, y, x)."""
        index = image_frequencies(self.edge).reshape(self.edge, -1, 2)
        x = _phases(positions_px[:, 0], index[0, :, 0], self.edge)
        y = _phases(positions_px[:, 1], index[:, 0, 1], self.edge)
        moved = spectra * y[:, :, None] * x[:, None, :]
        return scipy.fft.irfft2(moved, s=(self.edge, self.edge)).astype(np.float32)


def image_frequencies(edge: int) -> NDArray[np.float64]:
    """Return frequencies of ``rfft2`` in units of one over the edge, xy, shape (edge (edge // 2 + 1), 2)."""
    y, x = np.fft.fftfreq(edge, 1.0 / edge), np.fft.rfftfreq(edge, 1.0 / edge)
    return np.stack(np.broadcast_arrays(x, y[:, None]), axis=-1).reshape(-1, 2)


def _phases(position: NDArray[np.float64], index: NDArray[np.float64], edge: int) -> NDArray[np.complex64]:
    return np.exp(-2j * np.pi / edge * position[:, None] * index).astype(np.complex64)  # (p, k)
