"""Compiled code that runs once for every sample or every step: docs/house.md lists the modules."""

from __future__ import annotations

from collections.abc import Callable

# Called once, before the first function that is not in the cache is compiled: a program may state why it waits.
before_compiling: Callable[[], None] | None = None
