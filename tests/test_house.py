"""The house stays in order: a short top, no circles, a light front door, small modules and functions.

The order of the folders is held by import-linter, docstrings by ruff (pyproject.toml, ``make check``).
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import gonio

SOURCE = Path(__file__).parents[1] / "src" / "gonio"

MODULES = sorted(SOURCE.rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module of gonio imported anywhere in a file, inside functions and type checks too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def file_of(module: str) -> Path | None:
    """The file of a module of gonio, or None for other names."""
    stem = SOURCE.parent.joinpath(*module.split("."))
    return next((one for one in (stem.with_suffix(".py"), stem / "__init__.py") if one.exists()), None)


def test_the_top_fits_on_a_page():
    names = [path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    assert len(names) <= 18, f"{len(names)} names at the top of the package: {sorted(path.name for path in names)}"


def test_no_file_name_has_two_meanings():
    """Only a command has one name in two folders: what it does, and how it is called."""
    folders: dict[str, set[str]] = {}
    for path in MODULES:
        folders.setdefault(path.name, set()).add(str(path.parent.relative_to(SOURCE)))
    twice = {name: where for name, where in folders.items() if len(where) > 1 and not where <= {"cli", "jobs"}}
    assert twice.keys() <= {"__init__.py"}, f"one name, two meanings: {twice}"


def test_there_are_no_circles():
    """Between modules; folders and their order are held by import-linter (pyproject.toml, ``make check``)."""
    up = SOURCE / "particle" / "volume.py", SOURCE / "fourier"  # a volume's methods: the one way up
    edges = {
        path: {found for module in imported(path) if (found := file_of(module)) is not None and found != path}
        - (set(up[1].rglob("*.py")) if path == up[0] else set())
        for path in MODULES
        if path.parent != SOURCE or path.name == "settings.py"
    }
    while free := {path for path, below in edges.items() if not below & edges.keys()}:
        edges = {path: below for path, below in edges.items() if path not in free}
    assert not edges, f"these modules import each other in a circle: {sorted(map(str, edges))}"


HEAVY = ("matplotlib", "pandas", "dask", "numba", "numba.cuda", "scipy.fft", "typer")
IMPORT_GONIO = f"import sys, gonio; print(*[name for name in {HEAVY!r} if name in sys.modules])"


def test_the_front_door_is_light():
    run = subprocess.run([sys.executable, "-c", IMPORT_GONIO], capture_output=True, text=True, check=True)
    assert not run.stdout.strip(), f"import gonio loads {run.stdout}: import it in the function that needs it"


def test_every_name_at_the_front_door_opens():
    missing = [name for name in gonio.__all__ if not hasattr(gonio, name)]
    assert not missing, f"gonio.__all__ promises {missing}"
    assert dir(gonio) == sorted(gonio.__all__)


def test_lists_of_names_stand_in_folders_alone():
    """A module's own names begin with an underscore: a list would say it a second time."""
    twice = [path for path in MODULES if path.name != "__init__.py" and "\n__all__ = " in path.read_text()]
    assert not twice, f"leave out __all__: {[str(path.relative_to(SOURCE)) for path in twice]}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_module_is_long(path):
    assert len(path.read_text().splitlines()) <= 500


def is_stub(node: ast.AST) -> bool:
    """Whether a function only declares a signature, as protocols and overloads do."""
    last = node.body[-1]
    return isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is ...


def function_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The length in lines of every function of a file without its docstring and decorators."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_stub(node):
            first = node.body[0]
            docstring = first.end_lineno - first.lineno + 1 if ast.get_docstring(node) is not None else 0
            yield node.end_lineno - node.lineno + 1 - docstring, f"{path.relative_to(SOURCE)}:{node.name}"


def test_functions_are_small():
    functions = sorted(length for path in MODULES for length in function_lines(path))
    lengths = [length for length, _ in functions]
    assert median(lengths) <= 10
    assert np.percentile(lengths, 90) <= 45, f"the longest: {functions[-10:]}"


# Words of an older dialect, and what the field says; texts may not fall back on them.
WORDS = {
    r"(graphics )?cards?": "GPU",
    r"(at|comes?|came|coming to) rest": "converged",
    r"crowding": "samples per independent sample",
    r"(laid|lays?) (it |them )?on": "aligned to",
    r"suspicions?": "warning",
    r"mappers?": "executor",
    r"listed poses?": "input pose",
    r"parted": "split",
}
TEXTS = [*MODULES, *(SOURCE.parents[1] / "docs").glob("*.md"), SOURCE.parents[1] / "README.md"]


@pytest.mark.parametrize("word", WORDS)
def test_texts_say_the_words_of_the_field(word):
    found = [
        f"{path.relative_to(SOURCE.parents[1])}:{number}"
        for path in TEXTS
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(rf"\b{word}\b", line, flags=re.IGNORECASE)
    ]
    assert not found, f"say {WORDS[word]}: {found}"
