"""Fig. 5 runs with phantoms for complexes, goes on where it was stopped, and judges poses up to symmetry."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))

import gonio
from complexes import COMPLEXES, STAND_INS, STRUCTURES, names_at, pose_errors, pose_of, true_map

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[1] / "experiments" / "fig5" / "run.py"
NAMES = ("sharp", "rings")
COUNT = 4


def run_script(out: Path, *more: str) -> str:
    """What the script prints with phantoms and few particles."""
    options = ["--particles", COUNT, "--complex", *NAMES, "--processes", 1, "--out", out]
    command = [sys.executable, SCRIPT, *options, "--structures", out / "none", *more]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run of few particles."""
    out = tmp_path_factory.mktemp("fig5")
    printed = run_script(out, "--markdown", str(out / "table.md"))
    assert "FSC 0.5 with the truth at 40 angstrom" in printed
    return out


def test_every_way_is_averaged_and_compared_with_the_truth(results: Path) -> None:
    summaries = json.loads((results / "summary.json").read_text())["complexes"]
    assert [summary["complex"] for summary in summaries] == list(NAMES)
    for summary in summaries:
        ways = summary["ways"]
        assert ways["imaged defaults"]["elsewhere"] == 0
        single, truth, found = (np.array(ways[way]["fsc"]) for way in ("single", "truth", "imaged defaults"))
        shells = slice(1, 8)  # those that the defaults compare
        assert (truth[shells] > single[shells]).all(), "four show more than one"
        # Poses that are found let an average show what true ones do, as far as there is signal (FSC above one half).
        assert np.abs(found - truth)[shells][truth[shells] > 0.5].max() < 0.1
    for picture in ("fsc.png", "slices.png"):
        assert (results / picture).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert (results / "table.md").read_text().count("\n| ") == 1 + 8 * len(NAMES)


def test_a_run_that_was_cut_off_goes_on(results: Path) -> None:
    checkpoint, summary = results / "particles.jsonl", (results / "summary.json").read_text()
    whole = checkpoint.read_text()
    checkpoint.write_text(whole[: len(whole) - 1000])  # torn within the last particle's line
    (results / f"rings_{COUNT}.npz").unlink()
    run_script(results)
    assert checkpoint.read_text().splitlines()[:-1] == whole.splitlines()[:-1], "only what was torn is done again"
    assert without_seconds(json.loads((results / "summary.json").read_text())) == without_seconds(json.loads(summary))


def without_seconds(value: object) -> object:
    """What does not depend on the clock."""
    if isinstance(value, dict):
        return {key: without_seconds(one) for key, one in value.items() if key != "seconds"}
    return [without_seconds(one) for one in value] if isinstance(value, list) else value


def test_phantoms_stand_in_where_atoms_are_missing(tmp_path: Path) -> None:
    assert names_at(tmp_path) == STAND_INS and len(STAND_INS) == len(COMPLEXES)
    (tmp_path / "1oel.pdb.gz").touch()
    assert names_at(tmp_path) == STAND_INS, "one of four is not enough"


@pytest.mark.skipif(not STRUCTURES.exists(), reason=f"there are no structures at {STRUCTURES}")
def test_complexes_are_taken_where_they_are() -> None:
    assert names_at(STRUCTURES) == tuple(COMPLEXES)


def test_poses_that_a_symmetry_makes_alike_are_right(tmp_path: Path) -> None:
    truth, rings = pose_of("rings", 0), true_map("rings", tmp_path)
    about = {"a seventh": [0.0, 0.0, 2 * np.pi / 7], "a half about x": [np.pi, 0.0, 0.0], "a tenth": [0, 0, np.pi / 7]}
    found = {
        name: pose_errors(truth @ gonio.Pose(Rotation.from_rotvec(turn), np.zeros(3)), truth, rings)
        for name, turn in about.items()
    }
    for name in ("a seventh", "a half about x"):
        assert found[name]["rotation_error_deg"] > 50 and found[name]["shift_error_voxel"] < 1e-9
        assert found[name]["correlation"] > 0.999  # interpolation is right to 5e-4 (docs/theory.md)
    assert found["a tenth"]["correlation"] < found["a seventh"]["correlation"]
