"""Fig. 6: all pairs of 80 subtomograms of four complexes, their classes, and the average of each class.

    python experiments/fig6/run.py [--particles 20] [--methods rcs fcs] [--structures DIR] [--out DIR]

As in the paper: 20 subtomograms of each complex, SNR 0.5, +-60 degrees, seeds at 60 degrees, both scores; gonio's
defaults beside them. Particle i of a complex is that of Fig. 5. Nobody tells how many classes there are: the number is
the one that is proposed. The pairs of a method are kept in a file when they are done.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from images import matrices, slices

import gonio
from complexes import COMPLEXES, STRUCTURES, names_at, pose_of, simulated, true_map
from gonio.fourier.fourier_volume import moved
from gonio.fourier.fsc import fourier_shell_correlation, resolution_at
from gonio.particle.table import ParticleSource, ParticleTable
from gonio.run.executor import Local
from gonio.workflows.all_pairs import align_all_pairs
from gonio.workflows.classification import Classes, classes_of_clusters
from gonio.workflows.clustering import AllPairs, Clustering, adjusted_rand_index, cluster
from listing import aligned, number, piped
from pairs import BOX, VOXEL_SIZE_ANGSTROM
from plots import save
from tables import method_settings

METHODS = {"rcs_60": "RCS, 60° seeds", "fcs_60": "FCS, 60° seeds", "rcs": "defaults, RCS", "fcs": "defaults, FCS"}
EDGE = BOX * VOXEL_SIZE_ANGSTROM
RESOLUTION_ANGSTROM = 50.0  # what the averages are to reach
SEPARATED = 0.95  # share of the rows of a matrix


@dataclass(frozen=True)
class Simulated(ParticleSource):
    """A source of particles that are made already."""

    made: tuple[gonio.Subtomogram, ...]

    def load(self, index: int) -> gonio.Subtomogram:
        """The particle of a row."""
        return self.made[index]


@dataclass(frozen=True)
class Found:
    """All pairs of a method, what the searches themselves say of them, seconds, and the classes."""

    pairs: AllPairs
    own: np.ndarray
    seconds: float
    score: str

    def matrix(self, *, after: bool = True) -> np.ndarray:
        """Dissimilarities of all particles."""
        return self.pairs.dissimilarity(self.score, aligned=after)


def settings_of(method: str) -> gonio.Settings:
    """The paper's schedule, or the defaults with a score."""
    return method_settings(method, axis=False) if method.endswith("_60") else gonio.Settings(score=method)


def list_of(names: tuple[str, ...], count: int, structures: Path) -> ParticleTable:
    """``count`` particles of each complex, class by class; nobody knows their poses."""
    made = tuple(simulated(name, index, structures) for name in names for index in range(count))
    labels = tuple(f"{name}_{index}" for name in names for index in range(count))
    return ParticleTable(gonio.Pose.identity(len(made)), labels, ("",) * len(made), source=Simulated(made))


def found_by(method: str, table: ParticleTable, path: Path, *, processes: int) -> Found:
    """All pairs by a method, from its file where that is there."""
    score = method.removesuffix("_60")
    if not path.exists():
        began = time.process_time() + children()
        results, own = [], np.zeros((len(table), len(table)))
        rng = np.random.default_rng(0)
        for pair in align_all_pairs(table, settings_of(method), rng=rng, executor=Local(processes)):
            results.append(pair)
            own[pair.reference, pair.target] = own[pair.target, pair.reference] = pair.result.dissimilarity
        pairs, seconds = AllPairs.gathered(results, len(table)), time.process_time() + children() - began
        path.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"quaternions": pairs.poses.rotation.as_quat(), "shifts": pairs.poses.shift_angstrom}
        with path.with_suffix(".part").open("wb") as file:
            np.savez_compressed(file, **arrays, sums=pairs.sums, own=own, seconds=seconds)
        path.with_suffix(".part").rename(path)
    with np.load(path) as kept:
        poses = gonio.Pose(Rotation.from_quat(kept["quaternions"]), kept["shifts"])
        pairs = AllPairs(len(table), poses, kept["sums"])
        return Found(pairs, kept["own"], float(kept["seconds"]), score)


def children() -> float:
    """Processor seconds of the processes that have ended."""
    import resource

    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def separated(matrix: np.ndarray, truth: np.ndarray) -> float:
    """The share of rows whose worst of the own class is below the best of all others."""
    same, apart = truth[:, None] == truth, ~np.eye(len(truth), dtype=bool)
    worst = np.where(same & apart, matrix, -np.inf).max(axis=1)
    return float((worst < np.where(same, np.inf, matrix).min(axis=1)).mean())


