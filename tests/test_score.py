"""The fast scores agree with the paper's definitions, and their derivatives with their values.

Interpolating the reference's spectrum is wrong by INTERPOLATION of its rms (measured here: 4.4e-4). A dissimilarity is
a squared length d = |u - v|^2, so an error e of v changes it by -2 e.(u - v) + e^2. The error knows nothing of the
residual u - v: of N samples, 1 / sqrt(N) of it lies that way. ``allowance`` takes four times that, and is the tolerance
of every comparison with the oracle. A likelihood ratio is a sum of such squares with weights of its own: ``quadratic``.
"""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.score import Comparison, Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import model, sample_sums
from gonio.particle.volume import Subtomogram, TiltStack, Volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge
from oracle import (
    Blobs,
    Shells,
    best_shift,
    constrained,
    cross_weight,
    everything,
    fcs,
    fft_centred,
    frequencies_xyz,
    likelihood,
    log_likelihood_ratio,
    moved,
    normalised,
    overlap,
    paper_wedge,
    rcs,
    shell_mean,
)

INTERPOLATION = 5e-4
ROUNDING = 3e-6  # of values of order one: float32 data (6e-8) summed over some thousand samples in blocks of 64
VOXEL = 5.0
LIMIT = 8.0

TURN = Rotation.from_euler("ZYZ", [40.0, 70.0, -25.0], degrees=True).as_matrix()  # not its own inverse
SHIFT = np.array([0.7, -0.4, 0.5])  # voxels
OBJECT, OTHER = Blobs.random(7), Blobs.random(8)
ORACLE = {Score.RCS: rcs, Score.FCS: fcs}


@cache
def shells(n: int) -> Shells:
    """A correlation that falls with frequency, that of wrong poses below it, and the powers of the two volumes."""
    rho = 0.95 * np.exp(-((np.arange(round(LIMIT) + 1) / 7.0) ** 2))
    f, g = volumes(n)
    return Shells(rho, 0.5 * rho**2, shell_mean(f, LIMIT), shell_mean(g, LIMIT))


def flat(f: np.ndarray, g: np.ndarray, *, rho: float, null: float, limit: float) -> Shells:
    """The same correlation and power everywhere."""
    powers = (shell_mean(v, limit)[1:].mean() for v in (f, g))
    return Shells(*(np.full(round(limit) + 1, value) for value in (rho, null, *powers)))


def expected_fsc(of: Shells) -> ExpectedFsc:
    """As gonio is told of it."""
    return ExpectedFsc(of.rho, of.f_power, of.g_power, of.null)


def oracle(score: Score, n: int):
    """The literal score."""
    return partial(likelihood, shells=shells(n)) if score is Score.LIKELIHOOD else ORACLE[score]


def tilted_wedge(low_deg: float, high_deg: float, axis_deg: float):
    """By hand: a frequency is measured when its angle to the xy plane, seen along the tilt axis, is in the range."""
    axis = np.radians(axis_deg)

    def measured(k):
        across = k[..., 0] * np.sin(axis) - k[..., 1] * np.cos(axis)
        angle = np.degrees(np.arctan2(k[..., 2], across))
        angle = (angle + 90.0) % 180.0 - 90.0
        on_axis = np.hypot(across, k[..., 2]) < 1e-9
        return on_axis | ((angle >= low_deg - 1e-6) & (angle <= high_deg + 1e-6))

    return measured


# Target wedge, reference wedge, and the same two for the oracle.
WEDGES = {
    "full": (NoWedge(), NoWedge(), everything, everything),
    "target": (SingleAxisWedge(-60, 60), NoWedge(), paper_wedge(60), everything),
    "both": (SingleAxisWedge(-60, 60), SingleAxisWedge(-45, 45), paper_wedge(60), paper_wedge(45)),
    "asymmetric": (
        SingleAxisWedge(-30, 65, axis_deg=25.0),
        SingleAxisWedge(-65, 40),
        tilted_wedge(-30, 65, 25.0),
        tilted_wedge(-65, 40, 90.0),
    ),
}
boxes = pytest.mark.parametrize("n", [24, 25])
scores = pytest.mark.parametrize("score", list(Score))
wedges = pytest.mark.parametrize("wedge", list(WEDGES))


