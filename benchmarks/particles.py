"""The particles that are timed: simulated, from fixed seeds, of one size in angstrom whatever the box."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

import gonio
from gonio.simulate import PAPER_CTF, Imaging, Phantom, simulate_subtomogram

VOXEL_ANGSTROM = 10.0
PHANTOM = Phantom.named("sharp", box=32, voxel_size_angstrom=VOXEL_ANGSTROM).unframed()  # in boxes of any size
MAX_SHIFT_ANGSTROM = 20.0
# How far off a local search starts: from a list that was aligned before.
OFF_DEG, OFF_ANGSTROM = 4.0, 5.0
# Tilts this far apart let a box of 96 be simulated in seconds; what is timed does not know of them.
TILT_STEP_DEG = 4.0


@dataclass(frozen=True)
class Set:
    """Particles of one kind, and the poses they were simulated at."""

    particles: list[gonio.Subtomogram]
    poses: gonio.Pose

    def __len__(self) -> int:
        return len(self.particles)

    def repeated(self, count: int) -> Iterator[gonio.Subtomogram]:
        """``count`` targets, gone through again and again."""
        return (self.particles[i % len(self)] for i in range(count))


def starts(poses: gonio.Pose, reference: gonio.Pose, *, count: int, seed: int = 1) -> gonio.Pose:
    """Poses near those that lay a reference, simulated at its own pose, on ``count`` particles simulated at ``poses``.

    Where there are fewer they are gone through again and again, and start elsewhere each time.
    """
    rng = np.random.default_rng(seed)
    tangents = rng.normal(size=(count, 6))
    for part, length in ((slice(0, 3), np.radians(OFF_DEG)), (slice(3, 6), OFF_ANGSTROM)):
        tangents[:, part] *= length / np.linalg.norm(tangents[:, part], axis=1, keepdims=True)
    truth = [poses[i % len(poses)] @ reference.inverse() for i in range(count)]
    return gonio.Pose.stack(truth).retract(tangents)


def drawn_poses(count: int, *, seed: int = 0) -> gonio.Pose:
    """Where the particles of ``simulated`` are."""
    return gonio.Pose.random(count, rng=np.random.default_rng(seed), max_shift_angstrom=MAX_SHIFT_ANGSTROM)


def simulated(count: int, *, box: int = 32, seed: int = 0) -> Set:
    """Noisy subtomograms of a tilt range of 60 degrees to either side, at random poses."""
    rng, poses = np.random.default_rng([seed, 1]), drawn_poses(count, seed=seed)
    imaging = _imaging(box, snr=0.5)
    made = [simulate_subtomogram(PHANTOM, poses[i], imaging=imaging, rng=rng) for i in range(count)]
    return Set(made, poses)


def clean_map(*, box: int = 32) -> gonio.Volume:
    """The particle in its own frame, through the same microscope but without noise and without a missing wedge."""
    imaging = _imaging(box, tilt_min_deg=-90.0, tilt_max_deg=90.0)
    return simulate_subtomogram(PHANTOM, gonio.Pose.identity(), imaging=imaging, rng=np.random.default_rng(0)).volume


def _imaging(box: int, **other: float) -> Imaging:
    paper = {"voxel_size_angstrom": VOXEL_ANGSTROM, "tilt_step_deg": TILT_STEP_DEG, "ctf": PAPER_CTF}
    return Imaging(**{"box": box, **paper, **other})


def with_new_noise(base: gonio.Subtomogram, count: int, *, seed: int) -> Iterator[gonio.Subtomogram]:
    """One particle again and again, with fresh noise as strong as what varies in it: made as they are asked for."""
    rng = np.random.default_rng(seed)
    data, spread = base.volume.data, base.volume.data.std()
    for _ in range(count):
        noise = rng.standard_normal(data.shape, dtype=np.float32)
        yield replace(base, volume=gonio.Volume(data + spread * noise, base.voxel_size_angstrom))
