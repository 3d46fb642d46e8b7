"""From a stack and its geometry to the images that bundle adjustment compares: masked, and weighted by their noise.

Images are masked and weighted as for a comparison of the stack as a whole (``preparation.prepare``,
``fourier.spectrum``); the weights here are those of a likelihood, not relative ones. Must not know poses.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.comparison.tilt_images import TiltImages
from gonio.fourier.spectrum import image_samples, noise_power
from gonio.kernels.tilt_equations import Images
from gonio.particle.ctf import MIN_TRANSFER, Ctf, image_transfer, mean_and_astigmatism
from gonio.particle.tilt_change import StackGeometry, full_projections
from gonio.particle.tilt_series import TiltSeries
from gonio.particle.volume import TiltStack, circle_of, masked
from gonio.preparation.extent import samples_per_independent

Floats = NDArray[np.float64]


def tilt_images(
    stack: TiltStack,
    geometry: StackGeometry,
    axes: Floats,
    *,
    diameter_angstrom: float,
    limit: float,
    half_field_angstrom: float = 1.0,
    loaded: StackGeometry | None = None,
) -> TiltImages:
    """Return the samples of a stack's images up to a limit in shells, and the geometry that changes are counted from.

    Parameters
    ----------
    stack
        The stack as it is loaded: the particle is at the centre of its circle.
    geometry
        What tilts and priors are about.
    axes
        ``tilt_axes`` of the stack's images, (t, 3, 3).
    diameter_angstrom
        Diameter of the circle that holds the particle.
    half_field_angstrom
        Unit of the place that the field's deformation is linear in.
    loaded
        The geometry that the stack was loaded with, where it is another.
    """
    within = masked(stack, diameter_angstrom)
    assert isinstance(within, TiltStack)  # as the stack is
    frequency, value, transfer = image_samples(within, limit)
    order = np.argsort((frequency**2).sum(axis=1), kind="stable")
    frequency, value, transfer = frequency[order], value[:, order], transfer[:, order]
    radius = np.sqrt((frequency**2).sum(axis=1).astype(np.float64))  # (s,)
    weight = np.broadcast_to(stack.used[:, None], transfer.shape).astype(np.float64)
    trust = np.ones_like(transfer)
    if stack.ctf_premultiplied:
        kept = np.abs(transfer) > MIN_TRANSFER
        value = value / np.where(kept, transfer, 1.0)
        weight = weight * kept
        trust = transfer**2 / _blurred_power(stack, frequency, diameter_angstrom)
    white, every = value * np.sqrt(trust), np.broadcast_to(radius, transfer.shape)
    noise = noise_power(white.ravel(), transfer.ravel(), weight.ravel(), every.ravel()).reshape(transfer.shape)
    kappa = samples_per_independent(stack, diameter_angstrom)
    weight = np.divide(weight * trust, noise * kappa, out=np.zeros_like(weight), where=weight > 0)
    before, sense = full_projections(geometry.series), geometry.sense
    place = geometry.place_angstrom
    moved = 0.0 if loaded is None else loaded.offsets_angstrom - geometry.offsets_angstrom
    return TiltImages(
        kernel=Images(
            _with_angles(frequency),
            np.ascontiguousarray(np.stack([value.real, value.imag], axis=1), dtype=np.float32),  # (t, 2, s)
            _envelope(stack, geometry, frequency).astype(np.float32),
            weight.astype(np.float32),
            _lens(geometry.ctf, len(stack.images), stack.box * stack.voxel_size_angstrom),
        ),
        radius=radius,
        tilts=geometry.tilts,
        projections=before * sense,
        axes=axes,
        place_angstrom=sense * place,
        field_xy=place[:2] / half_field_angstrom,
        centre_angstrom=(before @ place)[:, :2] + moved,
        defocus=_defocus(geometry.ctf, len(stack.images)),
        defocus_per_depth=geometry.series.defocus_per_depth,
        box_angstrom=stack.box * stack.voxel_size_angstrom,
        samples_per_independent=kappa,
    )


def _blurred_power(stack: TiltStack, frequency: NDArray[np.int64], diameter_angstrom: float) -> Floats:
    """Return the squared transfer h^2 of images as their circle blurs it, at frequencies (s, 2), (t, s).

    Noise of premultiplied images has the power N h^2, blurred once they are masked; divided by h, N blur(h^2) / h^2.
    """
    n = stack.box
    axis = scipy.fft.fftfreq(n, stack.voxel_size_angstrom)
    y, x = np.meshgrid(axis, axis, indexing="ij")
    power = stack.transfer(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(-1, n, n) ** 2
    circle = circle_of(n, stack.voxel_size_angstrom, diameter_angstrom).astype(np.float64)
    overlap = scipy.fft.ifft2(np.abs(scipy.fft.fft2(circle)) ** 2)
    blurred = scipy.fft.fft2(scipy.fft.ifft2(power) * (overlap / overlap[0, 0])).real
    return np.asarray(np.maximum(blurred[:, frequency[:, 1], frequency[:, 0]], MIN_TRANSFER**2))


def tilt_axes(series: TiltSeries) -> Floats:
    """Return the tilt axis, the direction across it in the image, and the beam, as columns, (t, 3, 3).

    A rotation of the image about the first of them is a larger tilt angle, also of projections that mirror.
    """
    axis = np.radians(series.axis_deg)
    shown = series.projections_xyz @ np.array([np.cos(axis), np.sin(axis), 0.0])  # (t, 2)
    x, y = (shown / np.linalg.norm(shown, axis=1, keepdims=True)).T
    zero, one, handed = np.zeros_like(x), np.ones_like(x), np.linalg.det(full_projections(series))
    return np.stack([handed * x, -y, zero, handed * y, x, zero, zero, zero, one], axis=1).reshape(-1, 3, 3)


def _with_angles(frequency: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return rows k_x, k_y, |k|^2, cos(2 phi), sin(2 phi) of frequencies (s, 2), (5, s)."""
    x, y = frequency.T.astype(np.float64)
    square = x**2 + y**2
    return np.stack([x, y, square, (x**2 - y**2) / square, 2 * x * y / square]).astype(np.float32)


