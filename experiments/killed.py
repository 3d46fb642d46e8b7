"""A run that is killed again and again, and resumed, gives the files of one that was left alone, byte for byte.

    python experiments/killed.py [--kills 20] [--particles 300] [--seed 0] [--dask]

Simulates particles and aligns them once undisturbed, on one worker. Then again on two with kill -9, and ``--resume``
until it ends. A third of the kills come after a random time between nothing and the length of such a run, so while it
starts, aligns and checkpoints; a third while its results are written, a random time after the folder for them has
appeared; a third while they are synced and put in their place, after the last of their files has appeared. Half of them
take the process alone, half its workers too.

With ``--dask`` it is one of four Dask workers that is killed in the middle of the run, which has to end by itself.

Prints a line for each kill, and how many of the resulting tables are the same.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TABLES = ("particles.star", "runners_up.star")
OUT, STAGING = "killed", ".killed.tmp"
LAST = f"{STAGING}/settings.toml"
# A run is killed at most so often in a row: each time it goes on from where it was.
KILLS_IN_A_ROW = 3
LOOK_SECONDS = 0.001


def gonio(folder: Path, *words: str) -> subprocess.Popen:
    """The command line, in a group of its own, so that workers can be killed with it."""
    return subprocess.Popen(
        [sys.executable, "-m", "gonio", *words], cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def aligned(folder: Path, name: str, *more: str) -> subprocess.Popen:
    """One alignment of the particles there."""
    return gonio(folder, "align", "sim/particles.star", "--reference", "sim/reference.mrc", "-o", name, *more)


def waited_for(run: subprocess.Popen, sign: Callable[[], bool]) -> bool:
    """Wait for a sign; False where the run ends before."""
    while not sign():
        if run.poll() is not None:
            return False
        time.sleep(LOOK_SECONDS)
    return True


@dataclass(frozen=True)
class Phase:
    """A part of a run: how it is called, what has appeared when it begins, and how long it is until the end."""

    name: str
    sign: str
    seconds: float


def undisturbed(folder: Path) -> list[Phase]:
    """Of two runs: one is kept, on one worker; the other, on two, is as long as those that are killed."""
    assert aligned(folder, "undisturbed", "--threads", "1").wait() == 0
    begun = [("of the run", ".", time.monotonic())]
    run = aligned(folder, OUT, "--threads", "2")
    for name, sign in (("of writing", STAGING), ("of putting in place", LAST)):
        assert waited_for(run, (folder / sign).exists)
        begun.append((name, sign, time.monotonic()))
    assert run.wait() == 0
    shutil.rmtree(folder / OUT)
    return [Phase(name, sign, time.monotonic() - start) for name, sign, start in begun]


def killed(folder: Path, phases: list[Phase], rng: random.Random) -> str:
    """Run, kill, and say when; empty where the run was quicker."""
    phase, alone = rng.choice(phases), rng.random() < 0.5
    moment = rng.uniform(0.0, phase.seconds)
    run = aligned(folder, OUT, "--resume", "--threads", "2")
    if not waited_for(run, (folder / phase.sign).exists):
        return ""
    try:
        run.wait(moment)
        return ""
    except subprocess.TimeoutExpired:
        (os.kill if alone else os.killpg)(run.pid, signal.SIGKILL)
        run.wait()
    return f"{'alone' if alone else 'with its workers'} after {moment:.3f} s {phase.name}, {left(folder)}"


def left(folder: Path) -> str:
    """What a kill has left."""
    names = {OUT: "results", f"{OUT}/.gonio/journal": "journal", STAGING: "half-written", f".{OUT}.old": "aside"}
    if (folder / OUT).exists() and not (folder / OUT / TABLES[0]).exists():
        del names[OUT]
    return "leaving " + (", ".join(what for name, what in names.items() if (folder / name).exists()) or "nothing")


def killed_and_resumed(folder: Path, phases: list[Phase], rng: random.Random) -> list[str]:
    """Run to the end with up to a few kills; what each was like."""
    kills = []
    for _ in range(rng.randint(1, KILLS_IN_A_ROW)):
        if not (kill := killed(folder, phases, rng)):
            break
        kills.append(kill)
        if (folder / OUT / TABLES[0]).exists():  # there are the results: it was killed as it tidied up
            break
    if not (folder / OUT / TABLES[0]).exists():
        assert aligned(folder, OUT, "--resume").wait() == 0
    return kills


def worker_killed(folder: Path, phases: list[Phase], rng: random.Random) -> list[str]:
    """One of four Dask workers is killed when some particles are done."""
    run = aligned(folder, OUT, "--dask", "local", "--threads", "4")
    checkpoint = folder / OUT / ".gonio" / "journal"
    size = rng.randint(20_000, 100_000)  # bytes: 2 kB for a particle
    assert waited_for(run, lambda: checkpoint.exists() and checkpoint.stat().st_size > size)
    workers = [pid for pid in children(run.pid) for pid in children(pid) or [pid] if "spawn_main" in words_of(pid)]
    chosen = rng.choice(workers)
    os.kill(chosen, signal.SIGKILL)
    assert run.wait() == 0
    return [f"one of {len(workers)} workers, with {size} bytes in the checkpoint"]


def children(pid: int) -> list[int]:
    """Processes that a process has begun."""
    return [
        int(word) for task in Path(f"/proc/{pid}/task").iterdir() for word in (task / "children").read_text().split()
    ]


def words_of(pid: int) -> str:
    """What a process was begun with."""
    return Path(f"/proc/{pid}/cmdline").read_text()


def main() -> int:
    """The number of runs that came out different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dask", action="store_true")
    asked = parser.parse_args()
    rng, end = random.Random(asked.seed), worker_killed if asked.dask else killed_and_resumed
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate = ("simulate", "sim", "--phantom", "sharp", "--count", str(asked.particles), "--snr", "0.5")
        assert gonio(folder, *simulate).wait() == 0
        phases = undisturbed(folder)
        print("undisturbed:", ", ".join(f"{phase.seconds:.3f} s {phase.name}" for phase in phases), flush=True)
        kills, runs, different = 0, 0, 0
        while kills < asked.kills:
            told = end(folder, phases, rng)
            same = all(filecmp.cmp(folder / "undisturbed" / t, folder / OUT / t, shallow=False) for t in TABLES)
            kills, runs, different = kills + len(told), runs + bool(told), different + (not same)
            print(*(f"killed {kill}" for kill in told), "the same" if same else "DIFFERENT", sep="; ", flush=True)
            shutil.rmtree(folder / OUT)
    print(f"{kills} kills in {runs} runs, {different} tables differ")
    return different


if __name__ == "__main__":
    sys.exit(main())
