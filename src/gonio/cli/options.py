"""What commands are asked with: the options that several share, and the lists and settings made of them.

Each option's help states its unit and its default. Defaults that are None are resolved where they are used.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gonio.cli.ctf_image import CtfImageName, ctf_image_named

if TYPE_CHECKING:
    from gonio.alignment.aligner import Settings
    from gonio.io.tilts import DefocusHand
    from gonio.particle.table import ParticleTable
    from gonio.particle.volume import Volume
    from gonio.particle.wedge import SingleAxisWedge

# How far a local search expects poses to be from those listed, standard deviations per axis. On the ribosomes of
# EMPIAR-10499 poses then move less, to where shells that were not compared agree better (docs/ribosomes.md).
LOCAL_PRIOR_DEG = 2.0
LOCAL_PRIOR_SHIFT_VOXELS = 0.5

# A local search has an option of its own; searches about an axis need normals, which no list that is read here holds.
PAPERS_SEARCHES = ("stochastic", "independent")
SEARCHES = ("coarse_to_fine", *PAPERS_SEARCHES)

# What is said of tilts that are not read in the other sense.
AS_LISTED = "as listed"
WEIGHTINGS = ("plain", "dose", "ctf")

# What is called otherwise on the command line than in ``Settings``.
OPTION_OF = {
    "score": "--score",
    "inputs": "--inputs",
    "pool": "--pool",
    "interval_deg": "--seed-interval",
    "resolution_angstrom": "--resolution",
    "max_shift_angstrom": "--max-shift",
    "max_rotation_deg": "--cone",
    "mask_diameter_angstrom": "--mask-diameter",
    "particle_diameter_angstrom": "--diameter",
    "prior_rotation_sd_deg": "--prior-deg",
    "prior_shift_sd_angstrom": "--prior-shift",
}


def positive(value: float | None) -> float | None:
    """The number of an option, which must be positive where it is given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be a positive number, got {value:g}")
    return value


