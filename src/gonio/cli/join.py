"""``gonio join``: several particle lists as one, in their own format."""

from __future__ import annotations

from pathlib import Path

import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import print_note, say
from gonio.jobs.join import Joined
from gonio.jobs.join import join as join_lists


@command(
    join_lists,
    sources=typer.Argument(metavar="LIST", help="Two particle lists or more, of one format."),
    output=typer.Option("-o", "--output", metavar="OUT", help="The list to write, in their format."),
    first=typer.Option("--first", help="Of particles of one name in several lists keep that of the first list."),
    renumber=typer.Option(
        "--renumber", help="Number all particles anew, where each list numbers them from 1; RELION's in each tomogram."
    ),
    pixel_size_angstrom=length(
        "--pixel-size", "Size of the lists' pixels, angstrom, where they do not state it; another is refused."
    ),
)
def join(done: Joined, *, output: Path) -> None:
    """Write the particles of several lists of one format into one.

    Every value stays the text that it was. Columns that not all lists have are dropped, and named; optics groups that
    are alike are one, others are numbered anew. A particle in two lists is an error unless --first is given.

    Example: `gonio join day1.star day2.star day3.star -o all.star`

    Example: `gonio join tomogram1.tbl tomogram2.tbl --renumber -o all.tbl`
    """
    if done.lost:
        print_note(f"not all lists have {', '.join(done.lost)}: dropped")
    counts = " + ".join(map(str, done.counts))
    say(f"wrote {len(done.table)} particles (of {counts}): {', '.join(map(str, done.written))}")
