"""The same ribosomes as tilt stacks and as pseudo-subtomograms: amplitude and FSC of their averages, errors of poses.

    python experiments/pseudo_subtomograms/run.py --structures DATA/structures [--particles 30] [--snr 0.1]

Each particle of 7P6Z (box 48, 8 A, single tilts every 3 degrees to +-60, a defocus of its own from 2 to 4 micrometres)
is simulated as a stack; ``pseudo.sums_of`` makes its pseudo-subtomogram, as RELION does. Both are averaged at the true
poses and aligned to the atoms' map, locally from poses that are off, and over all orientations. Amplitudes are those of
the truth's transform, shell by shell; FSCs are with the truth, both within a soft sphere.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import gonio
from gonio.averaging.averages import average
from gonio.fourier.grid import index_grid
from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.volume import Particle, Subtomogram, Volume, soft_sphere
from gonio.particle.wedge import SquaredTransferWedge
from gonio.simulate import Imaging, Phantom, Structure, simulate_tilt_stack
from pseudo import sums_of

BOX, VOXEL_SIZE_ANGSTROM, FINEST_ANGSTROM = 48, 8.0, 24.0
RADIUS_ANGSTROM, EDGE_PX = 150.0, 3.0
OFF_DEG, OFF_ANGSTROM = 2.0, 3.0


@dataclass(frozen=True)
class Imaged:
    """Where particles truly are, what they are, and both kinds of images."""

    poses: Pose
    truth: Volume
    stacks: list[Particle]
    sums: list[Particle]


def imaged(structures: Path | None, count: int, snr: float, tilt_step_deg: float) -> Imaged:
    """Simulated particles of 7P6Z, or without its file of the phantom `sharp`."""
    if structures is None:
        density = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    else:
        atoms = Structure.from_file(structures / "7p6z.cif.gz", resolution_angstrom=FINEST_ANGSTROM)
        density = atoms.coarsened(tolerance=1e-3)
    rng = np.random.default_rng(1)
    poses, stacks = Pose.random(count, rng=rng, max_shift_angstrom=10.0), []
    for i in range(count):
        defocus = float(rng.uniform(20_000.0, 40_000.0))
        imaging = Imaging(
            box=BOX,
            voxel_size_angstrom=VOXEL_SIZE_ANGSTROM,
            tilt_step_deg=tilt_step_deg,
            snr=snr,
            ctf=Ctf(defocus, defocus, amplitude_contrast=0.07),
        )
        stacks.append(simulate_tilt_stack(density, poses[i], imaging=imaging, rng=rng))
    sums = []
    for data, squares in map(sums_of, stacks):
        wedge = SquaredTransferWedge(squares, VOXEL_SIZE_ANGSTROM)
        sums.append(Subtomogram(Volume(data, VOXEL_SIZE_ANGSTROM), wedge))
    truth = density.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    return Imaged(poses, Volume(truth, VOXEL_SIZE_ANGSTROM), stacks, sums)


def by_shells(map_: Volume, truth: Volume) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Amplitude of a map in units of the truth's, and FSC within the sphere, in shells 1, 2, ... to the finest."""
    sphere = soft_sphere(BOX, radius_px=RADIUS_ANGSTROM / VOXEL_SIZE_ANGSTROM, edge_px=EDGE_PX)
    cross, _, true = _sums(map_.data, truth.data)
    within, own, other = _sums(map_.data * sphere, truth.data * sphere)
    kept = slice(1, int(BOX * VOXEL_SIZE_ANGSTROM / FINEST_ANGSTROM) + 1)
    return (cross / true)[kept], (within / np.sqrt(own * other))[kept]


def _sums(one: NDArray, two: NDArray) -> list[NDArray[np.float64]]:
    """Products of two transforms, and squares of each, added up in shells."""
    a, b = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(v.astype(np.float64)))).ravel() for v in (one, two))
    shell = np.rint(np.linalg.norm(index_grid(BOX), axis=-1)).astype(int).ravel()
    return [np.bincount(shell, x) for x in ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2)]


def errors(particles: Sequence[Particle], set_: Imaged, search: str) -> tuple[float, float]:
    """Errors of rotations, degrees, and shifts, angstrom, when aligned to the truth: rms."""
    rng, count = np.random.default_rng(5), len(particles)
    off = Rotation.from_rotvec(np.radians(OFF_DEG) * rng.normal(size=(count, 3)))
    starts = Pose(off * set_.poses.rotation, set_.poses.shift_angstrom + OFF_ANGSTROM * rng.normal(size=(count, 3)))
    aligner = gonio.Aligner(set_.truth, gonio.Settings(search=search, resolution_angstrom=FINEST_ANGSTROM))
    found = Pose.stack(
        [aligner.align(p, start=starts[i] if search == "local" else None).pose for i, p in enumerate(particles)]
    )
    turn, shift = found.rotation_distance_deg(set_.poses), found.shift_distance_angstrom(set_.poses)
    return float(np.sqrt((turn**2).mean())), float(np.sqrt((shift**2).mean()))


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=None, help="Folder of 7p6z.cif.gz; without, a phantom.")
    parser.add_argument("--particles", type=int, default=30)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--tilt-step", type=float, default=3.0)
    parser.add_argument("--searches", nargs="+", default=["local", "coarse_to_fine"])
    options = parser.parse_args()
    set_ = imaged(options.structures, options.particles, options.snr, options.tilt_step)
    kinds = {"stacks": set_.stacks, "pseudo-subtomograms": set_.sums}
    curves = {name: by_shells(average(some, set_.poses).volume, set_.truth) for name, some in kinds.items()}
    print("| resolution | amplitude, stacks | pseudo-subtomograms | FSC, stacks | pseudo-subtomograms |")
    print("|---|---|---|---|---|")
    (amplitude, fsc), (amplitude_of_sums, fsc_of_sums) = curves.values()
    for row, cells in enumerate(zip(amplitude, amplitude_of_sums, fsc, fsc_of_sums, strict=True), start=1):
        print(f"| {BOX * VOXEL_SIZE_ANGSTROM / row:.0f} A | {' | '.join(f'{cell:.3f}' for cell in cells)} |")
    print("\n| search | stacks | pseudo-subtomograms |\n|---|---|---|")
    for search in options.searches:
        cells = (errors(some, set_, search) for some in kinds.values())
        print(f"| {search} | {' | '.join(f'{turn:.3f} degrees, {shift:.3f} A' for turn, shift in cells)} |")


if __name__ == "__main__":
    main()
