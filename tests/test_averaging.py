"""Averages of particles at known poses are the particle, in the reference's frame and on its scale."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from examples import premultiplied, table_of
from gonio.averaging.averages import Average, average, average_classes, average_table
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Subtomogram, TiltStack, Volume, correlation, soft_sphere
from gonio.particle.wedge import NoWedge, SingleAxisWedge
from gonio.run.executor import Local
from gonio.simulate import PAPER_CTF, Imaging, Phantom, simulate_subtomogram, simulate_tilt_stack

VOXEL = 10.0
BOX = 32
LIMIT = 8  # shells, of 16: the paper's 4 nm
SHARP = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
POSES = Pose.random(40, rng=np.random.default_rng(1), max_shift_angstrom=20.0)
KINDS = ["subtomograms", "stacks", "stacks with ctf", "premultiplied stacks"]


def sharp(pose: Pose, *, box: int = BOX) -> Volume:
    """The density itself at a pose."""
    return Volume(SHARP.density(pose, box=box, voxel_size_angstrom=VOXEL), VOXEL)


TRUTH = sharp(Pose.identity())


@cache
def particles(kind: str, *, snr: float = np.inf) -> tuple[Subtomogram | TiltStack, ...]:
    """One particle for each of POSES, tilted to +-60 degrees."""
    rng = np.random.default_rng(2)
    imaging = Imaging(tilt_step_deg=3.0, snr=snr, ctf=PAPER_CTF if "stacks with" in kind or "pre" in kind else None)
    if kind == "subtomograms":
        return tuple(simulate_subtomogram(SHARP, pose, imaging=imaging, rng=rng) for pose in POSES)
    stacks = [simulate_tilt_stack(SHARP, pose, imaging=imaging, rng=rng) for pose in POSES]
    return tuple(premultiplied(stack) if "pre" in kind else stack for stack in stacks)


@cache
def averaged(kind: str) -> Average:
    """Their average, with halves."""
    return average(particles(kind), POSES, half_sets=np.arange(len(POSES)) % 2 + 1)


# Measured to shell 8: 0.997 (reconstructions, whose box edges leak), 0.999 and, with the paper's CTF, 0.993: it lets
# little of the first shells through.
@pytest.mark.parametrize("kind", KINDS)
def test_the_average_is_the_particle(kind):
    result = averaged(kind)
    assert result.count == len(POSES)
    fsc = fourier_shell_correlation(result.volume, TRUTH)
    assert (fsc[: LIMIT + 1] > 0.99).all()
    mirrored = Volume(TRUTH.data[:, :, ::-1], VOXEL)
    assert correlation(result.volume, mirrored) < correlation(result.volume, TRUTH) - 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_average_has_the_particles_scale(kind):
    """FCS compares on one scale, so densities must keep their units, whatever they are averaged from.

    A detector's MTF and what reconstruction loses are 10 %. A CTF is near zero in the first shells, where the damping
    of rarely seen samples takes 5 %.
    """
    data, truth = averaged(kind).volume.data.ravel(), TRUTH.data.ravel()
    slope = np.polyfit(truth, data, 1)[0]
    assert slope == pytest.approx(1.0, abs={"subtomograms": 0.15, "stacks": 0.03}.get(kind, 0.08))


def test_one_full_particle_is_turned_back_exactly(box=32):
    """Of a pose that is not its own inverse, to the interpolation of 5e-4."""
    pose = Pose.from_euler_zyz_deg([40.0, 70.0, -25.0], [13.0, -8.0, 21.0])
    result = average([Subtomogram(sharp(pose), NoWedge())], Pose.stack([pose]))
    error = np.sqrt(((result.volume.data - TRUTH.data) ** 2).mean() / (TRUTH.data**2).mean())
    assert error < 2e-3
    wrong = average([Subtomogram(sharp(pose), NoWedge())], Pose.stack([pose.inverse()]))
    assert correlation(wrong.volume, TRUTH) < 0.9


@pytest.mark.parametrize("box", [24, 25])
def test_boxes_may_be_even_or_odd(box):
    poses = POSES[:6]
    whole = [Subtomogram(sharp(pose, box=box), NoWedge()) for pose in poses]
    fsc = fourier_shell_correlation(average(whole, poses).volume, sharp(Pose.identity(), box=box))
    assert (fsc[:7] > 0.99).all()  # a box of 24 cuts the tails of particles that are shifted by 2 voxels


@pytest.mark.parametrize("kind", ["subtomograms", "stacks"])
def test_missing_wedges_are_filled_by_other_views(kind):
    """Weights are counted where they were measured: one view alone is blind in its wedge, all together are not."""
    alone = average(particles(kind)[:1], POSES[:1]).volume
    assert correlation(alone, TRUTH) < correlation(averaged(kind).volume, TRUTH) - 0.03


def test_views_count_by_what_they_have_measured():
    """A particle that declares little measured, and is empty there, takes nothing from the others."""
    empty = Subtomogram(Volume(TRUTH.data * 1e-6, VOXEL), SingleAxisWedge(-5, 5))
    pose = Pose.identity()
    two = average([Subtomogram(TRUTH), empty], Pose.stack([pose, pose])).volume
    blind = np.fft.fftshift(np.abs(np.fft.fftn(two.data) / np.fft.fftn(TRUTH.data)))
    assert blind[16 + 5, 16, 16] == pytest.approx(1.0, abs=0.02)  # k_z, outside the narrow wedge
    assert blind[16, 16, 16 + 5] == pytest.approx(0.5, abs=0.02)  # k_x, inside


@pytest.mark.parametrize("kind", ["subtomograms", "stacks"])
def test_halves_are_averages_of_their_halves(kind):
    result = averaged(kind)
    odd = average(particles(kind)[1::2], POSES[1::2])
    assert odd.halves is None and odd.fsc is None
    # Sums of other blocks, of some hundred samples each, are rounded otherwise in single precision.
    np.testing.assert_allclose(result.halves[1].data, odd.volume.data, atol=1e-5)
    np.testing.assert_array_equal(result.fsc, fourier_shell_correlation(*result.halves))
    # Without noise they differ by what each has not seen: 20 views fill the first shells.
    assert (result.fsc[:LIMIT] > 0.98).all()


def test_particles_in_no_half_count_in_the_whole_only():
    half_sets = np.array([1, 2, 0, 0] * 10)
    result = average(particles("subtomograms"), POSES, half_sets=half_sets)
    np.testing.assert_allclose(result.volume.data, averaged("subtomograms").volume.data, atol=1e-6)
    ones = average(particles("subtomograms")[::4], POSES[::4]).volume
    np.testing.assert_allclose(result.halves[0].data, ones.data, atol=1e-6)


def test_noise_averages_out_and_the_halves_tell():
    """Forty views at SNR 0.5: the halves agree in the first shells and not in the last."""
    result = average(particles("stacks", snr=0.5), POSES, half_sets=np.arange(40) % 2 + 1)
    assert (result.fsc[1:5] > 0.9).all()
    assert abs(result.fsc[13:15].mean()) < 0.3
    truth = fourier_shell_correlation(result.volume, TRUTH)
    # FSC with truth is sqrt(2 f / (1 + f)) of the halves' f (Rosenthal & Henderson 2003); noise in f is a few percent.
    f = result.fsc[1:9]
    np.testing.assert_allclose(truth[1:9], np.sqrt(2 * f / (1 + f)), atol=0.05)


def test_what_cannot_be_averaged_is_refused():
    volume, stack = particles("subtomograms")[0], particles("stacks")[0]
    with pytest.raises(ValueError, match="2 poses need as many particles, got 1"):
        average([volume], POSES[:2])
    with pytest.raises(ValueError, match="more particles than poses"):
        average([volume, volume], POSES[:1])
    with pytest.raises(ValueError, match="0 poses need"):
        average([], POSES[:0])
    with pytest.raises(ValueError, match="one kind"):
        average([volume, stack], POSES[:2])
    with pytest.raises(ValueError, match="particle 2: has a box of 24 voxels"):
        average([volume, Subtomogram(sharp(POSES[1], box=24))], POSES[:2])
    with pytest.raises(ValueError, match="particle 2: has a box of 32 voxels of 5 angstrom"):
        average([volume, Subtomogram(Volume(volume.volume.data, 5.0))], POSES[:2])
    for half_sets in ([1], [1, 3], [1, 2, 2]):
        with pytest.raises(ValueError, match="half_sets must be 0, 1 or 2 for each of 2 particles"):
            average([volume, volume], POSES[:2], half_sets=np.array(half_sets))
    rounded = Subtomogram(Volume(volume.volume.data, volume.volume.voxel_size_angstrom * (1.0 + 1e-6)))
    assert average([volume, rounded], POSES[:2]).volume.box == BOX


def beads(box: int) -> Phantom:
    """Twelve beads of one voxel's standard deviation: detail in every shell, where `sharp` has none beyond shell 10."""
    rng = np.random.default_rng(5)
    centres = rng.normal(size=(12, 3))
    centres *= 0.28 * box * VOXEL * np.cbrt(rng.random((12, 1))) / np.linalg.norm(centres, axis=1, keepdims=True)
    sds = np.full((12, 3), VOXEL)
    return Phantom.from_standard_deviations(rng.uniform(0.5, 1.5, 12), centres, sds_xyz=sds)


