"""Lists that jobs read and write row by row, none of whose particles is loaded."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from gonio.particle.arguments import ArgumentError
from gonio.run.folder import check_target

if TYPE_CHECKING:
    from gonio.io.blocks import Block
    from gonio.io.formats import Format
    from gonio.io.source import ReadOptions
    from gonio.particle.table import ParticleTable


def read_list(path: Path, pixel_size_angstrom: float | None) -> ParticleTable:
    """Read a list whose particles are not to be loaded."""
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions

    return read_with(path, ReadOptions(pixel_size_angstrom=pixel_size_angstrom, may_count_pixels=True))


def read_lists(
    paths: Sequence[Path], pixel_size_angstrom: float | None, *, in_one_unit: bool = False
) -> list[ParticleTable]:
    """Read lists whose particles are not to be loaded, with a pixel size for those that do not state theirs.

    Parameters
    ----------
    in_one_unit
        Whether all are to count in the pixels that are given.

    Raises
    ------
    ArgumentError
        A given size that contradicts what a list states, where no other list needs it or all are to have one unit.
    """
    if pixel_size_angstrom is None:
        return [read_list(path, None) for path in paths]
    tables = [as_stated(path) for path in paths]
    if in_one_unit or all(table is not None for table in tables):
        for table in tables:
            if table is not None:
                _check_stated(table, pixel_size_angstrom)
    return [
        read_list(path, pixel_size_angstrom) if in_one_unit or table is None else table
        for path, table in zip(paths, tables, strict=True)
    ]


def as_stated(path: Path, options: ReadOptions | None = None, *, format: str | None = None) -> ParticleTable | None:
    """Return a list as its files have it, or None where that takes the size of its pixels."""
    from gonio.io.errors import FormatError
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions

    options = replace(options or ReadOptions(), pixel_size_angstrom=None, may_count_pixels=True)
    try:
        table = read_with(path, options, format=format)
    except FormatError:  # of angstrom beside pixels; what is broken is found again when it is read with their size
        return None
    return None if table.lengths == "pixels" else table


def warn_of_other_size(stated: ParticleTable | None, given: float) -> None:
    """Warn where the pixel size that is given takes the place of another: ``stated`` is from ``as_stated``."""
    other = None if stated is None else _other_size(stated, given)
    if stated is not None and other is not None:
        problem = (
            f"{stated.files[0]} has pixels of {other:g} angstrom by its files: the given {given:g} take their place"
        )
        warnings.warn(problem, stacklevel=3)


def _other_size(table: ParticleTable, given: float) -> float | None:
    """Return the first pixel size of a list that is not the given one."""
    from gonio.particle.volume import same_size

    sizes = () if table.pixel_sizes_angstrom is None else table.pixel_sizes_angstrom.tolist()
    return next((size for size in sizes if not same_size(given, size)), None)


def _check_stated(table: ParticleTable, given: float) -> None:
    """Raise ArgumentError where a list states another size of its pixels than is given, or has no use for one."""
    if table.pixel_sizes_angstrom is None:
        raise ArgumentError("{path} counts in angstrom: leave out {}", "pixel_size_angstrom", path=table.files[0])
    other = _other_size(table, given)
    if other is not None:
        what = (
            "{} {given:g} contradicts {path}, which has pixels of {other:g} angstrom: leave it out, or correct the list"
            " with gonio convert, where {} stands in place of what a list states"
        )
        names = ("pixel_size_angstrom", "pixel_size_angstrom")
        raise ArgumentError(what, *names, given=given, path=table.files[0], other=other)


def check_angstrom(table: ParticleTable) -> None:
    """Raise ArgumentError for a list that counts in pixels and does not state their size."""
    if table.lengths == "pixels":
        what = "{path} counts in pixels and does not state their size: give {}"
        raise ArgumentError(what, "pixel_size_angstrom", path=table.files[0])


def check_new_list(target: Path, own: Format, table: ParticleTable, *, overwrite: bool) -> list[Path]:
    """Return the files that a list of a format is written into, and last the file of its settings.

    Raises
    ------
    ValueError, OSError
        A name that stands for another format, or files that are there.
    """
    from gonio.io.errors import remove_leftovers

    others = own.endings or (".star",)
    if not target.name.lower().endswith(tuple(ending.lower() for ending in others)):
        raise ValueError(
            f"{target} is to be a list of {own.title}, as the one that was read: call it *{others[0]}; gonio convert"
            " changes formats"
        )
    files = [*own.files(target, table), target.with_name(f"{target.name}.settings.toml")]
    for path in files:
        check_target(path, overwrite=overwrite)
        remove_leftovers(path)
    return files


def block_of(table: ParticleTable) -> Block | None:
    """Return the rows of a list as they stand in its file; None for formats that are no text."""
    source = table.source
    return getattr(source, "particles", None) or getattr(source, "text", None) or getattr(source, "block", None)


def labels_of(table: ParticleTable) -> tuple[str, ...]:
    """Return the columns of a list: those of its file, or what is known of its particles."""
    block = block_of(table)
    if block is not None:
        return tuple(block.columns)
    known = [one for one in ("classes", "scores", "images") if getattr(table, one) is not None]
    return tuple(dict.fromkeys((*known, *table.columns, *table.extras)))
