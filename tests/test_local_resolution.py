"""Resolution from place to place, against literal sums and maps whose detail is known; and by direction."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import scipy.fft

from gonio.averaging import directional, local_resolution
from gonio.averaging.directional import directional_fsc
from gonio.averaging.local_resolution import LocalResolution, locally_filtered
from gonio.averaging.resolution import half_map_fsc
from gonio.fourier.fsc import half_radius
from gonio.particle.volume import Volume, soft_sphere

VOXEL = 4.0


def filtered(data: np.ndarray, response: np.ndarray) -> np.ndarray:
    return scipy.fft.irfftn(scipy.fft.rfftn(data) * response, data.shape)


def noise(box: int, rng: np.random.Generator) -> tuple[Volume, Volume]:
    one, two = (Volume(rng.normal(size=(box,) * 3), VOXEL) for _ in range(2))
    return one, two


# From place to place


def oracle_band(volume: Volume, number: int) -> np.ndarray:
    """The map of a band, shells levelled: frequency by frequency of the full transform."""
    n = volume.box
    centre, axis = local_resolution._band_centres(n)[number], np.fft.fftfreq(n, 1 / n)
    spectrum = np.fft.fftn(volume.data.astype(float))
    radius = {k: float(np.sqrt(sum(axis[i] ** 2 for i in k))) for k in product(range(n), repeat=3)}
    power: dict[int, list[float]] = {}
    for k, r in radius.items():
        power.setdefault(int(r + 0.5), []).append(abs(spectrum[k]) ** 2)
    level = {s: np.sqrt(np.mean(values)) for s, values in power.items()}
    for k, r in radius.items():
        apart = abs(np.log(max(r, 1e-6) / centre) / np.log(local_resolution.RATIO))
        spectrum[k] *= (0.5 + 0.5 * np.cos(np.pi * apart)) / level[int(r + 0.5)] if apart < 1 else 0.0
    return np.fft.ifftn(spectrum).real


def oracle_correlation(one: np.ndarray, two: np.ndarray, wide: float, place: tuple[int, int, int]) -> float:
    """Correlation of two bands within a window about a voxel, voxel by voxel."""
    n, sums = len(one), np.zeros(3)
    for at in product(range(n), repeat=3):
        squared = sum(((i - j + n // 2) % n - n // 2) ** 2 for i, j in zip(at, place, strict=True))
        if squared < wide**2:
            a, b = one[at], two[at]
            sums += (1 - squared / wide**2) ** 3 * np.array([a * b, a * a, b * b])
    return float(sums[0] / np.sqrt(sums[1] * sums[2]))


def test_the_correlation_of_a_band_is_the_literal_one(rng):
    """At three places of an asymmetric map, in a box of its own whose voxels lie between those of the whole one."""
    box, number = 28, 1
    signal = rng.normal(size=(box,) * 3) * np.linspace(0, 3, box)[:, None, None] * np.linspace(1, 2, box)
    one, two = (Volume(signal + half.data, VOXEL) for half in noise(box, rng))
    centres = local_resolution._band_centres(box)
    spectra = [local_resolution._levelled(half) for half in (one, two)]
    correlation = local_resolution._band_correlation(spectra, number, centres)[0]
    whole = local_resolution._enlarged(correlation, box)
    bands = [oracle_band(half, number) for half in (one, two)]
    wide = local_resolution.WINDOW * box / centres[number] / 2 / np.sqrt(1 - 0.5 ** (1 / 3))
    for place in ((4, 9, 20), (22, 9, 3), (13, 25, 14)):
        assert whole[place] == pytest.approx(oracle_correlation(*bands, wide, place), abs=0.03), place


def test_chance_is_as_wide_as_it_is_predicted(rng):
    box, found = 40, []
    for _ in range(8):
        spectra = [local_resolution._levelled(half) for half in noise(box, rng)]
        correlation, sd = local_resolution._band_correlation(spectra, 3, local_resolution._band_centres(box))
        found.append((correlation**2).mean())
    # A box of 40 has some ten independent windows: the error of the standard deviation of eight is 10 %.
    assert np.sqrt(np.mean(found)) == pytest.approx(sd, rel=0.3)


def test_two_halves_of_10_and_20_angstrom_come_out_so(rng):
    """Within 1.5 angstrom of each, away from the border between them and from the box's."""
    box = 96
    white, per_angstrom = rng.normal(size=(box,) * 3), half_radius(box) / (box * VOXEL)
    fine, coarse = (filtered(white, per_angstrom <= 1 / limit) for limit in (10.0, 20.0))
    left = np.arange(box)[:, None, None] < box // 2
    signal = np.where(left, fine / fine.std(), coarse / coarse.std())
    halves = tuple(Volume(signal + 3.0 * half.data, VOXEL) for half in noise(box, rng))
    found = local_resolution.local_resolution(halves).angstrom
    assert np.abs(found[20:28] - 10.0).max() < 1.5
    assert np.abs(np.quantile(found[66:78], [0.02, 0.5, 0.98], method="nearest") - 20.0).max() < 2.0
    assert np.median(found[66:78]) == pytest.approx(20.0, abs=1.5)
    # Which is which is along z alone: along y and x it is even.
    assert max(np.ptp(np.median(found[20:28], axis=axes)) for axes in ((0, 1), (0, 2))) < 1.0


