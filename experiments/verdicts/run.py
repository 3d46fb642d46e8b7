"""Five runs, good and bad, and the verdict that the page of each gives.

    python experiments/verdicts/run.py [--out results/verdicts] [--only good few] [--command align]

Every run is of the phantom `sharp` in boxes of 32 voxels of 8 A, +-60 degrees, SNR 0.1, random poses; refined from a
map at 60 A, or aligned to it at 30 A:

    good        80 particles, from the map of what they show
    contrast    the same, from that map with its density inverted
    reference   the same, aligned to the map of another particle (`ring`); refinements find their own from it
    false       40 of them, and 40 boxes of noise through the same microscope
    few         10 of them

Each writes the folder of its command into --out, with the page; the verdicts are printed as a table.
"""

from __future__ import annotations

import argparse
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import gonio
from gonio import jobs
from gonio.io import write_simulated, write_volume
from gonio.jobs import ListOptions, RunOptions, SearchOptions
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

BOX, VOXEL = 32, 8.0
IMAGING = Imaging(BOX, VOXEL, -60.0, 60.0, snr=0.1, ctf=None)
PERFECT = Imaging(BOX, VOXEL, -90.0, 90.0, ctf=None)
REAL, NOISE = 80, 40
START_ANGSTROM, FINEST_ANGSTROM, SHIFT_ANGSTROM = 60.0, 30.0, 16.0


@dataclass(frozen=True)
class Case:
    """A run: how many real particles and boxes of noise it has, and its reference."""

    real: int = REAL
    noise: int = 0
    reference: str = "sharp"
    command: str = "refine"


CASES = {
    "good": Case(),
    "contrast": Case(reference="inverted"),
    "reference": Case(reference="ring", command="align"),
    "false": Case(real=REAL - NOISE, noise=NOISE),
    "few": Case(real=10),
}


def sharp() -> Phantom:
    """Return what the particles show."""
    return Phantom.named("sharp", box=BOX, voxel_size_angstrom=VOXEL)


def ring() -> Phantom:
    """Return another particle of about the size: six Gaussians in a ring, and one beside it."""
    angle = np.arange(6) * np.pi / 3.0
    centres = np.stack([6.0 * np.cos(angle), 6.0 * np.sin(angle), np.zeros(6)], axis=1)
    centres = np.concatenate([centres, [[0.0, 3.0, 5.0]]]) * VOXEL
    return Phantom.from_standard_deviations(np.ones(7), centres, sds_xyz=np.full((7, 3), 1.6 * VOXEL))


def make(folder: Path, *, seed: int = 0) -> None:
    """Write all particles, boxes of noise and references."""
    folder.mkdir(parents=True)
    truth = gonio.Pose.random(REAL, rng=np.random.default_rng((seed, 0)), max_shift_angstrom=SHIFT_ANGSTROM)
    for row in range(REAL):
        particle = simulate_subtomogram(sharp(), truth[row], imaging=IMAGING, rng=np.random.default_rng((seed, 1, row)))
        write_volume(folder / f"real_{row:03d}.mrc", particle.volume)
    clean = replace(IMAGING, snr=np.inf)
    for row in range(NOISE):
        rng = np.random.default_rng((seed, 2, row))
        noisy = simulate_subtomogram(sharp(), truth[row], imaging=IMAGING, rng=rng).volume
        own = simulate_subtomogram(sharp(), truth[row], imaging=clean, rng=rng).volume
        write_volume(folder / f"noise_{row:03d}.mrc", replace(noisy, data=noisy.data - own.data))
    rng = np.random.default_rng((seed, 3))
    for name, density in (("sharp", sharp()), ("ring", ring())):
        map_ = simulate_subtomogram(density, gonio.Pose.identity(), imaging=PERFECT, rng=rng).volume
        write_volume(folder / f"{name}.mrc", map_)
        if name == "sharp":
            write_volume(folder / "inverted.mrc", replace(map_, data=-map_.data))


def list_of(folder: Path, name: str) -> Path:
    """Write the list of a case, and return its path."""
    case, path = CASES[name], folder / f"{name}.star"
    names = [f"real_{row:03d}.mrc" for row in range(case.real)] + [f"noise_{row:03d}.mrc" for row in range(case.noise)]
    paths = [folder / one for one in names]
    poses = gonio.Pose.identity(len(paths))
    write_simulated(path, poses, paths, voxel_size_angstrom=VOXEL, box=BOX, tilt_range_deg=(-60.0, 60.0))
    return path


def run(name: str, inputs: Path, output: Path, *, command: str) -> tuple[jobs.Refined | jobs.Aligned, float]:
    """Run a case into a folder, and return what the job returns and the seconds that it took."""
    reference = inputs / f"{CASES[name].reference}.mrc"
    listed, over, begun = ListOptions(list_of(inputs, name)), RunOptions(overwrite=True), time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the page states them
        if command == "align":
            search = SearchOptions(resolution_angstrom=FINEST_ANGSTROM)
            done = jobs.align(listed, reference=reference, output=output, search=search, run=over)
        else:
            start = {"split": True, "start_resolution_angstrom": START_ANGSTROM, "iterations": 3}
            done = jobs.refine(listed, reference=reference, output=output, run=over, **start)
    return done, time.monotonic() - begun


def main() -> None:
    """Run the cases and print their verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/verdicts"))
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--command", choices=("refine", "align"), help="the same for all of them")
    given = parser.parse_args()
    inputs = given.out / "particles"
    if not inputs.exists():
        make(inputs)
    for name in given.only:
        command = given.command or CASES[name].command
        done, seconds = run(name, inputs, given.out / command / name, command=command)
        print(f"{command:7} {name:10} {seconds:6.1f} s  {done.verdict}", flush=True)


if __name__ == "__main__":
    main()
