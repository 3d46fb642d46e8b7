"""Cut subtomograms from tomograms at the positions of a list: ``gonio extract``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.io.source import REVERSED, TILT_SENSE
from gonio.jobs.extract_stacks import StackCuts, StackExtraction
from gonio.jobs.files import write_settings
from gonio.jobs.list_rows import as_stated, check_angstrom, read_list, warn_of_other_size
from gonio.jobs.options import File, axis_of, wedge_of
from gonio.jobs.running import thread_count
from gonio.jobs.splitting import some
from gonio.particle.arguments import ArgumentError, check_one_of
from gonio.particle.table import AS_LISTED
from gonio.run.executor import Chosen, Local, Progress, silent
from gonio.run.folder import result_folder

if TYPE_CHECKING:
    from gonio.io.tomogram import Tomogram
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.workflows.extraction import Cutting, Scaling

EDGES = ("pad", "skip", "refuse")
NAMED = 10  # particles that are named one by one


@dataclass(frozen=True)
class Extracted:
    """The rows that were cut, and for each row of the list the fraction of its box that lay outside, shape (m,).

    Of tilt stacks that is the fraction of the images that do not show the particle.
    """

    extraction: Extraction | StackExtraction
    rows: list[int]
    outside: NDArray[np.float64]


def extract(
    tomograms: list[File],
    particles: File,
    *,
    output: File,
    box: int,
    binning: int = 1,
    invert: bool = False,
    normalise: str = "outside",
    diameter_angstrom: float | None = None,
    edge: str = "pad",
    centre: str = "size/2",
    pixel_size_angstrom: float | None = None,
    voxel_size_angstrom: float | None = None,
    tilt_range_deg: tuple[float, float] | None = None,
    axis_deg: float | None = None,
    tilt_files: list[File] | None = None,
    tilt_weights: str = "plain",
    reverse_tilts: bool = False,
    float16: bool = False,
    permissive: bool = False,
    stacks: StackCuts | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Extracted:
    """Cut a box where each particle is, and write them with a list of RELION 5 into a new folder.

    With ``stacks`` squares are cut from the images of aligned tilt series instead.

    Parameters
    ----------
    tomograms
        Files or folders of them; particles find theirs by name. For stacks one tomograms.star of RELION, or IMOD's
        stacks with their .xf and .tlt, or AreTomo's .aln, and .mdoc beside them.
    particles
        A list of any format.
    box, binning
        Edge of a subtomogram in its voxels, and voxels of the tomogram along one of its.
    invert
        Flip the contrast.
    normalise, diameter_angstrom
        How boxes are scaled, as in ``gonio.workflows.extraction.Scaling``.
    edge
        One of ``EDGES``: fill boxes that stick out with their mean, leave them out, or stop.
    centre
        Which voxel is the centre that coordinates may start at, a key of ``gonio.io.conversion.CENTRES``.
    pixel_size_angstrom, voxel_size_angstrom
        Size of the list's pixels and of the tomograms' voxels, angstrom, in place of what files state.
    tilt_range_deg, axis_deg
        First and last tilt and the direction of the axis, degrees, which the new list then states; an axis of None is
        at 90 degrees, y, and one without a range is refused.
    tilt_files, tilt_weights
        Tilt files in place of a range, and the weights of tilts (``gonio.particle.tilt_series.Weighting``).
    reverse_tilts
        Tomograms were reconstructed with the wrong tilt sense: boxes, angles, positions and wedges are to be those of
        their mirror image in z. The same holds for a list whose tilts are read in the other sense.
    float16
        Write MRC files of half the size.
    permissive
        Read MRC files of a wrong map ID or machine stamp, or with bytes after the data, too.
    stacks
        Cut stacks of tilt images, and how.
    """
    from gonio.io.conversion import CENTRES
    from gonio.particle.tilt_series import Weighting
    from gonio.workflows.extraction import Cutting, Scaling

    for argument, value, known in (
        ("edge", edge, EDGES),
        ("centre", centre, tuple(CENTRES)),
        ("tilt_weights", tilt_weights, tuple(Weighting)),
    ):
        check_one_of(argument, value, known)
    if tilt_files and tilt_range_deg:
        raise ArgumentError("{} and {} exclude each other: give one", "tilt_files", "tilt_range_deg")
    axis_deg = axis_of(axis_deg, tilt_range_deg)
    wedge_of(tilt_range_deg, axis_deg)  # which checks the range
    table, scaling = _placed_list(Path(particles), pixel_size_angstrom), Scaling(normalise, diameter_angstrom, invert)
    paths = list(map(Path, tomograms))
    job: Extraction | StackExtraction
    if stacks is None:
        tilts = Tilts(tuple(map(Path, tilt_files or ())), tilt_weights, tilt_range_deg, axis_deg)
        opened = _opened(table, paths, voxel_size_angstrom, permissive=permissive)
        mirror = reverse_tilts or table.tilt_sense != AS_LISTED
        job = Extraction(table, opened, Cutting(box, binning), scaling, centre, float16, mirror, tilts)
    else:
        _refuse_of_tilts(tilt_files=tilt_files, tilt_range_deg=tilt_range_deg, reverse_tilts=reverse_tilts)
        _refuse_of_tilts(tilt_weights=tilt_weights != "plain", tilt_sense=table.tilt_sense != AS_LISTED)
        series = stacks.opened(table, paths, voxel_size_angstrom, permissive=permissive)
        cutting = Cutting(box, binning, padding=box // 2)
        job = StackExtraction(table, series, cutting, scaling, centre, float16, stacks)
    return _cut(job, Path(output), edge, threads, overwrite=overwrite, progress=progress)


def _refuse_of_tilts(**given: object) -> None:
    """Raise ArgumentError for an argument about the tilts of tomograms: those of stacks are in their series."""
    for argument, value in given.items():
        if value:
            raise ArgumentError("{} has no meaning for {}: leave it out", argument, "stacks")


def _cut(
    job: Extraction | StackExtraction,
    output: Path,
    edge: str,
    threads: int | None,
    *,
    overwrite: bool,
    progress: Progress,
) -> Extracted:
    """Write the lists and cut every particle into a new folder."""
    job.check()
    chosen = job.chosen(edge)
    with result_folder(output, overwrite=overwrite) as folder:
        job.folder = folder
        job.write_lists(chosen)  # what they cannot state is better known now than after an hour of cutting
        with progress("extracting", len(chosen), 0) as done:
            cut = Local(thread_count(threads))("extracting", Chosen(job.cut, chosen), len(chosen), keep=False)
            for number, _ in enumerate(cut, 1):
                done(number)
        write_settings(folder / "settings.toml", job.settings(edge), inputs=job.inputs)
    return Extracted(job, chosen, job.outside)


@dataclass(frozen=True)
class Tilts:
    """What the new list states of the tilts: files and their weights, or a range and the direction of its axis."""

    files: tuple[Path, ...] = ()
    weights: str = "plain"
    range_deg: tuple[float, float] | None = None
    axis_deg: float = 90.0


@dataclass
class Extraction:
    """A list, the tomograms of its particles by name, and how boxes are cut from them."""

    table: ParticleTable
    tomograms: dict[str, Tomogram]
    cutting: Cutting
    scaling: Scaling
    centre: str
    float16: bool
    mirror: bool = False
    tilts: Tilts = Tilts()
    folder: Path = field(default_factory=Path)

    @property
    def voxel_size_angstrom(self) -> float:
        """Voxel size of the subtomograms."""
        return self.cutting.binning * next(iter(self.tomograms.values())).voxel_size_angstrom

    def check(self) -> None:
        """Raise ValueError or FormatError for what does not fit together."""
        from gonio.io import FormatError
        from gonio.particle.volume import VOXEL_SIZE_TOLERANCE, same_size

        first = next(iter(self.tomograms.values()))
        for tomogram in self.tomograms.values():
            size, other = tomogram.voxel_size_angstrom, first.voxel_size_angstrom
            if not same_size(size, other, tolerance=VOXEL_SIZE_TOLERANCE):
                problem = f"has voxels of {size:g} angstrom, {first.path} of {other:g}"
                raise FormatError(tomogram.path, problem, "extract them one by one, or pass --voxel-size")
        self.scaling.check(self.cutting.box, self.voxel_size_angstrom, dimensions=3)

    @cached_property
    def positions_zyx(self) -> NDArray[np.float64]:
        """Positions in voxels of the tomograms, from the centre of the first, shape (m, 3)."""
        from gonio.io.conversion import CENTRES

        assert self.table.coordinates_angstrom is not None
        places = self.table.coordinates_angstrom + self.table.tomogram_poses.shift_angstrom
        sizes = {name: tomogram.voxel_size_angstrom for name, tomogram in self.tomograms.items()}
        positions = places[:, ::-1] / np.array([sizes[name] for name in self.table.tomograms])[:, None]
        if self.table.coordinates_from == "corner":
            return positions
        index_of = CENTRES[self.centre]
        centres = {
            name: index_of(np.array(tomogram.shape_zyx, dtype=np.float64)) for name, tomogram in self.tomograms.items()
        }
        return positions + np.array([centres[name] for name in self.table.tomograms])

    def chosen(self, edge: str) -> list[int]:
        """Return the rows to cut: all, or those whose box lies inside.

        Raises
        ------
        ValueError
            If a box lies outside of its tomogram, or sticks out where that is refused, or none is left.
        """
        outside = self.outside
        lost = np.flatnonzero(outside >= 1.0)
        if len(lost) and edge != "skip":
            raise ArgumentError(
                "{names} lie outside of the tomogram: check {} and {}, or pass {} skip to leave them out",
                "pixel_size_angstrom",
                "centre",
                "edge",
                names=names_of(self.table, lost),
            )
        out = np.flatnonzero(outside > 0)
        if len(out) and edge == "refuse":
            names = names_of(self.table, out)
            raise ArgumentError(
                "the boxes of {names} stick out of the tomogram: pass {} pad or skip", "edge", names=names
            )
        rows = [row for row in range(len(self.table)) if edge != "skip" or outside[row] == 0]
        if not rows:
            what = "every box sticks out of its tomogram: check {}, {} and {}"
            raise ArgumentError(what, "pixel_size_angstrom", "centre", "box")
        return rows

    @cached_property
    def outside(self) -> NDArray[np.float64]:
        """The fraction of each particle's box that lies outside of its tomogram, (m,)."""
        from gonio.workflows.extraction import fraction_outside

        return np.array(
            [
                fraction_outside(self.positions_zyx[row], self.cutting, self.tomograms[name].shape_zyx)
                for row, name in enumerate(self.table.tomograms)
            ]
        )

    def image(self, row: int) -> str:
        """Return the file of a particle's subtomogram, as seen from the folder."""
        return f"subtomograms/{self._stems[self.table.tomograms[row]]}/{row + 1:06d}.mrc"

    @cached_property
    def _stems(self) -> dict[str, str]:
        from gonio.io.names import file_stems

        return file_stems(self.table.tomograms)

    def cut(self, row: int) -> None:
        """Cut, scale and write one subtomogram."""
        from gonio.alignment.particle_list import ParticleError
        from gonio.io import FormatError, write_volume
        from gonio.particle.volume import Volume
        from gonio.workflows.extraction import cut_out

        tomogram, size = self.tomograms[self.table.tomograms[row]], self.voxel_size_angstrom
        try:
            data = cut_out(tomogram.cut, tomogram.shape_zyx, self.positions_zyx[row], self.cutting).data
            mean, scale = self.scaling.level(data, size)
            made = self._in_frame(Volume((data - mean) / scale, size))
        except FormatError:
            raise
        except ValueError as error:
            raise ParticleError(f"particle {self.table.names[row]!r}: {error}") from error
        target = self.folder / self.image(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_volume(target, made, half_precision=self.float16)

    def _in_frame(self, box: Volume) -> Volume:
        """Return a box of the tomogram in the frame of the new list: mirrored in z where tilts are reversed."""
        from gonio.particle.volume import mirrored_volume

        return mirrored_volume(box, axis=0) if self.mirror else box

    def _positions_angstrom(self, rows: Sequence[int]) -> NDArray[np.float64]:
        """Return where boxes are in that frame, from the centre of the tomogram's first voxel, xyz, (m, 3)."""
        size = np.array([self.tomograms[self.table.tomograms[row]].voxel_size_angstrom for row in rows])
        places = self.positions_zyx[list(rows), ::-1] * size[:, None]
        if self.mirror:
            places[:, 2] -= 2.0 * np.array([self._place_angstrom(row)[2] for row in rows])
        return places

    def write_lists(self, rows: Sequence[int]) -> None:
        """Write particles.star, and the weights of its tomograms where tilt files were given."""
        from gonio.io.extracted import write_extracted

        chosen = self.table[list(rows)]
        columns = {**chosen.columns, "outside": np.round(self.outside[list(rows)], 4)}
        columns.pop(TILT_SENSE, None)  # boxes are of the right sense now
        stated = None
        if self.tilts.range_deg is not None:
            low, high = self.tilts.range_deg
            stated = (-high, -low, self.tilts.axis_deg) if self.mirror else (low, high, self.tilts.axis_deg)
        write_extracted(
            self.folder / "particles.star",
            replace(chosen, columns=columns),
            images=[self.image(row) for row in rows],
            positions_angstrom=self._positions_angstrom(rows),
            voxel_size_angstrom=self.voxel_size_angstrom,
            box=self.cutting.box,
            sizes={
                name: np.array([*tomogram.shape_zyx[::-1], tomogram.voxel_size_angstrom])
                for name, tomogram in self.tomograms.items()
            },
            centre=self.centre,
            wedges=self._wedges(rows) if self.tilts.files else None,
            tilt_range_deg=stated,
            mirrored=self.mirror,
        )

    def _wedges(self, rows: Sequence[int]) -> list[str]:
        """Write weights for each tomogram, or particle where depth matters; return the file of each particle."""
        from gonio.io import write_volume
        from gonio.io.wedges import tilt_wedges
        from gonio.particle.tilt_series import Weighting
        from gonio.particle.volume import Volume

        names, weighting = tuple(self.tomograms), self.tilts.weights
        of_tomogram = dict(zip(names, tilt_wedges(names, self.tilts.files, weighting=weighting), strict=True))
        listed, written = [], set()
        for row in rows:
            name, image = self.table.tomograms[row], Path(self.image(row))
            series, has_depth = of_tomogram[name].series, of_tomogram[name].has_depth
            file = f"wedges/{image.parent.name}/{image.name}" if has_depth else f"wedges/{image.parent.name}.mrc"
            listed.append(file)
            if file in written:
                continue
            written.add(file)
            place = self._place_angstrom(row) if has_depth else None
            size = self.voxel_size_angstrom
            made = series.weights(self.cutting.box, size, Weighting(weighting), place_angstrom=place)
            (self.folder / file).parent.mkdir(parents=True, exist_ok=True)
            write_volume(self.folder / file, self._in_frame(Volume(made.weights, size)))
        return listed

    def _place_angstrom(self, row: int) -> NDArray[np.float64]:
        """Return where a box is, from its tomogram's centre, xyz."""
        from gonio.io.conversion import CENTRES

        tomogram = self.tomograms[self.table.tomograms[row]]
        centre = CENTRES[self.centre](np.array(tomogram.shape_zyx, dtype=np.float64))
        return (self.positions_zyx[row] - centre)[::-1] * tomogram.voxel_size_angstrom

    def settings(self, edge: str) -> dict[str, object]:
        """Return the settings of the run."""
        return {
            "box": self.cutting.box,
            "binning": self.cutting.binning,
            "voxel_size_angstrom": self.voxel_size_angstrom,
            "contrast": "flipped" if self.scaling.invert else "as in the tomogram",
            "normalise": self.scaling.normalise,
            "diameter_angstrom": self.scaling.diameter_angstrom,
            "edge": edge,
            "centre": self.centre,
            "tilt_range_deg": self.tilts.range_deg,
            "tilt_axis_deg": None if self.tilts.range_deg is None else self.tilts.axis_deg,
            "tilts": self.tilts.files,
            "tilt_weights": self.tilts.weights,
            "tilt_sense": REVERSED if self.mirror else AS_LISTED,
            "float16": self.float16,
            "tomograms": {name: str(tomogram.path) for name, tomogram in self.tomograms.items()},
        }

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files of the list."""
        return self.table.files


def _placed_list(path: Path, pixel_size: float | None) -> ParticleTable:
    from gonio.io import FormatError

    table = read_list(path, pixel_size)
    if pixel_size is not None:
        warn_of_other_size(as_stated(path), pixel_size)
    if table.coordinates_angstrom is None:
        raise FormatError(path, "states no positions in a tomogram", "give a list with coordinates")
    check_angstrom(table)
    return table


def _opened(
    table: ParticleTable, paths: Sequence[Path], voxel_size: float | None, *, permissive: bool
) -> dict[str, Tomogram]:
    """Open the tomogram of each name in the list."""
    from gonio.io import FormatError
    from gonio.io.names import match
    from gonio.io.tomogram import holds_images, open_tomogram, tomogram_files

    files = tomogram_files(paths)
    names = tuple(dict.fromkeys(table.tomograms))
    if "" in names and len(files) > 1:
        raise ValueError(f"{table.files[0]} does not state which tomogram a particle is from: give a single tomogram")
    found = match(names, tuple(map(str, files)))
    opened = {name: open_tomogram(found[name], voxel_size_angstrom=voxel_size, permissive=permissive) for name in names}
    for tomogram in opened.values():
        if holds_images(tomogram.path, permissive=permissive):
            raise FormatError(tomogram.path, "is a stack of images, no tomogram", "pass --stacks to cut from images")
        if tomogram.voxel_size_angstrom <= 0:
            raise FormatError(tomogram.path, "does not state its voxel size", "pass --voxel-size ANGSTROM")
    return opened


def names_of(table: ParticleTable, rows: NDArray[np.int64]) -> str:
    """Return the names of particles in words, the first few of them."""
    return some((repr(table.names[row]) for row in rows), NAMED)
