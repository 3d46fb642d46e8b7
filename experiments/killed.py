"""A run that is killed again and again, and resumed, gives the files of one that was left alone, byte for byte.

    python experiments/killed.py [--kills 20] [--particles 300] [--seed 0]

Simulates particles and aligns them once undisturbed. Then again, with kill -9 of the process and its workers after a
random time between nothing and the length of the undisturbed run, so also while it starts, journals or writes, and
``--resume``, until it ends; every kill is of a run that has not ended. Prints a line for each, and how many of the
resulting tables are the same.
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
from pathlib import Path

TABLES = ("particles.star", "runners_up.star")
# A run is killed at most so often in a row: each time it goes on from where it was.
KILLS_IN_A_ROW = 3


def gonio(folder: Path, *words: str) -> subprocess.Popen:
    """The command line, in a group of its own, so that workers can be killed with it."""
    return subprocess.Popen(
        [sys.executable, "-m", "gonio", *words], cwd=folder, start_new_session=True, stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


def aligned(folder: Path, name: str, *more: str) -> subprocess.Popen:
    """One alignment of the particles there."""
    return gonio(folder, "align", "sim/particles.star", "--reference", "sim/reference.mrc", "-o", name, *more)


def killed_and_resumed(folder: Path, name: str, seconds: float, rng: random.Random) -> list[float]:
    """Run to the end with up to a few kills; when these came."""
    moments = []
    for _ in range(rng.randint(1, KILLS_IN_A_ROW)):
        moment = rng.uniform(0.0, seconds)
        run = aligned(folder, name, "--resume")
        try:
            run.wait(moment)
            break  # it was quicker
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            run.wait()
            moments.append(moment)
    if not (folder / name / "settings.toml").exists() or (folder / name / ".gonio").exists():
        assert aligned(folder, name, "--resume").wait() == 0
    return moments


def main() -> int:
    """The number of runs that came out different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--particles", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        simulate = ("simulate", "sim", "--phantom", "sharp", "--count", str(asked.particles), "--snr", "0.5")
        assert gonio(folder, *simulate).wait() == 0
        start = time.monotonic()
        assert aligned(folder, "undisturbed").wait() == 0
        seconds = time.monotonic() - start
        kills, runs, different = 0, 0, 0
        while kills < asked.kills:
            moments = killed_and_resumed(folder, "killed", seconds, rng)
            same = all(filecmp.cmp(folder / "undisturbed" / t, folder / "killed" / t, shallow=False) for t in TABLES)
            kills, runs, different = kills + len(moments), runs + bool(moments), different + (not same)
            told = ", ".join(f"{moment:.2f}" for moment in moments) or "none"
            print(f"killed after (s): {told}; of {seconds:.2f}; {'the same' if same else 'DIFFERENT'}", flush=True)
            shutil.rmtree(folder / "killed")
    print(f"{kills} kills in {runs} runs, {different} tables differ")
    return different


if __name__ == "__main__":
    sys.exit(main())
