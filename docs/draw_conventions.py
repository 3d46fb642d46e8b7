"""Draws the pictures of docs/conventions.md: ``python docs/draw_conventions.py [folder]``, by default docs/images."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle, Wedge
from numpy.typing import NDArray

from gonio.particle.pose import Pose
from gonio.particle.wedge import SingleAxisWedge, tilt_plane_normal

BLUE, ORANGE, GREY, INK = "#2f6fab", "#d9822b", "#8a8f98", "#22262b"
STYLE = {
    "svg.hashsalt": "gonio",
    "font.size": 11,
    "axes.edgecolor": GREY,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
# An L, long arm along y and foot along x, angstrom: nothing but the identity maps it on itself.
LETTER = np.array([(-10, -20), (20, -20), (20, -8), (2, -8), (2, 28), (-10, 28)], dtype=float)


def arrow(axes: Axes, start: NDArray, end: NDArray, *, color: str = INK, style: str = "-|>", bend: float = 0.0) -> None:
    """A straight or bent arrow in data units."""
    shape = {"arrowstyle": style, "color": color, "lw": 1.6, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 14}
    axes.annotate("", xy=end, xytext=start, arrowprops={**shape, "connectionstyle": f"arc3,rad={bend}"})


def bare(axes: Axes, limits: tuple[float, float, float, float]) -> None:
    """No frame, equal scales."""
    axes.set(xlim=limits[:2], ylim=limits[2:], aspect="equal")
    axes.axis("off")


def cross(axes: Axes, size: float, labels: tuple[str, str]) -> None:
    """Two labelled axes through the origin."""
    arrow(axes, (-size, 0), (size, 0), color=GREY)
    arrow(axes, (0, -size), (0, size), color=GREY)
    axes.text(size * 1.03, 0, labels[0], va="center")
    axes.text(0, size * 1.03, labels[1], ha="center", va="bottom")


def draw_pose() -> Figure:
    """The reference, turned by R, then shifted by t."""
    pose = Pose.from_euler_zyz_deg([35.0, 0.0, 0.0], [30.0, 12.0, 0.0])
    flat = np.column_stack([LETTER, np.zeros(len(LETTER))])
    turned = pose.rotation.apply(flat)[:, :2]
    moved = pose.apply(flat)[:, :2]
    shift = pose.shift_angstrom[:2]
    figure, panels = plt.subplots(1, 3, figsize=(10, 3.7), layout="constrained")
    titles = ("reference", "turned:  R x", "target:  R x + t")
    for axes, title, shape, ghost in zip(panels, titles, (LETTER, turned, moved), (None, LETTER, turned), strict=True):
        bare(axes, (-50, 72, -50, 62))
        cross(axes, 44, ("x", "y"))
        if ghost is not None:
            axes.add_patch(Polygon(ghost, fill=False, ec=GREY, ls="--"))
        axes.add_patch(Polygon(shape, fc=BLUE, alpha=0.75, ec=INK))
        axes.plot(0, 0, "o", color=INK, ms=4)
        axes.set_title(title)
    panels[0].text(6, 3, "centre voxel", fontsize=9)
    angle = np.radians([8.0, 43.0])
    tips = 38 * np.column_stack([np.cos(angle), np.sin(angle)])
    arrow(panels[1], *tips, color=ORANGE, bend=0.18)
    panels[1].text(39, 20, "35° about z,\nx towards y", color=ORANGE, fontsize=9)
    arrow(panels[2], np.zeros(2), shift, color=ORANGE)
    panels[2].text(22, -24, "t = (30, 12, 0) Å", color=ORANGE, fontsize=9, va="top")
    return figure


def draw_tilt(axes: Axes) -> None:
    """The specimen in the microscope, tilted by +40 degrees."""
    bare(axes, (-1.6, 1.6, -1.45, 1.6))
    tilt = np.radians(40.0)
    # The specimen's own x and z as the microscope sees them: R_y(theta) applied to the unit vectors.
    along = np.array([np.cos(tilt), -np.sin(tilt)])
    up = np.array([np.sin(tilt), np.cos(tilt)])
    corners = [s * 1.1 * along + h * 0.16 * up for s, h in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
    axes.add_patch(Polygon(corners, fc=BLUE, alpha=0.35, ec=INK))
    axes.plot([-1.25, 1.25], [0, 0], "--", color=GREY)
    arrow(axes, np.zeros(2), 1.35 * along, color=BLUE)
    arrow(axes, np.zeros(2), 0.75 * up, color=BLUE)
    axes.text(*(1.4 * along), "x", color=BLUE, va="top")
    axes.text(*(0.8 * up), "z", color=BLUE)
    for x in (-0.25, 0.0, 0.25):
        arrow(axes, (x - 0.75, 1.5), (x - 0.75, 0.95), color=ORANGE)
    axes.text(-0.28, 1.3, "beam", color=ORANGE)
    arrow(axes, (1.15, 0.0), 1.15 * along, bend=-0.2)
    axes.text(1.16, -0.38, "+40°")
    axes.plot(0, 0, "o", ms=13, mfc="white", mec=INK)
    axes.plot(0, 0, "x", ms=8, color=INK)
    axes.text(-0.12, -0.2, "tilt axis y,\ninto the page", ha="right", va="top", fontsize=9)
    axes.set_title("the specimen at tilt +40°")


def draw_measured(axes: Axes) -> None:
    """What -40 to 60 degrees measure of the specimen, as gonio answers it."""
    bare(axes, (-1.5, 1.5, -1.45, 1.6))
    wedge = SingleAxisWedge(-40.0, 60.0)
    directions = np.radians(np.arange(5.0, 360.0, 10.0))  # the middle of each sector of 10 degrees
    k_xyz = np.column_stack([np.cos(directions), 0 * directions, np.sin(directions)])
    for angle, measured in zip(np.degrees(directions), wedge.weight_at(k_xyz) == 1, strict=True):
        tint = "#a9c4e0" if measured else "#eeeff1"
        axes.add_patch(Wedge((0, 0), 1, angle - 5, angle + 5, fc=tint, ec=tint, lw=0.5))
    cross(axes, 1.25, ("$k_x$", "$k_z$"))
    for tilt in (-40.0, 40.0, 60.0):
        normal = tilt_plane_normal(tilt, 90.0)
        line = np.array([normal[2], -normal[0]]) * 1.12  # in the plane, (k_x, k_z)
        axes.plot([-line[0], line[0]], [-line[1], line[1]], color=ORANGE if tilt == 40 else INK, lw=1.6)
        axes.text(*(1.1 * line), f"{tilt:+.0f}°", ha="left", va="center", color=ORANGE if tilt == 40 else INK)
    axes.text(0.27, 0.12, "measured", fontsize=9)
    axes.text(-0.3, 0.72, "missing", fontsize=9, ha="center")
    axes.set_title("its frequencies known from −40° to +60°")


def draw_wedge() -> Figure:
    """The sign of the tilt and the wedge that it leaves."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.4), layout="constrained")
    draw_tilt(left)
    draw_measured(right)
    return figure


