"""``gonio refine`` as typed: its files, its half sets, its complaints; whole folders or none."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

import gonio
from gonio.cli.app import run
from gonio.io import read_volume
from gonio.jobs.splitting import with_half_sets

pytestmark = pytest.mark.slow

BOX, COUNT = 16, 12
FILES = {"half1.mrc", "half2.mrc", "map.mrc", "fsc.csv", "particles.star"}
MORE = {
    "mask.mrc",
    "sharpened.mrc",
    "guinier.csv",
    "directional_fsc.csv",
    "maps.cxc",
    "particles.cxc",
    "markers",
    "runners_up.star",
    "iterations.csv",
    "duplicates.csv",
    "report.html",
    "summary.json",
    "settings.toml",
    ".gonio",  # it ended for the number of iterations, and may go on
}


@pytest.fixture(autouse=True)
def as_typed(monkeypatch):
    """What settings.toml tells of the command line must not depend on how tests are run."""
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """Particles of little noise, made once."""
    folder = tmp_path_factory.mktemp("refine") / "sim"
    words = f"simulate {folder} --phantom sharp --count {COUNT} --box {BOX} --voxel-size 20 --snr 2 --seed 3"
    assert run(words.split()) == 0
    return folder


def words(folder: Path, out: Path, *more: str) -> list[str]:
    """A short refinement."""
    start = ["--reference", f"{folder}/reference.mrc", "--start-resolution", "80"]
    start = [] if {"--denovo", "--local"} & set(more) else start
    shared = ["-o", str(out), "--resolution", "50", "--iterations", "2", "--threads", "1"]
    return ["refine", f"{folder}/particles.star", *start, *shared, *more]


def complaint(capsys, line: list[str]) -> str:
    """What a failing command says at last."""
    capsys.readouterr()
    assert run(line) == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture(scope="module")
def refined(simulated) -> Path:
    """What it makes."""
    out = simulated.parent / "refined"
    assert run(words(simulated, out)) == 0
    return out


def test_every_iteration_and_the_result_have_their_files(refined):
    assert {path.name for path in refined.iterdir()} == {*FILES, *MORE, "iteration_001", "iteration_002"}
    for folder in (refined / "iteration_001", refined / "iteration_002"):
        assert {path.name for path in folder.iterdir()} == FILES
    assert not list(refined.parent.glob(".*"))
    summary = json.loads((refined / "summary.json").read_text())
    assert summary["half_sets"] == [COUNT // 2, COUNT // 2]
    assert len((refined / "iterations.csv").read_text().splitlines()) == 1 + summary["iterations"] == 3


def test_lists_lead_to_their_particles_from_wherever_they_lie(refined, simulated):
    truth = gonio.read_particles(simulated / "truth.star").poses
    for path in (refined, refined / "iteration_001", refined / "iteration_002"):
        table = gonio.read_particles(path / "particles.star")
        assert table.load(COUNT - 1).box == BOX
        assert {"dissimilarity", "rotation_sd_deg", "status"} <= set(table.columns)
        assert np.median(table.poses.rotation_distance_deg(truth)) < 10.0
        assert sorted(np.asarray(table.half_sets).tolist()) == [1] * 6 + [2] * 6
    last = read_volume(refined / "iteration_002" / "map.mrc")
    assert np.array_equal(read_volume(refined / "map.mrc").data, last.data)


def test_two_workers_write_the_same(refined, simulated, tmp_path):
    assert run([*words(simulated, tmp_path / "again")[:-1], "2"]) == 0
    same_refinement(tmp_path / "again", refined)


def test_it_starts_from_the_particles_alone(simulated, tmp_path):
    assert run(words(simulated, tmp_path / "out", "--denovo", "--subset", "6", "--start-resolution", "100")) == 0
    assert {path.name for path in (tmp_path / "out" / "initial_model").iterdir()} == {
        "half1.mrc",
        "half2.mrc",
        "particles_half1.star",
        "particles_half2.star",
    }
    table = gonio.read_particles(tmp_path / "out" / "initial_model" / "particles_half1.star")
    assert len(table) == 6
    assert set(np.asarray(table.half_sets).tolist()) == {1}


def test_it_starts_from_listed_poses(refined, tmp_path):
    assert run(words(refined, tmp_path / "out", "--local")) == 0
    before, after = (gonio.read_particles(folder / "particles.star") for folder in (refined, tmp_path / "out"))
    assert np.max(after.poses.rotation_distance_deg(before.poses)) < 15.0
    rows = (tmp_path / "out" / "iterations.csv").read_text().splitlines()[1:]
    assert all(row.split(",")[1] == "local" for row in rows)


def test_an_option_is_read_by_its_old_name_with_a_warning(simulated, tmp_path, capsys):
    assert run(words(simulated, tmp_path / "out", "--split", "--siblings=-3")) == 2
    said = capsys.readouterr().err
    assert "warning: --siblings is now --overlap" in said
    assert "'--overlap': must be a positive number" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--denovo"], "--reference and --denovo exclude each other"),
        (["--subset", "10"], "--subset"),
        (["--cone", "5"], "need --local"),
        (["--resolution", "10"], "finer than two voxels"),
        (["--start-resolution", "1000"], "--start-resolution is too coarse: a box of 16"),
        (["--split", "--overlap", "-3"], "positive"),
        (["--assignment", "best"], "--assignment must be one of hard, soft, auto"),
        (["--assignment", "soft", "--refine-tilts"], "--assignment soft and --refine-tilts exclude each other"),
    ],
)
def test_options_that_do_not_fit_are_refused(simulated, tmp_path, capsys, change, said):
    line = ["refine", f"{simulated}/particles.star", "--reference", f"{simulated}/reference.mrc"]
    assert said in complaint(capsys, [*line, "-o", str(tmp_path / "out"), *change])
    assert not (tmp_path / "out").exists()


def test_without_a_start_it_says_which_there_are(simulated, tmp_path, capsys):
    said = complaint(capsys, ["refine", f"{simulated}/particles.star", "-o", str(tmp_path / "out")])
    assert all(option in said for option in ("--reference", "--denovo", "--local", "--continue-from"))


def test_a_particle_that_cannot_be_read_is_named(simulated, tmp_path, capsys):
    text = (simulated / "particles.star").read_text()
    lost = next(word for word in text.split() if word.endswith("/03.mrc"))
    moved = text.replace("particles/", f"{simulated}/particles/").replace(f"{simulated}/{lost}", "gone.mrc")
    (tmp_path / "list.star").write_text(moved)
    line = words(simulated, tmp_path / "out")
    said = complaint(capsys, ["refine", str(tmp_path / "list.star"), *line[2:]])
    assert "gone.mrc" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_told_at_once(simulated, tmp_path, capsys):
    (tmp_path / "closed").mkdir(mode=0o500)
    assert "cannot write" in complaint(capsys, words(simulated, tmp_path / "closed" / "out"))


def same_refinement(one: Path, other: Path) -> None:
    """Assert that two runs have found the same, to the bit."""
    for name in ("fsc.csv", "iterations.csv", "duplicates.csv", "summary.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for name in ("map.mrc", "half1.mrc", "half2.mrc"):  # whose headers hold the time
        assert np.array_equal(read_volume(one / name).data, read_volume(other / name).data)
    first, second = (gonio.read_particles(folder / "particles.star") for folder in (one, other))
    assert np.array_equal(first.poses.matrix, second.poses.matrix)


def test_more_iterations_of_a_finished_run_come_to_what_a_longer_run_does(refined, simulated, tmp_path, capsys):
    out = tmp_path / "out"
    assert run([*words(simulated, out), "--iterations", "1"]) == 0
    assert (out / ".gonio" / "finished").is_file()
    capsys.readouterr()
    assert run([*words(simulated, out), "--resume"]) == 0
    said = capsys.readouterr().err
    assert "iteration 1, half 1" not in said  # kept
    assert "iteration 2, check of half 1, other map" in said  # of its own last maps
    same_refinement(out, refined)
    assert (out / "iteration_002").is_dir()
    capsys.readouterr()
    assert run([*words(simulated, out), "--resume"]) == 0
    assert "is finished: nothing is left to do" in capsys.readouterr().err
    said = complaint(capsys, [*words(simulated, out), "--resume", "--iterations", "1"])
    assert "longer than this run would be (2, not 1)" in said


def test_a_refinement_goes_on_from_another(refined, tmp_path):
    start = ["refine", f"{refined}/particles.star", "--continue-from", str(refined)]
    assert run([*start, "-o", str(tmp_path / "out"), "--iterations", "2", "--threads", "1"]) == 0
    rows = [row.split(",") for row in (tmp_path / "out" / "iterations.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in rows] == ["local"] * len(rows)
    reached = json.loads((refined / "summary.json").read_text())["resolution_angstrom"]
    assert float(rows[0][2]) == pytest.approx(max(reached, BOX * 20.0 / 7), abs=0.01)  # or the last whole shell
    before, after = (gonio.read_particles(folder / "particles.star") for folder in (refined, tmp_path / "out"))
    assert np.array_equal(np.asarray(before.half_sets), np.asarray(after.half_sets))
    assert np.median(after.poses.rotation_distance_deg(before.poses)) < 3.0
    assert str(refined) in (tmp_path / "out" / "settings.toml").read_text()


@pytest.mark.parametrize("more", [["--denovo"], ["--local"], ["--split"], ["--start-resolution", "80"]])
def test_a_refinement_that_goes_on_has_one_start(refined, tmp_path, capsys, more):
    line = ["refine", f"{refined}/particles.star", "--continue-from", str(refined), "-o", str(tmp_path / "out"), *more]
    said = complaint(capsys, line)
    assert "--continue-from" in said or more[0] == "--start-resolution"
    assert more[0] in said


def positioned(simulated: Path, places: np.ndarray, sets: list[int]) -> gonio.ParticleTable:
    """The simulated list, at places in its tomogram."""
    from dataclasses import replace

    table = gonio.read_particles(simulated / "particles.star")
    return replace(table, coordinates_angstrom=places, half_sets=np.array(sets, dtype=np.int8))


def test_half_sets_of_a_list_are_kept_and_mixed_overlapping_told(simulated):
    places = 1000.0 * np.arange(COUNT)[:, None] * np.ones(3)
    places[1] = places[0] + 10.0
    sets = [1, 2] * (COUNT // 2)
    with pytest.warns(UserWarning, match="simulated/1, simulated/2"):
        kept = with_half_sets(positioned(simulated, places, sets), split=False, overlap_distance_angstrom=None, seed=0)
    assert np.asarray(kept.half_sets).tolist() == sets
    made = with_half_sets(positioned(simulated, places, sets), split=True, overlap_distance_angstrom=None, seed=0)
    halves = np.asarray(made.half_sets)
    assert halves[0] == halves[1]
    assert sorted(np.bincount(halves)[1:].tolist()) == [COUNT // 2] * 2


def test_a_list_that_is_one_family_cannot_be_split(simulated):
    places = 10.0 * np.arange(COUNT)[:, None] * np.ones(3)
    table = positioned(simulated, places, [0] * COUNT)
    with pytest.raises(ValueError, match="overlap_distance_angstrom"):
        with_half_sets(table, split=False, overlap_distance_angstrom=None, seed=0)
    assert (
        len(set(np.asarray(with_half_sets(table, split=False, overlap_distance_angstrom=5.0, seed=0).half_sets))) == 2
    )


def test_the_mask_is_a_sphere_about_the_particle(refined):
    mask = read_volume(refined / "mask.mrc")
    assert mask.data.max() == 1.0
    assert mask.data[0, 0, 0] == 0.0
