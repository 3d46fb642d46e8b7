"""The 24 cells of the paper's tables with the paper's schedule and with gonio's defaults."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import gonio
from cells import SNRS, TILTS_DEG, align_pair, run_jobs
from pairs import VOXEL_SIZE_ANGSTROM, Cell

PAPER_METHODS = tuple(f"{score}_{interval}" for score in ("rcs", "fcs") for interval in (60, 45))
METHODS = (*PAPER_METHODS, "defaults")
PHANTOMS = ("four_gaussians", "sharp")


def method_settings(method: str, *, axis: bool) -> gonio.Settings:
    """What a method of the tables asks for: the paper's schedule by score and seeds, or gonio's own defaults."""
    if method == "defaults":
        return gonio.Settings(search="axis") if axis else gonio.Settings()
    score, interval = method.split("_")
    return gonio.Settings(
        score=score,
        search="axis" if axis else "stochastic",
        seed_interval_deg=float(interval),
        resolution_angstrom=4 * VOXEL_SIZE_ANGSTROM,
    )


def align_job(phantom: str, tilt_deg: int, snr: float, method: str, index: int, *, axis: bool) -> dict:
    """One pair by one method."""
    return align_pair(
        Cell(phantom, tilt_deg, snr), index, settings=method_settings(method, axis=axis), with_normals=axis
    )


def parse(description: str, out: str) -> argparse.Namespace:
    """The command line of both scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", nargs="+", default=list(PHANTOMS))
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--tilt", type=int, nargs="+", default=list(TILTS_DEG))
    parser.add_argument("--snr", type=float, nargs="+", default=list(SNRS))
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser.parse_args()


def run_tables(description: str, *, out: str, axis: bool) -> None:
    """Run what is missing, phantom by phantom."""
    options = parse(description, out)
    for phantom in options.phantom:
        # The pair runs slowest, so that an interrupted run has as many pairs of every cell.
        jobs = [
            (phantom, tilt, snr, method, index)
            for index in range(options.pairs)
            for tilt in options.tilt
            for snr in options.snr
            for method in options.method
        ]
        run_jobs(
            partial(align_job, axis=axis),
            jobs,
            lambda phantom, tilt, snr, method, index: options.out / f"{phantom}_{method}.jsonl",
            processes=options.processes,
        )
