"""Every format of particle lists that gonio knows: how it is recognised, read and written, and what it can hold.

To add one: a module that reads it into a ``ParticleTable`` and writes it from one, and an entry in ``FORMATS``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gonio.io.av3 as av3
import gonio.io.dynamo as dynamo
import gonio.io.eman as eman
import gonio.io.peet as peet
import gonio.io.plain as plain
import gonio.io.pytom as pytom
import gonio.io.relion as relion
import gonio.io.species as species
import gonio.io.star as star
import gonio.io.star_columns as columns
import gonio.io.stopgap as stopgap
from gonio.io.compressed import first_bytes
from gonio.io.em import is_em
from gonio.io.errors import FormatError, reading
from gonio.io.mrc import lacks_map_word
from gonio.io.particle_series import is_series, read_series, write_series
from gonio.io.source import ReadOptions, StarSource, star_format
from gonio.io.subtomograms import ListSource
from gonio.particle.table import ParticleTable

START_BYTES = 65536
# Columns of RELION that state poses and positions.
POSE_LABELS = r"(Coordinate|Origin|AngleRot|AngleTilt|AnglePsi|Subtomogram)(?!.*Prior$)"
# What a list may hold; the rest of its columns are its own.
POSITIONS, ANGLES, SHIFTS, TOMOGRAMS, NAMES = "positions", "angles", "shifts", "tomogram names", "particle names"
HALVES, CLASSES, SCORES, IMAGES = "half sets", "classes", "scores", "image files"
PIXEL, ANY = "pixel size", "any column"
POSES = {POSITIONS, ANGLES, SHIFTS}
FREE = frozenset({*POSES, TOMOGRAMS, NAMES, HALVES, CLASSES, SCORES, IMAGES, PIXEL, ANY})


@dataclass(frozen=True)
class Format:
    """A format of particle lists.

    Parameters
    ----------
    name
        Name on the command line.
    title
        Name shown to people.
    recognise
        Whether the first bytes of a file are of this format; the first in ``FORMATS`` that recognises them is taken.
    read, write
        From and to a file; without ``write`` it is read only.
    rewrite
        Writes a list that was read in this format and keeps the text of all that did not change, or None where
        ``write`` does. Its last argument is whether an optimisation set is written beside the list.
    pose_columns
        The poses of a table as columns of the list that it was read from; empty where gonio adds no such columns.
    holds
        What it can hold.
    family
        Prefix of its own columns in lists of other formats.
    centred
        Whether coordinates start at the tomogram's centre: True, False, or None where the list states it itself.
    needs_angstrom
        Whether lengths are angstrom, so that the pixel size must be known.
    needs_pixels
        Whether positions count pixels, so that of a list in angstrom the pixel size must be known.
    endings
        Endings of file names that stand for it.
    shown
        Positions, shifts and angles of a table in the format's own words, by label.
    files
        The files that a table is written into, if not the list alone.
    """

    name: str
    title: str
    recognise: Callable[[bytes], bool]
    read: Callable[[Path, ReadOptions], ParticleTable]
    write: Callable[[Path, ParticleTable], tuple[Path, ...]] | None
    holds: frozenset[str]
    family: str = ""
    centred: bool | None = False
    needs_angstrom: bool = False
    needs_pixels: bool = True
    endings: tuple[str, ...] = ()
    shown: Callable[[ParticleTable], Mapping[str, Sequence[str]]] = dict  # type: ignore[assignment]
    rewrite: Callable[[Path, ParticleTable, bool], tuple[Path, ...]] | None = None
    pose_columns: Callable[[ParticleTable], Mapping[str, Sequence[str]]] = lambda table: {}
    files: Callable[[Path, ParticleTable], list[Path]] = lambda path, table: [path]


def format_of(path: Path) -> Format:
    """Return the format of a file, by what it holds."""
    with reading(path, "give a particle list"):
        start = first_bytes(path, START_BYTES)
    found = next((known for known in FORMATS.values() if known.recognise(start)), None)
    if found is not None:
        return found
    if f"data_{stopgap.WEDGE_LIST}".encode() in start:
        raise FormatError(path, "is a STOPGAP wedge list", "give a motive list, and this as --tomograms")
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise FormatError(path, "is text in UTF-16", "save it as plain text, UTF-8 or ASCII")
    if b"\0" not in start and start.strip():
        raise FormatError(path, "has no STAR data block, and is no other list that gonio knows", HELP)
    if lacks_map_word(start):
        problem = "has the header of an MRC file but for the word MAP"
        raise FormatError(path, problem, "pass --permissive where a map or tomogram is wanted")
    raise FormatError(path, "is no particle list that gonio knows", HELP)


def format_named(name: str) -> Format:
    """Return the format of a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"no format is called {name!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of_ending(path: Path) -> Format:
    """Return the format that the name of a file stands for.

    Raises
    ------
    ValueError
        If it stands for none.
    """
    name = path.name.lower()
    matches = [(len(e), known) for known in FORMATS.values() for e in known.endings if name.endswith(e.lower())]
    if not matches:
        raise ValueError(f"{path} has no ending that stands for a format: pass --to, one of {', '.join(FORMATS)}")
    return max(matches, key=lambda match: match[0])[1]


