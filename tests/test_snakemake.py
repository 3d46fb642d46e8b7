"""The example for Snakemake makes a map: by Snakemake where it is installed, else by its rules in their order."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from listed import simulated

EXAMPLE = Path(__file__).parents[1] / "examples" / "snakemake"
MADE = ("aligned/kept.star", "refined/report.html", "postprocess/sharpened.mrc")

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path) -> Path:
    """A folder with the workflow, and a few particles that it begins with."""
    simulated(tmp_path / "sim", 12).rename(tmp_path / "my sim")  # names of files have spaces
    text = (EXAMPLE / "config.yaml").read_text()
    for name, value in {
        "particles": "my sim/particles.star",
        "reference": "my sim/reference.mrc",
        "resolution": "60",
        "start_resolution": "80",
        "iterations": "2",
    }.items():
        text, count = re.subn(rf"(?m)^{name}: \S+", f"{name}: {value}", text)
        assert count == 1
    (tmp_path / "config.yaml").write_text(text)
    shutil.copy(EXAMPLE / "Snakefile", tmp_path)
    return tmp_path


def valued(text: str, config: dict[str, str]) -> object:
    """A part of a rule: arguments by name, or one value."""
    by_name = re.match(r"\s*\w+=", text) is not None
    return eval(f"dict({text})" if by_name else f"({text.strip()})", {"config": config})


def rules(text: str, config: dict[str, str]) -> dict[str, dict[str, object]]:
    """The rules of a Snakefile whose parts are arguments of Python, as ours are."""
    found = {}
    for name, body in re.findall(r"(?ms)^rule (\w+):\n(.*?)(?=^rule |\Z)", text):
        parts = re.findall(r"(?ms)^    (\w+):(.*?)(?=^    \w|\Z)", body)
        found[name] = {part: valued(value, config) for part, value in parts}
    return found


class Quotable(str):
    """A text of Snakemake's, which the format ``q`` quotes for a shell."""

    def __format__(self, how: str) -> str:
        return shlex.quote(self) if how == "q" else str(self)


def do(name: str, rule: dict[str, dict[str, str]]) -> None:
    """Run a rule as Snakemake does: its results are gone when it begins."""
    for path in rule["input"].values():
        assert Path(path).is_file(), f"{name} needs {path}"
    for path in rule["output"].values():
        Path(path).unlink(missing_ok=True)
    parts = ("input", "output", "params")
    named = {part: SimpleNamespace(**{k: Quotable(v) for k, v in rule.get(part, {}).items()}) for part in parts}
    line = rule["shell"].format(**named, threads=1)
    gonio = f'gonio() {{ {shlex.quote(sys.executable)} -m gonio --quiet "$@"; }}'
    subprocess.run(["bash", "-euo", "pipefail", "-c", f"{gonio}; {line}"], check=True)
    for path in rule["output"].values():
        assert Path(path).is_file(), f"{name} has not made {path}"


def test_its_rules_make_a_map_and_make_it_again(project, monkeypatch):
    monkeypatch.chdir(project)
    config = dict(re.findall(r"(?m)^(\w+): ([^#\n]*[^#\n ])", (project / "config.yaml").read_text()))
    made = rules((project / "Snakefile").read_text(), config)
    assert list(made) == ["all", "align", "refine", "postprocess"]
    for name in ("align", "refine", "postprocess"):
        do(name, made[name])
    assert all(Path(path).is_file() for path in (*MADE, *made["all"]["input"].values()))
    do("align", made["align"])
    made["refine"]["params"]["iterations"] = "1"
    do("refine", made["refine"])
    assert not Path("refined/iteration_002").exists()


@pytest.mark.skipif(shutil.which("snakemake") is None, reason="Snakemake is not installed")
def test_snakemake_makes_a_map(project):
    subprocess.run(["snakemake", "--cores", "2"], cwd=project, check=True, timeout=600)
    assert all((project / path).is_file() for path in MADE)
