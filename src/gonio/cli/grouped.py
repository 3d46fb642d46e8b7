"""Commands made of jobs: every parameter of a job is an option, and so is every field of a dataclass among them.

Flow: what is typed -> options by name -> the job, its groups of options as values -> what the command prints.

A parameter ``Group | None`` has a switch of its own name, without which it is None. Parameters that no table of options
names are not typed: ``progress`` is shown as a bar, ``watch`` is the command's own; all others keep their default.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import partial
from inspect import Parameter
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from typer.models import ParameterInfo

from gonio.cli.options import OPTIONS, AsJson
from gonio.cli.output import progress
from gonio.particle.arguments import ArgumentError


@dataclass(frozen=True)
class _Group:
    """A dataclass whose fields are options, and the switch that enables it, if any."""

    kind: type
    options: list[Parameter]
    switch: Parameter | None


def command(
    job: Callable[..., Any], *, watch: Callable[..., None] | None = None, **own: ParameterInfo | None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a typer command of a job and of what is printed when it is done.

    Parameters
    ----------
    job
        Its parameters, and the fields of dataclasses among them, are the command's options.
    watch
        Called as the job's ``watch``, with ``as_json`` as well.
    own
        Options of this command that ``OPTIONS`` lacks, or that replace those in it; None for one that it leaves
        out.

    Returns
    -------
    A decorator of a function of the job's value; its keyword parameters are given options of the same name, and its
    docstring is the command's help. Where it asks for ``as_json`` the command has --json.
    """
    shown = {name: info for name, info in {**OPTIONS, **own}.items() if info is not None}
    parameters, groups = _opened(job, shown)
    takes = inspect.signature(job).parameters

    def of(printed: Callable[..., None]) -> Callable[..., None]:
        wanted = [name for name, one in inspect.signature(printed).parameters.items() if one.kind is one.KEYWORD_ONLY]
        json = [Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson)] * ("as_json" in wanted)

        @functools.wraps(printed)
        def typed(**given: Any) -> None:
            beside = {name: given[name] for name in wanted}
            as_json = given.pop("as_json", False)
            if "watch" in takes and watch is not None:
                given["watch"] = partial(watch, as_json=as_json)
            if "progress" in takes:
                given["progress"] = progress
            try:
                for name, group in groups.items():
                    given[name] = _gathered(name, group, given)
                value = job(**given)
            except ArgumentError as error:
                raise error.named(partial(_option, shown)) from error
            printed(value, **beside)

        typed.__signature__ = inspect.Signature([*parameters, *json])  # type: ignore[attr-defined]
        typed.__annotations__ = {one.name: one.annotation for one in [*parameters, *json]}
        return typed

    return of


def _opened(job: Callable[..., Any], shown: Mapping[str, ParameterInfo]) -> tuple[list[Parameter], dict[str, _Group]]:
    """Return the options of a job, required ones first, and its groups by parameter."""
    hints, opened = get_type_hints(job), []
    groups: dict[str, _Group] = {}
    for name, parameter in inspect.signature(job).parameters.items():
        kind = next((one for one in (hints[name], *get_args(hints[name])) if is_dataclass(one)), None)
        if isinstance(kind, type):
            switch = _typed(name, bool, False, shown) if hints[name] != kind else None
            own = get_type_hints(kind)
            options = [
                _typed(one.name, own[one.name], Parameter.empty if one.default is MISSING else one.default, shown)
                for one in fields(kind)
                if one.name in shown
            ]
            groups[name] = _Group(kind, options, switch)
            opened += ([] if switch is None else [switch]) + options
        elif name in shown:
            opened.append(_typed(name, hints[name], parameter.default, shown))
    return sorted(opened, key=lambda one: one.default is not Parameter.empty), groups


def _typed(name: str, hint: Any, default: Any, shown: Mapping[str, ParameterInfo]) -> Parameter:
    kind = Annotated[_one_kind(hint), shown[name]]  # type: ignore[valid-type]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def _one_kind(hint: Any) -> Any:
    """Return the type of an option: the path of files, the word of words and numbers, the list of sequences."""
    args, origin = get_args(hint), get_origin(hint)
    if origin not in (Union, UnionType):
        return (list if origin is Sequence else origin)[*map(_one_kind, args)] if args else hint
    kinds = [_one_kind(one) for one in args if one is not NoneType]
    kind = next((one for one in (Path, str) if one in kinds), kinds[0])
    return kind | None if NoneType in args else kind


def _gathered(name: str, group: _Group, given: dict[str, Any]) -> Any:
    """Take the value of a group out of the given options, and return it."""
    asked = group.switch is None or given.pop(name)
    values = {one.name: given.pop(one.name) for one in group.options}
    if not asked:
        if any(values[one.name] != one.default for one in group.options):
            blanks = ", ".join(["{}"] * (len(values) - 1)) + " and {}"
            raise ArgumentError(f"{blanks} need {{}}: without it they have no effect", *values, name)
        return None
    bar = {"progress": progress} if any(one.name == "progress" for one in fields(group.kind)) else {}
    return group.kind(**values, **bar)


def _option(shown: Mapping[str, ParameterInfo], argument: str) -> str:
    """Return the name of an argument on the command line; of ``halves=False`` that is --no-halves."""
    info = shown.get(argument.partition("=")[0])
    # Beside an annotation, typer takes the first name for a default.
    stated = () if info is None else (info.default, *(info.param_decls or ()))
    names = [str(name) for name in stated if str(name).startswith("--")]
    return names[0].rpartition("/")[2] if names else argument
