"""``gonio average``: the map that the poses of a list make, and its resolution."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import numbers_text, print_result, wrapped
from gonio.jobs.average import PAGE_ENDING
from gonio.jobs.files import beside
from gonio.particle.table import AS_LISTED

if TYPE_CHECKING:
    from gonio.jobs.average import Averaged


@command(
    jobs.average,
    output=typer.Option("-o", "--output", metavar="MAP", help="MRC file to write."),
    halves=typer.Option("--halves/--no-halves", help="Average the half sets of the list (rlnRandomSubset) too."),
    overlap_distance_angstrom=length(
        "--overlap",
        "With --split: particles nearer than this along every axis stay in one half, angstrom. Default: the"
        " box's edge.",
    ),
    mask=typer.Option(
        "--mask", metavar="MAP", help="Mask for the FSC, 0 to 1. Default: made from the average, and written."
    ),
)
def average(averaged: Averaged, *, output: Path, halves: bool, as_json: bool) -> None:
    """Average particles at the poses in their list.

    Every particle counts at each spatial frequency by what it has measured there: its wedge, or the CTF and the dose
    of its tilt images. With half sets two more maps are made from one half of the particles each; how well they agree,
    without a mask and within a soft one (what the mask itself adds taken off), is the resolution: where
    that curve first falls below 0.143, whatever it does beyond.

    MAP is written as it was averaged, neither filtered nor sharpened, and beside it MAP_coverage.mrc, which states how
    often each frequency was measured, MAP.cxc, which opens the maps in ChimeraX, and MAP.settings.toml; with half sets
    MAP_half1.mrc, MAP_half2.mrc, MAP_mask.mrc, MAP_fsc.csv, and what `gonio postprocess` makes of them:
    MAP_sharpened.mrc, MAP_locally_filtered.mrc, MAP_local_resolution.mrc, MAP_guinier.csv, MAP_directional_fsc.csv;
    MAP_report.html shows all of it. All are written at the end. A particle that cannot be read stops the run with its
    name and its file.

    Example: `gonio average aligned/particles.star -o average.mrc`

    Example: `gonio average aligned/particles.star --split --symmetry D7 -o average.mrc`
    """
    made, sense = averaged.average, averaged.tilt_sense
    print_result(
        averaged.summary,
        f"wrote {output}: {made.count} particles, {made.volume.box} voxels of {made.volume.voxel_size_angstrom:g} A",
        numbers_text(averaged.rows),
        f"tilts were read {sense}: the map is the mirror image of what RELION makes of this list"
        if sense != AS_LISTED
        else "",
        f"{wrapped(str(averaged.verdict))}\nlook at {beside(output, PAGE_ENDING)}",
        "no half sets in the list: pass --split for a resolution" if halves and averaged.agreement is None else "",
        as_json=as_json,
    )