def _text(start: bytes) -> str:
    """Return the start of a file as text, without a byte order mark."""
    return start.decode("utf-8-sig", errors="replace") if b"\0" not in start else ""


def _star_labels(start: bytes) -> set[str]:
    """Return the words of the head of a STAR file, without the underscore of labels."""
    text = _text(start)
    lines = [line.strip() for line in text.splitlines()]
    if not any(line.startswith("data_") for line in lines) or f"data_{stopgap.WEDGE_LIST}" in lines:
        return set()
    return {
        "data_",
        *(line.split()[0].lstrip("_") for line in lines if line.startswith(("_", "data_")) and line != "_"),
    }


def _is_relion(name: str, start: bytes) -> bool:
    labels = _star_labels(start)
    others = "data_stopgap_motivelist" in labels or is_series(labels) or species.is_species(labels)
    return bool(labels) and not others and star_format(labels) == name


def own_format(table: ParticleTable) -> Format | None:
    """Return the format that a table was read in, or None where it was read from no file."""
    return None if table.source is None else FORMATS.get(table.source.format)


def stated_angles(table: ParticleTable) -> NDArray[np.float64] | None:
    """Return the three Euler angles of each particle as its list states them, the middle one second, shape (m, 3).

    None where a list states none, or states rotations in another way (EMAN2).
    """
    source = table.source
    labels: tuple[str, ...]
    if isinstance(source, StarSource):
        block, labels = source.particles, star.ANGLES
    elif isinstance(source, ListSource) and source.block is not None and source.format in LAYOUTS:
        block, labels = source.block, LAYOUTS[source.format].angles
    else:
        return None
    return block.vectors(labels)[np.asarray(table.rows)] if all(label in block for label in labels) else None


def stated_poses(table: ParticleTable) -> Mapping[str, Sequence[str]]:
    """Return positions, shifts and angles in the columns of the list, by label; for lists of RELION as its text."""
    if isinstance(table.source, StarSource):
        stated = table.source.particles.take(np.asarray(table.rows)).columns
        return {label: values for label, values in stated.items() if re.search(POSE_LABELS, label)}
    known = own_format(table)
    return {} if known is None else known.shown(table)


LAYOUTS: Mapping[str, columns.Layout] = {
    **{one.family: one for one in (dynamo.LAYOUT, stopgap.LAYOUT, av3.LAYOUT, pytom.LAYOUT, peet.LAYOUT)},
    **dict.fromkeys(("csv", "parquet"), plain.LAYOUT),
}
NUMBERED = frozenset({*POSES, CLASSES, SCORES})
# Prefix of the columns of RELION, in which WarpTools writes, too.
RELION = "rln"
HELP = "give a list of RELION, Warp, Dynamo, STOPGAP, AV3, PyTom, EMAN2, PEET or a plain table"


def _relion(version: str) -> Format:
    name = version if version == "warp" else f"relion{version}"
    return Format(
        name,
        "Warp/M STAR" if version == "warp" else f"RELION {version} STAR",
        partial(_is_relion, name),
        star.read_particles,
        partial(relion.write_relion, version=version),
        FREE - {SHIFTS} if version == "warp" else FREE,
        family=RELION,
        centred=version == "5",
        needs_angstrom=version not in ("warp", "3.0"),
        needs_pixels=version != "5",
        endings=(".star",) if version == "5" else (),
        shown=partial(relion.shown, version=version),
        rewrite=star.write_particles,
        pose_columns=star.pose_columns,
    )