def _envelope(stack: TiltStack, geometry: StackGeometry, frequency: NDArray[np.int64]) -> Floats:
    """Return the transfer of the images without the sine, at the scale that changes are counted from, (t, s)."""
    per_angstrom = frequency / (stack.box * stack.voxel_size_angstrom)
    scale = np.ones(len(stack.images)) if geometry.series.scale is None else geometry.series.scale
    envelope = image_transfer(per_angstrom, None, scale=scale, dose=stack.dose, bfactor_per_dose=stack.bfactor_per_dose)
    if geometry.ctf is None:
        return np.asarray(np.broadcast_to(envelope, (len(scale), len(frequency))))
    bfactor = np.asarray(geometry.ctf.bfactor_angstrom2, dtype=np.float64)[..., None]
    return np.asarray(envelope * np.exp(-0.25 * bfactor * (per_angstrom**2).sum(axis=1)))


def _lens(ctf: Ctf | None, count: int, box_angstrom: float) -> NDArray[np.float32]:
    """Return l, q and c of each image for frequencies in units of one over the box, (t, 3); 0, 0, 1/4 for no lens."""
    linear, quartic, constant = (0.0, 0.0, 0.25) if ctf is None else ctf.cycles
    columns = (linear / box_angstrom**2, quartic / box_angstrom**4, constant)
    return np.stack([np.broadcast_to(column, count) for column in columns], axis=1).astype(np.float32)


def _defocus(ctf: Ctf | None, count: int) -> Floats:
    """Return underfocus and astigmatism a_1, a_2 of each image, (t, 3)."""
    if ctf is None:
        return np.zeros((count, 3))
    columns = (ctf.defocus_u_angstrom, ctf.defocus_v_angstrom, ctf.astigmatism_deg)
    return mean_and_astigmatism(np.stack([np.broadcast_to(np.asarray(one), count) for one in columns], axis=1))
