"""What is stated of half maps and of Fourier space's coverage: rows for people, numbers for programs, curves as CSV."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from gonio.averaging.resolution import Evenness, HalfMapFsc


def coverage_rows(even: Evenness) -> list[tuple[str, str, str]]:
    """Return the evenness of Fourier space's coverage: name, value, how to read it."""
    from gonio.averaging.resolution import CONE_DEG

    worst = ", ".join(f"{x:.2f}" for x in even.worst_xyz)
    reading = f"times the mean, within {CONE_DEG:g} degrees of {worst} xyz"
    return [
        ("coverage", f"{100 * even.seen:.1f} %", "of frequencies were measured"),
        ("coverage, efficiency", f"{even.efficiency:.2f}", "1 where all were alike"),
        ("coverage, worst direction", f"{even.worst:.2f}", reading),
    ]


def coverage_summary(even: Evenness) -> dict[str, float]:
    """Return the evenness of Fourier space's coverage, for programs."""
    return {"seen": even.seen, "efficiency": even.efficiency, "worst": even.worst}


def fsc_csv(fsc: HalfMapFsc) -> str:
    """Return every curve as CSV, a line for each shell."""
    box, curves = fsc.box_angstrom, fsc.curves
    rows = [",".join(["shell", "resolution_angstrom", *curves])]
    for s in range(len(fsc.unmasked)):
        values = ",".join(f"{curve[s]:.6f}" for curve in curves.values())
        rows.append(f"{s},{box / s if s else float('inf'):.4f},{values}")
    return "\n".join([*rows, ""])


def resolutions(fsc: HalfMapFsc) -> list[tuple[str, str, str]]:
    """Return where the curves fall: name, value, how to read it."""
    from gonio.averaging.resolution import FSC_HALVES, FSC_KNOWN

    named = (
        ("no mask", "where the halves' FSC falls to this", fsc.unmasked),
        ("soft mask", "corrected for the mask", fsc.corrected),
    )
    return [
        (
            f"resolution {level:g}, {name}",
            resolution_text(curve, level, fsc.box_angstrom),
            reading,
        )
        for name, reading, curve in named
        if curve is not None
        for level in (FSC_HALVES, FSC_KNOWN)
    ]


def falls_at(fsc: HalfMapFsc) -> dict[str, float]:
    """Return where the best curve falls through each threshold, for programs."""
    return {
        "0.143": fsc.resolution_angstrom(),
        "0.5": fsc.resolution_angstrom(0.5),
        "0.143_no_mask": replace(fsc, corrected=None).resolution_angstrom(),
    }


def resolution_text(fsc: np.ndarray, threshold: float, box_angstrom: float) -> str:
    """Return where a curve falls through a threshold, for people."""
    from gonio.fourier.fsc import resolution_at

    resolution = resolution_at(fsc, threshold, box_angstrom=box_angstrom)
    finest = box_angstrom / (len(fsc) - 1)
    if not np.isfinite(resolution):
        return f"worse than {box_angstrom:.0f} angstrom"
    return f"{resolution:.1f} angstrom" + (" or better" if resolution <= finest else "")
