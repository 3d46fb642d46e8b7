"""Warnings about the inputs of a job, before it begins: as Python's warnings, and as values for its report.

The checks themselves are ``gonio.workflows.checks``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.settings import Settings
    from gonio.workflows.inspection import InputWarning


def warn_of(found: Iterable[InputWarning | None]) -> list[InputWarning]:
    """Warn, at the line of the caller's caller, of each check that found something, and return those warnings."""
    warned = [one for one in found if one is not None]
    for one in warned:
        warnings.warn(str(one), stacklevel=3)
    return warned


def doubts_of(
    table: ParticleTable,
    reference: Volume | None,
    settings: Settings,
    *,
    mask: Volume | None,
    local: bool,
    start_angstrom: float | None = None,
) -> list[InputWarning | None]:
    """Return what is to be warned of before a list is aligned to a map, which is judged where it starts at."""
    from gonio.workflows import checks

    maps = {} if reference is None else {"the reference": reference}
    resolutions = {"resolution_angstrom": settings.resolution_angstrom}
    if maps and start_angstrom is not None:
        resolutions["start_resolution_angstrom"] = start_angstrom
    poses_for = "a local search" if local else None
    found = checks.warnings_of_list(table, maps, mask=mask, resolutions=resolutions, poses_for=poses_for)
    if reference is None:
        return [*found]
    finest, diameter = start_angstrom or settings.resolution_angstrom, settings.particle_diameter_angstrom
    symmetry = settings.symmetry
    return [
        *found,
        checks.without_the_symmetry(reference, symmetry, resolution_angstrom=finest, diameter_angstrom=diameter),
    ]