ParticlesPath = Annotated[
    Path,
    typer.Argument(
        metavar="PARTICLES",
        help="Particle list (of RELION, WarpTools, Dynamo, STOPGAP, AV3, PyTom or EMAN2) or optimisation set.",
    ),
]
DataPath = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Subtomograms of lists that number them (Dynamo, STOPGAP, AV3); without it, those beside the list.",
    ),
]
TiltRange = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--tilt-range", metavar="MIN MAX", help="First and last tilt of 3-D subtomograms, degrees, such as -60 60."
    ),
]
TiltAxis = Annotated[
    float,
    typer.Option("--tilt-axis", metavar="DEG", help="Direction of the tilt axis, degrees from x towards y; 90 is y."),
]
TiltFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--tilts",
        metavar="FILE",
        help="Tilts of 3-D subtomograms, one by one: .tlt, .rawtlt, mdoc, tilt-series STAR, STOPGAP wedge list, or a"
        " folder of them; may be given several times. Tomograms find theirs by name.",
    ),
]
TiltWeights = Annotated[
    str,
    typer.Option(
        "--tilt-weights",
        metavar="plain|dose|ctf",
        help="With --tilts: what a tilt is worth. dose weighs by what the dose before it left; ctf by the size of its"
        " contrast transfer, too.",
    ),
]
TomogramsPath = Annotated[
    Path | None,
    typer.Option(
        "--tomograms",
        metavar="FILE",
        help="tomograms.star of 2-D stacks, or the wedge list of a STOPGAP list; without it, the one beside the list.",
    ),
]
ReverseTilts = Annotated[
    bool,
    typer.Option(
        "--reverse-tilts",
        help="Of 2-D stacks: read every tilt in the other sense, for sets whose tilt sense was reversed on import and"
        " that show a mirror image as they are listed (inspect --hand tells). What is written says so, and lists are"
        " read so again.",
    ),
]
DefocusHandName = Annotated[
    str | None,
    typer.Option(
        "--defocus-hand",
        metavar="relion|warp",
        help="Of 2-D stacks: whose meaning rlnTomoHand has. RELION adds hand times depth to the defocus, WarpTools"
        " takes it off; tomograms called NAME.tomostar are taken to be WarpTools'. It mirrors nothing.",
    ),
]
Invert = Annotated[
    bool, typer.Option("--invert", help="Flip the sign of the particles: for density that is dark (negative).")
]
VoxelSize = Annotated[
    float | None,
    typer.Option(
        "--voxel-size",
        metavar="A",
        callback=positive,
        help="Voxel size, angstrom, in place of what the files say.",
    ),
]
Permissive = Annotated[
    bool,
    typer.Option(
        "--permissive", help="Read MRC files of a wrong map ID or machine stamp, or with bytes after the data, too."
    ),
]
Cone = Annotated[
    float | None,
    typer.Option(
        "--cone", metavar="DEG", help="With --local: search within this angle of each listed orientation, degrees."
    ),
]
PriorDeg = Annotated[
    float | None,
    typer.Option(
        "--prior-deg",
        metavar="DEG",
        help="With --local: how far listed orientations may be off, per axis, degrees; 0: any. Default: 2, any with"
        " --cone.",
    ),
]
PriorShift = Annotated[
    float | None,
    typer.Option(
        "--prior-shift",
        metavar="A",
        help="With --local: how far listed positions may be off, per axis, angstrom; 0: any. Default: half a voxel,"
        " any with --cone.",
    ),
]
ScoreName = Annotated[
    str,
    typer.Option(
        "--score",
        metavar="rcs|fcs|likelihood",
        help="rcs is blind to contrast; fcs compares values on one scale; likelihood weighs each sample by what it is"
        " expected to tell. None has a unit.",
    ),
]
AssignmentName = Annotated[
    str,
    typer.Option(
        "--assignment",
        metavar="auto|soft|hard",
        help="hard: a particle enters the averages at the pose found; soft: at poses drawn from all that it may have;"
        " auto: soft where the resolution tells these apart.",
    ),
]
SearchName = Annotated[
    str | None,
    typer.Option(
        "--search",
        metavar="NAME",
        help="coarse_to_fine (the default) starts from all orientations at low resolution; stochastic and independent"
        " are the searches of Xu & Alber 2012.",
    ),
]
InputsName = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        metavar="restored|plain",
        help="restored compares what is most probably behind the particles, plain the particles as they are."
        " Default: restored; plain with the searches of 2012, which know no other.",
    ),
]
PoolName = Annotated[
    str,
    typer.Option(
        "--pool", metavar="all|drawn", help="Refine all promising orientations, or those drawn by their fit, at random."
    ),
]
SymmetryName = Annotated[
    str,
    typer.Option(
        "--symmetry",
        metavar="NAME",
        help="Point group of the reference about its box centre: C1 (none), C4, D2, T, O, I1, I2 and such.",
    ),
]
Resolution = Annotated[
    float | None,
    typer.Option("--resolution", metavar="A", help="Finest detail that is compared, angstrom. Default: four voxels."),
]
MaxShift = Annotated[
    float | None,
    typer.Option("--max-shift", metavar="A", help="Largest shift, angstrom. Default: a quarter of the box."),
]
Diameter = Annotated[
    float | None,
    typer.Option("--diameter", metavar="A", help="Of the particle itself, angstrom. Default: what the data show."),
]
MaskDiameter = Annotated[
    float | None,
    typer.Option(
        "--mask-diameter",
        metavar="A",
        help="Of the soft sphere around the box centre that holds the particle wherever it lies, angstrom."
        " Default: by the particle's diameter; plain inputs have none.",
    ),
]
MaskPath = Annotated[
    Path | None,
    typer.Option(
        "--mask", metavar="MAP", help="Where the reference has density, 0 to 1, in its own box. Default: a soft sphere."
    ),
]
HalfMaps = Annotated[
    tuple[Path, Path] | None,
    typer.Option(
        "--half-maps",
        metavar="MAP MAP",
        help="Half maps of the reference: what they do not agree on is not expected of the particles. They are"
        " compared as they are: mask them first where that is wanted.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the random numbers: same seed, same result.")]
SeedInterval = Annotated[
    float | None,
    typer.Option(
        "--seed-interval",
        metavar="DEG",
        help="Of the searches stochastic and independent alone: degrees between starting angles. Default: 60, which"
        " makes 108 starts; 45 makes 256.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Particles aligned at a time. Default: one for each processor."),
]
DeviceName = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="cpu; cuda or cuda:1, a graphics card; cuda:0,cuda:1, several; auto, a card where one works and the search"
        " can use it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are already there.")]


