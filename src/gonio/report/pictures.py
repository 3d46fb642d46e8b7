"""Pictures of volumes: central slices with a scale bar, and class averages side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gonio.particle.volume import Volume
from gonio.report.content import Classes, Iteration, Outlier
from gonio.report.figures import figure_html, svg_of
from gonio.report.surface import height

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Scale bars in nm: the largest that is at most a third of the box.
SCALE_BARS_NM = (1, 2, 5, 10, 20, 50, 100)
CLASSES_ACROSS = 4
# Axes of the three planes, to the right and upwards.
PLANES = ("x, y", "x, z", "y, z")
# Surfaces are of maps blurred by this, which hides the steps between voxels; their light and colour.
SMOOTH_VOXELS = 0.7
LIGHT = np.array([-0.4, 0.5, 0.77])
SURFACE_COLOUR = np.array([0.42, 0.64, 0.95])


def slices(name: str, volume: Volume) -> str:
    """Return a figure of the three central slices of a volume."""
    drawing = _three(name, volume)
    nm = volume.box_angstrom / 10.0
    caption = f"The three central slices, density bright; the bar is {_bar_nm(volume):g} nm, the box {nm:.3g} nm."
    return figure_html(name, drawing, caption)


def projections(name: str, volume: Volume) -> str:
    """Return a figure of the projections of a volume along its three axes."""
    sums = [volume.data.mean(axis=axis) for axis in range(3)]
    drawing = _row(f"projections {name}", dict(zip(PLANES, sums, strict=True)), volume)
    caption = f"The sums along z, y and x, density bright; the bar is {_bar_nm(volume):g} nm."
    return figure_html(f"{name}, projections", drawing, caption)


def surfaces(name: str, volume: Volume) -> str:
    """Return a figure of the surface of a volume, seen along its three axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 1.62), layout="constrained")
    for place, (axis_names, data) in enumerate(_views(volume.data).items(), start=1):
        axes = figure.add_subplot(1, 3, place)
        axes.imshow(shaded(data, height(volume)), origin="lower", interpolation="bilinear")
        across, up = axis_names.split(", ")
        axes.set_xlabel(f"{across} →")
        axes.set_ylabel(f"{up} →", labelpad=0)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    caption = "The surface at the density that encloses 4 % of the box, seen from +z, -y and +x."
    return figure_html(f"{name}, surface", svg_of(figure, f"surfaces {name}"), caption)


def _views(data: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Return a volume (z, y, x) with its axes as towards the eye, up and to the right, for each plane: right-handed."""
    return dict(zip(PLANES, (data, data.transpose(1, 0, 2)[::-1], data.transpose(2, 0, 1)), strict=True))


def shaded(data: NDArray[np.floating], level: float) -> NDArray[np.float64]:
    """Draw the surface of a volume at a density, seen from the end of its first axis, as colours (n, n, 4).

    Each ray stops at the last voxel above the level, and between it and the next where linear interpolation crosses;
    the light comes from the eye's upper left, and the brightness is that of a dull surface. Alpha is 0 where no ray
    stops.
    """
    smooth = gaussian_filter(np.asarray(data, dtype=np.float64), SMOOTH_VOXELS)
    above = smooth > level
    seen = above.any(axis=0)
    last = len(smooth) - 1 - np.argmax(above[::-1], axis=0)
    row, column = np.indices(seen.shape)
    inside, beyond = smooth[last, row, column], smooth[np.minimum(last + 1, len(smooth) - 1), row, column]
    depth = last + np.clip((inside - level) / np.maximum(inside - beyond, 1e-30), 0.0, 1.0)
    slopes = [np.gradient(smooth, axis=axis)[last, row, column] for axis in (2, 1, 0)]
    normal = -np.stack(slopes)  # to the right, up, towards the eye: (3, n, n)
    normal /= np.maximum(np.linalg.norm(normal, axis=0), 1e-30)
    light = np.clip(np.tensordot(LIGHT, normal, axes=1), 0.0, 1.0)
    far = (depth - depth[seen].min()) / max(float(np.ptp(depth[seen])), 1e-30) if seen.any() else depth
    bright = (0.35 + 0.65 * light) * (0.7 + 0.3 * far)
    picture = np.ones((*seen.shape, 4))
    picture[..., :3] = np.clip(bright[..., None] * SURFACE_COLOUR, 0.0, 1.0)
    picture[..., 3] = seen
    return picture


def iteration_gallery(iterations: Sequence[Iteration]) -> list[str]:
    """Return a figure of one central slice of the map of each iteration; nothing where none is known."""
    known = {f"{number}": one.volume for number, one in enumerate(iterations, 1) if one.volume is not None}
    if not known:
        return []
    drawing = _gallery("maps by iteration", known, [f"iteration {name}" for name in known], own_scale=True)
    caption = "The central slice of the map after each iteration, filtered to where its halves agreed."
    return [figure_html("maps by iteration", drawing, caption)]


def outlier_gallery(outliers: list[Outlier]) -> str:
    """Return figures of the central slices of outliers, each with its reasons."""
    return "".join(
        figure_html(one.name, _three(f"outlier {one.name}", one.volume), f"It {one.why}.")
        for one in outliers
        if one.volume is not None
    )


def class_gallery(classes: Classes) -> str:
    """Return a figure of one central slice of each class average, at one grey scale."""
    titles = [f"{name}: {count}" for name, count in zip(classes.averages, classes.counts, strict=True)]
    drawing = _gallery("class averages", classes.averages, titles)
    caption = (
        "The central slice of each class average with the number of its particles, all at one grey scale; the bar is"
        f" {_bar_nm(next(iter(classes.averages.values()))):g} nm."
    )
    return figure_html("class averages", drawing, caption)


def _gallery(name: str, volumes: Mapping[str, Volume], titles: Sequence[str], *, own_scale: bool = False) -> str:
    """Draw the central slice of each of several volumes, at one grey scale or each at its own."""
    from matplotlib.figure import Figure

    every = list(volumes.values())
    scale = np.percentile(np.stack([volume.data for volume in every]), [0.1, 99.9])
    across = min(CLASSES_ACROSS, len(every))
    down = -(-len(every) // across)
    figure = Figure(figsize=(1.9 * max(across, 2), 2.1 * down), layout="constrained")
    for place, (volume, title) in enumerate(zip(every, titles, strict=True), start=1):
        axes = figure.add_subplot(down, across, place)
        low, high = np.percentile(volume.data, [0.1, 99.9]) if own_scale else scale
        _plane(axes, volume.data[volume.box // 2], volume, low, high)
        axes.set_title(title)
    return svg_of(figure, name)


def _three(name: str, volume: Volume) -> str:
    middle = volume.box // 2
    sections = (volume.data[middle], volume.data[:, middle], volume.data[:, :, middle])
    return _row(name, dict(zip(PLANES, sections, strict=True)), volume)


def _row(name: str, planes: Mapping[str, NDArray[np.float32]], volume: Volume) -> str:
    """Draw three planes of a volume by the names of their axes, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 1.62), layout="constrained")
    # One grey scale for all three; the outermost thousandth is clipped.
    low, high = np.percentile(np.stack(list(planes.values())), [0.1, 99.9])
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
