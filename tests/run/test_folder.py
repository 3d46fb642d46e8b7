"""Folders appear whole, belong to one run at a time, and remember a run that was cut off."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from gonio.run import folder as folders
from gonio.run.folder import Finished, RunFolder, locked, result_folder
from gonio.run.manifest import files_of_run
from gonio.run.provenance import settings_toml

FACTS = {"seed": 1}


def begin(path, facts=FACTS, *, resume=False, overwrite=False):
    return RunFolder.opened(path, facts, command="gonio align", resume=resume, overwrite=overwrite)


def write(run, **texts):
    """Results of a run, by name."""
    with run.results() as folder:
        for name, text in texts.items():
            (folder / name).write_text(text)


def cut_off(path):
    """Leave a run of which one item was done."""
    with pytest.raises(KeyboardInterrupt), begin(path) as run:
        run.checkpoint.add("align", 0, "value", str)
        raise KeyboardInterrupt


def names(path):
    return sorted(file.name for file in path.rglob("*"))


def test_results_appear_together_and_nothing_else_stays(tmp_path):
    with begin(tmp_path / "a" / "out") as run:
        run.checkpoint.add("align", 0, "value", str)
        with run.results() as folder:
            for name in ("settings.toml", "particles.star"):
                (folder / name).write_text(name)
            assert names(tmp_path / "a" / "out") == [".gonio", "journal", "lock"]
    assert names(tmp_path) == ["a", "out", "particles.star", "settings.toml"]


def test_a_run_that_did_nothing_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), begin(tmp_path / "a" / "out"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    cut_off(tmp_path / "out")
    with begin(tmp_path / "out", resume=True) as run:
        assert run.checkpoint.value("align", 0, str) == "value"
        with run.results() as folder:
            (folder / "particles.star").write_text("done")
    assert names(tmp_path) == ["out", "particles.star"]


def test_a_run_that_was_cut_off_is_not_begun_again_by_itself(tmp_path):
    cut_off(tmp_path / "out")
    told = r"cut off \(gonio align\): pass --resume to go on with it, or --overwrite"
    with pytest.raises(ValueError, match=told), begin(tmp_path / "out"):
        pass
    with begin(tmp_path / "out", overwrite=True) as run:
        assert not len(run.checkpoint)


def test_what_has_changed_is_told_and_the_run_stays(tmp_path):
    cut_off(tmp_path / "out")
    with pytest.raises(ValueError, match="seed was 1, is 2"), begin(tmp_path / "out", {"seed": 2}, resume=True):
        pass
    with begin(tmp_path / "out", resume=True) as run:
        assert len(run.checkpoint) == 1


def test_resume_begins_where_there_is_nothing_to_go_on_with(tmp_path):
    with begin(tmp_path / "out", resume=True) as run, run.results() as folder:
        (folder / "x").write_text("x")
    with pytest.raises(ValueError, match="is not empty"), begin(tmp_path / "out", resume=True):
        pass


def recorded(path, *names, parts=(), **options):
    """A finished run of these files, and parts of one file each, with the record of them."""
    with begin(path, **options) as run:
        for part in parts:
            with run.part(part) as folder:
                (folder / "map.mrc").write_text(part)
        with run.results() as folder:
            for name in names:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_text(name)
            (folder / "settings.toml").write_text(settings_toml([], {}, run=run.record(folder)))


@pytest.mark.parametrize("inside", [False, True])
def test_a_run_that_replaces_another_removes_its_files_and_no_others(tmp_path, monkeypatch, inside):
    out = tmp_path / "out"
    recorded(out, "particles.star", "tomograms/TS_1.star", parts=["iteration_001", "iteration_002"])
    assert files_of_run(out) == {
        *("particles.star", "tomograms/TS_1.star", "settings.toml"),
        *("iteration_001/map.mrc", "iteration_002/map.mrc"),
    }
    for name in ("mine.txt", "iteration_002/mine.txt"):
        (out / name).write_text("mine")
    if inside:  # where the folder is not exchanged
        monkeypatch.chdir(out)
    recorded(out, "particles.csv", parts=["iteration_001"], overwrite=True)
    assert {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()} == {
        *("particles.csv", "settings.toml", "iteration_001/map.mrc"),
        *("mine.txt", "iteration_002/mine.txt"),
    }
    assert not (out / "tomograms").exists()


@pytest.mark.parametrize("inside", [False, True])
def test_names_of_files_that_lead_elsewhere_are_not_followed(tmp_path, monkeypatch, inside):
    out, other = tmp_path / "out", tmp_path / "other"
    for folder in (out, other):
        folder.mkdir()
    (other / "mine").write_text("mine")
    (out / "linked").symlink_to(other)
    listed = ["../other/mine", str(other / "mine"), "linked/mine", 1]
    (out / "settings.toml").write_text(f"[run]\nfiles = {listed!r}\n")
    if inside:
        monkeypatch.chdir(out)
    recorded(out, "new", overwrite=True)
    assert (other / "mine").read_text() == "mine"


def test_a_finished_run_whose_files_are_gone_makes_them_again(tmp_path):
    out = tmp_path / "out"
    recorded(out, "map.mrc", "half1.mrc")
    with pytest.raises(Finished):
        recorded(out, "map.mrc", "half1.mrc", resume=True)
    (out / "half1.mrc").unlink()
    (out / "mine").write_text("mine")
    with pytest.warns(UserWarning, match=r"out is finished but for half1.mrc, which are gone: its results are made ag"):
        recorded(out, "map.mrc", "half1.mrc", resume=True)
    assert names(out) == ["half1.mrc", "map.mrc", "mine", "settings.toml"]


def finish(path, *, length, may_go_on, item=0, **options):
    """Do one item, and end with results."""
    with RunFolder.opened(path, FACTS, length=length, **{"resume": False, "overwrite": False, **options}) as run:
        known = len(run.checkpoint)
        run.checkpoint.add("align", item, "value", str)
        with run.results(may_go_on=may_go_on) as folder:
            text = f'[run]\nfacts = "{run.facts}"\nlength = {length}\n'
            (folder / "settings.toml").write_text(text)
        return known


def test_a_longer_run_goes_on_with_what_a_finished_one_has_kept(tmp_path):
    out = tmp_path / "out"
    finish(out, length=1, may_go_on=True)
    assert names(out) == [".gonio", "finished", "settings.toml"]
    assert finish(out, length=2, may_go_on=False, item=1, resume=True) == 1
    assert names(out) == ["settings.toml"]
    with pytest.raises(Finished):
        finish(out, length=3, may_go_on=False, resume=True)


def test_a_kept_run_whose_files_are_gone_makes_them_again_from_its_checkpoint(tmp_path):
    out = tmp_path / "out"
    finish(out, length=1, may_go_on=True)
    text = (out / "settings.toml").read_text()
    (out / "settings.toml").write_text(f'{text}files = ["map.mrc"]\n')
    with pytest.warns(UserWarning, match="made again"):
        assert finish(out, length=1, may_go_on=False, item=1, resume=True) == 1


def test_a_run_that_ended_early_is_as_long_as_it_became(tmp_path):
    out = tmp_path / "out"
    with RunFolder.opened(out, FACTS, length=12, resume=False, overwrite=False) as run, run.results() as folder:
        (folder / "settings.toml").write_text(settings_toml([], {}, run=run.record(folder, length=5)))
    for length in (5, 8, 12, 20):
        with pytest.raises(Finished), RunFolder.opened(out, FACTS, length=length, resume=True, overwrite=False):
            pass
    with (
        pytest.raises(ValueError, match=r"longer than this run would be \(5, not 4\)"),
        RunFolder.opened(out, FACTS, length=4, resume=True, overwrite=False),
    ):
        pass


def test_a_longer_run_that_is_cut_off_goes_on_too(tmp_path):
    out = tmp_path / "out"
    finish(out, length=1, may_go_on=True)
    with pytest.raises(KeyboardInterrupt), RunFolder.opened(out, FACTS, length=2, resume=True, overwrite=False):
        raise KeyboardInterrupt
    assert finish(out, length=2, may_go_on=True, item=1, resume=True) == 1
    assert names(out) == [".gonio", "finished", "settings.toml"]


def test_a_shorter_run_is_refused_and_the_kept_checkpoint_stays(tmp_path):
    out = tmp_path / "out"
    finish(out, length=2, may_go_on=True)
    with pytest.raises(ValueError, match=r"longer than this run would be \(2, not 1\)"):
        finish(out, length=1, may_go_on=True, resume=True)
    with pytest.raises(ValueError, match="is not empty"):
        finish(out, length=3, may_go_on=True)
    assert names(out) == [".gonio", "finished", "settings.toml"]
    assert finish(out, length=1, may_go_on=False, overwrite=True) == 0
    assert names(out) == ["settings.toml"]


def test_an_error_while_results_are_written_leaves_the_old_ones(tmp_path):
    with begin(tmp_path / "out") as run, run.results() as folder:
        (folder / "particles.star").write_text("old")
    with pytest.raises(OSError, match="full"), begin(tmp_path / "out", overwrite=True) as run:
        run.checkpoint.add("align", 0, "value", str)
        with run.results() as folder:
            (folder / "particles.star").write_text("new")
            raise OSError("the disk is full")
    assert (tmp_path / "out" / "particles.star").read_text() == "old"
    assert names(tmp_path) == [".gonio", "journal", "out", "particles.star"]


def test_a_run_killed_while_folders_are_exchanged_is_not_lost(tmp_path):
    cut_off(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / ".out.old")
    with begin(tmp_path / "out", resume=True) as run:
        assert run.checkpoint.value("align", 0, str) == "value"


def test_a_run_killed_before_it_began_is_no_obstacle(tmp_path):
    for options in ({}, {"resume": True}, {"overwrite": True}):
        (tmp_path / "out" / ".gonio").mkdir(parents=True)
        (tmp_path / "out" / ".gonio" / "lock").write_text("{}")
        with begin(tmp_path / "out", **options) as run:
            write(run, new="new")
        assert names(tmp_path) == ["new", "out"]
        (tmp_path / "out" / "new").unlink()
        (tmp_path / "out").rmdir()


def test_what_a_run_left_that_was_killed_after_folders_were_exchanged_is_no_obstacle(tmp_path):
    with begin(tmp_path / "out") as run:
        write(run, one="one")
    for name in ("two", "three"):
        (tmp_path / ".out.old" / ".gonio").mkdir(parents=True)
        (tmp_path / ".out.old" / "deep").write_text("half removed")
        with begin(tmp_path / "out", overwrite=True) as run:
            write(run, **{name: name})
        assert not (tmp_path / ".out.old").exists()
    assert names(tmp_path) == ["one", "out", "three", "two"]


def test_results_that_were_aside_when_a_run_was_killed_come_back(tmp_path):
    (tmp_path / ".out.old" / ".gonio").mkdir(parents=True)
    (tmp_path / ".out.old" / "mine").write_text("mine")
    with result_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").write_text("new")
    assert names(tmp_path) == ["mine", "new", "out"]


def test_results_that_do_not_come_to_the_disk_do_not_replace_others(tmp_path, monkeypatch):
    with begin(tmp_path / "out") as run:
        write(run, particles="old")

    def full(path):
        if path.name == "particles":
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with begin(tmp_path / "out", overwrite=True) as run:
        run.checkpoint.add("align", 0, "value", str)
        monkeypatch.setattr(folders, "sync_path", full)
        with pytest.raises(OSError, match="Input/output error"):
            write(run, particles="new")
    assert (tmp_path / "out" / "particles").read_text() == "old"
    assert (tmp_path / "out" / ".gonio" / "journal").exists()


def test_pipes_and_closed_files_of_others_are_kept_and_not_read(tmp_path):
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / "pipe")
    (tmp_path / "out" / "closed").touch(mode=0o000)
    with begin(tmp_path / "out", overwrite=True) as run:
        write(run, particles="new")
    assert names(tmp_path / "out") == ["closed", "particles", "pipe"]


def test_parts_appear_whole_while_the_run_goes_on(tmp_path):
    with begin(tmp_path / "out") as run:
        for text in ("first", "again"):
            with run.part("iteration_001") as folder:
                (folder / "map.mrc").write_text(text)
        assert (tmp_path / "out" / "iteration_001" / "map.mrc").read_text() == "again"
        with pytest.raises(ZeroDivisionError), run.part("iteration_002") as folder:
            (folder / "map.mrc").write_text("half")
            raise ZeroDivisionError
        assert "iteration_002" not in names(tmp_path)


HOLDER = """
import sys, time
from pathlib import Path
from gonio.run.folder import RunFolder
with RunFolder.opened(Path(sys.argv[1]), {"seed": 1}, resume=False, overwrite=False) as run:
    run.checkpoint.add("align", 0, "value", str)
    run.checkpoint.sync()
    print("holds", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="locks are of POSIX systems")
