"""The checkpoint of a run: results so far, so that an interrupted run can be resumed.

A file of records, each ``marker, CRC-32 of what follows, synced, length, content`` (little-endian; uint32, uint64,
uint64). The first record describes the run: JSON, compared name by name when the run is resumed. Every other is a line
of JSON, with the task, the item and the files that its result depends on, and the value (``gonio.run.packing``). No
object is in it: a checkpoint from elsewhere runs no code. Records are only added, never changed.

``synced`` is the length of the file that was known to be on the disk when the record was written. A crash can lose or
spoil what was written after that, in any order: a record that is not whole is the end of the checkpoint, and is dropped
with a warning, unless a later record states that it had been synced. Then the file was changed, which is an error.

A file is known by its full name, size, time of change and content: all of it up to 64 KiB, else 8 blocks of 8 KiB, the
first, the last and evenly between, which a file that was made anew differs in.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import stat
import struct
import time
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from gonio.run.packing import pack, unpack

MAGIC = b"gonio journal 3\n"
MARKER = b"\xf5gj\n"
HEAD = struct.Struct("<4sIQQ")
UNCHECKED = 8  # bytes of marker and checksum
# Records made within this many seconds are synced together.
SYNC_SECONDS = 0.5
# Of a file's content: the most that is compared as a whole; else so many blocks of this size.
WHOLE_BYTES, BLOCKS, BLOCK_BYTES = 2**16, 8, 2**13
# Characters of a value that are shown.
SHOWN = 60
# Of a file that must be gonio's own; a pipe would wait for its other end.
OWN = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
AGAIN = "pass --overwrite to begin again"


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


class Stamp(NamedTuple):
    """What a file is known by: full name, size (-1 where it is not there), time of change (ns), digest of content."""

    path: str
    size: int
    time: int
    digest: str


class _Record(NamedTuple):
    """Where an item's value is in the checkpoint, and the files that it depends on."""

    place: _Place
    files: tuple[Stamp, ...]


