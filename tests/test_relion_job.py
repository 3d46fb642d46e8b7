"""External jobs of RELION: what they list, how they end, and that they go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

import gonio.cli.relion_job as relion_job_module
from gonio.cli.app import run
from gonio.jobs.relion_job import RelionJob
from listed import simulated

COUNT = 6
ENDS = {"RELION_JOB_EXIT_SUCCESS", "RELION_JOB_EXIT_FAILURE", "RELION_JOB_EXIT_ABORTED"}


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project's folder with particles."""
    path = tmp_path_factory.mktemp("project")
    simulated(path / "Extract", COUNT)
    return path


@pytest.fixture(autouse=True)
def inside(project, monkeypatch):
    """RELION starts jobs in the project's folder."""
    monkeypatch.chdir(project)


def words(job: str, *more: str) -> list[str]:
    """As RELION writes them: input, parameters, threads."""
    given = ["--o", f"External/{job}/", "--in_parts", "Extract/particles.star", "--in_3dref", "Extract/reference.mrc"]
    return ["relion-job", "align", *given, *more, "--j", "1"]


def ends(job: str) -> set[str]:
    return ENDS & {path.name for path in Path("External", job).iterdir()}


def test_a_job_lists_its_results_from_the_project_and_succeeds():
    assert run(words("job001", "--resolution", "60", "--quiet", "")) == 0
    assert ends("job001") == {"RELION_JOB_EXIT_SUCCESS"}
    text = Path("External/job001/RELION_OUTPUT_NODES.star").read_text()
    assert "\ndata_output_nodes\n" in text
    rows = dict(line.split() for line in text.splitlines() if line.startswith("External"))
    assert rows == {"External/job001/gonio/particles.star": "ParticleGroupMetadata.star.relion"}
    assert all(Path(path).is_file() for path in rows)


def test_a_switch_of_the_form_has_an_empty_value():
    assert run(words("job002", "--local", "", "--resolution", "60")) in (0, 2)
    assert "local" in Path("External/job002/gonio/settings.toml").read_text()


def test_a_job_that_cannot_be_done_has_failed(capsys):
    assert run(words("job003", "--symmetry", "none")) == 2
    assert ends("job003") == {"RELION_JOB_EXIT_FAILURE"}
    assert "symmetry" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["convert", "--o", "External/job006/", "--in_parts", "x.star"], "COMMAND must be one of align, classify, ref"),
        (["align", "--o=External/job006/"], "--in_parts"),
        (["align", "--o", "External/job006/", "--in_parts", "x.star", "--j", "many"], "--j"),
        ([*words("job006")[1:], "--o"], "--o"),
    ],
)
def test_a_job_whose_words_cannot_be_read_has_failed(capsys, given, said):
    assert run(["relion-job", *given]) == 2
    assert ends("job006") == {"RELION_JOB_EXIT_FAILURE"}
    assert said in capsys.readouterr().err


def test_a_job_whose_results_cannot_be_listed_has_failed(monkeypatch):
    def full(path, text):
        raise OSError("no more of the disk")

    monkeypatch.setattr("gonio.jobs.relion_job.write_text", full)
    assert run(words("job007", "--resolution", "60")) == 2
    assert ends("job007") == {"RELION_JOB_EXIT_FAILURE"}


def test_the_nodes_are_the_files_of_the_run_by_their_kinds(tmp_path):
    job = RelionJob(tmp_path)
    job.results.mkdir()
    expected = {
        "particles.star": "ParticleGroupMetadata.star.relion",
        "class_1.mrc": "DensityMap.mrc",
        "class_12.mrc": "DensityMap.mrc",
        "class_1_half1.mrc": "DensityMap.mrc.halfmap",
        "class_1_half2.mrc": "DensityMap.mrc.halfmap",
        "class_1_mask.mrc": "Mask3D.mrc",
        "class_1_local_resolution.mrc": "Image3D.mrc.localresmap",
    }
    made = [*expected, "class_1_coverage.mrc", "class_1_locally_filtered.mrc", "settings.toml", "iteration_001/map.mrc"]
    for name in (*made, "kept.star", "class_5.mrc"):  # the last two are of no run
        (job.results / name).parent.mkdir(exist_ok=True)
        (job.results / name).touch()
    (job.results / "settings.toml").write_text(f"[run]\nfiles = {[*made, 'half1.mrc']!r}\n")
    assert {path.name: kind for path, kind in job.nodes()} == expected


def test_an_interruption_that_is_lost_is_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr(relion_job_module, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(relion_job_module, "PATIENCE_SECONDS", 0.02)
    job = RelionJob(tmp_path)
    (tmp_path / "RELION_JOB_ABORT_NOW").touch()

    def deaf(words):
        for _ in range(2):
            with suppress(KeyboardInterrupt):
                time.sleep(5.0)
        return 0

    begun = time.monotonic()
    assert relion_job_module._run(deaf, job, []) == 0
    assert time.monotonic() - begun < 4.0


# An interruption may come between a file's opening and the code that closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_job_that_is_aborted_goes_on_where_it_was(monkeypatch, capsys):
    monkeypatch.setattr(relion_job_module, "POLL_SECONDS", 0.01)
    begun = property(lambda job: (job.results / ".gonio" / "journal").exists())
    with monkeypatch.context() as asked:
        asked.setattr(RelionJob, "is_to_end", begun)
        assert run(words("job004")) == 1
    assert ends("job004") == {"RELION_JOB_EXIT_ABORTED"}
    assert not Path("External/job004/gonio/particles.star").exists()
    assert run(words("job004")) == 0
    assert ends("job004") == {"RELION_JOB_EXIT_SUCCESS"}
    assert run(words("job004")) == 0  # nothing is left to do
    assert ends("job004") == {"RELION_JOB_EXIT_SUCCESS"}


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="RELION knows no Windows")
def test_a_job_in_the_background_hears_relion(project):
    command = [sys.executable, "-m", "gonio", *words("job005", "--decoys", "200")]
    ignored = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as shells do for what runs in the background
    try:
        job = subprocess.Popen(command, env=os.environ.copy(), stderr=subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, ignored)
    with job:
        while not Path("External/job005/gonio/.gonio/journal").exists():
            assert job.poll() is None
            time.sleep(0.05)
        Path("External/job005/RELION_JOB_ABORT_NOW").touch()
        assert job.wait(timeout=60) == 1
    assert ends("job005") == {"RELION_JOB_EXIT_ABORTED"}
    assert not Path("External/job005/RELION_JOB_ABORT_NOW").exists()
