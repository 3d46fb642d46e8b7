"""The checkpoint of a run: results so far, so that an interrupted run can be resumed.

A file of records, each ``marker, CRC-32 of what follows, synced, length, content`` (little-endian; uint32, uint64,
uint64). The first record describes the run: JSON, compared name by name when the run is resumed. Every other is two
pickles, (task, item, stamp) and the value, read back through an unpickler that accepts only values of gonio, NumPy and
SciPy: a checkpoint from elsewhere runs no code. Records are only added, never changed.

``synced`` is the length of the file that was known to be on the disk when the record was written. A crash can lose or
spoil what was written after that, in any order: a record that is not whole is the end of the checkpoint, and is dropped
with a warning, unless a later record states that it had been synced. Then the file was changed, which is an error.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import pickle
import re
import struct
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Changed", "Checkpoint", "TornRecord", "command_in", "flat", "stamp_of", "sync_path"]

MAGIC = b"gonio journal 2\n"
MARKER = b"\xf5gj\n"
HEAD = struct.Struct("<4sIQQ")
UNCHECKED = 8  # bytes of marker and checksum
# Records made within this many seconds are synced together.
SYNC_SECONDS = 0.5
# Modules of what may be unpickled; besides, these builtins, and the functions with which NumPy makes arrays.
MODULES = re.compile(r"gonio(\..+)?|numpy(\._core\..+|\.dtypes)?|scipy\.spatial\.transform(\..+)?")
BUILTINS = {"complex", "frozenset", "set", "slice", "range", "bytearray"}
MAKERS = {"_reconstruct", "_frombuffer", "scalar"}


class TornRecord(UserWarning):
    """The last record of a checkpoint was not whole."""


class Changed(ValueError):
    """A run cannot be resumed because its settings or inputs have changed."""


class _Place(NamedTuple):
    """Position of a record's content, or of a part of it, in the file."""

    start: int
    length: int

    @property
    def end(self) -> int:
        return self.start + self.length


class Checkpoint:
    """An open checkpoint, made by ``create`` or ``resume``; close it after use."""

    def __init__(self, path: Path, *, values: dict[tuple[str, int], _Place]) -> None:
        self.path = path
        self._values = values
        self._file = path.open("r+b", buffering=0)
        self._end = self._synced = self._file.seek(0, os.SEEK_END)
        self._sync_time = time.monotonic()

    @staticmethod
    def create(path: Path, facts: Mapping[str, object], *, command: str = "") -> Checkpoint:
        """Create the checkpoint of a run that is described by ``facts``, values of JSON.

        ``command`` is the command line, for a message about the checkpoint; it may differ when the run is resumed.
        """
        content = json.dumps({"facts": facts, "command": command}, default=str).encode()
        temporary = path.with_suffix(".new")
        with _naming_the_file(path), temporary.open("wb") as file:
            file.write(MAGIC + _record(content, synced=0))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_path(path.parent)
        return Checkpoint(path, values={})

    @staticmethod
    def resume(path: Path, facts: Mapping[str, object]) -> Checkpoint:
        """Open the checkpoint of an interrupted run.

        Raises
        ------
        Changed
            A fact has changed, or the input file of an item that was done; the message names it.
        ValueError
            The file is no checkpoint, or was damaged after it had been synced.
        """
        with _content(path) as content:
            places, whole, size = _whole(path, content)
            head = _header(path, content, places.pop(0))
            _compare(head["facts"], json.loads(json.dumps(facts, default=str)))
            values = dict(_values(content, places))
        if whole < size:
            warnings.warn(TornRecord(f"{path}: the last record was not whole, and is done again"), stacklevel=2)
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        return Checkpoint(path, values=values)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    @property
    def is_synced(self) -> bool:
        """True where all records are on the disk."""
        return self._synced == self._end

    def value(self, stage: str, item: int) -> Any:
        """Return the result of an item that is done."""
        place = self._values[stage, item]
        self._file.seek(place.start)
        return _Unpickler(io.BytesIO(self._file.read(place.length))).load()

    def add(self, stage: str, item: int, value: object, *, source: Path | None = None) -> None:
        """Record the result of an item; its ``source`` file must not change until the run is done.

        Raises
        ------
        OSError
            It cannot be written; the checkpoint is unchanged.
        ValueError
            A checkpoint does not hold such values, as they could not be read back.
        """
        key = pickle.dumps((stage, item, None if source is None else stamp_of(source)), protocol=5)
        content = pickle.dumps(value, protocol=5)
        _unpickled(io.BytesIO(content))  # an error is raised now, not when the run is resumed
        record = memoryview(_record(key + content, synced=self._synced))
        with self._or_up_to(self._end):
            self._file.seek(self._end)
            while record:
                record = record[self._file.write(record) :]
        start = self._end + HEAD.size + len(key)
        self._values[stage, item] = _Place(start, len(content))
        self._end = start + len(content)
        if time.monotonic() - self._sync_time > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Write all records to the disk.

        Raises
        ------
        OSError
            They cannot be written; the checkpoint is as it was when last synced.
        """
        if not self.is_synced:
            with self._or_up_to(self._synced):  # some systems report only now that there was no room
                os.fsync(self._file.fileno())
        self._synced, self._sync_time = self._end, time.monotonic()

    def close(self) -> None:
        """Sync and close, once."""
        if not self._file.closed:
            with self._file:
                self.sync()

    @contextmanager
    def _or_up_to(self, end: int) -> Iterator[None]:
        """Cut the checkpoint back to ``end`` where the disk refuses a write."""
        try:
            with _naming_the_file(self.path):
                yield
        except OSError:
            with suppress(OSError):
                self._file.truncate(end)
            self._values = {key: place for key, place in self._values.items() if place.end <= end}
            self._end = end
            raise


def command_in(path: Path) -> str:
    """Return the command line that began the run of a checkpoint; empty where it cannot be read."""
    with suppress(ValueError, OSError), _content(path) as content:
        return _header(path, content, _whole(path, content)[0][0])["command"]
    return ""


def stamp_of(path: Path) -> tuple[str, int, int] | None:
    """Return the full name, size and time of change (ns) of a file; None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path.absolute()), status.st_size, status.st_mtime_ns


