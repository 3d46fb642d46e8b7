"""``gonio simulate``: particles whose truth is known."""

from __future__ import annotations

from pathlib import Path

import typer

from gonio.cli.grouped import command
from gonio.cli.options import length
from gonio.cli.output import print_note, say
from gonio.jobs.simulate import Simulated
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
    resolution_angstrom=length(
        "--resolution", "Resolution of the structure's density, angstrom. Default: 40, with --stacks twice a pixel."
    ),
    count=typer.Option("--count", metavar="N", min=1, help="How many particles."),
    box=typer.Option("--box", metavar="N", help="Edge of a particle's box, voxels."),
    voxel_size_angstrom=length("--voxel-size", "Edge of a voxel, angstrom."),
    tilt_range_deg=typer.Option(
        "--tilt-range",
        metavar="MIN MAX",
        help="First and last tilt, degrees; whole steps of 1, or of --tilt-step, apart.",
    ),
    snr=typer.Option("--snr", metavar="RATIO", help="Variance of noise-free images over that of noise; inf for none."),
    amplitude_contrast=typer.Option(
        "--amplitude-contrast", metavar="Q", help="Amplitude contrast of the lens, a fraction. Default: 0.07; paper: 0."
    ),
    ctf=typer.Option(
        "--ctf",
        metavar="truncated|flipped|none",
        help="What is left of the CTF: up to its first zero (the default), its absolute value (phases flipped), or no"
        " lens. With --stacks: whole (the default) or none.",
    ),
    device=None,
    max_shift_voxels=typer.Option(
        "--max-shift-voxels", metavar="VOXELS", help="Largest shift along each axis, voxels."
    ),
    stacks=typer.Option("--stacks", help="Make stacks of tilt images with their tilt series, not subtomograms."),
    tomograms=typer.Option("--tomograms", metavar="N", min=1, help="How many tilt series share the particles."),
    tilt_step_deg=typer.Option("--tilt-step", metavar="DEG", help="Between neighbouring tilts, degrees."),
    image_axis_deg=typer.Option(
        "--image-axis", metavar="DEG", help="Direction of the tilt axis in the images, from x towards y, degrees."
    ),
    dose=typer.Option("--dose", metavar="E", help="Exposure of an image, electrons per square angstrom."),
    defocus_angstrom=typer.Option(
        "--defocus", metavar="MIN MAX", help="Least and largest underfocus, angstrom. Default: 20000 40000."
    ),
    defocus_hand=typer.Option("--defocus-sign", metavar="1|-1", help="rlnTomoHand of the series."),
    field_angstrom=length("--field", "Diameter of the disc that holds the particles of a tomogram, angstrom."),
    thickness_angstrom=length("--thickness", "Thickness of the ice that holds them, angstrom."),
    shift_error_angstrom=typer.Option("--shift-error", metavar="A", help="Sd of the true shift of an image, angstrom."),
    tilt_error_deg=typer.Option("--tilt-error", metavar="DEG", help="Sd of its true tilt angle, degrees."),
    axis_error_deg=typer.Option("--axis-error", metavar="DEG", help="Sd of its tilt axis in the image, degrees."),
    pitch_error_deg=typer.Option("--pitch-error", metavar="DEG", help="Sd of its rotation across the axis, degrees."),
    defocus_error_angstrom=typer.Option("--defocus-error", metavar="A", help="Sd of its true defocus, angstrom."),
    astigmatism_error_angstrom=typer.Option(
        "--astigmatism-error", metavar="A", help="Sd of either component of its astigmatism, angstrom."
    ),
    deformation_angstrom=typer.Option(
        "--deformation", metavar="A", help="Sd of each term of a smooth deformation at the field's edge, angstrom."
    ),
    motion_angstrom=typer.Option("--motion", metavar="A", help="Sd of a particle's motion along each axis, angstrom."),
    ice_loss=typer.Option("--ice-loss", help="Weaken the images of tilted ice, by its thickness."),
    tilt_images=typer.Option("--tilt-images", help="Write whole tilt images too, in which particles are dark."),
    reconstruction_binning=typer.Option(
        "--reconstruct",
        metavar="BIN",
        min=1,
        help="Write whole tomograms too, back-projected with voxels of so many pixels; particles are dark.",
    ),
    threads=typer.Option("--threads", metavar="N", min=1, help="Particles made at a time. Default: one a processor."),
)
def simulate(done: Simulated, *, out: Path) -> None:
    """Make subtomograms whose true poses are known.

    Projects the particle at a random pose in steps of one degree of tilt, adds noise, applies the paper's detector and
    its lens (4 um, 300 kV) with an amplitude contrast of 0.07, and reconstructs by weighted back-projection. The list
    that an alignment reads, particles.star, holds no poses (angles and origins are zero), so that nobody uses them by
    accident; the true ones are in truth.star.

    OUT/particles/*.mrc, OUT/particles.star, OUT/truth.star, OUT/reference.mrc (the particle in its own frame without
    noise and without missing wedge, through the same microscope) and OUT/settings.toml are written.

    --stacks makes tilt stacks for RELION 5 instead: OUT/stacks, and OUT/tomograms.star with the geometry that a user
    has. The true one differs by what the --...-error options state; OUT/truth has it as tomograms.star, which reads the
    same stacks, and as tilts.csv. OUT/reference.mrc is then the density itself. --tilt-images and --reconstruct write
    the images and tomograms that all of this comes from; `gonio extract` cuts particles from either.

    Example: `gonio simulate sim --phantom sharp --count 40 --snr 0.5`

    Example: `gonio simulate groel --structure 1oel.pdb --resolution 12 --box 64 --voxel-size 5 --count 200`

    Example: `gonio simulate cells --stacks --tomograms 2 --count 60 --voxel-size 5 --tilt-images --reconstruct 4`
    """
    print_note(done.note)
    say(f"wrote {len(done.truth)} particles to {out}: align {out}/particles.star against {out}/reference.mrc")
