"""Simulated pairs of subtomograms with a known pose between them, and how far an alignment is from it.

A pair is two particles of one phantom, each turned uniformly on SO(3) and shifted by up to two voxels along each axis,
imaged apart from one another. Pair i of a cell is the same on every machine and for every method.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import gonio
from gonio.simulate import PAPER_CTF, Imaging, Phantom, simulate_subtomogram

VOXEL_SIZE_ANGSTROM = 10.0
BOX = 32
MAX_SHIFT_VOXELS = 2.0
NAMES = ("four_gaussians", "sharp", "pseudo_symmetric")  # the order seeds the pairs


@dataclass(frozen=True)
class Cell:
    """One cell of the paper's tables: phantom, tilt range of +-tilt_deg, and signal-to-noise ratio."""

    phantom: str
    tilt_deg: int
    snr: float

    def __str__(self) -> str:
        return f"{self.phantom} +-{self.tilt_deg} SNR {self.snr:g}"


@dataclass(frozen=True)
class Pair:
    """Two subtomograms, the pose that lays the reference on the target, and where the reference's particle is."""

    target: gonio.Subtomogram
    reference: gonio.Subtomogram
    truth: gonio.Pose
    centre_angstrom: np.ndarray

    def with_normals(self, target_normal: np.ndarray, reference_normal: np.ndarray) -> Pair:
        """The same pair with a known axis on each particle."""
        target, reference = (
            gonio.Subtomogram(particle.volume, particle.wedge, normal_xyz=normal)
            for particle, normal in ((self.target, target_normal), (self.reference, reference_normal))
        )
        return Pair(target, reference, self.truth, self.centre_angstrom)

    def errors(self, pose: gonio.Pose) -> tuple[float, float, float]:
        """Rotation error in degrees, shift error in voxels, and how far the particle's own centre is off in voxels.

        The shift is that about the box centre, so its error (the paper's) holds that of the rotation times the
        distance of the reference's particle from its box centre.
        """
        rotation = float(pose.rotation_distance_deg(self.truth))
        off = pose.apply(self.centre_angstrom) - self.truth.apply(self.centre_angstrom)
        shift = float(pose.shift_distance_angstrom(self.truth))
        return rotation, shift / VOXEL_SIZE_ANGSTROM, float(np.linalg.norm(off)) / VOXEL_SIZE_ANGSTROM


def pair_poses(phantom: str, index: int, *, seed: int = 0) -> gonio.Pose:
    """Where the particles of pair ``index`` are, target first: by the index alone, so that cells differ by imaging."""
    rng = np.random.default_rng([seed, NAMES.index(phantom), index])
    return gonio.Pose.random(2, rng=rng, max_shift_angstrom=MAX_SHIFT_VOXELS * VOXEL_SIZE_ANGSTROM)


def imaging_of(cell: Cell) -> Imaging:
    """The paper's microscope with the tilts and the noise of a cell."""
    return Imaging(
        box=BOX,
        voxel_size_angstrom=VOXEL_SIZE_ANGSTROM,
        tilt_min_deg=-cell.tilt_deg,
        tilt_max_deg=cell.tilt_deg,
        snr=cell.snr,
        ctf=PAPER_CTF,
    )


@lru_cache(maxsize=2)
def make_pair(cell: Cell, index: int, *, seed: int = 0, with_normals: bool = False) -> Pair:
    """Pair ``index`` of a cell; with normals, the phantom's own z axis is known in both particles."""
    noise_key = 0 if np.isinf(cell.snr) else round(1000 * cell.snr)
    noise_rng = np.random.default_rng([seed, NAMES.index(cell.phantom), index, cell.tilt_deg, noise_key])
    density = Phantom.named(cell.phantom, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    target_pose, reference_pose = poses = pair_poses(cell.phantom, index, seed=seed)
    imaging = imaging_of(cell)
    target, reference = (simulate_subtomogram(density, pose, imaging=imaging, rng=noise_rng) for pose in poses)
    truth = target_pose @ reference_pose.inverse()
    pair = Pair(target, reference, truth, reference_pose.shift_angstrom)
    if with_normals:
        return pair.with_normals(target_pose.matrix[:, 2], reference_pose.matrix[:, 2])
    return pair


def median_and_mad(values: np.ndarray) -> tuple[float, float]:
    """Median and median absolute deviation, as in the paper's tables."""
    median = float(np.median(values))
    return median, float(np.median(np.abs(np.asarray(values) - median)))
