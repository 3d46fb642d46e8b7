"""``gonio simulate`` and ``gonio map``: particles whose truth is known, and the density of a structure."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from gonio.cli.options import Overwrite, Seed, positive
from gonio.cli.output import progress
from gonio.jobs.simulate import STRUCTURE_RESOLUTION_ANGSTROM
from gonio.jobs.simulate import map_ as write_map
from gonio.jobs.simulate import simulate as simulate_particles


def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    phantom: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="four_gaussians (the default), sharp or pseudo_symmetric; scaled to the box."
        ),
    ] = None,
    structure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PDB or mmCIF file, in place of a phantom; assembly 1 is built.")
    ] = None,
    resolution: Annotated[
        float, typer.Option(metavar="A", callback=positive, help="Of the structure's density, angstrom.")
    ] = STRUCTURE_RESOLUTION_ANGSTROM,
    count: Annotated[int, typer.Option(metavar="N", min=1, help="How many particles.")] = 20,
    box: Annotated[int, typer.Option(metavar="N", help="Edge of a particle's box, voxels.")] = 32,
    voxel_size: Annotated[
        float, typer.Option(metavar="A", callback=positive, help="Edge of a voxel, angstrom.")
    ] = 10.0,
    tilt_range: Annotated[
        tuple[float, float], typer.Option(metavar="MIN MAX", help="First and last tilt, whole degrees.")
    ] = (-60.0, 60.0),
    snr: Annotated[
        float, typer.Option(metavar="RATIO", help="Variance of clean images over that of the noise; inf for none.")
    ] = 0.5,
    max_shift_voxels: Annotated[
        float, typer.Option(metavar="VOXELS", help="Largest shift along each axis, voxels.")
    ] = 2.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make subtomograms whose true poses are known.

    Projects the particle at a random pose in steps of one degree of tilt, adds noise, applies the paper's CTF and
    detector, and reconstructs by weighted back-projection. The list that an alignment reads, particles.star, holds no
    poses (angles and origins are zero), so that nobody cheats by accident; the true ones are in truth.star.

    OUT/particles/*.mrc, OUT/particles.star, OUT/truth.star, OUT/reference.mrc (the particle in its own frame without
    noise and without missing wedge, through the same microscope) and OUT/settings.toml are written.

    Example: `gonio simulate sim --phantom sharp --count 40 --snr 0.5`
    """
    done = simulate_particles(
        out,
        phantom=phantom,
        structure=structure,
        resolution=resolution,
        count=count,
        box=box,
        voxel_size=voxel_size,
        tilt_range=tilt_range,
        snr=snr,
        max_shift_voxels=max_shift_voxels,
        seed=seed,
        overwrite=overwrite,
        progress=progress,
    )
    _print_note(done.note)
    print(f"wrote {count} particles to {out}: align {out}/particles.star against {out}/reference.mrc")


def map_(
    structure: Annotated[Path, typer.Argument(metavar="STRUCTURE", help="PDB or mmCIF file, plain or gzipped.")],
    voxel_size: Annotated[float, typer.Option(metavar="A", callback=positive, help="Edge of a voxel, angstrom.")],
    box: Annotated[int, typer.Option(metavar="N", help="Edge of the box, voxels.")],
    resolution: Annotated[
        float | None,
        typer.Option(metavar="A", callback=positive, help="Of the map, angstrom. Default: twice the voxel size."),
    ] = None,
    assembly: Annotated[
        str, typer.Option(metavar="NAME", help="Biological assembly to build; none takes the file as it is.")
    ] = "1",
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MAP", help="MRC file to write.")] = Path("map.mrc"),
    overwrite: Overwrite = False,
) -> None:
    """Turn a structure into a density map.

    Every atom becomes a Gaussian weighted by its electron scattering; the resolution is defined as in Situs' pdb2vol.
    The centre of mass lies on the centre of the box, the axes are the file's own, density is positive.

    Example: `gonio map 7p6z.cif.gz --voxel-size 12 --box 32 -o 7p6z.mrc`
    """
    done = write_map(
        structure,
        voxel_size=voxel_size,
        box=box,
        resolution=resolution,
        assembly=assembly,
        output=output,
        overwrite=overwrite,
    )
    _print_note(done.note)
    limit = done.resolution_angstrom
    print(f"wrote {output}: {box} voxels of {voxel_size:g} angstrom, {limit:g} angstrom resolution")


def _print_note(note: str) -> None:
    if note:
        print(f"gonio: note: {note}", file=sys.stderr)
