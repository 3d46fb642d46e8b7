"""Levenberg-Marquardt on problems whose answers are known: quadratics, Rosenbrock's valley, and models that lie."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonio.kernels.marquardt import MIN_DAMPING
from gonio.search import levenberg_marquardt as lm
from gonio.search.levenberg_marquardt import Problem, Status


def plain(model, *, tolerance=1e-8) -> Problem:
    """A problem in flat space."""
    return Problem(model, lambda points, steps: points + steps, lambda steps: np.linalg.norm(steps, axis=1), tolerance)


def least_squares(residuals, jacobian):
    """The model of d = |r|^2: H = J^T J, b = -J^T r."""

    def model(points):
        r = np.stack([residuals(x) for x in points])
        jac = np.stack([jacobian(x) for x in points])
        return (r**2).sum(axis=1), np.einsum("pri,prj->pij", jac, jac), -np.einsum("pri,pr->pi", jac, r)

    return model


def quadratic(hessian, bottom):
    """d = (x - m)^T H (x - m)."""
    root = np.linalg.cholesky(hessian).T
    return least_squares(lambda x: root @ (x - bottom), lambda x: root)


VALLEY = least_squares(
    lambda x: np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]), lambda x: np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])
)
HESSIAN = np.array([[3.0, 1.0, 0.2], [1.0, 2.0, -0.3], [0.2, -0.3, 1.5]])
BOTTOM = np.array([1.0, -2.0, 0.5])


def test_a_quadratic_takes_as_many_steps_as_its_damping_allows():
    """A step leaves (H + l D)^-1 l D of the error, below l / (l + mu), mu the least eigenvalue of H by D."""
    tolerance = 1e-8
    scaled = HESSIAN / np.sqrt(np.outer(np.diag(HESSIAN), np.diag(HESSIAN)))
    least = np.linalg.eigvalsh(scaled).min()
    error, damping, expected = np.linalg.norm(BOTTOM) * np.linalg.cond(HESSIAN), lm.FIRST_DAMPING, 1
    while error > tolerance:  # the step that finds the rest below the tolerance is one more
        error, damping, expected = error * damping / (damping + least), damping / 3, expected + 1
    state = lm.minimise(plain(quadratic(HESSIAN, BOTTOM), tolerance=tolerance), np.zeros((1, 3)), max_iterations=50)
    assert state.status[0].ok
    assert 3 <= state.iterations[0] <= expected
    np.testing.assert_allclose(state.points[0], BOTTOM, atol=tolerance)


def test_rosenbrocks_valley_is_followed_to_its_end():
    state = lm.minimise(plain(VALLEY), np.array([[-1.2, 1.0], [3.0, -4.0]]), max_iterations=200)
    assert all(status.ok for status in state.status)
    np.testing.assert_allclose(state.points, np.ones((2, 2)), atol=1e-6)
    assert (state.iterations < 100).all()


@given(st.integers(0, 10**6))
def test_only_decreases_are_accepted(seed):
    rng = np.random.default_rng(seed)
    problem = plain(VALLEY)
    state = lm.start(problem, rng.normal(scale=3.0, size=(3, 2)))
    for _ in range(25):
        before, points = state.dissimilarity.copy(), state.points.copy()
        lm.step(problem, state, np.arange(3))
        stayed = (state.points == points).all(axis=1)
        assert (state.dissimilarity <= before).all()
        assert (stayed | (state.dissimilarity < before)).all()
        np.testing.assert_array_equal(state.dissimilarity, VALLEY(state.points)[0])


def test_damping_follows_the_gain_ratio():
    """Nielsen 1999, eq. 2.4: max(1/3, 1 - (2 rho - 1)^3) when accepted; nu, doubled each time, when not."""
    start, problem = np.array([[-1.2, 1.0]]), plain(VALLEY)
    state = lm.start(problem, start)
    accepted, rejected = 0, 0
    for _ in range(30):
        damping, growth = state.damping[0], state.growth[0]
        d, hessian, descent = (array[0] for array in VALLEY(state.points))
        step = np.linalg.solve(hessian + damping * np.diag(np.diag(hessian)), descent)
        after = VALLEY(state.points + step)[0][0]
        lm.step(problem, state, np.array([0]))
        if after < d:
            rho = (d - after) / (2 * descent @ step - step @ hessian @ step)
            expected, expected_growth = damping * max(1 / 3, 1 - (2 * rho - 1) ** 3), 2.0
            accepted += 1
        else:
            expected, expected_growth = damping * growth, 2 * growth
            rejected += 1
        assert state.damping[0] == pytest.approx(max(expected, MIN_DAMPING), rel=1e-6)
        assert state.growth[0] == expected_growth
        if state.status[0] is not Status.RUNNING:
            break
    assert accepted > 5 and rejected > 0


def test_a_batch_is_its_singles_bit_for_bit(rng):
    starts = rng.normal(scale=2.0, size=(7, 2))
    problem = plain(VALLEY)
    together = lm.minimise(problem, starts, max_iterations=40)
    for i in range(len(starts)):
        alone = lm.minimise(problem, starts[i : i + 1], max_iterations=40)
        for name in ("points", "dissimilarity", "hessian", "descent", "damping", "status", "iterations"):
            np.testing.assert_array_equal(getattr(together, name)[i], getattr(alone, name)[0], err_msg=name)


@pytest.mark.parametrize("kind", ["nothing moves", "indefinite"])
def test_a_singular_neighbour_changes_nothing(kind):
    damped = 1.0 + lm.FIRST_DAMPING
    # With its first damping added, the second matrix is exactly singular.
    singular = np.zeros((3, 3)) if kind == "nothing moves" else np.array([[1, damped, 0], [damped, 1, 0], [0, 0, 1.0]])

    def model(points):
        d, hessian, descent = quadratic(HESSIAN, BOTTOM)(points)
        hessian[points[:, 0] > 50] = singular
        descent[points[:, 0] > 50] = singular.sum(axis=0)
        return d, hessian, descent

    state = lm.minimise(plain(model), np.array([[99.0, 0, 0], [0.0, 0, 0]]), max_iterations=200)
    alone = lm.minimise(plain(model), np.zeros((1, 3)), max_iterations=200)
    assert np.isfinite(state.points).all()
    assert (state.status[0] is Status.SINGULAR) == (kind == "nothing moves")
    np.testing.assert_array_equal(state.points[1], alone.points[0])


def test_a_direction_that_moves_nothing_stays_where_it_is():
    flat = np.diag([2.0, 0.0, 1.0])
    model = least_squares(lambda x: np.sqrt(flat) @ (x - BOTTOM), lambda x: np.sqrt(flat))
    state = lm.minimise(plain(model), np.array([[0.0, 7.0, 0.0]]), max_iterations=50)
    assert state.status[0].ok
    np.testing.assert_allclose(state.points[0], [BOTTOM[0], 7.0, BOTTOM[2]], atol=1e-8)


def test_a_rank_one_matrix_is_stepped_along_its_range():
    direction = np.array([1.0, 2.0, -1.0])
    model = least_squares(lambda x: np.array([direction @ x - 3.0]), lambda x: direction[None])
    state = lm.minimise(plain(model), np.zeros((1, 3)), max_iterations=50)
    assert state.status[0].ok
    assert direction @ state.points[0] == pytest.approx(3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", ["dissimilarity", "hessian", "descent"])
@pytest.mark.parametrize("when", ["always", "later"])
def test_a_model_that_is_no_number_ends_in_a_status(bad, what, when):
    def model(points):
        d, hessian, descent = quadratic(HESSIAN, BOTTOM)(points)
        rows = np.ones(len(points), bool) if when == "always" else (points != 0).any(axis=1)
        {"dissimilarity": d, "hessian": hessian, "descent": descent}[what][rows] = bad
        return d, hessian, descent

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = lm.minimise(plain(model), np.zeros((1, 3)), max_iterations=80)
    assert state.status[0] is not Status.RUNNING
    for name in ("points", "hessian", "descent", "damping"):
        assert np.isfinite(getattr(state, name)).all(), name
    assert not np.isnan(state.dissimilarity).any()
    if what == "dissimilarity":
        assert state.status[0] is (Status.NO_OVERLAP if when == "always" else Status.STALLED)
        np.testing.assert_array_equal(state.points, 0.0)
    else:
        assert state.status[0] is Status.SINGULAR


@given(st.integers(0, 10**6), st.integers(-30, 30))
def test_any_symmetric_model_of_any_scale_ends_without_a_warning(seed, power):
    """Models that fit no function at all, and matrices that are not positive."""
    rng = np.random.default_rng(seed)
    scale = 10.0**power

    def model(points):
        matrix = rng.normal(size=(len(points), 4, 4)) * scale
        return rng.normal(size=len(points)) * scale, matrix + matrix.swapaxes(1, 2), rng.normal(size=(len(points), 4))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = lm.minimise(plain(model), np.zeros((3, 4)), max_iterations=30)
    assert np.isfinite(state.points).all() and np.isfinite(state.dissimilarity).all()


def test_no_problems_are_no_problem():
    state = lm.minimise(plain(valley_or_none), np.zeros((0, 2)), max_iterations=10)
    assert len(state) == 0


def valley_or_none(points):
    """Rosenbrock's model for any number of points, also none."""
    return VALLEY(points) if len(points) else (np.zeros(0), np.zeros((0, 2, 2)), np.zeros((0, 2)))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_iterations_end_where_they_must(most):
    state = lm.minimise(plain(VALLEY), np.array([[-1.2, 1.0], [1.0, 1.0]]), max_iterations=most)
    assert state.status[0] is Status.MAX_ITERATIONS
    assert state.iterations[0] == most
    # The second starts in the minimum: no step lowers it.
    assert state.status[1] is Status.STALLED and state.iterations[1] == 1


