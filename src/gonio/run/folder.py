"""Folders of results: files that appear whole or not at all, one run at a time in each, and runs that can be resumed.

While a run goes on its folder holds ``.gonio/`` with a lock and the checkpoint. Results are written in a folder beside,
synced, and this is put in the other's place; ``.gonio/`` goes with what it replaces. A run that is killed leaves the
old results or the new ones, and until it is done its checkpoint.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO

from gonio.run.checkpoint import Checkpoint, command_in, sync_path

__all__ = ["RunFolder", "check_target", "locked", "result_folder"]

INSIDE, LOCK, CHECKPOINT = ".gonio", "lock", "journal"
# Where a folder cannot be exchanged this file comes last: it stands for a run that is done.
LAST = "settings.toml"
# How a file system says that it knows no locks.
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def check_target(path: Path, *, overwrite: bool) -> Path:
    """The absolute path of a result that may be written.

    Raises
    ------
    ValueError
        Something is there and may not be replaced.
    OSError
        The folder cannot be written to: better said now than after an hour of work.
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


class RunFolder:
    """The folder of a run that is going on; to be made by ``RunFolder.opened``."""

    def __init__(self, path: Path, checkpoint: Checkpoint) -> None:
        self.path = path
        self.checkpoint = checkpoint

    @staticmethod
    @contextmanager
    def opened(
        path: Path, facts: Mapping[str, object], *, command: str = "", resume: bool, overwrite: bool
    ) -> Iterator[RunFolder]:
        """Begin a run, or go on with one.

        What was done stays in the folder when the run is cut off by whatever it may be, for ``resume``; a run of which
        nothing was done leaves nothing.

        Parameters
        ----------
        path
            The folder to make.
        facts
            What the run is: settings, inputs, versions, seed. A run is resumed only when none has changed.
        command
            What was typed, told to who finds the run cut off.
        resume
            Go on with a run that was cut off; where there is none, begin.
        overwrite
            Replace results, and drop a run that was cut off.

        Raises
        ------
        ValueError
            The folder holds results, an unfinished run, or another one that goes on; or what is resumed has changed.
        """
        path = path.resolve()
        _put_back(path)
        inside, unfinished = path / INSIDE, (path / INSIDE / CHECKPOINT).exists()
        if unfinished and not (resume or overwrite):
            what = command_in(path / INSIDE / CHECKPOINT) or "of another version of gonio"
            raise ValueError(
                f"{path} holds a run that was cut off ({what}): pass --resume to go on with it, or --overwrite to begin"
                " again"
            )
        if not unfinished:
            check_target(path, overwrite=overwrite)
        if path.is_file():
            raise NotADirectoryError(f"{path} is a file: give a folder")
        made = [folder for folder in (path, *path.parents) if not folder.exists()]
        inside.mkdir(parents=True, exist_ok=True)
        checkpoint = None
        try:
            with locked(inside / LOCK):
                if resume and unfinished:
                    checkpoint = Checkpoint.resume(inside / CHECKPOINT, facts)
                else:
                    checkpoint = Checkpoint.create(inside / CHECKPOINT, facts, command=command)
                for folder in made:
                    sync_path(folder.parent)
                try:
                    yield RunFolder(path, checkpoint)
                finally:
                    checkpoint.close()
                    if not len(checkpoint):
                        shutil.rmtree(inside, ignore_errors=True)
        finally:
            if checkpoint is not None or not unfinished:
                _remove_empty([inside, *made])
            if path.exists():  # NFS keeps the files that were open, and so the folder that was exchanged
                shutil.rmtree(_aside(path), ignore_errors=True)

    @contextmanager
    def results(self) -> Iterator[Path]:
        """A folder to write results in, beside; when all went well it takes this one's place and the run is done."""
        with _staging(self.path) as staging:
            yield staging
            self.checkpoint.close()
            _put(staging, self.path)
        shutil.rmtree(self.path / INSIDE, ignore_errors=True)

    @contextmanager
    def part(self, name: str) -> Iterator[Path]:
        """A folder to write a part of the results in, while the run goes on; it appears as ``name``, whole."""
        # Inside, as deep as the part will be: relative paths that are written there stay right.
        with _staging(self.path / name) as staging:
            yield staging
            _sync_all(staging)
            target = self.path / name
            if target.exists():  # of the same run, before it was cut off, or of one that is replaced
                shutil.rmtree(target)
            staging.rename(target)
            sync_path(self.path)


