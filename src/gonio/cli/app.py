"""The program: its commands, and errors reported in one line.

Values that do not fit and files that are broken end with status 2, an interruption with 130.
"""

from __future__ import annotations

import logging
import mmap
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from gonio import kernels
from gonio.cli.align import align
from gonio.cli.average import average
from gonio.cli.classify import classify
from gonio.cli.compare import compare
from gonio.cli.convert import convert
from gonio.cli.demo import demo
from gonio.cli.extract import extract
from gonio.cli.help import Command, Group
from gonio.cli.inspect import inspect
from gonio.cli.join import join
from gonio.cli.map import map_
from gonio.cli.mask import mask
from gonio.cli.output import Lenient, say, visible
from gonio.cli.pair import pair
from gonio.cli.postprocess import postprocess
from gonio.cli.refine import refine
from gonio.cli.refine_tilts import tilts
from gonio.cli.relion_job import RelionJobCommand, relion_job
from gonio.cli.select import select
from gonio.cli.simulate import simulate
from gonio.run.folder import Finished
from gonio.run.provenance import typed

# The base class of errors in the command line; typer exports only its children.
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[2]

FAILED, INTERRUPTED = 2, 130
COMPILING = "gonio: compiling for this processor, once: half a minute"

app = typer.Typer(
    cls=Group,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"gonio {version('gonio')}")
        raise typer.Exit


@app.callback()
def program(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error. May stand anywhere.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors. May stand anywhere.")] = False,
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version.")
    ] = False,
) -> None:
    """Align cryo-electron subtomograms by gradient.

    Finds the rotation and the shift that align a reference to each particle, over all orientations or near input poses.
    `gonio demo DIR` shows it on simulated particles in a minute; `gonio COMMAND --help` describes the rest. Lengths are
    angstrom, angles degrees.
    """


BEGIN, POSES, MAPS, FILES = "Begin", "Find poses", "Make maps", "Handle files"

# In the order in which they are used: name, command, its group in the help.
COMMANDS: tuple[tuple[str, Callable[..., None], str], ...] = (
    ("demo", demo, BEGIN),
    ("simulate", simulate, BEGIN),
    ("align", align, POSES),
    ("pair", pair, POSES),
    ("average", average, MAPS),
    ("refine", refine, MAPS),
    ("tilts", tilts, MAPS),
    ("classify", classify, MAPS),
    ("postprocess", postprocess, MAPS),
    ("map", map_, MAPS),
    ("mask", mask, MAPS),
    ("convert", convert, FILES),
    ("select", select, FILES),
    ("join", join, FILES),
    ("compare", compare, FILES),
    ("extract", extract, FILES),
    ("inspect", inspect, FILES),
    ("relion-job", relion_job, FILES),
)
# Commands that pass on what they do not know.
PASSING = {"relion-job": {"allow_extra_args": True, "ignore_unknown_options": True}}
OF_ITS_OWN = {"relion-job": RelionJobCommand}
for name, command, purpose in COMMANDS:
    app.command(name, cls=OF_ITS_OWN.get(name, Command), rich_help_panel=purpose, context_settings=PASSING.get(name))(
        command
    )

ANYWHERE = {"--debug", "--quiet"}
# Options by the names of 0.1, which are read for one release more.
RENAMED = {"--siblings": "--overlap"}


def run(arguments: Sequence[str]) -> int:
    """Run one command line, without the program's name, and return its exit status."""
    words = [word for word in arguments if word not in ANYWHERE]
    try:
        silence = _silence() if "--quiet" in arguments else nullcontext()
        lenient: Any = Lenient(sys.stderr)
        with redirect_stderr(lenient), typed(["gonio", *arguments]), silence, _shown_in_lines():
            words = [_by_its_name(word) for word in words]
            # Commands that run others get this function.
            status = app(args=words or ["--help"], prog_name="gonio", standalone_mode=False, obj=run) or 0
    except typer.Exit as request:
        status = request.exit_code
    except (typer.Abort, KeyboardInterrupt):
        status = INTERRUPTED
    except Finished as done:
        status = _told(str(done), 0)
    except (USAGE_ERROR, ValueError, OSError) as error:
        if "--debug" in arguments:
            raise
        status = _told(f"error: {_sentence(error)}", FAILED)
    if status == INTERRUPTED:  # typer turns some interruptions into a status
        _told("interrupted", INTERRUPTED)
    return status


def _told(text: str, status: int) -> int:
    """Print a last line, and return the status."""
    stream: Any = Lenient(sys.stderr)
    say(f"gonio: {text}", file=stream)
    return status


def _by_its_name(word: str) -> str:
    """Return a word of the command line, an option that was renamed by its new name, with a warning."""
    option, equals, value = word.partition("=")
    if option not in RENAMED:
        return word
    warnings.warn(f"{option} is now {RENAMED[option]}: the old name goes with the next release", stacklevel=2)
    return f"{RENAMED[option]}{equals}{value}"


@contextmanager
def _shown_in_lines() -> Iterator[None]:
    """Show warnings and log messages as plain lines, without the place in the source that they come from."""

    def show(message: Warning | str, *_: object, **__: object) -> None:
        say(f"gonio: warning: {message}", file=sys.stderr)

    log, lines = logging.getLogger("gonio"), logging.StreamHandler(sys.stderr)
    lines.setFormatter(_Visible("gonio: %(message)s"))
    level = log.level
    log.addHandler(lines)
    log.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning)
            warnings.showwarning = show
            yield
    finally:
        log.removeHandler(lines)
        log.setLevel(level)


class _Visible(logging.Formatter):
    """Formats messages, which may hold names from files, as ``visible``."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress text and progress; results are on the disk alone."""
    with Path(os.devnull).open("w") as nothing, redirect_stdout(nothing), redirect_stderr(nothing):
        yield


def main() -> None:
    """Run the console script."""
    for descriptor in range(3):  # a closed one would be given to the next file that is opened, and written to
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Processes that this one starts import nothing from the current folder.
    os.environ["PYTHONSAFEPATH"] = "1"
    kernels.before_compiling = partial(_announce_compiling, mmap.mmap(-1, 1))
    sys.exit(run(sys.argv[1:]))


def _announce_compiling(announced: mmap.mmap) -> None:
    """Print that code is compiled, once; ``announced`` is memory that forked workers share, which compile too."""
    if not announced[0]:
        announced[0] = 1
        # In one write, so that nobody else writes into the line.
        print(f"{COMPILING}\n", end="", file=sys.stderr)


def _sentence(error: BaseException) -> str:
    text = error.format_message() if hasattr(error, "format_message") else str(error)
    return "; ".join([" ".join(text.split()) or type(error).__name__, *getattr(error, "__notes__", ())])
