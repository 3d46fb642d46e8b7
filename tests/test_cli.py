"""Every command on a few tiny particles, and every complaint: one line, status 2, nothing left behind."""

from __future__ import annotations

import json
import mmap
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import gonio
from gonio.alignment import particle_list
from gonio.cli import demo, output
from gonio.cli.app import COMMANDS, _announce_compiling, run
from gonio.cli.help import PANELS
from gonio.jobs.files import json_text
from gonio.jobs.options import KnownReference
from gonio.jobs.pair import _mirrored
from gonio.jobs.running import thread_count
from gonio.run.folder import result_folder
from gonio.simulate import Imaging, Phantom, simulate_subtomogram

BOX, COUNT = 20, 4


@pytest.fixture(autouse=True)
def wide_plain_terminal(monkeypatch):
    """Help texts are read below: neither a terminal's width nor its colours may decide what they say."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory) -> Path:
    """A folder of noise-free particles, made once by the command itself."""
    folder = tmp_path_factory.mktemp("simulated") / "sim"
    words = f"simulate {folder} --phantom sharp --count {COUNT} --box {BOX} --voxel-size 16 --snr inf --seed 3"
    assert run(words.split()) == 0
    return folder


@pytest.fixture
def broken(simulated, tmp_path) -> Path:
    """A list of which the test may spoil what it likes."""
    for path in simulated.rglob("*"):
        if path.is_file():
            target = tmp_path / "broken" / path.relative_to(simulated)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path / "broken"


def align_words(folder: Path, out: Path, *more: str) -> list[str]:
    return ["align", f"{folder}/particles.star", "--reference", f"{folder}/reference.mrc", "-o", str(out), *more]


def complaint(capsys, words: list[str]) -> str:
    """The one line that a failing command writes to standard error."""
    capsys.readouterr()
    assert run(words) == 2
    told = capsys.readouterr()
    lines = [line for line in told.err.splitlines() if line]
    assert told.out == ""
    assert len(lines) == 1
    assert lines[0].startswith("gonio: error: ")
    return lines[0]


def test_simulation_tells_the_truth_in_one_list_only(simulated):
    told, true = (gonio.read_particles(simulated / name) for name in ("particles.star", "truth.star"))
    assert told.names == true.names
    assert len(told) == COUNT
    assert not told.poses.shift_angstrom.any()
    assert np.allclose(told.poses.rotation.magnitude(), 0.0)
    assert (true.poses.rotation.magnitude() > 0).all()
    assert told.load(0).box == BOX
    assert not list(simulated.parent.glob(".*"))


def test_simulation_is_the_same_for_the_same_seed(simulated, tmp_path):
    words = f"simulate {tmp_path}/again --phantom sharp --count {COUNT} --box {BOX} --voxel-size 16 --snr inf --seed 3"
    assert run(words.split()) == 0
    for name in ("truth.star", "particles/1.mrc", "reference.mrc"):
        first, second = ((folder / name).read_bytes() for folder in (simulated, tmp_path / "again"))
        # mrcfile writes the time into the labels of the header.
        assert first[1024:] == second[1024:] if name.endswith("mrc") else first == second


@pytest.mark.parametrize(
    ("words", "ctf"),
    [
        ("", {"amplitude_contrast": 0.07}),
        ("--amplitude-contrast 0", {"amplitude_contrast": 0.0}),
        ("--ctf none", None),
    ],
)
def test_simulation_writes_the_lens_that_it_used(words, ctf, tmp_path):
    assert run(f"simulate {tmp_path}/sim --count 1 --box 12 --voxel-size 25 --tilt-range -30 30 {words}".split()) == 0
    imaging = tomllib.loads((tmp_path / "sim" / "settings.toml").read_text())["settings"]["imaging"]
    assert (imaging.get("ctf") is None) if ctf is None else (imaging["ctf"].items() >= ctf.items())


@pytest.mark.parametrize("words", ["--ctf whole", "--amplitude-contrast 1"])
def test_a_lens_that_is_none_is_refused(words, tmp_path, capsys):
    assert run(f"simulate {tmp_path}/sim --count 1 {words}".split()) == 2
    assert words.split()[0] in capsys.readouterr().err


@pytest.mark.slow
def test_alignment_finds_the_true_poses(simulated, tmp_path, capsys):
    out = tmp_path / "deep" / "aligned"
    words = align_words(simulated, out, "--truth", f"{simulated}/truth.star", "--threads", "2")
    assert run(words) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "markers",
        "particles.cxc",
        "particles.star",
        "report.html",
        "runners_up.star",
        "settings.toml",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["particles"] == COUNT
    # The 60 degree wedge costs noise-free particles a degree; four voxels here are 64 angstrom.
    assert summary["rotation_error_median_deg"] < 3.0
    assert "rotation error, median" in capsys.readouterr().out
    table = gonio.read_particles(out / "particles.star")
    assert {"dissimilarity", "status", "overlap", "iterations"} <= set(table.columns)
    assert table.load(0).box == BOX  # images are found from the new folder
    settings = tomllib.loads((out / "settings.toml").read_text())
    assert settings["run"]["command"].startswith(f"gonio align {simulated}/")
    told = settings["settings"]["alignment"]
    assert (told["search"]["name"], told["inputs"]) == ("coarse_to_fine", "restored")
    assert settings["versions"]["gonio"] == gonio.__version__
    assert f"{simulated}/reference.mrc" in settings["inputs"]
    assert "<h2>Is it good?" in (out / "report.html").read_text()


def test_results_do_not_depend_on_threads(simulated, tmp_path):
    for threads in ("1", "2"):
        assert run(align_words(simulated, tmp_path / threads, "--threads", threads)) == 0
    one, two = ((tmp_path / threads / "particles.star").read_text() for threads in ("1", "2"))
    assert one == two


def test_local_alignment_stays_at_the_truth(simulated, tmp_path):
    true = tmp_path / "truth.star"
    gonio.write_particles(true, gonio.read_particles(simulated / "truth.star"))
    words = ["align", str(true), "--reference", f"{simulated}/reference.mrc", "-o", f"{tmp_path}/out", "--local"]
    assert run([*words, "--prior-deg", "3", "--prior-shift", "10"]) == 0
    table = gonio.read_particles(tmp_path / "out" / "particles.star")
    assert np.median(table.columns["change_of_orientation_deg"]) < 3.0
    # Weights follow the pose found: only plain inputs have a dissimilarity at the listed one to compare with.
    assert "dissimilarity_before" not in table.columns
    assert run([*words, "--inputs", "plain", "--overwrite"]) == 0
    table = gonio.read_particles(tmp_path / "out" / "particles.star")
    assert (table.columns["dissimilarity"] <= table.columns["dissimilarity_before"]).all()


def test_a_cone_finds_the_way_back(simulated, tmp_path):
    """Poses turned by 20 degrees: too far for a refinement, not for a search of 30 degrees around them."""
    true = gonio.read_particles(simulated / "truth.star")
    off = gonio.Pose.from_euler_zyz_deg([20.0, 0.0, 0.0], np.zeros(3)).rotation
    turned = gonio.Pose(off * true.poses.rotation, true.poses.shift_angstrom)
    gonio.write_particles(tmp_path / "turned.star", true.with_poses(turned))
    words = ["align", f"{tmp_path}/turned.star", "--reference", f"{simulated}/reference.mrc", "-o", f"{tmp_path}/out"]
    assert run([*words, "--local", "--cone", "30"]) == 0
    table = gonio.read_particles(tmp_path / "out" / "particles.star")
    assert (table.poses.rotation_distance_deg(true.poses) < 4.0).all()
    told = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())["settings"]["alignment"]
    assert told["search"] == {"name": "local", "max_rotation_deg": 30}


@pytest.fixture(scope="module")
def sure(simulated, tmp_path_factory) -> Path:
    """A list that was aligned by default."""
    out = tmp_path_factory.mktemp("sure") / "out"
    assert run(align_words(simulated, out, "--threads", "1")) == 0
    return out


def test_the_list_says_how_sure_each_pose_is(sure):
    columns = gonio.read_particles(sure / "particles.star").columns
    covariances = np.zeros((COUNT, 6, 6))
    for word, covariance in zip(columns["covariance"], covariances, strict=True):
        covariance[np.triu_indices(6)] = [float(number) for number in word.strip("[]").split(",")]
        covariance += np.triu(covariance, 1).T
    assert (np.linalg.eigvalsh(covariances) > 0).all()
    rotation, shift = (
        np.sqrt(np.trace(c, axis1=1, axis2=2) / 3) for c in (covariances[:, :3, :3], covariances[:, 3:, 3:])
    )
    np.testing.assert_allclose(np.degrees(rotation), columns["rotation_sd_deg"], rtol=1e-5)  # six digits of each
    np.testing.assert_allclose(shift, columns["shift_sd_angstrom"], rtol=1e-5)


def test_words_of_the_list_are_read_by_others(sure):
    """RELION splits rows at white space; starfile makes numbers of what looks like them."""
    import starfile

    particles = starfile.read(sure / "particles.star", always_dict=True)["particles"]
    assert len(particles) == COUNT
    numbers = particles.filter(regex="^gonio.*(Sd|RunnerUp|Runners)")
    assert len(numbers.columns) == 11
    assert np.isfinite(numbers.to_numpy(dtype=float)).all()
    assert all(len(word.split(",")) == 21 and not set(word) & set(" #\"'") for word in particles["gonioCovariance"])


def test_all_runners_up_are_listed(sure):
    from gonio.io.blocks import read_star

    best, others = (read_star(sure / name).find("particles") for name in ("particles.star", "runners_up.star"))
    rows = others.numbers("gonioRow").astype(int) - 1
    counts = best.numbers("gonioRunnersUp")
    assert (np.bincount(rows, minlength=COUNT) == counts).all()
    assert [others.text("rlnTomoParticleName")[i] for i in range(len(rows))] == [
        best.text("rlnTomoParticleName")[row] for row in rows
    ]
    first = others.take(np.flatnonzero(others.numbers("gonioRank") == 1))
    named = best.take(np.flatnonzero(counts > 0))
    labels = ("AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "OriginZAngst")
    pairs = [(f"rln{name}", f"gonioRunnerUp{name}") for name in labels]
    pairs += [(f"gonio{name}", f"gonioRunnerUp{name}") for name in ("Dissimilarity", "Margin")]
    assert len(first) > 0
    for label, own in pairs:
        np.testing.assert_allclose(first.numbers(label), named.numbers(own), rtol=1e-8)


def test_what_is_not_known_is_written_as_a_number(simulated, tmp_path, monkeypatch):
    covariance, finished = np.full((6, 6), np.inf), particle_list.finished

    def unsure(*arguments):
        found = finished(*arguments)
        return [replace(one, covariance=covariance, dissimilarity=np.inf, runners_up=()) for one in found]

    monkeypatch.setattr(particle_list, "finished", unsure)
    assert run(align_words(simulated, tmp_path / "out", "--threads", "1")) == 0
    columns = gonio.read_particles(tmp_path / "out" / "particles.star").columns
    for name in ("rotation_sd_deg", "shift_sd_angstrom", "dissimilarity"):
        assert (columns[name] == 1e30).all()
    assert set(columns["covariance"]) == {"[" + ",".join(["1e+30"] * 21) + "]"}
    assert not any(name.startswith("runner_up_") for name in columns)
    text = (tmp_path / "out" / "particles.star").read_text() + (tmp_path / "out" / "runners_up.star").read_text()
    assert "inf" not in text
    assert "nan" not in text


def test_new_poses_do_not_keep_what_was_known_of_old_ones(simulated, sure, tmp_path):
    words = ["align", f"{sure}/particles.star", "--reference", f"{simulated}/reference.mrc", "--threads", "1"]
    assert run([*words, "-o", f"{tmp_path}/out", "--local"]) == 0
    columns = gonio.read_particles(tmp_path / "out" / "particles.star").columns
    assert not any(name.startswith("runner_up_") for name in columns)
    assert (columns["runners_up"] == 0).all()
    assert "data_particles" in (tmp_path / "out" / "runners_up.star").read_text()


def test_symmetric_poses_are_one(simulated, tmp_path):
    """A truth turned about the axis of symmetry is the same truth."""
    volume = gonio.read_volume(simulated / "reference.mrc")
    # Twice around z about the centre voxel: x and y change their signs.
    turned = np.roll(volume.data[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    gonio.write_volume(tmp_path / "c2.mrc", gonio.Volume(volume.data + turned, volume.voxel_size_angstrom))
    table = gonio.read_particles(simulated / "truth.star")[:1]
    half_turn = gonio.Pose.from_euler_zyz_deg([180.0, 0.0, 0.0], np.zeros(3)).rotation
    same = gonio.Pose(table.poses.rotation * half_turn, table.poses.shift_angstrom)
    gonio.write_particles(tmp_path / "truth.star", table.with_poses(same))
    gonio.write_particles(tmp_path / "one.star", table)
    words = ["align", f"{tmp_path}/one.star", "--reference", f"{tmp_path}/c2.mrc", "--local", "--symmetry", "c2"]
    assert run([*words, "--truth", f"{tmp_path}/truth.star", "-o", f"{tmp_path}/out"]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["rotation_error_median_deg"] < 30.0


@pytest.mark.slow
def test_mask_half_maps_and_learning_are_used(tmp_path):
    # Without its lowest shells, which are so strong that half maps would add nothing to what a particle shows.
    weak = tmp_path / "weak"
    words = f"simulate {weak} --phantom sharp --count {COUNT} --box {BOX} --voxel-size 16 --snr inf --seed 3"
    assert run([*words.split(), "--amplitude-contrast", "0"]) == 0
    reference = gonio.read_volume(weak / "reference.mrc")
    noise = np.random.default_rng(0).normal(size=(2, BOX, BOX, BOX)) * reference.data.std()
    for name, half in zip(("one", "two"), noise, strict=True):
        gonio.write_volume(tmp_path / f"{name}.mrc", gonio.Volume(reference.data + half, 16.0))
    ball = np.linalg.norm(np.indices((BOX,) * 3) - BOX // 2, axis=0) < 7
    gonio.write_volume(tmp_path / "mask.mrc", gonio.Volume(ball.astype(np.float32), 16.0))
    more = {
        "plain": (),
        "mask": ("--mask", f"{tmp_path}/mask.mrc"),
        "halves": ("--half-maps", f"{tmp_path}/one.mrc", f"{tmp_path}/two.mrc"),
        "learn": ("--learn",),
    }
    for name, words in more.items():
        assert run(align_words(weak, tmp_path / name, *words)) == 0
    lists = {name: (tmp_path / name / "particles.star").read_text() for name in more}
    assert len(set(lists.values())) == len(more)
    inputs = tomllib.loads((tmp_path / "halves" / "settings.toml").read_text())["inputs"]
    assert {f"{tmp_path}/one.mrc", f"{tmp_path}/two.mrc"} <= inputs.keys()


def test_a_list_may_be_searched_as_in_2012(simulated, tmp_path):
    words = ("--search", "stochastic", "--seed-interval", "60", "--score", "fcs", "--threads", "1")
    assert run(align_words(simulated, tmp_path / "out", *words)) == 0
    told = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())["settings"]["alignment"]
    assert (told["search"]["name"], told["inputs"], told["score"]) == ("stochastic", "plain", "fcs")
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["margin_median"] > 0


@pytest.mark.slow
def test_a_list_that_was_aligned_before_tells_the_new_alignment_only(simulated, tmp_path):
    refine = ["align", f"{simulated}/truth.star", "--reference", f"{simulated}/reference.mrc", "--local"]
    refine += ["--inputs", "plain"]
    assert run([*refine, "-o", f"{tmp_path}/refined"]) == 0
    assert "dissimilarity_before" in gonio.read_particles(tmp_path / "refined" / "particles.star").columns
    words = ["align", f"{tmp_path}/refined/particles.star", "--reference", f"{simulated}/reference.mrc"]
    assert run([*words, "-o", f"{tmp_path}/again"]) == 0
    assert "Before" not in (tmp_path / "again" / "particles.star").read_text()
    assert not {"before_median", "improved"} & json.loads((tmp_path / "again" / "summary.json").read_text()).keys()
    old, new = (gonio.read_particles(tmp_path / name / "particles.star") for name in ("refined", "again"))
    turned = new.poses.rotation_distance_deg(old.poses)
    # Nine digits of a number in the list, six decimals of its angles.
    np.testing.assert_allclose(new.columns["change_of_orientation_deg"], turned, rtol=1e-8, atol=1e-5)


def test_settings_spell_out_the_defaults_they_stand_for(simulated, tmp_path):
    assert run(align_words(simulated, tmp_path / "out", "--truth", f"{simulated}/truth.star", "--threads", "1")) == 0
    told = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())
    alignment = told["settings"]["alignment"]
    # Four voxels of 16 angstrom; a quarter of a box of 20.
    assert (alignment["resolution_angstrom"], alignment["max_shift_angstrom"]) == (64.0, 80.0)
    assert alignment["inputs"] == "restored"
    assert told["settings"]["threads"] == 1
    assert told["inputs"].keys() == {f"{simulated}/{n}" for n in ("particles.star", "reference.mrc", "truth.star")}
    more = ("--resolution", "64", "--max-shift", "80", "--inputs", "restored", "--search", "coarse_to_fine")
    assert run(align_words(simulated, tmp_path / "same", *more)) == 0
    first, second = ((tmp_path / name / "particles.star").read_text() for name in ("out", "same"))
    assert first == second


def test_settings_of_a_simulation_say_all_of_it(simulated):
    told = tomllib.loads((simulated / "settings.toml").read_text())["settings"]
    assert (told["phantom"], told["count"], told["max_shift_voxels"]) == ("sharp", COUNT, 2.0)
    assert (told["imaging"]["box"], told["imaging"]["snr"]) == (BOX, np.inf)


def test_processors_are_counted_on_every_system(monkeypatch):
    for name in ("process_cpu_count", "sched_getaffinity"):
        monkeypatch.delattr(os, name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert thread_count(None) == 3
    assert thread_count(5) == 5
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert thread_count(None) == 2
    monkeypatch.setattr(os, "process_cpu_count", lambda: 4, raising=False)
    assert thread_count(None) == 4


def test_average_of_true_poses_looks_like_the_reference(simulated, tmp_path, capsys):
    map_path = tmp_path / "maps" / "average.mrc"
    assert run(["average", f"{simulated}/truth.star", "-o", str(map_path)]) == 0
    names = {"average.mrc", "average_half1.mrc", "average_half2.mrc", "average_fsc.csv", "average.settings.toml"}
    names |= {"average_mask.mrc", "average_coverage.mrc", "average.cxc", "average_report.html"}
    names |= {"average_sharpened.mrc", "average_guinier.csv", "average_directional_fsc.csv"}
    assert {path.name for path in map_path.parent.iterdir()} == names
    told = capsys.readouterr().out
    assert "resolution 0.5, no mask" in told
    assert "resolution 0.143, soft mask" in told
    fsc = gonio.fourier_shell_correlation(gonio.read_volume(map_path), gonio.read_volume(simulated / "reference.mrc"))
    assert fsc[1:4].min() > 0.8


@pytest.mark.parametrize(("option", "halves"), [("--no-halves", False), ("--split", True)])
def test_halves_are_made_as_asked(simulated, tmp_path, option, halves):
    assert run(["average", f"{simulated}/truth.star", "-o", f"{tmp_path}/a.mrc", option]) == 0
    assert (tmp_path / "a_half1.mrc").exists() == halves


def test_pair_finds_the_pose_and_the_hand(simulated, tmp_path, capsys):
    words = ["pair", f"{simulated}/particles/1.mrc", f"{simulated}/reference.mrc", "--tilt-range-a", "-60", "60"]
    words += ["--mirror", "--mask-diameter", "300", "-o", f"{tmp_path}/moved.mrc"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    true = gonio.read_particles(simulated / "truth.star").poses[0]
    pose = gonio.Pose.from_euler_zyz_deg(found["euler_zyz_deg"], found["shift_angstrom"])
    assert pose.rotation_distance_deg(true) < 4.0
    assert found["hand"] == "as given"
    assert found["correlation"] - found["mirror"]["correlation"] == pytest.approx(found["margin"])
    moved, target = (gonio.read_volume(p) for p in (tmp_path / "moved.mrc", f"{simulated}/particles/1.mrc"))
    assert np.corrcoef(moved.data.ravel(), target.data.ravel())[0, 1] > 0.7
    assert 2 * 16.0 <= found["fsc_resolution_angstrom"] < BOX * 16.0  # between two voxels and the box
    told = tomllib.loads((tmp_path / "moved.settings.toml").read_text())["settings"]
    assert told["tilt_range_a_deg"] == [-60, 60]
    assert (told["mirror"], told["alignment"]["mask_diameter_angstrom"], told["voxel_size_angstrom"]) == (
        True,
        300.0,
        16.0,
    )
    assert told["alignment"]["max_shift_angstrom"] == 80.0
    assert run([*words, "--overwrite"]) == 0
    told = capsys.readouterr().out
    assert "the hand that fits: reference.mrc as given" in told
    assert "FSC falls to 0.5" in told


def test_pair_tells_a_mirrored_map(simulated, tmp_path, capsys):
    volume = gonio.read_volume(simulated / "reference.mrc")
    flipped = np.roll(volume.data[:, ::-1], 1, axis=1)
    gonio.write_volume(tmp_path / "flipped.mrc", gonio.Volume(flipped, volume.voxel_size_angstrom))
    words = ["pair", f"{simulated}/reference.mrc", f"{tmp_path}/flipped.mrc", "--mirror", "--json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hand"] == "mirrored"
    assert found["mirror"]["correlation"] > 0.95


ASYMMETRIC = gonio.SingleAxisWedge(-65, 40, 25)


@pytest.fixture(scope="module")
def wedged() -> gonio.Subtomogram:
    """A noise-free subtomogram of a tilt series that is neither symmetric nor about y, at the identity."""
    imaging = Imaging(BOX, 16.0, ASYMMETRIC.tilt_min_deg, ASYMMETRIC.tilt_max_deg, axis_deg=ASYMMETRIC.axis_deg)
    phantom = Phantom.named("sharp", box=BOX, voxel_size_angstrom=16.0)
    return simulate_subtomogram(phantom, gonio.Pose.identity(), imaging=imaging, rng=np.random.default_rng(0))


def flipped_x(volume: gonio.Volume) -> gonio.Volume:
    """The mirror image across the plane x = 0, by the positions of voxels."""
    x = np.arange(volume.box) - volume.box // 2
    return gonio.Volume(volume.data[:, :, (-x + volume.box // 2) % volume.box], volume.voxel_size_angstrom)


def test_a_mirrored_wedge_measures_the_mirrored_frequencies(wedged, rng):
    frequency = rng.normal(size=(2000, 3))
    mirrored = _mirrored(wedged.volume, ASYMMETRIC, KnownReference())[0].wedge
    assert np.array_equal(mirrored.weight_at(frequency * [-1, 1, 1]), ASYMMETRIC.weight_at(frequency))
    assert not np.array_equal(mirrored.weight_at(frequency), ASYMMETRIC.weight_at(frequency))


def test_a_mirrored_subtomogram_lies_on_the_true_one_by_its_own_wedge(simulated, wedged):
    """The file holds the mirror image, so its tilts are the mirrored ones; undone, it is the true particle."""
    of_file = gonio.SingleAxisWedge(-40, 65, 155)
    undone, _ = _mirrored(flipped_x(wedged.volume), of_file, KnownReference())
    assert (undone.wedge, np.abs(undone.volume.data - wedged.volume.data).max()) == (ASYMMETRIC, 0.0)
    true = gonio.Subtomogram(gonio.read_volume(simulated / "reference.mrc"))
    at_truth = {
        wedge: gonio.Aligner(gonio.Subtomogram(undone.volume, wedge)).dissimilarity(true, gonio.Pose.identity(1))[0]
        for wedge in (undone.wedge, of_file, gonio.SingleAxisWedge(-40, 65, 25), gonio.SingleAxisWedge(-65, 40, 155))
    }
    best = at_truth.pop(undone.wedge)
    assert best < 0.5 * min(at_truth.values())


def test_pair_lays_a_mirrored_subtomogram_on_the_true_one(simulated, wedged, tmp_path, capsys):
    gonio.write_volume(tmp_path / "flipped.mrc", flipped_x(wedged.volume))
    words = ["pair", f"{simulated}/reference.mrc", f"{tmp_path}/flipped.mrc", "--mirror", "--json"]
    words += ["--tilt-range-b", "-40", "65", "--tilt-axis", "155"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hand"] == "mirrored"
    pose = gonio.Pose.from_euler_zyz_deg(found["mirror"]["euler_zyz_deg"], found["mirror"]["shift_angstrom"])
    # The wedge costs noise-free particles a degree.
    assert pose.rotation_distance_deg(gonio.Pose.identity()) < 3.0


def test_pair_moves_before_it_cuts(simulated, tmp_path, capsys):
    """B stands off the centre of a larger box: cut to A's box first, half of it would be lost."""
    volume = gonio.read_volume(simulated / "reference.mrc")
    padded = np.roll(np.pad(volume.data, 6, mode="edge"), 7, axis=2)
    gonio.write_volume(tmp_path / "off.mrc", gonio.Volume(padded, volume.voxel_size_angstrom))
    words = ["pair", f"{simulated}/reference.mrc", f"{tmp_path}/off.mrc", "--json"]
    assert run([*words, "--max-shift", "140", "-o", f"{tmp_path}/laid.mrc"]) == 0
    assert json.loads(capsys.readouterr().out)["correlation"] > 0.95
    assert gonio.read_volume(tmp_path / "laid.mrc").box == BOX


