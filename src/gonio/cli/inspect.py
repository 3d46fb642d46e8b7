"""``gonio inspect``: what was understood of a file, and what looks wrong with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.ctf_image import CtfImageName, ctf_image_named
from gonio.cli.options import (
    AsJson,
    DefocusHandName,
    Diameter,
    Invert,
    Overwrite,
    Permissive,
    Resolution,
    ReverseTilts,
    Seed,
    TiltAxis,
    TiltFiles,
    TiltRange,
    TomogramsPath,
    VoxelSize,
    defocus_hand_named,
    tilt_sense,
    wedge_of,
)
from gonio.cli.output import check_target, hanging, json_text
from gonio.cli.pictures import draw, drawing
from gonio.cli.understanding import Understood, understand

if TYPE_CHECKING:
    from gonio.io.source import ReadOptions
    from gonio.particle.table import ParticleTable
    from gonio.workflows.inspection import HandScore


def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Particle list, map, tomogram, or tilt file.")],
    hand: Annotated[
        Path | None,
        typer.Option(
            "--hand", metavar="MAP", help="Say whether this map or its mirror image fits the list's particles."
        ),
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", metavar="N", min=1, help="Particles that are looked at, spread over the list.")
    ] = 50,
    resolution: Resolution = None,
    diameter: Diameter = None,
    tilt_range: TiltRange = None,
    tilt_axis: TiltAxis = 90.0,
    tilts: TiltFiles = None,
    ctf_image: CtfImageName = None,
    tomograms: TomogramsPath = None,
    reverse_tilts: ReverseTilts = False,
    defocus_hand: DefocusHandName = None,
    invert: Invert = False,
    voxel_size: VoxelSize = None,
    permissive: Permissive = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="PNG", help="Draw wedge, power and tilts into this file.")
    ] = None,
    seed: Seed = 0,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Show what gonio understands of a file, and what looks wrong with it.

    Of a list: its format, particles, positions, orientations, half sets, images and wedge. Of a map or tomogram: its
    size, contrast and where its power is. Of a tilt file: its tilts, their order and dose. A doubt is no proof, and
    its absence neither.

    With --hand the particles are averaged at their poses; MAP, in any frame, and its mirror image are laid on that
    average, and each particle is refined against both. The margin is the mean difference of the two dissimilarities,
    with its standard error over particles. Where the mirror image fits, both remedies are printed as commands: to read
    the tilts in the other sense, and to mirror the map; which one is right depends on whose hand is known.

    Example: `gonio inspect particles.star --hand 7p6z.mrc --diameter 260 --resolution 38`
    """
    from gonio.io.source import ReadOptions

    if output is not None:
        check_target(output, overwrite=overwrite)
    wedge_of(tilt_range, tilt_axis)  # which checks the range
    options = ReadOptions(
        tilt_range,
        tilt_axis,
        voxel_size,
        invert,
        permissive,
        tomograms_path=tomograms,
        reverse_tilts=reverse_tilts,
        ctf_image=ctf_image_named(ctf_image),
        defocus_hand=defocus_hand_named(defocus_hand),
    )
    understood, table = understand(path, options, tilts or (), sample, diameter)
    score = None
    if hand is not None:
        if table is None:
            raise ValueError(f"--hand needs a list of particles, and {path} is {understood.kind}")
        score = _score(table, options, hand, sample, resolution, diameter, seed)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        draw(understood, output)
    known = (("--mask-diameter", diameter), ("--resolution", resolution))
    options_of_pair = "".join(f" {option} {value:g}" for option, value in known if value is not None)
    remedies = (
        [] if score is None or table is None or hand is None else _remedies(score, table, path, hand, options_of_pair)
    )
    if as_json:
        print(json_text(_as_dict(path, understood, score, remedies), indent=2))
    else:
        _print(path, understood, score, remedies, output)


# Hand


