"""Phantoms against independent evaluations and the laws of Fourier transforms."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gonio.particle.pose import Pose
from gonio.simulate import PHANTOM_NAMES, Density, Phantom

VOXEL = 10.0
POSE = Pose.from_euler_zyz_deg([25.0, 70.0, -110.0], [13.0, -7.0, 4.0])  # far from its own inverse


def one_gaussian(centre_voxels, sds_voxels=(1.5, 1.5, 1.5)) -> Phantom:
    return Phantom.from_standard_deviations(
        [1.0], VOXEL * np.array([centre_voxels]), sds_xyz=VOXEL * np.array([sds_voxels])
    )


def sharp(box: int = 32) -> Phantom:
    return Phantom.named("sharp", box=box, voxel_size_angstrom=VOXEL)


def density_by_definition(phantom: Phantom, pose: Pose, box: int) -> np.ndarray:
    """V(x) = V_ref(R^-1 (x - t)), voxel by voxel."""
    axis = (np.arange(box) - box // 2) * VOXEL
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    reference = pose.inverse().apply(np.stack([x, y, z], axis=-1).reshape(-1, 3))
    values = np.zeros(len(reference))
    for amplitude, centre, covariance in zip(
        phantom.amplitudes, phantom.centres_xyz_angstrom, phantom.covariances_angstrom2, strict=True
    ):
        offset = reference - centre
        values += amplitude * np.exp(-0.5 * (offset * np.linalg.solve(covariance, offset.T).T).sum(axis=1))
    return values.reshape(box, box, box)


def centred_fft(array: np.ndarray) -> np.ndarray:
    return np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(array)))


@pytest.mark.parametrize("name", PHANTOM_NAMES)
@pytest.mark.parametrize("box", [15, 16])
def test_density_is_the_definition_at_a_general_pose(name, box):
    phantom = Phantom.named(name, box=box, voxel_size_angstrom=VOXEL)
    density = phantom.density(POSE, box=box, voxel_size_angstrom=VOXEL)
    # Exponents reach some hundreds, each rounded to 2e-16 of itself.
    np.testing.assert_allclose(density, density_by_definition(phantom, POSE, box), atol=1e-12)


def test_a_right_handed_quarter_turn_about_z_takes_x_to_y():
    quarter = Pose(Rotation.from_rotvec([0.0, 0.0, np.pi / 2.0]), [0.0, 0.0, 2.0 * VOXEL])
    density = one_gaussian([4.0, 0.0, 0.0]).density(quarter, box=16, voxel_size_angstrom=VOXEL)
    assert np.unravel_index(density.argmax(), density.shape) == (8 + 2, 8 + 4, 8)


def test_a_shift_by_half_a_voxel_lies_between_voxels():
    half = Pose(Rotation.identity(), [0.5 * VOXEL, 0.0, 0.0])
    density = one_gaussian([0.0, 0.0, 0.0]).density(half, box=16, voxel_size_angstrom=VOXEL)
    assert density[8, 8, 8] == pytest.approx(density[8, 8, 9], rel=1e-12)
    assert density[8, 8, 8] == pytest.approx(np.exp(-0.5 * (0.5 / 1.5) ** 2), rel=1e-12)


def test_projection_is_the_sum_along_z():
    density = sharp().density(POSE, box=64, voxel_size_angstrom=VOXEL)
    projection = sharp().projection(POSE, box=64, voxel_size_angstrom=VOXEL)
    # A sum over samples is the integral up to 2 exp(-2 pi^2 sd^2), sd >= 1.3 voxels: 7e-15.
    np.testing.assert_allclose(projection, density.sum(axis=0), atol=1e-11)


def test_a_projection_s_transform_is_the_central_slice():
    volume = centred_fft(sharp().density(POSE, box=48, voxel_size_angstrom=VOXEL))
    image = centred_fft(sharp().projection(POSE, box=48, voxel_size_angstrom=VOXEL))
    assert np.abs(image - volume[24]).max() < 1e-6 * np.abs(image).max()


def test_transform_is_that_of_the_samples():
    box = 48
    volume = centred_fft(sharp().density(POSE, box=box, voxel_size_angstrom=VOXEL))
    k = np.array([[3, 0, 0], [0, -5, 1], [2, 4, 7]])  # xyz
    analytic = sharp().transform(k / (box * VOXEL), pose=POSE) / VOXEL**3
    sampled = volume[k[:, 2] + 24, k[:, 1] + 24, k[:, 0] + 24]
    # The narrowest standard deviation aliases less than exp(-2 pi^2 1.3^2 (41/48)^2).
    np.testing.assert_allclose(sampled, analytic, atol=1e-6 * np.abs(volume).max())


def test_a_batch_of_projections_is_each_of_them():
    poses = Pose.stack([POSE, Pose.identity(), POSE.inverse()])
    images = sharp().projections(poses, shape_yx=(24, 32), voxel_size_angstrom=VOXEL)
    single = sharp().projection(POSE.inverse(), box=32, voxel_size_angstrom=VOXEL)
    assert images.shape == (3, 24, 32)
    np.testing.assert_allclose(images[2], single[4:28], atol=1e-12)


def test_four_gaussians_are_the_stated_ones():
    box = 32
    phantom = Phantom.named("four_gaussians", box=box, voxel_size_angstrom=VOXEL)
    x, y, z = np.meshgrid(*3 * [np.arange(box) - box // 2], indexing="ij")
    turned_x, turned_y = (x + y) / np.sqrt(2.0), (y - x) / np.sqrt(2.0)

    def blob(along, *across):
        return np.exp(-((along - 8.0) ** 2) / (32 * 1.2) - sum(a**2 for a in across) / (32 * 0.4))

    expected = blob(x, y, z) + blob(y, x, z) + blob(z, x, y) + blob(turned_x, turned_y, z)
    density = phantom.density(Pose.identity(), box=box, voxel_size_angstrom=VOXEL)
    np.testing.assert_allclose(density, expected.transpose(2, 1, 0), atol=1e-12)


@pytest.mark.parametrize("name", ["sharp", "pseudo_symmetric"])
def test_named_phantoms_lie_on_their_centre_of_mass(name):
    phantom = Phantom.named(name, box=48, voxel_size_angstrom=VOXEL)
    np.testing.assert_allclose(phantom.centre_of_mass_xyz_angstrom, 0.0, atol=1e-10)


def test_a_phantom_scales_with_its_box():
    small, large = sharp(32), sharp(64)
    np.testing.assert_allclose(large.centres_xyz_angstrom, 2.0 * small.centres_xyz_angstrom)
    np.testing.assert_allclose(large.radius_angstrom, 2.0 * small.radius_angstrom)


def test_radius_holds_the_mass_and_the_protocol_is_met():
    phantom = one_gaussian([3.0, 0.0, 4.0], (1.0, 2.0, 1.0))
    assert phantom.radius_angstrom == pytest.approx((5.0 + 2.0 * 2.0) * VOXEL)
    assert isinstance(phantom, Density)


def test_errors_say_what_to_change():
    with pytest.raises(ValueError, match="four_gaussians, sharp, pseudo_symmetric, got 'blob'"):
        Phantom.named("blob", box=32, voxel_size_angstrom=VOXEL)
    with pytest.raises(ValueError, match="positive definite"):
        Phantom([1.0], np.zeros((1, 3)), np.zeros((1, 3, 3)))
    with pytest.raises(ValueError, match=r"centres_xyz_angstrom must have shape \(2, 3\)"):
        Phantom([1.0, 1.0], np.zeros((1, 3)), np.tile(np.eye(3), (2, 1, 1)))
    with pytest.raises(ValueError, match="not finite"):
        Phantom([np.nan], np.zeros((1, 3)), np.eye(3)[None])