@dataclass(frozen=True)
class ListOptions:
    """A particle list and what the user said about it: a group of options (``gonio.cli.grouped``)."""

    path: ParticlesPath
    tilt_range_deg: TiltRange = None
    axis_deg: TiltAxis = 90.0
    tilt_files: TiltFiles = None
    tilt_weights: TiltWeights = "plain"
    ctf_image: CtfImageName = None
    tomograms_path: TomogramsPath = None
    invert: Invert = False
    voxel_size_angstrom: VoxelSize = None
    permissive: Permissive = False
    data_path: DataPath = None
    reverse_tilts: ReverseTilts = False
    defocus_hand: DefocusHandName = None

    def read(self) -> ParticleTable:
        """The table behind the list; its particles load when asked for.

        Raises
        ------
        ValueError
            For options that exclude each other, or do not fit the list.
        """
        from gonio.io import read_particles
        from gonio.io.wedges import with_tilts

        if self.tilt_weights not in WEIGHTINGS:
            raise ValueError(f"--tilt-weights must be one of {', '.join(WEIGHTINGS)}, got {self.tilt_weights!r}")
        if self.tilt_files and self.tilt_range_deg is not None:
            raise ValueError("--tilts and --tilt-range exclude each other: give one")
        if self.tilt_weights != WEIGHTINGS[0] and not self.tilt_files:
            raise ValueError("--tilt-weights needs --tilts: what is to be weighed")
        table = read_particles(
            self.path,
            tilt_range_deg=self.tilt_range_deg,
            axis_deg=self.axis_deg,
            voxel_size_angstrom=self.voxel_size_angstrom,
            tomograms_path=self.tomograms_path,
            invert_contrast=self.invert,
            permissive=self.permissive,
            data_path=self.data_path,
            reverse_tilts=self.reverse_tilts,
            ctf_image=ctf_image_named(self.ctf_image),
            defocus_hand=defocus_hand_named(self.defocus_hand),
        )
        return with_tilts(table, self.tilt_files, weighting=self.tilt_weights) if self.tilt_files else table

    def told(self, table: ParticleTable) -> dict[str, object]:
        """Return what was asked and what came of it, for settings that lie beside results."""
        return {**asdict(self), "tilt_sense": tilt_sense(table)}

    def read_map(self, path: Path) -> Volume:
        """A map of the particles' voxel size."""
        from gonio.io import FormatError, read_volume

        volume = read_volume(path, voxel_size_angstrom=self.voxel_size_angstrom, permissive=self.permissive)
        if volume.data.min() == volume.data.max():
            raise FormatError(path, "is constant: there is nothing in it", "write the map again, or give another")
        return volume


def defocus_hand_named(name: str | None) -> DefocusHand | None:
    """The program of that name, or None where none is named."""
    from gonio.io.tilts import DefocusHand

    if name is not None and name not in tuple(DefocusHand):
        raise ValueError(f"--defocus-hand must be one of {', '.join(DefocusHand)}, got {name!r}")
    return None if name is None else DefocusHand(name)


def tilt_sense(table: ParticleTable) -> str:
    """Return in which sense the tilts of a list's stacks are read."""
    reversed_rows = getattr(table.source, "tilts_reversed", None)
    if reversed_rows is None or not reversed_rows.any():
        return AS_LISTED
    return "reversed" if reversed_rows.all() else "reversed of some particles"


def wedge_of(tilt_range_deg: tuple[float, float] | None, axis_deg: float) -> SingleAxisWedge | None:
    """The wedge of a tilt range, or None where nothing is missing."""
    from gonio.particle.wedge import SingleAxisWedge

    return None if tilt_range_deg is None else SingleAxisWedge(*tilt_range_deg, axis_deg)


