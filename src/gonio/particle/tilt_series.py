"""A tilt series: the projection geometry of its images, and dose, defocus and strength of each.

Owns how projections, doses and defocus of single tilts become the wedge of a subtomogram, and the contrast transfer
of each image of a particle. The first two rows of a projection are the image's axes x and y in the tomogram's frame, so
the image measures the central plane that they span; its normal, their cross product, is the beam. A particle at p, from
the tomogram's centre, lies at the depth d = b.p along the beam b of an image, and its underfocus there is

    defocus + defocus_per_depth d,      b the third row of the projection

At +60 degrees about y, b = (-sin 60, 0, cos 60): 250 nm from the axis change defocus by 217 nm.

In the image it lies at P p + s from the image's centre pixel, P the first two rows and s the place of the tomogram's
centre. Stacks that were cut out with another geometry P', s' show it at (P - P') p + s - s' from their centres: what a
refinement has changed since. Knows no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.ctf import Ctf, image_transfer
from gonio.particle.wedge import TiltSeriesWedge, Wedge, WeightVolumeWedge, tilt_plane_normal

# Neighbouring tilts farther apart than this leave a hole between them.
LARGEST_GAP_DEG = 12.0
# Fields of a series with one value for each tilt.
PER_TILT = (
    *("projections_xyz", "defocus", "dose", "scale"),
    *("phase_shift_deg", "bfactor_angstrom2", "beams_xyz", "shifts_angstrom", "cut_projections_xyz"),
    *("cut_defocus", "cut_scale", "shift_since_cut_angstrom", "deformation", "deformation_since_cut"),
)


class Weighting(StrEnum):
    """Weight of a frequency that single tilts have measured.

    PLAIN is one, DOSE the fraction of signal that is left after the dose before its tilt, CTF that fraction times the
    absolute contrast transfer of its tilt.
    """

    PLAIN = "plain"
    DOSE = "dose"
    CTF = "ctf"


@dataclass(frozen=True)
class Optics:
    """The microscope: voltage in kilovolts, aberration in millimetres, amplitude contrast as a fraction."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True)
