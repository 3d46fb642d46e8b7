"""What a graphics card computes is what the CPU computes: run by ``test_cuda``, under Numba's simulator of one.

Blocks have 4 threads here, and particles 16 voxels: threads are those of Python. Sums of float32 samples, taken in
another order, differ by some of their roundings: n samples by sqrt(n) 6e-8 of the terms' size (ROUNDING).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import gonio
from gonio import device as devices
from gonio.device import Device, results
from gonio.evaluation import BestShifts, Equations, Refinement, ShellMatrices, ShellSums, answered
from gonio.expectation import Expectation
from gonio.fourier import FourierVolume, Spectrum
from gonio.frame import about_normals, near
from gonio.kernels import card as cards
from gonio.kernels import sample
from gonio.kernels.cuda import SIMULATED, kernels
from gonio.problem import pack
from gonio.score import Comparison, Score
from gonio.volume import Subtomogram, Volume
from gonio.wedge import NoWedge, SingleAxisWedge, WeightVolumeWedge
from oracle import Blobs

ROUNDING = 3e-6
N, VOXEL, LIMIT = 16, 10.0, 5.0
WEDGES = {
    "full": NoWedge(),
    "tilted": SingleAxisWedge(-60, 50),
    "weights": WeightVolumeWedge(np.random.default_rng(1).uniform(0, 1, (N, N, N)).astype(np.float32), VOXEL),
}
THREADS = 4

assert SIMULATED, "set NUMBA_ENABLE_CUDASIM=1"


@pytest.fixture(scope="module")
def card():
    return Device(cards.Card(threads=THREADS))


@cache
def volume(seed: int) -> Volume:
    return Volume(Blobs.random(seed).volume(N), VOXEL)
