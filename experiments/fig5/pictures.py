"""The pictures of Fig. 5: Fourier shell correlation with the truth, and slices."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from complexes import COMPLEXES, RESOLUTION_ANGSTROM

CURVES = {
    "single": ("single subtomograms, mean", {"color": "0.6", "ls": "-", "lw": 1.5}),
    "truth": ("averages at the true poses", {"color": "black", "ls": ":", "lw": 2.2}),
    "imaged rcs_60": ("RCS, 60° seeds", {"color": "#3b7dd8", "ls": "-", "lw": 1.8}),
    "imaged fcs_60": ("FCS, 60° seeds", {"color": "#2e9e6b", "ls": "--", "lw": 1.8}),
    "imaged defaults": ("gonio's defaults", {"color": "#d9822b", "ls": "-.", "lw": 1.8}),
    "bare rcs_60": ("RCS, bare template", {"color": "#9dbfe8", "ls": "-", "lw": 1.0}),
    "bare fcs_60": ("FCS, bare template", {"color": "#2e9e6b", "ls": "-", "lw": 1.0}),
}
SHELLS = (4, 6, 8, 10, 12)


def fsc_curves(summaries: list[dict], *, edge_angstrom: float) -> Figure:
    """A panel for each complex; averages, and single subtomograms beside them."""
    figure = Figure(figsize=(1.0 + 3.0 * len(summaries), 4.2), layout="constrained")
    axes = figure.subplots(1, len(summaries), sharey=True, squeeze=False)[0]
    for ax, summary in zip(axes, summaries, strict=True):
        for way, (label, style) in CURVES.items():
            curve = summary["ways"][way]["fsc"]
            ax.plot(np.arange(1, len(curve)), curve[1:], label=label, **style)
        ax.axhline(0.5, color="0.8", lw=0.8, zorder=0)
        ax.axvline(edge_angstrom / RESOLUTION_ANGSTROM, color="0.8", lw=0.8, zorder=0)
        ax.set_xticks(SHELLS, [f"{edge_angstrom / shell:.0f}" for shell in SHELLS])
        ax.set_xlim(1, edge_angstrom / 20.0)
        ax.set_ylim(-0.1, 1.02)
        ax.set_xlabel("resolution (Å)")
        ax.set_title(title_of(summary["complex"]))
    axes[0].set_ylabel("FSC with the truth")
    figure.suptitle(f"averages of {summaries[0]['particles']} subtomograms, SNR 0.5, ±60°")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    return figure


def title_of(name: str) -> str:
    """A complex in words."""
    return f"{COMPLEXES[name]} ({name.upper()})" if name in COMPLEXES else name


def slices(rows: dict[str, dict[str, np.ndarray]], count: int) -> Figure:
    """The middle slice along y and z of each map: a row for each complex."""
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.45 * columns, 0.5 + 1.55 * len(rows)), layout="constrained")
    for axes, (name, maps) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        for ax, (title, data) in zip(axes, maps.items(), strict=True):
            draw_slice(ax, data)
            if name == next(iter(rows)):
                ax.set_title(title, fontsize=8)
        axes[0].set_ylabel(title_of(name), fontsize=7)
    figure.suptitle(f"averages of {count}: slices along y and z, bar 10 nm", fontsize=9)
    return figure


def draw_slice(ax: Axes, data: np.ndarray) -> None:
    """Mean of the three middle planes along x, grey over its own range."""
    middle = data.shape[2] // 2
    ax.imshow(data[:, :, middle - 1 : middle + 2].mean(axis=2), cmap="gray", origin="lower")
    ax.plot([2, 12], [2, 2], color="white", lw=2)
    ax.set_xticks([])
    ax.set_yticks([])
