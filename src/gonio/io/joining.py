"""Two lists of one format as one: rows behind rows, columns that both have, every value as the text that it was.

Optics groups of RELION that are alike in every value are one group; others keep their name and get a number of their
own, or where both lists use the name for different groups, a name of their own. Paths start at the first list's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

from gonio.io.blocks import Block, Star
from gonio.io.errors import FormatError
from gonio.io.paths import moved_columns
from gonio.particle.texts import packed

GENERAL, OPTICS, GROUP, GROUP_NAME = "general", "optics", "rlnOpticsGroup", "rlnOpticsGroupName"


def joined_blocks(first: Block, second: Block) -> Block:
    """Return the rows of both, with the columns that both have in the order of the first."""
    second = second.with_columns(moved_columns(second.columns, second.path.parent, first.path.parent))
    common = [label for label in first.columns if label in second]
    if not common:
        raise FormatError(second.path, f"has no column that {first.path} has", "give lists of one program")
    columns = {label: packed(chain(first.text(label), second.text(label))) for label in common}
    return replace(first, columns=columns, lines=(), is_loop=True)


def joined_stars(first: Star, second: Star, particles: tuple[Block, Block]) -> tuple[Star, Block]:
    """Return two STAR lists as one, and its block of particles.

    Raises
    ------
    FormatError
        If they state different things of all particles, or only one has optics groups.
    """
    one, two = (star.find(GENERAL) for star in (first, second))
    if (None if one is None else dict(one.columns)) != (None if two is None else dict(two.columns)):
        raise FormatError(second.path, f"has another block data_general than {first.path}", "convert one of them")
    optics, groups = _joined_optics(first, second)
    rows = particles[1]
    if groups:
        renumbered = packed(groups.get(group, group) for group in rows.text(GROUP))
        rows = rows.with_columns({GROUP: renumbered})
    made = joined_blocks(particles[0], rows)
    places = {id(particles[0]): made}
    if optics is not None:
        places[id(first.find(OPTICS))] = optics
    blocks = tuple(places.get(id(block), block) for block in first.blocks)
    return replace(first, blocks=blocks), made


def _joined_optics(first: Star, second: Star) -> tuple[Block | None, Mapping[str, str]]:
    """Return the optics groups of both, and the new number of each group of the second by its old one."""
    one, two = first.find(OPTICS), second.find(OPTICS)
    if one is None or two is None:
        if one is not two:
            lacking = first if one is None else second
            raise FormatError(lacking.path, "has no block data_optics, the other list has one", "convert one of them")
        return None, {}
    other = set(one.columns) ^ set(two.columns)
    if other:
        problem = f"has other columns in data_optics than {first.path}: {', '.join(sorted(other))}"
        raise FormatError(second.path, problem, "add the missing ones to the other")
    rows = [dict(zip(one.columns, values, strict=True)) for values in zip(*one.columns.values(), strict=True)]
    known = {_alike(row): row[GROUP] for row in rows}
    highest = int(one.whole(GROUP).max(initial=0))
    groups: dict[str, str] = {}
    for values in zip(*(two.text(label) for label in one.columns), strict=True):
        row = dict(zip(one.columns, values, strict=True))
        same = known.get(_alike(row))
        if same is None:
            highest += 1
            same = str(highest)
            if row.get(GROUP_NAME, "") in {other.get(GROUP_NAME) for other in rows}:
                row[GROUP_NAME] = f"{row[GROUP_NAME]}_{highest}"
            rows.append({**row, GROUP: same})
        groups[dict(zip(one.columns, values, strict=True))[GROUP]] = same
    columns = {label: tuple(row[label] for row in rows) for label in one.columns}
    return replace(one, columns=columns, lines=(), is_loop=True), groups


def _alike(row: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what two equal optics groups have in common: all but the number."""
    return tuple((label, value) for label, value in row.items() if label != GROUP)
