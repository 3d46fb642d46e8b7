"""What is expected of a pair obeys the laws of a correlation that falls with frequency."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import isotonic_regression

from gonio.comparison.expected_fsc import ExpectedFsc, chance_correlation, shell_weight
from gonio.kernels import shells
from gonio.kernels.shells import MAX_CHANCE, MAX_CORRELATION

SHELLS = 9
ROUNDING = 1e-12  # a few double-precision operations on numbers up to 1
COUNTS = 2.0 * np.pi * np.arange(SHELLS) ** 2  # samples of half a shell

correlations = arrays(float, SHELLS, elements=st.floats(-1.0, 1.0))
fractions = arrays(float, SHELLS, elements=st.floats(0.0, 1.0))
powers = arrays(float, SHELLS, elements=st.floats(0.1, 10.0))


def sums(correlation, ff, gg, count=COUNTS) -> np.ndarray:
    """|f|^2, |g|^2, f.g, |Omega| of shells with these correlations and mean squares."""
    ff, gg = ff * count, gg * count
    return np.stack([ff, gg, correlation * np.sqrt(ff * gg), count], axis=-1)


def assert_lawful(e: ExpectedFsc) -> None:
    """0 <= chance <= MAX_CHANCE rho, rho <= MAX_CORRELATION, positive powers and contrast, all finite."""
    assert ((e.correlation >= 0) & (e.correlation <= MAX_CORRELATION)).all()
    assert ((e.chance >= 0) & (e.chance <= MAX_CHANCE * e.correlation + ROUNDING)).all()
    assert (e.target_power > 0).all() and (e.reference_power > 0).all()
    assert np.isfinite(e.contrast) and e.contrast > 0


def expected_fsc(correlation=None, chance=None, contrast=1.0) -> ExpectedFsc:
    """Of one falling curve."""
    rho = 0.9 * np.exp(-np.arange(SHELLS) / 4.0) if correlation is None else correlation
    chance = 0.4 * rho if chance is None else chance
    return ExpectedFsc(rho, np.full(SHELLS, 2.0), np.full(SHELLS, 3.0), chance, contrast)


@given(correlations, powers, powers, fractions)
def test_it_falls_and_stays_within_bounds(correlation, ff, gg, chance):
    e = ExpectedFsc.of_sums(sums(correlation, ff, gg), chance)
    assert_lawful(e)
    # Where it is below its own standard deviation it counts as zero, which is large in the lowest shells.
    assert (np.diff(e.correlation[e.correlation > 0]) <= ROUNDING).all()
    np.testing.assert_allclose(e.target_power[1:], ff[1:])  # shell 0 holds no sample and is as shell 1
    assert e.target_power[0] == pytest.approx(ff[1])


def test_a_falling_correlation_is_found_as_it_is():
    rho = np.linspace(0.95, 0.5, SHELLS)
    e = ExpectedFsc.of_sums(sums(rho, np.full(SHELLS, 4.0), np.full(SHELLS, 1.0)), np.zeros(SHELLS))
    # Shell 0, without samples, has a weight of 1e-3 in the monotonic fit, next to the 6 samples of shell 1.
    np.testing.assert_allclose(e.correlation[1:], rho[1:], atol=1e-3 / COUNTS[1])
    # f = rho sqrt(P_f / P_g) g + rest: the same in all shells but for rho, between its least and largest.
    assert 2 * rho.min() < e.contrast < 2 * rho.max()


def test_samples_of_a_known_contrast_give_it_back(rng):
    g = rng.normal(size=(SHELLS, 4000))
    f = 2.5 * g + rng.normal(size=g.shape)
    count = np.full(SHELLS, 4000.0)
    table = np.stack([(f**2).sum(1), (g**2).sum(1), (f * g).sum(1), count], axis=-1)
    e = ExpectedFsc.of_sums(table, np.zeros(SHELLS))
    assert e.contrast == pytest.approx(2.5, abs=4 / np.sqrt(SHELLS * 4000))  # four standard deviations of a slope
    np.testing.assert_allclose(e.correlation, 2.5 / np.sqrt(7.25), atol=0.02)


def test_noise_has_nothing_in_common(rng):
    """Below its standard deviation a correlation counts as zero; of pure noise, few first shells are above."""
    weights = []
    for _ in range(200):
        correlation = rng.normal(size=SHELLS) / np.sqrt(2 * np.maximum(COUNTS, 1))
        e = ExpectedFsc.of_sums(sums(np.clip(correlation, -1, 1), np.ones(SHELLS), np.ones(SHELLS)), np.zeros(SHELLS))
        weights.append(e.correlation)
    # From shell 3 on, 57 samples and more: 0 in most, and never more than four standard deviations.
    assert np.median(np.array(weights)[:, 3:], axis=0).max() == 0.0
    assert np.max(weights, axis=0)[3:].max() < 4 / np.sqrt(2 * COUNTS[3])


def test_what_was_not_seen_is_not_expected():
    empty = np.zeros((SHELLS, 4))
    e = ExpectedFsc.of_sums(empty, np.zeros(SHELLS))
    assert not e.correlation.any() and e.contrast == 1.0
    assert_lawful(e)
    part = sums(np.full(SHELLS, 0.8), np.full(SHELLS, 2.0), np.ones(SHELLS))
    part[5:] = 0.0
    assert_lawful(ExpectedFsc.of_sums(part, np.zeros(SHELLS)))


@given(fractions, fractions, powers, powers)
def test_of_fractions_is_their_geometric_mean(target, reference, ff, gg):
    e = ExpectedFsc.of_shares(target, reference, ff, gg)
    assert_lawful(e)
    np.testing.assert_allclose(e.correlation, np.minimum(np.sqrt(target * reference), MAX_CORRELATION), atol=ROUNDING)
    assert not e.chance.any()


def test_the_mean_of_equals_is_itself():
    e = expected_fsc(contrast=1.5)
    mean = ExpectedFsc.mean([e, e, e])
    for name in ("correlation", "target_power", "reference_power", "chance", "contrast"):
        np.testing.assert_allclose(getattr(mean, name), getattr(e, name), rtol=ROUNDING)
    assert ExpectedFsc.mean([]) is None


def test_the_mean_lies_between_and_reaches_as_far_as_the_shortest():
    low, high = expected_fsc(), expected_fsc(np.full(SHELLS, 0.95))
    short = ExpectedFsc(*(v[:5] for v in (low.correlation, low.target_power, low.reference_power, low.chance)))
    mean = ExpectedFsc.mean([low, high, short])
    assert len(mean.correlation) == 5
    assert ((mean.correlation >= low.correlation[:5]) & (mean.correlation <= high.correlation[:5])).all()
    assert_lawful(mean)


def test_the_mean_over_boxes_is_that_at_each_frequency():
    """Shells are one over the box wide: shell 2 of a box of 320 angstrom is shell 4 of one of 640."""
    shells = np.arange(9.0)
    small = ExpectedFsc(0.9 - 0.1 * shells, 100.0 - shells, 50.0 - shells, 0.1 - 0.01 * shells, box_angstrom=320.0)
    large = small.in_shells(640.0, 17)
    for many in ([small, large], [large, small]):
        mean, first = ExpectedFsc.mean(many), many[0]
        assert mean.box_angstrom == first.box_angstrom
        np.testing.assert_allclose(mean.table, first.table, rtol=ROUNDING)


@given(correlations, powers, powers, fractions, fractions)
def test_nothing_is_expected_above_a_c_ref(correlation, ff, gg, chance, c_ref):
    seen = sums(correlation, ff, gg)
    free, under = ExpectedFsc.of_sums(seen, chance), ExpectedFsc.of_sums(seen, chance, c_ref)
    assert_lawful(under)
    np.testing.assert_array_equal(under.correlation, np.minimum(free.correlation, c_ref))
    np.testing.assert_array_equal(under.target_power, free.target_power)
    assert under.contrast == free.contrast
    assert not ExpectedFsc.of_sums(seen, chance, np.full(SHELLS, -0.3)).correlation.any()


@given(correlations, st.lists(st.just(0.0) | st.floats(1e-3, 400.0), min_size=SHELLS, max_size=SHELLS).map(np.array))
def test_the_fit_that_falls_is_that_of_scipy(correlation, count):
    """Weighted by the samples of a shell; those without any have next to no weight."""
    table = np.empty((SHELLS, 4))
    seen = np.stack([count, count, correlation * count, count], axis=1)
    shells._falling(seen, table)
    raw = np.where(count > 0, correlation, 0.0)
    fit = isotonic_regression(raw, weights=np.maximum(count, 1e-3), increasing=False).x
    np.testing.assert_allclose(table[:, shells.RHO], fit, atol=1e-9)


@given(fractions)
def test_a_wrong_pose_agrees_less_than_the_right_one(chance):
    over = expected_fsc().above(chance)
    assert_lawful(over)
    np.testing.assert_allclose(over.chance, np.minimum(chance, MAX_CHANCE * over.correlation))


def test_between_shells_it_is_linear():
    table = expected_fsc().table
    for column in range(4):
        found = [shells.at(table, column, radius) for radius in (2.0, 2.5, 3.0, 99.0)]
        values = table[:, column]
        assert found == pytest.approx([values[2], values[2:4].mean(), values[3], values[-1]])


def test_chance_correlation_is_the_median_of_poses_and_never_negative():
    rows = np.stack([sums(np.full(SHELLS, c), np.full(SHELLS, 2.0), np.ones(SHELLS)) for c in (0.1, 0.2, 0.9)])
    found = chance_correlation(rows)
    np.testing.assert_allclose(found[1:], 0.2)
    assert found[0] == 0.0  # nothing was seen there
    np.testing.assert_array_equal(chance_correlation(rows * [1, 1, -1, 1]), 0.0)


@given(st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_weight_grows_with_the_correlation(one, other):
    low, high = shell_weight(np.array([min(one, other), max(one, other)]))
    assert 0.0 <= low <= high
    assert shell_weight(np.array([0.5])) == pytest.approx(2 / 3)
