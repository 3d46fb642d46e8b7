"""A picture of what a file was found to hold: wedge, power and tilts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gonio.jobs.inspect import Inspection

__all__ = ["draw"]


def draw(found: Inspection, output: Path) -> None:
    """Draw wedge, power and tilts, as far as there are any, into a PNG file.

    Raises
    ------
    ValueError
        If there is none of them.
    """
    from matplotlib.figure import Figure

    from gonio.io.errors import replacing

    panels: list[Any] = []
    if found.wedge is not None:
        panels.append(lambda axes: _draw_wedge(axes, found))
    if found.volumes:
        panels.append(lambda axes: _draw_power(axes, found))
    if found.series is not None:
        panels.append(lambda axes: _draw_tilts(axes, found))
    if not panels:
        raise ValueError("there is nothing to draw: no wedge, no volume and no tilts are known (--tilt-range, --tilts)")
    figure = Figure(figsize=(4.2 * len(panels), 4.0), layout="constrained")
    for number, panel in enumerate(panels, 1):
        panel(figure.add_subplot(1, len(panels), number))
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_wedge(axes: Any, found: Inspection) -> None:
    top = found.frequency_per_angstrom
    line = np.linspace(-top, top, 201)
    x, z = np.meshgrid(line, line)
    weight = found.wedge.weight_at(np.stack([x, np.zeros_like(x), z], axis=-1))  # type: ignore[union-attr]
    axes.imshow(weight, origin="lower", extent=(-top, top, -top, top), cmap="Blues", vmin=0)
    axes.set(title="measured, by the wedge", xlabel="kx (1/A)", ylabel="kz (1/A)")


def _draw_power(axes: Any, found: Inspection) -> None:
    from gonio.fourier.transform import centred_fft

    box = found.volumes[0].box
    power = sum(np.abs(centred_fft(volume.data - volume.data.mean())[:, box // 2, :]) ** 2 for volume in found.volumes)
    top = found.frequency_per_angstrom
    axes.imshow(np.log10(power + 1e-12), origin="lower", extent=(-top, top, -top, top), cmap="viridis")
    axes.set(title="power, log", xlabel="kx (1/A)", ylabel="kz (1/A)")


def _draw_tilts(axes: Any, found: Inspection) -> None:
    series = found.series
    assert series is not None
    along = np.arange(len(series)) if series.dose is None else series.dose
    axes.plot(along, series.tilts_deg, ".")
    axes.set(title="tilts", ylabel="degrees", xlabel="image" if series.dose is None else "dose before, e/A^2")
