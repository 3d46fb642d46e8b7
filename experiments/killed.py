"""A command that is killed again and again, and begun again, gives the files of one that was left alone.

    python experiments/killed.py [COMMAND ...] [--kills 50] [--particles 12] [--seed 0] [--dask]

Each command makes its results once undisturbed. Then it is begun in a new process, and killed (kill -9) after a random
time between nothing and the length of such a run: half of the kills take the process alone, half its workers too. A
third of them wait until results are written, a random time after the folder for them has appeared. It is begun again,
with ``--resume`` where the command has that, and killed up to three times in a row before it may end. In every other
run there are old results in the place of the new.

After each kill there must be the old results, none, or the new ones whole; in the end the files of the undisturbed run
but for the time in labels and settings, and nothing beside them. Prints a line for each command, one more for each
difference, and returns their number.

With ``--dask`` it is one of four Dask workers of ``align`` that is killed in the middle of the run, which has to end by
itself.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path

import mrcfile
import numpy as np

from gonio.cli.app import run

KILLS_IN_A_ROW = 3
LOOK_SECONDS = 0.0005
# Where MRC files keep labels, with the time at which they were written.
LABELS = slice(220, 1024)
CHANGING = re.compile(rb"^(command|date|threads) = .*$", re.MULTILINE)
# These state the time that the run took.
TIMED = ("report.html", "summary.json")


@dataclass(frozen=True)
class Command:
    """A command line without its output, the name of what it makes, and whether it can be resumed."""

    words: str
    made: str = "out"
    resumes: bool = False

    def line(self, folder: Path, *more: str) -> list[str]:
        """The words, in a folder."""
        return [*self.words.format(folder=folder).split(), "-o", f"{folder}/{self.made}", *more]


SIM = "{folder}/sim/"
COMMANDS = {
    "align": Command(f"align {SIM}particles.star --reference {SIM}reference.mrc --threads 2", resumes=True),
    "refine": Command(
        f"refine {SIM}particles.star --reference {SIM}reference.mrc --start-resolution 80 --resolution 50"
        " --iterations 2 --threads 2",
        resumes=True,
    ),
    "classify": Command(f"classify {SIM}truth.star --classes 2 --resolution 60 --threads 2", resumes=True),
    "extract": Command("extract {folder}/tomogram.mrc {folder}/picks.star --pixel-size 16 --box 16 --threads 2"),
    "simulate": Command("simulate --phantom sharp --count 8 --box 16 --voxel-size 20 --snr 2"),
    "average": Command(f"average {SIM}truth.star --threads 2", made="map.mrc"),
    "convert": Command(f"convert {SIM}particles.star", made="list.csv"),
}


def line_of(name: str, folder: Path, *more: str) -> list[str]:
    """The words of a command by its name; two of them take their output as an argument."""
    words = COMMANDS[name].line(folder, *more)
    at = words.index("-o")
    return [*words[:at], *words[at + 1 :]] if name in ("simulate", "convert") else words


def prepared(folder: Path, particles: int) -> None:
    """Particles, and a tomogram with places in it."""
    words = f"simulate {folder}/sim --phantom sharp --count {particles} --box 20 --voxel-size 16 --snr 2 --seed 3"
    assert run([*words.split(), "--quiet"]) == 0
    rng = np.random.default_rng(0)
    with mrcfile.new(folder / "tomogram.mrc") as mrc:
        mrc.set_data(rng.normal(size=(40, 64, 64)).astype(np.float32))
        mrc.voxel_size = 16.0
    labels = ["rlnTomoName", *(f"rlnCoordinate{axis}" for axis in "XYZ"), "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"]
    places = product(range(10, 56, 9), range(10, 56, 9), range(10, 32, 7))
    rows = [f"tomogram {x} {y} {z} 10 20 30" for x, y, z in places]
    heads = [f"_{label} #{number}" for number, label in enumerate(labels, start=1)]
    (folder / "picks.star").write_text("\n".join(["data_", "", "loop_", *heads, *rows, ""]))


def begun(words: list[str]) -> BaseProcess:
    """The command line in a process and a group of its own, a copy of this one, which has compiled what it needs."""

    def quietly() -> None:
        os.setsid()
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
        os._exit(run(words))

    process = multiprocessing.get_context("fork").Process(target=quietly)
    process.start()
    return process


def contents(folder: Path, made: str) -> dict[str, bytes]:
    """What was made, by name, without the times in it; of a file also what lies beside it under its name."""
    path, stem = folder / made, made.split(".")[0]
    files = path.rglob("*") if path.is_dir() else folder.glob(f"{stem}*" if "." in made else made)
    return {
        str(file.relative_to(folder)): content_of(file)
        for file in sorted(files)
        if file.is_file() and ".gonio" not in file.parts and file.name != "old.txt"
    }


def content_of(file: Path) -> bytes:
    """The bytes of a file without times."""
    content = b"" if file.name in TIMED else file.read_bytes()
    if file.suffix == ".mrc":
        return content[: LABELS.start] + content[LABELS.stop :]
    return CHANGING.sub(b"", content) if file.suffix == ".toml" else content


def cleared(folder: Path, command: Command, *, old: bool) -> None:
    """Remove what was made, and put old results in its place."""
    for path in (*folder.glob(f"{command.made.split('.')[0]}*"), *folder.glob(f".{command.made.split('.')[0]}*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if old and "." in command.made:
        (folder / command.made).write_text("old")
    elif old:
        (folder / command.made).mkdir()
        (folder / command.made / "old.txt").write_text("old")


def is_whole(folder: Path, command: Command, expected: dict[str, bytes], *, old: bool) -> str:
    """What a kill has left, empty where it should not be."""
    found = contents(folder, command.made)
    if found == expected:
        return "new"
    if "." in command.made:  # files appear one by one, each of them whole
        whole = all(content in (expected[name], b"old", old_map(content)) for name, content in found.items())
        return ("some" if found else "none") if whole else ""
    if command.resumes:  # iterations appear as they are done
        found = {name: content for name, content in found.items() if "iteration_" not in name}
    if found:
        return ""
    return "old" if old and (folder / command.made / "old.txt").exists() else "" if old else "none"


def old_map(content: bytes) -> bytes:
    """The old text of a file, as ``content_of`` gives it."""
    return content if content == b"old" else b"old"


def killed(process: BaseProcess, rng: random.Random, seconds: float, staging: Path) -> bool:
    """Kill at a random moment; whether it was there to be killed."""
    moment, alone = rng.uniform(0.0, seconds), rng.random() < 0.5
    if rng.random() < 1 / 3:
        while process.is_alive() and not staging.exists():
            time.sleep(LOOK_SECONDS)
        moment = rng.uniform(0.0, 0.2 * seconds)
    process.join(moment)
    if not process.is_alive():
        return False
    assert process.pid is not None
    try:
        (os.kill if alone else os.killpg)(process.pid, signal.SIGKILL)
    except ProcessLookupError:  # not yet the head of its group
        process.kill()
    process.join()
    return process.exitcode == -signal.SIGKILL


def tried(name: str, folder: Path, kills: int, rng: random.Random) -> int:
    """Kill a command so many times; how often something was not as it should be."""
    command, differences, states = COMMANDS[name], 0, Counter[str]()
    cleared(folder, command, old=False)
    assert run([*line_of(name, folder), "--quiet"]) == 0  # compiles
    expected = contents(folder, command.made)
    cleared(folder, command, old=False)
    start = time.monotonic()
    process = begun(line_of(name, folder))
    process.join()
    seconds = time.monotonic() - start
    found = contents(folder, command.made)
    assert process.exitcode == 0 and found == expected, [name for name in expected if found.get(name) != expected[name]]
    done = runs = 0
    while done < kills:
        old = runs % 2 == 1
        cleared(folder, command, old=old)
        again = "--overwrite" if old or not command.resumes else "--resume"
        for _ in range(rng.randint(1, KILLS_IN_A_ROW)):
            if not killed(begun(line_of(name, folder, again)), rng, seconds, folder / f".{command.made}.tmp"):
                break
            done += 1
            state = is_whole(folder, command, expected, old=old)
            states[state or "BROKEN"] += 1
            if not state:
                differences += 1
                print(f"{name}, kill {done}: half of the results are there", flush=True)
            if command.resumes and (folder / command.made / ".gonio" / "journal").exists():
                again = "--resume"
        process = begun(line_of(name, folder, again))
        process.join()
        runs += 1
        beside = [path.name for path in folder.glob(f".{command.made}*")]
        inside = list((folder / command.made).rglob(".*")) if (folder / command.made).is_dir() else []
        kept = not old or "." in command.made or (folder / command.made / "old.txt").exists()
        if process.exitcode or contents(folder, command.made) != expected or beside or inside or not kept:
            differences += 1
            found = contents(folder, command.made)
            wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
            print(
                f"{name}, run {runs}: status {process.exitcode}, DIFFERENT {wrong}, beside {beside} {inside}",
                flush=True,
            )
    left = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    print(f"{name}: {done} kills in {runs} runs of {seconds:.2f} s ({left}), {differences} differences", flush=True)
    return differences


def worker_killed(folder: Path, rng: random.Random) -> int:
    """One of four Dask workers is killed when some particles are done; whether files differ then."""
    command = COMMANDS["align"]
    expected = contents(folder, command.made)
    cleared(folder, command, old=False)
    run_ = begun([*line_of("align", folder)[:-4], "-o", f"{folder}/out", "--dask", "local", "--threads", "4"])
    checkpoint, size = folder / "out" / ".gonio" / "journal", rng.randint(2_000, 10_000)  # bytes: 2 kB for a particle
    while run_.is_alive() and not (checkpoint.exists() and checkpoint.stat().st_size > size):
        time.sleep(LOOK_SECONDS)
    workers = [pid for pid in children(run_.pid) for pid in children(pid) or [pid] if "spawn_main" in words_of(pid)]
    os.kill(rng.choice(workers), signal.SIGKILL)
    run_.join()
    same = run_.exitcode == 0 and contents(folder, command.made) == expected
    print(f"one of {len(workers)} Dask workers killed:", "the same" if same else "DIFFERENT", flush=True)
    return not same


def children(pid: int | None) -> list[int]:
    """Processes that a process has begun."""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def words_of(pid: int) -> str:
    """What a process was begun with."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def main() -> int:
    """The number of differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", choices=[[], *COMMANDS], default=[])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--particles", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dask", action="store_true")
    asked = parser.parse_args()
    rng, differences = random.Random(asked.seed), 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepared(folder, asked.particles)
        if asked.dask:
            assert run([*line_of("align", folder), "--quiet"]) == 0
            return worker_killed(folder, rng)
        for name in asked.commands or COMMANDS:
            differences += tried(name, folder, asked.kills, rng)
    print(f"{differences} differences")
    return differences


if __name__ == "__main__":
    sys.exit(main())
