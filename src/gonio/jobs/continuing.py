"""Start of a refinement where an earlier one ended, with particles that were cut again: ``--continue-from``.

Particles are recognised by name. Where both lists state positions in one origin, each keeps the place at which it was
found, whatever box it now has; else its pose must be in the new list already.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gonio.jobs.options import File, ListOptions
from gonio.jobs.refine_tilts import TOMOGRAMS
from gonio.jobs.splitting import some
from gonio.particle.arguments import ArgumentError
from gonio.particle.texts import texts_at
from gonio.run.manifest import files_of_run, settings_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from gonio.particle.pose import Pose
    from gonio.particle.table import ParticleTable
    from gonio.particle.tilt_series import TiltSeries
    from gonio.particle.volume import Volume
    from gonio.workflows.refinement_plan import Continued

# Orientations of two lists that differ by more than the rounding of their texts, degrees.
SAME_DEG = 0.01
# Particles farther than this fraction of their box's edge from its centre are not where the box was cut: their median,
# and any one of them, which is then outside of its box.
FARTHEST, OUTSIDE = 0.25, 0.5
# Tilts of two series that differ by more than the rounding of their texts: elements of rotations, angstrom.
SAME_PROJECTION, SAME_SHIFT_ANGSTROM = 1e-4, 0.01
# Options of a list that are about its images: a list is read without them.
OF_IMAGES = {"path", "tilt_range_deg", "axis_deg", "tilt_files", "tilt_weights", "ctf_image", "invert"}
ARGUMENT = "continue_from"


@dataclass(frozen=True)
class Earlier:
    """A finished refinement: its list, its half maps, and to where these agree."""

    folder: Path
    table: ParticleTable
    halves: tuple[Volume, Volume]
    continued: Continued
    files: tuple[Path, ...]

    @staticmethod
    def read(folder: File) -> Earlier:
        """Read the results of ``gonio refine``; ArgumentError where a folder holds none, or halves that disagree."""
        from gonio.io import read_volume

        folder = Path(folder)
        summary = _summary_of(folder)
        halves = (folder / "half1.mrc", folder / "half2.mrc")
        table = _options_of(folder, listed := _list_in(folder)).read()
        if not np.isin(np.asarray(table.half_sets), [1, 2]).all():
            raise ArgumentError(
                "{} {folder}: {name} states no half sets: refine it again", ARGUMENT, folder=folder, name=listed.name
            )
        one, two = (read_volume(path) for path in halves)
        files = (folder / "summary.json", listed, *halves)
        return Earlier(folder, table, (one, two), _end_of(table, summary), files)

    def placed(self, table: ParticleTable) -> ParticleTable:
        """Return a list of the same particles at the poses, and in the half sets, of the earlier refinement."""
        row_of = {name: row for row, name in enumerate(self.table.names)}
        rows = np.array([row_of.get(name, -1) for name in table.names])
        if (rows < 0).any():
            raise ArgumentError(
                "{} {folder}: its list has not {names}: give particles that were refined there, by the same names"
                " (gonio extract keeps names)",
                ARGUMENT,
                folder=self.folder,
                names=some(repr(name) for name in texts_at(table.names, np.flatnonzero(rows < 0))),
            )
        before = self.table[rows]
        self._check_tilts(table)
        return replace(table, half_sets=before.half_sets, poses=self._poses(table, before))

    def _poses(self, table: ParticleTable, before: ParticleTable) -> Pose:
        """Return the poses (m,) of the particles as they were found, in the frames of the boxes of the list."""
        from gonio.particle.pose import Pose

        places, centres = before.places_angstrom, table.coordinates_angstrom
        comparable = before.coordinates_from == table.coordinates_from and before.lengths == table.lengths == "angstrom"
        if places is not None and centres is not None and comparable and _differ(centres):
            self._check_distances(table, shifts := places - centres)
            found = Pose(before.tomogram_poses.rotation, shifts)
            return found if table.frames is None else table.frames.to_box(found)
        turned = np.asarray(table.tomogram_poses.rotation_distance_deg(before.tomogram_poses))
        if (turned > SAME_DEG).any():
            raise ArgumentError(
                "{} {folder}: positions cannot be compared with its own, and {count} orientations are not its own: cut"
                " the particles at its list (gonio extract)",
                ARGUMENT,
                folder=self.folder,
                count=int((turned > SAME_DEG).sum()),
            )
        return table.poses

    def _check_distances(self, table: ParticleTable, shifts: NDArray[np.float64]) -> None:
        """Raise ArgumentError where particles are not in the middle of their boxes, or one is outside of its own."""
        first, distances = table.load(0), np.linalg.norm(shifts, axis=1)
        edge, distance = first.box * first.voxel_size_angstrom, float(np.median(distances))
        if distance > FARTHEST * edge:
            raise ArgumentError(
                "{} {folder}: its particles are {distance:.0f} angstrom (median) from the centres of their boxes of"
                " {edge:.0f}: give a list cut at the same particles, with positions from the same point",
                ARGUMENT,
                folder=self.folder,
                distance=distance,
                edge=edge,
            )
        outside = np.flatnonzero(distances > OUTSIDE * edge)
        if len(outside):
            raise ArgumentError(
                "{} {folder}: outside of their boxes of {edge:.0f} angstrom lie {names}, up to {distance:.0f} from"
                " the centres: cut them again at its list (gonio extract), or leave them out",
                ARGUMENT,
                folder=self.folder,
                edge=edge,
                names=some(repr(name) for name in texts_at(table.names, outside)),
                distance=float(distances.max()),
            )

    def _check_tilts(self, table: ParticleTable) -> None:
        """Raise ArgumentError where the refinement changed tilts, and the list has others than it found."""
        found, given = (getattr(one.source, "series", {}) for one in (self.table, table))
        other = [name for name in dict.fromkeys(table.tomograms or ()) if name in found and name in given]
        other = [name for name in other if not _same_tilts(found[name], given[name])]
        refined = _refined_tomograms(self.folder)
        if other and refined is not None:
            raise ArgumentError(
                "{} {folder}: its poses belong to the tilts that were refined there, and the list has other tilts of"
                " {names}: cut the particles with {refined} (gonio extract), or pass {} {refined}",
                ARGUMENT,
                "tomograms_path",
                folder=self.folder,
                names=some(map(repr, other)),
                refined=refined,
            )


def _differ(centres: NDArray[np.float64]) -> bool:
    """Return whether positions are known: a list without any has all of them at one place."""
    return bool(np.ptp(centres, axis=0).max(initial=0.0) > 0)


def _summary_of(folder: Path) -> dict[str, Any]:
    """Return the numbers of a finished refinement whose halves agree somewhere."""
    try:
        summary = dict(json.loads((folder / "summary.json").read_text()))
    except (OSError, ValueError, TypeError):
        summary = {}
    resolution = summary.get("resolution_angstrom")
    if "best_iteration" not in summary:
        raise ArgumentError(
            "{} {folder} is no finished refinement: give a folder that gonio refine has written, or finish it with {}",
            ARGUMENT,
            "resume",
            folder=folder,
        )
    if not isinstance(resolution, int | float) or not resolution > 0:
        raise ArgumentError(
            "{} {folder}: its halves agree nowhere, there is nothing to go on from: refine from {}, or from {}",
            ARGUMENT,
            "reference",
            "initial_model",
            folder=folder,
        )
    return summary


def _list_in(folder: Path) -> Path:
    """Return the list of a refinement; beside one whose format holds neither halves nor names lies a plain table."""
    from gonio.io.formats import FORMATS

    endings = (".star", ".csv", *(ending for one in FORMATS.values() for ending in one.endings))
    for path in (folder / f"particles{ending}" for ending in dict.fromkeys(endings)):
        if _is_of_run(folder, path):
            return path
    raise ArgumentError("{} {folder} has no list of particles: refine again", ARGUMENT, folder=folder)


def _refined_tomograms(folder: Path) -> Path | None:
    """Return the tomograms file of a refinement that changed tilts, or None."""
    path = folder / TOMOGRAMS / "tomograms.star"
    return path if _is_of_run(folder, path) else None


def _is_of_run(folder: Path, path: Path) -> bool:
    """Return whether a file is there and the run in a folder has made it, where that names its files."""
    made = files_of_run(folder)
    return path.is_file() and (made is None or path.relative_to(folder).as_posix() in made)


def _options_of(folder: Path, listed: Path) -> ListOptions:
    """Return the options that the list of a refinement is read with: those of the list that it was given."""
    listed_with = settings_table(folder, "settings").get("list")
    kept: dict[str, Any] = listed_with if isinstance(listed_with, dict) else {}
    known = {one.name for one in fields(ListOptions)} - OF_IMAGES
    given: dict[str, Any] = {name: value for name, value in kept.items() if name in known}
    refined = _refined_tomograms(folder)
    if refined is not None:
        given["tomograms_path"] = refined
    elif not Path(given.get("tomograms_path", "")).is_file():
        given.pop("tomograms_path", None)  # the list's own set names it, too
    return ListOptions(listed, **given)


def _same_tilts(one: TiltSeries, other: TiltSeries) -> bool:
    """Return whether two series have the same rotations, shifts and deformations."""
    if one.projections_xyz.shape != other.projections_xyz.shape:
        return False
    shifts = [np.zeros((len(a), 2)) if a.shifts_angstrom is None else a.shifts_angstrom for a in (one, other)]
    deformed = [np.zeros((len(a), 2, 2)) if a.deformation is None else a.deformation for a in (one, other)]
    turned = np.abs(one.projections_xyz - other.projections_xyz).max(), np.abs(deformed[0] - deformed[1]).max()
    return bool(max(turned) < SAME_PROJECTION and np.abs(shifts[0] - shifts[1]).max() < SAME_SHIFT_ANGSTROM)


def _end_of(table: ParticleTable, summary: dict[str, Any]) -> Continued:
    from gonio.alignment.columns import UNKNOWN
    from gonio.workflows.refinement_plan import Continued

    def median(name: str, most: float) -> float:
        """Return the error over all axes, 0 where none is known; columns state it for one."""
        sds = np.asarray(table.columns.get(name, [0.0]), dtype=np.float64)
        known = sds[sds < UNKNOWN]
        return float(min(np.sqrt(3.0) * np.median(known), most)) if len(known) else 0.0

    resolution, shared = float(summary["resolution_angstrom"]), summary.get("shared_angstrom")
    return Continued(
        resolution,
        median("rotation_sd_deg", 180.0),
        median("shift_sd_angstrom", resolution),
        halves_apart=True if summary.get("halves_apart") is True else None,
        shared_angstrom=float(shared) if isinstance(shared, int | float) and shared > 0 else None,
    )
