"""Pseudo-subtomograms of tilt stacks, as RELION makes them: sums over tilts of transfer times image, and of its square.

    D(k) = sum_i sum_s b(k - k_s) c_i(s) F_i(s),     W(k) = sum_i sum_s b(k - k_s) c_i(s)^2

with k_s where sample s of image i lies in the particle's transform, b the trilinear weight of a whole frequency and c
the transfer (RELION 5, src/jaz/tomography/programs/subtomo.cpp). Written for comparison with gonio's own insertion, of
which it shares nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gonio.particle.ctf import dose_decay
from gonio.particle.volume import TiltStack

# RELION cuts images to the largest circle of the box, with so soft an edge.
CIRCLE_EDGE_PX = 5.0


def sums_of(stack: TiltStack) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Data (n, n, n) in real space, and the sums of squares (n, n, n) with zero frequency at n // 2.

    Spreading multiplies densities by the transform of b. As RELION does, that is divided out of the images, before.
    """
    n = stack.box
    index = np.arange(n) - n // 2
    ky, kx = np.meshgrid(index, index, indexing="ij")
    inside = kx**2 + ky**2 < (n // 2) ** 2
    frequency = np.stack([kx[inside], ky[inside]], axis=-1)  # (s, 2)
    radius = np.hypot(ky, kx) / n  # in real space, in boxes
    circle = 0.5 - 0.5 * np.cos(np.pi * np.clip((0.5 - radius) * n / CIRCLE_EDGE_PX, 0.0, 1.0))
    places, signals, weights = [], [], []
    for image, rows, transfer, used in zip(
        stack.images, stack.projections_xyz, _transfers(stack, frequency), stack.used, strict=True
    ):
        if not used:
            continue
        summed = _transform(image) if stack.ctf_premultiplied else _multiplied(image, inside, transfer)
        image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(summed))).real
        corrected = image * circle / np.sinc(radius) ** 2
        places.append(frequency @ rows)
        signals.append(_transform(corrected)[inside])
        weights.append(transfer**2)
    data, squares = _spread(np.concatenate(places), np.concatenate(signals), np.concatenate(weights), n)
    density = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(data))).real
    return density.astype(np.float32), squares.astype(np.float32)


def corners_first(squares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums of squares as RELION writes them: half a transform, zero frequency in the corner, (n, n, n // 2 + 1)."""
    return np.ascontiguousarray(np.fft.ifftshift(squares)[..., : len(squares) // 2 + 1])


def _transfers(stack: TiltStack, frequency: NDArray) -> NDArray[np.float64]:
    """CTF times scale times decay with dose, (t, s)."""
    per_angstrom = frequency / (stack.box * stack.voxel_size_angstrom)
    transfer = np.ones((len(stack.images), len(frequency)))
    if stack.ctf is not None:
        transfer = transfer * stack.ctf.transfer(per_angstrom)
    if stack.scale is not None:
        transfer = transfer * stack.scale[:, None]
    if stack.dose is not None:
        transfer = transfer * dose_decay(np.linalg.norm(per_angstrom, axis=-1), stack.dose)
    return transfer


def _transform(image: NDArray) -> NDArray[np.complex128]:
    return np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image.astype(np.float64))))


def _multiplied(image: NDArray, inside: NDArray[np.bool_], transfer: NDArray) -> NDArray[np.complex128]:
    spectrum = np.zeros(image.shape, np.complex128)
    spectrum[inside] = transfer * _transform(image)[inside]
    return spectrum


def _spread(place_xyz: NDArray, signal: NDArray, square: NDArray, n: int) -> tuple[NDArray, NDArray]:
    """Sums of samples at places (s, 3) in index units over the eight whole frequencies about each, (n, n, n) each."""
    data, squares = np.zeros(n**3, np.complex128), np.zeros(n**3)
    low = np.floor(place_xyz).astype(int)
    rest = place_xyz - low
    for corner in np.ndindex(2, 2, 2):
        near = low + corner + n // 2  # (s, 3) xyz
        weight = np.prod(np.where(corner, rest, 1.0 - rest), axis=1)
        held = ((near >= 0) & (near < n)).all(axis=1)
        flat = (near[held, 2] * n + near[held, 1]) * n + near[held, 0]
        data += np.bincount(flat, (weight * signal.real)[held], n**3)
        data += 1j * np.bincount(flat, (weight * signal.imag)[held], n**3)
        squares += np.bincount(flat, (weight * square)[held], n**3)
    return data.reshape(n, n, n), squares.reshape(n, n, n)
