"""What a reader may do with any bytes: return values that make sense or raise gonio's own error, soon and small.

``verdict`` runs one reader on the files of a folder and returns what is wrong with what it did, or None.
"""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

import numpy as np

from gonio.io.conversion import TomogramSizes, WriteOptions
from gonio.io.errors import FormatError
from gonio.io.formats import FORMATS, format_of
from gonio.io.lists import read_with, write_particles
from gonio.io.maps import image_stack, read_map
from gonio.io.source import ReadOptions
from gonio.io.tilt_files import is_tilt_file, read_tilts
from gonio.io.tomogram import open_tomogram
from gonio.particle.table import ParticleTable
from gonio.simulate.structure import read_atoms

SECONDS = 5.0
# By the clock, for what waits or computes in compiled code: then the process ends.
LAST_SECONDS = 60.0
LONGEST_MESSAGE = 400
FREE_BYTES, TIMES_FILE = 300e6, 10
ADDRESS_BYTES = 3 * 2**30
SIZE = (400.0, 401.0, 200.0)
CONVERTED = [name for name, known in FORMATS.items() if known.write is not None]


class Nonsense(Exception):
    """What was read makes no sense."""


class Hung(BaseException):
    """A reader took too long; no ``except Exception`` holds it."""


def verdict(name: str, folder: Path, rng: Random) -> str | None:
    """Return what is wrong with how the reader of a corpus entry takes its files, or None."""
    kind, before, size = name.split()[0], peak_bytes(), bytes_in(folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wrong = _outcome(READERS[kind], folder, rng)
    told = next((str(one.message) for one in caught if len(str(one.message)) > LONGEST_MESSAGE), None)
    grown = peak_bytes() - before
    if wrong is None and told is not None:
        return f"a warning of {len(told)} characters: {told[:200]}"
    if wrong is None and grown > FREE_BYTES + TIMES_FILE * size:
        return f"grew by {grown / 1e6:.0f} MB for {size} bytes"
    return wrong


def _outcome(read: Callable[[Path, Random], None], folder: Path, rng: Random) -> str | None:
    try:
        with limited_time():
            read(folder, rng)
    except FormatError as error:
        return _complaint(str(error))
    except Hung:
        return f"took more than {SECONDS} s\n{traceback.format_exc(limit=-4)}"
    except Exception:
        return traceback.format_exc(limit=-6)
    return None


def _complaint(text: str) -> str | None:
    if len(text) > LONGEST_MESSAGE:
        return f"a message of {len(text)} characters: {text[:200]}"
    if any(not character.isprintable() for character in text):
        return f"a message with characters that do not print: {text!r}"
    return None


@contextmanager
def limited_time() -> Iterator[None]:
    """Raise ``Hung`` inside after ``SECONDS`` of the processor, so that a busy machine makes nothing look slow."""

    def stop(_: int, frame: FrameType | None) -> None:
        raise Hung

    old = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def limit_memory() -> None:
    """Give this process 3 GB of addresses more than it has."""
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (held + ADDRESS_BYTES, held + ADDRESS_BYTES))


def peak_bytes() -> int:
    """The most memory that this process ever had."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def bytes_in(folder: Path) -> int:
    """All files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Readers


def _main(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.stem.split(".")[0] == "a" and path.suffix != ".doc")


def read_list(folder: Path, rng: Random) -> None:
    """Read, load particles where there are any, and now and then write in another format and read that."""
    path = folder / "optimisation_set.star"
    only_rows = rng.random() < 0.6
    path = path if path.is_file() and rng.random() < 0.5 else _list_in(folder)
    size = 2.5 if only_rows or rng.random() < 0.5 else None
    options = ReadOptions(voxel_size_angstrom=size, may_count_pixels=only_rows)
    known = format_of(path)
    table = read_with(path, options, format=known.name)
    sensible(table)
    no_rows_invented(table, path, known.name)
    if not only_rows:
        for row in range(min(len(table), 2)):
            _load(table, row)
    if rng.random() < 0.3:
        round_trip(table, folder, rng)


def _list_in(folder: Path) -> Path:
    names = [path for path in sorted(folder.iterdir()) if path.stem == "a"]
    lists = [path for path in names if path.suffix not in (".doc", ".mrc", ".mrcs", ".hdf")]
    return next(iter([path for path in lists if path.suffix != ".mod"] or lists))


def _load(table: ParticleTable, row: int) -> None:
    particle = table.load(row)
    images = particle.images if hasattr(particle, "images") else particle.volume.data
    if not np.isfinite(images).all():
        raise Nonsense("a particle is not finite")


