"""``gonio relion-job``: commands as external jobs of RELION."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from gonio.cli.help import Command
from gonio.jobs.relion_job import End, RelionJob
from gonio.particle.arguments import ArgumentError, check_one_of

# Commands that take a list and make a folder, and go on where they were cut off.
COMMANDS = ("align", "classify", "refine", "tilts")
# Exit status of a command that was interrupted, and of a job that was, which has said so.
INTERRUPTED, ABORTED = 130, 1
POLL_SECONDS, PATIENCE_SECONDS = 1.0, 10.0


def relion_job(
    context: typer.Context,
    command: Annotated[str, typer.Argument(metavar="COMMAND", help="align, classify, refine or tilts.")],
    folder: Annotated[Path, typer.Option("--o", metavar="DIR", help="The job's folder: RELION gives it.")],
    particles: Annotated[
        Path, typer.Option("--in_parts", metavar="LIST", help="Input particles, or optimisation set.")
    ],
    reference: Annotated[
        Path | None, typer.Option("--in_3dref", "--in_3Dref", metavar="MAP", help="As --reference.")
    ] = None,
    mask: Annotated[Path | None, typer.Option("--in_mask", metavar="MAP", help="As --mask.")] = None,
    threads: Annotated[int | None, typer.Option("--j", metavar="N", min=1, help="As --threads.")] = None,
) -> None:
    """Run a command as RELION's External job does: give `gonio relion-job COMMAND` as its executable.

    Input particles, 3D reference, mask and threads of RELION's form go to COMMAND; so do the parameters of the form,
    each by the name of an option without its dashes, a switch with an empty value: denovo, symmetry C6. Results are in
    DIR/gonio, and RELION_OUTPUT_NODES.star lists them. A job that RELION aborts, or that is killed, goes on where it
    was when it is continued with the same options; with others, overwrite is a parameter, too.

    Example: `gonio relion-job refine --o External/job012/ --in_parts Extract/job010/optimisation_set.star --in_3dref
    map.mrc --j 8`

    Example: `gonio relion-job align --o External/job013/ --in_parts Extract/job010/particles.star --in_3dref map.mrc`
    """
    check_one_of("COMMAND", command, COMMANDS)
    job = RelionJob(folder)
    given = {"--reference": reference, "--mask": mask, "--threads": threads}
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    again = [] if "--overwrite" in context.args else ["--resume"]
    status = _run(context.obj, job, [command, str(particles), *words, *again, *context.args, "-o", str(job.results)])
    ends = {0: End.SUCCESS, INTERRUPTED: End.ABORTED}
    job.end(ends.get(status, End.FAILURE))
    raise typer.Exit(ABORTED if status == INTERRUPTED else status)


class RelionJobCommand(Command):
    """The command, in whose folder a failure is stated wherever it occurs, from the reading of its words on."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Begin the job, and read its words."""
        folder = _folder_in(args)
        if folder is None or extra.get("resilient_parsing"):
            return super().make_context(info_name, args, parent, **extra)
        job = RelionJob(folder)
        try:
            job.begin()
        except OSError as error:
            raise ArgumentError("{} {folder}: {error}: give a folder", "--o", folder=folder, error=error) from error
        with _failure_stated(job):
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the job."""
        with _failure_stated(RelionJob(ctx.params["folder"])):
            return super().invoke(ctx)


def _folder_in(words: Sequence[str]) -> Path | None:
    """Return the job's folder, which the last ``--o`` of a command line gives."""
    found = [after for word, after in pairwise(words) if word == "--o"]
    found += [word.removeprefix("--o=") for word in words if word.startswith("--o=")]
    return Path(found[-1]) if found else None


@contextmanager
def _failure_stated(job: RelionJob) -> Iterator[None]:
    """State that the job failed where anything but its end is raised."""
    try:
        yield
    except typer.Exit:
        raise
    except BaseException:
        job.end(End.FAILURE)
        raise


def _run(run: Callable[[Sequence[str]], int], job: RelionJob, words: Sequence[str]) -> int:
    """Run a command line until it ends, or RELION asks it to, and return its exit status."""
    try:
        with _interrupted_for(job):
            return run([word for word in words if word])  # switches have empty values in RELION's form
    except KeyboardInterrupt:  # between two steps of the program
        return INTERRUPTED


@contextmanager
def _interrupted_for(job: RelionJob) -> Iterator[None]:
    """Interrupt the main program, as Ctrl-C does, once RELION asks the job to end, or a queue does with a signal.

    A timer of this process asks for it: workers that are forked inherit none. RELION starts jobs in the background,
    where shells have interruptions ignored.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        if number != signal.SIGALRM or job.is_to_end:
            # It may be lost, in a destructor for example: it is asked for again, when it has had time to end.
            signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS, PATIENCE_SECONDS)
            raise KeyboardInterrupt

    numbers = (signal.SIGALRM, signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    signal.setitimer(signal.ITIMER_REAL, POLL_SECONDS, POLL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number, handler in before.items():
            signal.signal(number, handler)
