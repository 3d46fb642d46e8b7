"""Wedges: the spatial frequencies that a tilt series has measured.

Owns the geometry of the missing wedge. The beam is along z at zero tilt; the tilt axis lies in the xy plane at
``axis_deg`` from x (90, the default, is y). With a the axis and b = a x z, the image at tilt theta measures the
central plane spanned by a and d(theta) = b cos(theta) + z sin(theta): theta is the right-handed rotation of the
specimen about a.

Every analytic wedge is a union of regions between two planes,

    (u . k - h) (v . k + h) <= 0                                                         (docs/theory.md eq. 9)

a tilt range theta1..theta2 with u, v normal to its two limiting planes and h = 0; a slab of full thickness 1/D with
u = v normal to the plane and h = 1/(2D); everything with u = v = 0. Kernels take only such rows and, for measured
weights, one volume that is interpolated linearly.

Weights do not describe a volume that is a sum over tilts of transfer times image (a pseudo-subtomogram): it is
W G + noise of variance W, W the sum of squared transfers. ``SquaredTransferWedge`` is that W.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import fft
from scipy.ndimage import map_coordinates

# A frequency on the limiting plane itself counts as measured; relative to |k|^2, so that rounding does not decide.
EDGE_TOLERANCE = 1e-6


@runtime_checkable
class Wedge(Protocol):
    """The interface of a wedge that scores and averages use; a frequency is measured when it lies in any region."""

    @property
    def regions(self) -> NDArray[np.float64]:
        """Rows (u_xyz, v_xyz, h) with h in 1/angstrom, shape (w, 7)."""

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """A centred volume (z, y, x) of weights that replaces the regions, or None."""

    def weight_at(self, frequency_xyz_per_angstrom: ArrayLike) -> NDArray[np.float32]:
        """Return the weights at frequencies (..., 3) in 1/angstrom, zero where nothing was measured."""


def tilt_plane_normal(tilt_deg: ArrayLike, axis_deg: float) -> NDArray[np.float64]:
    """Return the unit normal (xyz) of the central plane that the image at ``tilt_deg`` measures, shape (..., 3)."""
    tilt = np.radians(np.asarray(tilt_deg, dtype=np.float64))
    axis = np.radians(axis_deg)
    b_xyz = np.array([np.sin(axis), -np.cos(axis), 0.0])  # a x z with a = (cos, sin, 0)
    return np.asarray(np.cos(tilt)[..., None] * np.array([0.0, 0.0, 1.0]) - np.sin(tilt)[..., None] * b_xyz)


def in_regions(frequency_xyz: NDArray[np.floating], regions: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return a mask of the frequencies (..., 3) that lie in any region (w, 7); both in one unit of frequency."""
    u = frequency_xyz @ regions[:, 0:3].T - regions[:, 6]  # (..., w)
    v = frequency_xyz @ regions[:, 3:6].T + regions[:, 6]
    square = (frequency_xyz**2).sum(axis=-1)
    inside: NDArray[np.bool_] = (u * v <= EDGE_TOLERANCE * square[..., None]).any(axis=-1)
    return inside


def _check_range(tilt_min_deg: float, tilt_max_deg: float) -> None:
    if not -90.0 <= tilt_min_deg < tilt_max_deg <= 90.0:
        raise ValueError(
            f"tilt range must satisfy -90 <= min < max <= 90 degrees, got {tilt_min_deg!r} to {tilt_max_deg!r}"
        )


class _Analytic:
    """The part of the protocol that all analytic wedges share; not a wedge by itself."""

    @property
    def regions(self) -> NDArray[np.float64]:
        raise TypeError("abstract")

    @property
    def weights(self) -> None:
        """None: this wedge is binary and analytic."""
        return None

    def weight_at(self, frequency_xyz_per_angstrom: ArrayLike) -> NDArray[np.float32]:
        """Return 1 where measured, else 0, at frequencies (..., 3) in 1/angstrom."""
        frequency = np.asarray(frequency_xyz_per_angstrom, dtype=np.float64)
        return in_regions(frequency, self.regions).astype(np.float32)


@dataclass(frozen=True)
class NoWedge(_Analytic):
    """Everything measured: a reference map, or an average of many views."""

    @property
    def regions(self) -> NDArray[np.float64]:
        """One region that holds every frequency."""
        return np.zeros((1, 7))


