"""Warnings of columns about tilt images that gonio does not use, of those that are missing, and of images left out.

Owns the columns that would change an image and are not modelled, each with the value at which it changes nothing. All
that is found goes into one warning for each list.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from gonio.io.source import PREMULTIPLIED, StarSource
from gonio.io.tilts import HAND
from gonio.particle.tilt_change import FARTHEST_OFFSET

# RELION: beam tilt and higher aberrations, and magnification that differs with direction, of an optics group.
NOT_USED: Mapping[str, float] = {
    "rlnBeamTiltX": 0.0,
    "rlnBeamTiltY": 0.0,
    "rlnOddZernike": 0.0,
    "rlnEvenZernike": 0.0,
    "rlnMagMat00": 1.0,
    "rlnMagMat01": 0.0,
    "rlnMagMat10": 0.0,
    "rlnMagMat11": 1.0,
}
# Columns that are read from the tilts of a tomogram, and not from the rows of its particles.
OF_TILTS: Mapping[str, float] = {"rlnCtfBfactor": 0.0, "rlnCtfScalefactor": 1.0}


def warn_of_unused(source: StarSource) -> None:
    """Warn once of effects on the images of tilt stacks that are not in their transfer, and of those left out."""
    found = [*_found(source), *_left_out(source)]
    if found:
        warnings.warn(f"{source.path}: {'; '.join(found)}", RuntimeWarning, stacklevel=2)


def _found(source: StarSource) -> Iterator[str]:
    particles, series = source.particles, source.series
    labels = [
        label
        for block, known in ((source.star.find("optics"), NOT_USED), (particles, {**NOT_USED, **OF_TILTS}))
        for label, neutral in known.items()
        if block is not None and label in block and not _is_all(block.text(label), neutral)
    ]
    if labels:
        yield f"{', '.join(dict.fromkeys(labels))} would change the images and is not used"
    without = sorted(name for name, one in series.items() if one.defocus is None)
    premultiplied = source.values(PREMULTIPLIED)
    if without and premultiplied is not None and premultiplied.any():
        few = ", ".join(without[:3]) + (" and others" if len(without) > 3 else "")
        yield f"images were multiplied by their CTF, and no defocus is stated of {few}: nothing is known of that CTF"
    places = source.places_angstrom
    if len(without) < len(series) and (places is None or not np.isfinite(places).all()):
        yield (
            "it is not known where particles are in their tomograms (rlnTomoSizeX/Y/Z is not set): defocus is that of"
            " the tomogram's centre"
        )
    elif any(one.defocus is not None and one.defocus_per_depth == 0 for one in series.values()):
        yield f"{HAND} is not stated: defocus is that of the tomogram's centre"


def _left_out(source: StarSource) -> Iterator[str]:
    """Count the images that were cut out too far from where tilt series that have changed have their particles."""
    places, names = source.places_angstrom, source.particles.text("rlnTomoName")
    changed = {name for name, one in source.series.items() if one.cut_projections_xyz is not None}
    if not changed or places is None:
        return
    rows = [row for row, name in enumerate(names) if name in changed and np.isfinite(places[row]).all()]
    if not rows:
        return
    try:
        first = source.load(rows[0])
    except (ValueError, OSError):
        return  # stated where the particle is needed
    box_angstrom = first.box * first.voxel_size_angstrom
    far = np.array([int((~source.stack_geometry(row).shows(box_angstrom)).sum()) for row in rows])
    if far.any():
        yield (
            f"{far.sum()} images of {(far > 0).sum()} particles are left out: they were cut out more than"
            f" {FARTHEST_OFFSET:g} of their box away from where the tilt series have the particles now; extract the"
            " stacks again"
        )


def _is_all(values: Sequence[str], neutral: float) -> bool:
    """Return whether all values of a column, numbers or lists of them, are the neutral one."""
    for value in dict.fromkeys(values):
        try:
            numbers = np.array(value.strip("[]").split(","), dtype=np.float64)
        except ValueError:
            return False
        if not np.allclose(numbers, neutral, atol=1e-6):
            return False
    return True