def test_pair_lays_a_map_on_a_larger_box(simulated, tmp_path, capsys):
    volume = gonio.read_volume(simulated / "reference.mrc")
    gonio.write_volume(tmp_path / "large.mrc", gonio.Volume(np.pad(volume.data, 3), volume.voxel_size_angstrom))
    assert run(["pair", f"{tmp_path}/large.mrc", f"{simulated}/reference.mrc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["correlation"] > 0.95


PDB = "".join(
    f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C\n"
    for i, (x, y, z) in enumerate([(0, 0, 0), (20, 0, 0), (0, 30, 0), (0, 0, 40), (15, 15, 5)], start=1)
)


def test_structure_becomes_a_map_and_particles(tmp_path, capsys):
    (tmp_path / "five.pdb").write_text(PDB)
    words = ["map", f"{tmp_path}/five.pdb", "--voxel-size", "8", "--box", "16", "-o", f"{tmp_path}/five.mrc"]
    assert run(words) == 0
    volume = gonio.read_volume(tmp_path / "five.mrc")
    assert (volume.box, volume.voxel_size_angstrom) == (16, 8.0)
    assert tomllib.loads((tmp_path / "five.settings.toml").read_text())["settings"]["resolution_angstrom"] == 16.0
    words = ["simulate", f"{tmp_path}/sim", "--structure", f"{tmp_path}/five.pdb", "--count", "1", "--box", "16"]
    assert run([*words, "--tilt-range", "-40", "50"]) == 0
    wedge = gonio.read_particles(tmp_path / "sim" / "particles.star").load(0).wedge
    assert wedge == gonio.SingleAxisWedge(-40, 50)


def test_a_particle_larger_than_the_box_is_noted(tmp_path, capsys):
    (tmp_path / "five.pdb").write_text(PDB)
    assert run(["map", f"{tmp_path}/five.pdb", "--voxel-size", "4", "--box", "8", "-o", f"{tmp_path}/five.mrc"]) == 0
    assert "gonio: note: the particle is up to" in capsys.readouterr().err


def test_demo_tells_its_story(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "BOX", 16)
    monkeypatch.setattr(demo, "VOXEL_SIZE_ANGSTROM", 20.0)
    assert run(["demo", f"{tmp_path}/demo", "--particles", "3"]) == 0
    names = {"simulated", "particles.star", "runners_up.star", "average.mrc", "report.html", "settings.toml"}
    assert names <= {path.name for path in (tmp_path / "demo").iterdir()}
    told = capsys.readouterr().out
    assert "3. Average" in told
    assert "rotation error, median" in told
    assert "Fourier shell correlation" in (tmp_path / "demo" / "report.html").read_text()
    assert gonio.read_particles(tmp_path / "demo" / "particles.star").load(2).box == 16


# Complaints


def truncate(folder: Path) -> None:
    path = folder / "particles" / "3.mrc"
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(path: Path, data: np.ndarray) -> None:
    with mrcfile.new(path, overwrite=True) as mrc:
        mrc.set_data(data.astype(np.float32))
        mrc.set_volume()
        mrc.voxel_size = 16.0


def spoil_voxel(folder: Path) -> None:
    data = np.ones((BOX,) * 3)
    data[3, 4, 5] = np.nan
    with mrcfile.new(folder / "particles" / "3.mrc", overwrite=True) as mrc:
        mrc.set_data(np.ones((BOX,) * 3, np.float32))
        mrc.voxel_size = 16.0
        mrc.data[3, 4, 5] = np.nan
        mrc.header.dmin = mrc.header.dmax = mrc.header.dmean = 1.0


def replaced(folder: Path, old: str, new: str) -> None:
    path = folder / "particles.star"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


SPOILERS = {
    "truncated": (truncate, "3.mrc: is truncated"),
    "not a cube": (lambda f: rewrite(f / "particles" / "3.mrc", np.ones((BOX, BOX, BOX - 1))), "must be a cube"),
    "NaN": (spoil_voxel, "NaN"),
    "constant": (lambda f: rewrite(f / "particles" / "3.mrc", np.ones((BOX,) * 3)), "constant"),
    "constant reference": (lambda f: rewrite(f / "reference.mrc", np.ones((BOX,) * 3)), "reference.mrc: is constant"),
    "too small a reference": (
        lambda f: gonio.write_volume(f / "reference.mrc", gonio.Volume(np.eye(BOX)[None] * np.ones((BOX, 1, 1)), 0.5)),
        "give --voxel-size where its header is wrong",
    ),
    "unknown wedge": (lambda f: replaced(f, "gonioTiltMin", "gonioNothing"), "--tilt-range MIN MAX"),
    "missing column": (lambda f: replaced(f, "rlnImageName", "rlnNoName"), "rlnImageName"),
    "missing image": (lambda f: (f / "particles" / "3.mrc").unlink(), "3.mrc"),
    "missing list": (lambda f: (f / "particles.star").unlink(), "no such file"),
    "missing reference": (lambda f: (f / "reference.mrc").unlink(), "no such file"),
}


@pytest.mark.parametrize("how", SPOILERS)
def test_broken_input_is_told_in_one_line(broken, tmp_path, capsys, how):
    spoil, expected = SPOILERS[how]
    spoil(broken)
    before, output = sorted(tmp_path.rglob("*")), tmp_path / "new" / "out"
    assert expected in complaint_after_progress(capsys, align_words(broken, output, "--threads", "1"))
    # Where particles were done before it, they are kept for --resume; no result is written.
    assert not list(output.glob("*.*")) or [path.name for path in output.iterdir()] == [".gonio"]
    shutil.rmtree(output.parent, ignore_errors=True)
    assert sorted(tmp_path.rglob("*")) == before


TILTS = """
data_general
_rlnTomoSubTomosAre2DStacks 1
data_optics
loop_
_rlnOpticsGroup #1
_rlnTomoTiltSeriesPixelSize #2
_rlnImagePixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
_rlnCtfDataAreCtfPremultiplied #7
1 10 10 300 2.7 0.1 0
data_particles
loop_
_rlnTomoName #1
_rlnTomoParticleName #2
_rlnImageName #3
_rlnOpticsGroup #4
T T/1 stack.mrcs 1
"""


@pytest.mark.filterwarnings("ignore:.*not known where particles are")  # nor needed for what is told
def test_wrong_number_of_images_is_told_in_one_line(tmp_path, capsys):
    tilts = "".join(f"[1,0,0,0] [0,1,0,0] [0,0,1,0] [0,0,0,1] {d} {d} 0 1 1\n" for d in (20000, 20100, 20200))
    labels = ["ProjX", "ProjY", "ProjZ", "ProjW"]
    columns = [f"_rlnTomo{label}" for label in labels]
    columns += ["_rlnDefocusU", "_rlnDefocusV", "_rlnDefocusAngle", "_rlnCtfScalefactor", "_rlnMicrographPreExposure"]
    loop = "\n".join(f"{column} #{i}" for i, column in enumerate(columns, start=1))
    (tmp_path / "tomograms.star").write_text(
        "\ndata_global\nloop_\n_rlnTomoName #1\n_rlnTomoHand #2\n_rlnTomoTiltSeriesPixelSize #3\nT 1 10\n"
        f"\ndata_T\nloop_\n{loop}\n{tilts}"
    )
    (tmp_path / "particles.star").write_text(TILTS)
    with mrcfile.new(tmp_path / "stack.mrcs") as mrc:
        mrc.set_data(np.ones((2, 16, 16), np.float32))
        mrc.set_image_stack()
        mrc.voxel_size = 10.0
    line = complaint(capsys, ["average", f"{tmp_path}/particles.star", "-o", f"{tmp_path}/new/a.mrc"])
    assert "holds 2 images; its tomogram has 3 tilts" in line
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (("--resolution", "200"), "Fourier shells"),
        (("--resolution", "10"), "finer than two voxels"),
        (("--resolution", "-1"), "positive number"),
        (("--score", "best"), "--score must be one of rcs, fcs, likelihood"),
        (("--search", "axis"), "--search must be one of coarse_to_fine, stochastic, independent"),
        (("--search", "stochastic", "--seed-interval", "7"), "--seed-interval must divide"),
        (("--seed-interval", "45"), "--seed-interval is for --search stochastic or independent"),
        (("--prior-deg", "3"), "need --local"),
        (("--cone", "20"), "need --local"),
        (("--local", "--cone", "-20"), "--cone must be a positive number"),
        (("--local", "--search", "stochastic"), "--search and --local exclude each other"),
        (("--inputs", "raw"), "--inputs must be one of restored, plain"),
        (("--pool", "best"), "--pool must be one of all, drawn"),
        (("--symmetry", "C0"), "symmetry must be Cn or Dn"),
        (("--search", "independent", "--inputs", "restored"), "--search independent compares plain inputs"),
        (("--search", "stochastic", "--pool", "drawn"), "--pool is for other searches"),
        (("--score", "likelihood", "--inputs", "plain"), "--score likelihood needs restored inputs"),
        (("--score", "likelihood", "--search", "stochastic"), "--score likelihood needs restored inputs"),
        (("--inputs", "plain", "--learn"), "--learn is for restored inputs"),
        (("--inputs", "plain", "--mask", "nothing.mrc"), "--mask and --half-maps are for restored inputs"),
        (("--mask", "nothing.mrc"), "no such file"),
        (("--diameter", "-1"), "--diameter must be a positive number"),
        (("--tilt-range", "60", "-60"), "tilt range"),
        (("--threads", "0"), "--threads"),
        (("--thread", "1"), "--thread"),
        (("--seed", "x"), "--seed"),
        (("--voxel-size", "0"), "'--voxel-size': must be a positive number, got 0"),
        (("--voxel-size", "-3"), "'--voxel-size': must be a positive number, got -3"),
        (("--voxel-size", "nan"), "'--voxel-size': must be a positive number, got nan"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_options_that_do_not_fit_are_told_in_one_line(simulated, tmp_path, capsys, more, expected):
    assert expected in complaint(capsys, align_words(simulated, tmp_path / "out", *more))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["align", "average", "demo", "map", "pair", "simulate"])
def test_an_output_that_cannot_be_is_told_before_the_work(simulated, tmp_path, capsys, command):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "five.pdb").write_text(PDB)
    out = f"{tmp_path}/file/out"
    words = {
        "align": align_words(simulated, Path(out)),
        "average": ["average", f"{simulated}/truth.star", "-o", out],
        "demo": ["demo", out],
        "map": ["map", f"{tmp_path}/five.pdb", "--voxel-size", "8", "--box", "16", "-o", out],
        "pair": ["pair", f"{simulated}/reference.mrc", f"{simulated}/reference.mrc", "-o", out],
        "simulate": ["simulate", out, "--count", "1"],
    }[command]
    assert "is a file, not a folder" in complaint(capsys, words)


def test_results_are_not_overwritten_unasked(simulated, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "map.mrc").write_text("mine too")
    assert "--overwrite" in complaint(capsys, align_words(simulated, tmp_path))
    assert "--overwrite" in complaint(capsys, ["average", f"{simulated}/truth.star", "-o", f"{tmp_path}/map.mrc"])
    assert run(align_words(simulated, tmp_path, "--overwrite")) == 0
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "particles.star").exists()


