"""What the records of one cell say: medians and MADs, wrong optima, work and calibration, beside the paper's values.

Every method of a cell is summarised over the same pairs, those that all of its methods have finished. A row is plain
values, ready for JSON.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from cells import WRONG_DEG
from pairs import Cell, median_and_mad

PAPER_METHODS = ("rcs_60", "fcs_60", "rcs_45", "fcs_45")
QUANTITIES = {"rotation_deg": "rotation_error_deg", "shift_voxel": "shift_error_voxel"}
PAPER_TABLES = {
    ("rotation_deg", False): "table1_rotation_error_deg",
    ("shift_voxel", False): "table2_translation_error_voxel",
    ("rotation_deg", True): "table3_axis_rotation_error_deg",
    ("shift_voxel", True): "table4_axis_translation_error_voxel",
}

Rows = dict[Cell, dict]


@cache
def paper_tables() -> dict:
    """The paper's printed tables."""
    return json.loads(Path(__file__).with_name("paper.json").read_text())


def paper_value(quantity: str, cell: Cell, method: str, *, axis: bool) -> tuple[float, float]:
    """Median and MAD as the paper prints them."""
    score, interval = method.split("_")
    table = paper_tables()[PAPER_TABLES[quantity, axis]]
    median, mad = table[interval][score.upper()][str(cell.tilt_deg)][f"{cell.snr:g}"]
    return median, mad


def summarise_cell(cell: Cell, records: dict[str, dict[int, dict]], *, axis: bool) -> dict:
    """The row of a cell from its records by method and pair."""
    present = {method: of_pair for method, of_pair in records.items() if of_pair}
    pairs = sorted(set.intersection(*(set(of_pair) for of_pair in present.values())))
    methods = {m: summarise(m, [of_pair[i] for i in pairs]) for m, of_pair in present.items()} if pairs else {}
    paper = {q: {m: paper_value(q, cell, m, axis=axis) for m in PAPER_METHODS} for q in QUANTITIES}
    return {
        "phantom": cell.phantom,
        "tilt_deg": cell.tilt_deg,
        "snr": f"{cell.snr:g}",
        "pairs": len(pairs),
        "paper": paper,
        "paper_best": {q: best(paper[q]) for q in QUANTITIES},
        "methods": methods,
        "schedule_best": {q: best({m: methods[m][q] for m in PAPER_METHODS if m in methods}) for q in QUANTITIES},
        "over_bound": {q: over_bound(methods, q) for q in QUANTITIES},
    }


def pairs_of(rows: Rows) -> list[int]:
    """The fewest and the most pairs of a cell."""
    pairs = [row["pairs"] for row in rows.values()]
    return [min(pairs, default=0), max(pairs, default=0)]


def best(values: dict[str, tuple[float, float]]) -> str | None:
    """The method with the smallest median."""
    return min(values, key=lambda method: values[method][0], default=None)


def over_bound(methods: dict, quantity: str) -> float | None:
    """The defaults' median error over that of an estimator at the bound; None without noise."""
    medians = [methods[method][quantity][0] if method in methods else 0.0 for method in ("defaults", "bound")]
    return medians[0] / medians[1] if all(medians) else None


def summarise(method: str, records: list[dict]) -> dict:
    """One method in one cell."""
    row: dict = {q: median_and_mad(np.array([r[name] for r in records])) for q, name in QUANTITIES.items()}
    if method == "bound":
        return row
    wrong = [r for r in records if r["rotation_error_deg"] > WRONG_DEG]
    row |= {"wrong": len(wrong), **unchosen(method, wrong)}
    row |= {name: float(np.median([r[name] for r in records])) for name in ("iterations", "seconds")}
    return row | calibrations(records)


def unchosen(method: str, wrong: list[dict]) -> dict:
    """Of the wrong ones: where the right optimum was found but not chosen, and where the true pose scores worse.

    The paper's schedule lists no other optima, and the defaults' score has no value without its weights, so that each
    knows one of them. Where the search has lost the right optimum (``misses``) is known of the defaults; None of
    records that are older than that count.
    """
    if method in PAPER_METHODS:
        outscored = sum(r["dissimilarity"] < r["true_dissimilarity"] for r in wrong)
        return {"passed_over": None, "truth_scores_worse": outscored, "search_misses": None}
    missed = [r.get("search_missed") for r in wrong]
    return {
        "passed_over": sum(bool(r["passed_over"]) for r in wrong),
        "truth_scores_worse": None,
        "search_misses": None if None in missed else sum(missed),
    }


def calibrations(records: list[dict]) -> dict:
    """Mean squared error over the predicted variance, of all pairs and of those at the right optimum; None if unknown.

    The covariance is that of one optimum and knows nothing of others, so a single wrong one makes the mean of all.
    """
    row: dict = {}
    for name in ("rotation_calibration", "shift_calibration"):
        known = [r for r in records if r.get(name) is not None]
        right = [r[name] for r in known if r["rotation_error_deg"] <= WRONG_DEG]
        row[name] = float(np.mean([r[name] for r in known])) if known else None
        row[f"{name}_right"] = float(np.mean(right)) if right else None
    return row
