"""How much classes differ: the agreement of halves within two classes, and between them.

Flow: the averages of two classes -> the second aligned to the first -> FSC of the halves of either, f1 and f2, and of a
half of one with the other half of the other, f12 -> how alike they are, up to the detail that both classes have:

    likeness = sum_s n_s f12 / sum_s n_s sqrt(f1 f2)          1 for one particle, whatever the noise; n_s samples

Must not judge: what follows is ``gonio.report.verdict``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from gonio.alignment.aligner import Aligner
from gonio.averaging.averages import Average
from gonio.averaging.resolution import FSC_HALVES
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, half_shells
from gonio.particle.volume import Subtomogram, Volume, masked_volume
from gonio.preparation.extent import sphere_diameter_angstrom
from gonio.run.executor import Executor
from gonio.settings import GlobalSearch, Settings

# Shells that both classes must have: fewer tell no particle from another.
LEAST_SHELLS = 2


def likeness_of_classes(
    averages: Mapping[int, Average], settings: Settings, *, executor: Executor
) -> dict[tuple[int, int], float | None]:
    """Return how alike any two classes are that have halves, 0 to 1; None where these agree in too few shells."""
    halved = {one: made for one, made in averages.items() if made.halves is not None}
    pairs = list(combinations(halved, 2))
    task = _Likeness([(halved[one], halved[two]) for one, two in pairs], settings)
    found = executor("likeness of classes", task, len(pairs))
    return dict(zip(pairs, (None if np.isnan(value) else value for value in found), strict=True))


@dataclass(frozen=True)
class _Likeness:
    """Called with a pair's number, returns its likeness, NaN where there is none."""

    pairs: Sequence[tuple[Average, Average]]
    settings: Settings

    def __call__(self, item: int) -> float:
        one, two = self.pairs[item]
        assert one.halves is not None and two.halves is not None  # only such are paired
        settings = replace(self.settings, search=GlobalSearch(), symmetry="C1")
        pose = Aligner(two.volume, settings).align(Subtomogram(one.volume), rng=np.random.default_rng(0)).pose
        diameter = sphere_diameter_angstrom(one.volume)
        first = [masked_volume(half, diameter) for half in one.halves]
        turned = (moved(half, pose.matrix, pose.shift_angstrom) for half in two.halves)
        return _likeness(first, [masked_volume(half, diameter) for half in turned])


def _likeness(first: Sequence[Volume], second: Sequence[Volume]) -> float:
    fsc = fourier_shell_correlation
    one, two = fsc(first[0], first[1]), fsc(second[0], second[1])
    below = np.flatnonzero(np.minimum(one, two)[1:] < FSC_HALVES)
    shown = slice(1, 1 + int(below[0]) if len(below) else len(one))
    shells, times = half_shells(first[0].box)
    weight = np.bincount(shells, weights=times)[: len(one)][shown]
    if len(weight) < LEAST_SHELLS:
        return float("nan")
    between = 0.5 * (fsc(first[0], second[1]) + fsc(first[1], second[0]))[shown]
    return float(np.clip(weight @ between / (weight @ np.sqrt(one * two)[shown]), 0.0, 1.0))
