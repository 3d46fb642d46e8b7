"""The house stays in order: imports point down, the front door is light, modules and functions stay small."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np
import pytest

import gonio

SOURCE = Path(__file__).parents[1] / "src" / "gonio"

FLOORS = {
    "pose": 0,
    "wedge": 0,
    "ctf": 0,
    "tilts": 0,
    "volume": 0,
    "particles": 0,
    "symmetry": 0,
    "fourier": 1,
    "shifts": 1,
    "lattice": 1,
    "orientations": 1,
    "lm": 1,
    "kernels": 1,
    "run": 1,
    "expectation": 1,
    "synchronisation": 1,
    "resolution": 2,
    "score": 2,
    "candidates": 2,
    "insertion": 2,
    "reference": 2,
    "restoration": 2,
    "halves": 2,
    "simulate": 2,
    "result": 2,
    "settings": 3,
    "motion": 3,
    "half_frames": 3,
    "problem": 3,
    "evaluation": 3,
    "residency": 3,
    "stages": 3,
    "batches": 3,
    "launches": 3,
    "device": 3,
    "cards": 3,
    "frame": 3,
    "coarse_to_fine": 3,
    "measured": 3,
    "noisy_reference": 2,
    "posterior": 3,
    "refinement_plan": 3,
    "preparation": 3,
    "uncertainty": 3,
    "findings": 3,
    "alignment": 3,
    "averaging": 3,
    "lists": 3,
    "decoys": 3,
    "extraction": 3,
    "inspection": 3,
    "placement": 3,
    "checks": 3,
    "pairwise": 3,
    "refinement": 3,
    "denovo": 3,
    "classification": 3,
    "clustering": 3,
    "report": 4,
    "io": 4,
    "cli": 5,
    "__main__": 6,
    "": 5,  # gonio/__init__.py, the front door: names every floor, and no floor may come in through it
}

# What an alignment is put together from, on its own floor.
SEARCHING = {"problem", "evaluation", "settings", "frame", "coarse_to_fine", "preparation", "stages", "findings"} | {
    "device"
}
# What searches are given to.
ASKED = {"cards", "device", "evaluation"}

# Rooms whose neighbours below are not simply all lower floors.
ROOMS_BELOW = {
    "kernels": set(),
    "lm": {"kernels"},
    "expectation": {room for room, floor in FLOORS.items() if floor == 0} | {"kernels"},
    "lattice": {room for room, floor in FLOORS.items() if floor == 0} | {"kernels"},
    # The kernels know nothing of gonio, so sampling a spectrum may stand on them.
    "fourier": {room for room, floor in FLOORS.items() if floor == 0} | {"kernels", "lattice"},
    "shifts": {room for room, floor in FLOORS.items() if floor == 0} | {"fourier", "kernels", "lattice"},
    "io": {room for room, floor in FLOORS.items() if floor == 0},
    "report": {room for room, floor in FLOORS.items() if floor in (0, 3)} | {"fourier"},
    # How evenly a map was measured is told with the weights that it is divided by.
    "resolution": {room for room, floor in FLOORS.items() if floor < 2} | {"insertion"},
    # A particle by itself is an average of one.
    "reference": {room for room, floor in FLOORS.items() if floor < 2} | {"insertion"},
    # Aligning is searching with the problem that the score poses.
    "evaluation": {room for room, floor in FLOORS.items() if floor < 3} | {"problem"},
    "residency": {room for room, floor in FLOORS.items() if floor < 3},
    # The order of the stages knows nothing of who does them.
    "stages": {room for room, floor in FLOORS.items() if floor < 3}
    | {"coarse_to_fine", "frame", "problem", "uncertainty"},
    "batches": {room for room, floor in FLOORS.items() if floor < 3}
    | {"coarse_to_fine", "frame", "residency", "stages", "uncertainty"},
    "launches": {room for room, floor in FLOORS.items() if floor < 3}
    | {"problem", "evaluation", "batches", "residency", "stages"},
    "device": {room for room, floor in FLOORS.items() if floor < 3} | {"evaluation", "launches"},
    # Who does many searches needs no more of them than what they ask for.
    "cards": {room for room, floor in FLOORS.items() if floor < 3} | {"device"},
    "uncertainty": {room for room, floor in FLOORS.items() if floor < 3} | {"problem", "evaluation"},
    "frame": {room for room, floor in FLOORS.items() if floor < 3} | {"problem", "evaluation", "settings"},
    "coarse_to_fine": {room for room, floor in FLOORS.items() if floor < 3},
    "preparation": {room for room, floor in FLOORS.items() if floor < 3} | {"coarse_to_fine", "measured", "settings"},
    "findings": {room for room, floor in FLOORS.items() if floor < 3}
    | {"problem", "evaluation", "frame", "coarse_to_fine", "stages", "uncertainty"},
    "posterior": {room for room, floor in FLOORS.items() if floor < 3}
    | {"coarse_to_fine", "evaluation", "frame", "problem", "settings"},
    "alignment": {room for room, floor in FLOORS.items() if floor < 3} | SEARCHING | {"posterior"},
    "lists": {room for room, floor in FLOORS.items() if floor < 3} | {"alignment", "settings"} | ASKED,
    "decoys": {room for room, floor in FLOORS.items() if floor < 3} | {"alignment", "lists", "settings"} | ASKED,
    "pairwise": {room for room, floor in FLOORS.items() if floor < 3} | {"alignment", "lists", "settings"} | ASKED,
    "placement": {"halves", "inspection"},
    "inspection": {room for room, floor in FLOORS.items() if floor < 3} | {"alignment", "averaging", "settings"},
    "checks": {room for room, floor in FLOORS.items() if floor < 3} | {"inspection"},
    # Refining and classifying are iterated aligning and averaging; these two do not know of them.
    "clustering": {room for room, floor in FLOORS.items() if floor < 3} | {"pairwise"},
    "motion": {room for room, floor in FLOORS.items() if floor < 3},
    "half_frames": {room for room, floor in FLOORS.items() if floor < 3} | {"alignment", "motion"},
    "denovo": {room for room, floor in FLOORS.items() if floor < 3}
    | {"alignment", "averaging", "evaluation", "lists", "motion", "pairwise", "synchronisation"},
    "refinement": {room for room, floor in FLOORS.items() if floor < 3}
    | {"alignment", "averaging", "half_frames", "lists", "motion", "refinement_plan"},
    "refinement_plan": {room for room, floor in FLOORS.items() if floor < 3} | {"alignment"},
    "classification": {room for room, floor in FLOORS.items() if floor < 3}
    | {"alignment", "averaging", "clustering", "evaluation", "lists", "pairwise"},
}

# Foreign packages by room; where nothing is stated, anything but numba.
FOREIGN = {room: {"numpy", "scipy"} for room, floor in FLOORS.items() if floor <= 1 and room != "run"} | {
    # What notebooks ask for: pictures of volumes, tables of particles.
    "volume": {"matplotlib", "numpy", "scipy"},
    "particles": {"numpy", "pandas", "scipy"},
    "lm": {"numpy"},
    "kernels": {"llvmlite", "numba", "numpy"},
}

MODULES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    """The module or subpackage directly below gonio that a file belongs to; "" for the front door."""
    first = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """Every module imported anywhere in a file, inside functions and type checks too, in full; with its line."""
    package = ("gonio", *path.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            if module == "gonio":
                yield from ((f"gonio.{alias.name}", node.lineno) for alias in node.names)
            else:
                yield module, node.lineno


def may_import(room: str, other: str) -> bool:
    """Whether one room of gonio may import another."""
    if room == other:
        return True
    if room in ROOMS_BELOW:
        return other in ROOMS_BELOW[room]
    if FLOORS[room] == 0:  # here order is only that there are no circles: see below
        return FLOORS[other] == 0
    return FLOORS[other] < FLOORS[room] or (room == "" and other != "")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    room = room_of(path)
    assert room in FLOORS, f"{path.name} has no floor: give gonio.{room} one in FLOORS in tests/test_house.py"
    for module, line in imported(path):
        first, _, rest = module.partition(".")
        if first == "gonio":
            other = rest.partition(".")[0]
            assert other in FLOORS, f"{path}:{line} imports {module}, which has no floor in tests/test_house.py"
            assert may_import(room, other), (
                f"{path}:{line}: {room or 'gonio'} (floor {FLOORS[room]}) may not import {module}"
                f" (floor {FLOORS[other]}); move what it needs down, or pass it in as an argument"
            )
        elif first not in sys.stdlib_module_names:
            allowed = FOREIGN.get(room)
            assert first != "numba" or room == "kernels", f"{path}:{line}: only gonio.kernels may import numba"
            assert allowed is None or first in allowed, f"{path}:{line}: {room} may import {allowed}, not {first}"


def test_there_are_no_circles():
    edges = {str(p.relative_to(SOURCE)): set() for p in MODULES if room_of(p)}
    for path in MODULES:
        if not room_of(path):
            continue
        for module, _ in imported(path):
            stem = SOURCE.parent.joinpath(*module.split("."))
            target = stem.with_suffix(".py") if stem.with_suffix(".py").exists() else stem / "__init__.py"
            if target.exists() and target != path and room_of(target):
                edges[str(path.relative_to(SOURCE))].add(str(target.relative_to(SOURCE)))
    while free := {name for name, below in edges.items() if not below & edges.keys()}:
        edges = {name: below for name, below in edges.items() if name not in free}
    assert not edges, f"these modules import each other in a circle: {sorted(edges)}"


IMPORT_GONIO = """
import sys, time
start = time.perf_counter()
import gonio
print(time.perf_counter() - start)
print(*[name for name in ("matplotlib", "pandas", "dask", "numba.cuda") if name in sys.modules])
"""


def test_the_front_door_is_light():
    runs = [
        subprocess.run([sys.executable, "-c", IMPORT_GONIO], capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    seconds, heavy = zip(*(run.split("\n")[:2] for run in runs), strict=True)
    assert set(heavy) == {""}, f"import gonio loads {heavy[0]}: import it in the function that needs it"
    assert min(map(float, seconds)) < 0.5, f"import gonio takes {min(seconds)} s at best"


def test_every_name_at_the_front_door_opens():
    missing = [name for name in gonio.__all__ if not hasattr(gonio, name)]
    assert not missing, f"gonio.__all__ promises {missing}"
    assert dir(gonio) == sorted(gonio.__all__)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_module_is_long(path):
    assert len(path.read_text().splitlines()) <= 500


def is_stub(node: ast.AST) -> bool:
    """Whether a function only declares a signature, as protocols and overloads do."""
    last = node.body[-1]
    return isinstance(last, ast.Expr) and isinstance(last.value, ast.Constant) and last.value.value is ...


def public_definitions(node: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Functions and classes of a module, and the methods of its classes, whose names are public."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public_definitions(child, f"{child.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_what_is_public_says_what_it_does(path):
    tree = ast.parse(path.read_text())
    named = public_definitions(tree)
    silent = [name for name, node in named if ast.get_docstring(node) is None and not is_stub(node)]
    assert not silent, f"no docstring: {', '.join(silent)}"
    assert ast.get_docstring(tree) or not tree.body, "the module has no head"


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
