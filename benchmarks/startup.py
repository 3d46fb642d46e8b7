"""From a fresh process to the first result: the first time, when kernels are compiled, and every time after."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from particles import clean_map, simulated
from plan import Plan
from table import Row, in_turns, rows_of

from gonio.io import write_volume

GONIO = (sys.executable, "-m", "gonio")
FIRST, AGAIN = "gonio pair, nothing compiled", "gonio pair"


def run(plan: Plan) -> list[Row]:
    """Seconds for each start."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_volume(folder / "a.mrc", simulated(1).particles[0].volume)
        write_volume(folder / "b.mrc", clean_map())
        pair = (*GONIO, "pair", str(folder / "a.mrc"), str(folder / "b.mrc"), "--tilt-range-a", "-60", "60")
        ways = {
            FIRST: lambda index: _start(pair, folder / f"{index}"),
            AGAIN: lambda index=0: _start(pair, folder / f"{index}"),
            "gonio --help": partial(_start, (*GONIO, "--help"), folder / "0"),
            "import gonio": partial(_start, (sys.executable, "-c", "import gonio"), folder / "0"),
            "import numpy": partial(_start, (sys.executable, "-c", "import numpy"), folder / "0"),
        }
        seconds = in_turns(ways, plan.rounds, warm=False)
    wall, busy = np.median(seconds[FIRST] - seconds[AGAIN], axis=0)
    compiling = Row("compiling", note=f"{wall:.1f} s, {busy:.1f} s of the processor, once on each machine")
    return [*rows_of(seconds, "start", beside=AGAIN), compiling]


def _start(command: Sequence[str], cache: Path, _: int = 0) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
