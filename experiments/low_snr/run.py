"""Refinement against the truth at low SNR, on subtomograms that share none of gonio's assumptions.

    python experiments/low_snr/run.py [--snr 0.02 0.01 0.007] [--ctf] [--assignment auto] [--particles 300] [--noise]
        [--complex 2gho.pdb.gz] [--box 32] [--voxel-size 8] [--start-resolution 50] [--iterations 10] [--out DIR]

RNA polymerase in boxes of 32 voxels of 8 A, +-60 degrees, white noise (``experiments/atoms.py``); low shells are
present (no lens), or are those of a lens of 3.5 um with an amplitude contrast of 0.07, phases flipped (--ctf). SNR is
the ratio of variances in the box. Random poses, refined from the structure at 50 A. Printed for every iteration: how
many poses are right (within 15 degrees), and how much of the average is at such; the median errors, the rms error of
those that are right over what was predicted (also in the frame that all poses share, which no particle can tell), how
far the halves agree, and how far the map agrees with the truth (FSC 0.5 within a soft sphere). --noise
refines as many boxes of noise from the same map. Without atoms a stand-in is taken. Writes summary.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

import gonio
from atoms import STRUCTURES, Atoms, Camera, Lens, particles
from errors import RIGHT_DEG, OverPredicted, agreement, in_frame_of
from gonio.averaging.averages import average
from gonio.particle.pose import PoseSample
from gonio.run.executor import Local
from gonio.workflows.refinement import fsc_mask, refined, start_map
from gonio.workflows.refinement_plan import Iteration, Plan
from held import Held


@dataclass(frozen=True)
class Sample:
    """Particles in random half sets at poses that say nothing, their true poses, and the density itself."""

    table: gonio.ParticleTable
    truth: gonio.Pose
    density: gonio.Volume

    @property
    def held(self) -> list[gonio.Subtomogram]:
        """The particles."""
        return list(self.table.particles())


def sample(atoms: Atoms, camera: Camera, *, count: int, seed: int) -> Sample:
    """Simulate particles at random poses, up to two voxels off."""
    rng = np.random.default_rng((seed, 0))
    truth = gonio.Pose.random(count, rng=rng, max_shift_angstrom=2.0 * camera.voxel)
    data, density = particles(atoms, camera, truth, seed=seed)
    return Sample(table_of(data, camera, seed), truth, gonio.Volume(density, camera.voxel))


def noise_alone(camera: Camera, *, count: int, seed: int) -> gonio.ParticleTable:
    """Boxes of noise through the same microscope."""
    transfer, rng = camera.transfer(), np.random.default_rng((seed, 19))
    data = np.array([camera.noise(transfer, rng) for _ in range(count)], dtype=np.float32)
    return table_of(data, camera, seed)


def table_of(data: NDArray[np.float32], camera: Camera, seed: int) -> gonio.ParticleTable:
    """Particles in even halves, at random poses."""
    wedge = gonio.SingleAxisWedge(-camera.tilt_deg, camera.tilt_deg)
    held = [gonio.Subtomogram(gonio.Volume(d, camera.voxel), wedge) for d in data]
    rng, count = np.random.default_rng((seed, 3)), len(data)
    return gonio.ParticleTable(
        gonio.Pose(Rotation.random(count, rng=rng), np.zeros((count, 3))),
        tuple(f"simulated/{i + 1}" for i in range(count)),
        ("simulated",) * count,
        half_sets=(1 + rng.permutation(count) % 2).astype(np.int8),
        source=Held(held),
    )


def row(one: Iteration, made: Sample, mask: gonio.Volume) -> dict:
    """What an iteration came to, against the truth; all but the halves are none of the particles of noise."""
    turned = np.asarray(one.table.poses.rotation_distance_deg(made.truth))
    shifted = np.asarray(one.table.poses.shift_distance_angstrom(made.truth))
    covariances = np.array([result.covariance for result in one.results])
    own = in_frame_of(made.truth, one.table.poses)
    over, about = (OverPredicted.of(one.table.poses, covariances, truth) for truth in (made.truth, own))
    return {
        "iteration": one.number,
        "search": str(one.search),
        "limit_angstrom": one.limit_angstrom,
        "right": over.right,
        "drawn_right": drawn_right(one, made.truth),
        "median_deg": float(np.median(turned)),
        "median_angstrom": float(np.median(shifted)),
        "over_predicted": (over.rotation, over.shift),
        "over_predicted_in_frame": (about.rotation, about.shift),
        "frame_deg": float(own[0].rotation_distance_deg(made.truth[0])),
        "halves_angstrom": one.resolution_angstrom,
        "truth_angstrom": agreement(one.volume, made.density, mask),
        "ended": one.ended,
    }


def drawn_right(one: Iteration, truth: gonio.Pose) -> float:
    """How much of the average is at poses within 15 degrees of the truth."""
    near = []
    for i, result in enumerate(one.results):
        poses = PoseSample(one.table.poses[i : i + 1], np.ones(1)) if result.sampled is None else result.sampled
        near.append(poses.weights[np.asarray(poses.poses.rotation_distance_deg(truth[i])) < RIGHT_DEG].sum())
    return float(np.mean(near))


def shown(one: dict) -> str:
    """A row in a line."""
    return (
        f"  {one['iteration']:2d} {one['search']:14s} to {one['limit_angstrom']:5.1f} A: {one['right']:6.1%} right"
        f" ({one['drawn_right']:.0%} as averaged),"
        f" {one['median_deg']:5.2f} degrees {one['median_angstrom']:5.2f} A,"
        f" {one['over_predicted'][0]:4.2f} and {one['over_predicted'][1]:4.2f} of the predicted, in their own frame"
        f" ({one['frame_deg']:.2f} degrees) {one['over_predicted_in_frame'][0]:4.2f} and"
        f" {one['over_predicted_in_frame'][1]:4.2f};"
        f" halves {one['halves_angstrom']:5.1f} A, truth {one['truth_angstrom']:5.1f} A {one['ended']}"
    )


def refine(made: Sample, options: argparse.Namespace, workers: int) -> dict:
    """All iterations, and how far true poses come."""
    start = start_map(made.density, resolution_angstrom=options.start_resolution)
    plan = Plan(
        start_resolution_angstrom=options.start_resolution,
        max_iterations=options.iterations,
        assignment=options.assignment,
    )
    mask, begun = fsc_mask(start, plan), time.process_time()
    best = agreement(average(made.held, made.truth).volume, made.density, mask)
    print(f"  true poses: {best:.1f} A", flush=True)
    rows = []
    for one in refined(made.table, (start, start), plan, executor=Local(workers)):
        rows.append(row(one, made, mask))
        print(shown(rows[-1]), flush=True)
    return {"true_poses_angstrom": best, "iterations": rows, "seconds": time.process_time() - begun}


def main() -> None:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.02, 0.01, 0.007])
    parser.add_argument("--ctf", action="store_true")
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--assignment", default="auto")
    parser.add_argument("--complex", default="2gho.pdb.gz")
    parser.add_argument("--structures", type=Path, default=STRUCTURES)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--voxel-size", type=float, default=8.0)
    parser.add_argument("--start-resolution", type=float, default=50.0)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/low_snr"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.structures / options.complex
    atoms = Atoms.read(path) if path.exists() else Atoms.blobs(4.0 * options.voxel_size)
    summary = {}
    for snr in options.snr:
        camera = Camera(options.box, options.voxel_size, 60.0, snr, Lens() if options.ctf else None)
        made = sample(atoms, camera, count=1 if options.noise else options.particles, seed=options.seed)
        if options.noise:
            table = noise_alone(camera, count=options.particles, seed=options.seed)
            made = Sample(table, table.poses, made.density)
        print(f"{options.particles} {'boxes of noise' if options.noise else f'particles at SNR {snr:g}'}", flush=True)
        summary[f"{snr:g}"] = refine(made, options, options.workers)
        if options.noise:
            break
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
