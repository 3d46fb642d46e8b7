"""What gonio sets out to reach in these tables, and whether the measured rows meet it.

A target is met when every cell that it names has been run and says so; it is open (None) while cells are missing.
"""

from __future__ import annotations

from collections.abc import Iterable

from cells import SNRS, TILTS_DEG
from listing import number
from pairs import Cell
from summary import PAPER_METHODS, QUANTITIES, Rows, pairs_of

INF = float("inf")
NAMES = {"rotation_deg": "rotation", "shift_voxel": "shift"}
SHARP_LIMITS = {
    ("rotation_deg", 60): {INF: 0.45, 1.0: 0.95, 0.5: 1.35, 0.1: 2.6},
    ("rotation_deg", 40): {INF: 1.3, 1.0: 2.5, 0.5: 3.4},
    ("rotation_deg", 90): {INF: 0.05, 0.5: 0.55, 0.1: 1.1},
    ("shift_voxel", 60): {INF: 0.019, 1.0: 0.062, 0.5: 0.085, 0.1: 0.18},
}
WRONG_LIMITS = {  # tilt ranges, SNRs, largest share
    "sharp": {
        "±60 or wider": ((90, 80, 70, 60), SNRS, 0.0),
        "±50": ((50,), SNRS, 0.02),
        "±40, SNR >= 0.5": ((40,), (INF, 1.0, 0.5), 0.05),
    },
    "pseudo_symmetric": {
        "±60, SNR 0.1": ((60,), (0.1,), 0.08),
        "±50, SNR 0.1": ((50,), (0.1,), 0.20),
        "±40, SNR 1 and 0.5": ((40,), (1.0, 0.5), 0.25),
    },
}
BOUND_FACTOR = 1.8
MISSED_LIMIT = 0.01
CALIBRATED = (0.7, 1.5)
AXIS_LIMIT_DEG = 0.8


def check(target: str, measured: str, verdicts: Iterable[bool | None]) -> dict:
    """One line of the list, from a verdict for each cell, None where it is missing."""
    verdicts = list(verdicts)
    met = False if False in verdicts else None if None in verdicts or not verdicts else True
    return {"target": target, "measured": measured, "met": met}


def list_of_checks(checks: list[dict], rows: Rows) -> str:
    """As plain text; 100 pairs are meant."""
    word = {True: "met", False: "MISSED", None: "open"}
    fewest, most = pairs_of(rows)
    head = f"Targets, from {fewest} to {most} pairs per cell"
    return "\n".join([head, *(f"  {word[c['met']]}: {c['target']}: {c['measured']}" for c in checks)])


def median_of(rows: Rows, cell: Cell, method: str | None, quantity: str) -> float | None:
    """None where it has not run."""
    value = rows.get(cell, {"methods": {}})["methods"].get(method, {}).get(quantity)
    return None if value is None else value[0]


def at_most(value: float | None, limit: float | None) -> bool | None:
    """None where either is missing."""
    return None if value is None or limit is None else value <= limit


def all_cells(phantom: str) -> list[Cell]:
    """The 24 cells."""
    return [Cell(phantom, tilt, snr) for tilt in TILTS_DEG for snr in SNRS]


def tally(verdicts: list[bool | None]) -> str:
    """How many cells are so."""
    missing = verdicts.count(None)
    return f"{verdicts.count(True)} of {len(verdicts)} cells" + (f", {missing} not run" if missing else "")


def failing(cells: list[Cell], verdicts: list[bool | None]) -> str:
    """The cells that are not so, in short."""
    names = [f"±{c.tilt_deg}/{c.snr:g}" for c, verdict in zip(cells, verdicts, strict=True) if verdict is False]
    return f" (not: {', '.join(names)})" if names else ""


def against_schedule(rows: Rows, phantom: str, quantity: str) -> dict:
    """Every cell at or below the best of the paper's schedule on the same pairs."""
    cells = all_cells(phantom)
    verdicts = []
    for cell in cells:
        schedule = [median_of(rows, cell, method, quantity) for method in PAPER_METHODS]
        limit = None if None in schedule else min(m for m in schedule if m is not None)
        verdicts.append(at_most(median_of(rows, cell, "defaults", quantity), limit))
    target = f"{phantom}, {NAMES[quantity]}: every cell at or below the paper's schedule"
    return check(target, tally(verdicts) + failing(cells, verdicts), verdicts)


