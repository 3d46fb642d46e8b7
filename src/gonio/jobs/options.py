"""Options that several jobs share, as values, and the lists and settings that they stand for.

Names are those of ``gonio.Settings`` and ``gonio.read_particles``; the command line shows each field as an option
(``gonio.cli.options``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from gonio.particle.arguments import ArgumentError, check_one_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gonio.alignment.aligner import Aligner
    from gonio.io.source import ReadOptions
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Subtomogram, Volume
    from gonio.particle.wedge import SingleAxisWedge
    from gonio.settings import LocalSearch, Settings
    from gonio.workflows.tilt_refinement import TiltPlan

File = str | Path
Kind = TypeVar("Kind", bound=StrEnum)

# How far a local search expects poses to be from those listed, standard deviations per axis. On the ribosomes of
# EMPIAR-10499 poses then move less, to where shells that were not compared agree better (docs/ribosomes.md).
LOCAL_PRIOR_DEG = 2.0
LOCAL_PRIOR_SHIFT_VOXELS = 0.5

# A local search has an option of its own; searches about an axis need normals, which no list that is read here holds.
PAPERS_SEARCHES = ("stochastic", "independent")
SEARCHES = ("coarse_to_fine", *PAPERS_SEARCHES)

WEIGHTINGS = ("plain", "dose", "ctf")
MAX_Q = 0.05
# The tilt axis is y.
USUAL_AXIS_DEG = 90.0


@dataclass(frozen=True)
class ListOptions:
    """A particle list, and options in place of what it states: those of ``gonio.read_particles``, and these.

    Parameters
    ----------
    axis_deg
        Direction of the tilt axis of a range that is given; None for 90, y.
    voxel_size_angstrom, permissive
        They hold for maps, too.
    tilt_files, tilt_weights
        Files of tilts, one by one, in place of a range; and their weights: ``plain``, ``dose`` or ``ctf``.
    invert
        Flip the sign of the particles.
    """

    path: File
    tilt_range_deg: tuple[float, float] | None = None
    axis_deg: float | None = None
    tilt_files: Sequence[File] | None = None
    tilt_weights: str = "plain"
    ctf_image: str | None = None
    tomograms_path: File | None = None
    invert: bool = False
    voxel_size_angstrom: float | None = None
    permissive: bool = False
    data_path: File | None = None
    reverse_tilts: bool = False
    defocus_hand: str | None = None

    @property
    def name(self) -> str:
        """Name of the list's file."""
        return Path(self.path).name

    def read(self) -> ParticleTable:
        """Return the table behind the list; its particles load on demand.

        Raises
        ------
        ValueError
            For options that exclude each other, or do not fit the list.
        """
        from gonio.io.lists import read_with
        from gonio.io.wedges import with_tilts

        self.check()
        table = read_with(Path(self.path), self.reading)
        if not self.tilt_files:
            return table
        return with_tilts(table, [Path(path) for path in self.tilt_files], weighting=self.tilt_weights)

    def check(self) -> None:
        """Raise ArgumentError for options that exclude each other."""
        axis_of(self.axis_deg, self.tilt_range_deg)
        check_one_of("tilt_weights", self.tilt_weights, WEIGHTINGS)
        if self.tilt_files and self.tilt_range_deg is not None:
            raise ArgumentError("{} and {} exclude each other: give one", "tilt_files", "tilt_range_deg")
        if self.tilt_weights != WEIGHTINGS[0] and not self.tilt_files:
            raise ArgumentError("{} needs {}: what is to be weighed", "tilt_weights", "tilt_files")

    @property
    def reading(self) -> ReadOptions:
        """Options to read the list with."""
        from gonio.io.ctf_images import CtfImage
        from gonio.io.source import ReadOptions
        from gonio.io.tilts import DefocusHand

        return ReadOptions(
            self.tilt_range_deg,
            USUAL_AXIS_DEG if self.axis_deg is None else self.axis_deg,
            self.voxel_size_angstrom,
            self.invert,
            self.permissive,
            tomograms_path=None if self.tomograms_path is None else Path(self.tomograms_path),
            data_path=None if self.data_path is None else Path(self.data_path),
            reverse_tilts=self.reverse_tilts,
            ctf_image=_one_of(CtfImage, "ctf_image", self.ctf_image),
            defocus_hand=_one_of(DefocusHand, "defocus_hand", self.defocus_hand),
        )

    def record(self, table: ParticleTable) -> dict[str, object]:
        """Return the options and what followed from them, for the settings beside results."""
        return {**asdict(self), "axis_deg": self.reading.axis_deg, "tilt_sense": table.tilt_sense}

    def read_map(self, path: File) -> Volume:
        """Read a map, with the voxel size that is given for all."""
        from gonio.io import FormatError, read_volume

        volume = read_volume(path, voxel_size_angstrom=self.voxel_size_angstrom, permissive=self.permissive)
        if volume.data.min() == volume.data.max():
            raise FormatError(path, "is constant: there is nothing in it", "write the map again, or give another")
        return volume


