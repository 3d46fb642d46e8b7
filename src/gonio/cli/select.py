"""``gonio select``: a part of a particle list, in its own format."""

from __future__ import annotations

from pathlib import Path

import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import say
from gonio.jobs.select import Selected
from gonio.jobs.select import select as select_particles


@command(
    select_particles,
    source=typer.Argument(metavar="IN", help="Particle list of any format that is written."),
    target=typer.Argument(metavar="OUT", help="The list to write, in the format of IN."),
    where=typer.Option(
        "--where",
        metavar="'COLUMN<VALUE'",
        help="Keep particles whose column is so: = != < <= > >=; several values between commas. Columns: name,"
        " tomogram, class, score, half_set, x, y, z (angstrom, with shifts), gonio's, or the file's own. Several times:"
        " all hold.",
    ),
    classes=typer.Option("--class", metavar="N", help="Keep this class; may be given several times."),
    tomograms=typer.Option("--tomogram", metavar="NAME", help="Keep this tomogram; may be given several times."),
    max_q=typer.Option("--max-q", metavar="Q", help="Largest q-value of align --decoys."),
    max_rotation_sd_deg=typer.Option(
        "--max-rotation-sd", metavar="DEG", help="Largest predicted error of the orientation, degrees."
    ),
    max_shift_sd_angstrom=length("--max-shift-sd", "Largest predicted error of the position, angstrom."),
    min_margin=typer.Option("--min-margin", metavar="M", help="Least margin over the next best pose."),
    within=typer.Option("--in", metavar="LIST", help="Keep particles that this list names too."),
    without=typer.Option("--not-in", metavar="LIST", help="Leave out particles that this list names."),
    apart_angstrom=length("--apart", "Of particles nearer than this to each other keep the better, angstrom."),
    lowest=typer.Option(
        "--lowest", metavar="COLUMN", help="With --apart: lowest is best. Default: dissimilarity, where there is one."
    ),
    highest=typer.Option("--highest", metavar="COLUMN", help="With --apart: highest is best, such as score."),
    random=typer.Option("--random", metavar="N", min=1, help="Keep so many of those left, at random."),
    pixel_size_angstrom=length(
        "--pixel-size", "Size of the list's pixels, angstrom, where it does not state it; another is refused."
    ),
)
def select(done: Selected, *, target: Path) -> None:
    """Write the particles of a list that fulfil all conditions.

    OUT has the format of IN with all its columns and blocks, every value as the text that it was. OUT.settings.toml
    states how it was made. Steps: conditions, other lists, neighbours, at random.

    Example: `gonio select aligned/particles.star good.star --max-q 0.05 --where 'rotation_sd_deg<4' --apart 120`

    Example: `gonio select classes/particles.star ribosomes.star --class 1 --class 3`

    Example: `gonio select all.tbl new.tbl --not-in used.tbl --random 500`
    """
    say(f"{done.count} particles")
    for step, left in done.steps:
        say(f"  {step}: {left}")
    say(f"wrote {len(done.table)} particles: {', '.join(map(str, done.written))}")
