"""Folders of results: files that appear whole or not at all, one run at a time in each, and runs that can be resumed.

During a run its folder holds ``.gonio/`` with a lock and the checkpoint. Results are written in a folder beside it and
synced; then this takes the place of the other, which is removed with its ``.gonio/``. A run that is killed leaves the
old results or the new ones, and its checkpoint until it is done.

The folder beside, ``.NAME.tmp``, and the old results aside, ``.NAME.old``, have a ``.gonio/`` too, by which the next
run knows what a killed one has left. What is so called and has none is somebody's, and stays. No link is followed to a
lock, a checkpoint or a ``.gonio/``, which may come with a folder from elsewhere.

Some runs have a *length*: a longer one begins with what a shorter one does. Where results may be gone on with, their
folder keeps ``.gonio/finished``, the checkpoint as it was in the end.

settings.toml, whose table ``run`` is that of ``RunFolder.record``, names the files of a run. A run that replaces
another removes those files, and no others; a run of which one is missing is not finished.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import socket
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from gonio.run.checkpoint import Checkpoint, command_in, open_own, sync_path
from gonio.run.manifest import INSIDE, LAST, files_in, files_of_run, remove_emptied, settings_table

LOCK, CHECKPOINT, KEPT = "lock", "journal", "finished"
# Characters of a lock's holder that are read.
MOST_OF_A_LOCK = 1000
# Errors of file systems without locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def check_target(path: Path, *, overwrite: bool) -> Path:
    """Return the absolute path of a result that may be written.

    Raises
    ------
    ValueError
        Something is there and may not be replaced.
    OSError
        The folder cannot be written to: the error comes now, not after an hour of work.
    """
    path = path.resolve()
    if _is_taken(path) and not overwrite:
        raise ValueError(f"{path} is not empty: choose another folder, or pass --overwrite to replace its results")
    if path.is_file() and not overwrite:
        raise ValueError(f"{path} exists: choose another name, or pass --overwrite to replace it")
    nearest = next(folder for folder in path.parents if folder.exists())
    if not nearest.is_dir():
        raise NotADirectoryError(f"cannot write {path}: {nearest} is a file, not a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(f"cannot write {path}: you may not write in {nearest}")
    return path


class Finished(Exception):
    """A run to resume has been finished: there is nothing to do, which is no error."""


def facts_digest(facts: Mapping[str, object]) -> str:
    """Return what settings.toml keeps of the facts of a run, to compare them with those of one that is resumed."""
    return hashlib.sha256(json.dumps(facts, default=str, sort_keys=True).encode()).hexdigest()[:32]


class RunFolder:
    """Folder of a run in progress; made by ``RunFolder.opened``."""

    def __init__(
        self, path: Path, checkpoint: Checkpoint, facts: Mapping[str, object], length: int | None = None
    ) -> None:
        self.path = path
        self.checkpoint = checkpoint
        self.facts, self.length = facts_digest(facts), length
        self._parts: set[str] = set()

    @staticmethod
    @contextmanager
    def opened(
        path: Path,
        facts: Mapping[str, object],
        *,
        command: str = "",
        length: int | None = None,
        resume: bool,
        overwrite: bool,
    ) -> Iterator[RunFolder]:
        """Begin a run, or resume one.

        When the run is interrupted, for any reason, its checkpoint stays in the folder for ``resume``, unless it holds
        no result.

        Parameters
        ----------
        path
            The folder to make.
        facts
            Settings, inputs, versions and seed of the run. It is resumed only when none has changed.
        command
            The command line, for a message about the interrupted run.
        length
            How long the run is: apart from ``facts``, as a longer one may go on with what it has kept.
        resume
            Go on with an interrupted run, or a shorter one that kept its checkpoint; where there is none, or files of
            its results are missing, begin.
        overwrite
            Replace results, and drop an interrupted run.

        Raises
        ------
        ValueError
            The folder holds results, an unfinished run, or a run in progress; or the run to resume has changed.
        Finished
            The run to resume is done.
        """
        path = path.resolve()
        _put_back(path)
        _check_beside(path)
        inside, unfinished = path / INSIDE, (path / INSIDE / CHECKPOINT).exists()
        if unfinished and not (resume or overwrite):
            what = command_in(path / INSIDE / CHECKPOINT) or "of another version of gonio"
            raise ValueError(
                f"{path} holds a run that was cut off ({what}): pass --resume to go on with it, or --overwrite to begin"
                " again"
            )
        if not unfinished and resume and (path / LAST).is_file():
            _check_finished(path, facts, length)
            unfinished, overwrite = (inside / KEPT).is_file(), True
            if unfinished:
                (inside / KEPT).replace(inside / CHECKPOINT)
        if not unfinished:
            check_target(path, overwrite=overwrite)
        if path.is_file():
            raise NotADirectoryError(f"{path} is a file: give a folder")
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        inside.mkdir(parents=True, exist_ok=True)
        checkpoint = None
        try:
            with locked(inside / LOCK):
                for left in path.glob(".*.tmp"):  # parts of a run that was killed
                    if _is_ours(left):
                        _drop(left)
                if resume and unfinished:
                    checkpoint = Checkpoint.resume(inside / CHECKPOINT, facts)
                else:
                    checkpoint = Checkpoint.create(inside / CHECKPOINT, facts, command=command)
                for folder in made:
                    sync_path(folder.parent)
                try:
                    yield RunFolder(path, checkpoint, facts, length)
                finally:
                    checkpoint.close()
                    if not len(checkpoint):
                        shutil.rmtree(inside, ignore_errors=True)
        finally:
            if checkpoint is not None or not unfinished:
                _remove_empty([inside, *made])
            if path.exists() and _is_ours(_aside(path)):  # NFS keeps the files that were open, and so their folder
                _drop(_aside(path))

    def record(self, staging: Path, *, length: int | None = None) -> dict[str, object]:
        """Return what settings.toml keeps of this run beside the results in ``staging``: all but itself is there.

        ``length`` is how long the run has become, where it ended before the length that was asked for.
        """
        files = [file.relative_to(staging).as_posix() for file in files_in(staging)]
        files += [file.relative_to(self.path).as_posix() for part in self._parts for file in files_in(self.path / part)]
        return {
            "facts": self.facts,
            "length": self.length if length is None else length,
            "files": sorted({*files, LAST}),
        }

    @contextmanager
    def results(self, *, may_go_on: bool = False) -> Iterator[Path]:
        """Make a folder beside this one to write results in; without an error it takes this one's place at the end.

        Where a longer run may go on with them the checkpoint is kept.
        """
        with _staging(self.path) as staging:
            yield staging
            self.checkpoint.close()
            if may_go_on:  # a copy: if this is killed before the folders are exchanged, the run is to be resumed
                shutil.copyfile(self.checkpoint.path, staging / INSIDE / KEPT)
            _put(staging, self.path, parts=self._parts)
        if may_go_on:
            (self.path / INSIDE / CHECKPOINT).unlink(missing_ok=True)
        else:
            shutil.rmtree(self.path / INSIDE, ignore_errors=True)

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """Make a folder to write a part of the results in, during the run; it appears as ``name``, whole."""
        # At the depth that the part will have: relative paths that are written there stay right.
        with _staging(self.path / name) as staging:
            yield staging
            _sync_all(staging)
            target = self.path / name
            if target.exists():  # of the same run, before it was interrupted, or of one that is replaced
                shutil.rmtree(target)
            staging.rename(target)
            _unmark(target)
            sync_path(self.path)
            self._parts.add(name)


def _check_finished(path: Path, facts: Mapping[str, object], length: int | None) -> None:
    """Raise Finished where the results in a folder are those of a run, and remove what it left if it was killed then.

    It may go on where it is longer than it was and a checkpoint is kept, or where a file of its results is missing,
    with a warning. ValueError where results are of another.
    """
    run = settings_table(path, "run")
    if run.get("facts") != facts_digest(facts):
        raise ValueError(f"{path} holds the results of another run: choose another folder, or pass --overwrite")
    before = run.get("length")
    if length is not None and isinstance(before, int) and length != before:
        if length < before:
            problem = f"{path} is finished, and longer than this run would be ({before}, not {length})"
            raise ValueError(f"{problem}: choose another folder, or pass --overwrite")
        if (path / INSIDE / KEPT).is_file():
            return
    lost = sorted(name for name in files_of_run(path) or () if not (path / name).is_file())
    if lost:
        warnings.warn(
            f"{path} is finished but for {lost[0]}{f' and {len(lost) - 1} more' if lost[1:] else ''}, which are gone:"
            " its results are made again",
            stacklevel=4,
        )
        return
    lock = _aside(path) / INSIDE / LOCK
    with suppress(ValueError), locked(lock) if lock.exists() else nullcontext():
        for left in filter(_is_ours, (_tmp(path), _aside(path))):
            _drop(left)
        _unmark(path)
    raise Finished(f"{path} is finished: nothing is left to do")


@contextmanager
def result_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Make a folder beside ``path`` to write in; without an error it becomes ``path``, whole. It cannot be resumed.

    Relative paths written inside stay right, as both folders have one parent. Files of ``path`` that are not written
    again stay, but for those of a run that was finished there. A kill leaves the old folder or the new one, or, between
    the two renames that exchange them, the old one as ``.NAME.old``.
    """
    path = check_target(path, overwrite=overwrite)
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file: give a folder")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    _check_beside(path)
    lock = path / INSIDE / LOCK
    try:
        with locked(lock if lock.exists() else path.with_name(f".{path.name}.lock")):
            _put_back(path)
            with _staging(path) as staging:
                yield staging
                _put(staging, path)
    finally:
        _remove_empty(made)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run; the system releases it however the process ends.

    Raises
    ------
    ValueError
        Another run holds it; the message names its process.
    """
    file = _lock(path)
    try:
        file.truncate(0)
        file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        file.flush()
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        file.close()


def _lock(path: Path) -> IO[str]:
    try:
        import fcntl
    except ImportError:  # Windows
        return _opened(path)
    while True:
        file = _opened(path)
        try:
            # This lock belongs to the process alone; flock's would belong to its forked workers too, which may
            # outlive it. It is released as soon as the process closes the file, through any descriptor.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in NO_LOCKS:
                warnings.warn(f"there are no locks where {path} is: see that no two runs write there", stacklevel=2)
                return file
            with file:
                who = _holder(file)
            folder = path.parent.parent if path.parent.name == INSIDE else path.parent
            raise ValueError(f"{folder} is being written to by {who}: choose another folder") from error
        if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
            return file
        file.close()  # its last holder has removed it meanwhile


def _opened(path: Path) -> IO[str]:
    return os.fdopen(open_own(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), "a+")


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read(MOST_OF_A_LOCK))
        return f"process {int(holder['process'])} on {str(holder['host'])[:64]}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _is_ours(folder: Path) -> bool:
    """Return whether a folder is one that gonio has made, or empty."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    inside = folder / INSIDE
    return (inside.is_dir() and not inside.is_symlink()) or not any(folder.iterdir())


