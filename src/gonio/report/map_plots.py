"""Plots of what post-processing found of a map: its amplitudes, its detail from place to place and by direction."""

from __future__ import annotations

from itertools import cycle

import numpy as np

from gonio.report.content import Directions, LocalDetail, MapQuality, Sharpening
from gonio.report.figures import BLUE, COLOURS, INK, ORANGE, axes_of, figure_html

# Bins of the histogram of local resolutions.
BINS = 40


def quality_figures(quality: MapQuality) -> list[str]:
    """Return the figures of what is known."""
    figures = [] if quality.sharpening is None else [_guinier(quality.sharpening)]
    if quality.local is not None:
        figures += [_local_slices(quality.local), _local_values(quality.local)]
    if quality.directions is not None:
        figures += [_by_direction(quality.directions), _fsc_of_directions(quality.directions)]
    return figures


def _guinier(sharpening: Sharpening) -> str:
    """Plot the logarithms of amplitudes over the squared frequency, with the line that was fitted and its range."""
    squared = sharpening.per_angstrom**2
    figure, axes = axes_of()
    for (name, amplitude), colour in zip(sharpening.amplitudes.items(), cycle(COLOURS), strict=False):
        known = (amplitude > 0) & (squared > 0)
        axes.plot(squared[known], np.log(amplitude[known]), color=colour, label=name, linewidth=1.6)
    caption = (
        "Mean amplitude of each shell: a straight fall beyond 10 angstrom is the B-factor, and the sharpened map should"
        " be level there. A rise towards the end is noise that was sharpened."
    )
    if sharpening.line is not None:
        intercept, bfactor, coarsest, finest = sharpening.line
        ends = np.array([coarsest, finest]) ** -2.0
        axes.plot(ends, intercept + bfactor / 4.0 * ends, color=INK, linestyle="--", linewidth=1.2, label="fit")
        axes.axvspan(*ends, color=INK, alpha=0.08, linewidth=0)
        caption += f" Dashed: the line that was fitted, over its range, {coarsest:.3g} to {finest:.3g} angstrom (grey)."
    axes.set(xlabel="squared spatial frequency (1/angstrom²)", ylabel="ln of mean amplitude")
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    data = {"per_angstrom": sharpening.per_angstrom, **sharpening.amplitudes}
    return figure_html("Guinier plot", figure, caption, data)


def _local_slices(local: LocalDetail) -> str:
    """Show the central slices of the resolution from place to place, within the mask."""
    from matplotlib.figure import Figure

    inside, middle = local.mask.data > 0.5, local.mask.box // 2
    shown = np.where(inside, local.resolution.data, np.nan)
    known = local.resolution.data[inside]
    low, high = np.percentile(known, [2, 98]) if len(known) else (0.0, 1.0)
    high = max(high, 1.05 * low)  # where it is one everywhere, its digits are none of the data
    figure = Figure(figsize=(4.2, 1.8), layout="constrained")
    planes = {"x, y": shown[middle], "x, z": shown[:, middle], "y, z": shown[:, :, middle]}
    for number, (names, plane) in enumerate(planes.items(), start=1):
        axes = figure.add_subplot(1, 3, number)
        image = axes.imshow(plane, cmap="viridis_r", vmin=low, vmax=high, origin="lower")
        across, up = names.split(", ")
        axes.set(xlabel=f"{across} →", ylabel=f"{up} →", xticks=[], yticks=[])
    figure.colorbar(image, ax=figure.axes, orientation="horizontal", aspect=40, label="angstrom")
    caption = (
        "The resolution from place to place within the mask, in the three central slices; bright is fine. Each value is"
        " of a window of five times the resolution there: edges between regions are as wide."
    )
    return figure_html("local resolution", figure, caption)


def _local_values(local: LocalDetail) -> str:
    """Plot how much of the mask has which resolution."""
    values = local.resolution.data[local.mask.data > 0.5].astype(np.float64)
    figure, axes = axes_of()
    counts, edges, _ = axes.hist(values, bins=BINS, color=BLUE)
    if len(values):
        axes.axvline(float(np.median(values)), color=INK, linewidth=1, linestyle="--")
    axes.set(xlabel="local resolution (angstrom)", ylabel="voxels in the mask")
    caption = (
        "How much of the mask has which resolution; dashed: the median. Voxels at the edge of the box, to the right,"
        " are those where the halves agree in no band."
    )
    return figure_html("local resolution, values", figure, caption, {"from_angstrom": edges[:-1], "voxels": counts})


def _by_direction(directions: Directions) -> str:
    """Plot the resolution in each direction on a map of equal area."""
    from matplotlib.figure import Figure

    axis = np.concatenate([directions.axis_xyz, -directions.axis_xyz])
    resolution = np.tile(np.minimum(directions.resolution_angstrom, directions.box_angstrom), 2)
    longitude, latitude = np.arctan2(axis[:, 1], axis[:, 0]), np.arcsin(np.clip(axis[:, 2], -1.0, 1.0))
    figure = Figure(figsize=(4.2, 2.9), layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    image = axes.scatter(longitude, latitude, c=resolution, cmap="viridis_r", s=90, linewidths=0)
    axes.set(xticklabels=[], yticklabels=[], xlabel="longitude, latitude upwards")
    figure.colorbar(image, ax=axes, shrink=0.7, label="angstrom")
    caption = (
        "Where the FSC within a cone of 20 degrees about each direction falls below 0.143, on an equal-area map, z up."
        " Directions that are darker than the others are blurred in the map: few views, or a missing wedge."
    )
    data = {"longitude_deg": np.degrees(longitude), "latitude_deg": np.degrees(latitude), "angstrom": resolution}
    return figure_html("resolution by direction", figure, caption, data)


def _fsc_of_directions(directions: Directions) -> str:
    """Plot the range of the FSC over all directions, and the curve of the worst."""
    per_angstrom = np.arange(directions.fsc.shape[1]) / directions.box_angstrom
    low, middle, high = np.quantile(directions.fsc, [0.05, 0.5, 0.95], axis=0)
    worst = directions.fsc[np.argmax(directions.resolution_angstrom)]
    figure, axes = axes_of()
    axes.fill_between(per_angstrom, low, high, color=BLUE, alpha=0.3, linewidth=0, label="nine of ten")
    axes.plot(per_angstrom, middle, color=BLUE, linewidth=1.8, label="median")
    axes.plot(per_angstrom, worst, color=ORANGE, linewidth=1.2, label="worst direction")
    axes.axhline(0.143, color=INK, linewidth=0.8, linestyle=":")
    axes.set(xlabel="spatial frequency (1/angstrom)", ylabel="Fourier shell correlation", ylim=(-0.2, 1.05))
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    caption = (
        "The FSC within cones: a narrow band says that all directions have the same detail. Curves of cones have fewer"
        " samples than that of all directions, and scatter more."
    )
    data = {"per_angstrom": per_angstrom, "lowest_5": low, "median": middle, "highest_5": high, "worst": worst}
    return figure_html("FSC by direction", figure, caption, data)
