"""``gonio refine``: aligning and averaging in turns, in two halves, from a map or from nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.average import falls_at, fsc_csv, resolutions
from gonio.cli.checking import look_at_list, look_at_symmetry
from gonio.cli.columns import columns_of, without_found, writable, write_runners_up
from gonio.cli.half_sets import note, some, with_half_sets
from gonio.cli.options import (
    AsJson,
    AssignmentName,
    Diameter,
    ListOptions,
    LocalOptions,
    MaskDiameter,
    MaskPath,
    MaxShift,
    ScoreName,
    SearchOptions,
    Seed,
    SymmetryName,
    positive,
)
from gonio.cli.output import json_text, numbers_text, write_particle_scene, write_settings, write_text
from gonio.cli.page import as_seen, defocus_of, facts_of, odd_of, with_notes
from gonio.cli.running import HowToRun, running

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Report
    from gonio.run.engine import Mapper
    from gonio.run.folder import RunFolder
    from gonio.workflows.initial_model import DeNovoHalves
    from gonio.workflows.inspection import Suspicion
    from gonio.workflows.refinement import Iteration, Listed, Plan


@dataclass(frozen=True)
class Start:
    """Where a refinement starts: a map, so many particles of each half, or with neither the poses of the list."""

    reference: Volume | None = None
    subset: int | None = None


def refine(
    *,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")],
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="MAP", help="MRC map to start from, at low resolution.")
    ] = None,
    denovo: Annotated[
        bool, typer.Option("--denovo", help="Start from the particles alone: each half makes a map of its own.")
    ] = False,
    subset: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=6,
            help="With --denovo: particles of each half, of which all pairs are aligned. Default: 40.",
        ),
    ] = None,
    start_local: Annotated[
        bool,
        typer.Option(
            "--local",
            help="Poses in the list are nearly right: search around them alone. Without --reference each half starts"
            " from its own average at these poses.",
        ),
    ] = False,
    local: LocalOptions,
    start_resolution: Annotated[
        float,
        typer.Option(metavar="A", callback=positive, help="To which the start map is taken, angstrom."),
    ] = 60.0,
    resolution: Annotated[
        float | None,
        typer.Option(
            "--resolution",
            metavar="A",
            callback=positive,
            help="Finest detail that is ever compared, angstrom. Default: as far as the halves agree.",
        ),
    ] = None,
    iterations: Annotated[int, typer.Option(metavar="N", min=1, help="After which it ends, at rest or not.")] = 12,
    split: Annotated[
        bool, typer.Option("--split", help="Make new half sets, whatever the list says; siblings share a half.")
    ] = False,
    siblings: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            callback=positive,
            help="Particles nearer than this along every axis share a half, angstrom. Default: the box's edge.",
        ),
    ] = None,
    duplicates: Annotated[
        float | None,
        typer.Option(
            metavar="A",
            callback=positive,
            help="Drop particles that come to lie nearer than this to one that fits better, angstrom.",
        ),
    ] = None,
    assignment: AssignmentName = "auto",
    score: ScoreName = "rcs",
    symmetry: SymmetryName = "C1",
    max_shift: MaxShift = None,
    diameter: Diameter = None,
    mask_diameter: MaskDiameter = None,
    mask: MaskPath = None,
    options: ListOptions,
    how: HowToRun,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Refine poses and map together, the two halves of the particles apart from the first step.

    Each half is aligned to its own map, whose resolution limit follows the Fourier shell correlation of the halves and
    never runs ahead of it; over all orientations first, near the poses found later, until neither moves any more. Half
    sets are those of the list (rlnRandomSubset); without them, or with --split, they are made such that overlapping
    boxes and parts of one particle share a half.

    A map given as --reference is taken at low resolution alone, and both halves start from it: to that resolution they
    agree whatever the particles show. With --denovo each half makes its own start map from its own particles; with
    --local each half starts from its average at the poses of the list, which stay where a prior expects them.

    DIR/iteration_001/ and so on hold half1.mrc, half2.mrc, map.mrc, fsc.csv and particles.star as they were then. DIR
    holds those of the iteration whose halves agree best, as a rule the last, and mask.mrc, runners_up.star,
    iterations.csv, duplicates.csv, report.html, summary.json and settings.toml; maps.cxc and particles.cxc show them in
    ChimeraX. A run that is cut off goes on with --resume.

    Example: `gonio refine particles.star --reference map.mrc --start-resolution 60 -o refined`
    """
    from gonio.report import html
    from gonio.workflows.initial_model import SUBSET
    from gonio.workflows.refinement import Plan

    _check_start(reference, denovo=denovo, local=start_local)
    if subset is not None and not denovo:
        raise ValueError("--subset is how many particles of each half --denovo makes a map from")
    asked = SearchOptions(
        score,
        symmetry=symmetry,
        resolution_angstrom=resolution,
        max_shift_angstrom=max_shift,
        diameter_angstrom=diameter,
        mask_diameter_angstrom=mask_diameter,
    )
    asked.check()
    how.check()
    start = Start(None if reference is None else options.read_map(reference), (subset or SUBSET) if denovo else None)
    expected = local.of(start_local)
    plan = Plan(
        settings=asked.settings(voxel_size_angstrom=1.0),  # of no length that follows from it
        start_resolution_angstrom=start_resolution,
        max_iterations=iterations,
        mask=None if mask is None else options.read_map(mask),
        assignment=assignment,  # type: ignore[arg-type]  # names are read there
        duplicates_angstrom=duplicates,
        seed=seed,
    )
    table = with_half_sets(options.read(), split=split, siblings_angstrom=siblings, seed=seed)
    plan = replace(plan, listed=None if expected is None else _listed(expected, table))
    warned = _look(table, plan, start)
    settings = {
        "reference": reference,
        "denovo": denovo,
        "subset": subset,
        "split": split,
        "siblings_angstrom": siblings,
        "mask": mask,
        "device": how.kind,
        "plan": {**asdict(replace(plan, mask=None)), "mask": None},
        "list": options.told(table),
    }
    files = [*table.files, *(path for path in (reference, mask) if path is not None)]
    # Standard output holds JSON alone where that was asked for.
    say = partial(print, file=sys.stderr if as_json else sys.stdout, flush=True)
    with running(output, how, settings=settings, seed=seed, inputs=files) as work:
        done = run(work.mapper, work.folder, table, plan, start, say)
        with work.results() as folder:
            write_results(folder, done, plan)
            report = report_of(done, plan, title=f"Refinement of {options.path.name}", seed=seed)
            write_text(folder / "report.html", html(with_notes(report, table, warned)))
            write_settings(folder / "settings.toml", {**settings, "threads": how.workers}, seed=seed, inputs=files)
    _note_doubts(done, plan, start)
    if as_json:
        print(json_text(summary_of(done)))
        return
    print(numbers_text(rows_of(done)))
    print(f"wrote {output / 'map.mrc'}, its halves and its particles\nlook at {output / 'report.html'}")


