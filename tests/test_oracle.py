"""The oracle earns its trust here: against sums, integrals and objects that move without interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import multivariate_normal

from oracle import (
    MOVED_ERROR,
    Blobs,
    best_shift,
    candidate_distance,
    constrained,
    dft_direct,
    dft_matrix,
    draw_probabilities,
    everything,
    fcs,
    fft_centred,
    frequencies_xyz,
    ifft_centred,
    log_density,
    moved,
    overlap,
    oversampled,
    paper_wedge,
    posterior_mean,
    rcs,
    shifted,
    wedge_and_cut,
)

R = Rotation.from_euler("ZYZ", [40.0, 70.0, -25.0], degrees=True).as_matrix()  # not its own inverse
A = np.array([1.3, -0.6, 0.8])
STILL = np.zeros(3)
boxes = pytest.mark.parametrize("n", [24, 25])


@pytest.mark.parametrize("n", [6, 7])
def test_fft_is_the_sum_that_defines_it(n, rng):
    v = rng.normal(size=(n, n, n))
    np.testing.assert_allclose(fft_centred(v), dft_direct(v), atol=1e-12 * n**3)
    np.testing.assert_allclose(ifft_centred(fft_centred(v)).real, v, atol=1e-12)


@boxes
def test_fft_of_an_object_is_its_fourier_integral(n, blobs):
    exact = blobs.transform(frequencies_xyz(n) / n)
    # Gaussians of 1.4 voxels or more reach past Nyquist with exp(-pi^2 1.4^2 / 2) = 6e-5, most of them with less.
    assert abs(fft_centred(blobs.volume(n)) - exact).max() < 6e-5 * abs(exact).max()


@boxes
def test_oversampling_keeps_the_voxels_and_the_centre(n, rng):
    v = rng.normal(size=(n, n, n))
    fine = oversampled(v, 2)
    first = len(fine) // 2 - 2 * (n // 2)
    kept = slice(first, None, 2)
    np.testing.assert_allclose(fine[kept, kept, kept], v, atol=1e-12)


@boxes
@pytest.mark.parametrize("a", [STILL, A], ids=["turned", "turned and shifted"])
def test_moved_is_exact_within_the_stated_error(n, a, blobs):
    exact = blobs.moved(R, a).volume(n)
    assert abs(moved(blobs.volume(n), R, a) - exact).max() < MOVED_ERROR * exact.max()


def test_moved_puts_the_voxel_along_x_where_the_rotation_sends_x():
    g = np.zeros((9, 9, 9))
    g[4, 4, 7] = 1.0  # at x = +3
    quarter = Rotation.from_euler("z", 90, degrees=True).as_matrix()  # x to y
    turned = moved(g, quarter, np.array([0.0, 0.0, 2.0]))
    assert np.unravel_index(turned.argmax(), g.shape) == (6, 7, 4)  # z = +2, y = +3, x = 0


def test_the_object_has_no_symmetry(blobs):
    v = blobs.volume(24)
    for axis in range(3):
        turn = np.diag(np.where(np.arange(3) == axis, 1.0, -1.0))
        assert rcs(v, v, turn, STILL, everything, everything, 9) > 0.3
    assert rcs(v, blobs.volume(24)[::-1], np.eye(3), STILL, everything, everything, 9) > 0.3


@boxes
def test_true_pose_is_the_zero_of_both_scores(n, blobs):
    f, g = blobs.moved(R, A).volume(n), blobs.volume(n)
    wedges = paper_wedge(60), paper_wedge(40)
    # An error of amplitude e on volumes of norm one costs e^2, and any pose off the truth costs far more.
    size = abs(fft_centred(g)).max()
    assert rcs(f, g, R, A, *wedges, 9) < 1e-7
    assert fcs(f, g, R, A, *wedges, 9) < (1e-4 * size) ** 2
    assert rcs(f, g, R.T, A, *wedges, 9) > 0.1
    assert rcs(f, g, R, -A, *wedges, 9) > 0.1


def test_rcs_is_two_minus_twice_the_correlation_over_omega(blobs):
    f, g = blobs.volume(24), Blobs.random(8).volume(24)
    M_f, M_g = paper_wedge(60), paper_wedge(50)
    omega = overlap(M_f, M_g, R, 24, 9)
    x, y = fft_centred(f)[omega], fft_centred(moved(g, R, A))[omega]
    correlation = np.vdot(x, y).real / np.linalg.norm(x) / np.linalg.norm(y)
    assert rcs(f, g, R, A, M_f, M_g, 9) == pytest.approx(2 - 2 * correlation, abs=1e-12)


def test_scores_are_blind_to_what_the_paper_says(blobs):
    f, g = blobs.volume(24), Blobs.random(8).volume(24)
    rest = (np.eye(3), STILL, paper_wedge(60), paper_wedge(50), 9)
    assert rcs(3 * f + 2, 0.5 * g - 1, *rest) == pytest.approx(rcs(f, g, *rest), abs=1e-12)
    assert fcs(f + 2, g - 1, *rest) == pytest.approx(fcs(f, g, *rest), rel=1e-9)
    assert fcs(3 * f, 3 * g, *rest) == pytest.approx(9 * fcs(f, g, *rest))


@boxes
def test_constrained_volume_is_real_and_keeps_only_omega(n, rng):
    v = rng.normal(size=(n, n, n))
    omega = overlap(paper_wedge(60), paper_wedge(50), R, n, (n - 1) // 2)
    kept = fft_centred(constrained(v, omega))
    assert abs(kept[~omega]).max() < 1e-12 * n**3
    np.testing.assert_allclose(kept[omega], fft_centred(v)[omega], atol=1e-12 * n**3)


def test_overlap_follows_the_rotation():
    # The wedge of g, blind along z, turned by 90 degrees about y is blind along x.
    turn = Rotation.from_euler("y", 90, degrees=True).as_matrix()
    omega = overlap(everything, paper_wedge(60), turn, 16, 7)
    assert not omega[0, 0, 3] and omega[3, 0, 0] and omega[0, 3, 0]  # k along x, z, y
    assert not omega[0, 0, 0]


def test_shifting_moves_the_voxel_by_xyz():
    v = np.zeros((8, 8, 8))
    v[4, 4, 4] = 1.0
    assert shifted(v, (1, -2, 3))[7, 2, 5] == 1.0
    assert shifted(v, (4, 0, 0)).sum() == 0.0


def test_best_shift_finds_the_shift(blobs):
    f = blobs.moved(R, np.array([1.0, -1.0, 0.0])).volume(24)
    shift, score = best_shift(f, blobs.volume(24), R, paper_wedge(60), paper_wedge(60), 9, max_shift=1)
    assert shift == (1, -1, 0)
    assert score < 1e-7


def test_draw_probabilities_by_hand():
    # Ordered 4, 2, 1.9 with t = 0.1: factors max(10^0.05, 2) = 2 and max(10^0.05 = 1.122, 1.053) = 1.122.
    p = draw_probabilities(np.array([1.9, 4.0, 2.0]), 0.1)
    np.testing.assert_allclose(p / p[1], [2 * 10**0.05, 1.0, 2.0])
    assert p.sum() == pytest.approx(1.0)
    assert draw_probabilities(np.array([0.3]), 0.1) == [1.0]


def test_candidate_distance_by_hand():
    # Same rotation: the three columns differ by a each, so sqrt(3) |a|; half a turn about z flips two columns by 2.
    half = np.diag([-1.0, -1.0, 1.0])
    assert candidate_distance(np.eye(3), STILL, np.eye(3), A) == pytest.approx(np.sqrt(3) * np.linalg.norm(A))
    assert candidate_distance(np.eye(3), STILL, half, STILL) == pytest.approx(np.sqrt(8))


def test_the_density_of_a_pair_of_samples_is_that_of_four_real_gaussians(rng):
    """Real and imaginary parts have half the power each, and only like parts are correlated."""
    u, v = rng.normal(size=(2, 5)) + 1j * rng.normal(size=(2, 5))
    rho = 0.7
    block = 0.5 * np.array([[1, rho], [rho, 1]])
    normal = multivariate_normal(np.zeros(4), np.kron(np.eye(2), block))
    four = np.stack([u.real, v.real, u.imag, v.imag], axis=-1)
    np.testing.assert_allclose(log_density(u, v, np.array(rho)), normal.logpdf(four), rtol=1e-12)


@pytest.mark.parametrize("n", [4, 5])
def test_a_box_shows_what_a_filter_of_a_larger_one_leaves_in_it(n, rng):
    v = rng.normal(size=(n, n, n))
    np.testing.assert_allclose(dft_matrix(n) @ v.ravel(), fft_centred(v).ravel(), atol=1e-11)
    wide = np.zeros((2 * n,) * 3)
    inside = (slice(n - n // 2, n - n // 2 + n),) * 3  # centre on centre
    wide[inside] = v
    seen = ifft_centred(fft_centred(wide) * paper_wedge(60)(frequencies_xyz(2 * n))).real[inside]
    matrix = wedge_and_cut(n, paper_wedge(60))
    np.testing.assert_allclose((matrix @ v.ravel()).reshape(v.shape), seen, atol=1e-12)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)


def test_the_posterior_mean_trusts_data_without_noise_and_forgets_data_without_signal(rng):
    n, limit = 6, 2.0
    v = constrained(rng.normal(size=(n, n, n)), overlap(everything, everything, np.eye(3), n, limit))
    flat = np.ones((n, n, n))
    sure = posterior_mean(v, envelope=flat, signal=flat, noise=1e-9 * flat, M=everything, limit=limit)
    np.testing.assert_allclose(constrained(sure, overlap(everything, everything, np.eye(3), n, limit)), v, atol=1e-6)
    unsure = posterior_mean(v, envelope=flat, signal=1e-9 * flat, noise=flat, M=everything, limit=limit)
    assert abs(unsure).max() < 1e-8
    # White signal and noise of one power, all of it seen: half of what was measured.
    half = posterior_mean(v, envelope=flat, signal=flat, noise=flat, M=everything, limit=limit)
    np.testing.assert_allclose(half, 0.5 * v, atol=1e-12)
