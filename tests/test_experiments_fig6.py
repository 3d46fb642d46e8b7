"""Fig. 6 runs with phantoms for complexes, goes on where it was stopped, and counts rows as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SCRIPT = EXPERIMENTS / "fig6" / "run.py"
COUNT = 3
CALL = """
import json, sys
sys.path[:0] = sys.argv[1:3]
import numpy as np
from run import separated
print(json.dumps([separated(np.array(matrix), np.array([0, 0, 1, 1])) for matrix in json.load(sys.stdin)]))
"""


def run_script(out: Path) -> str:
    """What the script prints with phantoms and few particles."""
    options = ["--particles", COUNT, "--methods", "rcs", "--processes", 1, "--out", out, "--structures", out / "none"]
    command = [sys.executable, SCRIPT, *options, "--markdown", out / "table.md"]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run of few particles."""
    out = tmp_path_factory.mktemp("fig6")
    assert "adjusted Rand index 1" in run_script(out)
    return out


def test_few_of_four_phantoms_are_told_apart_after_alignment_alone(results: Path) -> None:
    summary = json.loads((results / "summary.json").read_text())
    (method,) = summary["methods"].values()
    assert (method["after"]["ari"], method["after"]["rows"], method["after"]["classes"]) == (1.0, 1.0, 4)
    assert method["before"]["rows"] < 0.5
    assert method["before"]["ari_of_as_many"] < 0.5
    for name, reached in method["resolution_angstrom"].items():
        assert reached < summary["best_single"][name], "three show more than one"
    for picture in ("matrices.png", "averages.png"):
        assert (results / picture).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "| best single subtomogram |" in (results / "table.md").read_text()


def test_finished_pairs_are_not_aligned_again(results: Path) -> None:
    kept, before = results / f"rcs_{COUNT}.npz", (results / "summary.json").read_text()
    when = kept.stat().st_mtime_ns
    run_script(results)
    assert kept.stat().st_mtime_ns == when
    assert (results / "summary.json").read_text() == before


def test_rows_are_separated_when_their_worst_is_below_the_best_of_others() -> None:
    clear = np.array([[0, 1, 2, 2], [1, 0, 2, 2], [2, 2, 0, 1], [2, 2, 1, 0]], dtype=float)
    one_close = clear.copy()
    one_close[0, 2] = one_close[2, 0] = 0.5
    words = [sys.executable, "-c", CALL, str(SCRIPT.parent), str(EXPERIMENTS)]
    matrices = json.dumps([clear.tolist(), one_close.tolist()])
    done = subprocess.run(words, input=matrices, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [1.0, 0.5]
