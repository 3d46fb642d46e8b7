"""What particles are before they are compared: restored within a sphere or mask, or as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples import BOX, POSES, SHARP, VOXEL, noisy, random, sharp
from gonio.alignment.aligner import Aligner
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.comparison.score import Score
from gonio.fourier.grid import index_grid
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import centred_fft, centred_ifft
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume, soft_sphere
from gonio.particle.wedge import NoWedge, SingleAxisWedge, WeightVolumeWedge
from gonio.preparation.prepare import Preparation
from gonio.settings import Settings
from gonio.simulate import PAPER_CTF, Imaging, simulate_subtomogram, simulate_tilt_stack

MAP = sharp(Pose.identity()).volume
REFERENCE = Subtomogram(MAP)
SHELL = np.linalg.norm(index_grid(BOX), axis=-1)
SPHERE = soft_sphere(BOX, radius_px=10.0, edge_px=2.0)
HALF = SPHERE * (np.arange(BOX) >= BOX // 2)  # the half with x above the centre


def noisy_map(*, sd: float = 1.0) -> Volume:
    """The map under white noise, ``sd`` of its largest density."""
    noise = np.random.default_rng(3).normal(size=MAP.data.shape)
    return Volume(MAP.data + sd * MAP.data.max() * noise, VOXEL)


def test_plain_inputs_are_the_particles_themselves():
    pair = Preparation(REFERENCE, Settings(inputs="plain")).pair(noisy(0))
    np.testing.assert_array_equal(pair.target.value, Spectrum.of(noisy(0), resolution_angstrom=4 * VOXEL).value)
    assert pair.samples_per_independent == 1.0 and pair.c_ref is None and pair.before is None


def test_restored_inputs_say_what_they_expect():
    pair = Preparation(noisy(1), Settings()).pair(noisy(0))
    assert pair.samples_per_independent > 1.0
    shells = round(pair.target.limit) + 1
    assert len(pair.before.correlation) == len(pair.before.target_power) == shells
    np.testing.assert_allclose(pair.before.target_power, pair.target.shell_power())


def test_noisy_targets_of_a_map_are_taken_as_they_were_measured():
    """However noisy the map is; not where a wedge is missing from it, or the target has little noise."""
    of_map = Preparation(REFERENCE, Settings())
    target = under_noise(POSES[0], 0)
    pair = of_map.pair(target)
    assert pair.exact and pair.before is None and pair.samples_per_independent == pytest.approx(1.0, abs=5e-3)
    assert pair.target.on_grid and pair.diameter_angstrom > 100.0
    assert Preparation(Subtomogram(noisy_map()), Settings()).pair(target).exact
    assert Preparation(REFERENCE, Settings(), reference_fsc=np.full(BOX // 2 + 1, 0.9)).pair(target).exact
    assert not of_map.pair(sharp(POSES[0])).exact
    assert not Preparation(noisy(1), Settings()).pair(target).exact


def test_what_is_expected_of_a_pair_does_not_jump_as_its_map_gets_noisier():
    """From half maps that agree in all to those that agree in nothing beyond a shell, step by step."""
    target, poses = under_noise(POSES[0], 0), POSES[:1]

    def value(fsc: float) -> float:
        curve = np.where(np.arange(BOX // 2 + 1) > 4, fsc, 1.0)
        pair = Preparation(REFERENCE, Settings(), reference_fsc=curve).pair(target)
        found, _ = pair.plain(Score.RCS).values(poses.matrix, poses.shift_angstrom)
        return float(found[0])

    def largest_step(count: int) -> float:
        return float(np.abs(np.diff([value(fsc) for fsc in np.linspace(1.0, 0.0, count)])).max())

    # Of a curve half of the way is half of the step, or a little more where it bends; of a jump it is all of it.
    assert largest_step(161) < 0.75 * largest_step(81)


def test_the_power_of_a_coarse_map_is_its_own():
    """Its sphere gives no shell power that the map has not: particles would be taken to lack what it ends with."""
    coarse = Subtomogram(MAP.low_passed(50.0), NoWedge())
    reference = Preparation(coarse, Settings())._reference_for(BOX)
    own = Spectrum.of(coarse, limit=reference.best.limit).shell_power()
    np.testing.assert_allclose(reference.known.power, own, rtol=0.03, atol=3e-4 * own.max())


def test_a_map_that_no_lens_has_shown_is_brought_to_what_the_target_shows():
    """The microscope takes low shells away that the density has; restored, it is off by twice as much.

    Ten particles: their mean square has a standard deviation of a quarter of itself, the ratio is near 5.
    """
    imaging = Imaging(tilt_step_deg=3.0, snr=0.5, ctf=PAPER_CTF)
    poses = Pose.random(10, rng=random(3), max_shift_angstrom=20.0)
    targets = [simulate_subtomogram(SHARP, poses[i], imaging=imaging, rng=random(i)) for i in range(10)]
    square = {}
    for name, reference in (("clean", MAP), ("wedged", Subtomogram(MAP, SingleAxisWedge(-89.9, 89.9)))):
        results = Aligner(reference, Settings(search="local")).align_many(targets, starts=poses)
        off = [r.pose.rotation_distance_deg(poses[i]) for i, r in enumerate(results)]
        square[name] = np.mean(np.square(off))
    assert square["clean"] < 0.5 * square["wedged"]


def test_noise_that_falls_with_frequency_is_weighed_as_it_falls():
    """Better than samples that count alike: twelve particles, mean squares of 36 normals scatter by a quarter."""
    fall = np.exp(-SHELL / 2.5)
    targets = [under_noise(POSES[0], seed, fall=fall) for seed in range(12)]
    preparation, starts = Preparation(REFERENCE, Settings()), POSES[np.zeros(12, int)]
    assert all(preparation.pair(target).exact for target in targets)
    square = {}
    for inputs in ("restored", "plain"):
        results = Aligner(MAP, Settings(search="local", inputs=inputs)).align_many(targets, starts=starts)
        square[inputs] = np.mean([r.pose.rotation_distance_deg(POSES[0]) ** 2 for r in results])
    assert square["restored"] < 0.5 * square["plain"]


def under_noise(pose: Pose, seed: int, *, fall: np.ndarray | None = None) -> Subtomogram:
    """The density at a pose, seen within +-60 degrees, under noise that is white or falls in shells."""
    noise = centred_fft(np.random.default_rng(seed).normal(size=MAP.data.shape)) * (1.0 if fall is None else fall)
    noise = centred_ifft(noise).real
    data = sharp(pose).volume.data
    sd = 5.0 if fall is None else 20.0
    return Subtomogram(Volume(data + sd * data.std() * noise, VOXEL), SingleAxisWedge(-60, 60))


def test_a_mask_says_where_the_reference_has_density():
    """Half of the particle is another reference: another spectrum, another answer, more crowded samples."""
    reference = noisy_map(sd=0.3)
    start = POSES[0]
    results = {}
    for name, mask in (("none", None), ("half", HALF), ("sphere", SPHERE)):
        aligner = Aligner(reference, Settings(search="local"), mask=None if mask is None else Volume(mask, VOXEL))
        results[name] = aligner.align(noisy(0), start=start)
    moved = results["half"].pose.rotation_distance_deg(results["none"].pose)
    assert moved > 0.1
    assert results["sphere"].pose.rotation_distance_deg(results["none"].pose) < moved
    # What half of the particle has in common with all of it is less.
    assert results["half"].expected_fsc.correlation.sum() < results["sphere"].expected_fsc.correlation.sum()


def test_a_mask_of_another_box_is_refused():
    with pytest.raises(ValueError, match="the mask has a box of 16 voxels, the reference one of 32"):
        Aligner(MAP, mask=Volume(soft_sphere(16, radius_px=5.0, edge_px=2.0), VOXEL))


def test_shells_that_the_reference_does_not_know_lose_their_weight():
    fsc = np.where(np.arange(BOX // 2 + 1) <= 4, 0.9, 0.0)
    free, capped = (Aligner(MAP, reference_fsc=f).align(noisy(0)) for f in (None, fsc))
    assert free.expected_fsc.correlation[5] > 0
    assert not capped.expected_fsc.correlation[5:].any()
    # sqrt(2 FSC / (1 + FSC)) is the correlation of a map with the truth, when FSC is that of its halves.
    c_ref = np.sqrt(2 * 0.9 / 1.9)
    np.testing.assert_allclose(
        capped.expected_fsc.correlation[:5], np.minimum(free.expected_fsc.correlation[:5], c_ref), atol=0.05
    )
    target = Spectrum.of(noisy(0), resolution_angstrom=4 * VOXEL)
    pair = Preparation(REFERENCE, Settings(), reference_fsc=fsc).pair(noisy(0))
    weight = pair.filtered(Score.RCS, capped.expected_fsc).target.weight
    assert not weight[target.radius >= 5.0].any() and (weight[target.radius <= 4.0] > 0).all()
    assert capped.rotation_sd_deg > free.rotation_sd_deg


def test_a_perfect_reference_is_as_one_that_nothing_is_known_of():
    aligners = [Aligner(MAP, reference_fsc=f) for f in (None, np.ones(BOX // 2 + 1))]
    one, other = (a.align(noisy(1)) for a in aligners)
    # Of itself the map is known to hold 0.998 of signal in its worst shell, not all.
    assert one.pose.rotation_distance_deg(other.pose) < 0.02 * one.rotation_sd_deg
    assert one.pose.shift_distance_angstrom(other.pose) < 0.02 * one.shift_sd_angstrom


@pytest.mark.parametrize("box", [24, 40])
def test_what_is_known_of_the_reference_is_read_at_the_targets_frequencies(box):
    """Shells are one over the box wide: those of a larger box lie closer."""
    fsc = np.linspace(1.0, 0.2, BOX // 2 + 1)
    data = sharp(POSES[0], box=box).volume
    pair = Preparation(REFERENCE, Settings(), reference_fsc=fsc).pair(Subtomogram(data, SingleAxisWedge(-60, 60)))
    shells = np.arange(len(pair.c_ref)) * BOX / pair.target.box
    values = np.interp(shells, np.arange(len(fsc)), np.sqrt(2 * fsc / (1 + fsc)))
    np.testing.assert_allclose(pair.c_ref, values)


def test_the_sphere_is_as_asked_for_or_as_the_data_show():
    target = noisy(0)
    widest = BOX * VOXEL / 1.25
    given = {
        "mask_diameter_angstrom": (180.0, 180.0),
        "particle_diameter_angstrom": (160.0, 200.0),
    }
    for name, (diameter, sphere) in given.items():
        assert Preparation(REFERENCE, Settings(**{name: diameter})).diameter_angstrom(target) == sphere
    huge = Preparation(REFERENCE, Settings(particle_diameter_angstrom=1000.0))
    assert huge.diameter_angstrom(target) == pytest.approx(widest)
    assert 100.0 < Preparation(REFERENCE, Settings()).diameter_angstrom(target) <= widest


def test_particles_of_many_wedges_are_restored_each_with_its_own():
    preparation = Preparation(REFERENCE, Settings())
    axis = (np.arange(BOX) - BOX // 2) / BOX
    inside = np.abs(axis)[:, None, None] <= np.abs(axis) + 0 * axis[:, None]
    weights = WeightVolumeWedge(inside.astype(np.float32), VOXEL)
    first = preparation.pair(noisy(0)).target.value
    other = preparation.pair(replace(noisy(0), wedge=weights)).target
    assert len(other) < len(first)
    np.testing.assert_array_equal(preparation.pair(noisy(0)).target.value, first)


def test_shells_that_no_sample_is_in_are_no_obstacle():
    """A target that measured low shells only has as many shells to expect something of as any other."""
    axis = np.arange(BOX) - BOX // 2
    shell = np.sqrt((axis**2)[:, None, None] + (axis**2)[:, None] + axis**2)
    low = replace(sharp(POSES[0]), wedge=WeightVolumeWedge((shell < 5).astype(np.float32), VOXEL))
    result = Aligner(MAP, reference_fsc=np.ones(BOX // 2 + 1)).align(low)
    assert result.status.ok
    assert result.pose.rotation_distance_deg(POSES[0]) < 10.0
    assert len(result.expected_fsc.correlation) == len(Aligner(MAP).align(noisy(0)).expected_fsc.correlation)


def test_tilt_images_are_compared_with_the_same_reference():
    stack = simulate_tilt_stack(SHARP, POSES[0], imaging=Imaging(tilt_step_deg=10.0, snr=0.5, ctf=None), rng=random())
    pair = Preparation(REFERENCE, Settings()).pair(stack)
    assert not pair.target.on_grid and pair.samples_per_independent >= 1.0
    assert isinstance(pair.before, ExpectedFsc | None)


@pytest.mark.parametrize("box", [8, 16, 17, 33, 64])
@pytest.mark.parametrize("kind", ["white", "checkered", "one corner"])
def test_what_holds_no_particle_still_has_an_answer(box, kind):
    """As target and as reference: one particle of nothing does not end the alignment of all."""
    data = {
        "white": random(box).normal(size=(box,) * 3),
        "checkered": np.indices((box,) * 3).sum(axis=0) % 2.0,  # nothing below the limit but rounding
        "one corner": np.where(np.arange(box**3) == 0, 1.0, 0.0).reshape((box,) * 3),
    }[kind]
    nothing = Subtomogram(Volume(data, VOXEL), SingleAxisWedge(-60, 60))
    resolution = 26.0 if box == 8 else None
    particle = sharp(POSES[0], box=box)
    settings = Settings(resolution_angstrom=resolution)
    for target, reference in ((nothing, particle), (particle, nothing), (nothing, nothing), (nothing, particle.volume)):
        result = Aligner(reference, settings).align(target)
        assert np.isfinite(result.pose.matrix).all() and np.isfinite(result.pose.shift_angstrom).all()


def test_a_diameter_beyond_the_box_is_that_of_the_box():
    results = [Aligner(noisy(1), Settings(particle_diameter_angstrom=d)).align(noisy(0)) for d in (1e3, 1e6)]
    # The last step is the shorter, the larger the particle.
    assert results[0].pose.rotation_distance_deg(results[1].pose) < 0.01


@pytest.mark.parametrize("box", [31, 32, 64])
def test_the_finest_limit_is_two_voxels(box):
    result = Aligner(sharp(Pose.identity(), box=box), Settings(resolution_angstrom=2 * VOXEL)).align(
        sharp(POSES[1], box=box)
    )
    assert result.status.ok and result.pose.rotation_distance_deg(POSES[1]) < 0.1


def rms_deg(targets: list, truths: list[Pose], *, voxels: float) -> float:
    """Root mean square error of targets that are refined from their true poses against the map, degrees."""
    results = Aligner(MAP, Settings(search="local", resolution_angstrom=voxels * VOXEL)).align_many(
        targets, starts=truths
    )
    errors = [float(r.pose.rotation_distance_deg(truth)) for r, truth in zip(results, truths, strict=True)]
    return float(np.sqrt(np.mean(np.square(errors))))


@pytest.mark.parametrize("kind", ["stacks", "subtomograms"])
def test_finer_limits_do_not_make_poses_worse(kind):
    """Shells without signal tell nothing. With a map that was restored errors were 1.5 and 2.2 times (stacks) those of
    four voxels, 4.4 and 1.3 times (subtomograms); ten targets scatter by a quarter."""
    rng, simulate = np.random.default_rng(1), simulate_tilt_stack if kind == "stacks" else simulate_subtomogram
    imaging = Imaging(tilt_step_deg=3.0, snr=0.3 if kind == "stacks" else 10.0)
    if kind == "subtomograms":
        imaging = replace(imaging, ctf=None, detector_mtf=False)
    drawn = Pose.random(10, rng=rng, max_shift_angstrom=20.0)
    truths = [drawn[i] for i in range(10)]
    targets = [simulate(SHARP, truth, imaging=imaging, rng=rng) for truth in truths]
    coarse = rms_deg(targets, truths, voxels=4.0)
    assert coarse < 0.7
    for voxels in (2.6, 2.2):
        assert rms_deg(targets, truths, voxels=voxels) < 1.35 * coarse
