"""Bundle adjustment of simulated tilt series: errors over their bound, error bars, resolution, noise, capture, time.

    python experiments/bundle/run.py [--cases structure premultiplied main refine truth noise capture time]
        [--particles 100] [--tomograms 2] [--box 64] [--voxel-size 4] [--snr 0.05] [--iterations 4]
        [--structures DIR] [--out DIR]

``structure``: 70S ribosomes (7P6Z) in tilt series of +-60 degrees whose images are off by 4 angstrom, their tilt angles
by 0.5 and their axes by 1 degree, and defocus by 300 angstrom (all sd, drawn for each image), in a field of 2400
angstrom, adjusted once against the structure itself. Poses begin 2 degrees and 3 angstrom (sd per axis) from the truth,
as a refinement leaves them. The bound is what the true structure, poses and noise would leave at the true geometry.
``premultiplied``: the same of stacks that were multiplied by their transfer. ``main``: the same against the halves' own
averages, without the fifth that a particle is in, in turns. ``refine``: poses as well, by a refinement. ``truth``: the
true geometry is given. ``noise``: images of noise alone, against the map of the structure and against their own
averages. ``capture``: shifts off by 15 angstrom, angles by 2 degrees, against the structure; 1 % of the images show
their particle beyond a quarter of the box. ``time``: the kernel's columns beside those of a comparison of one
stack. Where the structure is absent a phantom takes its place.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import gonio
from gonio.alignment.aligner import Aligner
from gonio.alignment.particle_list import Aligners
from gonio.comparison.tilt_images import TILT
from gonio.io.blocks import read_star, write_star
from gonio.io.lists import read_particles
from gonio.io.mrc import write_stack
from gonio.io.source import PREMULTIPLIED
from gonio.jobs.running import RunOptions
from gonio.jobs.simulate import simulate
from gonio.jobs.simulate_stacks import StackOptions
from gonio.kernels import sample_sums
from gonio.kernels.tilt_equations import sums_of, tilt_equations
from gonio.particle.tilt_change import TiltChange, full_projections
from gonio.preparation.weighted_images import tilt_axes, tilt_images
from gonio.run.executor import Local
from gonio.search.bundle_adjustment import Gauge
from gonio.settings import LocalSearch
from gonio.workflows.refinement import refined as refinement
from gonio.workflows.refinement_plan import Plan
from gonio.workflows.tilt_refinement import SHOWN, AdjustTomogram, TiltPlan, TomogramTilts
from gonio.workflows.tilt_turns import tilt_iterations

ERRORS = {"shift_error_angstrom": 4.0, "tilt_error_deg": 0.5, "axis_error_deg": 1.0, "defocus_error_angstrom": 300.0}
FAR = {"shift_error_angstrom": 15.0, "tilt_error_deg": 2.0, "axis_error_deg": 1.0, "defocus_error_angstrom": 300.0}
FIELD_ANGSTROM, THICKNESS_ANGSTROM = 2400.0, 1000.0
POSE_OFF = np.repeat([np.radians(2.0), 3.0], 3)
KINDS = {"shift": [0, 1], "tilt angle": [2], "across": [3], "in plane": [4], "defocus": [5]}
ACTIVE = TiltPlan().active


def made(options, name: str, errors: dict, *, snr: float) -> Path:
    """A simulated set, made once."""
    folder = options.out / name
    structure = options.structures / "7p6z.cif.gz"
    if not folder.exists():
        simulate(
            folder,
            structure=structure if structure.exists() else None,
            phantom=None if structure.exists() else "sharp",
            count=options.particles,
            box=options.box,
            voxel_size_angstrom=options.voxel_size,
            tilt_range_deg=(-60, 60),
            snr=snr,
            max_shift_voxels=1.0,
            seed=options.seed,
            run=RunOptions(threads=1),
            stacks=StackOptions(
                tomograms=options.tomograms, tilt_step_deg=options.tilt_step, field_angstrom=FIELD_ANGSTROM,
                thickness_angstrom=THICKNESS_ANGSTROM, **errors,
            ),
        )  # fmt: skip
    return folder


def true_changes(folder: Path) -> dict[str, TiltChange]:
    """What the series differ by, from the table of the simulation."""
    rows: dict[str, list[list[float]]] = {}
    with (folder / "truth" / "tilts.csv").open() as stream:
        for row in csv.reader(stream):
            if row[0] != "tomogram":
                rows.setdefault(row[0], []).append([float(value) for value in row[2:]])
    found = {name: np.array(values) for name, values in rows.items()}
    return {name: TiltChange(v[:, :2], v[:, 2:5], v[:, 5], v[:, 6:8], v[:, 8]) for name, v in found.items()}


def in_gauge(change: TiltChange, series) -> np.ndarray:
    """A true change in the parameters and the gauge of a result, (t, 13)."""
    axes, tilts = tilt_axes(series), np.zeros((len(series), TILT))
    tilts[:, :2], tilts[:, 5] = change.shift_angstrom, change.defocus_angstrom
    tilts[:, 2:5] = np.einsum("tba,tb->ta", axes, np.radians(change.rotation_deg))
    gauge = Gauge.of(full_projections(series), axes, series.defocus_per_depth, 1.0 / TiltPlan().priors.tilt_sd ** 2)
    return gauge.fixed(tilts, ACTIVE) * SHOWN


def bound(task: AdjustTomogram, changes: dict[str, TiltChange]) -> list[TomogramTilts]:
    """The standard deviations that the true structure and noise leave at the true geometry and poses."""
    task = replace(task, changes=changes)
    return [task(item) for item in range(len(task.names))]


def report(name: str, found: dict, truth: dict[str, np.ndarray], limits: dict | None) -> dict:
    """Print errors, and return the numbers."""
    numbers = {}
    for kind, columns in KINDS.items():
        error = np.concatenate([(found[one].tilts - truth[one])[:, columns].ravel() for one in found])
        sd = np.concatenate([found[one].sd[:, columns].ravel() for one in found])
        before = np.concatenate([truth[one][:, columns].ravel() for one in found])
        row = {
            "before_rms": float(np.sqrt((before**2).mean())),
            "after_rms": float(np.sqrt((error**2).mean())),
            "predicted_sd": float(np.sqrt((sd**2).mean())),
            "predicted_over_true_variance": float((sd**2).mean() / (error**2).mean()),
        }
        if limits is not None:
            least = np.concatenate([limits[one].sd[:, columns].ravel() for one in found])
            row["bound_sd"] = float(np.median(least))
            # The median of |error| over its bound, over that of a normal distribution.
            row["error_over_bound"] = float(np.median(np.abs(error) / least) / 0.6745)
        numbers[kind] = row
        print(f"{name}: {kind}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    return numbers


def perturbed(table: gonio.ParticleTable, seed: int) -> gonio.ParticleTable:
    rng = np.random.default_rng((seed, 7))
    return table.with_poses(table.poses.retract(rng.normal(size=(len(table), 6)) * POSE_OFF))


def settings_of(options) -> gonio.Settings:
    return gonio.Settings(resolution_angstrom=2.2 * options.voxel_size, particle_diameter_angstrom=options.diameter)


def structure_map(options, folder: Path) -> gonio.Volume:
    from gonio.io import read_volume

    return read_volume(folder / "reference.mrc")


def refined(options, table, **more):
    began, found = time.process_time(), []
    for one in tilt_iterations(table, settings=settings_of(options), executor=Local(1), seed=options.seed, **more):
        found.append(one)
        print(f"  iteration {one.number}: halves agree to {one.resolution_angstrom:.2f} A", flush=True)
    return found, time.process_time() - began


def shells(iteration, edge: float) -> float:
    return edge / iteration.resolution_angstrom


def main_case(options) -> dict:
    folder = made(options, "main", ERRORS, snr=options.snr)
    table = read_particles(folder / "truth.star")
    changes = true_changes(folder)
    truth = {name: in_gauge(one, table.source.series[name]) for name, one in changes.items()}
    edge = options.box * options.voxel_size
    at_truth = next(iter(tilt_iterations(table.with_changes(changes), settings=settings_of(options))))
    as_listed = next(iter(tilt_iterations(table, settings=settings_of(options))))
    found, seconds = refined(options, perturbed(table, options.seed), iterations=options.iterations)
    reference = Aligner(structure_map(options, folder), settings_of(options))
    task = AdjustTomogram(table, Aligners([reference], np.zeros(len(table), np.int64)))
    limits = dict(zip(task.names, bound(task, changes), strict=True))
    numbers = report("main", dict(found[-1].tilts), truth, limits)
    ideal = report("main, true structure", limits, truth, limits)
    resolutions = {
        "true_geometry_angstrom": at_truth.resolution_angstrom,
        "listed_geometry_true_poses_angstrom": as_listed.resolution_angstrom,
        "refined_angstrom": found[-1].resolution_angstrom,
        "shells_lost": shells(at_truth, edge) - shells(found[-1], edge),
        "shells_lost_without": shells(at_truth, edge) - shells(as_listed, edge),
    }
    print("main:", resolutions, f"{seconds:.0f} s of processor time", flush=True)
    return {"errors": numbers, "true_structure": ideal, **resolutions, "seconds": seconds}


def structure_case(options) -> dict:
    """Against the structure itself, from poses that are off: errors and bound without what maps add; and time."""
    folder = made(options, "main", ERRORS, snr=options.snr)
    table = read_particles(folder / "truth.star")
    changes = true_changes(folder)
    truth = {name: in_gauge(one, table.source.series[name]) for name, one in changes.items()}
    reference = Aligner(structure_map(options, folder), settings_of(options))
    aligners = Aligners([reference], np.zeros(len(table), np.int64))
    task = AdjustTomogram(perturbed(table, options.seed), aligners)
    began = time.process_time()
    found = dict(zip(task.names, (task(item) for item in range(len(task.names))), strict=True))
    seconds = time.process_time() - began
    steps = {name: one.steps for name, one in found.items()}
    print(f"structure: {len(table)} particles adjusted in {seconds:.1f} s, evaluations {steps}", flush=True)
    limits = dict(zip(task.names, bound(replace(task, table=table), changes), strict=True))
    return {"seconds": seconds, **report("structure", found, truth, limits)}


def refine_case(options) -> dict:
    """As ``main``, by a refinement from the poses of the list."""
    folder = made(options, "main", ERRORS, snr=options.snr)
    table, changes = read_particles(folder / "truth.star"), true_changes(folder)
    truth = {name: in_gauge(one, table.source.series[name]) for name, one in changes.items()}
    plan = Plan(
        settings=replace(settings_of(options), resolution_angstrom=None),
        listed=LocalSearch(2.0, 3.0),
        max_iterations=options.iterations,
        tilts=TiltPlan(),
    )
    for one in refinement(perturbed(table, options.seed), None, plan, executor=Local(1)):
        print(f"  iteration {one.number}: {one.resolution_angstrom:.2f} A, moved by {one.moved_sds:.2f} sd", flush=True)
    return {"refined_angstrom": one.resolution_angstrom, **report("refine", dict(one.tilts), truth, None)}


def premultiplied(folder: Path) -> Path:
    """The list of a simulated set, its stacks multiplied by the transfer that is listed."""
    new = folder.with_name(f"{folder.name}_premultiplied")
    if new.exists():
        return new / "truth.star"
    shutil.copytree(folder, new)
    table, star = read_particles(folder / "truth.star"), read_star(folder / "truth.star")
    for row, name in enumerate(star.find("particles").columns["rlnImageName"]):
        stack = table.load(row)
        box, size = stack.box, stack.voxel_size_angstrom
        y, x = np.meshgrid(np.fft.fftfreq(box, size), np.fft.rfftfreq(box, size), indexing="ij")
        transfer = stack.transfer(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(len(stack.images), *x.shape)
        images = np.fft.irfft2(np.fft.rfft2(stack.images) * transfer, s=stack.images.shape[1:])
        write_stack(new / name, images.astype(np.float32), size)
    blocks = tuple(
        block.with_columns({PREMULTIPLIED: ("1",) * len(block)}) if block.name == "optics" else block
        for block in star.blocks
    )
    write_star(new / "truth.star", replace(star, path=new / "truth.star", blocks=blocks))
    return new / "truth.star"


def premultiplied_case(options) -> dict:
    """As ``structure``, of stacks that were multiplied by their transfer; the bound is that of the images before."""
    folder = made(options, "main", ERRORS, snr=options.snr)
    table, changes = read_particles(folder / "truth.star"), true_changes(folder)
    truth = {name: in_gauge(one, table.source.series[name]) for name, one in changes.items()}
    reference = Aligner(structure_map(options, folder), settings_of(options))
    aligners = Aligners([reference], np.zeros(len(table), np.int64))
    task = AdjustTomogram(perturbed(read_particles(premultiplied(folder)), options.seed), aligners)
    found = {name: task(item) for item, name in enumerate(task.names)}
    limits = dict(zip(task.names, bound(AdjustTomogram(table, aligners), changes), strict=True))
    return report("premultiplied", found, truth, limits)


def truth_case(options) -> dict:
    """The true geometry and poses are given: iterate from there."""
    folder = made(options, "none", {}, snr=options.snr)
    table = read_particles(folder / "truth.star")
    found, _ = refined(options, table, iterations=1)
    prior = TiltPlan().priors.tilt_sd * SHOWN
    moved = max(float((np.abs(one.tilts) / prior).max()) for one in found[-1].tilts.values())
    edge = options.box * options.voxel_size
    gained = shells(found[-1], edge) - shells(found[0], edge)
    print(f"truth: largest change {moved:.2f} prior sd, {gained:+.2f} shells", flush=True)
    return {"largest_of_prior_sd": moved, "shells_gained": gained}


def noise_case(options) -> dict:
    """Noise alone at random poses, against the map of the structure, and in turns against its own averages."""
    folder = made(options, "noise", {}, snr=1e-9)
    table = read_particles(folder / "truth.star")
    reference = structure_map(options, folder)
    prior, edge, numbers = TiltPlan().priors.tilt_sd * SHOWN, options.box * options.voxel_size, {}
    cases = {"given map": {"references": (reference, reference), "iterations": 1}, "own averages": {"iterations": 3}}
    for name, how in cases.items():
        found, _ = refined(options, table, **how)
        moved = max(float((np.abs(one.tilts) / prior).max()) for one in found[-1].tilts.values())
        gained = shells(found[-1], edge) - shells(found[0], edge)
        shown = float(np.mean([np.mean(one.contrasts > 0) for one in found[-1].tilts.values()]))
        print(f"noise, {name}: largest change {moved:.2f} prior sd, {gained:+.2f} shells, {shown:.2f} taken for shown")
        numbers[name] = {"largest_of_prior_sd": moved, "shells_gained": gained, "taken_for_shown": shown}
    return numbers


def capture_case(options) -> dict:
    folder = made(options, "far", FAR, snr=options.snr)
    table = read_particles(folder / "truth.star")
    changes = true_changes(folder)
    truth = {name: in_gauge(one, table.source.series[name]) for name, one in changes.items()}
    priors = replace(TiltPlan().priors, tilt_shift_sd_angstrom=20.0, tilt_angle_sd_deg=3.0)
    reference = structure_map(options, folder)
    found, _ = refined(
        options, perturbed(table, options.seed), plan=TiltPlan(priors=priors), iterations=1,
        references=(reference, reference),
    )  # fmt: skip
    return report("capture", dict(found[-1].tilts), truth, None)


def time_case(options) -> dict:
    """Processor time of the kernel for a column of sums and a sample, beside that of the comparison of a stack."""
    folder = made(options, "main", ERRORS, snr=options.snr)
    table = read_particles(folder / "truth.star")
    aligner, stack = Aligner(structure_map(options, folder), settings_of(options)), table.load(0)
    reference, diameter = aligner.stack_reference(stack)
    geometry = table.stack_geometry(0)
    axes = tilt_axes(geometry.series)
    images = tilt_images(stack, geometry, axes, diameter_angstrom=diameter, limit=reference.limit)
    count, t = len(images.radius), len(images.tilts)
    out = np.empty((t, sums_of(7)))
    rotations = (images.projections @ table.poses[0].matrix).astype(np.float32)
    arguments = (
        reference.kernel, images.kernel, rotations, np.zeros((t, 3), np.float32), images.defocus.astype(np.float32),
        np.ones(t, np.float32), 7, count, out,
    )  # fmt: skip
    pair = aligner._preparation.pair(stack)
    target = pair.plain(gonio.Score.RCS)
    sums, poses = np.empty((1, 37)), table.poses[:1]
    spectrum = (target.reference.kernel, target.samples)
    plain = (*spectrum, poses.matrix.astype(np.float32), np.zeros((1, 3), np.float32), sums)

    def per_sample(function, given, samples: int, columns: int) -> float:
        function(*given)
        best = np.inf
        for _ in range(20):
            began = time.process_time()
            function(*given)
            best = min(best, time.process_time() - began)
        return 1e9 * best / samples / columns

    ours = per_sample(tilt_equations, arguments, count * t, sums_of(7))
    theirs = per_sample(sample_sums.normal_equations, plain, len(target.target), 37)
    print(f"time: {ours:.2f} ns per sample and column, {theirs:.2f} in the comparison of a stack", flush=True)
    return {"nanoseconds_per_column": ours, "comparison": theirs}


CASES = {
    "structure": structure_case,
    "premultiplied": premultiplied_case,
    "main": main_case,
    "refine": refine_case,
    "truth": truth_case,
    "noise": noise_case,
    "capture": capture_case,
    "time": time_case,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--particles", type=int, default=100)
    parser.add_argument("--tomograms", type=int, default=2)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--voxel-size", type=float, default=4.0)
    parser.add_argument("--tilt-step", type=float, default=3.0)
    parser.add_argument("--snr", type=float, default=0.05)
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--diameter", type=float, default=250.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--structures", type=Path, default=Path("../shared/data/structures"))
    parser.add_argument("--out", type=Path, default=Path("results/bundle"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    found = {}
    for case in options.cases:
        began = time.process_time()
        found[case] = CASES[case](options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{case}: {time.process_time() - began:.0f} s of processor time, {peak:.0f} MB at most", flush=True)
    (options.out / "summary.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
