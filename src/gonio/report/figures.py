"""Figures of the page: a drawing, a caption on how to read it, and the plotted numbers.

Drawings take their text colour from the page, which has light and dark colours. Matplotlib is used by its object
interface, which has no global state.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from io import StringIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the page's text colour
# All are readable on white and on near-black, and distinct for the colour-blind (after Okabe & Ito).
BLUE, ORANGE, GREY = "#3b7dd8", "#d9822b", "#8a8f98"
COLOURS = (BLUE, ORANGE, "#1a9e77", "#b858a8", GREY, "#c9a227")
SIZE_INCHES = (4.2, 2.9)
# Lengths at which an axis of spatial frequency has ticks, and the least gap between them, as a fraction of the axis.
NICE_ANGSTROM = (
    *(500, 400, 300, 250, 200, 150, 120, 100, 80, 70, 60, 50, 45, 40, 35, 30, 28, 26, 24, 22, 20, 18, 16, 15, 14, 13),
    *(12, 11, 10, 9, 8, 7, 6.5, 6, 5.5, 5, 4.5, 4, 3.8, 3.6, 3.4, 3.2, 3, 2.8, 2.6, 2.4, 2.2, 2, 1.8, 1.6, 1.4, 1.2, 1),
)
TICK_GAP = 0.1


def axes_of() -> tuple[Figure, Axes]:
    """Return an empty plot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def angstrom_axis(axes: Axes, finest_per_angstrom: float) -> None:
    """Label the x axis, spatial frequency in 1/angstrom from 0, in angstrom."""
    places, last = [], 0.0
    for length in NICE_ANGSTROM:
        if length and last + TICK_GAP * finest_per_angstrom <= 1.0 / length <= finest_per_angstrom * 1.0001:
            places.append(length)
            last = 1.0 / length
    axes.set_xlim(0.0, finest_per_angstrom)
    axes.set_xticks([1.0 / length for length in places], [f"{length:g}" for length in places])
    axes.set_xlabel("resolution (angstrom)")


def point_size(count: int) -> float:
    """Return the size of each of ``count`` points that keeps a plot of them readable."""
    return float(np.clip(600 / max(count, 1), 1.0, 16.0))


def figure_html(name: str, drawing: str | Figure, caption: str, data: Mapping[str, ArrayLike] | None = None) -> str:
    """Return a figure with its caption, and its data (columns of one length, by name) as a file to save."""
    body = drawing if isinstance(drawing, str) else svg_of(drawing, name)
    link = "" if not data else _data_link(name, data)
    text = f"<figcaption>{escape(caption)}{link}</figcaption>"
    return f"<figure><h3>{escape(name[:1].upper() + name[1:])}</h3>{body}{text}</figure>"


def svg_of(figure: Figure, name: str) -> str:
    """Return a drawing as SVG for a page, with the page's text colour and with ids that are unique on the page."""
    from matplotlib import rc_context
    from matplotlib.text import Text

    for axes in figure.axes:
        axes.tick_params(colors=INK, labelsize=8)
        axes.spines[:].set_color(INK)
    for text in figure.findobj(Text):
        text.set(color=INK, fontsize=min(text.get_fontsize(), 9))
    file = StringIO()
    with rc_context({"svg.hashsalt": "gonio"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r' id="image[0-9a-f]+"', "", svg)  # the same for the same picture twice
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{identifier(name)}-", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(name)}"', 1)


def identifier(name: str) -> str:
    """Return a name in the form allowed in ids and file names."""
    return re.sub(r"\W+", "-", name).strip("-").lower()


def _data_link(name: str, data: Mapping[str, ArrayLike]) -> str:
    columns = [[_cell(value) for value in np.asarray(values)] for values in data.values()]
    rows = [",".join(_quoted(heading) for heading in data), *(",".join(row) for row in zip(*columns, strict=True)), ""]
    content = b64encode("\n".join(rows).encode()).decode()
    return (
        f' <a class=data download="{identifier(name)}.csv" href="data:text/csv;charset=utf-8;base64,{content}">CSV</a>'
    )


def _cell(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else _quoted(str(value))


def _quoted(text: str) -> str:
    text = f"'{text}" if text.startswith(("=", "+", "-", "@", "\t")) else text  # a spreadsheet would compute it
    return '"' + text.replace('"', '""') + '"' if re.search(r'[",\n\r]', text) else text
