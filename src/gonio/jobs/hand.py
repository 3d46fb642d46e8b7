"""The hand of a map against the particles of a list, and what to do about it: ``gonio inspect --hand``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.io.source import ReadOptions
from gonio.jobs.checking import warn_of
from gonio.jobs.fitting import Fitting
from gonio.particle.table import AS_LISTED

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.workflows.inspection import HandScore


def hand_score(
    table: ParticleTable,
    options: ReadOptions,
    map_path: Path,
    sample: int,
    resolution: float | None,
    diameter: float | None,
    seed: int,
) -> HandScore:
    """Return which hand of a map fits particles spread over a list; ValueError where voxels differ in size."""
    from gonio.io import read_volume
    from gonio.workflows.inspection import hand_of

    rows = np.unique(np.linspace(0, len(table) - 1, min(sample, len(table))).round().astype(int))
    chosen = table[rows]
    particles = list(chosen.particles())
    volume = read_volume(map_path, voxel_size_angstrom=options.voxel_size_angstrom, permissive=options.permissive)
    size = particles[0].voxel_size_angstrom
    fitting = Fitting(size, particles[0].box)
    volume = fitting.fit(volume, str(map_path), box=False)
    warn_of(fitting.warnings)
    return hand_of(
        particles,
        chosen.poses,
        volume,
        resolution_angstrom=resolution,
        diameter_angstrom=diameter,
        rng=np.random.default_rng(seed),
    )


def remedies_of(
    score: HandScore, table: ParticleTable, path: Path, map_path: Path, options_of_pair: str
) -> list[tuple[str, str]]:
    """Return the remedies where the mirror image of a map fits: the case, and the command for it."""
    if score.fits != "mirrored":
        return []
    average = f"gonio average {path} -o listed.mrc"
    pair = f"{average} && gonio pair listed.mrc {map_path}{options_of_pair} --mirror -o reference.mrc"
    mirror = ("the hand of the particles is to stay, or that of the map is not known, mirror the map", pair)
    if table.tilt_sense != AS_LISTED:
        return [
            ("tilts were read in the other sense by mistake, read them as listed", "leave out --reverse-tilts"),
            mirror,
        ]
    if table.source is None or not table.source.series:
        return [mirror]
    known = (
        "the hand of the map is known (atoms, right-handed helices), the tilt sense of this set was reversed on import:"
    )
    align = f"gonio align {path} --reverse-tilts --reference {map_path} -o aligned"
    return [(f"{known} read it in the other sense, in average, refine and classify too", align), mirror]
