"""What an item costs in long work: time, bytes moved, bytes kept; and what that comes to for very many of them.

    python benchmarks/scale.py [--quick] [--rows 100000] [--out FILE.md]
    python benchmarks/scale.py --lists 1000000 [--formats relion5 csv ...]

Simulated particles are written as MRC files behind a RELION list, and read by the number of their row, as workers do.
Times are of the processor: others that use the machine change them least. Files are read from memory, as nothing here
can empty the caches of a disk: what a disk must give is told in bytes. ``docs/scale.md`` shows the tables, and what
follows. With ``--memory LIST`` it reads a list in a fresh process, and prints how long and how large. With ``--lists``
a list of so many rows goes from STAR to each format and back, and is inspected, each in a process of its own.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from memory import most_memory_bytes
from particles import VOXEL_ANGSTROM, clean_map, simulated, starts
from plan import QUICK, USUAL, Plan
from table import Row, span

import gonio
from gonio.alignment import particle_list as lists
from gonio.averaging import averages
from gonio.io import read_particles, write_particles
from gonio.io.simulated import write_simulated
from gonio.run.checkpoint import Checkpoint
from gonio.run.executor import Local

DISTINCT = 4  # particles that are simulated; files hold them again and again
CORES = (2, 32, 512)
ONE_MACHINE = 64  # cores, and no more: others are reached by Dask, files over the network
# Bytes in a second that are asked of the usual hardware: a good disk or shared file system, a network of 10 Gbit.
DISK_BYTES, NETWORK_BYTES = 2e9, 1.2e9
TAKEN, PUT_DOWN = "taken from a forked worker", "put down in the checkpoint"
TAKEN_MEGABYTE, DASK_MEGABYTE = "taken from a forked worker: a megabyte of sums", "Dask: a megabyte of sums"
BLOCK_BYTES = 2**22  # the sums of a block of a box of 72
TASK, BY_DASK = "Dask: a task", "Dask: a result"


@dataclass(frozen=True)
class Cost:
    """Of one particle at one stage: seconds of a worker; bytes that are read from files, and that come back.

    ``rows`` are the particles behind one result: it comes back when all of them are done.
    """

    seconds: float
    read_bytes: int = 0
    back_bytes: int = 0
    rows: int = 1


@dataclass
class Weighing:
    """An executor in this process that weighs what another one would send: ``gonio.run.executor.Executor``."""

    sent_bytes: int = 0
    seconds: list[float] = field(default_factory=list)
    results: list[bytes] = field(default_factory=list)

    def __call__(self, stage: str, function: Callable[[int], object], count: int, *, keep: bool = True) -> Iterator:
        self.sent_bytes = len(pickle.dumps(function, protocol=5))
        for item in range(count):
            with timed(self.seconds):
                result = function(item)
            self.results.append(pickle.dumps(result, protocol=5))
            yield result

    def cost(self, *, each: int = 1, read_bytes: int = 0) -> Cost:
        """Of an item that stands for ``each`` rows: medians, the first left out, in which caches are filled."""
        seconds, results = self.seconds[1:] or self.seconds, self.results[1:] or self.results
        return Cost(float(np.median(seconds)) / each, read_bytes, round(np.median([*map(len, results)]) / each), each)


@contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    """Append the seconds of this process's processor time."""
    start = time.process_time()
    yield
    seconds.append(time.process_time() - start)


def took(action: Callable[[], object], rounds: int = 1) -> float:
    """Seconds of this process's processor time, median over rounds."""
    seconds: list[float] = []
    for _ in range(rounds):
        with timed(seconds):
            action()
    return float(np.median(seconds))


def written(folder: Path, *, box: int, files: int, rows: int) -> Path:
    """A list of ``rows`` particles that share so many files; poses are those they were simulated at, 4 degrees off."""
    made = simulated(DISTINCT, box=box)
    folder.mkdir()
    for index in range(files):
        gonio.write_volume(folder / f"{index}.mrc", made.particles[index % DISTINCT].volume)
    images = [folder / f"{index % files}.mrc" for index in range(rows)]
    near = starts(made.poses, gonio.Pose.identity(), count=DISTINCT)[np.arange(rows) % files % DISTINCT]
    path = folder / "particles.star"
    options = {"voxel_size_angstrom": VOXEL_ANGSTROM, "box": box, "tilt_range_deg": (-60.0, 60.0)}
    write_simulated(path, near, images, **options)
    return path


