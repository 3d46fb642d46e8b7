"""Plots of particles, errors and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from gonio.particle.table import ParticleTable
from gonio.report.content import Classes, Errors, Iteration
from gonio.report.figures import (
    BLUE,
    COLOURS,
    GREY,
    INK,
    ORANGE,
    SIZE_INCHES,
    angstrom_axis,
    axes_of,
    figure_html,
    point_size,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FSC_THRESHOLDS = (0.5, 0.143)
# Bins of a median along an axis.
BINS = 8
# Directions up to this number are drawn one by one, too.
FEW_DIRECTIONS = 500

# Column of the table, label of the axis, how to read it.
QUALITY = (
    (
        "dissimilarity",
        "dissimilarity",
        "Lower is better: for RCS 0 is the same, 2 unrelated, and the correlation 1 - d / 2. A second hump at high"
        " values did not align.",
    ),
    (
        "rotation_sd_deg",
        "predicted rotation error (degrees)",
        "Standard deviation of each orientation about any one axis, from the noise and the detail of each particle, if"
        " its optimum is the right one. As there are three axes, 8 of 10 true angles are 0.8 to 2.5 times as large.",
    ),
    (
        "shift_sd_angstrom",
        "predicted shift error (angstrom)",
        "Standard deviation of each position along any one axis, if the optimum is the right one.",
    ),
    (
        "runner_up_margin",
        "margin over the next best pose",
        "How much less likely the pose at the next best optimum is: compare it only within one run. Near 0 that pose,"
        " which is in runners_up.star, is almost as likely as the best. Particles with one optimum are not shown.",
    ),
)
CHANGES = (
    (
        "change_of_orientation_deg",
        "change of orientation (degrees)",
        "Rotation of each particle from its input pose. After a local search a hump near 0 is good.",
    ),
    (
        "change_of_shift_angstrom",
        "change of shift (angstrom)",
        "Change of each particle's shift. Many values at the right end: the largest shift was too small.",
    ),
)


def histograms(particles: ParticleTable, which: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return histograms of the columns that are there: ``QUALITY``, or ``CHANGES`` from the input poses."""
    return [
        _histogram(particles.columns[name], label, text) for name, label, text in which if name in particles.columns
    ]


def shifts(particles: ParticleTable, most_angstrom: float | None) -> str:
    """Plot the lengths of the shifts, with the limit of the search where it had one."""
    lengths = np.linalg.norm(np.atleast_2d(particles.poses.shift_angstrom), axis=1)
    figure, axes = axes_of()
    axes.set(xlabel="length of the shift (angstrom)", ylabel="particles")
    axes.locator_params(axis="y", integer=True)
    top = max(float(lengths.max(initial=0.0)), most_angstrom or 0.0, 1e-6)
    axes.hist(lengths, bins=int(np.clip(2 * np.sqrt(len(lengths)), 5, 60)), range=(0.0, 1.02 * top), color=BLUE)
    caption = "Length of each particle's shift from the centre of its box."
    if most_angstrom is not None:
        axes.axvline(most_angstrom, color=ORANGE, linewidth=1.5)
        at = float((lengths >= 0.95 * most_angstrom).mean())
        caption += (
            f" The line is the limit of the search, {most_angstrom:.4g} angstrom: {100 * at:.0f} % of particles are at"
            " it; where these are many, allow more."
        )
    return figure_html("shifts", figure, caption, {"shift_angstrom": lengths})


def decoys(particles: ParticleTable, most_q: float) -> str:
    """Plot scores against the reference, of particles that are kept and of the others, and against the best decoy."""
    target, decoy, q = (
        np.asarray(particles.columns[name], dtype=np.float64)
        for name in ("log_likelihood", "decoy_log_likelihood", "q_value")
    )
    keeps = q <= most_q
    figure, axes = axes_of()
    highest, count = max(float(target.max()), float(decoy.max()), 1e-6), int(np.clip(2 * len(q) ** 0.5, 8, 60))
    bins = np.linspace(0.0, highest, count).tolist()
    axes.hist([target[keeps], target[~keeps]], bins=bins, stacked=True, color=[BLUE, GREY], label=["kept", "not kept"])
    axes.hist(decoy, bins=bins, histtype="step", color=ORANGE, linewidth=1.8, label="best decoy")
    if keeps.any():
        axes.axvline(float(target[keeps].min()), color=INK, linewidth=1, linestyle="--")
    axes.set(xlabel="log-likelihood against noise", ylabel="particles")
    axes.locator_params(axis="y", integer=True)
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    caption = (
        "Log-likelihood of each particle at its pose relative to noise: for the reference, and for the best of its"
        f" decoys, which no real particle fits. {keeps.sum()} are kept: of particles so far ahead of their decoys only"
        f" {100 * most_q:g} % should be false. Dashed: their lowest score. False particles lie under the decoys' curve;"
        " where the kept ones do too, decoys and reference are too similar, or the particles too noisy."
    )
    data = {"log_likelihood": target, "decoy_log_likelihood": decoy, "q_value": q}
    return figure_html("which particles are real", figure, caption, data)


