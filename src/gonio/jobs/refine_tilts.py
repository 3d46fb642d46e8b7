"""Refine the tilts of tomograms with the poses of their particles: ``gonio tilts``."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gonio.jobs.checking import warn_of
from gonio.jobs.curves import falls_at, fsc_csv, resolutions
from gonio.jobs.files import write_summary, write_text
from gonio.jobs.fitting import Fitting
from gonio.jobs.options import File, ListOptions, SearchOptions, TiltOptions, files_of
from gonio.jobs.pages import facts_of, for_display, with_notes
from gonio.jobs.running import RunOptions, Work, running
from gonio.jobs.splitting import with_half_sets
from gonio.particle.arguments import ArgumentError
from gonio.particle.tilt_change import FARTHEST_OFFSET

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.report import Report, TiltCurve
    from gonio.workflows.tilt_refinement import TiltPlan, TomogramTilts
    from gonio.workflows.tilt_turns import TiltIteration

TOMOGRAMS = "tomograms"
HEADINGS = (
    *("tomogram", "tilt", "nominal_angle_deg", "parameter", "unit"),
    *("before", "after", "sd", "prior_sd", "determined"),
)


@dataclass(frozen=True)
class TiltsRefined:
    """The iterations of a refinement of tilts; the first is the list as it was read."""

    iterations: Sequence[TiltIteration]
    title: str

    @property
    def last(self) -> TiltIteration:
        """The last iteration."""
        return self.iterations[-1]

    @property
    def table(self) -> ParticleTable:
        """The particles with their poses; they load with the refined tilts."""
        return self.last.table

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Numbers of the summary: name, value with unit, how to read it."""
        from gonio.workflows.tilt_refinement import PARAMETERS

        last, every = self.last, list(self.last.tilts.values())
        rows = [
            ("particles", str(len(last.table)), f"in {len(every)} tomograms"),
            ("resolution before", f"{self.iterations[0].resolution_angstrom:.1f} angstrom", "halves, at the list"),
            ("resolution after", f"{last.resolution_angstrom:.1f} angstrom", "halves, at the refined tilts and poses"),
            *resolutions(last.fsc),
        ]
        for number, (name, unit) in enumerate(PARAMETERS):
            if not every[0].refined[number]:
                continue
            moved = np.concatenate([one.tilts[:, number] for one in every])
            sd = np.concatenate([one.sd[:, number] for one in every])
            known = np.concatenate([one.determined[:, number] for one in every])
            value = f"{np.sqrt((moved**2).mean()):.3g} {unit}".strip()
            text = f"rms; sd {np.median(sd):.3g}, median; {known.sum()} of {len(known)} images determine it"
            rows.append((f"change of {name}", value, text))
        return rows

    @property
    def undetermined(self) -> dict[str, list[str]]:
        """By tomogram, the parameters that the data do not determine, with the images that do not."""
        from gonio.workflows.tilt_refinement import PARAMETERS

        found: dict[str, list[str]] = {}
        for name, one in self.last.tilts.items():
            for number, (parameter, _) in enumerate(PARAMETERS):
                lost = np.flatnonzero(one.refined[number] & ~one.determined[:, number]) + 1
                if len(lost):
                    which = "every image" if len(lost) == len(one.tilts) else f"images {_runs(lost.tolist())}"
                    found.setdefault(name, []).append(f"{parameter}: {which}")
        return found

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs."""
        last = self.last
        return {
            "particles": len(last.table),
            "tomograms": len(last.tilts),
            "iterations": last.number,
            "limit_angstrom": last.limit_angstrom,
            "resolution_before_angstrom": self.iterations[0].resolution_angstrom,
            "resolution_angstrom": last.resolution_angstrom,
            "fsc_falls_at_angstrom": falls_at(last.fsc),
            "gain": {name: one.gain for name, one in last.tilts.items()},
            "converged": all(one.converged for one in last.tilts.values()),
            "farthest_angstrom": max(one.farthest_angstrom for one in last.tilts.values()),
            "undetermined": self.undetermined,
        }


def tilts(
    particles: ListOptions,
    *,
    output: File,
    reference: tuple[File, File] | None = None,
    iterations: int | None = None,
    split: bool = False,
    overlap_distance_angstrom: float | None = None,
    search: SearchOptions = SearchOptions(),
    refined: TiltOptions = TiltOptions(),
    mask: File | None = None,
    run: RunOptions = RunOptions(),
    seed: int = 0,
    watch: Callable[[object], None] = lambda event: None,
) -> TiltsRefined:
    """Refine shifts, rotations and defocus of all tilts together with the poses, and write what ``gonio tilts`` writes.

    Parameters
    ----------
    output
        The folder to make.
    reference
        Maps of half 1 and 2, in the frame of the poses. None for averages of the halves at the poses of the list, made
        anew in each iteration, in which no particle is compared with itself.
    iterations
        Adjustments, with averages in between; 1 with ``reference`` and else 3.
    split, overlap_distance_angstrom
        As in ``gonio.jobs.refine``.
    search
        Resolution, diameter and symmetry.
    mask
        Where the particle has density; None for a soft sphere.
    watch
        Called with each ``TiltIteration`` when done.

    Raises
    ------
    ValueError, OSError
        For lists without tilts, options that do not fit, and files that cannot be read; a particle is named.
    """
    from gonio.report import html
    from gonio.workflows.tilt_refinement import check_tilts

    count = (3 if reference is None else 1) if iterations is None else iterations
    if count < 1:
        raise ArgumentError("{} must be 1 or more, got {got!r}", "iterations", got=iterations)
    plan, settings, resources = refined.plan(), search.settings(voxel_size_angstrom=1.0), run.resources()
    table = with_half_sets(
        particles.read(), split=split, overlap_distance_angstrom=overlap_distance_angstrom, seed=seed
    )
    check_tilts(table)
    fitting = Fitting.to_particles(table)
    maps = None
    if reference is not None:
        first, second = (fitting.fit(particles.read_map(half), f"half {i}") for i, half in enumerate(reference, 1))
        maps = first, second
    window = None if mask is None else fitting.fit(particles.read_map(mask), "the mask")
    warned = warn_of(fitting.warnings)
    own = replace(settings, resolution_angstrom=search.resolution_angstrom)
    stated = {
        "reference": reference,
        "iterations": count,
        "split": split,
        "overlap_distance_angstrom": overlap_distance_angstrom,
        "settings": asdict(own),
        "refined": asdict(refined),
        "mask": mask,
        "list": particles.record(table),
    }
    files = files_of(table, *(reference or ()), mask)
    with running(output, resources, settings=stated, seed=seed, inputs=files) as work:
        options = {"settings": own, "references": maps, "mask": window, "iterations": count, "seed": seed}
        made = TiltsRefined(_iterated(work, table, plan, options, watch), f"Tilts of {particles.name}")
        with work.results() as folder:
            _write(folder, made)
            write_text(folder / "report.html", html(with_notes(_report(made, seed), table, warned)))
    warn_of_tilts(made.last.tilts, made.last.average.volume.box_angstrom)
    return made


def _iterated(
    work: Work, table: ParticleTable, plan: TiltPlan, options: Mapping[str, Any], watch: Callable[[object], None]
) -> list[TiltIteration]:
    """Adjust and average; tilts are written as soon as they are found, whatever becomes of the averages."""
    from gonio.workflows.tilt_turns import tilt_iterations

    def keep(number: int, found: Mapping[str, TomogramTilts]) -> None:
        with work.folder.part(f"iteration_{number:03d}") as part:
            write_tilts(part, table, found)

    done: list[TiltIteration] = []
    for one in tilt_iterations(table, plan, executor=work.executor, keep=keep, **options):
        watch(one)
        done.append(one)
    return done


def _write(folder: Path, made: TiltsRefined) -> None:
    from gonio.alignment.columns import writable
    from gonio.io import write_volume
    from gonio.io.lists import write_back

    last = made.last
    assert last.average.halves is not None
    for name, volume in zip(("half1", "half2", "map"), (*last.average.halves, last.average.volume), strict=True):
        write_volume(folder / f"{name}.mrc", volume)
    write_text(folder / "fsc.csv", fsc_csv(last.fsc))
    write_text(folder / "fsc_before.csv", fsc_csv(made.iterations[0].fsc))
    write_back(folder, "particles", writable(write_tilts(folder, last.table, last.tilts)))
    write_summary(folder, made.summary)


def write_tilts(folder: Path, table: ParticleTable, found: Mapping[str, TomogramTilts]) -> ParticleTable:
    """Write tilts.csv, for people, and the tilt series of a list with the tilts found, for programs.

    Returns
    -------
    The list, whose optimisation set names these series where it is written.
    """
    from gonio.io.lists import with_tomograms
    from gonio.io.tilt_geometry import write_changed_series
    from gonio.workflows.tilt_refinement import changes_of

    write_text(folder / "tilts.csv", _tilts_text(found))
    return with_tomograms(table, write_changed_series(folder / TOMOGRAMS, table, changes_of(found)))


def _tilts_text(found: Mapping[str, TomogramTilts]) -> str:
    """Return the table of what was before, what is after, and how sure it is."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    for curve in _curves(found):
        for tilt, angle in enumerate(curve.angle_deg):
            values = (curve.before[tilt], curve.after[tilt], curve.sd[tilt], curve.prior_sd[tilt])
            numbers = [f"{value:.6g}" for value in values]
            known = int(curve.determined[tilt])
            writer.writerow([curve.tomogram, tilt + 1, f"{angle:.2f}", curve.name, curve.unit, *numbers, known])
    return text.getvalue()