def stages(folder: Path, *, box: int, count: int) -> tuple[dict[str, Cost], dict[str, int], list[lists.AlignedRow]]:
    """Costs of one row by stage, what a worker is sent and holds, and results of the global search."""
    table = read_particles(written(folder, box=box, files=count, rows=count))
    size = (folder / "0.mrc").stat().st_size
    reading: list[float] = []
    for row in range(count):
        with timed(reading):
            table.load(row)
    costs = {"reading by row": Cost(float(np.median(reading[1:])), size)}
    sent, found = {}, {}
    for name, search in (("all orientations", "coarse_to_fine"), ("local", "local")):
        weighing, aligner = Weighing(), gonio.Aligner(clean_map(box=box), gonio.Settings(search=search))
        found[name] = list(weighing("align", lists.AlignRow(table, aligner), len(table)))
        costs[f"reading and aligning, {name}"] = weighing.cost(read_bytes=size)
        sent[name] = weighing.sent_bytes
    block = averages.BLOCK
    rows = np.arange(3 * block) % count
    weighing = Weighing()
    averages.average_table(table[rows], executor=weighing)
    costs["reading and averaging"] = weighing.cost(each=block, read_bytes=size)
    sent["held"] = in_fresh_process(folder / "particles.star")["worker_bytes"]
    return costs, sent, found["all orientations"]