def draw_centre() -> Figure:
    """Which voxel is the centre of an even and of an odd box, and the frequencies of each."""
    figure, panels = plt.subplots(2, 1, figsize=(8, 4.4), layout="constrained")
    for axes, n in zip(panels, (8, 7), strict=True):
        bare(axes, (-3.4, 8.2, -1.75, 1.35))
        c = n // 2
        for i in range(n):
            axes.add_patch(Rectangle((i - 0.5, -0.5), 1, 1, fc=BLUE if i == c else "white", alpha=0.75, ec=INK))
            axes.text(i, 0, str(i), ha="center", va="center", color="white" if i == c else INK)
            nyquist = n % 2 == 0 and i == 0
            label, color = (f"{i - c:+d}", INK) if i != c else ("0", ORANGE)
            axes.text(i, -0.85, label, ha="center", va="center", color=color)
            axes.text(i, -1.3, label, ha="center", va="center", color=GREY if nyquist else color)
        for height, label in ((0, "index"), (-0.85, "position  x − c"), (-1.3, "frequency  k")):
            axes.text(-0.8, height, label, ha="right", va="center", fontsize=10)
        axes.text(c, 0.75, f"n = {n}:  centre voxel c = {n} // 2 = {c}", ha="center", va="bottom")
    return figure


def main(folder: Path) -> None:
    """Write every picture into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name, draw in (("pose", draw_pose), ("wedge", draw_wedge), ("centre", draw_centre)):
            draw().savefig(folder / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "images")
