"""Drawings of what was understood: the wedge in characters, and wedge, power and tilts in a picture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gonio.cli.understanding import Understood
    from gonio.particle.wedge import Wedge

# Half the height and width of the wedge's drawing, in characters.
ROWS, COLUMNS = 8, 16


def drawing(wedge: Wedge, frequency_per_angstrom: float) -> list[str]:
    """The wedge in the planes kx, kz and ky, kz, up to a frequency: # measured, + by less than half, . not."""
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


def draw(understood: Understood, output: Path) -> None:
    """Wedge, power and tilts, as far as there are any, into a PNG file.

    Raises
    ------
    ValueError
        If there is none of them.
    """
    from matplotlib.figure import Figure

    from gonio.io.errors import replacing

    panels: list[Callable[[Any], None]] = []
    if understood.wedge is not None:
        panels.append(lambda axes: _draw_wedge(axes, understood))
    if understood.volumes:
        panels.append(lambda axes: _draw_power(axes, understood))
    if understood.series is not None:
        panels.append(lambda axes: _draw_tilts(axes, understood))
    if not panels:
        raise ValueError("there is nothing to draw: no wedge, no volume and no tilts are known (--tilt-range, --tilts)")
    figure = Figure(figsize=(4.2 * len(panels), 4.0), layout="constrained")
    for number, panel in enumerate(panels, 1):
        panel(figure.add_subplot(1, len(panels), number))
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_wedge(axes: Any, understood: Understood) -> None:
    top = understood.frequency_per_angstrom
    line = np.linspace(-top, top, 201)
    x, z = np.meshgrid(line, line)
    weight = understood.wedge.weight_at(np.stack([x, np.zeros_like(x), z], axis=-1))  # type: ignore[union-attr]
    axes.imshow(weight, origin="lower", extent=(-top, top, -top, top), cmap="Blues", vmin=0)
    axes.set(title="measured, by the wedge", xlabel="kx (1/A)", ylabel="kz (1/A)")


def _draw_power(axes: Any, understood: Understood) -> None:
    from gonio.fourier.transform import centred_fft

    box = understood.volumes[0].box
    power = sum(
        np.abs(centred_fft(volume.data - volume.data.mean())[:, box // 2, :]) ** 2 for volume in understood.volumes
    )
    top = understood.frequency_per_angstrom
    axes.imshow(np.log10(power + 1e-12), origin="lower", extent=(-top, top, -top, top), cmap="viridis")
    axes.set(title="power, log", xlabel="kx (1/A)", ylabel="kz (1/A)")


def _draw_tilts(axes: Any, understood: Understood) -> None:
    series = understood.series
    assert series is not None
    along = np.arange(len(series)) if series.dose is None else series.dose
    axes.plot(along, series.tilts_deg, ".")
    axes.set(title="tilts", ylabel="degrees", xlabel="image" if series.dose is None else "dose before, e/A^2")
