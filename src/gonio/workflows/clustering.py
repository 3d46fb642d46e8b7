"""Classes of particles from all their pairs: dissimilarities, a tree, and how many classes there are.

The dissimilarity of a pair is summed over what both particles have measured, so that it does not depend on how much
their wedges share:

    RCS   2 - 2 F.G / (|F| |G|)          FCS   2 |F - G|^2 / (|F|^2 + |G|^2)        with F.G = sum_s w_s (f.g)_s, ...

which both are 0 for two that are alike and 2 for two that have nothing in common. FCS is set in proportion to the
power of the two, without which a faint pair would be alike. The weights w = rho / (1 - rho^2) (docs/theory.md eq. 28)
are one and the same for all pairs: those of what a particle shares with the one most like it, on average over all
particles. A search weights each pair by what that pair lets expect, which is no measure for all: two that
share nothing are then compared where they happen to agree (docs/reproduce.md).

Average linkage, since a dissimilarity is no distance in a space (which Ward's and the centroid method take it for),
and the worst and the best pair of two classes are those with the most noise (complete and single linkage).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform
from scipy.spatial.transform import Rotation

from gonio.comparison.expected_fsc import shell_weight
from gonio.comparison.score import Score
from gonio.particle.pose import Pose
from gonio.workflows.all_pairs import PairResult

__all__ = ["AllPairs", "Clustering", "adjusted_rand_index", "cluster"]

# Of two that have nothing in common.
NOTHING_SHARED = 2.0
# Weights are learned from nearest neighbours, who are found with the weights of before: so many times.
LEARN = 2
# Classes are proposed when they are this much apart: Kaufman & Rousseeuw (1990) call 0.51 to 0.70 reasonable. Of 2 to
# 4 complexes the best silhouette is 0.66 to 0.91 at SNR 0.5 and 0.1, of one complex that is split at most 0.57.
MIN_SILHOUETTE = 0.6
# No more classes are proposed, nor so many that they have fewer particles than this on average.
MOST_CLASSES, LEAST_EACH = 20, 2


@dataclass(frozen=True)
class AllPairs:
    """What the pairs (i, j), i < j, of n particles have in common, in the order of SciPy's condensed form.

    Attributes
    ----------
    count
        n.
    poses
        Lay particle i on particle j, a batch of m = n (n - 1) / 2.
    sums
        Of shells, as in ``PairResult.sums``, shape (m, 2, s, 4): at the input poses and at those found.
    """

    count: int
    poses: Pose
    sums: NDArray[np.float64]

    @staticmethod
    def gathered(results: Iterable[PairResult], count: int) -> AllPairs:
        """From the results of all pairs of ``count`` particles, in any order."""
        size = count * (count - 1) // 2
        quaternions, shifts = np.full((size, 4), np.nan), np.empty((size, 3))
        shells: list[tuple[NDArray, NDArray]] = [(np.empty(0), np.empty((2, 0, 4)))] * size
        for pair in results:
            row = _row(pair.reference, pair.target, count)
            quaternions[row], shifts[row] = pair.result.pose.rotation.as_quat(), pair.result.pose.shift_angstrom
            shells[row] = pair.frequency_per_angstrom, pair.sums
        if np.isnan(quaternions).any():
            raise ValueError(f"{count} particles have {size} pairs: some of them are missing")
        return AllPairs(count, Pose(Rotation.from_quat(quaternions), shifts), _on_one_grid(shells))

    def pose(self, reference: int, target: int) -> Pose:
        """What lays one particle on another."""
        if reference == target:
            return Pose.identity()
        pose = self.poses[_row(min(reference, target), max(reference, target), self.count)]
        return pose if reference < target else pose.inverse()

    def dissimilarity(self, score: Score | str = Score.RCS, *, aligned: bool = True) -> NDArray[np.float64]:
        """How unlike the particles are, symmetric, (n, n): at the poses found, or at those listed.

        Between 0 and 4; the same weights before and after.
        """
        score = Score.RCS if score == Score.LIKELIHOOD else Score(score)
        values = _dissimilarities(self.sums[:, int(aligned)], self._weights[score], score)
        return np.asarray(squareform(values))

    @cached_property
    def _weights(self) -> dict[Score, NDArray[np.float64]]:
        return {score: self._learned_weights(score) for score in (Score.RCS, Score.FCS)}

    def _learned_weights(self, score: Score) -> NDArray[np.float64]:
        """What shells count, (s,): those of a particle and the one most like it."""
        sums, alike = self.sums[:, 1], np.ones(self.sums.shape[2])
        weights = alike
        for _ in range(LEARN):
            matrix = squareform(_dissimilarities(sums, weights, score))
            np.fill_diagonal(matrix, np.inf)
            nearest = matrix.argmin(axis=1)
            rows = [_row(min(i, j), max(i, j), self.count) for i, j in enumerate(nearest)]
            rho = np.clip(_correlation(sums[rows]).mean(axis=0), 0.0, None)
            weights = shell_weight(rho) if rho.any() else alike
        return weights


def _row(first: int, second: int, count: int) -> int:
    """Where a pair is in the condensed form."""
    return count * first - first * (first + 1) // 2 + second - first - 1


def _on_one_grid(shells: Sequence[tuple[NDArray, NDArray]]) -> NDArray[np.float64]:
    """Sums of shells of boxes that may differ, at the frequencies of the finest: (m, 2, s, 4).

    Sums of shells of another width differ by one factor throughout, which no dissimilarity knows of.
    """
    finest = max((frequency for frequency, _ in shells), key=len, default=np.empty(0))
    result = np.empty((len(shells), 2, len(finest), 4))
    for row, (frequency, sums) in enumerate(shells):
        right = np.clip(np.searchsorted(frequency, finest, side="right"), 1, len(frequency) - 1)
        fraction = (finest - frequency[right - 1]) / (frequency[right] - frequency[right - 1])
        fraction = np.clip(fraction, 0.0, 1.0)[:, None]
        result[row] = (1.0 - fraction) * sums[:, right - 1] + fraction * sums[:, right]
    return result


def _correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each shell, (m, s), from (m, s, 4); 0 where nothing is shared."""
    ff, gg, fg, _ = np.moveaxis(sums, -1, 0)
    power = np.sqrt(ff * gg)
    return np.where(power > 0, fg, 0.0) / np.where(power > 0, power, 1.0)


