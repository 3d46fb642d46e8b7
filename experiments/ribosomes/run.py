"""Real ribosomes (EMPIAR-10499) against the atoms of 7P6Z: hand, resolution, and how well poses are found again.

    python experiments/ribosomes/run.py [--data ../shared/data]

Prints the numbers of docs/ribosomes.md. Shells finer than the limit of the refinement are never compared in it, so
their correlation with the reference tells whether new poses are better than the listed ones.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

import gonio
from gonio.averaging.averages import average
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.fourier.transform import low_passed
from gonio.particle.volume import Subtomogram, Volume, correlation, masked_volume, soft_sphere
from gonio.simulate import Structure

BOX, VOXEL_SIZE_ANGSTROM = 32, 12.0
LAY_RESOLUTION_ANGSTROM, RESOLUTION_ANGSTROM, FINEST_ANGSTROM = 38.0, 32.0, 25.6
DIAMETER_ANGSTROM = 260.0
PRIORS = {"none": (None, None), "10 deg, 12 A": (10.0, 12.0), "6 deg, 12 A": (6.0, 12.0), "2 deg, 6 A": (2.0, 6.0)}


def read_ribosomes(data: Path) -> tuple[gonio.ParticleTable, list, Volume, Volume]:
    """The list, its particles, the average of the input poses, and 7P6Z as a map in its own frame."""
    # The tilt sense of this set was reversed on import.
    table = gonio.read_particles(data / "empiar10499" / "optimisation_set.star", reverse_tilts=True)
    particles = list(table.particles())
    atoms = Structure.from_file(data / "structures" / "7p6z.cif.gz", resolution_angstrom=2 * VOXEL_SIZE_ANGSTROM)
    density = atoms.density(gonio.Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    return table, particles, average(particles, table.poses).volume, Volume(density, VOXEL_SIZE_ANGSTROM)


def laid_on(mean: Volume, reference: Volume) -> Volume:
    """The reference where it fits the average best, found among all orientations."""
    settings = gonio.Settings(search="independent", resolution_angstrom=LAY_RESOLUTION_ANGSTROM)
    target = Subtomogram(masked_volume(mean, DIAMETER_ANGSTROM))
    pose = gonio.align(target, reference, settings=settings).pose
    return moved(reference, pose.matrix, pose.shift_angstrom)


def masked_correlation(mean: Volume, reference: Volume) -> float:
    """Inside a soft sphere of the particle's diameter, to 38 angstrom."""
    ball = soft_sphere(BOX, radius_px=0.5 * DIAMETER_ANGSTROM / VOXEL_SIZE_ANGSTROM, edge_px=3.0)
    return correlation(
        *(low_passed(v, resolution_angstrom=LAY_RESOLUTION_ANGSTROM) for v in (mean, reference)), mask=ball
    )


def particle_mask(reference: Volume) -> np.ndarray:
    """A soft mask of the particle's shape: 5 % of the peak at 60 angstrom, edges smoothed by one voxel."""
    smooth = low_passed(reference, resolution_angstrom=60.0).data
    return np.clip(1.3 * gaussian_filter((smooth > 0.05 * smooth.max()).astype(float), 1.0), 0.0, 1.0)


def resolution(mean: Volume, reference: Volume, mask: np.ndarray) -> float:
    """Where the FSC of average and reference, both under the mask, falls below 0.5, angstrom."""
    one, two = (Volume(v.data * mask, v.voxel_size_angstrom) for v in (mean, reference))
    return resolution_at(fourier_shell_correlation(one, two), 0.5, box_angstrom=mean.box_angstrom)