def test_noise_has_none(rng):
    assert not np.isfinite(local_resolution.local_resolution(noise(48, rng)).angstrom).any()


def test_a_uniform_map_has_its_own_everywhere(rng):
    box = 64
    signal = filtered(rng.normal(size=(box,) * 3), np.exp(-(half_radius(box) ** 2) / (2 * 11.0**2)))
    halves = tuple(Volume(signal / signal.std() + 2.0 * half.data, VOXEL) for half in noise(box, rng))
    whole = half_map_fsc(halves, mask=None, rng=rng).resolution_angstrom()
    low, middle, high = local_resolution.local_resolution(halves).quartiles(np.ones((box,) * 3))
    assert middle == pytest.approx(whole, rel=0.08)
    assert low > 0.85 * whole and high < 1.15 * whole


def test_the_filter_follows_the_resolution_of_each_place(rng):
    box = 48
    volume = noise(box, rng)[0]
    angstrom = np.full((box,) * 3, 12.0, np.float32)
    angstrom[:, :, box // 2 :] = np.inf
    local = LocalResolution(angstrom, 19.0, 9.0, VOXEL)
    result = locally_filtered(volume, local)
    radius = half_radius(box) / volume.box_angstrom
    everywhere = locally_filtered(volume, LocalResolution(np.full_like(angstrom, 12.0), 19.0, 9.0, VOXEL))
    response = scipy.fft.rfftn(everywhere.data) / scipy.fft.rfftn(volume.data)
    np.testing.assert_allclose(response[radius < 1 / 12.0 / local_resolution.RATIO], 1.0, atol=1e-3)
    np.testing.assert_allclose(response[radius > local_resolution.RATIO**2 / 12.0], 0.0, atol=1e-3)
    # The left along x is filtered to 12 angstrom, of the right little is left; away from the borders.
    np.testing.assert_allclose(
        result.data[:, :, 10:14], everywhere.data[:, :, 10:14], atol=0.25 * everywhere.data.std()
    )
    nothing = locally_filtered(volume, LocalResolution(np.full_like(angstrom, np.inf), 19.0, 9.0, VOXEL))
    np.testing.assert_allclose(result.data[:, :, 34:38], nothing.data[:, :, 34:38], atol=0.25 * everywhere.data.std())
    response = scipy.fft.rfftn(nothing.data) / scipy.fft.rfftn(volume.data)
    first = local_resolution._band_centres(box)[0] / volume.box_angstrom
    np.testing.assert_allclose(response[radius >= first], 0.0, atol=1e-3)
    np.testing.assert_allclose(response[radius < first / local_resolution.RATIO], 1.0, atol=1e-3)


def test_small_boxes_are_refused(rng):
    with pytest.raises(ValueError, match="a box of 20 voxels is too small for windows of 5 wavelengths"):
        local_resolution.local_resolution(noise(20, rng))
    assert not local_resolution.has_bands(20) and local_resolution.has_bands(28)


# By direction

BOX = 40
MASK = Volume(soft_sphere(BOX, radius_px=12, edge_px=4), VOXEL)


def halves_of(response: np.ndarray | float, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Half maps of random density in a ball, whose detail falls off, and with a response."""
    ball = rng.normal(size=(BOX,) * 3) * MASK.data
    signal = filtered(ball, np.exp(-(half_radius(BOX) ** 2) / 50.0) * response)
    one, two = (Volume(signal / signal.std() + 1.5 * half.data, VOXEL) for half in noise(BOX, rng))
    return one, two


def by_direction(halves: tuple[Volume, Volume], rng: np.random.Generator) -> directional.DirectionalFsc:
    return directional_fsc(halves, mask=MASK, fsc=half_map_fsc(halves, mask=MASK, rng=rng), rng=rng)


def frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies z, y, x in cycles a voxel, in the order of ``rfftn``."""
    whole, half = scipy.fft.fftfreq(BOX), scipy.fft.rfftfreq(BOX)
    return whole[:, None, None], whole[None, :, None], half[None, None, :]


def test_cones_are_the_literal_ones(rng):
    """Samples of the full transform, each by the piece of the sphere that it is in, one after another."""
    box = 13  # odd: each sample has its opposite
    one, two = (Volume(rng.normal(size=(box,) * 3) + 0.3, VOXEL) for _ in range(2))
    axes = np.array([[0.36, 0.48, 0.8], [0.0, -0.6, 0.8], [1.0, 0.0, 0.0]])
    cones = directional._Cones(box, axes)
    cones.few[:] = False
    got = cones.fsc(*(scipy.fft.rfftn(v.data) for v in (one, two)))
    first, second = (np.fft.fftn(v.data.astype(float)) for v in (one, two))
    axis = np.fft.fftfreq(box, 1 / box)
    pieces, piece_of = directional._pixel_axes(), directional._pixel(box).reshape(box, box, -1)
    for number, towards in enumerate(axes):
        sums = np.zeros((box, 3))
        for k in product(range(box), repeat=3):
            xyz = np.array([axis[k[2]], axis[k[1]], axis[k[0]]])
            s = int(np.floor(np.linalg.norm(xyz) + 0.5))
            if s == 0 or s > box // 2:
                continue
            stored = k if k[2] <= box // 2 else tuple(-i % box for i in k)  # of k and -k, the one with x >= 0
            piece = pieces[piece_of[stored]]
            assert np.abs(piece @ xyz) >= np.linalg.norm(xyz) * np.cos(np.radians(2.8))
            if np.abs(piece @ towards) >= np.cos(np.radians(20.0)):
                a, b = first[k], second[k]
                sums[s] += (a * b.conj()).real, abs(a) ** 2, abs(b) ** 2
        known = sums[: box // 2 + 1, 1] > 0
        expected = sums[: box // 2 + 1, 0][known] / np.sqrt(sums[: box // 2 + 1, 1:][known].prod(axis=1))
        np.testing.assert_allclose(got[number][known], expected, atol=1e-5)


@pytest.mark.parametrize("towards", [(0.36, 0.48, 0.8), (0.8, -0.6, 0.0)])
def test_a_map_blurred_along_a_direction_is_worst_there(rng, towards):
    z, y, x = frequencies()
    along = towards[0] * x + towards[1] * y + towards[2] * z
    found = by_direction(halves_of(np.exp(-150.0 * along**2), rng), rng)
    assert abs(found.worst_xyz @ np.array(towards)) > np.cos(np.radians(25.0))
    assert found.anisotropy > 0.35 and not found.is_chance


def test_a_missing_wedge_is_seen(rng):
    z, _, x = frequencies()
    found = by_direction(halves_of((np.abs(z) <= np.abs(x) * np.tan(np.radians(50))) * 1.0, rng), rng)
    # Tilted about y by 50 degrees: near the plane of y and z all but y itself is missing.
    assert abs(found.worst_xyz[0]) < 0.5 and abs(found.worst_xyz[2]) > 0.4
    assert found.anisotropy > 0.4 and not found.is_chance
    along_x = found.resolution_angstrom[np.argmax(np.abs(found.direction_xyz[:, 0]))]
    assert along_x < found.resolution_angstrom.max() / 1.6


def test_an_isotropic_map_is_within_chance(rng):
    """Each is with a probability of 95 %: two in three draws, at fixed seeds, would be a mistake in what chance is."""
    found = [by_direction(halves_of(1.0, rng), rng) for _ in range(3)]
    assert sum(one.is_chance for one in found) >= 2
    assert np.mean([one.anisotropy for one in found]) == pytest.approx(
        np.mean([one.by_chance.mean() for one in found]), abs=0.1
    )


def test_the_median_of_directions_is_the_fsc_of_all(rng):
    halves = halves_of(1.0, rng)
    whole = half_map_fsc(halves, mask=MASK, rng=rng)
    found = directional_fsc(halves, mask=MASK, fsc=whole, rng=rng)
    np.testing.assert_allclose(np.median(found.fsc, axis=0)[4:10], whole.best[4:10], atol=0.1)
