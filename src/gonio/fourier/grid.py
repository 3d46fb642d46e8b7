"""The integer frequencies of a box: spectra up to a limit, and the samples that a wedge has measured.

    V(k) = sum_x v(x) exp(-2 pi i k.(x - c) / n),   k integer, c = n // 2,               (docs/theory.md eq. 1)

Few samples of a box are below a limit, so they are computed as three small matrix products, one axis after the other,
and what depends only on box, limit and wedge is cached. Must not know what the samples are used for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property, lru_cache, wraps
from typing import TypeVar

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.kernels.dft import dft_matrices, forward, plane_waves
from gonio.particle.volume import Subtomogram
from gonio.particle.wedge import SquaredTransferWedge, Wedge

T = TypeVar("T")
RealArray = NDArray[np.floating] | NDArray[np.integer]

# Combinations of box, limit and wedge that are cached: particles of one set have a few of each.
REMEMBERED = 32
# Samples with a smaller fraction of their signal are left out: as much leaks into them from their neighbours.
# Errors of `sharp`, `pseudo_symmetric` and `four_gaussians` against a noise-free map, +-40, SNR 0.5, are 0.69, 0.92 and
# 1.80 degrees rms; with the wedge's own edge 0.86, 1.29 and 2.38; with a least fraction of 0.1 they are 0.70, 0.95 and
# 1.84, but larger at +-60.
LEAST_REACH = 0.3
# Samples of premultiplied volumes whose squared transfer is below this fraction of their shell's mean are left out:
# division by so small a transfer leaves mainly leakage.
LEAST_TRANSFER = 0.02
# Shells beyond the limit that smear into it.
MARGIN = 3
# A sample at the limit is within it despite rounding.
WITHIN = 1 + 1e-6
NOTHING_MEASURED = "no Fourier sample below the resolution limit was measured: check wedge and limit"


def index_grid(box: int, *, dimensions: int = 3) -> NDArray[np.int64]:
    """Return integer coordinates relative to the centre, xyz in the last axis, shape (n, ..., n, dimensions)."""
    axis = np.arange(box) - box // 2
    return np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij")[::-1], axis=-1)


def in_friedel_half(index_xyz: NDArray[np.number]) -> NDArray[np.bool_]:
    """Return a mask (...) of frequencies (..., d) that chooses one of each pair k, -k, and not k = 0."""
    chosen = np.zeros(index_xyz.shape[:-1], dtype=bool)
    for axis in range(index_xyz.shape[-1]):
        chosen = (index_xyz[..., axis] > 0) | ((index_xyz[..., axis] == 0) & chosen)
    return chosen


def shell_means(total: RealArray, count: RealArray, radius: RealArray) -> NDArray[np.float64]:
    """Return means total / count of shells 0, 1, ..., (s,) each, at distances from zero frequency, linear in between.

    Shells with a count of zero are interpolated between their neighbours.
    """
    counted = np.flatnonzero(count > 0)
    return np.interp(radius, counted, total[counted] / count[counted])


def low_spectrum(data: NDArray[np.float32], limit: float) -> NDArray[np.complex64]:
    """Return V(k) for integer k up to a limit along each axis, k_z >= 0, as three products with small matrices.

    Parameters
    ----------
    data
        A volume, shape (n, n, n), float32; best without its mean, which affects only k = 0.
    limit
        In units of one over the box.

    Returns
    -------
    Shape (l + 1, 2 l + 1, 2 l + 1), order (z, y, x), l the integer part of the limit; zero frequency at (0, l, l).
    """
    n, half = len(data), _whole(limit)
    side = 2 * half + 1
    spectrum = np.empty((half + 1, side, side), np.complex64)
    plane_waves(
        forward(np.ascontiguousarray(data, dtype=np.float32), (dft_matrices(n, period=n, count=half),) * 3),
        n,
        half,
        spectrum,
    )
    return spectrum


def _whole(limit: float) -> int:
    """Return the last integer shell, allowing for a limit that is a rounding error below the intended one."""
    return int(np.floor(limit * (1 + 1e-9)))


@dataclass(frozen=True)
class Places:
    """The samples of ``low_spectrum`` that a wedge has measured, shared by all subtomograms with that wedge.

    ``place`` (n,) are flat indices. ``reach`` (n,) is what each sample is divided by: the fraction of its signal that
    is left in the box, 1 except near the wedge's edge, or in premultiplied volumes the standard deviation of its noise.
    The other arrays are those of ``Spectrum``, in the order with k_x running fastest.
    """

    place: NDArray[np.int64]
    reach: NDArray[np.float32]
    frequency_xyz: NDArray[np.float32]
    transfer: NDArray[np.float32]
    weight: NDArray[np.float32]
    box: int
    voxel_size_angstrom: float
    limit: float

    @cached_property
    def shell(self) -> NDArray[np.int64]:
        """Shell of each sample, round(abs(k)), shape (n,)."""
        return np.asarray(np.rint(np.linalg.norm(self.frequency_xyz.astype(np.float64), axis=0)), dtype=np.int64)

    @staticmethod
    def of(subtomogram: Subtomogram, limit: float) -> Places:
        """Return the samples that the wedge has measured, with their weights; cached where the wedge is hashable.

        Raises
        ------
        ValueError
            If nothing was measured below the limit.
        """
        return remembered(_places, subtomogram.wedge, subtomogram.box, subtomogram.voxel_size_angstrom, limit)

    @staticmethod
    def as_imaged(subtomogram: Subtomogram, limit: float) -> Places:
        """Return the samples of a box that was cropped from a reconstruction after filtering by its wedge.

        The crop smears the wedge's edge over one sample: a sample keeps a fraction of its signal (docs/theory.md
        eq. 33), and the same fraction of the noise's power. Samples that keep little are left out. A wedge of weights
        gives the weights of its samples itself.
        """
        if subtomogram.wedge.weights is not None:
            return Places.of(subtomogram, limit)
        return remembered(_smeared_places, subtomogram.wedge, subtomogram.box, subtomogram.voxel_size_angstrom, limit)

    def values(self, low: NDArray[np.complex64]) -> NDArray[np.complex64]:
        """Return the values of ``low_spectrum`` volumes (..., l + 1, 2 l + 1, 2 l + 1) at these places, (..., n)."""
        return low.reshape(*low.shape[:-3], -1)[..., self.place]


def remembered(function: Callable[..., T], wedge: Wedge, *others: object) -> T:
    """Call a cached function (``lru_cache``), without the cache where the wedge has weights and so no hash."""
    hashable = wedge.weights is None and isinstance(wedge, Hashable)
    return function(wedge, *others) if hashable else function.__wrapped__(wedge, *others)  # type: ignore[attr-defined]


@lru_cache(maxsize=REMEMBERED)
def _places(wedge: Wedge, box: int, voxel_size_angstrom: float, limit: float) -> Places:
    frequency, _ = _ball(limit)
    weight = wedge.weight_at(frequency / (box * voxel_size_angstrom))
    kept, one = weight > 0, np.ones_like(weight)
    if not isinstance(wedge, SquaredTransferWedge):
        return _kept_places(kept, (one, one, weight), box, voxel_size_angstrom, limit)
    shell = np.rint(np.linalg.norm(frequency, axis=1)).astype(int)
    kept &= weight >= LEAST_TRANSFER * (np.bincount(shell, weight) / np.maximum(np.bincount(shell), 1))[shell]
    # D / sqrt(W) = sqrt(W) G + white noise.
    root = np.sqrt(weight)
    return _kept_places(kept, (root, root, one), box, voxel_size_angstrom, limit)


@lru_cache(maxsize=REMEMBERED)
def _smeared_places(wedge: Wedge, box: int, voxel_size_angstrom: float, limit: float) -> Places:
    reach = _signal_left(wedge, box * voxel_size_angstrom, _ball(limit)[0])
    columns = reach, np.ones_like(reach), reach
    return _kept_places(reach >= LEAST_REACH, columns, box, voxel_size_angstrom, limit)


def _kept_places(
    kept: NDArray[np.bool_],
    columns: tuple[NDArray[np.float32], ...],
    box: int,
    voxel_size_angstrom: float,
    limit: float,
) -> Places:
    """Return the places of the ball where ``kept`` is true, with columns of their reach, transfer and weight."""
    if not kept.any():
        raise ValueError(NOTHING_MEASURED)
    frequency, place = _ball(limit)
    frequency_xyz = np.ascontiguousarray(frequency[kept].T, dtype=np.float32)  # (3, n)
    reach, transfer, weight = (column[kept] for column in columns)
    return Places(place[kept], reach, frequency_xyz, transfer, weight, box, voxel_size_angstrom, limit)


def _signal_left(wedge: Wedge, box_angstrom: float, frequency: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the fraction of signal in each sample (n,) of a cropped box at integer frequencies (n, 3), by eq. 33.

    It is the convolution of the wedge with the square of the box's transform, at half steps: in real space a product
    with the box's autocorrelation, a triangle along each axis.
    """
    m = 2 * (int(np.abs(frequency).max()) + MARGIN)
    whole, half = scipy.fft.fftfreq(2 * m, 0.5 / m), scipy.fft.rfftfreq(2 * m, 0.5 / m)
    z, y, x = np.meshgrid(whole, whole, half, indexing="ij")
    measured = wedge.weight_at(np.stack([x, y, z], axis=-1) / (2.0 * box_angstrom)) > 0
    triangle = 1.0 - np.abs(scipy.fft.fftfreq(2 * m, 0.5 / m)) / m
    response = scipy.fft.irfftn(measured.astype(np.float64), s=(2 * m,) * 3)
    smeared = scipy.fft.rfftn(response * triangle[:, None, None] * triangle[:, None] * triangle).real
    x, y, z = (2 * frequency * np.where(frequency[:, :1] < 0, -1, 1)).T  # k and -k are alike
    return np.asarray(smeared[z, y, x], dtype=np.float32)