def _one_of(kind: type[Kind], argument: str, name: str | None) -> Kind | None:
    """Return the member of a name, or None where none is named; ArgumentError where there is no such member."""
    if name is None:
        return None
    check_one_of(argument, name, kind)
    return kind(name)


def axis_of(axis_deg: float | None, *ranges_deg: tuple[float, float] | None) -> float:
    """Return the direction of the tilt axis, 90 degrees where none is given; ArgumentError for one without a range."""
    if axis_deg is None:
        return USUAL_AXIS_DEG
    if all(one is None for one in ranges_deg):
        what = "{} has no meaning without {}: files of tilts and lists state an axis of their own; leave it out"
        raise ArgumentError(what, "axis_deg", "tilt_range_deg")
    return axis_deg


def wedge_of(tilt_range_deg: tuple[float, float] | None, axis_deg: float) -> SingleAxisWedge | None:
    """Return the wedge of a tilt range, or None where nothing is missing."""
    from gonio.particle.wedge import SingleAxisWedge

    return None if tilt_range_deg is None else SingleAxisWedge(*tilt_range_deg, axis_deg)


def files_of(table: ParticleTable | None, *files: File | None) -> list[Path]:
    """Return the files behind a table and those that were given, for the record of what was read."""
    return [*(() if table is None else table.files), *(Path(path) for path in files if path is not None)]


@dataclass(frozen=True)
class LocalOptions:
    """Local search: how far input poses may be off, per axis (standard deviations; 0: any), and within which angle.

    Defaults, None, are 2 degrees and half a voxel; anywhere within an angle that is given.
    """

    max_rotation_deg: float | None = None
    prior_rotation_sd_deg: float | None = None
    prior_shift_sd_angstrom: float | None = None

    def search(self, *, voxel_size_angstrom: float) -> LocalSearch:
        """Return the search of these options."""
        from gonio.settings import LocalSearch

        turn, shift = self.prior_rotation_sd_deg, self.prior_shift_sd_angstrom
        if turn is None:
            turn = LOCAL_PRIOR_DEG if self.max_rotation_deg is None else 0.0
        if shift is None:
            shift = LOCAL_PRIOR_SHIFT_VOXELS * voxel_size_angstrom if self.max_rotation_deg is None else 0.0
        return LocalSearch(turn or None, shift or None, self.max_rotation_deg)


@dataclass(frozen=True)
class SearchOptions:
    """Options of comparison and search, as in ``gonio.Settings``; None for its default."""

    score: str = "rcs"
    search: str | None = None
    inputs: str | None = None
    pool: str = "all"
    symmetry: str = "C1"
    resolution_angstrom: float | None = None
    max_shift_angstrom: float | None = None
    particle_diameter_angstrom: float | None = None
    mask_diameter_angstrom: float | None = None
    seed_interval_deg: float | None = None

    def settings(self, *, voxel_size_angstrom: float, local: LocalOptions | None = None) -> Settings:
        """Return the settings of an aligner for maps of a voxel size.

        Raises
        ------
        ArgumentError
            For what does not fit together.
        """
        from gonio.settings import PaperSearch, Settings

        check_one_of("search", self.search or SEARCHES[0], SEARCHES)
        if self.search is not None and local is not None:
            raise ArgumentError(
                "{} and {} exclude each other: one searches all poses, the other near those listed", "search", "local"
            )
        if self.seed_interval_deg is not None and self.search not in PAPERS_SEARCHES:
            raise ArgumentError(
                "{} is for {} {searches}: others need none",
                "seed_interval_deg",
                "search",
                searches=" or ".join(PAPERS_SEARCHES),
            )
        own = {**asdict(self), "search": self.search or SEARCHES[0]}
        interval = own.pop("seed_interval_deg")
        if local is not None:
            own["search"] = local.search(voxel_size_angstrom=voxel_size_angstrom)
        elif interval is not None:
            own["search"] = PaperSearch(own["search"], interval)
        return Settings(**own)

    def check(self, local: LocalOptions | None = None) -> None:
        """Raise ArgumentError where options do not fit together, before anything is read."""
        self.settings(voxel_size_angstrom=1.0, local=local)


