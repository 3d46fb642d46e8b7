"""Does it matter that RCS's rotation derivatives hold the overlap of the two wedges within a step?

    python experiments/overlap/run.py [--pairs 20] [--phantom sharp] [--tilt 60] [--snr inf 0.5] [--out DIR]

First by how much the rotation gradient of a pair differs from that with a moving overlap (a central difference of the
dissimilarity over 0.5, 1 and 2 degrees to either side), relative to its length, at poses turned off the truth by 2 and
10 degrees. Then the paper's stochastic search by RCS from 60 degree seeds with either (``Settings.overlap``).
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.spatial.transform import Rotation

import gonio
from cells import align_pair, describe, run_jobs
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import shell_limit
from pairs import BOX, VOXEL_SIZE_ANGSTROM, Cell, make_pair

OFF_DEG, STEPS_DEG = (2.0, 10.0), (0.5, 1.0, 2.0)


def differences(phantom: str, tilt_deg: int, snr: float, index: int) -> dict:
    """Of one pair, by how far the pose is off and over which angle the difference is taken."""
    pair = make_pair(Cell(phantom, tilt_deg, snr), index)
    limit = shell_limit(BOX, VOXEL_SIZE_ANGSTROM, 4.0 * VOXEL_SIZE_ANGSTROM)
    reference = FourierVolume.of(pair.reference.volume, wedge=pair.reference.wedge, limit=limit, box=BOX)
    comparison = Comparison(Spectrum.of(pair.target, limit=limit), reference, score=Score.RCS)
    way = np.random.default_rng(index).standard_normal(3)
    found = {}
    for off in OFF_DEG:
        turn = Rotation.from_rotvec(np.radians(off) * way / np.linalg.norm(way)) * pair.truth.rotation
        held = gradient(comparison, turn, pair.truth.shift_angstrom)
        for step in STEPS_DEG:
            moving = difference(comparison, turn, pair.truth.shift_angstrom, np.radians(step))
            found[f"{off:g} {step:g}"] = float(np.linalg.norm(held - moving) / np.linalg.norm(moving))
    return found


def gradient(comparison: Comparison, turn: Rotation, shift_angstrom: np.ndarray) -> np.ndarray:
    """Of the dissimilarity by the rotation, the overlap held, (3,)."""
    return -2.0 * comparison.normal_equations(turn.as_matrix()[None], shift_angstrom[None]).descent[0, :3]


def difference(comparison: Comparison, turn: Rotation, shift_angstrom: np.ndarray, step_rad: float) -> np.ndarray:
    """The same with the overlap as it is at each pose."""
    steps = step_rad * np.concatenate([np.eye(3), -np.eye(3)])  # (6, 3)
    matrices = (Rotation.from_rotvec(steps) * turn).as_matrix()
    d, _ = comparison.values(matrices, np.broadcast_to(shift_angstrom, (6, 3)))
    return (d[:3] - d[3:]) / (2.0 * step_rad)


def searched(overlap: str, phantom: str, tilt_deg: int, snr: float, index: int) -> dict:
    """One pair by the paper's search."""
    settings = gonio.Settings(search=gonio.PaperSearch(overlap=overlap))
    return align_pair(Cell(phantom, tilt_deg, snr), index, settings=settings)


def main() -> None:
    """Run and print both parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--phantom", default="sharp")
    parser.add_argument("--tilt", type=int, default=60)
    parser.add_argument("--snr", type=float, nargs="+", default=[float("inf"), 0.5])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/overlap"))
    options = parser.parse_args()
    print("| SNR | off by, degrees | difference over, degrees | median | nine in ten below |\n|---|---|---|---|---|")
    for snr in options.snr:
        jobs = [(options.phantom, options.tilt, snr, index) for index in range(options.pairs)]
        records = run_jobs(differences, jobs, options.out / "gradients.jsonl", processes=options.processes)
        for off in OFF_DEG:
            for step in STEPS_DEG:
                values = 100 * np.array([record[f"{off:g} {step:g}"] for record in records])
                middle, high = np.median(values), np.percentile(values, 90)
                print(f"| {snr:g} | {off:g} | {step:g} | {middle:.0f} % | {high:.0f} % |")
    for snr in options.snr:
        jobs = [(options.phantom, options.tilt, snr, index) for index in range(options.pairs)]
        for overlap in ("held", "moving"):
            checkpoint = options.out / f"{overlap}.jsonl"
            records = run_jobs(partial(searched, overlap), jobs, checkpoint, processes=options.processes)
            print(f"SNR {snr:g}, overlap {overlap}: {describe(records)}")


if __name__ == "__main__":
    main()