def _look(table: ParticleTable, plan: Plan, start: Start) -> list[Suspicion]:
    """Print and return what looks wrong before anything is done; a start map is judged at its resolution."""
    references = {} if start.reference is None else {"the reference": start.reference}
    resolutions = {"--resolution": plan.settings.resolution_angstrom}
    if references:
        resolutions["--start-resolution"] = plan.start_resolution_angstrom
    local = None if plan.listed is None else "--local"
    warned = look_at_list(table, references, mask=plan.mask, resolutions=resolutions, poses_for=local)
    if start.reference is not None:
        warned += look_at_symmetry(
            start.reference,
            plan.settings.symmetry,
            resolution_angstrom=plan.start_resolution_angstrom,
            diameter_angstrom=plan.settings.particle_diameter_angstrom,
        )
    return warned


def _check_start(reference: Path | None, *, denovo: bool, local: bool) -> None:
    if denovo and reference is not None:
        raise ValueError("--reference and --denovo exclude each other: give one")
    if denovo and local:
        raise ValueError("--denovo looks at no listed pose, and --local starts from them: give one")
    if not (denovo or local or reference is not None):
        raise ValueError(
            "give --reference MAP to start from a map, --denovo to start from the particles alone,"
            " or --local to start from the poses in the list"
        )


def _listed(local: LocalOptions, table: ParticleTable) -> Listed:
    from gonio.workflows.refinement import Listed

    own = local.settings(voxel_size_angstrom=table.load(0).voxel_size_angstrom)
    return Listed(own["prior_rotation_sd_deg"], own["prior_shift_sd_angstrom"], own["max_rotation_deg"])