@dataclass(frozen=True)
class SingleAxisWedge(_Analytic):
    """A single-axis tilt series from ``tilt_min_deg`` to ``tilt_max_deg``, as if tilted continuously.

    With ``-theta`` to ``theta`` about y this is the paper's ``M = [ |k_z| <= |k_x| tan(theta) ]``.

    Parameters
    ----------
    tilt_min_deg, tilt_max_deg
        Range of the tilt angle, degrees, -90 <= min < max <= 90.
    axis_deg
        Direction of the tilt axis in the xy plane, degrees from x towards y; 90 is y.
    """

    tilt_min_deg: float
    tilt_max_deg: float
    axis_deg: float = 90.0

    def __post_init__(self) -> None:
        _check_range(self.tilt_min_deg, self.tilt_max_deg)

    @property
    def regions(self) -> NDArray[np.float64]:
        """One region between the planes of the two extreme tilts."""
        u, v = tilt_plane_normal([self.tilt_min_deg, self.tilt_max_deg], self.axis_deg)
        return np.concatenate([u, v, [0.0]])[None]


@dataclass(frozen=True)
class DualAxisWedge(_Analytic):
    """Two single-axis series of one specimen: a frequency is measured when either has measured it."""

    first: SingleAxisWedge
    second: SingleAxisWedge

    @property
    def regions(self) -> NDArray[np.float64]:
        """One region for each axis."""
        return np.concatenate([self.first.regions, self.second.regions])


@dataclass(frozen=True)
class TiltListWedge(_Analytic):
    """Separate tilts, each a slab of full thickness one over the particle diameter.

    A sample determines the transform of a particle of diameter D within 1/(2D) (Crowther et al. 1970).

    Parameters
    ----------
    tilts_deg
        Tilt angles, degrees, shape (t,), each within -90..90.
    particle_diameter_angstrom
        D; the slab's thickness is 1/D.
    axis_deg
        Direction of the tilt axis in the xy plane, degrees from x towards y; 90 is y.
    """

    tilts_deg: tuple[float, ...]
    particle_diameter_angstrom: float
    axis_deg: float = 90.0

    def __post_init__(self) -> None:
        tilts = tuple(float(tilt) for tilt in self.tilts_deg)
        if not tilts or not all(-90.0 <= tilt <= 90.0 for tilt in tilts):
            raise ValueError(f"tilts_deg must hold at least one angle, each within -90..90 degrees, got {tilts!r}")
        if not self.particle_diameter_angstrom > 0:
            raise ValueError(f"particle_diameter_angstrom must be positive, got {self.particle_diameter_angstrom!r}")
        object.__setattr__(self, "tilts_deg", tilts)

    @property
    def regions(self) -> NDArray[np.float64]:
        """One slab for each tilt."""
        normals = tilt_plane_normal(self.tilts_deg, self.axis_deg)  # (t, 3)
        half = np.full((len(normals), 1), 0.5 / self.particle_diameter_angstrom)
        return np.hstack([normals, normals, half])


@dataclass(frozen=True)
class TiltSeriesWedge(_Analytic):
    """Runs of tilts in any direction: all between the first and the last plane of each run, as if tilted continuously.

    Parameters
    ----------
    runs_xyz
        Direction of the beam in the first and in the last image of each run, pairs of unit vectors. A run of one image,
        the same vector twice, is a slab of full thickness one over the particle diameter.
    particle_diameter_angstrom
        D; a slab's thickness is 1/D.
    """

    runs_xyz: tuple[tuple[tuple[float, ...], tuple[float, ...]], ...]
    particle_diameter_angstrom: float

    def __post_init__(self) -> None:
        runs = np.asarray(self.runs_xyz, dtype=np.float64)
        if runs.ndim != 3 or runs.shape[1:] != (2, 3) or not np.allclose(np.linalg.norm(runs, axis=-1), 1.0):
            raise ValueError(f"runs_xyz must hold at least one pair of unit vectors, got {self.runs_xyz!r}")
        if not self.particle_diameter_angstrom > 0:
            raise ValueError(f"particle_diameter_angstrom must be positive, got {self.particle_diameter_angstrom!r}")
        pairs = tuple((tuple(first), tuple(last)) for first, last in runs.tolist())
        object.__setattr__(self, "runs_xyz", pairs)

    @property
    def regions(self) -> NDArray[np.float64]:
        """One region for each run."""
        runs = np.array(self.runs_xyz)  # (w, 2, 3)
        alone = (runs[:, 0] == runs[:, 1]).all(axis=1)
        half = np.where(alone, 0.5 / self.particle_diameter_angstrom, 0.0)
        return np.hstack([runs[:, 0], runs[:, 1], half[:, None]])


