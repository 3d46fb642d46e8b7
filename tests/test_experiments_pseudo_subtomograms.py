"""The experiment on pseudo-subtomograms runs."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "experiments" / "pseudo_subtomograms" / "run.py"


def test_it_prints_amplitudes_and_errors_of_both_kinds():
    command = [sys.executable, str(SCRIPT), "--particles", "1", "--tilt-step", "20", "--searches", "local"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    rows = [line.split("|")[1].strip() for line in printed if line.startswith("|")]
    # 384 angstrom to 24 are 16 shells.
    assert len(rows) == 2 + 16 + 2 + 1
    assert rows[2] == "384 A"
    assert rows[-1] == "local"