def run(
    mapper: Mapper, folder: RunFolder, table: ParticleTable, plan: Plan, start: Start, say: Callable[[str], None]
) -> list[Iteration]:
    """Refine, and write and tell each iteration when it is done; the same inputs give the same files."""
    from gonio.workflows.refinement import refined

    plan, starts = _starts(mapper, folder, table, plan, start, say)
    places = None if table.places_angstrom is None else (lambda one: np.asarray(one.places_angstrom))
    done: list[Iteration] = []
    for iteration in refined(table, starts, plan, mapper=mapper, places_angstrom=places):
        with folder.part(f"iteration_{iteration.number:03d}") as part:
            write_iteration(part, iteration, plan)
        if not done:
            say(HEADINGS)
        say(iteration_line(iteration))
        done.append(iteration)
    return done


def _starts(
    mapper: Mapper, folder: RunFolder, table: ParticleTable, plan: Plan, start: Start, say: Callable[[str], None]
) -> tuple[Plan, tuple[Volume, Volume] | None]:
    """The map that each half starts from, and the plan with its resolution; None for the listed poses."""
    from gonio.workflows.initial_model import denovo_halves
    from gonio.workflows.refinement import start_map

    if start.reference is not None:
        map_ = start_map(start.reference, resolution_angstrom=plan.start_resolution_angstrom)
        return plan, (map_, map_)
    if start.subset is None:
        return plan, None
    made = denovo_halves(table, plan.settings, count=start.subset, seed=plan.seed, mapper=mapper)
    with folder.part("denovo") as part:
        _write_denovo(part, made)
    agreed = made.resolution_angstrom
    say(f"maps from {len(made.made[0].table)} and {len(made.made[1].table)} particles agree to {agreed:.0f} angstrom")
    resolution = max(plan.start_resolution_angstrom, agreed)
    if resolution > made.volumes[0].box_angstrom / 3.0:
        raise ValueError(
            f"the maps that the two halves made by themselves (denovo/ in {folder.path}) do not agree: "
            "pass a larger --subset, or --reference"
        )
    one, two = (start_map(map_, resolution_angstrom=resolution) for map_ in made.volumes)
    return replace(plan, start_resolution_angstrom=resolution), (one, two)


# One line for each iteration, in the width of a terminal.
HEADINGS = "iteration  looked      compared to  halves agree  median particle moved by"


def iteration_line(one: Iteration) -> str:
    """An iteration for people, under ``HEADINGS``."""
    where = "near" if one.search == "local" else "everywhere"
    found = "nowhere" if not np.isfinite(one.resolution_angstrom) else f"{one.resolution_angstrom:.1f} A"
    moved = f"{one.moved_deg:.2f} deg, {one.moved_angstrom:.1f} A, {one.moved_sds:.2f} sd"
    return f"{one.number:>9}  {where:<10}  {f'{one.limit_angstrom:.1f} A':>11}  {found:>12}  {moved}"


def write_iteration(folder: Path, one: Iteration, plan: Plan) -> None:
    """Maps, FSC and list."""
    from gonio.io import write_particles, write_volume

    for name, volume in (("half1", one.halves[0]), ("half2", one.halves[1]), ("map", one.volume)):
        write_volume(folder / f"{name}.mrc", volume)
    write_text(folder / "fsc.csv", fsc_csv(one.fsc))
    write_particles(folder / "particles.star", writable(_with_columns(one, plan)))


def _with_columns(one: Iteration, plan: Plan) -> ParticleTable:
    listed = without_found(one.table)
    return listed.with_poses(listed.poses, **columns_of(listed, one.results, plan.settings.score))


def _write_denovo(folder: Path, made: DeNovoHalves) -> None:
    from gonio.io import write_particles, write_volume

    for half, (volume, one) in enumerate(zip(made.volumes, made.made, strict=True), start=1):
        write_volume(folder / f"half{half}.mrc", volume)
        listed = without_found(one.table)
        listed = listed.with_poses(listed.poses, pairs_that_agree=one.agreement)
        write_particles(folder / f"particles_half{half}.star", writable(listed))


