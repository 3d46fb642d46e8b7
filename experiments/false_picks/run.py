"""How many false particles decoys let through, and how many real ones they cost.

    python experiments/false_picks/run.py [--particles 300] [--false 0.3] [--snr 0.0075] [--decoys 2] [--seeds 0 1 2]

A list of boxes (32 voxels of 8 A) cut at picks, of which 30 % are false, a quarter of these each:

    noise      nothing but noise
    other      another structure of about the size (GroEL, enolase)
    offset     the particle itself, 1.1 to 1.8 of its radii beside the centre: a second pick of it, or a neighbour's
    membrane   two leaflets 36 A apart, at any angle, through or near the centre

and the others RNA polymerase (2GHO), up to 20 A off the centre. None of it is simulated by what gonio assumes: atoms
(merged within 7 A) are projected exactly at 41 tilts (+-60), the lens is underfocused by 3.5 um with an amplitude
contrast of 0.07 and its phases are flipped, noise has four times as much power at low frequencies as at high ones and
grows with the thickness at high tilts. SNR is the variance of the clean images over that of the noise's white part.
Every box is aligned over all orientations to the structure and to its decoys, as ``gonio align --decoys`` does.
"""

from __future__ import annotations

import argparse
import sys
from functools import lru_cache, partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy import fft

import gonio
from cells import run_jobs
from complexes import STRUCTURES
from gonio.alignment.decoys import Decoys, q_values
from gonio.particle.ctf import Ctf
from gonio.particle.pose import Pose
from gonio.particle.volume import Subtomogram, Volume
from gonio.particle.wedge import SingleAxisWedge
from gonio.simulate import Density, Phantom, Structure
from gonio.simulate.microscope import apply_transfer, back_project, tilt_poses
from gonio.simulate.structure import read_atoms

