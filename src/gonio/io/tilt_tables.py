"""Tables of the changed geometry of tilt series, as gonio writes and reads them: CSV, one row an image.

Columns are the tomogram, the number of the image from 1, and the values of ``gonio.particle.tilt_change.TiltChange``
with their units in their names.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from io import StringIO
from pathlib import Path

import numpy as np

from gonio.io.errors import FormatError, reading
from gonio.particle.tilt_change import TiltChange

NAMED = ("tomogram", "tilt")
VALUES = (
    *("shift_x_angstrom", "shift_y_angstrom", "rotation_x_deg", "rotation_y_deg", "rotation_beam_deg"),
    *("defocus_angstrom", "astigmatism_0_angstrom", "astigmatism_45_angstrom", "scale"),
)


def tilt_changes_text(changes: Mapping[str, TiltChange]) -> str:
    """Return the table of changes by tomogram."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*NAMED, *VALUES])
    for name, one in changes.items():
        count = len(one)
        astigmatism = np.zeros((count, 2)) if one.astigmatism_angstrom is None else one.astigmatism_angstrom
        scale = np.ones(count) if one.scale is None else one.scale
        columns = (one.shift_angstrom, one.rotation_deg, one.defocus_angstrom[:, None], astigmatism, scale[:, None])
        for tilt, row in enumerate(np.hstack(columns).tolist(), start=1):
            writer.writerow([name, tilt, *(repr(value) for value in row)])
    return text.getvalue()


def read_tilt_changes(path: Path) -> dict[str, TiltChange]:
    """Read a table of changes by tomogram.

    Raises
    ------
    FormatError
        If a column is missing, a value is no number, or images are not counted 1, 2, 3, ...
    """
    remedy = "give the tilt_changes.csv of gonio tilts"
    with reading(path, remedy), path.open(encoding="utf-8-sig", newline="") as stream:
        rows = list(csv.reader(stream))
    head = rows[0] if rows else []
    lost = [name for name in (*NAMED, *VALUES) if name not in head]
    if lost:
        raise FormatError(path, f"has no column {lost[0]}", remedy)
    found: dict[str, list[list[float]]] = {}
    for number, row in enumerate(rows[1:], start=2):
        try:
            cells = dict(zip(head, row, strict=True))
            values, tilt = [float(cells[name]) for name in VALUES], int(cells["tilt"])
        except ValueError as error:
            raise FormatError(path, f"line {number} is not a row of its {len(head)} columns", remedy) from error
        of_it = found.setdefault(cells["tomogram"], [])
        if tilt != len(of_it) + 1:
            raise FormatError(
                path, f"line {number} is image {tilt} of {cells['tomogram']!r} after {len(of_it)}", remedy
            )
        of_it.append(values)
    with reading(path, remedy):
        return {name: _change(np.array(values)) for name, values in found.items()}


def _change(values: np.ndarray) -> TiltChange:
    astigmatism, scale = values[:, 6:8], values[:, 8]
    return TiltChange(
        values[:, :2],
        values[:, 2:5],
        values[:, 5],
        astigmatism if astigmatism.any() else None,
        scale if (scale != 1.0).any() else None,
    )
