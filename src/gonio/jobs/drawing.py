"""A picture of the content of a file: wedge, power and tilts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.tilt_series import TiltSeries
    from gonio.particle.volume import Volume
    from gonio.particle.wedge import Wedge


def draw(
    output: Path,
    *,
    wedge: Wedge | None,
    volumes: Sequence[Volume],
    series: TiltSeries | None,
    frequency_per_angstrom: float,
) -> None:
    """Draw a wedge up to a frequency, the power of volumes, and tilts, where there are any, into a PNG file.

    Raises
    ------
    ValueError
        If there is none of them.
    """
    from matplotlib.figure import Figure

    from gonio.io.errors import replacing

    top = frequency_per_angstrom
    panels: list[Callable[[Any], None]] = []
    if wedge is not None:
        panels.append(lambda axes: _draw_wedge(axes, wedge, top))
    if volumes:
        panels.append(lambda axes: _draw_power(axes, volumes, top))
    if series is not None:
        panels.append(lambda axes: _draw_tilts(axes, series))
    if not panels:
        what = "there is nothing to draw: no wedge, no volume and no tilts are known ({}, {})"
        raise ArgumentError(what, "tilt_range_deg", "tilt_files")
    figure = Figure(figsize=(4.2 * len(panels), 4.0), layout="constrained")
    for number, panel in enumerate(panels, 1):
        panel(figure.add_subplot(1, len(panels), number))
    with replacing(output) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_wedge(axes: Any, wedge: Wedge, top: float) -> None:
    line = np.linspace(-top, top, 201)
    x, z = np.meshgrid(line, line)
    weight = wedge.weight_at(np.stack([x, np.zeros_like(x), z], axis=-1))
    axes.imshow(weight, origin="lower", extent=(-top, top, -top, top), cmap="Blues", vmin=0)
    axes.set(title="measured, by the wedge", xlabel="kx (1/A)", ylabel="kz (1/A)")


def _draw_power(axes: Any, volumes: Sequence[Volume], top: float) -> None:
    from gonio.fourier.transform import centred_fft

    middle = volumes[0].box // 2
    power = sum(np.abs(centred_fft(volume.data - volume.data.mean())[:, middle, :]) ** 2 for volume in volumes)
    axes.imshow(np.log10(power + 1e-12), origin="lower", extent=(-top, top, -top, top), cmap="viridis")
    axes.set(title="power, log", xlabel="kx (1/A)", ylabel="kz (1/A)")


def _draw_tilts(axes: Any, series: TiltSeries) -> None:
    along = np.arange(len(series)) if series.dose is None else series.dose
    axes.plot(along, series.tilts_deg, ".")
    axes.set(title="tilts", ylabel="degrees", xlabel="image" if series.dose is None else "dose before, e/A^2")