def _curves(tilts_of: Mapping[str, TomogramTilts]) -> Iterator[TiltCurve]:
    from gonio.report import TiltCurve
    from gonio.workflows.tilt_refinement import PARAMETERS

    for tomogram, found in tilts_of.items():
        angles = found.listed[:, 2]
        for number, (name, unit) in enumerate(PARAMETERS):
            if found.refined[number]:
                before = found.listed[:, number]
                yield TiltCurve(
                    tomogram, name, unit, angles, before, before + found.tilts[:, number], found.sd[:, number],
                    found.prior_sd[:, number], found.determined[:, number],
                )  # fmt: skip


def _report(made: TiltsRefined, seed: int) -> Report:
    from gonio.report import Chapter, Report

    first, last = made.iterations[0], made.last
    lost = [["tomogram", "not determined"], *([name, "; ".join(text)] for name, text in made.undetermined.items())]
    reading = (
        "These parameters stay near what the list states, within their priors: too few particles, or an image without"
        " signal at the resolution that was compared."
    )
    return Report(
        made.title,
        facts_of(seed),
        made.rows,
        curves={"before": first.fsc.best, "after": last.fsc.best},
        box_angstrom=last.average.volume.box_angstrom,
        maps=_maps(last.average.volume, last.resolution_angstrom),
        tilts=list(_curves(last.tilts)),
        residuals=_residuals(first.table, last.table),
        chapters=[Chapter("What was not determined", reading, {"by tomogram": lost})] if made.undetermined else [],
    )


