"""STOPGAP's motive lists (and wedge lists): STAR files with a data block of their own.

With phi, the and psi in degrees and (x_shift, y_shift, z_shift), (orig_x, orig_y, orig_z) in pixels, the first voxel
being 1:

    R = Rz(psi) Rx(the) Rz(phi)          position = (orig_x, orig_y, orig_z) + (x_shift, y_shift, z_shift)
    from RELION's angles: (phi, the, psi) = (-90 - rot, -tilt, 90 - psi)

STOPGAP sg_toolbox/sg_euler2matrix.m, sg_get_motl_fields.m. The wedge list gives tilt angles, about y, by tomogram.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from gonio.io.blocks import Star, read_star, write_star
from gonio.io.errors import FormatError, reading
from gonio.io.source import ReadOptions
from gonio.io.star_columns import Layout, block_of, table_of, write_documents
from gonio.io.subtomograms import ListSource, numbered_images
from gonio.particle.table import ParticleTable

MOTIVE_LIST, WEDGE_LIST = "stopgap_motivelist", "stopgap_wedgelist"
COLUMNS = (
    *("motl_idx", "tomo_num", "object", "subtomo_num", "halfset", "orig_x", "orig_y", "orig_z", "score"),
    *("x_shift", "y_shift", "z_shift", "phi", "psi", "the", "class"),
)
LAYOUT = Layout(
    family="stopgap",
    names="motl_idx",
    coordinates=("orig_x", "orig_y", "orig_z"),
    shifts=("x_shift", "y_shift", "z_shift"),
    angles=("phi", "the", "psi"),
    axes="zxz",
    tomograms="tomo_num",
    half_sets="halfset",
    classes="class",
    scores="score",
    halves=("none", "A", "B"),
)
IMAGE = r".*?_?(\d+)"
FOLDERS = ("subtomograms", "../subtomograms")  # of a project, whose lists are in lists/
WEDGE_FILE = "*wedge*.star"
# First and last tilt, degrees, and pixel size of a tomogram.
Wedge = tuple[float, float, float]


def read_stopgap(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a motive list.

    Its subtomograms are ``ANY_NUMBER.mrc`` (or .em), NUMBER its subtomo_num, in the data folder, or in subtomograms/
    beside the list or its folder.

    A wedge list, given in place of tomograms or the only one beside the list, states which tilts were measured and the
    pixel size.
    """
    star = read_star(path)
    block = star.find(MOTIVE_LIST)
    if block is None:
        raise FormatError(path, f"has no block data_{MOTIVE_LIST}", "give a STOPGAP motive list")
    tomograms = block.whole("tomo_num").tolist()
    wedges, others = _wedges(path, options, set(tomograms))
    numbers = block.whole("subtomo_num").tolist()
    images = numbered_images(path, options.data_path, numbers, IMAGE, beside=FOLDERS, one_each=False)
    found = [wedges.get(number, (np.nan, np.nan, np.nan)) for number in tomograms]
    tilts = np.array([(wedge[0], wedge[1], 90.0) for wedge in found]) if wedges else None
    sizes = np.array([wedge[2] for wedge in found])
    source = ListSource(path, "stopgap", options, block.text("motl_idx"), images, tilts, block, others)
    stated = sizes if wedges and np.isfinite(sizes).all() else None
    return table_of(block, LAYOUT, options, source=source, pixel_sizes=stated)


def write_stopgap(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a motive list; names of tomograms that are not numbers go into LIST.doc beside it."""
    free = (label.removeprefix("stopgap_") for label in table.extras if label.startswith("stopgap_"))
    columns = (*COLUMNS, *(label for label in free if label not in COLUMNS))
    block = block_of(table, LAYOUT, path, columns=columns, defaults={"object": "1", "class": "1"})
    if LAYOUT.label("subtomo_num") not in table.extras:
        block = block.with_columns({"subtomo_num": block.text("motl_idx")})
    write_star(path, Star(path, (replace(block, name=MOTIVE_LIST),)))
    return (path, *write_documents(path, table))


def read_wedge_list(path: Path) -> Mapping[int, Wedge]:
    """Read first and last tilt and pixel size of each tomogram number."""
    block = read_star(path).find(WEDGE_LIST)
    if block is None:
        raise FormatError(path, f"has no block data_{WEDGE_LIST}", "give a STOPGAP wedge list")
    numbers = block.whole("tomo_num")
    tilts = block.numbers("tilt_angle")
    sizes = block.positive("pixelsize")
    rows = {number: numbers == number for number in dict.fromkeys(numbers.tolist())}
    return {number: (tilts[r].min(), tilts[r].max(), sizes[r][0]) for number, r in rows.items()}


def _wedges(path: Path, options: ReadOptions, tomograms: set[int]) -> tuple[Mapping[int, Wedge], tuple[Path, ...]]:
    """Return the wedges of the list that was given, or of the only one beside it if that has all tomograms."""
    if options.tomograms_path is not None:
        return read_wedge_list(options.tomograms_path), (options.tomograms_path,)
    beside = [other for other in sorted(path.parent.glob(WEDGE_FILE)) if other != path and is_wedge_list(other)]
    if len(beside) != 1:
        return {}, ()
    wedges = read_wedge_list(beside[0])
    return (wedges, (beside[0],)) if tomograms <= set(wedges) else ({}, ())


def is_wedge_list(path: Path) -> bool:
    """Return whether a file is a wedge list, by its first lines."""
    with reading(path, "give a STOPGAP wedge list"), path.open("rb") as stream:
        return f"data_{WEDGE_LIST}".encode() in stream.read(4096)