class TiltSeries:
    """One tilt series: t projections, with dose, defocus and strength of each where they are known.

    Parameters
    ----------
    path
        File that the series was read from.
    projections_xyz
        Shape (t, 2, 3), in the tomogram's frame.
    defocus
        Defocus at the tomogram's centre, shape (t, 3): U and V in angstrom, astigmatism in degrees; or None.
    dose, scale
        Shape (t,), see ``TiltStack``; or None.
    optics
        The microscope as the file states it, or None.
    phase_shift_deg, bfactor_angstrom2
        Shape (t,), see ``Ctf``; or None.
    bfactor_per_dose
        B factor for each unit of dose, see ``dose_decay``.
    beams_xyz
        Third rows of the projections, (t, 3), or None for the product of the first two.
    defocus_per_depth
        Change of underfocus for each angstrom along the beam: in RELION's terms the hand of the tilt geometry times the
        slope of defocus. 0 where it is not known.
    centre_angstrom
        Centre of the tomogram, from the centre of its first voxel, xyz, or None where its size is not known.
    shifts_angstrom
        Place of the tomogram's centre in each image, from the image's centre pixel ``n // 2``, xy, (t, 2); or None.
    cut_projections_xyz, cut_defocus, cut_scale, shift_since_cut_angstrom
        Projections P', defocus and strength with which stacks of particles were cut out, where they are not these,
        (t, 2, 3), (t, 3) and (t,), and by how much shifts have changed since, s - s', (t, 2); or None.
    deformation, deformation_since_cut
        Shift of each image for each angstrom of a place's x and y, D, and by how much it has changed since stacks were
        cut out, (t, 2, 2); None for none.
    """

    path: Path
    projections_xyz: NDArray[np.float64]
    defocus: NDArray[np.float64] | None = None
    dose: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    optics: Optics | None = None
    phase_shift_deg: NDArray[np.float64] | None = None
    bfactor_angstrom2: NDArray[np.float64] | None = None
    bfactor_per_dose: float = 0.0
    beams_xyz: NDArray[np.float64] | None = None
    defocus_per_depth: float = 0.0
    centre_angstrom: NDArray[np.float64] | None = None
    shifts_angstrom: NDArray[np.float64] | None = None
    cut_projections_xyz: NDArray[np.float64] | None = None
    cut_defocus: NDArray[np.float64] | None = None
    cut_scale: NDArray[np.float64] | None = None
    shift_since_cut_angstrom: NDArray[np.float64] | None = None
    deformation: NDArray[np.float64] | None = None
    deformation_since_cut: NDArray[np.float64] | None = None

    @staticmethod
    def of_angles(path: Path, tilts_deg: ArrayLike, *, axis_deg: float = 90.0) -> TiltSeries:
        """Return a series of tilts about one axis in the xy plane, with images whose y axis lies along it."""
        normals = tilt_plane_normal(tilts_deg, axis_deg)  # (t, 3)
        axis = np.array([np.cos(np.radians(axis_deg)), np.sin(np.radians(axis_deg)), 0.0])
        across = np.cross(axis, normals)
        return TiltSeries(path, np.stack([across, np.broadcast_to(axis, across.shape)], axis=1))  # (t, 2, 3)

    def __len__(self) -> int:
        return len(self.projections_xyz)

    def take(self, chosen: NDArray[np.integer | np.bool_]) -> TiltSeries:
        """Return the series of the chosen tilts."""
        every = ((name, getattr(self, name)) for name in PER_TILT)
        kept: dict[str, Any] = {name: None if value is None else value[chosen] for name, value in every}
        return replace(self, **kept)

    def depths_angstrom(self, place_angstrom: ArrayLike) -> NDArray[np.float64]:
        """Return the depth of a place along each beam, from the tomogram's centre, shape (t,)."""
        beams = self.beams_xyz
        if beams is None:
            beams = np.cross(self.projections_xyz[:, 0], self.projections_xyz[:, 1])
        return beams @ np.asarray(place_angstrom, dtype=np.float64)

    def positions_angstrom(self, place_angstrom: ArrayLike) -> NDArray[np.float64]:
        """Return where a place, from the tomogram's centre, lies in each image, from its centre pixel, xy, (t, 2).

        Raises
        ------
        ValueError
            If the shifts of the images are not known.
        """
        if self.shifts_angstrom is None:
            raise ValueError(f"{self.path} does not state where the tomogram's centre lies in its images")
        place = np.asarray(place_angstrom, dtype=np.float64)
        seen: NDArray[np.float64] = self.projections_xyz @ place + self.shifts_angstrom
        return seen if self.deformation is None else seen + self.deformation @ place[:2]

    def offsets_angstrom(self, place_angstrom: ArrayLike) -> NDArray[np.float64] | None:
        """Return where a particle lies in its stack's images, from their centres, xy, (t, 2).

        None where the stacks were cut out with this geometry.
        """
        if self.cut_projections_xyz is None or self.shift_since_cut_angstrom is None:
            return None
        changed = self.projections_xyz - self.cut_projections_xyz  # (t, 2, 3)
        place = np.asarray(place_angstrom, dtype=np.float64)
        moved: NDArray[np.float64] = changed @ place + self.shift_since_cut_angstrom
        return moved if self.deformation_since_cut is None else moved + self.deformation_since_cut @ place[:2]

    def ctf(self, *, place_angstrom: ArrayLike | None = None, optics: Optics | None = None) -> Ctf | None:
        """Return the contrast transfer of the t images of a particle, None where no defocus is known.

        Parameters
        ----------
        place_angstrom
            Position of the particle, from the tomogram's centre, xyz; None for the centre itself.
        optics
            The microscope; None for that of the series' file.

        Raises
        ------
        ValueError
            If neither states the microscope.
        """
        if self.defocus is None:
            return None
        known = optics or self.optics
        if known is None:
            raise ValueError(f"{self.path} states the defocus, but not voltage, aberration and amplitude contrast")
        u, v, angle = self.defocus.T
        plate, bfactor = (np.zeros(len(u)) if x is None else x for x in (self.phase_shift_deg, self.bfactor_angstrom2))
        microscope = (known.voltage_kv, known.spherical_aberration_mm, known.amplitude_contrast)
        at_centre = Ctf(u, v, angle, *microscope, phase_shift_deg=plate, bfactor_angstrom2=bfactor)
        if place_angstrom is None:
            return at_centre
        return at_centre.refocused(self.defocus_per_depth * self.depths_angstrom(place_angstrom))

    @cached_property
    def normals_xyz(self) -> NDArray[np.float64]:
        """Beam of each image in the frame of the projections, unit vectors on the side of +z, shape (t, 3)."""
        normals = np.cross(self.projections_xyz[:, 0], self.projections_xyz[:, 1])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return np.where(normals[:, 2:] < 0, -normals, normals)

    @cached_property
    def axis_deg(self) -> float:
        """Direction of the tilt axis in the xy plane, degrees from x towards y, 0 to 180; 90 for a single tilt."""
        across = self.normals_xyz[:, :2] - self.normals_xyz[:, :2].mean(axis=0)
        if np.abs(across).max() < 1e-6:
            return 90.0
        b = np.linalg.svd(across)[2][0]  # across the axis: (sin, -cos)
        angle = np.degrees(np.arctan2(b[0], -b[1])) % 180.0
        return 0.0 if angle > 180.0 - 1e-9 else float(angle)

    @cached_property
    def tilts_deg(self) -> NDArray[np.float64]:
        """Angle of each tilt about ``axis_deg``, right-handed, shape (t,)."""
        axis = np.radians(self.axis_deg)
        b = np.array([np.sin(axis), -np.cos(axis)])
        return np.asarray(np.degrees(np.arctan2(-self.normals_xyz[:, :2] @ b, self.normals_xyz[:, 2])))

    @property
    def order(self) -> NDArray[np.int64] | None:
        """Images in the order in which they were taken, by the dose before each, (t,); None where it is not known."""
        return None if self.dose is None else np.argsort(self.dose, kind="stable")

    def runs(self) -> list[NDArray[np.int64]]:
        """Return the images sorted by tilt, split where neighbours are more than ``LARGEST_GAP_DEG`` apart."""
        order = np.argsort(self.tilts_deg, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.tilts_deg[order]) > LARGEST_GAP_DEG) + 1)

    def wedge(self, box_angstrom: float, turn: Rotation | None = None) -> TiltSeriesWedge:
        """Return what the tilts measure of a box: all within each run; a single tilt as thick as a sample of the box.

        No gap is left between neighbours: single slabs, of any thickness, were worse (docs/volumes.md). The box may
        have been extracted rotated, ``x_tomogram = turn x_box``.
        """
        normals = self.normals_xyz if turn is None else turn.inv().apply(self.normals_xyz)
        ends = ((normals[run[0]], normals[run[-1]]) for run in self.runs())
        return TiltSeriesWedge(tuple((tuple(a.tolist()), tuple(b.tolist())) for a, b in ends), box_angstrom)

    def weights(
        self,
        box: int,
        voxel_size_angstrom: float,
        weighting: Weighting,
        turn: Rotation | None = None,
        *,
        place_angstrom: ArrayLike | None = None,
    ) -> WeightVolumeWedge:
        """Return the weights of frequencies: that of the nearest tilt, or the mean of those within half a sample.

        The box may have been extracted rotated (see ``wedge``) and lie anywhere in the tomogram (see ``ctf``).

        Raises
        ------
        ValueError
            If the dose, the defocus or the microscope is not known.
        """
        if self.dose is None and weighting is Weighting.DOSE:
            raise ValueError(f"{self.path} does not state the dose of its tilts: weights need it")
        if weighting is Weighting.CTF and self.ctf() is None:
            raise ValueError(f"{self.path} does not state the defocus of its tilts: weights need it")
        index = np.indices((box, box, box), dtype=np.float32).reshape(3, -1)[::-1].T - box // 2  # (n, 3) xyz
        frequency = index / (box * voxel_size_angstrom)
        frequency = frequency if turn is None else turn.apply(frequency)
        measured = self.wedge(box * voxel_size_angstrom).weight_at(frequency) > 0
        inside, half = frequency[measured], 0.5 / (box * voxel_size_angstrom)
        nearest = np.full(len(inside), np.inf)
        for tilt in range(len(self)):
            nearest = np.minimum(nearest, self._distance(tilt, inside, half))
        total, count = np.zeros(len(inside)), np.zeros(len(inside))
        for tilt in range(len(self)):
            here = self._distance(tilt, inside, half) == nearest
            total[here] += self.take(np.array([tilt]))._weight(inside[here], weighting, place_angstrom)
            count[here] += 1
        weights = np.zeros(len(frequency), np.float32)
        weights[measured] = total / np.maximum(count, 1)
        return WeightVolumeWedge(weights.reshape(box, box, box), voxel_size_angstrom)

    def _distance(self, tilt: int, frequency: NDArray[np.floating], half: float) -> NDArray[np.float64]:
        """Return the distance of frequencies (n, 3) from a tilt's plane, (n,), but at least half a sample."""
        distance: NDArray[np.float64] = np.maximum(np.abs(frequency @ self.normals_xyz[tilt]), half)
        return distance

    def _weight(
        self, frequency: NDArray[np.floating], weighting: Weighting, place_angstrom: ArrayLike | None
    ) -> NDArray[np.float64]:
        """Return the weights of frequencies (n, 3) in the plane of a series' only tilt, shape (n,)."""
        if weighting is Weighting.PLAIN:
            return np.ones(len(frequency))
        with_ctf = weighting is Weighting.CTF
        transfer = image_transfer(
            frequency @ self.projections_xyz[0].T,
            self.ctf(place_angstrom=place_angstrom) if with_ctf else None,
            scale=self.scale if with_ctf else None,
            dose=self.dose,
            bfactor_per_dose=self.bfactor_per_dose,
        )
        return np.abs(transfer).reshape(len(frequency))


