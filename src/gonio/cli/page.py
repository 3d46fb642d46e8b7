"""What the pages of several commands show: what was done, odd particles, an average to look at, and defocus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.cli.options import AS_LISTED, tilt_sense
from gonio.cli.output import command_line

if TYPE_CHECKING:
    from gonio.averaging.average import Average
    from gonio.averaging.resolution import HalfMapFsc
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Odd, Report
    from gonio.run.engine import Mapper
    from gonio.workflows.inspection import Suspicion

__all__ = ["Looked", "as_seen", "defocus_of", "facts_of", "looked_at", "odd_of", "with_notes"]

MOST_ODD = 6  # particles that a page shows because they differ from the others
# A picture needs no more particles than this, and a plot no more points.
ENOUGH = 500
DEFOCUS = "mean defocus of the tilt images (angstrom)"


def facts_of(seed: int) -> dict[str, str]:
    """What was done, for a page."""
    from datetime import datetime

    from gonio.run.provenance import versions

    return {
        "command": " ".join(command_line()),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "seed": str(seed),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def with_notes(report: Report, table: ParticleTable, warned: Sequence[Suspicion]) -> Report:
    """Return a page that also says in which sense tilts were read, where not as listed, and what commands warned of."""
    notes = {}
    if (sense := tilt_sense(table)) != AS_LISTED:
        notes["tilts"] = f"read {sense}: maps are the mirror image of what RELION makes of this list"
    for number, one in enumerate(warned, start=1):
        notes[f"warning {number}"] = str(one)
    return replace(report, facts={**report.facts, **notes})


def odd_of(table: ParticleTable) -> list[Odd]:
    """The particles of a list to be looked at, with their volumes; tilt images have none."""
    from gonio.particle.volume import Subtomogram
    from gonio.report import odd_particles

    found = []
    for row, odd in odd_particles(table, most=MOST_ODD):
        particle = table.load(row)
        found.append(replace(odd, volume=particle.volume if isinstance(particle, Subtomogram) else None))
    return found


@dataclass(frozen=True)
class Looked:
    """An average of particles, and how far its halves agree where there are two."""

    average: Average
    count: int
    fsc: HalfMapFsc | None


def looked_at(table: ParticleTable, *, symmetry: str, mapper: Mapper) -> Looked:
    """The average of a list's particles, or of 500 drawn evenly from it, with the halves of the list or every other."""
    from gonio.averaging.average import average_table
    from gonio.averaging.resolution import half_map_fsc, soft_mask

    some = table[_evenly(len(table))]
    listed = np.asarray(some.half_sets)
    halves = listed if np.isin(listed, [0, 1, 2]).all() and {1, 2} <= set(listed.tolist()) else _alternate(len(some))
    made = average_table(some, mapper=mapper, half_sets=halves, symmetry=symmetry, stage="average to look at")
    if made.halves is None:
        return Looked(made, len(some), None)
    fsc = half_map_fsc(made.halves, mask=soft_mask(made.volume), rng=np.random.default_rng(0))
    return Looked(made, len(some), fsc)


def as_seen(maps: Mapping[str, Volume], resolution_angstrom: float) -> dict[str, Volume]:
    """Maps as a page shows them, by names that say so: beyond their resolution they are noise, and hide in it.

    Where halves agree on nothing, three shells are left to look at.
    """
    from gonio.fourier.transform import MIN_SHELLS, low_passed

    seen = {}
    for name, volume in maps.items():
        limit = min(resolution_angstrom, volume.box_angstrom / MIN_SHELLS)
        if limit <= 2.0 * volume.voxel_size_angstrom * 1.001:
            seen[name] = volume
        else:
            seen[f"{name}, to {limit:.0f} angstrom"] = low_passed(volume, resolution_angstrom=limit)
    return seen


def defocus_of(table: ParticleTable) -> dict[str, NDArray[np.float64]]:
    """The mean defocus of each particle's images, (m,), for 500 of them; nothing where there are no tilt images."""
    from gonio.particle.volume import TiltStack

    values = np.full(len(table), np.nan)
    for row in _evenly(len(table)).tolist():
        particle = table.load(row)
        if not isinstance(particle, TiltStack) or particle.ctf is None:
            return {}
        used, ctf = particle.used, particle.ctf
        mean = 0.5 * (np.asarray(ctf.defocus_u_angstrom) + np.asarray(ctf.defocus_v_angstrom))
        values[row] = float(np.mean(np.broadcast_to(mean, used.shape)[used]))
    return {DEFOCUS: values}


def _evenly(count: int) -> NDArray[np.int64]:
    """At most ``ENOUGH`` of ``count`` rows, in order."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, ENOUGH)).astype(np.int64))


def _alternate(count: int) -> NDArray[np.int8]:
    return (1 + np.arange(count) % 2).astype(np.int8)