def write_results(folder: Path, done: Sequence[Iteration], plan: Plan) -> None:
    """The last iteration, and what became of all of them."""
    from gonio.io import write_volume
    from gonio.report import MapFile, maps_script
    from gonio.workflows.refinement import best_of, fsc_mask

    best = best_of(done)
    write_iteration(folder, best, plan)
    write_volume(folder / "mask.mrc", fsc_mask(best.volume, plan))
    write_runners_up(folder / "runners_up.star", best.table, best.results)
    shown = [("map.mrc", best.volume), ("half1.mrc", best.halves[0]), ("half2.mrc", best.halves[1])]
    write_text(
        folder / "maps.cxc",
        maps_script([MapFile(name, one, name == "map.mrc", best.resolution_angstrom) for name, one in shown]),
    )
    write_particle_scene(folder, _with_columns(best, plan), box_angstrom=best.volume.box_angstrom)
    write_text(folder / "summary.json", json_text(summary_of(done), indent=2) + "\n")
    names = ("number", "search", "limit_angstrom", "moved_deg", "moved_angstrom", "moved_sds")
    rows = [f"{','.join(names)},resolution_angstrom"]
    for one in done:
        values = [getattr(one, name) for name in names] + [one.resolution_angstrom]
        rows.append(",".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in values))
    write_text(folder / "iterations.csv", "\n".join([*rows, ""]))
    lost = [f"{one.number},{a},{b},{apart:.2f}" for one in done for a, b, apart in one.dropped]
    write_text(folder / "duplicates.csv", "\n".join(["iteration,dropped,kept,distance_angstrom", *lost, ""]))


def rows_of(done: Sequence[Iteration]) -> list[tuple[str, str, str]]:
    """What came of it: name, value with unit, how to read it."""
    from gonio.workflows.refinement import best_of

    best, lost = best_of(done), [name for one in done for name, *_ in one.dropped]
    which = "the last" if best is done[-1] else "the one whose halves agree best"
    dropped = [("duplicates dropped", str(len(lost)), f"duplicates.csv: {some(lost)}")] if lost else []
    return [
        ("particles", str(len(best.table)), "in two halves"),
        ("iterations", str(len(done)), done[-1].ended),
        ("iteration shown", str(best.number), which),
        *resolutions(best.fsc),
        (
            "rotation sd, median",
            f"{np.median([one.rotation_sd_deg for one in best.results]):.2f} degrees",
            "predicted, about any one axis",
        ),
        (
            "shift sd, median",
            f"{np.median([one.shift_sd_angstrom for one in best.results]):.2f} angstrom",
            "predicted, along any one axis",
        ),
        *dropped,
    ]


def report_of(done: Sequence[Iteration], plan: Plan, *, title: str, seed: int) -> Report:
    """The page about a refinement: the iteration whose halves agree best, and how it came there."""
    from gonio.report import Iteration as Turn
    from gonio.report import Report
    from gonio.workflows.refinement import best_of

    best = best_of(done)
    table, box = _with_columns(best, plan), best.volume.box_angstrom
    turns = [Turn(one.limit_angstrom, one.resolution_angstrom, one.moved_deg, one.moved_angstrom) for one in done]
    return Report(
        title,
        facts_of(seed),
        rows_of(done),
        table,
        curves={f"half maps, {name}": curve for name, curve in best.fsc.curves.items()},
        box_angstrom=box,
        maps=as_seen(
            {"map": best.volume, "half 1": best.halves[0], "half 2": best.halves[1]}, best.resolution_angstrom
        ),
        against=defocus_of(table),
        coverage=best.coverage,
        odd=odd_of(table),
        iterations=turns,
    )


def summary_of(done: Sequence[Iteration]) -> dict[str, object]:
    """The end of a refinement, for programs."""
    from gonio.workflows.refinement import best_of

    best = best_of(done)
    sets = np.asarray(best.table.half_sets)
    return {
        "particles": len(best.table),
        "half_sets": [int((sets == half).sum()) for half in (1, 2)],
        "dropped": sum(len(one.dropped) for one in done),
        "iterations": len(done),
        "best_iteration": best.number,
        "ended": done[-1].ended,
        "limit_angstrom": best.limit_angstrom,
        "resolution_angstrom": best.resolution_angstrom,
        "fsc_falls_at_angstrom": falls_at(best.fsc),
    }


def _note_doubts(done: Sequence[Iteration], plan: Plan, start: Start) -> None:
    from gonio.workflows.refinement import best_of

    if start.reference is not None and best_of(done).resolution_angstrom > 0.95 * plan.start_resolution_angstrom:
        note(
            f"the halves agree no further than the map that both started from ({plan.start_resolution_angstrom:g}"
            " angstrom): that agreement may be the map's alone, and says nothing of the particles"
        )
