"""Arguments of a job are options on the command line, groups of them too, and errors name what was typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gonio.cli.grouped import command
from gonio.particle.arguments import ArgumentError


@dataclass(frozen=True)
class Group:
    path: str | Path
    size: int = 3
    names: Sequence[str] | None = None
    follows: str = "not asked"


@dataclass(frozen=True)
class Extra:
    depth: float | None = None
    width: float | None = None


def job(group: Group, *, loud: bool = False, extra: Extra | None = None, silent: str = "not asked") -> tuple:
    if group.size > 9:
        raise ArgumentError("{} must not exceed {most}, nor {}", "size", "depth", most=9)
    return group, loud, extra, silent


@command(
    job,
    path=typer.Argument(metavar="FILE"),
    size=typer.Option("--size", min=1),
    names=typer.Option("--name"),
    loud=typer.Option("--loud/--hushed"),
    extra=typer.Option("--extra"),
    depth=typer.Option("-d", "--depth"),
    width=typer.Option("--width"),
)
def printing(value: tuple, *, size: int, as_json: bool) -> None:
    """What it does."""
    print(*value, size, as_json)


@pytest.fixture
def app() -> typer.Typer:
    made = typer.Typer()
    made.command()(printing)
    return made


@pytest.mark.parametrize(
    ("words", "group", "loud", "extra"),
    [
        (["a"], Group(Path("a")), False, None),
        (["a", "--size", "5", "--loud"], Group(Path("a"), 5), True, None),
        (["--name", "x", "--name", "y", "b"], Group(Path("b"), 3, ["x", "y"]), False, None),
        (["a", "--extra"], Group(Path("a")), False, Extra()),
        (["a", "--extra", "--depth", "2"], Group(Path("a")), False, Extra(2.0)),
    ],
)
def test_what_is_typed_fills_the_group(app, words, group, loud, extra):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"{group} {loud} {extra} not asked {group.size} False"


@pytest.mark.parametrize("words", [[], ["a", "--size", "0"], ["a", "--follows", "x"]])
def test_what_does_not_fit_is_refused(app, words):
    assert CliRunner().invoke(app, words).exit_code == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--depth", "2"], "--depth and --width need --extra: without it they have no effect"),
        (["a", "--size", "10"], "--size must not exceed 9, nor --depth"),
    ],
)
def test_an_error_about_arguments_names_options(app, words, said):
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ArgumentError)
    assert str(done.exception) == said


def test_help_is_the_commands_and_lists_the_options(app):
    told = CliRunner().invoke(app, ["--help"]).stdout
    assert "What it does." in told and "--size" in told and "--loud" in told and "follows" not in told
