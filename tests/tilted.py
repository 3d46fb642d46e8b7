"""Particles of Gaussians in a tilt series, projected one Gaussian at a time: the literal model of bundle adjustment.

Nothing of gonio's comparison is used here: projections, lens and images are written out from docs/theory.md section 17.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from gonio.io.maps import moved_images, premultiplied_anew
from gonio.particle.ctf import Ctf
from gonio.particle.particle_source import ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.tilt_change import StackGeometry, TiltChange
from gonio.particle.tilt_series import Optics, TiltSeries
from gonio.particle.volume import TiltStack, Volume

BOX, SIZE = 32, 6.0
WAVELENGTH, ABERRATION, AMPLITUDE = 0.0196875, 2.7e7, 0.07
SIGMA = 1.6 * SIZE
DEPTH = -1.0


def blobs(seed: int = 7, count: int = 14, reach: float = 7.0) -> np.ndarray:
    """Centres (angstrom) and weights of Gaussians, (a, 4), without any symmetry."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(count, 3))
    centres *= (reach * SIZE * rng.uniform(0.2, 1.0, count) / np.linalg.norm(centres, axis=1))[:, None]
    return np.column_stack([centres, rng.uniform(0.5, 1.5, count)])


def volume_of(atoms: np.ndarray, box: int = BOX) -> Volume:
    """The density in the middle of each voxel."""
    axis = (np.arange(box) - box // 2) * SIZE
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    data = np.zeros((box, box, box))
    for cx, cy, cz, weight in atoms:
        data += weight * np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / SIGMA**2)
    return Volume(data, SIZE)


@dataclass(frozen=True)
class Truth:
    """What every image was made by: projections P (t, 3, 3), shifts, and defocus (z, a1, a2) of the whole image."""

    projections: np.ndarray
    shift: np.ndarray
    defocus: np.ndarray
    scale: np.ndarray
    deformation: np.ndarray

    @staticmethod
    def of(projections: np.ndarray, defocus: np.ndarray, change: TiltChange) -> Truth:
        count = len(projections)
        turned = Rotation.from_rotvec(np.array(change.rotation_deg), degrees=True).as_matrix() @ projections
        astigmatism = np.zeros((count, 2)) if change.astigmatism_angstrom is None else change.astigmatism_angstrom
        lens = defocus + np.column_stack([change.defocus_angstrom, astigmatism])
        deformation = np.zeros((count, 2, 2)) if change.deformation is None else change.deformation
        scale = np.ones(count) if change.scale is None else change.scale
        return Truth(turned, change.shift_angstrom, lens, scale, deformation)

    def spectrum(self, tilt, atoms, rotation, shift, place, cut, frequency):
        """Samples of one image at frequencies (s, 2), 1/angstrom; ``cut`` is where its centre pixel was, (2,)."""
        total = np.zeros(len(frequency), complex)
        for x, y, z, weight in atoms:
            shown = self.projections[tilt] @ (place + shift + rotation @ np.array([x, y, z]))
            at = shown[:2] + self.shift[tilt] + self.deformation[tilt] @ place[:2] - cut
            total += weight * np.exp(-2j * np.pi * (frequency @ at))
        square = (frequency**2).sum(axis=1)
        total *= (2 * np.pi) ** 1.5 * (SIGMA / SIZE) ** 3 * np.exp(-2 * np.pi**2 * SIGMA**2 * square)
        z, a, b = self.defocus[tilt]
        phi = np.arctan2(frequency[:, 1], frequency[:, 0])
        depth = (self.projections[tilt] @ (place + shift))[2]
        focus = z + a * np.cos(2 * phi) + b * np.sin(2 * phi) + DEPTH * depth
        phase = np.pi * WAVELENGTH * focus * square - 0.5 * np.pi * ABERRATION * WAVELENGTH**3 * square**2
        lens = np.sin(phase + np.arctan2(AMPLITUDE, np.sqrt(1 - AMPLITUDE**2)))
        return self.scale[tilt] * lens * total


