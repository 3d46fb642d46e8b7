"""Particles are inserted where they were measured: what is spread is the transpose of what is gathered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gonio.averaging.insertion import insertion_of
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.grid import index_grid
from gonio.kernels import insert
from gonio.particle.pose import Pose
from gonio.particle.symmetry import Symmetry, _permuted, split
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge, WeightVolumeWedge

VOXEL = 10.0
EVERYWHERE = (np.zeros((1, 7), np.float32), np.zeros((0, 0, 0), np.float32), np.float32(1.0))
UNMOVED = np.eye(3, dtype=np.float32), np.zeros(3, np.float32)


def half_grid(rng: np.random.Generator, half: int) -> np.ndarray:
    """Half of the spectrum of a real density, (z, y, x, 2)."""
    cube = rng.normal(size=(2 * half + 1,) * 3) + 1j * rng.normal(size=(2 * half + 1,) * 3)
    cube = cube + cube[::-1, ::-1, ::-1].conj()
    grid = np.ascontiguousarray(cube[..., half - insert.MARGIN :].astype(np.complex64))
    return grid.view(np.float32).reshape(*grid.shape, 2)


@given(st.integers(0, 10**6))
def test_spreading_is_the_transpose_of_gathering(seed):
    """<gather a, b> = <a, spread b> for any spectrum a and samples b, anywhere."""
    rng, half, count, scale = np.random.default_rng(seed), 10, 40, np.float32(2.0)
    frequency = rng.uniform(-2.0, 2.0, size=(3, count)).astype(np.float32)
    grid = half_grid(rng, half)
    gathered, weights = np.zeros((count, 2)), np.zeros(count)
    insert.add_gathered(grid, scale, EVERYWHERE, frequency, *UNMOVED, gathered, weights)
    assert (weights == 1.0).all()
    values = (rng.normal(size=(count, 1)) + 1j * rng.normal(size=(count, 1))).astype(np.complex64)
    axes = np.zeros((count, 2, 3), np.float32)  # every sample is an image of its own, along its x axis
    axes[:, 0] = frequency.T
    images = np.array([[1.0, 0.0]], np.float32), axes, values, np.ones((count, 1), np.float32)
    signal, weight = np.zeros(grid.shape[:3], np.complex64), np.zeros(grid.shape[:3], np.float32)
    insert.add_spread(images, np.float32(9.0), scale, *UNMOVED, signal, weight)
    forward = (gathered @ [1.0, 1j] * values[:, 0].conj()).real.sum()
    backward = (grid @ np.array([1.0, 1j]) * signal.conj()).real.sum()
    size = float(np.linalg.norm(gathered) * np.linalg.norm(values))
    assert forward == pytest.approx(backward, abs=2e-6 * size)  # single precision, sums of 64 neighbours


@pytest.mark.parametrize("box", [16, 17])
@pytest.mark.parametrize("wedge", ["none", "range", "weights"])
def test_what_is_gathered_is_the_spectrum_that_the_formula_names(box, wedge, rng):
    """w F(R k) exp(2 pi i R k.t / n) at every whole k (docs/theory.md eq. 20), F as scores sample it."""
    data = rng.normal(size=(box,) * 3)
    index = index_grid(box)
    weights = 1.0 + np.cos(index[..., 0] + 2 * index[..., 1] + 3 * index[..., 2])  # those of k and -k are alike
    wedges = {
        "none": NoWedge(),
        "range": SingleAxisWedge(-50, 60, 70.0),
        "weights": WeightVolumeWedge(weights.astype(np.float32), VOXEL),
    }
    particle, limit = Subtomogram(Volume(data, VOXEL), wedges[wedge]), (box - 1) // 2
    pose = Pose.random(1, rng=rng, max_shift_angstrom=30.0)[0]
    insertion = insertion_of(particle, Symmetry("C1"))
    running = insertion.start()
    insertion.add(particle, pose, into=running)
    index = index_grid(2 * limit + 1)
    kept = np.linalg.norm(index, axis=-1) <= limit  # beyond, weights of an even box have ended on one side
    turned = index[kept] @ pose.matrix.T
    weight = particle.wedge.weight_at(turned / particle.volume.box_angstrom)
    phase = np.exp(2j * np.pi / particle.volume.box_angstrom * turned @ pose.shift_angstrom)
    expected = weight * phase * FourierVolume.of(particle.volume, limit=limit + 0.5).sample(turned)
    sums = insertion.packed(running)
    np.testing.assert_allclose(insertion._cube(sums.weight)[kept], weight, atol=1e-5)
    scale = np.sqrt((np.abs(expected) ** 2).mean())
    np.testing.assert_allclose(insertion._cube(sums.signal)[kept], expected, atol=1e-4 * scale)


@pytest.mark.parametrize("name", ["C1", "C2", "C3", "C4", "C6", "C7", "D2", "D3", "D7", "T", "O", "I1", "I2"])
def test_a_group_is_its_cosets_times_what_permutes_the_axes(name):
    cosets, lattice = split(Symmetry(name))
    products = (cosets[:, None] @ lattice).reshape(-1, 9)  # (order, 9)
    group = Symmetry(name).matrices.reshape(-1, 9)
    assert len(products) == len(group)
    assert (np.abs(products[:, None] - group).max(axis=-1).min(axis=0) < 1e-6).all()
    assert len(cosets) == {"C3": 3, "C6": 3, "C7": 7, "D3": 3, "D7": 7, "I1": 5, "I2": 5}.get(name, 1)


def test_a_permuted_cube_holds_what_the_turned_frequency_held(rng):
    cube = rng.normal(size=(5, 5, 5))
    for turn in split(Symmetry("O"))[1]:
        permuted = _permuted(cube, turn)
        for k in ([1, 2, -1], [-2, 0, 1], [0, 1, 0]):
            x, y, z = 2 + turn @ k
            assert permuted[2 + k[2], 2 + k[1], 2 + k[0]] == cube[z, y, x]
