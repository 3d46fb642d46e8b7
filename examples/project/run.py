"""From picks to a sharpened map and back into RELION: every command of docs/project.md, timed and checked.

python examples/project/make_data.py data --structure 7p6z.cif.gz --other 1oel.pdb.gz
python examples/project/run.py data work
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import gonio


@dataclass(frozen=True)
class Course:
    """Binnings from coarse to fine with their boxes, and where the search begins."""

    bins: tuple[int, ...] = (4, 2, 1)
    boxes: tuple[int, ...] = (20, 36, 64)
    start_angstrom: float = 60.0
    iterations: int = 6
    threads: int = 2


COURSES = {"full": Course(), "smoke": Course((2, 1), (16, 24), iterations=2, threads=1)}


def typed(words: Sequence[str]) -> int:
    """Run gonio as a program of its own."""
    return subprocess.run([sys.executable, "-m", "gonio", *words], check=False).returncode


@dataclass
class Project:
    """A folder of data and one of work, the commands that were run, and how long each took."""

    data: Path
    work: Path
    course: Course = field(default_factory=Course)
    gonio: Callable[[Sequence[str]], int] = typed
    seconds: list[tuple[str, float]] = field(default_factory=list)

    def run(self, line: str) -> None:
        """Run a command line, in which DATA and WORK stand for the folders."""
        begun = time.perf_counter()
        print(f"$ gonio {line}", flush=True)
        if self.gonio([str(self._path(word)) if _is_named(word) else word for word in shlex.split(line)]) != 0:
            raise RuntimeError(f"gonio {line} failed")
        self.seconds.append((line, time.perf_counter() - begun))

    def extract(self, listed: str, level: int, to: str) -> None:
        """Cut stacks at the places of a list, at a binning."""
        bin_, box = self.course.bins[level], self.course.boxes[level]
        self.run(
            f"extract DATA/tomograms.star {listed} --stacks --bin {bin_} --box {box} --invert"
            f" --threads {self.course.threads} -o WORK/{to}"
        )

    def sort(self) -> str:
        """Drop false picks, the second kind and picks of one particle, and return the list of what is left."""
        course, threads = self.course, self.course.threads
        self.extract("DATA/picks.star", 0, "picked")
        first = gonio.read_particles(self.work / "picked" / "particles.star").load(0)
        self.run(f"map DATA/start.mrc --voxel-size {first.voxel_size_angstrom:g} --box {first.box} -o WORK/start.mrc")
        self.run(
            f"align WORK/picked/particles.star --reference WORK/start.mrc --resolution {course.start_angstrom:g}"
            f" --decoys 2 --threads {threads} -o WORK/aligned"
        )
        self.run("select WORK/aligned/kept.star WORK/chosen/particles.star --apart 100")
        return "WORK/chosen/particles.star"

    def refine(self, listed: str) -> str:
        """Refine at every binning, each from where the one before ended; return the last folder."""
        course, shared = self.course, f"--iterations {self.course.iterations} --threads {self.course.threads}"
        last = f"refined_bin{course.bins[0]}"
        start = f"--reference WORK/start.mrc --start-resolution {course.start_angstrom:g}"
        self.run(f"refine {listed} {start} {shared} -o WORK/{last}")
        for level, bin_ in enumerate(course.bins[1:], start=1):
            self.extract(f"WORK/{last}/particles.star", level, f"bin{bin_}")
            before, last = last, f"refined_bin{bin_}"
            self.run(f"refine WORK/bin{bin_}/particles.star --continue-from WORK/{before} {shared} -o WORK/{last}")
        return last

    def finish(self, last: str) -> None:
        """Sharpen the map, write the list for other programs and back, and compare with the truth."""
        halves = f"WORK/{last}/half1.mrc WORK/{last}/half2.mrc"
        self.run(f"postprocess {halves} --mask WORK/{last}/mask.mrc -o WORK/post")
        self.run(f"convert WORK/{last}/particles.star WORK/final.star --to relion5")
        self.run("convert WORK/final.star WORK/final.csv")
        self.run(f"compare WORK/final.csv WORK/{last}/particles.star -o WORK/there_and_back")
        self.run(f"compare WORK/{last}/particles.star DATA/truth.star -o WORK/to_truth")
        self.run(f"select DATA/truth.star WORK/truth.star --in WORK/{last}/particles.star")
        self.extract("WORK/truth.star", len(self.course.bins) - 1, "at_truth")
        self.run(
            f"average WORK/at_truth/particles.star --split --mask WORK/{last}/mask.mrc"
            f" --threads {self.course.threads} -o WORK/at_truth.mrc"
        )

    def facts(self, listed: str, last: str) -> dict[str, object]:
        """Return what came out: how picks were told apart, resolutions, errors, times."""
        with (self.data / "truth.csv").open() as file:
            kinds = {row["name"]: row["kind"] for row in csv.DictReader(file)}
        kept = set(gonio.read_particles(self._path(listed)).names)
        right = sum((kind == "particle") == (name in kept) for name, kind in kinds.items())
        refined, truth = self._table(f"{last}/particles.star"), gonio.read_particles(self._path("DATA/truth.star"))
        rows = [truth.names.index(name) for name in refined.names if name in set(truth.names)]
        of = [row for row, name in enumerate(refined.names) if name in set(truth.names)]
        back = self._table("final.star")
        summaries = {
            bin_: json.loads((self.work / f"refined_bin{bin_}" / "summary.json").read_text())
            for bin_ in self.course.bins
        }
        fsc = np.genfromtxt(self.work / "at_truth_fsc.csv", delimiter=",", names=True)
        return {
            "picks": len(kinds),
            "kept": len(kept),
            "told_apart": right / len(kinds),
            "resolution_angstrom": {bin_: one["resolution_angstrom"] for bin_, one in summaries.items()},
            "iterations": {bin_: one["iterations"] for bin_, one in summaries.items()},
            "verdict": summaries[self.course.bins[-1]]["verdict"],
            "at_truth_fsc": {name: fsc[name].round(3).tolist() for name in fsc.dtype.names},
            "rotation_error_deg": float(np.median(refined.poses[of].rotation_distance_deg(truth.poses[rows]))),
            "place_error_angstrom": float(
                np.median(np.linalg.norm(_places(refined)[of] - _places(truth)[rows], axis=1))
            ),
            "there_and_back_deg": float(np.max(back.poses.rotation_distance_deg(refined.poses))),
            "there_and_back_angstrom": float(np.abs(_places(back) - _places(refined)).max()),
            "seconds": [(line, round(took, 1)) for line, took in self.seconds],
        }

    def _path(self, path: str) -> Path:
        """Return a file in the folder that the first part of a path stands for."""
        folder, _, name = path.partition("/")
        return {"DATA": self.data, "WORK": self.work}[folder] / name

    def _table(self, name: str) -> gonio.ParticleTable:
        return gonio.read_particles(self.work / name)


def _is_named(word: str) -> bool:
    return word.startswith(("DATA/", "WORK/"))


def _places(table: gonio.ParticleTable) -> np.ndarray:
    places = table.places_angstrom
    assert places is not None
    return places


def whole(project: Project) -> dict[str, object]:
    """Do everything, and write facts.json."""
    project.work.mkdir(parents=True)
    listed = project.sort()
    last = project.refine(listed)
    project.finish(last)
    facts = project.facts(listed, last)
    (project.work / "facts.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--size", choices=COURSES, default="full")
    given = parser.parse_args()
    print(json.dumps(whole(Project(given.data, given.work, COURSES[given.size])), indent=1))
