"""Subtomograms made from atoms without gonio's own simulator: what its refinement is tried on.

    structure   atoms as Gaussians, turned and shifted themselves, so that no volume is ever interpolated
    imaging     twice the box; the frequencies between the first and the last tilt; white noise over the same
                frequencies; the contrast transfer of one lens, phases flipped, or none (corrected, or a phase plate)

then the middle is cut out, whose edge smears the wedge as that of a reconstruction does. SNR is the ratio of variances
in the box that is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numba import njit
from numpy.typing import NDArray

import gonio

STRUCTURES = Path(__file__).parents[2] / "shared" / "data" / "structures"
FINE = 2  # atoms are put on a grid so many times finer than the voxels
SIGMA_VOXELS = 0.5


@dataclass(frozen=True)
class Lens:
    """Of 300 kV, 2.7 mm; underfocus in angstrom."""

    defocus_angstrom: float = 35000.0
    amplitude_contrast: float = 0.07

    def flipped(self, frequency: NDArray) -> NDArray:
        """The absolute transfer at frequencies, 1/angstrom."""
        wavelength, cs = 0.0196875, 2.7e7
        phase = (
            np.pi * wavelength * self.defocus_angstrom * frequency**2 - 0.5 * np.pi * cs * wavelength**3 * frequency**4
        )
        w = self.amplitude_contrast
        return np.abs(np.sqrt(1.0 - w * w) * np.sin(phase) + w * np.cos(phase))


@dataclass(frozen=True)
class Atoms:
    """Places (a, 3) in angstrom about their centre, and electrons (a,)."""

    xyz: NDArray[np.float64]
    electrons: NDArray[np.float64]

    @staticmethod
    def read(path: Path, *, most: int = 20000, seed: int = 0) -> Atoms:
        """All atoms of the first assembly of an entry; of more than ``most``, so many drawn at random."""
        structure = gemmi.read_structure(str(path))
        if structure.assemblies:
            structure.transform_to_assembly("1", gemmi.HowToNameCopiedChain.AddNumber)
        found = [(*a.atom.pos.tolist(), a.atom.element.atomic_number) for a in structure[0].all()]
        table = np.array(found)
        if len(table) > most:
            table = table[np.random.default_rng(seed).choice(len(table), most, replace=False)]
        xyz = table[:, :3] - np.average(table[:, :3], axis=0, weights=table[:, 3])
        return Atoms(xyz, table[:, 3])

    @staticmethod
    def blobs(radius_angstrom: float, *, count: int = 60, seed: int = 0) -> Atoms:
        """A stand-in where there are no atoms: random places in an ellipsoid, alike under no rotation."""
        rng = np.random.default_rng(seed)
        xyz = rng.normal(size=(count, 3)) * radius_angstrom * np.array([1.0, 0.7, 0.45])
        return Atoms(xyz - xyz.mean(axis=0), np.ones(count))

    def density(self, pose: gonio.Pose, *, box: int, voxel: float) -> NDArray[np.float32]:
        """In a box (z, y, x), low-passed to its voxels by cutting its transform."""
        places = self.xyz @ pose.matrix.T + pose.shift_angstrom
        m, size = FINE * box, voxel / FINE
        fine = np.zeros((m, m, m))
        _spread(fine, places / size + m // 2, self.electrons, SIGMA_VOXELS * FINE)
        spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(fine)))
        first = m // 2 - box // 2
        part = slice(first, first + box)
        return np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum[part, part, part]))).real.astype(np.float32)


@njit
def _spread(fine, places, weight, sigma):
    reach = int(np.ceil(4.0 * sigma))
    for a in range(len(places)):
        # A Gaussian is the product of one along each axis.
        i, gx = _along(places[a, 0], len(fine), reach, sigma)
        j, gy = _along(places[a, 1], len(fine), reach, sigma)
        k, gz = _along(places[a, 2], len(fine), reach, sigma)
        for w in range(len(gz)):
            for v in range(len(gy)):
                for u in range(len(gx)):
                    fine[k + w, j + v, i + u] += weight[a] * gz[w] * gy[v] * gx[u]


@njit
def _along(place, size, reach, sigma):
    """The first point of an axis that a Gaussian reaches, and its values from there."""
    first, last = max(0, int(place) - reach), min(size, int(place) + reach + 2)
    return first, np.exp(-0.5 * ((np.arange(first, last) - place) / sigma) ** 2)


@dataclass(frozen=True)
class Camera:
    """How subtomograms come about."""

    box: int = 32
    voxel: float = 8.0
    tilt_deg: float = 60.0
    snr: float = 0.01
    lens: Lens | None = None

    def transfer(self) -> NDArray[np.float64]:
        """What twice the box sees of a density, zero frequency first."""
        k = np.fft.fftfreq(2 * self.box, self.voxel)
        kz, ky, kx = np.meshgrid(k, k, k, indexing="ij")
        seen = np.abs(kz) <= np.abs(kx) * np.tan(np.radians(self.tilt_deg)) + 1e-9
        radius = np.sqrt(kx**2 + ky**2 + kz**2)
        return seen * (1.0 if self.lens is None else self.lens.flipped(radius))

    def signal(self, density: NDArray, transfer: NDArray) -> NDArray[np.float64]:
        """A density in the box as the microscope shows it."""
        first = self.box // 2
        wide = np.pad(density, ((first, first),) * 3)
        seen = np.fft.ifftn(np.fft.fftn(wide) * transfer).real
        return seen[first:-first, first:-first, first:-first]

    def noise(self, transfer: NDArray, rng: np.random.Generator) -> NDArray[np.float64]:
        """White noise where the microscope sees anything, of any scale."""
        first = self.box // 2
        wide = np.fft.ifftn(np.fft.fftn(rng.standard_normal((2 * self.box,) * 3)) * (transfer != 0)).real
        return wide[first:-first, first:-first, first:-first]


def particles(
    atoms: Atoms, camera: Camera, truth: gonio.Pose, *, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Subtomograms of the structure at poses, (m, n, n, n), and the density itself, (n, n, n)."""
    transfer, rng, data = camera.transfer(), np.random.default_rng((seed, 17)), []
    for one in range(len(truth)):
        signal = camera.signal(atoms.density(truth[one], box=camera.box, voxel=camera.voxel), transfer)
        noise = camera.noise(transfer, rng)
        data.append((signal / signal.std() + noise / noise.std() / np.sqrt(camera.snr)).astype(np.float32))
    return np.array(data), atoms.density(gonio.Pose.identity(), box=camera.box, voxel=camera.voxel)
