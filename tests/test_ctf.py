"""The contrast transfer at values known from textbooks and from the papers that define it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import constants
from scipy.optimize import brentq

from gonio.particle.ctf import Ctf, dose_decay, electron_wavelength_angstrom

# The paper's microscope: underfocus 4 micrometres, Cs 2 mm.
PAPER = Ctf(40000.0, 40000.0, voltage_kv=300.0, spherical_aberration_mm=2.0, amplitude_contrast=0.0)


def along_x(frequency: np.ndarray) -> np.ndarray:
    return np.column_stack([frequency, np.zeros_like(frequency)])


@pytest.mark.parametrize("voltage, wavelength", [(100, 0.03701), (200, 0.02508), (300, 0.01969)])
def test_wavelength_is_the_tabulated_one(voltage, wavelength):
    assert electron_wavelength_angstrom(voltage) == pytest.approx(wavelength, abs=5e-6)


@pytest.mark.parametrize("voltage", [80, 200, 300])
def test_wavelength_follows_de_broglie(voltage):
    # lambda = h / sqrt(2 m e U (1 + e U / (2 m c^2))); the constants in the code have six digits.
    energy = 1e3 * voltage * constants.e
    momentum = np.sqrt(2 * constants.m_e * energy * (1 + energy / (2 * constants.m_e * constants.c**2)))
    assert electron_wavelength_angstrom(voltage) == pytest.approx(1e10 * constants.h / momentum, rel=1e-5)


def test_first_zero_of_the_papers_microscope():
    zero = brentq(lambda k: PAPER.transfer([[k, 0.0]])[0], 0.02, 0.045)
    assert zero == pytest.approx(0.0356, abs=5e-5)  # per angstrom: 0.356 / nm


def test_underfocus_transfers_a_positive_particle_positively():
    low = np.linspace(0.001, 0.035, 50)
    assert (PAPER.transfer(along_x(low)) > 0).all()
    assert PAPER.transfer([[0.0, 0.0]])[0] == 0.0


@pytest.mark.parametrize("contrast", [0.0, 0.07, 0.1, 1.0])
def test_zero_frequency_transfers_the_amplitude_contrast(contrast):
    ctf = Ctf(20000.0, 20000.0, amplitude_contrast=contrast)
    assert ctf.transfer([[0.0, 0.0]])[0] == pytest.approx(contrast)


def test_spherical_aberration_counteracts_underfocus():
    # Phase pi l d k^2 - pi/2 Cs l^3 k^4 is stationary where k^2 = d / (Cs l^2): the derivative vanishes there.
    wavelength = electron_wavelength_angstrom(300.0)
    ctf = Ctf(1000.0, 1000.0, spherical_aberration_mm=2.7, amplitude_contrast=0.0)
    k = np.sqrt(1000.0 / (2.7e7 * wavelength**2))
    assert ctf.transfer([[k, 0.0]])[0] == pytest.approx(np.sin(0.5 * np.pi * 1000.0**2 / (2.7e7 * wavelength)))
    near, far = ctf.transfer([[k * 0.999, 0.0], [k * 1.001, 0.0]])
    assert near == pytest.approx(far, abs=1e-3)


@pytest.mark.parametrize("direction", [0.0, 30.0, 90.0, 140.0])
def test_defocus_u_lies_along_the_astigmatism_direction(direction):
    astigmatic = Ctf(30000.0, 20000.0, direction)
    angle = np.radians(direction)
    k = np.linspace(0.01, 0.1, 40)[:, None]
    along, across = k * [np.cos(angle), np.sin(angle)], k * [-np.sin(angle), np.cos(angle)]
    np.testing.assert_allclose(astigmatic.transfer(along), Ctf(30000.0, 30000.0).transfer(along), atol=1e-9)
    np.testing.assert_allclose(astigmatic.transfer(across), Ctf(20000.0, 20000.0).transfer(across), atol=1e-9)


def test_opposite_frequencies_fraction_their_transfer(rng):
    k = rng.uniform(-0.1, 0.1, (50, 2))
    ctf = Ctf(30000.0, 20000.0, 25.0)
    np.testing.assert_allclose(ctf.transfer(k), ctf.transfer(-k), atol=1e-9)


def test_a_batch_of_images_is_its_singles(rng):
    k = rng.uniform(-0.1, 0.1, (50, 2))
    u, v, angle = np.array([3e4, 2e4, 4e4]), np.array([2.8e4, 2e4, 3e4]), np.array([0.0, 20.0, -50.0])
    singles = [Ctf(*values).transfer(k) for values in zip(u, v, angle, strict=True)]
    batch = Ctf(u, v, angle).transfer(k)
    assert batch.shape == (3, 50)
    np.testing.assert_allclose(batch, singles, atol=1e-12)


def test_critical_dose_at_known_frequencies():
    # Grant & Grigorieff 2015, eq. 3: N_e = 0.245 k^-1.665 + 2.81; at 1/(10 A) 14.1, at 1/(3 A) 4.34 electrons / A^2.
    for frequency, critical in [(0.1, 14.14), (1 / 3, 4.34)]:
        left = dose_decay([frequency], np.array([critical]))[0, 0]
        assert left == pytest.approx(np.exp(-0.5), abs=1e-3)


def test_dose_takes_high_frequencies_first():
    decay = dose_decay(np.array([0.0, 0.02, 0.1, 0.3]), np.array([0.0, 10.0, 100.0]))
    assert decay.shape == (3, 4)
    np.testing.assert_array_equal(decay[0], 1.0)
    assert (np.diff(decay[1:], axis=1) < 0).all() and (np.diff(decay[:, 1:], axis=0) < 0).all()
    np.testing.assert_allclose(decay[:, 0], 1.0, atol=1e-6)  # nothing of the mean is lost
    # Doses multiply their decays.
    np.testing.assert_allclose(dose_decay([0.1], [30.0]), dose_decay([0.1], [10.0]) ** 3)
