"""``gonio extract``: subtomograms from tomograms, at the positions of a list."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from gonio.cli.options import (
    AS_LISTED,
    WEIGHTINGS,
    Overwrite,
    Permissive,
    ReverseTilts,
    Threads,
    TiltAxis,
    TiltFiles,
    TiltRange,
    TiltWeights,
    positive,
    thread_count,
    tilt_sense,
    wedge_of,
)
from gonio.cli.output import naming, progress, write_settings
from gonio.run.folder import result_folder

if TYPE_CHECKING:
    from gonio.io.tomogram import Tomogram
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.workflows.extraction import Cutting

REVERSED = "reversed"
EDGES = ("pad", "skip", "refuse")
NORMALISATIONS = ("outside", "box", "none")
NAMED = 10  # particles that are named one by one
LARGEST_EDGE = 4096


def extract(
    tomograms: Annotated[
        list[Path],
        typer.Argument(
            metavar="TOMOGRAM",
            help="MRC, MRC.gz, EM or OME-Zarr; or folders of them. Particles find theirs by name.",
        ),
    ],
    particles: Annotated[Path, typer.Argument(metavar="LIST", help="Particle list of any format.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to make.")],
    box: Annotated[
        int, typer.Option("--box", metavar="N", min=8, max=LARGEST_EDGE, help="Edge of the result, voxels.")
    ],
    binning: Annotated[
        int,
        typer.Option("--bin", metavar="N", min=1, help="Voxels of the tomogram along an edge of one of the result."),
    ] = 1,
    invert: Annotated[
        bool, typer.Option("--invert", help="Flip the contrast: for tomograms whose particles are dark.")
    ] = False,
    normalise: Annotated[
        str,
        typer.Option(
            metavar="outside|box|none",
            help="Make mean 0 and standard deviation 1: outside the sphere of --diameter, or of the whole box.",
        ),
    ] = "outside",
    diameter: Annotated[
        float | None,
        typer.Option(
            metavar="A", callback=positive, help="Of that sphere, angstrom. Default: the largest that fits the box."
        ),
    ] = None,
    edge: Annotated[
        str,
        typer.Option(
            metavar="pad|skip|refuse",
            help="Boxes that stick out of the tomogram: fill them with their mean, leave them out, or stop.",
        ),
    ] = "pad",
    centre: Annotated[
        str,
        typer.Option(
            metavar="size/2|size/2-1|floor",
            help="Which voxel is the centre that coordinates may start at: size/2 in RELION itself, size/2-1 in its"
            " Python pickers.",
        ),
    ] = "size/2",
    pixel_size: Annotated[
        float | None,
        typer.Option(
            "--pixel-size", metavar="A", callback=positive, help="Of the pixels that LIST counts in, angstrom."
        ),
    ] = None,
    voxel_size: Annotated[
        float | None,
        typer.Option(
            "--voxel-size",
            metavar="A",
            callback=positive,
            help="Of the tomograms, angstrom, in place of their headers.",
        ),
    ] = None,
    tilt_range: TiltRange = None,
    tilt_axis: TiltAxis = 90.0,
    tilts: TiltFiles = None,
    tilt_weights: TiltWeights = "plain",
    reverse_tilts: ReverseTilts = False,
    float16: Annotated[bool, typer.Option("--float16", help="Write MRC files of half the size (mode 12).")] = False,
    permissive: Permissive = False,
    threads: Threads = None,
    overwrite: Overwrite = False,
) -> None:
    """Cut subtomograms from tomograms.

    Each box is cut where its particle is: at the listed position plus the listed shift, between voxels by a phase in
    Fourier space; the shift in the new list is 0. Boxes are not turned: angles are those of the list, in the tomogram.
    --bin cuts the spectrum, so that nothing is aliased. Tomograms are read only where particles are.

    DIR/particles.star lists the subtomograms for RELION 5 and `gonio align`, with every other column of LIST and
    gonioOutside, which share of a box lay outside of the tomogram. With --tilt-range or --tilts it tells the wedge.

    --reverse-tilts mirrors tomograms that were reconstructed with the wrong tilt sense, in z: boxes, angles, positions
    and wedges in DIR are those of the mirror image, whose particles have the specimen's hand.

    Example: `gonio extract TS_01.mrc TS_02.mrc picked.star --box 64 --invert --tilts tilts/ -o subtomograms`
    """
    from gonio.io.conversion import CENTRES
    from gonio.run.engine import Local
    from gonio.workflows.extraction import Cutting

    for option, value, known in (
        ("--edge", edge, EDGES),
        ("--normalise", normalise, NORMALISATIONS),
        ("--centre", centre, tuple(CENTRES)),
        ("--tilt-weights", tilt_weights, WEIGHTINGS),
    ):
        if value not in known:
            raise ValueError(f"{option} must be one of {', '.join(known)}, got {value!r}")
    if tilts and tilt_range:
        raise ValueError("--tilts and --tilt-range exclude each other: give one")
    wedge_of(tilt_range, tilt_axis)  # which checks the range
    table = _read_list(particles, pixel_size)
    opened = _opened(table, tomograms, voxel_size, permissive=permissive)
    mirror = reverse_tilts or tilt_sense(table) != AS_LISTED
    job = Extraction(table, opened, Cutting(box, binning), centre, normalise, diameter, invert, float16, mirror)
    job.check()
    if tilts:
        job.check_tilts(tilts, tilt_weights)
    with result_folder(output, overwrite=overwrite) as folder:
        job.folder = folder
        chosen = job.chosen(edge)
        shares = np.zeros(len(table))
        with progress("extracting", len(chosen)) as done:
            cut = Local(thread_count(threads))("extracting", _Item(job, chosen), len(chosen), keep=False)
            for number, (row, share) in enumerate(zip(chosen, cut, strict=True), 1):
                shares[row] = share
                done(number)
        job.write_list(chosen, shares, tilts or (), tilt_weights, (*tilt_range, tilt_axis) if tilt_range else None)
        write_settings(
            folder / "settings.toml",
            {
                "box": box,
                "binning": binning,
                "voxel_size_angstrom": job.voxel_size_angstrom,
                "contrast": "flipped" if invert else "as in the tomogram",
                "normalise": normalise,
                "diameter_angstrom": diameter,
                "edge": edge,
                "centre": centre,
                "tilt_range_deg": tilt_range,
                "tilt_axis_deg": tilt_axis,
                "tilts": tuple(tilts or ()),
                "tilt_weights": tilt_weights,
                "tilt_sense": REVERSED if mirror else AS_LISTED,
                "float16": float16,
                "tomograms": {name: str(tomogram.path) for name, tomogram in opened.items()},
            },
            inputs=table.files,
        )
    _tell(job, chosen, shares, output)


@dataclass
class Extraction:
    """A list, the tomograms of its particles by name, and how boxes are cut of them."""

    table: ParticleTable
    tomograms: dict[str, Tomogram]
    cutting: Cutting
    centre: str
    normalise: str
    diameter_angstrom: float | None
    invert: bool
    float16: bool
    mirror: bool = False
    folder: Path = field(default_factory=Path)

    @property
    def voxel_size_angstrom(self) -> float:
        """Of the subtomograms."""
        return self.cutting.binning * next(iter(self.tomograms.values())).voxel_size_angstrom

    @property
    def radius_px(self) -> float | None:
        """Of the sphere outside of which boxes are scaled; None for the whole box."""
        if self.normalise != "outside":
            return None
        if self.diameter_angstrom is None:
            return 0.5 * self.cutting.box - 0.5
        return 0.5 * self.diameter_angstrom / self.voxel_size_angstrom

    def check(self) -> None:
        """Raise ValueError or FormatError for what does not fit together."""
        from gonio.io import FormatError

        first = next(iter(self.tomograms.values()))
        for tomogram in self.tomograms.values():
            if abs(tomogram.voxel_size_angstrom / first.voxel_size_angstrom - 1) > 1e-3:
                problem = (
                    f"has voxels of {tomogram.voxel_size_angstrom:g} angstrom, {first.path} of"
                    f" {first.voxel_size_angstrom:g}"
                )
                raise FormatError(tomogram.path, problem, "extract them one by one, or pass --voxel-size")
        if self.radius_px is not None and self.radius_px >= 0.5 * np.sqrt(3) * (self.cutting.box - 1):
            edge = self.cutting.box * self.voxel_size_angstrom
            raise ValueError(f"--diameter {self.diameter_angstrom:g} leaves nothing of a box of {edge:g} angstrom")

    def check_tilts(self, tilts: Sequence[Path], weighting: str) -> None:
        """Raise FormatError for tilt files that do not fit: better now than after an hour of cutting."""
        from gonio.io.wedges import tilt_wedges

        tilt_wedges(tuple(self.tomograms), tilts, weighting=weighting)

    @cached_property
    def positions_zyx(self) -> NDArray[np.float64]:
        """Where particles are, in voxels of their tomograms from the centre of the first, shape (m, 3)."""
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
        """The rows to cut: all, or those whose box lies inside.

        Raises
        ------
        ValueError
            If a box lies outside of its tomogram, or sticks out where that is refused, or none is left.
        """
        outside = self._outside()
        lost = np.flatnonzero(outside >= 1.0)
        if len(lost) and edge != "skip":
            raise ValueError(
                f"{_names(self.table, lost)} lie outside of the tomogram: check --pixel-size and --centre, or pass"
                " --edge skip to leave them out"
            )
        out = np.flatnonzero(outside > 0)
        if len(out) and edge == "refuse":
            raise ValueError(
                f"the boxes of {_names(self.table, out)} stick out of the tomogram: pass --edge pad or skip"
            )
        rows = [row for row in range(len(self.table)) if edge != "skip" or outside[row] == 0]
        if not rows:
            raise ValueError("every box sticks out of its tomogram: check --pixel-size, --centre and --box")
        return rows

    def _outside(self) -> NDArray[np.float64]:
        from gonio.workflows.extraction import share_outside

        return np.array(
            [
                share_outside(self.positions_zyx[row], self.cutting, self.tomograms[name].shape_zyx)
                for row, name in enumerate(self.table.tomograms)
            ]
        )

    def image(self, row: int) -> str:
        """Where a particle's subtomogram goes, as seen from the folder."""
        name = re.sub(r"[^0-9A-Za-z._+-]+", "_", _short(self.table.tomograms[row])) or "tomogram"
        return f"subtomograms/{name}/{row + 1:06d}.mrc"

    def cut(self, row: int) -> float:
        """Cut, scale and write one subtomogram; which share of its box lay outside."""
        from gonio.io import write_volume
        from gonio.particle.volume import Volume
        from gonio.workflows.extraction import cut_out, normalised

        tomogram = self.tomograms[self.table.tomograms[row]]
        with naming(lambda: self.table.names[row]):
            cut = cut_out(tomogram.cut, tomogram.shape_zyx, self.positions_zyx[row], self.cutting)
            data = -cut.data if self.invert else cut.data
            if self.normalise != "none":
                data = normalised(data, radius_px=self.radius_px)
            made = self._in_frame(Volume(data, self.voxel_size_angstrom))
        target = self.folder / self.image(row)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_volume(target, made, half_precision=self.float16)
        return cut.outside

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

    def write_list(
        self,
        rows: Sequence[int],
        shares: NDArray[np.float64],
        tilts: Sequence[Path],
        weighting: str,
        tilt_range_deg: tuple[float, float, float] | None,
    ) -> None:
        """particles.star, and the weights of its tomograms where tilt files were given."""
        from dataclasses import replace

        from gonio.io.extracted import Extracted, write_extracted
        from gonio.io.source import TILT_SENSE

        chosen = self.table[list(rows)]
        columns = {**chosen.columns, "outside": np.round(shares[list(rows)], 4)}
        columns.pop(TILT_SENSE, None)  # boxes are of the right sense now
        if self.mirror and tilt_range_deg is not None:
            low, high, axis = tilt_range_deg
            tilt_range_deg = (-high, -low, axis)
        extracted = Extracted(
            [self.image(row) for row in rows],
            self._positions_angstrom(rows),
            self.voxel_size_angstrom,
            self.cutting.box,
            {
                name: np.array([*tomogram.shape_zyx[::-1], tomogram.voxel_size_angstrom])
                for name, tomogram in self.tomograms.items()
            },
            self.centre,
            self._wedges(rows, tilts, weighting) if tilts else None,
            tilt_range_deg,
            mirrored=self.mirror,
        )
        write_extracted(self.folder / "particles.star", replace(chosen, columns=columns), extracted)

    def _wedges(self, rows: Sequence[int], tilts: Sequence[Path], weighting: str) -> list[str]:
        """A volume of weights for each tomogram, or particle where depth matters; the file that each particle has."""
        from gonio.io import write_volume
        from gonio.io.wedges import tilt_wedges
        from gonio.particle.tilt_series import Weighting
        from gonio.particle.volume import Volume

        names = tuple(self.tomograms)
        of_tomogram = dict(zip(names, tilt_wedges(names, tilts, weighting=weighting), strict=True))
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