# The paper's CTF lets next to nothing through in shells 11 and 12, at every tilt of every particle.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "box"),
    [("subtomograms", 32), ("subtomograms", 33), ("stacks", 32), ("stacks with ctf", 32), ("stacks with ctf", 33)],
)
def test_averages_have_no_artefact_of_their_grid(kind, box):
    """200 noise-free particles, +-60 degrees: FSC with the truth over 0.99 in every shell that is not aliased.

    Images sample beads at points, so that what lies beyond Nyquist is in their last shell, from another side in each.
    """
    phantom, count = beads(box), 200
    truth = Volume(phantom.density(Pose.identity(), box=box, voxel_size_angstrom=VOXEL), VOXEL)
    poses = Pose.random(count, rng=np.random.default_rng(4), max_shift_angstrom=20.0)
    ctf = PAPER_CTF if "ctf" in kind else None
    imaging = Imaging(box=box, tilt_step_deg=3.0, ctf=ctf, detector_mtf=False)
    simulate = simulate_subtomogram if kind == "subtomograms" else simulate_tilt_stack
    held = (simulate(phantom, pose, imaging=imaging, rng=np.random.default_rng(5)) for pose in poses)
    fsc = fourier_shell_correlation(average(held, poses).volume, truth)
    last = (box - 1) // 2
    assert fsc[:last].min() > 0.99
    assert fsc[last] > 0.95


