"""Sharpening of a map: weights by its figure of merit, and a B-factor from its Guinier plot.

Half maps of FSC F state how the map correlates with the truth, its figure of merit (docs/theory.md eq. 44), and by how
much its amplitudes fall off (eq. 45): ln |V| = ln |V_0| + B / (4 d^2), B negative, a line over 1 / d^2 beyond 10
angstrom, where the particle's envelope no longer matters (Rosenthal & Henderson 2003). Sharpened, each sample is
multiplied by C_ref exp(-B / (4 d^2)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from gonio.fourier.fsc import half_radius, half_shells
from gonio.particle.arguments import ArgumentError
from gonio.particle.volume import Volume

# Coarser than this, amplitudes are those of the particle's envelope (Rosenthal & Henderson 2003).
FIT_FROM_ANGSTROM = 10.0
# A line through fewer shells is no measurement.
MIN_FIT_SHELLS = 5


@dataclass(frozen=True)
class GuinierPlot:
    """Mean amplitudes of each shell up to two voxels, and times the figure of merit, each of shape (s,).

    ``per_angstrom`` are the frequencies of the shells.
    """

    per_angstrom: NDArray[np.float64]
    amplitude: NDArray[np.float64]
    weighted: NDArray[np.float64]


@dataclass(frozen=True)
class BFactorFit:
    """A line ln |V| = intercept + B / 4 / d^2 through a Guinier plot.

    Attributes
    ----------
    bfactor, sd
        B in square angstrom, negative where amplitudes fall off, and its standard error by the scatter about the line.
    intercept
        ln |V| at zero frequency.
    coarsest_angstrom, finest_angstrom, shells
        The resolutions between which it was fitted, and how many shells lie there.
    """

    bfactor: float
    sd: float
    intercept: float
    coarsest_angstrom: float
    finest_angstrom: float
    shells: int


def figure_of_merit(fsc: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation of a map with the truth, sqrt(2 F / (1 + F)), from the FSC F (s,) of its halves.

    It is zero from the first shell on whose FSC is not positive: beyond, a positive one is chance.
    """
    ends = np.flatnonzero(fsc[1:] <= 0) + 1
    known = np.clip(fsc, 0.0, 1.0)
    known[ends[0] if len(ends) else len(fsc) :] = 0.0
    return np.asarray(np.sqrt(2.0 * known / (1.0 + known)))


def guinier_plot(volume: Volume, fsc: NDArray[np.float64]) -> GuinierPlot:
    """Return the mean amplitudes of a map in each shell, (n // 2 + 1,), from the FSC of its halves, of that shape."""
    shell, times = half_shells(volume.box)
    amplitude = np.abs(scipy.fft.rfftn(volume.data.astype(np.float64)).ravel())
    mean = np.bincount(shell, weights=times * amplitude) / np.bincount(shell, weights=times)
    kept = slice(0, len(fsc))
    per_angstrom = np.arange(len(fsc)) / volume.box_angstrom
    return GuinierPlot(per_angstrom, mean[kept], mean[kept] * figure_of_merit(fsc))


def fit_bfactor(plot: GuinierPlot, *, coarsest_angstrom: float, finest_angstrom: float) -> BFactorFit | None:
    """Fit a line to the weighted amplitudes between two resolutions; None where fewer than 5 shells are there.

    Raises
    ------
    ValueError
        If the range is empty.
    """
    if not 0 < finest_angstrom < coarsest_angstrom:
        raise ArgumentError(
            "{} is the coarser resolution and then the finer, got {coarsest:g} {finest:g}",
            "fit_range_angstrom",
            coarsest=coarsest_angstrom,
            finest=finest_angstrom,
        )
    frequency = plot.per_angstrom * (1 + 1e-9)  # a shell at the end of the range is in it
    inside = (frequency * coarsest_angstrom >= 1) & (plot.per_angstrom * finest_angstrom <= 1 + 1e-9)
    inside &= plot.weighted > 0
    if inside.sum() < MIN_FIT_SHELLS:
        return None
    (slope, intercept), covariance = np.polyfit(
        plot.per_angstrom[inside] ** 2, np.log(plot.weighted[inside]), 1, cov=True
    )
    return BFactorFit(
        bfactor=float(4.0 * slope),
        sd=float(4.0 * np.sqrt(covariance[0, 0])),
        intercept=float(intercept),
        coarsest_angstrom=coarsest_angstrom,
        finest_angstrom=finest_angstrom,
        shells=int(inside.sum()),
    )


def sharpened(volume: Volume, fsc: NDArray[np.float64], *, bfactor: float) -> Volume:
    """Return a map weighted by the figure of merit of its halves' FSC (s,), and sharpened by a negative B-factor."""
    radius = half_radius(volume.box)
    merit = np.zeros(int(radius.max()) + 2)
    merit[: len(fsc)] = figure_of_merit(fsc)
    spectrum = scipy.fft.rfftn(volume.data.astype(np.float64))
    spectrum *= merit[np.rint(radius).astype(np.intp)] * np.exp(-bfactor / 4.0 * (radius / volume.box_angstrom) ** 2)
    return Volume(scipy.fft.irfftn(spectrum, volume.data.shape), volume.voxel_size_angstrom)