def comparison(f, g, score, *, wedge="full", limit=LIMIT, of: Shells | None = None) -> Comparison:
    """Gonio's view of two arrays."""
    of_target, of_reference, *_ = WEDGES[wedge]
    resolution = len(f) * VOXEL / limit
    target = Spectrum.of(Subtomogram(Volume(f, VOXEL), of_target), resolution_angstrom=resolution)
    reference = FourierVolume.of(Volume(g, VOXEL), wedge=of_reference, limit=target.limit)
    expected = expected_fsc(of or shells(len(f))) if score is Score.LIKELIHOOD else None
    return Comparison(target, reference, score=score, expected_fsc=expected)


def dissimilarity(pair: Comparison, rotation=TURN, shift=SHIFT) -> float:
    """d at one pose, its shift in voxels."""
    return pair.normal_equations(rotation[None], VOXEL * shift[None]).dissimilarity[0]


def quadratic(pair: Comparison, of: Shells, rotation=TURN) -> tuple[float, float]:
    """Of a likelihood ratio: the sum of the sizes of its terms, and how far errors of the reference move it.

    An error e of g changes norm |g|^2 / P_g - 2 cross Re(f conj g) by 2 e.(norm g / P_g - cross f) + norm |e|^2 / P_g.
    """
    k = pair.target.frequency_xyz.T
    rho, null, f_power, g_power = of.at(k)
    f, g = np.abs(pair.target.value), np.abs(pair.reference.sample((k @ rotation) * (1 - 1e-6)))
    norm = rho**2 / (1 - rho**2) - null**2 / (1 - null**2)
    constant = np.abs(np.log((1 - rho**2) / (1 - null**2)))
    size = norm * (f**2 / f_power + g**2 / g_power) + constant
    error = INTERPOLATION * np.sqrt((g**2).mean())
    slope = norm * g / g_power + cross_weight(k, of) * f
    root = pair.normal_equations(rotation[None], np.zeros((1, 3))).overlap[0] ** 0.25
    wander = 4 * 2 * error * np.sqrt((slope**2).sum()) + error**2 * (norm / g_power).sum()
    return float(size.sum() / root), float(wander / root)


def power(pair: Comparison, rotation=TURN, of: Shells | None = None) -> float:
    """The square of the unit in which a score measures the reference: 1 for RCS, |g|^2 / |Omega| for FCS."""
    if pair.score is Score.RCS:
        return 1.0
    if pair.score is Score.LIKELIHOOD:
        return quadratic(pair, of or shells(pair.target.box), rotation)[0]
    spectrum = pair.target
    value = pair.reference.sample((spectrum.frequency_xyz.T @ rotation) * (1 - 1e-6))
    return float((np.abs(value) ** 2).mean())


def allowance(d: float, pair: Comparison, rotation=TURN, of: Shells | None = None) -> float:
    """How far two dissimilarities may differ when the reference's values are off by INTERPOLATION of its rms."""
    if pair.score is Score.LIKELIHOOD:
        size, wander = quadratic(pair, of or shells(pair.target.box), rotation)
        return wander + ROUNDING * size
    unit = power(pair, rotation)
    error = INTERPOLATION * np.sqrt(unit)
    count = pair.normal_equations(rotation[None], np.zeros((1, 3))).overlap[0]
    return 2 * np.sqrt(d) * error * 4 / np.sqrt(count) + error**2 + ROUNDING * unit


@cache
def volumes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """A target that no pose explains fully, and the reference."""
    return OBJECT.moved(TURN, SHIFT).volume(n) + 0.3 * OTHER.volume(n), OBJECT.volume(n)


@boxes
def test_the_spectrum_is_the_centred_transform(n):
    f, _ = volumes(n)
    spectrum = Spectrum.of(
        Subtomogram(Volume(f, VOXEL), SingleAxisWedge(-60, 60)), resolution_angstrom=n * VOXEL / LIMIT
    )
    k = np.rint(spectrum.frequency_xyz.T).astype(int)  # (n, 3)
    exact = fft_centred(f)[tuple(k.T[::-1])]
    np.testing.assert_allclose(spectrum.value, exact, atol=ROUNDING * abs(exact).max())
    # With their mates they are exactly Omega.
    kept = np.zeros((n, n, n), dtype=int)
    np.add.at(kept, tuple(k.T[::-1]), 1)
    np.add.at(kept, tuple(-k.T[::-1]), 1)
    np.testing.assert_array_equal(kept, overlap(paper_wedge(60), everything, np.eye(3), n, LIMIT))


