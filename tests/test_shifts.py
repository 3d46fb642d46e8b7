"""The best shift of an orientation is that of trying all, however the sum over samples is taken."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import shifts
from gonio.fourier import Spectrum
from gonio.shifts import ShiftSearch
from gonio.volume import Subtomogram, TiltStack, Volume
from gonio.wedge import SingleAxisWedge
from oracle import Blobs

VOXEL = 5.0
OBJECT = Blobs.random(7)

ways = pytest.mark.parametrize("at_once", [0.0, np.inf], ids=["axis by axis", "at once"])


def spectrum_of(n: int, *, limit: float = 8.0) -> Spectrum:
    """Samples to a limit in shells, with a wedge that is not symmetric."""
    particle = Subtomogram(Volume(OBJECT.volume(n), VOXEL), SingleAxisWedge(-60, 45))
    return Spectrum.of(particle, resolution_angstrom=n * VOXEL / limit)


def parts(products: np.ndarray) -> np.ndarray:
    """Rows of complex products (p, n) as the search takes them, (p, 2, n)."""
    return np.ascontiguousarray(np.stack([products.real, products.imag], axis=1), dtype=np.float32)


def brute_force(spectrum: Spectrum, products: np.ndarray, radius: int) -> tuple[np.ndarray, np.ndarray]:
    """All whole-voxel shifts within a ball and f.g at each, by the sum that defines it."""
    axis = range(-radius, radius + 1)
    tried = np.array([t for t in product(axis, axis, axis) if np.dot(t, t) <= radius**2])
    phase = np.exp(2j * np.pi * tried @ spectrum.frequency_xyz.astype(float) / spectrum.box)
    return tried, (phase @ products.astype(complex)).real


@ways
@pytest.mark.parametrize("n", [24, 25])
def test_the_best_shift_is_that_of_trying_all(n, at_once, rng, monkeypatch):
    monkeypatch.setattr(shifts, "AT_ONCE", at_once)
    monkeypatch.setattr(shifts, "CHUNK", 3e4)  # so that both ways need several portions
    spectrum = spectrum_of(n)
    products = rng.normal(size=(30, len(spectrum))) + 1j * rng.normal(size=(30, len(spectrum)))
    found, values = ShiftSearch(spectrum, max_shift_angstrom=4 * VOXEL).best(parts(products))
    for row, shift, value in zip(products, found, values, strict=True):
        tried, scores = brute_force(spectrum, row, 4)
        np.testing.assert_allclose(shift, VOXEL * tried[scores.argmax()])
        assert value == pytest.approx(scores.max(), rel=1e-4)


def tilted(n: int = 24) -> TiltStack:
    """Images of the object at three tilts about an axis that is none of the grid's."""
    tilts = Rotation.from_rotvec(np.radians(np.outer([-40, 3, 25], [0.3, 0.9, 0.0]))).as_matrix()
    images = np.stack([OBJECT.moved(tilt, np.zeros(3)).volume(n).sum(axis=0) for tilt in tilts])
    return TiltStack(images, tilts[:, :2], VOXEL)


def test_the_best_shift_off_the_grid_is_that_of_trying_all():
    spectrum = Spectrum.of(tilted(), resolution_angstrom=24 * VOXEL / 8.0)
    assert not spectrum.on_grid
    search = ShiftSearch(spectrum, max_shift_angstrom=5 * VOXEL)
    for true in [(0, 0, 0), (3, -1, 2), (-2, -4, 1), (0, 5, 0)]:
        phase = np.exp(-2j * np.pi * np.array(true) @ spectrum.frequency_xyz.astype(float) / spectrum.box)
        row = np.abs(spectrum.value) ** 2 * phase
        tried, scores = brute_force(spectrum, row, 5)
        np.testing.assert_allclose(search.best(parts(row[None]))[0][0], VOXEL * tried[scores.argmax()])
        np.testing.assert_allclose(tried[scores.argmax()], true)


@ways
def test_no_shift_is_allowed_but_none(at_once, monkeypatch):
    monkeypatch.setattr(shifts, "AT_ONCE", at_once)
    spectrum = spectrum_of(24)
    row = np.abs(spectrum.value) ** 2 * np.exp(-2j * np.pi * spectrum.frequency_xyz[0] * 3 / 24)  # three voxels away
    found, _ = ShiftSearch(spectrum, max_shift_angstrom=0.5 * VOXEL).best(parts(row[None]))
    np.testing.assert_array_equal(found, [[0, 0, 0]])


@ways
def test_where_nothing_is_shared_nothing_is_moved(at_once, monkeypatch):
    monkeypatch.setattr(shifts, "AT_ONCE", at_once)
    spectrum = spectrum_of(24)
    found, values = ShiftSearch(spectrum, max_shift_angstrom=3 * VOXEL).best(
        np.zeros((2, 2, len(spectrum)), np.float32)
    )
    np.testing.assert_array_equal(found, np.zeros((2, 3)))
    np.testing.assert_array_equal(values, np.zeros(2))
