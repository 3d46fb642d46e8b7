"""The search from coarse to fine: laws of its plan, distinct optima, and what it finds by default."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from examples import IMAGED, POSES, SHARP, VOXEL, assert_found, noisy, sharp
from gonio.alignment.aligner import Aligner, align
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.sampled_pair import Pair
from gonio.comparison.score import Score
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.kernels import pool
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Subtomogram, Volume
from gonio.search.coarse_to_fine import (
    COARSE_DETAILS,
    DISTINCT,
    LEVEL,
    PRUNING,
    REACH,
    STACK_PRUNING,
    Plan,
    PruningRule,
)
from gonio.search.objective import pack, signature
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

limits = st.floats(3.0, 60.0)
diameters = st.floats(0.2, 1.0)


@given(limits, diameters)
def test_limits_rise_to_the_full_one_in_even_steps(limit, fraction):
    plan = Plan.of(limit=limit, diameter_fraction=fraction)
    assert len(plan.limits) >= 2
    assert plan.limits[-1] == pytest.approx(limit)
    ratios = np.array(plan.limits[1:]) / plan.limits[:-1]
    assert (ratios >= 1 - 1e-12).all() and (ratios <= LEVEL * (1 + 1e-9)).all()
    np.testing.assert_allclose(ratios, ratios[0])


@given(limits, diameters)
def test_the_coarse_detail_is_a_fraction_of_the_particle(limit, fraction):
    plan = Plan.of(limit=limit, diameter_fraction=fraction)
    coarse = plan.limits[0]
    assert 3.0 <= coarse <= limit
    # Detail D / 3.5: so many shells that the particle, a share of the box, is 3.5 of them across; never fewer than 3.
    assert coarse == pytest.approx(min(limit, max(3.0, COARSE_DETAILS / fraction)))
    # A turn by the reach moves the surface, half a diameter away, by REACH / 2 of the detail.
    arc = np.radians(plan.spacing_deg) * fraction / 2
    assert arc == pytest.approx(min(REACH / (2 * coarse), np.pi * fraction / 2))


@given(st.floats(8.0, 30.0), st.floats(0.3, 0.6))
def test_a_plan_does_not_depend_on_the_box_around_a_particle(limit, fraction):
    """Twice the box has twice the shells for the same detail, and the particle is half of it."""
    small, large = (
        Plan.of(limit=limit, diameter_fraction=fraction),
        Plan.of(limit=2 * limit, diameter_fraction=fraction / 2),
    )
    if small.limits[0] > 3.0:
        np.testing.assert_allclose(large.limits, 2 * np.array(small.limits))
        assert large.spacing_deg == pytest.approx(small.spacing_deg)


scores = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=80).map(lambda values: np.sort(values))


@given(scores, st.floats(0.0, 1e3))
def test_a_cut_keeps_what_may_win_between_its_bounds(values, deviation):
    cut = PruningRule(margin=1.5, least=3, most=20, steps=1)
    count = cut.count(values, deviation)
    assert min(3, len(values)) <= count <= min(20, len(values))
    may_win = values <= values[0] + 1.5 * deviation
    if 3 <= may_win.sum() <= 20:
        assert may_win[:count].all() and not may_win[count:].any()


@given(scores)
def test_without_a_spread_a_cut_keeps_the_most_and_poses_without_a_score_are_last(values):
    cut = PruningRule(margin=0.9, least=2, most=20, steps=1)
    assert cut.count(values, np.inf) == min(20, len(values))
    with_infinite = np.append(values, np.inf)
    # All are within reach of one another but the one without a score.
    expected = min(20, max(2, len(values)), len(with_infinite))
    assert cut.count(with_infinite, np.ptp(values) / 0.9 * (1 + 1e-9) + 1e-9) == expected


@pytest.mark.parametrize("pruning", [PRUNING, STACK_PRUNING])
def test_the_pool_shrinks_from_stage_to_stage(pruning):
    for before, after in pairwise((pruning.seeds, *pruning.between, pruning.full)):
        assert after.margin <= before.margin and after.least < before.least and after.most < before.most


def test_a_doubtful_pair_is_looked_at_longer_than_a_clear_one():
    """Noise alone has no pose: more of its seeds may win."""
    aligner = Aligner(sharp(Pose.identity()).volume)
    rng = np.random.default_rng(5)
    noise = [Subtomogram(Volume(rng.normal(size=(32, 32, 32)), VOXEL), noisy(i).wedge) for i in range(3)]
    clear, doubtful = (
        np.median([r.n_iterations for r in aligner.align_many(them)]) for them in (map(noisy, range(3)), noise)
    )
    # Each cut at its least, and the best converged within as many steps as a stage takes.
    rules, full = (PRUNING.seeds, *PRUNING.between), PRUNING.full
    least = sum(rule.least * rule.steps for rule in rules)
    assert clear <= least + 2 * full.least * full.steps + PRUNING.between[0].steps
    assert doubtful > clear


def distinct(points: np.ndarray, symmetry: str, count: int = 99) -> np.ndarray:
    """The first so many distinct points, in their order."""
    rows = np.empty(len(points), np.int64)
    kept = pool.distinct(points, VOXEL, Symmetry.named(symmetry).matrices, DISTINCT, count, rows)
    return points[rows[:kept]]


def near_and_far(symmetry: str) -> np.ndarray:
    """Three poses, then each again, turned by an element of the group and moved by a hundredth of a voxel."""
    group = Symmetry.named(symmetry)
    rotations = Rotation.from_euler("xyz", [[0, 0, 0], [0, 70, 0], [90, 0, 20]], degrees=True).as_matrix()
    again = rotations @ group.matrices[np.array([1, 2, 3]) % group.order]
    shifts = np.array([[0.0, 0, 0], [3, 0, 0], [0, -4, 2]])
    return pack(np.concatenate([rotations, again]), np.concatenate([shifts, shifts + 0.01 * VOXEL]))


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2"])
def test_of_poses_that_symmetry_makes_equal_the_first_is_kept(symmetry):
    points = near_and_far(symmetry)
    np.testing.assert_array_equal(distinct(points, symmetry), points[:3])
    np.testing.assert_array_equal(distinct(points[::-1].copy(), symmetry), points[:2:-1])
    np.testing.assert_array_equal(distinct(points, symmetry, 2), points[:2])


def test_without_the_symmetry_they_are_different():
    assert len(distinct(near_and_far("C4"), "C1")) == 6


def test_poses_are_distinct_beyond_a_third_of_a_voxel():
    # Eq. 12 takes three anchors, each moved by the shift: sqrt(3) times its length.
    for factor, count in ((0.99, 1), (1.01, 2)):
        shifts = np.array([[0.0, 0, 0], [factor * DISTINCT * VOXEL / np.sqrt(3), 0, 0]])
        assert len(distinct(pack(np.tile(np.eye(3), (2, 1, 1)), shifts), "C1")) == count


@pytest.mark.parametrize("symmetry", ["C1", "C4", "D2", "T"])
def test_how_far_poses_are_apart_is_eq_12_of_their_nearest_equivalents(symmetry):
    """As the oracle has it: all equivalents of one pose, turned one by one, against the other."""
    group, rng = Symmetry.named(symmetry), np.random.default_rng(4)
    one, two = (Pose(Rotation.random(rng=rng), rng.normal(size=3)) for _ in range(2))
    literal = min(
        Pose(one.rotation * turn, one.shift_angstrom).frobenius_distance(two, voxel_size_angstrom=VOXEL)
        for turn in group.rotations
    )
    signatures = [signature(pack(p.matrix[None], p.shift_angstrom[None]), VOXEL)[0] for p in (one, two)]
    found = min(pool.apart(signatures[0], matrix, signatures[1]) for matrix in group.matrices)
    assert np.sqrt(found) == pytest.approx(literal)


@pytest.mark.parametrize("score", list(Score))
def test_nothing_expected_weights_all_alike(score):
    target = Spectrum.of(Subtomogram(sharp(POSES[0]).volume), resolution_angstrom=40.0)
    pair = Pair(target, FourierVolume.of(sharp(POSES[1]).volume, limit=target.limit))
    for expected_fsc in (None, all_shells(pair, 0.0)):
        assert pair.filtered(score, expected_fsc).score is Score.RCS
        assert pair.filtered(score, expected_fsc).target is target
    kept = pair.filtered(score, all_shells(pair, 0.5), 5.0)
    assert kept.score is score and kept.target.limit == 5.0


def all_shells(pair: Pair, rho: float):
    """An expectation of one correlation in every shell."""
    power = pair.target.shell_power()
    return ExpectedFsc(np.full(len(power), rho), power, power, np.zeros(len(power)))


def test_particles_that_were_imaged_are_found_without_noise_or_tuning():
    aligner = Aligner(sharp(Pose.identity()).volume)
    imaging = Imaging(tilt_step_deg=4.0, ctf=None, detector_mtf=False)
    for index in range(2, 5):
        target = simulate_subtomogram(SHARP, POSES[index], imaging=imaging, rng=np.random.default_rng(index))
        assert_found(aligner.align(target), POSES[index], **IMAGED)


def test_particles_with_noise_are_found():
    """SNR 0.5: the prototype's median error was 1.4 degrees, and none of 30 to 40 pairs was wrong."""
    aligner = Aligner(sharp(Pose.identity()).volume)
    results = aligner.align_many([noisy(i) for i in range(6)])
    errors = [r.pose.rotation_distance_deg(POSES[i]) for i, r in enumerate(results)]
    assert np.median(errors) < 1.5 and max(errors) < 4.0


def test_a_known_expected_fsc_is_used_as_it_is():
    aligner = Aligner(sharp(Pose.identity()).volume)
    own = aligner.align(noisy(0))
    again = aligner.align(noisy(0), expected_fsc=own.expected_fsc)
    assert again.expected_fsc is own.expected_fsc
    assert again.pose.rotation_distance_deg(own.pose) < 0.5 * own.rotation_sd_deg


def test_a_nearly_symmetric_particle_has_its_other_optimum_among_the_runners_up():
    """``pseudo_symmetric`` correlates with itself to 0.80 at 177 degrees."""
    phantom = Phantom.named("pseudo_symmetric", box=32, voxel_size_angstrom=VOXEL)
    density = partial(phantom.density, box=32, voxel_size_angstrom=VOXEL)
    one, other = (Volume(density(pose), VOXEL) for pose in (POSES[0], Pose.identity()))
    result = align(Subtomogram(one), other)
    assert result.pose.rotation_distance_deg(POSES[0]) < 0.5
    apart = [o.pose.rotation_distance_deg(result.pose) for o in result.runners_up]
    assert max(apart) > 170.0
    assert all(o.margin >= 0 for o in result.runners_up)
