"""The tables as text: plain for the screen, Markdown for docs/reproduce.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from misses import COLUMN
from pairs import Cell
from summary import PAPER_METHODS, QUANTITIES, Rows

TITLES = {"rotation_deg": "rotation error, degrees", "shift_voxel": "shift error, voxels"}
OURS = (*PAPER_METHODS, "defaults")


def number(value: float | None, digits: int = 3) -> str:
    """Some significant digits, never in powers of ten; a dash for what is not known."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return np.format_float_positional(value, precision=digits, fractional=False, trim="-")


def with_mad(value: tuple[float, float] | None) -> str:
    """Median +- MAD."""
    return "-" if value is None else f"{number(value[0])} ± {number(value[1], 2)}"


def aligned(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest entry."""
    table = [list(header), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in table)


def piped(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *lines])


def phantoms_of(rows: Rows) -> dict[str, list[tuple[Cell, dict]]]:
    """The rows phantom by phantom."""
    groups: dict[str, list[tuple[Cell, dict]]] = {}
    for cell, row in rows.items():
        groups.setdefault(cell.phantom, []).append((cell, row))
    return groups


def place(cell: Cell) -> list[str]:
    """The first two columns."""
    return [f"±{cell.tilt_deg}", "∞" if cell.snr == float("inf") else f"{cell.snr:g}"]


def value(row: dict, method: str | None, name: str) -> tuple[float, float] | None:
    """Median and MAD of a method in a row; None where it has not run."""
    return row["methods"].get(method, {}).get(name)


def paper_best(row: dict, quantity: str) -> str:
    """The best of the paper's four printed values."""
    return with_mad(row["paper"][quantity][row["paper_best"][quantity]])


def counts(row: dict, name: str, methods: Sequence[str]) -> str:
    """A count by each of the methods, a slash between them."""
    return "/".join(number(row["methods"].get(method, {}).get(name)) for method in methods)


def error_line(cell: Cell, row: dict, quantity: str) -> list[str]:
    """The paper's best, each of our methods, their best, the bound, and how far the defaults are from it."""
    return [
        *place(cell),
        str(row["pairs"]),
        paper_best(row, quantity),
        *(with_mad(value(row, method, quantity)) for method in PAPER_METHODS),
        with_mad(value(row, row["schedule_best"][quantity], quantity)),
        with_mad(value(row, "defaults", quantity)),
        number((value(row, "bound", quantity) or (None,))[0]),
        number(row["over_bound"][quantity], 2),
    ]


def work_line(cell: Cell, row: dict) -> list[str]:
    """Wrong optima, steps, seconds and calibration."""
    defaults = row["methods"].get("defaults", {})
    return [
        *place(cell),
        counts(row, "wrong", OURS),
        number(defaults.get("passed_over")),
        number(defaults.get("search_misses")),
        counts(row, "truth_scores_worse", PAPER_METHODS),
        counts(row, "iterations", OURS),
        "/".join(number(row["methods"].get(m, {}).get("seconds"), 2) for m in OURS),
        *(
            f"{number(defaults.get(name + '_right'), 2)} ({number(defaults.get(name), 2)})"
            for name in ("rotation_calibration", "shift_calibration")
        ),
    ]


def plain_text(rows: Rows) -> str:
    """Two tables of errors and one of work for each phantom."""
    parts = []
    for phantom, group in phantoms_of(rows).items():
        for quantity, title in TITLES.items():
            header = ["tilt", "SNR", "pairs", "the paper", *PAPER_METHODS, "best", "defaults", "bound", "x bound"]
            parts += [f"{phantom}: {title}", aligned(header, (error_line(c, row, quantity) for c, row in group))]
        order = "/".join(OURS)
        header = [
            "tilt",
            "SNR",
            "wrong",
            "passed over",
            COLUMN,
            "truth worse",
            "steps",
            "seconds",
            "turn cal.",
            "shift cal.",
        ]
        parts += [
            f"{phantom}: {order}; off by over 15 degrees; right optimum found but not chosen, "
            "and lost by the search (defaults); wrong pose "
            "that scores better than the true one (the schedule); medians of Levenberg-Marquardt steps and seconds; "
            "squared error over predicted variance at the right optimum (of all)",
            aligned(header, (work_line(c, row) for c, row in group)),
        ]
    return "\n\n".join(parts)


def markdown_line(cell: Cell, row: dict, quantity: str) -> list[str]:
    """What docs/reproduce.md shows of a cell."""
    best, bound = row["schedule_best"][quantity], value(row, "bound", quantity)
    schedule = with_mad(value(row, best, quantity)) + (f" ({name_of(best)})" if best else "")
    wrong = f"{counts(row, 'wrong', [best or ''])}; {counts(row, 'wrong', ['defaults'])} of {row['pairs']}"
    missed = counts(row, "search_misses", ["defaults"])
    defaults, least = with_mad(value(row, "defaults", quantity)), number(bound[0] if bound else None)
    return [*place(cell), paper_best(row, quantity), schedule, defaults, least, wrong, missed]


def name_of(method: str) -> str:
    """A method of the paper's schedule in words."""
    score, interval = method.split("_")
    return f"{score.upper()} {interval}"


def markdown(rows: Rows) -> str:
    """One table for each phantom and quantity."""
    header = [
        "tilt",
        "SNR",
        "the paper's best",
        "its schedule, best of 4",
        "defaults",
        "bound",
        "wrong: schedule; defaults",
        COLUMN,
    ]
    parts = []
    for phantom, group in phantoms_of(rows).items():
        for quantity in QUANTITIES:
            lines = (markdown_line(cell, row, quantity) for cell, row in group)
            parts += [f"`{phantom}`: {TITLES[quantity]}", piped(header, lines)]
    return "\n\n".join(parts) + "\n"
