"""Refinement of simulated particles: how right poses and FSC are, what noise alone comes to, and maps from nothing.

    python experiments/refine/run.py [--only reference noise denovo] [--structures DIR] [--particles 400] [--out DIR]

``reference``: subtomograms of the 70S ribosome (7P6Z; box 32, 12 angstrom, SNR 0.1, +-60 degrees), random poses,
refined from the ribosome at 60 angstrom. ``noise``: as many of noise through the same microscope, from the same map.
``initial_model``: 100 subtomograms of SNR 0.5, from the particles alone and from a map. Where structures are absent
phantoms take their place. Prints each iteration, and writes summary.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.spatial.transform import Rotation

import gonio
from gonio.averaging.resolution import independent_samples
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.run.executor import Local
from gonio.simulate import PAPER_CTF, Imaging, Phantom, Structure, simulate_subtomogram
from gonio.simulate.microscope import apply_transfer, back_project
from gonio.workflows.initial_model import initial_model_halves
from gonio.workflows.refinement import best_of, fsc_mask, refined, start_map
from gonio.workflows.refinement_plan import Iteration, Plan
from held import Held

START_ANGSTROM, AGREE_ANGSTROM = 60.0, 50.0
SDS = 3.0  # how far from its expectation a shell may be by chance


@dataclass(frozen=True)
class Sample:
    """Particles in random half sets and at poses that tell nothing, with the truth."""

    table: gonio.ParticleTable
    truth: gonio.Pose
    reference: gonio.Volume


def density_of(name: str, structures: Path, imaging: Imaging):
    """The structure, or a phantom where there is none."""
    path = structures / name
    if path.exists():
        return Structure.from_file(path, resolution_angstrom=2.0 * imaging.voxel_size_angstrom).coarsened()
    return Phantom.named("sharp", box=imaging.box, voxel_size_angstrom=imaging.voxel_size_angstrom)


def sample(density, imaging: Imaging, *, count: int, seed: int, kept: Path) -> Sample:
    """Simulated once, and kept."""
    shift = 2.0 * imaging.voxel_size_angstrom
    truth = gonio.Pose.random(count, rng=np.random.default_rng((seed, 0)), max_shift_angstrom=shift)
    if not kept.exists():
        rng = np.random.default_rng((seed, 1))
        data = [simulate_subtomogram(density, truth[i], imaging=imaging, rng=rng).volume.data for i in range(count)]
        perfect = replace(imaging, snr=np.inf, tilt_min_deg=-90.0, tilt_max_deg=90.0)
        reference = simulate_subtomogram(density, gonio.Pose.identity(), imaging=perfect, rng=rng).volume.data
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.savez(kept, parts=np.array(data), ref=reference)
    held = np.load(kept)
    size = imaging.voxel_size_angstrom
    return Sample(table_of(held["parts"], imaging, seed), truth, gonio.Volume(held["ref"], size))


def noise_alone(imaging: Imaging, *, count: int, seed: int) -> gonio.ParticleTable:
    """White noise in every image, through the same transfer and back-projection."""
    rng, tilts = np.random.default_rng((seed, 2)), imaging.tilts_deg
    data = []
    for _ in range(count):
        images = rng.standard_normal((len(tilts), *imaging.field_yx), dtype=np.float32)
        images = apply_transfer(images, imaging.transfer())
        data.append(back_project(images, tilts, box=imaging.box, axis_deg=imaging.axis_deg))
    return table_of(np.array(data), imaging, seed)


def table_of(data: np.ndarray, imaging: Imaging, seed: int) -> gonio.ParticleTable:
    """Particles in even halves, at random poses."""
    particles = [gonio.Subtomogram(gonio.Volume(d, imaging.voxel_size_angstrom), imaging.wedge) for d in data]
    rng, count = np.random.default_rng((seed, 3)), len(particles)
    return gonio.ParticleTable(
        gonio.Pose(Rotation.random(count, rng=rng), np.zeros((count, 3))),
        tuple(f"simulated/{i + 1}" for i in range(count)),
        ("simulated",) * count,
        half_sets=(1 + rng.permutation(count) % 2).astype(np.int8),
        source=Held(particles),
    )


def within(volume: gonio.Volume, mask: gonio.Volume) -> gonio.Volume:
    """Under a mask."""
    return gonio.Volume(volume.data * mask.data, volume.voxel_size_angstrom)


def expected_with_truth(fsc: np.ndarray) -> np.ndarray:
    """FSC of the average of both halves with the truth, from that of the halves."""
    fsc = np.clip(fsc, 0.0, 1.0)
    return np.sqrt(2.0 * fsc / (1.0 + fsc))


def beyond_chance(one: Iteration, truth: gonio.Volume, mask: gonio.Volume) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """What the halves say of the FSC with the truth, that FSC, and the shells to the resolution where it says too much.

    A correlation F of n independent samples has a standard deviation of (1 - F^2) / sqrt(n).
    """
    with_truth = fourier_shell_correlation(within(one.volume, mask), within(truth, mask))
    fsc = one.fsc.best
    low = expected_with_truth(fsc - SDS * (1.0 - np.clip(fsc, 0.0, 1.0) ** 2) / np.sqrt(independent_samples(mask)))
    last = int(one.fsc.box_angstrom / one.resolution_angstrom)
    return expected_with_truth(fsc), with_truth, [s for s in range(1, last + 1) if low[s] > with_truth[s]]


def told(one: Iteration) -> dict:
    """An iteration, printed and for the summary."""
    row = {
        "iteration": one.number,
        "search": str(one.search),
        "limit_angstrom": one.limit_angstrom,
        "resolution_angstrom": one.resolution_angstrom,
        "fsc_0.143_angstrom": one.fsc.resolution_angstrom(),
        "moved_deg": one.moved_deg,
        "fsc": one.fsc.best.tolist(),
    }
    print(
        f"  {one.number}: {one.search} to {one.limit_angstrom:.1f} A; halves agree to {one.resolution_angstrom:.1f}"
        f" A; moved {one.moved_deg:.2f} degrees {one.moved_sds:.2f} sd {one.ended}",
        flush=True,
    )
    return row


def refine(table: gonio.ParticleTable, starts: tuple, plan: Plan, workers: int) -> tuple[Iteration, list[dict], float]:
    """The result, every iteration, and processor seconds of this process."""
    begun, done, rows = time.process_time(), [], []
    for one in refined(table, starts, plan, executor=Local(workers)):
        rows.append(told(one))
        done.append(one)
    return best_of(done), rows, time.process_time() - begun


def from_reference(made: Sample, options: argparse.Namespace) -> dict:
    """Poses against the truth, and the FSC of halves against that with the truth, in every iteration's frame."""
    start = start_map(made.reference, resolution_angstrom=START_ANGSTROM)
    plan = Plan(start_resolution_angstrom=START_ANGSTROM)
    best, rows, seconds = refine(made.table, (start, start), plan, options.workers)
    turned = np.asarray(best.table.poses.rotation_distance_deg(made.truth))
    shifted = np.asarray(best.table.poses.shift_distance_angstrom(made.truth))
    expected, with_truth, too_much = beyond_chance(best, made.reference, fsc_mask(start, plan))
    print(
        f"  median error {np.median(turned):.2f} degrees {np.median(shifted):.2f} A, {int((turned > 15).sum())} wrong; "
        f"shells that promise too much: {too_much or 'none'}; {seconds:.0f} s"
    )
    return {
        "median_deg": float(np.median(turned)),
        "median_angstrom": float(np.median(shifted)),
        "wrong": int((turned > 15).sum()),
        "expected_with_truth": expected.tolist(),
        "with_truth": with_truth.tolist(),
        "too_much": too_much,
        "seconds": seconds,
        "iterations": rows,
    }


