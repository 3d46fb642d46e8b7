"""What jobs write: files beside files. Nothing that exists is replaced unless asked (``gonio.run.folder``)."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from gonio.run.folder import check_target

__all__ = ["beside", "check_map", "write_settings", "write_text"]


def check_map(path: str | Path, *endings: str, overwrite: bool) -> Path:
    """Return the absolute path of a map that may be written, and with it the files of these endings beside it.

    Raises
    ------
    ValueError, OSError
        As ``check_target``; or one of them is a folder.
    """
    path = Path(path).resolve()
    for file in (path, *(beside(path, ending) for ending in endings)):
        if file.is_dir():
            raise IsADirectoryError(f"{file} is a folder: give the name of a file")
        check_target(file, overwrite=overwrite)
    return path


def beside(path: Path, ending: str) -> Path:
    """Return ``map.mrc`` or ``map.mrc.gz`` with another ending: ``beside(path, "_fsc.csv")`` is map_fsc.csv."""
    stem = path.name.removesuffix(".gz")
    for suffix in (".mrc", ".map"):
        stem = stem.removesuffix(suffix)
    return path.with_name(stem + ending)


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    from gonio.io.errors import replacing

    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_settings(
    path: Path, settings: Mapping[str, object], *, seed: int | None = None, inputs: Iterable[Path] = ()
) -> None:
    """Say beside a result how it was made."""
    from gonio.run import settings_toml

    write_text(path, settings_toml(["gonio", *sys.argv[1:]], settings, seed=seed, inputs=inputs))
