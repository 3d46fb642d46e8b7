"""The 24 cells of the paper's tables: its schedule, gonio's defaults and the Cramer-Rao bound on the same pairs.

``tables_1_2/run.py`` and ``tables_3_4/run.py`` are its two commands. Every finished pair is a line of a checkpoint, one
for each phantom and method; ``--summarise-only`` reads whatever they hold, from any number of folders.
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

import gonio
from bound import bound_record
from cells import SNRS, TILTS_DEG, align_pair, read_journals, run_jobs
from listing import markdown, plain_text
from pairs import VOXEL_SIZE_ANGSTROM, Cell
from plots import error_over_snr, save
from summary import PAPER_METHODS, QUANTITIES, Rows, pairs_of, summarise_cell
from targets import axis_checks, free_checks, list_of_checks

METHODS = (*PAPER_METHODS, "defaults", "bound")
PHANTOMS = ("four_gaussians", "sharp")


def method_settings(method: str, *, axis: bool) -> gonio.Settings:
    """What a method of the tables asks for: the paper's schedule by score and seeds, or gonio's own defaults."""
    if method == "defaults":
        return gonio.Settings(search="axis") if axis else gonio.Settings()
    score, interval = method.split("_")
    return gonio.Settings(
        score=score,
        search=gonio.PaperSearch("axis_stochastic" if axis else "stochastic", float(interval)),
        resolution_angstrom=4 * VOXEL_SIZE_ANGSTROM,
    )


def table_job(phantom: str, tilt_deg: int, snr: float, method: str, index: int, *, axis: bool) -> dict:
    """One pair by one method."""
    cell = Cell(phantom, tilt_deg, snr)
    if method == "bound":
        record = bound_record(cell, index, axis=axis)
        return {name: record[name] for name in QUANTITIES.values()}
    return align_pair(cell, index, settings=method_settings(method, axis=axis), with_normals=axis)


def checkpoint(folder: Path, phantom: str, method: str) -> Path:
    """Where the records of a phantom and a method are."""
    return folder / f"{phantom}_{method}.jsonl"


def run_missing(options: argparse.Namespace, *, axis: bool) -> None:
    """Run what is missing, phantom by phantom."""
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
            partial(table_job, axis=axis),
            jobs,
            lambda phantom, tilt, snr, method, index: checkpoint(options.out, phantom, method),
            processes=options.processes,
        )


def read_rows(folders: list[Path], options: argparse.Namespace, *, axis: bool) -> Rows:
    """The cells that the checkpoints hold anything of, summarised; the first ``--pairs`` pairs."""
    rows = {}
    for phantom in options.phantom:
        done = read_journals([checkpoint(folder, phantom, m) for folder in folders for m in options.method])
        for cell in (Cell(phantom, tilt, snr) for tilt in options.tilt for snr in options.snr):
            records = cell_records(done, cell, options.method, options.pairs)
            if any(records.values()):
                rows[cell] = summarise_cell(cell, records, axis=axis)
    return rows


def cell_records(done: dict[str, dict], cell: Cell, methods: list[str], pairs: int) -> dict[str, dict[int, dict]]:
    """By method and pair."""
    keys = {m: {i: str((cell.phantom, cell.tilt_deg, cell.snr, m, i)) for i in range(pairs)} for m in methods}
    return {m: {i: done[key] for i, key in of_pair.items() if key in done} for m, of_pair in keys.items()}


def parse(description: str, out: str, *, axis: bool) -> argparse.Namespace:
    """The command line of both scripts."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", nargs="+", default=list(PHANTOMS))
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--tilt", type=int, nargs="+", default=list(TILTS_DEG))
    parser.add_argument("--snr", type=float, nargs="+", default=list(SNRS))
    parser.add_argument("--method", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(out), help="checkpoints, summary.json and plots")
    parser.add_argument("--also", type=Path, nargs="+", default=[], help="more folders with checkpoints to read")
    parser.add_argument("--summarise-only", action="store_true", help="run nothing")
    parser.add_argument("--markdown", type=Path, help="write the tables of docs/reproduce.md into this file")
    if axis:
        parser.add_argument("--free", type=Path, nargs="+", help="checkpoints of tables_1_2 (beside --out)")
    return parser.parse_args()


def write_summary(options: argparse.Namespace, rows: Rows, checks: list[dict]) -> None:
    """Text to the screen; JSON and plots, and Markdown where asked for, to files."""
    options.out.mkdir(parents=True, exist_ok=True)
    summary = {"cells": list(rows.values()), "targets": checks, "pairs": pairs_of(rows)}
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1))
    for phantom in dict.fromkeys(cell.phantom for cell in rows):
        save(error_over_snr(rows, phantom), options.out / f"{phantom}.png")
    if options.markdown:
        options.markdown.write_text(markdown(rows))
    print(plain_text(rows))
    print(list_of_checks(checks, rows))


def run_tables(description: str, *, out: str, axis: bool) -> None:
    """Run what is missing, then summarise."""
    options = parse(description, out, axis=axis)
    if not options.summarise_only:
        run_missing(options, axis=axis)
    rows = read_rows([options.out, *options.also], options, axis=axis)
    if axis:
        free = read_rows(options.free or [options.out.parent / "tables_1_2"], options, axis=False)
        checks = axis_checks(rows, free)
    else:
        checks = free_checks(rows)
    write_summary(options, rows, checks)
