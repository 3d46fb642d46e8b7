"""Tilt series of two kinds of particles, and a list of picks with false ones among them; the truth beside.

    python examples/project/make_data.py data --structure 7p6z.cif.gz --other 1oel.pdb.gz

Both kinds lie in the same ice and the same tilt images, with CTF and dose. DIR/picks.star has no poses, positions that
are off, and DIR/tomograms.star the tilt series; DIR/start.mrc is the first kind at 60 angstrom, as a data bank's map.
DIR/truth.csv says what each pick is, DIR/truth.star where the particles of the first kind are.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

import gonio
from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.mrc import write_stack
from gonio.io.tilt_stacks import write_tomograms
from gonio.jobs.simulate_stacks import StackOptions, StackSimulation
from gonio.particle.pose import Pose
from gonio.particle.table import ParticleTable
from gonio.simulate import Phantom, Structure
from gonio.simulate.specimen import Specimen, TrueSeries, scattered_places

KINDS = ("particle", "other", "nothing")
START_ANGSTROM = 60.0


@dataclass(frozen=True)
class Size:
    """How much is made; of each tomogram the picks of the two kinds and the false ones."""

    tomograms: int = 5
    picks: tuple[int, int, int] = (120, 50, 30)
    pixel_size_angstrom: float = 5.0
    box: int = 64
    tilt_step_deg: float = 3.0
    field_angstrom: float = 4500.0
    thickness_angstrom: float = 1800.0
    snr: float = 0.05
    pick_error_angstrom: float = 15.0


SIZES = {
    "full": Size(),
    # of this size the phantoms have detail at 60 angstrom, four resolution elements across
    "smoke": Size(2, (12, 4, 3), 12.0, 28, tilt_step_deg=10.0, field_angstrom=2400.0, snr=1.0),
}


@dataclass
class OneKind(StackSimulation):
    """The particles of one kind in all tomograms, drawn elsewhere; ``strength`` is their images' own factor."""

    shared: Sequence[tuple[Specimen, TrueSeries]] = ()
    strength: float | None = None

    @cached_property
    def drawn(self) -> list[tuple[Specimen, TrueSeries]]:
        """Where the particles are."""
        return list(self.shared)

    @cached_property
    def gain(self) -> float:
        """Factor of the noise-free images: that of another kind where it is given."""
        return StackSimulation.gain.func(self) if self.strength is None else self.strength  # type: ignore[attr-defined]


def density(structure: str | None, phantom: str, size: Size) -> Phantom | Structure:
    """Return the density of a PDB or mmCIF file at twice the pixel, or a phantom where there is none."""
    if structure is None:
        return Phantom.named(phantom, box=size.box, voxel_size_angstrom=size.pixel_size_angstrom).unframed()
    return Structure.from_file(structure, resolution_angstrom=2.0 * size.pixel_size_angstrom).coarsened()


def drawn(size: Size, distance: float, seed: int, acquisition: object) -> list[tuple[list[Specimen], TrueSeries]]:
    """For each tomogram the specimens of the three kinds, the last one empty ice, and the tilt series."""
    made = []
    for number in range(size.tomograms):
        rng = np.random.default_rng((seed, number))
        places = scattered_places(
            sum(size.picks),
            field_angstrom=size.field_angstrom,
            thickness_angstrom=size.thickness_angstrom,
            distance_angstrom=distance,
            rng=rng,
        )
        poses = Pose.random(sum(size.picks), rng=rng, max_shift_angstrom=size.pick_error_angstrom)
        ends = np.cumsum(size.picks)[:-1]
        specimens = [
            Specimen((places - poses.shift_angstrom)[rows], poses[rows])
            for rows in np.split(np.arange(sum(size.picks)), ends)
        ]
        errors = StackOptions().errors  # none: the geometry is as it is listed
        path = Path(f"TS_{number + 1:02d}.star")
        series = TrueSeries.drawn(
            acquisition, errors, path=path, count=max(size.picks), field_angstrom=size.field_angstrom, rng=rng
        )
        made.append((specimens, series))
    return made


def make(folder: Path, size: Size, structure: str | None, other: str | None, seed: int = 0) -> None:
    """Write everything into a new folder."""
    options = StackOptions(
        size.tomograms,
        size.tilt_step_deg,
        field_angstrom=size.field_angstrom,
        thickness_angstrom=size.thickness_angstrom,
        tilt_images=True,
    )
    acquisition = options.acquisition((-60.0, 60.0), ctf=True, amplitude_contrast=0.07)
    kinds = density(structure, "sharp", size), density(other, "pseudo_symmetric", size)
    whole = drawn(size, 2.0 * kinds[0].radius_angstrom, seed, acquisition)
    common = (size.box, size.pixel_size_angstrom, size.pick_error_angstrom)
    made: list[OneKind] = []
    for kind, snr in ((0, size.snr), (1, np.inf)):  # noise is in the images of the first kind
        shared = [(specimens[kind], series) for specimens, series in whole]
        count = size.picks[kind] * size.tomograms
        strength = made[0].gain if made else None
        made.append(OneKind(kinds[kind], options, acquisition, count, *common, snr, seed, shared, strength))
    (folder / "tilt_images").mkdir(parents=True)
    for number, name in enumerate(made[0].names):
        images = made[0].tilt_images(number) + made[1].tilt_images(number)
        write_stack(folder / "tilt_images" / f"{name}.mrcs", images, size.pixel_size_angstrom)
    write_tomograms(folder / "tomograms.star", made[0]._listed("", true=False))
    write_picks(folder, size, made[0].names, [specimens for specimens, _ in whole], seed)
    data = kinds[0].density(Pose.identity(), box=size.box, voxel_size_angstrom=size.pixel_size_angstrom)
    map_ = gonio.Volume(data.astype(np.float32), size.pixel_size_angstrom)
    gonio.write_volume(folder / "reference.mrc", map_)
    gonio.write_volume(folder / "start.mrc", map_.low_passed(START_ANGSTROM))


def write_picks(folder: Path, size: Size, names: Sequence[str], specimens: list[list[Specimen]], seed: int) -> None:
    """Write the picks in no order, without poses; and what they are."""
    rng = np.random.default_rng((seed, size.tomograms))
    tables, kinds = [], []
    for name, three in zip(names, specimens, strict=True):
        order = rng.permutation(sum(size.picks))
        poses = Pose.stack([one.poses[row] for one in three for row in range(len(one))])[order]
        listed = np.concatenate([one.listed_angstrom for one in three])[order]
        kinds += np.repeat(KINDS, size.picks)[order].tolist()
        tables.append(
            ParticleTable(
                poses,
                tuple(f"{name}/{number}" for number in range(1, len(order) + 1)),
                (name,) * len(order),
                coordinates_angstrom=listed,
                coordinates_from="centre",
                pixel_sizes_angstrom=np.full(len(order), size.pixel_size_angstrom),
            )
        )
    table = sum(tables[1:], start=tables[0])
    options = WriteOptions(sizes=TomogramSizes())
    gonio.write_particles(
        folder / "picks.star", replace(table, poses=Pose.identity(len(table))), format="relion5", options=options
    )
    first = np.array(kinds) == KINDS[0]
    gonio.write_particles(folder / "truth.star", table[first], format="relion5", options=options)
    with (folder / "truth.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("name", "kind"), *zip(table.names, kinds, strict=True)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--structure", help="PDB or mmCIF file of the first kind; a phantom unless given")
    parser.add_argument("--other", help="of the second kind")
    parser.add_argument("--size", choices=SIZES, default="full")
    given = parser.parse_args()
    make(given.folder, SIZES[given.size], given.structure, given.other)
