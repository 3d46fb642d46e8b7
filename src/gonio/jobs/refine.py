"""Refine poses and map together, in two halves, from a map, from nothing or from input poses: ``gonio refine``."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.io.plain import as_cell
from gonio.jobs.align import NO_RUNNERS_UP, numbers_of_fit
from gonio.jobs.checking import doubts_of, warn_of
from gonio.jobs.continuing import Earlier
from gonio.jobs.curves import fsc_csv, resolutions
from gonio.jobs.files import write_list, write_particle_scene, write_summary, write_text
from gonio.jobs.fitting import Fitting
from gonio.jobs.map_quality import SHARPENED, Postprocessed, postprocessed, write_postprocessed
from gonio.jobs.options import File, ListOptions, LocalOptions, SearchOptions, TiltOptions, files_of
from gonio.jobs.pages import defocus_of, facts_of, files_in, for_display, outliers_of, shared_decisions, with_notes
from gonio.jobs.refine_start import Start, check_given_start, halves_of
from gonio.jobs.refine_tilts import warn_of_tilts, write_tilts
from gonio.jobs.running import RunOptions, Work, running
from gonio.jobs.splitting import some, with_half_sets
from gonio.jobs.verdicts import verdict_of_refinement
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Report, Verdict
    from gonio.workflows.initial_model import DeNovoHalves
    from gonio.workflows.inspection import InputWarning
    from gonio.workflows.refinement_plan import Iteration, Plan

# Rule for the one resolution of the page.
RULE = (
    "where the Fourier shell correlation of the two halves, which this run refined apart, corrected for the mask, first"
    " falls below 0.143, or below two standard deviations of chance"
)

# Called with the initial models of the halves, and with each iteration, when they are done.
Watch = Callable[[object], None]


@dataclass(frozen=True)
class Refined:
    """The iterations of a refinement, its plan, what the halves of the best say of its map, and the page's verdict.

    Up to ``shared_angstrom`` both halves began with one map; None where they had none in common.
    """

    iterations: Sequence[Iteration]
    plan: Plan
    title: str
    quality: Postprocessed
    verdict: Verdict
    shared_angstrom: float | None

    @property
    def best(self) -> Iteration:
        """Last iteration whose halves agree as well as any, to a quarter of a shell; as a rule the last of all."""
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
        which = "the last" if best is done[-1] else "the last that is within a quarter of a shell of the best"
        rotation = np.median([one.rotation_sd_deg for one in best.results])
        shift = np.median([one.shift_sd_angstrom for one in best.results])
        return [
            ("particles", str(len(best.table)), "in two halves"),
            ("iterations", str(len(done)), done[-1].ended),
            ("iteration shown", str(best.number), which),
            *resolutions(best.fsc),
            *((name, form.format(value), reading) for name, value, form, reading in numbers_of_fit(self.table.columns)),
            ("rotation sd, median", f"{rotation:.2f} degrees", "predicted, about any one axis"),
            ("shift sd, median", f"{shift:.2f} angstrom", "predicted, along any one axis"),
            *self.quality.rows,
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
            "verdict": self.verdict.grade,
            "verdict_why": self.verdict.sentence,
            "ended": done[-1].ended,
            "limit_angstrom": best.limit_angstrom,
            "resolution_angstrom": best.resolution_angstrom,
            "halves_apart": self.plan.halves_apart,
            "shared_angstrom": self.shared_angstrom,
            **self.quality.summary,
        }


def refine(
    particles: ListOptions,
    *,
    output: File,
    reference: File | None = None,
    initial_model: bool = False,
    subset: int | None = None,
    local: LocalOptions | None = None,
    continue_from: File | None = None,
    start_resolution_angstrom: float | None = None,
    iterations: int = 12,
    split: bool = False,
    overlap_distance_angstrom: float | None = None,
    duplicates_angstrom: float | None = None,
    assignment: str = "auto",
    search: SearchOptions = SearchOptions(),
    mask: File | None = None,
    tilts: TiltOptions | None = None,
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
        The map to start from. One of ``reference``, ``initial_model``, ``local`` and ``continue_from`` is needed.
    initial_model, subset
        Each half makes an initial model from this many of its own particles (40).
    local
        Search near the poses of the list, which are nearly right.
    continue_from
        A finished refinement of the same particles (``gonio.jobs.continuing``): its poses, half sets and half maps, and
        the resolution to which these agree as the first limit.
    start_resolution_angstrom
        Resolution up to which the starting map is used, that of ``reference`` or an initial model; None for 60.
    iterations
        Largest number of iterations. A run that ended for it goes on with a larger one and ``run.resume``, to the same
        bits as one that was begun with it.
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
    tilts
        Refine the tilts of stacks too, once searches are local (``gonio.jobs.refine_tilts``).
    watch
        Called with the initial models of the halves (``DeNovoHalves``), and with each ``Iteration``, when done.
    """
    from gonio.workflows.initial_model import SUBSET
    from gonio.workflows.refinement_plan import Plan

    given = {"reference": reference, "initial_model": initial_model, "local": local, "continue_from": continue_from}
    check_given_start({name for name, value in given.items() if value}, start_resolution_angstrom, subset, split=split)
    search.check()
    resources = run.resources()
    earlier = None if continue_from is None else Earlier.read(continue_from)
    table = particles.read() if earlier is None else earlier.placed(particles.read())
    table = with_half_sets(table, split=split, overlap_distance_angstrom=overlap_distance_angstrom, seed=seed)
    fitting = Fitting.to_particles(table)
    start_map = None if reference is None else fitting.fit(particles.read_map(reference), "the reference")
    start = Start(start_map, (subset or SUBSET) if initial_model else None, halves_of(earlier, fitting))
    plan = Plan(
        settings=search.settings(voxel_size_angstrom=1.0),  # of no length that follows from it
        start_resolution_angstrom=start_resolution_angstrom or Plan.start_resolution_angstrom,
        max_iterations=iterations,
        continued=None if earlier is None else earlier.continued,
        mask=None if mask is None else fitting.fit(particles.read_map(mask), "the mask"),
        assignment=assignment,  # type: ignore[arg-type]  # names are read there
        duplicates_angstrom=duplicates_angstrom,
        tilts=None if tilts is None else tilts.plan(),
        listed=None if local is None else local.search(voxel_size_angstrom=fitting.voxel_size_angstrom),
        seed=seed,
    )
    near, finest = plan.begins_near, plan.start_resolution_angstrom
    doubts = doubts_of(table, start_map, plan.settings, mask=plan.mask, local=near, start_angstrom=finest)
    warned = warn_of([*fitting.warnings, *doubts])
    settings = {
        "reference": reference,
        "initial_model": initial_model,
        "subset": subset,
        "continue_from": continue_from,
        "split": split,
        "overlap_distance_angstrom": overlap_distance_angstrom,
        "mask": mask,
        "device": resources.kind,
        "plan": {key: value for key, value in asdict(replace(plan, mask=None)).items() if key != "max_iterations"},
        "list": particles.record(table),
    }
    files = files_of(table, reference, mask, *(() if earlier is None else earlier.files))
    with running(output, resources, settings=settings, seed=seed, inputs=files, length=iterations) as work:
        refined = _refined(work, table, plan, start, watch, title=f"Refinement of {particles.name}", warned=warned)
        _write(work, refined, start, with_notes(_report(refined), table, warned), output)
    warn_of_tilts(refined.best.tilts, refined.best.volume.box_angstrom)
    return refined


