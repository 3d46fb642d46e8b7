"""A bench as hard as a cell: ribosomes among molecules that touch them, found from picks that are off or false.

    python experiments/crowded/run.py [--kind stacks subtomograms] [--snr 0.1 0.05] [--scenes 5] [--data ../shared/data]

Ribosomes (7P6Z) lie among GroEL, RNA polymerase, enolase and ClpP, small proteins and a membrane (``scene``), and are
imaged every 3 degrees to +-60 with the whole transfer of 3.5 um (amplitude contrast 0.07), dose, and noise that is
coloured and grows with the tilt (``camera``). Picks are off by 20 to 40 A; a share of them is false: other molecules,
membrane, or nothing. They are aligned by the defaults to the true map of 20 A. Prints for each cell how many are right
within 15 degrees, the errors of these, whose fault the others are, the FSC of the average with the truth (all picks,
false ones too; the true ones at their true poses), and the time of an alignment; and writes them as JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from camera import Camera, Series, back_projected, expose
from scene import Molecule, Scene, make_scene

import gonio
from gonio.averaging.averages import average
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.particle.ctf import Ctf
from gonio.particle.volume import soft_sphere
from gonio.particle.wedge import SingleAxisWedge
from gonio.simulate import Structure
from misses import COLUMN, search_missed

TARGET, OTHERS = "7p6z.cif.gz", ("1oel.pdb.gz", "2gho.pdb.gz", "1w6t.pdb.gz", "1yg6.pdb.gz")
BOX, RESOLUTION_ANGSTROM, DIAMETER_ANGSTROM = 40, 40.0, 260.0
OFF_ANGSTROM = (20.0, 40.0)
RIGHT_DEG = 15.0
KINDS = ("stacks", "subtomograms")


@dataclass(frozen=True)
class Pick:
    """A place (3,), angstrom, and the pose of the ribosome there about it; None where it is false."""

    place: np.ndarray
    truth: gonio.Pose | None


def picks_of(scene: Scene, name: str, fraction_false: float, rng: np.random.Generator) -> list[Pick]:
    """One for each target, off in a random direction, and false ones among all, half of them on other molecules."""
    picks = []
    for one in scene.of(name):
        off = rng.standard_normal(3)
        off *= rng.uniform(*OFF_ANGSTROM) / np.linalg.norm(off)
        picks.append(Pick(one.centre + off, gonio.Pose(one.rotation, -off)))
    true = np.array([one.centre for one in scene.of(name)])
    others = [one.centre for one in scene.placed if one.molecule.name != name]
    while fraction_false > 0 and sum(p.truth is None for p in picks) < fraction_false / (1.0 - fraction_false) * len(
        true
    ):
        place = rng.random(3) * scene.size - [0.0, 0.0, 0.5 * scene.size[2]]
        if others and rng.random() < 0.5:
            place = others[rng.integers(len(others))]
        apart = true - place
        apart[:, :2] -= scene.size[:2] * np.rint(apart[:, :2] / scene.size[:2])
        if np.linalg.norm(apart, axis=1).min() > 0.5 * DIAMETER_ANGSTROM:
            picks.append(Pick(place, None))
    return picks


def particle_at(series: Series, place: np.ndarray, kind: str) -> gonio.Particle:
    """What is cut out there, as gonio reads it: whole stacks with their transfer, or a subtomogram with its wedge."""
    camera = series.camera
    tilt = np.radians(camera.tilts_deg)
    if kind == "subtomograms":
        stack, defocus = series.around(place, 3 * BOX // 2 + 4)
        volume = back_projected(stack, defocus, camera, BOX)
        wedge = SingleAxisWedge(float(camera.tilts_deg[0]), float(camera.tilts_deg[-1]))
        return gonio.Subtomogram(gonio.Volume(volume.astype(np.float32), camera.pixel_angstrom), wedge)
    stack, defocus = series.around(place, BOX)
    across = np.stack([np.cos(tilt), np.zeros_like(tilt), np.sin(tilt)], axis=1)
    along = np.broadcast_to([0.0, 1.0, 0.0], across.shape)
    return gonio.TiltStack(
        stack.astype(np.float32),
        np.stack([across, along], axis=1),
        camera.pixel_angstrom,
        ctf=Ctf(defocus, defocus, 0.0, camera.voltage_kv, camera.aberration_mm, camera.amplitude_contrast),
        dose=camera.dose,
    )


def make_particles(
    options: argparse.Namespace, snr: float
) -> dict[str, list[tuple[gonio.Particle, gonio.Pose | None]]]:
    """Particles and their true poses, of each kind from the same scenes and images."""
    structures = options.data / "structures"
    target, *others = (Molecule.read(structures / name) for name in (TARGET, *OTHERS))
    found: dict[str, list] = {kind: [] for kind in options.kind}
    for number in range(options.scenes):
        size = np.array([options.width, options.width, options.thickness])
        scene = make_scene(
            target, others, targets=options.targets, neighbours=options.neighbours, size=size, seed=number
        )
        rng = np.random.default_rng([number, 1])
        picks = picks_of(scene, target.name, options.false, rng)
        series = expose(scene, Camera(snr=snr), target=target.name, rng=rng)
        for kind in options.kind:
            found[kind] += [(particle_at(series, pick.place, kind), pick.truth) for pick in picks]
    return found


def true_map(data: Path) -> gonio.Volume:
    """The ribosome's own density at 20 A."""
    atoms = Structure.from_file(data / "structures" / TARGET, resolution_angstrom=20.0)
    density = atoms.density(gonio.Pose.identity(), box=BOX, voxel_size_angstrom=Camera.pixel_angstrom)
    return gonio.Volume(density, Camera.pixel_angstrom)


