"""Seconds for one pair, n = 32, one thread, kernels compiled: the defaults and the paper's search, in turns.

    python benchmarks/one_pair.py [--pairs 20]

The unit of the ratio is what any reader can time alone: turning the reference once with SciPy (cubic spline) and
finding its best shift by FFT, the inner step of an exhaustive search.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import fft
from scipy.ndimage import affine_transform

import gonio
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

WAYS = {
    "defaults": gonio.Settings(),
    **{
        f"paper's schedule, {score}, {interval} degrees": gonio.Settings(
            score=score, search="stochastic", seed_interval_deg=interval
        )
        for interval in (60, 45)
        for score in ("rcs", "fcs")
    },
}


def seconds(function, repeats: int) -> float:
    """Median wall time of a call."""
    times = []
    for index in range(repeats):
        start = time.perf_counter()
        function(index)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def turn_and_shift(target: np.ndarray, reference: np.ndarray, matrix: np.ndarray) -> None:
    """One orientation of an exhaustive search."""
    centre = np.array(reference.shape) // 2
    turned = affine_transform(reference, matrix, offset=centre - matrix @ centre, order=3)
    fft.irfftn(fft.rfftn(target) * fft.rfftn(turned).conj(), s=target.shape).argmax()


def main() -> None:
    """Print one line for each way to align."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    count = parser.parse_args().pairs
    rng = np.random.default_rng(0)
    phantom = Phantom.named("sharp", box=32, voxel_size_angstrom=10.0)
    imaging = Imaging(snr=0.5)
    poses = gonio.Pose.random(2 * count, rng=rng, max_shift_angstrom=20.0)
    particles = [simulate_subtomogram(phantom, poses[i], imaging=imaging, rng=rng) for i in range(2 * count)]
    matrices = poses.matrix
    data = [particle.volume.data for particle in particles]
    unit = seconds(lambda i: turn_and_shift(data[2 * i], data[2 * i + 1], matrices[i]), count)
    print(f"turning once with SciPy and one FFT shift search: {unit:.4f} s")
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    for index in range(-1, count):  # the first call compiles, or loads what was compiled before
        for name, settings in WAYS.items():
            pair = particles[2 * index], particles[2 * index + 1]
            start = time.perf_counter()
            gonio.align(*pair, settings=settings, rng=rng)
            times[name].append(time.perf_counter() - start)
    for name, taken in times.items():
        median = float(np.median(taken[1:]))
        print(f"{name}: {median:.3f} s a pair, as long as {median / unit:.0f} such orientations")


if __name__ == "__main__":
    main()