def _refined(
    work: Work,
    table: ParticleTable,
    plan: Plan,
    start: Start,
    watch: Watch,
    *,
    title: str,
    warned: Sequence[InputWarning],
) -> Refined:
    """Refine, and judge what came of it."""
    from gonio.workflows.refinement import best_of

    done = _iterated(work, table, plan, start, watch)
    shared = None if plan.continued is None else plan.continued.shared_angstrom
    shared = shared if start.reference is None else plan.start_resolution_angstrom
    verdict = verdict_of_refinement(
        done, plan, start=start.reference, shared_angstrom=shared, warned=warned, executor=work.executor
    )
    return Refined(done, plan, title, _quality_of(best_of(done), plan), verdict, shared)


def _write(work: Work, refined: Refined, start: Start, report: Report, output: File) -> None:
    """Write the results, and the page with the files of the run and what to do next."""
    from gonio.report import html

    done, most = refined.iterations, refined.plan.max_iterations
    parts = [f"iteration_{one.number:03d}/" for one in done] + ["initial_model/"] * (start.subset is not None)
    with work.results(may_go_on=done[-1].may_go_on, length=len(done), iterations=most) as folder:
        _write_results(folder, refined)
        report = replace(report, files=files_in(folder, *parts), next_steps=_next_steps(refined, output))
        write_text(folder / "report.html", html(report))


def _iterated(work: Work, table: ParticleTable, plan: Plan, start: Start, watch: Watch) -> list[Iteration]:
    """Refine, and write and show each iteration when it is done; identical inputs give identical files."""
    from gonio.workflows.refinement import refined

    plan, starts = _starts(work, table, plan, start, watch)
    places = None if table.places_angstrom is None else (lambda one: np.asarray(one.places_angstrom))
    done: list[Iteration] = []
    for iteration in refined(table, starts, plan, executor=work.executor, places_angstrom=places):
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

    if start.halves is not None:
        return plan, start.halves
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


