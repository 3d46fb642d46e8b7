"""Plots of refined tilts: each parameter before and after with its error bars, and where particles moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gonio.report.content import TiltCurve
from gonio.report.figures import BLUE, GREY, ORANGE, axes_of, figure_html

# Curves and maps of so many tomograms are drawn; tables have all.
MOST_TOMOGRAMS = 6


def tilt_figures(curves: Sequence[TiltCurve], residuals: Mapping[str, NDArray[np.float64]]) -> list[str]:
    """Return a figure of each parameter of each tomogram, and a map of each tomogram's particles.

    ``residuals`` (m, 4) are place x, y and change of the shift x, y of particles, angstrom, by tomogram.
    """
    shown = list(dict.fromkeys(one.tomogram for one in curves))[:MOST_TOMOGRAMS]
    figures = [_curve(one) for one in curves if one.tomogram in shown]
    return figures + [_map(name, residuals[name]) for name in shown if name in residuals]


def _curve(one: TiltCurve) -> str:
    """Plot the change of a parameter over the tilts, with one standard deviation, and that of the prior as a band."""
    figure, axes = axes_of()
    order = np.argsort(one.angle_deg, kind="stable")
    angle, change = one.angle_deg[order], (one.after - one.before)[order]
    sd, prior, known = one.sd[order], one.prior_sd[order], one.determined[order]
    axes.fill_between(angle, -prior, prior, color=GREY, alpha=0.2, linewidth=0, label="prior, 1 sd")
    axes.axhline(0.0, color=GREY, linewidth=1)
    for mask, colour, label in ((known, BLUE, "determined"), (~known, ORANGE, "not determined")):
        if mask.any():
            axes.errorbar(
                angle[mask], change[mask], yerr=sd[mask], fmt="o", markersize=3, color=colour, linewidth=1, label=label
            )
    unit = f" ({one.unit})" if one.unit else ""
    axes.set(xlabel="tilt angle before (degrees)", ylabel=f"change of {one.name}{unit}")
    figure.legend(frameon=False, loc="outside lower center", ncols=3)
    caption = (
        "After minus before, with one standard deviation: marginal over all other tilts, poses and contrasts. Changes"
        " that follow a smooth curve are the alignment's, points that scatter by more than their bars are not noise."
        " Orange: the data say less of it than the prior, and it stays near 0."
    )
    data = {
        "tilt_angle_deg": angle, "before": one.before[order], "after": one.after[order], "sd": sd,
        "determined": known.astype(int),
    }  # fmt: skip
    return figure_html(f"{one.tomogram}: {one.name}", figure, caption, data)


def _map(name: str, moved: NDArray[np.float64]) -> str:
    """Plot how particles have moved in a tomogram, seen along z."""
    figure, axes = axes_of()
    x, y, dx, dy = moved.T
    length = float(np.hypot(dx, dy).max()) or 1.0
    across = float(max(np.ptp(x), np.ptp(y), 1.0))
    scale = 0.12 * across / length
    axes.quiver(x, y, scale * dx, scale * dy, angles="xy", scale_units="xy", scale=1, color=BLUE, width=0.006)
    axes.set(xlabel="x in the tomogram (angstrom)", ylabel="y (angstrom)", aspect="equal")
    caption = (
        f"How each particle's position has changed; the longest arrow is {length:.1f} angstrom. Arrows that vary"
        " smoothly over the field are tilts that were off, or a field that is deformed; arrows without order are noise"
        " of the single particles."
    )
    return figure_html(f"{name}: change of positions", figure, caption, {"x": x, "y": y, "dx": dx, "dy": dy})
