"""``gonio inspect``: the content of a file, and what looks wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from gonio.cli.grouped import command
from gonio.cli.output import hanging, say
from gonio.jobs.files import json_text
from gonio.jobs.inspect import Inspection
from gonio.jobs.inspect import inspect as inspect_file

if TYPE_CHECKING:
    from gonio.particle.wedge import Wedge
    from gonio.workflows.inspection import HandScore

# Half the height and width of the wedge's drawing, in characters.
ROWS, COLUMNS = 8, 16


@command(
    inspect_file,
    path=typer.Argument(metavar="FILE", help="Particle list, map, tomogram, or tilt file."),
    hand=typer.Option(
        "--hand", metavar="MAP", help="Find whether this map or its mirror image fits the list's particles."
    ),
    sample=typer.Option("--sample", metavar="N", min=1, help="Particles that are read, spread over the list."),
    output=typer.Option("-o", "--output", metavar="PNG", help="Draw wedge, power and tilts into this file."),
)
def inspect(found: Inspection, *, path: Path, output: Path | None, as_json: bool) -> None:
    """Show what gonio understands of a file, and what looks wrong with it.

    Of a list: its format, particles, positions, orientations, half sets, images and wedge. Of a map or tomogram: its
    size, contrast and where its power is. Of a tilt file: its tilts, their order and dose. A warning is no proof,
    and its absence neither.

    With --hand the particles are averaged at their poses; MAP, in any frame, and its mirror image are aligned to that
    average, and each particle is refined against both. The margin is the mean difference of the two dissimilarities,
    with its standard error over particles. Where the mirror image fits, both remedies are printed as commands: to read
    the tilts in the other sense, and to mirror the map; which one is right depends on whose hand is known.

    Example: `gonio inspect particles.star --hand 7p6z.mrc --diameter 260 --resolution 38`

    Example: `gonio inspect tomogram.mrc -o power.png`
    """
    if as_json:
        say(json_text(_as_dict(path, found), indent=2))
    else:
        _print(path, found, output)


def _as_dict(path: Path, found: Inspection) -> dict[str, object]:
    score = found.hand
    shown: dict[str, object] = {
        "file": str(path),
        "kind": found.kind,
        "facts": found.facts,
        "input_warnings": [{"name": s.name, "what": s.what, "remedy": s.remedy} for s in found.warnings],
    }
    if score is not None:
        shown["hand"] = {
            "fits": score.fits,
            "margin": score.margin,
            "standard_error": score.standard_error,
            "particles": len(score.dissimilarities),
            "particles_for_the_map": int((score.dissimilarities[:, 1] > score.dissimilarities[:, 0]).sum()),
            "correlation_of_the_average": list(score.correlations),
            "remedies": [{"when": when, "command": command} for when, command in found.remedies],
        }
    return shown


def _print(path: Path, found: Inspection, output: Path | None) -> None:
    say(f"{path}: {found.kind}")
    width = max(map(len, found.facts), default=0)
    for name, fact in found.facts.items():
        text = " x ".join(map(str, fact)) if isinstance(fact, list) else fact
        say(hanging(f"  {name:<{width}}  ", str(text)))
    if found.wedge is not None:
        say("\n".join(["", *drawing(found.wedge, found.frequency_per_angstrom), ""]))
    for warning in found.warnings:
        say(hanging("  look again: ", str(warning)))
    if not found.warnings:
        say("  nothing looks wrong")
    if found.hand is not None:
        _print_hand(found.hand)
    for when, remedy in found.remedies:
        say(hanging("  if ", f"{when}:"))
        say(f"     {remedy}")
    if output is not None:
        say(f"wrote {output}")


def _print_hand(score: HandScore) -> None:
    better = int((score.dissimilarities[:, 1] > score.dissimilarities[:, 0]).sum())
    count = len(score.dissimilarities)
    words = {
        "as given": "the map fits as it is",
        "mirrored": "the map's MIRROR IMAGE fits",
        "undecided": "neither hand fits better",
    }
    one, other = score.correlations
    text = (
        f"{words[score.fits]}; margin {abs(score.margin):.4f} +- {score.standard_error:.4f}, {better} of"
        f" {count} particles for the map; their average correlates {one:.3f} with it, {other:.3f} with its mirror image"
    )
    say(hanging("  hand: ", text))


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
