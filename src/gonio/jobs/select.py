"""A part of a particle list, in its own format: ``gonio select``.

A condition is ``COLUMN OP VALUE`` with =, !=, <, <=, > or >=. A column is one of gonio's (``q_value``), a field of
every list (name, tomogram, class, score, half_set, x, y, z in angstrom), or one of the file by its label.
"""

from __future__ import annotations

import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio.jobs.files import write_settings
from gonio.jobs.list_rows import block_of, check_angstrom, check_new_list, labels_of, read_list, read_lists
from gonio.jobs.options import File
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.particle.table import ParticleTable

CONDITION = re.compile(r"\s*(?P<column>[^=!<>]+?)\s*(?P<operation><=|>=|!=|==|=|<|>)\s*(?P<value>.*?)\s*")
COMPARE: Mapping[str, Callable[[Any, Any], NDArray[np.bool_]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
# Of these columns the lowest is the best; of others it must be said.
PLACES = ("x", "y", "z")
NAMES = ("name", "tomogram")
LOWEST_IS_BEST = "dissimilarity"
SHOWN = 12


@dataclass(frozen=True)
class Selected:
    """The particles of a list that were selected, how many there were, and what each step left, in words."""

    table: ParticleTable
    count: int
    steps: tuple[tuple[str, int], ...]
    written: tuple[Path, ...] = ()


@dataclass(frozen=True)
class _Selection:
    """Rows that are left of a list, and how it came to that."""

    table: ParticleTable
    steps: tuple[tuple[str, int], ...] = field(default=())

    def kept(self, step: str, keep: NDArray[np.bool_]) -> _Selection:
        """Return what is left after a step; ArgumentError where that is nothing."""
        if not keep.any():
            raise ArgumentError("{step} leaves no particle of {count}: nothing is written", step=step, count=len(keep))
        table = self.table[keep]
        return _Selection(table, (*self.steps, (step, len(table))))


def select(
    source: File,
    target: File,
    *,
    where: Sequence[str] | None = None,
    classes: Sequence[int] | None = None,
    tomograms: Sequence[str] | None = None,
    max_q: float | None = None,
    max_rotation_sd_deg: float | None = None,
    max_shift_sd_angstrom: float | None = None,
    min_margin: float | None = None,
    within: Sequence[File] | None = None,
    without: Sequence[File] | None = None,
    apart_angstrom: float | None = None,
    lowest: str | None = None,
    highest: str | None = None,
    random: int | None = None,
    pixel_size_angstrom: float | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Selected:
    """Write the particles of a list that fulfil all conditions, in its format, every value as the text that it was.

    In this order: conditions, other lists, neighbours, at random. How it was made is written beside it
    (TARGET.settings.toml).

    Parameters
    ----------
    where
        Conditions ``COLUMN OP VALUE``; with = and != a value may be several, between commas. Names and other texts are
        compared letter by letter, columns of numbers as numbers.
    classes, tomograms
        Only these.
    max_q, max_rotation_sd_deg, max_shift_sd_angstrom, min_margin
        Limits of gonio's columns ``q_value``, ``rotation_sd_deg``, ``shift_sd_angstrom`` and ``runner_up_margin``.
    within, without
        Other lists: only particles that each names, or none that one names.
    apart_angstrom
        Of particles that are nearer to each other than this, keep the better: by the ``lowest`` or the ``highest``
        value of a column, without either by the dissimilarity, where the list has it.
    random
        So many at random, in the order of the list.
    pixel_size_angstrom
        Size of the list's pixels, where it does not state it and distances are wanted; another than it states is
        refused.

    Raises
    ------
    FormatError
        A list that is broken.
    ValueError
        Conditions that do not fit the list or leave nothing, files that are there already.
    """
    from gonio.io.formats import own_format
    from gonio.io.lists import write_rows

    source, target = Path(source), Path(target)
    (table,) = read_lists([source], pixel_size_angstrom)
    own = own_format(table)
    assert own is not None  # it was read
    files = check_new_list(target, own, table, overwrite=overwrite)
    limits = {
        "q_value": ("<=", max_q, "max_q"),
        "rotation_sd_deg": ("<=", max_rotation_sd_deg, "max_rotation_sd_deg"),
        "shift_sd_angstrom": ("<=", max_shift_sd_angstrom, "max_shift_sd_angstrom"),
        "runner_up_margin": (">=", min_margin, "min_margin"),
    }
    left = _Selection(table)
    for condition in where or ():
        left = _where(left, condition)
    for argument, label, values in (("classes", "class", classes), ("tomograms", "tomogram", tomograms)):
        if values:
            left = _one_of(left, label, list(map(str, values)), argument)
    left = _within_lists(_within_limits(left, limits), within or (), without or ())
    if apart_angstrom is not None:
        left = left.kept(f"at least {apart_angstrom:g} A apart", _apart(left.table, apart_angstrom, lowest, highest))
    elif lowest or highest:
        raise ArgumentError("{} needs {}", "lowest" if lowest else "highest", "apart_angstrom")
    if random is not None:
        left = left.kept(f"{random} at random", _random(len(left.table), random, seed))
    target.parent.mkdir(parents=True, exist_ok=True)
    written = write_rows(target, left.table)
    settings = {
        "source": source,
        "where": list(where or ()),
        "classes": list(classes or ()),
        "tomograms": list(tomograms or ()),
        **{argument: limit for _, limit, argument in limits.values()},
        "within": list(map(str, within or ())),
        "without": list(map(str, without or ())),
        "apart_angstrom": apart_angstrom,
        "lowest": lowest,
        "highest": highest,
        "random": random,
        "pixel_size_angstrom": pixel_size_angstrom,
    }
    others = [Path(path) for path in (*(within or ()), *(without or ()))]
    write_settings(files[-1], settings, seed=seed, inputs=[*table.files, *others])
    return Selected(left.table, len(table), left.steps, written)


def _within_limits(left: _Selection, limits: Mapping[str, tuple[str, float | None, str]]) -> _Selection:
    """Keep what is within limits of columns, each an operation, a value or None, and the option that gives it."""
    for label, (operation, limit, argument) in limits.items():
        if limit is not None:
            left = left.kept(f"{label}{operation}{limit:g}", _limited(left.table, label, operation, limit, argument))
    return left


def _within_lists(left: _Selection, within: Sequence[File], without: Sequence[File]) -> _Selection:
    """Keep what each of some lists names, and none of others."""
    for paths, wanted in ((within, True), (without, False)):
        for path in paths:
            listed = np.isin(np.array(left.table.names), np.array(read_list(Path(path), None).names))
            left = left.kept(f"{'in' if wanted else 'not in'} {path}", listed == wanted)
    return left


def _values(table: ParticleTable, label: str) -> NDArray[Any] | None:
    """Return a column, a field or a column of the file, by its name; None where there is none."""
    places = table.places_angstrom
    if label in PLACES and places is not None and table.lengths == "pixels":
        _refuse_pixels(table, label)
    fields: dict[str, object] = {
        "name": table.names,
        "tomogram": table.tomograms,
        "class": table.classes,
        "score": table.scores,
        "half_set": table.half_sets,
        **{axis: None if places is None else places[:, i] for i, axis in enumerate(PLACES)},
    }
    for found in (table.columns.get(label), table.extras.get(label), fields.get(label), _of_file(table, label)):
        if found is not None:
            return np.asarray(found) if isinstance(found, np.ndarray) else np.array(tuple(found))  # type: ignore[arg-type]
    return None


def _refuse_pixels(table: ParticleTable, label: str) -> None:
    """Raise ArgumentError for x, y or z, which are angstrom, of a list that counts in pixels of unknown size."""
    if label in table.columns or label in table.extras:
        return
    own = ", ".join(one for one in labels_of(table) if re.search(rf"coord.*{label}", one, re.IGNORECASE))
    what = (
        "{label} is in angstrom, and {path} counts in pixels of unknown size: give {}, or compare a column of its own"
    )
    own = f" ({own})" if own else ""
    raise ArgumentError(f"{what}{{own}}", "pixel_size_angstrom", label=label, path=table.files[0], own=own)


def _of_file(table: ParticleTable, label: str) -> Sequence[str] | None:
    """Return a column of the list as it stands in the file, by its own label there."""
    block = block_of(table)
    return block.take(np.asarray(table.rows)).text(label) if block is not None and label in block else None


def _column(table: ParticleTable, label: str) -> NDArray[Any]:
    from gonio.io.text import own_name

    found = _values(table, label)
    if found is None and label.startswith("gonio"):
        found = _values(table, own_name(label))
    if found is None:
        known = [*table.columns, *table.extras, *labels_of(table)]
        raise ArgumentError(
            "{path} has no column {label}: it has name, tomogram{known}",
            path=table.files[0],
            label=label,
            known="".join(f", {one}" for one in dict.fromkeys(known)),
        )
    return found


def _numbers(table: ParticleTable, label: str) -> NDArray[np.float64]:
    """Return a column as numbers, NaN for what is none; ArgumentError where none is a number."""
    values = _column(table, label)
    if values.dtype.kind in "fiub":
        return values.astype(np.float64)
    from gonio.io.text import float_or

    numbers = np.array([float_or(str(value), np.nan) for value in values])
    if np.isnan(numbers).all():
        raise ArgumentError("column {label} holds no numbers: compare it with =", label=label)
    return numbers


def _limited(
    table: ParticleTable, label: str, operation: str, limit: float, argument: str | None = None
) -> NDArray[np.bool_]:
    if argument is not None and _values(table, label) is None:
        raise ArgumentError("{} needs a column {label}, which {path} lacks", argument, label=label, path=table.files[0])
    numbers = _numbers(table, label)
    lost = int(np.isnan(numbers).sum())
    if lost:
        warnings.warn(f"{label} is no number for {lost} of {len(numbers)} particles: they are left out", stacklevel=4)
    return np.asarray(COMPARE[operation](numbers, limit))


def _where(left: _Selection, condition: str) -> _Selection:
    from gonio.io.text import float_or

    found = CONDITION.fullmatch(condition)
    if found is None:
        raise ArgumentError("{} must be COLUMN OP VALUE, such as 'q_value<=0.05', got {got!r}", "where", got=condition)
    label, operation, value = found["column"], found["operation"], found["value"]
    if operation in COMPARE:
        limit = float_or(value, None)
        if limit is None:
            raise ArgumentError("{} {got!r} compares with what is no number", "where", got=condition)
        return left.kept(condition, _limited(left.table, label, operation, limit))
    return _one_of(left, label, [word.strip() for word in value.split(",")], None, but=operation == "!=")


def _one_of(
    left: _Selection, label: str, words: Sequence[str], argument: str | None, *, but: bool = False
) -> _Selection:
    """Keep particles whose value is one of some words, or none of them; columns of numbers as numbers."""
    from gonio.io.text import float_or

    if argument is not None and _values(left.table, label) is None:
        path = left.table.files[0]
        raise ArgumentError("{} needs a column {label}, which {path} lacks", argument, label=label, path=path)
    values = _column(left.table, label)
    texts = None if values.dtype.kind in "fiub" else list(map(str, values))
    if texts is None or _are_numbers(label, texts):
        keys = values.tolist() if texts is None else [float_or(text, text) for text in texts]
        wanted = [float_or(word, word) for word in words]
    else:
        keys, wanted = texts, list(words)
    sought, found = set(wanted), set(keys)
    same = np.array([key in sought for key in keys])
    kept = left.kept(f"{label}{'!=' if but else '='}{','.join(words)}", same != but)
    unseen = [word for word, key in zip(words, wanted, strict=True) if key not in found]
    if unseen:
        warnings.warn(f"no particle has {label} {', '.join(unseen)}", stacklevel=3)
    return kept


def _are_numbers(label: str, texts: Sequence[str]) -> bool:
    """Return whether a column of texts holds numbers, besides blanks: names are none, even if all have digits alone."""
    from gonio.io.text import is_number

    if label in NAMES or label.endswith("Name"):
        return False
    filled = [text for text in texts if text]
    return bool(filled) and all(map(is_number, filled))


def _apart(table: ParticleTable, distance: float, lowest: str | None, highest: str | None) -> NDArray[np.bool_]:
    from gonio.particle.half_sets import duplicates

    if not (np.isfinite(distance) and distance > 0):
        raise ArgumentError("{} must be a positive number, got {got!r}", "apart_angstrom", got=distance)
    if lowest and highest:
        raise ArgumentError("{} and {} exclude each other: give one", "lowest", "highest")
    if not (lowest or highest) and _values(table, LOWEST_IS_BEST) is None:
        what = "which of two neighbours is the better? the list has no dissimilarity: give {} COLUMN or {} COLUMN"
        raise ArgumentError(what, "lowest", "highest")
    if table.places_angstrom is None:
        raise ArgumentError("{} needs positions, which {path} does not state", "apart_angstrom", path=table.files[0])
    check_angstrom(table)
    worth = -_numbers(table, highest) if highest else _numbers(table, lowest or LOWEST_IS_BEST)
    found = duplicates(table.tomograms, table.places_angstrom, distance_angstrom=distance, dissimilarity=worth)
    keep = np.ones(len(table), dtype=bool)
    keep[[one.row for one in found]] = False
    return keep


def _random(count: int, wanted: int, seed: int) -> NDArray[np.bool_]:
    if not 1 <= wanted <= count:
        raise ArgumentError("{} must lie between 1 and {count}, got {got!r}", "random", count=count, got=wanted)
    keep = np.zeros(count, dtype=bool)
    keep[np.random.default_rng(seed).choice(count, wanted, replace=False)] = True
    return keep
