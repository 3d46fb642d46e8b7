"""What a series of single tilts has measured: all between the first and the last, or slabs about each plane?

    python experiments/tilts/run.py [--particles 24] [--snr 0.3]

Particles of the phantom `sharp` (box 32, 10 A), imaged at single tilts from -60 to 60 degrees without CTF, aligned to
30 A with gonio's defaults and each reading of one and the same data. A slab's thickness is told in samples of the
box's transform, 1 / 320 A.
"""

from __future__ import annotations

import argparse

import numpy as np

import gonio
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import SingleAxisWedge, TiltListWedge, Wedge
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

BOX, VOXEL_SIZE_ANGSTROM, RESOLUTION_ANGSTROM = 32, 10.0, 30.0
STEPS_DEG = (3.0, 8.0)
SAMPLES = (1.0, 0.5, 0.25)


def readings(tilts_deg: np.ndarray) -> dict[str, Wedge]:
    """The wedges that one series may stand for."""
    box = BOX * VOXEL_SIZE_ANGSTROM
    slabs = {f"slabs of {part:g} samples": TiltListWedge(tuple(tilts_deg), box / part) for part in SAMPLES}
    return {"all between": SingleAxisWedge(tilts_deg[0], tilts_deg[-1]), **slabs}


def errors(step_deg: float, snr: float, count: int) -> dict[str, tuple[float, float]]:
    """Median errors of rotation (degrees) and shift (angstrom) for each reading."""
    phantom = Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    imaging = Imaging(
        box=BOX,
        voxel_size_angstrom=VOXEL_SIZE_ANGSTROM,
        tilt_step_deg=step_deg,
        ctf=None,
        detector_mtf=False,
        snr=snr,
    )
    rng = np.random.default_rng(1)
    true = Pose.random(count, rng=rng, max_shift_angstrom=20.0)
    particles = [simulate_subtomogram(phantom, true[i], imaging=imaging, rng=rng).volume for i in range(count)]
    density = phantom.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    reference = Volume(density, VOXEL_SIZE_ANGSTROM)
    aligner = gonio.Aligner(reference, gonio.Settings(resolution_angstrom=RESOLUTION_ANGSTROM))
    found = {}
    for name, wedge in readings(imaging.tilts_deg).items():
        poses = Pose.stack([aligner.align(Subtomogram(v, wedge), rng=np.random.default_rng(0)).pose for v in particles])
        turn, shift = poses.rotation_distance_deg(true), poses.shift_distance_angstrom(true)
        found[name] = (float(np.median(turn)), float(np.median(shift)))
    return found


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=24)
    parser.add_argument("--snr", type=float, default=0.3)
    options = parser.parse_args()
    columns = [errors(step, options.snr, options.particles) for step in STEPS_DEG]
    print(f"| reading | {' | '.join(f'tilts every {step:g} degrees' for step in STEPS_DEG)} |\n|---|---|---|")
    for name in columns[0]:
        cells = (f"{found[name][0]:.2f} degrees, {found[name][1]:.2f} A" for found in columns)
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