@boxes
def test_the_reference_is_sampled_anywhere(n, rng):
    _, g = volumes(n)
    k = rng.normal(size=(3000, 3))
    k *= (LIMIT * rng.uniform(0, 1, (3000, 1)) ** (1 / 3)) / np.linalg.norm(k, axis=1, keepdims=True)
    error = FourierVolume.of(Volume(g, VOXEL), limit=LIMIT).sample(k) - OBJECT.transform(k / n)
    rms = np.sqrt((np.abs(OBJECT.transform(k / n)) ** 2).mean())
    assert np.sqrt((np.abs(error) ** 2).mean()) < INTERPOLATION * rms


def test_a_tilt_image_is_a_slice(n=24):
    tilts = Rotation.from_rotvec(np.radians([[0, -40, 0], [0, 0, 0], [0, 25, 0]])).as_matrix()
    images = np.stack([OBJECT.moved(tilt, np.zeros(3)).volume(n).sum(axis=0) for tilt in tilts])
    # What the microscope sees along x is the direction tilt^-1 x of the particle: the rows of the rotation.
    spectrum = Spectrum.of(TiltStack(images, tilts[:, :2], VOXEL), resolution_angstrom=n * VOXEL / LIMIT)
    exact = OBJECT.transform(spectrum.frequency_xyz.T.astype(float) / n)
    np.testing.assert_allclose(spectrum.value, exact, atol=2e-5 * abs(exact).max())  # aliasing of sampled Gaussians


@boxes
@wedges
@scores
@pytest.mark.parametrize("offset_deg", [0.0, 15.0, 110.0])
def test_score_is_the_papers(n, wedge, score, offset_deg):
    f, g = volumes(n)
    rotation = Rotation.from_rotvec(np.radians(offset_deg) * np.array([0.6, 0.0, -0.8])).as_matrix() @ TURN
    pair = comparison(f, g, score, wedge=wedge)
    literal = oracle(score, n)(f, g, rotation, SHIFT, *WEDGES[wedge][2:], LIMIT)
    assert dissimilarity(pair, rotation) == pytest.approx(literal, abs=allowance(literal, pair, rotation))


@boxes
@wedges
def test_the_likelihood_is_a_ratio_of_densities_of_which_lower_is_likelier(n, wedge):
    """Undoing the root of |Omega| leaves the logarithm itself: no other factor, and the opposite sign."""
    f, g = volumes(n)
    pair = comparison(f, g, Score.LIKELIHOOD, wedge=wedge)
    equations = pair.normal_equations(TURN[None], VOXEL * SHIFT[None])
    literal = log_likelihood_ratio(f, g, TURN, SHIFT, *WEDGES[wedge][2:], LIMIT, shells(n))
    root = equations.overlap[0] ** 0.25
    assert -root * equations.dissimilarity[0] == pytest.approx(literal, abs=root * allowance(0.0, pair))
    wrong = Rotation.from_rotvec([0.0, 0.0, np.pi / 2]).as_matrix() @ TURN
    assert dissimilarity(pair, wrong) > equations.dissimilarity[0]


@wedges
def test_the_likelihood_counts_samples_by_their_cross_weights(wedge, n=24):
    f, g = volumes(n)
    pair = comparison(f, g, Score.LIKELIHOOD, wedge=wedge)
    weight = cross_weight(frequencies_xyz(n), shells(n))
    M_f, M_g = WEDGES[wedge][2:]
    literal = weight[overlap(M_f, M_g, TURN, n, LIMIT)].sum() / weight[overlap(M_f, everything, TURN, n, LIMIT)].mean()
    found = 2 * pair.normal_equations(TURN[None], SHIFT[None]).overlap[0]
    assert found == pytest.approx(literal, rel=ROUNDING)


def test_the_likelihood_is_blind_to_the_scale_of_both(n=24):
    """Whitened by their powers, which are known."""
    f, g = volumes(n)
    scaled = Shells(shells(n).rho, shells(n).null, 9.0 * shells(n).f_power, 0.04 * shells(n).g_power)
    pair = comparison(f, g, Score.LIKELIHOOD)
    changed = comparison(3.0 * f, 0.2 * g, Score.LIKELIHOOD, of=scaled)
    assert dissimilarity(changed) == pytest.approx(dissimilarity(pair), abs=ROUNDING * power(pair))


