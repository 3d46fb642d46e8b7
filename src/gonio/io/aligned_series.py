"""Aligned tilt series with their images: where a place in a tomogram lies in each image, and the images to cut from.

Owns how each program states that:

    RELION 5      tomograms.star; the tilt series' rlnMicrographName names the images, NUMBER@STACK or one file each.
                  The centre of an image is its pixel n // 2 (src/jaz/tomography/tomogram.cpp: setProjectionMatrix)
    RELION 4      its matrices count pixels from the corner of the tomogram to the corner of the image
    IMOD          a stack with .xf and .tlt beside it, and .mdoc for the dose. A row A11 A12 A21 A22 DX DY of .xf moves
                  an image, X' = A (X - c) + D + c, to where the tilt axis is y; c, and the centre of the tomogram, lie
                  half a pixel before pixel n // 2 of an even image (man newstack, man tilt)
    AreTomo       .aln: ROT, the tilt axis from y counter-clockwise; TX, TY, where the centre lies in the image; TILT

With an axis-aligned image X' = (Ry(tilt) p) the image itself shows p at A^-1 X' - A^-1 D from c: P = A^-1 Ry(tilt) and
s = -A^-1 D, up to the half pixels.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from gonio.io.blocks import Block, Star, read_star
from gonio.io.errors import FormatError, locate, reading
from gonio.io.names import match, stem
from gonio.io.text import plain_float
from gonio.io.tilt_files import read_tilts
from gonio.io.tilts import PIXEL, SIZES, matrix_offsets, read_tilt_series, tilt_block
from gonio.io.tomogram import Tomogram, open_images
from gonio.particle.tilt_series import TiltSeries
from gonio.particle.volume import VOXEL_SIZE_TOLERANCE, same_size

_STACKS = re.compile(r"\.(st|mrc|mrcs|ali)$", re.IGNORECASE)
_LOCAL = "# Local Alignment"
_ALN_COLUMNS = ("SEC", "ROT", "GMAG", "TX", "TY", "SMEAN", "SFIT", "SCALE", "BASE", "TILT")


@dataclass(frozen=True)
class AlignedSeries:
    """A tilt series and its images.

    Parameters
    ----------
    series
        Its geometry, with the shifts of its images.
    images
        File and section, from 0, of each image.
    pixel_size_angstrom
        Pixel size of the images.
    size_px
        Size of the tomogram in these pixels, xyz; None where nothing states it.
    tomograms_path
        The tomograms.star that it was read from, or None.
    """

    series: TiltSeries
    images: tuple[tuple[Tomogram, int], ...]
    pixel_size_angstrom: float
    size_px: tuple[int, int, int] | None = None
    tomograms_path: Path | None = None

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Shape of the images."""
        return self.images[0][0].shape_zyx[1:]

    def cut(self, tilt: int, low_yx: Sequence[int], high_yx: Sequence[int]) -> NDArray[np.float32]:
        """Return the pixels of an image from low up to high, which lie inside."""
        stack, section = self.images[tilt]
        return stack.cut((section, *low_yx), (section + 1, *high_yx))[0]

    def position_yx(self, place_angstrom: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where a place from the tomogram's centre lies in each image, pixels from the first, (t, 2)."""
        centre = np.array(self.shape_yx[::-1]) // 2
        return (self.series.positions_angstrom(place_angstrom) / self.pixel_size_angstrom + centre)[:, ::-1]


def open_aligned(
    paths: Sequence[Path],
    names: Sequence[str],
    *,
    pixel_size_angstrom: float | None = None,
    size_px: tuple[int, int, int] | None = None,
    permissive: bool = False,
) -> dict[str, AlignedSeries]:
    """Open the tilt series of tomograms by their names.

    Parameters
    ----------
    paths
        One tomograms.star; or IMOD's stacks, or folders of them, which tomograms find by name.
    names
        Names of the tomograms.
    pixel_size_angstrom
        For stacks in place of what their headers state; for tomograms.star where it does not state it.
    size_px
        Size of every tomogram in pixels of the tilt series, xyz, where no file states it.
    permissive
        Read MRC files with broken headers.

    Raises
    ------
    FormatError
        A file is missing or broken, does not state what is needed, or states something else than what is given.
    """
    if len(paths) == 1 and paths[0].suffix.lower() == ".star":
        star = read_star(paths[0])
        return {name: _of_relion(star, name, pixel_size_angstrom, size_px, permissive=permissive) for name in names}
    files = [file for path in paths for file in (_stacks_in(path) if path.is_dir() else [path])]
    found = match(tuple(names), tuple(map(str, files)))
    return {name: _of_imod(Path(found[name]), pixel_size_angstrom, size_px, permissive=permissive) for name in names}


# RELION


def _of_relion(
    star: Star, name: str, pixel_size: float | None, size_px: tuple[int, int, int] | None, *, permissive: bool
) -> AlignedSeries:
    series, tilts, row = read_tilt_series(star, name), *tilt_block(star, name)
    size, stated = _relion_pixel(star, name, row, pixel_size), _relion_size(row)
    if size_px is not None and stated is not None and size_px != stated:
        problem = f"states the size of {name!r}, {' x '.join(map(str, stated))} pixels (x, y, z)"
        raise FormatError(star.path, problem, "leave out --tomogram-size, or correct the file")
    images = _relion_images(star, tilts, size, permissive=permissive)
    offsets = matrix_offsets(tilts)
    if offsets is not None:
        if series.centre_angstrom is None:
            problem = f"does not state the size of {name!r} (rlnTomoSizeX, Y, Z), which its projections need"
            raise FormatError(star.path, problem, "add the columns")
        centre_px = np.array(images[0][0].shape_zyx[:0:-1]) // 2
        seen = offsets * size + series.projections_xyz @ series.centre_angstrom - centre_px * size
        series = replace(series, shifts_angstrom=seen)
    if series.shifts_angstrom is None:
        problem = f"block data_{tilts.name} does not state the shifts of its images (rlnTomoXShiftAngst, YShiftAngst)"
        raise FormatError(tilts.path, problem, "align the tilt series first")
    # Stacks that are cut now are cut with this geometry.
    now = replace(
        series, cut_projections_xyz=None, cut_defocus=None, cut_scale=None, shift_since_cut_angstrom=None,
        deformation_since_cut=None,
    )  # fmt: skip
    return AlignedSeries(now, images, size, stated or size_px, star.path)


def _relion_pixel(star: Star, name: str, row: Block, given: float | None) -> float:
    """Return the pixel size of a tilt series; an error where none is known, or another is given than is stated."""
    if PIXEL not in row:
        if given is None:
            raise FormatError(star.path, f"does not state {PIXEL} of {name!r}", "pass --voxel-size ANGSTROM")
        return given
    stated = float(row.numbers(PIXEL)[0])
    if given is not None and not same_size(given, stated, tolerance=VOXEL_SIZE_TOLERANCE):
        problem = f"states pixels of {stated:g} angstrom for {name!r}, --voxel-size {given:g}"
        raise FormatError(star.path, problem, "leave out --voxel-size, or correct the file")
    return stated


def _relion_size(row: Block) -> tuple[int, int, int] | None:
    try:
        x, y, z = (int(float(row.text(label)[0])) for label in SIZES)
    except (ValueError, FormatError):
        return None  # not set
    return (x, y, z) if min(x, y, z) >= 1 else None


def _relion_images(star: Star, tilts: Block, size: float, *, permissive: bool) -> tuple[tuple[Tomogram, int], ...]:
    opened: dict[Path, Tomogram] = {}
    images = []
    for index, token in enumerate(tilts.text("rlnMicrographName")):
        number, at, name = token.rpartition("@")
        path = next((p for f in (star.path.parent, tilts.path.parent) if (p := locate(name, f)) is not None), None)
        if path is None:
            problem = f"rlnMicrographName of row {index + 1}, {name}, is not there"
            raise FormatError(tilts.path, problem, "run from the folder that RELION ran in")
        if path not in opened:
            opened[path] = open_images(path, pixel_size_angstrom=size, permissive=permissive)
        section = int(number) - 1 if at and number.isdigit() else 0
        if not 0 <= section < opened[path].shape_zyx[0]:
            problem = f"rlnMicrographName of row {index + 1} is {token!r}, of {opened[path].shape_zyx[0]} images"
            raise FormatError(tilts.path, problem, "correct the value")
        images.append((opened[path], section))
    _check_alike([image for image, _ in images])
    return tuple(images)


def _check_alike(images: Sequence[Tomogram]) -> None:
    for image in images:
        if image.shape_zyx[1:] != images[0].shape_zyx[1:]:
            problem = (
                f"holds images of {image.shape_zyx[1:]} pixels (y, x), {images[0].path} of {images[0].shape_zyx[1:]}"
            )
            raise FormatError(image.path, problem, "give images of one size")


# IMOD and AreTomo


def _stacks_in(folder: Path) -> list[Path]:
    found = [file for file in sorted(folder.iterdir()) if _STACKS.search(file.name) and _alignment(file) is not None]
    if not found:
        raise FormatError(
            folder, "has no stack (.st, .mrc) with its .xf or .aln beside it", "give the stacks themselves"
        )
    return found


def _alignment(stack: Path) -> Path | None:
    beside = (stack.with_suffix(ending) for ending in (".xf", ".aln"))
    return next((path for path in beside if path.is_file()), None)


def _of_imod(
    path: Path, pixel_size: float | None, size_px: tuple[int, int, int] | None, *, permissive: bool
) -> AlignedSeries:
    alignment = _alignment(path)
    if alignment is None:
        raise FormatError(path, "has neither .xf nor .aln beside it", "align the tilt series, or give tomograms.star")
    images = open_images(path, pixel_size_angstrom=pixel_size, permissive=permissive)
    size, count = images.voxel_size_angstrom, images.shape_zyx[0]
    if size <= 0:
        raise FormatError(path, "does not state its pixel size", "pass --voxel-size ANGSTROM")
    if alignment.suffix == ".aln":
        sections, matrices, shifts, tilts = read_aln(alignment)
    else:
        matrices, shifts = read_xf(alignment)
        sections, tilts = np.arange(count), _tilts_beside(path, count)
    if len(matrices) != len(sections) or sections.max() >= count:
        problem = f"has {len(matrices)} rows for sections up to {sections.max() + 1}, {path.name} has {count} images"
        raise FormatError(alignment, problem, "give the alignment of this stack")
    series = xf_series(alignment, matrices, shifts * size, tilts, shape_yx=images.shape_zyx[1:], pixel_size=size)
    dose = _dose_beside(path, count)
    series = replace(series, dose=None if dose is None else dose[sections])
    return AlignedSeries(series, tuple((images, int(section)) for section in sections), size, size_px)


def xf_series(
    path: Path,
    matrices: NDArray[np.float64],
    moves_angstrom: NDArray[np.float64],
    tilts_deg: NDArray[np.float64],
    *,
    shape_yx: Sequence[int],
    pixel_size: float,
) -> TiltSeries:
    """Return the series of IMOD's transforms X' = A (X - c) + D + c and tilt angles.

    Parameters
    ----------
    matrices, moves_angstrom
        A, shape (t, 2, 2), and D, shape (t, 2).
    """
    back = np.linalg.inv(matrices)  # (t, 2, 2)
    scale = np.sqrt(np.abs(np.linalg.det(back)))
    if (np.abs(scale - 1.0) > 0.02).any():  # those of a TiltStack
        raise FormatError(path, f"magnifies images by up to {scale.max():.3f}", "align without magnification")
    tilted = Rotation.from_euler("y", np.asarray(tilts_deg)[:, None], degrees=True).as_matrix()[:, :2]  # (t, 2, 3)
    projections = back / scale[:, None, None] @ tilted
    # The tomogram's centre and the image's lie half a pixel before n / 2 and, where that is even, n // 2.
    half = 0.5 * pixel_size
    from_pixel = half * (1 - np.array(shape_yx[::-1]) % 2)
    shifts = -(back @ moves_angstrom[:, :, None])[..., 0] + projections @ np.full(3, half) - from_pixel
    return TiltSeries(path, projections, shifts_angstrom=shifts)


def read_xf(path: Path) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return A, (t, 2, 2), and D in pixels, (t, 2), of the rows of a file of transforms.

    Raises
    ------
    FormatError
        Missing, empty, or a row is not six numbers.
    """
    rows = _numbers(path, 6, "A11 A12 A21 A22 DX DY")
    return rows[:, :4].reshape(-1, 2, 2), rows[:, 4:]


def read_aln(
    path: Path,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return sections from 0, A, D in pixels and tilt angles of an AreTomo alignment, as those of IMOD.

    Raises
    ------
    FormatError
        Missing, empty, or a row is not that of a global alignment.
    """
    rows = _numbers(path, len(_ALN_COLUMNS), " ".join(_ALN_COLUMNS))
    rotation = np.radians(rows[:, 1])
    cosine, sine = np.cos(rotation), np.sin(rotation)
    matrices = np.stack([cosine, sine, -sine, cosine], axis=1).reshape(-1, 2, 2)  # rotates by -ROT
    moves = -(matrices @ rows[:, 3:5, None])[..., 0]
    return np.round(rows[:, 0]).astype(np.int64), matrices, moves, rows[:, 9]


def _numbers(path: Path, count: int, wanted: str) -> NDArray[np.float64]:
    with reading(path, "align the tilt series again"):
        text, _, local = path.read_text(encoding="utf-8").partition(_LOCAL)
    if local.strip():
        warnings.warn(
            f"{path}: the local alignment is left out: particles are cut where the global one has them",
            RuntimeWarning,
            stacklevel=4,
        )
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            values = [plain_float(word) for word in words]
        except ValueError:
            values = []
        if len(values) != count or not np.isfinite(values).all():
            raise FormatError(path, f"line {number} is {line.strip()!r}, not {wanted}", "align the tilt series again")
        rows.append(values)
    if not rows:
        raise FormatError(path, "holds no alignment", "align the tilt series again")
    return np.array(rows)


def _tilts_beside(stack: Path, count: int) -> NDArray[np.float64]:
    found = next((p for e in (".tlt", ".rawtlt") if (p := stack.with_suffix(e)).is_file()), None)
    if found is None:
        raise FormatError(stack, "has no .tlt beside it", "write its tilt angles, one a line")
    tilts = next(iter(read_tilts(found).values())).tilts_deg
    if len(tilts) != count:
        raise FormatError(
            found, f"lists {len(tilts)} tilts, {stack.name} has {count} images", "give those of this stack"
        )
    return tilts


def _dose_beside(stack: Path, count: int) -> NDArray[np.float64] | None:
    names = (stack.with_suffix(".mdoc"), stack.with_name(stack.name + ".mdoc"))
    found = next((path for path in names if path.is_file()), None)
    if found is None:
        return None
    series = read_tilts(found).get(stem(found.name)) or next(iter(read_tilts(found).values()))
    if len(series) != count:
        raise FormatError(
            found, f"lists {len(series)} tilts, {stack.name} has {count} images", "give that of this stack"
        )
    return series.dose