def test_iterations_count_steps_tried():
    calls = []

    def model(points):
        calls.append(len(points))
        return VALLEY(points)

    state = lm.minimise(plain(model), np.array([[-1.2, 1.0], [0.5, 0.5]]), max_iterations=100)
    assert sum(calls) == state.iterations.sum() + 2  # one model each before the first step


def test_every_status_has_a_sentence():
    sentences = [status.sentence for status in Status]
    assert all(len(sentence) > 10 for sentence in sentences)
    assert len(set(sentences)) == len(sentences)
    assert {status for status in Status if status.ok} == {Status.CONVERGED, Status.STALLED}


@pytest.mark.parametrize("known", [True, False])
def test_steps_that_values_do_not_tell_follow_the_gradient(known):
    """Of a parabola whose values are wrong by up to 1e-6: all to its middle where the noise is said, else not all."""
    curvature, middle, size = np.diag([1.0, 3.0]), np.array([0.3, -0.2]), 1e-6

    def model(points):
        away = points - middle
        value = ((away @ curvature) * away).sum(axis=1) + size * np.sin(1e7 * points.sum(axis=1))
        return value, np.tile(curvature, (len(points), 1, 1)), -away @ curvature

    problem = lm.Problem(
        model,
        retract=lambda points, steps: points + steps,
        length=lambda steps: np.linalg.norm(steps, axis=1),
        tolerance=1e-4,
        noise=(lambda points: np.full(len(points), 4.0 * size)) if known else None,
    )
    starts = middle + 5e-4 * np.random.default_rng(0).normal(size=(40, 2))
    state = lm.minimise(problem, starts, max_iterations=50)
    off = np.linalg.norm(state.points - middle, axis=1)
    if known:
        assert off.max() < 1e-5 and all(status is lm.Status.CONVERGED for status in state.status)
    else:
        assert off.max() > 1e-5
