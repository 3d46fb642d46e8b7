"""One pair: every way to align it, in boxes and to limits of several sizes, beside a scan that anyone can write.

The scan turns one particle with SciPy and finds the best shift by FFT, at as many orientations as the default search
starts from; a few of them are timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from particles import Set, simulated, starts
from plan import Plan
from scipy import fft
from scipy.ndimage import affine_transform
from table import BUSY, Row, in_turns, rows_of

import gonio

ORIENTATIONS, TIMED = 497, 20
LIMIT_ANGSTROM = 40.0
PAPERS = {
    f"paper's search, {score}, {interval:g} degrees": gonio.Settings(
        score=gonio.Score(score), search=gonio.PaperSearch("stochastic", interval)
    )
    for interval in (60.0, 45.0)
    for score in ("rcs", "fcs")
}
GLOBAL, LOCAL = "all orientations", "local"


def scan(pairs: Set, index: int, *, order: int) -> float:
    """Correlate a target with a reference turned to TIMED orientations; the best correlation over all shifts."""
    target, reference = (pairs.particles[2 * index + i].volume.data for i in range(2))
    spectrum, centre = fft.rfftn(target), np.array(reference.shape) // 2
    best = -np.inf
    for matrix in gonio.Pose.random(TIMED, rng=np.random.default_rng(index)).matrix:
        turned = affine_transform(reference, matrix, offset=centre - matrix @ centre, order=order)
        best = max(best, float(fft.irfftn(spectrum * fft.rfftn(turned).conj(), s=target.shape).max()))
    return best


def aligning(pairs: Set, settings: gonio.Settings, *, limit_angstrom: float) -> Callable[[int], gonio.Result]:
    """Aligns pair number i: two noisy particles, of which the second is the reference."""
    limited = replace(settings, resolution_angstrom=limit_angstrom)
    poses = [(pairs.poses[i], pairs.poses[i + 1]) for i in range(0, len(pairs), 2)]
    near = [starts(gonio.Pose.stack([f]), g, count=1, seed=i)[0] for i, (f, g) in enumerate(poses)]

    def align(index: int) -> gonio.Result:
        start = near[index] if isinstance(settings.search, gonio.LocalSearch) else None
        target, reference = pairs.particles[2 * index : 2 * index + 2]
        return gonio.align(target, reference, settings=limited, rng=np.random.default_rng(index), start=start)

    return align


def timed(
    pairs: Set, ways: dict[str, gonio.Settings], *, limit_angstrom: float, orders: Iterable[int] = ()
) -> dict[str, NDArray[np.float64]]:
    """Seconds of each way, and of a scan with each order of interpolation: those of all orientations."""
    turns: dict[str, Callable[[int], object]] = {
        name: aligning(pairs, settings, limit_angstrom=limit_angstrom) for name, settings in ways.items()
    }
    scans = {f"scan with SciPy, order {order}": partial(scan, pairs, order=order) for order in orders}
    seconds = in_turns({**turns, **scans}, len(pairs) // 2)
    return {name: times * (ORIENTATIONS / TIMED if name in scans else 1.0) for name, times in seconds.items()}


def run(plan: Plan) -> list[Row]:
    """Seconds for each pair; ratios are to the default search in the same box."""
    rows = [Row(f"scans are of {ORIENTATIONS} orientations, extrapolated from {TIMED}")]
    basic = {GLOBAL: gonio.Settings(), LOCAL: gonio.Settings(search=gonio.LocalSearch())}
    for box in plan.boxes:
        every = plan.all_ways_in_all_boxes or box == plan.boxes[0]
        pairs, ways = simulated(2 * plan.pairs, box=box), {**basic, **(PAPERS if every else {})}
        seconds = timed(pairs, ways, limit_angstrom=LIMIT_ANGSTROM, orders=(1, 3) if every else ())
        rows += _rows(seconds, f"box {box}, {LIMIT_ANGSTROM:g} A")
    return rows + limits(plan, basic)


def limits(plan: Plan, ways: dict[str, gonio.Settings]) -> list[Row]:
    """The smallest box to several limits."""
    pairs, rows = simulated(2 * plan.pairs, box=plan.boxes[0]), []
    for limit in (limit for limit in plan.limits_angstrom if limit != LIMIT_ANGSTROM):
        rows += _rows(timed(pairs, ways, limit_angstrom=limit), f"box {plan.boxes[0]}, {limit:g} A")
    return rows


def _rows(seconds: dict[str, NDArray[np.float64]], where: str) -> list[Row]:
    named = {f"{name}, {where}": times for name, times in seconds.items()}
    return rows_of(named, "pair", beside=f"{GLOBAL}, {where}", clock=BUSY)
