"""The values that a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume
from gonio.report.verdict import Verdict


@dataclass(frozen=True)
class Errors:
    """Errors of m poses, of the rotation in degrees and of the shift in angstrom, shape (m,) each."""

    rotation_deg: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]


@dataclass(frozen=True)
class Outlier:
    """A particle to inspect: its name, the reason, and its volume where it could be read."""

    name: str
    why: str
    volume: Volume | None = None


@dataclass(frozen=True)
class Classes:
    """Class averages by name, with the number of particles in each.

    ``silhouettes`` are the mean silhouettes by number of classes, where that was chosen by them, and ``chosen`` is it.
    """

    averages: Mapping[str, Volume]
    counts: Sequence[int]
    silhouettes: Mapping[int, float] = field(default_factory=dict)
    chosen: int | None = None


@dataclass(frozen=True)
class Matrix:
    """Dissimilarities of all pairs of m particles, before and after alignment, (m, m), and how they were clustered.

    ``linkage`` is SciPy's, shape (m - 1, 4); ``labels`` are the classes of the particles, shape (m,).
    """

    before: NDArray[np.float64] | None
    after: NDArray[np.float64]
    linkage: NDArray[np.float64]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Chapter:
    """One study of several on a page.

    Attributes
    ----------
    title, reading
        Heading, and a paragraph on how to read the results.
    tables
        Rows of cells by caption, the first row with the headings.
    pictures
        PNG files by caption.
    text
        Output of the study, line by line.
    """

    title: str
    reading: str = ""
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Iteration:
    """One iteration of a refinement.

    Attributes
    ----------
    limit_angstrom
        Resolution limit at which particles were aligned.
    resolution_angstrom
        Resolution at which the FSC of the half maps fell below 0.143 afterwards.
    turned_deg, shifted_angstrom
        Median change of the poses since the previous iteration.
    fsc
        FSC of the half maps, shell by shell; None where it is not shown.
    volume
        The map; None where it is not shown.
    """

    limit_angstrom: float
    resolution_angstrom: float
    turned_deg: float
    shifted_angstrom: float
    fsc: NDArray[np.float64] | None = None
    volume: Volume | None = None


@dataclass(frozen=True)
class TiltCurve:
    """One parameter of the t tilts of a tomogram before and after a refinement, (t,) each, with standard deviations.

    ``determined`` are the images whose data say more of it than its prior, of standard deviation ``prior_sd``.
    """

    tomogram: str
    name: str
    unit: str
    angle_deg: NDArray[np.float64]
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    sd: NDArray[np.float64]
    prior_sd: NDArray[np.float64]
    determined: NDArray[np.bool_]


@dataclass(frozen=True)
class Sharpening:
    """Mean amplitudes of the shells of a map, before and after it was sharpened.

    Attributes
    ----------
    per_angstrom
        Frequencies of the shells, shape (s,).
    amplitudes
        Mean amplitudes by name, (s,) each; zero where nothing is known.
    line
        The line that was fitted: ln of the amplitude at zero frequency, B-factor, and the coarser and the finer
        resolution between which it was fitted; None without one.
    """

    per_angstrom: NDArray[np.float64]
    amplitudes: Mapping[str, NDArray[np.float64]]
    line: tuple[float, float, float, float] | None = None


@dataclass(frozen=True)
class LocalDetail:
    """Resolution from place to place, in angstrom, and the mask within which it counts, maps of one box."""

    resolution: Volume
    mask: Volume


@dataclass(frozen=True)
class Directions:
    """FSC (d, s) in cones about axes (d, 3), unit vectors, and the resolution in each, (d,), in angstrom."""

    axis_xyz: NDArray[np.float64]
    resolution_angstrom: NDArray[np.float64]
    fsc: NDArray[np.float64]
    box_angstrom: float


@dataclass(frozen=True)
class MapQuality:
    """What post-processing found of a map; parts that are None are left out."""

    sharpening: Sharpening | None = None
    local: LocalDetail | None = None
    directions: Directions | None = None


@dataclass(frozen=True)
class Report:
    """The contents of a page; parts that are None or empty are left out.

    Parameters
    ----------
    facts
        Facts about the run by name: command, versions, seed, time.
    numbers
        Rows of (name, value, how to read it).
    particles
        Particles with columns of ``gonio align``: dissimilarity, status, overlap, change_of_orientation_deg,
        change_of_shift_angstrom, rotation_sd_deg, shift_sd_angstrom, runner_up_margin; those present are shown.
    errors
        Errors of the poses, where the truth is known.
    expected
        Expected FSC of each particle with the reference, shape (m, s).
    curves
        Fourier shell correlations by name, each of shape (n // 2 + 1,).
    box_angstrom
        Edge of the box of ``curves`` and ``expected``.
    maps
        Volumes by name, shown as slices; the first also as a surface that can be rotated.
    against
        Further values of each particle by name with unit, (m,), against which its dissimilarity is plotted: defocus.
    coverage
        Weights of Fourier space in the average, shape (n, n, n), zero frequency at n // 2.
    outliers
        Particles to inspect.
    classes, matrix
        Results of a classification.
    iterations
        Iterations of a refinement, in order.
    most_q
        Largest q-value of a particle that is kept, where particles were also aligned to decoys.
    tilts, residuals
        Parameters of refined tilts; and place x, y and change of the shift x, y of m particles, (m, 4), by tomogram.
    chapters
        Several studies, in order, each a section of its own.
    verdict
        What the run's checks came to, for the first screen.
    resolution
        The one resolution to quote, in angstrom (infinite where the halves agree nowhere), and the rule for it.
    decisions
        Rows of (name, value, why) of what the run chose where nothing was asked for.
    max_shift_angstrom
        Largest length of a shift that the search allowed, where it had such a limit.
    next_steps
        Rows of (command, what it is for).
    files
        Files of the run, relative to the page.
    quality
        What post-processing found of the map.
    """

    title: str
    facts: Mapping[str, str]
    numbers: Sequence[tuple[str, str, str]] = ()
    particles: ParticleTable | None = None
    errors: Errors | None = None
    expected: NDArray[np.float64] | None = None
    curves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    box_angstrom: float = 0.0
    maps: Mapping[str, Volume] = field(default_factory=dict)
    against: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    coverage: NDArray[np.floating] | None = None
    outliers: Sequence[Outlier] = ()
    classes: Classes | None = None
    matrix: Matrix | None = None
    iterations: Sequence[Iteration] = ()
    most_q: float | None = None
    tilts: Sequence[TiltCurve] = ()
    residuals: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    chapters: Sequence[Chapter] = ()
    verdict: Verdict | None = None
    resolution: tuple[float, str] | None = None
    decisions: Sequence[tuple[str, str, str]] = ()
    max_shift_angstrom: float | None = None
    next_steps: Sequence[tuple[str, str]] = ()
    files: Sequence[str] = ()
    quality: MapQuality | None = None