def sensible(table: ParticleTable) -> None:
    """Every number means something."""
    numbers = {
        "rotations": table.poses.rotation.as_quat(),
        "shifts": table.poses.shift_angstrom,
        "places": table.places_angstrom,
        "coordinates": table.coordinates_angstrom,
        "pixel sizes": table.pixel_sizes_angstrom,
    }
    for what, values in numbers.items():
        if values is not None and not np.isfinite(values).all():
            raise Nonsense(f"{what} are not finite")
    if table.pixel_sizes_angstrom is not None and not (table.pixel_sizes_angstrom > 0).all():
        raise Nonsense("pixel sizes are not positive")
    if not len(table) or not set(np.unique(table.half_sets).tolist()) <= {0, 1, 2}:
        raise Nonsense("no rows, or half sets other than 0, 1 and 2")
    if len(set(table.names)) != len(table):
        raise Nonsense("names occur twice")


def no_rows_invented(table: ParticleTable, path: Path, format: str) -> None:
    """Rows are those of the file, counted without its reader where lines are rows."""
    raw = path.read_bytes()
    text = raw.decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    exact = {"dynamo": len(lines), "eman": sum(not line.startswith("#") for line in lines)}
    most = {"pytom": len(re.findall(r"<Particle\b", text)), "av3": len(raw) // 80, "imod": len(raw) // 12}
    if format in exact and len(table) != exact[format]:
        raise Nonsense(f"{len(table)} rows of {exact[format]} lines")
    if len(table) > most.get(format, len(lines) if format not in ("parquet", "eman-json", "eman-boxes") else len(raw)):
        raise Nonsense(f"{len(table)} rows, more than the file has")


def round_trip(table: ParticleTable, folder: Path, rng: Random) -> None:
    """What gonio writes it reads, row by row."""
    name, target = rng.choice(CONVERTED), folder / "new"
    target.mkdir(exist_ok=True)
    try:
        options = WriteOptions(2.5, TomogramSizes(every=SIZE))
        files = write_particles(target / f"b.{name}", table, format=name, options=options)
        lists = [file for file in files if file.suffix not in (".doc", ".mod") or name == "imod"]
        tables = [
            read_with(file, ReadOptions(may_count_pixels=True, pixel_size_angstrom=2.5), format=name) for file in lists
        ]
    finally:
        for path in target.iterdir():
            path.unlink()
    for one in tables:
        sensible(one)
    if sum(map(len, tables)) != len(table):
        raise Nonsense(f"{len(table)} rows became {sum(map(len, tables))} as {name}")
    if name in ("csv", "parquet", "relion5") and [*tables[0].names] != [*table.names]:
        raise Nonsense(f"names changed as {name}")


def read_image(folder: Path, rng: Random) -> None:
    """Read a map whole, or cut a piece of it."""
    path = next(one for one in sorted(folder.iterdir()) if one.stem == "a")
    if path.is_dir() or rng.random() < 0.5:
        tomogram = open_tomogram(path, permissive=rng.random() < 0.3)
        if not np.isfinite(tomogram.voxel_size_angstrom) or tomogram.voxel_size_angstrom < 0:
            raise Nonsense(f"a voxel size of {tomogram.voxel_size_angstrom}")
        tomogram.cut((0, 0, 0), np.minimum(tomogram.shape_zyx, 6))
        return
    found = read_map(path, permissive=rng.random() < 0.3)
    if not np.isfinite(found.data).all() or not np.isfinite(found.voxel_size_angstrom()):
        raise Nonsense("a map is not finite")
    image_stack(found)


def read_tilt_file(folder: Path, rng: Random) -> None:
    """Read tilt series, and sizes of tomograms where there may be some."""
    path = _main(folder)
    is_tilt_file(path)
    for series in read_tilts(path).values():
        values = (series.projections_xyz, series.dose, series.defocus, series.scale, series.phase_shift_deg)
        if any(one is not None and not np.isfinite(one).all() for one in values):
            raise Nonsense("a tilt series is not finite")
    if b"wedgelist" in path.read_bytes():
        TomogramSizes.read(path)


def read_structure(folder: Path, rng: Random) -> None:
    """Read atoms; what it complains of is a ValueError that names the file."""
    path = _main(folder)
    try:
        atoms = read_atoms(path, assembly="1" if rng.random() < 0.7 else None)
    except ValueError as error:
        wrong = _complaint(str(error))
        if wrong or str(path) not in str(error):
            raise Nonsense(wrong or f"a message without the file: {error}") from error
        return
    if not (np.isfinite(atoms.weights).all() and np.isfinite(atoms.positions_xyz_angstrom).all()):
        raise Nonsense("an atom has no place")


READERS: dict[str, Callable[[Path, Random], None]] = {
    "list": read_list,
    "map": read_image,
    "tilts": read_tilt_file,
    "structure": read_structure,
}


def described(name: str, changed: Path, seed: int, wrong: str) -> str:
    """A finding as one line of JSON."""
    return json.dumps({"entry": name, "file": changed.name, "seed": seed, "wrong": wrong})
