"""The wedge in characters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gonio.particle.wedge import Wedge

# Half the height and width of the wedge's drawing, in characters.
ROWS, COLUMNS = 8, 16


def drawing(wedge: Wedge, frequency_per_angstrom: float) -> list[str]:
    """Return the wedge in the planes kx, kz and ky, kz, up to a frequency: # measured, + by less than half, . not."""
    across, up = np.meshgrid(np.arange(-COLUMNS, COLUMNS + 1), np.arange(ROWS, -ROWS - 1, -1))
    first, second = across / COLUMNS * frequency_per_angstrom, up / ROWS * frequency_per_angstrom
    zero = np.zeros_like(first)
    inside = np.hypot(first, second) <= frequency_per_angstrom * 1.001
    panels = []
    for planes in ((first, zero, second), (zero, first, second)):
        weight = wedge.weight_at(np.stack(planes, axis=-1))
        top = max(float(weight.max()), 1e-30)
        signs = np.where(weight > 0.5 * top, "#", np.where(weight > 0, "+", "."))
        panels.append(np.where(inside, signs, " "))
    head = f"  {'kz up, kx across':<{2 * COLUMNS + 1}}    kz up, ky across"
    return [head, *(f"  {''.join(one)}    {''.join(two)}".rstrip() for one, two in zip(*panels, strict=True))]
