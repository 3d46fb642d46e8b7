"""Particle lists in and out: the two functions that everybody calls.

Owns the choice of a format, by what a file holds or what a new one is called. Knows no format.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gonio.io.plain as plain
import gonio.io.star as star
from gonio.io.conversion import WriteOptions, prepared
from gonio.io.ctf_images import CtfImage
from gonio.io.errors import FormatError, reading
from gonio.io.formats import ANY, FORMATS, Format, format_named, format_of, format_of_ending, own_format
from gonio.io.paths import folder_of, moved_columns
from gonio.io.source import ReadOptions, StarSource
from gonio.io.tilts import DefocusHand
from gonio.particle.table import ParticleTable


def read_particles(
    path: str | Path,
    *,
    tilt_range_deg: tuple[float, float] | None = None,
    axis_deg: float = 90.0,
    voxel_size_angstrom: float | None = None,
    tomograms_path: str | Path | None = None,
    invert_contrast: bool = False,
    permissive: bool = False,
    data_path: str | Path | None = None,
    reverse_tilts: bool = False,
    format: str | None = None,
    ctf_image: CtfImage | str | None = None,
    defocus_hand: DefocusHand | str | None = None,
) -> ParticleTable:
    """Read a particle list of any format; its particles load one at a time, on demand.

    RELION's and WarpTools' lists of 2-D stacks (rlnTomoSubTomosAre2DStacks 1) load as ``TiltStack``, all others as
    ``Subtomogram``.

    Parameters
    ----------
    path
        A particle list or an optimisation set. Paths inside start at its folder, at one above it
        (RELION's start at the project's), or at the current one.
    tilt_range_deg, axis_deg
        The wedge of 3-D subtomograms, as in ``SingleAxisWedge``. Without a range it comes from the list: its columns
        gonioTiltMin, gonioTiltMax and gonioTiltAxis, the volumes in rlnCtfImage, or columns of other formats.
    voxel_size_angstrom
        Replaces the voxel size of the list and of the image headers.
    tomograms_path
        tomograms.star for 2-D stacks, or the wedge list of a STOPGAP list; found beside the list when not given.
    invert_contrast
        Flip the sign of the images: for files whose density is dark (negative).
    permissive
        Of MRC files, accept a wrong map ID or machine stamp, and bytes after the data.
    data_path
        The folder of the subtomograms of lists that number them (Dynamo, STOPGAP, AV3).
    reverse_tilts
        Of 2-D stacks: read every tilt in the other sense, for sets whose tilt sense was reversed on import and which
        therefore show the mirror image of what they were taken of (docs/ribosomes.md).
    format
        A key of ``FORMATS``; recognised by what the file holds when not given.
    ctf_image
        What the volumes in rlnCtfImage hold, where the list does not state it: "squares" (sums of squared transfers, of
        RELION's pseudo-subtomograms), "transfer" or "confidence" (``gonio.io.ctf_images``).
    defocus_hand
        Whose meaning rlnTomoHand has, "relion" or "warp"; None to decide by a tomogram's name (``gonio.io.tilts``).

    Raises
    ------
    FormatError
        A file is missing or broken, a column or tomogram is missing, a value is not a number, lengths are pixels of
        unknown size, or the tilts to reverse are not known.
    """
    options = ReadOptions(
        tilt_range_deg,
        axis_deg,
        voxel_size_angstrom,
        invert_contrast,
        permissive,
        tomograms_path=None if tomograms_path is None else Path(tomograms_path),
        data_path=None if data_path is None else Path(data_path),
        reverse_tilts=reverse_tilts,
        ctf_image=None if ctf_image is None else CtfImage(ctf_image),
        defocus_hand=None if defocus_hand is None else DefocusHand(defocus_hand),
    )
    return read_with(Path(path), options, format=format)


def read_with(path: Path, options: ReadOptions, *, format: str | None = None) -> ParticleTable:
    """Read a particle list with all options of a list; ``may_count_pixels`` also reads what cannot be loaded."""
    known = format_of(path) if format is None else format_named(format)
    with reading(path, "correct the list, or write it again"):  # what single values do not show
        table = known.read(path, options)
    assert table.source is not None  # it was read
    if options.reverse_tilts and not table.source.series:
        problem = "has no tilt series whose sense could be reversed: that is for 2-D stacks with their tomograms file"
        remedy = "leave out --reverse-tilts and mirror the reference: gonio pair AVERAGE MAP --mirror -o REFERENCE"
        raise FormatError(path, problem, remedy)
    if options.defocus_hand is not None and not table.source.series:
        raise FormatError(path, "lists no 2-D stacks whose defocus changes with depth", "leave out --defocus-hand")
    if options.ctf_image is not None and not table.source.has_ctf_images:
        raise FormatError(path, "lists no 3-D volumes in rlnCtfImage", "leave out --ctf-image")
    return table


def write_particles(
    path: str | Path,
    table: ParticleTable,
    *,
    format: str | None = None,
    options: WriteOptions | None = None,
    with_optimisation_set: bool = True,
) -> tuple[Path, ...]:
    """Write a list in any format.

    Parameters
    ----------
    path
        The new list; may be the source itself.
    table
        Possibly a selection, reordered, with new poses and columns.
    format
        A key of ``FORMATS``. Without it a list that was read from a STAR file of RELION or Warp is written back as it
        was, every value that did not change as the text that it was; others become what the file's ending stands for,
        and .star a list of RELION 5, or of RELION 4 where coordinates start at the tomogram's corner.
    options
        Pixels to count in, sizes of tomograms and what their centre is, where the format needs them.
    with_optimisation_set
        For 2-D stacks, also write optimisation_set.star beside it, naming list and tomograms. Where that name is taken
        by the set of another list, it becomes NAME_optimisation_set.star.

    Returns
    -------
    The files written.

    Raises
    ------
    FormatError
        If a file cannot be written, or the format needs what is not known; nothing half-written stays behind.
    """
    path, own = Path(path), own_format(table)
    if options is None and own is not None and own.rewrite is not None and keeps_text(path, table, format):
        return own.rewrite(path, table, with_optimisation_set)
    target = _default_target(path, table) if format is None else format_named(format)
    if target.write is None:
        raise ValueError(f"{target.title} is read and not written: choose another format")
    extras = {**table.extras, **moved_columns(table.extras, folder_of(table), path.parent)}
    made = prepared(replace(table, extras=extras), target, options or WriteOptions(), path=path)
    return target.write(path, made)


def write_rows(path: str | Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write the rows of a table as they stand in the list that it was read from, in its format, poses included.

    Parameters
    ----------
    table
        A selection of a list, or lists that were joined, with the poses of their files.

    Returns
    -------
    The files written.

    Raises
    ------
    ValueError
        A table that comes from no file, or from a format that is not written.
    FormatError
        As ``write_particles``.
    """
    path, own = Path(path), own_format(table)
    if own is None:
        raise ValueError("this table was not read from a file: write it with write_particles")
    if isinstance(table.source, StarSource):
        return star.write_rows(path, table)
    if own.name == "csv":
        return plain.write_rows(path, table)
    if own.write is None and own.rewrite is None:
        raise ValueError(f"{own.title} is read and not written: convert the list first")
    return write_particles(path, table, format=own.name)


def with_tomograms(table: ParticleTable, path: Path) -> ParticleTable:
    """Return the list of the same stacks with another tomograms file, which its optimisation set then names."""
    assert isinstance(table.source, StarSource)  # stacks are in lists of RELION and Warp alone
    return replace(table, source=replace(table.source, tomograms_path=path))


def write_back(folder: Path, name: str, table: ParticleTable, *, with_optimisation_set: bool = True) -> Path:
    """Write a list in the format that it was read in, and beside it what that format cannot hold.

    Parameters
    ----------
    name
        Name of the files without an ending (``file_name`` adds the list's). Where its format has no place for
        columns of gonio's own (Dynamo, STOPGAP, AV3, PyTom, PEET), ``NAME.csv`` holds all of the list: a plain table,
        read as any other.
    table
        Possibly a selection, with new poses and columns.
    with_optimisation_set
        As in ``write_particles``.

    Returns
    -------
    The list.
    """
    path, own = folder / file_name(table, name), _written(table)
    format = None if own is None else own.name
    write_particles(path, table, format=format, with_optimisation_set=with_optimisation_set)
    if own is not None and own.rewrite is None and ANY not in own.holds:
        write_particles(folder / f"{name}.csv", table, format="csv")
    return path


def file_name(table: ParticleTable, name: str) -> str:
    """Return the name that ``write_back`` gives a list: ``NAME`` with the ending of its format, else ``NAME.star``."""
    own = _written(table)
    return f"{name}{own.endings[0] if own and own.endings else '.star'}"


def _written(table: ParticleTable) -> Format | None:
    """Return the format of a list, where it is one that gonio writes."""
    own = own_format(table)
    return None if own is None or (own.write is None and own.rewrite is None) else own


def keeps_text(path: Path, table: ParticleTable, format: str | None) -> bool:
    """Return whether a list is written back as the kind of STAR file it was, every unchanged value as its text."""
    own = own_format(table)
    return (
        own is not None
        and own.rewrite is not None
        and format in (own.name, *([None] if path.suffix == ".star" else []))
    )


def _default_target(path: Path, table: ParticleTable) -> Format:
    if path.suffix != ".star":
        return format_of_ending(path)
    cornered = table.coordinates_angstrom is not None and table.coordinates_from == "corner"
    return FORMATS["relion4" if cornered else "relion5"]