@pytest.mark.parametrize("command", ["average", "map", "pair"])
def test_no_file_beside_a_map_is_overwritten_unasked(simulated, tmp_path, capsys, command):
    (tmp_path / "five.pdb").write_text(PDB)
    words = {
        "average": ["average", f"{simulated}/truth.star"],
        "map": ["map", f"{tmp_path}/five.pdb", "--voxel-size", "8", "--box", "16"],
        "pair": ["pair", f"{simulated}/reference.mrc", f"{simulated}/reference.mrc"],
    }[command]
    endings = [".settings.toml", *(["_half1.mrc", "_half2.mrc", "_fsc.csv"] if command == "average" else [])]
    for ending in endings:
        mine = tmp_path / f"out{ending}"
        mine.write_text("mine")
        line = complaint(capsys, [*words, "-o", f"{tmp_path}/out.mrc"])
        assert f"out{ending} exists" in line and "--overwrite" in line
        mine.unlink()
    (tmp_path / "empty").mkdir()
    assert "is a folder: give the name of a file" in complaint(capsys, [*words, "-o", f"{tmp_path}/empty"])
    assert "is a folder" in complaint(capsys, [*words, "-o", str(tmp_path), "--overwrite"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "five.pdb"]


def misfit(folder: Path) -> None:
    """A third particle that can be read, of another voxel size."""
    data = gonio.read_volume(folder / "particles" / "3.mrc").data
    gonio.write_volume(folder / "particles" / "3.mrc", gonio.Volume(data, 12.0))
    for name in ("particles.star", "truth.star"):
        path = folder / name
        path.write_text(path.read_text().replace("rlnImagePixelSize", "rlnNoSize"))


@pytest.mark.parametrize("spoil", [truncate, misfit], ids=["unreadable", "misfit"])
@pytest.mark.parametrize("how", ["align", "local", "threads", "average"])
def test_an_error_names_the_particle(broken, tmp_path, capsys, spoil, how):
    spoil(broken)
    out = tmp_path / "new" / "out"
    words = {
        "align": align_words(broken, out, "--threads", "1"),
        "local": align_words(broken, out, "--threads", "1", "--local"),
        "threads": align_words(broken, out, "--threads", "2"),
        "average": ["average", f"{broken}/truth.star", "-o", f"{out}.mrc"],
    }[how]
    line = complaint_after_progress(capsys, words)
    assert "particle 'simulated/3'" in line
    assert spoil is misfit or ("3.mrc: is truncated" in line and str(broken) in line)
    # What was done before it is kept for --resume: no result is written.
    assert [path.name for path in tmp_path.glob("new/out/*")] == ([] if how == "average" else [".gonio"])


@pytest.mark.filterwarnings("default::RuntimeWarning")
def test_files_that_other_programs_accept_are_read_when_asked(broken, tmp_path, capsys):
    for path in (broken / "particles" / "3.mrc", broken / "reference.mrc"):
        path.write_bytes(path.read_bytes() + b"tail")
    maps = ["pair", f"{broken}/reference.mrc", f"{broken}/particles/3.mrc"]
    for words in (
        align_words(broken, tmp_path / "a"),
        ["average", f"{broken}/truth.star", "-o", f"{tmp_path}/m"],
        maps,
    ):
        assert "--permissive" in complaint_after_progress(capsys, words)
        assert run([*words, "--permissive", *(["--overwrite"] if words[0] == "align" else [])]) == 0


def test_json_holds_only_what_every_parser_reads(simulated, tmp_path, monkeypatch):
    values = {"a": float("inf"), "b": [1.5, np.float64("nan")], "c": {"d": -np.inf, "e": "inf"}, "f": 2}
    assert json.loads(json_text(values)) == {"a": None, "b": [1.5, None], "c": {"d": None, "e": "inf"}, "f": 2}
    finished = particle_list.finished

    def lost(*arguments):
        return [replace(one, dissimilarity=float("inf")) for one in finished(*arguments)]

    monkeypatch.setattr(particle_list, "finished", lost)
    assert run(align_words(simulated, tmp_path / "out")) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["dissimilarity_median"] is None


def fill(folder: Path) -> None:
    (folder / "deep").mkdir(parents=True)
    (folder / "both.txt").write_text("old")
    (folder / "deep" / "old.txt").write_text("old")
    (folder / "link").symlink_to("deep")


def write_new(folder: Path) -> None:
    with result_folder(folder, overwrite=True) as staging:
        (staging / "deep").mkdir()
        for name in ("both.txt", "deep/new.txt"):
            (staging / name).write_text("new")


def contents(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "from inside"])
def test_new_results_keep_the_files_of_others(tmp_path, monkeypatch, inside):
    fill(tmp_path / "out")
    if inside:
        monkeypatch.chdir(tmp_path / "out")
    write_new(tmp_path / "out")
    assert contents(tmp_path / "out") == {"both.txt": "new", "deep/new.txt": "new", "deep/old.txt": "old"}
    assert (tmp_path / "out" / "link").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not inside or Path.cwd() == tmp_path / "out"


