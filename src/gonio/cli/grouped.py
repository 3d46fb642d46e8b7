"""Commands whose parameters are groups of options: dataclasses, of which each field is an option.

Typer fills single values. What several commands share is said once, as a dataclass with typer's annotations, and taken
as one parameter; fields without such an annotation are no options, and keep their default.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter
from typing import Annotated, Any, get_origin, get_type_hints

__all__ = ["with_single_options"]


def with_single_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer can call it, each group's options where the group stands."""
    signature, hints = inspect.signature(command), get_type_hints(command, include_extras=True)
    parameters: list[Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for name, parameter in signature.parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            own = _options_of(kind)
            groups[name] = kind, [one.name for one in own]
            parameters += own
        else:
            parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=parameter.default, annotation=kind))

    @functools.wraps(command)
    def single(**given: Any) -> None:
        for name, (kind, own) in groups.items():
            given[name] = kind(**{one: given.pop(one) for one in own})
        command(**given)

    single.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    single.__annotations__ = {one.name: one.annotation for one in parameters}
    return single


def _options_of(group: type) -> list[Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        Parameter(one.name, Parameter.KEYWORD_ONLY, default=_default(one), annotation=hints[one.name])
        for one in fields(group)
        if get_origin(hints[one.name]) is Annotated
    ]


def _default(field: Field[Any]) -> Any:
    return Parameter.empty if field.default is MISSING else field.default