@dataclass(frozen=True)
class ReferenceOptions:
    """Further knowledge of a reference: where it has density, and the half maps that it was made from."""

    mask: File | None = None
    half_maps: tuple[File, File] | None = None

    @property
    def files(self) -> tuple[File, ...]:
        """Files that were given."""
        return tuple(path for path in (self.mask, *(self.half_maps or ())) if path is not None)

    def read(self, read_map: Callable[[File], Volume], reference: Volume, settings: Settings) -> KnownReference:
        """Read what is known of a reference.

        Raises
        ------
        ValueError
            When it does not fit the reference, or plain inputs, which have no use for it.
        """
        import numpy as np

        from gonio.averaging.resolution import half_map_fsc
        from gonio.preparation.extent import sphere_mask

        if self.files and not settings.restores:
            raise ArgumentError(
                "{} and {} are for restored inputs: plain ones are compared as they are", "mask", "half_maps"
            )
        mask = None if self.mask is None else read_map(self.mask)
        halves = [] if self.half_maps is None else [read_map(path) for path in self.half_maps]
        for argument, map_ in [("mask", mask), *(("half_maps", half) for half in halves)]:
            if map_ is not None and map_.box != reference.box:
                raise ArgumentError(
                    "{} has a box of {box} voxels, the reference one of {of}",
                    argument,
                    box=map_.box,
                    of=reference.box,
                )
        if not halves:
            return KnownReference(mask)
        # Within what is compared of the reference: noise around the particle carries no information on it.
        window = mask or sphere_mask(reference, settings.mask_diameter_angstrom or settings.particle_diameter_angstrom)
        fsc = half_map_fsc((halves[0], halves[1]), mask=window, rng=np.random.default_rng(0))
        return KnownReference(mask, fsc.best)


@dataclass(frozen=True)
class KnownReference:
    """Mask of a reference's density, and the FSC of its half maps; None where it is not known."""

    mask: Volume | None = None
    fsc: NDArray[np.float64] | None = None

    def aligner(self, reference: Volume | Subtomogram, settings: Settings) -> Aligner:
        """Return an aligner that uses them."""
        from gonio.alignment.aligner import Aligner

        return Aligner(reference, settings, mask=self.mask, reference_fsc=self.fsc)


@dataclass(frozen=True)
class TiltOptions:
    """What is refined of tilts, as ``TiltPlan``, and the standard deviations of ``gonio.settings.TiltPriors``."""

    astigmatism: bool = False
    tilt_scale: bool = False
    deformation: bool = False
    tilt_shift_sd_angstrom: float = 10.0
    tilt_angle_sd_deg: float = 1.0
    tilt_across_sd_deg: float = 1.0
    tilt_in_plane_sd_deg: float = 1.0
    tilt_defocus_sd_angstrom: float = 500.0
    tilt_astigmatism_sd_angstrom: float = 300.0
    tilt_scale_sd: float = 0.2
    tilt_deformation_sd_angstrom: float = 5.0
    particle_rotation_sd_deg: float = 5.0
    particle_shift_sd_angstrom: float = 20.0
    particle_contrast_sd: float = 0.5

    def plan(self) -> TiltPlan:
        """Return the plan of these options; ArgumentError for a prior that is not positive."""
        from gonio.settings import TiltPriors
        from gonio.workflows.tilt_refinement import TiltPlan

        kinds = ("astigmatism", "tilt_scale", "deformation")
        priors = {name: value for name, value in asdict(self).items() if name not in kinds}
        return TiltPlan(self.astigmatism, self.tilt_scale, self.deformation, TiltPriors(**priors))


@dataclass(frozen=True)
class DecoyOptions:
    """Decoys of the reference that every particle is aligned to as well, to estimate which particles are real.

    ``max_q`` is the largest q-value of particles that are kept, 0.05 unless given.
    """

    decoys: int = 0
    max_q: float | None = None

    def check(self) -> None:
        """Raise ArgumentError for what does not fit."""
        if self.max_q is not None and not self.decoys:
            raise ArgumentError("{} needs {}: without them it is unknown which particles are real", "max_q", "decoys")
        if self.max_q is not None and not 0 < self.max_q < 1:
            raise ArgumentError("{} must lie between 0 and 1, got {got:g}", "max_q", got=self.max_q)

    @property
    def most_q(self) -> float:
        """Largest q-value of a particle that is kept."""
        return MAX_Q if self.max_q is None else self.max_q

    @property
    def record(self) -> dict[str, float]:
        """Options for the settings beside results; empty where there are no decoys."""
        return {"count": self.decoys, "max_q": self.most_q} if self.decoys else {}
