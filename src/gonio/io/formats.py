"""Every format of particle lists that gonio knows: how it is told, read and written, and what it can hold.

To add one: a module that reads it into a ``ParticleTable`` and writes it from one, and an entry in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gonio.io.av3 as av3
import gonio.io.columns as columns
import gonio.io.dynamo as dynamo
import gonio.io.eman as eman
import gonio.io.peet as peet
import gonio.io.plain as plain
import gonio.io.pytom as pytom
import gonio.io.relion as relion
import gonio.io.species as species
import gonio.io.star as star
import gonio.io.stopgap as stopgap
from gonio.io.compressed import first_bytes
from gonio.io.em import is_em
from gonio.io.errors import FormatError, reading
from gonio.io.mrc import lacks_map_word
from gonio.io.particle_series import SeriesSource, is_series, read_series
from gonio.io.source import ReadOptions, StarSource
from gonio.io.subtomograms import ListSource
from gonio.particle.table import ParticleTable

__all__ = ["FORMATS", "Format", "format_named", "format_of", "format_of_ending", "own_format", "stated_angles"]

START_BYTES = 65536
# What a list may hold; the rest of its columns are its own.
POSITIONS, ANGLES, SHIFTS, TOMOGRAMS, NAMES = "positions", "angles", "shifts", "tomogram names", "particle names"
HALVES, CLASSES, SCORES, IMAGES, PIXEL, ANY = (
    "half sets",
    "classes",
    "scores",
    "image files",
    "pixel size",
    "any column",
)
POSES = {POSITIONS, ANGLES, SHIFTS}
FREE = frozenset({*POSES, TOMOGRAMS, NAMES, HALVES, CLASSES, SCORES, IMAGES, PIXEL, ANY})


@dataclass(frozen=True)
class Format:
    """One format.

    Parameters
    ----------
    name
        On the command line.
    title
        For people.
    recognise
        Whether the first bytes of a file are of this format; of those that say so the first in ``FORMATS`` is taken.
    read, write
        From and to a file; without ``write`` it is read only.
    holds
        What it can hold.
    family
        Prefix of its own columns in lists of other formats.
    centred
        Whether coordinates start at the tomogram's centre: True, False, or None where the list says so itself.
    needs_angstrom
        Whether lengths are angstrom, so that the pixel size must be known.
    needs_pixels
        Whether positions count pixels, so that of a list in angstrom the pixel size must be known.
    endings
        Of file names that stand for it.
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
    files: Callable[[Path, ParticleTable], list[Path]] = lambda path, table: [path]


