"""GPUs as executors: whoever does the searches, results come in order, are kept, and are the same to the bit.

The GPUs here are the processor: a device that does all work as ``Cpu`` does. What real ones compute is in
``test_cuda``.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import signal
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import chain
from multiprocessing import connection
from pathlib import Path
from threading import Barrier, Event
from typing import ClassVar
from weakref import WeakSet

import numpy as np
import pytest

import gonio
from examples import noisy
from gonio.alignment.particle_list import AlignRow, ParticleError, align_table
from gonio.cli.app import run
from gonio.run.checkpoint import Checkpoint
from gonio.run.executor import Checkpointed, Local
from gonio.search.batch_task import BatchTask
from gonio.search.cpu import Cpu
from gonio.search.gpu import device, groups
from gonio.search.gpu.device import Device
from gonio.search.gpu.dispatch import Work
from gonio.search.gpu.groups import in_groups
from gonio.search.gpu.multi_gpu import TILE, ManyGpus, OneGpu, executor_for
from gonio.workflows.classification import classes_of_references
from gonio.workflows.initial_model import _AlignToLater
from listed import aligner, bits, listed
from two_kinds import listed as ten_of_two_kinds
from two_kinds import true_map

pytestmark = pytest.mark.slow

COUNT = 5
LOCAL = gonio.Settings(search="local", inputs="plain")


@dataclass
class Processor(Device):
    """A GPU that is the processor, and how much it was given at a time."""

    gpu: None = None  # type: ignore[assignment]
    launches: list[int] = field(default_factory=list)

    @property
    def name(self) -> str:
        return "processor"

    def done(self, work, pieces):
        self.launches.append(len(pieces))
        return getattr(Cpu(), work.name)(pieces)


def open_processor(name: str) -> Device | None:
    if name == "cpu":
        return None
    if name == "cuda:7":
        raise ValueError('device="cuda" cannot be used, there is no GPU 7')
    return Processor()


@pytest.fixture(scope="module")
def two_gpus():
    with ManyGpus(("cuda:0", "cuda:1"), open=open_processor) as gpus:
        assert gpus.name == "processor, processor"
        yield gpus


@pytest.fixture(params=["one", "one, threads", "two"])
def gpus(request, two_gpus):
    return {"one": OneGpu(Processor()), "one, threads": OneGpu(Processor(), 3), "two": two_gpus}[request.param]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    listed(tmp_path_factory.mktemp("cards") / "listed", COUNT)
    return next(tmp_path_factory.getbasetemp().glob("cards*/listed"))


@pytest.fixture(scope="module")
def alone(folder):
    return bits(align_table(listed(folder, COUNT), aligner(folder)))


@dataclass(frozen=True)
class Squares(BatchTask[int, int]):
    """A task of which some items fail, as they are prepared or finished, and some end the process that does them."""

    unread: int = -1
    fails: int = -1
    kills: int = -1
    searches: int = 1

    def prepare(self, item: int) -> int:
        if item == self.kills:
            os.kill(os.getpid(), signal.SIGKILL)
        if item == self.unread:
            raise ValueError(f"item {item} cannot be read")
        return item

    def finish(self, prepared, backend) -> list[int]:
        if self.fails in prepared:
            raise ValueError(f"item {self.fails} is no good")
        return [item**2 for item in prepared]


@dataclass(frozen=True)
class Draws(BatchTask[np.random.Generator, float]):
    """A task whose items draw random numbers, also where another item fails."""

    fails: int

    def prepare(self, item: int) -> np.random.Generator:
        return np.random.default_rng(item)

    def finish(self, prepared, backend) -> list[float]:
        drawn = [one.random() for one in prepared]
        if np.random.default_rng(self.fails).random() in drawn:
            raise ValueError("no good")
        return drawn


def plain(item: int) -> int:
    return item**2


def pid(item: int) -> int:
    return os.getpid()


@dataclass(frozen=True)
class Who(BatchTask[int, tuple[int, int]]):
    """A task that names the process that does it."""

    searches: int = 1

    def prepare(self, item: int) -> int:
        return item

    def finish(self, prepared, backend) -> list[tuple[int, int]]:
        return [(item, os.getpid()) for item in prepared]


def test_lists_are_aligned_to_the_bit(folder, alone, gpus):
    assert bits(align_table(listed(folder, COUNT), aligner(folder), executor=gpus)) == alone


def test_local_searches_compare_with_the_listed_poses(folder, gpus):
    table = listed(folder, COUNT, "truth.star")[:3]
    task = AlignRow(table, aligner(folder, LOCAL))
    found, wanted = (list(executor("align", task, len(table))) for executor in (gpus, Local()))
    assert bits([row.result for row in found]) == bits([row.result for row in wanted])
    assert [row.before for row in found] == [row.before for row in wanted]


def test_an_aligner_with_a_gpu_needs_no_executor(folder, alone):
    gpu = Processor()
    with_gpu = gonio.Aligner(gonio.read_volume(folder / "reference.mrc"), device=gpu)
    assert bits(align_table(listed(folder, COUNT), with_gpu)) == alone
    assert max(gpu.launches) >= COUNT, "particles were not searched side by side"


def test_all_pairs_are_the_same_to_the_bit(gpus):
    particles = [noisy(i) for i in range(4)]
    found, wanted = (list(gonio.align_all_pairs(particles, executor=executor)) for executor in (gpus, Local()))
    assert [(p.reference, p.target) for p in found] == [(p.reference, p.target) for p in wanted]
    assert bits([p.result for p in found]) == bits([p.result for p in wanted])
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.sums, other.sums)


def test_pairs_of_a_tile_are_searched_side_by_side():
    gpu = Processor()
    list(gonio.align_all_pairs([noisy(i) for i in range(4)], executor=OneGpu(gpu)))
    assert max(gpu.launches) >= 6


def test_a_run_on_gpus_that_was_cut_off_goes_on(folder, alone, gpus, tmp_path):
    """What was done before an error is kept, and not done again."""
    table, other = listed(folder, COUNT), aligner(folder)
    image = table.files_of(3)[0]
    content = image.read_bytes()
    image.write_bytes(content[:2000])
    checkpoint = Checkpoint.create(tmp_path / "journal", {})
    try:
        with pytest.raises(gonio.io.errors.FormatError, match=image.name):
            align_table(table, other, executor=Checkpointed(gpus, checkpoint))
    finally:
        image.write_bytes(content)
    assert len(checkpoint) == 3
    checkpoint.close()
    again = Checkpoint.resume(tmp_path / "journal", {})
    done: list[int] = []

    def counted(stage, function, count, *, keep=True):
        done.append(count)
        return gpus(stage, function, count, keep=keep)

    assert bits(align_table(table, other, executor=Checkpointed(counted, again))) == alone
    assert done == [COUNT - 3]
    again.close()


def test_a_particle_that_does_not_fit_is_named(folder, gpus):
    table, reference = listed(folder, COUNT), aligner(folder).reference.volume
    with pytest.raises(ParticleError, match=f"particle '{table.names[0]}': voxel sizes differ"):
        align_table(table, gonio.Aligner(gonio.Volume(reference.data, 12.0)), executor=gpus)


@pytest.mark.parametrize("count", [0, 1, 7, 3 * TILE + 5])
def test_results_come_in_the_order_of_the_items(gpus, count):
    assert list(gpus("stage", Squares(), count)) == [item**2 for item in range(count)]


def test_items_of_many_searches_are_dealt_one_by_one(two_gpus):
    found = list(two_gpus("stage", Who(searches=10 * TILE), 8))
    assert [item for item, _ in found] == list(range(8))
    assert len({who for _, who in found} - {os.getpid()}) == 2, "one of the workers did nothing"


def test_stages_of_no_search_are_done_here(gpus):
    assert list(gpus("stage", plain, 5)) == [0, 1, 4, 9, 16]
    if isinstance(gpus, OneGpu):
        assert set(gpus("stage", pid, 5)) == {os.getpid()}, "a process with a GPU was forked"


@pytest.mark.parametrize("how", ["fails", "unread"])
def test_the_first_error_comes_after_what_was_done_before_it(gpus, how):
    wrong, said = 2 * TILE + 3, {"fails": "is no good", "unread": "cannot be read"}[how]
    found = gpus("stage", Squares(**{how: wrong}), 4 * TILE)
    assert [next(found) for _ in range(wrong)] == [item**2 for item in range(wrong)]
    with pytest.raises(ValueError, match=f"item {wrong} {said}"):
        next(found)
    assert list(gpus("another", Squares(), 5)) == [item**2 for item in range(5)]


def test_an_error_does_not_change_what_was_drawn_before_it():
    found = OneGpu(Processor())("stage", Draws(fails=5), 8)
    assert [next(found) for _ in range(5)] == [np.random.default_rng(item).random() for item in range(5)]
    with pytest.raises(ValueError, match="no good"):
        next(found)


@pytest.mark.parametrize(("unread", "fails", "first"), [(6, 5, 5), (5, 6, 5), (9, 2, 2), (3, 8, 3)])
def test_of_several_errors_the_first_item_is_told(unread, fails, first):
    task = Squares(unread=unread, fails=fails)
    found = in_groups(task.prepare, task.finish, ((item,) for item in range(12)), Processor(), size=4)
    assert [next(found) for _ in range(first)] == [item**2 for item in range(first)]
    with pytest.raises(ValueError, match=f"item {first} "):
        next(found)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_a_group_is_prepared_while_another_is_on_the_gpu(n_threads):
    """The first group is not done before the last item of the second is prepared."""
    second = Event()

    def prepare(item: int) -> int:
        if item == 7:
            second.set()
        return item

    def finish(prepared, backend) -> list[int]:
        assert second.wait(60.0), "the second group waits for the first"
        return list(prepared)

    items = ((item,) for item in range(8))
    assert list(in_groups(prepare, finish, items, Processor(), n_threads=n_threads, size=4)) == list(range(8))


def test_results_of_a_group_are_made_while_the_next_is_on_the_gpu():
    both = Barrier(groups.UNDER_WAY)

    def finish(prepared, backend) -> list[int]:
        both.wait(60.0)
        return list(prepared)

    count = 4 * groups.UNDER_WAY
    assert list(in_groups(int, finish, ((item,) for item in range(count)), Processor(), size=4)) == list(range(count))


def test_a_stage_that_is_left_before_its_end_does_not_disturb_the_next(gpus):
    found = gpus("stage", Squares(), 20 * TILE)
    assert next(found) == 0
    found.close()
    assert list(gpus("another", Squares(), 5)) == [item**2 for item in range(5)]


def test_workers_listen_to_nobody_else():
    with ManyGpus(("cuda:0", "cuda:1"), open=open_processor) as gpus:
        managers = [worker._manager for worker in gpus._workers]
        for manager in managers:
            socket = Path(manager.address)
            assert socket.is_socket()
            assert socket.parent.stat().st_mode & 0o777 == 0o700
            for key in (b"", b"guessed", bytes(multiprocessing.current_process().authkey)):
                with pytest.raises(multiprocessing.AuthenticationError):
                    connection.Client(manager.address, authkey=key)
        assert len({bytes(manager._authkey) for manager in managers}) == 2


def test_a_worker_that_is_killed_is_one_clear_error():
    with ManyGpus(("cuda:0", "cuda:1"), open=open_processor) as gpus:
        with pytest.raises(ChildProcessError, match=r"^the worker of processor was ended \(exit status -9\)"):
            list(gpus("stage", Squares(kills=40), 50))
        assert list(gpus("another", Squares(), 3)) == [item**2 for item in range(3)]


def test_a_gpu_that_is_not_there_is_told_before_any_work():
    with pytest.raises(ValueError, match="there is no GPU 7"):
        ManyGpus(("cuda:0", "cuda:7"), open=open_processor).__enter__()
    with pytest.raises(ValueError, match="each must be a GPU, \"cuda:0\", got 'cpu'"):
        ManyGpus(("cuda:0", "cpu"), open=open_processor).__enter__()


def test_a_choice_among_references_is_done_on_gpus(gpus):
    """Three particles of two kinds, at SNR 1 in boxes of 16."""
    table, maps = ten_of_two_kinds()[[0, 1, 9]], [true_map("sharp"), true_map("pseudo_symmetric")]
    found, wanted = (
        classes_of_references(table, maps, most_rounds=1, executor=executor) for executor in (gpus, Local())
    )
    np.testing.assert_array_equal(found.labels, wanted.labels)
    np.testing.assert_array_equal(found.poses.matrix, wanted.poses.matrix)
    np.testing.assert_array_equal(found.margin, wanted.margin)
    if isinstance(gpus, OneGpu):
        assert max(gpus.device.launches) > 1, "references were not searched side by side"


def test_a_start_from_nothing_is_done_on_gpus():
    gpu = Processor()
    stage = _AlignToLater(ten_of_two_kinds()[[0, 1, 2]], gonio.Settings())
    found, wanted = list(OneGpu(gpu)("pairs", stage, 2)), [stage(0), stage(1)]
    assert [[len(poses) for poses in row] for row in found] == [[len(poses) for poses in row] for row in wanted]
    for one, other in zip(chain(*found), chain(*wanted), strict=True):
        np.testing.assert_array_equal(one.matrix, other.matrix)
    assert max(gpu.launches) == 3, "the pairs were not searched side by side"


def test_names_make_engines():
    assert executor_for("cpu", n_threads=2) == Local(2)
    several = executor_for("cuda:0,cuda:1", n_threads=4)
    assert isinstance(several, ManyGpus) and several.names == ("cuda:0", "cuda:1") and several.n_threads == 4
    with pytest.raises(ValueError, match="draws them one by one"):
        executor_for("cuda:0,cuda:1", draws=True)


def test_a_gpu_stays_in_its_process():
    with pytest.raises(TypeError, match="used by the process that opened it"):
        pickle.dumps(gonio.Aligner(noisy(0), device=Processor()))
    gpu = Device(SmallGpu(8, False))
    gpu._process = -1
    with pytest.raises(RuntimeError, match="used by the process that opened it"):
        gpu.search([])


@cache
def out_of_memory() -> type[Exception]:
    return pytest.importorskip("gonio.kernels.gpu_memory").OutOfMemory


class Queue:
    """Work on such a GPU, and whether its memory was given back."""

    every: ClassVar[list] = []

    def __init__(self) -> None:
        self.released, self.blocks = False, []

    def beside(self) -> Queue:
        self.every.append(Queue())
        return self.every[-1]


class SmallGpu:
    """Takes so many pieces of work at a time, and says so as they are started or when they are waited for."""

    index, name, launch_bytes = 0, "small", 64.0

    def __init__(self, most: int, late: bool) -> None:
        self.most, self.late = most, late
        self.taken: list[int] = []
        self.forgotten = 0

    def used(self):
        return nullcontext()

    def queue(self):
        return Queue()

    def wait(self, queue) -> None:
        pass

    def release(self, queue) -> None:
        queue.released = True

    def forget(self) -> None:
        self.forgotten += 1

    def start(self, numbers, queue):
        if len(numbers) > self.most and not self.late:
            raise out_of_memory()

        def finish():
            if len(numbers) > self.most:
                raise out_of_memory()
            self.taken.append(len(numbers))
            return [number**2 for number in numbers]

        return finish


# Of one kind, 8 bytes each.
SQUARE = Work("square", lambda gpu, numbers, queue: gpu.start(numbers, queue), lambda number: 8.0)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("most", [1, 2, 3, 8])
def test_work_that_does_not_fit_is_halved_until_it_does_and_nothing_is_lost(most, late):
    gpu = SmallGpu(most, late)
    Queue.every.clear()
    assert Device(gpu).done(SQUARE, range(19)) == [number**2 for number in range(19)]
    assert max(gpu.taken) <= most and sum(gpu.taken) == 19
    assert all(queue.released for queue in Queue.every), "memory was not given back"
    assert (gpu.forgotten > 0) == (most < 8), "64 bytes are 8 pieces: only fewer than these have to be halved"


def test_what_does_not_fit_alone_is_one_clear_error():
    with pytest.raises(MemoryError, match=r"small.* has not enough memory for a single pair: use device='cpu'"):
        Device(SmallGpu(0, False)).done(SQUARE, [1])


class Block:
    """Memory that is free when nothing knows of it any more."""

    living: ClassVar[WeakSet] = WeakSet()

    def __init__(self) -> None:
        self.living.add(self)


class FullGpu(SmallGpu):
    """Has memory for five pieces of work at a time, whoever holds it."""

    def start(self, numbers, queue):
        held = []
        for _ in numbers:
            held.append(Block())
            queue.blocks.append(held[-1])
            if len(Block.living) > 5:
                raise out_of_memory()
        self.taken.append(len(numbers))
        return lambda: [number**2 for number, _ in zip(numbers, held, strict=True)]

    def release(self, queue) -> None:
        queue.blocks.clear()


@pytest.mark.parametrize("launch_bytes", [8.0, 24.0, 40.0, 1e6])
def test_what_did_not_fit_holds_no_memory_while_its_halves_are_done(launch_bytes):
    gpu = FullGpu(99, late=False)
    gpu.launch_bytes = launch_bytes
    gc.disable()
    try:
        assert Device(gpu).done(SQUARE, range(33)) == [number**2 for number in range(33)]
    finally:
        gc.enable()
    assert (gpu.forgotten > 0) == (launch_bytes > 40.0), "as many portions at a time as there is room for"


def test_kinds_of_work_are_launched_apart_and_answered_in_order():
    gpu = SmallGpu(8, False)
    by_parity = replace(SQUARE, kind=lambda number: number % 2)
    assert Device(gpu).done(by_parity, range(7)) == [number**2 for number in range(7)]
    assert sorted(gpu.taken) == [3, 4] and Device(gpu).done(by_parity, []) == []


def align_typed(folder: Path, *words: str) -> int:
    return run(["align", f"{folder}/sim/particles.star", "--reference", f"{folder}/sim/reference.mrc", *words])


@pytest.fixture(scope="module")
def typing(folder, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("typed")
    (path / "sim").symlink_to(folder)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--device", "cuda", "--dask", "local"), "--device and Dask exclude each other"),
        (("--device", "auto", "--scheduler", "tcp://x:1"), "--device and Dask exclude each other"),
        (("--device", "gpu"), '--device must be "cpu"'),
        (("--device", "cuda", "--search", "stochastic"), "--device cuda is for searches that refine all"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_before_anything_is_made(typing, tmp_path, capsys, words, said):
    assert align_typed(typing, "-o", f"{tmp_path}/refused", *words) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "refused").exists()


WHOLE = {
    "refine": (["--reference", "sim/reference.mrc", "--iterations", "1"], ["particles.star", "fsc.csv"]),
    "classify": (["--classes", "2"], ["particles.star", "class_1_fsc.csv"]),
}


@pytest.mark.parametrize("command", sorted(WHOLE))
def test_maps_and_classes_made_with_a_gpu_are_those_of_the_processor(typing, monkeypatch, command):
    monkeypatch.chdir(typing)
    processor, (words, files) = Processor(), WHOLE[command]
    monkeypatch.setattr(
        "gonio.search.gpu.multi_gpu.executor_for",
        lambda name, **_: OneGpu(processor, n_threads=1),
    )
    for name in ("cpu", "cuda"):
        out = f"{command}_{name}"
        assert run([command, "sim/particles.star", *words, "--device", name, "--threads", "1", "-o", out]) == 0
        assert f'device = "{name}"' in Path(out, "settings.toml").read_text()
    assert max(processor.launches) > 1  # several particles at a time
    for file in files:
        assert Path(f"{command}_cpu", file).read_bytes() == Path(f"{command}_cuda", file).read_bytes(), file


def works() -> bool:
    try:
        return device.opened("cuda") is not None
    except ValueError:
        return False


@pytest.mark.skipif(works(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["cuda", "cuda:1", "cuda:0,cuda:1"])
def test_without_a_gpu_the_command_says_so_and_makes_nothing(typing, tmp_path, capsys, name):
    assert align_typed(typing, "-o", f"{tmp_path}/none", "--device", name) == 2
    error = capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert error.count("\n") == 1 and "--device cuda " in error
    assert "needs numba-cuda: pip install" in error or "cannot be used" in error


@pytest.mark.skipif(works(), reason="there is a GPU")
def test_auto_says_that_it_is_the_processors(typing, tmp_path, capsys):
    assert align_typed(typing, "-o", f"{tmp_path}/auto", "--device", "auto", "--threads", "1") == 0
    assert "no GPU can be used for this" in capsys.readouterr().err
    assert 'device = "cpu"' in (tmp_path / "auto" / "settings.toml").read_text()