@dataclass(frozen=True)
class LocalOptions:
    """Refine listed poses: what is expected of them (0 stands for nothing), and how far from them to search.

    A group of options (``gonio.cli.grouped``).
    """

    cone_deg: Cone = None
    prior_deg: PriorDeg = None
    prior_shift_angstrom: PriorShift = None

    def of(self, start_local: bool) -> LocalOptions | None:
        """Themselves where a local search is asked for; else None, and ValueError where they say something."""
        if not start_local and self != LocalOptions():
            raise ValueError("--prior-deg, --prior-shift and --cone need --local: a search over all poses expects none")
        return self if start_local else None

    def settings(self, *, voxel_size_angstrom: float) -> dict[str, float | None]:
        """The settings of a local search. Within a cone poses are expected anywhere, unless a prior is asked for."""
        turn, shift = self.prior_deg, self.prior_shift_angstrom
        if turn is None:
            turn = LOCAL_PRIOR_DEG if self.cone_deg is None else 0.0
        if shift is None:
            shift = LOCAL_PRIOR_SHIFT_VOXELS * voxel_size_angstrom if self.cone_deg is None else 0.0
        return {
            "prior_rotation_sd_deg": turn or None,
            "prior_shift_sd_angstrom": shift or None,
            "max_rotation_deg": self.cone_deg,
        }


@dataclass(frozen=True)
class SearchOptions:
    """What the user said about an alignment, in the words of the command line; None where nothing was said."""

    score: str = "rcs"
    search: str | None = None
    inputs: str | None = None
    pool: str = "all"
    symmetry: str = "C1"
    seed_interval_deg: float | None = None
    resolution_angstrom: float | None = None
    max_shift_angstrom: float | None = None
    diameter_angstrom: float | None = None
    mask_diameter_angstrom: float | None = None
    local: LocalOptions | None = None

    def settings(self, *, voxel_size_angstrom: float) -> Settings:
        """The settings that were asked for, for maps of a voxel size.

        Raises
        ------
        ValueError
            For what does not fit together, in the words of the command line.
        """
        from gonio.alignment.aligner import Search, Settings

        self.check()
        search = Search.LOCAL if self.local is not None else Search(self.search or SEARCHES[0])
        own = {} if self.local is None else self.local.settings(voxel_size_angstrom=voxel_size_angstrom)
        if self.seed_interval_deg is not None:
            own["seed_interval_deg"] = self.seed_interval_deg
        try:
            return Settings(
                score=self.score,  # type: ignore[arg-type]  # names are read there
                search=search,
                inputs=self.inputs,  # type: ignore[arg-type]
                pool=self.pool,  # type: ignore[arg-type]
                symmetry=self.symmetry,
                resolution_angstrom=self.resolution_angstrom,
                max_shift_angstrom=self.max_shift_angstrom,
                particle_diameter_angstrom=self.diameter_angstrom,
                mask_diameter_angstrom=self.mask_diameter_angstrom,
                **own,  # type: ignore[arg-type]
            )
        except ValueError as error:
            raise ValueError(_in_words_of_options(str(error))) from error

    def check(self) -> None:
        """Raise ValueError, in the words of the command line, where options exclude each other."""
        if self.search is not None and self.search not in SEARCHES:
            raise ValueError(f"--search must be {', '.join(SEARCHES[:-1])} or {SEARCHES[-1]}, got {self.search!r}")
        if self.search is not None and self.local is not None:
            raise ValueError("--search and --local exclude each other: one searches all poses, the other the listed")
        papers = self.search in PAPERS_SEARCHES
        if self.seed_interval_deg is not None and not papers:
            raise ValueError(f"--seed-interval is for --search {' or '.join(PAPERS_SEARCHES)}: others need none")
        if self.pool == "drawn" and papers:
            raise ValueError(f"--pool is for the search coarse_to_fine: {self.search} has a schedule of its own")
        if self.inputs == "restored" and papers:
            raise ValueError(f"--search {self.search} compares plain inputs: leave out --inputs or --search")
        if self.score == "likelihood" and (papers or self.inputs == "plain"):
            raise ValueError("--score likelihood needs restored inputs: not --inputs plain, nor a search of 2012")


def _in_words_of_options(message: str) -> str:
    """What Settings complains about, with the names of options in place of its own."""
    return re.sub(r"\b\w+(?= must)|\b\w+_\w+\b", lambda found: OPTION_OF.get(found[0], found[0]), message)


def thread_count(threads: int | None) -> int:
    """As asked, or the processors that this process may use, as far as the system tells."""
    if threads:
        return threads
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
