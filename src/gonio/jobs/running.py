"""Long work of a job: its folder, its checkpoint, and its resources.

with running(output, run.resources(settings), settings=everything_asked_for, seed=seed, inputs=files) as work:
    results = align_table(table, aligner, executor=work.executor)
    with work.results() as folder:
        ...write all of the results there...
"""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gonio.jobs.files import write_settings
from gonio.jobs.options import File
from gonio.particle.arguments import ArgumentError
from gonio.run.executor import Checkpointed, Executor, Local, Progress, silent
from gonio.run.folder import RunFolder
from gonio.run.provenance import checksums, command_line, versions

if TYPE_CHECKING:
    from gonio.search.gpu.multi_gpu import ManyGpus, OneGpu
    from gonio.settings import Settings

log = logging.getLogger(__name__)


def thread_count(threads: int | None) -> int:
    """Return ``threads``, or where it is None the number of processors that this process may use."""
    if threads:
        return threads
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class RunOptions:
    """Options of long work; results do not depend on them, but for the rounding of GPUs.

    Parameters
    ----------
    threads
        Particles aligned at a time; None for one for each processor.
    device
        Device, as for ``gonio.executor_for``.
    overwrite
        Replace results that are already there.
    resume
        Go on with a run in this folder that was cut off; begin where there is none.
    scheduler
        The address of a Dask scheduler, or the file it wrote.
    dask
        ``"local"`` for Dask on this machine.
    progress
        Called with the task, the number of its items and how many were done before; returns a context with a function
        of the number done (``gonio.run.executor.Progress``).
    """

    threads: int | None = None
    device: str = "cpu"
    overwrite: bool = False
    resume: bool = False
    scheduler: str | None = None
    dask: str | None = None
    progress: Progress = silent

    @property
    def workers(self) -> int:
        """Number of items done at a time on this machine."""
        return thread_count(self.threads)

    def resources(self, settings: Settings | None = None) -> Resources:
        """Return the resources for work whose particles are aligned by these settings, checked."""
        self.check()
        return Resources(self, draws=settings is not None and settings.draws)

    def check(self) -> None:
        """Raise ArgumentError where options exclude each other."""
        if self.dask not in (None, "local"):
            raise ArgumentError(
                "{} must be local, got {got!r}: for a cluster give {} ADDRESS", "dask", "scheduler", got=self.dask
            )
        if self.dask and self.scheduler:
            raise ArgumentError("{} and {} exclude each other: give one", "dask", "scheduler")
        if self.resume and self.overwrite:
            raise ArgumentError(
                "{} and {} exclude each other: one goes on with what the other drops", "resume", "overwrite"
            )
        if self.device != "cpu" and (self.dask or self.scheduler):
            raise ArgumentError(
                "{} and Dask exclude each other: GPUs are used by processes of this machine alone"
                " ({} cuda:0,cuda:1 for several); for many machines give each a part of the list",
                "device",
                "device",
            )


@dataclass(frozen=True)
class Resources:
    """Resources of a run: ``draws`` is as in ``gonio.executor_for``."""

    asked: RunOptions
    draws: bool = False

    @property
    def kind(self) -> str:
        """Kind of device that the bits of results depend on: ``"cpu"`` or ``"cuda"``."""
        return "cpu" if isinstance(self.here, Local) else "cuda"

    @cached_property
    def here(self) -> Local | OneGpu | ManyGpus:
        """Executor of this machine: its processors or GPUs; ValueError for a GPU that is not there."""
        if self.asked.device == "cpu":
            return Local(self.asked.workers)
        from gonio.search.gpu.multi_gpu import executor_for

        return executor_for(self.asked.device, draws=self.draws, n_threads=self.asked.workers)

    @contextmanager
    def opened(self) -> Iterator[Executor]:
        """Yield the executor of tasks."""
        if self.asked.scheduler is None and self.asked.dask is None:
            with self.here as executor:
                if self.asked.device != "cpu":
                    none = "the processors: no GPU can be used for this"
                    log.info("computes on %s", none if isinstance(executor, Local) else executor.name)
                yield executor
            return
        from gonio.run.cluster import dask

        with dask(self.asked.scheduler, self.asked.workers) as cluster:
            yield cluster


@dataclass(frozen=True)
class Work:
    """A run in progress: its executor, its folder, and the arguments of its ``write_settings``."""

    executor: Executor
    folder: RunFolder
    settings: Mapping[str, object]
    seed: int
    inputs: Sequence[Path]

    @contextmanager
    def results(self, *, may_go_on: bool = False, length: int | None = None, **spelt_out: object) -> Iterator[Path]:
        """Yield a folder to write all results in, which appear together, with settings.toml beside them.

        ``spelt_out`` are the final settings, with every default. What was done is kept in the folder where a longer
        run may go on with it; ``length`` is how long the run has become.
        """
        with self.folder.results(may_go_on=may_go_on) as folder:
            yield folder
            shown = {**self.settings, **spelt_out}
            run = self.folder.record(folder, length=length)
            write_settings(folder / "settings.toml", shown, seed=self.seed, inputs=self.inputs, run=run)


@contextmanager
def running(
    output: File,
    resources: Resources,
    *,
    settings: Mapping[str, object],
    seed: int,
    inputs: Sequence[Path],
    length: int | None = None,
) -> Iterator[Work]:
    """Begin a run in a folder or, with ``resume``, go on with one; ``length`` is as in ``RunFolder.opened``.

    Raises
    ------
    ValueError, OSError
        As ``RunFolder.opened``; no Dask where it was asked for.
    Finished
        The run to resume is done (``gonio.run.folder.Finished``).
    """
    facts = {"settings": settings, "seed": seed, "inputs": checksums(inputs), "versions": versions()}
    asked = resources.asked
    begun = RunFolder.opened(
        Path(output),
        facts,
        command=shlex.join(command_line()),
        length=length,
        resume=asked.resume,
        overwrite=asked.overwrite,
    )
    with ExitStack() as stack:
        folder = stack.enter_context(begun)
        executor = stack.enter_context(resources.opened())
        try:
            executor = Checkpointed(executor, folder.checkpoint, asked.progress)
            yield Work(executor, folder, {**settings, "threads": asked.workers}, seed, inputs)
        except (Exception, KeyboardInterrupt) as error:
            if len(folder.checkpoint):
                kept = f"what was done is kept in {output}: go on with --resume"
                if isinstance(error, KeyboardInterrupt):  # the program shows none of its text
                    log.info(kept)
                error.add_note(kept)
            raise
