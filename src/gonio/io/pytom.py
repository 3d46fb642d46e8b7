"""PyTom's particle lists: XML.

With the attributes Z1, Z2 and X of ``Rotation`` (stored in that order), degrees, ``Shift`` and ``PickPosition`` in
pixels, the first voxel being 0:

    R = Rz(Z2) Rx(X) Rz(Z1)          position = PickPosition + Shift
    from RELION's angles: (Z1, X, Z2) = (-90 - rot, -tilt, 90 - psi)

PyTom pytom/angles/angleFnc.py (zxzToMat), pytom/basic/structures.py (Particle.getTransformedVolume). A
``SingleTiltWedge`` lacks Angle1 and Angle2 degrees at the two ends of the tilt range, about y. There is no place for
the pixel size, nor for half sets.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as xml
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block
from gonio.io.errors import FormatError, reading, replacing
from gonio.io.paths import folder_of, moved
from gonio.io.source import ReadOptions, tilts_about_y
from gonio.io.star_columns import CLASSES, Layout, block_of, table_of
from gonio.io.subtomograms import ListSource
from gonio.io.text import check_writable, float_or, number_text
from gonio.particle.table import ParticleTable

# Elements and attributes of a particle are columns PATH@ATTRIBUTE.
FILE, TOMOGRAM = "@Filename", "PickPosition@Origin"
LAYOUT = Layout(
    family="pytom",
    names=FILE,
    coordinates=("PickPosition@X", "PickPosition@Y", "PickPosition@Z"),
    shifts=("Shift@X", "Shift@Y", "Shift@Z"),
    angles=("Rotation@Z1", "Rotation@X", "Rotation@Z2"),
    axes="zxz",
    first=0.0,
    tomograms=TOMOGRAM,
    classes=None,
    scores="Score@Value",
    numbered=False,
)
CLASS = "Class@Name"
NUMBER = re.compile(r"-?[0-9]+")
WEDGE = "Wedge/SingleTiltWedge"
AXIS = tuple(f"{WEDGE}/TiltAxisRotation@{angle}" for angle in ("Z1", "Z2", "X"))
# Values that PyTom requires where a list of another format states none.
DEFAULTS = {
    "Rotation@Paradigm": "ZXZ",
    "PickPosition@Binning": "1",
    "Score@Type": "FLCFScore",
    "Score@Value": "0.0",
    "Score@RemoveAutocorr": "False",
    "Score/PeakPrior@Filename": "",
    "Score/PeakPrior@Radius": "0.0",
    "Score/PeakPrior@Smooth": "-1.0",
}
PARTICLE, LIST = "Particle", "ParticleList"
# What no XML 1.0 may hold, and what no element or attribute of it may be called.
NOT_IN_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
XML_NAME = r"[^\W\d][\w.-]*(?:\[[0-9]+\])?"
NOT_A_LABEL = re.compile(rf"^(?!(?:{XML_NAME}(?:/{XML_NAME})*)?(?:@@?|@{XML_NAME})?\Z)")


def is_pytom(start: str) -> bool:
    """Return whether a file begins as PyTom's particle lists do."""
    return f"<{LIST}" in start or (start.lstrip().startswith("<") and f"<{PARTICLE} " in start)