@contextmanager
def result_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder beside ``path`` to write in; when all went well it becomes ``path``, whole. Not to be resumed.

    Relative paths written inside stay right, as both folders have one parent. Files of ``path`` that are not written
    again stay. A kill leaves the old folder or the new one: between the two renames that exchange them, both, the old
    as ``.NAME.old``.
    """
    path = check_target(path, overwrite=overwrite)
    if path.is_file():
        raise NotADirectoryError(f"{path} is a file: give a folder")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    going_on = path / INSIDE / LOCK
    try:
        with locked(going_on if going_on.exists() else path.with_name(f".{path.name}.lock")):
            _put_back(path)
            with _staging(path) as staging:
                yield staging
                _put(staging, path)
    finally:
        _remove_empty(made)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a run; the system lets go of it whatever becomes of the process.

    Raises
    ------
    ValueError
        Another run holds it; says which.
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
        return path.open("a+")
    while True:
        file = path.open("a+")
        try:
            # Of the process, where flock's would be of its forked workers too, which may outlive it. It is gone as soon
            # as the process closes the file, through whatever descriptor.
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


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.loads(file.read())
        return f"process {holder['process']} on {holder['host']}"
    except (ValueError, KeyError):
        return "another process"


@contextmanager
def _staging(path: Path) -> Iterator[Path]:
    staging = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    staging.mkdir(parents=True)
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put(staging: Path, path: Path) -> None:
    # Some folders cannot be exchanged, and not under the feet of who stands in one.
    stays = path.exists() and (path.is_mount() or path in (here := Path.cwd(), *here.parents))
    _sync_all(staging)
    if stays:
        _move_files(staging, path)
    elif path.exists():
        _take_over(path, staging)
        _exchange(staging, path)
    else:
        staging.rename(path)
    sync_path(path.parent)


def _take_over(path: Path, staging: Path) -> None:
    """The files that only the old folder has."""

    def written(folder: str, names: list[str]) -> list[str]:
        pairs = ((name, Path(folder, name), staging / Path(folder, name).relative_to(path)) for name in names)
        kept = {name for name, old, new in pairs if new.exists() and not (old.is_dir() and new.is_dir())}
        return [*kept, *(name for name in names if name == INSIDE)]

    shutil.copytree(path, staging, symlinks=True, ignore=written, copy_function=_link, dirs_exist_ok=True)
    for folder in (staging, *(inner for inner in staging.rglob("*") if inner.is_dir() and not inner.is_symlink())):
        sync_path(folder)


def _exchange(staging: Path, path: Path) -> None:
    """Put a folder in the place of another."""
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed when this had been done
    try:
        path.rename(aside)
        staging.rename(path)
    finally:
        if not path.exists():
            aside.rename(path)
    sync_path(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _put_back(path: Path) -> None:
    """The folder of a run that was killed between the two renames of an exchange."""
    aside = _aside(path)
    if path.exists() or not aside.exists():
        return
    inside = aside / INSIDE
    with locked(inside / LOCK) if inside.exists() else nullcontext():  # it may still be at it
        if not path.exists():
            aside.rename(path)


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def _link(old: str, new: str) -> None:
    """A second name for a file, which costs nothing; a copy where the disk knows no such thing."""
    try:
        os.link(old, new)
    except OSError:
        shutil.copy2(old, new)


def _move_files(staging: Path, path: Path) -> None:
    """One by one, each of them whole; what stands for the end of the run last."""
    files = [file for file in sorted(staging.rglob("*")) if file.is_file()]
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
    """Whether a folder holds anything but what a run leaves that was killed before it began."""
    return path.is_dir() and any(file.name != INSIDE or (file / CHECKPOINT).exists() for file in path.iterdir())


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
