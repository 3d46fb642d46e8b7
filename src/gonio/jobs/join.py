"""Several particle lists as one, in their own format: ``gonio join``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.files import write_settings
from gonio.jobs.list_rows import check_new_list, labels_of, read_lists
from gonio.jobs.options import File
from gonio.jobs.splitting import some
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable


@dataclass(frozen=True)
class Joined:
    """The joined list, how many particles came from each, and the columns that not all have, which are dropped."""

    table: ParticleTable
    counts: tuple[int, ...]
    lost: tuple[str, ...]
    written: tuple[Path, ...] = ()


def join(
    sources: Sequence[File],
    *,
    output: File,
    first: bool = False,
    renumber: bool = False,
    pixel_size_angstrom: float | None = None,
    overwrite: bool = False,
) -> Joined:
    """Write the particles of several lists of one format into one, every value as the text that it was.

    Columns that not all lists have are dropped; optics groups are merged, and numbered anew where they differ. How
    it was made is written beside it (OUTPUT.settings.toml).

    Parameters
    ----------
    first
        Of particles of one name in several lists keep that of the first list; otherwise they are an error.
    renumber
        Number all particles anew, 1, 2, ..., where lists number them from 1 each; names TOMOGRAM/NUMBER, as RELION's,
        through each tomogram.
    pixel_size_angstrom
        Size of the lists' pixels, where they do not state it; another than one states is refused.

    Raises
    ------
    FormatError
        A list that is broken, or states other things than the first of all its particles.
    ValueError
        Fewer than two lists, lists of several formats, particles in several lists, files that are there already.
    """
    from gonio.io.formats import own_format
    from gonio.io.lists import write_rows
    from gonio.io.source import StarSource

    paths, target = [Path(path) for path in sources], Path(output)
    if len(paths) < 2:
        raise ArgumentError("{} must be two lists or more", "sources")
    if first and renumber:
        raise ArgumentError("{} and {} exclude each other: give one", "first", "renumber")
    tables = read_lists(paths, pixel_size_angstrom, in_one_unit=True)
    formats = [own_format(table) for table in tables]
    for path, one in zip(paths, formats, strict=True):
        assert one is not None and formats[0] is not None  # they were read
        if one.name != formats[0].name:
            raise ValueError(f"{path} is a list of {one.title}, {paths[0]} of {formats[0].title}: gonio convert one")
    tables = _renumbered(tables) if renumber else _distinct(tables, paths, first=first)
    counts = tuple(map(len, tables))
    made = _added(tables, paths)
    if renumber and isinstance(made.source, StarSource):
        made = replace(made, source=made.source.renamed(made.names))
    assert formats[0] is not None
    files = check_new_list(target, formats[0], made, overwrite=overwrite)
    kept = set(labels_of(made))
    lost = tuple(
        one
        for one in dict.fromkeys(label for table in tables if len(table) for label in labels_of(table))
        if one not in kept
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    written = write_rows(target, made)
    settings = {
        "sources": list(map(str, paths)),
        "first": first,
        "renumber": renumber,
        "pixel_size_angstrom": pixel_size_angstrom,
        "dropped_columns": list(lost),
    }
    write_settings(files[-1], settings, inputs=[file for table in tables for file in table.files])
    return Joined(made, counts, lost, written)


def _added(tables: Sequence[ParticleTable], paths: Sequence[Path]) -> ParticleTable:
    """Return the particles of all lists as one table; ValueError, naming two lists, where they do not fit together."""
    from gonio.io.errors import FormatError

    made = tables[0]
    for path, table in zip(paths[1:], tables[1:], strict=True):
        if not len(table):
            continue
        try:
            made = made + table
        except FormatError:  # which names its file
            raise
        except (TypeError, ValueError) as error:
            raise ValueError(f"{paths[0]} and {path}: {error}") from error
    return made


def _renumbered(tables: Sequence[ParticleTable]) -> list[ParticleTable]:
    """Return the lists with numbers 1, 2, ... through all of them, of names TOMOGRAM/NUMBER through each tomogram."""
    from gonio.io.source import StarSource

    names = [name for table in tables for name in table.names]
    tomograms = [tomogram for table in tables for tomogram in table.tomograms]
    if not all(name.rpartition("/")[2].isdigit() for name in names):
        raise ArgumentError("{} is for lists that number their particles: these name them", "renumber")
    if not any(isinstance(table.source, StarSource) for table in tables):
        numbered = [str(number) for number in range(1, len(names) + 1)]
    else:
        counts: Counter[str] = Counter()
        numbered = []
        for tomogram in tomograms:
            counts[tomogram] += 1
            numbered.append(f"{tomogram}/{counts[tomogram]}")
    ends = np.cumsum([len(table) for table in tables])
    begins = ends - [len(table) for table in tables]
    return [
        replace(table, names=tuple(numbered[begin:end])) for table, begin, end in zip(tables, begins, ends, strict=True)
    ]


def _distinct(tables: Sequence[ParticleTable], paths: Sequence[Path], *, first: bool) -> list[ParticleTable]:
    """Return the lists without particles that an earlier one has; ArgumentError where they are not to be dropped."""
    seen: set[str] = set()
    kept = []
    for table, path in zip(tables, paths, strict=True):
        again = np.array([name in seen for name in table.names], dtype=bool)
        if again.any() and not first:
            names = some(repr(name) for name, twice in zip(table.names, again, strict=True) if twice)
            what = (
                "{path} has particles that an earlier list has: {names}; pass {} to keep those of the earlier list, or"
                " {} where numbers begin anew in each"
            )
            raise ArgumentError(what, "first", "renumber", path=path, names=names)
        seen.update(table.names)
        kept.append(table[~again])
    return kept
