"""``gonio simulate`` and ``gonio map``: particles whose truth is known, and the density of a structure."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from gonio.cli.options import Overwrite, Seed, positive
from gonio.cli.output import beside, check_map, progress, write_settings
from gonio.particle.ctf import AMPLITUDE_CONTRAST
from gonio.run.folder import check_target, result_folder

if TYPE_CHECKING:
    from gonio.particle.pose import Pose
    from gonio.simulate import Density, Imaging

STRUCTURE_RESOLUTION_ANGSTROM = 40.0
DEFAULT_PHANTOM = "four_gaussians"


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
    amplitude_contrast: Annotated[
        float, typer.Option(metavar="Q", help="Of the lens, a fraction; the paper's is 0.")
    ] = AMPLITUDE_CONTRAST,
    ctf: Annotated[
        str,
        typer.Option(
            metavar="truncated|flipped|none",
            help="What is left of the CTF: up to its first zero, its absolute value (phases flipped), or no lens.",
        ),
    ] = "truncated",
    max_shift_voxels: Annotated[
        float, typer.Option(metavar="VOXELS", help="Largest shift along each axis, voxels.")
    ] = 2.0,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Make subtomograms whose true poses are known.

    Projects the particle at a random pose in steps of one degree of tilt, adds noise, applies the paper's detector and
    its lens (4 um, 300 kV) with an amplitude contrast of 0.07, and reconstructs by weighted back-projection. The list
    that an alignment reads, particles.star, holds no poses (angles and origins are zero), so that nobody cheats by
    accident; the true ones are in truth.star.

    OUT/particles/*.mrc, OUT/particles.star, OUT/truth.star, OUT/reference.mrc (the particle in its own frame without
    noise and without missing wedge, through the same microscope) and OUT/settings.toml are written.

    Example: `gonio simulate sim --phantom sharp --count 40 --snr 0.5`
    """
    from gonio.simulate import Imaging

    check_target(out, overwrite=overwrite)
    imaging = replace(Imaging(box, voxel_size, *tilt_range, snr=snr), **_lens(ctf, amplitude_contrast))
    if structure is None:
        phantom = phantom or DEFAULT_PHANTOM
    density = _density(phantom, structure, resolution, imaging)
    settings = {
        "phantom": phantom,
        "structure": structure,
        "resolution_angstrom": None if structure is None else resolution,
        "count": count,
        "max_shift_voxels": max_shift_voxels,
    }
    with result_folder(out, overwrite=overwrite) as folder:
        write_simulation(
            folder, density, imaging, truth=random_poses(count, imaging, max_shift_voxels, seed), seed=seed
        )
        inputs = [] if structure is None else [structure]
        write_settings(folder / "settings.toml", {**settings, "imaging": asdict(imaging)}, seed=seed, inputs=inputs)
    print(f"wrote {count} particles to {out}: align {out}/particles.star against {out}/reference.mrc")


def _lens(ctf: str, amplitude_contrast: float) -> dict[str, Any]:
    """Return the fields of an ``Imaging`` that say what becomes of the CTF.

    Raises
    ------
    ValueError
        If a value is not among those known.
    """
    from gonio.simulate import DEFAULT_CTF, CtfCorrection

    known = (*CtfCorrection, "none")
    if ctf not in known:
        raise ValueError(f"--ctf must be one of {', '.join(known)}, got {ctf!r}")
    if not 0.0 <= amplitude_contrast < 1.0:
        raise ValueError(f"--amplitude-contrast must be 0 or more and below 1, got {amplitude_contrast!r}")
    if ctf == "none":
        return {"ctf": None}
    return {"ctf": replace(DEFAULT_CTF, amplitude_contrast=amplitude_contrast), "correction": CtfCorrection(ctf)}


