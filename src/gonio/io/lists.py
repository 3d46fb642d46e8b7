"""Particle lists in and out: the two functions that everybody calls.

Owns the choice of a format, by what a file holds or what a new one is called. Knows no format.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gonio.io.star as star
from gonio.io.conversion import WriteOptions, prepared
from gonio.io.ctf_images import CtfImage
from gonio.io.errors import FormatError
from gonio.io.formats import FORMATS, Format, format_named, format_of, format_of_ending, own_format
from gonio.io.particle_series import SeriesSource, write_series
from gonio.io.paths import folder_of, moved_columns
from gonio.io.source import ReadOptions, StarSource
from gonio.io.tilts import DefocusHand
from gonio.particle.table import ParticleTable

__all__ = ["keeps_text", "read_particles", "read_with", "write_particles"]


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
    """Read a particle list of any format; its particles load one at a time, when asked for.

    RELION's and WarpTools' lists of 2-D stacks (rlnTomoSubTomosAre2DStacks 1) load as ``TiltStack``, all others as
    ``Subtomogram``.

    Parameters
    ----------
    path
        A particle list or an optimisation set. Paths inside start at its folder, at one above it
        (RELION's start at the project's), or at the current one.
    tilt_range_deg, axis_deg
        The wedge of 3-D subtomograms, as in ``SingleAxisWedge``. Without a range it comes from the list: its columns
        gonioTiltMin, gonioTiltMax and gonioTiltAxis, the volumes in rlnCtfImage, or what other formats say of it.
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
        A key of ``FORMATS``; told by what the file holds when not given.
    ctf_image
        What the volumes in rlnCtfImage hold, where the list does not say it: "squares" (sums of squared transfers, of
        RELION's pseudo-subtomograms), "transfer" or "confidence" (``gonio.io.ctf_images``).
    defocus_hand
        Whose meaning rlnTomoHand has, "relion" or "warp"; None for what a tomogram's name says (``gonio.io.tilts``).

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
    """``read_particles`` with all that can be said of a list; ``may_count_pixels`` reads what cannot be loaded, too."""
    table = (format_of(path) if format is None else format_named(format)).read(path, options)
    if options.reverse_tilts and not getattr(table.source, "series", None):
        problem = "has no tilt series whose sense could be reversed: that is for 2-D stacks with their tomograms file"
        remedy = "leave out --reverse-tilts and mirror the reference: gonio pair AVERAGE MAP --mirror -o REFERENCE"
        raise FormatError(path, problem, remedy)
    if options.defocus_hand is not None and not getattr(table.source, "series", None):
        raise FormatError(path, "lists no 2-D stacks whose defocus changes with depth", "leave out --defocus-hand")
    source = table.source
    if options.ctf_image is not None and (not isinstance(source, StarSource) or not source.has_ctf_images):
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
    path = Path(path)
    if options is None and keeps_text(path, table, format):
        if isinstance(table.source, SeriesSource):
            return write_series(path, table)
        return star.write_particles(path, table, with_optimisation_set=with_optimisation_set)
    target = _default_target(path, table) if format is None else format_named(format)
    if target.write is None:
        raise ValueError(f"{target.title} is read and not written: choose another format")
    extras = {**table.extras, **moved_columns(table.extras, folder_of(table), path.parent)}
    made = prepared(replace(table, extras=extras), target, options or WriteOptions(), path=path)
    return target.write(path, made)


def keeps_text(path: Path, table: ParticleTable, format: str | None) -> bool:
    """Whether a list stays a STAR file of the kind that it is, so that all that is not changed keeps its text."""
    source = table.source
    if not isinstance(source, StarSource | SeriesSource):
        return False
    return format == own_format(source) or (format is None and path.suffix == ".star")


def _default_target(path: Path, table: ParticleTable) -> Format:
    if path.suffix != ".star":
        return format_of_ending(path)
    cornered = table.coordinates_angstrom is not None and table.coordinates_from == "corner"
    return FORMATS["relion4" if cornered else "relion5"]
