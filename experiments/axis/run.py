"""The paper's search around a known axis (Tables 3 and 4): `sharp`, SNR 0.5, +-60 degrees, 8 seeds, to shell 6 of 16.

    python experiments/axis/run.py [--pairs 100] [--out DIR]

With and without a soft sphere on both particles: its diameter is the phantom's plus twice the largest shift.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gonio
from cells import align_pair, describe, run_jobs
from pairs import BOX, VOXEL_SIZE_ANGSTROM, Cell

LIMIT_SHELLS = 6
MASK_DIAMETER_ANGSTROM = 240.0
PAPER = {"rcs": "0.72 +- 0.37 degrees, 0.16 +- 0.051 voxel", "fcs": "0.92 +- 0.46 degrees, 0.13 +- 0.044 voxel"}


def axis_pair(score: str, masked: bool, index: int) -> dict:
    """One pair, its particles' own z axis known in both."""
    settings = gonio.Settings(
        score=score,
        search=gonio.PaperSearch("axis_stochastic", 45),
        resolution_angstrom=BOX * VOXEL_SIZE_ANGSTROM / LIMIT_SHELLS,
        mask_diameter_angstrom=MASK_DIAMETER_ANGSTROM if masked else None,
    )
    return align_pair(Cell("sharp", 60, 0.5), index, settings=settings, with_normals=True)


def main() -> None:
    """Run and print one line for each score, without and with the mask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/axis"))
    options = parser.parse_args()
    jobs = [(s, masked, index) for s in PAPER for masked in (False, True) for index in range(options.pairs)]
    records = dict(
        zip(jobs, run_jobs(axis_pair, jobs, options.out / "pairs.jsonl", processes=options.processes), strict=True)
    )
    for score, paper in PAPER.items():
        for masked, name in ((False, "no mask"), (True, f"mask {MASK_DIAMETER_ANGSTROM:g} A")):
            line = describe([records[score, masked, index] for index in range(options.pairs)])
            print(f"{score}, {name}: {line}; the paper, on its own phantom: {paper}")


if __name__ == "__main__":
    main()
