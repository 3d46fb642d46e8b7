"""The Cramer-Rao bound of a pair: how well any unbiased estimator could know the pose between two noisy particles.

Both particles show one unknown structure, so what tells of the pose is f - g' over Omega, the samples that both wedges
measured. With S the noise-free particle as the simulator images it, N_f and N_g the noise power E|n|^2 of either
particle, and J = dS/d(omega, t) at the true pose, the Fisher information is

    F = 2 sum_Omega Re(J^H J) / (N_f(k) + N_g(R^T k))

over a Friedel half below the resolution limit: a complex sample of power N is two real ones of variance N / 2.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy.ndimage import map_coordinates

import gonio
from gonio.fourier.grid import in_friedel_half, index_grid
from gonio.fourier.transform import centred_fft
from gonio.particle.ctf import Ctf
from gonio.simulate import Imaging, Phantom
from gonio.simulate.microscope import apply_transfer, back_project, mtf, tilt_poses, truncated_ctf
from pairs import BOX, VOXEL_SIZE_ANGSTROM, Cell, imaging_of, pair_poses

BOX_ANGSTROM = BOX * VOXEL_SIZE_ANGSTROM
LIMIT_SHELLS = BOX / 4  # four voxels, 40 angstrom
NOISE_VOLUMES = 64  # four symmetric samples each: 6 % of the power at a sample, 0.4 % of the bound
STEP = 1e-4  # of the central differences: radians, and angstrom


def ball_xyz() -> np.ndarray:
    """The samples that are compared, in units of one over the box, shape (n, 3)."""
    index = index_grid(BOX)
    return index[in_friedel_half(index) & ((index**2).sum(axis=-1) <= LIMIT_SHELLS**2)].astype(float)


def transfer_at(frequency_xyz: np.ndarray, *, ctf: Ctf) -> np.ndarray:
    """Truncated CTF times MTF at samples (n, 3) of the volume: reconstruction keeps the radius."""
    radius = np.linalg.norm(frequency_xyz, axis=1) / BOX_ANGSTROM
    contrast = truncated_ctf(np.stack([radius, np.zeros_like(radius)], axis=1), ctf=ctf)
    return contrast * mtf(2.0 * VOXEL_SIZE_ANGSTROM * radius)


def signal(phantom: Phantom, pose: gonio.Pose, frequency_xyz: np.ndarray, *, imaging: Imaging) -> np.ndarray:
    """The transform of the noise-free particle as it is imaged, at samples (n, 3)."""
    spectrum = phantom.transform(frequency_xyz / BOX_ANGSTROM, pose=pose) / VOXEL_SIZE_ANGSTROM**3
    return spectrum if imaging.ctf is None else spectrum * transfer_at(frequency_xyz, ctf=imaging.ctf)


def signal_jacobian(
    phantom: Phantom, truth: gonio.Pose, reference: gonio.Pose, frequency_xyz: np.ndarray, *, imaging: Imaging
) -> np.ndarray:
    """dS/d(omega, t) of the reference laid on the target, shape (n, 6), per radian and per angstrom."""
    steps = STEP * np.eye(6)
    ahead, behind = (
        [signal(phantom, truth.retract(sign * step) @ reference, frequency_xyz, imaging=imaging) for step in steps]
        for sign in (1, -1)
    )
    return (np.array(ahead) - np.array(behind)).T / (2.0 * STEP)


@lru_cache(maxsize=8)
def unit_noise_power(tilt_deg: int) -> np.ndarray:
    """E|n|^2 on the Fourier grid (z, y, x) for white noise of variance 1 in the images, measured."""
    imaging, rng = imaging_of(Cell("sharp", tilt_deg, 1.0)), np.random.default_rng(tilt_deg)
    power = np.zeros((BOX, BOX, BOX))
    for _ in range(NOISE_VOLUMES):
        images = rng.standard_normal((len(imaging.tilts_deg), *imaging.field_yx), dtype=np.float32)
        volume = back_project(apply_transfer(images, imaging.transfer()), imaging.tilts_deg, box=BOX)
        power += np.abs(centred_fft(volume.astype(np.float64))) ** 2
    inner = power[1:, 1:, 1:] / NOISE_VOLUMES  # -15..15, which the mirrors keep
    inner = 0.5 * (inner + inner[:, ::-1])
    power[1:, 1:, 1:] = 0.5 * (inner + inner[:, :, ::-1])
    return power


def noise_variance(phantom: Phantom, pose: gonio.Pose, *, imaging: Imaging) -> float:
    """Of the simulator's images of this particle: that of the clean ones, over the SNR."""
    poses = tilt_poses(pose, imaging.tilts_deg, axis_deg=imaging.axis_deg)
    clean = phantom.projections(poses, shape_yx=(BOX, BOX), voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    return float(clean.var() / imaging.snr)


def noise_power_at(frequency_xyz: np.ndarray, *, tilt_deg: int) -> np.ndarray:
    """The unit power between the samples of its grid, at samples (n, 3)."""
    return map_coordinates(unit_noise_power(tilt_deg), frequency_xyz.T[::-1] + BOX // 2, order=1)


def fisher_information(jacobian: np.ndarray, noise_power: np.ndarray) -> np.ndarray:
    """2 sum Re(J^H J) / N over samples: (n, 6) and (n,) give (6, 6)."""
    return 2.0 * ((jacobian.conj() / noise_power[:, None]).T @ jacobian).real


def pair_covariance(cell: Cell, index: int, *, axis: bool = False) -> np.ndarray:
    """The bound (6, 6) on the covariance of omega (radians) and t (angstrom); with an axis, about it alone."""
    phantom = Phantom.named(cell.phantom, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    imaging, (target, reference) = imaging_of(cell), pair_poses(cell.phantom, index)
    truth = target @ reference.inverse()
    k = ball_xyz()
    wedge = imaging.wedge
    k = k[(wedge.weight_at(k) > 0) & (wedge.weight_at(k @ truth.matrix) > 0)]
    noise = noise_variance(phantom, target, imaging=imaging) * noise_power_at(k, tilt_deg=cell.tilt_deg)
    noise += noise_variance(phantom, reference, imaging=imaging) * noise_power_at(
        k @ truth.matrix, tilt_deg=cell.tilt_deg
    )
    fisher = fisher_information(signal_jacobian(phantom, truth, reference, k, imaging=imaging), noise)
    if not axis:
        return np.linalg.inv(fisher)
    directions = np.zeros((6, 4))
    directions[:3, 0], directions[3:, 1:] = target.matrix[:, 2], np.eye(3)
    return directions @ np.linalg.inv(directions.T @ fisher @ directions) @ directions.T


def median_length(covariance: np.ndarray) -> float:
    """The median length of a Gaussian vector of this covariance (3, 3)."""
    values, vectors = np.linalg.eigh(covariance)
    draws = np.random.default_rng(0).standard_normal((2000, 3)) * np.sqrt(np.maximum(values, 0.0))
    return float(np.median(np.linalg.norm(draws @ vectors.T, axis=1)))


def bound_record(cell: Cell, index: int, *, axis: bool = False) -> dict:
    """The median errors of an estimator at the bound, in the words of ``cells.align_pair``."""
    covariance = np.zeros((6, 6)) if np.isinf(cell.snr) else pair_covariance(cell, index, axis=axis)
    return {
        "rotation_error_deg": float(np.degrees(median_length(covariance[:3, :3]))),
        "shift_error_voxel": median_length(covariance[3:, 3:]) / VOXEL_SIZE_ANGSTROM,
        "covariance": covariance.tolist(),
    }
