"""Commands take wedges from tilt files, and say what does not fit in one line."""

import sys
import tomllib

import numpy as np
import pytest

from gonio.cli.app import run
from gonio.io import read_particles

COUNT = 3


@pytest.fixture(autouse=True)
def plainly(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gonio", "as", "tested"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("simulated") / "sim"
    words = f"simulate {folder} --phantom sharp --count {COUNT} --box 20 --voxel-size 16 --snr inf --seed 3"
    assert run(words.split()) == 0
    (folder / "tilts.tlt").write_text("\n".join(str(tilt) for tilt in range(-60, 61, 3)))
    lines = [f"17 {tilt} {abs(tilt)} 3 300 2.7 0.07" for tilt in range(-60, 61, 3)]
    labels = ["tomo_num", "tilt_angle", "exposure", "defocus", "voltage", "cs", "amp_contrast"]
    head = ["data_stopgap_wedgelist", "", "loop_", *(f"_{label}" for label in labels)]
    (folder / "wedges.star").write_text("\n".join([*head, *lines]) + "\n")
    return folder


@pytest.mark.parametrize("weights", ["plain", "dose", "ctf"])
def test_particles_are_aligned_with_the_wedge_of_tilt_files(simulated, tmp_path, weights):
    words = ["align", f"{simulated}/particles.star", "--reference", f"{simulated}/reference.mrc", "--threads", "1"]
    words += ["-o", str(tmp_path / "out"), "--tilts", f"{simulated}/wedges.star", "--tilt-weights", weights]
    assert run(words) == 0
    found = read_particles(tmp_path / "out" / "particles.star").poses
    true = read_particles(simulated / "truth.star").poses
    assert np.max(found.rotation_distance_deg(true)) < (1.0 if weights == "plain" else 3.0)
    settings = tomllib.loads((tmp_path / "out" / "settings.toml").read_text())
    assert f"{simulated}/wedges.star" in settings["inputs"]
    assert settings["settings"]["list"]["tilt_weights"] == weights


def test_particles_are_averaged_with_the_wedge_of_tilt_files(simulated, tmp_path):
    words = ["average", f"{simulated}/truth.star", "--no-halves", "--tilts", f"{simulated}/tilts.tlt"]
    assert run([*words, "-o", str(tmp_path / "average.mrc")]) == 0
    assert (tmp_path / "average.mrc").is_file()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tilts", "tilts.tlt", "--tilt-range", "-60", "60"), "exclude each other"),
        (("--tilts", "tilts.tlt", "--tilt-weights", "dose"), "does not state the dose"),
        (("--tilts", "tilts.tlt", "--tilt-weights", "all"), "--tilt-weights must be one of plain, dose, ctf"),
        (("--tilt-weights", "dose"), "--tilt-weights needs --tilts"),
        (("--tilts", "nowhere.tlt"), "nowhere.tlt: no such file"),
        (("--tilts", "reference.mrc"), "reference.mrc"),
    ],
)
def test_what_does_not_fit_is_one_line(simulated, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(simulated)
    start = ["align", "particles.star", "--reference", "reference.mrc", "-o", str(tmp_path / "out")]
    assert run([*start, *words]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(lines) == 1
    assert says in lines[0]
    assert not (tmp_path / "out").exists()
