"""``gonio simulate`` and ``gonio map``: particles whose truth is known, and the density of a structure."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import say
from gonio.jobs.simulate import Mapped, Simulated
from gonio.jobs.simulate import map_ as write_map
from gonio.jobs.simulate import simulate as simulate_particles


@command(
    simulate_particles,
    out=typer.Argument(metavar="OUT", help="Folder to make."),
    phantom=typer.Option(
        "--phantom", metavar="NAME", help="four_gaussians (the default), sharp or pseudo_symmetric; scaled to the box."
    ),
    structure=typer.Option(
        "--structure", metavar="FILE", help="PDB or mmCIF file, in place of a phantom; assembly 1 is built."
    ),
    resolution_angstrom=length("--resolution", "Resolution of the structure's density, angstrom."),
    count=typer.Option("--count", metavar="N", min=1, help="How many particles."),
    box=typer.Option("--box", metavar="N", help="Edge of a particle's box, voxels."),
    voxel_size_angstrom=length("--voxel-size", "Edge of a voxel, angstrom."),
    tilt_range_deg=typer.Option("--tilt-range", metavar="MIN MAX", help="First and last tilt, whole degrees."),
    snr=typer.Option("--snr", metavar="RATIO", help="Variance of noise-free images over that of noise; inf for none."),
    amplitude_contrast=typer.Option(
        "--amplitude-contrast", metavar="Q", help="Amplitude contrast of the lens, a fraction; the paper's is 0."
    ),
    ctf=typer.Option(
        "--ctf",
        metavar="truncated|flipped|none",
        help="What is left of the CTF: up to its first zero, its absolute value (phases flipped), or no lens.",
    ),
    max_shift_voxels=typer.Option(
        "--max-shift-voxels", metavar="VOXELS", help="Largest shift along each axis, voxels."
    ),
)
def simulate(done: Simulated, *, out: Path) -> None:
    """Make subtomograms whose true poses are known.

    Projects the particle at a random pose in steps of one degree of tilt, adds noise, applies the paper's detector and
    its lens (4 um, 300 kV) with an amplitude contrast of 0.07, and reconstructs by weighted back-projection. The list
    that an alignment reads, particles.star, holds no poses (angles and origins are zero), so that nobody uses them by
    accident; the true ones are in truth.star.

    OUT/particles/*.mrc, OUT/particles.star, OUT/truth.star, OUT/reference.mrc (the particle in its own frame without
    noise and without missing wedge, through the same microscope) and OUT/settings.toml are written.

    Example: `gonio simulate sim --phantom sharp --count 40 --snr 0.5`
    """
    _print_note(done.note)
    say(f"wrote {len(done.truth)} particles to {out}: align {out}/particles.star against {out}/reference.mrc")


@command(
    write_map,
    structure=typer.Argument(metavar="STRUCTURE", help="PDB or mmCIF file, plain or gzipped."),
    voxel_size_angstrom=length("--voxel-size", "Edge of a voxel, angstrom."),
    box=typer.Option("--box", metavar="N", help="Edge of the box, voxels."),
    resolution_angstrom=length("--resolution", "Map resolution, angstrom. Default: twice the voxel size."),
    assembly=typer.Option(
        "--assembly", metavar="NAME", help="Biological assembly to build; none takes the file as it is."
    ),
    output=typer.Option("-o", "--output", metavar="MAP", help="MRC file to write."),
)
def map_(done: Mapped, *, output: Path) -> None:
    """Turn a structure into a density map.

    Every atom becomes a Gaussian weighted by its electron scattering; the resolution is defined as in Situs' pdb2vol.
    The centre of mass lies on the centre of the box, the axes are the file's own, density is positive.

    Example: `gonio map 7p6z.cif.gz --voxel-size 12 --box 32 -o 7p6z.mrc`
    """
    _print_note(done.note)
    volume, limit = done.volume, done.resolution_angstrom
    say(
        f"wrote {output}: {volume.box} voxels of {volume.voxel_size_angstrom:g} angstrom, {limit:g} angstrom resolution"
    )


def _print_note(note: str) -> None:
    if note:
        say(f"gonio: note: {note}", file=sys.stderr)
