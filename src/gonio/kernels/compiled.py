"""``compiled``: loops in machine code, compiled once for each machine and kept on disk.

Owns how kernels are compiled and where their code is kept. Numba's own cache looks at the file of a function alone,
not at the mathematics that is compiled into it from files beside it; here a file's name is a digest of everything that
the code depends on: all sources of its folder, numba, the processor and the types of the arguments. So nothing kept is
ever out of date, signatures and machines cannot be mixed up, and processes that start together write the same thing.
A file appears whole or not at all and carries a checksum: what is torn is compiled again. Where nothing can be written,
nothing is kept.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
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

__all__ = ["compiled", "inlined", "strict"]

CONFIG: Any = numba.config  # its names are made when it is imported
SUFFIX = ".kernel"
CHECKSUM_BYTES = 32
# A folder keeps no more files than these, the newest: some six states of the sources, or kinds of processors.
KEPT = 400


# Into its caller, or the compiler would not know that the arrays of a block do not overlap.
inlined: Any = njit(forceinline=True, fastmath=True, error_model="numpy")


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function when it is first called: without the interpreter's lock, with sums in any order."""
    return _kept(function, fastmath=True)


def strict(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same, with sums as they are written, and infinite and undefined values that mean something."""
    return _kept(function, fastmath=False)


def _kept(function: Callable[..., Any], *, fastmath: bool) -> Callable[..., Any]:
    dispatcher: Any = njit(nogil=True, fastmath=fastmath, error_model="numpy")(function)
    source = Path(function.__code__.co_filename)
    if source.is_file():  # in a notebook or a zip archive there are no sources to tell what the code depends on
        dispatcher._cache = _Kept(source, function.__qualname__)
    return dispatcher


class _Kept(NullCache):
    """The compiled code of one function: what numba asks of a cache.

    A failure of the cache is never one of the kernel, whatever it is: code that cannot be had from it is compiled, code
    that cannot be kept is not kept.
    """

    def __init__(self, source: Path, name: str) -> None:
        self._name, self._state, self._folders = name, _state(source.parent), tuple(_folders(source))

    def load_overload(self, sig: Any, target_context: Any) -> CompileResult | None:
        """The code for a signature, or None."""
        target_context.refresh()
        name = self._file_name(sig, target_context.codegen())
        for folder in self._folders:
            try:
                content = (folder / name).read_bytes()
                checksum, code = content[:CHECKSUM_BYTES], content[CHECKSUM_BYTES:]
                if hashlib.sha256(code).digest() == checksum:
                    return CompileResult._rebuild(target_context, *pickle.loads(code))
            except Exception:
                continue
        tell, kernels.before_compiling = kernels.before_compiling, None
        if tell is not None:
            tell()
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature in the first folder that can be written to."""
        if data.lifted or data.library.has_dynamic_globals:  # code with addresses of this process in it
            return
        for folder in self._folders:
            try:
                code = dumps(data._reduce())
                folder.mkdir(parents=True, exist_ok=True)
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
    """Digest of what code depends on besides its signature and processor."""
    versions = (numba.__version__, version("llvmlite"), sys.implementation.cache_tag, CONFIG.USING_SVML)
    digest = hashlib.sha256(repr(versions).encode())
    for path in sorted(folder.glob("*.py")):
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _folders(source: Path) -> Iterator[Path]:
    """Where code may be kept: where numba is told to; else beside Python's own compiled files, or the user's cache."""
    if CONFIG.CACHE_DIR:
        yield Path(CONFIG.CACHE_DIR) / "gonio"
        return
    if sys.implementation.cache_tag:
        yield Path(cache_from_source(str(source))).parent
    where = {"win32": ("LOCALAPPDATA", "~/AppData/Local"), "darwin": ("", "~/Library/Caches")}
    variable, usual = where.get(sys.platform, ("XDG_CACHE_HOME", "~/.cache"))
    try:
        yield Path(os.environ.get(variable) or usual).expanduser() / "gonio"
    except RuntimeError:  # a user without a home
        return


def _write(path: Path, content: bytes) -> None:
    """Write a file in one step, and take away the oldest of its kind."""
    temporary = path.with_name(f"{path.name}.{uuid4().hex[:16]}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    with suppress(OSError):  # another process may be taking them away
        kept = sorted(path.parent.glob(f"*{SUFFIX}"), key=lambda file: file.stat().st_mtime)
        for old in kept[:-KEPT]:
            old.unlink()
