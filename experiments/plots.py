"""The plots of the experiments, by Matplotlib's object interface: no state is left behind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pairs import Cell
from summary import QUANTITIES, Rows

INFINITE_AT = 4.0  # where "no noise" stands on an axis of SNR
COLOURS = {"paper": "0.55", "schedule": "#3b7dd8", "defaults": "#d9822b", "bound": "black"}
LINES = {
    "paper": ("the paper's best of 4, its own phantom", {"ls": "--", "marker": "s"}),
    "schedule": ("the paper's schedule, best of 4, our pairs", {"ls": "-", "marker": "o"}),
    "defaults": ("gonio's defaults, the same pairs", {"ls": "-", "marker": "D"}),
    "bound": ("Cramér-Rao bound of these pairs", {"ls": ":", "marker": "None"}),
}
BARS = {
    "rcs_45": ("#9dbfe8", "the paper's schedule, RCS 45"),
    "fcs_45": ("#3b7dd8", "the paper's schedule, FCS 45"),
    "defaults": ("#d9822b", "gonio's defaults"),
}
UNITS = {"rotation_deg": "rotation error (degrees)", "shift_voxel": "shift error (voxels)"}


def save(figure: Figure, path: Path) -> None:
    """As PNG, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def place_of(snr: float) -> float:
    """Where an SNR stands on the axis."""
    return INFINITE_AT if np.isinf(snr) else snr


def snr_axis(ax: Axes) -> None:
    """SNR from low to high on a log scale, and past a gap the noise-free pairs."""
    ax.set_xscale("log")
    ax.set_xticks([0.1, 0.5, 1.0, INFINITE_AT], ["0.1", "0.5", "1", "∞"])
    ax.minorticks_off()
    ax.axvline(2.0, color="0.85", lw=4, zorder=0)
    ax.set_xlim(0.075, 5.5)


def median_of(row: dict, line: str, quantity: str) -> float:
    """The median of one line of the plot; not a number where it is missing."""
    if line == "paper":
        return row["paper"][quantity][row["paper_best"][quantity]][0]
    method = row["schedule_best"][quantity] if line == "schedule" else line
    return row["methods"].get(method, {}).get(quantity, (np.nan,))[0]


def draw_line(ax: Axes, group: list[tuple[Cell, dict]], line: str, quantity: str) -> None:
    """One line over SNR; a bound of zero has no place on a log axis."""
    points = sorted((place_of(cell.snr), median_of(row, line, quantity)) for cell, row in group)
    x, y = np.array(points).T
    label, style = LINES[line]
    ax.plot(x[y > 0], y[y > 0], color=COLOURS[line], ms=4, lw=1.5, label=label, **style)


def error_over_snr(rows: Rows, phantom: str) -> Figure:
    """Median errors of a phantom: a column for each tilt range, rotation above shift."""
    tilts = list(dict.fromkeys(cell.tilt_deg for cell in rows if cell.phantom == phantom))
    figure = Figure(figsize=(2.0 + 2.1 * len(tilts), 6.4), layout="constrained")
    axes = figure.subplots(2, len(tilts), sharex=True, sharey="row", squeeze=False)
    for column, tilt in enumerate(tilts):
        group = [(cell, row) for cell, row in rows.items() if (cell.phantom, cell.tilt_deg) == (phantom, tilt)]
        for ax, quantity in zip(axes[:, column], QUANTITIES, strict=True):
            for line in LINES:
                draw_line(ax, group, line, quantity)
            ax.set_yscale("log")
            ax.grid(axis="y", color="0.92")
            snr_axis(ax)
        axes[0, column].set_title(f"±{tilt}°")
        axes[1, column].set_xlabel("SNR")
    for ax, quantity in zip(axes[:, 0], QUANTITIES, strict=True):
        ax.set_ylabel(UNITS[quantity])
    pairs = [row["pairs"] for cell, row in rows.items() if cell.phantom == phantom]
    span = f"{min(pairs)}" if min(pairs) == max(pairs) else f"{min(pairs)} to {max(pairs)}"
    figure.suptitle(f"{phantom}: median error of {span} pairs per cell")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def convergence(by_score: dict[str, list[dict]], title: str) -> Figure:
    """Fig. 3: a column for each score; dissimilarity above, distance from the true pose below."""
    figure = Figure(figsize=(9.0, 6.6), layout="constrained")
    axes = figure.subplots(2, len(by_score), sharex=True, sharey="row", squeeze=False)
    for column, (score, records) in enumerate(by_score.items()):
        for ax, name in zip(axes[:, column], ("dissimilarity", "distance"), strict=True):
            draw_histories(ax, records, name)
            ax.set_xscale("log")
            ax.grid(color="0.92")
        axes[0, column].set_yscale("symlog", linthresh=0.1)
        axes[0, column].axhline(0.0, color="black", lw=0.8)
        axes[1, column].set_yscale("log")
        axes[0, column].set_title(score.upper())
        axes[1, column].set_xlabel("Levenberg-Marquardt steps of all candidates")
    axes[0, 0].set_ylabel("smallest dissimilarity / true - 1")
    axes[1, 0].set_ylabel("distance from the truth (eq. 12)")
    figure.suptitle(f"{title}: {len(records)} pairs")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def draw_histories(ax: Axes, records: list[dict], name: str) -> None:
    """Each pair's line, their median while all run, and where the defaults end."""
    unit = [record["true"] if name == "dissimilarity" else 1.0 for record in records]
    lines = [np.array(record[name]) / u for record, u in zip(records, unit, strict=True)]
    for index, values in enumerate(lines):
        label = None if index else "the paper's schedule, 60 degree seeds: each pair"
        ax.plot(1 + np.arange(len(values)), values, color=COLOURS["schedule"], alpha=0.35, lw=0.8, label=label)
    longest = max(map(len, lines))
    held = [np.pad(values, (0, longest - len(values)), mode="edge") for values in lines]
    ax.plot(1 + np.arange(longest), np.median(held, axis=0), color=COLOURS["schedule"], lw=2.2, label="their median")
    ends = [(r["defaults"]["iterations"], r["defaults"][name] / u) for r, u in zip(records, unit, strict=True)]
    ax.plot(*np.array(ends).T, "D", color=COLOURS["defaults"], ms=4, label="where gonio's defaults end")


