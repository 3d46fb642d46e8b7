"""Run alignments over cells and pairs with both cores, keep every result in a file, go on where a run stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from rich.progress import track

import gonio
from misses import search_missed
from pairs import Cell, Pair, make_pair, median_and_mad

TILTS_DEG = (90, 80, 70, 60, 50, 40)
SNRS = (float("inf"), 1.0, 0.5, 0.1)
WRONG_DEG = 15  # further off is another optimum
LISTING = ("coarse_to_fine", "axis")  # the searches that list the optima which they did not choose


def paper_cells(phantom: str) -> list[Cell]:
    """The 24 cells of the paper's tables."""
    return [Cell(phantom, tilt, snr) for tilt in TILTS_DEG for snr in SNRS]


def align_pair(
    cell: Cell, index: int, *, settings: gonio.Settings, with_normals: bool = False, from_truth: bool = False
) -> dict:
    """Errors, work and calibration of one pair; the simulation is not in its seconds.

    A local search starts ``from_truth``: where it ends is the right optimum of its score.
    """
    pair = make_pair(cell, index, with_normals=with_normals)
    began = time.process_time()
    aligner = gonio.Aligner(pair.reference, settings)
    start = pair.truth if from_truth else None
    result = aligner.align(pair.target, rng=np.random.default_rng(index), start=start)
    seconds = time.process_time() - began
    rotation_deg, shift_voxel, particle_voxel = pair.errors(result.pose)
    return {
        "rotation_error_deg": rotation_deg,
        "shift_error_voxel": shift_voxel,
        "particle_error_voxel": particle_voxel,
        "iterations": result.n_iterations,
        "seconds": seconds,
        "dissimilarity": result.dissimilarity,
        "true_dissimilarity": true_dissimilarity(aligner, pair),
        "passed_over": passed_over(result, pair.truth) if settings.search.name in LISTING else None,
        "search_missed": lost(pair, settings, result),
        **calibration(result, pair.truth),
    }


def true_dissimilarity(aligner: gonio.Aligner, pair: Pair) -> float | None:
    """At the true pose; None where the search weighs samples by what it finds, so that there is nothing to compare."""
    if aligner.settings.search.name in LISTING:
        return None
    return float(aligner.dissimilarity(pair.target, gonio.Pose.stack([pair.truth]))[0])


def lost(pair: Pair, settings: gonio.Settings, result: gonio.Result) -> bool | None:
    """Whether the search is to blame for a wrong pose; None for searches whose score shows it by itself."""
    if settings.search.name not in LISTING:
        return None
    wrong = float(result.pose.rotation_distance_deg(pair.truth)) > WRONG_DEG
    return wrong and search_missed(pair.reference, settings, pair.target, result, pair.truth)


def passed_over(result: gonio.Result, truth: gonio.Pose) -> bool:
    """Whether the right optimum is among the runners-up of a wrong one."""
    nearest = min((float(other.pose.rotation_distance_deg(truth)) for other in result.runners_up), default=np.inf)
    return bool(result.pose.rotation_distance_deg(truth) > WRONG_DEG >= nearest)


def calibration(result: gonio.Result, truth: gonio.Pose) -> dict:
    """Squared errors over their predicted variance, per degree of freedom: 1 on average for an honest covariance."""
    covariance = result.covariance
    turn = (truth.rotation * result.pose.rotation.inv()).as_rotvec()
    shift = truth.shift_angstrom - result.pose.shift_angstrom
    return {
        "rotation_calibration": squared_in_sds(turn, covariance[:3, :3]),
        "shift_calibration": squared_in_sds(shift, covariance[3:, 3:]),
    }


def squared_in_sds(error: np.ndarray, covariance: np.ndarray) -> float:
    """e^T C^-1 e over the rank of C, which is below 3 where a search leaves directions out."""
    inverse = np.linalg.pinv(covariance, rcond=1e-9, hermitian=True)
    return float(error @ inverse @ error / max(1, np.linalg.matrix_rank(inverse, hermitian=True)))


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
        f"{(rotation > WRONG_DEG).sum()} of {len(records)} off by over {WRONG_DEG} degrees, "
        f"{np.median(iterations):.0f} iterations"
    )


def run_jobs(
    function: Callable[..., dict], jobs: Iterable[tuple], checkpoint: Path | Callable[..., Path], *, processes: int = 2
) -> list[dict]:
    """``function(*job)`` for each job; a finished job is a line of its checkpoint and is not run again.

    A job is a tuple of plain values; its text is its key. ``checkpoint`` is a file, or gives the file of ``*job``.
    """
    jobs = list(jobs)
    paths = {job: checkpoint if isinstance(checkpoint, Path) else checkpoint(*job) for job in jobs}
    done = read_journals(set(paths.values()))
    missing = [job for job in jobs if str(job) not in done]
    with ProcessPoolExecutor(processes) as pool:
        results = pool.map(function, *zip(*missing, strict=True), chunksize=1) if missing else iter(())
        for job, record in track(zip(missing, results, strict=True), total=len(missing), disable=not missing):
            done[str(job)] = {"job": str(job), **record}
            paths[job].parent.mkdir(parents=True, exist_ok=True)
            with paths[job].open("a") as file:
                file.write(json.dumps(done[str(job)]) + "\n")
    return [done[str(job)] for job in jobs]


def read_journals(paths: Iterable[Path]) -> dict[str, dict]:
    """The finished jobs of all of them by their keys."""
    done = {}
    for line in (line for path in paths if path.exists() for line in path.read_text().splitlines()):
        with suppress(json.JSONDecodeError):  # torn by an interruption
            record = json.loads(line)
            done[record["job"]] = record
    return done
