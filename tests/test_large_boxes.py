"""A box much larger than its particle is cut to what holds it, and the answer is that of a box that fits.

Noise is white and of one power for each voxel, so that a box of 32 is the middle of the same particle's box of 64.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from examples import NEARBY, NORMAL, POSES, SHARP, VOXEL, assert_found, random, sharp
from gonio.alignment.aligner import Aligner
from gonio.comparison.expected_fsc import ExpectedFsc
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume, soft_sphere
from gonio.preparation.prepare import Preparation
from gonio.settings import Settings
from gonio.simulate import Imaging, simulate_subtomogram

LARGE, SMALL = 64, 32
IMAGING = Imaging(box=LARGE, tilt_step_deg=3.0, snr=0.3, ctf=None)


def imaged(pose: Pose, seed: int) -> Subtomogram:
    """A particle in a large box, as the paper simulates it."""
    return simulate_subtomogram(SHARP.unframed(), pose, imaging=IMAGING, rng=random(seed))


def middle(particle: Subtomogram, box: int = SMALL) -> Subtomogram:
    """The middle of its box."""
    first = particle.box // 2 - box // 2
    part = slice(first, first + box)
    return replace(particle, volume=Volume(particle.volume.data[part, part, part], VOXEL))


TARGETS = [imaged(POSES[index], index) for index in range(len(POSES))]
REFERENCE = imaged(Pose.identity(), 50)
MAP = sharp(Pose.identity(), box=LARGE).volume


def errors_deg(reference, targets, settings: Settings) -> np.ndarray:
    """How far off each rotation is."""
    starts = POSES.retract(NEARBY) if settings.search.name == "local" else None
    results = Aligner(reference, settings).align_many(targets, starts=starts)
    assert all(result.pose.shift_distance_angstrom(POSES[i]) < 0.5 * VOXEL for i, result in enumerate(results))
    return np.array([result.pose.rotation_distance_deg(POSES[i]) for i, result in enumerate(results)])


@pytest.mark.parametrize("search", ["coarse_to_fine", "local"])
@pytest.mark.parametrize("reference", ["subtomogram", "clean map"])
def test_a_particle_is_found_as_well_as_in_a_box_that_fits(search, reference):
    """Six particles, 18 normals: a ratio of mean squares has a standard deviation of half itself; measured below 1."""
    large = REFERENCE if reference == "subtomogram" else Subtomogram(MAP)
    settings = Settings(search=search)
    cut = errors_deg(large, TARGETS, settings)
    fits = errors_deg(middle(large), [middle(target) for target in TARGETS], settings)
    assert np.mean(cut**2) < 2.0 * np.mean(fits**2)


@pytest.mark.parametrize("reference", ["subtomogram", "clean map"])
def test_large_boxes_are_cut_and_those_that_fit_are_not(reference):
    large = REFERENCE if reference == "subtomogram" else Subtomogram(MAP)
    preparation = Preparation(large, Settings())
    assert all(SMALL - 8 <= preparation.pair(target).target.box <= 0.8 * LARGE for target in TARGETS)
    for box in (SMALL, SMALL + 1):
        fits = Preparation(middle(large, box), Settings())
        assert all(fits.pair(middle(target, box)).target.box == box for target in TARGETS)


def test_nothing_around_a_particle_is_looked_at_but_for_its_noise():
    """A density padded with nothing is where it was, to the interpolation."""
    for index in range(3):
        small = sharp(POSES[index])
        data = np.zeros((LARGE,) * 3, np.float32)
        data[16:48, 16:48, 16:48] = small.volume.data
        padded = replace(small, volume=Volume(data, VOXEL))
        for reference in (MAP, sharp(Pose.identity())):
            assert_found(Aligner(reference).align(padded), POSES[index])
            start = POSES[index].retract(NEARBY)
            assert_found(Aligner(reference, Settings(search="local")).align(padded, start=start), POSES[index])


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("options", [{}, {"max_shift_angstrom": 200.0}, {"mask_diameter_angstrom": 420.0}], ids=str)
def test_a_particle_beside_the_centre_is_found(axis, options):
    """60 angstrom off, and further than a quarter of the box where that is asked for; at SNR 0.3 within 4 degrees."""
    far = 150.0 if "max_shift_angstrom" in options else 60.0
    pose = Pose(POSES[axis].rotation, far * np.eye(3)[axis])
    target = imaged(pose, 20 + axis)
    for reference in (REFERENCE, MAP):
        assert_found(Aligner(reference, Settings(**options)).align(target), pose, degrees=4.0, voxels=0.5)


def test_an_odd_box_is_cut_about_its_own_centre():
    target = replace(TARGETS[0], volume=Volume(TARGETS[0].volume.data[1:, 1:, 1:], VOXEL))
    assert target.box // 2 == LARGE // 2 - 1  # the voxel that was the centre still is
    odd = Preparation(REFERENCE, Settings()).pair(target)
    assert odd.target.box < target.box
    assert_found(Aligner(REFERENCE).align(target), POSES[0], degrees=4.0, voxels=0.5)


def test_boxes_of_reference_and_target_may_differ():
    for reference, target in ((MAP, middle(TARGETS[0])), (middle(Subtomogram(MAP)).volume, TARGETS[0])):
        assert_found(Aligner(reference).align(target), POSES[0], degrees=4.0, voxels=0.5)


def test_normals_are_kept_where_boxes_are_cut():
    target = sharp(POSES[2], box=LARGE, normal_xyz=POSES[2].rotation.apply(NORMAL))
    reference = sharp(Pose.identity(), box=LARGE, normal_xyz=NORMAL)
    assert_found(Aligner(reference, Settings(search="axis")).align(target), POSES[2])


def test_a_mask_is_not_cut():
    """A ball and a handle that reaches further than what most of the mask's energy lies in."""
    mask = soft_sphere(LARGE, radius_px=10.0, edge_px=2.0)
    mask[31:34, 31:34, 32:] = 1.0
    reference = Preparation(Subtomogram(MAP), Settings(), mask=Volume(mask, VOXEL))
    assert reference._compared.box == LARGE
    found = Aligner(REFERENCE, mask=Volume(soft_sphere(LARGE, radius_px=11.0, edge_px=2.0), VOXEL)).align(TARGETS[1])
    assert_found(found, POSES[1], degrees=4.0, voxels=0.5)


