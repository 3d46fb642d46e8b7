"""``gonio refine``: alternate alignment and averaging, in two halves, from a map or from the particles alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import numbers_text, print_result, say, wrapped

if TYPE_CHECKING:
    from gonio.jobs.refine import Refined
    from gonio.workflows.initial_model import DeNovoHalves
    from gonio.workflows.refinement_plan import Iteration

# One line for each iteration, in the width of a terminal.
HEADINGS = "iteration  looked      compared to  halves agree  median particle moved by"


def iteration_line(one: Iteration) -> str:
    """Return an iteration for people, under ``HEADINGS``."""
    where = "near" if one.search == "local" else "everywhere"
    found = "nowhere" if not np.isfinite(one.resolution_angstrom) else f"{one.resolution_angstrom:.1f} A"
    moved = f"{one.moved_deg:.2f} deg, {one.moved_angstrom:.1f} A, {one.moved_sds:.2f} sd"
    return f"{one.number:>9}  {where:<10}  {f'{one.limit_angstrom:.1f} A':>11}  {found:>12}  {moved}"


def watch(event: DeNovoHalves | Iteration, *, as_json: bool) -> None:
    """Print the initial models and each iteration; with ``as_json`` to standard error."""
    from gonio.workflows.initial_model import DeNovoHalves

    if isinstance(event, DeNovoHalves):
        one, other = (len(made.table) for made in event.made)
        lines = [f"maps from {one} and {other} particles agree to {event.resolution_angstrom:.0f} angstrom"]
    else:
        lines = [*([HEADINGS] if event.number == 1 else []), iteration_line(event)]
    say(*lines, sep="\n", file=sys.stderr if as_json else sys.stdout, flush=True)


@command(
    jobs.refine,
    watch=watch,
    reference=typer.Option("--reference", metavar="MAP", help="MRC map to start from, at low resolution."),
    initial_model=typer.Option("--denovo", help="Start from the particles alone: each half makes a map of its own."),
    search=None,
    inputs=None,
    pool=None,
    seed_interval_deg=None,
    subset=typer.Option(
        "--subset",
        metavar="N",
        min=6,
        help="With --denovo: particles of each half, of which all pairs are aligned. Default: 40.",
    ),
    local=typer.Option(
        "--local",
        help="Poses in the list are nearly right: search around them alone. Without --reference each half starts"
        " from its own average at these poses.",
    ),
    continue_from=typer.Option(
        "--continue-from",
        metavar="DIR",
        help="Go on from a finished refinement of the same particles, which may have been cut again in smaller voxels:"
        " from its poses, half sets and half maps.",
    ),
    start_resolution_angstrom=length(
        "--start-resolution", "Resolution of the map at the start, of --reference or --denovo, angstrom. Default: 60."
    ),
    resolution_angstrom=length(
        "--resolution", "Finest detail that is ever compared, angstrom. Default: as far as the halves agree."
    ),
    iterations=typer.Option(
        "--iterations",
        metavar="N",
        min=1,
        help="Largest number of iterations; with --resume and a larger one a run that ended for it goes on.",
    ),
    overlap_distance_angstrom=length(
        "--overlap",
        "Particles nearer than this along every axis stay in one half, angstrom. Default: the box's edge.",
    ),
    tilts=typer.Option(
        "--refine-tilts",
        help="Refine shift, rotation and defocus of every tilt image too, once searches are local; of 2-D stacks.",
    ),
    duplicates_angstrom=length(
        "--duplicates", "Drop particles that come to lie nearer than this to one that fits better, angstrom."
    ),
)
def refine(refined: Refined, *, output: Path, as_json: bool) -> None:
    """Refine poses and map together, the two halves of the particles apart from the first step.

    Each half is aligned to its own map, whose resolution limit follows the Fourier shell correlation of the halves and
    never runs ahead of it; over all orientations first, near the poses found later, until neither moves any more. Half
    sets are those of the list (rlnRandomSubset); without them, or with --split, they are made such that overlapping
    boxes and parts of one particle stay in one half.

    A map given as --reference is taken at low resolution alone, and both halves start from it: to that resolution they
    agree whatever the particles show. With --denovo each half makes its own initial model from its own particles; with
    --local each half starts from its average at the poses of the list, which stay where a prior expects them.

    With --continue-from particles are searched near the poses of a finished refinement, in its half sets, at first
    against its half maps, resampled to the voxels of the list, and to where these agree. The list holds some or all of
    its particles by the same names, as `gonio extract` cuts them again from the list in DIR; options are given anew.

    With --refine-tilts every iteration that searches near the poses found adjusts tilts and poses together, as
    `gonio tilts` does, and writes tilts.csv and tomograms/tomograms.star, which optimisation_set.star names and
    particles that are cut again need; averages are then at the poses found (--assignment hard).

    DIR/iteration_001/ and so on hold half1.mrc, half2.mrc, map.mrc, fsc.csv and particles.star as they were then; the
    list is in the format that it was read in, as that of `gonio align`. DIR holds those of the last iteration whose
    resolution is within a quarter of a shell of the best, as a rule the last of all, and mask.mrc, runners_up.star,
    iterations.csv, duplicates.csv, report.html, summary.json and settings.toml; and what `gonio postprocess` makes of
    its half maps: sharpened.mrc, locally_filtered.mrc, local_resolution.mrc, guinier.csv and directional_fsc.csv.
    maps.cxc and particles.cxc show them in ChimeraX. A run that is cut off goes on with --resume; one that ended for
    --iterations goes on with --resume and more of them, to the same results as a run that was begun with as many.

    Example: `gonio refine particles.star --reference map.mrc --start-resolution 60 -o refined`

    Example: `gonio refine particles.star --denovo -o from_nothing`

    Example: `gonio refine bin2/particles.star --continue-from refined_bin4 --symmetry C6 -o refined_bin2`
    """
    print_result(
        refined.summary,
        numbers_text(refined.rows),
        wrapped(str(refined.verdict)),
        f"wrote {output / 'map.mrc'}, its halves and its particles\nlook at {output / 'report.html'}",
        as_json=as_json,
    )
