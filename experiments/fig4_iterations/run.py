"""Fig. 4 and the paper's Tables 1-2 on the same pairs: iterations and errors, stochastic beside independent refinement.

    python experiments/fig4_iterations/run.py [--phantom four_gaussians] [--pairs 25] [--interval 60 45] [--out DIR]

For each of the 24 cells (tilt range, SNR), both scores and both seed intervals, every pair is aligned by the stochastic
parallel refinement and by the independent refinement of every seed. Both counts are Levenberg-Marquardt iterations.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gonio
from cells import SNRS, TILTS_DEG, align_pair, run_jobs
from pairs import VOXEL_SIZE_ANGSTROM, Cell, median_and_mad
from plots import fold_over_snr, save

PAPER_INDEPENDENT, PAPER_STOCHASTIC = 6480, "200-300"


def both_searches(phantom: str, tilt_deg: int, snr: float, interval_deg: int, score: str, index: int) -> dict:
    """One pair, once with each search."""
    record = {}
    for search in ("stochastic", "independent"):
        settings = gonio.Settings(
            score=score,
            search=gonio.PaperSearch(search, interval_deg),
            resolution_angstrom=4 * VOXEL_SIZE_ANGSTROM,
        )
        record[search] = align_pair(Cell(phantom, tilt_deg, snr), index, settings=settings)
    return record


def summarise(records: list[dict]) -> dict:
    """Medians over the pairs of one cell."""
    counts = {s: np.array([r[s]["iterations"] for r in records]) for s in ("stochastic", "independent")}
    row = {"pairs": len(records), "fold": float(np.median(counts["independent"] / counts["stochastic"]))}
    for search, iterations in counts.items():
        errors = np.array([r[search]["rotation_error_deg"] for r in records])
        row[search] = {
            "iterations": float(np.median(iterations)),
            "rotation_deg": median_and_mad(errors),
            "shift_voxel": median_and_mad(np.array([r[search]["shift_error_voxel"] for r in records])),
            "wrong": int((errors > 15).sum()),
        }
    return row


def describe(interval_deg: int, score: str, tilt_deg: int, snr: float, row: dict) -> str:
    """One line."""
    fast, slow = row["stochastic"], row["independent"]
    return (
        f"{interval_deg:8d} {score:>5s} {tilt_deg:4d} {snr:4g} | "
        f"{fast['iterations']:10.0f} {slow['iterations']:11.0f} {row['fold']:5.1f} | "
        f"{fast['rotation_deg'][0]:6.3f} {fast['shift_voxel'][0]:6.4f} {fast['wrong']:3d} of {row['pairs']} "
        f"(independent {slow['rotation_deg'][0]:.3f} {slow['shift_voxel'][0]:.4f} {slow['wrong']:d})"
    )


def main() -> None:
    """Run, print one line for each cell, write JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", default="four_gaussians")
    parser.add_argument("--pairs", type=int, default=25)
    parser.add_argument("--interval", type=int, nargs="+", default=[60, 45])
    parser.add_argument("--tilt", type=int, nargs="+", default=list(TILTS_DEG))
    parser.add_argument("--snr", type=float, nargs="+", default=list(SNRS))
    parser.add_argument("--score", nargs="+", default=["rcs", "fcs"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/fig4_iterations"))
    options = parser.parse_args()
    cells = [(i, s, t, r) for i in options.interval for s in options.score for t in options.tilt for r in options.snr]
    # The pair runs slowest, so that an interrupted run has as many pairs of every cell.
    jobs = [(options.phantom, t, r, i, s, index) for index in range(options.pairs) for i, s, t, r in cells]
    records = run_jobs(both_searches, jobs, options.out / f"{options.phantom}.jsonl", processes=options.processes)
    by_job = dict(zip(jobs, records, strict=True))
    table = {
        (i, s, t, r): summarise([by_job[options.phantom, t, r, i, s, index] for index in range(options.pairs)])
        for i, s, t, r in cells
    }
    plain = {f"{i} {s} {t} {r:g}": row for (i, s, t, r), row in table.items()}
    (options.out / f"{options.phantom}.json").write_text(json.dumps(plain, indent=1))
    save(fold_over_snr(table), options.out / f"{options.phantom}.png")
    print(f"{options.phantom}; the paper at 60 degrees: {PAPER_INDEPENDENT} over {PAPER_STOCHASTIC} iterations")
    print("interval score tilt  SNR | stochastic independent  fold | stochastic error deg, voxel, wrong of pairs")
    for cell, row in table.items():
        print(describe(*cell, row))


if __name__ == "__main__":
    main()
