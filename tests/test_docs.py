"""What the documents say to type, typed."""

from __future__ import annotations

import re
import shlex
import warnings
from collections.abc import Iterator
from contextlib import chdir
from importlib import import_module
from pathlib import Path
from types import FunctionType

import pytest

import gonio
from gonio.cli.app import run

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a language in a page."""
    pieces = re.split(r"^```", path.read_text(), flags=re.MULTILINE)[1::2]
    return [body for name, _, body in (piece.partition("\n") for piece in pieces) if name == language]


def commands(path: Path) -> list[list[str]]:
    """The gonio commands of a page's plain blocks, comments off, continued lines joined."""
    lines = [line for block in blocks(path, "") for line in block.replace("\\\n", " ").splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.startswith("gonio ")]


def run_gonio(arguments: list[str], folder: Path) -> None:
    """Run the command line in a folder, as a user would, but for a process of its own (``make demo`` has one)."""
    with chdir(folder), warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run(arguments) == 0, arguments


def test_python_of_the_readme_finds_the_pose(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = blocks(ROOT / "README.md", "python")
    scope: dict = {}
    exec(compile(source, "README.md", "exec"), scope)
    # Ten times the median error of such particles (docs/reproduce.md); a wrong optimum is off by tens of degrees.
    assert scope["result"].pose.rotation_distance_deg(scope["truth"]) < 6.0
    assert "degrees off" in capsys.readouterr().out


@pytest.mark.slow
def test_simulated_commands_of_the_readme_run(tmp_path: Path) -> None:
    """One after the other, on fewer particles; those about real ones come from ribosomes.md, and begin with map."""
    typed = [words[1:] for words in commands(ROOT / "README.md")]
    typed[0][typed[0].index("--count") + 1] = "12"
    real = next(i for i, words in enumerate(typed) if words[0] == "map")
    for arguments in [*typed[:real], *(words for words in typed[real:] if words[0] == "convert")]:
        run_gonio(arguments, tmp_path)
    for made in ("average.mrc", "refined/map.mrc", "denovo/map.mrc", "classes/class_1.mrc", "aligned.tbl"):
        assert (tmp_path / made).exists(), made


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed = [words[1:] for words in commands(ROOT / "docs" / "tutorial.md")]
    typed[0][typed[0].index("--count") + 1] = "8"
    for arguments in typed:
        run_gonio(arguments, tmp_path)
    assert (tmp_path / "aligned" / "report.html").exists()
    assert (tmp_path / "average_fsc.csv").exists()
    monkeypatch.chdir(tmp_path)
    (source,) = blocks(ROOT / "docs" / "tutorial.md", "python")
    exec(compile(source, "tutorial.md", "exec"), {})
    assert (tmp_path / "from_python.mrc").exists()
    assert capsys.readouterr().out


def public() -> Iterator[tuple[str, object]]:
    """What `gonio` offers, and what its classes do."""
    for name in gonio.__all__:
        thing = getattr(gonio, name)
        yield name, thing
        if isinstance(thing, type):
            own = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
            kinds = (property, staticmethod, classmethod, FunctionType)
            yield from ((f"{name}.{key}", value) for key, value in own.items() if isinstance(value, kinds))


def test_everything_public_is_documented() -> None:
    silent = [name for name, thing in public() if not (getattr(thing, "__doc__", "") or "").strip()]
    assert not silent


def test_the_python_interface_has_a_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    shown = {line.rpartition(".")[2] for line in page.splitlines() if line.startswith("::: ")}
    assert set(gonio.__all__) - {"__version__"} <= shown


def test_names_of_the_python_interface_come_from_where_the_page_says() -> None:
    front, lost, shown = "", [], 0
    for line in (ROOT / "docs" / "api.md").read_text().splitlines():
        if stated := re.search(r"imported from `([\w.]+)`", line):
            front = stated[1]
        if line.startswith("::: "):
            module, _, name = line.removeprefix("::: ").rpartition(".")
            shown += 1
            if getattr(import_module(front), name, None) is not getattr(import_module(module), name):
                lost.append(f"{front}.{name}")
    assert shown > 60
    assert not lost


def test_versions_agree() -> None:
    assert f"version: {gonio.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {gonio.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_every_page_is_in_the_contents() -> None:
    contents = (ROOT / "mkdocs.yml").read_text()
    lost = [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in contents]
    assert not lost


EQUATION = r"\d+[a-z]?\b(?!\.\d)"  # not 2.4, which is another author's


def numbered() -> list[str]:
    """The numbers of the equations of theory.md: each at the end of its line, apart from what it numbers."""
    return re.findall(rf"  \(({EQUATION})\)$", (ROOT / "docs" / "theory.md").read_text(), flags=re.MULTILINE)


def cited(text: str) -> set[str]:
    """The numbers that a text cites as "eq. 6", "eqs. 7, 17-19", "eqs. 3 to 8"."""
    found: set[str] = set()
    for several in re.findall(rf"\beqs?\.\s+({EQUATION}(?:(?:, | and | to |-){EQUATION})*)", text):
        found.update(re.findall(EQUATION, several))
        for first, last in re.findall(r"(\d+)(?:-| to )(\d+)", several):
            found.update(str(number) for number in range(int(first), int(last)))
    return found


def test_every_equation_that_is_cited_has_its_number_in_theory() -> None:
    """The paper's equations are cited by number as well; there are fewer of them than of the page's."""
    numbers = numbered()
    assert len(numbers) == len(set(numbers)), "two equations have one number"
    folders = ("src", "tests", "docs", "experiments", "benchmarks")
    pages = [page for folder in folders for ending in ("py", "md") for page in (ROOT / folder).rglob(f"*.{ending}")]
    lost = {str(page.relative_to(ROOT)): sorted(cited(page.read_text()) - set(numbers)) for page in pages}
    assert not {page: missing for page, missing in lost.items() if missing}
    assert cited("eqs. 7, 17-19") == {"7", "17", "18", "19"}
    assert cited("eq. 13a and eq. 2.4") == {"13a"}


def test_every_section_of_theory_that_is_cited_exists() -> None:
    sections = re.findall(r"^## (\d+)\.", (ROOT / "docs" / "theory.md").read_text(), flags=re.MULTILINE)
    for page in [*(ROOT / "src").rglob("*.py"), *(ROOT / "docs").glob("*.md")]:
        for number in re.findall(r"theory(?:\.md)?\)?,? section (\d+)", page.read_text()):
            assert number in sections, f"{page.name} cites section {number} of theory.md"


@pytest.mark.slow
@pytest.mark.skipif(not DATA.exists(), reason=f"the real ribosomes are not there: {DATA}")
def test_commands_about_ribosomes_run(tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(DATA)
    for words in commands(ROOT / "docs" / "ribosomes.md"):
        run_gonio(words[1:], tmp_path)
    for folder in ("refined", "found"):
        assert (tmp_path / folder / "particles.star").exists()
