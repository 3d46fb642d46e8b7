"""Each step of the imaging chain, and the whole of it against densities that are known."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import fft
from scipy.stats import chi2

from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.wedge import SingleAxisWedge
from gonio.simulate import (
    DEFAULT_CTF,
    PAPER_CTF,
    CtfCorrection,
    Imaging,
    Phantom,
    simulate_subtomogram,
    simulate_tilt_stack,
)
from gonio.simulate import microscope as m

VOXEL = 10.0
POSE = Pose.from_euler_zyz_deg([25.0, 70.0, -110.0], [13.0, -7.0, 4.0])
PERFECT = Imaging(tilt_min_deg=-90.0, tilt_max_deg=90.0, ctf=None, detector_mtf=False)
SHARP = Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20120720)


def frequencies_xyz(box: int) -> np.ndarray:
    """Of ``fftn``, per angstrom, shape (z, y, x, 3)."""
    k = fft.fftfreq(box, VOXEL)
    return np.stack(np.meshgrid(k, k, k, indexing="ij")[::-1], axis=-1)


def shells(box: int) -> np.ndarray:
    return np.rint(np.linalg.norm(frequencies_xyz(box), axis=-1) * box * VOXEL).astype(int)


def energy_outside(data: np.ndarray, wedge: SingleAxisWedge) -> float:
    """Share of the energy at k > 0 that lies where the wedge says nothing was measured."""
    power = np.abs(fft.fftn(data)) ** 2
    power[0, 0, 0] = 0.0
    return float(power[wedge.weight_at(frequencies_xyz(len(data))) == 0].sum() / power.sum())


# Tilts


def test_tilt_angles_include_both_ends():
    assert m.tilt_angles_deg(-60.0, 60.0).size == 121
    np.testing.assert_allclose(m.tilt_angles_deg(-30.0, 60.0, step_deg=3.0)[[0, 1, -1]], [-30.0, -27.0, 60.0])


@pytest.mark.parametrize(("low", "high", "step"), [(-60.0, 60.0, 7.0), (-60.0, 60.0, 0.0), (10.0, 10.0, 1.0)])
def test_tilt_angles_need_whole_steps(low, high, step):
    with pytest.raises(ValueError, match="step"):
        m.tilt_angles_deg(low, high, step_deg=step)


def test_a_tilt_turns_the_specimen_right_handed_about_the_axis():
    about_y = m.tilt_poses(Pose.identity(), [90.0], axis_deg=90.0)[0]
    np.testing.assert_allclose(about_y.apply([0.0, 0.0, 1.0]), [1.0, 0.0, 0.0], atol=1e-12)  # z to x
    about_x = m.tilt_poses(Pose.identity(), [90.0], axis_deg=0.0)[0]
    np.testing.assert_allclose(about_x.apply([0.0, 1.0, 0.0]), [0.0, 0.0, 1.0], atol=1e-12)  # y to z
    shifted = m.tilt_poses(POSE, [-30.0, 45.0], axis_deg=20.0)
    np.testing.assert_allclose(shifted[1].inverse().shift_angstrom, POSE.inverse().shift_angstrom, atol=1e-12)


def test_tilt_weights_are_the_step_and_shared_by_identical_ends():
    np.testing.assert_allclose(m.tilt_weights([-2.0, 0.0, 2.0]), np.radians(2.0))
    full = m.tilt_weights(m.tilt_angles_deg(-90.0, 90.0))
    assert full.sum() == pytest.approx(np.pi)
    assert full[0] == full[-1] == pytest.approx(np.radians(0.5))
    with pytest.raises(ValueError, match="increasing"):
        m.tilt_weights([10.0, 0.0])


# Noise


@pytest.mark.parametrize("snr", [2.0, 0.1])
def test_noise_has_the_variance_that_was_asked_for(snr, rng):
    clean = rng.standard_normal((20, 1, 1)) * np.pad(np.ones((20, 16, 16)), ((0, 0), (8, 8), (8, 8)))
    noise = m.add_noise(clean, snr=snr, box=16, rng=rng) - clean
    ratio = noise.var() / (clean[:, 8:24, 8:24].var() / snr)
    # The sum of squares of N white samples is chi-squared; one fixed seed, missed with odds of 1e-6.
    low, high = chi2.ppf([5e-7, 1 - 5e-7], noise.size) / noise.size
    assert low < ratio < high
    neighbours = (noise[..., 1:] * noise[..., :-1]).mean() / noise.var()
    assert abs(neighbours) < 5.0 / np.sqrt(noise.size)


def test_infinite_snr_adds_nothing_and_leaves_the_generator_alone(rng):
    before = rng.bit_generator.state
    clean = np.ones((2, 8, 8), dtype=np.float32)
    assert (m.add_noise(clean, snr=np.inf, box=8, rng=rng) == clean).all()
    assert rng.bit_generator.state == before


# Optics


def test_the_paper_s_first_zero_is_at_0_356_per_nm():
    assert 10.0 * m.first_zero_per_angstrom(PAPER_CTF) == pytest.approx(0.356, abs=5e-4)


@pytest.mark.parametrize(
    "ctf",
    [
        PAPER_CTF,
        replace(PAPER_CTF, amplitude_contrast=0.1),
        replace(PAPER_CTF, spherical_aberration_mm=0.0),
        replace(PAPER_CTF, defocus_u_angstrom=300.0, defocus_v_angstrom=300.0),  # the phase turns before pi
    ],
)
def test_the_transfer_vanishes_at_the_first_zero_and_not_below(ctf):
    zero = m.first_zero_per_angstrom(ctf)
    k = np.linspace(0.0, zero, 1001)[1:]
    transfer = ctf.transfer(np.stack([k, np.zeros_like(k)], axis=1))
    assert (transfer[:-1] > 0).all()
    assert abs(transfer[-1]) < 1e-9


def test_the_truncated_ctf_is_the_ctf_below_and_zero_above():
    k = np.array([[0.01, 0.0], [0.0, -0.03], [0.03, 0.03]])
    truncated = m.truncated_ctf(k, ctf=PAPER_CTF)
    np.testing.assert_array_equal(truncated[:2], PAPER_CTF.transfer(k[:2]))
    assert truncated[2] == 0.0
    assert PAPER_CTF.transfer(k[2:])[0] < -0.1


def test_mtf_is_the_paper_s_sinc():
    np.testing.assert_allclose(m.mtf([0.0, 0.5, 1.0]), [1.0, np.sin(np.pi / 4) / (np.pi / 4), 2.0 / np.pi])


def test_a_transfer_multiplies_the_spectrum(rng):
    imaging = Imaging(box=16)
    images = rng.standard_normal((3, *imaging.field_yx))
    k = np.array([4 / 32, 3 / 24]) / VOXEL  # the sample at (y, x) = (3, 4) of a field of 24 by 32
    expected = m.truncated_ctf(k[None], ctf=DEFAULT_CTF)[0] * m.mtf(np.linalg.norm(k) * 2.0 * VOXEL)
    before, after = (fft.rfft2(x)[:, 3, 4] for x in (images, m.apply_transfer(images, imaging.transfer())))
    np.testing.assert_allclose(after, expected * before, rtol=1e-9)


def test_the_default_lens_transfers_the_lowest_shells():
    transfer = replace(Imaging(), detector_mtf=False).transfer()
    assert transfer[0, 0] == pytest.approx(0.07)  # the amplitude contrast itself
    assert replace(Imaging(ctf=PAPER_CTF), detector_mtf=False).transfer()[0, 0] == 0.0


def test_flipped_phases_leave_the_ctf_s_absolute_value():
    flipped = Imaging(detector_mtf=False, correction=CtfCorrection.FLIPPED)
    frequency = m._image_frequencies(flipped.field_yx, 10.0)
    whole = DEFAULT_CTF.transfer(frequency.reshape(-1, 2)).reshape(frequency.shape[:-1])
    assert whole.min() < -0.5
    np.testing.assert_array_equal(flipped.transfer(), np.abs(whole))


# Back-projection


def test_the_ramp_kernel_is_the_cut_ramp():
    k = (np.arange(200_000) + 0.5) / 400_000  # midpoints of 0..1/2
    s = np.array([0.0, 0.3, 1.0, 2.0, 7.7])
    expected = 2.0 * (k * np.cos(2.0 * np.pi * k * s[:, None])).mean(axis=1) * 0.5
    np.testing.assert_allclose(m.ramp_kernel(s), expected, atol=1e-9)


@pytest.mark.parametrize("name", ["four_gaussians", "sharp", "pseudo_symmetric"])
@pytest.mark.parametrize("axis_deg", [90.0, 35.0])
def test_a_full_range_gives_back_the_density(name, axis_deg, rng):
    phantom = Phantom.named(name, box=32, voxel_size_angstrom=VOXEL)
    imaging = replace(PERFECT, axis_deg=axis_deg)
    data = simulate_subtomogram(phantom, POSE, imaging=imaging, rng=rng).volume.data
    truth = phantom.density(POSE, box=32, voxel_size_angstrom=VOXEL)
    got, expected = (fft.fftn(x.astype(np.float64)) for x in (data, truth))
    for shell in range(9):
        here = shells(32) == shell
        error = np.linalg.norm((got - expected)[here]) / np.linalg.norm(expected[here])
        assert error < 1e-3, f"shell {shell}"


@pytest.mark.parametrize("box", [15, 16])
def test_both_ways_of_back_projection_agree(box, rng):
    imaging = Imaging(box=box, tilt_step_deg=10.0)
    noise = rng.standard_normal((13, 2 * box, 2 * box))
    transfer = m.mtf(np.linalg.norm(m._image_frequencies((2 * box, 2 * box), VOXEL), axis=-1) * 2.0 * VOXEL)
    images = m.apply_transfer(noise, transfer)
    tilts = tuple(imaging.tilts_deg)
    by_matrix = m._back_project_by_matrix(images, tilts, box=box)
    by_spline = m._back_project_by_spline(images, tilts, box=box, axis_deg=90.0)
    # Cubic splines on a fourfold grid lose (f / (1 - f))^4 at f = 1/8, less below; float32 in the matrix.
    assert np.linalg.norm(by_matrix - by_spline) < (1 / 7) ** 4 * np.linalg.norm(by_matrix)


def test_back_projection_needs_a_tilt_for_every_image():
    with pytest.raises(ValueError, match="2 images need as many tilts_deg, got 3"):
        m.back_project(np.zeros((2, 16, 16)), [0.0, 1.0, 2.0], box=8)


# Subtomograms


@pytest.fixture(scope="module")
def transform_128() -> np.ndarray:
    return SHARP.transform(frequencies_xyz(128), pose=POSE) / VOXEL**3


def measured_by_definition(transform: np.ndarray, wedge: SingleAxisWedge, box: int) -> np.ndarray:
    """The particle's analytic transform, masked by the wedge on a fine grid; the middle of its inverse."""
    big = len(transform)
    volume = fft.fftshift(fft.ifftn(transform * wedge.weight_at(frequencies_xyz(big)), workers=1).real)
    middle = slice(big // 2 - box // 2, big // 2 - box // 2 + box)
    return volume[middle, middle, middle]


@pytest.mark.parametrize("axis_deg", [90.0, 0.0, 35.0])
def test_an_asymmetric_range_is_the_particle_within_its_wedge_and_no_more(axis_deg, transform_128, rng):
    imaging = replace(PERFECT, tilt_min_deg=-30.0, tilt_max_deg=60.0, axis_deg=axis_deg)
    subtomogram = simulate_subtomogram(SHARP, POSE, imaging=imaging, rng=rng)
    data = subtomogram.volume.data.astype(np.float64)
    assert subtomogram.wedge == SingleAxisWedge(-30.0, 60.0, axis_deg)
    # A tilt stands for half a step on both sides.
    expected = measured_by_definition(transform_128, SingleAxisWedge(-30.5, 60.5, axis_deg), 32)
    # The wedge's tails fall as 1/r^2; the oracle's replicas, 128 voxels away, add (32/128)^2 / 2 of the volume.
    assert np.linalg.norm(data - expected) < 0.03 * np.linalg.norm(expected)
    # The box cuts those tails, and its edge carries a few per cent of the energy out of the wedge, in both alike.
    outside = energy_outside(data, subtomogram.wedge)
    assert outside < 0.06
    assert outside < energy_outside(expected, subtomogram.wedge) + 0.01
    assert energy_outside(data, SingleAxisWedge(-60.0, 30.0, axis_deg)) > 0.2


def test_ctf_and_mtf_shape_the_spectrum_of_a_full_range(rng):
    imaging = replace(PERFECT, ctf=PAPER_CTF, detector_mtf=True)
    data = simulate_subtomogram(SHARP, POSE, imaging=imaging, rng=rng).volume.data
    k = frequencies_xyz(32)
    radius = np.linalg.norm(k, axis=-1)
    flat = np.stack([radius.ravel(), np.zeros(radius.size)], axis=1)
    transfer = m.truncated_ctf(flat, ctf=PAPER_CTF).reshape(radius.shape) * m.mtf(radius * 2.0 * VOXEL)
    truth = transfer * SHARP.transform(k, pose=POSE) / VOXEL**3
    got = fft.fftn(fft.ifftshift(data.astype(np.float64)))
    band = (shells(32) >= 2) & (shells(32) <= 10)
    # The cut at the first zero rings beyond the box by about a per cent.
    assert np.linalg.norm((got - truth)[band]) < 0.05 * np.linalg.norm(truth[band])


def test_noise_fills_the_box_to_its_corners(rng):
    imaging = replace(PERFECT, snr=0.1)
    clean, noisy = (simulate_subtomogram(SHARP, POSE, imaging=i, rng=rng).volume.data for i in (PERFECT, imaging))
    noise = noisy - clean
    corner, middle = noise[:6, :6, :6].std(), noise[13:19, 13:19, 13:19].std()
    # 216 correlated voxels, at least one independent in eight: a ratio of sds is within 1 +- 4 / sqrt(27).
    assert corner / middle == pytest.approx(1.0, abs=4.0 / np.sqrt(27))


def test_the_same_seed_gives_the_same_subtomogram():
    first, second, third = (
        simulate_subtomogram(SHARP, POSE, imaging=Imaging(snr=1.0), rng=np.random.default_rng(seed)).volume.data
        for seed in (1, 1, 2)
    )
    assert (first == second).all()
    assert (first != third).any()


@pytest.mark.parametrize("simulate", [simulate_subtomogram, simulate_tilt_stack])
def test_the_phantom_says_box_and_voxels_where_the_imaging_does_not(simulate, rng):
    phantom, coarse = Phantom.named("sharp", box=20, voxel_size_angstrom=16.0), Imaging(tilt_step_deg=30.0)
    seen = simulate(phantom, POSE, imaging=coarse, rng=rng)
    assert (seen.box, seen.voxel_size_angstrom) == (20, 16.0)
    moved = simulate(phantom.centred(), POSE, imaging=coarse, rng=rng)
    assert (moved.box, moved.voxel_size_angstrom) == (20, 16.0)
    half_said = simulate(phantom, POSE, imaging=replace(coarse, box=20), rng=rng)
    assert (half_said.box, half_said.voxel_size_angstrom) == (20, 16.0)
    for other in ({"box": 32}, {"voxel_size_angstrom": 10.0}):
        with pytest.raises(ValueError, match=r"the phantom was made for (box=20|voxel_size_angstrom=16), the imaging"):
            simulate(phantom, POSE, imaging=replace(coarse, **other), rng=rng)
    larger = simulate(phantom.unframed(), POSE, imaging=replace(coarse, box=24, voxel_size_angstrom=16.0), rng=rng)
    assert larger.box == 24
    assert simulate(phantom.unframed(), POSE, imaging=coarse, rng=rng).box == 32  # the paper's


# Tilt stacks


@pytest.mark.parametrize("axis_deg", [90.0, 85.0, -20.0])
def test_every_image_of_a_stack_is_a_central_slice_times_the_ctf(axis_deg, rng):
    imaging = Imaging(box=48, tilt_min_deg=-30.0, tilt_max_deg=60.0, tilt_step_deg=30.0, axis_deg=axis_deg)
    stack = simulate_tilt_stack(SHARP.unframed(), POSE, imaging=imaging, rng=rng)
    k = fft.fftfreq(48, VOXEL)
    y, x = np.meshgrid(k, k, indexing="ij")
    flat = np.stack([x.ravel(), y.ravel()], axis=1)
    assert isinstance(stack.ctf, Ctf)
    transfer = stack.ctf.transfer(flat)  # (t, s)
    for image, rows, ctf in zip(stack.images, stack.projections_xyz, transfer, strict=True):
        got = fft.fft2(fft.ifftshift(image.astype(np.float64))).ravel()
        truth = ctf * SHARP.transform(flat @ rows, pose=POSE) / VOXEL**3
        # Float32, and what the CTF carries beyond a box of three times the particle's radius.
        assert np.linalg.norm(got - truth) < 1e-3 * np.linalg.norm(truth)


def test_a_stack_has_white_noise_at_the_snr_of_its_images():
    imaging = Imaging(snr=0.5, tilt_step_deg=5.0)
    clean, noisy = (
        simulate_tilt_stack(SHARP, POSE, imaging=i, rng=np.random.default_rng(3)).images
        for i in (replace(imaging, snr=np.inf), imaging)
    )
    noise = (noisy - clean).astype(np.float64)
    low, high = chi2.ppf([5e-7, 1 - 5e-7], noise.size) / noise.size
    assert low < 0.5 * noise.var() / clean.var(dtype=np.float64) < high


def test_a_perfect_lens_has_no_ctf(rng):
    imaging = replace(PERFECT, tilt_step_deg=60.0)
    assert simulate_tilt_stack(SHARP, POSE, imaging=imaging, rng=rng).ctf is None


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"box": 4}, "box must be at least 8"),
        ({"voxel_size_angstrom": -1.0}, "voxel_size_angstrom"),
        ({"snr": 0.0}, "snr must be positive"),
        ({"tilt_max_deg": 95.0}, "tilt range"),
        ({"tilt_step_deg": 7.0}, "whole number of steps"),
        ({"ctf": Ctf(40_000.0, 30_000.0)}, "one positive underfocus"),
    ],
)
def test_settings_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Imaging(**change)
