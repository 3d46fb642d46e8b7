"""What two particles are expected to have in common, shell by shell, and how much a sample therefore counts.

    rho      their FSC at the right pose, from the pair itself or from many: it falls with frequency
    rho0     the correlation of a wrong pose
    weight   w = rho / (1 - rho^2)                                                         (docs/theory.md eq. 28)

Must not know where the sums come from, nor how a dissimilarity is made or minimised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

__all__ = ["Expectation", "null_correlation", "shell_weight", "stretched"]

# rho / (1 - rho^2) is not taken beyond rho = 0.99: no two inputs agree better than interpolation and box allow.
MAX_CORRELATION = 0.99
# A wrong pose is expected to agree less than the right one, by at least this share.
MAX_NULL = 0.95


@dataclass(frozen=True)
class Expectation:
    """What is expected of two inputs at their right pose, in shells 0..s-1 that are one over the box wide.

    ``correlation`` is their FSC (0 to 1), ``target_power`` and ``reference_power`` the mean squares of their samples,
    ``null`` the correlation that a wrong pose has, which for compact particles is well above zero in the lowest
    shells, each of shape (s,). ``contrast`` is what the reference has to be multiplied by to fit the target best.
    """

    correlation: NDArray[np.float64]
    target_power: NDArray[np.float64]
    reference_power: NDArray[np.float64]
    null: NDArray[np.float64]
    contrast: float = 1.0

    def __repr__(self) -> str:
        curve = ", ".join(f"{value:.2f}" for value in self.correlation)
        return f"Expectation(correlation {curve}; contrast {self.contrast:.3g})"

    @staticmethod
    def of_sums(sums: NDArray[np.float64], null: NDArray[np.float64]) -> Expectation:
        """From |f|^2, |g|^2, f.g and |Omega| of each shell, shape (s, 4), at the best pose known.

        The FSC falls with frequency: a monotonic fit, weighted by the samples of a shell. Where it is below its own
        standard deviation, 1 / sqrt(2 n), and so on to the finest shell, it counts as zero.
        """
        ff, gg, fg, count = sums.T
        seen = (count > 0) & (ff > 0) & (gg > 0)
        raw = np.where(seen, fg / np.sqrt(np.where(seen, ff * gg, 1.0)), 0.0)
        fit = np.array(isotonic_regression(raw, weights=np.maximum(count, 1e-3), increasing=False).x)
        told = np.flatnonzero(fit >= 1.0 / np.sqrt(2.0 * np.maximum(count, 1.0)))
        fit[(told[-1] + 1 if len(told) else 0) :] = 0.0
        total, fit = np.maximum(count, 1e-12), np.clip(fit, 0.0, MAX_CORRELATION)
        weight = shell_weight(fit)
        contrast = float(weight @ fg) / max(float(weight @ gg), 1e-300)
        return Expectation(
            correlation=fit,
            target_power=_filled(ff / total, seen),
            reference_power=_filled(gg / total, seen),
            null=np.clip(null, 0.0, MAX_NULL * fit),
            contrast=contrast if contrast > 0 else 1.0,
        )

    @staticmethod
    def of_shares(
        target_share: NDArray[np.float64],
        reference_share: NDArray[np.float64],
        target_power: NDArray[np.float64],
        reference_power: NDArray[np.float64],
    ) -> Expectation:
        """Before any pose is known, from the share of signal in either's shells: rho = sqrt(a_f a_g); all (s,)."""
        rho = np.clip(np.sqrt(target_share * reference_share), 0.0, MAX_CORRELATION)
        contrast = np.sqrt((rho @ target_power) / max(float(rho @ reference_power), 1e-300))
        return Expectation(rho, target_power, reference_power, np.zeros(len(rho)), float(contrast) or 1.0)

    @staticmethod
    def mean(many: Sequence[Expectation]) -> Expectation | None:
        """What pairs have in common on average: of particles that show one structure; None of none.

        The contrast is the median: for FCS, which compares values, the particles must be on one scale.
        """
        if not many:
            return None
        shells = min(len(e.correlation) for e in many)

        def average(values: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
            return np.mean([v[:shells] for v in values], axis=0)

        return Expectation(
            correlation=average(e.correlation for e in many),
            target_power=average(e.target_power for e in many),
            reference_power=average(e.reference_power for e in many),
            null=average(e.null for e in many),
            contrast=float(np.median([e.contrast for e in many])),
        )

    def in_box(self, share: float, shells: int) -> Expectation:
        """The same in ``shells`` shells of a box that is ``share`` times as large."""
        if share == 1.0:
            return self
        return Expectation(
            correlation=stretched(self.correlation, share, shells),
            target_power=stretched(self.target_power, share, shells),
            reference_power=stretched(self.reference_power, share, shells),
            null=stretched(self.null, share, shells),
            contrast=self.contrast,
        )

    @property
    def shared_power(self) -> float:
        """The mean of rho over the target's power."""
        return float(self.correlation @ self.target_power / max(float(self.target_power.sum()), 1e-300))

    def at(self, radius: NDArray) -> NDArray[np.float64]:
        """rho at distances from zero frequency in units of one over the box, linear between shells."""
        return np.interp(radius, np.arange(len(self.correlation)), self.correlation)

    def null_at(self, radius: NDArray) -> NDArray[np.float64]:
        """The correlation of a wrong pose at such distances."""
        return np.interp(radius, np.arange(len(self.null)), self.null)

    def raised(self, power: float) -> Expectation:
        """The same, with rho to a power."""
        return replace(self, correlation=np.minimum(self.correlation**power, MAX_CORRELATION))

    def above(self, null: NDArray[np.float64]) -> Expectation:
        """The same, with the correlation of wrong poses (s,)."""
        return replace(self, null=np.clip(null, 0.0, MAX_NULL * self.correlation))

    def below(self, ceiling: NDArray[np.float64]) -> Expectation:
        """The same, the correlation nowhere above ``ceiling`` (s,): that of the reference with the truth, say."""
        rho = np.minimum(self.correlation, np.maximum(ceiling, 0.0))
        return replace(self, correlation=rho, null=np.minimum(self.null, MAX_NULL * rho))


def stretched(values: NDArray[np.float64], share: float, shells: int) -> NDArray[np.float64]:
    """Values of shells (s,) in ``shells`` shells of a box that is ``share`` times as large, linear between shells."""
    return np.interp(np.arange(shells) / share, np.arange(len(values)), values)


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
    """rho / (1 - rho^2), eq. 28."""
    rho = np.clip(correlation, 0.0, MAX_CORRELATION)
    return rho / (1.0 - rho**2)