def _quality_of(best: Iteration, plan: Plan) -> Postprocessed:
    """Return what the halves of an iteration say of its map, within the mask of their FSC."""
    from gonio.workflows.refinement import fsc_mask

    return postprocessed(best.volume, best.halves, mask=fsc_mask(best.volume, plan), fsc=best.fsc, seed=plan.seed)


def _write_iteration(folder: Path, one: Iteration, plan: Plan) -> None:
    """Write maps, FSC and list."""
    from gonio.alignment.columns import writable
    from gonio.io import write_volume
    from gonio.io.lists import write_back

    for name, volume in (("half1", one.halves[0]), ("half2", one.halves[1]), ("map", one.volume)):
        write_volume(folder / f"{name}.mrc", volume)
    write_text(folder / "fsc.csv", fsc_csv(one.fsc))
    table = _with_columns(one, plan)
    write_back(folder, "particles", writable(write_tilts(folder, table, one.tilts) if one.tilts else table))


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

    best, plan, done = refined.best, refined.plan, refined.iterations
    _write_iteration(folder, best, plan)
    write_volume(folder / "mask.mrc", refined.quality.mask)
    write_postprocessed(refined.quality, folder.joinpath)
    write_list(folder / "runners_up.star", runners_up(best.table, best.results), otherwise=NO_RUNNERS_UP)
    shown = [("map.mrc", best.volume), ("half1.mrc", best.halves[0]), ("half2.mrc", best.halves[1])]
    files = [MapFile(name, one, name == "map.mrc", best.resolution_angstrom) for name, one in shown]
    files.append(MapFile(SHARPENED, refined.quality.sharpened, shown=False))
    write_text(folder / "maps.cxc", maps_script(files))
    box, size = best.volume.box_angstrom, best.volume.voxel_size_angstrom
    write_particle_scene(folder, refined.table, box_angstrom=box, voxel_size_angstrom=size)
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
    turns = [
        Turn(
            one.limit_angstrom,
            one.resolution_angstrom,
            one.moved_deg,
            one.moved_angstrom,
            one.fsc.best,
            next(iter(for_display({"": one.volume}, one.resolution_angstrom).values())),
        )
        for one in done
    ]
    return Report(
        refined.title,
        facts_of(refined.plan.seed),
        refined.rows,
        table,
        curves={f"half maps, {name}": curve for name, curve in best.fsc.curves.items()},
        box_angstrom=best.volume.box_angstrom,
        maps={
            **for_display(
                {"map": best.volume, "half 1": best.halves[0], "half 2": best.halves[1]}, best.resolution_angstrom
            ),
            "sharpened map": refined.quality.sharpened,
        },
        against=defocus_of(table),
        coverage=best.coverage,
        outliers=outliers_of(table),
        iterations=turns,
        verdict=refined.verdict,
        resolution=(best.resolution_angstrom, RULE),
        decisions=_decisions(refined),
        quality=refined.quality.quality,
    )


def _decisions(refined: Refined) -> list[tuple[str, str, str]]:
    """Return what was chosen, and why: name, value, reason."""
    best, plan = refined.best, refined.plan
    search = "near input poses" if plan.listed is not None else "everywhere, then near the poses found"
    if plan.continued is not None:
        search = "near the poses of the refinement that this one continues"
    return [
        ("iteration shown", str(best.number), "the last whose halves agree as well as any, to a quarter of a shell"),
        ("finest detail compared", f"{best.limit_angstrom:.1f} angstrom", "to where the halves agreed before"),
        (
            "search",
            search,
            "--local, --continue-from, or near poses once the median particle moves by less than its sd",
        ),
        ("averages", plan.assignment.value, "--assignment: poses drawn from posteriors where these are resolved"),
        ("iterations", str(len(refined.iterations)), refined.iterations[-1].ended),
        *shared_decisions(plan.settings),
    ]


def _next_steps(refined: Refined, output: File) -> list[tuple[str, str]]:
    """Return commands to go on with: as they are typed, and what for."""
    from gonio.io.lists import file_name

    listed = shlex.quote(str(Path(output) / file_name(refined.table, "particles")))
    map_ = shlex.quote(str(Path(output) / "map.mrc"))
    halves = " ".join(shlex.quote(str(Path(output) / f"half{half}.mrc")) for half in (1, 2))
    steps = [
        (
            f"gonio align {listed} --reference {map_} --half-maps {halves} --local --decoys 2 -o real",
            "which particles are real: real/kept lists them",
        ),
        (f"gonio classify {listed} --local --classes 2 -o classes", "are there particles of another kind among them?"),
    ]
    return steps
