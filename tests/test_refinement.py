"""Refinement: halves that never meet, a limit that never leads, an end; and maps from nothing, in the right hand."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

import gonio.workflows.refinement as refinement_module
from gonio.alignment.aligner import Aligner
from gonio.averaging.resolution import HalfMapFsc
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation
from gonio.fourier.transform import low_passed
from gonio.particle.particle_source import ParticleSource
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Particle, Subtomogram, Volume, correlation
from gonio.run.executor import Local
from gonio.settings import LocalSearch, Settings
from gonio.simulate import Imaging, Phantom, simulate_subtomogram
from gonio.workflows.initial_model import initial_model, initial_model_halves
from gonio.workflows.refinement import best_of, fsc_mask, refined, start_map
from gonio.workflows.refinement_plan import Iteration, Plan

pytestmark = pytest.mark.slow

BOX, VOXEL, START = 16, 20.0, 80.0
IMAGING = Imaging(BOX, VOXEL, -60.0, 60.0, snr=1.0)
SETTINGS = Settings(resolution_angstrom=50.0)
PLAN = Plan(SETTINGS, start_resolution_angstrom=START)


@dataclass(frozen=True)
class Held(ParticleSource):
    """Particles in memory."""

    particles: Sequence[Particle]

    def load(self, index: int) -> Particle:
        """The particle."""
        return self.particles[index]


def table_of(particles: Sequence[Particle]) -> ParticleTable:
    """Every other particle in half 1; poses that tell nothing."""
    count = len(particles)
    halves = (1 + np.arange(count) % 2).astype(np.int8)
    names = tuple(f"TS/{i}" for i in range(count))
    return ParticleTable(Pose.identity(count), names, ("TS",) * count, half_sets=halves, source=Held(particles))


@cache
def sample(count: int = 24) -> tuple[ParticleTable, Pose, Volume]:
    """Particles, their true poses, and the map they show."""
    phantom = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
    rng = np.random.default_rng(3)
    truth = Pose.random(count, rng=rng, max_shift_angstrom=VOXEL)
    particles = [simulate_subtomogram(phantom, truth[i], imaging=IMAGING, rng=rng) for i in range(count)]
    perfect = replace(IMAGING, snr=np.inf, tilt_min_deg=-90.0, tilt_max_deg=90.0)
    reference = simulate_subtomogram(phantom, Pose.identity(), imaging=perfect, rng=rng).volume
    return table_of(particles), truth, reference


def starts() -> tuple[Volume, Volume]:
    """The map at low resolution, for both halves."""
    start = start_map(sample()[2], resolution_angstrom=START)
    return start, start


@cache
def refinement() -> tuple[Iteration, ...]:
    """Of the sample."""
    return tuple(refined(sample()[0], starts(), PLAN))


def noise(count: int, seed: int) -> ParticleTable:
    """Particles of white noise, with the wedge."""
    rng = np.random.default_rng(seed)
    return table_of([Subtomogram(Volume(rng.normal(size=(BOX,) * 3), VOXEL), IMAGING.wedge) for _ in range(count)])


def test_poses_come_right():
    last, truth = refinement()[-1], sample()[1]
    assert np.median(last.table.poses.rotation_distance_deg(truth)) < 3.0
    assert np.median(last.table.poses.shift_distance_angstrom(truth)) < 0.2 * VOXEL
    assert correlation(last.volume, sample()[2]) > 0.9


def test_the_limit_never_runs_ahead_of_the_fsc():
    steps = refinement()
    assert steps[0].limit_angstrom == START
    for before, after in itertools.pairwise(steps):
        assert after.limit_angstrom >= min(before.resolution_angstrom, START) * (1 - 1e-9)
        assert after.limit_angstrom >= before.fsc.resolution_angstrom() * (1 - 1e-9)


def test_it_looks_everywhere_first_and_near_later_and_ends_at_rest():
    steps = refinement()
    assert (steps[0].search, steps[-1].search) == ("coarse_to_fine", "local")
    assert steps[-1].ended.startswith("converged")
    assert not any(step.ended for step in steps[:-1])
    assert steps[-1].moved_sds < steps[0].moved_sds


def test_the_fsc_of_halves_promises_no_more_than_the_truth_holds():
    last, reference = refinement()[-1], sample()[2]
    fsc = np.clip(last.fsc.unmasked, 0.0, 1.0)
    promised = np.sqrt(2.0 * fsc / (1.0 + fsc))
    held = fourier_shell_correlation(last.volume, reference)
    # Averages end within the last whole shell, of which the truth holds all.
    shells = slice(1, min(int(last.fsc.box_angstrom / last.resolution_angstrom) + 1, BOX // 2 - 1))
    # Two standard deviations of a shell of as few samples as shell 3 has.
    assert (promised[shells] <= held[shells] + 2.0 / np.sqrt(57)).all()


def test_nothing_of_half_2_is_in_half_1():
    table, _, _ = sample()
    half_sets, rng = np.asarray(table.half_sets), np.random.default_rng(9)
    others = [
        table.load(i) if half_sets[i] == 1 else Subtomogram(Volume(rng.normal(size=(BOX,) * 3), VOXEL), IMAGING.wedge)
        for i in range(len(table))
    ]
    changed = next(iter(refined(replace(table, source=Held(others)), starts(), PLAN)))
    first = refinement()[0]
    assert np.array_equal(changed.halves[0].data, first.halves[0].data)
    assert not np.array_equal(changed.halves[1].data, first.halves[1].data)


def test_particles_follow_the_map_of_their_half_without_themselves_in_later_iterations(monkeypatch):
    """Five maps of each half, of four fifths of its particles: nearer to that half than to the other."""
    seen, later = [], []
    made = Aligner.__init__

    def watched(self, reference, *arguments, **options):
        seen.append(reference)
        if options.get("reference_fsc") is not None:
            later.append(reference.data)
        made(self, reference, *arguments, **options)

    monkeypatch.setattr(Aligner, "__init__", watched)
    steps = list(refined(sample()[0], starts(), replace(PLAN, max_iterations=2)))
    given = [reference for reference in seen if isinstance(reference, Volume)]
    assert given[0] is starts()[0] or np.array_equal(given[0].data, starts()[0].data)
    one, two = steps[0].halves

    def likeness(data: np.ndarray, half: Volume) -> float:
        return float(np.corrcoef(data.ravel(), half.data.ravel())[0, 1])

    nearer_one = [likeness(data, one) > likeness(data, two) for data in later]
    assert sum(nearer_one) == 5 and len(later) == 10
    assert not any(np.array_equal(data, half.data) for data in later for half in (one, two, steps[0].volume))


def test_the_line_between_two_shells_is_no_agreement_beyond_the_start_map():
    """The last shell of the initial model agrees whatever particles show, the next hardly; where it does, it counts."""
    begun = BOX * VOXEL / START
    run = refinement_module._Run(PLAN, Local(), fsc_mask(starts()[0], PLAN))
    curve = np.where(np.arange(BOX // 2 + 1) <= begun, 0.95, 0.0)

    def agreed(next_shell: float) -> float:
        curve[int(begun) + 1] = next_shell
        return run.agreement(HalfMapFsc(curve, None, None, None, BOX * VOXEL))

    assert agreed(0.3) == pytest.approx(begun)
    assert agreed(0.9) > int(begun) + 1


def test_noise_agrees_no_further_than_the_map_it_started_from():
    for step in refined(noise(40, 1), starts(), replace(PLAN, max_iterations=4)):
        assert step.resolution_angstrom >= START


def test_workers_do_not_change_a_bit():
    table = sample()[0][np.arange(10)]
    plan = replace(PLAN, max_iterations=2)
    one, two = (list(refined(table, starts(), plan, executor=Local(workers))) for workers in (1, 2))
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.table.poses.matrix, b.table.poses.matrix)
        assert all(np.array_equal(x.data, y.data) for x, y in zip(a.halves, b.halves, strict=True))


def test_particles_that_come_to_lie_on_a_better_one_are_dropped_by_name():
    table, _, _ = sample()
    twice = [table.load(i) for i in (*range(10), 3)]
    doubled = table_of(twice)
    plan = replace(PLAN, max_iterations=1, duplicates_angstrom=VOXEL)
    apart = 1000.0 * np.arange(11.0)[:, None] * np.ones(3)
    apart[10] = apart[3]
    step = next(
        iter(refined(doubled, starts(), plan, places_angstrom=lambda t: apart[t.rows] + t.poses.shift_angstrom))
    )
    assert [{dropped, stays} for dropped, stays, _ in step.dropped] == [{"TS/3", "TS/10"}]
    assert len(step.table) == len(step.results) == 10


def test_listed_poses_are_held_by_their_prior():
    table, truth, _ = sample()
    rng = np.random.default_rng(5)
    off = truth.retract(np.hstack([np.radians(2.0) * rng.normal(size=(24, 3)), 4.0 * rng.normal(size=(24, 3))]))
    listed = table.with_poses(off)
    steps = list(refined(listed, None, replace(PLAN, listed=LocalSearch(2.0, 4.0), max_iterations=3)))
    before = np.median(off.rotation_distance_deg(truth))
    assert {step.search for step in steps} == {"local"}
    assert np.median(steps[-1].table.poses.rotation_distance_deg(truth)) < before
    stiff = next(iter(refined(listed, None, replace(PLAN, listed=LocalSearch(1e-3, 1e-3), max_iterations=1))))
    assert np.max(stiff.table.poses.rotation_distance_deg(off)) < 0.05


def test_halves_that_a_list_has_in_two_frames_end_in_one():
    table, truth, _ = sample()
    second = (np.asarray(table.half_sets) == 2)[:, None]
    # Maps of 1000 particles each would be as far apart as their frames; no error of single particles hides it here.
    apart = Pose.from_euler_zyz_deg([10.0, 2.0, -9.0], [6.0, -6.0, 4.0])
    listed = Pose.stack([truth[i] @ apart if second[i] else truth[i] for i in range(len(table))])
    steps = list(refined(table.with_poses(listed), None, replace(PLAN, listed=LocalSearch(2.0, 4.0), max_iterations=3)))
    own = truth.inverse() @ steps[-1].table.poses
    frames = [
        Pose(own.rotation[chosen].mean(), own.shift_angstrom[chosen].mean(axis=0))
        for chosen in (~second[:, 0], second[:, 0])
    ]
    last = steps[-1]
    # The mean of twelve errors is known to their deviation over the root of twelve, and there are two.
    sd = np.sqrt(3 * 2 / 12) * np.median([result.rotation_sd_deg for result in last.results])
    assert frames[0].rotation_distance_deg(frames[1]) < 3.0 * sd
    sd = np.sqrt(3 * 2 / 12) * np.median([result.shift_sd_angstrom for result in last.results])
    assert frames[0].shift_distance_angstrom(frames[1]) < 3.0 * sd


def test_results_and_list_hold_one_pose_when_half_2_was_moved(monkeypatch):
    drift = Pose.from_euler_zyz_deg([0.0, 0.0, 5.0], [3.0, 0.0, 0.0])
    step = {}
    for moved_by in (None, drift):
        monkeypatch.setattr(refinement_module, "drift_of", lambda *_, by=moved_by, **__: by)
        step[moved_by is drift] = next(iter(refined(sample()[0], starts(), replace(PLAN, max_iterations=1))))
    before, after = step[False], step[True]
    for row, half in enumerate(np.asarray(sample()[0].half_sets)):
        result = after.results[row]
        np.testing.assert_array_equal(result.pose.matrix, after.table.poses[row].matrix)
        np.testing.assert_array_equal(result.pose.shift_angstrom, after.table.poses[row].shift_angstrom)
        expected = before.results[row].after(drift) if half == 2 else before.results[row]
        for one, other in zip(result.runners_up, expected.runners_up, strict=True):
            np.testing.assert_allclose(one.pose.matrix, other.pose.matrix)
        np.testing.assert_allclose(result.covariance, expected.covariance)


def test_the_result_is_the_last_of_those_that_agree_best():
    steps = refinement()
    fading = replace(steps[-1], resolution_angstrom=2.0 * steps[-1].resolution_angstrom)
    assert best_of([*steps, fading]) is steps[-1]
    assert best_of(steps) is steps[-1]


def test_a_start_map_holds_nothing_beyond_its_resolution(rng):
    white = Volume(rng.normal(size=(32, 32, 32)), 10.0)
    power = np.abs(np.fft.fftn(start_map(white, resolution_angstrom=64.0).data)) ** 2
    k = np.fft.fftfreq(32) * 32
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    assert power[radius >= 5.0].max() < 1e-8 * power.max()
    assert power[radius <= 3.0].max() > 0.0
    with pytest.raises(ValueError, match="holds nothing"):
        start_map(white, resolution_angstrom=300.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"half_sets": np.zeros(24, dtype=np.int8)}, "half set"),
        ({"half_sets": np.ones(24, dtype=np.int8)}, "both halves"),
    ],
)
def test_particles_without_halves_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        next(iter(refined(replace(sample()[0], **change), starts(), PLAN)))


def test_plans_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="margin"):
        Plan(margin_shells=5.0)
    with pytest.raises(ValueError, match="searches"):
        Plan(Settings(search="local"))
    with pytest.raises(ValueError, match="duplicates"):
        next(iter(refined(sample()[0], starts(), replace(PLAN, duplicates_angstrom=10.0))))


@cache
def from_nothing() -> tuple[Volume, ...]:
    """Maps of 12 particles each, from all and from each half."""
    table = sample()[0]
    halves = initial_model_halves(table, SETTINGS, count=12)
    return halves.volumes


def fit(volume: Volume, truth: Volume) -> float:
    """Correlation where the map fits best, at the resolution that was compared."""
    pose = Aligner(volume, SETTINGS).align(Subtomogram(truth)).pose
    laid = moved(volume, pose.matrix, pose.shift_angstrom)
    return correlation(*(low_passed(v, resolution_angstrom=50.0) for v in (laid, truth)))


def test_a_map_comes_from_twelve_particles_in_their_own_hand():
    truth = sample()[2]
    for volume in from_nothing():
        mirrored = Volume(volume.data[:, :, ::-1], VOXEL)
        assert fit(volume, truth) > 0.85
        assert fit(volume, truth) > fit(mirrored, truth) + 0.02


def test_the_maps_of_both_halves_lie_on_one_another():
    one, two = (low_passed(v, resolution_angstrom=50.0) for v in from_nothing())
    assert correlation(one, two) > 0.8


def test_poses_of_the_list_are_not_looked_at():
    table = sample()[0][np.arange(8)]
    turned = table.with_poses(Pose.random(8, rng=np.random.default_rng(1), max_shift_angstrom=9.0))
    one, two = (initial_model(t, SETTINGS, rng=np.random.default_rng(0)) for t in (table, turned))
    assert np.array_equal(one.volume.data, two.volume.data)


def test_a_map_from_nothing_has_no_axes_to_expect_symmetry_about():
    with pytest.raises(ValueError, match="axes anywhere"):
        initial_model(sample()[0], Settings(symmetry="C4"), rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="at least 6"):
        initial_model(sample()[0][np.arange(4)], SETTINGS, rng=np.random.default_rng(0))
