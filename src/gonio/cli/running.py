"""Long work of a command: its folder, its journal, and who does it.

how: HowToRun  # a parameter of the command
with running(output, how, settings=everything_that_was_asked, seed=seed, inputs=files) as run:
    results = align_table(table, aligner, mapper=run.mapper)
    with run.results() as folder:
        ...write all of the results there...
"""

from __future__ import annotations

import re
import shlex
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gonio.cli.options import DeviceName, Overwrite, Threads, thread_count
from gonio.cli.output import command_line, progress
from gonio.run.engine import Journaled, Local, Mapper
from gonio.run.folder import RunFolder

if TYPE_CHECKING:
    from gonio.search.gpu.multi_gpu import ManyCards, OneCard

__all__ = ["HowToRun", "Running", "running"]

Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with a run in this folder that was cut off; begin where there is none.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Let a Dask cluster do it: address of its scheduler, or the file it wrote."),
]
DaskLocal = Annotated[
    str | None,
    typer.Option("--dask", metavar="local", help="Let Dask do it on this machine, with --threads workers."),
]


@dataclass(frozen=True)
class HowToRun:
    """What the user said about how long work is done; results do not depend on it, but for the rounding of cards.

    A group of options (``gonio.cli.grouped``), and ``draws``, which follows from others; ``device`` and ``draws`` are
    as in ``gonio.search.gpu.multi_gpu.cards_for``.
    """

    threads: Threads = None
    device: DeviceName = "cpu"
    overwrite: Overwrite = False
    resume: Resume = False
    scheduler: Scheduler = None
    dask: DaskLocal = None
    draws: bool = False

    @property
    def workers(self) -> int:
        """How many things at a time on this machine."""
        return thread_count(self.threads)

    def check(self) -> None:
        """Raise ValueError where options exclude each other."""
        if self.dask not in (None, "local"):
            raise ValueError(f"--dask must be local, got {self.dask!r}: for a cluster give --scheduler ADDRESS")
        if self.dask and self.scheduler:
            raise ValueError("--dask and --scheduler exclude each other: give one")
        if self.resume and self.overwrite:
            raise ValueError("--resume and --overwrite exclude each other: one goes on with what the other drops")
        if self.device != "cpu" and (self.dask or self.scheduler):
            raise ValueError(
                "--device and Dask exclude each other: cards are used by processes of this machine alone"
                " (--device cuda:0,cuda:1 for several); for many machines give each a part of the list"
            )

    @property
    def kind(self) -> str:
        """``"cpu"`` or ``"cuda"``: what the bits of results depend on."""
        return "cpu" if self.cards is None else "cuda"

    @cached_property
    def cards(self) -> OneCard | ManyCards | None:
        """The graphics cards that do the work, if any.

        Raises
        ------
        ValueError
            For a card that is not there, in the words of the command line.
        """
        self.check()
        if self.device == "cpu":
            return None
        from gonio.search.gpu.multi_gpu import cards_for

        with _in_words_of_options():
            return cards_for(self.device, draws=self.draws, n_threads=self.workers)

    def engine(self) -> AbstractContextManager[Mapper]:
        """Who does the work."""
        if self.cards is not None:
            return _opened(self.cards)
        if self.device != "cpu":
            print("gonio: no graphics card can be used for this: computes on the processors", file=sys.stderr)
        if self.scheduler is None and self.dask is None:
            return nullcontext(Local(self.workers))
        from gonio.run.cluster import dask

        return dask(self.scheduler, self.workers)


@contextmanager
def _opened(cards: OneCard | ManyCards) -> Iterator[Mapper]:
    with ExitStack() as stack:
        with _in_words_of_options():
            stack.enter_context(cards)
        print(f"gonio: computes on {cards.name}", file=sys.stderr)
        yield cards


@contextmanager
def _in_words_of_options() -> Iterator[None]:
    """What is said of devices, with the name of the option."""
    try:
        yield
    except ValueError as error:
        said = re.sub(r'\bdevice(?:="(.*?)"| (?=must))', lambda found: f"--device {found[1] or ''}", str(error))
        raise ValueError(said) from error


@dataclass(frozen=True)
class Running:
    """A run that goes on: who does its stages, and its folder."""

    mapper: Mapper
    folder: RunFolder

    def results(self) -> AbstractContextManager[Path]:
        """As ``RunFolder.results``."""
        return self.folder.results()


@contextmanager
def running(
    output: Path,
    how: HowToRun,
    *,
    settings: Mapping[str, object],
    seed: int | None = None,
    inputs: Iterable[Path] = (),
) -> Iterator[Running]:
    """Begin a run in a folder or, where that was asked for, go on with one.

    Raises
    ------
    ValueError, OSError
        As ``RunFolder.opened``; options that exclude each other; no Dask where it was asked for.
    """
    from gonio.run.provenance import checksums, versions

    how.check()
    facts = {"settings": settings, "seed": seed, "inputs": checksums(inputs), "versions": versions()}
    begun = RunFolder.opened(
        output, facts, command=shlex.join(command_line()), resume=how.resume, overwrite=how.overwrite
    )
    with ExitStack() as stack:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            folder = stack.enter_context(begun)
        for warning in told:
            print(f"gonio: {warning.message}", file=sys.stderr)
        engine = stack.enter_context(how.engine())
        try:
            yield Running(Journaled(engine, folder.journal, progress), folder)
        except (Exception, KeyboardInterrupt) as error:
            if len(folder.journal):
                kept = f"what was done is kept in {output}: go on with --resume"
                if isinstance(error, KeyboardInterrupt):  # of which the program says no more than that it was one
                    print(f"gonio: {kept}", file=sys.stderr)
                error.add_note(kept)
            raise
