"""What a page can show: values alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gonio.particle.table import ParticleTable
from gonio.particle.volume import Volume

__all__ = ["Chapter", "Classes", "Errors", "Iteration", "Matrix", "Outlier", "Report"]


@dataclass(frozen=True)
class Errors:
    """How far each of m poses is from the truth: of the rotation in degrees, of the shift in angstrom, shape (m,)."""

    rotation_deg: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]


@dataclass(frozen=True)
class Outlier:
    """A particle to be looked at: its name, why, and its volume where it could be read."""

    name: str
    why: str
    volume: Volume | None = None


@dataclass(frozen=True)
class Classes:
    """Class averages by name, with the number of particles in each."""

    averages: Mapping[str, Volume]
    counts: Sequence[int]


@dataclass(frozen=True)
class Matrix:
    """Dissimilarities of all pairs of m particles, before and after alignment, (m, m), and how they were clustered.

    ``linkage`` is SciPy's, shape (m - 1, 4); ``labels`` say the class of each particle, shape (m,).
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
        What it is, and what it shows.
    tables
        By caption: rows of cells, the first of them the headings.
    pictures
        PNG files by caption.
    text
        What it printed, line by line.
    """

    title: str
    reading: str = ""
    tables: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Iteration:
    """One turn of a refinement.

    Attributes
    ----------
    limit_angstrom
        The resolution limit at which particles were aligned.
    resolution_angstrom
        Where the FSC of the halves fell through 0.143 afterwards.
    turned_deg, shifted_angstrom
        Median change of the poses against the turn before.
    """

    limit_angstrom: float
    resolution_angstrom: float
    turned_deg: float
    shifted_angstrom: float


@dataclass(frozen=True)
class Report:
    """What a page shows; parts that are None or empty are left out.

    Parameters
    ----------
    title
        Of the page.
    facts
        What was done: command, versions, seed, time.
    numbers
        Rows of (name, value, how to read it).
    particles
        With the columns that ``gonio align`` writes: dissimilarity, status, overlap, change_of_orientation_deg,
        change_of_shift_angstrom, rotation_sd_deg, shift_sd_angstrom, runner_up_margin; those that are there are shown.
    errors
        Where the truth is known.
    expected
        What each particle has in common with the reference, as FSC, shell by shell, shape (m, s).
    curves
        Fourier shell correlations by name, each of shape (n // 2 + 1,).
    box_angstrom
        Edge of the box that curves and expectations belong to.
    maps
        Volumes by name, shown as slices; the first also as a surface that can be turned.
    against
        Further values of each particle by name with unit, (m,), that its dissimilarity is shown against: defocus.
    coverage
        What was measured in each direction of Fourier space: weights, shape (n, n, n), zero frequency at n // 2.
    odd
        Particles to be looked at.
    classes, matrix
        Of a classification.
    iterations
        Of a refinement, in order.
    most_q
        The largest q-value of a particle that is kept, where decoys were aligned to.
    chapters
        Of several studies, in order, each a section of its own.
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
    chapters: Sequence[Chapter] = ()
