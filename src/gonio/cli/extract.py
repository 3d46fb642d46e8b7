"""``gonio extract``: subtomograms from tomograms, at the positions of a list."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import say
from gonio.jobs.extract import Extracted, names_of
from gonio.jobs.extract import extract as extract_boxes
from gonio.jobs.extract_stacks import StackExtraction

LARGEST_EDGE = 4096


@command(
    extract_boxes,
    tomograms=typer.Argument(
        metavar="TOMOGRAM",
        help="MRC, MRC.gz, EM or OME-Zarr; or folders of them. Particles find theirs by name.",
    ),
    particles=typer.Argument(metavar="LIST", help="Particle list of any format."),
    box=typer.Option("--box", metavar="N", min=8, max=LARGEST_EDGE, help="Edge of the result, voxels."),
    binning=typer.Option(
        "--bin", metavar="N", min=1, help="Voxels of the tomogram along an edge of one of the result."
    ),
    invert=typer.Option("--invert", help="Flip the contrast: for tomograms whose particles are dark."),
    normalise=typer.Option(
        "--normalise",
        metavar="outside|box|none",
        help="Make mean 0 and standard deviation 1: outside the sphere of --diameter, or of the whole box.",
    ),
    diameter_angstrom=length(
        "--diameter", "Diameter of that sphere, angstrom. Default: the largest that fits the box."
    ),
    edge=typer.Option(
        "--edge",
        metavar="pad|skip|refuse",
        help="Boxes that stick out of the tomogram: fill them with their mean, leave them out, or stop.",
    ),
    pixel_size_angstrom=length("--pixel-size", "Size of LIST's pixels, angstrom, in place of what it states."),
    voxel_size_angstrom=length("--voxel-size", "Voxel size of the tomograms, angstrom, in place of their headers."),
    reverse_tilts=typer.Option(
        "--reverse-tilts",
        help="Mirror what is cut in z: for tomograms that were reconstructed with the wrong tilt sense.",
    ),
    float16=typer.Option("--float16", help="Write MRC files of half the size (mode 12)."),
    stacks=typer.Option("--stacks", help="Cut stacks of tilt images from aligned tilt series, not subtomograms."),
    premultiply=typer.Option(
        "--premultiply", help="Multiply tilt images by their CTF and their decay with dose, as RELION does."
    ),
    voltage_kv=typer.Option(
        "--voltage",
        metavar="KV",
        help="Of IMOD's and AreTomo's series, which do not state it, kilovolts. Default: 300.",
    ),
    spherical_aberration_mm=typer.Option(
        "--cs", metavar="MM", help="Of these, spherical aberration, millimetres. Default: 2.7."
    ),
    amplitude_contrast=typer.Option(
        "--amplitude-contrast", metavar="Q", help="Of these, amplitude contrast. Default: 0.07."
    ),
    tomogram_size=typer.Option(
        "--tomogram-size",
        metavar="X Y Z",
        help="Of these, and of tomograms.star where it is not set, size of the tomograms in pixels of the tilt series.",
    ),
)
def extract(done: Extracted, *, output: Path) -> None:
    """Cut subtomograms from tomograms.

    Each box is cut where its particle is: at the listed position plus the listed shift, between voxels by a phase in
    Fourier space; the shift in the new list is 0. Boxes are not rotated: angles are those of the list, in the tomogram.
    --bin cuts the spectrum, so that nothing is aliased. Tomograms are read only where particles are.

    DIR/particles.star lists the subtomograms for RELION 5 and `gonio align`, with every other column of LIST and
    gonioOutside, the fraction of a box outside of the tomogram. With --tilt-range or --tilts it states the wedge.

    --reverse-tilts mirrors tomograms that were reconstructed with the wrong tilt sense, in z: boxes, angles, positions
    and wedges in DIR are those of the mirror image, whose particles have the specimen's hand.

    --stacks cuts images of tilt series in place of boxes of tomograms: TOMOGRAM is then a tomograms.star of RELION, or
    the stacks of IMOD or AreTomo with their .xf and .tlt, or .aln, and .mdoc beside them. Images that a box sticks out
    of are left out; DIR has tomograms.star and optimisation_set.star too, so that every command and RELION read it.

    Example: `gonio extract TS_01.mrc TS_02.mrc picked.star --box 64 --invert --tilts tilts/ -o subtomograms`

    Example: `gonio extract tomograms/ picked.tbl --box 32 --bin 4 --pixel-size 2.5 -o bin4`
    """
    job, rows = done.extraction, done.rows
    if isinstance(job, StackExtraction):
        _say_stacks(job, done, output)
        return
    table = job.table
    for name, tomogram in job.tomograms.items():
        size = " x ".join(map(str, tomogram.shape_zyx[::-1]))
        count = sum(table.tomograms[row] == name for row in rows)
        say(f"{name or 'all'}: {count} particles from {tomogram.path} ({tomogram.kind}, {size} voxels)")
        if table.coordinates_from == "centre" and any(n % 2 for n in tomogram.shape_zyx):
            say(f"  odd edges: the centre that coordinates start at lies between two voxels (--centre {job.centre})")
    left = sorted({*range(len(table))} - {*rows})
    padded = [row for row in rows if done.outside[row] > 0]
    if left:
        say(f"left out, as their boxes stick out: {names_of(table, np.array(left))}")
    if padded:
        names = names_of(table, np.array(padded))
        say(f"filled with their mean where they stick out: {names} (gonioOutside states how much)")
    if job.mirror:
        say("tilts were read reversed: boxes, angles and positions are those of the tomograms' mirror image in z")
    contrast = "flipped" if job.scaling.invert else "as in the tomogram"
    scaled = {"none": "not scaled", "box": "mean 0 and sd 1", "outside": "mean 0 and sd 1 outside of the particle"}
    say(
        f"wrote {len(rows)} subtomograms of {job.cutting.box}^3 voxels of {job.voxel_size_angstrom:g} A, contrast"
        f" {contrast}, {scaled[job.scaling.normalise]}: {output / 'particles.star'}"
    )


def _say_stacks(job: StackExtraction, done: Extracted, output: Path) -> None:
    for name, one in job.series.items():
        count = sum(job.table.tomograms[row] == name for row in done.rows)
        size = " x ".join(map(str, one.shape_yx[::-1]))
        say(f"{name or 'all'}: {count} particles from {len(one.images)} images of {size} pixels ({one.series.path})")
    left = sorted({*range(len(job.table))} - {*done.rows})
    if left:
        say(f"left out, as their boxes stick out of images: {names_of(job.table, np.array(left))}")
    partly = [row for row in done.rows if done.outside[row] > 0]
    if partly:
        say(f"not shown by every image: {names_of(job.table, np.array(partly))} (rlnTomoVisibleFrames states which)")
    how = "multiplied by their CTF" if job.cuts.premultiply else "not multiplied by their CTF"
    say(
        f"wrote {len(done.rows)} stacks of {job.cutting.box}^2 pixels of {job.voxel_size_angstrom:g} A, contrast"
        f" {'flipped' if job.scaling.invert else 'as in the images'}, {how}: {output / 'particles.star'}"
    )