class Checkpoint:
    """An open checkpoint, made by ``create`` or ``resume``; close it after use."""

    def __init__(self, path: Path, *, records: dict[tuple[str, int], _Record]) -> None:
        self.path = path
        self._records = records
        self._file = os.fdopen(open_own(path, os.O_RDWR), "r+b", buffering=0)
        self._end = self._synced = self._file.seek(0, os.SEEK_END)
        self._sync_time = time.monotonic()

    @staticmethod
    def create(path: Path, facts: Mapping[str, object], *, command: str = "") -> Checkpoint:
        """Create the checkpoint of a run that is described by ``facts``, values of JSON.

        ``command`` is the command line, for a message about the checkpoint; it may differ when the run is resumed.
        """
        content = json.dumps({"facts": facts, "command": command}, default=str).encode()
        temporary = path.with_suffix(".new")
        temporary.unlink(missing_ok=True)  # of a run that was killed, or a link
        with _naming_the_file(path), os.fdopen(open_own(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb") as file:
            file.write(MAGIC + _record(content, synced=0))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_path(path.parent)
        return Checkpoint(path, records={})

    @staticmethod
    def resume(path: Path, facts: Mapping[str, object]) -> Checkpoint:
        """Open the checkpoint of an interrupted run.

        Raises
        ------
        Changed
            A fact has changed; the message names it.
        ValueError
            The file is no checkpoint of this version, or was damaged after it had been synced.
        """
        with _content(path) as content:
            places, whole, size = _whole(path, content)
            _compare(_header(path, content, places.pop(0))["facts"], json.loads(json.dumps(facts, default=str)))
            records = dict(_records(path, content, places))
        if whole < size:
            warnings.warn(TornRecord(f"{path}: the last record was not whole, and is done again"), stacklevel=2)
        with os.fdopen(open_own(path, os.O_RDWR), "r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())
        return Checkpoint(path, records=records)

    def __contains__(self, key: tuple[str, int]) -> bool:
        return key in self._records

    def __len__(self) -> int:
        return len(self._records)

    @property
    def is_synced(self) -> bool:
        """True where all records are on the disk."""
        return self._synced == self._end

    def check(self, stage: str, item: int, files: Iterable[Path]) -> None:
        """Raise Changed where the files that an item depends on are not what they were when it was done."""
        before, now = set(self._records[stage, item].files), {stamp_of(file) for file in files}
        for path in sorted(stamp.path for stamp in before ^ now):
            there = path in {stamp.path for stamp in now if stamp.size >= 0}
            what = "has changed since it was read" if there else "is not there any more"
            raise Changed(f"{_short(path, 200)} {what}: put it back as it was, or {AGAIN}")

    def value(self, stage: str, item: int, kind: Any) -> Any:
        """Return the result of an item that is done, a value of this type (``gonio.run.packing``).

        Raises
        ------
        ValueError
            The checkpoint holds something else.
        """
        place = self._records[stage, item].place
        self._file.seek(place.start)
        try:
            return unpack(self._file.read(place.length), kind)
        except ValueError as error:
            raise ValueError(f"{self.path} holds no result of item {item} of {stage!r} ({error}): {AGAIN}") from error

    def add(self, stage: str, item: int, value: object, kind: Any, *, files: Iterable[Path] = ()) -> None:
        """Record the result of an item, a value of this type; the ``files`` must not change until the run is done.

        Raises
        ------
        OSError
            It cannot be written; the checkpoint is unchanged.
        TypeError
            The value is not of this type, or a checkpoint does not hold such values.
        """
        stamps = tuple(stamp_of(file) for file in files)
        key, content = json.dumps([stage, item, stamps]).encode() + b"\n", pack(value, kind)
        record = memoryview(_record(key + content, synced=self._synced))
        with self._or_up_to(self._end):
            self._file.seek(self._end)
            while record:
                record = record[self._file.write(record) :]
        place = _Place(self._end + HEAD.size + len(key), len(content))
        self._records[stage, item] = _Record(place, stamps)
        self._end = place.end
        if not 0.0 <= time.monotonic() - self._sync_time <= SYNC_SECONDS:
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
            self._records = {key: record for key, record in self._records.items() if record.place.end <= end}
            self._end = end
            raise


def command_in(path: Path) -> str:
    """Return the command line that began the run of a checkpoint; empty where it cannot be read."""
    with suppress(ValueError, OSError), _content(path) as content:
        return _header(path, content, _whole(path, content)[0][0])["command"]
    return ""


def open_own(path: Path, flags: int) -> int:
    """Open a file that gonio has made itself, and return its descriptor.

    Raises
    ------
    ValueError
        It is a link, a pipe or a device, or has a second name, through which another file would be overwritten.
    """
    try:
        descriptor = os.open(path, flags | OWN, 0o666)
        status = os.fstat(descriptor)
        if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
            return descriptor
        os.close(descriptor)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENXIO):  # what a link and a pipe give
            raise
    raise ValueError(f"{path} is not a file that gonio has made but a link or a device: remove it")


def stamp_of(path: Path) -> Stamp:
    """Return what a file is known by."""
    name = str(path.absolute())
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return Stamp(name, status.st_size, status.st_mtime_ns, "")
        of = status.st_size, status.st_mtime_ns
        return Stamp(name, *of, _digest(name, *of, status.st_ctime_ns, status.st_ino))
    except OSError:
        return Stamp(name, -1, 0, "")


@lru_cache(maxsize=2**16)
def _digest(path: str, size: int, *_: int) -> str:
    """Return a digest of a file's content, remembered until its size, times or number change."""
    digest = hashlib.blake2b(digest_size=16)
    last = max(size - BLOCK_BYTES, 0)
    with Path(path).open("rb", buffering=0) as file:
        if size <= WHOLE_BYTES:
            digest.update(file.read(WHOLE_BYTES))
        else:
            for number in range(BLOCKS):
                file.seek(last * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()


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
    with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
        if not os.fstat(file.fileno()).st_size:  # an empty file cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield content


def _record(content: bytes, *, synced: int) -> bytes:
    checked = HEAD.pack(MARKER, 0, synced, len(content))[UNCHECKED:] + content
    return MARKER + struct.pack("<I", zlib.crc32(checked)) + checked


def _whole(path: Path, content: mmap.mmap | bytes) -> tuple[list[_Place], int, int]:
    """Return the places of the whole records' contents (one at least), the end of the last one, and the file's size."""
    if content[: len(MAGIC)] != MAGIC:
        raise ValueError(f"{path} is not a checkpoint of this version of gonio: {AGAIN}")
    places, at = [], len(MAGIC)
    while (found := _at(content, at)) is not None:
        places.append(found[0])
        at = found[0].end
    later, read = content.find(MARKER, at + 1), 0
    while later >= 0:
        found = _at(content, later)
        # Records that overlap would be summed for ever: no crash leaves them.
        read += min(HEAD.unpack_from(content, later)[3] if later + HEAD.size <= len(content) else 0, len(content))
        if (found is not None and found[1] > at) or read > 4 * len(content):
            raise ValueError(f"{path} is damaged at byte {at}: {AGAIN}")
        later = content.find(MARKER, later + 1)
    if not places:
        raise ValueError(f"{path} was cut off before it began: {AGAIN}")
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
    """Return what the first record states of the run: its facts, flat, and its command."""
    try:
        head = json.loads(content[place.start : place.end])
        return {"facts": flat(head["facts"]), "command": _short(head["command"], 200)}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} does not state what run it is of: {AGAIN}") from error


def _records(path: Path, content: mmap.mmap | bytes, places: list[_Place]) -> Iterator[tuple[tuple[str, int], _Record]]:
    """Return the task and item of each record, and the place of its value with its files."""
    known: dict[Stamp, Stamp] = {}  # one object for a file of many items
    for place in places:
        start = content.find(b"\n", place.start, place.end) + 1
        try:
            stage, item, files = json.loads(content[place.start : start])
            stamps = tuple(known.setdefault(stamp, stamp) for stamp in (Stamp(*file) for file in files))
            if type(stage) is not str or type(item) is not int:
                raise TypeError("neither a task nor an item")
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} has a record of nothing at byte {place.start}: {AGAIN}") from error
        yield (stage, item), _Record(_Place(start, place.end - start), stamps)


def _compare(old: Mapping[str, object], now: Mapping[str, object]) -> None:
    new = flat(now)
    for name in [*old, *(name for name in new if name not in old)]:
        if old.get(name) != new.get(name):
            before, after = (_short(facts.get(name, "not given")) for facts in (old, new))
            change = f"{_short(name, 200)} was {before}, is {after}"
            raise Changed(f"this is not the run that was cut off: {change}; {AGAIN}")


def _short(value: object, most: int = SHOWN) -> str:
    text = str(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."