def test_two_runs_cannot_write_to_one_folder_and_a_killed_one_holds_nothing(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLDER), str(out)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "holds\n"
        try:
            for options in ({"resume": True}, {"overwrite": True}):
                with pytest.raises(ValueError, match=f"written to by process {other.pid} on"), begin(out, **options):
                    pass
            with (
                pytest.raises(ValueError, match="written to by process"),
                result_folder(out, overwrite=True),
            ):
                pass
            assert (out / ".gonio" / "journal").exists()
        finally:
            other.kill()
    with begin(out, resume=True) as run:
        assert run.checkpoint.value("align", 0, str) == "value"


def test_a_lock_is_free_again(tmp_path):
    for _ in range(2):
        with locked(tmp_path / "lock"):
            assert (tmp_path / "lock").exists()
    assert not (tmp_path / "lock").exists()


ORPHANS = """
import sys, time
from pathlib import Path
from gonio.run.executor import Checkpointed, Local
from gonio.run.folder import RunFolder

def slowly(item) -> int:
    time.sleep(0.0 if item == 0 else 30.0)
    return item

with RunFolder.opened(Path(sys.argv[1]), {"seed": 1}, resume=False, overwrite=False) as run:
    for item in Checkpointed(Local(2), run.checkpoint)("align", slowly, 4):
        run.checkpoint.sync()
        print("holds", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="workers are processes on Linux")
def test_workers_that_outlive_a_killed_run_do_not_hold_its_folder(tmp_path):
    out = tmp_path / "out"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ORPHANS), str(out)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as other:
        assert other.stdout.readline() == "holds\n"
        other.kill()
        other.wait()
        try:
            with begin(out, resume=True) as run:
                assert run.checkpoint.value("align", 0, int) == 0
        finally:
            os.killpg(other.pid, signal.SIGKILL)


def test_where_there_are_no_locks_a_warning_says_so(tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", refused)
    with pytest.warns(UserWarning, match="there are no locks"), begin(tmp_path / "out") as run:
        write(run, particles="new")
    assert names(tmp_path) == ["out", "particles"]