def from_noise(table: gonio.ParticleTable, reference: gonio.Volume, options: argparse.Namespace) -> dict:
    """What particles of noise come to, from the same map."""
    start = start_map(reference, resolution_angstrom=START_ANGSTROM)
    plan = Plan(start_resolution_angstrom=START_ANGSTROM)
    best, rows, seconds = refine(table, (start, start), plan, options.workers)
    finest = min(row["resolution_angstrom"] for row in rows)
    print(f"  finest resolution that noise was ever given: {finest:.1f} A; {seconds:.0f} s")
    return {"finest_angstrom": finest, "result_angstrom": best.resolution_angstrom, "iterations": rows}


def laid_on(volume: gonio.Volume, truth: gonio.Volume) -> gonio.Volume:
    """A map moved to where it fits the truth best."""
    pose = gonio.Aligner(volume).align(gonio.Subtomogram(truth)).pose
    return moved(volume, pose.matrix, pose.shift_angstrom)


def from_nothing(made: Sample, options: argparse.Namespace) -> dict:
    """Both halves from their own particles; the map against the truth, its mirror image, and that from a reference."""
    begun = time.process_time()
    starts = initial_model_halves(made.table, count=options.subset, seed=0, executor=Local(options.workers))
    resolution = max(START_ANGSTROM, starts.resolution_angstrom)
    one, two = (start_map(map_, resolution_angstrom=resolution) for map_ in starts.volumes)
    print(f"  start maps agree to {starts.resolution_angstrom:.1f} A; {time.process_time() - begun:.0f} s")
    best, rows, _ = refine(made.table, (one, two), Plan(start_resolution_angstrom=resolution), options.workers)
    known = start_map(made.reference, resolution_angstrom=START_ANGSTROM)
    plan = Plan(start_resolution_angstrom=START_ANGSTROM)
    again, _, _ = refine(made.table, (known, known), plan, options.workers)
    mask, box = fsc_mask(known, plan), made.reference.box_angstrom
    mirror = gonio.Volume(best.volume.data[:, :, ::-1], best.volume.voxel_size_angstrom)
    curves = {
        name: fourier_shell_correlation(within(laid_on(volume, target), mask), within(target, mask))
        for name, volume, target in (
            ("truth", best.volume, made.reference),
            ("mirror", mirror, made.reference),
            ("from_reference", best.volume, again.volume),
        )
    }
    for threshold in (0.9, 0.5):
        found = {name: f"{resolution_at(c, threshold, box_angstrom=box):.1f} A" for name, c in curves.items()}
        print(f"  FSC {threshold:g} with {found}")
    last = int(box / AGREE_ANGSTROM)
    return {
        "start_angstrom": starts.resolution_angstrom,
        "resolution_angstrom": best.resolution_angstrom,
        "least_to_50_angstrom": {name: float(curve[1 : last + 1].min()) for name, curve in curves.items()},
        "curves": {name: curve.tolist() for name, curve in curves.items()},
        "seconds": time.process_time() - begun,
        "iterations": rows,
    }


