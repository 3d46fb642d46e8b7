"""What commands look at before they begin: printed as one line for each warning, and returned for the report.

The checks themselves are ``gonio.workflows.checks``.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.workflows.inspection import Suspicion

__all__ = ["look_at_list", "look_at_maps", "look_at_symmetry", "tell"]


def tell(found: Iterable[Suspicion | None]) -> list[Suspicion]:
    """Print each that is one as a warning, and return them."""
    told = [one for one in found if one is not None]
    for one in told:
        print(f"gonio: warning: {one}", file=sys.stderr)
    return told


def look_at_list(table: ParticleTable, references: Mapping[str, Volume] | None = None, **asked: Any) -> list[Suspicion]:
    """Print and return what looks wrong with a list and its maps; arguments and errors as ``warnings_of_list``."""
    from gonio.workflows.checks import warnings_of_list

    return tell(warnings_of_list(table, references, **asked))


def look_at_maps(*compared: Any, **asked: Any) -> list[Suspicion]:
    """Print and return what looks wrong between particles and maps; arguments and errors as ``warnings_of_maps``."""
    from gonio.workflows.checks import warnings_of_maps

    return tell(warnings_of_maps(*compared, **asked))


def look_at_symmetry(
    map_: Volume, symmetry: str, *, resolution_angstrom: float | None, diameter_angstrom: float | None
) -> list[Suspicion]:
    """Print and return the warning where a map does not have the symmetry that was asked for."""
    from gonio.workflows import checks

    found = checks.without_the_symmetry(
        map_, symmetry, resolution_angstrom=resolution_angstrom, diameter_angstrom=diameter_angstrom
    )
    return tell([found])
