"""What each step before a score gives: inputs, weights, refinement and choice, with and without, and with the truth.

    python experiments/inputs/run.py [--phantom sharp ...] [--pairs 30] [--tilt 60 40] [--snr inf 1 0.5 0.1] [--out DIR]

Every variant of ``variants.py`` aligns the same pairs by the search from coarse to fine. At +-40 degrees it runs at
SNR 0.5 alone. A table of each phantom has a line for each variant and a column for each cell: median rotation error in
degrees, median shift error in voxels, and how many are off by over 15 degrees. The first table sums up: the geometric
mean over all cells of the medians over those of the defaults, and the wrong ones.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from variants import VARIANTS, variant_job

from cells import WRONG_DEG, read_journals, run_jobs
from listing import aligned, number, piped, place
from pairs import NAMES, Cell

DEFAULT = "restored"
NARROW_DEG, NARROW_SNR = 50, 0.5  # a narrow tilt range has this one SNR


def cells_of(phantoms: Iterable[str], tilts_deg: Iterable[int], snrs: Iterable[float]) -> list[Cell]:
    """The cells that are run."""
    cells = [Cell(phantom, tilt, snr) for phantom in phantoms for tilt in tilts_deg for snr in snrs]
    return [cell for cell in cells if cell.tilt_deg >= NARROW_DEG or cell.snr == NARROW_SNR]


def key_of(cell: Cell, variant: str, index: int) -> tuple:
    """A job."""
    return (cell.phantom, cell.tilt_deg, cell.snr, variant, index)


def checkpoint(folder: Path, phantom: str) -> Path:
    """Where the records of a phantom are."""
    return folder / f"{phantom}.jsonl"


def run_missing(cells: list[Cell], options: argparse.Namespace) -> None:
    """Run every job that no checkpoint holds: pair after pair, so that the variants of one share its simulation."""
    run_jobs(
        variant_job,
        [key_of(c, v, index) for index in range(options.pairs) for c in cells for v in options.variant],
        lambda phantom, *_: checkpoint(options.out, phantom),
        processes=options.processes,
    )


def summarise(cell: Cell, done: dict[str, dict], variants: list[str], pairs: int) -> dict:
    """The medians and counts of one cell, over the pairs that every variant has finished."""
    finished = [i for i in range(pairs) if all(str(key_of(cell, v, i)) in done for v in variants)]
    records = {v: [done[str(key_of(cell, v, i))] for i in finished] for v in variants} if finished else {}
    return {
        "phantom": cell.phantom,
        "tilt_deg": cell.tilt_deg,
        "snr": f"{cell.snr:g}",
        "pairs": len(finished),
        "variants": {variant: medians(of_pairs) for variant, of_pairs in records.items()},
    }


def medians(records: list[dict]) -> dict:
    """Of one variant in one cell."""
    rotation = np.array([r["rotation_error_deg"] for r in records])
    return {
        "rotation_deg": float(np.median(rotation)),
        "shift_voxel": float(np.median([r["shift_error_voxel"] for r in records])),
        "iterations": float(np.median([r["iterations"] for r in records])),
        "wrong": int((rotation > WRONG_DEG).sum()),
        "passed_over": sum(r["passed_over"] for r in records),
    }


def entry(row: dict, variant: str) -> str:
    """Rotation, shift and wrong ones; a dash for what has not run."""
    values = row["variants"].get(variant)
    if values is None:
        return "-"
    return f"{number(values['rotation_deg'])} / {number(values['shift_voxel'], 2)} / {values['wrong']}"


def table(rows: dict[Cell, dict], variants: list[str], write: Callable[[list[str], list[list[str]]], str]) -> str:
    """A line for each variant and a column for each cell."""
    header = ["", *(f"{', SNR '.join(place(cell))} ({row['pairs']} pairs)" for cell, row in rows.items())]
    lines = [[VARIANTS[variant].title, *(entry(row, variant) for row in rows.values())] for variant in variants]
    return write(header, lines)


def ratio(rows: Iterable[dict], variant: str, name: str) -> float | None:
    """Geometric mean over cells of a median over that of the defaults; None where either has not run."""
    medians = [[row["variants"][v][name] for v in (variant, DEFAULT)] for row in rows if DEFAULT in row["variants"]]
    return float(np.exp(np.mean([np.log(own / default) for own, default in medians]))) if medians else None


def overview(rows: dict[Cell, dict], variants: list[str], write: Callable[[list[str], list[list[str]]], str]) -> str:
    """Every variant against the defaults: rotation, shift and wrong ones of each phantom, and in how many cells."""
    phantoms = list(dict.fromkeys(cell.phantom for cell in rows))
    lines = []
    for variant in variants:
        line = [VARIANTS[variant].title]
        for phantom in phantoms:
            own = [row for cell, row in rows.items() if cell.phantom == phantom]
            turn, shift = (number(ratio(own, variant, name)) for name in ("rotation_deg", "shift_voxel"))
            wrong = sum(row["variants"].get(variant, {}).get("wrong", 0) for row in own)
            line.append(f"{turn} / {shift} / {wrong}")
        lines.append(line)
    counts = (sum(row["pairs"] for cell, row in rows.items() if cell.phantom == phantom) for phantom in phantoms)
    return write(["", *(f"`{p}` ({n} pairs)" for p, n in zip(phantoms, counts, strict=True))], lines)


def tables(rows: dict[Cell, dict], variants: list[str], write: Callable[[list[str], list[list[str]]], str]) -> str:
    """The overview, and one for each phantom."""
    title = f"all cells: rotation / shift, each over that of the defaults / off by over {WRONG_DEG} degrees"
    parts = [title, overview(rows, variants, write)]
    for phantom in dict.fromkeys(cell.phantom for cell in rows):
        own = {cell: row for cell, row in rows.items() if cell.phantom == phantom}
        parts += [f"`{phantom}`: degrees / voxels / off by over {WRONG_DEG} degrees", table(own, variants, write)]
    return "\n\n".join(parts)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantom", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--pairs", type=int, default=30)
    parser.add_argument("--tilt", type=int, nargs="+", default=[60, 40])
    parser.add_argument("--snr", type=float, nargs="+", default=[float("inf"), 1.0, 0.5, 0.1])
    parser.add_argument("--variant", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/inputs"))
    parser.add_argument("--summarise-only", action="store_true", help="run nothing")
    parser.add_argument("--markdown", type=Path, help="write the tables of docs/reproduce.md into this file")
    return parser.parse_args()


def main() -> None:
    """Run, print, write JSON."""
    options = parse()
    cells = cells_of(options.phantom, options.tilt, options.snr)
    if not options.summarise_only:
        run_missing(cells, options)
    done = read_journals([checkpoint(options.out, phantom) for phantom in options.phantom])
    rows = {cell: summarise(cell, done, options.variant, options.pairs) for cell in cells}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "summary.json").write_text(json.dumps({"cells": list(rows.values())}, indent=1))
    if options.markdown:
        options.markdown.write_text(tables(rows, options.variant, piped) + "\n")
    print(tables(rows, options.variant, aligned))


if __name__ == "__main__":
    main()
