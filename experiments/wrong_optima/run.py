"""How often an alignment ends at a wrong optimum (over 15 degrees off), and whether search or score is to blame.

    python experiments/wrong_optima/run.py [--phantom sharp pseudo_symmetric] [--pairs 100] [--tables DIR] [--out DIR]

The paper's schedule with its plain scores (45 degrees) and gonio's defaults, over tilt range and SNR. These are jobs of
Tables 1 and 2 and share their checkpoints (``--tables``). A wrong answer was the score's choice where the right optimum
is no better in that score: for RCS and FCS the optimum that a local refinement from the true pose finds; for the
defaults the one in its own pool of optima. Otherwise the search did not come by the right one.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gonio
from cells import WRONG_DEG, align_pair, run_jobs
from listing import aligned, piped, place
from pairs import VOXEL_SIZE_ANGSTROM, Cell
from plots import save, wrong_fractions
from tables import checkpoint, table_job
from targets import list_of_checks, wrong_optima

PLAIN = ("rcs_45", "fcs_45")
METHODS = (*PLAIN, "defaults")


def right_optimum(phantom: str, tilt_deg: int, snr: float, method: str, index: int) -> dict:
    """Where a plain score has its minimum next to the true pose."""
    settings = gonio.Settings(
        score=method.split("_")[0], search="local", inputs="plain", resolution_angstrom=4 * VOXEL_SIZE_ANGSTROM
    )
    return align_pair(Cell(phantom, tilt_deg, snr), index, settings=settings, from_truth=True)


def is_wrong(record: dict) -> bool:
    """Whether it is another optimum."""
    return record["rotation_error_deg"] > WRONG_DEG


def run_alignments(options: argparse.Namespace) -> dict[tuple, dict]:
    """The records of all jobs; those of Tables 1 and 2 are not run again."""
    jobs = [
        (phantom, tilt, snr, method, index)
        for index in range(options.pairs)
        for phantom in options.phantom
        for tilt in options.tilt
        for snr in options.snr
        for method in METHODS
    ]
    records = run_jobs(
        partial(table_job, axis=False),
        jobs,
        lambda phantom, tilt, snr, method, index: checkpoint(options.tables, phantom, method),
        processes=options.processes,
    )
    return dict(zip(jobs, records, strict=True))


def run_right_optima(records: dict[tuple, dict], options: argparse.Namespace) -> dict[tuple, dict]:
    """The right optimum of every wrong answer of a plain score."""
    jobs = [job for job, record in records.items() if job[3] in PLAIN and is_wrong(record)]
    right = run_jobs(right_optimum, jobs, options.out / "right_optima.jsonl", processes=options.processes)
    return dict(zip(jobs, right, strict=True))


def was_chosen_by_score(job: tuple, record: dict, right: dict[tuple, dict]) -> bool:
    """Of a wrong answer: whether the right optimum would have lost, or did."""
    if job not in right:
        return bool(record["passed_over"])
    return not is_wrong(right[job]) and record["dissimilarity"] <= right[job]["dissimilarity"]


def summarise(cell: Cell, records: dict[tuple, dict], right: dict[tuple, dict], pairs: int) -> dict:
    """The counts of one cell."""
    methods = {}
    for method in METHODS:
        jobs = [(cell.phantom, cell.tilt_deg, cell.snr, method, index) for index in range(pairs)]
        wrong = [job for job in jobs if is_wrong(records[job])]
        chosen = sum(was_chosen_by_score(job, records[job], right) for job in wrong)
        methods[method] = {"wrong": len(wrong), "not_chosen": chosen}
    return {
        "phantom": cell.phantom,
        "tilt_deg": cell.tilt_deg,
        "snr": f"{cell.snr:g}",
        "pairs": pairs,
        "methods": methods,
    }


def line(cell: Cell, row: dict) -> list[str]:
    """Wrong, and of these the score's choice, for each method."""
    counts = (row["methods"][method] for method in METHODS)
    return [*place(cell), str(row["pairs"]), *(f"{c['wrong']} ({c['not_chosen']})" for c in counts)]


def tables(rows: dict[Cell, dict], write: Callable[[list[str], list[list[str]]], str]) -> str:
    """One table for each phantom."""
    header = ["tilt", "SNR", "pairs", "RCS 45", "FCS 45", "defaults"]
    parts = []
    for phantom in dict.fromkeys(cell.phantom for cell in rows):
        parts += [f"{phantom}: off by over {WRONG_DEG} degrees (of these the score's choice, not the search's)"]
        parts += [write(header, [line(cell, row) for cell, row in rows.items() if cell.phantom == phantom])]
    return "\n\n".join(parts)


def main() -> None:
    """Run, print, write JSON and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", nargs="+", default=["sharp", "pseudo_symmetric"])
    parser.add_argument("--pairs", type=int, default=100)
    parser.add_argument("--tilt", type=int, nargs="+", default=[60, 50, 40])
    parser.add_argument("--snr", type=float, nargs="+", default=[1.0, 0.5, 0.1])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/wrong_optima"))
    parser.add_argument("--tables", type=Path, help="checkpoints of tables_1_2 (beside --out)")
    parser.add_argument("--markdown", type=Path, help="write the tables of docs/reproduce.md into this file")
    options = parser.parse_args()
    options.tables = options.tables or options.out.parent / "tables_1_2"
    records = run_alignments(options)
    right = run_right_optima(records, options)
    cells = [Cell(p, tilt, snr) for p in options.phantom for tilt in options.tilt for snr in options.snr]
    rows = {cell: summarise(cell, records, right, options.pairs) for cell in cells}
    checks = wrong_optima(rows, "pseudo_symmetric")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "summary.json").write_text(json.dumps({"cells": list(rows.values()), "targets": checks}, indent=1))
    save(wrong_fractions(rows, METHODS), options.out / "wrong_optima.png")
    if options.markdown:
        options.markdown.write_text(tables(rows, piped) + "\n")
    print(tables(rows, aligned))
    print(list_of_checks(checks, rows))


if __name__ == "__main__":
    main()
