"""Errors about arguments, which keep the names of these arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

# Characters of a value in a message.
_LONGEST = 100


class ArgumentError(ValueError):
    """A value that an argument cannot have, or arguments that exclude each other.

    A caller that knows an argument by another name (an option of the command line) replaces it: ``named``.

    Parameters
    ----------
    text
        What is wrong and what to do, with ``{}`` for each argument, and ``{name}`` for each of the values.
    arguments
        Names of the arguments, in the order of the text.
    values
        The other values in the text, by name.
    """

    def __init__(self, text: str, *arguments: str, **values: object) -> None:
        super().__init__(text.format(*arguments, **values))
        self.text, self.arguments, self.values = text, arguments, values

    @property
    def argument(self) -> str:
        """Name of the argument, the first of several."""
        return self.arguments[0]

    def named(self, name_of: Callable[[str], str]) -> ArgumentError:
        """Return this error with each argument's name replaced by ``name_of(name)``."""
        return ArgumentError(self.text, *map(name_of, self.arguments), **self.values)

    def __reduce__(self) -> tuple[Callable[[], ArgumentError], tuple[()]]:
        # A ValueError is pickled by its text alone; workers send whole errors.
        return partial(ArgumentError, self.text, *self.arguments, **self.values), ()


def described(value: object) -> str:
    """Return a value for a message: an array by its type and shape, anything else by its repr, cut where long."""
    shape = getattr(value, "shape", ())
    if shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}... ({type(value).__name__})"


def check_one_of(argument: str, value: object, known: Iterable[str]) -> None:
    """Raise ArgumentError for another value of an argument than those known."""
    if value not in tuple(known):
        raise ArgumentError("{} must be one of {known}, got {got!r}", argument, known=", ".join(known), got=value)
