"""``gonio average``: the map that the poses of a list make, and its resolution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.options import (
    DataPath,
    Invert,
    ListOptions,
    Overwrite,
    ParticlesPath,
    Permissive,
    TiltAxis,
    TiltRange,
    TomogramsPath,
    VoxelSize,
)
from gonio.cli.output import beside, check_map, naming, progress, write_settings, write_text

if TYPE_CHECKING:
    from gonio.averaging import Average
    from gonio.particles import ParticleTable
    from gonio.volume import Particle

HALF_ENDINGS = ("_half1.mrc", "_half2.mrc", "_fsc.csv")
FSC_HALVES = 0.143  # of two half maps (Rosenthal & Henderson 2003)
FSC_KNOWN = 0.5  # of a map against a known one, and the older, more careful threshold for halves


def average(
    particles: ParticlesPath,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MAP", help="MRC file to write.")],
    tilt_range: TiltRange = None,
    tilt_axis: TiltAxis = 90.0,
    tomograms: TomogramsPath = None,
    invert: Invert = False,
    voxel_size: VoxelSize = None,
    permissive: Permissive = False,
    data: DataPath = None,
    halves: Annotated[
        bool, typer.Option("--halves/--no-halves", help="Average the half sets of the list (rlnRandomSubset) too.")
    ] = True,
    split: Annotated[
        bool, typer.Option("--split", help="Make half sets of every other particle, whatever the list says.")
    ] = False,
    overwrite: Overwrite = False,
) -> None:
    """Average particles at the poses in their list.

    Every particle counts at each spatial frequency by what it has measured there: its wedge, or the CTF and the dose
    of its tilt images. With half sets two more maps are made from one half of the particles each; how well they agree
    is the resolution.

    MAP is written, and beside it MAP.settings.toml and with half sets MAP_half1.mrc, MAP_half2.mrc and MAP_fsc.csv: all
    at the end. A particle that cannot be read stops the run with its name and its file.

    Example: `gonio average aligned/particles.star -o average.mrc`
    """
    target = check_map(output, ".settings.toml", *(HALF_ENDINGS if halves else ()), overwrite=overwrite)
    if split and not halves:
        raise ValueError("--split and --no-halves exclude each other: give one")
    options = ListOptions(particles, tilt_range, tilt_axis, tomograms, invert, voxel_size, permissive, data)
    table = options.read()
    if split:
        table = replace(table, half_sets=(1 + np.arange(len(table)) % 2).astype(np.int8))
    made = average_table(table, halves=halves)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_average(target, made)
    size = made.volume.voxel_size_angstrom
    settings = {"halves": halves, "split": split, "voxel_size_angstrom": size, "list": asdict(options)}
    write_settings(beside(target, ".settings.toml"), settings, inputs=table.files)
    print(f"wrote {output}: {made.count} particles, {made.volume.box} voxels of {made.volume.voxel_size_angstrom:g} A")
    if made.fsc is not None:
        for threshold in (FSC_HALVES, FSC_KNOWN):
            found = resolution_text(made.fsc, threshold, made.volume.box_angstrom)
            print(f"resolution of the halves at FSC {threshold:g}, no mask: {found}")
    elif halves:
        print("no half sets in the list: pass --split for a resolution")


def average_table(table: ParticleTable, *, halves: bool) -> Average:
    """Average all particles of a list, with progress."""
    from gonio.averaging import average as average_particles

    half_sets = table.half_sets if halves else None
    if half_sets is not None and not np.isin(half_sets, [0, 1, 2]).all():
        raise ValueError("half sets (rlnRandomSubset) must be 0, 1 or 2: pass --split or --no-halves")
    finished = 0
    with progress("averaging", len(table)) as done, naming(lambda: table.names[finished]):

        def counted() -> Iterator[Particle]:
            nonlocal finished
            for index, particle in enumerate(table.particles()):
                yield particle
                finished = index + 1
                done(finished)

        return average_particles(counted(), table.poses, half_sets=half_sets)


def write_average(path: Path, made: Average) -> None:
    """The map, its halves and their Fourier shell correlation."""
    from gonio.io import write_volume

    write_volume(path, made.volume)
    if made.halves is None or made.fsc is None:
        return
    *half_endings, fsc_ending = HALF_ENDINGS
    for ending, half in zip(half_endings, made.halves, strict=True):
        write_volume(beside(path, ending), half)
    box = made.volume.box_angstrom
    rows = [f"{s},{box / s if s else float('inf'):.4f},{value:.6f}" for s, value in enumerate(made.fsc)]
    write_text(beside(path, fsc_ending), "\n".join(["shell,resolution_angstrom,fsc", *rows, ""]))


def resolution_text(fsc: np.ndarray, threshold: float, box_angstrom: float) -> str:
    """Where a curve falls through a threshold, for people."""
    from gonio.fourier import resolution_at

    resolution = resolution_at(fsc, threshold, box_angstrom=box_angstrom)
    finest = box_angstrom / (len(fsc) - 1)
    if not np.isfinite(resolution):
        return f"worse than {box_angstrom:.0f} angstrom"
    return f"{resolution:.1f} angstrom" + (" or better: it never falls below" if resolution <= finest else "")
