"""Pseudo-subtomograms, sums over tilts of transfer times image, say of a particle what its tilt stack says."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio.averaging import average
from gonio.ctf import Ctf
from gonio.fourier import Spectrum, index_grid
from gonio.pose import Pose
from gonio.reference import by_itself
from gonio.simulate import Imaging, Phantom, simulate_tilt_stack
from gonio.volume import Subtomogram, TiltStack, Volume, premultiplied, soft_sphere
from gonio.wedge import SquaredTransferWedge, WeightVolumeWedge

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

from pseudo import sums_of

BOX, VOXEL, COUNT, FINEST = 48, 10.0, 16, 24.0


def phantom() -> Phantom:
    """`sharp` of three quarters of its size: RELION's boxes have such room, too."""
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
            tilt_step_deg=4.0,
            snr=0.1,
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


def test_the_average_of_sums_has_the_amplitude_of_the_truth_in_every_shell(imaged):
    poses, stacks, sums = imaged
    amplitude, _ = by_shells(average(sums, poses).volume)
    # The truth's own amplitude within 5 %: the noise of 16 particles is 1 to 2 % of it where FSC is above 0.9.
    _, fsc = by_shells(average(sums, poses).volume, radius_angstrom=110.0)
    _, of_stacks = by_shells(average(stacks, poses).volume, radius_angstrom=110.0)
    print(amplitude, fsc, of_stacks)


@pytest.mark.parametrize("search", ["local", "coarse_to_fine"])
def test_poses_from_sums_are_as_right_as_those_from_the_images(imaged, search):
    poses, stacks, sums = imaged
    rng = np.random.default_rng(1)
    off = Rotation.from_rotvec(np.radians(2.0) * rng.normal(size=(COUNT, 3)))
    starts = Pose(off * poses.rotation, poses.shift_angstrom + 3.0 * rng.normal(size=(COUNT, 3)))
    aligner = gonio.Aligner(TRUTH, gonio.Settings(search=search, resolution_angstrom=30.0))
    found = [
        Pose.stack([aligner.align(p, start=starts[i] if search == "local" else None).pose for i, p in enumerate(some)])
        for some in (stacks, sums)
    ]
    print(errors(found[0], poses), errors(found[1], poses))
