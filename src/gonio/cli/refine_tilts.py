"""``gonio tilts``: refine the geometry of tilt series on the particles in them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import numbers_text, print_result, say

if TYPE_CHECKING:
    from gonio.jobs.refine_tilts import TiltsRefined
    from gonio.workflows.tilt_turns import TiltIteration


def watch(one: TiltIteration, *, as_json: bool) -> None:
    """Print an iteration; with ``as_json`` to standard error."""
    what = "as listed" if not one.number else f"iteration {one.number}, compared to {one.limit_angstrom:.1f} A"
    found = f"{what}: halves agree to {one.resolution_angstrom:.1f} A"
    say(found, file=sys.stderr if as_json else sys.stdout, flush=True)


@command(
    jobs.tilts,
    watch=watch,
    reference=typer.Option(
        "--reference",
        metavar="MAP MAP",
        help="Maps of half 1 and half 2 in the frame of the poses. Default: averages of the particles themselves.",
    ),
    iterations=typer.Option(
        "--iterations", metavar="N", min=1, help="Adjustments. Default: 3; 1 with --reference, which stays the same."
    ),
    overlap_distance_angstrom=length(
        "--overlap",
        "Particles nearer than this along every axis stay in one half, angstrom. Default: the box's edge.",
    ),
    resolution_angstrom=length(
        "--resolution", "Finest detail that is ever compared, angstrom. Default: as far as the halves agree."
    ),
    tilt_files=None,
    tilt_weights=None,
    tilt_range_deg=None,
    axis_deg=None,
    score=None,
    search=None,
    inputs=None,
    pool=None,
    seed_interval_deg=None,
    max_shift_angstrom=None,
    device=None,
)
def tilts(refined: TiltsRefined, *, output: Path, as_json: bool) -> None:
    """Refine shift, rotation and defocus of every tilt, together with the poses of the particles.

    One least-squares problem for each tomogram holds all of its tilts and particles: two shifts, three rotations and
    the defocus of every image (--astigmatism, --scale and --deformation add those), six numbers for the pose of every
    particle, and its contrast. Each particle is compared with the map of its own half. What the data do not determine
    stays within its prior, and is named. Priors of tilts are as wide as the tilts found suggest, and at most as stated.

    The stacks stay as they are: images are moved by phases. DIR holds tilts.csv (what each image had before and has
    after, with its standard deviation, marginal over everything else), tomograms/tomograms.star with the new tilts,
    particles.star with the new poses, map.mrc, half1.mrc, half2.mrc, fsc.csv, fsc_before.csv, report.html, summary.json
    and settings.toml, and DIR/iteration_001/ and so on the tilts of each iteration. Other commands read the list and
    its stacks with the new tilts by --tomograms DIR/tomograms/tomograms.star, this one too. Images whose particle comes
    to lie more than a quarter of the box from where they were cut are left out, with a warning. A run that is cut off
    goes on with --resume.

    Example: `gonio tilts refined/particles.star --diameter 260 -o tilts`

    Example: `gonio tilts refined/particles.star --reference refined/half1.mrc refined/half2.mrc -o tilts`
    """
    print_result(
        refined.summary,
        numbers_text(refined.rows),
        "\n".join(f"not determined in {name}: {'; '.join(text)}" for name, text in refined.undetermined.items()),
        f"wrote {output / 'tilts.csv'} and the particles\nlook at {output / 'report.html'}",
        as_json=as_json,
    )
