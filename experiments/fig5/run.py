"""Fig. 5: 1000 subtomograms of each complex, aligned with its map, averaged, and compared with the truth.

    python experiments/fig5/run.py [--particles 1000] [--complex 2gho] [--structures DIR] [--out DIR]

As in the paper: SNR 0.5, +-60 degrees, seeds at 60 degrees, both scores; gonio's defaults beside them. The template is
the initial map either through the microscope that the particles have seen (``imaged``) or as it is (``bare``), which
differs from them in contrast and, by the CTF, from shell to shell. Complexes with a symmetry have several right poses:
a pose is judged by the correlation of the map laid there with the map laid at the true pose. Particles are kept as
files of 131 KB each (524 MB of 4000), finished alignments in a checkpoint, finished averages as files of maps.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from pictures import fsc_curves, slices

import gonio
from cells import run_jobs
from complexes import (
    COMPLEXES,
    RESOLUTION_ANGSTROM,
    SEEDS,
    STRUCTURES,
    TILT_DEG,
    imaged_map,
    names_at,
    pose_errors,
    pose_of,
    simulated,
    true_map,
)
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.io import read_volume, write_volume
from listing import aligned, number, piped
from pairs import BOX, VOXEL_SIZE_ANGSTROM
from plots import save
from tables import method_settings

METHODS = ("rcs_60", "fcs_60", "defaults")
TEMPLATES = {"imaged": imaged_map, "bare": true_map}
WAYS = tuple((template, method) for template in TEMPLATES for method in METHODS)
PAPER_PARTICLES = 1000
RIGHT = 0.9  # laid down with less correlation than this a map is elsewhere, or turned by much
SINGLES = 100  # subtomograms behind the mean curve of single ones
EDGE = BOX * VOXEL_SIZE_ANGSTROM


def particle(name: str, index: int, *, structures: Path, folder: Path) -> gonio.Subtomogram:
    """Particle ``index``: from its file, which is made where it is missing."""
    path = folder / "particles" / f"{name}_{index:04d}.mrc"
    if path.exists():
        return gonio.Subtomogram(read_volume(path), gonio.SingleAxisWedge(-TILT_DEG, TILT_DEG))
    made = simulated(name, index, structures)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, made.volume)
    return made


@lru_cache(maxsize=len(SEEDS) * len(WAYS))
def aligner_of(name: str, template: str, method: str, structures: Path) -> gonio.Aligner:
    """The map of a complex, made ready for a method."""
    return gonio.Aligner(TEMPLATES[template](name, structures), method_settings(method, axis=False))


def alignment(name: str, index: int, *, structures: Path, folder: Path) -> dict:
    """One particle in every way: pose, errors and work; neither simulation nor reading is in its seconds."""
    target, record = particle(name, index, structures=structures, folder=folder), {}
    for template, method in WAYS:
        aligner = aligner_of(name, template, method, structures)
        began = time.process_time()
        result = aligner.align(target, rng=np.random.default_rng(index))
        seconds = time.process_time() - began
        record[f"{template} {method}"] = {
            "matrix": result.pose.matrix.tolist(),
            "shift_angstrom": result.pose.shift_angstrom.tolist(),
            "seconds": seconds,
            "iterations": result.n_iterations,
            **pose_errors(result.pose, pose_of(name, index), true_map(name, structures)),
        }
    return record


def poses_by_way(name: str, records: list[dict]) -> dict[str, gonio.Pose]:
    """The true poses, and those that each way has found."""
    found = {"truth": gonio.Pose.stack([pose_of(name, index) for index in range(len(records))])}
    for way in records[0]:
        of_way = [record[way] for record in records]
        rotations = Rotation.from_matrix([one["matrix"] for one in of_way])
        found[way] = gonio.Pose(rotations, np.array([one["shift_angstrom"] for one in of_way]))
    return found


def averages(name: str, poses: dict[str, gonio.Pose], *, structures: Path, folder: Path) -> dict[str, np.ndarray]:
    """The maps of a complex by way, and the FSC of single subtomograms with the truth; kept when they are made."""
    count = len(poses["truth"])
    path = folder / f"{name}_{count}.npz"
    if not path.exists():
        load = partial(particle, name, structures=structures, folder=folder)
        made = {way: gonio.average(map(load, range(count)), at).volume.data for way, at in poses.items()}
        truth = true_map(name, structures)
        made["single"] = single_curve([load(i) for i in range(min(count, SINGLES))], poses["truth"], truth)
        with path.with_suffix(".part").open("wb") as file:
            np.savez_compressed(file, **made)
        path.with_suffix(".part").rename(path)
    with np.load(path) as maps:
        return dict(maps)


def single_curve(particles: list[gonio.Subtomogram], poses: gonio.Pose, truth: gonio.Volume) -> np.ndarray:
    """Mean FSC of single subtomograms, each with the truth laid where it is."""
    curves = [
        fourier_shell_correlation(one.volume, moved(truth, poses[i].matrix, poses[i].shift_angstrom))
        for i, one in enumerate(particles)
    ]
    return np.mean(curves, axis=0)


def summarise(name: str, records: list[dict], maps: dict[str, np.ndarray], truth: gonio.Volume) -> dict:
    """Curves, resolutions, errors and work of a complex."""
    curves = {
        way: fourier_shell_correlation(gonio.Volume(data, VOXEL_SIZE_ANGSTROM), truth)
        for way, data in maps.items()
        if way != "single"
    }
    curves["single"] = maps["single"]
    rows = {way: curve_row(curve) for way, curve in curves.items()}
    for way in records[0]:
        rows[way] |= work_row([record[way] for record in records])
    return {"complex": name, "particles": len(records), "ways": rows}


def curve_row(curve: np.ndarray) -> dict:
    """A curve, its value at the simulation's own resolution, and where it falls to one half; None beyond the box."""
    resolution = resolution_at(curve, 0.5, box_angstrom=EDGE)
    return {
        "fsc": [float(value) for value in curve],
        "fsc_at_40_angstrom": float(curve[round(EDGE / RESOLUTION_ANGSTROM)]),
        "resolution_angstrom": resolution if np.isfinite(resolution) else None,
    }