def error_plots(particles: ParticleTable | None, errors: Errors) -> list[str]:
    """Return histograms of the true errors, and plots of these against the predicted ones."""
    text = "Distance from the true {}: most lie near 0; single values far to the right are wrong optima."
    return [
        _histogram(errors.rotation_deg, "rotation error (degrees)", text.format("orientation"), colour=ORANGE),
        _histogram(errors.shift_angstrom, "shift error (angstrom)", text.format("position"), colour=ORANGE),
        *([] if particles is None else _predictions(particles, errors)),
    ]


# Column of the predicted error, name, unit.
PREDICTIONS = (("rotation_sd_deg", "rotation", "degrees"), ("shift_sd_angstrom", "shift", "angstrom"))


def _predictions(particles: ParticleTable, errors: Errors) -> list[str]:
    made = ((name, unit, particles.columns.get(column)) for column, name, unit in PREDICTIONS)
    found = (errors.rotation_deg, errors.shift_angstrom)
    return [
        _prediction(np.asarray(sd), error, name, unit)
        for (name, unit, sd), error in zip(made, found, strict=True)
        if sd is not None
    ]


def _prediction(sd: NDArray, error: NDArray[np.float64], name: str, unit: str) -> str:
    """Plot true errors against predicted ones, of all three axes together."""
    predicted = np.sqrt(3.0) * np.asarray(sd, dtype=np.float64)
    shown = np.isfinite(predicted) & np.isfinite(error) & (predicted > 0) & (error > 0)
    figure, axes = axes_of()
    axes.set(xlabel=f"predicted {name} error ({unit})", ylabel=f"true {name} error ({unit})")
    if shown.any():
        x, y = predicted[shown], error[shown]
        low, high = 0.7 * min(x.min(), y.min()), 1.4 * max(x.max(), y.max())
        axes.plot([low, high], [low, high], color=INK, linewidth=1, linestyle="--")
        size = point_size(len(x))
        axes.scatter(x, y, s=size, color=ORANGE, alpha=0.7, linewidths=0)
        axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter("")
    caption = (
        f"Each particle's {name} error against the predicted one (root mean square, three axes together). Predictions"
        " are right where points lie around the dashed line, a little more below it, and too small where all lie above."
        " Single points far above are wrong optima, which predictions do not include: look at their margins."
    )
    data = {f"predicted_{name}_{unit}": predicted, f"true_{name}_{unit}": error}
    return figure_html(f"{name} errors against predictions", figure, caption, data)


def expected_agreement(correlation: NDArray[np.float64], box_angstrom: float) -> str:
    """Plot the expected FSC of particles with the reference, shape (m, s)."""
    figure, axes = axes_of()
    frequency = np.arange(1, correlation.shape[1]) / box_angstrom
    low, middle, high = np.percentile(correlation[:, 1:], [10, 50, 90], axis=0)
    axes.fill_between(frequency, low, high, color=BLUE, alpha=0.25, linewidth=0)
    axes.plot(frequency, middle, color=BLUE, linewidth=1.8)
    axes.set(ylabel="Fourier shell correlation", ylim=(0.0, 1.05))
    angstrom_axis(axes, float(frequency[-1]))
    caption = (
        "The FSC expected between a particle and the reference at its pose, up to the resolution that was compared:"
        " median, and the middle 80 % of particles as a band. Detail with an FSC near 0 does not help alignment; where"
        f" the curve is high at its right end, {1.0 / frequency[-1]:.3g} angstrom, try a finer resolution."
    )
    data = {"per_angstrom": frequency, "tenth": low, "median": middle, "ninetieth": high}
    return figure_html("expected agreement of a particle", figure, caption, data)


