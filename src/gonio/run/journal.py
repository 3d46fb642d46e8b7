"""The journal of a run: what has been done, so that a run that was cut off goes on where it was.

A file of records, each ``length, CRC-32, content`` (little-endian uint32, uint32, bytes). The first record is what the
run is: JSON, compared name by name when the run is resumed. Every other is a pickle of (stage, item, stamp, value),
read back through an unpickler that knows only values of gonio, NumPy and SciPy: a journal from elsewhere runs no code.
Records are only ever added. One that was torn at the end of the file by a crash is dropped with a warning.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import time
import warnings
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Changed", "Journal", "TornRecord", "flat", "stamp_of"]

RECORD = struct.Struct("<II")
MAGIC = b"gonio journal 1\n"
# Records are synced together that are made within so many seconds.
SYNC_SECONDS = 0.5
# What may be unpickled: classes of these packages, the functions with which NumPy makes arrays, and these builtins.
PACKAGES = ("gonio", "numpy", "scipy.spatial.transform")
MAKERS = {"_reconstruct", "_frombuffer", "scalar"}
BUILTINS = {"complex", "frozenset", "set", "slice", "range", "bytearray"}


class TornRecord(UserWarning):
    """The last record of a journal was not whole."""


class Changed(ValueError):
    """A run cannot be resumed since it is no longer the same run."""


class Journal:
    """An open journal, to be made by ``create`` or ``resume`` and to be closed."""

    def __init__(self, path: Path, *, places: dict[tuple[str, int], tuple[int, int]]) -> None:
        self.path = path
        self._places = places  # of each record: its content's offset and length
        self._file = path.open("r+b", buffering=0)
        self._end = self._file.seek(0, os.SEEK_END)
        self._synced = time.monotonic()

    @staticmethod
    def create(path: Path, facts: Mapping[str, object]) -> Journal:
        """A new one, of a run that is described by ``facts``: whatever JSON can say."""
        content = json.dumps(facts, default=str).encode()
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as file:
            file.write(MAGIC + RECORD.pack(len(content), zlib.crc32(content)) + content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        return Journal(path, places={})

    @staticmethod
    def resume(path: Path, facts: Mapping[str, object]) -> Journal:
        """The journal of a run that was cut off.

        Raises
        ------
        Changed
            Naming what is not as it was: a fact, or the input of an item that was done.
        ValueError
            The file is no journal, or is broken before its last record.
        """
        content = path.read_bytes()
        if not content.startswith(MAGIC):
            raise ValueError(f"{path} is not a journal of this version of gonio: pass --overwrite to begin again")
        places, whole = _index(path, content)
        if not places:
            raise ValueError(f"{path} was cut off before it began: pass --overwrite to begin again")
        start, length = places.pop(0)
        _compare(json.loads(content[start : start + length]), json.loads(json.dumps(facts, default=str)))
        if whole < len(content):
            warnings.warn(TornRecord(f"{path}: the last record was not whole, and is done again"), stacklevel=2)
            with path.open("r+b") as file:
                file.truncate(whole)
                os.fsync(file.fileno())
        known = {}
        for start, length in places:
            stage, item, stamp, _ = _unpickled(content[start : start + length])
            if stamp is not None and stamp_of(Path(stamp[0])) != stamp:
                raise Changed(f"{stamp[0]} has changed since it was read: pass --overwrite to begin again")
            known[stage, item] = (start, length)
        return Journal(path, places=known)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    def value(self, stage: str, item: int) -> Any:
        """What was found for an item that is done."""
        start, length = self._places[stage, item]
        return _unpickled(os.pread(self._file.fileno(), length, start))[3]

    def add(self, stage: str, item: int, value: object, *, source: Path | None = None) -> None:
        """Put down what was found for an item, from a file that must not change until the run is done.

        Raises
        ------
        OSError
            It cannot be written: the journal is as it was.
        """
        stamp = None if source is None else stamp_of(source)
        content = pickle.dumps((stage, item, stamp, value), protocol=5)
        record = RECORD.pack(len(content), zlib.crc32(content)) + content
        try:
            written = 0
            while written < len(record):
                written += os.pwrite(self._file.fileno(), record[written:], self._end + written)
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._end)
            raise OSError(
                f"cannot write to {self.path}: {error.strerror}; make room, then go on with --resume"
            ) from error
        self._places[stage, item] = (self._end + RECORD.size, len(content))
        self._end += len(record)
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Have all of it on the disk."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close, once."""
        if not self._file.closed:
            self.sync()
            self._file.close()


def stamp_of(path: Path) -> tuple[str, int, int] | None:
    """By what a file is known again: its name, size and time of change (ns); None where it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_size, status.st_mtime_ns


def flat(values: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings as one, ``a.b``."""
    result: dict[str, object] = {}
    for name, value in values.items():
        inner = flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
        result.update(inner)
    return result


def _index(path: Path, content: bytes) -> tuple[list[tuple[int, int]], int]:
    """Offset and length of every whole record's content, and where the last of them ends."""
    places, at = [], len(MAGIC)
    while at + RECORD.size <= len(content):
        length, checksum = RECORD.unpack_from(content, at)
        start = at + RECORD.size
        if start + length > len(content):
            break
        if zlib.crc32(content[start : start + length]) != checksum:
            if start + length == len(content):  # pages of a file can reach the disk in any order
                break
            raise ValueError(f"{path} is damaged at byte {at}: pass --overwrite to begin again")
        places.append((start, length))
        at = start + length
    return places, at


def _compare(before: Mapping[str, object], now: Mapping[str, object]) -> None:
    old, new = flat(before), flat(now)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            change = f"{name} was {old.get(name, 'not given')}, is {new.get(name, 'not given')}"
            raise Changed(f"this is not the run that was cut off: {change}; pass --overwrite to begin again")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = any(module == package or module.startswith(f"{package}.") for package in PACKAGES)
        if known or (module == "builtins" and name in BUILTINS):
            found = super().find_class(module, name)
            if isinstance(found, type) or name in MAKERS:
                return found
        raise pickle.UnpicklingError(f"a journal holds no {module}.{name}")


def _unpickled(content: bytes) -> Any:
    try:
        return _Unpickler(io.BytesIO(content)).load()
    except (pickle.UnpicklingError, AttributeError, ImportError, TypeError) as error:
        raise ValueError(f"the journal holds what this version of gonio cannot read: {error}") from error
