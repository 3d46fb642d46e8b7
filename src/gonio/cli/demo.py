"""``gonio demo``: simulation, alignment and average of particles whose truth is known, step by step."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.options import Overwrite, Seed
from gonio.cli.output import numbers_text, progress, say
from gonio.jobs.align import NO_RUNNERS_UP, Aligned, align_list, errors_of, judged, report_of
from gonio.jobs.average import Agreement, agreement_of, average_list, write_average
from gonio.jobs.curves import resolution_text, resolutions
from gonio.jobs.files import write_list, write_settings, write_text
from gonio.jobs.options import ListOptions
from gonio.jobs.pages import for_display, outliers_of
from gonio.jobs.running import thread_count
from gonio.jobs.simulate import random_poses, write_simulation
from gonio.run.executor import Checkpointed, Local
from gonio.run.folder import result_folder

if TYPE_CHECKING:
    from gonio.averaging.averages import Average
    from gonio.particle.volume import Volume
    from gonio.report import Report

PHANTOM, BOX, VOXEL_SIZE_ANGSTROM, TILT_DEG, SNR, MAX_SHIFT_VOXELS = "sharp", 32, 10.0, 60.0, 0.5, 2.0


def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    particles: Annotated[int, typer.Option(metavar="N", min=2, help="How many particles.")] = 40,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """See gonio work: simulate particles, find their poses, average them, and compare with the truth.

    Takes about a minute. Everything lies in DIR afterwards; DIR/report.html shows it.

    Example: `gonio demo demo --particles 40`

    Example: `gonio demo quick --particles 10`
    """
    with result_folder(folder, overwrite=overwrite) as staging:
        summary = _chain(staging, particles, seed)
    say(f"\n{summary}\n\nAll of it is in {folder}; open {folder / 'report.html'}")
    say(
        f"The alignment by itself: gonio align {folder}/simulated/particles.star"
        f" --reference {folder}/simulated/reference.mrc --truth {folder}/simulated/truth.star -o {folder}/aligned"
    )


def _chain(folder: Path, count: int, seed: int) -> str:
    """Run the chain in a folder and return its summary as text."""
    from gonio.alignment.aligner import Aligner
    from gonio.alignment.columns import runners_up, writable
    from gonio.io import read_volume, write_particles
    from gonio.report import html
    from gonio.simulate import Imaging, Phantom

    imaging = Imaging(BOX, VOXEL_SIZE_ANGSTROM, -TILT_DEG, TILT_DEG, snr=SNR)
    density = Phantom.named(PHANTOM, box=BOX, voxel_size_angstrom=VOXEL_SIZE_ANGSTROM)
    simulated = folder / "simulated"
    simulated.mkdir()
    say(
        f"1. {count} particles in random poses, tilted by {TILT_DEG:g} degrees to either side, with twice as much noise"
        " as signal. A third of their Fourier space is missing, and each in another direction.",
        flush=True,
    )
    truth = random_poses(count, imaging, MAX_SHIFT_VOXELS, seed)
    executor = Checkpointed(Local(thread_count(None)), progress=progress)
    write_simulation(simulated, density, imaging, truth=truth, seed=seed, executor=executor)
    say(
        "2. Alignment to the reference, over all orientations, from coarse to fine. It does not know the true poses.",
        flush=True,
    )
    reference = read_volume(simulated / "reference.mrc")
    table = ListOptions(simulated / "particles.star").read()
    aligner = Aligner(reference)
    aligned = align_list(table, aligner, executor=executor, seed=seed)
    aligned = judged(aligned, aligner, [], executor=executor, seed=seed)
    aligned = replace(aligned, errors=errors_of(aligned, ListOptions(simulated / "truth.star").read()))
    say("3. Average of all particles, and of two halves of them for the resolution.", flush=True)
    made = average_list(aligned.table, halves=True, symmetry="C1", executor=executor)
    agreement = agreement_of(made)
    write_particles(folder / "particles.star", writable(aligned.table))
    others = runners_up(aligned.table, aligned.results)
    write_list(folder / "runners_up.star", others, otherwise=NO_RUNNERS_UP)
    write_average(folder / "average.mrc", made, agreement)
    write_text(folder / "report.html", html(_report(aligned, made, agreement, reference, seed)))
    shown = {
        "phantom": PHANTOM,
        "particles": count,
        "max_shift_voxels": MAX_SHIFT_VOXELS,
        "threads": thread_count(None),
        "imaging": asdict(imaging),
        "alignment": asdict(aligned.settings),
    }
    write_settings(folder / "settings.toml", shown, seed=seed)
    return numbers_text([*aligned.rows, *_resolutions(made, agreement, reference)])


def _report(aligned: Aligned, made: Average, agreement: Agreement | None, reference: Volume, seed: int) -> Report:
    from gonio.fourier.fsc import fourier_shell_correlation

    report = report_of(aligned, title="Gonio at work: simulated particles, aligned", seed=seed)
    curves = {"average against reference": fourier_shell_correlation(made.volume, reference)}
    if agreement is not None:
        curves = {f"half maps, {name}": curve for name, curve in agreement.fsc.curves.items()} | curves
    return replace(
        report,
        numbers=[*report.numbers, *_resolutions(made, agreement, reference)],
        curves=curves,
        box_angstrom=reference.box_angstrom,
        maps={
            **for_display(
                {"average": made.volume}, np.inf if agreement is None else agreement.fsc.resolution_angstrom()
            ),
            "reference": reference,
        },
        coverage=made.coverage,
        outliers=outliers_of(aligned.table),
    )


def _resolutions(made: Average, agreement: Agreement | None, reference: Volume) -> list[tuple[str, str, str]]:
    from gonio.averaging.resolution import FSC_KNOWN
    from gonio.fourier.fsc import fourier_shell_correlation

    known = resolution_text(fourier_shell_correlation(made.volume, reference), FSC_KNOWN, reference.box_angstrom)
    reading = "FSC with the reference"
    rows = [(f"resolution {FSC_KNOWN:g}, reference", known, reading)]
    return rows if agreement is None else [*rows, *resolutions(agreement.fsc)]
