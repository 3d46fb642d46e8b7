"""Tomograms beside one another: a strip plot of the scores of each, and a table of medians."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gonio.particle.table import ParticleTable
from gonio.particle.texts import rows_of
from gonio.report.figures import BLUE, INK, axes_of, figure_html, point_size

# Tomograms that a plot has room for; the table has as many, those with the worst medians.
MOST_TOMOGRAMS = 40
# Points of a strip that are drawn, spread over the list.
MOST_POINTS = 200
# Column of the list, heading, format.
COLUMNS = (
    ("dissimilarity", "dissimilarity", ".3f"),
    ("correlation", "correlation", ".3f"),
    ("rotation_sd_deg", "sd (°)", ".2f"),
    ("shift_sd_angstrom", "sd (Å)", ".2f"),
)


def _ordered(particles: ParticleTable) -> dict[str, NDArray[np.intp]]:
    """Return the rows of each tomogram, the best median first; of more than ``MOST_TOMOGRAMS`` the worst."""
    values, rows = np.asarray(particles.columns["dissimilarity"], dtype=np.float64), rows_of(particles.tomograms)
    order = sorted(rows, key=lambda name: float(np.median(values[rows[name]])))
    return {name: rows[name] for name in order[-MOST_TOMOGRAMS:]}


def by_tomogram(particles: ParticleTable) -> list[str]:
    """Return a strip plot of the dissimilarity by tomogram, sorted by median; nothing for a list of one tomogram."""
    if "dissimilarity" not in particles.columns or len(set(particles.tomograms)) < 2:
        return []
    values, ordered = np.asarray(particles.columns["dissimilarity"], dtype=np.float64), _ordered(particles)
    figure, axes = axes_of()
    figure.set_figheight(max(2.9, 0.9 + 0.19 * len(ordered)))
    for place, rows in enumerate(ordered.values()):
        some = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_POINTS)).astype(int))]
        # A fixed spread, so that the same list gives the same page.
        across = place + 0.3 * (2.0 * (np.arange(len(some)) * 0.6180339887 % 1.0) - 1.0)
        axes.scatter(values[some], across, s=point_size(len(values)), color=BLUE, alpha=0.6, linewidths=0)
        middle = float(np.median(values[rows]))
        axes.plot([middle, middle], [place - 0.4, place + 0.4], color=INK, linewidth=1.5)
    axes.set_yticks(range(len(ordered)), [_short(name) for name in ordered])
    axes.set_xlabel("dissimilarity")
    caption = (
        "The particles of each tomogram and their median, the best tomogram at the bottom: one that stands apart has"
        " other contrast, thickness, alignment or picks than the others."
        + (f" The {MOST_TOMOGRAMS} worst of {len(set(particles.tomograms))}." if _more(particles) else "")
    )
    data = {"tomogram": np.asarray(particles.tomograms), "dissimilarity": values}
    return [figure_html("dissimilarity by tomogram", figure, caption, data)]


def tomogram_rows(
    particles: ParticleTable, against: Mapping[str, NDArray[np.float64]]
) -> tuple[Sequence[str], list[list[str]]]:
    """Return headings, and for each tomogram of ``by_tomogram`` its number and medians, the worst first."""
    if "dissimilarity" not in particles.columns or len(set(particles.tomograms)) < 2:
        return [], []
    named = [(heading, particles.columns[name], form) for name, heading, form in COLUMNS if name in particles.columns]
    shifts = np.linalg.norm(np.atleast_2d(particles.poses.shift_angstrom), axis=1)
    named.insert(1, ("shift (Å)", shifts, ".1f"))
    named += [(label, values, ".0f") for label, values in against.items()]
    rows = [
        [
            name,
            str(len(rows)),
            *(_median(np.asarray(values, dtype=np.float64)[rows], form) for _, values, form in named),
        ]
        for name, rows in reversed(_ordered(particles).items())
    ]
    return ["tomogram", "particles", *(heading for heading, _, _ in named)], rows


def _more(particles: ParticleTable) -> bool:
    return len(set(particles.tomograms)) > MOST_TOMOGRAMS


def _median(values: NDArray[np.float64], form: str) -> str:
    known = values[np.isfinite(values)]
    return f"{np.median(known):{form}}" if len(known) else ""


def _short(name: str) -> str:
    return name if len(name) <= 18 else f"...{name[-15:]}"