@pytest.mark.parametrize("there", ["nothing", "empty", "results"])
def test_a_result_folder_appears_in_one_step(tmp_path, monkeypatch, there):
    """No file of the new results is ever seen beside none or an old one of the others."""
    out, seen = tmp_path / "out", []
    if there == "empty":
        out.mkdir()
    elif there == "results":
        fill(out)
    before = contents(out)
    rename = Path.rename

    def watched(self, target):
        seen.append(contents(out))
        result = rename(self, target)
        seen.append(contents(out))
        return result

    monkeypatch.setattr(Path, "rename", watched)
    write_new(out)
    assert all(state in ({}, before, contents(out)) for state in seen)
    assert seen


def test_a_failed_exchange_leaves_the_old_results(tmp_path, monkeypatch):
    fill(tmp_path / "out")
    before, rename = contents(tmp_path / "out"), Path.rename

    def fails(self, target):
        if self.name.endswith(".tmp"):
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="gone"):
        write_new(tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_truth_of_other_particles_is_refused(simulated, broken, tmp_path, capsys):
    replaced(broken, "simulated/2", "other/2")
    words = align_words(broken, tmp_path / "out", "--truth", f"{simulated}/truth.star")
    assert "does not list particle 'other/2'" in complaint_after_progress(capsys, words)


def complaint_after_progress(capsys, words: list[str]) -> str:
    capsys.readouterr()
    assert run(words) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(gonio.FormatError):
        run(["average", f"{tmp_path}/nothing.star", "-o", f"{tmp_path}/a.mrc", "--debug"])


def test_an_interruption_is_one_line_and_leaves_nothing(simulated, tmp_path, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(gonio.ParticleTable, "load", interrupted)
    assert run(align_words(simulated, tmp_path / "out", "--threads", "1")) == 130
    assert capsys.readouterr().err == "gonio: interrupted\n"
    assert not any(tmp_path.iterdir())


def test_a_failure_while_writing_leaves_nothing(tmp_path):
    def fail() -> None:
        with result_folder(tmp_path / "a" / "b", overwrite=False) as folder:
            (folder / "half.txt").write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_help_teaches(capsys, command):
    assert run([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"Example: gonio {command}" in told
    assert "Usage: gonio" in told


@pytest.mark.parametrize("command", [name for name, _, _ in COMMANDS])
def test_every_example_of_a_help_is_a_command_line_that_exists(capsys, command):
    assert run([command, "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    known = set(re.findall(r"(--?[a-z][a-z0-9-]*)", told.partition("╭─")[2]))
    examples = re.findall(rf"Example: gonio {command} (.*?)(?= Example:| ╭)", told)
    assert 2 <= len(examples) <= 3
    for example in examples:
        assert {word for word in example.split() if re.fullmatch(r"--?[a-z][a-z-]*", word)} <= known


def test_options_stand_in_panels_and_switches_have_no_type(capsys):
    assert run(["refine", "--help"]) == 0
    told = capsys.readouterr().out
    order = [told.index(f"─ {panel} ─") for panel in PANELS]
    assert order == sorted(order)
    assert order[0] < told.index(" --output ") < order[1] < told.index("│ --symmetry ") < order[2]
    assert "axis lies along z" in " ".join(told.replace("│", " ").split())
    assert "bool" not in told
    assert run(["simulate", "--help"]) == 0
    told = capsys.readouterr().out
    assert told.index("─ Needed ─") < told.index("─ Options of this command ─") < told.index("─ Search ─")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("simulate sim --box 4", "--box must be at least 8 voxels"),
        ("simulate sim --snr 0", "--snr must be positive"),
        ("simulate sim --phantom round", "--phantom must be one of"),
        ("simulate sim --tilt-range -60 60.5", "--tilt-range must be a whole number of steps"),
    ],
)
def test_errors_name_the_option(words, named, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(words.split()) == 2
    assert named in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_compiling_is_announced_once_whoever_compiles(capfd):
    announced = mmap.mmap(-1, 1)
    for _ in range(2):
        child = os.fork()
        if child == 0:
            _announce_compiling(announced)
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
    _announce_compiling(announced)
    assert capfd.readouterr().err.count("compiling") == 1


def test_quiet_prints_errors_alone(simulated, tmp_path, capsys):
    assert run([*align_words(simulated, tmp_path / "out"), "--quiet"]) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")
    assert (tmp_path / "out" / "particles.star").exists()
    assert run(["--quiet", *align_words(simulated, tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("gonio: error: ")


@pytest.mark.slow
def test_a_summary_fits_a_terminal_and_programs(simulated, tmp_path, capsys):
    truth = ("--truth", f"{simulated}/truth.star")
    assert run(align_words(simulated, tmp_path / "a", *truth)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-2])) <= 80  # the last two hold paths
    assert run(align_words(simulated, tmp_path / "b", *truth, "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "b" / "summary.json").read_text())


def test_help_is_grouped_by_what_people_want(capsys):
    assert run(["--help"]) == 0
    told = capsys.readouterr().out
    order = [told.index(f"─ {group} ─") for group in ("Begin", "Find poses", "Make maps")]
    assert order == sorted(order)
    assert order[0] < told.index("│ demo ") < order[1] < told.index("│ align ") < order[2]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell):
    def told(**asked: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "gonio"], env={**os.environ, **asked}, capture_output=True, text=True, check=False
        )
        return done.stdout

    script = told(_GONIO_COMPLETE=f"source_{shell}")
    assert f"_GONIO_COMPLETE=complete_{shell}" in script  # each shell's own
    assert "align" in told(_GONIO_COMPLETE="complete_bash", COMP_WORDS="gonio al", COMP_CWORD="1").split()


def test_version_and_bare_call(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"gonio {gonio.__version__}\n"
    assert run([]) == 0
    assert "simulate" in capsys.readouterr().out


def test_progress_says_rate_and_time_left(monkeypatch, capsys):
    monkeypatch.setattr(output, "PLAIN_PROGRESS_SECONDS", 0.0)
    clock = iter([0.0, 0.0, 100.0, 101.0, 102.0])
    monkeypatch.setattr(output.time, "monotonic", lambda: next(clock))
    with output.progress("counting", 3) as done:
        done(1)
        done(2)
        done(3)
    # Whatever went before the first, compiling for instance, says nothing of the others.
    assert capsys.readouterr().err.splitlines() == [
        "counting: 1 of 3",
        "counting: 2 of 3, 1.0 per second, 1 s left",
        "counting: 3 of 3, 1.0 per second",
    ]


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with output.progress("counting", 2) as done:
        done(2)
    assert "2/2" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", ["inspect p.star", "average p.star -o out", "align p.star --reference map.mrc -o out", "pair a.mrc b.mrc"]
)
def test_a_tilt_axis_without_tilts_is_refused(capsys, words):
    assert run([*words.split(), "--tilt-axis", "0"]) == 2
    assert "--tilt-axis has no meaning without --tilt-range" in capsys.readouterr().err
