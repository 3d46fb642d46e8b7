"""Make particles whose true poses are known: ``gonio simulate``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gonio.jobs.options import File
from gonio.jobs.placed import read_structure
from gonio.jobs.running import RunOptions, running
from gonio.jobs.simulate_stacks import StackOptions, StackSimulation
from gonio.particle.arguments import ArgumentError, check_one_of
from gonio.particle.ctf import AMPLITUDE_CONTRAST
from gonio.run.executor import Executor

if TYPE_CHECKING:
    from gonio.particle.pose import Pose
    from gonio.simulate import Density, Imaging

STRUCTURE_RESOLUTION_ANGSTROM = 40.0
DEFAULT_PHANTOM = "four_gaussians"


@dataclass(frozen=True)
class Simulated:
    """The true poses of simulated particles; ``note`` states what the box cuts off a structure, or is empty."""

    truth: Pose
    note: str


def simulate(
    out: File,
    *,
    phantom: str | None = None,
    structure: File | None = None,
    resolution_angstrom: float | None = None,
    count: int = 20,
    box: int = 32,
    voxel_size_angstrom: float = 10.0,
    tilt_range_deg: tuple[float, float] = (-60.0, 60.0),
    snr: float = 0.5,
    amplitude_contrast: float | None = None,
    ctf: str | None = None,
    max_shift_voxels: float = 2.0,
    stacks: StackOptions | None = None,
    seed: int = 0,
    run: RunOptions = RunOptions(),
) -> Simulated:
    """Make particles in random poses, their lists without and with the poses, and the reference, in a new folder.

    Parameters
    ----------
    phantom, structure
        A name of ``gonio.simulate.Phantom``, or a PDB or mmCIF file of which assembly 1 is built.
    resolution_angstrom
        Resolution of the structure's density, angstrom; None for 40, and for twice a pixel of stacks.
    count, box, voxel_size_angstrom
        How many particles, the edge of a box in voxels, and of a voxel in angstrom.
    tilt_range_deg
        First and last tilt; whole steps apart, of one degree for subtomograms.
    snr
        Variance of noise-free images over that of the noise.
    amplitude_contrast, ctf
        Amplitude contrast of the lens, a fraction, None for 0.07; and what is left of its CTF: ``none`` for no lens,
        else a name of ``gonio.simulate.CtfCorrection`` (None for ``truncated``), in tilt images always ``whole``.
    max_shift_voxels
        Largest shift along each axis.
    stacks
        Make stacks of tilt images, and a tilt series whose true geometry differs from what its files state, in place of
        subtomograms.
    seed
        Of poses and noise: a particle depends on it and on its own number alone.
    run
        Particles made at a time, and whether a run is resumed.
    """
    from gonio.simulate import Imaging

    ctf, lens = _lens(ctf, amplitude_contrast, is_whole=stacks is not None)
    if stacks is None:
        imaging = Imaging(box, voxel_size_angstrom, *tilt_range_deg, snr=snr, **lens)
    else:
        imaging = Imaging(box, voxel_size_angstrom)  # of the reference: the series have tilts and a lens of their own
    if resolution_angstrom is None:
        resolution_angstrom = STRUCTURE_RESOLUTION_ANGSTROM if stacks is None else 2.0 * voxel_size_angstrom
    elif structure is None:
        raise ArgumentError("{} is that of a structure: leave it out, or give {}", "resolution_angstrom", "structure")
    density, note = _density(phantom, structure, resolution_angstrom, imaging)
    shift = _shift_angstrom(max_shift_voxels, voxel_size_angstrom)
    settings: dict[str, Any] = {
        "phantom": phantom if structure is not None else phantom or DEFAULT_PHANTOM,
        "structure": structure,
        "resolution_angstrom": None if structure is None else resolution_angstrom,
        "count": count,
        "max_shift_voxels": max_shift_voxels,
    }
    inputs = [] if structure is None else [Path(structure)]
    made = None
    if stacks is None:
        truth = random_poses(count, imaging, max_shift_voxels, seed)
        settings["imaging"] = asdict(imaging)
    else:
        contrast = AMPLITUDE_CONTRAST if amplitude_contrast is None else amplitude_contrast
        acquisition = stacks.acquisition(tilt_range_deg, ctf=ctf != "none", amplitude_contrast=contrast)
        made = StackSimulation(density, stacks, acquisition, count, box, voxel_size_angstrom, shift, snr, seed)
        truth = made.table.poses
        settings |= {"box": box, "pixel_size_angstrom": voxel_size_angstrom, "snr": snr, "stacks": asdict(stacks)}
        settings |= {"tilt_range_deg": tilt_range_deg, "ctf": ctf, "amplitude_contrast": contrast}
    with running(out, run.resources(), settings=settings, seed=seed, inputs=inputs) as work, work.results() as folder:
        if made is None:
            write_simulation(folder, density, imaging, truth=truth, seed=seed, executor=work.executor)
        else:
            made.write(folder, executor=work.executor)
            _write_reference(folder / "reference.mrc", density, imaging)
    return Simulated(truth, note)


def _lens(ctf: str | None, amplitude_contrast: float | None, *, is_whole: bool) -> tuple[str, dict[str, Any]]:
    """Return what is left of the CTF, and the fields of an ``Imaging`` that describe it and its correction."""
    from gonio.simulate import DEFAULT_CTF, CtfCorrection

    kinds = ("whole", "none") if is_whole else (*CtfCorrection, "none")
    ctf = kinds[0] if ctf is None else ctf
    check_one_of("ctf", ctf, kinds)
    if ctf == "none":
        if amplitude_contrast is not None:
            raise ArgumentError("{} is of the lens, and {} none has none: leave it out", "amplitude_contrast", "ctf")
        return ctf, {"ctf": None}
    contrast = AMPLITUDE_CONTRAST if amplitude_contrast is None else amplitude_contrast
    if not 0.0 <= contrast < 1.0:
        raise ArgumentError("{} must be 0 or more and below 1, got {got!r}", "amplitude_contrast", got=contrast)
    corrected = {} if is_whole else {"correction": CtfCorrection(ctf)}
    return ctf, {"ctf": replace(DEFAULT_CTF, amplitude_contrast=contrast), **corrected}


def random_poses(count: int, imaging: Imaging, max_shift_voxels: float, seed: int) -> Pose:
    """Return poses uniform in orientation and, along each axis, in shift."""
    from gonio.particle.pose import Pose

    shift = _shift_angstrom(max_shift_voxels, imaging.voxel_size_angstrom)
    return Pose.random(count, rng=np.random.default_rng((seed, 0)), max_shift_angstrom=shift)


def _shift_angstrom(max_shift_voxels: float, voxel_size_angstrom: float) -> float:
    if not 0 <= max_shift_voxels < np.inf:
        what = "{} must be a number that is not negative, got {got!r}"
        raise ArgumentError(what, "max_shift_voxels", got=max_shift_voxels)
    return max_shift_voxels * voxel_size_angstrom


@dataclass(frozen=True)
class _Particle:
    """Simulate a particle by its number; its noise depends on that and the seed alone."""

    density: Density
    imaging: Imaging
    truth: Pose
    seed: int

    def __call__(self, index: int) -> NDArray[np.float32]:
        from gonio.simulate import simulate_subtomogram

        rng = np.random.default_rng((self.seed, 1, index))
        return simulate_subtomogram(self.density, self.truth[index], imaging=self.imaging, rng=rng).volume.data


def write_simulation(
    folder: Path, density: Density, imaging: Imaging, *, truth: Pose, seed: int, executor: Executor
) -> None:
    """Write particles, the two lists and the reference into an existing folder."""
    from gonio.io import write_simulated, write_volume
    from gonio.particle.pose import Pose
    from gonio.particle.volume import Volume
    from gonio.simulate import simulate_subtomogram

    density = _projected(density, imaging, truth)
    count = len(truth)
    (folder / "particles").mkdir()
    paths = [folder / "particles" / f"{i:0{len(str(count))}d}.mrc" for i in range(1, count + 1)]
    made = executor("simulating", _Particle(density, imaging, truth, seed), count)
    for path, data in zip(paths, made, strict=True):
        write_volume(path, Volume(data, imaging.voxel_size_angstrom))
    perfect = replace(imaging, snr=np.inf, tilt_min_deg=-90.0, tilt_max_deg=90.0)
    rng = np.random.default_rng(seed)  # not used without noise
    reference = simulate_subtomogram(density, Pose.identity(), imaging=perfect, rng=rng)
    write_volume(folder / "reference.mrc", reference.volume)
    tilts = (imaging.tilt_min_deg, imaging.tilt_max_deg)
    for name, poses in (("truth.star", truth), ("particles.star", Pose.identity(count))):
        write_simulated(
            folder / name,
            poses,
            paths,
            voxel_size_angstrom=imaging.voxel_size_angstrom,
            box=imaging.box,
            tilt_range_deg=tilts,
        )


def _write_reference(path: Path, density: Density, imaging: Imaging) -> None:
    """Write the particle in its own frame, as no microscope has seen it."""
    from gonio.io import write_volume
    from gonio.particle.pose import Pose
    from gonio.particle.volume import Volume

    size = imaging.voxel_size_angstrom
    data = density.density(Pose.identity(), box=imaging.box, voxel_size_angstrom=size)
    write_volume(path, Volume(data.astype(np.float32), size))


def _projected(density: Density, imaging: Imaging, truth: Pose) -> Density:
    """Return the density itself, or where that takes long one that is projected by slices."""
    from gonio.simulate import Phantom
    from gonio.simulate.slices import Sliced

    if isinstance(density, Phantom):
        return density
    reach = float(np.linalg.norm(truth.shift_angstrom, axis=-1).max())
    size = imaging.of(density).voxel_size_angstrom
    shape = imaging.of(density).field_yx
    return Sliced.of(density, shape_yx=shape, voxel_size_angstrom=size, reach_angstrom=reach)


def _density(phantom: str | None, structure: File | None, resolution: float, imaging: Imaging) -> tuple[Density, str]:
    from gonio.simulate import PHANTOM_NAMES, Phantom

    if structure is None:
        name = phantom or DEFAULT_PHANTOM
        check_one_of("phantom", name, PHANTOM_NAMES)
        return Phantom.named(name, box=imaging.box, voxel_size_angstrom=imaging.voxel_size_angstrom), ""
    if phantom is not None:
        raise ArgumentError("{} and {} exclude each other: give one", "phantom", "structure")
    edge = imaging.box * imaging.voxel_size_angstrom
    particle, note = read_structure(Path(structure), resolution_angstrom=resolution, box_angstrom=edge)
    return particle.coarsened(), note