def test_shells_that_are_expected_to_fraction_nothing_say_nothing(n=24):
    f, g = volumes(n)
    rho = np.where(np.arange(round(LIMIT) + 1) > 5, 0.0, shells(n).rho)
    empty = Shells(rho, np.minimum(shells(n).null, 0.5 * rho), shells(n).f_power, shells(n).g_power)
    noise = np.random.default_rng(0).normal(size=(n, n, n))
    spectrum = np.where(np.linalg.norm(frequencies_xyz(n), axis=-1) > 6.0, fft_centred(noise), 0.0)
    spoilt = f + np.fft.fftshift(np.fft.ifftn(spectrum)).real
    pairs = [comparison(v, g, Score.LIKELIHOOD, of=empty) for v in (f, spoilt)]
    assert dissimilarity(pairs[1]) == pytest.approx(dissimilarity(pairs[0]), abs=ROUNDING * power(pairs[0], of=empty))


def test_the_likelihood_needs_to_be_told_what_to_expect():
    f, g = volumes(24)
    target = Spectrum.of(Subtomogram(Volume(f, VOXEL)), limit=LIMIT)
    with pytest.raises(ValueError, match="needs the expected FSC of the pair"):
        Comparison(target, FourierVolume.of(Volume(g, VOXEL), limit=LIMIT), score=Score.LIKELIHOOD)


def test_a_score_that_kernels_do_not_know_is_not_taken_for_another():
    unknown = 1 + max(model.RCS, model.FCS, model.LIKELIHOOD)
    assert model.dissimilarity(unknown, 1.0, 1.0, 0.5, 100.0, 1.0, 10.0) == np.inf
    assert np.isnan(model.noise_of(unknown, 1.0, 1.0, 0.5, 100.0, 1.0))
    assert np.isnan(model.log_likelihood(unknown, 1.0, 100.0, 1.0)).all()


@boxes
@wedges
def test_overlap_counts_omega(n, wedge):
    f, g = volumes(n)
    pair = comparison(f, g, Score.RCS, wedge=wedge)
    literal = overlap(*WEDGES[wedge][2:], TURN, n, LIMIT).sum()
    assert 2 * pair.normal_equations(TURN[None], SHIFT[None]).overlap[0] == literal  # one of each Friedel pair


@pytest.mark.parametrize("wedge", ["full", "both"])
def test_best_shift_is_that_of_trying_all(wedge, n=24):
    f, g = volumes(n)
    pair = comparison(f, g, Score.RCS, wedge=wedge)
    # A ball of radius sqrt(3) holds exactly the 27 shifts of a cube of half side 1.
    found, dissimilarity = pair.best_shifts(TURN[None], max_shift_angstrom=1.75 * VOXEL)
    literal, _ = best_shift(f, g, TURN, *WEDGES[wedge][2:], LIMIT, max_shift=1)
    np.testing.assert_allclose(found[0], VOXEL * np.array(literal))
    expected = pair.normal_equations(TURN[None], found).dissimilarity
    np.testing.assert_allclose(dissimilarity, expected, rtol=1e-5)


