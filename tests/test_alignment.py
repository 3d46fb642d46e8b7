"""Alignment finds poses that are known exactly.

Two kinds of noise-free pairs. *Declared*: the density itself, with a wedge that only declares what may be looked at;
nothing is wrong but the interpolation (5e-4), and the paper's search, which compares particles as they are, must bring
poses back within 0.1 degrees and 0.01 voxel (measured: 0.005 and 0.0006). *Imaged*: projected and reconstructed, so
that a box edge cuts what the wedge has smeared (5 % of the energy); that moves the minimum itself by some tenths of a
degree. The other searches restore both particles first, as if imaged, and must do as well on either kind.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples import (
    BOX,
    IMAGED,
    NEARBY,
    NORMAL,
    POSES,
    SHARP,
    SIXTY,
    VOXEL,
    assert_found,
    noisy,
    premultiplied,
    random,
    sharp,
)
from gonio.alignment.aligner import Aligner, align
from gonio.alignment.result import Result
from gonio.comparison.score import Score
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, TiltStack, Volume
from gonio.particle.wedge import DualAxisWedge, NoWedge, SingleAxisWedge, TiltListWedge, WeightVolumeWedge
from gonio.run.parallel import AHEAD, CHUNKS, MOST_TOGETHER
from gonio.search.levenberg_marquardt import Status
from gonio.settings import LocalSearch, PaperSearch, Schedule, Settings
from gonio.simulate import PAPER_CTF, Imaging, simulate_subtomogram, simulate_tilt_stack

scores = pytest.mark.parametrize("score", ["rcs", "fcs"])


REFERENCE = sharp(Pose.identity())


def paper(search="stochastic", **wanted) -> Settings:
    """The paper's search, which compares particles as they are."""
    return Settings(search=search, **wanted)


@scores
@pytest.mark.parametrize("index", range(4))
def test_a_pair_with_wedges_is_laid_on_itself(score, index):
    result = align(sharp(POSES[index]), REFERENCE, settings=paper(score=score), rng=random(index))
    assert_found(result, POSES[index])
    assert result.dissimilarity < 1e-4 * (1 if score == "rcs" else 1e4)
    assert 0.4 < result.overlap < 1.0
    assert 0 < result.n_iterations <= 1000


@pytest.mark.parametrize("score", list(Score))
@pytest.mark.parametrize("index", range(3))
def test_the_default_search_lays_a_pair_on_itself(score, index):
    result = align(sharp(POSES[index]), REFERENCE, settings=Settings(score=score))
    assert_found(result, POSES[index])
    assert 0.4 < result.overlap < 1.0
    assert all(other.margin >= 0 for other in result.runners_up)
    assert (np.diff([0.0, *(other.margin for other in result.runners_up)]) >= 0).all()


WEDGES = {
    "asymmetric": SingleAxisWedge(-65, 40),
    "tilted axis": SingleAxisWedge(-60, 60, 25.0),
    "dual axis": DualAxisWedge(SIXTY, SingleAxisWedge(-60, 60, 0.0)),
    "tilt list": TiltListWedge(np.arange(-60, 61, 3), 150.0),
}