def _of_text(begins: Callable[[str], bool]) -> Callable[[bytes], bool]:
    return lambda start: begins(_text(start))


# Of formats that are alike, with the arguments of ``Format`` in which they differ.


def _of_layout(
    name: str, title: str, recognise: Callable[[bytes], bool], read: Any, write: Any, holds: Any, **options: Any
) -> Format:
    shown = partial(columns.shown, LAYOUTS[name])
    return Format(name, title, recognise, read, write, frozenset(holds), family=name, shown=shown, **options)


def _eman(
    name: str, title: str, begins: Callable[[str], bool], read: Any, write: Any, holds: Any = FREE, **options: Any
) -> Format:
    return Format(name, title, _of_text(begins), read, write, holds, shown=eman.shown, centred=True, **options)


def _plain(name: str, title: str, recognise: Callable[[bytes], bool], read: Any, write: Any) -> Format:
    free: dict[str, Any] = {"shown": plain.shown, "centred": None, "needs_pixels": False, "endings": (f".{name}",)}
    return Format(name, title, recognise, read, write, FREE, **free)


FORMATS: Mapping[str, Format] = {
    known.name: known
    for known in (
        *map(_relion, reversed(relion.VERSIONS)),
        _of_layout(
            "stopgap",
            "STOPGAP motive list",
            lambda start: f"data_{stopgap.MOTIVE_LIST}".encode() in start,
            stopgap.read_stopgap,
            stopgap.write_stopgap,
            NUMBERED | {HALVES},
            files=columns.numbered_files,
        ),
        _of_layout(
            "av3",
            "AV3/TOM motive list",
            lambda start: is_em(start) and av3.is_motive_list(start),
            av3.read_av3,
            av3.write_av3,
            NUMBERED,
            files=columns.numbered_files,
            endings=(".em",),
        ),
        _of_layout(
            "pytom",
            "PyTom particle list",
            _of_text(pytom.is_pytom),
            pytom.read_pytom,
            pytom.write_pytom,
            NUMBERED | {TOMOGRAMS, NAMES, IMAGES},
            endings=(".xml",),
        ),
        _eman("eman", "EMAN2 LST", eman.is_lst, eman.read_lst, eman.write_lst, family="eman", endings=(".lst",)),
        _eman(
            "eman-json",
            "EMAN2 particle_parms JSON",
            eman.is_parms,
            eman.read_parms,
            eman.write_parms,
            family="eman",
            endings=(".json",),
        ),
        _eman("eman-boxes", "EMAN2 info file", eman.is_boxes, eman.read_boxes, None, frozenset()),
        _of_layout(
            "peet",
            "PEET motive list",
            _of_text(peet.is_peet),
            peet.read_peet,
            peet.write_peet,
            NUMBERED | {TOMOGRAMS},
            files=peet.list_files,
            endings=("_MOTL.csv", "motl.csv"),
        ),
        Format(
            "imod",
            "IMOD model",
            lambda start: start.startswith(b"IMODV1"),
            peet.read_model,
            peet.write_model,
            frozenset({POSITIONS, TOMOGRAMS}),
            endings=(".mod",),
            shown=peet.shown_points,
            files=peet.model_files,
        ),
        _plain("csv", "plain CSV", _of_text(plain.is_plain), plain.read_csv, plain.write_csv),
        _plain(
            "parquet", "plain Parquet", lambda start: start.startswith(b"PAR1"), plain.read_parquet, plain.write_parquet
        ),
        _of_layout(
            "dynamo",
            "Dynamo table",
            _of_text(dynamo.is_dynamo),
            dynamo.read_dynamo,
            dynamo.write_dynamo,
            NUMBERED | {PIXEL},
            files=columns.numbered_files,
            endings=(".tbl",),
        ),
        Format(
            "m-series",
            "M particle series",
            lambda start: is_series(_star_labels(start)),
            read_series,
            None,
            frozenset(),
            rewrite=write_series,
        ),
        Format(
            "m-species",
            "M species list",
            lambda start: species.is_species(_star_labels(start)),
            species.read_species,
            None,
            frozenset(),
        ),
    )
}
