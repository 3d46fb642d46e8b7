"""Cut tilt stacks from aligned tilt series at the positions of a list: ``gonio extract --stacks``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gonio.jobs.splitting import some
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.io.aligned_series import AlignedSeries
    from gonio.io.tilt_stacks import ListedSeries
    from gonio.particle.table import ParticleTable
    from gonio.particle.tilt_series import Optics
    from gonio.workflows.extraction import Cutting, Scaling


_NAMED = 10  # particles that are named one by one
# Voltage (kV), spherical aberration (mm) and amplitude contrast of a microscope of which nothing is known.
USUAL = (300.0, 2.7, 0.07)


@dataclass(frozen=True)
class StackCuts:
    """How tilt stacks are cut, and what files of IMOD and AreTomo do not state.

    Parameters
    ----------
    premultiply
        Multiply images by their contrast transfer, scale and decay with dose, as RELION and WarpTools do.
    voltage_kv, spherical_aberration_mm, amplitude_contrast
        The microscope of series that do not state it; None for 300 kV, 2.7 mm and 0.07.
    tomogram_size
        Size of every tomogram in pixels of the tilt series, x, y, z, where no file states it.
    """

    premultiply: bool = False
    voltage_kv: float | None = None
    spherical_aberration_mm: float | None = None
    amplitude_contrast: float | None = None
    tomogram_size: tuple[int, int, int] | None = None

    def opened(
        self, table: ParticleTable, paths: Sequence[Path], pixel_size: float | None, *, permissive: bool
    ) -> dict[str, AlignedSeries]:
        """Open the series of a list's tomograms, each with its optics.

        Raises
        ------
        ArgumentError
            A microscope is given, and the files state it.
        """
        from gonio.io.aligned_series import open_aligned

        names, size = tuple(dict.fromkeys(table.tomograms)), self.tomogram_size
        made = open_aligned(paths, names, pixel_size_angstrom=pixel_size, size_px=size, permissive=permissive)
        given = [one for one in ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast") if getattr(self, one)]
        for name, one in made.items():
            if one.series.optics is None:
                made[name] = replace(one, series=replace(one.series, optics=self._optics))
            elif given:
                what = "{} has no effect, as {path} states the microscope: leave it out"
                raise ArgumentError(what, given[0], path=one.tomograms_path)
        return made

    @property
    def _optics(self) -> Optics:
        from gonio.particle.tilt_series import Optics

        given = (self.voltage_kv, self.spherical_aberration_mm, self.amplitude_contrast)
        return Optics(*(usual if one is None else one for one, usual in zip(given, USUAL, strict=True)))


@dataclass
class StackExtraction:
    """A list, the tilt series of its particles by tomogram, and how stacks are cut from them.

    Parameters
    ----------
    cutting
        Box and binning; the padding holds what the lens spreads.
    centre
        Which point is a tomogram's centre, a key of ``gonio.io.conversion.CENTRES``, for positions from the corner.
    scaling, float16
        As in ``gonio.jobs.extract.extract``, for each image before it is multiplied by its transfer.
    """

    table: ParticleTable
    series: dict[str, AlignedSeries]
    cutting: Cutting
    scaling: Scaling
    centre: str
    float16: bool
    cuts: StackCuts
    folder: Path = field(default_factory=Path)

    @property
    def series_pixel_angstrom(self) -> float:
        """Pixel size of the tilt series."""
        return next(iter(self.series.values())).pixel_size_angstrom

    @property
    def voxel_size_angstrom(self) -> float:
        """Pixel size of the stacks."""
        return self.cutting.binning * self.series_pixel_angstrom

    def check(self) -> None:
        """Raise FormatError or ValueError for what does not fit together."""
        from gonio.io import FormatError
        from gonio.particle.volume import VOXEL_SIZE_TOLERANCE, same_size

        first = next(iter(self.series.values()))
        for name, one in self.series.items():
            size, other = one.pixel_size_angstrom, first.pixel_size_angstrom
            if not same_size(size, other, tolerance=VOXEL_SIZE_TOLERANCE):
                problem = f"has pixels of {size:g} angstrom, another series of {other:g}"
                raise FormatError(one.images[0][0].path, problem, "extract them one by one, or pass --voxel-size")
            if self.cuts.premultiply and one.series.defocus is None:
                problem = f"does not state the defocus of {name!r}, by whose transfer images are to be multiplied"
                raise FormatError(one.series.path, problem, "estimate the CTF, or extract without --premultiply")
        self.scaling.check(self.cutting.box, self.voxel_size_angstrom, dimensions=2)

    @cached_property
    def places_angstrom(self) -> NDArray[np.float64]:
        """Where particles are, from the centres of their tomograms, (m, 3), xyz.

        Raises
        ------
        FormatError
            If positions count from the corner of a tomogram whose size is not known.
        """
        from gonio.io import FormatError
        from gonio.io.conversion import CENTRES

        places = self.table.places_angstrom
        assert places is not None
        if self.table.coordinates_from == "centre":
            return places
        moved = np.array(places)
        for name, rows in self._rows_of.items():
            one = self.series[name]
            if one.size_px is None:
                problem = f"does not state the size of tomogram {name!r}, from whose corner positions count"
                raise FormatError(one.series.path, problem, "pass --tomogram-size X Y Z, in pixels of the tilt series")
            moved[rows] -= CENTRES[self.centre](np.array(one.size_px, dtype=np.float64)) * one.pixel_size_angstrom
        return moved

    @cached_property
    def _rows_of(self) -> dict[str, NDArray[np.intp]]:
        names = np.array(list(self.table.tomograms))
        return {name: np.flatnonzero(names == name) for name in self.series}

    @cached_property
    def visible(self) -> list[NDArray[np.bool_]]:
        """For each particle the images that its box lies inside of, (t,)."""
        return [self._visible(row) for row in range(len(self.table))]

    @cached_property
    def outside(self) -> NDArray[np.float64]:
        """The fraction of its series' images that do not show each particle, (m,)."""
        return np.array([1.0 - one.mean() for one in self.visible])

    def _visible(self, row: int) -> NDArray[np.bool_]:
        from gonio.workflows.extraction import fraction_outside

        one = self.series[self.table.tomograms[row]]
        positions = one.position_yx(self.places_angstrom[row])
        return np.array([fraction_outside(place, self.cutting, one.shape_yx) == 0.0 for place in positions])

    def chosen(self, edge: str) -> list[int]:
        """Return the rows to cut: those that an image shows, or that every image shows where ``edge`` is skip.

        Raises
        ------
        ValueError
            If no image shows a particle, or boxes stick out of images where that is refused, or none is left.
        """
        shown = 1.0 - self.outside
        if (shown == 0).any() and edge != "skip":
            names = some((repr(self.table.names[row]) for row in np.flatnonzero(shown == 0).tolist()), _NAMED)
            what = "the boxes of {names} lie inside of no image: check {} and {}, or pass {} skip to leave them out"
            raise ArgumentError(what, "pixel_size_angstrom", "centre", "edge", names=names)
        if (shown < 1).any() and edge == "refuse":
            names = some((repr(self.table.names[row]) for row in np.flatnonzero(shown < 1).tolist()), _NAMED)
            raise ArgumentError("the boxes of {names} stick out of images: pass {} pad or skip", "edge", names=names)
        rows = np.flatnonzero(shown == 1 if edge == "skip" else shown > 0).tolist()
        if not rows:
            what = "every box sticks out of an image: check {}, {} and {}"
            raise ArgumentError(what, "pixel_size_angstrom", "centre", "box")
        return rows

    def image(self, row: int) -> str:
        """Return the file of a particle's stack, as seen from the folder."""
        return f"stacks/{self._stems[self.table.tomograms[row]]}/{row + 1:06d}.mrcs"

    @cached_property
    def _stems(self) -> dict[str, str]:
        from gonio.io.names import file_stems

        return file_stems(self.table.tomograms)

    def cut(self, row: int) -> None:
        """Cut and write the stack of a particle."""
        from gonio.alignment.particle_list import ParticleError
        from gonio.io import FormatError
        from gonio.io.mrc import write_stack

        try:
            images = self.stack(row)
        except FormatError:
            raise
        except ValueError as error:
            raise ParticleError(f"particle {self.table.names[row]!r}: {error}") from error
        target = self.folder / self.image(row)
        if self.float16 and np.abs(images).max() > np.finfo(np.float16).max:
            raise FormatError(target, "has values beyond 65504, which float16 cannot hold", "write float32")
        target.parent.mkdir(parents=True, exist_ok=True)
        write_stack(target, images.astype(np.float16) if self.float16 else images, self.voxel_size_angstrom)

    def stack(self, row: int) -> NDArray[np.float32]:
        """Return the visible images of a particle, (t, n, n)."""
        one = self.series[self.table.tomograms[row]]
        positions = one.position_yx(self.places_angstrom[row])
        tilts = np.flatnonzero(self.visible[row]).tolist()
        transfers = self._transfers(row) if self.cuts.premultiply else [None] * len(positions)
        return np.stack([self._cut_image(one, tilt, positions[tilt], transfers[tilt]) for tilt in tilts])

    def _cut_image(
        self, one: AlignedSeries, tilt: int, position_yx: NDArray[np.float64], transfer: NDArray[np.float64] | None
    ) -> NDArray[np.float32]:
        from gonio.workflows.extraction import cut_out

        def read(low: Sequence[int], high: Sequence[int]) -> NDArray[np.float32]:
            return one.cut(int(tilt), low, high)

        cut = cut_out(read, one.shape_yx, position_yx, self.cutting, transfer=transfer)
        mean, scale = self.scaling.level(cut.data if cut.before is None else cut.before, self.voxel_size_angstrom)
        if transfer is not None:
            mean = 0.0  # what is multiplied has none
        return ((cut.data - mean) / scale).astype(np.float32)

    def _transfers(self, row: int) -> NDArray[np.float64]:
        """Return the transfer of each image of a particle on the half grid of padded images, (t, n, n // 2 + 1)."""
        from gonio.particle.ctf import image_transfer

        series, padded = self.series[self.table.tomograms[row]].series, self.cutting.padded
        ky, kx = np.fft.fftfreq(padded, self.voxel_size_angstrom), np.fft.rfftfreq(padded, self.voxel_size_angstrom)
        frequency = np.stack(np.broadcast_arrays(kx, ky[:, None]), axis=-1).reshape(-1, 2)
        transfer = image_transfer(
            frequency,
            series.ctf(place_angstrom=self.places_angstrom[row]),
            scale=series.scale,
            dose=series.dose,
            bfactor_per_dose=series.bfactor_per_dose,
        )
        return transfer.reshape(len(series), padded, -1)

    def write_lists(self, rows: Sequence[int]) -> None:
        """Write particles.star, tomograms.star with the tilt series, and optimisation_set.star."""
        from gonio.io.conversion import TomogramSizes
        from gonio.io.extracted import OUTDATED
        from gonio.io.tilt_geometry import rewrite_tomograms
        from gonio.io.tilt_stacks import write_optimisation_set, write_stack_list, write_tomograms
        from gonio.particle.pose import Pose

        chosen = self.table[list(rows)]
        turned = chosen.tomogram_poses.rotation
        table = replace(
            chosen,
            poses=Pose(turned, np.zeros((len(rows), 3))),
            coordinates_angstrom=self.places_angstrom[list(rows)],
            coordinates_from="centre",
            extras={label: values for label, values in chosen.extras.items() if label not in OUTDATED},
            frames=None,
        )
        series = [self.series[name].series for name in table.tomograms]
        write_stack_list(
            self.folder / "particles.star",
            table,
            images=[self.image(row) for row in rows],
            visible=[self.visible[row] for row in rows],
            series_pixel_angstrom=self.series_pixel_angstrom,
            image_pixel_angstrom=self.voxel_size_angstrom,
            box=self.cutting.box,
            premultiplied=self.cuts.premultiply,
            optics=[one.optics for one in series if one.optics is not None],
            sizes=TomogramSizes(),
        )
        first = next(iter(self.series.values()))
        if first.tomograms_path is None:
            write_tomograms(self.folder / "tomograms.star", self._listed())
        else:
            rewrite_tomograms(self.folder / "tomograms.star", first.tomograms_path)
        write_optimisation_set(self.folder)

    def settings(self, edge: str) -> dict[str, object]:
        """Return the settings of the run."""
        return {
            "box": self.cutting.box,
            "binning": self.cutting.binning,
            "padding": self.cutting.margin,
            "pixel_size_angstrom": self.voxel_size_angstrom,
            "contrast": "flipped" if self.scaling.invert else "as in the images",
            "normalise": self.scaling.normalise,
            "diameter_angstrom": self.scaling.diameter_angstrom,
            "edge": edge,
            "centre": self.centre,
            "float16": self.float16,
            "stacks": asdict(self.cuts),
            "optics": {name: str(one.series.optics) for name, one in self.series.items()},
            "tilt_series": {name: str(one.series.path) for name, one in self.series.items()},
        }

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The lists and alignments that were read."""
        lists = {one.tomograms_path for one in self.series.values() if one.tomograms_path is not None}
        return tuple(dict.fromkeys((*self.table.files, *sorted(lists), *(s.series.path for s in self.series.values()))))

    def _listed(self) -> list[ListedSeries]:
        from gonio.io.tilt_stacks import ListedSeries

        listed = []
        for name, one in self.series.items():
            images = [f"{section + 1}@{stack.path.resolve()}" for stack, section in one.images]
            listed.append(ListedSeries(name, one.series, images, one.pixel_size_angstrom, one.size_px))
        return listed
