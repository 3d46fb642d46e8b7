"""How much of an alignment is spent outside compiled loops: in the interpreter and in NumPy's small calls.

Every function of ``gonio.kernels`` that is called from Python is timed from outside; what is left is the share of
everything else, which bounds that of the interpreter from above.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from particles import clean_map, simulated, starts
from plan import Plan
from table import Row

import gonio

SHOWN = 4


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds in each kernel while it lasts."""
    spent: dict[str, float] = defaultdict(float)
    rooms = [module for name, module in list(sys.modules.items()) if name.startswith("gonio.")]
    replaced = []
    for room in rooms:
        inside = room.__name__.startswith("gonio.kernels")
        for name, value in list(vars(room).items()):
            if type(value).__name__ == "CPUDispatcher" and (not inside or _is_called(room, value)):
                replaced.append((room, name, value))
    for room, name, value in replaced:
        setattr(room, name, _timed(value, name, spent))
    try:
        yield spent
    finally:
        for room, name, value in replaced:
            setattr(room, name, value)


def _is_called(room: Any, kernel: Any) -> bool:
    """Whether a kernel is one that others call by its module, as in ``cpu.normal_equations(...)``."""
    return kernel.py_func.__module__ == room.__name__ and not kernel.py_func.__name__.startswith("_")


def _timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments)
        finally:
            spent[name] += time.perf_counter() - start

    return call


def run(plan: Plan) -> list[Row]:
    """The share outside kernels, for a pair and for targets of a map."""
    made, map_ = simulated(2 * plan.pairs), clean_map()
    identity = gonio.Pose.identity()
    anywhere, local = gonio.Aligner(map_), gonio.Aligner(map_, gonio.Settings(search="local"))
    near = starts(made.poses, identity, count=2 * plan.pairs)
    ways: dict[str, Callable[[int], object]] = {
        "one pair, all orientations": lambda i: gonio.align(made.particles[2 * i], made.particles[2 * i + 1]),
        "target of a map, all orientations": lambda i: anywhere.align(made.particles[i]),
        "target of a map, local": lambda i: local.align(made.particles[i], start=near[i]),
    }
    rows = []
    for name, align in ways.items():
        align(0)
        with watched() as spent:
            start = time.perf_counter()
            for index in range(plan.pairs):
                align(index)
            whole = time.perf_counter() - start
        most = sorted(spent, key=lambda kernel: -spent[kernel])[:SHOWN]
        parts = ", ".join(f"{kernel} {100 * spent[kernel] / whole:.0f} %" for kernel in most)
        outside = 100 * (1 - np.sum(list(spent.values())) / whole)
        rows.append(Row(name, note=f"{outside:.0f} % outside compiled loops; {parts}"))
    return rows
