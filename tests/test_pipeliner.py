"""Jobs of the CCP-EM Pipeliner, where it is installed: the commands that they run, and what they list."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import gonio

ROOT = Path(__file__).parents[1]


def test_entry_points_name_what_is_there():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["ccpem_pipeliner.jobs"]
    text = (ROOT / "src" / "gonio" / "cli" / "pipeliner_jobs.py").read_text()
    for name, point in points.items():
        assert point.startswith("gonio.cli.pipeliner_jobs:")
        assert f"class {point.partition(':')[2]}(" in text
        assert f'"{name}"' in text


@pytest.fixture
def jobs(tmp_path, monkeypatch):
    pytest.importorskip("pipeliner")
    monkeypatch.chdir(tmp_path)
    return import_module("gonio.cli.pipeliner_jobs")


def words(job) -> list[str]:
    job.output_dir = "Gonio/job001/"
    return [str(word) for word in job.get_commands()[0].cmd]


def test_commands_are_those_of_the_form(jobs):
    job = jobs.GonioRefine()
    job.joboptions["in_parts"].value = "Extract/job001/particles.star"
    line = ["gonio", "refine", "Extract/job001/particles.star", "--iterations", "12", "--denovo", "--symmetry", "C1"]
    assert words(job)[: len(line)] == line
    assert words(job)[-3:] == ["--resume", "-o", "Gonio/job001/gonio"]
    job.joboptions["local"].value = True
    assert "--local" in words(job)
    job.joboptions["in_3dref"].value, job.joboptions["other_args"].value = "map.mrc", "--duplicates 100"
    assert words(job)[-2:] == ["--duplicates", "100"]
    assert words(job)[words(job).index("--reference") + 1] == "map.mrc"
    job.joboptions["other_args"].value = "--duplicates 100 --overwrite"
    assert "--resume" not in words(job)


def test_a_refinement_that_goes_on_from_another_has_no_other_start(jobs):
    job = jobs.GonioRefine()
    job.joboptions["in_parts"].value = "bin2/particles.star"
    for given in (["--continue-from", "refined_bin4"], ["--continue-from=refined_bin4"]):
        job.joboptions["other_args"].value = " ".join(given)
        assert not {"--denovo", "--reference", "--local"} & set(words(job))
        assert words(job)[-len(given) :] == given


def test_commands_of_an_alignment_are_those_of_its_form(jobs):
    job = jobs.GonioAlign()
    job.joboptions["in_parts"].value, job.joboptions["in_3dref"].value = "particles.star", "map.mrc"
    assert words(job)[3:5] == ["--reference", "map.mrc"]


def test_results_are_nodes_of_the_pipeline(jobs):
    job = jobs.GonioRefine()
    job.output_dir = "Gonio/job001/"
    results = Path("Gonio/job001/gonio")
    results.mkdir(parents=True)
    for name in ("particles.star", "other.txt"):
        (results / name).touch()
    for name in ("map.mrc", "half1.mrc"):  # it looks whether maps are maps
        gonio.write_volume(results / name, gonio.Volume(np.ones((8, 8, 8)), 4.0))
    (results / "settings.toml").write_text('[run]\nfiles = ["half1.mrc", "map.mrc", "other.txt", "particles.star"]\n')
    job.create_post_run_output_nodes()
    assert {node.name: node.type for node in job.output_nodes} == {
        "Gonio/job001/gonio/particles.star": "ParticleGroupMetadata.star.relion.gonio",
        "Gonio/job001/gonio/map.mrc": "DensityMap.mrc.gonio",
        "Gonio/job001/gonio/half1.mrc": "DensityMap.mrc.halfmap.gonio",
    }
