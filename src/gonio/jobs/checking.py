"""What jobs look at before they begin: a warning for what looks wrong, an error for what cannot be.

The checks themselves are ``gonio.workflows.checks``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Particle, Volume
    from gonio.settings import Settings
    from gonio.workflows.inspection import Suspicion

__all__ = ["look_at_list", "look_at_maps", "look_at_symmetry"]

INVERT = "pass --invert if it is the particles that are dark, else invert the map"


def _warn(found: Iterable[Suspicion | None]) -> None:
    for one in found:
        if one is not None:
            warnings.warn(str(one), stacklevel=4)


def look_at_list(
    table: ParticleTable,
    references: Mapping[str, Volume] | None = None,
    *,
    mask: Volume | None = None,
    resolutions: Mapping[str, float | None] | None = None,
    poses_for: str | None = None,
) -> None:
    """Warn of what looks wrong with a list and what it is compared with.

    Parameters
    ----------
    references
        The maps that particles are compared with, by what they are called.
    mask
        That was given.
    resolutions
        What was asked for, angstrom, by argument.
    poses_for
        What needs poses of the list, or None where nothing does.

    Raises
    ------
    ValueError
        Voxel sizes that differ, resolutions that do not suit a box, a mask that is none.
    """
    from gonio.workflows import checks

    particles = checks.sample_of(table)
    for name, map_ in [*(references or {}).items(), *([] if mask is None else [("the mask", mask)])]:
        checks.check_voxel_sizes(particles, map_, name=name)
    if poses_for is not None:
        remedy = f"{poses_for} needs them: align first, without --local"
        _warn([checks.without_poses(table, remedy=remedy)])
    look_at_maps(particles, references or {}, mask=mask, resolutions=resolutions or {}, invert=INVERT)


def look_at_maps(
    particles: Sequence[Particle],
    references: Mapping[str, Volume],
    *,
    mask: Volume | None,
    resolutions: Mapping[str, float | None],
    invert: str,
) -> None:
    """Warn of what looks wrong between particles and maps; ``invert`` is what to do about opposite contrast."""
    from gonio.workflows import checks

    for argument, resolution in resolutions.items():
        for one in [*particles[:1], *references.values()]:
            checks.check_resolution(argument, resolution, one.box, one.voxel_size_angstrom)
    if mask is not None:
        checks.check_mask(mask)
        _warn([checks.mask_is_a_map(mask)])
    doubts = (checks.opposite_contrast(particles, one, name=name, remedy=invert) for name, one in references.items())
    _warn([next((doubt for doubt in doubts if doubt is not None), None)])


def look_at_symmetry(map_: Volume, settings: Settings, *, resolution_angstrom: float | None = None) -> None:
    """Warn where a map does not have the symmetry of the settings, at their resolution unless another is given."""
    from gonio.workflows import checks

    resolution = resolution_angstrom or settings.resolution_angstrom
    diameter = settings.particle_diameter_angstrom
    doubt = checks.without_the_symmetry(
        map_, settings.symmetry, resolution_angstrom=resolution, diameter_angstrom=diameter
    )
    _warn([doubt])
