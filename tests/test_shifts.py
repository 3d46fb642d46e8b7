"""The best shift of an orientation is that of trying all, however the sum over samples is taken."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.comparison import best_shift
from gonio.comparison.best_shift import ShiftSearch
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.kernels.sample_sums import Samples
from gonio.particle.volume import Subtomogram, TiltStack, Volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge
from oracle import Blobs

VOXEL = 5.0
OBJECT = Blobs.random(7)
TURN = Rotation.from_euler("ZYZ", [40.0, 70.0, -25.0], degrees=True).as_matrix()  # not its own inverse
TURN32 = TURN.astype(np.float32)


class NoFrequency(NoWedge):
    """A wedge that has measured nothing."""

    regions = np.zeros((0, 7))


def spectrum_of(n: int, *, limit: float = 8.0) -> Spectrum:
    """Samples to a limit in shells, with a wedge that is not symmetric."""
    particle = Subtomogram(Volume(OBJECT.volume(n), VOXEL), SingleAxisWedge(-60, 45))
    return Spectrum.of(particle, resolution_angstrom=n * VOXEL / limit)


def compared(spectrum: Spectrum, wedge=None) -> tuple[Spectrum, Samples, FourierVolume]:
    """A target as the kernels take it, and a reference that differs from it."""
    value = np.stack([spectrum.value.real, spectrum.value.imag])
    ones = np.ones_like(spectrum.weight)
    samples = Samples(spectrum.frequency_xyz, value, spectrum.transfer, spectrum.weight, ones, ones)
    reference = Volume(OBJECT.moved(TURN, np.array([1.0, 2.0, -1.5])).volume(24), VOXEL)
    return spectrum, samples, FourierVolume.of(reference, wedge=wedge, limit=spectrum.limit, box=spectrum.box)


def brute_force(spectrum: Spectrum, reference: FourierVolume, rotation: np.ndarray, radius: int, wedge=None):
    """All whole-voxel shifts within a ball and f.g at each, by the sum that defines it."""
    axis = range(-radius, radius + 1)
    tried = np.array([t for t in product(axis, axis, axis) if np.dot(t, t) <= radius**2])
    frequency = spectrum.frequency_xyz.T.astype(float)  # (n, 3)
    turned = frequency @ rotation
    seen = np.ones(len(turned)) if wedge is None else wedge.weight_at(turned / (spectrum.box * VOXEL))
    products = spectrum.weight * seen * spectrum.value * (spectrum.transfer * reference.sample(turned)).conj()
    return tried, (np.exp(2j * np.pi * tried @ frequency.T / spectrum.box) @ products).real


ROTATIONS = Rotation.random(37, rng=np.random.default_rng(3)).as_matrix()  # some lanes of the last portion are empty


@pytest.mark.parametrize("n", [24, 25])
def test_the_best_shift_is_that_of_trying_all(n):
    wedge = SingleAxisWedge(-50, 60)
    spectrum, samples, reference = compared(spectrum_of(n), wedge)
    search = ShiftSearch(spectrum, samples, max_shift_angstrom=4 * VOXEL)
    found, values, norms = search.best(reference, ROTATIONS.astype(np.float32))
    for rotation, shift, value in zip(ROTATIONS, found, values, strict=True):
        tried, scores = brute_force(spectrum, reference, rotation, 4, wedge)
        np.testing.assert_allclose(shift, VOXEL * tried[scores.argmax()])
        assert value == pytest.approx(scores.max(), rel=1e-4)
    assert len(np.unique(found, axis=0)) > 5
    assert (norms > 0).all()


def tilted(n: int = 24) -> TiltStack:
    """Images of the object at three tilts about an axis that is none of the grid's."""
    tilts = Rotation.from_rotvec(np.radians(np.outer([-40, 3, 25], [0.3, 0.9, 0.0]))).as_matrix()
    images = np.stack([OBJECT.moved(tilt, np.zeros(3)).volume(n).sum(axis=0) for tilt in tilts])
    return TiltStack(images, tilts[:, :2], VOXEL)


def test_the_best_shift_off_the_grid_is_that_of_trying_all(monkeypatch):
    monkeypatch.setattr(best_shift, "PHASES", 1e5)  # so that several portions are needed
    spectrum, samples, reference = compared(Spectrum.of(tilted(), resolution_angstrom=24 * VOXEL / 8.0))
    assert not spectrum.on_grid
    search = ShiftSearch(spectrum, samples, max_shift_angstrom=5 * VOXEL)
    found, values, _ = search.best(reference, ROTATIONS.astype(np.float32))
    for rotation, shift, value in zip(ROTATIONS, found, values, strict=True):
        tried, scores = brute_force(spectrum, reference, rotation, 5)
        np.testing.assert_allclose(shift, VOXEL * tried[scores.argmax()])
        assert value == pytest.approx(scores.max(), rel=1e-4)


@pytest.mark.parametrize("on_grid", [True, False])
def test_no_shift_is_allowed_but_none(on_grid):
    spectrum = spectrum_of(24) if on_grid else Spectrum.of(tilted(), resolution_angstrom=24 * VOXEL / 8.0)
    spectrum, samples, reference = compared(spectrum)
    found, _, _ = ShiftSearch(spectrum, samples, max_shift_angstrom=0.5 * VOXEL).best(reference, TURN32[None])
    np.testing.assert_array_equal(found, [[0, 0, 0]])


@pytest.mark.parametrize("on_grid", [True, False])
def test_where_nothing_is_shared_nothing_is_moved(on_grid):
    spectrum = spectrum_of(24) if on_grid else Spectrum.of(tilted(), resolution_angstrom=24 * VOXEL / 8.0)
    spectrum, samples, reference = compared(spectrum, NoFrequency())
    found, _, norms = ShiftSearch(spectrum, samples, max_shift_angstrom=3 * VOXEL).best(reference, TURN32[None])
    np.testing.assert_array_equal(found, np.zeros((1, 3)))
    np.testing.assert_array_equal(norms, np.zeros((1, 3)))
