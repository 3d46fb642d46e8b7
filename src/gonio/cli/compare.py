"""``gonio compare``: how far two lists of the same particles are apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import numbers_text, print_result
from gonio.jobs.compare import Comparison
from gonio.jobs.compare import compare as compare_lists

SHOWN = 12


@command(
    compare_lists,
    first=typer.Argument(metavar="A", help="Particle list of any format."),
    second=typer.Argument(metavar="B", help="Another list of the same particles; formats may differ."),
    output=typer.Option("-o", "--output", metavar="DIR", help="Folder to make, with a table and a plot."),
    pixel_size_angstrom=length(
        "--pixel-size", "Size of the pixels of lists that do not state it, angstrom; others keep theirs."
    ),
)
def compare(found: Comparison, *, output: Path | None, as_json: bool) -> None:
    """Compare the poses of particles that two lists have, matched by name.

    Prints the angles between orientations, modulo --symmetry, and the distances between positions (listed position plus
    shift), of all and of each tomogram. A rotation of the whole reference that all poses have in common is found, and
    told where it is most of the difference. DIR has differences.csv, a row for each particle, and differences.png.

    Example: `gonio compare aligned/particles.star truth.star`

    Example: `gonio compare refined/particles.star earlier.star --symmetry C4 -o compared`
    """
    of_tomograms = found.of_tomograms
    worst = sorted(of_tomograms, key=lambda name: -float(np.median(found.angle_deg[of_tomograms[name]])))
    lines = [
        f"  {name or 'unnamed'}: {len(of_tomograms[name])} particles, median"
        f" {np.median(found.angle_deg[of_tomograms[name]]):.3g} degrees,"
        f" {np.median(found.shift_angstrom[of_tomograms[name]]):.3g} angstrom"
        for name in worst[:SHOWN]
    ]
    more = [f"  and {len(worst) - SHOWN} more"] if len(worst) > SHOWN else []
    print_result(
        found.summary,
        numbers_text(found.rows),
        "\n".join(["by tomogram, those that differ most first", *lines, *more]) if len(worst) > 1 else "",
        f"look at {output / 'differences.png'}" if output is not None else "",
        as_json=as_json,
    )
