"""The same results from every executor, and what was done is not done again."""

from __future__ import annotations

from contextlib import contextmanager

import pytest

from gonio.run.checkpoint import Checkpoint
from gonio.run.executor import Checkpointed, Local


class Squares:
    """Counts what it was asked for, in a file for each item."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, item) -> int:
        with (self.folder / f"{item}.asked").open("a") as file:
            file.write("x")
        return item**2


class Watched(Squares):
    """States its file, which must not change once the item is done."""

    def sources(self, item):
        return [self.folder / f"{item}.asked"]


def asked(folder):
    return {int(path.stem): len(path.read_text()) for path in folder.glob("*.asked")}


def fails_at_seven(item) -> int:
    if item == 7:
        raise ValueError("particle 'seven' is no good")
    return item


@pytest.fixture
def seen():
    return []


@pytest.fixture
def progress(seen):
    @contextmanager
    def told(stage, count, before):
        seen.append((stage, count, before))
        yield seen.append

    return told


def test_results_are_kept_and_not_made_again(tmp_path, seen, progress, opened):
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    first = Checkpointed(Local(1), checkpoint, progress)("squares", Watched(tmp_path), 10)
    assert [next(first) for _ in range(4)] == [0, 1, 4, 9]
    first.close()  # as an interruption does
    checkpoint.close()

    checkpoint = opened(Checkpoint.resume, tmp_path / "journal", {})
    assert list(Checkpointed(Local(2), checkpoint, progress)("squares", Watched(tmp_path), 10)) == [
        i * i for i in range(10)
    ]
    again = asked(tmp_path)
    assert [again[item] for item in range(4)] == [1, 1, 1, 1]
    assert [entry for entry in seen if isinstance(entry, tuple)] == [
        ("squares, particles", 10, 0),
        ("squares, particles", 10, 4),
    ]
    assert seen[-1] == 10


def test_progress_counts_what_is_on_the_disk(tmp_path, seen, progress, opened, monkeypatch):
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    executor = Checkpointed(Local(1), checkpoint, progress)
    monkeypatch.setattr("gonio.run.checkpoint.SYNC_SECONDS", 1e9)
    squares = executor("squares", Squares(tmp_path), 5)
    assert [next(squares) for _ in range(3)] == [0, 1, 4]
    assert seen == [("squares, particles", 5, 0)]
    monkeypatch.setattr("gonio.run.checkpoint.SYNC_SECONDS", -1.0)
    assert list(squares) == [9, 16]
    assert seen == [("squares, particles", 5, 0), 4, 5]


def test_stages_are_kept_apart_and_some_not_at_all(tmp_path, opened):
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    for _ in range(2):  # runs
        executor = Checkpointed(Local(1), checkpoint)
        for stage in ("one", "two"):
            assert list(executor(stage, Squares(tmp_path), 3)) == [0, 1, 4]
    assert asked(tmp_path) == {0: 2, 1: 2, 2: 2}
    for _ in range(2):
        list(executor("three", Squares(tmp_path), 3, keep=False))
    assert asked(tmp_path) == {0: 4, 1: 4, 2: 4}


def test_a_stage_does_not_get_the_results_of_another_of_its_name(tmp_path, opened):
    executor = Checkpointed(Local(1), opened(Checkpoint.create, tmp_path / "journal", {}))
    list(executor("one", Squares(tmp_path), 3))
    with pytest.raises(RuntimeError, match="two tasks 'one'"):
        list(executor("one", fails_at_seven, 3))


def test_what_is_kept_states_its_type(tmp_path, opened):
    executor = Checkpointed(Local(1), opened(Checkpoint.create, tmp_path / "journal", {}))
    with pytest.raises(TypeError, match="does not state the type of its results"):
        list(executor("one", lambda item: item, 3))


def test_without_a_checkpoint_it_tells_progress(seen, progress):
    assert list(Checkpointed(Local(1), progress=progress)("x", abs, 3)) == [0, 1, 2]
    assert seen == [("x, particles", 3, 0), 1, 2, 3]


def test_items_before_an_error_are_kept(tmp_path, opened):
    checkpoint = opened(Checkpoint.create, tmp_path / "journal", {})
    with pytest.raises(ValueError, match="seven"):
        list(Checkpointed(Local(2), checkpoint)("x", fails_at_seven, 20))
    assert [("x", item) in checkpoint for item in range(9)] == [True] * 7 + [False] * 2
