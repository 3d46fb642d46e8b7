"""gonio refine against RELION's auto-refine on the same files, made by neither of them.

    python experiments/relion/run.py [--particles 80] [--snr 0.1] [--box 32] [--voxel-size 10] [--start-resolution 60]
        [--seed 1] [--skip-relion] [--out results/relion]

Subtomograms of the small subunit of a ribosome (30S, 7P6Z; ``experiments/atoms.py``: +-60 degrees, white noise, no
lens) at random poses up to two voxels off, in RELION 3's format: a list with 3-D images, the missing wedge as a volume
in rlnCtfImage, and half sets. Both programs start from the structure at ``--start-resolution``. Printed for each: the
median errors of rotation and shift, absolute and about the frame of each half map, beside those of an alignment to the
true map; where the FSC of the final map with the truth falls below 0.5 (absolute, and in the map's frame); and
processor time. ``relion_refine_mpi`` must be on the PATH (RELION 3.1; Debian: apt-get install relion), or its rows are
left out. It refines halves in two processes beside a leader that waits: the time is that of the two. Writes
summary.json.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import gemmi
import numpy as np

import gonio
from atoms import STRUCTURES, Atoms, Camera, particles
from errors import agreement, frame_of
from gonio.fourier.fourier_volume import moved
from gonio.io import read_particles, read_volume, write_volume
from gonio.workflows.refinement import fsc_mask, start_map
from gonio.workflows.refinement_plan import Plan

STRUCTURE, SMALL_SUBUNIT = "7p6z.cif.gz", ("30S ribosomal protein", "16S ribosomal RNA")
DIAMETER_ANGSTROM = 280.0
IMAGES, WEDGE, LIST, START = "particles", "wedge.mrc", "particles.star", "start.mrc"
# To what the true map is compared: as far as the voxels go, and as far as an alignment goes that is told nothing.
FINEST_VOXELS, DEFAULT_VOXELS = 2.0, 4.0
LEADER = 0  # the rank that gives out work and otherwise waits, at full load
# The options that RELION's own window for 3-D auto-refine proposes, but for the range of shifts: it proposes 5 pixels,
# and all lie within 4. The grey values of the map are not those of the images.
RELION = (
    "--auto_refine --split_random_halves --firstiter_cc --ctf --flatten_solvent --zero_mask --norm --scale "
    "--dont_check_norm --oversampling 1 --healpix_order 2 --auto_local_healpix_order 4 --offset_range 4 "
    "--offset_step 2 --low_resol_join_halves 40 --sym C1 --pad 2 --pool 3 --j 1 --dont_combine_weights_via_disc"
)


def small_subunit(path: Path) -> Atoms:
    """Return the atoms of the 30S subunit of an entry; a stand-in of its size where there is none."""
    if not path.exists():
        return Atoms.blobs(50.0)
    structure = gemmi.read_structure(str(path))
    wanted = {entity for entity, name in _entities(path) if name.startswith(SMALL_SUBUNIT)}
    chosen = {s for e in structure.entities if e.name in wanted for s in e.subchains}
    found = [
        (*atom.pos.tolist(), atom.element.atomic_number)
        for chain in structure[0]
        for residue in chain
        if residue.subchain in chosen
        for atom in residue
    ]
    table = np.array(found)
    return Atoms(table[:, :3] - np.average(table[:, :3], axis=0, weights=table[:, 3]), table[:, 3])


def _entities(path: Path) -> list[tuple[str, str]]:
    block = gemmi.cif.read(str(path)).sole_block()
    return [(row.str(0), row.str(1)) for row in block.find("_entity.", ["id", "pdbx_description"])]


def write_files(folder: Path, atoms: Atoms, camera: Camera, *, count: int, start: float, seed: int) -> gonio.Pose:
    """Write what both programs read; return the true poses."""
    rng = np.random.default_rng((seed, 0))
    truth = gonio.Pose.random(count, rng=rng, max_shift_angstrom=2.0 * camera.voxel)
    data, density = particles(atoms, camera, truth, seed=seed)
    (folder / IMAGES).mkdir(parents=True)
    for index, image in enumerate(data / data.std()):
        write_volume(folder / IMAGES / f"{index}.mrc", gonio.Volume(image, camera.voxel))
    single = Camera(camera.box // 2, 2.0 * camera.voxel, camera.tilt_deg)  # its transfer is on the box itself
    wedge = np.fft.fftshift(single.transfer()).astype(np.float32)
    write_volume(folder / WEDGE, gonio.Volume(wedge, camera.voxel))
    map_ = gonio.Volume(density, camera.voxel)
    write_volume(folder / "truth.mrc", map_)
    write_volume(folder / START, start_map(map_, resolution_angstrom=start))
    halves = 1 + rng.permutation(count) % 2
    (folder / LIST).write_text(_list_of(camera, halves))
    return truth


def _list_of(camera: Camera, halves: np.ndarray) -> str:
    """Return a list as RELION 3.1 has it, which says nothing of poses."""
    optics = {
        "OpticsGroup": 1,
        "OpticsGroupName": "simulated",
        "Voltage": 300.0,
        "SphericalAberration": 2.7,
        "AmplitudeContrast": 0.1,
        "ImagePixelSize": camera.voxel,
        "ImageSize": camera.box,
        "ImageDimensionality": 3,
    }
    zero = {f"{name}": 0.0 for name in ("AngleRot", "AngleTilt", "AnglePsi", *(f"Origin{x}Angst" for x in "XYZ"))}
    rows = [
        {
            "MicrographName": "simulated",
            "ImageName": f"{IMAGES}/{index}.mrc",
            "CtfImage": WEDGE,
            "OpticsGroup": 1,
            "RandomSubset": half,
            **zero,
        }
        for index, half in enumerate(halves)
    ]
    return _block("optics", [optics]) + _block("particles", rows)


def _block(name: str, rows: list[dict]) -> str:
    labels = "\n".join(f"_rln{label} #{i}" for i, label in enumerate(rows[0], start=1))
    values = "\n".join(" ".join(str(value) for value in row.values()) for row in rows)
    return f"\ndata_{name}\n\nloop_\n{labels}\n{values}\n\n"


def run_relion(folder: Path, start: float, seed: int) -> float:
    """Refine with RELION into folder/relion; return the processor time of the processes that refine, seconds."""
    (folder / "relion").mkdir(exist_ok=True)
    command = ["mpirun", "-n", "3", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1"]
    command += ["--allow-run-as-root"] if os.geteuid() == 0 else []
    clock = '"$@" && times > relion/times.$OMPI_COMM_WORLD_RANK'
    command += ["sh", "-c", clock, "sh", "relion_refine_mpi", *RELION.split(), "--random_seed", str(seed)]
    command += ["--i", LIST, "--ref", START, "--ini_high", str(start), "--o", "relion/run"]
    command += ["--particle_diameter", str(DIAMETER_ANGSTROM)]
    with (folder / "relion" / "log.txt").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
    return sum(_seconds(path) for path in (folder / "relion").glob("times.*") if path.suffix != f".{LEADER}")


def _seconds(path: Path) -> float:
    """Return user and system time of the children of a shell, as its ``times`` prints them: 1m2.5s 0m0.1s."""
    spent = path.read_text().splitlines()[1].replace("s", "").split()
    return sum(60.0 * float(minutes) + float(seconds) for minutes, seconds in (one.split("m") for one in spent))


def run_gonio(folder: Path, start: float, seed: int) -> float:
    """Refine with gonio into folder/gonio; return its processor time, seconds."""
    command = [sys.executable, "-m", "gonio", "refine", LIST, "--reference", START, "-o", "gonio", "--overwrite"]
    command += ["--start-resolution", str(start), "--threads", "1", "--seed", str(seed)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (folder / "gonio.txt").open("w") as log:
        subprocess.run(command, cwd=folder, stdout=log, stderr=log, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def errors(poses: gonio.Pose, truth: gonio.Pose, groups: np.ndarray) -> dict[str, float]:
    """Return median errors, and those in the frame of each group: of its map."""
    frames = {group: frame_of(truth[groups == group], poses[groups == group]) for group in np.unique(groups)}
    within = gonio.Pose.stack([truth[i] @ frames[groups[i]] for i in range(len(poses))])
    return {
        "rotation_deg": float(np.median(poses.rotation_distance_deg(truth))),
        "shift_angstrom": float(np.median(poses.shift_distance_angstrom(truth))),
        "rotation_in_frame_deg": float(np.median(poses.rotation_distance_deg(within))),
        "shift_in_frame_angstrom": float(np.median(poses.shift_distance_angstrom(within))),
    }


def judged(folder: Path, listed: str, map_: str, truth: gonio.Pose) -> dict[str, float]:
    """Return what a refinement came to."""
    table = read_particles(folder / listed)
    order = np.array([int(Path(name.split("@")[-1]).stem) for name in table.names])
    poses, true = table.poses, truth[order]
    density, volume = read_volume(folder / "truth.mrc"), read_volume(folder / map_)
    mask, back = (
        fsc_mask(density, Plan()),
        frame_of(true, poses).inverse(),
    )  # x_map = D x_truth: the map shows the truth moved by D's inverse
    return {
        **errors(poses, true, np.asarray(table.half_sets)),
        "fsc_angstrom": agreement(volume, density, mask),
        "fsc_in_frame_angstrom": agreement(volume, moved(density, back.matrix, back.shift_angstrom), mask),
    }


def against_truth(folder: Path, truth: gonio.Pose, limit_angstrom: float) -> dict[str, float]:
    """Return the errors of an alignment to the true map without noise, to a limit."""
    aligner = gonio.Aligner(read_volume(folder / "truth.mrc"), gonio.Settings(resolution_angstrom=limit_angstrom))
    results = aligner.align_many(list(read_particles(folder / LIST).particles()))
    return errors(gonio.Pose.stack([one.pose for one in results]), truth, np.zeros(len(truth)))


def shown(name: str, row: dict) -> str:
    """Return a row of the table, in Markdown."""
    maps = f"{row['fsc_angstrom']:.1f} ({row['fsc_in_frame_angstrom']:.1f}) A" if "fsc_angstrom" in row else "-"
    time = f"{row['seconds']:.0f} s" if "seconds" in row else "-"
    return (
        f"| {name} | {row['rotation_deg']:.2f} ({row['rotation_in_frame_deg']:.2f}) degrees | "
        f"{row['shift_angstrom']:.2f} ({row['shift_in_frame_angstrom']:.2f}) A | {maps} | "
        f"{time} |"
    )


def main() -> None:
    """Make files, run both programs, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--structures", type=Path, default=STRUCTURES)
    parser.add_argument("--particles", type=int, default=80)
    parser.add_argument("--snr", type=float, default=0.1)
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--voxel-size", type=float, default=10.0)
    parser.add_argument("--start-resolution", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--skip-relion", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("results/relion"))
    options = parser.parse_args()
    folder, start, seed = options.out / f"seed_{options.seed}", options.start_resolution, options.seed
    shutil.rmtree(folder, ignore_errors=True)
    camera = Camera(options.box, options.voxel_size, 60.0, options.snr)
    atoms = small_subunit(options.structures / STRUCTURE)
    truth = write_files(folder, atoms, camera, count=options.particles, start=start, seed=seed)
    print("| program | rotation (in the map's frame) | shift (the same) | FSC 0.5 with the truth (the same) | time |")
    print("|---|---|---|---|---|")
    limits = (FINEST_VOXELS * camera.voxel, DEFAULT_VOXELS * camera.voxel)
    rows = {f"gonio align to the true map, {limit:g} A": against_truth(folder, truth, limit) for limit in limits}
    ways = {"gonio refine": (run_gonio, "gonio/particles.star", "gonio/map.mrc")}
    if not options.skip_relion and shutil.which("relion_refine_mpi"):
        ways["RELION auto-refine"] = (run_relion, "relion/run_data.star", "relion/run_class001.mrc")
    print("\n".join(shown(name, row) for name, row in rows.items()), flush=True)
    for name, (run, listed, map_) in ways.items():
        seconds = run(folder, start, seed)
        rows[name] = judged(folder, listed, map_, truth) | {"seconds": seconds}
        print(shown(name, rows[name]), flush=True)
    (options.out / f"summary_{options.seed}.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
