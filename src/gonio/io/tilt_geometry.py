"""A changed geometry of tilts, written back in the files that it was read from: RELION's, and IMOD's.

Owns the inverse of ``gonio.io.tilts`` and ``gonio.io.aligned_series``. Values that have not changed are written as the
text that they were. With c the tomogram's centre, rows R of a projection become R', and in matrices that count from the
corner

    W' = W + (R - R') c + d         d the change of shift, in pixels

so that the centre stays where it is but for d. Deformations of the field are in columns of gonio's own. IMOD's
D = A (P h - h' - s) undoes what ``xf_series`` does, h and h' its half pixels. Inputs are never overwritten: the caller
names new files.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, read_star, write_star
from gonio.io.errors import FormatError, replacing
from gonio.io.paths import moved_columns
from gonio.io.source import StarSource
from gonio.io.tilt_stacks import FOLDER, cut_columns, row_text
from gonio.io.tilts import (
    ANGLES,
    CUT,
    CUT_DEFOCUS,
    CUT_SCALE,
    DEFOCUS,
    DEFORMED_SINCE_CUT,
    PIXEL,
    SCALE,
    SHIFTS,
    SIZES,
    DefocusHand,
    matrix_rows,
    read_tilt_series,
    tilt_block,
)
from gonio.particle.table import ParticleTable
from gonio.particle.tilt_change import TiltChange, full_projections
from gonio.particle.tilt_series import TiltSeries

_MATRICES = ("rlnTomoProjX", "rlnTomoProjY", "rlnTomoProjZ")
_SERIES_FILE, _IMAGES = "rlnTomoTiltSeriesStarFile", "rlnMicrographName"
# Numbers that differ by less are written as the text that they were: half of the last decimal that is written.
_ROUNDING = 5e-7
# Rotations across the tilt axis that IMOD's files leave out without a word, degrees.
_NEGLIGIBLE_PITCH_DEG = 0.01


def rewrite_tomograms(path: Path, source: Path) -> tuple[Path, ...]:
    """Write a copy of tomograms.star and its tilt series for stacks that are cut with the geometry that it states.

    Raises
    ------
    FormatError
        If a file is missing or broken, or cannot be written.
    """
    outdated = (*CUT, CUT_DEFOCUS, CUT_SCALE, DEFORMED_SINCE_CUT)
    return _rewritten(path, source, lambda _, tilts, __: tilts.without([one for one in outdated if one in tilts]))


def write_changed_tomograms(
    path: Path,
    source: Path,
    changes: Mapping[str, TiltChange],
    *,
    defocus_hand: DefocusHand | None = None,
) -> tuple[Path, ...]:
    """Write tomograms.star and its tilt series with changed geometry; everything else as it was, token for token.

    Parameters
    ----------
    path
        The new tomograms.star; the files of its series are written into ``tilt_series`` beside it, blocks of the list
        itself into the list.
    source
        The one that was read.
    changes
        Of each tomogram that changes.

    Returns
    -------
    The files written.

    Raises
    ------
    FormatError
        If a file is missing or broken or cannot be written, or does not state what a change needs.
    ValueError
        If a change has another number of tilts than its series.
    """
    star = read_star(source)
    unknown = changes.keys() - set(_names(star))
    if unknown:
        raise FormatError(source, f"has no tomogram {min(unknown)!r}", "give the tomograms file that was refined")

    def changed(name: str, tilts: Block, row: Block) -> Block:
        if name not in changes:
            return tilts
        before = read_tilt_series(star, name, defocus_hand=defocus_hand)
        return tilts.with_columns(_changed_columns(tilts, row, before, changes[name]))

    return _rewritten(path, source, changed)


def write_changed_series(folder: Path, table: ParticleTable, changes: Mapping[str, TiltChange]) -> Path:
    """Write the tomograms.star of a list, and its tilt series, with changed geometry into a folder.

    Returns
    -------
    The new tomograms.star.

    Raises
    ------
    ValueError
        For lists whose tilt series are in no such file, or in two.
    FormatError
        As ``write_changed_tomograms``.
    """
    source = table.source
    if not isinstance(source, StarSource) or source.tomograms_path is None:
        raise ValueError(
            "these tilt series are in no one tomograms.star, as those of lists that were joined: write each list's own"
        )
    folder.mkdir(exist_ok=True)
    path, hand = folder / "tomograms.star", source.options.defocus_hand
    return write_changed_tomograms(path, source.tomograms_path, changes, defocus_hand=hand)[0]


def _names(star: Star) -> Sequence[str]:
    overview = star.find("global")
    if overview is None:
        raise FormatError(star.path, "has no block data_global", "give tomograms.star")
    return overview.text("rlnTomoName")


def _rewritten(path: Path, source: Path, edit: Callable[[str, Block, Block], Block]) -> tuple[Path, ...]:
    """Write every series, edited, and the list that names their files; nothing is written where one is broken."""
    if path.resolve() == source.resolve():
        raise FormatError(path, "is what was read", "give another folder: inputs are not overwritten")
    star, edited = read_star(source), {}
    files: dict[Path, Star] = {}
    named: dict[str, str] = {}
    for name in _names(star):
        tilts, row = tilt_block(star, name)
        new = _moved(edit(name, tilts, row), source, path)
        edited[tilts.name] = new
        if tilts.path.resolve() == source.resolve():
            continue
        file = _new_file(path, tilts.path, name, files)
        of_file = read_star(tilts.path)
        files[file] = replace(of_file, path=file, blocks=_replaced(of_file, {tilts.name: new}))
        named[name] = f"{FOLDER}/{file.name}"
    overview = star.find("global")
    assert overview is not None
    for file, one in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        write_star(file, one)
    blocks = _replaced(star, {**edited, "global": _overview(overview, named, source, path)})
    write_star(path, replace(star, path=path, blocks=blocks))
    return (path, *files)


def _replaced(star: Star, new: Mapping[str, Block]) -> tuple[Block, ...]:
    return tuple(new.get(block.name, block) for block in star.blocks)


def _new_file(path: Path, old: Path, name: str, taken: Collection[Path]) -> Path:
    """Return the file of a series beside a new list: of its old name, unless that is taken or the old file itself."""
    for stem in (old.stem, name.replace("/", "_"), f"{old.stem}_changed"):
        file = path.parent / FOLDER / f"{stem}.star"
        if file not in taken and file.resolve() != old.resolve():
            return file
    raise FormatError(path, f"cannot name a new file for {old}", "give another folder")


def _overview(block: Block, named: Mapping[str, str], source: Path, path: Path) -> Block:
    moved = _moved(block, source, path)
    if not named:
        return moved
    old = zip(block.text("rlnTomoName"), block.text(_SERIES_FILE), strict=True)
    return moved.with_columns({_SERIES_FILE: tuple(named.get(name, token) for name, token in old)})


def _moved(block: Block, source: Path, path: Path) -> Block:
    """Return a block whose paths, which start at the folder of the list of tomograms, also hold from the new list's."""
    folders = [source.parent, block.path.parent]
    first = next(iter(block.columns.get(_IMAGES, ())), "").rpartition("@")[2]
    old = next((folder for folder in folders if first and (folder / first).is_file()), folders[0])
    columns = {label: values for label, values in block.columns.items() if label != _SERIES_FILE}
    return block.with_columns(moved_columns(columns, old, path.parent))


