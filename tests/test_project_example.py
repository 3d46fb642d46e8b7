"""The worked project of docs/project.md, as a few particles of two phantoms."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from gonio.cli.app import run

EXAMPLE = Path(__file__).parents[1] / "examples" / "project"

pytestmark = pytest.mark.slow


@pytest.fixture
def script(monkeypatch):
    """Loads a script of the example, under a name that no other has."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"project_{name}", EXAMPLE / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # which dataclasses look for
        spec.loader.exec_module(module)
        return module

    return load


def test_names_of_folders_stay_as_they_are(tmp_path, script):
    given: list[str] = []
    folders = tmp_path / "MY_WORK" / "DATA", tmp_path / "WORK"
    project = script("run").Project(*folders, gonio=lambda words: given.extend(words) or 0)
    project.run("convert DATA/WORK.star WORK/DATA.star --to relion5")
    assert given == ["convert", f"{folders[0]}/WORK.star", f"{folders[1]}/DATA.star", "--to", "relion5"]


def test_picks_become_a_map_and_a_list_that_is_what_it_was(tmp_path, script):
    make_data, project = script("make_data"), script("run")
    make_data.make(tmp_path / "data", make_data.SIZES["smoke"], None, None)
    facts = project.whole(project.Project(tmp_path / "data", tmp_path / "work", project.COURSES["smoke"], gonio=run))
    assert facts["picks"] == 38
    assert facts["told_apart"] >= 0.9
    assert facts["rotation_error_deg"] < 6.0
    assert facts["place_error_angstrom"] < 5.0
    assert facts["there_and_back_deg"] < 1e-4
    assert facts["there_and_back_angstrom"] < 1e-4
    assert (tmp_path / "work" / "post" / "sharpened.mrc").is_file()
    assert len(facts["seconds"]) == 15
