"""The pool of candidates keeps the paper's rules: eq. 11 draws, eq. 12 removes, a regression stops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonio.kernels import pool
from gonio.particle.pose import Pose
from gonio.search import levenberg_marquardt as lm
from gonio.search.objective import pack, signature
from gonio.search.stochastic import refine_all, refine_stochastically
from gonio.settings import Schedule
from oracle import candidate_distance
from oracle import draw_probabilities as literal_probabilities

SCHEDULE = Schedule()


def bowls(centres, depths) -> lm.Problem:
    """Several minima in the plane, d = 1 + depth + |x - centre|^2 in the cell of the nearest centre."""
    centres, depths = np.asarray(centres, dtype=float), np.asarray(depths, dtype=float)

    def model(points):
        nearest = ((points[:, None] - centres) ** 2).sum(axis=-1).argmin(axis=1)
        away = points - centres[nearest]
        hessian = np.broadcast_to(np.eye(2), (len(points), 2, 2)).copy()
        return 1.0 + depths[nearest] + (away**2).sum(axis=1), hessian, -away

    return lm.Problem(model, lambda x, s: x + s, lambda s: np.linalg.norm(s, axis=1), 1e-6)


CENTRES = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0]])
PROBLEM = bowls(CENTRES, [0.5, 0.3, 0.9, 0.0])
SEEDS = np.random.default_rng(3).uniform(-3, 11, (30, 2))


def search(problem=PROBLEM, seeds=SEEDS, *, seed=0, schedule=SCHEDULE, record=True):
    """A stochastic refinement whose points are their own signature."""
    rng = np.random.default_rng(seed)
    return refine_stochastically(problem, seeds, schedule=schedule, signature=lambda x: x, rng=rng, record=record)


def draw_probabilities(d, t):
    """Eq. 11, in the order of the candidates."""
    probabilities = np.empty(len(d))
    pool.draw_probabilities(d, t, probabilities)
    return probabilities


dissimilarities = st.lists(st.floats(1e-3, 4.0), min_size=2, max_size=40)


@given(dissimilarities, st.floats(0.1, 4.0))
def test_candidates_are_drawn_by_eq_11(d, t):
    d = np.array(d)
    ours, literal = draw_probabilities(d, t), literal_probabilities(d, t)
    # Forty factors of up to 4e3, each rounded in its logarithm.
    np.testing.assert_allclose(ours, literal, rtol=1e-10)
    assert ours.sum() == pytest.approx(1.0)
    assert ours.max() / ours.min() >= 10**t * (1 - 1e-9)  # p_m / p_1


def test_equal_candidates_still_differ_by_rank():
    p = np.sort(draw_probabilities(np.full(11, 0.7), 2.0))
    np.testing.assert_allclose(p[1:] / p[:-1], 10**0.2)


@pytest.mark.parametrize(
    "d, expected",
    [
        ([0.5], [1.0]),
        ([1.0, 0.0], [0.0, 1.0]),  # a perfect fit is drawn for certain
        ([1.0, np.inf], [1.0, 0.0]),  # what cannot be compared is never drawn
        ([np.nan, 2.0], [0.0, 1.0]),
        ([np.inf, np.inf], [0.5, 0.5]),
    ],
)
def test_drawing_survives_zeros_and_infinities(d, expected):
    np.testing.assert_allclose(draw_probabilities(np.array(d), 2.0), expected, atol=2e-300)


def test_two_perfect_fits_differ_by_rank_only():
    p = draw_probabilities(np.array([0.0, 3.0, 0.0]), 2.0)
    assert p[1] < 1e-300
    np.testing.assert_allclose(sorted(p[[0, 2]]), [1 / 11, 10 / 11])


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=80))
def test_the_regression_is_that_of_least_squares(values):
    values = np.array(values)
    expected = np.polyfit(np.arange(len(values)), values, 1)[0]
    assert pool.regression_slope(values) == pytest.approx(expected, abs=1e-10)


def test_signatures_are_as_far_apart_as_eq_12_says(rng):
    poses, voxel = Pose.random(6, rng=rng, max_shift_angstrom=30.0), 10.0
    signatures = signature(pack(poses.matrix, poses.shift_angstrom), voxel)
    shifts = poses.shift_angstrom / voxel
    for j in range(6):
        for k in range(j):
            literal = candidate_distance(poses.matrix[j], shifts[j], poses.matrix[k], shifts[k])
            assert np.linalg.norm(signatures[j] - signatures[k]) == pytest.approx(literal)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_two_duplicates_the_worse_goes(order):
    seeds = np.array([[0.3, 0.0], [0.5, 0.0], [8.5, 0.0]])[list(order)]
    outcome = search(seeds=seeds, schedule=replace(SCHEDULE, max_iterations=1, duplicate_distance=0.25))
    survivors = outcome.state.points
    assert len(survivors) == 2  # 0.2 apart: the farther from the minimum went before anything was refined
    assert outcome.iterations == 1


def test_survivors_are_farther_apart_than_gamma():
    points = search().state.points
    distance = np.linalg.norm(points[:, None] - points, axis=-1) + 10 * np.eye(len(points))
    assert distance.min() > SCHEDULE.duplicate_distance
    assert len(points) < len(SEEDS)


def test_the_best_minimum_is_found_and_comes_first():
    outcome = search()
    np.testing.assert_allclose(outcome.state.points[0], CENTRES[3], atol=1e-5)
    assert outcome.state.status[0].ok
    assert (np.diff(outcome.state.dissimilarity) >= 0).all()
    assert not any(status is lm.Status.RUNNING for status in outcome.state.status)


@given(st.integers(0, 10**6))
def test_history_never_rises_and_counts_every_step(seed):
    outcome = search(seed=seed)
    assert (np.diff(outcome.history) <= 0).all()
    assert len(outcome.history) == len(outcome.best_points)
    values = PROBLEM.model(outcome.best_points)[0]
    np.testing.assert_array_equal(outcome.history, values)
    # Steps of candidates that were removed later count too.
    assert outcome.iterations <= len(outcome.history)


def test_every_step_is_counted():
    calls = []

    def model(points):
        calls.append(len(points))
        return PROBLEM.model(points)

    outcome = search(replace(PROBLEM, model=model))
    assert outcome.iterations == len(outcome.history) == sum(calls) - len(SEEDS)


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """The candidates that are drawn, in turn."""
    rows, draw = [], pool.draw

    def watched(*arguments) -> int:
        rows.append(draw(*arguments))
        return rows[-1]

    monkeypatch.setattr(pool, "draw", watched)
    return rows


def creeping(rate: float) -> lm.Problem:
    """d = 1 - rate x, and every step is one long: the smallest dissimilarity falls by ``rate`` at each, for ever."""

    def model(points):
        return 1.0 - rate * points[:, 0], np.ones((len(points), 1, 1)), np.ones((len(points), 1))

    return lm.Problem(model, lambda x, s: x + 1.0, lambda s: np.ones(len(s)), 1e-6)


@pytest.mark.parametrize("rate", [0.9e-3, 1.1e-3])
def test_the_search_stops_by_the_regression(rate, rng, drawn):
    schedule = Schedule(regression_tolerance=1e-3, regression_window=20, max_iterations=100)
    outcome = refine_stochastically(
        creeping(rate), np.zeros((1, 1)), schedule=schedule, signature=lambda x: x, rng=rng, record=True
    )
    # The rule looks for the first time when its window is full. Then the best is refined, which here never ends.
    assert len(drawn) == (20 if rate < 1e-3 else 100)
    assert len(outcome.history) == 100
    assert pool.regression_slope(outcome.history[:20] / outcome.history[0]) == pytest.approx(-rate / outcome.history[0])


def test_a_search_at_rest_stops_after_one_window(rng, drawn):
    """A plane of one value: nothing falls, so the first full window ends the drawing, and then the best stalls."""

    def model(points):
        hessian = np.broadcast_to(np.eye(2), (len(points), 2, 2)).copy()
        return np.ones(len(points)), hessian, np.full((len(points), 2), 1e-3)

    schedule = replace(SCHEDULE, regression_window=25, max_iterations=400)
    problem = replace(PROBLEM, model=model, tolerance=1e-30)
    seeds = np.arange(200.0).reshape(100, 2)
    outcome = refine_stochastically(problem, seeds, schedule=schedule, signature=lambda x: x, rng=rng)
    assert len(drawn) == 25
    assert outcome.state.status[0] is lm.Status.STALLED


def test_the_same_seed_gives_the_same_bits():
    first, second, other = search(seed=5), search(seed=5), search(seed=6)
    np.testing.assert_array_equal(first.state.points, second.state.points)
    np.testing.assert_array_equal(first.history, second.history)
    assert len(other.history) != len(first.history) or (other.history != first.history).any()


def test_n_max_iter_is_kept():
    outcome = search(schedule=replace(SCHEDULE, max_iterations=7))
    assert outcome.iterations == len(outcome.history) == 7
    assert outcome.state.status[0] in (lm.Status.MAX_ITERATIONS, lm.Status.CONVERGED)


def test_nothing_is_recorded_unless_asked():
    assert search(record=False).best_points is None


def test_independent_refinement_counts_every_iteration():
    outcome = refine_all(PROBLEM, SEEDS, max_iterations=50)
    alone = [lm.minimise(PROBLEM, seed[None], max_iterations=50).iterations[0] for seed in SEEDS]
    assert outcome.iterations == sum(alone)
    assert len(outcome.state) == len(SEEDS)
    np.testing.assert_allclose(outcome.state.points[0], CENTRES[3], atol=1e-5)
    assert (np.diff(outcome.history) <= 0).all()


def test_the_stochastic_search_takes_fewer_iterations():
    """The point of section 2.3 of the paper: many seeds, few refinements."""
    seeds = np.random.default_rng(0).uniform(-3, 11, (300, 2))
    assert search(seeds=seeds).iterations < 0.5 * refine_all(PROBLEM, seeds, max_iterations=50).iterations


@pytest.mark.parametrize("which", ["all", "some"])
def test_seeds_that_cannot_be_compared_are_left_alone(which):
    def model(points):
        d, hessian, descent = PROBLEM.model(points)
        blind = points[:, 0] < (1e9 if which == "all" else 4.0)
        return np.where(blind, np.inf, d), hessian, descent

    outcome = search(replace(PROBLEM, model=model))
    if which == "all":
        assert len(outcome.state) == len(SEEDS) and outcome.iterations == 0
        assert set(outcome.state.status) == {lm.Status.NO_OVERLAP}
        assert len(outcome.history) == 0 and np.isinf(outcome.state.dissimilarity).all()
    else:
        np.testing.assert_allclose(outcome.state.points[0], CENTRES[3], atol=1e-5)
        assert (outcome.state.points[:, 0] >= 4.0).all()