def main() -> None:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=["reference", "noise", "initial_model"])
    parser.add_argument("--structures", type=Path, default=Path(__file__).parents[3] / "shared" / "data" / "structures")
    parser.add_argument("--complex", nargs="+", default=["7p6z.cif.gz", "2gho.pdb.gz"], help="for denovo")
    parser.add_argument("--particles", type=int, default=400)
    parser.add_argument("--few", type=int, default=100, help="particles for denovo")
    parser.add_argument("--subset", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/refine"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    wanted, summary = options.only or ["reference", "noise", "initial_model"], {}
    imaging = Imaging(32, 12.0, -60.0, 60.0, snr=0.1, ctf=PAPER_CTF)
    ribosome = density_of("7p6z.cif.gz", options.structures, imaging)
    if "reference" in wanted or "noise" in wanted:
        kept = options.out / f"ribosomes_{options.particles}_{options.seed}.npz"
        made = sample(ribosome, imaging, count=options.particles, seed=options.seed, kept=kept)
    if "reference" in wanted:
        print(f"{options.particles} ribosomes from {START_ANGSTROM:g} A")
        summary["reference"] = from_reference(made, options)
    if "noise" in wanted:
        print(f"{options.particles} particles of noise from the same map")
        table = noise_alone(imaging, count=options.particles, seed=options.seed)
        summary["noise"] = from_noise(table, made.reference, options)
    for name in options.complex if "initial_model" in wanted else ():
        size = 12.0 if name.startswith("7p6z") else 10.0
        clear = Imaging(32, size, -60.0, 60.0, snr=0.5, ctf=PAPER_CTF)
        kept = options.out / f"{name[:4]}_{options.few}_{options.seed + 1}.npz"
        density = density_of(name, options.structures, clear)
        print(f"{options.few} particles of {name} from nothing")
        few = sample(density, clear, count=options.few, seed=options.seed + 1, kept=kept)
        summary[f"denovo_{name[:4]}"] = from_nothing(few, options)
    (options.out / "summary.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    main()