def against_print(rows: Rows, quantity: str) -> dict:
    """Below the paper's printed best in at least 20 of 24 cells."""
    cells, verdicts = all_cells("sharp"), []
    for cell in cells:
        measured = median_of(rows, cell, "defaults", quantity)
        paper = rows[cell]["paper"][quantity][rows[cell]["paper_best"][quantity]][0] if cell in rows else None
        verdicts.append(None if measured is None or paper is None else measured < paper)
    enough = verdicts.count(True) >= 20 or (None if None in verdicts else False)
    target = f"sharp, {NAMES[quantity]}: below the paper's printed best in 20 of 24"
    return check(target, tally(verdicts) + failing(cells, verdicts), [enough])


def against_limits(rows: Rows, quantity: str, tilt_deg: int) -> dict:
    """The medians of `sharp` at one tilt range."""
    limits = SHARP_LIMITS[quantity, tilt_deg]
    values = {snr: median_of(rows, Cell("sharp", tilt_deg, snr), "defaults", quantity) for snr in limits}
    unit = "degrees" if quantity == "rotation_deg" else "voxel"
    target = (
        f"sharp, ±{tilt_deg}, {NAMES[quantity]} at SNR {', '.join(f'{snr:g}' for snr in limits)}: "
        f"<= {', '.join(f'{limit:g}' for limit in limits.values())} {unit}"
    )
    measured = ", ".join("-" if v is None else f"{v:.3g}" for v in values.values())
    return check(target, measured, [at_most(values[snr], limits[snr]) for snr in limits])


def wrong_optima(rows: Rows, phantom: str) -> list[dict]:
    """The share of pairs that are off by more than 15 degrees, in each cell."""
    checks = []
    for name, (tilts, snrs, limit) in WRONG_LIMITS[phantom].items():
        cells = [Cell(phantom, tilt, snr) for tilt in tilts for snr in snrs]
        ran = [rows.get(cell, {"methods": {}}) for cell in cells]
        found = [(r["methods"]["defaults"]["wrong"], r["pairs"]) for r in ran if "defaults" in r["methods"]]
        verdicts = [wrong <= limit * pairs for wrong, pairs in found] + [None] * (len(cells) - len(found))
        measured = "-"
        if found:
            most, pairs = max(found, key=lambda cell: cell[0] / max(cell[1], 1))
            total, cells_run = sum(wrong for wrong, _ in found), len(found)
            measured = f"{total} in {cells_run} of {len(cells)} cells, at most {most} of {pairs}"
        checks.append(check(f"{phantom}, {name}: wrong optima <= {limit:.0%} in each cell", measured, verdicts))
    return checks


def search_misses(rows: Rows, phantom: str) -> dict:
    """Pairs whose right optimum, refined, fits better than what the search found: one in a hundred at most."""
    ran = [row for cell, row in rows.items() if cell.phantom == phantom and "defaults" in row["methods"]]
    missed = [row["methods"]["defaults"].get("search_misses") for row in ran]
    pairs = sum(row["pairs"] for row in ran)
    target = f"{phantom}: search misses <= {MISSED_LIMIT:.0%} of all pairs"
    if not ran or None in missed:
        return check(target, "-", [None])
    return check(target, f"{sum(missed)} of {pairs}", [sum(missed) <= MISSED_LIMIT * pairs])


def against_bound(rows: Rows, quantity: str) -> dict:
    """Median error over the Cramer-Rao bound, `sharp` at +-60."""
    ratios = [rows.get(Cell("sharp", 60, snr), {}).get("over_bound", {}).get(quantity) for snr in (1.0, 0.5)]
    measured = ", ".join("-" if r is None else f"{r:.2f}" for r in ratios)
    target = f"sharp, ±60, SNR 1, 0.5, {NAMES[quantity]}: error over the bound <= {BOUND_FACTOR}"
    return check(target, measured, [at_most(r, BOUND_FACTOR) for r in ratios])


