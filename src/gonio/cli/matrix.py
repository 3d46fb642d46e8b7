"""The picture of all pairs: dissimilarities before and after alignment in the order of their tree, and the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from gonio.clustering import Clustering

__all__ = ["picture"]


def picture(before: NDArray[np.float64], after: NDArray[np.float64], clustering: Clustering) -> Figure:
    """A panel for each, classes side by side, and the tree above the second.

    Parameters
    ----------
    before, after
        Dissimilarities (n, n) of the same particles.
    clustering
        What was made of the second.
    """
    from matplotlib.figure import Figure
    from scipy.cluster import hierarchy

    figure = Figure(figsize=(9.6, 5.8), layout="constrained")
    (empty, tree), (left, right) = figure.subplots(2, 2, height_ratios=(1, 4))
    order = hierarchy.leaves_list(clustering.linkage) if len(clustering.linkage) else np.arange(len(after))
    labels = clustering.labels[order]
    edges = np.asarray(np.flatnonzero(np.diff(labels)) + 0.5, dtype=np.float64)
    empty.axis("off")
    for ax, matrix, title in ((left, before, "before alignment"), (right, after, "after alignment")):
        image = ax.imshow(matrix[np.ix_(order, order)], cmap="viridis", vmin=0.0, vmax=2.0, interpolation="nearest")
        for edge in edges:
            ax.axhline(edge, color="white", lw=0.6)
            ax.axvline(edge, color="white", lw=0.6)
        ax.set_title(title)
        ax.set_xticks(*_middles(labels, edges))
        ax.set_yticks([])
        ax.set_xlabel("class")
    if len(clustering.linkage):
        hierarchy.dendrogram(
            clustering.linkage, ax=tree, no_labels=True, color_threshold=0.0, above_threshold_color="0.3"
        )
    for side in ("top", "right", "bottom"):
        tree.spines[side].set_visible(False)
    tree.set_xticks([])
    tree.set_ylabel("average\ndissimilarity")
    figure.colorbar(image, ax=(left, right), shrink=0.8, label="dissimilarity")
    return figure


def _middles(labels: NDArray[np.int64], edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], list[str]]:
    """Where the numbers of the classes stand."""
    bounds = np.concatenate([[-0.5], edges, [len(labels) - 0.5]])
    middles = 0.5 * (bounds[1:] + bounds[:-1])
    return middles, [str(labels[round(middle)]) for middle in middles]
