"""How kernels are compiled."""

from __future__ import annotations

from typing import Any

from numba import njit

compiled: Any = njit(nogil=True, cache=True, fastmath=True, error_model="numpy")
# Into its caller, or the compiler would not know that the arrays of a block do not overlap.
inlined: Any = njit(forceinline=True, fastmath=True, error_model="numpy")
# Where infinite and undefined values have a meaning.
strict: Any = njit(nogil=True, cache=True, error_model="numpy")
