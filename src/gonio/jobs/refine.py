"""Refine poses and map together, in two halves, from a map, from nothing or from input poses: ``gonio refine``."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.io.plain import as_cell
from gonio.jobs.align import NO_RUNNERS_UP
from gonio.jobs.average import falls_at, fsc_csv, resolutions
from gonio.jobs.checking import doubts_of, warn_of
from gonio.jobs.files import write_list, write_particle_scene, write_summary, write_text
from gonio.jobs.options import File, ListOptions, LocalOptions, SearchOptions, files_of
from gonio.jobs.pages import defocus_of, facts_of, for_display, outliers_of, with_notes
from gonio.jobs.running import RunOptions, Work, running
from gonio.jobs.splitting import some, with_half_sets
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Report
    from gonio.workflows.initial_model import DeNovoHalves
    from gonio.workflows.refinement import Iteration, Plan

__all__ = ["Refined", "refine"]

# Called with the initial models of the halves, and with each iteration, when they are done.
Watch = Callable[[object], None]


@dataclass(frozen=True)
class Start:
    """Start of a refinement: a map, a number of particles of each half, or with neither the poses of the list."""

    reference: Volume | None = None
    subset: int | None = None


@dataclass(frozen=True)
class Refined:
    """The iterations of a refinement, and its plan."""

    iterations: Sequence[Iteration]
    plan: Plan
    title: str

    @property
    def best(self) -> Iteration:
        """Iteration whose halves agree best, as a rule the last."""
        from gonio.workflows.refinement import best_of

        return best_of(self.iterations)

    @property
    def table(self) -> ParticleTable:
        """List of the best iteration, with gonio's columns for each particle."""
        return _with_columns(self.best, self.plan)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Numbers of the summary: name, value with unit, how to read it."""
        best, done = self.best, self.iterations
        lost = [name for one in done for name, *_ in one.dropped]
        which = "the last" if best is done[-1] else "the one whose halves agree best"
        rotation = np.median([one.rotation_sd_deg for one in best.results])
        shift = np.median([one.shift_sd_angstrom for one in best.results])
        return [
            ("particles", str(len(best.table)), "in two halves"),
            ("iterations", str(len(done)), done[-1].ended),
            ("iteration shown", str(best.number), which),
            *resolutions(best.fsc),
            ("rotation sd, median", f"{rotation:.2f} degrees", "predicted, about any one axis"),
            ("shift sd, median", f"{shift:.2f} angstrom", "predicted, along any one axis"),
            *([("duplicates dropped", str(len(lost)), f"duplicates.csv: {some(lost)}")] if lost else []),
        ]

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs."""
        best, done = self.best, self.iterations
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