def _score(
    table: ParticleTable,
    options: ReadOptions,
    map_path: Path,
    sample: int,
    resolution: float | None,
    diameter: float | None,
    seed: int,
) -> HandScore:
    from gonio.io import read_volume
    from gonio.workflows.inspection import hand_of

    rows = np.unique(np.linspace(0, len(table) - 1, min(sample, len(table))).round().astype(int))
    chosen = table[rows]
    particles = list(chosen.particles())
    volume = read_volume(map_path, voxel_size_angstrom=options.voxel_size_angstrom, permissive=options.permissive)
    size = particles[0].voxel_size_angstrom
    if abs(volume.voxel_size_angstrom / size - 1) > 0.01:
        raise ValueError(
            f"{map_path} has voxels of {volume.voxel_size_angstrom:g} A, the particles of {size:g} A: resample it"
        )
    return hand_of(
        particles,
        chosen.poses,
        volume,
        resolution_angstrom=resolution,
        diameter_angstrom=diameter,
        rng=np.random.default_rng(seed),
    )


def _remedies(
    score: HandScore, table: ParticleTable, path: Path, map_path: Path, options_of_pair: str
) -> list[tuple[str, str]]:
    """Where the mirror image of a map fits: when to do what, and the command that does it."""
    if score.fits != "mirrored":
        return []
    average = f"gonio average {path} -o listed.mrc"
    pair = f"{average} && gonio pair listed.mrc {map_path}{options_of_pair} --mirror -o reference.mrc"
    mirror = ("the hand of the particles is to stay, or that of the map is not known, mirror the map", pair)
    if tilt_sense(table) != "as listed":
        return [
            ("tilts were read in the other sense by mistake, read them as listed", "leave out --reverse-tilts"),
            mirror,
        ]
    if not getattr(table.source, "series", None):
        return [mirror]
    known = (
        "the hand of the map is known (atoms, right-handed helices), the tilt sense of this set was reversed on import:"
    )
    align = f"gonio align {path} --reverse-tilts --reference {map_path} -o aligned"
    return [(f"{known} read it in the other sense, in average, refine and classify too", align), mirror]


# Telling


def _as_dict(
    path: Path, understood: Understood, score: HandScore | None, remedies: Sequence[tuple[str, str]]
) -> dict[str, object]:
    told: dict[str, object] = {
        "file": str(path),
        "kind": understood.kind,
        "facts": understood.facts,
        "suspicions": [{"name": s.name, "what": s.what, "remedy": s.remedy} for s in understood.suspicions],
    }
    if score is not None:
        told["hand"] = {
            "fits": score.fits,
            "margin": score.margin,
            "standard_error": score.standard_error,
            "particles": len(score.dissimilarities),
            "particles_for_the_map": int((score.dissimilarities[:, 1] > score.dissimilarities[:, 0]).sum()),
            "correlation_of_the_average": list(score.correlations),
            "remedies": [{"when": when, "command": command} for when, command in remedies],
        }
    return told


def _print(
    path: Path,
    understood: Understood,
    score: HandScore | None,
    remedies: Sequence[tuple[str, str]],
    output: Path | None,
) -> None:
    print(f"{path}: {understood.kind}")
    width = max(map(len, understood.facts), default=0)
    for name, fact in understood.facts.items():
        text = " x ".join(map(str, fact)) if isinstance(fact, list) else fact
        print(hanging(f"  {name:<{width}}  ", str(text)))
    if understood.wedge is not None:
        print("\n".join(["", *drawing(understood.wedge, understood.frequency_per_angstrom), ""]))
    for suspicion in understood.suspicions:
        print(hanging("  look again: ", str(suspicion)))
    if not understood.suspicions:
        print("  nothing looks wrong")
    if score is not None:
        _print_hand(score)
    for when, command in remedies:
        print(hanging("  if ", f"{when}:"))
        print(f"     {command}")
    if output is not None:
        print(f"wrote {output}")


def _print_hand(score: HandScore) -> None:
    better = int((score.dissimilarities[:, 1] > score.dissimilarities[:, 0]).sum())
    count = len(score.dissimilarities)
    words = {
        "as given": "the map fits as it is",
        "mirrored": "the map's MIRROR IMAGE fits",
        "undecided": "neither hand fits better",
    }
    one, other = score.correlations
    told = (
        f"{words[score.fits]}; margin {abs(score.margin):.4f} +- {score.standard_error:.4f}, {better} of"
        f" {count} particles for the map; their average correlates {one:.3f} with it, {other:.3f} with its mirror image"
    )
    print(hanging("  hand: ", told))
