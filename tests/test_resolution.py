"""Half maps agree as far as they have signal in common, and no further because of a mask."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.fft

from gonio.averaging.resolution import evenness, half_map_fsc, with_random_phases
from gonio.fourier.fsc import fourier_shell_correlation
from gonio.fourier.grid import index_grid
from gonio.fourier.masks import soft_mask
from gonio.fourier.transform import centred_fft, low_passed
from gonio.particle.pose import Pose
from gonio.particle.volume import Volume
from gonio.simulate import Phantom

BOX, VOXEL = 32, 10.0
PHANTOM = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)
TRUTH = Volume(PHANTOM.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)


def noisy(volume: Volume, sd: float, rng: np.random.Generator) -> Volume:
    return Volume(volume.data + sd * volume.data.std() * rng.normal(size=volume.data.shape), VOXEL)


def test_a_tight_mask_on_noise_shows_no_resolution(rng):
    """The masked curve does, which is what the correction is for."""
    halves = tuple(noisy(low_passed(TRUTH, resolution_angstrom=80.0), 1.0, rng) for _ in range(2))
    data = (TRUTH.data > 0.25 * TRUTH.data.max()).astype(float)
    told = half_map_fsc(halves, mask=Volume(data, VOXEL), rng=rng)
    beyond = slice(8, 16)  # the signal ends at shell 4, what the mask smears two or three later
    assert np.abs(told.unmasked[beyond]).max() < 0.1
    assert told.masked[beyond].min() > 0.5
    assert told.corrected[beyond].max() < 0.3
    assert (told.corrected <= told.masked).all()  # whatever the draws of random phases


def test_how_evenly_an_average_was_measured():
    """Two thirds by a wedge of +-60 degrees, nothing along the beam; everything, unevenly, by a weight of direction."""
    index = index_grid(BOX)
    radius = np.linalg.norm(index, axis=-1)
    even = evenness(np.ones((BOX,) * 3, np.float32))
    assert (even.seen, even.least, even.worst) == pytest.approx((1.0, 1.0, 1.0))
    assert even.efficiency == pytest.approx(1.0)
    wedge = evenness((np.abs(index[..., 2]) <= np.abs(index[..., 0]) * np.sqrt(3.0)).astype(np.float32))
    assert wedge.seen == pytest.approx(2 / 3, abs=0.03)
    assert np.abs(wedge.worst_xyz) == pytest.approx([0.0, 0.0, 1.0], abs=0.3)
    assert wedge.worst < 0.1
    square = (index[..., 2] / np.maximum(radius, 1e-9)) ** 2
    uneven = evenness((1.0 + square).astype(np.float32))
    # 1 / ((4 / 3) mean of 1 / (1 + u^2) over u from 0 to 1) = 3 / pi
    assert uneven.efficiency == pytest.approx(3 / np.pi, abs=0.01)
    assert uneven.worst == pytest.approx(0.78, abs=0.03)


def test_a_soft_mask_brings_out_what_is_there(rng):
    halves = tuple(noisy(TRUTH, 0.6, rng) for _ in range(2))
    mask = soft_mask(Volume((halves[0].data + halves[1].data) / 2, VOXEL))
    told = half_map_fsc(halves, mask=mask, rng=rng)
    assert told.resolution_angstrom() < half_map_fsc(halves, mask=None, rng=rng).resolution_angstrom()
    truth = fourier_shell_correlation(
        *(Volume(v.data * mask.data, VOXEL) for v in (TRUTH, Volume((halves[0].data + halves[1].data) / 2, VOXEL)))
    )
    # What the halves say of their mean, sqrt(2 F / (1 + F)), is what the truth says, to the noise of a shell.
    known = slice(2, 9)
    expected = np.sqrt(2 * told.corrected[known] / (1 + told.corrected[known]))
    np.testing.assert_allclose(expected, truth[known], atol=0.12)


def test_mask_is_soft_and_holds_the_particle(rng):
    mask = soft_mask(noisy(TRUTH, 0.3, rng)).data
    assert (mask[TRUTH.data > 0.3 * TRUTH.data.max()] == 1.0).all()
    assert mask.mean() < 0.5
    assert ((mask > 0.0) & (mask < 1.0)).mean() > 0.05
    assert np.abs(np.diff(mask, axis=0)).max() < 0.6


def test_mask_of_nothing_masks_nothing():
    ramp = np.broadcast_to(np.linspace(-1.0, 1.0, 16), (16, 16, 16))
    assert (soft_mask(Volume(ramp, VOXEL)).data == 1.0).all()


def test_random_phases_keep_amplitudes_and_what_is_below(rng):
    volume = noisy(TRUTH, 0.5, rng)
    random = Volume(with_random_phases(scipy.fft.rfftn(volume.data.astype(float)), 6, rng), VOXEL)
    before, after = (centred_fft(v.data.astype(float)) for v in (volume, random))
    shell = np.rint(np.linalg.norm(index_grid(BOX), axis=-1))
    scale = np.abs(before).max()
    np.testing.assert_allclose(after[shell < 6], before[shell < 6], atol=1e-5 * scale)
    inner = shell < 15  # an even box has no mates for its lowest index
    np.testing.assert_allclose(np.abs(after[inner]), np.abs(before[inner]), atol=1e-5 * scale)
    fsc = fourier_shell_correlation(volume, random)
    assert np.abs(fsc[6:15]).max() < 0.35


def test_mask_of_another_box_is_refused(rng):
    mask = Volume(np.eye(16)[None] * np.ones((16, 1, 1)), VOXEL)
    with pytest.raises(ValueError, match="mask has a box of 16 voxels, the half maps one of 32"):
        half_map_fsc((TRUTH, TRUTH), mask=mask, rng=rng)


def test_a_map_is_no_mask(rng):
    with pytest.raises(ValueError, match=r"a mask holds values from 0 to 1, this one .* to 4"):
        half_map_fsc((TRUTH, TRUTH), mask=Volume(TRUTH.data * 3.0, VOXEL), rng=rng)
