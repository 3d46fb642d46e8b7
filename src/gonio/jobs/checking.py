"""Warnings about the inputs of a job, before it begins: as Python's warnings, and as values for its report.

The checks themselves are ``gonio.workflows.checks``.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gonio.workflows.inspection import InputWarning

__all__ = ["warn_of"]


def warn_of(found: Iterable[InputWarning | None]) -> list[InputWarning]:
    """Warn, at the line of the caller's caller, of each check that found something, and return those warnings."""
    warned = [one for one in found if one is not None]
    for one in warned:
        warnings.warn(str(one), stacklevel=3)
    return warned
