"""Real ribosomes (EMPIAR-10499) refined in two halves: does their average fit 7P6Z better than at the input poses?

    python experiments/refine/ribosomes.py [--data ../shared/data] [--seeds 3]

From the input poses, with priors of several widths; from the atoms at 60 and 45 angstrom, in their own frame, with no
pose given; and one map from the particles alone. Each average is laid on 7P6Z, and on its mirror image, by what is seen
to 38 angstrom; the seeds split the twenty particles.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ribosomes"))

import gonio
from gonio.particle.half_sets import split
from gonio.workflows.initial_model import initial_model
from gonio.workflows.refinement import best_of, refined, start_map
from gonio.workflows.refinement_plan import Iteration, Plan
from run import (
    DIAMETER_ANGSTROM,
    VOXEL_SIZE_ANGSTROM,
    laid_on,
    masked_correlation,
    particle_mask,
    read_ribosomes,
    resolution,
)

PRIORS = {"1 degree, 3 A": (1.0, 3.0), "2 degrees, 6 A": (2.0, 6.0), "4 degrees, 8 A": (4.0, 8.0)}
SETTINGS = gonio.Settings(particle_diameter_angstrom=DIAMETER_ANGSTROM)


def fit(mean: gonio.Volume, atoms: gonio.Volume) -> str:
    """Correlation with the atoms and their mirror image, and FSC 0.5 within the ribosome's shape."""
    mirror = gonio.Volume(atoms.data[:, :, ::-1], VOXEL_SIZE_ANGSTROM)
    right, wrong = laid_on(mean, atoms), laid_on(mean, mirror)
    one, other = masked_correlation(mean, right), masked_correlation(mean, wrong)
    return f"{one:.3f}, mirror {other:.3f}, FSC 0.5 at {resolution(mean, right, particle_mask(right)):.1f} A"


def results(table: gonio.ParticleTable, atoms: gonio.Volume) -> Iterator[tuple[str, Iteration]]:
    """What each way comes to, from one split."""
    for name, (turn, shift) in PRIORS.items():
        plan = Plan(SETTINGS, listed=gonio.LocalSearch(turn, shift))
        yield f"input poses, prior {name}", best_of(list(refined(table, None, plan)))
    for start in (60.0, 45.0):
        map_ = start_map(atoms, resolution_angstrom=start)
        plan = Plan(SETTINGS, start_resolution_angstrom=start)
        yield f"7P6Z at {start:g} A, no poses", best_of(list(refined(table, (map_, map_), plan)))


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    table, _, mean, atoms = read_ribosomes(options.data)
    print(f"input poses: {fit(mean, atoms)}")
    for seed in range(options.seeds):
        halves = split(np.arange(len(table)), rng=np.random.default_rng(seed))
        for name, one in results(replace(table, half_sets=halves), atoms):
            off = np.median(one.table.poses.rotation_distance_deg(table.poses))
            print(
                f"split {seed}, {name}: {fit(one.volume, atoms)}; iteration {one.number}, halves agree to "
                f"{one.resolution_angstrom:.1f} A, median {off:.1f} degrees from listed",
                flush=True,
            )
    alone = initial_model(table, SETTINGS, rng=np.random.default_rng(0))
    print(f"particles alone: {fit(alone.volume, atoms)}; pairs that agree {alone.agreement.mean():.2f}")


if __name__ == "__main__":
    main()
