"""Lists that jobs read and write row by row, none of whose particles is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gonio.particle.arguments import ArgumentError
from gonio.run.folder import check_target

if TYPE_CHECKING:
    from gonio.io.blocks import Block
    from gonio.io.formats import Format
    from gonio.particle.table import ParticleTable


def read_list(path: Path, pixel_size_angstrom: float | None) -> ParticleTable:
    """Read a list whose particles are not to be loaded."""
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions

    return read_with(path, ReadOptions(pixel_size_angstrom=pixel_size_angstrom, may_count_pixels=True))


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
