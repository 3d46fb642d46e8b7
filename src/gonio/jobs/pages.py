"""Parts that the pages of several jobs share: what was done, outliers, an average for display, and defocus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.particle.table import AS_LISTED

if TYPE_CHECKING:
    from gonio.averaging.averages import Average
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Outlier, Report
    from gonio.run.executor import Executor
    from gonio.settings import Settings
    from gonio.workflows.inspection import InputWarning

MOST_OUTLIERS = 6  # particles that a page shows because they differ from the others
# A picture needs no more particles than this, and a plot no more points.
ENOUGH = 500
DEFOCUS = "mean defocus of the tilt images (angstrom)"


def facts_of(seed: int) -> dict[str, str]:
    """Return seed, command, date and versions, for a page."""
    from datetime import datetime

    from gonio.run.provenance import command_line, versions

    return {
        "command": " ".join(command_line()),
        "date": datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "seed": str(seed),
        "versions": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def shared_decisions(settings: Settings) -> list[tuple[str, str, str]]:
    """Return what all jobs that align decide where it was not asked for: name, value, reason."""
    mask, particle = settings.mask_diameter_angstrom, settings.particle_diameter_angstrom
    given = mask or particle
    name = "--mask-diameter" if mask else "--particle-diameter"
    diameter = ("of the map's density", "not given: measured") if given is None else (f"{given:.4g} angstrom", name)
    symmetry = settings.symmetry
    reason = "not given: none is assumed" if symmetry == "C1" else "--symmetry: imposed on averages"
    return [
        ("diameter of the mask", *diameter),
        ("symmetry", symmetry, reason),
        ("contrast", "as read", "density is taken to be bright; --invert flips particles"),
    ]


def files_in(folder: Path, *others: str) -> list[str]:
    """Return the files in a folder, those of its subfolders as these, and others that will be beside them."""
    found = {path.relative_to(folder).as_posix() for path in folder.iterdir() if path.is_file()}
    folders = {f"{path.name}/" for path in folder.iterdir() if path.is_dir()}
    return [*sorted(found | {"report.html", "settings.toml"}), *sorted(folders), *others]


def with_notes(report: Report, table: ParticleTable, warned: Sequence[InputWarning]) -> Report:
    """Return a page with the warnings, and the sense in which tilts were read, where not as listed."""
    notes = {}
    if (sense := table.tilt_sense) != AS_LISTED:
        notes["tilts"] = f"read {sense}: maps are the mirror image of what RELION makes of this list"
    notes |= {f"warning {number}": str(one) for number, one in enumerate(warned, start=1)}
    return replace(report, facts={**report.facts, **notes})


def outliers_of(table: ParticleTable) -> list[Outlier]:
    """Return the outliers of a list, with their volumes; tilt images have none."""
    from gonio.particle.volume import Subtomogram
    from gonio.report import outlying_particles

    found = []
    for row, outliers in outlying_particles(table, most=MOST_OUTLIERS):
        particle = table.load(row)
        found.append(replace(outliers, volume=particle.volume if isinstance(particle, Subtomogram) else None))
    return found


def average_for_display(table: ParticleTable, *, symmetry: str, executor: Executor) -> Average:
    """Average a list's particles, or 500 spread evenly over it, in the halves of the list or alternate ones."""
    from gonio.averaging.averages import average_table

    some = table[_evenly(len(table))]
    listed = np.asarray(some.half_sets)
    halves = (1 + np.arange(len(some)) % 2).astype(np.int8)
    if np.isin(listed, [0, 1, 2]).all() and {1, 2} <= set(listed.tolist()):
        halves = listed
    return average_table(some, executor=executor, half_sets=halves, symmetry=symmetry, stage="average to look at")


def for_display(maps: Mapping[str, Volume], resolution_angstrom: float) -> dict[str, Volume]:
    """Return maps low-passed for display, by names that state it: beyond their resolution they are noise.

    Where halves agree in no shell, three shells are kept.
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
    """Return the mean defocus of the images of 500 particles, (m,), else nan; nothing without tilt images."""
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
    """Return at most ``ENOUGH`` of ``count`` rows, in order."""
    return np.unique(np.linspace(0, max(count - 1, 0), min(count, ENOUGH)).astype(np.int64))
