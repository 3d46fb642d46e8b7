"""``gonio classify``: which particles of a list are alike, and the average of each class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.output import numbers_text, print_result, say, wrapped
from gonio.io.lists import file_name

if TYPE_CHECKING:
    from gonio.jobs.classify import Classified, Procedure


def watch(procedure: Procedure, *, as_json: bool) -> None:
    """Print the procedure before the classification begins."""
    if not as_json:
        say(wrapped(procedure.reason), flush=True)


@command(
    jobs.classify,
    watch=watch,
    classes=typer.Option("--classes", metavar="K|auto", help="Number of classes; auto proposes one and states why."),
    references=typer.Option(
        "--reference",
        metavar="MAP",
        help="A map that particles may show; once for each. No pairs are aligned then.",
    ),
    pairs_up_to=typer.Option(
        "--pairs-up-to",
        metavar="N",
        min=0,
        help="Align all pairs of up to this many particles; of longer lists, of this many sampled at random.",
    ),
    pool=None,
    symmetry=None,
    seed_interval_deg=None,
    local=typer.Option(
        "--local", help="Begin at the poses in the list, which are about right, also with a --reference."
    ),
)
def classify(classified: Classified, *, output: Path, as_json: bool) -> None:
    """Find classes of particles, and average each.

    Without any map, all pairs of particles are aligned, and classes found from how unlike the pairs are. That takes
    time by the square of their number: of a longer list, a random subset makes the first maps, and then in iterations
    every particle goes to the map that it most likely shows, and the maps are averaged again. Given --reference
    once for each class, or --local and --classes K (which begins with averages of K random subsets at the input
    poses), there are only iterations. Half sets of the list are kept apart in them; classes of pairs are aligned to
    one average of both halves, and the FSC of their halves is then too good by what the halves share.

    DIR/particles.star is the list with rlnClassNumber, poses in the frame of each class and how sure they are;
    DIR/class_1.star and so on are its classes, each in the format of the list (`gonio align --help` says how they are
    called); DIR/class_1.mrc and so on are their averages, with half maps and FSC. With pairs, DIR/pairs.star lists the
    particles whose dissimilarities before and after alignment are the rows of DIR/dissimilarity_before.npy and
    DIR/dissimilarity_after.npy; DIR/dissimilarity.png shows them, and their tree. DIR/report.html shows all of it;
    DIR/maps.cxc and DIR/particles.cxc show it in ChimeraX; DIR/summary.json and DIR/settings.toml are for programs.

    Example: `gonio classify particles.star --tilt-range -60 60 -o classes`

    Example: `gonio classify particles.star --reference a.mrc --reference b.mrc -o by_reference`
    """
    print_result(
        classified.summary,
        "" if classified.paired is None else wrapped(classified.paired.clustering.reason),
        numbers_text(classified.rows),
        wrapped(str(classified.verdict)),
        f"wrote {output / file_name(classified.table, 'particles')} and {output / 'class_1.mrc'}",
        f"look at {output / 'report.html'}",
        as_json=as_json,
    )