def fsc_half(particles: list[gonio.Particle], poses: gonio.Pose, truth: gonio.Volume) -> float:
    """Where the FSC of an average with the truth falls below 0.5, in a sphere of the particle, angstrom."""
    ball = soft_sphere(BOX, radius_px=0.55 * DIAMETER_ANGSTROM / Camera.pixel_angstrom, edge_px=3.0)
    one, two = (gonio.Volume(v.data * ball, v.voxel_size_angstrom) for v in (average(particles, poses).volume, truth))
    return resolution_at(fourier_shell_correlation(one, two), 0.5, box_angstrom=one.box_angstrom)


def cell(particles: list[tuple[gonio.Particle, gonio.Pose | None]], reference: gonio.Volume) -> dict:
    """All particles aligned; what came of it."""
    settings = gonio.Settings(resolution_angstrom=RESOLUTION_ANGSTROM)
    aligner = gonio.Aligner(reference, settings)
    aligner.align(particles[0][0])  # what is compiled or kept for all is not the first one's
    began = time.process_time()
    results = aligner.align_many([particle for particle, _ in particles])
    seconds = (time.process_time() - began) / len(particles)
    real = [(p, t, r) for (p, t), r in zip(particles, results, strict=True) if t is not None]
    turn = np.array([float(r.pose.rotation_distance_deg(t)) for _, t, r in real])
    shift = np.array([float(r.pose.shift_distance_angstrom(t)) for _, t, r in real])
    right = turn <= RIGHT_DEG
    missed = sum(
        search_missed(reference, settings, p, r, t) for (p, t, r), ok in zip(real, right, strict=True) if not ok
    )
    whole = [particle for particle, _ in particles]
    return {
        "particles": len(real),
        "false": len(particles) - len(real),
        "right": int(right.sum()),
        "rotation_deg": float(np.median(turn[right])) if right.any() else None,
        "shift_angstrom": float(np.median(shift[right])) if right.any() else None,
        "search_misses": int(missed),
        "fsc_half_angstrom": fsc_half(whole, gonio.Pose.stack([r.pose for r in results]), reference),
        "fsc_half_true_angstrom": fsc_half(
            [p for p, _, _ in real], gonio.Pose.stack([t for _, t, _ in real]), reference
        ),
        "seconds": seconds,
        "steps": float(np.mean([r.n_iterations for r in results])),
    }


def line(kind: str, snr: float, row: dict) -> str:
    """A row of the table in Markdown."""
    rotation, shift = ("-" if row[n] is None else f"{row[n]:.2f}" for n in ("rotation_deg", "shift_angstrom"))
    return (
        f"| {kind} | {snr:g} | {row['right']} of {row['particles']} | {rotation} degrees, {shift} A | "
        f"{row['search_misses']} | {row['fsc_half_angstrom']:.1f} ({row['fsc_half_true_angstrom']:.1f}) A | "
        f"{row['seconds'] * 1e3:.0f} ms |"
    )


def main() -> None:
    """Run every cell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--snr", type=float, nargs="+", default=[0.1, 0.05])
    parser.add_argument("--false", type=float, default=0.2, help="share of all picks")
    parser.add_argument("--scenes", type=int, default=5)
    parser.add_argument("--targets", type=int, default=40, help="ribosomes of a scene")
    parser.add_argument("--neighbours", type=int, default=120, help="other molecules of a scene")
    parser.add_argument("--width", type=float, default=2000.0, help="of a scene in x and y, angstrom")
    parser.add_argument("--thickness", type=float, default=1200.0, help="of the ice, angstrom")
    parser.add_argument("--out", type=Path, default=Path("results/crowded"))
    options = parser.parse_args()
    reference, rows = true_map(options.data), {}
    titles = "particles", "SNR", "right", "off by (median)", COLUMN, "FSC 0.5 (true poses)", "time"
    print(f"| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for snr in options.snr:
        for kind, particles in make_particles(options, snr).items():
            rows[f"{kind} {snr:g}"] = cell(particles, reference)
            print(line(kind, snr, rows[f"{kind} {snr:g}"]), flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "summary.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