def random_poses(count: int, imaging: Imaging, max_shift_voxels: float, seed: int) -> Pose:
    """Poses uniform in orientation and, along each axis, in shift."""
    from gonio.particle.pose import Pose

    if not max_shift_voxels >= 0:
        raise ValueError(f"--max-shift-voxels must not be negative, got {max_shift_voxels!r}")
    shift = max_shift_voxels * imaging.voxel_size_angstrom
    return Pose.random(count, rng=np.random.default_rng((seed, 0)), max_shift_angstrom=shift)


def write_simulation(folder: Path, density: Density, imaging: Imaging, *, truth: Pose, seed: int) -> None:
    """Particles, the two lists and the reference, into an existing folder."""
    from gonio.io import write_simulated, write_volume
    from gonio.particle.pose import Pose
    from gonio.simulate import simulate_subtomogram

    rng = np.random.default_rng((seed, 1))
    count = len(truth)
    (folder / "particles").mkdir()
    paths = [folder / "particles" / f"{i:0{len(str(count))}d}.mrc" for i in range(1, count + 1)]
    with progress("simulating", count) as done:
        for index, path in enumerate(paths):
            particle = simulate_subtomogram(density, truth[index], imaging=imaging, rng=rng)
            write_volume(path, particle.volume)
            done(index + 1)
    perfect = replace(imaging, snr=np.inf, tilt_min_deg=-90.0, tilt_max_deg=90.0)
    reference = simulate_subtomogram(density, Pose.identity(), imaging=perfect, rng=rng)
    write_volume(folder / "reference.mrc", reference.volume)
    tilts = (imaging.tilt_min_deg, imaging.tilt_max_deg)
    for name, poses in (("truth.star", truth), ("particles.star", Pose.identity(count))):
        write_simulated(
            folder / name,
            poses,
            paths,
            voxel_size_angstrom=imaging.voxel_size_angstrom,
            box=imaging.box,
            tilt_range_deg=tilts,
        )


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
    from gonio.io import write_volume
    from gonio.particle.pose import Pose
    from gonio.particle.volume import Volume
    from gonio.simulate import Structure

    target = check_map(output, ".settings.toml", overwrite=overwrite)
    limit = 2.0 * voxel_size if resolution is None else resolution
    particle = Structure.from_file(
        structure, resolution_angstrom=limit, assembly=None if assembly == "none" else assembly
    )
    _warn_of_overhang(2.0 * particle.radius_angstrom, box * voxel_size)
    data = particle.density(Pose.identity(), box=box, voxel_size_angstrom=voxel_size)
    volume = Volume(data.astype(np.float32), voxel_size)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_volume(target, volume)
    settings = {
        "structure": structure,
        "voxel_size_angstrom": voxel_size,
        "box": box,
        "resolution_angstrom": limit,
        "assembly": assembly,
    }
    write_settings(beside(target, ".settings.toml"), settings, inputs=[structure])
    print(f"wrote {output}: {box} voxels of {voxel_size:g} angstrom, {limit:g} angstrom resolution")


def _density(phantom: str | None, structure: Path | None, resolution: float, imaging: Imaging) -> Density:
    from gonio.simulate import Phantom, Structure

    if structure is None:
        return Phantom.named(
            phantom or DEFAULT_PHANTOM, box=imaging.box, voxel_size_angstrom=imaging.voxel_size_angstrom
        )
    if phantom is not None:
        raise ValueError("--phantom and --structure exclude each other: give one")
    particle = Structure.from_file(structure, resolution_angstrom=resolution)
    _warn_of_overhang(2.0 * particle.radius_angstrom, imaging.box * imaging.voxel_size_angstrom)
    return particle.coarsened()


def _warn_of_overhang(diameter_angstrom: float, box_angstrom: float) -> None:
    if diameter_angstrom > box_angstrom:
        print(
            f"gonio: note: the particle is up to {diameter_angstrom:.0f} angstrom wide and the box"
            f" {box_angstrom:.0f}: what sticks out is cut off",
            file=sys.stderr,
        )
