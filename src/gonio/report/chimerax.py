"""Scripts for ChimeraX: maps with their halves, and particles as markers in their tomograms.

A script (.cxc) is opened like any file (``chimerax maps.cxc``); names in it are relative to its own folder, which
ChimeraX changes to. Markers are Chimera marker files (.cmm), in angstrom from the first voxel of the tomogram, which is
where ChimeraX puts the tomogram itself: a ball for each particle, and a pin from it along z of the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from gonio.particle.table import ParticleTable
from gonio.particle.texts import texts_at
from gonio.particle.volume import Volume
from gonio.report.figures import COLOURS, identifier
from gonio.report.surface import height

# Folder of the marker files.
MARKERS = "markers"
# The most of a tomogram's name in that of its file, which file systems limit to 255 bytes with all else.
NAME_BYTES = 80
# A ball and its pin, as fractions of the size of a particle's box.
BALL, PIN, PIN_THICKNESS = 0.12, 0.5, 0.03
# Percentiles of the scores at the two ends of the colour scale.
SCORE_RANGE = (2.0, 98.0)
# Numbers on the scale of a score.
SCALE_LABELS = 5
# Colour of particles without class or score.
UNKNOWN = "#8a8f98"


@dataclass(frozen=True)
class MapFile:
    """A map as a file beside the script.

    ``shown`` is false for a map that is hidden at first. The map is filtered to ``resolution_angstrom``, because noise
    beyond it would dominate the surface; infinite where the resolution is unknown: no filter.
    """

    file: str
    volume: Volume
    shown: bool = True
    resolution_angstrom: float = np.inf

    @property
    def filter_sd_angstrom(self) -> float:
        """Standard deviation of the Gaussian whose transform is 1/2 at the resolution; 0 for no filter."""
        finite = np.isfinite(self.resolution_angstrom)
        return float(self.resolution_angstrom * np.sqrt(np.log(2.0) / 2.0) / np.pi) if finite else 0.0


def maps_script(maps: Sequence[MapFile], *, side_by_side: bool = False) -> str:
    """Return a script that opens maps as surfaces, filtered to their resolution, side by side or superposed."""
    lines = ["# Maps of gonio: open this file with UCSF ChimeraX.", "set bgColor white", "lighting soft"]
    opened = []
    for number, one in enumerate(maps):
        unfiltered, shown = 2 * number + 1, 2 * number + 2 if one.filter_sd_angstrom else 2 * number + 1
        lines.append(f"open {_quoted(one.file)} id #{unfiltered}")
        if one.filter_sd_angstrom:  # this command hides the unfiltered map
            lines.append(f"volume gaussian #{unfiltered} sDev {one.filter_sd_angstrom:.4g} modelId #{shown}")
        level, colour = height(_filtered(one)), COLOURS[number % len(COLOURS)]
        lines.append(f"volume #{shown} step 1 style surface level {level:.6g} color {colour}")
        lines += [] if one.shown else [f"hide #{shown} models"]
        opened.append(str(shown))
    return "\n".join([*lines, f"tile #{','.join(opened)}" if side_by_side and len(maps) > 1 else "view", ""])


def _filtered(one: MapFile) -> Volume:
    size = one.volume.voxel_size_angstrom
    return Volume(gaussian_filter(one.volume.data, one.filter_sd_angstrom / size, mode="constant"), size)


def particle_scene(table: ParticleTable, *, box_angstrom: float) -> dict[str, str]:
    """Return texts by file name: ``particles.cxc`` and the marker file of each tomogram in ``markers/`` that it opens.

    The result is empty where the list has no positions. Particles are coloured by class, or else by dissimilarity or
    score. Only the first tomogram is visible at first.
    """
    places = table.places_angstrom
    if places is None or not len(table):
        return {}
    colours, key, legend = _colours(table)
    axes = table.tomogram_poses.matrix[:, :, 2]  # z of the reference, (m, 3)
    named, files = np.asarray(table.tomograms), dict[str, str]()
    lines = ["# Particles of gonio: open this file with UCSF ChimeraX.", f"# {legend}"]
    if table.coordinates_from == "centre":
        lines.append("# Positions are from the centre of the tomogram: move an opened tomogram's centre to the origin.")
    lines += ["set bgColor white", "lighting soft"]
    for number, tomogram in enumerate(dict.fromkeys(table.tomograms), start=1):
        rows = np.flatnonzero(named == tomogram)
        name = identifier(tomogram).encode()[:NAME_BYTES].decode(errors="ignore")
        file = f"{MARKERS}/{number:03d}_{name or 'tomogram'}.cmm"
        notes = list(texts_at(table.names, rows))
        files[file] = _markers(tomogram, places[rows], axes[rows], colours[rows], notes, box_angstrom)
        lines.append(f"open {_quoted(file)} id #{number}")
        lines += [f"hide #{number} models"] if number > 1 else []
    lines += ["view", *([f"key {key}"] if key else []), ""]
    return {"particles.cxc": "\n".join(lines), **files}


def _quoted(name: str) -> str:
    return f'"{name}"' if any(sign in name for sign in " ;#'") else name


def _colours(table: ParticleTable) -> tuple[NDArray[np.float64], str, str]:
    """Return red, green and blue of each particle, 0 to 1, (m, 3), the key of the scene, and a sentence about it."""
    if table.classes is not None and len(set(table.classes.tolist())) > 1:
        return _class_colours(table.classes)
    for name, values in (*table.columns.items(), ("score", table.scores)):
        if name in ("dissimilarity", "score") and values is not None and np.isfinite(values).any():
            return _score_colours(name, np.asarray(values, dtype=np.float64))
    return np.tile(_rgb(COLOURS[0]), (len(table), 1)), "", "One colour: the list has neither classes nor scores."


def _class_colours(classes: NDArray[np.int64]) -> tuple[NDArray[np.float64], str, str]:
    of = {int(one): COLOURS[(int(one) - 1) % len(COLOURS)] if one > 0 else UNKNOWN for one in np.unique(classes)}
    key = " ".join(f"{colour}:{one}" for one, colour in of.items())
    return np.array([_rgb(of[int(one)]) for one in classes]), key, "Colours are classes."


def _score_colours(name: str, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], str, str]:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    low, high = np.percentile(values[np.isfinite(values)], SCORE_RANGE)
    fraction = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)
    scale = colormaps["viridis"]
    colours = scale(fraction)[:, :3]
    colours[~np.isfinite(values)] = _rgb(UNKNOWN)
    steps = np.linspace(0.0, 1.0, SCALE_LABELS)
    key = " ".join(f"{to_hex(scale(one))}:{low + one * (high - low):.3g}" for one in steps)
    return colours, key, f"Colours are the {name}, from {low:.4g} (violet) to {high:.4g} (yellow)."


def _rgb(colour: str) -> NDArray[np.float64]:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0


def _markers(
    name: str, places: NDArray, axes: NDArray, colours: NDArray, notes: Sequence[str], box_angstrom: float
) -> str:
    """Return a marker file with two markers and a link for each of m particles."""
    lines, tips = [f"<marker_set name={quoteattr(name)}>"], places + PIN * box_angstrom * axes
    ball, thin = BALL * box_angstrom, PIN_THICKNESS * box_angstrom
    links = []
    for i, (place, tip, colour, note) in enumerate(zip(places, tips, colours, notes, strict=True)):
        tint = _attributes(dict(zip("rgb", colour, strict=True)))
        for number, at, radius in ((2 * i + 1, place, ball), (2 * i + 2, tip, thin)):
            where = _attributes(dict(zip("xyz", at, strict=True)))
            label = f" note={quoteattr(note)}" if number % 2 else ""
            lines.append(f'<marker id="{number}" {where} {tint} radius="{radius:.3f}"{label}/>')
        links.append(f'<link id1="{2 * i + 1}" id2="{2 * i + 2}" {tint} radius="{thin:.3f}"/>')
    return "\n".join([*lines, *links, "</marker_set>", ""])


def _attributes(values: Mapping[str, float]) -> str:
    return " ".join(f'{name}="{value:.3f}"' for name, value in values.items())
