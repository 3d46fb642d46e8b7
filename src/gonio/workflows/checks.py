"""Checks of inputs before a comparison begins, for mistakes that would give a wrong result without an error.

Each check returns an ``InputWarning`` or None; inputs that cannot be right raise a ValueError. They use a sample of the
particles, take a fraction of a second, and need no poses but the input poses:

    contrast   s = Re sum w c f g0 / (|f| |g0|), g0 the reference averaged over all rotations, at low resolution: its
               mean over particles, in standard errors. Positive at any poses, as rotations do not change a mean.
    symmetry   c = the least correlation of the map, without its rotational average, with itself rotated by the group,
               over the fraction of its power that is not noise
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gonio.averaging.resolution import MASK_TOLERANCE, check_mask
from gonio.fourier.fourier_volume import FourierVolume
from gonio.fourier.spectrum import Spectrum
from gonio.fourier.transform import MIN_SHELLS, shell_limit
from gonio.particle.arguments import ArgumentError
from gonio.particle.symmetry import Symmetry
from gonio.particle.table import ParticleTable
from gonio.particle.volume import Particle, Subtomogram, Volume, masked_volume, mean_within, sphere_of
from gonio.preparation.extent import sphere_diameter_angstrom
from gonio.workflows.inspection import SURE, InputWarning, no_orientations

# Particles that are checked, spread over the list.
SAMPLE = 20
# Voxels of all of them, so that there are fewer large boxes: 256 MB, and a second.
MOST_VOXELS = 2**26
# Least standard error of a mean of contrast scores, times the number of particles: shapes differ, too.
LEAST_ERROR = 0.05
# A map with a symmetry correlates by 0.97 to 1 with itself after a rotation of the group (GroEL and enolase at 40 to 90
# angstrom, under noise of up to twice their standard deviation); phantoms without any by 0.1, GroEL as D6 by 0.74.
HAS_SYMMETRY = 0.75
# Where a smaller fraction of the part that is not round is signal, or of the map is not round, there is no estimate.
ENOUGH_SIGNAL, ENOUGH_SHAPE = 0.5, 0.02
# At least this fraction of a mask's voxels above 0 is nearly 1, unless the mask is all edge.
PLATEAU = 0.05


def sample_of(table: ParticleTable, count: int = SAMPLE) -> list[Particle]:
    """Read a few particles, spread over a list; those that cannot be read are skipped."""
    rows = np.unique(np.linspace(0, len(table) - 1, min(count, len(table))).round().astype(int))
    particles: list[Particle] = []
    for row in rows.tolist():
        if particles and len(particles) * particles[0].box ** 3 > MOST_VOXELS:
            break
        try:
            particles.append(table.load(row))
        except (ValueError, OSError):
            continue
    return particles


# Contrast


def contrast_score(particle: Particle, reference: Volume) -> float:
    """Return how well a particle of any pose agrees with the round part of a reference, -1 to 1.

    Only detail coarser than half the reference's diameter is compared.
    """
    edge = particle.box * particle.voxel_size_angstrom
    ratio = reference.box_angstrom / edge
    limit = max(MIN_SHELLS, 2.0 * edge / sphere_diameter_angstrom(reference))
    limit = float(min(limit, (particle.box - 1) // 2, (reference.box - 1) // 2 / ratio))
    known = Spectrum.of(Subtomogram(reference), limit=min(limit * ratio + 1.0, float((reference.box - 1) // 2)))
    count = np.bincount(known.shell, minlength=known.n_shells)
    profile = np.bincount(known.shell, known.value.real, minlength=known.n_shells) / np.maximum(count, 1)
    seen = Spectrum.of(particle, limit=limit)
    expected = np.interp(seen.radius * ratio, np.arange(len(profile)), profile) * seen.transfer
    weight = seen.weight.astype(np.float64)
    norms = (weight * np.abs(seen.value) ** 2).sum() * (weight * expected**2).sum()
    return float((weight * seen.value.real * expected).sum() / np.sqrt(max(norms, 1e-300)))


def contrast_of(particles: Sequence[Particle], reference: Volume) -> float:
    """Return the mean contrast score of particles in standard errors; 0 of none."""
    scores = np.array([contrast_score(one, reference) for one in particles])
    if not len(scores):
        return 0.0
    error = scores.std(ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return float(scores.mean() / max(error, LEAST_ERROR / len(scores)))


def opposite_contrast(
    particles: Sequence[Particle], reference: Volume, *, name: str, remedy: str
) -> InputWarning | None:
    """Check for particles that are dark where the reference is bright, or the reverse."""
    t = contrast_of(particles, reference)
    if t > -SURE:
        return None
    what = f"particles are dark where {name} is bright, or the reverse ({-t:.0f} standard errors)"
    return InputWarning("opposite contrast", what, remedy)


# Poses


def without_poses(table: ParticleTable, *, remedy: str) -> InputWarning | None:
    """Check for a list whose particles all have one orientation, where poses are needed."""
    alike = no_orientations(table.poses)
    return None if alike is None else InputWarning(alike.name, f"the list has no poses: {alike.what}", remedy)


# Symmetry


def self_correlation(map_: Volume, symmetry: str, *, resolution_angstrom: float, diameter_angstrom: float) -> float:
    """Return the least correlation of a map with itself over the rotations of a group; NaN without an estimate.

    The round part correlates after any rotation, and is left out; the noise, estimated from the surroundings of the
    particle, is subtracted.
    """
    held = masked_volume(map_, diameter_angstrom)
    limit = shell_limit(map_.box, map_.voxel_size_angstrom, resolution_angstrom)
    spectrum = Spectrum.of(Subtomogram(held), limit=limit)
    frequency, sampled = spectrum.frequency_xyz.T.astype(np.float64), FourierVolume.of(held, limit=limit)
    count = np.bincount(spectrum.shell, minlength=spectrum.n_shells)

    def shape(values: NDArray) -> NDArray:
        mean = np.bincount(spectrum.shell, values.real, minlength=spectrum.n_shells) / np.maximum(count, 1)
        return values - mean[spectrum.shell]

    whole = sampled.sample(frequency)
    own = shape(whole)
    power = float((np.abs(own) ** 2).sum())
    signal = 1.0 - float((_noise_power(map_, diameter_angstrom, limit) * count).sum()) / max(power, 1e-300)
    if signal < ENOUGH_SIGNAL or power < ENOUGH_SHAPE * float((np.abs(whole) ** 2).sum()):
        return float("nan")
    rotated = [shape(sampled.sample(frequency @ rotation)) for rotation in Symmetry.named(symmetry).matrices]
    return min(
        float((own * other.conj()).real.sum() / np.sqrt(power * (np.abs(other) ** 2).sum()) / signal)
        for other in rotated
    )


def _noise_power(map_: Volume, diameter_angstrom: float, limit: float) -> NDArray[np.float64]:
    """Estimate the noise power in each shell of a map within its sphere from what lies around the sphere, (s,)."""
    sphere = sphere_of(map_.box, map_.voxel_size_angstrom, diameter_angstrom)
    around = 1.0 - sphere
    data = (map_.data - mean_within(map_.data, around)) * around
    if data.min() == data.max():
        return np.zeros(int(np.rint(limit)) + 1)
    power = Spectrum.of(Subtomogram(Volume(data, map_.voxel_size_angstrom)), limit=limit).shell_power()
    return power * float((sphere**2).sum(dtype=np.float64) / (around**2).sum(dtype=np.float64))


def without_the_symmetry(
    map_: Volume, symmetry: str, *, resolution_angstrom: float | None, diameter_angstrom: float | None
) -> InputWarning | None:
    """Check for a map that does not have the symmetry of a group."""
    if Symmetry.named(symmetry).order == 1:
        return None
    found = self_correlation(
        map_,
        symmetry,
        resolution_angstrom=resolution_angstrom or 4.0 * map_.voxel_size_angstrom,
        diameter_angstrom=diameter_angstrom or sphere_diameter_angstrom(map_),
    )
    if not found < HAS_SYMMETRY:
        return None
    what = (
        f"the reference does not have the symmetry {symmetry}: rotated by it, it correlates by {found:.2f} with itself"
    )
    return InputWarning(
        "symmetry not seen", what, "give --symmetry C1, or rotate the map so that its axes lie as they should"
    )


# Masks, lengths


def mask_is_a_map(mask: Volume) -> InputWarning | None:
    """Check for a mask without a plateau: few of the voxels that it keeps are near its highest value."""
    kept = mask.data > MASK_TOLERANCE * mask.data.max()
    fraction = float((mask.data[kept] > 0.9 * mask.data.max()).mean())
    if fraction >= PLATEAU:
        return None
    what = f"the mask has no plateau: {100 * fraction:.1f} % of the voxels that it keeps are near its highest value"
    return InputWarning("mask is a map", what, "a mask is 1 where the particle is, 0 elsewhere, with a soft edge")


def check_resolution(argument: str, resolution_angstrom: float | None, box: int, voxel_size_angstrom: float) -> None:
    """Raise ArgumentError where a resolution is finer than two voxels or too coarse for the box."""
    try:
        shell_limit(box, voxel_size_angstrom, resolution_angstrom)
    except ArgumentError as error:
        raise error.named(lambda _: argument) from error
    except ValueError as error:
        raise ArgumentError("{} is too coarse: {why}", argument, why=error) from error


# All of them


# Remedy for opposite contrast of the particles of a list.
INVERT = "pass --invert if it is the particles that are dark, else invert the map"


def warnings_of_list(
    table: ParticleTable,
    references: Mapping[str, Volume] | None = None,
    *,
    mask: Volume | None = None,
    resolutions: Mapping[str, float | None] | None = None,
    poses_for: str | None = None,
) -> list[InputWarning]:
    """Return the warnings of a list and the maps it is compared with, as commands print them before they begin.

    Parameters
    ----------
    references
        The maps that particles are compared with, by name.
    mask
        The mask that was given, if any.
    resolutions
        Requested resolutions, angstrom, by option.
    poses_for
        Name of what needs poses of the list, or None where nothing does.

    Raises
    ------
    ValueError
        Resolutions that do not suit a box, a mask that is invalid.
    """
    particles = sample_of(table)
    found = []
    if poses_for is not None:
        found = [without_poses(table, remedy=f"{poses_for} needs them: align first, over all orientations")]
    others = warnings_of_maps(particles, references or {}, mask=mask, resolutions=resolutions or {}, invert=INVERT)
    return [*(one for one in found if one is not None), *others]


def warnings_of_maps(
    particles: Sequence[Particle],
    references: Mapping[str, Volume],
    *,
    mask: Volume | None,
    resolutions: Mapping[str, float | None],
    invert: str,
) -> list[InputWarning]:
    """Return the warnings of particles compared with maps; ``invert`` is the remedy for opposite contrast.

    Raises
    ------
    ValueError
        Resolutions that do not suit a box, a mask that is invalid.
    """
    for option, resolution in resolutions.items():
        for one in [*particles[:1], *references.values()]:
            check_resolution(option, resolution, one.box, one.voxel_size_angstrom)
    found = []
    if mask is not None:
        check_mask(mask)
        found.append(mask_is_a_map(mask))
    contrasts = (opposite_contrast(particles, one, name=name, remedy=invert) for name, one in references.items())
    found.append(next((one for one in contrasts if one is not None), None))
    return [one for one in found if one is not None]