def _dissimilarities(sums: NDArray[np.float64], weights: NDArray[np.float64], score: Score) -> NDArray[np.float64]:
    """Of pairs, (m,), from (m, s, 4)."""
    ff, gg, fg = (sums[..., k] @ weights for k in range(3))
    power = np.sqrt(ff * gg) if score is Score.RCS else 0.5 * (ff + gg)
    likeness = np.where(power > 0, fg, 0.0) / np.where(power > 0, power, 1.0)
    return np.asarray(np.maximum(NOTHING_SHARED * (1.0 - likeness), 0.0))


@dataclass(frozen=True)
class Clustering:
    """Classes 1, 2, ... of n particles, the largest first.

    Attributes
    ----------
    labels
        Class of each particle, shape (n,).
    linkage
        The tree, as SciPy has it, shape (n - 1, 4).
    silhouettes
        For each number of classes that was thought of, how much nearer particles are to their own class than to the
        next: (b - a) / max(a, b), a and b being mean dissimilarities, on average (Rousseeuw 1987); -1 to 1.
    reason
        Why there are so many, in words.
    """

    labels: NDArray[np.int64]
    linkage: NDArray[np.float64]
    silhouettes: Mapping[int, float]
    reason: str

    @property
    def count(self) -> int:
        """How many classes."""
        return int(self.labels.max(initial=0))


