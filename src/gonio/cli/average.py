"""``gonio average``: the map that the poses of a list make, and its resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.checking import look_at_list
from gonio.cli.half_sets import with_half_sets
from gonio.cli.options import (
    AS_LISTED,
    AsJson,
    ListOptions,
    Overwrite,
    SymmetryName,
    Threads,
    positive,
    thread_count,
    tilt_sense,
)
from gonio.cli.output import beside, check_map, json_text, numbers_text, progress, write_settings, write_text
from gonio.run.engine import Journaled, Local, Mapper

if TYPE_CHECKING:
    from gonio.averaging.average import Average
    from gonio.averaging.resolution import HalfMapFsc
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume

HALF_ENDINGS = ("_half1.mrc", "_half2.mrc", "_fsc.csv")
MASK_ENDING, COVERAGE_ENDING, SCRIPT_ENDING = "_mask.mrc", "_coverage.mrc", ".cxc"


def average(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MAP", help="MRC file to write.")],
    options: ListOptions,
    halves: Annotated[
        bool, typer.Option("--halves/--no-halves", help="Average the half sets of the list (rlnRandomSubset) too.")
    ] = True,
    split: Annotated[
        bool,
        typer.Option("--split", help="Make new half sets, whatever the list says; overlapping particles share a half."),
    ] = False,
    siblings: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            callback=positive,
            help="With --split: particles nearer than this along every axis share a half, angstrom. Default: the"
            " box's edge.",
        ),
    ] = None,
    symmetry: SymmetryName = "C1",
    mask: Annotated[
        Path | None,
        typer.Option(metavar="MAP", help="Mask for the FSC, 0 to 1. Default: made from the average, and written."),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Average particles at the poses in their list.

    Every particle counts at each spatial frequency by what it has measured there: its wedge, or the CTF and the dose
    of its tilt images. With half sets two more maps are made from one half of the particles each; how well they agree,
    without a mask and within a soft one (what the mask itself adds taken off), is the resolution: where
    that curve first falls below 0.143, whatever it does beyond.

    MAP is written as it was averaged, neither filtered nor sharpened, and beside it MAP_coverage.mrc, which says how
    often each frequency was measured, MAP.cxc, which opens the maps in ChimeraX, and MAP.settings.toml; with half sets
    MAP_half1.mrc, MAP_half2.mrc, MAP_mask.mrc and MAP_fsc.csv: all at the end. A particle that cannot be read stops the
    run with its name and its file.

    Example: `gonio average aligned/particles.star -o average.mrc`
    """
    endings = (*HALF_ENDINGS, *(() if mask else (MASK_ENDING,))) if halves else ()
    target = check_map(output, ".settings.toml", COVERAGE_ENDING, SCRIPT_ENDING, *endings, overwrite=overwrite)
    if siblings is not None and not split:
        raise ValueError("--siblings is for the half sets that --split makes: give both")
    if split and not halves:
        raise ValueError("--split and --no-halves exclude each other: give one")
    if mask and not halves:
        raise ValueError("--mask is for the FSC of half maps, and --no-halves makes none: give one of them")
    table = options.read()
    if split:
        table = with_half_sets(table, split=True, siblings_angstrom=siblings, seed=0)
    given = None if mask is None else options.read_map(mask)
    if given is not None and given.box != (box := table.load(0).box):
        raise ValueError(f"--mask has a box of {given.box} voxels, the particles one of {box}")
    look_at_list(table, mask=given, poses_for="an average")
    mapper = Journaled(Local(thread_count(threads)), progress=progress)
    made = average_list(table, halves=halves, symmetry=symmetry, mapper=mapper)
    agreement = agreement_of(made, given)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_average(target, made, agreement)
    size = made.volume.voxel_size_angstrom
    settings = {
        "halves": halves,
        "split": split,
        "siblings_angstrom": siblings,
        "symmetry": symmetry,
        "mask": mask,
        "voxel_size_angstrom": size,
        "list": options.told(table),
    }
    inputs = [*table.files, *(() if mask is None else (mask,))]
    write_settings(beside(target, ".settings.toml"), settings, inputs=inputs)
    if as_json:
        print(json_text(summary_of(made, agreement)))
        return
    print(f"wrote {output}: {made.count} particles, {made.volume.box} voxels of {size:g} A")
    print(numbers_text(rows_of(made, agreement)))
    if (sense := tilt_sense(table)) != AS_LISTED:
        print(f"tilts were read {sense}: the map is the mirror image of what RELION makes of this list")
    if halves and agreement is None:
        print("no half sets in the list: pass --split for a resolution")


@dataclass(frozen=True)
class Agreement:
    """How far half maps agree, and the mask that was made for it, or None where one was given."""

    fsc: HalfMapFsc
    mask: Volume | None


def average_list(table: ParticleTable, *, halves: bool, symmetry: str, mapper: Mapper) -> Average:
    """Average all particles of a list, and its half sets where there are any."""
    from gonio.averaging.average import average_table

    half_sets = np.asarray(table.half_sets)
    if halves and not np.isin(half_sets, [0, 1, 2]).all():
        raise ValueError("half sets (rlnRandomSubset) must be 0, 1 or 2: pass --split or --no-halves")
    return average_table(table, mapper=mapper, half_sets=half_sets if halves else None, symmetry=symmetry)