@dataclass
class Series:
    """A tomogram: its tilt series as the files state it, and the particles in it."""

    tilts_deg: np.ndarray = field(default_factory=lambda: np.linspace(-50, 50, 11))
    count: int = 6
    seed: int = 3
    spread: float = 500.0
    name: str = "one"
    axis_deg: float = 84.0
    underfocus: tuple[float, float] = (15000.0, 17000.0)
    premultiplied: bool = False

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        made = TiltSeries.of_angles(Path("made.star"), self.tilts_deg, axis_deg=self.axis_deg)
        count = len(self.tilts_deg)
        defocus = np.column_stack([rng.uniform(*self.underfocus, count)] * 2 + [np.zeros(count)])
        self.series = TiltSeries(
            Path("made.star"), made.projections_xyz, defocus=defocus, optics=Optics(300.0, 2.7, AMPLITUDE),
            defocus_per_depth=DEPTH,
        )  # fmt: skip
        axes = self.series.projections_xyz
        self.projections = np.concatenate([axes, np.cross(axes[:, 0], axes[:, 1])[:, None]], axis=1)
        self.defocus = np.column_stack([defocus[:, 0], np.zeros((count, 2))])
        self.places = rng.uniform(-1, 1, (self.count, 3)) * [self.spread, self.spread, 0.4 * self.spread]
        self.poses = Pose.random(self.count, rng=rng, max_shift_angstrom=8.0)
        self.atoms = blobs()

    def images(self, change: TiltChange, noise: float, rng: np.random.Generator, *, empty: bool = False) -> np.ndarray:
        """Images of all particles, (m, t, n, n), with white noise of this many standard deviations of the signal."""
        truth = Truth.of(self.projections, self.defocus, change)
        axis = np.fft.fftfreq(BOX, SIZE)
        frequency = np.stack(np.meshgrid(axis, axis, indexing="ij")[::-1], axis=-1).reshape(-1, 2)
        spectra = np.empty((self.count, len(self.tilts_deg), BOX, BOX), complex)
        for particle in range(self.count):
            rotation, shift = self.poses[particle].matrix, self.poses[particle].shift_angstrom
            place = self.places[particle]
            for tilt, projection in enumerate(self.projections):
                cut = (projection @ place)[:2]
                one = truth.spectrum(tilt, self.atoms, rotation, shift, place, cut, frequency)
                spectra[particle, tilt] = one.reshape(BOX, BOX)
        images = np.fft.fftshift(np.fft.ifft2(spectra).real, axes=(-2, -1))
        noisy = rng.normal(size=images.shape) * noise * images.std()
        made = noisy + (0.0 if empty else images)
        if not self.premultiplied:
            return made
        # By the transfer that the files state, whatever the true one is.
        stated = np.array([self.ctf(self.series, place).transfer(frequency) for place in self.places])
        return np.fft.ifft2(np.fft.fft2(made) * stated.reshape(made.shape)).real

    @staticmethod
    def ctf(series: TiltSeries, place: np.ndarray) -> Ctf:
        """The lens at a place, of the defocus that a series states."""
        at_centre = Ctf(*series.defocus.T, 300.0, 2.7, AMPLITUDE)
        return at_centre.refocused(DEPTH * series.depths_angstrom(place))

    def table(self, images: np.ndarray, poses: Pose | None = None) -> ParticleTable:
        """The list of these particles, which load from memory."""
        return ParticleTable(
            poses=self.poses if poses is None else poses,
            names=tuple(f"{self.name}/{i}" for i in range(self.count)),
            tomograms=(self.name,) * self.count,
            coordinates_angstrom=self.places,
            half_sets=(np.arange(self.count) % 2 + 1).astype(np.int8),
            source=Memory(self, images),
            rows=np.arange(self.count),
            coordinates_from="centre",
        )


@dataclass(frozen=True)
class Memory(ParticleSource):
    """Stacks in memory, with the geometry of their series."""

    made: Series
    images: np.ndarray
    now: TiltSeries | None = None

    @property
    def stacks(self):
        return True

    @property
    def series(self):
        return {self.made.name: self.now or self.made.series}

    def stack_geometry(self, index):
        series, place = self.series[self.made.name], self.made.places[index]
        return StackGeometry(series, np.arange(len(series)), place, self.made.ctf(series, place))

    def load(self, index):
        geometry, scale = self.stack_geometry(index), np.ones(len(self.made.series))
        series = geometry.series
        stack = TiltStack(
            moved_images(self.images[index], -geometry.offsets_angstrom / SIZE), series.projections_xyz, SIZE,
            ctf=geometry.ctf, ctf_premultiplied=self.made.premultiplied,
            scale=geometry.shows(BOX * SIZE) * (scale if series.scale is None else series.scale),
        )  # fmt: skip
        if not self.made.premultiplied:
            return stack
        before = self.made.ctf(self.made.series, geometry.place_angstrom)
        return premultiplied_anew(stack, before, scale if series.cut_scale is None else series.cut_scale)

    def with_changes(self, changes):
        return replace(self, now=changes[self.made.name].applied(self.series[self.made.name]))
