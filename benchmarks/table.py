"""What a benchmark found, as rows, and how times are taken: in turns, so that a busy machine is busy for all alike.

The rows of one part belong together: their ratios are medians of ratios within one round, and more to be trusted than
the times beside them.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

HEADS = ("what", "time", "processor", "per", "ratio", "to")
WALL, BUSY = 0, 1
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns"))


@dataclass(frozen=True)
class Row:
    """How long one thing took: ``seconds`` for each ``per``, ``ratio`` times as long as ``beside``.

    ``busy`` are the seconds of all processors, which others that use the machine change least; ``note`` is what else
    was found. A row without seconds is a note alone.
    """

    what: str
    seconds: float | None = None
    busy: float | None = None
    per: str = ""
    ratio: float | None = None
    beside: str = ""
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """The row as text, under ``HEADS``."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        times = ("" if seconds is None else span(seconds) for seconds in (self.seconds, self.busy))
        return self.what, *times, self.per, ratio, self.beside

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def in_turns(
    ways: Mapping[str, Callable[[int], object]], rounds: int, *, warm: bool = True
) -> dict[str, NDArray[np.float64]]:
    """Seconds of every way in every round: A B A B. Ways are called with the number of the round.

    Shape (rounds, 2), ``WALL`` on the clock and ``BUSY`` of all processors, for this process and those it waits for.
    To be ``warm``, a round that is not counted goes before: it compiles, or loads what was compiled.
    """
    seconds = {name: np.empty((rounds, 2)) for name in ways}
    for index in range(-1 if warm else 0, rounds):
        for name, way in ways.items():
            start = _clocks()
            way(max(index, 0))
            if index >= 0:
                seconds[name][index] = _clocks() - start
    return seconds


def _clocks() -> NDArray[np.float64]:
    waited_for = resource.getrusage(resource.RUSAGE_CHILDREN)
    return np.array([time.perf_counter(), time.process_time() + waited_for.ru_utime + waited_for.ru_stime])


def rows_of(
    seconds: Mapping[str, NDArray[np.float64]],
    per: str,
    *,
    beside: str,
    divisors: Mapping[str, float] | None = None,
    clock: int = WALL,
) -> list[Row]:
    """One row for each way, beside one of them or none.

    ``divisors`` says how many units a call of each way did, one where nothing is said. Ratios are of
    ``WALL``, or of ``BUSY`` for what has one thread: then others that use the machine change them least.
    """
    units = {name: times / (divisors or {}).get(name, 1.0) for name, times in seconds.items()}
    return [
        Row(
            name,
            *np.median(times, axis=0).tolist(),
            per,
            float(np.median(times[:, clock] / units[beside][:, clock])) if beside not in ("", name) else None,
            beside if beside != name else "",
        )
        for name, times in units.items()
    ]


def span(seconds: float) -> str:
    """A time with the unit that suits it."""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds / size:.3g} {unit}"


def counted(count: int, thing: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {thing}{'' if count == 1 else 's'}"


def markdown(part: str, rows: Iterable[Row]) -> str:
    """The rows of a part as a table, its notes below."""
    rows = list(rows)
    cells = [HEADS, *(row.cells() for row in rows if row.seconds is not None)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(HEADS))]
    lines = [_line(row, widths) for row in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    notes = [
        f"- {row.what}: {row.note}" if row.note else f"- {row.what}" for row in rows if row.note or not row.seconds
    ]
    table = lines if len(cells) > 1 else []
    return "\n".join([f"## {part}", "", *table, *([""] if table and notes else []), *notes, ""])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"
