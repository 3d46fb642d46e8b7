"""Fig. 3: how the paper's stochastic search converges, and where gonio's defaults arrive.

    python experiments/fig3_convergence/run.py [--phantom sharp] [--pairs 20] [--tilt 60] [--snr 0.5] [--out DIR]

As in the paper: SNR 0.5, +-60 degrees, seeds at 60 degrees. Above, the smallest dissimilarity after each iteration less
that of the true pose; below, the distance (eq. 12) between the pose that has it and the true one. An iteration is one
Levenberg-Marquardt step of one candidate. The defaults keep no history, and most of their steps are at coarse limits:
they are drawn as the point where they end, scored as the paper scores.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gonio
from cells import WRONG_DEG, run_jobs
from pairs import VOXEL_SIZE_ANGSTROM, Cell, Pair, make_pair
from plots import convergence, save
from tables import method_settings

SCORES = ("rcs", "fcs")
PAPER_ITERATIONS = "200-300"


def convergence_pair(phantom: str, tilt_deg: int, snr: float, index: int) -> dict:
    """One pair by both scores and by the defaults; dissimilarities are less that of the true pose."""
    pair = make_pair(Cell(phantom, tilt_deg, snr), index)
    defaults = gonio.align(pair.target, pair.reference)
    return {score: one_score(pair, score, defaults, index) for score in SCORES}


def one_score(pair: Pair, score: str, defaults: gonio.Result, index: int) -> dict:
    """The stochastic search's history, and the defaults' answer in its terms."""
    aligner = gonio.Aligner(pair.reference, method_settings(f"{score}_60", axis=False))
    result = aligner.align(pair.target, rng=np.random.default_rng(index), record=True)
    assert result.history is not None
    true, ended = aligner.dissimilarity(pair.target, gonio.Pose.stack([pair.truth, defaults.pose]))
    return {
        "true": float(true),
        "dissimilarity": (result.history.dissimilarity - true).tolist(),
        "distance": distance(result.history.poses, pair.truth).tolist(),
        "off_deg": float(result.pose.rotation_distance_deg(pair.truth)),
        "defaults": {
            "iterations": defaults.n_iterations,
            "dissimilarity": float(ended - true),
            "distance": float(distance(defaults.pose, pair.truth)),
            "off_deg": float(defaults.pose.rotation_distance_deg(pair.truth)),
        },
    }


def distance(poses: gonio.Pose, truth: gonio.Pose) -> np.ndarray | float:
    """The Frobenius norm of eq. 12, shifts in voxels."""
    return poses.frobenius_distance(truth, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)


def arrival(values: list[float]) -> int:
    """The first iteration at which 99 % of the whole decrease is done."""
    falling = np.array(values)
    return int(np.argmax(falling <= falling[-1] + 0.01 * (falling[0] - falling[-1]))) + 1


def summarise(records: list[dict]) -> dict:
    """Medians over the pairs for one score, and for the defaults."""
    ends = [record["defaults"] for record in records]
    return {
        "pairs": len(records),
        "arrived_at": float(np.median([arrival(r["dissimilarity"]) for r in records])),
        "iterations": float(np.median([len(r["dissimilarity"]) for r in records])),
        "distance": float(np.median([r["distance"][-1] for r in records])),
        "wrong": sum(r["off_deg"] > WRONG_DEG for r in records),
        "defaults": {
            "iterations": float(np.median([end["iterations"] for end in ends])),
            "distance": float(np.median([end["distance"] for end in ends])),
            "wrong": sum(end["off_deg"] > WRONG_DEG for end in ends),
        },
    }


def describe(score: str, row: dict) -> str:
    """One line."""
    ours = row["defaults"]
    return (
        f"{score}: 99 % of the way after {row['arrived_at']:.0f} iterations, ended after {row['iterations']:.0f} "
        f"(the paper: {PAPER_ITERATIONS}), {row['distance']:.3f} from the truth (eq. 12), {row['wrong']} of "
        f"{row['pairs']} off by over {WRONG_DEG} degrees; defaults: {ours['iterations']:.0f} steps, "
        f"{ours['distance']:.3f}, {ours['wrong']} of {row['pairs']}"
    )


def main() -> None:
    """Run, print a line for each score, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", default="sharp")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--tilt", type=int, default=60)
    parser.add_argument("--snr", type=float, default=0.5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/fig3_convergence"))
    options = parser.parse_args()
    jobs = [(options.phantom, options.tilt, options.snr, index) for index in range(options.pairs)]
    checkpoint = options.out / f"{options.phantom}.jsonl"
    records = run_jobs(convergence_pair, jobs, checkpoint, processes=options.processes)
    by_score = {score: [record[score] for record in records] for score in SCORES}
    rows = {score: summarise(of_score) for score, of_score in by_score.items()}
    title = str(Cell(options.phantom, options.tilt, options.snr))
    (options.out / f"{options.phantom}.json").write_text(json.dumps({"cell": title, **rows}, indent=1))
    save(convergence(by_score, title), options.out / f"{options.phantom}.png")
    for score, row in rows.items():
        print(describe(score, row))


if __name__ == "__main__":
    main()
