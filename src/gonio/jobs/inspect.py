"""Show what a file is, what it states and what looks wrong with it: ``gonio inspect``.

Reads with ``gonio.io`` and judges with ``gonio.workflows.inspection``; this module only chooses which checks apply.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio.jobs.drawing import draw
from gonio.jobs.hand import hand_score, remedies_of
from gonio.jobs.options import File, ListOptions, wedge_of
from gonio.jobs.splitting import some
from gonio.particle.arguments import ArgumentError
from gonio.run.folder import check_target

if TYPE_CHECKING:
    from gonio.io.source import ReadOptions
    from gonio.io.tomogram import Tomogram
    from gonio.particle.table import ParticleTable
    from gonio.particle.tilt_series import TiltSeries
    from gonio.particle.volume import Particle, Volume
    from gonio.particle.wedge import Wedge
    from gonio.workflows.inspection import HandScore, InputWarning

LARGEST_MAP, PIECE = 1024, 128
# Names of files whose sections are images, of RELION and IMOD; the headers of volumes and of stacks are often alike.
NAMED = 4  # tomograms and classes that are named one by one
DUPLICATE_FRACTION = 0.25  # of the box: particles nearer than this are one


@dataclass
class Inspection:
    """Kind of a file, what it states, what looks wrong, and what there is to draw.

    Parameters
    ----------
    kind
        A map, a tomogram, images, tilts or a particle list.
    facts
        Facts that it states, by name.
    warnings
        Warnings of what looks wrong.
    wedge, frequency_per_angstrom, volumes, series
        Content to draw: the wedge up to a frequency, volumes for their power, and tilts.
    table
        The list, if it is one.
    hand, remedies
        Whether a map or its mirror image fits the particles, if a map was given; and where it is the mirror image, when
        to do what, and the command that does it.
    """

    kind: str
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: list[InputWarning] = field(default_factory=list)
    wedge: Wedge | None = None
    frequency_per_angstrom: float = 0.05
    volumes: list[Volume] = field(default_factory=list)
    series: TiltSeries | None = None
    table: ParticleTable | None = None
    hand: HandScore | None = None
    remedies: list[tuple[str, str]] = field(default_factory=list)

    def warn(self, *found: InputWarning | None) -> None:
        """Add the warnings of checks that found something."""
        self.warnings += [one for one in found if one is not None]


def inspect(
    file: ListOptions,
    *,
    hand: File | None = None,
    sample: int = 50,
    resolution_angstrom: float | None = None,
    particle_diameter_angstrom: float | None = None,
    output: File | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Inspection:
    """Inspect a particle list, a map, a tomogram or a file of tilts.

    Parameters
    ----------
    file
        The file, and options in place of what it states.
    hand
        A map, to decide whether it or its mirror image fits the particles of the list.
    sample
        Number of particles that are read, spread over the list.
    resolution_angstrom, particle_diameter_angstrom
        Finest detail that is compared with the map, and the size of a particle.
    output
        A PNG file to draw wedge, power and tilts into.
    """
    path, options, diameter = Path(file.path), file.reading, particle_diameter_angstrom
    if output is not None:
        check_target(Path(output), overwrite=overwrite)
    file.check()
    wedge_of(options.tilt_range_deg, options.axis_deg)  # which checks the range
    found = _inspection(path, file, options, sample, diameter)
    if hand is not None:
        if found.table is None:
            raise ArgumentError(
                "{} needs a list of particles, and {path} is {kind}", "hand", path=path, kind=found.kind
            )
        found.hand = hand_score(found.table, options, Path(hand), sample, resolution_angstrom, diameter, seed)
        known = (("--mask-diameter", diameter), ("--resolution", resolution_angstrom))
        words = "".join(f" {option} {value:g}" for option, value in known if value is not None)
        found.remedies = remedies_of(found.hand, found.table, path, Path(hand), words)
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        draw(
            Path(output),
            wedge=found.wedge,
            volumes=found.volumes,
            series=found.series,
            frequency_per_angstrom=found.frequency_per_angstrom,
        )
    return found


def _inspection(path: Path, file: ListOptions, options: ReadOptions, sample: int, diameter: float | None) -> Inspection:
    """Inspect a file by the kind that its content shows."""
    from gonio.io.compressed import first_bytes
    from gonio.io.em import em_layout, is_em
    from gonio.io.errors import reading
    from gonio.io.tilt_files import is_tilt_file

    if path.is_dir():
        return _volume(path, options)
    with reading(path, "give a particle list, a map, a tomogram or a tilt file"):
        start = first_bytes(path)
    if is_em(start) and em_layout(path).shape[::2] == (1, 20):
        return _list(path, file, options, sample, diameter)
    if is_em(start) or start[208:211] == b"MAP" or (options.permissive and b"\0" in start):
        return _volume(path, options)
    return _tilts(path) if is_tilt_file(path) else _list(path, file, options, sample, diameter)


# Volumes


def _volume(path: Path, options: ReadOptions) -> Inspection:
    from gonio.io.tomogram import holds_images, open_images, open_tomogram
    from gonio.particle.volume import Volume
    from gonio.workflows import inspection as look

    if holds_images(path, permissive=options.permissive):
        images = open_images(path, pixel_size_angstrom=options.voxel_size_angstrom, permissive=options.permissive)
        return _images(images, options)
    tomogram = open_tomogram(path, voxel_size_angstrom=options.voxel_size_angstrom, permissive=options.permissive)
    shape = tomogram.shape_zyx
    is_map = len(set(shape)) == 1 and shape[0] <= LARGEST_MAP
    size = tomogram.voxel_size_angstrom
    found = Inspection("a map" if is_map else "a tomogram")
    found.facts = {
        "format": tomogram.kind,
        "voxels (x, y, z)": list(shape[::-1]),
        "voxel size": f"{size:g} A" if size > 0 else "not stated: pass --voxel-size",
    }
    edges = shape if is_map else tuple(min(n, PIECE) for n in shape)
    low = [(n - edge) // 2 for n, edge in zip(shape, edges, strict=True)]
    piece = tomogram.cut(low, [a + edge for a, edge in zip(low, edges, strict=True)])
    piece = -piece if options.invert_contrast else piece
    where = "values" if is_map else "values in the middle"
    numbers = (float(piece.min()), float(piece.mean()), float(piece.max()), float(piece.std()))
    found.facts[where] = "from {:.4g}, mean {:.4g}, to {:.4g}; sd {:.4g}".format(*numbers)
    if piece.min() == piece.max():
        found.warn(look.InputWarning("constant", "all values are alike", "there is nothing in it"))
        return found
    edge = min(edges)
    if edge >= 8:
        inner = tuple(slice((n - edge) // 2, (n - edge) // 2 + edge) for n in piece.shape)
        found.volumes = [Volume(piece[inner], size or 1.0)]
        _look_at_power(found, options)
    if is_map and found.volumes:
        found.facts["contrast"] = f"{look.contrast_t(found.volumes):+.1f} sd, middle minus surroundings"
        found.warn(look.box_without_a_middle(shape[0]), look.inverted_contrast(found.volumes))
    elif not is_map:
        found.warn(look.tomogram_without_a_middle(shape[::-1]), look.dark_tomogram(piece))
    return found


def _images(tomogram: Tomogram, options: ReadOptions) -> Inspection:
    """Inspect images, of which nothing is true that is true of volumes."""
    count, *edges = tomogram.shape_zyx
    size = tomogram.voxel_size_angstrom
    found = Inspection("a stack of 2-D images")
    found.facts = {
        "format": tomogram.kind,
        "images": count,
        "pixels (x, y)": edges[::-1],
        "pixel size": f"{size:g} A" if size > 0 else "not stated: pass --voxel-size",
    }
    middle = tomogram.cut([count // 2, 0, 0], [count // 2 + 1, *edges])
    middle = -middle if options.invert_contrast else middle
    numbers = (float(middle.min()), float(middle.mean()), float(middle.max()), float(middle.std()))
    found.facts["values of the middle one"] = "from {:.4g}, mean {:.4g}, to {:.4g}; sd {:.4g}".format(*numbers)
    return found


def _look_at_power(found: Inspection, options: ReadOptions) -> None:
    """Compare where the power of volumes is with the wedge that is known, or a usual one."""
    from gonio.workflows import inspection as look

    wedge = found.wedge
    if wedge is None and options.tilt_range_deg is not None:
        wedge = found.wedge = wedge_of(options.tilt_range_deg, options.axis_deg)
    found.frequency_per_angstrom = 0.5 / found.volumes[0].voxel_size_angstrom
    if wedge is not None:
        emptiness = look.wedge_emptiness(found.volumes, wedge)
        if np.isfinite(emptiness):
            found.facts["power where not measured"] = f"{100 * emptiness:.0f} % of that elsewhere"
        found.warn(look.measured_nowhere_empty(found.volumes, wedge))
    if wedge is None or not _is_about_x(wedge):
        found.warn(look.tilt_axis_like_x(found.volumes, options.tilt_range_deg or (-60.0, 60.0)))


def _is_about_x(wedge: Wedge) -> bool:
    from gonio.particle.wedge import SingleAxisWedge

    return isinstance(wedge, SingleAxisWedge) and abs((wedge.axis_deg + 90.0) % 180.0 - 90.0) < 45.0


# Tilts


def _tilts(path: Path) -> Inspection:
    from gonio.io.tilt_files import read_tilts
    from gonio.workflows import inspection as look

    every = read_tilts(path)
    name, series = next(iter(every.items()))
    found = Inspection("tilts", series=series)
    found.facts = {"tilt series": f"{len(every)}: {some(every, NAMED)}"}
    if len(every) > 1:
        found.facts["below"] = f"the first, {name}"
    found.facts |= _tilt_facts(series)
    for name, one in every.items():
        wrong = (look.few_tilts(one.tilts_deg), look.tilts_listed_twice(one.tilts_deg))
        named = (s if len(every) == 1 else look.InputWarning(s.name, f"{name}: {s.what}", s.remedy) for s in wrong if s)
        found.warn(*named)
    found.wedge = series.wedge(1000.0)
    return found


def _tilt_facts(series: TiltSeries) -> dict[str, Any]:
    tilts = series.tilts_deg
    facts: dict[str, Any] = {
        "tilts": f"{len(tilts)}, from {tilts.min():.1f} to {tilts.max():.1f} degrees",
        "tilt axis": f"{series.axis_deg:.1f} degrees from x; 90 is y",
        "runs": len(series.runs()),
        "defocus with depth": _depth_words({series.defocus_per_depth}),
    }
    order = series.order
    if order is not None:
        first = ", ".join(f"{tilts[i]:.0f}" for i in order[:6])
        facts["order"] = f"{first}, ... degrees, by dose"
        dose = np.asarray(series.dose)
        facts["dose before"] = f"from {dose.min():.1f} to {dose.max():.1f} electrons per square angstrom"
    else:
        facts["dose before"] = "not stated"
    if series.defocus is not None:
        mean = series.defocus[:, :2].mean(axis=1) * 1e-4
        facts["defocus"] = f"from {mean.min():.2f} to {mean.max():.2f} micrometres"
    if series.optics is not None:
        optics = series.optics
        facts["microscope"] = (
            f"{optics.voltage_kv:g} kV, Cs {optics.spherical_aberration_mm:g} mm, amplitude contrast"
            f" {optics.amplitude_contrast:g}"
        )
    return facts


# Lists


def _list(path: Path, file: ListOptions, options: ReadOptions, sample: int, diameter: float | None) -> Inspection:
    from gonio.io.formats import IMAGES, format_of
    from gonio.io.wedges import with_tilts

    kind = format_of(path)
    table, unread = _read_list(path, options)
    if file.tilt_files:
        table = with_tilts(table, list(map(Path, file.tilt_files)), weighting=file.tilt_weights)
    found = Inspection("a particle list", table=table)
    found.facts = {"format": kind.title, **_list_facts(table)}
    positions_alone = table.images is None and IMAGES in kind.holds
    particles = [] if unread or positions_alone else _some(table, sample, found)
    if positions_alone:
        found.facts["images"] = "none listed"
    elif unread:
        found.facts["images"] = f"not read: {unread}"
    if particles:
        kind_of_ctf = None if table.source is None else table.source.ctf_image_kind(int(np.asarray(table.rows)[0]))
        found.facts |= {} if kind_of_ctf is None else {"rlnCtfImage": str(kind_of_ctf)}
        _look_at_images(found, particles, options, len(table))
    _look_at_list(found, table, particles, options.tomograms_path, diameter)
    return found


def _read_list(path: Path, options: ReadOptions) -> tuple[ParticleTable, str]:
    """Return the list, and why its particles cannot be loaded, if so."""
    from gonio.io import FormatError
    from gonio.io.lists import read_with

    try:
        return read_with(path, options), ""
    except FormatError as error:
        problem = str(error)
    return read_with(path, replace(options, may_count_pixels=True)), problem


def _list_facts(table: ParticleTable) -> dict[str, Any]:
    counts = Counter(table.tomograms)
    facts: dict[str, Any] = {
        "particles": len(table),
        "tomograms": f"{len(counts)}: " + some((f"{name or 'no name'} ({n})" for name, n in counts.items()), NAMED),
    }
    pixels = table.pixel_sizes_angstrom
    unit = "A" if table.lengths == "angstrom" else "pixels of unknown size"
    if pixels is not None:
        facts["pixel size of positions"] = f"{_range(pixels)} A"
    if table.coordinates_angstrom is not None:
        start = "the tomogram's centre" if table.coordinates_from == "centre" else "the centre of the first voxel"
        ranges = (f"{axis} {_range(c, digits=0)}" for axis, c in zip("xyz", table.coordinates_angstrom.T, strict=True))
        facts["positions"] = f"{', '.join(ranges)} {unit} from {start}"
    lengths = np.linalg.norm(table.poses.shift_angstrom, axis=1)
    facts["shifts"] = (
        f"median {np.median(lengths):.1f}, largest {lengths.max():.1f} {unit}" if lengths.any() else "none"
    )
    angles = table.poses.euler_zyz_deg()
    facts["orientations"] = "R = Rz(a) Ry(b) Rz(c), " + ", ".join(
        f"{name} {_range(column, digits=0)}" for name, column in zip("abc", np.atleast_2d(angles).T, strict=True)
    )
    half_sets = np.asarray(table.half_sets)
    facts["half sets"] = f"{(half_sets == 1).sum()} and {(half_sets == 2).sum()}" if half_sets.any() else "none"
    if table.classes is not None:
        facts["classes"] = some((f"{name} ({n})" for name, n in sorted(Counter(table.classes.tolist()).items())), NAMED)
    slopes = {series.defocus_per_depth for series in (table.source.series if table.source else {}).values()}
    if slopes:
        facts["defocus with depth"] = _depth_words(slopes)
        facts["tilt sense"] = table.tilt_sense
    if table.extras:
        facts["other columns"] = some(table.extras, 2 * NAMED)
    return facts


def _depth_words(slopes: set[float]) -> str:
    """Describe how underfocus changes along the beam, the direction of the third row of a projection."""
    words = {slope: f"{'grows' if slope > 0 else 'falls'} by {abs(slope):g} A an A along the beam" for slope in slopes}
    return "; ".join(words[slope] if slope else "not known: no rlnTomoHand" for slope in sorted(slopes))


def _some(table: ParticleTable, sample: int, found: Inspection) -> list[Particle]:
    from gonio.io import FormatError

    rows = np.unique(np.linspace(0, len(table) - 1, min(sample, len(table))).round().astype(int))
    try:
        return [table.load(int(row)) for row in rows]
    except FormatError as error:
        found.facts["images"] = f"not read: {error}"
        return []


def _look_at_images(found: Inspection, particles: Sequence[Particle], options: ReadOptions, count: int) -> None:
    from gonio.particle.tilt_series import TiltSeries
    from gonio.particle.volume import Subtomogram
    from gonio.workflows import inspection as look

    first = particles[0]
    seen = f"{len(particles)} of {count} read"
    voxels = f"box {first.box}, {first.voxel_size_angstrom:g} A; {seen}"
    found.warn(look.box_without_a_middle(first.box))
    if isinstance(first, Subtomogram):
        found.facts["images"] = f"3-D subtomograms, {voxels}"
        found.wedge = first.wedge
        found.volumes = [one.volume for one in particles if isinstance(one, Subtomogram) and one.box == first.box]
        found.facts["wedge"] = _wedge_words(first.wedge)
        found.facts["contrast"] = f"{look.contrast_t(found.volumes):+.1f} standard errors, middle minus edge"
        found.warn(look.inverted_contrast(found.volumes))
        _look_at_power(found, options)
        return
    found.facts["images"] = f"2-D stacks of {len(first.images)} tilts, {int(first.used.sum())} used, {voxels}"
    found.facts["CTF"] = "none" if first.ctf is None else "multiplied in" if first.ctf_premultiplied else "not yet"
    found.series = TiltSeries(Path(), first.projections_xyz, dose=first.dose).take(first.used)
    found.wedge = found.series.wedge(first.box * first.voxel_size_angstrom)
    found.facts["wedge"] = _wedge_words(found.wedge)
    found.frequency_per_angstrom = 0.5 / first.voxel_size_angstrom
    found.warn(look.few_tilts(found.series.tilts_deg))


def _wedge_words(wedge: Wedge) -> str:
    from gonio.particle.wedge import SingleAxisWedge, SquaredTransferWedge, TiltSeriesWedge, WeightVolumeWedge

    if isinstance(wedge, SingleAxisWedge):
        return f"tilts from {wedge.tilt_min_deg:g} to {wedge.tilt_max_deg:g} degrees, axis {wedge.axis_deg:g}"
    if isinstance(wedge, WeightVolumeWedge):
        return f"weights of {len(wedge.weights)}^3, {100 * (wedge.weights > 0).mean():.0f} % not 0"
    if isinstance(wedge, SquaredTransferWedge):
        most = float(wedge.weights.max())
        return (
            f"squared transfers of {len(wedge.weights)}^3, up to {most:.3g}, in the volumes once: pseudo-subtomograms"
        )
    if isinstance(wedge, TiltSeriesWedge):
        normals = np.array(wedge.runs_xyz)
        tilts = np.degrees(np.arccos(np.clip(normals[..., 2], -1, 1)))
        return f"single tilts in {len(normals)} run{'s' * (len(normals) > 1)}, up to {tilts.max():.1f} degrees from z"
    return type(wedge).__name__


def _look_at_list(
    found: Inspection,
    table: ParticleTable,
    particles: Sequence[Particle],
    tomograms_path: Path | None,
    diameter: float | None,
) -> None:
    from gonio.io.formats import stated_angles
    from gonio.workflows import inspection as look
    from gonio.workflows import placement

    angles = stated_angles(table)
    if angles is not None:
        found.warn(look.angles_out_of_range(angles), look.angles_in_radians(angles))
    found.warn(look.no_orientations(table.poses))
    box = particles[0].box * particles[0].voxel_size_angstrom if particles else _listed_box(table)
    half_sets = np.asarray(table.half_sets)
    shared = look.shared_by_halves(
        table.names, table.tomograms, table.coordinates_angstrom, half_sets, box_angstrom=box or 1e-6
    )
    found.warn(placement.unequal_halves(half_sets), shared)
    if box is not None:
        found.warn(look.shifts_beyond_the_box(table.poses, box))
    if table.coordinates_angstrom is not None and np.ptp(table.coordinates_angstrom, axis=0).any():
        _look_at_places(found, table, box, tomograms_path, diameter)  # places that are all alike are none


def _look_at_places(
    found: Inspection, table: ParticleTable, box: float | None, tomograms_path: Path | None, diameter: float | None
) -> None:
    from gonio.io.conversion import known_sizes
    from gonio.workflows import inspection as look
    from gonio.workflows import placement

    places, coordinates = table.places_angstrom, table.coordinates_angstrom
    assert places is not None and coordinates is not None
    sizes, centred = known_sizes(table, tomograms_path), table.coordinates_from == "centre"
    pixels = table.pixel_sizes_angstrom
    pixel = None if pixels is None else float(np.median(pixels))
    found.warn(
        placement.outside_of_tomograms(places, sizes, from_centre=centred),
        placement.only_a_corner(places, sizes, from_centre=centred, pixel_angstrom=pixel),
    )
    particle = diameter or (None if box is None else 2 * DUPLICATE_FRACTION * box)
    if table.lengths == "pixels" or particle is None:
        return
    dense = placement.crowded(table.tomograms, places, particle_angstrom=particle, pixel_angstrom=pixel)
    if dense is None:
        near = 0.5 * particle
        dense = look.listed_twice(table.names, table.tomograms, places, distance_angstrom=near)
    found.warn(dense)
    if box is not None:
        chained = placement.boxes_in_chains(table.names, table.tomograms, coordinates, box_angstrom=box)
        found.warn(chained)


def _listed_box(table: ParticleTable) -> float | None:
    """Return the edge of the boxes in angstrom as the list states it, where its images are missing."""
    from gonio.io.text import plain_float

    labels = ("rlnImageSize", "rlnImagePixelSize")
    if not all(label in table.extras for label in labels):
        return None
    try:
        size, pixel = (plain_float(table.extras[label][0]) for label in labels)
    except ValueError:
        return None
    return size * pixel if size * pixel > 0 else None


def _range(values: NDArray, digits: int = 4) -> str:
    low, high = float(values.min()), float(values.max())
    if digits == 0:
        return f"{low:.0f} to {high:.0f}"
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
