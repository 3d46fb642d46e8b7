"""Figures of the dissimilarities of all pairs, in the order of their tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import dendrogram

from gonio.report.content import Matrix
from gonio.report.figures import COLOURS, INK, figure_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def matrix_drawing(matrix: Matrix) -> Figure:
    """Draw dissimilarities before and after alignment, in the order of the tree above, with classes at the side."""
    from matplotlib.figure import Figure

    tree = dendrogram(matrix.linkage, no_plot=True)
    order = np.array(tree["leaves"])
    shown = {"before alignment": matrix.before, "after alignment": matrix.after}
    panels = {name: values[np.ix_(order, order)] for name, values in shown.items() if values is not None}
    figure = Figure(figsize=(4.2 * len(panels), 5.2), layout="constrained")
    grid = figure.add_gridspec(2, len(panels), height_ratios=[1, 4])
    _tree(figure.add_subplot(grid[0, len(panels) - 1]), tree)
    # One scale from 0 for both: otherwise small differences among similar particles would look like classes.
    known = np.concatenate([values[np.isfinite(values)] for values in panels.values()])
    high = max(float(np.percentile(known, 99)), 1e-6) if len(known) else 1.0
    for column, (name, values) in enumerate(panels.items()):
        axes = figure.add_subplot(grid[1, column])
        image = axes.imshow(values, cmap="viridis", vmin=0.0, vmax=high, interpolation="nearest")
        _classes(axes, matrix.labels[order])
        axes.locator_params(integer=True)
        axes.set(title=name, xlabel="particle, in the order of the tree", ylabel="particle")
        figure.colorbar(image, ax=axes, shrink=0.8, label="dissimilarity")
    return figure


def matrix_figure(matrix: Matrix) -> str:
    """Return ``matrix_drawing`` as a figure of a page, with its caption."""
    caption = (
        "The dissimilarity of each pair of particles: dark squares along the diagonal are groups of similar particles."
        " The tree above joins the two most similar groups step by step; the height of a joint is their dissimilarity."
        " Lines at the side of the matrix separate the classes."
    )
    data = {f"particle_{i + 1}": matrix.after[:, i] for i in range(len(matrix.after))}
    figure = figure_html("dissimilarity of all pairs", matrix_drawing(matrix), caption, data)
    return f"<div class=wide>{figure}</div>"


def _tree(axes, tree: dict) -> None:  # type: ignore[no-untyped-def]
    for x, y in zip(tree["icoord"], tree["dcoord"], strict=True):
        axes.plot((np.array(x) - 5) / 10, y, color=INK, linewidth=0.8)
    axes.set_xlim(-0.5, len(tree["leaves"]) - 0.5)
    axes.set_xticks([])
    axes.set_ylabel("joined at")
    axes.spines[["top", "right", "bottom"]].set_visible(False)


def _classes(axes, labels: NDArray[np.int64]) -> None:  # type: ignore[no-untyped-def]
    """Draw a coloured bar for each run of one class along the left edge."""
    known = list(dict.fromkeys(labels.tolist()))
    starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
    ends = np.r_[starts[1:], len(labels)]
    for start, end in zip(starts, ends, strict=True):
        colour = COLOURS[known.index(int(labels[start])) % len(COLOURS)]
        axes.plot([-0.5, -0.5], [start - 0.5, end - 0.5], color=colour, linewidth=6, solid_capstyle="butt")
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=0.6)
            axes.axvline(start - 0.5, color="white", linewidth=0.6)
