"""A changed geometry of a tilt series: what a refinement of its tilts has found.

Owns the signs and units of a change. With P (3 x 3) the projection of a tilt as its series states it, whose rows are
the image's axes x and y and the beam, p a point in the tomogram from its centre, and c the defocus,

    P' = exp([w]x) P                  w the rotation, about the image's x, its y and the beam, right-handed
    u  = P' p + (d + D (p_x, p_y), .) where the image shows p, from where it showed the tomogram's centre before
    z' = z + dz + h (P' p)_z          underfocus at p; h the series' change of underfocus for each angstrom of depth

and the astigmatism (a_1, a_2) adds a_1 cos(2 phi) + a_2 sin(2 phi) to the defocus in the direction phi from the
image's x axis. A scale multiplies the image's strength, and D deforms the field. Knows no file, and not how a change
is found.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.arguments import described
from gonio.particle.ctf import Ctf, mean_and_astigmatism
from gonio.particle.tilt_series import TiltSeries

# Images whose particle lies farther from where they were cut, as a fraction of their box, show too little of it.
FARTHEST_OFFSET = 0.25


@dataclass(frozen=True)
class TiltChange:
    """Change of the geometry of the t images of a tilt series, or the standard deviations of one.

    Parameters
    ----------
    shift_angstrom
        d, along the image's x and y, shape (t, 2): to where the image shows what it was expected to show at 0.
    rotation_deg
        w as a rotation vector, degrees about the image's x, its y and the beam, shape (t, 3).
    defocus_angstrom
        Added to the underfocus at the tomogram's centre, shape (t,).
    astigmatism_angstrom
        a_1 and a_2, shape (t, 2), added to the defocus along 0 and 45 degrees from the image's x axis, and taken from
        it across; None for zeros.
    scale
        Factor of each image's strength, shape (t,); None for ones.
    deformation
        D, angstrom of shift for each angstrom of place, added to the deformation before, shape (t, 2, 2); None for
        zeros.

    Raises
    ------
    ValueError
        If a value is not finite, or the shapes do not belong together.
    """

    shift_angstrom: NDArray[np.float64]
    rotation_deg: NDArray[np.float64]
    defocus_angstrom: NDArray[np.float64]
    astigmatism_angstrom: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    deformation: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        count = len(np.atleast_1d(self.defocus_angstrom))
        shapes = ((count, 2), (count, 3), (count,), (count, 2), (count,), (count, 2, 2))
        for one, shape in zip(fields(self), shapes, strict=True):
            given = getattr(self, one.name)
            if given is None and one.default is None:
                continue
            value = np.array(given, dtype=np.float64)
            if value.shape != shape or not np.isfinite(value).all():
                raise ValueError(
                    f"{one.name} of {count} tilts must be finite, of shape {shape}, got {described(given)}"
                )
            value.setflags(write=False)
            object.__setattr__(self, one.name, value)

    @staticmethod
    def none(count: int) -> TiltChange:
        """Return the change of ``count`` tilts that changes nothing."""
        return TiltChange(np.zeros((count, 2)), np.zeros((count, 3)), np.zeros(count))

    def __len__(self) -> int:
        return len(self.defocus_angstrom)

    @property
    def rotation(self) -> Rotation:
        """The rotations exp([w]x), a batch of t."""
        return Rotation.from_rotvec(np.array(self.rotation_deg), degrees=True)

    def projections(self, before: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return P' of full projections P, both (t, 3, 3)."""
        return np.asarray(self.rotation.as_matrix() @ before)

    def applied(self, series: TiltSeries) -> TiltSeries:
        """Return a tilt series with this change of its geometry, which states with which one its stacks were cut out.

        Its ``offsets_angstrom`` are where the images of such stacks show a particle. Changes may follow each other.

        Raises
        ------
        ValueError
            If the series has another number of tilts.
        """
        if len(series) != len(self):
            raise ValueError(f"{series.path} has {len(series)} tilts, the change of its geometry {len(self)}")
        after = self.projections(full_projections(series))
        defocus, scale, cut_scale = series.defocus, series.scale, series.cut_scale
        if defocus is not None:
            defocus = _refocused(defocus, self.defocus_angstrom, self.astigmatism_angstrom)
        if self.scale is not None:
            before = np.ones(len(self)) if scale is None else scale
            scale, cut_scale = before * self.scale, before if cut_scale is None else cut_scale
        shifts, since = series.shifts_angstrom, series.shift_since_cut_angstrom
        deformation, deformed_since = series.deformation, series.deformation_since_cut
        if self.deformation is not None:
            deformation = self.deformation + (0.0 if deformation is None else deformation)
            deformed_since = self.deformation + (0.0 if deformed_since is None else deformed_since)
        is_first = series.cut_projections_xyz is None
        return replace(
            series,
            projections_xyz=after[:, :2],
            beams_xyz=after[:, 2],
            defocus=defocus,
            scale=scale,
            shifts_angstrom=None if shifts is None else shifts + self.shift_angstrom,
            cut_projections_xyz=series.projections_xyz if is_first else series.cut_projections_xyz,
            cut_defocus=series.defocus if is_first else series.cut_defocus,
            cut_scale=cut_scale,
            shift_since_cut_angstrom=self.shift_angstrom + (0.0 if since is None else since),
            deformation=deformation,
            deformation_since_cut=deformed_since,
        )


