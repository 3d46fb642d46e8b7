"""Warnings about a list, a volume or a tilt series, and the hand of a map that fits particles.

Every check is one function that returns an ``InputWarning`` or None. Thresholds are where a careful user would look
again; none of them proves an error. Volumes are judged by two numbers,

    t        (mean inside a sphere - mean outside) over its standard error, from particles or from the map's own spread
    emptiness  mean power where a wedge has not measured over that where it has, each shell scaled by its own mean

and a hand by pairs of refinements: every particle is refined against the map and against its mirror image from one
start; the difference of the dissimilarities, averaged over particles, is given with its standard error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gonio.alignment.aligner import Aligner
from gonio.averaging.averages import average
from gonio.fourier.fourier_volume import moved_into
from gonio.fourier.grid import index_grid
from gonio.fourier.transform import centred_fft, low_passed
from gonio.particle import half_sets as halves
from gonio.particle.pose import Pose
from gonio.particle.volume import Particle, Subtomogram, Volume, correlation, mirrored_volume, soft_sphere
from gonio.particle.wedge import SingleAxisWedge, Wedge, WeightVolumeWedge
from gonio.settings import Inputs, LocalSearch, Settings

# Euler angles of a list that never exceed this are radians, when there are enough of them to decide.
RADIANS, ENOUGH = 2 * np.pi + 1e-3, 10
# Standard errors above which a sign is reported.
SURE = 4.0
# A wedge fits volumes where its missing part holds less than this fraction of the power of the measured part: with the
# right axis it is 0.01 (simulated, and PyTom's), with another 0.3 to 0.7, as both miss frequencies along the beam.
EMPTY = 0.25
# Radius of the inner sphere for contrast, and range of shells for wedges, as fractions of the box.
INNER, SHELLS = 0.3, (0.15, 0.4)
# Skewness of a tomogram beyond which its contrast is reported.
SKEWED = 0.2
NAMED = 5


@dataclass(frozen=True)
class InputWarning:
    """A warning: a short name for programs, what is suspicious, and what to do about it."""

    name: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


# Lists


def box_without_a_middle(box: int) -> InputWarning | None:
    """Check for an odd box: programs disagree on its centre, by half a voxel."""
    if box % 2 == 0:
        return None
    what = f"the box of {box} voxels is odd: programs disagree by half a voxel on its centre"
    return InputWarning("odd box", what, f"gonio takes voxel {box // 2} (from 0); RELION wants even boxes")


def tomogram_without_a_middle(shape_xyz: Sequence[int]) -> InputWarning | None:
    """Check for odd edges: coordinates from the centre may be off by half a voxel, in some programs by a whole one."""
    if all(n % 2 == 0 for n in shape_xyz):
        return None
    size = " x ".join(map(str, shape_xyz))
    what = f"the tomogram of {size} voxels has odd edges: its centre lies between two voxels"
    return InputWarning(
        "odd tomogram", what, "if coordinates start at the centre, say with --centre which one is meant"
    )


def angles_out_of_range(angles_deg: ArrayLike) -> InputWarning | None:
    """Check Euler angles (m, 3), rot, tilt, psi: tilts must be within -180..180, others -360..360, all finite."""
    angles = np.asarray(angles_deg, dtype=np.float64)
    bad = ~np.isfinite(angles) | (np.abs(angles) > np.array([360.0, 180.0, 360.0]) + 1e-6)
    rows = np.flatnonzero(bad.any(axis=1))
    if not len(rows):
        return None
    first = ", ".join(f"{angle:g}" for angle in angles[rows[0]])
    what = f"angles of {len(rows)} of {len(angles)} particles are out of range, first ({first}) in row {rows[0] + 1}"
    remedy = "columns may be exchanged, or angles not in degrees"
    back = np.radians(angles)
    if np.isfinite(angles).all() and len(angles) >= ENOUGH and (np.abs(back) <= [360.0, 180.0, 360.0]).all():
        first = ", ".join(f"{angle:.4g}" for angle in back[rows[0]])
        remedy = f"they may have been converted to degrees twice: those would be ({first})"
    return InputWarning("angles out of range", what, remedy)


def angles_in_radians(angles_deg: ArrayLike) -> InputWarning | None:
    """Check for many Euler angles (m, 3) that differ and never exceed 2 pi."""
    angles = np.asarray(angles_deg, dtype=np.float64)
    angles = angles[np.isfinite(angles).all(axis=1)]
    few = len(angles) < ENOUGH or np.ptp(angles, axis=0).max(initial=0.0) < 1.0
    if few or np.abs(angles).max() > RADIANS:
        return None
    what = f"no angle of {len(angles)} particles exceeds {np.abs(angles).max():.2f}"
    return InputWarning("angles in radians", what, "angles in files are degrees: these look like radians")


def no_orientations(poses: Pose) -> InputWarning | None:
    """Check for several particles that all have one orientation."""
    if len(poses) < 2 or np.max(poses.rotation_distance_deg(poses[0])) > 1e-3:
        return None
    what = f"all {len(poses)} particles have one orientation"
    return InputWarning("no orientations", what, "they were picked and not aligned: a local search would start nowhere")


def shifts_beyond_the_box(poses: Pose, box_angstrom: float) -> InputWarning | None:
    """Check for shifts of more than a quarter of the box: the particle is cut off, or the unit is wrong."""
    lengths = np.linalg.norm(poses.shift_angstrom, axis=1)
    far = np.flatnonzero(lengths > 0.25 * box_angstrom)
    if not len(far):
        return None
    what = f"{len(far)} of {len(lengths)} shifts exceed a quarter of the box, the largest {lengths.max():.0f} A"
    return InputWarning(
        "large shifts", what, "cut these particles anew where they are (gonio extract), or check the unit"
    )


def listed_twice(
    names: Sequence[str], tomograms: Sequence[str], positions_angstrom: NDArray[np.float64], *, distance_angstrom: float
) -> InputWarning | None:
    """Check for particles of one tomogram that are nearer to each other than a distance."""
    found = halves.duplicates(tomograms, positions_angstrom, distance_angstrom=distance_angstrom)
    if not found:
        return None
    pairs = ", ".join(f"{names[one.row]} and {names[one.of_row]}" for one in found[:NAMED])
    near = f"{len(found)} of {len(names)} particles lie within {distance_angstrom:g} A of another"
    what = f"{near}: {pairs}{_more(len(found))}"
    return InputWarning("listed twice", what, "keep one of each")


def shared_by_halves(
    names: Sequence[str],
    tomograms: Sequence[str],
    coordinates_angstrom: NDArray[np.float64] | None,
    half_sets: NDArray[np.int8],
    *,
    box_angstrom: float,
) -> InputWarning | None:
    """Check for particles in different halves that come from one particle, or whose boxes overlap."""
    if not ((half_sets == 1).any() and (half_sets == 2).any()):
        return None
    groups = halves.overlapping_groups(names, tomograms, coordinates_angstrom, within_angstrom=box_angstrom)
    split = halves.split_groups(groups, half_sets)
    if not len(split):
        return None
    rows = np.flatnonzero(np.isin(groups, split))
    what = (
        f"{len(split)} groups of particles that share voxels or an origin ({len(rows)} particles, such as"
        f" {names[rows[0]]}) are in both half sets"
    )
    return InputWarning("halves share particles", what, "their FSC is too good: give each group to one half")


# Tilts


def few_tilts(tilts_deg: ArrayLike) -> InputWarning | None:
    """Check for a tilt range below 60 degrees, or many tilts that never exceed pi / 2."""
    tilts = np.asarray(tilts_deg, dtype=np.float64)
    span = float(np.ptp(tilts)) if len(tilts) else 0.0
    if span >= 60.0:
        return None
    radians = len(tilts) >= ENOUGH and np.abs(tilts).max() <= np.pi / 2
    remedy = "these look like radians: files hold degrees" if radians else "most of Fourier space is missing"
    return InputWarning("small tilt range", f"the {len(tilts)} tilts span {span:.1f} degrees", remedy)


def tilts_listed_twice(tilts_deg: ArrayLike) -> InputWarning | None:
    """Check for tilts within a tenth of a degree of each other."""
    tilts = np.sort(np.asarray(tilts_deg, dtype=np.float64))
    twice = np.flatnonzero(np.diff(tilts) < 0.1)
    if not len(twice):
        return None
    what = f"{len(twice)} tilts are listed twice, first {tilts[twice[0]]:.2f} degrees"
    return InputWarning("tilts listed twice", what, "exposures may have been repeated: leave the worse ones out")


# Volumes


def contrast_t(volumes: Sequence[Volume]) -> float:
    """Return by how many standard errors density is brighter inside than outside.

    For several particles the standard error comes from the spread of their differences; for a single map it is the
    spread of the density outside, where a map of a particle is flat.
    """
    differences, spreads = zip(*(_inside_minus_outside(volume) for volume in volumes), strict=True)
    if len(volumes) == 1:
        return float(differences[0] / max(spreads[0], 1e-30))
    error = np.std(differences, ddof=1) / np.sqrt(len(differences))
    return float(np.mean(differences) / max(error, 1e-30))


def _inside_minus_outside(volume: Volume) -> tuple[float, float]:
    smooth = low_passed(volume, resolution_angstrom=8 * volume.voxel_size_angstrom).data
    radius = np.linalg.norm(index_grid(volume.box), axis=-1)
    inside, outside = (
        smooth[radius <= INNER * volume.box],
        smooth[(radius > 0.45 * volume.box) & (radius <= volume.box / 2)],
    )
    return float(inside.mean() - outside.mean()), float(outside.std())


def inverted_contrast(volumes: Sequence[Volume]) -> InputWarning | None:
    """Check for particles, or a map, that are darker in the middle than around it."""
    t = contrast_t(volumes)
    if t > -SURE:
        return None
    what = f"density is dark: the middle is below its surroundings by {-t:.1f} standard errors"
    return InputWarning("inverted contrast", what, "pass --invert")


def wedge_emptiness(volumes: Sequence[Volume], wedge: Wedge) -> float:
    """Return the mean power where the wedge has not measured over that where it has; NaN where there is no wedge.

    Middle shells are used, each divided by its own mean. Frequencies nearer than one and a half samples to the border
    of the wedge are left out, because the box smears them.
    """
    box, size = volumes[0].box, volumes[0].voxel_size_angstrom
    index = index_grid(box).reshape(-1, 3)
    radius = np.linalg.norm(index, axis=-1)
    keep = (radius >= SHELLS[0] * box) & (radius <= SHELLS[1] * box)
    index, radius = index[keep], radius[keep]
    measured = wedge.weight_at(index / (box * size)) > 0
    near = [wedge.weight_at((index + 1.5 * step) / (box * size)) > 0 for step in _steps()]
    empty, full = ~measured & ~np.any(near, axis=0), measured & np.all(near, axis=0)
    if not empty.any() or not full.any():
        return float("nan")
    mask = soft_sphere(box, radius_px=0.42 * box, edge_px=0.06 * box)
    power = np.zeros(len(index))
    for volume in volumes:
        data = (volume.data - volume.data.mean()) * mask
        one = np.abs(centred_fft(data).reshape(-1)[keep]) ** 2
        power += one / max(one.mean(), 1e-30)
    shell = np.rint(radius).astype(int)
    mean = np.bincount(shell, weights=power) / np.maximum(np.bincount(shell), 1)
    scaled = power / np.maximum(mean[shell], 1e-30)
    return float(scaled[empty].mean() / scaled[full].mean())


def _steps() -> NDArray[np.float64]:
    return np.concatenate([np.eye(3), -np.eye(3)])


def measured_nowhere_empty(volumes: Sequence[Volume], wedge: Wedge) -> InputWarning | None:
    """Check for a wedge whose missing part is not emptier than the rest."""
    emptiness = wedge_emptiness(volumes, wedge)
    if not emptiness > EMPTY:
        return None
    what = f"where the wedge says nothing was measured there is {100 * emptiness:.0f} % of the power elsewhere"
    if isinstance(wedge, WeightVolumeWedge):
        shifted = replace(wedge, weights=np.fft.fftshift(wedge.weights))
        if wedge_emptiness(volumes, shifted) < EMPTY:
            remedy = "the zero frequency of the weights lies in the corner: write them with it at n // 2 (fftshift)"
            return InputWarning("weights from the corner", what, remedy)
    return InputWarning("wedge not seen", what, "the tilt range or axis may be another, or the volumes were filled in")


def tilt_axis_like_x(volumes: Sequence[Volume], tilt_range_deg: tuple[float, float]) -> InputWarning | None:
    """Check for volumes whose missing power fits a tilt axis along x, not along y."""
    about_y, about_x = (wedge_emptiness(volumes, SingleAxisWedge(*tilt_range_deg, axis)) for axis in (90.0, 0.0))
    if not (about_x < EMPTY and about_x < 0.7 * about_y):
        return None
    what = (
        f"power is missing as with a tilt axis along x ({100 * about_x:.0f} % of the rest there, {100 * about_y:.0f} %"
        " where an axis along y would miss it)"
    )
    return InputWarning("tilt axis along x", what, "pass --tilt-range with --tilt-axis 0, or rotate the tomogram")


def dark_tomogram(piece: NDArray[np.float32]) -> InputWarning | None:
    """Check for a tomogram whose strong densities are dark: negative skewness of blocks of 4^3 voxels of a piece."""
    edges = [n // 4 * 4 for n in piece.shape]
    z, y, x = (n // 4 for n in edges)
    blocks = piece[: edges[0], : edges[1], : edges[2]].reshape(z, 4, y, 4, x, 4).mean(axis=(1, 3, 5), dtype=np.float64)
    spread = blocks.std()
    if blocks.size < 64 or spread == 0:
        return None
    skewness = float((((blocks - blocks.mean()) / spread) ** 3).mean())
    if skewness > -SKEWED or skewness > -SURE * np.sqrt(6.0 / blocks.size):
        return None
    what = f"what stands out is dark (skewness {skewness:.2f} in blocks of 4 voxels)"
    return InputWarning("dark tomogram", what, "extract with --invert; particles are bright in gonio")


def _more(count: int) -> str:
    return f" and {count - NAMED} more" if count > NAMED else ""


# Hand


@dataclass(frozen=True)
class HandScore:
    """Comparison of a map and its mirror image with m particles.

    Attributes
    ----------
    dissimilarities
        Dissimilarity of each particle, refined from its input pose, to the map and its mirror image, shape (m, 2).
    correlations
        Correlations of the average at the input poses with the map and with its mirror image, each aligned to it.
    shift_angstrom, turn_deg
        Shift and rotation that align the map that fits to the average.
    """

    dissimilarities: NDArray[np.float64]
    correlations: tuple[float, float]
    turn_deg: float
    shift_angstrom: float

    @property
    def margin(self) -> float:
        """Mean difference of the dissimilarities, mirror image minus map; negative where the mirror image fits."""
        return float(np.mean(self.dissimilarities[:, 1] - self.dissimilarities[:, 0]))

    @property
    def standard_error(self) -> float:
        """Standard error of the margin, from its spread over particles."""
        differences = self.dissimilarities[:, 1] - self.dissimilarities[:, 0]
        return float(np.std(differences, ddof=1) / np.sqrt(len(differences))) if len(differences) > 1 else np.inf

    @property
    def fits(self) -> str:
        """``as given``, ``mirrored``, or ``undecided`` within two standard errors."""
        if abs(self.margin) <= 2 * self.standard_error:
            return "undecided"
        return "as given" if self.margin > 0 else "mirrored"


def hand_of(
    particles: Sequence[Particle],
    poses: Pose,
    map_: Volume,
    *,
    resolution_angstrom: float | None = None,
    diameter_angstrom: float | None = None,
    rng: np.random.Generator,
) -> HandScore:
    """Compare a map and its mirror image with particles at their input poses, to find the right hand.

    The particles are averaged at their poses; the map and its mirror image are aligned to the average by a global
    search, and each particle is refined from its pose against both.

    Parameters
    ----------
    particles, poses
        m particles and a batch of m poses.
    map_
        Of the particles' voxel size, in any frame and box.
    resolution_angstrom
        Finest detail that is compared; four voxels by default.
    diameter_angstrom
        Diameter of the sphere that holds the map's particle; the largest of the box by default.
    rng
        Generator of the searches.
    """
    made = average(iter(particles), poses).volume
    aligned, correlations, moves = [], [], []
    seeds = rng.spawn(2)
    for volume, own in zip((map_, mirrored_volume(map_)), seeds, strict=True):
        settings = Settings(resolution_angstrom=resolution_angstrom, mask_diameter_angstrom=diameter_angstrom)
        pose = Aligner(volume, settings).align(Subtomogram(made), rng=own).pose
        aligned.append(moved_into(volume, pose.matrix, pose.shift_angstrom, made.box))
        correlations.append(_correlation(made, aligned[-1], resolution_angstrom, diameter_angstrom))
        moves.append(pose)
    local = Settings(search=LocalSearch(), inputs=Inputs.PLAIN, resolution_angstrom=resolution_angstrom)
    aligners = [Aligner(volume, local) for volume in aligned]
    found = [
        [
            aligner.align(particle, rng=own, start=poses[row]).dissimilarity
            for aligner, own in zip(aligners, seeds, strict=True)
        ]
        for row, particle in enumerate(particles)
    ]
    best = moves[int(np.argmax(correlations))]
    rotation_deg = float(np.degrees(best.rotation.magnitude()))
    return HandScore(
        np.array(found), (correlations[0], correlations[1]), rotation_deg, float(np.linalg.norm(best.shift_angstrom))
    )


def _correlation(first: Volume, second: Volume, resolution: float | None, diameter: float | None) -> float:
    limit = 4 * first.voxel_size_angstrom if resolution is None else resolution
    smooth = [low_passed(volume, resolution_angstrom=limit) for volume in (first, second)]
    radius = (
        first.box / 2 - 3 if diameter is None else min(0.5 * diameter / first.voxel_size_angstrom, first.box / 2 - 3)
    )
    return correlation(*smooth, mask=soft_sphere(first.box, radius_px=radius, edge_px=3.0))