def format_of(path: Path) -> Format:
    """The format of a file, by what it holds.

    Raises
    ------
    FormatError
        If it is missing, empty, or of none.
    """
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
    """The format of a name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in FORMATS:
        raise ValueError(f"no format is called {name!r}: choose one of {', '.join(FORMATS)}")
    return FORMATS[name]


def format_of_ending(path: Path) -> Format:
    """The format that the name of a file stands for.

    Raises
    ------
    ValueError
        If it stands for none.
    """
    name = path.name.lower()
    matches = [(len(e), known) for known in FORMATS.values() for e in known.endings if name.endswith(e)]
    if not matches:
        raise ValueError(f"{path} has no ending that stands for a format: pass --to, one of {', '.join(FORMATS)}")
    return max(matches, key=lambda match: match[0])[1]


def _text(start: bytes) -> str:
    """What a file of text starts with; a byte order mark is no part of it."""
    return start.decode("utf-8-sig", errors="replace") if b"\0" not in start else ""


def _is_motive_list(start: bytes) -> bool:
    return is_em(start) and av3.is_motive_list(start)


def _is_stopgap(start: bytes) -> bool:
    return f"data_{stopgap.MOTIVE_LIST}".encode() in start


def _star_labels(start: bytes) -> set[str]:
    """Words of the head of a STAR file, without the underscore of labels."""
    text = _text(start)
    lines = [line.strip() for line in text.splitlines()]
    if not any(line.startswith("data_") for line in lines) or f"data_{stopgap.WEDGE_LIST}" in lines:
        return set()
    return {
        "data_",
        *(line.split()[0].lstrip("_") for line in lines if line.startswith(("_", "data_")) and line != "_"),
    }


def star_version(labels: set[str]) -> str | None:
    """Which RELION wrote a list, by its labels: a key of ``relion.VERSIONS``, or None for no STAR file."""
    if "data_" not in labels or "data_stopgap_motivelist" in labels or is_series(labels) or species.is_species(labels):
        return None
    if star.CENTRED[0] in labels or relion.GENERAL in labels or "rlnTomoParticlesFile" in labels:
        return "5"
    if "rlnTomoName" in labels:
        return "4"
    if "data_optics" in labels:
        return "3.1"
    return "3.0" if "rlnImageName" in labels or star.COORDINATES_PX[0] not in labels else "warp"


def _is_relion(version: str, start: bytes) -> bool:
    return star_version(_star_labels(start)) == version


def _read_star(path: Path, options: ReadOptions) -> ParticleTable:
    return star.read_particles(
        path,
        tilt_range_deg=options.tilt_range_deg,
        axis_deg=options.axis_deg,
        voxel_size_angstrom=options.voxel_size_angstrom,
        tomograms_path=options.tomograms_path,
        invert_contrast=options.invert_contrast,
        permissive=options.permissive,
        pixel_size_angstrom=options.pixel_size_angstrom,
        images_needed=not options.may_count_pixels,
        reverse_tilts=options.reverse_tilts,
        defocus_hand=options.defocus_hand,
        ctf_image=options.ctf_image,
    )


def own_format(source: StarSource | SeriesSource) -> str:
    """The format that a STAR list was read in."""
    if isinstance(source, SeriesSource):
        return "m-series"
    labels = {"data_", *(f"data_{block.name}" for block in source.star.blocks), *source.particles.columns}
    labels |= {label for block in source.star.blocks for label in block.columns}
    return FORMAT_OF_VERSION[star_version(labels) or "5"]


def stated_angles(table: ParticleTable) -> NDArray[np.float64] | None:
    """Return the three Euler angles of each particle as its list states them, the middle one second, shape (m, 3).

    None where a list states none, or states rotations in another way (EMAN2).
    """
    source, rows = table.source, np.asarray(table.rows)
    labels: tuple[str, ...]
    if isinstance(source, StarSource):
        block, labels = source.particles, star.ANGLES
    elif isinstance(source, ListSource) and source.block is not None and source.family in LAYOUTS:
        block, labels = source.block, LAYOUTS[source.family].angles
    else:
        return None
    return block.vectors(labels)[rows] if all(label in block for label in labels) else None


LAYOUTS = {
    "dynamo": dynamo.LAYOUT,
    "stopgap": stopgap.LAYOUT,
    "av3": av3.LAYOUT,
    "pytom": pytom.LAYOUT,
    "peet": peet.LAYOUT,
    "plain": plain.LAYOUT,
}
NUMBERED = frozenset({*POSES, CLASSES, SCORES})
HELP = "give a list of RELION, Warp, Dynamo, STOPGAP, AV3, PyTom, EMAN2, PEET or a plain table"
FORMAT_OF_VERSION = {"warp": "warp", **{version: f"relion{version}" for version in relion.VERSIONS[1:]}}
RELION_TITLES = {
    "warp": "Warp/M STAR",
    "3.0": "RELION 3.0 STAR",
    "3.1": "RELION 3.1 STAR",
    "4": "RELION 4 STAR",
    "5": "RELION 5 STAR",
}


def _relion(version: str) -> Format:
    return Format(
        FORMAT_OF_VERSION[version],
        RELION_TITLES[version],
        partial(_is_relion, version),
        _read_star,
        partial(relion.write_relion, version=version),
        FREE - {SHIFTS} if version == "warp" else FREE,
        centred=version == "5",
        needs_angstrom=version not in ("warp", "3.0"),
        needs_pixels=version != "5",
        endings=(".star",) if version == "5" else (),
        shown=partial(relion.shown, version=version),
    )


def _text_format(
    name: str,
    title: str,
    told: Callable[[str], bool],
    read: Callable[[Path, ReadOptions], ParticleTable],
    write: Callable[[Path, ParticleTable], tuple[Path, ...]] | None,
    holds: frozenset[str],
    **more: object,
) -> Format:
    return Format(name, title, lambda start: told(_text(start)), read, write, holds, **more)  # type: ignore[arg-type]


FORMATS: Mapping[str, Format] = {
    known.name: known
    for known in (
        *map(_relion, reversed(relion.VERSIONS)),
        Format(
            "stopgap",
            "STOPGAP motive list",
            _is_stopgap,
            stopgap.read_stopgap,
            stopgap.write_stopgap,
            NUMBERED | {HALVES},
            family="stopgap",
            shown=partial(columns.shown, stopgap.LAYOUT),
            files=columns.numbered_files,
        ),
        Format(
            "av3",
            "AV3/TOM motive list",
            _is_motive_list,
            av3.read_av3,
            av3.write_av3,
            NUMBERED,
            family="av3",
            shown=partial(columns.shown, av3.LAYOUT),
            files=columns.numbered_files,
            endings=(".em",),
        ),
        _text_format(
            "pytom",
            "PyTom particle list",
            pytom.is_pytom,
            pytom.read_pytom,
            pytom.write_pytom,
            NUMBERED | {TOMOGRAMS, NAMES, IMAGES},
            family="pytom",
            shown=partial(columns.shown, pytom.LAYOUT),
            endings=(".xml",),
        ),
        _text_format(
            "eman",
            "EMAN2 LST",
            eman.is_lst,
            eman.read_lst,
            eman.write_lst,
            FREE,
            family="eman",
            shown=eman.shown,
            centred=True,
            endings=(".lst",),
        ),
        _text_format(
            "eman-json",
            "EMAN2 particle_parms JSON",
            eman.is_parms,
            eman.read_parms,
            eman.write_parms,
            FREE,
            family="eman",
            shown=eman.shown,
            centred=True,
            endings=(".json",),
        ),
        _text_format(
            "eman-boxes",
            "EMAN2 info file",
            eman.is_boxes,
            eman.read_boxes,
            None,
            frozenset(),
            centred=True,
            shown=eman.shown,
        ),
        _text_format(
            "peet",
            "PEET motive list",
            peet.is_peet,
            peet.read_peet,
            peet.write_peet,
            NUMBERED | {TOMOGRAMS},
            family="peet",
            shown=partial(columns.shown, peet.LAYOUT),
            files=peet.list_files,
            endings=("motl.csv",),
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
        _text_format(
            "csv",
            "plain CSV",
            plain.is_plain,
            plain.read_csv,
            plain.write_csv,
            FREE,
            centred=None,
            endings=(".csv",),
            needs_pixels=False,
            shown=plain.shown,
        ),
        Format(
            "parquet",
            "plain Parquet",
            lambda start: start.startswith(b"PAR1"),
            plain.read_parquet,
            plain.write_parquet,
            FREE,
            centred=None,
            needs_pixels=False,
            endings=(".parquet",),
            shown=plain.shown,
        ),
        _text_format(
            "dynamo",
            "Dynamo table",
            dynamo.is_dynamo,
            dynamo.read_dynamo,
            dynamo.write_dynamo,
            NUMBERED | {PIXEL},
            family="dynamo",
            shown=partial(columns.shown, dynamo.LAYOUT),
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