@dataclass(frozen=True)
class TiltWedge:
    """The wedge of all subtomograms of one tomogram, made for a box on the first request, and kept."""

    series: TiltSeries
    weighting: Weighting = Weighting.PLAIN
    _kept: dict[tuple[int, float], Wedge] = field(default_factory=dict, compare=False, repr=False)

    @property
    def has_depth(self) -> bool:
        """True where the weights of a box depend on its position in the tomogram."""
        return self.weighting is Weighting.CTF and self.series.defocus_per_depth != 0.0

    def of(
        self,
        box: int,
        voxel_size_angstrom: float,
        turn: Rotation | None = None,
        *,
        place_angstrom: NDArray[np.float64] | None = None,
    ) -> Wedge:
        """Return the wedge of a box, which may have been extracted rotated, at a place from the tomogram's centre, xyz.

        A place that is None or not finite stands for the tomogram's centre.
        """
        if self.weighting is Weighting.PLAIN:
            return self.series.wedge(box * voxel_size_angstrom, turn)
        placed = self.has_depth and place_angstrom is not None and bool(np.isfinite(place_angstrom).all())
        if turn is not None or placed:
            place = place_angstrom if placed else None
            return self.series.weights(box, voxel_size_angstrom, self.weighting, turn, place_angstrom=place)
        key = (box, voxel_size_angstrom)
        if key not in self._kept:
            self._kept[key] = self.series.weights(box, voxel_size_angstrom, self.weighting)
        return self._kept[key]
