"""A specimen in the microscope: particles at places in ice, and a tilt series whose geometry is known nearly.

Owns what is true of a simulated series and what its user gets. The user has a nominal geometry; the true one differs
from it by a ``TiltChange``, drawn from stated standard deviations. A particle listed at c with the shift t is at
p = c + t, and moves while exposures go on. Image i shows it at

    P p + s + D (x, y)          P, s true; D = sum of coefficients times x, y, x^2, x y, y^2 of p in half fields

from its centre pixel, with the defocus of its depth, weakened by the dose before it and by the ice that a tilted beam
passes: of a slab of thickness T a fraction exp(-T / (L cos theta)) of the electrons is not scattered inelastically, so
that the signal over the noise of counting falls by exp(-T (1 / cos theta - 1) / (2 L)) from that of the untilted slab.
It knows nothing of alignment, and no file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.particle.arguments import ArgumentError
from gonio.particle.ctf import AMPLITUDE_CONTRAST, image_transfer
from gonio.particle.pose import Pose
from gonio.particle.tilt_change import TiltChange, full_projections
from gonio.particle.tilt_series import Optics, TiltSeries

# Mean free path of inelastic scattering in vitreous ice at 300 kV (Rice et al. 2018), angstrom.
MEAN_FREE_PATH_ANGSTROM = 3100.0
# Shifts of single images that an alignment has found before, angstrom: sd along x and y.
DRIFT_SD_ANGSTROM = 30.0
# A microscope of 300 kV.
KRIOS = Optics(300.0, 2.7, AMPLITUDE_CONTRAST)
# Draws in a row that find no place before a specimen counts as full.
MOST_DRAWS = 10_000


@dataclass(frozen=True)
class Acquisition:
    """How tilt series are taken, nominally: the geometry and the optics that a user is told.

    Parameters
    ----------
    tilts_deg
        Tilts of the images in the order of the file, shape (t,); they are taken from 0 outwards, either side in turn.
    axis_deg
        Direction of the tilt axis in the images, from x towards y; 90 is y.
    dose
        Exposure of an image, electrons per square angstrom.
    defocus_angstrom
        Least and largest underfocus; each series has one between. None for a perfect lens.
    defocus_hand
        1 or -1: change of underfocus for each angstrom along the beam.
    optics
        The microscope.
    """

    tilts_deg: NDArray[np.float64]
    axis_deg: float = 85.0
    dose: float = 3.0
    defocus_angstrom: tuple[float, float] | None = (20_000.0, 40_000.0)
    defocus_hand: int = -1
    optics: Optics = KRIOS

    def __post_init__(self) -> None:
        low, high = self.defocus_angstrom or (1.0, 1.0)
        if not 0 < low <= high < np.inf:
            raise ArgumentError("{} must be two numbers above 0, the smaller first", "defocus_angstrom")
        if not 0 <= self.dose < np.inf:
            raise ArgumentError("{} must be a number that is not negative, got {got!r}", "dose", got=self.dose)
        if self.defocus_hand not in (1, -1):
            raise ArgumentError("{} must be 1 or -1, got {got!r}", "defocus_hand", got=self.defocus_hand)
        if np.abs(self.tilts_deg).max() >= 90.0:
            raise ArgumentError("{} must lie within -90 and 90 degrees, without these", "tilt_range_deg")

    def series(self, path: Path, rng: np.random.Generator) -> TiltSeries:
        """Draw a nominal series: its defocus, and the shifts of its images."""
        tilts = self.tilts_deg
        order = np.lexsort((tilts < 0, np.abs(tilts)))  # 0, 3, -3, 6, ...
        dose = np.empty(len(tilts))
        dose[order] = self.dose * np.arange(len(tilts))
        angles = np.stack([tilts, np.full(len(tilts), self.axis_deg - 90.0)], axis=1)
        matrices = Rotation.from_euler("yz", angles, degrees=True).as_matrix()  # Rz(axis - 90) Ry(tilt)
        return TiltSeries(
            path,
            matrices[:, :2],
            defocus=self._drawn_defocus(rng),
            dose=dose,
            optics=self.optics,
            beams_xyz=matrices[:, 2],
            defocus_per_depth=float(self.defocus_hand),
            shifts_angstrom=rng.normal(0.0, DRIFT_SD_ANGSTROM, (len(tilts), 2)),
        )

    def _drawn_defocus(self, rng: np.random.Generator) -> NDArray[np.float64] | None:
        if self.defocus_angstrom is None:
            return None
        mean = rng.uniform(*self.defocus_angstrom)
        return np.tile([mean, mean, 0.0], (len(self.tilts_deg), 1))


@dataclass(frozen=True)
class GeometryErrors:
    """How the true geometry of images differs from the nominal one: standard deviations, and the thickness of the ice.

    Parameters
    ----------
    shift_error_angstrom
        Shift along the image's x and y.
    tilt_error_deg, axis_error_deg, pitch_error_deg
        Rotation about the tilt axis (the tilt angle), about the beam (the axis' direction in the image), and about the
        direction across both.
    defocus_error_angstrom, astigmatism_error_angstrom
        Underfocus, and either component of astigmatism.
    deformation_angstrom
        Each coefficient of the field's deformation: how far it moves an image at the field's edge.
    motion_angstrom
        How far a particle moves along x, y and z in the course of the series, and again as much in a curve.
    ice_angstrom
        Thickness of the ice, which the nominal geometry does not know; 0 for no loss in tilted ice.
    """

    shift_error_angstrom: float = 0.0
    tilt_error_deg: float = 0.0
    axis_error_deg: float = 0.0
    pitch_error_deg: float = 0.0
    defocus_error_angstrom: float = 0.0
    astigmatism_error_angstrom: float = 0.0
    deformation_angstrom: float = 0.0
    motion_angstrom: float = 0.0
    ice_angstrom: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not 0 <= value < np.inf:
                raise ArgumentError("{} must be a number that is not negative, got {got!r}", name, got=value)

    def change(self, nominal: TiltSeries, axis_deg: float, rng: np.random.Generator) -> TiltChange:
        """Draw what a refinement of the nominal series should find."""
        count = len(nominal)
        about = rng.normal(0.0, 1.0, (count, 3)) * [self.pitch_error_deg, self.tilt_error_deg, self.axis_error_deg]
        axes = Rotation.from_euler("z", axis_deg - 90.0, degrees=True)  # from across, along the axis, and the beam
        cosines = np.cos(np.radians(nominal.tilts_deg))
        loss = np.exp(-0.5 * self.ice_angstrom / MEAN_FREE_PATH_ANGSTROM * (1.0 / cosines - 1.0))
        return TiltChange(
            rng.normal(0.0, self.shift_error_angstrom, (count, 2)),
            axes.apply(about),
            rng.normal(0.0, self.defocus_error_angstrom, count),
            rng.normal(0.0, self.astigmatism_error_angstrom, (count, 2)),
            loss,
        )


@dataclass(frozen=True)
class Specimen:
    """m particles in one tomogram.

    Parameters
    ----------
    listed_angstrom
        Where they are listed, from the tomogram's centre, (m, 3), xyz.
    poses
        Their poses; shifts count from where they are listed.
    """

    listed_angstrom: NDArray[np.float64]
    poses: Pose

    def __len__(self) -> int:
        return len(self.listed_angstrom)

    @property
    def places_angstrom(self) -> NDArray[np.float64]:
        """Where they are, on average over the series, (m, 3)."""
        return self.listed_angstrom + self.poses.shift_angstrom


@dataclass(frozen=True)
class TrueSeries:
    """What is true of a series: how it differs from the nominal one, how its field is deformed and particles move.

    Parameters
    ----------
    nominal
        The series that the user gets.
    change
        From the nominal to the true geometry.
    deformation_angstrom
        Coefficients of x, y, x^2, x y, y^2 for either axis of each image, shape (t, 2, 5).
    motion_angstrom
        Each particle's path: coefficients of the dose and of its square, shape (m, 2, 3).
    half_field_angstrom
        The unit of x and y in the deformation.
    """

    nominal: TiltSeries
    change: TiltChange
    deformation_angstrom: NDArray[np.float64]
    motion_angstrom: NDArray[np.float64]
    half_field_angstrom: float

    @staticmethod
    def drawn(
        acquisition: Acquisition,
        errors: GeometryErrors,
        *,
        path: Path,
        count: int,
        field_angstrom: float,
        rng: np.random.Generator,
    ) -> TrueSeries:
        """Draw a series for ``count`` particles."""
        nominal = acquisition.series(path, rng)
        return TrueSeries(
            nominal,
            errors.change(nominal, acquisition.axis_deg, rng),
            rng.normal(0.0, errors.deformation_angstrom, (len(nominal), 2, 5)),
            rng.normal(0.0, errors.motion_angstrom, (count, 2, 3)),
            0.5 * field_angstrom,
        )

    @property
    def true(self) -> TiltSeries:
        """The true series; it knows that stacks are cut out with the nominal one."""
        return self.change.applied(self.nominal)

    def paths_angstrom(self, particle: int) -> NDArray[np.float64]:
        """Return how far a particle has moved at each image, (t, 3): not at all, on average over the series."""
        assert self.nominal.dose is not None
        dose = self.nominal.dose / max(self.nominal.dose.max(), 1e-12)  # 0 to 1
        course = np.stack([dose, (2.0 * dose - 1.0) ** 2], axis=1)  # (t, 2)
        moved: NDArray[np.float64] = (course - course.mean(axis=0)) @ self.motion_angstrom[particle]
        return moved

    def deformed_angstrom(self, place_angstrom: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return by how much each image is deformed at a place, (t, 2)."""
        x, y = place_angstrom[:2] / self.half_field_angstrom
        moved: NDArray[np.float64] = self.deformation_angstrom @ np.array([x, y, x * x, x * y, y * y])
        return moved

    def positions_angstrom(self, specimen: Specimen, particle: int) -> NDArray[np.float64]:
        """Return where each image shows a particle, from the image's centre pixel, xy, (t, 2)."""
        place = specimen.places_angstrom[particle]
        moved = (self.true.projections_xyz @ self.paths_angstrom(particle)[:, :, None])[..., 0]  # (t, 2)
        return self.true.positions_angstrom(place) + moved + self.deformed_angstrom(place)

    def transfer(
        self, specimen: Specimen, particle: int, frequency_xy_per_angstrom: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the transfer of each image of a particle at frequencies (s, 2), shape (t, s)."""
        true = self.true
        ctf = true.ctf(place_angstrom=specimen.places_angstrom[particle])
        return image_transfer(frequency_xy_per_angstrom, ctf, scale=true.scale, dose=true.dose)

    def matrices(self, specimen: Specimen, particle: int) -> NDArray[np.float64]:
        """Return the rotations from the particle's frame to the microscope's, (t, 3, 3)."""
        turned: NDArray[np.float64] = full_projections(self.true) @ specimen.poses.rotation[particle].as_matrix()
        return turned


def scattered_places(
    count: int,
    *,
    field_angstrom: float,
    thickness_angstrom: float,
    distance_angstrom: float,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Draw places in a disc of ice, no two nearer than a distance, which also stay half of it from its faces.

    Parameters
    ----------
    field_angstrom
        Diameter of the disc.
    thickness_angstrom
        Its thickness; in ice that is thinner than the distance all lie in its middle plane.

    Returns
    -------
    From the disc's centre, (count, 3), xyz.

    Raises
    ------
    ValueError
        If they do not fit.
    """
    radius, height = 0.5 * (field_angstrom - distance_angstrom), max(thickness_angstrom - distance_angstrom, 0.0)
    places, missed = np.empty((0, 3)), 0
    while len(places) < count and missed < MOST_DRAWS:
        place = np.append(rng.uniform(-1.0, 1.0, 2) * radius, rng.uniform(-0.5, 0.5) * height)
        near = np.linalg.norm(places - place, axis=1) < distance_angstrom
        found = np.hypot(*place[:2]) <= radius and not near.any()
        places, missed = (np.append(places, [place], axis=0), 0) if found else (places, missed + 1)
    if len(places) == count:
        return places
    raise ValueError(
        f"{count} particles, {distance_angstrom:.0f} angstrom apart, do not fit into a field of {field_angstrom:g} and"
        f" a thickness of {thickness_angstrom:g} angstrom; {len(places)} do: take a larger field or more tomograms"
    )
