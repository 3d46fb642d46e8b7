"""The expected FSC of two particles, shell by shell, and the weights of samples that follow from it.

    rho      their FSC at the right pose, from the pair itself or from many: it falls with frequency
    rho0     the chance correlation, that of a wrong pose
    weight   w = rho / (1 - rho^2)                                                         (docs/theory.md eq. 28)

Must not know where the sums come from, nor how a dissimilarity is defined or minimised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gonio.kernels import shells as kernels
from gonio.kernels.shells import MAX_CHANCE, MAX_CORRELATION


@dataclass(frozen=True)
class ExpectedFsc:
    """The expected FSC and powers of two inputs at their right pose, in shells 0..s-1 that are one over the box wide.

    ``correlation`` is their FSC (0 to 1), ``target_power`` and ``reference_power`` the mean squares of their samples,
    ``chance`` the correlation of a wrong pose, which for compact particles is well above zero in the lowest shells,
    each of shape (s,). ``contrast`` is the factor by which the reference fits the target best. ``box_angstrom`` is the
    edge of that box, where particles of several boxes may share these values: shell k is at frequency k over it.
    """

    correlation: NDArray[np.float64]
    target_power: NDArray[np.float64]
    reference_power: NDArray[np.float64]
    chance: NDArray[np.float64]
    contrast: float = 1.0
    box_angstrom: float | None = None

    def __post_init__(self) -> None:
        shapes = {np.shape(one) for one in (self.correlation, self.target_power, self.reference_power, self.chance)}
        if len(shapes) != 1 or len(shapes.pop()) != 1:
            raise ValueError("correlation, powers and chance must be values of the same shells, (s,)")

    def __repr__(self) -> str:
        curve = ", ".join(f"{value:.2f}" for value in self.correlation)
        return f"ExpectedFsc(correlation {curve}; contrast {self.contrast:.3g})"

    @staticmethod
    def of_sums(
        sums: NDArray[np.float64], chance: NDArray[np.float64], c_ref: NDArray[np.float64] | None = None
    ) -> ExpectedFsc:
        """Estimate from |f|^2, |g|^2, f.g and |Omega| of each shell, shape (s, 4), at the best pose known.

        The FSC is a monotonically falling fit, weighted by the samples of a shell, and zero beyond the last shell where
        it reaches its own standard deviation, 1 / sqrt(2 n). ``chance`` (s,) is the correlation of wrong poses;
        ``c_ref`` (s,) is an upper bound, such as the correlation of the reference with the truth.
        """
        table = np.empty((len(sums), 4))
        bound = np.full(len(sums), np.inf) if c_ref is None else np.ascontiguousarray(c_ref, dtype=np.float64)
        contrast = kernels.expected(np.ascontiguousarray(sums), np.ascontiguousarray(chance), bound, table)
        return ExpectedFsc.of_table(table, contrast)

    @staticmethod
    def of_table(table: NDArray[np.float64], contrast: float) -> ExpectedFsc:
        """Return the expected FSC from a table of ``kernels.shells``, (s, 4)."""
        rho, target_power, reference_power, chance = table.T
        return ExpectedFsc(rho, target_power, reference_power, chance, contrast)

    @cached_property
    def table(self) -> NDArray[np.float64]:
        """The table that kernels take, (s, 4)."""
        columns = self.correlation, self.target_power, self.reference_power, self.chance
        return np.stack(columns, axis=1).astype(np.float64)

    @staticmethod
    def of_shares(
        target_fraction: NDArray[np.float64],
        reference_fraction: NDArray[np.float64],
        target_power: NDArray[np.float64],
        reference_power: NDArray[np.float64],
    ) -> ExpectedFsc:
        """Estimate before any pose is known, from the fractions of signal in the shells, (s,): rho = sqrt(a_f a_g)."""
        rho = np.clip(np.sqrt(target_fraction * reference_fraction), 0.0, MAX_CORRELATION)
        contrast = np.sqrt((rho @ target_power) / max(float(rho @ reference_power), 1e-300))
        return ExpectedFsc(rho, target_power, reference_power, np.zeros(len(rho)), float(contrast) or 1.0)

    @staticmethod
    def mean(many: Sequence[ExpectedFsc]) -> ExpectedFsc | None:
        """Return the mean over many pairs of particles of one structure, in the box of the first; None for no pair.

        The contrast is the median: for FCS, which compares values, the particles must be on one scale.
        """
        if not many:
            return None
        box = many[0].box_angstrom
        larger = [1.0 if box is None or e.box_angstrom is None else box / e.box_angstrom for e in many]
        shells = min(int((len(e.correlation) - 1) * by + 1e-9) + 1 for e, by in zip(many, larger, strict=True))
        curves = [e.in_shells(box, shells).table.T for e in many]  # (m, 4, s)
        rho, target_power, reference_power, chance = np.mean(curves, axis=0)
        contrast = float(np.median([e.contrast for e in many]))
        return ExpectedFsc(rho, target_power, reference_power, chance, contrast, box)

    def in_shells(self, box_angstrom: float | None, shells: int, *, own: float | None = None) -> ExpectedFsc:
        """Return the values at the frequencies of ``shells`` shells of a box of another edge, or of the same if None.

        ``own`` is the edge of the box of values that do not state it; without it that is the other's.
        """
        own = self.box_angstrom or own or box_angstrom or 1.0
        if len(self.correlation) == shells and box_angstrom == self.box_angstrom:
            return self
        frequency, known = np.arange(shells) / (box_angstrom or own), np.arange(len(self.correlation)) / own
        rho, target_power, reference_power, chance = (np.interp(frequency, known, one) for one in self.table.T)
        return ExpectedFsc(rho, target_power, reference_power, chance, self.contrast, box_angstrom)

    @property
    def shared_power(self) -> float:
        """Mean of rho, weighted by the target's power."""
        return float(self.correlation @ self.target_power / max(float(self.target_power.sum()), 1e-300))

    def raised(self, power: float) -> ExpectedFsc:
        """Return a copy with rho raised to a power."""
        return replace(self, correlation=np.minimum(self.correlation**power, MAX_CORRELATION))

    def above(self, chance: NDArray[np.float64]) -> ExpectedFsc:
        """Return a copy with another chance correlation, (s,), limited to ``MAX_CHANCE`` of rho."""
        return replace(self, chance=np.clip(chance, 0.0, MAX_CHANCE * self.correlation))


def stretched(values: NDArray[np.float64], fraction: float, shells: int) -> NDArray[np.float64]:
    """Interpolate values of shells (s,) to ``shells`` shells of a box that is ``fraction`` times as large."""
    return np.interp(np.arange(shells) / fraction, np.arange(len(values)), values)


def chance_correlation(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median correlation of each shell, (s,), over poses that are mostly wrong, from sums (p, s, 4)."""
    chance = np.empty(sums.shape[1])
    kernels.chance_correlations(np.ascontiguousarray(sums), chance)
    return chance


def shell_weight(correlation: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return rho / (1 - rho^2) of each shell, (s,), eq. 28."""
    return np.array([kernels.shell_weight(float(rho)) for rho in correlation])
