"""Real tilt series (EMPIAR-10499, 20 ribosomes): do tilts found on some particles, or shells, suit the others?

    python experiments/bundle/real.py [--data ../shared/data] [--splits 2]

Half of the particles of each tomogram, drawn at random, adjust its tilts against 7P6Z, to 32 angstrom, at poses that a
local search has refined. The others are compared with 7P6Z at the listed tilts and at those found: at their listed
poses, and at poses refined anew. Halves then change places. Last, all particles adjust tilts and poses, and shells
from 32 to 25.6 angstrom, which nothing has compared, are correlated with 7P6Z, beside poses that were refined alone.
Prints the numbers of docs/tilts.md.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "ribosomes"))

import numpy as np

import gonio
from gonio.alignment.aligner import Aligner
from gonio.alignment.particle_list import Aligners
from gonio.settings import TiltPriors
from gonio.workflows.tilt_refinement import (
    PARAMETERS,
    AdjustTomogram,
    TiltPlan,
    TomogramTilts,
    adjust_tilts,
    changes_of,
    poses_of,
)
from run import DIAMETER_ANGSTROM, RESOLUTION_ANGSTROM, Ribosomes, laid_on, read_ribosomes

SETTINGS = gonio.Settings(resolution_angstrom=RESOLUTION_ANGSTROM, particle_diameter_angstrom=DIAMETER_ANGSTROM)
LOCAL = replace(SETTINGS, search=gonio.LocalSearch(2.0, 6.0))
PRIORS = {
    "default priors": TiltPriors(),
    "a fifth of them": TiltPriors(2.0, 0.2, 0.2, 0.2, 100.0),
}


@dataclass(frozen=True)
class Real:
    """The list, all in one half, and 7P6Z in its frame."""

    table: gonio.ParticleTable
    reference: gonio.Volume

    def adjusted(self, rows: np.ndarray, poses: gonio.Pose, plan: TiltPlan) -> tuple[gonio.Pose, dict]:
        """Poses of some particles, adjusted with the tilts, and what is found of these by tomogram."""
        aligners = Aligners([Aligner(self.reference, SETTINGS)], np.zeros(len(rows), np.int64))
        task = AdjustTomogram(self.table[rows].with_poses(poses[rows]), aligners, plan)
        found = adjust_tilts(task)
        return poses_of(task, found)[0], dict(zip(task.names, found, strict=True))

    def refined(self, table: gonio.ParticleTable, starts: gonio.Pose) -> gonio.Pose:
        """Poses by a local search about these, at the tilts that a list loads with."""
        results = Aligner(self.reference, LOCAL).align_many(list(table.particles()), starts=starts, n_threads=1)
        return gonio.Pose.stack([one.pose for one in results])

    def scores(self, table: gonio.ParticleTable, poses: gonio.Pose) -> np.ndarray:
        """Log-likelihood difference to noise, and dissimilarity, of each particle at its pose, (m, 2)."""
        aligner = Aligner(self.reference, SETTINGS)
        of = [(aligner.log_likelihood, 1.0), (aligner.dissimilarity, 1.0)]
        return np.array([[float(f(table.load(i), poses[i : i + 1])[0]) for f, _ in of] for i in range(len(table))])


def held_out(real: Real, refined: gonio.Pose, plan: TiltPlan, splits: int) -> None:
    """Print by how much particles fit better with the tilts that others have found."""
    rng, names = np.random.default_rng(0), np.array(real.table.tomograms)
    gains: dict[str, list[np.ndarray]] = {"input poses": [], "poses refined anew": []}
    for _ in range(splits):
        half = np.zeros(len(names), bool)
        for name in np.unique(names):
            half[rng.permutation(np.flatnonzero(names == name))[: (names == name).sum() // 2]] = True
        for fit in (half, ~half):
            rows, others = np.flatnonzero(fit), np.flatnonzero(~fit)
            _, found = real.adjusted(rows, refined, plan)
            listed = real.table[others]
            after = listed.with_changes(changes_of(found))
            gains["input poses"].append(real.scores(after, listed.poses) - real.scores(listed, listed.poses))
            again = real.refined(after, listed.poses)
            gains["poses refined anew"].append(real.scores(after, again) - real.scores(listed, refined[others]))
    for what, of in gains.items():
        every = np.array(of).reshape(splits, -1, 2)  # each particle once in each split
        mean = every.mean(axis=0)
        error = mean.std(axis=0, ddof=1) / np.sqrt(len(names))
        better = (every[..., 0] > 0).mean()
        print(
            f"  held out, {what}: ln L {mean[:, 0].mean():+.3f} +- {error[0]:.3f} a particle,"
            f" dissimilarity {mean[:, 1].mean():+.5f} +- {error[1]:.5f}, {100 * better:.0f} % fit better"
        )


def determined(found: dict[str, TomogramTilts]) -> str:
    """How many images determine each parameter, and how far it moves."""
    texts = []
    for number, (name, unit) in enumerate(PARAMETERS[:6]):
        known = sum(int(one.determined[:, number].sum()) for one in found.values())
        moved = np.concatenate([one.tilts[:, number] for one in found.values()])
        texts.append(f"{name} {known} of {len(moved)} (rms {np.sqrt((moved**2).mean()):.2g} {unit})")
    return ", ".join(texts)


def main() -> None:
    """Print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--splits", type=int, default=2)
    options = parser.parse_args()
    table, particles, mean, atoms = read_ribosomes(options.data)
    real = Real(replace(table, half_sets=np.ones(len(table), np.int8)), laid_on(mean, atoms))
    refined = real.refined(real.table, table.poses)
    print(
        f"ln L of the list: {real.scores(real.table, table.poses)[:, 0].mean():.2f} a particle, "
        f"of poses refined alone {real.scores(real.table, refined)[:, 0].mean():.2f}"
    )
    for which, poses in (("listed", table.poses), ("refined alone", refined)):
        value = Ribosomes(particles, table.poses, real.reference).held_out_correlation(poses)
        print(f"held-out shells, poses {which}: {value:.4f}")
    for name, priors in PRIORS.items():
        plan = TiltPlan(priors=priors)
        print(name)
        held_out(real, refined, plan, options.splits)
        poses, found = real.adjusted(np.arange(len(table)), refined, plan)
        print(f"  all particles: {determined(found)}")
        loaded = list(real.table.with_changes(changes_of(found)).particles())
        for which, at in (("adjusted", poses), ("listed", table.poses)):
            value = Ribosomes(loaded, at, real.reference).held_out_correlation(at)
            print(f"  held-out shells, tilts adjusted, poses {which}: {value:.4f}")


if __name__ == "__main__":
    main()
