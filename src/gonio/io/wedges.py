"""Wedges of the subtomograms of a list from tilt files, matched by name.

Owns the way from the files' tilt series to the source that loads particles. How a wedge follows from a series is in
``gonio.particle.tilt_series``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.errors import FormatError
from gonio.io.names import match
from gonio.io.tilt_files import is_tilt_file, read_tilts
from gonio.particle.table import ParticleTable
from gonio.particle.tilt_series import TiltSeries, TiltWedge, Weighting
from gonio.particle.wedge import Wedge


@dataclass(frozen=True)
class StatedWedges:
    """The wedge of every particle of a source, by the row of the source.

    Parameters
    ----------
    wedges
        One for each tomogram.
    of_row
        Index into ``wedges`` for each row, -1 for rows that are not in the table; shape (m,).
    turns
        Rotation at which each row's box was cut out, ``x_tomogram = turn x_box``, or None where none was rotated.
    places_angstrom
        Where each row's box is, from the tomogram's centre, (m, 3), NaN where it is not known.
    """

    wedges: tuple[TiltWedge, ...]
    of_row: NDArray[np.int64]
    turns: Rotation | None
    places_angstrom: NDArray[np.float64] = field(compare=False)

    def of(self, row: int, box: int, voxel_size_angstrom: float) -> Wedge:
        """Return the wedge of the particle in a row, for its box."""
        turn = None if self.turns is None else self.turns[row]
        place = self.places_angstrom[row]
        return self.wedges[self.of_row[row]].of(box, voxel_size_angstrom, turn, place_angstrom=place)


def read_tilts_of(paths: Sequence[str | Path]) -> dict[str, TiltSeries]:
    """Return all tilt series of files and of folders of such files, by the names of their tomograms.

    Raises
    ------
    FormatError
        If a file is none of tilts, a folder has none, or two files have a series of one name.
    """
    series: dict[str, TiltSeries] = {}
    for path in map(Path, paths):
        files = sorted(filter(is_tilt_file, path.iterdir())) if path.is_dir() else [path]
        if not files:
            raise FormatError(path, "has no tilt file in it", "give the folder of .tlt, .rawtlt, mdoc or STAR files")
        for file in files:
            for name, one in read_tilts(file).items():
                if name in series:
                    problem = f"has the tilt series {name!r}, as has {series[name].path}"
                    raise FormatError(file, problem, "give one of them")
                series[name] = one
    return series


def with_tilts(
    table: ParticleTable, paths: Sequence[str | Path], *, weighting: Weighting | str = Weighting.PLAIN
) -> ParticleTable:
    """Return a list of subtomograms with the wedges of tilt files.

    Every particle's wedge is what its tomogram's tilts have measured (``TiltSeries.wedge``).

    Parameters
    ----------
    table
        Read from a list of 3-D subtomograms.
    paths
        Tilt files (see ``gonio.io.tilt_files``) or folders of them. A particle's series is found by its
        tomogram's name (see ``gonio.io.names``).
    weighting
        Whether dose and contrast transfer weight a tilt.

    Raises
    ------
    FormatError
        As ``read_tilts_of``; or a tomogram has no series, or several may be its; or a weighting needs what the files do
        not state.
    ValueError
        If the list was not read from a file, or is one of 2-D stacks, which have their tilt series already.
    """
    source: Any = table.source
    if source is None or not hasattr(source, "options"):
        raise ValueError("wedges from tilt files need a list that was read from a file")
    if source.stacks:
        raise ValueError(f"{source.path} lists 2-D stacks, whose tilts are known: leave out --tilts")
    names = tuple(dict.fromkeys(table.tomograms))
    kinds = tilt_wedges(names, paths, weighting=weighting)
    number = {name: place for place, name in enumerate(names)}
    stated = StatedWedges(kinds, *_by_row(table, number), _places(table, [kinds[number[n]] for n in table.tomograms]))
    return replace(table, source=replace(source, options=replace(source.options, wedges=stated)))


def tilt_wedges(
    tomograms: Sequence[str], paths: Sequence[str | Path], *, weighting: Weighting | str = Weighting.PLAIN
) -> tuple[TiltWedge, ...]:
    """Return the wedge of each tomogram's boxes; raises as ``with_tilts``."""
    series = read_tilts_of(paths)
    try:
        chosen = match(tomograms, tuple(series))
    except ValueError as error:
        listed = ", ".join(map(str, paths))
        raise FormatError(listed, str(error), "give the tilt series of every tomogram of the list") from error
    return tuple(_checked(series[chosen[name]], Weighting(weighting)) for name in tomograms)


def _checked(series: TiltSeries, weighting: Weighting) -> TiltWedge:
    if weighting is not Weighting.PLAIN:
        try:
            series.weights(8, 10.0, weighting)  # raises now for what is missing, not at the first particle
        except ValueError as error:
            raise FormatError(
                series.path, str(error).removeprefix(f"{series.path} "), "leave out --tilt-weights"
            ) from error
    return TiltWedge(series, weighting)


def _by_row(table: ParticleTable, places: Mapping[str, int]) -> tuple[NDArray[np.int64], Rotation | None]:
    rows = np.asarray(table.rows)
    of_row = np.full(rows.max() + 1, -1)
    of_row[rows] = [places[name] for name in table.tomograms]
    if table.frames is None:
        return of_row, None
    turns = np.tile(np.eye(3), (len(of_row), 1, 1))
    turns[rows] = table.frames.turns.as_matrix()
    return of_row, Rotation.from_matrix(turns)


def _places(table: ParticleTable, wedges: Sequence[TiltWedge]) -> NDArray[np.float64]:
    """Return the place of each row's box from its tomogram's centre, (m, 3), NaN where it is not known."""
    rows = np.asarray(table.rows)
    places = np.full((rows.max() + 1, 3), np.nan)
    if table.coordinates_angstrom is None or table.lengths == "pixels":
        return places
    places[rows] = table.coordinates_angstrom
    if table.coordinates_from == "corner":
        centres = [wedge.series.centre_angstrom for wedge in wedges]
        places[rows] -= [np.full(3, np.nan) if centre is None else centre for centre in centres]
    return places
