"""Do both halves of a local refinement end in one frame, and is the resolution that they state the true one?

    python experiments/refine/frames.py [--particles 160] [--snr 0.03] [--seeds 1] [--box 64] [--voxel 4.8]

Stacks of 41 tilt images of the 70S ribosome (7P6Z; -60 to 60 degrees, 2 to 4 um underfocus with amplitude contrast
0.07, 3 electrons per square angstrom a tilt; atoms projected one by one), refined from input poses that are off by 2
degrees and 4 angstrom along every axis. Prints, for each iteration, how far the frames of the halves are apart: by the
mean of their pose errors and by aligning the half maps; how the poses scatter about their frames; the stated
resolution, and where the FSC with the truth falls below 0.5; and first the same of averages at the true poses. Where
the structure is absent a random heap of atoms takes its place.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import scipy.fft
from scipy.spatial.transform import Rotation

import gonio
from gonio.averaging.averages import Average, average_table
from gonio.averaging.resolution import half_map_fsc
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.particle.ctf import Ctf, dose_decay
from gonio.particle.pose import Pose
from gonio.particle.volume import TiltStack, Volume
from gonio.simulate.microscope import tilt_angles_deg, tilt_poses
from gonio.simulate.structure import Atoms, Structure, read_atoms
from gonio.workflows.half_frames import Apart, drift_of
from gonio.workflows.refinement import fsc_mask, refined
from gonio.workflows.refinement_plan import Iteration, Plan
from held import Held

TILTS_DEG = tilt_angles_deg(-60.0, 60.0, step_deg=3.0)
DOSE_PER_TILT = 3.0  # electrons per square angstrom
FINENESS = 4  # grid points along a pixel on which atoms are counted
OFF_DEG, OFF_ANGSTROM = 2.0, 4.0
STRUCTURE = Path(__file__).resolve().parents[3] / "shared" / "data" / "structures" / "7p6z.cif.gz"


@dataclass(frozen=True)
class Imaging:
    """Box and pixel of the images, and the variance of their signal over that of their noise."""

    box: int
    voxel_angstrom: float
    snr: float

    @property
    def blur_angstrom(self) -> float:
        """Standard deviation of an atom: the density ends at two pixels."""
        return self.voxel_angstrom / np.sqrt(3.0)

    def projections(self, atoms: Atoms, poses: Pose) -> np.ndarray:
        """Of atoms at t poses along z, on a field of twice the box, (t, 2 n, 2 n)."""
        box, count = self.box, 2 * self.box * FINENESS
        frequency = scipy.fft.fftfreq(count, self.voxel_angstrom / FINENESS)
        blur = np.exp(-2.0 * (np.pi * self.blur_angstrom * frequency) ** 2)
        kept = np.r_[0:box, count - box : count]  # frequencies of the field
        images = np.empty((len(poses), 2 * box, 2 * box))
        for index, image in enumerate(images):
            place = poses[index].apply(atoms.positions_xyz_angstrom)[:, :2] * FINENESS / self.voxel_angstrom
            x, y = np.rint(place + count // 2).astype(int).T
            fine = np.bincount(y * count + x, atoms.weights, minlength=count**2).reshape(count, count)
            spectrum = scipy.fft.fft2(scipy.fft.ifftshift(fine)) * blur[:, None] * blur
            image[:] = scipy.fft.fftshift(scipy.fft.ifft2(spectrum[np.ix_(kept, kept)]).real)
        return images

    def stack(self, atoms: Atoms, pose: Pose, rng: np.random.Generator) -> TiltStack:
        """Tilt images of one particle; noise comes with the counting, behind CTF and dose."""
        poses = tilt_poses(pose, TILTS_DEG, axis_deg=90.0)
        defocus = np.full(len(poses), rng.uniform(20_000.0, 40_000.0))
        ctf = Ctf(defocus, defocus, np.zeros(len(poses)))
        dose = DOSE_PER_TILT * np.argsort(np.argsort(np.abs(TILTS_DEG), kind="stable"))  # from no tilt outwards
        frequency = scipy.fft.fftfreq(2 * self.box, self.voxel_angstrom)
        plane = np.stack(np.broadcast_arrays(frequency, frequency[:, None]), axis=-1).reshape(-1, 2)
        transfer = ctf.transfer(plane) * dose_decay(np.linalg.norm(plane, axis=-1), dose)  # (t, s)
        spectra = scipy.fft.fft2(self.projections(atoms, poses)) * transfer.reshape(len(poses), *2 * [2 * self.box])
        window = slice(self.box // 2, self.box // 2 + self.box)
        clean = scipy.fft.ifft2(spectra).real[:, window, window]
        noisy = clean + np.sqrt(clean.var() / self.snr) * rng.standard_normal(clean.shape)
        rows = tilt_poses(Pose.identity(), TILTS_DEG, axis_deg=90.0).matrix[:, :2]
        return TiltStack(noisy.astype(np.float32), rows, self.voxel_angstrom, ctf=ctf, dose=dose.astype(float))

    def map_of(self, atoms: Atoms) -> Volume:
        """The density that particles at their true poses show."""
        structure = Structure.from_atoms(atoms, resolution_angstrom=2.0 * self.voxel_angstrom, centred=False)
        density = structure.density(Pose.identity(), box=self.box, voxel_size_angstrom=self.voxel_angstrom)
        return Volume(density.astype(np.float32), self.voxel_angstrom)


def atoms_of(path: Path) -> Atoms:
    """A structure about its centre of mass, or a heap of 2000 atoms of its size."""
    if not path.exists():
        heap = np.random.default_rng(0).normal(size=(2000, 3)) * [60.0, 45.0, 35.0]
        return Atoms(np.ones(len(heap)), heap + 25.0 * np.sign(heap[:, ::-1]), 1)
    atoms = read_atoms(path)
    centred = atoms.positions_xyz_angstrom - atoms.centre_of_mass_xyz_angstrom
    return Atoms(atoms.weights, centred, atoms.chain_count)


def simulated(atoms: Atoms, imaging: Imaging, *, count: int, seed: int) -> tuple[gonio.ParticleTable, Pose]:
    """A list whose poses are off, and the true poses."""
    rng = np.random.default_rng(seed)
    truth = Pose.random(count, rng=rng, max_shift_angstrom=imaging.voxel_angstrom)
    off = np.hstack([np.radians(OFF_DEG) * rng.normal(size=(count, 3)), OFF_ANGSTROM * rng.normal(size=(count, 3))])
    halves = (1 + rng.permutation(count) % 2).astype(np.int8)
    particles = [imaging.stack(atoms, truth[i], rng) for i in range(count)]
    names = tuple(f"simulated/{i + 1}" for i in range(count))
    table = gonio.ParticleTable(truth.retract(off), names, ("",) * count, half_sets=halves, source=Held(particles))
    return table, truth


@dataclass(frozen=True)
class Judge:
    """The truth, by which refinements are judged."""

    poses: Pose
    map: Volume

    def frames(self, table: gonio.ParticleTable) -> list[Pose]:
        """For each half the pose D with which ``true pose @ D`` is nearest to its poses: where its map lies."""
        return [mean(self.poses[chosen].inverse() @ table.poses[chosen]) for chosen in rows_of(table)]

    def scatter(self, table: gonio.ParticleTable) -> str:
        """Of poses about the frames of their halves, root mean square over all axes."""
        off = np.empty((len(table), 2))
        for frame, chosen in zip(self.frames(table), rows_of(table), strict=True):
            own = self.poses[chosen] @ Pose.stack([frame] * int(chosen.sum()))
            poses = table.poses[chosen]
            off[chosen] = np.stack([poses.rotation_distance_deg(own), poses.shift_distance_angstrom(own)], axis=1)
        turn, shift = np.sqrt((off**2).mean(axis=0))
        return f"{turn:.2f} deg {shift:.2f} A"

    def resolution(self, volume: Volume, frame: Pose) -> float:
        """Where the FSC with the truth, which lies in a frame, falls below 0.5 under a mask, angstrom."""
        back = frame.inverse()  # x_half = D x_true, so that the average shows the truth moved by the inverse of D
        mask = fsc_mask(self.map, Plan()).data
        pair = (volume, moved(self.map, back.matrix, back.shift_angstrom))
        curve = fourier_shell_correlation(*(Volume(one.data * mask, one.voxel_size_angstrom) for one in pair))
        return resolution_at(curve, 0.5, box_angstrom=volume.box_angstrom)


def rows_of(table: gonio.ParticleTable) -> list[np.ndarray]:
    """Which particles are in half 1, and in half 2."""
    return [np.asarray(table.half_sets) == half for half in (1, 2)]


def mean(poses: Pose) -> Pose:
    """Of a batch."""
    return Pose(poses.rotation.mean(), poses.shift_angstrom.mean(axis=0))


def apart(one: Pose, other: Pose | None = None) -> str:
    """How far, for people."""
    other = Pose.identity() if other is None else other
    return f"{one.rotation_distance_deg(other):.3f} deg {one.shift_distance_angstrom(other):.3f} A"


def told(one: Iteration, judge: Judge) -> str:
    """An iteration in a line."""
    frames = judge.frames(one.table)
    both = Pose(Rotation.concatenate([f.rotation for f in frames]).mean(), sum(f.shift_angstrom for f in frames) / 2)
    mask = fsc_mask(one.volume, Plan())
    maps = drift_of(one.halves, Apart(9.0, 99.0), mask=mask, radius=100.0, limit=one.resolution_angstrom)
    return (
        f"{one.number}: to {one.limit_angstrom:.2f} A, states {one.resolution_angstrom:.2f} A, FSC 0.5 with the truth "
        f"{judge.resolution(one.volume, both):.2f} A; frames apart {apart(*frames)}, "
        f"maps {apart(Pose.identity() if maps is None else maps)}; "
        f"corrected by {apart(Pose.identity() if one.drift is None else one.drift)}; "
        f"poses about their frames {judge.scatter(one.table)}; moved {one.moved_sds:.2f} sd {one.ended}"
    )


def told_of_truth(made: Average, judge: Judge) -> str:
    """What averages at the true poses come to."""
    assert made.halves is not None
    fsc = half_map_fsc(made.halves, mask=fsc_mask(made.volume, Plan()), rng=np.random.default_rng(0))
    found = judge.resolution(made.volume, Pose.identity())
    return f"true poses: states {fsc.resolution_angstrom():.2f} A, FSC 0.5 with the truth {found:.2f} A"


def main() -> None:
    """Print a line for each iteration."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=160)
    parser.add_argument("--snr", type=float, default=0.03)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--voxel", type=float, default=4.8)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--structure", type=Path, default=STRUCTURE)
    options = parser.parse_args()
    atoms, imaging = atoms_of(options.structure), Imaging(options.box, options.voxel, options.snr)
    for seed in range(options.seeds):
        start = time.monotonic()
        table, truth = simulated(atoms, imaging, count=options.particles, seed=seed)
        judge = Judge(truth, imaging.map_of(atoms))
        made = average_table(table.with_poses(truth), half_sets=np.asarray(table.half_sets))
        print(f"seed {seed}; {told_of_truth(made, judge)}")
        plan = Plan(listed=gonio.LocalSearch(OFF_DEG, OFF_ANGSTROM), max_iterations=options.iterations)
        for one in refined(table, None, plan):
            print(f"  {told(one, judge)}; {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
