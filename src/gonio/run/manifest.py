"""Names of the files that a finished run has made, as the settings.toml in its folder states them.

Owns which files of a folder are a run's: what may be replaced with it, and what is somebody else's. Names come from a
file, which may come with a folder from elsewhere.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path, PurePosixPath

# A folder of gonio's own in that of a run.
INSIDE = ".gonio"
# Where a folder cannot be exchanged this file is moved last: it marks a run that is done.
LAST = "settings.toml"


def files_of_run(path: Path) -> frozenset[str] | None:
    """Return the names of the files that the finished run in a folder has made, from there; None where none is stated.

    Names that lead out of the folder, which may come from elsewhere, are left out.
    """
    files = settings_table(path, "run").get("files")
    if not isinstance(files, list):
        return None
    return frozenset(name for name in files if isinstance(name, str) and _is_inside(PurePosixPath(name)))


def _is_inside(name: PurePosixPath) -> bool:
    return bool(name.parts) and not name.is_absolute() and ".." not in name.parts and INSIDE not in name.parts


def settings_table(path: Path, name: str) -> dict[str, object]:
    """Return a table of a folder's settings.toml, empty where there is none that can be read."""
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        return dict(tomllib.loads((path / LAST).read_text())[name])
    return {}


def files_in(folder: Path) -> list[Path]:
    """Return the files in a folder and in those in it, without gonio's own."""
    return [file for file in folder.rglob("*") if file.is_file() and INSIDE not in file.relative_to(folder).parts]


def remove_emptied(path: Path, old: Collection[str]) -> None:
    """Remove folders in which nothing is left after the removal of files."""
    folders = {str(folder) for name in old for folder in PurePosixPath(name).parents} - {"."}
    for folder in sorted(folders, reverse=True):  # inner ones first
        with suppress(OSError):
            (path / folder).rmdir()
