"""Write a particle list in the format of another program: ``gonio convert``."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gonio.jobs.files import write_settings
from gonio.jobs.list_rows import as_stated, warn_of_other_size
from gonio.jobs.options import File
from gonio.particle.arguments import ArgumentError
from gonio.run.folder import check_target

if TYPE_CHECKING:
    from gonio.io.conversion import TomogramSizes
    from gonio.io.formats import Format
    from gonio.particle.table import ParticleTable


@dataclass(frozen=True)
class Converted:
    """A list as it was read and as it is written, each with its format.

    Parameters
    ----------
    lost
        A few words for each thing in the list that its new format cannot hold.
    written
        The files written; none by a dry run.
    """

    table: ParticleTable
    made: ParticleTable
    given: Format
    wanted: Format
    lost: tuple[str, ...] = ()
    written: tuple[Path, ...] = ()


def convert(
    source: File,
    target: File,
    *,
    from_format: str | None = None,
    to_format: str | None = None,
    pixel_size_angstrom: float | None = None,
    to_pixel_size_angstrom: float | None = None,
    tomogram_size: tuple[float, float, float] | None = None,
    tomograms_path: File | None = None,
    centre: str = "size/2",
    whole: bool = False,
    tomostar: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
) -> Converted:
    """Write a list in the format of another program, and how it was made beside it (TARGET.settings.toml).

    Parameters
    ----------
    source, target
        The list and the list to write.
    from_format, to_format
        Keys of ``gonio.io.formats.FORMATS``; recognised by the content of the list and the new name when not given.
    pixel_size_angstrom, to_pixel_size_angstrom
        Size of the pixels that the lists count in, angstrom; None for what the list states, and for the same.
    tomogram_size
        Size of all tomograms, xyz, in pixels of the list, to count to or from their centre.
    tomograms_path
        tomograms.star or a STOPGAP wedge list, for the sizes of tomograms; None for the one of the list.
    centre
        Which voxel is the centre of a tomogram: a key of ``gonio.io.conversion.CENTRES``.
    whole
        Make coordinates whole pixels, the rest a shift.
    tomostar
        Name tomograms as WarpTools names their tilt series.
    dry_run
        Write nothing.
    """
    from gonio.io.conversion import WriteOptions, losses, prepared
    from gonio.io.errors import remove_leftovers
    from gonio.io.formats import format_named, format_of, format_of_ending
    from gonio.io.lists import keeps_text, write_particles

    source, target = Path(source), Path(target)
    tomograms = None if tomograms_path is None else Path(tomograms_path)
    given = format_of(source) if from_format is None else format_named(from_format)
    wanted = format_of_ending(target) if to_format is None else format_named(to_format)
    if wanted.write is None:
        raise ValueError(f"{wanted.title} is read and not written: choose another format")
    table = _read(source, given, pixel_size_angstrom, tomograms)
    options = None
    done = Converted(table, table, given, wanted)
    changed = whole or tomostar or pixel_size_angstrom is not None or to_pixel_size_angstrom is not None
    if changed or not keeps_text(target, table, wanted.name):
        sizes = _sizes(table, wanted, tomogram_size, tomograms, centre)
        options = WriteOptions(to_pixel_size_angstrom, sizes, centre, whole, tomostar)
        made = prepared(table, wanted, options, path=source)
        done = replace(done, made=made, lost=tuple(losses(made, wanted)))
    _warn_of_angles(table)
    if dry_run:
        return done
    settings_path = target.with_name(f"{target.name}.settings.toml")
    for path in (*wanted.files(target, done.made), settings_path):
        check_target(path, overwrite=overwrite)
        remove_leftovers(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = write_particles(target, table, format=wanted.name, options=options)
    settings = {
        "from": given.name,
        "to": wanted.name,
        "pixel_size_angstrom": pixel_size_angstrom,
        "to_pixel_size_angstrom": to_pixel_size_angstrom,
        "tomogram_size_px": tomogram_size,
        "tomograms": tomograms,
        "centre": centre,
        "whole": whole,
        "tomostar": tomostar,
    }
    write_settings(settings_path, settings, inputs=table.files)
    return replace(done, written=written)


def _read(path: Path, given: Format, pixel_size: float | None, tomograms: Path | None) -> ParticleTable:
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions
    from gonio.io.stopgap import is_wedge_list

    # the wedge list of a STOPGAP list is read with it; other sizes of tomograms are for what is written
    own = tomograms is not None and is_wedge_list(tomograms) == (given.name == "stopgap")
    options = ReadOptions(
        pixel_size_angstrom=pixel_size, may_count_pixels=True, tomograms_path=tomograms if own else None
    )
    if pixel_size is not None:
        warn_of_other_size(as_stated(path, options, format=given.name), pixel_size)
    return read_with(path, options, format=given.name)


def _sizes(
    table: ParticleTable,
    wanted: Format,
    tomogram_size: tuple[float, float, float] | None,
    tomograms: Path | None,
    centre: str,
) -> TomogramSizes:
    """Return the sizes of tomograms, as far as they are needed: as given, or those of a file."""
    from gonio.io.conversion import CENTRES, TomogramSizes, needs_centres

    if centre not in CENTRES:
        raise ArgumentError("{} must be {known}, got {got!r}", "centre", known=", ".join(CENTRES), got=centre)
    if tomogram_size is not None:
        if min(tomogram_size) <= 0:
            raise ArgumentError("{} must be three positive numbers, got {got}", "tomogram_size", got=tomogram_size)
        return TomogramSizes(every=tomogram_size)
    if not needs_centres(table, wanted):
        return TomogramSizes()
    if tomograms is None and table.source is not None:
        tomograms = table.source.sizes_path
    return TomogramSizes() if tomograms is None else TomogramSizes.read(tomograms)


def _warn_of_angles(table: ParticleTable) -> None:
    """Warn of angles that are written unchanged and look wrong."""
    from gonio.io.formats import stated_angles
    from gonio.workflows.inspection import angles_in_radians, angles_out_of_range

    angles = stated_angles(table)
    for found in () if angles is None else (angles_out_of_range(angles), angles_in_radians(angles)):
        if found is not None:
            warnings.warn(f"{table.files[0]}: {found}", RuntimeWarning, stacklevel=3)
