"""Align one subtomogram to another, and find the hand: ``gonio pair``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.checking import warn_of
from gonio.jobs.files import beside, check_map, write_settings
from gonio.jobs.fitting import Fitting
from gonio.jobs.options import File, ReferenceOptions, SearchOptions, axis_of, files_of, wedge_of
from gonio.particle.arguments import ArgumentError

if TYPE_CHECKING:
    from gonio.alignment.result import Optimum, Result
    from gonio.jobs.options import KnownReference
    from gonio.particle.volume import Subtomogram, Volume
    from gonio.particle.wedge import SingleAxisWedge
    from gonio.settings import Settings
    from gonio.workflows.inspection import InputWarning

AS_GIVEN, MIRRORED = "as given", "mirrored"
SETTINGS_ENDING = ".settings.toml"
MASK_EDGE_VOXELS = 3.0


@dataclass(frozen=True)
class Fit:
    """B, or its mirror image, aligned to A."""

    result: Result
    moved: Volume
    correlation: float
    fsc: np.ndarray  # of A and the moved B inside the mask
    symmetry: str  # of B

    @property
    def resolution_angstrom(self) -> float:
        """Resolution at which the FSC falls through 0.5."""
        from gonio.averaging.resolution import FSC_KNOWN
        from gonio.fourier.fsc import resolution_at

        return resolution_at(self.fsc, FSC_KNOWN, box_angstrom=self.moved.box_angstrom)

    @property
    def next_best_deg(self) -> float | None:
        """Angle between the next best pose and the best, or None where there is none."""
        from gonio.particle.symmetry import Symmetry

        if not self.result.runners_up:
            return None
        other = self.result.runners_up[0].pose
        return float(Symmetry.named(self.symmetry).rotation_distance_deg(other, self.result.pose))

    @property
    def summary(self) -> dict[str, object]:
        """Plain values for programs."""
        result = self.result
        return {
            "euler_zyz_deg": result.pose.euler_zyz_deg().tolist(),
            "shift_angstrom": result.pose.shift_angstrom.tolist(),
            "matrix_xyz": result.pose.matrix.tolist(),
            "dissimilarity": result.dissimilarity,
            "correlation": self.correlation,
            "fsc_resolution_angstrom": self.resolution_angstrom,
            "overlap": result.overlap,
            "status": result.status.name.lower(),
            "sentence": result.status.sentence,
            "iterations": result.n_iterations,
            "rotation_sd_deg": result.rotation_sd_deg,
            "shift_sd_angstrom": result.shift_sd_angstrom,
            "covariance": result.covariance.tolist(),
            "expected_fsc": None if result.expected_fsc is None else result.expected_fsc.correlation.tolist(),
            "runners_up": [_optimum_as_dict(optimum) for optimum in result.runners_up],
        }


def _optimum_as_dict(optimum: Optimum) -> dict[str, object]:
    return {
        "euler_zyz_deg": optimum.pose.euler_zyz_deg().tolist(),
        "shift_angstrom": optimum.pose.shift_angstrom.tolist(),
        "dissimilarity": optimum.dissimilarity,
        "margin": optimum.margin,
    }


@dataclass(frozen=True)
class Paired:
    """B aligned to A, ``as given`` and, with ``mirror``, ``mirrored``."""

    fits: dict[str, Fit]

    @property
    def hand(self) -> str:
        """Hand that fits better."""
        return max(self.fits, key=lambda name: self.fits[name].correlation)

    @property
    def margin(self) -> float:
        """Difference between the correlations of the two hands."""
        return self.fits[self.hand].correlation - min(fit.correlation for fit in self.fits.values())

    @property
    def summary(self) -> dict[str, object]:
        """Plain values for programs."""
        found = self.fits[AS_GIVEN].summary
        if MIRRORED in self.fits:
            found |= {"mirror": self.fits[MIRRORED].summary, "hand": self.hand, "margin": self.margin}
        return found


def pair(
    a: File,
    b: File,
    *,
    tilt_range_deg: tuple[float, float] | None = None,
    tilt_range_a_deg: tuple[float, float] | None = None,
    tilt_range_b_deg: tuple[float, float] | None = None,
    axis_deg: float | None = None,
    search: SearchOptions = SearchOptions(),
    known: ReferenceOptions = ReferenceOptions(),
    output: File | None = None,
    mirror: bool = False,
    voxel_size_angstrom: float | None = None,
    permissive: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Paired:
    """Align one subtomogram to another, as ``gonio pair`` does: ``x_A = R x_B + t``.

    Parameters
    ----------
    a, b
        The map that stays, and the one that is aligned to it: the reference.
    tilt_range_deg, tilt_range_a_deg, tilt_range_b_deg, axis_deg
        Tilts of both, or of one alone, and the direction of their axis, 90 degrees for None; no tilts
        where nothing is missing.
    output
        The map to write: the moved B, of the hand that fits; its settings lie beside.
    mirror
        Try the mirror image of B too.
    voxel_size_angstrom, permissive
        As in ``ListOptions``.
    """
    from gonio.io import read_volume, write_volume

    path = None if output is None else check_map(output, SETTINGS_ENDING, overwrite=overwrite)
    tilts = [tilt_range_a_deg or tilt_range_deg, tilt_range_b_deg or tilt_range_deg]
    axis_deg = axis_of(axis_deg, *tilts)
    wedges = [wedge_of(own, axis_deg) for own in tilts]
    search.check()
    read = partial(read_volume, voxel_size_angstrom=voxel_size_angstrom, permissive=permissive)
    volume_a = read(a)
    size = volume_a.voxel_size_angstrom
    to_a = Fitting(size, volume_a.box)
    volume_b = to_a.fit(read(b), "B", box=False)
    to_b = Fitting(volume_b.voxel_size_angstrom, volume_b.box)
    asked = search.settings(voxel_size_angstrom=size)
    settings = asked.resolved(box=volume_a.box, voxel_size_angstrom=size)
    facts = known.read(lambda path: to_b.fit(read(path), str(path)), volume_b, settings)
    target, reference = _subtomogram(volume_a, wedges[0]), _subtomogram(volume_b, wedges[1])
    warn_of([*to_a.warnings, *to_b.warnings, *_warnings(target, reference, facts.mask, asked)])
    fitting = _Fitting(target, settings, seed)
    fits = {AS_GIVEN: fitting.fit(reference, facts)}
    if mirror:
        fits[MIRRORED] = fitting.fit(*_mirrored(volume_b, wedges[1], facts))
    paired = Paired(fits)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(path, fits[paired.hand].moved)
        shown = {
            "alignment": asdict(settings),
            "tilt_range_a_deg": tilts[0],
            "tilt_range_b_deg": tilts[1],
            "tilt_axis_deg": axis_deg,
            "mask": known.mask,
            "half_maps": known.half_maps,
            "voxel_size_angstrom": size,
            "permissive": permissive,
            "mirror": mirror,
            "hand": paired.hand,
        }
        inputs = files_of(None, a, b, *known.files)
        write_settings(beside(path, SETTINGS_ENDING), shown, seed=seed, inputs=inputs)
    return paired


def _warnings(
    target: Subtomogram, reference: Subtomogram, mask: Volume | None, settings: Settings
) -> list[InputWarning | None]:
    """Return what is to be warned of before B, the reference, is aligned to A, the target."""
    from gonio.particle.wedge import NoWedge
    from gonio.workflows import checks

    finest, map_ = settings.resolution_angstrom, reference.volume
    found = checks.warnings_of_maps(
        [target], {"B": map_}, mask=mask, resolutions={"resolution_angstrom": finest}, invert="invert one of them"
    )
    if not isinstance(reference.wedge, NoWedge):
        return [*found]
    diameter = settings.particle_diameter_angstrom
    symmetry = checks.without_the_symmetry(
        map_, settings.symmetry, resolution_angstrom=finest, diameter_angstrom=diameter
    )
    return [*found, symmetry]


class _Fitting:
    """A, with the sphere in which it is compared with maps that are aligned to it."""

    def __init__(self, target: Subtomogram, settings: Settings, seed: int) -> None:
        from gonio.particle.volume import soft_sphere

        volume = target.volume
        self._settings, self._seed = settings, seed
        self._resolution = settings.resolution_angstrom or 4.0 * volume.voxel_size_angstrom
        self._target = target
        radius, diameter = volume.box / 2 - MASK_EDGE_VOXELS, settings.mask_diameter_angstrom
        if diameter is not None:
            radius = 0.5 * diameter / volume.voxel_size_angstrom
            if radius > volume.box / 2:
                raise ArgumentError(
                    "{} must not exceed the box, {box:g} angstrom, got {got!r}",
                    "mask_diameter_angstrom",
                    box=volume.box_angstrom,
                    got=diameter,
                )
        self._mask = soft_sphere(volume.box, radius_px=radius, edge_px=MASK_EDGE_VOXELS)

    def fit(self, reference: Subtomogram, known: KnownReference) -> Fit:
        """Align a reference to A, with the same random numbers for every reference."""
        from gonio.fourier.fourier_volume import moved_into
        from gonio.fourier.fsc import fourier_shell_correlation
        from gonio.fourier.transform import low_passed
        from gonio.particle.volume import correlation

        aligner, target = known.aligner(reference, self._settings), self._target.volume
        result = aligner.align(self._target, rng=np.random.default_rng(self._seed))
        laid = moved_into(reference.volume, result.pose.matrix, result.pose.shift_angstrom, target.box)
        smooth = (low_passed(v, resolution_angstrom=self._resolution) for v in (target, laid))
        fsc = fourier_shell_correlation(self._inside(target), self._inside(laid))
        return Fit(result, laid, correlation(*smooth, mask=self._mask), fsc, self._settings.symmetry)

    def _inside(self, volume: Volume) -> Volume:
        # Without its mean: else the mask's own shape would correlate.
        return replace(volume, data=(volume.data - np.average(volume.data, weights=self._mask)) * self._mask)


def _subtomogram(volume: Volume, wedge: SingleAxisWedge | None) -> Subtomogram:
    from gonio.particle.volume import Subtomogram

    return Subtomogram(volume) if wedge is None else Subtomogram(volume, wedge)


def _mirrored(
    volume: Volume, wedge: SingleAxisWedge | None, known: KnownReference
) -> tuple[Subtomogram, KnownReference]:
    """Return a reference and what is known of it, mirrored in the yz plane through the centre voxel."""
    from gonio.particle.volume import mirrored_volume
    from gonio.particle.wedge import SingleAxisWedge

    if wedge is not None:
        wedge = SingleAxisWedge(-wedge.tilt_max_deg, -wedge.tilt_min_deg, 180.0 - wedge.axis_deg)
    if known.mask is not None:
        known = replace(known, mask=mirrored_volume(known.mask))
    return _subtomogram(mirrored_volume(volume), wedge), known