@dataclass(frozen=True)
class _Item:
    """Cuts the i-th of the chosen rows."""

    job: Extraction
    rows: Sequence[int]

    def __call__(self, index: int) -> float:
        return self.job.cut(self.rows[index])


def _read_list(path: Path, pixel_size: float | None) -> ParticleTable:
    from gonio.io import FormatError
    from gonio.io.lists import read_with
    from gonio.io.source import ReadOptions

    table = read_with(path, ReadOptions(pixel_size_angstrom=pixel_size, may_count_pixels=True))
    if table.coordinates_angstrom is None:
        raise FormatError(path, "says no positions in a tomogram", "give a list with coordinates")
    if table.lengths == "pixels":
        raise FormatError(path, "counts in pixels and does not say their size", "pass --pixel-size ANGSTROM")
    return table


def _opened(
    table: ParticleTable, paths: Sequence[Path], voxel_size: float | None, *, permissive: bool
) -> dict[str, Tomogram]:
    """The tomogram of each name in the list."""
    from gonio.io import FormatError
    from gonio.io.names import match
    from gonio.io.tomogram import open_tomogram, tomogram_files

    files = tomogram_files(paths)
    names = tuple(dict.fromkeys(table.tomograms))
    if "" in names and len(files) > 1:
        raise ValueError(f"{table.files[0]} does not say which tomogram a particle is from: give a single tomogram")
    found = match(names, tuple(map(str, files)))
    opened = {name: open_tomogram(found[name], voxel_size_angstrom=voxel_size, permissive=permissive) for name in names}
    for tomogram in opened.values():
        if tomogram.voxel_size_angstrom <= 0:
            raise FormatError(tomogram.path, "does not say its voxel size", "pass --voxel-size ANGSTROM")
    return opened


