"""``gonio pair``: align one subtomogram to another, and find the hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.output import say
from gonio.jobs.curves import resolution_text
from gonio.jobs.files import json_text

if TYPE_CHECKING:
    from gonio.jobs.pair import Fit, Paired


@command(
    jobs.pair,
    a=typer.Argument(metavar="A", help="MRC map that stays where it is."),
    b=typer.Argument(metavar="B", help="MRC map that is aligned to A."),
    tilt_range_a_deg=typer.Option("--tilt-range-a", metavar="MIN MAX", help="Tilts of A alone, degrees."),
    tilt_range_b_deg=typer.Option("--tilt-range-b", metavar="MIN MAX", help="Tilts of B alone, degrees."),
    output=typer.Option(
        "-o",
        "--output",
        metavar="MAP",
        help="MRC file to write: B moved onto A, without the frequencies beyond the last whole shell of its box.",
    ),
    mirror=typer.Option("--mirror", help="Try the mirror image of B too, and show which hand fits."),
)
def pair(paired: Paired, *, a: Path, b: Path, output: Path | None, as_json: bool) -> None:
    """Align one subtomogram to another.

    Finds the rotation R and the shift t with x_A = R x_B + t; B is the reference, which --symmetry, --mask and
    --half-maps are about. Without a tilt range a map has no missing wedge. The correlation is that of A and the moved B
    in real space, low-passed to the resolution, inside the sphere of --mask-diameter (without it, inside the largest of
    the box); a missing wedge lowers it. The resolution is where the Fourier shell correlation of the two inside that
    sphere falls through 0.5.

    With `--output MAP` the moved B is written, of the hand that fits, with MAP.settings.toml. B is rotated and moved in
    the larger of the two boxes by interpolation of its Fourier transform, then cut to the box of A. What lies beyond
    the last whole shell, the corners of Fourier space, is dropped: moved by nothing, B is not quite itself.

    Example: `gonio pair average.mrc 7p6z.mrc --mask-diameter 300 --mirror --output 7p6z_moved.mrc`

    Example: `gonio pair half1.mrc half2.mrc --symmetry C4`
    """
    if as_json:
        say(json_text(paired.summary))
    else:
        _print(paired, names=(a.name, b.name), output=output)


def _next_best(fit: Fit) -> str:
    if fit.next_best_deg is None:
        return "     none"
    margin = fit.result.runners_up[0].margin
    return f"{fit.next_best_deg:9.1f}  degrees away; margin {margin:.3g}: near 0 is as good"


def _print(paired: Paired, *, names: tuple[str, str], output: Path | None) -> None:
    from gonio.averaging.resolution import FSC_KNOWN

    fits = paired.fits
    say(f"x_A = R x_B + t aligns {names[1]} to {names[0]}; R = Rz(a) Ry(b) Rz(c)")
    for name, fit in fits.items():
        result = fit.result
        angles = "  ".join(f"{angle:9.3f}" for angle in result.pose.euler_zyz_deg())
        shift = "  ".join(f"{length:9.3f}" for length in result.pose.shift_angstrom)
        if len(fits) > 1:
            say(f"\n{names[1]} {name}")
        say(f"  rotation a, b, c   {angles}  degrees")
        say(f"  shift x, y, z      {shift}  angstrom")
        say(f"  dissimilarity      {result.dissimilarity:9.4f}  lower is better; of RCS 0 the same, 2 unrelated")
        say(f"  correlation        {fit.correlation:9.4f}  masked, low-passed; 1 is perfect")
        number, _, rest = resolution_text(fit.fsc, FSC_KNOWN, fit.moved.box_angstrom).partition(" ")
        say(f"  FSC falls to {FSC_KNOWN:g}   {number:>9}  {rest}, masked")
        say(f"  sd of rotation     {result.rotation_sd_deg:9.3f}  degrees about any axis, predicted")
        say(f"  sd of shift        {result.shift_sd_angstrom:9.3f}  angstrom along any axis, predicted")
        say(f"  next best pose     {_next_best(fit)}")
        say(f"  measured by both   {100 * result.overlap:9.1f}  percent of the samples of A")
        say(f"  ended              {result.status.sentence} ({result.n_iterations} iterations)")
    if len(fits) > 1:
        say(f"\nthe hand that fits: {names[1]} {paired.hand}, by a correlation higher by {paired.margin:.3f}")
    if output is not None:
        say(f"wrote {output}")
