"""The pictures of Fig. 6: matrices of dissimilarities before and after alignment, and slices of the averages."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from complexes import COMPLEXES


def matrices(found: dict[str, tuple[np.ndarray, np.ndarray]], names: tuple[str, ...], count: int) -> Figure:
    """A column for each method: before above, after below, the particles of a complex side by side."""
    figure = Figure(figsize=(1.2 + 2.5 * len(found), 5.8), layout="constrained")
    axes = figure.subplots(2, len(found), sharex=True, sharey=True, squeeze=False)
    for column, (title, pair) in zip(axes.T, found.items(), strict=True):
        for ax, matrix in zip(column, pair, strict=True):
            image = ax.imshow(matrix, cmap="viridis", vmin=0.0, vmax=2.0, interpolation="nearest")
            for edge in range(1, len(names)):
                ax.axhline(count * edge - 0.5, color="white", lw=0.6)
                ax.axvline(count * edge - 0.5, color="white", lw=0.6)
        column[0].set_title(title, fontsize=9)
    middles = [count * (row + 0.5) - 0.5 for row in range(len(names))]
    short = [COMPLEXES.get(name, name) for name in names]
    for ax, when in zip(axes[:, 0], ("before alignment", "after alignment"), strict=True):
        ax.set_yticks(middles, short, fontsize=7)
        ax.set_ylabel(when, fontsize=9)
    for ax in axes[1]:
        ax.set_xticks(middles, short, fontsize=7, rotation=30, ha="right")
    figure.colorbar(image, ax=axes, shrink=0.6, label="dissimilarity")
    return figure


def slices(rows: dict[str, dict[str, np.ndarray]], count: int) -> Figure:
    """The middle slices along y and z of each map: a row for each complex."""
    columns = len(next(iter(rows.values())))
    figure = Figure(figsize=(1.6 * columns, 0.5 + 0.85 * len(rows)), layout="constrained")
    for axes, (name, maps) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        for ax, (title, data) in zip(axes, maps.items(), strict=True):
            draw_slices(ax, data)
            if name == next(iter(rows)):
                ax.set_title(title, fontsize=8)
        axes[0].set_ylabel(COMPLEXES.get(name, name), fontsize=7)
    figure.suptitle(f"class averages of {count}: slices along y and z", fontsize=9)
    return figure


def draw_slices(ax: Axes, data: np.ndarray) -> None:
    """Two slices side by side, from the darkest to the brightest."""
    middle = len(data) // 2
    ax.imshow(np.hstack([data[:, middle], data[middle]]), cmap="gray", interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