def _short(name: str) -> str:
    from gonio.io.names import stem

    return stem(name)


def _names(table: ParticleTable, rows: NDArray[np.int64]) -> str:
    named = ", ".join(repr(table.names[row]) for row in rows[:NAMED])
    return named + (f" and {len(rows) - NAMED} more" if len(rows) > NAMED else "")


def _tell(job: Extraction, rows: Sequence[int], shares: NDArray[np.float64], output: Path) -> None:
    table = job.table
    for name, tomogram in job.tomograms.items():
        size = " x ".join(map(str, tomogram.shape_zyx[::-1]))
        count = sum(table.tomograms[row] == name for row in rows)
        print(f"{name or 'all'}: {count} particles from {tomogram.path} ({tomogram.kind}, {size} voxels)")
        if table.coordinates_from == "centre" and any(n % 2 for n in tomogram.shape_zyx):
            print(f"  odd edges: the centre that coordinates start at lies between two voxels (--centre {job.centre})")
    left = sorted({*range(len(table))} - {*rows})
    padded = np.flatnonzero(shares > 0)
    if left:
        print(f"left out, as their boxes stick out: {_names(table, np.array(left))}")
    if len(padded):
        print(f"filled with their mean where they stick out: {_names(table, padded)} (gonioOutside tells how much)")
    if job.mirror:
        print("tilts were read reversed: boxes, angles and positions are those of the tomograms' mirror image in z")
    contrast = "flipped" if job.invert else "as in the tomogram"
    scaled = {"none": "not scaled", "box": "mean 0 and sd 1", "outside": "mean 0 and sd 1 outside of the particle"}
    print(
        f"wrote {len(rows)} subtomograms of {job.cutting.box}^3 voxels of {job.voxel_size_angstrom:g} A, contrast"
        f" {contrast}, {scaled[job.normalise]}: {output / 'particles.star'}"
    )
