"""A tilt series: how each of its images looks at the tomogram, and what is known of each image.

Owns how projections, doses and defocus of single tilts become the wedge of a subtomogram. The first two rows of a
projection are the image's axes x and y in the tomogram's frame, so the image measures the central plane that they span;
its normal, their product, is the beam. Knows no file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.transform import Rotation

from gonio.ctf import Ctf, dose_decay
from gonio.wedge import TiltSeriesWedge, Wedge, WeightVolumeWedge, tilt_plane_normal

__all__ = ["Optics", "TiltSeries", "TiltWedge", "Weighting"]

# Neighbouring tilts farther apart than this leave a hole between them.
LARGEST_GAP_DEG = 12.0


class Weighting(StrEnum):
    """What a frequency that single tilts have measured is worth.

    PLAIN counts it as measured, DOSE as what the dose before its tilt has left of it, CTF as that times the absolute
    contrast transfer of its tilt.
    """

    PLAIN = "plain"
    DOSE = "dose"
    CTF = "ctf"


@dataclass(frozen=True)
class Optics:
    """Of the microscope: kilovolts, millimetres, a fraction."""

    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True)
class TiltSeries:
    """One tilt series: t projections and what is known of each.

    Parameters
    ----------
    path
        The file it was read from.
    hand
        +1 or -1, rlnTomoHand.
    projections_xyz
        Shape (t, 2, 3), in gonio's frame (mirrored in z for hand -1).
    defocus
        Shape (t, 3): U and V in angstrom, astigmatism in degrees; or None.
    dose, scale
        Shape (t,), as in ``TiltStack``; or None.
    optics
        What the file says of the microscope, or None.
    """

    path: Path
    hand: int
    projections_xyz: NDArray[np.float64]
    defocus: NDArray[np.float64] | None = None
    dose: NDArray[np.float64] | None = None
    scale: NDArray[np.float64] | None = None
    optics: Optics | None = None

    @staticmethod
    def of_angles(path: Path, tilts_deg: ArrayLike, *, axis_deg: float = 90.0) -> TiltSeries:
        """Tilts about one axis in the xy plane, of images whose y axis lies along it."""
        normals = tilt_plane_normal(tilts_deg, axis_deg)  # (t, 3)
        axis = np.array([np.cos(np.radians(axis_deg)), np.sin(np.radians(axis_deg)), 0.0])
        across = np.cross(axis, normals)
        return TiltSeries(path, 1, np.stack([across, np.broadcast_to(axis, across.shape)], axis=1))  # (t, 2, 3)

    def __len__(self) -> int:
        return len(self.projections_xyz)

    def take(self, chosen: NDArray[np.bool_]) -> TiltSeries:
        """The chosen tilts."""
        return replace(
            self,
            projections_xyz=self.projections_xyz[chosen],
            defocus=None if self.defocus is None else self.defocus[chosen],
            dose=None if self.dose is None else self.dose[chosen],
            scale=None if self.scale is None else self.scale[chosen],
        )

    def in_tomogram(self) -> TiltSeries:
        """The same series in the frame of the tomogram itself, which is not mirrored for hand -1."""
        return replace(self, hand=1, projections_xyz=self.projections_xyz * np.array([1.0, 1.0, self.hand]))

    def ctf(
        self,
        *,
        voltage_kv: float | None = None,
        spherical_aberration_mm: float | None = None,
        amplitude_contrast: float | None = None,
    ) -> Ctf | None:
        """The contrast transfer of the t images, None where no defocus is known.

        Raises
        ------
        ValueError
            If the microscope is known from nowhere.
        """
        if self.defocus is None:
            return None
        given = (voltage_kv, spherical_aberration_mm, amplitude_contrast)
        known = Optics(*given) if None not in given else self.optics  # type: ignore[arg-type]
        if known is None:
            raise ValueError(f"{self.path} says the defocus, but not voltage, aberration and amplitude contrast")
        u, v, angle = self.defocus.T
        return Ctf(u, v, angle, known.voltage_kv, known.spherical_aberration_mm, known.amplitude_contrast)

    @cached_property
    def normals_xyz(self) -> NDArray[np.float64]:
        """The beam of each image in the frame of the projections, unit vectors on the side of +z, shape (t, 3)."""
        normals = np.cross(self.projections_xyz[:, 0], self.projections_xyz[:, 1])
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return np.where(normals[:, 2:] < 0, -normals, normals)

    @cached_property
    def axis_deg(self) -> float:
        """Direction of the tilt axis in the xy plane, degrees from x towards y, 0 to 180; 90 of a single tilt."""
        across = self.normals_xyz[:, :2] - self.normals_xyz[:, :2].mean(axis=0)
        if np.abs(across).max() < 1e-6:
            return 90.0
        b = np.linalg.svd(across)[2][0]  # across the axis: (sin, -cos)
        angle = np.degrees(np.arctan2(b[0], -b[1])) % 180.0
        return 0.0 if angle > 180.0 - 1e-9 else float(angle)

    @cached_property
    def tilts_deg(self) -> NDArray[np.float64]:
        """Angle of each tilt about that axis, right-handed, shape (t,)."""
        axis = np.radians(self.axis_deg)
        b = np.array([np.sin(axis), -np.cos(axis)])
        return np.degrees(np.arctan2(-self.normals_xyz[:, :2] @ b, self.normals_xyz[:, 2]))

    @property
    def order(self) -> NDArray[np.int64] | None:
        """Which image was taken first, second, ...: by the dose before it; None where that is not known."""
        return None if self.dose is None else np.argsort(self.dose, kind="stable")

    def runs(self) -> list[NDArray[np.int64]]:
        """Images by tilt, parted where neighbours are more than ``LARGEST_GAP_DEG`` apart."""
        order = np.argsort(self.tilts_deg, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.tilts_deg[order]) > LARGEST_GAP_DEG) + 1)

    def wedge(self, box_angstrom: float, turn: Rotation | None = None) -> TiltSeriesWedge:
        """What the tilts measure of a box: all within each run; a tilt by itself as thick as a sample of the box.

        Between neighbours nothing is left out. Single slabs, of any thickness, were worse (docs/volumes.md). The box
        may have been cut out turned, ``x_tomogram = turn x_box``.
        """
        normals = self.normals_xyz if turn is None else turn.inv().apply(self.normals_xyz)
        ends = ((normals[run[0]], normals[run[-1]]) for run in self.runs())
        return TiltSeriesWedge(tuple((tuple(a.tolist()), tuple(b.tolist())) for a, b in ends), box_angstrom)

    def weights(
        self, box: int, voxel_size_angstrom: float, weighting: Weighting, turn: Rotation | None = None
    ) -> WeightVolumeWedge:
        """What the tilts measure, weighted: by the nearest tilt, or the mean of those within half a sample.

        The box may have been cut out turned, as in ``wedge``.

        Raises
        ------
        ValueError
            If the dose, the defocus or the microscope is not known.
        """
        if self.dose is None and weighting is Weighting.DOSE:
            raise ValueError(f"{self.path} does not say the dose of its tilts: weights need it")
        ctf = self.ctf() if weighting is Weighting.CTF else None
        if ctf is None and weighting is Weighting.CTF:
            raise ValueError(f"{self.path} does not say the defocus of its tilts: weights need it")
        index = np.indices((box, box, box), dtype=np.float32).reshape(3, -1)[::-1].T - box // 2  # (n, 3) xyz
        frequency = index / (box * voxel_size_angstrom)
        frequency = frequency if turn is None else turn.apply(frequency)
        measured = self.wedge(box * voxel_size_angstrom).weight_at(frequency) > 0
        inside, half = frequency[measured], 0.5 / (box * voxel_size_angstrom)
        nearest = np.full(len(inside), np.inf)
        total, count = np.zeros(len(inside)), np.zeros(len(inside))
        for tilt in range(len(self)):
            away = np.maximum(np.abs(inside @ self.normals_xyz[tilt]), half)  # within half a sample all are as near
            nearer, alike = away < nearest, away == nearest
            total[nearer], count[nearer], nearest[nearer] = 0.0, 0.0, away[nearer]
            here = nearer | alike
            total[here] += self._worth(tilt, inside[here], ctf, weighting)
            count[here] += 1
        weights = np.zeros(len(frequency), np.float32)
        weights[measured] = total / np.maximum(count, 1)
        return WeightVolumeWedge(weights.reshape(box, box, box), voxel_size_angstrom)

    def _worth(self, tilt: int, frequency: NDArray, ctf: Ctf | None, weighting: Weighting) -> NDArray[np.float64]:
        worth = np.ones(len(frequency))
        if self.dose is not None and weighting is not Weighting.PLAIN:
            worth *= dose_decay(np.linalg.norm(frequency, axis=-1), self.dose[tilt])
        if ctf is None:
            return worth
        u, v, angle = np.asarray(self.defocus)[tilt]
        one = replace(ctf, defocus_u_angstrom=u, defocus_v_angstrom=v, astigmatism_deg=angle)
        return worth * np.abs(one.transfer(frequency @ self.projections_xyz[tilt].T))


@dataclass(frozen=True)
class TiltWedge:
    """The wedge of all subtomograms of one tomogram, made for a box when it is asked for, and kept."""

    series: TiltSeries
    weighting: Weighting = Weighting.PLAIN
    _kept: dict[tuple[int, float], Wedge] = field(default_factory=dict, compare=False, repr=False)

    def of(self, box: int, voxel_size_angstrom: float, turn: Rotation | None = None) -> Wedge:
        """For a box, which may have been cut out turned."""
        if self.weighting is Weighting.PLAIN:
            return self.series.wedge(box * voxel_size_angstrom, turn)
        if turn is not None:
            return self.series.weights(box, voxel_size_angstrom, self.weighting, turn)
        key = (box, voxel_size_angstrom)
        if key not in self._kept:
            self._kept[key] = self.series.weights(box, voxel_size_angstrom, self.weighting)
        return self._kept[key]
