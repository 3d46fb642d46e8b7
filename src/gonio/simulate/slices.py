"""Projections of a density at many poses, quickly: central slices of one oversampled transform.

Owns the way from a density to the spectra of its projections. By the projection theorem the spectrum of an image of
pixels of size a, along the third row of the rotation M from the particle's frame to the microscope's, is

    F(k) = (h / a)^3 V(M^T (k_x, k_y, 0))             V the transform of the density sampled with voxels of size h

V is sampled at half a pixel, so that it holds the corners of the images' spectra, and interpolated as a reference's is
(``gonio.fourier.fourier_volume``); the error against exact projections is 5e-4 of their rms, and 2e-3 where a
structure's detail reaches the Nyquist frequency, which slices leave out (``tests/simulate/test_slices.py``). ``Sliced``
is a density that is projected so: a ribosome on 121 fields of 128 pixels in 0.1 s, which takes 20 atom by atom.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.fourier_volume import FourierVolume
from gonio.particle.pose import Pose
from gonio.particle.volume import MIN_BOX, ROUNDING, Volume, same_size
from gonio.simulate.phantom import Density

# Voxels of the transformed density along the edge of a pixel.
_VOXELS_A_PIXEL = 2


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
        voxel = pixel_size_angstrom / _VOXELS_A_PIXEL
        box = max(MIN_BOX, 2 * int(np.ceil(density.extent_angstrom / voxel)) + 4)
        data = density.density(Pose.identity(), box=box, voxel_size_angstrom=voxel)
        volume = Volume(data.astype(np.float32), voxel)
        limit = edge / np.sqrt(2.0)  # the corner of an image's spectrum
        return Slices(FourierVolume.of(volume, limit=limit, box=_VOXELS_A_PIXEL * edge), edge, pixel_size_angstrom)

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


@dataclass(frozen=True)
class Sliced(Density):
    """A density whose projections are slices of its transform.

    Parameters
    ----------
    exact
        The density itself.
    slices
        Its slices, on images that hold the particle wherever a pose within reach has it.
    reach_angstrom
        The largest shift of a pose.
    """

    exact: Density
    slices: Slices
    reach_angstrom: float

    @staticmethod
    def of(
        density: Density, *, shape_yx: tuple[int, int], voxel_size_angstrom: float, reach_angstrom: float = 0.0
    ) -> Sliced:
        """Prepare projections on images of one shape, of poses whose shifts are within reach."""
        held = int(np.ceil((density.extent_angstrom + reach_angstrom) / voxel_size_angstrom)) + 2
        edge = scipy.fft.next_fast_len(max(*shape_yx, 2 * held), real=True)
        while edge % 2:
            edge = scipy.fft.next_fast_len(edge + 1, real=True)
        return Sliced(density, Slices.of(density, edge=edge, pixel_size_angstrom=voxel_size_angstrom), reach_angstrom)

    @property
    def radius_angstrom(self) -> float:
        """Radius of a sphere about the box centre that holds the particle."""
        return self.exact.radius_angstrom

    @property
    def extent_angstrom(self) -> float:
        """Radius of a sphere about the box centre beyond which the density is below 1e-3 of its peak."""
        return self.exact.extent_angstrom

    def density(self, pose: Pose, *, box: int, voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return the density of the particle at ``pose`` at the voxel centres, shape (n, n, n), order (z, y, x)."""
        return self.exact.density(pose, box=box, voxel_size_angstrom=voxel_size_angstrom)

    def projections(self, poses: Pose, *, shape_yx: tuple[int, int], voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return projections along z at a batch of t poses, shape (t, y, x), centre pixel ``// 2`` of each side.

        Raises
        ------
        ValueError
            Slices were prepared for other pixels, smaller images or smaller shifts.
        """
        edge, size = self.slices.edge, self.slices.pixel_size_angstrom
        if max(shape_yx) > edge or not same_size(voxel_size_angstrom, size):
            raise ValueError(
                f"slices were prepared for {edge} pixels of {size:g} angstrom, not for {shape_yx} of"
                f" {voxel_size_angstrom:g}: prepare others with Sliced.of"
            )
        farthest = float(np.linalg.norm(poses.shift_angstrom, axis=-1).max(initial=0.0))
        if farthest > self.reach_angstrom * (1.0 + ROUNDING):
            raise ValueError(
                f"slices were prepared for shifts up to {self.reach_angstrom:g} angstrom, got {farthest:g}: prepare"
                " others with Sliced.of"
            )
        places = edge // 2 + poses.shift_angstrom[:, :2] / size
        images = self.slices.images(self.slices.spectra(poses.matrix), places)  # (t, edge, edge)
        (y, x), (height, width) = (edge // 2 - count // 2 for count in shape_yx), shape_yx
        return images[:, y : y + height, x : x + width].astype(np.float64)
