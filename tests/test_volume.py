"""What counts as a particle: values are copied, frozen and refused with a remedy."""

from __future__ import annotations

import numpy as np
import pytest

from gonio.particle.ctf import Ctf
from gonio.particle.volume import MIN_BOX, Subtomogram, TiltStack, Volume, masked, masked_volume
from gonio.particle.wedge import NoWedge, SingleAxisWedge


@pytest.fixture
def density(rng) -> np.ndarray:
    return rng.normal(size=(10, 10, 10))


@pytest.fixture
def images(rng) -> np.ndarray:
    return rng.normal(size=(3, 10, 10))


FLAT = np.tile(np.eye(3)[:2], (3, 1, 1))  # three untilted projections


def test_a_volume_is_its_own_read_only_float32_copy(density):
    volume = Volume(density, 4.0)
    before = volume.data[0, 0, 0]
    density[0, 0, 0] += 1.0
    assert volume.data.dtype == np.float32 and volume.data.flags.c_contiguous
    assert volume.data[0, 0, 0] == before
    with pytest.raises(ValueError, match="read-only"):
        volume.data[0, 0, 0] = 0.0


def test_a_volume_keeps_the_order_of_axes(density):
    np.testing.assert_array_equal(Volume(np.asfortranarray(density), 4.0).data, density.astype(np.float32))


@pytest.mark.parametrize("n", [MIN_BOX, 9, 10])
def test_boxes_may_be_even_or_odd(n):
    volume = Volume(np.zeros((n, n, n)), 2.5)
    assert volume.box == n and volume.box_angstrom == 2.5 * n
    assert repr(volume) == f"Volume({n}^3 voxels of 2.5 angstrom)"


@pytest.mark.parametrize("shape", [(10, 10), (10, 10, 11), (1, 10, 10, 10), ()])
def test_what_is_not_a_cube_is_refused(shape):
    with pytest.raises(ValueError, match="must be a cube"):
        Volume(np.zeros(shape), 4.0)