def told_by(matrix: np.ndarray, truth: np.ndarray) -> dict:
    """What a matrix says of the classes."""
    proposed, asked = cluster(matrix), cluster(matrix, int(truth.max()) + 1)
    return {
        "rows": separated(matrix, truth),
        "classes": proposed.count,
        "reason": proposed.reason,
        "ari": adjusted_rand_index(proposed.labels, truth),
        "ari_of_as_many": adjusted_rand_index(asked.labels, truth),
    }


def quantities(found: Found, truth: np.ndarray) -> dict:
    """The same pairs by other quantities: as each search weighted its pair, and every sample alike."""
    ff, gg, fg = (found.pairs.sums[:, 1, :, k].sum(axis=1) for k in range(3))
    power = np.sqrt(ff * gg) if found.score == "rcs" else 0.5 * (ff + gg)
    alike = np.zeros_like(found.own)
    alike[np.triu_indices(len(alike), 1)] = 2.0 - 2.0 * fg / power
    own = np.where(np.isfinite(found.own), found.own, found.own[np.isfinite(found.own)].max())
    return {"own": told_by(own, truth), "alike": told_by(alike + alike.T, truth)}


def shown(classes: Classes, names: tuple[str, ...], truth: np.ndarray, structures: Path) -> dict[str, gonio.Volume]:
    """The average that shows a complex best: that of the class with most of its particles, laid on the true map."""
    maps = {}
    for number_of, name in enumerate(names):
        label = int(np.bincount(classes.labels[truth == number_of]).argmax())
        made = classes.averages[label - 1]
        assert made is not None  # it has particles
        pose = gonio.Aligner(true_map(name, structures)).align(gonio.Subtomogram(made.volume)).pose.inverse()
        maps[name] = moved(made.volume, pose.matrix, pose.shift_angstrom)
    return maps


def resolution(curve: np.ndarray) -> float:
    """Where a curve falls to one half."""
    return resolution_at(curve, 0.5, box_angstrom=EDGE)


def best_single(name: str, count: int, table: ParticleTable, first: int, structures: Path) -> float:
    """The best of single subtomograms, each with the truth laid where it truly is."""
    truth, found = true_map(name, structures), []
    for index in range(count):
        pose, one = pose_of(name, index), table.load(first + index)
        assert isinstance(one, gonio.Subtomogram)
        laid = moved(truth, pose.matrix, pose.shift_angstrom)
        found.append(resolution(fourier_shell_correlation(one.volume, laid)))
    return min(found)


def summarise(found: Found, clustering: Clustering, truth: np.ndarray, maps: dict[str, float]) -> dict:
    """One method."""
    return {
        "seconds_of_a_pair": found.seconds / len(found.pairs.poses),
        "before": told_by(found.matrix(after=False), truth),
        "after": told_by(found.matrix(), truth),
        "other_quantities": quantities(found, truth),
        "silhouettes": {str(k): value for k, value in clustering.silhouettes.items()},
        "resolution_angstrom": maps,
    }


def lines(summary: dict) -> tuple[list[str], list[list[str]]]:
    """The table of docs/reproduce.md."""
    told = ["rows before", "rows after", "classes", "ARI", "ARI of 4: before", "after"]
    header = ["method", "ms a pair", *told, *summary["names"]]
    table = []
    for method, row in summary["methods"].items():
        before, after = row["before"], row["after"]
        table.append(
            [
                METHODS[method],
                number(1e3 * row["seconds_of_a_pair"], 2),
                f"{before['rows']:.1%}",
                f"{after['rows']:.1%}",
                str(after["classes"]),
                f"{after['ari']:.2f}",
                f"{before['ari_of_as_many']:.2f}",
                f"{after['ari_of_as_many']:.2f}",
                *(f"{number(value)} Å" for value in row["resolution_angstrom"].values()),
            ]
        )
    singles = [f"{number(value)} Å" if np.isfinite(value) else "-" for value in summary["best_single"].values()]
    return header, [*table, ["best single subtomogram", *[""] * 7, *singles]]


