"""Motive lists of AV3, TOM and their kin (novaSTA, subTOM, cryoCAT): EM files of 20 numbers for each particle.

With phi, psi, theta in rows 17 to 19 (stored in that order), degrees, shifts in 11 to 13 and positions in 8 to 10,
pixels, the first voxel being 1:

    R = Rz(psi) Rx(theta) Rz(phi)          position = (x, y, z) + (shift_x, shift_y, shift_z)
    from RELION's angles: (phi, theta, psi) = (-90 - rot, -tilt, 90 - psi)

subTOM docs/source/conventions.rst; cryoCAT cryocat/core/cryomotl.py for the names of rows. Numbers are float32; there
is no place for the pixel size.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gonio.io.blocks import Block
from gonio.io.em import read_em, write_em
from gonio.io.errors import FormatError
from gonio.io.source import ReadOptions
from gonio.io.star_columns import Layout, block_of, table_of, write_documents
from gonio.io.subtomograms import ListSource, numbered_images
from gonio.particle.table import ParticleTable

ROWS = (
    *("score", "geom1", "geom2", "subtomo_id", "tomo_id", "object_id", "subtomo_mean", "x", "y", "z"),
    *("shift_x", "shift_y", "shift_z", "geom3", "geom4", "geom5", "phi", "psi", "theta", "class"),
)
LAYOUT = Layout(
    family="av3",
    names="subtomo_id",
    coordinates=("x", "y", "z"),
    shifts=("shift_x", "shift_y", "shift_z"),
    angles=("phi", "theta", "psi"),
    axes="zxz",
    tomograms="tomo_id",
    classes="class",
    scores="score",
)
IMAGE = r".*?_?(\d+)"
EXACT = 2**24  # whole numbers that float32 holds


def is_motive_list(start: bytes) -> bool:
    """Return whether an EM file has, by its header, 20 numbers in each column and a depth of 1."""
    edges = np.frombuffer(start, dtype="<i4", count=3, offset=4)
    swapped = edges.byteswap()
    return any(edge[0] == len(ROWS) and 1 in (edge[1], edge[2]) for edge in (edges, swapped))


def read_av3(path: Path, options: ReadOptions) -> ParticleTable:
    """Read a motive list; its subtomograms are ``ANY_NUMBER.em`` (or .mrc), NUMBER row 4, in the data folder."""
    values = read_em(path).data
    if values.shape[-1] != len(ROWS) or 1 not in values.shape[:2]:
        shape = " x ".join(str(edge) for edge in values.shape[::-1])
        raise FormatError(path, f"holds {shape} numbers; a motive list has {len(ROWS)} x N x 1", "give a motive list")
    values = values.reshape(-1, len(ROWS))  # (m, 20)
    texts = {label: tuple(map(_text, values[:, i].tolist())) for i, label in enumerate(ROWS)}
    block = Block(path, "", texts, is_star=False)
    numbers = block.whole("subtomo_id").tolist()
    images = numbered_images(path, options.data_path, numbers, IMAGE, beside=("subtomograms",))

    source = ListSource(path, "av3", options, texts["subtomo_id"], images, None, block)
    return table_of(block, LAYOUT, options, source=source)


def write_av3(path: Path, table: ParticleTable) -> tuple[Path, ...]:
    """Write a motive list; names of tomograms that are not numbers go into LIST.doc beside it.

    Raises
    ------
    FormatError
        If a number is too large for float32 to distinguish it from the next.
    """
    block = block_of(table, LAYOUT, path, columns=ROWS, defaults={"object_id": "1"})
    values = np.array([block.text(label) for label in ROWS], dtype=np.float64).T  # (m, 20)
    for label in ("subtomo_id", "tomo_id", "class"):
        if np.abs(values[:, ROWS.index(label)]).max(initial=0) > EXACT:
            problem = f"{label} has numbers above {EXACT}, which float32 cannot distinguish"
            raise FormatError(path, problem, "write another format")
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    large = np.argwhere(np.isinf(single) & np.isfinite(values))
    if len(large):
        problem = f"{ROWS[large[0, 1]]} of row {large[0, 0] + 1} is more than float32 can hold"
        raise FormatError(path, problem, "write another format")
    write_em(path, single[None])  # (1, m, 20)
    return (path, *write_documents(path, table))


def _text(value: float) -> str:
    """Return the shortest text that is this float32."""
    return str(int(value)) if value == value and abs(value) < EXACT and value == int(value) else f"{value:.9g}"