def refine(
    particles: ListOptions,
    *,
    output: File,
    reference: File | None = None,
    initial_model: bool = False,
    subset: int | None = None,
    local: LocalOptions | None = None,
    start_resolution_angstrom: float = 60.0,
    iterations: int = 12,
    split: bool = False,
    overlap_distance_angstrom: float | None = None,
    duplicates_angstrom: float | None = None,
    assignment: str = "auto",
    search: SearchOptions = SearchOptions(),
    mask: File | None = None,
    run: RunOptions = RunOptions(),
    seed: int = 0,
    watch: Watch = lambda event: None,
) -> Refined:
    """Refine poses and map together, the two halves of the particles apart, and write what ``gonio refine`` writes.

    Parameters
    ----------
    output
        The folder to make. Iterations appear in it as they are done, all other files together at the end.
    reference
        The map to start from. One of ``reference``, ``initial_model`` and ``local`` is needed.
    initial_model, subset
        Each half makes an initial model from this many of its own particles (40).
    local
        Search near the poses of the list, which are nearly right.
    start_resolution_angstrom
        Resolution up to which the starting map is used.
    iterations
        Largest number of iterations.
    split, overlap_distance_angstrom
        Make new half sets; particles nearer than this are kept in one, the box's edge unless given.
    duplicates_angstrom
        Drop particles that come to lie nearer than this to one that fits better.
    assignment
        ``gonio.workflows.refinement.Assignment`` or its name.
    search
        How particles are compared; its resolution is the finest that is ever compared, None for as far as the halves
        agree. The searches themselves are a refinement's own.
    mask
        Mask of the particle's density; None for a soft sphere.
    watch
        Called with the initial models of the halves (``DeNovoHalves``), and with each ``Iteration``, when done.

    Raises
    ------
    ValueError, OSError
        For options that do not fit together, and files that cannot be read or do not fit; a particle is named.
    """
    from gonio.report import html
    from gonio.workflows.initial_model import SUBSET
    from gonio.workflows.refinement import Plan

    _check_start(reference, initial_model=initial_model, local=local is not None)
    if subset is not None and not initial_model:
        raise ArgumentError("{} is how many particles of each half {} makes a map from", "subset", "initial_model")
    search.check()
    resources = run.resources()
    start = Start(particles.read_mask(reference), (subset or SUBSET) if initial_model else None)
    plan = Plan(
        settings=search.settings(voxel_size_angstrom=1.0),  # of no length that follows from it
        start_resolution_angstrom=start_resolution_angstrom,
        max_iterations=iterations,
        mask=particles.read_mask(mask),
        assignment=assignment,  # type: ignore[arg-type]  # names are read there
        duplicates_angstrom=duplicates_angstrom,
        seed=seed,
    )
    table = with_half_sets(
        particles.read(), split=split, overlap_distance_angstrom=overlap_distance_angstrom, seed=seed
    )
    if local is not None:
        plan = replace(plan, listed=local.search(voxel_size_angstrom=table.load(0).voxel_size_angstrom))
    doubts = doubts_of(
        table,
        start.reference,
        plan.settings,
        mask=plan.mask,
        local=plan.listed is not None,
        start_angstrom=plan.start_resolution_angstrom,
    )
    warned = warn_of(doubts)
    settings = {
        "reference": reference,
        "initial_model": initial_model,
        "subset": subset,
        "split": split,
        "overlap_distance_angstrom": overlap_distance_angstrom,
        "mask": mask,
        "device": resources.kind,
        "plan": {**asdict(replace(plan, mask=None)), "mask": None},
        "list": particles.record(table),
    }
    files = files_of(table, reference, mask)
    with running(output, resources, settings=settings, seed=seed, inputs=files) as work:
        done = _iterated(work, table, plan, start, watch)
        refined = Refined(done, plan, f"Refinement of {particles.name}")
        with work.results() as folder:
            _write_results(folder, refined)
            write_text(folder / "report.html", html(with_notes(_report(refined), table, warned)))
    _warn_of_doubts(refined, start)
    return refined


def _check_start(reference: File | None, *, initial_model: bool, local: bool) -> None:
    if initial_model and reference is not None:
        raise ArgumentError("{} and {} exclude each other: give one", "reference", "initial_model")
    if initial_model and local:
        raise ArgumentError("{} ignores input poses, and {} starts from them: give one", "initial_model", "local")
    if not (initial_model or local or reference is not None):
        raise ArgumentError(
            "give {} MAP to start from a map, {} to start from the particles alone, or {} to start from the poses in"
            " the list",
            "reference",
            "initial_model",
            "local",
        )


def _iterated(work: Work, table: ParticleTable, plan: Plan, start: Start, watch: Watch) -> list[Iteration]:
    """Refine, and write and show each iteration when it is done; identical inputs give identical files."""
    from gonio.workflows.refinement import refined

    plan, starts = _starts(work, table, plan, start, watch)
    places = None if table.places_angstrom is None else (lambda one: np.asarray(one.places_angstrom))
    done: list[Iteration] = []
    iterations = refined(table, starts, plan, reference=start.reference, executor=work.executor, places_angstrom=places)
    for iteration in iterations:
        with work.folder.part(f"iteration_{iteration.number:03d}") as part:
            _write_iteration(part, iteration, plan)
        watch(iteration)
        done.append(iteration)
    return done


def _starts(
    work: Work, table: ParticleTable, plan: Plan, start: Start, watch: Watch
) -> tuple[Plan, tuple[Volume, Volume] | None]:
    """Return the map that each half starts from (None for input poses), and the plan with its resolution."""
    from gonio.workflows.initial_model import initial_model_halves
    from gonio.workflows.refinement import start_map

    if start.reference is not None:
        map_ = start_map(start.reference, resolution_angstrom=plan.start_resolution_angstrom)
        return plan, (map_, map_)
    if start.subset is None:
        return plan, None
    made = initial_model_halves(table, plan.settings, count=start.subset, seed=plan.seed, executor=work.executor)
    with work.folder.part("initial_model") as part:
        _write_initial_model(part, made)
    watch(made)
    resolution = max(plan.start_resolution_angstrom, made.resolution_angstrom)
    if resolution > made.volumes[0].box_angstrom / 3.0:
        raise ArgumentError(
            "the maps that the two halves made by themselves (initial_model/ in {folder}) do not agree: pass a larger"
            " {}, or {}",
            "subset",
            "reference",
            folder=work.folder.path,
        )
    one, two = (start_map(map_, resolution_angstrom=resolution) for map_ in made.volumes)
    return replace(plan, start_resolution_angstrom=resolution), (one, two)