def collecting(folder: Path, found: list[lists.AlignedRow], count: int) -> dict[str, Cost]:
    """What the one process that collects does with each result: take it, put it down, write it at the end.

    In the checkpoint lies beside a result by what its file is known again, which costs a look at the file.
    """
    table = read_particles(written(folder, box=32, files=1, rows=count))
    records = [pickle.dumps(one, protocol=5) for one in found]
    give = partial(_given, records[0])
    seconds = took(lambda: [pickle.loads(one) for one in Local(2)("weigh", give, count)])
    costs = {TAKEN: Cost(seconds / count, 0, len(records[0]))}
    give, blocks = partial(_given, bytes(BLOCK_BYTES)), -(-count // 200)
    seconds = took(lambda: sum(len(one) for one in Local(2)("blocks", give, blocks)))
    costs[TAKEN_MEGABYTE] = Cost(1e6 * seconds / blocks / BLOCK_BYTES)
    opened = Checkpoint.create(folder / "journal", {})
    add = partial(opened.add, "align")
    seconds = took(
        lambda: [add(row, found[row % len(found)], lists.AlignedRow, files=table.files_of(row)) for row in range(count)]
    )
    opened.close()
    bytes_each = round((folder / "journal").stat().st_size / count)
    costs[PUT_DOWN] = Cost(seconds / count, 0, bytes_each)
    seconds = took(lambda: Checkpoint.resume(folder / "journal", {}).close())
    return costs | {"found again on resuming": Cost(seconds / count, bytes_each)} | ending(folder, table, records)


def ending(folder: Path, table: gonio.ParticleTable, records: list[bytes]) -> dict[str, Cost]:
    """What the end of ``gonio align`` costs for each particle of a list."""
    from gonio.alignment.columns import columns_of, runners_up
    from gonio.comparison.score import Score
    from gonio.jobs.align import NO_RUNNERS_UP, Aligned, report_of
    from gonio.jobs.files import write_list
    from gonio.report import html

    count, before = len(table), held_bytes()
    results = [pickle.loads(records[row % len(records)]).result for row in range(count)]
    kept = held_bytes() - before
    poses = gonio.Pose.stack([result.pose for result in results])
    done: list[gonio.ParticleTable] = []
    made = took(lambda: done.append(table.with_poses(poses, **columns_of(table, results, Score.RCS))))
    aligned = Aligned(done[0], results, 1.0, gonio.Settings(), 32 * VOXEL_ANGSTROM)
    others = folder / "runners_up.star"
    runners = took(lambda: write_list(others, runners_up(done[0], results), otherwise=NO_RUNNERS_UP))
    pages: list[str] = []
    report = took(lambda: pages.append(html(report_of(aligned, title="scale", seed=0))))
    return {
        "kept until the end, made into columns": Cost(made / count, 0, round(kept / count)),
        "other optima written": Cost(runners / count, 0, round(others.stat().st_size / count)),
        f"the report of {count} particles, once": Cost(report, 0, len(pages[0])),
    }


def _given(record: bytes, _: int) -> bytes:
    return record


def scheduled(record: bytes, tasks: int) -> dict[str, Cost] | None:
    """What Dask costs the process of client and scheduler, for a task and for what comes back; None without Dask."""
    if importlib.util.find_spec("distributed") is None:
        return None
    from gonio.run import cluster

    few, whole = -(-tasks // 8), cluster.MAX_CHUNK * tasks
    with cluster.dask(None, 1) as executor:
        for _ in executor("warm", partial(_given, record), whole):
            pass
        with patch.object(cluster, "MAX_CHUNK", 1):  # as many tasks as items, which slow ones come to by themselves
            task = took(lambda: sum(1 for _ in executor("tasks", partial(_given, record), tasks))) / tasks
        full = took(lambda: sum(1 for _ in executor("full", partial(_given, record), whole))) / whole
        blocks = took(lambda: sum(1 for _ in executor("blocks", partial(_given, bytes(BLOCK_BYTES)), few))) / few
    result = max(full - task / cluster.MAX_CHUNK, 0.0)
    return {
        TASK: Cost(task),
        BY_DASK: Cost(result, 0, len(record)),
        DASK_MEGABYTE: Cost(1e6 * max(blocks - task, 0.0) / BLOCK_BYTES),
    }


@dataclass(frozen=True)
class List:
    """What a list of so many rows costs: seconds of reading and writing, bytes of the file, of a table, of a task."""

    rows: int
    written_new: float
    read: float
    written_back: float
    file_bytes: int
    table_bytes: int
    peak_bytes: int
    task_bytes: int
    task_seconds: float
    row_seconds: float
    chosen_seconds: float


def listed(folder: Path, rows: int) -> List:
    """A list of particles of one box that share a few files."""
    start = time.process_time()
    path = written(folder, box=32, files=DISTINCT, rows=rows)
    new = time.process_time() - start
    facts = in_fresh_process(path)
    table = read_particles(path)
    values = np.random.default_rng(0).normal(size=(12, rows))
    columns = {f"value_{name}": column for name, column in enumerate(values)}  # as many as an alignment adds
    back = took(lambda: write_particles(folder / "back.star", table.with_poses(table.poses, **columns)))
    aligner = gonio.Aligner(clean_map())
    weighing = Weighing()
    first = iter(weighing("task", partial(_first, table, aligner), 1))
    next(first)
    sending = took(lambda: pickle.loads(pickle.dumps((table, aligner), protocol=5)))
    table.load(0)
    last = np.arange(rows - min(rows, 50), rows)
    return List(
        rows=rows,
        written_new=new,
        read=facts["seconds"],
        written_back=back,
        file_bytes=path.stat().st_size,
        table_bytes=facts["table_bytes"],
        peak_bytes=facts["peak_bytes"],
        task_bytes=weighing.sent_bytes,
        task_seconds=sending,
        row_seconds=took(lambda: [table.load(int(row)) for row in last]) / len(last),
        chosen_seconds=took(lambda: table[np.arange(rows)[::-1]]),
    )


def _first(table: gonio.ParticleTable, aligner: gonio.Aligner, row: int) -> str:
    return table.names[row]


def in_fresh_process(path: Path) -> dict:
    """What ``read_and_align`` says of itself when nothing was done before."""
    worker = [sys.executable, str(Path(__file__).resolve()), "--memory", str(path)]
    return json.loads(subprocess.run(worker, check=True, capture_output=True, text=True).stdout)


def read_and_align(path: Path) -> dict[str, float]:
    """Seconds and memory of reading a list, and of a worker that has aligned two of its rows.

    What is loaded for the first of all lists is not in the former.
    """
    with tempfile.TemporaryDirectory() as name:
        read_particles(written(Path(name) / "small", box=8, files=1, rows=2))
        before, seconds = held_bytes(), []
        with timed(seconds):
            table = read_particles(path)
        of_table, peak = held_bytes() - before, most_memory_bytes() - before
    lists.align_table(table[:2], gonio.Aligner(table.load(0)))
    return {"seconds": seconds[0], "table_bytes": of_table, "peak_bytes": peak, "worker_bytes": held_bytes()}


# Formats that hold a whole list in one file; PEET and IMOD have a file for each tomogram.
LIST_FORMATS = {
    **{"relion5": "star", "relion4": "star", "csv": "csv", "parquet": "parquet", "dynamo": "tbl", "stopgap": "star"},
    **{"av3": "em", "pytom": "xml", "eman": "lst", "eman-json": "json"},
}


def long_lists(folder: Path, rows: int, formats: list[str]) -> Iterator[tuple[str, ...]]:
    """A line for each format that a list is written into from STAR, and read from into STAR."""
    first = folder / "first.star"
    begun(["--make", str(rows), str(first)])
    yield line_of("gonio inspect", begun(["--inspect", str(first)]), rows, first)
    for name in formats:
        there = folder / f"{name}.{LIST_FORMATS[name]}"
        yield line_of(f"relion5 to {name}", begun(["--convert", str(first), str(there), name]), rows, there)
        back = folder / "back.star"
        yield line_of(f"{name} to relion5", begun(["--convert", str(there), str(back), "relion5"]), rows, back)
        for path in (there, back):
            path.unlink()


def begun(words: list[str]) -> dict[str, float]:
    """What a fresh process measures."""
    worker = [sys.executable, str(Path(__file__).resolve()), *words]
    return json.loads(subprocess.run(worker, check=True, capture_output=True, text=True).stdout.splitlines()[-1])


def line_of(what: str, facts: dict[str, float], rows: int, path: Path) -> tuple[str, ...]:
    peak = facts["peak_bytes"]
    return what, span(facts["seconds"]), megabytes(peak), f"{peak / rows:.0f}", megabytes(path.stat().st_size)


def made_list(rows: int, path: Path) -> None:
    """Write particles of 500 tomograms with the columns that RELION 5 has, in pieces: this is no measurement."""
    rng = np.random.default_rng(0)
    labels = ["TomoName", "TomoParticleName", "AngleRot", "AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst"]
    labels += ["OriginZAngst", *(f"CenteredCoordinate{axis}Angst" for axis in "XYZ"), "ImageName", "RandomSubset"]
    with path.open("w") as stream:
        stream.write(
            "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n_rlnTomoTiltSeriesPixelSize\n1 2.5 2.5\n"
        )
        stream.write("\ndata_particles\n\nloop_\n" + "".join(f"_rln{label}\n" for label in [*labels, "OpticsGroup"]))
        for start in range(0, rows, 10_000):
            values = rng.uniform(-90, 90, (min(10_000, rows - start), 9))
            values[:, 6:] *= 50  # a tomogram of 900 nm
            stream.writelines(
                f"TS_{n % 500} TS_{n % 500}/{n} {' '.join(map(str, numbers))} mrc/{n}.mrc {1 + n % 2} 1\n"
                for n, numbers in enumerate(values.round(6).tolist(), start)
            )


def converting(source: Path, target: Path, format: str) -> dict[str, float]:
    """Seconds and peak of a conversion in this process."""
    from gonio.jobs import convert

    options = {"tomogram_size": (1000.0, 1000.0, 500.0), "pixel_size_angstrom": 2.5, "overwrite": True}
    return measured_here(lambda: convert(source, target, to_format=format, **options))


def inspecting(path: Path) -> dict[str, float]:
    """Seconds and peak of ``gonio inspect`` in this process."""
    from gonio.cli.app import run

    return measured_here(lambda: run(["inspect", str(path)]))


def measured_here(action: Callable[[], object]) -> dict[str, float]:
    """Seconds of the processor and the most memory that this process had, all that it began with among it."""
    seconds: list[float] = []
    with timed(seconds):
        action()
    return {"seconds": seconds[0], "peak_bytes": most_memory_bytes()}


def held_bytes() -> int:
    """Memory of this process now; where the system does not tell, the most that it ever was."""
    facts = Path("/proc/self/status")
    lines = facts.read_text().splitlines() if facts.exists() else []
    resident = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:")]
    return resident[0] if resident else most_memory_bytes()


@dataclass(frozen=True)
class Found:
    """All that was measured."""

    boxes: dict[int, dict[str, Cost]]
    sent: dict[int, dict[str, int]]
    collected: dict[str, Cost]
    lists: list[List]


def measured(plan: Plan, folder: Path) -> Found:
    """Everything, in a folder that may be thrown away."""
    boxes, sent, results = {}, {}, []
    for box in plan.scale_boxes:
        boxes[box], sent[box], found = stages(folder / f"box{box}", box=box, count=plan.scale_particles)
        results = results or found
    collected = collecting(folder / "collecting", results, plan.scale_records)
    collected |= scheduled(pickle.dumps(results[0], protocol=5), plan.scale_tasks) or {}
    of_lists = [listed(folder / f"list{rows}", rows) for rows in plan.scale_rows]
    return Found(boxes, sent, collected, of_lists)


def run(plan: Plan) -> list[Row]:
    """The same as rows for ``run_all.py``; both of its columns of time are of the processor."""
    with tempfile.TemporaryDirectory() as name:
        found = measured(plan, Path(name))
    rows = [
        Row(f"box {box}, {what}", cost.seconds, cost.seconds, "particle", note=in_bytes(cost))
        for box, costs in found.boxes.items()
        for what, cost in costs.items()
    ]
    rows += [
        Row(what, cost.seconds, cost.seconds, "item", note=in_bytes(cost)) for what, cost in found.collected.items()
    ]
    for one in found.lists:
        what = f"list of {one.rows} rows"
        rows += [Row(f"{what}, read", one.read, one.read, "list", note=f"{one.table_bytes / 1e6:.0f} MB in memory")]
        rows += [Row(f"{what}, written back", one.written_back, one.written_back, "list")]
    return rows


def in_bytes(cost: Cost) -> str:
    """What is moved."""
    parts = [(cost.read_bytes, "read"), (cost.back_bytes, "back")]
    return ", ".join(f"{count / 1e3:.1f} KB {verb}" for count, verb in parts if count)


def tables(found: Found, count: int) -> Iterator[str]:
    """What docs/scale.md shows, for a list of ``count`` particles."""
    yield piped(("box", "stage", "processor, of one particle", "read", "comes back"), stage_lines(found))
    yield piped(("box", "a worker is sent", "and holds when it aligns"), sent_lines(found))
    yield piped(("in the one process that collects", "processor, of each", "bytes"), collected_lines(found))
    yield piped(LIST_HEAD, map(list_line, found.lists))
    head = ("box", "stage", *(f"{cores} cores (waits for)" for cores in CORES), "full at so many cores")
    yield piped(head, saturation_lines(found, count))


def piped(header: tuple[str, ...], lines: object) -> str:
    """A Markdown table."""
    rows = [header, ("---",) * len(header), *lines]  # type: ignore[misc]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def stage_lines(found: Found) -> Iterator[tuple[str, ...]]:
    """A line for each box and stage."""
    for box, costs in found.boxes.items():
        for what, cost in costs.items():
            yield str(box), what, span(cost.seconds), kilobytes(cost.read_bytes), kilobytes(cost.back_bytes)


def sent_lines(found: Found) -> Iterator[tuple[str, ...]]:
    """A prepared reference behind a short list; what a long list adds is among the lists."""
    for box, sent in found.sent.items():
        yield str(box), megabytes(sent["all orientations"]), megabytes(sent["held"])


def collected_lines(found: Found) -> Iterator[tuple[str, ...]]:
    """A line for each thing that one process does."""
    for what, cost in found.collected.items():
        yield what, span(cost.seconds), kilobytes(cost.read_bytes + cost.back_bytes)


LIST_HEAD = (
    "rows",
    "file",
    "written new",
    "read",
    "written back",
    "in memory",
    "peak",
    "sent to a worker",
    "pickled and back",
    "a row loaded",
    "all rows chosen",
)


def list_line(one: List) -> tuple[str, ...]:
    """A list."""
    return (
        str(one.rows),
        megabytes(one.file_bytes),
        span(one.written_new),
        span(one.read),
        span(one.written_back),
        megabytes(one.table_bytes),
        megabytes(one.peak_bytes),
        megabytes(one.task_bytes),
        span(one.task_seconds),
        span(one.row_seconds),
        span(one.chosen_seconds),
    )


def saturation_lines(found: Found, count: int) -> Iterator[tuple[str, ...]]:
    """How long all of a list takes with so many cores, and what they wait for; few cores are of one machine."""
    for box, costs in found.boxes.items():
        for what, cost in costs.items():
            if not cost.back_bytes:
                continue
            waits = [limits(found, cost, cores=cores, kept="aligning" in what) for cores in CORES]
            cells = (f"{hours(count * max(of.values()))} ({max(of, key=lambda name: of[name])})" for of in waits)
            yield str(box), what.removeprefix("reading and "), *cells, full_at(cost, waits[-1])


def limits(found: Found, cost: Cost, *, cores: int, kept: bool) -> dict[str, float]:
    """Seconds between one particle and the next, were each part alone the slowest."""
    by_dask = cores > ONE_MACHINE and TASK in found.collected
    collecting = dask_seconds(found, cost) if by_dask else taken_seconds(found, cost, TAKEN, TAKEN_MEGABYTE)
    if kept:
        collecting += found.collected[PUT_DOWN].seconds
    limits = {"cores": cost.seconds / cores, "disk": cost.read_bytes / DISK_BYTES, "collecting": collecting}
    moved = cost.read_bytes + cost.back_bytes
    return limits if cores <= ONE_MACHINE else {**limits, "network": moved / NETWORK_BYTES}


def taken_seconds(found: Found, cost: Cost, result: str, megabyte: str) -> float:
    """Of the process that collects, for a particle: its share of a result as small as an alignment's, or its bytes."""
    small, large = found.collected[result].seconds / cost.rows, found.collected[megabyte].seconds
    return max(small, 1e-6 * cost.back_bytes * large)


def dask_seconds(found: Found, cost: Cost) -> float:
    """The same of client and scheduler, with a share of a task, which are half a second long."""
    from gonio.run.cluster import CHUNK_SECONDS, MAX_CHUNK

    items = min(max(CHUNK_SECONDS / (cost.seconds * cost.rows), 1.0), MAX_CHUNK)
    task = found.collected[TASK].seconds / (items * cost.rows)
    return task + taken_seconds(found, cost, BY_DASK, DASK_MEGABYTE)


def full_at(cost: Cost, waits: dict[str, float]) -> str:
    """By how many cores each part that they share is asked for all that it has, the first first."""
    shared = sorted((cost.seconds / seconds, name) for name, seconds in waits.items() if name != "cores")
    return ", ".join(f"{name} {cores:.0f}" for cores, name in shared)


def hours(seconds: float) -> str:
    """A time that may be long."""
    return (
        span(seconds) if seconds < 100 else f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
    )


def kilobytes(count: float) -> str:
    """Bytes of an item."""
    return f"{count / 1e3:.1f} KB" if count else ""


def megabytes(count: float) -> str:
    """Bytes of a list."""
    return f"{count / 1e6:.1f} MB"


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a glance, to see that everything runs")
    parser.add_argument("--rows", type=int, default=100_000, help="particles that the last table is about")
    parser.add_argument("--out", type=Path, help="write the tables into this file too")
    parser.add_argument("--memory", type=Path, metavar="LIST", help=argparse.SUPPRESS)
    parser.add_argument("--lists", type=int, metavar="ROWS", help="lists of so many rows alone")
    parser.add_argument("--formats", nargs="+", default=list(LIST_FORMATS), choices=LIST_FORMATS, help="of --lists")
    parser.add_argument("--make", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--convert", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--inspect", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print(json.dumps(read_and_align(options.memory)))
        return
    if options.make:
        print(json.dumps(measured_here(lambda: made_list(int(options.make[0]), Path(options.make[1])))))
        return
    if options.convert:
        print(json.dumps(converting(Path(options.convert[0]), Path(options.convert[1]), options.convert[2])))
        return
    if options.inspect:
        print(json.dumps(inspecting(options.inspect)))
        return
    if options.lists:
        with tempfile.TemporaryDirectory() as name:
            head = ("list", "processor", "peak", "bytes a row", "file")
            text = piped(head, long_lists(Path(name), options.lists, options.formats))
        print(text)
        return
    with tempfile.TemporaryDirectory() as name:
        found = measured(QUICK if options.quick else USUAL, Path(name))
    text = "\n\n".join(tables(found, options.rows))
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