@dataclass(frozen=True)
class StackGeometry:
    """The geometry that a list states of the images of a particle.

    Parameters
    ----------
    series
        The tilt series of the stack's images, in their order.
    tilts
        Number of each image in the whole series, (t,).
    place_angstrom
        Where the particle is listed: from the tomogram's centre, xyz, (3,).
    ctf
        Contrast transfer of the images at that place; None where it is not known.
    reversed_tilts
        Whether the particle's frame is the mirror image of the tomogram's, diag(1, 1, -1).
    """

    series: TiltSeries
    tilts: NDArray[np.int64]
    place_angstrom: NDArray[np.float64]
    ctf: Ctf | None = None
    reversed_tilts: bool = False

    @property
    def sense(self) -> NDArray[np.float64]:
        """Diagonal of the mirror from the tomogram's frame to the particle's, (3,)."""
        return np.array([1.0, 1.0, -1.0 if self.reversed_tilts else 1.0])

    @property
    def offsets_angstrom(self) -> NDArray[np.float64]:
        """Where the images show the place, from the centres that they were cut out with, (t, 2)."""
        offsets = self.series.offsets_angstrom(self.place_angstrom)
        return np.zeros((len(self.tilts), 2)) if offsets is None else offsets

    def shows(self, box_angstrom: float) -> NDArray[np.bool_]:
        """Return which images were cut out near enough to where the place is now to be used, (t,)."""
        return np.asarray(np.linalg.norm(self.offsets_angstrom, axis=1) <= FARTHEST_OFFSET * box_angstrom)


def full_projections(series: TiltSeries) -> NDArray[np.float64]:
    """Return the projections of a series with the beam as the third row, shape (t, 3, 3)."""
    axes = series.projections_xyz
    beams = np.cross(axes[:, 0], axes[:, 1]) if series.beams_xyz is None else series.beams_xyz
    return np.concatenate([axes, beams[:, None]], axis=1)


def _refocused(
    defocus: NDArray[np.float64], by: NDArray[np.float64], astigmatism: NDArray[np.float64] | None
) -> NDArray[np.float64]:
    """Return U, V and the direction of U of each tilt, (t, 3), with more defocus and astigmatism."""
    if astigmatism is None:
        return defocus + np.stack([by, by, np.zeros_like(by)], axis=1)
    mean, *old = mean_and_astigmatism(defocus).T
    x, y = np.array(old) + astigmatism.T
    half = np.hypot(x, y)
    angle = np.where(half > 0, 0.5 * np.degrees(np.arctan2(y, x)), defocus[:, 2])
    return np.stack([mean + by + half, mean + by - half, angle], axis=1)
