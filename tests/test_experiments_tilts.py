"""The experiment on what single tilts have measured runs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "experiments" / "tilts" / "run.py"


def test_it_prints_a_table():
    command = [sys.executable, str(SCRIPT), "--particles", "1"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split("|")[1].strip() for line in printed] == [
        "reading",
        "---",
        "all between",
        "slabs of 1 samples",
        "slabs of 0.5 samples",
        "slabs of 0.25 samples",
    ]
