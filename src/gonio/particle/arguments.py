"""Errors about arguments, which know the names of the arguments that they are about."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["ArgumentError"]


class ArgumentError(ValueError):
    """A value that an argument cannot have, or arguments that exclude each other.

    Who knows an argument by another name (an option of the command line) says it with that name: ``named``.

    Parameters
    ----------
    text
        What is wrong and what to do, with ``{}`` for each argument, and ``{value}`` for what is given by name.
    arguments
        Their names, in the order of the text.
    values
        What else stands in the text.
    """

    def __init__(self, text: str, *arguments: str, **values: object) -> None:
        super().__init__(text.format(*arguments, **values))
        self.text, self.arguments, self.values = text, arguments, values

    @property
    def argument(self) -> str:
        """The argument that it is about, the first of several."""
        return self.arguments[0]

    def named(self, name_of: Callable[[str], str]) -> ArgumentError:
        """Return the same error with other names of its arguments."""
        return ArgumentError(self.text, *map(name_of, self.arguments), **self.values)

    def __reduce__(self) -> tuple[Callable[[], ArgumentError], tuple[()]]:
        # A ValueError is pickled by its text alone; workers send whole errors.
        return partial(ArgumentError, self.text, *self.arguments, **self.values), ()
