"""``gonio map``: a map from a structure or from another map."""

from __future__ import annotations

from pathlib import Path

import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import print_note, say
from gonio.jobs.map import Mapped
from gonio.jobs.map import map_ as make_map


@command(
    make_map,
    source=typer.Argument(metavar="IN", help="Map (MRC or EM), or structure (PDB or mmCIF, plain or gzipped)."),
    voxel_size_angstrom=length("--voxel-size", "Voxel size of the result, angstrom. Default: that of the map."),
    box=typer.Option(
        "--box", metavar="N", min=8, help="Edge of the result, voxels: crops or pads. Default: the same length."
    ),
    resolution_angstrom=length(
        "--resolution", "Low-pass a map to this, angstrom; of a structure, default twice the voxel size."
    ),
    mirror=typer.Option("--mirror", help="Make the other hand: mirror in x."),
    rotation_zyz_deg=typer.Option(
        "--rotate", metavar="A B C", help="Rotate by Rz(A) Ry(B) Rz(C) about the box centre, degrees, as pair prints."
    ),
    shift_angstrom=typer.Option("--shift", metavar="X Y Z", help="Then shift, angstrom."),
    invert=typer.Option("--invert", help="Flip the contrast."),
    assembly=typer.Option(
        "--assembly",
        metavar="NAME",
        help="Of a structure: biological assembly to build, default 1; none takes the file as it is.",
    ),
    input_voxel_size_angstrom=length(
        "--input-voxel-size", "Voxel size of IN, angstrom, in place of what its header states."
    ),
    output=typer.Option("-o", "--output", metavar="MAP", help="MRC or EM file to write."),
)
def map_(done: Mapped, *, output: Path) -> None:
    """Make a map of another voxel size, box, resolution, hand, pose or contrast, or of a structure.

    Steps are done in this order: mirror, rotate, shift, low-pass, resample, crop or pad, invert. Resampling is by the
    map's Fourier series: exact for smaller voxels; for larger ones detail that they cannot show is left out. The centre
    voxel N // 2 shows what it showed, and the header's origin keeps what the map shows where it is in viewers.

    The centre of mass of a structure lies on the centre of the box, density is positive.

    Example: `gonio map emd_1234.map --voxel-size 10 --box 48 --resolution 40 -o reference.mrc`

    Example: `gonio map map.mrc --mirror --rotate 90 0 0 -o other_hand.mrc`

    Example: `gonio map 7p6z.cif.gz --voxel-size 12 --box 32 -o 7p6z.mrc`
    """
    print_note(done.note)
    volume, did = done.volume, "".join(f", {step}" for step in done.did)
    say(f"wrote {output}: {volume.box} voxels of {volume.voxel_size_angstrom:g} angstrom{did}")
