"""The four complexes of the paper's Figures 5 and 6 as particles: atoms where they are to be had, phantoms elsewhere.

GroEL, RNA polymerase, enolase and ClpP at 40 angstrom (1OEL stands for the paper's 1KP8), each about its centre of
mass, seen through the paper's microscope in boxes of 32 voxels of 10 angstrom. Particle i of a complex is turned
uniformly on SO(3) and shifted by up to two voxels along each axis, the same everywhere.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

import gonio
from gonio.fourier.fourier_volume import moved
from gonio.particle.volume import correlation
from gonio.simulate import PAPER_CTF, PHANTOM_NAMES, Density, Imaging, Phantom, Structure, simulate_subtomogram
from pairs import BOX, MAX_SHIFT_VOXELS, VOXEL_SIZE_ANGSTROM

STRUCTURES = Path(__file__).resolve().parents[2] / "shared" / "data" / "structures"
COMPLEXES = {"1oel": "GroEL", "2gho": "RNA polymerase", "1w6t": "enolase", "1yg6": "ClpP"}
STAND_INS = (*PHANTOM_NAMES, "rings")
RESOLUTION_ANGSTROM = 40.0
SNR, TILT_DEG = 0.5, 60.0
SEEDS = {name: number for number, name in enumerate((*COMPLEXES, *STAND_INS))}


def names_at(structures: Path) -> tuple[str, ...]:
    """The complexes, or four phantoms where their atoms are not all there."""
    return tuple(COMPLEXES) if all(file_of(name, structures).exists() for name in COMPLEXES) else STAND_INS


def file_of(name: str, structures: Path) -> Path:
    """The atoms of a complex."""
    return structures / f"{name}.pdb.gz"


@lru_cache(maxsize=len(SEEDS))
def density_of(name: str, structures: Path) -> Density:
    """A complex or a phantom, its centre of mass on the centre of the box."""
    if name in COMPLEXES:
        atoms = Structure.from_file(file_of(name, structures), resolution_angstrom=RESOLUTION_ANGSTROM)
        return atoms.coarsened()  # right to 1e-4 and 1.6 to 4 times as fast
    if name == "rings":
        return two_rings()
    return Phantom.named(name, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM).centred()


def two_rings() -> Phantom:
    """Two rings of seven, back to back, as the chaperonin and the protease are: its symmetry is D7."""
    turns = 2.0 * np.pi / 7.0 * np.arange(7)
    upper = np.stack([60.0 * np.cos(turns), 60.0 * np.sin(turns), np.full(7, 40.0)], axis=-1)
    centres = np.concatenate([upper, upper * [1.0, -1.0, -1.0]])  # (14, 3)
    return Phantom.from_standard_deviations(np.ones(14), centres, sds_xyz=np.full((14, 3), 16.0))


@lru_cache(maxsize=len(SEEDS))
def true_map(name: str, structures: Path) -> gonio.Volume:
    """The density itself: the paper's initial map."""
    data = density_of(name, structures).density(gonio.Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    return gonio.Volume(data, VOXEL_SIZE_ANGSTROM)


def imaging_of(tilt_deg: float, snr: float) -> Imaging:
    """The paper's microscope with tilts of up to an angle."""
    return Imaging(
        box=BOX,
        voxel_size_angstrom=VOXEL_SIZE_ANGSTROM,
        tilt_min_deg=-tilt_deg,
        tilt_max_deg=tilt_deg,
        snr=snr,
        ctf=PAPER_CTF,
    )


@lru_cache(maxsize=len(SEEDS))
def imaged_map(name: str, structures: Path) -> gonio.Volume:
    """The same through the particles' microscope, from all sides and without noise."""
    whole = imaging_of(90.0, np.inf)
    rng = np.random.default_rng(0)
    return simulate_subtomogram(density_of(name, structures), gonio.Pose.identity(), imaging=whole, rng=rng).volume


def pose_of(name: str, index: int) -> gonio.Pose:
    """Where particle ``index`` of a complex is."""
    return gonio.Pose.random(
        1, rng=np.random.default_rng([SEEDS[name], index]), max_shift_angstrom=MAX_SHIFT_VOXELS * VOXEL_SIZE_ANGSTROM
    )[0]


def simulated(name: str, index: int, structures: Path) -> gonio.Subtomogram:
    """Particle ``index`` of a complex, as the microscope has measured it."""
    imaging = imaging_of(TILT_DEG, SNR)
    rng = np.random.default_rng([SEEDS[name], index, 1])
    return simulate_subtomogram(density_of(name, structures), pose_of(name, index), imaging=imaging, rng=rng)


def pose_errors(pose: gonio.Pose, truth: gonio.Pose, truth_map: gonio.Volume) -> dict:
    """How far a pose is off, and how well the map laid there fits the map laid at the true pose.

    The correlation is 1 at all poses that a symmetry makes alike; the rotation error knows of one alone.
    """
    off = truth.inverse() @ pose
    return {
        "rotation_error_deg": float(pose.rotation_distance_deg(truth)),
        "shift_error_voxel": float(pose.shift_distance_angstrom(truth)) / VOXEL_SIZE_ANGSTROM,
        "correlation": correlation(moved(truth_map, off.matrix, off.shift_angstrom), truth_map),
    }
