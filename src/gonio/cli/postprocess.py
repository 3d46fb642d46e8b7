"""``gonio postprocess``: from two half maps to a sharpened map, and how far it can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gonio import jobs
from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import numbers_text, print_result

if TYPE_CHECKING:
    from gonio.jobs.map_quality import Postprocessed


@command(
    jobs.postprocess,
    half_1=typer.Argument(metavar="HALF1", help="Map of one half of the particles, neither filtered nor masked."),
    half_2=typer.Argument(metavar="HALF2", help="Map of the other half."),
    mask=typer.Option(
        "--mask", metavar="MAP", help="Mask for the FSC, 0 to 1. Default: made from the map, and written."
    ),
    random_from_angstrom=length(
        "--random-from",
        "Resolution from which phases are random, to find out what the mask adds, angstrom. Default: where the FSC"
        " without a mask falls below 0.8.",
    ),
    bfactor=typer.Option(
        "--bfactor",
        metavar="B",
        help="B-factor, square angstrom: negative to sharpen, 0 for none. Default: that of the Guinier plot.",
    ),
    fit_range_angstrom=typer.Option(
        "--fit-range",
        metavar="COARSE FINE",
        help="Resolutions between which the B-factor is fitted, angstrom. Default: 10 to where the FSC falls below"
        " 0.143.",
    ),
    local_resolution=typer.Option(
        "--local-resolution/--no-local-resolution", help="Estimate the resolution from place to place."
    ),
    coverage=typer.Option(
        "--coverage", metavar="MAP", help="Weights of Fourier space, the MAP_coverage.mrc of gonio average, to show."
    ),
)
def postprocess(found: Postprocessed, *, output: Path, as_json: bool) -> None:
    """Sharpen a map, and state how far it can be trusted, from its two half maps.

    The Fourier shell correlation of the halves is computed without and within a mask; what the mask itself adds is
    found with random phases and taken off. The map, the mean of the halves, is weighted by its figure of merit, the
    root of 2 FSC / (1 + FSC), and sharpened by a B-factor: the slope of its amplitudes in a Guinier plot.

    The resolution from place to place is that of the halves within windows; the sharpened map is also filtered to it.
    The FSC within cones states whether the map is as good in all directions: one number, anisotropy, beside what
    isotropic maps have by chance.

    DIR holds sharpened.mrc, locally_filtered.mrc, local_resolution.mrc, mask.mrc (without --mask), fsc.csv,
    directional_fsc.csv, guinier.csv, report.html, summary.json, settings.toml, and maps.cxc for ChimeraX.

    Example: `gonio postprocess refined/half1.mrc refined/half2.mrc -o sharpened`

    Example: `gonio postprocess half1.mrc half2.mrc --mask mask.mrc --bfactor -150 -o sharpened`
    """
    from gonio.jobs.curves import resolutions

    print_result(
        found.summary,
        numbers_text([*resolutions(found.fsc), *found.rows]),
        f"wrote {output / 'sharpened.mrc'}\nlook at {output / 'report.html'}",
        as_json=as_json,
    )
