"""Options of the command line: one table from the arguments of jobs to options.

Each option's help states its unit and its default. Defaults that are None are resolved where they are used.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated

import typer
from typer.models import ParameterInfo


def positive(value: float | None) -> float | None:
    """Return the number of an option, which must be positive where it is given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be a positive number, got {value:g}")
    return value


def length(name: str, meaning: str) -> ParameterInfo:
    """Return an option of a length in angstrom, which must be positive."""
    return typer.Option(name, metavar="A", callback=positive, help=meaning)


OPTIONS: Mapping[str, ParameterInfo] = {
    "path": typer.Argument(
        metavar="PARTICLES",
        help="Particle list (of RELION, WarpTools, Dynamo, STOPGAP, AV3, PyTom or EMAN2) or optimisation set.",
    ),
    "data_path": typer.Option(
        "--data",
        metavar="DIR",
        help="Subtomograms of lists that number them (Dynamo, STOPGAP, AV3); without it, those beside the list.",
    ),
    "tilt_range_deg": typer.Option(
        "--tilt-range", metavar="MIN MAX", help="First and last tilt of 3-D subtomograms, degrees, such as -60 60."
    ),
    "axis_deg": typer.Option(
        "--tilt-axis",
        metavar="DEG",
        help="With --tilt-range: direction of the tilt axis, degrees from x towards y. Default: 90, which is y.",
    ),
    "tilt_files": typer.Option(
        "--tilts",
        metavar="FILE",
        help="Tilts of 3-D subtomograms, one by one: .tlt, .rawtlt, mdoc, tilt-series STAR, STOPGAP wedge list, or a"
        " folder of them; may be given several times. Tomograms find theirs by name.",
    ),
    "tilt_weights": typer.Option(
        "--tilt-weights",
        metavar="plain|dose|ctf",
        help="With --tilts: weights of tilts. dose weights by what the dose before a tilt left; ctf by the size of its"
        " contrast transfer as well.",
    ),
    "tomograms_path": typer.Option(
        "--tomograms",
        metavar="FILE",
        help="tomograms.star of 2-D stacks, or the wedge list of a STOPGAP list; without it, the one beside the list.",
    ),
    "reverse_tilts": typer.Option(
        "--reverse-tilts",
        help="Of 2-D stacks: read every tilt in the other sense, for sets whose tilt sense was reversed on import and"
        " that show a mirror image as they are listed (inspect --hand finds out). Written lists state it, and are"
        " read the same way again.",
    ),
    "defocus_hand": typer.Option(
        "--defocus-hand",
        metavar="relion|warp",
        help="Of 2-D stacks: whose meaning rlnTomoHand has. RELION adds hand times depth to the defocus, WarpTools"
        " subtracts it; tomograms called NAME.tomostar are taken to be WarpTools'. It mirrors nothing.",
    ),
    "invert": typer.Option("--invert", help="Flip the sign of the particles: for density that is dark (negative)."),
    "voxel_size_angstrom": length("--voxel-size", "Voxel size, angstrom, in place of what the files state."),
    "permissive": typer.Option(
        "--permissive", help="Read MRC files of a wrong map ID or machine stamp, or with bytes after the data, too."
    ),
    "max_rotation_deg": typer.Option(
        "--cone", metavar="DEG", help="With --local: search within this angle of each listed orientation, degrees."
    ),
    "prior_rotation_sd_deg": typer.Option(
        "--prior-deg",
        metavar="DEG",
        help="With --local: how far listed orientations may be off, per axis, degrees; 0: any. Default: 2, any with"
        " --cone.",
    ),
    "prior_shift_sd_angstrom": typer.Option(
        "--prior-shift",
        metavar="A",
        help="With --local: how far listed positions may be off, per axis, angstrom; 0: any. Default: half a voxel,"
        " any with --cone.",
    ),
    "score": typer.Option(
        "--score",
        metavar="rcs|fcs|likelihood",
        help="rcs is blind to contrast; fcs compares values on one scale; likelihood weights samples by their expected"
        " FSC. None has a unit.",
    ),
    "assignment": typer.Option(
        "--assignment",
        metavar="auto|soft|hard",
        help="hard: a particle enters the averages at the pose found; soft: at poses sampled from its posterior;"
        " auto: soft where the resolution distinguishes these, hard with --refine-tilts.",
    ),
    "search": typer.Option(
        "--search",
        metavar="NAME",
        help="coarse_to_fine (the default) starts from all orientations at low resolution; stochastic and independent"
        " are the searches of Xu & Alber 2012.",
    ),
    "inputs": typer.Option(
        "--inputs",
        metavar="restored|plain",
        help="restored compares what is most probably behind the particles, plain the particles as they are."
        " Default: restored; plain with the searches of 2012, which know no other.",
    ),
    "pool": typer.Option(
        "--pool", metavar="all|drawn", help="Refine all promising orientations, or some sampled at random by their fit."
    ),
    "symmetry": typer.Option(
        "--symmetry",
        metavar="NAME",
        help="Point group of the reference about its box centre: C1 (none), C4, D2, T, O, I1, I2 and such; its main"
        " axis lies along z.",
    ),
    "resolution_angstrom": typer.Option(
        "--resolution", metavar="A", help="Finest detail that is compared, angstrom. Default: four voxels."
    ),
    "max_shift_angstrom": typer.Option(
        "--max-shift", metavar="A", help="Largest shift, angstrom. Default: a quarter of the box."
    ),
    "particle_diameter_angstrom": typer.Option(
        "--diameter", metavar="A", help="Diameter of the particle itself, angstrom. Default: what the data show."
    ),
    "mask_diameter_angstrom": typer.Option(
        "--mask-diameter",
        metavar="A",
        help="Diameter of the soft sphere around the box centre that holds the particle at any shift, angstrom."
        " Default: by the particle's diameter; plain inputs have none.",
    ),
    "output": typer.Option("-o", "--output", metavar="DIR", help="Folder to make."),
    "split": typer.Option(
        "--split", help="Make new half sets, also where the list has some; overlapping particles stay in one half."
    ),
    "centre": typer.Option(
        "--centre",
        metavar="size/2|size/2-1|floor",
        help="Which voxel is the centre of a tomogram, where coordinates may start: size/2 in RELION itself, size/2-1"
        " in its Python pickers.",
    ),
    "mask": typer.Option(
        "--mask", metavar="MAP", help="Where the reference has density, 0 to 1, in its own box. Default: a soft sphere."
    ),
    "half_maps": typer.Option(
        "--half-maps",
        metavar="MAP MAP",
        help="Half maps of the reference: the expected FSC is limited by their agreement. They are"
        " compared as they are: mask them first where that is wanted.",
    ),
    "seed": typer.Option("--seed", metavar="N", help="Seed of the random numbers: same seed, same result."),
    "seed_interval_deg": typer.Option(
        "--seed-interval",
        metavar="DEG",
        help="Of the searches stochastic and independent alone: degrees between starting angles. Default: 60, which"
        " makes 108 starts; 45 makes 256.",
    ),
    "threads": typer.Option(
        "--threads", metavar="N", min=1, help="Particles aligned at a time. Default: one for each processor."
    ),
    "device": typer.Option(
        "--device",
        metavar="NAME",
        help="cpu; cuda or cuda:1, a GPU; cuda:0,cuda:1, several; auto, a GPU where one works and the search"
        " can use it.",
    ),
    "overwrite": typer.Option("--overwrite", help="Replace results that are already there."),
    "resume": typer.Option(
        "--resume", help="Go on with a run in this folder that was cut off; begin where there is none."
    ),
    "scheduler": typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Let a Dask cluster do it: address of its scheduler, or the file it wrote.",
    ),
    "dask": typer.Option("--dask", metavar="local", help="Let Dask do it on this machine, with --threads workers."),
    "decoys": typer.Option(
        "--decoys",
        metavar="N",
        min=0,
        help="Align every particle to N decoys of the reference too (2 is enough): how well they fit shows which"
        " particles are real. Each costs as much as a search over all orientations.",
    ),
    "max_q": typer.Option(
        "--max-q",
        metavar="Q",
        help="With --decoys: the fraction of false particles that DIR/kept.star may hold. Default: 0.05.",
    ),
    "astigmatism": typer.Option("--astigmatism", help="Refine the astigmatism of each image too."),
    "tilt_scale": typer.Option("--scale", help="Refine how strong each image is too."),
    "deformation": typer.Option(
        "--deformation", help="Refine a deformation of each image too: shifts linear in the place of a particle."
    ),
    "tilt_shift_sd_angstrom": typer.Option(
        "--sd-shift", metavar="A", callback=positive, help="Prior: how far images may be shifted, per axis, angstrom."
    ),
    "tilt_angle_sd_deg": typer.Option(
        "--sd-angle", metavar="DEG", callback=positive, help="Prior: how far tilt angles may be off, degrees."
    ),
    "tilt_across_sd_deg": typer.Option(
        "--sd-across",
        metavar="DEG",
        callback=positive,
        help="Prior: rotation about the direction across the axis, degrees.",
    ),
    "tilt_in_plane_sd_deg": typer.Option(
        "--sd-in-plane", metavar="DEG", callback=positive, help="Prior: rotation of an image in its plane, degrees."
    ),
    "tilt_defocus_sd_angstrom": typer.Option(
        "--sd-defocus",
        metavar="A",
        callback=positive,
        help="Prior: how far the defocus of an image may be off, angstrom.",
    ),
    "tilt_astigmatism_sd_angstrom": typer.Option(
        "--sd-astigmatism",
        metavar="A",
        callback=positive,
        help="Prior of astigmatism, each of its two parts, angstrom.",
    ),
    "tilt_scale_sd": typer.Option(
        "--sd-scale", metavar="X", callback=positive, help="Prior of the natural logarithm of an image's strength."
    ),
    "tilt_deformation_sd_angstrom": typer.Option(
        "--sd-deformation",
        metavar="A",
        callback=positive,
        help="Prior of each term of the deformation, at the edge of the field, angstrom.",
    ),
    "particle_rotation_sd_deg": typer.Option(
        "--sd-particle-deg",
        metavar="DEG",
        callback=positive,
        help="Prior: how far poses may be rotated, per axis, degrees.",
    ),
    "particle_shift_sd_angstrom": typer.Option(
        "--sd-particle-shift",
        metavar="A",
        callback=positive,
        help="Prior: how far poses may be shifted, per axis, angstrom.",
    ),
    "particle_contrast_sd": typer.Option(
        "--sd-contrast",
        metavar="X",
        callback=positive,
        help="Prior: how far contrasts may differ, a fraction of their mean.",
    ),
    "ctf_image": typer.Option(
        "--ctf-image",
        metavar="squares|transfer|confidence",
        help="What the volumes in rlnCtfImage hold: sums of squared transfers (RELION 4 and 5), the transfer (RELION 3,"
        " Warp), or how much a frequency counts. Default: what the list states.",
    ),
}

# For commands that are written out.
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of text.")]
Seed = Annotated[int, OPTIONS["seed"]]
Overwrite = Annotated[bool, OPTIONS["overwrite"]]
