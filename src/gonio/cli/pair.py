"""``gonio pair``: lay one subtomogram on another, and tell the hand."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from gonio.cli.average import resolution_text
from gonio.cli.checking import look_at_maps, look_at_symmetry
from gonio.cli.options import (
    AsJson,
    Diameter,
    HalfMaps,
    InputsName,
    MaskDiameter,
    MaskPath,
    MaxShift,
    Overwrite,
    Permissive,
    PoolName,
    Resolution,
    ScoreName,
    SearchName,
    SearchOptions,
    Seed,
    SeedInterval,
    SymmetryName,
    TiltAxis,
    TiltRange,
    VoxelSize,
    wedge_of,
)
from gonio.cli.output import beside, check_map, json_text, write_settings
from gonio.cli.reference import ReferenceOptions

if TYPE_CHECKING:
    from gonio.alignment.aligner import Optimum, Result, Settings
    from gonio.cli.reference import ReferenceFacts
    from gonio.particle.volume import Subtomogram, Volume
    from gonio.particle.wedge import SingleAxisWedge

MASK_EDGE_VOXELS = 3.0


@dataclass(frozen=True)
class Fit:
    """B, or its mirror image, laid on A."""

    result: Result
    moved: Volume
    correlation: float
    fsc: np.ndarray  # of A and the moved B inside the mask
    symmetry: str  # of B

    @property
    def resolution_angstrom(self) -> float:
        """Where the FSC falls through 0.5."""
        from gonio.averaging.resolution import FSC_KNOWN
        from gonio.fourier.fsc import resolution_at

        return resolution_at(self.fsc, FSC_KNOWN, box_angstrom=self.moved.box_angstrom)

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
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
            "expected_fsc": None if result.expectation is None else result.expectation.correlation.tolist(),
            "runners_up": [_optimum_as_dict(optimum) for optimum in result.runners_up],
        }


def _optimum_as_dict(optimum: Optimum) -> dict[str, object]:
    return {
        "euler_zyz_deg": optimum.pose.euler_zyz_deg().tolist(),
        "shift_angstrom": optimum.pose.shift_angstrom.tolist(),
        "dissimilarity": optimum.dissimilarity,
        "margin": optimum.margin,
    }


def pair(
    a: Annotated[Path, typer.Argument(metavar="A", help="MRC map that stays where it is.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="MRC map that is laid on A.")],
    tilt_range: TiltRange = None,
    tilt_range_a: Annotated[
        tuple[float, float] | None, typer.Option(metavar="MIN MAX", help="Tilts of A alone, degrees.")
    ] = None,
    tilt_range_b: Annotated[
        tuple[float, float] | None, typer.Option(metavar="MIN MAX", help="Tilts of B alone, degrees.")
    ] = None,
    tilt_axis: TiltAxis = 90.0,
    score: ScoreName = "rcs",
    search: SearchName = None,
    inputs: InputsName = None,
    pool: PoolName = "all",
    symmetry: SymmetryName = "C1",
    resolution: Resolution = None,
    max_shift: MaxShift = None,
    diameter: Diameter = None,
    mask_diameter: MaskDiameter = None,
    mask: MaskPath = None,
    half_maps: HalfMaps = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="MAP",
            help="MRC file to write: B moved onto A, without the frequencies beyond the last whole shell of its box.",
        ),
    ] = None,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Try the mirror image of B too, and say which hand fits.")
    ] = False,
    voxel_size: VoxelSize = None,
    permissive: Permissive = False,
    seed: Seed = 0,
    seed_interval: SeedInterval = None,
    as_json: AsJson = False,
    overwrite: Overwrite = False,
) -> None:
    """Lay one subtomogram on another.

    Finds the rotation R and the shift t with x_A = R x_B + t; B is the reference, which --symmetry, --mask and
    --half-maps are about. Without a tilt range a map has no missing wedge. The correlation is that of A and the moved B
    in real space, low-passed to the resolution, inside the sphere of --mask-diameter (without it, inside the largest of
    the box); a missing wedge lowers it. The resolution is where the Fourier shell correlation of the two inside that
    sphere falls through 0.5.

    With `--output MAP` the moved B is written, of the hand that fits, and MAP.settings.toml. B is turned and shifted in
    the larger of the two boxes by interpolation of its Fourier transform, then cut to the box of A. What lies beyond
    the last whole shell, the corners of Fourier space, is dropped: moved by nothing, B is not quite itself.

    Example: `gonio pair average.mrc 7p6z.mrc --mask-diameter 300 --mirror --output 7p6z_moved.mrc`
    """
    from gonio.io import read_volume, write_volume

    target_path = None if output is None else check_map(output, ".settings.toml", overwrite=overwrite)
    wedges = [wedge_of(own or tilt_range, tilt_axis) for own in (tilt_range_a, tilt_range_b)]
    asked = SearchOptions(
        score,
        search,
        inputs=inputs,
        pool=pool,
        symmetry=symmetry,
        seed_interval_deg=seed_interval,
        resolution_angstrom=resolution,
        max_shift_angstrom=max_shift,
        diameter_angstrom=diameter,
        mask_diameter_angstrom=mask_diameter,
    )
    read = partial(read_volume, voxel_size_angstrom=voxel_size, permissive=permissive)
    asked.check()
    volume_a, volume_b = read(a), read(b)
    settings = asked.settings(voxel_size_angstrom=volume_a.voxel_size_angstrom)
    settings = settings.resolved(box=volume_a.box, voxel_size_angstrom=volume_a.voxel_size_angstrom)
    known = ReferenceOptions(mask, half_maps)
    facts = known.read(read, volume_b, settings)
    look_at_maps(
        [_subtomogram(volume_a, wedges[0])],
        {"B": volume_b},
        mask=facts.mask,
        resolutions={"--resolution": resolution},
        invert="invert one of them",
    )
    if wedges[1] is None:
        look_at_symmetry(volume_b, symmetry, resolution_angstrom=resolution, diameter_angstrom=diameter)
    fitted = _Fitting(volume_a, wedges[0], settings, seed)
    fits = {"as given": fitted.fit(_subtomogram(volume_b, wedges[1]), facts)}
    if mirror:
        from gonio.particle.volume import mirrored_volume

        flipped = facts if facts.mask is None else replace(facts, mask=mirrored_volume(facts.mask))
        fits["mirrored"] = fitted.fit(_mirrored(volume_b, wedges[1]), flipped)
    hand = max(fits, key=lambda name: fits[name].correlation)
    if target_path is not None:
        target_path.parent.mkdir(parents=True, exist_ok=True)
        write_volume(target_path, fits[hand].moved)
        told = {
            "alignment": asdict(settings),
            "tilt_range_a_deg": tilt_range_a or tilt_range,
            "tilt_range_b_deg": tilt_range_b or tilt_range,
            "tilt_axis_deg": tilt_axis,
            "mask": mask,
            "half_maps": half_maps,
            "voxel_size_angstrom": volume_a.voxel_size_angstrom,
            "permissive": permissive,
            "mirror": mirror,
            "hand": hand,
        }
        write_settings(beside(target_path, ".settings.toml"), told, seed=seed, inputs=(a, b, *known.files))
    if as_json:
        print(json_text(_as_dict(fits, hand)))
    else:
        _print(fits, hand, names=(a.name, b.name), output=output)


class _Fitting:
    """A, with the sphere in which it is compared with what is laid on it."""

    def __init__(self, volume: Volume, wedge: SingleAxisWedge | None, settings: Settings, seed: int) -> None:
        from gonio.particle.volume import soft_sphere

        self._settings, self._seed = settings, seed
        self._resolution = settings.resolution_angstrom or 4.0 * volume.voxel_size_angstrom
        self._target = _subtomogram(volume, wedge)
        radius, diameter = volume.box / 2 - MASK_EDGE_VOXELS, settings.mask_diameter_angstrom
        if diameter is not None:
            radius = 0.5 * diameter / volume.voxel_size_angstrom
            if radius > volume.box / 2:
                raise ValueError(
                    f"--mask-diameter must not exceed the box, {volume.box_angstrom:g} angstrom, got {diameter!r}"
                )
        self._mask = soft_sphere(volume.box, radius_px=radius, edge_px=MASK_EDGE_VOXELS)

    def fit(self, reference: Subtomogram, known: ReferenceFacts) -> Fit:
        """Lay a reference on A, with the same random numbers for every reference."""
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


def _mirrored(volume: Volume, wedge: SingleAxisWedge | None) -> Subtomogram:
    """The image in a mirror across the yz plane through the centre voxel; turns about an axis change their sense."""
    from gonio.particle.volume import mirrored_volume
    from gonio.particle.wedge import SingleAxisWedge

    mirrored = None
    if wedge is not None:
        mirrored = SingleAxisWedge(-wedge.tilt_max_deg, -wedge.tilt_min_deg, 180.0 - wedge.axis_deg)
    return _subtomogram(mirrored_volume(volume), mirrored)


def _margin(fits: dict[str, Fit], hand: str) -> float:
    return fits[hand].correlation - min(fit.correlation for fit in fits.values())


def _as_dict(fits: dict[str, Fit], hand: str) -> dict[str, object]:
    found = fits["as given"].as_dict()
    if len(fits) > 1:
        found |= {"mirror": fits["mirrored"].as_dict(), "hand": hand, "margin": _margin(fits, hand)}
    return found


def _next_best(fit: Fit) -> str:
    from gonio.particle.symmetry import Symmetry

    if not fit.result.runners_up:
        return "     none"
    other = fit.result.runners_up[0]
    turned = float(Symmetry.named(fit.symmetry).rotation_distance_deg(other.pose, fit.result.pose))
    return f"{turned:9.1f}  degrees away; margin {other.margin:.3g}: near 0 is as good"


def _print(fits: dict[str, Fit], hand: str, *, names: tuple[str, str], output: Path | None) -> None:
    print(f"x_A = R x_B + t lays {names[1]} on {names[0]}; R = Rz(a) Ry(b) Rz(c)")
    for name, fit in fits.items():
        result = fit.result
        angles = "  ".join(f"{angle:9.3f}" for angle in result.pose.euler_zyz_deg())
        shift = "  ".join(f"{length:9.3f}" for length in result.pose.shift_angstrom)
        if len(fits) > 1:
            print(f"\n{names[1]} {name}")
        print(f"  rotation a, b, c   {angles}  degrees")
        print(f"  shift x, y, z      {shift}  angstrom")
        print(f"  dissimilarity      {result.dissimilarity:9.4f}  lower is better")
        print(f"  correlation        {fit.correlation:9.4f}  masked, low-passed; 1 is perfect")
        from gonio.averaging.resolution import FSC_KNOWN

        number, _, rest = resolution_text(fit.fsc, FSC_KNOWN, fit.moved.box_angstrom).partition(" ")
        print(f"  FSC falls to {FSC_KNOWN:g}   {number:>9}  {rest}, masked")
        print(f"  sd of rotation     {result.rotation_sd_deg:9.3f}  degrees about any axis, predicted")
        print(f"  sd of shift        {result.shift_sd_angstrom:9.3f}  angstrom along any axis, predicted")
        print(f"  next best pose     {_next_best(fit)}")
        print(f"  measured by both   {100 * result.overlap:9.1f}  percent of the samples of A")
        print(f"  ended              {result.status.sentence} ({result.n_iterations} iterations)")
    if len(fits) > 1:
        print(f"\nthe hand that fits: {names[1]} {hand}, by a correlation higher by {_margin(fits, hand):.3f}")
    if output is not None:
        print(f"wrote {output}")
