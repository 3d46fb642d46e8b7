"""Slices of a density's transform are its projections, and back-projection is the sum that it is defined as."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio import Pose
from gonio.simulate import PHANTOM_NAMES, Imaging, Phantom, Structure, simulate_subtomogram
from gonio.simulate import microscope as m
from gonio.simulate.slices import Sliced

VOXEL = 5.0
SHAPE = (48, 64)


@pytest.fixture(scope="module")
def structure() -> Structure:
    rng = np.random.default_rng(3)
    centres = rng.normal(0.0, 1.0, (300, 3)) * [45.0, 25.0, 12.0] + [8.0, -5.0, 3.0]  # no symmetry, no plane of it
    return Structure(rng.uniform(1.0, 8.0, 300), centres, 20.0)


@pytest.fixture(scope="module")
def poses() -> Pose:
    return Pose.random(7, rng=np.random.default_rng(4), max_shift_angstrom=12.0)


def rms_error(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((got - wanted) ** 2).mean() / (wanted**2).mean()))


def sliced(density, **options) -> Sliced:
    return Sliced.of(density, shape_yx=SHAPE, voxel_size_angstrom=VOXEL, reach_angstrom=21.0, **options)


# The error of a window of four points, 4.5e-4 (gonio.kernels.window), and twice that for a finer structure.
@pytest.mark.parametrize("kind", ["structure", *PHANTOM_NAMES])
def test_slices_are_the_projections_of_the_density_s_own_formula(kind, structure, poses):
    named = {"box": 48, "voxel_size_angstrom": VOXEL}
    density = structure if kind == "structure" else Phantom.named(kind, **named).unframed()
    wanted = density.projections(poses, shape_yx=SHAPE, voxel_size_angstrom=VOXEL)
    got = sliced(density).projections(poses, shape_yx=SHAPE, voxel_size_angstrom=VOXEL)
    for one, other in zip(got, wanted, strict=True):
        assert rms_error(one, other) < 9e-4
    mirrored = density.projections(poses, shape_yx=SHAPE, voxel_size_angstrom=VOXEL)[:, :, ::-1]
    assert rms_error(got, mirrored) > 0.3  # what a wrong sign would be


def test_a_particle_wider_than_the_images_does_not_come_back_on_the_other_side(structure):
    pose = Pose(Rotation.identity(), np.array([21.0, 0.0, 0.0]))
    small = (16, 16)
    quick = Sliced.of(structure, shape_yx=small, voxel_size_angstrom=VOXEL, reach_angstrom=21.0)
    wanted = structure.projection(pose, box=16, voxel_size_angstrom=VOXEL)
    batch = Pose.stack([pose])
    assert rms_error(quick.projections(batch, shape_yx=small, voxel_size_angstrom=VOXEL)[0], wanted) < 9e-4


def test_slices_refuse_what_they_were_not_prepared_for(structure, poses):
    quick = Sliced.of(structure, shape_yx=SHAPE, voxel_size_angstrom=VOXEL)
    with pytest.raises(ValueError, match="shifts up to 0 angstrom"):
        quick.projections(poses, shape_yx=SHAPE, voxel_size_angstrom=VOXEL)
    centred = replace(poses, shift_angstrom=np.zeros((7, 3)))
    with pytest.raises(ValueError, match=r"of 4: prepare"):
        quick.projections(centred, shape_yx=SHAPE, voxel_size_angstrom=4.0)
    with pytest.raises(ValueError, match="not for"):
        quick.projections(centred, shape_yx=(48, 400), voxel_size_angstrom=VOXEL)


def test_a_particle_from_slices_is_that_of_exact_projections(structure, poses):
    imaging = Imaging(32, VOXEL, -60.0, 60.0, 4.0, snr=0.5)
    quick = Sliced.of(structure, shape_yx=imaging.field_yx, voxel_size_angstrom=VOXEL, reach_angstrom=21.0)
    one, other = (
        simulate_subtomogram(density, poses[0], imaging=imaging, rng=np.random.default_rng(1)).volume.data
        for density in (quick, structure)
    )
    assert rms_error(one, other) < 9e-4


@pytest.mark.parametrize("entries", [2**26, 5 * 24 * 12**2])
def test_back_projection_is_the_sum_over_tilts_and_pixels(entries, monkeypatch):
    monkeypatch.setattr(m, "_MATRIX_ENTRIES", entries)
    tilts, box, width = np.array([-60.0, -41.0, -20.0, 0.0, 3.0, 20.0, 55.0]), 12, 24
    images = np.random.default_rng(0).standard_normal((7, 18, width)).astype(np.float32)
    got = m.back_project(images, tilts, box=box)
    wanted = np.zeros((box, box, box))
    for image, tilt, weight in zip(images, np.radians(tilts), m.tilt_weights(tilts), strict=True):
        for z in range(box):
            for x in range(box):
                u = (x - box // 2) * np.cos(tilt) + (z - box // 2) * np.sin(tilt)
                kernel = m.ramp_kernel(u - (np.arange(width) - width // 2))
                wanted[z, :, x] += weight * image[3:15] @ kernel
    np.testing.assert_allclose(got, wanted, atol=2e-6)
