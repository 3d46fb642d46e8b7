"""Real ribosomes aligned to 7P6Z with no pose given: how many end near the input pose, and why the others do not.

    python experiments/ribosomes/everywhere.py [--data ../shared/data] [--resolution 32 28 25.6 38]

A miss is the search's when the input pose, refined, fits better than what was found, and else the score's. Prints one
line for each particle and a count for each resolution, and writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import gonio
from misses import fits_better, local, local_optimum
from run import RESOLUTION_ANGSTROM, laid_on, read_ribosomes

NEAR_DEG = 10.0


def aligned(particle: gonio.TiltStack, listed: gonio.Pose, reference: gonio.Volume, settings: gonio.Settings) -> dict:
    """One particle from nothing, beside its input pose refined by the same score."""
    start = time.process_time()
    aligner = gonio.Aligner(reference, settings)
    found = aligner.align(particle)
    seconds = time.process_time() - start
    near = local_optimum(gonio.Aligner(reference, local(settings)), particle, found, listed)
    off = float(found.pose.rotation_distance_deg(listed))
    others = [float(o.pose.rotation_distance_deg(listed)) for o in found.runners_up]
    fault = "none" if off <= NEAR_DEG else "search" if fits_better(near, found) else "score"
    return {
        "off_deg": off,
        "off_angstrom": float(found.pose.shift_distance_angstrom(listed)),
        "fault": fault,
        "dissimilarity": found.dissimilarity,
        "listed_dissimilarity": near.dissimilarity,
        "rotation_sd_deg": found.rotation_sd_deg,
        "shift_sd_angstrom": found.shift_sd_angstrom,
        "runner_up_off_deg": min(others, default=None),
        "margin": found.runners_up[0].margin if found.runners_up else None,
        "steps": found.n_iterations,
        "seconds": seconds,
    }


def describe(index: int, row: dict) -> str:
    """A particle in a line."""
    runner_up = "none" if row["margin"] is None else f"{row['margin']:.4f} worse"
    return (
        f"{index:2d}: {row['off_deg']:6.1f} degrees and {row['off_angstrom']:5.1f} A off, fault of {row['fault']:6s}, "
        f"sd {row['rotation_sd_deg']:.1f} degrees, {row['shift_sd_angstrom']:.1f} A; d {row['dissimilarity']:.4f}, "
        f"of the input pose {row['listed_dissimilarity']:.4f}; runner-up {runner_up}"
    )


def main() -> None:
    """Align all at each resolution."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--resolution", type=float, nargs="+", default=[RESOLUTION_ANGSTROM, 28.0, 25.6, 38.0])
    parser.add_argument("--particles", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/ribosomes"))
    options = parser.parse_args()
    table, particles, mean, atoms = read_ribosomes(options.data)
    reference = laid_on(mean, atoms)
    summary = {}
    for resolution in options.resolution:
        settings = gonio.Settings(resolution_angstrom=resolution)
        rows = [
            aligned(particles[i], table.poses[i], reference, settings)
            for i in range(min(options.particles, len(particles)))
        ]
        hits = [row["off_deg"] for row in rows if row["fault"] == "none"]
        print(f"{resolution:g} A: {len(hits)} of {len(rows)} within {NEAR_DEG:g} degrees", end="")
        if hits:
            print(f", these {np.median(hits):.1f} degrees off", end="")
        print(f"; {np.median([row['seconds'] for row in rows]):.2f} s a particle")
        for index, row in enumerate(rows):
            print("  " + describe(index, row))
        summary[f"{resolution:g}"] = rows
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "everywhere.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