def calibrated(rows: Rows, phantom: str, snrs: tuple[float, ...], quantity: str) -> dict:
    """Mean squared errors over predicted variances, of all pairs."""
    cells = [Cell(phantom, tilt, snr) for tilt in TILTS_DEG for snr in snrs]
    defaults = [rows.get(cell, {"methods": {}})["methods"].get("defaults", {}) for cell in cells]
    name = f"{NAMES[quantity]}_calibration"
    values, right = ([d.get(key) for d in defaults] for key in (name, f"{name}_right"))
    verdicts = [None if v is None else CALIBRATED[0] <= v <= CALIBRATED[1] for v in values]
    known = [v for v in right if v is not None]
    measured = tally(verdicts) + failing(cells, verdicts)
    if known:
        measured += f"; at the right optimum {min(known):.2f} to {max(known):.2f}"
    levels = ", ".join(f"{snr:g}" for snr in snrs)
    return check(f"{phantom}, SNR {levels}, {NAMES[quantity]}: calibration 0.7 to 1.5", measured, verdicts)


def not_slower(rows: Rows, phantom: str, name: str) -> dict:
    """Medians over cells of steps or seconds, the defaults beside each of the paper's four methods."""
    methods = ("defaults", *PAPER_METHODS)
    found = {
        m: [r["methods"][m][name] for c, r in rows.items() if c.phantom == phantom and m in r["methods"]]
        for m in methods
    }
    middle = {m: sorted(values)[len(values) // 2] for m, values in found.items() if values}
    ours, slowest = middle.get("defaults"), max((middle[m] for m in PAPER_METHODS if m in middle), default=None)
    measured = ", ".join(f"{m} {number(v)}" for m, v in middle.items()) or "-"
    return check(
        f"{phantom}: {name} per pair not above the slowest of the schedule", measured, [at_most(ours, slowest)]
    )


def shared_checks(rows: Rows, phantoms: Iterable[str]) -> list[dict]:
    """What both pairs of tables have to meet."""
    phantoms = list(phantoms)
    return [
        *(against_schedule(rows, phantom, q) for phantom in phantoms for q in QUANTITIES),
        *(calibrated(rows, p, snrs, q) for p in phantoms for snrs in ((INF,), (1.0, 0.5)) for q in QUANTITIES),
        *(search_misses(rows, phantom) for phantom in phantoms),
        *(not_slower(rows, phantom, name) for phantom in phantoms for name in ("iterations", "seconds")),
    ]


def free_checks(rows: Rows) -> list[dict]:
    """The targets of Tables 1 and 2."""
    return [
        *shared_checks(rows, ("four_gaussians", "sharp")),
        *(against_print(rows, quantity) for quantity in QUANTITIES),
        *(against_limits(rows, quantity, tilt) for quantity, tilt in SHARP_LIMITS),
        *wrong_optima(rows, "sharp"),
        *(against_bound(rows, quantity) for quantity in QUANTITIES),
    ]


def axis_checks(rows: Rows, free: Rows) -> list[dict]:
    """The targets of Tables 3 and 4; ``free`` are the rows of Tables 1 and 2."""
    return [
        *shared_checks(rows, ("four_gaussians", "sharp")),
        *(against_free(rows, free, quantity) for quantity in QUANTITIES),
        axis_limit(rows),
    ]


def against_free(rows: Rows, free: Rows, quantity: str) -> dict:
    """Every cell of `sharp` at or below the search without an axis."""
    cells = all_cells("sharp")
    verdicts = [at_most(*(median_of(r, cell, "defaults", quantity) for r in (rows, free))) for cell in cells]
    target = f"sharp, axis known, {NAMES[quantity]}: every cell at or below the search without it"
    return check(target, tally(verdicts) + failing(cells, verdicts), verdicts)


def axis_limit(rows: Rows) -> dict:
    """The rotation of `sharp` at +-60 and SNR 0.5 with its axis known."""
    value = median_of(rows, Cell("sharp", 60, 0.5), "defaults", "rotation_deg")
    target = f"sharp, axis known, ±60, SNR 0.5: <= {AXIS_LIMIT_DEG} degrees"
    return check(target, "-" if value is None else f"{value:.3g}", [at_most(value, AXIS_LIMIT_DEG)])
