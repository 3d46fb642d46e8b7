"""``gonio classify``: which particles of a list are alike, and the average of each class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.checking import look_at_list
from gonio.cli.columns import without_found, writable
from gonio.cli.options import (
    AsJson,
    Diameter,
    InputsName,
    ListOptions,
    LocalOptions,
    MaskDiameter,
    MaxShift,
    Resolution,
    ScoreName,
    SearchName,
    SearchOptions,
    Seed,
)
from gonio.cli.output import json_text, numbers_text, wrapped, write_particle_scene, write_settings, write_text
from gonio.cli.page import as_seen, facts_of, with_notes
from gonio.cli.running import HowToRun, running
from gonio.run.engine import Mapper

if TYPE_CHECKING:
    from gonio.alignment.aligner import Settings
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Matrix, Report
    from gonio.workflows.classification import Classes
    from gonio.workflows.clustering import AllPairs, Clustering

# Of an earlier classification these do not stay.
FOUND = ("class_margin",)
# All pairs of so many particles are aligned: 20,000 pairs, four minutes of one processor in boxes of 32.
PAIRS_UP_TO = 200
# Of longer lists so many particles, drawn at random, make the first maps: 5,000 pairs.
FIRST = 100


@dataclass(frozen=True)
class Way:
    """How a list is classed: the rows of which all pairs are aligned (none), or references; and why."""

    rows: np.ndarray | None
    reason: str


@dataclass(frozen=True)
class Paired:
    """All pairs of some rows of a list, and their classes."""

    table: ParticleTable
    pairs: AllPairs
    clustering: Clustering


def classify(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")],
    classes: Annotated[
        str, typer.Option(metavar="K|auto", help="How many classes; auto proposes a number and says why.")
    ] = "auto",
    references: Annotated[
        list[Path] | None,
        typer.Option(
            "--reference",
            metavar="MAP",
            help="A map that particles may show; once for each. No pairs are aligned then.",
        ),
    ] = None,
    pairs_up_to: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Align all pairs of lists of up to so many; longer ones, so many drawn at random."
        ),
    ] = PAIRS_UP_TO,
    start_local: Annotated[
        bool,
        typer.Option("--local", help="Begin at the poses in the list, which are about right, also with a --reference."),
    ] = False,
    score: ScoreName = "rcs",
    search: SearchName = None,
    inputs: InputsName = None,
    resolution: Resolution = None,
    max_shift: MaxShift = None,
    diameter: Diameter = None,
    mask_diameter: MaskDiameter = None,
    options: ListOptions,
    how: HowToRun,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Find classes of particles, and average each.

    Without any map, all pairs of particles are aligned, and classes found from how unlike the pairs are. That takes
    time by the square of their number: of a longer list, a share drawn at random makes the first maps, and then every
    particle goes to the map that it most likely shows, and the maps are averaged again, in turns. Given --reference
    once for each class, or --local and --classes K (which begins with averages of K random shares at the listed
    poses), it is those turns alone. Half sets of the list are kept apart in the turns; classes of pairs are aligned to
    their whole average, and FSC of their halves is then too good by what they share.

    DIR/particles.star is the list with rlnClassNumber and poses in the frame of each class; DIR/class_1.star and so on
    are its classes, DIR/class_1.mrc and so on their averages, with half maps and FSC. With pairs, DIR/pairs.star lists
    the particles whose dissimilarities before and after alignment are the rows of DIR/dissimilarity_before.npy and
    DIR/dissimilarity_after.npy; DIR/dissimilarity.png shows them, and their tree. DIR/report.html
    shows all of it; DIR/maps.cxc and DIR/particles.cxc show it in ChimeraX; DIR/summary.json and DIR/settings.toml say
    it to programs.

    Example: `gonio classify particles.star --tilt-range -60 60 -o classes`
    """
    from gonio.report import html

    asked = SearchOptions(
        score,
        search,
        inputs=inputs,
        resolution_angstrom=resolution,
        max_shift_angstrom=max_shift,
        diameter_angstrom=diameter,
        mask_diameter_angstrom=mask_diameter,
        local=LocalOptions() if start_local else None,
    )
    asked.check()
    count = _count(classes)
    table = options.read()
    if not len(table):
        raise ValueError(f"{options.path} lists no particle: there is nothing to classify")
    if count is not None and count > len(table):
        raise ValueError(f"--classes {count} is more than the {len(table)} particles of {options.path}")
    maps = [options.read_map(path) for path in references or ()]
    way = way_of(table, maps, count, pairs_up_to=pairs_up_to, local=start_local, seed=seed)
    if not as_json:
        print(wrapped(way.reason), flush=True)
    settings = asked.settings(voxel_size_angstrom=table.load(0).voxel_size_angstrom)
    names = [f"reference {path.name}" for path in references or ()]
    warned = look_at_list(
        table,
        dict(zip(names, maps, strict=True)),
        resolutions={"--resolution": resolution},
        poses_for="--local" if start_local else None,
    )
    how = replace(how, draws=settings.draws)
    asked_for = {
        "classes": classes,
        "references": list(references or ()),
        "pairs_up_to": pairs_up_to,
        "device": how.kind,
        "alignment": asdict(settings),
        "list": options.told(table),
    }
    files = [*table.files, *(references or ())]
    with running(output, how, settings=asked_for, seed=seed, inputs=files) as run:
        found, paired = classified(table, way, maps, count, settings, mapper=run.mapper, seed=seed)
        with run.results() as folder:
            classed = classed_table(table, found)
            write_classes(folder, classed, found)
            matrix = None if paired is None else matrix_of(paired, score)
            if paired is not None and matrix is not None:
                write_pairs(folder, paired, matrix)
            write_text(folder / "summary.json", json_text(summary_of(found, way, paired), indent=2) + "\n")
            report = report_of(classed, found, matrix, title=f"Classes of {options.path.name}", seed=seed)
            write_text(folder / "report.html", html(with_notes(report, table, warned)))
            write_settings(folder / "settings.toml", {**asked_for, "threads": how.workers}, seed=seed, inputs=files)
    if as_json:
        print(json_text(summary_of(found, way, paired)))
        return
    if paired is not None:
        print(wrapped(paired.clustering.reason))
    print(numbers_text(rows_of(found)))
    print(f"wrote {output / 'particles.star'} and {output / 'class_1.mrc'}\nlook at {output / 'report.html'}")


