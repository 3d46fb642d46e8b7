"""Make sets of tilt stacks whose true geometry is known: ``gonio simulate --stacks``."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from gonio.jobs.files import write_text
from gonio.particle.arguments import ArgumentError
from gonio.run.executor import Executor

if TYPE_CHECKING:
    from gonio.io.tilt_stacks import ListedSeries
    from gonio.particle.table import ParticleTable
    from gonio.simulate import Density
    from gonio.simulate.slices import Slices
    from gonio.simulate.specimen import Acquisition, GeometryErrors, Specimen, TrueSeries


USUAL_DEFOCUS_ANGSTROM = (20_000.0, 40_000.0)
# Particles, spread over the list, of which the mean variance is that of noise-free images.
SAMPLED = 64
# Voxels of a tomogram above and below its ice.
HEADROOM = 1.25


@dataclass(frozen=True)
class StackOptions:
    """Tilt series to simulate, and by how much their true geometry differs from the one that is written.

    ``gonio.simulate.specimen`` describes the parameters: those of ``Acquisition`` and ``GeometryErrors``, and

    tomograms
        How many; particles are dealt out evenly.
    field_angstrom, thickness_angstrom
        Diameter of the disc, and thickness of the ice, in which particles lie.
    ice_loss
        Whether tilted ice weakens images, which the written geometry does not state.
    tilt_images
        Write whole tilt images too, in which particles are dark.
    reconstruction_binning
        Write whole tomograms too, reconstructed with the nominal geometry, of voxels of so many pixels; None for none.
    defocus_angstrom
        None for 20,000 to 40,000.
    """

    tomograms: int = 1
    tilt_step_deg: float = 3.0
    image_axis_deg: float = 85.0
    dose: float = 3.0
    defocus_angstrom: tuple[float, float] | None = None
    defocus_hand: int = -1
    field_angstrom: float = 4000.0
    thickness_angstrom: float = 1500.0
    shift_error_angstrom: float = 0.0
    tilt_error_deg: float = 0.0
    axis_error_deg: float = 0.0
    pitch_error_deg: float = 0.0
    defocus_error_angstrom: float = 0.0
    astigmatism_error_angstrom: float = 0.0
    deformation_angstrom: float = 0.0
    motion_angstrom: float = 0.0
    ice_loss: bool = False
    tilt_images: bool = False
    reconstruction_binning: int | None = None

    def __post_init__(self) -> None:
        if self.motion_angstrom and not self.dose:
            raise ArgumentError("{} needs {} above 0: particles move with the exposure", "motion_angstrom", "dose")
        if self.reconstruction_binning is not None and self.reconstruction_binning < 1:
            raise ArgumentError("{} must be 1 or more", "reconstruction_binning")

    def acquisition(self, tilt_range_deg: tuple[float, float], *, ctf: bool, amplitude_contrast: float) -> Acquisition:
        """Return how series are taken; ArgumentError for what is said of the lens where there is none."""
        from gonio.simulate.microscope import tilt_angles_deg
        from gonio.simulate.specimen import Acquisition

        for argument in ("defocus_angstrom", "defocus_error_angstrom", "astigmatism_error_angstrom"):
            if not ctf and getattr(self, argument):
                raise ArgumentError("{} is of the lens, and {} none has none: leave it out", argument, "ctf")
        base = Acquisition(
            tilt_angles_deg(*tilt_range_deg, step_deg=self.tilt_step_deg),
            self.image_axis_deg,
            self.dose,
            (self.defocus_angstrom or USUAL_DEFOCUS_ANGSTROM) if ctf else None,
            self.defocus_hand,
        )
        return replace(base, optics=replace(base.optics, amplitude_contrast=amplitude_contrast))

    @property
    def errors(self) -> GeometryErrors:
        """Standard deviations of the differences between true and nominal geometry."""
        from gonio.simulate.specimen import GeometryErrors

        given = {one.name: getattr(self, one.name) for one in fields(GeometryErrors) if hasattr(self, one.name)}
        return GeometryErrors(**given, ice_angstrom=self.thickness_angstrom if self.ice_loss else 0.0)


@dataclass
class StackSimulation:
    """Particles of several tomograms as tilt stacks: everything that is drawn, and how it is imaged.

    Parameters
    ----------
    density
        The particle.
    options, acquisition
        What is simulated.
    count, box, pixel_size_angstrom
        How many particles in all, the edge of a stack's images and the size of a pixel.
    max_shift_angstrom
        How far listed positions are off, along each axis.
    snr
        Variance of noise-free images within the box over that of the noise, which is 1; infinite for no noise.
    seed
        Of all that is drawn.
    """

    density: Density
    options: StackOptions
    acquisition: Acquisition
    count: int
    box: int
    pixel_size_angstrom: float
    max_shift_angstrom: float
    snr: float
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.options.tomograms <= self.count:
            what = "{} must be 1 or more, and no more than {}, got {got!r}"
            raise ArgumentError(what, "tomograms", "count", got=self.options.tomograms)
        if not self.snr > 0:
            raise ArgumentError("{} must be positive, inf for no noise, got {got!r}", "snr", got=self.snr)

    @cached_property
    def parts(self) -> list[NDArray[np.intp]]:
        """Particles of each tomogram, by their number."""
        return np.array_split(np.arange(self.count), self.options.tomograms)

    @cached_property
    def names(self) -> list[str]:
        """Names of the tomograms."""
        digits = len(str(self.options.tomograms))
        return [f"TS_{number:0{max(digits, 2)}d}" for number in range(1, self.options.tomograms + 1)]

    @cached_property
    def drawn(self) -> list[tuple[Specimen, TrueSeries]]:
        """The specimen and the series of each tomogram."""
        return [self._draw(number) for number in range(self.options.tomograms)]

    def _draw(self, number: int) -> tuple[Specimen, TrueSeries]:
        from gonio.particle.pose import Pose
        from gonio.simulate.specimen import Specimen, TrueSeries, scattered_places

        rng, options, count = np.random.default_rng((self.seed, 0, number)), self.options, len(self.parts[number])
        places = scattered_places(
            count,
            field_angstrom=options.field_angstrom,
            thickness_angstrom=options.thickness_angstrom,
            distance_angstrom=2.0 * self.density.radius_angstrom,
            rng=rng,
        )
        poses = Pose.random(count, rng=rng, max_shift_angstrom=self.max_shift_angstrom)
        series = TrueSeries.drawn(
            self.acquisition,
            options.errors,
            path=Path(f"{self.names[number]}.star"),
            count=count,
            field_angstrom=options.field_angstrom,
            rng=rng,
        )
        return Specimen(places - poses.shift_angstrom, poses), series

    @cached_property
    def slices(self) -> Slices:
        """The particle, ready to be projected on fields of twice the box: what the lens spreads stays inside."""
        from gonio.simulate.slices import Slices

        return Slices.of(self.density, edge=2 * self.box, pixel_size_angstrom=self.pixel_size_angstrom)

    @cached_property
    def gain(self) -> float:
        """Factor of noise-free images that gives them the wanted variance over that of the noise."""
        variances = []
        for index in np.unique(np.linspace(0, self.count - 1, min(self.count, SAMPLED)).round().astype(int)).tolist():
            centres = np.full((len(self.acquisition.tilts_deg), 2), float(self.box))
            variances.append(self._window(self._clean(*self._whose(index), centres)).var(dtype=np.float64))
        wanted = 1.0 if np.isinf(self.snr) else self.snr
        return float(np.sqrt(wanted / np.mean(variances)))

    def _clean(self, number: int, particle: int, positions_px: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return noise-free images of a particle on fields, at positions (t, 2) in these, in units of the density."""
        specimen, series = self.drawn[number]
        spectra = self.slices.spectra(series.matrices(specimen, particle))
        transfer = series.transfer(specimen, particle, self.slices.frequencies_per_angstrom)  # (t, s)
        spectra *= transfer.reshape(spectra.shape).astype(np.float32)
        return self.slices.images(spectra, positions_px)

    def _window(self, fields: NDArray[np.float32]) -> NDArray[np.float32]:
        first = self.box - self.box // 2
        return fields[:, first : first + self.box, first : first + self.box]

    def _noise(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32) if np.isinf(self.snr) else rng.standard_normal(shape, dtype=np.float32)

    def stack(self, number: int, particle: int) -> NDArray[np.float32]:
        """Return the stack of a particle, cut out where the nominal geometry has it, (t, n, n)."""
        specimen, series = self.drawn[number]
        expected = series.nominal.positions_angstrom(specimen.listed_angstrom[particle])
        offset = (series.positions_angstrom(specimen, particle) - expected) / self.pixel_size_angstrom
        images = self.gain * self._window(self._clean(number, particle, self.box + offset))
        rng = np.random.default_rng((self.seed, 1, number, particle))
        return (images + self._noise(rng, images.shape)).astype(np.float32)

    def tilt_images(self, number: int) -> NDArray[np.float32]:
        """Return the whole images of a tomogram, in which all particles are dark, (t, y, x)."""
        specimen, series = self.drawn[number]
        edge = self.image_edge
        images = np.zeros((len(series.nominal), edge + 4 * self.box, edge + 4 * self.box), np.float32)
        for particle in range(len(specimen)):
            places = series.positions_angstrom(specimen, particle) / self.pixel_size_angstrom + edge // 2
            whole = np.floor(places).astype(int)
            fields = self._clean(number, particle, self.box + places - whole)
            for image, one, (x, y) in zip(images, fields, np.clip(whole, -self.box, edge + self.box), strict=True):
                # The field's centre, pixel ``box``, lies at (x, y); the images have a border of two boxes.
                image[y + self.box : y + 3 * self.box, x + self.box : x + 3 * self.box] += one
        inner = slice(2 * self.box, 2 * self.box + edge)
        clean = self.gain * images[:, inner, inner]
        rng = np.random.default_rng((self.seed, 2, number))
        return -(clean + self._noise(rng, clean.shape)).astype(np.float32)

    @property
    def image_edge(self) -> int:
        """Edge of a whole image: the field with a box about its border, an even number of pixels."""
        return 2 * int(np.ceil(0.5 * self.options.field_angstrom / self.pixel_size_angstrom)) + self.box // 2 * 2

    @property
    def tomogram_size_px(self) -> tuple[int, int, int]:
        """Size of a tomogram in pixels of the tilt images, xyz: an even number of voxels of the reconstruction.

        So the centre of the listed size is that of the reconstruction, whose voxels are whole.
        """
        step = 2 * (self.options.reconstruction_binning or 1)
        height = HEADROOM * self.options.thickness_angstrom / self.pixel_size_angstrom
        edge, height = (step * int(np.ceil(size / step)) for size in (self.image_edge, height))
        return edge, edge, height

    def tomogram(self, number: int) -> NDArray[np.float32]:
        """Return the whole tomogram that the nominal geometry gives of the images, in which particles are dark."""
        from gonio.simulate.reconstruction import reconstructed

        binning = self.options.reconstruction_binning or 1
        z, y, x = (size // binning for size in reversed(self.tomogram_size_px))
        return reconstructed(
            self.tilt_images(number),
            self.drawn[number][1].nominal,
            pixel_size_angstrom=self.pixel_size_angstrom,
            shape_zyx=(z, y, x),
            binning=binning,
        )

    def image(self, index: int) -> str:
        """Return the file of a particle's stack, as seen from the folder."""
        number, particle = self._whose(index)
        return f"stacks/{self.names[number]}/{particle + 1:06d}.mrcs"

    def _whose(self, index: int) -> tuple[int, int]:
        number = next(n for n, part in enumerate(self.parts) if index <= part[-1])
        return number, int(index - self.parts[number][0])

    def particle(self, index: int) -> NDArray[np.float32]:
        """Return the stack of a particle, by its number in the list, (t, n, n)."""
        return self.stack(*self._whose(index))

    def write(self, folder: Path, *, executor: Executor) -> None:
        """Write stacks, lists, the nominal geometry and the truth into an existing folder."""
        from gonio.io.mrc import write_stack

        _ = self.gain, self.slices  # which workers share
        for name in self.names:
            (folder / "stacks" / name).mkdir(parents=True)
        for index, images in enumerate(executor("simulating", self.particle, self.count)):
            write_stack(folder / self.image(index), images, self.pixel_size_angstrom)
        if self.options.tilt_images:
            (folder / "tilt_images").mkdir()
            whole = executor("imaging", _WholeImages(self), len(self.names), keep=False)
            for name, images in zip(self.names, whole, strict=True):
                write_stack(folder / "tilt_images" / f"{name}.mrcs", images, self.pixel_size_angstrom)
        if self.options.reconstruction_binning is not None:
            self._write_tomograms(folder / "tomograms", self.options.reconstruction_binning, executor)
        self._write_lists(folder)
        (folder / "truth").mkdir()
        self._write_truth(folder / "truth")

    def _write_tomograms(self, folder: Path, binning: int, executor: Executor) -> None:
        from gonio.io.mrc import write_mrc

        folder.mkdir()
        whole = executor("reconstructing", _Tomograms(self), len(self.names), keep=False)
        for name, tomogram in zip(self.names, whole, strict=True):
            write_mrc(folder / f"{name}.mrc", tomogram, binning * self.pixel_size_angstrom)

    def _write_lists(self, folder: Path) -> None:
        from gonio.io.conversion import TomogramSizes
        from gonio.io.tilt_stacks import write_optimisation_set, write_stack_list, write_tomograms
        from gonio.particle.pose import Pose

        write_tomograms(folder / "tomograms.star", self._listed("", true=False))
        write_optimisation_set(folder)
        table = self.table
        everywhere = np.ones(len(self.acquisition.tilts_deg), bool)
        for name, poses in (("truth.star", table.poses), ("particles.star", Pose.identity(self.count))):
            write_stack_list(
                folder / name,
                replace(table, poses=poses),
                images=[self.image(index) for index in range(self.count)],
                visible=[everywhere] * self.count,
                series_pixel_angstrom=self.pixel_size_angstrom,
                image_pixel_angstrom=self.pixel_size_angstrom,
                box=self.box,
                premultiplied=False,
                optics=[self.acquisition.optics] * self.count,
                sizes=TomogramSizes(),
            )

    @property
    def table(self) -> ParticleTable:
        """All particles with their true poses, where they are listed."""
        from gonio.particle.pose import Pose
        from gonio.particle.table import ParticleTable

        numbers = [self._whose(index) for index in range(self.count)]
        return ParticleTable(
            Pose.stack([self.drawn[number][0].poses[particle] for number, particle in numbers]),
            tuple(f"{self.names[number]}/{particle + 1}" for number, particle in numbers),
            tuple(self.names[number] for number, _ in numbers),
            coordinates_angstrom=np.concatenate([specimen.listed_angstrom for specimen, _ in self.drawn]),
            half_sets=(1 + np.arange(self.count) % 2).astype(np.int8),
            coordinates_from="centre",
        )

    def _listed(self, up: str, *, true: bool) -> list[ListedSeries]:
        """Return the series, nominal or true, as tomograms.star in a folder lists them; ``up`` leads to the images'."""
        from gonio.io.tilt_stacks import ListedSeries

        size, listed = self.tomogram_size_px, []
        for name, (_, series) in zip(self.names, self.drawn, strict=True):
            one, count = series.true if true else series.nominal, len(self.acquisition.tilts_deg)
            images = [f"{number}@{up}tilt_images/{name}.mrcs" for number in range(1, count + 1)]
            shown = images if self.options.tilt_images else []
            listed.append(ListedSeries(name, one, shown, self.pixel_size_angstrom, size))
        return listed

    def _write_truth(self, folder: Path) -> None:
        """Write the true series, a table of how they differ from the nominal ones, and where images show particles."""
        from gonio.io.tilt_stacks import write_tomograms

        write_tomograms(folder / "tomograms.star", self._listed("../", true=True))
        write_text(folder / "tilts.csv", self._tilts_text())
        if self.options.deformation_angstrom or self.options.motion_angstrom:
            write_text(folder / "displacements.csv", self._displacements_text())

    def _tilts_text(self) -> str:
        lines = [
            "tomogram,tilt,shift_x,shift_y,rotation_x_deg,rotation_y_deg,rotation_z_deg,defocus,astig_1,astig_2,scale"
        ]
        for name, (_, series) in zip(self.names, self.drawn, strict=True):
            change = series.change
            assert change.astigmatism_angstrom is not None and change.scale is not None
            columns = (change.shift_angstrom, change.rotation_deg, change.defocus_angstrom[:, None])
            rows = np.hstack([*columns, change.astigmatism_angstrom, change.scale[:, None]])  # (t, 9)
            lines += [f"{name},{tilt},{','.join(f'{v:.9g}' for v in row)}" for tilt, row in enumerate(rows.tolist(), 1)]
        return "\n".join(lines) + "\n"

    def _displacements_text(self) -> str:
        """Return what deformation and motion add to where the true series has each particle, angstrom."""
        lines = ["particle,tilt,x,y"]
        for name, (specimen, series) in zip(self.names, self.drawn, strict=True):
            for particle in range(len(specimen)):
                rigid = series.true.positions_angstrom(specimen.places_angstrom[particle])
                extra = (series.positions_angstrom(specimen, particle) - rigid).tolist()
                lines += [f"{name}/{particle + 1},{tilt},{x:.6f},{y:.6f}" for tilt, (x, y) in enumerate(extra, 1)]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _WholeImages:
    """Make the whole images of a tomogram, by its number."""

    simulation: StackSimulation
    unit: ClassVar[str] = "tomograms"

    def __call__(self, number: int) -> NDArray[np.float32]:
        return self.simulation.tilt_images(number)


@dataclass(frozen=True)
class _Tomograms:
    """Make a whole tomogram, by its number."""

    simulation: StackSimulation
    unit: ClassVar[str] = "tomograms"

    def __call__(self, number: int) -> NDArray[np.float32]:
        return self.simulation.tomogram(number)
