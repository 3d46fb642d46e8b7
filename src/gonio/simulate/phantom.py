"""Phantoms: particles made of a few Gaussians, known exactly at any pose.

Owns the analytic density, projection and Fourier transform of a sum of anisotropic Gaussians, and the protocol of a
simulated particle (``Density``). A Gaussian of amplitude A, centre c and covariance C moved by x' = R x + t keeps its
form, with centre R c + t and covariance R C R^T, so no grid is ever rotated. Its line integral along z is

    A sqrt(2 pi det C / det C2) exp(-(q - c2)^T C2^-1 (q - c2) / 2)            C2, c2: the x and y parts of C and c

Knows nothing of microscopes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.pose import Pose

# A particle's radius reaches this many standard deviations beyond a Gaussian's centre (95 % of it along a line).
RADIUS_IN_SDS = 2.0
# A box for its transform reaches this far: half as much loses 5 % of the density of ``four_gaussians``.
EXTENT_IN_SDS = 4.0
REFERENCE_BOX = 32

# Peak, centre xyz, standard deviations xyz; voxels of a box of 32. Not from the paper: `sharp` has detail near the
# resolution limit, `pseudo_symmetric` nearly repeats itself after 180 degrees (correlation 0.80 at 177).
SHARP = (
    (1.3, (-2.5, 1.0, -1.0), (1.4, 1.4, 2.5)),
    (1.5, (-0.5, -3.5, -5.0), (2.5, 2.0, 1.3)),
    (1.2, (3.5, -2.5, 6.0), (1.4, 1.4, 2.1)),
    (1.1, (-1.5, 2.5, 5.5), (2.4, 2.2, 1.7)),
)
PSEUDO_SYMMETRIC = (
    (1.0, (5.5, 0.0, -1.0), (3.2, 2.2, 2.2)),
    (0.8, (-2.0, 5.0, 1.0), (2.2, 3.0, 2.2)),
    (0.9, (-2.5, -3.0, 4.5), (2.2, 2.4, 3.1)),
    (1.1, (-1.5, -2.5, -4.5), (2.4, 2.4, 2.2)),
)


@runtime_checkable
class Density(Protocol):
    """A rigid particle that can be evaluated exactly at any pose, such as ``Phantom`` and ``Structure``."""

    @property
    def radius_angstrom(self) -> float:
        """Radius of a sphere about the box centre that holds the particle."""
        ...

    @property
    def extent_angstrom(self) -> float:
        """Radius of a sphere about the box centre beyond which the density is below 1e-3 of its peak."""
        ...

    def density(self, pose: Pose, *, box: int, voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return the density of the particle at ``pose`` at the voxel centres, shape (n, n, n), order (z, y, x)."""
        ...

    def projection(self, pose: Pose, *, box: int, voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return the line integral along z over the voxel size, shape (n, n), order (y, x)."""
        batch = Pose.stack([pose])
        return self.projections(batch, shape_yx=(box, box), voxel_size_angstrom=voxel_size_angstrom)[0]

    def projections(self, poses: Pose, *, shape_yx: tuple[int, int], voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return projections at a batch of t poses on images of any shape: (t, y, x)."""
        ...


def grid_angstrom(count: int, voxel_size_angstrom: float) -> NDArray[np.float64]:
    """Return the voxel centres along one axis, angstrom, zero at ``count // 2``, shape (count,)."""
    return (np.arange(count, dtype=np.float64) - count // 2) * voxel_size_angstrom


@dataclass(frozen=True)
class Phantom(Density):
    """A sum of g Gaussians ``A exp(-(x - c)^T C^-1 (x - c) / 2)``, in angstrom from the centre of the box.

    Sampling is by point evaluation: keep standard deviations above about one voxel, or the samples alias.

    Parameters
    ----------
    amplitudes
        A, shape (g,).
    centres_xyz_angstrom
        c, shape (g, 3).
    covariances_angstrom2
        C, shape (g, 3, 3), symmetric and positive definite.
    box, voxel_size_angstrom
        Box and voxel size that it was made to fill, defaults of an ``Imaging``; None for any.

    Raises
    ------
    ValueError
        Shapes that do not fit, values that are not finite, or a covariance that is not positive definite.
    """

    amplitudes: NDArray[np.float64]
    centres_xyz_angstrom: NDArray[np.float64]
    covariances_angstrom2: NDArray[np.float64]
    box: int | None = None
    voxel_size_angstrom: float | None = None

    def __post_init__(self) -> None:
        count = np.size(self.amplitudes)
        for name, shape in (
            ("amplitudes", (count,)),
            ("centres_xyz_angstrom", (count, 3)),
            ("covariances_angstrom2", (count, 3, 3)),
        ):
            object.__setattr__(self, name, _checked(getattr(self, name), name, shape))
        _check_positive_definite(self.covariances_angstrom2)

    @staticmethod
    def from_standard_deviations(amplitudes: ArrayLike, centres_xyz: ArrayLike, *, sds_xyz: ArrayLike) -> Phantom:
        """Make Gaussians with axes along x, y, z; centres and standard deviations in angstrom, shape (g, 3)."""
        variances = np.asarray(sds_xyz, dtype=np.float64) ** 2
        return Phantom(np.asarray(amplitudes), np.asarray(centres_xyz), variances[:, :, None] * np.eye(3))

    @staticmethod
    def named(name: str, *, box: int, voxel_size_angstrom: float) -> Phantom:
        """Make one of ``PHANTOM_NAMES``, scaled to fill a box of ``box`` voxels.

        ``four_gaussians`` is the paper's figure 2a as far as the paper states it; ``sharp`` has detail near the
        resolution limit; ``pseudo_symmetric`` nearly repeats itself after a rotation of 180 degrees. The last two have
        their centre of mass at the box centre, the first does not.

        Raises
        ------
        ValueError
            The name is none of these.
        """
        if name not in _BUILDERS:
            raise ValueError(f"name must be one of {', '.join(PHANTOM_NAMES)}, got {name!r}")
        return replace(_BUILDERS[name](box, voxel_size_angstrom), box=box, voxel_size_angstrom=voxel_size_angstrom)

    def unframed(self) -> Phantom:
        """Return the particle in its size, for imaging with any box and voxel size."""
        return replace(self, box=None, voxel_size_angstrom=None)

    @property
    def masses(self) -> NDArray[np.float64]:
        """Integral of each Gaussian, shape (g,)."""
        return self.amplitudes * np.sqrt((2.0 * np.pi) ** 3 * np.linalg.det(self.covariances_angstrom2))

    @property
    def centre_of_mass_xyz_angstrom(self) -> NDArray[np.float64]:
        """Centre of mass, shape (3,)."""
        masses = self.masses
        return masses @ self.centres_xyz_angstrom / masses.sum()

    @property
    def radius_angstrom(self) -> float:
        """Radius about the box centre that holds every Gaussian out to two of its largest standard deviations."""
        return self._reach(RADIUS_IN_SDS)

    @property
    def extent_angstrom(self) -> float:
        """Radius about the box centre that holds every Gaussian out to four of its largest standard deviations."""
        return self._reach(EXTENT_IN_SDS)

    def _reach(self, in_sds: float) -> float:
        sds = np.sqrt(np.linalg.eigvalsh(self.covariances_angstrom2)[:, -1])
        return float((np.linalg.norm(self.centres_xyz_angstrom, axis=1) + in_sds * sds).max())

    def moved(self, pose: Pose) -> Phantom:
        """Return the particle moved by a single ``pose``."""
        matrix = pose.matrix
        covariances = matrix @ self.covariances_angstrom2 @ matrix.T
        return replace(
            self, centres_xyz_angstrom=pose.apply(self.centres_xyz_angstrom), covariances_angstrom2=covariances
        )

    def centred(self) -> Phantom:
        """Return the particle moved so that its centre of mass is at the box centre."""
        return self.moved(Pose(Rotation.identity(), -self.centre_of_mass_xyz_angstrom))

    def density(self, pose: Pose, *, box: int, voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return the density of the particle at ``pose`` at the voxel centres, shape (n, n, n), order (z, y, x)."""
        at_pose = self.moved(pose)
        precision = np.linalg.inv(at_pose.covariances_angstrom2)  # (g, 3, 3)
        # Each z slice of a Gaussian is a 2-D Gaussian whose peak has moved: exponent k + b.q - q Q q / 2 about c2.
        dz = grid_angstrom(box, voxel_size_angstrom)[:, None] - at_pose.centres_xyz_angstrom[:, 2]  # (z, g)
        coefficients = _plane_coefficients(
            np.broadcast_to(at_pose.centres_xyz_angstrom[:, :2], (*dz.shape, 2)),
            np.broadcast_to(precision[:, :2, :2], (*dz.shape, 2, 2)),
            slope=-precision[:, :2, 2] * dz[..., None],
            offset=-0.5 * precision[:, 2, 2] * dz**2,
        )
        heights = np.broadcast_to(self.amplitudes, dz.shape)
        return _sum_planes(heights, coefficients, shape_yx=(box, box), voxel_size_angstrom=voxel_size_angstrom)

    def projections(self, poses: Pose, *, shape_yx: tuple[int, int], voxel_size_angstrom: float) -> NDArray[np.float64]:
        """Return projections along z at a batch of t poses, shape (t, y, x), centre pixel ``// 2`` of each side."""
        matrix = poses.matrix[:, None]  # (t, 1, 3, 3)
        centres = (matrix @ self.centres_xyz_angstrom[:, :, None])[..., 0] + poses.shift_angstrom[:, None]  # (t, g, 3)
        plane = (matrix @ self.covariances_angstrom2 @ np.swapaxes(matrix, -2, -1))[..., :2, :2]  # (t, g, 2, 2)
        ratio = np.linalg.det(self.covariances_angstrom2) / np.linalg.det(plane)
        heights = self.amplitudes * np.sqrt(2.0 * np.pi * ratio) / voxel_size_angstrom  # (t, g)
        coefficients = _plane_coefficients(centres[..., :2], np.linalg.inv(plane))
        return _sum_planes(heights, coefficients, shape_yx=shape_yx, voxel_size_angstrom=voxel_size_angstrom)

    def transform(self, frequency_xyz_per_angstrom: ArrayLike, *, pose: Pose) -> NDArray[np.complex128]:
        """Return the Fourier transform at ``pose``; divide it by the voxel's volume to compare with that of samples.

        Parameters
        ----------
        frequency_xyz_per_angstrom
            k, shape (..., 3), 1/angstrom.
        pose
            A single pose.

        Returns
        -------
        Shape (...), ``integral of density(x) exp(-2 pi i k.x) d3x``, gonio's sign convention.
        """
        at_pose = self.moved(pose)
        frequency = np.asarray(frequency_xyz_per_angstrom, dtype=np.float64)
        square = np.einsum("...i,gij,...j->...g", frequency, at_pose.covariances_angstrom2, frequency)
        phase = frequency @ at_pose.centres_xyz_angstrom.T
        return np.exp(-2.0 * np.pi**2 * square - 2j * np.pi * phase) @ self.masses


def _checked(values: ArrayLike, name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or array.size == 0:
        raise ValueError(f"{name} must have shape {shape} with at least one Gaussian, got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds values that are not finite")
    array.setflags(write=False)
    return array


def _check_positive_definite(covariances: NDArray[np.float64]) -> None:
    symmetric = np.allclose(covariances, np.swapaxes(covariances, -2, -1))
    if not symmetric or np.linalg.eigvalsh(covariances).min() <= 0:
        raise ValueError("covariances_angstrom2 must be symmetric and positive definite; give variances above zero")


def _plane_coefficients(
    centre_xy: NDArray,
    precision_xy: NDArray,
    *,
    slope: ArrayLike = (0.0, 0.0),
    offset: ArrayLike = 0.0,
) -> NDArray[np.float64]:
    # Coefficients of 1, x, y, x^2, xy, y^2 in offset + slope.(q - c) - (q - c)^T Q (q - c) / 2, shape (t, g, 6).
    slope = np.broadcast_to(slope, centre_xy.shape)
    pull = (precision_xy @ centre_xy[..., None])[..., 0]  # Q c, (t, g, 2)
    constant = offset - (slope * centre_xy).sum(axis=-1) - 0.5 * (pull * centre_xy).sum(axis=-1)
    linear = slope + pull
    q = precision_xy
    columns = (constant, linear[..., 0], linear[..., 1], -0.5 * q[..., 0, 0], -q[..., 0, 1], -0.5 * q[..., 1, 1])
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _sum_planes(
    heights: NDArray, coefficients: NDArray, *, shape_yx: tuple[int, int], voxel_size_angstrom: float
) -> NDArray[np.float64]:
    # sum_g height[t, g] exp(coefficients[t, g] . monomials) on every plane t, shape (t, y, x).
    y, x = np.meshgrid(*(grid_angstrom(count, voxel_size_angstrom) for count in shape_yx), indexing="ij")
    monomials = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y]).reshape(6, -1)  # (6, y x)
    planes = np.empty((len(heights), monomials.shape[1]))
    for height, coefficient, plane in zip(heights, coefficients, planes, strict=True):
        exponent = coefficient @ monomials  # (g, y x): small enough to stay in cache
        np.matmul(height, np.exp(exponent, out=exponent), out=plane)
    return planes.reshape(-1, *shape_yx)  # (t, y, x)


def _four_gaussians(box: int, voxel_size_angstrom: float) -> Phantom:
    widths = np.where(np.eye(3), 1.2, 0.4)  # d: 1.2 along its own axis, 0.4 across
    sds = np.sqrt(0.5 * box * widths) * voxel_size_angstrom  # exp(-x^2 / (n d))
    centres = 0.25 * box * voxel_size_angstrom * np.eye(3)
    three = Phantom.from_standard_deviations(np.ones(3), centres, sds_xyz=sds)
    rotated = three.moved(Pose(Rotation.from_rotvec([0.0, 0.0, np.pi / 4.0]), np.zeros(3)))
    return Phantom(
        np.ones(4),
        np.concatenate([centres, rotated.centres_xyz_angstrom[:1]]),
        np.concatenate([three.covariances_angstrom2, rotated.covariances_angstrom2[:1]]),
    )


def _from_table(table: tuple, box: int, voxel_size_angstrom: float) -> Phantom:
    scale = box / REFERENCE_BOX * voxel_size_angstrom
    peaks, centres, sds = (np.array(column) for column in zip(*table, strict=True))
    return Phantom.from_standard_deviations(peaks, scale * centres, sds_xyz=scale * sds).centred()


_BUILDERS: dict[str, Callable[[int, float], Phantom]] = {
    "four_gaussians": _four_gaussians,
    "sharp": lambda box, voxel: _from_table(SHARP, box, voxel),
    "pseudo_symmetric": lambda box, voxel: _from_table(PSEUDO_SYMMETRIC, box, voxel),
}
PHANTOM_NAMES = tuple(_BUILDERS)
