"""Many targets against one reference: targets in a second, and what a second thread gives.

The time of one target holds the preparation of the reference. Results must be the same bits for any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from particles import Set, clean_map, simulated, starts
from plan import Plan
from table import Row, counted, in_turns, rows_of

import gonio

THREADS = (1, 2)
ROUNDS_OF_TARGETS = 300
DISTINCT = 100  # particles that are simulated; more targets go through them again, from other starts


def aligned(
    targets: Set, reference: gonio.Volume | gonio.Subtomogram, near: gonio.Pose | None, *, count: int, threads: int
) -> list[gonio.Result]:
    """The first ``count`` targets on a reference, near poses or at any orientation."""
    search = gonio.GlobalSearch() if near is None else gonio.LocalSearch()
    aligner = gonio.Aligner(reference, gonio.Settings(search=search))
    return aligner.align_many(targets.repeated(count), starts=near, n_threads=threads)


def same_bits(first: list[gonio.Result], second: list[gonio.Result]) -> bool:
    """Whether poses, dissimilarities and covariances are equal to the last bit."""

    def numbers(results: list[gonio.Result]) -> list[np.ndarray]:
        return [
            np.concatenate(
                [r.pose.matrix.ravel(), r.pose.shift_angstrom, r.covariance.ravel(), [r.dissimilarity, r.n_iterations]]
            )
            for r in results
        ]

    return len(first) == len(second) and np.array_equal(numbers(first), numbers(second), equal_nan=True)


def run(plan: Plan) -> list[Row]:
    """Seconds for each target, with each number of threads."""
    most = max(*plan.global_targets, *plan.local_targets)
    targets, other = simulated(min(DISTINCT, most)), simulated(1, seed=2)
    references = {
        "map": (clean_map(), gonio.Pose.identity()),
        "subtomogram": (other.particles[0], other.poses[0]),
    }
    rows = []
    for name, (reference, pose) in references.items():
        for count in plan.global_targets:
            way = partial(aligned, targets, reference, None, count=count)
            rows += _rows(way, f"all orientations, {name}, {counted(count, 'target')}", count, plan)
        for count in plan.local_targets:
            way = partial(aligned, targets, reference, starts(targets.poses, pose, count=count), count=count)
            rows += _rows(way, f"local, {name}, {counted(count, 'target')}", count, plan)
    return rows


def _rows(way: Callable[..., list[gonio.Result]], what: str, count: int, plan: Plan) -> list[Row]:
    found: dict[int, list[gonio.Result]] = {}
    names = {threads: f"{what}, {counted(threads, 'thread')}" for threads in THREADS}

    def call(threads: int, _: int) -> None:
        found[threads] = way(threads=threads)

    # Few take no time, and the first call compiles; with many there is little left to chance.
    few = count < DISTINCT
    turns = {names[threads]: partial(call, threads) for threads in THREADS}
    seconds = in_turns(turns, plan.rounds if few else max(1, ROUNDS_OF_TARGETS // count), warm=few)
    if not same_bits(found[1], found[2]):
        raise SystemExit(f"{what}: results depend on the number of threads")
    rows = rows_of(seconds, "target", beside=names[2], divisors=dict.fromkeys(names.values(), float(count)))
    rates = " and ".join(f"{1.0 / (row.seconds or 1.0):.1f}" for row in rows)
    return [*rows, Row(what, note=f"{rates} targets/s with one and two threads; results are the same bits")]
