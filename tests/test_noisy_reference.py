"""A reference as signal with a known error: what is compared in its place, and what it leaves open."""

from __future__ import annotations

import numpy as np
import pytest

from examples import BOX, SHARP, VOXEL, random, sharp
from gonio.alignment.aligner import Aligner
from gonio.averaging.averages import average
from gonio.averaging.resolution import half_map_fsc
from gonio.fourier.grid import index_grid
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume, background, soft_sphere
from gonio.preparation.noisy_reference import Support, filtered_reference, open_window, truth_profile
from gonio.settings import Settings
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

MAP = sharp(Pose.identity()).volume
SHELL = np.rint(np.linalg.norm(index_grid(BOX), axis=-1)).astype(int)
EVERYWHERE = np.ones((BOX,) * 3, np.float32)
# Of a body and an arm, voxels.
ARM_XYZ = [[-2.0, -2.0, -1.0], [2.0, -2.0, -1.0], [0.0, -1.0, 2.5], [0.0, 8.0, 1.0]]


def shell_sums(square: np.ndarray) -> np.ndarray:
    return np.bincount(SHELL.ravel(), weights=square.ravel())[: BOX // 2]


def spectrum_of(data: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(data.astype(float))))


def test_a_reliable_reference_is_the_map_itself():
    found = filtered_reference(MAP, EVERYWHERE, np.ones(BOX // 2 + 1), Support(EVERYWHERE))[0]
    np.testing.assert_allclose(found.data, MAP.data - background(MAP.data), atol=1e-5 * MAP.data.max())


def test_a_constant_says_nothing():
    raised = Volume(MAP.data + 7.0, VOXEL)
    sphere, curve = soft_sphere(BOX, radius_px=8.0, edge_px=2.0), np.linspace(1.0, 0.2, BOX // 2 + 1)
    one, two = (filtered_reference(volume, sphere, curve, Support(sphere))[0].data for volume in (MAP, raised))
    np.testing.assert_allclose(one, two, atol=1e-5 * MAP.data.max())


def test_the_filtered_reference_is_the_nearest_to_the_truth():
    """Of r = g + e the filter S / (S + E) leaves S E / (S + E) of the truth's power open, and no scaled one less."""
    rng = np.random.default_rng(1)
    truth = spectrum_of(rng.normal(size=(BOX,) * 3))
    noise = spectrum_of(2.0 * rng.normal(size=(BOX,) * 3))
    power, error = shell_sums(np.abs(truth) ** 2), shell_sums(np.abs(noise) ** 2)
    reliability = power / (power + error)
    rough = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(truth + noise))).real

    def left(curve: np.ndarray) -> np.ndarray:
        made = filtered_reference(Volume(rough.astype(np.float32), VOXEL), EVERYWHERE, curve, Support(EVERYWHERE))[0]
        return shell_sums(np.abs(spectrum_of(made.data) - truth) ** 2)[2:]

    open_part = (power * (1.0 - reliability))[2:]
    # The two are independent up to one over the root of a shell's samples (at least 60).
    np.testing.assert_allclose(left(reliability), open_part, rtol=0.35)
    assert (left(reliability).sum() < left(np.minimum(1.3 * reliability, 1.0)).sum()) and (
        left(reliability).sum() < left(0.7 * reliability).sum()
    )


def test_where_the_truth_is_the_map_is_kept_and_elsewhere_it_is_noise():
    """The profile is that of the truth, and the density nearer to it than by a filter that is everywhere the same."""
    rng = np.random.default_rng(3)
    radius = np.linalg.norm(index_grid(BOX), axis=-1)
    envelope = np.exp(-0.5 * (radius / 4.0) ** 2)
    truth, noise = (rng.normal(size=(BOX,) * 3) * one for one in (envelope, 0.5))
    sphere = soft_sphere(BOX, radius_px=8.0, edge_px=2.0)
    power, error = (shell_sums(np.abs(spectrum_of(one * sphere)) ** 2) for one in (truth, noise))
    reliability = power / (power + error)
    map_ = Volume((truth + noise).astype(np.float32), VOXEL)
    profile = truth_profile(map_, reliability, Support(sphere))
    wanted = envelope**2 / np.average(envelope**2, weights=sphere**2)
    for distance in (5, 6, 7):  # bands blur it
        assert profile[distance] == pytest.approx(wanted[np.rint(radius) == distance].mean(), rel=0.35)
    assert np.all(np.diff(profile[2:9]) < 0.0)
    assert profile[10:14].max() < 0.02 * profile[3]
    found = filtered_reference(map_, EVERYWHERE, reliability, Support(sphere))[0].data
    alike = np.interp(SHELL, np.arange(len(reliability)), reliability) * spectrum_of(map_.data)
    uniform = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(alike))).real * sphere
    assert np.square(found - truth).sum() < 0.8 * np.square(uniform - truth).sum()


def test_within_a_mask_off_the_centre_the_truth_is_looked_for_in_the_mask():
    """Distances count from the mask's centroid, and bright density outside it changes nothing."""
    rng = np.random.default_rng(4)
    index = index_grid(BOX)  # (n, n, n, 3), x first
    mask, elsewhere = (
        np.clip((5.5 - np.linalg.norm(index - centre, axis=-1)) / 2.0, 0.0, 1.0).astype(np.float32)
        for centre in ([0.0, 7.0, 4.0], [0.0, -8.0, 0.0])
    )
    texture = rng.normal(size=(BOX,) * 3)
    truth, noise = texture * mask, 0.5 * rng.normal(size=(BOX,) * 3)
    power, error = (shell_sums(np.abs(spectrum_of(one * mask)) ** 2) for one in (truth, noise))
    reliability = power / (power + error)
    map_, neighboured = (
        Volume((truth + noise + factor * texture * elsewhere).astype(np.float32), VOXEL) for factor in (0.0, 5.0)
    )
    found = filtered_reference(map_, mask, reliability, Support(mask, is_mask=True))[0].data
    alike = np.interp(SHELL, np.arange(len(reliability)), reliability) * spectrum_of(map_.data * mask)
    uniform = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(alike))).real
    assert np.square(found - truth).sum() < 1.1 * np.square(uniform - truth).sum()
    beside = filtered_reference(neighboured, mask, reliability, Support(mask, is_mask=True))[0].data
    assert np.square(beside - found).sum() < 0.02 * np.square(truth).sum()


