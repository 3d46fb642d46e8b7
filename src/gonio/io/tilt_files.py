"""Tilt series from the files that programs leave beside a tomogram.

Owns what each of them states of single tilts; the kind of a file is recognised by what it holds:

    IMOD .tlt, .rawtlt      one angle per line, degrees; of two columns, that which can be no count and no dose
    SerialEM mdoc           TiltAngle; dose before each tilt from PriorRecordDose unless all are 0, else from
                            ExposureDose in the order of DateTime. Its Defocus is that of the lenses, not of the
                            specimen: not read
    RELION 5 STAR           a tilt series, or tomograms.star with all (``gonio.io.tilts``)
    STOPGAP wedge list      tilt_angle, exposure; defocus in micrometres, underfocus positive; pshift in degrees

Angles rotate the specimen right-handed about the tomogram's y axis, along which these programs put the tilt axis; only
RELION's projections state another. Tilts stay in the order of the file.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block, Star, read_star
from gonio.io.errors import FormatError, reading
from gonio.io.names import stem
from gonio.io.text import plain_float
from gonio.io.tilts import read_tilt_series, series_of_block
from gonio.particle.tilt_series import Optics, TiltSeries

WEDGE_LIST = "stopgap_wedgelist"
SECTION = re.compile(r"^\[ZValue\s*=\s*(\d+)\s*\]")
# Of lines, so that nothing is looked for again and again in blanks: these stop at the end of a line.
DATA = re.compile(r"^[^\S\n]*data_", re.MULTILINE)
TILT_LABELS = re.compile(
    r"^[^\S\n]*_(tilt_angle|rlnTomoYTilt|rlnTomoProjX|rlnTomoNominalStageTiltAngle|rlnTomoTiltSeriesStarFile)\b",
    re.MULTILINE,
)
DATES = ("%d-%b-%y  %H:%M:%S", "%d-%b-%Y  %H:%M:%S", "%Y-%m-%d  %H:%M:%S", "%Y-%b-%d  %H:%M:%S")
KINDS = "give a .tlt, .rawtlt, mdoc, tilt-series STAR file or a STOPGAP wedge list"
SNIFFED_CHARACTERS = 100_000


def is_tilt_file(path: Path) -> bool:
    """Return whether a file holds tilts, judged by its first characters; a file that cannot be read does not."""
    try:
        with reading(path, KINDS), path.open(encoding="utf-8-sig") as stream:
            text = stream.read(SNIFFED_CHARACTERS)
    except FormatError:
        return False
    if SECTION.search(text) or re.search(r"^\[(ZValue|FrameSet)", text, re.MULTILINE):
        return True
    if DATA.search(text):
        return TILT_LABELS.search(text) is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return len(_angles(path, text[: text.rfind("\n") + 1] or text)) > 0
    except FormatError:
        return False


def read_tilts(path: str | Path) -> dict[str, TiltSeries]:
    """Return the tilt series in a file by the name of their tomogram, or of the file where that is not stated."""
    path = Path(path)
    with reading(path, KINDS):
        text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        raise FormatError(path, "is empty", "write the file again")
    if re.search(r"^\[ZValue", text, re.MULTILINE):
        return {stem(path.name): _mdoc(path, text)}
    if re.search(r"^\[FrameSet", text, re.MULTILINE):
        problem = "is the mdoc of a frame set ([FrameSet = ...]: frames of single exposures), not of a tilt series"
        raise FormatError(path, problem, "give the mdoc of the series, with sections [ZValue = ...], or its .tlt")
    if DATA.search(text):
        return _of_star(read_star(path))
    return {stem(path.name): _series(path, _angles(path, text))}


def _series(path: Path, tilts_deg: NDArray[np.float64]) -> TiltSeries:
    beyond = np.flatnonzero(~(np.abs(tilts_deg) <= 90.0))
    if len(beyond):
        problem = f"tilt {beyond[0] + 1} is {tilts_deg[beyond[0]]:g} degrees, not within -90 to 90"
        raise FormatError(path, problem, "correct the value")
    return TiltSeries.of_angles(path, tilts_deg)


# IMOD


def _angles(path: Path, text: str) -> NDArray[np.float64]:
    rows: list[list[float]] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.replace(",", " ").split()
        if not words:
            continue
        try:
            values = [plain_float(word) for word in words]
        except ValueError:
            values = []
        if len(values) not in (1, 2) or (rows and len(values) != len(rows[0])):
            raise FormatError(path, f"line {number} is {line.strip()!r}, not one angle", KINDS)
        rows.append(values)
    if not rows:
        raise FormatError(path, "holds no angles", KINDS)
    table = np.array(rows).reshape(len(rows), -1)
    return table[:, 0] if table.shape[1] < 2 else table[:, _column_of_angles(path, table)]


def _column_of_angles(path: Path, table: NDArray[np.float64]) -> int:
    """Return which of two columns holds angles: the other is a count of images, or a dose, and never negative."""
    counts = [np.array_equal(np.sort(column), np.arange(len(column)) + column.min()) for column in table.T]
    signs = [(column < 0).any() for column in table.T]
    angles = [sign or (counts[1 - i] and not counts[i]) for i, sign in enumerate(signs)]
    if angles[0] == angles[1]:
        raise FormatError(path, "has two columns, either of which may be angles", "leave the angles alone in the file")
    chosen = int(angles[1])
    which, other = (("the first", "second"), ("the second", "first"))[chosen]
    warnings.warn(
        f"{path}: has two columns: {which} are read as angles, the {other} is not used", RuntimeWarning, stacklevel=2
    )
    return chosen


# SerialEM


def _mdoc(path: Path, text: str) -> TiltSeries:
    sections = _sections(text)
    if not sections:
        raise FormatError(path, "has no section [ZValue = ...]", KINDS)
    tilts = np.array([_number(path, section, "TiltAngle") for section in sections])
    return replace(_series(path, tilts), dose=_mdoc_dose(path, sections))


def _sections(text: str) -> list[dict[str, str]]:
    """Return the entries of each section [ZValue = ...] as text, and the line where it starts."""
    sections: list[dict[str, str]] = []
    current: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if SECTION.match(line):
            current = {"line": str(number)}
            sections.append(current)
            continue
        key, equals, value = line.partition("=")
        if equals and value.strip() and not key[:1].isspace():
            current[key.strip()] = value.strip()
    return sections


def _number(path: Path, section: dict[str, str], key: str) -> float:
    value = section.get(key)
    if value is None or not _is_number(value):
        problem = f"the section at line {section['line']} has {key} = {value!r}, not a number"
        raise FormatError(path, problem, "correct the value, or take the section out")
    return float(value)


def _is_number(value: str) -> bool:
    try:
        return bool(np.isfinite(plain_float(value)))
    except ValueError:
        return False


def _mdoc_dose(path: Path, sections: list[dict[str, str]]) -> NDArray[np.float64] | None:
    """Return the dose before each tilt, or None where the file does not state it."""
    if all("PriorRecordDose" in section for section in sections):
        prior = np.array([_number(path, section, "PriorRecordDose") for section in sections])
        if prior.any() or len(prior) == 1:  # where all are 0, it was not recorded
            return prior
    times = [_time(section.get("DateTime", "")) for section in sections]
    if not all("ExposureDose" in section for section in sections) or None in times:
        return None
    doses = np.array([_number(path, section, "ExposureDose") for section in sections])
    if not doses.any():
        return None
    order = np.argsort(np.array(times), kind="stable")
    before = np.empty(len(doses))
    before[order] = np.cumsum(doses[order]) - doses[order]
    return before


def _time(text: str) -> float | None:
    for form in DATES:
        try:
            return datetime.strptime(" ".join(text.split()), " ".join(form.split())).timestamp()
        except ValueError:
            continue
    return None


# STAR


def _of_star(star: Star) -> dict[str, TiltSeries]:
    wedges = star.find(WEDGE_LIST)
    if wedges is not None:
        return _wedge_list(wedges)
    overview = star.find("global")
    if overview is not None and "rlnTomoName" in overview:
        return {name: read_tilt_series(star, name) for name in overview.text("rlnTomoName")}
    tilts = [block for block in star.blocks if len(block)]
    if not tilts:
        raise FormatError(star.path, "lists no tilts", KINDS)
    return {block.name or stem(star.path.name): series_of_block(block) for block in tilts}


def _wedge_list(wedges: Block) -> dict[str, TiltSeries]:
    numbers = wedges.text("tomo_num")
    return {
        name: _of_wedge_list(wedges.take([row for row, number in enumerate(numbers) if number == name]))
        for name in dict.fromkeys(numbers)
    }


def _of_wedge_list(tilts: Block) -> TiltSeries:
    series = _series(tilts.path, tilts.numbers("tilt_angle"))
    optics = ("voltage", "cs", "amp_contrast")
    known = all(label in tilts for label in optics)
    return replace(
        series,
        defocus=_micrometres(tilts),
        dose=tilts.numbers("exposure") if "exposure" in tilts else None,
        optics=Optics(*tilts.vectors(optics)[0].tolist()) if known else None,
        phase_shift_deg=tilts.numbers("pshift") if "pshift" in tilts else None,
    )


def _micrometres(tilts: Block) -> NDArray[np.float64] | None:
    """Return U, V in angstrom and the astigmatism's direction, (t, 3)."""
    if "defocus" in tilts:
        mean = 1e4 * tilts.numbers("defocus")
        return np.stack([mean, mean, np.zeros_like(mean)], axis=-1)
    if "defocus1" not in tilts or "defocus2" not in tilts:
        return None
    angle = tilts.numbers("astig_ang") if "astig_ang" in tilts else np.zeros(len(tilts))
    return np.stack([1e4 * tilts.numbers("defocus1"), 1e4 * tilts.numbers("defocus2"), angle], axis=-1)