@lru_cache(maxsize=REMEMBERED)
def _ball(limit: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return frequencies (n, 3) of a Friedel half of the ball below a limit, and their indices in ``low_spectrum``."""
    half = _whole(limit)
    axis = np.arange(-half, half + 1)
    z, y, x = np.meshgrid(axis[half:], axis, axis, indexing="ij")
    index = np.stack([x, y, z], axis=-1)  # (z, y, x, 3)
    keep = in_friedel_half(index) & ((index**2).sum(axis=-1) <= limit**2 * (1 + 1e-9))
    return index[keep], np.flatnonzero(keep)


class _ByIdentity:
    """Hash key of an array that is compared by identity: particles of a set share one array of frequencies.

    The key holds the array, so that no other array gets its id while the key is in a cache.
    """

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = array

    def __hash__(self) -> int:
        return id(self.array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByIdentity) and other.array is self.array


def _cached_by_identity(function: Callable[..., T]) -> Callable[..., T]:
    """Cache a function's results by the identity of its first argument, an array, and by the others."""
    cached = lru_cache(maxsize=REMEMBERED)(lambda key, *others: function(key.array, *others))
    return wraps(function)(lambda array, *others: cached(_ByIdentity(array), *others))


@_cached_by_identity
def by_radius(frequency_xyz: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the order (n,) of frequencies (3, n) by their distance from zero, and the sorted distances (n,)."""
    radius = np.linalg.norm(frequency_xyz.astype(np.float64), axis=0)
    order = np.argsort(radius, kind="stable")
    return order, radius[order]


@_cached_by_identity
def inside(frequency_xyz: NDArray[np.float32], limit: float) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return a mask (n,) of the frequencies (3, n) within a limit, and these (3, k)."""
    keep = np.linalg.norm(frequency_xyz.astype(np.float64), axis=0) <= limit * WITHIN
    return keep, np.ascontiguousarray(frequency_xyz[:, keep])
