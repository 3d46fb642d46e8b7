"""``compiled``: loops in machine code, compiled once for each machine and kept on disk.

Owns how kernels are compiled and where their code is kept. Numba's own cache depends only on the file of a function,
not on the functions of other files that are compiled into it; here a file's name is a digest of everything that the
code depends on: all sources of its folder, numba, the processor and the types of the arguments. So no file is ever
out of date, signatures and machines cannot be mixed up, and processes that start together write the same file. A file
is written in one step and has a checksum: if it is damaged, the function is compiled again. Where no folder can be
written to, nothing is kept.

Code that is loaded runs: it is loaded from folders and files alone that belong to this user, to root or to whom the
sources belong, and that nobody else may write. Where no folder is of this kind, a private one in the folder of
temporary files is used in its place.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import stat
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any
from uuid import uuid4

import numba
from numba import njit
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from gonio import kernels

CONFIG: Any = numba.config  # its names are made when it is imported
SUFFIX = ".kernel"
CHECKSUM_BYTES = 32
# Most files in a folder, the newest ones: enough for about six versions of the sources, or kinds of processors.
KEPT = 400


# Inlined into the caller: otherwise the compiler does not know that the arrays of a block do not overlap.
inlined: Any = njit(forceinline=True, fastmath=True, error_model="numpy")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called, without the interpreter's lock and with sums in any order."""
    return _kept(function, fastmath=True)


def strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function like ``compiled``, but with sums in the order written, and with infinities and NaN kept."""
    return _kept(function, fastmath=False)


def _kept(function: Callable[..., Any], *, fastmath: bool) -> Callable[..., Any]:
    dispatcher: Any = njit(nogil=True, fastmath=fastmath, error_model="numpy")(function)
    source = Path(function.__code__.co_filename)
    if source.is_file():  # a notebook or a zip archive has no sources to make a digest of
        dispatcher._cache = _Kept(source, function.__qualname__)
    return dispatcher


class _Kept(NullCache):
    """Cache of the compiled code of one function, with the methods that numba calls.

    No failure of the cache is a failure of the kernel: code that cannot be loaded is compiled, code that cannot be
    saved is not kept.
    """

    def __init__(self, source: Path, name: str) -> None:
        self._name, self._state, self._sources = name, _state(source.parent), source.parent

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """Return the code for a signature, or None where no folder has it."""
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())
        for folder in _folders(self._sources, CONFIG.CACHE_DIR):
            try:
                content = _read(folder, name, self._sources)
                checksum, code = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
                if hashlib.sha256(code).digest() == checksum:
                    return CompileResult._rebuild(target_context, *pickle.loads(code))
            except Exception:
                continue
        notify, kernels.before_compiling = kernels.before_compiling, None
        if notify is not None:
            notify()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature in the first folder that can be written to."""
        if data.lifted or data.library.has_dynamic_globals:  # code with addresses of this process in it
            return
        for folder in _folders(self._sources, CONFIG.CACHE_DIR):
            try:
                code = dumps(data._reduce())
                folder.mkdir(parents=True, exist_ok=True, mode=0o755)
                if not _is_trusted(folder.lstat(), self._sources):
                    continue
                _write(folder / self._file_name(sig, data.codegen), hashlib.sha256(code).digest() + code)
                return
            except Exception:
                continue

    def _file_name(self, sig: Any, codegen: Any) -> str:
        key = repr((self._name, self._state, str(sig), codegen.magic_tuple()))
        readable = self._name.rpartition(".")[2]
        return f"{readable}-{hashlib.sha256(key.encode()).hexdigest()[:40]}{SUFFIX}"


@cache
def _state(folder: Path) -> str:
    """Return a digest of everything the code depends on besides its signature and processor."""
    versions = (numba.__version__, version("llvmlite"), sys.implementation.cache_tag, CONFIG.USING_SVML)
    digest = hashlib.sha256(repr(versions).encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@cache
def _folders(sources: Path, asked: str) -> tuple[Path, ...]:
    """Return folders to keep code in, those that may be trusted; a private one where there is none."""
    wanted = list(_wanted(sources, asked))
    trusted = [folder for folder in wanted if not os.path.lexists(folder) or _is_trusted(folder.lstat(), sources)]
    if not trusted and wanted:
        private = Path(tempfile.gettempdir()) / f"gonio-{_user()}"
        warnings.warn(
            f"others may write to {wanted[-1]}, from where compiled code would be loaded: {private} is used instead",
            stacklevel=2,
        )
        with suppress(OSError):
            private.mkdir(mode=0o700)
        return (private,)  # where it is somebody else's it is not read or written either
    return tuple(trusted)


def _wanted(sources: Path, asked: str) -> Iterator[Path]:
    """Yield folders to keep code in: numba's, if set; else beside Python's compiled files, then the user's cache."""
    if asked:
        yield Path(asked) / "gonio"
        return
    if sys.implementation.cache_tag:
        yield Path(cache_from_source(str(sources / "any.py"))).parent
    where = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Caches")}
    variable, usual = where.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    try:
        yield Path(os.environ.get(variable) or usual).expanduser() / "gonio"
    except RuntimeError:  # a user without a home
        return


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0


def _is_trusted(status: os.stat_result, sources: Path) -> bool:
    """Return whether nobody but this user, root and the owner of the sources can have changed a folder or a file."""
    if not hasattr(os, "geteuid"):  # Windows: a user's folders are the user's
        return True
    if stat.S_ISLNK(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    return status.st_uid in (0, _user(), sources.stat().st_uid)


def _read(folder: Path, name: str, sources: Path) -> bytes:
    """Return the content of a file that may be trusted, in a folder that may be."""
    if not hasattr(os, "geteuid"):
        return (folder / name).read_bytes()
    inside = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        file = os.fdopen(os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=inside), "rb")
        with file:
            if not all(_is_trusted(os.fstat(one), sources) for one in (inside, file.fileno())):
                raise PermissionError(f"others may write to {folder / name}")
            return file.read()
    finally:
        os.close(inside)


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, and delete the oldest of its kind."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:16]}.tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as file:
            file.write(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # another process may be deleting them
        kept = sorted(path.parent.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-KEPT]:
            old.unlink()