def _write_iteration(folder: Path, one: Iteration, plan: Plan) -> None:
    """Write maps, FSC and list."""
    from gonio.alignment.columns import writable
    from gonio.io import write_volume
    from gonio.io.lists import write_back

    for name, volume in (("half1", one.halves[0]), ("half2", one.halves[1]), ("map", one.volume)):
        write_volume(folder / f"{name}.mrc", volume)
    write_text(folder / "fsc.csv", fsc_csv(one.fsc))
    write_back(folder, "particles", writable(_with_columns(one, plan)))


def _with_columns(one: Iteration, plan: Plan) -> ParticleTable:
    from gonio.alignment.columns import columns_of, without_found

    listed = without_found(one.table)
    return listed.with_poses(listed.poses, **columns_of(listed, one.results, plan.settings.score))


def _write_initial_model(folder: Path, made: DeNovoHalves) -> None:
    from gonio.alignment.columns import without_found, writable
    from gonio.io import write_volume
    from gonio.io.lists import write_back

    for half, (volume, one) in enumerate(zip(made.volumes, made.made, strict=True), start=1):
        write_volume(folder / f"half{half}.mrc", volume)
        listed = without_found(one.table)
        listed = listed.with_poses(listed.poses, pairs_that_agree=one.agreement)
        write_back(folder, f"particles_half{half}", writable(listed))


def _write_results(folder: Path, refined: Refined) -> None:
    """Write the best iteration, and a table of all of them."""
    from gonio.alignment.columns import runners_up
    from gonio.io import write_volume
    from gonio.report import MapFile, maps_script
    from gonio.workflows.refinement import fsc_mask

    best, plan, done = refined.best, refined.plan, refined.iterations
    _write_iteration(folder, best, plan)
    write_volume(folder / "mask.mrc", fsc_mask(best.volume, plan))
    write_list(folder / "runners_up.star", runners_up(best.table, best.results), otherwise=NO_RUNNERS_UP)
    shown = [("map.mrc", best.volume), ("half1.mrc", best.halves[0]), ("half2.mrc", best.halves[1])]
    write_text(
        folder / "maps.cxc",
        maps_script([MapFile(name, one, name == "map.mrc", best.resolution_angstrom) for name, one in shown]),
    )
    write_particle_scene(folder, refined.table, box_angstrom=best.volume.box_angstrom)
    write_summary(folder, refined.summary)
    names = ("number", "search", "limit_angstrom", "moved_deg", "moved_angstrom", "moved_sds")
    rows = [f"{','.join(names)},resolution_angstrom"]
    for one in done:
        values = [getattr(one, name) for name in names] + [one.resolution_angstrom]
        rows.append(",".join(f"{value:.4f}" if isinstance(value, float) else str(value) for value in values))
    write_text(folder / "iterations.csv", "\n".join([*rows, ""]))
    lost = [(one.number, as_cell(a), as_cell(b), f"{apart:.2f}") for one in done for a, b, apart in one.dropped]
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows([("iteration", "dropped", "kept", "distance_angstrom"), *lost])
    write_text(folder / "duplicates.csv", text.getvalue())


def _report(refined: Refined) -> Report:
    """Return the page about a refinement: the iteration whose halves agree best, and the course of all."""
    from gonio.report import Iteration as Turn
    from gonio.report import Report

    best, table, done = refined.best, refined.table, refined.iterations
    turns = [Turn(one.limit_angstrom, one.resolution_angstrom, one.moved_deg, one.moved_angstrom) for one in done]
    return Report(
        refined.title,
        facts_of(refined.plan.seed),
        refined.rows,
        table,
        curves={f"half maps, {name}": curve for name, curve in best.fsc.curves.items()},
        box_angstrom=best.volume.box_angstrom,
        maps=for_display(
            {"map": best.volume, "half 1": best.halves[0], "half 2": best.halves[1]}, best.resolution_angstrom
        ),
        against=defocus_of(table),
        coverage=best.coverage,
        outliers=outliers_of(table),
        iterations=turns,
    )


def _warn_of_doubts(refined: Refined, start: Start) -> None:
    limit = refined.plan.start_resolution_angstrom
    if start.reference is not None and refined.best.resolution_angstrom > 0.95 * limit:
        warnings.warn(
            f"the halves agree no further than the map that both started from ({limit:g} angstrom): that agreement may"
            " be the map's alone, and is no evidence for the particles",
            stacklevel=3,
        )
