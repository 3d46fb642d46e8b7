"""Pictures of volumes: central slices with a scale bar, and class averages side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.particle.volume import Volume
from gonio.report.content import Classes, Outlier
from gonio.report.figures import figure_html, svg_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Scale bars in nm: the largest that is at most a third of the box.
SCALE_BARS_NM = (1, 2, 5, 10, 20, 50, 100)
CLASSES_ACROSS = 4


def slices(name: str, volume: Volume) -> str:
    """Return a figure of the three central slices of a volume."""
    drawing = _three(name, volume)
    nm = volume.box_angstrom / 10.0
    caption = f"The three central slices, density bright; the bar is {_bar_nm(volume):g} nm, the box {nm:.3g} nm."
    return figure_html(name, drawing, caption)


def outlier_gallery(outliers: list[Outlier]) -> str:
    """Return figures of the central slices of outliers, each with its reasons."""
    return "".join(
        figure_html(one.name, _three(f"outlier {one.name}", one.volume), f"It {one.why}.")
        for one in outliers
        if one.volume is not None
    )


def class_gallery(classes: Classes) -> str:
    """Return a figure of one central slice of each class average, at one grey scale."""
    from matplotlib.figure import Figure

    averages = list(classes.averages.items())
    low, high = np.percentile(np.stack([volume.data for _, volume in averages]), [0.1, 99.9])
    across = min(CLASSES_ACROSS, len(averages))
    down = -(-len(averages) // across)
    figure = Figure(figsize=(1.9 * max(across, 2), 2.1 * down), layout="constrained")
    for place, ((name, volume), count) in enumerate(zip(averages, classes.counts, strict=True), start=1):
        axes = figure.add_subplot(down, across, place)
        _plane(axes, volume.data[volume.box // 2], volume, low, high)
        axes.set_title(f"{name}: {count}")
    caption = (
        "The central slice of each class average with the number of its particles, all at one grey scale; the bar is"
        f" {_bar_nm(averages[0][1]):g} nm."
    )
    return figure_html("class averages", figure, caption)


def _three(name: str, volume: Volume) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 1.62), layout="constrained")
    middle = volume.box // 2
    planes = {"x, y": volume.data[middle], "x, z": volume.data[:, middle], "y, z": volume.data[:, :, middle]}
    # One grey scale for all three; the outermost thousandth is clipped.
    low, high = np.percentile(volume.data, [0.1, 99.9])
    for position, (axis_names, plane) in enumerate(planes.items(), start=1):
        axes = figure.add_subplot(1, 3, position)
        _plane(axes, plane, volume, low, high)
        across, up = axis_names.split(", ")
        axes.set_xlabel(f"{across} →")
        axes.set_ylabel(f"{up} →", labelpad=0)
    return svg_of(figure, name)


def _plane(axes: Axes, plane: NDArray[np.float32], volume: Volume, low: float, high: float) -> None:
    nm = volume.box_angstrom / 10.0
    extent = (-nm / 2, nm / 2, -nm / 2, nm / 2)
    axes.imshow(plane, cmap="gray", vmin=low, vmax=high, origin="lower", extent=extent, interpolation="nearest")
    axes.plot([-0.45 * nm, -0.45 * nm + _bar_nm(volume)], [-0.44 * nm] * 2, color="white", linewidth=2.5)
    axes.set_xticks([])
    axes.set_yticks([])


def _bar_nm(volume: Volume) -> float:
    third = volume.box_angstrom / 30.0
    return max((length for length in SCALE_BARS_NM if length <= third), default=SCALE_BARS_NM[0])