@dataclass(frozen=True)
class _OnGrid:
    """The part of the protocol that wedges of weights on the Fourier grid of a box share; not a wedge by itself."""

    weights: NDArray[np.float32]
    voxel_size_angstrom: float

    @property
    def regions(self) -> NDArray[np.float64]:
        """No region: the weights replace them."""
        return np.zeros((0, 7))

    def weight_at(self, frequency_xyz_per_angstrom: ArrayLike) -> NDArray[np.float32]:
        """Return the weights, interpolated linearly, at frequencies (..., 3) in 1/angstrom; zero outside the grid."""
        frequency, n = np.asarray(frequency_xyz_per_angstrom, dtype=np.float64), len(self.weights)
        index_zyx = np.moveaxis(frequency[..., ::-1], -1, 0) * (n * self.voxel_size_angstrom) + n // 2
        return np.asarray(map_coordinates(self.weights, index_zyx, order=1, mode="constant", cval=0.0), np.float32)

    def _checked(self, name: str) -> NDArray[np.float32]:
        """Return a copy of the weights, after a check of their shape and of the voxel size."""
        weights = np.array(self.weights, dtype=np.float32)
        if weights.ndim != 3 or len(set(weights.shape)) != 1:
            raise ValueError(f"{name} must be a cube of shape (n, n, n), got {weights.shape}")
        if not self.voxel_size_angstrom > 0:
            raise ValueError(f"voxel_size_angstrom must be positive, got {self.voxel_size_angstrom!r}")
        return weights


@dataclass(frozen=True)
class WeightVolumeWedge(_OnGrid):
    """Measured weights on the Fourier grid of a box: zero frequency at ``n // 2``, order (z, y, x).

    Parameters
    ----------
    weights
        Shape (n, n, n), finite, not negative, zero where nothing was measured; stored divided by their maximum.
    voxel_size_angstrom
        Voxel size of the box whose Fourier transform the grid belongs to: neighbours are 1/(n voxel) apart.
    """

    def __post_init__(self) -> None:
        weights = self._checked("weights")
        if not np.isfinite(weights).all() or weights.min() < 0 or weights.max() <= 0:
            raise ValueError("weights must be finite, not negative and not all zero")
        weights /= weights.max()
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)


@dataclass(frozen=True)
class SquaredTransferWedge(_OnGrid):
    """Sums of squared transfers W: the factor of the particle in a premultiplied volume, and the variance of its noise.

    Such a volume is D = W G + noise of variance W, with G the particle (RELION's pseudo-subtomograms).

    Parameters
    ----------
    weights
        W on the Fourier grid of the volume, shape (n, n, n), order (z, y, x), zero frequency at ``n // 2``; finite, not
        negative. At zero frequency, which is not used, it is set to zero.
    voxel_size_angstrom
        Voxel size of the volume.
    """

    def __post_init__(self) -> None:
        weights = self._checked("squared transfers")
        if not np.isfinite(weights).all() or weights.min() < 0:
            raise ValueError(f"squared transfers must be finite and not negative, the lowest is {weights.min():.3g}")
        weights[(len(weights) // 2,) * 3] = 0.0
        if not weights.any():
            raise ValueError("squared transfers must not be all zero: nothing was measured")
        weights.setflags(write=False)
        object.__setattr__(self, "weights", weights)

    @property
    def point_spread(self) -> NDArray[np.float32]:
        """Inverse Fourier transform of the sums, centre voxel ``n // 2``, shape (n, n, n)."""
        return np.asarray(fft.fftshift(fft.ifftn(fft.ifftshift(self.weights)).real), dtype=np.float32)