def test_small_boxes_are_refused():
    with pytest.raises(ValueError, match="at least 8 voxels, got 7"):
        Volume(np.zeros((7, 7, 7)), 4.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_counted_and_refused(density, bad):
    density[1, 2, 3:5] = bad
    with pytest.raises(ValueError, match="the volume holds 2 values"):
        Volume(density, 4.0)


@pytest.mark.parametrize("voxel", [0.0, -1.0, np.nan, np.inf])
def test_voxel_sizes_must_be_positive(density, images, voxel):
    with pytest.raises(ValueError, match="voxel_size_angstrom"):
        Volume(density, voxel)
    with pytest.raises(ValueError, match="voxel_size_angstrom"):
        TiltStack(images, FLAT, voxel)


def test_a_subtomogram_is_a_volume_and_a_wedge(density):
    particle = Subtomogram(Volume(density, 4.0), SingleAxisWedge(-60, 60), normal_xyz=[0, 0, 2])
    assert particle.box == 10 and particle.voxel_size_angstrom == 4.0
    np.testing.assert_array_equal(particle.normal_xyz, [0, 0, 1])
    assert isinstance(Subtomogram(Volume(density, 4.0)).wedge, NoWedge)
    assert Subtomogram(Volume(density, 4.0)).normal_xyz is None


def test_a_constant_volume_is_refused():
    with pytest.raises(ValueError, match="constant"):
        Subtomogram(Volume(np.ones((8, 8, 8)), 4.0))


def test_what_is_no_wedge_is_refused(density):
    with pytest.raises(TypeError, match="SingleAxisWedge"):
        Subtomogram(Volume(density, 4.0), (-60, 60))


@pytest.mark.parametrize("normal", [(0, 0, 0), (1, 0), (np.nan, 0, 1), ((0, 0, 1), (0, 0, 1))])
def test_directions_without_a_direction_are_refused(density, images, normal):
    with pytest.raises(ValueError, match="normal_xyz"):
        Subtomogram(Volume(density, 4.0), normal_xyz=normal)
    with pytest.raises(ValueError, match="normal_xyz"):
        TiltStack(images, FLAT, 4.0, normal_xyz=normal)


def test_a_stack_copies_and_freezes_its_images(images):
    stack = TiltStack(images, FLAT, 4.0, ctf=Ctf(3e4, 3e4))
    before = stack.images[0, 0, 0]
    images[0, 0, 0] += 1.0
    assert stack.images[0, 0, 0] == before and stack.images.dtype == np.float32
    assert stack.box == 10
    with pytest.raises(ValueError, match="read-only"):
        stack.images[0, 0, 0] = 0.0


def test_tilts_that_are_zero_or_weightless_are_not_used(images):
    images[1] = 0.0
    np.testing.assert_array_equal(TiltStack(images, FLAT, 4.0).used, [True, False, True])
    np.testing.assert_array_equal(TiltStack(images, FLAT, 4.0, scale=[0.0, 1.0, 0.5]).used, [False, False, True])


def test_one_dose_or_scale_serves_all_tilts(images):
    stack = TiltStack(images, FLAT, 4.0, dose=3.0, scale=0.5)
    np.testing.assert_array_equal(stack.dose, [3.0] * 3)
    np.testing.assert_array_equal(stack.scale, [0.5] * 3)


@pytest.mark.parametrize("shape", [(10, 10), (3, 10, 11), (3, 7, 7), (0, 10, 10)])
def test_what_is_not_a_stack_of_squares_is_refused(shape):
    with pytest.raises(ValueError, match="images must have shape"):
        TiltStack(np.ones(shape), FLAT, 4.0)


def test_stacks_are_checked(images):
    with pytest.raises(ValueError, match=r"projections of shape \(3, 2, 3\)"):
        TiltStack(images, FLAT[:2], 4.0)
    with pytest.raises(ValueError, match="every tilt image is zero"):
        TiltStack(np.zeros((3, 10, 10)), FLAT, 4.0)
    with pytest.raises(ValueError, match="tilt stack holds 1 values"):
        TiltStack(np.where(np.arange(300).reshape(3, 10, 10) == 5, np.nan, images), FLAT, 4.0)


@pytest.mark.parametrize("name", ["dose", "scale"])
def test_values_per_tilt_must_match_the_tilts(images, name):
    with pytest.raises(ValueError, match=f"{name} must"):
        TiltStack(images, FLAT, 4.0, **{name: [1.0, 2.0]})
    with pytest.raises(ValueError, match=f"{name} must"):
        TiltStack(images, FLAT, 4.0, **{name: [1.0, np.nan, 2.0]})


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_projections_must_be_finite(images, bad):
    projections = FLAT.copy()
    projections[1, 0, 0] = bad
    with pytest.raises(ValueError, match="projections_xyz"):
        TiltStack(images, projections, 4.0)


def test_the_ctf_must_be_of_one_image_or_of_all(images):
    three = np.full(3, 3e4)
    assert TiltStack(images, FLAT, 4.0, ctf=Ctf(three, three)).ctf is not None
    with pytest.raises(ValueError, match="ctf"):
        TiltStack(images, FLAT, 4.0, ctf=Ctf(three[:2], three[:2]))


def test_projections_that_stretch_are_refused():
    images = np.random.default_rng(0).standard_normal((2, 16, 16))
    rows = np.tile(np.eye(3)[:2], (2, 1, 1))
    rows[1] *= 1.15
    with pytest.raises(ValueError, match="those of tilt 1 are not; put magnification into the pixel size"):
        TiltStack(images, rows, 10.0)


def test_a_mask_is_one_inside_and_nothing_outside():
    data = np.random.default_rng(0).standard_normal((24, 24, 24)) + 5.0
    masked_data = masked_volume(Volume(data, 10.0), 120.0).data
    axis = np.arange(24) - 12
    distance = np.sqrt((axis**2)[:, None, None] + (axis**2)[:, None] + axis**2)
    inside, outside = distance <= 6.0, distance >= 7.5  # the edge: an eighth of 12 voxels
    assert (masked_data[outside] == 0).all()
    np.testing.assert_allclose((data - masked_data)[inside].std(), 0.0, atol=1e-5)  # the mean under the mask alone
    images = masked(TiltStack(data[:3], np.tile(np.eye(3)[:2], (3, 1, 1)), 10.0), 120.0).images
    assert (images[:, distance[12] >= 7.5] == 0).all() and images.any(axis=(1, 2)).all()
    with pytest.raises(ValueError, match="the mask's diameter must be positive"):
        masked_volume(Volume(data, 10.0), 0.0)
