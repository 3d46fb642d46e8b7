"""Noise-free pairs over the full tilt range, the paper's search with both scores (first cell of Tables 1 and 2).

    python experiments/noise_free/run.py [--pairs 100] [--out DIR]

Every pair by the paper's stochastic search from seeds at 60 degrees.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gonio
from cells import align_pair, describe, run_jobs
from pairs import Cell

PAPER = {"rcs": "0.71 +- 0.49 degrees, 0.035 +- 0.023 voxel", "fcs": "0.89 +- 0.54 degrees, 0.047 +- 0.023 voxel"}


def noise_free_pair(score: str, index: int) -> dict:
    """One pair of ``four_gaussians`` at +-90 degrees, 60 degree seeds."""
    settings = gonio.Settings(score=score, search="stochastic")
    return align_pair(Cell("four_gaussians", 90, float("inf")), index, settings=settings)


def main() -> None:
    """Run and print one line for each score."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/noise_free"))
    options = parser.parse_args()
    jobs = [(score, index) for score in PAPER for index in range(options.pairs)]
    records = dict(
        zip(
            jobs, run_jobs(noise_free_pair, jobs, options.out / "pairs.jsonl", processes=options.processes), strict=True
        )
    )
    for score, paper in PAPER.items():
        print(f"{score}: {describe([records[score, index] for index in range(options.pairs)])}; the paper: {paper}")


if __name__ == "__main__":
    main()
