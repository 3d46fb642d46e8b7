"""Every command on a few tiny particles, and every complaint: one line, status 2, nothing left behind."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path

import mrcfile
import numpy as np
import pytest

import gonio
from gonio.cli import demo, output
from gonio.cli.app import COMMANDS, run

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


def test_alignment_finds_the_true_poses(simulated, tmp_path, capsys):
    out = tmp_path / "deep" / "aligned"
    words = align_words(simulated, out, "--truth", f"{simulated}/truth.star", "--seed-interval", "45", "--threads", "2")
    assert run(words) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "particles.star",
        "report.html",
        "settings.toml",
        "summary.json",
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["particles"] == COUNT
    # The 60 degree wedge costs noise-free particles a degree (DESIGN section 3); four voxels here are 64 angstrom.
    assert summary["rotation_error_median_deg"] < 3.0
    assert "rotation error, median" in capsys.readouterr().out
    table = gonio.read_particles(out / "particles.star")
    assert {"dissimilarity", "status", "overlap", "iterations"} <= set(table.columns)
    assert table.load(0).box == BOX  # images are found from the new folder
    settings = tomllib.loads((out / "settings.toml").read_text())
    assert settings["run"]["command"] == "gonio as tested"
    assert settings["settings"]["alignment"]["seed_interval_deg"] == 45
    assert settings["versions"]["gonio"] == gonio.__version__
    assert f"{simulated}/reference.mrc" in settings["inputs"]
    assert "<h2>Numbers" in (out / "report.html").read_text()


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
    assert "dissimilarity_before" in table.columns


def test_average_of_true_poses_looks_like_the_reference(simulated, tmp_path, capsys):
    map_path = tmp_path / "maps" / "average.mrc"
    assert run(["average", f"{simulated}/truth.star", "-o", str(map_path)]) == 0
    names = {"average.mrc", "average_half1.mrc", "average_half2.mrc", "average_fsc.csv", "average.settings.toml"}
    assert {path.name for path in map_path.parent.iterdir()} == names
    told = capsys.readouterr().out
    assert "FSC 0.5:" in told
    assert "FSC 0.143:" in told
    fsc = gonio.fourier_shell_correlation(gonio.read_volume(map_path), gonio.read_volume(simulated / "reference.mrc"))
    assert fsc[1:4].min() > 0.8


@pytest.mark.parametrize(("option", "halves"), [("--no-halves", False), ("--split", True)])
def test_halves_are_made_as_asked(simulated, tmp_path, option, halves):
    assert run(["average", f"{simulated}/truth.star", "-o", f"{tmp_path}/a.mrc", option]) == 0
    assert (tmp_path / "a_half1.mrc").exists() == halves


def test_pair_finds_the_pose_and_the_hand(simulated, tmp_path, capsys):
    words = ["pair", f"{simulated}/particles/1.mrc", f"{simulated}/reference.mrc", "--tilt-range-a", "-60", "60"]
    words += ["--seed-interval", "45", "--mirror", "--mask-diameter", "300", "-o", f"{tmp_path}/moved.mrc"]
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    true = gonio.read_particles(simulated / "truth.star").poses[0]
    pose = gonio.Pose.from_euler_zyz_deg(found["euler_zyz_deg"], found["shift_angstrom"])
    assert pose.rotation_distance_deg(true) < 4.0
    assert found["hand"] == "as given"
    assert found["correlation"] - found["mirror"]["correlation"] == pytest.approx(found["margin"])
    moved, target = (gonio.read_volume(p) for p in (tmp_path / "moved.mrc", f"{simulated}/particles/1.mrc"))
    assert np.corrcoef(moved.data.ravel(), target.data.ravel())[0, 1] > 0.7
    assert (tmp_path / "moved.settings.toml").exists()
    assert run([*words, "--overwrite"]) == 0
    assert "the hand that fits: reference.mrc as given" in capsys.readouterr().out


def test_pair_tells_a_mirrored_map(simulated, tmp_path, capsys):
    volume = gonio.read_volume(simulated / "reference.mrc")
    flipped = np.roll(volume.data[:, ::-1], 1, axis=1)
    gonio.write_volume(tmp_path / "flipped.mrc", gonio.Volume(flipped, volume.voxel_size_angstrom))
    words = ["pair", f"{simulated}/reference.mrc", f"{tmp_path}/flipped.mrc", "--mirror", "--json"]
    assert run([*words, "--seed-interval", "45"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hand"] == "mirrored"
    assert found["mirror"]["correlation"] > 0.95


def test_pair_lays_a_map_on_a_larger_box(simulated, tmp_path, capsys):
    volume = gonio.read_volume(simulated / "reference.mrc")
    gonio.write_volume(tmp_path / "large.mrc", gonio.Volume(np.pad(volume.data, 3), volume.voxel_size_angstrom))
    assert run(["pair", f"{tmp_path}/large.mrc", f"{simulated}/reference.mrc", "--json", "--seed-interval", "45"]) == 0
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
    assert tomllib.loads((tmp_path / "five.settings.toml").read_text())["settings"]["resolution"] == 16.0
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
    monkeypatch.setattr(demo, "SEED_INTERVAL_DEG", 60.0)
    assert run(["demo", f"{tmp_path}/demo", "--particles", "3"]) == 0
    names = {"simulated", "particles.star", "average.mrc", "report.html", "settings.toml"}
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
    "constant reference": (lambda f: rewrite(f / "reference.mrc", np.ones((BOX,) * 3)), "constant"),
    "voxel sizes differ": (
        lambda f: gonio.write_volume(f / "reference.mrc", gonio.Volume(np.eye(BOX)[None] * np.ones((BOX, 1, 1)), 12.0)),
        "voxel sizes differ",
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
    before = sorted(tmp_path.rglob("*"))
    assert expected in complaint(capsys, align_words(broken, tmp_path / "new" / "out", "--threads", "1"))
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
        (("--score", "best"), "--score must be rcs or fcs"),
        (("--search", "axis"), "--search must be stochastic or independent"),
        (("--seed-interval", "7"), "7"),
        (("--prior-deg", "3"), "need --local"),
        (("--tilt-range", "60", "-60"), "tilt range"),
        (("--threads", "0"), "--threads"),
        (("--thread", "1"), "--thread"),
        (("--seed", "x"), "--seed"),
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
        with output.result_folder(tmp_path / "a" / "b", overwrite=False) as folder:
            (folder / "half.txt").write_text("half")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("command", [name for name, _ in COMMANDS])
def test_help_teaches(capsys, command):
    assert run([command, "--help"]) == 0
    told = capsys.readouterr().out
    assert f"Example: gonio {command}" in told
    assert "Usage: gonio" in told


def test_version_and_bare_call(capsys):
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"gonio {gonio.__version__}\n"
    assert run([]) == 0
    assert "simulate" in capsys.readouterr().out


def test_progress_says_rate_and_time_left(monkeypatch, capsys):
    monkeypatch.setattr(output, "PLAIN_PROGRESS_SECONDS", 0.0)
    with output.progress("counting", 2) as done:
        done(1)
        done(2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("counting: 1 of 2,")
    assert first.endswith("s left")
    assert second.startswith("counting: 2 of 2,")


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with output.progress("counting", 2) as done:
        done(2)
    assert "2/2" in capsys.readouterr().err
