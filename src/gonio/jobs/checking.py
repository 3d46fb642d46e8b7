"""How jobs tell of what looked wrong before they begin: as Python's warnings, and as values for their report.

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
    """Warn, where the caller was called, of each check that found something, and return those."""
    told = [one for one in found if one is not None]
    for one in told:
        warnings.warn(str(one), stacklevel=3)
    return told