@pytest.mark.parametrize("kind", ["subtomograms", "stacks"])
def test_any_executor_makes_the_same_bits(kind):
    held, half_sets = particles(kind), (np.arange(40) % 3).astype(np.int8)
    here = average(held, POSES, half_sets=half_sets, symmetry="C2")
    for workers in (1, 2):
        made = average_table(table_of(held, POSES), executor=Local(workers), half_sets=half_sets, symmetry="C2")
        assert made.volume.data.tobytes() == here.volume.data.tobytes()
        assert made.halves[1].data.tobytes() == here.halves[1].data.tobytes()
        assert (made.count, made.coverage.tobytes()) == (here.count, here.coverage.tobytes())


def test_classes_are_averaged_in_one_pass():
    held, classes = particles("subtomograms"), np.arange(40) % 3 - 1
    half_sets = (1 + np.arange(40) // 20).astype(np.int8)
    made = average_classes(table_of(held, POSES), classes, half_sets=half_sets)
    assert sorted(made) == [0, 1]
    rows = np.flatnonzero(classes == 1)
    alone = average([held[row] for row in rows], POSES[rows], half_sets=half_sets[rows])
    assert made[1].count == len(rows)
    np.testing.assert_allclose(made[1].volume.data, alone.volume.data, atol=1e-5 * np.abs(alone.volume.data).max())
    np.testing.assert_allclose(made[1].fsc[:-1], alone.fsc[:-1], atol=1e-5)  # Nyquist's shell is empty


@pytest.mark.parametrize("kind", ["subtomograms", "stacks"])
@pytest.mark.parametrize("name", ["C3", "D2"])
def test_a_symmetric_average_is_that_of_all_equivalent_poses(kind, name):
    """Whether the group's rotations are applied to particles or to their sums; C3 has those of both kinds."""
    made = average(particles(kind)[:4], POSES[:4], symmetry=name)
    group = Symmetry(name).rotations
    copies = [Pose(pose.rotation * g, pose.shift_angstrom) for pose in POSES[:4] for g in group]
    every = [particle for particle in particles(kind)[:4] for _ in group]
    plain = average(every, Pose.stack(copies))
    scale = np.abs(plain.volume.data).max()
    np.testing.assert_allclose(made.volume.data, plain.volume.data, atol=2e-4 * scale)  # single precision, damped
    assert correlation(made.volume, plain.volume) > 1 - 1e-6
    np.testing.assert_allclose(made.coverage, plain.coverage, atol=1e-4 * plain.coverage.max())
    assert made.count == 4


@pytest.mark.parametrize("name", ["C4", "T", "I1"])
def test_a_symmetric_average_has_its_symmetry(name):
    made = average(particles("stacks")[:6], POSES[:6], symmetry=name)
    sphere = soft_sphere(BOX, radius_px=12, edge_px=4)  # what lies in the corners of a box does not turn with it
    for matrix in Symmetry(name).matrices[1::7]:
        turned = moved(made.volume, matrix, np.zeros(3))
        fsc = fourier_shell_correlation(*(Volume(v.data * sphere, VOXEL) for v in (turned, made.volume)))
        assert fsc[1 : LIMIT + 1].min() > 0.99


def test_coverage_counts_what_was_measured():
    one = average(particles("subtomograms")[:1], Pose.identity(1))
    grid = np.indices(one.coverage.shape) - BOX // 2
    z, x = grid[0], grid[2]
    inside = np.rint(np.linalg.norm(grid, axis=0)) <= (BOX - 1) // 2
    seen = inside & (np.abs(z) < np.abs(x) * np.tan(np.radians(57)))
    missing = inside & (np.abs(z) > np.abs(x) * np.tan(np.radians(63)) + 1)
    assert (one.coverage[seen] == 1.0).all()
    assert (one.coverage[missing] == 0.0).all()
    assert (one.coverage[~inside] == 0.0).all()
