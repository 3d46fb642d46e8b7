"""The experiments on false picks and on the scan over all orientations run and say what they found."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def table(name: str, *words: str) -> list[list[str]]:
    """The rows of the table that an experiment prints, without its headings."""
    command = [sys.executable, str(EXPERIMENTS / name / "run.py"), "--processes", "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_false_picks_are_scored_against_as_many_decoys_as_asked(tmp_path):
    words = ("--particles", "5", "--false", "0.8", "--seeds", "1", "--decoys", "1", "--snr", "0.05")
    rows = table("false_picks", *words, "--out", str(tmp_path))
    assert [row[0] for row in rows] == ["1, 1"]
    records = [json.loads(line) for line in (tmp_path / "decoys_1.jsonl").read_text().splitlines()]
    assert [record["kind"] for record in records] == ["real", "noise", "other", "offset", "membrane"]
    scores = [record["scores"] for record in records]
    # At six times the SNR of the study what is real is far ahead; nothing else is.
    assert scores[0][0] > 2 * max(max(others) for others in scores[1:])
    assert scores[0][0] > scores[0][1]


def test_the_scan_finds_the_pose_as_near_as_its_grid(tmp_path):
    words = ("--pairs", "1", "--interval", "20", "--phantom", "sharp", "--snr", "inf")
    few = table("scan", *words, "--out", str(tmp_path))
    every = table("scan", *words, "--all", "--out", str(tmp_path))
    assert [row[:3] for row in few] == [["sharp", "±60", "∞"]]
    assert few[0][3] == every[0][3]  # what the passes leave out is not the best
    rotation, nearest = (float(few[0][column].split()[0]) for column in (3, 6))
    # Half of a step of 20 degrees along each of three angles is the most that the nearest can be off.
    assert nearest <= rotation < 2 * nearest
    assert nearest < 3**0.5 * 10
