"""Noise, signal and gain of a subtomogram, found in itself."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from examples import BOX, VOXEL, sharp
from gonio.fourier.grid import index_grid
from gonio.fourier.transform import centred_fft, centred_ifft, low_passed
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge
from gonio.preparation.noise_weighting import MIN_NOISE, Measured, Reliability

LIMIT, SPHERE = 8.0, 230.0
MAP = sharp(Pose.identity()).volume
SHELL = np.linalg.norm(index_grid(BOX), axis=-1)


def filtered(data: np.ndarray, gain) -> np.ndarray:
    """Every shell times a gain of its radius."""
    return centred_ifft(centred_fft(data.astype(float)) * gain(SHELL)).real


def measured(data: np.ndarray, wedge=None) -> Measured:
    """Of a volume in the sphere that the map needs."""
    target = Subtomogram(Volume(data, VOXEL), NoWedge() if wedge is None else wedge)
    return Measured.of(target, limit=LIMIT, diameter_angstrom=SPHERE)


@cache
def noise(seed: int = 0) -> np.ndarray:
    """White, of unit variance."""
    return np.random.default_rng(seed).normal(size=MAP.data.shape)


@pytest.mark.parametrize("wedge", [NoWedge(), SingleAxisWedge(-60, 60)])
@pytest.mark.parametrize("gain", [np.ones_like, lambda k: np.exp(-k / 6.0)], ids=["white", "falling"])
def test_noise_is_what_lies_outside_the_sphere(wedge, gain):
    """A sample of white unit noise has the power n^3; the mean of m of them scatters by 1 / sqrt(m).

    Outside the sphere m is half of the samples (its share of the box); four standard deviations.
    """
    seen = measured(filtered(noise(), gain), wedge)
    shells = np.arange(2, int(LIMIT) + 1)
    expected = BOX**3 * np.array([(gain(SHELL[np.rint(SHELL) == s]) ** 2).mean() for s in shells])
    margin = 4.0 / np.sqrt(np.maximum(0.5 * seen.count[shells], 1.0))
    assert (np.abs(seen.noise[shells] / expected - 1.0) < margin).all()


def test_noise_alone_holds_no_signal_and_a_density_next_to_no_noise():
    assert measured(noise()).signal_fraction < 0.3
    assert not measured(MAP.data).is_noisy
    assert measured(MAP.data + MAP.data.max() * noise()).is_noisy


def test_shells_of_nothing_do_not_count_without_end():
    """A volume that was filtered to 60 angstrom, compared up to 40."""
    rough = Volume(MAP.data + MAP.data.max() * noise(), VOXEL)
    seen = measured(low_passed(rough, resolution_angstrom=60.0).data)
    assert seen.noise.min() >= 0.999 * MIN_NOISE * seen.noise.max()
    samples = seen.spectrum(Reliability(power_of(MAP.data), np.ones(int(LIMIT) + 1)))[0]
    beyond = samples.radius > 6.5
    # What they could add to f.g: weight times value times gain, against the shells that hold something.
    term = samples.weight * np.abs(samples.value) * samples.transfer
    assert term[beyond].mean() < 0.05 * term[~beyond].mean()


def power_of(data: np.ndarray) -> np.ndarray:
    """The power of a volume's shells."""
    square = np.abs(centred_fft(data.astype(float))) ** 2
    return np.array([square[np.rint(SHELL) == s].mean() for s in range(int(LIMIT) + 1)])


@pytest.mark.parametrize("gain", [np.ones_like, lambda k: np.exp(0.2 * k), lambda k: k * np.exp(-k / 8.0)])
def test_the_gain_is_that_by_which_the_target_was_filtered(gain):
    """Up to a factor, where the signal is; that the curve is a smooth one costs a quarter at most (measured: 0.18)."""
    data = filtered(MAP.data, gain)
    seen = measured(data + 0.3 * data.std() * noise())
    found = seen.spectrum(Reliability(power_of(MAP.data), np.ones(int(LIMIT) + 1)))[0]
    ratio = found.transfer / gain(found.radius.astype(float))
    told = (found.radius >= 1.5) & (found.radius <= 6.5)
    assert np.abs(ratio[told] / np.exp(np.log(ratio[told]).mean()) - 1.0).max() < 0.25
