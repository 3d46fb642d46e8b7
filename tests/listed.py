"""A short list of simulated particles for tests of long work, and results to the bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import gonio
from gonio.alignment.result import Result
from gonio.cli.app import run
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable

BOX, VOXEL_SIZE_ANGSTROM = 20, 16.0


def simulated(folder: Path, count: int) -> Path:
    """The folder of the command's own noisy particles, made where it is not there."""
    if not folder.exists():
        words = f"simulate {folder} --phantom sharp --count {count} --box {BOX} --voxel-size {VOXEL_SIZE_ANGSTROM}"
        assert run([*words.split(), "--snr", "2", "--seed", "3"]) == 0
    return folder


def listed(folder: Path, count: int, name: str = "particles.star") -> ParticleTable:
    """The list, without poses or with the true ones (truth.star)."""
    return gonio.read_particles(simulated(folder, count) / name)


def aligner(folder: Path, settings: gonio.Settings | None = None) -> gonio.Aligner:
    """Of the map that the particles show."""
    return gonio.Aligner(gonio.read_volume(folder / "reference.mrc"), settings)


def bits(results: list[Result]) -> list[tuple]:
    """All that a result says, such that equal is equal to the bit."""
    return [
        (
            _pose(one.pose),
            np.float64(one.dissimilarity).tobytes(),
            one.status,
            one.n_iterations,
            np.float64(one.overlap).tobytes(),
            one.covariance.tobytes(),
            [(_pose(o.pose), np.float64([o.dissimilarity, o.margin]).tobytes()) for o in one.runners_up],
            None if one.expected_fsc is None else one.expected_fsc.correlation.tobytes(),
        )
        for one in results
    ]


def _pose(pose: Pose) -> bytes:
    return pose.rotation.as_quat().tobytes() + pose.shift_angstrom.tobytes()
