"""One owner of every FFT: where zero frequency lies, which samples are kept, and how well they are interpolated."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import scipy.fft
from scipy.spatial.transform import Rotation

from examples import premultiplied
from gonio.fourier.fourier_volume import FourierVolume, moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.fourier.grid import LEAST_REACH, MARGIN, Places, in_friedel_half, index_grid, low_spectrum
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import centred_fft, centred_ifft, low_passed, shell_limit
from gonio.kernels import sample_sums, shift
from gonio.kernels.dft import dft_matrices, forward, plane_waves
from gonio.kernels.window import window_transform
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import SingleAxisWedge, WeightVolumeWedge
from gonio.simulate import PAPER_CTF, Imaging, Phantom, simulate_tilt_stack
from oracle import Blobs, dft_direct

VOXEL = 5.0
INTERPOLATION = 5e-4  # of the rms value, rms over samples (gonio.kernels.window; test_score.py)
OBJECT = Blobs.random(7)
TURN = Rotation.from_euler("ZYZ", [40.0, 70.0, -25.0], degrees=True).as_matrix()  # not its own inverse

boxes = pytest.mark.parametrize("n", [24, 25])


@cache
def map_of(n: int) -> Volume:
    """An object without symmetry in a box of n."""
    return Volume(OBJECT.volume(n), VOXEL)


def spectrum_of(volume: Volume, *, limit: float, wedge=None) -> Spectrum:
    """Samples to a limit in shells."""
    particle = Subtomogram(volume) if wedge is None else Subtomogram(volume, wedge)
    return Spectrum.of(particle, resolution_angstrom=volume.box_angstrom / limit)


@pytest.mark.parametrize("n", [8, 9])
def test_the_transform_is_the_sum_that_defines_it(n, rng):
    v = rng.normal(size=(n, n, n))
    np.testing.assert_allclose(np.fft.ifftshift(centred_fft(v)), dft_direct(v), atol=1e-11 * n**3)
    np.testing.assert_allclose(centred_ifft(centred_fft(v)), v, atol=1e-13)


@boxes
def test_a_point_at_the_centre_has_no_phase(n):
    v = np.zeros((n, n, n))
    v[n // 2, n // 2, n // 2] = 1.0
    np.testing.assert_allclose(centred_fft(v), 1.0, atol=1e-14)


@pytest.mark.parametrize("n, d", [(8, 3), (9, 3), (8, 2), (9, 2), (7, 1)])
def test_a_friedel_half_holds_one_of_each_pair(n, d):
    index = index_grid(n, dimensions=d).reshape(-1, d)
    chosen = in_friedel_half(index)
    assert (chosen ^ in_friedel_half(-index) ^ (index == 0).all(axis=1)).all()
    assert not (chosen & in_friedel_half(-index)).any()


@pytest.mark.parametrize("n, limit", [(8, 3.0), (9, 4.0), (9, 2.5)])
def test_the_low_samples_are_those_of_the_whole_transform(n, limit, rng):
    """To the rounding of a float32 sum of n^3 values."""
    data = rng.normal(size=(2, n, n, n)).astype(np.float32)
    last = int(limit)
    cut = slice(n // 2 - last, n // 2 + last + 1)
    for volume in data:
        found = low_spectrum(volume, limit)
        exact = centred_fft(volume.astype(float))[n // 2 : n // 2 + last + 1, cut, cut]
        np.testing.assert_allclose(found, exact, atol=1e-6 * n**1.5 * np.sqrt(n))


@pytest.mark.parametrize("n, padded", [(8, 8), (9, 9), (8, 16), (9, 18)])
@pytest.mark.parametrize("half", [True, False])
def test_products_of_sines_and_cosines_become_plane_waves(n, padded, half, rng):
    """To Nyquist, from k_z = 0 or its negative on, of a box by itself and padded; to float32 rounding."""
    data = rng.normal(size=(n, n, n)).astype(np.float32)
    count = padded // 2
    first, side = count if half else 0, 2 * count + 1
    found = np.empty((side - first, side, side), np.complex64)
    plane_waves(forward(data, (dft_matrices(n, period=padded, count=count),) * 3), padded, first, found)
    wave = np.exp(-2j * np.pi * np.outer(np.arange(-count, count + 1), np.arange(n) - n // 2) / padded)
    exact = np.einsum("zyx,kz,ly,mx->klm", data.astype(float), wave[first:], wave, wave)
    # Where the box is not padded Nyquist's wave is real; elsewhere all are complex.
    np.testing.assert_allclose(found, exact, atol=1e-6 * n**2)


def test_samples_that_are_neighbours_in_memory_are_neighbours_in_frequency():
    steps = np.diff(spectrum_of(map_of(24), limit=8.0).frequency_xyz, axis=1)
    assert ((steps[0] == 1) & (steps[1:] == 0).all(axis=0)).mean() > 0.8


def test_what_depends_on_the_wedge_alone_is_remembered_and_never_mistaken():
    sixty, forty = SingleAxisWedge(-60, 60), SingleAxisWedge(-40, 40)
    spectra = [spectrum_of(map_of(24), limit=8.0, wedge=wedge) for wedge in (sixty, forty, sixty)]
    assert spectra[0].frequency_xyz is spectra[2].frequency_xyz
    assert len(spectra[1]) < len(spectra[0])
    np.testing.assert_array_equal(spectra[0].value, spectra[2].value)


@pytest.mark.parametrize("wedge", [SingleAxisWedge(-60, 60), SingleAxisWedge(-40, 50, 30.0)])
def test_a_cut_smears_the_wedges_edge(wedge):
    """Eq. 33 against its definition: a wave is filtered by the wedge and cut to the box; how much of it is left.

    The box holds the margin around the limit exactly, so that both see the same wedge.
    """
    limit = 4
    n = 2 * (limit + MARGIN)
    whole, half = np.fft.fftfreq(2 * n, 0.5 / n), np.fft.rfftfreq(2 * n, 0.5 / n)
    z, y, x = np.meshgrid(whole, whole, half, indexing="ij")
    measured = wedge.weight_at(np.stack([x, y, z], axis=-1) / (2 * n * VOXEL)) > 0
    places = Places.as_imaged(Subtomogram(map_of(n), wedge), float(limit))
    assert places.reach.min() >= LEAST_REACH and (places.reach < 0.9).any()
    position = index_grid(n).astype(float)
    for k, reach in list(zip(places.frequency_xyz.T, places.reach, strict=True))[::23]:
        left = []
        for wave in (np.cos(2 * np.pi * position @ k / n), np.sin(2 * np.pi * position @ k / n)):
            padded = np.zeros((2 * n,) * 3)
            padded[:n, :n, :n] = wave
            shown = scipy.fft.irfftn(scipy.fft.rfftn(padded) * measured, s=padded.shape)[:n, :n, :n]
            left.append((wave * shown).sum())
        assert sum(left) / n**3 == pytest.approx(reach, abs=1e-6)


def test_without_a_wedge_nothing_is_smeared():
    places = Places.as_imaged(Subtomogram(map_of(24)), 8.0)
    np.testing.assert_allclose(places.reach, 1.0, atol=1e-6)
    np.testing.assert_array_equal(places.frequency_xyz, spectrum_of(map_of(24), limit=8.0).frequency_xyz)


@boxes
@pytest.mark.parametrize("limit", [3.0, 7.5, 11.0])
def test_a_spectrum_is_half_a_ball_without_its_centre(n, limit):
    spectrum = spectrum_of(map_of(n), limit=limit)
    ball = ((index_grid(n) ** 2).sum(axis=-1) <= limit**2).sum()
    assert len(spectrum) == (ball - 1) // 2
    k = {tuple(row) for row in spectrum.frequency_xyz.T.astype(int)}
    assert (0, 0, 0) not in k and len(k) == len(spectrum)
    assert not any((-x, -y, -z) in k for x, y, z in k)
    assert spectrum.on_grid and "samples to" in repr(spectrum)


def test_weights_of_samples_are_the_wedges():
    weights = np.zeros((25, 25, 25), np.float32)
    weights[:, :, 14:] = 2.0  # k_x >= 2
    weights[:, :, 13] = 1.0
    spectrum = spectrum_of(map_of(25), limit=8.0, wedge=WeightVolumeWedge(weights, VOXEL))
    kx = spectrum.frequency_xyz[0]
    assert kx.min() == 1
    np.testing.assert_array_equal(spectrum.weight, np.minimum(kx, 2) / 2)  # kept divided by the largest


def test_a_wedge_that_measured_nothing_below_the_limit_is_refused():
    weights = np.zeros((24, 24, 24), np.float32)
    weights[12, 12, 23] = 1.0  # shell 11
    with pytest.raises(ValueError, match="no Fourier sample below the resolution limit was measured"):
        spectrum_of(map_of(24), limit=6.0, wedge=WeightVolumeWedge(weights, VOXEL))


@pytest.mark.parametrize(
    "box, resolution, expected",
    [(32, None, 15.0), (33, None, 16.0), (32, 40.0, 8.0), (32, 60.0, 16 / 3), (33, 20.0, 16.0)],
)
def test_a_resolution_is_a_number_of_shells(box, resolution, expected):
    assert shell_limit(box, 10.0, resolution) == pytest.approx(expected)


def test_the_corner_of_the_nyquist_plane_is_left_out():
    assert shell_limit(32, 10.0, 20.0) == 15.0  # shell 16 of an even box has no mate


@pytest.mark.parametrize("resolution, words", [(19.0, "finer than two voxels"), (110.0, "at least 3 are needed")])
def test_resolutions_that_do_not_suit_the_box_are_refused(resolution, words):
    with pytest.raises(ValueError, match=words):
        shell_limit(32, 10.0, resolution)


def random_frequencies(rng, count: int, limit: float) -> np.ndarray:
    """Uniform in a ball, (count, 3)."""
    k = rng.normal(size=(count, 3))
    return k * limit * rng.uniform(0, 1, (count, 1)) ** (1 / 3) / np.linalg.norm(k, axis=1, keepdims=True)


def direct(volume: Volume, frequency: np.ndarray, box: int) -> np.ndarray:
    """The sum that defines the transform, at any frequency in units of one over ``box``."""
    position = np.arange(volume.box) - volume.box // 2
    x, y, z = (np.exp(-2j * np.pi * np.outer(column, position) / box) for column in frequency.T)  # (k, n)
    planes = np.tensordot(z, volume.data.astype(float), axes=1)  # (k, y, x)
    return np.einsum("kyx,ky,kx->k", planes, y, x)


@boxes
@pytest.mark.parametrize("box", [None, 16, 31, 40])
def test_the_spectrum_of_a_map_is_sampled_anywhere(n, box, rng):
    """Also in units of a particle's box that is not the map's."""
    unit = n if box is None else box
    limit = 8.0 * unit / n
    k = random_frequencies(rng, 400, limit)
    exact = direct(map_of(n), k, unit)
    sampled = FourierVolume.of(map_of(n), limit=limit, box=box).sample(k)
    assert np.sqrt((np.abs(sampled - exact) ** 2).mean() / (np.abs(exact) ** 2).mean()) < INTERPOLATION


def test_noise_to_the_edge_of_the_box_is_sampled_too(rng):
    """The hardest object for an interpolation: measured 1.9e-3 of the rms."""
    noise = Volume(rng.normal(size=(16, 16, 16)), VOXEL)
    faces = noise.data.copy()
    faces[1:-1, 1:-1, 1:-1] = np.nan
    flat = Volume(noise.data - np.nanmean(faces), VOXEL)  # what the map is sampled as: see the next test
    k = random_frequencies(rng, 400, 7.0)
    exact = direct(flat, k, 16)
    sampled = FourierVolume.of(noise, limit=7.0).sample(k)
    assert np.sqrt((np.abs(sampled - exact) ** 2).mean() / (np.abs(exact) ** 2).mean()) < 5 * INTERPOLATION


@boxes
def test_an_offset_of_the_map_changes_nothing(n, rng):
    """It would be an object as large as the box, with edges that turn with the map."""
    k = random_frequencies(rng, 200, 8.0)
    plain = FourierVolume.of(map_of(n), limit=8.0).sample(k)
    lifted = FourierVolume.of(Volume(map_of(n).data + 3.0, VOXEL), limit=8.0).sample(k)
    # float32 data with an offset of 3 are rounded by 1e-7 each, added in quadrature over the voxels.
    np.testing.assert_allclose(lifted, plain, atol=5 * 2e-7 * n**1.5)


def test_beyond_its_limit_a_spectrum_is_not_sampled():
    with pytest.raises(ValueError, match="kept to 6, sampled at 7"):
        FourierVolume.of(map_of(24), limit=6.0).sample([[7.0, 0.0, 0.0]])


def test_the_windows_transform_is_its_own():
    """Sampled finely, the polynomial pieces have the transform that tapers the map."""
    side, steps = 15, 64
    positions = np.zeros((3, 4 * steps), np.float32)
    positions[0] = (np.arange(4 * steps) + 0.5) / steps - 2.0
    grid = np.zeros(2 * side**3, np.float32)
    centre = side // 2
    grid[2 * ((centre * side + centre) * side + centre)] = 1.0
    everywhere = np.zeros((1, 7), np.float32), np.zeros((0, 0, 0), np.float32), np.float32(1.0)
    out, weights = np.empty((1, 2, 4 * steps), np.float32), np.empty((1, 4 * steps), np.float32)
    reference = sample_sums.Reference(grid, side, np.float32(1.0), *everywhere)
    shift.reference_at(reference, positions, np.eye(3, dtype=np.float32)[None], out, weights)
    window = out[0, 0] / out[0, 0].max()
    for frequency in (0.0, 0.1, 0.25):
        summed = (window * np.cos(2 * np.pi * frequency * positions[0])).sum() / window.sum()
        expected = window_transform(frequency) / window_transform(0.0)
        assert summed == pytest.approx(expected, abs=1e-3)  # the midpoint rule at 64 points a unit


@boxes
def test_fsc_of_a_volume_with_itself_is_one(n, rng):
    noise = Volume(rng.normal(size=(n, n, n)), VOXEL)
    fsc = fourier_shell_correlation(noise, Volume(3.0 * noise.data + 1.0, VOXEL))
    assert fsc.shape == (n // 2 + 1,)
    np.testing.assert_allclose(fsc, 1.0, atol=1e-5)
    np.testing.assert_allclose(fourier_shell_correlation(noise, Volume(-noise.data, VOXEL))[1:], -1.0, atol=1e-5)


def test_fsc_of_noise_with_noise_is_none(rng):
    one, two = (Volume(rng.normal(size=(32, 32, 32)), VOXEL) for _ in range(2))
    shell = np.rint(np.linalg.norm(index_grid(32), axis=-1)).astype(int)
    independent = np.bincount(shell.ravel())[:17] / 2  # of each Friedel pair, one
    # Four standard deviations in each of 16 shells: one failure in a thousand seeds.
    assert (np.abs(fourier_shell_correlation(one, two)[1:]) < 4 / np.sqrt(2 * independent[1:])).all()


def test_fsc_of_boxes_that_differ_is_refused():
    with pytest.raises(ValueError, match="24 and 25"):
        fourier_shell_correlation(map_of(24), map_of(25))


def test_fsc_of_nothing_is_no_number_but_zero():
    fsc = fourier_shell_correlation(Volume(np.zeros((16, 16, 16)), VOXEL), map_of(16))
    np.testing.assert_array_equal(fsc[1:], 0.0)


def test_resolution_lies_between_shells():
    fsc = np.array([1.0, 0.9, 0.8, 0.4, 0.1])
    assert resolution_at(fsc, 0.5, box_angstrom=100.0) == pytest.approx(100 / 2.75)
    assert resolution_at(fsc, 0.143, box_angstrom=100.0) == pytest.approx(100 / (3 + 0.257 / 0.3))
    assert resolution_at(fsc, 0.05, box_angstrom=100.0) == 25.0
    assert resolution_at(fsc, 0.95, box_angstrom=100.0) == np.inf


@boxes
def test_low_passing_keeps_the_shells_inside(n):
    before = map_of(n)
    after = low_passed(before, resolution_angstrom=n * VOXEL / 6.0)
    shell = np.linalg.norm(index_grid(n), axis=-1)
    a, b = centred_fft(before.data.astype(float)), centred_fft(after.data.astype(float))
    rounding = 1e-6 * np.abs(a).max()
    np.testing.assert_allclose(b[shell <= 5.0], a[shell <= 5.0], atol=rounding)
    np.testing.assert_allclose(b[shell >= 7.0], 0.0, atol=rounding)
    np.testing.assert_allclose(b[shell == 6.0], a[shell == 6.0] / 2, atol=rounding)


# The object's spectrum at Nyquist is exp(-2 pi^2 1.4^2 / 4) = 6e-5 of its peak; the interpolation is wrong by 5e-4 rms.
@boxes
def test_moving_a_map_is_exact_to_the_interpolation(n):
    shift = np.array([1.3, -0.8, 2.1])
    exact = OBJECT.moved(TURN, shift).volume(n)
    error = moved(map_of(n), TURN, VOXEL * shift).data - exact
    assert np.sqrt((error**2).mean()) < 2 * INTERPOLATION * np.sqrt((exact**2).mean())


def test_moving_back_is_not_moving():
    pose = Pose.from_euler_zyz_deg([40.0, 70.0, -25.0], [4.0, -7.0, 2.0])
    back = pose.inverse()
    there = moved(map_of(24), pose.matrix, pose.shift_angstrom)
    again = moved(there, back.matrix, back.shift_angstrom).data
    assert np.abs(again - map_of(24).data).max() < 4 * INTERPOLATION * np.abs(again).max()


@pytest.mark.parametrize("ctf", [None, PAPER_CTF])
def test_premultiplied_images_give_the_same_samples(ctf, rng):
    phantom = Phantom.named("sharp", box=24, voxel_size_angstrom=10.0)
    imaging = Imaging(box=24, tilt_step_deg=20.0, ctf=ctf)
    plain = simulate_tilt_stack(phantom, Pose.identity(), imaging=imaging, rng=rng)
    again = premultiplied(plain)
    one, two = (Spectrum.of(stack, resolution_angstrom=30.0) for stack in (plain, again))
    keep = np.abs(one.transfer) > 0.02
    assert len(two) == keep.sum()
    np.testing.assert_array_equal(two.frequency_xyz, one.frequency_xyz[:, keep])
    np.testing.assert_array_equal(two.transfer, one.transfer[keep])
    # Images are rounded to float32 after the multiplication, and that is divided by 0.02 at most.
    size = np.abs(one.value).max()
    np.testing.assert_allclose(two.value, one.value[keep], atol=1e-6 / 0.02 * size)
