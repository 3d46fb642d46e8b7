"""What two particles are expected to have in common, shell by shell, and how much a sample therefore counts.

    rho      their FSC at the right pose, from the pair itself or from many: it falls with frequency
    rho0     the correlation of a wrong pose
    weight   w = rho / (1 - rho^2)                                                         (docs/theory.md eq. 28)

Must not know where the sums come from, nor how a dissimilarity is made or minimised.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import shells as kernels
from gonio.kernels.shells import MAX_CHANCE, MAX_CORRELATION

__all__ = ["ExpectedFsc", "chance_correlation", "shell_weight", "stretched"]


@dataclass(frozen=True)
class ExpectedFsc:
    """What is expected of two inputs at their right pose, in shells 0..s-1 that are one over the box wide.

    ``correlation`` is their FSC (0 to 1), ``target_power`` and ``reference_power`` the mean squares of their samples,
    ``chance`` the correlation that a wrong pose has, which for compact particles is well above zero in the lowest
    shells, each of shape (s,). ``contrast`` is what the reference has to be multiplied by to fit the target best.
    """

    correlation: NDArray[np.float64]
    target_power: NDArray[np.float64]
    reference_power: NDArray[np.float64]
    chance: NDArray[np.float64]
    contrast: float = 1.0

    def __repr__(self) -> str:
        curve = ", ".join(f"{value:.2f}" for value in self.correlation)
        return f"Expectation(correlation {curve}; contrast {self.contrast:.3g})"

    @staticmethod
    def of_sums(
        sums: NDArray[np.float64], chance: NDArray[np.float64], c_ref: NDArray[np.float64] | None = None
    ) -> ExpectedFsc:
        """From |f|^2, |g|^2, f.g and |Omega| of each shell, shape (s, 4), at the best pose known.

        The FSC falls with frequency: a monotonic fit, weighted by the samples of a shell. Where it is below its own
        standard deviation, 1 / sqrt(2 n), and so on to the finest shell, it counts as zero. ``chance`` (s,) is the
        correlation of wrong poses; no shell is expected to agree better than its ``c_ref`` (s,), such as the
        correlation of the reference with the truth.
        """
        table = np.empty((len(sums), 4))
        above = np.full(len(sums), np.inf) if c_ref is None else np.ascontiguousarray(c_ref, dtype=np.float64)
        contrast = kernels.expected(np.ascontiguousarray(sums), np.ascontiguousarray(chance), above, table)
        return ExpectedFsc.of_table(table, contrast)

    @staticmethod
    def of_table(table: NDArray[np.float64], contrast: float) -> ExpectedFsc:
        """From the table of ``kernels.shells``, (s, 4)."""
        rho, target_power, reference_power, chance = table.T
        return ExpectedFsc(rho, target_power, reference_power, chance, contrast)

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """As the kernels take it, (s, 4)."""
        columns = self.correlation, self.target_power, self.reference_power, self.chance
        return np.stack(columns, axis=1).astype(np.float64)

    @staticmethod
    def of_shares(
        target_fraction: NDArray[np.float64],
        reference_fraction: NDArray[np.float64],
        target_power: NDArray[np.float64],
        reference_power: NDArray[np.float64],
    ) -> ExpectedFsc:
        """Before any pose is known, from the share of signal in either's shells: rho = sqrt(a_f a_g); all (s,)."""
        rho = np.clip(np.sqrt(target_fraction * reference_fraction), 0.0, MAX_CORRELATION)
        contrast = np.sqrt((rho @ target_power) / max(float(rho @ reference_power), 1e-300))
        return ExpectedFsc(rho, target_power, reference_power, np.zeros(len(rho)), float(contrast) or 1.0)

    @staticmethod
    def mean(many: Sequence[ExpectedFsc]) -> ExpectedFsc | None:
        """What pairs have in common on average: of particles that show one structure; None of none.

        The contrast is the median: for FCS, which compares values, the particles must be on one scale.
        """
        if not many:
            return None
        shells = min(len(e.correlation) for e in many)

        def average(values: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
            return np.mean([v[:shells] for v in values], axis=0)

        return ExpectedFsc(
            correlation=average(e.correlation for e in many),
            target_power=average(e.target_power for e in many),
            reference_power=average(e.reference_power for e in many),
            chance=average(e.chance for e in many),
            contrast=float(np.median([e.contrast for e in many])),
        )

    def in_box(self, fraction: float, shells: int) -> ExpectedFsc:
        """The same in ``shells`` shells of a box that is ``fraction`` times as large."""
        if fraction == 1.0 and len(self.correlation) == shells:
            return self
        return ExpectedFsc(
            correlation=stretched(self.correlation, fraction, shells),
            target_power=stretched(self.target_power, fraction, shells),
            reference_power=stretched(self.reference_power, fraction, shells),
            chance=stretched(self.chance, fraction, shells),
            contrast=self.contrast,
        )

    @property
    def shared_power(self) -> float:
        """The mean of rho over the target's power."""
        return float(self.correlation @ self.target_power / max(float(self.target_power.sum()), 1e-300))

    def raised(self, power: float) -> ExpectedFsc:
        """The same, with rho to a power."""
        return replace(self, correlation=np.minimum(self.correlation**power, MAX_CORRELATION))

    def above(self, chance: NDArray[np.float64]) -> ExpectedFsc:
        """The same, with the correlation of wrong poses (s,)."""
        return replace(self, chance=np.clip(chance, 0.0, MAX_CHANCE * self.correlation))


def stretched(values: NDArray[np.float64], fraction: float, shells: int) -> NDArray[np.float64]:
    """Values of shells (s,) in ``shells`` shells of a box that is ``fraction`` times as large, linear between shells."""
    return np.interp(np.arange(shells) / fraction, np.arange(len(values)), values)


def chance_correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The median correlation of each shell over poses that are mostly wrong, from their sums (p, s, 4)."""
    chance = np.empty(sums.shape[1])
    kernels.chance_correlations(np.ascontiguousarray(sums), chance)
    return chance


def shell_weight(correlation: NDArray) -> NDArray[np.float64]:
    """rho / (1 - rho^2) of each shell (s,), eq. 28."""
    weight = np.empty(len(correlation))
    kernels.weights_of_shells(np.ascontiguousarray(correlation, dtype=np.float64), weight)
    return weight
