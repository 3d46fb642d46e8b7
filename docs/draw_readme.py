"""Draws docs/images/alignment.png, the picture of the README: what gonio makes of noisy subtomograms.

python docs/draw_readme.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import gonio
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

COUNT, BOX, VOXEL_SIZE_ANGSTROM = 60, 32, 10.0


def main() -> None:
    """Simulate, align, average, draw."""
    rng = np.random.default_rng(0)
    phantom = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    full = Imaging(tilt_min_deg=-90, tilt_max_deg=90)
    reference = simulate_subtomogram(phantom, gonio.Pose.identity(), imaging=full, rng=rng).volume
    truth = gonio.Pose.random(COUNT, rng=rng, max_shift_angstrom=20.0)
    noisy = Imaging(tilt_min_deg=-60, tilt_max_deg=60, snr=0.5)
    particles = [simulate_subtomogram(phantom, truth[i], imaging=noisy, rng=rng) for i in range(COUNT)]
    results = gonio.Aligner(reference).align_many(particles, rng=rng, n_threads=2)
    poses = gonio.Pose.stack([result.pose for result in results])
    error = np.median(poses.rotation_distance_deg(truth))
    panels = {
        "one subtomogram": particles[0].volume,
        f"{COUNT} averaged as they come": gonio.average(particles, gonio.Pose.identity(COUNT)).volume,
        f"{COUNT} aligned, then averaged": gonio.average(particles, poses).volume,
        "the truth": reference,
    }
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axis, (title, volume) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        axis.imshow(volume.data[:, :, BOX // 2 - 1 : BOX // 2 + 2].mean(axis=2), cmap="gray", origin="lower")
        axis.plot([2, 12], [2, 2], color="white", linewidth=3)
        axis.set_title(title, fontsize=10)
        axis.set_axis_off()
    figure.suptitle(
        f"slices along y and z, bar 10 nm; SNR 0.5, tilts to 60 degrees; median error {error:.1f} degrees", fontsize=9
    )
    figure.savefig(Path(__file__).parent / "images" / "alignment.png", dpi=110)


if __name__ == "__main__":
    main()
