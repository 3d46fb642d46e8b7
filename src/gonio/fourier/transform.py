"""Fourier transforms of volumes: the order and centre of every FFT, resolution limits in shells, low-pass filters.

Owns the Fourier convention,

    V(k) = sum_x v(x) exp(-2 pi i k.(x - c) / n),   k integer, c = n // 2.               (docs/theory.md eq. 1)
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.grid import index_grid
from gonio.particle.arguments import ArgumentError
from gonio.particle.volume import Volume

MIN_SHELLS = 3


def centred_fft(array: NDArray[np.number]) -> NDArray[np.complexfloating]:
    """Return V(k) of an image or volume with an even or odd box, with zero frequency at ``n // 2`` of every axis."""
    return np.asarray(scipy.fft.fftshift(scipy.fft.fftn(scipy.fft.ifftshift(array))))


def centred_ifft(spectrum: NDArray[np.number]) -> NDArray[np.complexfloating]:
    """Return the image or volume of a spectrum from ``centred_fft``."""
    return np.asarray(scipy.fft.fftshift(scipy.fft.ifftn(scipy.fft.ifftshift(spectrum))))


def shell_limit(box: int, voxel_size_angstrom: float, resolution_angstrom: float | None) -> float:
    """Return the resolution limit in shells, n voxel / resolution; without a resolution the last integer shell.

    Raises
    ------
    ValueError
        If the resolution is finer than two voxels, or leaves fewer than 3 shells of the box.
    """
    nyquist = (box - 1) // 2
    limit = nyquist if resolution_angstrom is None else box * voxel_size_angstrom / resolution_angstrom
    if limit > box / 2 * (1 + 1e-6):
        raise ArgumentError(
            "{} {resolution:g} is finer than two voxels ({finest:g}); ask for less or use smaller voxels",
            "resolution_angstrom",
            resolution=resolution_angstrom,
            finest=2 * voxel_size_angstrom,
        )
    limit = min(limit, nyquist)
    if limit < MIN_SHELLS:
        raise ValueError(
            f"a box of {box} voxels of {voxel_size_angstrom:g} angstrom has {limit:.1f} Fourier shells to "
            f"{resolution_angstrom:g} angstrom, at least {MIN_SHELLS} are needed: use a larger box or a finer limit"
        )
    return float(limit)


def low_passed(volume: Volume, *, resolution_angstrom: float) -> Volume:
    """Return the volume filtered to a resolution, with a cosine edge two shells wide whose middle is at the limit."""
    shell = np.linalg.norm(index_grid(volume.box), axis=-1)
    limit = volume.box_angstrom / resolution_angstrom
    response = 0.5 + 0.5 * np.cos(np.pi * np.clip((shell - limit + 1.0) / 2.0, 0.0, 1.0))
    data = centred_ifft(centred_fft(volume.data.astype(np.float64)) * response).real
    return Volume(data, volume.voxel_size_angstrom)
