"""``gonio convert``: a particle list in the format of another program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import say
from gonio.jobs.convert import Converted
from gonio.jobs.convert import convert as convert_list

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable

SHOWN = 3


@command(
    convert_list,
    source=typer.Argument(metavar="IN", help="The list; its format is recognised by its content."),
    target=typer.Argument(metavar="OUT", help="The list to write; its ending selects the format."),
    from_format=typer.Option("--from", metavar="FORMAT", help="Format of IN, where it must not be guessed."),
    to_format=typer.Option(
        "--to", metavar="FORMAT", help="Format of OUT, where its ending is ambiguous, as for older STAR lists."
    ),
    pixel_size_angstrom=length(
        "--pixel-size", "Size of the pixels that IN counts coordinates in, angstrom, in place of what it states."
    ),
    to_pixel_size_angstrom=length(
        "--to-pixel-size",
        "Size of the pixels that OUT counts in, angstrom, such as those of binned tomograms. Default: as IN.",
    ),
    tomogram_size=typer.Option(
        "--tomogram-size",
        metavar="X Y Z",
        help="Size of all tomograms, in IN's pixels: to count to or from their centre (RELION 5, EMAN2).",
    ),
    tomograms_path=typer.Option(
        "--tomograms",
        metavar="FILE",
        help="tomograms.star or a STOPGAP wedge list, for the sizes of tomograms. Default: what the list names.",
    ),
    whole=typer.Option(
        "--whole",
        help="Make coordinates whole pixels, the rest a shift: for programs that cut boxes at whole voxels.",
    ),
    tomostar=typer.Option(
        "--tomostar",
        help="Name tomograms as WarpTools names their tilt series: TS_01.tomostar of TS_01_10.00Apx.mrc.",
    ),
    dry_run=typer.Option("--dry-run", help="Print what would be written, what would be lost, and three particles."),
)
def convert(done: Converted, *, source: Path, target: Path, dry_run: bool) -> None:
    """Write a particle list in the format of another program.

    Formats: relion5, relion4, relion3.1, relion3.0, warp, dynamo, stopgap, av3, pytom, eman, eman-json, peet, imod,
    csv, parquet; eman-boxes is read only. Poses, positions, half sets, classes, scores and every other column are kept
    where the format has a place for them; `--dry-run` lists what is lost.

    OUT is written, OUT.settings.toml beside it, and what else the format needs: optimisation_set.star with lists of
    2-D stacks, OUT.doc with the names of tomograms that a format numbers, NAME.mod with PEET's lists.

    Example: `gonio convert particles.star particles.tbl`

    Example: `gonio convert particles.star particles.tbl --tomogram-size 512 512 256 --dry-run`
    """
    for word, path, table, kind in (("from", source, done.table, done.given), ("to", target, done.made, done.wanted)):
        say(f"{word:5}{path}: {kind.title}, {len(table)} particles, {_pixels(table)}{_start(table)}")
    for lost in done.lost:
        say(f"{done.wanted.title} cannot hold: {lost}")
    _print_name_of_series(done)
    if dry_run:
        _print_first(done)
    else:
        say(f"wrote {', '.join(map(str, done.written))}")


def _print_name_of_series(done: Converted) -> None:
    from gonio.io.names import tomostar

    name = next((name for name in done.made.tomograms if name and not name.endswith(".tomostar")), None)
    if done.wanted.name == "warp" and name is not None:
        say(f"WarpTools looks for {tomostar(name)}, and {name} is what this list calls it: pass --tomostar for that")


def _pixels(table: ParticleTable) -> str:
    sizes = table.pixel_sizes_angstrom
    if sizes is None:
        return "pixels of unknown size" if table.lengths == "pixels" else "in angstrom"
    few = np.unique(sizes)
    return f"pixels of {few[0]:g} A" if len(few) == 1 else f"pixels of {few[0]:g} to {few[-1]:g} A"


def _start(table: ParticleTable) -> str:
    if table.coordinates_angstrom is None:
        return ", no positions"
    return f", positions from the {table.coordinates_from} of the tomogram"


def _print_first(done: Converted) -> None:
    """Print the first particles in the words of both formats, side by side."""
    from gonio.io.formats import stated_poses

    first = slice(0, SHOWN)
    left, right = stated_poses(done.table[first]), done.wanted.shown(done.made[first])
    for index, name in enumerate(done.table.names[:SHOWN]):
        say(f"\n{name}")
        for one, other in zip_longest(_lines(left, index), _lines(right, index), fillvalue=""):
            say(f"  {one:<44}{other}".rstrip())


def _lines(columns: Mapping[str, Sequence[str]], index: int) -> list[str]:
    width = max(map(len, columns), default=0)
    return [f"{label:<{width}} {float(values[index]):12.4f}" for label, values in columns.items()]
