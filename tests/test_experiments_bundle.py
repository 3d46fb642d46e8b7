"""The experiment on refined tilts runs, on a set small enough for a test."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "experiments" / "bundle" / "run.py"


def test_it_measures_errors_bounds_and_time(tmp_path):
    command = [sys.executable, str(SCRIPT), "--cases", "main", "noise", "time", "--structures", "none", "--seed", "1"]
    small = [
        "--particles",
        "10",
        "--tomograms",
        "1",
        "--box",
        "32",
        "--voxel-size",
        "8",
        "--tilt-step",
        "12",
        "--snr",
        "0.3",
        "--iterations",
        "1",
    ]
    subprocess.run([*command, *small, "--out", str(tmp_path)], capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "summary.json").read_text())
    assert found["main"]["errors"]["shift"]["error_over_bound"] > 0
    assert found["noise"]["own averages"]["largest_of_prior_sd"] < 3.0
    assert found["time"]["nanoseconds_per_column"] > 0