def _histogram(values: NDArray, label: str, caption: str, *, colour: str = BLUE) -> str:
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    figure, axes = axes_of()
    axes.set(xlabel=label, ylabel="particles")
    axes.locator_params(axis="y", integer=True)
    if len(finite):
        bins = int(np.clip(2 * np.sqrt(len(finite)), 5, 60))
        low, high = finite.min(), finite.max()
        # Nothing measurable lies below a relative 1e-6: such values share a bin.
        width = max(high - low, 1e-6 * max(abs(low), abs(high), 1.0))
        axes.hist(finite, bins=bins, range=(low, low + width), color=colour)
        axes.axvline(float(np.median(finite)), color=INK, linewidth=1, linestyle="--")
        caption = f"{caption} Dashed: median, {np.median(finite):.3g}."
    return figure_html(label, figure, caption, {label: finite})


def _sphere() -> tuple[Figure, Axes]:
    """Return an empty equal-area map of all directions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot(projection="mollweide")
    axes.set_xticks(np.radians([-120, -60, 0, 60, 120]))
    axes.set_yticks(np.radians([-60, -30, 0, 30, 60]))
    axes.set_xlabel("longitude (degrees), latitude upwards")
    return figure, axes


def directions(particles: ParticleTable) -> str:
    """Plot the directions of the beam in the reference's frame, R^T z, in an equal-area projection."""
    beam = particles.poses.matrix[:, 2, :]  # rows z of R: (m, 3)
    longitude, latitude = np.arctan2(beam[:, 1], beam[:, 0]), np.arcsin(np.clip(beam[:, 2], -1.0, 1.0))
    figure, axes = _sphere()
    # Cells of one area: even steps in longitude and in the sine of the latitude, of five particles each, on average.
    across = int(np.clip(np.sqrt(0.4 * len(beam)), 6, 48))
    edges = np.linspace(-np.pi, np.pi, across + 1), np.arcsin(np.linspace(-1.0, 1.0, across // 2 + 1))
    count, _, _ = np.histogram2d(longitude, latitude, bins=edges)
    density = count.T / max(float(count.mean()), 1e-300)
    image = axes.pcolormesh(*edges, density, cmap="viridis", vmin=0.0, rasterized=True)
    figure.colorbar(image, ax=axes, shrink=0.7, label="times the mean")
    if len(beam) <= FEW_DIRECTIONS:
        axes.scatter(longitude, latitude, s=4.0, color=ORANGE, linewidths=0)
    caption = (
        "The direction of the beam at zero tilt in the reference's frame, as the number of particles in cells of one"
        " area over their mean: an even map is good, a dark region is a view that the average lacks."
        f" {(count == 0).sum()} of {count.size} cells are empty."
    )
    data = {"longitude_deg": np.degrees(longitude), "latitude_deg": np.degrees(latitude)}
    return figure_html("angular distribution", figure, caption, data)


def finest_of(curves: Mapping[str, NDArray[np.float64]], box_angstrom: float) -> float:
    """Return the resolution of the last shell of Fourier shell correlations."""
    return box_angstrom / (max(len(curve) for curve in curves.values()) - 1)


def correlations(
    curves: Mapping[str, NDArray[np.float64]], box_angstrom: float, *, resolution_angstrom: float = np.inf
) -> str:
    """Plot Fourier shell correlations with both thresholds, and the resolution where it is finite."""
    figure, axes = axes_of()
    for (name, curve), colour in zip(curves.items(), cycle(COLOURS), strict=False):
        axes.plot(np.arange(len(curve)) / box_angstrom, curve, color=colour, label=name, linewidth=1.8)
    for threshold in FSC_THRESHOLDS:
        axes.axhline(threshold, color=INK, linewidth=0.8, linestyle=":")
        axes.annotate(f"{threshold:g}", (1.0, threshold), xycoords=("axes fraction", "data"), ha="right", va="bottom")
    axes.set_ylabel("Fourier shell correlation")
    finest = finest_of(curves, box_angstrom)
    angstrom_axis(axes, 1.0 / finest)
    if np.isfinite(resolution_angstrom):
        at = 1.0 / resolution_angstrom
        axes.axvline(at, color=INK, linewidth=0.8, linestyle="--")
        last = list(curves.values())[-1]  # corrected for the mask, where that is known
        height = float(np.interp(at * box_angstrom, np.arange(len(last)), last))
        axes.plot([at], [height], "o", color=INK, markersize=5)
        right = at > 0.6 * axes.get_xlim()[1]
        axes.annotate(
            f"{resolution_angstrom:.1f} angstrom",
            (at, 1.0),
            (-4 if right else 4, -2),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontweight="bold",
        )
    axes.set_ylim(min(-0.1, *(float(curve.min()) for curve in curves.values())), 1.05)
    # Below the plot: inside it, names would hide curves.
    figure.legend(frameon=False, loc="outside lower center", ncols=2)
    caption = (
        "The agreement of two maps at each level of detail, finer to the right. The resolution, dashed, is where the"
        " half maps fall below 0.143 or to what chance allows (a map against a known one: below 0.5)."
    )
    shells = np.arange(min(len(curve) for curve in curves.values()))
    data = {"per_angstrom": shells / box_angstrom, **{name: curve[: len(shells)] for name, curve in curves.items()}}
    return figure_html("Fourier shell correlation", figure, caption, data)


def against(particles: ParticleTable, values: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Plot dissimilarity against the tilt and each of ``values``, (m,), on which it should not depend."""
    if "dissimilarity" not in particles.columns:
        return []
    beam = np.clip(particles.poses.matrix[:, 2, 2], -1.0, 1.0)  # z of the reference along z of the tomogram
    shown = {"angle between the reference's z and the beam (degrees)": np.degrees(np.arccos(beam)), **values}
    return [_scatter(particles.columns["dissimilarity"], x, label) for label, x in shown.items()]


def _scatter(dissimilarity: NDArray, x: NDArray[np.float64], label: str) -> str:
    y, x = np.asarray(dissimilarity, dtype=np.float64), np.asarray(x, dtype=np.float64)
    shown = np.isfinite(x) & np.isfinite(y)
    figure, axes = axes_of()
    axes.set(xlabel=label, ylabel="dissimilarity")
    axes.scatter(x[shown], y[shown], s=point_size(int(shown.sum())), color=BLUE, alpha=0.6, linewidths=0)
    edges = np.quantile(x[shown], np.linspace(0, 1, BINS + 1)) if shown.sum() >= 5 * BINS else np.zeros(0)
    if len(edges) and edges[0] < edges[-1]:
        which = np.clip(np.searchsorted(edges, x[shown], side="right") - 1, 0, BINS - 1)
        inside = [which == bin_ for bin_ in range(BINS) if (which == bin_).any()]
        middle = [(float(np.median(x[shown][one])), float(np.median(y[shown][one]))) for one in inside]
        axes.plot(*np.transpose(middle), color=ORANGE, linewidth=1.8)
    caption = (
        "Each particle's dissimilarity, and their median along the axis where there are enough. It should be level: a"
        " slope shows that the score depends on something other than how well the particle fits."
    )
    return figure_html(f"dissimilarity by {label}", figure, caption, {label: x[shown], "dissimilarity": y[shown]})


def coverage_map(weights: NDArray[np.floating]) -> str:
    """Plot the mean of weights (n, n, n) along each direction from the centre, relative to the largest mean."""
    half = len(weights) // 2
    longitude, latitude = np.radians(np.linspace(-180, 180, 121)), np.radians(np.linspace(-90, 90, 61))
    middle = [(edges[1:] + edges[:-1]) / 2 for edges in (longitude, latitude)]
    lon, lat = np.meshgrid(*middle)  # (60, 120)
    ray_xyz = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    radii = np.arange(2.0, half - 1.0)
    at_zyx = half + ray_xyz[::-1, ..., None] * radii  # (3, 60, 120, r)
    mean = map_coordinates(np.asarray(weights, dtype=np.float64), at_zyx, order=1).mean(axis=-1)
    fraction = mean / max(float(mean.max()), 1e-300)
    figure, axes = _sphere()
    image = axes.pcolormesh(longitude, latitude, fraction, cmap="viridis", vmin=0.0, vmax=1.0, rasterized=True)
    figure.colorbar(image, ax=axes, shrink=0.7, label="fraction of the largest")
    caption = (
        "The weight of Fourier space in each direction of the average, relative to the largest, on an equal-area map."
        f" The lowest is {fraction.min():.2f}: dark regions are directions in which the average is blurred."
    )
    data = {
        "longitude_deg": np.degrees(lon).ravel(),
        "latitude_deg": np.degrees(lat).ravel(),
        "share": fraction.ravel(),
    }
    return figure_html("directional coverage", figure, caption, data)


def class_plots(classes: Classes) -> list[str]:
    """Return a plot of the sizes of classes, and one of the silhouettes that chose their number."""
    figure, axes = axes_of()
    axes.barh(range(len(classes.counts)), list(classes.counts), color=BLUE)
    axes.set_yticks(range(len(classes.counts)), list(classes.averages))
    axes.invert_yaxis()
    axes.set_xlabel("particles")
    caption = "The number of particles in each class: a class of a few is what fits nowhere else."
    data = {"class": np.array(list(classes.averages)), "particles": np.array(classes.counts)}
    plots = [figure_html("sizes of classes", figure, caption, data)]
    if classes.silhouettes:
        figure, axes = axes_of()
        numbers, values = np.array(list(classes.silhouettes)), np.array(list(classes.silhouettes.values()))
        axes.plot(numbers, values, color=BLUE, marker="o", markersize=4)
        if classes.chosen is not None:
            axes.axvline(classes.chosen, color=INK, linewidth=1, linestyle="--")
        axes.set(xlabel="number of classes", ylabel="mean silhouette")
        axes.locator_params(axis="x", integer=True)
        caption = (
            "How much nearer particles are to their own class than to the next, -1 to 1, for each number of classes: 0"
            " is no classes at all. Dashed: the number chosen."
        )
        data = {"classes": numbers, "silhouette": values}
        plots.append(figure_html("silhouettes", figure, caption, data))
    return plots


def fsc_by_iteration(iterations: Sequence[Iteration], box_angstrom: float) -> list[str]:
    """Return a plot of the FSC of each iteration, the last one dark; nothing where none is known."""
    from matplotlib import colormaps

    known = [(number, one.fsc) for number, one in enumerate(iterations, start=1) if one.fsc is not None]
    if not known or not box_angstrom:
        return []
    figure, axes = axes_of()
    for place, (number, fsc) in enumerate(known):
        colour = colormaps["viridis"](0.9 * (1.0 - place / max(len(known) - 1, 1)))
        axes.plot(np.arange(len(fsc)) / box_angstrom, fsc, color=colour, label=str(number), linewidth=1.5)
    axes.axhline(FSC_THRESHOLDS[1], color=INK, linewidth=0.8, linestyle=":")
    axes.set(ylabel="Fourier shell correlation", ylim=(-0.1, 1.05))
    angstrom_axis(axes, (len(known[0][1]) - 1) / box_angstrom)
    figure.legend(frameon=False, loc="outside lower center", ncols=6, title="iteration")
    caption = "The FSC of the half maps after each iteration: it should move to the right, and then stay."
    shells = np.arange(len(known[0][1]))
    data = {"per_angstrom": shells / box_angstrom, **{f"iteration {number}": fsc for number, fsc in known}}
    return [figure_html("FSC by iteration", figure, caption, data)]


def progress(iterations: Sequence[Iteration]) -> list[str]:
    """Return plots of resolution and change of poses by iteration."""
    resolution = (
        "The resolution limit of each alignment, and the resolution of the half maps after it: the limit must never be"
        " finer than the resolution of the previous iteration."
    )
    change = "Change of poses since the previous iteration: a refinement has converged when it stays near 0."
    limit, found, rotated, shifted = (
        np.array([getattr(one, name) for one in iterations], dtype=np.float64)
        for name in ("limit_angstrom", "resolution_angstrom", "turned_deg", "shifted_angstrom")
    )
    limits = [
        ("aligned to", ORANGE, "aligned_to_angstrom", limit),
        ("found (FSC 0.143)", BLUE, "found_angstrom", found),
    ]
    moves = [
        ("rotation (degrees)", BLUE, "turned_deg", rotated),
        ("shift (angstrom)", ORANGE, "moved_angstrom", shifted),
    ]
    return [
        _by_iteration("resolution", limits, resolution, ylabel="resolution (angstrom)"),
        _by_iteration("change of poses", moves, change, ylabel="median change of pose", yscale="symlog"),
    ]


def _by_iteration(name: str, lines: Sequence[tuple[str, str, str, NDArray]], caption: str, **axis: str) -> str:
    """Plot lines, each with its label, its colour and the name of its data."""
    figure, axes = axes_of()
    numbers = np.arange(1, len(lines[0][3]) + 1)
    for label, colour, _, values in lines:
        axes.plot(numbers, values, color=colour, marker="o", markersize=4, label=label)
    axes.set(xlabel="iteration", **axis)  # type: ignore[arg-type]
    axes.locator_params(axis="x", integer=True)
    axes.legend(frameon=False)
    data = {"iteration": numbers, **{column: values for _, _, column, values in lines}}
    return figure_html(f"{name} by iteration", figure, caption, data)
