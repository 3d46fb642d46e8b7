"""Do predicted errors of poses hold against maps of few particles, with symmetry, and for tilt stacks?

    python experiments/error_bars/run.py [--snr 0.1 0.01] [--maps 20 50 200 0] [--draws 4] [--targets 50] [--box 32]
        [--voxel-size 8] [--resolution 32] [--symmetry C1] [--ctf] [--stacks] [--classify 1w6t.pdb.gz] [--out DIR]

Subtomograms of RNA polymerase made from atoms (``experiments/atoms.py``; +-60 degrees, white noise, SNR in the box)
or tilt stacks (``experiments/refine/frames.py``; CTF and dose, SNR of the images), with a symmetry as many copies of
it about the axes. Averages of so many particles at their true poses (0: the density itself) are references, with the
FSC of their half maps, of other particles that are looked for at all orientations. Prints, over several draws that
share no particle, the rms error of an axis among poses within 15 degrees, and the same over what was predicted; and
both about the frame of each average, whose error all that is aligned to it shares.

With --classify as many targets of another complex are mixed in, and all are classed in half sets by iterations, from
both densities at 50 A; a line tells the poses of the first complex, each half in the frame of its own average. Writes
summary.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "refine"))

import frames
import numpy as np

import gonio
from atoms import STRUCTURES, Atoms, Camera, Lens, particles
from errors import OverPredicted, in_frame_of
from gonio.averaging.averages import average
from gonio.averaging.resolution import half_map_fsc
from gonio.particle.symmetry import Symmetry
from gonio.particle.volume import Particle, Volume
from gonio.preparation.extent import sphere_mask
from gonio.simulate.structure import Atoms as Projected
from gonio.workflows.classification import classes_of_references
from gonio.workflows.refinement import start_map
from held import Held

# Copies stand so far from the axes, in radii of gyration.
APART = 1.2


def copies(atoms: Atoms, symmetry: str) -> Atoms:
    """Once for every rotation of a group, beside the axes."""
    group = Symmetry.named(symmetry).matrices
    if len(group) == 1:
        return atoms
    away = APART * np.sqrt((atoms.xyz**2).sum(axis=1).mean()) * np.array([1.0, 0.5, 0.7])
    return Atoms(np.concatenate([(atoms.xyz + away) @ g.T for g in group]), np.tile(atoms.electrons, len(group)))


def simulated(
    atoms: Atoms, options: argparse.Namespace, snr: float, truth: gonio.Pose
) -> tuple[list[Particle], Volume]:
    """Particles at poses, and the density."""
    if options.stacks:
        imaging, rng = frames.Imaging(options.box, options.voxel_size, snr), np.random.default_rng((options.seed, 17))
        heap = Projected(atoms.electrons, atoms.xyz, 1)
        return [imaging.stack(heap, truth[i], rng) for i in range(len(truth))], imaging.map_of(heap)
    camera = Camera(options.box, options.voxel_size, 60.0, snr, Lens() if options.ctf else None)
    data, density = particles(atoms, camera, truth, seed=options.seed)
    wedge = gonio.SingleAxisWedge(-camera.tilt_deg, camera.tilt_deg)
    return [gonio.Subtomogram(Volume(d, camera.voxel), wedge) for d in data], Volume(density, camera.voxel)


def aligner_to(
    made: list[Particle], truth: gonio.Pose, rows: np.ndarray, density: Volume, settings: gonio.Settings
) -> gonio.Aligner:
    """Of the average of some particles at their true poses, or of none of them: of the density."""
    if not len(rows):
        return gonio.Aligner(density, settings)
    halves = (1 + np.arange(len(rows)) % 2).astype(np.int8)
    found = average([made[i] for i in rows], truth[rows], half_sets=halves, symmetry=settings.symmetry)
    assert found.halves is not None
    fsc = half_map_fsc(found.halves, mask=sphere_mask(density), rng=np.random.default_rng(0)).best
    return gonio.Aligner(found.volume, settings, reference_fsc=fsc)


def aligned(
    made: list[Particle], truth: gonio.Pose, density: Volume, size: int, options: argparse.Namespace
) -> tuple[OverPredicted, OverPredicted]:
    """Of particles aligned to averages of so many others, against the truth and in the frames of the averages."""
    settings = gonio.Settings(symmetry=options.symmetry, resolution_angstrom=options.resolution)
    group = Symmetry.named(options.symmetry)
    poses, covariances, true, own = [], [], [], []
    for rows in np.array_split(np.arange(len(made)), options.draws):
        aligner = aligner_to(made, truth, rows[options.targets :][:size], density, settings)
        results = [aligner.align(made[i]) for i in rows[: options.targets]]
        at = truth[rows[: options.targets]]
        poses.append(group.nearest(gonio.Pose.stack([one.pose for one in results]), to=at))
        covariances += [one.covariance for one in results]
        true.append(at)
        own.append(in_frame_of(at, poses[-1]))
    found, *others = (gonio.Pose.stack([p[i] for p in many for i in range(len(p))]) for many in (poses, true, own))
    over = [OverPredicted.of(found, np.array(covariances), one, symmetry=options.symmetry) for one in others]
    return over[0], over[1]


def classed(
    kinds: list[tuple[list[Particle], Volume]], truth: gonio.Pose, options: argparse.Namespace
) -> OverPredicted:
    """Of particles of several kinds, at the same poses each, that are classed."""
    count, both = len(truth), [one for made, _ in kinds for one in made]
    poses = gonio.Pose.stack([truth[i] for _ in kinds for i in range(count)])
    rng = np.random.default_rng((options.seed, 5))
    halves = np.concatenate([1 + rng.permutation(count) % 2 for _ in kinds]).astype(np.int8)
    names = tuple(map(str, range(len(both))))
    table = gonio.ParticleTable(
        gonio.Pose.identity(len(both)), names, ("",) * len(both), half_sets=halves, source=Held(both)
    )
    starts = [start_map(density, resolution_angstrom=50.0) for _, density in kinds]
    found = classes_of_references(table, starts, gonio.Settings(resolution_angstrom=options.resolution))
    right = found.labels == np.repeat(1 + np.arange(len(kinds)), count)
    print(f"  {len(found.rounds)} iterations, {right.mean():.1%} in their class", flush=True)
    parts = [np.flatnonzero(right[:count] & (halves[:count] == half)) for half in (1, 2)]
    own = [in_frame_of(poses[part], found.poses[part]) for part in parts]
    own, rows = gonio.Pose.stack([one[i] for one in own for i in range(len(one))]), np.concatenate(parts)
    return OverPredicted.of(found.poses[rows], found.covariance[rows], own)


def main() -> None:
    """Print a line for each SNR and size of average."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.01])
    parser.add_argument("--maps", type=int, nargs="+", default=[20, 50, 200, 0])
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--targets", type=int, default=50)
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--voxel-size", type=float, default=8.0)
    parser.add_argument("--resolution", type=float, default=None, help="angstrom; default: four voxels")
    parser.add_argument("--symmetry", default="C1")
    parser.add_argument("--ctf", action="store_true", help="subtomograms through the lens of low_snr")
    parser.add_argument("--stacks", action="store_true")
    parser.add_argument("--classify", help="another complex")
    parser.add_argument("--complex", default="2gho.pdb.gz")
    parser.add_argument("--structures", type=Path, default=STRUCTURES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("results/error_bars"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.structures / options.complex
    single = Atoms.read(path, most=5000) if path.exists() else Atoms.blobs(4.0 * options.voxel_size)
    atoms, rows = copies(single, options.symmetry), []
    for snr in options.snr:
        rng = np.random.default_rng((options.seed, 0))
        count = options.targets if options.classify else options.draws * (options.targets + max(options.maps))
        truth = gonio.Pose.random(count, rng=rng, max_shift_angstrom=2.0 * options.voxel_size)
        made, density = simulated(atoms, options, snr, truth)
        print(f"SNR {snr:g}, symmetry {options.symmetry}, box {options.box}", flush=True)
        if options.classify:
            other = Atoms.read(options.structures / options.classify, most=5000)
            found = classed([(made, density), simulated(other, options, snr, truth)], truth, options)
            rows.append({"snr": snr, "classes": 2, **asdict(found)})
            print(f"  {'two classes':16s} {found}", flush=True)
            continue
        for size in options.maps:
            found, own = aligned(made, truth, density, size, options)
            rows.append({"snr": snr, "map": size, **asdict(found), "in_frame": asdict(own)})
            print(
                f"  {f'average of {size}' if size else 'the density':16s} {found};"
                f" in its frame {own.rotation:4.2f} and {own.shift:4.2f}",
                flush=True,
            )
    (options.out / "summary.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
