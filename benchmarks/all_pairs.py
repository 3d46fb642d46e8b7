"""All pairs of a set of particles, each laid on each other one once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from particles import simulated
from plan import Plan
from table import WALL, Row, counted, in_turns, rows_of

import gonio


def all_pairs(particles: list[gonio.Subtomogram], *, n_threads: int) -> list[gonio.PairResult]:
    """In the order of the pairs (0, 1), (0, 2), ..."""
    found = gonio.align_all_pairs(particles, executor=gonio.Local(n_threads))
    return sorted(found, key=lambda pair: (pair.reference, pair.target))


def run(plan: Plan) -> list[Row]:
    """Seconds for each pair, with one thread and with two; a set takes long, so each is timed once."""
    made = simulated(plan.set_size)
    count = plan.set_size * (plan.set_size - 1) // 2
    errors: list[float] = []

    def all_of_them(threads: int, _: int) -> None:
        errors[:] = errors_deg(all_pairs(made.particles, n_threads=threads), made.poses)

    all_pairs(made.particles[:2], n_threads=1)  # compiles
    names = {threads: f"{plan.set_size} particles, {counted(threads, 'thread')}" for threads in (1, 2)}
    turns: dict[str, Callable[[int], None]] = {names[threads]: partial(all_of_them, threads) for threads in names}
    seconds = in_turns(turns, 1, warm=False)
    rows = rows_of(seconds, "pair", beside=names[2], divisors=dict.fromkeys(turns, float(count)))
    whole = " and ".join(f"{times[0, WALL]:.1f} s" for times in seconds.values())
    found = f"{count} pairs in {whole} with one and two threads; median error {np.median(errors):.2f} degrees"
    return [*rows, Row(f"{plan.set_size} particles", note=found)]


def errors_deg(pairs: list[gonio.PairResult], poses: gonio.Pose) -> list[float]:
    """How far each result is from what was simulated."""
    truth = [poses[pair.target] @ poses[pair.reference].inverse() for pair in pairs]
    return [float(pair.result.pose.rotation_distance_deg(t)) for pair, t in zip(pairs, truth, strict=True)]
