"""What commands are asked with: the options that several share, and the lists and settings made of them.

Each option's help states its unit and its default. Defaults that are None are resolved where they are used.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gonio.alignment import Settings
    from gonio.particles import ParticleTable
    from gonio.volume import Volume
    from gonio.wedge import SingleAxisWedge

# How far a local search expects poses to be from those listed, standard deviations per axis. On the ribosomes of
# EMPIAR-10499 poses then move less, to where shells that were not compared agree better (docs/ribosomes.md).
LOCAL_PRIOR_DEG = 2.0
LOCAL_PRIOR_SHIFT_VOXELS = 0.5


def positive(value: float | None) -> float | None:
    """The number of an option, which must be positive where it is given."""
    if value is not None and not (math.isfinite(value) and value > 0):
        raise typer.BadParameter(f"must be a positive number, got {value:g}")
    return value


ParticlesPath = Annotated[
    Path, typer.Argument(metavar="PARTICLES", help="Particle list (RELION or WarpTools STAR) or optimisation set.")
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
TomogramsPath = Annotated[
    Path | None,
    typer.Option(
        "--tomograms", metavar="FILE", help="tomograms.star of 2-D stacks; without it, the one found beside the list."
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
ScoreName = Annotated[
    str,
    typer.Option(
        "--score",
        metavar="rcs|fcs",
        help="rcs is blind to contrast; fcs compares values, for maps on one scale. Neither has a unit.",
    ),
]
SearchName = Annotated[
    str,
    typer.Option(
        "--search",
        metavar="stochastic|independent",
        help="stochastic refines the promising starting orientations, independent refines all: surer and far slower.",
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
MaskDiameter = Annotated[
    float | None,
    typer.Option(
        "--mask-diameter",
        metavar="A",
        help="Compare within a soft sphere of this diameter around the centre, angstrom. Default: no mask.",
    ),
]
Seed = Annotated[int, typer.Option("--seed", metavar="N", help="Of the random numbers: same seed, same result.")]
SeedInterval = Annotated[
    float,
    typer.Option(
        "--seed-interval", metavar="DEG", help="Between starting angles, degrees: 60 makes 108 starts, 45 makes 256."
    ),
]
Threads = Annotated[
    int | None,
    typer.Option("--threads", metavar="N", min=1, help="Particles aligned at a time. Default: one for each processor."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace results that are already there.")]


@dataclass(frozen=True)
class ListOptions:
    """A particle list and what the user said about it."""

    path: Path
    tilt_range_deg: tuple[float, float] | None = None
    axis_deg: float = 90.0
    tomograms_path: Path | None = None
    invert: bool = False
    voxel_size_angstrom: float | None = None
    permissive: bool = False

    def read(self) -> ParticleTable:
        """The table behind the list; its particles load when asked for."""
        from gonio.io import read_particles

        return read_particles(
            self.path,
            tilt_range_deg=self.tilt_range_deg,
            axis_deg=self.axis_deg,
            voxel_size_angstrom=self.voxel_size_angstrom,
            tomograms_path=self.tomograms_path,
            invert_contrast=self.invert,
            permissive=self.permissive,
        )

    def read_map(self, path: Path) -> Volume:
        """A map of the particles' voxel size."""
        from gonio.io import FormatError, read_volume

        volume = read_volume(path, voxel_size_angstrom=self.voxel_size_angstrom, permissive=self.permissive)
        if volume.data.min() == volume.data.max():
            raise FormatError(path, "is constant: there is nothing in it", "write the map again, or give another")
        return volume


def wedge_of(tilt_range_deg: tuple[float, float] | None, axis_deg: float) -> SingleAxisWedge | None:
    """The wedge of a tilt range, or None where nothing is missing."""
    from gonio.wedge import SingleAxisWedge

    return None if tilt_range_deg is None else SingleAxisWedge(*tilt_range_deg, axis_deg)


def settings_of(
    score: str,
    search: str,
    *,
    seed_interval_deg: float,
    resolution_angstrom: float | None,
    max_shift_angstrom: float | None,
    diameter_angstrom: float | None = None,
    mask_diameter_angstrom: float | None = None,
) -> Settings:
    """Settings from the words and numbers of a command line."""
    from gonio.alignment import Search, Settings
    from gonio.score import Score

    # The other searches need what the command line does not have: a start, or normals.
    if search not in ("stochastic", "independent"):
        raise ValueError(f"--search must be stochastic or independent, got {search!r}")
    if score not in list(Score):
        raise ValueError(f"--score must be {' or '.join(Score)}, got {score!r}")
    return Settings(
        score=Score(score),
        search=Search(search),
        seed_interval_deg=seed_interval_deg,
        resolution_angstrom=resolution_angstrom,
        max_shift_angstrom=max_shift_angstrom,
        particle_diameter_angstrom=diameter_angstrom,
        mask_diameter_angstrom=mask_diameter_angstrom,
    )


def local(
    settings: Settings, *, prior_deg: float | None, prior_shift_angstrom: float | None, voxel_size_angstrom: float
) -> Settings:
    """The same settings for a local search, with what is expected of the listed poses; 0 stands for nothing."""
    from gonio.alignment import Search

    turn = LOCAL_PRIOR_DEG if prior_deg is None else prior_deg
    shift = LOCAL_PRIOR_SHIFT_VOXELS * voxel_size_angstrom if prior_shift_angstrom is None else prior_shift_angstrom
    return replace(
        settings, search=Search.LOCAL, prior_rotation_sd_deg=turn or None, prior_shift_sd_angstrom=shift or None
    )


def thread_count(threads: int | None) -> int:
    """As asked, or the processors that this process may use, as far as the system tells."""
    if threads:
        return threads
    if hasattr(os, "process_cpu_count"):  # Python 3.13
        return os.process_cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
