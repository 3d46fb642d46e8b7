"""Particle lists for programs that show them in their tomograms: ArtiaX, napari and copick, each as it opens them.

Flow: list -> positions from the first voxel of each tomogram, shifts included -> one file a tomogram and program. What
each of them makes of a file was read in its sources:

    ArtiaX   a RELION 3 STAR file: places rlnCoordinateX/Y/Z at 1 angstrom a pixel whatever the file states, refuses
             tomograms whose name does not end in ``_NUMBER``, and adds origins in angstrom as if they were pixels; so
             coordinates are angstrom, the pixel size is 1, and there are neither names nor origins
             (ArtiaX src/io/RELION, class RELIONParticleData)
    napari   CSV: ``axis-0`` (z) to ``axis-2`` (x) are places in voxels of the layer, further columns are properties;
             with ``shape-type`` and ``vertex-index`` the rows are corners of shapes (napari_builtins/io/_read.py)
    copick   JSON: angstrom from the first voxel, and for each particle a 4 x 4 matrix, reference to tomogram (copick
             src/copick/models.py, CopickPicksFile), in the folders of a copick project's overlay
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gonio.io.blocks import Block, Star, write_star
from gonio.io.conversion import CENTRES, known_sizes
from gonio.io.errors import replacing
from gonio.particle.table import ParticleTable
from gonio.particle.texts import rows_of

FOLDER = "viewers"
# Columns that are shown where a list has them: label in STAR, name elsewhere.
SCORES = ("correlation", "dissimilarity", "rotation_sd_deg", "q_value", "score")
# Length of the arrows along z of the reference, as a fraction of the size of a particle's box.
ARROW = 0.5
# The most of a tomogram's name in that of a file, which file systems limit to 255 bytes with all else.
NAME_BYTES = 80
OBJECT, USER, SESSION = "particle", "gonio", "1"
FOLDER_NAME = re.compile(r"\w[\w.+-]{0,79}")


def from_first_voxel(table: ParticleTable, tomograms_path: Path | None = None) -> ParticleTable | None:
    """Return the list with coordinates from the first voxel of each tomogram, in angstrom; None where they are unknown.

    Coordinates from a tomogram's centre need its size, which is that of a tomograms file, by default the list's own.
    """
    if table.coordinates_angstrom is None or table.lengths == "pixels" or not len(table):
        return None
    if table.coordinates_from == "corner":
        return table
    sizes = known_sizes(table, tomograms_path)  # angstrom, (m, 3)
    if not np.isfinite(sizes).all():
        return None
    centres = CENTRES["size/2"](sizes)
    return replace(table, coordinates_angstrom=table.coordinates_angstrom + centres, coordinates_from="corner")


@dataclass(frozen=True)
class _Shown:
    """The particles of one tomogram: places from its first voxel in angstrom, (m, 3), xyz, and their rows."""

    number: int
    tomogram: str
    places: NDArray[np.float64]
    table: ParticleTable

    @property
    def stem(self) -> str:
        """Start of the names of its files."""
        name = re.sub(r"\W+", "-", self.tomogram).strip("-").encode()[:NAME_BYTES].decode(errors="ignore")
        return f"{self.number:03d}_{name or 'tomogram'}"

    @property
    def run(self) -> str:
        """Name of its run: the tomogram's, where that can be the name of a folder, else that of its files."""
        return self.tomogram if FOLDER_NAME.fullmatch(self.tomogram) else self.stem

    @property
    def scores(self) -> dict[str, NDArray[np.float64]]:
        """Columns of scores that are there; 0 where a value is not finite, as no viewer has a colour for it."""
        columns = dict(self.table.columns)
        if self.table.scores is not None and "score" not in columns:
            columns["score"] = self.table.scores
        found = {name: np.asarray(columns[name], dtype=np.float64) for name in SCORES if name in columns}
        return {name: np.where(np.isfinite(values), values, 0.0) for name, values in found.items()}


