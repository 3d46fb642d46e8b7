"""Whole tomograms of tilt images, by weighted back-projection about the tilt axis y.

With P_i, s_i and w_i the projection, the shift and the angle that tilt i represents,

    V(p) = sum_i w_i (r * g_i)(P_i p + s_i)            r the ramp filter |k.d| across the tilt axis of image i

for frequencies |k| that voxels can show. It is the sum of ``gonio.simulate.microscope.back_project`` for images whose
axis has any direction and that are shifted, and for a slab in place of a cube. Images keep their CTF.
"""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, spline_filter

from gonio.particle.tilt_series import TiltSeries
from gonio.simulate.microscope import tilt_weights

_AXIS = np.array([0.0, 1.0, 0.0])


def reconstructed(
    images: NDArray[np.float32],
    series: TiltSeries,
    *,
    pixel_size_angstrom: float,
    shape_zyx: tuple[int, int, int],
    binning: int = 1,
) -> NDArray[np.float32]:
    """Return the tomogram of aligned tilt images.

    Parameters
    ----------
    images
        Shape (t, y, x), the centre pixel ``// 2``.
    series
        Their geometry: tilts increase, about the tomogram's y axis.
    shape_zyx, binning
        Shape of the tomogram, whose centre is voxel ``// 2``, and pixels along the edge of a voxel.
    """
    z, y, x = ((np.arange(count) - count // 2) * binning * pixel_size_angstrom for count in shape_zyx)
    weights = tilt_weights(series.tilts_deg)
    volume = np.zeros(shape_zyx, np.float32)
    assert series.shifts_angstrom is not None  # a series with its alignment
    centre = np.array(images.shape[2:0:-1]) // 2  # xy
    for image, matrix, shift, weight in zip(
        images, series.projections_xyz, series.shifts_angstrom, weights, strict=True
    ):
        filtered = spline_filter(weight * _ramp_filtered(image, matrix @ _AXIS, binning), order=3, mode="constant")
        # The place of each voxel in the image is a sum of what x, y and z add.
        start = shift / pixel_size_angstrom + centre
        across = (matrix[:, 0, None] * x / pixel_size_angstrom)[:, None, :]  # (2, 1, x)
        along = (matrix[:, 1, None] * y / pixel_size_angstrom)[:, :, None] + start[:, None, None]  # (2, y, 1)
        plane = (across + along)[::-1]  # yx
        for section, height in zip(volume, z / pixel_size_angstrom, strict=True):
            place = plane + (matrix[::-1, 2] * height)[:, None, None]
            section += map_coordinates(filtered, place, order=3, mode="constant", prefilter=False)
    return volume


def _ramp_filtered(image: NDArray[np.float32], axis_xy: NDArray[np.float64], binning: int) -> NDArray[np.float64]:
    """Return an image filtered by |k.d|, d across its tilt axis, and by the Nyquist frequency of the voxels."""
    shape = [scipy.fft.next_fast_len(2 * count, real=True) for count in image.shape]  # nothing comes round the edge
    ky, kx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    ramp = np.abs(kx * axis_xy[1] - ky * axis_xy[0]) / np.linalg.norm(axis_xy)
    ramp[np.hypot(kx, ky) > 0.5 / binning] = 0.0
    spectrum = scipy.fft.rfft2(image.astype(np.float64) - image.mean(dtype=np.float64), s=shape)
    filtered: NDArray[np.float64] = scipy.fft.irfft2(spectrum * ramp, s=shape)
    return filtered[: image.shape[0], : image.shape[1]]