def _maps(volume: Volume, resolution_angstrom: float) -> dict[str, Volume]:
    return dict(for_display({"map": volume}, resolution_angstrom))


def _residuals(before: ParticleTable, after: ParticleTable) -> dict[str, np.ndarray]:
    """Return place and change of the shift of each particle, x and y, (m, 4), by tomogram."""
    moved = after.tomogram_poses.shift_angstrom - before.tomogram_poses.shift_angstrom
    places = np.array([before.stack_geometry(row).place_angstrom for row in range(len(before))])
    every = np.hstack([places[:, :2], moved[:, :2]])
    names = np.array(list(before.tomograms))
    return {name: every[names == name] for name in dict.fromkeys(names.tolist())}


def _runs(numbers: Sequence[int]) -> str:
    """Return increasing numbers as runs: 1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1][1:] = [number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def warn_of_tilts(tilts: Mapping[str, TomogramTilts], box_angstrom: float) -> None:
    """Warn of tomograms whose particles have left their boxes, show nothing, or whose adjustment has not converged."""
    far = {name: one.farthest_angstrom for name, one in tilts.items()}
    far = {name: distance for name, distance in far.items() if distance > FARTHEST_OFFSET * box_angstrom}
    if far:
        name = max(far, key=far.__getitem__)
        warnings.warn(
            f"particles of {name} lie up to {far[name]:.0f} angstrom from where their images were cut, in boxes of"
            f" {box_angstrom:g}; images beyond a quarter of that are left out: extract them again with the new tilts",
            stacklevel=3,
        )
    empty = {name: int((one.contrasts == 0.0).sum()) for name, one in tilts.items()}
    still = [f"{count} of {len(tilts[name].contrasts)} particles of {name}" for name, count in empty.items() if count]
    if still:
        warnings.warn(
            f"nothing of its half's reference was found in {', '.join(still)}: they were left out; where none is left,"
            " tilts stay as they are",
            stacklevel=3,
        )
    lost = [name for name, one in tilts.items() if not one.converged]
    if lost:
        warnings.warn(
            f"the adjustment of {', '.join(lost)} ended before it converged: tilts and their standard deviations are"
            " not final; start again from the tilts and poses written",
            stacklevel=3,
        )
