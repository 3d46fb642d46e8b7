"""Two particles as samples, ready to be compared: the output of preparation and the input of a search."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.score import CODES, SCORES, Comparison, Score, weighted
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import shells


@dataclass(frozen=True)
class Pair:
    """Two particles as samples, ready to be compared.

    ``samples_per_independent`` is the number of samples for each independent one, which the particle's support
    determines; ``c_ref`` the correlation of the reference with the truth, shell by shell (s,), where that is known;
    ``before`` the expected FSC before any pose is known, or None. ``exact`` is true where the target's weights are one
    over the power of its noise, and the reference is noise-free without a missing wedge: RCS is then the likelihood at
    the best contrast (docs/theory.md eq. 32), and needs no expected FSC. ``diameter_angstrom`` is that of the sphere
    that holds the target, where it was estimated.
    """

    target: Spectrum
    reference: FourierVolume
    samples_per_independent: float = 1.0
    c_ref: NDArray[np.float64] | None = None
    before: ExpectedFsc | None = None
    exact: bool = False
    diameter_angstrom: float | None = None
    _plain: dict[tuple[Score, float | None], Comparison] = field(default_factory=dict, compare=False, repr=False)

    def plain(self, score: Score, limit: float | None = None) -> Comparison:
        """Return the comparison with the target's own weights: equal, or noise-weighted where the pair is exact."""
        limit = None if limit is not None and limit >= self.target.limit else limit
        if (score, limit) not in self._plain:
            target = self.target if limit is None else self.target.below(limit)
            self._plain[score, limit] = Comparison(target, self.reference, score=score)
        return self._plain[score, limit]

    def filtered(self, score: Score, expected_fsc: ExpectedFsc | None, limit: float | None = None) -> Comparison:
        """Return the comparison weighted by the expected FSC; the likelihood ratio has its own weights.

        Where nothing is expected, it is by RCS with the target's own weights.
        """
        informed = expected_fsc is not None and bool(expected_fsc.correlation.any())
        rule, code = shells.weighting(CODES[score], self.exact, informed)
        if rule == shells.ALIKE or expected_fsc is None:
            return self.plain(SCORES[code], limit)
        target = self.target if limit is None else self.target.below(limit)
        if rule == shells.AS_LIKELIHOOD:
            return Comparison(target, self.reference, score=score, expected_fsc=expected_fsc)
        return Comparison(weighted(target, expected_fsc), self.reference, score=score)