# Columns of a change


def _changed_columns(tilts: Block, row: Block, before: TiltSeries, change: TiltChange) -> dict[str, Sequence[str]]:
    """Return the columns of a tilt series that a change gives new values."""
    after = change.applied(before)
    columns: dict[str, Sequence[str]] = {}
    if _MATRICES[0] in tilts:
        columns |= _matrices(tilts, row, before, after, change)
    else:
        columns |= _angles(tilts, before, after, change)
    if after.defocus is not None and before.defocus is not None:
        columns |= _texts(tilts, DEFOCUS, before.defocus, after.defocus)
    if change.scale is not None and after.scale is not None:
        columns |= _texts(
            tilts, (SCALE,), None if before.scale is None else before.scale[:, None], after.scale[:, None]
        )
    return columns | cut_columns(after)


def _angles(tilts: Block, before: TiltSeries, after: TiltSeries, change: TiltChange) -> dict[str, Sequence[str]]:
    if ANGLES[1] not in tilts:
        problem = f"block data_{tilts.name} has neither projections nor rlnTomoYTilt: it was not aligned"
        raise FormatError(tilts.path, problem, "align the tilt series first")
    stated = np.stack([tilts.numbers(one) if one in tilts else np.zeros(len(tilts)) for one in ANGLES], axis=1)
    new = Rotation.from_matrix(full_projections(after)).as_euler("xyz", degrees=True, suppress_warnings=True)
    turned = np.abs(change.rotation_deg).max(axis=1) > 0  # an angle has other values of the same rotation
    new[~turned] = stated[~turned]
    shifts = np.zeros((len(tilts), 2)) if before.shifts_angstrom is None else before.shifts_angstrom
    known = None if before.shifts_angstrom is None else shifts
    return {**_texts(tilts, ANGLES, stated, new), **_texts(tilts, SHIFTS, known, shifts + change.shift_angstrom)}