def agreement_of(made: Average, mask: Volume | None = None) -> Agreement | None:
    """Of the halves of an average, within a mask that is given or made from it; None where it has none."""
    from gonio.averaging.resolution import half_map_fsc, soft_mask

    if made.halves is None:
        return None
    own = soft_mask(made.volume) if mask is None else None
    fsc = half_map_fsc(made.halves, mask=own if mask is None else mask, rng=np.random.default_rng(0))
    return Agreement(fsc, own)


def write_average(path: Path, made: Average, agreement: Agreement | None) -> None:
    """The map, its coverage, its halves, their mask and Fourier shell correlation, and what shows them in ChimeraX."""
    from gonio.io import write_volume
    from gonio.particle.volume import Volume
    from gonio.report import MapFile, maps_script

    write_volume(path, made.volume)
    write_volume(beside(path, COVERAGE_ENDING), Volume(made.coverage, made.volume.voxel_size_angstrom))
    halves = [] if made.halves is None else list(zip(HALF_ENDINGS, made.halves, strict=False))
    limit = float("inf") if agreement is None else agreement.fsc.resolution_angstrom()
    files = [(path.name, made.volume, True), *((beside(path, end).name, one, False) for end, one in halves)]
    shown = [MapFile(name, volume, first, limit) for name, volume, first in files]
    write_text(beside(path, SCRIPT_ENDING), maps_script(shown))
    if made.halves is None or agreement is None:
        return
    *half_endings, fsc_ending = HALF_ENDINGS
    for ending, half in zip(half_endings, made.halves, strict=True):
        write_volume(beside(path, ending), half)
    if agreement.mask is not None:
        write_volume(beside(path, MASK_ENDING), agreement.mask)
    write_text(beside(path, fsc_ending), fsc_csv(agreement.fsc))


def fsc_csv(fsc: HalfMapFsc) -> str:
    """Every curve, shell by shell."""
    box, curves = fsc.box_angstrom, fsc.curves
    rows = [",".join(["shell", "resolution_angstrom", *curves])]
    for s in range(len(fsc.unmasked)):
        values = ",".join(f"{curve[s]:.6f}" for curve in curves.values())
        rows.append(f"{s},{box / s if s else float('inf'):.4f},{values}")
    return "\n".join([*rows, ""])


def resolutions(fsc: HalfMapFsc) -> list[tuple[str, str, str]]:
    """What to say of them: name, value, how to read it."""
    from gonio.averaging.resolution import FSC_HALVES, FSC_KNOWN

    named = (
        ("no mask", "where the halves' FSC falls so", fsc.unmasked),
        ("soft mask", "corrected for the mask", fsc.corrected),
    )
    return [
        (
            f"resolution {level:g}, {name}",
            resolution_text(curve, level, fsc.box_angstrom),
            reading,
        )
        for name, reading, curve in named
        if curve is not None
        for level in (FSC_HALVES, FSC_KNOWN)
    ]


def rows_of(made: Average, agreement: Agreement | None) -> list[tuple[str, str, str]]:
    """How far halves agree and how evenly was measured: name, value, how to read it."""
    from gonio.averaging.resolution import CONE_DEG, evenness

    even = evenness(made.coverage)
    worst = ", ".join(f"{x:.2f}" for x in even.worst_xyz)
    found = [] if agreement is None else resolutions(agreement.fsc)
    return [
        *found,
        ("coverage", f"{100 * even.seen:.1f} %", "of frequencies were measured"),
        ("coverage, efficiency", f"{even.efficiency:.2f}", "1 where all were alike"),
        (
            "coverage, worst direction",
            f"{even.worst:.2f}",
            f"times the mean, within {CONE_DEG:g} degrees of {worst} xyz",
        ),
    ]


def summary_of(made: Average, agreement: Agreement | None) -> dict[str, object]:
    """The same for programs."""
    from gonio.averaging.resolution import evenness

    even = evenness(made.coverage)
    summary: dict[str, object] = {
        "particles": made.count,
        "box": made.volume.box,
        "voxel_size_angstrom": made.volume.voxel_size_angstrom,
        "coverage": {"seen": even.seen, "efficiency": even.efficiency, "worst": even.worst},
    }
    return summary if agreement is None else {**summary, "fsc_falls_at_angstrom": falls_at(agreement.fsc)}


def falls_at(fsc: HalfMapFsc) -> dict[str, float]:
    """Where the best curve falls through each threshold, for programs."""
    return {
        "0.143": fsc.resolution_angstrom(),
        "0.5": fsc.resolution_angstrom(0.5),
        "0.143_no_mask": replace(fsc, corrected=None).resolution_angstrom(),
    }


def resolution_text(fsc: np.ndarray, threshold: float, box_angstrom: float) -> str:
    """Where a curve falls through a threshold, for people."""
    from gonio.fourier.fsc import resolution_at

    resolution = resolution_at(fsc, threshold, box_angstrom=box_angstrom)
    finest = box_angstrom / (len(fsc) - 1)
    if not np.isfinite(resolution):
        return f"worse than {box_angstrom:.0f} angstrom"
    return f"{resolution:.1f} angstrom" + (" or better" if resolution <= finest else "")
