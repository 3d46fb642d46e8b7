"""The oracle of soft assignment: the posterior summed over a grid of all poses, beside the poses that gonio draws.

    python experiments/grid_posterior/run.py [--particles 24] [--snr 0.01] [--resolution 48] [--spacing 9] [--out DIR]

Subtomograms of RNA polymerase (``experiments/atoms.py``; box 32 of 8 A, +-60 degrees, white noise) against the
noise-free density. The likelihood of theory.md eq. 39 is evaluated at every orientation of a uniform grid and every
shift of a cubic one, with nothing left out. What it says is compared with the eight poses that a search draws:

    mass       how probable it is that the pose is within 15 degrees of the truth, by the grid and by the draws
    right      how many of the poses found, and of the best points of the grid, are
    FSC        of the average over the grid (64 poses drawn by their probability) with that over the draws

Prints a line for each particle, and writes summary.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from numpy.typing import NDArray

import gonio
from atoms import STRUCTURES, Atoms, Camera, particles
from gonio.averaging.averages import average_table
from gonio.comparison.score import Score
from gonio.fourier.fsc import fourier_shell_correlation
from gonio.particle import orientations
from gonio.particle.pose import PoseSample
from gonio.preparation.extent import sphere_mask
from gonio.preparation.prepare import Preparation
from held import Held

RIGHT_DEG, DRAWN, CHUNK = 15.0, 64, 512


def grid_of(spacing_deg: float, reach_angstrom: float, step_angstrom: float) -> tuple[gonio.Pose, NDArray]:
    """Orientations (p), without shifts; and the shifts of a cube, (s, 3)."""
    rotations = orientations.uniform(orientations.uniform_count(0.5 * spacing_deg))
    axis = np.arange(-reach_angstrom, reach_angstrom + 0.5 * step_angstrom, step_angstrom)
    shifts = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    return gonio.Pose(rotations, np.zeros((len(rotations), 3))), shifts


def log_likelihood(pair, grid: gonio.Pose, shifts: NDArray) -> NDArray[np.float64]:
    """Of every pose of the grid, (p, s): the definition, with nothing left out."""
    comparison, square = pair.plain(Score.RCS), np.empty((len(grid), len(shifts)))
    every = grid.matrix
    for first in range(0, len(grid), CHUNK):
        rotations = every[first : first + CHUNK]
        for s, shift in enumerate(shifts):
            d, _ = comparison.values(rotations, np.broadcast_to(shift, (len(rotations), 3)))
            square[first : first + CHUNK, s] = np.maximum(1.0 - 0.5 * d, 0.0) ** 2
    return len(pair.target) / pair.samples_per_independent * square / (1.0 - square.max())


def main() -> None:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=24)
    parser.add_argument("--snr", type=float, default=0.01)
    parser.add_argument("--resolution", type=float, default=48.0)
    parser.add_argument("--spacing", type=float, default=9.0)
    parser.add_argument("--reach", type=float, default=20.0, help="of the shifts, angstrom along each axis")
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--voxel-size", type=float, default=8.0)
    parser.add_argument("--complex", default="2gho.pdb.gz")
    parser.add_argument("--structures", type=Path, default=STRUCTURES)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("results/grid_posterior"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.structures / options.complex
    atoms = Atoms.read(path) if path.exists() else Atoms.blobs(4.0 * options.voxel_size)
    camera, rng = Camera(options.box, options.voxel_size, 60.0, options.snr), np.random.default_rng(options.seed)
    truth = gonio.Pose.random(options.particles, rng=rng, max_shift_angstrom=0.6 * options.reach)
    data, density = particles(atoms, camera, truth, seed=options.seed)
    reference, wedge = gonio.Volume(density, camera.voxel), gonio.SingleAxisWedge(-60.0, 60.0)
    held = [gonio.Subtomogram(gonio.Volume(d, camera.voxel), wedge) for d in data]
    settings = gonio.Settings(resolution_angstrom=options.resolution, posterior_poses=8, posterior_resolved=0.0)
    aligner, preparation = gonio.Aligner(reference, settings), Preparation(gonio.Subtomogram(reference), settings)
    grid, shifts = grid_of(options.spacing, options.reach, options.resolution / 8.0)
    print(f"{len(grid)} orientations times {len(shifts)} shifts for each of {len(held)} particles", flush=True)
    rows, by_grid, by_draws = [], [], []
    for one, particle in enumerate(held):
        worth = log_likelihood(preparation.pair(particle), grid, shifts)
        weight = np.exp(worth - worth.max())
        weight /= weight.sum()
        result = aligner.align(particle, rng=np.random.default_rng((options.seed, one)))
        alone = PoseSample(gonio.Pose.stack([result.pose]), np.ones(1))
        sampled = alone if result.sampled is None else result.sampled
        near = np.asarray(grid.rotation_distance_deg(truth[one])) < RIGHT_DEG
        best = int(worth.max(axis=1).argmax())
        flat = rng.choice(weight.size, size=DRAWN, p=weight.ravel())
        drawn = gonio.Pose(grid.rotation[flat // len(shifts)], shifts[flat % len(shifts)])
        by_grid.append(PoseSample(drawn, np.full(DRAWN, 1.0 / DRAWN)))
        by_draws.append(sampled)
        rows.append(
            {
                "mass_grid": float(weight[near].sum()),
                "mass_draws": float(sampled.weights[sampled.poses.rotation_distance_deg(truth[one]) < RIGHT_DEG].sum()),
                "right_grid": bool(near[best]),
                "right_found": bool(result.pose.rotation_distance_deg(truth[one]) < RIGHT_DEG),
            }
        )
        print(
            f"  {one + 1}: " + ", ".join(f"{name} {float(value):.2f}" for name, value in rows[-1].items()), flush=True
        )
    table = gonio.ParticleTable(truth, tuple(map(str, range(len(held)))), ("t",) * len(held), source=Held(held))
    maps = [average_table(table, poses=poses).volume for poses in (by_grid, by_draws)]
    window = sphere_mask(reference)
    within = [gonio.Volume(m.data * window.data, m.voxel_size_angstrom) for m in (*maps, reference)]
    summary = {
        **{name: float(np.mean([row[name] for row in rows])) for name in rows[0]},
        "fsc_of_the_two": fourier_shell_correlation(within[0], within[1]).tolist(),
        "fsc_grid_truth": fourier_shell_correlation(within[0], within[2]).tolist(),
        "fsc_draws_truth": fourier_shell_correlation(within[1], within[2]).tolist(),
    }
    for name, value in summary.items():
        print(f"{name}: {np.round(value, 3).tolist() if isinstance(value, list) else round(value, 3)}")
    (options.out / "summary.json").write_text(json.dumps({**summary, "particles": rows}, indent=1))


if __name__ == "__main__":
    main()