def _matrices(
    tilts: Block, row: Block, before: TiltSeries, after: TiltSeries, change: TiltChange
) -> dict[str, Sequence[str]]:
    if before.centre_angstrom is None:
        problem = f"does not state pixel size ({PIXEL}) and size ({', '.join(SIZES)}) of {tilts.name!r}"
        raise FormatError(row.path, problem, "add the columns: projections about the centre need them")
    size = float(row.numbers(PIXEL)[0])
    old, new = full_projections(before), full_projections(after)
    moved = ((old - new) @ before.centre_angstrom) / size  # (t, 3)
    moved[:, :2] += change.shift_angstrom / size
    columns: dict[str, Sequence[str]] = {}
    for axis, label in enumerate(_MATRICES):
        if label not in tilts:
            continue
        stated = matrix_rows(tilts, label, 4)
        values = np.concatenate([new[:, axis], (stated[:, 3] + moved[:, axis])[:, None]], axis=1)  # (t, 4)
        same = np.abs(values - stated).max(axis=1) < 1e-9
        columns[label] = tuple(
            token if kept else row_text(one) for token, kept, one in zip(tilts.text(label), same, values, strict=True)
        )
    return columns


def _texts(
    tilts: Block, labels: Sequence[str], old: NDArray[np.float64] | None, new: NDArray[np.float64]
) -> dict[str, Sequence[str]]:
    """Return columns of numbers (t, labels), with the old text where the number is the same."""
    columns: dict[str, Sequence[str]] = {}
    for index, label in enumerate(labels):
        values = new[:, index]
        if label in tilts and old is not None:
            same = np.abs(values - old[:, index]) < _ROUNDING
            texts = zip(tilts.text(label), same, values.tolist(), strict=True)
            columns[label] = tuple(token if kept else f"{value:.6f}" for token, kept, value in texts)
        elif np.abs(values).max() >= _ROUNDING or label in tilts:
            columns[label] = tuple(f"{value:.6f}" for value in values.tolist())
    return columns


# IMOD


def write_xf(stem: Path, series: TiltSeries, *, shape_yx: Sequence[int], pixel_size: float) -> tuple[Path, Path]:
    """Write a series as IMOD's STEM.xf and STEM.tlt, new files.

    Parameters
    ----------
    stem
        Path without an ending.
    shape_yx, pixel_size
        Shape of the tilt images and size of their pixels, angstrom.

    Raises
    ------
    FormatError
        If a file is there, or cannot be written.
    """
    files = (stem.with_name(stem.name + ".xf"), stem.with_name(stem.name + ".tlt"))
    for file in files:
        if file.exists():
            raise FormatError(file, "exists", "give another folder: inputs are not overwritten")
    if series.shifts_angstrom is None:
        raise FormatError(series.path, "does not state the shifts of its images", "align the tilt series")
    pitch, tilts, turns = Rotation.from_matrix(full_projections(series)).as_euler("xyz", degrees=True).T
    if np.abs(pitch).max() > _NEGLIGIBLE_PITCH_DEG:
        warnings.warn(
            f"{files[0]}: rotations across the tilt axis, up to {np.abs(pitch).max():.2f} degrees, have no place in"
            " IMOD's files and are left out",
            RuntimeWarning,
            stacklevel=2,
        )
    if series.deformation is not None:
        warnings.warn(
            f"{files[0]}: the deformation of the field has no place in IMOD's files and is left out",
            RuntimeWarning,
            stacklevel=2,
        )
    back = Rotation.from_euler("z", -turns[:, None], degrees=True).as_matrix()[:, :2, :2]  # A
    tilted = Rotation.from_euler("yz", np.stack([tilts, turns], axis=1), degrees=True).as_matrix()[:, :2]
    half = 0.5 * pixel_size
    from_pixel = half * (1 - np.array(shape_yx[::-1]) % 2)
    wanted = tilted @ np.full(3, half) - from_pixel - series.shifts_angstrom
    moves = (back @ wanted[:, :, None])[..., 0] / pixel_size
    rows = np.concatenate([back.reshape(-1, 4), moves], axis=1)  # (t, 6)
    lines = ["".join([*(f"{v:12.7f}" for v in row[:4]), *(f"{v:12.3f}" for v in row[4:])]) for row in rows.tolist()]
    for file, text in zip(files, ("\n".join(lines), "\n".join(f"{t:9.4f}" for t in tilts.tolist())), strict=True):
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return files
