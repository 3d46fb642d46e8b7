"""Several workers at a time, their results in order, whatever happens to them."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from gonio.run import parallel
from gonio.run.parallel import in_order

forks = pytest.mark.skipif(sys.platform != "linux", reason="workers are processes on Linux")


@pytest.fixture(autouse=True)
def alone(request, monkeypatch):
    """Libraries of other tests may have left a thread behind; what is forked here does not meet it."""
    if "another_thread" not in request.node.name:
        monkeypatch.setattr(parallel, "_is_alone", lambda: True)


def slowly_squared(x, seconds=0.0):
    time.sleep(seconds)
    return x * x


def numbered(count):
    return ((i,) for i in range(count))


def process_of(_):
    return os.getpid()


def ended(process_id, seconds=10.0):
    """Whether a process that is not a child of this one is gone, or goes within some time."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.02)
    return False


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_are_in_the_order_of_the_items(workers, processes):
    items = ((i, 0.002 * (i % 3 == 0)) for i in range(40))
    assert list(in_order(slowly_squared, items, workers, processes=processes)) == [i * i for i in range(40)]


@forks
def test_workers_are_processes_where_these_can_be_forked():
    both = multiprocessing.get_context("fork").Barrier(2)

    def process_that_met_another(i):
        if i < 2:  # on a busy machine one worker may do all before the other begins
            both.wait(60.0)
        return os.getpid()

    seen = set(in_order(process_that_met_another, numbered(40), 2))
    assert len(seen) == 2
    assert os.getpid() not in seen


def test_workers_are_threads_where_another_thread_is_there():
    done = threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    try:
        assert set(in_order(process_of, numbered(8), 2)) == {os.getpid()}
    finally:
        done.set()
        other.join()


def test_one_worker_is_this_thread():
    assert set(in_order(lambda _: threading.get_ident(), numbered(4), 1)) == {threading.get_ident()}


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_items_than_workers(count):
    assert list(in_order(slowly_squared, numbered(count), 3)) == list(range(count))


def test_a_single_item_is_done_here():
    assert list(in_order(process_of, numbered(1), 4)) == [os.getpid()]


@pytest.mark.parametrize("processes", [True, False])
def test_only_a_few_items_are_taken_up_ahead(processes):
    taken = []

    def items():
        for i in range(50):
            taken.append(i)
            yield (i,)

    ahead = [len(taken) - done for done, _ in enumerate(in_order(slowly_squared, items(), 2, processes=processes))]
    assert max(ahead) <= 2 * (parallel.CHUNKS * parallel.MOST_TOGETHER if processes else parallel.AHEAD)


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.parametrize("writeable", [True, False])
def test_arrays_arrive_as_they_were_sent(processes, writeable):
    def described(*arrays):
        return [(a.copy(), a.dtype, a.flags.writeable, a.flags.c_contiguous) for a in arrays]

    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=size) for size in ((3,), (40, 50, 60), (0,))]
    arrays.append(np.asfortranarray(rng.normal(size=(30, 40)).astype(np.float32)))
    for array in arrays:
        array.flags.writeable = writeable
    for answer in in_order(described, iter([tuple(arrays)] * 6), 2, processes=processes):
        for (values, dtype, allowed, contiguous), sent in zip(answer, arrays, strict=True):
            np.testing.assert_array_equal(values, sent)
            assert (dtype, allowed, contiguous) == (sent.dtype, writeable, sent.flags.c_contiguous)


@forks
def test_items_and_results_that_no_socket_holds_pass_each_other():
    big = np.arange(2_000_000, dtype=np.float64)
    results = in_order(lambda array, i: (array + i, os.getpid()), ((big, i) for i in range(12)), 2)
    for i, (array, process) in enumerate(results):
        np.testing.assert_array_equal(array, big + i)
        assert process != os.getpid()


@pytest.mark.parametrize("processes", [True, False])
def test_the_first_error_in_the_order_of_the_items_is_raised(processes):
    def fails(i):
        time.sleep(0.05 * (i == 3))  # a later item fails sooner
        if i >= 3:
            raise ValueError(f"item {i} is no good")
        return i

    results, seen = in_order(fails, numbered(20), 2, processes=processes), []
    with pytest.raises(ValueError, match="item 3 is no good"):
        for result in results:
            seen.append(result)
    assert seen == [0, 1, 2]


@forks
def test_an_error_that_cannot_be_sent_is_told_all_the_same():
    def fails(_):
        raise Unpicklable("this", "that")

    with pytest.raises(RuntimeError, match="Unpicklable: this and that"):
        list(in_order(fails, numbered(3), 2))


@forks
def test_a_result_that_cannot_be_sent_is_an_error():
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError, RuntimeError), match=r"pickle|local"):
        list(in_order(lambda _: lambda: None, numbered(3), 2))


@forks
def test_a_worker_that_is_killed_is_an_error_and_the_others_end():
    processes = []

    def killed(i):
        if i == 20:  # it is not taken up before some of the first are answered
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.01)
        return os.getpid()

    with pytest.raises(ChildProcessError, match=r"ended from outside \(exit status -9\)"):
        for process in in_order(killed, numbered(40), 3):
            processes.append(process)
    assert processes
    assert all(ended(process) for process in processes)


@forks
def test_no_process_is_left_by_results_that_nobody_takes():
    results = in_order(process_of, numbered(100), 2)
    process = next(results)
    results.close()
    assert ended(process)


SCRIPT = textwrap.dedent(
    """
    import os, signal, sys, time
    from gonio.run.parallel import in_order

    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start what is in the background without

    def work(i):
        time.sleep(0.02)
        return os.getpid()

    try:
        for process in in_order(work, ((i,) for i in range(100_000)), 2):
            print(process, flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(7)
    """
)


@forks
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 7), (signal.SIGKILL, -9)])
def test_workers_end_with_the_process_that_forked_them(number, status):
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as main:
        workers = set()
        while len(workers) < 2:  # on a busy machine one of them may be late
            workers.add(int(main.stdout.readline()))
        if number == signal.SIGINT:
            os.killpg(main.pid, number)  # as a terminal does, to the workers too
        else:
            main.kill()
        rest = main.stdout.read()
        assert main.wait(10) == status
    assert ("interrupted" in rest) == (number == signal.SIGINT)
    assert all(ended(worker) for worker in workers)
