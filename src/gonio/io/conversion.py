"""From one format to another: what the target needs and the list lacks, and what it cannot hold.

Owns where the centre of a tomogram is,

    centred coordinate = coordinate - centre,      centre = size / 2, size / 2 - 1 or floor(size / 2) pixels

of which the first is RELION's own (src/jaz/tomography/tomogram_set.cpp), the second that of its Python pickers. Reads
and writes no list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import gonio.io.formats as formats
import gonio.io.relion as relion
import gonio.io.stopgap as stopgap
from gonio.io.blocks import Block, read_star
from gonio.io.errors import FormatError
from gonio.io.formats import RELION, Format
from gonio.io.names import tomostar
from gonio.io.source import TILT_COLUMNS
from gonio.io.star_columns import numbers_of, tomogram_numbers
from gonio.io.text import float_or, own_label
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.particle.texts import Texts, rows_of

CENTRES: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "size/2": lambda size: size / 2,
    "size/2-1": lambda size: size / 2 - 1,
    "floor": lambda size: np.floor(size / 2),
}


SIZES = ("rlnTomoSizeX", "rlnTomoSizeY", "rlnTomoSizeZ", "rlnTomoTiltSeriesPixelSize")
WEDGE_SIZES = ("tomo_x", "tomo_y", "tomo_z", "pixelsize")
# Names of numbered things are kept beside the list where they can be.
WORDS = {
    formats.TOMOGRAMS: "names of tomograms (numbers stand for them; the names are kept beside the list, in OUT.doc)",
    formats.NAMES: "names of particles (numbers stand for them)",
}
# Columns that state what formats state in other ways.
STATE_TILTS = ("dynamo", "pytom")
OLDER_RELION = ("warp", "relion3.0", "relion3.1")
STATED_OTHERWISE = {relion.SERIES_PIXEL, relion.IMAGE_PIXEL, relion.OLD_PIXEL, relion.BINNING, relion.GROUP}


@dataclass(frozen=True)
class TomogramSizes:
    """Sizes of tomograms in pixels, xyz.

    Parameters
    ----------
    every
        Size of each tomogram that ``by_name`` does not name, in pixels of the list's coordinates; or None.
    by_name
        Size and pixel size in angstrom (x, y, z, angstrom) by tomogram.
    path
        The file that should state them, for errors.
    """

    every: tuple[float, float, float] | None = None
    by_name: Mapping[str, Sequence[float] | NDArray[np.float64]] = field(default_factory=dict)
    path: Path | None = None

    @staticmethod
    def read(path: Path) -> TomogramSizes:
        """Read what RELION's or Warp's tomograms.star, or a STOPGAP wedge list, states.

        Sizes below 1 (RELION's own -999, 0) and blanks are not set: such a tomogram counts as not named.
        """
        found = read_star(path)
        wedges, block = found.find(stopgap.WEDGE_LIST), found.find("global")
        if wedges is not None:
            numbers = [str(round(number)) for number in wedges.numbers("tomo_num").tolist()]
            return TomogramSizes(by_name=_set_sizes(wedges, numbers, WEDGE_SIZES), path=path)
        if block is None:
            raise FormatError(path, "has no block data_global", "give tomograms.star or a STOPGAP wedge list")
        return TomogramSizes(by_name=_set_sizes(block, block.text("rlnTomoName"), SIZES), path=path)


def _set_sizes(
    block: Block, names: Sequence[str], labels: Sequence[str]
) -> dict[str, Sequence[float] | NDArray[np.float64]]:
    """Return the sizes that are set, and the pixels they count, by tomogram."""
    if not all(label in block for label in labels[:3]):
        return {}
    # a blank, or a word such as "None", is no size
    sizes = np.array([[float_or(word, 0.0) for word in block.text(label)] for label in labels[:3]]).T  # (m, 3)
    chosen = np.flatnonzero((sizes >= 1).all(axis=1))
    pixels = block.take(chosen).numbers(labels[3]) if len(chosen) else ()
    return {
        names[row]: [*sizes[row].tolist(), float(pixel)] for row, pixel in zip(chosen.tolist(), pixels, strict=True)
    }


def known_sizes(table: ParticleTable, tomograms_path: Path | None = None) -> NDArray[np.float64]:
    """Return the size of each particle's tomogram, xyz, in the unit of the table; infinite where no file states it.

    Parameters
    ----------
    table
        List as it was read.
    tomograms_path
        tomograms.star or a STOPGAP wedge list; of RELION's lists found beside them when not given.
    """
    if tomograms_path is None and table.source is not None:
        tomograms_path = table.source.sizes_path
    stated = {} if tomograms_path is None else TomogramSizes.read(tomograms_path).by_name
    sizes = np.full((len(table), 3), np.inf)
    for name, rows in rows_of(table.tomograms).items() if stated else ():
        if name in stated:
            *size, pixel = stated[name]
            sizes[rows] = np.array(size) * (1.0 if table.lengths == "pixels" else pixel)
    return sizes


@dataclass(frozen=True)
class WriteOptions:
    """Options of the caller for a list that is written.

    Parameters
    ----------
    pixel_size_angstrom
        Size of the pixels to count in; None for those of the source.
    sizes
        Sizes of the tomograms, to get from their corner to their centre and back.
    centre
        Which point the centre is, a key of ``CENTRES``.
    whole
        Whether coordinates become whole pixels, the rest going into shifts: for programs that cut boxes there.
    tomostar
        Whether tomograms are named as WarpTools names their tilt series, ``TS_01.tomostar``.
    """

    pixel_size_angstrom: float | None = None
    sizes: TomogramSizes = field(default_factory=TomogramSizes)
    centre: str = "size/2"
    whole: bool = False
    tomostar: bool = False


def prepared(table: ParticleTable, target: Format, options: WriteOptions, *, path: Path) -> ParticleTable:
    """Return the list in the pixels, and with the coordinates, that a format wants.

    Parameters
    ----------
    path
        The list that is read or written, for errors.

    Raises
    ------
    FormatError
        If the pixel size or the size of a tomogram is needed and not known.
    """
    if _lacks_pixels(table, target, options):
        problem = f"does not state the size of its pixels, which {target.title} needs"
        raise FormatError(path, problem, "pass --pixel-size ANGSTROM")
    table = _scored(table, target)
    if needs_centres(table, target):
        table = _recentred(table, target, options, path)
    if options.pixel_size_angstrom is not None:
        table = _in_pixels(table, options.pixel_size_angstrom)
    if options.tomostar:
        table = replace(table, tomograms=tuple(map(tomostar, table.tomograms)))
    return _whole(table) if options.whole else table


def _lacks_pixels(table: ParticleTable, target: Format, options: WriteOptions) -> bool:
    """Return whether the format needs a pixel size that the list does not state."""
    if table.pixel_sizes_angstrom is not None:
        return False
    if table.lengths == "pixels":
        return target.needs_angstrom or options.pixel_size_angstrom is not None
    in_its_pixels = needs_centres(table, target) and options.sizes.every is not None
    return in_its_pixels or (target.needs_pixels and options.pixel_size_angstrom is None)


def _scored(table: ParticleTable, target: Format) -> ParticleTable:
    """Return the list with the scores of its alignment where the format has a place for them; older ones are dropped.

    What a RELION list calls a figure of merit is that of its picking, and stays.
    """
    score = table.columns.get("score")
    if score is None or formats.SCORES not in target.holds:
        return table
    own = formats.own_format(table)
    if own is not None and own.family == target.family == RELION:
        return table
    return replace(table, scores=np.asarray(score, dtype=np.float64))


def needs_centres(table: ParticleTable, target: Format) -> bool:
    """Return whether the centres of the tomograms must be known to write a list in a format."""
    if table.coordinates_angstrom is None or target.centred is None:
        return False
    return table.coordinates_from != ("centre" if target.centred else "corner")


def _recentred(table: ParticleTable, target: Format, options: WriteOptions, path: Path) -> ParticleTable:
    assert table.coordinates_angstrom is not None
    to_centre = table.coordinates_from == "corner"
    centres = _centres(table, target, options, path)
    moved = table.coordinates_angstrom + (-centres if to_centre else centres)
    return replace(table, coordinates_angstrom=moved, coordinates_from="centre" if to_centre else "corner")


def _centres(table: ParticleTable, target: Format, options: WriteOptions, path: Path) -> NDArray[np.float64]:
    """Return the centre of each particle's tomogram from its first voxel, shape (m, 3), in the table's unit."""
    pixels = table.pixel_sizes_angstrom
    scale = np.ones(len(table)) if pixels is None else pixels
    index_of = CENTRES[options.centre]
    every = (np.nan, np.nan, np.nan) if options.sizes.every is None else options.sizes.every
    centres = index_of(np.array(every)) * scale[:, None]
    for name, rows in rows_of(table.tomograms).items():
        if name in options.sizes.by_name:
            *size, pixel = options.sizes.by_name[name]
            centres[rows] = index_of(np.array(size)) * (1.0 if table.lengths == "pixels" else pixel)
        elif options.sizes.every is None:
            where = "centre" if table.coordinates_from == "corner" else "corner"
            other = ", or choose --to relion4, whose coordinates start at the corner" if target.centred else ""
            problem = f"does not state the size of tomogram {name!r}, which coordinates from its {where} need"
            remedy = f"pass --tomogram-size X Y Z{'' if options.sizes.path else ' or --tomograms FILE'}{other}"
            raise FormatError(options.sizes.path or path, problem, remedy)
    return centres


def _in_pixels(table: ParticleTable, size: float) -> ParticleTable:
    """Return the list counted in other pixels; those of the images stay, and are stated where nothing else does."""
    extras = dict(table.extras)
    known = table.pixel_sizes_angstrom is None or any(k in extras for k in (relion.IMAGE_PIXEL, relion.OLD_PIXEL))
    if not known and table.images is not None:
        assert table.pixel_sizes_angstrom is not None
        extras[relion.IMAGE_PIXEL] = Texts(table.pixel_sizes_angstrom, "{:.9g}".format)
    extras = {label: values for label, values in extras.items() if label not in (relion.SERIES_PIXEL, relion.BINNING)}
    return replace(table, pixel_sizes_angstrom=np.full(len(table), size), extras=extras)


def _whole(table: ParticleTable) -> ParticleTable:
    """Return the list with coordinates of whole pixels: particles stay, boxes move by less than half a pixel."""
    if table.coordinates_angstrom is None:
        return table
    scale = 1.0 if table.pixel_sizes_angstrom is None else table.pixel_sizes_angstrom[:, None]
    whole = np.round(table.coordinates_angstrom / scale) * scale
    poses = table.tomogram_poses
    moved = Pose(poses.rotation, poses.shift_angstrom + table.coordinates_angstrom - whole)
    own = moved if table.frames is None else table.frames.to_box(moved)
    return replace(table, poses=own, coordinates_angstrom=whole)


def losses(table: ParticleTable, target: Format) -> list[str]:
    """Return a few words for each thing in a list that a format cannot hold."""
    facts: dict[str, Callable[[], bool]] = {
        formats.POSITIONS: lambda: table.coordinates_angstrom is not None,
        formats.ANGLES: lambda: bool((table.poses.rotation.magnitude() > 1e-9).any()),
        formats.HALVES: lambda: bool(np.any(table.half_sets)),
        formats.CLASSES: lambda: table.classes is not None,
        formats.SCORES: lambda: table.scores is not None,
        formats.IMAGES: lambda: table.images is not None,
        formats.PIXEL: lambda: table.pixel_sizes_angstrom is not None,
        formats.TOMOGRAMS: lambda: (
            any(table.tomograms) and list(tomogram_numbers(table)) != list(map(str, tomogram_numbers(table).values()))
        ),
        formats.NAMES: lambda: list(table.names) != list(map(str, numbers_of(table.names))),
    }
    lost = [WORDS.get(fact, fact) for fact, there in facts.items() if fact not in target.holds and there()]
    sizes = table.pixel_sizes_angstrom
    if formats.PIXEL not in target.holds and sizes is not None and np.ptp(sizes) > 0:
        lost.append("that its pixels are not all of one size (pass --to-pixel-size to count in one)")
    if formats.SHIFTS not in target.holds and table.poses.shift_angstrom.any():
        lost.append("shifts (they are added to the positions)")
    if formats.ANY not in target.holds:
        own = f"{target.family}_"
        stated = STATED_OTHERWISE | (set(TILT_COLUMNS) if target.family in STATE_TILTS else set())
        labels = [label for label in table.extras if not label.startswith(own) and label not in stated]
        labels += [own_label(name) for name in table.columns]
        lost += [f"columns {', '.join(labels)}"] if labels else []
    if target.name in OLDER_RELION and relion.lost_priors(table.extras):
        lost.append(
            f"{', '.join(relion.lost_priors(table.extras))} of rotated boxes (with tilt and psi they would be kept)"
        )
    if table.source is not None and table.source.format == "m-series":
        lost.append("tilt images, which only a particle series of M lists one by one")
    elif table.source is not None and table.source.stacks and target.name != "relion5":
        lost.append("that images are 2-D stacks of tilts, and their tomograms file")
    return lost