def read_pytom(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a particle list; its particles are the files that it names."""
    block = _read_particles(path)
    images = block.text(FILE)
    source = ListSource(path, "pytom", options, images, images, _tilt_ranges(block), block)
    table = table_of(block, LAYOUT, options, source=source)
    names = block.text(CLASS) if CLASS in block else ()
    numbered = bool(names) and all(map(NUMBER.fullmatch, names))  # PyTom's classes are names
    return replace(table, classes=block.whole(CLASS, *CLASSES)) if numbered else table


def write_pytom(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a particle list. Particles without a file are named ``NAME.em``, where PyTom will look for them."""
    free = {label.removeprefix("pytom_"): label for label in table.extras if label.startswith("pytom_")}
    tilts = _tilt_columns(table) if not any(label.startswith("Wedge") for label in free) else {}
    fixed = (FILE, *_in_order(), *(label for label in free if label not in DEFAULTS))
    columns = list(dict.fromkeys(fixed))
    defaults = DEFAULTS | dict.fromkeys(free, "")
    made = dict(block_of(table, LAYOUT, path, columns=columns, defaults=defaults).columns) | tilts
    made[FILE] = _files(path, table)
    if table.classes is not None:
        made[CLASS] = list(map(str, table.classes.tolist()))
    check_writable(path, {"column": tuple(made)}, NOT_A_LABEL)
    check_writable(path, made, NOT_IN_XML)
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(f"<!-- PyTom Version: 1.0 -->\n<{LIST}>\n")
        for row in zip(*made.values(), strict=True):
            stream.write(_particle(dict(zip(made, row, strict=True))))
        stream.write(f"</{LIST}>\n")
    return (path,)


def _in_order() -> tuple[str, ...]:
    z1, x, z2 = LAYOUT.angles
    rotation = (z1, z2, x, "Rotation@Paradigm")
    picked = (*LAYOUT.coordinates, TOMOGRAM, "PickPosition@Binning")
    return (*rotation, *LAYOUT.shifts, *picked, *(label for label in DEFAULTS if label.startswith("Score")))


def _read_particles(path: Path) -> Block:
    rows: list[dict[str, str]] = []
    with reading(path, "give a particle list as PyTom writes it"):
        if path.stat().st_size == 0:
            raise FormatError(path, "is empty", "write the file again")
        try:
            for _, element in xml.iterparse(path):
                if element.tag == PARTICLE:
                    rows.append(dict(_attributes(element, "")))
                    element.clear()
        except xml.ParseError as error:
            line, column = error.position
            problem = f"is broken XML in line {line}, column {column + 1} ({str(error).split(':')[0]})"
            raise FormatError(path, problem, "write the file again") from error
    if not rows:
        raise FormatError(path, "lists no particles", "give a particle list as PyTom writes it")
    lost = next((row for row, values in enumerate(rows, 1) if not values.get(FILE)), None)
    if lost is not None:
        raise FormatError(path, f"particle {lost} has no Filename", "add it, or leave it out")
    labels = list(dict.fromkeys(label for row in rows for label in row))
    for label in (FILE, *LAYOUT.angles, *LAYOUT.shifts):
        lost = next((row for row, values in enumerate(rows, 1) if label not in values), None)
        if lost is not None and any(label in values for values in rows):
            raise FormatError(path, f"particle {lost} has no {label.replace('@', ' ')}", "add it, or leave it out")
    return Block(path, "", {label: tuple(row.get(label, "") for row in rows) for label in labels}, is_star=False)


def _attributes(element: xml.Element, place: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{place}@{name}", value) for name, value in element.attrib.items())
    if element.text and element.text.strip():
        yield f"{place}@@", element.text.strip()
    seen: dict[str, int] = {}
    for child in element:
        seen[child.tag] = seen.get(child.tag, 0) + 1
        nth = "" if seen[child.tag] == 1 else f"[{seen[child.tag]}]"
        inner = f"{place}/{child.tag}{nth}" if place else f"{child.tag}{nth}"
        if not child.attrib and not (child.text and child.text.strip()) and not len(child):
            yield f"{inner}@", ""
        yield from _attributes(child, inner)


def _particle(row: Mapping[str, str]) -> str:
    """Return one particle's element, rebuilt from its columns."""
    root = xml.Element(PARTICLE)
    nodes: dict[str, xml.Element] = {"": root}
    for label, value in row.items():
        place, _, name = label.partition("@")
        element = _node(nodes, place)
        if name == "@":
            element.text = value
        elif name:
            element.set(name, value)
    xml.indent(root, space="  ", level=1)
    return "  " + xml.tostring(root, encoding="unicode") + "\n"


def _node(nodes: dict[str, xml.Element], place: str) -> xml.Element:
    if place not in nodes:
        parent, _, tag = place.rpartition("/")
        nodes[place] = xml.SubElement(_node(nodes, parent), tag.partition("[")[0])
    return nodes[place]


def _tilt_ranges(block: Block) -> NDArray[np.float64] | None:
    labels = (f"{WEDGE}@Angle1", f"{WEDGE}@Angle2")
    if not all(label in block for label in labels):
        return None
    first, second = (np.array([float_or(v, np.nan) for v in block.text(label)]) for label in labels)
    ranges = np.stack([first - 90.0, 90.0 - second, np.full(len(first), 90.0)], axis=-1)  # (m, 3)
    turned = [label for label in AXIS if label in block and any(float_or(value, np.nan) for value in block.text(label))]
    return None if turned else ranges


def _tilt_columns(table: ParticleTable) -> dict[str, Sequence[str]]:
    ranges = tilts_about_y(table)
    if ranges is None:
        return {}
    low, high = (np.array(ends, dtype=np.float64) for ends in ranges)
    count = len(table)
    return {
        "Wedge@Type": ("SingleTiltWedge",) * count,
        f"{WEDGE}@Angle1": list(map(number_text, (90.0 + low).tolist())),
        f"{WEDGE}@Angle2": list(map(number_text, (90.0 - high).tolist())),
        f"{WEDGE}@CutoffRadius": ("0.0",) * count,
        f"{WEDGE}@Smooth": ("0.0",) * count,
        **dict.fromkeys(AXIS, ("0.0",) * count),
    }


def _files(path: Path, table: ParticleTable) -> Sequence[str]:
    if table.images is None:
        return [name if name.endswith((".em", ".mrc")) else f"{name}.em" for name in table.names]
    return moved(table.images, folder_of(table), path.parent)
