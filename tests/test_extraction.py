"""Boxes cut between voxels show what lies there, at any binning, and what is outside of the tomogram is told."""

import numpy as np
import pytest

from gonio.particle.pose import Pose
from gonio.simulate import Phantom
from gonio.workflows.extraction import Cutting, Scaling, cut_out, fraction_outside

SHAPE = (80, 76, 73)


def reader(volume):
    return lambda low, high: volume[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]


def tomogram(phantom, place_zyx, edge, shape=SHAPE):
    """The phantom with its centre at a place that need not be a voxel, in a box that is no cube."""
    large = max(shape)
    shift = (np.asarray(place_zyx) - large // 2)[::-1]
    cube = phantom.density(Pose(Pose.identity().rotation, shift), box=large, voxel_size_angstrom=1.0)
    return cube[: shape[0], : shape[1], : shape[2]].astype(np.float32)


@pytest.mark.parametrize(
    ("box", "binning"), [(24, 1), (25, 1), (16, 2), (17, 2), (19, 3), (18, 3)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("place", [(40.0, 38.0, 36.0), (40.37, 37.48, 36.51), (40.5, 37.75, 36.02)])
def test_a_box_shows_what_is_at_its_place(box, binning, place):
    phantom = Phantom.named("four_gaussians", box=box * binning, voxel_size_angstrom=1.0)
    volume = tomogram(phantom, place, box * binning)
    cut = cut_out(reader(volume), SHAPE, place, Cutting(box, binning))
    true = phantom.density(Pose.identity(), box=box, voxel_size_angstrom=float(binning))
    # What the phantom has beyond the Nyquist frequency of the binned box, which is cut off, is below 1 % of its peak.
    assert np.abs(cut.data - true).max() < 0.01 * true.max()
    assert cut.outside == 0


def test_a_place_on_a_voxel_is_copied():
    volume = np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)
    cut = cut_out(reader(volume), SHAPE, (30, 31, 33), Cutting(12))
    assert np.array_equal(cut.data, volume[24:36, 25:37, 27:39])
    odd = cut_out(reader(volume), SHAPE, (30, 31, 33), Cutting(13))
    assert np.array_equal(odd.data, volume[24:37, 25:38, 27:40])


def test_two_half_steps_are_a_step():
    """Noise has all frequencies: cut at half a voxel, and again of what was cut, it is what lies one voxel on."""
    rng = np.random.default_rng(2)
    volume = rng.normal(size=(80, 80, 80)).astype(np.float32)
    half = cut_out(reader(volume), volume.shape, (40.5, 40, 40), Cutting(60)).data
    twice = cut_out(reader(half), half.shape, (30.5, 30, 30), Cutting(16)).data
    inner = volume[41 - 8 : 41 + 8, 32:48, 32:48]
    # What is lost: the Nyquist frequency, one plane of 32, and the tails of the sinc beyond the margin, which hold
    # up to 1 / (4 pi^2) at the border.
    assert np.corrcoef(twice.ravel(), inner.ravel())[0, 1] > 0.95


def test_binning_aliases_nothing():
    """A wave beyond the binned box's Nyquist frequency is gone; one below stays as it is."""
    z = np.arange(96)
    for period, stays in ((3.0, False), (12.0, True)):
        wave = np.cos(2 * np.pi * (z - 48) / period)[:, None, None] * np.ones((1, 96, 96))
        cut = cut_out(reader(wave.astype(np.float32)), wave.shape, (48, 48, 48), Cutting(16, 2)).data
        inner = cut[4:-4, 8, 8]
        expected = np.cos(2 * np.pi * 2 * (np.arange(16) - 8) / period)[4:-4] if stays else 0.0
        assert np.abs(inner - expected).max() < 0.03


def test_what_lies_outside_is_the_mean():
    volume = np.random.default_rng(3).normal(5.0, 1.0, SHAPE).astype(np.float32)
    cut = cut_out(reader(volume), SHAPE, (0, 31, 30), Cutting(16))
    inside = volume[0:8, 23:39, 22:38]
    assert cut.outside == pytest.approx(0.5)
    assert np.array_equal(cut.data[8:], inside)
    assert np.allclose(cut.data[:8], inside.mean())
    shifted = cut_out(reader(volume), SHAPE, (0.25, 31.25, 30), Cutting(16))
    assert np.abs(shifted.data[:6] - inside.mean()).max() < 1.0  # the border rings a little, and no more


@pytest.mark.parametrize(
    ("place", "fraction"),
    [((30, 30, 30), 0.0), ((2, 30, 30), 4 / 12), ((79, 75, 72), 1 - (7 / 12) ** 3), ((-90, 0, 0), 1.0)],
)
def test_the_fraction_outside_is_that_of_the_voxels(place, fraction):
    box = np.zeros((12, 12, 12))
    index = [np.arange(12) - 6 + p for p in place]
    inside = [(i >= 0) & (i < n) for i, n in zip(index, SHAPE, strict=True)]
    box[np.ix_(*inside)] = 1
    assert fraction_outside(place, Cutting(12), SHAPE) == pytest.approx(1 - box.mean())
    assert fraction_outside(place, Cutting(12), SHAPE) == pytest.approx(fraction)


@pytest.mark.parametrize(
    ("place", "says"), [((-50, 30, 30), "lies outside"), ((np.nan, 1, 1), "finite"), ((1, 2), "three finite numbers")]
)
def test_places_that_are_none_are_refused(place, says):
    volume = np.zeros(SHAPE, np.float32)
    with pytest.raises(ValueError, match=says):
        cut_out(reader(volume), SHAPE, place, Cutting(12))


@pytest.mark.parametrize(("box", "binning", "says"), [(7, 1, "at least 8"), (8, 0, "at least 1")])
def test_boxes_that_are_none_are_refused(box, binning, says):
    with pytest.raises(ValueError, match=says):
        Cutting(box, binning)


def scaled(data, scaling):
    """Boxes of 2 angstrom, scaled."""
    mean, scale = scaling.level(data, 2.0)
    return (data - mean) / scale


def test_scaling_is_by_what_it_says():
    rng = np.random.default_rng(4)
    data = rng.normal(3, 2, (16, 16, 16)).astype(np.float32)
    data[6:10, 6:10, 6:10] += 50
    whole = scaled(data, Scaling("box"))
    assert whole.mean() == pytest.approx(0, abs=1e-5)
    assert whole.std() == pytest.approx(1, abs=1e-5)
    outer = scaled(data, Scaling(diameter_angstrom=24.0))
    radius = np.linalg.norm(np.indices(data.shape) - 8, axis=0)
    assert outer[radius > 6].mean() == pytest.approx(0, abs=1e-5)
    assert outer[radius > 6].std() == pytest.approx(1, abs=1e-5)
    assert outer[6:10, 6:10, 6:10].mean() > 20
    with pytest.raises(ValueError, match="all alike"):
        Scaling("box").level(np.full((8, 8, 8), 7, np.float32), 2.0)
    with pytest.raises(ValueError, match="no voxel"):
        Scaling(diameter_angstrom=400.0).level(data, 2.0)
    np.testing.assert_array_equal(scaled(data, Scaling("box", invert=True)), -whole)
    np.testing.assert_array_equal(scaled(data, Scaling("none", invert=True)), -data)
