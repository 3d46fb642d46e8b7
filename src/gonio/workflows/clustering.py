"""Classes of particles from all their pairs: dissimilarities, a tree, and the number of classes.

The dissimilarity of a pair is summed over what both particles have measured, so that it does not depend on how much
their wedges share:

    RCS   2 - 2 F.G / (|F| |G|)          FCS   2 |F - G|^2 / (|F|^2 + |G|^2)        with F.G = sum_s w_s (f.g)_s, ...

Both are 0 for identical particles and 2 for uncorrelated ones. FCS is normalised by the power of the two, or faint
pairs would seem alike. The weights w = rho / (1 - rho^2) (docs/theory.md eq. 28) are the same for all pairs: rho is the
correlation of a particle with its nearest neighbour, averaged over all particles. A search weights each pair by its own
expected FSC, which does not allow a comparison of pairs: unlike particles are then compared where they happen to agree
(docs/reproduce.md).

Linkage is average: a dissimilarity is no distance in a space (as Ward's and the centroid method assume), and the worst
and the best pair of two classes (complete and single linkage) are those with the most noise.
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

# Dissimilarity of uncorrelated particles.
NOTHING_SHARED = 2.0
# Rounds of learning weights from nearest neighbours, which are found with the weights of the round before.
LEARN = 2
# Least silhouette of several classes: Kaufman & Rousseeuw (1990) call 0.51 to 0.70 reasonable. With 2 to 4 complexes
# the best silhouette is 0.66 to 0.91 at SNR 0.5 and 0.1, with one complex that is split at most 0.57.
MIN_SILHOUETTE = 0.6
# Largest number of classes proposed, and least number of particles in a class on average.
MOST_CLASSES, LEAST_EACH = 20, 2


@dataclass(frozen=True)
class AllPairs:
    """Poses and sums of shells of the pairs (i, j), i < j, of n particles, in the order of SciPy's condensed form.

    Attributes
    ----------
    count
        n.
    poses
        Poses that align particle i to particle j, a batch of m = n (n - 1) / 2.
    sums
        Sums of shells, as in ``PairResult.sums``, shape (m, 2, s, 4): at the input poses and at those found.
    """

    count: int
    poses: Pose
    sums: NDArray[np.float64]

    @staticmethod
    def gathered(results: Iterable[PairResult], count: int) -> AllPairs:
        """Gather the results of all pairs of ``count`` particles, in any order."""
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
        """Return the pose that aligns one particle to another."""
        if reference == target:
            return Pose.identity()
        pose = self.poses[_row(min(reference, target), max(reference, target), self.count)]
        return pose if reference < target else pose.inverse()

    def dissimilarity(self, score: Score | str = Score.RCS, *, aligned: bool = True) -> NDArray[np.float64]:
        """Return the dissimilarity of all pairs, symmetric, (n, n), at the poses found or at the input poses.

        Values are between 0 and 4; both have the same weights.
        """
        score = Score.RCS if score == Score.LIKELIHOOD else Score(score)
        values = _dissimilarities(self.sums[:, int(aligned)], self._weights[score], score)
        return np.asarray(squareform(values))

    @cached_property
    def _weights(self) -> dict[Score, NDArray[np.float64]]:
        return {score: self._learned_weights(score) for score in (Score.RCS, Score.FCS)}

    def _learned_weights(self, score: Score) -> NDArray[np.float64]:
        """Return the weights of shells, (s,), from the correlations of particles with their nearest neighbours."""
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
    """Return the index of a pair in the condensed form."""
    return count * first - first * (first + 1) // 2 + second - first - 1


def _on_one_grid(shells: Sequence[tuple[NDArray, NDArray]]) -> NDArray[np.float64]:
    """Interpolate sums of shells, of boxes that may differ, to the frequencies of the finest: (m, 2, s, 4).

    Sums over shells of another width differ by one factor throughout, which cancels in every dissimilarity.
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
    """Return the correlation of each shell, (m, s), from its sums (m, s, 4); 0 where nothing is shared."""
    ff, gg, fg, _ = np.moveaxis(sums, -1, 0)
    power = np.sqrt(ff * gg)
    return np.where(power > 0, fg, 0.0) / np.where(power > 0, power, 1.0)


def _dissimilarities(sums: NDArray[np.float64], weights: NDArray[np.float64], score: Score) -> NDArray[np.float64]:
    """Return the dissimilarities of pairs, (m,), from their sums (m, s, 4)."""
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
        The tree in SciPy's form, shape (n - 1, 4).
    silhouettes
        Silhouette for each number of classes tried, -1 to 1: the average of (b - a) / max(a, b), with a and b the mean
        dissimilarities of a particle to its own class and to the next (Rousseeuw 1987).
    reason
        Reason for the number of classes, in words.
    """

    labels: NDArray[np.int64]
    linkage: NDArray[np.float64]
    silhouettes: Mapping[int, float]
    reason: str

    @property
    def count(self) -> int:
        """Number of classes."""
        return int(self.labels.max(initial=0))


def cluster(matrix: NDArray[np.float64], classes: int | None = None) -> Clustering:
    """Cluster particles by average linkage.

    Parameters
    ----------
    matrix
        Dissimilarities, symmetric, finite, zero on the diagonal, shape (n, n).
    classes
        Number of classes, 1 to n; None for the number with the best silhouette, or 1 where none reaches 0.6.

    Raises
    ------
    ValueError
        A matrix that is not symmetric and finite, or more classes than particles.
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
        reason = f"{classes} classes: as requested"
    labels = hierarchy.cut_tree(linkage, classes)[:, 0]
    return Clustering(_largest_first(labels), linkage, silhouettes, reason)


def _proposed(silhouettes: Mapping[int, float]) -> tuple[int, str]:
    """Return the number of classes with the best silhouette, and the reason for it."""
    if not silhouettes:
        return 1, "1 class: there are too few particles for more"
    best = max(silhouettes, key=lambda number: silhouettes[number])
    values = ", ".join(f"{number}: {value:.2f}" for number, value in list(silhouettes.items())[:8])
    if silhouettes[best] < MIN_SILHOUETTE:
        return 1, f"1 class: no number of classes has a silhouette of {MIN_SILHOUETTE:g} or more ({values})"
    return best, f"{best} classes: their silhouette is the best, and {MIN_SILHOUETTE:g} or more ({values})"


def _silhouette(matrix: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Return the silhouette averaged over particles; one alone in its class counts as 0."""
    member = (labels[:, None] == np.arange(labels.max() + 1)).astype(np.float64)  # (n, k)
    total, size = matrix @ member, member.sum(axis=0)
    rows = np.arange(len(labels))
    own = total[rows, labels] / np.maximum(size[labels] - 1, 1)
    others = np.where(member > 0, np.inf, total / size).min(axis=1)
    larger = np.maximum(own, others)
    values = np.where(size[labels] > 1, others - own, 0.0) / np.where(larger > 0, larger, 1.0)
    return float(values.mean())


def _largest_first(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Renumber classes to 1, 2, ... by decreasing size, and where these are equal by the first particle."""
    found, first, size = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -size))
    rank = np.empty(found.max() + 1, dtype=np.int64)
    rank[found[order]] = np.arange(1, len(found) + 1)
    return rank[labels]


def adjusted_rand_index(first: ArrayLike, second: ArrayLike) -> float:
    """Return the agreement of two classifications of the same particles: 1 for the same classes, about 0 for chance.

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