def test_a_mask_of_nothing_is_refused():
    with pytest.raises(ValueError, match="the mask is zero everywhere"):
        Aligner(MAP, mask=Volume(np.zeros((LARGE,) * 3), VOXEL))


def test_what_is_known_of_a_large_reference_is_read_at_the_frequencies_of_the_cut_box():
    fsc = np.linspace(1.0, 0.2, LARGE // 2 + 1)
    pair = Preparation(REFERENCE, Settings(), reference_fsc=fsc).pair(TARGETS[0])
    shells = np.arange(pair.target.n_shells) * LARGE / pair.target.box
    np.testing.assert_allclose(
        pair.c_ref,
        np.sqrt(2 * np.interp(shells, np.arange(len(fsc)), fsc) / (1 + np.interp(shells, np.arange(len(fsc)), fsc))),
        rtol=0.01,
    )


def test_expectations_are_told_in_shells_of_the_targets_own_box():
    """Boxes are cut to what each particle shows; what many have in common is in one unit."""
    aligner = Aligner(REFERENCE)
    boxes = {Preparation(REFERENCE, Settings()).pair(target).target.box for target in TARGETS}
    assert len(boxes) > 1
    results = aligner.align_many(TARGETS)
    assert {len(result.expected_fsc.correlation) for result in results} == {17}  # shell 16 of 64 is 40 angstrom
    learnt = ExpectedFsc.mean([result.expected_fsc for result in results])
    for index, result in enumerate(aligner.align_many(TARGETS, expected_fsc=learnt)):
        assert result.expected_fsc is learnt
        assert_found(result, POSES[index], degrees=4.0, voxels=0.5)


def test_an_expected_fsc_in_another_box_is_the_same_curve():
    shells = np.arange(9.0)
    one = ExpectedFsc(0.9 - 0.1 * shells, 100.0 - shells, 50.0 - shells, 0.1 - 0.01 * shells, contrast=2.0)
    double = one.in_shells(640.0, 17, own=320.0)
    np.testing.assert_allclose(double.table[::2], one.table)
    np.testing.assert_allclose(double.table[1::2], 0.5 * (one.table[:-1] + one.table[1:]))
    np.testing.assert_allclose(double.in_shells(320.0, 9).correlation, one.correlation)
    assert double.contrast == one.contrast and one.in_shells(None, 9) is one


def test_memory_is_that_of_all_spectra_and_the_compared_density():
    preparation = Preparation(REFERENCE, Settings())
    made, density = preparation.memory_bytes, preparation._compared.data.nbytes
    pair = preparation.pair(TARGETS[0])
    assert made >= density + pair.reference.grid.nbytes / 2
    again = preparation.memory_bytes
    preparation.pair(TARGETS[0])
    assert preparation.memory_bytes == again >= made
    plain = preparation.plain_pair(TARGETS[0])
    assert preparation.memory_bytes == again + plain.reference.grid.nbytes


def test_what_was_made_of_a_target_is_used_again():
    others = [REFERENCE, imaged(Pose.identity(), 51)]
    kept: dict = {}
    pairs = [
        Preparation(other, Settings(particle_diameter_angstrom=180.0)).pair(TARGETS[0], kept=kept) for other in others
    ]
    assert pairs[0].target is pairs[1].target and sum(made_for[0] == "restored" for made_for in kept) == 1
    aligner = Aligner(others[1], Settings(particle_diameter_angstrom=180.0))
    used, alone = aligner.align(TARGETS[0], kept=kept), aligner.align(TARGETS[0])
    np.testing.assert_array_equal(used.pose.matrix, alone.pose.matrix)
    assert used.dissimilarity == alone.dissimilarity


def test_what_particles_of_several_boxes_have_in_common_is_used_in_the_box_of_each():
    small = [middle(one, 48) for one in TARGETS[:2]]
    aligner = Aligner(REFERENCE)
    learnt = aligner.learn([*small, *TARGETS[2:4]])
    assert learnt.box_angstrom == 48 * VOXEL
    again = aligner.align(TARGETS[0], expected_fsc=learnt.in_shells(LARGE * VOXEL, 17)).pose
    assert_found(aligner.align(TARGETS[0], expected_fsc=learnt), POSES[0], degrees=4.0, voxels=0.5)
    assert again.rotation_distance_deg(aligner.align(TARGETS[0], expected_fsc=learnt).pose) < 0.1
