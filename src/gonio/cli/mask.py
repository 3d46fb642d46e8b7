"""``gonio mask``: a mask of a map's density."""

from __future__ import annotations

from pathlib import Path

import typer

from gonio.cli.grouped import command
from gonio.cli.options import length, positive
from gonio.cli.output import print_note, say
from gonio.jobs.mask import Masked
from gonio.jobs.mask import mask as make_mask


@command(
    make_mask,
    source=typer.Argument(metavar="MAP", help="Map (MRC or EM)."),
    threshold=typer.Option("--threshold", metavar="VALUE", help="Density is what lies above this value of the map."),
    enclosed_angstrom3=typer.Option(
        "--enclosed", metavar="A3", callback=positive, help="Density is so many cubic angstrom, the brightest."
    ),
    mass_kda=typer.Option(
        "--mass", metavar="KDA", callback=positive, help="Density is the volume of so much protein, kDa."
    ),
    resolution_angstrom=length(
        "--resolution", "Low-pass the map first, angstrom. Default: six voxels, with --threshold not at all."
    ),
    wider_angstrom=typer.Option(
        "--wider", metavar="A", help="How far the mask reaches beyond the density, angstrom. Default: two voxels."
    ),
    edge_angstrom=typer.Option(
        "--edge", metavar="A", help="Width of the soft edge beyond that, angstrom. Default: four voxels."
    ),
    largest=typer.Option(
        "--largest", help="Keep the largest connected region alone, as is done where no threshold is given."
    ),
    input_voxel_size_angstrom=length(
        "--input-voxel-size", "Voxel size of MAP, angstrom, in place of what its header states."
    ),
    output=typer.Option("-o", "--output", metavar="MASK", help="MRC or EM file to write."),
)
def mask(done: Masked, *, output: Path) -> None:
    """Make a mask of a map's density, 1 inside and 0 outside with a soft edge.

    Without a threshold, density is the largest connected region above the background of the map at low resolution.
    Holes are filled. A mask for `gonio average --mask` or `gonio refine --mask` should be wide and soft.

    Example: `gonio mask refined/map.mrc -o mask.mrc`

    Example: `gonio mask map.mrc --mass 2500 --resolution 30 --wider 20 --edge 30 -o mask.mrc`
    """
    from gonio.fourier.masks import ANGSTROM3_PER_KDA

    print_note(done.note)
    volume, enclosed = done.volume, done.enclosed_angstrom3
    percent, mass = 100 * enclosed / volume.box_angstrom**3, enclosed / ANGSTROM3_PER_KDA
    say(
        f"wrote {output}: above one half in {enclosed:.4g} cubic angstrom, {percent:.1f} % of the box, the volume of"
        f" {mass:.4g} kDa of protein"
    )
