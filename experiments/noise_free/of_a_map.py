"""Targets of a noise-free map with little noise of their own: restored, or weighted by their noise (theory.md 12)?

    python experiments/noise_free/of_a_map.py [--pairs 16] [--phantom sharp ...] [--snr inf 100 30 10 3 1] [--tilt 60]
        [--resolution A]

The map is the phantom through the same microscope, without noise and missing wedge. Every target is aligned by the
default search thrice: as the threshold has it (``noise_weighting.MAX_SIGNAL``), always weighted by its noise, always
restored. Prints for each the median and rms errors, how many are off by over 15 degrees and whether the search is to
blame, and the rms error over the predicted one.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np

import gonio
from cells import WRONG_DEG
from gonio.preparation import noise_weighting
from gonio.simulate import PAPER_CTF, Imaging, Phantom, simulate_subtomogram
from misses import search_missed
from pairs import BOX, NAMES, VOXEL_SIZE_ANGSTROM, Cell, imaging_of, pair_poses

SNRS = (float("inf"), 100.0, 30.0, 10.0, 3.0, 1.0)
WAYS = {
    "threshold": noise_weighting.MAX_SIGNAL,
    "noise-weighted": 2.0,
    "restored": -1.0,
}  # the largest fraction of signal


def targets_of(cell: Cell, count: int) -> tuple[gonio.Volume, list[gonio.Subtomogram], list[gonio.Pose]]:
    """Return the map, targets and their true poses."""
    density = Phantom.named(cell.phantom, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    perfect = Imaging(
        box=BOX,
        voxel_size_angstrom=VOXEL_SIZE_ANGSTROM,
        tilt_min_deg=-90.0,
        tilt_max_deg=90.0,
        snr=np.inf,
        ctf=PAPER_CTF,
    )
    map_ = simulate_subtomogram(density, gonio.Pose.identity(), imaging=perfect, rng=np.random.default_rng(1)).volume
    truths = [pair_poses(cell.phantom, index)[0] for index in range(count)]
    key = 0 if np.isinf(cell.snr) else int(1000 * cell.snr)
    seeds = [np.random.default_rng([index, cell.tilt_deg, key]) for index in range(count)]
    imaging = imaging_of(cell)
    made = [simulate_subtomogram(density, t, imaging=imaging, rng=rng) for t, rng in zip(truths, seeds, strict=True)]
    return map_, made, truths


def row(cell: Cell, count: int, largest_fraction: float, resolution_angstrom: float | None = None) -> str:
    """Return what one way comes to."""
    map_, targets, truths = targets_of(cell, count)
    settings = gonio.Settings(resolution_angstrom=resolution_angstrom)
    aligner, began = gonio.Aligner(map_, settings), time.process_time()
    noise_weighting.MAX_SIGNAL = largest_fraction
    found = [aligner.align(target) for target in targets]
    seconds = (time.process_time() - began) / count
    every = list(zip(targets, found, truths, strict=True))
    turned = np.array([float(one.pose.rotation_distance_deg(truth)) for _, one, truth in every])
    shifted = np.array([float(one.pose.shift_distance_angstrom(truth)) for _, one, truth in every])
    shifted /= VOXEL_SIZE_ANGSTROM
    right = turned <= WRONG_DEG
    missed = sum(search_missed(map_, aligner.settings, *every[index]) for index in np.flatnonzero(~right))
    predicted = np.sqrt(3.0 * np.mean([one.rotation_sd_deg**2 for one, ok in zip(found, right, strict=True) if ok]))
    rms, rms_shift = (float(np.sqrt(np.mean(error[right] ** 2))) for error in (turned, shifted))
    return (
        f"{np.median(turned):.4f} (rms {rms:.4f}) degrees, {np.median(shifted):.5f} ({rms_shift:.5f}) voxel, "
        f"{(~right).sum()} wrong, {missed} search misses, error over predicted {rms / predicted:.2f}, "
        f"{1e3 * seconds:.0f} ms"
    )


def main() -> None:
    """Print a line for each cell and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--phantom", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--tilt", type=int, default=60)
    parser.add_argument("--snr", type=float, nargs="+", default=list(SNRS))
    parser.add_argument("--resolution", type=float, help="finest detail, angstrom; four voxels by default")
    options = parser.parse_args()
    for phantom in options.phantom:
        for snr in options.snr:
            cell = Cell(phantom, options.tilt, snr)
            for name, largest in WAYS.items():
                print(f"{cell}, {name}: {row(cell, options.pairs, largest, options.resolution)}", flush=True)


if __name__ == "__main__":
    main()