def directional(pair: Comparison, direction: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """d at poses moved along a tangent (radians, voxels) by each step."""
    rotations = Rotation.from_rotvec(np.outer(steps, direction[:3])).as_matrix() @ TURN
    shifts = SHIFT + np.outer(steps, direction[3:])
    return pair.normal_equations(rotations, VOXEL * shifts).dissimilarity


def gradient(pair: Comparison) -> np.ndarray:
    """The gradient of d by radians and voxels."""
    equations = pair.normal_equations(TURN[None], VOXEL * SHIFT[None])
    return -2 * equations.descent[0] * np.repeat([1.0, VOXEL], 3)


# With a wedge on the target alone Omega does not move with the pose, so d is smooth and gradients are exact.
smooth = pytest.mark.parametrize("wedge", ["full", "target"])


@boxes
@smooth
@scores
def test_gradient_is_that_of_the_value(n, wedge, score):
    pair = comparison(*volumes(n), score, wedge=wedge)
    h = 0.02
    values = np.array([directional(pair, axis, h * np.array([-2, -1, 1, 2])) for axis in np.eye(6)])
    differences = values @ np.array([1, -8, 8, -1]) / (12 * h)
    # The fourth-order formula is off by h^4 / 30 times the fifth derivative, at most (2 pi 3 LIMIT / n)^5 = 1e4 for an
    # object of radius 3; rounding adds ROUNDING / h. Both are in units of the score.
    tolerance = (h**4 / 30 * 1e4 + ROUNDING / h) * power(pair)
    np.testing.assert_allclose(gradient(pair), differences, atol=tolerance)


@boxes
@scores
def test_gradient_is_that_of_the_papers_score(n, score):
    f, g = volumes(n)
    pair = comparison(f, g, score, wedge="target")
    h = 0.01
    literal = []
    omega = overlap(*WEDGES["target"][2:], TURN, n, LIMIT)
    target = constrained(f, omega)
    for axis in np.eye(6):
        values = []
        for sign in (-1, 1):
            rotation = Rotation.from_rotvec(sign * h * axis[:3]).as_matrix() @ TURN
            reference = constrained(moved(g, rotation, SHIFT + sign * h * axis[3:]), omega)
            if score is Score.LIKELIHOOD:
                turned, shift = rotation, SHIFT + sign * h * axis[3:]
                values.append(likelihood(f, g, turned, shift, *WEDGES["target"][2:], LIMIT, shells(n)))
            elif score is Score.RCS:
                values.append(((normalised(target) - normalised(reference)) ** 2).sum())
            else:
                values.append((np.abs(fft_centred(target - reference))[omega] ** 2).mean())
        literal.append((values[1] - values[0]) / (2 * h))
    # The window's slope is off by 5e-3 of the rms slope; differences of second order by h^2 / 6 times the third
    # derivative, at most (2 pi 3 LIMIT / n)^3 = 250.
    pair_gradient, unit = gradient(pair), power(pair)
    tolerance = 5e-3 * np.abs(literal).max() + h**2 / 6 * 250 * unit
    np.testing.assert_allclose(pair_gradient, literal, atol=tolerance)


@smooth
@scores
def test_taylor_remainder_is_of_second_order(wedge, score, rng):
    pair = comparison(*volumes(24), score, wedge=wedge)
    direction = rng.normal(size=6)
    direction /= np.linalg.norm(direction)
    steps = 0.08 * 0.5 ** np.arange(4)
    values = directional(pair, direction, np.append(steps, 0.0))
    remainder = np.abs(values[:-1] - values[-1] - steps * (gradient(pair) @ direction))
    slope = np.polyfit(np.log(steps), np.log(remainder), 1)[0]
    assert slope == pytest.approx(2.0, abs=0.2)


@boxes
@smooth
@scores
def test_hessian_is_the_curvature_where_the_pose_explains_the_target(n, wedge, score, rng):
    f, g = OBJECT.moved(TURN, SHIFT).volume(n), OBJECT.volume(n)
    # A likelihood ratio expects to be explained to rho of its amplitude, and no more.
    rho = 0.99
    pair = comparison(f, g, score, wedge=wedge, of=flat(f, g, rho=rho, null=0.0, limit=LIMIT))
    units = np.repeat([1.0, VOXEL], 3)
    hessian = pair.normal_equations(TURN[None], VOXEL * SHIFT[None]).hessian[0] * np.outer(units, units)
    np.testing.assert_allclose(hessian, hessian.T)
    direction = rng.normal(size=6) / 3
    h = 0.02
    behind, here, ahead = directional(pair, direction, np.array([-h, 0, h]))
    # d = dx^T H dx there, but for terms of fourth order: h^2 (2 pi 3 LIMIT / n)^2 = 2 % of it.
    tolerance = 0.02 + (1 - rho if score is Score.LIKELIHOOD else 0.0)
    assert (behind + ahead - 2 * here) / (2 * h**2) == pytest.approx(direction @ hessian @ direction, rel=tolerance)


@given(st.integers(0, 10**6))
@settings(max_examples=8)
def test_turning_both_particles_changes_nothing(seed):
    # To the last shell: nothing of these objects is beyond it, so the grid has no say in what counts.
    n, limit = 24, 11.0
    both = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    f, g = OTHER, OBJECT
    for score in Score:
        # Shells with kinks between them would be summed a little differently on a turned grid.
        of = flat(f.volume(n), g.volume(n), rho=0.8, null=0.3, limit=limit)
        before = comparison(f.volume(n), g.volume(n), score, limit=limit, of=of)
        still = np.zeros(3)
        after = comparison(f.moved(both, still).volume(n), g.moved(both, still).volume(n), score, limit=limit, of=of)
        d = dissimilarity(before)
        tolerance = 2 * allowance(d, before, of=of)
        assert dissimilarity(after, both @ TURN @ both.T, both @ SHIFT) == pytest.approx(d, abs=tolerance)


@scores
@pytest.mark.parametrize("step", [(1, 0, 0), (0, -1, 0), (0, 0, 1)])
def test_one_voxel_is_one_voxel(score, step):
    f, g = volumes(24)
    pair = comparison(f, g, score, wedge="both")
    rolled = comparison(np.roll(f, step[::-1], axis=(0, 1, 2)), g, score, wedge="both")
    d = dissimilarity(pair)
    tolerance = ROUNDING * (d + power(pair))
    assert dissimilarity(rolled, TURN, SHIFT + np.array(step)) == pytest.approx(d, abs=tolerance)


@wedges
def test_rcs_is_blind_to_contrast_and_offset(wedge):
    f, g = volumes(24)
    d = dissimilarity(comparison(f, g, Score.RCS, wedge=wedge))
    # An offset of the target only: that of a reference is a box of density, whose edges turn with it.
    changed = dissimilarity(comparison(3.0 * f + 0.5, 0.2 * g, Score.RCS, wedge=wedge))
    assert changed == pytest.approx(d, abs=2 * ROUNDING)


def test_fcs_is_blind_to_offset_only():
    f, g = volumes(24)
    pair = comparison(f, g, Score.FCS)
    d = dissimilarity(pair)
    assert dissimilarity(comparison(f + 0.5, g, Score.FCS)) == pytest.approx(d, abs=2 * ROUNDING * power(pair))
    assert dissimilarity(comparison(3 * f, 3 * g, Score.FCS)) == pytest.approx(9 * d, rel=1e-4)
    assert dissimilarity(comparison(3 * f, g, Score.FCS)) > 2 * d


def test_poses_in_a_batch_do_not_see_each_other():
    pair = comparison(*volumes(24), Score.RCS, wedge="both")
    rotations = Rotation.random(5, rng=np.random.default_rng(1)).as_matrix()
    shifts = np.random.default_rng(2).normal(size=(5, 3))
    together = pair.normal_equations(rotations, shifts)
    for i in range(5):
        alone = pair.normal_equations(rotations[i : i + 1], shifts[i : i + 1])
        np.testing.assert_array_equal(together.dissimilarity[i], alone.dissimilarity[0])
        np.testing.assert_array_equal(together.hessian[i], alone.hessian[0])
        np.testing.assert_array_equal(together.descent[i], alone.descent[0])


@pytest.mark.parametrize("n", [24, 25])
def test_normal_matrices_of_shells_are_those_of_their_samples_alone(n):
    """And add up to that of all; to the rounding of float32 sums."""
    whole = comparison(*volumes(n), Score.FCS, wedge="both")
    pose = TURN, VOXEL * SHIFT
    found, target = whole.shell_equations(*pose), whole.target
    sums = found[:, [sample_sums.FF, sample_sums.GG, sample_sums.FG, sample_sums.WEIGHT]]
    units = np.repeat([1.0, whole.phase], 3)
    upper = np.triu_indices(6)
    normal = np.zeros((target.n_shells, 6, 6))
    normal[:, upper[0], upper[1]] = normal[:, upper[1], upper[0]] = found[:, sample_sums.JTJ : sample_sums.JTF]
    normal *= units[:, None] * units
    for shell in range(1, target.n_shells):
        alone = Comparison(target.take(target.shell == shell), whole.reference, score=Score.FCS)
        equations = alone.normal_equations(pose[0][None], pose[1][None])
        expected = equations.hessian[0] * equations.overlap[0]
        np.testing.assert_allclose(normal[shell], expected, rtol=0, atol=ROUNDING * np.abs(expected).max())
        np.testing.assert_allclose(sums[shell, 3], equations.overlap[0], rtol=1e-6)
    each = whole.shell_sums(pose[0][None], pose[1][None])[0]
    np.testing.assert_allclose(sums, each, rtol=0, atol=ROUNDING * np.abs(each).max())
    equations = whole.normal_equations(pose[0][None], pose[1][None])
    expected = equations.hessian[0] * equations.overlap[0]
    np.testing.assert_allclose(normal.sum(axis=0), expected, rtol=0, atol=ROUNDING * np.abs(expected).max())


def test_particles_that_cannot_be_compared_are_refused():
    f, g = volumes(24)
    target = Spectrum.of(Subtomogram(Volume(f, VOXEL)), resolution_angstrom=24 * VOXEL / LIMIT)
    with pytest.raises(ValueError, match="goes to shell 8"):
        Comparison(target, FourierVolume.of(Volume(g, VOXEL), limit=6.0), score=Score.RCS)
    with pytest.raises(ValueError, match="box of 25"):
        Comparison(target, FourierVolume.of(Volume(volumes(25)[1], VOXEL), limit=LIMIT), score=Score.RCS)
