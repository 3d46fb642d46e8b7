"""``gonio classify``: what it writes, which way it takes, and what it says to what it cannot do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from gonio.cli.app import run
from gonio.io import read_particles, read_volume

pytestmark = pytest.mark.slow

KINDS, EACH = ("sharp", "pseudo_symmetric"), 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mixed.star, four particles of either phantom, and either's map."""
    folder = tmp_path_factory.mktemp("mixed")
    heads, rows = [], []
    for kind in KINDS:
        words = ["--count", EACH, "--box", 16, "--voxel-size", 20, "--snr", 2]
        assert run(["simulate", str(folder / kind), "--phantom", kind, *map(str, words)]) == 0
        lines = (folder / kind / "particles.star").read_text().rstrip().splitlines()
        heads.append([line for line in lines if ".mrc" not in line])
        own = [line.replace("particles/", f"{kind}/particles/") for line in lines if ".mrc" in line]
        rows += [line.replace("simulated/", f"{kind}/") for line in own]
    (folder / "mixed.star").write_text("\n".join([*heads[0], *rows, ""]))
    return folder


def classify(folder: Path, out: str, *words: object) -> int:
    """The exit status."""
    return run(["classify", str(folder / "mixed.star"), "-o", str(folder / out), "--threads", "1", *map(str, words)])


def class_numbers(path: Path) -> list[int]:
    """Column rlnClassNumber."""
    text = path.read_text()
    column = int(re.search(r"_rlnClassNumber #(\d+)", text)[1]) - 1  # type: ignore[index]
    return [int(line.split()[column]) for line in text.splitlines() if ".mrc" in line]


def test_all_pairs_of_a_short_list_tell_its_classes(folder, capsys):
    assert classify(folder, "pairs") == 0
    said = capsys.readouterr().out
    assert "all pairs: 28 pairs of 8 particles are few enough" in said
    assert "2 classes: their silhouette is the best" in said
    out = folder / "pairs"
    numbers = class_numbers(out / "particles.star")
    assert sorted([numbers[:EACH], numbers[EACH:]]) == [[1] * EACH, [2] * EACH]
    for one in (1, 2):
        listed = read_particles(out / f"class_{one}.star")
        assert len(listed) == EACH
        assert [member.load(0).box for member in (listed,)] == [16]
        assert 0.0 < float(np.median(np.asarray(listed.columns["rotation_sd_deg"], dtype=float))) < 60.0
        assert 0.0 < float(np.median(np.asarray(listed.columns["shift_sd_angstrom"], dtype=float))) < 60.0
        assert read_volume(out / f"class_{one}.mrc").box == 16
        assert (out / f"class_{one}_fsc.csv").read_text().startswith("shell,")
    after, before = (np.load(out / f"dissimilarity_{when}.npy") for when in ("after", "before"))
    assert after.shape == before.shape == (2 * EACH, 2 * EACH)
    same = (np.array(numbers)[:, None] == numbers) & ~np.eye(2 * EACH, dtype=bool)
    assert after[same].max() < before[same].min()
    assert (out / "dissimilarity.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["classes"] == [EACH, EACH]
    assert summary["verdict"] == "doubtful"
    assert summary["verdict_why"] == "Doubtful: the smallest class has 4 asymmetric units, too few to rely on."
    assert summary["verdict_why"] in " ".join(said.split())
    assert "data-grade=doubtful" in (out / "report.html").read_text()
    assert "pairs_up_to = 200" in (out / "settings.toml").read_text()
    assert not list(folder.glob(".pairs*"))


def test_workers_change_nothing(folder):
    assert classify(folder, "two", "--threads", 2) == 0
    for name in ("particles.star", "dissimilarity_after.npy", "class_1.mrc", "class_2_half1.mrc"):
        one, two = ((folder / run_of / name).read_bytes() for run_of in ("pairs", "two"))
        if name.endswith(".mrc"):  # their header holds the time
            one, two = one[1024:], two[1024:]
        assert one == two, name


def test_references_spare_the_pairs(folder, capsys):
    references = [word for kind in KINDS for word in ("--reference", folder / kind / "reference.mrc")]
    assert classify(folder, "turns", *references) == 0
    assert "in iterations: 2 references are given" in capsys.readouterr().out
    assert class_numbers(folder / "turns" / "particles.star") == [1] * EACH + [2] * EACH
    assert "gonioClassMargin" in (folder / "turns" / "particles.star").read_text()
    assert not (folder / "turns" / "pairs.star").exists()


def test_a_longer_list_begins_with_pairs_of_some(folder, capsys):
    assert classify(folder, "some", "--pairs-up-to", 5, "--classes", 2) == 0
    assert "pairs of 5 sampled at random, then iterations" in capsys.readouterr().out
    numbers = class_numbers(folder / "some" / "particles.star")
    assert sorted([numbers[:EACH], numbers[EACH:]]) == [[1] * EACH, [2] * EACH]
    assert len(class_numbers(folder / "some" / "pairs.star")) == 5


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--classes", "many"], "--classes must be a number from 1, or auto"),
        (["--classes", "9"], "more than the 8 particles"),
        (["--local"], "state how many, --classes K"),
        (["--pairs-up-to", "1"], "--pairs-up-to must be at least 2"),
        (["--pairs-up-to", "3", "--classes", "4"], "more than the 3 particles that are paired"),
        (["--score", "likelihood", "--inputs", "plain"], "--score likelihood needs restored inputs"),
    ],
)
def test_what_does_not_fit_is_one_sentence(folder, capsys, words, complaint):
    assert classify(folder, "refused", *words) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert error[0].startswith("gonio: error: ")
    assert complaint in error[0]
    assert not (folder / "refused").exists()


def test_as_many_references_as_classes(folder, capsys):
    assert classify(folder, "refused", "--classes", 3, "--reference", folder / "sharp" / "reference.mrc") == 2
    assert "leave out --classes, or give as many" in capsys.readouterr().err
