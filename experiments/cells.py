"""Run alignments over cells and pairs with both cores, keep every result in a file, go on where a run stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from rich.progress import track

import gonio
from pairs import Cell, make_pair, median_and_mad

TILTS_DEG = (90, 80, 70, 60, 50, 40)
SNRS = (float("inf"), 1.0, 0.5, 0.1)


def paper_cells(phantom: str) -> list[Cell]:
    """The 24 cells of the paper's tables."""
    return [Cell(phantom, tilt, snr) for tilt in TILTS_DEG for snr in SNRS]


def align_pair(cell: Cell, index: int, *, settings: gonio.Settings, with_normals: bool = False) -> dict:
    """Errors and iterations of one pair."""
    pair = make_pair(cell, index, with_normals=with_normals)
    aligner = gonio.Aligner(pair.reference, settings)
    result = aligner.align(pair.target, rng=np.random.default_rng(index))
    rotation_deg, shift_voxel, particle_voxel = pair.errors(result.pose)
    return {
        "rotation_error_deg": rotation_deg,
        "shift_error_voxel": shift_voxel,
        "particle_error_voxel": particle_voxel,
        "iterations": result.n_iterations,
        "dissimilarity": result.dissimilarity,
        "true_dissimilarity": float(aligner.dissimilarity(pair.target, gonio.Pose.stack([pair.truth]))[0]),
    }


def describe(records: list[dict]) -> str:
    """Median and MAD of both errors, wrong optima and iterations of one cell, as a line of text."""
    rotation, shift, particle, iterations = (
        np.array([record[name] for record in records])
        for name in ("rotation_error_deg", "shift_error_voxel", "particle_error_voxel", "iterations")
    )
    turned, moved = median_and_mad(rotation), median_and_mad(shift)
    return (
        f"{turned[0]:.3f} +- {turned[1]:.3f} degrees, {moved[0]:.4f} +- {moved[1]:.4f} voxel "
        f"(particle's centre {np.median(particle):.4f}), "
        f"{(rotation > 15).sum()} of {len(records)} off by over 15 degrees, {np.median(iterations):.0f} iterations"
    )


def run_jobs(function: Callable[..., dict], jobs: Iterable[tuple], journal: Path, *, processes: int = 2) -> list[dict]:
    """``function(*job)`` for each job; a finished job is a line of ``journal`` and is not run again.

    A job is a tuple of plain values; its text is its key.
    """
    journal.parent.mkdir(parents=True, exist_ok=True)
    jobs = list(jobs)
    done = {}
    if journal.exists():
        for line in journal.read_text().splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # torn by an interruption
            done[record["job"]] = record
    missing = [job for job in jobs if str(job) not in done]
    with ProcessPoolExecutor(processes) as pool, journal.open("a") as file:
        results = pool.map(function, *zip(*missing, strict=True), chunksize=1) if missing else iter(())
        for job, record in track(zip(missing, results, strict=True), total=len(missing), description=journal.stem):
            done[str(job)] = {"job": str(job), **record}
            file.write(json.dumps(done[str(job)]) + "\n")
            file.flush()
    return [done[str(job)] for job in jobs]