def _drop(folder: Path) -> None:
    """Remove a folder of gonio's, its mark last: what a kill leaves of it is still known for what it is."""
    with suppress(OSError):
        for entry in folder.iterdir():
            if entry.name == INSIDE:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _check_beside(path: Path) -> None:
    """Raise ValueError where something that is not gonio's has a name that a run needs: it is not removed unasked."""
    for needed in (_tmp(path), _aside(path)):
        if os.path.lexists(needed) and not _is_ours(needed):
            raise ValueError(f"{needed} is not of gonio, which needs the name: move or remove it")
    if (path / INSIDE).is_symlink():
        raise ValueError(f"{path / INSIDE} is a link, which gonio does not follow: remove it")


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    _check_beside(path)
    staging = _tmp(path)
    _drop(staging)  # of a run that was killed
    staging.mkdir(parents=True)
    (staging / INSIDE).mkdir()
    try:
        yield staging
    finally:
        _drop(staging)


def _unmark(path: Path) -> None:
    """Remove the mark of a folder that was written beside."""
    with suppress(OSError):
        (path / INSIDE).rmdir()


def _put(staging: Path, path: Path, *, parts: Collection[str] = ()) -> None:
    """Put the files of a folder in the place of those of the run in another, of which new ``parts`` stay."""
    # A mount point cannot be exchanged, and the current folder should not be.
    stays = path.exists() and (path.is_mount() or path in (here := Path.cwd(), *here.parents))
    _sync_all(staging)
    old = {name for name in files_of_run(path) or () if name.partition("/")[0] not in parts}
    if stays:
        _move_files(staging, path, old)
    elif path.exists():
        _take_over(path, staging, old)
        _exchange(staging, path)
    else:
        staging.rename(path)
    _unmark(path)
    sync_path(path.parent)


