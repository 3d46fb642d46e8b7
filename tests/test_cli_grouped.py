"""Groups of options are single options on the command line, and one value in the command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from gonio.cli.grouped import with_single_options

Path = Annotated[str, typer.Argument(metavar="FILE")]
Size = Annotated[int, typer.Option("--size", min=1)]
Names = Annotated[list[str] | None, typer.Option("--name")]


@dataclass(frozen=True)
class Group:
    path: Path
    size: Size = 3
    names: Names = None
    follows: str = "not asked"


def command(*, loud: Annotated[bool, typer.Option("--loud")] = False, group: Group) -> None:
    """What it does."""
    print(loud, group)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(with_single_options(command))
    return made


@pytest.mark.parametrize(
    ("words", "loud", "group"),
    [
        (["a"], False, Group("a")),
        (["a", "--size", "5", "--loud"], True, Group("a", 5)),
        (["--name", "x", "--name", "y", "b"], False, Group("b", 3, ["x", "y"])),
    ],
)
def test_what_is_typed_fills_the_group(app, words, loud, group):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"{loud} {group}"


@pytest.mark.parametrize("words", [[], ["a", "--size", "0"], ["a", "--follows", "x"]])
def test_what_does_not_fit_is_refused(app, words):
    assert CliRunner().invoke(app, words).exit_code == 2


def test_help_is_the_commands_and_lists_the_options(app):
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert "What it does." in told and "--size" in told and "--loud" in told and "follows" not in told