BOX, VOXEL, RESOLUTION = 32, 8.0, 28.0
FIELD = (3 * BOX // 2, 2 * BOX)
TILTS = np.arange(-60.0, 60.1, 3.0)
MOST_Q, RIGHT_DEG = 0.05, 15.0
MERGED_ANGSTROM, LEAFLETS_ANGSTROM = 7.0, 36.0
KINDS = ("noise", "other", "offset", "membrane")


@lru_cache(maxsize=4)
def structure(name: str) -> Density:
    """A structure about its centre of mass; phantoms stand in where there are no atoms."""
    path = STRUCTURES / f"{name}.pdb.gz"
    if not path.exists():
        stand_in = {"2gho": "sharp", "1oel": "four_gaussians"}.get(name, "pseudo_symmetric")
        return Phantom.named(stand_in, box=BOX, voxel_size_angstrom=VOXEL)
    atoms = read_atoms(path)
    place = atoms.positions_xyz_angstrom - atoms.centre_of_mass_xyz_angstrom
    _, cell = np.unique(np.floor(place / MERGED_ANGSTROM).astype(int), axis=0, return_inverse=True)
    weight = np.bincount(cell.ravel(), weights=atoms.weights)
    centre = [np.bincount(cell.ravel(), weights=atoms.weights * place[:, axis]) / weight for axis in range(3)]
    return Structure(weight, np.stack(centre, axis=1), RESOLUTION)


@lru_cache(maxsize=1)
def membrane() -> Structure:
    """Two leaflets, wider than any box, about the plane z = 0."""
    line = np.arange(-260.0, 261.0, 5.0)
    x, y = (part.ravel() for part in np.meshgrid(line, line))
    heights = (-0.5 * LEAFLETS_ANGSTROM, 0.5 * LEAFLETS_ANGSTROM)
    leaflets = [np.stack([x, y, np.full_like(x, z)], axis=1) for z in heights]
    return Structure(np.ones(2 * len(x)), np.concatenate(leaflets), RESOLUTION)


def radius_angstrom(density: Density) -> float:
    """Of a ball with the same spread of density."""
    data = density.density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL)
    index = (np.indices(data.shape) - BOX // 2) * VOXEL
    return float(np.sqrt(5.0 / 3.0 * (data * (index**2).sum(axis=0)).sum() / data.sum()))


def scene(kind: str, rng: np.random.Generator) -> tuple[Density | None, Pose]:
    """What a box shows, and where."""
    particle, pose = structure("2gho"), Pose.random(1, rng=rng, max_shift_angstrom=20.0)[0]
    if kind == "real":
        return particle, pose
    if kind == "noise":
        return None, pose
    if kind == "other":
        return structure(("1oel", "1w6t")[rng.integers(2)]), pose
    if kind == "offset":
        way = rng.standard_normal(3)
        far = radius_angstrom(particle) * rng.uniform(1.1, 1.8)
        return particle, Pose(pose.rotation, far * way / np.linalg.norm(way))
    return membrane(), Pose(pose.rotation, pose.matrix[:, 2] * rng.uniform(-60.0, 60.0))


@lru_cache(maxsize=1)
def frequencies() -> np.ndarray:
    """Of the images' transforms, 1/angstrom, (y, x // 2 + 1)."""
    return np.hypot(fft.fftfreq(FIELD[0], VOXEL)[:, None], fft.rfftfreq(FIELD[1], VOXEL))


def images_of(density: Density, pose: Pose) -> np.ndarray:
    """Clean images at all tilts, behind the lens, phases flipped."""
    clean = density.projections(tilt_poses(pose, TILTS, axis_deg=90.0), shape_yx=FIELD, voxel_size_angstrom=VOXEL)
    flat = np.stack([frequencies().ravel(), np.zeros(frequencies().size)], axis=1)
    lens = Ctf(35_000.0, 35_000.0, voltage_kv=300.0, spherical_aberration_mm=2.7, amplitude_contrast=0.07)
    falling = np.exp(-50.0 * frequencies() ** 2)
    return apply_transfer(clean, np.abs(lens.transfer(flat)).reshape(falling.shape) * falling)


def noise(rng: np.random.Generator) -> np.ndarray:
    """Coloured, and more of it where the specimen is thicker; its white part has a variance of one at zero tilt."""
    white = rng.standard_normal((len(TILTS), *FIELD))
    coloured = apply_transfer(white, np.sqrt(1.0 + 3.0 / (1.0 + (frequencies() / 0.012) ** 2)))
    return coloured / np.sqrt(np.cos(np.radians(TILTS)))[:, None, None]


@lru_cache(maxsize=1)
def signal_sd() -> float:
    """Standard deviation of the clean images within the box."""
    poses = Pose.random(4, rng=np.random.default_rng(0))
    y, x = (slice(n // 2 - BOX // 2, n // 2 + BOX // 2) for n in FIELD)
    return float(np.sqrt(np.mean([images_of(structure("2gho"), poses[i])[:, y, x].var() for i in range(4)])))


def box_of(kind: str, seed: int, index: int, snr: float) -> tuple[Subtomogram, Pose]:
    """A box of the list, and where its particle is."""
    rng = np.random.default_rng([seed, index])
    density, pose = scene(kind, rng)
    images = noise(rng)
    if density is not None:
        images = images + np.sqrt(snr) / signal_sd() * images_of(density, pose)
    data = back_project(images.astype(np.float32), TILTS, box=BOX)
    return Subtomogram(Volume((data - data.mean()) / data.std(), VOXEL), SingleAxisWedge(-60.0, 60.0)), pose


@lru_cache(maxsize=2)
def maps(count: int, seed: int) -> tuple[gonio.Aligner, ...]:
    """Aligners of the structure and its decoys."""
    data = structure("2gho").density(Pose.identity(), box=BOX, voxel_size_angstrom=VOXEL)
    own = gonio.Aligner(Volume(data.astype(np.float32), VOXEL), gonio.Settings())
    return own, *Decoys.of(own, count, rng=np.random.default_rng(seed)).aligners


def scored(count: int, kind: str, seed: int, index: int, snr: float) -> dict:
    """Scores of a box against the structure and its decoys, and how far its pose is off."""
    target, truth = box_of(kind, seed, index, snr)
    own, *decoys = maps(count, seed)
    record: dict = {"kind": kind, "scores": []}
    for aligner in (own, *decoys):
        found = aligner.align(target)
        settings = gonio.Settings(particle_diameter_angstrom=own.diameter_angstrom)
        scorer = scorer_of(aligner, settings)
        record["scores"].append(float(scorer.log_likelihood(target, Pose.stack([found.pose]))[0]))
        if aligner is own:
            record["dissimilarity"] = found.dissimilarity
            record["error_deg"] = float(found.pose.rotation_distance_deg(truth))
    return record


@lru_cache(maxsize=16)
def scorer_of(aligner: gonio.Aligner, settings: gonio.Settings) -> gonio.Aligner:
    """The same map in the structure's sphere."""
    return aligner.of_another(aligner.reference, settings=settings)


def told(records: list[dict], title: str) -> str:
    """A row: right poses, kept, false among them, real ones kept, and which share of false ones beats its decoys."""
    kinds, scores = np.array([r["kind"] for r in records]), np.array([r["scores"] for r in records])
    real = kinds == "real"
    right = np.array([r["error_deg"] < RIGHT_DEG for r in records])[real]
    kept = q_values(scores[:, 0], scores[:, 1:]) <= MOST_Q
    beat = scores[:, 0] > scores[:, 1:].max(axis=1)
    lost = [f"{kind} {(kept & (kinds == kind)).sum()}" for kind in KINDS if (kept & (kinds == kind)).any()]
    false = 100 * (kept & ~real).sum() / max(kept.sum(), 1)
    cells = [title, f"{100 * right.mean():.0f} %", f"{kept.sum()}", f"{false:.1f} %"]
    cells += [f"{100 * (kept & real).sum() / max(real.sum(), 1):.0f} %", f"{100 * beat[~real].mean():.0f} %"]
    return f"| {' | '.join([*cells, ', '.join(lost) or 'none'])} |"


def kinds_of(count: int, false: float) -> list[str]:
    """Of every box of a list: real ones first."""
    wrong = round(count * false)
    return ["real"] * (count - wrong) + [KINDS[i % len(KINDS)] for i in range(wrong)]


def main() -> None:
    """Run and print one row for each seed, with all decoys and with fewer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--false", type=float, default=0.3)
    parser.add_argument("--snr", type=float, default=0.0075)
    parser.add_argument("--decoys", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/false_picks"))
    options = parser.parse_args()
    kinds = kinds_of(options.particles, options.false)
    print("| seed, decoys | right poses | kept | false of these | real ones kept | false that beat decoys | which |")
    print("|" + "---|" * 7)
    for seed in options.seeds:
        jobs = [(kind, seed, index, options.snr) for index, kind in enumerate(kinds)]
        checkpoint = options.out / f"decoys_{options.decoys}.jsonl"
        records = run_jobs(partial(scored, options.decoys), jobs, checkpoint, processes=options.processes)
        for count in range(1, options.decoys + 1):
            some = [{**r, "scores": r["scores"][: 1 + count]} for r in records]
            print(told(some, f"{seed}, {count}"))


if __name__ == "__main__":
    main()