def fold_over_snr(table: dict[tuple, dict]) -> Figure:
    """Fig. 4: iterations of the independent over those of the stochastic search, by (interval, score, tilt, snr)."""
    panels = list(dict.fromkeys(key[:2] for key in table))
    figure = Figure(figsize=(1.5 + 3.2 * len(panels), 4.0), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, panel in zip(axes, panels, strict=True):
        for tilt in dict.fromkeys(key[2] for key in table if key[:2] == panel):
            points = sorted((place_of(k[3]), row["fold"]) for k, row in table.items() if k[:3] == (*panel, tilt))
            ax.plot(*np.array(points).T, "o-", ms=4, lw=1.5, label=f"±{tilt}°")
        ax.set_title(f"{panel[1].upper()}, seeds at {panel[0]}°")
        ax.set_yscale("log")
        ax.set_yticks([5, 10, 20, 40, 80], ["5", "10", "20", "40", "80"])
        ax.grid(axis="y", color="0.92")
        snr_axis(ax)
        ax.set_xlabel("SNR")
    axes[0].set_ylabel("iterations, independent / stochastic")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right", title="tilt range", frameon=False)
    return figure


def wrong_fractions(rows: Rows, methods: Sequence[str]) -> Figure:
    """Share of wrong optima in each cell; the hatched part was the choice of the score."""
    phantoms = list(dict.fromkeys(cell.phantom for cell in rows))
    figure = Figure(figsize=(9.0, 1.2 + 2.6 * len(phantoms)), layout="constrained")
    axes = figure.subplots(len(phantoms), 1, squeeze=False)[:, 0]
    for ax, phantom in zip(axes, phantoms, strict=True):
        group = [(cell, row) for cell, row in rows.items() if cell.phantom == phantom]
        for offset, method in enumerate(methods):
            draw_fractions(ax, [row for _, row in group], method, offset=offset - (len(methods) - 1) / 2)
        ax.set_xticks(range(len(group)), [f"±{cell.tilt_deg}°\nSNR {cell.snr:g}" for cell, _ in group])
        ax.set_ylim(0.0, 100.0)
        ax.grid(axis="y", color="0.92")
        ax.set_axisbelow(True)
        ax.set_ylabel("off by over 15° (%)")
        ax.set_title(phantom)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def draw_fractions(ax: Axes, rows: list[dict], method: str, *, offset: float) -> None:
    """The bars of one method."""
    colour, name = BARS[method]
    x = np.arange(len(rows)) + 0.27 * offset
    shares = {key: [100 * r["methods"][method][key] / r["pairs"] for r in rows] for key in ("wrong", "not_chosen")}
    ax.bar(x, shares["wrong"], 0.25, color=colour, label=name)
    label = "right optimum not chosen" if method == "defaults" else None
    ax.bar(x, shares["not_chosen"], 0.25, fill=False, hatch="////", edgecolor="black", lw=0.5, label=label)
