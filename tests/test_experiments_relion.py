"""The experiment beside RELION runs: files in RELION's format, a refinement from them, errors against the truth."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "experiments" / "relion" / "run.py"


def test_a_refinement_of_files_in_relions_format_is_as_right_as_an_alignment_to_the_true_map(tmp_path):
    small = ["--particles", "8", "--box", "20", "--voxel-size", "14", "--start-resolution", "70", "--snr", "1"]
    places = ["--structures", str(tmp_path / "none"), "--out", str(tmp_path), "--skip-relion"]
    done = subprocess.run([sys.executable, str(SCRIPT), *small, *places], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "summary_1.json").read_text())
    aligned, refined = found["gonio align to the true map, 28 A"], found["gonio refine"]
    # Within their frame, poses of noisy maps of four particles are some times as wrong as those of the true map.
    assert refined["rotation_in_frame_deg"] < 5.0 * aligned["rotation_deg"]
    assert refined["shift_in_frame_angstrom"] < 5.0 * aligned["shift_angstrom"]
    assert refined["seconds"] > 0.0