def sync_path(path: Path) -> None:
    """Sync a file, or the names in a folder, to the disk.

    Raises
    ------
    OSError
        A file cannot be synced. Not every system can sync a folder, which is no error.
    """
    with suppress(OSError) if path.is_dir() else _naming_the_file(path):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Flatten nested mappings to one with names ``a.b``."""
    result: dict[str, object] = {}
    for name, value in values.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        result.update(inner)
    return result


@contextmanager
def _naming_the_file(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(f"cannot write to {path}: {error.strerror}; make room, and try again") from error


@contextmanager
def _content(path: Path) -> Iterator[mmap.mmap | bytes]:
    """Map a file into memory."""
    with path.open("rb") as file:
        if not path.stat().st_size:  # an empty file cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _record(content: bytes, *, synced: int) -> bytes:
    checked = HEAD.pack(MARKER, 0, synced, len(content))[UNCHECKED:] + content
    return MARKER + struct.pack("<I", zlib.crc32(checked)) + checked


def _whole(path: Path, content: mmap.mmap | bytes) -> tuple[list[_Place], int, int]:
    """Return the places of the whole records' contents (one at least), the end of the last one, and the file's size.

    Raises
    ------
    ValueError
        The file is no checkpoint, or a record that had been synced is not whole.
    """
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not a checkpoint of this version of gonio: pass --overwrite to begin again")
    places, at = [], len(MAGIC)
    while (found := _at(content, at)) is not None:
        places.append(found[0])
        at = found[0].end
    later = content.find(MARKER, at + 1)
    while later >= 0:
        found = _at(content, later)
        if found is not None and found[1] > at:
            raise ValueError(f"{path} is damaged at byte {at}: pass --overwrite to begin again")
        later = content.find(MARKER, later + 1)
    if not places:
        raise ValueError(f"{path} was cut off before it began: pass --overwrite to begin again")
    return places, at, len(content)


def _at(content: mmap.mmap | bytes, at: int) -> tuple[_Place, int] | None:
    """Return the place of the content of the record at ``at``, and its ``synced``; None where there is no record."""
    if at + HEAD.size > len(content):
        return None
    marker, checksum, synced, length = HEAD.unpack_from(content, at)
    place = _Place(at + HEAD.size, length)
    if marker != MARKER or place.end > len(content) or zlib.crc32(content[at + UNCHECKED : place.end]) != checksum:
        return None
    return place, synced


def _header(path: Path, content: mmap.mmap | bytes, place: _Place) -> dict[str, Any]:
    return json.loads(content[place.start : place.end])


def _values(content: mmap.mmap | bytes, places: list[_Place]) -> Iterator[tuple[tuple[str, int], _Place]]:
    """Return the task and item of each record, and the place of its value.

    Raises
    ------
    Changed
        The input file of an item has changed.
    """
    same = set()
    for place in places:
        stream = io.BytesIO(content[place.start : place.end])
        stage, item, stamp = _unpickled(stream)
        if stamp is not None and stamp not in same:
            now = stamp_of(Path(stamp[0]))
            if now != stamp:
                what = "is not there any more" if now is None else "has changed since it was read"
                raise Changed(f"{stamp[0]} {what}: put it back as it was, or pass --overwrite to begin again")
            same.add(stamp)
        start = place.start + stream.tell()
        _unpickled(stream)
        yield (stage, item), _Place(start, place.end - start)


def _compare(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    old, new = flat(before), flat(now)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            change = f"{name} was {old.get(name, 'not given')}, is {new.get(name, 'not given')}"
            raise Changed(f"this is not the run that was cut off: {change}; pass --overwrite to begin again")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "builtins" and name in BUILTINS:
            return super().find_class(module, name)
        # A name with a dot would reach into the modules that the module has imported.
        if MODULES.fullmatch(module) and "." not in name:
            found = super().find_class(module, name)
            if _is_harmless(found):
                return found
        raise pickle.UnpicklingError(f"a checkpoint holds no {module}.{name}")


def _is_harmless(found: Any) -> bool:
    """Return whether making one has no side effect: gonio's values, NumPy's arrays and numbers, and rotations."""
    home = getattr(found, "__module__", "") or ""
    if not isinstance(found, type):
        return home.startswith("numpy.") and found.__name__ in MAKERS
    if home.startswith("gonio."):
        return is_dataclass(found) or issubclass(found, Enum) or hasattr(found, "_fields")
    if home.startswith("scipy.spatial.transform."):
        return found.__name__ == "Rotation"
    return found is np.ndarray or issubclass(found, np.dtype | np.generic)


def _unpickled(stream: io.BytesIO) -> Any:
    try:
        return _Unpickler(stream).load()
    except Exception as error:  # of any kind: the bytes decide what is made
        raise ValueError(f"the checkpoint holds what this version of gonio cannot read: {error}") from error