def write_viewers(folder: Path, table: ParticleTable, *, voxel_size_angstrom: float, box_angstrom: float) -> list[Path]:
    """Write ``viewers/`` into a folder: lists of each tomogram's particles for ArtiaX, napari and copick.

    Parameters
    ----------
    voxel_size_angstrom
        Voxel size of the tomograms that are looked at: the particles' own, where they were cut from those.
    box_angstrom
        Edge of a particle's box, for the length of arrows.

    Returns
    -------
    The files; none where positions, or the sizes of tomograms that they need, are not known.

    Raises
    ------
    FormatError
        If a file cannot be written.
    """
    cornered = from_first_voxel(table)
    if cornered is None:
        return []
    (folder / FOLDER).mkdir(exist_ok=True)
    written: list[Path] = []
    for shown in _tomograms(cornered):
        stem = folder / FOLDER / shown.stem
        _write_artiax(written, stem.with_name(f"{shown.stem}_artiax.star"), shown)
        points, arrows = _napari(shown, voxel_size_angstrom, ARROW * box_angstrom)
        _write_text(written, stem.with_name(f"{shown.stem}_points.csv"), points)
        _write_text(written, stem.with_name(f"{shown.stem}_arrows.csv"), arrows)
        run = folder / FOLDER / "copick" / "ExperimentRuns" / shown.run
        text = json.dumps(_copick(shown, voxel_size_angstrom), indent=1) + "\n"
        _write_text(written, run / "Picks" / f"{USER}_{SESSION}_{OBJECT}.json", text)
    script = [f"open {file.name} format relion" for file in written if file.suffix == ".star"]
    _write_text(written, folder / FOLDER / "artiax.cxc", "\n".join(["artiax start", *script, ""]))
    _write_text(written, folder / FOLDER / "napari_show.py", NAPARI)
    _write_text(written, folder / FOLDER / "README.txt", README.format(voxel=f"{voxel_size_angstrom:g}"))
    return written


def _tomograms(table: ParticleTable) -> Iterator[_Shown]:
    places = table.places_angstrom
    assert places is not None  # from_first_voxel has seen to it
    for number, (tomogram, rows) in enumerate(rows_of(table.tomograms).items(), start=1):
        yield _Shown(number, tomogram, places[rows], table[rows])


