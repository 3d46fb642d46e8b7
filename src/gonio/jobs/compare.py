"""How far two lists of the same particles are apart: ``gonio compare``.

For particle i with poses (R_A, t_A) and (R_B, t_B) in the frame of the tomogram, at p_A and p_B,

    angle = the smallest angle of R_B S R_A^-1 over the symmetry S,      shift = |p_B - p_A|

where p is the position with its shift; lists that state no positions are compared by their shifts t alone. Where one
counts from a tomogram's centre and the other from its first voxel, both count from the latter, by the tomogram's size.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio.io.plain import as_cell
from gonio.jobs.files import write_settings, write_summary, write_text
from gonio.jobs.list_rows import check_angstrom, read_lists
from gonio.jobs.options import File
from gonio.run.folder import result_folder

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable

# Tomograms that have a box of their own in the plot; more cannot be read.
MOST_TOMOGRAMS = 60
PERCENTILES = (25, 50, 75, 95)
# A common rotation is worth a word if the median angle without it is less than half, and it is larger than this.
WORTH, SMALL_DEG = 0.5, 0.5


@dataclass(frozen=True)
class Comparison:
    """Particles that both lists have, how far their poses are apart, and how many only one has.

    Attributes
    ----------
    names, tomograms
        Of the m particles in both, in the order of the first list.
    angle_deg, shift_angstrom
        Their differences, (m,).
    by_position
        Whether shifts are between positions in the tomogram, else between shifts from the listed position.
    only_first, only_second
        Number of particles of one list alone.
    common_deg, apart_from_it_deg
        Angle of the rotation of the reference that all poses have in common, and the median angle without it.
    """

    names: tuple[str, ...]
    tomograms: tuple[str, ...]
    angle_deg: NDArray[np.float64]
    shift_angstrom: NDArray[np.float64]
    by_position: bool
    only_first: int
    only_second: int
    common_deg: float
    apart_from_it_deg: float

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """Numbers of the summary: name, value with unit, how to read it."""
        what = "between positions" if self.by_position else "between shifts, as no positions are known in both"
        rows = [
            ("particles in both", str(len(self.names)), "matched by name"),
            ("in one alone", f"{self.only_first} and {self.only_second}", "of the first and of the second list"),
        ]
        for name, values, unit, reading in (
            ("angle", self.angle_deg, "degrees", "between orientations, the smallest over the symmetry"),
            ("shift", self.shift_angstrom, "angstrom", what),
        ):
            rows.append((f"{name}, median", f"{np.median(values):.3g} {unit}", reading))
            rows.append((f"{name}, 95 % below", f"{np.percentile(values, 95):.3g} {unit}", ""))
        if self.has_common_rotation:
            reading = (
                f"of one reference to the other; without it the median angle is {self.apart_from_it_deg:.3g} degrees"
            )
            rows.append(("common rotation", f"{self.common_deg:.3g} degrees", reading))
        return rows

    @property
    def has_common_rotation(self) -> bool:
        """True where most of the difference is one rotation that all particles have in common."""
        smaller = self.apart_from_it_deg < WORTH * float(np.median(self.angle_deg))
        return self.common_deg > SMALL_DEG and smaller

    @property
    def of_tomograms(self) -> dict[str, NDArray[np.int64]]:
        """Rows of the particles of each tomogram, in order of appearance."""
        found: dict[str, list[int]] = {}
        for row, name in enumerate(self.tomograms):
            found.setdefault(name, []).append(row)
        return {name: np.array(rows) for name, rows in found.items()}

    @property
    def summary(self) -> dict[str, object]:
        """Numbers for programs."""
        return {
            "particles": len(self.names),
            "only_first": self.only_first,
            "only_second": self.only_second,
            "by_position": self.by_position,
            **_percentiles(self.angle_deg, self.shift_angstrom),
            "common_rotation_deg": self.common_deg,
            "angle_without_it_deg": self.apart_from_it_deg,
            "tomograms": {
                name: {"particles": len(rows), **_percentiles(self.angle_deg[rows], self.shift_angstrom[rows])}
                for name, rows in self.of_tomograms.items()
            },
        }


def _percentiles(angle_deg: NDArray[np.float64], shift_angstrom: NDArray[np.float64]) -> dict[str, object]:
    return {
        "angle_deg": {str(p): float(np.percentile(angle_deg, p)) for p in PERCENTILES},
        "shift_angstrom": {str(p): float(np.percentile(shift_angstrom, p)) for p in PERCENTILES},
    }


def compare(
    first: File,
    second: File,
    *,
    output: File | None = None,
    symmetry: str = "C1",
    pixel_size_angstrom: float | None = None,
    overwrite: bool = False,
) -> Comparison:
    """Compare the poses of particles that two lists have, by name.

    Parameters
    ----------
    first, second
        Lists, of any two formats.
    output
        Folder to make: differences.csv with a row for each particle, differences.png, summary.json, settings.toml;
        None for none.
    symmetry
        Point group of the particles: orientations that it makes alike are alike.
    pixel_size_angstrom
        Size of the pixels of lists that do not state it; it replaces no size that a list states.

    Raises
    ------
    FormatError
        A list that is broken.
    ValueError
        Lists without a particle in common, in pixels of unknown size or of another than is given, or that count from
        other points.
    """
    paths = Path(first), Path(second)
    tables = read_lists(paths, pixel_size_angstrom)
    for table in tables:
        check_angstrom(table)
    tables = _from_one_point(tables, paths)
    found = _compared(tables[0], tables[1], paths, symmetry)
    if output is not None:
        with result_folder(Path(output), overwrite=overwrite) as folder:
            write_text(folder / "differences.csv", _csv(found))
            _draw(folder / "differences.png", found)
            write_summary(folder, found.summary)
            settings = {"first": str(first), "second": str(second), "symmetry": symmetry}
            write_settings(folder / "settings.toml", settings, inputs=[f for table in tables for f in table.files])
    return found


def _from_one_point(tables: Sequence[ParticleTable], paths: Sequence[Path]) -> list[ParticleTable]:
    """Return two lists whose positions start at one point of the tomogram, where both have positions.

    Raises
    ------
    ValueError
        One starts at the first voxel, the other at the centre of tomograms whose size neither list's files state.
    """
    from gonio.io.viewers import from_first_voxel

    one, two = tables
    known = one.coordinates_angstrom is not None and two.coordinates_angstrom is not None
    if not known or one.coordinates_from == two.coordinates_from:
        return [one, two]
    files = [None if table.source is None else table.source.sizes_path for table in tables]
    found = [
        from_first_voxel(table) or (None if other is None else from_first_voxel(table, other))
        for table, other in zip(tables, files[::-1], strict=True)
    ]
    if found[0] is not None and found[1] is not None:
        return [found[0], found[1]]
    centred = paths[found[1] is None]
    raise ValueError(
        f"positions of {centred} start at the centre of tomograms, those of {paths[found[0] is None]} at their first"
        " voxel, and no file states how large they are: put tomograms.star beside, or gonio convert one with"
        " --tomogram-size"
    )


def _compared(one: ParticleTable, two: ParticleTable, paths: Sequence[Path], symmetry: str) -> Comparison:
    from gonio.particle.symmetry import Symmetry

    at = {name: row for row, name in enumerate(two.names)}
    rows = np.array([row for row, name in enumerate(one.names) if name in at], dtype=np.int64)
    if not len(rows):
        raise ValueError(
            f"{paths[0]} and {paths[1]} have no particle in common: the first calls one {one.names[0]!r}, the second"
            f" {two.names[0]!r}"
        )
    a, b = one[rows], two[[at[one.names[row]] for row in rows]]
    group, poses = Symmetry.named(symmetry), (a.tomogram_poses, b.tomogram_poses)
    angle = np.asarray(group.rotation_distance_deg(poses[1], poses[0]), dtype=np.float64)
    places = a.places_angstrom, b.places_angstrom
    known = places[0] is not None and places[1] is not None
    ends = places if known else (poses[0].shift_angstrom, poses[1].shift_angstrom)
    shift = np.linalg.norm(np.asarray(ends[1]) - np.asarray(ends[0]), axis=1)
    # R_B = R_A Q for all: Q is how the second reference lies in the first.
    nearest = group.nearest(poses[1], to=poses[0]).rotation
    common = (poses[0].rotation.inv() * nearest).mean()
    rest = np.degrees((poses[0].rotation * common * nearest.inv()).magnitude())
    return Comparison(
        tuple(a.names),
        tuple(a.tomograms),
        angle,
        shift,
        known,
        len(one) - len(rows),
        len(two) - len(rows),
        float(np.degrees(common.magnitude())),
        float(np.median(rest)),
    )


def _csv(found: Comparison) -> str:
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("name", "tomogram", "angle_deg", "shift_angstrom"))
    for name, tomogram, angle, shift in zip(
        found.names, found.tomograms, found.angle_deg.tolist(), found.shift_angstrom.tolist(), strict=True
    ):
        writer.writerow((as_cell(name), as_cell(tomogram), f"{angle:.4f}", f"{shift:.4f}"))
    return text.getvalue()


def _draw(path: Path, found: Comparison) -> None:
    """Draw how many particles differ by how much, and the differences in each tomogram."""
    from matplotlib.figure import Figure

    from gonio.io.errors import replacing

    figure = Figure(figsize=(10.0, 7.0), layout="constrained")
    for row, (values, label) in enumerate(
        ((found.angle_deg, "angle between orientations (degrees)"), (found.shift_angstrom, "shift (angstrom)"))
    ):
        axes = figure.add_subplot(2, 2, 2 * row + 1)
        axes.hist(values, bins=50, color="#4269d0")
        axes.axvline(float(np.median(values)), color="black", linewidth=1.0)
        axes.set(xlabel=label, ylabel="particles", title=f"median {np.median(values):.3g}")
        _draw_tomograms(figure.add_subplot(2, 2, 2 * row + 2), found.of_tomograms, values, label)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")


def _draw_tomograms(axes: Any, rows_of: dict[str, NDArray[np.int64]], values: NDArray[np.float64], label: str) -> None:
    names = sorted(rows_of, key=lambda name: -float(np.median(values[rows_of[name]])))
    shown = names[:MOST_TOMOGRAMS]
    axes.boxplot([values[rows_of[name]] for name in shown], showfliers=False)
    ticks = [name if len(name) <= 16 else f"{name[:15]}…" for name in shown] if len(shown) <= 20 else []
    axes.set_xticks(range(1, len(ticks) + 1), ticks, rotation=90)
    left = f", the {len(shown)} that differ most" if len(shown) < len(names) else ""
    axes.set(ylabel=label, title=f"{len(names)} tomogram{'s'[: len(names) != 1]}{left}")
