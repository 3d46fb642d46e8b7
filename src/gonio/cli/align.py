"""``gonio align``: a list of particles against a map."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.output import numbers_text, print_result, wrapped
from gonio.io.lists import file_name

if TYPE_CHECKING:
    from gonio.jobs.align import Aligned


@command(
    jobs.align,
    reference=typer.Option("--reference", metavar="MAP", help="MRC map that the particles show."),
    local=typer.Option("--local", help="Refine the poses in the list, in place of a search over all orientations."),
    learn=typer.Option(
        "--learn",
        help="Align the first 50 particles twice, to estimate one expected FSC for all, in place of one for each"
        " particle. Costs up to twice the time; for subtomograms that are very noisy. Tilt stacks against a map"
        " do not need it.",
    ),
    truth=typer.Option("--truth", metavar="STAR", help="List of the same particles with true poses: show the errors."),
)
def align(aligned: Aligned, *, output: Path, as_json: bool) -> None:
    """Align a list of particles to a reference map.

    Finds for each particle the rotation and shift that align the reference to it: over all orientations, from coarse
    to fine, which needs no tuning; or with --local from the poses in the list, which it then expects to be roughly
    right (--prior-deg, --prior-shift; after a coarse search give more, or 0, or --cone). Particles are 3-D subtomograms
    (give the tilt range where the list does not hold it) or stacks of 2-D tilt images (RELION 5, WarpTools), which are
    compared CTF included.

    --decoys estimates which particles are real: of template matching's peaks, or of any list with false ones. Each
    particle then has a q-value, the fraction of false ones among all that fit as clearly, and DIR/kept.star lists those
    up to --max-q. particles.star still lists all.

    DIR/particles.star is the list with the new poses, in its own format and with gonio's columns: how well and how
    surely each particle fits, and its next best pose. Of other programs' lists it is DIR/particles.tbl (Dynamo), .em
    (AV3), .xml (PyTom) and so on, and where such a list has no place for these columns DIR/particles.csv holds all of
    it, for gonio and for spreadsheets. DIR/runners_up.star lists all other optima; DIR/report.html shows how well it
    went; DIR/particles.cxc shows the particles in ChimeraX where the list has positions; DIR/summary.json and
    DIR/settings.toml are for programs.

    All of them are written at the end: a particle that cannot be read, or does not fit the reference, stops the run
    with its name and its file, and nothing is replaced. What was done is kept in DIR whatever stops the run: --resume
    goes on from there.

    Example: `gonio align particles.star --reference map.mrc --tilt-range -60 60 -o aligned`

    Example: `gonio align peaks.star --reference map.mrc --decoys 1 -o real`

    Example: `gonio align refined/particles.star --reference map.mrc --local --symmetry C6 -o local`
    """
    print_result(
        aligned.summary,
        numbers_text(aligned.rows),
        "" if aligned.verdict is None else wrapped(str(aligned.verdict)),
        f"wrote {output / file_name(aligned.table, 'particles')}\nlook at {output / 'report.html'}",
        as_json=as_json,
    )
