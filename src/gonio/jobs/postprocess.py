"""From two half maps to a map to look at, and how far it can be trusted: ``gonio postprocess``."""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gonio.jobs.curves import fsc_csv, resolutions
from gonio.jobs.files import write_settings, write_summary, write_text
from gonio.jobs.fitting import Fitting
from gonio.jobs.map_quality import (
    FILTERED,
    SHARPENED,
    Postprocessed,
    SharpeningOptions,
    postprocessed,
    write_postprocessed,
)
from gonio.jobs.options import File
from gonio.jobs.pages import facts_of, files_in, for_display
from gonio.run.folder import check_target, result_folder

if TYPE_CHECKING:
    from gonio.particle.volume import Volume

# Rule for the one resolution of the page.
RULE = (
    "where the Fourier shell correlation of the two half maps, corrected for the mask, first falls below 0.143; it can"
    " be relied on if their poses were refined apart, which no map states"
)


def postprocess(
    half_1: File,
    half_2: File,
    *,
    output: File,
    mask: File | None = None,
    random_from_angstrom: float | None = None,
    sharpening: SharpeningOptions = SharpeningOptions(),
    local_resolution: bool = True,
    coverage: File | None = None,
    voxel_size_angstrom: float | None = None,
    permissive: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Postprocessed:
    """Compare two half maps, and write what ``gonio postprocess`` writes.

    Parameters
    ----------
    half_1, half_2
        Maps of one half of the particles each, neither filtered nor masked.
    output
        The folder to make.
    mask
        Mask for the FSC, 0 to 1, resampled where it has other voxels or another box; None for one made from the map.
    random_from_angstrom
        As for ``gonio.half_map_fsc``.
    sharpening
        How the map is sharpened.
    local_resolution
        Estimate the resolution from place to place, and filter the map to it.
    coverage
        Weights of Fourier space, as ``gonio average`` writes them, to be shown.
    voxel_size_angstrom, permissive
        As in ``ListOptions``.
    """
    from gonio.io import write_volume

    output = Path(output)
    check_target(output, overwrite=overwrite)
    halves, given, weights = _read(half_1, half_2, mask, coverage, voxel_size_angstrom, permissive=permissive)
    volume = _mean_of(halves)
    found = postprocessed(
        volume,
        halves,
        mask=given,
        sharpening=sharpening,
        local_resolution=local_resolution,
        random_from_angstrom=random_from_angstrom,
        seed=seed,
    )
    found = replace(found, coverage=None if weights is None else weights.data)
    if not np.isfinite(found.fsc.resolution_angstrom()):
        warnings.warn(
            "the half maps agree in no shell: are they halves of one map, in one frame and of one contrast?",
            stacklevel=2,
        )
    settings = {
        "mask": mask,
        "random_from_angstrom": random_from_angstrom,
        "sharpening": asdict(sharpening),
        "local_resolution": local_resolution,
        "coverage": coverage,
        "voxel_size_angstrom": volume.voxel_size_angstrom,
        "permissive": permissive,
    }
    inputs = [Path(path) for path in (half_1, half_2, mask, coverage) if path is not None]
    with result_folder(output, overwrite=overwrite) as folder:
        if found.made_mask:
            write_volume(folder / "mask.mrc", found.mask)
        write_text(folder / "fsc.csv", fsc_csv(found.fsc))
        write_postprocessed(found, folder.joinpath)
        write_summary(folder, found.summary)
        _write_page(folder, found, f"Half maps {Path(half_1).name} and {Path(half_2).name}", seed)
        write_settings(folder / "settings.toml", settings, seed=seed, inputs=inputs)
    return found


def _read(
    half_1: File,
    half_2: File,
    mask: File | None,
    coverage: File | None,
    voxel_size_angstrom: float | None,
    *,
    permissive: bool,
) -> tuple[tuple[Volume, Volume], Volume | None, Volume | None]:
    """Read two half maps, a mask and a coverage, which must fit each other."""
    from gonio.io import FormatError, read_volume
    from gonio.jobs.checking import warn_of

    def read(path: File) -> Volume:
        return read_volume(path, voxel_size_angstrom=voxel_size_angstrom, permissive=permissive)

    one, two = read(half_1), read(half_2)
    within, weights = (None if path is None else read(path) for path in (mask, coverage))
    for path, other in ((half_2, two), (coverage, weights)):
        if path is not None and other is not None:
            _check_alike(one, other, path)
    for path, half in ((half_1, one), (half_2, two)):
        if half.data.min() == half.data.max():
            raise FormatError(path, "is constant: there is nothing in it", "write the map again, or give another")
    if np.array_equal(one.data, two.data):
        raise FormatError(half_2, "equals the other half map voxel by voxel", "give the maps of two halves")
    fitting = Fitting(one.voxel_size_angstrom, one.box)
    within = None if within is None else fitting.fit(within, "the mask")
    warn_of(fitting.warnings)
    return (one, two), within, weights


def _check_alike(one: Volume, other: Volume, path: File) -> None:
    """Raise FormatError where a map differs from the first half map in box or voxel size."""
    from gonio.io import FormatError
    from gonio.particle.volume import VOXEL_SIZE_TOLERANCE, same_size

    if one.box != other.box:
        raise FormatError(
            path, f"has a box of {other.box} voxels, the first half map {one.box}", "give maps of one box"
        )
    if not same_size(other.voxel_size_angstrom, one.voxel_size_angstrom, tolerance=VOXEL_SIZE_TOLERANCE):
        raise FormatError(
            path,
            f"has voxels of {other.voxel_size_angstrom:g} angstrom, the first half map {one.voxel_size_angstrom:g}",
            "state the right one with --voxel-size",
        )


def _mean_of(halves: tuple[Volume, Volume]) -> Volume:
    from gonio.particle.volume import Volume

    one, two = halves
    return Volume(0.5 * (one.data + two.data), one.voxel_size_angstrom)


def _write_page(folder: Path, found: Postprocessed, title: str, seed: int) -> None:
    from gonio.report import MapFile, Report, html, maps_script

    shown = [(SHARPENED, found.sharpened), *([] if found.filtered is None else [(FILTERED, found.filtered)])]
    write_text(folder / "maps.cxc", maps_script([MapFile(name, one, name == SHARPENED) for name, one in shown]))
    resolution = found.fsc.resolution_angstrom()
    page = Report(
        title,
        facts_of(seed),
        [*resolutions(found.fsc), *found.rows],
        curves={f"half maps, {name}": curve for name, curve in found.fsc.curves.items()},
        box_angstrom=found.volume.box_angstrom,
        maps={"sharpened map": found.sharpened, **for_display({"map": found.volume}, resolution)},
        coverage=found.coverage,
        quality=found.quality,
        resolution=(resolution, RULE),
        files=files_in(folder),
    )
    write_text(folder / "report.html", html(page))