def other_lines(summary: dict) -> tuple[list[str], list[list[str]]]:
    """What else could be in the matrix."""
    header = ["method", "quantity", "rows after", "classes", "ARI", "ARI of 4"]
    table = []
    for method, row in summary["methods"].items():
        others = row["other_quantities"]
        for name, told in {
            "weighted alike in all pairs": row["after"],
            "every sample alike": others["alike"],
            "as the search weights each pair": others["own"],
        }.items():
            table.append(
                [
                    METHODS[method],
                    name,
                    f"{told['rows']:.1%}",
                    str(told["classes"]),
                    f"{told['ari']:.2f}",
                    f"{told['ari_of_as_many']:.2f}",
                ]
            )
    return header, table


def verdicts(summary: dict) -> dict[str, bool]:
    """The targets, of gonio's own methods that have run."""
    rows, singles = [summary["methods"][m] for m in ("rcs", "fcs") if m in summary["methods"]], summary["best_single"]
    if not rows:
        return {}
    reached = [r["resolution_angstrom"] for r in rows]
    return {
        "adjusted Rand index 1": all(r["after"]["ari"] == 1.0 for r in rows),
        f"rows separated: {SEPARATED:.0%} or more after": all(r["after"]["rows"] >= SEPARATED for r in rows),
        f"and fewer before: below {SEPARATED:.0%}": all(r["before"]["rows"] < SEPARATED for r in rows),
        f"averages: FSC 0.5 at {RESOLUTION_ANGSTROM:g} A or better": all(
            value <= RESOLUTION_ANGSTROM for of in reached for value in of.values()
        ),
        "and beyond each single subtomogram": all(
            value < singles[name] for of in reached for name, value in of.items()
        ),
    }


def main() -> None:
    """Align, classify, average, print, write JSON and the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", "--pairs", type=int, default=20, help="of each complex")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--structures", type=Path, default=STRUCTURES, help="folder of 1oel.pdb.gz and the others")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("results/fig6"))
    parser.add_argument("--markdown", type=Path, help="write the tables of docs/reproduce.md into this file")
    options = parser.parse_args()
    if options.particles < 2:
        parser.error(f"--particles must be at least 2, got {options.particles}")
    names, count = names_at(options.structures), options.particles
    table, truth = list_of(names, count, options.structures), np.repeat(np.arange(len(names)), count)
    executor = Local(options.processes)
    pictures: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    averages: dict[str, dict[str, gonio.Volume]] = {}
    summary: dict = {"names": [COMPLEXES.get(name, name) for name in names], "particles": count, "methods": {}}
    summary["best_single"] = {
        name: best_single(name, count, table, count * row, options.structures) for row, name in enumerate(names)
    }
    for method in options.methods:
        path = options.out / f"{method}_{count}.npz"
        found = found_by(method, table, path, processes=options.processes)
        # The averages are those of as many classes as there are, whatever is proposed.
        clustering = cluster(found.matrix(), len(names))
        classes = classes_of_clusters(
            table, found.pairs, clustering, gonio.Settings(score=found.score), executor=executor
        )
        averages[method] = shown(classes, names, truth, options.structures)
        reached = {
            name: resolution(fourier_shell_correlation(made, true_map(name, options.structures)))
            for name, made in averages[method].items()
        }
        pictures[METHODS[method]] = found.matrix(after=False), found.matrix()
        summary["methods"][method] = summarise(found, clustering, truth, reached)
    (options.out / "summary.json").write_text(json.dumps(strict(summary), indent=1))
    save(matrices(pictures, names, count), options.out / "matrices.png")
    rows = {
        name: {
            "one subtomogram": table.load(count * row).volume.data,  # type: ignore[union-attr]
            **{METHODS[method]: averages[method][name].data for method in options.methods},
            "the truth": true_map(name, options.structures).data,
        }
        for row, name in enumerate(names)
    }
    save(slices(rows, count), options.out / "averages.png")
    if options.markdown:
        options.markdown.write_text(piped(*lines(summary)) + "\n\n" + piped(*other_lines(summary)) + "\n")
    print(aligned(*lines(summary)), aligned(*other_lines(summary)), sep="\n\n", end="\n\n")
    for method, row in summary["methods"].items():
        print(f"{METHODS[method]}: {row['after']['reason']}")
    for target, met in verdicts(summary).items():
        print(f"{'met' if met else 'MISSED'}: {target}")


def strict(value: object) -> object:
    """The same with null for numbers that JSON does not know."""
    if isinstance(value, dict):
        return {key: strict(inner) for key, inner in value.items()}
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


if __name__ == "__main__":
    main()