def _count(classes: str) -> int | None:
    """The number that was asked for; None for auto."""
    if classes == "auto":
        return None
    if not (classes.isascii() and classes.isdigit() and int(classes) > 0):
        raise ValueError(f"--classes must be a number from 1, or auto, got {classes!r}")
    return int(classes)


def way_of(
    table: ParticleTable, maps: Sequence[Volume], count: int | None, *, pairs_up_to: int, local: bool, seed: int
) -> Way:
    """All pairs, or references.

    Raises
    ------
    ValueError
        For what does not fit together, or particles that cannot be paired, in the words of the command line.
    """
    from gonio.particle.volume import TiltStack

    size = len(table)
    if maps and count not in (None, len(maps)):
        raise ValueError(f"--classes {count} and {len(maps)} times --reference: leave out --classes, or give as many")
    if maps:
        return Way(None, f"in turns: {len(maps)} references are given")
    if local and count is None:
        raise ValueError("--local begins with averages of random shares: say of how many, --classes K")
    if local:
        return Way(None, f"in turns: {count} random shares at the listed poses, which are about right")
    if isinstance(table.load(0), TiltStack):
        raise ValueError(
            "tilt stacks cannot be compared with one another: give maps (--reference, once for each), or --local with"
            " --classes K where the listed poses are about right"
        )
    pairs = f"{size * (size - 1) // 2} pairs of {size} particles"
    if size <= pairs_up_to:
        return Way(np.arange(size), f"all pairs: {pairs} are few enough (--pairs-up-to {pairs_up_to})")
    some = min(FIRST, pairs_up_to)
    if some < 2:
        raise ValueError("--pairs-up-to must be at least 2 without a --reference: maps have to come from somewhere")
    rows = np.sort(np.random.default_rng(seed).permutation(size)[:some])
    return Way(rows, f"pairs of {some} drawn at random, then in turns: {pairs} are too many (--pairs-up-to)")


def classified(
    table: ParticleTable,
    way: Way,
    maps: Sequence[Volume],
    count: int | None,
    settings: Settings,
    *,
    mapper: Mapper,
    seed: int,
) -> tuple[Classes, Paired | None]:
    """The classes, and the pairs that they come from."""
    from gonio.workflows import classification
    from gonio.workflows.clustering import cluster

    if way.rows is None:
        if not maps:
            assert count is not None  # way_of has asked for it
            maps = classification.random_references(table, count, mapper=mapper, seed=seed)
        return classification.classes_of_references(table, maps, settings, mapper=mapper, seed=seed), None
    chosen = table[way.rows]
    if count is not None and count > len(chosen):
        raise ValueError(f"--classes {count} is more than the {len(chosen)} particles that are paired: --pairs-up-to")
    pairs = classification.classify_pairs(chosen, settings, mapper=mapper, seed=seed)
    clustering = cluster(pairs.dissimilarity(settings.score), count)
    paired = Paired(chosen, pairs, clustering)
    found = classification.classes_of_clusters(chosen, pairs, clustering, settings, mapper=mapper)
    if len(chosen) == len(table):
        return found, paired
    shown = [made.volume for made in found.averages if made is not None]
    return classification.classes_of_references(table, shown, settings, mapper=mapper, seed=seed), paired