def work_row(records: list[dict]) -> dict:
    """Medians over the particles of one way, and how many are elsewhere."""
    names = ("rotation_error_deg", "shift_error_voxel", "correlation", "iterations", "seconds")
    row = {key: float(np.median([record[key] for record in records])) for key in names}
    return row | {"elsewhere": sum(record["correlation"] < RIGHT for record in records)}


def lines(summaries: list[dict]) -> tuple[list[str], list[list[str]]]:
    """The table of docs/reproduce.md."""
    header = ["complex", "template, method", "FSC 0.5 at", "FSC at 40 Å", "elsewhere", "correlation", "shift", "ms"]
    table = []
    for summary in summaries:
        for way, row in summary["ways"].items():
            worked = "seconds" in row
            table.append(
                [
                    summary["complex"],
                    way,
                    f"{number(row['resolution_angstrom'])} Å",
                    f"{row['fsc_at_40_angstrom']:.3f}",
                    f"{row['elsewhere']} of {summary['particles']}" if worked else "",
                    f"{row['correlation']:.4f}" if worked else "",
                    number(row["shift_error_voxel"]) if worked else "",
                    f"{1e3 * row['seconds']:.1f}" if worked else "",
                ]
            )
    return header, table


def target_met(summaries: list[dict]) -> bool:
    """FSC 0.5 with the truth at 40 angstrom or better, both scores."""
    found = [s["ways"][f"imaged {score}_60"]["resolution_angstrom"] for s in summaries for score in ("rcs", "fcs")]
    return all(value is not None and value <= RESOLUTION_ANGSTROM for value in found)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", "--pairs", type=int, default=PAPER_PARTICLES, help="of each complex")
    parser.add_argument("--complex", nargs="+", help="names of structures or phantoms; all unless given")
    parser.add_argument("--structures", type=Path, default=STRUCTURES, help="folder of 1oel.pdb.gz and the others")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/fig5"))
    parser.add_argument("--markdown", type=Path, help="write the table of docs/reproduce.md into this file")
    options = parser.parse_args()
    known = names_at(options.structures)
    options.complex = options.complex or known
    unknown = [name for name in options.complex if name not in SEEDS]
    if unknown:
        parser.error(f"--complex must be of {', '.join(SEEDS)}, got {', '.join(unknown)}")
    lost = [name for name in options.complex if name not in known and name in COMPLEXES]
    if lost:
        parser.error(f"there are no atoms of {', '.join(lost)} in {options.structures}: give --structures")
    if options.particles < 1:
        parser.error(f"--particles must be at least 1, got {options.particles}")
    return options


def main() -> None:
    """Align, average, print, write JSON and the figures."""
    options = parse()
    where = {"structures": options.structures, "folder": options.out}
    # The particle runs slowest, so that an interrupted run has as many of every complex.
    jobs = [(name, index) for index in range(options.particles) for name in options.complex]
    done = run_jobs(partial(alignment, **where), jobs, options.out / "particles.jsonl", processes=options.processes)
    by_job = dict(zip(jobs, done, strict=True))
    records = {
        name: [{way: by_job[name, i][way] for way in map(" ".join, WAYS)} for i in range(options.particles)]
        for name in options.complex
    }
    poses = [poses_by_way(name, records[name]) for name in options.complex]
    with ProcessPoolExecutor(options.processes) as pool:
        maps = dict(zip(options.complex, pool.map(partial(averages, **where), options.complex, poses), strict=True))
    truths = {name: true_map(name, options.structures) for name in options.complex}
    summaries = [summarise(name, records[name], maps[name], truths[name]) for name in options.complex]
    (options.out / "summary.json").write_text(json.dumps({"complexes": summaries}, indent=1))
    save(fsc_curves(summaries, edge_angstrom=EDGE), options.out / "fsc.png")
    rows = {
        name: {
            "one subtomogram": particle(name, 0, **where).volume.data,
            **{title: maps[name][way] for title, way in SHOWN.items()},
            "the truth": truths[name].data,
        }
        for name in options.complex
    }
    save(slices(rows, options.particles), options.out / "slices.png")
    if options.markdown:
        options.markdown.write_text(piped(*lines(summaries)) + "\n")
    print(aligned(*lines(summaries)))
    verdict = "met" if target_met(summaries) else "MISSED" if options.particles >= PAPER_PARTICLES else "open"
    print(f"{verdict}: FSC 0.5 with the truth at {RESOLUTION_ANGSTROM:g} angstrom or better, both scores")


SHOWN = {
    "RCS": "imaged rcs_60",
    "FCS": "imaged fcs_60",
    "gonio's defaults": "imaged defaults",
    "FCS, bare template": "bare fcs_60",
    "true poses": "truth",
}

if __name__ == "__main__":
    main()