def _take_over(path: Path, staging: Path, old: Collection[str]) -> None:
    """Copy the files that only the folder ``path`` has to the new one, but for the ``old`` ones of its earlier run."""

    def left(folder: str, names: list[str]) -> list[str]:
        inner = Path(folder).relative_to(path)
        pairs = ((name, Path(folder, name), staging / inner / name) for name in names)
        written = {name for name, one, new in pairs if new.exists() and not (one.is_dir() and new.is_dir())}
        return [*written, *(name for name in names if name == INSIDE or (inner / name).as_posix() in old)]

    shutil.copytree(path, staging, symlinks=True, ignore=left, copy_function=_link, dirs_exist_ok=True)
    remove_emptied(staging, old)
    for folder in (staging, *(inner for inner in staging.rglob("*") if inner.is_dir() and not inner.is_symlink())):
        sync_path(folder)


def _exchange(staging: Path, path: Path) -> None:
    """Put the new folder in the place of the old one."""
    aside = _aside(path)
    _drop(aside)  # left by a run that was killed at the end of its exchange
    (path / INSIDE).mkdir(exist_ok=True)
    try:
        path.rename(aside)
        staging.rename(path)
    finally:
        if not path.exists():
            aside.rename(path)
            _unmark(path)
    sync_path(path.parent)
    _drop(aside)