@dataclass(frozen=True)
class Ribosomes:
    """The particles in memory, the input poses, and the reference in their frame."""

    particles: list
    poses: gonio.Pose
    reference: Volume

    def refined(self, start: gonio.Pose, prior: tuple[float | None, float | None]) -> tuple[gonio.Pose, np.ndarray]:
        """Locally refined poses, and whether each fits better than its start."""
        settings = gonio.Settings(
            search=gonio.LocalSearch(*prior),
            resolution_angstrom=RESOLUTION_ANGSTROM,
            particle_diameter_angstrom=DIAMETER_ANGSTROM,
        )
        aligner = gonio.Aligner(self.reference, settings)
        results = aligner.align_many(self.particles, starts=start, n_threads=2)
        before = [aligner.dissimilarity(p, start[i : i + 1])[0] for i, p in enumerate(self.particles)]
        return gonio.Pose.stack([r.pose for r in results]), np.array([r.dissimilarity for r in results]) < before

    def held_out_correlation(self, poses: gonio.Pose) -> float:
        """Correlation of all samples between the refinement's limit and 25.6 angstrom with the reference."""
        spectra = [gonio.Spectrum.of(p, resolution_angstrom=FINEST_ANGSTROM) for p in self.particles]
        volume = gonio.FourierVolume.of(self.reference, limit=spectra[0].limit)
        cross = target = model = 0.0
        for spectrum, pose in zip(spectra, (poses[i] for i in range(len(poses))), strict=True):
            k = spectrum.frequency_xyz.T.astype(np.float64)
            phase = np.exp(-2j * np.pi * k @ pose.shift_angstrom / (BOX * VOXEL_SIZE_ANGSTROM))
            g = spectrum.transfer * phase * volume.sample(k @ pose.matrix * (1 - 1e-6))
            fine = np.linalg.norm(k, axis=1) > BOX * VOXEL_SIZE_ANGSTROM / RESOLUTION_ANGSTROM
            cross += (spectrum.value * g.conj()).real[fine].sum()
            target += (np.abs(spectrum.value[fine]) ** 2).sum()
            model += (np.abs(g[fine]) ** 2).sum()
        return cross / np.sqrt(target * model)


def turned(poses: gonio.Pose, *, seed: int) -> gonio.Pose:
    """Poses turned by 10 degrees about random axes and shifted by 12 angstrom in random directions."""
    rng = np.random.default_rng(seed)
    axes, directions = (v / np.linalg.norm(v, axis=1)[:, None] for v in rng.standard_normal((2, len(poses), 3)))
    return poses.retract(np.hstack([np.radians(10.0) * axes, 12.0 * directions]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    data = parser.parse_args().data
    table, particles, mean, atoms = read_ribosomes(data)
    reference = laid_on(mean, atoms)
    mirror = laid_on(mean, Volume(atoms.data[:, :, ::-1], VOXEL_SIZE_ANGSTROM))
    given, mirrored = masked_correlation(mean, reference), masked_correlation(mean, mirror)
    print(f"7P6Z on the average of the input poses, to 38 A: {given:.3f}; its mirror image: {mirrored:.3f}")
    ribosomes = Ribosomes(particles, table.poses, reference)
    mask = particle_mask(reference)
    print(f"FSC 0.5 with 7P6Z, mask of its shape: {resolution(mean, reference, mask):.1f} A")
    print(f"held-out correlation at the input poses: {ribosomes.held_out_correlation(table.poses):.4f}")
    for name, prior in PRIORS.items():
        poses, better = ribosomes.refined(table.poses, prior)
        change = np.median(poses.rotation_distance_deg(table.poses))
        shift = np.median(poses.shift_distance_angstrom(table.poses))
        back = [
            int((ribosomes.refined(turned(table.poses, seed=seed), prior)[0].rotation_distance_deg(poses) < 5).sum())
            for seed in range(3)
        ]
        refined_mean = average(particles, poses).volume
        print(
            f"prior {name}: {better.sum()} of {len(better)} fit better, median change {change:.2f} degrees "
            f"{shift:.1f} A, held out {ribosomes.held_out_correlation(poses):.4f}, "
            f"average to 38 A {masked_correlation(refined_mean, reference):.3f}, "
            f"FSC 0.5 {resolution(refined_mean, reference, mask):.1f} A, "
            f"turned by 10 degrees and back within 5 of {len(better)}: {back}"
        )


if __name__ == "__main__":
    main()
