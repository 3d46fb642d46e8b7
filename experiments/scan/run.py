"""The scan over all orientations that the paper is measured against: every 5 degrees, shifts by FFT, no refinement.

    python experiments/scan/run.py [--pairs 100] [--phantom sharp] [--tilt 60] [--snr 0.5] [--interval 5] [--out DIR]

All ZYZ angles 5 degrees apart (186,624; the paper counts 168,634), by the RCS of the particles as they are, up to four
voxels' detail, on the pairs of Tables 1 and 2. All orientations get their best shift at half of that detail, on every
other voxel; the best tenth of them at all of it; the best thousand of these on every voxel, of which the best is the
answer. ``--all`` gives every orientation every voxel and all detail, in some 12 times the time.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import lru_cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.spatial.transform import Rotation

import gonio
from cells import WRONG_DEG, run_jobs
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import shell_limit
from gonio.particle.orientations import euler_grid
from pairs import BOX, VOXEL_SIZE_ANGSTROM, Cell, make_pair, median_and_mad
from summary import paper_value

MAX_SHIFT_ANGSTROM = 0.25 * BOX * VOXEL_SIZE_ANGSTROM  # gonio's default
# Share of the detail, whether on every other voxel, and how many orientations are left of what a pass has scored.
PASSES = ((0.5, True, 20_000), (1.0, True, 1_000), (1.0, False, 1))
CHUNK = 20_000
HEADINGS = (
    "phantom",
    "tilt",
    "SNR",
    "scan: rotation, degrees",
    "shift, voxels",
    "wrong",
    "nearest of the grid, degrees",
    "seconds",
    "the paper, RCS 60: rotation",
    "shift",
)


@lru_cache(maxsize=1)
def grid(interval_deg: float) -> np.ndarray:
    """Rotation matrices of the scan, (p, 3, 3)."""
    return np.asarray(euler_grid(interval_deg).as_matrix(), dtype=np.float32)


def compared(cell: Cell, index: int, fraction: float) -> Comparison:
    """A pair as the paper compares it, up to a share of the detail."""
    pair = make_pair(cell, index)
    limit = shell_limit(BOX, VOXEL_SIZE_ANGSTROM, 4.0 * VOXEL_SIZE_ANGSTROM)
    reference = FourierVolume.of(pair.reference.volume, wedge=pair.reference.wedge, limit=limit, box=BOX)
    return Comparison(Spectrum.of(pair.target, limit=fraction * limit), reference, score=Score.RCS)


def scanned(comparison: Comparison, rotations: np.ndarray, points: int | None) -> tuple[np.ndarray, np.ndarray]:
    """The best shift (p, 3) of each rotation and its dissimilarity (p,)."""
    parts = [
        comparison.best_shifts(rotations[at : at + CHUNK], max_shift_angstrom=MAX_SHIFT_ANGSTROM, points=points)
        for at in range(0, len(rotations), CHUNK)
    ]
    shifts, d = zip(*parts, strict=True)
    return np.concatenate(shifts), np.concatenate(d)


def scan_pair(passes: tuple, phantom: str, tilt_deg: int, snr: float, index: int, interval_deg: float) -> dict:
    """Errors of the best pose of the scan, and how near the grid comes to the truth."""
    cell, rotations = Cell(phantom, tilt_deg, snr), grid(interval_deg)
    pair, began = make_pair(cell, index), time.process_time()
    for fraction, every_other, left in passes:
        shifts, d = scanned(compared(cell, index, fraction), rotations, BOX // 2 if every_other else None)
        best = np.argsort(d, kind="stable")[:left]
        rotations, shifts, d = rotations[best], shifts[best], d[best]
    rotation_deg, shift_voxel, _ = pair.errors(gonio.Pose(Rotation.from_matrix(rotations[0]), shifts[0]))
    return {
        "rotation_error_deg": rotation_deg,
        "shift_error_voxel": shift_voxel,
        "dissimilarity": float(d[0]),
        "nearest_deg": nearest_deg(pair.truth, grid(interval_deg)),
        "seconds": time.process_time() - began,
    }


def nearest_deg(truth: gonio.Pose, rotations: np.ndarray) -> float:
    """How far the nearest orientation of the grid is from the truth."""
    traces = np.einsum("pij,ij->p", rotations, truth.matrix)
    return float(np.degrees(np.arccos(np.clip(0.5 * (traces.max() - 1.0), -1.0, 1.0))))


def described(records: list[dict], cell: Cell) -> str:
    """A row of the table: the scan beside the paper's refined poses."""
    columns = [f"{cell.phantom}", f"±{cell.tilt_deg}", f"{cell.snr:g}".replace("inf", "∞")]
    for quantity in ("rotation_error_deg", "shift_error_voxel"):
        median, mad = median_and_mad(np.array([r[quantity] for r in records]))
        columns.append(f"{median:.3g} ± {mad:.2g}")
    wrong = sum(r["rotation_error_deg"] > WRONG_DEG for r in records)
    nearest, seconds = (np.median([r[name] for r in records]) for name in ("nearest_deg", "seconds"))
    columns += [f"{wrong} of {len(records)}", f"{nearest:.2f}", f"{seconds:.2f}"]
    for quantity in ("rotation_deg", "shift_voxel"):
        median, mad = paper_value(quantity, cell, "rcs_60", axis=False)
        columns.append(f"{median:g} ± {mad:g}")
    return f"| {' | '.join(columns)} |"


def main() -> None:
    """Run and print one row for each cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--phantom", nargs="+", default=["sharp", "four_gaussians"])
    parser.add_argument("--tilt", type=int, nargs="+", default=[60])
    parser.add_argument("--snr", type=float, nargs="+", default=[float("inf"), 0.5])
    parser.add_argument("--interval", type=float, default=5.0)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/scan"))
    options = parser.parse_args()
    cells = [Cell(p, tilt, snr) for p in options.phantom for tilt in options.tilt for snr in options.snr]
    jobs = [(c.phantom, c.tilt_deg, c.snr, i, options.interval) for c in cells for i in range(options.pairs)]
    work = partial(scan_pair, PASSES[-1:] if options.all else PASSES)
    checkpoint = options.out / ("all.jsonl" if options.all else "pairs.jsonl")
    found = dict(zip(jobs, run_jobs(work, jobs, checkpoint, processes=options.processes), strict=True))
    print(f"| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for cell in cells:
        print(described([found[job] for job in jobs if Cell(*job[:3]) == cell], cell))


if __name__ == "__main__":
    main()
