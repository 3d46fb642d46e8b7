"""What runs once for every sample or every step, compiled: see docs/house.md for what is where."""

from __future__ import annotations

from collections.abc import Callable

# Called once, before anything is compiled that was not kept from before: a program may say why it waits.
before_compiling: Callable[[], None] | None = None
