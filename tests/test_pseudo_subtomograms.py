"""Pseudo-subtomograms, sums over tilts of transfer times image, say of a particle what its tilt stack says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio.averaging.averages import average
from gonio.averaging.single import by_itself
from gonio.fourier.grid import index_grid
from gonio.fourier.spectrum import Spectrum
from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, TiltStack, Volume, premultiplied, soft_sphere
from gonio.particle.wedge import SquaredTransferWedge, WeightVolumeWedge
from gonio.simulate import Imaging, Phantom, simulate_tilt_stack

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from pseudo import sums_of

BOX, VOXEL, COUNT, FINEST, RADIUS = 48, 10.0, 12, 24.0, 110.0


def phantom() -> Phantom:
    """`sharp` of three quarters of its size, with as much room around it as RELION's boxes have."""
    small = Phantom.named("sharp", box=24, voxel_size_angstrom=VOXEL)
    return Phantom(small.amplitudes, small.centres_xyz_angstrom, small.covariances_angstrom2)


TRUTH = Volume(phantom().density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL), VOXEL)


def as_sums(stack: TiltStack) -> Subtomogram:
    data, squares = sums_of(stack)
    return Subtomogram(Volume(data, VOXEL), SquaredTransferWedge(squares, VOXEL))


@pytest.fixture(scope="module")
def imaged() -> tuple[Pose, list[TiltStack], list[Subtomogram]]:
    """Poses, and each particle as a tilt stack and as the sums of that stack."""
    rng = np.random.default_rng(4)
    poses, stacks = Pose.random(COUNT, rng=rng, max_shift_angstrom=8.0), []
    for i in range(COUNT):
        defocus = float(rng.uniform(20_000.0, 40_000.0))
        imaging = Imaging(
            box=BOX,
            voxel_size_angstrom=VOXEL,
            tilt_step_deg=5.0,
            snr=0.3,
            ctf=Ctf(defocus, defocus, amplitude_contrast=0.07),
        )
        stacks.append(simulate_tilt_stack(phantom(), poses[i], imaging=imaging, rng=rng))
    return poses, stacks, [as_sums(stack) for stack in stacks]


def by_shells(map_: Volume, *, radius_angstrom: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Amplitude of a map in units of the truth's, and FSC with it, in shells 1, 2, ... to the finest."""
    mask = 1.0 if radius_angstrom is None else soft_sphere(BOX, radius_px=radius_angstrom / VOXEL, edge_px=3.0)
    a, t = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(v.data * mask))).ravel() for v in (map_, TRUTH))
    shell = np.rint(np.linalg.norm(index_grid(BOX), axis=-1)).astype(int).ravel()
    cross, own, true = (np.bincount(shell, x) for x in ((a * t.conj()).real, np.abs(a) ** 2, np.abs(t) ** 2))
    kept = slice(1, int(BOX * VOXEL / FINEST) + 1)
    return (cross / true)[kept], (cross / np.sqrt(own * true))[kept]


def errors(found: Pose, poses: Pose) -> tuple[float, float]:
    """Of rotations, degrees, and shifts, angstrom: rms."""
    turn, shift = found.rotation_distance_deg(poses), found.shift_distance_angstrom(poses)
    return float(np.sqrt((turn**2).mean())), float(np.sqrt((shift**2).mean()))


def test_the_average_of_sums_is_that_of_the_images_in_every_shell(imaged):
    poses, stacks, sums = imaged
    of_sums, of_stacks = average(sums, poses).volume, average(stacks, poses).volume
    # The particles share their noise, and so do the averages: what is left is how sums lie on whole frequencies.
    ratio = by_shells(of_sums)[0] / by_shells(of_stacks)[0]
    assert ratio.min() > 0.95
    assert ratio.max() < 1.05
    fsc, fsc_of_stacks = (by_shells(one, radius_angstrom=RADIUS)[1] for one in (of_sums, of_stacks))
    assert fsc_of_stacks[-1] < 0.5 < fsc_of_stacks[-4]  # noise counts
    assert (fsc > 0.9 * fsc_of_stacks).all()


def test_poses_from_sums_are_as_right_as_those_from_the_images(imaged):
    poses, stacks, sums = imaged
    rng = np.random.default_rng(1)
    off = Rotation.from_rotvec(np.radians(2.0) * rng.normal(size=(COUNT, 3)))
    starts = Pose(off * poses.rotation, poses.shift_angstrom + 3.0 * rng.normal(size=(COUNT, 3)))
    local = gonio.Aligner(TRUTH, gonio.Settings(search="local", resolution_angstrom=30.0))
    by_images, by_sums = (
        Pose.stack([local.align(particle, start=starts[i]).pose for i, particle in enumerate(some)])
        for some in (stacks, sums)
    )
    assert errors(by_images, poses)[0] < 0.6
    for of_sums, of_images in zip(errors(by_sums, poses), errors(by_images, poses), strict=True):
        assert of_sums < 1.1 * of_images
    everywhere = gonio.Aligner(TRUTH, gonio.Settings(resolution_angstrom=30.0))
    for i in range(3):
        found = everywhere.align(sums[i])
        assert found.pose.rotation_distance_deg(by_sums[i]) < 0.05
        # A predicted error that is one: within a factor of two of what the three rotations are off by.
        assert 0.1 < found.rotation_sd_deg < 1.0


