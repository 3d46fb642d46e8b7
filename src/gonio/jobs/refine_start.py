"""Where a refinement starts: a map, initial models, input poses, or where an earlier one ended; what fits together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gonio.jobs.continuing import Earlier
from gonio.jobs.fitting import Fitting
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.volume import Volume


@dataclass(frozen=True)
class Start:
    """Start of a refinement: a map, half maps, a number of particles of each half, or else the poses of the list."""

    reference: Volume | None = None
    subset: int | None = None
    halves: tuple[Volume, Volume] | None = None


def halves_of(earlier: Earlier | None, fitting: Fitting) -> tuple[Volume, Volume] | None:
    """Return the half maps of an earlier refinement in the voxels of the particles, which may be others: no warning."""
    if earlier is None:
        return None
    fitting = Fitting(fitting.voxel_size_angstrom, fitting.box)
    one, two = (fitting.fit(half, f"half map {number}") for number, half in enumerate(earlier.halves, start=1))
    return one, two


def check_given_start(
    given: Collection[str], start_resolution_angstrom: float | None, subset: int | None, *, split: bool
) -> None:
    """Raise ArgumentError where starts exclude each other, or options belong to a start that is not ``given``."""
    others = [name for name in ("reference", "initial_model", "local") if name in given]
    if "continue_from" in given and others:
        raise ArgumentError("{} and {} exclude each other: give one start", "continue_from", others[0])
    if "continue_from" in given and split:
        raise ArgumentError("{} keeps the half sets of that refinement: leave out {}", "continue_from", "split")
    if "initial_model" in given and "reference" in given:
        raise ArgumentError("{} and {} exclude each other: give one", "reference", "initial_model")
    if "initial_model" in given and "local" in given:
        raise ArgumentError("{} ignores input poses, and {} starts from them: give one", "initial_model", "local")
    if not given:
        raise ArgumentError(
            "give {} MAP to start from a map, {} to start from the particles alone, {} to start from the poses in the"
            " list, or {} DIR to go on from a finished refinement",
            "reference",
            "initial_model",
            "local",
            "continue_from",
        )
    if start_resolution_angstrom is not None and not {"reference", "initial_model"} & set(given):
        raise ArgumentError(
            "{} is for a map to start from, {} or one of {}: leave it out",
            "start_resolution_angstrom",
            "reference",
            "initial_model",
        )
    if subset is not None and "initial_model" not in given:
        raise ArgumentError("{} is how many particles of each half {} makes a map from", "subset", "initial_model")
