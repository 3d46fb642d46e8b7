"""The Cramer-Rao bound of the experiments: its signal and its noise are the simulator's."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import bound
from gonio import Pose
from gonio.fourier.transform import centred_fft
from gonio.simulate import Phantom, simulate_subtomogram
from pairs import BOX, VOXEL_SIZE_ANGSTROM, Cell, imaging_of, pair_poses

pytestmark = pytest.mark.slow

SHARP = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)


def imaged(cell: Cell, pose: Pose, k: np.ndarray, seed: int = 0) -> np.ndarray:
    """The samples k of a simulated particle."""
    particle = simulate_subtomogram(SHARP, pose, imaging=imaging_of(cell), rng=np.random.default_rng(seed))
    x, y, z = k.astype(int).T + BOX // 2
    return centred_fft(particle.volume.data.astype(np.float64))[z, y, x]


def test_the_signal_of_the_bound_is_what_the_simulator_shows() -> None:
    cell, k = Cell("sharp", 90, np.inf), bound.ball_xyz()
    pose = pair_poses("sharp", 0)[0]
    analytic = bound.signal(SHARP, pose, k, imaging=imaging_of(cell))
    # The box cuts what lies beyond it, a few thousandths of such a particle.
    assert np.linalg.norm(imaged(cell, pose, k) - analytic) < 0.02 * np.linalg.norm(analytic)


@pytest.mark.parametrize("axis", [False, True])
def test_the_bound_falls_with_the_root_of_the_signal_to_noise_ratio(axis: bool) -> None:
    clear, noisy = (bound.bound_record(Cell("sharp", 60, snr), 0, axis=axis) for snr in (1.0, 0.25))
    for name in ("rotation_error_deg", "shift_error_voxel"):
        assert noisy[name] == pytest.approx(2.0 * clear[name], rel=1e-6)
    assert bound.bound_record(Cell("sharp", 60, np.inf), 0, axis=axis)["rotation_error_deg"] == 0.0


def test_one_step_of_maximum_likelihood_from_the_truth_reaches_its_bound() -> None:
    cell, pose, count = Cell("sharp", 60, 1.0), pair_poses("sharp", 0)[0], 24
    imaging, k = imaging_of(cell), bound.ball_xyz()
    k = k[imaging.wedge.weight_at(k) > 0]
    clean = imaged(Cell("sharp", 60, np.inf), pose, k)
    noise = bound.noise_variance(SHARP, pose, imaging=imaging) * bound.noise_power_at(k, tilt_deg=60)
    jacobian = bound.signal_jacobian(SHARP, Pose.identity(), pose, k, imaging=imaging)
    fisher = bound.fisher_information(jacobian, noise)
    residual = np.stack([imaged(cell, pose, k, seed) - clean for seed in range(count)])
    errors = 2.0 * np.linalg.solve(fisher, (jacobian.conj().T @ (residual / noise).T).real).T
    # Chi-squared of 6 count degrees of freedom: 0.118 is one standard deviation of its mean.
    squared = np.einsum("si,ij,sj->s", errors, fisher, errors) / 6
    assert squared.mean() == pytest.approx(1.0, abs=4 * np.sqrt(2 / (6 * count)))