def test_no_pose_and_no_average_depends_on_a_constant_or_on_the_scale_of_the_data(imaged):
    poses, _, sums = imaged
    sd = float(sums[0].volume.data.std())
    offset = [replace(one, volume=Volume(3.0 * one.volume.data + 100.0 * sd, VOXEL)) for one in sums[:4]]
    plain, moved = (average(some, poses[:4]).volume.data for some in (sums[:4], offset))
    # 1e-4 of 300 sd is what single precision leaves of a constant in the sums, which are 3 times as large.
    assert np.abs(moved / 3.0 - plain).max() < 1e-3 * np.abs(plain).max()
    local = gonio.Aligner(TRUTH, gonio.Settings(search="local", resolution_angstrom=30.0))
    one, other = (local.align(p, start=poses[0]).pose for p in (sums[0], offset[0]))
    assert one.rotation_distance_deg(other) < 0.01
    assert one.shift_distance_angstrom(other) < 0.01


def test_samples_of_sums_show_the_root_of_the_squared_transfer_and_white_noise(imaged):
    _, _, sums = imaged
    samples = Spectrum.of(sums[0], limit=8.0)
    data = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(sums[0].volume.data - sums[0].volume.data.mean())))
    place = tuple(samples.frequency_xyz.astype(int)[::-1] + BOX // 2)
    np.testing.assert_allclose(samples.transfer**2, sums[0].wedge.weights[place], rtol=1e-5)
    np.testing.assert_allclose(samples.value * samples.transfer, data[place], rtol=1e-3, atol=1e-4 * abs(data).max())
    assert (samples.weight == 1.0).all()


def test_one_particle_at_rest_is_its_data_over_its_squared_transfer(imaged):
    _, _, sums = imaged
    made = by_itself(sums[0])
    assert isinstance(made.wedge, WeightVolumeWedge) and made.wedge.weights.max() == 1.0
    data, shown = (np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(v.data))) for v in (sums[0].volume, made.volume))
    well = (np.linalg.norm(index_grid(BOX), axis=-1) < BOX // 2 - 1) & (made.wedge.weights == 1.0)
    # Sums fill the box to its corners, where the window that interpolates between frequencies is right to some percent.
    expected = data[well] / sums[0].wedge.weights[well]
    assert np.abs(shown[well] - expected).max() < 0.05 * np.abs(expected).max()


def test_pseudo_subtomograms_are_compared_with_one_another(imaged):
    poses, _, _ = imaged
    rng = np.random.default_rng(7)
    clean = Imaging(box=BOX, voxel_size_angstrom=VOXEL, tilt_step_deg=5.0, ctf=Ctf(30_000.0, 30_000.0))
    one, two = (as_sums(simulate_tilt_stack(phantom(), poses[i], imaging=clean, rng=rng)) for i in (0, 1))
    found = gonio.Aligner(one, gonio.Settings(resolution_angstrom=40.0)).align(two).pose
    # Two particles of a +-60 degree wedge, without noise.
    assert found.rotation_distance_deg(poses[1] @ poses[0].inverse()) < 3.0


@pytest.mark.parametrize("flipped", [False, True])
def test_a_signed_transfer_is_multiplied_in(flipped):
    rng = np.random.default_rng(3)
    frequency = np.linalg.norm(index_grid(BOX), axis=-1) / (BOX * VOXEL)
    defocus, seen = 30_000.0, []
    signed = Ctf(defocus, defocus).transfer(np.stack([frequency.ravel(), 0.0 * frequency.ravel()], axis=1))
    transfer = signed.reshape(frequency.shape).astype(np.float32)
    transfer = np.abs(transfer) if flipped else transfer
    poses = Pose.random(4, rng=rng, max_shift_angstrom=8.0)
    for i in range(4):
        density = phantom().density(poses[i], box=BOX, voxel_size_angstrom=VOXEL)
        shown = np.fft.ifftn(np.fft.fftn(density) * np.fft.ifftshift(transfer)).real
        noise = rng.normal(scale=0.5 * shown.std(), size=shown.shape)
        seen.append(premultiplied(Volume(shown + noise, VOXEL), transfer))
    amplitude, fsc = by_shells(average(seen, poses).volume)
    well = fsc > 0.99  # next to the zeros of a lens that all share there is only noise
    assert well.sum() > 8
    np.testing.assert_allclose(amplitude[well], 1.0, atol=0.05)
    aligner = gonio.Aligner(TRUTH, gonio.Settings(search="local", resolution_angstrom=30.0))
    assert aligner.align(seen[0], start=poses[0]).pose.rotation_distance_deg(poses[0]) < 0.5


def test_sums_and_other_volumes_are_not_averaged_together(imaged):
    poses, _, sums = imaged
    with pytest.raises(ValueError, match="some are pseudo-subtomograms and some are not"):
        average([sums[0], Subtomogram(sums[1].volume)], poses[:2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda w: w - 2.0, "not negative"),
        (lambda w: 0.0 * w, "nothing was measured"),
        (lambda w: w[:-1], "cube"),
        (lambda w: w * np.inf, "finite"),
    ],
)
def test_squared_transfers_that_cannot_be_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        SquaredTransferWedge(change(np.ones((8, 8, 8))), 10.0)


def test_squared_transfers_of_another_box_are_refused():
    with pytest.raises(ValueError, match="as many"):
        Subtomogram(TRUTH, SquaredTransferWedge(np.ones((8, 8, 8)), VOXEL))