def _write_text(written: list[Path], path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    written.append(path)


def _write_artiax(written: list[Path], path: Path, shown: _Shown) -> None:
    angles = shown.table.tomogram_poses.rotation.inv().as_euler("ZYZ", degrees=True)
    columns: dict[str, Sequence[str]] = {
        **{f"rlnCoordinate{axis}": _texts(shown.places[:, i], ".4f") for i, axis in enumerate("XYZ")},
        **{f"rlnAngle{name}": _texts(angles[:, i], ".6f") for i, name in enumerate(("Rot", "Tilt", "Psi"))},
        "rlnImagePixelSize": ["1.0"] * len(shown.table),
        **{f"gonio{name.title().replace('_', '')}": _texts(values, ".6g") for name, values in shown.scores.items()},
    }
    if shown.table.classes is not None:
        columns["rlnClassNumber"] = _texts(shown.table.classes, "d")
    write_star(path, Star(path, (Block(path, "particles", columns),)))
    written.append(path)


def _napari(shown: _Shown, voxel: float, arrow_angstrom: float) -> tuple[str, str]:
    """Return the points of the particles and their arrows along z of the reference, as CSV."""
    at = shown.places[:, ::-1] / voxel  # zyx
    tips = at + shown.table.tomogram_poses.matrix[:, ::-1, 2] * arrow_angstrom / voxel
    points = {
        "index": [str(i) for i in range(len(at))],
        **{f"axis-{axis}": _texts(at[:, axis], ".5f") for axis in range(3)},
        **{name: _texts(values, ".6g") for name, values in shown.scores.items()},
    }
    ends = np.stack([at, tips], axis=1).reshape(-1, 3)  # (2 m, 3)
    arrows = {
        "index": [str(i // 2) for i in range(len(ends))],
        "shape-type": ["line"] * len(ends),
        "vertex-index": [str(i % 2) for i in range(len(ends))],
        **{f"axis-{axis}": _texts(ends[:, axis], ".5f") for axis in range(3)},
    }
    return _csv(points), _csv(arrows)


def _csv(columns: Mapping[str, Sequence[str]]) -> str:
    return "\n".join([",".join(columns), *(",".join(row) for row in zip(*columns.values(), strict=True)), ""])


def _copick(shown: _Shown, voxel: float) -> dict[str, object]:
    scores = shown.scores
    best = next(iter(scores.values()), np.ones(len(shown.table)))
    matrices = np.tile(np.eye(4), (len(shown.table), 1, 1))
    matrices[:, :3, :3] = shown.table.tomogram_poses.matrix
    points = [
        {
            "location": dict(zip("xyz", np.round(place, 4).tolist(), strict=True)),
            "transformation_": np.round(matrix, 9).tolist(),
            "instance_id": row,
            "score": round(float(score), 6),
        }
        for row, (place, matrix, score) in enumerate(zip(shown.places, matrices, best, strict=True), start=1)
    ]
    return {
        "pickable_object_name": OBJECT,
        "user_id": USER,
        "session_id": SESSION,
        "run_name": shown.run,
        "voxel_spacing": voxel,
        "unit": "angstrom",
        "points": points,
        "trust_orientation": True,
    }


def _texts(values: NDArray, form: str) -> list[str]:
    return [f"{value:{form}}" for value in values.tolist()]


README = """Particles as other programs open them, one file a tomogram; places, with shifts, count from its first voxel.

*_artiax.star    ArtiaX (ChimeraX): open the tomogram, then artiax.cxc. Coordinates are angstrom: pixel size 1.
*_points.csv     napari: places in voxels of {voxel} angstrom, z y x, with scores as properties; drop it on the window.
*_arrows.csv     napari: z of the reference at each particle.
napari_show.py   both, coloured by score: python napari_show.py 001_NAME [TOMOGRAM.mrc]
copick/          overlay of a copick project (ChimeraX-copick, napari-copick): overlay_root of its config.
"""

NAPARI = '''"""Show the particles of a tomogram in napari: python napari_show.py 001_NAME [TOMOGRAM.mrc]."""

import sys
from pathlib import Path

import numpy as np


def add_particles(viewer, stem):
    """Add points and vectors of a tomogram to a viewer, coloured by the first score that there is."""
    points = np.genfromtxt(f"{stem}_points.csv", delimiter=",", names=True, deletechars="", ndmin=1)
    arrows = np.genfromtxt(f"{stem}_arrows.csv", delimiter=",", names=True, deletechars="", dtype=None, ndmin=1,
                           encoding="utf-8")
    at = np.stack([points[f"axis-{i}"] for i in range(3)], axis=1)
    ends = np.stack([arrows[f"axis-{i}"] for i in range(3)], axis=1)
    scores = {name: points[name] for name in points.dtype.names if name != "index" and not name.startswith("axis-")}
    name = next(iter(scores), None)
    look = {"features": scores, "out_of_slice_display": True, "size": 6}
    if name is not None:
        look |= {"face_color": name, "face_colormap": "viridis"}
    viewer.add_points(at, name="particles", **look)
    vectors = np.stack([ends[::2], ends[1::2] - ends[::2]], axis=1)
    viewer.add_vectors(vectors, name="z of the reference", edge_width=1)


if __name__ == "__main__":
    import napari

    viewer = napari.Viewer()
    if len(sys.argv) > 2:
        import mrcfile

        viewer.add_image(mrcfile.read(sys.argv[2]), name=Path(sys.argv[2]).name)
    add_particles(viewer, Path(__file__).parent / sys.argv[1])
    napari.run()
'''