def measured_weights() -> WeightVolumeWedge:
    """What +-50 degrees measure, less and less towards high frequency."""
    axis = (np.arange(BOX) - BOX // 2) / (BOX * VOXEL)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    inside = SingleAxisWedge(-50, 50).weight_at(np.stack([x, y, z], axis=-1))
    return WeightVolumeWedge(inside * np.exp(-100 * (x**2 + y**2 + z**2)), VOXEL)


@scores
@pytest.mark.parametrize("name", [*WEDGES, "weights"])
def test_every_wedge_finds_the_pose(score, name):
    wedge = measured_weights() if name == "weights" else WEDGES[name]
    reference = replace(REFERENCE, wedge=wedge)
    result = align(sharp(POSES[1], wedge=wedge), reference, settings=paper(score=score), rng=random(1))
    assert_found(result, POSES[1])
    if score == "rcs":
        assert_found(align(sharp(POSES[1], wedge=wedge), reference), POSES[1])


def test_what_is_not_measured_is_not_looked_at():
    """Anything may stand in the missing wedges of both, and nothing changes but rounding."""
    rng = random(1)
    spoilt = []
    for particle in (sharp(POSES[0]), REFERENCE):
        # Waves along z, which no tilt up to 60 degrees sees; whole periods, and none at the edge of the box.
        z = np.arange(BOX) - BOX // 2
        wave = (
            np.exp(-(z[:, None, None] ** 2 + z[:, None] ** 2 + z**2) / (2 * 4.0**2))
            * np.cos(2 * np.pi * 7 * z / BOX)[:, None, None]
        )
        spoilt.append(replace(particle, volume=Volume(particle.volume.data + rng.uniform(0.2, 0.4) * wave, VOXEL)))
    # The wave's transform is a Gaussian of width 32 / (2 pi 4) = 1.3 about shell 7: 1 % of it is beyond the plane.
    result = align(*spoilt, settings=paper(), rng=random(0))
    assert_found(result, POSES[0], degrees=1.0, voxels=0.05)
    honest = [replace(particle, wedge=NoWedge()) for particle in spoilt]
    assert align(*honest, settings=paper(), rng=random(0)).dissimilarity > 10 * result.dissimilarity


@scores
@pytest.mark.parametrize("tilt, degrees, voxels", [(90, 0.1, 0.01), (60, 1.0, 0.02)])
def test_a_particle_that_was_imaged_is_laid_on_its_map(score, tilt, degrees, voxels):
    imaging = Imaging(tilt_min_deg=-tilt, tilt_max_deg=tilt, tilt_step_deg=3.0, ctf=None, detector_mtf=False)
    reference = sharp(Pose.identity()).volume
    for index in (0, 1):
        target = simulate_subtomogram(SHARP, POSES[index], imaging=imaging, rng=random())
        result = align(target, reference, settings=paper(score=score), rng=random(index))
        assert_found(result, POSES[index], degrees=degrees, voxels=voxels)  # measured 0.005 and 0.0002; 0.4 and 0.007
        tolerance = IMAGED if tilt < 90 else {}
        assert_found(align(target, reference, settings=Settings(score=score)), POSES[index], **tolerance)


def test_the_independent_search_finds_it_too():
    result = align(sharp(POSES[2]), REFERENCE, settings=Settings(search="independent", max_refinement_iterations=30))
    assert_found(result, POSES[2])
    stochastic = align(sharp(POSES[2]), REFERENCE, settings=paper(), rng=random())
    assert stochastic.n_iterations < result.n_iterations / 4  # one pair; experiments/ measure the paper's figure 4


@scores
@pytest.mark.parametrize("interval_deg", [60, 45])
def test_about_a_known_axis_a_few_seeds_suffice(score, interval_deg):
    settings = Settings(score=score, search=PaperSearch("axis_stochastic", interval_deg))
    for index in (1, 3):
        normal = POSES[index].matrix @ NORMAL
        target = sharp(POSES[index], normal_xyz=normal)
        result = align(target, replace(REFERENCE, normal_xyz=NORMAL), settings=settings, rng=random(index), record=True)
        assert_found(result, POSES[index])
        # At every iteration the reference's normal lies on the target's: rounding of a hundred small turns.
        carried = result.history.poses.matrix @ (NORMAL / np.linalg.norm(NORMAL))
        np.testing.assert_allclose(carried, np.broadcast_to(target.normal_xyz, carried.shape), atol=1e-10)


@pytest.mark.parametrize("search", ["axis", "axis_stochastic"])
def test_a_wrong_axis_is_kept_all_the_same(search):
    target = sharp(POSES[0], normal_xyz=[1.0, 0.2, 0.0])
    reference = replace(REFERENCE, normal_xyz=NORMAL)
    result = align(target, reference, settings=Settings(search=search), rng=random())
    np.testing.assert_allclose(result.pose.matrix @ reference.normal_xyz, target.normal_xyz, atol=1e-10)


@scores
@pytest.mark.parametrize("index", range(3))
def test_a_local_search_ends_in_the_nearest_minimum(score, index):
    start = POSES[index].retract(NEARBY)
    settings = Settings(score=score, search="local", inputs="plain")
    result = align(sharp(POSES[index]), REFERENCE, settings=settings, start=start)
    assert_found(result, POSES[index])
    assert result.n_iterations <= 15
    assert result.runners_up == () and result.expected_fsc is None
    restored = align(sharp(POSES[index]), REFERENCE, settings=replace(settings, inputs="restored"), start=start)
    assert_found(restored, POSES[index])


def test_a_local_search_stays_within_its_shift():
    """A voxel more than asked for, since seeds lie on whole voxels."""
    start = POSES[0].retract([0, 0, 0, 35.0, 0, 0])
    settings = Settings(search="local", max_shift_angstrom=5.0)
    result = align(sharp(POSES[0]), REFERENCE, settings=settings, start=start)
    assert result.pose.shift_distance_angstrom(start) <= 5.0 + VOXEL


def local(score: str, *, rotation_sd=None, shift_sd=None) -> tuple[Result, Pose]:
    """A noisy particle refined under a prior, and where it started."""
    settings = Settings(
        score=score,
        search=LocalSearch(rotation_sd, shift_sd),
        tolerance_angstrom=1e-3,
    )
    start = POSES[1].retract(NEARBY)
    return align(noisy(1), sharp(Pose.identity()).volume, settings=settings, start=start), start


@scores
def test_a_prior_holds_the_pose_near_its_start(score):
    free, start = local(score)
    turns, shifts = [], []
    for sd in (1e-4, 1.0, 3.0, 1e6):
        held, _ = local(score, rotation_sd=sd, shift_sd=sd)
        assert held.status.ok
        turns.append(held.pose.rotation_distance_deg(start))
        shifts.append(held.pose.shift_distance_angstrom(start))
    assert turns[0] < 1e-3 and shifts[0] < 1e-3  # data cannot move it by more than a few of its standard deviations
    assert turns == sorted(turns) and shifts[0] < shifts[1] < shifts[2]
    # An infinite prior is none: both end where no step moves the particle by more than the tolerance.
    assert held.pose.rotation_distance_deg(free.pose) < 0.01
    assert held.pose.shift_distance_angstrom(free.pose) < 0.01


def test_a_prior_may_hold_the_turn_alone():
    held, start = local("rcs", rotation_sd=1e-4)
    assert held.pose.rotation_distance_deg(start) < 1e-3
    assert held.pose.shift_distance_angstrom(start) > 5.0


@pytest.mark.parametrize("strength", [1e-6, 1e6])
def test_a_prior_does_not_depend_on_the_units_of_the_map(strength):
    """FCS is a squared density; its prior must weigh the same in any unit."""
    settings = Settings(score="fcs", search=LocalSearch(3.0, 3.0))
    start = POSES[1].retract(NEARBY)
    results = []
    for factor in (1.0, strength):
        target = replace(noisy(1), volume=Volume(factor * noisy(1).volume.data, VOXEL))
        results.append(align(target, Volume(factor * REFERENCE.volume.data, VOXEL), settings=settings, start=start))
    assert results[0].pose.rotation_distance_deg(results[1].pose) < 0.01


@pytest.mark.parametrize("box", [25, 40])
def test_boxes_may_differ(box):
    """Cutting the particle's tails in a box of 25 costs some of the accuracy."""
    settings = paper(max_shift_angstrom=55.0)
    result = align(sharp(POSES[2], box=box), REFERENCE, settings=settings, rng=random(2))
    assert_found(result, POSES[2])


@scores
@pytest.mark.parametrize("optics", ["no lens", "ctf", "premultiplied"])
def test_a_tilt_stack_is_aligned_without_a_reconstruction(score, optics):
    ctf = None if optics == "no lens" else PAPER_CTF
    stack = simulate_tilt_stack(SHARP, POSES[2], imaging=Imaging(tilt_step_deg=10.0, ctf=ctf), rng=random())
    stack = premultiplied(stack) if optics == "premultiplied" else stack
    result = align(stack, REFERENCE.volume, settings=paper(score=score), rng=random(2))
    # A window of an image cuts the fringes that the CTF spreads; the undone multiplication by 0.02 amplifies that.
    assert_found(result, POSES[2])


@pytest.mark.parametrize("index", [0, 1, 3])
def test_the_default_search_finds_a_tilt_stack_without_noise(index):
    stack = simulate_tilt_stack(SHARP, POSES[index], imaging=Imaging(tilt_step_deg=10.0, ctf=None), rng=random())
    assert_found(align(stack, REFERENCE.volume), POSES[index])


def test_a_circle_that_was_given_is_kept_without_noise_too():
    """It cuts off a little of the particle, and the pose is off by that: 0.12 degrees; without it 0.001."""
    stack = simulate_tilt_stack(SHARP, POSES[3], imaging=Imaging(tilt_step_deg=10.0, ctf=None), rng=random())
    result = align(stack, REFERENCE.volume, settings=Settings(mask_diameter_angstrom=250.0))
    assert_found(result, POSES[3], degrees=0.3, voxels=0.03)
    assert result.pose.rotation_distance_deg(POSES[3]) > 0.01


def test_a_tilt_stack_with_noise():
    stack = simulate_tilt_stack(SHARP, POSES[0], imaging=Imaging(tilt_step_deg=5.0, snr=0.5), rng=random())
    result = align(stack, REFERENCE.volume, rng=random())
    assert_found(result, POSES[0], degrees=2.0, voxels=0.1)  # measured 0.35 and 0.024


def test_one_image_leaves_the_height_open():
    """The matrix is singular: nothing tells the shift along the beam. The rest is found."""
    stack = simulate_tilt_stack(SHARP, POSES[0], imaging=Imaging(tilt_step_deg=5.0, ctf=None), rng=random())
    one = TiltStack(stack.images[3:4], stack.projections_xyz[3:4], VOXEL)
    result = align(one, REFERENCE.volume, settings=paper(), rng=random())
    assert np.isfinite(result.pose.shift_angstrom).all()
    seen = one.projections_xyz[0] @ (result.pose.shift_angstrom - POSES[0].shift_angstrom)
    np.testing.assert_allclose(seen, 0.0, atol=0.01 * VOXEL)


@scores
def test_a_ball_has_no_orientation_and_is_centred(score):
    """Another singular matrix: d does not depend on the rotation."""
    x = np.arange(BOX) - BOX // 2
    data = np.exp(-((x**2)[:, None, None] + (x**2)[:, None] + x**2) / 18.0)
    target = Subtomogram(Volume(np.roll(data, (1, -2, 3), axis=(0, 1, 2)), VOXEL))
    settings = paper(PaperSearch(seed_interval_deg=90, schedule=Schedule(max_iterations=200)), score=score)
    result = align(target, Volume(data, VOXEL), settings=settings, rng=random())
    np.testing.assert_allclose(result.pose.shift_angstrom, [30.0, -20.0, 10.0], atol=0.01 * VOXEL)
    assert np.isfinite(result.pose.matrix).all()


def apart() -> tuple[Subtomogram, Subtomogram]:
    """Target and reference that have measured different shells: no rotation brings them together."""
    axis = np.arange(BOX) - BOX // 2
    shell = np.sqrt((axis**2)[:, None, None] + (axis**2)[:, None] + axis**2)
    low, high = ((shell > a) & (shell < b) for a, b in ((0, 3), (6, 9)))
    target = sharp(POSES[0], wedge=WeightVolumeWedge(low.astype(np.float32), VOXEL))
    return target, replace(REFERENCE, wedge=WeightVolumeWedge(high.astype(np.float32), VOXEL))


@scores
@pytest.mark.parametrize("search", ["coarse_to_fine", "axis", "local", "stochastic", "axis_stochastic", "independent"])
def test_without_any_overlap_the_status_says_so(score, search):
    target, reference = (replace(particle, normal_xyz=NORMAL) for particle in apart())
    settings = Settings(score=score, search=LocalSearch(3.0) if search == "local" else search)
    result = align(target, reference, settings=settings, rng=random(), start=POSES[0], record=True)
    assert result.status is Status.NO_OVERLAP and not result.status.ok
    assert result.dissimilarity == np.inf and result.overlap == 0.0
    assert result.n_iterations == 0 and result.history is None
    assert np.isfinite(result.pose.matrix).all() and np.isfinite(result.pose.shift_angstrom).all()


def test_history_is_recorded_when_asked():
    settings = paper(PaperSearch(schedule=Schedule(max_iterations=150)))
    result = align(sharp(POSES[0]), REFERENCE, settings=settings, rng=random(), record=True)
    history = result.history
    assert len(history.dissimilarity) == len(history.poses) == result.n_iterations
    assert (np.diff(history.dissimilarity) <= 0).all()
    assert history.dissimilarity[-1] == pytest.approx(result.dissimilarity, abs=1e-6)
    again = Aligner(REFERENCE, settings).dissimilarity(sharp(POSES[0]), history.poses)
    # Poses pass through quaternions, rounded to 1e-16; the kernel's sums are float32.
    np.testing.assert_allclose(again, history.dissimilarity, atol=1e-5)
    assert align(sharp(POSES[0]), REFERENCE, settings=settings, rng=random()).history is None


def same(one: list[Result], two: list[Result]) -> bool:
    """Bit for bit."""
    return len(one) == len(two) and all(
        (a.pose.matrix == b.pose.matrix).all()
        and (a.pose.shift_angstrom == b.pose.shift_angstrom).all()
        and (a.dissimilarity, a.status, a.n_iterations) == (b.dissimilarity, b.status, b.n_iterations)
        for a, b in zip(one, two, strict=True)
    )


@pytest.mark.parametrize(
    "settings",
    [paper(PaperSearch(seed_interval_deg=90)), Settings(search="axis", pool="drawn")],
    ids=lambda s: s.search.name,
)
def test_threads_change_no_bit(settings):
    targets = [replace(noisy(i), normal_xyz=NORMAL) for i in range(5)]
    reference = Subtomogram(REFERENCE.volume, normal_xyz=NORMAL)
    aligner = Aligner(reference, settings)
    alone = aligner.align_many(targets, rng=random(3))
    done: list[int] = []
    assert same(alone, aligner.align_many(iter(targets), rng=random(3), n_threads=2, progress=done.append))
    assert done == [1, 2, 3, 4, 5]
    assert same(alone, Aligner(reference, settings).align_many(targets, rng=random(3), n_threads=5))
    assert not same(alone, aligner.align_many(targets, rng=random(4)))
    assert same(alone[:2], aligner.align_many(targets[:2], rng=random(3)))  # later targets do not matter


@pytest.mark.parametrize("score", list(Score))
@pytest.mark.parametrize("search", ["coarse_to_fine", "local"])
@pytest.mark.parametrize("reference", ["clean map", "subtomogram"])
def test_threads_change_no_bit_of_the_default_search(score, search, reference):
    """Nor what the aligner has met before: restorers are made for the first particle that needs one.

    Of a clean map noisy targets are taken as they were measured, and a target without noise is restored.
    """
    other, settings = REFERENCE.volume if reference == "clean map" else noisy(1), Settings(score=score, search=search)
    targets = [noisy(0), sharp(POSES[1]), noisy(2)]
    starts = POSES[:3].retract(NEARBY) if search == "local" else None
    back = None if starts is None else starts[::-1]
    alone = Aligner(other, settings).align_many(targets, starts=starts)
    assert same(alone, Aligner(other, settings).align_many(targets, starts=starts, n_threads=3))
    backward = Aligner(other, settings).align_many(targets[::-1], starts=back, n_threads=2)
    assert same(alone, backward[::-1])
    for one, other in zip(alone, backward[::-1], strict=True):
        np.testing.assert_array_equal(one.covariance, other.covariance)
        np.testing.assert_array_equal(one.expected_fsc.correlation, other.expected_fsc.correlation)
        assert [o.margin for o in one.runners_up] == [o.margin for o in other.runners_up]


@pytest.mark.parametrize("inputs", ["plain", "restored"])
def test_the_order_of_reading_changes_no_bit(inputs):
    aligner = Aligner(REFERENCE.volume, Settings(search="local", inputs=inputs))
    targets, starts = [noisy(i) for i in range(4)], POSES[:4].retract(NEARBY)
    forward = aligner.align_many(targets, starts=starts, n_threads=2)
    backward = aligner.align_many(targets[::-1], starts=starts[::-1], n_threads=2)
    assert same(forward, backward[::-1])


def test_targets_are_read_only_a_little_ahead():
    read, ahead = [], []

    def targets():
        for i in range(96):
            read.append(i)
            yield noisy(i % 2)

    aligner = Aligner(REFERENCE.volume, Settings(search="local", max_refinement_iterations=1))
    starts = POSES[np.arange(96) % 2]
    aligner.align_many(targets(), starts=starts, n_threads=2, progress=lambda done: ahead.append(len(read) - done))
    assert max(ahead) <= 2 * max(CHUNKS * MOST_TOGETHER, AHEAD)  # of two workers, however quick


def test_more_targets_than_starts_are_refused():
    with pytest.raises(ValueError, match=r"more targets than starts \(1\)"):
        Aligner(REFERENCE, Settings(search="local")).align_many([noisy(0), noisy(1)], starts=POSES[:1])


def test_fewer_targets_than_starts_are_refused():
    with pytest.raises(ValueError, match=r"fewer targets \(1\) than starts \(2\)"):
        Aligner(REFERENCE, Settings(search="local")).align_many([noisy(0)], starts=POSES[:2])


@pytest.mark.parametrize("factor", [0.9995, 1.0005])
def test_voxel_sizes_may_differ_by_rounding_either_way(factor):
    target = sharp(POSES[0])
    other = replace(target, volume=Volume(target.volume.data, VOXEL * factor))
    result = align(other, REFERENCE, settings=Settings(search="local", inputs="plain"), start=POSES[0])
    assert_found(result, POSES[0], voxels=0.02)


def test_a_handful_of_common_samples_does_not_win():
    """Within +-20 degrees two wedges can share next to nothing, and next to nothing fits anything."""
    narrow = SingleAxisWedge(-20, 20)
    noise = np.random.default_rng(3).standard_normal((2, BOX, BOX, BOX))
    target, reference = (
        Subtomogram(Volume(REFERENCE.volume.data + 0.1 * n, VOXEL), narrow) for n in noise * REFERENCE.volume.data.max()
    )
    for settings in (*(Settings(score=score, search="independent") for score in ("rcs", "fcs")), Settings()):
        assert align(target, reference, settings=settings).overlap >= 0.05


def test_a_mask_keeps_out_what_lies_beside_the_particle():
    crowded = REFERENCE.volume.data.copy()
    crowded[2:7, 2:7, 2:7] += 2 * crowded.max()
    target = Subtomogram(Volume(crowded, VOXEL), SIXTY)
    errors = []
    for diameter in (None, 2 * 10 * VOXEL):
        settings = Settings(search="local", inputs="plain", mask_diameter_angstrom=diameter)
        result = align(target, REFERENCE, settings=settings, start=Pose.identity())
        errors.append(result.pose.rotation_distance_deg(Pose.identity()))
    assert errors[1] < 0.2 * errors[0]


def test_the_same_seed_gives_the_same_bits():
    for settings in (paper(), Settings(search=LocalSearch(max_rotation_deg=60.0), pool="drawn")):
        one, two = (align(noisy(0), REFERENCE, settings=settings, rng=random(1), start=POSES[0]) for _ in range(2))
        assert same([one], [two])


def test_what_a_set_has_in_common_is_learnt_from_its_particles():
    aligner = Aligner(REFERENCE.volume)
    targets = [noisy(i) for i in range(3)]
    learnt, again = aligner.learn(iter(targets)), aligner.learn(targets, n_threads=2)
    single = [r.expected_fsc for r in aligner.align_many(targets)]
    np.testing.assert_array_equal(learnt.correlation, again.correlation)
    np.testing.assert_allclose(learnt.correlation, np.mean([e.correlation for e in single], axis=0), atol=1e-12)
    results = aligner.align_many(targets, expected_fsc=learnt)
    assert all(result.expected_fsc is learnt for result in results)
    for index, result in enumerate(results):
        assert_found(result, POSES[index], degrees=4.0, voxels=0.3)  # SNR 0.5: measured 1.4 and 0.09 at most
    assert Aligner(REFERENCE.volume, paper()).learn(targets, rng=random()) is None
    assert aligner.learn([]) is None


def test_learning_takes_the_first_particles_and_their_starts():
    aligner = Aligner(REFERENCE.volume, Settings(search="local"))
    read = []

    def targets():
        for i in range(60):
            read.append(i)
            yield noisy(0)

    starts = Pose.stack([POSES[0]] * 60)
    learnt = aligner.learn(targets(), starts=starts)
    assert len(read) == 50
    single = aligner.align(noisy(0), start=POSES[0]).expected_fsc
    np.testing.assert_allclose(learnt.correlation, single.correlation, atol=1e-12)


def test_what_is_missing_is_named():
    target = sharp(POSES[0])
    for settings in (paper(), Settings(pool="drawn")):
        with pytest.raises(ValueError, match="needs a random generator"):
            align(target, REFERENCE, settings=settings)
    with pytest.raises(ValueError, match="needs the pose to start from"):
        align(target, REFERENCE, settings=Settings(search="local"))
    with pytest.raises(ValueError, match="needs normal_xyz on both"):
        align(target, REFERENCE, settings=Settings(search="axis"), rng=random())


def test_pairs_that_do_not_fit_are_refused():
    small = Subtomogram(Volume(REFERENCE.volume.data, 9.0))
    with pytest.raises(ValueError, match="voxel sizes differ: target 9, reference 10 angstrom"):
        align(small, REFERENCE, rng=random())
    with pytest.raises(ValueError, match="at least 3 are needed"):
        align(sharp(POSES[0], box=9), REFERENCE, rng=random())  # 2.2 shells to 40 angstrom
    with pytest.raises(ValueError, match="finer than two voxels"):
        Aligner(REFERENCE, Settings(resolution_angstrom=15.0))
    with pytest.raises(ValueError, match="at least 3 are needed"):
        Aligner(REFERENCE, Settings(resolution_angstrom=120.0))
    with pytest.raises(ValueError, match="the volume is constant"):
        Aligner(Volume(np.ones((BOX, BOX, BOX)), VOXEL))


def test_kinds_that_do_not_fit_are_refused():
    stack = TiltStack(np.tile(np.eye(BOX), (2, 1, 1)), np.tile(np.eye(3)[:2], (2, 1, 1)), VOXEL)
    with pytest.raises(TypeError, match="a tilt stack cannot be the reference"):
        Aligner(stack)
    with pytest.raises(
        TypeError, match=r"reference must be a gonio.Volume or a gonio.Subtomogram, got ndarray of shape"
    ):
        Aligner(np.zeros((2, 2, 2)))
    with pytest.raises(TypeError, match=r"wrap a volume in gonio.Subtomogram\(volume, wedge\), got Volume"):
        align(REFERENCE.volume, REFERENCE, rng=random())