def report_of(classed: ParticleTable, found: Classes, matrix: Matrix | None, *, title: str, seed: int) -> Report:
    """The page about a classification: class averages side by side, and the matrix that they come from."""
    from gonio.report import Classes as Shown
    from gonio.report import Report

    made = {one: average for one, average in enumerate(found.averages, start=1) if average is not None}
    counts = [int((found.labels == one).sum()) for one in made]
    curves = {f"class {one}": average.fsc for one, average in made.items() if average.fsc is not None}
    seen: dict[str, Volume] = {}
    for one, average in made.items():
        seen |= as_seen({f"class {one}": average.volume}, _resolution(found, one - 1) or 0.0)
    return Report(
        title,
        facts_of(seed),
        rows_of(found),
        classed,
        curves=curves,
        box_angstrom=next(iter(made.values())).volume.box_angstrom if made else 0.0,
        maps=seen,
        classes=Shown(seen, counts) if seen else None,
        matrix=matrix if matrix is not None and len(matrix.linkage) else None,
    )


def matrix_of(paired: Paired, score: str) -> Matrix:
    """The dissimilarities of all pairs, and how they were clustered."""
    from gonio.report import Matrix

    before, after = (paired.pairs.dissimilarity(score, aligned=aligned) for aligned in (False, True))
    return Matrix(before, after, paired.clustering.linkage, paired.clustering.labels)


def classed_table(table: ParticleTable, found: Classes) -> ParticleTable:
    """The list with classes, poses in the frame of each, and by how much a class fits better than the next."""
    columns = {"class_margin": found.margin} if np.isfinite(found.margin).any() else {}
    classed = without_found(replace(table, classes=found.labels)).without(*FOUND)
    return writable(classed.with_poses(found.poses, **columns))


def write_classes(folder: Path, classed: ParticleTable, found: Classes) -> None:
    """The list, and each class: its own list and its average."""
    from gonio.cli.average import agreement_of, write_average
    from gonio.io import write_particles
    from gonio.report import MapFile, maps_script

    write_particles(folder / "particles.star", classed)
    shown = [
        MapFile(f"class_{one}.mrc", made.volume, True, _resolution(found, one - 1) or np.inf)
        for one, made in enumerate(found.averages, start=1)
        if made is not None
    ]
    if shown:
        write_text(folder / "maps.cxc", maps_script(shown, side_by_side=True))
        write_particle_scene(folder, classed, box_angstrom=shown[0].volume.box_angstrom)
    for one, made in enumerate(found.averages, start=1):
        if made is None:
            continue
        write_particles(folder / f"class_{one}.star", classed[found.labels == one], with_optimisation_set=False)
        write_average(folder / f"class_{one}.mrc", made, agreement_of(made))


def write_pairs(folder: Path, paired: Paired, matrix: Matrix) -> None:
    """The matrices, as numbers and as a picture, and the particles of their rows."""
    from gonio.io import write_particles
    from gonio.report.matrices import matrix_drawing

    listed = without_found(replace(paired.table, classes=paired.clustering.labels))
    write_particles(folder / "pairs.star", listed, with_optimisation_set=False)
    for name, values in (("before", matrix.before), ("after", matrix.after)):
        assert values is not None  # of pairs both are known
        with (folder / f"dissimilarity_{name}.npy").open("wb") as file:
            np.save(file, values)
    if len(matrix.linkage):  # one particle has no tree
        matrix_drawing(matrix).savefig(folder / "dissimilarity.png", dpi=130)


def summary_of(found: Classes, way: Way, paired: Paired | None) -> dict[str, object]:
    """What was found, to programs."""
    counts = [int((found.labels == one).sum()) for one in range(1, len(found.averages) + 1)]
    summary: dict[str, object] = {
        "way": way.reason,
        "particles": len(found.labels),
        "classes": counts,
        "at_rest": found.at_rest,
        "turns": [asdict(one) for one in found.rounds],
        "resolution_angstrom": [_resolution(found, one) for one in range(len(counts))],
    }
    if paired is not None:
        summary["number_of_classes"] = paired.clustering.reason
        summary["silhouettes"] = {str(k): value for k, value in paired.clustering.silhouettes.items()}
    return summary


def _resolution(found: Classes, one: int) -> float | None:
    """At which the halves of a class agree by 0.143, without a mask."""
    from gonio.averaging.resolution import FSC_HALVES
    from gonio.fourier.fsc import resolution_at

    made = found.averages[one]
    if made is None or made.fsc is None:
        return None
    return resolution_at(made.fsc, FSC_HALVES, box_angstrom=made.volume.box_angstrom)


def rows_of(found: Classes) -> list[tuple[str, str, str]]:
    """What was found: name, value with unit, how to read it."""
    rows = []
    if found.rounds:
        last = found.rounds[-1]
        moved = f"not at rest: {last.moved} changed class, moved by {last.motion_voxels:.2f} voxels"
        rows.append(("turns", str(len(found.rounds)), "at rest" if found.at_rest else moved))
    for one, made in enumerate(found.averages, start=1):
        if made is None:
            rows.append((f"class {one}", "empty", "no particle shows it"))
            continue
        reached = _resolution(found, one - 1)
        told = "" if reached is None else f"halves agree (FSC 0.143, no mask) to {reached:.1f} angstrom"
        rows.append((f"class {one}", f"{made.count} particles", told))
    return rows
