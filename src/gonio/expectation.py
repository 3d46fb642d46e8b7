"""What two particles are expected to have in common, and how much each of their samples therefore counts.

    expectation    FSC, powers and the correlation of wrong poses, shell by shell, from the pair itself
    weight         w = rho / (1 - rho^2) of the expected FSC rho (docs/theory.md eq. 26)

Must not know how a dissimilarity is made or minimised.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from gonio.fourier import Spectrum

__all__ = ["Expectation", "null_correlation", "weighted"]

# rho / (1 - rho^2) is not taken beyond rho = 0.99: no two inputs agree better than interpolation and box allow.
MAX_CORRELATION = 0.99
# A wrong pose is expected to agree less than the right one, by at least this share.
MAX_NULL = 0.95


@dataclass(frozen=True)
class Expectation:
    """What is expected of two inputs at their right pose, in shells 0..s-1 that are one over the box wide.

    ``correlation`` is their FSC (0 to 1), ``target_power`` and ``reference_power`` the mean squares of their samples,
    ``count`` the number of samples, each of shape (s,); ``null`` is the correlation that a wrong pose has, which for
    compact particles is well above zero in the lowest shells.
    """

    correlation: NDArray[np.float64]
    target_power: NDArray[np.float64]
    reference_power: NDArray[np.float64]
    count: NDArray[np.float64]
    null: NDArray[np.float64]

    @staticmethod
    def of_sums(sums: NDArray[np.float64], null: NDArray[np.float64]) -> Expectation:
        """From |f|^2, |g|^2, f.g and |Omega| of each shell, shape (s, 4), at the best pose known.

        The FSC falls with frequency: a monotonic fit, weighted by the samples of a shell. Where it is below its own
        standard deviation, 1 / sqrt(2 n), it counts as zero.
        """
        ff, gg, fg, count = sums.T
        seen = (count > 0) & (ff > 0) & (gg > 0)
        raw = np.where(seen, fg / np.sqrt(np.where(seen, ff * gg, 1.0)), 0.0)
        fit = np.array(isotonic_regression(raw, weights=np.maximum(count, 1e-3), increasing=False).x)
        fit[fit < 1.0 / np.sqrt(2.0 * np.maximum(count, 1.0))] = 0.0
        total, fit = np.maximum(count, 1e-12), np.clip(fit, 0.0, MAX_CORRELATION)
        lowered = np.clip(null, 0.0, MAX_NULL * fit)
        return Expectation(fit, _filled(ff / total, seen), _filled(gg / total, seen), count, lowered)

    @property
    def share(self) -> float:
        """The share of samples that carry signal: the mean of rho squared."""
        return float((self.count * self.correlation**2).sum() / max(self.count.sum(), 1.0))

    def at(self, radius: NDArray) -> NDArray[np.float64]:
        """rho at distances from zero frequency in units of one over the box, linear between shells."""
        return np.interp(radius, np.arange(len(self.correlation)), self.correlation)

    def null_at(self, radius: NDArray) -> NDArray[np.float64]:
        """The correlation of a wrong pose at such distances."""
        return np.interp(radius, np.arange(len(self.null)), self.null)

    def with_correlation(self, correlation: NDArray[np.float64]) -> Expectation:
        """The same powers with another FSC (s,)."""
        fsc = np.clip(correlation, 0.0, MAX_CORRELATION)
        return replace(self, correlation=fsc, null=np.minimum(self.null, MAX_NULL * fsc))


def null_correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median correlation of each shell over poses that are mostly wrong, from their sums (p, s, 4)."""
    ff, gg, fg, _ = np.moveaxis(sums, -1, 0)
    square = ff * gg
    return np.maximum(
        np.median(np.where(square > 0, fg, 0.0) / np.sqrt(np.where(square > 0, square, 1.0)), axis=0), 0.0
    )


def _filled(values: NDArray, seen: NDArray[np.bool_]) -> NDArray[np.float64]:
    if not seen.any():
        return np.ones(len(values))
    shells = np.arange(len(values))
    return np.interp(shells, shells[seen], values[seen])


def shell_weight(correlation: NDArray) -> NDArray[np.float64]:
    """rho / (1 - rho^2), eq. 26."""
    rho = np.clip(correlation, 0.0, MAX_CORRELATION)
    return rho / (1.0 - rho**2)


def weighted(target: Spectrum, expectation: Expectation) -> Spectrum:
    """The target with every sample weighted by what its shell is expected to tell; weights have a mean of one."""
    radius = np.linalg.norm(target.frequency_xyz.astype(np.float64), axis=0)  # (n,)
    weight = target.weight * shell_weight(expectation.at(radius))
    mean = float(weight.mean(dtype=np.float64))
    return replace(target, weight=(weight / mean if mean > 0 else weight).astype(np.float32))
