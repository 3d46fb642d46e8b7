"""What commands print fits a terminal, and as JSON is JSON alone."""

from __future__ import annotations

import json

import pytest

from gonio.cli.app import run

pytestmark = pytest.mark.slow

WIDTH = 80


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("summaries") / "sim"
    assert run(["simulate", str(folder), "--count", "8", "--snr", "0.5", "--box", "24"]) == 0
    return folder


def lines(simulated, out) -> dict[str, list[str]]:
    listed, reference = f"{simulated}/particles.star", f"{simulated}/reference.mrc"
    return {
        "align": ["align", listed, "--reference", reference, "-o", f"{out}/aligned"],
        "average": ["average", f"{simulated}/truth.star", "--split", "-o", f"{out}/average.mrc"],
        "refine": ["refine", listed, "--reference", reference, "--iterations", "1", "-o", f"{out}/refined"],
        "classify": ["classify", listed, "--classes", "2", "-o", f"{out}/classes"],
    }


@pytest.mark.parametrize("command", ["align", "average", "refine", "classify"])
def test_it_fits_80_columns(simulated, tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert run(lines(simulated, ".")[command]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said and not [line for line in said if len(line) > WIDTH]


@pytest.mark.parametrize("command", ["align", "average", "refine", "classify"])
def test_json_is_all_there_is_on_standard_output(simulated, tmp_path, capsys, command):
    assert run([*lines(simulated, tmp_path)[command], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["particles"] == 8
