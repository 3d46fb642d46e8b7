"""What goes wrong around a run ends it with one line, or not at all; what is done stays done."""

from __future__ import annotations

import csv
import fcntl
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import listed
from gonio.cli.app import run
from gonio.io import read_particles, read_volume, write_particles
from gonio.io.errors import remove_leftovers, replacing
from gonio.io.mrc import write_mrc
from gonio.jobs.extract import Extraction
from gonio.preparation.extent import sphere_mask
from gonio.report.chimerax import particle_scene
from gonio.run.checkpoint import Checkpoint, stamp_of

COUNT = 4
NAMES = ("=1+1", "+x", "-y", "@SUM(A1)", "'=quoted", "''@twice", "-5", "'plain", "tab\t=1", "\t=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return listed.simulated(tmp_path_factory.mktemp("faults") / "sim", COUNT)


def align_words(folder, out, *more):
    files = [f"{folder}/particles.star", "--reference", f"{folder}/reference.mrc"]
    return ["align", *files, "-o", str(out), "--threads", "1", *more]


def test_a_run_that_is_done_and_resumed_says_so_and_leaves_nothing(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(align_words(folder, out, "--resume")) == 0
    before = {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    # What a run leaves that is killed between putting its results in place and tidying up.
    for left in (out / ".gonio", tmp_path / ".out.old" / ".gonio", tmp_path / ".out.tmp" / ".gonio"):
        left.mkdir(parents=True)
    (tmp_path / ".out.old" / "particles.star").write_text("the old ones")
    capsys.readouterr()
    assert run(align_words(folder, out, "--resume")) == 0
    assert capsys.readouterr().err == f"gonio: {out} is finished: nothing is left to do\n"
    assert {path.name: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (out / ".gonio").exists()


@pytest.mark.parametrize("more", [["--score", "fcs"], ["--seed", "7"]])
def test_results_of_another_run_are_not_taken_for_those_of_this(folder, tmp_path, capsys, more):
    assert run(align_words(folder, tmp_path / "out")) == 0
    assert run(align_words(folder, tmp_path / "out", "--resume", *more)) == 2
    assert "holds the results of another run: choose another folder, or pass --overwrite" in capsys.readouterr().err


BROKEN = """
import os, sys
from gonio.cli.app import main
how, sys.argv = sys.argv[1], ["gonio", *sys.argv[2:]]
if how == "closed":
    os.close(2)
    sys.stderr = None
elif how == "no reader":
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 2)
elif how == "full":
    os.dup2(os.open("/dev/full", os.O_WRONLY), 2)
main()
"""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("how", ["closed", "no reader", "full"])
def test_a_run_goes_on_without_anybody_to_tell(folder, tmp_path, how):
    script = tmp_path / "script.py"
    script.write_text(BROKEN)
    words = ["convert", f"{folder}/truth.star", f"{tmp_path}/list.csv"]
    for status, expected in ((0, True), (2, True)):  # the second is refused, as the file is there
        done = subprocess.run([sys.executable, str(script), how, *words], stdout=subprocess.PIPE, check=False)
        assert done.returncode == status
        assert (tmp_path / "list.csv").exists() == expected
    assert b"gonio" not in done.stdout  # not taken for results
    table = (tmp_path / "list.csv").read_text()
    assert "error" not in table and "warning" not in table


def test_progress_and_warnings_go_on_without_a_terminal(folder, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(BROKEN)
    words = [sys.executable, str(script), "no reader", *align_words(folder, tmp_path / "out")]
    assert subprocess.run(words, stdout=subprocess.DEVNULL, check=False).returncode == 0
    assert (tmp_path / "out" / "particles.star").exists()


def test_what_a_killed_process_has_left_beside_a_file_is_removed_by_the_next(tmp_path):
    path = tmp_path / "map.mrc"
    left, foreign = tmp_path / ".map.mrc.4711-0123abcd.tmp", tmp_path / ".map.mrc.mine.tmp"
    held = tmp_path / ".map.mrc.4712-0123abcd.tmp"
    for one in (left, foreign, held):
        one.write_text("half")
    with held.open("rb") as stream:
        fcntl.flock(stream.fileno(), fcntl.LOCK_EX)
        remove_leftovers(path)
        assert sorted(tmp_path.iterdir()) == [held, foreign]
    with replacing(path) as temporary:
        remove_leftovers(path)
        assert temporary.exists() and not held.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    assert sorted(tmp_path.iterdir()) == [foreign, path]


def test_a_file_of_any_time_is_known_again(tmp_path):
    (tmp_path / "a").write_text("content")
    for moment in (0, -(10**18), 2**62):  # clocks that were set wrong, and set right later
        os.utime(tmp_path / "a", ns=(moment, moment))
        assert stamp_of(tmp_path / "a") == stamp_of(tmp_path / "a")
        assert stamp_of(tmp_path / "a").time == (tmp_path / "a").stat().st_mtime_ns


def test_every_file_of_a_particle_is_watched(tmp_path, folder, capsys):
    """The image of a particle and its weights, by their content: size and time are as they were."""
    for part in ("reference.mrc", "particles"):
        (shutil.copytree if (folder / part).is_dir() else shutil.copy)(folder / part, tmp_path / part)
    lines = (folder / "particles.star").read_text().splitlines()
    last = max(at for at, line in enumerate(lines) if line.startswith("_rln") and "#" in line)
    lines.insert(last + 1, f"_rlnCtfImage #{int(lines[last].split('#')[1]) + 1}")
    lines = [f"{line}\tweights_{line.split('particles/')[1][0]}.mrc" if ".mrc" in line else line for line in lines]
    (tmp_path / "particles.star").write_text("\n".join([*lines, ""]))
    for number in range(1, COUNT + 1):
        write_mrc(tmp_path / f"weights_{number}.mrc", np.ones((20, 20, 20), np.float32), 16.0)
    assert [path.name for path in read_particles(tmp_path / "particles.star").files_of(0)] == ["1.mrc", "weights_1.mrc"]
    (tmp_path / "particles" / f"{COUNT}.mrc").rename(tmp_path / "kept.mrc")
    words = align_words(tmp_path, tmp_path / "out")
    assert run(words) == 2  # the last is missing, the others are done
    assert "what was done is kept" in capsys.readouterr().err
    (tmp_path / "kept.mrc").rename(tmp_path / "particles" / f"{COUNT}.mrc")
    for watched in ("weights_2.mrc", "particles/3.mrc"):
        path = tmp_path / watched
        content, status = path.read_bytes(), path.stat()
        path.write_bytes(content[:-4] + b"\0\0\0\1")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert run([*words, "--resume"]) == 2
        assert f"{watched} has changed since it was read" in capsys.readouterr().err
        path.write_bytes(content)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert run([*words, "--resume"]) == 0


def test_masks_half_maps_and_tilt_files_are_watched(folder, tmp_path, capsys):
    """By all of their content, with the list and the reference."""
    for name in ("half1", "half2"):
        shutil.copy(folder / "reference.mrc", tmp_path / f"{name}.mrc")
    write_mrc(tmp_path / "mask.mrc", sphere_mask(read_volume(folder / "reference.mrc")).data, 16.0)
    (tmp_path / "simulated.tlt").write_text("".join(f"{angle}\n" for angle in range(-60, 61, 3)))
    more = ["--mask", f"{tmp_path}/mask.mrc", "--half-maps", f"{tmp_path}/half1.mrc", f"{tmp_path}/half2.mrc"]
    more += ["--tilts", f"{tmp_path}/simulated.tlt"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoint, "sync", interrupted)
        patch.setattr("gonio.run.checkpoint.SYNC_SECONDS", -1.0)
        assert run(align_words(folder, tmp_path / "out", *more)) == 130
    for name in ("mask.mrc", "half1.mrc", "half2.mrc", "simulated.tlt"):
        content, status = (tmp_path / name).read_bytes(), (tmp_path / name).stat()
        changed = content.replace(b"-60\n", b"-61\n") if name.endswith("tlt") else content[:-4] + b"\0\0\0\1"
        (tmp_path / name).write_bytes(changed)
        os.utime(tmp_path / name, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert run(align_words(folder, tmp_path / "out", *more, "--resume")) == 2
        assert f"not the run that was cut off: inputs.{tmp_path}/{name} was" in capsys.readouterr().err
        (tmp_path / name).write_bytes(content)


def interrupted(checkpoint):
    """In place of a sync after the first result."""
    if len(checkpoint):
        raise KeyboardInterrupt


def named(folder, names, tomograms=None):
    table = read_particles(folder / "truth.star")[np.arange(len(names)) % COUNT]
    return replace(table, names=tuple(names), tomograms=tuple(tomograms or table.tomograms), source=None, extras={})


def test_a_table_that_a_spreadsheet_opens_holds_no_formula(folder, tmp_path):
    table = named(folder, NAMES)
    write_particles(tmp_path / "list.csv", table)
    with (tmp_path / "list.csv").open(newline="") as stream:
        cells = [cell for words in csv.reader(stream) for cell in words]
    assert {"'=1+1", "'+x", "'-y", "'@SUM(A1)", "''=quoted", "'''@twice", "-5", "'plain"} <= set(cells)
    for cell in cells:
        assert not cell.startswith(("=", "+", "@", "\t")) and (not cell.startswith("-") or float(cell) < 0)
    assert read_particles(tmp_path / "list.csv", tilt_range_deg=(-60, 60)).names == table.names


LONG = ["n" * 300, "ü" * 300, "n" * 299 + "/", "..", "../../../../etc/passwd", "/", "", "con\x1b[2J", "\u202etxt"]


def test_markers_have_short_names_of_their_own(folder, tmp_path):
    scene = particle_scene(
        replace(named(folder, [str(i) for i in range(len(LONG))], LONG), coordinates_angstrom=np.zeros((len(LONG), 3))),
        box_angstrom=100.0,
    )
    files = [name for name in scene if name != "particles.cxc"]
    assert len(files) == len(LONG)
    for name in files:
        path = tmp_path / name
        assert path.resolve().parent == tmp_path / "markers"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:  # its name is longer still
            temporary.write_text(scene[name])
    assert len(list((tmp_path / "markers").iterdir())) == len(LONG)


@pytest.mark.parametrize("name", LONG)
def test_subtomograms_have_short_names_in_their_folder(folder, tmp_path, name):
    cut = Extraction(named(folder, ["1"], [name]), {}, None, None, "imod", float16=False)
    path = tmp_path / cut.image(0)
    assert path.resolve().parent.parent == tmp_path / "subtomograms"
    path.parent.mkdir(parents=True)


def test_names_do_not_reach_the_terminal_as_they_are(folder, tmp_path, capsys):
    text = (folder / "particles.star").read_text().replace("simulated\t", "simu\x1b]0;owned\x07lated\t")
    assert "\x1b" in text
    for name in ("reference.mrc", "particles"):
        (tmp_path / name).symlink_to(folder / name)
    (tmp_path / "list\x1b[2J.star").write_text(text)
    assert run(["inspect", f"{tmp_path}/list\x1b[2J.star"]) == 0
    assert run(["inspect", f"{tmp_path}/none\x1b[2J\u202e.star"]) == 2
    said = capsys.readouterr()
    assert r"simu\x1b]0;owned\x07lated" in said.out
    assert r"list\x1b[2J.star" in said.out
    assert r"none\x1b[2J\u202e.star" in said.err
    assert all(sign.isprintable() or sign == "\n" for sign in said.out + said.err)