def cluster(matrix: NDArray[np.float64], classes: int | None = None) -> Clustering:
    """Classes of particles by average linkage.

    Parameters
    ----------
    matrix
        Dissimilarities, symmetric, finite, zero on the diagonal, shape (n, n).
    classes
        How many, 1 to n; None for the number whose silhouette is best, or one where none is above 0.6.

    Raises
    ------
    ValueError
        A matrix that is none, or more classes than particles.
    """
    matrix = np.asarray(matrix, dtype=np.float64)
    n = len(matrix)
    if matrix.shape != (n, n) or n < 1 or not np.isfinite(matrix).all() or np.abs(matrix - matrix.T).max() > 1e-9:
        raise ValueError(f"dissimilarities must be a finite symmetric matrix, got shape {matrix.shape}")
    if classes is not None and not 1 <= classes <= n:
        raise ValueError(f"classes must be 1 to {n}, the number of particles, got {classes!r}")
    if n == 1:
        return Clustering(np.ones(1, dtype=np.int64), np.empty((0, 4)), {}, "1 class: there is one particle")
    linkage = hierarchy.linkage(squareform(matrix, checks=False), "average")
    numbers = range(2, max(min(MOST_CLASSES, n // LEAST_EACH), classes or 0) + 1)
    cuts = {number: hierarchy.cut_tree(linkage, number)[:, 0] for number in numbers if number < n}
    silhouettes = {number: _silhouette(matrix, labels) for number, labels in cuts.items()}
    if classes is None:
        classes, reason = _proposed(silhouettes)
    else:
        reason = f"{classes} classes: as asked"
    labels = hierarchy.cut_tree(linkage, classes)[:, 0]
    return Clustering(_largest_first(labels), linkage, silhouettes, reason)


def _proposed(silhouettes: Mapping[int, float]) -> tuple[int, str]:
    """How many classes, and why."""
    if not silhouettes:
        return 1, "1 class: there are too few particles to tell more"
    best = max(silhouettes, key=lambda number: silhouettes[number])
    told = ", ".join(f"{number}: {value:.2f}" for number, value in list(silhouettes.items())[:8])
    if silhouettes[best] < MIN_SILHOUETTE:
        return 1, f"1 class: no number of classes has a silhouette of {MIN_SILHOUETTE:g} or more ({told})"
    return best, f"{best} classes: their silhouette is the best, and {MIN_SILHOUETTE:g} or more ({told})"


def _silhouette(matrix: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """On average over all particles; one alone in its class counts as 0."""
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)  # (n, k)
    total, size = matrix @ member, member.sum(axis=0)
    rows = np.arange(len(labels))
    own = total[rows, labels] / np.maximum(size[labels] - 1, 1)
    others = np.where(member > 0, np.inf, total / size).min(axis=1)
    larger = np.maximum(own, others)
    values = np.where(size[labels] > 1, others - own, 0.0) / np.where(larger > 0, larger, 1.0)
    return float(values.mean())


def _largest_first(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Numbers 1, 2, ..., by size, and where these are equal by the first particle."""
    found, first, size = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -size))
    rank = np.empty(found.max() + 1, dtype=np.int64)
    rank[found[order]] = np.arange(1, len(found) + 1)
    return rank[labels]


def adjusted_rand_index(first: ArrayLike, second: ArrayLike) -> float:
    """How far two ways to class the same particles agree: 1 for the same classes, about 0 for chance.

    Notes
    -----
    With n_ij particles in class i of one and j of the other, a_i and b_j their sums and C(x) = x (x - 1) / 2, it is
    (S - E) / (M - E): S = sum C(n_ij), E = sum C(a_i) sum C(b_j) / C(n), M = (sum C(a_i) + sum C(b_j)) / 2 (Hubert &
    Arabie 1985).
    """
    one, two = (np.unique(np.asarray(labels), return_inverse=True)[1] for labels in (first, second))
    table = np.zeros((one.max(initial=0) + 1, two.max(initial=0) + 1))
    np.add.at(table, (one, two), 1)

    def pairs(counts: NDArray[np.float64]) -> float:
        return float((counts * (counts - 1)).sum() / 2)

    both, rows, columns = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    expected = rows * columns / max(pairs(table.sum(keepdims=True)), 1.0)
    most = 0.5 * (rows + columns)
    return 1.0 if most == expected else (both - expected) / (most - expected)