def test_the_power_that_is_left_open_is_stated():
    """Where there is less of the truth the filter leaves more of it, and in all what R_g says."""
    rng = np.random.default_rng(5)
    envelope = np.exp(-0.5 * (np.linalg.norm(index_grid(BOX), axis=-1) / 4.0) ** 2)
    sphere = soft_sphere(BOX, radius_px=8.0, edge_px=2.0)
    truth, noise = (rng.normal(size=(BOX,) * 3) * one for one in (envelope, 0.3))
    power, error = (shell_sums(np.abs(spectrum_of(one * sphere)) ** 2) for one in (truth, noise))
    reliability = power / (power + error)
    made, held = filtered_reference(
        Volume((truth + noise).astype(np.float32), VOXEL), EVERYWHERE, reliability, Support(sphere)
    )
    left = shell_sums(np.abs(spectrum_of((made.data - truth) * sphere)) ** 2)
    ratio = (power * (1.0 - held[: len(power)]))[3:].sum() / left[3:].sum()
    assert 0.8 < ratio < 1.3  # of R alone 1.4
    assert (held[3 : len(power)] > reliability[3:]).all()


@pytest.mark.slow
def test_an_arm_at_the_edge_of_the_estimated_sphere_does_not_pull_particles():
    """Aligned to a noisy map particles stay where they are on average; a sphere that cut the arm pulled by 0.56 A."""
    arm = Phantom.from_standard_deviations(
        np.array([1.0, 1.0, 1.0, 0.6]), VOXEL * np.array(ARM_XYZ), sds_xyz=np.full((4, 3), 1.5 * VOXEL)
    )
    imaging = Imaging(box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=3.0, snr=0.1, ctf=None)
    poses = Pose.random(96, rng=random(2), max_shift_angstrom=VOXEL)
    particles = [simulate_subtomogram(arm, poses[i], imaging=imaging, rng=random(2000 + i)) for i in range(96)]
    made = average(particles[:48], poses[:48], half_sets=np.arange(48) % 2 + 1)
    assert made.halves is not None
    mask = Volume(soft_sphere(BOX, radius_px=14.0, edge_px=2.0), VOXEL)
    fsc = half_map_fsc(made.halves, mask=mask, rng=random(0)).best
    aligner = Aligner(made.volume, Settings(search="local"), reference_fsc=fsc)
    found = Pose.stack([one.pose for one in aligner.align_many(particles[48:], starts=poses[48:])])
    along_arm = (poses[48:].inverse() @ found).shift_angstrom[:, 1]
    assert abs(along_arm.mean()) < 0.3  # 0.1 is its standard deviation


def test_a_map_of_which_nothing_is_reliable_can_be_aligned_to():
    noise = Volume(np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32), VOXEL)
    aligner = Aligner(noise, Settings(resolution_angstrom=4.0 * VOXEL), reference_fsc=np.zeros(BOX // 2 + 1))
    target = sharp(Pose.identity())
    assert np.isfinite(aligner.align(target).dissimilarity)


@pytest.mark.parametrize("least", [1.0, 0.9, 0.3])
def test_a_window_opens_where_nothing_around_the_particle_is_noise(least):
    sphere = soft_sphere(BOX, radius_px=6.0, edge_px=2.0)
    window = open_window(sphere, np.linspace(1.0, least, 9))
    around = window[sphere == 0.0]
    assert (window >= sphere).all() and np.ptp(around) == 0.0
    assert around[0] == {1.0: 1.0, 0.9: pytest.approx(0.43, abs=0.01), 0.3: pytest.approx(0.0, abs=1e-3)}[least]


def test_a_noisy_average_finds_particles_nearly_as_well_as_the_truth():
    """Of 16 particles at SNR 0.05, other 12 are aligned to the average, and to the noise-free map.

    The reference's own noise is a quarter of theirs in all: it may cost a few tenths. Where it was not in the model the
    same targets were off by three times as much (SNR 0.01 to 0.1).
    """
    imaging = Imaging(box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=3.0, snr=0.05)
    poses = Pose.random(28, rng=random(5), max_shift_angstrom=VOXEL)
    particles = [simulate_subtomogram(SHARP, poses[i], imaging=imaging, rng=random(i)) for i in range(28)]
    made = average(particles[:16], poses[:16], half_sets=np.arange(16) % 2 + 1)
    assert made.halves is not None
    mask = Volume(soft_sphere(BOX, radius_px=10.0, edge_px=3.0), VOXEL)
    fsc = half_map_fsc(made.halves, mask=mask, rng=random(0)).best
    off = {}
    for name, aligner in (
        ("noisy", Aligner(made.volume, Settings(search="local"), reference_fsc=fsc)),
        ("truth", Aligner(MAP, Settings(search="local"))),
    ):
        found = aligner.align_many(particles[16:], starts=poses[16:])
        off[name] = np.sqrt(np.mean([r.pose.rotation_distance_deg(poses[16 + i]) ** 2 for i, r in enumerate(found)]))
    assert off["noisy"] < 1.8 * off["truth"]