def _put_back(path: Path) -> None:
    """Restore the folder of a run that was killed between the two renames of an exchange."""
    aside = _aside(path)
    if path.exists() or not _is_ours(aside):
        return
    lock = aside / INSIDE / LOCK
    with locked(lock) if lock.exists() else nullcontext():  # that run may still be in progress
        if not path.exists():
            aside.rename(path)
            _unmark(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _tmp(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")


def _link(old: str, new: str) -> None:
    """Give a file a second name, which costs nothing; copy it where the disk has no hard links."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _move_files(staging: Path, path: Path, old: Collection[str]) -> None:
    """Move files one by one, each of them whole, and remove ``old`` ones; last the file that marks the run's end."""
    files = [file for file in sorted(staging.rglob("*")) if file.is_file()]
    for name in old:
        file = path / name
        if not (staging / name).exists() and file.parent.resolve().is_relative_to(path):
            file.unlink(missing_ok=True)
    remove_emptied(path, old)
    for file in sorted(files, key=lambda file: file.name == LAST):
        target = path / file.relative_to(staging)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.replace(target)
        sync_path(target.parent)


def _sync_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        if (path.is_file() or path.is_dir()) and not path.is_symlink():
            sync_path(path)


def _is_taken(path: Path) -> bool:
    """Return whether a folder holds more than what a run leaves that was killed before it began."""
    return path.is_dir() and any(file.name != INSIDE or (file / CHECKPOINT).exists() for file in path.iterdir())


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
